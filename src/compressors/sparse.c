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
    r->prefix = r->prefix << bits[r->pass++] | digit;
    memset(r->count, 0, sizeof r->count);
}

tw_cut tw_radix_cut(const tw_radix *r) {
    return (tw_cut){r->prefix, r->prefix ? r->want : 0};
}
