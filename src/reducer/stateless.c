/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Collectives of one array without a reducer. The op, its plan and frames stay with the communicator for the next call of
 * its kind, as long as it is among the last TW_OPS_KEPT kinds. */
#include "reducer/stateless.h"

static const char *const names[] = {"tw_allreduce", "tw_reduce_scatter", "tw_allgather", "tw_broadcast"};

static bool touch(const void *p, const void *q, uint64_t n, uint64_t m) {
    return (uintptr_t)p < (uintptr_t)q + m && (uintptr_t)q < (uintptr_t)p + n;
}

/* One block against all blocks: apart, or this rank's place among them. */
static tw_status check_blocks(const tw_call *k, const void *one, const void *all) {
    uint64_t n = k->count * tw_dtype_size(k->dtype), size = (uint64_t)tw_comm_size(k->comm);
    const uint8_t *mine = (const uint8_t *)all + (uint64_t)tw_comm_rank(k->comm) * n;
    if (n == 0 || one == (const void *)mine || !touch(one, all, n, n * size))
        return TW_OK;
    return tw_fail(TW_ERR_ARG, "%s: in and out overlap, and the one block is not rank %d's of the others",
                   names[k->kind], tw_comm_rank(k->comm));
}

static tw_status check_buffers(const tw_call *k) {
    const char *name = names[k->kind];
    if (k->kind == TW_KIND_BROADCAST && k->count && !k->out)
        return tw_fail(TW_ERR_ARG, "%s: buf is NULL", name);
    if (k->kind != TW_KIND_BROADCAST && k->count && (!k->in || !k->out))
        return tw_fail(TW_ERR_ARG, "%s: %s is NULL", name, k->in ? "out" : "in");
    if (k->kind == TW_KIND_REDUCE_SCATTER)
        return check_blocks(k, k->out, k->in);
    return k->kind == TW_KIND_ALLGATHER ? check_blocks(k, k->in, k->out) : TW_OK;
}

static tw_status check(const tw_call *k) {
    const char *name = names[k->kind];
    if (!k->comm)
        return tw_fail(TW_ERR_ARG, "%s: comm is NULL", name);
    uint64_t blocks = k->kind == TW_KIND_REDUCE_SCATTER || k->kind == TW_KIND_ALLGATHER ? (unsigned)k->comm->size : 1;
    if (!tw_dtype_size(k->dtype) || (k->redop != TW_SUM && k->redop != TW_AVG) || k->count > UINT64_MAX / 64 / blocks)
        return tw_fail(TW_ERR_ARG, "%s: %llu values of dtype %d, op %d", name, (unsigned long long)k->count,
                       (int)k->dtype, (int)k->redop);
    if (k->root < 0 || k->root >= k->comm->size)
        return tw_fail(TW_ERR_ARG, "%s: root %d of %d ranks", name, k->root, k->comm->size);
    tw_status s = check_buffers(k);
    if (s >= 0)
        s = tw_spec_check(&k->spec);
    if (s >= 0 && k->kind != TW_KIND_ALLREDUCE)
        s = tw_codec_check_owned(&k->spec, name);
    if (s >= 0 && k->spec.feedback != TW_FEEDBACK_NONE)
        s = tw_fail(TW_ERR_ARG, "%s keeps no residual: error feedback needs a reducer", name);
    return s;
}

/* A block is a layer of its own that belongs to one rank, so blocks need not end where tiles do. */
static tw_status lay_out_blocks(const tw_call *k, tw_op_args *a) {
    tw_comm *c = k->comm;
    uint64_t n = k->count * tw_dtype_size(k->dtype);
    if (!c->block_layer)
        c->block_layer = tw_alloc(c->ctx, (unsigned)c->size * sizeof *c->block_layer);
    if (!c->block_piece)
        c->block_piece = tw_alloc(c->ctx, (unsigned)c->size * sizeof *c->block_piece);
    if (!c->block_layer || !c->block_piece)
        return TW_ERR_NOMEM;
    for (uint32_t r = 0; r < (unsigned)c->size; r++) {
        const uint8_t *in = k->in;
        uint8_t *out = k->out;
        bool mine = r == (unsigned)c->rank;
        if (k->kind == TW_KIND_REDUCE_SCATTER) {
            in = in ? in + r * n : NULL;
            out = mine ? out : NULL;
        } else {
            in = mine ? in : NULL;
            out = out ? out + r * n : NULL;
        }
        c->block_layer[r] = (tw_op_layer){
            .name = names[k->kind], .count = k->count, .dtype = k->dtype, .spec = k->spec, .pinned = 1 + r, .block = r};
        c->block_piece[r] = (tw_piece)TW_PIECE(r, 0, k->count, in, out);
    }
    a->layer = c->block_layer;
    a->piece = c->block_piece;
    a->nlayer = a->npiece = (unsigned)c->size;
    return TW_OK;
}

static tw_status start(const tw_call *k, tw_op **out) {
    tw_comm *c = k->comm;
    tw_op_layer layer = {.name = names[k->kind], .count = k->count, .dtype = k->dtype, .spec = k->spec};
    bool source = k->kind != TW_KIND_BROADCAST || k->root == c->rank;
    tw_piece piece = TW_PIECE(0, 0, k->count, source ? k->in : NULL, k->out);
    tw_op_args a = {.comm = c,
                    .layer = &layer,
                    .nlayer = 1,
                    .piece = &piece,
                    .npiece = 1,
                    .apart = k->kind != TW_KIND_ALLREDUCE,
                    .kind = k->kind,
                    .root = k->root,
                    .redop = k->redop,
                    .input_scale = 1.0f,
                    .algo = TW_ALGO_AUTO,
                    .nonfinite = TW_NONFINITE_PROPAGATE,
                    .tile = k->tile ? k->tile : TW_MAX_TILE,
                    .frame_bytes = k->frame_bytes,
                    .in_flight = k->in_flight};
    tw_status s = tw_comm_refuses(c);
    if (s >= 0 && (k->kind == TW_KIND_REDUCE_SCATTER || k->kind == TW_KIND_ALLGATHER))
        s = lay_out_blocks(k, &a);
    if (s >= 0)
        s = tw_op_prepare(&a, &c->cached, TW_OPS_KEPT, out);
    if (s < 0)
        return s;
    (*out)->x.draw = c->seq;
    return tw_op_start(*out);
}

tw_status tw_call_start(const tw_call *k, tw_op **out) {
    tw_status s = check(k);
    if (s < 0)
        return s;
    tw_comm_lock(k->comm);
    s = start(k, out);
    tw_comm_unlock(k->comm);
    return s;
}

tw_status tw_call_wait(tw_op *op) {
    tw_status s = tw_op_wait(op, 0);
    op->busy = false;
    return s;
}

static tw_status call(tw_call k, const tw_spec *s) {
    tw_op *op;
    k.spec = s ? *s : (tw_spec)TW_SPEC_INIT;
    tw_status st = tw_call_start(&k, &op);
    return st < 0 ? st : tw_call_wait(op);
}

tw_status tw_allreduce(tw_comm *c, const tw_spec *s, const void *in, void *out, uint64_t count, tw_dtype t,
                       tw_redop op) {
    return call(
        (tw_call){.comm = c, .kind = TW_KIND_ALLREDUCE, .in = in, .out = out, .count = count, .dtype = t, .redop = op},
        s);
}

tw_status tw_reduce_scatter(tw_comm *c, const tw_spec *s, const void *in, void *out, uint64_t count_per_rank,
                            tw_dtype t, tw_redop op) {
    return call((tw_call){.comm = c,
                          .kind = TW_KIND_REDUCE_SCATTER,
                          .in = in,
                          .out = out,
                          .count = count_per_rank,
                          .dtype = t,
                          .redop = op},
                s);
}

tw_status tw_allgather(tw_comm *c, const tw_spec *s, const void *in, void *out, uint64_t count, tw_dtype t) {
    return call(
        (tw_call){
            .comm = c, .kind = TW_KIND_ALLGATHER, .in = in, .out = out, .count = count, .dtype = t, .redop = TW_SUM},
        s);
}

tw_status tw_broadcast(tw_comm *c, const tw_spec *s, void *buf, uint64_t count, tw_dtype t, int root) {
    return call((tw_call){.comm = c,
                          .kind = TW_KIND_BROADCAST,
                          .in = buf,
                          .out = buf,
                          .count = count,
                          .dtype = t,
                          .redop = TW_SUM,
                          .root = root},
                s);
}
