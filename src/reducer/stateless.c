/* SPDX-License-Identifier: BSD-3-Clause
 *
 * tw_allreduce: one array without a reducer. The op, its plan and frames stay with the communicator for the next call
 * of its kind, as long as it is among the last TW_OPS_KEPT kinds.
 */
#include "reducer/op.h"

static tw_status check(tw_comm *c, const tw_spec *s, const void *in, const void *out, uint64_t count, tw_dtype t,
                       tw_redop op) {
    if (!c)
        return tw_fail(TW_ERR_ARG, "tw_allreduce: comm is NULL");
    if (count && (!in || !out))
        return tw_fail(TW_ERR_ARG, "tw_allreduce: %s is NULL", in ? "out" : "in");
    if (!tw_dtype_size(t) || (op != TW_SUM && op != TW_AVG) || count > UINT64_MAX / 64)
        return tw_fail(TW_ERR_ARG, "tw_allreduce: %llu values of dtype %d, op %d", (unsigned long long)count, (int)t,
                       (int)op);
    tw_status st = tw_spec_check(s);
    if (st >= 0 && s->feedback != TW_FEEDBACK_NONE)
        st = tw_fail(TW_ERR_ARG, "tw_allreduce keeps no residual: error feedback needs a reducer");
    return st;
}

tw_status tw_allreduce(tw_comm *c, const tw_spec *s, const void *in, void *out, uint64_t count, tw_dtype t,
                       tw_redop op) {
    const tw_spec none = TW_SPEC_INIT;
    s = s ? s : &none;
    tw_status st = check(c, s, in, out, count, t, op);
    if (st < 0)
        return st;
    tw_op_layer layer = {.name = "tw_allreduce", .count = count, .dtype = t, .spec = *s};
    tw_piece piece = TW_PIECE(0, 0, count, in, out);
    tw_op_args a = {.comm = c,
                    .layer = &layer,
                    .nlayer = 1,
                    .piece = &piece,
                    .npiece = 1,
                    .redop = op,
                    .input_scale = 1.0f,
                    .algo = TW_ALGO_AUTO,
                    .nonfinite = TW_NONFINITE_PROPAGATE,
                    .tile = TW_MAX_TILE};
    tw_op *made;
    tw_comm_lock(c);
    st = tw_comm_refuses(c);
    if (st >= 0)
        st = tw_op_prepare(&a, &c->cached, TW_OPS_KEPT, &made);
    if (st >= 0) {
        made->x.draw = c->seq;
        st = tw_op_start(made);
    }
    tw_comm_unlock(c);
    if (st < 0)
        return st;
    st = tw_op_wait(made, 0);
    made->busy = false;
    return st;
}
