/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ef: what the codec drops is kept and added to what is sent next (error feedback, Seide et al. 2014).
 * The build forbids contraction: the product is rounded before the sum. */
#include "feedback/feedback.h"

static void prepare(float *x, const float *g, const float *e, float scale, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        float scaled = g[i] * scale;
        x[i] = scaled + e[i];
    }
}

static void commit(float *e_new, const float *x, const float *decoded, float rate, uint32_t n) {
    (void)rate;
    for (uint32_t i = 0; i < n; i++)
        e_new[i] = x[i] - decoded[i];
}

const tw_feedback tw_feedback_ef = {
    .name = "ef", .wire_id = TW_FEEDBACK_EF, .slots = 1, .prepare = prepare, .commit = commit};
