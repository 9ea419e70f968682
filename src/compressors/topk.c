/* SPDX-License-Identifier: BSD-3-Clause
 *
 * topk: the values of largest magnitude and where they stand; the rest is left out (and, with error feedback, kept for
 * later: Stich et al. 2018, Lin et al. 2018). */
#include "compressors/sparse.h"

static uint32_t floor_log2(uint64_t x) {
    return 63u - (uint32_t)__builtin_clzll(x);
}

/* Positions cost a part of c entries over g values c * (2 + log2(1 + g/c)) bits and 2 bytes at most (index.h); the
 * logarithm is concave, so the sum over parts is largest where all are alike. A span's last part may be short, and blocks
 * and padding take up to 12 bytes. A chosen threshold may keep everything; groups keep one value more each by rounding. */
static uint64_t most(const tw_spec *s, uint64_t n, tw_dtype t) {
    (void)t;
    if (n == 0)
        return 0;
    uint64_t k = tw_sparse_wanted(s, n);
    if (s->select == TW_SELECT_GROUP)
        k += n / s->group + 1;
    if (s->select == TW_SELECT_THRESHOLD || k > n)
        k = n;
    uint64_t spans = k / TW_SPAN_KEPT + n / TW_SPAN_VALUES + 2, parts = k / TW_INDEX_PART + 2 * spans;
    uint64_t index_bits = k * (4 + floor_log2(n / k)) + 8 * (2 * parts + 16 * spans);
    tw_spec v = tw_spec_values(s);
    const tw_codec *c = tw_codec_get(v.codec);
    uint64_t full = c->bytes(&v, TW_SPAN_KEPT, TW_F32); /* a short tile takes no more than a full one */
    return spans * (TW_SPAN_HEADER + 8) + (k / TW_SPAN_KEPT + n / TW_SPAN_VALUES + 2) * full + index_bits / 8 + 8;
}

static uint32_t traits(const tw_spec *s) {
    (void)s;
    return TW_TRAIT_SPARSE;
}

const tw_codec tw_codec_topk = {
    .name = "topk",
    .wire_id = TW_CODEC_TOPK,
    .wire_version = 1,
    .traits = traits,
    .most = most,
    .roundings = tw_rounds_once,
};
