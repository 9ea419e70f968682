/* SPDX-License-Identifier: BSD-3-Clause
 *
 * ENCODE: one frame of a foreign owner's tiles. Prepare, encode, reconstruct and residual update of a tile happen in
 * one call while it is in L1; the new residual goes to the other buffer. */
#include "exec/stages.h"

static uint32_t tile_bytes(const tw_exec_layer *l, uint32_t n) {
    return tw_codec_get(l->spec.codec)->bytes(&l->spec, n, l->dtype);
}

double tw_keep_residual(const tw_exec *x, tw_exec_layer *l, uint64_t at, uint32_t n) {
    if (!l->e)
        return 0;
    l->kept = true;
    memcpy(l->e_new + at, l->e + at, (size_t)n * sizeof(float));
    return x->k->sum_sq(l->e + at, n);
}

tw_noise tw_noise_of(const tw_spec *s, uint64_t name_hash, uint32_t draw, uint32_t rank, uint32_t hop, uint64_t tile) {
    tw_noise noise = {{0}, {0}};
    tw_draws draws = tw_spec_draws(s);
    if (draws == TW_DRAWS_NONE)
        return noise;
    bool shared = draws == TW_DRAWS_SHARED;
    uint32_t words[4] = {s->seed, draw, shared ? UINT32_MAX : rank, shared ? 0 : hop};
    uint64_t key = tw_hash64(words, sizeof words, name_hash);
    memcpy(noise.key, &key, sizeof key);
    memcpy(noise.tile, &tile, sizeof tile);
    return noise;
}

tw_noise tw_tile_noise(const tw_exec *x, const tw_exec_layer *l, uint64_t tile, uint32_t hop) {
    return tw_noise_of(&l->spec, l->name_hash, x->draw, (uint32_t)x->plan->me, hop, tile);
}

tw_noise tw_shared_noise(const tw_exec *x, const tw_exec_layer *l, uint64_t tile) {
    bool shared = tw_spec_draws(&l->spec) == TW_DRAWS_SHARED;
    return shared ? tw_tile_noise(x, l, tile, 0) : (tw_noise){{0}, {0}};
}

void tw_encode_scaled(tw_exec *x, const tw_spec *s, const tw_enc *a, float factor, tw_tile_stat *st) {
    const tw_spec plain = TW_SPEC_INIT;
    float *kept = x->tile + 2 * TW_MAX_TILE, *decoded = x->tile + 3 * TW_MAX_TILE;
    if (factor == 1.0f) {
        x->k->encode[s->codec][TW_V_EF](s, a, st);
        return;
    }
    /* The loop with feedback writes past the caches; what it makes is made here from one that does not. */
    tw_enc b = *a;
    b.g = kept;
    b.e = NULL;
    b.out = decoded;
    b.scale = 1.0f;
    x->k->set_scaled(kept, a->g, a->scale, a->n);
    x->k->add_scaled(kept, a->e, 1.0f, a->n);
    x->k->encode[s->codec][TW_V_RECON](s, &b, st);
    x->k->add_scaled(kept, decoded, -1.0f, a->n);
    x->k->set_scaled(kept, kept, factor, a->n);
    x->k->decode_stream[TW_CODEC_NONE](&plain, TW_F32, kept, a->out, a->n, NULL);
}

void tw_settle_slot(tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n, const tw_tile_stat *st) {
    uint64_t at = tile * x->plan->tile;
    if (l->e && st->nonfinite)
        memcpy(l->e_new + at, l->e + at, (size_t)n * sizeof(float));
    else if (l->e && l->drain)
        memset(l->e_new + at, 0, (size_t)n * sizeof(float));
}

void tw_encode_tile(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, bool fold, uint8_t *dst, tw_tile_stat *st) {
    tw_exec_layer *l = &x->layer[layer];
    uint64_t at = tile * x->plan->tile;
    float factor = fold ? tw_keeps_share(l) / (float)x->plan->size : tw_keeps_share(l), *folded = x->tile + TW_MAX_TILE;
    tw_enc a = {.g = tw_tile_load(x, layer, tile, n, x->tile),
                .e = l->e ? l->e + at : NULL,
                .out = l->e ? l->e_new + at : NULL,
                .scale = tw_scale_of(x, l),
                .n = n,
                .dtype = tw_sent_as(x, l),
                .dst = dst};
    a.noise = tw_tile_noise(x, l, tile, 1);
    a.part = x->plan->kind == TW_KIND_ALLREDUCE && !x->plan->gather;
    if (fold) {
        x->k->set_scaled(folded, a.e, (float)x->plan->size, n);
        a.e = folded;
    }
    if (l->e && !l->drain)
        tw_encode_scaled(x, &l->spec, &a, factor, st);
    else
        x->k->encode[l->spec.codec][l->e ? TW_V_DRAIN : TW_V_PLAIN](&l->spec, &a, st);
    tw_settle_slot(x, l, tile, n, st);
}

/* What a gather's trailers have beside: the square of a residual that counts so many times, and the owner's errors so far. */
static void add_folded(const tw_exec *x, const tw_frame *f, const tw_tiles *run, bool fold, tw_trailer1 *t) {
    const tw_exec_layer *l = &x->layer[run->layer];
    double sq = 0, acc, bound;
    if (!x->plan->gather)
        return;
    for (uint64_t tile = run->first; fold && !l->absent && tile < run->first + run->n; tile++)
        sq += x->k->sum_sq(l->e + tile * x->plan->tile, tw_tile_len(l->count, x->plan->tile, tile));
    t->x_norm = tw_float_up((double)t->x_norm + x->plan->size * (double)tw_norm_up(sq));
    if (l->cert && f->owner == x->plan->me) {
        tw_cert_read(l->cert, run->first, run->n, &acc, &bound);
        t->before = tw_float_up(acc);
    }
}

static uint8_t *encode_run(tw_exec *x, const tw_frame *f, const tw_tiles *run, uint8_t *dst, tw_trailer1 *t) {
    tw_exec_layer *l = &x->layer[run->layer];
    bool fold = x->plan->gather && tw_is_folded(x, run->layer, f->owner);
    double x_sq = 0, e_sq = 0;
    *t = (tw_trailer1){.flags = l->absent ? TW_RUN_ABSENT : 0};
    tw_form_input(x, run->layer);
    bool tiled = !tw_codec_is_sparse(&l->spec);
    for (uint64_t tile = run->first; (tiled || l->absent) && tile < run->first + run->n; tile++) {
        uint32_t n = tw_tile_len(l->count, x->plan->tile, tile);
        if (l->absent) {
            e_sq += tw_keep_residual(x, l, tile * x->plan->tile, n);
            continue;
        }
        tw_tile_stat st;
        tw_encode_tile(x, run->layer, tile, n, fold, dst, &st);
        if (st.nonfinite)
            t->flags |= TW_RUN_NONFINITE;
        x_sq += st.x_sq;
        e_sq += st.e_sq;
        dst += tile_bytes(l, n);
    }
    if (!tiled && !l->absent) {
        tw_run_sum s = {0};
        bool bad;
        dst = tw_spans_write(x, run, 1, dst, &s, &bad);
        t->flags |= bad ? TW_RUN_NONFINITE : 0;
        x_sq = s.x_sq;
        e_sq = s.e_sq;
    }
    e_sq *= fold && l->absent ? (double)x->plan->size * x->plan->size : 1.0;
    t->x_norm = tw_norm_up(x_sq);
    t->e_norm = tw_norm_up(e_sq);
    add_folded(x, f, run, fold, t);
    return dst;
}

uint32_t tw_exec_encode(tw_exec *x, const tw_frame *f) {
    uint8_t *frame = x->arena + f->hop1_at, *dst = frame + TW_HEADER_BYTES;
    /* Trailers lie behind the payload, whose length is known once absent layers are: they are kept aside meanwhile. */
    uint32_t each = tw_trailer_bytes(x->plan, 1), trailers = f->nrun * each;
    uint8_t *aside = frame + f->hop1_cap - trailers;
    for (uint32_t i = 0; i < f->nrun; i++) {
        tw_trailer1 t;
        dst = encode_run(x, f, &x->plan->run[f->run0 + i], dst, &t);
        memcpy(aside + i * each, &t, each);
    }
    memmove(dst, aside, trailers);
    uint32_t len = (uint32_t)(dst - frame) + trailers;
    tw_frame_seal(frame, len, 1, f->index, x->stamp, 0);
    return len;
}
