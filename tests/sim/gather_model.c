/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Gather once more: all ranks' parts are encoded, the owner's too, whose residual goes in P times as large where results are
 * averages; the sum is the result, and what its dtype cannot hold stays with the owner. */
#include "trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct gather {
    trial *t;
    const op_plan *op;
    uint32_t l;
    const tw_spec *s;
    const layer *y;
    float *x, *dec; /* of a rank, all values */
    float *sum;
    double *norms;        /* of tiles: what was rounded */
    uint8_t *flag, *zone; /* of a rank, of tiles */
    uint64_t *who;        /* of tiles */
    float ranks, inverse; /* 1 for sums */
} gather;

static bool covered(const gather *p, uint64_t tile) {
    return tile >= p->op->first_tile[p->l] && tile < p->op->first_tile[p->l] + p->op->tiles[p->l];
}

static uint64_t end_of(const gather *p, uint64_t tile) {
    uint64_t end = (tile + 1) * p->t->rc.tile;
    return end < p->y->count ? end : p->y->count;
}

static void through_sparse(const gather *p, int r) {
    for (uint64_t k = 0; k < p->y->tiles; k++)
        p->zone[k] = covered(p, k) ? (uint8_t)(1 + p->t->m.own[p->l][k]) : 0;
    for (uint64_t i = 0; i < p->y->count; i++)
        p->flag[i / p->t->rc.tile] |= p->zone[i / p->t->rc.tile] && !isfinite(p->x[i]);
    model_sparse_part q = {.s = p->s, .name = p->y->name, .n = p->y->count, .tile = p->t->rc.tile};
    q.dtype = p->y->dtype;
    q.step = (uint32_t)p->t->step.number;
    q.hop = 1;
    q.rank = r;
    q.zone = p->zone;
    q.flag = p->flag;
    q.x = p->x;
    q.decoded = p->dec;
    if (!model_compress(&q))
        trial_fail(p->t, "out of memory");
}

static void through_tiled(const gather *p, int r) {
    model_draw d = {p->y->name, 0, p->s->seed, (uint32_t)p->t->step.number, (uint32_t)r, 1, 0, false};
    for (d.tile = 0; d.tile < p->y->tiles; d.tile++) {
        uint64_t at = d.tile * p->t->rc.tile;
        if (covered(p, d.tile))
            p->flag[d.tile] =
                model_codec(p->s, &d, p->y->dtype, p->x + at, (uint32_t)(end_of(p, d.tile) - at), p->dec + at);
    }
}

static void add_rank(const gather *p, int r, bool first) {
    trial *t = p->t;
    uint64_t slot = (uint64_t)r * p->y->count;
    const float *e = t->m.e[p->l] + slot;
    bool held = model_has_residual(t, p->l, r), sparse = p->s->codec == TW_CODEC_TOPK;
    memset(p->flag, 0, p->y->tiles);
    for (uint64_t i = 0; i < p->y->count; i++) {
        bool own = t->m.own[p->l][i / t->rc.tile] == r;
        p->x[i] = model_input(t, p->l, slot + i);
        p->x[i] = held ? p->x[i] + (own ? e[i] * p->ranks : e[i]) : p->x[i];
    }
    (sparse ? through_sparse : through_tiled)(p, r);
    for (uint64_t k = 0; k < p->y->tiles; k++) {
        double x_sq = 0, e_sq = 0, f_sq = 0;
        bool own = t->m.own[p->l][k] == r;
        for (uint64_t i = k * t->rc.tile; covered(p, k) && i < end_of(p, k); i++) {
            float lost = model_hold(t, p->l, slot + i, p->x[i] - p->dec[i], own ? p->ranks : 1.0f);
            model_clear(t, p->l, slot + i, p->dec[i]);
            p->sum[i] = first && !sparse ? p->dec[i] : p->sum[i] + p->dec[i];
            x_sq += (double)p->x[i] * p->x[i];
            e_sq += (double)lost * lost;
            f_sq += own && held ? (double)e[i] * e[i] : 0;
        }
        p->who[k] |= (uint64_t)p->flag[k] << r;
        p->norms[k] += sqrt(x_sq) + sqrt(e_sq) + sqrt(f_sq) * (double)p->ranks;
    }
}

static void keep(const gather *p, uint64_t tile, int r) {
    model_keep(p->t, p->l, r, tile * p->t->rc.tile, end_of(p, tile) - tile * p->t->rc.tile);
}

/* What is stored of a tile, and what of it the owner holds. */
static void finish_tile(const gather *p, uint64_t tile) {
    trial *t = p->t;
    bool sparse = p->s->codec == TW_CODEC_TOPK, ef = p->s->feedback != TW_FEEDBACK_NONE, bad = sparse && p->who[tile];
    float *out = t->m.out[p->l], *own = t->m.e_new[p->l] + (uint64_t)t->m.own[p->l][tile] * p->y->count;
    for (uint64_t i = tile * t->rc.tile; i < end_of(p, tile); i++) {
        float v = p->sum[i] * p->inverse;
        out[i] = model_to_dtype(v, p->y->dtype);
        bad = bad || !isfinite(out[i]);
        if (ef && p->y->dtype != TW_F32)
            own[i] = own[i] + (v - out[i]);
    }
    t->m.bad[p->l][tile] = bad;
    t->m.bad_ranks[p->l] |= p->who[tile] ? p->who[tile] : bad ? UINT64_C(1) << t->m.own[p->l][tile] : 0;
    for (uint64_t i = tile * t->rc.tile; bad && (ef || sparse) && i < end_of(p, tile); i++)
        out[i] = NAN;
    for (int r = 0; bad && r < t->ranks; r++)
        keep(p, tile, r);
    double w = t->rc.redop == TW_AVG ? 1.0 / t->ranks : 1.0;
    if (!bad)
        t->m.rho_step[p->l] += (t->ranks + 4) * (0x1p-24 * w * p->norms[tile] + sqrt((double)t->rc.tile) * 0x1p-149);
}

static void all_tiles(const gather *p) {
    bool any = false;
    for (int r = 0; r < p->t->ranks; r++)
        if (!p->op->absent[p->l][r]) {
            add_rank(p, r, !any);
            any = true;
        }
    for (uint64_t k = p->op->first_tile[p->l]; k < p->op->first_tile[p->l] + p->op->tiles[p->l]; k++) {
        p->t->m.away[p->l][k] = !any;
        for (int r = 0; r < p->t->ranks; r++)
            if (p->op->absent[p->l][r])
                keep(p, k, r);
        if (any)
            finish_tile(p, k);
    }
}

void model_gather(trial *t, const op_plan *op, uint32_t l) {
    uint64_t n = t->layer[l].count + 1, tiles = t->layer[l].tiles + 1;
    bool average = t->rc.redop == TW_AVG;
    float *values = calloc(3 * n, sizeof *values);
    double *norms = calloc(tiles, sizeof *norms);
    uint64_t *who = calloc(tiles, sizeof *who);
    uint8_t *marks = calloc(2 * tiles, 1);
    if (values && norms && who && marks) {
        gather p = {.t = t, .op = op, .l = l, .s = &t->step.spec[l], .y = &t->layer[l]};
        p.x = values;
        p.dec = values + n;
        p.sum = values + 2 * n;
        p.norms = norms;
        p.who = who;
        p.flag = marks;
        p.zone = marks + tiles;
        p.ranks = average ? (float)t->ranks : 1.0f;
        p.inverse = average ? 1.0f / (float)t->ranks : 1.0f;
        all_tiles(&p);
    }
    free(values);
    free(norms);
    free(who);
    free(marks);
}
