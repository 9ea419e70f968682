/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Received frames, up to the outputs. The first byte of the input chooses: a frame as the bytes are, or frames with good
 * headers whose trailers (first) and payloads are the bytes; those are reduced, judged and decoded as in an op. */
#include "fuzz.h"
#include "exec/stages.h"

enum { LAYERS = 4, COUNT = 700, RANKS = 3 };

static tw_plan_layer layers[LAYERS] = {{.name = "a", .dtype = TW_F32},
                                       {.name = "b", .dtype = TW_BF16},
                                       {.name = "c", .dtype = TW_F32},
                                       {.name = "d", .dtype = TW_F16}};
static const char *const specs[LAYERS] = {"none", "onebit:group=128+ef", "onebit:scale=rms,group=256",
                                          "cast:type=bf16+ef"};
static _Alignas(64) float residual[2][LAYERS][COUNT + 64], values[2][LAYERS][COUNT], tile[4 * TW_MAX_TILE];
static tw_cert certs[2][LAYERS][COUNT];
static tw_exec_layer data_of[LAYERS];
static tw_exec_piece pieces[LAYERS];
static const uint32_t piece0[LAYERS + 1] = {0, 1, 2, 3, 4};
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
        data_of[l].e = layers[l].spec.feedback == TW_FEEDBACK_EF ? residual[0][l] : NULL;
        data_of[l].e_new = data_of[l].e ? residual[1][l] : NULL;
    }
    tw_plan_in in = {.me = 0,
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
                  .input_scale = 1.0f,
                  .redop = TW_AVG,
                  .nonfinite = TW_NONFINITE_PROPAGATE,
                  .nan_layer = -1};
    x.stamp = (tw_stamp){.plan = plan->hash, .step = 7, .epoch = 3};
    x.arena = tw_alloc(ctx, plan->arena_bytes);
    FUZZ_REQUIRE(x.arena);
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
            tw_exec_reduce(&x, &x.plan->frame[f]);
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
        uint32_t len = make(a, &data, &size, off);
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
