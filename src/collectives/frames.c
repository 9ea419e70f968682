/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Tiles to frames. Every rank cuts every owner's tiles the same way: a frame is the same runs on the way to its owner
 * (hop 1) and back (hop 2). What is sent of sparse layers has no fixed length, so their frames are cut by what it is likely
 * to be, have room for what it can be, and hold no other layers. */
#include "collectives/plan.h"

#define SPARSE_VALUES (1u << 26) /* most of a frame: what it may have to hold stays far below 4 GiB */

typedef struct cutter {
    tw_builder *b;
    uint32_t cap_run, cap_frame;
    int owner;
    uint32_t target, limit; /* payload bytes of a frame: about, and at most (but a tile or stretch is never cut) */
    bool open, sparse;      /* sparse: layers of this kind now, after the others; no frame has both */
} cutter;

/* The part-th shard of a pinned layer; the last rank's has all that is left. */
static void pinned_tiles(const tw_plan_layer *l, uint64_t tiles, uint64_t part, uint64_t size, uint64_t *lo,
                         uint64_t *hi) {
    tw_u128 shard = l->shard ? l->shard : tiles, from = part * shard, to = part + 1 < size ? from + shard : tiles;
    *lo = from < tiles ? (uint64_t)from : tiles;
    *hi = to < tiles ? (uint64_t)to : tiles;
}

/* The tiles of layer l that owner holds: one range, since ownership grows with the tile; cut to what the op covers. */
uint64_t tw_owned_tiles(const tw_plan_in *in, const tw_plan_layer *l, int owner, uint64_t *first) {
    uint64_t tiles = tw_layer_tiles(l->count, in->tile), h;
    unsigned size = (unsigned)in->size, parts = size;
    if (in->kind == TW_KIND_BROADCAST) { /* who relays them: the ranks behind the root share all, it comes last */
        h = (unsigned)in->root + 1;
        parts = size > 1 ? size - 1 : 1;
    } else if (l->pinned) {
        h = l->pinned - 1;
    } else {
        h = tw_hash64(l->name, strlen(l->name), 0);
    }
    uint64_t part = ((uint64_t)owner + size - h % size) % size;
    uint64_t lo = (uint64_t)(((tw_u128)part * tiles + parts - 1) / parts);
    uint64_t hi = (uint64_t)(((tw_u128)(part + 1) * tiles + parts - 1) / parts);
    if (l->pinned)
        pinned_tiles(l, tiles, part, size, &lo, &hi);
    uint64_t end = l->first + l->tiles;
    lo = lo < l->first ? l->first : lo;
    hi = hi > end ? end : hi;
    *first = lo;
    return hi > lo ? hi - lo : 0;
}

uint64_t tw_answered_tiles(const tw_plan_in *in, const tw_plan_layer *l, uint64_t *first) {
    if (in->kind != TW_KIND_BROADCAST)
        return tw_owned_tiles(in, l, in->me, first);
    *first = l->first;
    return in->me == in->root ? l->tiles : 0;
}

static void open_frame(cutter *c) {
    tw_plan *p = c->b->p;
    p->frame = tw_build_grow(c->b, p->frame, &c->cap_frame, p->nframe + 1, sizeof(tw_frame));
    if (c->b->status < 0)
        return;
    p->frame[p->nframe++] = (tw_frame){.run0 = p->nrun, .owner = c->owner, .sparse = c->sparse};
    c->open = true;
}

/* In the layer's dtype. */
static uint64_t plain_bytes(const tw_plan_in *in, const tw_plan_layer *l, uint64_t first, uint64_t n) {
    tw_plan_layer plain = *l;
    plain.spec = (tw_spec)TW_SPEC_INIT;
    return tw_tiles_bytes(&plain, in->tile, first, n);
}

/* The most that a run of a sparse layer takes where up to `keeps` values of the layer are kept, all of them in this run. */
static uint32_t sparse_room(const cutter *c, const tw_plan_layer *l, uint64_t first, uint64_t n, uint64_t keeps) {
    uint64_t stretch = tw_stretch_tiles(&l->spec, c->b->in->tile),
             ends = (first + n - 1) / stretch - first / stretch + 1;
    uint64_t values = tw_tiles_values(l->count, c->b->in->tile, first, n), kept = values < keeps ? values : keeps;
    if (l->spec.select == TW_SELECT_THRESHOLD)
        kept = values;
    if (l->spec.select == TW_SELECT_GROUP)
        kept = tw_sparse_expected(&l->spec, values);
    ends += kept /
            TW_SPAN_KEPT; /* spans also end before tiles that they have no room for; two of them are more than full */
    return (uint32_t)tw_spans_most(&l->spec, values, kept, ends) + tw_tile_bits(n);
}

/* Answers hold values of the owner's tiles; in a broadcast they come from the root, who selects from all. */
static void give_sparse_room(cutter *c, const tw_plan_layer *l, uint64_t first, uint64_t n, tw_frame *f) {
    uint32_t tile = c->b->in->tile;
    bool relayed = c->b->in->kind == TW_KIND_BROADCAST;
    uint64_t own, mine = tw_owned_tiles(c->b->in, l, c->owner, &own),
                  all = tw_sparse_wanted(&l->spec, tw_tiles_values(l->count, tile, l->first, l->tiles));
    uint64_t kept = relayed ? all : tw_sparse_wanted(&l->spec, tw_tiles_values(l->count, tile, own, mine));
    f->payload_room += sparse_room(c, l, first, n, all);
    f->answer_room += sparse_room(c, l, first, n, kept);
    f->values += (uint32_t)(n * tile);
}

static void add_run(cutter *c, uint32_t layer, uint64_t first, uint64_t n, uint64_t bytes) {
    tw_plan *p = c->b->p;
    const tw_plan_layer *l = &c->b->in->layer[layer];
    p->run = tw_build_grow(c->b, p->run, &c->cap_run, p->nrun + 1, sizeof(tw_tiles));
    if (c->b->status < 0)
        return;
    bool stays = c->b->in->kind == TW_KIND_REDUCE_SCATTER;
    uint32_t answer = stays ? tw_tile_bits(n) : (uint32_t)bytes;
    p->run[p->nrun++] =
        (tw_tiles){.layer = layer, .n = (uint32_t)n, .first = first, .bytes = (uint32_t)bytes, .answer = answer};
    tw_frame *f = &p->frame[p->nframe - 1];
    f->nrun++;
    f->payload += (uint32_t)bytes;
    f->answer += answer;
    f->home += stays && !c->sparse ? (uint32_t)plain_bytes(c->b->in, l, first, n) : 0;
    if (c->sparse)
        give_sparse_room(c, l, first, n, f);
    else
        f->payload_room = f->payload;
    if (!c->sparse || stays)
        f->answer_room = f->answer;
}

/* What frames are cut between: tiles; of sparse layers stretches. */
typedef struct unit {
    uint64_t tiles;
    uint32_t bytes, values;
} unit;

static unit unit_of(const tw_plan_layer *l, uint32_t tile) {
    uint64_t n = tw_codec_is_sparse(&l->spec) ? tw_stretch_tiles(&l->spec, tile) : 1;
    if (!tw_codec_is_sparse(&l->spec))
        return (unit){1, tw_codec_get(l->spec.codec)->bytes(&l->spec, tile, l->dtype), 0};
    return (unit){n, (uint32_t)tw_stretch_bytes(&l->spec, n * tile), (uint32_t)n * tile};
}

static uint64_t units_that_fit(const cutter *c, unit u) {
    const tw_frame *f = &c->b->p->frame[c->b->p->nframe - 1];
    uint64_t n = f->payload < c->target ? tw_ceil_div(c->target - f->payload, u.bytes) : 0;
    uint64_t most = f->payload < c->limit ? (c->limit - f->payload) / u.bytes : 0;
    if (u.values && most > (SPARSE_VALUES - f->values) / u.values)
        most = (SPARSE_VALUES - f->values) / u.values;
    n = n > most ? most : n;
    return n == 0 && f->payload == 0 ? 1 : n;
}

static void cut_layer(cutter *c, uint32_t layer) {
    const tw_plan_layer *l = &c->b->in->layer[layer];
    uint32_t tile = c->b->in->tile;
    unit u = unit_of(l, tile);
    uint64_t first, left = tw_owned_tiles(c->b->in, l, c->owner, &first);
    while (left > 0 && c->b->status >= 0) {
        if (!c->open)
            open_frame(c);
        if (c->b->status < 0)
            return;
        uint64_t units = units_that_fit(c, u);
        if (units == 0) {
            c->open = false;
            continue;
        }
        uint64_t n = units * u.tiles - first % u.tiles;
        n = n > left ? left : n;
        add_run(c, layer, first, n, tw_tiles_bytes(l, tile, first, n));
        first += n;
        left -= n;
    }
}

static tw_u128 owner_payload(const tw_plan_in *in, int owner, bool sparse) {
    tw_u128 sum = 0;
    uint64_t first;
    for (uint32_t i = 0; i < in->nlayer; i++) {
        uint64_t n = tw_owned_tiles(in, &in->layer[i], owner, &first);
        if (tw_codec_is_sparse(&in->layer[i].spec) == sparse)
            sum += tw_tiles_bytes(&in->layer[i], in->tile, first, n);
    }
    return sum;
}

/* Before any of them is made: a plan that is too long would take all memory before it fails. */
static tw_status count_frames(const tw_plan_in *in, uint32_t frame_bytes) {
    tw_u128 frames = 0;
    for (int o = 0; o < in->size; o++)
        for (int sparse = 0; sparse < 2; sparse++)
            frames += (owner_payload(in, o, sparse) + frame_bytes - 1) / frame_bytes;
    if (frames <= TW_MOST_FRAMES)
        return TW_OK;
    return tw_fail(TW_ERR_ARG,
                   "the op of layer '%s' makes over 2^24 frames of %u bytes: raise frame_bytes or split the op",
                   in->nlayer ? in->layer[0].name : "", frame_bytes);
}

/* One owner's tiles of all layers of a kind. */
static void cut_kind(cutter *c, bool sparse) {
    const tw_plan_in *in = c->b->in;
    uint64_t total = (uint64_t)owner_payload(in, c->owner, sparse), frames = tw_ceil_div(total, c->limit);
    c->open = false;
    c->sparse = sparse;
    c->target = frames ? (uint32_t)tw_ceil_div(total, frames) : c->limit; /* equal frames: no short last one */
    for (uint32_t i = 0; i < in->nlayer; i++)
        if (tw_codec_is_sparse(&in->layer[i].spec) == sparse)
            cut_layer(c, i);
}

uint32_t *tw_build_frames(tw_builder *b, uint32_t frame_bytes) {
    cutter c = {.b = b, .limit = frame_bytes};
    b->status = count_frames(b->in, frame_bytes);
    if (b->status < 0)
        return NULL;
    uint32_t *first = tw_alloc(b->ctx, ((uint64_t)b->in->size + 1) * sizeof(uint32_t));
    if (!first) {
        b->status = TW_ERR_NOMEM;
        return NULL;
    }
    for (c.owner = 0; c.owner < b->in->size && b->status >= 0; c.owner++) {
        first[c.owner] = b->p->nframe;
        cut_kind(&c, false);
        cut_kind(&c, true);
        for (uint32_t f = first[c.owner]; f < b->p->nframe; f++)
            b->p->frame[f].index = f - first[c.owner];
    }
    first[b->in->size] = b->p->nframe;
    tw_build_parts(b, first);
    return first;
}
