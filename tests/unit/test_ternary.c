/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ternary and fp8 against what they promise, in double: what is kept and its mean, an error below the input on any input,
 * chance that is right on average, and the error laws on normal and Laplacian numbers. */
#include <float.h>
#include <math.h>
#include "unit.h"
#include "exec/kernels.h"

enum { N = TW_MAX_TILE };

static double uniform(unit_rng *r) {
    return ((double)(unit_next(r) >> 11) + 1) * 0x1p-53;
}

static float gauss(unit_rng *r) {
    return (float)(sqrt(-2 * log(uniform(r))) * cos(6.283185307179586 * uniform(r)));
}

static float laplace(unit_rng *r) {
    return (float)(unit_below(r, 2) ? log(uniform(r)) : -log(uniform(r)));
}

typedef struct coded {
    tw_spec s;
    uint32_t payload[N];
    float y[N];
    tw_tile_stat stat;
} coded;

static void code(coded *c, const char *text, const float *x, uint32_t n) {
    CU_ASSERT_EQUAL_FATAL(tw_spec_parse(text, &c->s), TW_OK);
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &c->s, x, NULL, 1.0f, n, c->payload, NULL, &c->stat), TW_OK);
    CU_ASSERT_EQUAL(tw_tile_decode(NULL, &c->s, c->payload, c->y, n, 0), TW_OK);
}

/* NMSE over 100 tiles. */
static double nmse(const char *text, float (*draw)(unit_rng *r), unit_rng *r) {
    static coded c;
    static float x[N];
    double lost = 0, sq = 0;
    for (int round = 0; round < 100; round++) {
        for (uint32_t i = 0; i < N; i++)
            x[i] = draw(r);
        code(&c, text, x, N);
        for (uint32_t i = 0; i < N; i++) {
            lost += ((double)x[i] - (double)c.y[i]) * ((double)x[i] - (double)c.y[i]);
            sq += (double)x[i] * (double)x[i];
        }
    }
    return lost / sq;
}

static void error_laws(void) {
    static const struct {
        const char *text;
        double gauss, laplace, off; /* off: relative */
    } laws[] = {{"ternary", 0.1902, 0.275, 0.02},
                {"ternary:group=4096", 0.1902, 0.275, 0.02},
                {"ternary:rounding=stochastic", 1.58, 2.43, 0.1},
                {"onebit:scale=twosided,group=4096", 0.3634, 0.5, 0.02},
                {"cast:type=fp8e4m3", 6.92e-4, 6.69e-4, 0.02},
                {"cast:type=fp8e5m2", 2.75e-3, 2.66e-3, 0.02}};
    unit_rng r = unit_seeded("error laws");
    for (size_t i = 0; i < UNIT_COUNT(laws); i++) {
        double g = nmse(laws[i].text, gauss, &r), l = nmse(laws[i].text, laplace, &r);
        printf("%s: NMSE %.4g normal, %.4g Laplace\n", laws[i].text, g, l);
        CU_ASSERT(fabs(g / laws[i].gauss - 1) < laws[i].off);
        CU_ASSERT(fabs(l / laws[i].laplace - 1) < laws[i].off);
    }
}

enum { GAUSS, OUTLIER, CONSTANT, TINY, LEAST, ONE_LEAST, LARGEST, SPARSE, ALTERNATING, SMALL, LARGE, KINDS };

static void fill(unit_rng *r, int kind, float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        float g = gauss(r);
        x[i] = kind == CONSTANT      ? 0.3f
               : kind == TINY        ? g * 1e-42f
               : kind == LEAST       ? (g > 0 ? 0x1p-149f : -0x1p-149f)
               : kind == ONE_LEAST   ? 0.0f
               : kind == LARGEST     ? (g > 0 ? FLT_MAX : -FLT_MAX)
               : kind == SPARSE      ? (unit_below(r, 64) ? 0.0f : g)
               : kind == ALTERNATING ? (i % 2 ? -1.0f : 1.0f)
               : kind == SMALL       ? g * 1e-38f
               : kind == LARGE       ? g * 4e37f
                                     : g;
    }
    if (kind == OUTLIER || kind == ONE_LEAST)
        x[n / 3] = kind == OUTLIER ? 1e30f : -0x1p-149f;
}

/* By the threshold; kept values share their mean. Less is lost than there is, of any input: (1 - 0.767)^2 (E|x|)^2 / E x^2
 * remains at least. */
static void what_is_kept(void) {
    static const uint32_t sizes[] = {1, 7, 31, 127, 128, 129, 513, 1031, 4093, 4096};
    static coded c;
    static float x[N];
    unit_rng r = unit_seeded("kept");
    for (int round = 0; round < 10 * KINDS * 10; round++) {
        uint32_t n = sizes[round / KINDS % 10], group = 128u << unit_below(&r, 6);
        char text[64];
        snprintf(text, sizeof text, "ternary:group=%u", group);
        fill(&r, round % KINDS, x, n);
        code(&c, text, x, n);
        CU_ASSERT_EQUAL(c.stat.nonfinite, 0);
        for (uint32_t at = 0; at < n; at += group) {
            uint32_t m = n - at < group ? n - at : group, members = 0;
            double sum = 0, kept = 0, sq = 0, lost = 0;
            for (uint32_t i = at; i < at + m; i++)
                sum += fabs((double)x[i]);
            for (uint32_t i = at; i < at + m; i++) {
                double size = fabs((double)x[i]), limit = 0.767 * sum / m, e = (double)x[i] - (double)c.y[i];
                if (fabs(size - limit) > 1e-6 * limit + 0x1p-148)
                    CU_ASSERT_EQUAL(c.y[i] != 0, size > limit);
                CU_ASSERT(c.y[i] == 0 || signbit(c.y[i]) == signbit(x[i]));
                kept += c.y[i] != 0 ? size : 0;
                members += c.y[i] != 0;
                sq += size * size;
                lost += e * e;
            }
            CU_ASSERT((members == 0) == (sum == 0));
            for (uint32_t i = at; i < at + m; i++)
                CU_ASSERT(c.y[i] == 0 ||
                          fabs(fabs((double)c.y[i]) - kept / members) <= 1e-6 * kept / members + 0x1p-149);
            CU_ASSERT(sum == 0 || round % KINDS == TINY || lost <= sq - 0.054 * sum * sum / m);
        }
    }
}

/* P(kept) = |x| / max |x| to within 1/512, for each value. */
static void chance_is_right_on_average(void) {
    enum { ROUNDS = 20000, LEN = 256 };
    static float x[LEN], y[LEN];
    static uint32_t payload[LEN];
    static double sum[LEN];
    unit_rng r = unit_seeded("chance");
    tw_spec s;
    tw_tile_stat stat;
    CU_ASSERT_EQUAL_FATAL(tw_spec_parse("ternary:rounding=stochastic,group=256", &s), TW_OK);
    for (uint32_t i = 0; i < LEN; i++)
        x[i] = (float)i / (LEN - 1) * (i % 2 ? -2.0f : 2.0f);
    for (int round = 0; round < ROUNDS; round++) {
        tw_enc a = {.g = x, .scale = 1.0f, .n = LEN, .dtype = TW_F32, .dst = payload};
        a.noise = (tw_noise){{unit_below(&r, UINT32_MAX), unit_below(&r, UINT32_MAX)}, {(uint32_t)round, 0}};
        tw_kernels_best()->encode[s.codec][TW_V_PLAIN](&s, &a, &stat);
        tw_kernels_best()->decode_set[s.codec](&s, TW_F32, payload, y, LEN, &a.noise);
        for (uint32_t i = 0; i < LEN; i++) {
            CU_ASSERT(y[i] == 0 || y[i] == (i % 2 ? -2.0f : 2.0f));
            sum[i] += (double)y[i];
        }
    }
    for (uint32_t i = 0; i < LEN; i++) { /* five deviations of the mean besides */
        double p = fabs((double)x[i]) / 2, mean = sum[i] / ROUNDS;
        CU_ASSERT(fabs(mean - (double)x[i]) <= 2.0 / 512 + 2 * 5 * sqrt(p * (1 - p) / ROUNDS) + 1e-12);
    }
    CU_ASSERT(sum[0] == 0 && sum[LEN - 1] == -2.0 * ROUNDS);
}

/* Bytes of a peer may be anything: a value is +0, or the scale with a sign, and nothing else is read or written. */
static void any_payload_decodes(void) {
    static const char *const texts[] = {"ternary:group=128", "cast:type=fp8e4m3", "cast:type=fp8e5m2,group=128",
                                        "onebit:scale=twosided"};
    unit_rng r = unit_seeded("any payload");
    for (int round = 0; round < 400; round++) {
        tw_spec s;
        uint32_t n = 1 + unit_below(&r, round % 2 ? 300 : N);
        CU_ASSERT_EQUAL(tw_spec_parse(texts[round % 4], &s), TW_OK);
        size_t bytes = tw_spec_bound(&s, n, TW_F32);
        uint8_t *payload = malloc(bytes); /* on the heap: a sanitizer sees a byte too many */
        float *y = malloc(n * sizeof *y), *want = malloc(n * sizeof *want);
        for (size_t i = 0; i < bytes; i++)
            payload[i] = (uint8_t)unit_below(&r, 256);
        CU_ASSERT_EQUAL(tw_tile_decode("ref", &s, payload, want, n, 0), TW_OK);
        for (const char *const *isa = tw_isa_list(); *isa; isa++) {
            CU_ASSERT_EQUAL(tw_tile_decode(*isa, &s, payload, y, n, 0), TW_OK);
            for (uint32_t i = 0; i < n; i++)
                CU_ASSERT(unit_bits(y[i]) == unit_bits(want[i]) || (y[i] != y[i] && want[i] != want[i]));
        }
        free(payload);
        free(y);
        free(want);
    }
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(error_laws), UNIT_TEST(what_is_kept),
                                      UNIT_TEST(chance_is_right_on_average), UNIT_TEST(any_payload_decodes)};
    return unit_main("ternary", tests, UNIT_COUNT(tests));
}
