/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Life of a communicator: creation, the progress thread, destruction. */
#include "reducer/comm.h"
#include "reducer/op.h"
#include "transports/local.h"
#include "transports/sim.h"
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <thinwire/experimental.h>
#include <time.h>

typedef struct hello {
    uint32_t magic, wire_version, size, rank;
} hello;

/* *mine holds no function that the caller does not know. */
static tw_status take_ops(const tw_transport_ops *ops, int rank, int size, tw_transport_ops *mine) {
    memset(mine, 0, sizeof *mine);
    tw_status s = tw_sized_take(TW_SIZED(tw_transport_ops, native_sum), "tw_comm_create", ops, mine);
    if (s < 0)
        return s;
    if (!mine->name || !mine->oob_allgather || !mine->post || !mine->poll || !mine->close)
        return tw_fail(TW_ERR_ARG, "a transport needs size, name, oob_allgather, post, poll and close");
    if (size < 1 || rank < 0 || rank >= size)
        return tw_fail(TW_ERR_ARG, "rank %d of %d ranks", rank, size);
    return TW_OK;
}

tw_status tw_comm_gather(tw_comm *c, const char *what, const void *mine, void *all, size_t bytes) {
    tw_status s = c->ops.oob_allgather(c->t, mine, all, bytes);
    if (s >= 0)
        return s;
    tw_fail(s, "%s, rank %d of %d, %s transport: %s", what, c->rank, c->size, c->ops.name,
            c->ops.error ? c->ops.error(c->t) : "the first message of all could not be exchanged");
    if (s == TW_ERR_TIMEOUT) {
        c->stats.leaked_frames += !(c->ops.caps & TW_CAP_ABANDON); /* the transport keeps what it still works on */
        tw_comm_poison(c, s, true);
    }
    return s;
}

/* Are these ranks talking the same language? */
static tw_status greet(tw_comm *c) {
    hello mine = {TW_MAGIC, TW_WIRE_VERSION, (uint32_t)c->size, (uint32_t)c->rank};
    hello *all = tw_alloc(c->ctx, (uint64_t)c->size * sizeof *all);
    if (!all)
        return TW_ERR_NOMEM;
    tw_status s = tw_comm_gather(c, "creating the communicator", &mine, all, sizeof mine);
    for (int r = 0; r < c->size && s >= 0; r++)
        if (all[r].magic != TW_MAGIC || all[r].wire_version != TW_WIRE_VERSION || all[r].size != (uint32_t)c->size ||
            all[r].rank != (uint32_t)r)
            s = tw_fail(TW_ERR_MISMATCH,
                        "rank %d says it is rank %u of %u with wire version %u; here: rank %d of %d, %u", r,
                        all[r].rank, all[r].size, all[r].wire_version, c->rank, c->size, TW_WIRE_VERSION);
    tw_free(c->ctx, all);
    return s;
}

/* Once per communicator: seconds of the fastest of some allgathers, of the rank that it took longest. All ranks take part
 * at once, as they will in an op. Where ranks share cores a round may wait for its turn, so the best one counts. */
static tw_status measure_link(tw_comm *c) {
    enum { BYTES = 1 << 18, ROUNDS = 4 };
    if (c->size == 1 || !(c->ops.caps & TW_CAP_NETWORK))
        return TW_OK;
    size_t block = tw_ceil_div(BYTES, (unsigned)c->size - 1);
    uint8_t *all = tw_alloc(c->ctx, ((uint64_t)c->size + 1) * block);
    double *took = tw_alloc(c->ctx, ((uint64_t)c->size + 1) * sizeof *took), best = INFINITY, slowest = 0;
    tw_status s = all && took ? TW_OK : TW_ERR_NOMEM;
    for (int i = 0; i < ROUNDS && s >= 0; i++) {
        double t = tw_comm_clock(c);
        s = tw_comm_gather(c, "measuring the network", all + (size_t)c->size * block, all, block);
        t = tw_comm_clock(c) - t;
        best = t < best ? t : best;
    }
    if (s >= 0)
        s = tw_comm_gather(c, "measuring the network", &best, took, sizeof best);
    for (int r = 0; r < c->size && s >= 0; r++)
        slowest = took[r] > slowest ? took[r] : slowest;
    if (s >= 0 && slowest > 0)
        c->stats.link_rate = (uint64_t)((double)block * (c->size - 1) / slowest);
    tw_free(c->ctx, took);
    tw_free(c->ctx, all);
    return s;
}

/* A receive from each peer stands all the time, for the frame by which a rank that fails alone tells the others. */
static tw_status stand_by(tw_comm *c) {
    if (c->size == 1)
        return TW_OK;
    c->poison_bytes = c->size <= 64 ? TW_POISON_BYTES : 64;
    c->poison_in = tw_alloc(c->ctx, (uint64_t)c->poison_bytes * (unsigned)c->size);
    c->poison_out = tw_alloc(c->ctx, c->poison_bytes);
    if (!c->poison_in || !c->poison_out)
        return TW_ERR_NOMEM;
    for (int r = 0; r < c->size; r++) {
        tw_xfer x = {.peer = r,
                     .tag = TW_POISON_TAG,
                     .buf = c->poison_in + (size_t)r * c->poison_bytes,
                     .len = c->poison_bytes,
                     .cookie = (uint64_t)UINT32_MAX << 32 | (uint32_t)r};
        tw_status s = r == c->rank ? TW_OK : c->ops.post(c->t, &x);
        if (s < 0)
            return tw_fail(s, "%s transport: cannot receive from rank %d", c->ops.name, r);
    }
    return TW_OK;
}

static void *progress_main(void *arg) {
    tw_comm *c = arg;
    unsigned idle = 0;
    tw_comm_lock(c);
    while (!c->stop) {
        if (!c->first || c->poisoned < 0) {
            pthread_cond_wait(&c->moved, &c->lock);
            continue;
        }
        idle = tw_comm_pump(c) > 0 ? 0 : idle + 1;
        tw_comm_unlock(c);
        if (idle < 16)
            sched_yield();
        else
            nanosleep(&(struct timespec){0, 50000}, NULL);
        tw_comm_lock(c);
    }
    tw_comm_unlock(c);
    return NULL;
}

static void release(tw_comm *c) {
    bool in_flight = c->poisoned < 0 && !(c->ops.caps & TW_CAP_ABANDON);
    if (!in_flight) { /* else a transfer that cannot be stopped may still touch them */
        tw_free(c->ctx, c->poison_in);
        tw_free(c->ctx, c->poison_out);
        tw_faults_free(c->faults);
    }
    tw_free(c->ctx, c->table);
    tw_free(c->ctx, c->block_layer);
    tw_free(c->ctx, c->block_piece);
    pthread_cond_destroy(&c->moved);
    pthread_mutex_destroy(&c->lock);
    tw_ctx *ctx = c->ctx;
    tw_free(ctx, c);
    tw_ctx_release(ctx);
}

static tw_status set_up(tw_comm *c, bool greeting) {
    tw_status s = tw_faults_make(c->ctx, &tw_env_get()->faults, c->rank, c->size, &c->faults);
    if (s >= 0 && greeting)
        s = greet(c);
    if (s >= 0 && greeting)
        s = measure_link(c);
    if (s >= 0)
        s = stand_by(c);
    if (s < 0 || c->ctx->cfg.progress != TW_PROGRESS_THREAD)
        return s;
    if (pthread_create(&c->thread, NULL, progress_main, c) != 0)
        return tw_fail(TW_ERR_NOMEM, "the progress thread could not be started");
    c->threaded = true;
    return TW_OK;
}

static void say_made(const tw_comm *c) {
    char link[64] = "not measured";
    const char *why;
    const char *isa = tw_isa_chosen(&why);
    if (c->stats.link_rate)
        snprintf(link, sizeof link, "%.1f MB/s into the slowest rank", 1e-6 * (double)c->stats.link_rate);
    tw_log(c->ctx, TW_LOG_INFO, "rank %d of %d: communicator over %s, progress %s; codecs run as %s: %s; link: %s",
           c->rank, c->size, c->ops.name, c->threaded ? "thread" : "poll", isa, why, link);
}

static tw_status make(tw_ctx *given, const tw_transport_ops *ops, void *t, int rank, int size, bool greeting,
                      tw_comm **out) {
    tw_ctx *ctx;
    if (!out)
        return tw_fail(TW_ERR_ARG, "tw_comm_create: out is NULL");
    tw_transport_ops mine;
    tw_status s = take_ops(ops, rank, size, &mine);
    if (s >= 0)
        s = tw_ctx_resolve(given, &ctx);
    if (s < 0)
        return s;
    tw_comm *c = tw_alloc(ctx, sizeof *c);
    if (!c)
        return TW_ERR_NOMEM;
    c->ops = mine;
    c->ctx = ctx;
    c->t = t;
    c->rank = rank;
    c->size = size;
    c->stats.size = sizeof c->stats;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->moved, NULL);
    tw_ctx_retain(ctx);
    s = set_up(c, greeting);
    if (s < 0) {
        if ((c->ops.caps & TW_CAP_ABANDON) && c->ops.abandon)
            c->ops.abandon(t);
        release(c);
        return s;
    }
    say_made(c);
    *out = c;
    return TW_OK;
}

tw_status tw_comm_create(tw_ctx *ctx, const tw_transport_ops *ops, void *t, int rank, int size, tw_comm **out) {
    return make(ctx, ops, t, rank, size, true, out);
}

tw_status tw_comm_create_local(tw_ctx *given, int size, tw_comm *out[]) {
    tw_ctx *ctx;
    const tw_transport_ops *ops;
    if (!out || size < 1 || size > 4096)
        return tw_fail(TW_ERR_ARG, "tw_comm_create_local: %d ranks; 1 to 4096 and a place for each", size);
    tw_status s = tw_ctx_resolve(given, &ctx);
    void **end = s < 0 ? NULL : tw_alloc(ctx, (uint64_t)size * sizeof *end);
    if (s < 0 || !end)
        return s < 0 ? s : TW_ERR_NOMEM;
    s = tw_local_create(ctx, size, &ops, end);
    int made = 0;
    while (s >= 0 && made < size) {
        s = make(ctx, ops, end[made], made, size, false, &out[made]);
        made += s >= 0;
    }
    if (s < 0 && made < size && end[0]) {
        for (int r = 0; r < size; r++)
            if (r < made)
                tw_comm_destroy(out[r]);
            else
                ops->close(end[r]);
        memset(out, 0, (size_t)size * sizeof *out);
    }
    tw_free(ctx, end);
    return s < 0 ? s : TW_OK;
}

static int pump_for_sim(void *arg) {
    tw_comm *c = arg;
    tw_comm_lock(c);
    int moved = tw_comm_pump(c);
    tw_comm_unlock(c);
    return moved;
}

tw_status tw_sim_comms(tw_sim *sim, tw_ctx *given, tw_comm *comms[]) {
    if (!sim || !comms)
        return tw_fail(TW_ERR_ARG, "tw_sim_comms: NULL");
    int size = tw_sim_ranks(sim), made = 0;
    tw_status s = TW_OK;
    if (tw_ctx_progress(given) == TW_PROGRESS_THREAD)
        return tw_fail(TW_ERR_ARG, "sim is one thread by design: a context with POLL progress is needed");
    for (; made < size && s >= 0; made++) {
        const tw_transport_ops *ops;
        void *t;
        s = tw_sim_endpoint(sim, made, &ops, &t);
        if (s < 0)
            break;
        s = make(given, ops, t, made, size, false, &comms[made]);
        if (s < 0) {
            ops->close(t);
            break;
        }
        tw_sim_attach(sim, made, pump_for_sim, comms[made]);
    }
    while (s < 0 && made > 0) {
        tw_comm_destroy(comms[--made]);
        comms[made] = NULL;
    }
    return s;
}

int tw_comm_rank(const tw_comm *c) {
    return c ? c->rank : -1;
}
int tw_comm_size(const tw_comm *c) {
    return c ? c->size : -1;
}

tw_status tw_comm_progress(tw_comm *c) {
    if (!c)
        return tw_fail(TW_ERR_ARG, "tw_comm_progress: NULL");
    tw_comm_lock(c);
    if (!c->threaded)
        tw_comm_pump(c);
    tw_status s = tw_comm_refuses(c);
    tw_comm_unlock(c);
    return s;
}

tw_status tw_comm_get_stats(const tw_comm *c, tw_comm_stats *out) {
    const tw_sized *stats = TW_SIZED(tw_comm_stats, sent_bytes);
    tw_status s = c ? tw_sized_check(stats, "tw_comm_get_stats", out)
                    : tw_fail(TW_ERR_ARG, "tw_comm_get_stats: the communicator is NULL");
    if (s < 0)
        return s;
    tw_comm_lock((tw_comm *)c);
    tw_sized_fill(stats, out, &c->stats);
    tw_comm_unlock((tw_comm *)c);
    return TW_OK;
}

tw_status tw_comm_destroy(tw_comm *c) {
    if (!c)
        return TW_OK;
    if (c->users)
        return tw_fail(TW_ERR_ARG, "rank %d: %u reducers or requests of this communicator still exist", c->rank,
                       c->users);
    if (c->threaded) {
        tw_comm_lock(c);
        c->stop = true;
        pthread_cond_broadcast(&c->moved);
        tw_comm_unlock(c);
        pthread_join(c->thread, NULL);
    }
    if ((c->ops.caps & TW_CAP_ABANDON) && c->ops.abandon)
        c->ops.abandon(c->t);
    tw_op_free_all(&c->cached);
    c->ops.close(c->t);
    if (c->stats.leaked_frames)
        tw_log(c->ctx, TW_LOG_WARN, "rank %d: %u frames stay in the transport's hands and are not freed", c->rank,
               c->stats.leaked_frames);
    const tw_comm_stats *t = &c->stats;
    tw_log(
        c->ctx, TW_LOG_INFO,
        "rank %d of %d: communicator destroyed; %llu bytes sent in %llu frames, %llu received in %llu, %llu given to "
        "native sums",
        c->rank, c->size, (unsigned long long)t->sent_bytes, (unsigned long long)t->sent_frames,
        (unsigned long long)t->received_bytes, (unsigned long long)t->received_frames,
        (unsigned long long)t->native_bytes);
    release(c);
    return TW_OK;
}
