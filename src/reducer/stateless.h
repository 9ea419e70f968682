/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A call of tw_allreduce, tw_reduce_scatter, tw_allgather or tw_broadcast, begun and waited for apart: tests run all ranks
 * of a simulation in one thread. */
#ifndef TW_STATELESS_H
#define TW_STATELESS_H

#include "reducer/op.h"

typedef struct tw_call {
    tw_comm *comm;
    tw_kind kind;
    tw_spec spec;
    const void *in;
    void *out;
    uint64_t count; /* of the array; reduce-scatter, allgather: of a block */
    tw_dtype dtype;
    tw_redop redop;                        /* SUM where nothing is reduced */
    int root;                              /* of a broadcast, else 0 */
    uint32_t tile, frame_bytes, in_flight; /* 0: as ever; others are for tests */
} tw_call;

/* Checks the arguments and starts. Never blocks. */
tw_status tw_call_start(const tw_call *k, tw_op **out);
/* Until the op has ended, with its outcome; it may be used again then. */
tw_status tw_call_wait(tw_op *op);

#endif
