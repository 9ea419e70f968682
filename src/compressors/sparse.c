/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Selection by magnitude, and the sizes of spans. */
#include "compressors/sparse.h"

uint64_t tw_sparse_wanted(const tw_spec *s, uint64_t n) {
    const uint64_t unit = 1000000000u;
    uint64_t k = n / unit * s->density + (n % unit * s->density + unit / 2) / unit;
    return k == 0 && n > 0 ? 1 : k;
}

uint64_t tw_span_bytes(const tw_spec *s, uint32_t k, uint64_t index) {
    tw_spec v = tw_spec_values(s);
    return TW_SPAN_HEADER + tw_codec_get(v.codec)->bytes(&v, k, TW_F32) + tw_round_up(index, 4);
}

static uint32_t floor_log2(uint64_t x) {
    return 63u - (uint32_t)__builtin_clzll(x);
}

/* Positions cost a part of c entries over g values c * (2 + log2(1 + g/c)) bits and 2 bytes at most (index.h); the
 * logarithm is concave, so the sum over parts is largest where all are alike. A span's last part may be short, and blocks
 * and padding take up to 16 bytes. Its kept values take no more than their share of a full tile's payload, and one group's
 * scales and a row of 32. */
uint64_t tw_spans_most(const tw_spec *s, uint64_t n, uint64_t kept, uint64_t ends) {
    tw_spec v = tw_spec_values(s);
    const tw_codec *c = tw_codec_get(v.codec);
    uint64_t spans = kept / TW_SPAN_KEPT + ends, parts = kept / TW_INDEX_PART + 2 * spans;
    uint64_t index_bits = (kept ? kept * (4 + floor_log2(n / kept)) : 0) + 8 * (2 * parts + 16 * spans);
    uint64_t values = tw_ceil_div(kept * c->bytes(&v, TW_SPAN_KEPT, TW_F32), TW_SPAN_KEPT);
    return spans * (TW_SPAN_HEADER + c->bytes(&v, 1, TW_F32) + 64) + values + index_bits / 8 + 8;
}

/* ---- in frames ---- */

uint64_t tw_sparse_expected(const tw_spec *s, uint64_t n) {
    if (s->select != TW_SELECT_GROUP)
        return tw_sparse_wanted(s, n);
    return n / s->group * tw_sparse_wanted(s, s->group) + tw_sparse_wanted(s, n % s->group);
}

uint64_t tw_stretch_tiles(const tw_spec *s, uint32_t tile) {
    uint64_t most = TW_STRETCH_VALUES / tile, n;
    if (s->select == TW_SELECT_GROUP)
        n = tw_ceil_div(TW_STRETCH_KEPT, tw_sparse_expected(s, tile));
    else
        n = tw_ceil_div(TW_STRETCH_KEPT * UINT64_C(1000000000), (uint64_t)s->density * tile);
    return n < most ? n : most;
}

uint64_t tw_stretch_bytes(const tw_spec *s, uint64_t n) {
    tw_spec v = tw_spec_values(s);
    uint64_t k = tw_sparse_expected(s, n);
    if (n == 0)
        return 0;
    return TW_SPAN_HEADER + tw_codec_get(v.codec)->bytes(&v, (uint32_t)k, TW_F32) +
           4 * tw_ceil_div(k * (2 + floor_log2(n / k)), 32);
}

/* ---- the k largest ---- */

static uint64_t count_all(tw_count_fn count, const float *x, uint64_t n, uint32_t bits) {
    const uint64_t most = 1u << 30; /* for one call */
    uint64_t found = 0;
    for (uint64_t at = 0; at < n; at += most)
        found += count(x + at, (uint32_t)(n - at < most ? n - at : most), bits);
    return found;
}

/* Where the cut can be, by magnitude bits. */
typedef struct halving {
    tw_count_fn count;
    const float *x;
    uint64_t n, k;
    uint32_t low, high;    /* k are above the first, fewer above the second */
    uint64_t found, above; /* so many */
} halving;

static void try_at(halving *h, uint32_t bits) {
    uint64_t found = count_all(h->count, h->x, h->n, bits);
    if (found >= h->k) {
        h->low = bits;
        h->found = found;
    } else {
        h->high = bits;
        h->above = found;
    }
}

/* Until the cut is known or at most `few` values lie where it can be. */
static void halve(halving *h, uint64_t few) {
    while (h->high - h->low > 1 && h->found - h->above > few)
        try_at(h, h->low + (h->high - h->low) / 2);
}

/* What one value in many says about the cut, to both sides of it. */
static void begin_near(halving *h) {
    enum { PART = 2048 };
    float part[PART];
    uint64_t step = h->n / PART, share = tw_ceil_div(h->k * PART, h->n),
             rarer = share < PART - share ? share : PART - share;
    uint64_t off = 4;
    while ((off - 4) * (off - 4) < 9 * rarer)
        off++;
    for (uint32_t i = 0; i < PART; i++)
        part[i] = h->x[i * step];
    uint32_t high = share > off ? tw_cut_of(h->count, part, PART, share - off).bits : 0;
    uint32_t low = share + off <= PART ? tw_cut_of(h->count, part, PART, share + off).bits : 0;
    if (high > h->low)
        try_at(h, high);
    if (low > h->low + 1 && low <= h->high)
        try_at(h, low - 1);
}

enum { FEW = TW_SPAN_KEPT }; /* values that fit into L1 */

/* The last steps, with a copy of those values that they are about. */
static void finish(halving *h) {
    float list[FEW + 1];
    uint32_t n = 0;
    for (uint64_t i = 0; i < h->n; i++) {
        uint32_t u;
        memcpy(&u, &h->x[i], sizeof u);
        list[n] = h->x[i];
        n += (u & 0x7fffffffu) - h->low - 1 < h->high - h->low; /* no branch: few of many go in */
    }
    halving rest = {h->count, list, n, h->k - h->above, h->low, h->high, n, 0};
    halve(&rest, 0);
    h->high = rest.high;
    h->above += rest.above;
}

tw_cut tw_cut_of(tw_count_fn count, const float *x, uint64_t n, uint64_t k) {
    halving h = {count, x, n, k, 0, 0x7fffffffu, count_all(count, x, n, 0), 0};
    if (h.found < k)
        return (tw_cut){0, 0};
    if (n > 4 * FEW)
        begin_near(&h);
    halve(&h, n > FEW ? FEW : 0);
    if (h.high - h.low > 1)
        finish(&h);
    return (tw_cut){h.high, k - h.above};
}

/* ---- radix selection over 31 bits of magnitude: digits of 10, 11 and 10 bits, from the top ---- */

void tw_radix_begin(tw_radix *r, uint64_t k) {
    *r = (tw_radix){.want = k};
}

void tw_radix_add(tw_radix *r, const float *x, uint32_t n, uint32_t first, uint32_t stride) {
    for (uint32_t i = first; i < n; i += stride) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        tw_radix_count(r, u & 0x7fffffffu);
    }
}

void tw_radix_next(tw_radix *r) {
    static const uint32_t bits[TW_RADIX_PASSES] = {10, 11, 10};
    uint32_t digit = (1u << bits[r->pass]) - 1;
    while (digit > 0 && r->count[digit] < r->want)
        r->want -= r->count[digit--];
    r->same = r->count[digit];
    r->prefix = r->prefix << bits[r->pass++] | digit;
    memset(r->count, 0, sizeof r->count);
}

tw_cut tw_radix_cut(const tw_radix *r) {
    return (tw_cut){r->prefix, r->prefix ? r->want : 0};
}
