/* SPDX-License-Identifier: BSD-3-Clause
 *
 * cast: every value as a half or, with a scale for every group, as fp8; to nearest even. */
#include "compressors/codec.h"

static uint32_t bytes(const tw_spec *s, uint32_t n, tw_dtype t) {
    (void)t;
    if (tw_type_is_fp8(s->type))
        return (uint32_t)(4 * tw_ceil_div(n, s->group) + tw_round_up(n, 4));
    return (uint32_t)tw_round_up(2 * (uint64_t)n, 4);
}

/* A half into the same half loses nothing. */
static uint32_t roundings(const tw_spec *s, tw_dtype t) {
    return s->type != (uint32_t)t;
}

/* Groups with different scales do not add. */
static uint32_t traits(const tw_spec *s) {
    return TW_TRAIT_TILED | TW_TRAIT_FIXED_RATE | (tw_type_is_fp8(s->type) ? 0 : TW_TRAIT_LINEAR);
}

static const char *part(const tw_spec *s, uint64_t count, tw_dtype t, const void *payload, uint64_t bytes, uint32_t i,
                        uint64_t *part) {
    uint64_t scales = tw_type_is_fp8(s->type) ? 4 * tw_ceil_div(count, s->group) : 0; /* groups divide tiles */
    (void)t;
    (void)payload;
    i += scales == 0;
    *part = i == 0 ? scales : bytes - scales;
    return i == 0 ? "scales" : i == 1 ? "codes" : NULL;
}

const tw_codec tw_codec_cast = {
    .name = "cast",
    .wire_id = TW_CODEC_CAST,
    .wire_version = 1,
    .traits = traits,
    .bytes = bytes,
    .roundings = roundings,
    .part = part,
};
