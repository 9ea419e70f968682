/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `local`, driven through its table. */
#include "unit.h"
#include "transports/local.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#define MAX_RANKS 8

static atomic_int wrong; /* counted in the ranks' threads, asserted when they have ended */

static const tw_transport_ops *ops;
static void *ep[MAX_RANKS];

static void open_ranks(int n) {
    CU_ASSERT_EQUAL_FATAL(tw_local_create(NULL, n, &ops, ep), TW_OK);
}

static void close_ranks(int n) {
    for (int r = 0; r < n; r++)
        ops->close(ep[r]);
}

static tw_status post(int rank, bool send, int peer, uint32_t tag, void *buf, size_t len, uint64_t cookie) {
    tw_xfer x = {peer, tag, send, 0, buf, len, cookie};
    return ops->post(ep[rank], &x);
}

/* Polls until n completions are there; false after 20 s. */
static bool wait_for(void *t, tw_done *done, int n) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int have = 0; have < n;) {
        int got = ops->poll(t, done + have, n - have);
        if (got < 0)
            return false;
        have += got;
        if (got == 0)
            ops->idle(t);
        clock_gettime(CLOCK_MONOTONIC, &b);
        if (b.tv_sec - a.tv_sec > 20)
            return false;
    }
    return true;
}

static bool nothing_for(void *t) {
    tw_done d;
    for (int i = 0; i < 20; i++) {
        if (ops->poll(t, &d, 1) != 0)
            return false;
        ops->idle(t);
    }
    return true;
}

static void run_threads(int n, void *(*body)(void *)) {
    pthread_t th[MAX_RANKS];
    atomic_store(&wrong, 0);
    for (intptr_t r = 0; r < n; r++)
        pthread_create(&th[r], NULL, body, (void *)r);
    for (int r = 0; r < n; r++)
        pthread_join(th[r], NULL);
    CU_ASSERT_EQUAL(atomic_load(&wrong), 0);
}

static void test_arguments(void) {
    void *t[1];
    CU_ASSERT_EQUAL(tw_local_create(NULL, 0, &ops, t), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_local_create(NULL, 1, NULL, t), TW_ERR_ARG);
    open_ranks(2);
    CU_ASSERT_EQUAL(ops->size, sizeof(tw_transport_ops));
    CU_ASSERT_EQUAL(ops->caps, TW_CAP_ABANDON | TW_CAP_DETECTS | TW_CAP_FAST_SUM);
    CU_ASSERT_EQUAL(post(0, true, 2, 0, NULL, 0, 0), TW_ERR_ARG);
    CU_ASSERT_EQUAL(post(0, true, -1, 0, NULL, 0, 0), TW_ERR_ARG);
    CU_ASSERT_EQUAL(post(0, true, 1, 0, NULL, 1, 0), TW_ERR_ARG);
    CU_ASSERT(strstr(ops->error(ep[0]), "without a buffer") != NULL);
    close_ranks(2);
}

static void test_order_within_tag(void) {
    open_ranks(2);
    int out[6] = {10, 11, 12, 20, 21, 22}, in[6] = {0};
    tw_done d[6];
    /* sends first, receives in another order of tags */
    for (int i = 0; i < 6; i++)
        CU_ASSERT_EQUAL(post(0, true, 1, i < 3 ? 7 : 8, &out[i], sizeof(int), (uint64_t)i), TW_OK);
    for (int i = 3; i < 9; i++)
        CU_ASSERT_EQUAL(post(1, false, 0, i % 6 < 3 ? 7 : 8, &in[i % 6], sizeof(int), (uint64_t)i % 6), TW_OK);
    CU_ASSERT(wait_for(ep[0], d, 6) && wait_for(ep[1], d, 6));
    CU_ASSERT_EQUAL(memcmp(in, out, sizeof in), 0);
    for (int i = 0; i < 6; i++)
        CU_ASSERT(d[i].status == TW_OK && d[i].len == sizeof(int) && d[i].cookie == (uint64_t)(i + 3) % 6);
    /* receives first, to oneself, nothing in it */
    CU_ASSERT_EQUAL(post(1, false, 1, 1, in, sizeof(int), 1), TW_OK);
    CU_ASSERT_EQUAL(post(1, false, 1, 1, NULL, 0, 2), TW_OK);
    CU_ASSERT(nothing_for(ep[1]));
    CU_ASSERT_EQUAL(post(1, true, 1, 1, &out[5], sizeof(int), 3), TW_OK);
    CU_ASSERT_EQUAL(post(1, true, 1, 1, NULL, 0, 4), TW_OK);
    CU_ASSERT(wait_for(ep[1], d, 4));
    CU_ASSERT_EQUAL(in[0], 22);
    CU_ASSERT(nothing_for(ep[0]) && nothing_for(ep[1]));
    close_ranks(2);
}

static void test_truncation(void) {
    open_ranks(2);
    char out[100], in[50];
    memset(out, 1, sizeof out);
    memset(in, 2, sizeof in);
    tw_done d;
    CU_ASSERT_EQUAL(post(0, true, 1, 0, out, 100, 5), TW_OK);
    CU_ASSERT_EQUAL(post(1, false, 0, 0, in, 50, 6), TW_OK);
    CU_ASSERT(wait_for(ep[1], &d, 1));
    CU_ASSERT(d.status == TW_ERR_CORRUPT && d.len == 100 && d.cookie == 6);
    CU_ASSERT(in[0] == 2 && in[49] == 2);
    CU_ASSERT(strstr(ops->error(ep[1]), "100 bytes") != NULL);
    CU_ASSERT(wait_for(ep[0], &d, 1));
    CU_ASSERT(d.status == TW_OK && d.cookie == 5);
    close_ranks(2);
}

static void test_closed_peer(void) {
    open_ranks(3);
    int a = 1, b = 2;
    tw_done d[2];
    CU_ASSERT_EQUAL(post(0, false, 1, 0, &a, sizeof a, 1), TW_OK);
    CU_ASSERT_EQUAL(post(0, true, 1, 3, &b, sizeof b, 2), TW_OK);
    CU_ASSERT_EQUAL(post(1, false, 2, 3, &b, sizeof b, 2), TW_OK);
    CU_ASSERT_EQUAL(post(1, true, 0, 4, &b, sizeof b, 2), TW_OK);
    ops->close(ep[1]);
    CU_ASSERT(wait_for(ep[0], d, 2));
    CU_ASSERT(d[0].status == TW_ERR_PEER && d[1].status == TW_ERR_PEER);
    CU_ASSERT(strstr(ops->error(ep[0]), "rank 1") != NULL);
    CU_ASSERT_EQUAL(post(0, true, 1, 0, &a, sizeof a, 3), TW_OK);
    CU_ASSERT_EQUAL(post(0, false, 1, 4, &a, sizeof a, 4), TW_OK);
    CU_ASSERT(wait_for(ep[0], d, 2));
    CU_ASSERT(d[0].status == TW_ERR_PEER && d[1].status == TW_ERR_PEER);
    CU_ASSERT(nothing_for(ep[2]));
    CU_ASSERT_EQUAL(post(2, true, 0, 0, &a, sizeof a, 3), TW_OK); /* the others go on */
    CU_ASSERT_EQUAL(post(0, false, 2, 0, &b, sizeof b, 4), TW_OK);
    CU_ASSERT(wait_for(ep[0], d, 1) && wait_for(ep[2], d, 1));
    CU_ASSERT(d[0].status == TW_OK && b == 1);
    ops->close(ep[0]);
    ops->close(ep[2]);
}

static void test_abandon(void) {
    open_ranks(2);
    int *gone = malloc(sizeof *gone), b = 2;
    tw_done d[2];
    CU_ASSERT_EQUAL(post(0, false, 1, 0, gone, sizeof *gone, 1), TW_OK);
    CU_ASSERT_EQUAL(post(0, true, 1, 1, gone, sizeof *gone, 2), TW_OK);
    CU_ASSERT_EQUAL(post(0, true, 0, 1, gone, sizeof *gone, 3), TW_OK);
    CU_ASSERT_EQUAL(post(0, false, 0, 1, &b, sizeof b, 4), TW_OK); /* done, not polled: dropped too */
    ops->abandon(ep[0]);
    free(gone); /* a sanitizer watches */
    CU_ASSERT_EQUAL(post(1, true, 0, 0, &b, sizeof b, 1), TW_OK);
    CU_ASSERT_EQUAL(post(1, false, 0, 1, &b, sizeof b, 2), TW_OK);
    CU_ASSERT(nothing_for(ep[0]) && nothing_for(ep[1]));
    ops->close(ep[0]);
    CU_ASSERT(wait_for(ep[1], d, 2));
    CU_ASSERT(d[0].status == TW_ERR_PEER && d[1].status == TW_ERR_PEER);
    ops->close(ep[1]);
}

/* ---- allgather ---- */

static void *gather_body(void *arg) {
    int r = (int)(intptr_t)arg;
    for (int round = 0; round < 200; round++) {
        int mine[2] = {r, round}, all[2 * MAX_RANKS];
        wrong += ops->oob_allgather(ep[r], mine, all, sizeof mine) != TW_OK;
        for (int i = 0; i < MAX_RANKS; i++)
            wrong += !(all[2 * i] == i && all[2 * i + 1] == round);
    }
    return NULL;
}

static void *gather_mismatch_body(void *arg) {
    int r = (int)(intptr_t)arg;
    char mine[2] = {0}, all[2 * MAX_RANKS];
    wrong += ops->oob_allgather(ep[r], mine, all, r == 1 ? 2 : 1) != TW_ERR_MISMATCH;
    return NULL;
}

static void *gather_left_body(void *arg) {
    int r = (int)(intptr_t)arg;
    char mine = 0, all[MAX_RANKS];
    if (r == 2)
        ops->close(ep[r]);
    else
        wrong += ops->oob_allgather(ep[r], &mine, all, 1) != TW_ERR_PEER;
    return NULL;
}

static void test_allgather(void) {
    open_ranks(MAX_RANKS);
    run_threads(MAX_RANKS, gather_body);
    run_threads(MAX_RANKS, gather_mismatch_body);
    close_ranks(MAX_RANKS);
    open_ranks(3);
    run_threads(3, gather_left_body);
    ops->close(ep[0]);
    ops->close(ep[1]);
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    cfg.timeout_s = 0.02;
    tw_ctx *c;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &c), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_local_create(c, 2, &ops, ep), TW_OK);
    char mine = 0, all[4];
    CU_ASSERT_EQUAL(ops->oob_allgather(ep[0], &mine, all, 1), TW_ERR_TIMEOUT);
    unit_has(tw_last_error(), "rank 1 did not come to an allgather within 0.02 s");
    CU_ASSERT_EQUAL(ops->oob_allgather(ep[1], &mine, all, 1), TW_ERR_TIMEOUT);
    close_ranks(2);
    CU_ASSERT_EQUAL_FATAL(tw_local_create(c, 4, &ops, ep), TW_OK);
    CU_ASSERT_EQUAL(ops->oob_allgather(ep[1], &mine, all, 1), TW_ERR_TIMEOUT);
    unit_has(tw_last_error(), "rank 0 and 2 more did not come");
    close_ranks(4);
    CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_OK);
}

/* ---- random traffic: every rank knows from a shared generator what all ranks send ---- */

#define MESSAGES 1500
#define TAGS     5
typedef struct message {
    uint8_t from, to, tag;
    uint32_t len;
} message;
static message messages[MESSAGES];

static uint32_t next_random(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

static uint8_t byte_at(int m, uint32_t i) {
    return (uint8_t)(m * 37 + (int)(i * 11) + (int)(i >> 8));
}

static void *traffic_body(void *arg) {
    int me = (int)(intptr_t)arg;
    uint64_t seed = (uint64_t)me + 99;
    uint8_t *buf[2 * MESSAGES] = {0};
    int under_way = 0, bad = 0, failed = 0;
    for (int m = 0; m <= MESSAGES; m++) {
        const message *x = &messages[m % MESSAGES];
        for (int send = 0; send < 2 && m < MESSAGES; send++) {
            if ((send ? x->from : x->to) != me)
                continue;
            uint8_t *b = buf[2 * m + send] = malloc(x->len + 1);
            for (uint32_t i = 0; send && i < x->len; i++)
                b[i] = byte_at(m, i);
            failed += post(me, send, send ? x->to : x->from, x->tag, b, x->len, (uint64_t)(2 * m + send)) != TW_OK;
            under_way++;
        }
        /* A bound on what is open, drained at random moments; all posted at the end. */
        while (under_way > (m == MESSAGES ? 0 : 200) || (under_way > 0 && next_random(&seed) % 4 == 0)) {
            tw_done d[16];
            int n = ops->poll(ep[me], d, 1 + (int)(next_random(&seed) % 16));
            for (int i = 0; i < n; i++) {
                int k = (int)d[i].cookie, msg = k / 2;
                bad += d[i].status != TW_OK || d[i].len != messages[msg].len;
                for (uint32_t j = 0; k % 2 == 0 && j < messages[msg].len; j++)
                    bad += buf[k][j] != byte_at(msg, j);
                free(buf[k]);
            }
            under_way -= n;
            if (n == 0) {
                ops->idle(ep[me]);
                if (m < MESSAGES)
                    break;
            }
        }
    }
    wrong += bad;
    wrong += failed;
    return NULL;
}

static void test_traffic(void) {
    uint64_t seed = 7;
    for (int m = 0; m < MESSAGES; m++) {
        uint32_t kind = next_random(&seed) % 20;
        uint32_t len = kind == 0 ? 0 : kind == 1 ? 1u << 20 : next_random(&seed) % (kind < 10 ? 64 : 70000);
        messages[m] = (message){(uint8_t)(next_random(&seed) % MAX_RANKS), (uint8_t)(next_random(&seed) % MAX_RANKS),
                                (uint8_t)(next_random(&seed) % TAGS), len};
    }
    open_ranks(MAX_RANKS);
    run_threads(MAX_RANKS, traffic_body);
    close_ranks(MAX_RANKS);
}

/* ---- native sum ---- */

#define SUMS    12
#define LARGEST 100003

static float value_at(int rank, int sum, uint64_t i) {
    return (float)((int)((i * 2654435761u + (uint64_t)(rank * 977 + sum * 131)) % 20011) - 10000) /
           (float)(1 + (i + (uint64_t)rank) % 7);
}

static uint64_t count_of(int sum) {
    return sum == 3 ? 0 : sum == 5 ? LARGEST : (uint64_t)(sum * 4099 + 1);
}

static void *sum_body(void *arg) {
    int r = (int)(intptr_t)arg, bad = 0;
    float *buf[SUMS];
    tw_done d[SUMS];
    for (int s = 0; s < SUMS; s++) { /* all under way at once */
        buf[s] = malloc(sizeof(float) * (count_of(s) + 1));
        for (uint64_t i = 0; i < count_of(s); i++)
            buf[s][i] = value_at(r, s, i);
        wrong += ops->native_sum(ep[r], buf[s], count_of(s), (uint64_t)s) != TW_OK;
        if (r % 2)
            ops->idle(ep[r]);
    }
    wrong += !(wait_for(ep[r], d, SUMS));
    for (int s = 0; s < SUMS; s++) {
        bad += d[s].status != TW_OK;
        for (uint64_t i = 0; i < count_of(s); i++) {
            float want = value_at(0, s, i);
            for (int q = 1; q < MAX_RANKS; q++)
                want += value_at(q, s, i);
            bad += memcmp(&want, &buf[s][i], sizeof want) != 0;
        }
        free(buf[s]);
    }
    wrong += bad;
    return NULL;
}

static void test_native_sum(void) {
    open_ranks(MAX_RANKS);
    run_threads(MAX_RANKS, sum_body);
    /* counts that differ, then a rank that leaves */
    float x[3][4] = {{1, 2, 3, 4}, {1, 2, 3, 4}, {1, 2, 3, 4}};
    tw_done d[2];
    close_ranks(MAX_RANKS);
    open_ranks(3);
    for (int r = 0; r < 3; r++)
        CU_ASSERT_EQUAL(ops->native_sum(ep[r], x[r], r == 1 ? 3 : 4, 1), TW_OK);
    for (int r = 0; r < 3; r++)
        CU_ASSERT(wait_for(ep[r], d, 1) && d[0].status == TW_ERR_MISMATCH && x[r][0] == 1);
    CU_ASSERT_EQUAL(ops->native_sum(ep[0], x[0], 4, 2), TW_OK);
    CU_ASSERT_EQUAL(ops->native_sum(ep[2], x[2], 4, 3), TW_OK);
    CU_ASSERT(nothing_for(ep[0]));
    ops->abandon(ep[0]);
    CU_ASSERT(nothing_for(ep[0]));
    CU_ASSERT(wait_for(ep[2], d, 1) && d[0].status == TW_ERR_PEER && d[0].cookie == 3);
    CU_ASSERT_EQUAL(ops->native_sum(ep[1], x[1], 4, 4), TW_OK);
    CU_ASSERT(wait_for(ep[1], d, 1) && d[0].status == TW_ERR_PEER && x[1][0] == 1);
    close_ranks(3);
}

/* ---- threads that leave in the middle of traffic: nobody may touch their buffers afterwards ---- */

static atomic_int leavers_done;

static void *leaver_body(void *arg) {
    int me = (int)(intptr_t)arg, peers = 4;
    uint64_t seed = (uint64_t)me;
    size_t len = 30000;
    for (int round = 0; round < 30; round++) {
        char *buf = malloc(len * 8);
        float *sum = calloc(20000, sizeof *sum);
        memset(buf, me, len * 8);
        for (int i = 0; i < 8; i++)
            post(me, i % 2, (int)(next_random(&seed) % (uint32_t)peers), 0, buf + (size_t)i * len, len, 0);
        if (me != 0 || round == 29)
            ops->native_sum(ep[me], sum, 20000, 0);
        tw_done d[64];
        for (int i = 0; i < 5; i++) {
            ops->poll(ep[me], d, 64);
            ops->idle(ep[me]);
        }
        ops->abandon(ep[me]);
        memset(buf, 7, len * 8); /* TSan and ASan watch */
        memset(sum, 7, 20000 * sizeof *sum);
        free(buf);
        free(sum);
    }
    ops->close(ep[me]);
    atomic_fetch_add(&leavers_done, 1);
    return NULL;
}

static void test_leaving_in_traffic(void) {
    open_ranks(4);
    run_threads(4, leaver_body);
    CU_ASSERT_EQUAL(atomic_load(&leavers_done), 4);
}

/* ---- no allocation once the pools are warm ---- */

static atomic_int allocations, allocations_most = 1 << 30, held;
static void *counting_alloc(void *arg, size_t bytes, size_t align) {
    (void)arg;
    if (atomic_fetch_add(&allocations, 1) >= atomic_load(&allocations_most))
        return NULL;
    atomic_fetch_add(&held, 1);
    return aligned_alloc(align, tw_round_up(bytes, align));
}
static void plain_release(void *arg, void *p) {
    (void)arg;
    atomic_fetch_sub(&held, 1);
    free(p);
}

static void one_round(void) {
    static char a[2][100], b[2][100];
    static float s[2][64];
    tw_done d[201];
    for (int r = 0; r < 2; r++) {
        for (int i = 0; i < 100; i++) {
            post(r, true, 1 - r, (uint32_t)i, &a[r][i], 1, 0);
            post(r, false, 1 - r, (uint32_t)i, &b[r][i], 1, 0);
        }
        ops->native_sum(ep[r], s[r], 64, 0);
    }
    CU_ASSERT(wait_for(ep[0], d, 201) && wait_for(ep[1], d, 201));
}

static void test_steady_state(void) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    cfg.alloc = counting_alloc;
    cfg.release = plain_release;
    tw_ctx *c;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &c), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_local_create(c, 2, &ops, ep), TW_OK);
    one_round();
    int before = atomic_load(&allocations);
    for (int i = 0; i < 10; i++)
        one_round();
    CU_ASSERT_EQUAL(atomic_load(&allocations), before);
    close_ranks(2);
    CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_OK);
}

/* Every allocation made to fail in turn. */
static bool small_run(tw_ctx *c) {
    static char a[300], b[300];
    static float s[2][3];
    if (tw_local_create(c, 2, &ops, ep) != TW_OK)
        return false;
    bool ok = true;
    for (uint32_t i = 0; i < 300; i++) {
        ok = post(0, true, 1, i, &a[i], 1, 0) == TW_OK && ok;
        ok = post(1, false, 0, i, &b[i], 1, 0) == TW_OK && ok;
    }
    for (int r = 0; r < 2; r++)
        ok = ops->native_sum(ep[r], s[r], 3, 0) == TW_OK && ok;
    tw_done d;
    for (int r = 0; r < 2; r++)
        while (ops->poll(ep[r], &d, 1) == 1)
            ok = ok && d.status == TW_OK;
    close_ranks(2);
    return ok;
}

static void test_allocation_failures(void) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    cfg.alloc = counting_alloc;
    cfg.release = plain_release;
    tw_ctx *c;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &c), TW_OK);
    int base = atomic_load(&held), n = 0;
    for (bool ok = false; !ok && n < 100; n++) {
        atomic_store(&allocations, 0);
        atomic_store(&allocations_most, n);
        ok = small_run(c);
        CU_ASSERT_EQUAL(atomic_load(&held), base);
    }
    atomic_store(&allocations_most, 1 << 30);
    CU_ASSERT(n > 6 && n < 100);
    CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_OK);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(test_arguments),
        UNIT_TEST(test_order_within_tag),
        UNIT_TEST(test_truncation),
        UNIT_TEST(test_closed_peer),
        UNIT_TEST(test_abandon),
        UNIT_TEST(test_allgather),
        UNIT_TEST(test_traffic),
        UNIT_TEST(test_native_sum),
        UNIT_TEST(test_leaving_in_traffic),
        UNIT_TEST(test_steady_state),
        UNIT_TEST(test_allocation_failures),
    };
    return unit_main("local", tests, UNIT_COUNT(tests));
}
