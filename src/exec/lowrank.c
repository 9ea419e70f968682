/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The kernels of matrices (collectives/lowrank.c). Ranks share R and the mean of L, sums of all ranks, and whatever follows
 * from them: whether NaN or Inf was in a sum, the next step's start. Residuals are each rank's own; in own tiles they go in
 * P times as large, as linear.c has it. */
#include "exec/stages.h"
#include <math.h>

static float *floats_at(const tw_exec *x, uint64_t at) {
    return (float *)(void *)(x->arena + at);
}

static uint32_t rounds_of(const tw_plan *p) {
    return p->nsum / 2;
}

/* ---- what a round begins with ---- */

void tw_lowrank_begin(tw_exec *x, const tw_action *a) {
    const tw_plan_matrix *m = &x->plan->matrix[a->frame];
    tw_exec_layer *l = &x->layer[m->layer];
    float *left = floats_at(x, m->left_at);
    tw_noise noise = tw_tile_noise(x, l, 0, 0);
    double acc, bound;
    memset(floats_at(x, m->right_at), 0, m->rank * m->cols * sizeof(float));
    if (a->hop > m->first_round) {
        l->broken = l->broken || tw_any_nonfinite(left, m->rows * m->rank);
        tw_lowrank_warm(left, m->rows, m->rank, &noise);
        return;
    }
    if (l->left)
        memcpy(left, l->left, m->rows * m->rank * sizeof(float));
    else
        tw_lowrank_start(left, m->rows, m->rank, &noise);
    tw_lowrank_warm(left, m->rows, m->rank, &noise);
    if (l->cert) {
        tw_cert_read(l->cert, m->own_first / x->plan->tile, (uint32_t)tw_layer_tiles(m->own_n, x->plan->tile), &acc,
                     &bound);
        l->before_sq += acc * acc;
    }
}

/* ---- the two passes ---- */

static tw_rows rows_of(const tw_exec *x, const tw_plan_unit *u) {
    const tw_plan_matrix *m = &x->plan->matrix[u->matrix];
    const tw_exec_layer *l = &x->layer[m->layer];
    uint64_t at = u->first * m->cols;
    uint32_t n = (uint32_t)(u->n * m->cols);
    tw_rows r = {.g = tw_values_at(x, m->layer, at, n),
                 .e = l->e ? l->e + at : NULL,
                 .scale = x->input_scale,
                 .weight = l->e && x->redop == TW_AVG ? (float)x->plan->size : 1.0f,
                 .own_first = m->own_first,
                 .own_n = m->own_n,
                 .first = u->first,
                 .n = u->n,
                 .cols = m->cols,
                 .rank = m->rank,
                 .dtype = l->dtype};
    if (!r.g) {
        tw_values_load(x, m->layer, at, n, x->rows);
        r.g = x->rows;
        r.dtype = TW_F32;
    }
    return r;
}

void tw_lowrank_right(tw_exec *x, const tw_action *a) {
    const tw_plan_unit *u = &x->plan->unit[a->frame];
    const tw_plan_matrix *m = &x->plan->matrix[u->matrix];
    const tw_exec_layer *l = &x->layer[m->layer];
    if (l->absent || l->broken)
        return;
    tw_rows r = rows_of(x, u);
    x->k->lowrank->right(&r, floats_at(x, m->left_at) + u->first * m->rank, floats_at(x, m->right_at));
}

void tw_lowrank_ortho(tw_exec *x, const tw_action *a) {
    const tw_plan_matrix *m = &x->plan->matrix[a->frame];
    tw_exec_layer *l = &x->layer[m->layer];
    l->broken = !tw_lowrank_orthogonalise(x->k->lowrank, floats_at(x, m->right_at), m->cols, m->rank) || l->broken;
}

/* The part of [at, at + n) that this rank owns. */
static uint64_t own_part(const tw_plan_matrix *m, uint64_t at, uint64_t n, uint64_t *first) {
    uint64_t end = m->own_first + m->own_n < at + n ? m->own_first + m->own_n : at + n;
    *first = m->own_first > at ? m->own_first : at;
    return *first < end ? end - *first : 0;
}

static double ranks_sq(const tw_exec *x) {
    return x->redop == TW_AVG ? (double)x->plan->size * x->plan->size : 1.0;
}

/* The rows are not here, or nothing comes of them: their residual stays and counts. */
static void keep_rows(const tw_exec *x, tw_exec_layer *l, const tw_plan_matrix *m, uint64_t at, uint64_t n) {
    uint64_t own, mine = own_part(m, at, n, &own);
    own = mine ? own : at + n;
    uint64_t part[3][2] = {{at, own - at}, {own, mine}, {own + mine, at + n - own - mine}};
    for (int i = 0; i < 3; i++)
        if (part[i][1])
            l->e_sq += (i == 1 ? ranks_sq(x) : 1.0) * tw_keep_residual(x, l, part[i][0], (uint32_t)part[i][1]);
}

/* What the notes say of the last round's rows. */
static void count_rows(const tw_exec *x, const tw_plan_matrix *m, const tw_rows *r, const float *left,
                       const tw_tile_stat *st) {
    tw_exec_layer *l = &x->layer[m->layer];
    uint64_t own, at = r->first * r->cols, mine = own_part(m, at, r->n * r->cols, &own);
    l->flagged = l->flagged || st->nonfinite;
    l->x_sq += st->x_sq;
    l->e_sq += st->e_sq;
    if (r->e && mine && x->redop == TW_AVG)
        l->fold_sq += ranks_sq(x) * x->k->sum_sq(l->e + own, (uint32_t)mine);
    for (uint64_t i = 0; !st->nonfinite && i < r->n * r->rank; i++)
        l->left_sq += (double)left[i] * (double)left[i];
}

void tw_lowrank_left(tw_exec *x, const tw_action *a) {
    const tw_plan_unit *u = &x->plan->unit[a->frame];
    const tw_plan_matrix *m = &x->plan->matrix[u->matrix];
    tw_exec_layer *l = &x->layer[m->layer];
    float *left = floats_at(x, m->left_at) + u->first * m->rank;
    uint64_t at = u->first * m->cols, n = u->n * m->cols;
    bool last = a->hop + 1u == rounds_of(x->plan);
    tw_tile_stat st = {0};
    if (l->absent || l->broken) {
        memset(left, 0, u->n * m->rank * sizeof *left);
        if (last)
            keep_rows(x, l, m, at, n);
        return;
    }
    tw_rows r = rows_of(x, u);
    r.e_new = last && l->e && !l->drain ? l->e_new + at : NULL;
    x->k->lowrank->left(&r, floats_at(x, m->right_at), left, &st);
    if (last && l->e && l->drain)
        memset(l->e_new + at, 0, n * sizeof(float));
    else if (last && l->e && tw_keeps_share(l) != 1.0f)
        x->k->set_scaled(l->e_new + at, l->e_new + at, tw_keeps_share(l), (uint32_t)n);
    if (last)
        count_rows(x, m, &r, left, &st);
}

/* A rank that has NaN or Inf knows it from its own part: afterwards it is in the sum, and nobody can tell whose it was. */
void tw_lowrank_flag(tw_exec *x, uint32_t i) {
    for (uint32_t k = 0; i % 2 == 0 && k < x->plan->nmatrix; k++) {
        const tw_plan_matrix *m = &x->plan->matrix[k];
        tw_exec_layer *l = &x->layer[m->layer];
        if (m->first_round <= i / 2 && !l->broken)
            l->flagged = l->flagged || tw_any_nonfinite(floats_at(x, m->right_at), m->rank * m->cols);
    }
}

/* ---- the result ---- */

static bool any_overflows(tw_exec *x, const tw_plan_matrix *m) {
    float limit = tw_stored_limit(x->layer[m->layer].dtype);
    bool any = false;
    for (uint32_t k = m->unit; k < m->unit + m->nunit && !any; k++) {
        const tw_plan_unit *u = &x->plan->unit[k];
        tw_rows r = {.n = u->n, .cols = m->cols, .rank = m->rank, .dtype = TW_F32};
        x->k->lowrank->out(&r, floats_at(x, m->left_at) + u->first * m->rank, floats_at(x, m->right_at), x->rows);
        for (uint64_t i = 0; i < u->n * m->cols; i++)
            any = any || !(fabsf(x->rows[i]) < limit);
    }
    return any;
}

/* The mean of L in place. No value of L R' is above the norm of its row of L, as R is orthonormal: only where that norm
 * could overflow in the layer's dtype the values themselves are looked at. */
void tw_lowrank_settle(tw_exec *x, const tw_plan_matrix *m) {
    tw_exec_layer *l = &x->layer[m->layer];
    float *v = floats_at(x, m->left_at), inverse = x->redop == TW_AVG ? 1.0f / (float)x->plan->size : 1.0f;
    double most = 0;
    bool finite = !l->broken;
    for (uint64_t i = 0; i < m->rows; i++, v += m->rank) {
        double row = 0;
        for (uint32_t k = 0; k < m->rank; k++) {
            v[k] = v[k] * inverse;
            row += (double)v[k] * (double)v[k];
        }
        finite = finite && isfinite(row);
        most = row > most ? row : most;
        l->out_sq += row;
    }
    l->values += m->rows * m->cols;
    double limit = fmin((double)tw_stored_limit(l->dtype), 0x1p127);
    if (!finite || (sqrt(most) * (1 + 0x1p-10) >= limit && any_overflows(x, m)))
        l->overflow = 1 + (uint32_t)m->owner;
}

void tw_lowrank_keep(const tw_exec *x, const tw_plan_matrix *m) {
    const tw_exec_layer *l = &x->layer[m->layer];
    uint64_t bytes = m->rows * m->rank * sizeof(float);
    if (!l->left_new)
        return;
    if (l->code == 0)
        memcpy(l->left_new, floats_at(x, m->left_at), bytes);
    else if (l->left)
        memcpy(l->left_new, l->left, bytes);
    else
        memset(l->left_new, 0, bytes); /* columns of zeros begin anew */
}

/* NaN as a whole; and nothing of this rank's arrived. */
static void decode_bad(tw_exec *x, tw_exec_layer *l, uint32_t layer, uint64_t at, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        memcpy(x->rows + i, &(uint32_t){0x7fc00000u}, sizeof *x->rows);
    tw_values_store(x, layer, at, n, x->rows);
    (void)tw_keep_residual(x, l, at, n);
}

void tw_lowrank_decode(tw_exec *x, const tw_plan_unit *u) {
    const tw_plan_matrix *m = &x->plan->matrix[u->matrix];
    tw_exec_layer *l = &x->layer[m->layer];
    const float *left = floats_at(x, m->left_at) + u->first * m->rank, *right = floats_at(x, m->right_at);
    uint64_t at = u->first * m->cols, own, mine = 0;
    uint32_t n = (uint32_t)(u->n * m->cols);
    tw_rows r = {.n = u->n, .cols = m->cols, .rank = m->rank, .dtype = l->dtype};
    bool wanted;
    if (l->code == TW_CODE_ABSENT)
        return;
    if (l->code) {
        decode_bad(x, l, m->layer, at, n);
        return;
    }
    if (tw_keeps_rounding(l))
        mine = own_part(m, at, n, &own);
    void *to = tw_values_target(x, m->layer, at, n, &wanted);
    if (to && !mine) {
        x->k->lowrank->out(&r, left, right, to);
        return;
    }
    if (!wanted && !mine)
        return;
    r.dtype = TW_F32;
    x->k->lowrank->out(&r, left, right, x->rows);
    if (wanted)
        tw_values_store(x, m->layer, at, n, x->rows);
    if (mine)
        tw_keep_rounding(x, l, own, mine, x->rows + (own - at));
}
