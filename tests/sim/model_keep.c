/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a sparse codec keeps of a layer, by sorting, and what becomes of it on the way. From the description alone. */
#include "trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct entry {
    uint32_t bits; /* of the magnitude */
    uint64_t pos;
} entry;

typedef struct work {
    const model_sparse_part *p;
    uint8_t *keep;
    entry *entry;
} work;

static uint32_t magnitude(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b & 0x7fffffffu;
}

static uint64_t tile_of(const model_sparse_part *p, uint64_t i) {
    return i / p->tile;
}
static bool in_domain(const model_sparse_part *p, uint64_t i) {
    return p->zone[tile_of(p, i)] != 0;
}
static bool flagged(const model_sparse_part *p, uint64_t i) {
    return p->flag[tile_of(p, i)] != 0;
}

static uint64_t wanted(const tw_spec *s, uint64_t n) {
    uint64_t k = (n * s->density * 2 / 1000000000u + 1) / 2; /* of layers that a test has */
    return k == 0 && n ? 1 : k;
}

static int larger_first(const void *a, const void *b) {
    const entry *p = a, *q = b;
    if (p->bits != q->bits)
        return p->bits > q->bits ? -1 : 1;
    return p->pos < q->pos ? -1 : 1;
}

static void keep_largest(work *w, uint64_t m, uint64_t k) {
    qsort(w->entry, m, sizeof *w->entry, larger_first);
    for (uint64_t i = 0; i < m && i < k; i++)
        w->keep[w->entry[i].pos] = 1;
}

static void select_exact(work *w) {
    const model_sparse_part *p = w->p;
    uint64_t m = 0, domain = 0;
    for (uint64_t i = 0; i < p->n; i++) {
        if (!in_domain(p, i))
            continue;
        domain++;
        if (!flagged(p, i) && magnitude(p->x[i]))
            w->entry[m++] = (entry){magnitude(p->x[i]), i};
    }
    keep_largest(w, m, wanted(p->s, domain));
}

static void select_threshold(work *w) {
    const model_sparse_part *p = w->p;
    uint64_t m = 0, domain = 0, stride;
    for (uint64_t i = 0; i < p->n; i++)
        domain += in_domain(p, i);
    stride = domain / 131072 | 1;
    for (uint64_t i = 0; i < p->n; i++)
        if (in_domain(p, i) && i / 16 % stride == 0)
            w->entry[m++] = (entry){isfinite(p->x[i]) ? magnitude(p->x[i]) : 0, i};
    if (m == 0)
        return;
    qsort(w->entry, m, sizeof *w->entry, larger_first);
    uint32_t cut = w->entry[wanted(p->s, m) - 1].bits;
    for (uint64_t i = 0; i < p->n; i++)
        if (in_domain(p, i) && !flagged(p, i))
            w->keep[i] = magnitude(p->x[i]) >= cut && magnitude(p->x[i]) > 0;
}

static void select_groups(work *w) {
    const model_sparse_part *p = w->p;
    for (uint64_t i = 0, end; i < p->n; i = end) {
        uint64_t m = 0, tile_end = (tile_of(p, i) + 1) * p->tile;
        end = i + p->s->group;
        end = end > tile_end ? tile_end : end;
        end = end > p->n ? p->n : end;
        if (!in_domain(p, i) || flagged(p, i))
            continue;
        for (uint64_t v = i; v < end; v++)
            if (magnitude(p->x[v]))
                w->entry[m++] = (entry){magnitude(p->x[v]), v};
        keep_largest(w, m, wanted(p->s, end - i));
    }
}

/* ---- spans ---- */

static uint64_t stretch(const model_sparse_part *p) {
    uint64_t n;
    if (p->s->select == TW_SELECT_GROUP) {
        uint64_t per = p->tile / p->s->group * wanted(p->s, p->s->group);
        n = (1024 + per - 1) / per;
    } else {
        n = (uint64_t)ceil(1024e9 / ((double)p->s->density * (double)p->tile));
    }
    return n < (1u << 24) / p->tile ? n : (1u << 24) / p->tile;
}

tw_spec model_values_of(const tw_spec *s) {
    tw_spec v = TW_SPEC_INIT;
    v.codec = s->values.codec;
    v.type = s->values.type;
    v.scale = s->values.scale;
    v.bits = s->values.bits;
    v.rounding = s->values.rounding;
    v.rotate = s->values.rotate;
    v.group = s->values.group;
    return v;
}

/* Kept values of [from, to), 4096 at most, through their codec; once more without tiles in which one overflowed. */
static void send_span(const work *w, uint64_t from, uint64_t to) {
    float x[4096], y[4096];
    uint64_t pos[4096];
    uint32_t k = 0;
    bool bad = false;
    const model_sparse_part *p = w->p;
    tw_spec v = model_values_of(p->s);
    model_draw d = {p->name, from, 0, p->step, (uint32_t)p->rank, p->hop, p->block, false};
    for (uint64_t i = from; i < to; i++)
        if (w->keep[i] && !flagged(p, i)) {
            pos[k] = i;
            x[k++] = p->x[i];
        }
    if (k)
        model_codec(&v, &d, TW_F32, x, k, y);
    for (uint32_t i = 0; i < k; i++) {
        y[i] = p->hop == 2 ? model_to_dtype(y[i], p->dtype) : y[i];
        if (!isfinite(y[i])) {
            p->flag[tile_of(p, pos[i])] = 1;
            bad = true;
        }
        p->decoded[pos[i]] = y[i];
    }
    if (bad)
        send_span(w, from, to);
}

static uint64_t kept_in(const work *w, uint64_t from, uint64_t to) {
    uint64_t k = 0;
    for (uint64_t i = from; i < to; i++)
        k += w->keep[i];
    return k;
}

static uint64_t end_of(const model_sparse_part *p, uint64_t tile) {
    uint64_t end = (tile + 1) * p->tile;
    return end < p->n ? end : p->n;
}

static void send_spans(const work *w) {
    const model_sparse_part *p = w->p;
    uint64_t tiles = (p->n + p->tile - 1) / p->tile, every = stretch(p);
    for (uint64_t k = 0; k < tiles;) {
        uint64_t from = k * p->tile, held = 0, first = k;
        if (!p->zone[k]) {
            k++;
            continue;
        }
        while (k < tiles && p->zone[k] == p->zone[first] && (k == first || k % every != 0) &&
               held + kept_in(w, k * p->tile, end_of(p, k)) <= 4096) {
            held += kept_in(w, k * p->tile, end_of(p, k));
            k++;
        }
        send_span(w, from, end_of(p, k - 1));
    }
}

bool model_compress(const model_sparse_part *p) {
    work w = {p, calloc(p->n + 1, 1), calloc(p->n + 1, sizeof *w.entry)};
    bool ok = w.keep && w.entry;
    if (ok) {
        memset(p->decoded, 0, p->n * sizeof *p->decoded);
        if (p->s->select == TW_SELECT_EXACT)
            select_exact(&w);
        else if (p->s->select == TW_SELECT_THRESHOLD)
            select_threshold(&w);
        else
            select_groups(&w);
        send_spans(&w);
    }
    for (uint64_t i = 0; ok && i < p->n; i++)
        if (flagged(p, i))
            p->decoded[i] = 0;
    free(w.keep);
    free(w.entry);
    return ok;
}
