/* SPDX-License-Identifier: BSD-3-Clause
 *
 * powersgd on arrays: bytes against their bound, the best approximation within what power iteration promises, low-rank
 * matrices exactly, what has no factors bit for bit, and lengths and bytes that somebody made up. */
#include <math.h>
#include "exec/exec.h"
#include "unit.h"
#include <thinwire/codec.h>

enum { MOST = 40000 };
static float in[MOST + 1], out[MOST + 1];
static uint32_t payload[MOST + 16];

static tw_spec spec_of(const char *text, uint32_t cols) {
    tw_spec s;
    CU_ASSERT_EQUAL_FATAL(tw_spec_parse(text, &s), TW_OK);
    s.columns = cols;
    return s;
}

/* There and back; the squared error by itself, relative. */
static double lost(const tw_spec *s, uint64_t count, tw_array_stat *stat) {
    uint64_t len = 0, bound = tw_spec_bound(s, count, TW_F32);
    double e = 0, x = 0;
    *stat = (tw_array_stat)TW_ARRAY_STAT_INIT;
    CU_ASSERT_FATAL(bound <= sizeof payload);
    payload[bound / 4] = 0xdeadbeef;
    CU_ASSERT_EQUAL(tw_encode(s, NULL, in, count, TW_F32, payload, bound, &len, stat), TW_OK);
    CU_ASSERT(len == bound && payload[bound / 4] == 0xdeadbeef);
    CU_ASSERT_EQUAL(tw_decode(s, NULL, payload, len, out, count, TW_F32), TW_OK);
    for (uint64_t i = 0; i < count; i++) {
        e += pow((double)in[i] - out[i], 2);
        x += pow(in[i], 2);
    }
    CU_ASSERT(fabs(stat->x_sq - x) <= 1e-4 * x && fabs(stat->e_sq - e) <= 1e-4 * e + 1e-12 * x);
    return x > 0 ? e / x : e;
}

/* A sum of `rank` products of random vectors, the k-th weighing 2^-k. */
static void make_low_rank(unit_rng *r, uint64_t rows, uint64_t cols, uint32_t rank) {
    static float u[MOST], v[MOST];
    memset(in, 0, sizeof in);
    for (uint32_t k = 0; k < rank; k++) {
        for (uint64_t i = 0; i < rows; i++)
            u[i] = unit_float(r);
        for (uint64_t c = 0; c < cols; c++)
            v[c] = unit_float(r);
        for (uint64_t i = 0; i < rows; i++)
            for (uint64_t c = 0; c < cols; c++)
                in[i * cols + c] += u[i] * v[c] * (float)ldexp(1, -(int)k);
    }
}

static void low_rank_comes_back(void) {
    unit_rng r = unit_seeded("low rank");
    for (int round = 0; round < 60; round++) {
        uint32_t rank = 1 + unit_below(&r, 6), cols = 20 + unit_below(&r, 200), rows = 20 + unit_below(&r, 150);
        char text[40];
        tw_array_stat stat;
        snprintf(text, sizeof text, "powersgd:rank=%u,iterations=2", rank);
        tw_spec s = spec_of(text, cols);
        make_low_rank(&r, rows, cols, 1 + unit_below(&r, rank));
        CU_ASSERT_EQUAL(tw_spec_bound(&s, (uint64_t)rows * cols, TW_F32), 4 * rank * (rows + cols));
        CU_ASSERT(lost(&s, (uint64_t)rows * cols, &stat) < 1e-11);
        CU_ASSERT_EQUAL(stat.bad_tiles, 0);
    }
}

/* Squares that fall as 4^-k and nothing else: what the best of rank r leaves is known. */
static void near_the_best(void) {
    enum { N = 128 };
    static const struct {
        const char *text;
        double most; /* of the best one's error, over 20 starts */
    } cases[] = {
        {"powersgd:rank=4", 40}, {"powersgd:rank=4,iterations=2", 5}, {"powersgd:rank=4,iterations=8", 1.0005}};
    for (size_t t = 0; t < UNIT_COUNT(cases); t++) {
        double worst = 0;
        for (uint32_t seed = 0; seed < 20; seed++) {
            double whole = 0, rest = 0;
            tw_array_stat stat;
            tw_spec s = spec_of(cases[t].text, N);
            s.seed = seed;
            memset(in, 0, sizeof in);
            for (int k = 0; k < N; k++) {
                float size = ldexpf(1, -k);
                in[k * N + (k * 37 + 5) % N] = size; /* singular values, somewhere */
                whole += size * size;
                rest += k < 4 ? 0 : size * size;
            }
            worst = fmax(worst, lost(&s, N * N, &stat) / (rest / whole));
        }
        printf("%s: error of the best one, at most times %.4g\n", cases[t].text, worst);
        CU_ASSERT(worst >= 1 - 1e-6 && worst <= cases[t].most);
    }
}

static void without_factors_bit_for_bit(void) {
    static const struct {
        uint64_t count;
        uint32_t cols;
    } cases[] = {{0, 0},       {0, 5},    {1, 1},  {7, 0},    {4096, 0}, {9973, 1},
                 {9973, 9973}, {100, 10}, {64, 8}, {1000, 7}, {12289, 3}};
    unit_rng r = unit_seeded("values");
    for (size_t t = 0; t < UNIT_COUNT(cases); t++)
        for (int type = TW_F32; type <= TW_BF16; type++) {
            tw_spec s = spec_of("powersgd:rank=5", cases[t].cols);
            uint64_t n = cases[t].count, len;
            static uint16_t half[MOST], back[MOST];
            const void *from = type == TW_F32 ? (void *)in : (void *)half;
            void *to = type == TW_F32 ? (void *)out : (void *)back;
            tw_array_stat stat = TW_ARRAY_STAT_INIT;
            for (uint64_t i = 0; i < n; i++) {
                in[i] = unit_float(&r);
                half[i] = type == TW_F16 ? tw_f32_to_f16(in[i]) : tw_f32_to_bf16(in[i]);
            }
            CU_ASSERT_EQUAL(tw_spec_bound(&s, n, (tw_dtype)type), 4 * n);
            CU_ASSERT_EQUAL(tw_encode(&s, NULL, from, n, (tw_dtype)type, payload, sizeof payload, &len, &stat), TW_OK);
            CU_ASSERT_EQUAL(len, 4 * n);
            CU_ASSERT_EQUAL(tw_decode(&s, NULL, payload, len, to, n, (tw_dtype)type), TW_OK);
            CU_ASSERT(!memcmp(from, to, n * tw_dtype_size((tw_dtype)type)) && stat.e_sq == 0);
        }
}

/* Halves come back within their rounding of what fp32 gives; addresses do not matter. */
static void halves_and_odd_addresses(void) {
    enum { ROWS = 30, COLS = 67, N = ROWS * COLS };
    static uint8_t from[4 * N + 8], to[4 * N + 8];
    unit_rng r = unit_seeded("odd");
    tw_spec s = spec_of("powersgd:rank=3,iterations=3", COLS);
    make_low_rank(&r, ROWS, COLS, 3);
    for (int type = TW_F32; type <= TW_BF16; type++)
        for (int odd = 0; odd < 4; odd++) {
            uint64_t len, size = tw_dtype_size((tw_dtype)type);
            for (uint64_t i = 0; i < N; i++) {
                uint16_t half = type == TW_F16 ? tw_f32_to_f16(in[i]) : tw_f32_to_bf16(in[i]);
                memcpy(from + odd + i * size, type == TW_F32 ? (void *)&in[i] : (void *)&half, size);
            }
            memset(to, 0x77, sizeof to);
            CU_ASSERT_EQUAL(tw_encode(&s, NULL, from + odd, N, (tw_dtype)type, payload, sizeof payload, &len, NULL),
                            TW_OK);
            CU_ASSERT_EQUAL(tw_decode(&s, NULL, payload, len, to + odd, N, (tw_dtype)type), TW_OK);
            CU_ASSERT(to[odd + N * size] == 0x77 && (odd == 0 || to[odd - 1] == 0x77));
            for (uint64_t i = 0; i < N; i++) {
                uint16_t half;
                float y;
                memcpy(type == TW_F32 ? (void *)&y : (void *)&half, to + odd + i * size, size);
                y = type == TW_F32 ? y : type == TW_F16 ? tw_f16_to_f32(half) : tw_bf16_to_f32(half);
                CU_ASSERT(fabs(y - in[i]) < (type == TW_F32 ? 1e-5 : type == TW_F16 ? 0.004 : 0.03));
            }
        }
}

static void what_is_not_finite_is_nan_everywhere(void) {
    enum { N = 100 * 60 };
    unit_rng r = unit_seeded("NaN");
    tw_spec s = spec_of("powersgd:rank=2,iterations=2", 60);
    for (int round = 0; round < 8; round++) {
        uint64_t len;
        tw_array_stat stat = TW_ARRAY_STAT_INIT;
        make_low_rank(&r, 100, 60, 2);
        in[unit_below(&r, N)] = round % 2 ? INFINITY : (float)NAN;
        CU_ASSERT_EQUAL(tw_encode(&s, NULL, in, N, TW_F32, payload, sizeof payload, &len, &stat), TW_OK);
        CU_ASSERT(len == 4 * 2 * 160 && stat.bad_tiles == 2 && stat.x_sq == 0 && stat.e_sq == 0);
        for (uint64_t i = 0; i < len / 4; i++)
            CU_ASSERT_EQUAL(payload[i], 0x7fc00000u);
        CU_ASSERT_EQUAL(tw_decode(&s, NULL, payload, len, out, N, TW_F32), TW_OK);
        for (int i = 0; i < N; i++)
            CU_ASSERT_EQUAL(unit_bits(out[i]), 0x7fc00000u);
    }
}

static void made_up_bytes_are_harmless(void) {
    enum { ROWS = 41, COLS = 53, N = ROWS * COLS };
    unit_rng r = unit_seeded("made up");
    tw_spec s = spec_of("powersgd:rank=3", COLS);
    for (uint64_t len = 0; len <= 4 * N + 8; len += 4)
        CU_ASSERT_EQUAL(tw_decode(&s, NULL, payload, len, out, N, TW_F32),
                        len == 4 * 3 * (ROWS + COLS) ? TW_OK : TW_ERR_CORRUPT);
    for (int round = 0; round < 50; round++) {
        for (uint64_t i = 0; i < 3 * (ROWS + COLS); i++)
            payload[i] = (uint32_t)unit_next(&r);
        out[N] = 5;
        CU_ASSERT_EQUAL(tw_decode(&s, NULL, payload, 4 * 3 * (ROWS + COLS), out, N, TW_F32), TW_OK);
        for (int i = 0; i < N; i++)
            CU_ASSERT(out[i] == out[i] || unit_bits(out[i]) == 0x7fc00000u);
        CU_ASSERT_EQUAL(out[N], 5);
    }
    CU_ASSERT_EQUAL(tw_spec_bound(&s, UINT64_MAX / 64 + 1, TW_F32), UINT64_MAX);
}

/* What files hold: no later change may alter it. */
static void bytes_stay(void) {
    enum { ROWS = 61, COLS = 67, N = ROWS * COLS };
    unit_rng r = {20240229};
    uint64_t len;
    tw_spec s = spec_of("powersgd:rank=3,iterations=2,seed=5", COLS);
    for (int i = 0; i < N; i++)
        in[i] = unit_float(&r) * ldexpf(1, i % 9 - 4);
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, in, N, TW_F32, payload, sizeof payload, &len, NULL), TW_OK);
    uint64_t hash = tw_hash64(payload, len, 0);
    printf("hash of the payload: 0x%016llx\n", (unsigned long long)hash);
    CU_ASSERT_EQUAL(hash, UINT64_C(0xb8332a8e233854f2));
}

static void names_and_seeds_begin_elsewhere(void) {
    unit_rng r = unit_seeded("seeds");
    tw_array_args args = TW_ARRAY_ARGS_INIT;
    static uint32_t other[MOST];
    uint64_t len;
    tw_spec s = spec_of("powersgd:rank=2", 100);
    for (int i = 0; i < 10000; i++)
        in[i] = unit_float(&r);
    CU_ASSERT_EQUAL(tw_encode(&s, &args, in, 10000, TW_F32, payload, sizeof payload, &len, NULL), TW_OK);
    for (int i = 0; i < 4; i++) {
        tw_array_args a = args;
        tw_spec t = s;
        a.name = i == 1 ? "b" : NULL;
        a.step = i == 2;
        t.seed = i == 3;
        CU_ASSERT_EQUAL(tw_encode(&t, &a, in, 10000, TW_F32, other, sizeof other, &len, NULL), TW_OK);
        CU_ASSERT_EQUAL(memcmp(other, payload, len) == 0, i == 0);
    }
}

static void collectives_refuse_it_by_name(void) {
    static const char *const refused[] = {"powersgd", "powersgd+ef"};
    for (size_t i = 0; i < UNIT_COUNT(refused); i++) {
        tw_spec s = spec_of(refused[i], 0);
        CU_ASSERT_EQUAL(tw_codec_check_owned(&s, "here"), TW_ERR_UNSUPPORTED);
        CU_ASSERT(strstr(tw_last_error(), "here: 'powersgd' works") != NULL);
    }
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(low_rank_comes_back),
                                      UNIT_TEST(near_the_best),
                                      UNIT_TEST(without_factors_bit_for_bit),
                                      UNIT_TEST(halves_and_odd_addresses),
                                      UNIT_TEST(what_is_not_finite_is_nan_everywhere),
                                      UNIT_TEST(made_up_bytes_are_harmless),
                                      UNIT_TEST(bytes_stay),
                                      UNIT_TEST(names_and_seeds_begin_elsewhere),
                                      UNIT_TEST(collectives_refuse_it_by_name)};
    return unit_main("matrix", tests, UNIT_COUNT(tests));
}
