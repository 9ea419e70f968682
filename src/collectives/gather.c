/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Gather: every rank encodes all tiles of the op once and sends those bytes to everybody; every rank decodes what all sent,
 * its own too, and sums in rank order. One hop and one rounding, for (P - 1) payloads from each rank where SRA sends
 * 2 (P - 1) / P: as much with two ranks, more with others. There is no owner whose answer all share; so a tile's owner
 * puts its residual in as a worker's (exec/gather.c). */
#include "collectives/direct.h"

/* A place for this rank's frame and one for each peer's: all are looked at before anything is written. */
static void place(tw_direct *s) {
    tw_plan *p = s->b->p;
    for (uint32_t i = 0; i < p->nframe; i++) {
        tw_frame *f = &p->frame[i];
        f->index = i;
        f->hop1_cap = f->hop1_stride = tw_direct_cap(p, f, f->payload_room, 1);
        f->hop1_at = p->arena_bytes;
        f->arrive_at = f->hop1_at + f->hop1_cap;
        p->arena_bytes += (uint64_t)p->size * f->hop1_cap;
    }
}

static void encodes_and_sends(tw_direct *s) {
    tw_builder *b = s->b;
    tw_stage_begin(s);
    tw_direct_select_all(s, 1);
    for (tw_walk w = tw_walk_all(s); tw_walk_ok(&w) && b->status >= 0; tw_walk_next(&w)) {
        if (w.k == 1) {
            s->act[w.i] = tw_direct_compute(s, TW_K_ENCODE, w.i);
            tw_direct_after_selects(s, s->act[w.i], w.i);
            tw_build_after(b, s->verdict, s->act[w.i]);
            if (b->in->no_overlap)
                tw_build_after(b, s->encoded, s->act[w.i]);
        }
        uint32_t send = tw_stage_transfer(s, TW_A_SEND, w.i, 1, tw_peer_at(s, w.k), (uint32_t)b->in->size - 1);
        tw_build_after(b, send, b->in->no_overlap ? s->encoded : s->act[w.i]);
    }
}

static void receives(tw_direct *s) {
    tw_stage_begin(s);
    for (tw_walk w = tw_walk_all(s); tw_walk_ok(&w) && s->b->status >= 0; tw_walk_next(&w))
        tw_build_after(s->b, s->verdict,
                       tw_stage_transfer(s, TW_A_RECV, w.i, 1, tw_peer_at(s, -w.k), (uint32_t)s->b->in->size - 1));
}

void tw_build_gather(tw_builder *b) {
    tw_direct s;
    b->p->gather = true;
    if (tw_direct_begin(&s, b)) {
        b->p->hops = 1;
        b->p->roundings = tw_direct_roundings(b->in, 1);
        b->p->own_run = 0;
        place(&s);
        encodes_and_sends(&s);
        receives(&s);
    }
    tw_direct_finish(&s, false);
}
