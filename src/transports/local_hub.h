/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the files of transport `local` share.
 *
 * Locks, in this order: pair, sum -> done. A thread holds at most one of each.
 *   pair  transfers from one rank to another: only these two threads meet there. Held while bytes are copied, so that
 *         who has passed through it after a withdrawal knows that nobody touches its buffers
 *   sum   the queue of native sums
 *   done  an endpoint's queue of completions
 *   oob   alone */
#ifndef TW_LOCAL_HUB_H
#define TW_LOCAL_HUB_H

#include <pthread.h>
#include <stdatomic.h>
#include "core/core.h"

/* One transfer or one part in a sum. Taken from and given back to its endpoint's pool by that endpoint's thread only.
 */
typedef struct tw_local_node {
    struct tw_local_node *next;
    void *buf;
    size_t len;
    uint64_t cookie;
    int32_t peer; /* -1: a native sum */
    uint32_t tag;
    tw_status status;
    bool is_send;
} tw_local_node;

typedef struct tw_local_list {
    tw_local_node *head, **tail; /* tail NULL: never used */
} tw_local_list;

/* Unmatched transfers of one (source, destination); all nodes of equal tag in a list are of the same direction. */
#define TW_LOCAL_LISTS 8u
typedef struct tw_local_pair {
    pthread_mutex_t lock;
    tw_local_list list[TW_LOCAL_LISTS]; /* by tag */
} tw_local_pair;

typedef struct tw_local_chunk {
    struct tw_local_chunk *next;
} tw_local_chunk;

typedef struct tw_local_endpoint {
    struct tw_local_hub *hub;
    int rank;
    uint32_t idle_streak;
    uint64_t sums; /* native sums called so far */
    tw_local_node *free;
    tw_local_chunk *chunks;
    uint32_t chunk_nodes;
    atomic_bool dead;
    char error[TW_SENTENCE];
    /* shared with the peers; on cache lines of its own */
    _Alignas(64) pthread_mutex_t done_lock;
    pthread_cond_t done_signal;
    tw_local_list done;
    atomic_uint done_count;
} tw_local_endpoint;

/* One native sum: waits until all ranks have called it, then is computed block by block by whoever polls. */
typedef struct tw_local_sum {
    struct tw_local_sum *next;
    uint64_t index, count, blocks, next_block, blocks_done;
    int arrived;
    tw_status status;
    tw_local_node *part[]; /* by rank; NULL: not called there yet */
} tw_local_sum;

typedef struct tw_local_hub {
    tw_ctx *ctx;
    int size;
    atomic_int open; /* endpoints not closed */
    tw_local_endpoint *ep;
    tw_local_pair *pair; /* [source * size + destination] */

    pthread_mutex_t sum_lock;
    pthread_cond_t sum_signal; /* a block was finished */
    tw_local_sum *sums, *free_sums;
    int adding;           /* blocks being computed now */
    bool sums_broken;     /* a rank is gone: no sum can complete any more */
    atomic_long sum_work; /* blocks not taken yet */

    pthread_mutex_t oob_lock;
    pthread_cond_t oob_signal;
    uint64_t oob_round;
    int oob_arrived;
    int oob_missing, oob_missing_first; /* at the deadline: how many ranks, and one of them */
    size_t oob_bytes;
    tw_status oob_status, oob_broken;
    const void **oob_mine;
    void **oob_all;
} tw_local_hub;

/* local.c */
tw_local_node *tw_local_take(tw_local_endpoint *e);
void tw_local_give(tw_local_endpoint *e, tw_local_node *n);
void tw_local_complete(tw_local_endpoint *owner, tw_local_node *n, tw_status s, size_t len);
void tw_local_wake(tw_local_endpoint *e);
tw_status tw_local_error(tw_local_endpoint *e, tw_status s, const char *format, ...) TW_PRINTF(3, 4);
/* local_sum.c */
tw_status tw_local_native_sum(void *t, float *buf, uint64_t count, uint64_t cookie);
void tw_local_sum_help(tw_local_hub *h); /* computes one block if there is one */
void tw_local_sum_leave(tw_local_endpoint *e,
                        bool for_good); /* drops e's parts; afterwards nobody touches its buffers */
void tw_local_sum_free(tw_local_hub *h);
/* local_oob.c */
tw_status tw_local_oob_allgather(void *t, const void *mine, void *all, size_t bytes);
void tw_local_oob_leave(tw_local_endpoint *e);

#endif
