/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One tile by hand (experimental.h): arguments checked, floating-point environment set, then the table's loop. */
#include "exec/kernels.h"

static bool aligned(const void *p, uintptr_t to) {
    return (uintptr_t)p % to == 0;
}

static bool overlap(const float *a, const float *b, uint32_t n) {
    return b && (uintptr_t)a < (uintptr_t)(b + n) && (uintptr_t)b < (uintptr_t)(a + n);
}

/* The tiles of a layer come one after the other with one spec, and a look at all of its fields takes half of the time that
 * decoding a tile does. */
static tw_status check_spec(const tw_spec *s) {
    static _Thread_local tw_spec good;
    if (good.size && !memcmp(s, &good, sizeof good))
        return TW_OK;
    tw_status st = tw_spec_check(s);
    if (st == TW_OK)
        good = *s;
    return st;
}

/* What both directions ask of their arguments. */
static tw_status check(const char *what, const tw_spec *s, const void *values, const void *payload, uint32_t n) {
    if (!s)
        return tw_fail(TW_ERR_ARG, "%s: the spec is NULL", what);
    if (!values || !payload)
        return tw_fail(TW_ERR_ARG, "%s: the %s pointer is NULL", what, values ? "payload" : "value");
    if (n == 0 || n > TW_MAX_TILE)
        return tw_fail(TW_ERR_ARG, "%s: %u values are no tile; 1 to %u are", what, n, TW_MAX_TILE);
    if (!aligned(values, sizeof(float)) || !aligned(payload, 4))
        return tw_fail(TW_ERR_ARG, "%s: the %s pointer is not aligned to 4 bytes", what,
                       aligned(payload, 4) ? "value" : "payload");
    tw_status st = check_spec(s);
    if (st >= 0 && !(tw_codec_get(s->codec)->traits(s) & TW_TRAIT_TILED))
        return tw_fail(TW_ERR_UNSUPPORTED, "%s: '%s' does not work on tiles", what, tw_codec_get(s->codec)->name);
    return st;
}

tw_status tw_tile_encode(const char *isa, const tw_spec *s, const float *in, const float *e, float scale, uint32_t n,
                         void *dst, float *e_out, tw_tile_stat *stat) {
    tw_status st = check("tw_tile_encode", s, in, dst, n);
    if (st != TW_OK)
        return st;
    if (!aligned(e, 64) || !aligned(e_out, 64))
        return tw_fail(TW_ERR_ARG, "tw_tile_encode: %s is not aligned to 64 bytes", aligned(e, 64) ? "e_out" : "e");
    const tw_kernels *k = isa ? tw_kernels_named(isa) : tw_kernels_best();
    if (!k)
        return TW_ERR_UNSUPPORTED;
    _Alignas(64) float no_residual[TW_MAX_TILE], aside[TW_MAX_TILE];
    tw_tile_stat unused;
    tw_enc a = {.g = in, .e = e, .out = e_out, .scale = scale, .n = n, .dtype = TW_F32, .dst = dst};
    a.noise.key[0] = s->seed;
    if (e_out && (overlap(e_out, in, n) || overlap(e_out, e, n))) /* a loop may read its input again */
        a.out = aside;
    tw_variant v = e_out ? TW_V_EF : e ? TW_V_DRAIN : TW_V_PLAIN;
    tw_fpenv env = tw_fp_enter();
    if (v == TW_V_EF && !e) { /* -0 is what changes no value when added, not even -0 */
        for (uint32_t i = 0; i < n; i++)
            no_residual[i] = -0.0f;
        a.e = no_residual;
    }
    k->encode[s->codec][v](s, &a, stat ? stat : &unused);
    tw_fp_leave(env);
    if (a.out == aside)
        memcpy(e_out, aside, n * sizeof *aside);
    return TW_OK;
}

tw_status tw_tile_decode(const char *isa, const tw_spec *s, const void *src, float *y, uint32_t n, int add) {
    tw_status st = check("tw_tile_decode", s, y, src, n);
    if (st != TW_OK)
        return st;
    const tw_kernels *k = isa ? tw_kernels_named(isa) : tw_kernels_best();
    if (!k)
        return TW_ERR_UNSUPPORTED;
    tw_noise noise = {{s->seed, 0}, {0, 0}};
    tw_fpenv env = tw_fp_enter();
    (add ? k->decode_add : k->decode_set)[s->codec](s, TW_F32, src, y, n, &noise);
    tw_fp_leave(env);
    return TW_OK;
}

tw_status tw_tile_draw(const char *isa, uint32_t seed, uint32_t n, uint32_t *words) {
    if (!words || n == 0 || n > TW_MAX_TILE)
        return tw_fail(TW_ERR_ARG, "tw_tile_draw: %u values are no tile, or words is NULL", n);
    const tw_kernels *k = isa ? tw_kernels_named(isa) : tw_kernels_best();
    if (!k)
        return TW_ERR_UNSUPPORTED;
    const tw_noise noise = {{seed, 0}, {0, 0}};
    k->draw(&noise, n, words);
    return TW_OK;
}
