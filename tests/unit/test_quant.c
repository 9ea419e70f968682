/* SPDX-License-Identifier: BSD-3-Clause
 *
 * quant against what it promises, in double: the nearest level, scales that are never 0 or Inf, chance that is right on
 * average, an error below the input on any input, and the error law on normal numbers. */
#include <float.h>
#include <math.h>
#include "unit.h"
#include "exec/kernels.h"

enum { N = TW_MAX_TILE };

static double gauss(unit_rng *r) {
    double u = ((double)(unit_next(r) >> 11) + 1) * 0x1p-53, v = (double)(unit_next(r) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

enum { GAUSS, OUTLIER, CONSTANT, ZEROS, TINY, LEAST, LARGEST, SPARSE, ALTERNATING, SMALL, LARGE, BELOW, KINDS };

static void fill(unit_rng *r, int kind, float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        float g = (float)gauss(r);
        x[i] = kind == CONSTANT      ? 0.3f
               : kind == ZEROS       ? 0.0f
               : kind == TINY        ? g * 1e-42f
               : kind == LEAST       ? (g > 0    ? 0x1p-149f
                                        : g < -1 ? -0x1p-149f
                                                 : 0.0f)
               : kind == LARGEST     ? (g > 0 ? FLT_MAX : -FLT_MAX)
               : kind == SPARSE      ? (unit_below(r, 64) ? 0.0f : g)
               : kind == ALTERNATING ? (i % 2 ? -1.0f : 1.0f)
               : kind == SMALL       ? g * 1e-38f
               : kind == LARGE       ? g * 4e37f
               : kind == BELOW       ? -fabsf(g) - 3.0f
                                     : g;
    }
    if (kind == OUTLIER || kind == LARGE)
        x[n / 3] = kind == LARGE ? -FLT_MAX : 1e30f;
}

typedef struct coded {
    tw_spec s;
    uint8_t payload[8 * N];
    float y[N];
    tw_tile_stat stat;
} coded;

static void code(coded *c, const char *text, const float *x, uint32_t n) {
    CU_ASSERT_EQUAL_FATAL(tw_spec_parse(text, &c->s), TW_OK);
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &c->s, x, NULL, 1.0f, n, c->payload, NULL, &c->stat), TW_OK);
    CU_ASSERT_EQUAL(tw_tile_decode(NULL, &c->s, c->payload, c->y, n, 0), TW_OK);
}

static double lost_of(const float *x, const float *y, uint32_t n) {
    double lost = 0;
    for (uint32_t i = 0; i < n; i++)
        lost += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return lost;
}

static double sq_of(const float *x, uint32_t n) {
    static const float none[N];
    return lost_of(x, none, n);
}

/* ---- to nearest ---- */
static float scale_at(const coded *c, uint32_t i) {
    float scale;
    memcpy(&scale, c->payload + 4 * (i / c->s.group), 4);
    return scale;
}

/* What a group's scale must be, and how far a value may be from what it decodes to (a step that is rounded up, too). */
static void nearest_group(const coded *c, const float *x, uint32_t at, uint32_t m) {
    double most = 0, least = INFINITY, top = -INFINITY, slack = 1 + 1e-5, parts = (1 << c->s.bits) - 1;
    double scale = (double)scale_at(c, at);
    for (uint32_t i = at; i < at + m; i++) {
        most = fmax(most, fabs((double)x[i]));
        least = fmin(least, (double)x[i]);
        top = fmax(top, (double)x[i]);
    }
    bool range = c->s.scale == TW_SCALE_MINMAX;
    double want = range ? (top - least) / parts : c->s.bits == 2 ? most / 2 : most / ((1 << (c->s.bits - 1)) - 1);
    CU_ASSERT(fabs(scale - want) <= want * 1e-6 + 0x1p-149);
    CU_ASSERT(want == 0 || scale > 0);
    unsigned bad = 0;
    for (uint32_t i = at; i < at + m; i++) {
        double off = fabs((double)x[i] - (double)c->y[i]), reach = c->s.bits == 2 && !range ? scale : INFINITY;
        double room = fmax(scale / 2, fabs((double)x[i]) - reach) * slack + fabs((double)x[i]) * 2e-7 + 0x1p-149;
        bad += !(off <= (most > 1e38 ? 2 * room : room)); /* there a level may have moved inwards */
    }
    CU_ASSERT_EQUAL(bad, 0);
    if (bad)
        printf("bits %u scale %u group at %u of %u: %u values are off\n", c->s.bits, c->s.scale, at, m, bad);
}

static void levels_are_the_nearest(void) {
    static const char *const texts[] = {"quant",
                                        "quant:bits=6,group=128",
                                        "quant:bits=4",
                                        "quant:bits=3",
                                        "quant:bits=2,group=1024",
                                        "quant:scale=minmax",
                                        "quant:bits=6,scale=minmax",
                                        "quant:bits=4,scale=minmax,group=4096",
                                        "quant:bits=3,scale=minmax",
                                        "quant:bits=2,scale=minmax"};
    static const uint32_t sizes[] = {1, 7, 31, 127, 129, 1021, 4095, 4096};
    static float x[N];
    static coded c;
    unit_rng r = unit_seeded("nearest");
    for (size_t t = 0; t < UNIT_COUNT(texts); t++)
        for (size_t k = 0; k < UNIT_COUNT(sizes); k++)
            for (int kind = 0; kind < KINDS; kind++) {
                uint32_t n = sizes[k];
                fill(&r, kind, x, n);
                code(&c, texts[t], x, n);
                CU_ASSERT_EQUAL(c.stat.nonfinite, 0);
                for (uint32_t at = 0; at < n; at += c.s.group)
                    nearest_group(&c, x, at, n - at < c.s.group ? n - at : c.s.group);
            }
}

/* Every value decodes to the nearest of the levels +-k mean |x| that the group has. */
static void table_group(const coded *c, const float *x, uint32_t at, uint32_t m) {
    double mean = 0, scale = (double)scale_at(c, at);
    const float *level = (const float[3][8]){{0.5674756f, 1.8930277f},
                                             {0.3071800f, 0.9475121f, 1.6843405f, 2.6970640f},
                                             {0.1609193f, 0.4863464f, 0.8231255f, 1.1810486f, 1.5744523f, 2.0279204f,
                                              2.5931285f, 3.4247931f}}[c->s.bits - 2];
    unsigned bad = 0;
    for (uint32_t i = at; i < at + m; i++)
        mean += fabs((double)x[i]) / m;
    CU_ASSERT(fabs(scale - mean) <= mean * 1e-5 + 0x1p-149);
    CU_ASSERT(mean == 0 || scale > 0);
    for (uint32_t i = at; i < at + m; i++) {
        double best = INFINITY;
        for (uint32_t k = 0; k < 1u << (c->s.bits - 1); k++)
            best = fmin(best, fabs(fabs((double)x[i]) - fmin((double)level[k] * scale, (double)FLT_MAX)));
        bad += !(fabs((double)x[i] - (double)c->y[i]) <= best * (1 + 1e-5) + fabs((double)x[i]) * 2e-7 + 0x1p-148);
        bad += (x[i] < 0) != (c->y[i] < 0) && c->y[i] != 0;
    }
    CU_ASSERT_EQUAL(bad, 0);
}

static void table_levels_are_the_nearest(void) {
    static const char *const texts[] = {"quant:bits=4,scale=mse,group=4096", "quant:bits=4,scale=mse,group=128",
                                        "quant:bits=3,scale=mse", "quant:bits=2,scale=mse"};
    static float x[N];
    static coded c;
    unit_rng r = unit_seeded("tables");
    for (size_t t = 0; t < UNIT_COUNT(texts); t++)
        for (int kind = 0; kind < KINDS; kind++)
            for (uint32_t n = 1; n <= N; n = n * 3 + 1) {
                fill(&r, kind, x, n);
                code(&c, texts[t], x, n);
                CU_ASSERT_EQUAL(c.stat.nonfinite, 0);
                for (uint32_t at = 0; at < n; at += c.s.group)
                    table_group(&c, x, at, n - at < c.s.group ? n - at : c.s.group);
            }
}

/* ---- a contraction: what is lost is less than what was there, whatever it was ---- */
static void every_input_shrinks(void) {
    static const char *const scales[] = {"absmax", "mse"};
    static const unsigned bits[] = {8, 6, 4, 3, 2};
    static float x[N];
    static coded c;
    unit_rng r = unit_seeded("contraction");
    for (int k = 0; k < 10 * KINDS; k++)
        for (uint32_t group = 128; group <= N; group *= 4) {
            char text[64];
            uint32_t n = k % 2 ? N : 1 + unit_below(&r, N);
            int kind = k / 10;
            snprintf(text, sizeof text, "quant:bits=%u,scale=%s,group=%u", bits[k % 5], scales[k % 10 / 5], group);
            fill(&r, kind, x, n);
            code(&c, text, x, n);
            double sq = sq_of(x, n), lost = lost_of(x, c.y, n);
            bool below_fp32 = kind == LEAST || kind == TINY; /* levels lie on the grid of 2^-149 */
            CU_ASSERT(lost < sq || sq == 0 ||
                      (below_fp32 && c.s.scale == TW_SCALE_MSE && c.s.bits <= 4 && lost <= 2 * sq));
            if (lost >= sq && sq > 0)
                printf("%s: n %u kind %d: %g of %g lost\n", text, n, kind, lost, sq);
        }
}

/* ---- mse of 8 and 6 bits: of two steps the better one for each group ---- */
static void mse_loses_no_more_than_absmax(void) {
    static float x[N];
    static coded most, best;
    unit_rng r = unit_seeded("better");
    int shorter = 0;
    for (int k = 0; k < 40 * KINDS; k++) {
        char text[64];
        uint32_t n = k % 2 ? N : 1 + unit_below(&r, N);
        unsigned bits = k % 4 / 2 ? 6 : 8, group = 128u << (k % 6);
        fill(&r, k / 40, x, n);
        snprintf(text, sizeof text, "quant:bits=%u,group=%u", bits, group);
        code(&most, text, x, n);
        snprintf(text, sizeof text, "quant:bits=%u,scale=mse,group=%u", bits, group);
        code(&best, text, x, n);
        for (uint32_t at = 0; at < n; at += group) {
            uint32_t m = n - at < group ? n - at : group;
            double limit = lost_of(x + at, most.y + at, m), lost = lost_of(x + at, best.y + at, m);
            shorter += scale_at(&best, at) < scale_at(&most, at);
            CU_ASSERT(scale_at(&best, at) <= scale_at(&most, at));
            CU_ASSERT(lost <= limit * (1 + 0x1p-10)); /* both are sums of fp32 */
            if (lost > limit * (1 + 0x1p-10))
                printf("%s: kind %d group at %u of %u: %g, absmax %g\n", text, k / 40, at, m, lost, limit);
        }
    }
    printf("a shorter step: %d groups\n", shorter);
    CU_ASSERT(shorter > 100);
}

/* ---- the error law ---- */
static void normal_numbers_lose_what_is_written(void) {
    static const struct {
        const char *text;
        double low, high;
    } cases[] = {{"quant", 4.8e-5, 6.2e-5},
                 {"quant:rounding=stochastic", 9.6e-5, 1.24e-4},
                 {"quant:bits=6", 8e-4, 1.05e-3},
                 {"quant:bits=4", 0.0165, 0.0195},
                 {"quant:bits=4,scale=minmax", 0.0125, 0.0165},
                 {"quant:bits=4,scale=mse,group=4096", 0.0092, 0.00977}, /* 2.5 x 2^-8 */
                 {"quant:bits=4,rotate=hadamard", 0.0165, 0.0195},
                 {"quant:bits=3,scale=mse,group=4096", 0.0335, 0.0358},
                 {"quant:bits=2", 0.2, 0.26},
                 {"quant:bits=2,scale=mse", 0.115, 0.121},
                 {"quant:bits=6,scale=mse,group=4096", 1.0e-3, 1.13e-3},
                 {"quant:scale=mse", 4.8e-5, 6.2e-5}};
    static float x[N];
    static coded c;
    for (size_t k = 0; k < UNIT_COUNT(cases); k++) {
        unit_rng r = {k + 1};
        double sq = 0, lost = 0;
        for (int tile = 0; tile < 40; tile++) {
            fill(&r, GAUSS, x, N);
            code(&c, cases[k].text, x, N);
            sq += sq_of(x, N);
            lost += lost_of(x, c.y, N);
            CU_ASSERT(fabs(c.stat.e_sq / lost_of(x, c.y, N) - 1) < 0x1p-16);
        }
        printf("%s: NMSE %.4g\n", cases[k].text, lost / sq);
        CU_ASSERT(lost / sq >= cases[k].low && lost / sq <= cases[k].high);
    }
}

/* ---- chance ---- */
/* Over many draws the mean is the value, to the resolution of 8 random bits; each is one of the two levels around it. */
static void chance_is_right_on_average(void) {
    static const char *const texts[] = {
        "quant:bits=4,rounding=stochastic", "quant:bits=3,rounding=stochastic,scale=minmax",
        "quant:bits=8,rounding=stochastic,group=128", "quant:bits=4,rounding=stochastic,scale=mse",
        "quant:bits=2,rounding=stochastic,scale=mse"};
    enum { DRAWS = 4000, VALUES = 600 };
    static float x[VALUES], y[VALUES];
    static double sum[VALUES];
    static uint8_t payload[8 * N];
    unit_rng r = unit_seeded("chance");
    const tw_kernels *k = tw_kernels_best();
    tw_fpenv env = tw_fp_enter();
    for (size_t t = 0; t < UNIT_COUNT(texts); t++) {
        tw_spec s;
        tw_tile_stat stat;
        double step = 0, worst = 0, drift = 0;
        CU_ASSERT_EQUAL_FATAL(tw_spec_parse(texts[t], &s), TW_OK);
        fill(&r, GAUSS, x, VALUES);
        for (uint32_t i = 0; i < VALUES; i++) {
            x[i] = fmaxf(fminf(x[i], 1.2f), -1.2f); /* inside of the outermost levels */
            sum[i] = 0;
        }
        for (uint32_t d = 0; d < DRAWS; d++) {
            tw_enc a = {.g = x, .scale = 1.0f, .n = VALUES, .dtype = TW_F32, .dst = payload, .noise = {{d, 9}, {1, 0}}};
            k->encode[s.codec][TW_V_PLAIN](&s, &a, &stat);
            k->decode_set[s.codec](&s, TW_F32, payload, y, VALUES, &a.noise);
            for (uint32_t i = 0; i < VALUES; i++) {
                sum[i] += (double)y[i];
                if (fabs((double)y[i] - (double)x[i]) > step) /* fmax in here crashes gcc 12 for aarch64 */
                    step = fabs((double)y[i] - (double)x[i]);
            }
        }
        for (uint32_t i = 0; i < VALUES; i++) {
            double off = sum[i] / DRAWS - (double)x[i];
            worst = fmax(worst, fabs(off));
            drift += off / VALUES;
        }
        printf("%s: largest step %.3g, mean off by up to %.3g, on average by %.2g\n", texts[t], step, worst, drift);
        CU_ASSERT(worst <= step * (1.0 / 512 + 5 * 0.5 / sqrt(DRAWS)));
        CU_ASSERT(fabs(drift) <= step * 5 * 0.5 / sqrt((double)DRAWS * VALUES) + step / 2000);
    }
    tw_fp_leave(env);
}

/* ---- rotation ---- */
static void turning_spreads_outliers(void) {
    static float x[N];
    static coded plain, turned, other;
    unit_rng r = unit_seeded("turn");
    fill(&r, GAUSS, x, N);
    for (uint32_t i = 0; i < N; i += 512)
        x[i + 100] = 300.0f;
    code(&plain, "quant:bits=4", x, N);
    code(&turned, "quant:bits=4,rotate=hadamard", x, N);
    code(&other, "quant:bits=4,rotate=hadamard,seed=1", x, N);
    double sq = sq_of(x, N) - 8 * 9e4; /* of all but the outliers */
    printf("beside outliers: lost %.3g of the rest as it is, %.3g turned\n", lost_of(x, plain.y, N) / sq,
           lost_of(x, turned.y, N) / sq);
    CU_ASSERT(lost_of(x, plain.y, N) > 0.95 * sq);
    CU_ASSERT(lost_of(x, turned.y, N) < 12 * sq); /* it spreads their error, too */
    CU_ASSERT(memcmp(turned.payload, other.payload, 2048) != 0);
    code(&turned, "quant:bits=8,rotate=hadamard,group=4096,seed=5", x, 4001); /* blocks of 2048, 1024, ..., 1 */
    CU_ASSERT(lost_of(x, turned.y, 4001) < 1e-3 * sq_of(x, 4001));
}

/* Bytes from a network: any of them, and no harm done. Sanitizers look on. */
static void any_payload_is_harmless(void) {
    static const char *const texts[] = {"quant", "quant:bits=6,scale=minmax", "quant:bits=3,scale=mse,rotate=hadamard",
                                        "quant:bits=4,scale=mse", "quant:bits=2,group=128"};
    unit_rng r = unit_seeded("bytes");
    for (int k = 0; k < 500; k++) {
        tw_spec s;
        uint32_t n = 1 + unit_below(&r, N);
        CU_ASSERT_EQUAL_FATAL(tw_spec_parse(texts[k % 5], &s), TW_OK);
        size_t bytes = (size_t)tw_spec_bound(&s, n, TW_F32);
        uint32_t *payload = malloc(bytes);
        float *y = malloc(n * sizeof *y); /* exact: a byte more is seen */
        for (size_t i = 0; i < bytes / 4; i++)
            payload[i] = (uint32_t)unit_next(&r);
        for (const char *const *isa = tw_isa_list(); *isa; isa++)
            CU_ASSERT_EQUAL(tw_tile_decode(*isa, &s, payload, y, n, 0), TW_OK);
        free(payload);
        free(y);
    }
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(levels_are_the_nearest),
        UNIT_TEST(table_levels_are_the_nearest),
        UNIT_TEST(every_input_shrinks),
        UNIT_TEST(mse_loses_no_more_than_absmax),
        UNIT_TEST(normal_numbers_lose_what_is_written),
        UNIT_TEST(chance_is_right_on_average),
        UNIT_TEST(turning_spreads_outliers),
        UNIT_TEST(any_payload_is_harmless),
    };
    return unit_main("quant", tests, UNIT_COUNT(tests));
}
