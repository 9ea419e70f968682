/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Several ops under way: an earlier one ends earlier, so that its outputs are written while the wire is still busy. */
#include "unit.h"

#include <stdlib.h>
#include <thinwire/experimental.h>

enum { P = 4, OPS = 8, TILES = 64, VALUES = TILES * 4096 };

typedef struct rank {
    tw_reducer *red;
    float *in, *out;
    tw_req *req[OPS];
} rank;

static void post_all(rank *k) {
    CU_ASSERT_EQUAL(tw_reducer_begin(k->red, 0, NULL), TW_OK);
    for (uint32_t i = 0; i < OPS; i++) {
        tw_piece p = TW_PIECE(i, 0, VALUES, k->in, k->out + (size_t)i * VALUES);
        CU_ASSERT_EQUAL_FATAL(tw_reducer_post(k->red, &p, 1, &k->req[i]), TW_OK);
    }
}

/* Virtual seconds until each op of rank 0 is done. */
static void times(double bandwidth, double values_per_s, double done[OPS]) {
    static const char *const names[OPS] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    tw_sim_config sc = TW_SIM_CONFIG_INIT;
    tw_layer layer[OPS];
    const tw_layer *layers[P] = {layer, layer, layer, layer};
    const uint32_t n[P] = {OPS, OPS, OPS, OPS};
    const char *rules[P] = {"*=onebit", "*=onebit", "*=onebit", "*=onebit"};
    tw_reducer_config small = TW_REDUCER_CONFIG_INIT;
    const tw_reducer_config *cfg[P] = {&small, &small, &small, &small};
    tw_sim *sim;
    tw_comm *comm[P];
    tw_reducer *red[P];
    rank k[P];
    for (int i = 0; i < OPS; i++)
        layer[i] = (tw_layer)TW_LAYER(names[i], VALUES);
    small.frame_bytes = 1088; /* 2 of the 16 tiles that a rank owns */
    sc.ranks = P, sc.bandwidth = bandwidth, sc.compute_values_per_s = values_per_s;
    CU_ASSERT_EQUAL_FATAL(tw_sim_create(NULL, &sc, &sim), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_sim_comms(sim, NULL, comm), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_sim_reducers(sim, comm, layers, n, rules, cfg, red), TW_OK);
    double start = tw_sim_now(sim);
    for (int r = 0; r < P; r++) {
        k[r] = (rank){.red = red[r], .in = malloc(VALUES * sizeof(float))};
        k[r].out = malloc(OPS * VALUES * sizeof(float));
        for (int i = 0; i < VALUES; i++)
            k[r].in[i] = (float)((i * 7 + r) % 13 - 6);
        post_all(&k[r]);
    }
    for (int i = 0; i < OPS; i++) {
        CU_ASSERT_EQUAL(tw_req_wait(k[0].req[i], 0), TW_OK);
        done[i] = tw_sim_now(sim) - start;
    }
    for (int r = 0; r < P; r++) {
        CU_ASSERT_EQUAL(tw_reducer_end(k[r].red, NULL), TW_OK);
        for (int i = 0; i < OPS; i++)
            CU_ASSERT_EQUAL(tw_req_free(k[r].req[i]), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_destroy(k[r].red), TW_OK);
        free(k[r].in);
        free(k[r].out);
    }
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(comm[r]), TW_OK);
    CU_ASSERT_EQUAL(tw_sim_destroy(sim), TW_OK);
}

static void check(double bandwidth, double values_per_s) {
    double done[OPS];
    times(bandwidth, values_per_s, done);
    for (int i = 0; i < OPS; i++) /* hop 1 of all goes first, which is half of the time; then they end one by one */
        if (done[i] > done[OPS - 1] * (i + OPS + 2) / (2 * OPS + 1)) {
            printf("op %d of %d is done after %g of %g s\n", i, OPS, done[i], done[OPS - 1]);
            CU_FAIL("an earlier op waits for later ones");
        }
}

static void test_the_codec_is_slow(void) {
    check(1e9, 100e6);
}

static void test_the_wire_is_slow(void) {
    check(10e6, 10e9);
}

static void test_both_are(void) {
    check(30e6, 800e6);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(test_the_codec_is_slow),
        UNIT_TEST(test_the_wire_is_slow),
        UNIT_TEST(test_both_are),
    };
    return unit_main("order", tests, UNIT_COUNT(tests));
}
