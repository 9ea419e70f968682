/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A communicator inside: one transport, the ops under way, and the pump that drives plans over it. Every function here
 * wants comm->lock held, except where it says so. */
#ifndef TW_COMM_H
#define TW_COMM_H

#include "collectives/run.h"
#include "exec/exec.h"
#include "reducer/fault.h"
#include <pthread.h>

typedef struct tw_op tw_op;

#define TW_POISON_BYTES 256u /* header, status, sentence */
#define TW_POISON_TAG   0u

struct tw_comm {
    tw_ctx *ctx;
    tw_transport_ops ops;
    void *t;
    int rank, size;
    pthread_mutex_t lock;
    pthread_cond_t moved; /* THREAD: something was completed, or posted */
    pthread_t thread;
    bool threaded, stop;
    uint32_t users;                  /* reducers and requests alive */
    tw_op *first, *last;             /* under way, in post order */
    tw_op *cached;                   /* stateless ops, for their next use */
    struct tw_op_layer *block_layer; /* [size]: of the call that is being prepared; made when needed */
    tw_piece *block_piece;
    tw_op **table; /* cookie -> op */
    uint32_t ntable;
    uint32_t seq;
    tw_status poisoned;
    char why[TW_SENTENCE];
    uint8_t *poison_in, *poison_out; /* [size][poison_bytes], [poison_bytes] */
    uint32_t poison_bytes;           /* shorter where there are very many ranks */
    tw_comm_stats stats;
    double kernel_s[TW_K_COUNT];
    tw_faults *faults; /* THINWIRE_FAULT, NULL without */
};

/* One collective over pieces, with its plan and memory: used again for every op of the same signature. */
struct tw_op {
    tw_op *next; /* under way */
    tw_op *next_cached;
    tw_comm *comm;
    uint64_t key_hash;
    uint32_t *key; /* signature */
    uint32_t nkey, slot, seq;
    tw_plan *plan;
    tw_run *run;
    tw_exec x;
    uint32_t *order;      /* piece i of the call is x.piece[order[i]] */
    uint32_t *layer_of;   /* layer of the op -> layer of the reducer */
    uint64_t *layer_wire; /* bytes of each layer that this rank sends, payload and trailers */
    uint64_t sent;        /* bytes of this use */
    bool busy;            /* under way, or done and not yet taken */
    bool finished, leaked;
    bool writing; /* its verdict was good: outputs are being written */
    tw_status status;
    char sentence[TW_SENTENCE];
    tw_req *req;
};

double tw_comm_clock(tw_comm *c);
/* Starts a prepared op. Never blocks. */
tw_status tw_op_start(tw_op *op);
/* Does what is ready: completions, transfers, one computation per op. Returns > 0 if anything moved. */
int tw_comm_pump(tw_comm *c);
/* Until the op is finished or the deadline has passed (<= 0: the context's). Takes and releases the lock itself. */
tw_status tw_op_wait(tw_op *op, double timeout_s);
/* Ends all ops with s, tells the peers, refuses further work. The sentence is the current tw_last_error. */
void tw_comm_poison(tw_comm *c, tw_status s, bool tell_peers);
tw_status tw_comm_refuses(const tw_comm *c); /* TW_OK, or TW_ERR_POISONED with the sentence */
void tw_comm_lock(tw_comm *c);
void tw_comm_unlock(tw_comm *c);
/* The transport's allgather, which only creation uses; what: who asks, for the sentence. After a deadline ranks differ in
 * what they have, so the communicator is poisoned. */
tw_status tw_comm_gather(tw_comm *c, const char *what, const void *mine, void *all, size_t bytes);
uint64_t tw_comm_hello_hash(void);

#endif
