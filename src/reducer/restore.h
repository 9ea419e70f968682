/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the two halves of loading share: restore.c reads, fold.c adds up what another number of ranks held. */
#ifndef TW_RESTORE_H
#define TW_RESTORE_H

#include <stdio.h>
#include "reducer/state.h"

typedef struct tw_restored { /* of a layer, until it is adopted */
    uint64_t left_columns, left;
    double bound_sq, joint;
    double acc_sq, mass; /* fold: of the ledgers of these streams' owners; the norms of weight times residual, added */
    uint32_t left_rank, flags, use, seen;
} tw_restored;

typedef struct tw_restore {
    tw_reducer *r;
    uint32_t n;
    tw_state_get get;
    void *const *arg;
    uint8_t *body;
    tw_state_in *in;    /* [n] */
    tw_restored *layer; /* [r->nlayer] */
    tw_state_head head; /* of what was saved, rank aside */
    int root;           /* the first rank that was given a stream */
    bool exact;         /* each rank was given its own */
} tw_restore;

/* load; ready: of what went before on this rank. If it failed, the others are told, and it is what comes back. */
tw_status tw_restore_from(tw_reducer *r, uint32_t n, tw_state_get get, void *const args[], tw_status ready);
tw_status tw_restore_fold(tw_restore *t);

#endif
