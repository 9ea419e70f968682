/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whole arrays through a sparse codec (codec.h): find the cut, then span by span. */
#include "exec/array.h"
#include "exec/span.h"
#include <math.h>

#define INFINITE 0x7f800000u /* bits of Inf; those of NaN are above */

typedef struct work {
    const tw_array *a;
    tw_spec values;
    tw_cut cut;
    tw_picks p;
    uint64_t from; /* first value of the span */
    uint8_t *dst, *end;
    uint64_t *len;
    tw_array_stat *stat;
    uint64_t tile, first_tile,
        bad_until; /* in work; first of those whose rest waits; those before are counted if bad */
    double rest, first_rest;
    _Alignas(64) float wide[TW_MAX_TILE];
} work;

static uint32_t tile_at(const tw_array *a, uint64_t at) {
    return tw_tile_len(a->count, TW_MAX_TILE, at / TW_MAX_TILE);
}

/* ---- the cut ---- */

static tw_status too_many_bad(const tw_array *a) {
    return tw_fail(TW_ERR_NONFINITE, "tw_encode: '%s' has more NaN and Inf than values are kept",
                   a->args.name ? a->args.name : "");
}

/* The cut that keeps k of one value in `stride`. The step is odd, so that it goes round in rows of any even length. */
static tw_cut sampled_cut(work *w, uint64_t k, uint32_t stride) {
    tw_radix r;
    tw_radix_begin(&r, k);
    for (uint32_t pass = 0; pass < TW_RADIX_PASSES; pass++) {
        for (uint64_t at = 0; at < w->a->count; at += TW_MAX_TILE) {
            uint32_t first = (uint32_t)((stride - at % stride) % stride);
            if (first < TW_MAX_TILE)
                tw_radix_add(&r, tw_array_tile(w->a, at, w->wide), tile_at(w->a, at), first, stride);
        }
        tw_radix_next(&r);
    }
    return tw_radix_cut(&r);
}

/* The cut that keeps k, looking at magnitudes above `floor` only. False if fewer than k are. */
static bool cut_above(work *w, uint64_t k, uint32_t floor) {
    tw_radix r;
    tw_radix_begin(&r, k);
    for (uint32_t pass = 0; pass < TW_RADIX_PASSES; pass++) {
        for (uint64_t at = 0; at < w->a->count; at += TW_MAX_TILE)
            w->a->k->radix(&r, tw_array_tile(w->a, at, w->wide), tile_at(w->a, at), floor);
        if (r.seen < k)
            return false;
        tw_radix_next(&r);
    }
    w->cut = tw_radix_cut(&r);
    return true;
}

/* The same in one look, where the payload's room holds what is above `floor`. False, too, if it does not. */
static bool cut_listed(work *w, uint64_t k, uint32_t floor) {
    float *list = (float *)(void *)w->dst;
    uint64_t room = (uint64_t)(w->end - w->dst) / sizeof *list, n = 0;
    for (uint64_t at = 0; at < w->a->count; at += TW_MAX_TILE) {
        tw_look l = {.g = tw_array_tile(w->a, at, w->wide), .scale = 1.0f, .n = tile_at(w->a, at), .floor = floor};
        double rest;
        if (room - n < TW_MAX_TILE + TW_LOOK_SLACK)
            return false;
        n += w->a->k->look(&l, w->p.taken.place, list + n, &rest);
    }
    if (n < k)
        return false;
    w->cut = tw_cut_of(w->a->k->count, list, n, k);
    return true;
}

static uint32_t sample_stride(const tw_array *a) {
    return (uint32_t)(a->count >> 17) | 1; /* of independent values: 10 % +- 1 %, 1 % +- 3 % */
}

/* A sample says below which magnitude none is kept, with room to err; if it is wrong after all, all are looked at. Zeros
 * are below every floor, and a cut of 0 keeps all but them. */
static void exact_cut(work *w, uint64_t k) {
    uint32_t stride = sample_stride(w->a), floor = 0;
    uint64_t of = tw_ceil_div(w->a->count, stride), share = tw_ceil_div(k, stride);
    if (stride > 1)
        floor = sampled_cut(w, share + share / 8 + 64 < of ? share + share / 8 + 64 : of, stride).bits;
    floor = floor < INFINITE ? floor : INFINITE - 1;
    if (cut_listed(w, k, floor))
        return;
    w->cut = (tw_cut){0, 0};
    if (!cut_above(w, k, floor) && floor)
        cut_above(w, k, 0);
}

static tw_status find_group_cut(work *w, const float *x, uint32_t n) {
    w->cut = tw_group_cut(w->a->k, x, n, (uint32_t)tw_sparse_wanted(w->a->spec, n), &w->p.of_group);
    return w->cut.bits < INFINITE ? TW_OK : too_many_bad(w->a);
}

static tw_status first_cut(work *w) {
    const tw_spec *s = w->a->spec;
    uint32_t stride = sample_stride(w->a);
    if (s->select == TW_SELECT_GROUP)
        return TW_OK;
    if (s->select == TW_SELECT_EXACT)
        exact_cut(w, tw_sparse_wanted(s, w->a->count));
    else
        w->cut = sampled_cut(w, tw_sparse_wanted(s, tw_ceil_div(w->a->count, stride)), stride);
    if (s->select == TW_SELECT_THRESHOLD && w->cut.bits)
        w->cut.ties = TW_SELECT_ALL;
    return w->cut.bits < INFINITE ? TW_OK : too_many_bad(w->a);
}

/* ---- spans ---- */

/* ---- what was lost. What tiles leave out waits until the span that ends behind them has been made ---- */

static void add_rest(work *w, double sq) {
    w->stat->x_sq += sq;
    w->stat->e_sq += sq;
}

/* A tile's, once more: kept are a span's [first, end). */
static double rest_of(const work *w, uint64_t tile, uint32_t first, uint32_t end) {
    _Alignas(64) float wide[TW_MAX_TILE]; /* the other one holds the tile in work */
    uint64_t at = tile * TW_MAX_TILE;
    const float *x = tw_array_tile(w->a, at, wide);
    double sq = 0;
    if (tile == w->first_tile) /* the span before may have kept some of it */
        return w->first_rest;
    for (uint32_t i = 0, k = first; i < tile_at(w->a, at); i++) {
        bool kept = k < end && w->from + w->p.kept.pos[k] == at + i;
        k += kept;
        sq += kept ? 0 : (double)x[i] * (double)x[i];
    }
    return sq;
}

/* A tile's kept values, of which i is the first. Returns the first behind them. *bad: not all of them come out finite. */
static uint32_t add_kept(work *w, uint64_t tile, uint32_t i, bool *bad) {
    const tw_kept *kept = &w->p.kept;
    double x_sq = 0, e_sq = 0;
    for (; i < kept->count && (w->from + kept->pos[i]) / TW_MAX_TILE == tile; i++) {
        double x = (double)kept->value[i], lost = x - (double)w->p.decoded[i];
        x_sq += x * x;
        e_sq += lost * lost;
    }
    *bad = !isfinite(e_sq);
    w->stat->x_sq += *bad ? 0 : x_sq;
    w->stat->e_sq += *bad ? 0 : e_sq;
    return i;
}

/* A span whose values cannot all be told: one NaN takes its group, a half overflows. The tiles that it spoils are counted
 * and leave the sums; what the span before kept of its first tile stays in them. */
static void leave_bad_tiles(work *w, const uint8_t *span) {
    static const tw_noise none = {{0}, {0}};
    uint64_t tile = w->from / TW_MAX_TILE;
    w->a->k->decode_set[w->values.codec](&w->values, TW_F32, span + TW_SPAN_HEADER, w->p.decoded, w->p.kept.count,
                                         &none);
    for (uint32_t i = 0, first = 0; tile <= w->tile; tile++, first = i) {
        bool bad;
        i = add_kept(w, tile, i, &bad);
        if (!bad && tile >= w->first_tile && tile < w->tile)
            add_rest(w, rest_of(w, tile, first, i));
        w->stat->bad_tiles += bad && tile >= w->bad_until;
        w->bad_until = bad ? tile + 1 : w->bad_until;
    }
}

static void add_span(work *w, const uint8_t *span, double e_sq) {
    if (w->p.bad) {
        leave_bad_tiles(w, span);
    } else {
        add_rest(w, w->rest);
        w->stat->e_sq += e_sq;
        for (uint32_t i = 0; i < w->p.kept.count; i++)
            w->stat->x_sq += (double)w->p.kept.value[i] * (double)w->p.kept.value[i];
    }
    w->first_tile = w->tile;
    w->rest = 0;
}

static tw_status put_span(work *w, uint64_t stop) {
    uint64_t bytes;
    double e_sq;
    tw_status st = tw_span_put(w->a->k, &w->values, tw_array_noise(w->a, w->a->args.first + w->from), &w->p,
                               (uint32_t)(stop - w->from), w->dst, (uint64_t)(w->end - w->dst), NULL, &bytes, &e_sq);
    if (st < 0)
        return st;
    add_span(w, w->dst, e_sq);
    w->dst += bytes;
    *w->len += bytes;
    w->from = stop;
    w->p.kept.count = 0;
    return TW_OK;
}

/* What the cut keeps of values [at, at + n) of the array, which are x. A span that is full ends before the first value that
 * it has no room for. */
static tw_status put_tile(work *w, const float *x, uint64_t at, uint32_t n, double *rest) {
    tw_taken *t = &w->p.taken;
    tw_kept *kept = &w->p.kept;
    tw_look look = {.g = x, .scale = 1.0f, .n = n};
    tw_take(w->a->k, &look, &w->cut, t);
    *rest += t->rest;
    for (uint32_t i = 0; i < t->count; i++) {
        tw_status st = kept->count == TW_SPAN_KEPT ? put_span(w, at + t->place[i]) : TW_OK;
        if (st < 0)
            return st;
        kept->pos[kept->count] = (uint32_t)(at + t->place[i] - w->from);
        kept->value[kept->count++] = t->value[i];
    }
    return TW_OK;
}

static tw_status put_groups(work *w, const float *x, uint64_t at, uint32_t n) {
    bool grouped = w->a->spec->select == TW_SELECT_GROUP;
    uint32_t group = grouped ? w->a->spec->group : n;
    double rest = 0;
    for (uint32_t first = 0; first < n; first += group) {
        uint32_t m = n - first < group ? n - first : group;
        tw_status st = grouped ? find_group_cut(w, x + first, m) : TW_OK;
        if (st >= 0)
            st = put_tile(w, x + first, at + first, m, &rest);
        if (st < 0)
            return st;
    }
    if (w->first_tile == w->tile)
        w->first_rest = rest;
    w->rest += w->bad_until > w->tile ? 0 : rest; /* the span that ended in it may have spoilt it */
    return TW_OK;
}

tw_status tw_sparse_encode(const tw_array *a, void *dst, uint64_t cap, uint64_t *len, tw_array_stat *stat) {
    work w = {.a = a, .values = tw_spec_values(a->spec), .dst = dst, .end = (uint8_t *)dst + cap, .len = len};
    w.stat = stat;
    *len = 0;
    tw_status st = a->count ? first_cut(&w) : TW_OK;
    for (uint64_t at = 0; at < a->count && st >= 0; at += TW_MAX_TILE) {
        w.tile = at / TW_MAX_TILE;
        if (at - w.from > TW_SPAN_VALUES - TW_MAX_TILE)
            st = put_span(&w, at);
        if (st >= 0)
            st = put_groups(&w, tw_array_tile(a, at, w.wide), at, tile_at(a, at));
    }
    w.tile++;
    return st >= 0 && a->count > w.from ? put_span(&w, a->count) : st;
}

/* ---- in ---- */

/* Every length and every position, before anything is written. */
static tw_status check_spans(const tw_array *a, const uint8_t *src, const uint8_t *end, tw_kept *kept) {
    tw_status st = TW_OK;
    for (uint64_t left = a->count; left > 0 && st >= 0;) {
        tw_span s;
        st = tw_span_get(a->spec, &src, end, left, &s);
        if (st >= 0)
            st = tw_span_positions(a->k, &s, kept);
        left -= st >= 0 ? s.values : 0;
    }
    return st < 0 || src == end ? st : tw_fail(TW_ERR_CORRUPT, "a sparse payload goes on behind its last span");
}

static void put_values(const tw_array *a, const tw_span *s, const tw_kept *kept, uint8_t *out) {
    size_t size = tw_dtype_size(a->t);
    uint8_t narrow[sizeof kept->value];
    memset(out, 0, s->values * size);
    tw_narrow(a->k, narrow, kept->value, kept->count, a->t);
    for (uint32_t i = 0; i < kept->count; i++)
        memcpy(out + kept->pos[i] * size, narrow + i * size, size);
}

tw_status tw_sparse_decode(const tw_array *a, const void *src, uint64_t len, void *out) {
    const uint8_t *at = src, *end = at + len;
    tw_spec values = tw_spec_values(a->spec);
    tw_kept kept;
    tw_status st = check_spans(a, at, end, &kept);
    for (uint64_t done = 0; done < a->count && st >= 0;) {
        tw_span s;
        st = tw_span_get(a->spec, &at, end, a->count - done, &s);
        if (st >= 0)
            st = tw_span_positions(a->k, &s, &kept);
        if (st < 0)
            break;
        tw_span_values(a->k, &values, &s, &kept);
        put_values(a, &s, &kept, (uint8_t *)out + done * tw_dtype_size(a->t));
        done += s.values;
    }
    return st;
}
