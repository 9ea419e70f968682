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

tw_status tw_exec_native(tw_exec *x, const tw_action *a, float **buf, uint64_t *count) {
    tw_status s;
    *buf = work_area(x, a->frame, &s);
    *count = x->piece[a->frame].count;
    return s;
}
