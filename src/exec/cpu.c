/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The table from kernel numbers to CPU code, inside a floating-point environment that the host program cannot change.
 */
#include "exec/stages.h"

static tw_status run_kernel(tw_exec *x, const tw_action *a, uint32_t *len) {
    bool of_frame = a->kernel <= TW_K_DECODE || a->kernel == TW_K_PUBLISH || a->kernel == TW_K_ANSWER;
    const tw_frame *f = of_frame && a->frame < x->plan->nframe ? &x->plan->frame[a->frame] : NULL;
    switch ((tw_kernel)a->kernel) {
    case TW_K_ENCODE:
        if (x->plan->linear)
            tw_linear_encode(x, f);
        else
            *len = tw_exec_encode(x, f);
        return TW_OK;
    case TW_K_REDUCE:
    case TW_K_PUBLISH:
        *len = f->sparse ? tw_exec_sum(x, f) : tw_exec_reduce(x, f);
        return TW_OK;
    case TW_K_SELECT:
        tw_exec_select(x, a->frame, a->hop);
        return TW_OK;
    case TW_K_ANSWER:
        *len = tw_exec_answer(x, f);
        return TW_OK;
    case TW_K_VERDICT:
        return x->plan->linear ? tw_linear_verdict(x) : x->plan->gather ? tw_gather_verdict(x) : tw_exec_verdict(x);
    case TW_K_DECODE:
        if (f)
            tw_exec_decode(x, f);
        else
            tw_lowrank_decode(x, &x->plan->unit[a->frame - x->plan->nframe]);
        return TW_OK;
    case TW_K_START:
        tw_lowrank_begin(x, a);
        return TW_OK;
    case TW_K_RIGHT:
        tw_lowrank_right(x, a);
        return TW_OK;
    case TW_K_ORTHO:
        tw_lowrank_ortho(x, a);
        return TW_OK;
    case TW_K_LEFT:
        tw_lowrank_left(x, a);
        return TW_OK;
    case TW_K_AGREED:
        return tw_exec_agreed(x);
    case TW_K_PRESCALE:
        return tw_exec_prescale(x, a->frame);
    case TW_K_POSTSCALE:
        return tw_exec_postscale(x, a->frame);
    case TW_K_BARRIER:
    case TW_K_COUNT:
        break;
    }
    return TW_OK;
}

tw_status tw_exec_run(tw_exec *x, const tw_action *a, uint32_t *len) {
    *len = 0;
    tw_fpenv env = tw_fp_enter();
    tw_status s = run_kernel(x, a, len);
    tw_fp_leave(env);
    return s;
}

uint32_t tw_exec_frame_bytes(const tw_exec *x, const tw_action *a) {
    uint32_t len;
    memcpy(&len, x->arena + a->at + 24, sizeof len); /* sealed by this rank */
    return len;
}
