/* SPDX-License-Identifier: BSD-3-Clause
 *
 * quant once more, from its description (payloads, version 1): what a tile decodes to. No payload is made here. */
#include "trial.h"
#include "core/core.h"
#include <float.h>
#include <math.h>
#include <string.h>

typedef struct grid {
    float parts, most, level[8];
} grid;

static grid grid_of(unsigned bits) {
    switch (bits) {
    case 2:
        return (grid){2, 1, {0.5674756f, 1.8930277f}};
    case 3:
        return (grid){3, 3, {0.30718f, 0.9475121f, 1.6843405f, 2.697064f}};
    case 4:
        return (grid){
            7, 7, {0.1609193f, 0.4863464f, 0.8231255f, 1.1810486f, 1.5744523f, 2.0279204f, 2.5931285f, 3.4247931f}};
    case 6:
        return (grid){31, 31, {0}};
    default:
        return (grid){127, 127, {0}};
    }
}

static bool is_easy(float size) {
    return size == 0 || (size >= ldexpf(1, -80) && size <= ldexpf(1, 110));
}

/* To fp32, not below it, not 0, at most FLT_MAX. */
static float upwards(double v) {
    float f = v > FLT_MAX ? FLT_MAX : (float)v;
    return f < v && f < FLT_MAX ? nextafterf(f, INFINITY) : f == 0 ? nextafterf(0, 1) : f;
}

/* ---- random numbers ---- */
void model_philox(int rounds, const uint32_t counter[4], uint64_t key, uint32_t c[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    memcpy(c, counter, 16);
    for (int i = 0; i < rounds; i++, k0 += 0x9e3779b9u, k1 += 0xbb67ae85u) {
        uint64_t a = UINT64_C(0xd2511f53) * c[0], b = UINT64_C(0xcd9e8d57) * c[2];
        uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k1, (uint32_t)a};
        memcpy(c, next, 16);
    }
}

float model_dither(const model_draw *d, uint32_t i) {
    uint32_t words[4] = {d->seed, d->step, d->rank, d->hop}, out[4], row = i / 32 % 16;
    uint64_t key = tw_hash64(words, sizeof words, tw_hash64(d->name, strlen(d->name), d->block));
    const uint32_t counter[4] = {i / 512 * 32 + i % 32, (uint32_t)d->tile, (uint32_t)(d->tile >> 32), 0};
    model_philox(7, counter, key, out);
    return ((float)(out[row / 4] >> 8 * (row % 4) & 255) - 127.5f) / 256;
}

/* ---- rotation: by the matrix's recursion, (a, b) -> (a + b, a - b), the nearest neighbours first ---- */
static void transform(float *x, uint32_t n) {
    if (n == 1)
        return;
    transform(x, n / 2);
    transform(x + n / 2, n / 2);
    for (uint32_t i = 0; i < n / 2; i++) {
        float a = x[i], b = x[i + n / 2];
        x[i] = a + b;
        x[i + n / 2] = a - b;
    }
}

static void turn_signs(float *x, uint32_t at, uint32_t n, uint32_t seed, float norm) {
    for (uint32_t i = at; i < at + n; i++) {
        const uint32_t counter[4] = {i / 128, 0, 0, 0};
        uint32_t out[4];
        model_philox(10, counter, (uint64_t)1 << 32 | seed, out);
        x[i - at] *= out[i / 32 % 4] >> i % 32 & 1 ? -norm : norm;
    }
}

static void rotate(const tw_spec *s, float *x, uint32_t n, bool back) {
    uint32_t at = 0;
    for (uint32_t len = 4096; len; len /= 2) {
        float norm = len & 0x555 || len == 4096 ? 1 / sqrtf((float)len) : 0x1.6a09e6p-1f / sqrtf((float)len / 2);
        if (!(n & len))
            continue;
        if (back)
            transform(x + at, len);
        turn_signs(x + at, at, len, s->seed, norm);
        if (!back)
            transform(x + at, len);
        at += len;
    }
}

/* ---- a group ---- */
typedef struct fitted {
    float scale, centre;
    bool easy;
} fitted;

/* The sum over the group of what values miss their level by, in steps, squared. */
static float misses(const float *x, uint32_t m, float scale, float reach) {
    float sq[MOST_TILE];
    for (uint32_t i = 0; i < m; i++) {
        float y = x[i] * (1 / scale), miss = y - rintf(fminf(fmaxf(y, -reach), reach));
        sq[i] = miss * miss;
    }
    return model_group_sum(sq, m);
}

/* mse of even levels: that scale, or a shorter one if less is lost. */
static float shorter(const grid *g, const float *x, uint32_t m, float scale, float largest) {
    float further = g->most + (float)m / (32 * g->most), other = largest / further, part = g->most / further;
    return misses(x, m, other, g->most) * part * part < misses(x, m, scale, g->most) ? other : scale;
}

static fitted fit(const tw_spec *s, const grid *g, const float *x, uint32_t m) {
    float least = x[0], most = x[0], last = ldexpf(1, s->bits) - 1;
    fitted f = {0, 0, true};
    for (uint32_t i = 0; i < m; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    float largest = fmaxf(fabsf(least), fabsf(most));
    if (s->scale == TW_SCALE_MSE && s->bits <= 4) {
        f.easy = is_easy(model_group_sum(x, m));
        f.scale = model_group_mean(x, m);
        if (!f.easy)
            f.scale = fmaxf(f.scale, nextafterf(0, 1));
    } else if (s->scale != TW_SCALE_MINMAX) {
        f.easy = is_easy(largest);
        f.scale = f.easy ? largest / g->parts : upwards((double)largest / (double)g->parts);
        if (s->scale == TW_SCALE_MSE && f.easy && largest > 0)
            f.scale = shorter(g, x, m, f.scale, largest);
    } else if (largest > 0) {
        f.easy = is_easy(largest);
        double range = (double)most - (double)least;
        f.scale = f.easy ? (most - least) / last : range > 0 ? upwards(range / (double)last) : 0;
        f.centre = f.easy ? least / 2 + most / 2 : (float)(((double)least + (double)most) / 2);
    }
    return f;
}

static float value_of_table(const grid *g, unsigned bits, float scale, float x, float dither) {
    float level[8], sign;
    uint32_t k = 0, n = 1u << (bits - 1);
    for (uint32_t i = 0; i < n; i++)
        level[i] = fminf(g->level[i] * scale, FLT_MAX);
    sign = x < level[0] * (2 * dither) ? -1.0f : 1.0f;
    while (k + 1 < n && fabsf(x) > level[k] + (level[k + 1] - level[k]) * (dither + 0.5f))
        k++;
    return sign * level[k];
}

static float value_of(const tw_spec *s, const grid *g, const fitted *f, float x, float dither) {
    float last = ldexpf(1, s->bits) - 1, zero = s->scale == TW_SCALE_MINMAX ? last / 2 : 0;
    float reach = s->scale == TW_SCALE_MINMAX ? last / 2 : g->most, level;
    if (s->scale == TW_SCALE_MSE && s->bits <= 4)
        return value_of_table(g, s->bits, f->scale, x, dither);
    if (f->easy) {
        float y = (x - f->centre) * (f->scale > 0 ? 1 / f->scale : 0);
        level = rintf(fminf(fmaxf(y + zero + dither, zero - reach), zero + reach)) - zero + 0.0f; /* no -0 */
    } else {
        double y = f->scale > 0 ? ((double)x - (double)f->centre) / (double)f->scale + (double)dither : 0;
        level = (float)(rint(fmin(fmax(y, (double)-reach), (double)reach) + (double)zero) - (double)zero) + 0.0f;
    }
    while (!f->easy && !isfinite(f->centre + level * f->scale))
        level -= copysignf(1, level);
    return s->scale == TW_SCALE_MINMAX ? f->centre + level * f->scale : level * f->scale;
}

bool model_quant(const tw_spec *s, const model_draw *d, const float *x, uint32_t n, float *decoded) {
    const grid g = grid_of(s->bits);
    bool bad = false, turned = s->rotate == TW_ROTATE_HADAMARD;
    for (uint32_t at = 0; at < n; at += s->group) {
        uint32_t m = n - at < s->group ? n - at : s->group;
        bool finite = true;
        memcpy(decoded + at, x + at, m * sizeof *x);
        if (turned)
            rotate(s, decoded + at, m, false);
        for (uint32_t i = at; i < at + m; i++)
            finite = finite && isfinite(decoded[i]);
        fitted f = {0, 0, true};
        if (finite)
            f = fit(s, &g, decoded + at, m);
        for (uint32_t i = at; i < at + m; i++) {
            float dither = s->rounding == TW_ROUNDING_STOCHASTIC ? model_dither(d, i) : 0;
            decoded[i] = finite ? value_of(s, &g, &f, decoded[i], dither) : NAN;
        }
        if (turned)
            rotate(s, decoded + at, m, true);
        for (uint32_t i = at; i < at + m; i++)
            bad = bad || !isfinite(decoded[i]);
    }
    return bad;
}
