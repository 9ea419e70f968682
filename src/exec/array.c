/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whole arrays through a codec, tile by tile (codec.h). */
#include "exec/array.h"
#include "compressors/sparse.h"

_Static_assert(TW_TILE_VALUES == TW_MAX_TILE, "arrays are cut like layers");

/* What both directions ask of their arguments; completes *a. */
static tw_status check(const char *call, tw_array *a, const tw_array_args *given, const void *values,
                       const void *payload) {
    tw_status st = tw_spec_check(a->spec);
    a->args = (tw_array_args)TW_ARRAY_ARGS_INIT;
    a->k = tw_kernels_best();
    if (st >= 0 && given)
        st = tw_sized_take(TW_SIZED(tw_array_args, name), call, given, &a->args);
    if (st < 0)
        return st;
    if (a->spec->feedback != TW_FEEDBACK_NONE)
        return tw_fail(TW_ERR_ARG, "%s: an array has no residual: the spec's feedback must be none", call);
    if (!tw_dtype_size(a->t) || a->count > UINT64_MAX / 64)
        return tw_fail(TW_ERR_ARG, "%s: %llu values of dtype %d", call, (unsigned long long)a->count, (int)a->t);
    if (a->count && (!values || !payload))
        return tw_fail(TW_ERR_ARG, "%s: the %s pointer is NULL", call, values ? "payload" : "value");
    if ((uintptr_t)payload % 4)
        return tw_fail(TW_ERR_ARG, "%s: the payload pointer is not aligned to 4 bytes", call);
    if (a->args.first % TW_MAX_TILE)
        return tw_fail(TW_ERR_ARG, "%s: first is %llu, not a multiple of %u", call, (unsigned long long)a->args.first,
                       TW_MAX_TILE);
    return TW_OK;
}

const float *tw_array_tile(const tw_array *a, uint64_t at, float *buf) {
    const uint8_t *from = (const uint8_t *)a->in + at * tw_dtype_size(a->t);
    if (a->t == TW_F32 && (uintptr_t)from % sizeof(float) == 0)
        return (const float *)(const void *)from;
    tw_widen(a->k, buf, from, tw_tile_len(a->count, TW_MAX_TILE, at / TW_MAX_TILE), a->t);
    return buf;
}

tw_noise tw_array_noise(const tw_array *a, uint64_t index) {
    const char *name = a->args.name ? a->args.name : "";
    tw_spec values = tw_codec_is_sparse(a->spec) ? tw_spec_values(a->spec) : *a->spec;
    return tw_noise_of(&values, tw_hash64(name, strlen(name), 0), a->args.step, 0, 0, index);
}

static void encode_tiles(const tw_array *a, uint8_t *dst, uint64_t *len, tw_array_stat *sum) {
    _Alignas(64) float wide[TW_MAX_TILE];
    const tw_spec *s = a->spec;
    *len = 0;
    for (uint64_t at = 0; at < a->count; at += TW_MAX_TILE) {
        uint32_t n = tw_tile_len(a->count, TW_MAX_TILE, at / TW_MAX_TILE);
        tw_enc e = {.g = tw_array_tile(a, at, wide), .scale = 1.0f, .n = n, .dtype = a->t, .dst = dst + *len};
        tw_tile_stat tile;
        e.noise = tw_array_noise(a, (a->args.first + at) / TW_MAX_TILE);
        a->k->encode[s->codec][TW_V_PLAIN](s, &e, &tile);
        sum->x_sq += tile.x_sq;
        sum->e_sq += tile.e_sq;
        sum->bad_tiles += tile.nonfinite;
        *len += tw_codec_get(s->codec)->bytes(s, n, a->t);
    }
}

tw_status tw_encode(const tw_spec *s, const tw_array_args *args, const void *in, uint64_t count, tw_dtype t, void *dst,
                    uint64_t cap, uint64_t *len, tw_array_stat *stat) {
    const tw_sized *sized = TW_SIZED(tw_array_stat, x_sq);
    tw_array a = {.spec = s, .in = in, .count = count, .t = t};
    tw_array_stat sum = TW_ARRAY_STAT_INIT;
    uint64_t done = 0;
    tw_status st = check("tw_encode", &a, args, in, dst);
    if (st >= 0 && stat)
        st = tw_sized_check(sized, "tw_encode", stat);
    if (st < 0)
        return st;
    if (!len || cap < tw_spec_bound(s, count, t))
        return tw_fail(TW_ERR_ARG, "tw_encode: %s", len ? "dst has less room than tw_spec_bound" : "len is NULL");
    tw_fpenv env = tw_fp_enter();
    if (tw_codec_is_sparse(s))
        st = tw_sparse_encode(&a, dst, cap, &done, &sum);
    else if (tw_codec_is_lowrank(s))
        tw_matrix_encode(&a, dst, &done, &sum);
    else
        encode_tiles(&a, dst, &done, &sum);
    tw_fp_leave(env);
    if (st < 0)
        return st;
    if (stat)
        tw_sized_fill(sized, stat, &sum);
    *len = done;
    return TW_OK;
}

static void decode_tiles(const tw_array *a, const uint8_t *from, void *out) {
    _Alignas(64) float wide[TW_MAX_TILE];
    const tw_spec *s = a->spec;
    for (uint64_t at = 0; at < a->count; at += TW_MAX_TILE) {
        uint32_t n = tw_tile_len(a->count, TW_MAX_TILE, at / TW_MAX_TILE);
        uint8_t *to = (uint8_t *)out + at * tw_dtype_size(a->t);
        bool direct = a->t == TW_F32 && (uintptr_t)to % sizeof(float) == 0;
        float *y = direct ? (float *)(void *)to : wide;
        tw_noise noise = tw_array_noise(a, (a->args.first + at) / TW_MAX_TILE);
        (direct ? a->k->decode_stream : a->k->decode_set)[s->codec](s, a->t, from, y, n, &noise);
        if (!direct)
            tw_narrow(a->k, to, wide, n, a->t);
        from += tw_codec_get(s->codec)->bytes(s, n, a->t);
    }
}

tw_status tw_decode(const tw_spec *s, const tw_array_args *args, const void *src, uint64_t len, void *out,
                    uint64_t count, tw_dtype t) {
    tw_array a = {.spec = s, .count = count, .t = t};
    tw_status st = check("tw_decode", &a, args, out, src);
    if (st < 0)
        return st;
    bool sparse = tw_codec_is_sparse(s), lowrank = tw_codec_is_lowrank(s);
    if (!sparse && !lowrank && len != tw_spec_bound(s, count, t))
        return tw_fail(TW_ERR_CORRUPT, "tw_decode: %llu bytes cannot be %llu values: %llu would be",
                       (unsigned long long)len, (unsigned long long)count,
                       (unsigned long long)tw_spec_bound(s, count, t));
    tw_fpenv env = tw_fp_enter();
    if (sparse)
        st = tw_sparse_decode(&a, src, len, out);
    else if (lowrank)
        st = tw_matrix_decode(&a, src, len, out);
    else
        decode_tiles(&a, src, out);
    tw_fp_leave(env);
    return st;
}
