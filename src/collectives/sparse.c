/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sparse layers in a plan. Which values are kept is known once a rank has seen all that it sends of a layer (SELECT), and
 * at the owner once all its tiles of it are summed; so the owner's REDUCE becomes two actions: sums of a frame, which frees
 * the slots that it came in and sets aside what may be kept, and behind the layer's selection the frame's ANSWER. PUBLISH likewise, a sum of one; sums that
 * stay at home are selected from by nobody. */
#include "collectives/direct.h"

/* Values that a selection from n sets aside: a sample, or those above a bound that leaves some more than are kept. Where it
 * is full, what is not among the k largest goes; so that this is seldom, there is room for half as many more. */
static uint64_t aside_room(const tw_spec *s, uint64_t n, uint32_t tile) {
    bool exact = s->select == TW_SELECT_EXACT;
    uint64_t k = tw_sparse_wanted(s, n), sample = exact ? 3u << 16 : 1u << 18;
    uint64_t room = (n < sample ? n : sample) + TW_LOOK_SLACK, more = k + k / 2 + 4 * (uint64_t)tile;
    more = (n < more ? n : more) + tile + TW_LOOK_SLACK;
    return exact && more > room ? more : room;
}

/* Of sums the owner's own part and residual alone say what to set aside, before the others' parts are here: more than of
 * a sample, by those places where they are. A broadcast's frames come relay by relay, not in the order of tiles. */
static uint64_t sums_room(const tw_plan *p, const tw_plan_in *in, const tw_plan_layer *l, uint64_t n) {
    uint64_t more = 3 * tw_sparse_wanted(&l->spec, n) + 4 * (uint64_t)p->tile;
    if (l->spec.select != TW_SELECT_EXACT || n == 0 || p->gather ||
        (in->kind != TW_KIND_ALLREDUCE && in->kind != TW_KIND_ALLGATHER))
        return 0;
    return (n < more ? n : more) + p->tile + TW_LOOK_SLACK;
}

static void make_lists(tw_plan *p, const tw_plan_in *in, tw_plan_part *part, const tw_plan_layer *l) {
    uint64_t own = tw_tiles_values(l->count, p->tile, part->first, part->tiles);
    uint64_t all = tw_tiles_values(l->count, p->tile, l->first, l->tiles), from[2] = {p->gather ? all : all - own, own};
    part->tiles_at = p->part_tiles;
    p->part_tiles += l->tiles;
    for (int hop = 0; hop < 2; hop++) {
        uint64_t room = aside_room(&l->spec, from[hop], p->tile);
        part->keeps[hop] = l->spec.select == TW_SELECT_EXACT ? tw_sparse_wanted(&l->spec, from[hop]) : 0;
        part->kept_at[hop] = p->kept_room;
        p->kept_room += part->keeps[hop] + 1; /* what is not kept is written behind it, too */
        p->aside_room = room > p->aside_room ? room : p->aside_room;
    }
    part->sums_at = p->sums_room;
    part->sums_room = sums_room(p, in, l, own);
    p->sums_room += part->sums_room;
}

static void make_part(tw_builder *b, uint32_t layer) {
    const tw_plan_layer *l = &b->in->layer[layer];
    tw_plan *p = b->p;
    tw_plan_part *part = &p->part[layer];
    part->tiles = tw_answered_tiles(b->in, l, &part->first);
    part->base = l->first;
    part->all = l->tiles;
    part->flags_at = p->flag_words;
    p->flag_words += tw_ceil_div(l->tiles, 32);
    make_lists(p, b->in, part, l);
    if ((l->spec.feedback == TW_FEEDBACK_NONE && !p->gather) || b->in->kind == TW_KIND_REDUCE_SCATTER) {
        part->home_at = p->arena_bytes;
        p->arena_bytes += tw_round_up(tw_tiles_values(l->count, p->tile, part->first, part->tiles) * sizeof(float), 64);
    }
}

void tw_build_parts(tw_builder *b, const uint32_t *first) {
    tw_plan *p = b->p;
    bool any = false;
    for (uint32_t i = 0; i < b->in->nlayer; i++)
        any = any || tw_codec_is_sparse(&b->in->layer[i].spec);
    if (!any || b->status < 0)
        return;
    p->part = tw_alloc(b->ctx, b->in->nlayer * sizeof *p->part);
    if (!p->part) {
        b->status = TW_ERR_NOMEM;
        return;
    }
    bool root = b->in->kind == TW_KIND_BROADCAST && p->me == b->in->root;
    uint32_t own = root ? 0 : first[p->me];
    p->own_run = own < p->nframe ? p->frame[own].run0 : p->nrun;
    for (uint32_t i = 0; i < b->in->nlayer; i++)
        if (tw_codec_is_sparse(&b->in->layer[i].spec))
            make_part(b, i);
}

static uint32_t select_one(tw_direct *s, uint32_t layer, uint32_t hop) {
    return tw_build_action(
        s->b, (tw_action){.act = TW_A_COMPUTE, .kernel = TW_K_SELECT, .hop = (uint8_t)hop, .frame = layer, .peer = -1});
}

/* A group needs to know of no other values; and of some layers this rank sends nothing in a hop. */
static bool selects_as_a_whole(const tw_plan *p, const tw_plan_in *in, uint32_t layer, uint32_t hop) {
    const tw_plan_layer *l = &in->layer[layer];
    if (!tw_codec_is_sparse(&l->spec) || l->spec.select == TW_SELECT_GROUP)
        return false;
    return hop == 1 ? p->gather || p->part[layer].tiles < p->part[layer].all : p->part[layer].tiles > 0;
}

void tw_direct_select_all(tw_direct *s, uint32_t hop) {
    for (uint32_t i = 0; i < s->b->in->nlayer && s->b->status >= 0; i++)
        s->select[i] = selects_as_a_whole(s->b->p, s->b->in, i, hop) ? select_one(s, i, hop) : 0;
}

void tw_direct_after_selects(tw_direct *s, uint32_t action, uint32_t frame) {
    const tw_frame *f = &s->b->p->frame[frame];
    for (uint32_t i = f->run0; f->sparse && i < f->run0 + f->nrun; i++)
        if (s->select[s->b->p->run[i].layer])
            tw_build_after(s->b, action, s->select[s->b->p->run[i].layer]);
}

/* Sums are set aside in the order of tiles: that of frames, but for the root of a broadcast. */
static void sum_in_order(tw_direct *s) {
    tw_builder *b = s->b;
    for (uint32_t f = s->mine[0] + 1; f < s->mine[1] && b->in->kind != TW_KIND_BROADCAST && b->status >= 0; f++)
        if (b->p->frame[f - 1].sparse)
            tw_build_after(b, s->act[f], s->act[f - 1]);
}

void tw_direct_answers(tw_direct *s) {
    tw_builder *b = s->b;
    if (!b->p->part)
        return;
    sum_in_order(s);
    tw_direct_select_all(s, 2);
    for (uint32_t f = s->mine[0]; f < s->mine[1] && b->status >= 0; f++) {
        const tw_frame *x = &b->p->frame[f];
        if (!x->sparse)
            continue;
        for (uint32_t i = x->run0; i < x->run0 + x->nrun; i++)
            if (s->select[b->p->run[i].layer])
                tw_build_after(b, s->select[b->p->run[i].layer], s->act[f]);
        uint32_t answer = tw_direct_compute(s, TW_K_ANSWER, f);
        tw_build_after(b, answer, s->act[f]);
        tw_direct_after_selects(s, answer, f);
        tw_build_after(b, s->verdict, answer);
        if (b->in->no_overlap)
            tw_build_after(b, s->made, answer);
        s->act[f] = answer;
    }
}
