/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What happens to a tile before and after the codec. Knows no codec. A feedback is one file and one row here; the two
 * whose loops are fused with the codecs (exec) are `none` and `ef`; these pure functions are their reference, and that of
 * what exec makes of others around the fused loops. */
#ifndef TW_FEEDBACK_H
#define TW_FEEDBACK_H

#include "core/core.h"

typedef struct tw_feedback {
    const char *name;
    uint16_t wire_id;
    uint8_t slots; /* residual arrays per layer (0 or 1) */
    /* x = what to send. e is the slot, NULL without. */
    void (*prepare)(float *x, const float *g, const float *e, float scale, uint32_t n);
    /* e_new from what was to be sent and what will be decoded; rate: of the spec, as a number. NULL without slots. */
    void (*commit)(float *e_new, const float *x, const float *decoded, float rate, uint32_t n);
} tw_feedback;

extern const tw_feedback tw_feedback_none, tw_feedback_ef, tw_feedback_decay, tw_feedback_dgc;
const tw_feedback *tw_feedback_get(uint32_t id); /* NULL if unknown */
/* dgc: the momentum u_new = fl(fl(rate u) + fl(g scale)), which is sent in g's place; u NULL: none yet. */
void tw_feedback_momentum(float *u_new, const float *u, const float *g, float scale, float rate, uint32_t n);
/* ... and is cleared where something was sent. */
void tw_feedback_clear(float *u_new, const float *decoded, uint32_t n);
/* tw_spec.rate as the number that arithmetic has. */
static inline float tw_feedback_rate(const tw_spec *s) {
    return (float)((double)s->rate / 1e9);
}
/* The share of what was lost that a slot keeps: 1, but for decay. */
static inline float tw_feedback_keeps(const tw_spec *s) {
    return s->feedback == TW_FEEDBACK_DECAY ? tw_feedback_rate(s) : 1.0f;
}

#endif
