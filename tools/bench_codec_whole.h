/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Codecs that look at a whole layer and not at tiles (topk, powersgd): as arrays, without feedback (tw_encode, tw_decode), or
 * with it as the stages that a collective runs (bench_codec_ranks.c). The library exports neither stages nor a choice of
 * ISA for arrays, so thinwire-bench is linked with its objects. */
#ifndef BENCH_CODEC_WHOLE_H
#define BENCH_CODEC_WHOLE_H

#include "bench_codec.h"
#include "bench_codec_data.h"
#include "exec/stages.h"

/* OWNER, of sparse layers with feedback: sums what arrived and its own part, selects, answers. */
enum { WHOLE_ENCODE, WHOLE_OWNER, WHOLE_DECODE, WHOLE_STAGES };

typedef struct whole_result {
    double gbs[WHOLE_STAGES], of_bound[WHOLE_STAGES]; /* 0: no such stage */
    unsigned bound[WHOLE_STAGES];                     /* variants of the skeleton */
    double bits, nmse;
} whole_result;

typedef struct whole_args {
    const char *isa; /* NULL: the chosen one */
    uint64_t passes, warmup, seed;
    codec_arrays *m;
} whole_args;

bool whole_is(const tw_spec *s);
/* powersgd without columns: a matrix as nearly square as the number of values allows. False: it has no factors. */
bool whole_shape(tw_spec *s, uint64_t values);
/* False: a check failed, or there was no memory; why (a sentence) if the library has none. */
bool whole_run(const whole_args *a, const tw_spec *s, whole_result *out, const char **why);

/* ---- between the two files ---- */
typedef struct ranks ranks;
/* One layer and two ranks, the second of which owns all of it. */
ranks *ranks_make(const whole_args *a, const tw_spec *s);
void ranks_free(ranks *r);
/* One step: adds the seconds of each stage. */
void ranks_step(ranks *r, double t[WHOLE_STAGES]);
const float *ranks_residual(const ranks *r, int rank, bool next); /* what the next step reads, or writes */
uint64_t ranks_bytes(const ranks *r);                             /* that the first rank made of its layer */
/* Seconds of this thread: on a busy machine the rest is somebody else's. */
double whole_now(void);

#endif
