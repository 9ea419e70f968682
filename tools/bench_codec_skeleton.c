/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_codec.h"

#include <stdio.h>
#include <string.h>
#include <thinwire/experimental.h>

#define ROW     32
#define UNROLL  _Pragma("GCC unroll 8")
#define EACH(v) UNROLL for (unsigned v = 0; v < ROW / W; v++)

/* ---- plain C: what the compiler makes of it ---- */
#define V       float
#define W       1
#define NAME(x) plain_##x
#define TARGET
#define INLINE static inline __attribute__((always_inline))
INLINE float plain_load(const float *p) {
    return *p;
}
INLINE void plain_store(float *p, float x) {
    *p = x;
}
INLINE void plain_stream(float *p, float x) {
    *p = x;
}
INLINE float plain_add(float a, float b) {
    return a + b;
}
INLINE uint32_t plain_signs(float x) {
    return x < 0.0f;
}
INLINE void plain_store_halves(uint8_t *p, float a, float b) {
    uint32_t bits[2];
    memcpy(&bits[0], &a, 4);
    memcpy(&bits[1], &b, 4);
    uint16_t half[2] = {(uint16_t)(bits[0] >> 16), (uint16_t)(bits[1] >> 16)};
    memcpy(p, half, sizeof half);
}
INLINE void plain_store_bytes(uint8_t *p, const float *x, unsigned bits) {
    for (unsigned i = 0; i < ROW / 8 * bits; i++)
        p[i] = x[i] < 0.0f;
}
INLINE float plain_byte(const uint8_t *p) {
    return (float)*p;
}
INLINE float plain_all(uint32_t word) {
    return (float)(word & 1);
}
INLINE float plain_load_halves(const uint8_t *p) {
    return (float)p[1];
}
#include "bench_codec_loops.h"

/* Masks keep the values that are added between -1 and 1, whatever the payload holds. */
#define MASK 0x3f7fffff

#if defined(__x86_64__)
#include <immintrin.h>

#define V       __m256
#define W       8
#define NAME(x) avx2_##x
#define TARGET  __attribute__((target("avx2")))
#define INLINE  static inline __attribute__((always_inline, target("avx2")))
INLINE __m256 avx2_load(const float *p) {
    return _mm256_loadu_ps(p);
}
INLINE void avx2_store(float *p, __m256 x) {
    _mm256_storeu_ps(p, x);
}
INLINE void avx2_stream(float *p, __m256 x) {
    _mm256_stream_ps(p, x);
}
INLINE __m256 avx2_add(__m256 a, __m256 b) {
    return _mm256_add_ps(a, b);
}
INLINE uint32_t avx2_signs(__m256 x) {
    return (uint32_t)_mm256_movemask_ps(x);
}
INLINE void avx2_store_halves(uint8_t *p, __m256 a, __m256 b) {
    __m256i h = _mm256_packs_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b));
    _mm256_storeu_si256((void *)p, h);
}
/* `bits` bits for every value of a row. */
INLINE void avx2_store_bytes(uint8_t *p, const __m256 *x, unsigned bits) {
    __m256i a = _mm256_packs_epi32(_mm256_castps_si256(x[0]), _mm256_castps_si256(x[1]));
    __m256i b = _mm256_packs_epi32(_mm256_castps_si256(x[2]), _mm256_castps_si256(x[3]));
    if (bits == 8)
        _mm256_storeu_si256((void *)p, _mm256_packs_epi16(a, b));
    else if (bits == 4)
        _mm_storeu_si128((void *)p, _mm256_castsi256_si128(_mm256_packs_epi16(a, b)));
    else
        _mm_storel_epi64((void *)p, _mm256_castsi256_si128(_mm256_packs_epi16(a, b)));
}
INLINE __m256 avx2_byte(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)));
}
INLINE __m256 avx2_all(uint32_t word) {
    return _mm256_castsi256_ps(_mm256_set1_epi32((int)(word & MASK)));
}
INLINE __m256 avx2_load_halves(const uint8_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_slli_epi32(wide, 16), _mm256_set1_epi32(MASK)));
}
#include "bench_codec_loops.h"

#define V       __m512
#define W       16
#define NAME(x) avx512_##x
#define TARGET  __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
#define INLINE  static inline __attribute__((always_inline, target("avx512f,avx512dq,avx512bw,avx512vl")))
INLINE __m512 avx512_load(const float *p) {
    return _mm512_loadu_ps(p);
}
INLINE void avx512_store(float *p, __m512 x) {
    _mm512_storeu_ps(p, x);
}
INLINE void avx512_stream(float *p, __m512 x) {
    _mm512_stream_ps(p, x);
}
INLINE __m512 avx512_add(__m512 a, __m512 b) {
    return _mm512_add_ps(a, b);
}
INLINE uint32_t avx512_signs(__m512 x) {
    return (uint32_t)_mm512_movepi32_mask(_mm512_castps_si512(x));
}
INLINE void avx512_store_halves(uint8_t *p, __m512 a, __m512 b) {
    __m512i h = _mm512_packs_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b));
    _mm512_storeu_si512((void *)p, h);
}
INLINE void avx512_store_bytes(uint8_t *p, const __m512 *x, unsigned bits) {
    if (bits == 2)
        _mm_storel_epi64((void *)p, _mm512_cvtepi32_epi8(_mm512_castps_si512(x[0])));
    else
        _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(_mm512_castps_si512(x[0])));
    if (bits == 8)
        _mm_storeu_si128((void *)(p + 16), _mm512_cvtepi32_epi8(_mm512_castps_si512(x[1])));
}
INLINE __m512 avx512_byte(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p)));
}
INLINE __m512 avx512_all(uint32_t word) {
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)(word & MASK)));
}
INLINE __m512 avx512_load_halves(const uint8_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_slli_epi32(wide, 16), _mm512_set1_epi32(MASK)));
}
#include "bench_codec_loops.h"

#elif defined(__aarch64__)
#include <arm_neon.h>

#define V       float32x4_t
#define W       4
#define NAME(x) neon_##x
#define TARGET
#define INLINE static inline __attribute__((always_inline))
INLINE float32x4_t neon_load(const float *p) {
    return vld1q_f32(p);
}
INLINE void neon_store(float *p, float32x4_t x) {
    vst1q_f32(p, x);
}
INLINE void neon_stream(float *p, float32x4_t x) { /* as the codecs' own */
    vst1q_f32(p, x);
}
INLINE float32x4_t neon_add(float32x4_t a, float32x4_t b) {
    return vaddq_f32(a, b);
}
INLINE uint32_t neon_signs(float32x4_t x) {
    static const int32_t left[4] = {0, 1, 2, 3};
    return vaddvq_u32(vshlq_u32(vshrq_n_u32(vreinterpretq_u32_f32(x), 31), vld1q_s32(left)));
}
INLINE void neon_store_halves(uint8_t *p, float32x4_t a, float32x4_t b) {
    uint16x8_t h = vuzp2q_u16(vreinterpretq_u16_f32(a), vreinterpretq_u16_f32(b));
    memcpy(p, &h, sizeof h);
}
INLINE void neon_store_bytes(uint8_t *p, const float32x4_t *x, unsigned bits) {
    uint8_t row[32];
    for (unsigned v = 0; v < bits; v++) { /* a byte of every value of the first rows: as many as the payload has */
        uint16x4_t h = vmovn_u32(vreinterpretq_u32_f32(x[v]));
        uint8x8_t b = vmovn_u16(vcombine_u16(h, h));
        memcpy(row + 4 * v, &b, 4);
    }
    memcpy(p, row, 4 * bits);
}
INLINE float32x4_t neon_byte(const uint8_t *p) {
    uint8x8_t b = vreinterpret_u8_u32(vdup_n_u32(0));
    memcpy(&b, p, 4);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(b))));
}
INLINE float32x4_t neon_all(uint32_t word) {
    return vreinterpretq_f32_u32(vdupq_n_u32(word & MASK));
}
INLINE float32x4_t neon_load_halves(const uint8_t *p) {
    uint16x4_t h;
    memcpy(&h, p, sizeof h);
    return vreinterpretq_f32_u32(vandq_u32(vshll_n_u16(h, 16), vdupq_n_u32(MASK)));
}
#include "bench_codec_loops.h"
#endif

/* ---- variants: ISA x distance ---- */
static const size_t distances[] = {0, 512, 2048, 4096, 16384};
#define DISTANCES (sizeof distances / sizeof distances[0])

/* Plain C counts only where there is nothing else. */
static const char *isa_of(unsigned variant) {
    const char *const *isa = tw_isa_list();
    return isa[variant / DISTANCES + (isa[1] != NULL)];
}

unsigned skeleton_variants(const char *most) {
    unsigned n = 0;
    for (const char *isa = ""; strcmp(isa, most) && isa_of(n); n += (unsigned)DISTANCES)
        isa = isa_of(n);
    return n;
}

void skeleton_run(const skeleton *s, unsigned variant) {
    size_t ahead = distances[variant % DISTANCES];
#if defined(__x86_64__)
    const char *isa = isa_of(variant);
#if defined(TW_EMULATE_AVX512)
    bool emulated = !strcmp(isa, "avx512");
#else
    bool emulated = false;
#endif
    if (emulated || !strcmp(isa, "avx2"))
        avx2_run(s, ahead);
    else if (!strcmp(isa, "avx512"))
        avx512_run(s, ahead);
    else
        plain_run(s, ahead);
    _mm_sfence();
#elif defined(__aarch64__)
    if (!strcmp(isa_of(variant), "neon"))
        neon_run(s, ahead);
    else
        plain_run(s, ahead);
#else
    plain_run(s, ahead);
#endif
}

void skeleton_describe(unsigned variant, char *buf, size_t cap) {
    snprintf(buf, cap, "%s, prefetch %zu B", isa_of(variant), distances[variant % DISTANCES]);
}
