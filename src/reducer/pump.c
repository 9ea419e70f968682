/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The pump: takes ready actions from the runner, computes, posts transfers, hands completions back. The same for every
 * transport. */
#include "reducer/comm.h"
#include <sched.h>
#include <stdio.h>
#include <time.h>

#define BATCH 64

double tw_comm_clock(tw_comm *c) {
    struct timespec t;
    if (c->ops.clock)
        return c->ops.clock(c->t);
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void tw_comm_lock(tw_comm *c) {
    pthread_mutex_lock(&c->lock);
}
void tw_comm_unlock(tw_comm *c) {
    pthread_mutex_unlock(&c->lock);
}

tw_status tw_comm_refuses(const tw_comm *c) {
    return c->poisoned < 0 ? tw_fail(TW_ERR_POISONED, "rank %d: refused after an earlier fault: %s", c->rank, c->why)
                           : TW_OK;
}

/* ---- ends of ops ---- */

static void unlink_op(tw_comm *c, tw_op *op) {
    tw_op **p = &c->first, *last = NULL;
    while (*p != op) {
        last = *p;
        p = &(*p)->next;
    }
    *p = op->next;
    if (c->last == op)
        c->last = last;
    op->next = NULL;
}

static void finish(tw_op *op) {
    unlink_op(op->comm, op);
    op->finished = true;
    if (op->comm->threaded)
        pthread_cond_broadcast(&op->comm->moved);
}

/* All frames were good: a fault that comes between two of an op's decodes must not leave its outputs half written. */
static void write_the_rest(tw_op *op) {
    uint32_t action, len;
    while (op->writing && tw_run_next(op->run, TW_LANE_OUTPUT, &action)) {
        (void)tw_exec_run(&op->x, &op->plan->action[action], &len); /* only decodes are left, and they cannot fail */
        tw_run_done(op->run, action);
    }
}

static void fail_op(tw_op *op, tw_status s, const char *sentence) {
    write_the_rest(op);
    if (op->status >= 0) {
        op->status = s;
        snprintf(op->sentence, sizeof op->sentence, "%s", sentence);
    }
    tw_run_stop(op->run);
}

static void send_poison(tw_comm *c, tw_status s) {
    int32_t code = (int32_t)s;
    uint8_t *p = c->poison_out;
    if (!p)
        return;
    memcpy(p + TW_HEADER_BYTES, &code, sizeof code);
    snprintf((char *)p + TW_HEADER_BYTES + sizeof code, c->poison_bytes - TW_HEADER_BYTES - sizeof code, "%s", c->why);
    tw_frame_seal(p, c->poison_bytes, 0, 0, (tw_stamp){0}, TW_FRAME_POISON);
    for (int r = 0; r < c->size; r++) {
        tw_xfer x = {
            .peer = r, .tag = TW_POISON_TAG, .is_send = 1, .buf = p, .len = c->poison_bytes, .cookie = UINT64_MAX};
        if (r != c->rank)
            (void)c->ops.post(c->t, &x); /* best effort: who cannot be told runs into the deadline */
    }
}

void tw_comm_poison(tw_comm *c, tw_status s, bool tell_peers) {
    if (c->poisoned < 0)
        return;
    c->poisoned = s;
    snprintf(c->why, sizeof c->why, "%s", tw_last_error());
    tw_log(c->ctx, TW_LOG_ERROR, "rank %d: %s", c->rank, c->why);
    bool abandons = (c->ops.caps & TW_CAP_ABANDON) && c->ops.abandon;
    if (abandons)
        c->ops.abandon(c->t);
    if (tell_peers)
        send_poison(c, s);
    while (c->first) {
        tw_op *op = c->first;
        fail_op(op, s, c->why);
        if (!abandons && tw_run_under_way(op->run) > 0) {
            op->leaked = true; /* the transport may still write to its frames: they are never freed */
            c->stats.leaked_frames += tw_run_under_way(op->run);
        }
        finish(op);
    }
}

/* ---- completions ---- */

static void take_poison(tw_comm *c, int peer) {
    const uint8_t *p = c->poison_in + (size_t)peer * c->poison_bytes;
    int32_t code;
    char text[TW_POISON_BYTES];
    memcpy(&code, p + TW_HEADER_BYTES, sizeof code);
    size_t room = c->poison_bytes - TW_HEADER_BYTES - sizeof code;
    memcpy(text, p + TW_HEADER_BYTES + sizeof code, room);
    text[room - 1] = 0;
    tw_fail(TW_ERR_PEER, "rank %d failed (%s): %s", peer, tw_status_name((tw_status)code), text);
    tw_comm_poison(c, TW_ERR_PEER, false);
}

static const char *transport_sentence(tw_comm *c, tw_status status) {
    const char *s = c->ops.error ? c->ops.error(c->t) : NULL;
    return s && *s ? s : tw_status_text(status);
}

static const char *layer_of_frame(const tw_op *op, const tw_action *a) {
    if (a->act == TW_A_NATIVE)
        return a->frame < op->x.npiece ? op->x.layer[op->x.piece[a->frame].layer].name
               : op->x.nlayer          ? op->x.layer[0].name
                                       : "(none)";
    const tw_frame *f = &op->plan->frame[a->frame];
    uint32_t layer = f->nrun ? op->plan->run[f->run0].layer : 0; /* a bare header: of the first */
    return op->x.layer[layer].name;
}

static tw_status bad_transfer(tw_comm *c, const tw_op *op, const tw_action *a, const tw_done *d) {
    const char *layer = layer_of_frame(op, a);
    if (d->status == TW_ERR_CORRUPT && d->len > a->cap)
        return tw_fail(TW_ERR_MISMATCH,
                       "rank %d sent %zu bytes for layer '%s' where at most %u were due: ranks posted different ops",
                       a->peer, d->len, layer, a->cap);
    if (d->status == TW_ERR_PEER)
        return tw_fail(TW_ERR_PEER, "rank %d is gone; layer '%s' of step %u was under way", a->peer, layer,
                       op->x.stamp.step);
    return tw_fail(d->status, "%s transport, rank %d, layer '%s': %s", c->ops.name, a->peer, layer,
                   transport_sentence(c, d->status));
}

static void take(tw_comm *c, const tw_done *d) {
    uint32_t slot = (uint32_t)(d->cookie >> 32), action = (uint32_t)d->cookie;
    if (d->cookie == UINT64_MAX)
        return; /* a poison frame left */
    if (slot == UINT32_MAX) {
        if (d->status == TW_OK && tw_frame_is_poison(c->poison_in + (size_t)action * c->poison_bytes, d->len))
            take_poison(c, (int)action);
        return;
    }
    tw_op *op = c->table[slot];
    if (op->leaked || op->finished)
        return;
    const tw_action *a = &op->plan->action[action];
    tw_status s = d->status == TW_OK ? TW_OK : bad_transfer(c, op, a, d);
    if (s >= 0 && a->act == TW_A_RECV) {
        c->stats.received_bytes += d->len;
        c->stats.received_frames++;
        s = tw_exec_accept(&op->x, a, d->len);
    }
    tw_run_done(op->run, action);
    if (s < 0)
        tw_comm_poison(c, s, true);
}

/* Until nothing is left: an MPI may progress only when it is asked and finds nothing done. With one call a poll, a rank
 * that encodes and sends (small sends are done at once) read nothing from the wire until its last frame was out. */
static int poll_transport(tw_comm *c) {
    tw_done done[BATCH];
    int total = 0, n;
    do {
        n = c->ops.poll(c->t, done, BATCH);
        if (n < 0) {
            tw_fail((tw_status)n, "%s transport: %s", c->ops.name, transport_sentence(c, (tw_status)n));
            tw_comm_poison(c, (tw_status)n, true);
            return 1;
        }
        for (int i = 0; i < n; i++)
            take(c, &done[i]);
        total += n;
    } while (n > 0 && c->poisoned >= 0);
    return total;
}

/* ---- actions ---- */

static tw_status post_transfer(tw_comm *c, tw_op *op, uint32_t action) {
    const tw_action *a = &op->plan->action[action];
    tw_xfer x = {.peer = a->peer,
                 .tag = 1 + ((op->seq * 2 + a->hop - 1u) & 0x3fffffffu),
                 .is_send = a->act == TW_A_SEND,
                 .buf = op->x.arena + a->at,
                 .len = a->cap,
                 .cookie = (uint64_t)op->slot << 32 | action};
    if (x.is_send) {
        x.len = tw_exec_frame_bytes(&op->x, a);
        op->sent += x.len;
        c->stats.sent_bytes += x.len;
        c->stats.sent_frames++;
        if (c->faults && tw_faults_send(c->faults, a->hop, &x.buf, &x.len) == TW_FATE_DROP) {
            tw_run_done(op->run, action);
            return TW_OK;
        }
    }
    tw_status s = c->ops.post(c->t, &x);
    if (s < 0)
        tw_fail(s, "%s transport, rank %d, layer '%s': %s", c->ops.name, a->peer, layer_of_frame(op, a),
                transport_sentence(c, s));
    return s;
}

static tw_status post_native(tw_comm *c, tw_op *op, uint32_t action) {
    float *buf;
    uint64_t count;
    tw_status s = tw_exec_native(&op->x, &op->plan->action[action], &buf, &count);
    if (s < 0)
        return s;
    uint64_t bytes = count * sizeof(float);
    op->sent += tw_dense_bytes(bytes, (uint64_t)c->size);
    c->stats.native_bytes += bytes;
    s = c->ops.native_sum(c->t, buf, count, (uint64_t)op->slot << 32 | action);
    if (s < 0)
        tw_fail(s, "%s transport: native sum of %llu values: %s", c->ops.name, (unsigned long long)count,
                transport_sentence(c, s));
    return s;
}

static uint64_t values_of(const tw_op *op, const tw_action *a) {
    uint64_t n = 0;
    const tw_plan *p = op->plan;
    if (a->kernel == TW_K_SELECT)
        return op->x.layer[a->frame].count;
    if (a->kernel == TW_K_RIGHT || a->kernel == TW_K_LEFT || (a->kernel == TW_K_DECODE && a->frame >= p->nframe)) {
        const tw_plan_unit *u = &p->unit[a->frame - (a->kernel == TW_K_DECODE ? p->nframe : 0)];
        return u->n * p->matrix[u->matrix].cols;
    }
    if ((a->kernel > TW_K_DECODE && a->kernel != TW_K_PUBLISH && a->kernel != TW_K_ANSWER) || a->kernel == TW_K_VERDICT)
        return 0;
    const tw_frame *f = &p->frame[a->frame];
    for (uint32_t i = 0; i < f->nrun; i++)
        n += (uint64_t)p->run[f->run0 + i].n * p->tile;
    return a->kernel == TW_K_REDUCE ? n * (unsigned)p->size : n;
}

/* NaN or Inf under skip and error ends the op alone: its sends go on, its outputs stay as they are, nobody is poisoned. */
static tw_status compute(tw_comm *c, tw_op *op, uint32_t action) {
    const tw_action *a = &op->plan->action[action];
    uint32_t len;
    double t0 = seconds();
    tw_status s = TW_OK;
    if (op->status >= 0)
        s = tw_exec_run(&op->x, a, &len);
    c->kernel_s[a->kernel] += seconds() - t0;
    if (c->ops.charge)
        c->ops.charge(c->t, a->kernel, values_of(op, a));
    if (s == TW_ERR_NONFINITE) {
        op->status = s;
        snprintf(op->sentence, sizeof op->sentence, "%s", tw_last_error());
        s = TW_OK;
    }
    if (s >= 0)
        tw_run_done(op->run, action);
    op->writing = op->writing || (a->kernel == TW_K_VERDICT && op->status >= 0 && s >= 0);
    return s;
}

/* native: it is this op's turn to start its sums. */
static int post_ready(tw_comm *c, tw_op *op, bool native) {
    uint32_t action;
    int moved = 0;
    tw_status s = TW_OK;
    for (; s >= 0 && tw_run_next(op->run, TW_LANE_TRANSFER, &action); moved++)
        s = post_transfer(c, op, action);
    for (; s >= 0 && native && tw_run_next(op->run, TW_LANE_NATIVE, &action); moved++)
        s = post_native(c, op, action);
    if (s < 0)
        tw_comm_poison(c, s, true);
    return moved;
}

/* One computation, so that the wire is looked after in between; an earlier op's first, so that its outputs are written
 * while a later one still is on the wire. */
static int compute_one(tw_comm *c) {
    static const tw_lane lanes[] = {TW_LANE_REDUCE, TW_LANE_COMPUTE, TW_LANE_OUTPUT};
    uint32_t action;
    for (uint32_t l = 0; l < TW_ARRAY_LEN(lanes); l++)
        for (tw_op *op = c->first; op; op = op->next)
            if (tw_run_next(op->run, lanes[l], &action)) {
                tw_status s = compute(c, op, action);
                if (s < 0)
                    tw_comm_poison(c, s, true);
                return 1;
            }
    return 0;
}

int tw_comm_pump(tw_comm *c) {
    if (c->poisoned < 0)
        return 0;
    int moved = poll_transport(c);
    bool native_turn = true; /* native sums of all ops start in post order, on every rank */
    for (tw_op *op = c->first; op && c->poisoned >= 0; op = op->next) {
        bool more = tw_run_natives_left(op->run) > 0;
        moved += post_ready(c, op, native_turn);
        native_turn = native_turn && !more;
    }
    if (c->poisoned >= 0)
        moved += compute_one(c);
    for (tw_op *op = c->first, *next; op && c->poisoned >= 0; op = next) {
        next = op->next;
        if (tw_run_finished(op->run)) {
            finish(op);
            moved++;
        }
    }
    return moved;
}

tw_status tw_op_start(tw_op *op) {
    tw_comm *c = op->comm;
    op->seq = c->seq++;
    op->sent = 0;
    op->finished = op->writing = false;
    op->busy = true;
    op->status = TW_OK;
    op->sentence[0] = 0;
    op->x.bad_layer = op->x.bad_rank = -1;
    tw_run_start(op->run);
    op->next = NULL;
    if (c->last)
        c->last->next = op;
    else
        c->first = op;
    c->last = op;
    if (c->threaded)
        pthread_cond_broadcast(&c->moved);
    return TW_OK;
}

/* ---- waiting ---- */

static void say_deadline(tw_comm *c, const tw_op *op, double waited) {
    const tw_action *a = tw_run_waits_for(op->run);
    if (a && a->act == TW_A_RECV)
        tw_fail(TW_ERR_TIMEOUT, "rank %d, step %u: waited %.3g s for hop %u of layer '%s' from rank %d", c->rank,
                op->x.stamp.step, waited, a->hop, layer_of_frame(op, a), a->peer);
    else if (a && a->act == TW_A_SEND)
        tw_fail(TW_ERR_TIMEOUT, "rank %d, step %u: waited %.3g s for rank %d to take hop %u of layer '%s'", c->rank,
                op->x.stamp.step, waited, a->peer, a->hop, layer_of_frame(op, a));
    else
        tw_fail(TW_ERR_TIMEOUT, "rank %d, step %u: waited %.3g s for the sum of layer '%s'", c->rank, op->x.stamp.step,
                waited, op->x.nlayer ? op->x.layer[0].name : "(none)");
}

static void rest(tw_comm *c, unsigned idle) {
    if (c->threaded) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 500000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_nsec -= 1000000000;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&c->moved, &c->lock, &until);
        return;
    }
    if (idle < 4)
        return;
    tw_comm_unlock(c); /* sim pumps the other ranks here */
    if (c->ops.idle)
        c->ops.idle(c->t);
    else
        sched_yield();
    tw_comm_lock(c);
}

tw_status tw_op_wait(tw_op *op, double timeout_s) {
    tw_comm *c = op->comm;
    double limit = timeout_s > 0 ? timeout_s : c->ctx->cfg.timeout_s;
    tw_comm_lock(c);
    double start = tw_comm_clock(c);
    for (unsigned idle = 0; !op->finished;) {
        idle = !c->threaded && tw_comm_pump(c) > 0 ? 0 : idle + 1;
        if (op->finished)
            break;
        if (idle && tw_comm_clock(c) - start > limit) {
            say_deadline(c, op, limit);
            tw_comm_poison(c, TW_ERR_TIMEOUT, true);
            break;
        }
        if (idle)
            rest(c, idle);
    }
    tw_status s = op->status;
    tw_comm_unlock(c);
    if (s < 0)
        tw_set_error(op->sentence);
    return s;
}
