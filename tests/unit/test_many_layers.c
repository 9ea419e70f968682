/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Steps of very many layers: what a push costs must not grow with their number, and overlaps are found as by comparing
 * all pairs. */
#include "reducer/ranges.h"
#include "unit.h"
#include <thinwire/thinwire.h>
#include <time.h>

enum { VALUES = 16, FEW = 1500, MANY = 24000 };

static void check_ranges(unit_rng *r, uint32_t n, int order) {
    tw_range *room = calloc(tw_ranges_bytes(n), 1);
    uint64_t *from = calloc(n, sizeof *from), *len = calloc(n, sizeof *len);
    tw_ranges s = {room, 0, n};
    uint32_t added = 0, wrong = 0, hits = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t place = order == 0 ? i : order == 1 ? n - i : unit_below(r, n);
        uint64_t a = 1000 + place * 8 + unit_below(r, 12), b = unit_below(r, 4) ? unit_below(r, 8) : unit_below(r, 99);
        bool meets = false;
        for (uint32_t k = 0; k < added; k++)
            meets = meets || (b && len[k] && a < from[k] + len[k] && from[k] < a + b);
        wrong += tw_ranges_meet(&s, a, b) != meets;
        hits += meets;
        if (meets && unit_below(r, 3)) /* overlapping ones as well, as inputs may be */
            continue;
        tw_ranges_add(&s, a, b);
        from[added] = a;
        len[added++] = b;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT(n < 100 || (hits > n / 10 && hits < n));
    free(room);
    free(from);
    free(len);
}

static void test_ranges(void) {
    unit_rng r = unit_seeded("ranges");
    static const uint32_t sizes[] = {1, 2, 3, 7, 8, 64, 127, 1000};
    for (size_t i = 0; i < UNIT_COUNT(sizes); i++)
        for (int order = 0; order < 3; order++)
            check_ranges(&r, sizes[i], order);
}

/* ---- one rank with n layers ---- */

typedef struct many {
    tw_comm *comm;
    tw_reducer *red;
    tw_layer *layer;
    char (*name)[16];
    float *in, *out;
    uint32_t n;
} many;

static void open_many(many *m, uint32_t n) {
    *m = (many){.n = n};
    m->layer = calloc(n, sizeof *m->layer);
    m->name = calloc(n, sizeof *m->name);
    m->in = calloc((size_t)n * VALUES, sizeof *m->in);
    m->out = calloc((size_t)n * VALUES, sizeof *m->out);
    for (uint32_t i = 0; i < n; i++) {
        snprintf(m->name[i], sizeof m->name[i], "l%u", i);
        m->layer[i] = (tw_layer)TW_LAYER(m->name[i], VALUES);
    }
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, 1, &m->comm), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_reducer_create(m->comm, m->layer, n, NULL, NULL, &m->red), TW_OK);
}

static void close_many(many *m) {
    CU_ASSERT_EQUAL(tw_reducer_destroy(m->red), TW_OK);
    CU_ASSERT_EQUAL(tw_comm_destroy(m->comm), TW_OK);
    free(m->layer);
    free(m->name);
    free(m->in);
    free(m->out);
}

typedef enum way { PUSH_UP, PUSH_DOWN, PUSH_MIXED, POST_ALL, WAYS } way;

static uint32_t nth(const many *m, way w, uint32_t i) {
    return w == PUSH_UP ? i : w == PUSH_DOWN ? m->n - 1 - i : (uint32_t)((uint64_t)i * 7919 % m->n);
}

/* Processor seconds of one step. */
static double one_step(many *m, way w, uint64_t step) {
    struct timespec a, b;
    tw_status s = TW_OK;
    tw_piece *piece = calloc(m->n, sizeof *piece);
    for (uint32_t i = 0; i < m->n; i++) {
        size_t at = (size_t)nth(m, PUSH_DOWN, i) * VALUES;
        piece[i] = (tw_piece)TW_PIECE(nth(m, PUSH_DOWN, i), 0, VALUES, m->in + at, m->out + at);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    CU_ASSERT_EQUAL(tw_reducer_begin(m->red, step, NULL), TW_OK);
    for (uint32_t i = 0; w != POST_ALL && i < m->n && s >= 0; i++) {
        size_t at = (size_t)nth(m, w, i) * VALUES;
        s = tw_reducer_push(m->red, nth(m, w, i), m->in + at, m->out + at);
    }
    if (w == POST_ALL)
        s = tw_reducer_post(m->red, piece, m->n, NULL);
    CU_ASSERT_EQUAL(s, TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_end(m->red, NULL), TW_OK);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    free(piece);
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

static double best_step(uint32_t n, way w) {
    many m;
    double best = 1e9;
    open_many(&m, n);
    for (uint64_t i = 0; i < 3; i++) {
        double t = one_step(&m, w, i);
        best = t < best ? t : best;
    }
    close_many(&m);
    return best;
}

/* 16 times the layers: 16 times the time and a bit; were all pairs compared, 256 times. */
static void test_cost(void) {
    static const char *const names[] = {"pushed up", "pushed down", "pushed mixed", "posted at once"};
    for (way w = PUSH_UP; w < WAYS; w++) {
        double few = best_step(FEW, w), lots = best_step(MANY, w);
        printf("%s: %.3f ms for %d layers, %.3f ms for %d\n", names[w], 1e3 * few, FEW, 1e3 * lots, MANY);
        CU_ASSERT(lots < 64 * few);
    }
}

/* ---- who overlaps whom ---- */

/* Random places in one buffer: what is refused, and the name in the sentence, are those of all pairs in order. */
static void test_same_refusals(void) {
    enum { N = 300, SPAN = 40000 };
    unit_rng r = unit_seeded("same_refusals");
    static float memory[SPAN + VALUES];
    uint32_t in[N], out[N], refused = 0;
    bool pushed[N] = {false};
    many m;
    open_many(&m, N);
    CU_ASSERT_EQUAL(tw_reducer_begin(m.red, 0, NULL), TW_OK);
    for (uint32_t t = 0; t < 4 * N; t++) {
        uint32_t i = unit_below(&r, N), k = 0, a = unit_below(&r, SPAN / 2), b = unit_below(&r, SPAN);
        char want[80];
        b = unit_below(&r, 4) ? b : a;
        if (pushed[i])
            continue;
        bool self = a != b && a < b + VALUES && b < a + VALUES;
#define MEET(x, y) ((x) < (y) + VALUES && (y) < (x) + VALUES)
        while (!self && k < N && !(pushed[k] && (MEET(b, out[k]) || MEET(b, in[k]) || MEET(a, out[k]))))
            k++;
        tw_status s = tw_reducer_push(m.red, i, memory + a, memory + b);
        CU_ASSERT_EQUAL(s, self || k < N ? TW_ERR_ARG : TW_OK);
        snprintf(want, sizeof want, self ? "layer 'l%u': in and out overlap" : "overlap: layer 'l%u' and layer 'l%u'",
                 i, k);
        if (s < 0)
            unit_has(tw_last_error(), want);
        refused += s < 0;
        pushed[i] = s >= 0;
        in[i] = a;
        out[i] = b;
    }
    CU_ASSERT(refused > 50);
    CU_ASSERT_EQUAL(tw_reducer_discard(m.red), TW_OK);
    close_many(&m);
}

/* One buffer for all, each op waited for: memory of an op that is done is free. */
static void test_one_buffer_for_all(void) {
    many m;
    open_many(&m, FEW);
    CU_ASSERT_EQUAL(tw_reducer_begin(m.red, 0, NULL), TW_OK);
    for (uint32_t i = 0; i < FEW; i++) {
        tw_piece p = TW_PIECE(i, 0, VALUES, m.in, m.out);
        tw_req *q = NULL;
        CU_ASSERT_EQUAL_FATAL(tw_reducer_post(m.red, &p, 1, &q), TW_OK);
        CU_ASSERT_EQUAL(tw_req_wait(q, 0), TW_OK);
        CU_ASSERT_EQUAL(tw_req_free(q), TW_OK);
    }
    tw_piece again = TW_PIECE(7, 3, 2, m.in + VALUES, m.out + VALUES);
    CU_ASSERT_EQUAL(tw_reducer_post(m.red, &again, 1, NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "layer 'l7': value 3 was posted already in step 0");
    CU_ASSERT_EQUAL(tw_reducer_end(m.red, NULL), TW_OK);
    close_many(&m);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(test_ranges),
        UNIT_TEST(test_cost),
        UNIT_TEST(test_same_refusals),
        UNIT_TEST(test_one_buffer_for_all),
    };
    return unit_main("many layers", tests, UNIT_COUNT(tests));
}
