/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `local`: transfers between threads. See local_hub.h for the locks. */
#include "transports/local.h"
#include "transports/local_hub.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#define FIRST_NODES 256u
#define YIELDS      2u      /* idle calls that only yield: more of them cost whole time slices on a crowded machine */
#define MAX_WAIT_NS 200000L /* and the longest wait: other threads' native sums may need this one's help */

static void list_append(tw_local_list *l, tw_local_node *n) {
    n->next = NULL;
    if (l->head == NULL)
        l->tail = &l->head;
    *l->tail = n;
    l->tail = &n->next;
}

/* Takes out *at, which is a link of l. */
static tw_local_node *list_remove(tw_local_list *l, tw_local_node **at) {
    tw_local_node *n = *at;
    *at = n->next;
    if (n->next == NULL)
        l->tail = at;
    return n;
}

tw_status tw_local_error(tw_local_endpoint *e, tw_status s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(e->error, sizeof e->error, format, args);
    va_end(args);
    return tw_fail(s, "%s", e->error);
}

static const char *local_error(void *t) {
    return ((tw_local_endpoint *)t)->error;
}

/* ---- pool ---- */

static bool pool_grow(tw_local_endpoint *e) {
    uint32_t n = e->chunk_nodes == 0 ? FIRST_NODES : 2 * e->chunk_nodes;
    uint64_t head = tw_round_up(sizeof(tw_local_chunk), _Alignof(max_align_t));
    tw_local_chunk *c = tw_alloc(e->hub->ctx, head + (uint64_t)n * sizeof(tw_local_node));
    if (c == NULL)
        return false;
    c->next = e->chunks;
    e->chunks = c;
    e->chunk_nodes = n;
    tw_local_node *nodes = (tw_local_node *)((char *)c + head);
    for (uint32_t i = 0; i < n; i++)
        tw_local_give(e, &nodes[i]);
    return true;
}

tw_local_node *tw_local_take(tw_local_endpoint *e) {
    if (e->free == NULL && !pool_grow(e))
        return NULL;
    tw_local_node *n = e->free;
    e->free = n->next;
    return n;
}

void tw_local_give(tw_local_endpoint *e, tw_local_node *n) {
    n->next = e->free;
    e->free = n;
}

/* ---- completions ---- */

void tw_local_wake(tw_local_endpoint *e) {
    pthread_mutex_lock(&e->done_lock);
    pthread_cond_signal(&e->done_signal);
    pthread_mutex_unlock(&e->done_lock);
}

/* The caller holds the lock under which n was found (pair or sum), so that a withdrawal cannot miss n on its way. */
void tw_local_complete(tw_local_endpoint *owner, tw_local_node *n, tw_status s, size_t len) {
    n->status = s;
    n->len = len;
    pthread_mutex_lock(&owner->done_lock);
    list_append(&owner->done, n);
    atomic_fetch_add_explicit(&owner->done_count, 1, memory_order_release);
    pthread_cond_signal(&owner->done_signal);
    pthread_mutex_unlock(&owner->done_lock);
}

static void note_failure(tw_local_endpoint *e, const tw_local_node *n) {
    if (n->status == TW_ERR_CORRUPT)
        tw_local_error(e, n->status,
                       "rank %d sent %zu bytes under tag %u, more than the receive of rank %d has room for",
                       (int)n->peer, n->len, (unsigned)n->tag, e->rank);
    else if (n->status == TW_ERR_MISMATCH)
        tw_local_error(e, n->status, "ranks gave different counts to the same native sum");
    else if (n->peer < 0)
        tw_local_error(e, n->status, "a rank left the communicator before a native sum was done");
    else
        tw_local_error(e, n->status, "rank %d has left the communicator", (int)n->peer);
}

static int local_poll(void *t, tw_done *done, int cap) {
    tw_local_endpoint *e = t;
    if (atomic_load_explicit(&e->hub->sum_work, memory_order_relaxed) > 0)
        tw_local_sum_help(e->hub);
    if (cap <= 0 || atomic_load_explicit(&e->done_count, memory_order_acquire) == 0)
        return 0;
    tw_local_node *first = NULL, **end = &first;
    int n = 0;
    pthread_mutex_lock(&e->done_lock);
    while (n < cap && e->done.head != NULL) {
        *end = list_remove(&e->done, &e->done.head);
        end = &(*end)->next;
        n++;
    }
    *end = NULL;
    atomic_fetch_sub_explicit(&e->done_count, (unsigned)n, memory_order_relaxed);
    pthread_mutex_unlock(&e->done_lock);
    for (int i = 0; i < n; i++) {
        tw_local_node *node = first;
        first = node->next;
        done[i] = (tw_done){node->cookie, node->status, node->len};
        if (node->status != TW_OK)
            note_failure(e, node);
        tw_local_give(e, node);
    }
    e->idle_streak = 0;
    return n;
}

/* Yields first (the peer may only need the core), then sleeps, longer each time, until something completes. */
static void local_idle(void *t) {
    tw_local_endpoint *e = t;
    uint32_t streak = e->idle_streak++;
    if (streak < YIELDS) {
        sched_yield();
        return;
    }
    long ns = 25000L << (streak - YIELDS < 3 ? streak - YIELDS : 3);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ns < MAX_WAIT_NS ? ns : MAX_WAIT_NS;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    pthread_mutex_lock(&e->done_lock);
    if (e->done.head == NULL && atomic_load_explicit(&e->hub->sum_work, memory_order_relaxed) <= 0)
        pthread_cond_timedwait(&e->done_signal, &e->done_lock, &until);
    pthread_mutex_unlock(&e->done_lock);
}

/* ---- transfers ---- */

static tw_local_pair *pair_of(tw_local_hub *h, int source, int destination) {
    return &h->pair[(size_t)source * (size_t)h->size + (size_t)destination];
}

static tw_local_list *list_of(tw_local_pair *p, uint32_t tag) {
    return &p->list[(tag * 0x9e3779b1u) >> 29]; /* 2^3 lists */
}
_Static_assert(TW_LOCAL_LISTS == 8, "list_of takes the upper three bits");

/* The first waiting counterpart of a transfer in `direction`, taken out; NULL if there is none. */
static tw_local_node *take_match(tw_local_list *l, bool is_send, uint32_t tag) {
    for (tw_local_node **at = &l->head; *at != NULL; at = &(*at)->next)
        if ((*at)->tag == tag)
            return (*at)->is_send == is_send ? NULL : list_remove(l, at);
    return NULL;
}

/* Both ends are here: copy, then complete both. */
static void meet(tw_local_hub *h, tw_local_node *send, tw_local_node *receive) {
    tw_local_endpoint *from = &h->ep[receive->peer], *to = &h->ep[send->peer];
    size_t len = send->len;
    tw_status s = len <= receive->len ? TW_OK : TW_ERR_CORRUPT;
    if (s == TW_OK && len > 0)
        memmove(receive->buf, send->buf, len);
    tw_local_complete(from, send, TW_OK, len);
    tw_local_complete(to, receive, s, len);
}

static tw_status local_post(void *t, const tw_xfer *x) {
    tw_local_endpoint *e = t;
    tw_local_hub *h = e->hub;
    if (x->peer < 0 || x->peer >= h->size)
        return tw_local_error(e, TW_ERR_ARG, "rank %d posted a transfer with rank %d of %d", e->rank, (int)x->peer,
                              h->size);
    if (x->buf == NULL && x->len > 0)
        return tw_local_error(e, TW_ERR_ARG, "rank %d posted a transfer of %zu bytes without a buffer", e->rank,
                              x->len);
    tw_local_node *n = tw_local_take(e);
    if (n == NULL)
        return TW_ERR_NOMEM;
    bool is_send = x->is_send != 0;
    *n = (tw_local_node){
        .buf = x->buf, .len = x->len, .cookie = x->cookie, .peer = x->peer, .tag = x->tag, .is_send = is_send};
    tw_local_pair *p = is_send ? pair_of(h, e->rank, x->peer) : pair_of(h, x->peer, e->rank);
    tw_local_list *l = list_of(p, x->tag);
    pthread_mutex_lock(&p->lock);
    tw_local_node *other = take_match(l, is_send, x->tag);
    if (other != NULL)
        meet(h, is_send ? n : other, is_send ? other : n);
    else if (atomic_load_explicit(&h->ep[x->peer].dead, memory_order_acquire))
        tw_local_complete(e, n, TW_ERR_PEER, 0);
    else
        list_append(l, n);
    pthread_mutex_unlock(&p->lock);
    return TW_OK;
}

/* ---- leaving ---- */

/* Takes e's nodes out of one pair. With for_good the peer's nodes complete with TW_ERR_PEER. */
static void leave_pair(tw_local_endpoint *e, int source, int destination, bool for_good) {
    tw_local_hub *h = e->hub;
    tw_local_pair *p = pair_of(h, source, destination);
    pthread_mutex_lock(&p->lock);
    for (uint32_t i = 0; i < TW_LOCAL_LISTS; i++) {
        tw_local_node **at = &p->list[i].head;
        while (*at != NULL) {
            int owner = (*at)->is_send ? source : destination;
            if (owner == e->rank)
                tw_local_give(e, list_remove(&p->list[i], at));
            else if (for_good)
                tw_local_complete(&h->ep[owner], list_remove(&p->list[i], at), TW_ERR_PEER, 0);
            else
                at = &(*at)->next;
        }
    }
    pthread_mutex_unlock(&p->lock);
}

static void leave(tw_local_endpoint *e, bool for_good) {
    for (int r = 0; r < e->hub->size; r++) {
        leave_pair(e, e->rank, r, for_good);
        leave_pair(e, r, e->rank, for_good);
    }
    tw_local_sum_leave(e, for_good);
    pthread_mutex_lock(&e->done_lock);
    while (e->done.head != NULL)
        tw_local_give(e, list_remove(&e->done, &e->done.head));
    atomic_store_explicit(&e->done_count, 0, memory_order_relaxed);
    pthread_mutex_unlock(&e->done_lock);
}

static void local_abandon(void *t) {
    leave(t, false);
}

static void hub_free(tw_local_hub *h) {
    tw_ctx *c = h->ctx;
    tw_local_sum_free(h);
    for (int r = 0; r < h->size; r++) {
        while (h->ep[r].chunks != NULL) {
            tw_local_chunk *chunk = h->ep[r].chunks;
            h->ep[r].chunks = chunk->next;
            tw_free(c, chunk);
        }
        pthread_cond_destroy(&h->ep[r].done_signal);
        pthread_mutex_destroy(&h->ep[r].done_lock);
    }
    for (size_t i = 0; i < (size_t)h->size * (size_t)h->size; i++)
        pthread_mutex_destroy(&h->pair[i].lock);
    pthread_cond_destroy(&h->sum_signal);
    pthread_mutex_destroy(&h->sum_lock);
    pthread_cond_destroy(&h->oob_signal);
    pthread_mutex_destroy(&h->oob_lock);
    tw_free(c, h->oob_all);
    tw_free(c, h->oob_mine);
    tw_free(c, h->pair);
    tw_free(c, h->ep);
    tw_free(c, h);
}

static void local_close(void *t) {
    tw_local_endpoint *e = t;
    tw_local_hub *h = e->hub;
    /* First the mark, then the sweep: a peer either sees the mark or leaves a node that the sweep finds. */
    atomic_store_explicit(&e->dead, true, memory_order_release);
    leave(e, true);
    tw_local_oob_leave(e);
    if (atomic_fetch_sub(&h->open, 1) == 1)
        hub_free(h);
}

/* ---- creation ---- */

static const tw_transport_ops local_ops = {
    .size = sizeof(tw_transport_ops),
    .caps = TW_CAP_ABANDON | TW_CAP_DETECTS | TW_CAP_FAST_SUM,
    .name = "local",
    .oob_allgather = tw_local_oob_allgather,
    .post = local_post,
    .poll = local_poll,
    .close = local_close,
    .native_sum = tw_local_native_sum,
    .abandon = local_abandon,
    .idle = local_idle,
    .error = local_error,
};

/* The locks' initialisation cannot fail on the systems we build for: it only fills memory. */
static void hub_init_locks(tw_local_hub *h) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    for (int r = 0; r < h->size; r++) {
        pthread_mutex_init(&h->ep[r].done_lock, NULL);
        pthread_cond_init(&h->ep[r].done_signal, &monotonic);
    }
    for (size_t i = 0; i < (size_t)h->size * (size_t)h->size; i++)
        pthread_mutex_init(&h->pair[i].lock, NULL);
    pthread_mutex_init(&h->sum_lock, NULL);
    pthread_cond_init(&h->sum_signal, &monotonic);
    pthread_mutex_init(&h->oob_lock, NULL);
    pthread_cond_init(&h->oob_signal, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static bool hub_alloc(tw_local_hub *h) {
    tw_ctx *c = h->ctx;
    uint64_t n = (uint64_t)h->size;
    h->ep = tw_alloc(c, n * sizeof *h->ep);
    h->pair = h->ep == NULL ? NULL : tw_alloc(c, n * n * sizeof *h->pair);
    h->oob_mine = h->pair == NULL ? NULL : tw_alloc(c, n * sizeof *h->oob_mine);
    h->oob_all = h->oob_mine == NULL ? NULL : tw_alloc(c, n * sizeof *h->oob_all);
    bool ok = h->oob_all != NULL;
    for (int r = 0; ok && r < h->size; r++) {
        h->ep[r].hub = h;
        h->ep[r].rank = r;
        ok = pool_grow(&h->ep[r]);
    }
    return ok;
}

tw_status tw_local_create(tw_ctx *c, int size, const tw_transport_ops **ops, void *endpoints[]) {
    if (ops == NULL || endpoints == NULL)
        return tw_fail(TW_ERR_ARG, "local transport: ops and endpoints must not be NULL");
    if (size < 1)
        return tw_fail(TW_ERR_ARG, "local transport: %d ranks; at least 1 is needed", size);
    tw_status s = tw_ctx_resolve(c, &c);
    if (s != TW_OK)
        return s;
    tw_local_hub *h = tw_alloc(c, sizeof *h);
    if (h == NULL)
        return TW_ERR_NOMEM;
    h->ctx = c;
    h->size = size;
    if (!hub_alloc(h)) {
        for (int r = 0; h->ep != NULL && r < size; r++)
            tw_free(c, h->ep[r].chunks);
        tw_free(c, h->oob_all);
        tw_free(c, h->oob_mine);
        tw_free(c, h->pair);
        tw_free(c, h->ep);
        tw_free(c, h);
        return TW_ERR_NOMEM;
    }
    hub_init_locks(h);
    atomic_store(&h->open, size);
    for (int r = 0; r < size; r++)
        endpoints[r] = &h->ep[r];
    *ops = &local_ops;
    return TW_OK;
}
