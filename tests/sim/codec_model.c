/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The codecs once more, from their description (payloads, version 1), as plainly as can be. */
#include "trial.h"
#include <float.h>
#include <math.h>
#include <string.h>

static uint32_t bits_of(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static float quiet_nan(void) {
    uint32_t b = 0x7fc00000u;
    float x;
    memcpy(&x, &b, sizeof x);
    return x;
}

/* To nearest even on a grid of 2^-digits relative, 2^least absolute; everything from `limit` on is Inf. */
static float round_to(float x, int digits, int least, double limit) {
    int exponent;
    if (isnan(x))
        return quiet_nan();
    if (isinf(x) || x == 0)
        return x;
    frexp((double)x, &exponent); /* |x| in [2^(exponent-1), 2^exponent) */
    int grid = exponent - digits > least ? exponent - digits : least;
    double r = ldexp(rint(ldexp((double)x, -grid)), grid);
    return fabs(r) >= limit ? copysignf(INFINITY, x) : copysignf((float)r, x);
}

float model_to_dtype(float x, tw_dtype t) {
    if (t == TW_F16)
        return round_to(x, 11, -24, 65536.0);
    if (t == TW_BF16)
        return round_to(x, 8, -133, 0x1p128);
    return x;
}

uint16_t model_half_bits(float x, tw_dtype t) {
    uint32_t b = bits_of(x);
    if (t == TW_BF16)
        return isnan(x) ? 0x7fc0 : (uint16_t)(b >> 16);
    uint16_t sign = (uint16_t)(b >> 31 << 15);
    if (isnan(x))
        return 0x7e00;
    if (isinf(x))
        return sign | 0x7c00;
    float a = fabsf(x);
    if (a < 0x1p-14f)
        return sign | (uint16_t)(a * 0x1p24f);
    int exponent;
    float m = frexpf(a, &exponent); /* a = m 2^exponent, m in [1/2, 1) */
    return (uint16_t)(sign | (exponent + 14) << 10 | ((int)(m * 2048.0f) & 0x3ff));
}

static bool halves(tw_dtype t, const float *x, uint32_t n, float *decoded) {
    bool bad = false;
    for (uint32_t i = 0; i < n; i++) {
        decoded[i] = model_to_dtype(x[i], t);
        bad = bad || !isfinite(decoded[i]);
    }
    return bad;
}

static bool raw(const float *x, uint32_t n, float *decoded) {
    bool bad = false;
    for (uint32_t i = 0; i < n; i++) {
        decoded[i] = isnan(x[i]) ? quiet_nan() : x[i];
        bad = bad || !isfinite(x[i]);
    }
    return bad;
}

/* ---- fp8 ---- */

/* Of a group without NaN and Inf. */
static void fp8_group(bool e5m2, const float *x, uint32_t m, float *decoded) {
    float most = 0, largest = e5m2 ? 57344 : 448, scale = 0, first = 1, second = 1;
    for (uint32_t i = 0; i < m; i++)
        most = fmaxf(most, fabsf(x[i]));
    if (most >= 0x1p-100f) {
        scale = most / largest;
        first = largest / most;
    } else if (most > 0) {
        int k = ilogbf(most) - (e5m2 ? 14 : 7), least = e5m2 ? -133 : -140;
        k = k > least ? k : least;
        scale = ldexpf(1.0f, k);
        first = 0x1p64f;
        second = ldexpf(1.0f, -k - 64);
    }
    for (uint32_t i = 0; i < m; i++)
        decoded[i] = round_to(x[i] * first * second, e5m2 ? 3 : 4, e5m2 ? -16 : -9, 1e9) * scale;
}

static bool fp8(const tw_spec *s, const float *x, uint32_t n, float *decoded) {
    bool bad = false;
    for (uint32_t at = 0; at < n; at += s->group) {
        uint32_t m = n - at < s->group ? n - at : s->group;
        bool finite = true;
        for (uint32_t i = at; i < at + m; i++)
            finite = finite && isfinite(x[i]);
        if (finite)
            fp8_group(s->type == TW_CAST_FP8E5M2, x + at, m, decoded + at);
        for (uint32_t i = at; i < at + m && !finite; i++)
            decoded[i] = quiet_nan();
        bad = bad || !finite;
    }
    return bad;
}

/* ---- onebit ---- */

/* Quarters of 1024 = 32 lanes x 32 rows, added (q0+q1)+(q2+q3) lane by lane, then lanes are halved. */
static float sum_of_group(const float *x, uint32_t m, bool square) {
    float lane[4][32] = {{0}}, total[32];
    for (uint32_t i = 0; i < m; i++) {
        float v = square ? x[i] * x[i] : fabsf(x[i]);
        lane[i / 1024][i % 32] += v;
    }
    for (int l = 0; l < 32; l++)
        total[l] = (lane[0][l] + lane[1][l]) + (lane[2][l] + lane[3][l]);
    for (int w = 16; w > 0; w /= 2)
        for (int l = 0; l < w; l++)
            total[l] += total[l + w];
    return total[0];
}

static float mean_of(float sum, uint32_t m, bool rms) {
    float mean = sum / (float)m;
    return rms ? sqrtf(mean) : mean;
}

/* Where fp32 cannot take the sum: over x 2^k instead, 2^k brings the largest into [1, 2). */
static float rescued(const float *x, uint32_t m, uint32_t members, float largest, bool rms) {
    float scaled[MOST_TILE];
    int k = -ilogbf(largest);
    for (uint32_t i = 0; i < m; i++)
        scaled[i] = ldexpf(1.0f, k - k / 2) * (ldexpf(1.0f, k / 2) * x[i]);
    float s = mean_of(sum_of_group(scaled, m, rms), members, rms);
    s = s * ldexpf(1.0f, -k / 2) * ldexpf(1.0f, -k - -k / 2);
    return s > FLT_MAX ? FLT_MAX : s;
}

static float scale_of(const float *x, uint32_t m, bool rms) {
    float largest = 0;
    for (uint32_t i = 0; i < m; i++) {
        if (!isfinite(x[i]))
            return quiet_nan();
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
    float sum = sum_of_group(x, m, rms);
    if (!isfinite(sum) || (rms && sum < 0x1p-90f && largest > 0))
        return rescued(x, m, m, largest, rms);
    return mean_of(sum, m, rms);
}

/* The mean of the values of one sign, the other sign's counted as 0 in the sum. */
static float side_of(const float *x, uint32_t m, bool negative) {
    float side[MOST_TILE] = {0}, largest = 0;
    uint32_t members = 0;
    for (uint32_t i = 0; i < m; i++) {
        bool mine = !signbit(x[i]) == !negative;
        side[i] = mine ? x[i] : 0.0f;
        largest = fmaxf(largest, fabsf(side[i]));
        members += mine;
    }
    float sum = sum_of_group(side, m, false);
    if (members == 0)
        return 0.0f;
    float mean = isfinite(sum) ? mean_of(sum, members, false) : rescued(side, m, members, largest, false);
    return negative && mean > 0 ? -mean : mean;
}

static bool onebit(const tw_spec *s, const float *x, uint32_t n, float *decoded) {
    bool bad = false;
    for (uint32_t at = 0; at < n; at += s->group) {
        uint32_t m = n - at < s->group ? n - at : s->group;
        float scale = scale_of(x + at, m, s->scale == TW_SCALE_RMS), other = -scale;
        bad = bad || isnan(scale);
        if (s->scale == TW_SCALE_TWOSIDED && !isnan(scale)) {
            scale = side_of(x + at, m, false);
            other = side_of(x + at, m, true);
        }
        for (uint32_t i = at; i < at + m; i++)
            decoded[i] = signbit(x[i]) ? other : scale;
    }
    return bad;
}

float model_group_sum(const float *x, uint32_t m) {
    return sum_of_group(x, m, false);
}
float model_group_mean(const float *x, uint32_t m) {
    return scale_of(x, m, false);
}

/* ---- ternary ---- */

/* The largest size, or the mean of the sizes above `limit`. */
static float kept_scale(const float *x, uint32_t m, float limit, bool random) {
    float kept[MOST_TILE] = {0}, largest = 0;
    uint32_t members = 0;
    for (uint32_t i = 0; i < m; i++) {
        kept[i] = fabsf(x[i]) > limit ? fabsf(x[i]) : 0.0f;
        largest = fmaxf(largest, fabsf(x[i]));
        members += fabsf(x[i]) > limit;
    }
    if (random || members == 0)
        return random ? largest : 0.0f;
    float sum = sum_of_group(kept, m, false);
    return isfinite(sum) ? mean_of(sum, members, false) : rescued(kept, m, members, largest, false);
}

static bool ternary(const tw_spec *s, const model_draw *d, const float *x, uint32_t n, float *decoded) {
    bool bad = false, random = s->rounding == TW_ROUNDING_STOCHASTIC;
    for (uint32_t at = 0; at < n; at += s->group) {
        uint32_t m = n - at < s->group ? n - at : s->group;
        float mean = scale_of(x + at, m, false), limit = 0.767f * mean < mean ? 0.767f * mean : 0.0f;
        float scale = kept_scale(x + at, m, limit, random);
        for (uint32_t i = at; i < at + m; i++) {
            if (random)
                limit = scale * (0.5f - model_dither(d, i));
            decoded[i] = isnan(mean) ? quiet_nan() : fabsf(x[i]) > limit ? copysignf(scale, x[i]) : 0.0f;
        }
        bad = bad || isnan(mean);
    }
    return bad;
}

bool model_codec(const tw_spec *s, const model_draw *d, tw_dtype t, const float *x, uint32_t n, float *decoded) {
    if (s->codec == TW_CODEC_ONEBIT)
        return onebit(s, x, n, decoded);
    if (s->codec == TW_CODEC_QUANT)
        return model_quant(s, d, x, n, decoded);
    if (s->codec == TW_CODEC_TERNARY)
        return ternary(s, d, x, n, decoded);
    if (s->codec == TW_CODEC_RANDK)
        return model_randk(s, d, x, n, decoded);
    if (s->codec == TW_CODEC_CAST && s->group)
        return fp8(s, x, n, decoded);
    if (s->codec == TW_CODEC_CAST)
        return halves((tw_dtype)s->type, x, n, decoded);
    return t == TW_F32 ? raw(x, n, decoded) : halves(t, x, n, decoded);
}
