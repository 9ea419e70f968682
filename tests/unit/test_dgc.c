/* SPDX-License-Identifier: BSD-3-Clause
 *
 * dgc over sim: what is fed, sent, held and cleared makes up the means of momenta, by allreduces and reduce-scatters in turn;
 * phases, switches and refusals. (tests/sim/property checks every bit.) */
#include <math.h>
#include <thinwire/experimental.h>
#include "feedback/feedback.h"
#include "reducer/reducer.h"
#include "unit.h"

enum { MOST = 4, N = 9 * 4096 + 17, TILES = 10 };

typedef struct world {
    int size;
    tw_sim *sim;
    tw_comm *comm[MOST];
    tw_reducer *red[MOST];
    float in[MOST][N], out[MOST][N], e[MOST][N], fed[MOST][N];
    double gap[N]; /* outputs so far - means of momenta so far */
    tw_report report;
    unit_rng r;
} world;
static world w;

static void open_world(int size, const char *rules) {
    static const tw_layer layer = TW_LAYER("w", N);
    static const uint32_t one = 1;
    tw_sim_config sc = TW_SIM_CONFIG_INIT;
    const tw_layer *l[MOST];
    const char *text[MOST];
    const tw_reducer_config *c[MOST] = {NULL};
    uint32_t n[MOST];
    memset(&w, 0, sizeof w);
    w.size = size;
    w.r = unit_seeded(rules);
    for (int r = 0; r < size; r++) {
        l[r] = &layer;
        text[r] = rules;
        n[r] = one;
    }
    sc.ranks = size;
    CU_ASSERT_EQUAL_FATAL(tw_sim_create(NULL, &sc, &w.sim), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_sim_comms(w.sim, NULL, w.comm), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_sim_reducers(w.sim, w.comm, l, n, text, c, w.red), TW_OK);
}

static void close_world(void) {
    for (int r = 0; r < w.size; r++)
        CU_ASSERT_EQUAL(tw_reducer_destroy(w.red[r]), TW_OK);
    for (int r = 0; r < w.size; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(w.comm[r]), TW_OK);
    CU_ASSERT_EQUAL(tw_sim_destroy(w.sim), TW_OK);
}

static const float *momentum_of(int r) {
    const tw_layer_state *l = &w.red[r]->layer[0];
    return l->moves ? l->momentum[l->momentum_now] : NULL;
}

/* Gradients, and the momenta that they lead to under this factor (0: they themselves). */
static void fill(float factor) {
    for (int r = 0; r < w.size; r++) {
        const float *u = factor > 0 ? momentum_of(r) : NULL;
        for (uint32_t i = 0; i < N; i++)
            w.in[r][i] = unit_float(&w.r) * (i % 7 == 0 ? 4.0f : 1.0f) + 0.1f;
        tw_feedback_momentum(w.fed[r], u, w.in[r], 1.0f, factor, N);
    }
}

static void run_step(uint64_t number, bool scatter, bool discard) {
    for (int r = 0; r < w.size; r++) {
        tw_piece piece = TW_PIECE(0, 0, N, w.in[r], w.out[r]);
        CU_ASSERT_EQUAL(tw_reducer_begin(w.red[r], number, NULL), TW_OK);
        CU_ASSERT_EQUAL(scatter ? tw_reducer_post_reduce_scatter(w.red[r], &piece, 1, NULL)
                                : tw_reducer_post(w.red[r], &piece, 1, NULL),
                        TW_OK);
    }
    CU_ASSERT_EQUAL(tw_sim_run(w.sim), TW_OK);
    for (int r = 0; r < w.size; r++) {
        w.report = (tw_report)TW_REPORT_INIT;
        CU_ASSERT_EQUAL(discard ? tw_reducer_discard(w.red[r]) : tw_reducer_end(w.red[r], &w.report), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_residual(w.red[r], 0, w.e[r]), TW_OK);
    }
}

static int owner_of(uint32_t i) {
    return tw_owner("w", i / 4096, TILES, w.size);
}

/* Nothing is lost of what was fed; the certificate is about it. */
static void check_sums(void) {
    double lost = 0, error = 0;
    for (uint32_t i = 0; i < N; i++) {
        double held = 0;
        w.gap[i] += (double)w.out[owner_of(i)][i];
        for (int r = 0; r < w.size; r++) {
            w.gap[i] -= (double)w.fed[r][i] / w.size;
            held += (double)w.e[r][i] / (owner_of(i) == r ? 1 : w.size);
        }
        lost += (w.gap[i] + held) * (w.gap[i] + held);
        error += w.gap[i] * w.gap[i];
    }
    CU_ASSERT(sqrt(lost) < 1e-5 * sqrt(N));
    CU_ASSERT(sqrt(error) <= w.report.error_bound);
    CU_ASSERT(w.size == 1 || sqrt(error) > 0.3 * w.report.error_bound);
}

/* Momentum is that which was fed, but 0 where a rank sent something; all of it stays in own tiles. */
static void check_cleared(double density) {
    for (int r = 0; r < w.size; r++) {
        const float *u = momentum_of(r);
        uint32_t foreign = 0, cleared = 0, wrong = 0;
        CU_ASSERT_PTR_NOT_NULL_FATAL(u);
        for (uint32_t i = 0; i < N; i++) {
            bool own = owner_of(i) == r, same = unit_bits(u[i]) == unit_bits(w.fed[r][i]);
            foreign += !own;
            cleared += !own && u[i] == 0.0f;
            wrong += own ? !same : !same && unit_bits(u[i]) != 0;
        }
        CU_ASSERT_EQUAL(wrong, 0);
        CU_ASSERT(fabs((double)cleared - density * foreign) <= 1);
    }
}

static void momenta_are_sent_and_cleared(void) {
    open_world(4, "*=topk:density=0.01+dgc:momentum=0.9");
    for (uint64_t step = 0; step < 12; step++) {
        fill(0.9f);
        if (step == 5) { /* leaves all as it was */
            run_step(step, false, true);
            continue;
        }
        run_step(step, step % 3 == 1, false);
        check_sums();
        check_cleared(0.01);
    }
    close_world();
}

/* DGC's warm-up of the density; then another feedback, which forgets momentum, and back. */
static void phases_go_on(void) {
    open_world(
        3,
        "*=topk:density=0.25+dgc until 3 then topk:density=0.0625+dgc until 6 then topk:density=0.01+dgc until 8 then "
        "topk:density=0.01+ef until 10 then topk:density=0.01+dgc:momentum=0.5");
    for (uint64_t step = 0; step < 13; step++) {
        bool dgc = step < 8 || step >= 10;
        CU_ASSERT_EQUAL(momentum_of(0) != NULL, (step > 0 && step <= 8) || step > 10);
        fill(step < 8 ? 0.9f : step < 10 ? 0.0f : 0.5f);
        run_step(step, false, false);
        check_sums();
        if (dgc)
            check_cleared(step < 3 ? 0.25 : step < 6 ? 0.0625 : 0.01);
        if (step == 3) { /* the first step of a phase begins with the last one's momentum */
            double sq = 0;
            for (uint32_t i = 0; i < N; i++)
                sq += pow((double)w.fed[0][i] - (double)w.in[0][i], 2);
            CU_ASSERT(sqrt(sq) > 0.1 * sqrt(N));
        }
    }
    close_world();
}

/* Nothing is compressed there; but the optimizer counts on momentum. */
static void one_rank_has_momentum(void) {
    open_world(1, "*=topk:density=0.01+dgc");
    for (uint64_t step = 0; step < 5; step++) {
        fill(0.9f);
        if (step == 2)
            w.in[0][5000] = NAN; /* this tile's momentum stays */
        run_step(step, false, false);
        for (uint32_t i = 0; i < N; i++) {
            bool left = step == 2 && i / 4096 == 1;
            CU_ASSERT(left || unit_bits(w.out[0][i]) == unit_bits(w.fed[0][i]));
            CU_ASSERT(isfinite(momentum_of(0)[i]));
        }
    }
    close_world();
}

static void an_allgather_refuses(void) {
    tw_piece piece = TW_PIECE(0, 0, N, w.in[0], w.out[0]);
    open_world(2, "*=topk+dgc");
    for (int r = 0; r < 2; r++) {
        CU_ASSERT_EQUAL(tw_reducer_begin(w.red[r], 0, NULL), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_post_allgather(w.red[r], &piece, 1, NULL), TW_ERR_UNSUPPORTED);
        unit_has(tw_last_error(), "layer 'w': momentum under dgc is of what is summed");
        CU_ASSERT_EQUAL(tw_reducer_flush(w.red[r]), TW_OK);
    }
    CU_ASSERT_EQUAL(tw_sim_run(w.sim), TW_OK);
    for (int r = 0; r < 2; r++)
        CU_ASSERT_EQUAL(tw_reducer_end(w.red[r], NULL), TW_OK);
    close_world();
}

static void memory_is_told(void) {
    tw_memory with = TW_MEMORY_INIT, without = TW_MEMORY_INIT, real = TW_MEMORY_INIT;
    tw_layer layer = TW_LAYER("w", N);
    open_world(4, "*=topk+dgc");
    CU_ASSERT_EQUAL(tw_reducer_estimate(0, 4, &layer, 1, "*=topk+dgc", NULL, &with), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_estimate(0, 4, &layer, 1, "*=topk+ef", NULL, &without), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_memory(w.red[0], &real), TW_OK);
    CU_ASSERT_EQUAL(with.state_bytes - real.state_bytes, 0);
    CU_ASSERT(with.state_bytes - without.state_bytes >= 8 * (uint64_t)N);
    CU_ASSERT(with.state_bytes - without.state_bytes < 8 * (uint64_t)N + 256);
    close_world();
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(momenta_are_sent_and_cleared), UNIT_TEST(phases_go_on),
                                      UNIT_TEST(one_rank_has_momentum), UNIT_TEST(an_allgather_refuses),
                                      UNIT_TEST(memory_is_told)};
    return unit_main("dgc", tests, UNIT_COUNT(tests));
}
