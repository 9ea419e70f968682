/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A sparse layer of an op through the two hops, by sorting: what each rank keeps of others' tiles, the owners' sums, what
 * they keep of those. From the description alone. */
#include "trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
    uint32_t bits; /* of the magnitude */
    uint64_t pos;
} entry;

typedef struct sparse {
    trial *t;
    const op_plan *op;
    uint32_t l;
    const tw_spec *s;
    uint64_t n; /* of the layer */
    float *x, *decoded, *mine;
    uint8_t *flag, *keep; /* of tiles, of values */
    entry *entry;
    int rank;
    uint32_t hop;
} sparse;

static uint32_t magnitude(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b & 0x7fffffffu;
}

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

static uint64_t wanted(const sparse *p, uint64_t n) {
    uint64_t k = (n * p->s->density * 2 / 1000000000u + 1) / 2; /* of layers that a test has */
    return k == 0 && n ? 1 : k;
}

static int larger_first(const void *a, const void *b) {
    const entry *p = a, *q = b;
    if (p->bits != q->bits)
        return p->bits > q->bits ? -1 : 1;
    return p->pos < q->pos ? -1 : 1;
}

static void keep_largest(sparse *p, uint64_t m, uint64_t k) {
    qsort(p->entry, m, sizeof *p->entry, larger_first);
    for (uint64_t i = 0; i < m && i < k; i++)
        p->keep[p->entry[i].pos] = 1;
}

static void select_exact(sparse *p) {
    uint64_t m = 0, domain = 0;
    for (uint64_t i = 0; i < p->n; i++) {
        if (!in_domain(p, tile_of(p, i)))
            continue;
        domain++;
        if (!p->flag[tile_of(p, i)] && magnitude(p->x[i]))
            p->entry[m++] = (entry){magnitude(p->x[i]), i};
    }
    keep_largest(p, m, wanted(p, domain));
}

static void select_threshold(sparse *p) {
    uint64_t m = 0, domain = 0, stride;
    for (uint64_t i = 0; i < p->n; i++)
        domain += in_domain(p, tile_of(p, i));
    stride = domain / 131072 | 1;
    for (uint64_t i = 0; i < p->n; i += stride)
        if (in_domain(p, tile_of(p, i)))
            p->entry[m++] = (entry){isfinite(p->x[i]) ? magnitude(p->x[i]) : 0, i};
    if (m == 0)
        return;
    qsort(p->entry, m, sizeof *p->entry, larger_first);
    uint32_t cut = p->entry[wanted(p, m) - 1].bits;
    for (uint64_t i = 0; i < p->n; i++)
        if (in_domain(p, tile_of(p, i)) && !p->flag[tile_of(p, i)])
            p->keep[i] = magnitude(p->x[i]) >= cut && magnitude(p->x[i]) > 0;
}

static void select_groups(sparse *p) {
    for (uint64_t i = 0, end; i < p->n; i = end) {
        uint64_t m = 0, tile_end = (tile_of(p, i) + 1) * p->t->rc.tile;
        end = i + p->s->group;
        end = end > tile_end ? tile_end : end;
        end = end > p->n ? p->n : end;
        if (!in_domain(p, tile_of(p, i)) || p->flag[tile_of(p, i)])
            continue;
        for (uint64_t v = i; v < end; v++)
            if (magnitude(p->x[v]))
                p->entry[m++] = (entry){magnitude(p->x[v]), v};
        keep_largest(p, m, wanted(p, end - i));
    }
}

/* ---- spans ---- */

static uint64_t stretch(const sparse *p) {
    uint64_t tile = p->t->rc.tile, n;
    if (p->s->select == TW_SELECT_GROUP) {
        uint64_t per = tile / p->s->group * wanted(p, p->s->group);
        n = (1024 + per - 1) / per;
    } else {
        n = (uint64_t)ceil(1024e9 / ((double)p->s->density * (double)tile));
    }
    return n < (1u << 24) / tile ? n : (1u << 24) / tile;
}

tw_spec model_values_of(const tw_spec *s) {
    tw_spec v = TW_SPEC_INIT;
    v.codec = s->values.codec;
    v.type = s->values.type;
    v.scale = s->values.scale;
    v.bits = s->values.bits;
    v.rounding = s->values.rounding;
    v.rotate = s->values.rotate;
    v.group = s->values.group;
    return v;
}

/* Kept values of [from, to), 4096 at most, through their codec; once more without tiles in which one overflowed. */
static void send_span(sparse *p, uint64_t from, uint64_t to) {
    float x[4096], y[4096];
    uint64_t pos[4096];
    uint32_t k = 0;
    bool bad = false;
    const layer *l = &p->t->layer[p->l];
    tw_spec v = model_values_of(p->s);
    model_draw d = {l->name, from, 0, (uint32_t)p->t->step.number, (uint32_t)p->rank, p->hop, 0};
    for (uint64_t i = from; i < to; i++)
        if (p->keep[i] && !p->flag[tile_of(p, i)]) {
            pos[k] = i;
            x[k++] = p->x[i];
        }
    if (k)
        model_codec(&v, &d, TW_F32, x, k, y);
    for (uint32_t i = 0; i < k; i++) {
        y[i] = p->hop == 2 ? model_to_dtype(y[i], l->dtype) : y[i];
        if (!isfinite(y[i])) {
            p->flag[tile_of(p, pos[i])] = 1;
            bad = true;
        }
        p->decoded[pos[i]] = y[i];
    }
    if (bad)
        send_span(p, from, to);
}

static uint64_t kept_in(const sparse *p, uint64_t from, uint64_t to) {
    uint64_t k = 0;
    for (uint64_t i = from; i < to; i++)
        k += p->keep[i];
    return k;
}

static uint64_t end_of(const sparse *p, uint64_t tile) {
    uint64_t end = (tile + 1) * p->t->rc.tile;
    return end < p->n ? end : p->n;
}

static void send_spans(sparse *p) {
    uint64_t tiles = p->t->layer[p->l].tiles, every = stretch(p);
    for (uint64_t k = 0; k < tiles;) {
        uint64_t from = k * p->t->rc.tile, held = 0, first = k;
        if (!in_domain(p, k)) {
            k++;
            continue;
        }
        while (k < tiles && in_domain(p, k) && p->t->m.own[p->l][k] == p->t->m.own[p->l][first] &&
               (k == first || k % every != 0) && held + kept_in(p, k * p->t->rc.tile, end_of(p, k)) <= 4096) {
            held += kept_in(p, k * p->t->rc.tile, end_of(p, k));
            k++;
        }
        send_span(p, from, end_of(p, k - 1));
    }
}

/* p->x and p->flag are there; p->decoded and more flags come. */
static void compress(sparse *p) {
    memset(p->keep, 0, p->n);
    memset(p->decoded, 0, p->n * sizeof *p->decoded);
    if (p->s->select == TW_SELECT_EXACT)
        select_exact(p);
    else if (p->s->select == TW_SELECT_THRESHOLD)
        select_threshold(p);
    else
        select_groups(p);
    send_spans(p);
    for (uint64_t i = 0; i < p->n; i++)
        if (p->flag[tile_of(p, i)])
            p->decoded[i] = 0;
}

/* ---- the hops ---- */

typedef struct norms { /* squares of each tile, as in model_tile.c */
    double *x, *e, *own_x, *own_e;
} norms;

static void keep_tile(trial *t, uint32_t l, uint64_t tile, int r) {
    uint64_t n = t->layer[l].count, from = tile * t->rc.tile, m = n - from < t->rc.tile ? n - from : t->rc.tile;
    float *e = t->m.e[l] + (uint64_t)r * n + from;
    memcpy(t->m.e_new[l] + (uint64_t)r * n + from, e, m * sizeof *e);
    if (model_has_residual(t, l, r))
        t->m.kept[l][r] = true;
}

static void hop1(sparse *p, float *sum, uint64_t *who, norms *q) {
    trial *t = p->t;
    const float *g = t->step.g[p->l] + (uint64_t)p->rank * p->n, *e = t->m.e[p->l] + (uint64_t)p->rank * p->n;
    float *e_new = t->m.e_new[p->l] + (uint64_t)p->rank * p->n;
    bool ef = model_has_residual(t, p->l, p->rank);
    p->hop = 1;
    memset(p->flag, 0, t->layer[p->l].tiles);
    for (uint64_t i = 0; i < p->n; i++) {
        p->x[i] = g[i] * t->step.scale[p->rank];
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
            float x = g[i] * t->step.scale[p->rank];
            sum[i] = sum[i] + x;
            who[tile] |= (uint64_t)!isfinite(g[i]) << p->rank;
            q->x[at] += (double)x * x;
            continue;
        }
        sum[i] = sum[i] + p->decoded[i];
        e_new[i] = p->s->feedback == TW_FEEDBACK_EF ? p->x[i] - p->decoded[i] : 0.0f;
        who[tile] |= (uint64_t)p->flag[tile] << p->rank;
        q->x[at] += (double)p->x[i] * p->x[i];
        q->e[at] += (double)(p->x[i] - p->decoded[i]) * (p->x[i] - p->decoded[i]);
    }
}

/* Of all owners: each its own tiles. */
static void hop2(sparse *p, const float *sum, const uint64_t *who, norms *q) {
    trial *t = p->t;
    float w = t->rc.redop == TW_AVG ? 1.0f / (float)t->ranks : 1.0f,
          *e_new = t->m.e_new[p->l] + (uint64_t)p->rank * p->n;
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
        e_new[i] = p->s->feedback == TW_FEEDBACK_EF ? p->x[i] - p->decoded[i] : 0.0f;
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
    uint8_t *bytes = calloc(n + tiles, 1);
    uint64_t *who = calloc(tiles, sizeof *who);
    double *squares = calloc(2 * all + 2 * tiles, sizeof *squares);
    p.entry = calloc(n, sizeof *p.entry);
    bool any = false;
    if (floats && bytes && who && squares && p.entry) {
        norms q = {squares, squares + all, squares + 2 * all, squares + 2 * all + tiles};
        p.x = floats;
        p.decoded = floats + n;
        p.keep = bytes;
        p.flag = bytes + n;
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
    free(p.entry);
}
