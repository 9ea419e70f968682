/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The power iteration of powersgd in double, from its description. */
#ifndef LOWRANK_MODEL_H
#define LOWRANK_MODEL_H

#include "trial.h"

typedef struct lowrank_model {
    uint32_t rows, cols, rank, iterations;
    const float *left; /* rows x rank; NULL: random */
    model_draw draw;
} lowrank_model;

/* mean: what all ranks together want to send; sizes: the sum of their norms, by weight. Returns how far, in norm, what fp32
 * makes of it may be from `out`; INFINITY where that says nothing. */
double model_lowrank(const lowrank_model *m, const double *mean, double sizes, double *out);

#endif
