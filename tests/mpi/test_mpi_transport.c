/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `mpi`, driven through its table by all ranks. */
#include "mpi_unit.h"
#include "transports/mpi_open.h"
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

static const tw_transport_ops *ops;
static void *end;

static void open_on(tw_ctx *ctx, MPI_Comm comm, void **t, int *rank, int *size) {
    const tw_transport_ops *o = NULL;
    MPI_OK(tw_mpi_open(ctx, &comm, &o, t, rank, size));
    ops = o != NULL ? o : ops;
}

static void open_world(tw_ctx *ctx) {
    int rank = -1, size = -1;
    open_on(ctx, MPI_COMM_WORLD, &end, &rank, &size);
    MPI_CHECK(rank == mpi_rank && size == mpi_size);
}

static tw_status post(void *t, int is_send, int peer, uint32_t tag, void *buf, size_t len, uint64_t cookie) {
    tw_xfer x = {peer, tag, (uint32_t)is_send, 0, buf, len, cookie};
    return ops->post(t, &x);
}

/* Polls until n completions are there; 0 after 60 s. */
static int wait_for(void *t, tw_done *d, int n) {
    double end_s = mpi_seconds() + 60;
    int have = 0;
    while (have < n && mpi_seconds() < end_s) {
        int got = ops->poll(t, d + have, n - have);
        if (got < 0)
            return 0;
        have += got;
        if (got == 0)
            sched_yield();
    }
    return have == n;
}

static void test_refused(void) {
    tw_comm *c = NULL;
    MPI_CHECK(tw_comm_create_mpi(NULL, MPI_COMM_NULL, &c) == TW_ERR_ARG && strstr(tw_last_error(), "MPI_COMM_NULL"));
    MPI_CHECK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, NULL) == TW_ERR_ARG);
    MPI_Comm half, inter;
    MPI_Comm_split(MPI_COMM_WORLD, mpi_rank == 0, mpi_rank, &half);
    MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, mpi_rank == 0 ? 1 : 0, 5, &inter);
    MPI_CHECK(tw_comm_create_mpi(NULL, inter, &c) == TW_ERR_ARG && strstr(tw_last_error(), "intercommunicator"));
    MPI_Comm_free(&inter);
    MPI_Comm_free(&half);
    open_world(NULL);
    MPI_CHECK(ops->caps == TW_CAP_NETWORK && ops->size == sizeof *ops);
    MPI_CHECK(post(end, 1, mpi_size, 0, NULL, 0, 0) == TW_ERR_ARG && strstr(ops->error(end), "posted a transfer"));
    MPI_CHECK(post(end, 1, 0, 0, end, (size_t)1 << 31, 0) == TW_ERR_ARG);
    ops->close(end);
}

static void test_order(void) {
    enum { N = 300 };
    static int out[N], in[2][N];
    static tw_done d[3 * N];
    int next = (mpi_rank + 1) % mpi_size, prev = (mpi_rank + mpi_size - 1) % mpi_size, open = 0;
    open_world(NULL);
    for (int i = 0; i < N; i++)
        out[i] = mpi_rank * 1000 + i;
    /* tags 0, 1 and one that is over any MPI's limit; receives in another order than sends */
    uint32_t tags[2] = {0, 0xfffffff0u};
    for (int i = 0; i < N; i++)
        MPI_OK(post(end, 1, next, tags[i % 2], &out[i], sizeof(int), 99)), open++;
    for (int k = 1; k >= 0; k--)
        for (int i = 0; i < N / 2; i++)
            MPI_OK(post(end, 0, prev, tags[k], &in[k][i], sizeof(int), (uint64_t)i)), open++;
    MPI_CHECK(wait_for(end, d, open));
    int bad = 0;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < N / 2; i++)
            bad += in[k][i] != prev * 1000 + 2 * i + k;
    for (int i = 0; i < open; i++)
        bad += d[i].status != TW_OK || d[i].len != sizeof(int);
    MPI_CHECK(bad == 0);
    MPI_CHECK(ops->poll(end, d, 1) == 0);
    ops->close(end);
}

/* Random traffic: every rank knows from the same generator what all ranks send. */
static uint32_t next_random(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

static uint8_t byte_at(int message, size_t i) {
    return (uint8_t)(message * 37 + (int)(i * 11) + (int)(i >> 8));
}

static void test_traffic(void) {
    enum { M = 600 };
    static struct {
        int from, to;
        uint32_t tag;
        size_t len;
    } m[M];
    static uint8_t *buf[2 * M];
    static tw_done d[2 * M];
    uint64_t seed = 11;
    int open = 0, bad = 0;
    open_world(NULL);
    for (int i = 0; i < M; i++) {
        uint32_t kind = next_random(&seed) % 20, size = next_random(&seed);
        m[i].len = kind == 0 ? 0 : kind == 1 ? 1u << 20 : size % (kind < 10 ? 64 : 70000);
        m[i].from = (int)(next_random(&seed) % (uint32_t)mpi_size);
        m[i].to = (int)(next_random(&seed) % (uint32_t)mpi_size);
        m[i].tag = next_random(&seed) % 4;
        for (int send = 0; send < 2; send++) {
            buf[2 * i + send] = NULL;
            if ((send ? m[i].from : m[i].to) != mpi_rank)
                continue;
            uint8_t *b = buf[2 * i + send] = malloc(m[i].len + 1);
            for (size_t k = 0; send && k < m[i].len; k++)
                b[k] = byte_at(i, k);
            MPI_OK(post(end, send, send ? m[i].to : m[i].from, m[i].tag, b, m[i].len, (uint64_t)(2 * i + send)));
            open++;
        }
    }
    MPI_CHECK(wait_for(end, d, open));
    for (int i = 0; i < open; i++) {
        int k = (int)d[i].cookie;
        bad += d[i].status != TW_OK || d[i].len != m[k / 2].len;
        for (size_t j = 0; k % 2 == 0 && j < m[k / 2].len; j++)
            bad += buf[k][j] != byte_at(k / 2, j);
    }
    MPI_CHECK(bad == 0);
    for (int i = 0; i < 2 * M; i++)
        free(buf[i]);
    ops->close(end);
}

static void test_truncation(void) {
    static const size_t sizes[] = {100, 1 << 20};
    for (int k = 0; k < 2; k++) {
        size_t len = sizes[k];
        uint8_t *out = calloc(len, 1), *in = calloc(len, 1);
        int next = (mpi_rank + 1) % mpi_size, prev = (mpi_rank + mpi_size - 1) % mpi_size, bad = 0;
        tw_done d[3];
        open_world(NULL);
        in[len / 2] = 0xee;
        MPI_OK(post(end, 0, prev, 3, in, len / 2, 1));
        MPI_OK(post(end, 0, prev, 4, out + 50, 1, 3)); /* a good one beside it */
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_OK(post(end, 1, next, 3, out, len, 2));
        MPI_CHECK(wait_for(end, d, 2));
        for (int i = 0; i < 2; i++)
            if (d[i].cookie == 1)
                bad += d[i].status != TW_ERR_CORRUPT || d[i].len <= len / 2;
            else
                bad += d[i].cookie != 2 || d[i].status != TW_OK;
        MPI_CHECK(bad == 0 && in[len / 2] == 0xee && strstr(ops->error(end), "room") != NULL);
        MPI_Barrier(MPI_COMM_WORLD);
        MPI_OK(post(end, 1, next, 4, out, 1, 4)); /* and it goes on working */
        MPI_CHECK(wait_for(end, d, 2) && d[0].status == TW_OK && d[1].status == TW_OK);
        ops->close(end);
        free(out);
        free(in);
    }
}

static void test_native_sum(void) {
    enum { SUMS = 4 };
    static const uint64_t counts[SUMS] = {1, 0, 100003, 4096};
    float *buf[SUMS];
    tw_done d[SUMS];
    int bad = 0;
    open_world(NULL);
    for (int k = 0; k < SUMS; k++) {
        buf[k] = malloc((counts[k] + 1) * sizeof(float));
        for (uint64_t i = 0; i < counts[k]; i++)
            buf[k][i] = (float)(mpi_rank + 1) * (float)(i % 1000);
        buf[k][counts[k]] = -5.0f;
        MPI_OK(ops->native_sum(end, buf[k], counts[k], (uint64_t)k));
    }
    MPI_CHECK(wait_for(end, d, SUMS));
    for (int k = 0; k < SUMS; k++) {
        bad += d[k].status != TW_OK;
        for (uint64_t i = 0; i < counts[k]; i++)
            bad += buf[k][i] != (float)(mpi_size * (mpi_size + 1) / 2) * (float)(i % 1000);
        bad += buf[k][counts[k]] != -5.0f;
        free(buf[k]);
    }
    MPI_CHECK(bad == 0);
    ops->close(end);
}

static void test_allgather(void) {
    int *all = malloc((size_t)mpi_size * sizeof *all), bad = 0, mine = mpi_rank * 3 + 1;
    open_world(NULL);
    MPI_OK(ops->oob_allgather(end, &mine, all, sizeof mine));
    for (int r = 0; r < mpi_size; r++)
        bad += all[r] != 3 * r + 1;
    MPI_CHECK(bad == 0);
    ops->close(end);
    /* a rank that does not come */
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx = NULL;
    cfg.timeout_s = 0.2;
    MPI_OK(tw_ctx_create(&cfg, &ctx));
    open_world(ctx);
    if (mpi_rank != 0)
        MPI_CHECK(ops->oob_allgather(end, &mine, all, sizeof mine) == TW_ERR_TIMEOUT);
    MPI_Barrier(MPI_COMM_WORLD);
    if (mpi_rank == 0) /* late: MPI may still complete it */
        (void)ops->oob_allgather(end, &mine, all, sizeof mine);
    else
        MPI_CHECK(ops->oob_allgather(end, &mine, all, sizeof mine) == TW_ERR_TRANSPORT);
    ops->close(end);
    MPI_OK(tw_ctx_destroy(ctx));
    free(all);
}

/* One rank without memory: all fail, and the others say which rank it was. */
static int allocations_left;
static void *failing_alloc(void *arg, size_t bytes, size_t align) {
    (void)arg;
    return allocations_left-- > 0 ? aligned_alloc(align, bytes) : NULL;
}
static void plain_release(void *arg, void *p) {
    (void)arg;
    free(p);
}

static void test_no_memory_on_one_rank(void) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx = NULL;
    cfg.alloc = failing_alloc;
    cfg.release = plain_release;
    allocations_left = 1;
    MPI_OK(tw_ctx_create(&cfg, &ctx));
    for (int n = 0; n < 3; n++) {
        MPI_Comm world = MPI_COMM_WORLD;
        const tw_transport_ops *o = NULL;
        int rank, size;
        allocations_left = mpi_rank == 1 ? n : 1000;
        MPI_CHECK(tw_mpi_open(ctx, &world, &o, &end, &rank, &size) == TW_ERR_NOMEM);
        MPI_CHECK(mpi_rank == 1 || strstr(tw_last_error(), "rank 1 could not") != NULL);
    }
    allocations_left = 1000;
    open_world(ctx);
    ops->close(end);
    MPI_OK(tw_ctx_destroy(ctx));
}

/* Two communicators with different groups at once, and the given one freed early. */
static void test_sub_communicators(void) {
    MPI_Comm half;
    void *sub = NULL;
    int rank = -1, size = -1, x = mpi_rank, y[2] = {-1, -1};
    tw_done d[2];
    MPI_Comm_split(MPI_COMM_WORLD, mpi_rank % 2, mpi_rank, &half);
    open_on(NULL, half, &sub, &rank, &size);
    MPI_Comm_free(&half);
    open_world(NULL);
    MPI_CHECK(rank == mpi_rank / 2 && size == (mpi_size + 1 - mpi_rank % 2) / 2);
    MPI_OK(post(sub, 0, (rank + size - 1) % size, 0, &y[0], sizeof x, 1));
    MPI_OK(post(end, 0, (mpi_rank + mpi_size - 1) % mpi_size, 0, &y[1], sizeof x, 2));
    MPI_OK(post(end, 1, (mpi_rank + 1) % mpi_size, 0, &x, sizeof x, 3));
    MPI_OK(post(sub, 1, (rank + 1) % size, 0, &x, sizeof x, 4));
    MPI_CHECK(wait_for(end, d, 2) && wait_for(sub, d, 2));
    MPI_CHECK(y[1] == (mpi_rank + mpi_size - 1) % mpi_size);
    MPI_CHECK(y[0] == (rank + size - 1) % size * 2 + mpi_rank % 2);
    ops->close(end);
    ops->close(sub);
}

/* close() never blocks: with standing receives, and with a large send that nobody has taken yet. */
static void test_close_with_pending(void) {
    enum { LARGE = 1 << 20 };
    static char out[LARGE], in[LARGE], more[64];
    tw_done d[1];
    for (int round = 0; round < 50; round++) { /* many communicators: none may be used up */
        open_world(NULL);
        for (int r = 0; r < mpi_size; r++)
            MPI_OK(post(end, 0, r, 0, more, sizeof more, 1));
        ops->close(end);
    }
    open_world(NULL);
    memset(out, 3, LARGE);
    if (mpi_rank == 0) {
        double start = mpi_seconds();
        MPI_OK(post(end, 1, 1, 0, out, LARGE, 1));
        ops->close(end);
        MPI_CHECK(mpi_seconds() - start < 1.0);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (mpi_rank == 1) {
        MPI_OK(post(end, 0, 0, 0, in, LARGE, 1));
        MPI_Request other; /* rank 0 must make progress somewhere: in this receive */
        MPI_CHECK(wait_for(end, d, 1) && in[0] == 3 && in[LARGE - 1] == 3);
        MPI_Isend(in, 1, MPI_CHAR, 0, 9, MPI_COMM_WORLD, &other);
        MPI_Wait(&other, MPI_STATUS_IGNORE);
    } else if (mpi_rank == 0) {
        char c;
        MPI_Recv(&c, 1, MPI_CHAR, 1, 9, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    if (mpi_rank != 0)
        ops->close(end);
}

int main(int argc, char **argv) {
    static const mpi_test tests[] = {
        {"refused", test_refused},
        {"order within a tag", test_order},
        {"random traffic", test_traffic},
        {"receives that are too short", test_truncation},
        {"native sum", test_native_sum},
        {"allgather and its deadline", test_allgather},
        {"no memory on one rank", test_no_memory_on_one_rank},
        {"sub-communicators", test_sub_communicators},
        {"close with transfers under way", test_close_with_pending},
    };
    int level;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &mpi_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &mpi_size);
    if (mpi_size < 2) {
        printf("SKIPPED: needs 2 ranks\n");
        MPI_Finalize();
        return 77;
    }
    int status = mpi_run(tests, (int)TW_ARRAY_LEN(tests));
    MPI_Finalize();
    return status;
}
