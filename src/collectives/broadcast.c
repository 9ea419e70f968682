/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Broadcast: the root encodes every frame once and sends each to the one rank that relays it; that rank passes the very
 * bytes on to all others. So the root sends its payload once, and nobody sends more than that. "Owner" of a frame is here
 * who relays it; the root relays nothing. All of these are hop 2: between two ranks only one rank's frames travel.
 *
 * Hop 1: every rank sends the root a bare header. Without it the root would hear of nobody, and a rank that takes itself
 * for the root, and relays nothing, would not be found out. */
#include "collectives/direct.h"

static void confirm_one(tw_direct *s, int rank) {
    tw_builder *b = s->b;
    tw_plan *p = b->p;
    uint32_t cap = p->nframe, f = p->nframe;
    bool root = b->in->me == b->in->root;
    p->frame = tw_build_grow(b, p->frame, &cap, f + 1, sizeof(tw_frame));
    if (b->status < 0)
        return;
    p->frame[p->nframe++] =
        (tw_frame){.owner = rank, .hop1_at = p->arena_bytes, .arrive_at = p->arena_bytes, .hop1_cap = 64};
    p->arena_bytes += 64;
    uint32_t encode = root ? 0 : tw_direct_compute(s, TW_K_ENCODE, f);
    uint32_t move =
        tw_stage_transfer(s, root ? TW_A_RECV : TW_A_SEND, f, 1, root ? rank : b->in->root, (uint32_t)b->in->size - 1);
    tw_build_after(b, root ? s->verdict : move, root ? move : encode);
}

static void confirm(tw_direct *s) {
    bool root = s->b->in->me == s->b->in->root, any = s->b->p->nframe > 0;
    tw_stage_begin(s);
    for (int r = 0; any && r < s->b->in->size && s->b->status >= 0; r++)
        if (r != s->b->in->root && (root || r == s->b->in->me))
            confirm_one(s, r);
}

/* Root: what was made goes to the relays. */
static void root_sends(tw_direct *s) {
    tw_builder *b = s->b;
    tw_stage_begin(s);
    for (tw_walk w = tw_walk_all(s); tw_walk_ok(&w) && b->status >= 0; tw_walk_next(&w)) {
        int relay = tw_peer_at(s, w.k);
        if (w.i >= tw_frame_count(s, relay))
            continue;
        uint32_t f = s->first[relay] + w.i;
        tw_build_after(b, tw_stage_transfer(s, TW_A_SEND, f, 2, relay, (uint32_t)b->in->size - 1), s->act[f]);
    }
}

/* Others: own frames come from the root, all others from who relays them. */
static void receives(tw_direct *s) {
    tw_builder *b = s->b;
    tw_stage_begin(s);
    for (uint32_t f = s->first[b->in->me]; f < s->first[b->in->me + 1] && b->status >= 0; f++) {
        s->act[f] = tw_stage_transfer(s, TW_A_RECV, f, 2, b->in->root, 1);
        tw_build_after(b, s->verdict, s->act[f]);
    }
    tw_stage_begin(s);
    for (tw_walk w = tw_walk_all(s); tw_walk_ok(&w) && b->status >= 0; tw_walk_next(&w)) {
        int relay = tw_peer_at(s, -w.k);
        if (w.i < tw_frame_count(s, relay))
            tw_build_after(b, s->verdict,
                           tw_stage_transfer(s, TW_A_RECV, s->first[relay] + w.i, 2, relay, (uint32_t)b->in->size - 2));
    }
}

static void relays(tw_direct *s) {
    tw_builder *b = s->b;
    tw_stage_begin(s);
    for (tw_walk w = tw_walk_all(s); tw_walk_ok(&w) && b->status >= 0; tw_walk_next(&w)) {
        int to = tw_peer_at(s, w.k);
        uint32_t f = s->first[b->in->me] + w.i;
        if (to != b->in->root && w.i < tw_frame_count(s, b->in->me))
            tw_build_after(b, tw_stage_transfer(s, TW_A_SEND, f, 2, to, (uint32_t)b->in->size - 2), s->act[f]);
    }
}

void tw_build_broadcast(tw_builder *b) {
    tw_direct s;
    if (tw_direct_begin(&s, b)) {
        b->p->hops = b->in->size > 2 ? 2 : b->in->size > 1 ? 1 : 0;
        b->p->roundings = tw_direct_roundings(b->in, 1);
        tw_direct_place_hop2(&s, false);
        if (b->in->size > 1)
            confirm(&s);
        tw_direct_make(&s, TW_K_PUBLISH);
        tw_direct_answers(&s);
        if (b->in->me == b->in->root) {
            root_sends(&s);
        } else {
            receives(&s);
            relays(&s);
        }
    }
    tw_direct_finish(&s, false);
}
