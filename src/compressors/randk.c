/* SPDX-License-Identifier: BSD-3-Clause
 *
 * randk: a share of the values, at positions that all ranks draw alike, so that payloads can be added. */
#include "compressors/randk.h"
#include "compressors/sparse.h"

static uint32_t kept_of(const tw_spec *s, uint32_t n) {
    return (uint32_t)tw_sparse_wanted(s, n);
}

float tw_randk_gain(const tw_spec *s, uint32_t n) {
    return s->scale == TW_SCALE_UNBIASED ? (float)n / (float)kept_of(s, n) : 1.0f;
}

tw_randk tw_randk_of(const tw_spec *s, const tw_noise *noise, uint32_t n) {
    const uint32_t counter[4] = {0, noise->tile[0], noise->tile[1], 1};
    uint32_t word[4], kept = kept_of(s, n);
    tw_philox(TW_PHILOX_FEW, counter, noise->key, word);
    return (tw_randk){.kept = kept,
                      .turn = (uint32_t)((uint64_t)word[0] * n >> 32),
                      .step = (uint32_t)tw_ceil_div((uint64_t)n << 16, kept),
                      .gain = tw_randk_gain(s, n)};
}

static uint32_t bytes(const tw_spec *s, uint32_t n, tw_dtype t) {
    (void)t;
    return 4 * kept_of(s, n);
}

static uint32_t traits(const tw_spec *s) {
    return tw_traits_tiled(s) | TW_TRAIT_LINEAR | TW_TRAIT_ADDS;
}

const tw_codec tw_codec_randk = {
    .name = "randk",
    .wire_id = TW_CODEC_RANDK,
    .wire_version = 1,
    .traits = traits,
    .bytes = bytes,
    .roundings = tw_rounds_once,
};
