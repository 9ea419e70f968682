/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a step takes under a choice of settings, and the choice that takes least (man page: THE MODEL). */
#include <math.h>
#include <stdlib.h>

#include "plan_tool.h"

enum {
    DECADES_FROM = 5,
    DECADES_TO = 14 /* PLAN_SLOWEST, PLAN_FASTEST */,
    POINTS = 8 /* a decade of rates */,
    MOST_PASSES = 8
};
#define MOST_CHOICES (2 * (DECADES_TO - DECADES_FROM) * POINTS + 4)

/* Choices are made for a fixed grid of rates, whatever the link is, and the one that is best at the link's rate is taken: so a
 * faster link never comes out slower. */
typedef struct choice {
    plan_cost cost, uneven; /* uneven: what the busiest owner has beyond the average */
    uint32_t sums;          /* native ones, one after another */
    uint32_t layers;        /* that have values; of these go */
    uint32_t plain, framed; /* as they are; compressed in frames to owners and back */
} choice;

typedef struct problem {
    plan_result *r;
    tw_candidate *of;
    uint32_t *first, *map, *uniform, *chosen; /* map: candidates of the solver to those of the tool */
    uint32_t n;
    choice found[MOST_CHOICES];
    uint32_t nfound;
    double best; /* step of r->chosen at the link's rate */
} problem;

/* ---- costs ---- */

tw_status plan_layer_cost(const plan_options *o, const plan_layer *l, const plan_candidate *c, plan_cost *cost) {
    char rule[PLAN_SPEC + 2];
    tw_layer layer = {sizeof layer, l->dtype, l->name, l->count, 0, 0, l->columns};
    tw_plan_info info = TW_PLAN_INFO_INIT;
    snprintf(rule, sizeof rule, "*=%s", c->text);
    tw_status st = tw_plan_compute(0, (int)o->ranks, &layer, 1, rule, NULL, &info);
    double n = (double)l->count, ranks = (double)o->ranks;
    double decoded =
        plan_is_lowrank(c) ? 1 : (2 * ranks - 1) / ranks; /* what peers sent for the own share, and all answers */
    *cost = (plan_cost){.wire = (double)info.all_bytes / ranks,
                        .codec = n * (c->encode + decoded * c->decode),
                        .sums = plan_is_lowrank(c) ? info.hops : 0};
    return st;
}

static const plan_layer *alike(const plan_layers *l, uint32_t at) {
    const plan_layer *y = &l->item[at];
    for (uint32_t i = 0; i < at; i++)
        if (l->item[i].count == y->count && l->item[i].columns == y->columns && l->item[i].dtype == y->dtype)
            return &l->item[i];
    return NULL;
}

static tw_status find_costs(plan_result *r) {
    const plan_layers *l = r->layers;
    uint32_t nc = r->candidates->n;
    tw_status st = TW_OK;
    for (uint32_t i = 0; i < l->n && st >= 0; i++) {
        const plan_layer *same = alike(l, i);
        plan_cost *to = r->cost + (size_t)i * nc;
        if (same)
            memcpy(to, r->cost + (size_t)(same - l->item) * nc, nc * sizeof *to);
        for (uint32_t k = 0; k < nc && st >= 0 && !same; k++) {
            const plan_candidate *c = &r->candidates->item[k];
            if (k && (l->item[i].is_small || !plan_fits(c, &l->item[i])))
                continue;
            st = plan_layer_cost(r->o, &l->item[i], c, &to[k]);
        }
    }
    return st;
}

static double error_of(const plan_result *r, uint32_t layer, uint32_t k) {
    double e = r->lost[(size_t)layer * r->candidates->n + k] * r->layers->item[layer].norm;
    if (r->o->squares)
        e *= e;
    return e == 0 || e >= 1e-100 ? e : 1e-100; /* what tw_solve takes */
}

/* ---- time ---- */

static double grid_rate(int i) {
    return pow(10, DECADES_FROM + (double)i / POINTS);
}

static double codec_factor(const plan_options *o) {
    return o->cores < 1 ? 1 / o->cores : 1;
}
/* In which frames move and codecs run beside the computing: who has no core for that does it afterwards. */
static double window_of(const plan_options *o) {
    return o->cores >= 2 ? o->overlap * o->step : 0;
}
static double bytes_per_s(const plan_options *o, double link) {
    return link / 8 * o->goodput;
}

static double last_of(const plan_result *r) {
    double all = (double)r->layers->bytes;
    return (double)r->o->bucket < all ? (double)r->o->bucket / all : 1;
}

static plan_time time_of(const plan_result *r, plan_cost c, double latency, double link) {
    const plan_options *o = r->o;
    plan_time t = {.wire = c.wire / bytes_per_s(o, link), .codec = c.codec * codec_factor(o)};
    double rest = fmax(t.wire, t.codec) - window_of(o);
    t.exposed = latency + fmax(rest, last_of(r) * (t.wire + t.codec));
    t.step = o->step + t.exposed;
    return t;
}

/* Of a tree: as deep as ranks are many. */
static double depth_of(const plan_options *o) {
    double depth = 0;
    for (uint64_t n = 1; n < o->ranks; n *= 2)
        depth++;
    return depth;
}

static double dense_bytes(const plan_result *r, bool half) {
    double bytes = 0;
    for (uint32_t i = 0; i < r->layers->n; i++)
        bytes += (double)r->layers->item[i].count * (half ? 2 : (double)tw_dtype_size(r->layers->item[i].dtype));
    return bytes;
}

static double share_sent(const plan_options *o) {
    return 2 * ((double)o->ranks - 1) / (double)o->ranks;
}

/* The better of what MPI libraries have: halving and doubling (a ring sends as much, and waits longer), and all values at once
 * by doubling, which sends more and waits half as long. */
static plan_time time_dense(const plan_result *r, bool half, double link) {
    const plan_options *o = r->o;
    double bytes = dense_bytes(r, half), depth = depth_of(o);
    plan_time halving = time_of(r, (plan_cost){.wire = share_sent(o) * bytes}, 2 * depth * o->latency, link);
    plan_time doubling = time_of(r, (plan_cost){.wire = depth * bytes}, depth * o->latency, link);
    return doubling.step < halving.step ? doubling : halving;
}

/* A core's time for messages: each bucket of the frames goes to all peers and back. */
static double message_seconds(const plan_result *r) {
    const plan_options *o = r->o;
    return ceil((double)r->layers->bytes / (double)o->bucket) * 2 * ((double)o->ranks - 1) * o->message;
}

static plan_time time_compressed(const plan_result *r, const choice *c, double link) {
    const plan_options *o = r->o;
    if (c->plain == c->layers)
        return time_dense(r, false, link);
    plan_cost cost = c->cost;
    if (c->framed) { /* what goes as it is is in their frames, too */
        cost.wire += c->uneven.wire;
        cost.codec += c->uneven.codec + message_seconds(r);
    }
    return time_of(r, cost, fmax(c->framed ? 2 : 0, 2 * depth_of(o) * c->sums) * o->latency, link);
}

/* ---- choices ---- */

/* A layer's part of a choice; layers without values are in no message. */
static void count_layer(choice *c, const plan_result *r, uint32_t layer, uint32_t k, int by) {
    const plan_cost *cost = &r->cost[(size_t)layer * r->candidates->n + k];
    uint32_t one = (uint32_t)by * (r->layers->item[layer].count > 0);
    c->cost.wire += by * cost->wire;
    c->cost.codec += by * cost->codec;
    c->layers += one;
    c->plain += k == 0 ? one : 0;
    c->framed += k && !plan_is_lowrank(&r->candidates->item[k]) ? one : 0;
    if (by > 0 && cost->sums > c->sums)
        c->sums = cost->sums;
}

/* Of a layer each rank sends B to owners, and the owner of the share s also B s (P - 1) to the others, but none to itself;
 * it decodes what P - 1 ranks send for s. Tiles that are many more than ranks are shared evenly. */
static void add_uneven(const plan_result *r, uint32_t layer, uint32_t k, plan_cost *busy, plan_cost *even) {
    enum { EVEN = 4 };
    const plan_layer *y = &r->layers->item[layer];
    const plan_candidate *c = &r->candidates->item[k];
    uint64_t ranks = r->o->ranks, tiles = tw_ceil_div(y->count, TW_MAX_TILE);
    double more = (double)ranks - 1, each = 1 / (double)tiles;
    double wire = r->cost[(size_t)layer * r->candidates->n + k].wire * (double)ranks / (2 * more) * (more - 1);
    double codec = (double)y->count * c->decode * more;
    if (plan_is_lowrank(c) || !tiles || tiles >= EVEN * ranks)
        return;
    uint64_t first = (uint64_t)tw_owner(y->name, 0, tiles, (int)ranks);
    for (uint64_t t = 0; t < tiles; t++) {
        plan_cost *to =
            &busy[(first + t * ranks / tiles) % ranks]; /* as tw_owner has it, which hashes the name each time */
        to->wire += each * wire;
        to->codec += each * codec;
    }
    even->wire += wire / (double)ranks;
    even->codec += codec / (double)ranks;
}

static choice add_up(const plan_result *r, const uint32_t *chosen) {
    choice c = {.sums = 0};
    plan_cost busy[PLAN_MOST_RANKS] = {{0, 0, 0}}, even = {0, 0, 0};
    for (uint32_t i = 0; i < r->layers->n; i++)
        count_layer(&c, r, i, chosen[i], 1);
    for (uint32_t i = 0; i < r->layers->n && c.framed; i++)
        add_uneven(r, i, chosen[i], busy, &even);
    for (uint64_t i = 0; i < r->o->ranks; i++) {
        c.uneven.wire = fmax(c.uneven.wire, busy[i].wire - even.wire);
        c.uneven.codec = fmax(c.uneven.codec, busy[i].codec - even.codec);
    }
    return c;
}

static void consider(problem *p, const uint32_t *chosen) {
    plan_result *r = p->r;
    choice c = add_up(r, chosen);
    double step = time_compressed(r, &c, r->o->link).step;
    p->found[p->nfound++] = c;
    if (p->nfound == 1 || step < p->best) {
        p->best = step;
        memcpy(r->chosen, chosen, r->layers->n * sizeof *chosen);
    }
}

static bool is_candidate(const plan_result *r, uint32_t layer, uint32_t k) {
    const plan_candidate *c = &r->candidates->item[k];
    return k == 0 || (c->allowed && !r->layers->item[layer].is_small && plan_fits(c, &r->layers->item[layer]));
}

static void list_problem(problem *p) {
    const plan_result *r = p->r;
    for (uint32_t i = 0; i < r->layers->n; i++) {
        p->first[i] = p->n;
        for (uint32_t k = 0; k < r->candidates->n; k++)
            if (is_candidate(r, i, k)) {
                p->uniform[i] = k == r->candidates->uniform ? p->n - p->first[i] : p->uniform[i];
                p->map[p->n] = k;
                p->of[p->n++].error = error_of(r, i, k);
            }
    }
    p->first[r->layers->n] = p->n;
}

static tw_status solve_at(problem *p, double link, tw_solution *s) {
    const plan_result *r = p->r;
    double factor = codec_factor(r->o);
    for (uint32_t i = 0; i < r->layers->n; i++)
        for (uint32_t k = p->first[i]; k < p->first[i + 1]; k++) {
            const plan_cost *c = &r->cost[(size_t)i * r->candidates->n + p->map[k]];
            p->of[k].wire = c->wire / bytes_per_s(r->o, link);
            p->of[k].codec = c->codec * factor;
        }
    tw_status st = tw_solve(NULL, p->of, p->first, r->layers->n, r->budget,
                            r->candidates->item[r->candidates->uniform].allowed ? p->uniform : NULL, p->chosen, s);
    for (uint32_t i = 0; i < r->layers->n && st >= 0; i++)
        p->chosen[i] = p->map[p->first[i] + p->chosen[i]];
    return st;
}

/* tw_solve makes the larger sum small, and of a few layers with wire and codec alike it can stop far from its bound; a step is
 * also what the last bucket takes. So layers are changed one by one while that shortens the step at this rate. */
static void better(problem *p, double link) {
    const plan_result *r = p->r;
    choice c = add_up(r, p->chosen);
    double error = 0, step = time_compressed(r, &c, link).step;
    for (uint32_t i = 0; i < r->layers->n; i++)
        error += error_of(r, i, p->chosen[i]);
    bool changed = true;
    for (int pass = 0; pass < MOST_PASSES && changed; pass++) {
        changed = false;
        for (uint32_t i = 0; i < r->layers->n; i++)
            for (uint32_t k = p->first[i]; k < p->first[i + 1]; k++) {
                choice now = c;
                count_layer(&now, r, i, p->chosen[i], -1);
                count_layer(&now, r, i, p->map[k], 1);
                double e = error - error_of(r, i, p->chosen[i]) + p->of[k].error;
                double t = time_compressed(r, &now, link).step;
                if (e > r->budget * (1 - 1e-9) || t >= step * (1 - 1e-9) ||
                    plan_is_lowrank(&r->candidates->item[p->map[k]]))
                    continue;
                p->chosen[i] = p->map[k];
                c = now;
                error = e;
                step = t;
                changed = true;
            }
    }
}

static tw_status solve_all(problem *p) {
    plan_result *r = p->r;
    tw_status st = TW_OK;
    tw_solution s = TW_SOLUTION_INIT;
    memset(p->chosen, 0, r->layers->n * sizeof *p->chosen);
    consider(p, p->chosen); /* all as they are */
    for (uint32_t i = 0; i < r->layers->n; i++)
        p->chosen[i] = p->map[p->first[i] + p->uniform[i]];
    if (r->candidates->item[r->candidates->uniform].allowed)
        consider(p, p->chosen);
    for (int i = 0; i <= (DECADES_TO - DECADES_FROM) * POINTS && st >= 0; i++) {
        double link = grid_rate(i);
        st = solve_at(p, link, &s);
        if (st >= 0)
            consider(p, p->chosen);
        if (st >= 0) {
            better(p, link);
            consider(p, p->chosen);
        }
    }
    if (st >= 0)
        st = solve_at(p, r->o->link, &s);
    if (st < 0)
        return st;
    /* No choice has a larger sum below the bound, nor fewer latencies than the dense sum or two. */
    double rest = fmax(s.bound - window_of(r->o), last_of(r) * s.bound);
    double shortest = r->o->step + fmin(2, depth_of(r->o)) * r->o->latency + rest;
    r->distance = shortest > 0 ? fmax(p->best / shortest - 1, 0) : 0;
    return st;
}

/* ---- what comes of it ---- */

static plan_time best_at(const problem *p, double link) {
    plan_time best = time_compressed(p->r, &p->found[0], link);
    for (uint32_t i = 1; i < p->nfound; i++) {
        plan_time t = time_compressed(p->r, &p->found[i], link);
        best = t.step < best.step ? t : best;
    }
    return best;
}

static bool pays_at(const problem *p, bool half, double link) {
    return time_dense(p->r, half, link).step >= PLAN_GAIN * best_at(p, link).step;
}

/* Where between two rates it turns. */
static double turning_at(const problem *p, bool half, double pays, double other) {
    for (int k = 0; k < 40; k++) {
        double middle = sqrt(pays * other);
        *(pays_at(p, half, middle) ? &pays : &other) = middle;
    }
    return pays;
}

/* The fastest rates at which it pays: the grid from above, then bisection. */
static plan_span pays_in(const problem *p, bool half) {
    const int top = (DECADES_TO - DECADES_FROM) * POINTS;
    int i = top;
    plan_span s = {0, 0};
    for (; i >= 0 && !pays_at(p, half, grid_rate(i)); i--)
        ;
    if (i < 0)
        return s;
    s.below = i == top ? (double)INFINITY : turning_at(p, half, grid_rate(i), grid_rate(i + 1));
    for (; i >= 0 && pays_at(p, half, grid_rate(i)); i--)
        ;
    s.from = i < 0 ? 0 : turning_at(p, half, grid_rate(i + 1), grid_rate(i));
    return s;
}

static bool beats(double step, double dense, double half) {
    return dense >= PLAN_GAIN * step && half >= PLAN_GAIN * step;
}

static void judge(problem *p) {
    plan_result *r = p->r;
    double link = r->o->link;
    choice c = add_up(r, r->chosen);
    r->sum = c.cost;
    for (uint32_t i = 0; i < r->layers->n; i++)
        r->error += error_of(r, i, r->chosen[i]);
    r->best = time_compressed(r, &c, link);
    r->dense = time_dense(r, false, link);
    r->half = time_dense(r, true, link);
    for (uint32_t i = 0; i < r->layers->n; i++) /* also where it may not be chosen */
        p->chosen[i] =
            r->layers->item[i].is_small || !plan_fits(&r->candidates->item[r->candidates->uniform], &r->layers->item[i])
                ? 0
                : r->candidates->uniform;
    choice uniform = add_up(r, p->chosen);
    r->uniform = time_compressed(r, &uniform, link);
    r->pays_dense = pays_in(p, false);
    r->pays_half = pays_in(p, true);
    r->compress = beats(r->best.step, r->dense.step, r->half.step);
    plan_cost bytes = {.wire = c.cost.wire + c.uneven.wire, .codec = c.cost.codec + c.uneven.codec};
    plan_time bare = time_of(r, bytes, 0, link),
              dense = time_of(r, (plan_cost){.wire = share_sent(r->o) * dense_bytes(r, false)}, 0, link),
              half = time_of(r, (plan_cost){.wire = share_sent(r->o) * dense_bytes(r, true)}, 0, link);
    r->latency_alone = r->compress && !beats(bare.step, dense.step, half.step);
    r->by_half = !r->compress && r->dense.step >= PLAN_GAIN * r->half.step;
}

static void find_budget(plan_result *r) {
    uint32_t u = r->candidates->uniform;
    for (uint32_t i = 0; i < r->layers->n; i++)
        if (!r->layers->item[i].is_small && plan_fits(&r->candidates->item[u], &r->layers->item[i]))
            r->budget += error_of(r, i, u);
}

tw_status plan_solve(plan_result *r) {
    uint32_t n = r->layers->n;
    size_t cells = (size_t)n * r->candidates->n;
    problem p = {.r = r};
    r->cost = calloc(cells, sizeof *r->cost);
    r->chosen = calloc(n + 1, sizeof *r->chosen);
    p.of = calloc(cells + 1, sizeof *p.of);
    p.map = calloc(cells + 1, sizeof *p.map);
    p.first = calloc(n + 2, sizeof *p.first);
    p.uniform = calloc(n + 1, sizeof *p.uniform);
    p.chosen = calloc(n + 1, sizeof *p.chosen);
    tw_status st = r->cost && r->chosen && p.of && p.map && p.first && p.uniform && p.chosen
                       ? find_costs(r)
                       : tw_fail(TW_ERR_NOMEM, "out of memory");
    if (st >= 0) {
        find_budget(r);
        list_problem(&p);
        st = solve_all(&p);
    }
    if (st >= 0)
        judge(&p);
    free(p.of);
    free(p.map);
    free(p.first);
    free(p.uniform);
    free(p.chosen);
    return st;
}

void plan_result_free(plan_result *r) {
    free(r->lost);
    free(r->cost);
    free(r->chosen);
    free(r->rules);
}
