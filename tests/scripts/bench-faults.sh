#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# thinwire-bench must find what is wrong: faults are planted between it and the library, over local ranks and over MPI.
set -u
srcdir=${srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
: "${builddir:?}"
bench=$builddir/thinwire-bench
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
n=0 bad=0

cat >"$tmp/faulty.c" <<'END'
/* Stands between the program and the library (ld --wrap): the real step first, then $BENCH_FAULT is done to its results. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <thinwire/thinwire.h>

#define REAL(name) __typeof__(name) __real_##name, __wrap_##name
REAL(tw_reducer_create);
REAL(tw_reducer_begin);
REAL(tw_reducer_push);
REAL(tw_reducer_post_reduce_scatter);
REAL(tw_reducer_post_allgather);
REAL(tw_broadcast);
REAL(tw_reducer_end);

static struct made {
    tw_reducer *r;
    int rank, size;
    uint64_t count, step;
    float *in, *out; /* of layer 0 */
    int shards;      /* out is this rank's in part: its first part on rank 0, its last one on the last rank */
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

tw_status __wrap_tw_reducer_create(tw_comm *c, const tw_layer *l, uint32_t layers, const char *rules,
                            const tw_reducer_config *cfg, tw_reducer **out) {
    tw_status s = __real_tw_reducer_create(c, l, layers, rules, cfg, out);
    pthread_mutex_lock(&lock);
    if (s >= 0)
        made[n++ % 64] = (struct made){.r = *out, .rank = tw_comm_rank(c), .size = tw_comm_size(c), .count = l[0].count};
    pthread_mutex_unlock(&lock);
    return s;
}
tw_status __wrap_tw_reducer_begin(tw_reducer *r, uint64_t step, const tw_step_args *a) {
    find(r)->step = step;
    return __real_tw_reducer_begin(r, step, a);
}
tw_status __wrap_tw_reducer_push(tw_reducer *r, uint32_t layer, const void *in, void *out) {
    if (layer == 0) {
        find(r)->in = (float *)(uintptr_t)in;
        find(r)->out = out;
    }
    return __real_tw_reducer_push(r, layer, in, out);
}
static void note(tw_reducer *r, const tw_piece *p) {
    find(r)->in = (float *)(uintptr_t)p[0].in;
    find(r)->out = p[0].out;
}
tw_status __wrap_tw_reducer_post_reduce_scatter(tw_reducer *r, const tw_piece *p, uint32_t n, tw_req **out) {
    find(r)->shards = 1;
    note(r, p);
    return __real_tw_reducer_post_reduce_scatter(r, p, n, out);
}
tw_status __wrap_tw_reducer_post_allgather(tw_reducer *r, const tw_piece *p, uint32_t n, tw_req **out) {
    note(r, p);
    return __real_tw_reducer_post_allgather(r, p, n, out);
}
tw_status __wrap_tw_broadcast(tw_comm *c, const tw_spec *s, void *buf, uint64_t count, tw_dtype t, int root) {
    static _Thread_local unsigned calls; /* a rank is a thread or a process; two layers an iteration, the first one last */
    tw_status st = __real_tw_broadcast(c, s, buf, count, t, root);
    int last = tw_comm_rank(c) == tw_comm_size(c) - 1;
    float *out = buf;
    if (calls++ != 2 * 3 + 1)
        return st;
    if ((is("differ") && last) || is("wrong"))
        out[5] = nextafterf(out[5], 9);
    if (is("nan"))
        out[count - 1] = NAN;
    if (is("behind") && last)
        out[count] = 1;
    if (is("before") && last)
        out[-1] = 1;
    return is("fails") ? TW_ERR_TIMEOUT : st;
}
tw_status __wrap_tw_reducer_end(tw_reducer *r, tw_report *rep) {
    tw_status s = __real_tw_reducer_end(r, rep);
    struct made *m = find(r);
    int last = m->rank == m->size - 1;
    if (m->step == 3 && is("foreign") && last)
        m->out[0] = 1;
    if (m->step == 3 && is("differ") && last)
        m->out[m->count / 2] = nextafterf(m->out[m->count / 2], 9);
    if (m->step == 3 && is("wrong") && (!m->shards || m->rank == 0))
        m->out[5] += 1e6f;
    if (m->step == 3 && is("nan") && (!m->shards || last))
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
makes() { sed -n "s/^$1 = //p" "$builddir/Makefile"; } # of the Makefile
mpi_archive=$builddir/.libs/libtwmpi.a
[ -f "$mpi_archive" ] || mpi_archive=
# shellcheck disable=SC2046,SC2086 # lists
if ! ${CC:-cc} -Wall -Wextra -Werror -I"$srcdir/include" "$tmp/faulty.c" "$builddir"/tools/thinwire_bench-*.o \
    $(sed -n 's/^REAL(\(.*\));$/-Wl,--wrap=\1/p' "$tmp/faulty.c") -o "$tmp/one" $mpi_archive "$builddir/.libs/libtwcore.a" \
    $(makes MPI_LIBS) $(makes HWLOC_LIBS) $(makes LIBS) -lpthread; then
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

args=(-b 96K -e 96K -n 4 -w 1 --codec cast --layers 2)
mpi=(--oversubscribe --bind-to none --mca btl "self,vader")
[ "$(id -u)" != 0 ] || mpi=(--allow-run-as-root "${mpi[@]}")
# Each layer has three tiles, so each rank a shard of one. Which collectives have the fault to find, and what they say.
faults='allreduce reduce_scatter allgather broadcast:none:-
allreduce allgather broadcast:differ:ranks differ: outputs of iteration
reduce_scatter:foreign:a shard that is not this rank
allreduce reduce_scatter allgather:wrong:below the true error
allreduce reduce_scatter allgather:nan:not finite
broadcast:wrong:not what encoding and decoding make
broadcast:nan:not what encoding and decoding make
allreduce reduce_scatter allgather broadcast:behind:canary touched: memory behind the output
allreduce reduce_scatter allgather broadcast:before:canary touched: memory before the output
allreduce reduce_scatter allgather:input:input
allreduce reduce_scatter allgather:low:below the true error
allreduce reduce_scatter allgather:bounds:ranks differ: certificates
allreduce reduce_scatter allgather:fails:end
broadcast:fails:broadcast'
each_fault() { # each_fault WHERE COLLECTIVE COMMAND...
    local where=$1 collective=$2 which fault text status
    shift 2
    while IFS=: read -r which fault text; do
        case " $which " in *" $collective "*) ;; *) continue ;; esac
        status=1
        [ "$fault" != none ] || status=0
        gives $status "$text" "$where, $collective: $fault" env BENCH_FAULT="$fault" "$@"
    done <<<"$faults"
}

for collective in allreduce reduce_scatter allgather broadcast; do
    each_fault local $collective "$tmp/one" $collective "${args[@]}" --transport local --ranks 3
    [ -n "${MPIRUN:-}" ] || continue
    world=("$MPIRUN" "${mpi[@]}" -n 3)
    each_fault mpi $collective "${world[@]}" "$tmp/one" $collective "${args[@]}"
    gives 1 "limit" "mpi, $collective: faster than the wire allows" "${world[@]}" "$bench" $collective "${args[@]}" --rate 1mbit --burst 0
    gives 0 - "mpi, $collective: slower than the wire allows" "${world[@]}" "$bench" $collective "${args[@]}" --rate 400gbit
    gives 0 - "mpi, $collective: in place" "${world[@]}" "$bench" $collective "${args[@]}" --in-place
done
more() { # more COLLECTIVE OPTION...: over sim, and good
    gives 0 - "sim, $*" "$bench" "$1" "${args[@]}" --transport sim --ranks 5 --rate 1gbit "${@:2}"
}
more reduce_scatter --in-place
more reduce_scatter -o sum -d bf16 --codec quant:bits=4+ef
more reduce_scatter -b 20000 -e 20000 --layers 40 --codec onebit+ef
more allgather --in-place
more allgather -d bf16 --codec quant:bits=4+ef
more allgather -b 20000 -e 20000 --layers 40 --codec onebit+ef
gives 0 - "broadcast of halves" "$bench" broadcast "${args[@]}" -d fp16 --codec quant:bits=4 --codec onebit --transport local
gives 2 "results are momenta, not sums" "allreduce of momenta" "$bench" allreduce --codec topk+dgc
gives 2 "measure one of these" "codec with a feedback that has no loops" "$bench" codec --codec onebit+decay
gives 2 "keeps no residual" "broadcast with feedback" "$bench" broadcast --codec onebit+ef
gives 2 "computes nothing" "an allgather of sums" "$bench" allgather -o sum
gives 2 "for allreduce" "a broadcast by an algorithm" "$bench" broadcast --algo sra
gives 2 "a reducer" "a broadcast with frames" "$bench" broadcast --frame 4K
gives 2 "in one thread" "a broadcast over sim" "$bench" broadcast --transport sim
gives 2 onebit "a wrong codec: the nearest one is named" "$bench" allreduce --codec wonbit
gives 2 - "a wrong option" "$bench" allreduce --codecs none
gives 2 - "a wrong type" "$bench" allreduce -d fp64
gives 2 - "a wrong size" "$bench" allreduce -b 2x
gives 2 - "a wrong transport" "$bench" allreduce --transport lokal
gives 2 - "no iterations" "$bench" allreduce -n 0
gives 2 - "a stray word" "$bench" allreduce stray
gives 2 - "a wrong mode" "$bench" allreduse
gives 1 - "a JSON file that cannot be written" "$bench" allreduce "${args[@]}" --transport local --json "$tmp/none/x"
gives 0 - "JSON to standard output" "$bench" allreduce "${args[@]}" --transport local --json -
exit $((bad > 0))
