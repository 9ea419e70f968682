/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Gather over sim: nothing is lost where ops go by gather and by reduce-scatter in turn, the certificate, NaN policies, what
 * it sends, and one rounding instead of two. (tests/sim/property checks every bit.) */
#include <math.h>
#include <stdbool.h>
#include <thinwire/experimental.h>
#include "core/core.h"
#include "unit.h"

enum { P = 4, N = 9 * 4096 + 17, BIAS = 9, STEPS = 10 };

typedef struct world {
    tw_layer layers[3];
    tw_sim *sim;
    tw_comm *comm[P];
    tw_reducer *red[P];
    float in[P][N], out[P][N], e[P][N];
    uint16_t half_in[P][N], half_out[P][N];
    double gap[N]; /* outputs so far - exact results so far */
    tw_report report;
    unit_rng r;
} world;

static tw_status open_world(world *w, const char *rules, tw_dtype t, const tw_reducer_config *cfg) {
    tw_sim_config sc = TW_SIM_CONFIG_INIT;
    const tw_layer *l[P];
    const char *text[P];
    const tw_reducer_config *c[P];
    uint32_t n[P];
    memset(w, 0, sizeof *w);
    w->layers[0] = (tw_layer)TW_LAYER_DTYPE("w", N, t);
    w->layers[1] = (tw_layer)TW_LAYER("b", BIAS);
    w->layers[2] = (tw_layer)TW_LAYER("c", N);
    for (int r = 0; r < P; r++) {
        l[r] = w->layers;
        text[r] = rules;
        c[r] = cfg;
        n[r] = 3;
    }
    w->r = unit_seeded(rules);
    sc.ranks = P;
    tw_status s = tw_sim_create(NULL, &sc, &w->sim);
    if (s >= 0)
        s = tw_sim_comms(w->sim, NULL, w->comm);
    return s >= 0 ? tw_sim_reducers(w->sim, w->comm, l, n, text, c, w->red) : s;
}

static void close_world(world *w) {
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_destroy(w->red[r]), TW_OK);
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(w->comm[r]), TW_OK);
    CU_ASSERT_EQUAL(tw_sim_destroy(w->sim), TW_OK);
}

static void fill(world *w) {
    for (int r = 0; r < P; r++)
        for (uint32_t i = 0; i < N; i++) {
            w->in[r][i] = unit_float(&w->r) + 0.25f;
            if (w->layers[0].dtype == TW_BF16) {
                w->half_in[r][i] = tw_f32_to_bf16(w->in[r][i]);
                w->in[r][i] = tw_bf16_to_f32(w->half_in[r][i]);
            }
        }
}

/* One step of layer w, or of w and c with the same values. away: ranks that lack it. */
static tw_status step_of(world *w, uint64_t number, bool scatter, bool both, uint32_t away, bool discard) {
    static float other[P][N];
    bool half = w->layers[0].dtype == TW_BF16;
    tw_status s = TW_OK;
    for (int r = 0; r < P; r++) {
        void *in = half ? (void *)w->half_in[r] : w->in[r], *out = half ? (void *)w->half_out[r] : w->out[r];
        tw_piece piece[] = {TW_PIECE(0, 0, N, away >> r & 1 ? NULL : in, out), TW_PIECE(2, 0, N, w->in[r], other[r])};
        CU_ASSERT_EQUAL(tw_reducer_begin(w->red[r], number, NULL), TW_OK);
        s = scatter ? tw_reducer_post_reduce_scatter(w->red[r], piece, 1, NULL)
                    : tw_reducer_post(w->red[r], piece, both ? 2 : 1, NULL);
        if (s < 0)
            return s;
    }
    CU_ASSERT_EQUAL(tw_sim_run(w->sim), TW_OK);
    for (int r = 0; r < P; r++) {
        tw_report report = TW_REPORT_INIT;
        tw_status t = discard ? tw_reducer_discard(w->red[r]) : tw_reducer_end(w->red[r], &report);
        s = s < 0 ? s : t;
        CU_ASSERT(r == 0 || discard || report.error_bound == w->report.error_bound);
        w->report = report;
        CU_ASSERT_EQUAL(tw_reducer_residual(w->red[r], 0, w->e[r]), TW_OK);
        for (uint32_t i = 0; half && i < N; i++)
            w->out[r][i] = tw_bf16_to_f32(w->half_out[r][i]);
    }
    return s;
}

static int owner_of(uint32_t i) {
    return tw_owner("w", i / 4096, 10, P);
}

static void add_up(world *w, uint32_t away, double weight) {
    for (uint32_t i = 0; i < N; i++) {
        w->gap[i] += (double)w->out[owner_of(i)][i];
        for (int r = 0; r < P; r++)
            w->gap[i] -= away >> r & 1 ? 0.0 : weight * (double)w->in[r][i];
    }
}

/* ||outputs - exact||, and the same with what is held added. */
static void distances(const world *w, double weight, double *error, double *lost) {
    double error_sq = 0, lost_sq = 0;
    for (uint32_t i = 0; i < N; i++) {
        double d = w->gap[i];
        error_sq += d * d;
        for (int r = 0; r < P; r++)
            d += (r == owner_of(i) ? 1.0 : weight) * (double)w->e[r][i];
        lost_sq += d * d;
    }
    *error = sqrt(error_sq);
    *lost = sqrt(lost_sq);
}

/* Gather and reduce-scatter share residuals: each finds them as it wants them. */
static void nothing_is_lost_in_turn(void) {
    static const char *const rules[] = {"*=onebit+ef", "*=topk:density=0.05+ef", "*=quant:bits=4+ef"};
    static world w;
    for (uint32_t k = 0; k < 12; k++) {
        double weight = k % 2 ? 1.0 / P : 1.0, error, lost, worst = 0;
        tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
        cfg.redop = k % 2 ? TW_AVG : TW_SUM;
        cfg.algo = TW_ALGO_GATHER;
        CU_ASSERT_EQUAL_FATAL(open_world(&w, rules[k / 4], k / 2 % 2 ? TW_BF16 : TW_F32, &cfg), TW_OK);
        for (uint64_t step = 0; step < STEPS; step++) {
            bool scatter = step / 2 % 2 == 1; /* two by a gather, two by a reduce-scatter, ... */
            uint32_t away = step == 4 ? 2 : step == 7 ? 15 : 0;
            fill(&w);
            CU_ASSERT_EQUAL(step_of(&w, step, scatter, false, away, false), TW_OK);
            for (int r = 1; r < P && !scatter; r++)
                CU_ASSERT(!memcmp(w.out[0], w.out[r], sizeof w.out[0]));
            if (away != 15)
                add_up(&w, away, weight);
            distances(&w, weight, &error, &lost);
            CU_ASSERT(lost < 4e-6 * error); /* fp32 rounds, ten times */
            CU_ASSERT(error <= w.report.error_bound);
            worst = fmax(worst, w.report.error_bound / error);
        }
        printf("%s: bound / error at most %.3g\n", rules[k / 4], worst);
        CU_ASSERT(worst < (k / 2 % 2 ? 3.5 : 2.5)); /* what halves lose is bounded, not measured */
        close_world(&w);
    }
}

static void policies(void) {
    static world w;
    static const tw_nonfinite all[] = {TW_NONFINITE_PROPAGATE, TW_NONFINITE_SKIP, TW_NONFINITE_ERROR};
    for (int k = 0; k < 6; k++) {
        static float kept[P][N];
        tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
        cfg.nonfinite = all[k % 3];
        cfg.algo = TW_ALGO_GATHER;
        CU_ASSERT_EQUAL_FATAL(open_world(&w, k < 3 ? "*=onebit+ef" : "*=topk:density=0.05+ef", TW_F32, &cfg), TW_OK);
        fill(&w);
        CU_ASSERT_EQUAL(step_of(&w, 0, false, true, 0, false), TW_OK);
        memcpy(kept, w.e, sizeof kept);
        fill(&w);
        CU_ASSERT_EQUAL(step_of(&w, 1, false, true, 0, true), TW_OK); /* discarded */
        CU_ASSERT(memcmp(kept, w.e, sizeof kept) == 0);
        for (int r = 0; r < P; r++)
            for (uint32_t i = 0; i < N; i++)
                w.out[r][i] = 7.0f;
        w.in[2][5000] = INFINITY;
        CU_ASSERT_EQUAL(step_of(&w, 2, false, true, 0, false), k % 3 == 2 ? TW_ERR_NONFINITE : TW_OK);
        CU_ASSERT(w.report.bad_layer == 0 && w.report.bad_rank == 2);
        CU_ASSERT_EQUAL(w.report.verdict, k % 3 == 0 ? TW_VERDICT_OK : TW_VERDICT_SKIPPED);
        for (int r = 0; r < P; r++)
            for (uint32_t i = 0; i < N; i++) {
                bool same = unit_bits(w.e[r][i]) == unit_bits(kept[r][i]), in_tile = i / 4096 == 1;
                CU_ASSERT(k % 3 == 0 ? isnan(w.out[r][i]) == in_tile : w.out[r][i] == 7.0f);
                CU_ASSERT(same || (k % 3 == 0 && !in_tile));
            }
        double bound = w.report.error_bound;
        for (int r = 0; r < P; r++)
            for (uint32_t i = 0; i < N; i += 4096)
                w.in[r][i] = NAN; /* nothing new is held: what was stands, and so does its bound */
        CU_ASSERT_EQUAL(step_of(&w, 3, false, true, 0, false), k % 3 == 2 ? TW_ERR_NONFINITE : TW_OK);
        CU_ASSERT(w.report.error_bound >= bound && bound > 0);
        close_world(&w);
    }
}

/* Its payload, once to each peer; and one rounding, so the error is nu of the codec and not about twice that. */
static void one_rounding(void) {
    static world w;
    double error[2] = {0}, unused;
    for (int gather = 0; gather < 2; gather++) {
        tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
        cfg.algo = gather ? TW_ALGO_GATHER : TW_ALGO_SRA;
        CU_ASSERT_EQUAL_FATAL(open_world(&w, "*=quant:bits=4,rounding=stochastic", TW_F32, &cfg), TW_OK);
        for (uint32_t i = 0; i < P * N; i++) /* about normal, without a mean: so are averages */
            w.in[i % P][i / P] = unit_float(&w.r) + unit_float(&w.r) + unit_float(&w.r) + unit_float(&w.r);
        CU_ASSERT_EQUAL(step_of(&w, 0, false, false, 0, false), TW_OK);
        add_up(&w, 0, 1.0 / P);
        distances(&w, 1.0 / P, &error[gather], &unused);
        if (gather) { /* 9 tiles of 4096 values and one of 17, 4 bits each, a scale for 512; four owners, a frame each */
            uint64_t payload = 9 * (2048 + 8 * 4) + (16 + 4);
            CU_ASSERT_EQUAL(w.report.wire_bytes, (P - 1) * (payload + 4 * (32 + 16)));
        }
        close_world(&w);
    }
    double ratio = error[0] * error[0] / (error[1] * error[1]);
    printf("SRA's squared error is %.3g times that of a gather\n", ratio);
    CU_ASSERT(fabs(ratio / 2 - 1) < 0.2);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(nothing_is_lost_in_turn), UNIT_TEST(policies), UNIT_TEST(one_rounding)};
    return unit_main("gather", tests, UNIT_COUNT(tests));
}
