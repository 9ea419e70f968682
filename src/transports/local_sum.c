/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `local`: the native sum. Once all ranks have called it, blocks of it are handed to whoever polls, so that a
 * rank that is busy elsewhere holds up nobody. Each value is summed in rank order and the same bits go to all ranks. */
#include "transports/local_hub.h"

#define BLOCK 8192u /* values that one poll sums: short enough for `poll never blocks` */
#define STRIP 1024u /* of them at a time in L1 */

static void add_strip(const tw_local_sum *op, int size, uint64_t first, uint32_t n) {
    float acc[STRIP];
    memcpy(acc, (const float *)op->part[0]->buf + first, n * sizeof *acc);
    for (int r = 1; r < size; r++) {
        const float *restrict x = (const float *)op->part[r]->buf + first;
        for (uint32_t i = 0; i < n; i++)
            acc[i] += x[i];
    }
    for (int r = 0; r < size; r++)
        memcpy((float *)op->part[r]->buf + first, acc, n * sizeof *acc);
}

static void add_block(const tw_local_sum *op, int size, uint64_t block) {
    uint64_t first = block * BLOCK, end = first + BLOCK < op->count ? first + BLOCK : op->count;
    tw_fpenv env = tw_fp_enter();
    for (; first < end; first += STRIP)
        add_strip(op, size, first, end - first < STRIP ? (uint32_t)(end - first) : STRIP);
    tw_fp_leave(env);
}

/* Completes op for all that have called it and puts it back. Under sum_lock. */
static void finish(tw_local_hub *h, tw_local_sum **at, tw_status s) {
    tw_local_sum *op = *at;
    for (int r = 0; r < h->size; r++)
        if (op->part[r] != NULL)
            tw_local_complete(&h->ep[r], op->part[r], s, (size_t)op->count * sizeof(float));
    *at = op->next;
    op->next = h->free_sums;
    h->free_sums = op;
}

static bool is_ready(const tw_local_hub *h, const tw_local_sum *op) {
    return op->arrived == h->size && op->status == TW_OK;
}

void tw_local_sum_help(tw_local_hub *h) {
    pthread_mutex_lock(&h->sum_lock);
    tw_local_sum *op = h->sums;
    while (op != NULL && !(is_ready(h, op) && op->next_block < op->blocks))
        op = op->next;
    if (op != NULL && !h->sums_broken) {
        uint64_t block = op->next_block++;
        h->adding++;
        atomic_fetch_sub_explicit(&h->sum_work, 1, memory_order_relaxed);
        pthread_mutex_unlock(&h->sum_lock);
        add_block(op, h->size, block);
        pthread_mutex_lock(&h->sum_lock);
        h->adding--;
        op->blocks_done++;
        if (op->blocks_done == op->blocks && !h->sums_broken) {
            tw_local_sum **at = &h->sums;
            while (*at != op)
                at = &(*at)->next;
            finish(h, at, TW_OK);
        }
        pthread_cond_broadcast(&h->sum_signal);
    }
    pthread_mutex_unlock(&h->sum_lock);
}

/* The record of sum number `index`, made if this is the first rank to come to it. Under sum_lock. */
static tw_local_sum **find(tw_local_hub *h, uint64_t index, uint64_t count) {
    tw_local_sum **at = &h->sums;
    while (*at != NULL && (*at)->index != index)
        at = &(*at)->next;
    if (*at != NULL)
        return at;
    tw_local_sum *op = h->free_sums;
    uint64_t bytes = sizeof *op + (uint64_t)h->size * sizeof op->part[0];
    if (op != NULL)
        h->free_sums = op->next;
    else if ((op = tw_alloc(h->ctx, bytes)) == NULL)
        return NULL;
    memset(op, 0, bytes);
    op->index = index;
    op->count = count;
    op->blocks = tw_ceil_div(count, BLOCK);
    *at = op;
    return at;
}

static void all_arrived(tw_local_hub *h, tw_local_sum **at) {
    tw_local_sum *op = *at;
    if (op->status != TW_OK || op->blocks == 0) {
        finish(h, at, op->status);
        return;
    }
    atomic_fetch_add_explicit(&h->sum_work, (long)op->blocks, memory_order_relaxed);
    for (int r = 0; r < h->size; r++)
        tw_local_wake(&h->ep[r]);
}

tw_status tw_local_native_sum(void *t, float *buf, uint64_t count, uint64_t cookie) {
    tw_local_endpoint *e = t;
    tw_local_hub *h = e->hub;
    if (buf == NULL && count > 0)
        return tw_local_error(e, TW_ERR_ARG, "native sum of %llu values without a buffer", (unsigned long long)count);
    tw_local_node *n = tw_local_take(e);
    if (n == NULL)
        return TW_ERR_NOMEM;
    *n = (tw_local_node){.buf = buf, .len = (size_t)count * sizeof(float), .cookie = cookie, .peer = -1};
    pthread_mutex_lock(&h->sum_lock);
    tw_local_sum **at = h->sums_broken ? NULL : find(h, e->sums, count);
    if (h->sums_broken) {
        tw_local_complete(e, n, TW_ERR_PEER, 0);
    } else if (at != NULL) {
        tw_local_sum *op = *at;
        e->sums++;
        op->part[e->rank] = n;
        if (op->count != count)
            op->status = TW_ERR_MISMATCH;
        if (++op->arrived == h->size)
            all_arrived(h, at);
    }
    bool failed = !h->sums_broken && at == NULL;
    pthread_mutex_unlock(&h->sum_lock);
    if (failed) {
        tw_local_give(e, n);
        return TW_ERR_NOMEM;
    }
    return TW_OK;
}

void tw_local_sum_leave(tw_local_endpoint *e, bool for_good) {
    tw_local_hub *h = e->hub;
    pthread_mutex_lock(&h->sum_lock);
    bool mine = for_good;
    for (tw_local_sum *op = h->sums; op != NULL; op = op->next)
        mine = mine || op->part[e->rank] != NULL;
    if (mine) {
        h->sums_broken = true;
        while (h->adding > 0) /* at most a block per peer */
            pthread_cond_wait(&h->sum_signal, &h->sum_lock);
        atomic_store_explicit(&h->sum_work, 0, memory_order_relaxed);
        for (tw_local_sum *op = h->sums; op != NULL; op = op->next)
            if (op->part[e->rank] != NULL) {
                tw_local_give(e, op->part[e->rank]);
                op->part[e->rank] = NULL;
            }
        while (h->sums != NULL)
            finish(h, &h->sums, TW_ERR_PEER);
    }
    pthread_mutex_unlock(&h->sum_lock);
}

void tw_local_sum_free(tw_local_hub *h) {
    while (h->free_sums != NULL) {
        tw_local_sum *op = h->free_sums;
        h->free_sums = op->next;
        tw_free(h->ctx, op);
    }
}
