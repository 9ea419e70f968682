/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What feedbacks are worth, in gradient descent through real collectives (sim): quadratics of condition 10, whose minima lie
 * apart on different ranks or in one place. Thresholds are ratios to a dense run. */
#include <math.h>
#include <thinwire/experimental.h>
#include "unit.h"

enum { P = 4, N = 8 * 128, TILE = 128 };

typedef struct problem {
    double apart, step, momentum; /* of minima, from their mean; of the optimizer: 0 where the feedback has it */
    uint64_t steps;
} problem;

static float curve[N], minimum[P][N], x[N], g[P][N], out[P][N];

/* f = mean over ranks of 1/2 sum curve (x - minimum)^2, less its least value. */
static double distance(void) {
    double f = 0;
    for (uint32_t i = 0; i < N; i++) {
        double mean = 0;
        for (int r = 0; r < P; r++)
            mean += (double)minimum[r][i] / P;
        f += 0.5 * (double)curve[i] * ((double)x[i] - mean) * ((double)x[i] - mean);
    }
    return f;
}

static void pose(const problem *p) {
    unit_rng r = unit_seeded("quadratics");
    for (uint32_t i = 0; i < N; i++) {
        double sum = 0;
        curve[i] = powf(10.0f, -unit_float(&r) * unit_float(&r));
        curve[i] = curve[i] > 1.0f ? 1.0f / curve[i] : curve[i];
        x[i] = 0.0f;
        for (int k = 0; k < P; k++)
            sum += minimum[k][i] = unit_float(&r) * (float)p->apart;
        for (int k = 0; k < P; k++)
            minimum[k][i] += 1.0f - (float)(sum / P);
    }
}

static void take_step(tw_sim *sim, tw_reducer *red[P], uint64_t number) {
    for (int r = 0; r < P; r++) {
        for (uint32_t i = 0; i < N; i++)
            g[r][i] = curve[i] * (x[i] - minimum[r][i]);
        CU_ASSERT_EQUAL(tw_reducer_begin(red[r], number, NULL), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_push(red[r], 0, g[r], out[r]), TW_OK);
    }
    CU_ASSERT_EQUAL(tw_sim_run(sim), TW_OK);
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_end(red[r], NULL), TW_OK);
}

/* f after so many steps, over f of the beginning. */
static double descend(const char *rules, const problem *p) {
    static const tw_layer layer = TW_LAYER("x", N);
    static float velocity[N];
    tw_sim_config sc = TW_SIM_CONFIG_INIT;
    tw_reducer_config rc = TW_REDUCER_CONFIG_INIT;
    const tw_layer *l[P];
    const char *text[P];
    const tw_reducer_config *c[P];
    uint32_t n[P];
    tw_sim *sim;
    tw_comm *comm[P];
    tw_reducer *red[P];
    rc.tile = TILE;
    sc.ranks = P;
    for (int r = 0; r < P; r++)
        l[r] = &layer, text[r] = rules, c[r] = &rc, n[r] = 1;
    CU_ASSERT_EQUAL_FATAL(tw_sim_create(NULL, &sc, &sim), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_sim_comms(sim, NULL, comm), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_sim_reducers(sim, comm, l, n, text, c, red), TW_OK);
    pose(p);
    memset(velocity, 0, sizeof velocity);
    double first = distance();
    for (uint64_t step = 0; step < p->steps; step++) {
        take_step(sim, red, step);
        for (uint32_t i = 0; i < N; i++) {
            velocity[i] = (float)p->momentum * velocity[i] + out[0][i];
            x[i] -= (float)p->step * velocity[i];
        }
    }
    double last = distance() / first;
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_destroy(red[r]), TW_OK);
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(comm[r]), TW_OK);
    CU_ASSERT_EQUAL(tw_sim_destroy(sim), TW_OK);
    printf("  %-44s apart %g, momentum %g: %.3g of f is left\n", rules, p->apart, p->momentum, last);
    return last;
}

/* Minima that lie apart: what a rank always drops is a bias. Feedback takes most of it away, decay a part. */
static void feedback_unbiases(void) {
    const problem p = {.apart = 30, .step = 0.02, .steps = 2000};
    double dense = descend("*=none", &p), none = descend("*=topk:density=0.05", &p);
    double ef = descend("*=topk:density=0.05+ef", &p), decay = descend("*=topk:density=0.05+decay:beta=0.9", &p);
    CU_ASSERT(ef < 0.1 * none);
    CU_ASSERT(ef < 0.2 * decay);
    CU_ASSERT(decay < 0.5 * none);
    CU_ASSERT(dense < ef);
}

/* One minimum: all get there, since nothing is dropped for ever where gradients vanish. */
static void nothing_stalls_at_one_minimum(void) {
    const problem p = {.apart = 0, .step = 0.1, .steps = 1000};
    double dense = descend("*=none", &p);
    CU_ASSERT(descend("*=topk:density=0.05+ef", &p) < 10 * dense + 1e-9);
    CU_ASSERT(descend("*=topk:density=0.05+decay:beta=0.9", &p) < 10 * dense + 1e-9);
}

/* Momentum before selection saves steps as a dense optimizer's does. */
static void dgc_has_momentum(void) {
    const problem plain = {.apart = 0, .step = 0.01, .steps = 300},
                  heavy = {.apart = 0, .step = 0.01, .momentum = 0.9, .steps = 300};
    double dense = descend("*=none", &plain), fast = descend("*=none", &heavy);
    double ef = descend("*=topk:density=0.1+ef", &plain), dgc = descend("*=topk:density=0.1+dgc:momentum=0.9", &plain);
    CU_ASSERT(fast < 0.1 * dense);
    CU_ASSERT(dgc < 0.1 * dense);
    CU_ASSERT(dgc < 0.1 * ef);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(feedback_unbiases), UNIT_TEST(nothing_stalls_at_one_minimum),
                                      UNIT_TEST(dgc_has_momentum)};
    return unit_main("convergence", tests, UNIT_COUNT(tests));
}
