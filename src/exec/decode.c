/* SPDX-License-Identifier: BSD-3-Clause
 *
 * VERDICT and DECODE: what happens once all answers of an op are here. Nothing of the user's is written before. */
#include "exec/stages.h"
#include <math.h>

static tw_trailer2 trailer2(const tw_exec *x, const tw_frame *f, uint32_t run) {
    tw_trailer2 t;
    uint32_t len;
    const uint8_t *frame = x->arena + f->hop2_at;
    memcpy(&len, frame + 24, sizeof len);
    memcpy(&t, frame + len - (f->nrun - run) * TW_TRAILER2_BYTES, sizeof t);
    return t;
}

void tw_note_nonfinite(tw_exec *x, uint32_t layer, uint32_t code) {
    int32_t rank = (int32_t)code - 1;
    if (x->bad_layer >= 0 && x->layer[x->bad_layer].index < x->layer[layer].index)
        return;
    if (x->bad_layer == (int32_t)layer && x->bad_rank <= rank)
        return;
    x->bad_layer = (int32_t)layer;
    x->bad_rank = rank;
}

tw_status tw_say_nonfinite(const tw_exec *x) {
    if (x->bad_layer < 0 || x->nonfinite == TW_NONFINITE_PROPAGATE)
        return TW_OK;
    return tw_fail(TW_ERR_NONFINITE, "step %u: NaN or Inf in layer '%s', first seen from rank %d", x->stamp.step,
                   x->layer[x->bad_layer].name, x->bad_rank);
}

/* Of a reduce-scatter a rank may have its own frames' answers alone. */
static bool has_answer(const tw_exec *x, const tw_frame *f) {
    return x->plan->kind != TW_KIND_REDUCE_SCATTER || x->plan->told || f->owner == x->plan->me;
}

/* The same on every rank that has the same answers, since it reads nothing else. */
tw_status tw_exec_verdict(tw_exec *x) {
    for (uint32_t l = 0; l < x->nlayer; l++) {
        x->layer[l].bound_sq = 0;
        x->layer[l].all_absent = true;
    }
    for (uint32_t i = 0; i < x->plan->nframe; i++) {
        const tw_frame *f = &x->plan->frame[i];
        if (!has_answer(x, f))
            continue;
        for (uint32_t r = 0; r < f->nrun; r++) {
            uint32_t layer = x->plan->run[f->run0 + r].layer;
            tw_trailer2 t = trailer2(x, f, r);
            if (t.code != TW_CODE_ABSENT)
                x->layer[layer].all_absent = false;
            if (t.code != TW_CODE_ABSENT && t.code != 0)
                tw_note_nonfinite(x, layer, t.code);
            x->layer[layer].bound_sq += (double)t.bound * t.bound;
        }
    }
    return tw_say_nonfinite(x);
}

void tw_keep_slot(const tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n) {
    uint64_t at = tile * x->plan->tile;
    tw_keep_momentum(l, at, n);
    if (!l->e)
        return;
    l->kept = true;
    memcpy(l->e_new + at, l->e + at, (size_t)n * sizeof(float));
}

void tw_fill_nan(float *v, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        memcpy(&v[i], &(uint32_t){0x7fc00000u}, sizeof *v);
}

bool tw_any_nonfinite(const float *y, uint64_t n) {
    bool any = false;
    for (uint64_t i = 0; i < n; i++) /* no way out: there seldom is any */
        any |= !isfinite(y[i]);
    return any;
}

/* A tile that came back as NaN: what this rank encoded for it did not arrive, so its residual is as before the step. */
static bool restore_slot(tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n, const float *y) {
    bool bad = (l->e || l->u_new) && tw_any_nonfinite(y, n);
    if (bad)
        tw_keep_slot(x, l, tile, n);
    return bad;
}

/* t: of the payload. rounds: into the slot goes what the dtype loses. */
static void decode_tile(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, const uint8_t *src, tw_dtype t,
                        bool flagged, bool rounds) {
    tw_exec_layer *l = &x->layer[layer];
    bool wanted, bad = false;
    float *to = tw_tile_target(x, layer, tile, n, &wanted);
    tw_noise noise = tw_shared_noise(x, l, tile);
    if (to && !flagged) {
        x->k->decode_stream[l->result.codec](&l->result, t, src, to, n, &noise);
        return;
    }
    if (!wanted && !flagged && !rounds)
        return;
    x->k->decode_set[l->result.codec](&l->result, t, src, x->tile, n, &noise);
    if (flagged)
        bad = restore_slot(x, l, tile, n, x->tile);
    if (rounds && !bad)
        tw_keep_rounding(x, l, tile * x->plan->tile, n, x->tile);
    if (wanted)
        tw_tile_store(x, layer, tile, n, x->tile);
}

/* An own tile, from where its sum waits. Returns the bytes of it in the frame's home: sums of sparse layers have another. */
static uint32_t decode_home(tw_exec *x, const tw_frame *f, uint32_t layer, uint64_t tile, const uint8_t *src,
                            bool flagged) {
    const tw_exec_layer *l = &x->layer[layer];
    uint32_t n = tw_tile_len(l->count, x->plan->tile, tile);
    if (f->sparse)
        src = (const uint8_t *)tw_waiting(x, layer, tile, 2);
    decode_tile(x, layer, tile, n, src, f->sparse ? TW_F32 : l->dtype, flagged, false);
    return f->sparse ? 0 : tw_codec_get(l->result.codec)->bytes(&l->result, n, l->dtype);
}

/* Reduce-scatter: own tiles are written from where their sums wait; of others' tiles the answer says which became NaN. */
static void decode_block(tw_exec *x, const tw_frame *f) {
    const uint8_t *bits = x->arena + f->hop2_at + TW_HEADER_BYTES, *src = x->arena + f->home_at;
    for (uint32_t i = 0; i < f->nrun; i++) {
        const tw_tiles *run = &x->plan->run[f->run0 + i];
        tw_exec_layer *l = &x->layer[run->layer];
        tw_trailer2 t = trailer2(x, f, i);
        if (t.code == TW_CODE_ABSENT)
            continue;
        for (uint32_t k = 0; k < run->n; k++) {
            uint64_t tile = run->first + k;
            if (f->owner == x->plan->me)
                src += decode_home(x, f, run->layer, tile, src, t.code != 0);
            else if (l->e && (bits[k / 8] >> k % 8 & 1))
                tw_keep_slot(x, l, tile, tw_tile_len(l->count, x->plan->tile, tile));
        }
        bits += run->answer;
    }
}

void tw_exec_decode(tw_exec *x, const tw_frame *f) {
    if (x->plan->gather) {
        tw_gather_decode(x, f);
        return;
    }
    if (x->plan->kind == TW_KIND_REDUCE_SCATTER) {
        decode_block(x, f);
        return;
    }
    bool linear = x->plan->linear;
    const uint8_t *src = x->arena + (linear ? f->hop1_at : f->hop2_at + TW_HEADER_BYTES);
    for (uint32_t i = 0; i < f->nrun; i++) {
        const tw_tiles *run = &x->plan->run[f->run0 + i];
        const tw_exec_layer *l = &x->layer[run->layer];
        uint32_t code = linear ? l->code : trailer2(x, f, i).code;
        tw_dtype sent_as = tw_sent_as(x, l);
        bool rounds = linear && f->owner == x->plan->me && tw_keeps_rounding(l);
        if (code == TW_CODE_ABSENT) {
            src += linear ? run->bytes : 0;
            continue;
        }
        if (f->sparse) {
            tw_spans_decode(x, run, code != 0, &src, x->arena + f->hop2_at + f->hop2_cap);
            continue;
        }
        for (uint64_t tile = run->first; tile < run->first + run->n; tile++) {
            uint32_t n = tw_tile_len(l->count, x->plan->tile, tile);
            decode_tile(x, run->layer, tile, n, src, sent_as, code != 0, rounds);
            src += tw_codec_get(l->result.codec)->bytes(&l->result, n, sent_as);
        }
    }
}

/* ---- what a received frame must satisfy beyond its header ---- */

/* A trailer of either hop. */
static bool is_absent(uint32_t hop, uint32_t word) {
    return hop == 1 ? word & TW_RUN_ABSENT : word == TW_CODE_ABSENT;
}
static bool is_possible(const tw_exec *x, uint32_t hop, const uint8_t *trailer) {
    tw_trailer1 one = {0};
    tw_trailer2 two;
    if (hop == 1) {
        memcpy(&one, trailer, tw_trailer_bytes(x->plan, 1));
        return !(one.flags & ~(TW_RUN_NONFINITE | TW_RUN_ABSENT)) && one.x_norm >= 0 && one.e_norm >= 0 &&
               one.before >= 0;
    }
    memcpy(&two, trailer, sizeof two);
    return (two.code == TW_CODE_ABSENT || two.code <= (uint32_t)x->plan->size) && two.bound >= 0;
}

/* The runs' payloads of a sparse frame, from their first byte to their last. */
static tw_status accept_spans(const tw_exec *x, const tw_frame *f, uint32_t hop, const uint8_t *src,
                              const uint8_t *trailers, uint32_t each) {
    tw_status s = TW_OK;
    for (uint32_t i = 0; i < f->nrun && s >= 0; i++) {
        uint32_t word;
        memcpy(&word, trailers + i * each, sizeof word);
        bool flags = hop == 1 ? word & TW_RUN_NONFINITE : word != 0;
        if (!is_absent(hop, word))
            s = tw_spans_check(x, &x->plan->run[f->run0 + i], flags, &src, trailers);
    }
    return s < 0 || src == trailers ? s : tw_fail(TW_ERR_CORRUPT, "a sparse frame goes on behind its last run");
}

static tw_status accept_runs(const tw_exec *x, const tw_frame *f, uint32_t hop, const uint8_t *frame, uint64_t len,
                             int who) {
    uint32_t each = tw_trailer_bytes(x->plan, hop);
    uint64_t want = TW_HEADER_BYTES + (uint64_t)f->nrun * each;
    if (len < want)
        return tw_fail(TW_ERR_CORRUPT, "rank %d: frame %u has no room for its trailers", who, f->index);
    const uint8_t *trailers = frame + len - f->nrun * each;
    for (uint32_t i = 0; i < f->nrun; i++) {
        uint32_t word;
        const tw_tiles *run = &x->plan->run[f->run0 + i];
        memcpy(&word, trailers + i * each, sizeof word);
        if (!is_possible(x, hop, trailers + i * each))
            return tw_fail(TW_ERR_CORRUPT, "rank %d: layer '%s' has an impossible trailer", who,
                           x->layer[run->layer].name);
        want += is_absent(hop, word) ? 0 : hop == 1 ? run->bytes : run->answer;
    }
    if (tw_has_spans(x->plan, f, hop))
        return accept_spans(x, f, hop, frame + TW_HEADER_BYTES, trailers, each);
    return len == want ? TW_OK
                       : tw_fail(TW_ERR_CORRUPT, "rank %d: frame %u has %llu bytes instead of %llu", who, f->index,
                                 (unsigned long long)len, (unsigned long long)want);
}

tw_status tw_exec_accept(tw_exec *x, const tw_action *a, uint64_t len) {
    const tw_frame *f = &x->plan->frame[a->frame];
    const uint8_t *frame = x->arena + a->at;
    tw_status s = tw_frame_check(frame, len, a->hop, f->index, x->stamp, a->peer);
    if (s < 0)
        return s;
    return accept_runs(x, f, a->hop, frame, len, a->peer);
}
