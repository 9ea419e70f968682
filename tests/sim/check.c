/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The user's memory and the residuals after a step, bit by bit against the model. */
#include "trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum fate { FATE_WRITTEN, FATE_UNTOUCHED, FATE_EITHER, FATE_ANY } fate;

/* What may have become of a rank's outputs of an op. */
static fate fate_of(const trial *t, int r, uint32_t i, tw_status how) {
    const op_plan *op = &t->step.op[i];
    bool held_back = t->m.op_bad[i] && t->rc.nonfinite != TW_NONFINITE_PROPAGATE;
    if (!t->result[r].posted[i] && t->post)
        return FATE_UNTOUCHED;
    bool ended = how == TW_OK || how == TW_ERR_NONFINITE || how == TW_ERR_ARG;
    if (op->native && !ended)
        return FATE_ANY; /* user memory is in flight there */
    if (trial_deviates(t, r))
        return FATE_EITHER;
    if (ended)
        return held_back ? FATE_UNTOUCHED : FATE_WRITTEN;
    return held_back ? FATE_UNTOUCHED : FATE_EITHER;
}

static uint32_t expected_bits(const trial *t, uint32_t l, uint64_t i) {
    uint32_t b;
    memcpy(&b, &t->m.out[l][i], sizeof b);
    return t->layer[l].dtype == TW_F32 ? b : model_half_bits(t->m.out[l][i], t->layer[l].dtype);
}

static uint32_t bits_at(const uint8_t *p, tw_dtype t) {
    uint32_t b = 0;
    memcpy(&b, p, tw_dtype_size(t));
    return b;
}

static bool is_nan(uint32_t b, tw_dtype t) {
    return t == TW_F32 ? (b & 0x7fffffff) > 0x7f800000 : t == TW_F16 ? (b & 0x7fff) > 0x7c00 : (b & 0x7fff) > 0x7f80;
}

/* How many values of a piece are as the model says, how many as before, and the first that is wrong. */
typedef struct looks {
    uint64_t written, untouched, values, wrong;
    uint32_t layer, got, want;
} looks;

static void look(const trial *t, const op_plan *op, uint32_t k, const part *p, looks *s) {
    const tw_piece *q = &op->piece[k];
    tw_dtype d = t->layer[q->layer].dtype;
    size_t size = tw_dtype_size(d);
    for (uint64_t i = 0; i < q->count; i++) {
        uint32_t got = bits_at(t->memory + p->out + i * size, d), was = bits_at(t->shadow + p->out + i * size, d);
        bool away = t->m.away[q->layer][(q->first + i) / t->rc.tile];
        uint32_t want = away ? was : expected_bits(t, q->layer, q->first + i);
        bool as_written = got == want || (!away && is_nan(got, d) && is_nan(want, d));
        if (!as_written && s->written == s->values) {
            s->wrong = q->first + i;
            s->layer = q->layer;
            s->got = got;
            s->want = want;
        }
        s->values++;
        s->written += as_written;
        s->untouched += got == was;
    }
}

static bool check_op(trial *t, int r, uint32_t i, fate f) {
    const op_plan *op = &t->step.op[i];
    looks s = {0};
    for (uint32_t k = 0; k < op->npiece; k++) {
        const part *p = &op->part[k][r];
        if (!p->has_out)
            continue;
        look(t, op, k, p, &s);
    }
    bool written = s.written == s.values, untouched = s.untouched == s.values;
    bool ok = f == FATE_ANY || (written && f != FATE_UNTOUCHED) || (untouched && f != FATE_WRITTEN);
    if (ok)
        return true;
    return trial_fail(t,
                      "rank %d, op %u: %llu values, %llu as the model says, %llu untouched, where they should be %s; "
                      "first: layer %u value %llu is %08x, model %08x",
                      r, i, (unsigned long long)s.values, (unsigned long long)s.written,
                      (unsigned long long)s.untouched,
                      f == FATE_WRITTEN     ? "written"
                      : f == FATE_UNTOUCHED ? "untouched"
                                            : "one or the other",
                      s.layer, (unsigned long long)s.wrong, s.got, s.want);
}

bool check_memory(trial *t, int rank, tw_status how) {
    for (uint32_t i = 0; i < t->step.nop; i++) {
        if (!check_op(t, rank, i, fate_of(t, rank, i, how)))
            return false;
        for (uint32_t k = 0; k < t->step.op[i].npiece; k++) {
            const part *p = &t->step.op[i].part[k][rank];
            if (p->has_out)
                memcpy(t->shadow + p->out, t->memory + p->out, p->bytes);
        }
    }
    return true;
}

/* Once all outputs are accepted: everything else is as it was. */
bool check_canaries(trial *t) {
    if (memcmp(t->memory, t->shadow, t->memory_bytes) == 0)
        return true;
    size_t at = 0;
    while (t->memory[at] == t->shadow[at])
        at++;
    return trial_fail(t, "memory that is no output was written, at byte %zu of %zu", at, t->memory_bytes);
}

bool check_residuals(trial *t, int rank, float *const model_e[]) {
    float *e = NULL;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        uint64_t n = t->layer[l].count, i = 0;
        const float *want = model_e[l] + (uint64_t)rank * n;
        e = malloc((n + 1) * sizeof *e);
        if (!e || tw_reducer_residual(t->red[rank], l, e) != TW_OK) {
            free(e);
            return trial_fail(t, "rank %d: no residual of layer %u: %s", rank, l, tw_last_error());
        }
        while (i < n && memcmp(&e[i], &want[i], sizeof *e) == 0)
            i++;
        float got = i < n ? e[i] : 0;
        free(e);
        if (i < n)
            return trial_fail(t, "rank %d (owner: %d), layer %u: residual %llu is %.9g, model %.9g", rank,
                              t->m.own[l][i / t->rc.tile], l, (unsigned long long)i, (double)got, (double)want[i]);
    }
    return true;
}

/* ---- replicas: where there is NaN the model is not asked for bits, but ranks must still agree on them ---- */

static bool compare_layer(trial *t, uint32_t l, uint8_t *raw, uint8_t *seen) {
    size_t size = tw_dtype_size(t->layer[l].dtype);
    for (uint32_t i = 0; i < t->step.nop; i++)
        for (uint32_t k = 0; k < t->step.op[i].npiece; k++) {
            const tw_piece *q = &t->step.op[i].piece[k];
            for (int r = 0; r < t->ranks && q->layer == l; r++) {
                const part *p = &t->step.op[i].part[k][r];
                for (uint64_t v = 0; p->has_out && v < q->count; v++) {
                    uint8_t *first = raw + (q->first + v) * size, *here = t->memory + p->out + v * size;
                    if (t->m.away[l][(q->first + v) / t->rc.tile])
                        continue;
                    if (seen[q->first + v] && memcmp(first, here, size) != 0)
                        return trial_fail(t, "ranks disagree: layer %u value %llu on rank %d", l,
                                          (unsigned long long)(q->first + v), r);
                    memcpy(first, here, size);
                    seen[q->first + v] = 1;
                }
            }
        }
    return true;
}

bool check_replicas(trial *t) {
    bool ok = true;
    for (uint32_t l = 0; ok && l < t->nlayer; l++) {
        uint64_t n = t->layer[l].count;
        bool nan = false;
        for (uint64_t i = 0; i < n; i++)
            nan = nan || !isfinite(t->m.out[l][i]);
        if (!nan)
            continue; /* equal to the model, so equal to each other */
        uint8_t *raw = malloc(4 * n), *seen = calloc(n, 1);
        ok = raw && seen && compare_layer(t, l, raw, seen);
        free(raw);
        free(seen);
    }
    return ok;
}
