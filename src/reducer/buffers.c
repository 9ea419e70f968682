/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Buffers of one step against each other. The sets tell in logarithmic time that nothing meets, which is the rule; what
 * meets what, for the sentence, is then searched for one by one. */
#include "reducer/reducer.h"

static bool clash(const tw_ranges *reads, const tw_ranges *writes, const void *in, const void *out, uint64_t bytes) {
    uint64_t i = (uintptr_t)in, o = (uintptr_t)out;
    return (out && (tw_ranges_meet(writes, o, bytes) || tw_ranges_meet(reads, o, bytes))) ||
           (in && tw_ranges_meet(writes, i, bytes));
}

static void note(tw_ranges *reads, tw_ranges *writes, const void *in, const void *out, uint64_t bytes) {
    if (in)
        tw_ranges_add(reads, (uintptr_t)in, bytes);
    if (out)
        tw_ranges_add(writes, (uintptr_t)out, bytes);
}

static bool meet(const void *a, uint64_t n, const void *b, uint64_t m) {
    return a && b && n && m && (uintptr_t)a < (uintptr_t)b + m && (uintptr_t)b < (uintptr_t)a + n;
}

static uint64_t bytes_of(const tw_reducer *r, uint32_t layer, uint64_t count) {
    return count * tw_dtype_size(r->layer[layer].dtype);
}

void tw_buffers_begin(tw_reducer *r) {
    r->reads.n = r->writes.n = r->values.n = r->settled = 0;
}

/* ---- push ---- */

tw_status tw_buffers_check_push(const tw_reducer *r, uint32_t layer, const void *in, const void *out) {
    const tw_layer_state *l = &r->layer[layer];
    uint64_t n = bytes_of(r, layer, l->count);
    if (in != out && meet(in, n, out, n))
        return tw_fail(TW_ERR_ARG, "layer '%s': in and out overlap without being equal", l->name);
    if (!clash(&r->reads, &r->writes, in, out, n))
        return TW_OK;
    for (uint32_t i = 0; i < r->nlayer; i++) {
        const tw_layer_state *k = &r->layer[i];
        uint64_t m = k->pushed ? bytes_of(r, i, k->count) : 0;
        if (meet(out, n, k->out, m) || meet(out, n, k->in, m) || meet(in, n, k->out, m))
            return tw_fail(TW_ERR_ARG, "buffers overlap: layer '%s' and layer '%s'", l->name, k->name);
    }
    return TW_OK;
}

void tw_buffers_add_push(tw_reducer *r, uint32_t layer) {
    const tw_layer_state *l = &r->layer[layer];
    note(&r->reads, &r->writes, l->in, l->out, bytes_of(r, layer, l->count));
}

/* ---- post ---- */

static tw_status make_room(tw_reducer *r, tw_ranges *s, uint64_t wanted) {
    if (wanted <= s->room)
        return TW_OK;
    uint64_t room = wanted > 2ull * s->room ? wanted : 2ull * s->room;
    tw_range *more = room <= INT32_MAX ? tw_alloc(r->ctx, tw_ranges_bytes((uint32_t)room)) : NULL;
    if (!more)
        return tw_fail(TW_ERR_NOMEM, "no memory to check %llu buffers of a step", (unsigned long long)wanted);
    memcpy(more, s->range, s->n * sizeof *more);
    tw_free(r->ctx, s->range);
    r->state_bytes += tw_held(tw_ranges_bytes((uint32_t)room)) - tw_held(tw_ranges_bytes(s->room));
    *s = (tw_ranges){more, s->n, (uint32_t)room};
    return TW_OK;
}

static tw_status make_all_room(tw_reducer *r, uint32_t n) {
    tw_ranges *const step[] = {&r->reads, &r->writes, &r->values}, *const own[] = {&r->own_reads, &r->own_writes};
    tw_status s = TW_OK;
    for (size_t i = 0; s >= 0 && i < TW_ARRAY_LEN(step); i++)
        s = make_room(r, step[i], (uint64_t)step[i]->n + n);
    for (size_t i = 0; s >= 0 && i < TW_ARRAY_LEN(own); i++)
        s = make_room(r, own[i], n);
    return s;
}

static uint64_t place_of(const tw_reducer *r, const tw_piece *p) {
    return r->layer[p->layer].place + p->first;
}

static bool clash_any(const tw_reducer *r, const tw_piece *pieces, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (clash(&r->reads, &r->writes, pieces[i].in, pieces[i].out, bytes_of(r, pieces[i].layer, pieces[i].count)))
            return true;
    return false;
}

static bool repeats_any(const tw_reducer *r, const tw_piece *pieces, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (tw_ranges_meet(&r->values, place_of(r, &pieces[i]), pieces[i].count))
            return true;
    return false;
}

/* Memory of ops that are done is free for others. Those at the front are not looked at again, so that a program that
 * sends all through one buffer pays for each op once. */
static void forget_finished(tw_reducer *r) {
    while (r->settled < r->nflying && r->flying[r->settled]->finished)
        r->settled++;
    r->reads.n = r->writes.n = 0;
    for (uint32_t f = r->settled; f < r->nflying; f++) {
        const tw_op *op = r->flying[f];
        for (uint32_t k = 0; !op->finished && k < op->x.npiece; k++) {
            const tw_exec_piece *p = &op->x.piece[k];
            note(&r->reads, &r->writes, p->in, p->out, bytes_of(r, op->layer_of[p->layer], p->count));
        }
    }
}

/* A new piece against one that this step posted before: values twice would lose a residual; memory that an op still
 * writes must not be another's. */
static tw_status check_against(const tw_reducer *r, const tw_piece *p, const tw_op *op, const tw_exec_piece *old) {
    uint32_t layer = op->layer_of[old->layer];
    const tw_layer_state *l = &r->layer[p->layer], *k = &r->layer[layer];
    uint64_t n = bytes_of(r, p->layer, p->count), m = bytes_of(r, layer, old->count);
    if (l == k && p->count && old->count && p->first < old->first + old->count && old->first < p->first + p->count)
        return tw_fail(TW_ERR_ARG, "layer '%s': value %llu was posted already in step %llu", l->name,
                       (unsigned long long)(p->first > old->first ? p->first : old->first),
                       (unsigned long long)r->step);
    if (!op->finished && (meet(p->out, n, old->out, m) || meet(p->out, n, old->in, m) || meet(p->in, n, old->out, m)))
        return tw_fail(TW_ERR_ARG, "buffers overlap: layer '%s' and layer '%s' of an op under way", l->name, k->name);
    return TW_OK;
}

static tw_status check_each(const tw_reducer *r, const tw_piece *pieces, uint32_t n) {
    tw_status s = TW_OK;
    for (uint32_t f = 0; s >= 0 && f < r->nflying; f++)
        for (uint32_t k = 0; s >= 0 && k < r->flying[f]->x.npiece; k++)
            for (uint32_t i = 0; s >= 0 && i < n; i++)
                s = check_against(r, &pieces[i], r->flying[f], &r->flying[f]->x.piece[k]);
    return s;
}

/* The pieces of one post against each other. Where not, the op's own check finds what to say. */
static bool are_apart(tw_reducer *r, const tw_piece *pieces, uint32_t n) {
    r->own_reads.n = r->own_writes.n = 0;
    for (uint32_t i = 0; i < n; i++) {
        const tw_piece *p = &pieces[i];
        uint64_t bytes = bytes_of(r, p->layer, p->count);
        if ((p->in != p->out && meet(p->in, bytes, p->out, bytes)) ||
            clash(&r->own_reads, &r->own_writes, p->in, p->out, bytes))
            return false;
        note(&r->own_reads, &r->own_writes, p->in, p->out, bytes);
    }
    return true;
}

tw_status tw_buffers_check_post(tw_reducer *r, const tw_piece *pieces, uint32_t n, bool *apart) {
    tw_status s = make_all_room(r, n);
    if (s < 0)
        return s;
    tw_comm_lock(r->comm);
    bool hit = clash_any(r, pieces, n);
    if (hit) {
        forget_finished(r);
        hit = clash_any(r, pieces, n);
    }
    if (hit || repeats_any(r, pieces, n))
        s = check_each(r, pieces, n);
    tw_comm_unlock(r->comm);
    *apart = s >= 0 && are_apart(r, pieces, n);
    return s;
}

void tw_buffers_add_post(tw_reducer *r, const tw_piece *pieces, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const tw_piece *p = &pieces[i];
        note(&r->reads, &r->writes, p->in, p->out, bytes_of(r, p->layer, p->count));
        tw_ranges_add(&r->values, place_of(r, p), p->count);
    }
}
