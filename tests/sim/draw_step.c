/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One step of a trial: how the layers are cut into ops and pieces, who has what, the values, the user's memory. */
#include "trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CANARY = 24 };

/* ---- ops ---- */

static void add_piece(op_plan *op, uint32_t l, uint64_t first, uint64_t count) {
    if (op->npiece < MOST_PIECES)
        op->piece[op->npiece++] = (tw_piece)TW_PIECE(l, first, count, NULL, NULL);
}

/* [first, first + count) of a layer as 1 to 5 pieces, cut anywhere. */
static void cut_into_pieces(trial *t, op_plan *op, uint32_t l, uint64_t first, uint64_t count) {
    uint64_t left = rng_chance(&t->rng, 50) ? rng_range(&t->rng, 1, 5) : 1;
    while (count > 0 && left > 1 && op->npiece + 8 < MOST_PIECES) {
        uint64_t n = rng_below(&t->rng, count + 1); /* sometimes nothing */
        add_piece(op, l, first, n);
        first += n;
        count -= n;
        left--;
    }
    add_piece(op, l, first, count);
}

static void take_tiles(trial *t, op_plan *op, uint32_t l, uint64_t tile, uint64_t tiles) {
    uint64_t first = tile * t->rc.tile, end = (tile + tiles) * t->rc.tile;
    end = end > t->layer[l].count ? t->layer[l].count : end;
    op->first_tile[l] = tile;
    op->tiles[l] = tiles;
    if (t->post)
        cut_into_pieces(t, op, l, first, end - first);
    else
        add_piece(op, l, first, end - first);
}

static void shuffle_pieces(trial *t, op_plan *op) {
    for (uint32_t i = op->npiece; i > 1; i--) {
        uint32_t k = (uint32_t)rng_below(&t->rng, i);
        tw_piece x = op->piece[i - 1];
        op->piece[i - 1] = op->piece[k];
        op->piece[k] = x;
    }
}

/* A layer goes whole into one op, or cut at tile borders into several. */
static void spread_layer(trial *t, step_plan *s, uint32_t l) {
    uint64_t tiles = t->layer[l].tiles, at = 0;
    uint32_t first = (uint32_t)rng_below(&t->rng, s->nop), parts = s->nop;
    if (tiles < parts || rng_chance(&t->rng, 50))
        parts = 1;
    for (uint32_t i = 0; i < parts; i++) {
        uint64_t n = i + 1 == parts ? tiles - at : 1 + rng_below(&t->rng, tiles - at - (parts - i - 1));
        take_tiles(t, &s->op[(first + i) % s->nop], l, at, n);
        at += n;
    }
    s->covered[l] = true;
}

static void draw_posts(trial *t, step_plan *s) {
    s->nop = (uint32_t)rng_range(&t->rng, 1, 4);
    for (uint32_t l = 0; l < t->nlayer; l++)
        if (rng_chance(&t->rng, 88))
            spread_layer(t, s, l);
    for (uint32_t i = 0; i < s->nop; i++)
        if (rng_chance(&t->rng, 70))
            shuffle_pieces(t, &s->op[i]);
}

/* What push does: buckets in reverse order of creation, up to bucket_bytes each. */
static void draw_pushes(trial *t, step_plan *s) {
    uint64_t bytes = 0, most = t->rc.bucket_bytes ? t->rc.bucket_bytes : 4u << 20;
    for (uint32_t l = t->nlayer; l-- > 0;) {
        uint64_t size = t->layer[l].count * tw_dtype_size(t->layer[l].dtype);
        if (s->nop == 0 || bytes + size > most) {
            s->nop++;
            bytes = 0;
        }
        bytes += size;
        take_tiles(t, &s->op[s->nop - 1], l, 0, t->layer[l].tiles);
        s->covered[l] = true;
    }
}

/* Leaves the last op out: a layer of which it held a part is then posted in part. */
static void maybe_incomplete(trial *t, step_plan *s) {
    if (!t->post || t->kind != KIND_CLEAN || s->nop < 2 || !rng_chance(&t->rng, 6))
        return;
    const op_plan *last = &s->op[--s->nop];
    for (uint32_t l = 0; l < t->nlayer; l++) {
        if (last->tiles[l] == 0)
            continue;
        if (last->tiles[l] == t->layer[l].tiles)
            s->covered[l] = false;
        else
            s->incomplete = true;
    }
    s->op[s->nop] = (op_plan){0};
}

/* ---- absence, values ---- */

static void draw_absence(trial *t, step_plan *s, uint32_t l) {
    uint64_t x = rng_below(&t->rng, 100);
    bool away[MOST_RANKS] = {false}, vary = rng_chance(&t->rng, 10);
    for (int r = 0; r < t->ranks; r++)
        away[r] = x < 10 || (x < 28 && rng_chance(&t->rng, 40));
    for (uint32_t i = 0; i < s->nop; i++)
        for (int r = 0; r < t->ranks; r++)
            s->op[i].absent[l][r] = vary && t->post && x < 28 ? rng_chance(&t->rng, 40) : away[r];
}

static void draw_hard(trial *t, step_plan *s) {
    const layer *l = &t->layer[0];
    for (uint64_t i = 0; i < l->count * (unsigned)t->ranks; i++)
        s->g[0][i] = trial_adversary(&t->rng, s->index, l->dtype, i % l->count);
    for (int r = 0; r < t->ranks; r++)
        s->scale[r] = 1.0f;
}

static void draw_values(trial *t, step_plan *s) {
    for (uint32_t l = 0; l < t->nlayer; l++)
        for (uint64_t i = 0; i < t->layer[l].count * (unsigned)t->ranks; i++)
            s->g[l][i] = trial_value(t, &t->layer[l], i % t->layer[l].count);
    if (!rng_chance(&t->rng, t->kind == KIND_CLEAN ? 22 : 4))
        return;
    for (uint64_t n = rng_range(&t->rng, 1, 3); n > 0; n--) {
        uint32_t l = (uint32_t)rng_below(&t->rng, t->nlayer);
        uint64_t i = rng_below(&t->rng, t->layer[l].count * (unsigned)t->ranks), kind = rng_below(&t->rng, 3);
        if (t->layer[l].count == 0)
            continue;
        s->g[l][i] = kind == 0 ? NAN : kind == 1 ? INFINITY : -INFINITY;
        s->nan++;
    }
}

static void draw_scale(trial *t, step_plan *s) {
    bool own = rng_chance(&t->rng, 8), given = rng_chance(&t->rng, 40);
    float all = given ? ldexpf(1.0f, (int)rng_range(&t->rng, 0, 14) - 10) : 1.0f;
    for (int r = 0; r < t->ranks; r++)
        s->scale[r] = own ? ldexpf(1.0f, (int)rng_range(&t->rng, 0, 6) - 4) : all;
}

/* AUTO and NATIVE: which ops are summed by the transport. */
static void choose_native(trial *t, step_plan *s) {
    for (uint32_t i = 0; i < s->nop; i++) {
        op_plan *op = &s->op[i];
        op->linear = model_sums_payloads(t, s, op);
        op->gather = t->ranks > 1 && t->rc.algo == TW_ALGO_GATHER;
        op->native =
            t->ranks > 1 && t->rc.algo != TW_ALGO_SRA && !op->gather && t->rc.nonfinite == TW_NONFINITE_PROPAGATE;
        for (uint32_t k = 0; k < op->npiece; k++) {
            uint32_t l = op->piece[k].layer;
            if (t->layer[l].dtype != TW_F32 || s->spec[l].codec != TW_CODEC_NONE ||
                s->spec[l].feedback != TW_FEEDBACK_NONE || t->m.used[l])
                op->native = false;
        }
    }
}

/* ---- the user's memory ---- */

static size_t place(trial *t, size_t bytes) {
    size_t gap = CANARY + (rng_chance(&t->rng, 30) ? rng_below(&t->rng, 8) : (64 - t->memory_bytes % 64) % 64);
    size_t at = t->memory_bytes + gap;
    t->memory_bytes = at + bytes + CANARY;
    return at;
}

static void draw_part(trial *t, const op_plan *op, uint32_t k, int r, part *p) {
    uint32_t l = op->piece[k].layer;
    p->bytes = op->piece[k].count * tw_dtype_size(t->layer[l].dtype);
    p->has_in = !op->absent[l][r];
    p->has_out = rng_chance(&t->rng, 88);
    if (p->has_in)
        p->in = place(t, p->bytes);
    if (p->has_out)
        p->out = p->has_in && rng_chance(&t->rng, 40) ? p->in : place(t, p->bytes);
}

static void write_input(trial *t, const op_plan *op, uint32_t k, int r, const part *p) {
    const tw_piece *q = &op->piece[k];
    const layer *l = &t->layer[q->layer];
    const float *g = t->step.g[q->layer] + (uint64_t)r * l->count + q->first;
    for (uint64_t i = 0; i < q->count; i++) {
        uint16_t h = l->dtype == TW_F32 ? 0 : model_half_bits(g[i], l->dtype);
        if (l->dtype == TW_F32)
            memcpy(t->memory + p->in + 4 * i, &g[i], 4);
        else
            memcpy(t->memory + p->in + 2 * i, &h, 2);
    }
}

static bool draw_memory(trial *t, step_plan *s) {
    t->memory_bytes = 0;
    for (uint32_t i = 0; i < s->nop; i++)
        for (uint32_t k = 0; k < s->op[i].npiece; k++) {
            s->op[i].part[k] = calloc((unsigned)t->ranks, sizeof(part));
            if (!s->op[i].part[k])
                return false;
            for (int r = 0; r < t->ranks; r++)
                draw_part(t, &s->op[i], k, r, &s->op[i].part[k][r]);
        }
    t->memory = malloc(t->memory_bytes + 1);
    t->shadow = malloc(t->memory_bytes + 1);
    if (!t->memory || !t->shadow)
        return false;
    for (size_t i = 0; i < t->memory_bytes; i++)
        t->memory[i] = (uint8_t)(0xa5 ^ i * 13);
    for (uint32_t i = 0; i < s->nop; i++)
        for (uint32_t k = 0; k < s->op[i].npiece; k++)
            for (int r = 0; r < t->ranks; r++)
                if (s->op[i].part[k][r].has_in)
                    write_input(t, &s->op[i], k, r, &s->op[i].part[k][r]);
    memcpy(t->shadow, t->memory, t->memory_bytes);
    return true;
}

/* ---- all ---- */

static tw_spec spec_at(const layer *l, uint64_t step) {
    uint32_t i = 0;
    while (i + 1 < l->nphase && step >= l->phase[i].until)
        i++;
    return l->phase[i].spec;
}

bool trial_draw_step(trial *t, uint32_t index) {
    step_plan *s = &t->step;
    memset(s, 0, sizeof *s);
    s->index = index;
    s->number = t->next_number;
    s->first_to_end = (int)rng_below(&t->rng, (unsigned)t->ranks);
    t->next_number += rng_range(&t->rng, 1, 3) + (t->kind == KIND_ODD_STEP); /* a rank may be one ahead */
    for (uint32_t l = 0; l < t->nlayer; l++) {
        s->g[l] = malloc((t->layer[l].count * (unsigned)t->ranks + 1) * sizeof(float));
        if (!s->g[l])
            return false;
        s->spec[l] = spec_at(&t->layer[l], s->number);
        s->dgc[l] = s->spec[l].feedback == TW_FEEDBACK_DGC ? (float)((double)s->spec[l].rate / 1e9) : 0.0f;
        if (t->ranks == 1) /* nothing crosses a wire: nothing is compressed */
            s->spec[l] = (tw_spec)TW_SPEC_INIT;
    }
    if (t->post)
        draw_posts(t, s);
    else
        draw_pushes(t, s);
    if (t->hard) {
        choose_native(t, s);
        draw_hard(t, s);
        return draw_memory(t, s);
    }
    s->discard = t->kind == KIND_CLEAN && rng_chance(&t->rng, 12);
    maybe_incomplete(t, s);
    for (uint32_t l = 0; l < t->nlayer; l++)
        draw_absence(t, s, l);
    choose_native(t, s);
    draw_scale(t, s);
    draw_values(t, s);
    return draw_memory(t, s);
}

void trial_free_step(trial *t) {
    for (uint32_t l = 0; l < t->nlayer; l++)
        free(t->step.g[l]);
    for (uint32_t i = 0; i < t->step.nop; i++)
        for (uint32_t k = 0; k < t->step.op[i].npiece; k++)
            free(t->step.op[i].part[k]);
    free(t->memory);
    free(t->shadow);
    t->memory = t->shadow = NULL;
    memset(&t->step, 0, sizeof t->step);
}
