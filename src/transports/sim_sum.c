/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `sim`: the native sum, matched by the number of the call, summed in rank order. */
#include "transports/sim_impl.h"

#define STRIP 1024u

static uint64_t record_bytes(const tw_sim *s) {
    return sizeof(tw_sim_sum) + (uint64_t)s->cfg.ranks * sizeof(((tw_sim_sum *)0)->part[0]);
}

/* The record of sum number `index`, made by the first rank that comes to it. */
static tw_sim_sum *find(tw_sim *s, uint64_t index, uint64_t count) {
    tw_sim_sum **at = &s->sums;
    while (*at != NULL && (*at)->index != index)
        at = &(*at)->next;
    if (*at != NULL)
        return *at;
    if (!tw_sim_reserve_events(s, 1))
        return NULL;
    tw_sim_sum *op = s->free_sums;
    if (op != NULL)
        s->free_sums = op->next;
    else if ((op = tw_alloc(s->ctx, record_bytes(s))) == NULL)
        return NULL;
    memset(op, 0, record_bytes(s));
    op->index = index;
    op->count = count;
    *at = op;
    s->sums_open++;
    return op;
}

static void add(const tw_sim *s, const tw_sim_sum *op) {
    float acc[STRIP];
    tw_fpenv env = tw_fp_enter();
    for (uint64_t first = 0; first < op->count; first += STRIP) {
        uint32_t n = op->count - first < STRIP ? (uint32_t)(op->count - first) : STRIP;
        memcpy(acc, op->part[0].buf + first, n * sizeof *acc);
        for (int32_t r = 1; r < s->cfg.ranks; r++)
            for (uint32_t i = 0; i < n; i++)
                acc[i] += op->part[r].buf[first + i];
        for (int32_t r = 0; r < s->cfg.ranks; r++)
            memcpy(op->part[r].buf + first, acc, n * sizeof *acc);
    }
    tw_fp_leave(env);
}

/* Completes op for those that are in it; only then may its record go: an event may still point to it. */
static void complete(tw_sim *s, tw_sim_sum *op, tw_status status) {
    for (int32_t r = 0; r < s->cfg.ranks; r++)
        if (op->part[r].in) {
            op->part[r].in = false;
            tw_sim_complete(&s->end[r], op->part[r].cookie, status, status == TW_OK ? op->count * sizeof(float) : 0);
        }
}

void tw_sim_sum_event(tw_sim *s, tw_sim_sum *op) {
    if (!op->broken) {
        if (op->status == TW_OK)
            add(s, op);
        complete(s, op, op->status);
    }
    tw_sim_sum **at = &s->sums;
    while (*at != op)
        at = &(*at)->next;
    *at = op->next;
    op->next = s->free_sums;
    s->free_sums = op;
    s->sums_open--;
}

/* When op is done. Sums take turns on the wire, as on real ports; latencies overlap. */
static double finished(tw_sim *s, const tw_sim_sum *op) {
    double p = s->cfg.ranks, hops = 0;
    for (int64_t n = 1; n < s->cfg.ranks; n *= 2)
        hops++;
    double wire = s->cfg.bandwidth > 0 ? 2 * (p - 1) / p * (double)op->count * sizeof(float) / s->cfg.bandwidth : 0;
    s->sums_until = tw_sim_later(op->ready, s->sums_until) + wire;
    return s->sums_until + 2 * hops * s->cfg.latency_s;
}

tw_status tw_sim_native_sum(void *t, float *buf, uint64_t count, uint64_t cookie) {
    tw_sim_end *e = t;
    tw_sim *s = e->sim;
    tw_sim_touch(e);
    if (buf == NULL && count > 0)
        return tw_sim_error(s, TW_ERR_ARG, "native sum of %llu values without a buffer", (unsigned long long)count);
    if (e->life == TW_SIM_DEAD)
        return TW_OK;
    if (!tw_sim_reserve_done(e))
        return TW_ERR_NOMEM;
    if (s->sums_broken) {
        tw_sim_complete(e, cookie, TW_ERR_PEER, 0);
        return TW_OK;
    }
    tw_sim_sum *op = find(s, e->sums, count);
    if (op == NULL) {
        e->open--;
        return TW_ERR_NOMEM;
    }
    e->sums++;
    op->part[e->rank].buf = buf;
    op->part[e->rank].cookie = cookie;
    op->part[e->rank].in = true;
    op->ready = tw_sim_later(op->ready, tw_sim_later(s->now, e->busy_until));
    if (op->count != count)
        op->status = TW_ERR_MISMATCH;
    if (++op->arrived == s->cfg.ranks)
        tw_sim_push(s, finished(s, op), TW_SIM_SUM, op, 0);
    return TW_OK;
}

void tw_sim_sum_drop(tw_sim_end *e) {
    for (tw_sim_sum *op = e->sim->sums; op != NULL; op = op->next)
        if (op->part[e->rank].in) {
            op->part[e->rank].in = false;
            op->broken = true;
        }
}

void tw_sim_sum_break(tw_sim *s) {
    s->sums_broken = true;
    for (tw_sim_sum *op = s->sums; op != NULL; op = op->next) {
        op->broken = true;
        complete(s, op, TW_ERR_PEER);
    }
}

void tw_sim_sum_restart(tw_sim *s) {
    uint64_t most = 0;
    for (int32_t r = 0; r < s->cfg.ranks; r++)
        most = s->end[r].sums > most ? s->end[r].sums : most;
    for (int32_t r = 0; r < s->cfg.ranks; r++)
        s->end[r].sums = most;
    s->sums_broken = false;
}

void tw_sim_sum_free(tw_sim *s) {
    tw_sim_sum *lists[2] = {s->sums, s->free_sums};
    for (int i = 0; i < 2; i++)
        while (lists[i] != NULL) {
            tw_sim_sum *op = lists[i];
            lists[i] = op->next;
            tw_free(s->ctx, op);
        }
}
