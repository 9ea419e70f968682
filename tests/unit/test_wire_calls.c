/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Every frame of tw_allreduce, tw_reduce_scatter, tw_allgather and tw_broadcast between three ranks, tiled and sparse,
 * recomputed by tests/scripts/wire_format.py. And that it tells when a bit of one is wrong. */
#include "wire_tap.h"
#include "reducer/stateless.h"

enum { RANKS = WIRE_RANKS, TILE = 256, FRAME = 600, MOST = 2000 };

typedef struct one_call {
    tw_kind kind;
    int root;
    tw_redop redop;
    tw_dtype dtype;
    uint64_t count;
    const char *spec;
} one_call;

static const one_call calls[] = {
    {TW_KIND_ALLREDUCE, 0, TW_AVG, TW_F32, 1500, "topk:density=0.1"},
    {TW_KIND_ALLREDUCE, 0, TW_SUM, TW_BF16, 1000, "quant:rounding=stochastic,group=128"},
    {TW_KIND_REDUCE_SCATTER, 0, TW_AVG, TW_F32, 900, "onebit:group=128"},
    {TW_KIND_REDUCE_SCATTER, 0, TW_SUM, TW_F16, 1100,
     "topk:density=0.2,values=(quant:bits=4,group=128,rounding=stochastic)"},
    {TW_KIND_REDUCE_SCATTER, 0, TW_AVG, TW_F32, 700, "topk:density=0.1,select=threshold"},
    {TW_KIND_REDUCE_SCATTER, 0, TW_AVG, TW_F32, 500, "randk:density=0.2,scale=unbiased"},
    {TW_KIND_ALLGATHER, 0, TW_SUM, TW_F32, 800, "quant:bits=6,group=128,rounding=stochastic,seed=5"},
    {TW_KIND_ALLGATHER, 0, TW_SUM, TW_BF16, 1300, "topk:density=0.1,select=group,group=128"},
    {TW_KIND_ALLGATHER, 0, TW_SUM, TW_F16, 300, "none"},
    {TW_KIND_ALLGATHER, 0, TW_SUM, TW_F32, 333, "randk:density=0.3"},
    {TW_KIND_BROADCAST, 1, TW_SUM, TW_F32, 1900, "ternary:group=128,rounding=stochastic"},
    {TW_KIND_BROADCAST, 2, TW_SUM, TW_F32, 2000, "topk:density=0.3,values=(quant:group=128,rounding=stochastic)"},
    {TW_KIND_BROADCAST, 0, TW_SUM, TW_BF16, 1700, "topk:density=0.1,select=threshold"},
    {TW_KIND_BROADCAST, 0, TW_SUM, TW_F32, 0, "none"},
};
enum { CALLS = sizeof calls / sizeof calls[0] };

typedef struct world {
    wire_log log;
    wire_tap taps[RANKS];
    tw_status ends[RANKS];
    _Alignas(4) uint8_t in[CALLS][RANKS][RANKS * MOST * 4], out[CALLS][RANKS][RANKS * MOST * 4];
} world;
static world w;

static size_t bytes_in(const one_call *c) {
    return c->count * tw_dtype_size(c->dtype) * (c->kind == TW_KIND_REDUCE_SCATTER ? RANKS : 1);
}
static size_t bytes_out(const one_call *c) {
    return c->count * tw_dtype_size(c->dtype) * (c->kind == TW_KIND_ALLGATHER ? RANKS : 1);
}

static void draw(void) {
    unit_rng r = unit_seeded("wire calls");
    for (int i = 0; i < CALLS; i++)
        for (int k = 0; k < RANKS; k++)
            for (size_t v = 0; v < bytes_in(&calls[i]) / tw_dtype_size(calls[i].dtype); v++) {
                float x = unit_float(&r) * (float)(1 + v % 5);
                x = k == 1 && v == 400 && (i == 3 || i == 6 || i == 7 || i == 10) ? unit_from_bits(0x7f800000u) : x;
                uint16_t h = calls[i].dtype == TW_F16 ? tw_f32_to_f16(x) : tw_f32_to_bf16(x);
                if (calls[i].dtype == TW_F32)
                    memcpy(w.in[i][k] + 4 * v, &x, 4);
                else
                    memcpy(w.in[i][k] + 2 * v, &h, 2);
            }
}

static tw_status call(tw_comm *comm, int i, int rank) {
    const one_call *c = &calls[i];
    tw_op *op;
    tw_call k = {.comm = comm,
                 .kind = c->kind,
                 .in = w.in[i][rank],
                 .out = w.out[i][rank],
                 .count = c->count,
                 .dtype = c->dtype,
                 .redop = c->redop,
                 .root = c->root,
                 .tile = TILE,
                 .frame_bytes = FRAME};
    if (c->kind == TW_KIND_BROADCAST) {
        memcpy(w.out[i][rank], w.in[i][rank], bytes_in(c));
        k.in = k.out;
    }
    tw_status s = tw_spec_parse(c->spec, &k.spec);
    if (s >= 0)
        s = tw_call_start(&k, &op);
    return s < 0 ? s : tw_call_wait(op);
}

static void *rank_main(void *arg) {
    wire_tap *p = arg;
    tw_transport_ops ops = wire_ops(p, false);
    tw_comm *comm;
    tw_status s = tw_comm_create(NULL, &ops, p, p->rank, RANKS, &comm);
    for (int i = 0; i < CALLS && s >= 0; i++)
        s = call(comm, i, p->rank);
    w.ends[p->rank] = s;
    if (s < 0)
        fprintf(stderr, "rank %d: %s\n", p->rank, tw_last_error());
    tw_comm_destroy(comm);
    return NULL;
}

static void dump(FILE *f, const void *what) {
    fprintf(f, "ranks %d\ntile %d\nframe_bytes %d\nbucket_bytes 0\nin_flight 0\nredop 1\nalgo 3\n", RANKS, TILE, FRAME);
    for (int i = 0; i < CALLS; i++) {
        const one_call *c = &calls[i];
        fprintf(f, "call %d %d %d %d %llu %s\n", (int)c->kind, c->root, (int)c->redop, (int)c->dtype,
                (unsigned long long)c->count, c->spec);
        for (int k = 0; k < RANKS; k++) {
            fprintf(f, "in %d ", k);
            wire_put_hex(f, w.in[i][k], bytes_in(c));
            fprintf(f, "out %d ", k);
            wire_put_hex(f, w.out[i][k], bytes_out(c));
        }
    }
    wire_put_log(f, &w.log);
    (void)what;
}

static void run(void) {
    pthread_t thread[RANKS];
    if (w.log.n)
        return;
    draw();
    wire_open(&w.log, w.taps);
    for (int k = 0; k < RANKS; k++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&thread[k], NULL, rank_main, &w.taps[k]), 0);
    for (int k = 0; k < RANKS; k++)
        pthread_join(thread[k], NULL);
    for (int k = 0; k < RANKS; k++)
        CU_ASSERT_EQUAL(w.ends[k], TW_OK);
    CU_ASSERT(w.log.n > 50 && w.log.n < WIRE_RECORDS);
}

static bool has_python(void) {
    return system("python3 -c 'import struct' >/dev/null 2>&1") == 0;
}

static void an_independent_reader_agrees(void) {
    run();
    if (has_python())
        wire_read_again(dump, &w);
    else
        unit_skip("there is no python3 here");
}

static void a_wrong_bit_is_told(void) {
    run();
    if (has_python())
        wire_must_fail(dump, &w, &w.log, w.log.n / 4);
    else
        unit_skip("there is no python3 here");
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(an_independent_reader_agrees), UNIT_TEST(a_wrong_bit_is_told)};
    return unit_main("wire_calls", tests, UNIT_COUNT(tests));
}
