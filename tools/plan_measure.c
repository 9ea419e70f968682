/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What candidates cost and lose on this machine: seconds a value, and ||x - decoded|| / ||x||. */
#include <math.h>
#include <stdlib.h>

#include <thinwire/codec.h>
#include "bench_common.h"
#include "compressors/codec.h"
#include "plan_tool.h"

enum {
    TIMES = 3,
    SPEED_VALUES = 1 << 22, /* fp32: 16 MiB, beyond most caches with residuals beside them */
    SPEED_COLUMNS = 2048,
    DRAWN_VALUES = 1 << 18,
    DATA_VALUES = 1 << 20 /* of a layer, at most */
};

/* ---- drawn values: SplitMix64 (Steele, Lea & Flood 2014), so that every run draws the same ---- */
static double unit(uint64_t *state) { /* in (0, 1) */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return ((double)((z ^ (z >> 31)) >> 12) + 0.5) * 0x1p-52;
}

static double bell(uint64_t *state) {
    double r = sqrt(-2 * log(unit(state))), turn = 6.283185307179586 * unit(state);
    return r * cos(turn);
}

static double draw(plan_errors of, uint64_t *state) {
    double u;
    switch (of) {
    case PLAN_NORMAL:
        return bell(state);
    case PLAN_STUDENT: { /* 3 degrees of freedom */
        double a = bell(state), b = bell(state), c = bell(state);
        return bell(state) / sqrt((a * a + b * b + c * c) / 3);
    }
    default:
        u = unit(state) - 0.5;
        return u < 0 ? log(1 + 2 * u) : -log(1 - 2 * u);
    }
}

static void fill(float *x, uint32_t n, plan_errors of) {
    uint64_t state = 1;
    for (uint32_t i = 0; i < n; i++)
        x[i] = (float)draw(of, &state);
}

/* ---- buffers ---- */
typedef struct buffers {
    float *x, *e, *e_new;
    uint8_t *payload;
    uint64_t room;
    tw_dtype dtype;
} buffers;

static void release(buffers *b) {
    free(b->x);
    free(b->e);
    free(b->e_new);
    free(b->payload);
}

static tw_spec bare(const plan_candidate *c, uint64_t columns) {
    tw_spec s = c->spec;
    s.feedback = TW_FEEDBACK_NONE;
    s.rate = 0;
    if (plan_is_lowrank(c) && !s.columns)
        s.columns = (uint32_t)columns;
    return s;
}

static tw_status make(buffers *b, const plan_candidates *c, uint32_t n, bool residuals) {
    uint64_t room = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        tw_spec s = bare(&c->item[i], SPEED_COLUMNS); /* the most is fp32 as it is, whatever the columns are */
        uint64_t need = tw_spec_bound(&s, n, TW_F32);
        room = need > room ? need : room;
    }
    room = room > 4ull * n ? room : 4ull * n;
    *b = (buffers){.room = room + 4096, .dtype = TW_F32};
    b->x = aligned_alloc(64, n * sizeof(float));
    b->payload = aligned_alloc(64, tw_round_up(b->room, 64));
    if (residuals) {
        b->e = aligned_alloc(64, n * sizeof(float));
        b->e_new = aligned_alloc(64, n * sizeof(float));
    }
    if (!b->x || !b->payload || (residuals && (!b->e || !b->e_new)))
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    return TW_OK;
}

/* ---- speeds ---- */

/* As the reducer does it: tile by tile, with the residual read and written under feedback (any: as under ef). */
static tw_status encode_tiles(const buffers *b, const tw_spec *s, bool feedback, uint32_t bytes) {
    tw_status st = TW_OK;
    for (uint32_t i = 0; i < SPEED_VALUES && st >= 0; i += TW_MAX_TILE)
        st = tw_tile_encode(NULL, s, b->x + i, feedback ? b->e + i : NULL, 1.0f, TW_MAX_TILE,
                            b->payload + (uint64_t)(i / TW_MAX_TILE) * bytes, feedback ? b->e_new + i : NULL, NULL);
    return st;
}

static tw_status decode_tiles(const buffers *b, const tw_spec *s, uint32_t bytes) {
    tw_status st = TW_OK;
    for (uint32_t i = 0; i < SPEED_VALUES && st >= 0; i += TW_MAX_TILE)
        st = tw_tile_decode(NULL, s, b->payload + (uint64_t)(i / TW_MAX_TILE) * bytes, b->e_new + i, TW_MAX_TILE, 1);
    return st;
}

static tw_status once_tiled(const plan_candidate *c, const buffers *b, double *encode, double *decode) {
    tw_spec s = bare(c, 0);
    uint32_t bytes = (uint32_t)tw_spec_bound(&s, TW_MAX_TILE, TW_F32);
    double began = bc_now();
    tw_status st = encode_tiles(b, &s, c->spec.feedback != TW_FEEDBACK_NONE, bytes);
    double middle = bc_now();
    if (st >= 0)
        st = decode_tiles(b, &s, bytes);
    *encode = middle - began;
    *decode = bc_now() - middle;
    return st;
}

/* Sparse and low-rank ones, whole; what feedback costs them is a pass that reads and writes the residual. */
static tw_status once_whole(const plan_candidate *c, const buffers *b, double *encode, double *decode) {
    tw_spec s = bare(c, SPEED_COLUMNS);
    uint64_t len = 0;
    double began = bc_now();
    tw_status st = tw_encode(&s, NULL, b->x, SPEED_VALUES, TW_F32, b->payload, b->room, &len, NULL);
    if (c->spec.feedback != TW_FEEDBACK_NONE)
        memcpy(b->e_new, b->e, SPEED_VALUES * sizeof(float));
    double middle = bc_now();
    if (st >= 0)
        st = tw_decode(&s, NULL, b->payload, len, b->e_new, SPEED_VALUES, TW_F32);
    *encode = middle - began;
    *decode = bc_now() - middle;
    return st;
}

static tw_status speed_of(plan_candidate *c, const buffers *b) {
    double encode[TIMES], decode[TIMES];
    bool whole = tw_codec_is_sparse(&c->spec) || plan_is_lowrank(c);
    tw_status st = TW_OK;
    memset(b->e, 0, SPEED_VALUES * sizeof(float)); /* decoding adds to e_new, which may have become large */
    memset(b->e_new, 0, SPEED_VALUES * sizeof(float));
    for (int i = 0; i < TIMES && st >= 0; i++)
        st = whole ? once_whole(c, b, &encode[i], &decode[i]) : once_tiled(c, b, &encode[i], &decode[i]);
    if (st >= 0) {
        c->encode = bc_median(encode, TIMES) / SPEED_VALUES;
        c->decode = bc_median(decode, TIMES) / SPEED_VALUES;
    }
    return st;
}

tw_status plan_measure_speeds(plan_candidates *c, const plan_options *o) {
    buffers b;
    double began = bc_now();
    tw_status st = make(&b, c, SPEED_VALUES, true);
    if (st >= 0)
        fill(b.x, SPEED_VALUES, PLAN_LAPLACE);
    for (uint32_t i = 0; i < c->n && st >= 0; i++)
        st = speed_of(&c->item[i], &b);
    release(&b);
    if (st >= 0 && !o->quiet)
        fprintf(stderr,
                "thinwire-plan: measured %u codec speeds on one core of this machine, %d Mi values, median of %d, "
                "in %.1f s\n",
                c->n, SPEED_VALUES >> 20, TIMES, bc_now() - began);
    return st;
}

/* ---- errors ---- */

static tw_status lost_of(const plan_candidate *c, const buffers *b, uint64_t n, uint64_t columns, double *lost,
                         double *norm) {
    tw_spec s = bare(c, columns);
    tw_array_stat stat = TW_ARRAY_STAT_INIT;
    uint64_t len;
    tw_status st = tw_encode(&s, NULL, b->x, n, b->dtype, b->payload, b->room, &len, &stat);
    if (st >= 0 && stat.bad_tiles)
        st = tw_fail(TC_ERR_DAMAGED, "%llu tiles of 4096 values hold NaN or Inf", (unsigned long long)stat.bad_tiles);
    if (st >= 0) {
        *lost = stat.x_sq > 0 ? sqrt(stat.e_sq / stat.x_sq) : 0;
        *norm = sqrt(stat.x_sq);
    }
    return st;
}

/* Whole rows of a matrix, of a layer that is too long; of drawn values no more than there are. */
static uint64_t part_of(const plan_layer *y, uint64_t most) {
    if (y->count <= most)
        return y->count;
    return y->columns && y->columns <= most ? most / y->columns * y->columns : most;
}

/* Of the same shape: what was measured once holds for all of them. */
static const plan_layer *same_shape(const plan_layers *l, uint32_t at) {
    for (uint32_t i = 0; i < at; i++)
        if (l->item[i].columns == l->item[at].columns && l->item[i].count == l->item[at].count)
            return &l->item[i];
    return NULL;
}

static tw_status lowrank_drawn(const plan_candidate *c, const plan_layer *y, const buffers *b, double *lost) {
    uint64_t n = part_of(y, DRAWN_VALUES), columns = c->spec.columns ? c->spec.columns : y->columns;
    double norm;
    *lost = 1; /* of rows that are longer than what is drawn */
    n = columns ? n / columns * columns : 0;
    return n && tw_lowrank_values(c->spec.rank, n, columns) ? lost_of(c, b, n, columns, lost, &norm) : TW_OK;
}

static tw_status errors_drawn(plan_candidates *c, plan_layers *l, const plan_options *o, const buffers *b,
                              double *lost) {
    double norm;
    tw_status st = TW_OK;
    fill(b->x, DRAWN_VALUES, o->errors);
    for (uint32_t k = 0; k < c->n && st >= 0; k++)
        if (!plan_is_lowrank(&c->item[k]))
            st = lost_of(&c->item[k], b, DRAWN_VALUES, 0, &c->item[k].lost, &norm);
    for (uint32_t i = 0; i < l->n && st >= 0; i++) {
        plan_layer *y = &l->item[i];
        const plan_layer *same = same_shape(l, i);
        double *row = lost + (size_t)i * c->n;
        if (!y->has_norm)
            y->norm = sqrt((double)y->count);
        for (uint32_t k = 0; k < c->n && st >= 0; k++)
            if (!plan_is_lowrank(&c->item[k]))
                row[k] = c->item[k].lost;
            else if (same)
                row[k] = lost[(size_t)(same - l->item) * c->n + k];
            else if (plan_fits(&c->item[k], y) && !y->is_small)
                st = lowrank_drawn(&c->item[k], y, b, &row[k]);
    }
    return st;
}

static tw_status errors_of_layer(const plan_candidates *c, plan_layers *l, uint32_t i, buffers *b, double *lost) {
    plan_layer *y = &l->item[i];
    uint64_t n = part_of(y, DATA_VALUES);
    char name[TC_SHOWN + 1], why[TW_SENTENCE];
    b->dtype = y->dtype;
    tw_status st = tc_source_seek(&l->file.from, y->at);
    if (st >= 0)
        st = tc_read(&l->file.from, b->x, n * tw_dtype_size(y->dtype));
    for (uint32_t k = 0; k < c->n && st >= 0 && n; k++) {
        uint64_t columns = c->item[k].spec.columns ? c->item[k].spec.columns : y->columns;
        bool whole_rows = columns && n % columns == 0;
        lost[k] = 1;
        if (!plan_is_lowrank(&c->item[k]) || (plan_fits(&c->item[k], y) && whole_rows))
            st = lost_of(&c->item[k], b, n, columns, &lost[k], &y->norm);
    }
    y->norm *= n ? sqrt((double)y->count / (double)n) : 0;
    if (st < 0) {
        tc_shown(name, sizeof name, y->name);
        snprintf(why, sizeof why, "%s", tw_last_error());
        st = tw_fail(st, "layer '%s': %.300s", name, why);
    }
    return st;
}

tw_status plan_measure_errors(plan_candidates *c, plan_layers *l, const plan_options *o, double *lost) {
    buffers b;
    tw_status st = make(&b, c, o->errors == PLAN_DATA ? DATA_VALUES : DRAWN_VALUES, false);
    if (st >= 0 && o->errors != PLAN_DATA)
        st = errors_drawn(c, l, o, &b, lost);
    for (uint32_t i = 0; i < l->n && st >= 0 && o->errors == PLAN_DATA; i++)
        st = errors_of_layer(c, l, i, &b, lost + (size_t)i * c->n);
    release(&b);
    return st;
}
