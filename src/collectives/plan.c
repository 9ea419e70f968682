/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What all builders share: actions, dependencies, the agreement hash. */
#include "collectives/plan.h"

int tw_owner_of(uint64_t name_hash, uint64_t tile, uint64_t tiles, int size) {
    uint64_t part = (uint64_t)((tw_u128)tile * (unsigned)size / (tiles ? tiles : 1));
    return (int)((name_hash % (unsigned)size + part) % (unsigned)size);
}

uint64_t tw_layer_tiles(uint64_t count, uint32_t tile) {
    return tw_ceil_div(count, tile);
}

uint64_t tw_tiles_values(uint64_t count, uint32_t tile, uint64_t first, uint64_t n) {
    return n ? (n - 1) * (uint64_t)tile + tw_tile_len(count, tile, first + n - 1) : 0;
}

/* The stretch that the tiles begin in, full ones, and what is left. */
static uint64_t sparse_tiles_bytes(const tw_plan_layer *l, uint32_t tile, uint64_t first, uint64_t n) {
    uint64_t stretch = tw_stretch_tiles(&l->spec, tile), full = stretch * tile;
    uint64_t head = (stretch - first % stretch) % stretch < n ? (stretch - first % stretch) % stretch : n;
    uint64_t rest = tw_tiles_values(l->count, tile, first + head, n - head);
    return tw_stretch_bytes(&l->spec, tw_tiles_values(l->count, tile, first, head)) +
           rest / full * tw_stretch_bytes(&l->spec, full) + tw_stretch_bytes(&l->spec, rest % full);
}

uint64_t tw_tiles_bytes(const tw_plan_layer *l, uint32_t tile, uint64_t first, uint64_t n) {
    if (tw_codec_is_sparse(&l->spec))
        return sparse_tiles_bytes(l, tile, first, n);
    const tw_codec *c = tw_codec_get(l->spec.codec);
    if (n == 0)
        return 0;
    uint32_t last = tw_tile_len(l->count, tile, first + n - 1);
    return (n - 1) * (uint64_t)c->bytes(&l->spec, tile, l->dtype) + c->bytes(&l->spec, last, l->dtype);
}

void *tw_build_grow(tw_builder *b, void *old, uint32_t *cap, uint32_t need, size_t item) {
    if (b->status < 0 || need <= *cap)
        return old;
    uint64_t room = *cap ? *cap : 64;
    while (room < need)
        room *= 2;
    void *p = room > UINT32_MAX ? NULL : tw_alloc(b->ctx, room * item);
    if (!p) {
        b->status = room > UINT32_MAX
                        ? tw_fail(TW_ERR_ARG, "a plan of over 2^32 frames: raise frame_bytes or split the op")
                        : TW_ERR_NOMEM;
        return old;
    }
    if (old)
        memcpy(p, old, (size_t)*cap * item);
    tw_free(b->ctx, old);
    *cap = (uint32_t)room;
    return p;
}

uint32_t tw_build_action(tw_builder *b, tw_action a) {
    tw_plan *p = b->p;
    p->action = tw_build_grow(b, p->action, &b->cap_action, p->naction + 1, sizeof(tw_action));
    if (b->status < 0)
        return 0;
    p->action[p->naction] = a;
    if (a.act == TW_A_SEND)
        p->sends++;
    return p->naction++;
}

void tw_build_after(tw_builder *b, uint32_t action, uint32_t earlier) {
    b->edge = tw_build_grow(b, b->edge, &b->cap_edge, b->nedge + 1, sizeof(b->edge[0]));
    if (b->status < 0)
        return;
    b->edge[b->nedge][0] = earlier;
    b->edge[b->nedge++][1] = action;
    b->p->action[action].ndep++;
}

void tw_build_in_stream(tw_builder *b, uint32_t *last, uint32_t action) {
    if (b->status < 0)
        return;
    if (*last) {
        b->p->action[*last].then = action;
        b->p->action[action].ndep++;
    }
    *last = action;
}

/* Edges, gathered in any order, become one successor list per action. */
static void link_actions(tw_builder *b) {
    tw_plan *p = b->p;
    if (b->status < 0 || b->nedge == 0)
        return;
    p->succ = tw_alloc(b->ctx, (uint64_t)b->nedge * sizeof(uint32_t));
    if (!p->succ) {
        b->status = TW_ERR_NOMEM;
        return;
    }
    p->nsucc = b->nedge;
    for (uint32_t i = 0; i < b->nedge; i++)
        p->action[b->edge[i][0]].nsucc++;
    uint32_t at = 0;
    for (uint32_t i = 0; i < p->naction; i++) {
        p->action[i].succ = at;
        at += p->action[i].nsucc;
        p->action[i].nsucc = 0;
    }
    for (uint32_t i = 0; i < b->nedge; i++) {
        tw_action *a = &p->action[b->edge[i][0]];
        p->succ[a->succ + a->nsucc++] = b->edge[i][1];
    }
}

/* The arrays grew by doubling, and a plan is kept for long. */
static void *fit(tw_builder *b, void *old, uint32_t n, size_t item) {
    void *p = b->status < 0 || !old ? old : tw_alloc(b->ctx, n * (uint64_t)item);
    if (p == old)
        return old;
    if (!p) {
        b->status = TW_ERR_NOMEM;
        return old;
    }
    memcpy(p, old, n * item);
    tw_free(b->ctx, old);
    return p;
}

static uint64_t mix(uint64_t h, const void *p, size_t n) {
    return tw_hash64(p, n, h);
}

static bool has_matrix(const tw_plan_in *in) {
    bool any = false;
    for (uint32_t i = 0; i < in->nlayer; i++)
        any = any || tw_is_matrix(&in->layer[i]);
    return any;
}

/* A native sum of payloads; plain values are summed where they lie. */
static bool is_linear(const tw_plan_in *in) {
    bool coded = false;
    for (uint32_t i = 0; i < in->nlayer; i++)
        coded = coded || in->layer[i].spec.codec != TW_CODEC_NONE;
    return coded;
}

static uint64_t agreement_hash(const tw_plan_in *in, uint32_t frame_bytes) {
    uint32_t head[] = {TW_WIRE_VERSION,     (uint32_t)in->size, in->nlayer,  (uint32_t)in->algo,
                       (uint32_t)in->redop, in->tile,           frame_bytes, in->in_flight};
    uint32_t which[] = {(uint32_t)in->kind, (uint32_t)in->root, in->told};
    uint64_t h = mix(0, head, sizeof head);
    if (in->kind != TW_KIND_ALLREDUCE)
        h = mix(h, which, sizeof which);
    for (uint32_t i = 0; i < in->nlayer; i++) {
        const tw_plan_layer *l = &in->layer[i];
        uint64_t num[] = {l->count, l->first, l->tiles, (uint64_t)l->dtype};
        uint64_t pin[] = {l->pinned, l->shard};
        uint32_t spec[TW_SPEC_WORDS + 1] = {[TW_SPEC_WORDS] = tw_codec_get(l->spec.codec)->wire_version};
        tw_spec_words(&l->spec, spec);
        h = mix(h, l->name, strlen(l->name));
        h = mix(h, num, sizeof num);
        h = mix(h, spec, sizeof spec);
        if (l->pinned)
            h = mix(h, pin, sizeof pin);
        if (tw_is_matrix(l))
            h = mix(h, &l->cols, sizeof l->cols);
    }
    for (uint32_t i = 0; in->algo == TW_ALGO_NATIVE && !is_linear(in) && i < in->npiece; i++) { /* sums of their own */
        uint64_t num[] = {in->piece[i].layer, in->piece[i].first, in->piece[i].count};
        h = mix(h, num, sizeof num);
    }
    return h;
}

static void build(tw_builder *b) {
    switch (b->in->kind) {
    case TW_KIND_ALLREDUCE:
        if (b->in->algo == TW_ALGO_GATHER)
            tw_build_gather(b);
        else if (b->in->algo != TW_ALGO_NATIVE)
            tw_build_sra(b);
        else if (has_matrix(b->in))
            tw_build_lowrank(b);
        else if (is_linear(b->in))
            tw_build_linear(b);
        else
            tw_build_native(b);
        break;
    case TW_KIND_REDUCE_SCATTER:
        tw_build_reduce_scatter(b);
        break;
    case TW_KIND_ALLGATHER:
        tw_build_allgather(b);
        break;
    case TW_KIND_BROADCAST:
        tw_build_broadcast(b);
        break;
    }
}

tw_status tw_plan_build(tw_ctx *ctx, const tw_plan_in *in, tw_plan **out) {
    tw_plan *p = tw_alloc(ctx, sizeof *p);
    if (!p)
        return TW_ERR_NOMEM;
    tw_builder b = {.p = p, .in = in, .ctx = ctx};
    p->ctx = ctx;
    p->me = in->me;
    p->size = in->size;
    p->kind = in->kind;
    p->told = in->told;
    p->tile = in->tile;
    p->nlayer = in->nlayer;
    p->hash = agreement_hash(in, in->frame_bytes);
    build(&b);
    link_actions(&b);
    tw_free(ctx, b.edge);
    p->run = fit(&b, p->run, p->nrun, sizeof *p->run);
    p->frame = fit(&b, p->frame, p->nframe, sizeof *p->frame);
    p->action = fit(&b, p->action, p->naction, sizeof *p->action);
    if (b.status < 0) {
        tw_plan_free(p);
        return b.status;
    }
    *out = p;
    return TW_OK;
}

uint64_t tw_plan_bytes(const tw_plan *p) {
    return tw_held(sizeof *p) + (p->run ? tw_held(p->nrun * sizeof *p->run) : 0) +
           (p->frame ? tw_held(p->nframe * sizeof *p->frame) : 0) +
           (p->action ? tw_held(p->naction * sizeof *p->action) : 0) +
           (p->succ ? tw_held(p->nsucc * sizeof *p->succ) : 0) + (p->part ? tw_held(p->nlayer * sizeof *p->part) : 0) +
           (p->sum ? tw_held(p->nsum * sizeof *p->sum) : 0) +
           (p->matrix ? tw_held(p->nmatrix * sizeof *p->matrix) : 0) +
           (p->unit ? tw_held(p->nunit * sizeof *p->unit) : 0);
}

void tw_plan_free(tw_plan *p) {
    if (!p)
        return;
    tw_ctx *ctx = p->ctx;
    tw_free(ctx, p->run);
    tw_free(ctx, p->frame);
    tw_free(ctx, p->action);
    tw_free(ctx, p->succ);
    tw_free(ctx, p->part);
    tw_free(ctx, p->sum);
    tw_free(ctx, p->matrix);
    tw_free(ctx, p->unit);
    tw_free(ctx, p);
}
