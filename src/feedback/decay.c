/* SPDX-License-Identifier: BSD-3-Clause
 *
 * decay: of what the codec drops the share beta is kept and added to what is sent next, the rest is forgotten (SparseLoCo,
 * arXiv 2508.15706: e <- beta e + delta; e <- e - sent). Here beta e is what the slot holds, so that whoever reads a slot need
 * not know of it: x = g + e, e' = beta (x - decoded).
 * Invariant, by weight: sum of outputs = sum of exact results - e - all that was forgotten so far, (1 - beta)(x - decoded) of
 * every step. A layer that a rank lacks in a step keeps its residual as it is. */
#include "feedback/feedback.h"

static void prepare(float *x, const float *g, const float *e, float scale, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        float scaled = g[i] * scale;
        x[i] = scaled + e[i];
    }
}

static void commit(float *e_new, const float *x, const float *decoded, float rate, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        float lost = x[i] - decoded[i];
        e_new[i] = lost * rate;
    }
}

const tw_feedback tw_feedback_decay = {
    .name = "decay", .wire_id = TW_FEEDBACK_DECAY, .slots = 1, .prepare = prepare, .commit = commit};
