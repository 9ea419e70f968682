/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `sim`: creation, pumps and the clock. See sim.h for the model. */
#include "transports/sim_impl.h"

#include <stdarg.h>
#include <stdio.h>

#define FIRST_STEP  1e-3 /* of the clock when nothing is left that could happen: only deadlines can be waited for */
#define STEP_GROWTH 1.25 /* keeps the overshoot under a quarter of the time waited */
#define IDLE_SPAN   1e-3 /* virtual time after which idle() returns so that the caller can look at its deadline */

tw_status tw_sim_error(tw_sim *s, tw_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(s->error, sizeof s->error, format, args);
    va_end(args);
    return tw_fail(status, "%s", s->error);
}

static const char *sim_error(void *t) {
    return ((tw_sim_end *)t)->sim->error;
}

/* ---- pumps: a queue of ranks that may have something to do ---- */

static void mark(tw_sim_end *e) {
    tw_sim *s = e->sim;
    if (e->queued || e->pump == NULL)
        return;
    e->queued = true;
    s->run[(s->run_first + s->run_count) % (uint32_t)s->cfg.ranks] = e->rank;
    s->run_count++;
}

static void mark_all(tw_sim *s) {
    for (int32_t r = 0; r < s->cfg.ranks; r++)
        mark(&s->end[r]);
}

void tw_sim_touch(tw_sim_end *e) {
    if (!e->pumping)
        mark(e);
}

/* Pumps until no rank has anything to do. A rank that is being pumped, or waits in idle(), gets its turn afterwards. */
static bool run_ranks(tw_sim *s) {
    bool any = false;
    while (s->run_count > 0) {
        tw_sim_end *e = &s->end[s->run[s->run_first]];
        s->run_first = (s->run_first + 1) % (uint32_t)s->cfg.ranks;
        s->run_count--;
        e->queued = false;
        if (e->pumping) {
            e->skipped = true;
            continue;
        }
        if (e->pump == NULL)
            continue;
        e->pumping = true;
        bool progress = e->pump(e->pump_arg) > 0;
        e->pumping = false;
        if (progress || e->skipped)
            mark(e);
        e->skipped = false;
        any = any || progress;
    }
    return any;
}

void tw_sim_complete(tw_sim_end *e, uint64_t cookie, tw_status status, size_t len) {
    e->done[(e->done_first + e->done_count) % e->done_cap] = (tw_done){cookie, status, len};
    e->done_count++;
    mark(e);
}

/* ---- clock ---- */

static void wake(tw_sim_end *e) {
    e->wake_armed = e->busy_until > e->sim->now;
    if (e->wake_armed)
        tw_sim_push(e->sim, e->busy_until, TW_SIM_WAKE, e, 0);
}

static void detect(tw_sim_end *e, uint32_t epoch) {
    if (epoch != e->epoch || e->life == TW_SIM_ALIVE)
        return; /* taken anew since */
    e->detected = true;
    tw_sim_net_detect(e);
    tw_sim_sum_break(e->sim);
}

static void handle(tw_sim *s, const tw_sim_event *ev) {
    switch ((tw_sim_event_kind)ev->kind) {
    case TW_SIM_LEAVE:
    case TW_SIM_HEAD:
    case TW_SIM_ARRIVE:
        tw_sim_net_event(s, ev);
        break;
    case TW_SIM_SUM:
        tw_sim_sum_event(s, ev->what);
        break;
    case TW_SIM_DETECT:
        s->detections--;
        detect(ev->what, ev->epoch);
        break;
    case TW_SIM_WAKE:
        wake(ev->what);
        break;
    }
}

/* Moves the clock to the next event and lets all of that time happen; false if there is none. */
static bool advance(tw_sim *s) {
    if (s->heap_count == 0)
        return false;
    s->now = tw_sim_later(s->now, s->heap[0].time);
    while (s->heap_count > 0 && s->heap[0].time <= s->now) {
        tw_sim_event ev = tw_sim_pop(s);
        handle(s, &ev);
    }
    s->step = FIRST_STEP;
    return true;
}

static void sim_idle(void *t) {
    tw_sim_end *e = t;
    tw_sim *s = e->sim;
    bool nested = e->pumping;
    double until = s->now + IDLE_SPAN;
    e->pumping = true;
    if (!nested && s->last_idle != e->rank) { /* user code ran: any rank may have been given work */
        s->last_idle = e->rank;
        s->step = FIRST_STEP;
        mark_all(s);
    }
    while (e->done_count == 0 && s->now < until) {
        run_ranks(s);
        if (e->done_count > 0 || advance(s))
            continue;
        if (!nested) /* from inside pumps this would go round in circles */
            mark_all(s);
        if (!run_ranks(s) && s->heap_count == 0 && e->done_count == 0) {
            s->now += s->step;
            s->step *= STEP_GROWTH;
            break;
        }
    }
    e->pumping = nested;
    if (e->skipped && !nested) {
        e->skipped = false;
        mark(e);
    }
}

static double sim_clock(void *t) {
    const tw_sim_end *e = t;
    return tw_sim_later(e->sim->now, e->busy_until);
}

static void sim_charge(void *t, uint32_t kernel, uint64_t values) {
    tw_sim_end *e = t;
    tw_sim *s = e->sim;
    (void)kernel; /* one speed for all */
    tw_sim_touch(e);
    if (s->cfg.compute_values_per_s <= 0 || values == 0)
        return;
    e->busy_until = tw_sim_later(s->now, e->busy_until) + (double)values / s->cfg.compute_values_per_s;
    if (!e->wake_armed && e->life != TW_SIM_CLOSED)
        wake(e); /* or the clock could end before the computing does */
}

tw_status tw_sim_run(tw_sim *s) {
    if (s == NULL)
        return tw_fail(TW_ERR_ARG, "tw_sim_run: the sim is NULL");
    s->last_idle = -1;
    mark_all(s);
    for (;;) {
        run_ranks(s);
        if (advance(s))
            continue;
        mark_all(s);
        if (!run_ranks(s) && s->heap_count == 0)
            return TW_OK;
    }
}

/* ---- endpoints ---- */

static int sim_poll(void *t, tw_done *done, int cap) {
    tw_sim_end *e = t;
    int n = 0;
    for (; n < cap && e->done_count > 0; n++) {
        done[n] = e->done[e->done_first];
        e->done_first = (e->done_first + 1) % e->done_cap;
        e->done_count--;
        e->open--;
        if (done[n].status == TW_ERR_PEER)
            snprintf(e->sim->error, sizeof e->sim->error, "rank %d: a peer is gone", e->rank);
    }
    if (n > 0)
        tw_sim_touch(e);
    return n;
}

static tw_status sim_allgather(void *t, const void *mine, void *all, size_t bytes) {
    tw_sim_end *e = t;
    (void)mine, (void)all, (void)bytes;
    return tw_sim_error(e->sim, TW_ERR_UNSUPPORTED,
                        "sim: a blocking allgather cannot work in one thread; use tw_sim_comms and tw_sim_reducers");
}

static void drop_all(tw_sim_end *e, bool for_good) {
    e->epoch++;
    tw_sim_net_drop(e, for_good);
    tw_sim_sum_drop(e);
    e->done_count = 0;
    e->open = 0;
}

static void sim_abandon(void *t) {
    tw_sim_end *e = t;
    tw_sim_touch(e);
    drop_all(e, false);
}

void tw_sim_gone(tw_sim_end *e, tw_sim_life how) {
    tw_sim *s = e->sim;
    e->life = how;
    drop_all(e, true);
    if (!s->cfg.detects || e->detected)
        return;
    if (!tw_sim_reserve_events(s, 1)) {
        detect(e, e->epoch); /* at once rather than never */
        return;
    }
    s->detections++;
    tw_sim_push(s, s->now + s->cfg.latency_s, TW_SIM_DETECT, e, e->epoch);
}

static void sim_close(void *t) {
    tw_sim_end *e = t;
    tw_sim *s = e->sim;
    e->pump = NULL;
    e->taken = false;
    tw_sim_gone(e, e->life == TW_SIM_DEAD ? TW_SIM_DEAD : TW_SIM_CLOSED);
    if (--s->open_ends == 0)
        tw_sim_sum_restart(s);
}

static const tw_transport_ops sim_ops = {
    .size = sizeof(tw_transport_ops),
    .caps = TW_CAP_ABANDON | TW_CAP_FAST_SUM,
    .name = "sim",
    .oob_allgather = sim_allgather,
    .post = tw_sim_post,
    .poll = sim_poll,
    .close = sim_close,
    .native_sum = tw_sim_native_sum,
    .abandon = sim_abandon,
    .clock = sim_clock,
    .charge = sim_charge,
    .idle = sim_idle,
    .error = sim_error,
};

tw_status tw_sim_endpoint(tw_sim *s, int rank, const tw_transport_ops **ops, void **t) {
    if (s == NULL || ops == NULL || t == NULL)
        return tw_fail(TW_ERR_ARG, "sim endpoint: an argument is NULL");
    if (rank < 0 || rank >= s->cfg.ranks)
        return tw_sim_error(s, TW_ERR_ARG, "sim endpoint: rank %d of %d", rank, (int)s->cfg.ranks);
    tw_sim_end *e = &s->end[rank];
    if (e->taken)
        return tw_sim_error(s, TW_ERR_ARG, "sim endpoint: rank %d is in use", rank);
    e->taken = true;
    s->open_ends++;
    if (e->life == TW_SIM_CLOSED) {
        e->life = TW_SIM_ALIVE;
        e->detected = false;
        if (rank == s->cfg.dead_rank && s->cfg.dead_after == 0)
            tw_sim_gone(e, TW_SIM_DEAD);
    }
    *ops = &s->ops;
    *t = e;
    return TW_OK;
}

void tw_sim_attach(tw_sim *s, int rank, int (*pump)(void *arg), void *arg) {
    s->end[rank].pump = pump;
    s->end[rank].pump_arg = arg;
    mark(&s->end[rank]);
}

int tw_sim_ranks(const tw_sim *s) {
    return s->cfg.ranks;
}
tw_ctx *tw_sim_ctx(const tw_sim *s) {
    return s->ctx;
}
double tw_sim_now(const tw_sim *s) {
    return s == NULL ? 0 : s->now;
}

void tw_sim_counters(const tw_sim *s, int rank, uint64_t *frames, uint64_t *bytes) {
    bool valid = s != NULL && rank >= 0 && rank < s->cfg.ranks;
    if (frames != NULL)
        *frames = valid ? s->end[rank].sent_frames : 0;
    if (bytes != NULL)
        *bytes = valid ? s->end[rank].sent_bytes : 0;
}

/* ---- creation ---- */

static tw_status check_config(const tw_sim_config *c) {
    const struct {
        const char *name;
        double value, most;
    } numbers[] = {{"latency_s", c->latency_s, 1e9},   {"jitter_s", c->jitter_s, 1e9},
                   {"bandwidth", c->bandwidth, 1e300}, {"compute_values_per_s", c->compute_values_per_s, 1e300},
                   {"reorder", c->reorder, 1},         {"loss", c->loss, 1},
                   {"corruption", c->corruption, 1},   {"truncation", c->truncation, 1}};
    if (c->ranks < 1)
        return tw_fail(TW_ERR_ARG, "sim: %d ranks; at least 1 is needed", (int)c->ranks);
    if (c->dead_rank < -1 || c->dead_rank >= c->ranks)
        return tw_fail(TW_ERR_ARG, "sim: dead_rank %d of %d ranks", (int)c->dead_rank, (int)c->ranks);
    for (size_t i = 0; i < TW_ARRAY_LEN(numbers); i++)
        if (!(numbers[i].value >= 0 && numbers[i].value <= numbers[i].most))
            return tw_fail(TW_ERR_ARG, "sim: %s = %g; it must be in [0, %g]", numbers[i].name, numbers[i].value,
                           numbers[i].most);
    return TW_OK;
}

static void sim_free(tw_sim *s) {
    tw_ctx *c = s->ctx;
    for (int32_t r = 0; s->end != NULL && r < s->cfg.ranks; r++)
        tw_free(c, s->end[r].done);
    tw_sim_sum_free(s);
    tw_sim_free_pools(s);
    tw_free(c, s->run);
    tw_free(c, s->end);
    tw_free(c, s);
}

tw_status tw_sim_create(tw_ctx *c, const tw_sim_config *cfg, tw_sim **out) {
    if (out == NULL)
        return tw_fail(TW_ERR_ARG, "tw_sim_create: out is NULL");
    tw_sim_config mine = TW_SIM_CONFIG_INIT;
    const tw_sim_config *use = &mine;
    tw_status status =
        cfg != NULL ? tw_sized_take(TW_SIZED(tw_sim_config, latency_s), "tw_sim_create", cfg, &mine) : TW_OK;
    if (status == TW_OK)
        status = check_config(use);
    if (status == TW_OK)
        status = tw_ctx_resolve(c, &c);
    if (status != TW_OK)
        return status;
    tw_sim *s = tw_alloc(c, sizeof *s);
    if (s == NULL)
        return TW_ERR_NOMEM;
    s->ctx = c;
    s->cfg = *use;
    s->ops = sim_ops;
    s->ops.caps |= use->detects ? TW_CAP_DETECTS : 0;
    s->step = FIRST_STEP;
    s->last_idle = -1;
    s->end = tw_alloc(c, (uint64_t)use->ranks * sizeof *s->end);
    s->run = s->end == NULL ? NULL : tw_alloc(c, (uint64_t)use->ranks * sizeof *s->run);
    if (s->run == NULL || !tw_sim_reserve_events(s, 1)) {
        sim_free(s);
        return TW_ERR_NOMEM;
    }
    for (int32_t r = 0; r < use->ranks; r++) {
        s->end[r].sim = s;
        s->end[r].rank = r;
    }
    tw_ctx_retain(c);
    *out = s;
    return TW_OK;
}

tw_status tw_sim_destroy(tw_sim *s) {
    if (s == NULL)
        return TW_OK;
    if (s->open_ends > 0)
        return tw_sim_error(s, TW_ERR_ARG, "tw_sim_destroy: %d communicators of the sim still exist", s->open_ends);
    tw_ctx *c = s->ctx;
    sim_free(s);
    tw_ctx_release(c);
    return TW_OK;
}
