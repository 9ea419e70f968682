/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Direct exchange: the stages that collectives are made of. See direct.h. */
#include "collectives/direct.h"

/* Payload and values of the op, all layers present. */
static uint64_t op_bytes(const tw_plan_in *in, double *values) {
    uint64_t total = 0;
    *values = 0;
    for (uint32_t i = 0; i < in->nlayer; i++) {
        const tw_plan_layer *l = &in->layer[i];
        total += tw_tiles_bytes(l, in->tile, l->first, l->tiles);
        *values += (double)l->tiles * in->tile;
    }
    return total;
}

/* Every frame costs a system call or two, so they are large: at 10 Gbit/s an allreduce of 4 MiB took up to twice the time
 * with 16 KiB. The exception is a slow link that carries about as many values a second as a codec makes: then neither
 * hides the other, and frames of 24 KiB took 8 % less time. Above 63 KiB an MPI over TCP changes to a rendezvous for
 * every frame (Open MPI's eager limit is 64 KiB), which cost 15-30 % of the wire (all measured, docs/design.md). */
static uint32_t choose_frame_bytes(const tw_plan_in *in) {
    const double many = 250e6; /* values a second */
    double values;
    uint64_t bytes = op_bytes(in, &values);
    if (in->frame_bytes)
        return in->frame_bytes;
    bool slow = in->link_rate && in->link_rate < TW_SLOW_LINK;
    return slow && values * (double)in->link_rate > many * (double)bytes ? 24576 : 57344;
}

/* To or from one peer in a stage: those of one owner; of a gather all. */
static uint32_t most_frames(const tw_direct *s) {
    uint32_t most = s->b->p->gather ? s->b->p->nframe : 0;
    for (int o = 0; o < s->b->in->size; o++)
        most = tw_frame_count(s, o) > most ? tw_frame_count(s, o) : most;
    return most;
}

int tw_peer_at(const tw_direct *s, int distance) {
    int p = s->b->in->size;
    return (s->b->in->me + distance % p + p) % p;
}

tw_walk tw_walk_all(const tw_direct *s) {
    return (tw_walk){.most = most_frames(s), .k = 1, .size = s->b->in->size};
}

/* ---- begin and end ---- */

static void find_mine(tw_direct *s) {
    const tw_plan_in *in = s->b->in;
    bool sent = in->kind == TW_KIND_BROADCAST && in->size > 1;
    s->mine[0] = sent ? 0 : s->first[in->me];
    s->mine[1] = !sent ? s->first[in->me + 1] : in->me == in->root ? s->first[in->size] : 0;
}

bool tw_direct_begin(tw_direct *s, tw_builder *b) {
    *s = (tw_direct){.b = b, .first = tw_build_frames(b, choose_frame_bytes(b->in))};
    if (b->status < 0)
        return false;
    find_mine(s);
    s->window = b->in->in_flight ? b->in->in_flight : 8;
    if (b->in->no_overlap) /* a stage is encoded whole before it is sent, so no slot may be used twice */
        s->window = most_frames(s) ? most_frames(s) : 1;
    uint64_t transfers = (uint64_t)most_frames(s) * (unsigned)b->in->size + 1;
    s->act = tw_alloc(b->ctx, ((uint64_t)b->p->nframe + 1) * sizeof(uint32_t));
    s->order = tw_alloc(b->ctx, transfers * sizeof(uint32_t));
    s->last = tw_alloc(b->ctx, (uint64_t)b->in->size * sizeof(uint32_t));
    s->select = tw_alloc(b->ctx, (b->in->nlayer + 1ull) * sizeof(uint32_t));
    if (!s->act || !s->order || !s->last || !s->select) {
        b->status = TW_ERR_NOMEM;
        return false;
    }
    s->verdict = tw_direct_compute(s, TW_K_VERDICT, 0);
    if (b->in->no_overlap) {
        s->encoded = tw_direct_compute(s, TW_K_BARRIER, 0);
        s->arrived = tw_direct_compute(s, TW_K_BARRIER, 1);
        s->made = tw_direct_compute(s, TW_K_BARRIER, 2);
    }
    return b->status >= 0;
}

void tw_direct_finish(tw_direct *s, bool own_only) {
    tw_builder *b = s->b;
    for (uint32_t f = 0; f < b->p->nframe && b->status >= 0; f++)
        if (b->p->frame[f].nrun && (!own_only || b->p->frame[f].owner == b->in->me))
            tw_build_after(b, tw_direct_compute(s, TW_K_DECODE, f), s->verdict);
    tw_free(b->ctx, s->order);
    tw_free(b->ctx, s->last);
    tw_free(b->ctx, s->select);
    tw_free(b->ctx, s->act);
    tw_free(b->ctx, s->first);
}

uint32_t tw_direct_roundings(const tw_plan_in *in, uint32_t encodes) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < in->nlayer; i++) {
        uint32_t r = tw_codec_get(in->layer[i].spec.codec)->roundings(&in->layer[i].spec, in->layer[i].dtype);
        most = r > most ? r : most;
    }
    return encodes * most;
}

/* ---- arena ---- */

uint32_t tw_direct_cap(const tw_plan *p, const tw_frame *f, uint32_t payload, uint32_t hop) {
    return (uint32_t)tw_round_up(TW_HEADER_BYTES + payload + f->nrun * tw_trailer_bytes(p, hop), 64);
}

void tw_direct_place_hop1(tw_direct *s) {
    tw_plan *p = s->b->p;
    uint32_t cap1 = 0, peers = (uint32_t)p->size - 1;
    for (uint32_t f = 0; f < p->nframe; f++) {
        tw_frame *x = &p->frame[f];
        x->hop1_cap = tw_direct_cap(p, x, x->payload_room, 1);
        cap1 = x->hop1_cap > cap1 ? x->hop1_cap : cap1;
    }
    for (int o = 0; o < p->size && peers; o++) {
        uint32_t n = tw_frame_count(s, o), slots = n < s->window ? n : s->window;
        bool mine = o == p->me;
        for (uint32_t i = 0; i < n; i++) {
            tw_frame *x = &p->frame[s->first[o] + i];
            x->hop1_at = p->arena_bytes + (uint64_t)(i % slots) * cap1 * (mine ? peers : 1);
            x->arrive_at = x->hop1_at;
            x->hop1_stride = mine ? cap1 : 0;
        }
        p->arena_bytes += (uint64_t)slots * cap1 * (mine ? peers : 1);
    }
}

void tw_direct_place_hop2(tw_direct *s, bool own_only) {
    tw_plan *p = s->b->p;
    for (uint32_t f = 0; f < p->nframe; f++) {
        tw_frame *x = &p->frame[f];
        if (own_only && x->owner != p->me)
            continue;
        x->hop2_cap = tw_direct_cap(p, x, x->answer_room, 2);
        x->hop2_at = p->arena_bytes;
        p->arena_bytes += x->hop2_cap;
    }
}

void tw_direct_place_home(tw_direct *s) {
    tw_plan *p = s->b->p;
    for (uint32_t f = s->first[p->me]; f < s->first[p->me + 1]; f++) {
        p->frame[f].home_at = p->arena_bytes;
        p->arena_bytes += tw_round_up(p->frame[f].home, 64);
    }
}

/* ---- stages ---- */

uint32_t tw_direct_compute(tw_direct *s, tw_kernel k, uint32_t frame) {
    return tw_build_action(s->b, (tw_action){.act = TW_A_COMPUTE, .kernel = (uint8_t)k, .frame = frame, .peer = -1});
}

void tw_stage_begin(tw_direct *s) {
    s->norder = 0;
    memset(s->last, 0, (size_t)s->b->in->size * sizeof *s->last);
}

static void count_bytes(tw_plan *p, const tw_frame *f, uint32_t hop) {
    uint32_t payload = hop == 1 ? f->payload : f->answer;
    p->payload_bytes += payload;
    p->wire_bytes += TW_HEADER_BYTES + payload + f->nrun * tw_trailer_bytes(p, hop);
}

/* The n-th transfer of a stage waits for the one that is `window` frames to each peer before it. */
static void bound_in_flight(tw_direct *s, int peer, uint32_t action, uint32_t peers) {
    uint32_t width = s->window * peers;
    if (s->norder >= width)
        tw_build_after(s->b, action, s->order[s->norder - width]);
    s->order[s->norder++] = action;
    tw_build_in_stream(s->b, &s->last[peer], action);
}

uint32_t tw_stage_transfer(tw_direct *s, tw_act act, uint32_t frame, uint32_t hop, int peer, uint32_t peers) {
    tw_builder *b = s->b;
    const tw_frame *f = &b->p->frame[frame];
    uint32_t place = (uint32_t)(peer < b->in->me ? peer : peer - 1); /* of a peer's part at the owner */
    tw_action a = {.act = (uint8_t)act,
                   .hop = (uint8_t)hop,
                   .peer = peer,
                   .frame = frame,
                   .at = hop == 1 ? f->hop1_at : f->hop2_at,
                   .cap = hop == 1 ? f->hop1_cap : f->hop2_cap};
    if (hop == 1 && act == TW_A_RECV)
        a.at = f->arrive_at + (uint64_t)place * f->hop1_stride;
    uint32_t action = tw_build_action(b, a);
    bound_in_flight(s, peer, action, peers);
    if (act == TW_A_SEND)
        count_bytes(b->p, f, hop);
    return action;
}

/* Foreign frames: encode into the peer's ring of slots, send. */
static void hop1_sends(tw_direct *s) {
    tw_builder *b = s->b;
    uint32_t peers = (uint32_t)b->in->size - 1;
    tw_stage_begin(s);
    tw_direct_select_all(s, 1);
    for (tw_walk w = tw_walk_all(s); tw_walk_ok(&w) && b->status >= 0; tw_walk_next(&w)) {
        int owner = tw_peer_at(s, w.k);
        if (w.i >= tw_frame_count(s, owner))
            continue;
        uint32_t f = s->first[owner] + w.i;
        uint32_t encode = tw_direct_compute(s, TW_K_ENCODE, f);
        tw_direct_after_selects(s, encode, f);
        if (w.i >= s->window)
            tw_build_after(b, encode, s->act[f - s->window]);
        uint32_t send = s->act[f] = tw_stage_transfer(s, TW_A_SEND, f, 1, owner, peers);
        tw_build_after(b, send, encode);
        if (b->in->no_overlap) {
            tw_build_after(b, s->encoded, encode);
            tw_build_after(b, send, s->encoded);
            tw_build_after(b, s->arrived, send);
        }
    }
}

/* Own frames: the peers' parts arrive in a ring of slots, in rank order inside a slot. */
static void hop1_receives(tw_direct *s) {
    tw_builder *b = s->b;
    int me = b->in->me;
    uint32_t peers = (uint32_t)b->in->size - 1;
    tw_stage_begin(s);
    for (tw_walk w = tw_walk_all(s); tw_walk_ok(&w) && b->status >= 0; tw_walk_next(&w)) {
        if (w.i >= tw_frame_count(s, me))
            continue;
        uint32_t f = s->first[me] + w.i;
        uint32_t recv = tw_stage_transfer(s, TW_A_RECV, f, 1, tw_peer_at(s, -w.k), peers);
        if (w.i >= s->window)
            tw_build_after(b, recv, s->act[f - s->window]);
        tw_build_after(b, s->act[f], recv);
        if (b->in->no_overlap)
            tw_build_after(b, s->arrived, recv);
    }
}

void tw_direct_hop1(tw_direct *s) {
    tw_builder *b = s->b;
    tw_direct_make(s, TW_K_REDUCE);
    for (uint32_t f = s->first[b->in->me]; f < s->first[b->in->me + 1] && b->in->no_overlap && b->status >= 0; f++)
        tw_build_after(b, s->act[f], s->arrived);
    hop1_sends(s);
    hop1_receives(s);
}

void tw_direct_make(tw_direct *s, tw_kernel k) {
    tw_builder *b = s->b;
    for (uint32_t f = s->mine[0]; f < s->mine[1] && b->status >= 0; f++) {
        s->act[f] = tw_direct_compute(s, k, f);
        tw_build_after(b, s->verdict, s->act[f]);
        if (b->in->no_overlap)
            tw_build_after(b, s->made, s->act[f]);
    }
}

static void hop2_sends(tw_direct *s) {
    tw_builder *b = s->b;
    uint32_t peers = (uint32_t)b->in->size - 1;
    tw_stage_begin(s);
    for (tw_walk w = tw_walk_all(s); tw_walk_ok(&w) && b->status >= 0; tw_walk_next(&w)) {
        if (w.i >= tw_frame_count(s, b->in->me))
            continue;
        uint32_t f = s->first[b->in->me] + w.i;
        uint32_t send = tw_stage_transfer(s, TW_A_SEND, f, 2, tw_peer_at(s, w.k), peers);
        tw_build_after(b, send, s->act[f]);
        if (b->in->no_overlap)
            tw_build_after(b, send, s->made);
    }
}

static void hop2_receives(tw_direct *s) {
    tw_builder *b = s->b;
    uint32_t peers = (uint32_t)b->in->size - 1;
    tw_stage_begin(s);
    for (tw_walk w = tw_walk_all(s); tw_walk_ok(&w) && b->status >= 0; tw_walk_next(&w)) {
        int owner = tw_peer_at(s, -w.k);
        if (w.i >= tw_frame_count(s, owner))
            continue;
        uint32_t recv = tw_stage_transfer(s, TW_A_RECV, s->first[owner] + w.i, 2, owner, peers);
        tw_build_after(b, s->verdict, recv);
    }
}

void tw_direct_hop2(tw_direct *s) {
    hop2_sends(s);
    hop2_receives(s);
}
