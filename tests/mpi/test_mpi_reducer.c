/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The reducer over real MPI: replicas, ledger and certificate, both progress modes, several communicators,
 * disagreement, life cycle. */
#include "mpi_unit.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 251, COLS = 279, A = ROWS * COLS, B = 513, TOTAL = A + B };
static const tw_layer layers[] = {TW_LAYER_MATRIX("a.weight", ROWS, COLS, TW_F32), TW_LAYER("a.bias", B)};

/* Steps of one reducer; checks that replicas agree and that the certificate holds. */
static void train(tw_comm *comm, const char *rules, tw_algo algo, int steps, int pushes_backwards, MPI_Comm noise) {
    tw_reducer *red = NULL;
    tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
    tw_report rep = TW_REPORT_INIT;
    float *g = malloc(TOTAL * sizeof *g), *out = malloc(TOTAL * sizeof *out);
    double *err = calloc(TOTAL, sizeof *err), norm = 0, exact = 0;
    cfg.algo = algo;
    MPI_OK(tw_reducer_create(comm, layers, 2, rules, &cfg, &red));
    for (int s = 0; red && s < steps; s++) {
        int chatter = mpi_rank;
        for (int i = 0; i < TOTAL; i++)
            g[i] = mpi_input(mpi_rank, (uint64_t)s, (uint64_t)i);
        MPI_OK(tw_reducer_begin(red, (uint64_t)s, NULL));
        int first = pushes_backwards ^ (mpi_rank & 1); /* ranks push in different orders */
        for (int k = 0; k < 2; k++) {
            int bias = k ^ first;
            MPI_OK(tw_reducer_push(red, (uint32_t)bias, g + (bias ? A : 0), out + (bias ? A : 0)));
            if (noise != MPI_COMM_NULL) /* the user's own traffic while ops are under way */
                MPI_Allreduce(MPI_IN_PLACE, &chatter, 1, MPI_INT, MPI_SUM, noise);
        }
        MPI_OK(tw_reducer_end(red, &rep));
        for (int i = 0; i < TOTAL; i++) {
            double e = mpi_average((uint64_t)s, (uint64_t)i);
            err[i] += out[i] - e;
            exact += e * e;
        }
        MPI_CHECK(mpi_same(mpi_hash(out, TOTAL * sizeof *out)));
    }
    for (int i = 0; i < TOTAL; i++)
        norm += err[i] * err[i];
    if (rep.uncertified == 0)
        MPI_CHECK(sqrt(norm) <= rep.error_bound);
    else if (!strcmp(rules, "*=none"))
        MPI_CHECK(sqrt(norm) <= 1e-6 * sqrt(exact) * steps);
    MPI_OK(tw_reducer_destroy(red));
    free(g);
    free(out);
    free(err);
}

static void run_mode(tw_progress mode, MPI_Comm noise) {
    static const char *const rules[] = {"*=none",
                                        "*.bias=none;*=onebit+ef",
                                        "*=cast:type=bf16",
                                        "*=onebit:group=256,scale=rms+ef",
                                        "*=none until 2 then onebit+ef until 4 then cast",
                                        "*.bias=none;*=topk:density=0.05+ef until 3 then "
                                        "topk:density=0.2,select=group,values=(onebit:group=512)+ef",
                                        "*=powersgd:rank=3+ef until 3 then onebit+ef until 4 then "
                                        "powersgd:iterations=2+ef"};
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx = NULL;
    tw_comm *comm = NULL;
    cfg.progress = mode;
    MPI_OK(tw_ctx_create(&cfg, &ctx));
    MPI_OK(tw_comm_create_mpi(ctx, MPI_COMM_WORLD, &comm));
    tw_comm_stats stats = TW_COMM_STATS_INIT;
    MPI_OK(tw_comm_get_stats(comm, &stats));
    MPI_CHECK(mpi_size == 1 ? stats.link_rate == 0 : stats.link_rate > 0);
    MPI_CHECK(mpi_same(stats.link_rate)); /* frames are cut by it */
    for (size_t i = 0; comm && i < sizeof rules / sizeof *rules; i++)
        train(comm, rules[i], TW_ALGO_AUTO, 6, (int)i & 1, noise);
    train(comm, "*=randk:density=0.1+ef", TW_ALGO_NATIVE, 6, 1, noise); /* payloads are summed */
    train(comm, "*=randk:density=0.3,scale=unbiased", TW_ALGO_NATIVE, 3, 0, noise);
    train(comm, "*.bias=none; *=onebit+ef", TW_ALGO_GATHER, 6, 1, noise);
    train(comm, "*=topk:density=0.05+ef", TW_ALGO_GATHER, 6, 0, noise);
    MPI_OK(tw_comm_destroy(comm));
    MPI_OK(tw_ctx_destroy(ctx));
}

static void test_poll(void) {
    run_mode(TW_PROGRESS_POLL, MPI_COMM_NULL);
}

static void test_thread(void) {
    int level;
    MPI_Comm own;
    MPI_Query_thread(&level);
    if (level < MPI_THREAD_MULTIPLE) {
        if (mpi_rank == 0)
            printf("SKIPPED: this MPI gives no MPI_THREAD_MULTIPLE\n");
        return;
    }
    MPI_Comm_dup(MPI_COMM_WORLD, &own);
    run_mode(TW_PROGRESS_THREAD, own);
    MPI_Comm_free(&own);
}

static void test_stateless(void) {
    tw_comm *comm = NULL;
    uint64_t counts[] = {0, 1, 7, 4095, 4096, 4097, 100003};
    float *g = malloc(100003 * sizeof *g);
    MPI_OK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &comm));
    for (size_t k = 0; comm && k < sizeof counts / sizeof *counts; k++)
        for (int sum = 0; sum < 2; sum++) {
            double worst = 0;
            for (uint64_t i = 0; i < counts[k]; i++)
                g[i] = mpi_input(mpi_rank, k, i);
            MPI_OK(tw_allreduce(comm, NULL, g, g, counts[k], TW_F32, sum ? TW_SUM : TW_AVG));
            for (uint64_t i = 0; i < counts[k]; i++)
                worst = fmax(worst, fabs(g[i] - mpi_average(k, i) * (sum ? mpi_size : 1)));
            MPI_CHECK(worst < 1e-6 * mpi_size);
            MPI_CHECK(mpi_same(mpi_hash(g, counts[k] * sizeof *g)));
        }
    MPI_OK(tw_comm_destroy(comm));
    free(g);
}

/* Values of ±1, which one bit gives back as they are: all results are exact. */
static float sign_of(int rank, uint64_t i) {
    return (i * 2654435761u + (unsigned)rank * 977u) >> 7 & 1 ? 1.0f : -1.0f;
}

static void collectives_of(tw_comm *comm, const tw_spec *s, uint64_t n, float *all, float *one) {
    uint64_t bad = 0, size = (unsigned)mpi_size;
    for (uint64_t i = 0; i < size * n; i++)
        all[i] = sign_of(mpi_rank, i);
    MPI_OK(tw_reduce_scatter(comm, s, all, one, n, TW_F32, TW_SUM));
    for (uint64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int r = 0; r < mpi_size; r++)
            sum += sign_of(r, (unsigned)mpi_rank * n + i);
        bad += one[i] != sum;
        one[i] = sign_of(mpi_rank, i);
    }
    MPI_OK(tw_allgather(comm, s, one, all, n, TW_F32));
    for (uint64_t i = 0; i < size * n; i++)
        bad += all[i] != sign_of((int)(i / n), i % n);
    MPI_OK(tw_broadcast(comm, s, one, n, TW_F32, mpi_size - 1));
    for (uint64_t i = 0; i < n; i++)
        bad += one[i] != sign_of(mpi_size - 1, i);
    MPI_CHECK(bad == 0);
}

static void test_collectives(void) {
    static const char *const specs[] = {"none", "cast:type=bf16", "onebit"};
    static const uint64_t counts[] = {0, 1, 4097, 300007};
    tw_comm *comm = NULL;
    float *all = malloc((size_t)mpi_size * 300007 * sizeof *all), *one = malloc(300007 * sizeof *one);
    tw_comm_stats stats = TW_COMM_STATS_INIT;
    tw_spec s;
    MPI_OK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &comm));
    for (size_t k = 0; comm && k < 3; k++)
        for (size_t i = 0; i < 4; i++) {
            MPI_OK(tw_spec_parse(specs[k], &s));
            collectives_of(comm, &s, counts[i], all, one);
        }
    MPI_OK(tw_comm_get_stats(comm, &stats));
    MPI_CHECK(stats.leaked_frames == 0);
    MPI_OK(tw_comm_destroy(comm));
    free(all);
    free(one);
}

/* Gradients to their owners at one bit, parameters from them in half precision: bounds hold, replicas agree. */
static void test_shards(void) {
    enum { N = 50001 };
    tw_layer layers[] = {TW_LAYER("grad", N), TW_LAYER("param", N)};
    tw_comm *comm = NULL;
    tw_reducer *red = NULL;
    tw_report rep = TW_REPORT_INIT;
    float *g = malloc(N * sizeof *g), *sum = malloc(N * sizeof *sum), *all = malloc(N * sizeof *all);
    double *err = calloc(N, sizeof *err), norm = 0;
    uint64_t shard = (N / (unsigned)mpi_size / 4096 + 1) * 4096, first = (unsigned)mpi_rank * shard;
    for (int k = 0; k < 2; k++)
        layers[k].pinned = 1, layers[k].shard = shard;
    MPI_OK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &comm));
    MPI_OK(tw_reducer_create(comm, layers, 2, "grad=onebit+ef;*=cast:type=bf16+ef", NULL, &red));
    for (uint64_t s = 0; red && s < 5; s++) {
        tw_piece grad = TW_PIECE(0, 0, N, g, sum), param = TW_PIECE(1, 0, N, sum, all);
        tw_req *done = NULL;
        for (uint64_t i = 0; i < N; i++)
            g[i] = mpi_input(mpi_rank, s, i), sum[i] = -1;
        MPI_OK(tw_reducer_begin(red, s, NULL));
        MPI_OK(tw_reducer_post_reduce_scatter(red, &grad, 1, &done));
        MPI_OK(tw_req_wait(done, 0));
        for (uint64_t i = 0; i < N; i++) {
            int mine = i >= first && i < first + shard;
            MPI_CHECK(mine || sum[i] == -1);
            err[i] += mine ? sum[i] - mpi_average(s, i) : 0;
        }
        MPI_OK(tw_reducer_post_allgather(red, &param, 1, NULL));
        MPI_OK(tw_reducer_end(red, &rep));
        MPI_OK(tw_req_free(done));
        MPI_CHECK(mpi_same(mpi_hash(all, N * sizeof *all)));
        MPI_CHECK(mpi_same(mpi_hash(&rep.error_bound, sizeof rep.error_bound)));
    }
    for (uint64_t i = 0; i < N; i++)
        norm += err[i] * err[i];
    MPI_CHECK(rep.uncertified == 0 && sqrt(norm) <= rep.error_bound);
    MPI_OK(tw_reducer_destroy(red));
    MPI_OK(tw_comm_destroy(comm));
    free(g);
    free(sum);
    free(all);
    free(err);
}

/* Odd and even ranks apart, and two communicators with a reducer each in use at once. */
static void test_communicators(void) {
    MPI_Comm half;
    tw_comm *world = NULL, *part = NULL;
    tw_reducer *rw = NULL, *rp = NULL;
    tw_layer one[] = {TW_LAYER("w", 5000)};
    float g[5000], h[5000];
    MPI_Comm_split(MPI_COMM_WORLD, mpi_rank & 1, mpi_rank, &half);
    MPI_OK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &world));
    MPI_OK(tw_comm_create_mpi(NULL, half, &part));
    MPI_CHECK(tw_comm_size(world) == mpi_size && tw_comm_size(part) == (mpi_size + !(mpi_rank & 1)) / 2);
    MPI_OK(tw_reducer_create(world, one, 1, "*=onebit+ef", NULL, &rw));
    MPI_OK(tw_reducer_create(part, one, 1, "*=cast", NULL, &rp));
    for (int i = 0; i < 5000; i++)
        g[i] = mpi_input(mpi_rank, 0, (uint64_t)i), h[i] = (float)(mpi_rank & 1) + 1;
    MPI_OK(tw_reducer_begin(rw, 0, NULL));
    MPI_OK(tw_reducer_begin(rp, 0, NULL));
    MPI_OK(tw_reducer_push(rw, 0, g, g));
    MPI_OK(tw_reducer_push(rp, 0, h, h));
    MPI_OK(tw_reducer_end(rp, NULL));
    MPI_OK(tw_reducer_end(rw, NULL));
    MPI_CHECK(h[0] == (float)(mpi_rank & 1) + 1 && h[4999] == h[0]);
    MPI_CHECK(mpi_same(mpi_hash(g, sizeof g)));
    MPI_CHECK(tw_comm_destroy(world) == TW_ERR_ARG); /* a reducer is still there */
    MPI_OK(tw_reducer_destroy(rw));
    MPI_OK(tw_reducer_destroy(rp));
    MPI_OK(tw_comm_destroy(world));
    MPI_OK(tw_comm_destroy(part));
    MPI_Comm_free(&half);
}

static void test_disagreement(void) {
    tw_comm *comm = NULL;
    tw_reducer *red = NULL;
    tw_layer mine[] = {TW_LAYER("same", 10), TW_LAYER("odd.one", mpi_rank == 1 ? 99u : 100u)};
    MPI_OK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &comm));
    MPI_CHECK(tw_reducer_create(comm, mine, 2, NULL, NULL, &red) == TW_ERR_MISMATCH);
    MPI_CHECK(strstr(tw_last_error(), "odd.one") != NULL);
    MPI_CHECK(tw_reducer_create(comm, mine, 1, mpi_rank ? "*=none" : "*=onebit", NULL, &red) == TW_ERR_MISMATCH);
    /* one rank's own mistake ends creation on all of them */
    tw_status s = tw_reducer_create(comm, mine, 1, mpi_rank == mpi_size - 1 ? "*=onebyte" : "*=onebit", NULL, &red);
    MPI_CHECK(s == (mpi_rank == mpi_size - 1 ? TW_ERR_ARG : TW_ERR_PEER));
    if (mpi_rank == mpi_size - 1)
        MPI_CHECK(strstr(tw_last_error(), "onebit") != NULL);
    MPI_OK(tw_reducer_create(comm, mine, 1, "*=onebit", NULL, &red)); /* and it still works */
    MPI_OK(tw_reducer_destroy(red));
    MPI_OK(tw_comm_destroy(comm));
}

static void test_bad_arguments(void) {
    tw_comm *comm = NULL;
    MPI_CHECK(tw_comm_create_mpi(NULL, MPI_COMM_NULL, &comm) == TW_ERR_ARG);
    MPI_CHECK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, NULL) == TW_ERR_ARG);
    /* on one rank only: the others hear of it at once */
    double start = MPI_Wtime();
    MPI_CHECK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, mpi_rank == 0 ? NULL : &comm) == TW_ERR_ARG && !comm);
    MPI_CHECK(strstr(tw_last_error(), mpi_rank == 0 ? "out is NULL" : "rank 0 could not create the communicator"));
    MPI_CHECK(MPI_Wtime() - start < 60);
}

int main(int argc, char **argv) {
    static const mpi_test tests[] = {{"poll", test_poll},
                                     {"thread", test_thread},
                                     {"stateless", test_stateless},
                                     {"collectives", test_collectives},
                                     {"shards", test_shards},
                                     {"communicators", test_communicators},
                                     {"disagreement", test_disagreement},
                                     {"bad arguments", test_bad_arguments}};
    tw_comm *late = NULL;
    int level, status, early = tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &late) == TW_ERR_ARG;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &mpi_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &mpi_size);
    status = mpi_run(tests, (int)(sizeof tests / sizeof *tests));
    status |= !early;
    if (tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &late) < 0)
        status = 1;
    MPI_Finalize();
    /* MPI went first: an error, no crash */
    float one = 1;
    tw_status s = tw_allreduce(late, NULL, &one, &one, 1, TW_F32, TW_SUM);
    if ((s >= 0 && mpi_size > 1) || tw_comm_destroy(late) < 0)
        status = 1;
    if (status && mpi_rank == 0)
        printf("before MPI_Init: %s; after MPI_Finalize: %s\n", early ? "refused" : "NOT REFUSED", tw_status_name(s));
    return status;
}
