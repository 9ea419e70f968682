/* SPDX-License-Identifier: BSD-3-Clause
 *
 * powersgd: two factors instead of a matrix (Vogels et al. 2019). What has no rows goes as fp32 values. */
#include "compressors/codec.h"

bool tw_codec_is_lowrank(const tw_spec *s) {
    return tw_codec_get(s->codec)->traits(s) & TW_TRAIT_LOWRANK;
}

uint64_t tw_lowrank_values(uint32_t rank, uint64_t count, uint64_t cols) {
    if (cols == 0 || count % cols || rank >= cols || rank >= count / cols)
        return 0;
    uint64_t values = rank * (count / cols + cols);
    return values < count ? values : 0;
}

static uint64_t most(const tw_spec *s, uint64_t n, tw_dtype t) {
    uint64_t values = tw_lowrank_values(s->rank, n, s->columns);
    (void)t;
    return 4 * (values ? values : n);
}

static uint32_t traits(const tw_spec *s) {
    (void)s;
    return TW_TRAIT_LOWRANK | TW_TRAIT_LINEAR;
}

static const char *part(const tw_spec *s, uint64_t count, tw_dtype t, const void *payload, uint64_t bytes, uint32_t i,
                        uint64_t *part) {
    uint64_t right = tw_lowrank_values(s->rank, count, s->columns) ? 4 * (uint64_t)s->rank * s->columns : 0;
    (void)t;
    (void)payload;
    *part = i == 0 && right ? right : bytes - right;
    return i == 0 ? (right ? "right factor" : "values") : i == 1 && right ? "left factor" : NULL;
}

const tw_codec tw_codec_powersgd = {
    .name = "powersgd",
    .wire_id = TW_CODEC_POWERSGD,
    .wire_version = 1,
    .traits = traits,
    .most = most,
    .roundings = tw_rounds_once,
    .part = part,
};
