/* SPDX-License-Identifier: BSD-3-Clause
 *
 * quant: a level of a few bits for every value, and a scale for every group. */
#include "compressors/quant.h"

/* Tables: Lloyd-Max levels of normal numbers, in units of mean |x| (Max 1960, Lloyd 1982; computed by iterating
 * thresholds and centroids until they stand).
 * parts of 2 bits: three levels at max |x| would leave 0.71 of the energy of 512 normal numbers; at half of it 0.24, and
 * an outlier still loses no more than a quarter. */
const tw_quant_grid tw_quant_grids[9] = {
    [2] = {2.0f, 1.0f, 3.0f, {0.5674756f, 1.8930277f}},
    [3] = {3.0f, 3.0f, 7.0f, {0.3071800f, 0.9475121f, 1.6843405f, 2.6970640f}},
    [4] = {7.0f,
           7.0f,
           15.0f,
           {0.1609193f, 0.4863464f, 0.8231255f, 1.1810486f, 1.5744523f, 2.0279204f, 2.5931285f, 3.4247931f}},
    [6] = {31.0f, 31.0f, 63.0f, {0}},
    [8] = {127.0f, 127.0f, 255.0f, {0}},
};

/* Rows of 32 values are whole, so vectors need no care at the end. */
static uint32_t bytes(const tw_spec *s, uint32_t n, tw_dtype t) {
    (void)t;
    return (uint32_t)tw_quant_head(s, n) + (uint32_t)tw_ceil_div(n, 32) * 4 * s->bits;
}

static const char *part(const tw_spec *s, uint64_t count, tw_dtype t, const void *payload, uint64_t bytes, uint32_t i,
                        uint64_t *part) {
    uint64_t heads = count / TW_MAX_TILE * tw_quant_head(s, TW_MAX_TILE) + tw_quant_head(s, count % TW_MAX_TILE);
    (void)t;
    (void)payload;
    *part = i == 0 ? heads : bytes - heads;
    return i == 0 ? "scales" : i == 1 ? "levels" : NULL;
}

const tw_codec tw_codec_quant = {
    .name = "quant",
    .wire_id = TW_CODEC_QUANT,
    .wire_version = 1,
    .traits = tw_traits_tiled,
    .bytes = bytes,
    .roundings = tw_rounds_once,
    .part = part,
};
