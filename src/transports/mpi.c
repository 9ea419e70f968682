/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `mpi`, in libthinwire-mpi: sees of libthinwire only what that exports.
 *
 * What MPI cannot do, and so neither ABANDON nor DETECTS is claimed: a send cannot be cancelled, a dead peer is not
 * reported. close() takes back standing receives and frees the duplicated communicator only if nothing else was under
 * way; otherwise the requests are released and the communicator is leaked, and MPI goes on reading those buffers.
 * MPI_Finalize with a message above the eager limit (4 KiB in Open MPI's shared memory, 64 KiB over TCP, 16 KiB or so in
 * MPICH) that its peer never receives: see docs/design.md. */
#include "core/core.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <thinwire/mpi.h>

#define WINDOW       256 /* requests that one poll looks at */
#define FIRST_SLOTS  256u
#define CLOSE_TRIES  200 /* polls of close() that let small sends go out */
#ifndef TW_MPI_CHUNK
#define TW_MPI_CHUNK (UINT64_C(1) << 30) /* values of one MPI_Iallreduce; tests make it small */
#endif

typedef enum kind { SEND, RECEIVE, SUM } kind;

typedef struct slot {
    uint64_t cookie;
    size_t room; /* of a receive; bytes of a native sum */
    kind kind;
    uint32_t more; /* SUM: chunks of the same sum that were posted after this one */
} slot;

typedef struct transport {
    struct transport *next; /* of those that MPI_Finalize must find */
    pthread_mutex_t lock;   /* the delete callback runs in another thread than THREAD progress */
    tw_ctx *ctx, *own_ctx;
    double timeout_s;
    MPI_Comm comm;
    int rank, size;
    uint32_t tag_most;
    bool finalized, broken; /* broken: a collective is stuck in comm */
    uint32_t pending, room, start;
    MPI_Request *request;
    slot *slot;
    uint32_t chunks_open;   /* of native sums */
    tw_status sum_status;   /* worst of the chunks so far */
    int saved, saved_first; /* completions that did not fit into the last poll */
    tw_done done[WINDOW];
    int index[WINDOW];
    MPI_Status status[WINDOW];
    char error[TW_SENTENCE];
} transport;

/* ---- memory and sentences: libthinwire's own helpers are hidden from here ---- */

static void *take_memory(tw_ctx *c, uint64_t bytes) {
    uint64_t rounded = tw_round_up(bytes, 64);
    void *p = c->cfg.alloc(c->cfg.alloc_arg, (size_t)rounded, 64);
    if (p == NULL)
        tw_raise(TW_ERR_NOMEM, "the allocator refused memory for the MPI transport");
    else
        memset(p, 0, (size_t)rounded);
    return p;
}

static void give_memory(tw_ctx *c, void *p) {
    if (p != NULL)
        c->cfg.release(c->cfg.alloc_arg, p);
}

static tw_status fail(tw_status s, const char *format, ...) TW_PRINTF(2, 3);
static tw_status fail(tw_status s, const char *format, ...) {
    char text[TW_SENTENCE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return tw_raise(s, text);
}

static tw_status say(transport *t, tw_status s, const char *format, ...) TW_PRINTF(3, 4);
static tw_status say(transport *t, tw_status s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(t->error, sizeof t->error, format, args);
    va_end(args);
    return tw_raise(s, t->error);
}

static tw_status say_mpi(transport *t, const char *call, int code) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int len = 0;
    MPI_Error_string(code, text, &len);
    return say(t, TW_ERR_TRANSPORT, "%s: %.300s", call, text);
}

static tw_status say_finalized(transport *t) {
    return say(t, TW_ERR_TRANSPORT, "MPI was finalized before the communicator was destroyed");
}

static const char *mpi_error(void *p) { return ((transport *)p)->error; }

/* ---- MPI_Finalize: it deletes the attributes of MPI_COMM_SELF first, while MPI still works ---- */

static pthread_mutex_t live_lock = PTHREAD_MUTEX_INITIALIZER;
static transport *live;
static int live_key = MPI_KEYVAL_INVALID;

/* Takes back receives. True if something is left that MPI still works on. */
static bool let_go(transport *t) {
    bool left = false;
    for (uint32_t i = 0; i < t->pending; i++)
        if (t->slot[i].kind == RECEIVE)
            MPI_Cancel(&t->request[i]);
    for (int tries = 0; tries < CLOSE_TRIES; tries++) {
        left = false;
        for (uint32_t i = 0; i < t->pending; i++) {
            int flag = 1;
            if (t->request[i] != MPI_REQUEST_NULL && MPI_Test(&t->request[i], &flag, MPI_STATUS_IGNORE) != MPI_SUCCESS)
                flag = 1;
            left = left || !flag;
        }
        if (!left)
            break;
    }
    for (uint32_t i = 0; i < t->pending; i++)
        if (t->request[i] != MPI_REQUEST_NULL && t->slot[i].kind != SUM) /* MPI forbids it for collectives */
            MPI_Request_free(&t->request[i]);
    t->pending = 0;
    return left;
}

static int at_finalize(MPI_Comm self, int key, void *value, void *extra) {
    (void)self, (void)value, (void)extra;
    pthread_mutex_lock(&live_lock);
    bool current = key == live_key; /* else it is unset because the last transport was closed */
    for (transport *t = current ? live : NULL; t != NULL; t = t->next) {
        pthread_mutex_lock(&t->lock);
        let_go(t);
        t->finalized = true;
        pthread_mutex_unlock(&t->lock);
    }
    if (current) {
        live = NULL;
        live_key = MPI_KEYVAL_INVALID;
    }
    pthread_mutex_unlock(&live_lock);
    return MPI_SUCCESS;
}

static bool enlist(transport *t) {
    pthread_mutex_lock(&live_lock);
    bool ok = true;
    if (live_key == MPI_KEYVAL_INVALID) {
        ok = MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, at_finalize, &live_key, NULL) == MPI_SUCCESS;
        ok = ok && MPI_Comm_set_attr(MPI_COMM_SELF, live_key, &live) == MPI_SUCCESS;
    }
    if (ok) {
        t->next = live;
        live = t;
    }
    pthread_mutex_unlock(&live_lock);
    return ok;
}

/* Without a live transport the attribute goes too, or unloading this library would leave a dangling callback. */
static void delist(transport *t) {
    int unused = MPI_KEYVAL_INVALID;
    pthread_mutex_lock(&live_lock);
    for (transport **at = &live; *at != NULL; at = &(*at)->next)
        if (*at == t) {
            *at = t->next;
            if (live == NULL) {
                unused = live_key;
                live_key = MPI_KEYVAL_INVALID;
            }
            break;
        }
    pthread_mutex_unlock(&live_lock);
    if (unused != MPI_KEYVAL_INVALID) {
        MPI_Comm_delete_attr(MPI_COMM_SELF, unused);
        MPI_Comm_free_keyval(&unused);
    }
}

/* ---- transfers ---- */

static tw_status grow(transport *t) {
    if (t->pending < t->room)
        return TW_OK;
    uint32_t room = t->room == 0 ? FIRST_SLOTS : 2 * t->room;
    MPI_Request *request = take_memory(t->ctx, (uint64_t)room * sizeof *request);
    slot *slots = take_memory(t->ctx, (uint64_t)room * sizeof *slots);
    if (request == NULL || slots == NULL) {
        give_memory(t->ctx, request);
        give_memory(t->ctx, slots);
        return TW_ERR_NOMEM;
    }
    if (t->pending > 0) {
        memcpy(request, t->request, t->pending * sizeof *request);
        memcpy(slots, t->slot, t->pending * sizeof *slots);
    }
    give_memory(t->ctx, t->request);
    give_memory(t->ctx, t->slot);
    t->request = request;
    t->slot = slots;
    t->room = room;
    return TW_OK;
}

/* Tag 0 stays itself; the others share what MPI has. Two transfers that are open at a time must not be tag_most apart. */
static int tag_of(const transport *t, uint32_t tag) { return tag == 0 ? 0 : (int)(1 + (tag - 1) % t->tag_most); }

static tw_status check_post(transport *t, const tw_xfer *x) {
    if (t->finalized)
        return say_finalized(t);
    if (x->peer < 0 || x->peer >= t->size)
        return say(t, TW_ERR_ARG, "rank %d posted a transfer with rank %d of %d", t->rank, (int)x->peer, t->size);
    if (x->len > INT_MAX)
        return say(t, TW_ERR_ARG, "rank %d posted a transfer of %zu bytes; MPI takes at most %d", t->rank, x->len, INT_MAX);
    return grow(t);
}

static tw_status mpi_post(void *p, const tw_xfer *x) {
    transport *t = p;
    pthread_mutex_lock(&t->lock);
    tw_status s = check_post(t, x);
    if (s == TW_OK) {
        MPI_Request *q = &t->request[t->pending];
        int len = (int)x->len, tag = tag_of(t, x->tag), code;
        if (!x->is_send)
            code = MPI_Irecv(x->buf, len, MPI_BYTE, x->peer, tag, t->comm, q);
        else if (x->flags & TW_XFER_SYNC)
            code = MPI_Issend(x->buf, len, MPI_BYTE, x->peer, tag, t->comm, q);
        else
            code = MPI_Isend(x->buf, len, MPI_BYTE, x->peer, tag, t->comm, q);
        if (code == MPI_SUCCESS)
            t->slot[t->pending++] = (slot){x->cookie, x->len, x->is_send ? SEND : RECEIVE, 0};
        else
            s = say_mpi(t, x->is_send ? "MPI_Isend" : "MPI_Irecv", code);
    }
    pthread_mutex_unlock(&t->lock);
    return s;
}

/* Chunks are posted in order, all at once; the sum is done when its last one is. On failure in the middle the earlier
 * chunks are under way in user memory: the transport is unusable afterwards. */
static tw_status mpi_native_sum(void *p, float *buf, uint64_t count, uint64_t cookie) {
    transport *t = p;
    uint64_t chunks = count == 0 ? 1 : tw_ceil_div(count, TW_MPI_CHUNK);
    pthread_mutex_lock(&t->lock);
    tw_status s = t->finalized ? say_finalized(t) : t->broken ? say(t, TW_ERR_TRANSPORT, "an earlier collective is stuck") : TW_OK;
    for (uint64_t k = 0; k < chunks && s == TW_OK; k++) {
        uint64_t first = k * TW_MPI_CHUNK, n = count - first < TW_MPI_CHUNK ? count - first : TW_MPI_CHUNK;
        s = grow(t);
        if (s != TW_OK)
            break;
        int code = MPI_Iallreduce(MPI_IN_PLACE, buf + first, (int)n, MPI_FLOAT, MPI_SUM, t->comm, &t->request[t->pending]);
        if (code == MPI_SUCCESS)
            t->slot[t->pending++] = (slot){cookie, (size_t)count * sizeof(float), SUM, (uint32_t)(chunks - 1 - k)};
        else
            s = say_mpi(t, "MPI_Iallreduce", code);
    }
    pthread_mutex_unlock(&t->lock);
    return s;
}
