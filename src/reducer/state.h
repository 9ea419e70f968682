/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a reducer keeps between steps, as a stream of records (docs/state-format.md): of one rank, written by save, read by
 * load. */
#ifndef TW_STATE_H
#define TW_STATE_H

#include "reducer/reducer.h"

#define TW_STATE_VERSION 1u
#define TW_STATE_CHUNK   (1u << 20) /* most bytes of a record's body */

typedef struct tw_state_head { /* of a stream: whose it is */
    uint32_t version, rank, size, tile, redop, nlayer;
    uint32_t stepped, epoch;
    uint64_t step;   /* last one that ended, if any has */
    uint64_t layers; /* hash of names, counts, dtypes, columns and pins */
} tw_state_head;

enum { TW_STATE_USED = 1, TW_STATE_HELD = 2, TW_STATE_NATIVE = 4, TW_STATE_MOMENTUM = 8, TW_STATE_FLAGS = 15 };

typedef struct tw_state_layer { /* in front of a layer's values; its name follows */
    uint64_t count, columns, shard, left_columns;
    uint64_t values, tiles, left; /* residuals (0 or count), ledger entries and values of the left factor that follow */
    double bound_sq, joint;
    uint32_t dtype, pinned, left_rank, flags, use, name;
} tw_state_layer;

/* A stream that is being read: records in their order, each checked before it is handed out. */
typedef struct tw_state_in {
    tw_state_get get;
    void *arg;
    uint64_t chain;
    uint8_t *body; /* [TW_STATE_CHUNK] */
    uint32_t n;    /* bytes of it */
    char kind[4];
    tw_state_head head;
} tw_state_in;

tw_status tw_state_open(tw_state_in *in); /* magic and head */
/* The next record, which must be of this kind; n: bytes that it must have, or UINT32_MAX. */
tw_status tw_state_next(tw_state_in *in, const char *kind, uint32_t n);
tw_status tw_state_layer_next(tw_state_in *in, tw_state_layer *l, const char **name);
/* n values of `width` bytes, in records of this kind; sees them in pieces of whole values. */
typedef void (*tw_state_sink)(void *arg, uint64_t first, const void *values, uint64_t n);
tw_status tw_state_values(tw_state_in *in, const char *kind, uint64_t n, uint32_t width, tw_state_sink sink, void *arg);
tw_status tw_state_close(tw_state_in *in); /* the last record */

void tw_state_head_of(const tw_reducer *r, tw_state_head *h);

#endif
