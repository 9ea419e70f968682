/* SPDX-License-Identifier: BSD-3-Clause
 *
 * charlm: a data-parallel trainer. This file starts the workers: MPI ranks, or threads of one process. */
#include "bits.h"
#include "options.h"
#include "plot.h"
#include "report.h"
#include "text.h"
#include "train.h"

#include <cblas.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thinwire/mpi.h>

typedef struct thread {
    pthread_t id;
    const options *o;
    const text *t;
    tw_comm *comm;
    result r;
} thread;

/* mpirun's rank of this process before MPI_Init, or NULL: usage errors are said once, by rank 0. */
static const char *launcher_rank(void) {
    const char *names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"};
    for (int i = 0; i < 3; i++)
        if (getenv(names[i]))
            return getenv(names[i]);
    return NULL;
}

static int launcher_ranks(void) {
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    size = size ? size : getenv("PMI_SIZE");
    return size ? atoi(size) : 1;
}

/* Whether the workers are MPI ranks; refuses --ranks that would not count, and runs that would be several. */
static int settle_transport(options *o, const char *rank) {
    int mpi = o->transport == TRANSPORT_MPI || (o->transport == TRANSPORT_AUTO && rank);
    if (mpi && o->ranks)
        fail(2, "--ranks is for --transport local; mpirun -n says how many workers MPI has");
    if (!mpi && launcher_ranks() > 1)
        fail(2, "--transport local needs no mpirun: each of its %d processes would run all workers", launcher_ranks());
    if (!o->ranks)
        o->ranks = 4;
    return mpi;
}

static void abort_mpi(int status) {
    MPI_Abort(MPI_COMM_WORLD, status);
}

static void need_ok(tw_status s, const char *what) {
    if (s < 0)
        fail(1, "%s: %s (%s)", what, tw_last_error(), tw_status_name(s));
}

static tw_ctx *make_ctx(const options *o) {
    tw_ctx_config config = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx;
    config.progress = o->progress == PROGRESS_THREAD ? TW_PROGRESS_THREAD : TW_PROGRESS_POLL;
    need_ok(tw_ctx_create(&config, &ctx), "the context");
    return ctx;
}

static int finish(const options *o, const text *t, const result *r, const char *transport) {
    if (r->diverged_at) {
        fprintf(stderr,
                "charlm: training diverged before step %d: the held-out loss is no finite number; try a smaller --lr\n",
                r->diverged_at);
        return 1;
    }
    report_summary(r);
    if (o->json)
        report_json(o, t, r, transport);
    if (o->plot)
        plot_run(o, r);
    return r->identical ? 0 : 1;
}

static void *run_thread(void *arg) {
    thread *me = arg;
    train(me->o, me->t, me->comm, &me->r);
    return NULL;
}

static int run_local(const options *o, const text *t) {
    tw_ctx *ctx = make_ctx(o);
    int n = o->ranks;
    tw_comm **comms = need((size_t)n * sizeof *comms);
    thread *threads = need((size_t)n * sizeof *threads);
    need_ok(tw_comm_create_local(ctx, n, comms), "the local communicator");
    for (int i = 0; i < n; i++) {
        threads[i] = (thread){.o = o, .t = t, .comm = comms[i]};
        if (pthread_create(&threads[i].id, NULL, run_thread, &threads[i]))
            fail(1, "cannot start thread %d of %d", i + 1, n);
    }
    for (int i = 0; i < n; i++)
        pthread_join(threads[i].id, NULL);
    int status = finish(o, t, &threads[0].r, "local");
    for (int i = 0; i < n; i++) {
        need_ok(tw_comm_destroy(comms[i]), "destroy");
        free(threads[i].r.curve);
    }
    free(threads), free(comms);
    need_ok(tw_ctx_destroy(ctx), "destroy");
    return status;
}

static int run_mpi(const options *o, const text *t, int *argc, char ***argv) {
    int wanted = o->progress == PROGRESS_THREAD ? MPI_THREAD_MULTIPLE : MPI_THREAD_FUNNELED, given, status;
    MPI_Init_thread(argc, argv, wanted, &given);
    fail_hook = abort_mpi;
    tw_ctx *ctx = make_ctx(o);
    tw_comm *comm;
    result r;
    need_ok(tw_comm_create_mpi(ctx, MPI_COMM_WORLD, &comm), "the MPI communicator");
    if (tw_comm_size(comm) == 1 && launcher_ranks() > 1)
        fail(1, "mpirun started %d workers, but this program's MPI sees itself alone: they belong to different MPIs",
             launcher_ranks());
    train(o, t, comm, &r);
    status = r.identical && !r.diverged_at ? 0 : 1;
    if (tw_comm_rank(comm) == 0)
        status = finish(o, t, &r, "mpi");
    need_ok(tw_comm_destroy(comm), "destroy");
    need_ok(tw_ctx_destroy(ctx), "destroy");
    free(r.curve);
    MPI_Finalize();
    return status;
}

/* Better before the training than after it. */
static void need_writable(const char *path) {
    FILE *f = path ? fopen(path, "a") : NULL;
    if (path && !f)
        fail(1, "cannot write %s: %s", path, strerror(errno));
    if (f)
        fclose(f);
}

/* Status 1 if what was printed did not arrive. */
static int end_output(int status) {
    errno = 0;
    int lost = fflush(stdout) != 0;
    if (!lost && !ferror(stdout))
        return status;
    fprintf(stderr, "charlm: standard output could not be written%s%s\n", errno ? ": " : "",
            errno ? strerror(errno) : "");
    return status ? status : 1;
}

int main(int argc, char **argv) {
    options o;
    text t;
    const char *rank = launcher_rank();
    int rank0 = !rank || atoi(rank) == 0;
    fail_silent = !rank0;
    options_parse(&o, argc, argv);
    if (o.help) {
        if (rank0)
            options_help();
        return end_output(0);
    }
    if (o.layers) {
        if (rank0)
            report_layers(&o);
        return end_output(0);
    }
    if (o.plot)
        plot_check(&o);
    if (o.plot_from) {
        if (rank0)
            plot_files(&o);
        return end_output(0);
    }
    int use_mpi = settle_transport(&o, rank);
    train_check(&o);
    if (rank0)
        need_writable(o.json), need_writable(o.plot);
    openblas_set_num_threads(1); /* a worker is one core */
    text_load(&t, o.text, o.context);
    fail_silent = 0;
    int status = use_mpi ? run_mpi(&o, &t, &argc, &argv) : run_local(&o, &t);
    text_free(&t);
    return end_output(status);
}
