/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Every frame that three ranks send, and what they give to native sums, as docs/wire-format.md says it. They are recorded below
 * the communicator, then recomputed from the inputs by tests/scripts/wire_format.py, which shares no line with the library. */
#include "wire_tap.h"
#include "exec/exec.h"

enum { RANKS = WIRE_RANKS, LAYERS = 20, STEPS = 4, MOST = 9000, POSTS = 5, WORLDS = 6 };

typedef struct post {
    tw_kind kind;
    uint32_t first, n; /* layers */
} post;

/* Factors of matrices with what may ride along, payloads that add, plain values; blocks to their owners and from them. */
#define POSTED_RULES                                                                                                   \
    "w0=powersgd:rank=3,seed=2+ef; w1=powersgd:rank=2,iterations=3+ef; w2=powersgd:rank=1,iterations=2,warm_start=0; " \
    "b*=none+ef; v=powersgd+ef; r0=randk:density=0.1+ef; r1=randk:density=0.6,scale=unbiased; "                        \
    "r2=randk:density=0.2,seed=7+decay; s0=onebit:group=128+ef; s1=topk:density=0.1+ef; "                              \
    "s2=quant:rounding=stochastic,group=128+ef; s3=topk:density=0.2,select=threshold; s4=randk:density=0.3; "          \
    "g0=quant:bits=4,group=256,rounding=stochastic,seed=3+decay; "                                                     \
    "g1=topk:density=0.2,values=(cast:type=bf16)+decay:beta=0.7; "                                                     \
    "g2=ternary:group=128+ef; g3=topk:density=0.1,select=group,group=128; *=none"
#define PINNED_LAYER(name_, count_, dtype_, pinned_, shard_)                                                  \
    {                                                                                                         \
        .size = sizeof(tw_layer), .name = (name_), .count = (count_), .dtype = (dtype_), .pinned = (pinned_), \
        .shard = (shard_)                                                                                     \
    }
#define POSTED_LAYERS                                                                                              \
    {                                                                                                              \
        TW_LAYER_MATRIX("w0", 24, 17, TW_F32), TW_LAYER_MATRIX("w1", 40, 12, TW_BF16),                             \
            TW_LAYER_MATRIX("w2", 15, 33, TW_F32), TW_LAYER("b0", 300), TW_LAYER_DTYPE("b1", 301, TW_F16),         \
            TW_LAYER("v", 77), TW_LAYER("r0", 903), TW_LAYER("r1", 700), TW_LAYER("r2", 555), TW_LAYER("p0", 300), \
            TW_LAYER("p1", 259), PINNED_LAYER("s0", 1500, TW_F32, 2, 512), TW_LAYER("s1", 1200),                   \
            TW_LAYER_DTYPE("s2", 777, TW_BF16), TW_LAYER_DTYPE("s3", 1300, TW_F16), TW_LAYER("s4", 600),           \
            PINNED_LAYER("g0", 1100, TW_F32, 3, 0), PINNED_LAYER("g1", 1500, TW_F16, 1, 512),                      \
            TW_LAYER_DTYPE("g2", 700, TW_BF16), TW_LAYER("g3", 999)                                                \
    }
#define POSTED_OPS                                                                       \
    {                                                                                    \
        {TW_KIND_ALLREDUCE, 0, 7}, {TW_KIND_ALLREDUCE, 7, 2}, {TW_KIND_ALLREDUCE, 9, 2}, \
            {TW_KIND_REDUCE_SCATTER, 11, 5}, {TW_KIND_ALLGATHER, 16, 4},                 \
    }

/* Small tiles and frames, averages; the usual ones, sums, groups of several segments, a layer that loses its feedback; and
 * ops that are posted, with averages and sums. */
static const struct {
    const char *rules;
    uint64_t bucket_bytes;
    uint32_t tile, frame_bytes;
    tw_redop redop;
    tw_layer layer[LAYERS];
    post post[POSTS]; /* none: pushed */
} setup[] = {
    {"grid=onebit:group=128+ef; rms=onebit:group=256,scale=rms; *half=cast:type=fp16; *.bf=cast+ef; small*=none+ef; "
     "q8=quant:group=128,rounding=stochastic,seed=9+ef; q4=quant:bits=4,group=256,scale=mse,rotate=hadamard+ef; "
     "q3=quant:bits=3,group=128,scale=minmax,seed=1+ef; "
     "two=onebit:group=128,scale=twosided+ef; eight=cast:type=fp8e5m2,group=128; t0=ternary:group=128+decay:beta=0.6; "
     "t1=ternary:rounding=stochastic,seed=3,group=256+ef; k0=topk:density=0.1+decay; "
     "k1=topk:density=0.2,select=group,group=128,values=(onebit:group=128)+dgc; "
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
      TW_LAYER_DTYPE("r1", 702, TW_BF16)},
     {{TW_KIND_ALLREDUCE, 0, 0}}},
    {"grid=onebit+ef; rms=onebit:group=2048,scale=rms+ef; *half=cast:type=fp16; *.bf=cast+ef until 3 then cast; "
     "small*=onebit+ef until 4 then none; "
     "q8=quant+ef until 4 then quant:scale=mse; q4=quant:bits=6,scale=mse,group=2048,rounding=stochastic; "
     "q3=quant:bits=2,group=1024,rotate=hadamard,seed=4000000001+ef; "
     "two=onebit:group=4096,scale=twosided; eight=cast:type=fp8e4m3+ef; t0=ternary; "
     "t1=ternary:group=2048,rounding=stochastic+ef; k0=topk:density=0.9+dgc:momentum=0.5 until 4 then topk; "
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
      TW_LAYER("r1", 8200)},
     {{TW_KIND_ALLREDUCE, 0, 0}}},
    {POSTED_RULES, 4 << 20, 256, 600, TW_AVG, POSTED_LAYERS, POSTED_OPS},
    {POSTED_RULES, 4 << 20, 512, 0, TW_SUM, POSTED_LAYERS, POSTED_OPS},
};

typedef struct world {
    int setup;
    bool run;
    tw_algo algo;
    wire_log log;
    pthread_barrier_t all_here;
    wire_tap taps[RANKS];
    tw_status ends[RANKS], after[RANKS];
    bool present[STEPS][RANKS][LAYERS];
    char spec[STEPS][LAYERS][96];
    _Alignas(4) uint8_t in[STEPS][RANKS][LAYERS][MOST * 4];
    _Alignas(4) uint8_t out[STEPS][RANKS][LAYERS][MOST * 4];
} world;
static world worlds[WORLDS] = {{.setup = 0, .algo = TW_ALGO_SRA},    {.setup = 1, .algo = TW_ALGO_SRA},
                               {.setup = 0, .algo = TW_ALGO_GATHER}, {.setup = 1, .algo = TW_ALGO_GATHER},
                               {.setup = 2, .algo = TW_ALGO_AUTO},   {.setup = 3, .algo = TW_ALGO_AUTO}};

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

static bool is_posted(const world *w) {
    return setup[w->setup].post[0].n > 0;
}

/* NaN, Inf and what overflows, in the third step. */
static void put_odd(world *w) {
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

static void put_odd_posted(world *w) {
    put(w, 2, 1, 0, 100, unit_from_bits(0x7fc00000u)); /* a matrix */
    put(w, 2, 2, 4, 5, unit_from_bits(0x7f800000u));
    put(w, 2, 0, 8, 300, unit_from_bits(0x7fc00000u));
    put(w, 2, 0, 9, 7, unit_from_bits(0x7f800000u));
    put(w, 2, 1, 11, 700, unit_from_bits(0x7fc00000u)); /* on their way to an owner */
    put(w, 2, 0, 12, 900, unit_from_bits(0xff800000u));
    put(w, 2, 2, 14, 40, unit_from_bits(0x7f800000u));
    for (int k = 0; k < RANKS; k++) {
        put(w, 2, k, 16, 1030, unit_from_bits(0x7f800000u)); /* from an owner */
        put(w, 2, k, 17, 600, unit_from_bits(0x7fc00000u));
    }
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
    if (is_posted(w))
        put_odd_posted(w);
    else
        put_odd(w);
}

static tw_status post_one(world *w, tw_reducer *red, int rank, int s, const post *p) {
    tw_piece piece[LAYERS];
    for (uint32_t i = 0; i < p->n; i++) {
        uint32_t l = p->first + i;
        piece[i] = (tw_piece)TW_PIECE(l, 0, layer_of(w, (int)l)->count,
                                      w->present[s][rank][l] ? w->in[s][rank][l] : NULL, w->out[s][rank][l]);
    }
    return p->kind == TW_KIND_ALLREDUCE        ? tw_reducer_post(red, piece, p->n, NULL)
           : p->kind == TW_KIND_REDUCE_SCATTER ? tw_reducer_post_reduce_scatter(red, piece, p->n, NULL)
                                               : tw_reducer_post_allgather(red, piece, p->n, NULL);
}

static tw_status one_step(world *w, tw_reducer *red, int rank, int s) {
    tw_step_args args = TW_STEP_ARGS_INIT;
    tw_layer_report used = TW_LAYER_REPORT_INIT;
    args.input_scale = s == 3 ? 0.5f : 0.0f;
    tw_status st = tw_reducer_begin(red, (uint64_t)s + 1, &args);
    for (int i = 0; i < POSTS && is_posted(w) && st >= 0; i++)
        st = post_one(w, red, rank, s, &setup[w->setup].post[i]);
    for (int l = LAYERS - 1; l >= 0 && !is_posted(w) && st >= 0; l--)
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
    wire_tap *p = arg;
    world *w = (world *)((char *)(p->log) - offsetof(world, log));
    tw_transport_ops ops = wire_ops(p, w->algo == TW_ALGO_AUTO);
    tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
    tw_comm *comm;
    tw_reducer *red;
    cfg.tile = setup[w->setup].tile;
    cfg.frame_bytes = setup[w->setup].frame_bytes;
    cfg.bucket_bytes = setup[w->setup].bucket_bytes;
    cfg.redop = setup[w->setup].redop;
    cfg.algo = w->algo;
    tw_status s = tw_comm_create(NULL, &ops, p, p->rank, RANKS, &comm);
    if (s >= 0)
        s = tw_reducer_create(comm, setup[w->setup].layer, LAYERS, setup[w->setup].rules, &cfg, &red);
    for (int i = 0; i < STEPS && s >= 0; i++)
        s = one_step(w, red, p->rank, i);
    w->ends[p->rank] = s;
    if (s < 0)
        fprintf(stderr, "rank %d: %s\n", p->rank, tw_last_error());
    pthread_barrier_wait(&w->all_here); /* a failure of one rank ends the steps of all */
    if (s < 0)
        return NULL;
    p->broken = p->rank == 0;
    s = tw_reducer_begin(red, STEPS + 1, NULL);
    if (s >= 0 && is_posted(w))
        s = post_one(w, red, p->rank, 0, &setup[w->setup].post[0]);
    if (s >= 0)
        s = tw_reducer_end(red, NULL);
    w->after[p->rank] = s;
    pthread_barrier_wait(&w->all_here); /* a rank that leaves early is a failure too, and others would tell of it */
    tw_reducer_destroy(red);
    tw_comm_destroy(comm);
    return NULL;
}

static void run_world(world *w) {
    pthread_t thread[RANKS];
    CU_ASSERT_EQUAL_FATAL(pthread_barrier_init(&w->all_here, NULL, RANKS), 0);
    draw_inputs(w);
    wire_open(&w->log, w->taps);
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
static void write_setup(FILE *f, const world *w) {
    uint32_t tile = setup[w->setup].tile;
    fprintf(f, "ranks %d\ntile %u\nframe_bytes %u\nbucket_bytes %llu\nin_flight 0\nredop %d\nalgo %d\n", RANKS, tile,
            setup[w->setup].frame_bytes, (unsigned long long)setup[w->setup].bucket_bytes, (int)setup[w->setup].redop,
            (int)w->algo);
    for (int l = 0; l < LAYERS; l++) {
        const tw_layer *y = layer_of(w, l);
        fprintf(f, "layer %s %d %llu %llu %llu %llu\n", y->name, (int)y->dtype, (unsigned long long)y->count,
                (unsigned long long)y->columns, (unsigned long long)y->pinned, (unsigned long long)(y->shard / tile));
    }
    for (int i = 0; i < POSTS && is_posted(w); i++) {
        const post *p = &setup[w->setup].post[i];
        fprintf(f, "post %d", (int)p->kind);
        for (uint32_t l = p->first; l < p->first + p->n; l++)
            fprintf(f, " %u", l);
        fputs("\n", f);
    }
}

static void write_dump(FILE *f, const void *what) {
    const world *w = what;
    write_setup(f, w);
    for (int s = 0; s < STEPS; s++) {
        fprintf(f, "step %d %s\n", s + 1, s == 3 ? "0.5" : "1");
        for (int l = 0; l < LAYERS; l++) {
            fprintf(f, "uses %d %s\n", l, w->spec[s][l]);
            for (int k = 0; k < RANKS; k++) {
                fprintf(f, "%s %d %d ", w->present[s][k][l] ? "input" : "absent", k, l);
                wire_put_hex(f, w->in[s][k][l], w->present[s][k][l] ? bytes_of(w, l) : 0);
                fprintf(f, "output %d %d ", k, l);
                wire_put_hex(f, w->out[s][k][l], bytes_of(w, l));
            }
        }
    }
    wire_put_log(f, &w->log);
}

/* ---- tests ---- */
static bool is_scattered(const world *w, int l) {
    bool any = false;
    for (int i = 0; i < POSTS; i++) {
        const post *p = &setup[w->setup].post[i];
        any = any || (p->kind == TW_KIND_REDUCE_SCATTER && (uint32_t)l - p->first < p->n);
    }
    return any;
}

static void check_replicas(world *w) {
    for (int s = 0; s < STEPS; s++)
        for (int k = 1; k < RANKS; k++)
            for (int l = 0; l < LAYERS; l++)
                CU_ASSERT(is_scattered(w, l) || !memcmp(w->out[s][0][l], w->out[s][k][l], sizeof w->out[s][0][l]));
    CU_ASSERT(w->log.n > 50 && w->log.n < WIRE_RECORDS);
}

static void check_poison(world *w) {
    int told[RANKS] = {0};
    CU_ASSERT(w->after[0] == TW_ERR_TRANSPORT ||
              w->after[0] == TW_ERR_POISONED); /* met by its first op, or a later one */
    for (const wire_record *r = w->log.record; r < w->log.record + w->log.n; r++) {
        int32_t status;
        if (r->tag != 0 || r->to < 0)
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

static uint64_t number(const wire_record *r, size_t at, size_t bytes) {
    uint64_t v = 0;
    memcpy(&v, r->bytes + at, bytes);
    return v;
}

/* The table of docs/wire-format.md, field by field; what needs the plan is the reader's part below. */
static void check_headers(world *w) {
    for (const wire_record *r = w->log.record; r < w->log.record + w->log.n; r++) {
        uint64_t step = r->to < 0 ? 0 : number(r, 16, 4);
        bool poison = r->tag == 0;
        if (r->to < 0) /* given to a sum: no frame */
            continue;
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

static void check_by_reader(world *w) {
    wire_read_again(write_dump, w);
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
