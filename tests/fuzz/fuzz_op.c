/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Ops that fuzz_frame does not have, from the first action of their plan to the last: gathers, whose frames come from the
 * bytes, and native sums of payloads and factors, whose results do. The first byte chooses the op and, for a frame, how long
 * it is; frames have good headers. */
#include "fuzz.h"
#include "exec/stages.h"
#include "reducer/op.h"

enum { LAYERS = 6, COUNT = 700, RANKS = 3, TILE = 256, OPS = 3 };

static const char *const specs[OPS][LAYERS] = {
    {"none", "onebit:group=128+ef", "quant:bits=4,group=128", "cast:type=bf16+ef", "topk:density=0.2+ef",
     "topk:density=0.3,select=group,group=128,values=(onebit:group=128)"},
    {"randk:density=0.3+ef", "randk:density=0.2", "randk:density=0.5,scale=unbiased", "randk+ef", "randk+ef", "randk"},
    {"powersgd:rank=3+ef", "powersgd:rank=2,iterations=2,warm_start=0", "none+ef", "randk:density=0.1+ef",
     "powersgd+ef", "none"}};
static const tw_dtype dtypes[OPS][LAYERS] = {{TW_F32, TW_BF16, TW_F32, TW_F16, TW_F32, TW_BF16},
                                             {TW_F32, TW_F32, TW_F32, TW_F32, TW_F32, TW_F32},
                                             {TW_F32, TW_BF16, TW_F16, TW_F32, TW_F16, TW_F32}};
static const char *const names[LAYERS] = {"a", "b", "c", "d", "e", "f"};
static _Alignas(64) float residual[2][LAYERS][768], factor[2][LAYERS][768]; /* rows at lines of the cache */
static _Alignas(64) float values[2][LAYERS][COUNT];
static tw_cert certs[2][LAYERS][COUNT];
static tw_comm comm;
static tw_op *cache;

typedef struct input {
    const uint8_t *data;
    size_t size;
    uint32_t off; /* not 0: what is made is damaged once */
} input;

static uint8_t next_byte(input *in) {
    if (in->size == 0)
        return 0;
    in->size--;
    return *in->data++;
}

static void take(input *in, void *to, size_t n) {
    size_t have = in->size < n ? in->size : n;
    memcpy(to, in->data, have);
    memset((uint8_t *)to + have, 0, n - have);
    in->data += have;
    in->size -= have;
}

/* No transport: this target does what a pump would. */
static tw_status no_sum(void *t, float *buf, uint64_t count, uint64_t cookie) {
    (void)t, (void)buf, (void)count, (void)cookie;
    return TW_ERR_UNSUPPORTED;
}

static tw_op *prepare(uint32_t which) {
    tw_op_layer layer[LAYERS] = {{0}};
    tw_piece piece[LAYERS];
    tw_op *op = NULL;
    for (uint32_t l = 0; l < LAYERS; l++) {
        tw_op_layer *y = &layer[l];
        *y = (tw_op_layer){.name = names[l], .count = 660 - 60 * l, .dtype = dtypes[which][l]};
        FUZZ_REQUIRE(tw_spec_parse(specs[which][l], &y->spec) == TW_OK);
        y->cols = l < 4 ? 20 : 0;
        y->e = y->spec.feedback != TW_FEEDBACK_NONE ? residual[0][l] : NULL;
        y->e_new = y->e ? residual[1][l] : NULL;
        y->left = y->spec.warm_start ? factor[0][l] : NULL;
        y->left_new = y->left ? factor[1][l] : NULL;
        y->cert = certs[0][l];
        y->cert_new = certs[1][l];
        piece[l] = (tw_piece)TW_PIECE(l, 0, y->count, values[0][l], values[1][l]);
    }
    tw_op_args a = {.comm = &comm,
                    .layer = layer,
                    .nlayer = LAYERS,
                    .piece = piece,
                    .npiece = LAYERS,
                    .apart = true,
                    .algo = which == 0 ? TW_ALGO_GATHER : TW_ALGO_NATIVE,
                    .redop = TW_AVG,
                    .nonfinite = TW_NONFINITE_PROPAGATE,
                    .tile = TILE,
                    .frame_bytes = 1024,
                    .input_scale = 1.0f,
                    .step = 7,
                    .epoch = 3};
    FUZZ_REQUIRE(tw_op_prepare(&a, &cache, OPS, &op) == TW_OK);
    op->x.bad_layer = op->x.bad_rank = -1;
    tw_run_start(op->run);
    return op;
}

/* Good spans over a run, with kept values and positions from the bytes, and bits of its tiles where the trailer says so. */
static uint8_t *make_spans(tw_exec *x, const tw_tiles *run, bool bits, uint8_t *dst, input *in) {
    const tw_exec_layer *l = &x->layer[run->layer];
    tw_spec v = tw_spec_values(&l->spec);
    uint64_t stretch = tw_stretch_tiles(&l->spec, TILE), end = run->first + run->n;
    for (uint64_t at = run->first, stop; at < end; at = stop) {
        stop = (at / stretch + 1) * stretch < end ? (at / stretch + 1) * stretch : end;
        uint32_t head[3] = {(uint32_t)tw_tiles_values(l->count, TILE, at, stop - at), 0, 0};
        uint64_t index;
        for (uint32_t p = next_byte(in); p < head[0] && head[1] < 38; p += 1 + next_byte(in) % 32)
            x->picks->kept.pos[head[1]++] = p;
        FUZZ_REQUIRE(tw_index_encode(x->k->index, x->picks->kept.pos, head[1], head[0], x->picks->index, &index) ==
                     TW_OK);
        head[2] = (uint32_t)index;
        memcpy(dst, head, sizeof head);
        uint32_t coded = tw_codec_get(v.codec)->bytes(&v, head[1], TW_F32), padded = (head[2] + 3) / 4 * 4;
        take(in, dst + 12, coded);
        memset(dst + 12 + coded, 0, padded);
        memcpy(dst + 12 + coded, x->picks->index, head[2]);
        dst += 12 + coded + padded;
    }
    if (bits)
        take(in, dst, tw_tile_bits(run->n));
    return dst + (bits ? tw_tile_bits(run->n) : 0);
}

/* A frame for a RECV action. Returns its length. */
static uint32_t make(tw_exec *x, const tw_action *a, input *in) {
    const tw_frame *f = &x->plan->frame[a->frame];
    uint32_t behind = f->nrun * TW_TRAILERG_BYTES;
    uint8_t *frame = x->arena + a->at, *dst = frame + TW_HEADER_BYTES, trailers[64 * TW_TRAILERG_BYTES];
    FUZZ_REQUIRE(behind <= sizeof trailers);
    for (uint32_t r = 0; r < f->nrun; r++) {
        const tw_tiles *run = &x->plan->run[f->run0 + r];
        tw_trailer1 t;
        take(in, &t, sizeof t);
        t.flags = in->off ? t.flags : t.flags % 4;
        memcpy(trailers + r * sizeof t, &t, sizeof t);
        if (t.flags & TW_RUN_ABSENT)
            continue;
        if (f->sparse) {
            dst = make_spans(x, run, t.flags & TW_RUN_NONFINITE, dst, in);
        } else {
            take(in, dst, run->bytes);
            dst += run->bytes;
        }
    }
    uint32_t payload = (uint32_t)(dst - frame) - TW_HEADER_BYTES;
    if (in->off && payload) {
        frame[TW_HEADER_BYTES + (next_byte(in) << 8 | next_byte(in)) % payload] ^= (uint8_t)(1u << in->off % 8);
        dst -= in->off > 8 ? 4 : 0;
        in->off = 0;
    }
    memcpy(dst, trailers, behind);
    uint32_t len = (uint32_t)(dst - frame) + behind;
    tw_frame_seal(frame, len, a->hop, f->index, x->stamp, 0);
    return len;
}

/* What comes of a native sum: P times the digest, so that ranks agree, or whatever the bytes are. The first of them says of
 * which values it is the bytes, so that notes, at the end, can be good beside factors that are not. */
static void sum(tw_exec *x, const tw_action *a, input *in) {
    float *buf;
    uint64_t count;
    FUZZ_REQUIRE(tw_exec_native(x, a, &buf, &count) == TW_OK);
    if (a->frame == TW_AGREEMENT) {
        for (uint64_t i = 0; i < count; i++)
            buf[i] *= RANKS;
        return;
    }
    uint32_t how = next_byte(in), every = 1 + how % 16;
    uint64_t from = how & 128 ? count - (count < 40 ? count : 40) : 0, to = how & 64 ? count : count - count / 8;
    for (uint64_t i = from; i < to; i += every)
        take(in, &buf[i], sizeof buf[i]);
}

static tw_status go(tw_op *op, const tw_action *a, input *in) {
    uint32_t len;
    tw_status s = TW_OK;
    if (a->act == TW_A_COMPUTE)
        s = tw_exec_run(&op->x, a, &len);
    else if (a->act == TW_A_RECV)
        s = tw_exec_accept(&op->x, a, make(&op->x, a, in));
    else if (a->act == TW_A_NATIVE)
        sum(&op->x, a, in);
    FUZZ_REQUIRE(s == TW_OK || (s == TW_ERR_CORRUPT && strlen(tw_last_error()) > 10));
    return s;
}

FUZZ_TARGET(data, size) {
    if (!comm.ctx) {
        FUZZ_REQUIRE(tw_ctx_resolve(NULL, &comm.ctx) == TW_OK);
        comm.size = RANKS;
        comm.rank = 1;
        comm.ops.native_sum = no_sum;
        for (uint32_t i = 0; i < LAYERS * COUNT; i++)
            values[0][i / COUNT][i % COUNT] = (float)(i * 2654435761u >> 20) * 0x1p-10f - 2.0f;
        for (uint32_t l = 0; l < LAYERS; l++) /* inputs in the dtypes of all ops: any bits that are small numbers */
            memset((uint8_t *)values[0][l] + 200, 0x2e, 200);
    }
    if (size < 2)
        return 0;
    tw_op *op = prepare(data[0] % OPS);
    input in = {data + 1, size - 1, data[0] & 64 ? data[0] / OPS % 16u : 0};
    uint32_t action;
    for (bool moved = true; moved;) {
        moved = false;
        for (int lane = 0; lane < TW_LANE_COUNT; lane++)
            while (tw_run_next(op->run, (tw_lane)lane, &action)) {
                if (go(op, &op->plan->action[action], &in) < 0)
                    return 0;
                tw_run_done(op->run, action);
                moved = true;
            }
    }
    FUZZ_REQUIRE(tw_run_finished(op->run));
    return 0;
}

FUZZ_MAIN("op");
