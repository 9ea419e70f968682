/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A run of a sparse layer as spans: the kept values of whole tiles, never past a stretch. What is left of x stays where x
 * was: it is the new residual. */
#include "exec/stages.h"
#include <math.h>

typedef struct writer {
    tw_exec *x;
    const tw_tiles *run;
    uint32_t hop;
    tw_spec values;
    uint64_t from;   /* tile where the span begins */
    uint64_t budget; /* what may still be kept of the run: its frame has no room for more */
    uint8_t *dst;
    tw_run_sum *s;
} writer;

static tw_exec_layer *layer_of(const writer *w) {
    return &w->x->layer[w->run->layer];
}

/* Every value of a group has the same rank among its own: the cut is found here. */
static tw_cut group_cut(const writer *w, const float *v, uint32_t n) {
    tw_radix r;
    tw_radix_begin(&r, tw_sparse_wanted(&layer_of(w)->spec, n));
    for (uint32_t pass = 0; pass < TW_RADIX_PASSES; pass++) {
        tw_radix_add(&r, v, n, 0, 1);
        tw_radix_next(&r);
    }
    return tw_radix_cut(&r);
}

static tw_cut cut_of_tile(const writer *w, uint64_t tile) {
    const tw_cut_at *c = &w->x->part_of[w->run->layer].cut[w->hop - 1];
    return (tw_cut){c->bits, tile < c->tile ? TW_SELECT_ALL : tile == c->tile ? c->ties : 0};
}

/* So much is kept of the op's tiles at most. */
static uint64_t budget_of(const writer *w) {
    const tw_exec_layer *l = layer_of(w);
    const tw_plan_part *p = &w->x->plan->part[w->run->layer];
    if (l->spec.select != TW_SELECT_EXACT)
        return UINT64_MAX;
    return tw_sparse_wanted(&l->spec, tw_tiles_values(l->count, w->x->plan->tile, p->base, p->all));
}

/* Appends what is kept of a tile. False: no room for all of it, and nothing was done. Without feedback the input is looked at
 * again here; if it has changed since the selection, which it must not, no more is kept all the same. */
static bool select_tile(writer *w, uint64_t tile, const float *v, uint32_t n) {
    const tw_spec *s = &layer_of(w)->spec;
    tw_kept *kept = &w->x->picks->kept;
    uint32_t before = kept->count, base = (uint32_t)((tile - w->from) * w->x->plan->tile);
    uint32_t group = s->select == TW_SELECT_GROUP ? s->group : n;
    for (uint32_t at = 0; at < n; at += group) {
        uint32_t m = n - at < group ? n - at : group;
        tw_cut cut = s->select == TW_SELECT_GROUP ? group_cut(w, v + at, m) : cut_of_tile(w, tile);
        uint32_t here = kept->count;
        if (w->x->k->select(v + at, m, base + at, &cut, kept) < m) {
            kept->count = before;
            return false;
        }
        uint64_t most = s->select == TW_SELECT_GROUP ? tw_sparse_wanted(s, m) : w->budget;
        kept->count = kept->count - here > most ? here + (uint32_t)most : kept->count;
    }
    w->budget -= s->select == TW_SELECT_EXACT ? kept->count - before : 0;
    return true;
}

/* ---- a span ---- */

void tw_as_stored(tw_exec *x, tw_dtype t, float *v, uint32_t n) {
    uint16_t *half = (uint16_t *)(void *)x->tile;
    if (t == TW_F32)
        return;
    (t == TW_F16 ? x->k->f32_to_f16 : x->k->f32_to_bf16)(half, v, n);
    (t == TW_F16 ? x->k->f16_to_f32 : x->k->bf16_to_f32)(v, half, n);
}

/* Flags the tiles of values that came out as NaN or Inf, or so far off that the difference is, and leaves those out. False:
 * there are none. */
static bool drop_overflowed(writer *w, const float *decoded) {
    tw_kept *kept = &w->x->picks->kept;
    uint32_t tile = w->x->plan->tile, n = 0;
    bool any = false;
    for (uint32_t i = 0; i < kept->count; i++)
        if (!isfinite(kept->value[i] - decoded[i])) {
            tw_flag(w->x, w->run->layer, w->from + kept->pos[i] / tile);
            any = true;
        }
    for (uint32_t i = 0; any && i < kept->count; i++)
        if (!tw_flagged(w->x, w->run->layer, w->from + kept->pos[i] / tile)) {
            kept->pos[n] = kept->pos[i];
            kept->value[n++] = kept->value[i];
        }
    kept->count = any ? n : kept->count;
    return any;
}

static void put_span(writer *w, uint64_t stop) {
    tw_exec *x = w->x;
    const tw_exec_layer *l = layer_of(w);
    tw_picks *p = x->picks;
    uint64_t first = w->from * x->plan->tile, bytes;
    uint32_t covered = (uint32_t)tw_tiles_values(l->count, x->plan->tile, w->from, stop - w->from);
    tw_noise noise = tw_noise_of(&w->values, l->name_hash, x->draw, (uint32_t)x->plan->me, w->hop, first);
    float *left = tw_waiting(x, w->run->layer, w->from, w->hop);
    double e_sq;
    do { /* the frame has room for all that can be kept */
        (void)tw_span_put(x->k, &w->values, noise, p, covered, w->dst, UINT64_MAX, p->decoded, &bytes, &e_sq);
        if (w->hop == 2)
            tw_as_stored(x, l->dtype, p->decoded, p->kept.count);
    } while (drop_overflowed(w, p->decoded));
    for (uint32_t i = 0; i < p->kept.count; i++) {
        p->decoded[i] = p->kept.value[i] - p->decoded[i];
        if (left)
            left[p->kept.pos[i]] = p->decoded[i];
    }
    w->s->e_sq += p->kept.count ? x->k->sum_sq(p->decoded, p->kept.count) : 0;
    w->dst += bytes;
    w->from = stop;
    p->kept.count = 0;
}

/* ---- a run ---- */

static void put_tile(writer *w, uint64_t tile) {
    tw_exec *x = w->x;
    const tw_exec_layer *l = layer_of(w);
    bool formed = w->hop == 2 || (l->e && l->spec.select == TW_SELECT_EXACT);
    uint32_t n = tw_len_of(x, w->run->layer, tile);
    float *left = tw_waiting(x, w->run->layer, tile, w->hop);
    const float *v = formed ? left : tw_form(x, w->run->layer, tile, left ? left : x->tile + TW_MAX_TILE);
    tw_kept *kept = &x->picks->kept;
    if (tw_flagged(x, w->run->layer, tile))
        return;
    if (!select_tile(w, tile, v, n)) {
        put_span(w, tile);
        (void)select_tile(w, tile, v, n); /* a span holds a tile */
    }
    w->s->x_sq += x->k->sum_sq(v, n);
    if (!left) {
        left = x->tile + 2 * TW_MAX_TILE;
        memcpy(left, v, n * sizeof *left);
    }
    uint32_t base = (uint32_t)((tile - w->from) * x->plan->tile);
    for (uint32_t i = kept->count; i > 0 && kept->pos[i - 1] >= base; i--)
        left[kept->pos[i - 1] - base] = 0.0f;
    w->s->e_sq += x->k->sum_sq(left, n);
}

/* Whether tiles are flagged: their residuals are put back when the answer is here. Of a layer that lost its feedback nothing
 * is left. */
static bool settle_slots(writer *w) {
    tw_exec_layer *l = layer_of(w);
    bool any = false;
    for (uint64_t tile = w->run->first; tile < w->run->first + w->run->n; tile++) {
        uint32_t n = tw_len_of(w->x, w->run->layer, tile);
        any = any || tw_flagged(w->x, w->run->layer, tile);
        float *left = l->e ? l->e_new + tile * w->x->plan->tile : NULL,
              factor = tw_fold_factor(w->x, w->run->layer, tile);
        if (left && l->drain)
            memset(left, 0, n * sizeof *left);
        else if (left && factor != 1.0f)
            w->x->k->set_scaled(left, left, 1.0f / factor, n);
    }
    return any;
}

static void put_flags(writer *w) {
    uint32_t bytes = tw_tile_bits(w->run->n);
    memset(w->dst, 0, bytes);
    for (uint32_t k = 0; k < w->run->n; k++)
        if (tw_flagged(w->x, w->run->layer, w->run->first + k))
            w->dst[k / 8] |= (uint8_t)(1u << k % 8);
    w->dst += bytes;
}

uint8_t *tw_spans_write(tw_exec *x, const tw_tiles *run, uint32_t hop, uint8_t *dst, tw_run_sum *s, bool *bad) {
    writer w = {.x = x, .run = run, .hop = hop, .from = run->first, .dst = dst, .s = s};
    uint64_t stretch = tw_stretch_tiles(&layer_of(&w)->spec, x->plan->tile), end = run->first + run->n;
    w.values = tw_spec_values(&layer_of(&w)->spec);
    w.budget = budget_of(&w);
    x->picks->kept.count = 0;
    for (uint64_t tile = run->first; tile < end; tile++) {
        put_tile(&w, tile);
        if ((tile + 1) % stretch == 0 || tile + 1 == end)
            put_span(&w, tile + 1);
    }
    *bad = settle_slots(&w);
    if (*bad || s->code) /* receivers look for bits where a code is, whoever said so */
        put_flags(&w);
    x->part_of[run->layer].sent +=
        (uint64_t)(w.dst - dst) * (hop == 1 && !x->plan->gather ? 1 : (unsigned)x->plan->size - 1);
    return w.dst;
}
