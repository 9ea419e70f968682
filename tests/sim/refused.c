/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Calls that must be refused: TW_ERR_ARG, a sentence that names the layer, and everything as before the call. That last
 * part the checks after the step see, since the step goes on with the right call. */
#include "trial.h"
#include <string.h>

typedef struct spoilt { /* an op with something wrong in it */
    tw_piece piece[MOST_PIECES + 1];
    uint32_t n, layer;
    const char *word; /* that the sentence must contain; NULL: nothing here can be spoilt in that way */
} spoilt;

static tw_piece *any_piece(trial *t, spoilt *s) {
    tw_piece *p = &s->piece[rng_below(&t->rng, s->n)];
    s->layer = p->layer;
    return p;
}

static void again(trial *t, spoilt *s, int r) {
    uint32_t from = (uint32_t)rng_below(&t->rng, t->step.nop), l = (uint32_t)rng_below(&t->rng, t->nlayer);
    const op_plan *op = NULL;
    for (uint32_t i = 0; i < t->step.nop * t->nlayer && !op; i++) {
        uint32_t k = (from + i) % t->step.nop;
        l = (l + (i > 0 && i % t->step.nop == 0)) % t->nlayer;
        op = t->result[r].posted[k] && t->step.op[k].tiles[l] > 0 ? &t->step.op[k] : NULL;
    }
    if (!op)
        return;
    uint64_t first = (op->first_tile[l] + rng_below(&t->rng, op->tiles[l])) * t->rc.tile;
    uint64_t left = t->layer[l].count - first;
    s->piece[s->n++] = (tw_piece)TW_PIECE(l, first, left < t->rc.tile ? left : t->rc.tile, NULL, NULL);
    s->layer = l;
    s->word = "was posted already";
}

static void twice(trial *t, spoilt *s) {
    const tw_piece *p = any_piece(t, s);
    s->piece[s->n] = *p;
    s->piece[s->n].out = NULL;
    if (p->in) /* memory of its own: the values are what is wrong */
        s->piece[s->n].in = t->shadow + ((const uint8_t *)p->in - t->memory);
    s->word = p->count ? "pieces overlap" : NULL;
    s->n += p->count > 0;
}

static void one_less(trial *t, spoilt *s, uint32_t op) {
    tw_piece *p = any_piece(t, s);
    uint32_t l = p->layer;
    uint64_t end = (t->step.op[op].first_tile[l] + t->step.op[op].tiles[l]) * t->rc.tile, last = p->first + p->count;
    end = end < t->layer[l].count ? end : t->layer[l].count;
    if (p->count == 0 || (last == end && (last - 1) % t->rc.tile == 0))
        return; /* whole tiles are left: that is allowed */
    p->count--;
    s->word = "layer"; /* a gap, or a border between tiles */
}

static void half_absent(trial *t, spoilt *s) {
    tw_piece *p = any_piece(t, s);
    if (!p->in || p->count == 0)
        return;
    for (uint32_t k = 0; k < s->n; k++)
        if (&s->piece[k] != p && s->piece[k].layer == p->layer && s->piece[k].count)
            s->word = "some pieces have an input and some have none";
    p->in = s->word ? NULL : p->in;
}

static void same_output(trial *t, spoilt *s) {
    tw_piece *p = any_piece(t, s), *q = any_piece(t, s);
    if (p == q || !p->out || !q->out || !p->count || !q->count)
        return;
    q->out = p->out;
    q->in = NULL;
    s->word = "overlap";
}

static void outside(trial *t, spoilt *s) {
    tw_piece *p = any_piece(t, s);
    p->first = t->layer[p->layer].count;
    p->count++;
    s->word = "is outside layer";
}

static void expect(trial *t, int r, tw_status s, const char *word, uint32_t l, refusal_kind kind) {
    const char *why = s < 0 ? tw_last_error() : "";
    if (s != TW_ERR_ARG || !strstr(why, word) || !strstr(why, t->layer[l].name))
        trial_fail(t, "rank %d, layer '%s': '%s' was due, but the call says %s '%s'", r, t->layer[l].name, word,
                   tw_status_name(s), why);
    tally_refusal(kind);
}

void refused_post(trial *t, int r, uint32_t op, const tw_piece *piece, uint32_t n) {
    spoilt s = {.n = n};
    refusal_kind kind = rng_chance(&t->rng, 30) ? REFUSAL_AGAIN : (refusal_kind)rng_below(&t->rng, REFUSAL_PUSH);
    if (t->kind != KIND_CLEAN || !rng_chance(&t->rng, 15) || (n == 0 && kind != REFUSAL_AGAIN))
        return;
    memcpy(s.piece, piece, n * sizeof *piece);
    if (kind == REFUSAL_AGAIN)
        again(t, &s, r);
    else if (kind == REFUSAL_TWICE)
        twice(t, &s);
    else if (kind == REFUSAL_ONE_LESS)
        one_less(t, &s, op);
    else if (kind == REFUSAL_HALF_ABSENT)
        half_absent(t, &s);
    else if (kind == REFUSAL_SAME_OUTPUT)
        same_output(t, &s);
    else
        outside(t, &s);
    if (s.word)
        expect(t, r, tw_reducer_post(t->red[r], s.piece, s.n, NULL), s.word, s.layer, kind);
}

void refused_push(trial *t, int r, uint32_t l) {
    if (t->kind == KIND_CLEAN && rng_chance(&t->rng, 8))
        expect(t, r, tw_reducer_push(t->red[r], l, NULL, NULL), "was pushed already", l, REFUSAL_PUSH);
}
