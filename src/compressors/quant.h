/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What all loops of quant share: the grids, where things lie in a payload, and when a group is plain sailing. */
#ifndef TW_QUANT_H
#define TW_QUANT_H

#include "compressors/codec.h"

/* EVEN: decoded = level * scale, levels around 0 (absmax; mse of 6 and 8 bits). RANGE: centre + level * scale, levels
 * at halves (minmax). TABLE: a level of the grid times the scale (mse of 2 to 4 bits). */
typedef enum tw_quant_kind { TW_QUANT_EVEN, TW_QUANT_RANGE, TW_QUANT_TABLE } tw_quant_kind;

#define TW_QUANT_LEVELS 8u /* positive ones of the largest table */

typedef struct tw_quant_grid {
    float parts; /* absmax: scale = max |x| / parts */
    float most;  /* EVEN: levels are -most .. most */
    float last;  /* RANGE: codes are 0 .. last */
    float level[TW_QUANT_LEVELS];
} tw_quant_grid;
extern const tw_quant_grid tw_quant_grids[9]; /* by bits */

static inline tw_quant_kind tw_quant_kind_of(const tw_spec *s) {
    if (s->scale == TW_SCALE_MINMAX)
        return TW_QUANT_RANGE;
    return s->scale == TW_SCALE_MSE && s->bits <= 4 ? TW_QUANT_TABLE : TW_QUANT_EVEN;
}

/* Bits of the first plane; the others are in the second one: 6 = 4 + 2, 3 = 2 + 1. */
static inline unsigned tw_quant_low_bits(unsigned bits) {
    return bits == 6 ? 4 : bits == 3 ? 2 : bits;
}

/* Bytes before the planes: the scales, and for minmax the centres. */
static inline size_t tw_quant_head(const tw_spec *s, uint32_t n) {
    return (n + s->group - 1) / s->group * sizeof(float) * (s->scale == TW_SCALE_MINMAX ? 2 : 1);
}

/* mse of 6 and 8 bits: besides max |x| / most, the scale may be max |x| over this. One value that is cut by t steps then
 * costs m / 12 + t * t in steps of max |x| / (most + t) instead of m / 12 longer ones, which is least for t = m / (12
 * most); a third of it leaves less to lose where more values are cut. */
static inline float tw_quant_further(const tw_quant_grid *grid, uint32_t m) {
    return grid->most + (float)m / (32.0f * grid->most);
}

/* The size of a group (max |x|; for tables the sum of |x|) for which fp32 steps are safe: neither 1 / scale nor a decoded
 * value can overflow. Other groups go by the careful rules of ref/quant.inc. */
static inline bool tw_quant_easy(float size) {
    return size == 0.0f || (size >= 0x1p-80f && size <= 0x1p110f);
}

#endif
