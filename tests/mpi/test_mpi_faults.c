/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Over real MPI: a rank that never posts, one that stops after hop 1, and one that makes no reducer in time. Nobody
 * hangs, user memory and residuals stay, the sentence names who is missing. */
#include "mpi_unit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEADLINE 2.0
static float *g, *out;
static uint64_t count;

/* One tile for each owner. */
static tw_reducer *make(tw_comm **comm) {
    tw_reducer *red = NULL;
    tw_layer layer[] = {TW_LAYER("the.layer", count)};
    MPI_OK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, comm));
    MPI_OK(tw_reducer_create(*comm, layer, 1, "*=onebit+ef", NULL, &red));
    for (uint64_t i = 0; i < count; i++)
        g[i] = mpi_input(mpi_rank, 0, i), out[i] = 12345.0f;
    return red;
}

static int untouched(void) {
    for (uint64_t i = 0; i < count; i++)
        if (out[i] != 12345.0f)
            return 0;
    return 1;
}

static int no_residual(const tw_reducer *red) {
    float *e = malloc(count * sizeof *e), any = 0;
    MPI_OK(tw_reducer_residual(red, 0, e));
    for (uint64_t i = 0; i < count; i++)
        any += e[i] != 0;
    free(e);
    return any == 0;
}

/* Waits for the step's end; returns its status. */
static tw_status finish(tw_reducer *red, double *took) {
    double t0 = mpi_seconds();
    tw_status s = tw_reducer_end(red, NULL);
    *took = mpi_seconds() - t0;
    return s;
}

static void clean_up(tw_comm *comm, tw_reducer *red) {
    MPI_CHECK(tw_reducer_begin(red, 9, NULL) == TW_ERR_POISONED || mpi_rank == 1);
    MPI_OK(tw_reducer_destroy(red));
    MPI_OK(tw_comm_destroy(comm));
}

static void test_never_posts(void) {
    tw_comm *comm = NULL;
    double took = 0;
    tw_reducer *red = make(&comm);
    if (mpi_rank != 1) {
        MPI_OK(tw_reducer_begin(red, 1, NULL));
        MPI_OK(tw_reducer_push(red, 0, g, out));
        tw_status s = finish(red, &took);
        MPI_CHECK(s == TW_ERR_TIMEOUT || s == TW_ERR_PEER);
        MPI_CHECK(strstr(tw_last_error(), "rank") != NULL);
        if (s == TW_ERR_TIMEOUT)
            MPI_CHECK(strstr(tw_last_error(), "the.layer") != NULL);
        MPI_CHECK(took < 1.5 * DEADLINE);
        MPI_CHECK(untouched() && no_residual(red));
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (mpi_rank == 1) { /* it hears of it as soon as it looks */
        tw_status s = tw_comm_progress(comm);
        MPI_CHECK(s == TW_ERR_POISONED);
    }
    clean_up(comm, red);
}

static void test_stops_after_hop1(void) {
    tw_comm *comm = NULL;
    double took = 0;
    tw_reducer *red = make(&comm);
    MPI_OK(tw_reducer_begin(red, 1, NULL));
    MPI_OK(tw_reducer_push(red, 0, g, out));
    tw_status s = finish(red, &took);
    MPI_CHECK(took < 1.5 * DEADLINE);
    if (mpi_rank != 1) {
        MPI_CHECK(s == TW_ERR_TIMEOUT || s == TW_ERR_PEER);
        MPI_CHECK(untouched() && no_residual(red));
        if (s == TW_ERR_TIMEOUT)
            MPI_CHECK(strstr(tw_last_error(), "hop 2") != NULL && strstr(tw_last_error(), "rank 1") != NULL);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    clean_up(comm, red);
}

static void test_never_creates(void) {
    tw_layer layer[] = {TW_LAYER("the.layer", count)};
    tw_comm_stats stats = TW_COMM_STATS_INIT;
    tw_reducer *red = NULL;
    tw_comm *comm = NULL;
    MPI_OK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &comm));
    if (mpi_rank != 1) {
        double t0 = mpi_seconds();
        MPI_CHECK(tw_reducer_create(comm, layer, 1, NULL, NULL, &red) == TW_ERR_TIMEOUT);
        MPI_CHECK(mpi_seconds() - t0 < 1.5 * DEADLINE);
        MPI_CHECK(red == NULL && strstr(tw_last_error(), "tw_reducer_create") && strstr(tw_last_error(), "allgather"));
        MPI_OK(tw_comm_get_stats(comm, &stats));
        MPI_CHECK(stats.leaked_frames == 1);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (mpi_rank == 1 && tw_reducer_create(comm, layer, 1, NULL, NULL, &red) >= 0) { /* late, and MPI completes it */
        MPI_CHECK(tw_comm_progress(comm) == TW_ERR_POISONED);
        MPI_CHECK(strstr(tw_last_error(), "tw_reducer_create") != NULL);
        MPI_OK(tw_reducer_destroy(red));
    }
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_OK(tw_comm_destroy(comm));
}

int main(int argc, char **argv) {
    static const mpi_test tests[] = {{"a rank never posts", test_never_posts},
                                     {"a rank stops after hop 1", test_stops_after_hop1},
                                     {"a rank never creates its reducer", test_never_creates}};
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &mpi_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &mpi_size);
    count = (uint64_t)mpi_size * 4096;
    g = malloc(count * sizeof *g);
    out = malloc(count * sizeof *out);
    setenv("THINWIRE_FAULT", "mute:2@1", 1);
    setenv("THINWIRE_TIMEOUT", "2", 1);
    int status = mpi_run(tests, 3);
    free(g);
    free(out);
    MPI_Finalize();
    return status;
}
