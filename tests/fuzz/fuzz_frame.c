/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Received frames, up to the outputs. The first byte of the input chooses: a frame as the bytes are, or frames with good
 * headers whose trailers (first) and payloads are the bytes; those are reduced, judged and decoded as in an op. */
#include "fuzz.h"
#include "exec/stages.h"

enum { LAYERS = 6, COUNT = 700, RANKS = 3 };

static tw_plan_layer layers[LAYERS] = {{.name = "a", .dtype = TW_F32}, {.name = "b", .dtype = TW_BF16},
                                       {.name = "c", .dtype = TW_F32}, {.name = "d", .dtype = TW_F16},
                                       {.name = "e", .dtype = TW_F32}, {.name = "f", .dtype = TW_BF16}};
static const char *const specs[LAYERS] = {"none",
                                          "onebit:group=128+ef",
                                          "onebit:scale=rms,group=256",
                                          "cast:type=bf16+ef",
                                          "topk:density=0.2+ef",
                                          "topk:density=0.3,select=group,group=128,values=(onebit:group=128)"};
static _Alignas(64) float residual[2][LAYERS][COUNT + 64], values[2][LAYERS][COUNT], tile[4 * TW_MAX_TILE];
static tw_cert certs[2][LAYERS][COUNT];
static tw_exec_layer data_of[LAYERS];
static tw_exec_piece pieces[LAYERS];
static const uint32_t piece0[LAYERS + 1] = {0, 1, 2, 3, 4, 5, 6};
static tw_exec_part part_of[LAYERS];
static tw_picks picks;
static float aside[2 * COUNT + 2048], kept[LAYERS * COUNT];
static uint16_t aside_place[2 * COUNT + 2048], kept_place[LAYERS * COUNT];
static tw_reader reader[RANKS];
static tw_kept_of kept_of[LAYERS * 8];
static uint32_t flagged[LAYERS];
static tw_run_sum sums[64];
static uint32_t cursor[RANKS];
static const uint8_t *part[RANKS];
static tw_exec x;

static void prepare(void) {
    tw_ctx *ctx;
    tw_plan *plan;
    tw_plan_piece all[LAYERS];
    FUZZ_REQUIRE(tw_ctx_resolve(NULL, &ctx) == TW_OK);
    for (uint32_t l = 0; l < LAYERS; l++) {
        FUZZ_REQUIRE(tw_spec_parse(specs[l], &layers[l].spec) == TW_OK);
        layers[l].count = COUNT - 50 * l;
        layers[l].tiles = tw_layer_tiles(layers[l].count, 256);
        all[l] = (tw_plan_piece){l, 0, layers[l].count};
        pieces[l] = (tw_exec_piece){l, 0, layers[l].count, values[0][l], values[1][l]};
        data_of[l] = (tw_exec_layer){.name = layers[l].name,
                                     .name_hash = tw_hash64(layers[l].name, 1, 0),
                                     .index = l,
                                     .count = layers[l].count,
                                     .dtype = layers[l].dtype,
                                     .spec = layers[l].spec,
                                     .result = layers[l].spec,
                                     .cert = certs[0][l],
                                     .cert_new = certs[1][l]};
        data_of[l].e = layers[l].spec.feedback != TW_FEEDBACK_NONE ? residual[0][l] : NULL;
        data_of[l].e_new = data_of[l].e ? residual[1][l] : NULL;
    }
    tw_plan_in in = {.me = 1, /* owns tiles of layers of every kind */
                     .size = RANKS,
                     .layer = layers,
                     .nlayer = LAYERS,
                     .piece = all,
                     .npiece = LAYERS,
                     .algo = TW_ALGO_SRA,
                     .redop = TW_AVG,
                     .tile = 256,
                     .frame_bytes = 1024};
    FUZZ_REQUIRE(tw_plan_build(ctx, &in, &plan) == TW_OK);
    x = (tw_exec){.ctx = ctx,
                  .plan = plan,
                  .k = tw_kernels_best(),
                  .layer = data_of,
                  .piece = pieces,
                  .piece0 = piece0,
                  .nlayer = LAYERS,
                  .npiece = LAYERS,
                  .cursor = cursor,
                  .part = part,
                  .tile = tile,
                  .part_of = part_of,
                  .picks = &picks,
                  .reader = reader,
                  .aside = aside,
                  .aside_place = aside_place,
                  .kept = kept,
                  .kept_place = kept_place,
                  .kept_of = kept_of,
                  .flagged = flagged,
                  .sums = sums,
                  .input_scale = 1.0f,
                  .redop = TW_AVG,
                  .nonfinite = TW_NONFINITE_PROPAGATE,
                  .nan_layer = -1};
    x.stamp = (tw_stamp){.plan = plan->hash, .step = 7, .epoch = 3};
    x.arena = tw_alloc(ctx, plan->arena_bytes);
    FUZZ_REQUIRE(x.arena && tw_plan_aside(plan) <= TW_ARRAY_LEN(aside) && plan->kept_room <= TW_ARRAY_LEN(kept) &&
                 plan->part_tiles <= TW_ARRAY_LEN(kept_of));
    FUZZ_REQUIRE(plan->flag_words <= LAYERS && plan->nrun <= 64);
}

static uint8_t next_byte(const uint8_t **data, size_t *size) {
    uint8_t b = *size ? **data : 0;
    *data += *size > 0;
    *size -= *size > 0;
    return b;
}

/* Good spans over a run, with kept values and positions from the bytes, and bits of its tiles where the trailer says so. */
static uint8_t *make_spans(const tw_tiles *run, bool bits, uint8_t *dst, const uint8_t **data, size_t *size) {
    const tw_spec *s = &layers[run->layer].spec;
    tw_spec v = tw_spec_values(s);
    uint64_t stretch = tw_stretch_tiles(s, 256), end = run->first + run->n;
    for (uint64_t at = run->first, stop; at < end; at = stop) {
        stop = (at / stretch + 1) * stretch < end ? (at / stretch + 1) * stretch : end;
        uint32_t head[3] = {(uint32_t)tw_tiles_values(layers[run->layer].count, 256, at, stop - at), 0, 0};
        uint64_t index;
        for (uint32_t p = next_byte(data, size); p < head[0] && head[1] < 38; p += 1 + next_byte(data, size) % 32)
            picks.kept.pos[head[1]++] = p;
        FUZZ_REQUIRE(tw_index_encode(x.k->index, picks.kept.pos, head[1], head[0], picks.index, &index) == TW_OK);
        head[2] = (uint32_t)index;
        memcpy(dst, head, sizeof head);
        uint32_t coded = tw_codec_get(v.codec)->bytes(&v, head[1], TW_F32), padded = (head[2] + 3) / 4 * 4;
        for (uint32_t i = 0; i < coded; i++)
            dst[12 + i] = next_byte(data, size);
        memset(dst + 12 + coded, 0, padded);
        memcpy(dst + 12 + coded, picks.index, head[2]);
        dst += 12 + coded + padded;
    }
    for (uint32_t i = 0; bits && i < tw_tile_bits(run->n); i++)
        *dst++ = next_byte(data, size);
    return dst;
}

/* A sparse frame: as above; `off` damages a byte. */
static uint32_t make_sparse(const tw_action *a, const uint8_t **data, size_t *size, uint32_t off) {
    const tw_frame *f = &x.plan->frame[a->frame];
    uint32_t each = a->hop == 1 ? TW_TRAILER1_BYTES : TW_TRAILER2_BYTES, behind = f->nrun * each;
    uint8_t *frame = x.arena + a->at, *dst = frame + TW_HEADER_BYTES, trailers[64 * TW_TRAILER1_BYTES] = {0};
    for (uint32_t r = 0; r < f->nrun; r++) {
        uint32_t word = next_byte(data, size) % 4u;
        bool absent = a->hop == 1 ? word & TW_RUN_ABSENT : word == 3;
        word = a->hop == 2 && absent ? TW_CODE_ABSENT : word;
        memcpy(trailers + r * each, &word, sizeof word);
        bool bits = a->hop == 1 ? word & TW_RUN_NONFINITE : word != 0;
        if (!absent)
            dst = make_spans(&x.plan->run[f->run0 + r], bits, dst, data, size);
    }
    uint32_t payload = (uint32_t)(dst - frame) - TW_HEADER_BYTES;
    if (off && payload)
        frame[TW_HEADER_BYTES + (next_byte(data, size) << 8 | next_byte(data, size)) % payload] ^=
            (uint8_t)(1u << off % 8);
    memcpy(dst, trailers, behind);
    tw_frame_seal(frame, TW_HEADER_BYTES + payload + behind, a->hop, f->index, x.stamp, 0);
    return TW_HEADER_BYTES + payload + behind;
}

/* Frame for a RECV action: trailers and payload from the bytes (zeros where they end), of the length that the trailers ask
 * for, or `off` bytes away from it. Returns the length. */
static uint32_t make(const tw_action *a, const uint8_t **data, size_t *size, uint32_t off) {
    const tw_frame *f = &x.plan->frame[a->frame];
    uint32_t each = a->hop == 1 ? TW_TRAILER1_BYTES : TW_TRAILER2_BYTES, payload = 0, behind = f->nrun * each;
    uint8_t *frame = x.arena + a->at, trailers[64 * TW_TRAILER1_BYTES] = {0};
    FUZZ_REQUIRE(behind <= sizeof trailers);
    size_t take = *size < behind ? *size : behind;
    memcpy(trailers, *data, take);
    *data += take;
    *size -= take;
    for (uint32_t r = 0; r < f->nrun; r++) {
        uint32_t word;
        memcpy(&word, trailers + r * each, sizeof word);
        bool absent = a->hop == 1 ? word & TW_RUN_ABSENT : word == TW_CODE_ABSENT;
        const tw_tiles *run = &x.plan->run[f->run0 + r];
        payload += absent ? 0 : a->hop == 1 ? run->bytes : run->answer;
    }
    payload += off < a->cap - TW_HEADER_BYTES - behind - payload ? off : 0;
    memset(frame, 0, TW_HEADER_BYTES + payload);
    take = *size < payload ? *size : payload;
    memcpy(frame + TW_HEADER_BYTES, *data, take);
    *data += take;
    *size -= take;
    memcpy(frame + TW_HEADER_BYTES + payload, trailers, behind);
    tw_frame_seal(frame, TW_HEADER_BYTES + payload + behind, a->hop, f->index, x.stamp, 0);
    return TW_HEADER_BYTES + payload + behind;
}

static void go_on(void) {
    tw_fpenv env = tw_fp_enter();
    for (uint32_t f = 0; f < x.plan->nframe; f++)
        if (x.plan->frame[f].owner == x.plan->me)
            (void)(x.plan->frame[f].sparse ? tw_exec_sum(&x, &x.plan->frame[f])
                                           : tw_exec_reduce(&x, &x.plan->frame[f]));
    for (uint32_t l = 0; l < LAYERS; l++)
        if (tw_codec_is_sparse(&layers[l].spec))
            tw_exec_select(&x, l, 2);
    for (uint32_t f = 0; f < x.plan->nframe; f++)
        if (x.plan->frame[f].owner == x.plan->me && x.plan->frame[f].sparse)
            (void)tw_exec_answer(&x, &x.plan->frame[f]);
    x.bad_layer = x.bad_rank = -1;
    FUZZ_REQUIRE(tw_exec_verdict(&x) == TW_OK);
    for (uint32_t f = 0; f < x.plan->nframe; f++)
        tw_exec_decode(&x, &x.plan->frame[f]);
    tw_fp_leave(env);
}

FUZZ_TARGET(data, size) {
    bool all = true;
    if (!x.plan)
        prepare();
    if (size < 2)
        return 0;
    if (data[0] % 4 == 0) {
        tw_frame_check(data + 1, size - 1, 1 + data[0] / 4 % 2, 0, x.stamp, 1);
        tw_frame_is_poison(data + 1, size - 1);
        return 0;
    }
    uint32_t off = data[0] % 4 == 1 ? data[1] % 16u : 0;
    data += 2;
    size -= 2;
    for (uint32_t i = 0; i < x.plan->naction; i++) {
        const tw_action *a = &x.plan->action[i];
        if (a->act != TW_A_RECV)
            continue;
        uint32_t len = (x.plan->frame[a->frame].sparse ? make_sparse : make)(a, &data, &size, off);
        tw_status s = tw_exec_accept(&x, a, len);
        FUZZ_REQUIRE(s == TW_OK || strlen(tw_last_error()) > 10);
        FUZZ_REQUIRE(s == TW_OK || s == TW_ERR_CORRUPT);
        all = all && s == TW_OK;
    }
    if (all)
        go_on();
    return 0;
}

FUZZ_MAIN("frame");
