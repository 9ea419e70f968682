/* SPDX-License-Identifier: BSD-3-Clause
 *
 * AVX-512 on processors that have only AVX2, for tests (configure --enable-emulated-avx512): SIMDe's portable intrinsics under
 * Intel's names, and here those that it lacks (0.7.4 does) or that do with NaN what the processor does not. Written from the
 * sections "Operation" of Intel's Software Developer's Manual. An intrinsic of AVX-512 that neither has does not compile. */
#ifndef TW_EMULATED_AVX512_H
#define TW_EMULATED_AVX512_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <immintrin.h>
#include <simde/x86/avx512.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef union emulated {
    __m512 ps;
    __m512i si;
    __m256 half_ps[2];
    __m256i half_si[2];
    uint32_t u[16];
    float f[16];
} emulated;

/* VPMOVZXBD, VPMOVZXWD */
static inline __m512i emulated_cvtepu8_epi32(__m128i a) {
    uint8_t from[16];
    emulated r;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++)
        r.u[i] = from[i];
    return r.si;
}
static inline __m512i emulated_cvtepu16_epi32(__m256i a) {
    uint16_t from[16];
    emulated r;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++)
        r.u[i] = from[i];
    return r.si;
}
/* VPMOVDB, VPMOVDW: the lowest bits, without saturation */
static inline __m128i emulated_cvtepi32_epi8(__m512i a) {
    emulated from = {.si = a};
    uint8_t to[16];
    for (int i = 0; i < 16; i++)
        to[i] = (uint8_t)from.u[i];
    return _mm_loadu_si128((const void *)to);
}
static inline __m256i emulated_cvtepi32_epi16(__m512i a) {
    emulated from = {.si = a};
    uint16_t to[16];
    for (int i = 0; i < 16; i++)
        to[i] = (uint16_t)from.u[i];
    return _mm256_loadu_si256((const void *)to);
}
static inline __m128i emulated_256_cvtepi32_epi8(__m256i a) { /* the upper eight bytes: 0 */
    uint32_t from[8];
    uint8_t to[16] = {0};
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)from[i];
    return _mm_loadu_si128((const void *)to);
}
/* VCVTDQ2PS, VCVTPH2PS (VCVTPS2PH below): AVX's and F16C's instructions, twice */
static inline __m512 emulated_cvtepi32_ps(__m512i a) {
    emulated from = {.si = a},
             r = {.half_ps = {_mm256_cvtepi32_ps(from.half_si[0]), _mm256_cvtepi32_ps(from.half_si[1])}};
    return r.ps;
}
static inline __m512 emulated_cvtph_ps(__m256i a) {
    __m128i low = _mm256_castsi256_si128(a), high = _mm256_extracti128_si256(a, 1);
    emulated r = {.half_ps = {_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)}};
    return r.ps;
}
/* VEXTRACTF32X8, VEXTRACTI32X8 */
static inline __m256 emulated_extractf32x8_ps(__m512 a, int half) {
    return (emulated){.ps = a}.half_ps[half & 1];
}
static inline __m256i emulated_extracti32x8_epi32(__m512i a, int half) {
    return (emulated){.si = a}.half_si[half & 1];
}
/* VALIGND: the lowest lanes of a:b, shifted down */
static inline __m512i emulated_alignr_epi32(__m512i a, __m512i b, int by) {
    emulated high = {.si = a}, low = {.si = b}, r;
    for (int i = 0; i < 16; i++) {
        int from = i + (by & 15);
        r.u[i] = from < 16 ? low.u[from] : high.u[from - 16];
    }
    return r.si;
}
/* VPERMILPS, VPSHUFD: the same order in every four lanes; VPSHUFD's as SRC where a mask bit is clear */
static inline __m512 emulated_permute_ps(__m512 a, int order) {
    emulated from = {.ps = a}, r;
    for (int i = 0; i < 16; i++)
        r.f[i] = from.f[(i & ~3) + (order >> 2 * (i & 3) & 3)];
    return r.ps;
}
static inline __m512i emulated_mask_shuffle_epi32(__m512i src, uint32_t mask, __m512i a, int order) {
    emulated from = {.si = a}, r = {.si = src};
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1)
            r.u[i] = from.u[(i & ~3) + (order >> 2 * (i & 3) & 3)];
    return r.si;
}
/* VMOVNTPS: its alignment is asked for, or the processor faults */
static inline void emulated_stream_ps(float *p, __m512 a) {
    if ((uintptr_t)p % 64)
        __builtin_trap();
    memcpy(p, &a, sizeof a);
}
static inline int emulated_reduce_add_epi32(__m512i a) {
    emulated from = {.si = a};
    uint32_t sum = 0;
    for (int i = 0; i < 16; i++)
        sum += from.u[i];
    return (int)sum;
}
/* VRANGEPS, one lane: a signalling NaN comes out quiet, beside a quiet one the other operand is taken; the bits 1:0 of what
 * choose min, max, min or max of absolute values, 3:2 the sign: a's, the chosen one's, clear or set. */
static inline uint32_t emulated_range(uint32_t a, uint32_t b, int what) {
    const uint32_t sign = 0x80000000u, quiet = 0x00400000u, infinity = 0x7f800000u;
    bool a_nan = (a & ~sign) > infinity, b_nan = (b & ~sign) > infinity;
    if (a_nan && !(a & quiet))
        return a | quiet;
    if (b_nan && !(b & quiet))
        return b | quiet;
    uint32_t a_seen = what & 2 ? a & ~sign : a, b_seen = what & 2 ? b & ~sign : b;
    float x, y;
    memcpy(&x, &a_seen, sizeof x);
    memcpy(&y, &b_seen, sizeof y);
    uint32_t r = b_nan || (!a_nan && (x <= y) == !(what & 1)) ? a : b;
    switch (what >> 2 & 3) {
    case 0:
        return (r & ~sign) | (a & sign);
    case 1:
        return r;
    case 2:
        return r & ~sign;
    default:
        return r | sign;
    }
}
static inline __m512 emulated_range_ps(__m512 a, __m512 b, int what) {
    emulated x = {.ps = a}, y = {.ps = b}, r;
    for (int i = 0; i < 16; i++)
        r.u[i] = emulated_range(x.u[i], y.u[i], what);
    return r.ps;
}

/* gcc's header has some of these as macros where it does not optimise. */
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepi32_epi8
#undef _mm512_cvtepi32_epi16
#undef _mm256_cvtepi32_epi8
#undef _mm512_cvtepi32_ps
#undef _mm512_cvtph_ps
#undef _mm512_extractf32x8_ps
#undef _mm512_extracti32x8_epi32
#undef _mm512_alignr_epi32
#undef _mm512_permute_ps
#undef _mm512_mask_shuffle_epi32
#undef _mm512_stream_ps
#undef _mm512_reduce_add_epi32
#undef _mm512_range_ps
#undef _mm512_cvtps_ph
#undef _mm512_shuffle_f32x4
#undef _mm512_kunpackw
#undef _cvtmask32_u32
#define _mm512_cvtepu8_epi32(a)                        emulated_cvtepu8_epi32(a)
#define _mm512_cvtepu16_epi32(a)                       emulated_cvtepu16_epi32(a)
#define _mm512_cvtepi32_epi8(a)                        emulated_cvtepi32_epi8(a)
#define _mm512_cvtepi32_epi16(a)                       emulated_cvtepi32_epi16(a)
#define _mm256_cvtepi32_epi8(a)                        emulated_256_cvtepi32_epi8(a)
#define _mm512_cvtepi32_ps(a)                          emulated_cvtepi32_ps(a)
#define _mm512_cvtph_ps(a)                             emulated_cvtph_ps(a)
#define _mm512_extractf32x8_ps(a, half)                emulated_extractf32x8_ps(a, half)
#define _mm512_extracti32x8_epi32(a, half)             emulated_extracti32x8_epi32(a, half)
#define _mm512_alignr_epi32(a, b, by)                  emulated_alignr_epi32(a, b, by)
#define _mm512_permute_ps(a, order)                    emulated_permute_ps(a, order)
#define _mm512_mask_shuffle_epi32(src, mask, a, order) emulated_mask_shuffle_epi32(src, mask, a, order)
#define _mm512_stream_ps(p, a)                         emulated_stream_ps(p, a)
#define _mm512_reduce_add_epi32(a)                     emulated_reduce_add_epi32(a)
#define _mm512_range_ps(a, b, what)                    emulated_range_ps(a, b, what)
#define _mm512_cvtps_ph(a, rounding)                                            \
    _mm256_set_m128i(_mm256_cvtps_ph(emulated_extractf32x8_ps(a, 1), rounding), \
                     _mm256_cvtps_ph(emulated_extractf32x8_ps(a, 0), rounding))
#define _mm512_shuffle_f32x4(a, b, order) simde_mm512_shuffle_f32x4(a, b, order)
#define _mm512_kunpackw(high, low)        ((__mmask32)((uint32_t)(__mmask16)(high) << 16 | (__mmask16)(low)))
#define _cvtmask32_u32(mask)              ((uint32_t)(mask))

#endif
