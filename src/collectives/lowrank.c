/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Layers as two factors (powersgd), by native sums. A round: every rank's M'L is summed and made orthonormal, R; every
 * rank's M R is summed: L of the next round, or the result's. Layers that go as values ride in the first sum, notes in the
 * last one; all layers of the op share each sum. */
#include "collectives/plan.h"

#define UNIT_VALUES \
    (1u << 17) /* half a megabyte of fp32, and as much of residuals: the wire is looked after in between */

static uint64_t unit_rows(const tw_builder *b, uint64_t cols) {
    uint64_t values = b->in->frame_bytes ? b->in->frame_bytes / sizeof(float) : UNIT_VALUES;
    return cols < values ? values / cols : 1;
}

static int32_t first_owner(const tw_plan_in *in, const tw_plan_layer *l) {
    uint64_t hash = tw_hash64(l->name, strlen(l->name), 0);
    return l->pinned ? (int32_t)l->pinned - 1 : tw_owner_of(hash, 0, tw_layer_tiles(l->count, in->tile), in->size);
}

/* Longest first: those of a round are the first ones, so what its sums run over lies together. */
static void order_matrices(tw_builder *b, uint32_t most) {
    tw_plan *p = b->p;
    for (uint32_t rounds = most; rounds > 0; rounds--)
        for (uint32_t i = 0; i < b->in->nlayer; i++) {
            const tw_plan_layer *l = &b->in->layer[i];
            if (!tw_is_matrix(l) || l->spec.iterations != rounds)
                continue;
            tw_plan_matrix *m = &p->matrix[p->nmatrix++];
            uint64_t first, n = tw_owned_tiles(b->in, l, p->me, &first), each = unit_rows(b, l->cols);
            *m = (tw_plan_matrix){.layer = i,
                                  .rank = l->spec.rank,
                                  .owner = first_owner(b->in, l),
                                  .first_round = most - rounds,
                                  .rows = l->count / l->cols,
                                  .cols = l->cols,
                                  .own_first = first * p->tile,
                                  .own_n = tw_tiles_values(l->count, p->tile, first, n)};
            m->unit = p->nunit;
            m->nunit = (uint32_t)tw_ceil_div(m->rows, each);
            p->nunit += m->nunit;
        }
}

static void cut_rows(tw_builder *b) {
    tw_plan *p = b->p;
    for (uint32_t k = 0; k < p->nmatrix; k++) {
        const tw_plan_matrix *m = &p->matrix[k];
        uint64_t each = unit_rows(b, m->cols);
        for (uint32_t u = 0; u < m->nunit; u++) {
            uint64_t first = u * each, n = m->rows - first < each ? m->rows - first : each;
            p->unit[m->unit + u] = (tw_plan_unit){k, first, n};
            p->unit_values = n * m->cols > p->unit_values ? n * m->cols : p->unit_values;
        }
    }
}

/* Returns the number of rounds. */
static uint32_t build_matrices(tw_builder *b) {
    tw_plan *p = b->p;
    uint32_t n = 0, most = 0;
    uint64_t units = 0;
    for (uint32_t i = 0; i < b->in->nlayer; i++) {
        const tw_plan_layer *l = &b->in->layer[i];
        if (!tw_is_matrix(l))
            continue;
        n++;
        most = l->spec.iterations > most ? l->spec.iterations : most;
        units += tw_ceil_div(l->count / l->cols, unit_rows(b, l->cols));
    }
    if (units > TW_MOST_FRAMES)
        b->status = tw_fail(TW_ERR_ARG, "the op of layer '%s' makes over 2^24 units of rows: raise frame_bytes",
                            b->in->layer[0].name);
    if (b->status < 0)
        return most;
    p->matrix = tw_alloc(b->ctx, n * sizeof *p->matrix);
    p->unit = tw_alloc(b->ctx, units * sizeof *p->unit);
    if (!p->matrix || !p->unit) {
        b->status = TW_ERR_NOMEM;
        return most;
    }
    order_matrices(b, most);
    cut_rows(b);
    return most;
}

/* The frames of the other layers: as if the op held none of a matrix. */
static void build_flat(tw_builder *b) {
    const tw_plan_in *in = b->in;
    tw_plan_in flat = *in;
    tw_plan_layer *layer = tw_alloc(b->ctx, in->nlayer * sizeof *layer);
    if (!layer) {
        b->status = TW_ERR_NOMEM;
        return;
    }
    for (uint32_t i = 0; i < in->nlayer; i++) {
        layer[i] = in->layer[i];
        layer[i].dtype = TW_F32; /* halves, too, are summed as fp32 */
        if (tw_is_matrix(&layer[i])) {
            layer[i].spec = (tw_spec)TW_SPEC_INIT;
            layer[i].tiles = 0;
        }
    }
    flat.layer = layer;
    b->in = &flat;
    tw_build_units(b);
    b->in = in;
    tw_free(b->ctx, layer);
}

/* Values, right factors; left factors, notes. */
static void place(tw_builder *b) {
    tw_plan *p = b->p;
    uint64_t right = tw_round_up(p->arena_bytes, 64), at = tw_build_payloads(b, right), values = at;
    for (uint32_t k = 0; k < p->nmatrix; k++) {
        p->matrix[k].right_at = at;
        at += p->matrix[k].rank * p->matrix[k].cols * sizeof(float);
    }
    uint64_t left = at = tw_round_up(at, 64);
    for (uint32_t k = 0; k < p->nmatrix; k++) {
        p->matrix[k].left_at = at;
        at += p->matrix[k].rank * p->matrix[k].rows * sizeof(float);
    }
    p->notes_at = at;
    p->arena_bytes = at + (uint64_t)b->in->nlayer * tw_notes_of(p->size) * sizeof(float);
    for (uint32_t i = 0; i < p->nsum; i++) {
        uint64_t end[2] = {values, left};
        for (uint32_t k = 0; k < p->nmatrix && p->matrix[k].first_round <= i / 2; k++) {
            const tw_plan_matrix *m = &p->matrix[k];
            end[0] = m->right_at + m->rank * m->cols * sizeof(float);
            end[1] = m->left_at + m->rank * m->rows * sizeof(float);
        }
        p->sum[i].at = i % 2 ? left : i ? values : right;
        p->sum[i].values = ((i + 1 == p->nsum ? p->arena_bytes : end[i % 2]) - p->sum[i].at) / sizeof(float);
        p->native_bytes += p->sum[i].values * sizeof(float);
    }
}

static uint32_t compute(tw_builder *b, tw_kernel k, uint32_t what, uint32_t round) {
    return tw_build_action(
        b, (tw_action){.act = TW_A_COMPUTE, .kernel = (uint8_t)k, .hop = (uint8_t)round, .frame = what, .peer = -1});
}

static uint32_t sum_of(tw_builder *b, uint32_t i) {
    return tw_build_action(b, (tw_action){.act = TW_A_NATIVE, .frame = TW_PAYLOADS, .hop = (uint8_t)i, .peer = -1});
}

static void build_matrix(tw_builder *b, uint32_t k, uint32_t round, uint32_t before, uint32_t right, uint32_t left) {
    const tw_plan_matrix *m = &b->p->matrix[k];
    uint32_t last = compute(b, TW_K_START, k, round), ortho;
    if (round > m->first_round)
        tw_build_after(b, last, before);
    for (uint32_t u = 0; u < m->nunit; u++) { /* rows are added up in order */
        uint32_t next = compute(b, TW_K_RIGHT, m->unit + u, round);
        tw_build_after(b, next, last);
        last = next;
    }
    tw_build_after(b, right, last);
    ortho = compute(b, TW_K_ORTHO, k, round);
    tw_build_after(b, ortho, right);
    for (uint32_t u = 0; u < m->nunit; u++) {
        uint32_t next = compute(b, TW_K_LEFT, m->unit + u, round);
        tw_build_after(b, next, ortho);
        tw_build_after(b, left, next);
    }
}

/* Behind `before`: the agreement, or the last sum of the round before; returns the last sum of this one. */
static uint32_t build_round(tw_builder *b, uint32_t round, uint32_t before) {
    uint32_t right = sum_of(b, 2 * round), left = sum_of(b, 2 * round + 1);
    tw_build_after(b, right, before);
    tw_build_after(b, left, right);
    for (uint32_t f = 0; f < b->p->nframe && round == 0; f++)
        tw_build_after(b, right, compute(b, TW_K_ENCODE, f, 0));
    for (uint32_t k = 0; k < b->p->nmatrix && b->status >= 0; k++)
        if (b->p->matrix[k].first_round <= round)
            build_matrix(b, k, round, before, right, left);
    return left;
}

void tw_build_lowrank(tw_builder *b) {
    build_flat(b);
    uint32_t rounds = build_matrices(b), last = tw_build_agreement(b);
    tw_build_sums(b, 2 * rounds);
    if (b->status < 0)
        return;
    place(b);
    for (uint32_t i = 0; i < rounds && b->status >= 0; i++)
        last = build_round(b, i, last);
    uint32_t verdict = compute(b, TW_K_VERDICT, 0, 0);
    tw_build_after(b, verdict, last);
    for (uint32_t i = 0; i < b->p->nframe + b->p->nunit && b->status >= 0; i++)
        tw_build_after(b, compute(b, TW_K_DECODE, i, 0), verdict);
}
