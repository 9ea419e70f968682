/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_codec_whole.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "bench_common.h"
#include "compressors/lowrank.h"
#include "exec/array.h"

#define MOST_PASSES 1000

typedef struct whole {
    const whole_args *a;
    const tw_spec *s;
    const tw_kernels *k;
    ranks *r; /* NULL: an array */
    uint8_t *payload, *spare;
    uint64_t room, len;
    bool matrix;
    const char *why;
} whole;

bool whole_is(const tw_spec *s) {
    return tw_codec_is_sparse(s) || tw_codec_is_lowrank(s);
}

bool whole_shape(tw_spec *s, uint64_t values) {
    if (!tw_codec_is_lowrank(s))
        return true;
    for (uint64_t c = 1, given = s->columns; !given && c * c <= values && c <= UINT32_MAX; c++)
        if (values % c == 0)
            s->columns = (uint32_t)c;
    return tw_lowrank_values(s->rank, values, s->columns) > 0;
}

static bool fail(whole *w, const char *why) {
    w->why = why;
    return false;
}

/* ---- arrays: tw_encode and tw_decode with the kernels that were asked for ---- */
static tw_array array_of(const whole *w, const tw_kernels *k, uint64_t n) {
    return (tw_array){.spec = w->s, .args = TW_ARRAY_ARGS_INIT, .in = w->a->m->g, .count = n, .t = TW_F32, .k = k};
}

static bool encode(whole *w, const tw_kernels *k, uint64_t n, uint8_t *dst, uint64_t *len, tw_array_stat *stat) {
    tw_array a = array_of(w, k, n);
    tw_status st = TW_OK;
    tw_fpenv env = tw_fp_enter();
    *stat = (tw_array_stat)TW_ARRAY_STAT_INIT;
    if (w->matrix)
        tw_matrix_encode(&a, dst, len, stat);
    else
        st = tw_sparse_encode(&a, dst, w->room, len, stat);
    tw_fp_leave(env);
    return st >= 0;
}

static bool decode(whole *w) {
    tw_array a = array_of(w, w->k, w->a->m->n);
    tw_fpenv env = tw_fp_enter();
    tw_status st = (w->matrix ? tw_matrix_decode : tw_sparse_decode)(&a, w->payload, w->len, w->a->m->y);
    tw_fp_leave(env);
    return st >= 0;
}

/* ---- checks ---- */
static double square(double v) {
    return v * v;
}

/* Decoded values in double against what the encoder says of its own error; and the bytes of the reference. */
static bool check_array(whole *w, whole_result *out) {
    codec_arrays *m = w->a->m;
    uint64_t some = m->n < 1u << 20 ? m->n : 1u << 20, len[2];
    tw_array_stat stat, other;
    double sq = 0, lost = 0;
    if (!encode(w, w->k, m->n, w->payload, &w->len, &stat) || !decode(w))
        return false;
    for (uint64_t i = 0; i < m->n; i++) {
        sq += square((double)m->g[i]);
        lost += square((double)m->g[i] - (double)m->y[i]);
    }
    out->nmse = lost / sq;
    out->bits = 8 * (double)w->len / (double)m->n;
    if (!(fabs(stat.e_sq - lost) <= lost * 1e-4 + sq * 1e-10 && fabs(stat.x_sq - sq) <= sq * 1e-4))
        return fail(w, "the encoder's own error is not that of the decoded values");
    if (w->matrix) /* whole rows, as many as make factors worth while */
        some = tw_lowrank_values(w->s->rank, some / w->s->columns * w->s->columns, w->s->columns)
                   ? some / w->s->columns * w->s->columns
                   : m->n;
    memset(w->spare, 0, w->room);
    memset(w->payload, 0, w->room);
    if (!encode(w, &tw_kernels_ref, some, w->spare, &len[0], &stat) ||
        !encode(w, w->k, some, w->payload, &len[1], &other))
        return false;
    return (len[0] == len[1] && !memcmp(w->spare, w->payload, len[0])) ||
           fail(w, "its payload differs from the reference's");
}

/* From residuals of zero one step loses nothing: what came out and what is held add up to the gradient, which both ranks
 * have. A matrix is decoded by the rank that made its residual, value by value. */
static bool check_ranks(whole *w, whole_result *out) {
    const codec_arrays *m = w->a->m;
    double t[WHOLE_STAGES] = {0}, sq = 0, lost = 0, off = 0;
    ranks_step(w->r, t);
    const float *held = ranks_residual(w->r, 0, false), *own = w->matrix ? NULL : ranks_residual(w->r, 1, false);
    for (uint64_t i = 0; i < m->n; i++) {
        double kept = w->matrix ? (double)held[i] : (double)held[i] / 2 + (double)own[i];
        sq += square((double)m->g[i]);
        lost += square((double)held[i]);
        off += square((double)m->g[i] - (double)m->y[i] - kept);
    }
    out->nmse = lost / sq;
    out->bits = 8 * (double)ranks_bytes(w->r) / (double)m->n;
    return off <= sq * 1e-12 || fail(w, "outputs and residuals do not add up to the gradients");
}

/* ---- loops with the same reads and writes ---- */

/* A matrix is read twice a round, the last time with its residual written; a sparse layer once. */
static double time_bound(whole *w, int stage, unsigned variant) {
    const codec_arrays *m = w->a->m;
    int reads = w->matrix && stage == WHOLE_ENCODE ? 2 * w->s->iterations - (w->r ? 1 : 0) : 0;
    skeleton s = {.kind = SKELETON_READ, .n = m->n, .g = m->g, .y = m->y, .payload = w->spare, .feedback = w->r};
    if (w->r) {
        s.e = ranks_residual(w->r, stage == WHOLE_OWNER, false);
        s.out = (float *)ranks_residual(w->r, stage == WHOLE_OWNER, true);
    }
    double begin = whole_now();
    for (int i = 0; i < reads; i++)
        skeleton_run(&s, variant);
    s.kind = stage == WHOLE_DECODE ? SKELETON_WRITE : SKELETON_ENCODE;
    s.payload_bits = w->matrix && stage == WHOLE_ENCODE ? 0 : 1;
    if (stage == WHOLE_DECODE || !w->matrix || w->r)
        skeleton_run(&s, variant);
    return whole_now() - begin;
}

static unsigned best_variant(whole *w, int stage) {
    unsigned best = 0;
    double least = INFINITY, t[3];
    for (unsigned v = 0; v < skeleton_variants(w->k->name); v++) {
        for (int i = 0; i < 3; i++)
            t[i] = time_bound(w, stage, v);
        double mid = bc_median(t, 3);
        best = mid < least ? v : best;
        least = mid < least ? mid : least;
    }
    return best;
}

/* ---- measuring ---- */
static bool has_stage(const whole *w, int stage) {
    return stage != WHOLE_OWNER || (w->r && !w->matrix);
}

static bool one_step(whole *w, double t[WHOLE_STAGES]) {
    tw_array_stat stat;
    if (w->r) {
        ranks_step(w->r, t);
        return true;
    }
    double begin = whole_now();
    bool ok = encode(w, w->k, w->a->m->n, w->payload, &w->len, &stat);
    t[WHOLE_ENCODE] = whole_now() - begin;
    ok = ok && decode(w);
    t[WHOLE_DECODE] = whole_now() - begin - t[WHOLE_ENCODE];
    return ok;
}

/* Codec and loops take turns; medians, those of the ratios of each turn. */
static bool measure(whole *w, whole_result *out) {
    static double speed[WHOLE_STAGES][MOST_PASSES], ratio[WHOLE_STAGES][MOST_PASSES];
    const codec_arrays *m = w->a->m;
    uint64_t passes = w->a->passes < MOST_PASSES ? w->a->passes : MOST_PASSES;
    for (int s = 0; s < WHOLE_STAGES; s++)
        if (has_stage(w, s))
            out->bound[s] = best_variant(w, s);
    for (uint64_t i = 0; i < w->a->warmup + passes; i++) {
        double bound[WHOLE_STAGES] = {0}, t[WHOLE_STAGES] = {0};
        uint64_t at = i < w->a->warmup ? 0 : i - w->a->warmup;
        codec_arrays_fill(w->a->m, w->a->seed + i, 1);
        for (int s = 0; s < WHOLE_STAGES; s++)
            if (has_stage(w, s))
                bound[s] = time_bound(w, s, out->bound[s]);
        if (!one_step(w, t))
            return false;
        for (int s = 0; s < WHOLE_STAGES; s++)
            if (has_stage(w, s)) {
                speed[s][at] = (double)m->n * sizeof(float) / t[s] * 1e-9;
                ratio[s][at] = bound[s] / t[s];
            }
    }
    for (int s = 0; s < WHOLE_STAGES; s++)
        if (has_stage(w, s)) {
            out->gbs[s] = bc_median(speed[s], passes);
            out->of_bound[s] = bc_median(ratio[s], passes);
        }
    return true;
}

bool whole_run(const whole_args *a, const tw_spec *s, whole_result *out, const char **why) {
    whole w = {.a = a, .s = s, .matrix = tw_codec_is_lowrank(s)};
    bool feedback = s->feedback == TW_FEEDBACK_EF, ok = false;
    *out = (whole_result){.bits = 0};
    w.k = a->isa ? tw_kernels_named(a->isa) : tw_kernels_best();
    w.room = tw_spec_bound(s, a->m->n, TW_F32) + 4096;
    w.spare = codec_pages(w.room > a->m->n / 8 + 4096 ? w.room : a->m->n / 8 + 4096);
    w.payload = codec_pages(w.room);
    codec_arrays_fill(a->m, a->seed, 1);
    if (!w.spare || !w.payload || (feedback && !(w.r = ranks_make(a, s))))
        fail(&w, "not enough memory");
    else
        ok = (feedback ? check_ranks : check_array)(&w, out) && measure(&w, out);
    ranks_free(w.r);
    free(w.spare);
    free(w.payload);
    *why = w.why ? w.why : tw_last_error();
    return ok;
}
