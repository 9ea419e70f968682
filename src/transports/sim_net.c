/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `sim`: frames on their way. See sim.h for the model. */
#include "transports/sim_impl.h"

#define POISON_BYTES 4096u /* of a posted receive: who reads before completion sees it */

/* ---- streams ---- */

static uint64_t hash_of(uint32_t src, uint32_t dst, uint32_t tag) {
    uint64_t h = ((uint64_t)src << 32 | dst) * 0x9e3779b97f4a7c15u + tag;
    h = (h ^ h >> 29) * 0xbf58476d1ce4e5b9u;
    return h ^ h >> 32;
}

static bool grow_buckets(tw_sim *s) {
    uint64_t n = s->buckets == 0 ? 1024 : 2 * s->buckets;
    tw_sim_stream **bucket = tw_alloc(s->ctx, n * sizeof(tw_sim_stream *));
    if (bucket == NULL)
        return false;
    for (uint64_t i = 0; i < s->buckets; i++)
        for (tw_sim_stream *m = s->bucket[i], *next; m != NULL; m = next) {
            next = m->next;
            tw_sim_stream **at = &bucket[hash_of(m->src, m->dst, m->tag) & (n - 1)];
            m->next = *at;
            *at = m;
        }
    tw_free(s->ctx, s->bucket);
    s->bucket = bucket;
    s->buckets = n;
    return true;
}

static tw_sim_stream *find_stream(tw_sim *s, int src, int dst, uint32_t tag) {
    uint32_t from = (uint32_t)src, to = (uint32_t)dst;
    if (s->streams >= s->buckets && !grow_buckets(s) && s->buckets == 0)
        return NULL;
    tw_sim_stream **at = &s->bucket[hash_of(from, to, tag) & (s->buckets - 1)];
    for (tw_sim_stream *m = *at; m != NULL; m = m->next)
        if (m->src == from && m->dst == to && m->tag == tag)
            return m;
    tw_sim_stream *m = tw_sim_take_stream(s);
    if (m == NULL)
        return NULL;
    *m = (tw_sim_stream){.next = *at, .src = from, .dst = to, .tag = tag};
    m->recv_tail = &m->recv;
    m->msg_tail = &m->msg;
    *at = m;
    tw_sim_end *e = &s->end[dst];
    m->dst_next = e->streams;
    m->dst_at = &e->streams;
    if (m->dst_next != NULL)
        m->dst_next->dst_at = &m->dst_next;
    e->streams = m;
    s->streams++;
    return m;
}

/* Puts an idle stream back. */
static void release_stream(tw_sim *s, tw_sim_stream *m) {
    if (m->flying > 0 || m->queued > 0 || m->recv != NULL || m->msg != NULL)
        return;
    tw_sim_stream **at = &s->bucket[hash_of(m->src, m->dst, m->tag) & (s->buckets - 1)];
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    *m->dst_at = m->dst_next;
    if (m->dst_next != NULL)
        m->dst_next->dst_at = m->dst_at;
    m->next = s->free_streams;
    s->free_streams = m;
    s->streams--;
}

static void release_frame(tw_sim *s, tw_sim_frame *f) {
    if (--f->refs > 0)
        return;
    tw_sim_give_payload(s, f->payload, f->len);
    f->next = s->free_frames;
    s->free_frames = f;
    s->frames--;
}

static tw_sim_recv *pop_recv(tw_sim_stream *m) {
    tw_sim_recv *r = m->recv;
    m->recv = r->next;
    if (m->recv == NULL)
        m->recv_tail = &m->recv;
    return r;
}

static tw_sim_frame *pop_msg(tw_sim_stream *m) {
    tw_sim_frame *f = m->msg;
    m->msg = f->next;
    if (m->msg == NULL)
        m->msg_tail = &m->msg;
    return f;
}

static void give_recv(tw_sim *s, tw_sim_recv *r) {
    r->next = s->free_recvs;
    s->free_recvs = r;
}

/* ---- random numbers: a function of seed, source, its frame's number and purpose; not of the order of events ---- */

static void draw(const tw_sim *s, const tw_sim_frame *f, uint32_t purpose, uint32_t out[4]) {
    uint32_t key[2] = {(uint32_t)s->cfg.seed, (uint32_t)(s->cfg.seed >> 32)};
    uint32_t counter[4] = {(uint32_t)f->number, (uint32_t)(f->number >> 32), f->stream->src, purpose};
    tw_philox(TW_PHILOX_ROUNDS, counter, key, out);
}

static double unit(uint32_t x) {
    return (double)x * 0x1p-32;
}

/* What happens to a frame on its way. Returns its delay; negative: it is lost. */
static double fate(const tw_sim *s, tw_sim_frame *f) {
    const tw_sim_config *c = &s->cfg;
    double delay = c->latency_s;
    uint32_t a[4], b[4];
    if (c->loss <= 0 && c->corruption <= 0 && c->truncation <= 0 && c->reorder <= 0 && c->jitter_s <= 0)
        return delay;
    draw(s, f, 0, a);
    draw(s, f, 1, b);
    if (unit(a[0]) < c->loss)
        return -1;
    f->corrupt = unit(a[1]) < c->corruption;
    if (f->len > 0 && unit(a[2]) < c->truncation)
        f->got = (size_t)(unit(b[2]) * (double)f->len);
    delay += unit(b[0]) * c->jitter_s;
    if (unit(a[3]) < c->reorder)
        delay += unit(b[1]) * 10 * tw_sim_later(c->latency_s, 1e-6);
    return delay;
}

static void flip_bits(const tw_sim *s, tw_sim_frame *f) {
    uint32_t r[12];
    for (uint32_t i = 0; i < 3; i++)
        draw(s, f, 2 + i, r + 4 * i);
    uint8_t *p = f->payload;
    for (uint32_t i = 0; i <= r[8] % 8; i++) {
        uint64_t bit = (uint64_t)(unit(r[i]) * (double)f->got * 8);
        p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

/* ---- arrival ---- */

static void deliver(tw_sim *s, tw_sim_stream *m, tw_sim_frame *f, tw_sim_recv *r) {
    bool fits = f->got <= r->room;
    if (fits && f->got > 0)
        memcpy(r->buf, f->payload, f->got);
    tw_sim_complete(&s->end[m->dst], r->cookie, fits ? TW_OK : TW_ERR_CORRUPT, f->got);
    give_recv(s, r);
    release_frame(s, f);
}

/* What a stream's receiver can know of its sender by now; then puts it back if it is idle. */
static void settle(tw_sim *s, tw_sim_stream *m) {
    while (s->end[m->src].detected && m->flying == 0 && m->recv != NULL) {
        tw_sim_recv *r = pop_recv(m);
        tw_sim_complete(&s->end[m->dst], r->cookie, TW_ERR_PEER, 0);
        give_recv(s, r);
    }
    release_stream(s, m);
}

static void arrive(tw_sim *s, tw_sim_frame *f) {
    tw_sim_stream *m = f->stream;
    m->flying--;
    if (f->cancelled || s->end[m->dst].life != TW_SIM_ALIVE) {
        release_frame(s, f);
    } else {
        if (f->corrupt && f->got > 0)
            flip_bits(s, f);
        if (m->recv != NULL) {
            deliver(s, m, f, pop_recv(m));
        } else {
            f->next = NULL;
            *m->msg_tail = f;
            m->msg_tail = &f->next;
        }
    }
    settle(s, m);
}

/* The first byte is there: the frame takes its place at the port. */
static void reach(tw_sim *s, tw_sim_frame *f) {
    tw_sim_end *dst = &s->end[f->stream->dst];
    if (!f->cancelled) {
        dst->in_free = tw_sim_later(s->now, dst->in_free) + f->serial;
        if (dst->in_free > s->now) {
            tw_sim_push(s, dst->in_free, TW_SIM_ARRIVE, f, 0);
            return;
        }
    }
    arrive(s, f);
}

/* ---- departure ---- */

static void leave(tw_sim_end *e) {
    tw_sim *s = e->sim;
    tw_sim_frame *f = e->sending;
    e->sending = NULL;
    if (!f->cancelled) {
        tw_status status = TW_OK;
        bool lost = f->refs == 1;
        e->sent_frames++;
        e->sent_bytes += f->len;
        f->payload = lost ? NULL : tw_sim_take_payload(s, f->len);
        if (f->payload != NULL && f->len > 0)
            memcpy(f->payload, f->buf, f->len);
        if (f->payload == NULL && !lost) {
            f->cancelled = true;
            status = TW_ERR_NOMEM;
        }
        tw_sim_complete(e, f->cookie, status, f->len);
    }
    release_frame(s, f);
    if (e->rank == s->cfg.dead_rank && e->sent_frames >= s->cfg.dead_after)
        tw_sim_gone(e, TW_SIM_DEAD);
}

/* Starts what can start at e's port. */
static void run_port(tw_sim_end *e) {
    tw_sim *s = e->sim;
    while (e->sending == NULL && e->queue != NULL) {
        tw_sim_frame *f = e->queue;
        tw_sim_stream *m = f->stream;
        e->queue = f->next;
        m->queued--;
        f->serial = s->cfg.bandwidth > 0 ? (double)f->len / s->cfg.bandwidth : 0;
        double start = tw_sim_later(f->ready, e->out_free), delay = fate(s, f);
        e->sending = f;
        e->out_free = start + f->serial;
        bool at_once = e->out_free <= s->now;
        if (!at_once)
            tw_sim_push(s, e->out_free, TW_SIM_LEAVE, e, 0);
        if (delay < 0) {
            release_stream(s, m);
        } else {
            f->refs++;
            m->flying++;
            m->last_head = tw_sim_later(m->last_head, start + delay);
            tw_sim_push(s, m->last_head, TW_SIM_HEAD, f, 0);
        }
        if (at_once)
            leave(e);
    }
}

void tw_sim_net_event(tw_sim *s, const tw_sim_event *ev) {
    tw_sim_end *e = ev->what;
    switch (ev->kind) {
    case TW_SIM_LEAVE:
        leave(e);
        run_port(e);
        break;
    case TW_SIM_HEAD:
        reach(s, ev->what);
        break;
    default:
        arrive(s, ev->what);
        break;
    }
}

/* ---- posting ---- */

static tw_status post_send(tw_sim_end *e, const tw_xfer *x, tw_sim_stream *m) {
    tw_sim *s = e->sim;
    tw_sim_frame *f = tw_sim_reserve_events(s, 1) ? tw_sim_take_frame(s) : NULL;
    if (f == NULL)
        return TW_ERR_NOMEM;
    *f = (tw_sim_frame){.stream = m,
                        .buf = x->buf,
                        .len = x->len,
                        .got = x->len,
                        .cookie = x->cookie,
                        .number = e->posted++,
                        .ready = tw_sim_later(s->now, e->busy_until),
                        .epoch = e->epoch,
                        .refs = 1};
    s->frames++;
    m->queued++;
    if (e->queue == NULL)
        e->queue_tail = &e->queue;
    *e->queue_tail = f;
    e->queue_tail = &f->next;
    run_port(e);
    return TW_OK;
}

static tw_status post_recv(tw_sim_end *e, const tw_xfer *x, tw_sim_stream *m) {
    tw_sim *s = e->sim;
    tw_sim_recv *r = tw_sim_take_recv(s);
    if (r == NULL)
        return TW_ERR_NOMEM;
    *r = (tw_sim_recv){NULL, x->buf, x->len, x->cookie};
    if (x->len > 0)
        memset(x->buf, 0xa5, x->len < POISON_BYTES ? x->len : POISON_BYTES);
    if (m->msg != NULL) {
        deliver(s, m, pop_msg(m), r);
    } else {
        *m->recv_tail = r;
        m->recv_tail = &r->next;
    }
    settle(s, m);
    return TW_OK;
}

tw_status tw_sim_post(void *t, const tw_xfer *x) {
    tw_sim_end *e = t;
    tw_sim *s = e->sim;
    tw_sim_touch(e);
    if (x->peer < 0 || x->peer >= s->cfg.ranks)
        return tw_sim_error(s, TW_ERR_ARG, "rank %d posted a transfer with rank %d of %d", e->rank, (int)x->peer,
                            (int)s->cfg.ranks);
    if (x->buf == NULL && x->len > 0)
        return tw_sim_error(s, TW_ERR_ARG, "rank %d posted a transfer of %zu bytes without a buffer", e->rank, x->len);
    if (e->life == TW_SIM_DEAD)
        return TW_OK; /* it does not know; nothing ever completes */
    bool send = x->is_send != 0;
    if (!tw_sim_reserve_done(e))
        return TW_ERR_NOMEM;
    if (send && s->end[x->peer].detected) {
        tw_sim_complete(e, x->cookie, TW_ERR_PEER, 0);
        return TW_OK;
    }
    tw_sim_stream *m = send ? find_stream(s, e->rank, x->peer, x->tag) : find_stream(s, x->peer, e->rank, x->tag);
    tw_status status = m == NULL ? TW_ERR_NOMEM : send ? post_send(e, x, m) : post_recv(e, x, m);
    if (status != TW_OK) {
        e->open--;
        if (m != NULL)
            release_stream(s, m);
    }
    return status;
}

/* ---- ends that go ---- */

static void drop_sends(tw_sim_end *e) {
    tw_sim *s = e->sim;
    while (e->queue != NULL) {
        tw_sim_frame *f = e->queue;
        e->queue = f->next;
        f->stream->queued--;
        release_stream(s, f->stream);
        release_frame(s, f);
    }
    if (e->sending != NULL)
        e->sending->cancelled = true; /* the port stays taken until its event */
}

void tw_sim_net_drop(tw_sim_end *e, bool for_good) {
    tw_sim *s = e->sim;
    drop_sends(e);
    for (tw_sim_stream *m = e->streams, *next; m != NULL; m = next) {
        next = m->dst_next;
        while (m->recv != NULL)
            give_recv(s, pop_recv(m));
        while (for_good && m->msg != NULL)
            release_frame(s, pop_msg(m));
        release_stream(s, m);
    }
}

void tw_sim_net_detect(tw_sim_end *e) {
    tw_sim *s = e->sim;
    for (int32_t r = 0; r < s->cfg.ranks; r++)
        for (tw_sim_stream *m = s->end[r].streams, *next; m != NULL; m = next) {
            next = m->dst_next;
            if (m->src == (uint32_t)e->rank || r == e->rank)
                settle(s, m);
        }
}
