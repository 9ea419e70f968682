/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The world over MPI, and the baseline: the same collective by plain MPI. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "bench_allreduce.h"

#ifdef HAVE_MPI

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <thinwire/mpi.h>

static void mpi_barrier(ba_world *w) {
    (void)w;
    MPI_Barrier(MPI_COMM_WORLD);
}

/* After a failure here the others may never come: a rank that is gone must not turn a sentence into a hang. */
static void give_up(const ba_world *w) {
    ba_say(w->cfg, "%s; the other ranks do not answer: ending by MPI_Abort", w->sentence);
    fflush(NULL);
    MPI_Abort(MPI_COMM_WORLD, BC_EXIT_FAILED);
}

static void mpi_fold(ba_world *w, ba_fold how, double *v, int n) {
    double patience = 10 + (w->cfg->timeout_s > 0 ? w->cfg->timeout_s : 120), until = bc_now() + patience;
    MPI_Request q;
    int done = 0;
    MPI_Iallreduce(MPI_IN_PLACE, v, n, MPI_DOUBLE, how == BA_SUM ? MPI_SUM : MPI_MAX, MPI_COMM_WORLD, &q);
    while (MPI_Test(&q, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && !done) {
        if (w->failure < 0 && bc_now() > until)
            give_up(w);
        sched_yield();
    }
}

static void mpi_share(ba_world *w, int from, char *text) {
    (void)w;
    MPI_Bcast(text, BA_TEXT, MPI_CHAR, from, MPI_COMM_WORLD);
}

static double mpi_now(ba_world *w) {
    (void)w;
    return bc_now();
}

typedef struct plain_call {
    ba_kind kind;
    const void *all, *mine; /* this rank's input: of all blocks, and its own block */
    void *out;
    int count, block;
    MPI_Datatype type;
} plain_call;

static void blocking(const plain_call *c) {
    if (c->kind == BA_ALLREDUCE)
        MPI_Allreduce(c->all, c->out, c->count, c->type, MPI_SUM, MPI_COMM_WORLD);
    else if (c->kind == BA_REDUCE_SCATTER)
        MPI_Reduce_scatter_block(c->all, c->out, c->block, c->type, MPI_SUM, MPI_COMM_WORLD);
    else if (c->kind == BA_ALLGATHER)
        MPI_Allgather(c->mine, c->block, c->type, c->out, c->block, c->type, MPI_COMM_WORLD);
    else
        MPI_Bcast(c->out, c->count, c->type, 0, MPI_COMM_WORLD);
}

static void nonblocking_and_wait(const plain_call *c) {
    MPI_Request q;
    if (c->kind == BA_ALLREDUCE)
        MPI_Iallreduce(c->all, c->out, c->count, c->type, MPI_SUM, MPI_COMM_WORLD, &q);
    else if (c->kind == BA_REDUCE_SCATTER)
        MPI_Ireduce_scatter_block(c->all, c->out, c->block, c->type, MPI_SUM, MPI_COMM_WORLD, &q);
    else if (c->kind == BA_ALLGATHER)
        MPI_Iallgather(c->mine, c->block, c->type, c->out, c->block, c->type, MPI_COMM_WORLD, &q);
    else
        MPI_Ibcast(c->out, c->count, c->type, 0, MPI_COMM_WORLD, &q);
    MPI_Wait(&q, MPI_STATUS_IGNORE);
}

/* Half the bytes go as 16-bit integers: the same number of values as the fp32 message, and the cheapest sum that MPI has
 * for two bytes. MPI's blocks have one length: the last few values, fewer than ranks, are left out there. */
static double mpi_plain(ba_world *w, bool half, bool nonblocking, const void *in, void *out, uint64_t bytes) {
    size_t elem = half ? 2 : 4, block = bytes / elem / (size_t)w->ranks;
    bool in_place = w->cfg->in_place;
    plain_call c = {.kind = w->cfg->kind,
                    .all = in_place ? MPI_IN_PLACE : in,
                    .mine = in_place ? MPI_IN_PLACE : (const char *)in + (size_t)w->rank * block * elem,
                    .out = out,
                    .count = (int)(bytes / elem),
                    .block = (int)block,
                    .type = half ? MPI_SHORT : MPI_FLOAT};
    MPI_Barrier(MPI_COMM_WORLD);
    double t0 = bc_now();
    (nonblocking ? nonblocking_and_wait : blocking)(&c);
    return bc_now() - t0;
}

static const ba_world_ops mpi_ops = {mpi_barrier, mpi_fold, mpi_share, mpi_now, mpi_plain};

/* Transfers that a deadline left behind would keep MPI_Finalize waiting for ever. */
static void abort_if_stuck(ba_world *w, const tw_comm *comm) {
    tw_comm_stats s = TW_COMM_STATS_INIT;
    if (comm)
        tw_comm_get_stats(comm, &s);
    double leaked = s.leaked_frames;
    w->ops->fold(w, BA_SUM, &leaked, 1);
    if (leaked <= 0)
        return;
    if (w->rank == 0)
        ba_say(w->cfg, "%.0f frames are still under way after the failure: ending by MPI_Abort", leaked);
    fflush(NULL);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Abort(MPI_COMM_WORLD, BC_EXIT_FAILED);
}

static int body_over_mpi(const ba_config *cfg, int (*body)(ba_world *w), const char *library) {
    ba_world w = {.ops = &mpi_ops, .cfg = cfg, .nlocal = 1, .mpi_library = library};
    tw_ctx_config cc = TW_CTX_CONFIG_INIT;
    tw_comm *comm = NULL;
    w.comms = &comm;
    cc.timeout_s = cfg->timeout_s;
    cc.progress = cfg->progress;
    MPI_Comm_rank(MPI_COMM_WORLD, &w.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &w.ranks);
    int status = BC_EXIT_FAILED;
    if (w.ranks == 1 && cfg->ranks > 1) {
        fprintf(stderr,
                "thinwire-bench allreduce: mpirun started %d ranks, but the MPI of this build (%s) sees itself alone: "
                "they belong to different MPIs\n",
                cfg->ranks, library);
        return status;
    }
    if (!ba_failed(&w, w.rank, tw_ctx_create(&cc, &w.ctx), "context"))
        ba_failed(&w, w.rank, tw_comm_create_mpi(w.ctx, MPI_COMM_WORLD, &comm), "communicator");
    if (ba_agree(&w))
        status = body(&w);
    else if (w.rank == 0)
        ba_say(cfg, "%s", w.sentence);
    abort_if_stuck(&w, comm);
    tw_comm_destroy(comm);
    if (w.ctx)
        tw_ctx_destroy(w.ctx);
    return status;
}

int ba_worlds_mpi(const ba_config *cfg, int (*body)(ba_world *w)) {
    static char library[MPI_MAX_LIBRARY_VERSION_STRING];
    int level, length, want = cfg->progress == TW_PROGRESS_THREAD ? MPI_THREAD_MULTIPLE : MPI_THREAD_FUNNELED;
    MPI_Init_thread(NULL, NULL, want, &level);
    MPI_Get_library_version(library, &length);
    library[strcspn(library, "\n,")] = 0;
    for (char *tab = strchr(library, '\t'); tab; tab = strchr(tab, '\t'))
        *tab = ' ';
    int status = body_over_mpi(cfg, body, library);
    /* All ranks give one status: launchers differ in whose they report. */
    MPI_Allreduce(MPI_IN_PLACE, &status, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    MPI_Finalize();
    return status;
}

#else

int ba_worlds_mpi(const ba_config *cfg, int (*body)(ba_world *w)) {
    (void)cfg, (void)body;
    return BC_EXIT_USAGE; /* refused with a sentence when the options were read */
}
#endif
