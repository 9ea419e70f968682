/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The one runner. It neither computes nor does I/O: it hands out actions that are ready and takes completions. A pump
 * (MPI, threads, sim) does the rest. Not thread-safe; memory is taken at creation only. */
#ifndef TW_RUN_H
#define TW_RUN_H

#include "collectives/plan.h"

typedef struct tw_run tw_run;
/* Computations: other ranks wait for REDUCE, the wire waits for COMPUTE, nobody but the caller for OUTPUT. A pump takes
 * them in this order, over all its ops. */
typedef enum tw_lane {
    TW_LANE_TRANSFER,
    TW_LANE_NATIVE,
    TW_LANE_REDUCE,
    TW_LANE_COMPUTE,
    TW_LANE_OUTPUT,
    TW_LANE_COUNT
} tw_lane;

tw_status tw_run_create(const tw_plan *p, tw_run **out);
void tw_run_free(tw_run *r);
uint64_t tw_run_bytes(const tw_plan *p);                     /* of memory, that a runner of p takes */
void tw_run_start(tw_run *r);                                /* again from the beginning */
bool tw_run_next(tw_run *r, tw_lane lane, uint32_t *action); /* false: none is ready */
void tw_run_done(tw_run *r, uint32_t action);                /* completed well; makes its successors ready */
void tw_run_stop(tw_run *r);                                 /* after a failure: hands out nothing more */
bool tw_run_finished(const tw_run *r);
uint32_t tw_run_under_way(const tw_run *r);    /* handed out, not done */
uint32_t tw_run_natives_left(const tw_run *r); /* native sums not handed out yet */
/* An action that was handed out and is not done, for sentences about deadlines: a receive if there is one. */
const tw_action *tw_run_waits_for(const tw_run *r);
#endif
