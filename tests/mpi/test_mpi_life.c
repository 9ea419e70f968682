/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The MPI life cycle: not initialised, a thread level too low on one rank, finalised first. With an odd number of ranks
 * rank 0 has MPI_THREAD_SINGLE, with an even number MPI_THREAD_FUNNELED; the others have MPI_THREAD_MULTIPLE. */
#include "mpi_unit.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed;

static void check(int good, const char *what) {
    if (!good) {
        printf("rank %d: %s (%s)\n", mpi_rank, what, tw_last_error());
        fflush(stdout);
        failed++;
    }
}

/* Rank 0 says what it lacks; the others say that it was rank 0. */
static void check_refused(tw_ctx *ctx, const char *sentence) {
    tw_comm *c = NULL;
    check(tw_comm_create_mpi(ctx, MPI_COMM_WORLD, &c) == TW_ERR_UNSUPPORTED, "refused everywhere");
    check(strstr(tw_last_error(), mpi_rank == 0 ? sentence : "rank 0 could not") != NULL, sentence);
    check(c == NULL, "no communicator");
}

int main(int argc, char **argv) {
    tw_comm *c = NULL, *other = NULL;
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx = NULL;
    int level, lowest;
    setenv("THINWIRE_TIMEOUT", "20", 1);
    check(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &c) == TW_ERR_ARG && strstr(tw_last_error(), "not initialised"),
          "before MPI_Init");
    const char *size_text = getenv("OMPI_COMM_WORLD_SIZE"), *rank_text = getenv("OMPI_COMM_WORLD_RANK");
    size_text = size_text != NULL ? size_text : getenv("PMI_SIZE"); /* MPICH's launcher */
    rank_text = rank_text != NULL ? rank_text : getenv("PMI_RANK");
    int odd = size_text != NULL && atoi(size_text) % 2, first = rank_text != NULL && atoi(rank_text) == 0;
    MPI_Init_thread(&argc, &argv, !first ? MPI_THREAD_MULTIPLE : odd ? MPI_THREAD_SINGLE : MPI_THREAD_FUNNELED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &mpi_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &mpi_size);
    lowest = level;
    MPI_Bcast(&lowest, 1, MPI_INT, 0, MPI_COMM_WORLD);
    cfg.progress = TW_PROGRESS_THREAD;
    check(tw_ctx_create(&cfg, &ctx) == TW_OK, "context");
    if (lowest < MPI_THREAD_MULTIPLE)
        check_refused(ctx, "MPI_THREAD_MULTIPLE");
    check(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &c) == TW_OK, "create");
    check(tw_comm_create_mpi(NULL, MPI_COMM_SELF, &other) == TW_OK, "create of its own");
    check(tw_comm_destroy(other) == TW_OK, "destroy");
    int any = 0;
    MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Finalize(); /* with standing receives in c */
    if (c != NULL) {
        tw_status s = tw_comm_progress(c);
        check(s < 0, "progress after MPI_Finalize");
        check(strstr(tw_last_error(), "MPI was finalized before") != NULL, "and it says why");
        float x = 1;
        check(tw_allreduce(c, NULL, &x, &x, 1, TW_F32, TW_SUM) < 0 && x == 1, "allreduce after MPI_Finalize");
        check(tw_comm_destroy(c) == TW_OK, "destroy after MPI_Finalize");
    }
    check(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &c) == TW_ERR_ARG && strstr(tw_last_error(), "finalized already"),
          "create after MPI_Finalize");
    check(tw_ctx_destroy(ctx) == TW_OK, "context");
    if (mpi_rank == 0)
        printf("%d passed, %d failed\n", failed + any == 0, failed + any != 0);
    return failed + any != 0;
}
