/* SPDX-License-Identifier: BSD-3-Clause
 *
 * SELECT: which values of a sparse layer are kept, of what this rank sends to owners (hop 1: tiles of others) or of what
 * it answers (hop 2: the sums of its own tiles). With feedback hop 1 forms x = input + residual here, in the new residual's
 * place; ENCODE then finds it there. Of x a sample says below which magnitude none is kept; what is above is set aside on
 * the way, and selected from. */
#include "exec/stages.h"

typedef struct search {
    tw_exec *x;
    uint32_t layer, hop;
    uint64_t first[2], tiles[2], values; /* one range of tiles or two */
    uint32_t n;                          /* set aside */
    bool full;                           /* there were more */
} search;

typedef struct walk { /* over the tiles of a search */
    uint32_t range;
    uint64_t at;
} walk;

static bool walk_ok(const search *s, walk *w) {
    for (; w->range < 2; w->range++, w->at = 0)
        if (w->at < s->tiles[w->range])
            return true;
    return false;
}
static uint64_t walk_tile(const search *s, const walk *w) {
    return s->first[w->range] + w->at;
}

static void find_tiles(search *s) {
    const tw_plan_part *p = &s->x->plan->part[s->layer];
    uint64_t end = p->base + p->all, own_end = p->first + p->tiles;
    bool two = s->hop == 1 && p->tiles && !s->x->plan->gather; /* own tiles in between */
    s->first[0] = s->hop == 2 ? p->first : p->base;
    s->tiles[0] = s->hop == 2 ? p->tiles : two ? p->first - p->base : p->all;
    s->first[1] = own_end;
    s->tiles[1] = two ? end - own_end : 0;
    for (int i = 0; i < 2; i++)
        s->values += tw_tiles_values(s->x->layer[s->layer].count, s->x->plan->tile, s->first[i], s->tiles[i]);
}

/* A copy is not made where it would be the input. */
static const float *as_given(tw_exec *x, uint32_t layer, uint64_t tile, const float *g) {
    bool same = !x->layer[layer].e && x->input_scale == 1.0f && !tw_flagged(x, layer, tile);
    return same && x->k->sum_sq(g, tw_len_of(x, layer, tile)) >= 0 ? g : NULL;
}

/* As it takes part in x; NULL: none. */
static const float *residual_of(tw_exec *x, uint32_t layer, uint64_t tile) {
    const tw_exec_layer *l = &x->layer[layer];
    float factor = tw_fold_factor(x, layer, tile), *folded = x->tile + 3 * TW_MAX_TILE;
    if (!l->e || factor == 1.0f)
        return l->e ? l->e + tile * x->plan->tile : NULL;
    x->k->set_scaled(folded, l->e + tile * x->plan->tile, factor, tw_len_of(x, layer, tile));
    return folded;
}

const float *tw_form(tw_exec *x, uint32_t layer, uint64_t tile, float *to) {
    tw_spec plain = TW_SPEC_INIT;
    tw_tile_stat stat;
    tw_enc a = {.scale = x->input_scale, .n = tw_len_of(x, layer, tile), .dtype = TW_F32, .dst = to};
    a.g = tw_tile_load(x, layer, tile, a.n, x->tile);
    const float *given = as_given(x, layer, tile, a.g);
    if (given)
        return given;
    a.e = residual_of(x, layer, tile);
    x->k->encode[TW_CODEC_NONE][a.e ? TW_V_DRAIN : TW_V_PLAIN](&plain, &a, &stat); /* x itself */
    if (stat.nonfinite || tw_flagged(x, layer, tile)) {                            /* zeros are never kept */
        memset(to, 0, a.n * sizeof *to);
        tw_flag(x, layer, tile);
    }
    return to;
}

/* After the first look at them. */
static const float *formed(search *s, uint64_t tile) {
    const float *at = tw_waiting(s->x, s->layer, tile, s->hop);
    return at ? at : tw_form(s->x, s->layer, tile, s->x->tile + TW_MAX_TILE);
}

/* ---- the sample: every stride-th value of the layer, by position ---- */

/* Where it decides, 2^17 values; for a bound fewer are enough. */
static uint32_t stride_of(const search *s) {
    bool decides = s->x->layer[s->layer].spec.select == TW_SELECT_THRESHOLD;
    return (uint32_t)(s->values >> (decides ? 17 : 15)) | 1;
}

static void sample_tile(search *s, uint64_t tile, uint32_t stride) {
    tw_exec *x = s->x;
    const tw_exec_layer *l = &x->layer[s->layer];
    uint64_t at = tile * x->plan->tile;
    uint32_t n = tw_len_of(x, s->layer, tile), first = (uint32_t)((stride - at % stride) % stride);
    if (first >= n)
        return;
    const float *v = s->hop == 2 ? tw_waiting(x, s->layer, tile, 2) : tw_tile_load(x, s->layer, tile, n, x->tile);
    for (uint32_t i = first; i < n; i += stride) {
        float y = v[i];
        if (s->hop == 1) {
            y = y * x->input_scale;
            y = l->e ? y + l->e[at + i] * tw_fold_factor(x, s->layer, tile) : y;
        }
        x->sample[s->n++] = y - y == 0 ? y : 0.0f; /* NaN and Inf */
    }
}

static void sample(search *s) {
    for (walk w = {0}; walk_ok(s, &w); w.at++)
        sample_tile(s, walk_tile(s, &w), stride_of(s));
}

/* The cut that keeps k of what was set aside; *same: values right at it. */
static tw_cut cut_of_sample(const search *s, uint64_t k, uint64_t *same) {
    tw_radix r;
    tw_radix_begin(&r, k);
    for (uint32_t pass = 0; pass < TW_RADIX_PASSES; pass++) {
        tw_radix_add(&r, s->x->sample, s->n, 0, 1);
        tw_radix_next(&r);
    }
    *same = r.same;
    return tw_radix_cut(&r);
}

/* ---- exact ---- */

/* A tile's x, for the first time: in hop 1 it goes to its place past the caches, since ENCODE comes much later. */
static const float *first_look(search *s, uint64_t tile, uint32_t n) {
    tw_exec *x = s->x;
    float *at = tw_waiting(x, s->layer, tile, s->hop);
    tw_spec plain = TW_SPEC_INIT;
    if (s->hop == 2)
        return at;
    const float *v = tw_form(x, s->layer, tile, x->tile + TW_MAX_TILE);
    if (at)
        x->k->decode_stream[TW_CODEC_NONE](&plain, TW_F32, v, at, n, NULL);
    return v;
}

/* Sets aside what is above floor, as long as there is room. Returns how many there are. */
static uint64_t set_aside(search *s, uint32_t floor) {
    tw_exec *x = s->x;
    uint64_t seen = 0, tiles = 0;
    s->n = 0;
    for (walk w = {0}; walk_ok(s, &w); w.at++) {
        uint64_t tile = walk_tile(s, &w);
        tw_kept *kept = &x->picks->kept;
        tw_cut above = {floor, 0};
        uint32_t n = tw_len_of(x, s->layer, tile);
        kept->count = 0;
        x->k->select(first_look(s, tile, n), n, 0, &above, kept);
        seen += kept->count;
        s->full = seen > x->plan->sample_room;
        if (!s->full)
            memcpy(x->sample + s->n, kept->value, kept->count * sizeof(float));
        s->n += s->full ? 0 : kept->count;
        x->aside[tiles++] = s->n;
    }
    return seen;
}

/* All values are looked at three times: the sample misled, or very many are large. */
static tw_cut cut_of_all(search *s, uint64_t k, uint32_t floor, uint64_t *same) {
    tw_exec *x = s->x;
    tw_radix r;
    tw_radix_begin(&r, k);
    for (uint32_t pass = 0; pass < TW_RADIX_PASSES; pass++) {
        for (walk w = {0}; walk_ok(s, &w); w.at++) {
            uint64_t tile = walk_tile(s, &w);
            x->k->radix(&r, formed(s, tile), tw_len_of(x, s->layer, tile), floor);
        }
        tw_radix_next(&r);
    }
    *same = r.same;
    return tw_radix_cut(&r);
}

static uint32_t count_ties(const float *v, uint32_t n, uint32_t bits) {
    uint32_t found = 0, u;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(&u, &v[i], sizeof u);
        found += (u & 0x7fffffffu) == bits;
    }
    return found;
}

/* Not all ties are kept: up to which place. What was set aside has them all, in order. */
static void place_ties(search *s, uint64_t wanted, tw_cut_at *c) {
    uint64_t tiles = 0;
    for (walk w = {0}; walk_ok(s, &w); w.at++, tiles++) {
        uint64_t tile = walk_tile(s, &w);
        uint32_t from = tiles ? s->x->aside[tiles - 1] : 0, here;
        if (s->full)
            here = count_ties(formed(s, tile), tw_len_of(s->x, s->layer, tile), c->bits);
        else
            here = count_ties(s->x->sample + from, s->x->aside[tiles] - from, c->bits);
        if (here >= wanted) {
            c->tile = tile;
            c->ties = wanted;
            return;
        }
        wanted -= here;
    }
}

static uint32_t floor_of(search *s, uint64_t k) {
    uint64_t same;
    if (stride_of(s) == 1)
        return 0;
    sample(s);
    uint64_t share = tw_ceil_div(k * s->n, s->values), wanted = share + share / 8 + 64;
    return cut_of_sample(s, wanted < s->n ? wanted : s->n, &same).bits;
}

static tw_cut_at exact_cut(search *s) {
    uint64_t k = tw_sparse_wanted(&s->x->layer[s->layer].spec, s->values);
    uint32_t floor = floor_of(s, k);
    uint64_t same;
    uint64_t seen = set_aside(s, floor);
    if (seen < k) {
        s->full = s->full || floor > 0;
        floor = 0;
    }
    tw_cut cut = s->full ? cut_of_all(s, k, floor, &same) : cut_of_sample(s, k, &same);
    tw_cut_at c = {.bits = cut.bits, .tile = cut.bits ? UINT64_MAX : 0};
    if (cut.ties < same && cut.bits)
        place_ties(s, cut.ties, &c);
    return c;
}

/* ---- threshold: all above the sample's quantile, ties too ---- */

static tw_cut_at sampled_cut(search *s) {
    uint64_t same;
    sample(s);
    tw_cut cut = cut_of_sample(s, tw_sparse_wanted(&s->x->layer[s->layer].spec, s->n), &same);
    return (tw_cut_at){.bits = cut.bits, .tile = cut.bits ? UINT64_MAX : 0};
}

void tw_exec_select(tw_exec *x, uint32_t layer, uint32_t hop) {
    search s = {.x = x, .layer = layer, .hop = hop};
    const tw_exec_layer *l = &x->layer[layer];
    find_tiles(&s);
    if (s.values == 0 || (hop == 1 ? l->absent : !x->part_of[layer].any))
        return;
    x->part_of[layer].cut[hop - 1] = l->spec.select == TW_SELECT_EXACT ? exact_cut(&s) : sampled_cut(&s);
}
