/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ternary: 0 or a sign for every value, and a scale for every group. */
#include "compressors/codec.h"

static uint32_t bytes(const tw_spec *s, uint32_t n, tw_dtype t) {
    (void)t;
    return (uint32_t)(4 * tw_ceil_div(n, s->group) + 2 * tw_round_up(tw_ceil_div(n, 8), 4));
}

static const char *part(const tw_spec *s, uint64_t count, tw_dtype t, const void *payload, uint64_t bytes, uint32_t i,
                        uint64_t *part) {
    uint64_t scales = 4 * tw_ceil_div(count, s->group); /* groups divide tiles */
    (void)t;
    (void)payload;
    *part = i == 0 ? scales : (bytes - scales) / 2;
    return i == 0 ? "scales" : i == 1 ? "signs" : i == 2 ? "kept" : NULL;
}

const tw_codec tw_codec_ternary = {
    .name = "ternary",
    .wire_id = TW_CODEC_TERNARY,
    .wire_version = 1,
    .traits = tw_traits_tiled,
    .bytes = bytes,
    .roundings = tw_rounds_once,
    .part = part,
};
