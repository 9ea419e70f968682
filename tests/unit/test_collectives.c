/* SPDX-License-Identifier: BSD-3-Clause
 *
 * tw_reduce_scatter, tw_allgather and tw_broadcast over threads, and what they refuse. Values are ±1, which every codec
 * gives back as they are, so all results are exact. */
#include "unit.h"
#include "reducer/stateless.h"

#include <pthread.h>
#include <stdatomic.h>

enum { MOST = 8 };

static tw_comm *comm[MOST];
static int size;
static atomic_int wrong;
static const char *const specs[] = {"none", "cast:type=fp16", "cast:type=bf16", "onebit:group=4096",
                                    "onebit:scale=rms"};
static const uint64_t counts[] = {0, 1, 7, 4095, 4096, 4097, 8209, 100003};

static float value(int rank, uint64_t block, uint64_t i) {
    return (i * 2654435761u + block * 40503u + (unsigned)rank * 977u) >> 7 & 1 ? 1.0f : -1.0f;
}

static void expect(int ok) {
    atomic_fetch_add(&wrong, !ok);
}

static float exact_sum(uint64_t block, uint64_t i, tw_redop op) {
    float sum = 0;
    for (int r = 0; r < size; r++)
        sum += value(r, block, i);
    return op == TW_AVG ? sum * (1.0f / (float)size) : sum;
}

static void reduce_scatter(int r, const tw_spec *s, uint64_t n, float *in, float *out, tw_redop op) {
    for (int b = 0; b < size; b++)
        for (uint64_t i = 0; i < n; i++)
            in[(uint64_t)b * n + i] = value(r, (uint64_t)b, i);
    float *to = op == TW_AVG ? in + (uint64_t)r * n : out; /* in place, too */
    int bad = tw_reduce_scatter(comm[r], s, in, to, n, TW_F32, op) != TW_OK;
    for (uint64_t i = 0; i < n; i++)
        bad += to[i] != exact_sum((uint64_t)r, i, op);
    expect(!bad);
}

static void allgather(int r, const tw_spec *s, uint64_t n, float *in, float *out, int in_place) {
    const float *from = in_place ? out + (uint64_t)r * n : in;
    for (uint64_t i = 0; i < n; i++)
        in[i] = out[(uint64_t)r * n + i] = value(r, 3, i);
    int bad = tw_allgather(comm[r], s, from, out, n, TW_F32) != TW_OK;
    for (int b = 0; b < size; b++)
        for (uint64_t i = 0; i < n; i++)
            bad += out[(uint64_t)b * n + i] != value(b, 3, i);
    expect(!bad);
}

static void broadcast(int r, const tw_spec *s, uint64_t n, float *buf, int root) {
    for (uint64_t i = 0; i < n; i++)
        buf[i] = value(r, 5, i);
    int bad = tw_broadcast(comm[r], s, buf, n, TW_F32, root) != TW_OK;
    for (uint64_t i = 0; i < n; i++)
        bad += buf[i] != value(root, 5, i);
    expect(!bad);
}

static void *all_of_them(void *arg) {
    int r = (int)(intptr_t)arg;
    float *a = malloc((size_t)size * 100003 * sizeof *a), *b = malloc((size_t)size * 100003 * sizeof *b);
    for (size_t k = 0; k < UNIT_COUNT(specs); k++)
        for (size_t i = 0; i < UNIT_COUNT(counts); i++) {
            tw_spec s;
            expect(tw_spec_parse(specs[k], &s) == TW_OK);
            reduce_scatter(r, &s, counts[i], a, b, (k + i) % 2 ? TW_SUM : TW_AVG);
            allgather(r, &s, counts[i], a, b, (int)(k + i) % 2);
            broadcast(r, &s, counts[i], a, (int)(k + i) % size);
        }
    free(a);
    free(b);
    return NULL;
}

static void run_threads(void *(*body)(void *)) {
    pthread_t t[MOST];
    atomic_store(&wrong, 0);
    for (intptr_t r = 0; r < size; r++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&t[r], NULL, body, (void *)r), 0);
    for (int r = 0; r < size; r++)
        pthread_join(t[r], NULL);
    CU_ASSERT_EQUAL(atomic_load(&wrong), 0);
}

static void with_ranks(int n, tw_progress progress, double timeout_s, void *(*body)(void *)) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx;
    cfg.progress = progress;
    cfg.timeout_s = timeout_s;
    size = n;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &ctx), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(ctx, n, comm), TW_OK);
    run_threads(body);
    for (int r = 0; r < n; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(comm[r]), TW_OK);
    CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
}

static void test_threads(void) {
    static const int ranks[] = {1, 2, 3, 5, 8};
    for (size_t i = 0; i < UNIT_COUNT(ranks); i++)
        with_ranks(ranks[i], TW_PROGRESS_POLL, 0, all_of_them);
}

static void test_progress_thread(void) {
    with_ranks(3, TW_PROGRESS_THREAD, 0, all_of_them);
}

/* ---- in a reducer: gradients to their owners, parameters from them ---- */

enum { SHARD = 2 * 4096, SHARDED = 3 * SHARD + 77 }; /* the last rank's shard is short */

static void shard_of(int r, uint64_t *first, uint64_t *end) {
    *first = (uint64_t)r * SHARD;
    *end = r + 1 == size ? SHARDED : *first + SHARD;
}

static void step_of_shards(int r, tw_reducer *red, uint64_t step, float *grad, float *mine, float *param) {
    uint64_t first, end, bad = 0;
    tw_report rep = TW_REPORT_INIT;
    tw_piece grads[4], parts[4];
    uint32_t n = 0;
    shard_of(r, &first, &end);
    for (int q = 0; q < size; q++) { /* a rank has memory for the sums of its shard alone */
        uint64_t from, to;
        shard_of(q, &from, &to);
        grads[n] = (tw_piece)TW_PIECE(0, from, to - from, grad + from, q == r ? mine : NULL);
        parts[n++] = (tw_piece)TW_PIECE(1, from, to - from, q == r ? mine : NULL, param + from);
    }
    for (uint64_t i = 0; i < SHARDED; i++)
        grad[i] = value(r, step, i);
    tw_req *done = NULL;
    expect(tw_reducer_begin(red, step, NULL) == TW_OK);
    expect(tw_reducer_post_reduce_scatter(red, grads, n, &done) == TW_OK);
    expect(tw_req_wait(done, 0) == TW_OK);
    for (uint64_t i = first; i < end; i++)
        bad += mine[i - first] != exact_sum(step, i, TW_AVG);
    for (uint64_t i = first; i < end; i++)
        mine[i - first] = value(r, step + 1000, i);
    expect(tw_reducer_post_allgather(red, parts, n, NULL) == TW_OK);
    expect(tw_reducer_end(red, &rep) == TW_OK);
    expect(tw_req_free(done) == TW_OK);
    for (int q = 0; q < size; q++)
        for (shard_of(q, &first, &end); first < end; first++)
            bad += param[first] != value(q, step + 1000, first);
    expect(bad == 0 && rep.uncertified == 0 && rep.error_bound < 1);
    expect(rep.dense_bytes == 2 * (SHARDED * 4 * 3 / 4) && rep.wire_bytes < rep.dense_bytes);
}

static void *shards(void *arg) {
    int r = (int)(intptr_t)arg;
    tw_layer layers[] = {TW_LAYER_SHARDS("grad", SHARDED, TW_F32, SHARD),
                         TW_LAYER_SHARDS("param", SHARDED, TW_F32, SHARD)};
    tw_reducer *red = NULL;
    static float grad[4][SHARDED], mine[4][SHARDED], param[4][SHARDED];
    expect(tw_reducer_create(comm[r], layers, 2, "*=onebit+ef", NULL, &red) == TW_OK);
    for (uint64_t step = 0; red && step < 4; step++)
        step_of_shards(r, red, step, grad[r], mine[r], param[r]);
    expect(tw_reducer_destroy(red) == TW_OK);
    return NULL;
}

static void test_shards(void) {
    with_ranks(4, TW_PROGRESS_POLL, 0, shards);
    with_ranks(4, TW_PROGRESS_THREAD, 0, shards);
}

/* ---- refusals ---- */

static void refused(tw_status s, const char *part) {
    CU_ASSERT_EQUAL(s, TW_ERR_ARG);
    unit_has(tw_last_error(), part);
}

static void test_arguments(void) {
    float x[64] = {0}, y[16] = {0};
    tw_spec ef, bad = TW_SPEC_INIT;
    size = 4;
    CU_ASSERT_EQUAL(tw_spec_parse("onebit+ef", &ef), TW_OK);
    bad.codec = 999;
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, size, comm), TW_OK);
    refused(tw_reduce_scatter(NULL, NULL, x, y, 16, TW_F32, TW_SUM), "tw_reduce_scatter: comm is NULL");
    refused(tw_allgather(NULL, NULL, y, x, 16, TW_F32), "tw_allgather: comm is NULL");
    refused(tw_broadcast(NULL, NULL, x, 16, TW_F32, 0), "tw_broadcast: comm is NULL");
    refused(tw_reduce_scatter(comm[1], NULL, NULL, y, 16, TW_F32, TW_SUM), "in is NULL");
    refused(tw_allgather(comm[1], NULL, y, NULL, 16, TW_F32), "out is NULL");
    refused(tw_broadcast(comm[1], NULL, NULL, 16, TW_F32, 0), "buf is NULL");
    refused(tw_reduce_scatter(comm[1], NULL, x, y, 16, TW_F32, (tw_redop)7), "op 7");
    refused(tw_allgather(comm[1], NULL, y, x, 16, (tw_dtype)9), "dtype 9");
    refused(tw_allgather(comm[1], NULL, y, x, UINT64_MAX / 128, TW_F32), "values");
    refused(tw_broadcast(comm[1], NULL, x, 16, TW_F32, 4), "root 4 of 4 ranks");
    refused(tw_broadcast(comm[1], NULL, x, 16, TW_F32, -1), "root -1 of 4 ranks");
    refused(tw_broadcast(comm[1], &ef, x, 16, TW_F32, 0), "error feedback needs a reducer");
    refused(tw_reduce_scatter(comm[1], &ef, x, y, 16, TW_F32, TW_SUM), "error feedback needs a reducer");
    CU_ASSERT(tw_allgather(comm[1], &bad, y, x, 16, TW_F32) < 0);
    refused(tw_reduce_scatter(comm[1], NULL, x, x, 16, TW_F32, TW_SUM), "overlap");
    refused(tw_reduce_scatter(comm[1], NULL, x, x + 17, 16, TW_F32, TW_SUM), "rank 1's");
    refused(tw_allgather(comm[1], NULL, x + 47, x, 16, TW_F32), "overlap");
    for (int r = 0; r < size; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(comm[r]), TW_OK);
}

static void refused_layer(uint64_t pinned, uint64_t shard, uint32_t tile, const char *part) {
    tw_layer l = TW_LAYER("w", 100000);
    tw_reducer_config c = TW_REDUCER_CONFIG_INIT;
    tw_memory m = TW_MEMORY_INIT;
    l.pinned = pinned;
    l.shard = shard;
    c.tile = tile;
    refused(tw_reducer_estimate(0, 4, &l, 1, NULL, &c, &m), part);
}

static void test_pins(void) {
    tw_layer l = TW_LAYER_SHARDS("w", 100000, TW_F32, 128);
    tw_reducer_config c = TW_REDUCER_CONFIG_INIT;
    tw_memory m = TW_MEMORY_INIT;
    refused_layer(5, 0, 0, "layer 'w': pinned to a rank that is not there");
    refused_layer(UINT64_MAX, 0, 0, "pinned to a rank");
    refused_layer(0, 4096, 0, "pinned is 0");
    refused_layer(1, 4095, 0, "no multiple of the tile, 4096");
    refused_layer(4, 128, 256, "no multiple of the tile, 256");
    c.tile = 128;
    CU_ASSERT_EQUAL(tw_reducer_estimate(3, 4, &l, 1, NULL, &c, &m), TW_OK);
    l.shard = UINT64_MAX / 128 * 128;
    CU_ASSERT_EQUAL(tw_reducer_estimate(3, 4, &l, 1, NULL, &c, &m), TW_OK);
}

/* ---- ranks that mean different calls ---- */

static int difference;

/* Whether any rank was told. */
static void *disagree(void *arg) {
    int r = (int)(intptr_t)arg, odd = r == 1;
    static _Alignas(64) float x[3][3 * 5000], y[3][3 * 5000];
    tw_spec s = TW_SPEC_INIT;
    tw_status st = TW_OK;
    s.codec = TW_CODEC_CAST;
    s.type = TW_BF16;
    if (difference == 0) /* kind, with the same number of values in every frame */
        st = odd ? tw_allgather(comm[r], &s, x[r], y[r], 5000, TW_F32)
                 : tw_reduce_scatter(comm[r], &s, x[r], y[r], 5000, TW_F32, TW_SUM);
    else if (difference == 1)
        st = tw_broadcast(comm[r], &s, x[r], 5000, TW_F32, odd);
    else if (difference == 2)
        st = tw_reduce_scatter(comm[r], &s, x[r], y[r], 5000, TW_F32, odd ? TW_SUM : TW_AVG);
    else
        st = tw_allgather(comm[r], &s, x[r], y[r], 5000 - (uint64_t)odd, TW_F32);
    atomic_fetch_add(&wrong, st < 0);
    return NULL;
}

static void test_disagreement(void) {
    for (difference = 0; difference < 4; difference++) {
        tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
        tw_ctx *ctx;
        pthread_t t[3];
        cfg.timeout_s = 0.5;
        size = 3;
        CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &ctx), TW_OK);
        CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(ctx, size, comm), TW_OK);
        atomic_store(&wrong, 0);
        for (intptr_t r = 0; r < size; r++)
            pthread_create(&t[r], NULL, disagree, (void *)r);
        for (int r = 0; r < size; r++)
            pthread_join(t[r], NULL);
        CU_ASSERT(atomic_load(&wrong) > 0);
        for (int r = 0; r < size; r++)
            CU_ASSERT_EQUAL(tw_comm_destroy(comm[r]), TW_OK);
        CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
    }
}

static uint64_t hash_of(tw_kind kind, int root, uint32_t pinned) {
    tw_plan_layer l = {
        .name = "w", .count = 10000, .tiles = 3, .dtype = TW_F32, .spec = TW_SPEC_INIT, .pinned = pinned};
    tw_plan_in in = {.me = 1, .size = 4, .layer = &l, .nlayer = 1, .kind = kind, .root = root};
    tw_plan *p = NULL;
    tw_ctx *ctx;
    in.algo = TW_ALGO_SRA;
    in.redop = TW_SUM;
    in.tile = TW_MAX_TILE;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_resolve(NULL, &ctx), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_plan_build(ctx, &in, &p), TW_OK);
    uint64_t h = p->hash;
    tw_plan_free(p);
    return h;
}

/* What no message could tell apart otherwise is told apart by the plan's hash. */
static void test_hashes(void) {
    uint64_t h[] = {hash_of(TW_KIND_ALLREDUCE, 0, 0),      hash_of(TW_KIND_REDUCE_SCATTER, 0, 0),
                    hash_of(TW_KIND_ALLGATHER, 0, 0),      hash_of(TW_KIND_BROADCAST, 0, 0),
                    hash_of(TW_KIND_BROADCAST, 1, 0),      hash_of(TW_KIND_BROADCAST, 3, 0),
                    hash_of(TW_KIND_REDUCE_SCATTER, 0, 1), hash_of(TW_KIND_REDUCE_SCATTER, 0, 2)};
    for (size_t i = 0; i < UNIT_COUNT(h); i++)
        for (size_t k = 0; k < i; k++)
            CU_ASSERT_NOT_EQUAL(h[i], h[k]);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(test_threads), UNIT_TEST(test_progress_thread), UNIT_TEST(test_shards), UNIT_TEST(test_arguments),
        UNIT_TEST(test_pins),    UNIT_TEST(test_disagreement),    UNIT_TEST(test_hashes)};
    return unit_main("collectives", tests, UNIT_COUNT(tests));
}
