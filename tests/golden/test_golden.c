/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Golden vectors: payloads, residuals, sums and decoded values of seeded inputs never change within a payload version.
 * Kept are hashes, in payloads.txt; `test_golden --write` prints that file from the reference loops. */
#include <inttypes.h>
#include "../unit/unit.h"
#include <stdbool.h>
#include "exec/array.h"
#include "exec/kernels.h"

/* Integer arithmetic makes the inputs, so they are the same on every machine. */
typedef struct golden_case {
    const char *spec;
    uint32_t n, seed;
    int low_exponent, exponents; /* of the values: 2^low .. 2^(low + exponents - 1) */
    tw_dtype dtype;
} golden_case;

static const golden_case golden_cases[] = {
    {"none", 4096, 1, -20, 12, TW_F32},
    {"none", 4095, 2, -20, 12, TW_F16},
    {"none", 33, 3, -20, 12, TW_BF16},
    {"cast:type=bf16", 4096, 4, -20, 12, TW_F32},
    {"cast:type=bf16", 511, 5, -149, 277, TW_F32},
    {"cast:type=fp16", 4096, 6, -20, 12, TW_F32},
    {"cast:type=fp16", 1025, 7, -30, 46, TW_F32},
    {"onebit:group=4096", 4096, 8, -20, 12, TW_F32},
    {"onebit:group=4096", 3000, 9, -20, 12, TW_F32},
    {"onebit:group=4096", 4096, 10, 119, 8, TW_F32},
    {"onebit:group=4096", 4096, 11, -149, 40, TW_F32},
    {"onebit:group=2048", 4096, 12, -20, 12, TW_F32},
    {"onebit:group=1024", 4096, 13, -20, 12, TW_F32},
    {"onebit:group=512", 4000, 14, -20, 12, TW_F32},
    {"onebit:group=128", 4096, 15, -20, 12, TW_F32},
    {"onebit:group=4096,scale=rms", 4096, 16, -20, 12, TW_F32},
    {"onebit:group=4096,scale=rms", 4096, 17, -100, 40, TW_F32},
    {"onebit:group=4096,scale=rms", 4096, 18, 60, 67, TW_F32},
    {"onebit:group=256,scale=rms", 777, 19, -20, 12, TW_F32},
    {"onebit:group=128,scale=rms", 129, 20, -20, 12, TW_F32},
    {"quant", 4096, 21, -20, 12, TW_F32},
    {"quant", 3001, 22, -149, 60, TW_F32},
    {"quant:group=4096", 4096, 23, 100, 27, TW_F32},
    {"quant:bits=6,group=128", 777, 24, -20, 12, TW_F32},
    {"quant:bits=4", 4096, 25, -20, 12, TW_F32},
    {"quant:bits=3,group=2048", 4095, 26, -20, 12, TW_F32},
    {"quant:bits=2", 4096, 27, -20, 12, TW_F32},
    {"quant:bits=2", 65, 28, -149, 20, TW_F32},
    {"quant:bits=8,scale=minmax", 4096, 29, -20, 12, TW_F32},
    {"quant:bits=4,scale=minmax,group=1024", 4096, 30, 119, 8, TW_F32},
    {"quant:bits=3,scale=minmax", 4096, 31, -149, 277, TW_F32},
    {"quant:bits=8,scale=mse,group=256", 4096, 32, -20, 12, TW_F32},
    {"quant:bits=6,scale=mse", 4096, 33, -149, 40, TW_F32},
    {"quant:bits=4,scale=mse,group=4096", 4096, 34, -20, 12, TW_F32},
    {"quant:bits=3,scale=mse", 1000, 35, -20, 12, TW_F32},
    {"quant:bits=2,scale=mse", 4096, 36, 119, 8, TW_F32},
    {"quant:rounding=stochastic,seed=7", 4096, 37, -20, 12, TW_F32},
    {"quant:bits=4,rounding=stochastic,scale=minmax,group=128", 3333, 38, -20, 12, TW_F32},
    {"quant:bits=2,rounding=stochastic,scale=mse,seed=1", 4096, 39, -20, 12, TW_F32},
    {"quant:bits=4,rotate=hadamard", 4096, 40, -20, 12, TW_F32},
    {"quant:bits=4,rotate=hadamard,scale=mse,group=4096,seed=3", 3999, 41, -20, 12, TW_F32},
    {"quant:bits=2,rotate=hadamard,rounding=stochastic,scale=minmax,group=256", 4001, 42, -20, 12, TW_F32},
    {"onebit:scale=twosided", 4096, 21, -20, 12, TW_F32},
    {"onebit:group=128,scale=twosided", 777, 22, 60, 67, TW_F32},
    {"onebit:group=4096,scale=twosided", 4000, 23, -149, 100, TW_F32},
    {"cast:type=fp8e4m3", 4096, 24, -20, 12, TW_F32},
    {"cast:type=fp8e4m3,group=128", 777, 25, -149, 60, TW_F32},
    {"cast:type=fp8e5m2", 4095, 26, -60, 60, TW_F32},
    {"cast:type=fp8e5m2,group=4096", 4096, 27, 100, 27, TW_F32},
    {"ternary", 4096, 60, -20, 12, TW_F32},
    {"ternary:group=128", 777, 61, -149, 60, TW_F32},
    {"ternary:group=4096", 4095, 62, 60, 67, TW_F32},
    {"ternary:rounding=stochastic,seed=5", 4096, 63, -20, 12, TW_F32},
    {"ternary:rounding=stochastic,group=2048", 3001, 64, -149, 277, TW_F32},
    {"randk", 4096, 70, -20, 12, TW_F32},
    {"randk:density=0.1,seed=7", 3001, 71, -20, 12, TW_F32},
    {"randk:density=0.5", 4095, 72, -149, 100, TW_BF16},
    {"randk:density=1", 777, 73, -20, 12, TW_F32},
    {"randk:density=0.0001", 4096, 74, 60, 67, TW_F32},
    {"randk:density=0.03,scale=unbiased", 4096, 75, -20, 12, TW_F32},
    {"randk:density=0.25,scale=unbiased", 1025, 76, 100, 27, TW_F32},
};

/* Whole arrays: what is selected, where it stands (index coding), factors. */
typedef struct golden_array {
    const char *spec;
    uint32_t n, seed;
    int shape; /* 0: exponents 2^-20 .. 2^-9; 1: large values in clusters; 2: many equal magnitudes; 3: with NaN and Inf */
    tw_dtype dtype;
} golden_array;

static const golden_array golden_arrays[] = {
    {"topk", 100000, 101, 0, TW_F32},
    {"topk:density=0.0005", 300007, 102, 0, TW_F32},
    {"topk:density=0.2", 50000, 103, 0, TW_F32},
    {"topk:density=0.02", 200001, 104, 1, TW_F32},
    {"topk:density=0.001", 400000, 105, 1, TW_F32},
    {"topk:density=0.1", 70001, 106, 2, TW_F32},
    {"topk:density=0.01", 65536, 107, 3, TW_F32},
    {"topk:density=0.03,select=threshold", 300000, 108, 0, TW_F32},
    {"topk:density=0.05,select=group,group=512", 40009, 109, 1, TW_F32},
    {"topk:density=0.01,values=(quant:bits=4,group=256)", 100000, 110, 0, TW_F32},
    {"topk:density=0.02,values=(quant:rounding=stochastic)", 100000, 111, 0, TW_BF16},
    {"topk:density=0.05,values=(cast:type=fp16)", 33333, 112, 1, TW_F16},
    {"ternary:density=0.015", 300000, 113, 0, TW_F32},
    {"ternary:density=0.05,select=group", 100001, 114, 1, TW_F32},
    {"topk:density=1", 5000, 115, 0, TW_F32},
    {"topk:density=0.5", 1, 116, 0, TW_F32},
    {"powersgd:rank=4,columns=100", 30000, 117, 0, TW_F32},
    {"powersgd:rank=1,columns=64,iterations=3,seed=5", 6400, 118, 1, TW_F32},
    {"powersgd:rank=2,columns=50", 5000, 119, 0, TW_BF16},
    {"powersgd:rank=4,columns=100", 30000, 120, 3, TW_F32},
};

static uint64_t golden_next(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* A value of the given exponents with a random sign and mantissa; denormal below 2^-126. */
static float golden_value(uint64_t *state, int low_exponent, int exponents) {
    uint64_t r = golden_next(state);
    int exponent = low_exponent + (int)(r % (uint64_t)exponents);
    uint32_t mantissa = (uint32_t)(r >> 40) & 0x7fffffu, sign = (uint32_t)(r >> 32) & 0x80000000u, bits;
    if (exponent >= -126)
        bits = sign | (uint32_t)(exponent + 127) << 23 | mantissa;
    else
        bits = sign | (mantissa | 0x800000u) >> (-126 - exponent);
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

typedef struct golden_result {
    uint64_t payload, residual, stat, decoded; /* XXH64 */
} golden_result;

/* Encodes case c with error feedback by the loops of k, and decodes. */
static golden_result golden_run(const golden_case *c, const tw_kernels *k) {
    static _Alignas(64) float g[TW_MAX_TILE], e[TW_MAX_TILE], out[TW_MAX_TILE], y[TW_MAX_TILE];
    static _Alignas(64) uint8_t payload[4 * TW_MAX_TILE];
    uint64_t state = c->seed;
    tw_spec s = TW_SPEC_INIT;
    tw_tile_stat stat;
    golden_result r = {0, 0, 0, 0};
    if (tw_spec_parse(c->spec, &s) != TW_OK)
        return r;
    for (uint32_t i = 0; i < c->n; i++) {
        g[i] = golden_value(&state, c->low_exponent, c->exponents);
        e[i] = i % 3 ? golden_value(&state, c->low_exponent, c->exponents) : 0.0f;
    }
    tw_enc a = {.g = g, .e = e, .out = out, .scale = 0.5f, .n = c->n, .dtype = c->dtype, .dst = payload};
    a.noise = (tw_noise){{s.seed, c->seed}, {c->n, 1}};
    k->encode[s.codec][TW_V_EF](&s, &a, &stat);
    k->decode_set[s.codec](&s, c->dtype, payload, y, c->n, &a.noise);
    r.payload = tw_hash64(payload, tw_spec_bound(&s, c->n, c->dtype), 0);
    r.residual = stat.nonfinite ? 0 : tw_hash64(out, c->n * sizeof *out, 0);
    r.stat = tw_hash64(&stat, sizeof stat, 0);
    r.decoded = tw_hash64(y, c->n * sizeof *y, 0);
    return r;
}

enum { ARRAY_MOST = 1 << 19, CASES = TW_ARRAY_LEN(golden_cases) + TW_ARRAY_LEN(golden_arrays) };

static float array_value(const golden_array *c, uint32_t i, uint64_t *state) {
    float x = golden_value(state, -20, 12);
    bool far = (i / 300) % 40 == 7;
    if (c->shape == 1 && !far)
        x *= 0x1p-30f;
    if (c->shape == 2)
        x = golden_next(state) % 3 ? 0.5f : x < 0 ? -1.0f : 1.0f;
    if (c->shape == 3 && (i == 77 || i == 20001))
        x = i == 77 ? __builtin_nanf("") : -__builtin_inff();
    return x;
}

static void narrow_array(float *x, uint32_t n, tw_dtype t) {
    uint16_t *half = (uint16_t *)(void *)x;
    for (uint32_t i = 0; i < n && t != TW_F32; i++)
        half[i] = t == TW_F16 ? tw_f32_to_f16(x[i]) : tw_f32_to_bf16(x[i]);
}

static golden_result array_run(const golden_array *c, const tw_kernels *k) {
    static _Alignas(64) float x[ARRAY_MOST], y[ARRAY_MOST];
    static _Alignas(64) uint8_t payload[5 * ARRAY_MOST];
    uint64_t state = c->seed, len = 0;
    tw_spec s = TW_SPEC_INIT;
    tw_array_stat stat = TW_ARRAY_STAT_INIT;
    golden_result r = {0, 0, 0, 0};
    if (tw_spec_parse(c->spec, &s) != TW_OK || tw_spec_bound(&s, c->n, c->dtype) > sizeof payload)
        return r;
    for (uint32_t i = 0; i < c->n; i++)
        x[i] = array_value(c, i, &state);
    narrow_array(x, c->n, c->dtype);
    tw_array a = {
        .spec = &s, .in = x, .count = c->n, .t = c->dtype, .k = k, .args = {.size = sizeof a.args, .name = "x"}};
    tw_status st = TW_OK;
    if (tw_codec_is_sparse(&s))
        st = tw_sparse_encode(&a, payload, tw_spec_bound(&s, c->n, c->dtype), &len, &stat);
    else
        tw_matrix_encode(&a, payload, &len, &stat);
    if (st >= 0)
        st = (tw_codec_is_sparse(&s) ? tw_sparse_decode : tw_matrix_decode)(&a, payload, len, y);
    if (st < 0)
        return r;
    r.payload = tw_hash64(payload, len, len);
    r.stat = tw_hash64(&stat, sizeof stat, 0);
    r.decoded = tw_hash64(y, c->n * tw_dtype_size(c->dtype), 0);
    return r;
}

/* Tiles first, then arrays. */
static golden_result nth_run(size_t i, const tw_kernels *k) {
    size_t tiles = TW_ARRAY_LEN(golden_cases);
    return i < tiles ? golden_run(&golden_cases[i], k) : array_run(&golden_arrays[i - tiles], k);
}

static void write_file(void) {
    tw_fpenv env = tw_fp_enter();
    printf("# case, XXH64 of payload, residual, stat and decoded values, spec, values; made by test_golden --write\n");
    for (size_t i = 0; i < CASES; i++) {
        bool tile = i < TW_ARRAY_LEN(golden_cases);
        const golden_array *a = &golden_arrays[tile ? 0 : i - TW_ARRAY_LEN(golden_cases)];
        golden_result r = nth_run(i, &tw_kernels_ref);
        printf("%zu %016" PRIx64 " %016" PRIx64 " %016" PRIx64 " %016" PRIx64 " %s %u\n", i, r.payload, r.residual,
               r.stat, r.decoded, tile ? golden_cases[i].spec : a->spec, tile ? golden_cases[i].n : a->n);
    }
    tw_fp_leave(env);
}

static FILE *open_file(void) {
    const char *top = getenv("srcdir");
    char path[4096];
    snprintf(path, sizeof path, "%s/tests/golden/payloads.txt", top ? top : ".");
    FILE *f = fopen(path, "r");
    if (!f)
        printf("cannot open %s; srcdir must name the top source folder\n", path);
    CU_ASSERT_PTR_NOT_NULL(f);
    return f;
}

static void compare(const tw_kernels *k) {
    FILE *f = open_file();
    char line[256];
    size_t i = 0, index;
    tw_fpenv env = tw_fp_enter();
    while (f && fgets(line, sizeof line, f)) {
        golden_result want, got;
        if (sscanf(line, "%zu %" SCNx64 " %" SCNx64 " %" SCNx64 " %" SCNx64, &index, &want.payload, &want.residual,
                   &want.stat, &want.decoded) != 5)
            continue;
        CU_ASSERT_EQUAL_FATAL(index, i);
        CU_ASSERT_TRUE_FATAL(i < CASES);
        got = nth_run(i++, k);
        if (memcmp(&got, &want, sizeof got))
            printf("%s differs: %s", k->name, line);
        CU_ASSERT_EQUAL(got.payload, want.payload);
        CU_ASSERT_EQUAL(got.residual, want.residual);
        CU_ASSERT_EQUAL(got.stat, want.stat);
        CU_ASSERT_EQUAL(got.decoded, want.decoded);
    }
    tw_fp_leave(env);
    CU_ASSERT_EQUAL(i, CASES);
    if (f)
        fclose(f);
}

static void compare_named(const char *isa) {
    const tw_kernels *k = tw_kernels_named(isa);
    if (k)
        compare(k);
    else
        unit_skip(tw_last_error());
}

static void golden_ref(void) {
    compare_named("ref");
}
static void golden_avx2(void) {
    compare_named("avx2");
}
static void golden_avx512(void) {
    compare_named("avx512");
}
static void golden_neon(void) {
    compare_named("neon");
}

int main(int argc, char **argv) {
    static const unit_test tests[] = {UNIT_TEST(golden_ref), UNIT_TEST(golden_avx2), UNIT_TEST(golden_avx512),
                                      UNIT_TEST(golden_neon)};
    if (argc == 2 && !strcmp(argv[1], "--write")) {
        write_file();
        return 0;
    }
    return unit_main("golden", tests, UNIT_COUNT(tests));
}
