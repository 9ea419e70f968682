/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A sparse layer of an op through the two hops: what each rank keeps of others' tiles (model_keep.c), the owners' sums, what
 * they keep of those. From the description alone. */
#include "trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct sparse {
    trial *t;
    const op_plan *op;
    uint32_t l;
    const tw_spec *s;
    uint64_t n; /* of the layer */
    float *x, *decoded;
    uint8_t *flag, *zone; /* of tiles */
    int rank;
    uint32_t hop;
} sparse;

static uint64_t tile_of(const sparse *p, uint64_t i) {
    return i / p->t->rc.tile;
}
static bool covered(const sparse *p, uint64_t tile) {
    return tile >= p->op->first_tile[p->l] && tile < p->op->first_tile[p->l] + p->op->tiles[p->l];
}
/* What this rank selects from: for hop 1 what others own, for hop 2 what it owns itself. */
static bool in_domain(const sparse *p, uint64_t tile) {
    return covered(p, tile) && (p->t->m.own[p->l][tile] == p->rank) == (p->hop == 2);
}

/* p->x and p->flag are there; p->decoded and more flags come. */
static void compress(sparse *p) {
    const layer *l = &p->t->layer[p->l];
    for (uint64_t k = 0; k < l->tiles; k++)
        p->zone[k] = in_domain(p, k) ? (uint8_t)(1 + p->t->m.own[p->l][k]) : 0;
    model_sparse_part q = {.s = p->s,
                           .name = l->name,
                           .n = p->n,
                           .tile = p->t->rc.tile,
                           .dtype = l->dtype,
                           .step = (uint32_t)p->t->step.number,
                           .hop = p->hop,
                           .rank = p->rank,
                           .zone = p->zone,
                           .flag = p->flag,
                           .x = p->x,
                           .decoded = p->decoded};
    if (!model_compress(&q))
        trial_fail(p->t, "out of memory");
}

/* ---- the hops ---- */

typedef struct norms { /* squares of each tile, as in model_tile.c */
    double *x, *e, *own_x, *own_e;
} norms;

static void keep_tile(trial *t, uint32_t l, uint64_t tile, int r) {
    uint64_t n = t->layer[l].count, from = tile * t->rc.tile, m = n - from < t->rc.tile ? n - from : t->rc.tile;
    model_keep(t, l, r, from, m);
}

static void hop1(sparse *p, float *sum, uint64_t *who, norms *q) {
    trial *t = p->t;
    uint64_t slot = (uint64_t)p->rank * p->n;
    const float *e = t->m.e[p->l] + slot;
    bool ef = model_has_residual(t, p->l, p->rank);
    p->hop = 1;
    memset(p->flag, 0, t->layer[p->l].tiles);
    for (uint64_t i = 0; i < p->n; i++) {
        p->x[i] = model_input(t, p->l, slot + i);
        if (ef)
            p->x[i] = p->x[i] + e[i];
        if (in_domain(p, tile_of(p, i)) && !isfinite(p->x[i]))
            p->flag[tile_of(p, i)] = 1;
    }
    compress(p);
    for (uint64_t i = 0; i < p->n; i++) {
        uint64_t tile = tile_of(p, i), at = tile * (unsigned)t->ranks + (unsigned)p->rank;
        if (!covered(p, tile))
            continue;
        if (t->m.own[p->l][tile] == p->rank) {
            float x = model_input(t, p->l, slot + i);
            sum[i] = sum[i] + x;
            who[tile] |= (uint64_t)!model_finite(t, p->l, slot + i) << p->rank;
            q->x[at] += (double)x * x;
            continue;
        }
        sum[i] = sum[i] + p->decoded[i];
        model_hold(t, p->l, slot + i, p->x[i] - p->decoded[i], 1.0f);
        model_clear(t, p->l, slot + i, p->decoded[i]);
        who[tile] |= (uint64_t)p->flag[tile] << p->rank;
        q->x[at] += (double)p->x[i] * p->x[i];
        q->e[at] += (double)(p->x[i] - p->decoded[i]) * (p->x[i] - p->decoded[i]);
    }
}

/* Of all owners: each its own tiles. */
static void hop2(sparse *p, const float *sum, const uint64_t *who, norms *q) {
    trial *t = p->t;
    float w = t->rc.redop == TW_AVG ? 1.0f / (float)t->ranks : 1.0f;
    const float *e = t->m.e[p->l] + (uint64_t)p->rank * p->n;
    bool ef = model_has_residual(t, p->l, p->rank);
    p->hop = 2;
    memset(p->flag, 0, t->layer[p->l].tiles);
    for (uint64_t i = 0; i < p->n; i++) {
        p->x[i] = sum[i] * w;
        if (ef)
            p->x[i] = p->x[i] + e[i];
        if (in_domain(p, tile_of(p, i)) && (!isfinite(p->x[i]) || who[tile_of(p, i)]))
            p->flag[tile_of(p, i)] = 1;
    }
    for (uint64_t i = 0; i < p->n; i++)
        if (p->flag[tile_of(p, i)])
            p->x[i] = 0;
    compress(p);
    for (uint64_t i = 0; i < p->n; i++) {
        uint64_t tile = tile_of(p, i);
        if (!in_domain(p, tile))
            continue;
        t->m.bad[p->l][tile] = p->flag[tile];
        t->m.out[p->l][i] = p->flag[tile] ? NAN : p->decoded[i];
        model_hold(t, p->l, (uint64_t)p->rank * p->n + i, p->x[i] - p->decoded[i], 1.0f);
        q->own_x[tile] += (double)p->x[i] * p->x[i];
        q->own_e[tile] += (double)(p->x[i] - p->decoded[i]) * (p->x[i] - p->decoded[i]);
    }
}

static void settle(sparse *p, const uint64_t *who, const norms *q, bool any) {
    trial *t = p->t;
    double w = t->rc.redop == TW_AVG ? 1.0 / t->ranks : 1.0;
    for (uint64_t k = p->op->first_tile[p->l]; k < p->op->first_tile[p->l] + p->op->tiles[p->l]; k++) {
        bool bad = t->m.bad[p->l][k];
        double sum = 0;
        t->m.away[p->l][k] = !any;
        if (bad)
            t->m.bad_ranks[p->l] |= who[k] ? who[k] : UINT64_C(1) << t->m.own[p->l][k];
        for (int r = 0; r < t->ranks; r++) {
            if (!any || bad || (p->op->absent[p->l][r] && r != t->m.own[p->l][k]))
                keep_tile(t, p->l, k, r);
            sum += sqrt(q->x[k * (unsigned)t->ranks + (unsigned)r]) + sqrt(q->e[k * (unsigned)t->ranks + (unsigned)r]);
        }
        sum = w * sum + sqrt(q->own_x[k]) + sqrt(q->own_e[k]);
        if (any && !bad)
            t->m.rho_step[p->l] += (t->ranks + 4) * (0x1p-24 * sum + sqrt((double)t->rc.tile) * 0x1p-149);
    }
}

void model_sparse(trial *t, const op_plan *op, uint32_t l) {
    uint64_t n = t->layer[l].count + 1, tiles = t->layer[l].tiles + 1, all = tiles * (unsigned)t->ranks;
    sparse p = {.t = t, .op = op, .l = l, .s = &t->step.spec[l], .n = n - 1};
    float *floats = calloc(3 * n, sizeof *floats), *sum = floats + 2 * n;
    uint8_t *bytes = calloc(2 * tiles, 1);
    uint64_t *who = calloc(tiles, sizeof *who);
    double *squares = calloc(2 * all + 2 * tiles, sizeof *squares);
    bool any = false;
    if (floats && bytes && who && squares) {
        norms q = {squares, squares + all, squares + 2 * all, squares + 2 * all + tiles};
        p.x = floats;
        p.decoded = floats + n;
        p.zone = bytes;
        p.flag = bytes + tiles;
        for (p.rank = 0; p.rank < t->ranks; p.rank++)
            if (!op->absent[l][p.rank]) {
                any = true;
                hop1(&p, sum, who, &q);
            }
        for (p.rank = 0; any && p.rank < t->ranks; p.rank++)
            hop2(&p, sum, who, &q);
        settle(&p, who, &q, any);
    }
    free(floats);
    free(bytes);
    free(who);
    free(squares);
}
