/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Low-rank factors of a matrix M = g * scale + e, rows x cols in C order (PowerSGD, Vogels et al. 2019): M is sent as L R',
 * L = M R, R orthogonal columns near the leading right singular vectors.
 *
 * *left* is L: rows x rank, row by row. *right* is R turned over: rank vectors of cols values, one after another. The pass
 * over M that gives R (M'L) and the pass that gives L and, row by row, what is lost (M - L R') both work on any run of rows,
 * so a plan can cut them into units; in the order of the rows, units of any size give the same bytes. */
#ifndef TW_LOWRANK_H
#define TW_LOWRANK_H

#include "compressors/codec.h"

#define TW_LOWRANK_MOST 128u /* largest rank */

/* Some rows of the layer. x = g * scale + e * weight, rounded after each step. */
typedef struct tw_rows {
    const void *g;  /* n * cols values of dtype, the first of them the first row's; any alignment */
    const float *e; /* residual of the same values; NULL: none */
    float *e_new;   /* left only: x - L R', divided by the weight; NULL: not wanted. Overlaps neither g nor e */
    float scale;
    float weight;              /* of e in positions [own_first, own_first + own_n) of the layer, 1 elsewhere (a fold) */
    uint64_t own_first, own_n; /* own_n = 0: nowhere */
    uint64_t first, n;         /* rows first .. first + n - 1 of the layer */
    uint64_t cols;
    uint32_t rank;
    tw_dtype dtype;
} tw_rows;

/* The loops that each ISA has its own of, with the same bytes. `left` is the part of L for the rows at hand. */
typedef struct tw_lowrank_loops {
    /* right[k][c] += x[i][c] * left[i][k], row by row: a sum from zero over all rows is M'L. NaN or Inf in x goes into it. */
    void (*right)(const tw_rows *a, const float *left, float *right);
    /* left[i][k] = sum of x[i][c] * right[k][c] over c: column c goes into lane c mod 16, lanes are halved 8, 4, 2, 1.
     * lost = x - (left[i][0] * right[0][c] + left[i][1] * right[1][c] + ...), from the left; e_new = lost * (1 / weight).
     * Adds to stat the squares of x and lost, as codec.h has it but that a row is summed by itself, 16 lanes x 64 for 1024
     * values, and in double when its sum leaves the range; then row to row in double. nonfinite = 1 when any x, left or lost
     * is NaN or Inf; the row then adds nothing to the sums. */
    void (*left)(const tw_rows *a, const float *right, float *left, tw_tile_stat *stat);
    /* out = L R' in the order of `lost`; n rows of cols values of a->dtype at `out`, any alignment. NaN is canonical. Of a only n, cols, rank and dtype are looked at. */
    void (*out)(const tw_rows *a, const float *left, const float *right, void *out);
    /* Sum of a[i] * b[i]: per 1024 values in fp32, 32 lanes x 32, halved; these in double, in order. */
    double (*dot)(const float *a, const float *b, uint64_t n);
    void (*take)(float *v, const float *q, float by, uint64_t n); /* v -= q * by */
} tw_lowrank_loops;
extern const tw_lowrank_loops tw_lowrank_ref;

/* The reference's: value by value. Other ISAs leave rows to it whose sums left the range or that weights change in. */
void tw_slow_right(const tw_rows *a, const float *left, float *right);
void tw_slow_left(const tw_rows *a, const float *right, float *left, tw_tile_stat *stat);

/* A first L: (sum of 4 random bytes - 510) / 128, about normal with deviation 1.15. Value i (row by row) is made of word i
 * mod 4 of Philox4x32-7 with counter {low half of i / 4, tile, 2 + 256 * high half} and the noise's key, which stands for
 * seed, step and layer. */
void tw_lowrank_start(float *left, uint64_t rows, uint32_t rank, const tw_noise *noise);
/* Makes the L of one step that of the next one: each column times a power of two, so that its largest magnitude is in [1, 2)
 * and products neither overflow nor vanish. A column of zeros (or with NaN or Inf) would never come back: it starts again. */
void tw_lowrank_warm(float *left, uint64_t rows, uint32_t rank, const tw_noise *noise);
/* Makes R's vectors orthonormal in place, to about 1e-6. One that depends on those before it (less than 2^-20 of it is left)
 * becomes +0. False: some value is NaN or Inf; then all of R is +0. */
bool tw_lowrank_orthogonalise(const tw_lowrank_loops *l, float *right, uint64_t cols, uint32_t rank);

#endif
