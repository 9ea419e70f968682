/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the loops of all ISAs share: the out-of-line encoders that follow every rule of codec.h from a prepared x. They
 * are the reference's loops; the fast ones hand a tile over to them when a sum leaves the range in which fp32 is safe.
 */
#ifndef TW_KERNELS_TILE_H
#define TW_KERNELS_TILE_H

#include "compressors/codec.h"

#define TW_INLINE         static inline __attribute__((always_inline))
#define TW_LANES          32u   /* values of one row */
#define TW_SEGMENT        1024u /* values summed in fp32 before a tree or a double takes over */
#define TW_SQ_MIN         0x1p-90
#define TW_SQ_MAX         0x1p120
#define TW_QUIET_NAN_BITS 0x7fc00000u
#define TW_TERNARY_SHARE  0.767f    /* of mean |x|: what ternary keeps is larger (docs/codecs.md says why) */
#define TW_FP8_SMALL      0x1p-100f /* groups below take a power of two as their scale */

/* What a variant stores beside the payload. */
enum { TW_OUT_NONE, TW_OUT_RESIDUAL, TW_OUT_DECODED };
/* Where a decoder puts its values. */
enum { TW_SINK_SET, TW_SINK_STREAM, TW_SINK_ADD };

static inline bool tw_sq_in_range(double t) {
    return t >= TW_SQ_MIN && t <= TW_SQ_MAX;
}
static inline uint32_t tw_bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
static inline float tw_float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Where the product rounds up to a subnormal mean nothing would be above it: then all but 0 is kept. */
static inline float tw_ternary_threshold(float mean) {
    float threshold = TW_TERNARY_SHARE * mean;
    return threshold < mean ? threshold : 0.0f;
}

/* Payload, out and stat of a tile from x[0..a->n); g, e and scale of a are not looked at. */
void tw_slow_none(const tw_spec *s, const tw_enc *a, const float *x, int out, tw_tile_stat *stat);
void tw_slow_cast(const tw_spec *s, const tw_enc *a, const float *x, int out, tw_tile_stat *stat);
void tw_slow_onebit(const tw_spec *s, const tw_enc *a, const float *x, int out, tw_tile_stat *stat);
void tw_slow_quant(const tw_spec *s, const tw_enc *a, const float *x, int out, tw_tile_stat *stat);
void tw_slow_ternary(const tw_spec *s, const tw_enc *a, const float *x, int out, tw_tile_stat *stat);
void tw_slow_randk(const tw_spec *s, const tw_enc *a, const float *x, int out, tw_tile_stat *stat);
void tw_quant_signs(uint32_t seed, uint32_t n, uint32_t *signs); /* of a group's first n values, 32 a word */
float tw_quant_norm(uint32_t k);                                 /* 2^(-k/2) */
double tw_slow_sum_sq(const float *x, uint32_t n);               /* NaN if not finite */

#endif
