/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Input by counter: value i of a rank in an iteration is a function of (seed, rank, iteration, i) alone, through the
 * finaliser of SplitMix64 (Steele, Lea & Flood 2014). No libm, so that every host makes the same values. */
#include "bench_allreduce.h"

#include <math.h>
#include <string.h>

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t draw(uint64_t key, uint64_t i) {
    return mix(key + i * 0x9e3779b97f4a7c15u);
}

/* Sum of four 16-bit uniforms, centred: bell-shaped and, being odd, never 0. The factor makes the standard deviation 1
 * and fills the mantissa. */
static inline float bell(uint64_t h) {
    int32_t s = (int32_t)((h & 0xffff) + ((h >> 16) & 0xffff) + ((h >> 32) & 0xffff) + (h >> 48));
    return (float)(2 * s - 262139) * (0.8660254f * 0x1p-16f);
}

static inline float unit(uint64_t h) /* odd multiple of 2^-21 in (-1, 1) */
{
    return (float)(2 * (int32_t)(h & 0x1fffff) - 0x1fffff) * 0x1p-21f;
}

static void fill_student(uint64_t key, uint64_t first, uint32_t n, float *dst) {
    for (uint32_t i = 0; i < n; i++) {
        uint64_t h = draw(key ^ 0x5555555555555555u, first + i);
        float a = unit(h), b = unit(h >> 21), c = unit(h >> 42);
        float x = bell(draw(key, first + i)) / sqrtf(a * a + b * b + c * c);
        dst[i] = x > 4096.0f ? 4096.0f : x < -4096.0f ? -4096.0f : x;
    }
}

/* One value in `every` (a power of two) is `big` times the bell, the others `rest` times. */
static void fill_spiked(uint64_t key, uint64_t first, uint32_t n, uint32_t every, float big, float rest, float *dst) {
    for (uint32_t i = 0; i < n; i++) {
        uint64_t h = draw(key, first + i);
        bool spike = ((uint32_t)(h * 0x9e3779b97f4a7c15u >> 32) & (every - 1)) == 0;
        dst[i] = bell(h) * (spike ? big : rest);
    }
}

static void fill(ba_shape shape, uint64_t key, uint64_t first, uint32_t n, float *dst) {
    switch (shape) {
    case BA_STUDENT:
        fill_student(key, first, n, dst);
        break;
    case BA_SPARSE:
        fill_spiked(key, first, n, 64, 8.0f, 0.0f, dst);
        break;
    case BA_OUTLIER:
        fill_spiked(key, first, n, 4096, 1024.0f, 1.0f, dst);
        break;
    default:
        for (uint32_t i = 0; i < n; i++)
            dst[i] = bell(draw(key, first + i));
    }
}

/* ---- halves: finite values only, to nearest even ---- */

static uint16_t to_bf16(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    return (uint16_t)((b + 0x7fff + ((b >> 16) & 1)) >> 16);
}

static float from_bf16(uint16_t h) {
    uint32_t b = (uint32_t)h << 16;
    float x;
    memcpy(&x, &b, 4);
    return x;
}

static uint16_t to_f16(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    uint32_t sign = (b >> 16) & 0x8000;
    b &= 0x7fffffff;
    if (b >= 0x477ff000) /* 65520 rounds to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (b < 0x38800000) { /* subnormal half: the unit in the last place of 0.5 is the smallest half */
        float f = fabsf(x) + 0.5f;
        memcpy(&b, &f, 4);
        return (uint16_t)(sign | (b - 0x3f000000));
    }
    b += 0xc8000fff + ((b >> 13) & 1); /* exponent bias 127 to 15, and half a unit */
    return (uint16_t)(sign | (b >> 13));
}

static float from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff, b;
    float x;
    if (rest < 0x400) {
        x = (float)rest * 0x1p-24f;
        return sign ? -x : x;
    }
    b = sign | (rest >= 0x7c00 ? 0x7f800000 | (rest & 0x3ff) << 13 : (rest << 13) + 0x38000000);
    memcpy(&x, &b, 4);
    return x;
}

static void store(tw_dtype t, const float *src, uint32_t n, void *dst) {
    uint16_t *h = dst;
    if (t == TW_F32)
        memcpy(dst, src, n * sizeof *src);
    else if (t == TW_BF16)
        for (uint32_t i = 0; i < n; i++)
            h[i] = to_bf16(src[i]);
    else
        for (uint32_t i = 0; i < n; i++)
            h[i] = to_f16(src[i]);
}

void ba_load(tw_dtype t, const void *src, uint32_t n, float *dst) {
    const uint16_t *h = src;
    if (t == TW_F32)
        memcpy(dst, src, n * sizeof *dst);
    else if (t == TW_BF16)
        for (uint32_t i = 0; i < n; i++)
            dst[i] = from_bf16(h[i]);
    else
        for (uint32_t i = 0; i < n; i++)
            dst[i] = from_f16(h[i]);
}

/* ---- what the others call ---- */

static uint64_t key_of(const ba_source *s, int rank, uint64_t iteration) {
    return mix(mix(mix(s->seed + 0x632be59bd9b4e019u) + (uint64_t)rank) + iteration);
}

void ba_values(const ba_source *s, int rank, uint64_t iteration, uint64_t first, uint32_t n, float *dst) {
    uint16_t rounded[BA_BLOCK];
    fill(s->shape, key_of(s, rank, iteration), first, n, dst);
    if (s->dtype != TW_F32) {
        store(s->dtype, dst, n, rounded);
        ba_load(s->dtype, rounded, n, dst);
    }
}

void ba_generate(const ba_source *s, int rank, uint64_t iteration, uint64_t first, uint64_t count, void *dst) {
    uint64_t key = key_of(s, rank, iteration);
    size_t elem = tw_dtype_size(s->dtype);
    unsigned char *to = dst;
    float block[BA_BLOCK];
    for (uint64_t at = 0; at < count; at += BA_BLOCK) {
        uint32_t n = count - at < BA_BLOCK ? (uint32_t)(count - at) : BA_BLOCK;
        fill(s->shape, key, first + at, n, block);
        store(s->dtype, block, n, to + at * elem);
    }
}

/* Four lanes of multiply and rotate: memory speed, and a changed bit anywhere changes the result. Not for adversaries.
 */
uint64_t ba_hash(uint64_t seed, const void *p, size_t bytes) {
    const unsigned char *at = p;
    uint64_t lane[4] = {seed ^ 0x9e3779b97f4a7c15u, seed ^ 0xbf58476d1ce4e5b9u, seed ^ 0x94d049bb133111ebu, ~seed};
    uint64_t h = seed + bytes;
    for (; bytes >= 32; bytes -= 32, at += 32)
        for (int l = 0; l < 4; l++) {
            uint64_t v;
            memcpy(&v, at + 8 * l, 8);
            lane[l] = (lane[l] ^ v) * 0x9fb21c651e98df25u;
            lane[l] = lane[l] << 29 | lane[l] >> 35;
        }
    for (int l = 0; l < 4; l++)
        h = mix(h ^ lane[l]);
    for (; bytes; bytes--)
        h = mix(h ^ *at++);
    return h;
}
