/* SPDX-License-Identifier: BSD-3-Clause */
#include "reducer/pieces.h"
#include <stdlib.h>

static tw_status check_range(const tw_op_args *a, uint32_t i) {
    const tw_piece *p = &a->piece[i];
    if (p->layer >= a->nlayer)
        return tw_fail(TW_ERR_ARG, "piece %u: layer %u of %u", i, p->layer, a->nlayer);
    const tw_op_layer *l = &a->layer[p->layer];
    if (p->first > l->count || p->count > l->count - p->first)
        return tw_fail(TW_ERR_ARG, "piece %u: [%llu, +%llu) is outside layer '%s' of %llu values", i,
                       (unsigned long long)p->first, (unsigned long long)p->count, l->name,
                       (unsigned long long)l->count);
    return TW_OK;
}

/* ---- overlapping memory: two buffers overlap unless they are one piece's in == out, or both are inputs ---- */

static uint64_t bytes_of(const tw_op_args *a, uint32_t i) {
    return a->piece[i].count * tw_dtype_size(a->layer[a->piece[i].layer].dtype);
}

static bool touch(const void *p, uint64_t n, const void *q, uint64_t m) {
    return (uintptr_t)p < (uintptr_t)q + m && (uintptr_t)q < (uintptr_t)p + n;
}

static tw_status overlap(const tw_op_args *a, uint32_t i, uint32_t k) {
    return tw_fail(TW_ERR_ARG, "buffers overlap: layer '%s' (piece %u) and layer '%s' (piece %u)",
                   a->layer[a->piece[i].layer].name, i, a->layer[a->piece[k].layer].name, k);
}

static bool clash(const tw_op_args *a, uint32_t i, uint32_t k) {
    const tw_piece *p = &a->piece[i], *q = &a->piece[k];
    uint64_t n = bytes_of(a, i), m = bytes_of(a, k);
    if (n == 0 || m == 0)
        return false;
    return (p->out && q->out && touch(p->out, n, q->out, m)) || (p->out && q->in && touch(p->out, n, q->in, m)) ||
           (p->in && q->out && touch(p->in, n, q->out, m));
}

/* All pairs: who has many pieces tells with `apart` that there is nothing to find. */
static tw_status check_memory(const tw_op_args *a) {
    for (uint32_t i = 0; i < a->npiece; i++) {
        const tw_piece *p = &a->piece[i];
        if (p->in && p->out && p->in != p->out && bytes_of(a, i) &&
            touch(p->in, bytes_of(a, i), p->out, bytes_of(a, i)))
            return tw_fail(TW_ERR_ARG, "layer '%s' (piece %u): in and out overlap without being equal",
                           a->layer[p->layer].name, i);
    }
    for (uint32_t i = 0; i < a->npiece; i++)
        for (uint32_t k = i + 1; k < a->npiece; k++)
            if (clash(a, i, k))
                return overlap(a, i, k);
    return TW_OK;
}

tw_status tw_pieces_check(const tw_op_args *a) {
    for (uint32_t i = 0; i < a->npiece; i++) {
        tw_status s = check_range(a, i);
        if (s < 0)
            return s;
    }
    return a->apart ? TW_OK : check_memory(a);
}

/* ---- sorting ---- */

typedef struct item {
    uint32_t layer, given;
    uint64_t first;
} item;

static int compare(const void *a, const void *b) {
    const item *p = a, *q = b;
    if (p->layer != q->layer)
        return p->layer < q->layer ? -1 : 1;
    if (p->first != q->first)
        return p->first < q->first ? -1 : 1;
    return p->given < q->given ? -1 : 1;
}

static uint32_t op_layer(const tw_op_args *a, tw_sorted *s, uint32_t *seen, uint32_t layer) {
    if (seen[layer])
        return seen[layer] - 1;
    const tw_op_layer *l = &a->layer[layer];
    tw_spec flat = TW_SPEC_INIT;
    flat.feedback = l->spec.feedback;
    s->layer[s->nlayer] = (tw_plan_layer){.name = l->name,
                                          .count = l->count,
                                          .dtype = l->dtype,
                                          .spec = tw_op_is_flat(l) ? flat : l->spec,
                                          .pinned = l->pinned,
                                          .shard = l->shard,
                                          .block = l->block,
                                          .cols = tw_op_columns(l)};
    s->layer_of[s->nlayer] = layer;
    seen[layer] = ++s->nlayer;
    return s->nlayer - 1;
}

/* The pieces of one layer must be one gapless range that begins and ends at tile borders (or the layer's end). */
static tw_status range_of_layer(const tw_op_args *a, tw_sorted *s, uint32_t lo, uint32_t hi) {
    tw_plan_layer *l = &s->layer[s->piece[lo].layer];
    uint64_t start = s->piece[lo].first, end = start;
    for (uint32_t i = lo; i < hi; i++) {
        if (s->piece[i].first != end)
            return tw_fail(TW_ERR_ARG, "layer '%s': pieces %s at position %llu", l->name,
                           s->piece[i].first < end ? "overlap" : "leave a gap", (unsigned long long)end);
        end += s->piece[i].count;
    }
    if (start % a->tile || (end % a->tile && end != l->count))
        return tw_fail(TW_ERR_ARG,
                       "layer '%s': an op must begin and end at multiples of %u or the layer's end, not [%llu, %llu)",
                       l->name, a->tile, (unsigned long long)start, (unsigned long long)end);
    l->first = start / a->tile;
    l->tiles = tw_ceil_div(end - start, a->tile);
    return TW_OK;
}

static tw_status sort_into(const tw_op_args *a, tw_sorted *s, item *it, uint32_t *seen) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->npiece; i++) {
        uint32_t layer = op_layer(a, s, seen, a->piece[i].layer);
        s->order[i] = UINT32_MAX;
        if (a->piece[i].count)
            it[n++] = (item){.layer = layer, .given = i, .first = a->piece[i].first};
    }
    qsort(it, n, sizeof *it, compare);
    for (uint32_t i = 0; i < n; i++) {
        s->piece[i] = (tw_plan_piece){it[i].layer, it[i].first, a->piece[it[i].given].count};
        s->order[it[i].given] = i;
    }
    s->npiece = n;
    tw_status st = TW_OK;
    for (uint32_t lo = 0, hi; lo < n && st >= 0; lo = hi) {
        for (hi = lo + 1; hi < n && it[hi].layer == it[lo].layer;)
            hi++;
        st = range_of_layer(a, s, lo, hi);
    }
    return st;
}

tw_status tw_pieces_sort(tw_ctx *ctx, const tw_op_args *a, tw_sorted *s) {
    uint64_t n = (uint64_t)a->npiece + 1;
    *s = (tw_sorted){0};
    s->layer = tw_alloc(ctx, n * sizeof *s->layer);
    s->piece = tw_alloc(ctx, n * sizeof *s->piece);
    s->order = tw_alloc(ctx, n * sizeof *s->order);
    s->layer_of = tw_alloc(ctx, n * sizeof *s->layer_of);
    item *it = tw_alloc(ctx, n * sizeof *it);
    uint32_t *seen = tw_alloc(ctx, ((uint64_t)a->nlayer + 1) * sizeof *seen);
    tw_status st = TW_ERR_NOMEM;
    if (s->layer && s->piece && s->order && s->layer_of && it && seen)
        st = sort_into(a, s, it, seen);
    tw_free(ctx, it);
    tw_free(ctx, seen);
    return st;
}

void tw_sorted_free(tw_ctx *ctx, tw_sorted *s) {
    tw_free(ctx, s->layer);
    tw_free(ctx, s->piece);
    tw_free(ctx, s->order);
    tw_free(ctx, s->layer_of);
    *s = (tw_sorted){0};
}
