/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The codec loops: every ISA against the reference bit for bit, and the reference against a model in double. */
#include <math.h>
#include "host_fp.h"
#include "unit.h"
#include "exec/kernels.h"

#define CANARY 0xa5u
#define MARGIN 64u /* bytes watched before and behind every output */

/* ---- inputs ---- */
enum {
    NORMAL,
    MIXED,
    DENORMAL,
    SMALL,
    HUGE_ONES,
    ALL_MAX,
    ALL_ZERO,
    ZERO_GROUPS,
    OUTLIER,
    EQUAL,
    HALVES,
    OVER_HALF,
    ALTERNATING,
    SOME_NAN,
    SOME_INF,
    NAN_AND_INF,
    KINDS
};

static float normal(unit_rng *r) {
    float sum = 0.0f;
    for (int i = 0; i < 6; i++)
        sum += unit_float(r);
    return sum * 0.7f;
}

static float one_value(unit_rng *r, int kind, uint32_t i) {
    float x = normal(r);
    switch (kind) {
    case MIXED:
        return ldexpf(x, (int)unit_below(r, 240) - 120);
    case DENORMAL:
        return x * 1e-40f;
    case SMALL:
        return x * 1e-20f;
    case HUGE_ONES:
        return x * 7e37f;
    case ALL_MAX:
        return x < 0 ? -3.40282347e38f : 3.40282347e38f;
    case ALL_ZERO:
        return x < 0 ? -0.0f : 0.0f;
    case ZERO_GROUPS:
        return i / 128 % 3 ? 0.0f : x;
    case EQUAL:
        return x < 0 ? -0.25f : 0.25f;
    case HALVES:
        return tw_bf16_to_f32(tw_f32_to_bf16(tw_f16_to_f32(tw_f32_to_f16(x))));
    case OVER_HALF:
        return x * 40000.0f;
    case ALTERNATING:
        return i % 2 ? -x : fabsf(x);
    default:
        return x;
    }
}

static void spoil(unit_rng *r, int kind, float *x, uint32_t n) {
    for (uint32_t i = 0; i < 1 + n / 500; i++) {
        float *p = &x[unit_below(r, n)];
        uint32_t sign = unit_below(r, 2) << 31;
        if (kind == OUTLIER && i == 0)
            *p = 1e6f;
        if (kind == SOME_NAN || (kind == NAN_AND_INF && i % 2))
            *p = unit_from_bits(0x7f800001u + unit_below(r, 0x7ffffe) + sign);
        else if (kind == SOME_INF || kind == NAN_AND_INF)
            *p = unit_from_bits(0x7f800000u + sign);
    }
}

static void fill(unit_rng *r, int kind, float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        x[i] = one_value(r, kind, i);
    spoil(r, kind, x, n);
}

/* ---- one encode into watched memory ---- */
typedef struct outcome {
    tw_tile_stat stat;
    uint32_t bytes;
    _Alignas(64) uint8_t payload[4 * TW_MAX_TILE + 2 * MARGIN];
    _Alignas(64) uint8_t out[4 * TW_MAX_TILE + 2 * MARGIN];
} outcome;

static bool untouched(const uint8_t *area, size_t used) {
    bool ok = true;
    for (size_t i = 0; i < MARGIN; i++)
        ok = ok && area[i] == CANARY && area[MARGIN + used + i] == CANARY;
    return ok;
}

static uint32_t payload_bytes(const tw_spec *s, uint32_t n, tw_dtype t) {
    return tw_codec_get(s->codec)->bytes(s, n, t);
}

static void encode(const tw_kernels *k, const tw_spec *s, tw_variant v, tw_enc a, uint32_t shift, outcome *o) {
    memset(o, CANARY, sizeof *o);
    o->bytes = payload_bytes(s, a.n, a.dtype);
    memset(o->payload + MARGIN + shift, 0x77, o->bytes); /* what is not written stays visible */
    a.dst = o->payload + MARGIN + shift;
    a.out = (float *)(void *)(o->out + MARGIN);
    k->encode[s->codec][v](s, &a, &o->stat);
    CU_ASSERT(o->stat.nonfinite <= 1 && o->stat.reserved == 0);
    for (uint32_t i = 0; i < shift; i++)
        CU_ASSERT(o->payload[MARGIN + i] == CANARY);
    memmove(o->payload + MARGIN, o->payload + MARGIN + shift, o->bytes + MARGIN - shift);
    memset(o->payload + 2 * MARGIN + o->bytes - shift, CANARY, shift);
    CU_ASSERT(untouched(o->payload, o->bytes));
    CU_ASSERT(untouched(o->out, v == TW_V_EF || v == TW_V_RECON ? a.n * sizeof(float) : 0));
}

static bool same_outcome(const outcome *a, const outcome *b, tw_variant v, uint32_t n) {
    if (memcmp(&a->stat, &b->stat, sizeof a->stat) || memcmp(a->payload + MARGIN, b->payload + MARGIN, a->bytes))
        return false;
    bool stores = v == TW_V_EF || v == TW_V_RECON;
    return !stores || a->stat.nonfinite || !memcmp(a->out + MARGIN, b->out + MARGIN, n * sizeof(float));
}

static bool same_values(const float *a, const float *b, uint32_t n) { /* any NaN equals any NaN */
    for (uint32_t i = 0; i < n; i++)
        if (unit_bits(a[i]) != unit_bits(b[i]) && !(a[i] != a[i] && b[i] != b[i]))
            return false;
    return true;
}

typedef struct arrays {
    _Alignas(64) float g[TW_MAX_TILE + 32];
    _Alignas(64) float e[TW_MAX_TILE];
    _Alignas(64) float y0[TW_MAX_TILE + 64], y1[TW_MAX_TILE + 64];
} arrays;

static void check_decode(unit_rng *r, const tw_kernels *k, const tw_spec *s, tw_dtype t, const void *payload,
                         uint32_t n, const tw_noise *noise, arrays *m) {
    const tw_decode_fn *mine[] = {k->decode_set, k->decode_stream, k->decode_add};
    const tw_decode_fn *theirs[] = {tw_kernels_ref.decode_set, tw_kernels_ref.decode_set, tw_kernels_ref.decode_add};
    for (int way = 0; way < 3; way++) {
        uint32_t shift = unit_below(r, 3) ? 4 * unit_below(r, 5) : unit_below(r, 17);
        bool zeros = unit_below(r, 2); /* a sum of -0 and +0 is +0 */
        for (uint32_t i = 0; i < TW_MAX_TILE + 64; i++)
            m->y0[i] = m->y1[i] = zeros && i % 7 == 0 ? -0.0f : (float)i - 2000.0f;
        theirs[way][s->codec](s, t, payload, m->y0 + shift, n, noise);
        mine[way][s->codec](s, t, payload, m->y1 + shift, n, noise);
        bool same = way == 2 ? same_values(m->y0, m->y1, TW_MAX_TILE + 64) : !memcmp(m->y0, m->y1, sizeof m->y0);
        CU_ASSERT(same);
        if (!same)
            printf("%s decode %d: codec %u, n %u, dtype %d, shift %u\n", k->name, way, s->codec, n, (int)t, shift);
    }
}

static const uint32_t sizes[] = {1,   2,   7,    31,   32,   33,   63,   127,  128,  129,  255,  256, 500,
                                 511, 512, 1023, 1024, 1025, 2047, 2048, 3000, 4000, 4095, 4096, 0,   0};

/* One spec and dtype over sizes, kinds and variants. */
static void check_spec(unit_rng *r, const tw_kernels *k, const tw_spec *s, tw_dtype t) {
    static arrays m;
    static outcome want, got;
    static const float scales[] = {1.0f, 0.5f, -1.0f, 1.0f / 1024};
    uint32_t share = unit_share();
    for (size_t i = unit_below(r, share); i < UNIT_COUNT(sizes); i += share) {
        uint32_t n = sizes[i] ? sizes[i] : 1 + unit_below(r, TW_MAX_TILE);
        for (int kind = 0; kind < KINDS; kind++) {
            uint32_t shift = unit_below(r, 16);
            tw_noise noise = {{0}, {0}};
            fill(r, kind, m.g + shift, n);
            fill(r, unit_below(r, 2) ? kind : NORMAL, m.e, n);
            for (int v = 0; v < TW_VARIANTS; v++) {
                tw_enc a = {.g = m.g + shift, .e = m.e, .scale = scales[unit_below(r, 4)], .n = n, .dtype = t};
                a.noise = noise = (tw_noise){{unit_below(r, 1000), 7}, {unit_below(r, 9), unit_below(r, 2)}};
                a.part = unit_below(r, 2);
                encode(&tw_kernels_ref, s, (tw_variant)v, a, 0, &want);
                encode(k, s, (tw_variant)v, a, 4 * unit_below(r, 8), &got);
                bool same = same_outcome(&want, &got, (tw_variant)v, n);
                CU_ASSERT(same);
                if (!same)
                    printf("%s: codec %u group %u scale %u type %u dtype %d bits %u rounding %u rotate %u variant %d "
                           "n %u kind %d\n",
                           k->name, s->codec, s->group, s->scale, s->type, (int)t, s->bits, s->rounding, s->rotate, v,
                           n, kind);
            }
            check_decode(r, k, s, t, want.payload + MARGIN, n, &noise, &m);
        }
    }
}

/* Every loop: grids by bits and scale, both roundings, turned and not, groups in a segment and over several. */
static const char *const quant_texts[] = {
    "quant",
    "quant:group=128",
    "quant:group=4096",
    "quant:bits=6",
    "quant:bits=4",
    "quant:bits=4,group=2048",
    "quant:bits=3,group=256",
    "quant:bits=2",
    "quant:bits=8,scale=minmax,group=1024",
    "quant:bits=6,scale=minmax",
    "quant:bits=3,scale=minmax,group=4096",
    "quant:bits=2,scale=minmax,group=128",
    "quant:bits=8,scale=mse,group=128",
    "quant:bits=6,scale=mse,group=4096",
    "quant:bits=4,scale=mse,group=4096",
    "quant:bits=4,scale=mse,group=256",
    "quant:bits=3,scale=mse",
    "quant:bits=2,scale=mse,group=2048",
    "quant:bits=8,rounding=stochastic,seed=5",
    "quant:bits=4,rounding=stochastic,group=128",
    "quant:bits=2,rounding=stochastic,group=4096",
    "quant:bits=6,rounding=stochastic,scale=minmax,group=256",
    "quant:bits=3,rounding=stochastic,scale=mse,group=1024",
    "quant:bits=4,rounding=stochastic,scale=mse",
    "quant:bits=8,rounding=stochastic,scale=mse,group=2048",
    "quant:bits=4,rotate=hadamard,seed=4000000000",
    "quant:bits=8,rotate=hadamard,group=4096",
    "quant:bits=4,rotate=hadamard,scale=mse,group=128,seed=1",
    "quant:bits=2,rotate=hadamard,scale=minmax,rounding=stochastic,seed=2",
};

/* One value of a tile, a batch of 128 positions, one more, several batches, all. */
static const char *const randk_texts[] = {"randk",
                                          "randk:density=0.0001",
                                          "randk:density=0.03125,seed=4000000000",
                                          "randk:density=0.0315",
                                          "randk:density=0.3",
                                          "randk:density=0.999",
                                          "randk:density=1",
                                          "randk:density=0.05,scale=unbiased",
                                          "randk:density=0.7,scale=unbiased"};

static void check_isa(const char *isa) {
    const tw_kernels *k = tw_kernels_named(isa);
    if (!k) {
        unit_skip(tw_last_error());
        return;
    }
    unit_rng r = unit_seeded(isa);
    static const tw_dtype dtypes[] = {TW_F32, TW_F16, TW_BF16};
    tw_fpenv env = tw_fp_enter();
    for (int d = 0; d < 3; d++) {
        tw_spec none = TW_SPEC_INIT, cast = TW_SPEC_INIT;
        cast.codec = TW_CODEC_CAST;
        cast.type = d % 2 ? TW_F16 : TW_BF16;
        check_spec(&r, k, &none, dtypes[d]);
        check_spec(&r, k, &cast, TW_F32);
    }
    for (uint32_t group = TW_MIN_TILE; group <= TW_MAX_TILE; group *= 2)
        for (uint16_t type = TW_CAST_FP8E4M3; type <= TW_CAST_FP8E5M2; type++) {
            tw_spec fp8 = TW_SPEC_INIT;
            fp8.codec = TW_CODEC_CAST;
            fp8.group = group;
            fp8.type = type;
            check_spec(&r, k, &fp8, TW_F32);
        }
    for (uint32_t group = TW_MIN_TILE; group <= TW_MAX_TILE; group *= 2)
        for (uint16_t scale = TW_SCALE_MEAN; scale <= TW_SCALE_TWOSIDED; scale++) {
            tw_spec onebit = TW_SPEC_INIT;
            onebit.codec = TW_CODEC_ONEBIT;
            onebit.group = group;
            onebit.scale = scale;
            check_spec(&r, k, &onebit, TW_F32);
        }
    for (size_t i = 0; i < UNIT_COUNT(quant_texts); i++) {
        tw_spec quant;
        CU_ASSERT_EQUAL_FATAL(tw_spec_parse(quant_texts[i], &quant), TW_OK);
        check_spec(&r, k, &quant, TW_F32);
    }
    for (uint32_t group = TW_MIN_TILE; group <= TW_MAX_TILE; group *= 2)
        for (uint16_t rounding = TW_ROUNDING_NEAREST; rounding <= TW_ROUNDING_STOCHASTIC; rounding++) {
            tw_spec ternary = TW_SPEC_INIT;
            ternary.codec = TW_CODEC_TERNARY;
            ternary.group = group;
            ternary.rounding = rounding;
            check_spec(&r, k, &ternary, TW_F32);
        }
    for (size_t i = 0; i < UNIT_COUNT(randk_texts); i++) {
        tw_spec randk;
        CU_ASSERT_EQUAL_FATAL(tw_spec_parse(randk_texts[i], &randk), TW_OK);
        check_spec(&r, k, &randk, i % 2 ? TW_BF16 : TW_F32);
    }
    tw_fp_leave(env);
}

static void avx2_equals_reference(void) {
    check_isa("avx2");
}
static void avx512_equals_reference(void) {
    check_isa("avx512");
}
static void neon_equals_reference(void) {
    check_isa("neon");
}

/* ---- the reference against a model in double ---- */
static double model_scale(const float *x, uint32_t m, bool rms) {
    double sum = 0.0;
    for (uint32_t i = 0; i < m; i++)
        sum += rms ? (double)x[i] * (double)x[i] : fabs((double)x[i]);
    return rms ? sqrt(sum / m) : sum / m;
}

/* Values whose sums stay in range: the model knows no Inf. */
static void fill_finite(unit_rng *r, int kind, float *g, float *e, uint32_t n) {
    fill(r, kind, g, n);
    fill(r, kind, e, n);
    for (uint32_t i = 0; i < n; i++)
        if (fabsf(e[i]) > 1e38f)
            e[i] *= 0.5f;
}

static bool near(double a, double b, double tolerance) {
    return fabs(a - b) <= tolerance * fabs(b);
}

static void near_scale(float scale, double model) {
    if (model > 3.4028234e38) /* rounding up in the sum must not give Inf */
        model = 3.4028234663852886e38;
    bool ok = near((double)scale, model, model > 1e-37 ? 1e-6 : 1e-2) || fabs((double)scale - model) < 2e-45;
    CU_ASSERT(ok);
    if (!ok)
        printf("scale %g, model %g\n", (double)scale, model);
}

/* The mean size of the values with this sign; 0 without any. */
static double model_side(const float *x, uint32_t m, bool negative) {
    double sum = 0.0;
    uint32_t members = 0;
    for (uint32_t i = 0; i < m; i++)
        if ((signbit(x[i]) != 0) == negative) {
            sum += fabs((double)x[i]);
            members++;
        }
    return members ? sum / members : 0.0;
}

static void model_onebit(const tw_spec *s, const float *x, uint32_t n, const uint8_t *payload, float *decoded) {
    uint32_t groups = (n + s->group - 1) / s->group, stored = s->scale == TW_SCALE_TWOSIDED ? 2 : 1;
    for (uint32_t i = 0; i < n; i++) {
        float scale[2];
        memcpy(scale, payload + 4 * stored * (i / s->group), 4 * stored);
        if (stored == 1)
            scale[1] = -scale[0];
        bool bit = payload[4 * stored * groups + i / 8] >> (i % 8) & 1;
        CU_ASSERT(bit == (signbit(x[i]) != 0));
        decoded[i] = scale[bit];
        if (i % s->group == 0) {
            uint32_t m = n - i < s->group ? n - i : s->group;
            near_scale(scale[0],
                       stored == 2 ? model_side(x + i, m, false) : model_scale(x + i, m, s->scale == TW_SCALE_RMS));
            near_scale(-scale[1], stored == 2 ? model_side(x + i, m, true) : (double)scale[0]);
            CU_ASSERT(stored == 1 || (unit_bits(scale[0]) != 0x80000000u && unit_bits(scale[1]) != 0x80000000u));
        }
    }
}

static void model_half(const float *x, uint32_t n, bool is_f16, const uint8_t *payload, float *decoded) {
    for (uint32_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, payload + 2 * i, 2);
        decoded[i] = is_f16 ? tw_f16_to_f32(h) : tw_bf16_to_f32(h);
        double half_step =
            is_f16 ? fmax(fabs((double)x[i]) * 0x1p-11, 0x1p-25) : fmax(fabs((double)x[i]) * 0x1p-8, 0x1p-134);
        CU_ASSERT(fabs((double)x[i] - (double)decoded[i]) <= half_step || isinf(decoded[i]));
    }
}

/* Every value within half a step of its size or, near 0, of the group's; the largest one with hardly an error, all but
 * where the scale is a power of two. */
static void model_fp8(const tw_spec *s, const float *x, uint32_t n, const uint8_t *payload, float *decoded) {
    uint32_t groups = (n + s->group - 1) / s->group;
    bool e5m2 = s->type == TW_CAST_FP8E5M2;
    for (uint32_t at = 0; at < n; at += s->group) {
        uint32_t m = n - at < s->group ? n - at : s->group;
        double most = 0.0, largest = e5m2 ? 57344.0 : 448.0;
        float scale;
        memcpy(&scale, payload + 4 * (at / s->group), 4);
        for (uint32_t i = at; i < at + m; i++)
            most = fmax(most, fabs((double)x[i]));
        CU_ASSERT(most < 0x1p-100 || near((double)scale, most / largest, 0x1p-24));
        for (uint32_t i = at; i < at + m; i++) {
            uint8_t code = payload[4 * groups + i];
            double size = fabs((double)x[i]);
            decoded[i] = tw_fp8_to_f32(code, e5m2) * scale;
            double half_step = fmax(size * (e5m2 ? 0x1p-3 : 0x1p-4), (double)scale * (e5m2 ? 0x1p-17 : 0x1p-10));
            CU_ASSERT(fabs((double)x[i] - (double)decoded[i]) <= half_step * (1 + 0x1p-20));
            CU_ASSERT(signbit(x[i]) == signbit(decoded[i]));
            CU_ASSERT(size < most || most < 0x1p-100 || near((double)decoded[i], (double)x[i], 0x1p-22));
        }
    }
}

static void model_case(unit_rng *r, const tw_spec *s, uint32_t n, int kind) {
    static arrays m;
    static outcome o;
    static float x[TW_MAX_TILE], decoded[TW_MAX_TILE];
    double x_sq = 0.0, e_sq = 0.0;
    bool bad = false;
    fill_finite(r, kind, m.g, m.e, n);
    tw_enc a = {.g = m.g, .e = m.e, .scale = 0.25f, .n = n, .dtype = TW_F32};
    encode(&tw_kernels_ref, s, TW_V_EF, a, 0, &o);
    for (uint32_t i = 0; i < n; i++) {
        volatile float scaled = m.g[i] * a.scale; /* two roundings */
        x[i] = scaled + m.e[i];
    }
    if (s->codec == TW_CODEC_ONEBIT)
        model_onebit(s, x, n, o.payload + MARGIN, decoded);
    else if (tw_type_is_fp8(s->type))
        model_fp8(s, x, n, o.payload + MARGIN, decoded);
    else
        model_half(x, n, s->type == TW_F16, o.payload + MARGIN, decoded);
    for (uint32_t i = 0; i < n; i++) {
        float e = x[i] - decoded[i], out;
        memcpy(&out, o.out + MARGIN + 4 * i, 4);
        bad = bad || !isfinite(decoded[i]);
        CU_ASSERT(unit_bits(e) == unit_bits(out) || bad);
        x_sq += (double)x[i] * (double)x[i];
        e_sq += (double)e * (double)e;
    }
    CU_ASSERT_EQUAL(o.stat.nonfinite, bad);
    CU_ASSERT(near(o.stat.x_sq, bad ? 0.0 : x_sq, 0x1p-16));
    CU_ASSERT(near(o.stat.e_sq, bad ? 0.0 : e_sq, 0x1p-16));
}

static void reference_equals_model(void) {
    unit_rng r = unit_seeded("model");
    tw_fpenv env = tw_fp_enter();
    for (int round = 0; round < 600; round++) {
        tw_spec s = TW_SPEC_INIT;
        s.codec = unit_below(&r, 3) ? TW_CODEC_ONEBIT : TW_CODEC_CAST;
        if (s.codec == TW_CODEC_ONEBIT) {
            s.group = TW_MIN_TILE << unit_below(&r, 6);
            s.scale = (uint16_t)(TW_SCALE_MEAN + unit_below(&r, 3));
        } else {
            s.type = (uint16_t)(TW_F16 + unit_below(&r, 4));
            s.group = tw_type_is_fp8(s.type) ? TW_MIN_TILE << unit_below(&r, 6) : 0;
        }
        model_case(&r, &s, unit_below(&r, 2) ? TW_MAX_TILE : 1 + unit_below(&r, TW_MAX_TILE), round % SOME_NAN);
    }
    tw_fp_leave(env);
}

/* A tile with NaN or Inf says so, and decodes to NaN or Inf there. */
static void nonfinite_is_told(void) {
    unit_rng r = unit_seeded("nonfinite");
    static const char *const texts[] = {"none",
                                        "cast:type=bf16",
                                        "cast:type=fp16",
                                        "onebit",
                                        "onebit:group=128,scale=rms",
                                        "quant:group=128",
                                        "quant:bits=4,rounding=stochastic",
                                        "quant:bits=3,scale=minmax",
                                        "quant:bits=2,scale=mse",
                                        "quant:bits=6,rotate=hadamard",
                                        "onebit:scale=twosided",
                                        "cast:type=fp8e4m3",
                                        "cast:type=fp8e5m2,group=4096",
                                        "ternary",
                                        "ternary:rounding=stochastic,group=4096",
                                        "randk:density=0.2",
                                        "randk:density=0.01,scale=unbiased"};
    enum { TEXTS = UNIT_COUNT(texts) };
    static arrays m;
    static uint32_t payload[TW_MAX_TILE];
    for (int round = 0; round < 100 * TEXTS; round++) {
        tw_spec s;
        tw_tile_stat stat;
        uint32_t n = 1 + unit_below(&r, TW_MAX_TILE);
        CU_ASSERT_EQUAL(tw_spec_parse(texts[round % TEXTS], &s), TW_OK);
        fill(&r, SOME_NAN + round / TEXTS % 3, m.g, n);
        CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, m.g, NULL, 1.0f, n, payload, m.e, &stat), TW_OK);
        CU_ASSERT(stat.nonfinite == 1 && stat.x_sq == 0.0 && stat.e_sq == 0.0);
        CU_ASSERT_EQUAL(tw_tile_decode(NULL, &s, payload, m.y0, n, 0), TW_OK);
        for (uint32_t i = 0; i < n; i++)
            CU_ASSERT(isfinite(m.g[i]) || !isfinite(m.y0[i]));
    }
}

/* ---- what the host program set must not matter ---- */
#if !defined(HOST_FP_UNKNOWN)
static void host_environment_is_ignored(void) {
    static const uint32_t settings[] = {HOST_FP_FLUSH, HOST_FP_DOWN, HOST_FP_ZERO, HOST_FP_FLUSH | HOST_FP_ZERO};
    static const char *const texts[] = {"none",
                                        "cast:type=fp16",
                                        "cast:type=bf16",
                                        "onebit",
                                        "onebit:scale=rms,group=512",
                                        "quant",
                                        "quant:bits=4,rotate=hadamard",
                                        "quant:bits=3,scale=mse",
                                        "quant:bits=6,scale=minmax",
                                        "quant:bits=2,rounding=stochastic",
                                        "onebit:scale=twosided",
                                        "cast:type=fp8e4m3",
                                        "cast:type=fp8e5m2,group=4096",
                                        "ternary",
                                        "ternary:rounding=stochastic,group=4096",
                                        "randk:density=0.2",
                                        "randk:density=0.01,scale=unbiased"};
    enum { TEXTS = UNIT_COUNT(texts) };
    unit_rng r = unit_seeded("environment");
    static arrays m;
    static uint32_t payload[2][TW_MAX_TILE];
    static _Alignas(64) float out[2][TW_MAX_TILE];
    for (const char *const *isa = tw_isa_list(); *isa; isa++)
        for (int round = 0; round < 200; round++) {
            tw_spec s;
            tw_tile_stat stat[2];
            CU_ASSERT_EQUAL(tw_spec_parse(texts[round % TEXTS], &s), TW_OK);
            fill(&r, round % SOME_NAN, m.g, TW_MAX_TILE);
            fill(&r, round % SOME_NAN, m.e, TW_MAX_TILE);
            CU_ASSERT_EQUAL(tw_tile_encode(*isa, &s, m.g, m.e, 0.5f, 4096, payload[0], out[0], &stat[0]), TW_OK);
            uint32_t before = host_fp_get(), set = before | settings[round % 4];
            host_fp_set(set);
            tw_status st = tw_tile_encode(*isa, &s, m.g, m.e, 0.5f, 4096, payload[1], out[1], &stat[1]);
            uint32_t after = host_fp_get();
            host_fp_set(before);
            CU_ASSERT_EQUAL(st, TW_OK);
            CU_ASSERT_EQUAL(after, set);
            CU_ASSERT(!memcmp(payload[0], payload[1], tw_spec_bound(&s, 4096, TW_F32)));
            CU_ASSERT(!memcmp(&stat[0], &stat[1], sizeof stat[0]));
            CU_ASSERT(stat[0].nonfinite || !memcmp(out[0], out[1], sizeof out[0]));
        }
}
#else
static void host_environment_is_ignored(void) {
    unit_skip("no way is known here to set rounding and flushing");
}
#endif

/* ---- the owner's tile in one go ---- */
enum { MOST_PARTS = 20 };

typedef struct tile_parts {
    _Alignas(64) uint8_t payload[MOST_PARTS][sizeof(float) * TW_MAX_TILE];
    const uint8_t *at[MOST_PARTS];
    _Alignas(64) float own[TW_MAX_TILE + 32], e[TW_MAX_TILE], sum[2][TW_MAX_TILE];
    tw_parts p;
    tw_enc a;
} tile_parts;

/* Mostly what encoders write; now and then any bytes, as a peer might send. own_at = n: the owner lacks the layer. */
static void draw_parts(unit_rng *r, tile_parts *t, const tw_spec *s, uint32_t n, int kind) {
    uint32_t shift = unit_below(r, 16), own_at = 0;
    static float x[TW_MAX_TILE];
    t->p = (tw_parts){.payload = t->at, .n = 1 + unit_below(r, unit_below(r, 4) ? 5 : MOST_PARTS)};
    t->p.own_scale = unit_below(r, 2) ? 1.0f : 0.25f;
    t->a = (tw_enc){.g = t->sum[0], .e = t->e, .scale = 1.0f / (float)t->p.n, .n = n, .dtype = TW_F32};
    own_at = unit_below(r, t->p.n + 1);
    fill(r, kind, t->own + shift, n);
    fill(r, unit_below(r, 2) ? kind : NORMAL, t->e, n);
    for (uint32_t k = 0; k < t->p.n; k++) {
        uint8_t *to = t->payload[k] + 4 * unit_below(r, 8);
        tw_enc a = {.g = x, .scale = 1.0f, .n = n, .dtype = TW_F32, .dst = to};
        tw_tile_stat stat;
        fill(r, unit_below(r, 3) ? NORMAL : kind, x, n);
        tw_kernels_ref.encode[s->codec][TW_V_PLAIN](s, &a, &stat);
        for (uint32_t i = 0; unit_below(r, 60) == 0 && i < payload_bytes(s, n, TW_F32); i++)
            to[i] = (uint8_t)unit_below(r, 256);
        t->at[k] = k == own_at ? NULL : to;
    }
    t->p.own = own_at < t->p.n ? t->own + shift : NULL;
}

/* As the owner does it without the loop: false if that meets NaN or Inf. */
static bool long_way(tile_parts *t, const tw_spec *s, outcome *o) {
    const tw_kernels *k = &tw_kernels_ref;
    tw_enc a = t->a;
    for (uint32_t i = 0; i < t->p.n; i++)
        if (t->at[i])
            (i ? k->decode_add : k->decode_set)[s->codec](s, TW_F32, t->at[i], t->sum[1], a.n, &a.noise);
        else
            (i ? k->add_scaled : k->set_scaled)(t->sum[1], t->p.own, t->p.own_scale, a.n);
    t->p.own_sq = t->p.own ? k->sum_sq(t->p.own, a.n) : 0.0;
    a.g = t->sum[1];
    encode(k, s, TW_V_EF, a, 0, o);
    return !o->stat.nonfinite && isfinite(t->p.own_sq);
}

static bool at_once(tile_parts *t, const tw_kernels *k, const tw_spec *s, uint32_t shift, double *own_sq, outcome *o) {
    tw_enc a = t->a;
    memset(o, CANARY, sizeof *o);
    o->bytes = payload_bytes(s, a.n, TW_F32);
    a.dst = o->payload + MARGIN + shift;
    a.out = (float *)(void *)(o->out + MARGIN);
    tw_parts p = t->p;
    p.sum = t->sum[0];
    bool ok = k->reduce[s->codec](s, &a, &p, &o->stat);
    *own_sq = p.own_sq;
    memmove(o->payload + MARGIN, o->payload + MARGIN + shift, o->bytes + MARGIN - shift);
    memset(o->payload + 2 * MARGIN + o->bytes - shift, CANARY, shift);
    CU_ASSERT(untouched(o->payload, o->bytes) && untouched(o->out, a.n * sizeof(float)));
    return ok;
}

static void check_reduce(const tw_kernels *k, const tw_spec *s, unit_rng *r) {
    static tile_parts t;
    static outcome want, got;
    uint32_t finite = 0, done = 0;
    for (int round = 0; round < 600; round++) {
        uint32_t n = sizes[round % UNIT_COUNT(sizes)];
        double own_sq;
        draw_parts(r, &t, s, n ? n : 1 + unit_below(r, TW_MAX_TILE), round / 2 % KINDS);
        bool clean = long_way(&t, s, &want), ok = at_once(&t, k, s, 4 * unit_below(r, 8), &own_sq, &got);
        CU_ASSERT(clean || !ok);
        bool same = !ok || (same_outcome(&want, &got, TW_V_EF, t.a.n) && !memcmp(&own_sq, &t.p.own_sq, sizeof own_sq));
        CU_ASSERT(same);
        if (!same)
            printf("%s reduce: group %u, n %u, %u parts, round %d\n", k->name, s->group, t.a.n, t.p.n, round);
        finite += clean;
        done += ok;
    }
    CU_ASSERT(done > finite / 2); /* else it hands too much over to the long way */
}

static void reduce_equals_long_way(void) {
    static const char *const specs[] = {"onebit",
                                        "onebit:group=128",
                                        "onebit:group=1024,scale=rms",
                                        "onebit:group=2048",
                                        "onebit:group=4096,scale=rms",
                                        "onebit:group=256,scale=twosided",
                                        "onebit:group=4096,scale=twosided"};
    unit_rng r = unit_seeded("reduce");
    tw_fpenv env = tw_fp_enter();
    for (const char *const *isa = tw_isa_list(); *isa; isa++)
        for (size_t i = 0; i < UNIT_COUNT(specs); i++) {
            tw_spec s;
            CU_ASSERT_EQUAL(tw_spec_parse(specs[i], &s), TW_OK);
            if (tw_kernels_named(*isa)->reduce[s.codec])
                check_reduce(tw_kernels_named(*isa), &s, &r);
        }
    tw_fp_leave(env);
}

/* ---- loops that belong to no codec ---- */
static void check_halves(const tw_kernels *k) {
    static uint16_t all[65536], back[65536];
    static float wide[65536];
    for (uint32_t i = 0; i < 65536; i++)
        all[i] = (uint16_t)i;
    for (int is_f16 = 0; is_f16 < 2; is_f16++) {
        (is_f16 ? k->f16_to_f32 : k->bf16_to_f32)(wide, all, 65536);
        for (uint32_t i = 0; i < 65536; i++)
            CU_ASSERT(unit_bits(wide[i]) == unit_bits(is_f16 ? tw_f16_to_f32(all[i]) : tw_bf16_to_f32(all[i])));
        for (uint32_t base = 0, step = 0; step < 64; step++) {
            for (uint32_t i = 0; i < 65536; i++, base += 1021 * (i % 2 + 1))
                wide[i] = unit_from_bits(base);
            (is_f16 ? k->f32_to_f16 : k->f32_to_bf16)(back, wide, 65533);
            for (uint32_t i = 0; i < 65533; i++)
                CU_ASSERT(back[i] == (is_f16 ? tw_f32_to_f16(wide[i]) : tw_f32_to_bf16(wide[i])));
        }
    }
}

static void check_plain(const tw_kernels *k, unit_rng *r) {
    static arrays m;
    for (int round = 0; round < 400; round++) {
        uint32_t n = 1 + unit_below(r, TW_MAX_TILE), shift = unit_below(r, 16);
        int kind = round % KINDS;
        fill(r, kind, m.g + shift, n);
        fill(r, kind < SOME_NAN ? kind : NORMAL, m.y0, TW_MAX_TILE + 64);
        memcpy(m.y1, m.y0, sizeof m.y0);
        double a = k->sum_sq(m.g + shift, n), b = tw_kernels_ref.sum_sq(m.g + shift, n);
        CU_ASSERT(!memcmp(&a, &b, sizeof a) || (a != a && b != b));
        CU_ASSERT((a != a) == (kind >= SOME_NAN));
        k->add_scaled(m.y0 + shift, m.g + shift, 0.3f, n);
        tw_kernels_ref.add_scaled(m.y1 + shift, m.g + shift, 0.3f, n);
        CU_ASSERT(same_values(m.y0, m.y1, TW_MAX_TILE + 64));
        k->set_scaled(m.y0 + shift, m.g + shift, 0.3f, n);
        tw_kernels_ref.set_scaled(m.y1 + shift, m.g + shift, 0.3f, n);
        CU_ASSERT(same_values(m.y0, m.y1, TW_MAX_TILE + 64));
    }
}

static void plain_loops(void) {
    unit_rng r = unit_seeded("plain");
    tw_fpenv env = tw_fp_enter();
    for (const char *const *isa = tw_isa_list(); *isa; isa++) {
        check_halves(tw_kernels_named(*isa));
        check_plain(tw_kernels_named(*isa), &r);
    }
    tw_fp_leave(env);
}

/* ---- the entry points ---- */
static void tile_variants_agree(void) { /* no residual is the residual that changes nothing, not even -0 */
    static _Alignas(64) float g[TW_MAX_TILE], out[TW_MAX_TILE], y[TW_MAX_TILE];
    static uint32_t payload[2][TW_MAX_TILE];
    unit_rng r = unit_seeded("variants");
    tw_spec s;
    CU_ASSERT_EQUAL(tw_spec_parse("onebit:group=1024", &s), TW_OK);
    fill(&r, ALL_ZERO, g, TW_MAX_TILE);
    fill(&r, NORMAL, g, 1000);
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, g, NULL, 1.0f, 4096, payload[0], NULL, NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, g, NULL, 1.0f, 4096, payload[1], out, NULL), TW_OK);
    CU_ASSERT(!memcmp(payload[0], payload[1], tw_spec_bound(&s, 4096, TW_F32)));
    memset(y, 0, sizeof y);
    CU_ASSERT_EQUAL(tw_tile_decode("ref", &s, payload[0], y, 4096, 1), TW_OK);
    for (uint32_t i = 0; i < 1000; i++)
        CU_ASSERT(out[i] == g[i] - y[i]);
}

/* e_out may be e or in: the loops may read their input twice. */
static void tile_overlap(void) {
    static _Alignas(64) float g[TW_MAX_TILE], e[TW_MAX_TILE], out[TW_MAX_TILE];
    static uint32_t payload[2][TW_MAX_TILE];
    unit_rng r = unit_seeded("overlap");
    for (int round = 0; round < 40; round++) {
        tw_spec s;
        tw_tile_stat stat[2];
        uint32_t n = 1 + unit_below(&r, TW_MAX_TILE);
        CU_ASSERT_EQUAL(tw_spec_parse(round % 4 < 2 ? "onebit" : "cast:type=bf16", &s), TW_OK);
        fill(&r, round % SOME_NAN, g, n);
        fill(&r, round % SOME_NAN, e, n);
        float *onto = round % 2 ? g : e;
        CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, g, e, 0.25f, n, payload[0], out, &stat[0]), TW_OK);
        CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, g, e, 0.25f, n, payload[1], onto, &stat[1]), TW_OK);
        CU_ASSERT(!memcmp(payload[0], payload[1], tw_spec_bound(&s, n, TW_F32)));
        CU_ASSERT(!memcmp(&stat[0], &stat[1], sizeof stat[0]));
        CU_ASSERT(!memcmp(out, onto, n * sizeof *out) || stat[0].nonfinite);
    }
}

static void tile_arguments(void) {
    static _Alignas(64) float g[128];
    static uint32_t payload[128];
    tw_spec s = TW_SPEC_INIT, wrong = TW_SPEC_INIT;
    wrong.codec = 77;
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, NULL, g, NULL, 1.0f, 1, payload, NULL, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &wrong, g, NULL, 1.0f, 1, payload, NULL, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, NULL, NULL, 1.0f, 1, payload, NULL, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, g, NULL, 1.0f, 0, payload, NULL, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, g, NULL, 1.0f, 4097, payload, NULL, NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "4097");
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, g, g + 1, 1.0f, 1, payload, NULL, NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "64");
    CU_ASSERT_EQUAL(tw_tile_encode("avx3", &s, g, NULL, 1.0f, 1, payload, NULL, NULL), TW_ERR_UNSUPPORTED);
    unit_has(tw_last_error(), "avx3");
    CU_ASSERT_EQUAL(tw_tile_decode(NULL, &s, NULL, g, 1, 0), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_tile_decode(NULL, &s, payload, g, 5000, 0), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_tile_decode("ref", &s, payload, g, 4, 0), TW_OK);
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, g, NULL, 1.0f, 1, payload, NULL, NULL), TW_OK);
    wrong = s; /* beside one that was good a moment ago */
    wrong.group = 100;
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &wrong, g, NULL, 1.0f, 1, payload, NULL, NULL), TW_ERR_ARG);
    memset(&wrong, 0, sizeof wrong);
    CU_ASSERT_EQUAL(tw_tile_encode(NULL, &wrong, g, NULL, 1.0f, 1, payload, NULL, NULL), TW_ERR_ARG);
}

static void isa_is_named(void) {
    const char *why = NULL, *chosen = tw_isa_chosen(&why);
    bool listed = false;
    CU_ASSERT_STRING_EQUAL(tw_isa_list()[0], "ref");
    for (const char *const *isa = tw_isa_list(); *isa; isa++)
        listed = listed || !strcmp(*isa, chosen);
    CU_ASSERT(listed);
    CU_ASSERT(why && *why);
    CU_ASSERT_STRING_EQUAL(tw_kernels_best()->name, chosen);
    CU_ASSERT_PTR_NULL(tw_kernels_named("avx"));
    unit_has(tw_last_error(), "did you mean");
    printf("ISA: %s (%s)\n", chosen, why);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(avx2_equals_reference),
        UNIT_TEST(avx512_equals_reference),
        UNIT_TEST(neon_equals_reference),
        UNIT_TEST(reference_equals_model),
        UNIT_TEST(nonfinite_is_told),
        UNIT_TEST(reduce_equals_long_way),
        UNIT_TEST(plain_loops),
        UNIT_TEST(tile_variants_agree),
        UNIT_TEST(host_environment_is_ignored),
        UNIT_TEST(tile_arguments),
        UNIT_TEST(tile_overlap),
        UNIT_TEST(isa_is_named),
    };
    return unit_main("kernels", tests, UNIT_COUNT(tests));
}
