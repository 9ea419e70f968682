/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State of another number of ranks. Each rank has added up weight times residual of the ranks that it was given; the sum of
 * all ranks is what outputs lack, and becomes the residual of the new owners (weight 1); workers begin with none. What was
 * rounded on the way, and what the old owners' ledgers held, belongs to no new owner's ledger: it joins the layer's sum of
 * such errors, on all ranks alike. docs/design.md has the bound. */
#include "reducer/restore.h"

enum { CHUNK = 1 << 20 }; /* values of a sum */

/* ---- what all ranks must know of a layer ---- */

static void join(tw_restored *to, const tw_restored *from, bool first) {
    to->acc_sq = (first ? 0 : to->acc_sq) + from->acc_sq;
    to->mass = (first ? 0 : to->mass) + from->mass;
    if (!from->seen)
        return;
    to->flags |= from->flags;
    to->use = from->use > to->use ? from->use : to->use;
    to->joint = from->joint > to->joint ? from->joint : to->joint;
    if (from->left) {
        to->left = from->left;
        to->left_columns = from->left_columns;
        to->left_rank = from->left_rank;
    }
}

static tw_status share_layers(tw_restore *t) {
    tw_comm *c = t->r->comm;
    uint64_t n = t->r->nlayer + 1ull; /* none is still a message */
    tw_restored *all = tw_alloc(c->ctx, n * (unsigned)c->size * sizeof *all);
    if (!all)
        return TW_ERR_NOMEM;
    tw_status s = tw_comm_gather(c, "tw_reducer_load: adding up", t->layer, all, n * sizeof *all);
    for (int k = 0; k < c->size && s >= 0; k++)
        for (uint32_t i = 0; i < t->r->nlayer; i++)
            join(&t->layer[i], &all[(uint64_t)k * n + i], k == 0);
    tw_free(c->ctx, all);
    return s;
}

/* ---- sums: residuals of all layers as one array, cut into chunks of one length ---- */

static float *slot_of(const tw_layer_state *l) {
    return l->slot[1 - l->now];
}

static float *momentum_of(const tw_layer_state *l) {
    return l->momentum[1 - l->momentum_now];
}

typedef float *array_of(const tw_layer_state *l); /* NULL: the layer has none */

/* Values [at, at + n) of all such arrays one behind the other, to buf or from it. */
static void move(tw_reducer *r, array_of *of, uint64_t at, uint64_t n, float *buf, bool to_buf) {
    uint64_t place = 0;
    for (uint32_t i = 0; i < r->nlayer; i++) {
        const tw_layer_state *l = &r->layer[i];
        uint64_t count = of(l) ? l->count : 0, lo = at > place ? at : place;
        uint64_t hi = at + n < place + count ? at + n : place + count;
        if (lo < hi && to_buf)
            memcpy(buf + (lo - at), of(l) + (lo - place), (hi - lo) * sizeof *buf);
        else if (lo < hi)
            memcpy(of(l) + (lo - place), buf + (lo - at), (hi - lo) * sizeof *buf);
        place += count;
    }
}

static tw_status sum_arrays(tw_restore *t, array_of *of) {
    tw_reducer *r = t->r;
    uint64_t total = 0;
    for (uint32_t i = 0; i < r->nlayer; i++)
        total += of(&r->layer[i]) ? r->layer[i].count : 0;
    float *buf = tw_alloc(r->ctx, (total < CHUNK ? total : CHUNK) * sizeof *buf);
    tw_status s = buf ? TW_OK : TW_ERR_NOMEM;
    if (!buf)
        return s;
    for (uint64_t at = 0; at < total && s >= 0; at += CHUNK) {
        uint64_t n = total - at < CHUNK ? total - at : CHUNK;
        move(r, of, at, n, buf, true);
        s = tw_allreduce(r->comm, NULL, buf, buf, n, TW_F32, TW_SUM);
        move(r, of, at, n, buf, false);
    }
    tw_free(r->ctx, buf);
    return s;
}

static tw_status share_factors(tw_restore *t) {
    tw_status s = TW_OK;
    for (uint32_t i = 0; i < t->r->nlayer && s >= 0; i++) {
        tw_layer_state *l = &t->r->layer[i];
        if (t->layer[i].left)
            s = tw_broadcast(t->r->comm, NULL, l->left[1 - l->left_now], t->layer[i].left, TW_F32, t->root);
    }
    return s;
}

/* ---- a layer's new ledger ---- */

static double tile_sq(const float *x, uint32_t n) {
    double sq = 0;
    for (uint32_t i = 0; i < n; i++)
        sq += (double)x[i] * (double)x[i];
    return sq;
}

static void finish_layer(tw_restore *t, uint32_t i) {
    const tw_reducer *r = t->r;
    tw_layer_state *l = &t->r->layer[i];
    tw_restored *w = &t->layer[i];
    tw_plan_in plan = {.size = r->comm->size, .tile = r->cfg.tile};
    tw_plan_layer owned = {
        .name = l->name, .count = l->count, .tiles = l->tiles, .pinned = l->pinned, .shard = l->shard};
    uint64_t first, n = tw_owned_tiles(&plan, &owned, r->comm->rank, &first);
    double terms = t->head.size + (unsigned)r->comm->size + 2.0;
    w->joint += sqrt(w->acc_sq) * (1 + 0x1p-20) + terms * 0x1p-24 * w->mass * (1 + 0x1p-10) +
                (w->mass > 0 ? terms * sqrt((double)l->count) * 0x1p-149 : 0);
    w->flags = (w->flags & ~(uint32_t)TW_STATE_HELD) | (w->mass > 0 ? TW_STATE_HELD : 0u);
    w->bound_sq = 0;
    for (uint64_t tile = 0; tile < l->tiles; tile++) {
        uint32_t len = tw_tile_len(l->count, r->cfg.tile, tile);
        float *x = l->slot[0] ? slot_of(l) + tile * r->cfg.tile : NULL, b = x ? tw_norm_up(tile_sq(x, len)) : 0.0f;
        l->cert[1 - l->cert_now][tile] = (tw_cert){.bound = b};
        w->bound_sq += (double)b * (double)b;
        if (x && (tile < first || tile >= first + n))
            memset(x, 0, len * sizeof *x);
    }
}

tw_status tw_restore_fold(tw_restore *t) {
    tw_status s = share_layers(t);
    if (s >= 0)
        s = sum_arrays(t, slot_of);
    if (s >= 0)
        s = sum_arrays(t, momentum_of);
    if (s >= 0)
        s = share_factors(t);
    for (uint32_t i = 0; i < t->r->nlayer && s >= 0; i++)
        finish_layer(t, i);
    return s;
}
