/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The limit that memory sets, taken in the same run: what no codec with these reads and writes can beat on this
 * machine. All ranks at once pass over arrays of the message's size with the skeletons of thinwire-bench codec. */
#include "bench_allreduce.h"
#include "bench_codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 4096, PASSES = 5 };
#define MOST_BYTES (UINT64_C(256) << 20) /* five arrays of the size are made for it */

typedef struct passes {
    ba_world *w;
    skeleton encode, write;
} passes;

/* Seconds from the first rank's start to the last one's end: where ranks share cores, some start late. */
static double pass(const passes *p, unsigned variant, bool encode) {
    ba_world *w = p->w;
    w->ops->barrier(w);
    double t = w->ops->now(w);
    if (encode)
        skeleton_run(&p->encode, variant);
    skeleton_run(&p->write, variant);
    w->ops->barrier(w);
    t = w->ops->now(w) - t;
    w->ops->fold(w, BA_MAX, &t, 1);
    return t;
}

/* Every rank sees the same times, so all choose the same variant. */
static unsigned best_variant(const passes *p) {
    unsigned best = 0, variants = skeleton_variants(tw_isa_chosen(NULL));
    double least = INFINITY;
    for (unsigned v = 0; v < variants; v++) {
        double t = pass(p, v, true);
        if (t < least) {
            least = t;
            best = v;
        }
    }
    return best;
}

static ba_memory median_pass(const passes *p) {
    double all[PASSES], write[PASSES];
    unsigned variant = best_variant(p);
    for (unsigned i = 0; i < PASSES; i++) {
        all[i] = pass(p, variant, true);
        write[i] = pass(p, variant, false);
    }
    return (ba_memory){bc_median(all, PASSES), bc_median(write, PASSES)};
}

ba_memory ba_memory_limit(ba_world *w, const char *codec, uint64_t bytes) {
    tw_spec s;
    size_t n = (size_t)(bytes / sizeof(float)) / TILE * TILE;
    if (w->sim || w->cfg->dtype != TW_F32 || n == 0 || bytes > MOST_BYTES || tw_spec_parse(codec, &s) < 0)
        return (ba_memory){(double)NAN, (double)NAN};
    double bits = (double)tw_spec_bound(&s, TILE, TW_F32) * 8 / TILE, missing = 0;
    ba_memory t = {(double)NAN, (double)NAN};
    size_t part = n / (size_t)w->ranks / TILE * TILE; /* a rank's own */
    ba_kind kind = w->cfg->kind;
    float *m = aligned_alloc(64, 5 * n * sizeof *m);
    missing = m == NULL;
    w->ops->fold(w, BA_MAX, &missing, 1);
    if (missing == 0) {
        memset(m, 0xbc,
               5 * n * sizeof *m); /* no denormals; negative, or the writes would be zeros, which cost a third */
        passes p = {.w = w, .encode = {.kind = SKELETON_ENCODE, .feedback = s.feedback != TW_FEEDBACK_NONE, .n = n}};
        p.encode.payload_bits = bits < 2 ? 1 : bits < 17 ? 16 : 32;
        p.encode.g = m, p.encode.e = m + n, p.encode.out = m + 2 * n;
        p.encode.payload = (uint8_t *)(m + 3 * n);
        p.write = p.encode;
        p.write.kind = SKELETON_WRITE;
        p.write.n = kind == BA_REDUCE_SCATTER ? part : n;
        p.encode.n = kind == BA_ALLGATHER ? part : kind == BA_BROADCAST && w->rank ? 0 : n;
        p.write.y = m + 4 * n;
        t = median_pass(&p);
    }
    free(m);
    return t;
}
