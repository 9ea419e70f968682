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

static void take_span(const tw_exec *x, const tw_span *span, const tw_spec *values, tw_kept *to) {
    (void)tw_span_positions(x->k, span, to);
    tw_span_values(x->k, values, span, to);
}

/* ---- summing ---- */

static void read_span(tw_exec *x, const tw_frame *f, const tw_tiles *run, int rank, uint64_t tile) {
    tw_reader *r = &x->reader[rank];
    const uint8_t *frame = tw_arrival(x, f, rank), *src = frame + x->cursor[rank];
    tw_spec values = tw_spec_values(&x->layer[run->layer].spec);
    tw_span span = next_span(x, run, &src, frame + f->hop1_cap);
    take_span(x, &span, &values, &r->kept);
    x->cursor[rank] = (uint32_t)(src - frame);
    r->next = 0;
    r->from = tile;
    r->end = tile + tw_layer_tiles(span.values, x->plan->tile);
}

void tw_spans_add(tw_exec *x, const tw_frame *f, uint32_t i, uint64_t tile, int from, int to, float *sum) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    uint32_t n = tw_len_of(x, run->layer, tile);
    for (int rank = from; rank < to; rank++) {
        tw_reader *r = &x->reader[rank];
        if (!tw_has_run(x, f, rank, i))
            continue;
        if (tile == run->first || tile == r->end)
            read_span(x, f, run, rank, tile);
        uint32_t base = (uint32_t)((tile - r->from) * x->plan->tile), k = r->next;
        for (; k < r->kept.count && r->kept.pos[k] - base < n; k++)
            sum[r->kept.pos[k] - base] += r->kept.value[k];
        r->next = k;
    }
}

/* The tile's sum, in rank order, beginning with +0. */
static void add_up(tw_exec *x, const tw_frame *f, uint32_t i, uint64_t tile, uint32_t n, float *sum, tw_run_sum *s) {
    uint32_t layer = x->plan->run[f->run0 + i].layer;
    memset(sum, 0, n * sizeof *sum);
    tw_spans_add(x, f, i, tile, 0, x->plan->me, sum);
    if (!x->layer[layer].absent) {
        const float *g = tw_tile_load(x, layer, tile, n, x->tile + TW_MAX_TILE);
        x->k->add_scaled(sum, g, tw_scale_of(x, &x->layer[layer]), n);
        tw_note_own(x, &x->layer[layer], g, n, s);
    }
    tw_spans_add(x, f, i, tile, x->plan->me + 1, x->plan->size, sum);
}

/* Times 1/P, plus the owner's residual, from L1 to where it waits. Of a tile with NaN or Inf nothing is kept. */
static void sum_tile(tw_exec *x, const tw_frame *f, uint32_t i, uint64_t tile, tw_run_sum *s) {
    uint32_t layer = x->plan->run[f->run0 + i].layer, n = tw_len_of(x, layer, tile);
    const tw_exec_layer *l = &x->layer[layer];
    tw_look look = {.g = x->tile, .out = tw_waiting(x, layer, tile, 2), .scale = tw_weight(x), .n = n};
    if (l->e)
        look.e = l->e + tile * x->plan->tile;
    add_up(x, f, i, tile, n, x->tile, s);
    tw_select_sum(x, layer, tile, tw_flagged(x, layer, tile) ? NULL : &look);
    if (!tw_flagged(x, layer, tile))
        return;
    memset(look.out, 0, n * sizeof *look.out);
    s->code = s->code ? s->code : 1 + (uint32_t)x->plan->me;
}

static bool tells_of_nan(const tw_exec *x, const tw_frame *f, int rank, uint32_t i) {
    return rank != x->plan->me && tw_has_run(x, f, rank, i) && (tw_trailer1_of(x, f, rank, i).flags & TW_RUN_NONFINITE);
}

/* Behind a rank's spans are bits of the tiles in which it has NaN or Inf. */
static void take_flags(tw_exec *x, const tw_frame *f, uint32_t i, int rank) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    const uint8_t *frame = tw_arrival(x, f, rank), *bits = frame + x->cursor[rank];
    for (uint64_t tile = run->first; tile < run->first + run->n;)
        tile += tw_layer_tiles(next_span(x, run, &bits, frame + f->hop1_cap).values, x->plan->tile);
    for (uint32_t k = 0; k < run->n; k++)
        if (bits[k / 8] >> k % 8 & 1)
            tw_flag(x, run->layer, run->first + k);
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
        x->k->set_scaled(l->e_new + tile * x->plan->tile, left, tw_keeps_share(l), n);
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
    tw_run_sum s = {0};
    tw_form_input(x, run->layer);
    tw_read_trailers(x, f, i, &s);
    for (int r = 0; r < x->plan->size; r++)
        if (tells_of_nan(x, f, r, i))
            take_flags(x, f, i, r);
    for (uint64_t tile = run->first; tile < run->first + run->n; tile++)
        if (s.any)
            sum_tile(x, f, i, tile, &s);
        else
            tw_select_sum(x, run->layer, tile, NULL);
    for (int r = 0; r < x->plan->size; r++)
        if (tells_of_nan(x, f, r, i))
            x->cursor[r] += tw_tile_bits(run->n);
    x->part_of[run->layer].any = x->part_of[run->layer].any || s.any;
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

/* The tile's values of a span, from entry *k on, through zeros in L1, so that the output is written once. base: the tile's
 * place in the span. */
static void scatter_tile(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, uint32_t base, uint32_t *k) {
    const tw_kept *kept = &x->picks->kept;
    tw_spec plain = TW_SPEC_INIT;
    bool wanted;
    float *target = tw_tile_target(x, layer, tile, n, &wanted), *y = x->tile + TW_MAX_TILE;
    uint32_t first = *k;
    for (; *k < kept->count && kept->pos[*k] - base < n; ++*k)
        y[kept->pos[*k] - base] = kept->value[*k];
    if (target)
        x->k->decode_stream[TW_CODEC_NONE](&plain, TW_F32, y, target, n, NULL);
    else if (wanted)
        tw_tile_store(x, layer, tile, n, y);
    for (uint32_t i = first; i < *k; i++)
        y[kept->pos[i] - base] = 0.0f;
}

static void decode_span(tw_exec *x, const tw_tiles *run, uint64_t tile, const tw_span *span, const uint8_t *bits) {
    tw_spec values = tw_spec_values(&x->layer[run->layer].spec);
    uint32_t k = 0;
    take_span(x, span, &values, &x->picks->kept);
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
    memset(x->tile + TW_MAX_TILE, 0, x->plan->tile * sizeof *x->tile);
    for (uint64_t tile = run->first; flags && tile < end;)
        tile += tw_layer_tiles(next_span(x, run, &bits, end_of_frame).values, x->plan->tile);
    for (uint64_t tile = run->first; tile < end;) {
        tw_span span = next_span(x, run, src, end_of_frame);
        decode_span(x, run, tile, &span, flags ? bits : NULL);
        tile += tw_layer_tiles(span.values, x->plan->tile);
    }
    *src += flags ? tw_tile_bits(run->n) : 0;
}
