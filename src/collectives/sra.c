/* SPDX-License-Identifier: BSD-3-Clause
 *
 * SRA: split, reduce at the owner, allgather; direct exchange. Hop 1: every rank encodes each owner's frames and sends
 * them to it. The owner sums the ranks in rank order (its own part raw), encodes the answer once. Hop 2: it sends those
 * same bytes to everybody and decodes them itself, so all ranks hold the same values. Two roundings for any P
 * (Scatter-Reduce-Allgather as in CGX, arXiv 2111.08617; residuals at both hops as in 1-bit SGD, Seide et al. 2014).
 *
 * Against incast, ranks are staggered (rank r begins with r+1) and what is under way is bounded by window edges: the
 * k-th transfer of a stage waits for the (k-window)-th. All ranks use the same order (frame, distance), so the earliest
 * unfinished transfer is never blocked: no deadlock. */
#include "collectives/plan.h"

typedef struct sra {
    tw_builder *b;
    const uint32_t *first; /* frame range of each owner */
    uint32_t window;       /* frames under way to or from one peer */
    uint32_t *act;         /* per frame: SEND1 of a foreign frame, REDUCE of an own one */
    uint32_t *order;       /* the transfers of a stage so far */
    uint32_t *last;        /* with each peer */
    uint32_t norder;
    uint32_t verdict, encoded, arrived, reduced; /* the last three: stage ends, where overlap is off */
} sra;

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

/* Small frames overlap codec and wire; where there are enough of them, larger ones cost less. In between lies a slow
 * link that carries about as many values a second as a codec makes: then neither hides the other, and frames of 24 KiB
 * took 8 % less time, where on faster links they took 4-15 % more and for bulkier codecs 1-3 % more. Above 63 KiB an
 * MPI over TCP changes to a rendezvous for every frame (Open MPI's eager limit is 64 KiB), which cost 15-30 % of the
 * wire (all measured, docs/design.md). */
static uint32_t choose_frame_bytes(const tw_plan_in *in) {
    const double many = 250e6; /* values a second */
    double values;
    uint64_t bytes = op_bytes(in, &values);
    if (in->frame_bytes)
        return in->frame_bytes;
    if (bytes / (unsigned)in->size < (1u << 18))
        return 16384;
    bool slow = in->link_rate && in->link_rate < TW_SLOW_LINK;
    return slow && values * (double)in->link_rate > many * (double)bytes ? 24576 : 57344;
}

static uint32_t frame_count(const sra *s, int owner) {
    return s->first[owner + 1] - s->first[owner];
}
static uint32_t most_frames(const sra *s) {
    uint32_t most = 0;
    for (int o = 0; o < s->b->in->size; o++)
        most = frame_count(s, o) > most ? frame_count(s, o) : most;
    return most;
}
static int peer_at(const sra *s, int distance) {
    int p = s->b->in->size;
    return (s->b->in->me + distance % p + p) % p;
}

/* Arena: a ring of `window` slots for each peer's hop-1 frames (both directions); hop-2 frames have a place each, since
 * outputs are written only after all of them are here. */
static void place_frames(sra *s) {
    tw_plan *p = s->b->p;
    uint32_t cap1 = 0;
    for (uint32_t f = 0; f < p->nframe; f++) {
        tw_frame *x = &p->frame[f];
        x->hop1_cap = (uint32_t)tw_round_up(TW_HEADER_BYTES + x->payload + x->nrun * TW_TRAILER1_BYTES, 64);
        x->hop2_cap = (uint32_t)tw_round_up(TW_HEADER_BYTES + x->payload + x->nrun * TW_TRAILER2_BYTES, 64);
        cap1 = x->hop1_cap > cap1 ? x->hop1_cap : cap1;
    }
    uint64_t at = 0;
    uint32_t peers = (uint32_t)p->size - 1;
    for (int o = 0; o < p->size; o++) {
        uint32_t n = frame_count(s, o), slots = n < s->window ? n : s->window;
        for (uint32_t i = 0; i < n && peers; i++) {
            tw_frame *x = &p->frame[s->first[o] + i];
            bool mine = o == p->me;
            x->hop1_at = at + (uint64_t)(i % slots) * cap1 * (mine ? peers : 1);
            x->hop1_stride = mine ? cap1 : 0;
        }
        at += peers ? (uint64_t)slots * cap1 * (o == p->me ? peers : 1) : 0;
    }
    for (uint32_t f = 0; f < p->nframe; f++) {
        p->frame[f].hop2_at = at;
        at += p->frame[f].hop2_cap;
    }
    p->arena_bytes = at;
}

/* All (frame index, distance) pairs in the order that every rank uses: peers take turns frame by frame. (Several frames
 * to one peer before the next one's turn were 30 % slower at 1 Gbit/s.) */
typedef struct walk {
    uint32_t i, most;
    int k, size;
} walk;
static bool walk_ok(const walk *w) {
    return w->size > 1 && w->i < w->most;
}
static void walk_next(walk *w) {
    if (++w->k == w->size) {
        w->k = 1;
        w->i++;
    }
}
static walk walk_all(const sra *s) {
    return (walk){.most = most_frames(s), .k = 1, .size = s->b->in->size};
}

/* The n-th transfer of a stage waits for the one that is `window` frames to each peer before it. */
static void bound_in_flight(sra *s, int peer, uint32_t action) {
    uint32_t width = s->window * ((uint32_t)s->b->in->size - 1);
    if (s->norder >= width)
        tw_build_after(s->b, action, s->order[s->norder - width]);
    s->order[s->norder++] = action;
    tw_build_in_stream(s->b, &s->last[peer], action);
}

static void begin_stage(sra *s) {
    s->norder = 0;
    memset(s->last, 0, (size_t)s->b->in->size * sizeof *s->last);
}

static uint32_t compute(sra *s, tw_kernel k, uint32_t frame) {
    return tw_build_action(s->b, (tw_action){.act = TW_A_COMPUTE, .kernel = (uint8_t)k, .frame = frame, .peer = -1});
}

static uint32_t transfer(sra *s, tw_act act, uint32_t frame, uint32_t hop, int peer, uint64_t at) {
    const tw_frame *f = &s->b->p->frame[frame];
    return tw_build_action(s->b, (tw_action){.act = (uint8_t)act,
                                             .hop = (uint8_t)hop,
                                             .peer = peer,
                                             .frame = frame,
                                             .at = at,
                                             .cap = hop == 1 ? f->hop1_cap : f->hop2_cap});
}

static void count_bytes(tw_plan *p, const tw_frame *f, uint32_t trailer) {
    p->payload_bytes += f->payload;
    p->wire_bytes += TW_HEADER_BYTES + f->payload + f->nrun * trailer;
}

/* Foreign frames: encode into the peer's ring of slots, send. */
static void hop1_sends(sra *s) {
    tw_builder *b = s->b;
    begin_stage(s);
    for (walk w = walk_all(s); walk_ok(&w) && b->status >= 0; walk_next(&w)) {
        int owner = peer_at(s, w.k);
        if (w.i >= frame_count(s, owner))
            continue;
        uint32_t f = s->first[owner] + w.i;
        uint32_t encode = compute(s, TW_K_ENCODE, f);
        if (w.i >= s->window)
            tw_build_after(b, encode, s->act[f - s->window]);
        uint32_t send = s->act[f] = transfer(s, TW_A_SEND, f, 1, owner, b->p->frame[f].hop1_at);
        tw_build_after(b, send, encode);
        bound_in_flight(s, owner, send);
        if (b->in->no_overlap) {
            tw_build_after(b, s->encoded, encode);
            tw_build_after(b, send, s->encoded);
            tw_build_after(b, s->arrived, send);
        }
        count_bytes(b->p, &b->p->frame[f], TW_TRAILER1_BYTES);
    }
}

/* Own frames: the peers' parts arrive in a ring of slots, in rank order inside a slot. */
static void hop1_receives(sra *s) {
    tw_builder *b = s->b;
    int me = b->in->me;
    begin_stage(s);
    for (walk w = walk_all(s); walk_ok(&w) && b->status >= 0; walk_next(&w)) {
        int peer = peer_at(s, -w.k);
        if (w.i >= frame_count(s, me))
            continue;
        uint32_t f = s->first[me] + w.i, place = (uint32_t)(peer < me ? peer : peer - 1);
        const tw_frame *x = &b->p->frame[f];
        uint32_t recv = transfer(s, TW_A_RECV, f, 1, peer, x->hop1_at + (uint64_t)place * x->hop1_stride);
        if (w.i >= s->window)
            tw_build_after(b, recv, s->act[f - s->window]);
        bound_in_flight(s, peer, recv);
        tw_build_after(b, s->act[f], recv);
        if (b->in->no_overlap)
            tw_build_after(b, s->arrived, recv);
    }
}

static void reduces(sra *s) {
    tw_builder *b = s->b;
    for (uint32_t f = s->first[b->in->me]; f < s->first[b->in->me + 1] && b->status >= 0; f++) {
        s->act[f] = compute(s, TW_K_REDUCE, f);
        tw_build_after(b, s->verdict, s->act[f]);
        if (b->in->no_overlap) {
            tw_build_after(b, s->act[f], s->arrived);
            tw_build_after(b, s->reduced, s->act[f]);
        }
    }
}

static void hop2_sends(sra *s) {
    tw_builder *b = s->b;
    begin_stage(s);
    for (walk w = walk_all(s); walk_ok(&w) && b->status >= 0; walk_next(&w)) {
        if (w.i >= frame_count(s, b->in->me))
            continue;
        uint32_t f = s->first[b->in->me] + w.i;
        uint32_t send = transfer(s, TW_A_SEND, f, 2, peer_at(s, w.k), b->p->frame[f].hop2_at);
        tw_build_after(b, send, s->act[f]);
        bound_in_flight(s, peer_at(s, w.k), send);
        if (b->in->no_overlap)
            tw_build_after(b, send, s->reduced);
        count_bytes(b->p, &b->p->frame[f], TW_TRAILER2_BYTES);
    }
}

static void hop2_receives(sra *s) {
    tw_builder *b = s->b;
    begin_stage(s);
    for (walk w = walk_all(s); walk_ok(&w) && b->status >= 0; walk_next(&w)) {
        int owner = peer_at(s, -w.k);
        if (w.i >= frame_count(s, owner))
            continue;
        uint32_t f = s->first[owner] + w.i;
        uint32_t recv = transfer(s, TW_A_RECV, f, 2, owner, b->p->frame[f].hop2_at);
        bound_in_flight(s, owner, recv);
        tw_build_after(b, s->verdict, recv);
    }
}

static uint32_t roundings(const tw_plan_in *in) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < in->nlayer; i++) {
        uint32_t r = tw_codec_get(in->layer[i].spec.codec)->roundings(&in->layer[i].spec, in->layer[i].dtype);
        most = r > most ? r : most;
    }
    return in->size > 1 ? 2 * most : most;
}

static void build(sra *s) {
    tw_builder *b = s->b;
    place_frames(s);
    b->p->hops = b->in->size > 1 ? 2 : 0;
    b->p->roundings = roundings(b->in);
    s->verdict = compute(s, TW_K_VERDICT, 0);
    if (b->in->no_overlap) {
        s->encoded = compute(s, TW_K_BARRIER, 0);
        s->arrived = compute(s, TW_K_BARRIER, 1);
        s->reduced = compute(s, TW_K_BARRIER, 2);
    }
    reduces(s);
    hop1_sends(s);
    hop1_receives(s);
    hop2_sends(s);
    hop2_receives(s);
    for (uint32_t f = 0; f < b->p->nframe && b->status >= 0; f++)
        tw_build_after(b, compute(s, TW_K_DECODE, f), s->verdict);
}

void tw_build_sra(tw_builder *b) {
    sra s = {.b = b};
    uint32_t *first = tw_build_frames(b, choose_frame_bytes(b->in));
    s.first = first;
    if (b->status >= 0) {
        s.window = b->in->in_flight ? b->in->in_flight : 8;
        if (b->in->no_overlap) /* a stage is encoded whole before it is sent, so no slot may be used twice */
            s.window = most_frames(&s) ? most_frames(&s) : 1;
        uint64_t transfers = (uint64_t)most_frames(&s) * (unsigned)b->in->size + 1;
        s.act = tw_alloc(b->ctx, ((uint64_t)b->p->nframe + 1) * sizeof(uint32_t));
        s.order = tw_alloc(b->ctx, transfers * sizeof(uint32_t));
        s.last = tw_alloc(b->ctx, (uint64_t)b->in->size * sizeof(uint32_t));
        if (s.act && s.order && s.last)
            build(&s);
        else
            b->status = TW_ERR_NOMEM;
    }
    tw_free(b->ctx, s.order);
    tw_free(b->ctx, s.last);
    tw_free(b->ctx, s.act);
    tw_free(b->ctx, first);
}
