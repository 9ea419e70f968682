/* SPDX-License-Identifier: BSD-3-Clause
 *
 * topk in an allreduce of layers that are long enough to be sampled, against a model that sorts; the room of frames; and
 * the other collectives. Short layers, all codecs of values, NaN and faults: tests/sim. */
#include "compressors/sparse.h"
#include "reducer/op.h"
#include "unit.h"
#include <math.h>
#include <pthread.h>

enum { RANKS = 3, COUNT = 700001, STEPS = 2, TILE = 4096 };
enum { NORMAL, STEPPED, EQUAL, ZEROS, TOGETHER, BOUND_LOW, TIES_LOW, BOUND_HIGH, SAMPLE_HIGH, HALVES, SHAPES };

static float in[STEPS][RANKS][COUNT], out[RANKS][COUNT], e[RANKS][COUNT], x[COUNT], sum[COUNT];
static bool keep[COUNT];
static struct entry { uint32_t bits, at; } entry[COUNT];

static float one_value(unit_rng *r, int shape, uint32_t i) {
    float v = unit_float(r) + unit_float(r) + unit_float(r);
    switch (shape) {
    case STEPPED: /* ties at the cut, all over the layer */
        return (float)(int)(v * 8) * 0.125f;
    case EQUAL:
        return i % 2 ? 3.0f : -3.0f;
    case ZEROS:
        return 0.0f;
    case TOGETHER: /* all in few frames */
        return i < 20000 || i > COUNT - 9000 ? v + 10 : v * 1e-6f;
    case BOUND_LOW: /* the bound comes from every 17th line, and these are zeros: what is set aside fills its room */
        return i / 16 % 17 == 0 ? 0.0f : v;
    case TIES_LOW:
        return i / 16 % 17 == 0 ? 0.0f : (float)(int)(v * 8) * 0.125f;
    case BOUND_HIGH: /* fewer than are wanted are above the bound */
        return i / 16 % 17 == 0 ? v + 100 : v;
    case SAMPLE_HIGH: /* thresholds come from every third line */
        return i / 16 % 3 == 0 ? v + 100 : v;
    default:
        return v;
    }
}

/* ---- the model: exact and threshold, values as they are ---- */

static int larger_first(const void *a, const void *b) {
    const struct entry *p = a, *q = b;
    return p->bits != q->bits ? (p->bits < q->bits) - (p->bits > q->bits) : (p->at > q->at) - (p->at < q->at);
}

static int owner_of(uint32_t i) { /* asked of every value many times */
    enum { TILES = (COUNT + TILE - 1) / TILE };
    static int8_t owner[TILES];
    static bool known;
    for (uint32_t tile = 0; tile < TILES && !known; tile++)
        owner[tile] = (int8_t)tw_owner("layer", tile, TILES, RANKS);
    known = true;
    return owner[i / TILE];
}

/* keep[] of x, among values whose owner is `rank` or those whose owner is another one. */
static void choose(uint32_t density, bool threshold, int rank, bool own) {
    uint32_t m = 0, n = 0, k;
    memset(keep, 0, sizeof keep);
    for (uint32_t i = 0; i < COUNT; i++)
        n += (owner_of(i) == rank) == own;
    uint32_t stride = n / 131072 | 1;
    for (uint32_t i = 0; i < COUNT; i++)
        if ((owner_of(i) == rank) == own && (!threshold || i / 16 % stride == 0))
            entry[m++] = (struct entry){unit_bits(x[i]) & 0x7fffffffu, i};
    k = (uint32_t)(((threshold ? m : n) * (uint64_t)density + 500000000u) / 1000000000u);
    qsort(entry, m, sizeof *entry, larger_first);
    for (uint32_t i = 0; i < k && !threshold; i++)
        keep[entry[i].at] = entry[i].bits > 0;
    for (uint32_t i = 0; i < COUNT && threshold; i++)
        keep[i] = (owner_of(i) == rank) == own && (unit_bits(x[i]) & 0x7fffffffu) >= entry[k - 1].bits && x[i] != 0.0f;
}

/* One step: what ranks must have in *want; residuals move on. */
static void model_step(int step, uint32_t density, bool threshold, tw_dtype t, float *want) {
    memset(sum, 0, sizeof sum);
    for (int r = 0; r < RANKS; r++) {
        for (uint32_t i = 0; i < COUNT; i++)
            x[i] = in[step][r][i] + (owner_of(i) == r ? 0.0f : e[r][i]);
        choose(density, threshold, r, false);
        for (uint32_t i = 0; i < COUNT; i++) {
            bool mine = owner_of(i) == r;
            sum[i] += mine || keep[i] ? x[i] : 0.0f;
            if (!mine)
                e[r][i] = keep[i] ? 0.0f : x[i];
        }
    }
    for (int r = 0; r < RANKS; r++) {
        for (uint32_t i = 0; i < COUNT; i++)
            x[i] = owner_of(i) == r ? sum[i] * (1.0f / RANKS) + e[r][i] : 0.0f;
        choose(density, threshold, r, true);
        for (uint32_t i = 0; i < COUNT; i++)
            if (owner_of(i) == r) {
                want[i] = !keep[i] ? 0.0f : t == TW_F16 ? tw_f16_to_f32(tw_f32_to_f16(x[i])) : x[i];
                e[r][i] = x[i] - want[i];
            }
    }
}

/* ---- the library: ranks are threads ---- */

typedef struct seat {
    tw_comm *comm;
    tw_reducer *red;
    const char *rules;
    tw_dtype dtype;
    uint32_t frame_bytes;
    int rank, step;
    tw_status status;
    pthread_t thread;
} seat;

static void *step_of(void *arg) {
    seat *s = arg;
    static uint16_t half[2][RANKS][COUNT];
    const tw_layer layer = TW_LAYER_DTYPE("layer", COUNT, s->dtype);
    tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
    void *from = in[s->step][s->rank], *to = out[s->rank];
    cfg.frame_bytes = s->frame_bytes;
    if (!s->red && (s->status = tw_reducer_create(s->comm, &layer, 1, s->rules, &cfg, &s->red)) < 0)
        return NULL;
    for (uint32_t i = 0; i < COUNT && s->dtype == TW_F16; i++)
        half[0][s->rank][i] = tw_f32_to_f16(in[s->step][s->rank][i]);
    if (s->dtype == TW_F16) {
        from = half[0][s->rank];
        to = half[1][s->rank];
    }
    s->status = tw_reducer_begin(s->red, (uint64_t)s->step, NULL);
    s->status = s->status < 0 ? s->status : tw_reducer_push(s->red, 0, from, to);
    s->status = s->status < 0 ? s->status : tw_reducer_end(s->red, NULL);
    for (uint32_t i = 0; i < COUNT && s->dtype == TW_F16; i++)
        out[s->rank][i] = tw_f16_to_f32(half[1][s->rank][i]);
    return NULL;
}

static void run_step(seat *seats, int step) {
    for (int r = 0; r < RANKS; r++) {
        seats[r].step = step;
        CU_ASSERT_EQUAL_FATAL(pthread_create(&seats[r].thread, NULL, step_of, &seats[r]), 0);
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(seats[r].thread, NULL);
    for (int r = 0; r < RANKS; r++)
        CU_ASSERT_EQUAL_FATAL(seats[r].status, TW_OK);
}

static void compare(seat *seats, const char *what, const float *want) {
    static float got[COUNT];
    for (int r = 0; r < RANKS; r++) {
        uint32_t wrong = 0, lost = 0;
        CU_ASSERT_EQUAL(tw_reducer_residual(seats[r].red, 0, got), TW_OK);
        for (uint32_t i = 0; i < COUNT; i++) {
            wrong += out[r][i] != want[i];
            lost += got[i] != e[r][i];
        }
        if (wrong || lost)
            printf("%s, step %d, rank %d: %u values and %u residuals differ\n", what, seats[r].step, r, wrong, lost);
        CU_ASSERT_EQUAL(wrong, 0);
        CU_ASSERT_EQUAL(lost, 0);
    }
}

static void try_shape(int shape, const char *rules, uint32_t density, bool threshold, uint32_t frame_bytes) {
    static float want[COUNT];
    tw_comm *comm[RANKS];
    seat seats[RANKS];
    tw_dtype t = shape == HALVES ? TW_F16 : TW_F32;
    unit_rng r = unit_seeded(rules);
    for (uint32_t i = 0; i < STEPS * RANKS * COUNT; i++) {
        float v = one_value(&r, shape, i % COUNT);
        in[i / COUNT / RANKS][i / COUNT % RANKS][i % COUNT] = t == TW_F16 ? tw_f16_to_f32(tw_f32_to_f16(v)) : v;
    }
    memset(e, 0, sizeof e);
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, RANKS, comm), TW_OK);
    for (int k = 0; k < RANKS; k++)
        seats[k] = (seat){.comm = comm[k], .rules = rules, .dtype = t, .frame_bytes = frame_bytes, .rank = k};
    for (int step = 0; step < STEPS; step++) {
        run_step(seats, step);
        model_step(step, density, threshold, t, want);
        compare(seats, rules, want);
    }
    for (int k = 0; k < RANKS; k++) {
        CU_ASSERT_EQUAL(tw_reducer_destroy(seats[k].red), TW_OK);
        CU_ASSERT_EQUAL(tw_comm_destroy(comm[k]), TW_OK);
    }
}

static void long_layers_are_as_sorted(void) {
    for (int shape = 0; shape < SHAPES; shape += (int)unit_share())
        try_shape(shape, "*=topk:density=0.01+ef", 10000000, false, shape == TOGETHER ? 1024 : 0);
    try_shape(NORMAL, "*=topk:density=0.0001+ef", 100000, false, 0);
    try_shape(TOGETHER, "*=topk:density=0.3+ef", 300000000, false, 4096);
}

static void thresholds_come_from_the_sample(void) {
    static const int shapes[] = {NORMAL, EQUAL, SAMPLE_HIGH, HALVES}; /* of EQUAL all are kept */
    for (size_t i = 0; i < UNIT_COUNT(shapes); i += unit_share())
        try_shape(shapes[i], "*=topk:density=0.01,select=threshold+ef", 10000000, true, 2048);
}

/* ---- rooms ---- */

/* No support takes more than frames have room for. */
static void spans_fit(void) {
    static const char *const values[] = {"none",
                                         "cast:type=fp16",
                                         "cast:type=fp8e4m3,group=128",
                                         "onebit",
                                         "quant:bits=3,group=128",
                                         "quant:bits=6,scale=minmax",
                                         "ternary",
                                         "onebit:group=128,scale=twosided"};
    unit_rng r = unit_seeded("room");
    for (size_t c = 0; c < UNIT_COUNT(values); c++) {
        char text[128];
        tw_spec s, v;
        snprintf(text, sizeof text, "topk:values=(%s)", values[c]);
        CU_ASSERT_EQUAL_FATAL(tw_spec_parse(text, &s), TW_OK);
        v = tw_spec_values(&s);
        for (uint32_t k = 0; k <= TW_SPAN_KEPT; k++) {
            uint32_t n = k + (k % 3 == 0 ? 0 : unit_below(&r, k % 3 == 1 ? 100 : 1000000));
            uint64_t least = TW_SPAN_HEADER + tw_codec_get(v.codec)->bytes(&v, k, TW_F32);
            CU_ASSERT(tw_spans_most(&s, n, k, 1) >= least + tw_round_up(tw_index_bound(n, k), 4));
        }
    }
}

static void expected_bytes_are_near(void) {
    tw_spec s;
    CU_ASSERT_EQUAL_FATAL(tw_spec_parse("topk:density=0.01", &s), TW_OK);
    CU_ASSERT_EQUAL(tw_stretch_tiles(&s, TILE), 25);
    CU_ASSERT_EQUAL(tw_stretch_bytes(&s, 25 * TILE), 12 + 4 * 1024 + 4 * 256);
    CU_ASSERT_EQUAL_FATAL(
        tw_spec_parse("topk:density=1e-9", &s) == TW_OK || tw_spec_parse("topk:density=0.000000001", &s) == TW_OK, 1);
    CU_ASSERT_EQUAL(tw_stretch_tiles(&s, TILE), TW_STRETCH_VALUES / TILE);
    CU_ASSERT_EQUAL_FATAL(tw_spec_parse("topk:density=1,select=group,group=128", &s), TW_OK);
    CU_ASSERT_EQUAL(tw_stretch_tiles(&s, 128), 8);
    CU_ASSERT_EQUAL(tw_stretch_bytes(&s, 0), 0);
}

/* ---- the other collectives, of arrays that are long enough to be sampled ---- */

typedef struct call {
    tw_comm *comm;
    tw_kind kind;
    const tw_spec *spec;
    int rank;
    tw_status status;
    pthread_t thread;
} call;
enum { BLOCK = COUNT / RANKS };

static void *call_of(void *arg) {
    call *c = arg;
    float *from = in[0][c->rank], *to = out[c->rank];
    if (c->kind == TW_KIND_REDUCE_SCATTER)
        c->status = tw_reduce_scatter(c->comm, c->spec, from, to, BLOCK, TW_F32, TW_SUM);
    else if (c->kind == TW_KIND_ALLGATHER)
        c->status = tw_allgather(c->comm, c->spec, from, to, BLOCK, TW_F32);
    else
        c->status = tw_broadcast(c->comm, c->spec, from, COUNT, TW_F32, 1);
    return NULL;
}

/* The k largest of v[0..n), by sorting; the rest is 0. */
static void keep_of(const float *v, uint32_t n, uint32_t k, float *want) {
    for (uint32_t i = 0; i < n; i++)
        entry[i] = (struct entry){unit_bits(v[i]) & 0x7fffffffu, i};
    qsort(entry, n, sizeof *entry, larger_first);
    memset(want, 0, n * sizeof *want);
    for (uint32_t i = 0; i < k; i++)
        want[entry[i].at] = v[entry[i].at];
}

static uint32_t share(uint32_t n) {
    return (uint32_t)((n * UINT64_C(10000000) + 500000000u) / 1000000000u);
}

static void expect(tw_kind kind, const float *from[RANKS]) {
    static float want[COUNT], part[COUNT];
    for (int r = 0; r < RANKS; r++) {
        uint32_t n = kind == TW_KIND_REDUCE_SCATTER ? BLOCK : COUNT / RANKS * RANKS;
        memset(want, 0, sizeof want);
        if (kind == TW_KIND_BROADCAST)
            keep_of(from[1], n = COUNT, share(COUNT), want);
        for (int q = 0; q < RANKS && kind == TW_KIND_ALLGATHER; q++)
            keep_of(from[q], BLOCK, share(BLOCK), want + q * BLOCK);
        for (int q = 0; q < RANKS && kind == TW_KIND_REDUCE_SCATTER; q++) {
            keep_of(from[q] + r * BLOCK, BLOCK, q == r ? BLOCK : share(BLOCK), part);
            for (uint32_t i = 0; i < BLOCK; i++)
                want[i] += part[i];
        }
        CU_ASSERT(!memcmp(want, kind == TW_KIND_BROADCAST ? in[0][r] : out[r], n * sizeof *want));
    }
}

static void other_collectives_select_too(void) {
    static const tw_kind kinds[] = {TW_KIND_REDUCE_SCATTER, TW_KIND_ALLGATHER, TW_KIND_BROADCAST};
    const float *from[RANKS] = {in[1][0], in[1][1], in[1][2]};
    tw_comm *comm[RANKS];
    tw_spec s;
    call c[RANKS];
    unit_rng r = unit_seeded("others");
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, RANKS, comm), TW_OK);
    CU_ASSERT_EQUAL(tw_spec_parse("topk:density=0.01", &s), TW_OK);
    for (uint32_t i = 0; i < RANKS * COUNT; i++)
        in[1][i / COUNT][i % COUNT] = one_value(&r, i / COUNT ? NORMAL : STEPPED, i % COUNT);
    for (size_t k = 0; k < UNIT_COUNT(kinds); k++) {
        memcpy(in[0], in[1], sizeof in[0]);
        for (int i = 0; i < RANKS; i++) {
            c[i] = (call){.comm = comm[i], .kind = kinds[k], .spec = &s, .rank = i};
            CU_ASSERT_EQUAL_FATAL(pthread_create(&c[i].thread, NULL, call_of, &c[i]), 0);
        }
        for (int i = 0; i < RANKS; i++)
            pthread_join(c[i].thread, NULL);
        for (int i = 0; i < RANKS; i++)
            CU_ASSERT_EQUAL_FATAL(c[i].status, TW_OK);
        expect(kinds[k], from);
    }
    for (int i = 0; i < RANKS; i++)
        CU_ASSERT_EQUAL(tw_comm_destroy(comm[i]), TW_OK);
}

/* ---- input that changes while it must not ---- */

static void run_kernels(tw_op *op, tw_kernel k) {
    uint32_t len;
    for (uint32_t i = 0; i < op->plan->naction; i++) {
        const tw_action *a = &op->plan->action[i];
        if (a->act != TW_A_COMPUTE || a->kernel != k || (k == TW_K_SELECT && a->hop != 1))
            continue;
        CU_ASSERT_EQUAL(tw_exec_run(&op->x, a, &len), TW_OK);
        CU_ASSERT(k != TW_K_ENCODE || len <= op->plan->frame[a->frame].hop1_cap);
    }
}

/* The selection sees next to nothing but zeros, and so keeps all that is not; what is encoded has none. */
static void no_more_is_kept_than_was_selected(void) {
    static const char *const specs[] = {"topk:density=0.001", "topk:density=0.001,select=group",
                                        "topk:density=0.01,select=threshold"};
    for (size_t k = 0; k < UNIT_COUNT(specs); k++) {
        tw_comm *comm[RANKS];
        tw_op *cache = NULL, *op = NULL;
        tw_op_layer layer = {.name = "layer", .count = COUNT, .dtype = TW_F32};
        tw_piece piece = TW_PIECE(0, 0, COUNT, in[0][0], out[0]);
        CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, RANKS, comm), TW_OK);
        CU_ASSERT_EQUAL(tw_spec_parse(specs[k], &layer.spec), TW_OK);
        tw_op_args a = {.comm = comm[0], .layer = &layer, .nlayer = 1, .piece = &piece, .npiece = 1};
        a.algo = TW_ALGO_SRA;
        a.redop = TW_SUM;
        a.nonfinite = TW_NONFINITE_PROPAGATE;
        a.tile = TILE;
        a.input_scale = 1.0f;
        for (uint32_t i = 0; i < COUNT; i++)
            in[0][0][i] = i % 50000 == 7 ? 1.0f : 0.0f;
        CU_ASSERT_EQUAL_FATAL(tw_op_prepare(&a, &cache, TW_OPS_KEPT, &op), TW_OK);
        run_kernels(op, TW_K_SELECT);
        for (uint32_t i = 0; i < COUNT; i++)
            in[0][0][i] = 2.0f;
        run_kernels(op, TW_K_ENCODE);
        tw_op_free_all(&cache);
        for (int r = 0; r < RANKS; r++)
            CU_ASSERT_EQUAL(tw_comm_destroy(comm[r]), TW_OK);
    }
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(long_layers_are_as_sorted),
        UNIT_TEST(thresholds_come_from_the_sample),
        UNIT_TEST(spans_fit),
        UNIT_TEST(expected_bytes_are_near),
        UNIT_TEST(other_collectives_select_too),
        UNIT_TEST(no_more_is_kept_than_was_selected),
    };
    return unit_main("sparse_reduce", tests, UNIT_COUNT(tests));
}
