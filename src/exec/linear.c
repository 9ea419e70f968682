/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Before and after one native sum of payloads (collectives/linear.c). What trailers carry elsewhere rides along as notes.
 *
 * There is no owner here who could send what it holds. So the owner's residual of its own tiles is *folded*: it goes in as
 * a worker's, which counts 1/P in an average, and therefore P times as large; what is left of it is an owner's again. */
#include "exec/stages.h"
#include "compressors/randk.h"
#include <math.h>

static float *notes_of(const tw_exec *x, uint32_t layer) {
    return (float *)(void *)(x->arena + x->plan->notes_at) + (uint64_t)layer * tw_notes_of(x->plan->size);
}

static double weight_of(const tw_exec *x) {
    return x->redop == TW_AVG ? 1.0 / x->plan->size : 1.0;
}

/* ---- encode ---- */

static void encode_run(tw_exec *x, const tw_frame *f, const tw_tiles *run, uint8_t *dst) {
    tw_exec_layer *l = &x->layer[run->layer];
    bool fold = tw_is_folded(x, run->layer, f->owner);
    double ranks_sq = fold ? (double)x->plan->size * x->plan->size : 1.0, acc, bound;
    for (uint64_t tile = run->first; tile < run->first + run->n; tile++) {
        uint32_t n = tw_tile_len(l->count, x->plan->tile, tile), bytes;
        tw_tile_stat st;
        bytes = tw_codec_get(l->spec.codec)->bytes(&l->spec, n, TW_F32);
        if (l->absent) {
            l->e_sq += ranks_sq * tw_keep_residual(x, l, tile * x->plan->tile, n);
            memset(dst, 0, bytes);
        } else {
            l->fold_sq += fold ? ranks_sq * x->k->sum_sq(l->e + tile * x->plan->tile, n) : 0.0;
            tw_encode_tile(x, run->layer, tile, n, fold, dst, &st);
            l->flagged = l->flagged || st.nonfinite;
            l->x_sq += st.x_sq;
            l->e_sq += st.e_sq;
        }
        dst += bytes;
    }
    if (l->cert && f->owner == x->plan->me) {
        tw_cert_read(l->cert, run->first, run->n, &acc, &bound);
        l->before_sq += acc * acc;
    }
}

void tw_linear_encode(tw_exec *x, const tw_frame *f) {
    uint8_t *dst = x->arena + f->hop1_at;
    for (uint32_t i = f->run0; i < f->run0 + f->nrun; i++) {
        encode_run(x, f, &x->plan->run[i], dst);
        dst += x->plan->run[i].bytes;
    }
}

/* A factor is rounded with each product that it is in: docs/design.md. As a part of what P + 4 roundings are counted for. */
static double of_factors(const tw_exec *x, const tw_exec_layer *l) {
    double r = l->spec.rank;
    return sqrt(l->left_sq) * (1 + 3 * r * sqrt(r) / (x->plan->size + 4));
}

/* All frames are encoded: what this rank has to say of each layer. */
void tw_linear_note(tw_exec *x) {
    uint32_t words = tw_note_words(x->plan->size), me = (uint32_t)x->plan->me;
    float mine = (float)(1u << me % TW_NOTE_BITS);
    for (uint32_t i = 0; i < x->nlayer; i++) {
        const tw_exec_layer *l = &x->layer[i];
        float *note = notes_of(x, i), *norm = note + 2 * words;
        memset(note, 0, 2 * words * sizeof *note);
        note[me / TW_NOTE_BITS] = l->flagged ? mine : 0.0f;
        note[words + me / TW_NOTE_BITS] = l->absent ? mine : 0.0f;
        norm[TW_NOTE_HELD] = tw_norm_up(l->e_sq);
        norm[TW_NOTE_ROUNDED] = tw_float_up((double)tw_norm_up(l->x_sq) + (double)norm[TW_NOTE_HELD] +
                                            (double)tw_norm_up(l->fold_sq) + of_factors(x, l) * (1 + 0x1p-15));
        norm[TW_NOTE_BEFORE] = tw_norm_up(l->before_sq);
    }
}

/* ---- halves: the residuals of their values hold what the dtype lost ---- */

float tw_stored_limit(tw_dtype t) {
    return t == TW_F16 ? 65520.0f : t == TW_BF16 ? 0x1.ffp127f : INFINITY;
}

bool tw_keeps_rounding(const tw_exec_layer *l) {
    return l->dtype != TW_F32 && l->e && !l->drain;
}

void tw_keep_rounding(const tw_exec *x, const tw_exec_layer *l, uint64_t at, uint64_t n, const float *y) {
    uint8_t *half = (uint8_t *)(x->tile + 3 * TW_MAX_TILE);
    float *stored = x->tile + 2 * TW_MAX_TILE;
    for (uint64_t done = 0; done < n; done += TW_MAX_TILE) {
        uint32_t m = n - done < TW_MAX_TILE ? (uint32_t)(n - done) : TW_MAX_TILE;
        tw_narrow(x->k, half, y + done, m, l->dtype);
        tw_widen(x->k, stored, half, m, l->dtype);
        for (uint32_t i = 0; i < m; i++)
            l->e_new[at + done + i] += y[done + i] - stored[i];
    }
}

/* ---- verdict ---- */

/* The lowest rank whose bit is set, -1: none; *n: how many are set. */
static int lowest_rank(const float *word, uint32_t words, int *n) {
    int lowest = -1;
    *n = 0;
    for (uint32_t w = words; w-- > 0;) {
        uint32_t bits = (uint32_t)word[w];
        *n += __builtin_popcount(bits);
        lowest = bits ? (int)(w * TW_NOTE_BITS) + __builtin_ctz(bits) : lowest;
    }
    return lowest;
}

static tw_status check_notes(const tw_exec *x, uint32_t layer) {
    const float *note = notes_of(x, layer);
    uint32_t bits = 2 * tw_note_words(x->plan->size);
    bool good = true;
    for (uint32_t i = 0; i < tw_notes_of(x->plan->size); i++) {
        good = good && note[i] >= 0.0f && (i >= bits || note[i] < (float)(1u << TW_NOTE_BITS));
        good = good && (i >= bits || (float)(uint32_t)note[i] == note[i]);
    }
    return good ? TW_OK
                : tw_fail(TW_ERR_CORRUPT, "step %u: the native sum of layer '%s' has impossible notes", x->stamp.step,
                          x->layer[layer].name);
}

/* From sum to result, in place. True: some value is not finite, or will not be. */
static bool scale_tile(const tw_exec *x, tw_exec_layer *l, float *v, uint32_t m, float gain) {
    float inverse = x->redop == TW_AVG ? 1.0f / (float)x->plan->size : 1.0f, limit = tw_stored_limit(l->dtype);
    double gained_sq = 0.0, out_sq = 0.0;
    bool bad = false;
    for (uint32_t i = 0; i < m; i++) {
        float mean = v[i] * inverse;
        v[i] = mean * gain;
        gained_sq += ((double)v[i] - (double)mean) * ((double)v[i] - (double)mean);
        out_sq += (double)v[i] * (double)v[i];
        bad = bad || !(fabsf(v[i]) < limit);
        if (v[i] != v[i])
            memcpy(&v[i], &(uint32_t){0x7fc00000u}, sizeof *v);
    }
    l->gained_sq += bad ? 0.0 : gained_sq;
    l->out_sq += bad ? 0.0 : out_sq;
    return bad;
}

/* With feedback a tile that has NaN or Inf is NaN as a whole. */
static void scale_run(tw_exec *x, const tw_frame *f, const tw_tiles *run, float *v) {
    tw_exec_layer *l = &x->layer[run->layer];
    for (uint64_t tile = run->first; tile < run->first + run->n; tile++) {
        uint32_t n = tw_tile_len(l->count, x->plan->tile, tile);
        uint32_t m = tw_codec_get(l->spec.codec)->bytes(&l->spec, n, TW_F32) / sizeof *v;
        float gain = l->spec.codec == TW_CODEC_RANDK ? tw_randk_gain(&l->spec, n) : 1.0f;
        l->values += n;
        if (scale_tile(x, l, v, m, gain)) {
            uint32_t code = 1 + (uint32_t)f->owner;
            l->overflow = l->overflow && l->overflow < code ? l->overflow : code;
            for (uint32_t i = 0; l->spec.feedback != TW_FEEDBACK_NONE && i < m; i++)
                memcpy(v + i, &(uint32_t){0x7fc00000u}, sizeof *v);
        }
        v += m;
    }
}

/* What halves lose of the result: half a unit in the last place, or half of the smallest number. */
static double stored_loss(const tw_exec_layer *l) {
    double least = sqrt((double)l->values), norm = sqrt(l->out_sq) * (1 + 0x1p-10);
    return l->dtype == TW_F16    ? norm * 0x1p-11 + least * 0x1p-25
           : l->dtype == TW_BF16 ? norm * 0x1p-8 + least * 0x1p-134
                                 : 0.0;
}

/* docs/design.md derives it: what is held is bounded by the norms' sum, and what was rounded or lost adds up, for all
 * tiles of the op together. */
static void certify(const tw_exec *x, tw_exec_layer *l, const float *norm) {
    double any_order = 1.0 + x->plan->size * 0x1p-23, w = weight_of(x), ranks = x->plan->size + 4;
    double holds = l->spec.feedback != TW_FEEDBACK_NONE ? (double)tw_keeps_share(l) : 0.0;
    double lost = w * norm[TW_NOTE_HELD] * any_order + sqrt(l->gained_sq) * (1 + 0x1p-40) + stored_loss(l);
    double bound = norm[TW_NOTE_BEFORE] * any_order + (holds > 0 ? lost : 0.0);
    l->joint = ranks * 0x1p-24 * w * norm[TW_NOTE_ROUNDED] * any_order +
               sqrt((double)l->values) * (ranks + 2 * l->spec.rank) * 0x1p-149 + tw_part_of(1 - holds, lost) +
               (holds > 0 ? 0x1p-24 * stored_loss(l) : 0.0);
    l->bound_sq = bound * bound * (1 + 0x1p-40);
    l->stale = l->code != 0;
}

/* Own tiles' part of the ledger goes on; each inherits the bound of all. */
static void write_ledger(const tw_exec *x, const tw_tiles *run) {
    const tw_exec_layer *l = &x->layer[run->layer];
    float bound = tw_norm_up(l->bound_sq + (l->stale ? l->last_sq : 0.0));
    for (uint64_t t = run->first; l->cert && t < run->first + run->n; t++) {
        l->cert_new[t] = l->cert[t];
        if (l->code != TW_CODE_ABSENT)
            l->cert_new[t].bound = bound;
    }
}

static void write_ledgers(const tw_exec *x) {
    const tw_plan *p = x->plan;
    for (uint32_t i = 0; i < p->nframe; i++) {
        const tw_frame *f = &p->frame[i];
        for (uint32_t r = f->run0; f->owner == p->me && r < f->run0 + f->nrun; r++)
            write_ledger(x, &p->run[r]);
    }
    for (uint32_t i = 0; i < p->nmatrix; i++) {
        const tw_plan_matrix *m = &p->matrix[i];
        tw_tiles own = {
            .layer = m->layer, .first = m->own_first / p->tile, .n = (uint32_t)tw_layer_tiles(m->own_n, p->tile)};
        write_ledger(x, &own);
        tw_lowrank_keep(x, m);
    }
}

static void conclude(tw_exec *x, uint32_t layer) {
    tw_exec_layer *l = &x->layer[layer];
    uint32_t words = tw_note_words(x->plan->size);
    const float *note = notes_of(x, layer);
    int n, flagged = lowest_rank(note, words, &n);
    lowest_rank(note + words, words, &n);
    l->all_absent = n == x->plan->size;
    l->code = l->all_absent ? TW_CODE_ABSENT : flagged >= 0 ? 1 + (uint32_t)flagged : l->overflow;
    l->bound_sq = 0;
    l->stale = l->all_absent || (l->code && tw_codec_is_lowrank(&l->spec)); /* a matrix is bad as a whole */
    if (!l->stale)
        certify(x, l, note + 2 * words);
    if (l->code && !l->all_absent)
        tw_note_nonfinite(x, layer, l->code);
}

tw_status tw_linear_verdict(tw_exec *x) {
    tw_status s = TW_OK;
    for (uint32_t i = 0; i < x->nlayer && s >= 0; i++)
        s = check_notes(x, i);
    if (s < 0)
        return s;
    for (uint32_t i = 0; i < x->plan->nframe; i++) {
        const tw_frame *f = &x->plan->frame[i];
        uint8_t *v = x->arena + f->hop1_at;
        for (uint32_t r = f->run0; r < f->run0 + f->nrun; v += x->plan->run[r++].bytes)
            scale_run(x, f, &x->plan->run[r], (float *)(void *)v);
    }
    for (uint32_t i = 0; i < x->plan->nmatrix; i++)
        tw_lowrank_settle(x, &x->plan->matrix[i]);
    for (uint32_t i = 0; i < x->nlayer; i++)
        conclude(x, i);
    write_ledgers(x);
    return tw_say_nonfinite(x);
}
