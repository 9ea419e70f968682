/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cast: every value as a half, to nearest even. */
#include "compressors/codec.h"

static uint32_t bytes(const tw_spec *s, uint32_t n, tw_dtype t) {
    (void)s;
    (void)t;
    return (uint32_t)tw_round_up(2 * (uint64_t)n, 4);
}

/* A half into the same half loses nothing. */
static uint32_t roundings(const tw_spec *s, tw_dtype t) {
    return s->type != (uint32_t)t;
}

const tw_codec tw_codec_cast = {
    .name = "cast",
    .wire_id = TW_CODEC_CAST,
    .wire_version = 1,
    .traits = TW_TRAIT_TILED | TW_TRAIT_LINEAR | TW_TRAIT_FIXED_RATE,
    .bytes = bytes,
    .roundings = roundings,
};
