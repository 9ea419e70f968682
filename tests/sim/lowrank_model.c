/* SPDX-License-Identifier: BSD-3-Clause */
#include "lowrank_model.h"
#include "core/core.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RANK = 8, MOST_SIDE = 96 };

typedef struct work {
    const lowrank_model *m;
    double left[MOST_SIDE][MOST_RANK], right[MOST_RANK][MOST_SIDE]; /* rows x rank; rank vectors of cols values */
    double loses; /* how much larger a relative error of the sums may come out */
} work;

static float start_value(const lowrank_model *m, uint64_t i) {
    uint32_t words[4] = {m->draw.seed, m->draw.step, UINT32_MAX, 0}, counter[4] = {(uint32_t)(i / 4), 0, 0, 2}, out[4];
    uint64_t key = tw_hash64(words, sizeof words, tw_hash64(m->draw.name, strlen(m->draw.name), m->draw.block));
    model_philox(7, counter, key, out);
    uint32_t u = out[i % 4], sum = (u & 255) + (u >> 8 & 255) + (u >> 16 & 255) + (u >> 24);
    return ((float)sum - 510) / 128;
}

static double left_norm(const work *w, uint32_t k) {
    double sq = 0;
    for (uint32_t i = 0; i < w->m->rows; i++)
        sq += w->left[i][k] * w->left[i][k];
    return sqrt(sq);
}

/* Columns of norm 1; one of zeros begins anew. */
static void settle_left(work *w) {
    for (uint32_t k = 0; k < w->m->rank; k++) {
        double norm = left_norm(w, k);
        for (uint32_t i = 0; i < w->m->rows && norm == 0; i++)
            w->left[i][k] = (double)start_value(w->m, (uint64_t)i * w->m->rank + k);
        norm = left_norm(w, k);
        for (uint32_t i = 0; i < w->m->rows && norm > 0; i++)
            w->left[i][k] /= norm;
    }
}

static double dot(const double *a, const double *b, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* One vector against those before it, twice. Returns the share of it that is left. */
static double straighten(work *w, uint32_t k) {
    uint32_t n = w->m->cols;
    double *v = w->right[k], before = sqrt(dot(v, v, n));
    for (int turn = 0; turn < 2; turn++)
        for (uint32_t j = 0; j < k; j++) {
            double part = dot(v, w->right[j], n);
            for (uint32_t c = 0; c < n; c++)
                v[c] -= part * w->right[j][c];
        }
    double after = sqrt(dot(v, v, n)), share = before > 0 ? after / before : 0;
    for (uint32_t c = 0; c < n; c++)
        v[c] = share < 0x1p-20 ? 0 : v[c] / after;
    return share;
}

static void iterate(work *w, const double *mean, double sizes) {
    const lowrank_model *m = w->m;
    double worst = 1;
    settle_left(w);
    for (uint32_t k = 0; k < m->rank; k++)
        for (uint32_t c = 0; c < m->cols; c++) {
            w->right[k][c] = 0;
            for (uint32_t i = 0; i < m->rows; i++)
                w->right[k][c] += mean[(size_t)i * m->cols + c] * w->left[i][k];
        }
    for (uint32_t k = 0; k < m->rank; k++) {
        double norm = sqrt(dot(w->right[k], w->right[k], m->cols)), share = straighten(w, k);
        if (norm == 0 && sizes == 0)
            continue;
        /* near what fp32 takes for a dependent vector, or below its smallest numbers, either may come out */
        bool unclear = share < 0x1p-10 || norm < 1e-30;
        worst = unclear ? (double)INFINITY : fmax(worst, sizes / (norm * share));
    }
    w->loses *= worst;
    for (uint32_t i = 0; i < m->rows; i++)
        for (uint32_t k = 0; k < m->rank; k++)
            w->left[i][k] = dot(mean + (size_t)i * m->cols, w->right[k], m->cols);
}

double model_lowrank(const lowrank_model *m, const double *mean, double sizes, double *out) {
    work *w = calloc(1, sizeof *w);
    if (!w)
        return INFINITY;
    w->m = m;
    w->loses = 1;
    for (uint32_t i = 0; i < m->rows; i++)
        for (uint32_t k = 0; k < m->rank; k++)
            w->left[i][k] =
                m->left ? (double)m->left[(size_t)i * m->rank + k] : (double)start_value(m, (uint64_t)i * m->rank + k);
    for (uint32_t i = 0; i < m->iterations; i++)
        iterate(w, mean, sizes);
    for (uint32_t i = 0; i < m->rows; i++)
        for (uint32_t c = 0; c < m->cols; c++) {
            out[(size_t)i * m->cols + c] = 0;
            for (uint32_t k = 0; k < m->rank; k++)
                out[(size_t)i * m->cols + c] += w->left[i][k] * w->right[k][c];
        }
    double tolerance = w->loses * sizes * (m->rows + m->cols + 64) * m->rank * 0x1p-24;
    free(w);
    return tolerance < 0.05 * sizes || sizes == 0 ? tolerance : (double)INFINITY;
}
