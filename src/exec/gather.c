/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A gather's verdict and outputs. All ranks hold the same frames, their own among them, so each comes to the same verdict
 * and the same sums. The owner's residual of its own tiles is *folded*: it goes in as a worker's, which counts 1/P in an
 * average, and therefore P times as large; what is left of it is an owner's again, and what a half-precision output
 * loses when it is stored stays there, too. */
#include "exec/stages.h"
#include <math.h>

bool tw_is_folded(const tw_exec *x, uint32_t layer, int owner) {
    return x->layer[layer].e && x->redop == TW_AVG && owner == x->plan->me;
}

/* Behind a run's spans; flags the tiles that a rank says have NaN. */
static void take_flags(tw_exec *x, const tw_frame *f, uint32_t i) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    for (int r = 0; r < x->plan->size; r++) {
        if (!tw_has_run(x, f, r, i) || !(tw_trailer1_of(x, f, r, i).flags & TW_RUN_NONFINITE))
            continue;
        const uint8_t *bits = tw_arrival(x, f, r) + x->cursor[r];
        for (uint32_t k = 0; k < run->n; k++)
            if (bits[k / 8] >> k % 8 & 1)
                tw_flag(x, run->layer, run->first + k);
        x->cursor[r] += tw_tile_bits(run->n);
    }
}

static void begin_frame(tw_exec *x) {
    for (int r = 0; r < x->plan->size; r++)
        x->cursor[r] = TW_HEADER_BYTES;
}

static tw_run_sum *sum_of(const tw_exec *x, const tw_frame *f, uint32_t i) {
    return &x->sums[f->run0 + i];
}

/* The result of a tile in v, as fp32; it is yet to be stored. */
static void sum_tile(tw_exec *x, const tw_frame *f, uint32_t i, uint64_t tile, uint32_t n, float *v) {
    if (f->sparse) {
        memset(v, 0, n * sizeof *v); /* in rank order, beginning with +0 */
        tw_spans_add(x, f, i, tile, 0, x->plan->size, v);
    } else {
        tw_sum_tile(x, f, i, tile, n, v, sum_of(x, f, i));
    }
    x->k->set_scaled(v, v, tw_weight(x), n);
}

/* ---- verdict ---- */

/* Decoded values are no larger than ||x|| + ||e||; where these cannot add up to what overflows, no value is looked at. */
static bool may_overflow(const tw_exec *x, const tw_exec_layer *l, const tw_run_sum *s) {
    double sum = s->norms * (1 + 0x1p-10), result = sum * (double)tw_weight(x);
    return !(sum < 0x1p127) || !(result < (l->dtype == TW_F16 ? 65504.0 : 0x1p127));
}

/* All of the frame's sums, once, to see which overflow. */
static void look_at_sums(tw_exec *x, const tw_frame *f) {
    float *v = x->tile + TW_MAX_TILE;
    begin_frame(x);
    for (uint32_t i = 0; i < f->nrun; i++) {
        const tw_tiles *run = &x->plan->run[f->run0 + i];
        const tw_exec_layer *l = &x->layer[run->layer];
        tw_run_sum *s = sum_of(x, f, i);
        for (uint64_t tile = run->first; s->any && tile < run->first + run->n; tile++) {
            uint32_t n = tw_tile_len(l->count, x->plan->tile, tile);
            sum_tile(x, f, i, tile, n, v);
            tw_as_stored(x, l->dtype, v, n);
            if (!tw_any_nonfinite(v, n))
                continue;
            s->code = s->code ? s->code : 1 + (uint32_t)f->owner;
            if (f->sparse)
                tw_flag(x, run->layer, tile);
        }
        if (f->sparse)
            take_flags(x, f, i);
    }
}

/* What storing the result may lose, at most half of its last digit. */
static double stored_off(const tw_exec *x, const tw_exec_layer *l, const tw_run_sum *s, double values) {
    double result = s->norms * (double)tw_weight(x) * (1 + 0x1p-10);
    if (l->dtype == TW_F32)
        return 0;
    return l->dtype == TW_F16 ? result * 0x1p-11 + sqrt(values) * 0x1p-25 : result * 0x1p-8 + sqrt(values) * 0x1p-134;
}

/* docs/design.md derives it. before: the owner's, of earlier steps. */
static void certify_run(tw_exec *x, const tw_frame *f, uint32_t i) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    tw_exec_layer *l = &x->layer[run->layer];
    const tw_run_sum *s = sum_of(x, f, i);
    double w = x->redop == TW_AVG ? 1.0 / x->plan->size : 1.0, values = (double)run->n * x->plan->tile;
    double rounded = (x->plan->size + 4) * (0x1p-24 * w * s->norms * (1 + 0x1p-15) + sqrt(values) * 0x1p-149);
    double lost = w * s->e_norms * (1 + 0x1p-40) + stored_off(x, l, s, values);
    double holds = l->spec.feedback != TW_FEEDBACK_NONE ? (double)tw_keeps_share(l) : 0;
    double acc = (double)tw_trailer1_of(x, f, f->owner, i).before + rounded;
    acc += tw_part_of(1 - holds, lost);
    float bound = tw_float_up(acc + tw_part_of(holds, lost) + w * s->gone * (1 + 0x1p-40));
    l->stale = l->stale || s->code;
    l->bound_sq += (double)bound * (double)bound;
    if (l->cert && f->owner == x->plan->me)
        tw_cert_write(l->cert_new, run->first, run->n, tw_float_up(acc),
                      s->code ? tw_norm_up((double)bound * (double)bound + l->last_sq) : bound);
}

/* No rank has the layer: all stands as before. */
static void keep_run(tw_exec *x, const tw_frame *f, const tw_tiles *run) {
    tw_exec_layer *l = &x->layer[run->layer];
    l->stale = true;
    for (uint64_t t = run->first; l->cert && f->owner == x->plan->me && t < run->first + run->n; t++)
        l->cert_new[t] = l->cert[t];
}

static void judge(tw_exec *x, const tw_frame *f) {
    bool look = false;
    for (uint32_t i = 0; i < f->nrun; i++) {
        tw_run_sum *s = sum_of(x, f, i);
        *s = (tw_run_sum){0};
        tw_read_trailers(x, f, i, s);
        look = look || may_overflow(x, &x->layer[x->plan->run[f->run0 + i].layer], s) || (f->sparse && s->code);
    }
    if (look)
        look_at_sums(x, f);
    for (uint32_t i = 0; i < f->nrun; i++) {
        const tw_tiles *run = &x->plan->run[f->run0 + i];
        const tw_run_sum *s = sum_of(x, f, i);
        if (s->any)
            x->layer[run->layer].all_absent = false;
        if (s->code)
            tw_note_nonfinite(x, run->layer, s->code);
        if (s->any)
            certify_run(x, f, i);
        else
            keep_run(x, f, run);
    }
}

tw_status tw_gather_verdict(tw_exec *x) {
    for (uint32_t l = 0; l < x->nlayer; l++) {
        x->layer[l].bound_sq = 0;
        x->layer[l].all_absent = true;
    }
    for (uint32_t i = 0; i < x->plan->nframe; i++)
        judge(x, &x->plan->frame[i]);
    return tw_say_nonfinite(x);
}

/* ---- outputs ---- */

/* What becomes of a result that is not finite: with feedback, or of a sparse layer, the tile is NaN and all slots stay. */
static void poison(tw_exec *x, const tw_frame *f, uint32_t layer, uint64_t tile, uint32_t n, float *v) {
    tw_exec_layer *l = &x->layer[layer];
    if (l->e)
        tw_keep_slot(x, l, tile, n);
    if (f->sparse || l->spec.feedback != TW_FEEDBACK_NONE)
        tw_fill_nan(v, n);
    for (uint32_t i = 0; i < n; i++)
        if (v[i] != v[i])
            tw_fill_nan(v + i, 1);
}

static bool is_bad(tw_exec *x, const tw_frame *f, uint32_t layer, uint64_t tile, uint32_t n, const float *v) {
    float *stored = x->tile + 2 * TW_MAX_TILE;
    if (f->sparse)
        return tw_flagged(x, layer, tile);
    memcpy(stored, v, n * sizeof *v);
    tw_as_stored(x, x->layer[layer].dtype, stored, n);
    return tw_any_nonfinite(stored, n);
}

static void decode_tile(tw_exec *x, const tw_frame *f, uint32_t i, uint64_t tile) {
    uint32_t layer = x->plan->run[f->run0 + i].layer;
    const tw_exec_layer *l = &x->layer[layer];
    uint32_t n = tw_tile_len(l->count, x->plan->tile, tile);
    bool wanted, held = f->owner == x->plan->me && tw_keeps_rounding(l);
    float *target = tw_tile_target(x, layer, tile, n, &wanted), *v = target ? target : x->tile + TW_MAX_TILE;
    sum_tile(x, f, i, tile, n, v);
    if (sum_of(x, f, i)->code && is_bad(x, f, layer, tile, n, v))
        poison(x, f, layer, tile, n, v);
    else if (held)
        tw_keep_rounding(x, l, tile * x->plan->tile, n, v);
    if (wanted && !target)
        tw_tile_store(x, layer, tile, n, v);
}

void tw_gather_decode(tw_exec *x, const tw_frame *f) {
    begin_frame(x);
    for (uint32_t i = 0; i < f->nrun; i++) {
        const tw_tiles *run = &x->plan->run[f->run0 + i];
        for (uint64_t tile = run->first; sum_of(x, f, i)->any && tile < run->first + run->n; tile++)
            decode_tile(x, f, i, tile);
        if (f->sparse)
            take_flags(x, f, i);
    }
}
