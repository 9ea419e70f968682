/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Requests of tw_reducer_post. */
#include "reducer/reducer.h"

void tw_req_keep(tw_req *q, const tw_op *op) {
    *q = (tw_req){.comm = op->comm, .status = op->status};
    memcpy(q->sentence, op->sentence, sizeof q->sentence);
}

static tw_status outcome(tw_status s, const char *sentence) {
    if (s < 0)
        tw_set_error(sentence);
    return s;
}

tw_status tw_req_test(tw_req *q) {
    if (!q)
        return tw_fail(TW_ERR_ARG, "tw_req_test: NULL");
    if (!q->op)
        return outcome(q->status, q->sentence);
    tw_comm *c = q->op->comm;
    tw_comm_lock(c);
    if (!q->op->finished && !c->threaded)
        tw_comm_pump(c);
    tw_status s = q->op->finished ? q->op->status : TW_IN_PROGRESS;
    tw_comm_unlock(c);
    return outcome(s, q->op->sentence);
}

tw_status tw_req_wait(tw_req *q, double timeout_s) {
    if (!q)
        return tw_fail(TW_ERR_ARG, "tw_req_wait: NULL");
    return q->op ? tw_op_wait(q->op, timeout_s) : outcome(q->status, q->sentence);
}

tw_status tw_req_free(tw_req *q) {
    if (!q)
        return TW_OK;
    tw_comm *c = q->comm;
    tw_comm_lock(c);
    if (q->op)
        q->op->req = NULL;
    c->users--;
    tw_comm_unlock(c);
    tw_free(c->ctx, q);
    return TW_OK;
}
