/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The reference loops: plain C, for every machine; the encoders here are also every other ISA's slow path. */
#include "exec/kernels.h"
#include "compressors/kernels/ref/common.inc"

#define TW_ISA_TAG ref
#define TW_ISA_ID  TW_ISA_REF

#define TW_CODEC_TAG  none
#define TW_CODEC_FILE "compressors/kernels/ref/none.inc"
#include "exec/instantiate.inc"

#define TW_CODEC_TAG  onebit
#define TW_CODEC_FILE "compressors/kernels/ref/onebit.inc"
#include "exec/instantiate.inc"

#define TW_CODEC_TAG  quant
#define TW_CODEC_FILE "compressors/kernels/ref/quant.inc" /* groups are summed as onebit's are */
#include "exec/instantiate.inc"

#define TW_CODEC_TAG  cast
#define TW_CODEC_FILE "compressors/kernels/ref/cast.inc" /* powers of two as onebit has them */
#include "exec/instantiate.inc"

#define TW_CODEC_TAG  ternary
#define TW_CODEC_FILE "compressors/kernels/ref/ternary.inc" /* scales as onebit's, noise as quant's */
#include "exec/instantiate.inc"

#define TW_CODEC_TAG  randk
#define TW_CODEC_FILE "compressors/kernels/ref/randk.inc"
#include "exec/instantiate.inc"

#include "compressors/kernels/ref/index.inc"
#include "compressors/kernels/ref/select.inc"
#include "compressors/kernels/ref/lowrank.inc"

double tw_slow_sum_sq(const float *x, uint32_t n) {
    return tw_ref_all_finite(x, n) ? tw_ref_finite_sum_sq(x, n) : (double)tw_float_of(TW_QUIET_NAN_BITS);
}

static void tw_ref_f16_to_f32(float *dst, const uint16_t *src, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        dst[i] = tw_f16_to_f32(src[i]);
}

static void tw_ref_bf16_to_f32(float *dst, const uint16_t *src, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        dst[i] = tw_bf16_to_f32(src[i]);
}

static void tw_ref_f32_to_f16(uint16_t *dst, const float *src, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        dst[i] = tw_f32_to_f16(src[i]);
}

static void tw_ref_f32_to_bf16(uint16_t *dst, const float *src, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        dst[i] = tw_f32_to_bf16(src[i]);
}

static void tw_ref_set_scaled(float *y, const float *g, float scale, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        y[i] = g[i] * scale;
}

static void tw_ref_add_scaled(float *y, const float *g, float scale, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        y[i] = y[i] + g[i] * scale;
}

static void tw_ref_draw(const tw_noise *noise, uint32_t n, uint32_t *words) {
    for (uint32_t c = 0; c < tw_ceil_div(n, 512) * TW_LANES; c++) {
        const uint32_t counter[4] = {c, noise->tile[0], noise->tile[1], 0};
        uint32_t out[4];
        tw_philox(TW_PHILOX_FEW, counter, noise->key, out);
        for (uint32_t w = 0; w < 4; w++)
            words[(c / TW_LANES * 4 + w) * TW_LANES + c % TW_LANES] = out[w];
    }
}

static double tw_ref_sum_sq(const float *x, uint32_t n) {
    return tw_slow_sum_sq(x, n);
}

#define TW_INDEX_LOOPS tw_index_ref
#define TW_REDUCERS    NULL /* the long way is the reference */
#include "exec/table.inc"
