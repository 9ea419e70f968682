/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One tile through the two hops: every rank's part encoded for the owner (the owner's own stays raw), summed in rank
 * order, times 1/P, plus the owner's residual, encoded once more; all ranks store that. */
#include "trial.h"
#include <math.h>
#include <string.h>

typedef struct tile_place {
    uint64_t first; /* value */
    uint32_t n;
    int owner;
    const tw_spec *spec;
    const layer *l;
} tile_place;

static tile_place place_of(const trial *t, uint32_t l, uint64_t tile) {
    tile_place p = {
        .first = tile * t->rc.tile, .l = &t->layer[l], .spec = &t->step.spec[l], .owner = t->m.own[l][tile]};
    uint64_t left = p.l->count - p.first;
    p.n = left < t->rc.tile ? (uint32_t)left : t->rc.tile;
    return p;
}

static float inverse(const trial *t) {
    return t->rc.redop == TW_AVG ? 1.0f / (float)t->ranks : 1.0f;
}
static double weight(const trial *t) {
    return t->rc.redop == TW_AVG ? 1.0 / t->ranks : 1.0;
}

static model_draw draw_of(const trial *t, const tile_place *p, int rank, uint32_t hop) {
    return (model_draw){
        p->l->name, p->first / t->rc.tile, p->spec->seed, (uint32_t)t->step.number, (uint32_t)rank, hop, 0, hop == 1};
}

/* Squares of what went into the roundings of this tile, for the ledger's bound. */
typedef struct squares {
    double x[MOST_RANKS], e[MOST_RANKS], own_x, own_e;
} squares;

/* A rank that is not the owner. Adds what arrives to sum. */
static bool send_part(trial *t, uint32_t l, const tile_place *p, int r, bool first, float *sum, squares *sq) {
    float *x = t->m.scratch + MOST_TILE, *dec = t->m.scratch + 2 * MOST_TILE;
    uint64_t at = (uint64_t)r * p->l->count + p->first;
    const float *g = t->step.g[l] + at, *e = t->m.e[l] + at;
    bool ef = model_has_residual(t, l, r);
    for (uint32_t i = 0; i < p->n; i++) {
        x[i] = g[i] * t->step.scale[r];
        if (ef)
            x[i] = x[i] + e[i];
    }
    const model_draw d = draw_of(t, p, r, 1);
    bool bad = model_codec(p->spec, &d, p->l->dtype, x, p->n, dec);
    for (uint32_t i = 0; i < p->n; i++) {
        float lost = model_hold(t, l, at + i, x[i] - dec[i], 1.0f);
        sum[i] = first ? dec[i] : sum[i] + dec[i];
        sq->x[r] += (double)x[i] * x[i];
        sq->e[r] += (double)lost * lost;
    }
    return bad;
}

static bool add_own(trial *t, uint32_t l, const tile_place *p, bool first, float *sum, squares *sq) {
    uint64_t at = (uint64_t)p->owner * p->l->count + p->first;
    bool bad = false;
    for (uint32_t i = 0; i < p->n; i++) {
        float x = model_input(t, l, at + i);
        sum[i] = first ? x : sum[i] + x;
        bad = bad || !model_finite(t, l, at + i);
        sq->x[p->owner] += (double)x * x;
    }
    return bad;
}

/* The owner's answer: what everybody stores. */
static bool answer(trial *t, uint32_t l, const tile_place *p, const float *sum, squares *sq) {
    float *x = t->m.scratch + MOST_TILE, *dec = t->m.scratch + 2 * MOST_TILE, *out = t->m.out[l] + p->first;
    uint64_t at = (uint64_t)p->owner * p->l->count + p->first;
    bool ef = model_has_residual(t, l, p->owner);
    for (uint32_t i = 0; i < p->n; i++) {
        x[i] = sum[i] * inverse(t);
        if (ef)
            x[i] = x[i] + t->m.e[l][at + i];
    }
    const model_draw d = draw_of(t, p, p->owner, 2);
    bool bad = model_codec(p->spec, &d, p->l->dtype, x, p->n, dec);
    for (uint32_t i = 0; i < p->n; i++) {
        out[i] = model_to_dtype(dec[i], p->l->dtype);
        bad = bad || !isfinite(out[i]);
        float lost = model_hold(t, l, at + i, x[i] - out[i], 1.0f);
        sq->own_x += (double)x[i] * x[i];
        sq->own_e += (double)lost * lost;
    }
    for (uint32_t i = 0; bad && ef && i < p->n; i++)
        out[i] = NAN; /* the tile as a whole */
    return bad;
}

static void add_rho(trial *t, uint32_t l, const tile_place *p, const squares *sq) {
    double norms = 0;
    for (int r = 0; r < t->ranks; r++)
        norms += sqrt(sq->x[r]) + sqrt(sq->e[r]);
    norms = weight(t) * norms + sqrt(sq->own_x) + sqrt(sq->own_e);
    t->m.rho_step[l] += (t->ranks + 4) * (0x1p-24 * norms + sqrt((double)p->n) * 0x1p-149);
}

void model_tile(trial *t, const op_plan *op, uint32_t l, uint64_t tile) {
    tile_place p = place_of(t, l, tile);
    float *sum = t->m.scratch;
    squares sq = {0};
    uint64_t who = 0;
    bool first = true;
    for (int r = 0; r < t->ranks; r++) {
        if (op->absent[l][r])
            continue;
        bool bad = r == p.owner ? add_own(t, l, &p, first, sum, &sq) : send_part(t, l, &p, r, first, sum, &sq);
        who |= (uint64_t)bad << r;
        first = false;
    }
    t->m.away[l][tile] = first;
    t->m.bad[l][tile] = !first && answer(t, l, &p, sum, &sq);
    if (t->m.bad[l][tile] && who == 0)
        who = UINT64_C(1) << p.owner;
    t->m.bad_ranks[l] |= who;
    for (int r = 0; r < t->ranks; r++)
        if (first || t->m.bad[l][tile] || (op->absent[l][r] && r != p.owner))
            model_keep(t, l, r, p.first, p.n);
    if (!first && !t->m.bad[l][tile])
        add_rho(t, l, &p, &sq);
}

/* The transport's own sum: scaled, added in rank order, times 1/P. An absent rank adds zeros. */
void model_native(trial *t, const op_plan *op, uint32_t l, uint64_t tile) {
    tile_place p = place_of(t, l, tile);
    squares sq = {0};
    t->m.away[l][tile] = false;
    for (uint32_t i = 0; i < p.n; i++) {
        float sum = 0;
        for (int r = 0; r < t->ranks; r++) {
            float x = op->absent[l][r] ? 0.0f : t->step.g[l][(uint64_t)r * p.l->count + p.first + i];
            if (t->step.scale[r] != 1.0f)
                x *= t->step.scale[r];
            sum = r ? sum + x : x;
            sq.x[r] += (double)x * x;
        }
        t->m.out[l][p.first + i] = sum * inverse(t);
        if (!isfinite(sum))
            t->m.lossy[l] = true; /* no verdict here */
    }
    add_rho(t, l, &p, &sq);
}
