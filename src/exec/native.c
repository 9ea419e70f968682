/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Around the transport's own sum: fp32, in place in the output. */
#include "exec/stages.h"

static float *work_area(tw_exec *x, uint32_t i, tw_status *s) {
    tw_exec_piece *p = &x->piece[i];
    *s = TW_OK;
    if (p->out && (uintptr_t)p->out % sizeof(float) == 0)
        return p->out;
    if (!x->scratch[i])
        x->scratch[i] = tw_alloc(x->ctx, p->count * sizeof(float));
    *s = x->scratch[i] ? TW_OK : TW_ERR_NOMEM;
    return x->scratch[i];
}

tw_status tw_exec_prescale(tw_exec *x, uint32_t i) {
    tw_exec_piece *p = &x->piece[i];
    tw_status s;
    float *y = work_area(x, i, &s);
    if (s < 0)
        return s;
    if (!p->in)
        memset(y, 0, p->count * sizeof(float));
    else if ((const void *)y != p->in)
        memmove(y, p->in, p->count * sizeof(float));
    if (p->in && x->nan_layer == (int32_t)p->layer && p->first == 0)
        memcpy(y, &(uint32_t){0x7fc00000u}, 4);
    for (uint64_t at = 0; x->input_scale != 1.0f && at < p->count; at++)
        y[at] *= x->input_scale;
    return TW_OK;
}

tw_status tw_exec_postscale(tw_exec *x, uint32_t i) {
    tw_exec_piece *p = &x->piece[i];
    tw_status s;
    float *y = work_area(x, i, &s), scale = x->redop == TW_AVG ? 1.0f / (float)x->plan->size : 1.0f;
    if (s < 0)
        return s;
    for (uint64_t at = 0; scale != 1.0f && at < p->count; at++)
        y[at] *= scale;
    if (p->out && (void *)y != p->out)
        memcpy(p->out, y, p->count * sizeof(float));
    return TW_OK;
}

/* What all ranks must have in common, as digits small enough that fp32 sums of them and of their squares are exact. */
static void digits(const tw_exec *x, float v[TW_AGREE_VALUES]) {
    uint64_t words[] = {x->stamp.plan, x->stamp.step, x->stamp.epoch}, h = tw_hash64(words, sizeof words, 0);
    for (uint32_t k = 0; k < TW_AGREE_DIGITS; k++) {
        v[k] = (float)(h >> 4 * k & 15);
        v[TW_AGREE_DIGITS + k] = v[k] * v[k];
    }
}

/* Digits with the mean of this rank's and the mean square of this rank's have no variance: all are the same. So either
 * every rank sees that they agree or every rank sees that they do not. */
tw_status tw_exec_agreed(const tw_exec *x) {
    float mine[TW_AGREE_VALUES];
    const float *sum = (const float *)(const void *)x->arena;
    digits(x, mine);
    for (uint32_t k = 0; k < TW_AGREE_VALUES; k++)
        if (sum[k] != (float)x->plan->size * mine[k])
            return tw_fail(
                TW_ERR_MISMATCH,
                "rank %d, step %u, layer '%s': ranks posted different ops to a native sum (layers, pieces, average or "
                "sum, step, or a step that some discarded)",
                x->plan->me, x->stamp.step, x->nlayer ? x->layer[0].name : "(none)");
    return TW_OK;
}

tw_status tw_exec_native(tw_exec *x, const tw_action *a, float **buf, uint64_t *count) {
    tw_status s;
    if (a->frame == TW_AGREEMENT) {
        *buf = (float *)(void *)x->arena;
        *count = TW_AGREE_VALUES;
        digits(x, *buf);
        return TW_OK;
    }
    if (a->frame == TW_PAYLOADS) {
        tw_fpenv env = tw_fp_enter(); /* bounds of subnormal norms must not be flushed */
        tw_lowrank_flag(x, a->hop);
        if (a->hop + 1u == x->plan->nsum)
            tw_linear_note(x);
        tw_fp_leave(env);
        *buf = (float *)(void *)(x->arena + x->plan->sum[a->hop].at);
        *count = x->plan->sum[a->hop].values;
        return TW_OK;
    }
    *buf = work_area(x, a->frame, &s);
    *count = x->piece[a->frame].count;
    return s;
}
