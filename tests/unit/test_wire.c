/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Every frame that three ranks send, as docs/wire-format.md says it. They are recorded below the communicator, then
 * recomputed from the inputs by tests/scripts/wire_format.py, which shares no line with the library. */
#include "unit.h"
#include "exec/exec.h"
#include "transports/local.h"

#include <pthread.h>
#include <stdbool.h>

enum { RANKS = 3, LAYERS = 20, STEPS = 4, MOST = 9000, FRAMES = 8192, WORLDS = 2 };

/* Small tiles and frames, averages; and the usual ones, sums, groups of several segments, a layer that loses its
 * feedback. */
static const struct {
    const char *rules;
    uint64_t bucket_bytes;
    uint32_t tile, frame_bytes;
    tw_redop redop;
    tw_layer layer[LAYERS];
} setup[WORLDS] = {
    {"grid=onebit:group=128+ef; rms=onebit:group=256,scale=rms; *half=cast:type=fp16; *.bf=cast+ef; small*=none+ef; "
     "q8=quant:group=128,rounding=stochastic,seed=9+ef; q4=quant:bits=4,group=256,scale=mse,rotate=hadamard+ef; "
     "q3=quant:bits=3,group=128,scale=minmax,seed=1+ef; "
     "two=onebit:group=128,scale=twosided+ef; eight=cast:type=fp8e5m2,group=128; t0=ternary:group=128+ef; "
     "t1=ternary:rounding=stochastic,seed=3,group=256+ef; k0=topk:density=0.1+ef; "
     "k1=topk:density=0.2,select=group,group=128,values=(onebit:group=128)+ef; "
     "k2=topk:density=0.3,select=threshold,values=(quant:rounding=stochastic); r0=randk:density=0.07,seed=6+ef; "
     "r1=randk:density=0.6,scale=unbiased; *=none",
     6000,
     256,
     256,
     TW_AVG,
     {TW_LAYER("grid", 1500),
      TW_LAYER("rms", 1111),
      TW_LAYER("a.half", 777),
      TW_LAYER("b.bf", 513),
      TW_LAYER_DTYPE("small.f16", 301, TW_F16),
      TW_LAYER_DTYPE("dense", 259, TW_BF16),
      TW_LAYER("one", 1),
      TW_LAYER("nothing", 0),
      TW_LAYER("q8", 1000),
      TW_LAYER("q4", 900),
      TW_LAYER_DTYPE("q3", 700, TW_BF16),
      TW_LAYER("two", 901),
      TW_LAYER("eight", 603),
      TW_LAYER("t0", 555),
      TW_LAYER_DTYPE("t1", 801, TW_BF16),
      TW_LAYER("k0", 5000),
      TW_LAYER_DTYPE("k1", 1500, TW_BF16),
      TW_LAYER("k2", 2777),
      TW_LAYER("r0", 903),
      TW_LAYER_DTYPE("r1", 702, TW_BF16)}},
    {"grid=onebit+ef; rms=onebit:group=2048,scale=rms+ef; *half=cast:type=fp16; *.bf=cast+ef until 3 then cast; "
     "small*=onebit+ef until 4 then none; "
     "q8=quant+ef until 4 then quant:scale=mse; q4=quant:bits=6,scale=mse,group=2048,rounding=stochastic; "
     "q3=quant:bits=2,group=1024,rotate=hadamard,seed=4000000001+ef; "
     "two=onebit:group=4096,scale=twosided; eight=cast:type=fp8e4m3+ef; t0=ternary; "
     "t1=ternary:group=2048,rounding=stochastic+ef; k0=topk:density=0.9+ef until 4 then topk; "
     "k1=topk:density=0.05,values=(cast:type=fp16)+ef; k2=topk:density=0.4,select=group+ef; "
     "r0=randk:density=0.04,scale=unbiased; r1=randk+ef; *=none",
     4 << 20,
     4096,
     0,
     TW_SUM,
     {TW_LAYER("grid", 9000),
      TW_LAYER("rms", 7000),
      TW_LAYER("a.half", 4097),
      TW_LAYER("b.bf", 5000),
      TW_LAYER_DTYPE("small.f16", 4500, TW_F16),
      TW_LAYER_DTYPE("dense", 300, TW_BF16),
      TW_LAYER("one", 1),
      TW_LAYER("nothing", 0),
      TW_LAYER("q8", 5000),
      TW_LAYER("q4", 6000),
      TW_LAYER("q3", 4999),
      TW_LAYER("two", 5000),
      TW_LAYER("eight", 4803),
      TW_LAYER("t0", 6001),
      TW_LAYER("t1", 4999),
      TW_LAYER("k0", 9000),
      TW_LAYER_DTYPE("k1", 9000, TW_F16),
      TW_LAYER("k2", 8192),
      TW_LAYER("r0", 6003),
      TW_LAYER("r1", 8200)}},
};

/* ---- a transport that writes down what is sent ---- */
typedef struct record {
    int from, to;
    uint32_t tag;
    size_t len;
    uint8_t *bytes;
} record;

typedef struct world world;
typedef struct tap {
    const tw_transport_ops *ops;
    void *t;
    world *w;
    int rank;
    bool broken; /* the next send fails */
} tap;

struct world {
    int setup;
    bool run;
    unsigned nrecord;
    pthread_mutex_t lock;
    pthread_barrier_t all_here;
    tap taps[RANKS];
    tw_status ends[RANKS], after[RANKS];
    record records[FRAMES];
    bool present[STEPS][RANKS][LAYERS];
    char spec[STEPS][LAYERS][96];
    _Alignas(4) uint8_t in[STEPS][RANKS][LAYERS][MOST * 4];
    _Alignas(4) uint8_t out[STEPS][RANKS][LAYERS][MOST * 4];
};
static world worlds[WORLDS];

static tw_status tap_allgather(void *t, const void *mine, void *all, size_t bytes) {
    tap *p = t;
    return p->ops->oob_allgather(p->t, mine, all, bytes);
}

static tw_status tap_post(void *t, const tw_xfer *x) {
    tap *p = t;
    if (x->is_send && p->broken && x->tag != 0)
        return TW_ERR_TRANSPORT;
    if (x->is_send) {
        pthread_mutex_lock(&p->w->lock);
        uint8_t *copy = malloc(x->len);
        if (copy && p->w->nrecord < FRAMES) {
            memcpy(copy, x->buf, x->len);
            p->w->records[p->w->nrecord++] = (record){p->rank, x->peer, x->tag, x->len, copy};
        }
        pthread_mutex_unlock(&p->w->lock);
    }
    return p->ops->post(p->t, x);
}

static int tap_poll(void *t, tw_done *done, int cap) {
    tap *p = t;
    return p->ops->poll(p->t, done, cap);
}

static void tap_close(void *t) {
    tap *p = t;
    p->ops->close(p->t);
}

static void tap_abandon(void *t) {
    tap *p = t;
    p->ops->abandon(p->t);
}

static const char *tap_error(void *t) {
    tap *p = t;
    return p->broken ? "the test broke it" : p->ops->error ? p->ops->error(p->t) : "";
}

/* ---- the run: step 1 plain, 2 with absent layers, 3 with NaN, 4 scaled; then rank 0 fails alone ---- */
static const tw_layer *layer_of(const world *w, int l) {
    return &setup[w->setup].layer[l];
}

static size_t bytes_of(const world *w, int l) {
    return layer_of(w, l)->count * tw_dtype_size(layer_of(w, l)->dtype);
}

static void put(world *w, int step, int rank, int l, uint64_t i, float x) {
    tw_dtype t = layer_of(w, l)->dtype;
    uint16_t h = t == TW_F16 ? tw_f32_to_f16(x) : tw_f32_to_bf16(x);
    if (t == TW_F32)
        memcpy(w->in[step][rank][l] + 4 * i, &x, 4);
    else
        memcpy(w->in[step][rank][l] + 2 * i, &h, 2);
}

static void draw_inputs(world *w) {
    unit_rng r = unit_seeded("wire");
    for (int s = 0; s < STEPS; s++)
        for (int k = 0; k < RANKS; k++)
            for (int l = 0; l < LAYERS; l++) {
                w->present[s][k][l] = !(s == 1 && (l == 1 || l == 5 || (l == 0 && k != 2) || (l == 3 && k == 1) ||
                                                   l == 17 || (l == 15 && k == 0)));
                for (uint64_t i = 0; i < layer_of(w, l)->count; i++)
                    put(w, s, k, l, i, unit_float(&r) * (float)(1 + i % 7) + 0.25f * unit_float(&r));
            }
    put(w, 2, 1, 0, 700, unit_from_bits(0x7fc00000u)); /* with feedback */
    put(w, 2, 2, 0, 701, unit_from_bits(0x7f800000u));
    put(w, 2, 0, 2, 5, 70000.0f); /* without: overflows in fp16 */
    put(w, 2, 2, 5, 258, unit_from_bits(0x7f800000u));
    put(w, 2, 0, 8, 300, unit_from_bits(0x7f800000u));
    put(w, 2, 1, 9, 899, unit_from_bits(0x7fc00000u));
    put(w, 2, 0, 15, 300, unit_from_bits(0x7fc00000u));
    put(w, 2, 1, 15, 2600, unit_from_bits(0xff800000u));
    put(w, 2, 2, 16, 100, w->setup ? 65504.0f : unit_from_bits(0x7f800000u)); /* a sum that fp16 cannot hold */
    put(w, 2, 1, 16, 100, w->setup ? 65504.0f : 0.0f);
    put(w, 2, 0, 16, 100, w->setup ? 65504.0f : 0.0f);
}

static tw_status one_step(world *w, tw_reducer *red, int rank, int s) {
    tw_step_args args = TW_STEP_ARGS_INIT;
    tw_layer_report used = TW_LAYER_REPORT_INIT;
    args.input_scale = s == 3 ? 0.5f : 0.0f;
    tw_status st = tw_reducer_begin(red, (uint64_t)s + 1, &args);
    for (int l = LAYERS - 1; l >= 0 && st >= 0; l--)
        st = tw_reducer_push(red, (uint32_t)l, w->present[s][rank][l] ? w->in[s][rank][l] : NULL, w->out[s][rank][l]);
    if (st >= 0)
        st = tw_reducer_end(red, NULL);
    for (uint32_t l = 0; rank == 0 && l < LAYERS && st >= 0; l++) {
        st = tw_reducer_layer_report(red, l, &used);
        tw_spec_format(&used.spec, w->spec[s][l], sizeof w->spec[s][l]);
    }
    return st;
}

static void *rank_main(void *arg) {
    tap *p = arg;
    world *w = p->w;
    tw_transport_ops ops = {sizeof ops, p->ops->caps, "tap", tap_allgather, tap_post, tap_poll, tap_close,
                            NULL,       tap_abandon,  NULL,  NULL,          NULL,     tap_error};
    tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
    tw_comm *comm;
    tw_reducer *red;
    cfg.tile = setup[w->setup].tile;
    cfg.frame_bytes = setup[w->setup].frame_bytes;
    cfg.bucket_bytes = setup[w->setup].bucket_bytes;
    cfg.redop = setup[w->setup].redop;
    tw_status s = tw_comm_create(NULL, &ops, p, p->rank, RANKS, &comm);
    if (s >= 0)
        s = tw_reducer_create(comm, setup[w->setup].layer, LAYERS, setup[w->setup].rules, &cfg, &red);
    for (int i = 0; i < STEPS && s >= 0; i++)
        s = one_step(w, red, p->rank, i);
    w->ends[p->rank] = s;
    pthread_barrier_wait(&w->all_here); /* a failure of one rank ends the steps of all */
    if (s < 0)
        return NULL;
    p->broken = p->rank == 0;
    s = tw_reducer_begin(red, STEPS + 1, NULL);
    if (s >= 0)
        s = tw_reducer_end(red, NULL);
    w->after[p->rank] = s;
    tw_reducer_destroy(red);
    tw_comm_destroy(comm);
    return NULL;
}

static void run_world(world *w) {
    pthread_t thread[RANKS];
    void *end[RANKS];
    const tw_transport_ops *ops;
    w->setup = (int)(w - worlds);
    pthread_mutex_init(&w->lock, NULL);
    CU_ASSERT_EQUAL_FATAL(pthread_barrier_init(&w->all_here, NULL, RANKS), 0);
    draw_inputs(w);
    CU_ASSERT_EQUAL_FATAL(tw_local_create(NULL, RANKS, &ops, end), TW_OK);
    for (int k = 0; k < RANKS; k++)
        w->taps[k] = (tap){ops, end[k], w, k, false};
    for (int k = 0; k < RANKS; k++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&thread[k], NULL, rank_main, &w->taps[k]), 0);
    for (int k = 0; k < RANKS; k++)
        pthread_join(thread[k], NULL);
    for (int k = 0; k < RANKS; k++)
        CU_ASSERT_EQUAL(w->ends[k], TW_OK);
    w->run = true;
}

static void for_each_world(void (*check)(world *w)) {
    for (world *w = worlds; w < worlds + WORLDS; w++) {
        if (!w->run)
            run_world(w);
        check(w);
    }
}

/* ---- the dump: lines of words, bytes in hexadecimal ---- */
static void put_hex(FILE *f, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        fprintf(f, "%02x", p[i]);
    fputs(n ? "\n" : "-\n", f);
}

static void write_dump(FILE *f, const world *w) {
    fprintf(f, "ranks %d\ntile %u\nframe_bytes %u\nbucket_bytes %llu\nin_flight 0\nredop %d\n", RANKS,
            setup[w->setup].tile, setup[w->setup].frame_bytes, (unsigned long long)setup[w->setup].bucket_bytes,
            (int)setup[w->setup].redop);
    for (int l = 0; l < LAYERS; l++)
        fprintf(f, "layer %s %d %llu\n", layer_of(w, l)->name, (int)layer_of(w, l)->dtype,
                (unsigned long long)layer_of(w, l)->count);
    for (int s = 0; s < STEPS; s++) {
        fprintf(f, "step %d %s\n", s + 1, s == 3 ? "0.5" : "1");
        for (int l = 0; l < LAYERS; l++) {
            fprintf(f, "uses %d %s\n", l, w->spec[s][l]);
            for (int k = 0; k < RANKS; k++) {
                fprintf(f, "%s %d %d ", w->present[s][k][l] ? "input" : "absent", k, l);
                put_hex(f, w->in[s][k][l], w->present[s][k][l] ? bytes_of(w, l) : 0);
                fprintf(f, "output %d %d ", k, l);
                put_hex(f, w->out[s][k][l], bytes_of(w, l));
            }
        }
    }
    for (const record *r = w->records; r < w->records + w->nrecord; r++) {
        fprintf(f, "frame %d %d %u ", r->from, r->to, r->tag);
        put_hex(f, r->bytes, r->len);
    }
}

/* ---- tests ---- */
static void check_replicas(world *w) {
    for (int s = 0; s < STEPS; s++)
        for (int k = 1; k < RANKS; k++)
            CU_ASSERT(!memcmp(w->out[s][0], w->out[s][k], sizeof w->out[s][0]));
    CU_ASSERT(w->nrecord > 50 && w->nrecord < FRAMES);
}

static void check_poison(world *w) {
    int told[RANKS] = {0};
    CU_ASSERT(w->after[0] == TW_ERR_TRANSPORT ||
              w->after[0] == TW_ERR_POISONED); /* met by its first op, or a later one */
    for (const record *r = w->records; r < w->records + w->nrecord; r++) {
        int32_t status;
        if (r->tag != 0)
            continue;
        CU_ASSERT_EQUAL_FATAL(r->len, 256);
        memcpy(&status, r->bytes + 32, 4);
        CU_ASSERT_EQUAL(r->from, 0);
        CU_ASSERT_EQUAL(status, TW_ERR_TRANSPORT);
        unit_has((const char *)r->bytes + 36, "the test broke it");
        told[r->to]++;
    }
    for (int k = 1; k < RANKS; k++) {
        CU_ASSERT_EQUAL(told[k], 1);
        CU_ASSERT(w->after[k] == TW_ERR_PEER || w->after[k] == TW_ERR_POISONED);
    }
}

static uint64_t number(const record *r, size_t at, size_t bytes) {
    uint64_t v = 0;
    memcpy(&v, r->bytes + at, bytes);
    return v;
}

/* The table of docs/wire-format.md, field by field; what needs the plan is the reader's part below. */
static void check_headers(world *w) {
    for (const record *r = w->records; r < w->records + w->nrecord; r++) {
        uint64_t step = number(r, 16, 4);
        bool poison = r->tag == 0;
        CU_ASSERT_FATAL(r->len >= 32);
        CU_ASSERT_EQUAL(number(r, 0, 4), 0x57495754);
        CU_ASSERT_EQUAL(number(r, 4, 1), 1);
        CU_ASSERT_EQUAL(number(r, 5, 1), poison);
        CU_ASSERT_EQUAL(number(r, 6, 1), poison ? 0 : 2 - r->tag % 2);
        CU_ASSERT_EQUAL(number(r, 7, 1), poison ? 0 : step - 1);
        CU_ASSERT(poison ? step == 0 : step >= 1 && step <= STEPS + 1);
        CU_ASSERT_EQUAL(number(r, 24, 4), r->len);
        CU_ASSERT_EQUAL(number(r, 28, 4), tw_check32(r->bytes + 32, r->len - 32, tw_check32(r->bytes, 28, 0)));
    }
}

/* TEST_DUMP=FILE keeps what the reader is given (of the last world). */
static void check_by_reader(world *w) {
    const char *top = getenv("srcdir"), *keep = getenv("TEST_DUMP");
    char made[] = "/tmp/test_wire_XXXXXX", command[4096];
    const char *path = keep ? keep : made;
    int fd = keep ? -1 : mkstemp(made);
    FILE *f = keep ? fopen(keep, "w") : fd >= 0 ? fdopen(fd, "w") : NULL;
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    write_dump(f, w);
    fclose(f);
    snprintf(command, sizeof command, "python3 '%s/tests/scripts/wire_format.py' '%s'", top ? top : ".", path);
    CU_ASSERT_EQUAL(system(command), 0);
    if (!keep)
        remove(path);
}

static void replicas_agree(void) {
    for_each_world(check_replicas);
}
static void a_failing_rank_sends_poison(void) {
    for_each_world(check_poison);
}
static void headers_are_as_documented(void) {
    for_each_world(check_headers);
}
static void an_independent_reader_agrees(void) {
    if (system("python3 -c 'import struct' >/dev/null 2>&1") != 0)
        unit_skip("there is no python3 here");
    else
        for_each_world(check_by_reader);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(replicas_agree), UNIT_TEST(a_failing_rank_sends_poison),
                                      UNIT_TEST(headers_are_as_documented), UNIT_TEST(an_independent_reader_agrees)};
    return unit_main("wire", tests, UNIT_COUNT(tests));
}
