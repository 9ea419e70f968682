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
    uint64_t from; /* tile where the span begins */
    uint8_t *dst;
    tw_run_sum *s;
} writer;

static tw_exec_layer *layer_of(const writer *w) {
    return &w->x->layer[w->run->layer];
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

/* What is kept arrives as it is: nothing is to be taken back, nothing can overflow. */
static bool loses_nothing(const writer *w) {
    return w->values.codec == TW_CODEC_NONE && (w->hop == 1 || layer_of(w)->dtype == TW_F32);
}

/* Encodes the span, and again where that found values to flag. Returns the bytes. */
static uint64_t encode_span(writer *w, uint64_t stop) {
    tw_exec *x = w->x;
    const tw_exec_layer *l = layer_of(w);
    tw_picks *p = x->picks;
    uint64_t first = w->from * x->plan->tile, bytes;
    uint32_t covered = (uint32_t)tw_tiles_values(l->count, x->plan->tile, w->from, stop - w->from);
    tw_noise noise = tw_noise_of(&w->values, l->name_hash, x->draw, (uint32_t)x->plan->me, w->hop, first);
    float *decoded = loses_nothing(w) ? NULL : p->decoded;
    double e_sq;
    do { /* the frame has room for all that can be kept */
        (void)tw_span_put(x->k, &w->values, noise, p, covered, w->dst, UINT64_MAX, decoded, &bytes, &e_sq);
        if (decoded && w->hop == 2)
            tw_as_stored(x, l->dtype, decoded, p->kept.count);
    } while (decoded && drop_overflowed(w, decoded));
    return bytes;
}

static void touch_from(const float *left, const tw_kept *kept, uint32_t i) {
    uint32_t end = kept->count - i < TW_TOUCHED ? kept->count : i + TW_TOUCHED;
    for (; i < end; i++)
        tw_touch(left + kept->pos[i]);
}

/* Momentum is 0 where values were sent. */
static void clear_momentum(const writer *w) {
    const tw_picks *p = w->x->picks;
    float *u = w->hop == 1 ? layer_of(w)->u_new : NULL;
    uint64_t first = w->from * w->x->plan->tile;
    for (uint32_t i = 0; u && i < p->kept.count; i++)
        if (loses_nothing(w) || p->decoded[i] != 0.0f)
            u[first + p->kept.pos[i]] = 0.0f;
}

/* Takes what was sent out of x. What is not kept stays. */
static void take_sent(writer *w) {
    tw_picks *p = w->x->picks;
    float *left = tw_waiting(w->x, w->run->layer, w->from, w->hop);
    bool zeroed = w->hop == 1 || layer_of(w)->spec.select == TW_SELECT_EXACT; /* and lines are far away */
    if (loses_nothing(w)) {
        for (uint32_t i = 0; !zeroed && i < p->kept.count; i++)
            left[p->kept.pos[i]] = 0.0f;
        return;
    }
    for (uint32_t i = 0; i < p->kept.count; i++) {
        p->decoded[i] = p->kept.value[i] - p->decoded[i];
        if (left && i % TW_TOUCHED == 0)
            touch_from(left, &p->kept, i);
        if (left && (!zeroed || p->decoded[i] != 0.0f))
            left[p->kept.pos[i]] = p->decoded[i];
    }
    w->s->e_sq += p->kept.count ? w->x->k->sum_sq(p->decoded, p->kept.count) : 0;
}

static void put_span(writer *w, uint64_t stop) {
    uint64_t bytes = encode_span(w, stop);
    clear_momentum(w);
    take_sent(w);
    w->dst += bytes;
    w->from = stop;
    w->x->picks->kept.count = 0;
}

/* ---- a tile ---- */

/* Values at these places of a tile are kept; rest: the sum of squares of the others. */
static void keep(writer *w, uint64_t tile, const uint16_t *place, const float *value, uint32_t n, double rest) {
    tw_kept *kept = &w->x->picks->kept;
    double sq = 0;
    if (kept->count + n > TW_SPAN_KEPT)
        put_span(w, tile);
    uint32_t base = (uint32_t)((tile - w->from) * w->x->plan->tile);
    for (uint32_t i = 0; i < n; i++) {
        kept->pos[kept->count + i] = base + place[i];
        sq += (double)value[i] * (double)value[i];
    }
    memcpy(kept->value + kept->count, value, n * sizeof *value);
    kept->count += n;
    w->s->x_sq += rest + sq;
    w->s->e_sq += rest;
}

static void keep_listed(writer *w, uint64_t tile) {
    const tw_plan_part *p = &w->x->plan->part[w->run->layer];
    const tw_kept_of *t = &w->x->kept_of[p->tiles_at + (tile - p->base)];
    uint64_t at = p->kept_at[w->hop - 1] + t->first;
    keep(w, tile, w->x->kept_place + at, w->x->kept + at, t->count, t->rest);
}

/* x of a tile that no SELECT looked at: the owner's sum, or what goes to an owner, and into the new residual. */
static tw_look look_at(const writer *w, uint64_t tile) {
    tw_exec *x = w->x;
    tw_look look = {.scale = 1.0f, .n = tw_len_of(x, w->run->layer, tile)};
    float *waiting = tw_waiting(x, w->run->layer, tile, w->hop);
    if (w->hop == 2) {
        look.g = waiting;
        return look;
    }
    look.g = tw_tile_load(x, w->run->layer, tile, look.n, x->tile);
    look.e = tw_residual_of(x, w->run->layer, tile);
    look.out = waiting;
    look.scale = tw_scale_of(x, &x->layer[w->run->layer]);
    return look;
}

static void keep_above(writer *w, uint64_t tile) {
    tw_look look = look_at(w, tile);
    tw_taken *t = &w->x->picks->taken;
    tw_cut cut = w->x->part_of[w->run->layer].cut[w->hop - 1];
    tw_take(w->x->k, &look, &cut, t);
    if (tw_any_nonfinite(t->value, t->count))
        tw_flag(w->x, w->run->layer, tile);
    else
        keep(w, tile, t->place, t->value, t->count, t->rest);
}

/* x in L1: for hop 1 made there. NULL: there is NaN or Inf. */
static const float *formed(writer *w, const tw_look *look) {
    tw_spec plain = TW_SPEC_INIT;
    tw_tile_stat stat;
    tw_enc a = {.g = look->g, .e = look->e, .scale = look->scale, .n = look->n, .dtype = TW_F32};
    a.dst = w->x->tile + TW_MAX_TILE;
    if (w->hop == 2)
        return look->g;
    w->x->k->encode[TW_CODEC_NONE][a.e ? TW_V_DRAIN : TW_V_PLAIN](&plain, &a, &stat);
    return stat.nonfinite ? NULL : a.dst;
}

/* The largest of each group. */
static void keep_groups(writer *w, uint64_t tile) {
    const tw_spec *s = &layer_of(w)->spec;
    tw_look look = look_at(w, tile);
    tw_taken *t = &w->x->picks->taken, *g = &w->x->picks->of_group;
    const float *v = formed(w, &look);
    t->count = 0;
    t->rest = 0;
    if (!v) {
        tw_flag(w->x, w->run->layer, tile);
        return;
    }
    for (uint32_t at = 0; at < look.n; at += s->group) {
        tw_look part = {.g = v + at, .out = look.out ? look.out + at : NULL, .scale = 1.0f};
        part.n = look.n - at < s->group ? look.n - at : s->group;
        tw_cut cut = tw_group_cut(w->x->k, part.g, part.n, (uint32_t)tw_sparse_wanted(s, part.n), g);
        tw_take(w->x->k, &part, &cut, g);
        for (uint32_t i = 0; i < g->count; i++)
            t->place[t->count + i] = (uint16_t)(at + g->place[i]);
        memcpy(t->value + t->count, g->value, g->count * sizeof *t->value);
        t->count += g->count;
        t->rest += g->rest;
    }
    keep(w, tile, t->place, t->value, t->count, t->rest);
}

static void put_tile(writer *w, uint64_t tile) {
    if (tw_flagged(w->x, w->run->layer, tile))
        return;
    if (layer_of(w)->spec.select == TW_SELECT_EXACT)
        keep_listed(w, tile);
    else if (layer_of(w)->spec.select == TW_SELECT_THRESHOLD)
        keep_above(w, tile);
    else
        keep_groups(w, tile);
}

/* ---- a run ---- */

/* Whether tiles are flagged: their residuals are put back when the answer is here. Of a layer that lost its feedback nothing
 * is left. */
static bool settle_slots(writer *w) {
    tw_exec_layer *l = layer_of(w);
    bool any = false;
    for (uint64_t tile = w->run->first; tile < w->run->first + w->run->n; tile++) {
        uint32_t n = tw_len_of(w->x, w->run->layer, tile);
        any = any || tw_flagged(w->x, w->run->layer, tile);
        float *left = l->e ? l->e_new + tile * w->x->plan->tile : NULL;
        float factor = tw_keeps_share(l) / tw_fold_factor(w->x, w->run->layer, tile);
        if (left && l->drain)
            memset(left, 0, n * sizeof *left);
        else if (left && factor != 1.0f)
            w->x->k->set_scaled(left, left, factor, n);
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
