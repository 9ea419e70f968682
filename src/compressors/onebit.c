/* SPDX-License-Identifier: BSD-3-Clause
 *
 * onebit: the sign of every value and a scale for every group; twosided: one for each sign. */
#include "compressors/codec.h"

static uint32_t bytes(const tw_spec *s, uint32_t n, tw_dtype t) {
    (void)t;
    uint32_t scales = s->scale == TW_SCALE_TWOSIDED ? 2 : 1;
    return (uint32_t)(4 * scales * tw_ceil_div(n, s->group) + tw_round_up(tw_ceil_div(n, 8), 4));
}

static const char *part(const tw_spec *s, uint64_t count, tw_dtype t, const void *payload, uint64_t bytes, uint32_t i,
                        uint64_t *part) {
    uint64_t scales = (s->scale == TW_SCALE_TWOSIDED ? 8 : 4) * tw_ceil_div(count, s->group); /* groups divide tiles */
    (void)t;
    (void)payload;
    *part = i == 0 ? scales : bytes - scales;
    return i == 0 ? "scales" : i == 1 ? "signs" : NULL;
}

const tw_codec tw_codec_onebit = {
    .name = "onebit",
    .wire_id = TW_CODEC_ONEBIT,
    .wire_version = 1,
    .traits = tw_traits_tiled,
    .bytes = bytes,
    .roundings = tw_rounds_once,
    .part = part,
};
