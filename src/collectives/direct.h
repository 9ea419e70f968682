/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Direct exchange between ranks: the stages that sra.c, gather.c, reduce_scatter.c, allgather.c and broadcast.c put
 * together.
 *
 * Against incast, ranks are staggered (rank r begins with r+1) and what is under way is bounded by window edges: the
 * k-th transfer of a stage waits for the (k-window)-th. All ranks use the same order (frame, distance), so the earliest
 * unfinished transfer is never blocked: no deadlock. */
#ifndef TW_DIRECT_H
#define TW_DIRECT_H

#include "collectives/plan.h"

typedef struct tw_direct {
    tw_builder *b;
    uint32_t *first;  /* frame range of each owner */
    uint32_t mine[2]; /* range of those whose answer this rank makes: its own; at the root of a broadcast all */
    uint32_t window;  /* frames under way to or from one peer */
    uint32_t *act;    /* per frame: what its next transfer waits for, or what may not be overwritten before */
    uint32_t *order;  /* the transfers of a stage so far */
    uint32_t *last;   /* with each peer */
    uint32_t *select; /* of each layer in this hop: its selection; 0: none */
    uint32_t norder;
    uint32_t verdict, encoded, arrived, made; /* the last three: stage ends, where overlap is off */
} tw_direct;

/* Cuts frames, begins the verdict (and barriers, where overlap is off). False: b->status says why; finish all the same. */
bool tw_direct_begin(tw_direct *s, tw_builder *b);
/* Decodes that wait for the verdict, of all frames or only of own ones; gives memory back. */
void tw_direct_finish(tw_direct *s, bool own_only);

/* All (frame index, distance) pairs in the order that every rank uses: peers take turns frame by frame. (Several frames
 * to one peer before the next one's turn were 30 % slower at 1 Gbit/s.) */
typedef struct tw_walk {
    uint32_t i, most;
    int k, size;
} tw_walk;
tw_walk tw_walk_all(const tw_direct *s);
static inline bool tw_walk_ok(const tw_walk *w) {
    return w->size > 1 && w->i < w->most;
}
static inline void tw_walk_next(tw_walk *w) {
    if (++w->k == w->size) {
        w->k = 1;
        w->i++;
    }
}
int tw_peer_at(const tw_direct *s, int distance);
static inline uint32_t tw_frame_count(const tw_direct *s, int owner) {
    return s->first[owner + 1] - s->first[owner];
}

uint32_t tw_direct_compute(tw_direct *s, tw_kernel k, uint32_t frame);
void tw_stage_begin(tw_direct *s);
/* The next transfer of a stage. peers: how many the stage has for this rank. */
uint32_t tw_stage_transfer(tw_direct *s, tw_act act, uint32_t frame, uint32_t hop, int peer, uint32_t peers);

/* Bytes of the frame with so much payload. */
uint32_t tw_direct_cap(const tw_plan *p, const tw_frame *f, uint32_t payload, uint32_t hop);
/* Arena: a ring of `window` slots for each peer's hop-1 frames (both directions), where there is a hop 1. */
void tw_direct_place_hop1(tw_direct *s);
/* Hop-2 frames, of all owners or only of this rank, have a place each, since outputs are written only after all of them
 * are here. */
void tw_direct_place_hop2(tw_direct *s, bool own_only);
/* Sums that stay at home. */
void tw_direct_place_home(tw_direct *s);
/* sparse.c: a selection for each sparse layer that has one; what waits for those of its layers; answers to sparse frames of
 * `mine`, which were only summed. */
void tw_direct_select_all(tw_direct *s, uint32_t hop);
void tw_direct_after_selects(tw_direct *s, uint32_t action, uint32_t frame);
void tw_direct_answers(tw_direct *s);
/* Each rank's part of each owner's frames goes to it; there kernel REDUCE sums. */
void tw_direct_hop1(tw_direct *s);
/* The frames in `mine`, made by kernel k. */
void tw_direct_make(tw_direct *s, tw_kernel k);
/* Own frames, made, go to all; theirs come. */
void tw_direct_hop2(tw_direct *s);
/* Quantisations that a value goes through in so many encodes. */
uint32_t tw_direct_roundings(const tw_plan_in *in, uint32_t encodes);

#endif
