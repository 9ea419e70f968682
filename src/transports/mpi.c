/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `mpi`, in libthinwire-mpi: sees of libthinwire only what that exports.
 *
 * What MPI cannot do, and so neither ABANDON nor DETECTS is claimed: a send cannot be cancelled, a dead peer is not
 * reported. close() takes back receives and frees the duplicated communicator if nothing else was under way; otherwise,
 * after a fault, requests are released, the communicator is leaked, and MPI goes on reading those buffers.
 *
 * MPI_Finalize after a fault, measured: Open MPI 4.1 ends whatever is under way. MPICH 4.0 waits for each send above
 * its eager limit (some KiB) until the peer has received it, and for ever where a sum is under way that a rank never
 * joined. So a leaked communicator is drained: close() and MPI_Finalize (through an attribute of MPI_COMM_SELF) receive
 * and throw away what peers had sent. A rank that never comes to either still holds up the others' MPI_Finalize under
 * MPICH. */
#include "transports/mpi_impl.h"
#include "transports/mpi_open.h"

#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#define CLOSE_TRIES      200 /* polls of close() that let small sends go out */
#define FINALIZE_QUIET_S 0.2 /* the same after a fault */
#ifndef TW_MPI_CHUNK
#define TW_MPI_CHUNK (UINT64_C(1) << 30) /* values of one MPI_Iallreduce; tests make it small */
#endif

/* ---- memory and sentences: libthinwire's own helpers are hidden from here ---- */

void *tw_mpi_take(tw_ctx *c, uint64_t bytes) {
    uint64_t rounded = tw_round_up(bytes, 64);
    void *p = c->cfg.alloc(c->cfg.alloc_arg, (size_t)rounded, 64);
    if (p == NULL)
        tw_raise(TW_ERR_NOMEM, "the allocator refused memory for the MPI transport");
    else
        memset(p, 0, (size_t)rounded);
    return p;
}

void tw_mpi_give(tw_ctx *c, void *p) {
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

tw_status tw_mpi_say(transport *t, tw_status s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(t->error, sizeof t->error, format, args);
    va_end(args);
    return tw_raise(s, t->error);
}

tw_status tw_mpi_say_code(transport *t, const char *call, int code) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int len = 0;
    MPI_Error_string(code, text, &len);
    return tw_mpi_say(t, TW_ERR_TRANSPORT, "%s: %.300s", call, text);
}

static tw_status say_finalized(transport *t) {
    return tw_mpi_say(t, TW_ERR_TRANSPORT, "MPI was finalized before the communicator was destroyed");
}

static const char *mpi_error(void *p) {
    return ((transport *)p)->error;
}

/* ---- tests of requests ----
 *
 * A receive that is too short must become a status. MPICH gives errors that test calls find to MPI_COMM_WORLD's
 * handler, whatever the request's communicator has, and that handler aborts by default: it is exchanged for the length
 * of the call (0.2 us; an error of another thread's MPI call in that time is returned to it). */
#ifdef MPICH_VERSION
static MPI_Errhandler hush(void) {
    MPI_Errhandler old;
    MPI_Comm_get_errhandler(MPI_COMM_WORLD, &old);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    return old;
}

static void unhush(MPI_Errhandler old) {
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, old);
    MPI_Errhandler_free(&old);
}
#else
static MPI_Errhandler hush(void) {
    return MPI_ERRHANDLER_NULL;
}

static void unhush(MPI_Errhandler old) {
    (void)old;
}
#endif

static int test_one(MPI_Request *q, int *flag) {
    MPI_Errhandler old = hush();
    int code = MPI_Test(q, flag, MPI_STATUS_IGNORE);
    unhush(old);
    return code;
}

static int test_some(int n, MPI_Request *q, int *count, int *index, MPI_Status *status) {
    MPI_Errhandler old = hush();
    int code = MPI_Testsome(n, q, count, index, status);
    unhush(old);
    return code;
}

/* ---- MPI_Finalize: it deletes the attributes of MPI_COMM_SELF first, while MPI still works ---- */

static pthread_mutex_t live_lock = PTHREAD_MUTEX_INITIALIZER;
static transport *live;
static int live_key = MPI_KEYVAL_INVALID;

/* Communicators that were leaked, in MPI's memory: their contexts may be gone by MPI_Finalize. */
typedef struct leak {
    struct leak *next;
    MPI_Comm comm;
} leak;
static leak *leaks;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

bool tw_mpi_swallow(MPI_Message *message, int bytes, double limit) {
    MPI_Request q;
    void *scratch = NULL;
    int done = 0;
    if (MPI_Alloc_mem(bytes > 0 ? bytes : 1, MPI_INFO_NULL, &scratch) != MPI_SUCCESS ||
        MPI_Imrecv(scratch, bytes, MPI_BYTE, message, &q) != MPI_SUCCESS)
        return false;
    double end = seconds() + limit;
    while (!done && test_one(&q, &done) == MPI_SUCCESS && seconds() < end)
        ;
    if (done)
        MPI_Free_mem(scratch);
    else
        MPI_Request_free(&q);
    return true;
}

/* Takes back receives. True if something is left that MPI still works on. */
static bool let_go(transport *t) {
    bool left = false;
    t->waiting.n = 0;
    for (size_t i = 0; i < t->early.n; i++) {
        early *e = (early *)t->early.item + i;
        tw_mpi_swallow(&e->message, e->bytes, CLOSE_QUIET_S);
    }
    t->early.n = 0;
    for (uint64_t i = 0; i < t->pending; i++)
        if (t->slot[i].kind == RECEIVE)
            MPI_Cancel(&t->request[i]);
    for (int tries = 0; tries < CLOSE_TRIES; tries++) {
        left = false;
        for (uint64_t i = 0; i < t->pending; i++) {
            int flag = 1;
            if (t->request[i] != MPI_REQUEST_NULL && test_one(&t->request[i], &flag) != MPI_SUCCESS)
                flag = 1;
            left = left || !flag;
        }
        if (!left)
            break;
    }
    for (uint64_t i = 0; i < t->pending; i++)
        if (t->request[i] != MPI_REQUEST_NULL && t->slot[i].kind != SUM) /* MPI forbids it for collectives */
            MPI_Request_free(&t->request[i]);
    t->pending = 0;
    return left;
}

/* Receives one message and forgets it. False if there was none. */
static bool drain_one(MPI_Comm comm, double limit) {
    MPI_Message message;
    MPI_Status status;
    int found = 0, count = 0;
    if (MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, comm, &found, &message, &status) != MPI_SUCCESS || !found)
        return false;
    MPI_Get_count(&status, MPI_BYTE, &count);
    return tw_mpi_swallow(&message, count, limit);
}

/* Until nothing has come for `quiet` seconds, and for ten times that at most. True if there was anything. */
static bool drain(MPI_Comm comm, double quiet) {
    double start = seconds(), last = start, now = start;
    bool any = false;
    do {
        bool got = drain_one(comm, quiet);
        any = any || got;
        now = seconds();
        last = got ? now : last;
    } while (now - last < quiet && now - start < 10 * quiet);
    return any;
}

/* For MPI_Finalize to drain. */
static void keep_leak(MPI_Comm comm) {
    leak *x = NULL;
    if (MPI_Alloc_mem((MPI_Aint)sizeof *x, MPI_INFO_NULL, &x) != MPI_SUCCESS)
        return;
    pthread_mutex_lock(&live_lock);
    x->comm = comm;
    x->next = leaks;
    leaks = x;
    pthread_mutex_unlock(&live_lock);
}

static int at_finalize(MPI_Comm self, int key, void *value, void *extra) {
    (void)self, (void)value, (void)extra;
    pthread_mutex_lock(&live_lock);
    bool current = key == live_key; /* else it is unset because the last transport was closed */
    for (transport *t = current ? live : NULL; t != NULL; t = t->next) {
        pthread_mutex_lock(&t->lock);
        bool left = let_go(t);
        drain(t->comm, left || t->alarm ? FINALIZE_QUIET_S : CLOSE_QUIET_S);
        t->finalized = true;
        pthread_mutex_unlock(&t->lock);
    }
    while (current && leaks != NULL) {
        leak *x = leaks;
        leaks = x->next;
        drain(x->comm, FINALIZE_QUIET_S);
        MPI_Free_mem(x);
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
        if (ok && MPI_Comm_set_attr(MPI_COMM_SELF, live_key, NULL) != MPI_SUCCESS) {
            MPI_Comm_free_keyval(&live_key);
            ok = false;
        }
    }
    if (ok) {
        t->next = live;
        live = t;
    }
    pthread_mutex_unlock(&live_lock);
    return ok;
}

/* Without live or leaked communicators the attribute goes too, or unloading this library would leave a dangling
 * callback. */
static void delist(transport *t) {
    int unused = MPI_KEYVAL_INVALID;
    pthread_mutex_lock(&live_lock);
    for (transport **at = &live; *at != NULL; at = &(*at)->next)
        if (*at == t) {
            *at = t->next;
            if (live == NULL && leaks == NULL) {
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

tw_status tw_mpi_reserve(transport *t, uint64_t more) {
    uint64_t room = t->room == 0 ? FIRST_SLOTS : t->room;
    if (t->pending + more <= t->room)
        return TW_OK;
    while (room < t->pending + more)
        room *= 2;
    MPI_Request *request = tw_mpi_take(t->ctx, room * sizeof *request);
    slot *slots = tw_mpi_take(t->ctx, room * sizeof *slots);
    if (request == NULL || slots == NULL) {
        tw_mpi_give(t->ctx, request);
        tw_mpi_give(t->ctx, slots);
        return TW_ERR_NOMEM;
    }
    if (t->pending > 0) {
        memcpy(request, t->request, t->pending * sizeof *request);
        memcpy(slots, t->slot, t->pending * sizeof *slots);
    }
    tw_mpi_give(t->ctx, t->request);
    tw_mpi_give(t->ctx, t->slot);
    t->request = request;
    t->slot = slots;
    t->room = room;
    return TW_OK;
}

/* ALARM_TAG stays itself; the others share what MPI has. Two transfers that are open at a time must not be tag_most
 * apart.
 */
static int tag_of(const transport *t, uint32_t tag) {
    return tag == ALARM_TAG ? 0 : (int)(1 + (tag - 1) % t->tag_most);
}

static tw_status check_post(transport *t, const tw_xfer *x) {
    if (t->finalized)
        return say_finalized(t);
    if (x->peer < 0 || x->peer >= t->size)
        return tw_mpi_say(t, TW_ERR_ARG, "rank %d posted a transfer with rank %d of %d", t->rank, (int)x->peer,
                          t->size);
    if (x->len > INT_MAX)
        return tw_mpi_say(t, TW_ERR_ARG, "rank %d posted a transfer of %zu bytes; MPI takes at most %d", t->rank,
                          x->len, INT_MAX);
    return tw_mpi_reserve(t, 1);
}

static tw_status post_transfer(transport *t, const tw_xfer *x) {
    MPI_Request *q = &t->request[t->pending];
    int len = (int)x->len, tag = tag_of(t, x->tag), code;
    if (!x->is_send && t->matches)
        return tw_mpi_match_receive(t, &(waiting){x->cookie, x->len, x->buf, x->peer, tag});
    if (x->is_send)
        code = MPI_Isend(x->buf, len, MPI_BYTE, x->peer, tag, t->comm, q);
    else
        code = MPI_Irecv(x->buf, len, MPI_BYTE, x->peer, tag, t->comm, q);
    t->alarm = t->alarm || (x->is_send && x->tag == ALARM_TAG);
    if (code != MPI_SUCCESS)
        return tw_mpi_say_code(t, x->is_send ? "MPI_Isend" : "MPI_Irecv", code);
    t->slot[t->pending++] = (slot){x->cookie, x->len, x->is_send ? SEND : RECEIVE, x->tag == ALARM_TAG, TW_OK, 0};
    return TW_OK;
}

static tw_status mpi_post(void *p, const tw_xfer *x) {
    transport *t = p;
    pthread_mutex_lock(&t->lock);
    tw_status s = check_post(t, x);
    if (s == TW_OK)
        s = post_transfer(t, x);
    pthread_mutex_unlock(&t->lock);
    return s;
}

static tw_status check_collective(transport *t) {
    if (t->finalized)
        return say_finalized(t);
    return t->broken ? tw_mpi_say(t, TW_ERR_TRANSPORT, "an earlier collective did not end") : TW_OK;
}

/* Chunks are posted in order, all at once; the sum is done when all of them are. If one cannot be posted, the earlier
 * ones are under way in user memory: no sum is taken any more. */
static tw_status mpi_native_sum(void *p, float *buf, uint64_t count, uint64_t cookie) {
    transport *t = p;
    uint64_t chunks = count == 0 ? 1 : tw_ceil_div(count, TW_MPI_CHUNK);
    pthread_mutex_lock(&t->lock);
    tw_status s = check_collective(t);
    if (s == TW_OK)
        s = tw_mpi_reserve(t, chunks);
    for (uint64_t k = 0; k < chunks && s == TW_OK; k++) {
        uint64_t first = k * TW_MPI_CHUNK, n = count - first < TW_MPI_CHUNK ? count - first : TW_MPI_CHUNK;
        int code =
            MPI_Iallreduce(MPI_IN_PLACE, buf + first, (int)n, MPI_FLOAT, MPI_SUM, t->comm, &t->request[t->pending]);
        if (code == MPI_SUCCESS)
            t->slot[t->pending++] = (slot){cookie, (size_t)count * sizeof(float), SUM, false, TW_OK, t->sums};
        else
            s = tw_mpi_say_code(t, "MPI_Iallreduce", code);
        t->broken = s != TW_OK;
    }
    t->sums++;
    pthread_mutex_unlock(&t->lock);
    return s;
}

/* ---- completions ---- */

/* The other chunks of a sum that are not done yet get its status. True if there are any. */
static bool pass_on(transport *t, const slot *done) {
    bool any = false;
    for (uint64_t i = 0; i < t->pending; i++)
        if (&t->slot[i] != done && t->slot[i].kind == SUM && t->slot[i].sum == done->sum) {
            t->slot[i].status = done->status;
            any = true;
        }
    return any;
}

static tw_done completion(transport *t, const slot *x, const MPI_Status *st, int code) {
    tw_done d = {x->cookie, x->kind == SUM ? x->status : TW_OK, x->room};
    int class = MPI_SUCCESS, count = 0;
    if (code != MPI_SUCCESS)
        MPI_Error_class(code, &class);
    if (x->kind == RECEIVE) {
        MPI_Get_count(st, MPI_BYTE, &count);
        d.len = count < 0 ? 0 : (size_t)count;
    }
    if (class == MPI_ERR_TRUNCATE && x->kind == RECEIVE) {
        d.status = TW_ERR_CORRUPT;
#ifdef MPICH_VERSION
        d.len = x->room + 1; /* its count is meaningless here */
#endif
        tw_mpi_say(t, d.status, "rank %d received more than the %zu bytes that it had room for", t->rank, x->room);
    } else if (class != MPI_SUCCESS) {
        d.status = tw_mpi_say_code(t,
                                   x->kind == SUM    ? "MPI_Iallreduce"
                                   : x->kind == SEND ? "MPI_Isend"
                                                     : "MPI_Irecv",
                                   code);
    }
    return d;
}

/* Asks MPI about up to WINDOW requests; what is done goes to t->done. */
static tw_status test_window(transport *t) {
    if (t->start >= t->pending)
        t->start = 0;
    uint64_t first = t->start, n = t->pending - first < WINDOW ? t->pending - first : WINDOW;
    int count = 0;
    int code = test_some((int)n, t->request + first, &count, t->index, t->status);
    if (code != MPI_SUCCESS && (count == MPI_UNDEFINED || count <= 0))
        return tw_mpi_say_code(t, "MPI_Testsome", code);
    t->start += n;
    t->saved = t->saved_first = 0;
    for (int i = 0; i < count; i++) { /* MPI_UNDEFINED is negative */
        uint64_t at = first + (uint64_t)t->index[i];
        slot *x = &t->slot[at];
        tw_done d = completion(t, x, &t->status[i], code == MPI_SUCCESS ? MPI_SUCCESS : t->status[i].MPI_ERROR);
        bool last = true;
        t->alarm = t->alarm || x->alarm;
        if (x->kind == SUM) {
            x->status = d.status;
            last = !pass_on(t, x);
            x->kind = SEND; /* so that the other chunks of this batch do not count it */
        }
        if (last)
            t->done[t->saved++] = d;
        if (t->request[at] != MPI_REQUEST_NULL) /* it ended in an error */
            MPI_Request_free(&t->request[at]);
    }
    for (uint64_t i = first + n; count > 0 && i-- > first;)
        if (t->request[i] == MPI_REQUEST_NULL) {
            t->pending--;
            t->request[i] = t->request[t->pending];
            t->slot[i] = t->slot[t->pending];
        }
    return TW_OK;
}

static int mpi_poll(void *p, tw_done *done, int cap) {
    transport *t = p;
    pthread_mutex_lock(&t->lock);
    tw_status s = TW_OK;
    int n = 0;
    if (t->finalized)
        s = say_finalized(t);
    else if (t->saved == t->saved_first && t->matches)
        s = tw_mpi_match_all(t);
    if (s == TW_OK && t->saved == t->saved_first && t->pending > 0)
        s = test_window(t);
    while (s == TW_OK && n < cap && t->saved_first < t->saved)
        done[n++] = t->done[t->saved_first++];
    if (s == TW_OK && n < cap && t->too_long) {
        done[n++] = t->refused;
        t->too_long = false;
    }
    pthread_mutex_unlock(&t->lock);
    return s == TW_OK ? n : (int)s;
}

/* ---- allgather ---- */

/* With a deadline: a rank that failed before it came here must not hang the others. What MPI works on is ours, because
 * it cannot be taken back: after a deadline it is leaked. */
static tw_status allgather_copy(transport *t, char *copy, void *all, size_t bytes) {
    MPI_Request q;
    size_t total = bytes * (size_t)t->size;
    int code = MPI_Iallgather(copy + total, (int)bytes, MPI_BYTE, copy, (int)bytes, MPI_BYTE, t->comm, &q);
    double end = seconds() + t->timeout_s;
    for (int flag = 0; code == MPI_SUCCESS && !flag;) {
        code = test_one(&q, &flag);
        if (flag || code != MPI_SUCCESS)
            break;
        if (seconds() > end) {
            t->broken = true;
            return tw_mpi_say(t, TW_ERR_TIMEOUT, "a rank did not come to an allgather within %g s", t->timeout_s);
        }
        sched_yield();
    }
    if (code != MPI_SUCCESS)
        return tw_mpi_say_code(t, "MPI_Iallgather", code);
    memcpy(all, copy, total);
    return TW_OK;
}

static tw_status mpi_oob_allgather(void *p, const void *mine, void *all, size_t bytes) {
    transport *t = p;
    pthread_mutex_lock(&t->lock);
    tw_status s = check_collective(t);
    if (s == TW_OK && bytes > INT_MAX)
        s = tw_mpi_say(t, TW_ERR_ARG, "an allgather of %zu bytes a rank; MPI takes at most %d", bytes, INT_MAX);
    if (s == TW_OK && bytes > 0) {
        char *copy = tw_mpi_take(t->ctx, (uint64_t)bytes * ((uint64_t)t->size + 1));
        s = copy == NULL ? TW_ERR_NOMEM : TW_OK;
        if (s == TW_OK) {
            memcpy(copy + bytes * (size_t)t->size, mine, bytes);
            s = allgather_copy(t, copy, all, bytes);
        }
        if (!t->broken)
            tw_mpi_give(t->ctx, copy);
    }
    pthread_mutex_unlock(&t->lock);
    return s;
}

/* ---- life ---- */

static void release(transport *t) {
    tw_ctx *own = t->own_ctx, *ctx = t->ctx;
    pthread_mutex_destroy(&t->lock);
    tw_mpi_give(ctx, t->request);
    tw_mpi_give(ctx, t->slot);
    tw_mpi_give(ctx, t->waiting.item);
    tw_mpi_give(ctx, t->early.item);
    tw_mpi_give(ctx, t);
    if (own != NULL)
        tw_ctx_destroy(own);
}

static void mpi_close(void *p) {
    transport *t = p;
    if (!t->finalized) {
        bool left = let_go(t), fault = drain(t->comm, CLOSE_QUIET_S);
        if (left || fault || t->alarm || t->broken)
            keep_leak(t->comm);
        else
            MPI_Comm_free(&t->comm);
    }
    delist(t);
    release(t);
}

static const tw_transport_ops mpi_ops = {
    .size = sizeof(tw_transport_ops),
    .caps = TW_CAP_NETWORK,
    .name = "mpi",
    .oob_allgather = mpi_oob_allgather,
    .post = mpi_post,
    .poll = mpi_poll,
    .close = mpi_close,
    .native_sum = mpi_native_sum,
    .error = mpi_error,
};

static tw_status make(tw_ctx *ctx, tw_ctx *own, transport **out) {
    transport *t = tw_mpi_take(ctx, sizeof *t);
    if (t == NULL)
        return TW_ERR_NOMEM;
    t->ctx = ctx;
    t->own_ctx = own;
    t->timeout_s = ctx->cfg.timeout_s;
    t->comm = MPI_COMM_NULL;
    pthread_mutex_init(&t->lock, NULL);
    if (tw_mpi_reserve(t, 1) != TW_OK) {
        t->own_ctx = NULL; /* the caller's still */
        release(t);
        return TW_ERR_NOMEM;
    }
    *out = t;
    return TW_OK;
}

/* What this rank can find out without the others. */
static tw_status check_threads(const tw_ctx *ctx) {
    int level = MPI_THREAD_SINGLE, is_main = 0;
    bool thread = tw_ctx_progress(ctx) == TW_PROGRESS_THREAD;
    MPI_Query_thread(&level);
    MPI_Is_thread_main(&is_main);
    if (thread && level < MPI_THREAD_MULTIPLE)
        return fail(TW_ERR_UNSUPPORTED,
                    "THREAD progress needs MPI_THREAD_MULTIPLE, which MPI_Init_thread did not give");
    if (level < MPI_THREAD_SERIALIZED && !is_main)
        return fail(TW_ERR_UNSUPPORTED, "below MPI_THREAD_SERIALIZED only the main thread may create a communicator");
    return TW_OK;
}

/* All ranks learn of the worst status; each that did not fail itself says whose it was. */
static tw_status agree(MPI_Comm comm, int rank, tw_status mine) {
    int here[2] = {(int)mine, rank}, worst[2] = {0, 0};
    if (MPI_Allreduce(here, worst, 1, MPI_2INT, MPI_MINLOC, comm) != MPI_SUCCESS)
        return mine != TW_OK ? mine : fail(TW_ERR_TRANSPORT, "MPI_Allreduce failed while a communicator was created");
    if (mine != TW_OK || worst[0] >= 0)
        return mine;
    return fail((tw_status)worst[0], "rank %d could not create the communicator: %s", worst[1],
                tw_status_text((tw_status)worst[0]));
}

static tw_status check_comm(MPI_Comm comm) {
    int yes = 0, inter = 0;
    MPI_Initialized(&yes);
    if (!yes)
        return fail(TW_ERR_ARG, "tw_comm_create_mpi: MPI is not initialised; call MPI_Init_thread first");
    MPI_Finalized(&yes);
    if (yes)
        return fail(TW_ERR_ARG, "tw_comm_create_mpi: MPI is finalized already");
    if (comm == MPI_COMM_NULL)
        return fail(TW_ERR_ARG, "tw_comm_create_mpi: the communicator is MPI_COMM_NULL");
    MPI_Comm_test_inter(comm, &inter);
    if (inter)
        return fail(TW_ERR_ARG, "tw_comm_create_mpi: an intercommunicator; an intracommunicator is needed");
    return TW_OK;
}

static void fill(transport *t, MPI_Comm comm) {
    int *most = NULL, found = 0;
    t->comm = comm;
    MPI_Comm_rank(comm, &t->rank);
    MPI_Comm_size(comm, &t->size);
    MPI_Comm_get_attr(comm, MPI_TAG_UB, &most, &found);
    t->tag_most = found && *most > 0 ? (uint32_t)*most : 32767; /* the least that MPI promises */
}

/* The part that may fail on one rank alone. */
static tw_status open_here(tw_ctx *ctx, MPI_Comm dup, bool matches, transport **t) {
    tw_ctx *own = NULL;
    tw_status s = check_threads(ctx);
    if (s == TW_OK && ctx == NULL)
        s = tw_ctx_create(NULL, &own); /* only for the memory of this file */
    if (s == TW_OK)
        s = make(ctx != NULL ? ctx : own, own, t);
    if (s != TW_OK) {
        tw_ctx_destroy(own);
        return s;
    }
    fill(*t, dup);
    (*t)->matches = matches;
    return enlist(*t) ? TW_OK
                      : fail(TW_ERR_TRANSPORT, "tw_comm_create_mpi: no attribute could be set on MPI_COMM_SELF");
}

/* mine: what this rank knows already of its arguments; after a failure it takes part in the agreement, no further. */
static tw_status open_after(tw_status mine, tw_ctx *ctx, const void *comm, const tw_transport_ops **ops, void **out,
                            int *rank, int *size) {
    const MPI_Comm *given = comm;
    tw_status s = check_comm(*given);
    if (s != TW_OK)
        return s; /* the same on all ranks, or the others hang in MPI_Comm_dup as in any collective call */
    MPI_Comm dup = MPI_COMM_NULL;
    if (MPI_Comm_dup(*given, &dup) != MPI_SUCCESS)
        return fail(TW_ERR_TRANSPORT, "tw_comm_create_mpi: MPI_Comm_dup failed");
    transport *t = NULL;
    MPI_Comm_set_errhandler(dup, MPI_ERRORS_RETURN);
    MPI_Comm_rank(dup, rank);
    MPI_Comm_size(dup, size);
    bool matches = tw_mpi_must_match(dup);
    s = agree(dup, *rank, mine == TW_OK ? open_here(ctx, dup, matches, &t) : mine);
    if (s == TW_OK) {
        *ops = &mpi_ops;
        *out = t;
    } else if (t != NULL) {
        mpi_close(t);
    } else {
        MPI_Comm_free(&dup);
    }
    return s;
}

tw_status tw_mpi_open(tw_ctx *ctx, const void *comm, const tw_transport_ops **ops, void **out, int *rank, int *size) {
    return open_after(TW_OK, ctx, comm, ops, out, rank, size);
}

tw_status tw_comm_create_mpi(tw_ctx *ctx, MPI_Comm comm, tw_comm **out) {
    const tw_transport_ops *ops;
    void *t;
    int rank, size;
    tw_status s = open_after(out != NULL ? TW_OK : TW_ERR_ARG, ctx, &comm, &ops, &t, &rank, &size);
    if (out == NULL) /* the others know now */
        return fail(TW_ERR_ARG, "tw_comm_create_mpi: out is NULL");
    if (s == TW_OK) {
        s = tw_comm_create(ctx, ops, t, rank, size, out);
        if (s != TW_OK)
            ops->close(t);
    }
    return s;
}
