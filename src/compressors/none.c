/* SPDX-License-Identifier: BSD-3-Clause
 *
 * none: the values in their own dtype. */
#include "compressors/codec.h"

static uint32_t bytes(const tw_spec *s, uint32_t n, tw_dtype t) {
    (void)s;
    return (uint32_t)tw_round_up(n * tw_dtype_size(t), 4);
}

static uint32_t roundings(const tw_spec *s, tw_dtype t) {
    (void)s;
    (void)t;
    return 0;
}

static uint32_t traits(const tw_spec *s) {
    (void)s;
    return TW_TRAIT_TILED | TW_TRAIT_LINEAR | TW_TRAIT_FIXED_RATE | TW_TRAIT_EXACT;
}

const tw_codec tw_codec_none = {
    .name = "none",
    .wire_id = TW_CODEC_NONE,
    .wire_version = 1,
    .traits = traits,
    .bytes = bytes,
    .roundings = roundings,
};
