/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The reducer inside: layers, their residuals (the ledger), the step. */
#ifndef TW_REDUCER_H
#define TW_REDUCER_H

#include "reducer/op.h"
#include "reducer/ranges.h"
#include "reducer/rules.h"
#include <math.h>

/* Since creation or reset: what a residual and a bound are about. */
typedef enum tw_use { TW_USE_NONE, TW_USE_SUMMED, TW_USE_GATHERED } tw_use;

typedef struct tw_layer_state {
    char *name;
    uint64_t count, tiles, place; /* place: values of all layers before it */
    tw_dtype dtype;
    uint32_t pinned;
    uint64_t shard; /* tiles */
    uint64_t cols;  /* 0: a vector */
    const tw_phase *phase;
    uint32_t nphase, bucket;
    /* Ledger. One slot serves both roles: in tiles that this rank owns it is the owner's residual (weight 1), elsewhere
     * the worker's (weight 1/P); the owner's own part travels raw, so it needs no worker residual there. Two copies: a
     * step reads [now] and writes [1 - now]; `end` flips. */
    float *slot[2];
    tw_cert *cert[2];
    /* Left factor of the last step under a codec of low rank, two copies likewise; the same on every rank. */
    float *left[2];
    /* dgc: momentum, two copies likewise; moves: there is some, since the last step had it. */
    float *momentum[2];
    bool moves;
    uint32_t now, cert_now, left_now, momentum_now;
    uint64_t left_cols; /* what it is a factor of; 0: none yet */
    uint32_t left_rank;
    bool used; /* error feedback has been on since creation or reset: the same on every rank */
    bool held; /* this rank's slot may be non-zero */
    tw_use use;
    bool native; /* went through a native sum: not certified from then on */
    double bound_sq;
    double joint; /* errors of native sums of payloads: of all ranks' tiles together, so no owner's ledger has them */
    /* this step */
    const void *in;
    void *out;
    bool pushed;
    bool sra;        /* wrote the other copies */
    bool kept;       /* part of the residual could not be sent */
    bool summed;     /* natively */
    bool one_way;    /* reduce-scattered or gathered: half of what an allreduce moves */
    uint64_t posted; /* values */
    uint64_t wire;
    double bound_sq_new, joint_new;
    bool stale; /* part of it stands as before */
} tw_layer_state;

typedef struct tw_bucket {
    uint32_t hi, n; /* layers hi, hi-1, ..., hi-n+1: backward order */
    uint32_t missing;
} tw_bucket;

typedef enum tw_mode { TW_MODE_IDLE, TW_MODE_OPEN, TW_MODE_PUSH, TW_MODE_POST } tw_mode;

struct tw_reducer {
    tw_comm *comm;
    tw_ctx *ctx;
    tw_reducer_config cfg; /* no zeros left, but for what 0 leaves to the plan */
    tw_rules *rules;
    tw_layer_state *layer;
    tw_op_layer *view; /* what ops see of the layers, this step */
    tw_bucket *bucket;
    tw_piece *piece; /* of the bucket that is posted */
    tw_op **flying;  /* ops of this step, in order; as many as there is room for */
    tw_op *cache;
    uint32_t nlayer, nbucket, nflying, cap_flying;
    uint32_t most_flying; /* of all steps so far */
    uint64_t state_bytes;
    /* this step */
    tw_mode mode;
    uint64_t step;
    float input_scale;
    bool refused;                    /* an op of this step was: `end` must not commit the others */
    tw_ranges reads, writes;         /* memory of what was pushed, or of ops under way at least */
    tw_ranges values;                /* posted */
    tw_ranges own_reads, own_writes; /* of the pieces that are being posted */
    uint32_t settled;                /* so many of flying were found finished */
    uint32_t next_bucket;
    uint8_t epoch;
    uint64_t last_step;
    bool stepped;
    double kernel_s0[TW_K_COUNT], wait_s;
    tw_report report;
    struct { /* since creation */
        uint64_t ended, skipped, failed, wire_bytes, dense_bytes;
    } total;
};

struct tw_req {
    tw_comm *comm;
    tw_op *op; /* NULL once the step is over */
    tw_status status;
    char sentence[TW_SENTENCE];
};

void tw_req_keep(tw_req *q, const tw_op *op); /* the op's end, for a request that outlives it */

/* create.c: local part, then agreement */
typedef struct tw_manifest { /* what ranks compare */
    int32_t status;
    uint32_t nlayer, rank;
    uint32_t option[8];
    uint64_t bucket_bytes, layers, rules;
    char rules_head[TW_RULES_HEAD];
} tw_manifest;
tw_status tw_reducer_make(tw_comm *c, const tw_layer *layers, uint32_t n, const char *rules,
                          const tw_reducer_config *cfg, tw_reducer **out);
void tw_reducer_manifest(const tw_reducer *r, tw_manifest *m);
uint64_t tw_left_values(const tw_layer_state *l, const tw_spec *s); /* of its left factor, kept under s; 0: none is */
uint64_t tw_left_room(const tw_layer_state *l); /* of what is kept of its left factor, whatever the phase */
/* Residuals for a layer that has none: one rank alone drops nothing, but it may load what others did. */
tw_status tw_reducer_give_slots(tw_reducer *r, tw_layer_state *l);
uint64_t tw_reducer_layer_hash(const tw_layer_state *l);
tw_status tw_manifest_compare(const tw_manifest *mine, const tw_manifest *theirs, int rank);
void tw_reducer_unmake(tw_reducer *r);
/* buffers.c: what one step is given must not overlap */
void tw_buffers_begin(tw_reducer *r);
tw_status tw_buffers_check_push(const tw_reducer *r, uint32_t layer, const void *in, const void *out);
void tw_buffers_add_push(tw_reducer *r, uint32_t layer);
/* *apart: as in tw_op_args. Makes room for the adding. */
tw_status tw_buffers_check_post(tw_reducer *r, const tw_piece *pieces, uint32_t n, bool *apart);
void tw_buffers_add_post(tw_reducer *r, const tw_piece *pieces, uint32_t n);
/* step.c */
static inline double tw_layer_bound(const tw_layer_state *l) {
    return sqrt(l->bound_sq) + l->joint;
}
uint64_t tw_reducer_dense_bytes(const tw_reducer *r, const tw_layer_state *l);
void tw_reducer_view(tw_reducer *r, uint64_t step);
void tw_reducer_bucket_args(const tw_reducer *r, const tw_bucket *b, tw_piece *piece, tw_op_args *a);

#endif
