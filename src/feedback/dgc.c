/* SPDX-License-Identifier: BSD-3-Clause
 *
 * dgc: momentum correction and factor masking of Deep Gradient Compression (Lin et al., arXiv 1712.01887): u <- mu u + g;
 * v <- v + u; what is sent of v is taken out of it, and u becomes 0 there. v is the residual of `ef`, fed with u instead of g.
 * A rank's own part of tiles that it owns travels raw: all of it is sent, and its momentum there is that of dense training,
 * with nothing cleared.
 * Invariant, by weight: sum of outputs = sum of the means of all ranks' u - e. */
#include "feedback/feedback.h"

static void prepare(float *x, const float *u, const float *e, float scale, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        float scaled = u[i] * scale;
        x[i] = scaled + e[i];
    }
}

static void commit(float *e_new, const float *x, const float *decoded, float rate, uint32_t n) {
    (void)rate;
    for (uint32_t i = 0; i < n; i++)
        e_new[i] = x[i] - decoded[i];
}

void tw_feedback_momentum(float *u_new, const float *u, const float *g, float scale, float rate, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        float scaled = g[i] * scale, before = u ? u[i] * rate : 0.0f;
        u_new[i] = u ? before + scaled : scaled;
    }
}

void tw_feedback_clear(float *u_new, const float *decoded, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        u_new[i] = decoded[i] != 0.0f ? 0.0f : u_new[i];
}

const tw_feedback tw_feedback_dgc = {
    .name = "dgc", .wire_id = TW_FEEDBACK_DGC, .slots = 1, .prepare = prepare, .commit = commit};
