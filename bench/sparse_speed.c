/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Speed of sparse layers on one core, stage by stage: a program of the tree, since the library does not export them (`make
 * bench/sparse_speed`). One layer and two ranks, the second of which owns all of it: the first selects and encodes, the
 * second adds up, answers and writes the output. Each stage takes turns with a loop that makes the same passes over memory
 * and next to no arithmetic. Usage: sparse_speed [PASSES [ISA [SPEC ...]]] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "../tools/bench_codec.h"
#include "exec/stages.h"

enum { VALUES = 16 << 20, TILE = 4096, MOST_PASSES = 200, WARMUP = 3 };
enum { ENCODE, OWNER, DECODE, STAGES };
static const char *const stages[STAGES] = {"encode", "owner", "decode"};

/* Of this thread: on a busy machine the rest is somebody else's. */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static float *in, *out, *e[2][2]; /* residuals of each rank: read from one, written to the other */
static uint8_t *spare;

/* ---- a rank ---- */

typedef struct rank {
    tw_exec x;
    tw_exec_layer layer;
    tw_exec_piece piece;
    uint32_t piece0[2], cursor[2];
} rank;

static void *get(tw_ctx *ctx, uint64_t bytes) {
    void *p = tw_alloc(ctx, bytes);
    if (!p) {
        fprintf(stderr, "sparse_speed: %s\n", tw_last_error());
        exit(1);
    }
    return p;
}

static void make_exec(rank *r, tw_ctx *ctx, const tw_plan *p, const tw_spec *s, const char *isa) {
    tw_exec *x = &r->x;
    uint64_t tiles = tw_layer_tiles(VALUES, TILE);
    *r = (rank){.piece = {0, 0, VALUES, in, out}, .piece0 = {0, 1}};
    r->layer = (tw_exec_layer){.name = "layer", .count = VALUES, .dtype = TW_F32, .spec = *s, .result = *s};
    r->layer.cert = get(ctx, tiles * sizeof *r->layer.cert);
    r->layer.cert_new = get(ctx, tiles * sizeof *r->layer.cert);
    *x = (tw_exec){.ctx = ctx, .plan = p, .layer = &r->layer, .piece = &r->piece, .piece0 = r->piece0, .nlayer = 1};
    x->npiece = 1;
    x->k = isa ? tw_kernels_named(isa) : tw_kernels_best();
    x->cursor = r->cursor;
    x->tile = get(ctx, 4 * TW_MAX_TILE * sizeof *x->tile);
    x->part_of = get(ctx, sizeof *x->part_of);
    x->picks = get(ctx, sizeof *x->picks);
    x->reader = get(ctx, 2 * sizeof *x->reader);
    x->aside = get(ctx, tw_plan_aside(p) * sizeof *x->aside);
    x->aside_place = get(ctx, tw_plan_aside(p) * sizeof *x->aside_place);
    x->kept = get(ctx, (p->kept_room + 1) * sizeof *x->kept);
    x->kept_place = get(ctx, (p->kept_room + 1) * sizeof *x->kept_place);
    x->kept_of = get(ctx, p->part_tiles * sizeof *x->kept_of);
    x->flagged = get(ctx, p->flag_words * sizeof *x->flagged);
    x->sums = get(ctx, (p->nrun + 1) * sizeof *x->sums);
    x->arena = tw_alloc_raw(ctx, p->arena_bytes);
    x->stamp.plan = p->hash;
    x->input_scale = 1.0f;
    x->redop = TW_AVG;
    x->nan_layer = x->bad_layer = x->bad_rank = -1;
}

static tw_plan *make_plan(tw_ctx *ctx, const tw_spec *s, int me) {
    tw_plan_layer l = {.name = "layer", .count = VALUES, .tiles = tw_layer_tiles(VALUES, TILE), .dtype = TW_F32};
    tw_plan_piece piece = {0, 0, VALUES};
    tw_plan_in plan = {.me = me, .size = 2, .layer = &l, .nlayer = 1, .piece = &piece, .npiece = 1, .tile = TILE};
    tw_plan *p = NULL;
    l.spec = *s;
    l.pinned = 2;
    plan.algo = TW_ALGO_SRA;
    plan.redop = TW_AVG;
    if (tw_plan_build(ctx, &plan, &p) < 0) {
        fprintf(stderr, "sparse_speed: %s\n", tw_last_error());
        exit(1);
    }
    return p;
}

static void begin_step(rank *r, int me, int step) {
    r->layer.e = r->layer.spec.feedback == TW_FEEDBACK_EF ? e[me][step % 2] : NULL;
    r->layer.e_new = r->layer.e ? e[me][!(step % 2)] : NULL;
    memset(r->x.flagged, 0, r->x.plan->flag_words * sizeof *r->x.flagged);
    memset(r->x.part_of, 0, sizeof *r->x.part_of);
}

/* Every action of this kind and hop (0: any), or that of one frame. Returns the seconds. */
static double compute(rank *r, tw_kernel kernel, uint32_t hop, int64_t frame) {
    double begin = now();
    for (uint32_t i = 0; i < r->x.plan->naction; i++) {
        const tw_action *a = &r->x.plan->action[i];
        uint32_t len;
        if (a->act == TW_A_COMPUTE && a->kernel == (uint32_t)kernel && (!hop || a->hop == hop) &&
            (frame < 0 || a->frame == frame))
            (void)tw_exec_run(&r->x, a, &len);
    }
    return now() - begin;
}

static void hand_over(const rank *from, rank *to, uint32_t frame) {
    const uint8_t *sent = from->x.arena + from->x.plan->frame[frame].hop1_at;
    uint32_t len;
    memcpy(&len, sent + 24, sizeof len);
    memcpy(to->x.arena + to->x.plan->frame[frame].arrive_at, sent, len);
}

/* Slots of frames are used again: each is added up before the next one is made. */
static void one_step(rank *first, rank *owner, double t[STAGES]) {
    t[ENCODE] = compute(first, TW_K_SELECT, 1, -1);
    t[OWNER] = 0;
    for (uint32_t f = 0; f < first->x.plan->nframe; f++) {
        t[ENCODE] += compute(first, TW_K_ENCODE, 0, f);
        hand_over(first, owner, f);
        t[OWNER] += compute(owner, TW_K_REDUCE, 0, f);
    }
    t[OWNER] += compute(owner, TW_K_SELECT, 2, -1);
    t[OWNER] += compute(owner, TW_K_ANSWER, 0, -1);
    t[DECODE] = compute(owner, TW_K_DECODE, 0, -1);
}

/* ---- measuring ---- */

static void bound(int stage, bool feedback, int step, unsigned variant) {
    skeleton s = {.kind = stage == DECODE ? SKELETON_WRITE : SKELETON_ENCODE, .payload_bits = 1, .n = VALUES, .g = in};
    s.feedback = feedback;
    s.e = e[stage == OWNER][step % 2];
    s.out = e[stage == OWNER][!(step % 2)];
    s.payload = spare;
    s.y = out;
    skeleton_run(&s, variant);
}

static unsigned best_variant(int stage, bool feedback, const char *isa) {
    unsigned best = 0, n = skeleton_variants(isa);
    double least = INFINITY, t[3];
    for (unsigned v = 0; v < n; v++) {
        for (int i = 0; i < 3; i++) {
            double begin = now();
            bound(stage, feedback, i, v);
            t[i] = now() - begin;
        }
        double mid = median(t, 3);
        best = mid < least ? v : best;
        least = mid < least ? mid : least;
    }
    return best;
}

static void run_spec(tw_ctx *ctx, const char *text, int passes, const char *isa) {
    static double ratio[STAGES][MOST_PASSES], speed[STAGES][MOST_PASSES];
    tw_spec s;
    rank r[2];
    unsigned variant[STAGES];
    if (tw_spec_parse(text, &s) < 0) {
        fprintf(stderr, "sparse_speed: %s\n", tw_last_error());
        exit(2);
    }
    bool feedback = s.feedback == TW_FEEDBACK_EF;
    for (int me = 0; me < 2; me++)
        make_exec(&r[me], ctx, make_plan(ctx, &s, me), &s, isa);
    for (int stage = 0; stage < STAGES; stage++)
        variant[stage] = best_variant(stage, feedback, r[0].x.k->name);
    for (int me = 0; me < 2; me++)
        memset(e[me][0], 0, VALUES * sizeof *in);
    for (int i = 0; i < WARMUP + passes; i++) {
        double loop[STAGES], t[STAGES];
        for (int stage = 0; stage < STAGES; stage++) {
            double begin = now();
            bound(stage, feedback, i, variant[stage]);
            loop[stage] = now() - begin;
        }
        for (int me = 0; me < 2; me++)
            begin_step(&r[me], me, i);
        one_step(&r[0], &r[1], t);
        for (int stage = 0; stage < STAGES && i >= WARMUP; stage++) {
            ratio[stage][i - WARMUP] = loop[stage] / t[stage];
            speed[stage][i - WARMUP] = VALUES * sizeof(float) * 1e-9 / t[stage];
        }
    }
    printf("%-7s %-34s", r[0].x.k->name, text);
    for (int stage = 0; stage < STAGES; stage++)
        printf(" %8.2f %8.3f", median(speed[stage], passes), median(ratio[stage], passes));
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    static const char *const usual[] = {"topk+ef",
                                        "topk:density=0.001+ef",
                                        "topk:density=0.1+ef",
                                        "topk:select=threshold+ef",
                                        "topk:select=group+ef",
                                        "topk:values=(onebit:group=4096)+ef",
                                        "topk"};
    int passes = argc > 1 ? atoi(argv[1]) : 15;
    const char *isa = argc > 2 ? argv[2] : NULL;
    tw_ctx *ctx;
    uint64_t state = 1;
    if (passes < 1 || passes > MOST_PASSES || tw_ctx_resolve(NULL, &ctx) < 0 || (isa && !tw_kernels_named(isa)))
        return 2;
    in = get(ctx, VALUES * sizeof *in);
    out = get(ctx, VALUES * sizeof *out);
    for (int i = 0; i < 4; i++)
        e[i / 2][i % 2] = get(ctx, VALUES * sizeof *in);
    spare = get(ctx, VALUES);
    for (uint32_t i = 0; i < VALUES; i++) {
        float sum = 0;
        for (int k = 0; k < 6; k++) {
            state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            sum += (float)(state >> 40) * 0x1p-24f - 0.5f;
        }
        in[i] = sum;
    }
    printf("# %u values; GB/s of them, and of a loop with the same reads and writes; medians of %d\n", VALUES, passes);
    printf("%-7s %-34s", "isa", "spec");
    for (int stage = 0; stage < STAGES; stage++)
        printf(" %8s %8s", stages[stage], "of loop");
    printf("\n");
    for (int i = 3; i < argc; i++)
        run_spec(ctx, argv[i], passes, isa);
    for (size_t i = 0; i < TW_ARRAY_LEN(usual) && argc <= 3; i++)
        run_spec(ctx, usual[i], passes, isa);
    return 0;
}
