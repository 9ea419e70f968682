/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The state beside the library's: residuals bit by bit, and in double what was applied and what would have been exact.
 */
#include "trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool allocate(trial *t, uint32_t l) {
    model *m = &t->m;
    uint64_t n = t->layer[l].count + 1, all = n * (unsigned)t->ranks, tiles = t->layer[l].tiles + 1;
    m->e[l] = calloc(all, sizeof(float));
    m->e_new[l] = calloc(all, sizeof(float));
    m->out[l] = calloc(n, sizeof(float));
    m->applied[l] = calloc(n, sizeof(double));
    m->exact[l] = calloc(n, sizeof(double));
    m->u[l] = calloc(all, sizeof(float));
    m->u_new[l] = calloc(all, sizeof(float));
    m->fed[l] = calloc(all, sizeof(float));
    m->forgot[l] = calloc(n, sizeof(double));
    m->forgot_new[l] = calloc(all, sizeof(double));
    m->bad[l] = calloc(tiles, 1);
    m->away[l] = calloc(tiles, 1);
    m->own[l] = calloc(tiles, 1);
    return m->e[l] && m->e_new[l] && m->out[l] && m->applied[l] && m->exact[l] && m->forgot[l] && m->forgot_new[l] &&
           m->u[l] && m->u_new[l] && m->fed[l] && m->bad[l] && m->away[l] && m->own[l];
}

bool model_create(trial *t) {
    memset(&t->m, 0, sizeof t->m);
    t->m.scratch = malloc(3 * MOST_TILE * sizeof(float));
    bool ok = t->m.scratch != NULL;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        ok = allocate(t, l) && ok;
        for (uint64_t i = 0; ok && i < t->layer[l].tiles; i++)
            t->m.own[l][i] = (uint8_t)tw_owner(t->layer[l].name, i, t->layer[l].tiles, t->ranks);
    }
    return ok;
}

void model_free(trial *t) {
    model *m = &t->m;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        free(m->e[l]);
        free(m->e_new[l]);
        free(m->out[l]);
        free(m->applied[l]);
        free(m->exact[l]);
        free(m->u[l]);
        free(m->u_new[l]);
        free(m->fed[l]);
        free(m->forgot[l]);
        free(m->forgot_new[l]);
        free(m->bad[l]);
        free(m->away[l]);
        free(m->own[l]);
    }
    free(m->scratch);
    memset(m, 0, sizeof *m);
}

void model_reset(trial *t) {
    model *m = &t->m;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        uint64_t n = t->layer[l].count;
        memset(m->e[l], 0, n * (unsigned)t->ranks * sizeof(float));
        memset(m->applied[l], 0, n * sizeof(double));
        memset(m->exact[l], 0, n * sizeof(double));
        memset(m->forgot[l], 0, n * sizeof(double));
        m->forgot_norms[l] = 0;
        m->moves[l] = false;
        memset(m->held[l], 0, sizeof m->held[l]);
        m->used[l] = m->native[l] = m->linear[l] = m->lossy[l] = m->loose[l] = false;
        m->rho[l] = 0;
    }
}

void model_reset_rank(trial *t, int rank) {
    for (uint32_t l = 0; l < t->nlayer; l++) {
        uint64_t n = t->layer[l].count;
        memset(t->m.e[l] + (uint64_t)rank * n, 0, n * sizeof(float));
    }
}

bool model_save(const trial *t, float *e[]) {
    bool ok = true;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        uint64_t n = t->layer[l].count * (unsigned)t->ranks;
        e[l] = malloc((n + 1) * sizeof(float));
        if (e[l])
            memcpy(e[l], t->m.e[l], n * sizeof(float));
        ok = ok && e[l];
    }
    return ok;
}

void model_restore_rank(trial *t, int rank, float *const e[]) {
    for (uint32_t l = 0; l < t->nlayer; l++) {
        uint64_t n = t->layer[l].count, at = (uint64_t)rank * n;
        memcpy(t->m.e[l] + at, e[l] + at, n * sizeof(float));
    }
}

bool model_has_residual(const trial *t, uint32_t l, int rank) {
    return t->ranks > 1 && (t->step.spec[l].feedback != TW_FEEDBACK_NONE || t->m.held[l][rank]);
}

float model_hold(trial *t, uint32_t l, uint64_t at, float lost, float ranks) {
    const tw_spec *s = &t->step.spec[l];
    float beta = s->feedback == TW_FEEDBACK_DECAY ? (float)((double)s->rate / 1e9) : 1.0f;
    t->m.e_new[l][at] = 0;
    if (s->feedback == TW_FEEDBACK_NONE)
        return 0;
    t->m.e_new[l][at] = lost * (beta / ranks);
    if (s->feedback == TW_FEEDBACK_DECAY)
        t->m.forgot_new[l][at] = (double)lost / (double)ranks - (double)t->m.e_new[l][at];
    return lost;
}

static bool is_dgc(const trial *t, uint32_t l) {
    return t->step.dgc[l] > 0;
}

float model_input(const trial *t, uint32_t l, uint64_t at) {
    return is_dgc(t, l) ? t->m.u_new[l][at] : t->step.g[l][at] * t->step.scale[at / t->layer[l].count];
}

bool model_finite(const trial *t, uint32_t l, uint64_t at) {
    return isfinite(is_dgc(t, l) ? t->m.u_new[l][at] : t->step.g[l][at]);
}

void model_clear(trial *t, uint32_t l, uint64_t at, float sent) {
    if (sent != 0)
        t->m.u_new[l][at] = 0;
}

/* Momentum of all ranks, before anything of it is sent. */
static void move(trial *t, uint32_t l) {
    for (uint64_t at = 0; is_dgc(t, l) && at < t->layer[l].count * (unsigned)t->ranks; at++) {
        float g = t->step.g[l][at] * t->step.scale[at / t->layer[l].count], u = t->m.u[l][at] * t->step.dgc[l];
        t->m.fed[l][at] = t->m.u_new[l][at] = t->m.moves[l] ? u + g : g;
    }
}

static void keep_momentum(trial *t, uint32_t l, uint64_t at, uint64_t n) {
    for (uint64_t i = at; i < at + n; i++)
        t->m.u_new[l][i] = t->m.moves[l] ? t->m.u[l][i] : 0.0f;
}

/* Of ranks that lack a layer of the op. */
static void keep_absent(trial *t, const op_plan *op, uint32_t l) {
    uint64_t n = t->layer[l].count, from = op->first_tile[l] * t->rc.tile, to = from + op->tiles[l] * t->rc.tile;
    for (int r = 0; r < t->ranks && from < n; r++)
        if (op->absent[l][r])
            keep_momentum(t, l, (uint64_t)r * n + from, (to < n ? to : n) - from);
}

void model_keep(trial *t, uint32_t l, int rank, uint64_t first, uint64_t n) {
    uint64_t at = (uint64_t)rank * t->layer[l].count + first;
    memcpy(t->m.e_new[l] + at, t->m.e[l] + at, n * sizeof(float));
    memset(t->m.forgot_new[l] + at, 0, n * sizeof(double));
    keep_momentum(t, l, at, n);
    t->m.kept[l][rank] = t->m.kept[l][rank] || model_has_residual(t, l, rank);
}

bool model_op_is_native(const op_plan *op) {
    bool any = false;
    for (uint32_t k = 0; k < op->npiece; k++)
        any = any || op->piece[k].count > 0;
    return op->native && any;
}

bool model_step_is_bad(const trial *t) {
    bool bad = false;
    for (uint32_t i = 0; i < t->step.nop; i++)
        bad = bad || t->m.op_bad[i];
    return bad && t->rc.nonfinite != TW_NONFINITE_PROPAGATE;
}

bool model_crosses(const trial *t) {
    bool any = false;
    for (uint32_t i = 0; i < t->step.nop; i++)
        for (uint32_t l = 0; l < t->nlayer; l++)
            any = any || t->step.op[i].tiles[l] > 0;
    return any && t->ranks > 1;
}

void model_step(trial *t) {
    model *m = &t->m;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        memset(m->bad[l], 0, t->layer[l].tiles);
        memset(m->forgot_new[l], 0, t->layer[l].count * (unsigned)t->ranks * sizeof(double));
        memset(m->away[l], 1, t->layer[l].tiles);
        memset(m->kept[l], 0, sizeof m->kept[l]);
        m->bad_ranks[l] = 0;
        m->rho_step[l] = 0;
        move(t, l);
    }
    for (uint32_t i = 0; i < t->step.nop; i++) {
        const op_plan *op = &t->step.op[i];
        m->op_bad[i] = false;
        for (uint32_t l = 0; l < t->nlayer; l++) {
            bool sparse = t->step.spec[l].codec == TW_CODEC_TOPK && t->ranks > 1;
            if (op->gather && op->tiles[l])
                model_gather(t, op, l);
            else if (sparse && op->tiles[l])
                model_sparse(t, op, l);
            for (uint64_t k = op->first_tile[l]; k < op->first_tile[l] + op->tiles[l]; k++) {
                if (op->linear)
                    model_linear(t, op, l, k);
                else if (op->native)
                    model_native(t, op, l, k);
                else if (!sparse && !op->gather)
                    model_tile(t, op, l, k);
                m->op_bad[i] = m->op_bad[i] || m->bad[l][k];
            }
            keep_absent(t, op, l);
        }
    }
}

/* ---- commit ---- */

/* What one tile adds to the two sums. Tiles with NaN are left out of both. */
static void add_tile(trial *t, const op_plan *op, uint32_t l, uint64_t tile) {
    const layer *y = &t->layer[l];
    uint64_t first = tile * t->rc.tile, end = first + t->rc.tile < y->count ? first + t->rc.tile : y->count;
    if (t->m.bad[l][tile] || t->m.away[l][tile])
        return;
    for (uint64_t i = first; i < end; i++) {
        double sum = 0;
        for (int r = 0; r < t->ranks; r++)
            if (!op->absent[l][r])
                sum += is_dgc(t, l) ? (double)t->m.fed[l][(uint64_t)r * y->count + i]
                                    : (double)t->step.g[l][(uint64_t)r * y->count + i] * t->step.scale[r];
        t->m.exact[l][i] += t->rc.redop == TW_AVG ? sum / t->ranks : sum;
        t->m.applied[l][i] += (double)t->m.out[l][i];
    }
}

/* Of one rank: what it forgot, by weight, and norms of it as the owners' and the workers' part of a bound. */
static void add_forgotten(trial *t, uint32_t l, int r) {
    uint64_t n = t->layer[l].count;
    double w = t->rc.redop == TW_AVG ? 1.0 / t->ranks : 1.0, own_sq = 0, sq = 0;
    for (uint64_t i = 0; i < n; i++) {
        bool own = t->m.own[l][i / t->rc.tile] == r;
        double f = t->m.forgot_new[l][(uint64_t)r * n + i];
        t->m.forgot[l][i] += own ? f : w * f;
        *(own && !t->m.linear[l] ? &own_sq : &sq) += own && t->m.linear[l] ? f * f / (w * w) : f * f;
    }
    t->m.forgot_norms[l] += w * sqrt(sq) + sqrt(own_sq);
}

static void commit_layer(trial *t, uint32_t l) {
    model *m = &t->m;
    const tw_spec *s = &t->step.spec[l];
    bool ef = s->feedback != TW_FEEDBACK_NONE;
    for (int r = 0; r < t->ranks; r++) {
        uint64_t at = (uint64_t)r * t->layer[l].count;
        if (!model_has_residual(t, l, r))
            continue;
        memcpy(m->e[l] + at, m->e_new[l] + at, t->layer[l].count * sizeof(float));
        m->held[l][r] = ef || m->kept[l][r];
        add_forgotten(t, l, r);
    }
    m->moves[l] = is_dgc(t, l);
    if (m->moves[l])
        memcpy(m->u[l], m->u_new[l], t->layer[l].count * (unsigned)t->ranks * sizeof(float));
    m->used[l] = m->used[l] || ef;
    m->rho[l] += m->rho_step[l];
    bool cut_anew = t->post || (m->last_spec[l].size && memcmp(m->last_spec, t->step.spec, sizeof m->last_spec) != 0);
    bool some_bad = memchr(m->bad[l], 1, t->layer[l].tiles), some_away = memchr(m->away[l], 1, t->layer[l].tiles);
    m->loose[l] = m->loose[l] || !ef || cut_anew || some_bad || some_away;
    if ((!ef || t->ranks == 1) && (s->codec != TW_CODEC_NONE || t->layer[l].dtype != TW_F32))
        m->lossy[l] = true;
}

void model_commit(trial *t) {
    bool touched[MOST_LAYERS] = {false};
    for (uint32_t i = 0; i < t->step.nop; i++) {
        const op_plan *op = &t->step.op[i];
        for (uint32_t l = 0; l < t->nlayer; l++)
            for (uint64_t k = op->first_tile[l]; k < op->first_tile[l] + op->tiles[l]; k++)
                add_tile(t, op, l, k);
        for (uint32_t k = 0; k < op->npiece; k++) {
            touched[op->piece[k].layer] = true;
            if (model_op_is_native(op))
                t->m.native[op->piece[k].layer] = true;
            bool workers = op->linear || op->gather; /* there all are workers' */
            t->m.loose[op->piece[k].layer] |=
                workers != t->m.linear[op->piece[k].layer] && t->m.used[op->piece[k].layer];
            t->m.loose[op->piece[k].layer] |= op->gather && t->layer[op->piece[k].layer].dtype != TW_F32;
            t->m.loose[op->piece[k].layer] |=
                op->linear && t->step.spec[op->piece[k].layer].feedback == TW_FEEDBACK_DECAY;
            t->m.linear[op->piece[k].layer] = workers;
        }
    }
    for (uint32_t l = 0; l < t->nlayer; l++)
        if (touched[l])
            commit_layer(t, l);
}
