/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Native sums of payloads over sim: when AUTO takes one, nothing is lost where ops go by SRA and by a sum in turn, the
 * certificate, NaN policies, absent layers, discards, what is refused. (tests/sim/property checks every bit.) */
#include <math.h>
#include <stdbool.h>
#include <thinwire/experimental.h>
#include "unit.h"

enum { P = 4, N = 9 * 4096 + 17, BIAS = 9, STEPS = 12 };
static const tw_layer layers[] = {TW_LAYER("w", N), TW_LAYER("b", BIAS)};

typedef struct world {
    tw_sim *sim;
    tw_comm *comm[P];
    tw_reducer *red[P];
    float in[P][N], out[P][N], bias[P][BIAS], e[P][N];
    double gap[N]; /* outputs so far - exact results so far */
    tw_report report;
    unit_rng r;
} world;

static tw_status open_world(world *w, const char *rules, const tw_reducer_config *cfg) {
    tw_sim_config sc = TW_SIM_CONFIG_INIT;
    const tw_layer *l[P];
    const char *t[P];
    const tw_reducer_config *c[P];
    uint32_t n[P];
    for (int r = 0; r < P; r++) {
        l[r] = layers;
        t[r] = rules;
        c[r] = cfg;
        n[r] = 2;
    }
    memset(w, 0, sizeof *w);
    w->r = unit_seeded(rules);
    sc.ranks = P;
    tw_status s = tw_sim_create(NULL, &sc, &w->sim);
    if (s >= 0)
        s = tw_sim_comms(w->sim, NULL, w->comm);
    return s >= 0 ? tw_sim_reducers(w->sim, w->comm, l, n, t, c, w->red) : s;
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
        for (uint32_t i = 0; i < N; i++)
            w->in[r][i] = unit_float(&w->r) + 0.25f;
}

/* One step of layer w; with the bias, whose codec adds nothing, in the same op if `mixed`. away: ranks that lack it. */
static tw_status step_of(world *w, uint64_t number, bool mixed, uint32_t away, bool discard) {
    tw_status s = TW_OK;
    for (int r = 0; r < P; r++) {
        tw_piece piece[2] = {TW_PIECE(0, 0, N, away >> r & 1 ? NULL : w->in[r], w->out[r]),
                             TW_PIECE(1, 0, BIAS, w->bias[r], w->bias[r])};
        CU_ASSERT_EQUAL(tw_reducer_begin(w->red[r], number, NULL), TW_OK);
        s = tw_reducer_post(w->red[r], piece, mixed ? 2 : 1, NULL);
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
    }
    return s;
}

static uint64_t native_bytes(const world *w) {
    tw_comm_stats stats = TW_COMM_STATS_INIT;
    CU_ASSERT_EQUAL(tw_comm_get_stats(w->comm[0], &stats), TW_OK);
    return stats.native_bytes;
}

static void add_up(world *w, uint32_t away, double weight) {
    for (uint32_t i = 0; i < N; i++) {
        w->gap[i] += (double)w->out[0][i];
        for (int r = 0; r < P; r++)
            w->gap[i] -= away >> r & 1 ? 0.0 : weight * (double)w->in[r][i];
    }
}

/* ||outputs - exact||, and the same with what is held added. */
static void distances(const world *w, double weight, double *error, double *lost) {
    double error_sq = 0, lost_sq = 0;
    for (uint32_t i = 0; i < N; i++) {
        int owner = tw_owner("w", i / 4096, 10, P);
        double d = w->gap[i];
        error_sq += d * d;
        for (int r = 0; r < P; r++)
            d += (r == owner ? 1.0 : weight) * (double)w->e[r][i];
        lost_sq += d * d;
    }
    *error = sqrt(error_sq);
    *lost = sqrt(lost_sq);
}

/* SRA and native sums in turn share residuals: each finds them as it wants them. */
static void nothing_is_lost_in_turn(void) {
    static world w;
    for (int average = 0; average < 2; average++) {
        double weight = average ? 1.0 / P : 1.0, error, lost, worst = 0;
        tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
        cfg.redop = average ? TW_AVG : TW_SUM;
        CU_ASSERT_EQUAL_FATAL(open_world(&w, "w=randk:density=0.1+ef; b=none", &cfg), TW_OK);
        for (uint64_t step = 0; step < STEPS; step++) {
            bool mixed = step / 2 % 2 == 0; /* two by SRA, two by a sum, ... */
            uint32_t away = step == 5 ? 2 : step == 7 ? 15 : 0;
            uint64_t before = native_bytes(&w);
            fill(&w);
            CU_ASSERT_EQUAL(step_of(&w, step, mixed, away, false), TW_OK);
            CU_ASSERT_EQUAL(native_bytes(&w) > before, !mixed);
            CU_ASSERT_EQUAL(w.report.uncertified, 0);
            if (away != 15)
                add_up(&w, away, weight);
            distances(&w, weight, &error, &lost);
            CU_ASSERT(lost < 1e-6 * error);
            CU_ASSERT(error <= w.report.error_bound);
            worst = fmax(worst, w.report.error_bound / error);
        }
        printf("%s: bound / error at most %.3g\n", average ? "averages" : "sums", worst);
        CU_ASSERT(worst < 2.5);
        close_world(&w);
    }
}

/* By sums alone, of a codec that is right on average: what is lost adds up, and is certified. */
static void without_feedback(void) {
    static world w;
    double error, lost;
    CU_ASSERT_EQUAL_FATAL(open_world(&w, "w=randk:density=0.2,scale=unbiased; b=none", NULL), TW_OK);
    for (uint64_t step = 0; step < 4; step++) {
        fill(&w);
        CU_ASSERT_EQUAL(step_of(&w, step, step == 2, 0, false), TW_OK);
        add_up(&w, 0, 1.0 / P);
        distances(&w, 1.0 / P, &error, &lost);
        CU_ASSERT(error <= w.report.error_bound);
    }
    close_world(&w);
}

/* AUTO: fewer bytes decide, and those are what was sent. */
static void auto_takes_the_shorter_way(void) {
    static world w;
    CU_ASSERT_EQUAL_FATAL(open_world(&w, "*=randk:density=0.0001", NULL), TW_OK);
    for (int r = 0; r < P; r++) { /* one tile of one value: the digest alone is longer than frames */
        tw_piece one = TW_PIECE(1, 0, BIAS, w.bias[r], w.bias[r]);
        CU_ASSERT_EQUAL(tw_reducer_begin(w.red[r], 0, NULL), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_post(w.red[r], &one, 1, NULL), TW_OK);
    }
    CU_ASSERT_EQUAL(tw_sim_run(w.sim), TW_OK);
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_end(w.red[r], NULL), TW_OK);
    CU_ASSERT_EQUAL(native_bytes(&w), 0);
    CU_ASSERT_EQUAL(step_of(&w, 1, false, 0, false), TW_OK);
    /* 10 values, 5 notes, and the digest of 32: 2 (P - 1) / P of them */
    CU_ASSERT_EQUAL(w.report.wire_bytes,
                    4 * 2 * (P - 1) * (10 + 5) / P + 4 * 2 * (P - 1) * 32 / P + (4 * 2 * 3 * 15 % P != 0));
    close_world(&w);
}

static void policies(void) {
    static world w;
    static const tw_nonfinite all[] = {TW_NONFINITE_PROPAGATE, TW_NONFINITE_SKIP, TW_NONFINITE_ERROR};
    for (int k = 0; k < 3; k++) {
        static float kept[P][N];
        tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
        cfg.nonfinite = all[k];
        cfg.algo = TW_ALGO_NATIVE;
        CU_ASSERT_EQUAL_FATAL(open_world(&w, "*=randk:density=0.1+ef", &cfg), TW_OK);
        fill(&w);
        CU_ASSERT_EQUAL(step_of(&w, 0, true, 0, false), TW_OK);
        memcpy(kept, w.e, sizeof kept);
        fill(&w);
        CU_ASSERT_EQUAL(step_of(&w, 1, true, 0, true), TW_OK); /* discarded */
        CU_ASSERT(memcmp(kept, w.e, sizeof kept) == 0);
        for (int r = 0; r < P; r++)
            for (uint32_t i = 0; i < N; i++)
                w.out[r][i] = 7.0f;
        w.in[2][5000] = INFINITY;
        CU_ASSERT_EQUAL(step_of(&w, 2, true, 0, false), k == 2 ? TW_ERR_NONFINITE : TW_OK);
        CU_ASSERT(w.report.bad_layer == 0 && w.report.bad_rank == 2);
        CU_ASSERT_EQUAL(w.report.verdict, k == 0 ? TW_VERDICT_OK : TW_VERDICT_SKIPPED);
        for (int r = 0; r < P; r++)
            for (uint32_t i = 0; i < N; i++) {
                bool same = unit_bits(w.e[r][i]) == unit_bits(kept[r][i]), in_tile = i / 4096 == 1;
                CU_ASSERT(k == 0 ? isnan(w.out[r][i]) == in_tile : w.out[r][i] == 7.0f);
                CU_ASSERT(same || (k == 0 && !in_tile));
            }
        double bound = w.report.error_bound;
        for (int r = 0; r < P; r++)
            for (uint32_t i = 0; i < N; i += 4096)
                w.in[r][i] = NAN; /* nothing new is held: what was stands, and so does its bound */
        CU_ASSERT_EQUAL(step_of(&w, 3, true, 0, false), k == 2 ? TW_ERR_NONFINITE : TW_OK);
        CU_ASSERT(w.report.error_bound >= bound && bound > 0);
        close_world(&w);
    }
}

static void what_does_not_add_is_refused(void) {
    static world w;
    tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
    cfg.algo = TW_ALGO_NATIVE;
    CU_ASSERT_EQUAL_FATAL(open_world(&w, "w=randk+ef; b=none", &cfg), TW_OK);
    CU_ASSERT_EQUAL(step_of(&w, 0, true, 0, false), TW_ERR_UNSUPPORTED);
    unit_has(tw_last_error(), "layer 'w'");
    unit_has(tw_last_error(), "no native sum");
    close_world(&w);
}

/* A reduce-scatter has no native sum to ask for: the same as by SRA, whatever the codec. */
static void other_collectives_go_by_frames(void) {
    static world w;
    static float by_sra[P][N];
    tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
    for (int k = 0; k < 2; k++) {
        cfg.algo = k ? TW_ALGO_NATIVE : TW_ALGO_SRA;
        CU_ASSERT_EQUAL_FATAL(open_world(&w, "*=onebit+ef", &cfg), TW_OK);
        fill(&w);
        for (int r = 0; r < P; r++) {
            tw_piece piece = TW_PIECE(0, 0, N, w.in[r], w.out[r]);
            CU_ASSERT_EQUAL(tw_reducer_begin(w.red[r], 0, NULL), TW_OK);
            CU_ASSERT_EQUAL(tw_reducer_post_reduce_scatter(w.red[r], &piece, 1, NULL), TW_OK);
        }
        CU_ASSERT_EQUAL(tw_sim_run(w.sim), TW_OK);
        for (int r = 0; r < P; r++)
            CU_ASSERT_EQUAL(tw_reducer_end(w.red[r], NULL), TW_OK);
        CU_ASSERT_EQUAL(native_bytes(&w), 0);
        CU_ASSERT(!k || !memcmp(by_sra, w.out, sizeof by_sra));
        memcpy(by_sra, w.out, sizeof by_sra);
        close_world(&w);
    }
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(nothing_is_lost_in_turn),      UNIT_TEST(without_feedback),
        UNIT_TEST(auto_takes_the_shorter_way),   UNIT_TEST(policies),
        UNIT_TEST(what_does_not_add_is_refused), UNIT_TEST(other_collectives_go_by_frames)};
    return unit_main("linear", tests, UNIT_COUNT(tests));
}
