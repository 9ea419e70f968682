/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `local`: the blocking allgather that creation uses. */
#include "transports/local_hub.h"

#include <stdio.h>
#include <time.h>

/* The last to arrive copies for all, so that nobody reads a buffer whose owner has gone on. */
static tw_status gather_all(tw_local_hub *h, size_t bytes) {
    for (int to = 0; to < h->size; to++)
        for (int from = 0; from < h->size; from++)
            if (bytes > 0)
                memmove((char *)h->oob_all[to] + (size_t)from * bytes, h->oob_mine[from], bytes);
    return TW_OK;
}

static void finish_round(tw_local_hub *h, tw_status s) {
    h->oob_status = s;
    h->oob_arrived = 0;
    memset(h->oob_mine, 0, (size_t)h->size * sizeof *h->oob_mine);
    h->oob_round++;
    pthread_cond_broadcast(&h->oob_signal);
}

static void deadline_after(struct timespec *t, double seconds) {
    clock_gettime(CLOCK_MONOTONIC, t);
    if (seconds > 1e6)
        seconds = 1e6;
    time_t whole = (time_t)seconds;
    t->tv_sec += whole;
    t->tv_nsec += (long)((seconds - (double)whole) * 1e9);
    if (t->tv_nsec >= 1000000000L) {
        t->tv_nsec -= 1000000000L;
        t->tv_sec++;
    }
}

/* At the deadline, for the sentence. */
static void note_missing(tw_local_hub *h) {
    h->oob_missing = h->size - h->oob_arrived;
    for (int r = h->size; r-- > 0;)
        if (!h->oob_mine[r])
            h->oob_missing_first = r;
}

static tw_status wait_round(tw_local_hub *h, uint64_t round) {
    struct timespec deadline;
    deadline_after(&deadline, h->ctx->cfg.timeout_s);
    while (h->oob_round == round) {
        if (pthread_cond_timedwait(&h->oob_signal, &h->oob_lock, &deadline) != 0 && h->oob_round == round) {
            note_missing(h);
            h->oob_broken = TW_ERR_TIMEOUT; /* this rank withdraws its buffers: nobody can finish the round */
            finish_round(h, TW_ERR_TIMEOUT);
        }
    }
    return h->oob_status;
}

static tw_status say_missing(tw_local_endpoint *e) {
    const tw_local_hub *h = e->hub;
    char more[32] = "";
    if (h->oob_missing > 1)
        snprintf(more, sizeof more, " and %d more", h->oob_missing - 1);
    return tw_local_error(e, TW_ERR_TIMEOUT, "rank %d%s did not come to an allgather within %g s", h->oob_missing_first,
                          more, h->ctx->cfg.timeout_s);
}

tw_status tw_local_oob_allgather(void *t, const void *mine, void *all, size_t bytes) {
    tw_local_endpoint *e = t;
    tw_local_hub *h = e->hub;
    pthread_mutex_lock(&h->oob_lock);
    tw_status s = h->oob_broken;
    if (s == TW_OK) {
        uint64_t round = h->oob_round;
        if (h->oob_arrived == 0)
            h->oob_bytes = bytes;
        h->oob_mine[e->rank] = mine;
        h->oob_all[e->rank] = all;
        h->oob_arrived++;
        if (bytes != h->oob_bytes) {
            h->oob_broken = TW_ERR_MISMATCH;
            finish_round(h, TW_ERR_MISMATCH);
        } else if (h->oob_arrived == h->size) {
            finish_round(h, gather_all(h, bytes));
        }
        s = wait_round(h, round);
    }
    pthread_mutex_unlock(&h->oob_lock);
    if (s == TW_ERR_PEER)
        return tw_local_error(e, s, "a rank left the communicator while rank %d was in an allgather", e->rank);
    if (s == TW_ERR_MISMATCH)
        return tw_local_error(e, s, "ranks gave different sizes to an allgather (rank %d gave %zu bytes)", e->rank,
                              bytes);
    if (s == TW_ERR_TIMEOUT)
        return say_missing(e);
    return s;
}

void tw_local_oob_leave(tw_local_endpoint *e) {
    tw_local_hub *h = e->hub;
    pthread_mutex_lock(&h->oob_lock);
    if (h->oob_broken == TW_OK)
        h->oob_broken = TW_ERR_PEER;
    if (h->oob_arrived > 0)
        finish_round(h, TW_ERR_PEER);
    pthread_mutex_unlock(&h->oob_lock);
}
