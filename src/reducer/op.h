/* SPDX-License-Identifier: BSD-3-Clause
 *
 * From pieces to a prepared op. An op of a signature (layers, positions, specs, options; not addresses) seen before
 * uses its plan and memory again, so the hot path allocates nothing. */
#ifndef TW_OP_H
#define TW_OP_H

#include "reducer/comm.h"

typedef struct tw_op_layer { /* what an op needs to know of a layer */
    const char *name;
    uint64_t count;
    tw_dtype dtype;
    tw_spec spec;
    uint32_t pinned, block; /* these three as in tw_plan_layer */
    uint64_t shard, cols;
    bool no_native; /* has used residuals */
    bool drain;
    float *e, *e_new;
    float *u, *u_new, momentum; /* dgc: as in tw_exec_layer */
    float *left, *left_new;     /* as in tw_exec_layer */
    tw_cert *cert, *cert_new;
    double bound_sq; /* of the layer, so far */
} tw_op_layer;

/* Of a matrix: as the spec has it, or the layer. */
static inline uint64_t tw_op_columns(const tw_op_layer *l) {
    return l->spec.columns ? l->spec.columns : l->cols;
}
/* Under a codec of low rank, but factors would not be shorter than the values: these travel, as under `none`. */
static inline bool tw_op_is_flat(const tw_op_layer *l) {
    return tw_codec_is_lowrank(&l->spec) && !tw_lowrank_values(l->spec.rank, l->count, tw_op_columns(l));
}

typedef struct tw_op_args {
    tw_comm *comm;
    const tw_op_layer *layer; /* indexed by tw_piece.layer */
    uint32_t nlayer;
    const tw_piece *piece;
    uint32_t npiece;
    bool apart; /* the caller has seen to it that buffers do not overlap */
    tw_kind kind;
    int root;  /* of a broadcast, else 0 */
    bool told; /* as in tw_plan_in */
    tw_algo algo;
    tw_redop redop;
    tw_nonfinite nonfinite;
    uint32_t tile, frame_bytes, in_flight;
    bool no_overlap;
    float input_scale;
    uint64_t step;
    uint8_t epoch;
} tw_op_args;

/* Finds or makes the op in *cache, fills in addresses and step; ready for tw_op_start. Where it makes one and the cache
 * has more than `keep`, those go that nobody uses, the ones started longest ago first. Wants the lock. */
tw_status tw_op_prepare(const tw_op_args *a, tw_op **cache, uint32_t keep, tw_op **out);
enum { TW_OPS_KEPT = 64 }; /* at least; a reducer keeps those of two steps */
/* Bytes of memory that an op of these arguments would take. */
tw_status tw_op_measure(tw_ctx *ctx, int me, int size, const tw_op_args *a, uint64_t *bytes, tw_plan_info *info);
uint64_t tw_op_hash(const tw_op_args *a); /* of the signature */
void tw_op_free_all(tw_op **cache);
uint64_t tw_op_bytes(const tw_op *op); /* all that it holds */

#endif
