/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The transport's own sum, piece by piece: out = in*scale, sum in place, out *= 1/P. No frames, no header, no roundings
 * of ours; user memory is in flight, so a fault may leave outputs undefined. Ranks that disagree would add up what does
 * not belong together, and an MPI ends the program where counts differ: so a small sum comes first, by which all see
 * whether they mean the same. */
#include "collectives/plan.h"

uint32_t tw_build_agreement(tw_builder *b) {
    uint32_t sum = tw_build_action(b, (tw_action){.act = TW_A_NATIVE, .frame = TW_AGREEMENT, .peer = -1});
    uint32_t agreed = tw_build_action(b, (tw_action){.act = TW_A_COMPUTE, .kernel = TW_K_AGREED});
    tw_build_after(b, agreed, sum);
    b->p->arena_bytes = TW_AGREE_VALUES * sizeof(float);
    return agreed;
}

void tw_build_native(tw_builder *b) {
    const tw_plan_in *in = b->in;
    uint32_t before = in->size > 1 ? tw_build_agreement(b) : 0;
    b->p->hops = 1;
    for (uint32_t i = 0; i < in->npiece && b->status >= 0; i++) {
        uint32_t pre = tw_build_action(b, (tw_action){.act = TW_A_COMPUTE, .kernel = TW_K_PRESCALE, .frame = i});
        uint32_t sum = tw_build_action(b, (tw_action){.act = TW_A_NATIVE, .frame = i, .peer = -1});
        uint32_t post = tw_build_action(b, (tw_action){.act = TW_A_COMPUTE, .kernel = TW_K_POSTSCALE, .frame = i});
        tw_build_after(b, sum, pre);
        tw_build_after(b, post, sum);
        if (i > 0 || in->size > 1) /* sums of different pieces must start in the same order on all ranks */
            tw_build_after(b, pre, before);
        before = pre;
        b->p->native_bytes += in->piece[i].count * sizeof(float);
    }
}
