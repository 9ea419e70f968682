/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One worker: its replica of the model, its share of the batch, and the reducer between backward and update. */
#ifndef CHARLM_TRAIN_H
#define CHARLM_TRAIN_H

#include "options.h"
#include "text.h"

#include <thinwire/thinwire.h>

typedef struct point {
    int step;
    double time_s, wire_bytes; /* this run so far; time without evaluations */
    double train_bits, heldout_bits;
} point;

typedef struct result { /* the same on every rank; times are means over ranks, bytes the largest rank's */
    int ranks, identical;
    int diverged_at; /* the step before which the loss was no finite number, or 0 */
    uint64_t parameters, weights_hash, wire_bytes, dense_bytes, skipped;
    double time_s, compute_s, update_s, codec_s, wait_s, eval_s, error_bound;
    unsigned uncertified;
    point *curve;
    int points;
} result;

/* Ends the program with status 2 if the rules are wrong, warns of patterns that match no layer; before anything is read
 * or started. */
void train_check(const options *o);
/* Collective over comm. Ends the program with a sentence on any failure. */
void train(const options *o, const text *t, tw_comm *comm, result *out);

#endif
