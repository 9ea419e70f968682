/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Spans that arrived: looked at, added up by the owner, written as outputs. Bits behind a run's spans name tiles with NaN
 * or Inf on the sender; what is sent of those counts for nothing. */
#include "exec/stages.h"

/* ---- looking ---- */

static tw_status check_span(const tw_exec *x, const tw_tiles *run, uint64_t *tile, const uint8_t **src,
                            const uint8_t *end) {
    const tw_exec_layer *l = &x->layer[run->layer];
    uint64_t stretch = tw_stretch_tiles(&l->spec, x->plan->tile), stop = (*tile / stretch + 1) * stretch;
    stop = stop < run->first + run->n ? stop : run->first + run->n;
    uint64_t left = tw_tiles_values(l->count, x->plan->tile, *tile, stop - *tile);
    tw_span span;
    tw_status s = tw_span_get(&l->spec, src, end, left, &span);
    if (s < 0)
        return s;
    if (span.values < left && span.values % x->plan->tile)
        return tw_fail(TW_ERR_CORRUPT, "a span of layer '%s' ends inside a tile", l->name);
    *tile += tw_layer_tiles(span.values, x->plan->tile);
    return tw_span_positions(x->k, &span, &x->picks->kept);
}

tw_status tw_spans_check(const tw_exec *x, const tw_tiles *run, bool flags, const uint8_t **src, const uint8_t *end) {
    tw_status s = TW_OK;
    for (uint64_t tile = run->first; tile < run->first + run->n && s >= 0;)
        s = check_span(x, run, &tile, src, end);
    uint64_t bits = flags ? tw_tile_bits(run->n) : 0;
    if (s >= 0 && bits > (uint64_t)(end - *src))
        s = tw_fail(TW_ERR_CORRUPT, "a run of layer '%s' ends inside its tiles' bits", x->layer[run->layer].name);
    *src += s >= 0 ? bits : 0;
    return s;
}

/* The next span of bytes that were looked at before. */
static tw_span next_span(const tw_exec *x, const tw_tiles *run, const uint8_t **src, const uint8_t *end) {
    tw_span span;
    (void)tw_span_get(&x->layer[run->layer].spec, src, end, UINT64_MAX, &span);
    return span;
}

static void take_span(tw_exec *x, const tw_span *span, const tw_spec *values) {
    (void)tw_span_positions(x->k, span, &x->picks->kept);
    tw_span_values(x->k, values, span, &x->picks->kept);
}

/* ---- summing ---- */

/* begun: parts of ranks before this one are there. */
static void add_own(tw_exec *x, uint32_t layer, uint64_t tile, uint64_t stop, bool begun, tw_run_sum *s) {
    for (; tile < stop; tile++) {
        uint32_t n = tw_len_of(x, layer, tile);
        const float *g = tw_tile_load(x, layer, tile, n, x->tile);
        float *sum = tw_waiting(x, layer, tile, 2);
        if (!begun)
            memset(sum, 0, n * sizeof *sum);
        x->k->add_scaled(sum, g, x->input_scale, n);
        tw_note_own(x, g, n, s);
    }
}

static void add_peer(tw_exec *x, const tw_frame *f, const tw_tiles *run, int rank, uint64_t tile, uint64_t stop) {
    const uint8_t *frame = tw_arrival(x, f, rank);
    tw_spec values = tw_spec_values(&x->layer[run->layer].spec);
    while (tile < stop) {
        const uint8_t *src = frame + x->cursor[rank];
        tw_span span = next_span(x, run, &src, frame + f->hop1_cap);
        take_span(x, &span, &values);
        tw_index_add(tw_waiting(x, run->layer, tile, 2), x->picks->kept.pos, x->picks->kept.value, span.kept);
        x->cursor[rank] = (uint32_t)(src - frame);
        tile += tw_layer_tiles(span.values, x->plan->tile);
    }
}

/* Times 1/P; plus the owner's residual; flags tiles with NaN or Inf. Tile by tile, so that it is one pass over memory. */
static void finish_tiles(tw_exec *x, uint32_t layer, uint64_t tile, uint64_t stop) {
    const tw_exec_layer *l = &x->layer[layer];
    float weight = x->redop == TW_AVG ? 1.0f / (float)x->plan->size : 1.0f;
    for (; tile < stop; tile++) {
        float *sum = tw_waiting(x, layer, tile, 2);
        uint32_t n = tw_len_of(x, layer, tile);
        x->k->set_scaled(sum, sum, weight, n);
        if (l->e)
            x->k->add_scaled(sum, l->e + tile * x->plan->tile, 1.0f, n);
        if (!(x->k->sum_sq(sum, n) >= 0))
            tw_flag(x, layer, tile);
    }
}

/* Sum, in rank order, beginning with +0. */
static void sum_stretch(tw_exec *x, const tw_frame *f, uint32_t i, uint64_t tile, uint64_t stop, tw_run_sum *s) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    const tw_exec_layer *l = &x->layer[run->layer];
    float *sum = tw_waiting(x, run->layer, tile, 2);
    uint64_t n = tw_tiles_values(l->count, x->plan->tile, tile, stop - tile);
    bool begun = x->plan->me > 0 || l->absent; /* else the own part is the first, and zeros need not wait in memory */
    if (begun)
        memset(sum, 0, n * sizeof *sum);
    for (int r = 0; r < x->plan->size; r++)
        if (r == x->plan->me && !l->absent)
            add_own(x, run->layer, tile, stop, begun, s);
        else if (r != x->plan->me && tw_has_run(x, f, r, i))
            add_peer(x, f, run, r, tile, stop);
    finish_tiles(x, run->layer, tile, stop);
}

static void take_flags(tw_exec *x, const tw_frame *f, uint32_t i) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    for (int r = 0; r < x->plan->size; r++) {
        if (r == x->plan->me || !tw_has_run(x, f, r, i) || !(tw_trailer1_of(x, f, r, i).flags & TW_RUN_NONFINITE))
            continue;
        const uint8_t *bits = tw_arrival(x, f, r) + x->cursor[r];
        for (uint32_t k = 0; k < run->n; k++)
            if (bits[k / 8] >> k % 8 & 1)
                tw_flag(x, run->layer, run->first + k);
        x->cursor[r] += tw_tile_bits(run->n);
    }
}

/* Of a tile with NaN or Inf nothing is kept. */
static void clear_flagged(tw_exec *x, const tw_tiles *run, tw_run_sum *s) {
    for (uint64_t tile = run->first; tile < run->first + run->n; tile++) {
        uint32_t n = tw_len_of(x, run->layer, tile);
        float *sum = tw_waiting(x, run->layer, tile, 2);
        if (!tw_flagged(x, run->layer, tile))
            continue;
        memset(sum, 0, n * sizeof *sum);
        s->code = s->code ? s->code : 1 + (uint32_t)x->plan->me;
    }
}

/* ---- reduce-scatter: sums stay at home ---- */

/* From x to what will be stored, in place; the difference is the new residual. False: a stored value overflowed. */
static bool round_tile(tw_exec *x, uint32_t layer, uint64_t tile, float *v, uint32_t n, tw_run_sum *s) {
    const tw_exec_layer *l = &x->layer[layer];
    float *left = x->tile + TW_MAX_TILE;
    double x_sq = x->k->sum_sq(v, n);
    memcpy(left, v, n * sizeof *left);
    tw_as_stored(x, l->dtype, v, n);
    x->k->add_scaled(left, v, -1.0f, n);
    double e_sq = x->k->sum_sq(left, n);
    if (!(e_sq >= 0))
        return false;
    s->x_sq += x_sq;
    s->e_sq += e_sq;
    if (l->e && l->drain)
        memset(l->e_new + tile * x->plan->tile, 0, n * sizeof *left);
    else if (l->e)
        memcpy(l->e_new + tile * x->plan->tile, left, n * sizeof *left);
    return true;
}

/* Of tiles that became NaN the old residual is put back once that is certain (decode.c). */
static uint8_t *keep_home(tw_exec *x, const tw_tiles *run, uint8_t *dst, tw_run_sum *s) {
    if (!s->any) {
        tw_keep_own_residual(x, &x->layer[run->layer], run);
        return dst;
    }
    memset(dst, 0, run->answer);
    for (uint32_t k = 0; k < run->n; k++) {
        uint64_t tile = run->first + k;
        uint32_t n = tw_len_of(x, run->layer, tile);
        float *v = tw_waiting(x, run->layer, tile, 2);
        if (!tw_flagged(x, run->layer, tile) && round_tile(x, run->layer, tile, v, n, s))
            continue;
        tw_fill_nan(v, n);
        s->code = s->code ? s->code : 1 + (uint32_t)x->plan->me;
        dst[k / 8] |= (uint8_t)(1u << k % 8);
    }
    return dst + run->answer;
}

typedef uint8_t *run_fn(tw_exec *x, const tw_tiles *run, uint8_t *dst, tw_run_sum *s);

/* What is said of each run, and its trailers; returns the frame's bytes. */
static uint32_t answer_frame(tw_exec *x, const tw_frame *f, run_fn *answer) {
    uint8_t *dst = x->arena + f->hop2_at + TW_HEADER_BYTES, *aside = tw_trailers2_aside(x, f);
    for (uint32_t i = 0; i < f->nrun; i++) {
        const tw_tiles *run = &x->plan->run[f->run0 + i];
        tw_run_sum *s = &x->sums[f->run0 + i - x->plan->own_run];
        dst = answer(x, run, dst, s);
        tw_trailer2 t = tw_certify(x, run, s);
        memcpy(aside + i * TW_TRAILER2_BYTES, &t, sizeof t);
    }
    return tw_seal_answer(x, f, dst);
}

/* ---- sums ---- */

static void sum_run(tw_exec *x, const tw_frame *f, uint32_t i) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    uint64_t stretch = tw_stretch_tiles(&x->layer[run->layer].spec, x->plan->tile), end = run->first + run->n;
    tw_run_sum s = {0};
    tw_read_trailers(x, f, i, &s);
    for (uint64_t tile = run->first, stop; s.any && tile < end; tile = stop) {
        stop = (tile / stretch + 1) * stretch;
        stop = stop < end ? stop : end;
        sum_stretch(x, f, i, tile, stop, &s);
    }
    if (s.any) {
        take_flags(x, f, i);
        clear_flagged(x, run, &s);
        x->part_of[run->layer].any = true;
    }
    x->sums[f->run0 + i - x->plan->own_run] = s;
}

uint32_t tw_exec_sum(tw_exec *x, const tw_frame *f) {
    for (int r = 0; r < x->plan->size; r++)
        x->cursor[r] = TW_HEADER_BYTES;
    for (uint32_t i = 0; i < f->nrun; i++)
        sum_run(x, f, i);
    return x->plan->kind == TW_KIND_REDUCE_SCATTER ? answer_frame(x, f, keep_home) : 0;
}

/* ---- the answer ---- */

static uint8_t *answer_run(tw_exec *x, const tw_tiles *run, uint8_t *dst, tw_run_sum *s) {
    bool bad = false;
    if (s->any)
        dst = tw_spans_write(x, run, 2, dst, s, &bad);
    else
        tw_keep_own_residual(x, &x->layer[run->layer], run);
    if (bad && !s->code) /* a stored value overflowed */
        s->code = 1 + (uint32_t)x->plan->me;
    return dst;
}

uint32_t tw_exec_answer(tw_exec *x, const tw_frame *f) {
    return answer_frame(x, f, answer_run);
}

/* ---- outputs ---- */

static void poison(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n) {
    tw_fill_nan(x->tile, n);
    tw_tile_store(x, layer, tile, n, x->tile);
    if (x->layer[layer].e)
        tw_keep_slot(x, &x->layer[layer], tile, n);
}

/* The tile's values of a span, from entry *k on, through L1, so that the output is written once. base: the tile's place in
 * the span. */
static void scatter_tile(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, uint32_t base, uint32_t *k) {
    const tw_kept *kept = &x->picks->kept;
    tw_spec plain = TW_SPEC_INIT;
    bool wanted;
    float *target = tw_tile_target(x, layer, tile, n, &wanted), *y = x->tile + TW_MAX_TILE;
    if (wanted)
        memset(y, 0, n * sizeof *y);
    for (; *k < kept->count && kept->pos[*k] - base < n; ++*k)
        y[kept->pos[*k] - base] = kept->value[*k];
    if (target)
        x->k->decode_stream[TW_CODEC_NONE](&plain, TW_F32, y, target, n, NULL);
    else if (wanted)
        tw_tile_store(x, layer, tile, n, y);
}

static void decode_span(tw_exec *x, const tw_tiles *run, uint64_t tile, const tw_span *span, const uint8_t *bits) {
    tw_spec values = tw_spec_values(&x->layer[run->layer].spec);
    uint32_t k = 0;
    take_span(x, span, &values);
    for (uint32_t base = 0; base < span->values; base += x->plan->tile, tile++) {
        uint32_t n = tw_len_of(x, run->layer, tile);
        uint64_t bit = tile - run->first;
        scatter_tile(x, run->layer, tile, n, base, &k);
        if (bits && (bits[bit / 8] >> bit % 8 & 1))
            poison(x, run->layer, tile, n);
    }
}

void tw_spans_decode(tw_exec *x, const tw_tiles *run, bool flags, const uint8_t **src, const uint8_t *end_of_frame) {
    const uint8_t *bits = *src;
    uint64_t end = run->first + run->n;
    for (uint64_t tile = run->first; flags && tile < end;)
        tile += tw_layer_tiles(next_span(x, run, &bits, end_of_frame).values, x->plan->tile);
    for (uint64_t tile = run->first; tile < end;) {
        tw_span span = next_span(x, run, src, end_of_frame);
        decode_span(x, run, tile, &span, flags ? bits : NULL);
        tile += tw_layer_tiles(span.values, x->plan->tile);
    }
    *src += flags ? tw_tile_bits(run->n) : 0;
}
