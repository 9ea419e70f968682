/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Trials of tw_reducer_post_reduce_scatter and tw_reducer_post_allgather: layers owned by name or pinned in shards, some of
 * them summed (by reduce-scatter and allreduce in turn, which share residuals), some gathered; a few steps with feedback,
 * NaN, absent ranks and discards. Outputs and residuals are compared with a plain model bit by bit, sums of outputs with
 * exact sums and the certificate. */
#include "trial.h"
#include "core/core.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 3, TILES = 12, OPS = 2 };

typedef struct one_layer {
    char name[16];
    uint32_t count;
    tw_dtype dtype;
    tw_spec spec;
    uint64_t pinned, shard, until; /* until: the step at which feedback ends; 0: never */
    bool gathered;
    bool held[MOST_RANKS], kept[MOST_RANKS];
    float *g, *e, *e_new; /* [rank * count + i] */
    float *out;           /* the model's [count] */
    uint8_t *mem;         /* outputs of all ranks, in the dtype */
    double *applied, *exact, *slack, *forgot;
    uint8_t *owner, *bad, *away; /* of tiles */
} one_layer;

typedef struct scene {
    trial *t;
    rng *r;
    int ranks;
    bool faulty, sweep; /* sweep: one layer, and inputs from a list */
    uint32_t n, tile;
    one_layer l[LAYERS];
    tw_reducer_config rc;
    uint64_t allocations, before[MOST_RANKS];
    tw_ctx *ctx;
    tw_sim *sim;
    tw_comm *comm[MOST_RANKS];
    tw_reducer *red[MOST_RANKS];
    /* this step */
    uint64_t number;
    bool scatter; /* else allreduce */
    bool absent[LAYERS][MOST_RANKS], bad[OPS], posted[OPS];
    bool used[OPS]; /* posted in some step */
    tw_report report[MOST_RANKS];
    tw_status status[MOST_RANKS];
} scene;

/* ---- drawing ---- */

static void draw_layer(scene *s, uint32_t k) {
    one_layer *l = &s->l[k];
    static const tw_dtype dtypes[] = {TW_F32, TW_F32, TW_BF16, TW_F16};
    snprintf(l->name, sizeof l->name, "%c%u.w", (char)('a' + rng_below(s->r, 20)), k);
    l->count = (uint32_t)rng_below(s->r, s->tile * TILES);
    if (rng_chance(s->r, 40))
        l->count = s->tile * (uint32_t)rng_range(s->r, 1, TILES - 1) + (uint32_t)rng_below(s->r, 3) - 1;
    l->dtype = dtypes[rng_below(s->r, 4)];
    l->gathered = rng_chance(s->r, 40);

    l->spec = trial_draw_spec(s->t);
    l->spec.rate = 0;
    bool can = l->spec.scale != TW_SCALE_UNBIASED;
    trial_draw_feedback(s->t, &l->spec, can ? 75 : 0);
    if (l->spec.rate) /* one that what is held can be divided by */
        l->spec.rate = 500000000u + 1000000u * (uint32_t)rng_below(s->r, 500);
    l->until = l->spec.feedback != TW_FEEDBACK_NONE && rng_chance(s->r, 20) ? rng_range(s->r, 1, 3) : 0;
    if (rng_chance(s->r, 60)) {
        l->pinned = rng_range(s->r, 1, (unsigned)s->ranks);
        l->shard = rng_chance(s->r, 80) ? s->tile * rng_range(s->r, 1, 4) : 0;
    }
}

/* Where a value lives, from the words of the interface. */
static int owner_of(const scene *s, const one_layer *l, uint32_t tile) {
    uint64_t tiles = (l->count + s->tile - 1) / s->tile;
    if (!l->pinned)
        return tw_owner(l->name, tile, tiles, s->ranks);
    uint64_t part = l->shard ? (uint64_t)tile * s->tile / l->shard : 0;
    part = part < (unsigned)s->ranks ? part : (unsigned)s->ranks - 1;
    return (int)((l->pinned - 1 + part) % (unsigned)s->ranks);
}

static bool make_layer(scene *s, one_layer *l) {
    size_t n = l->count + 1u, all = n * (unsigned)s->ranks;
    l->g = calloc(all, sizeof(float));
    l->e = calloc(all, sizeof(float));
    l->e_new = calloc(all, sizeof(float));
    l->out = calloc(n, sizeof(float));
    l->mem = calloc(all, sizeof(float));
    l->applied = calloc(n, sizeof(double));
    l->exact = calloc(n, sizeof(double));
    l->slack = calloc(n, sizeof(double));
    l->forgot = calloc(n, sizeof(double));
    l->owner = calloc(3, TILES + 1);
    if (!l->g || !l->e || !l->e_new || !l->out || !l->mem || !l->applied || !l->exact || !l->slack || !l->forgot ||
        !l->owner)
        return trial_fail(s->t, "out of memory");
    l->bad = l->owner + TILES + 1;
    l->away = l->bad + TILES + 1;
    for (uint32_t t = 0; t * s->tile < l->count; t++)
        l->owner[t] = (uint8_t)owner_of(s, l, t);
    return true;
}

static void sweep_step(scene *s) {
    one_layer *l = &s->l[0];
    for (uint64_t i = 0; i < (uint64_t)l->count * (unsigned)s->ranks; i++)
        l->g[i] = trial_adversary(s->r, s->number, l->dtype, i % l->count);
}

static void draw_step(scene *s) {
    if (s->sweep) {
        sweep_step(s);
        return;
    }
    s->scatter = rng_chance(s->r, 70);
    for (uint32_t k = 0; k < s->n; k++) {
        one_layer *l = &s->l[k];
        int exponent = (int)rng_below(s->r, 20) - 10;
        uint64_t n = (uint64_t)l->count * (unsigned)s->ranks;
        for (uint64_t i = 0; i < n; i++)
            l->g[i] = model_to_dtype(ldexpf((float)(rng_unit(s->r) * 2 - 1), exponent), l->dtype);
        if (n && rng_chance(s->r, 20))
            l->g[rng_below(s->r, n)] = rng_chance(s->r, 50) ? NAN : INFINITY;
        uint32_t chance = rng_chance(s->r, 15) ? rng_chance(s->r, 30) ? 100 : 40 : 0;
        for (int r = 0; r < s->ranks; r++)
            s->absent[k][r] = l->count && rng_chance(s->r, chance);
    }
}

/* ---- the model ---- */

static bool feeds_back(const scene *s, const one_layer *l) {
    return s->ranks > 1 && l->spec.feedback != TW_FEEDBACK_NONE && (!l->until || s->number < l->until);
}

/* What stays of what is lost. */
static float hold(const scene *s, const one_layer *l, float lost) {
    float beta = l->spec.feedback == TW_FEEDBACK_DECAY ? (float)((double)l->spec.rate / 1e9) : 1.0f;
    return feeds_back(s, l) ? lost * beta : 0.0f;
}

/* Its residual takes part, once more where feedback has ended. */
static bool takes_part(const scene *s, const one_layer *l, int r) {
    return feeds_back(s, l) || l->held[r];
}

static void keep(const scene *s, one_layer *l, int r, uint32_t at, uint32_t n) {
    bool nobodys = l->gathered && l->owner[at / s->tile] != r && !l->bad[at / s->tile];
    l->kept[r] = l->kept[r] || (takes_part(s, l, r) && !nobodys);
    memcpy(l->e_new + (size_t)r * l->count + at, l->e + (size_t)r * l->count + at, n * sizeof(float));
}

/* What rank r encodes of a tile; the rest goes to its slot. sum: what is to be sent, where it is not r's own input. */
static bool encode(const scene *s, const one_layer *l, const tw_spec *spec, int r, uint32_t at, uint32_t n,
                   const float *sum, bool stored, float *dec) {
    model_draw d = {l->name,     at / s->tile,   spec->seed, (uint32_t)s->number,
                    (uint32_t)r, stored ? 2 : 1, 0,          !stored && !s->scatter};
    float x[MOST_TILE] = {0};
    size_t slot = (size_t)r * l->count + at;
    for (uint32_t i = 0; i < n; i++) {
        x[i] = sum ? sum[i] : l->g[slot + i];
        if (takes_part(s, l, r))
            x[i] = x[i] + l->e[slot + i];
    }
    bool bad = model_codec(spec, &d, l->dtype, x, n, dec);
    for (uint32_t i = 0; i < n; i++) {
        dec[i] = stored ? model_to_dtype(dec[i], l->dtype) : dec[i];
        bad = bad || !isfinite(dec[i]);
        double sizes = fabs((double)x[i]) + fabs((double)dec[i]);
        l->slack[at + i] += isfinite(sizes) ? sizes * (s->ranks + 4) * 0x1p-22 + 1e-40 : 0;
        l->e_new[slot + i] = hold(s, l, x[i] - dec[i]);
    }
    return bad;
}

static void model_one_tile(scene *s, uint32_t k, uint32_t tile) {
    one_layer *l = &s->l[k];
    const tw_spec none = TW_SPEC_INIT, *spec = s->ranks > 1 ? &l->spec : &none;
    uint32_t at = tile * s->tile, n = l->count - at < s->tile ? l->count - at : s->tile;
    int own = l->owner[tile], present = 0;
    float sum[MOST_TILE], dec[MOST_TILE], scale = s->rc.redop == TW_AVG ? 1.0f / (float)s->ranks : 1.0f;
    for (int r = 0; r < s->ranks; r++) {
        if (s->absent[k][r] || (l->gathered && r != own)) {
            keep(s, l, r, at, n);
            continue;
        }
        if (r == own)
            memcpy(dec, l->g + (size_t)r * l->count + at, n * sizeof(float));
        else
            encode(s, l, spec, r, at, n, NULL, false, dec);
        for (uint32_t i = 0; i < n; i++)
            sum[i] = present ? sum[i] + dec[i] : dec[i];
        for (uint32_t i = 0; i < n; i++)
            l->slack[at + i] += isfinite(sum[i]) ? fabs((double)sum[i]) * 0x1p-22 : 0;
        present++;
    }
    l->away[tile] = present == 0;
    if (present == 0) {
        keep(s, l, own, at, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        sum[i] *= l->gathered ? 1.0f : scale;
    bool bad = encode(s, l, s->scatter && !l->gathered ? &none : spec, own, at, n, sum, true, l->out + at);
    l->bad[tile] = bad;
    for (int r = 0; bad && r < s->ranks; r++)
        keep(s, l, r, at, n);
    for (uint32_t i = 0; bad && takes_part(s, l, own) && i < n; i++)
        l->out[at + i] = NAN;
}

/* ---- sparse layers ---- */

static bool is_sparse(const scene *s, const one_layer *l) {
    return s->ranks > 1 && l->spec.codec == TW_CODEC_TOPK;
}

typedef struct sparse_work {
    float x[MOST_TILE * TILES], dec[MOST_TILE * TILES], sum[MOST_TILE * TILES];
    uint8_t zone[TILES + 1], flag[TILES + 1];
} sparse_work;

/* What rank r sends of w->x in a hop: others' tiles, or its own. Tiles that are not finite are flagged. */
static void sparse_hop(scene *s, uint32_t k, int r, uint32_t hop, sparse_work *w) {
    const one_layer *l = &s->l[k];
    for (uint32_t t = 0; t * s->tile < l->count; t++)
        w->zone[t] = (l->owner[t] == r) == (hop == 2) ? 1 + l->owner[t] : 0;
    model_sparse_part p = {.s = &l->spec, .name = l->name, .n = l->count, .tile = s->tile, .dtype = l->dtype};
    p.step = (uint32_t)s->number;
    p.hop = hop;
    p.rank = r;
    p.zone = w->zone;
    p.flag = w->flag;
    p.x = w->x;
    p.decoded = w->dec;
    for (uint32_t i = 0; i < l->count; i++)
        w->flag[i / s->tile] |= w->zone[i / s->tile] && !isfinite(w->x[i]);
    for (uint32_t i = 0; i < l->count; i++)
        w->x[i] = hop == 2 && w->flag[i / s->tile] ? 0 : w->x[i];
    if (!model_compress(&p))
        trial_fail(s->t, "out of memory");
}

static void add_slack(const scene *s, const one_layer *l, uint32_t i, double x, double y) {
    double sizes = fabs(x) + fabs(y);
    l->slack[i] += isfinite(sizes) ? sizes * (s->ranks + 4) * 0x1p-22 + 1e-40 : 0;
}

/* Rank r's part of the sums, and what it keeps of others' tiles. */
static void sparse_part(scene *s, uint32_t k, int r, sparse_work *w) {
    const one_layer *l = &s->l[k];
    size_t slot = (size_t)r * l->count;
    memset(w->flag, 0, sizeof w->flag);
    for (uint32_t i = 0; i < l->count; i++) {
        bool own = l->owner[i / s->tile] == r;
        w->x[i] = l->g[slot + i];
        w->x[i] = takes_part(s, l, r) && !own ? w->x[i] + l->e[slot + i] : w->x[i];
    }
    sparse_hop(s, k, r, 1, w);
    for (uint32_t i = 0; i < l->count; i++) {
        uint32_t tile = i / s->tile;
        bool own = l->owner[tile] == r;
        l->bad[tile] |= own ? !isfinite(w->x[i]) : w->flag[tile];
        w->sum[i] += own ? w->x[i] : w->dec[i];
        add_slack(s, l, i, (double)w->x[i], (double)w->sum[i]);
        if (!own)
            l->e_new[slot + i] = hold(s, l, w->x[i] - w->dec[i]);
    }
}

/* Owner r's tiles: what all have in the end, or r alone where sums stay at home. */
static void sparse_result(scene *s, uint32_t k, int r, sparse_work *w) {
    const one_layer *l = &s->l[k];
    size_t slot = (size_t)r * l->count;
    float scale = s->rc.redop == TW_AVG && !l->gathered ? 1.0f / (float)s->ranks : 1.0f;
    memcpy(w->flag, l->bad, TILES + 1);
    for (uint32_t i = 0; i < l->count; i++) {
        w->x[i] = w->sum[i] * scale;
        w->x[i] = takes_part(s, l, r) ? w->x[i] + l->e[slot + i] : w->x[i];
    }
    if (s->scatter && !l->gathered) {
        for (uint32_t i = 0; i < l->count; i++)
            w->dec[i] = model_to_dtype(w->x[i], l->dtype);
        for (uint32_t i = 0; i < l->count; i++)
            w->flag[i / s->tile] |= !isfinite(w->dec[i]);
    } else {
        sparse_hop(s, k, r, 2, w);
    }
    for (uint32_t i = 0; i < l->count; i++) {
        uint32_t tile = i / s->tile;
        if (l->owner[tile] != r)
            continue;
        l->bad[tile] |= w->flag[tile];
        l->out[i] = w->flag[tile] ? NAN : w->dec[i];
        l->e_new[slot + i] = hold(s, l, w->x[i] - w->dec[i]);
        add_slack(s, l, i, (double)w->x[i], (double)w->dec[i]);
    }
}

/* All tiles of a layer. */
static void model_sparse_layer(scene *s, uint32_t k) {
    one_layer *l = &s->l[k];
    static sparse_work w;
    bool any = false;
    memset(w.sum, 0, sizeof w.sum);
    for (int r = 0; r < s->ranks; r++) {
        any = any || !s->absent[k][r];
        for (uint32_t i = 0; i < l->count && l->gathered; i++)
            if (l->owner[i / s->tile] == r && !s->absent[k][r])
                w.sum[i] += l->g[(size_t)r * l->count + i];
        if (!l->gathered && !s->absent[k][r])
            sparse_part(s, k, r, &w);
    }
    for (uint32_t t = 0; t * s->tile < l->count; t++)
        l->away[t] = l->gathered ? s->absent[k][l->owner[t]] : !any;
    for (int r = 0; r < s->ranks; r++)
        if (l->gathered ? !s->absent[k][r] : any)
            sparse_result(s, k, r, &w);
    for (uint32_t t = 0, at = 0; at < l->count; t++, at += s->tile)
        for (int r = 0; r < s->ranks; r++)
            if (l->bad[t] || l->away[t] || (r != l->owner[t] && (l->gathered || s->absent[k][r])))
                keep(s, l, r, at, l->count - at < s->tile ? l->count - at : s->tile);
}

static void model_all(scene *s) {
    memset(s->bad, 0, sizeof s->bad);
    memset(s->posted, 0, sizeof s->posted);
    for (uint32_t k = 0; k < s->n; k++) {
        one_layer *l = &s->l[k];
        s->posted[l->gathered] = true;
        memset(l->bad, 0, TILES + 1);
        memset(l->kept, 0, sizeof l->kept);
        if (is_sparse(s, l))
            model_sparse_layer(s, k);
        for (uint32_t t = 0; t * s->tile < l->count; t++) {
            if (!is_sparse(s, l))
                model_one_tile(s, k, t);
            s->bad[l->gathered] = s->bad[l->gathered] || l->bad[t];
        }
    }
}

/* What decay forgot of value i: of a slot that was made anew its share to what was kept is known. */
static double forgotten(const scene *s, uint32_t k, uint32_t i) {
    const one_layer *l = &s->l[k];
    double beta = (double)(float)((double)l->spec.rate / 1e9), sum = 0;
    uint32_t tile = i / s->tile;
    for (int r = 0; r < s->ranks && feeds_back(s, l) && l->spec.rate; r++) {
        bool own = r == l->owner[tile];
        if (!own && (s->absent[k][r] || l->gathered))
            continue;
        double w = own || s->rc.redop == TW_SUM ? 1 : 1.0 / s->ranks;
        sum += w * (double)l->e_new[(size_t)r * l->count + i] * (1 - beta) / beta;
    }
    return sum;
}

static void model_add(scene *s, uint32_t k) {
    one_layer *l = &s->l[k];
    for (uint32_t i = 0; i < l->count; i++) {
        double exact = 0;
        uint32_t tile = i / s->tile;
        if (l->bad[tile] || l->away[tile])
            continue;
        for (int r = 0; r < s->ranks; r++)
            if (!s->absent[k][r] && (!l->gathered || r == l->owner[tile]))
                exact += (double)l->g[(size_t)r * l->count + i];
        l->exact[i] += s->rc.redop == TW_AVG && !l->gathered ? exact / s->ranks : exact;
        l->applied[i] += (double)l->out[i];
        l->forgot[i] += forgotten(s, k, i);
    }
    for (int r = 0; r < s->ranks; r++) {
        size_t at = (size_t)r * l->count;
        if (!takes_part(s, l, r))
            continue;
        memcpy(l->e + at, l->e_new + at, l->count * sizeof(float));
        l->held[r] = feeds_back(s, l) || l->kept[r];
    }
}

/* ---- running ---- */

static bool holds_own(const scene *s, const one_layer *l, int r, uint32_t at, uint32_t n) {
    bool any = false;
    for (uint32_t t = at / s->tile; t <= (at + n - 1) / s->tile; t++)
        any = any || l->owner[t] == r;
    return any;
}

/* A layer in pieces cut anywhere. Inputs are made in the dtype beside outputs, which begin as 0xa5. */
static uint32_t pieces_of(scene *s, uint32_t k, int r, tw_piece *p, uint8_t *in) {
    one_layer *l = &s->l[k];
    size_t size = tw_dtype_size(l->dtype);
    uint8_t *out = l->mem + (size_t)r * l->count * size;
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->count; i++) {
        float x = l->g[(size_t)r * l->count + i];
        uint16_t half = isnan(x) ? (l->dtype == TW_F16 ? 0x7e00 : 0x7fc0) : 0;
        if (l->dtype != TW_F32)
            half = half ? half : model_half_bits(x, l->dtype);
        memcpy(in + i * size, l->dtype == TW_F32 ? (void *)&x : (void *)&half, size);
    }
    memset(out, 0xa5, l->count * size);
    for (uint32_t at = 0; at < l->count;) {
        uint32_t m = rng_chance(s->r, 50) ? l->count - at : (uint32_t)rng_range(s->r, 1, l->count - at);
        m = n + 1 == 4 ? l->count - at : m;
        bool looked_at = !l->gathered || holds_own(s, l, r, at, m) || rng_chance(s->r, 50);
        p[n++] = (tw_piece)TW_PIECE(k, at, m, s->absent[k][r] || !looked_at ? NULL : in + at * size, out + at * size);
        at += m;
    }
    return n;
}

static uint8_t *post_one(scene *s, int r, int op) {
    tw_piece piece[4 * LAYERS];
    uint32_t n = 0;
    uint8_t *in = malloc((size_t)s->n * s->tile * TILES * 4 + 1), *at = in;
    for (uint32_t k = 0; in && k < s->n; k++)
        if (s->l[k].gathered == (op == 1)) {
            n += pieces_of(s, k, r, piece + n, at);
            at += (size_t)s->tile * TILES * 4;
        }
    tw_status st = op == 1      ? tw_reducer_post_allgather(s->red[r], piece, n, NULL)
                   : s->scatter ? tw_reducer_post_reduce_scatter(s->red[r], piece, n, NULL)
                                : tw_reducer_post(s->red[r], piece, n, NULL);
    s->status[r] = s->status[r] < 0 ? s->status[r] : st;
    return in;
}

/* The other use of a layer is refused, and changes nothing. */
static void post_wrong(scene *s, int r, uint32_t k) {
    one_layer *l = &s->l[k];
    tw_piece p = TW_PIECE(k, 0, l->count, NULL, NULL);
    if (!s->used[l->gathered] || l->count == 0) /* without values there was no piece of it */
        return;
    tw_status st = l->gathered ? tw_reducer_post_reduce_scatter(s->red[r], &p, 1, NULL)
                               : tw_reducer_post_allgather(s->red[r], &p, 1, NULL);
    if (st != TW_ERR_ARG || !strstr(tw_last_error(), "before: it cannot be"))
        trial_fail(s->t, "layer '%s' was used for two things: %s", l->name, tw_status_name(st));
}

static void run_step(scene *s, uint64_t number, bool discard) {
    uint8_t *in[MOST_RANKS][OPS] = {{NULL}};
    for (int r = 0; r < s->ranks; r++) {
        s->report[r] = (tw_report)TW_REPORT_INIT;
        s->status[r] = tw_reducer_begin(s->red[r], number, NULL);
        if (number > 0 && !s->faulty && rng_chance(s->r, 20))
            post_wrong(s, r, (uint32_t)rng_below(s->r, s->n));
        for (int op = 0; op < OPS; op++)
            in[r][op] = s->posted[op] ? post_one(s, r, op) : NULL;
    }
    for (int op = 0; op < OPS; op++)
        s->used[op] = s->used[op] || s->posted[op];
    tw_sim_run(s->sim);
    for (int r = 0; r < s->ranks; r++) {
        tw_status st = discard ? tw_reducer_discard(s->red[r]) : tw_reducer_end(s->red[r], &s->report[r]);
        s->status[r] = s->status[r] < 0 ? s->status[r] : st;
    }
    for (int r = 0; r < s->ranks; r++)
        for (int op = 0; op < OPS; op++)
            free(in[r][op]);
}

/* ---- checking ---- */

static bool value_is(const uint8_t *p, float want, tw_dtype t) {
    uint32_t bits, word = 0;
    uint16_t half;
    memcpy(&word, p, tw_dtype_size(t));
    if (isnan(want))
        return t == TW_F32 ? (word & 0x7fffffffu) > 0x7f800000u : (word & 0x7fffu) > (t == TW_F16 ? 0x7c00u : 0x7f80u);
    half = t == TW_F32 ? 0 : model_half_bits(want, t);
    memcpy(&bits, &want, 4);
    return word == (t == TW_F32 ? bits : half);
}

static bool check_layer(scene *s, uint32_t k, int r, bool written) {
    one_layer *l = &s->l[k];
    size_t size = tw_dtype_size(l->dtype);
    const uint8_t *mem = l->mem + (size_t)r * l->count * size;
    uint64_t right = 0, left = 0, due = 0, spared = 0;
    for (uint32_t i = 0; i < l->count; i++) {
        uint32_t tile = i / s->tile, word = 0xa5a5a5a5u;
        bool mine = (l->gathered || !s->scatter || l->owner[tile] == r) && !l->away[tile];
        due += mine;
        bool untouched = memcmp(mem + i * size, &word, size) == 0;
        left += untouched;
        spared += untouched && !mine;
        right += mine && value_is(mem + i * size, l->out[i], l->dtype);
    }
    if (right == due && spared == l->count - due && (written || s->faulty))
        return true;
    if (left == l->count && (!written || s->faulty))
        return true;
    return trial_fail(s->t, "layer '%s', rank %d of %d: of %u values %llu are due, %llu right, %llu untouched", l->name,
                      r, s->ranks, l->count, (unsigned long long)due, (unsigned long long)right,
                      (unsigned long long)left);
}

static bool check_slots(scene *s, uint32_t k, int r) {
    one_layer *l = &s->l[k];
    float held[MOST_TILE * TILES];
    if (tw_reducer_residual(s->red[r], k, held) != TW_OK)
        return trial_fail(s->t, "residual: %s", tw_last_error());
    for (uint32_t i = 0; i < l->count; i++)
        if (memcmp(&held[i], &l->e[(size_t)r * l->count + i], 4) != 0 &&
            (held[i] != 0 || l->e[(size_t)r * l->count + i] != 0))
            return trial_fail(s->t, "layer '%s', value %u: rank %d of %d holds %g, the model %g", l->name, i, r,
                              s->ranks, (double)held[i], (double)l->e[(size_t)r * l->count + i]);
    return true;
}

/* Nothing is lost: outputs and what is held, by its weight, make up the exact sums. And the certificate says so. */
static bool check_sums(scene *s) {
    double error_sq = 0;
    for (uint32_t k = 0; k < s->n; k++) {
        one_layer *l = &s->l[k];
        for (uint32_t i = 0; i < l->count; i++) {
            double held = 0, off = l->applied[i] - l->exact[i], w = s->rc.redop == TW_AVG ? 1.0 / s->ranks : 1;
            error_sq += off * off;
            for (int r = 0; r < s->ranks; r++)
                held += l->e[(size_t)r * l->count + i] * (r == l->owner[i / s->tile] ? 1 : w);
            if (feeds_back(s, l) && !l->until && fabs(off + held + l->forgot[i]) > l->slack[i])
                return trial_fail(s->t, "layer '%s', value %u: %g is lost", l->name, i, off + held + l->forgot[i]);
        }
    }
    for (int r = 0; r < s->ranks; r++)
        if (s->report[r].error_bound != s->report[0].error_bound || s->report[r].uncertified)
            return trial_fail(s->t, "ranks 0 and %d have other bounds: %g and %g", r, s->report[0].error_bound,
                              s->report[r].error_bound);
    if (s->ranks > 1 && !(sqrt(error_sq) <= s->report[0].error_bound))
        return trial_fail(s->t, "the bound is %g, the error %g", s->report[0].error_bound, sqrt(error_sq));
    return true;
}

static bool check_rank(scene *s, int r, bool discard) {
    bool strict = s->rc.nonfinite != TW_NONFINITE_PROPAGATE, any = strict && (s->bad[0] || s->bad[1]);
    tw_status want = any && !discard && s->rc.nonfinite == TW_NONFINITE_ERROR ? TW_ERR_NONFINITE : TW_OK;
    uint64_t frames, bytes;
    if (s->status[r] != want && !s->faulty)
        return trial_fail(s->t, "rank %d: %s, not %s: %s", r, tw_status_name(s->status[r]), tw_status_name(want),
                          tw_last_error());
    tw_sim_counters(s->sim, r, &frames, &bytes);
    if (!s->faulty && !discard && bytes - s->before[r] != s->report[r].wire_bytes)
        return trial_fail(s->t, "rank %d reports %llu bytes, the network counted %llu", r,
                          (unsigned long long)s->report[r].wire_bytes, (unsigned long long)(bytes - s->before[r]));
    s->before[r] = bytes;
    for (uint32_t k = 0; k < s->n; k++)
        if (!check_layer(s, k, r, !strict || !s->bad[s->l[k].gathered]))
            return false;
    return true;
}

static bool try_step(scene *s, uint64_t number) {
    bool discard = !s->sweep && rng_chance(s->r, 10), failed = false;
    s->number = number;
    draw_step(s);
    model_all(s);
    run_step(s, number, discard);
    for (int r = 0; r < s->ranks; r++) {
        failed = failed || s->status[r] < 0;
        if (!check_rank(s, r, discard))
            return false;
    }
    if (s->faulty && failed)
        return false;
    bool strict = s->rc.nonfinite != TW_NONFINITE_PROPAGATE && (s->bad[0] || s->bad[1]),
         committed = !discard && !strict;
    for (uint32_t k = 0; k < s->n && committed; k++)
        model_add(s, k);
    for (uint32_t k = 0; k < s->n; k++)
        if (s->l[k].gathered || s->scatter)
            tally_other(s->l[k].gathered ? TALLY_POST_GATHER : TALLY_POST_SCATTER, &s->l[k].spec);
    for (uint32_t k = 0; k < s->n; k++)
        for (int r = 0; r < s->ranks; r++)
            if (!check_slots(s, k, r))
                return false;
    return !committed || check_sums(s);
}

/* ---- a scene ---- */

static bool open_scene(scene *s) {
    tw_sim_config net = TW_SIM_CONFIG_INIT;
    tw_ctx_config cc = TW_CTX_CONFIG_INIT;
    tw_layer list[LAYERS];
    const tw_layer *layers[MOST_RANKS];
    const char *texts[MOST_RANKS];
    const tw_reducer_config *configs[MOST_RANKS];
    uint32_t counts[MOST_RANKS];
    char rules[1200] = "";
    net.ranks = s->ranks;
    net.seed = rng_next(s->r);
    net.reorder = 0.3;
    net.jitter_s = 50e-6;
    *(rng_chance(s->r, 50) ? &net.loss : &net.corruption) = s->faulty ? 0.02 : 0;
    cc.alloc = count_alloc;
    cc.release = count_release;
    cc.alloc_arg = &s->allocations;
    cc.timeout_s = 1;
    for (uint32_t k = 0; k < s->n; k++) {
        one_layer *l = &s->l[k];
        char spec[160];
        tw_spec_format(&l->spec, spec, sizeof spec);
        snprintf(rules + strlen(rules), sizeof rules - strlen(rules), "%s%s=%s", k ? ";" : "", l->name, spec);
        if (l->until)
            snprintf(rules + strlen(rules), sizeof rules - strlen(rules), " until %llu then %.*s",
                     (unsigned long long)l->until, (int)(strchr(spec, '+') - spec), spec);
        list[k] = (tw_layer)TW_LAYER_DTYPE(l->name, l->count, l->dtype);
        list[k].pinned = l->pinned;
        list[k].shard = l->shard;
    }
    for (int r = 0; r < s->ranks; r++)
        layers[r] = list, texts[r] = rules, configs[r] = &s->rc, counts[r] = s->n;
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
        void *all[] = {l->g, l->e, l->e_new, l->out, l->mem, l->applied, l->exact, l->slack, l->forgot, l->owner};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
            free(all[i]);
    }
    if (s->allocations)
        trial_fail(s->t, "%llu allocations were not given back", (unsigned long long)s->allocations);
}

bool scatter_run(trial *t, uint64_t seed, int most_ranks) {
    static scene s;
    s = (scene){.t = t, .r = &t->rng, .rc = TW_REDUCER_CONFIG_INIT};
    t->rng = (rng){seed ^ UINT64_C(0x5ca77e12)};
    s.ranks = (int)rng_range(s.r, 1, rng_chance(s.r, 15) ? 24 : 6);
    s.ranks = s.ranks > most_ranks ? most_ranks : s.ranks;
    s.faulty = rng_chance(s.r, 15);
    s.n = (uint32_t)rng_range(s.r, 1, LAYERS);
    s.tile = 128u << rng_below(s.r, 3);
    s.rc.tile = t->rc.tile = s.tile;
    s.rc.redop = rng_chance(s.r, 70) ? TW_AVG : TW_SUM;
    s.rc.algo = TW_ALGO_SRA;
    s.rc.nonfinite = (tw_nonfinite)rng_range(s.r, 1, 3);
    s.rc.frame_bytes = rng_chance(s.r, 70) ? (uint32_t)rng_range(s.r, 64, 2000) & ~3u : 0;
    s.rc.in_flight = rng_chance(s.r, 70) ? (uint32_t)rng_range(s.r, 2, 5) : 0;
    s.rc.no_overlap = rng_chance(s.r, 15);
    bool ok = true;
    for (uint32_t k = 0; k < s.n; k++) {
        draw_layer(&s, k);
        ok = make_layer(&s, &s.l[k]) && ok;
    }
    ok = ok && open_scene(&s);
    for (uint64_t i = 0, steps = rng_range(s.r, 1, 4); ok && i < steps; i++)
        ok = try_step(&s, i);
    close_scene(&s);
    return !t->failed;
}

/* ---- the whole product, in order: sweep_all.c ---- */

/* How: 0 allreduce, 1 reduce-scatter, 2 allgather. */
bool scatter_sweep(trial *t, tw_spec spec, int ranks, tw_dtype dtype, uint32_t how) {
    static scene s;
    s = (scene){.t = t, .r = &t->rng, .rc = TW_REDUCER_CONFIG_INIT, .ranks = ranks, .sweep = true, .n = 1, .tile = 128};
    t->rng = (rng){(uint64_t)ranks << 8 | dtype << 4 | how};
    s.scatter = how == 1;
    s.rc.tile = t->rc.tile = s.tile;
    s.rc.redop = ranks % 2 ? TW_SUM : TW_AVG;
    s.rc.algo = TW_ALGO_SRA;
    s.rc.nonfinite = TW_NONFINITE_PROPAGATE;
    s.rc.frame_bytes = 600;
    s.l[0] = (one_layer){.name = "swept.w", .count = 9 * 128 + 17, .dtype = dtype, .spec = spec, .gathered = how == 2};
    bool ok = make_layer(&s, &s.l[0]) && open_scene(&s);
    for (uint64_t i = 0; ok && i < TRIAL_ADVERSARIES; i++) {
        ok = try_step(&s, i);
        if (!ok)
            printf("input: %s\n", trial_adversary_name(i));
    }
    close_scene(&s);
    return !t->failed;
}
