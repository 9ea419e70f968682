/* SPDX-License-Identifier: BSD-3-Clause
 *
 * none: what the codec drops is lost. */
#include "feedback/feedback.h"

static void prepare(float *x, const float *g, const float *e, float scale, uint32_t n) {
    (void)e;
    for (uint32_t i = 0; i < n; i++)
        x[i] = g[i] * scale;
}

const tw_feedback tw_feedback_none = {
    .name = "none", .wire_id = TW_FEEDBACK_NONE, .slots = 0, .prepare = prepare, .commit = NULL};
