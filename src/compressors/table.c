/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The table of codecs, and what follows from it for whole layers. */
#include "compressors/codec.h"

#define ROW(id, word) [TW_CODEC_##id] = &tw_codec_##word,
static const tw_codec *const table[TW_CODECS] = {TW_CODEC_LIST(ROW)};

const tw_codec *tw_codec_get(uint32_t id) {
    return id < TW_CODECS ? table[id] : NULL;
}

uint32_t tw_rounds_once(const tw_spec *s, tw_dtype t) {
    (void)s;
    (void)t;
    return 1;
}

tw_draws tw_spec_draws(const tw_spec *s) {
    bool shared = s->codec == TW_CODEC_RANDK || s->codec == TW_CODEC_POWERSGD;
    return shared ? TW_DRAWS_SHARED : s->rounding == TW_ROUNDING_STOCHASTIC ? TW_DRAWS_OWN : TW_DRAWS_NONE;
}

uint32_t tw_traits_tiled(const tw_spec *s) {
    (void)s;
    return TW_TRAIT_TILED | TW_TRAIT_FIXED_RATE;
}

bool tw_codec_is_sparse(const tw_spec *s) {
    return tw_codec_get(s->codec)->traits(s) & TW_TRAIT_SPARSE;
}

tw_status tw_codec_check_owned(const tw_spec *s, const char *what) {
    if (!tw_codec_is_lowrank(s))
        return TW_OK;
    return tw_fail(TW_ERR_UNSUPPORTED, "%s: '%s' works in an allreduce, on arrays and on files, not in this collective",
                   what, tw_codec_get(s->codec)->name);
}

uint64_t tw_spec_bound(const tw_spec *s, uint64_t count, tw_dtype t) {
    if (tw_spec_check(s) != TW_OK)
        return 0;
    if (!tw_dtype_size(t)) {
        tw_fail(TW_ERR_ARG, "tw_spec_bound: unknown dtype %d", (int)t);
        return 0;
    }
    const tw_codec *codec = tw_codec_get(s->codec);
    if (codec->most)
        return count > UINT64_MAX / 64 ? UINT64_MAX : codec->most(s, count, t);
    uint64_t tiles = count / TW_MAX_TILE;
    uint64_t tile = codec->bytes(s, TW_MAX_TILE, t);
    uint64_t tail = codec->bytes(s, (uint32_t)(count % TW_MAX_TILE), t);
    return tiles > (UINT64_MAX - tail) / tile ? UINT64_MAX : tiles * tile + tail;
}
