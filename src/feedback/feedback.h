/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What happens to a tile before and after the codec. Knows no codec. A feedback is one file and one row here; the two
 * whose loops are fused with the codecs (exec) are `none` and `ef`; these pure functions are their reference. */
#ifndef TW_FEEDBACK_H
#define TW_FEEDBACK_H

#include "core/core.h"

typedef struct tw_feedback {
    const char *name;
    uint16_t wire_id;
    uint8_t slots; /* residual arrays per layer (0 or 1) */
    /* x = what to send. e is the slot, NULL without. */
    void (*prepare)(float *x, const float *g, const float *e, float scale, uint32_t n);
    /* e_new from what was to be sent and what will be decoded. NULL without slots. */
    void (*commit)(float *e_new, const float *x, const float *decoded, uint32_t n);
} tw_feedback;

extern const tw_feedback tw_feedback_none, tw_feedback_ef;
const tw_feedback *tw_feedback_get(uint32_t id); /* NULL if unknown */

#endif
