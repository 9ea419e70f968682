/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Payloads that add, by the transport's own sum: every rank encodes all frames into the arena, one sum runs over them and
 * over a few values for each layer that tell what trailers tell elsewhere (NaN, absence, norms), and all ranks decode what
 * they hold then. No owner rounds once more; user memory is not in flight, so outputs are written late as in SRA. */
#include "collectives/plan.h"

#define FRAME_BYTES 57344u /* here a unit of computation: nothing waits for a frame by itself */

void tw_build_units(tw_builder *b) {
    uint32_t *first = tw_build_frames(b, b->in->frame_bytes ? b->in->frame_bytes : FRAME_BYTES);
    tw_free(b->ctx, first);
}

uint64_t tw_build_payloads(tw_builder *b, uint64_t at) {
    tw_plan *p = b->p;
    for (uint32_t f = 0; f < p->nframe; f++) {
        p->frame[f].hop1_at = at;
        at += p->frame[f].payload;
    }
    return at;
}

void tw_build_sums(tw_builder *b, uint32_t n) {
    tw_plan *p = b->p;
    p->linear = true;
    p->nsum = p->hops = n;
    p->roundings = 1;
    p->sum = b->status < 0 ? NULL : tw_alloc(b->ctx, n * sizeof *p->sum);
    if (!p->sum && b->status >= 0)
        b->status = TW_ERR_NOMEM;
}

static void place(tw_builder *b) {
    tw_plan *p = b->p;
    p->sum[0].at = tw_round_up(p->arena_bytes, 64);
    p->notes_at = tw_build_payloads(b, p->sum[0].at);
    p->arena_bytes = p->notes_at + (uint64_t)b->in->nlayer * tw_notes_of(p->size) * sizeof(float);
    p->native_bytes = p->arena_bytes - p->sum[0].at;
    p->sum[0].values = p->native_bytes / sizeof(float);
}

void tw_build_linear(tw_builder *b) {
    tw_build_units(b);
    uint32_t agreed = tw_build_agreement(b);
    uint32_t sum = tw_build_action(b, (tw_action){.act = TW_A_NATIVE, .frame = TW_PAYLOADS, .peer = -1});
    uint32_t verdict = tw_build_action(b, (tw_action){.act = TW_A_COMPUTE, .kernel = TW_K_VERDICT, .peer = -1});
    tw_build_after(b, sum, agreed);
    tw_build_after(b, verdict, sum);
    tw_build_sums(b, 1);
    if (b->status >= 0)
        place(b);
    for (uint32_t f = 0; f < b->p->nframe && b->status >= 0; f++) {
        tw_action a = {.act = TW_A_COMPUTE, .kernel = TW_K_ENCODE, .frame = f, .peer = -1};
        tw_build_after(b, sum, tw_build_action(b, a));
        a.kernel = TW_K_DECODE;
        tw_build_after(b, tw_build_action(b, a), verdict);
    }
}

uint64_t tw_plan_crossing(const tw_plan *p) {
    uint64_t sum = 0, peers = (unsigned)p->size - 1;
    for (uint32_t i = 0; i < p->nframe && !p->linear; i++)
        sum += peers * (2 * TW_HEADER_BYTES + p->frame[i].payload + p->frame[i].answer +
                        p->frame[i].nrun * (TW_TRAILER1_BYTES + TW_TRAILER2_BYTES));
    if (p->linear)
        sum = 2 * peers * (p->native_bytes + TW_AGREE_VALUES * sizeof(float));
    return sum;
}
