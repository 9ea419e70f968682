/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The solver: against the optimum of small problems, found by trying everything; on 100,000 random ones what it promises
 * (within the budget, no worse than the uniform choice, a bound that holds); and how near it comes to that bound. */
#include <thinwire/experimental.h>
#include "unit.h"

#include <math.h>
#include <stdbool.h>

enum { LAYERS = 500, MOST = 32, MANY_LAYERS = 300000 };
static tw_candidate candidate[LAYERS * MOST];
static uint32_t first[LAYERS + 1], uniform[LAYERS], chosen[LAYERS], again[LAYERS];

typedef struct problem {
    uint32_t layers;
    double budget;
    bool codec; /* costs codec time, too */
} problem;

static double draw(unit_rng *r) { /* [0, 1) */
    return (double)(unit_next(r) >> 11) * 0x1p-53;
}

/* ---- problems ---- */

/* From one setting to the next: fewer bytes, more error, with noise that makes some of them worse in both. */
static void draw_layer(unit_rng *r, const problem *p, uint32_t n, tw_candidate *c, double noise) {
    double size = exp(draw(r) * 8 + 6), norm = exp(draw(r) * 4 - 2) * sqrt(size);
    for (uint32_t j = 0; j < n; j++) {
        double share = pow(2, -8.0 * j / n + noise * draw(r));
        c[j] = (tw_candidate){size * share, p->codec ? size * 0.2 * (0.2 + draw(r)) : 0,
                              norm * exp(-3 * share) * (1 + noise * (draw(r) - 0.5))};
    }
}

/* Whole numbers of `unit`: ties everywhere, and budgets that are met exactly, or by tenths but for rounding. */
static void draw_whole(unit_rng *r, const problem *p, uint32_t n, tw_candidate *c, double unit) {
    uint32_t top = 1 + unit_below(r, 12);
    for (uint32_t j = 0; j < n; j++)
        c[j] = (tw_candidate){unit * unit_below(r, top + 1), p->codec ? unit * unit_below(r, top + 1) : 0,
                              unit * unit_below(r, top + 1)};
}

static double error_of(const problem *p, const uint32_t *at) {
    double sum = 0;
    for (uint32_t i = 0; i < p->layers; i++)
        sum += candidate[first[i] + at[i]].error;
    return sum;
}

static double cost_of(const problem *p, const uint32_t *at) {
    double wire = 0, codec = 0;
    for (uint32_t i = 0; i < p->layers; i++) {
        wire += candidate[first[i] + at[i]].wire;
        codec += candidate[first[i] + at[i]].codec;
    }
    return wire > codec ? wire : codec;
}

static problem draw_problem(unit_rng *r, uint32_t most_layers, uint32_t most) {
    problem p = {1 + unit_below(r, most_layers), 0, unit_below(r, 3) == 0};
    bool whole = unit_below(r, 2) == 0, equal = unit_below(r, 8) == 0;
    double noise = unit_below(r, 2) ? draw(r) : 0, unit = unit_below(r, 2) ? 0.1 : 1;
    for (uint32_t i = 0; i < p.layers; i++) {
        uint32_t n = 1 + unit_below(r, most);
        first[i + 1] = first[i] + n;
        if (equal && i > 0) { /* layers alike, as in a transformer */
            n = first[1];
            first[i + 1] = first[i] + n;
            memcpy(&candidate[first[i]], candidate, n * sizeof *candidate);
        } else if (whole) {
            draw_whole(r, &p, n, &candidate[first[i]], unit);
        } else {
            draw_layer(r, &p, n, &candidate[first[i]], noise);
        }
        uniform[i] = unit_below(r, n);
    }
    p.budget = error_of(&p, uniform);
    if (unit_below(r, 8) == 0)
        p.budget = 1e9; /* never met */
    return p;
}

/* ---- what every answer must be ---- */

static void check_answer(const problem *p, const tw_solution *s) {
    for (uint32_t i = 0; i < p->layers; i++)
        CU_ASSERT_FATAL(chosen[i] < first[i + 1] - first[i]);
    CU_ASSERT(error_of(p, chosen) <= p->budget);
    CU_ASSERT(cost_of(p, chosen) <= cost_of(p, uniform));
    CU_ASSERT(s->error == error_of(p, chosen) && s->cost == cost_of(p, chosen));
    CU_ASSERT(s->bound <= s->cost && s->bound >= 0);
    CU_ASSERT(!s->exact || s->bound == s->cost);
}

/* All choices, as numbers with a digit for each layer. */
static double best_of_all(const problem *p) {
    uint32_t at[8] = {0}, i;
    double best = INFINITY;
    do {
        if (error_of(p, at) <= p->budget && cost_of(p, at) < best)
            best = cost_of(p, at);
        for (i = 0; i < p->layers && ++at[i] == first[i + 1] - first[i]; i++)
            at[i] = 0;
    } while (i < p->layers);
    return best;
}

static void small_ones_are_optimal(void) {
    unit_rng r = unit_seeded("small");
    unsigned two_sums = 0;
    for (int trial = 0; trial < 6000; trial++) {
        tw_solution s = TW_SOLUTION_INIT;
        problem p = draw_problem(&r, 5, 5);
        CU_ASSERT_EQUAL_FATAL(tw_solve(NULL, candidate, first, p.layers, p.budget, uniform, chosen, &s), TW_OK);
        check_answer(&p, &s);
        double best = best_of_all(&p);
        CU_ASSERT(s.cost == best && s.bound <= best);
        two_sums += p.codec;
    }
    CU_ASSERT(two_sums > 1000);
}

/* Where not all choices are tried: the bound, and what is said of it, must hold all the same. */
static void two_sums_are_bounded(void) {
    unit_rng r = unit_seeded("two sums");
    unsigned found = 0, exact = 0, n = 150;
    for (unsigned trial = 0; trial < n; trial++) {
        tw_solution s = TW_SOLUTION_INIT;
        problem p = {8, 0, true};
        for (uint32_t i = 0; i < p.layers; i++) {
            first[i + 1] = first[i] + 4; /* 65,536 choices */
            if (trial % 2)
                draw_whole(&r, &p, 4, &candidate[first[i]], trial % 4 > 1 ? 0.1 : 1);
            else
                draw_layer(&r, &p, 4, &candidate[first[i]], 0.5);
            uniform[i] = unit_below(&r, 4);
        }
        p.budget = trial % 3 ? error_of(&p, uniform) : 1e9;
        CU_ASSERT_EQUAL_FATAL(tw_solve(NULL, candidate, first, p.layers, p.budget, uniform, chosen, &s), TW_OK);
        check_answer(&p, &s);
        double best = best_of_all(&p);
        CU_ASSERT(s.cost >= best && s.bound <= best && (!s.exact || s.cost == best));
        found += s.cost == best;
        exact += s.exact;
    }
    printf("of %u the optimum was found in %u, and proven in %u\n", n, found, exact);
    CU_ASSERT(found > n * 0.6);
}

/* So many layers that there is no exact search: nothing may be claimed. */
static void very_many_layers(void) {
    enum { N = MANY_LAYERS };
    tw_candidate *c = malloc(2 * (size_t)N * sizeof *c);
    uint32_t *f = malloc((N + 1) * sizeof *f), *at = malloc(N * sizeof *at);
    tw_solution s = TW_SOLUTION_INIT;
    CU_ASSERT_FATAL(c && f && at);
    for (uint32_t i = 0; i < N; i++) {
        c[2 * i] = (tw_candidate){1, 0, 0};
        c[2 * i + 1] = (tw_candidate){0, 0, 1};
        f[i] = 2 * i;
    }
    f[N] = 2 * N;
    CU_ASSERT_EQUAL(tw_solve(NULL, c, f, N, 1000.5, NULL, at, &s), TW_OK);
    CU_ASSERT(s.cost == N - 1000 && s.error == 1000 && s.bound <= s.cost && s.bound > N - 1001 && !s.exact);
    free(c);
    free(f);
    free(at);
}

static void promises_hold(void) {
    unit_rng r = unit_seeded("random");
    unsigned exact = 0, better = 0, n = 100000;
    for (unsigned trial = 0; trial < n; trial++) {
        tw_solution s = TW_SOLUTION_INIT;
        problem p = draw_problem(&r, trial % 100 ? 12 : 60, 8);
        CU_ASSERT_EQUAL_FATAL(tw_solve(NULL, candidate, first, p.layers, p.budget, uniform, chosen, &s), TW_OK);
        check_answer(&p, &s);
        exact += s.exact;
        better += cost_of(&p, chosen) < cost_of(&p, uniform);
    }
    printf("%u problems: %u solved exactly, %u better than the uniform choice\n", n, exact, better);
    CU_ASSERT(better > n / 2 && exact > n / 2);
}

/* 500 layers of 32 settings each, sizes over three orders of magnitude. */
static void large_ones_are_near_the_bound(void) {
    unit_rng r = unit_seeded("large");
    double worst = 0;
    for (int trial = 0; trial < 24; trial++) {
        tw_solution s = TW_SOLUTION_INIT;
        problem p = {LAYERS, 0, false};
        for (uint32_t i = 0; i < LAYERS; i++) {
            first[i + 1] = first[i] + MOST;
            draw_layer(&r, &p, MOST, &candidate[first[i]], trial % 2 ? 0.3 : 0);
            uniform[i] = MOST / 2;
        }
        p.budget = error_of(&p, uniform);
        CU_ASSERT_EQUAL_FATAL(tw_solve(NULL, candidate, first, p.layers, p.budget, uniform, chosen, &s), TW_OK);
        check_answer(&p, &s);
        worst = fmax(worst, (s.cost - s.bound) / s.cost);
        CU_ASSERT_EQUAL(tw_solve(NULL, candidate, first, p.layers, p.budget, uniform, again, &s), TW_OK);
        CU_ASSERT(!memcmp(chosen, again, sizeof chosen));
    }
    printf("largest gap to the bound %.2g of the cost\n", worst);
    CU_ASSERT(worst <= 1e-3);
}

/* ---- edges of what is allowed ---- */

static void ends_of_the_range(void) {
    static const double cost[] = {0, 1e-300, 1, 1e30}, error[] = {0, 1e-100, 1, 1e90};
    unit_rng r = unit_seeded("ends");
    for (int trial = 0; trial < 2000; trial++) {
        tw_solution s = TW_SOLUTION_INIT;
        problem p = {1 + unit_below(&r, 5), 0, true};
        for (uint32_t i = 0; i < p.layers; i++) {
            first[i + 1] = first[i] + 1 + unit_below(&r, 5);
            for (uint32_t c = first[i]; c < first[i + 1]; c++)
                candidate[c] =
                    (tw_candidate){cost[unit_below(&r, 4)], cost[unit_below(&r, 4)], error[unit_below(&r, 4)]};
            uniform[i] = unit_below(&r, first[i + 1] - first[i]);
        }
        p.budget = fmin(error_of(&p, uniform), 1e90);
        if (error_of(&p, uniform) > p.budget)
            continue;
        CU_ASSERT_EQUAL_FATAL(tw_solve(NULL, candidate, first, p.layers, p.budget, uniform, chosen, &s), TW_OK);
        check_answer(&p, &s);
        CU_ASSERT(s.cost >= best_of_all(&p) && s.bound <= best_of_all(&p));
    }
}

static void nothing_to_do(void) {
    tw_solution s = TW_SOLUTION_INIT;
    const uint32_t none[1] = {0}, one[2] = {0, 1};
    const tw_candidate only = {3, 5, 7};
    CU_ASSERT_EQUAL(tw_solve(NULL, NULL, none, 0, 0, NULL, NULL, &s), TW_OK);
    CU_ASSERT(s.exact && s.cost == 0 && s.bound == 0);
    CU_ASSERT_EQUAL(tw_solve(NULL, &only, one, 1, 7, NULL, chosen, &s), TW_OK);
    CU_ASSERT(s.exact && s.cost == 5 && s.wire == 3 && s.codec == 5 && s.error == 7 && chosen[0] == 0);
}

static void refused(const tw_candidate *c, const uint32_t *f, uint32_t n, double budget, const uint32_t *u,
                    const char *part) {
    tw_solution s = {sizeof s, 9, 9, 9, 9, 9, 9};
    chosen[0] = 77;
    CU_ASSERT_EQUAL(tw_solve(NULL, c, f, n, budget, u, chosen, &s), TW_ERR_ARG);
    unit_has(tw_last_error(), part);
    CU_ASSERT(chosen[0] == 77 && s.exact == 9 && s.cost == 9);
}

static void bad_arguments(void) {
    const tw_candidate good[2] = {{1, 0, 2}, {2, 0, 1}}, less = {-1, 0, 1}, nan = {1, NAN, 1}, far = {1, 0, INFINITY};
    const uint32_t two[2] = {0, 2}, one[2] = {0, 1}, empty[3] = {0, 2, 2}, back[3] = {0, 2, 1}, late[2] = {1, 2},
                   third[1] = {2};
    refused(good, NULL, 1, 1, NULL, "NULL");
    refused(NULL, two, 1, 1, NULL, "NULL");
    refused(good, late, 1, 1, NULL, "begin at 0");
    refused(good, empty, 2, 1, NULL, "layer 1 has 0 candidates");
    refused(good, back, 2, 1, NULL, "layer 1 has -1 candidates");
    refused(&less, one, 1, 1, NULL, "candidate 0 of layer 0");
    refused(&nan, one, 1, 1, NULL, "codec nan");
    refused(&far, one, 1, 1, NULL, "error inf");
    refused(good, two, 1, NAN, NULL, "budget nan");
    refused(good, two, 1, -1, NULL, "budget -1");
    refused(good, two, 1, 0.5, NULL, "least error possible is 1");
    refused(good, two, 1, 1, third, "no candidate 2");
    CU_ASSERT_EQUAL(tw_solve(NULL, good, two, 1, 1, NULL, chosen, NULL), TW_ERR_ARG);
}

static void *some_memory(void *arg, size_t bytes, size_t align) {
    int *allowed = arg;
    return (*allowed)-- > 0 ? aligned_alloc(align, bytes) : NULL;
}
static void give_back(void *arg, void *p) {
    (void)arg;
    free(p);
}

static void memory_is_refused(void) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *c;
    tw_solution s = {sizeof s, 9, 9, 9, 9, 9, 9};
    const tw_candidate good[2] = {{1, 0, 2}, {2, 0, 1}};
    const uint32_t two[2] = {0, 2};
    int allowed = 1; /* the context itself */
    cfg.alloc = some_memory;
    cfg.release = give_back;
    cfg.alloc_arg = &allowed;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &c), TW_OK);
    CU_ASSERT_EQUAL(tw_solve(c, good, two, 1, 1, NULL, chosen, &s), TW_ERR_NOMEM);
    CU_ASSERT_EQUAL(s.exact, 9);
    allowed = 1;
    CU_ASSERT_EQUAL(tw_solve(c, good, two, 1, 1, NULL, chosen, &s), TW_OK);
    tw_ctx_destroy(c);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(small_ones_are_optimal),
                                      UNIT_TEST(two_sums_are_bounded),
                                      UNIT_TEST(very_many_layers),
                                      UNIT_TEST(promises_hold),
                                      UNIT_TEST(large_ones_are_near_the_bound),
                                      UNIT_TEST(ends_of_the_range),
                                      UNIT_TEST(nothing_to_do),
                                      UNIT_TEST(bad_arguments),
                                      UNIT_TEST(memory_is_refused)};
    return unit_main("solve", tests, UNIT_COUNT(tests));
}
