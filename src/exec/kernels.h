/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One table of loops per ISA, all with the same bytes. Filled by isa_ref.c, isa_avx2.c, isa_avx512.c, isa_neon.c: each
 * includes the codecs' kernels/{ref,rows}/NAME.inc once per variant. No entry but of `reduce` is NULL: an ISA takes what
 * it lacks from the reference. */
#ifndef TW_KERNELS_H
#define TW_KERNELS_H

#include "compressors/codec.h"
#include "compressors/index.h"
#include "compressors/lowrank.h"
#include "compressors/sparse.h"

/* Variants of one encode loop.
 * PLAIN: x = g*scale;      nothing stored but the payload
 * EF:    x = g*scale + e;  out = x - decoded (non-temporal stores where they pay)
 * RECON: x = g*scale;      out = decoded (ordinary stores; for callers that go on with it in L1)
 * DRAIN: x = g*scale + e;  nothing stored but the payload (feedback was switched off: the residual goes out once) */
typedef enum tw_variant { TW_V_PLAIN, TW_V_EF, TW_V_RECON, TW_V_DRAIN, TW_VARIANTS } tw_variant;

typedef struct tw_kernels {
    tw_isa isa;
    const char *name;
    tw_encode_fn encode[TW_CODECS][TW_VARIANTS];
    tw_decode_fn decode_set[TW_CODECS];    /* y  = decoded; ordinary stores */
    tw_decode_fn decode_stream[TW_CODECS]; /* y  = decoded; non-temporal stores where y's alignment allows */
    tw_decode_fn decode_add[TW_CODECS];    /* y += decoded */
    tw_reduce_fn reduce[TW_CODECS];        /* NULL: the owner adds with decode_set and decode_add, then encodes */
    /* halves <-> fp32, NaN canonical. src and dst do not overlap; any alignment of their own element size */
    void (*f16_to_f32)(float *dst, const uint16_t *src, uint32_t n);
    void (*bf16_to_f32)(float *dst, const uint16_t *src, uint32_t n);
    void (*f32_to_f16)(uint16_t *dst, const float *src, uint32_t n);
    void (*f32_to_bf16)(uint16_t *dst, const float *src, uint32_t n);
    void (*set_scaled)(float *y, const float *g, float scale, uint32_t n); /* y  = g*scale */
    void (*add_scaled)(float *y, const float *g, float scale, uint32_t n); /* y += g*scale, rounded twice */
    double (*sum_sq)(const float *x, uint32_t n);                          /* as in codec.h; NaN if not finite */
    /* Philox4x32-7 for n values, a byte each: 4 words of 32 lanes for every 512, where quant and ternary look for them */
    void (*draw)(const tw_noise *noise, uint32_t n, uint32_t *words);
    const tw_index_loops *index;
    tw_select_fn select;
    tw_radix_fn radix;
    const tw_lowrank_loops *lowrank;
} tw_kernels;

extern const tw_kernels tw_kernels_ref;
#if defined(__x86_64__)
extern const tw_kernels tw_kernels_avx2, tw_kernels_avx512;
#elif defined(__aarch64__)
extern const tw_kernels tw_kernels_neon;
#endif
const tw_kernels *tw_kernels_best(void);             /* best for this CPU, or what THINWIRE_ISA forces */
const tw_kernels *tw_kernels_named(const char *isa); /* NULL and a sentence: unknown, or this CPU cannot */

#endif
