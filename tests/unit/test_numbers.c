/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ISAs, the floating-point environment, hashes, random numbers and halves. */
#include "core/core.h"
#include "host_fp.h"
#include "unit.h"

#include <fenv.h>
#include <math.h>
#include <thinwire/experimental.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* ---- cpu ---- */

static void isas_form_a_ladder(void) {
    CU_ASSERT(tw_cpu_has(TW_ISA_REF));
    CU_ASSERT(!tw_cpu_has(TW_ISA_COUNT));
    CU_ASSERT(!tw_cpu_has(TW_ISA_AVX512) || tw_cpu_has(TW_ISA_AVX2));
#if defined(__x86_64__)
    CU_ASSERT_EQUAL(tw_cpu_has(TW_ISA_AVX2), __builtin_cpu_supports("avx2") != 0); /* every CPU with it has f16c */
#if defined(TW_EMULATE_AVX512)
    CU_ASSERT_EQUAL(tw_cpu_has(TW_ISA_AVX512), tw_cpu_has(TW_ISA_AVX2));
#else
    CU_ASSERT_EQUAL(tw_cpu_has(TW_ISA_AVX512),
                    __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"));
#endif
#endif
#if defined(__aarch64__)
    CU_ASSERT(tw_cpu_has(TW_ISA_NEON) && !tw_cpu_has(TW_ISA_AVX2));
#else
    CU_ASSERT(!tw_cpu_has(TW_ISA_NEON));
#endif
    for (int isa = 0; isa < TW_ISA_COUNT; isa++)
        if (tw_cpu_has((tw_isa)isa))
            printf("isa: %s\n", tw_isa_names[isa]);
}

static void the_fp_environment_is_ours_inside(void) {
    static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    for (size_t i = 0; i < UNIT_COUNT(modes); i++) {
        volatile float one = 1.0f, little = 0x1p-24f, least = 0x1p-149f, three = 3.0f;
        feclearexcept(FE_ALL_EXCEPT);
        fesetround(modes[i]);
#if !defined(HOST_FP_UNKNOWN)
        host_fp_set(host_fp_get() | HOST_FP_FLUSH);
        uint32_t before = host_fp_get(); /* valgrind takes the rounding mode only */
#endif
        tw_fpenv e = tw_fp_enter();
        volatile float sum = one + little, minus = -one - little, tiny = least * three;
        tw_fp_leave(e);
#if !defined(HOST_FP_UNKNOWN)
        uint32_t after = host_fp_get();
        host_fp_set(after & ~(uint32_t)HOST_FP_FLUSH);
        CU_ASSERT_EQUAL(before, after);
#endif
        int mode = fegetround();
        fesetround(FE_TONEAREST);
        CU_ASSERT_EQUAL(mode, modes[i]);
        CU_ASSERT_EQUAL(unit_bits(sum), unit_bits(1.0f));
        CU_ASSERT_EQUAL(unit_bits(minus), unit_bits(-1.0f));
        CU_ASSERT_EQUAL(unit_bits(tiny), 3);
    }
}

/* ---- hash and random numbers ---- */

static void hashes_match_published_values(void) {
    CU_ASSERT_EQUAL(tw_hash64("", 0, 0), UINT64_C(0xef46db3751d8e999));
    CU_ASSERT_EQUAL(tw_hash64(NULL, 0, 0), UINT64_C(0xef46db3751d8e999));
    CU_ASSERT_EQUAL(tw_hash64("a", 1, 0), UINT64_C(0xd24ec4f1a98c6e5b));
    CU_ASSERT_EQUAL(tw_hash64("abc", 3, 0), UINT64_C(0x44bc2cf5ad770999));
    CU_ASSERT_NOT_EQUAL(tw_hash64("abc", 3, 1), tw_hash64("abc", 3, 0));
    CU_ASSERT_EQUAL(tw_check32("", 0, 0), UINT32_C(0x38d394c2));
    CU_ASSERT_EQUAL(tw_check32("abc", 3, 0), UINT32_C(0x892f3950));
}

/* A frame check has to see every flipped bit and every lost byte. */
static void the_check_sees_every_bit(void) {
    static unsigned char frame[300];
    unsigned missed = 0;
    for (unsigned i = 0; i < sizeof frame; i++)
        frame[i] = (unsigned char)(i * 37);
    uint32_t good = tw_check32(frame, sizeof frame, 9);
    for (unsigned bit = 0; bit < 8 * sizeof frame; bit++) {
        frame[bit / 8] ^= (unsigned char)(1u << bit % 8);
        missed += tw_check32(frame, sizeof frame, 9) == good;
        frame[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    for (unsigned n = 0; n < sizeof frame; n++)
        missed += tw_check32(frame, n, 9) == good;
    CU_ASSERT_EQUAL(missed, 0);
    CU_ASSERT_EQUAL(tw_check32(frame, sizeof frame, 9), good);
}

static void philox_matches_published_values(void) {
    static const struct {
        int rounds;
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {10, {0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {10, {~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {10,
         {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
        {7, {0, 0, 0, 0}, {0, 0}, {0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48}},
        {7, {~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662}},
        {7,
         {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0x4dfccaba, 0x190a87f0, 0xc47362ba, 0xb6b5242a}},
    };
    for (size_t i = 0; i < UNIT_COUNT(known); i++) {
        uint32_t out[4];
        tw_philox(known[i].rounds, known[i].counter, known[i].key, out);
        CU_ASSERT_EQUAL(memcmp(out, known[i].out, sizeof out), 0);
        memcpy(out, known[i].counter, sizeof out); /* in place */
        tw_philox(known[i].rounds, out, known[i].key, out);
        CU_ASSERT_EQUAL(memcmp(out, known[i].out, sizeof out), 0);
    }
}

/* What rounds at random: word w of lane l's counter stands in row w. */
static void draws_are_philox(void) {
    enum { TILE_MAX = 4096 };
    static uint32_t words[TILE_MAX / 4];
    const uint32_t key[2] = {77, 0};
    for (const char *const *isa = tw_isa_list(); *isa; isa++)
        for (uint32_t n = 1; n <= TILE_MAX; n += n < 4 ? 1 : 511) {
            uint32_t used = (n + 511) / 512 * 128;
            memset(words, 0x5a, sizeof words);
            CU_ASSERT_EQUAL(tw_tile_draw(*isa, 77, n, words), TW_OK);
            for (uint32_t i = 0; i < TILE_MAX / 4; i++) {
                const uint32_t counter[4] = {i / 128 * 32 + i % 32, 0, 0, 0};
                uint32_t out[4];
                tw_philox(7, counter, key, out);
                CU_ASSERT_EQUAL(words[i], i < used ? out[i / 32 % 4] : 0x5a5a5a5au);
            }
        }
    CU_ASSERT_EQUAL(tw_tile_draw(NULL, 1, 0, words), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_tile_draw(NULL, 1, TILE_MAX + 1, words), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_tile_draw(NULL, 1, 1, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_tile_draw("avx3", 1, 1, words), TW_ERR_UNSUPPORTED);
}

/* ---- halves ---- */

static bool is_nan16(uint32_t h) {
    return (h & 0x7fffu) > 0x7c00u;
}
static bool is_nan_bf(uint32_t h) {
    return (h & 0x7fffu) > 0x7f80u;
}

static void all_halves_come_back(void) {
    unsigned bad = 0;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float x = tw_f16_to_f32((uint16_t)h), y = tw_bf16_to_f32((uint16_t)h);
        bad += is_nan16(h) ? unit_bits(x) != 0x7fc00000u || tw_f32_to_f16(x) != 0x7e00u : tw_f32_to_f16(x) != h;
        bad += is_nan_bf(h) ? unit_bits(y) != 0x7fc00000u || tw_f32_to_bf16(y) != 0x7fc0u
                            : tw_f32_to_bf16(y) != h || unit_bits(y) != h << 16;
        if (!is_nan16(h) && (h & 0x7fffu) != 0x7c00u) { /* the value by its definition */
            int exponent = (int)(h >> 10 & 31);
            double m = (h & 1023) + (exponent ? 1024 : 0);
            double v = ldexp(m, (exponent ? exponent : 1) - 25);
            bad += (double)x != (h & 0x8000u ? -v : v);
        }
    }
    CU_ASSERT_EQUAL(bad, 0);
    CU_ASSERT_EQUAL(unit_bits(tw_f16_to_f32(0xfc00)), 0xff800000u);
}

/* All finite fp8: by their definition, there and back, and between two neighbours; beyond the last one: held. */
static void fp8_is_as_defined(void) {
    unsigned bad = 0;
    for (int e5m2 = 0; e5m2 < 2; e5m2++) {
        int digits = e5m2 ? 2 : 3, bias = e5m2 ? 15 : 7;
        uint32_t top = e5m2 ? 0x7b : 0x7e;
        float largest = e5m2 ? 57344.0f : 448.0f;
        for (uint32_t c = 0; c <= top; c++) {
            int exponent = (int)c >> digits, m = (int)c & ((1 << digits) - 1);
            float x = tw_fp8_to_f32((uint8_t)c, e5m2), next = tw_fp8_to_f32((uint8_t)(c + 1), e5m2);
            double v = ldexp(m + (exponent ? 1 << digits : 0), (exponent ? exponent : 1) - bias - digits);
            float middle = x + (next - x) / 2;
            bad +=
                (double)x != v || unit_bits(tw_fp8_to_f32((uint8_t)(c | 0x80), e5m2)) != (unit_bits(x) | 0x80000000u);
            bad += tw_f32_to_fp8(x, e5m2) != c || tw_f32_to_fp8(-x, e5m2) != (c | 0x80);
            bad += tw_f32_to_fp8(nextafterf(middle, x), e5m2) != c;
            if (c == top)
                continue;
            bad += tw_f32_to_fp8(middle, e5m2) != c + (c & 1) || tw_f32_to_fp8(-middle, e5m2) != ((c + (c & 1)) | 0x80);
            bad += tw_f32_to_fp8(nextafterf(middle, next), e5m2) != c + 1;
        }
        bad += tw_fp8_to_f32((uint8_t)top, e5m2) != largest || tw_f32_to_fp8(largest * 1.5f, e5m2) != top;
        bad += tw_f32_to_fp8(-INFINITY, e5m2) != (top | 0x80) || tw_f32_to_fp8(NAN, e5m2) != 0x7f;
        bad += tw_f32_to_fp8(0x1p-149f, e5m2) != 0 || tw_f32_to_fp8(-0x1p-60f, e5m2) != 0x80;
    }
    CU_ASSERT_EQUAL(bad, 0);
}

/* Between two neighbours: just under the middle, the middle (to even), just over it. */
static void halves_round_to_nearest_even(void) {
    unsigned bad = 0;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        uint32_t even = h & 1 ? h + 1 : h;
        float a = tw_f16_to_f32((uint16_t)h), b = h == 0x7bff ? 65536.0f : tw_f16_to_f32((uint16_t)(h + 1));
        float middle = a + (b - a) / 2;
        bad += tw_f32_to_f16(middle) != even || tw_f32_to_f16(-middle) != (even | 0x8000u);
        bad += tw_f32_to_f16(nextafterf(middle, a)) != h || tw_f32_to_f16(nextafterf(middle, b)) != h + 1;
        bad += tw_f32_to_f16(-nextafterf(middle, a)) != (h | 0x8000u);
    }
    for (uint32_t h = 0; h < 0x7f80; h++) {
        uint32_t even = h & 1 ? h + 1 : h;
        bad += tw_f32_to_bf16(unit_from_bits(h << 16 | 0x8000u)) != even;
        bad += tw_f32_to_bf16(unit_from_bits(h << 16 | 0x80008000u)) != (even | 0x8000u);
        bad += tw_f32_to_bf16(unit_from_bits(h << 16 | 0x7fffu)) != h;
        bad += tw_f32_to_bf16(unit_from_bits(h << 16 | 0x8001u)) != h + 1;
    }
    CU_ASSERT_EQUAL(bad, 0);
    CU_ASSERT_EQUAL(tw_f32_to_f16(65519.996f), 0x7bff);
    CU_ASSERT_EQUAL(tw_f32_to_f16(65520.0f), 0x7c00);
    CU_ASSERT_EQUAL(tw_f32_to_f16(-3.4e38f), 0xfc00);
    CU_ASSERT_EQUAL(tw_f32_to_f16(-0.0f), 0x8000);
    CU_ASSERT_EQUAL(tw_f32_to_bf16(3.4e38f), 0x7f80);
}

static void every_nan_is_the_same(void) {
    unsigned bad = 0;
    for (uint32_t sign = 0; sign < 2; sign++)
        for (uint32_t k = 0; k < 0x7fffff; k += 8191) {
            float x = unit_from_bits(sign << 31 | 0x7f800001u | k);
            bad += tw_f32_to_f16(x) != 0x7e00u || tw_f32_to_bf16(x) != 0x7fc0u;
        }
    CU_ASSERT_EQUAL(bad, 0);
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) static void halves_of_cpu(const uint32_t bits[8], uint16_t theirs[8]) {
    __m256 x = _mm256_castsi256_ps(_mm256_loadu_si256((const __m256i *)(const void *)bits));
    _mm_storeu_si128((__m128i *)(void *)theirs, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__aarch64__)
static void halves_of_cpu(const uint32_t bits[8], uint16_t theirs[8]) {
    for (int i = 0; i < 8; i += 4)
        vst1_u16(theirs + i, vreinterpret_u16_f16(vcvt_f16_f32(vreinterpretq_f32_u32(vld1q_u32(bits + i)))));
}
#endif

#if defined(__x86_64__) || defined(__aarch64__)
static unsigned differs_from_cpu(const uint32_t bits[8]) {
    uint16_t theirs[8];
    unsigned bad = 0;
    halves_of_cpu(bits, theirs);
    for (int i = 0; i < 8; i++) {
        bool nan = (bits[i] & 0x7fffffffu) > 0x7f800000u;
        bad += tw_f32_to_f16(unit_from_bits(bits[i])) != (nan ? 0x7e00u : theirs[i]);
    }
    return bad;
}

/* Every exponent with the mantissas around every rounding border, then 10^7 random patterns. */
static void halves_agree_with_the_cpu(void) {
    uint32_t bits[8];
    unsigned bad = 0, at = 0;
    if (!tw_cpu_has(TW_ISA_AVX2) && !tw_cpu_has(TW_ISA_NEON)) {
        unit_skip("this CPU has no F16C");
        return;
    }
    for (uint32_t high = 0; high < 512; high++) /* sign and exponent */
        for (uint32_t border = 0; border <= 23; border++)
            for (int32_t near = -2; near <= 2; near++)
                for (uint32_t top = 0; top < 4; top++) {
                    uint32_t mantissa = ((UINT32_C(1) << border) + (uint32_t)near + (top << 21)) & 0x7fffffu;
                    bits[at++ % 8] = high << 23 | mantissa;
                    if (at % 8 == 0)
                        bad += differs_from_cpu(bits);
                }
    unit_rng r = unit_seeded("cpu");
    for (uint32_t k = 0; k < 10000000 / 8; k++) {
        for (int i = 0; i < 8; i += 2) {
            uint64_t two = unit_next(&r);
            bits[i] = (uint32_t)two;
            bits[i + 1] = (uint32_t)(two >> 32);
        }
        bad += differs_from_cpu(bits);
    }
    CU_ASSERT_EQUAL(bad, 0);
}
#else
static void halves_agree_with_the_cpu(void) {
    unit_skip("no conversion of this architecture is known");
}
#endif

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(isas_form_a_ladder),
        UNIT_TEST(the_fp_environment_is_ours_inside),
        UNIT_TEST(hashes_match_published_values),
        UNIT_TEST(the_check_sees_every_bit),
        UNIT_TEST(philox_matches_published_values),
        UNIT_TEST(draws_are_philox),
        UNIT_TEST(all_halves_come_back),
        UNIT_TEST(halves_round_to_nearest_even),
        UNIT_TEST(fp8_is_as_defined),
        UNIT_TEST(every_nan_is_the_same),
        UNIT_TEST(halves_agree_with_the_cpu),
    };
    return unit_main("numbers", tests, UNIT_COUNT(tests));
}
