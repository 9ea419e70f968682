/* SPDX-License-Identifier: BSD-3-Clause
 *
 * randk: which values of a tile are kept (rules in codec.h). One in each of m strata of equal length, give or take a
 * value; the strata are turned by a random distance, so that every position has the same chance, m/n. */
#ifndef TW_RANDK_H
#define TW_RANDK_H

#include "compressors/codec.h"

typedef struct tw_randk {
    uint32_t kept, turn;
    uint32_t step; /* length of a stratum in 2^-16 values, rounded up: at most 2^28, so that kept * step fits */
    float gain;    /* unbiased: n / kept; else 1 */
} tw_randk;
tw_randk tw_randk_of(const tw_spec *s, const tw_noise *noise, uint32_t n);
float tw_randk_gain(const tw_spec *s, uint32_t n);

#endif
