/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Native sums of payloads once more: when AUTO takes one, and what becomes of a tile. All ranks' parts are encoded, the
 * owner's too, whose residual goes in P times as large where results are averages; the sum is the result. */
#include "trial.h"
#include "collectives/plan.h"
#include <math.h>
#include <string.h>

/* ---- which ops ---- */

/* The op's layers in the order in which its pieces name them. */
static uint32_t layers_of(const trial *t, const step_plan *s, const op_plan *op, tw_plan_layer *out) {
    uint32_t n = 0;
    for (uint32_t k = 0; k < op->npiece; k++) {
        uint32_t l = op->piece[k].layer, i = 0;
        while (i < n && strcmp(out[i].name, t->layer[l].name) != 0)
            i++;
        if (i == n)
            out[n++] = (tw_plan_layer){.name = t->layer[l].name,
                                       .count = t->layer[l].count,
                                       .first = op->tiles[l] ? op->first_tile[l] : 0,
                                       .tiles = op->tiles[l],
                                       .dtype = TW_F32,
                                       .spec = s->spec[l]};
    }
    return n;
}

/* Fewer bytes on the wire than by SRA, all ranks together. */
static bool is_shorter(const trial *t, const step_plan *s, const op_plan *op) {
    tw_plan_layer layers[MOST_LAYERS];
    uint64_t peers = (unsigned)t->ranks - 1, payload = 0, sra = 0;
    uint32_t notes = 3 + 2 * (((uint32_t)t->ranks + 23) / 24), n = layers_of(t, s, op, layers);
    tw_plan *p;
    tw_plan_in in = {.size = t->ranks,
                     .layer = layers,
                     .nlayer = n,
                     .algo = TW_ALGO_SRA,
                     .tile = t->rc.tile,
                     .frame_bytes = t->rc.frame_bytes};
    if (tw_plan_build(t->sim_ctx, &in, &p) != TW_OK)
        return false;
    for (uint32_t i = 0; i < p->nframe; i++) {
        sra += peers * (2 * (32 + (uint64_t)p->frame[i].payload) + p->frame[i].nrun * (12 + 8));
        payload += p->frame[i].payload;
    }
    tw_plan_free(p);
    return 2 * peers * (payload + 4 * (n * notes + 32)) < sra;
}

bool model_sums_payloads(const trial *t, const step_plan *s, const op_plan *op) {
    for (uint32_t k = 0; k < op->npiece; k++) {
        uint32_t l = op->piece[k].layer;
        if (t->layer[l].dtype != TW_F32 || s->spec[l].codec != TW_CODEC_RANDK)
            return false;
    }
    if (op->npiece == 0 || t->ranks == 1 || t->rc.algo == TW_ALGO_SRA || t->rc.algo == TW_ALGO_GATHER)
        return false;
    return t->rc.algo == TW_ALGO_NATIVE || is_shorter(t, s, op);
}

/* ---- a tile ---- */

typedef struct part_of_sum {
    trial *t;
    uint32_t l, n;
    uint64_t first;
    int owner;
    float ranks, inverse; /* 1 for sums */
    double norms;         /* of what was rounded */
} part_of_sum;

static double norm_of(const float *x, uint32_t n) {
    double sq = 0;
    for (uint32_t i = 0; i < n; i++)
        sq += (double)x[i] * x[i];
    return sqrt(sq);
}

/* Rank r's part to sum. True: it has NaN or Inf. */
static bool add_part(part_of_sum *p, int r, bool present, float *sum) {
    trial *t = p->t;
    const tw_spec *s = &t->step.spec[p->l];
    float *x = t->m.scratch + MOST_TILE, *dec = t->m.scratch + 2 * MOST_TILE, lost[MOST_TILE] = {0};
    uint64_t at = (uint64_t)r * t->layer[p->l].count + p->first;
    const float *g = t->step.g[p->l] + at, *e = t->m.e[p->l] + at;
    const model_draw d = {t->layer[p->l].name, p->first / t->rc.tile, s->seed, (uint32_t)t->step.number, 0, 0, 0, true};
    bool bad = false, held = model_has_residual(t, p->l, r), own = r == p->owner;
    for (uint32_t i = 0; i < p->n && present; i++) {
        x[i] = g[i] * t->step.scale[r];
        if (held)
            x[i] = x[i] + (own ? e[i] * p->ranks : e[i]);
    }
    if (present)
        bad = model_codec(s, &d, TW_F32, x, p->n, dec);
    for (uint32_t i = 0; i < p->n; i++) {
        float v = present ? dec[i] : 0.0f;
        sum[i] = r ? sum[i] + v : v;
        lost[i] = model_hold(t, p->l, at + i, present ? x[i] - dec[i] : 0.0f, own ? p->ranks : 1.0f);
    }
    if (present && !bad)
        p->norms += norm_of(x, p->n) + norm_of(lost, p->n) + (own ? norm_of(e, p->n) * (double)p->ranks : 0);
    return bad;
}

static bool finish(part_of_sum *p, float *sum) {
    const tw_spec *s = &p->t->step.spec[p->l];
    float *out = p->t->m.out[p->l] + p->first, gain = 1;
    bool bad = false;
    if (s->scale == TW_SCALE_UNBIASED) {
        double kept = floor((double)p->n * s->density / 1e9 + 0.5);
        gain = (float)p->n / (kept < 1 ? 1.0f : (float)kept);
    }
    for (uint32_t i = 0; i < p->n; i++) {
        out[i] = sum[i] * p->inverse * gain;
        bad = bad || !isfinite(out[i]);
    }
    for (uint32_t i = 0; bad && s->feedback != TW_FEEDBACK_NONE && i < p->n; i++)
        out[i] = NAN;
    return bad;
}

void model_linear(trial *t, const op_plan *op, uint32_t l, uint64_t tile) {
    bool average = t->rc.redop == TW_AVG, away = true;
    part_of_sum p = {.t = t, .l = l, .first = tile * t->rc.tile, .owner = t->m.own[l][tile]};
    uint64_t left = t->layer[l].count - p.first, who = 0;
    p.n = left < t->rc.tile ? (uint32_t)left : t->rc.tile;
    p.ranks = average ? (float)t->ranks : 1.0f;
    p.inverse = average ? 1.0f / (float)t->ranks : 1.0f;
    for (int r = 0; r < t->ranks; r++) {
        who |= (uint64_t)add_part(&p, r, !op->absent[l][r], t->m.scratch) << r;
        away = away && op->absent[l][r];
    }
    bool bad = !away && finish(&p, t->m.scratch);
    t->m.away[l][tile] = away;
    t->m.bad[l][tile] = bad;
    t->m.bad_ranks[l] |= bad && who == 0 ? UINT64_C(1) << p.owner : who;
    for (int r = 0; r < t->ranks; r++)
        if (bad || op->absent[l][r])
            model_keep(t, l, r, p.first, p.n);
    double w = average ? 1.0 / t->ranks : 1.0;
    if (!away && !bad)
        t->m.rho_step[l] += (t->ranks + 4) * (0x1p-24 * w * p.norms + sqrt((double)p.n) * 0x1p-149);
}
