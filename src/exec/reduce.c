/* SPDX-License-Identifier: BSD-3-Clause
 *
 * REDUCE: the owner's part. For each tile: decode the ranks' payloads in rank order (own part raw) into an L1 sum,
 * times 1/P, plus the owner's residual, encode; those bytes go to everybody and are what the owner decodes itself. Of a
 * reduce-scatter they stay at home, in the layer's dtype. PUBLISH: the same of what this rank alone has. */
#include "exec/stages.h"
#include <math.h>

const uint8_t *tw_arrival(const tw_exec *x, const tw_frame *f, int rank) {
    uint32_t place = (uint32_t)(rank < x->plan->me ? rank : rank - 1);
    return x->arena + (rank == x->plan->me ? f->hop1_at : f->arrive_at + (uint64_t)place * f->hop1_stride);
}

tw_trailer1 tw_trailer1_of(const tw_exec *x, const tw_frame *f, int rank, uint32_t run) {
    tw_trailer1 t = {0};
    uint32_t len, each = tw_trailer_bytes(x->plan, 1);
    const uint8_t *frame = tw_arrival(x, f, rank);
    memcpy(&len, frame + 24, sizeof len); /* the header's length, checked on arrival */
    memcpy(&t, frame + len - (f->nrun - run) * each, each);
    return t;
}

bool tw_sums_nothing(const tw_exec *x) {
    return x->plan->kind == TW_KIND_ALLGATHER || x->plan->kind == TW_KIND_BROADCAST;
}

void tw_read_trailers(const tw_exec *x, const tw_frame *f, uint32_t i, tw_run_sum *s) {
    const tw_exec_layer *l = &x->layer[x->plan->run[f->run0 + i].layer];
    s->any = !l->absent;
    for (int r = 0; r < x->plan->size && !tw_sums_nothing(x); r++) {
        if (r == x->plan->me && !x->plan->gather)
            continue;
        tw_trailer1 t = tw_trailer1_of(x, f, r, i);
        s->any = s->any || !(t.flags & TW_RUN_ABSENT);
        s->norms += (double)t.x_norm + t.e_norm;
        *(t.flags & TW_RUN_ABSENT ? &s->gone : &s->e_norms) += t.e_norm;
        if ((t.flags & TW_RUN_NONFINITE) && s->code == 0)
            s->code = 1 + (uint32_t)r;
    }
}

/* Whether rank r has the layer of run i. */
bool tw_has_run(const tw_exec *x, const tw_frame *f, int r, uint32_t i) {
    return r == x->plan->me ? !x->layer[x->plan->run[f->run0 + i].layer].absent
                            : !tw_sums_nothing(x) && !(tw_trailer1_of(x, f, r, i).flags & TW_RUN_ABSENT);
}

void tw_note_own(tw_exec *x, const tw_exec_layer *l, const float *g, uint32_t n, tw_run_sum *s) {
    uint32_t code = 1 + (uint32_t)x->plan->me;
    double scale = (double)tw_scale_of(x, l), sq = x->k->sum_sq(g, n) * (scale * scale);
    if (!isfinite(sq) && (s->code == 0 || s->code > code))
        s->code = code;
    s->own_sq += isfinite(sq) ? sq : 0;
}

void tw_sum_tile(tw_exec *x, const tw_frame *f, uint32_t i, uint64_t tile, uint32_t n, float *sum, tw_run_sum *s) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    const tw_exec_layer *l = &x->layer[run->layer];
    uint32_t bytes = tw_codec_get(l->spec.codec)->bytes(&l->spec, n, l->dtype);
    bool first = true;
    for (int r = 0; r < x->plan->size; r++) {
        if (!tw_has_run(x, f, r, i))
            continue;
        if (r == x->plan->me && !x->plan->gather) {
            const float *g = tw_tile_load(x, run->layer, tile, n, x->tile + TW_MAX_TILE);
            (first ? x->k->set_scaled : x->k->add_scaled)(sum, g, tw_scale_of(x, l), n);
            tw_note_own(x, l, g, n, s);
        } else {
            const uint8_t *src = tw_arrival(x, f, r) + x->cursor[r];
            tw_noise noise = tw_shared_noise(x, l, tile);
            (first ? x->k->decode_set : x->k->decode_add)[l->spec.codec](&l->spec, l->dtype, src, sum, n, &noise);
            x->cursor[r] += bytes;
        }
        first = false;
    }
}

/* Sum and encode of one tile in one call, where the codec has it: the raw part and the residual then come from memory
 * side by side, and the sum never leaves L1. False: nothing happened, go the long way. */
static bool reduce_at_once(tw_exec *x, const tw_frame *f, uint32_t i, uint64_t tile, uint32_t n, float scale,
                           uint8_t *dst, tw_run_sum *s, tw_tile_stat *st) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    const tw_exec_layer *l = &x->layer[run->layer];
    tw_reduce_fn reduce = x->k->reduce[l->spec.codec];
    if (!reduce || !l->e || l->drain || l->dtype != TW_F32 || x->plan->kind != TW_KIND_ALLREDUCE ||
        tw_keeps_share(l) != 1.0f)
        return false;
    uint64_t at = tile * x->plan->tile;
    tw_parts p = {.payload = x->part, .own_scale = x->input_scale, .sum = x->tile};
    tw_enc a = {
        .g = x->tile, .e = l->e + at, .out = l->e_new + at, .scale = scale, .n = n, .dtype = l->dtype, .dst = dst};
    if (!l->absent)
        p.own = tw_tile_load(x, run->layer, tile, n, x->tile + TW_MAX_TILE);
    for (int r = 0; r < x->plan->size; r++)
        if (tw_has_run(x, f, r, i))
            x->part[p.n++] = r == x->plan->me ? NULL : tw_arrival(x, f, r) + x->cursor[r];
    a.noise = tw_tile_noise(x, l, tile, 2);
    if (!reduce(&l->spec, &a, &p, st))
        return false;
    for (int r = 0; r < x->plan->size; r++)
        x->cursor[r] += tw_has_run(x, f, r, i) ? tw_codec_get(l->spec.codec)->bytes(&l->spec, n, l->dtype) : 0;
    s->own_sq += p.own_sq * ((double)x->input_scale * x->input_scale);
    return true;
}

/* Half-precision layers: receivers store the decoded value rounded, so the residual is taken against that. */
static void encode_as_stored(tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n, const float *sum, float scale,
                             void *dst, tw_tile_stat *st) {
    uint64_t at = tile * x->plan->tile;
    float *value = x->tile + 2 * TW_MAX_TILE, *stored = x->tile + 3 * TW_MAX_TILE;
    uint16_t *half = (uint16_t *)(void *)(x->tile + TW_MAX_TILE);
    x->k->set_scaled(value, sum, scale, n);
    if (l->e)
        x->k->add_scaled(value, l->e + at, 1.0f, n);
    tw_enc a = {.g = value, .out = stored, .scale = 1.0f, .n = n, .dtype = l->dtype, .dst = dst};
    a.noise = tw_tile_noise(x, l, tile, 2);
    x->k->encode[l->result.codec][TW_V_RECON](&l->result, &a, st);
    if (st->nonfinite)
        return;
    bool f16 = l->dtype == TW_F16;
    (f16 ? x->k->f32_to_f16 : x->k->f32_to_bf16)(half, stored, n);
    (f16 ? x->k->f16_to_f32 : x->k->bf16_to_f32)(stored, half, n);
    if (tw_any_nonfinite(stored, n)) {
        *st = (tw_tile_stat){.nonfinite = 1};
        return;
    }
    x->k->add_scaled(value, stored, -1.0f, n);
    st->e_sq = x->k->sum_sq(value, n);
    if (l->e)
        x->k->set_scaled(l->e_new + at, value, tw_keeps_share(l), n);
}

void tw_owner_encode(tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n, const float *sum, float scale, void *dst,
                     tw_tile_stat *st) {
    uint64_t at = tile * x->plan->tile;
    if (l->dtype != TW_F32) {
        encode_as_stored(x, l, tile, n, sum, scale, dst, st);
    } else {
        tw_enc a = {.g = sum, .scale = scale, .n = n, .dtype = l->dtype, .dst = dst};
        a.noise = tw_tile_noise(x, l, tile, 2);
        a.e = l->e ? l->e + at : NULL;
        a.out = l->e ? l->e_new + at : NULL;
        if (l->e && !l->drain)
            tw_encode_scaled(x, &l->result, &a, tw_keeps_share(l), st);
        else
            x->k->encode[l->result.codec][l->e ? TW_V_DRAIN : TW_V_PLAIN](&l->result, &a, st);
    }
    if (l->e && l->drain)
        memset(l->e_new + at, 0, (size_t)n * sizeof(float));
}

/* NaN or Inf at the owner: with residuals the whole tile becomes NaN on every rank and all its slots stay; without, the
 * values stand as they are. */
static void poison_tile(tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n, void *dst) {
    float *nan = x->tile + 2 * TW_MAX_TILE;
    if (!l->e)
        return;
    for (uint32_t i = 0; i < n; i++)
        memcpy(&nan[i], &(uint32_t){0x7fc00000u}, 4);
    tw_enc a = {.g = nan, .scale = 1.0f, .n = n, .dtype = l->dtype, .dst = dst};
    tw_tile_stat st;
    x->k->encode[l->result.codec][TW_V_PLAIN](&l->result, &a, &st);
    memcpy(l->e_new + tile * x->plan->tile, l->e + tile * x->plan->tile, (size_t)n * sizeof(float));
}

/* docs/design.md derives the rounding term: first order, (P + 4) * 2^-24 of what was added up, plus underflow. */
static double rounding_bound(const tw_exec *x, const tw_run_sum *s, double weight, uint64_t values) {
    double sums = weight * (s->norms + sqrt(s->own_sq)) + sqrt(s->x_sq) + sqrt(s->e_sq);
    return (x->plan->size + 4) * 0x1p-24 * sums * (1 + 0x1p-15) + sqrt((double)values) * (x->plan->size + 4) * 0x1p-149;
}

tw_trailer2 tw_certify(const tw_exec *x, const tw_tiles *run, const tw_run_sum *s) {
    double weight = x->redop == TW_AVG ? 1.0 / x->plan->size : 1.0;
    tw_exec_layer *l = &x->layer[run->layer];
    double acc = 0, before = 0, dropped = weight * s->e_norms + sqrt(s->e_sq * (1 + 0x1p-15));
    if (l->cert)
        tw_cert_read(l->cert, run->first, run->n, &acc, &before);
    if (!s->any) {
        if (l->cert)
            tw_cert_write(l->cert_new, run->first, run->n, tw_float_up(acc), tw_float_up(before));
        return (tw_trailer2){.code = TW_CODE_ABSENT, .bound = tw_float_up(before)};
    }
    /* What was dropped is in a residual, and will be sent, or a share of it; who lacks the layer has it all. */
    double held = l->e && !l->drain ? (double)tw_keeps_share(l) : 0;
    acc += rounding_bound(x, s, weight, (uint64_t)run->n * x->plan->tile) + tw_part_of(1 - held, dropped);
    double bound = acc + tw_part_of(held, dropped) + weight * s->gone;
    if (s->code) /* tiles left out stand as they did before this step */
        bound = sqrt(bound * bound + before * before);
    tw_trailer2 t = {.code = s->code, .bound = tw_norm_up(bound * bound)};
    if (l->cert)
        tw_cert_write(l->cert_new, run->first, run->n, tw_norm_up(acc * acc), t.bound);
    return t;
}

void tw_keep_own_residual(const tw_exec *x, tw_exec_layer *l, const tw_tiles *run) {
    l->kept = l->kept || l->e;
    for (uint64_t tile = run->first; l->e && tile < run->first + run->n; tile++) {
        uint64_t at = tile * x->plan->tile;
        memcpy(l->e_new + at, l->e + at, tw_tile_len(l->count, x->plan->tile, tile) * sizeof(float));
    }
}

/* One tile, encoded. True: it has NaN or Inf. */
static bool reduce_tile(tw_exec *x, const tw_frame *f, uint32_t i, uint64_t tile, float scale, uint8_t *dst,
                        tw_run_sum *s) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    tw_exec_layer *l = &x->layer[run->layer];
    uint32_t n = tw_tile_len(l->count, x->plan->tile, tile);
    tw_tile_stat st;
    if (tw_sums_nothing(x)) {
        const float *g = tw_tile_load(x, run->layer, tile, n, x->tile);
        tw_owner_encode(x, l, tile, n, g, x->input_scale, dst, &st);
    } else if (!reduce_at_once(x, f, i, tile, n, scale, dst, s, &st)) {
        tw_sum_tile(x, f, i, tile, n, x->tile, s);
        tw_owner_encode(x, l, tile, n, x->tile, scale, dst, &st);
    }
    if (st.nonfinite) {
        poison_tile(x, l, tile, n, dst);
        s->code = s->code ? s->code : 1 + (uint32_t)x->plan->me;
    }
    s->x_sq += st.x_sq;
    s->e_sq += st.e_sq;
    return st.nonfinite;
}

/* Tiles go to dst; of a reduce-scatter to *home, and dst has a bit for each, set where it came out as NaN or Inf. */
static uint8_t *reduce_run(tw_exec *x, const tw_frame *f, uint32_t i, uint8_t *dst, uint8_t **home, tw_trailer2 *out) {
    const tw_tiles *run = &x->plan->run[f->run0 + i];
    tw_exec_layer *l = &x->layer[run->layer];
    float scale = x->redop == TW_AVG ? 1.0f / (float)x->plan->size : 1.0f;
    uint8_t *bits = x->plan->kind == TW_KIND_REDUCE_SCATTER ? dst : NULL, **to = bits ? home : &dst;
    tw_run_sum s = {0};
    tw_form_input(x, run->layer);
    tw_read_trailers(x, f, i, &s);
    if (!s.any)
        tw_keep_own_residual(x, l, run);
    if (s.any && bits) {
        memset(bits, 0, run->answer);
        dst += run->answer;
    }
    for (uint32_t k = 0; s.any && k < run->n; k++) {
        bool bad = reduce_tile(x, f, i, run->first + k, scale, *to, &s);
        uint32_t n = tw_tile_len(l->count, x->plan->tile, run->first + k);
        *to += tw_codec_get(l->result.codec)->bytes(&l->result, n, l->dtype);
        if (bits && bad)
            bits[k / 8] |= (uint8_t)(1u << k % 8);
    }
    *out = tw_certify(x, run, &s);
    return dst;
}

uint8_t *tw_trailers2_aside(const tw_exec *x, const tw_frame *f) {
    return x->arena + f->hop2_at + f->hop2_cap - f->nrun * TW_TRAILER2_BYTES;
}

uint32_t tw_seal_answer(tw_exec *x, const tw_frame *f, uint8_t *end) {
    uint8_t *frame = x->arena + f->hop2_at;
    memmove(end, tw_trailers2_aside(x, f), f->nrun * TW_TRAILER2_BYTES);
    uint32_t len = (uint32_t)(end - frame) + f->nrun * TW_TRAILER2_BYTES;
    tw_frame_seal(frame, len, 2, f->index, x->stamp, 0);
    return len;
}

uint32_t tw_exec_reduce(tw_exec *x, const tw_frame *f) {
    uint8_t *dst = x->arena + f->hop2_at + TW_HEADER_BYTES, *home = x->arena + f->home_at;
    uint8_t *aside = tw_trailers2_aside(x, f);
    for (int r = 0; r < x->plan->size; r++)
        x->cursor[r] = TW_HEADER_BYTES;
    for (uint32_t i = 0; i < f->nrun; i++) {
        tw_trailer2 t;
        dst = reduce_run(x, f, i, dst, &home, &t);
        memcpy(aside + i * TW_TRAILER2_BYTES, &t, sizeof t);
    }
    return tw_seal_answer(x, f, dst);
}
