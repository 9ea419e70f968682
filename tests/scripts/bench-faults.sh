#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# thinwire-bench must find what is wrong: faults are planted between it and the library, over local ranks and over MPI.
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
: "${builddir:?}"
bench=$builddir/.libs/thinwire-bench
export LD_LIBRARY_PATH=$builddir/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
n=0 bad=0

cat >"$tmp/faulty.c" <<'END'
/* Stands before the library (LD_PRELOAD): the real step first, then $BENCH_FAULT is done to its results. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <thinwire/thinwire.h>

static struct made {
    tw_reducer *r;
    int rank, size;
    uint64_t count, step;
    float *in, *out; /* of layer 0 */
} made[64];
static unsigned n;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct made *find(tw_reducer *r) {
    pthread_mutex_lock(&lock);
    unsigned i = n;
    while (made[--i].r != r) /* the last one: addresses come again */
        ;
    pthread_mutex_unlock(&lock);
    return &made[i];
}
static int is(const char *fault) {
    const char *f = getenv("BENCH_FAULT");
    return f && !strcmp(f, fault);
}

tw_status tw_reducer_create(tw_comm *c, const tw_layer *l, uint32_t layers, const char *rules,
                            const tw_reducer_config *cfg, tw_reducer **out) {
    tw_status (*real)(tw_comm *, const tw_layer *, uint32_t, const char *, const tw_reducer_config *, tw_reducer **) =
        dlsym(RTLD_NEXT, "tw_reducer_create");
    tw_status s = real(c, l, layers, rules, cfg, out);
    pthread_mutex_lock(&lock);
    if (s >= 0)
        made[n++ % 64] = (struct made){.r = *out, .rank = tw_comm_rank(c), .size = tw_comm_size(c), .count = l[0].count};
    pthread_mutex_unlock(&lock);
    return s;
}
tw_status tw_reducer_begin(tw_reducer *r, uint64_t step, const tw_step_args *a) {
    tw_status (*real)(tw_reducer *, uint64_t, const tw_step_args *) = dlsym(RTLD_NEXT, "tw_reducer_begin");
    find(r)->step = step;
    return real(r, step, a);
}
tw_status tw_reducer_push(tw_reducer *r, uint32_t layer, const void *in, void *out) {
    tw_status (*real)(tw_reducer *, uint32_t, const void *, void *) = dlsym(RTLD_NEXT, "tw_reducer_push");
    if (layer == 0) {
        find(r)->in = (float *)(uintptr_t)in;
        find(r)->out = out;
    }
    return real(r, layer, in, out);
}
tw_status tw_reducer_end(tw_reducer *r, tw_report *rep) {
    tw_status (*real)(tw_reducer *, tw_report *) = dlsym(RTLD_NEXT, "tw_reducer_end");
    tw_status s = real(r, rep);
    struct made *m = find(r);
    int last = m->rank == m->size - 1;
    if (m->step == 3 && is("differ") && last)
        m->out[m->count / 2] = nextafterf(m->out[m->count / 2], 9);
    if (m->step == 3 && is("wrong"))
        m->out[5] += 1e6f;
    if (m->step == 3 && is("nan"))
        m->out[m->count - 1] = NAN;
    if (m->step == 2 && is("behind") && last)
        m->out[m->count] = 1;
    if (m->step == 2 && is("before") && m->rank == 0)
        m->out[-1] = 1;
    if (m->step == 2 && is("input") && m->rank == 0)
        m->in[0] = 0;
    if (is("low"))
        rep->error_bound *= 1e-9;
    if (is("bounds"))
        rep->error_bound += m->rank;
    return m->step == 2 && is("fails") ? TW_ERR_TIMEOUT : s;
}
END
if ! ${CC:-cc} -shared -fPIC -Wall -Wextra -Werror -I"$srcdir/include" "$tmp/faulty.c" -o "$tmp/faulty.so" -ldl -lpthread; then
    echo "not ok 1 - the faults could not be built"
    exit 1
fi

# gives STATUS TEXT NAME COMMAND...: ends with this status, and says TEXT (a pattern; - : anything)
gives() {
    local want=$1 text=$2 name=$3 status
    shift 3
    n=$((n + 1))
    timeout -k 5 120 "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    status=$?
    if [ $status = "$want" ] && { [ "$text" = - ] || grep -q "$text" "$tmp/err"; }; then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name: exit status $status, wanted $want and \"$text\""
        tail -n 8 "$tmp/err" | sed 's/^/# /'
        bad=$((bad + 1))
    fi
}

args=(allreduce -b 64K -e 64K -n 4 -w 1 --codec cast --layers 2)
mpi=(--oversubscribe --bind-to none --mca btl "self,vader")
[ "$(id -u)" != 0 ] || mpi=(--allow-run-as-root "${mpi[@]}")
each_fault() { # each_fault WHERE COMMAND...
    local where=$1 fault text status
    shift
    while IFS=: read -r fault text; do
        status=1
        [ "$fault" != none ] || status=0
        gives $status "$text" "$where: $fault" env BENCH_FAULT="$fault" "$@"
    done <<'END'
none:-
differ:ranks differ: outputs of iteration
wrong:below the true error
nan:not finite
behind:canary touched: memory behind the output
before:canary touched: memory before the output
input:input
low:below the true error
bounds:ranks differ: certificates
fails:end
END
}

cat >"$tmp/one" <<END
#!/bin/sh
LD_PRELOAD=$tmp/faulty.so exec "$bench" "\$@"
END
chmod +x "$tmp/one"
each_fault local "$tmp/one" "${args[@]}" --transport local --ranks 3
if [ -n "${MPIRUN:-}" ]; then
    each_fault mpi "$MPIRUN" "${mpi[@]}" -n 3 "$tmp/one" "${args[@]}"
    gives 1 "limit" "mpi: faster than the wire allows" "$MPIRUN" "${mpi[@]}" -n 3 "$bench" "${args[@]}" --rate 1mbit --burst 0
    gives 0 - "mpi: slower than the wire allows" "$MPIRUN" "${mpi[@]}" -n 3 "$bench" "${args[@]}" --rate 400gbit
fi
gives 2 onebit "a wrong codec: the nearest one is named" "$bench" allreduce --codec wonbit
gives 2 - "a wrong option" "$bench" allreduce --codecs none
gives 2 - "a wrong type" "$bench" allreduce -d fp64
gives 2 - "a wrong size" "$bench" allreduce -b 2x
gives 2 - "a wrong transport" "$bench" allreduce --transport lokal
gives 2 - "no iterations" "$bench" allreduce -n 0
gives 2 - "a stray word" "$bench" allreduce stray
gives 2 - "a wrong mode" "$bench" allreduse
gives 1 - "a JSON file that cannot be written" "$bench" "${args[@]}" --transport local --json "$tmp/none/x"
gives 0 - "JSON to standard output" "$bench" "${args[@]}" --transport local --json -
exit $((bad > 0))
