/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Low-rank kernels: every ISA writes the reference's bytes, units of rows change none, sums and residuals are those of a model
 * in double, and orthogonal vectors are orthogonal whatever comes in. */
#include <math.h>
#include "unit.h"
#include "exec/exec.h"

enum { MOST = 20000, SLACK = 64 };

/* A matrix, its residual and all that the passes make of it. */
typedef struct matrix {
    uint64_t rows, cols;
    tw_rows a;
    _Alignas(64) float g[MOST + SLACK];
    uint16_t half[MOST + SLACK];
    _Alignas(64) float e[MOST + SLACK], e_new[MOST + SLACK], out[MOST + SLACK];
    uint16_t half_out[MOST + SLACK];
    float start[MOST + SLACK], left[MOST + SLACK], right[MOST + SLACK], sum[MOST + SLACK];
    tw_tile_stat stat;
} matrix;

static matrix want, got;

enum {
    NORMAL,
    ZEROS,
    OUTLIER,
    ALTERNATING,
    TINY,
    SUBNORMAL,
    LARGE,
    HUGE_ROWS,
    NAN_ROW,
    INF_ROW,
    ZERO_ROWS,
    RANK_ONE,
    KINDS
};

static float value_of(unit_rng *r, int kind, uint64_t i, uint64_t cols, uint64_t count) {
    float x = unit_float(r) + unit_float(r) + unit_float(r);
    switch (kind) {
    case ZEROS:
        return unit_below(r, 2) ? 0.0f : -0.0f;
    case OUTLIER:
        return i == count / 2 ? 3e4f : x * 1e-3f;
    case ALTERNATING:
        return i % 2 ? 1.0f : -1.0f;
    case TINY:
        return x * 1e-30f;
    case SUBNORMAL:
        return x * 1e-41f;
    case LARGE:
        return x * 1e17f;
    case HUGE_ROWS:
        return i / cols % 5 == 3 ? x * 1e38f : x;
    case NAN_ROW:
        return i == count / 3 ? (float)NAN : x;
    case INF_ROW:
        return i == count - 1 ? -INFINITY : x;
    case ZERO_ROWS:
        return i / cols % 3 ? 0.0f : x;
    case RANK_ONE:
        return (float)(i / cols % 7 + 1) * (float)(i % cols % 11) * 0.125f;
    default:
        return x;
    }
}

static void fill(matrix *m, unit_rng *r, int kind, uint64_t rows, uint64_t cols, uint32_t rank) {
    uint64_t count = rows * cols;
    memset(m, 0, sizeof *m);
    m->rows = rows;
    m->cols = cols;
    m->a = (tw_rows){.scale = unit_below(r, 2) ? 1.0f : 0.3f, .weight = 1.0f, .n = rows, .cols = cols, .rank = rank};
    m->a.dtype = unit_below(r, 2) ? TW_F32 : unit_below(r, 2) ? TW_F16 : TW_BF16;
    uint64_t off = unit_below(r, 2) ? 0 : unit_below(r, 17);
    for (uint64_t i = 0; i < count; i++) {
        float x = value_of(r, kind, i, cols, count);
        m->g[off + i] = x;
        m->half[off + i] = m->a.dtype == TW_F16 ? tw_f32_to_f16(x) : tw_f32_to_bf16(x);
        m->e[i] = value_of(r, kind == NAN_ROW || kind == INF_ROW ? NORMAL : kind, i, cols, count);
    }
    m->a.g = m->a.dtype == TW_F32 ? (void *)(m->g + off) : (void *)(m->half + off);
    m->a.e = unit_below(r, 4) ? m->e : NULL;
    m->a.e_new = m->a.e && unit_below(r, 4) ? m->e_new : NULL;
    if (m->a.e && unit_below(r, 2)) {
        m->a.weight = (float)(1 + unit_below(r, 9));
        m->a.own_first = unit_below(r, (uint32_t)count);
        m->a.own_n = unit_below(r, (uint32_t)(count - m->a.own_first + 1));
    }
    tw_lowrank_start(m->start, rows, rank, &(tw_noise){{unit_below(r, 99), 7}, {3, 0}});
}

/* Rows first .. first + n - 1 of it. */
static tw_rows part_of(const matrix *m, uint64_t first, uint64_t n) {
    tw_rows a = m->a;
    a.g = (const char *)a.g + first * a.cols * tw_dtype_size(a.dtype);
    a.e = a.e ? a.e + first * a.cols : NULL;
    a.e_new = a.e_new ? a.e_new + first * a.cols : NULL;
    a.first += first;
    a.n = n;
    return a;
}

/* A whole step, in units of random length or, without r, in one. */
static void step(const tw_lowrank_loops *l, matrix *m, unit_rng *r) {
    uint32_t rank = m->a.rank;
    for (uint64_t i = 0, n; i < m->rows; i += n) {
        n = r ? 1 + unit_below(r, (uint32_t)(m->rows - i)) : m->rows;
        tw_rows a = part_of(m, i, n);
        l->right(&a, m->start + i * rank, m->right);
    }
    memcpy(m->sum, m->right, sizeof m->sum);
    tw_lowrank_orthogonalise(l, m->right, m->cols, rank);
    for (uint64_t i = 0, n; i < m->rows; i += n) {
        n = r ? 1 + unit_below(r, (uint32_t)(m->rows - i)) : m->rows;
        tw_rows a = part_of(m, i, n);
        l->left(&a, m->right, m->left + i * rank, &m->stat);
        l->out(&a, m->left + i * rank, m->right,
               a.dtype == TW_F32 ? (void *)(m->out + i * m->cols) : (void *)(m->half_out + i * m->cols));
    }
}

/* Bit for bit, but that all NaN are alike. */
static bool same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (unit_bits(a[i]) != unit_bits(b[i]) && (a[i] == a[i] || b[i] == b[i]))
            return false;
    return true;
}

static bool same_results(const matrix *a, const matrix *b) {
    bool same = same_floats(a->sum, b->sum, MOST + SLACK) && same_floats(a->right, b->right, MOST + SLACK) &&
                same_floats(a->left, b->left, MOST + SLACK) && same_floats(a->e_new, b->e_new, MOST + SLACK) &&
                !memcmp(a->out, b->out, sizeof a->out) && !memcmp(a->half_out, b->half_out, sizeof a->half_out);
    return same && a->stat.nonfinite == b->stat.nonfinite && !memcmp(&a->stat.x_sq, &b->stat.x_sq, sizeof(double)) &&
           !memcmp(&a->stat.e_sq, &b->stat.e_sq, sizeof(double));
}

static void random_shape(unit_rng *r, uint64_t *rows, uint64_t *cols, uint32_t *rank) {
    static const uint32_t sizes[] = {1,  2,  3,  7,  15,  16,   17,   31,   32,   33,
                                     48, 61, 64, 97, 128, 1023, 1024, 1025, 1040, 2051};
    static const uint32_t ranks[] = {1, 2, 3, 4, 4, 4, 5, 6, 8, 17};
    *cols = sizes[unit_below(r, UNIT_COUNT(sizes))];
    *rows = 1 + unit_below(r, (uint32_t)(MOST / *cols < 70 ? MOST / *cols : 70));
    *rank = ranks[unit_below(r, UNIT_COUNT(ranks))];
    *rank = *rank * *cols > MOST ? 4 : *rank;
}

static void every_isa_and_every_cut_give_the_same_bytes(void) {
    unit_rng r = unit_seeded("same bytes");
    for (int round = 0; round < 1200; round++) {
        uint64_t rows, cols;
        uint32_t rank;
        random_shape(&r, &rows, &cols, &rank);
        unit_rng again = r;
        fill(&want, &r, round % KINDS, rows, cols, rank);
        step(tw_kernels_named("ref")->lowrank, &want, NULL);
        for (const char *const *isa = tw_isa_list(); *isa; isa++)
            for (int cut = 0; cut < 2; cut++) {
                unit_rng once_more = again, lengths = {(uint64_t)round};
                fill(&got, &once_more, round % KINDS, rows, cols, rank);
                step(tw_kernels_named(*isa)->lowrank, &got, cut ? &lengths : NULL);
                bool same = same_results(&want, &got);
                CU_ASSERT(same);
                if (!same)
                    printf("round %d, %s, %llu x %llu, rank %u, %s%s%s%s\n", round, *isa, (unsigned long long)rows,
                           (unsigned long long)cols, rank, tw_dtype_name(want.a.dtype), cut ? ", cut" : "",
                           want.a.e ? ", e" : "", want.a.own_n ? ", own" : "");
            }
    }
}

/* Value i as the passes see it, in double but rounded where they round. */
static double model_x(const matrix *m, uint64_t i) {
    const uint16_t *half = m->a.g;
    float g = m->a.dtype == TW_F32   ? ((const float *)m->a.g)[i]
              : m->a.dtype == TW_F16 ? tw_f16_to_f32(half[i])
                                     : tw_bf16_to_f32(half[i]);
    float x = (float)((double)g * m->a.scale);
    if (!m->a.e)
        return x;
    bool own = i >= m->a.own_first && i < m->a.own_first + m->a.own_n;
    return (float)((double)x + (own ? (float)((double)m->a.e[i] * m->a.weight) : m->a.e[i]));
}

/* Sums within what rounding of n terms allows; residuals and outputs within that of rank terms. */
static void check_model(const matrix *m) {
    uint64_t rows = m->rows, cols = m->cols, rank = m->a.rank;
    double x_sq = 0, e_sq = 0;
    for (uint64_t k = 0; k < rank; k++)
        for (uint64_t c = 0; c < cols; c++) {
            double sum = 0, size = 0;
            for (uint64_t i = 0; i < rows; i++) {
                sum += model_x(m, i * cols + c) * m->start[i * rank + k];
                size += fabs(model_x(m, i * cols + c) * m->start[i * rank + k]);
            }
            CU_ASSERT(fabs(sum - m->sum[k * cols + c]) <= (double)(rows + 1) * 0x1p-24 * size);
        }
    for (uint64_t i = 0; i < rows; i++) {
        for (uint64_t k = 0; k < rank; k++) {
            double sum = 0, size = 0;
            for (uint64_t c = 0; c < cols; c++) {
                sum += model_x(m, i * cols + c) * m->right[k * cols + c];
                size += fabs(model_x(m, i * cols + c) * m->right[k * cols + c]);
            }
            CU_ASSERT(fabs(sum - m->left[i * rank + k]) <= (double)(cols / 16 + 6) * 0x1p-24 * size);
        }
        for (uint64_t c = 0; c < cols; c++) {
            double x = model_x(m, i * cols + c), product = 0, size = 0;
            for (uint64_t k = 0; k < rank; k++) {
                product += (double)m->left[i * rank + k] * m->right[k * cols + c];
                size += fabs((double)m->left[i * rank + k] * m->right[k * cols + c]);
            }
            double room = (double)(rank + 1) * 0x1p-24 * (size + fabs(x - product));
            bool own = i * cols + c - m->a.own_first < m->a.own_n;
            double lost = (double)m->e_new[i * cols + c] * (own ? m->a.weight : 1.0f);
            CU_ASSERT(!m->a.e_new || fabs(x - product - lost) <= room + fabs(lost) * 0x1p-22);
            CU_ASSERT(m->a.dtype != TW_F32 || fabs(product - m->out[i * cols + c]) <= room);
            x_sq += x * x;
            e_sq += (x - product) * (x - product);
        }
    }
    CU_ASSERT(fabs(m->stat.x_sq - x_sq) <= 0x1p-16 * x_sq);
    CU_ASSERT(fabs(m->stat.e_sq - e_sq) <= 0x1p-16 * e_sq + 1e-12 * x_sq);
    CU_ASSERT_EQUAL(m->stat.nonfinite, 0);
}

static void sums_are_those_of_a_model(void) {
    unit_rng r = unit_seeded("model");
    static const int kinds[] = {NORMAL, OUTLIER, ALTERNATING, LARGE, ZERO_ROWS, RANK_ONE};
    for (int round = 0; round < 120; round++) {
        uint64_t rows, cols;
        uint32_t rank;
        random_shape(&r, &rows, &cols, &rank);
        fill(&got, &r, kinds[round % 6], rows, cols, rank);
        if (kinds[round % 6] == LARGE && got.a.dtype == TW_F16)
            continue;
        step(tw_kernels_best()->lowrank, &got, NULL);
        check_model(&got);
    }
}

/* NaN and Inf anywhere, and products that overflow, are told by the pass that makes the residual; numbers are not. */
static void what_is_not_finite_is_told(void) {
    unit_rng r = unit_seeded("not finite");
    for (int round = 0; round < 400; round++) {
        uint64_t rows, cols;
        uint32_t rank;
        random_shape(&r, &rows, &cols, &rank);
        fill(&got, &r, NORMAL, rows, cols, rank);
        uint64_t at = unit_below(&r, (uint32_t)(rows * cols));
        uint16_t *half = (uint16_t *)(uintptr_t)got.a.g;
        float bad = round % 2 ? INFINITY : (float)NAN;
        int where = round % 4;
        if (where == 3 && got.a.e)
            got.e[at] = bad;
        else if (where && got.a.dtype == TW_F32)
            ((float *)half)[at] = bad;
        else if (where)
            half[at] = got.a.dtype == TW_F16 ? tw_f32_to_f16(bad) : tw_f32_to_bf16(bad);
        got.a.scale = 1.0f;
        for (uint64_t i = 0; i < rank * cols; i++)
            got.right[i] = unit_float(&r);
        tw_kernels_best()->lowrank->left(&got.a, got.right, got.left, &got.stat);
        CU_ASSERT_EQUAL(got.stat.nonfinite, where != 0);
    }
}

/* Largest deviation of R'R from the identity, vectors of zeros left out; *zeros counts them. */
static double not_orthonormal(const float *v, uint64_t cols, uint32_t rank, uint32_t *zeros) {
    double worst = 0;
    *zeros = 0;
    for (uint32_t j = 0; j < rank; j++) {
        bool empty = true;
        for (uint64_t c = 0; c < cols; c++) {
            CU_ASSERT_FATAL(isfinite(v[j * cols + c]));
            empty = empty && unit_bits(v[j * cols + c]) == 0;
        }
        *zeros += empty;
        for (uint32_t i = 0; i <= j && !empty; i++) {
            double dot = 0;
            for (uint64_t c = 0; c < cols; c++)
                dot += (double)v[i * cols + c] * v[j * cols + c];
            worst = fmax(worst, fabs(dot - (i == j)));
        }
    }
    return worst;
}

static void orthogonal_whatever_comes_in(void) {
    unit_rng r = unit_seeded("orthogonal");
    double worst = 0;
    for (int round = 0; round < 800; round++) {
        uint32_t rank = 1 + unit_below(&r, 12), zeros, dependent = 0;
        uint64_t cols = 1 + unit_below(&r, round % 5 ? 200 : MOST / 12);
        const float size = (const float[]){1.0f, 1e-38f, 1e38f, 1e-44f, 1e-20f}[round % 5];
        float *v = got.right;
        for (uint32_t j = 0; j < rank; j++) {
            int kind = (int)unit_below(&r, 6);
            float near = kind == 3 ? 1e-5f : 1e-3f;
            for (uint64_t c = 0; c < cols; c++) {
                float x = unit_float(&r), *to = &v[j * cols + c];
                *to = x * size;
                if (kind == 1 && j)
                    *to = v[(j - 1) * cols + c] * -0.5f; /* exactly dependent, but for subnormal numbers */
                else if (kind == 2)
                    *to = 0.0f;
                else if (kind >= 3 && kind <= 4 && j)
                    *to = v[(j - 1) * cols + c] + x * near * size; /* nearly dependent */
                *to = fabsf(*to) > 3e38f ? 1e38f : *to;
            }
            dependent += kind == 2;
        }
        CU_ASSERT(tw_lowrank_orthogonalise(tw_kernels_best()->lowrank, v, cols, rank));
        worst = fmax(worst, not_orthonormal(v, cols, rank, &zeros));
        CU_ASSERT(zeros >= dependent && zeros + cols >= rank);
    }
    printf("largest deviation from orthonormal: %.3g\n", worst);
    CU_ASSERT(worst <= 1e-5);
}

static void vectors_that_depend_become_zero(void) {
    const tw_lowrank_loops *l = tw_kernels_best()->lowrank;
    float v[4 * 50];
    uint32_t zeros;
    for (int c = 0; c < 50; c++) {
        v[c] = (float)(c % 7) - 2.5f;
        v[50 + c] = -4 * v[c];
        v[100 + c] = (float)(c % 5);
        v[150 + c] = v[c] - 2 * v[100 + c];
    }
    CU_ASSERT(tw_lowrank_orthogonalise(l, v, 50, 4));
    CU_ASSERT(not_orthonormal(v, 50, 4, &zeros) < 1e-5 && zeros == 2);
    CU_ASSERT(v[50] == 0.0f && v[150] == 0.0f && v[0] != 0.0f && v[100] != 0.0f);
    v[3] = INFINITY;
    CU_ASSERT(!tw_lowrank_orthogonalise(l, v, 50, 4));
    not_orthonormal(v, 50, 4, &zeros);
    CU_ASSERT_EQUAL(zeros, 4);
    memset(v, 0, sizeof v);
    CU_ASSERT(tw_lowrank_orthogonalise(l, v, 50, 4));
}

static void starts_are_about_normal(void) {
    enum { ROWS = 4999, RANK = 4 };
    static float a[ROWS * RANK], b[ROWS * RANK];
    double sum = 0, sq = 0, fourth = 0, next = 0;
    tw_lowrank_start(a, ROWS, RANK, &(tw_noise){{1, 2}, {0, 0}});
    tw_lowrank_start(b, ROWS, RANK, &(tw_noise){{1, 3}, {0, 0}});
    for (int i = 0; i < ROWS * RANK; i++) {
        sum += a[i];
        sq += a[i] * a[i];
        fourth += pow(a[i], 4);
        next += i ? a[i] * a[i - 1] : 0;
    }
    double n = ROWS * RANK, deviation = sqrt(sq / n);
    CU_ASSERT(fabs(sum / n) < 0.03 && fabs(deviation - 1.154) < 0.02 && fabs(next / sq) < 0.03);
    CU_ASSERT(fabs(fourth / n / pow(deviation, 4) - 2.7) < 0.1); /* a normal one: 3 */
    CU_ASSERT(memcmp(a, b, sizeof a) != 0);
    tw_lowrank_start(b, ROWS, RANK, &(tw_noise){{1, 2}, {0, 0}});
    CU_ASSERT(memcmp(a, b, sizeof a) == 0);
}

static void a_used_left_starts_well(void) {
    enum { ROWS = 37, RANK = 5 };
    static const float sizes[RANK] = {1e-44f, 0.0f, 3e38f, 1.0f, (float)NAN};
    float v[ROWS * RANK], was[ROWS * RANK], fresh[ROWS * RANK];
    tw_noise noise = {{5, 6}, {0, 0}};
    tw_lowrank_start(fresh, ROWS, RANK, &noise);
    for (int i = 0; i < ROWS * RANK; i++)
        was[i] = v[i] = sizes[i % RANK] * (i / RANK == 11 ? 1.0f : 0.25f) * (i % 2 ? 1.0f : -1.0f);
    tw_lowrank_warm(v, ROWS, RANK, &noise);
    for (int k = 0; k < RANK; k++) {
        double most = 0, ratio = 0;
        for (int i = 0; i < ROWS; i++) {
            float now = v[i * RANK + k], before = was[i * RANK + k];
            most = fmax(most, fabs(now));
            bool again = k == 1 || k == 4;
            CU_ASSERT(!again || unit_bits(now) == unit_bits(fresh[i * RANK + k]));
            CU_ASSERT(again || before == 0 || (double)now / before == (double)v[11 * RANK + k] / was[11 * RANK + k]);
            ratio = before != 0 ? (double)now / before : ratio;
        }
        CU_ASSERT(k == 1 || k == 4 || (most >= 1 && most < 2 && log2(ratio) == floor(log2(ratio))));
    }
}

static void factors_only_where_they_are_fewer(void) {
    CU_ASSERT_EQUAL(tw_lowrank_values(4, 4096 * 4096, 4096), 4 * 8192);
    CU_ASSERT_EQUAL(tw_lowrank_values(1, 9, 3), 6);
    CU_ASSERT_EQUAL(tw_lowrank_values(1, 4, 2), 0); /* as many */
    CU_ASSERT_EQUAL(tw_lowrank_values(4, 1000, 1000), 0);
    CU_ASSERT_EQUAL(tw_lowrank_values(4, 1000, 1), 0);
    CU_ASSERT_EQUAL(tw_lowrank_values(4, 1000, 0), 0);
    CU_ASSERT_EQUAL(tw_lowrank_values(4, 1001, 100), 0);
    CU_ASSERT_EQUAL(tw_lowrank_values(4, 0, 100), 0);
    CU_ASSERT_EQUAL(tw_lowrank_values(128, UINT64_C(1) << 60, UINT64_C(1) << 30), UINT64_C(1) << 38);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(every_isa_and_every_cut_give_the_same_bytes),
                                      UNIT_TEST(sums_are_those_of_a_model),
                                      UNIT_TEST(what_is_not_finite_is_told),
                                      UNIT_TEST(orthogonal_whatever_comes_in),
                                      UNIT_TEST(vectors_that_depend_become_zero),
                                      UNIT_TEST(starts_are_about_normal),
                                      UNIT_TEST(a_used_left_starts_well),
                                      UNIT_TEST(factors_only_where_they_are_fewer)};
    return unit_main("lowrank", tests, UNIT_COUNT(tests));
}
