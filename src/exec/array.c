/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whole arrays through a codec, tile by tile (codec.h). */
#include <thinwire/codec.h>
#include "exec/exec.h"

_Static_assert(TW_TILE_VALUES == TW_MAX_TILE, "arrays are cut like layers");

/* What both directions ask of their arguments. *args holds the defaults or what the caller gave. */
static tw_status check(const char *call, const tw_spec *s, const tw_array_args *given, tw_array_args *args,
                       const void *values, const void *payload, uint64_t count, tw_dtype t) {
    tw_status st = tw_spec_check(s);
    *args = (tw_array_args)TW_ARRAY_ARGS_INIT;
    if (st >= 0 && given)
        st = tw_sized_take(TW_SIZED(tw_array_args, name), call, given, args);
    if (st < 0)
        return st;
    if (s->feedback != TW_FEEDBACK_NONE)
        return tw_fail(TW_ERR_ARG, "%s: an array has no residual: the spec's feedback must be none", call);
    if (!tw_dtype_size(t) || count > UINT64_MAX / 64)
        return tw_fail(TW_ERR_ARG, "%s: %llu values of dtype %d", call, (unsigned long long)count, (int)t);
    if (count && (!values || !payload))
        return tw_fail(TW_ERR_ARG, "%s: the %s pointer is NULL", call, values ? "payload" : "value");
    if ((uintptr_t)payload % 4)
        return tw_fail(TW_ERR_ARG, "%s: the payload pointer is not aligned to 4 bytes", call);
    if (args->first % TW_MAX_TILE)
        return tw_fail(TW_ERR_ARG, "%s: first is %llu, not a multiple of %u", call, (unsigned long long)args->first,
                       TW_MAX_TILE);
    return TW_OK;
}

static tw_noise noise_of(const tw_spec *s, const tw_array_args *a, uint64_t at) {
    const char *name = a->name ? a->name : "";
    return tw_noise_of(s, tw_hash64(name, strlen(name), 0), a->step, 0, 0, (a->first + at) / TW_MAX_TILE);
}

tw_status tw_encode(const tw_spec *s, const tw_array_args *given, const void *in, uint64_t count, tw_dtype t, void *dst,
                    uint64_t cap, uint64_t *len, tw_array_stat *stat) {
    const tw_sized *sized = TW_SIZED(tw_array_stat, x_sq);
    _Alignas(64) float wide[TW_MAX_TILE];
    tw_array_args args;
    tw_array_stat sum = TW_ARRAY_STAT_INIT;
    tw_status st = check("tw_encode", s, given, &args, in, dst, count, t);
    if (st >= 0 && stat)
        st = tw_sized_check(sized, "tw_encode", stat);
    if (st < 0)
        return st;
    uint64_t need = tw_spec_bound(s, count, t), done = 0;
    if (!len || cap < need)
        return tw_fail(TW_ERR_ARG, "tw_encode: %s", len ? "dst has less room than tw_spec_bound" : "len is NULL");
    const tw_kernels *k = tw_kernels_best();
    tw_fpenv env = tw_fp_enter();
    for (uint64_t at = 0; at < count; at += TW_MAX_TILE) {
        uint32_t n = tw_tile_len(count, TW_MAX_TILE, at / TW_MAX_TILE);
        const uint8_t *from = (const uint8_t *)in + at * tw_dtype_size(t);
        tw_enc a = {.g = wide, .scale = 1.0f, .n = n, .dtype = t, .dst = (uint8_t *)dst + done};
        tw_tile_stat tile;
        if (t == TW_F32 && (uintptr_t)from % sizeof(float) == 0)
            a.g = (const float *)(const void *)from;
        else
            tw_widen(k, wide, from, n, t);
        a.noise = noise_of(s, &args, at);
        k->encode[s->codec][TW_V_PLAIN](s, &a, &tile);
        sum.x_sq += tile.x_sq;
        sum.e_sq += tile.e_sq;
        sum.bad_tiles += tile.nonfinite;
        done += tw_codec_get(s->codec)->bytes(s, n, t);
    }
    tw_fp_leave(env);
    if (stat)
        tw_sized_fill(sized, stat, &sum);
    *len = done;
    return TW_OK;
}

tw_status tw_decode(const tw_spec *s, const tw_array_args *given, const void *src, uint64_t len, void *out,
                    uint64_t count, tw_dtype t) {
    _Alignas(64) float wide[TW_MAX_TILE];
    tw_array_args args;
    tw_status st = check("tw_decode", s, given, &args, out, src, count, t);
    if (st < 0)
        return st;
    if (len != tw_spec_bound(s, count, t))
        return tw_fail(TW_ERR_CORRUPT, "tw_decode: %llu bytes cannot be %llu values: %llu would be",
                       (unsigned long long)len, (unsigned long long)count,
                       (unsigned long long)tw_spec_bound(s, count, t));
    const tw_kernels *k = tw_kernels_best();
    const uint8_t *from = src;
    tw_fpenv env = tw_fp_enter();
    for (uint64_t at = 0; at < count; at += TW_MAX_TILE) {
        uint32_t n = tw_tile_len(count, TW_MAX_TILE, at / TW_MAX_TILE);
        uint8_t *to = (uint8_t *)out + at * tw_dtype_size(t);
        bool direct = t == TW_F32 && (uintptr_t)to % sizeof(float) == 0;
        float *y = direct ? (float *)(void *)to : wide;
        (direct ? k->decode_stream : k->decode_set)[s->codec](s, t, from, y, n);
        if (!direct)
            tw_narrow(k, to, wide, n, t);
        from += tw_codec_get(s->codec)->bytes(s, n, t);
    }
    tw_fp_leave(env);
    return TW_OK;
}
