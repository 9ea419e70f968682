/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whole arrays through a sparse codec (codec.h): find the cut, then span by span. */
#include "exec/array.h"
#include "compressors/sparse.h"
#include <float.h>

#define INFINITE 0x7f800000u /* bits of Inf; those of NaN are above */

typedef struct work {
    const tw_array *a;
    tw_spec values;
    tw_cut cut;
    tw_kept kept;
    uint64_t from; /* first value of the span */
    uint8_t *dst, *end;
    uint64_t *len;
    tw_array_stat *stat;
    _Alignas(64) float wide[TW_MAX_TILE], lost[TW_MAX_TILE];
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
    w->cut = (tw_cut){0, 0};
    if (!cut_above(w, k, floor) && floor)
        cut_above(w, k, 0);
}

static tw_status find_group_cut(work *w, const float *x, uint32_t n) {
    tw_radix r;
    tw_radix_begin(&r, tw_sparse_wanted(w->a->spec, n));
    for (uint32_t pass = 0; pass < TW_RADIX_PASSES; pass++) {
        tw_radix_add(&r, x, n, 0, 1);
        tw_radix_next(&r);
    }
    w->cut = tw_radix_cut(&r);
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

static tw_status put_span(work *w, uint64_t stop) {
    uint8_t index[TW_SPAN_INDEX];
    uint32_t head[3] = {(uint32_t)(stop - w->from), w->kept.count, 0};
    uint64_t bytes;
    const tw_kernels *k = w->a->k;
    tw_status st = tw_index_encode(k->index, w->kept.pos, w->kept.count, head[0], index, &bytes);
    if (st < 0)
        return st;
    head[2] = (uint32_t)bytes;
    uint64_t need = tw_span_bytes(w->a->spec, w->kept.count, bytes);
    if (need > (uint64_t)(w->end - w->dst))
        return tw_fail(TW_ERR_ARG, "tw_encode: dst has less room than tw_spec_bound");
    memcpy(w->dst, head, sizeof head);
    if (w->kept.count) {
        tw_tile_stat st_values;
        tw_enc e = {
            .g = w->kept.value, .scale = 1.0f, .n = w->kept.count, .dtype = TW_F32, .dst = w->dst + sizeof head};
        e.noise = tw_array_noise(w->a, w->a->args.first + w->from);
        k->encode[w->values.codec][TW_V_PLAIN](&w->values, &e, &st_values);
        w->stat->e_sq += st_values.e_sq;
    }
    memset(w->dst + need - tw_round_up(bytes, 4), 0, tw_round_up(bytes, 4));
    memcpy(w->dst + need - tw_round_up(bytes, 4), index, bytes);
    w->dst += need;
    *w->len += need;
    w->from = stop;
    w->kept.count = 0;
    return TW_OK;
}

/* Values [at, at + n) of the array, which are x. What is left out is lost, beside what the values' codec loses. */
static tw_status put_tile(work *w, const float *x, uint64_t at, uint32_t n) {
    float *lost = w->lost;
    memcpy(lost, x, n * sizeof *lost);
    for (uint32_t seen = 0; seen < n;) {
        uint32_t before = w->kept.count, base = (uint32_t)(at - w->from);
        seen += w->a->k->select(x + seen, n - seen, base + seen, &w->cut, &w->kept);
        for (uint32_t i = before; i < w->kept.count; i++)
            lost[w->kept.pos[i] - base] = 0.0f;
        tw_status st = seen < n ? put_span(w, at + seen) : TW_OK;
        if (st < 0)
            return st;
    }
    return TW_OK;
}

static tw_status put_groups(work *w, const float *x, uint64_t at, uint32_t n) {
    uint32_t group = w->a->spec->select == TW_SELECT_GROUP ? w->a->spec->group : n;
    double x_sq = w->a->k->sum_sq(x, n), e_sq = 0;
    for (uint32_t first = 0; first < n; first += group) {
        uint32_t m = n - first < group ? n - first : group;
        tw_status st = w->a->spec->select == TW_SELECT_GROUP ? find_group_cut(w, x + first, m) : TW_OK;
        if (st >= 0)
            st = put_tile(w, x + first, at + first, m);
        if (st < 0)
            return st;
        e_sq += w->a->k->sum_sq(w->lost, m);
    }
    if (x_sq <= (double)FLT_MAX * n * (double)FLT_MAX) {
        w->stat->x_sq += x_sq;
        w->stat->e_sq += e_sq;
    } else {
        w->stat->bad_tiles++;
    }
    return TW_OK;
}

tw_status tw_sparse_encode(const tw_array *a, void *dst, uint64_t cap, uint64_t *len, tw_array_stat *stat) {
    work w = {.a = a, .values = tw_spec_values(a->spec), .dst = dst, .end = (uint8_t *)dst + cap, .len = len};
    w.stat = stat;
    *len = 0;
    tw_status st = a->count ? first_cut(&w) : TW_OK;
    for (uint64_t at = 0; at < a->count && st >= 0; at += TW_MAX_TILE) {
        if (at - w.from > TW_SPAN_VALUES - TW_MAX_TILE)
            st = put_span(&w, at);
        if (st >= 0)
            st = put_groups(&w, tw_array_tile(a, at, w.wide), at, tile_at(a, at));
    }
    return st >= 0 && a->count > w.from ? put_span(&w, a->count) : st;
}

/* ---- in ---- */

typedef struct span {
    uint32_t values, kept, index_bytes;
    const uint8_t *coded; /* the kept values */
    const uint8_t *index;
} span;

/* The span at *src, whose lengths fit into what is left; *src is moved behind it. */
static tw_status get_span(const tw_array *a, const uint8_t **src, const uint8_t *end, uint64_t left, span *s) {
    uint32_t head[3];
    if ((uint64_t)(end - *src) < TW_SPAN_HEADER)
        return tw_fail(TW_ERR_CORRUPT, "a sparse payload ends inside a span's head");
    memcpy(head, *src, sizeof head);
    *s = (span){.values = head[0], .kept = head[1], .index_bytes = head[2]};
    if (s->values == 0 || s->values > left || s->values > TW_SPAN_VALUES || s->kept > TW_SPAN_KEPT ||
        s->kept > s->values)
        return tw_fail(TW_ERR_CORRUPT, "a sparse payload has a span of %u values, %u of them kept, where %llu are left",
                       s->values, s->kept, (unsigned long long)left);
    uint64_t bytes = tw_span_bytes(a->spec, s->kept, s->index_bytes);
    if (bytes > (uint64_t)(end - *src))
        return tw_fail(TW_ERR_CORRUPT, "a sparse payload ends inside a span");
    s->coded = *src + TW_SPAN_HEADER;
    s->index = *src + bytes - tw_round_up(s->index_bytes, 4);
    *src += bytes;
    return TW_OK;
}

static tw_status get_positions(const tw_array *a, const span *s, tw_kept *kept) {
    kept->count = s->kept;
    return tw_index_decode(a->k->index, s->index, s->index_bytes, s->values, s->kept, kept->pos);
}

/* Every length and every position, before anything is written. */
static tw_status check_spans(const tw_array *a, const uint8_t *src, const uint8_t *end, tw_kept *kept) {
    tw_status st = TW_OK;
    for (uint64_t left = a->count; left > 0 && st >= 0;) {
        span s;
        st = get_span(a, &src, end, left, &s);
        if (st >= 0)
            st = get_positions(a, &s, kept);
        left -= st >= 0 ? s.values : 0;
    }
    return st < 0 || src == end ? st : tw_fail(TW_ERR_CORRUPT, "a sparse payload goes on behind its last span");
}

static void put_values(const tw_array *a, const span *s, const tw_kept *kept, uint8_t *out) {
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
        span s;
        st = get_span(a, &at, end, a->count - done, &s);
        if (st >= 0)
            st = get_positions(a, &s, &kept);
        if (st < 0)
            break;
        if (s.kept)
            a->k->decode_set[values.codec](&values, TW_F32, s.coded, kept.value, s.kept);
        put_values(a, &s, &kept, (uint8_t *)out + done * tw_dtype_size(a->t));
        done += s.values;
    }
    return st;
}
