/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Layers with feedback, stage by stage, on one core, as a reducer's plan has them. Sparse ones: the first rank selects and
 * encodes, the second adds up, answers and writes the output. Matrices: the first rank makes both factors and the residual,
 * and decodes them; sums of ranks are not computed here. */
#include "bench_codec_whole.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TILE CODEC_TILE

typedef struct rank {
    tw_exec x;
    tw_exec_layer layer;
    tw_exec_piece piece;
    uint32_t piece0[2], cursor[2];
    float *e[2]; /* residuals: read from one, written to the other */
} rank;

struct ranks {
    tw_ctx *ctx;
    rank rank[2];
    bool matrix;
    int step;
    uint64_t bytes;
};

double whole_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static tw_plan *make_plan(tw_ctx *ctx, const tw_spec *s, uint64_t n, int me) {
    tw_plan_layer l = {.name = "layer", .count = n, .tiles = tw_layer_tiles(n, TILE), .dtype = TW_F32, .spec = *s};
    tw_plan_piece piece = {0, 0, n};
    tw_plan_in plan = {.me = me, .size = 2, .layer = &l, .nlayer = 1, .piece = &piece, .npiece = 1, .tile = TILE};
    tw_plan *p = NULL;
    l.pinned = 2; /* the second rank has all of it */
    l.cols = s->columns;
    plan.algo = tw_codec_is_lowrank(s) ? TW_ALGO_NATIVE : TW_ALGO_SRA;
    plan.redop = TW_AVG;
    return tw_plan_build(ctx, &plan, &p) < 0 ? NULL : p;
}

/* Of n items, counted in *all; NULL is an error unless there are none. */
static void *get(tw_ctx *ctx, uint64_t n, size_t item, bool *ok) {
    void *p = tw_alloc(ctx, (n + 1) * item);
    *ok = *ok && p;
    return p;
}

static bool make_room(tw_exec *x, tw_ctx *ctx, const tw_plan *p) {
    bool ok = true;
    x->tile = get(ctx, 4 * TW_MAX_TILE, sizeof *x->tile, &ok);
    x->part_of = get(ctx, 1, sizeof *x->part_of, &ok);
    x->picks = get(ctx, 1, sizeof *x->picks, &ok);
    x->reader = get(ctx, (uint64_t)p->size, sizeof *x->reader, &ok);
    x->aside = get(ctx, tw_plan_aside(p), sizeof *x->aside, &ok);
    x->aside_place = get(ctx, tw_plan_aside(p), sizeof *x->aside_place, &ok);
    x->kept = get(ctx, p->kept_room, sizeof *x->kept, &ok);
    x->kept_place = get(ctx, p->kept_room, sizeof *x->kept_place, &ok);
    x->kept_of = get(ctx, p->part_tiles, sizeof *x->kept_of, &ok);
    x->flagged = get(ctx, p->flag_words, sizeof *x->flagged, &ok);
    x->sums = get(ctx, p->nrun, sizeof *x->sums, &ok);
    x->rows = get(ctx, p->unit_values, sizeof *x->rows, &ok);
    x->arena = tw_alloc_raw(ctx, p->arena_bytes);
    return ok && x->arena;
}

static void free_room(tw_exec *x) {
    void *all[] = {x->tile,    x->part_of, x->picks, x->aside, x->aside_place, x->kept,  x->kept_place,
                   x->kept_of, x->flagged, x->sums,  x->rows,  x->arena,       x->reader};
    for (size_t i = 0; i < TW_ARRAY_LEN(all); i++)
        tw_free(x->ctx, all[i]);
}

static bool make_rank(rank *r, const whole_args *a, tw_ctx *ctx, const tw_spec *s, int me) {
    uint64_t n = a->m->n, tiles = tw_layer_tiles(n, TILE);
    tw_exec *x = &r->x;
    bool ok = true;
    *r = (rank){.piece = {0, 0, n, a->m->g, a->m->y}, .piece0 = {0, 1}};
    r->layer = (tw_exec_layer){.name = "layer", .count = n, .dtype = TW_F32, .spec = *s, .result = *s};
    r->layer.cert = get(ctx, tiles, sizeof *r->layer.cert, &ok);
    r->layer.cert_new = get(ctx, tiles, sizeof *r->layer.cert, &ok);
    for (int i = 0; i < 2; i++) {
        r->e[i] = me == 0 ? a->m->e[i] : codec_pages(n * sizeof(float));
        ok = ok && r->e[i];
    }
    *x = (tw_exec){.ctx = ctx, .layer = &r->layer, .piece = &r->piece, .piece0 = r->piece0, .nlayer = 1, .npiece = 1};
    x->plan = make_plan(ctx, s, n, me);
    x->k = a->isa ? tw_kernels_named(a->isa) : tw_kernels_best();
    x->cursor = r->cursor;
    if (!ok || !x->plan || !x->k || !make_room(x, ctx, x->plan))
        return false;
    memset(r->e[0], 0, n * sizeof(float));
    x->stamp.plan = x->plan->hash;
    x->input_scale = 1.0f;
    x->redop = TW_AVG;
    x->nan_layer = x->bad_layer = x->bad_rank = -1;
    return true;
}

ranks *ranks_make(const whole_args *a, const tw_spec *s) {
    ranks *r = calloc(1, sizeof *r);
    if (!r || tw_ctx_resolve(NULL, &r->ctx) < 0) {
        free(r);
        return NULL;
    }
    r->matrix = tw_codec_is_lowrank(s);
    for (int me = 0; me < (r->matrix ? 1 : 2); me++)
        if (!make_rank(&r->rank[me], a, r->ctx, s, me)) {
            ranks_free(r);
            return NULL;
        }
    return r;
}

void ranks_free(ranks *r) {
    for (int me = 0; r && me < 2; me++) {
        rank *k = &r->rank[me];
        if (!k->x.ctx)
            continue;
        free_room(&k->x);
        tw_plan_free((tw_plan *)k->x.plan);
        tw_free(r->ctx, k->layer.cert);
        tw_free(r->ctx, k->layer.cert_new);
        for (int i = 0; me == 1 && i < 2; i++)
            free(k->e[i]);
    }
    free(r);
}

const float *ranks_residual(const ranks *r, int me, bool next) {
    return r->rank[me].e[next ? !(r->step % 2) : r->step % 2];
}

uint64_t ranks_bytes(const ranks *r) {
    return r->bytes;
}

static void begin_step(rank *r, int step) {
    r->layer.e = r->e[step % 2];
    r->layer.e_new = r->e[!(step % 2)];
    r->layer.broken = r->layer.flagged = false;
    memset(r->x.flagged, 0, r->x.plan->flag_words * sizeof *r->x.flagged);
    memset(r->x.part_of, 0, sizeof *r->x.part_of);
}

/* Every action of this kind and hop (0: any), or that of one frame. Returns the seconds. */
static double compute(rank *r, tw_kernel kernel, uint32_t hop, int64_t frame) {
    double begin = whole_now();
    for (uint32_t i = 0; i < r->x.plan->naction; i++) {
        const tw_action *a = &r->x.plan->action[i];
        uint32_t len;
        if (a->act == TW_A_COMPUTE && a->kernel == (uint32_t)kernel && (!hop || a->hop == hop) &&
            (frame < 0 || a->frame == frame))
            (void)tw_exec_run(&r->x, a, &len);
    }
    return whole_now() - begin;
}

static uint32_t hand_over(const rank *from, rank *to, uint32_t frame) {
    const uint8_t *sent = from->x.arena + from->x.plan->frame[frame].hop1_at;
    uint32_t len;
    memcpy(&len, sent + 24, sizeof len);
    memcpy(to->x.arena + to->x.plan->frame[frame].arrive_at, sent, len);
    return len;
}

/* Slots of frames are used again: each is added up before the next one is made. */
static void sparse_step(ranks *r, double t[WHOLE_STAGES]) {
    rank *first = &r->rank[0], *owner = &r->rank[1];
    t[WHOLE_ENCODE] += compute(first, TW_K_SELECT, 1, -1);
    for (uint32_t f = 0; f < first->x.plan->nframe; f++) {
        t[WHOLE_ENCODE] += compute(first, TW_K_ENCODE, 0, f);
        r->bytes += hand_over(first, owner, f);
        t[WHOLE_OWNER] += compute(owner, TW_K_REDUCE, 0, f);
    }
    t[WHOLE_OWNER] += compute(owner, TW_K_SELECT, 2, -1);
    t[WHOLE_OWNER] += compute(owner, TW_K_ANSWER, 0, -1);
    t[WHOLE_DECODE] += compute(owner, TW_K_DECODE, 0, -1);
}

/* In the order of the plan; what it sums in between stays the first rank's own. */
static void matrix_step(ranks *r, double t[WHOLE_STAGES]) {
    rank *first = &r->rank[0];
    const tw_plan *p = first->x.plan;
    double begin = whole_now();
    for (uint32_t i = 0; i < p->naction; i++) {
        const tw_action *a = &p->action[i];
        uint32_t len;
        if (a->act == TW_A_COMPUTE &&
            (a->kernel == TW_K_START || a->kernel == TW_K_RIGHT || a->kernel == TW_K_ORTHO || a->kernel == TW_K_LEFT))
            (void)tw_exec_run(&first->x, a, &len);
    }
    t[WHOLE_ENCODE] += whole_now() - begin;
    r->bytes = p->matrix[0].rank * (p->matrix[0].rows + p->matrix[0].cols) * sizeof(float);
    t[WHOLE_DECODE] += compute(first, TW_K_DECODE, 0, -1);
}

void ranks_step(ranks *r, double t[WHOLE_STAGES]) {
    for (int me = 0; me < (r->matrix ? 1 : 2); me++)
        begin_step(&r->rank[me], r->step);
    r->bytes = 0;
    (r->matrix ? matrix_step : sparse_step)(r, t);
    r->step++;
}
