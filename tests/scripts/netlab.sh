#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# thinwire-netlab: what it promises about set-up, exit status, counting and, above all, cleaning up.
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
netlab=${NETLAB:-${builddir:-$srcdir}/tools/thinwire-netlab}
[ -x "$netlab" ] || netlab=$srcdir/tools/thinwire-netlab.in
tmp=$(mktemp -d)
a=t$$a b=t$$b
# shellcheck source=tests/scripts/tap.sh
. "$srcdir/tests/scripts/tap.sh"
mark=$((900000 + $$)) # a sleep of this many seconds is one of ours

clean() {
    "$netlab" down --name $a
    "$netlab" down --name $b
    rm -rf "$tmp"
} >/dev/null 2>&1
trap clean EXIT
trap 'exit 130' INT TERM

lab() { timeout -k 5 60 "$netlab" "$@" >"$tmp/log" 2>&1; }

gives() { # gives STATUS NAME ARGUMENT...: thinwire-netlab ends with this status
    local want=$1 name=$2 status
    shift 2
    lab "$@"
    status=$?
    [ $status = "$want" ] || echo "status $status, not $want" >>"$tmp/log"
    [ $status = "$want" ]
    result $? "$name"
}

value() { tr -d ' ,"' <"$1" | sed -n "s/^$2://p"; }
sleepers() { pgrep -f "^sleep $mark" 2>/dev/null | wc -l; }
machine() {
    ip -o link | sed 's/qlen.*//'
    ip -o -4 addr | sed 's/valid.*//'
    ip route
    ip netns list
}

soon() { # soon COMMAND...: true within 10 seconds
    local i
    for ((i = 0; i < 100; i++)); do
        "$@" && return 0
        sleep 0.1
    done
    return 1
}
all_started() { [ "$(sleepers)" -ge 2 ]; }
none_asleep() { [ "$(sleepers)" = 0 ]; }
gone() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status"; }
none_left() { none_asleep && [ -z "$(find /tmp/thinwire-netlab-"$(id -u)" -mindepth 1 -maxdepth 1 -name "$a*" 2>/dev/null)" ]; }

begin_sleep() { # a run of two sleeping ranks in the background, as $job
    setsid "$netlab" run --name $a --hosts 2 --rate none "${mpi[@]}" -- sleep $mark >"$tmp/log" 2>&1 &
    job=$!
    soon all_started || echo "the ranks did not start" >>"$tmp/log"
}

ends() { # ends STATUS NAME: the job ended with this status and left nothing
    local status
    wait $job
    status=$?
    soon none_left
    result $((status != $1 || $(sleepers) > 0)) "$2"
}

# ---- can it run here? ----
before=$(machine 2>/dev/null)
lab up --name $a --hosts 3 --rate 1gbit
status=$?
if [ $status = 77 ] || [ $status = 69 ]; then
    echo "1..0 # SKIP $(cat "$tmp/log")"
    exit 77
fi
result $status "up"
mpi=()
for kind in openmpi mpich; do
    command -v mpirun.$kind >/dev/null && mpi=(--mpi "$kind") && break
done
have_mpi=0
[ ${#mpi[@]} -gt 0 ] || command -v mpirun >/dev/null && have_mpi=1

gives 0 "help" --help
gives 0 "version" --version
gives 2 "an unknown verb" sideways
gives 2 "an unknown option" run --hots 4 -- true
grep -q "did you mean '--hosts'?" "$tmp/log"
result $? "the option that was meant"
gives 2 "a rate that is none" up --name $b --rate fast
for rate in 500kbit 0mbit 401gbit; do
    gives 2 "a rate of $rate" up --name $b --rate $rate
    grep -q 'a rate is from 1mbit to 400gbit' "$tmp/log"
    result $? "a rate of $rate: told the range"
done
gives 1 "up twice" up --name $a
gives 1 "another rate than that of the lab" limit --name $a --rate 10gbit
gives 0 "a second lab beside the first" up --name $b --hosts 2 --rate 100mbit
[ "$before" = "$(machine)" ]
result $? "the machine's own network is untouched"
gives 0 "limit" limit --name $b --json "$tmp/limit"
goodput=$(value "$tmp/limit" goodput)
[ "${goodput:-0}" -gt 9000000 ] && [ "$goodput" -lt 12500000 ]
result $? "goodput of the second lab: $goodput bytes/s of 12500000"
gives 0 "down" down --name $b
gives 0 "down twice" down --name $b

if [ $have_mpi = 1 ]; then
    # ---- in the lab that is up ----
    # shellcheck disable=SC2016 # for the ranks
    lab run --name $a "${mpi[@]}" -- sh -c 'echo "$(hostname) $HOME $THINWIRE_NETLAB_HOSTS $THINWIRE_NETLAB_RATE $THINWIRE_NETLAB_BURST"'
    [ "$(grep -c "^$a-h[0-2] $HOME 3 1000000000 62500$" "$tmp/log")" = 3 ] && [ "$(grep "^$a-h" "$tmp/log" | sort -u | wc -l)" = 3 ]
    result $? "run: each rank has its host, HOME and the facts of the lab"
    want=$(PATH="$tmp:$PATH:/none" python3 -c 'import os; print("PATH is " + os.environ["PATH"])') # a python3 that is a wrapper may add to it
    for kind in openmpi mpich; do
        command -v mpirun.$kind >/dev/null || continue
        # shellcheck disable=SC2016 # for the ranks
        PATH="$tmp:$PATH:/none" lab run --name $a --mpi $kind -- sh -c 'echo "PATH is $PATH"'
        [ "$(grep -cxF "$want" "$tmp/log")" = 3 ]
        result $? "run: $kind: ranks have the caller's PATH"
    done
    gives 76 "run: traffic that is not there is noticed" run --name $a "${mpi[@]}" --expect-bytes 5000000 -- true
    setsid "$netlab" run --name $a "${mpi[@]}" -- sleep $mark >"$tmp/log" 2>&1 &
    job=$!
    soon all_started
    lab down --name $a
    ends 143 "down ends what runs in the lab"

    # ---- a lab that lasts as long as the command ----
    gives 7 "run: the command's exit status" run --name $a --hosts 1 --rate none "${mpi[@]}" -- sh -c 'exit 7'
    gives 124 "run: --timeout ends it" run --name $a --hosts 3 --rate none "${mpi[@]}" --timeout 3 -- \
        sh -c "test \"\${OMPI_COMM_WORLD_RANK-\$PMI_RANK}\" = 1 || exec sleep $mark"
    grep -q 'not done after 3 s: the command still ran on ranks 0, 2 of 3$' "$tmp/log" && none_left
    result $? "run: --timeout names the ranks that still ran, and leaves nothing"
    gives 0 "run: done before --timeout" run --name $a --hosts 2 --rate none "${mpi[@]}" --timeout 50 -- true
    gives 2 "a timeout that is none" run --timeout 0 -- true
    begin_sleep
    kill -INT -- -$job # the whole group, as a terminal does
    ends 130 "Ctrl-C leaves nothing"
    begin_sleep
    kill -TERM $job
    ends 143 "SIGTERM leaves nothing"
    begin_sleep
    kill -KILL $job
    wait $job 2>/dev/null
    soon none_asleep
    result $? "kill -9 leaves no process"
    lab down --name $a
    none_left
    result $? "kill -9, then down, leaves nothing"
else
    skip "run" "no mpirun"
fi

lab up --name $a --hosts 2
pid=$(value "/tmp/thinwire-netlab-$(id -u)/$a/lab.json" pid)
kill -KILL "$pid"
soon gone "$pid"
lab down --name $a && none_left
result $? "a lab killed with -9, then down, leaves nothing"

# ---- a real allreduce crosses the wire, under each MPI that is here ----
for kind in mpich openmpi; do # the ring that stays is Open MPI's where there is one
    name="$kind: counters match what an allreduce must send"
    if ! command -v mpicc.$kind >/dev/null || ! command -v mpirun.$kind >/dev/null; then
        skip "$name" "no mpicc.$kind"
        continue
    fi
    cat >"$tmp/ring.c" <<'C'
#include <mpi.h>
static float in[2000000], out[2000000];
int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Allreduce(in, out, 2000000, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    return MPI_Finalize();
}
C
    rm -f "$tmp/count"
    mpicc.$kind -o "$tmp/ring" "$tmp/ring.c" >"$tmp/log" 2>&1
    for _ in 1 2 3; do
        lab run --name $a --hosts 2 --rate 1gbit --mpi $kind --timeout 15 --expect-bytes 8000000 --counters "$tmp/count" -- "$tmp/ring"
        status=$?
        [ "$status $kind" = "124 mpich" ] || break # MPICH's known hang in MPI_Finalize
    done
    if [ "$status $kind" = "124 mpich" ]; then
        skip "$name" "MPICH hung three times in MPI_Finalize, a known fault of it"
    else
        result $status "$name ($(value "$tmp/count" max_tx_payload 2>/dev/null) of 8000000)"
    fi
done

# ---- the same, with the bytes from a file that the command writes ----
told() { # told STATUS NAME JSON: the ring, whose account of itself is JSON, ends with this status
    # shellcheck disable=SC2016 # for the ranks
    gives "$1" "run: $2" run --name $a --hosts 2 --rate 1gbit --mpi "$kind" --expect-bytes-from "$tmp/told" -- \
        sh -c '"$0" && printf "%s\n" "$1" >"$2"' "$tmp/ring" "$3" "$tmp/told"
}
if [ -x "$tmp/ring" ]; then
    for kind in mpich openmpi; do # that of the last ring
        command -v mpicc.$kind >/dev/null && command -v mpirun.$kind >/dev/null && last=$kind
    done
    kind=$last
    told 0 "bytes by the command's own account" '{"wire_bytes": 8000000}'
    told 0 "bytes by rows" '{"wire_bytes": 1e6, "iterations": 4, "warmup": 2}
{"wire_bytes": 1e6, "iterations": 1, "warmup": 1, "mpi_ms": null}'
    told 76 "a fifth more than was sent" '{"wire_bytes": 9600000}'
    told 76 "half of what was sent" '{"wire_bytes": 4000000}'
    told 76 "rows beside plain MPI" '{"wire_bytes": 8000000, "iterations": 1, "warmup": 0, "mpi_ms": 80.5}'
    told 76 "no figure" '{"time": 8000000}'
    told 76 "nothing" ''
    touch -d '1 hour ago' "$tmp/told"
    gives 76 "run: an old file" run --name $a --hosts 2 --rate 1gbit --mpi "$kind" --expect-bytes-from "$tmp/told" -- "$tmp/ring"
else
    skip "bytes by the command's own account" "no mpicc"
fi

# ---- an ordinary user ----
name="an ordinary user"
mkdir "$tmp/bin" && cp "$netlab" "$tmp/bin/thinwire-netlab" && cp -RL "$(dirname "$netlab")/netlab" "$tmp/bin" &&
    chmod -R a+rX "$tmp" && chmod 755 "$tmp" "$tmp/bin/thinwire-netlab"
if [ "$(id -u)" != 0 ] || ! command -v setpriv >/dev/null || ! command -v ip >/dev/null; then
    skip "$name" "not root, so all of the above was that"
else
    plain() { timeout -k 5 60 setpriv --reuid 65534 --regid 65534 --clear-groups env HOME=/tmp "$tmp/bin/thinwire-netlab" "$@" >"$tmp/log" 2>&1; }
    cd /
    plain limit --name $b --hosts 2 --rate 100mbit
    status=$?
    if [ $status = 77 ]; then
        skip "$name" "$(cat "$tmp/log")"
    else
        result $status "$name: limit"
        plain up --name $b --hosts 2 && plain down --name $b
        result $? "$name: up and down"
        if [ $have_mpi = 1 ]; then
            plain run --name $b --hosts 2 --rate 1gbit "${mpi[@]}" -- hostname &&
                [ "$(grep -c "^$b-h[01]$" "$tmp/log")" = 2 ]
            result $? "$name: run"
        fi
    fi
fi
name="user 0 of a user namespace, where the folder is that of the real one"
others() { timeout -k 5 60 setpriv --reuid 65534 --regid 65534 --clear-groups unshare -Ur "$@" >"$tmp/log" 2>&1; }
if [ "$(id -u)" = 0 ] && [ -d /tmp/thinwire-netlab-0 ] && others true; then
    others "$tmp/bin/thinwire-netlab" limit --name $b --hosts 2
    status=$?
    result $((status != 77)) "$name: $status"
else
    skip "$name" "not root, or no such namespaces here"
fi
[ "$before" = "$(machine)" ]
result $? "in the end the machine's own network is as before"
echo "1..$n"
echo "# $bad failed"
[ $bad = 0 ]
