/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Saving and loading a reducer's state: steps go on bit for bit, what other numbers of ranks held is folded and counted, and
 * whatever is wrong with a stream leaves all ranks as they were. */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "reducer/state.h"
#include "unit.h"

enum { MOST = 8, LAYERS = 6, COLUMNS = 60, BEFORE = 5, AFTER = 4 };
static const uint64_t counts[LAYERS] = {9001, 4096, 6000, 75 * COLUMNS, 5003, 301};

/* All codecs whose state differs: residuals of tiles, of what is selected, of a matrix with its factor, of halves. */
static const char rules[] = "sign=onebit+ef; level=quant:bits=4,rounding=stochastic+ef; kept=topk:density=0.05+ef; "
                            "matrix=powersgd:rank=3+ef; half=onebit:group=128+ef; *=none";

typedef struct stream {
    uint8_t *bytes;
    size_t n, room, at;
} stream;

static tw_status put(void *arg, const void *data, size_t n) {
    stream *s = arg;
    if (s->n + n > s->room) {
        s->room = 2 * (s->n + n);
        s->bytes = realloc(s->bytes, s->room);
    }
    memcpy(s->bytes + s->n, data, n);
    s->n += n;
    return TW_OK;
}

static tw_status get(void *arg, void *data, size_t n) {
    stream *s = arg;
    if (n > s->n - s->at)
        return TW_ERR_CORRUPT;
    memcpy(data, s->bytes + s->at, n);
    s->at += n;
    return TW_OK;
}

/* ---- ranks as threads: each makes its reducer, loads, takes steps, saves ---- */

typedef struct world {
    int size;
    const char *rules;
    tw_reducer_config cfg;
    uint64_t first, last; /* steps [first, last) */
    stream *from[MOST];   /* that rank r loads */
    uint32_t nfrom[MOST];
    const char *path; /* load and save files instead */
    const char *name; /* of the first layer; NULL: as ever */
    bool keep_open;   /* load inside a step */
    tw_status loaded[MOST];
    char sentence[MOST][512];
    stream saved[MOST];
    double lacks[LAYERS][9001]; /* exact minus outputs so far */
    double held[LAYERS][9001];  /* weight times residual, all ranks, after loading and at the end */
    double held_then[LAYERS][9001];
    float out[MOST][AFTER + BEFORE + 2][LAYERS][9001];
    double bound, bound_then;
    tw_comm *comm[MOST];
    pthread_barrier_t here;
    pthread_mutex_t lock;
} world;

typedef struct self {
    world *w;
    int rank;
    pthread_t thread;
} self;

static float input(int rank, uint64_t step, uint32_t layer, uint64_t i) {
    uint64_t key[] = {(uint64_t)rank, step, layer, i};
    float x = (float)(tw_hash64(key, sizeof key, 7) >> 40) * 0x1p-23f - 1.0f;
    x *= layer == 2 ? x * x * x : 1.0f;
    return layer == 4 ? tw_bf16_to_f32(tw_f32_to_bf16(x)) : x;
}

static void fill_layers(const world *w, tw_layer layer[LAYERS]) {
    static const char *const names[LAYERS] = {"sign", "level", "kept", "matrix", "half", "plain"};
    for (uint32_t l = 0; l < LAYERS; l++)
        layer[l] =
            (tw_layer)TW_LAYER_DTYPE(l == 0 && w->name ? w->name : names[l], counts[l], l == 4 ? TW_BF16 : TW_F32);
    layer[3].columns = COLUMNS;
}

static void add_held(world *w, tw_reducer *r, int rank, double to[LAYERS][9001]) {
    static const char *const names[LAYERS] = {"sign", "level", "kept", "matrix", "half", "plain"};
    static _Thread_local float e[9001];
    uint32_t tile = w->cfg.tile ? w->cfg.tile : 4096;
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint64_t tiles = (counts[l] + tile - 1) / tile;
        CU_ASSERT_EQUAL(tw_reducer_residual(r, l, e), TW_OK);
        pthread_mutex_lock(&w->lock);
        for (uint64_t i = 0; i < counts[l]; i++)
            to[l][i] += e[i] * (tw_owner(names[l], i / tile, tiles, w->size) == rank ? 1.0 : 1.0 / w->size);
        pthread_mutex_unlock(&w->lock);
    }
}

static void take_step(self *me, tw_reducer *r, uint64_t step) {
    world *w = me->w;
    float(*out)[9001] = w->out[me->rank][step - w->first];
    static _Thread_local float in[LAYERS][9001];
    static _Thread_local uint16_t half[2][9001];
    tw_report report = TW_REPORT_INIT;
    CU_ASSERT_EQUAL_FATAL(tw_reducer_begin(r, step, NULL), TW_OK);
    for (uint32_t l = LAYERS; l-- > 0;) {
        for (uint64_t i = 0; i < counts[l]; i++) {
            in[l][i] = input(me->rank, step, l, i);
            if (l == 4)
                half[0][i] = tw_f32_to_bf16(in[l][i]);
        }
        CU_ASSERT_EQUAL(l == 4 ? tw_reducer_push(r, l, half[0], half[1]) : tw_reducer_push(r, l, in[l], out[l]), TW_OK);
    }
    CU_ASSERT_EQUAL_FATAL(tw_reducer_end(r, &report), TW_OK);
    for (uint64_t i = 0; i < counts[4]; i++)
        out[4][i] = tw_bf16_to_f32(half[1][i]);
    if (me->rank == 0)
        w->bound = report.error_bound;
}

static void load(self *me, tw_reducer *r) {
    world *w = me->w;
    void *args[MOST];
    for (uint32_t i = 0; i < w->nfrom[me->rank]; i++) {
        args[i] = &w->from[me->rank][i];
        w->from[me->rank][i].at = 0;
    }
    if (w->keep_open)
        CU_ASSERT_EQUAL(tw_reducer_begin(r, 1, NULL), TW_OK);
    w->loaded[me->rank] =
        w->path ? tw_reducer_load_files(r, w->path) : tw_reducer_load(r, w->nfrom[me->rank], get, args);
    snprintf(w->sentence[me->rank], sizeof w->sentence[0], "%s", w->loaded[me->rank] < 0 ? tw_last_error() : "");
    if (w->keep_open)
        CU_ASSERT_EQUAL(tw_reducer_discard(r), TW_OK);
}

static void *run(void *arg) {
    self *me = arg;
    world *w = me->w;
    tw_layer layer[LAYERS];
    tw_reducer *r;
    fill_layers(w, layer);
    CU_ASSERT_EQUAL_FATAL(tw_reducer_create(w->comm[me->rank], layer, LAYERS, w->rules ? w->rules : rules, &w->cfg, &r),
                          TW_OK);
    bool loads = w->path != NULL;
    for (int k = 0; k < w->size; k++)
        loads = loads || w->nfrom[k];
    if (loads && w->first)
        load(me, r);
    add_held(w, r, me->rank, w->held_then);
    for (uint64_t step = w->first; step < w->last; step++)
        take_step(me, r, step);
    add_held(w, r, me->rank, w->held);
    CU_ASSERT_EQUAL(tw_reducer_save(r, put, &w->saved[me->rank]), TW_OK);
    if (w->path && !w->first)
        CU_ASSERT_EQUAL(tw_reducer_save_file(r, w->path), TW_OK);
    pthread_barrier_wait(&w->here);
    CU_ASSERT_EQUAL(tw_reducer_destroy(r), TW_OK);
    CU_ASSERT_EQUAL(tw_comm_destroy(w->comm[me->rank]), TW_OK);
    return NULL;
}

static world *new_world(int size, uint64_t first, uint64_t last) {
    world *w = calloc(1, sizeof *w);
    w->size = size;
    w->first = first;
    w->last = last;
    w->cfg = (tw_reducer_config)TW_REDUCER_CONFIG_INIT;
    w->cfg.algo = TW_ALGO_SRA; /* native sums of `none` have no certificate */
    return w;
}

static void run_world(world *w) {
    self me[MOST];
    pthread_barrier_init(&w->here, NULL, (unsigned)w->size);
    pthread_mutex_init(&w->lock, NULL);
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, w->size, w->comm), TW_OK);
    for (int r = 0; r < w->size; r++) {
        me[r] = (self){.w = w, .rank = r};
        CU_ASSERT_EQUAL_FATAL(pthread_create(&me[r].thread, NULL, run, &me[r]), 0);
    }
    for (int r = 0; r < w->size; r++)
        pthread_join(me[r].thread, NULL);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint64_t s = w->first; s < w->last; s++)
            for (uint64_t i = 0; i < counts[l]; i++) {
                double exact = 0;
                for (int r = 0; r < w->size; r++)
                    exact += input(r, s, l, i);
                w->lacks[l][i] += exact / w->size - w->out[0][s - w->first][l][i];
            }
    pthread_barrier_destroy(&w->here);
    pthread_mutex_destroy(&w->lock);
}

static void free_world(world *w) {
    for (int r = 0; r < w->size; r++)
        free(w->saved[r].bytes);
    free(w);
}

/* ---- bit for bit ---- */

static void go_on(const char *with) {
    for (int size = 1; size <= 4; size++) {
        world *whole = new_world(size, 0, BEFORE + AFTER), *head = new_world(size, 0, BEFORE);
        world *tail = new_world(size, BEFORE, BEFORE + AFTER);
        whole->rules = head->rules = tail->rules = with;
        run_world(whole);
        run_world(head);
        for (int r = 0; r < size; r++) {
            tail->from[r] = &head->saved[r];
            tail->nfrom[r] = 1;
        }
        run_world(tail);
        for (int r = 0; r < size; r++) {
            CU_ASSERT_EQUAL(tail->loaded[r], TW_OK);
            for (uint64_t s = 0; s < AFTER; s++)
                CU_ASSERT_EQUAL(memcmp(tail->out[r][s], whole->out[r][s + BEFORE], sizeof tail->out[r][s]), 0);
            CU_ASSERT_EQUAL_FATAL(tail->saved[r].n, whole->saved[r].n);
            CU_ASSERT_EQUAL(memcmp(tail->saved[r].bytes, whole->saved[r].bytes, tail->saved[r].n), 0);
        }
        CU_ASSERT_EQUAL(tail->bound, whole->bound);
        free_world(whole);
        free_world(head);
        free_world(tail);
    }
}

static void goes_on_bit_for_bit(void) {
    go_on(NULL);
    go_on("sign=onebit+decay; kept=topk:density=0.05+dgc; half=topk:density=0.1+dgc:momentum=0.5; *=none");
}

/* ---- another number of ranks ---- */

static double norm_of(const world *a, const world *b) { /* of exact minus outputs in both */
    double sq = 0;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint64_t i = 0; i < counts[l]; i++) {
            double d = a->lacks[l][i] + (b ? b->lacks[l][i] : 0);
            sq += d * d;
        }
    return sqrt(sq);
}

/* Largest difference between what is lacking and what is held. */
static double lost(const world *a, const world *b, double (*held)[9001]) {
    double worst = 0;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint64_t i = 0; i < counts[l]; i++) {
            double d = fabs(a->lacks[l][i] + (b ? b->lacks[l][i] : 0) - held[l][i]);
            worst = d > worst ? d : worst;
        }
    return worst;
}

static void fold(int from, int to, uint32_t tile, bool shuffled) {
    world *a = new_world(from, 0, BEFORE), *b = new_world(to, BEFORE, BEFORE + AFTER);
    stream given[MOST][MOST];
    b->cfg.tile = tile;
    run_world(a);
    CU_ASSERT(lost(a, NULL, a->held) < 1e-5);
    for (int k = 0; k < from; k++) {
        int at = shuffled ? (k + 1) % to : k % to;
        given[at][b->nfrom[at]++] = a->saved[k];
    }
    for (int r = 0; r < to; r++)
        b->from[r] = given[r];
    run_world(b);
    for (int r = 0; r < to; r++) {
        if (b->loaded[r] < 0)
            printf("rank %d: %s\n", r, b->sentence[r]);
        CU_ASSERT_EQUAL(b->loaded[r], TW_OK);
    }
    CU_ASSERT(lost(a, NULL, b->held_then) < 2e-5);
    /* one rank sends what it loaded and drops nothing but what its bf16 layer cannot hold, in the first step */
    CU_ASSERT(lost(a, b, b->held) < (to == 1 ? 0x1p-7 : 4e-5));
    double left = norm_of(a, b);
    printf("%d to %d ranks: ||lacking|| %.4g, bound %.4g; lost at most %.3g a value\n", from, to, left, b->bound,
           lost(a, b, b->held));
    CU_ASSERT(left <= b->bound);
    CU_ASSERT(b->bound <= 2.5 * left);
    if (to == 1)
        CU_ASSERT(left < 1e-2 * norm_of(a, NULL));
    free_world(a);
    free_world(b);
}

/* The body of the only record of momentum. */
static const float *find_momentum(const stream *s) {
    for (size_t at = 8; at + 24 < s->n; at += 8)
        if (memcmp(s->bytes + at, "MOME", 4) == 0)
            return (const float *)(const void *)(s->bytes + at + 24);
    CU_FAIL_FATAL("no momentum was saved");
    return NULL;
}

/* Each of four ranks, or of one, gets the mean of three ranks' momentum. */
static void momentum_is_shared(void) {
    static const char with[] = "kept=topk:density=0.05+dgc; *=none";
    world *a = new_world(3, 0, BEFORE), *b = new_world(4, BEFORE, BEFORE), *c = new_world(1, BEFORE, BEFORE);
    world *both[2] = {b, c};
    a->rules = b->rules = c->rules = with;
    run_world(a);
    for (int k = 0; k < 2; k++) {
        world *to = both[k];
        to->from[0] = a->saved;
        to->nfrom[0] = 3;
        run_world(to);
        CU_ASSERT_EQUAL(to->loaded[0], TW_OK);
    }
    const float *was[3], *is[4];
    for (int r = 0; r < 3; r++)
        was[r] = find_momentum(&a->saved[r]);
    for (int r = 0; r < 4; r++)
        is[r] = find_momentum(&b->saved[r]);
    const float *alone = find_momentum(&c->saved[0]);
    double most = 0;
    for (uint64_t i = 0; i < counts[2]; i++) {
        double mean = ((double)was[0][i] + (double)was[1][i] + (double)was[2][i]) / 3;
        for (int r = 0; r < 4; r++)
            most = fmax(most, fabs(mean - (double)is[r][i]));
        most = fmax(most, fabs(mean - (double)alone[i]));
    }
    CU_ASSERT(most < 1e-6);
    free_world(a);
    free_world(b);
    free_world(c);
}

static void folds_to_fewer(void) {
    fold(4, 3, 0, false);
}
static void folds_to_more(void) {
    fold(4, 8, 0, false);
}
static void folds_to_one(void) {
    fold(8, 1, 0, false);
}
static void folds_from_one(void) {
    fold(1, 4, 0, false);
}
static void folds_other_tiles(void) {
    fold(3, 3, 512, false);
}
static void folds_shuffled(void) {
    fold(3, 3, 0, true);
}

/* ---- what is refused ---- */

/* Loads into two new ranks; both must fail, and hold nothing afterwards. */
static void refused(stream *first, uint32_t nfirst, stream *second, uint32_t nsecond, tw_status one, tw_status two,
                    const char *why) {
    world *w = new_world(2, BEFORE, BEFORE);
    w->from[0] = first;
    w->nfrom[0] = nfirst;
    w->from[1] = second;
    w->nfrom[1] = nsecond;
    run_world(w);
    CU_ASSERT_EQUAL(w->loaded[0], one);
    CU_ASSERT_EQUAL(w->loaded[1], two);
    if (why)
        unit_has(w->sentence[w->loaded[0] == TW_ERR_PEER], why);
    double held = 0;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint64_t i = 0; i < counts[l]; i++)
            held += fabs(w->held[l][i]);
    CU_ASSERT_EQUAL(held, 0);
    free_world(w);
}

static void wrong_sets(void) {
    world *a = new_world(2, 0, BEFORE), *b = new_world(2, 0, BEFORE - 1), *sum = new_world(2, 0, 1);
    sum->cfg.redop = TW_SUM;
    run_world(a);
    run_world(b);
    run_world(sum);
    refused(&a->saved[0], 1, &b->saved[1], 1, TW_ERR_MISMATCH, TW_ERR_MISMATCH, "not saved together");
    stream again = a->saved[0]; /* with a place of its own: ranks are threads */
    refused(&a->saved[0], 1, &again, 1, TW_ERR_MISMATCH, TW_ERR_MISMATCH, "rank 0 of 2 was given 2 times");
    refused(&a->saved[0], 1, NULL, 0, TW_ERR_MISMATCH, TW_ERR_MISMATCH, "rank 1 of 2 was given 0 times");
    refused(sum->saved, 2, NULL, 0, TW_ERR_MISMATCH, TW_ERR_PEER, "the state is of sums, the reducer makes averages");
    free_world(a);
    free_world(b);
    free_world(sum);
}

static void wrong_layers(void) {
    world *a = new_world(2, 0, BEFORE);
    run_world(a);
    for (int which = 0; which < 3; which++) {
        world *w = new_world(2, BEFORE, BEFORE);
        for (int r = 0; r < 2; r++) {
            w->from[r] = &a->saved[r];
            w->nfrom[r] = 1;
        }
        w->name = which == 0 ? "another" : NULL;
        w->rules = which == 0   ? "another=onebit+ef; matrix=powersgd:rank=3+ef; *=onebit+ef"
                   : which == 1 ? "*=none"
                                : NULL;
        w->keep_open = which == 2;
        run_world(w);
        CU_ASSERT_EQUAL(w->loaded[0], which == 2 ? TW_ERR_ARG : TW_ERR_MISMATCH);
        CU_ASSERT_EQUAL(w->loaded[1], which == 2 ? TW_ERR_ARG : TW_ERR_MISMATCH);
        unit_has(w->sentence[0], which == 0   ? "has a layer 'sign', the reducer has not"
                                 : which == 1 ? "give it no feedback now"
                                              : "inside step 1");
        free_world(w);
    }
    free_world(a);
}

/* ---- damage: any byte, any length ---- */

typedef struct damaged_run {
    tw_comm *comm;
    stream *from, live;
    int rank, rounds;
    pthread_barrier_t *here;
    atomic_int *bad;
} damaged_run;

static void small_step(tw_reducer *r, int rank, uint64_t step) {
    float x[700];
    for (uint64_t i = 0; i < 700; i++)
        x[i] = input(rank, step, 0, i);
    CU_ASSERT_EQUAL(tw_reducer_begin(r, step, NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_push(r, 0, x, x), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_end(r, NULL), TW_OK);
}

static bool same_stream(const stream *a, const stream *b) {
    return a->n == b->n && memcmp(a->bytes, b->bytes, a->n) == 0;
}

/* Rank 1's stream changes from round to round; the state that is loaded differs from the live one. */
static void *load_damaged(void *arg) {
    damaged_run *d = arg;
    tw_layer layer = TW_LAYER("w", 700);
    tw_reducer *r;
    stream saved = {0}, one = {0}, now = {0};
    void *args[] = {&one};
    CU_ASSERT_EQUAL_FATAL(tw_reducer_create(d->comm, &layer, 1, "*=onebit:group=128+ef", NULL, &r), TW_OK);
    small_step(r, d->rank, 1);
    CU_ASSERT_EQUAL(tw_reducer_save(r, put, &saved), TW_OK);
    small_step(r, d->rank, 2);
    CU_ASSERT_EQUAL(tw_reducer_save(r, put, &d->live), TW_OK);
    unit_rng rng = {(uint64_t)d->rank + 1};
    for (int i = 0; i < d->rounds; i++) {
        one = saved;
        one.at = 0;
        one.bytes = malloc(saved.n);
        memcpy(one.bytes, saved.bytes, saved.n);
        uint32_t at = (uint32_t)i < saved.n ? (uint32_t)i : unit_below(&rng, (uint32_t)saved.n);
        if (d->rank == 1 && (uint32_t)i < saved.n)
            one.bytes[at] ^= (uint8_t)(1u << (i % 8));
        else if (d->rank == 1)
            one.n = at;
        tw_status s = tw_reducer_load(r, 1, get, args);
        now.n = 0;
        CU_ASSERT_EQUAL(tw_reducer_save(r, put, &now), TW_OK);
        bool right = d->rank == 1 ? s == TW_ERR_CORRUPT || s == TW_ERR_UNSUPPORTED : s == TW_ERR_PEER;
        if (!right || !same_stream(&now, &d->live))
            atomic_fetch_add(d->bad, 1);
        free(one.bytes);
    }
    one = saved;
    one.at = 0;
    CU_ASSERT_EQUAL(tw_reducer_load(r, 1, get, args), TW_OK);
    now.n = 0;
    CU_ASSERT_EQUAL(tw_reducer_save(r, put, &now), TW_OK);
    CU_ASSERT(same_stream(&now, &saved));
    pthread_barrier_wait(d->here);
    CU_ASSERT_EQUAL(tw_reducer_destroy(r), TW_OK);
    CU_ASSERT_EQUAL(tw_comm_destroy(d->comm), TW_OK);
    free(saved.bytes);
    free(now.bytes);
    free(d->live.bytes);
    return NULL;
}

static void damage_is_found(void) {
    enum { ROUNDS = 3500 };
    tw_comm *comm[2];
    pthread_t thread[2];
    pthread_barrier_t here;
    atomic_int bad = 0;
    damaged_run d[2];
    pthread_barrier_init(&here, NULL, 2);
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, 2, comm), TW_OK);
    for (int r = 0; r < 2; r++) {
        d[r] = (damaged_run){.comm = comm[r], .rank = r, .rounds = ROUNDS, .here = &here, .bad = &bad};
        pthread_create(&thread[r], NULL, load_damaged, &d[r]);
    }
    for (int r = 0; r < 2; r++)
        pthread_join(thread[r], NULL);
    pthread_barrier_destroy(&here);
    CU_ASSERT_EQUAL(atomic_load(&bad), 0);
}

/* ---- files ---- */

static void files_come_back(void) {
    char path[64];
    snprintf(path, sizeof path, "test_state.%ld", (long)getpid());
    world *a = new_world(3, 0, BEFORE), *b = new_world(2, BEFORE, BEFORE + 1);
    a->path = b->path = path;
    run_world(a);
    run_world(b);
    CU_ASSERT_EQUAL(b->loaded[0], TW_OK);
    CU_ASSERT_EQUAL(b->loaded[1], TW_OK);
    CU_ASSERT(lost(a, NULL, b->held_then) < 2e-5);
    for (int r = 0; r < 3; r++) {
        char name[80];
        snprintf(name, sizeof name, "%s.%d", path, r);
        CU_ASSERT_EQUAL(unlink(name), 0);
    }
    free_world(b);
    b = new_world(2, BEFORE, BEFORE);
    b->path = path;
    run_world(b);
    CU_ASSERT_EQUAL(b->loaded[0], TW_ERR_ARG);
    unit_has(b->sentence[0], "no rank was given a state");
    free_world(a);
    free_world(b);
}

static tw_status read_file(void *arg, void *data, size_t n) {
    return fread(data, 1, n, arg) == n ? TW_OK : TW_ERR_CORRUPT;
}

static void ignore(void *arg, uint64_t first, const void *values, uint64_t n) {
    *(uint64_t *)arg += n + (first && !values);
}

/* Reads all of a file of one layer; its step, or -1. */
static int64_t whole_file(const char *name, uint64_t count) {
    static uint8_t body[TW_STATE_CHUNK];
    tw_state_layer l;
    const char *layer;
    uint64_t seen = 0;
    FILE *f = fopen(name, "rb");
    tw_state_in in = {.get = read_file, .arg = f, .body = body};
    bool ok = f && tw_state_open(&in) >= 0 && tw_state_layer_next(&in, &l, &layer) >= 0 && l.values == count &&
              tw_state_values(&in, "LEDG", l.tiles, sizeof(tw_cert), ignore, &seen) >= 0 &&
              tw_state_values(&in, "RESI", l.values, sizeof(float), ignore, &seen) >= 0 && tw_state_close(&in) >= 0;
    if (f)
        fclose(f);
    return ok ? (int64_t)in.head.step : -1;
}

enum { LARGE = 3000011 };

/* A process of its own: steps and saves, again and again. */
static void save_for_ever(const char *path) {
    static float x[2][LARGE];
    tw_sim_config sc = TW_SIM_CONFIG_INIT;
    tw_layer layer = TW_LAYER("w", LARGE);
    const tw_layer *layers[] = {&layer, &layer};
    const uint32_t n[] = {1, 1};
    const char *const text[] = {"*=onebit+ef", "*=onebit+ef"};
    const tw_reducer_config *const cfg[] = {NULL, NULL};
    tw_sim *sim;
    tw_comm *comm[2];
    tw_reducer *r[2];
    if (tw_sim_create(NULL, &sc, &sim) < 0 || tw_sim_comms(sim, NULL, comm) < 0 ||
        tw_sim_reducers(sim, comm, layers, n, text, cfg, r) < 0)
        _exit(1);
    for (uint64_t step = 1;; step++) {
        for (int k = 0; k < 2; k++) {
            for (uint32_t i = 0; i < LARGE; i += 97)
                x[k][i] = (float)step;
            if (tw_reducer_begin(r[k], step, NULL) < 0 || tw_reducer_push(r[k], 0, x[k], x[k]) < 0 ||
                tw_reducer_flush(r[k]) < 0)
                _exit(1);
        }
        for (int k = 0; k < 2; k++)
            if (tw_reducer_end(r[k], NULL) < 0)
                _exit(1);
        for (int i = 0; i < 4; i++)
            if (tw_reducer_save_file(r[0], path) < 0)
                _exit(1);
    }
}

static void a_killed_save_leaves_the_old_file(void) {
    enum { KILLS = 12 };
    char path[64], name[80], tmp[96];
    int torn = 0, begun = 0;
    unit_rng rng = unit_seeded("kill");
    snprintf(path, sizeof path, "test_state_kill.%ld", (long)getpid());
    snprintf(name, sizeof name, "%s.0", path);
    snprintf(tmp, sizeof tmp, "%s.tmp", name);
    for (int k = 0; k < KILLS; k++) {
        pid_t child = fork();
        CU_ASSERT_FATAL(child >= 0);
        if (child == 0)
            save_for_ever(path);
        for (int i = 0; i < 20000 && access(name, R_OK) != 0; i++) /* the first save of all */
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        nanosleep(&(struct timespec){0, (long)unit_below(&rng, 250000000)}, NULL);
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        CU_ASSERT(WIFSIGNALED(status));
        torn += whole_file(name, LARGE) < 0;
        begun += access(tmp, F_OK) == 0;
    }
    printf("%d kills, %d of them within a save\n", KILLS, begun);
    CU_ASSERT_EQUAL(torn, 0);
    unlink(name);
    unlink(tmp);
}

static tw_status refuse(void *arg, const void *data, size_t n) {
    (void)data;
    size_t *left = arg;
    if (n > *left)
        return TW_ERR_TRANSPORT;
    *left -= n;
    return TW_OK;
}

static void a_full_disk_is_said(void) {
    tw_sim_config sc = TW_SIM_CONFIG_INIT;
    tw_layer layer = TW_LAYER("w", 100);
    const tw_layer *layers[] = {&layer, &layer};
    const uint32_t n[] = {1, 1};
    const char *const text[] = {NULL, NULL};
    const tw_reducer_config *const cfg[] = {NULL, NULL};
    tw_sim *sim;
    tw_comm *comm[2];
    tw_reducer *r[2];
    size_t left = 100;
    CU_ASSERT_EQUAL_FATAL(tw_sim_create(NULL, &sc, &sim), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_sim_comms(sim, NULL, comm), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_sim_reducers(sim, comm, layers, n, text, cfg, r), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_save(r[0], refuse, &left), TW_ERR_TRANSPORT);
    unit_has(tw_last_error(), "rank 0");
    CU_ASSERT_EQUAL(tw_reducer_save(NULL, refuse, &left), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_save(r[0], NULL, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_save_file(r[0], "/no/such/folder/state"), TW_ERR_ARG);
    unit_has(tw_last_error(), "/no/such/folder/state.0.tmp: No such file");
    CU_ASSERT_EQUAL(tw_reducer_save_file(r[0], NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_load_files(r[0], NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_load(NULL, 0, get, NULL), TW_ERR_ARG);
    for (int k = 0; k < 2; k++)
        tw_reducer_destroy(r[k]);
    for (int k = 0; k < 2; k++)
        tw_comm_destroy(comm[k]);
    tw_sim_destroy(sim);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(a_killed_save_leaves_the_old_file), /* first: it forks */
        UNIT_TEST(goes_on_bit_for_bit),
        UNIT_TEST(momentum_is_shared),
        UNIT_TEST(folds_to_fewer),
        UNIT_TEST(folds_to_more),
        UNIT_TEST(folds_to_one),
        UNIT_TEST(folds_from_one),
        UNIT_TEST(folds_other_tiles),
        UNIT_TEST(folds_shuffled),
        UNIT_TEST(wrong_sets),
        UNIT_TEST(wrong_layers),
        UNIT_TEST(damage_is_found),
        UNIT_TEST(files_come_back),
        UNIT_TEST(a_full_disk_is_said),
    };
    return unit_main("state", tests, UNIT_COUNT(tests));
}
