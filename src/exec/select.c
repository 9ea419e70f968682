/* SPDX-License-Identifier: BSD-3-Clause
 *
 * SELECT: which values of a sparse layer are kept, of what this rank sends to owners (hop 1: tiles of others) or of what
 * it answers (hop 2: the sums of its own tiles). Of x a sample says below which magnitude none is kept. Then all values are
 * looked at once: with feedback hop 1 forms x = input + residual in the new residual's place, and what is above that bound
 * is set aside, with 0 in its place. Of what is aside the k largest are kept; the others go back. Sums are looked at as
 * they are made, on their way to memory. */
#include "exec/stages.h"

typedef struct search {
    tw_exec *x;
    uint32_t layer, hop;
    uint64_t first[2], tiles[2], values; /* one range of tiles or two */
    uint64_t want, n;                    /* to be kept; aside */
    uint64_t seen;                       /* tiles that were looked at */
    uint32_t floor;                      /* what is not above it is not kept */
    float *aside;
    uint16_t *place; /* ... in its tile */
    uint64_t room;
    bool summing; /* x is a sum that is being made */
    bool zeroed;  /* 0 stands where x was */
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

/* summing: of sums that have a place of their own. */
static search search_of(tw_exec *x, uint32_t layer, uint32_t hop, bool summing) {
    const tw_plan_part *p = &x->plan->part[layer];
    const tw_exec_layer *l = &x->layer[layer];
    uint64_t at = summing ? x->plan->aside_room + p->sums_at : 0;
    search s = {.x = x, .layer = layer, .hop = hop, .want = p->keeps[hop - 1], .summing = summing};
    s.aside = x->aside + at;
    s.place = x->aside_place + at;
    s.room = summing ? p->sums_room : x->plan->aside_room;
    s.zeroed = hop == 1 ? l->e && !l->drain : summing;
    find_tiles(&s);
    return s;
}

const float *tw_residual_of(tw_exec *x, uint32_t layer, uint64_t tile) {
    const tw_exec_layer *l = &x->layer[layer];
    float factor = tw_fold_factor(x, layer, tile), *folded = x->tile + 3 * TW_MAX_TILE;
    if (!l->e || factor == 1.0f)
        return l->e ? l->e + tile * x->plan->tile : NULL;
    x->k->set_scaled(folded, l->e + tile * x->plan->tile, factor, tw_len_of(x, layer, tile));
    return folded;
}

/* ---- the sample: one line in `stride`, by its place in the layer ---- */

/* Of so many values; a line is what memory gives for one of them. The step is odd, so that it goes round in rows of any even
 * number of lines. Of `exact` the sample only says where to look: one that is four times as large costs more page walks
 * than its narrower bound saves. */
enum { LINE = 16, ROW = 2 * LINE };
static uint32_t stride_of(const search *s) {
    bool exact = s->x->layer[s->layer].spec.select != TW_SELECT_THRESHOLD;
    if (exact && s->values < 1u << 19)
        return 17;
    return (uint32_t)(s->values >> (exact ? 15 : 17)) | 1;
}

/* x = v * scale + e * factor. Of sums that are yet to be made it is what this rank adds to them. */
typedef struct terms {
    const float *v, *e;
    float scale, factor;
} terms;

/* Of n values from `at` of a tile on; wide: where they may be put together. */
static terms terms_of(const search *s, uint64_t tile, uint32_t at, uint32_t n, float *wide) {
    tw_exec *x = s->x;
    const tw_exec_layer *l = &x->layer[s->layer];
    uint64_t from = tile * x->plan->tile + at;
    const float *e = l->e ? l->e + from : NULL;
    if (s->hop == 2 && !s->summing)
        return (terms){tw_waiting(x, s->layer, tile, 2) + at, NULL, 1.0f, 0.0f};
    if (s->hop == 2 && l->absent)
        return (terms){e, NULL, 1.0f, 0.0f};
    const float *v = l->dtype == TW_F32 ? tw_values_at(x, s->layer, from, n) : NULL;
    if (!v)
        tw_values_load(x, s->layer, from, n, wide);
    v = v ? v : wide;
    if (s->hop == 2)
        return (terms){v, e, tw_scale_of(x, l) * tw_weight(x), 1.0f};
    return (terms){v, e, tw_scale_of(x, l), tw_fold_factor(x, s->layer, tile)};
}

/* Lines of the sample that are read together (tw_touch). */
typedef struct lines {
    terms of[TW_TOUCHED];
    uint32_t len[TW_TOUCHED], n;
    float wide[TW_TOUCHED][LINE];
} lines;

static void take_lines(search *s, lines *l) {
    for (uint32_t k = 0; k < l->n; k++) {
        tw_touch(l->of[k].v);
        if (l->of[k].e)
            tw_touch(l->of[k].e);
    }
    for (uint32_t k = 0; k < l->n; k++) {
        const terms t = l->of[k];
        float *to = s->x->aside + s->n;
        for (uint32_t i = 0; i < l->len[k]; i++) {
            float y = t.v[i] * t.scale;
            y = t.e ? y + t.e[i] * t.factor : y;
            to[i] = y - y == 0 ? y : 0.0f; /* NaN and Inf */
        }
        s->n += l->len[k];
    }
    l->n = 0;
}

static void add_line(const search *s, uint64_t tile, uint32_t at, uint32_t n, lines *l) {
    terms t = terms_of(s, tile, at, n, l->wide[l->n]);
    if (!t.v)
        return;
    l->of[l->n] = t;
    l->len[l->n++] = n;
}

static void sample(search *s) {
    uint32_t stride = stride_of(s), per_tile = s->x->plan->tile / LINE;
    lines l;
    l.n = 0;
    s->n = 0;
    for (walk w = {0}; walk_ok(s, &w); w.at++) {
        uint64_t tile = walk_tile(s, &w);
        uint32_t n = tw_len_of(s->x, s->layer, tile),
                 at = (uint32_t)((stride - tile * per_tile % stride) % stride) * LINE;
        for (; at < n; at += stride * LINE) {
            add_line(s, tile, at, n - at < LINE ? n - at : LINE, &l);
            if (l.n == TW_TOUCHED)
                take_lines(s, &l);
        }
    }
    take_lines(s, &l);
}

/* ---- exact ---- */

static uint64_t root_up(uint64_t x) {
    uint64_t r = 0;
    while (r * r < x)
        r++;
    return r;
}

/* The sample's share and three times what it is likely to be off by: the root of how many they are, and of more where large
 * values stand together: rows are two lines. */
static uint32_t floor_of(search *s) {
    tw_count_fn count = s->x->k->count;
    if (s->values < 1024)
        return 0;
    sample(s);
    uint64_t share = tw_ceil_div(s->want * s->n, s->values), likely = share + 3 * root_up(share) + 4, square = 0;
    tw_cut cut = tw_cut_of(count, s->x->aside, s->n, likely);
    for (uint64_t at = 0; at + ROW <= s->n; at += ROW) {
        uint32_t found = count(s->x->aside + at, ROW, cut.bits);
        square += found * found;
    }
    if (square > 2 * likely)
        cut = tw_cut_of(count, s->x->aside, s->n, share + 3 * root_up(square) + 4);
    return cut.bits ? cut.bits - 1 : 0;
}

static tw_kept_of *of_tile(const search *s, uint64_t tile) {
    const tw_plan_part *p = &s->x->plan->part[s->layer];
    return &s->x->kept_of[p->tiles_at + (tile - p->base)];
}

/* Where x is 0 in place of what is aside; NULL: nowhere. */
static float *left_of(const search *s, uint64_t tile) {
    return s->zeroed ? tw_waiting(s->x, s->layer, tile, s->hop) : NULL;
}

/* Where what is kept of a tile goes; all of them are in front of what is aside or elsewhere. */
typedef struct list {
    float *value;
    uint16_t *place;
    uint64_t n;
} list;

/* Stores to lines that are far away (tw_touch). */
typedef struct late {
    float *to[TW_TOUCHED], value[TW_TOUCHED];
    uint32_t n;
} late;

static void store_all(late *l) {
    for (uint32_t i = 0; i < l->n; i++)
        tw_touch(l->to[i]);
    for (uint32_t i = 0; i < l->n; i++)
        *l->to[i] = l->value[i];
    l->n = 0;
}

static void store_late(late *l, float *to, float value) {
    l->to[l->n] = to;
    l->value[l->n++] = value;
    if (l->n == TW_TOUCHED)
        store_all(l);
}

/* Of a tile's values aside those that the cut keeps move to the list; the others go back. */
static void narrow_tile(search *s, uint64_t tile, list *to, tw_cut *cut, late *stores) {
    float back[TW_MAX_TILE + 1];
    uint16_t back_place[TW_MAX_TILE + 1];
    tw_kept_of *t = of_tile(s, tile);
    const float *value = s->aside + t->first;
    const uint16_t *place = s->place + t->first;
    float *left = left_of(s, tile), *kept = to->value + to->n;
    uint16_t *kept_place = to->place + to->n;
    uint32_t n = 0, others = 0;
    for (uint32_t i = 0; i < t->count; i++) { /* no branch: it would be guessed wrong at most of the others */
        uint32_t u;
        memcpy(&u, &value[i], sizeof u);
        u &= 0x7fffffffu;
        bool tie = u == cut->bits && cut->ties > 0, keep = u > cut->bits || tie;
        cut->ties -= tie;
        back[others] = value[i];
        back_place[others] = place[i];
        kept[n] = value[i];
        kept_place[n] = place[i];
        n += keep;
        others += !keep;
    }
    for (uint32_t i = 0; i < others; i++) {
        t->rest += (double)back[i] * (double)back[i];
        if (left)
            store_late(stores, &left[back_place[i]], back[i]);
    }
    t->first = to->n;
    t->count = n;
    to->n += n;
}

/* Leaves in the list the k largest of those that are aside. Later ones are among the k largest only where they are larger
 * than the least of these, ties go by position. */
static void narrow(search *s, list *to) {
    uint64_t tiles = 0;
    tw_cut cut = {0, 0};
    late stores;
    stores.n = 0;
    if (s->n > s->want)
        cut = tw_cut_of(s->x->k->count, s->aside, s->n, s->want);
    s->floor = cut.bits > s->floor ? cut.bits : s->floor;
    for (walk w = {0}; tiles < s->seen && walk_ok(s, &w); w.at++, tiles++)
        narrow_tile(s, walk_tile(s, &w), to, &cut, &stores);
    store_all(&stores);
    s->n = to->n;
}

static void set_aside(search *s, uint64_t tile, tw_look *look) {
    tw_exec *x = s->x;
    tw_kept_of *t = of_tile(s, tile);
    if (s->room - s->n < look->n + TW_LOOK_SLACK)
        narrow(s, &(list){s->aside, s->place, 0});
    look->floor = s->floor;
    *t = (tw_kept_of){.first = s->n};
    t->count = x->k->look(look, s->place + s->n, s->aside + s->n, &t->rest);
    if (tw_any_nonfinite(s->aside + s->n, t->count)) {
        *t = (tw_kept_of){.first = s->n};
        tw_flag(x, s->layer, tile);
    }
    s->n += t->count;
}

static void look_at(search *s, uint64_t tile) {
    tw_exec *x = s->x;
    tw_look look = {.out = left_of(s, tile), .scale = 1.0f, .n = tw_len_of(x, s->layer, tile)};
    look.g = s->hop == 2 ? tw_waiting(x, s->layer, tile, 2) : tw_tile_load(x, s->layer, tile, look.n, x->tile);
    if (s->hop == 1) {
        look.scale = tw_scale_of(x, &x->layer[s->layer]);
        look.e = tw_residual_of(x, s->layer, tile);
    }
    set_aside(s, tile, &look);
}

static void look_at_all(search *s, uint32_t floor) {
    s->floor = floor;
    s->n = s->seen = 0;
    for (walk w = {0}; walk_ok(s, &w); w.at++, s->seen++)
        look_at(s, walk_tile(s, &w));
}

/* What is in the list: back to where it was, or 0 there. */
static void put_back(const search *s, const list *from, bool values) {
    for (walk w = {0}; walk_ok(s, &w); w.at++) {
        const tw_kept_of *t = of_tile(s, walk_tile(s, &w));
        float *waiting = tw_waiting(s->x, s->layer, walk_tile(s, &w), s->hop);
        for (uint64_t i = t->first; i < t->first + t->count; i++)
            waiting[from->place[i]] = values ? from->value[i] : 0.0f;
    }
}

/* Where the sample misled, once more without a bound. */
static void look_again(search *s) {
    if (s->summing)
        put_back(s, &(list){s->aside, s->place, 0}, true);
    s->summing = false;
    s->zeroed = s->zeroed && s->hop == 1;
    look_at_all(s, 0);
}

static void keep_largest(search *s) {
    tw_exec *x = s->x;
    const tw_plan_part *p = &x->plan->part[s->layer];
    if (!s->summing)
        look_at_all(s, floor_of(s));
    if (s->n < s->want && s->floor > 0)
        look_again(s);
    list kept = {x->kept + p->kept_at[s->hop - 1], x->kept_place + p->kept_at[s->hop - 1], 0};
    narrow(s, &kept);
    if (s->hop == 2 && !s->zeroed)
        put_back(s, &kept, false);
}

/* ---- sums, as they are made ---- */

/* None that is finite is set aside. */
static void look_for_nan(tw_exec *x, uint32_t layer, uint64_t tile, tw_look *look) {
    tw_taken *t = &x->picks->taken;
    look->floor = 0x7f7fffffu;
    if (x->k->look(look, t->place, t->value, &t->rest) > 0)
        tw_flag(x, layer, tile);
}

void tw_select_sum(tw_exec *x, uint32_t layer, uint64_t tile, tw_look *look) {
    const tw_plan_part *p = &x->plan->part[layer];
    tw_exec_part *state = &x->part_of[layer];
    if (!p->sums_room) {
        if (look)
            look_for_nan(x, layer, tile, look);
        return;
    }
    search s = search_of(x, layer, 2, true);
    if (tile == p->first)
        *state = (tw_exec_part){.floor = floor_of(&s), .any = state->any, .sent = state->sent};
    s.floor = state->floor;
    s.seen = state->summed++;
    s.n = state->nsum;
    *of_tile(&s, tile) = (tw_kept_of){.first = s.n};
    if (look)
        set_aside(&s, tile, look);
    state->floor = s.floor;
    state->nsum = s.n;
}

/* ---- threshold: all above the sample's quantile, ties too ---- */

static tw_cut sampled_cut(search *s) {
    sample(s);
    tw_cut cut = tw_cut_of(s->x->k->count, s->x->aside, s->n, tw_sparse_wanted(&s->x->layer[s->layer].spec, s->n));
    return (tw_cut){cut.bits, cut.bits ? TW_SELECT_ALL : 0};
}

void tw_exec_select(tw_exec *x, uint32_t layer, uint32_t hop) {
    const tw_exec_layer *l = &x->layer[layer];
    tw_form_input(x, layer);
    search s = search_of(x, layer, hop, hop == 2 && x->plan->part[layer].sums_room > 0);
    s.n = s.summing ? x->part_of[layer].nsum : 0;
    s.seen = s.summing ? x->part_of[layer].summed : 0;
    s.floor = s.summing ? x->part_of[layer].floor : 0;
    if (s.values == 0 || (hop == 1 ? l->absent : !x->part_of[layer].any))
        return;
    if (l->spec.select == TW_SELECT_EXACT)
        keep_largest(&s);
    else
        x->part_of[layer].cut[hop - 1] = sampled_cut(&s);
}
