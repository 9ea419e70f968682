/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Worlds without MPI: local (a thread a rank) and sim (one thread drives all ranks). */
#include "bench_allreduce.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- failures ---- */

bool ba_problem(ba_world *w, int rank, const char *format, ...) {
    va_list ap;
    if (w->failure < 0)
        return true;
    w->failure = TW_ERR_ARG;
    w->failed_rank = rank;
    int n = snprintf(w->sentence, sizeof w->sentence, "rank %d: ", rank);
    va_start(ap, format);
    vsnprintf(w->sentence + n, sizeof w->sentence - (size_t)n, format, ap);
    va_end(ap);
    return true;
}

bool ba_failed(ba_world *w, int rank, tw_status s, const char *what) {
    if (s >= 0)
        return false;
    const char *sentence = tw_last_error();
    ba_problem(w, rank, "%s: %s (%s)", what, *sentence ? sentence : tw_status_text(s), tw_status_name(s));
    return true;
}

bool ba_agree(ba_world *w) {
    double first = w->failure < 0 ? (double)(w->ranks - w->failed_rank) : 0.0;
    w->ops->fold(w, BA_MAX, &first, 1);
    if (first <= 0)
        return true;
    w->ops->share(w, w->ranks - (int)first, w->sentence);
    w->failure = TW_ERR_ARG;
    return false;
}

double ba_share(const ba_world *w) {
    double p = w->ranks, passes = w->cfg->what->passes;
    return passes > 0 ? passes * (p - 1) / p : p > 1;
}

static bool make_ctx(const ba_config *cfg, tw_ctx **ctx) {
    tw_ctx_config cc = TW_CTX_CONFIG_INIT;
    cc.timeout_s = cfg->timeout_s;
    cc.progress = cfg->progress;
    if (tw_ctx_create(&cc, ctx) >= 0)
        return true;
    ba_say(cfg, "context: %s", tw_last_error());
    return false;
}

/* ---- local ---- */

typedef struct local_shared {
    pthread_barrier_t barrier;
    double (*values)[BA_FOLD_CAP];
    char text[BA_TEXT];
} local_shared;

typedef struct local_thread {
    ba_world world;
    tw_comm *comm;
    int (*body)(ba_world *w);
    int status;
    pthread_t id;
} local_thread;

static void local_barrier(ba_world *w) {
    local_shared *s = w->impl;
    pthread_barrier_wait(&s->barrier);
}

static void local_fold(ba_world *w, ba_fold how, double *v, int n) {
    local_shared *s = w->impl;
    memcpy(s->values[w->rank], v, (size_t)n * sizeof *v);
    local_barrier(w);
    for (int i = 0; i < n; i++) {
        double x = s->values[0][i];
        for (int r = 1; r < w->ranks; r++) {
            double y = s->values[r][i];
            x = how == BA_SUM ? x + y : x > y ? x : y;
        }
        v[i] = x;
    }
    local_barrier(w);
}

static void local_share(ba_world *w, int from, char *text) {
    local_shared *s = w->impl;
    if (w->rank == from)
        memcpy(s->text, text, BA_TEXT);
    local_barrier(w);
    if (w->rank != from)
        memcpy(text, s->text, BA_TEXT);
    local_barrier(w);
}

static double wall(ba_world *w) {
    (void)w;
    return bc_now();
}

static const ba_world_ops local_ops = {local_barrier, local_fold, local_share, wall, NULL};

static void *local_main(void *arg) {
    local_thread *t = arg;
    t->status = t->body(&t->world);
    return NULL;
}

/* Rank 0 runs in the caller's thread. */
static int local_start(const ba_config *cfg, local_thread *threads, local_shared *s, int (*body)(ba_world *w),
                       tw_ctx *ctx, tw_comm **comms) {
    int started = 1;
    for (int r = 0; r < cfg->ranks; r++) {
        local_thread *t = &threads[r];
        t->comm = comms[r];
        t->body = body;
        t->world = (ba_world){.ops = &local_ops,
                              .cfg = cfg,
                              .rank = r,
                              .nlocal = 1,
                              .ranks = cfg->ranks,
                              .shares_process = true,
                              .ctx = ctx,
                              .comms = &t->comm,
                              .impl = s};
    }
    while (started < cfg->ranks && !pthread_create(&threads[started].id, NULL, local_main, &threads[started]))
        started++;
    if (started < cfg->ranks) { /* the others wait at a barrier that can never fill */
        ba_say(cfg, "thread %d of %d could not be started", started, cfg->ranks);
        exit(BC_EXIT_FAILED);
    }
    local_main(&threads[0]);
    for (int r = 1; r < cfg->ranks; r++)
        pthread_join(threads[r].id, NULL);
    return threads[0].status;
}

static int run_local(const ba_config *cfg, int (*body)(ba_world *w)) {
    size_t n = (size_t)cfg->ranks;
    local_shared shared = {.values = calloc(n, sizeof *shared.values)};
    local_thread *threads = calloc(n, sizeof *threads);
    tw_comm **comms = calloc(n, sizeof *comms);
    tw_ctx *ctx = NULL;
    int status = BC_EXIT_FAILED;
    if (shared.values && threads && comms && make_ctx(cfg, &ctx)) {
        pthread_barrier_init(&shared.barrier, NULL, (unsigned)cfg->ranks);
        if (tw_comm_create_local(ctx, cfg->ranks, comms) < 0)
            ba_say(cfg, "communicators: %s", tw_last_error());
        else
            status = local_start(cfg, threads, &shared, body, ctx, comms);
        for (size_t r = 0; r < n; r++)
            tw_comm_destroy(comms[r]);
        pthread_barrier_destroy(&shared.barrier);
        tw_ctx_destroy(ctx);
    }
    free(comms);
    free(threads);
    free(shared.values);
    return status;
}

/* ---- sim ---- */

static void sim_barrier(ba_world *w) {
    (void)w;
}

static void sim_fold(ba_world *w, ba_fold how, double *v, int n) {
    (void)w, (void)how, (void)v, (void)n;
}

static void sim_share(ba_world *w, int from, char *text) {
    (void)w, (void)from, (void)text;
}

static double sim_now(ba_world *w) {
    return tw_sim_now(w->sim);
}

static const ba_world_ops sim_ops = {sim_barrier, sim_fold, sim_share, sim_now, NULL};

static int run_sim(const ba_config *cfg, int (*body)(ba_world *w)) {
    ba_world w = {.ops = &sim_ops, .cfg = cfg, .nlocal = cfg->ranks, .ranks = cfg->ranks};
    tw_sim_config sc = TW_SIM_CONFIG_INIT;
    int status = BC_EXIT_FAILED;
    sc.ranks = cfg->ranks;
    sc.seed = cfg->seed;
    sc.latency_s = cfg->latency_s;
    sc.jitter_s = cfg->jitter_s;
    sc.bandwidth = cfg->goodput_bits / 8;
    sc.compute_values_per_s = cfg->compute;
    w.comms = calloc((size_t)cfg->ranks, sizeof *w.comms);
    if (!w.comms || !make_ctx(cfg, &w.ctx))
        goto out;
    if (tw_sim_create(w.ctx, &sc, &w.sim) < 0 || tw_sim_comms(w.sim, w.ctx, w.comms) < 0)
        ba_say(cfg, "simulation: %s", tw_last_error());
    else
        status = body(&w);
    for (int r = 0; r < cfg->ranks; r++)
        tw_comm_destroy(w.comms[r]);
    if (w.sim)
        tw_sim_destroy(w.sim);
    tw_ctx_destroy(w.ctx);
out:
    free(w.comms);
    return status;
}

int ba_worlds(const ba_config *cfg, int (*body)(ba_world *w)) {
    return cfg->transport == BA_MPI     ? ba_worlds_mpi(cfg, body)
           : cfg->transport == BA_LOCAL ? run_local(cfg, body)
                                        : run_sim(cfg, body);
}
