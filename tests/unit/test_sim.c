/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `sim`, driven through its table. */
#include "unit.h"
#include "core/core.h"
#include "transports/sim.h"

#include <math.h>
#include <time.h>

#define MAX_RANKS 1000

static tw_sim *sim;
static const tw_transport_ops *ops;
static void *ep[MAX_RANKS];

static void open_sim(const tw_sim_config *cfg) {
    CU_ASSERT_EQUAL_FATAL(tw_sim_create(NULL, cfg, &sim), TW_OK);
    for (int r = 0; r < cfg->ranks; r++)
        CU_ASSERT_EQUAL_FATAL(tw_sim_endpoint(sim, r, &ops, &ep[r]), TW_OK);
}

static void close_sim(void) {
    int n = tw_sim_ranks(sim);
    CU_ASSERT_EQUAL(tw_sim_destroy(sim), TW_ERR_ARG);
    for (int r = 0; r < n; r++)
        ops->close(ep[r]);
    CU_ASSERT_EQUAL(tw_sim_destroy(sim), TW_OK);
}

static tw_status post(int rank, bool send, int peer, uint32_t tag, void *buf, size_t len, uint64_t cookie) {
    tw_xfer x = {peer, tag, send, 0, buf, len, cookie};
    return ops->post(ep[rank], &x);
}

/* Everything that is there now. */
static int take(int rank, tw_done *d, int cap) {
    return ops->poll(ep[rank], d, cap);
}

static bool near(double a, double b) {
    return fabs(a - b) <= 1e-12 + 1e-9 * fabs(b);
}

static void test_arguments(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    CU_ASSERT_EQUAL(tw_sim_create(NULL, &c, NULL), TW_ERR_ARG);
    c.size = 4;
    CU_ASSERT_EQUAL(tw_sim_create(NULL, &c, &sim), TW_ERR_ARG);
    c = (tw_sim_config)TW_SIM_CONFIG_INIT;
    c.ranks = 0;
    CU_ASSERT_EQUAL(tw_sim_create(NULL, &c, &sim), TW_ERR_ARG);
    c = (tw_sim_config)TW_SIM_CONFIG_INIT;
    c.loss = 1.5;
    CU_ASSERT_EQUAL(tw_sim_create(NULL, &c, &sim), TW_ERR_ARG);
    unit_has(tw_last_error(), "loss = 1.5");
    c.loss = NAN;
    CU_ASSERT_EQUAL(tw_sim_create(NULL, &c, &sim), TW_ERR_ARG);
    c = (tw_sim_config)TW_SIM_CONFIG_INIT;
    c.dead_rank = 2;
    CU_ASSERT_EQUAL(tw_sim_create(NULL, &c, &sim), TW_ERR_ARG);
    c.dead_rank = -1;
    open_sim(&c);
    void *t;
    CU_ASSERT_EQUAL(tw_sim_endpoint(sim, 0, &ops, &t), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_sim_endpoint(sim, 2, &ops, &t), TW_ERR_ARG);
    CU_ASSERT_EQUAL(post(0, true, 2, 0, NULL, 0, 0), TW_ERR_ARG);
    CU_ASSERT_EQUAL(post(0, true, 1, 0, NULL, 1, 0), TW_ERR_ARG);
    unit_has(ops->error(ep[0]), "without a buffer");
    CU_ASSERT_EQUAL(ops->oob_allgather(ep[0], NULL, NULL, 0), TW_ERR_UNSUPPORTED);
    CU_ASSERT_EQUAL(ops->caps, TW_CAP_ABANDON | TW_CAP_FAST_SUM);
    CU_ASSERT_EQUAL(tw_sim_run(NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_sim_destroy(NULL), TW_OK);
    close_sim();
}

/* ---- time ---- */

static void test_time_of_frames(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.ranks = 4;
    c.latency_s = 1e-3;
    c.bandwidth = 1e6;
    open_sim(&c);
    static char out[4][1000], in[4][1000];
    tw_done d[4];
    /* one frame: 1 ms on the ports, 1 ms on the way; the send is done at 1 ms */
    post(1, false, 0, 0, in[1], 1000, 7);
    post(0, true, 1, 0, out[0], 1000, 8);
    CU_ASSERT_EQUAL(take(0, d, 4), 0);
    tw_sim_run(sim);
    CU_ASSERT(near(tw_sim_now(sim), 2e-3));
    CU_ASSERT(take(0, d, 4) == 1 && d[0].cookie == 8 && take(1, d, 4) == 1 && d[0].cookie == 7 && d[0].len == 1000);
    /* two frames of one sender follow each other on its port: 2 ms + 1 ms */
    for (int i = 0; i < 2; i++) {
        post(1 + i, false, 0, 0, in[i], 1000, 1);
        post(0, true, 1 + i, 0, out[0], 1000, 2);
    }
    tw_sim_run(sim);
    CU_ASSERT(near(tw_sim_now(sim), 2e-3 + 3e-3));
    CU_ASSERT(take(0, d, 4) == 2 && take(1, d, 4) == 1 && take(2, d, 4) == 1);
    /* three senders meet at one receiver's port: 1 ms + 3 ms */
    for (int i = 1; i < 4; i++) {
        post(0, false, i, 0, in[i], 1000, 1);
        post(i, true, 0, 0, out[i], 1000, 2);
    }
    tw_sim_run(sim);
    CU_ASSERT(near(tw_sim_now(sim), 5e-3 + 4e-3));
    CU_ASSERT_EQUAL(take(0, d, 4), 3);
    uint64_t frames, bytes;
    tw_sim_counters(sim, 0, &frames, &bytes);
    CU_ASSERT(frames == 3 && bytes == 3000);
    close_sim();
}

static void test_time_of_computing(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.latency_s = 1e-3;
    c.compute_values_per_s = 1e6;
    open_sim(&c);
    char x = 1, y = 0;
    ops->charge(ep[0], 3, 5000);
    CU_ASSERT(near(ops->clock(ep[0]), 5e-3) && ops->clock(ep[1]) == 0);
    post(1, false, 0, 0, &y, 1, 1);
    post(0, true, 1, 0, &x, 1, 1); /* starts at 5 ms */
    ops->charge(ep[1], 3, 1000);
    tw_sim_run(sim);
    CU_ASSERT(near(tw_sim_now(sim), 6e-3) && y == 1);
    ops->charge(ep[1], 3, 10000);
    tw_sim_run(sim); /* the clock waits for computing too */
    CU_ASSERT(near(tw_sim_now(sim), 16e-3));
    close_sim();
}

static void test_deadline_in_virtual_time(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    open_sim(&c);
    char y;
    tw_done d;
    post(0, false, 1, 0, &y, 1, 1);
    clock_t real = clock();
    double last = 0, start = ops->clock(ep[0]);
    while (ops->clock(ep[0]) - start < 100 && take(0, &d, 1) == 0) {
        ops->idle(ep[0]);
        CU_ASSERT(ops->clock(ep[0]) > last);
        last = ops->clock(ep[0]);
    }
    CU_ASSERT(last - start < 150);
    start = ops->clock(ep[1]); /* the other rank's wait starts with short steps again */
    while (ops->clock(ep[1]) - start < 0.1)
        ops->idle(ep[1]);
    CU_ASSERT(ops->clock(ep[1]) - start < 0.15);
    CU_ASSERT(clock() - real < CLOCKS_PER_SEC);
    close_sim();
}

/* ---- order, sizes, abandon ---- */

static void test_order_within_stream(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.ranks = 3;
    c.jitter_s = 1e-3;
    c.reorder = 0.5;
    c.bandwidth = 1e9;
    open_sim(&c);
    enum { N = 200, TAGS = 3 };
    static int out[2][TAGS][N], in[2][TAGS][N];
    int overtaken = 0, before[2] = {-1, -1};
    static tw_done d[2 * TAGS * N];
    for (int i = 0; i < N; i++)
        for (int src = 0; src < 2; src++)
            for (int tag = 0; tag < TAGS; tag++) {
                out[src][tag][i] = i;
                post(src, true, 2, (uint32_t)tag, &out[src][tag][i], sizeof(int), 0);
                if (i % 2 == 0) /* half of the receives come before, half after arrival */
                    for (int k = 0; k < 2 && i < N / 2; k++)
                        post(2, false, src, (uint32_t)tag, &in[src][tag][i + k], sizeof(int),
                             (uint64_t)(src * 1000 + i + k));
            }
    tw_sim_run(sim);
    for (int i = N / 2; i < N; i++)
        for (int src = 0; src < 2; src++)
            for (int tag = 0; tag < TAGS; tag++)
                post(2, false, src, (uint32_t)tag, &in[src][tag][i], sizeof(int), (uint64_t)(src * 1000 + i));
    tw_sim_run(sim);
    CU_ASSERT_EQUAL(memcmp(in, out, sizeof in), 0);
    CU_ASSERT_EQUAL(take(2, d, 2 * TAGS * N), 2 * TAGS * N);
    for (int i = 0; i < TAGS * N; i++) {
        int src = (int)(d[i].cookie / 1000), number = (int)(d[i].cookie % 1000);
        overtaken += number < before[src];
        before[src] = number;
    }
    CU_ASSERT(overtaken > 0); /* but across tags nothing is promised */
    close_sim();
}

static void test_sizes_and_truncated_receives(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.bandwidth = 1e9;
    open_sim(&c);
    static uint8_t out[1 << 20], in[1 << 20];
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 65537, 1 << 20};
    tw_done d[2];
    for (size_t i = 0; i < sizeof out; i++)
        out[i] = (uint8_t)(i * 7 + (i >> 8));
    for (size_t k = 0; k < UNIT_COUNT(sizes); k++) {
        memset(in, 0, sizeof in);
        post(0, true, 1, 9, out, sizes[k], 1);
        post(1, false, 0, 9, in, sizes[k], 2);
        tw_sim_run(sim);
        CU_ASSERT(take(1, d, 2) == 1 && d[0].status == TW_OK && d[0].len == sizes[k]);
        CU_ASSERT(memcmp(in, out, sizes[k]) == 0 && take(0, d, 2) == 1);
    }
    post(0, true, 1, 9, out, 100, 1);
    post(0, true, 0, 9, out, 100, 2); /* to itself */
    post(1, false, 0, 9, in, 99, 2);
    post(0, false, 0, 9, in + 200, 100, 3);
    in[99] = 0xee;
    tw_sim_run(sim);
    CU_ASSERT(take(1, d, 2) == 1 && d[0].status == TW_ERR_CORRUPT && d[0].len == 100 && in[99] == 0xee);
    CU_ASSERT(memcmp(in + 200, out, 100) == 0);
    close_sim();
}

static void test_poison_and_late_copy(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.bandwidth = 1e3;
    open_sim(&c);
    char out[8] = "before", in[8] = "xxxxxxx";
    tw_done d;
    post(1, false, 0, 0, in, 8, 0);
    CU_ASSERT(memcmp(in, "xxxxxxx", 8) != 0); /* who reads too early sees it */
    post(0, true, 1, 0, out, 8, 0);
    memcpy(out, "after", 6); /* the network reads a buffer until the send is complete */
    tw_sim_run(sim);
    CU_ASSERT(take(0, &d, 1) == 1 && strcmp(in, "after") == 0);
    close_sim();
}

static void test_abandon(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.bandwidth = 1e6;
    open_sim(&c);
    char *gone = malloc(100), x[100] = {0}, y = 0;
    float *sum = calloc(4, sizeof *sum), other[4] = {0};
    tw_done d[8];
    post(0, false, 1, 0, gone, 100, 1);
    post(0, true, 1, 0, gone, 100, 1); /* on the port */
    post(0, true, 1, 0, gone, 100, 1); /* behind it */
    post(1, true, 0, 0, x, 100, 2);
    post(1, false, 0, 0, x, 100, 2);
    ops->native_sum(ep[0], sum, 4, 3);
    ops->abandon(ep[0]);
    free(gone);
    free(sum); /* a sanitizer watches */
    ops->native_sum(ep[1], other, 4, 3);
    tw_sim_run(sim);
    CU_ASSERT_EQUAL(take(0, d, 8), 0);
    CU_ASSERT(take(1, d, 8) == 1 && d[0].cookie == 2); /* only its send */
    post(0, true, 1, 0, &y, 1, 4);                     /* and the endpoint still works */
    tw_sim_run(sim);
    CU_ASSERT(take(0, d, 8) == 1 && take(1, d, 8) == 1 && d[0].len == 1);
    close_sim();
}

/* ---- one seed ---- */

/* Hash of all completions with their times in a busy run. */
static uint64_t trace_of(uint64_t seed) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.ranks = 8;
    c.seed = seed;
    c.jitter_s = 1e-4;
    c.bandwidth = 1e8;
    c.reorder = 0.1;
    c.loss = c.corruption = c.truncation = 0.05;
    open_sim(&c);
    static uint8_t out[8][256], in[8][8][20][256];
    uint64_t h = 0xcbf29ce484222325u;
    tw_done d[64];
    for (int k = 0; k < 20; k++)
        for (int a = 0; a < 8; a++)
            for (int b = 0; b < 8; b++) {
                post(a, false, b, (uint32_t)k % 3, in[a][b][k], 256, (uint64_t)(b * 100 + k));
                post(a, true, b, (uint32_t)k % 3, out[a], (size_t)(256 - k), 99999);
            }
    for (int n = 0; n < 100; n++) {
        ops->idle(ep[n % 8]);
        for (int a = 0; a < 8; a++)
            for (int i = 0, got = take(a, d, 64); i < got; i++) {
                h = (h ^ (d[i].cookie + d[i].len * 7919)) * 0x100000001b3u;
                h = (h ^ (uint64_t)(tw_sim_now(sim) * 1e12)) * 0x100000001b3u;
            }
    }
    for (size_t i = 0; i < sizeof in; i++)
        h = (h ^ ((uint8_t *)in)[i]) * 0x100000001b3u;
    close_sim();
    return h;
}

static void test_seeds(void) {
    uint64_t a = trace_of(1);
    CU_ASSERT_EQUAL(trace_of(1), a);
    CU_ASSERT_NOT_EQUAL(trace_of(2), a);
    CU_ASSERT_NOT_EQUAL(trace_of(1ull << 40), trace_of(0));
}

/* ---- faults ---- */

enum { FRAMES = 20000 };
static struct counts { int arrived, shorter, changed, bits_most, bits_least; } counts;

static void run_faulty(const tw_sim_config *c) {
    open_sim(c);
    static uint8_t out[64], in[FRAMES][64];
    static tw_done d[FRAMES];
    memset(out, 0x5a, sizeof out);
    for (int i = 0; i < FRAMES; i++) {
        post(1, false, 0, 0, in[i], 64, (uint64_t)i);
        post(0, true, 1, 0, out, 64, 0);
    }
    tw_sim_run(sim);
    CU_ASSERT_EQUAL(take(0, d, FRAMES), FRAMES); /* sends always complete */
    counts = (struct counts){take(1, d, FRAMES), 0, 0, 0, 1000};
    for (int i = 0; i < counts.arrived; i++) {
        CU_ASSERT(d[i].status == TW_OK && d[i].cookie == (uint64_t)i);
        int bits = 0;
        for (size_t k = 0; k < d[i].len; k++)
            bits += __builtin_popcount(in[i][k] ^ 0x5au);
        counts.shorter += d[i].len < 64;
        counts.changed += bits > 0;
        counts.bits_most = bits > counts.bits_most ? bits : counts.bits_most;
        counts.bits_least = bits > 0 && bits < counts.bits_least ? bits : counts.bits_least;
    }
    uint64_t frames;
    tw_sim_counters(sim, 0, &frames, NULL);
    CU_ASSERT_EQUAL(frames, FRAMES);
    close_sim();
}

static bool about(int n, double p) {
    return fabs(n - p * FRAMES) < 5 * sqrt(p * (1 - p) * FRAMES);
}

static void test_faults(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    run_faulty(&c);
    CU_ASSERT(counts.arrived == FRAMES && counts.shorter == 0 && counts.changed == 0);
    c.loss = 0.1;
    run_faulty(&c);
    CU_ASSERT(about(counts.arrived, 0.9) && counts.shorter == 0 && counts.changed == 0);
    c.loss = 0;
    c.corruption = 0.2;
    run_faulty(&c);
    CU_ASSERT(counts.arrived == FRAMES && about(counts.changed, 0.2) && counts.shorter == 0);
    CU_ASSERT(counts.bits_least == 1 && counts.bits_most == 8);
    c.corruption = 0;
    c.truncation = 0.3;
    run_faulty(&c);
    CU_ASSERT(counts.arrived == FRAMES && about(counts.shorter, 0.3) && counts.changed == 0);
    c.loss = 1;
    run_faulty(&c);
    CU_ASSERT_EQUAL(counts.arrived, 0);
}

static void test_dead_rank(void) {
    for (uint32_t detects = 0; detects < 2; detects++) {
        tw_sim_config c = TW_SIM_CONFIG_INIT;
        c.ranks = 3;
        c.bandwidth = 1e6;
        c.dead_rank = 1;
        c.dead_after = 2;
        c.detects = detects;
        open_sim(&c);
        CU_ASSERT_EQUAL(ops->caps, TW_CAP_ABANDON | TW_CAP_FAST_SUM | (detects ? TW_CAP_DETECTS : 0));
        char x[4] = {1, 2, 3, 4}, y[4] = {0};
        float sum = 1, sum2 = 1;
        tw_done d[8];
        for (int i = 0; i < 4; i++) {
            CU_ASSERT_EQUAL(post(0, false, 1, 0, &y[i], 1, (uint64_t)i), TW_OK);
            CU_ASSERT_EQUAL(post(1, true, 0, 0, &x[i], 1, 9), TW_OK);
        }
        ops->native_sum(ep[2], &sum, 1, 60);
        tw_sim_run(sim);
        CU_ASSERT_EQUAL(take(1, d, 8), 0);
        int n = take(0, d, 8); /* what it had sent arrives first */
        CU_ASSERT_EQUAL(n, detects ? 4 : 2);
        CU_ASSERT(y[0] == 1 && y[1] == 2);
        for (int i = 0; i < n; i++)
            CU_ASSERT(d[i].cookie == (uint64_t)i && d[i].status == (i < 2 ? TW_OK : TW_ERR_PEER));
        CU_ASSERT_EQUAL(take(2, d, 8), detects ? 1 : 0);
        CU_ASSERT(!detects || d[0].status == TW_ERR_PEER);
        uint64_t frames;
        tw_sim_counters(sim, 1, &frames, NULL);
        CU_ASSERT_EQUAL(frames, 2);
        /* later calls */
        post(0, false, 1, 0, &y[0], 1, 70);
        post(0, true, 1, 0, &x[0], 1, 71);
        ops->native_sum(ep[0], &sum2, 1, 72);
        CU_ASSERT_EQUAL(post(1, true, 0, 0, &x[0], 1, 0), TW_OK); /* it does not know */
        tw_sim_run(sim);
        CU_ASSERT_EQUAL(take(0, d, 8), detects ? 3 : 1);
        CU_ASSERT_EQUAL(take(1, d, 8), 0);
        /* the others go on */
        post(0, true, 2, 0, &x[3], 1, 0);
        post(2, false, 0, 0, &y[3], 1, 0);
        tw_sim_run(sim);
        CU_ASSERT(take(2, d, 8) == 1 && d[0].status == TW_OK && y[3] == 4);
        close_sim();
    }
}

static void test_closed_peer(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.detects = 1;
    open_sim(&c);
    char x = 1, y = 0;
    tw_done d[4];
    post(0, true, 1, 0, &x, 1, 1);
    post(1, false, 0, 0, &y, 1, 2);
    post(1, false, 0, 0, &y, 1, 3);
    post(1, false, 0, 5, &y, 1, 4);
    ops->idle(ep[0]);
    ops->close(ep[0]);
    tw_sim_run(sim);
    CU_ASSERT(take(1, d, 4) == 3 && d[0].cookie == 2 && d[0].status == TW_OK && y == 1);
    CU_ASSERT(d[1].status == TW_ERR_PEER && d[2].status == TW_ERR_PEER);
    CU_ASSERT_EQUAL(tw_sim_endpoint(sim, 0, &ops, &ep[0]), TW_OK); /* a new one for this rank */
    post(0, true, 1, 0, &x, 1, 1);
    post(1, false, 0, 0, &y, 1, 2);
    tw_sim_run(sim);
    CU_ASSERT(take(1, d, 4) == 1 && d[0].status == TW_OK);
    close_sim();
}

/* ---- native sum ---- */

static void test_native_sum(void) {
    enum { P = 5, N = 3001 };
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.ranks = P;
    c.latency_s = 1e-3;
    c.bandwidth = 1e6;
    open_sim(&c);
    static float buf[2][P][N], want[2][N];
    unit_rng rng = unit_seeded("test_native_sum");
    tw_done d[4];
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < N; i++)
            for (int r = 0; r < P; r++) {
                buf[k][r][i] = unit_float(&rng);
                want[k][i] = r == 0 ? buf[k][r][i] : want[k][i] + buf[k][r][i];
            }
    for (int r = P - 1; r >= 0; r--)
        for (int k = 0; k < 2; k++)
            CU_ASSERT_EQUAL(ops->native_sum(ep[r], buf[k][r], N, (uint64_t)k), TW_OK);
    CU_ASSERT_EQUAL(take(0, d, 4), 0);
    tw_sim_run(sim);
    CU_ASSERT(near(tw_sim_now(sim), 2 * 2 * 0.8 * N * 4 / 1e6 + 2 * 3 * 1e-3)); /* in turns; log2 5, up: 3 */
    for (int r = 0; r < P; r++) {
        CU_ASSERT(take(r, d, 4) == 2 && d[0].status == TW_OK && d[0].cookie == 0 && d[1].cookie == 1);
        CU_ASSERT(memcmp(buf[0][r], want[0], sizeof want[0]) == 0 && memcmp(buf[1][r], want[1], sizeof want[1]) == 0);
    }
    for (int r = 0; r < P; r++)
        ops->native_sum(ep[r], buf[0][r], r == 3 ? 5 : 6, 0);
    tw_sim_run(sim);
    CU_ASSERT(take(0, d, 4) == 1 && d[0].status == TW_ERR_MISMATCH);
    CU_ASSERT_EQUAL(memcmp(buf[0][0], want[0], sizeof want[0]), 0);
    close_sim();
}

/* ---- pumps ---- */

/* Each rank passes a token to the next; `hops` times in all. */
static struct ring {
    int rank, token, hops, depth;
    bool receiving;
} ring[MAX_RANKS];
static int ring_size;

static int ring_pump(void *arg) {
    struct ring *me = arg;
    CU_ASSERT_EQUAL(me->depth, 0); /* never inside itself */
    me->depth++;
    int did = 0;
    tw_done d[4];
    int n = take(me->rank, d, 4);
    for (int i = 0; i < n; i++)
        if (d[i].cookie == 1) {
            me->receiving = false;
            me->hops = me->token;
            me->token++;
            post(me->rank, true, (me->rank + 1) % ring_size, 0, &me->token, sizeof(int), 0);
            did = 1;
        }
    if (!me->receiving && n > 0 && d[0].cookie == 0) {
        me->receiving = true;
        post(me->rank, false, (me->rank + ring_size - 1) % ring_size, 0, &me->token, sizeof(int), 1);
        did = 1;
    }
    ops->idle(ep[me->rank]); /* waiting inside a pump runs the others, not this one */
    me->depth--;
    return did + (n > 0);
}

static void test_pumps(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.ranks = ring_size = 7;
    open_sim(&c);
    for (int r = 0; r < ring_size; r++) {
        ring[r] = (struct ring){.rank = r, .receiving = true};
        tw_sim_attach(sim, r, ring_pump, &ring[r]);
        post(r, false, (r + ring_size - 1) % ring_size, 0, &ring[r].token, sizeof(int), 1);
    }
    int start = 1;
    post(0, true, 1, 0, &start, sizeof start, 0);
    double until = 100e-6;
    while (tw_sim_now(sim) < until) /* a wait on rank 3 moves all of them */
        ops->idle(ep[3]);
    CU_ASSERT(ring[1].hops >= 1);
    for (int r = 0; r < ring_size; r++)
        tw_sim_attach(sim, r, NULL, NULL);
    close_sim();
}

/* ---- scale ---- */

static void test_thousand_ranks(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.ranks = MAX_RANKS;
    c.bandwidth = 1e9;
    c.jitter_s = 1e-5;
    open_sim(&c);
    static uint32_t out[MAX_RANKS];
    uint32_t *in = calloc((size_t)MAX_RANKS * MAX_RANKS, sizeof *in);
    clock_t real = clock();
    tw_done d[64];
    uint64_t done = 0, bad = 0;
    for (int r = 0; r < MAX_RANKS; r++) {
        out[r] = (uint32_t)r * 3 + 1;
        for (int k = 1; k < MAX_RANKS; k++) {
            int to = (r + k) % MAX_RANKS;
            post(r, false, to, 0, &in[(size_t)r * MAX_RANKS + (size_t)to], 4, 1);
            post(r, true, to, 0, &out[r], 4, 2);
        }
    }
    tw_sim_run(sim);
    for (int r = 0; r < MAX_RANKS; r++) {
        for (int n; (n = take(r, d, 64)) > 0;)
            for (int i = 0; i < n; i++, done++)
                bad += d[i].status != TW_OK;
        for (int s = 0; s < MAX_RANKS; s++)
            bad += s != r && in[(size_t)r * MAX_RANKS + (size_t)s] != (uint32_t)s * 3 + 1;
    }
    CU_ASSERT_EQUAL(done, 2ull * MAX_RANKS * (MAX_RANKS - 1));
    CU_ASSERT_EQUAL(bad, 0);
    printf("1000 ranks, %d frames: %.2f s, virtual %.3g s\n", MAX_RANKS * (MAX_RANKS - 1),
           (double)(clock() - real) / CLOCKS_PER_SEC, tw_sim_now(sim));
    free(in);
    close_sim();
}

/* ---- every allocation made to fail in turn ---- */

static int allocations_left, allocations_held;
static void *failing_alloc(void *arg, size_t bytes, size_t align) {
    (void)arg;
    if (allocations_left-- <= 0)
        return NULL;
    allocations_held++;
    return aligned_alloc(align, bytes);
}
static void counting_release(void *arg, void *p) {
    (void)arg;
    allocations_held--;
    free(p);
}

static bool small_run(tw_ctx *ctx) {
    static char x[300], y[300];
    static float f[2][3];
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    c.bandwidth = 1e6;
    c.detects = 1;
    if (tw_sim_create(ctx, &c, &sim) != TW_OK)
        return false;
    bool ok = true;
    for (int r = 0; r < 2; r++)
        CU_ASSERT_EQUAL(tw_sim_endpoint(sim, r, &ops, &ep[r]), TW_OK);
    for (int i = 0; i < 300; i++) {
        ok = post(1, false, 0, (uint32_t)i, &y[i], 1, 0) == TW_OK && ok;
        ok = post(0, true, 1, (uint32_t)i, &x[i], 1, 0) == TW_OK && ok;
    }
    for (int r = 0; r < 2; r++)
        ok = ops->native_sum(ep[r], f[r], 3, 0) == TW_OK && ok;
    tw_sim_run(sim);
    tw_done d;
    for (int r = 0; r < 2; r++)
        while (take(r, &d, 1) == 1)
            ok = ok && d.status == TW_OK;
    for (int r = 0; r < 2; r++)
        ops->close(ep[r]);
    CU_ASSERT_EQUAL(tw_sim_destroy(sim), TW_OK);
    return ok;
}

static void test_allocation_failures(void) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx;
    cfg.alloc = failing_alloc;
    cfg.release = counting_release;
    allocations_left = 1;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &ctx), TW_OK);
    int n = 0;
    for (bool ok = false; !ok && n < 1000; n++) {
        allocations_left = n;
        ok = small_run(ctx);
        CU_ASSERT_EQUAL(allocations_held, 1);
    }
    CU_ASSERT(n > 10 && n < 1000);
    CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(test_arguments),
        UNIT_TEST(test_time_of_frames),
        UNIT_TEST(test_time_of_computing),
        UNIT_TEST(test_deadline_in_virtual_time),
        UNIT_TEST(test_order_within_stream),
        UNIT_TEST(test_sizes_and_truncated_receives),
        UNIT_TEST(test_poison_and_late_copy),
        UNIT_TEST(test_abandon),
        UNIT_TEST(test_seeds),
        UNIT_TEST(test_faults),
        UNIT_TEST(test_dead_rank),
        UNIT_TEST(test_closed_peer),
        UNIT_TEST(test_native_sum),
        UNIT_TEST(test_pumps),
        UNIT_TEST(test_thousand_ranks),
        UNIT_TEST(test_allocation_failures),
    };
    return unit_main("sim", tests, UNIT_COUNT(tests));
}
