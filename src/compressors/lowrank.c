/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Low-rank factors: where they begin, and what keeps them well apart. The passes over matrices are in kernels/. */
#include "compressors/lowrank.h"
#include "compressors/kernels/tile.h"
#include <math.h>

/* What is left of a vector, squared, when it counts as dependent; and when taking away the others cost so little of it that
 * rounding did no harm ("twice is enough": the next pass leaves nearly all). */
#define DEPENDENT  0x1p-40
#define NEARLY_ALL 0.25
#define MOST_TURNS 4

/* Values i - i % 4 .. i - i % 4 + 3 of a first L. */
static void start_values(uint64_t i, const tw_noise *noise, float v[4]) {
    uint64_t block = i / 4;
    const uint32_t counter[4] = {(uint32_t)block, noise->tile[0], noise->tile[1], 2 + ((uint32_t)(block >> 32) << 8)};
    uint32_t word[4];
    tw_philox(TW_PHILOX_FEW, counter, noise->key, word);
    for (int w = 0; w < 4; w++) {
        uint32_t u = word[w];
        v[w] = ((float)((u & 255) + (u >> 8 & 255) + (u >> 16 & 255) + (u >> 24)) - 510.0f) * 0x1p-7f;
    }
}

void tw_lowrank_start(float *left, uint64_t rows, uint32_t rank, const tw_noise *noise) {
    float v[4];
    for (uint64_t i = 0; i < rows * rank; i++) {
        if (i % 4 == 0)
            start_values(i, noise, v);
        left[i] = v[i % 4];
    }
}

/* A power of two that takes the largest magnitude of these bits to [1, 2), as a product, since it may be beyond fp32. */
typedef struct power {
    float by[2];
} power;

static power to_one(uint32_t most) {
    int exponent = (int)(most >> 23) - 127;
    if (exponent == -127)
        exponent = -118 - __builtin_clz(most);
    int half = -exponent / 2;
    return (power){{tw_float_of((uint32_t)(127 + half) << 23), tw_float_of((uint32_t)(127 - exponent - half) << 23)}};
}

static bool is_number(uint32_t most) {
    return most != 0 && most < 0x7f800000u;
}

void tw_lowrank_warm(float *left, uint64_t rows, uint32_t rank, const tw_noise *noise) {
    uint32_t most[TW_LOWRANK_MOST] = {0};
    power p[TW_LOWRANK_MOST];
    for (uint64_t i = 0; i < rows; i++)
        for (uint32_t k = 0; k < rank; k++) {
            uint32_t size = tw_bits_of(left[i * rank + k]) & 0x7fffffffu;
            most[k] = size > most[k] ? size : most[k];
        }
    for (uint32_t k = 0; k < rank; k++)
        p[k] = to_one(is_number(most[k]) ? most[k] : 0x3f800000u);
    for (uint64_t i = 0; i < rows; i++)
        for (uint32_t k = 0; k < rank; k++) {
            float *v = &left[i * rank + k], fresh[4];
            if (is_number(most[k])) {
                *v = *v * p[k].by[0] * p[k].by[1];
            } else {
                start_values(i * rank + k, noise, fresh);
                *v = fresh[(i * rank + k) % 4];
            }
        }
}

/* Its largest magnitude in [1, 2), so that squares are safe. False: nothing but zeros. */
static bool scale_vector(float *v, uint64_t n) {
    uint32_t most = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t size = tw_bits_of(v[i]) & 0x7fffffffu;
        most = size > most ? size : most;
    }
    if (most == 0)
        return false;
    power p = to_one(most);
    for (uint64_t i = 0; i < n; i++)
        v[i] = v[i] * p.by[0] * p.by[1];
    return true;
}

/* Vector j against those before it. False: it depends on them. */
static bool turn_away(const tw_lowrank_loops *l, const float *right, uint64_t cols, uint32_t j, float *v) {
    double whole = l->dot(v, v, cols), before = whole, after = whole;
    for (int turn = 0; turn < MOST_TURNS; turn++) {
        for (uint32_t i = 0; i < j; i++)
            l->take(v, right + i * cols, (float)l->dot(right + i * cols, v, cols), cols);
        after = j ? l->dot(v, v, cols) : whole;
        if (after <= DEPENDENT * whole)
            return false;
        if (after >= NEARLY_ALL * before) {
            float inverse = (float)(1.0 / sqrt(after));
            for (uint64_t i = 0; i < cols; i++)
                v[i] *= inverse;
            return true;
        }
        before = after;
    }
    return false;
}

static bool all_finite(const float *v, uint64_t n) {
    uint32_t bad = 0;
    for (uint64_t i = 0; i < n; i++)
        bad |= (tw_bits_of(v[i]) & 0x7f800000u) == 0x7f800000u;
    return !bad;
}

bool tw_lowrank_orthogonalise(const tw_lowrank_loops *l, float *right, uint64_t cols, uint32_t rank) {
    bool finite = all_finite(right, rank * cols);
    if (!finite)
        memset(right, 0, rank * cols * sizeof *right);
    for (uint32_t j = 0; j < rank && finite; j++) {
        float *v = right + j * cols;
        if (!scale_vector(v, cols) || !turn_away(l, right, cols, j, v))
            memset(v, 0, cols * sizeof *v);
    }
    return finite;
}
