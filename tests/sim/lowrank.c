/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Trials of layers that go as factors (powersgd), beside others that may share their op, with other codecs before and after
 * them. Outputs are compared with the same iteration in double, from the same left factor, as far as the conditioning of its
 * right factor allows; what is held with what was lost; the certificate with both; replicas bit by bit. */
#include "trial.h"
#include "lowrank_model.h"
#include "reducer/reducer.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 4, STEPS = 6, MOST_VALUES = 5000, OVERFLOWS = 8 };
#define TOO_LARGE 6e4f /* all values of a layer: a half holds one rank's, not the sum of two */

typedef struct one_layer {
    char name[16];
    uint32_t rows, cols, count;
    tw_dtype dtype;
    tw_spec spec[3];
    uint32_t until[2]; /* steps */
    uint32_t phases, pinned, values;
    uint32_t end[4];     /* of pieces, this step: the same on all ranks, as sums of plain values want it */
    float *g, *e, *left; /* [rank * count + i]; [rows * rank], before the step */
    uint64_t left_n;
    uint8_t *mem; /* outputs of all ranks */
    double *applied, *exact, *forgot;
    double slack;
    bool lossy, loose, bad, away;
    double bound;
} one_layer;

typedef struct scene {
    trial *t;
    rng *r;
    int ranks;
    bool faulty, push, alone, sweep; /* alone: each layer is posted by itself; sweep: one layer, inputs from a list */
    uint32_t n, step;
    float scale;
    one_layer l[LAYERS];
    tw_reducer_config rc;
    uint64_t allocations;
    tw_ctx *ctx;
    tw_sim *sim;
    tw_comm *comm[MOST_RANKS];
    tw_reducer *red[MOST_RANKS];
    bool absent[LAYERS][MOST_RANKS], wanted[LAYERS][MOST_RANKS];
    tw_report report[MOST_RANKS];
    tw_status status[MOST_RANKS];
} scene;

/* ---- drawing ---- */

static tw_spec draw_lowrank(scene *s, const one_layer *l) {
    tw_spec p;
    char text[96];
    snprintf(text, sizeof text, "powersgd:rank=%u,iterations=%u,warm_start=%u,seed=%u",
             1 + (unsigned)rng_below(s->r, 6), 1 + (unsigned)(rng_chance(s->r, 25) ? rng_below(s->r, 3) : 0),
             rng_chance(s->r, 75), (unsigned)rng_below(s->r, 3));
    if (tw_spec_parse(text, &p) < 0)
        trial_fail(s->t, "%s: %s", text, tw_last_error());
    p.columns = rng_chance(s->r, 15) ? l->cols : 0;
    trial_draw_feedback(s->t, &p, 80);
    return p;
}

static tw_spec draw_other(scene *s) {
    tw_spec p = trial_draw_spec(s->t);
    return p.scale == TW_SCALE_UNBIASED ? (tw_spec)TW_SPEC_INIT : p;
}

static void draw_layer(scene *s, uint32_t k, bool switching) {
    static const tw_dtype dtypes[] = {TW_F32, TW_F32, TW_F32, TW_BF16, TW_F16};
    one_layer *l = &s->l[k];
    uint32_t most = MOST_VALUES / (s->ranks > 8 ? 8 : 1), kind = (uint32_t)rng_below(s->r, 10);
    snprintf(l->name, sizeof l->name, "%c%u.w", (char)('a' + rng_below(s->r, 20)), k);
    l->rows = (uint32_t)rng_range(s->r, 1, 70);
    l->cols = (uint32_t)rng_range(s->r, 1, most / l->rows < 90 ? most / l->rows : 90);
    l->count = l->rows * l->cols;
    l->dtype = dtypes[rng_below(s->r, 5)];
    l->values = (uint32_t)rng_below(s->r, 8);
    l->pinned = rng_chance(s->r, 25) ? (uint32_t)rng_range(s->r, 1, (unsigned)s->ranks) : 0;
    l->phases = 1;
    l->spec[0] = draw_lowrank(s, l);
    if (switching && kind < 6) { /* other codecs before or after */
        l->phases = (uint32_t)rng_range(s->r, 2, 3);
        l->until[0] = (uint32_t)rng_range(s->r, 1, 3);
        l->until[1] = l->until[0] + (uint32_t)rng_range(s->r, 1, 2);
        l->spec[rng_below(s->r, 2) * 2 % l->phases] = draw_other(s);
        l->spec[1] = draw_lowrank(s, l);
        l->spec[2] = draw_other(s);
    } else if (kind == 7) {
        l->spec[0] = (tw_spec)TW_SPEC_INIT;
        l->spec[0].feedback = (uint16_t)rng_range(s->r, TW_FEEDBACK_NONE, TW_FEEDBACK_EF);
    } else if (kind == 8 && l->dtype == TW_F32) {
        tw_spec_parse("randk:density=0.3+ef", &l->spec[0]);
    }
    if (l->phases == 1 && l->dtype == TW_F16 && s->rc.redop == TW_SUM && rng_chance(s->r, 40))
        l->values = OVERFLOWS;
    if (l->phases > 1 && !l->spec[0].size)
        l->spec[0] = draw_other(s);
}

static bool make_layer(scene *s, one_layer *l) {
    size_t n = l->count + 1u, all = n * (unsigned)s->ranks;
    l->g = calloc(all, sizeof(float));
    l->e = calloc(all, sizeof(float));
    l->left = calloc(6 * n, sizeof(float));
    l->mem = calloc(all, sizeof(float));
    l->applied = calloc(n, sizeof(double));
    l->exact = calloc(n, sizeof(double));
    l->forgot = calloc(n, sizeof(double));
    return (l->forgot && l->g && l->e && l->left && l->mem && l->applied && l->exact) ||
           trial_fail(s->t, "out of memory");
}

static const tw_spec *spec_now(const scene *s, const one_layer *l) {
    uint32_t i = 0;
    while (i + 1 < l->phases && s->step >= l->until[i])
        i++;
    return &l->spec[i];
}

static float draw_value(scene *s, const one_layer *l, const float *u, const float *v, uint32_t i) {
    float x = (float)(rng_unit(s->r) + rng_unit(s->r) + rng_unit(s->r) - 1.5);
    switch (l->values) {
    case OVERFLOWS:
        return TOO_LARGE;
    case 0: /* of rank 2 */
        return u[i / l->cols] * v[i % l->cols] + u[70 + i / l->cols] * v[90 + i % l->cols];
    case 1:
        return i == l->count / 2 ? (l->dtype == TW_F16 ? 300.0f : 1e4f) : x;
    case 2:
        return rng_chance(s->r, 80) ? 0.0f : x;
    case 3:
        return i % 2 ? 1.0f : -1.0f;
    case 4:
        return x * (l->dtype == TW_F16 ? 0x1p-20f : 1e-30f);
    case 5:
        return x * (l->dtype == TW_F16 || l->phases > 1 ? 20.0f : 1e18f); /* sums of halves, and casts, stay finite */
    default:
        return x;
    }
}

static void draw_hard(scene *s) {
    one_layer *l = &s->l[0];
    l->values = 0;
    s->scale = 1.0f;
    for (uint32_t i = 0; i < 4; i++)
        l->end[i] = l->count;
    for (uint64_t i = 0; i < (uint64_t)l->count * (unsigned)s->ranks; i++)
        l->g[i] = trial_adversary(s->r, s->step, l->dtype, i % l->count);
    for (int r = 0; r < s->ranks; r++)
        s->wanted[0][r] = true;
}

static void draw_step(scene *s) {
    s->scale = rng_chance(s->r, 20) ? 0.5f : 1.0f;
    for (uint32_t k = 0; k < s->n; k++) {
        one_layer *l = &s->l[k];
        float u[140], v[180];
        for (uint32_t i = 0; i < 180; i++)
            v[i] = (float)(rng_unit(s->r) - 0.5);
        for (int r = 0; r < s->ranks; r++) {
            for (uint32_t i = 0; i < 140; i++)
                u[i] = (float)(rng_unit(s->r) - 0.5);
            bool zero = rng_chance(s->r, 4) && l->values != OVERFLOWS;
            for (uint32_t i = 0; i < l->count; i++)
                l->g[(size_t)r * l->count + i] = zero ? 0.0f : model_to_dtype(draw_value(s, l, u, v, i), l->dtype);
        }
        if (rng_chance(s->r, 8))
            l->g[rng_below(s->r, (uint64_t)l->count * (unsigned)s->ranks)] = rng_chance(s->r, 50) ? NAN : -INFINITY;
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t at = i ? l->end[i - 1] : 0;
            l->end[i] = i == 3 || rng_chance(s->r, 40) || at == l->count ? l->count
                                                                         : (uint32_t)rng_range(s->r, at + 1, l->count);
        }
        uint32_t chance = rng_chance(s->r, 15) ? rng_chance(s->r, 30) ? 100 : 40 : 0;
        for (int r = 0; r < s->ranks; r++) {
            s->absent[k][r] = rng_chance(s->r, chance);
            s->wanted[k][r] = rng_chance(s->r, 90);
        }
    }
}

/* ---- running ---- */

static void write_input(const one_layer *l, int r, uint8_t *in) {
    for (uint32_t i = 0; i < l->count; i++) {
        float x = l->g[(size_t)r * l->count + i];
        uint16_t half = isnan(x)             ? (l->dtype == TW_F16 ? 0x7e00 : 0x7fc0)
                        : isinf(x)           ? (uint16_t)(0x8000 | (l->dtype == TW_F16 ? 0x7c00 : 0x7f80))
                        : l->dtype == TW_F32 ? 0
                                             : model_half_bits(x, l->dtype);
        if (l->dtype == TW_F32)
            memcpy(in + 4 * i, &x, 4);
        else
            memcpy(in + 2 * i, &half, 2);
    }
}

static uint32_t cut(scene *s, uint32_t k, int r, uint8_t *in, tw_piece *p) {
    one_layer *l = &s->l[k];
    size_t size = tw_dtype_size(l->dtype);
    uint8_t *out = l->mem + (size_t)r * l->count * 4;
    uint32_t n = 0;
    for (uint32_t at = 0; at < l->count;) {
        uint32_t m = l->end[n] - at;
        p[n++] = (tw_piece)TW_PIECE(k, at, m, s->absent[k][r] ? NULL : in + at * size,
                                    s->wanted[k][r] ? out + at * size : NULL);
        at += m;
    }
    return n;
}

static void note(scene *s, int r, tw_status st) {
    s->status[r] = s->status[r] < 0 ? s->status[r] : st;
}

static void give(scene *s, int r, uint8_t *in[LAYERS]) {
    tw_piece piece[4 * LAYERS];
    uint32_t n = 0;
    for (uint32_t k = 0; k < s->n; k++) {
        one_layer *l = &s->l[k];
        write_input(l, r, in[k]);
        memset(l->mem + (size_t)r * l->count * 4, 0xa5, (size_t)l->count * 4);
        if (s->push) {
            note(s, r,
                 tw_reducer_push(s->red[r], k, s->absent[k][r] ? NULL : in[k],
                                 s->wanted[k][r] ? l->mem + (size_t)r * l->count * 4 : NULL));
            continue;
        }
        n += cut(s, k, r, in[k], piece + n);
        if (s->alone || k + 1 == s->n) {
            note(s, r, tw_reducer_post(s->red[r], piece, n, NULL));
            n = 0;
        }
    }
}

static void run_step(scene *s, bool discard) {
    uint8_t *in[MOST_RANKS][LAYERS] = {{NULL}};
    tw_step_args a = TW_STEP_ARGS_INIT;
    a.input_scale = s->scale;
    for (int r = 0; r < s->ranks; r++) {
        s->report[r] = (tw_report)TW_REPORT_INIT;
        s->status[r] = tw_reducer_begin(s->red[r], s->step, &a);
        for (uint32_t k = 0; k < s->n; k++)
            in[r][k] = malloc((size_t)s->l[k].count * 4 + 1);
        uint8_t *odd[LAYERS]; /* misaligned now and then */
        for (uint32_t k = 0; k < s->n; k++)
            odd[k] = in[r][k] + rng_chance(s->r, 30);
        give(s, r, odd);
    }
    tw_sim_run(s->sim);
    for (int r = 0; r < s->ranks; r++)
        note(s, r, discard ? tw_reducer_discard(s->red[r]) : tw_reducer_end(s->red[r], &s->report[r]));
    for (int r = 0; r < s->ranks; r++)
        for (uint32_t k = 0; k < s->n; k++)
            free(in[r][k]);
}

/* ---- checking ---- */

static bool is_own(const scene *s, const one_layer *l, int r, uint32_t i) {
    uint64_t tiles = (l->count + s->rc.tile - 1) / s->rc.tile;
    return (l->pinned ? (int)l->pinned - 1 : tw_owner(l->name, i / s->rc.tile, tiles, s->ranks)) == r;
}

static double weight(const scene *s) {
    return s->rc.redop == TW_AVG ? 1.0 / s->ranks : 1.0;
}

static bool feeds_back(const scene *s, const one_layer *l) {
    return s->ranks > 1 && spec_now(s, l)->feedback != TW_FEEDBACK_NONE;
}

static double value_at(const uint8_t *p, tw_dtype t) {
    uint16_t h;
    float x;
    memcpy(&x, p, t == TW_F32 ? 4 : 2);
    if (t == TW_F32)
        return (double)x;
    memcpy(&h, p, 2);
    return (double)(t == TW_F16 ? tw_f16_to_f32(h) : tw_bf16_to_f32(h));
}

static bool is_factored(const scene *s, const one_layer *l) {
    const tw_spec *p = spec_now(s, l);
    return s->ranks > 1 && p->codec == TW_CODEC_POWERSGD && tw_lowrank_values(p->rank, l->count, l->cols);
}

/* Which layers have NaN or Inf somewhere, or are nowhere. */
static void foresee(scene *s) {
    for (uint32_t k = 0; k < s->n; k++) {
        one_layer *l = &s->l[k];
        float sum = 0;
        l->bad = false;
        l->away = true;
        for (int r = 0; r < s->ranks; r++)
            sum += s->absent[k][r] ? 0.0f : TOO_LARGE * s->scale;
        for (int r = 0; r < s->ranks; r++)
            for (uint32_t i = 0; i < l->count && !s->absent[k][r]; i++) {
                l->away = false;
                l->bad = l->bad || !isfinite(l->g[(size_t)r * l->count + i]);
            }
        l->bad = l->bad || (l->values == OVERFLOWS && sum > 65520);
    }
}

static float *left_of(const tw_layer_state *y, const tw_spec *p, uint32_t rows, uint32_t cols, uint64_t *n) {
    bool goes_on = p->codec == TW_CODEC_POWERSGD && p->warm_start && y->left_cols == cols && y->left_rank == p->rank;
    *n = goes_on && y->left[0] ? (uint64_t)rows * p->rank : 0;
    return y->left[y->left_now];
}

static bool save_state(scene *s) {
    for (uint32_t k = 0; k < s->n; k++) {
        one_layer *l = &s->l[k];
        float *left = left_of(&s->red[0]->layer[k], spec_now(s, l), l->rows, l->cols, &l->left_n);
        if (l->left_n)
            memcpy(l->left, left, l->left_n * sizeof(float));
        for (int r = 0; r < s->ranks; r++)
            if (tw_reducer_residual(s->red[r], k, l->e + (size_t)r * l->count) < 0)
                return trial_fail(s->t, "residual: %s", tw_last_error());
    }
    return true;
}

/* Every rank has the left factor of rank 0, and where nothing changed that of before. */
static bool check_left(scene *s, uint32_t k, bool same) {
    one_layer *l = &s->l[k];
    uint64_t n, m;
    const float *first = left_of(&s->red[0]->layer[k], spec_now(s, l), l->rows, l->cols, &n);
    for (int r = 1; r < s->ranks; r++) {
        const float *other = left_of(&s->red[r]->layer[k], spec_now(s, l), l->rows, l->cols, &m);
        if (m != n || (n && memcmp(first, other, n * sizeof *first) != 0))
            return trial_fail(s->t, "layer '%s': ranks 0 and %d have other left factors", l->name, r);
    }
    if (same && l->left_n && (n != l->left_n || memcmp(first, l->left, n * sizeof *first) != 0))
        return trial_fail(s->t, "layer '%s': its left factor changed", l->name);
    return true;
}

static bool check_kept(scene *s, uint32_t k, int r) {
    one_layer *l = &s->l[k];
    float held[MOST_VALUES];
    const float *was = l->e + (size_t)r * l->count;
    if (tw_reducer_residual(s->red[r], k, held) < 0)
        return trial_fail(s->t, "residual: %s", tw_last_error());
    for (uint32_t i = 0; i < l->count; i++)
        if (memcmp(&held[i], &was[i], 4) != 0)
            return trial_fail(s->t, "layer '%s', rank %d, value %u: held was %g and is %g", l->name, r, i,
                              (double)was[i], (double)held[i]);
    return true;
}

/* May be summed where it lies: zeros where nobody has it, and no word of NaN. */
static bool is_plain(const scene *s, uint32_t k) {
    return spec_now(s, &s->l[k])->codec == TW_CODEC_NONE && !s->red[0]->layer[k].used;
}

/* Without feedback nothing is held any more once it was sent. */
static bool check_drained(scene *s, uint32_t k) {
    one_layer *l = &s->l[k];
    float held[MOST_VALUES];
    for (int r = 0; r < s->ranks && !feeds_back(s, l); r++) {
        if (s->absent[k][r])
            continue;
        if (tw_reducer_residual(s->red[r], k, held) < 0)
            return trial_fail(s->t, "residual: %s", tw_last_error());
        for (uint32_t i = 0; i < l->count; i++)
            if (held[i] != 0)
                return trial_fail(s->t, "layer '%s', rank %d: still holds %g", l->name, r, (double)held[i]);
    }
    return true;
}

static bool check_outputs(scene *s, uint32_t k, bool written) {
    one_layer *l = &s->l[k];
    size_t size = tw_dtype_size(l->dtype);
    const uint8_t *first = NULL;
    for (int r = 0; r < s->ranks; r++) {
        const uint8_t *mem = l->mem + (size_t)r * l->count * 4;
        bool touched = false;
        for (size_t i = 0; i < (size_t)l->count * 4; i++)
            touched = touched || mem[i] != 0xa5;
        if (touched && (!written || !s->wanted[k][r] || (l->away && !is_plain(s, k))))
            return trial_fail(s->t, "layer '%s', rank %d: its output was written", l->name, r);
        for (size_t i = size * l->count; i < (size_t)l->count * 4; i++)
            if (mem[i] != 0xa5)
                return trial_fail(s->t, "layer '%s', rank %d: written behind its end", l->name, r);
        if (!s->wanted[k][r] || !written || l->away)
            continue;
        if (first && memcmp(first, mem, size * l->count) != 0)
            return trial_fail(s->t, "layer '%s': rank %d has another output", l->name, r);
        first = mem;
        for (uint32_t i = 0; i < l->count && l->bad && is_factored(s, l); i++)
            if (!isnan(value_at(mem + i * size, l->dtype)))
                return trial_fail(s->t, "layer '%s', rank %d: value %u is no NaN", l->name, r, i);
    }
    return true;
}

/* What is to be sent: input and residual, those of own tiles P times. */
static void form(const scene *s, uint32_t k, int r, double *x) {
    const one_layer *l = &s->l[k];
    bool held = s->red[r]->layer[k].slot[0] && (feeds_back(s, l) || s->red[r]->view[k].drain);
    for (uint32_t i = 0; i < l->count; i++) {
        size_t at = (size_t)r * l->count + i;
        x[i] = (double)l->g[at] * (double)s->scale;
        if (held)
            x[i] += (double)l->e[at] / (is_own(s, l, r, i) ? weight(s) : 1.0);
    }
}

static double norm_of(const double *x, uint32_t n) {
    double sq = 0;
    for (uint32_t i = 0; i < n; i++)
        sq += x[i] * x[i];
    return sqrt(sq);
}

/* The iteration in double: what comes out, and how far fp32 may be from it. */
static bool check_iteration(scene *s, uint32_t k) {
    one_layer *l = &s->l[k];
    const tw_spec *p = spec_now(s, l);
    static double x[MOST_VALUES], mean[MOST_VALUES], want[MOST_VALUES];
    double sizes = 0;
    const uint8_t *mem = NULL;
    memset(mean, 0, sizeof mean);
    for (int r = 0; r < s->ranks; r++) {
        if (s->wanted[k][r])
            mem = l->mem + (size_t)r * l->count * 4;
        if (s->absent[k][r])
            continue;
        form(s, k, r, x);
        sizes += weight(s) * norm_of(x, l->count);
        for (uint32_t i = 0; i < l->count; i++)
            mean[i] += weight(s) * x[i];
    }
    lowrank_model m = {.rows = l->rows, .cols = l->cols, .rank = p->rank, .iterations = p->iterations};
    m.left = l->left_n ? l->left : NULL;
    m.draw = (model_draw){.name = l->name, .seed = p->seed, .step = s->step};
    double off = 0, tolerance = model_lowrank(&m, mean, sizes, want);
    double half = l->dtype == TW_F16 ? 0x1p-11 : l->dtype == TW_BF16 ? 0x1p-8 : 0, least = sqrt(l->count);
    if (!mem || !isfinite(tolerance))
        return true;
    for (uint32_t i = 0; i < l->count; i++) {
        double d = value_at(mem + i * tw_dtype_size(l->dtype), l->dtype) - want[i];
        off += d * d;
    }
    tolerance += half * norm_of(want, l->count) * 1.01 + least * (l->dtype == TW_F16 ? 0x1p-25 : 0x1p-130);
    return sqrt(off) <= tolerance || trial_fail(s->t, "layer '%s': off by %g from the iteration in double; allowed %g",
                                                l->name, sqrt(off), tolerance);
}

/* What a rank's slot holds anew has beta of what was lost. */
static void add_forgotten(scene *s, uint32_t k, int r, double beta) {
    one_layer *l = &s->l[k];
    static float e[MOST_VALUES];
    if (!feeds_back(s, l) || beta <= 0 || tw_reducer_residual(s->red[r], k, e) < 0)
        return;
    for (uint32_t i = 0; i < l->count; i++)
        l->forgot[i] += (double)e[i] * (1 - beta) / beta * (is_own(s, l, r, i) ? 1.0 : weight(s));
}

/* Adds a committed step to the sums; slack: what fp32 may lose of them. */
static void add_up(scene *s, uint32_t k) {
    one_layer *l = &s->l[k];
    const tw_spec *p = spec_now(s, l);
    static double x[MOST_VALUES];
    const uint8_t *mem = NULL;
    double beta = (double)(float)((double)p->rate / 1e9), r3 = 1 + (double)p->rank * sqrt(p->rank);
    for (int r = 0; r < s->ranks; r++) {
        mem = s->wanted[k][r] ? l->mem + (size_t)r * l->count * 4 : mem;
        if (s->absent[k][r]) {
            l->lossy = l->lossy || (p->rate && !is_factored(s, l)); /* an owner's slot may be made anew */
            continue;
        }
        form(s, k, r, x);
        l->slack += weight(s) * norm_of(x, l->count) * (s->ranks + 4) * r3 * 0x1p-22 + 1e-38;
        add_forgotten(s, k, r, beta);
        for (uint32_t i = 0; i < l->count; i++)
            l->exact[i] += (double)l->g[(size_t)r * l->count + i] * (double)s->scale * weight(s);
    }
    l->lossy = l->lossy || !mem || !feeds_back(s, l); /* what nobody wanted is not known */
    /* ... nor what was forgotten where halves' rounding joined it, or too little is left to tell */
    l->lossy = l->lossy || (p->rate && (beta < 0.1 || l->dtype != TW_F32));
    for (uint32_t i = 0; mem && i < l->count; i++)
        l->applied[i] += value_at(mem + i * tw_dtype_size(l->dtype), l->dtype);
    l->loose = l->loose || !mem;
}

/* Nothing is lost; the certificate is true, and with feedback little more than what is held. */
static bool check_sums(scene *s, uint32_t k) {
    one_layer *l = &s->l[k];
    double lost = 0, error = 0, held = 0, w = weight(s);
    tw_layer_report y = TW_LAYER_REPORT_INIT;
    static float e[MOST_RANKS][MOST_VALUES];
    for (int r = 0; r < s->ranks; r++) {
        double sq = 0;
        if (tw_reducer_residual(s->red[r], k, e[r]) < 0 || tw_reducer_layer_report(s->red[r], k, &y) < 0)
            return trial_fail(s->t, "layer '%s': %s", l->name, tw_last_error());
        if (r && memcmp(&y.error_bound, &l->bound, sizeof l->bound) != 0)
            return trial_fail(s->t, "layer '%s': ranks 0 and %d have other bounds", l->name, r);
        l->bound = y.error_bound;
        for (uint32_t i = 0; i < l->count; i++) {
            double v = (double)e[r][i] / (is_own(s, l, r, i) ? w : 1.0);
            sq += v * v;
        }
        held += w * sqrt(sq);
    }
    for (uint32_t i = 0; i < l->count; i++) {
        double d = l->applied[i] - l->exact[i];
        error += d * d;
        d += l->forgot[i];
        for (int r = 0; r < s->ranks; r++)
            d += (double)e[r][i] * (is_own(s, l, r, i) ? 1.0 : w);
        lost += d * d;
    }
    if (!l->lossy && !(sqrt(lost) <= l->slack))
        return trial_fail(s->t, "layer '%s': %g is lost; allowed %g", l->name, sqrt(lost), l->slack);
    if (!l->loose && y.certified && !(sqrt(error) <= y.error_bound * (1 + 1e-9)))
        return trial_fail(s->t, "layer '%s': the bound is %g, the error %g", l->name, y.error_bound, sqrt(error));
    if (!l->lossy && is_factored(s, l) && l->phases == 1 && l->dtype == TW_F32 && !l->spec[0].rate &&
        isfinite(y.error_bound) && y.error_bound > held * 1.01 + 4 * l->slack)
        return trial_fail(s->t, "layer '%s': the bound is %g, what is held %g, roundings %g", l->name, y.error_bound,
                          held, l->slack);
    return true;
}

/* A sum of finite values beyond what the cast can say. */
static bool overflowed(const scene *s, uint32_t k) {
    const one_layer *l = &s->l[k];
    for (int r = 0; r < s->ranks && spec_now(s, l)->codec == TW_CODEC_CAST; r++)
        for (uint32_t i = 0; s->wanted[k][r] && i < l->count; i++)
            if (!isfinite(value_at(l->mem + ((size_t)r * l->count * 4) + i * tw_dtype_size(l->dtype), l->dtype)))
                return true;
    return false;
}

static bool check_layer(scene *s, uint32_t k, bool committed) {
    one_layer *l = &s->l[k];
    bool whole = is_factored(s, l), same = !committed || l->away || (l->bad && whole);
    if (s->ranks > 1 && !check_left(s, k, same))
        return false;
    for (int r = 0; r < s->ranks && same; r++)
        if (!check_kept(s, k, r))
            return false;
    if (committed && !l->away && !l->bad && !check_drained(s, k))
        return false;
    if (!committed || l->away || l->lossy) /* sums of what is known no more are no use */
        return true;
    if (!whole && (l->bad || overflowed(s, k))) { /* tiles: others' trials */
        l->lossy = l->loose = true;
        return true;
    }
    if (!l->bad && whole && !check_iteration(s, k))
        return false;
    if (!l->bad)
        add_up(s, k);
    return check_sums(s, k);
}

/* The report names the first layer with NaN or Inf, and a rank that has some. */
static bool check_blame(scene *s) {
    const tw_report *p = &s->report[0];
    uint32_t k = 0;
    bool has = false;
    while (k < s->n && (!s->l[k].bad || is_plain(s, k)))
        k++;
    bool plain = p->bad_layer >= 0 && s->l[p->bad_layer].bad && is_plain(s, (uint32_t)p->bad_layer);
    if (k == s->n || s->ranks == 1 || plain)
        return true;
    const one_layer *l = &s->l[k];
    for (uint32_t i = 0; i < l->count && p->bad_rank >= 0 && p->bad_rank < s->ranks; i++)
        has = has || !isfinite(l->g[(size_t)p->bad_rank * l->count + i]);
    if (p->bad_layer == (int32_t)k && ((has && !s->absent[k][p->bad_rank]) || l->values == OVERFLOWS))
        return true;
    return trial_fail(s->t, "NaN or Inf in layer %u; the report says layer %d, rank %d", k, p->bad_layer, p->bad_rank);
}

static void reset(scene *s) {
    for (int r = 0; r < s->ranks; r++)
        tw_reducer_reset(s->red[r]);
    for (uint32_t k = 0; k < s->n; k++) {
        one_layer *l = &s->l[k];
        memset(l->applied, 0, l->count * sizeof(double));
        memset(l->exact, 0, l->count * sizeof(double));
        memset(l->forgot, 0, l->count * sizeof(double));
        l->slack = 0;
        l->lossy = l->loose = false;
    }
}

/* Products of what is finite may overflow: then all of the layer is NaN, and whose fault it was is hard to say. */
static void see_overflow(one_layer *l) {
    bool overflows = !l->bad && isnan(value_at(l->mem, l->dtype));
    l->values = overflows ? OVERFLOWS : 0;
    l->bad = l->bad || overflows;
}

static bool try_step(scene *s) {
    bool discard = !s->sweep && rng_chance(s->r, 10), strict = s->rc.nonfinite != TW_NONFINITE_PROPAGATE, any = false,
         failed = false;
    if (!s->sweep && rng_chance(s->r, 5))
        reset(s);
    (s->sweep ? draw_hard : draw_step)(s);
    foresee(s);
    if (!save_state(s))
        return false;
    run_step(s, discard);
    if (s->sweep && s->step >= TRIAL_LARGEST)
        see_overflow(&s->l[0]);
    for (uint32_t k = 0; k < s->n; k++)
        any = any || s->l[k].bad;
    for (int r = 0; r < s->ranks; r++) {
        bool skips = any && strict;
        tw_status want = skips && !discard && s->rc.nonfinite == TW_NONFINITE_ERROR ? TW_ERR_NONFINITE : TW_OK;
        failed = failed || s->status[r] < 0;
        if (!s->faulty && s->status[r] != want)
            return trial_fail(s->t, "rank %d: %s, not %s: %s", r, tw_status_name(s->status[r]), tw_status_name(want),
                              tw_last_error());
    }
    if (s->faulty && failed)
        return false;
    bool committed = !discard && !(any && strict);
    if (!discard && !check_blame(s))
        return false;
    for (uint32_t k = 0; k < s->n; k++)
        if (!check_outputs(s, k, !(any && strict) || !s->l[k].bad) || !check_layer(s, k, committed))
            return false;
    return true;
}

/* ---- a scene ---- */

static void write_rules(const scene *s, char *rules, size_t room) {
    for (uint32_t k = 0; k < s->n; k++) {
        const one_layer *l = &s->l[k];
        size_t at = strlen(rules);
        snprintf(rules + at, room - at, "%s%s=", k ? ";" : "", l->name);
        for (uint32_t i = 0; i < l->phases; i++) {
            char spec[160];
            tw_spec_format(&l->spec[i], spec, sizeof spec);
            at = strlen(rules);
            snprintf(rules + at, room - at, "%s", spec);
            at = strlen(rules);
            if (i + 1 < l->phases)
                snprintf(rules + at, room - at, " until %u then ", l->until[i]);
        }
    }
}

static bool open_scene(scene *s) {
    tw_sim_config net = TW_SIM_CONFIG_INIT;
    tw_ctx_config cc = TW_CTX_CONFIG_INIT;
    tw_layer list[LAYERS];
    const tw_layer *layers[MOST_RANKS];
    const char *texts[MOST_RANKS];
    const tw_reducer_config *configs[MOST_RANKS];
    uint32_t counts[MOST_RANKS];
    char rules[2048] = "";
    net.ranks = s->ranks;
    net.seed = rng_next(s->r);
    net.reorder = 0.3;
    net.jitter_s = 50e-6;
    net.dead_rank = s->faulty ? (int)rng_below(s->r, (unsigned)s->ranks) : -1;
    net.dead_after = rng_below(s->r, 6);
    net.detects = rng_chance(s->r, 50);
    cc.alloc = count_alloc;
    cc.release = count_release;
    cc.alloc_arg = &s->allocations;
    cc.timeout_s = 1;
    write_rules(s, rules, sizeof rules);
    for (uint32_t k = 0; k < s->n; k++) {
        list[k] = (tw_layer)TW_LAYER_MATRIX(s->l[k].name, s->l[k].rows, s->l[k].cols, s->l[k].dtype);
        list[k].pinned = s->l[k].pinned;
    }
    for (int r = 0; r < s->ranks; r++)
        layers[r] = list, texts[r] = rules, configs[r] = &s->rc, counts[r] = s->n;
    if (s->t->verbose)
        printf("  factors: %d ranks, rules '%s'\n", s->ranks, rules);
    if (tw_ctx_create(&cc, &s->ctx) < 0 || tw_sim_create(NULL, &net, &s->sim) < 0 ||
        tw_sim_comms(s->sim, s->ctx, s->comm) < 0 ||
        tw_sim_reducers(s->sim, s->comm, layers, counts, texts, configs, s->red) < 0)
        return trial_fail(s->t, "opening '%s': %s", rules, tw_last_error());
    return true;
}

static void close_scene(scene *s) {
    for (int r = 0; r < s->ranks; r++)
        tw_reducer_destroy(s->red[r]);
    for (int r = 0; r < s->ranks; r++)
        tw_comm_destroy(s->comm[r]);
    tw_sim_destroy(s->sim);
    tw_ctx_destroy(s->ctx);
    for (uint32_t k = 0; k < s->n; k++) {
        one_layer *l = &s->l[k];
        void *all[] = {l->g, l->e, l->left, l->mem, l->applied, l->exact, l->forgot};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
            free(all[i]);
    }
    if (s->allocations)
        trial_fail(s->t, "%llu allocations were not given back", (unsigned long long)s->allocations);
}

bool lowrank_run(trial *t, uint64_t seed, int most_ranks) {
    static scene s;
    s = (scene){.t = t, .r = &t->rng, .rc = TW_REDUCER_CONFIG_INIT};
    t->rng = (rng){seed ^ UINT64_C(0x10c4a4c)};
    s.ranks = (int)rng_range(s.r, 1, rng_chance(s.r, 10) ? MOST_RANKS : 6);
    s.ranks = s.ranks > most_ranks ? most_ranks : s.ranks;
    s.faulty = rng_chance(s.r, 10);
    s.n = (uint32_t)rng_range(s.r, 1, LAYERS);
    s.push = rng_chance(s.r, 50);
    s.rc.tile = t->rc.tile = 128u << rng_below(s.r, 3);
    s.rc.redop = rng_chance(s.r, 70) ? TW_AVG : TW_SUM;
    s.rc.nonfinite = (tw_nonfinite)rng_range(s.r, 1, 3);
    s.rc.algo = rng_chance(s.r, 70) ? TW_ALGO_AUTO : s.ranks % 2 ? TW_ALGO_GATHER : TW_ALGO_SRA;
    s.rc.frame_bytes = rng_chance(s.r, 70) ? (uint32_t)rng_range(s.r, 64, 4000) & ~3u : 0;
    s.rc.bucket_bytes = rng_chance(s.r, 50) ? 20000 : 0;
    bool switching = s.push || rng_chance(s.r, 50), ok = true;
    s.alone = switching || rng_chance(s.r, 30);
    for (uint32_t k = 0; k < s.n; k++) {
        draw_layer(&s, k, switching);
        ok = make_layer(&s, &s.l[k]) && ok;
    }
    ok = ok && !t->failed && open_scene(&s);
    for (s.step = 0; ok && s.step < STEPS; s.step++)
        ok = try_step(&s);
    close_scene(&s);
    return !t->failed;
}

bool lowrank_sweep(trial *t, tw_spec spec, int ranks, tw_dtype dtype) {
    static scene s;
    s = (scene){.t = t, .r = &t->rng, .rc = TW_REDUCER_CONFIG_INIT, .ranks = ranks, .sweep = true, .n = 1};
    t->rng = (rng){(uint64_t)ranks << 8 | dtype << 4};
    s.rc.tile = t->rc.tile = 128;
    s.rc.redop = ranks % 2 ? TW_SUM : TW_AVG;
    s.rc.nonfinite = TW_NONFINITE_PROPAGATE;
    s.rc.frame_bytes = 600;
    s.l[0] = (one_layer){.name = "swept.w", .rows = 42, .cols = 31, .count = 42 * 31, .dtype = dtype, .phases = 1};
    s.l[0].spec[0] = spec;
    bool ok = make_layer(&s, &s.l[0]) && open_scene(&s);
    for (s.step = 0; ok && s.step < TRIAL_ADVERSARIES; s.step++) {
        ok = try_step(&s);
        if (!ok)
            printf("input: %s\n", trial_adversary_name(s.step));
    }
    close_scene(&s);
    return !t->failed;
}
