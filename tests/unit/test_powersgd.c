/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Layers as factors over sim: what they can hold comes out exactly, what they cannot comes later; odd shapes, what may share
 * an op, NaN, absence, bytes and memory, what is refused. (tests/sim/property compares with the iteration in double.) */
#include <math.h>
#include <stdbool.h>
#include <thinwire/experimental.h>
#include "reducer/reducer.h"
#include "reducer/stateless.h"
#include "unit.h"

/* A few of 2^-24, times the condition of products of random factors, now and then a thousand. */
#define FEW_ROUNDINGS 1e-3

enum { MOST = 5, ROWS = 61, COLS = 83, N = ROWS * COLS, LAYERS = 4 };

typedef struct world {
    int ranks;
    uint32_t n;
    tw_sim *sim;
    tw_comm *comm[MOST];
    tw_reducer *red[MOST];
    float in[LAYERS][MOST][N], out[LAYERS][MOST][N];
    double mean[LAYERS][N];
    tw_report report;
    unit_rng r;
} world;

static tw_status open_world(world *w, int ranks, const tw_layer *layers, uint32_t n, const char *rules,
                            const tw_reducer_config *cfg) {
    tw_sim_config sc = TW_SIM_CONFIG_INIT;
    const tw_layer *l[MOST];
    const char *t[MOST];
    const tw_reducer_config *c[MOST];
    uint32_t counts[MOST];
    memset(w, 0, sizeof *w);
    w->r = unit_seeded(rules);
    w->ranks = sc.ranks = ranks;
    w->n = n;
    for (int r = 0; r < ranks; r++)
        l[r] = layers, t[r] = rules, c[r] = cfg, counts[r] = n;
    tw_status s = tw_sim_create(NULL, &sc, &w->sim);
    if (s >= 0)
        s = tw_sim_comms(w->sim, NULL, w->comm);
    return s >= 0 ? tw_sim_reducers(w->sim, w->comm, l, counts, t, c, w->red) : s;
}

static void close_world(world *w) {
    for (int r = 0; r < w->ranks; r++)
        CU_ASSERT_EQUAL(tw_reducer_destroy(w->red[r]), TW_OK);
    for (int r = 0; r < w->ranks; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(w->comm[r]), TW_OK);
    CU_ASSERT_EQUAL(tw_sim_destroy(w->sim), TW_OK);
}

/* away: ranks that lack layer 0. */
static tw_status step_of(world *w, uint64_t number, uint32_t away, bool discard) {
    tw_status s = TW_OK;
    for (int r = 0; r < w->ranks; r++) {
        CU_ASSERT_EQUAL(tw_reducer_begin(w->red[r], number, NULL), TW_OK);
        for (uint32_t l = 0; l < w->n; l++) {
            tw_status t = tw_reducer_push(w->red[r], l, l == 0 && away >> r & 1 ? NULL : w->in[l][r], w->out[l][r]);
            s = s < 0 ? s : t;
        }
    }
    CU_ASSERT_EQUAL(tw_sim_run(w->sim), TW_OK);
    for (int r = 0; r < w->ranks; r++) {
        tw_report report = TW_REPORT_INIT;
        tw_status t = discard ? tw_reducer_discard(w->red[r]) : tw_reducer_end(w->red[r], &report);
        s = s < 0 ? s : t;
        CU_ASSERT(r == 0 || discard || report.error_bound == w->report.error_bound);
        w->report = report;
    }
    return s;
}

/* Of rank k: the same rows everywhere if `shared`, as gradients of one batch's parts about have them. */
static void fill_rank(world *w, uint32_t l, uint32_t rows, uint32_t cols, uint32_t k, bool shared) {
    static float u[ROWS * 8], v[8 * COLS];
    memset(w->mean[l], 0, sizeof w->mean[l]);
    for (int r = 0; r < w->ranks; r++) {
        for (uint32_t i = 0; i < rows * k; i++)
            u[i] = unit_float(&w->r);
        for (uint32_t i = 0; i < k * cols && (r == 0 || !shared); i++)
            v[i] = unit_float(&w->r);
        for (uint32_t i = 0; i < rows * cols; i++) {
            float x = 0;
            for (uint32_t j = 0; j < k; j++)
                x += u[i / cols * k + j] * v[j * cols + i % cols];
            w->in[l][r][i] = x;
            w->mean[l][i] += (double)x / w->ranks;
        }
    }
}

static double norm(const double *x, uint32_t n) {
    double sq = 0;
    for (uint32_t i = 0; i < n; i++)
        sq += x[i] * x[i];
    return sqrt(sq);
}

/* ||out - exact||, relative, on rank 0; the others have the same bits. */
static double off(const world *w, uint32_t l, uint32_t n) {
    static double d[N];
    for (int r = 1; r < w->ranks; r++)
        CU_ASSERT(memcmp(w->out[l][0], w->out[l][r], n * sizeof(float)) == 0);
    for (uint32_t i = 0; i < n; i++)
        d[i] = (double)w->out[l][0][i] - w->mean[l][i];
    return norm(d, n) / norm(w->mean[l], n);
}

static void low_rank_comes_out_exactly(void) {
    static world w;
    static const tw_layer layers[] = {TW_LAYER_MATRIX("w", ROWS, COLS, TW_F32)};
    static const char *const rules[] = {"*=powersgd:rank=4+ef", "*=powersgd:rank=4,iterations=3,warm_start=0",
                                        "*=powersgd:rank=7+ef"};
    for (int ranks = 2; ranks <= MOST; ranks += 3)
        for (int k = 0; k < 3; k++) {
            CU_ASSERT_EQUAL_FATAL(open_world(&w, ranks, layers, 1, rules[k], NULL), TW_OK);
            for (uint64_t step = 0; step < 3; step++) {
                fill_rank(&w, 0, ROWS, COLS, 4, true);
                CU_ASSERT_EQUAL(step_of(&w, step, 0, false), TW_OK);
                CU_ASSERT(off(&w, 0, N) < FEW_ROUNDINGS);
            }
            close_world(&w);
        }
}

/* What does not fit into a step's factors comes later: the mean of outputs goes to the mean of inputs, as 1/steps. */
static void feedback_makes_up_for_it(void) {
    static world w;
    static double sum[N];
    static const tw_layer layers[] = {TW_LAYER_MATRIX("w", ROWS, COLS, TW_F32)};
    double after[2] = {0, 0};
    enum { STEPS = 64 };
    CU_ASSERT_EQUAL_FATAL(open_world(&w, 4, layers, 1, "*=powersgd:rank=4+ef", NULL), TW_OK);
    fill_rank(&w, 0, ROWS, COLS, 4, false); /* the mean is of rank 16 */
    memset(sum, 0, sizeof sum);
    for (uint64_t step = 0; step < STEPS; step++) {
        CU_ASSERT_EQUAL(step_of(&w, step, 0, false), TW_OK);
        for (uint32_t i = 0; i < N; i++)
            sum[i] += (double)w.out[0][0][i] - w.mean[0][i];
        double error = norm(sum, N), share = error / norm(w.mean[0], N) / (double)(step + 1);
        CU_ASSERT(error <= w.report.error_bound);
        CU_ASSERT(w.report.error_bound < 2.5 * error);
        if (step + 1 == STEPS / 4 || step + 1 == STEPS)
            after[step + 1 == STEPS] = share;
    }
    printf("mean output off by %.3g after %d steps, %.3g after %d\n", after[0], STEPS / 4, after[1], STEPS);
    CU_ASSERT(after[1] < 0.35 * after[0] && after[1] < 0.1);
    close_world(&w);
}

/* From the last step's factor a matrix that stays is found better from step to step; from a random one it is not. */
static void warm_starts_pay(void) {
    static world w;
    static const tw_layer layers[] = {TW_LAYER_MATRIX("w", ROWS, COLS, TW_F32)};
    double at[2] = {0};
    for (int warm = 0; warm < 2; warm++) {
        CU_ASSERT_EQUAL_FATAL(
            open_world(&w, 2, layers, 1, warm ? "*=powersgd:rank=2" : "*=powersgd:rank=2,warm_start=0", NULL), TW_OK);
        fill_rank(&w, 0, ROWS, COLS, 8, false);
        for (uint64_t step = 0; step < 30; step++)
            CU_ASSERT_EQUAL(step_of(&w, step, 0, false), TW_OK);
        at[warm] = off(&w, 0, N);
        close_world(&w);
    }
    printf("step 30: off by %.3g from random factors, %.3g from the last ones\n", at[0], at[1]);
    CU_ASSERT(at[1] < 0.97 * at[0]);
}

/* Vectors and short matrices go as they are; so does everything on one rank. */
static void what_has_no_factors_is_exact(void) {
    static world w;
    static const tw_layer layers[] = {TW_LAYER_MATRIX("w", ROWS, COLS, TW_F32), TW_LAYER("b", 7),
                                      TW_LAYER_MATRIX("one", 1, 1, TW_F32), TW_LAYER_MATRIX("thin", 4, COLS, TW_F32)};
    static const uint32_t n[] = {N, 7, 1, 4 * COLS};
    for (int ranks = 1; ranks <= 4; ranks += 3) {
        CU_ASSERT_EQUAL_FATAL(open_world(&w, ranks, layers, LAYERS, "*=powersgd:rank=4+ef", NULL), TW_OK);
        fill_rank(&w, 0, ROWS, COLS, 8, false);
        for (uint32_t l = 1; l < LAYERS; l++)
            fill_rank(&w, l, 1, n[l], 1, false);
        CU_ASSERT_EQUAL(step_of(&w, 0, 0, false), TW_OK);
        for (uint32_t l = ranks > 1; l < LAYERS; l++)
            CU_ASSERT(off(&w, l, n[l]) < 1e-6);
        for (uint32_t l = 0; l < LAYERS; l++) {
            tw_layer_report y = TW_LAYER_REPORT_INIT;
            CU_ASSERT_EQUAL(tw_reducer_layer_report(w.red[0], l, &y), TW_OK);
            CU_ASSERT(ranks > 1 || memcmp(w.out[l][0], w.in[l][0], n[l] * sizeof(float)) == 0);
            CU_ASSERT((l == 0 && ranks > 1) == (y.residual_norm > 0));
        }
        close_world(&w);
    }
}

/* Bytes: both factors, the notes, the digest; the estimate of memory. */
static void bytes_are_those_of_the_factors(void) {
    static world w;
    static const tw_layer layers[] = {TW_LAYER_MATRIX("w", ROWS, COLS, TW_F32), TW_LAYER("b", 9)};
    tw_memory guess = TW_MEMORY_INIT, real = TW_MEMORY_INIT;
    const char *rules = "*=powersgd:rank=3,iterations=2+ef";
    CU_ASSERT_EQUAL_FATAL(open_world(&w, 4, layers, 2, rules, NULL), TW_OK);
    fill_rank(&w, 0, ROWS, COLS, 8, false);
    CU_ASSERT_EQUAL(step_of(&w, 0, 0, false), TW_OK);
    uint64_t first = 4 * (9 + 3 * COLS), right = 4 * 3 * COLS, left = 4 * 3 * ROWS, notes = 4 * 2 * 5, digest = 128;
    double want = 1.5 * (double)(first + right + 2 * left + notes + digest);
    CU_ASSERT(fabs((double)w.report.wire_bytes - want) <= 5);
    CU_ASSERT_EQUAL(tw_reducer_estimate(3, 4, layers, 2, rules, NULL, &guess), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_memory(w.red[3], &real), TW_OK);
    CU_ASSERT_EQUAL(guess.state_bytes, real.state_bytes);
    CU_ASSERT_EQUAL(guess.frame_bytes, real.frame_bytes);
    close_world(&w);
}

/* NaN takes the layer as a whole, and changes neither residual nor factor; absence and discards likewise. */
static void bad_steps_change_nothing(void) {
    static world w;
    static float e[MOST][N], left[MOST][4 * ROWS];
    static const tw_layer layers[] = {TW_LAYER_MATRIX("w", ROWS, COLS, TW_F32)};
    static const tw_nonfinite all[] = {TW_NONFINITE_PROPAGATE, TW_NONFINITE_SKIP, TW_NONFINITE_ERROR};
    for (int k = 0; k < 3; k++) {
        tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
        cfg.nonfinite = all[k];
        CU_ASSERT_EQUAL_FATAL(open_world(&w, 3, layers, 1, "*=powersgd:rank=4+ef", &cfg), TW_OK);
        fill_rank(&w, 0, ROWS, COLS, 8, false);
        CU_ASSERT_EQUAL(step_of(&w, 0, 0, false), TW_OK);
        for (int r = 0; r < 3; r++) {
            const tw_layer_state *y = &w.red[r]->layer[0];
            CU_ASSERT_EQUAL(tw_reducer_residual(w.red[r], 0, e[r]), TW_OK);
            memcpy(left[r], y->left[y->left_now], sizeof left[r]);
            CU_ASSERT(memcmp(left[0], left[r], sizeof left[r]) == 0);
        }
        double bound = w.report.error_bound;
        for (uint64_t step = 1; step < 4; step++) { /* discarded; nowhere; Inf on rank 2 */
            for (int r = 0; r < 3; r++)
                for (uint32_t i = 0; i < N; i++)
                    w.out[0][r][i] = 7.0f;
            w.in[0][2][5000] = step == 3 ? INFINITY : 1.0f;
            tw_status s = step_of(&w, step, step == 2 ? 7 : 0, step == 1);
            CU_ASSERT_EQUAL(s, step == 3 && k == 2 ? TW_ERR_NONFINITE : TW_OK);
            CU_ASSERT(step == 1 || w.report.error_bound == bound);
            for (int r = 0; r < 3; r++) {
                static float now[N];
                const tw_layer_state *y = &w.red[r]->layer[0];
                CU_ASSERT_EQUAL(tw_reducer_residual(w.red[r], 0, now), TW_OK);
                CU_ASSERT(memcmp(e[r], now, sizeof now) == 0);
                CU_ASSERT(memcmp(left[r], y->left[y->left_now], sizeof left[r]) == 0);
                for (uint32_t i = 0; i < N && step > 1; i++)
                    CU_ASSERT(step == 3 && k == 0 ? isnan(w.out[0][r][i]) : w.out[0][r][i] == 7.0f);
            }
        }
        CU_ASSERT(w.report.bad_layer == 0 && w.report.bad_rank == 2);
        CU_ASSERT_EQUAL(tw_reducer_reset(w.red[0]), TW_OK);
        CU_ASSERT(w.red[0]->layer[0].left_cols == 0);
        CU_ASSERT(tw_reducer_reset(w.red[1]) == TW_OK && tw_reducer_reset(w.red[2]) == TW_OK);
        close_world(&w);
    }
}

/* Zeros leave zeros as a factor, which would stay so for ever; the step after them begins anew. */
static void zeros_are_left_again(void) {
    static world w;
    static const tw_layer layers[] = {TW_LAYER_MATRIX("w", ROWS, COLS, TW_F32)};
    CU_ASSERT_EQUAL_FATAL(open_world(&w, 2, layers, 1, "*=powersgd:rank=4+ef", NULL), TW_OK);
    CU_ASSERT_EQUAL(step_of(&w, 0, 0, false), TW_OK);
    for (uint32_t i = 0; i < N; i++)
        CU_ASSERT(w.out[0][0][i] == 0.0f);
    fill_rank(&w, 0, ROWS, COLS, 1, true); /* three columns stay without use */
    CU_ASSERT_EQUAL(step_of(&w, 1, 0, false), TW_OK);
    CU_ASSERT(off(&w, 0, N) < FEW_ROUNDINGS);
    fill_rank(&w, 0, ROWS, COLS, 4, true);
    CU_ASSERT_EQUAL(step_of(&w, 2, 0, false), TW_OK);
    CU_ASSERT(off(&w, 0, N) < FEW_ROUNDINGS);
    close_world(&w);
}

static void buckets_keep_families_apart(void) {
    static world w;
    static const tw_layer layers[] = {TW_LAYER("a", 9), TW_LAYER_MATRIX("w", ROWS, COLS, TW_F32), TW_LAYER("b", 9),
                                      TW_LAYER_MATRIX("v", ROWS, COLS, TW_F32)};
    CU_ASSERT_EQUAL_FATAL(open_world(&w, 2, layers, 4, "w|v=powersgd; b=none; a=onebit+ef", NULL), TW_OK);
    CU_ASSERT_EQUAL(w.red[0]->nbucket, 2);
    CU_ASSERT_EQUAL(w.red[0]->bucket[0].n, 3);
    fill_rank(&w, 1, ROWS, COLS, 2, true);
    fill_rank(&w, 3, ROWS, COLS, 2, true);
    CU_ASSERT_EQUAL(step_of(&w, 0, 0, false), TW_OK);
    CU_ASSERT(off(&w, 1, N) < FEW_ROUNDINGS && off(&w, 3, N) < FEW_ROUNDINGS);
    close_world(&w);
}

static void what_cannot_be_is_refused(void) {
    static world w;
    static const tw_layer layers[] = {TW_LAYER_MATRIX("w", 100, 100, TW_F32), TW_LAYER("b", 300)};
    static float big[10000];
    CU_ASSERT_EQUAL_FATAL(open_world(&w, 2, layers, 2, "w=powersgd+ef; b=onebit", NULL), TW_OK);
    tw_piece both[] = {TW_PIECE(0, 0, 10000, big, NULL), TW_PIECE(1, 0, 300, big, NULL)};
    tw_piece part = TW_PIECE(0, 0, 4096, big, NULL);
    CU_ASSERT_EQUAL(tw_reducer_begin(w.red[0], 0, NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_post(w.red[0], both, 2, NULL), TW_ERR_UNSUPPORTED);
    unit_has(tw_last_error(), "layer 'w' under 'powersgd' and layer 'b' under 'onebit' cannot share an op");
    CU_ASSERT_EQUAL(tw_reducer_post(w.red[0], &part, 1, NULL), TW_ERR_UNSUPPORTED);
    unit_has(tw_last_error(), "an op must hold all of it, not 1 of 3 tiles");
    CU_ASSERT_EQUAL(tw_reducer_post_reduce_scatter(w.red[0], both, 1, NULL), TW_ERR_UNSUPPORTED);
    unit_has(tw_last_error(), "'powersgd' works in an allreduce");
    CU_ASSERT_EQUAL(tw_reducer_begin(w.red[1], 0, NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_flush(w.red[1]), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_discard(w.red[0]), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_discard(w.red[1]), TW_OK);
    close_world(&w);
    tw_layer odd = TW_LAYER_MATRIX("w", 10, 10, TW_F32);
    odd.columns = 7;
    CU_ASSERT_EQUAL(open_world(&w, 2, &odd, 1, NULL, NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "layer 'w': 100 values are no rows of 7");
    for (int r = 0; r < 2; r++)
        tw_comm_destroy(w.comm[r]);
    tw_sim_destroy(w.sim);
}

/* Without a reducer the spec has the columns. */
static void one_array(void) {
    static world w;
    tw_op *op[3];
    tw_spec s;
    CU_ASSERT_EQUAL_FATAL(open_world(&w, 3, NULL, 0, NULL, NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_spec_parse("powersgd:rank=4,columns=83", &s), TW_OK);
    fill_rank(&w, 0, ROWS, COLS, 4, true);
    for (int r = 0; r < 3; r++) {
        tw_call k = {.comm = w.comm[r],
                     .kind = TW_KIND_ALLREDUCE,
                     .spec = s,
                     .in = w.in[0][r],
                     .out = w.out[0][r],
                     .count = N,
                     .dtype = TW_F32,
                     .redop = TW_AVG};
        CU_ASSERT_EQUAL_FATAL(tw_call_start(&k, &op[r]), TW_OK);
    }
    CU_ASSERT_EQUAL(tw_sim_run(w.sim), TW_OK);
    for (int r = 0; r < 3; r++)
        CU_ASSERT_EQUAL(tw_call_wait(op[r]), TW_OK);
    CU_ASSERT(off(&w, 0, N) < FEW_ROUNDINGS);
    close_world(&w);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(low_rank_comes_out_exactly),
                                      UNIT_TEST(feedback_makes_up_for_it),
                                      UNIT_TEST(warm_starts_pay),
                                      UNIT_TEST(what_has_no_factors_is_exact),
                                      UNIT_TEST(bytes_are_those_of_the_factors),
                                      UNIT_TEST(bad_steps_change_nothing),
                                      UNIT_TEST(zeros_are_left_again),
                                      UNIT_TEST(buckets_keep_families_apart),
                                      UNIT_TEST(what_cannot_be_is_refused),
                                      UNIT_TEST(one_array)};
    return unit_main("powersgd", tests, UNIT_COUNT(tests));
}
