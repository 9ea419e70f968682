/* SPDX-License-Identifier: BSD-3-Clause
 *
 * fp16, bf16 and OCP's two fp8, to nearest even, in integer arithmetic: right under any floating-point environment. Every
 * NaN becomes the canonical one, so that payloads agree between ISAs. */
#include "core/core.h"

#define F32_INF  0x7f800000u
#define F32_NAN  0x7fc00000u
#define F16_NAN  0x7e00u
#define BF16_NAN 0x7fc0u

static uint32_t bits_of(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static float float_of(uint32_t b) {
    float x;
    memcpy(&x, &b, sizeof x);
    return x;
}

/* v / 2^shift to nearest even, 1 <= shift <= 31 */
static uint32_t shift_nearest(uint32_t v, uint32_t shift) {
    uint32_t half = (UINT32_C(1) << (shift - 1)) - 1;
    return (v + half + ((v >> shift) & 1)) >> shift;
}

uint16_t tw_f32_to_f16(float x) {
    uint32_t b = bits_of(x);
    uint32_t sign = (b >> 16) & 0x8000u;
    uint32_t a = b & 0x7fffffffu;
    if (a > F32_INF)
        return F16_NAN;
    if (a >= 0x477ff000u) /* 65520 and more: halfway to 2^16 rounds to Inf */
        return (uint16_t)(sign | 0x7c00u);
    if (a >= 0x38800000u) /* 2^-14 and more: normal; a carry out of the mantissa moves the exponent up, as it must */
        return (uint16_t)(sign | shift_nearest(a - (112u << 23), 13));
    if (a < 0x33000000u) /* below 2^-25, half the least subnormal */
        return (uint16_t)sign;
    uint32_t exponent = a >> 23; /* 102 .. 112 */
    uint32_t mantissa = (a & 0x007fffffu) | 0x00800000u;
    return (uint16_t)(sign | shift_nearest(mantissa, 126u - exponent));
}

float tw_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    if (exponent == 31)
        return float_of(mantissa ? F32_NAN : sign | F32_INF);
    if (exponent)
        return float_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    if (!mantissa)
        return float_of(sign);
    exponent = 113;
    for (; !(mantissa & 0x400u); exponent--) /* subnormal: at most ten steps */
        mantissa <<= 1;
    return float_of(sign | (exponent << 23) | ((mantissa & 0x3ffu) << 13));
}

uint16_t tw_f32_to_bf16(float x) {
    uint32_t b = bits_of(x);
    if ((b & 0x7fffffffu) > F32_INF)
        return BF16_NAN;
    return (uint16_t)((b + 0x7fffu + ((b >> 16) & 1)) >> 16); /* the largest values carry into Inf, as they must */
}

float tw_bf16_to_f32(uint16_t h) {
    if ((h & 0x7fffu) > 0x7f80u)
        return float_of(F32_NAN);
    return float_of((uint32_t)h << 16);
}

/* E4M3: bias 7, 3 digits, up to 448; E5M2: bias 15, 2 digits, up to 57344. */
uint8_t tw_f32_to_fp8(float x, bool e5m2) {
    uint32_t b = bits_of(x), sign = (b >> 24) & 0x80u, a = b & 0x7fffffffu;
    uint32_t digits = e5m2 ? 2 : 3, bias = e5m2 ? 15 : 7, top = e5m2 ? 0x7bu : 0x7eu;
    if (a > F32_INF)
        return 0x7f;
    uint32_t exponent = a >> 23;
    if (exponent > 127 - bias) { /* normal: a carry out of the digits moves the exponent up, as it must */
        uint32_t code = shift_nearest(a - ((127 - bias) << 23), 23 - digits);
        return (uint8_t)(sign | (code < top ? code : top));
    }
    uint32_t shift = 151 - bias - digits - exponent;
    if (shift > 25) /* below half the least subnormal */
        return (uint8_t)sign;
    return (uint8_t)(sign | shift_nearest((a & 0x007fffffu) | 0x00800000u, shift));
}

float tw_fp8_to_f32(uint8_t code, bool e5m2) {
    uint32_t digits = e5m2 ? 2 : 3, bias = e5m2 ? 15 : 7, sign = (uint32_t)(code & 0x80u) << 24, size = code & 0x7fu;
    if (size >> digits)
        return float_of(sign | (((127 - bias) << 23) + (size << (23 - digits))));
    return float_of(sign | bits_of((float)size * (e5m2 ? 0x1p-16f : 0x1p-9f)));
}
