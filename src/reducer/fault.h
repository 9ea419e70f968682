/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Faults on purpose, on every transport: THINWIRE_FAULT=drop:3,delay:5ms,corrupt:2@1,truncate:4,stop:6,nan:LAYER
 * drop, corrupt, truncate: the N-th frame that this rank sends (from 1); stop: all frames after the N-th; mute: all
 * frames of hop N; delay: every frame; nan: the first value of that layer. @R: on rank R only. Nonsense is an error: bad
 * text when a context is made, a rank that is not there when a communicator is, a layer that a reducer lacks when that is. */
#ifndef TW_FAULT_H
#define TW_FAULT_H

#include "core/core.h"

typedef struct tw_faults tw_faults;
typedef enum tw_fate { TW_FATE_SEND, TW_FATE_DROP } tw_fate;

/* *out NULL if the plan has nothing for this rank. */
tw_status tw_faults_make(tw_ctx *ctx, const tw_fault_plan *plan, int rank, int size, tw_faults **out);
void tw_faults_free(tw_faults *f);
/* What becomes of the next frame; *buf and *len may be replaced. */
tw_fate tw_faults_send(tw_faults *f, uint32_t hop, void **buf, size_t *len);
const char *tw_faults_nan_layer(const tw_faults *f); /* NULL: none */

#endif
