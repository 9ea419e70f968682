/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One candidate per layer at the least cost within an error budget. The relaxation that may mix two candidates of a layer is
 * solved exactly in linear time (corners of convex hulls, and the selection of Zemel 1984 and Dyer 1984 among their edges);
 * it gives the bound, and a choice that is off in one layer at most. What is left of the budget is spent greedily. */
#include "reducer/solve.h"

#include <math.h>

double tw_solve_error(const tw_knapsack *k, const uint32_t *at) {
    double sum = 0;
    for (uint32_t i = 0; i < k->layers; i++)
        sum += k->of[at[i]].error;
    return sum;
}

double tw_solve_cost(const tw_knapsack *k, const uint32_t *at) {
    double sum = 0;
    for (uint32_t i = 0; i < k->layers; i++)
        sum += k->cost[at[i]];
    return sum;
}

/* ---- hulls ---- */

static bool before(const tw_knapsack *k, uint32_t a, uint32_t b) {
    double x = k->of[a].error, y = k->of[b].error;
    return x < y || (x == y && k->cost[a] < k->cost[b]);
}

/* By error, then cost. Insertion: a layer has some dozens, and most callers list them in order. */
static uint32_t sort_layer(const tw_knapsack *k, uint32_t layer) {
    uint32_t n = k->first[layer + 1] - k->first[layer], *order = k->order;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t c = k->first[layer] + i, to = i;
        for (; to > 0 && before(k, c, order[to - 1]); to--)
            order[to] = order[to - 1];
        order[to] = c;
    }
    return n;
}

static double ratio(const tw_knapsack *k, uint32_t from, uint32_t to) {
    return (k->cost[from] - k->cost[to]) / (k->of[to].error - k->of[from].error);
}

/* The corners stay in `order`: each next one costs less, and gains less per unit of error than the one before. */
static uint32_t hull(const tw_knapsack *k, uint32_t n) {
    uint32_t *h = k->order, m = 1;
    for (uint32_t i = 1; i < n; i++) {
        uint32_t c = k->order[i];
        if (k->cost[c] >= k->cost[h[m - 1]])
            continue;
        while (m > 1 && ratio(k, h[m - 1], c) >= ratio(k, h[m - 2], h[m - 1]))
            m--;
        h[m++] = c;
    }
    return m;
}

static void find_edges(tw_knapsack *k) {
    k->edges = 0;
    for (uint32_t i = 0; i < k->layers; i++) {
        uint32_t m = hull(k, sort_layer(k, i));
        k->least[i] = k->at[i] = k->order[0];
        for (uint32_t j = 1; j < m; j++) {
            uint32_t from = k->order[j - 1], to = k->order[j];
            k->edge[k->edges++] = (tw_edge){ratio(k, from, to), k->of[to].error - k->of[from].error, to, i};
        }
    }
}

/* ---- the relaxation ---- */

static void swap(tw_edge *a, tw_edge *b) {
    tw_edge t = *a;
    *a = *b;
    *b = t;
}

/* Edges [low, high) in three parts: above, at and below the pivot; *equal and *less are where the last two begin. */
static void part(tw_edge *e, uint32_t low, uint32_t high, double pivot, uint32_t *equal, uint32_t *less) {
    uint32_t above = low, i = low, below = high;
    while (i < below)
        if (e[i].ratio > pivot)
            swap(&e[above++], &e[i++]);
        else if (e[i].ratio < pivot)
            swap(&e[i], &e[--below]);
        else
            i++;
    *equal = above;
    *less = below;
}

static double errors(const tw_edge *e, uint32_t low, uint32_t high) {
    double sum = 0;
    for (uint32_t i = low; i < high; i++)
        sum += e[i].error;
    return sum;
}

/* Puts the edges that are taken whole to the front and returns their number. *left: budget behind them; the next edge,
 * where there is one, is the one that is taken in part. */
static uint32_t take_edges(tw_knapsack *k, double *left) {
    tw_edge *e = k->edge;
    uint32_t low = 0, high = k->edges, equal, less;
    uint64_t random = 1;
    while (low < high) {
        random = random * UINT64_C(6364136223846793005) + 1; /* no input is bad for every pivot */
        part(e, low, high, e[low + (uint32_t)((random >> 33) % (high - low))].ratio, &equal, &less);
        double above = errors(e, low, equal);
        if (above > *left) {
            high = equal;
            continue;
        }
        *left -= above;
        for (low = equal; low < less; low++)
            if (e[low].error > *left)
                return low;
            else
                *left -= e[low].error;
    }
    return low;
}

/* The choice at the corners, its multiplier and the bound. Sums of so many terms are exact to n 2^-53 of what went in. */
static void relax(tw_knapsack *k) {
    double left = k->budget - tw_solve_error(k, k->least), from = tw_solve_cost(k, k->least);
    uint32_t taken = take_edges(k, &left);
    for (uint32_t i = 0; i < taken; i++) {
        uint32_t to = k->edge[i].to, layer = k->edge[i].layer;
        if (k->of[to].error > k->of[k->at[layer]].error)
            k->at[layer] = to;
    }
    bool whole = taken == k->edges;
    k->lambda = whole ? 0 : k->edge[taken].ratio;
    k->bound = tw_solve_cost(k, k->at) - (whole ? 0 : k->lambda * (left > 0 ? left : 0));
    k->bound -= 0x1p-51 * k->total * (from + k->lambda * k->budget);
    k->exact = whole;
}

/* ---- from the relaxation to a choice ---- */

/* Rounding of the sums may have let one edge too many in: the cheapest ones go back. */
static void keep_within(tw_knapsack *k) {
    while (tw_solve_error(k, k->at) > k->budget) {
        uint32_t worst = UINT32_MAX;
        double least = INFINITY;
        for (uint32_t i = 0; i < k->layers; i++) {
            double loss = k->cost[k->least[i]] - k->cost[k->at[i]];
            if (k->at[i] != k->least[i] && loss < least) {
                least = loss;
                worst = i;
            }
        }
        if (worst == UINT32_MAX)
            return;
        k->at[worst] = k->least[worst];
        k->exact = false;
    }
}

/* The one change of a layer that gains most and fits. */
static bool spend_once(tw_knapsack *k) {
    double left = k->budget - tw_solve_error(k, k->at), most = 0;
    uint32_t best = 0, layer = k->layers;
    for (uint32_t i = 0; i < k->layers; i++)
        for (uint32_t c = k->first[i]; c < k->first[i + 1]; c++) {
            double gain = k->cost[k->at[i]] - k->cost[c];
            if (gain > most && k->of[c].error - k->of[k->at[i]].error <= left) {
                most = gain;
                best = c;
                layer = i;
            }
        }
    if (layer == k->layers)
        return false;
    uint32_t was = k->at[layer];
    k->at[layer] = best;
    if (tw_solve_error(k, k->at) <= k->budget)
        return true;
    k->at[layer] = was;
    return false;
}

static void solve_weighted(tw_knapsack *k, double wire_share) {
    for (uint32_t c = 0; c < k->total; c++)
        k->cost[c] = wire_share * k->of[c].wire + (1 - wire_share) * k->of[c].codec;
    find_edges(k);
    relax(k);
    keep_within(k);
    for (uint32_t i = 0; i < 16 && !k->exact && spend_once(k);)
        i++;
}

/* ---- the larger of two sums ---- */

static tw_solution sums_of(const tw_knapsack *k, const uint32_t *at) {
    tw_solution s = TW_SOLUTION_INIT;
    for (uint32_t i = 0; i < k->layers; i++) {
        s.wire += k->of[at[i]].wire;
        s.codec += k->of[at[i]].codec;
        s.error += k->of[at[i]].error;
    }
    s.cost = s.wire > s.codec ? s.wire : s.codec;
    return s;
}

/* The choice of a weighting, if it is better; the bound of any weighting holds for the larger sum, less the rounding of its
 * products where there are any. Returns wire - codec. */
static double take_choice(tw_knapsack *k, double share, tw_solution *best) {
    tw_solution s = sums_of(k, k->at);
    bool pure = share == 0 || share == 1;
    double bound = pure ? k->bound : k->bound - 0x1p-50 * k->layers * k->bound;
    bound = bound > best->bound ? bound : best->bound;
    if (s.cost < best->cost && s.error <= k->budget) {
        s.exact = best->exact;
        *best = s;
        memcpy(k->found, k->at, k->layers * sizeof *k->found);
    }
    best->exact = best->exact || (pure && k->exact && tw_solve_cost(k, k->at) >= best->cost);
    best->bound = best->exact || bound > best->cost ? best->cost : bound;
    return s.wire - s.codec;
}

static bool is_far(const tw_knapsack *k, const tw_solution *best) {
    return !best->exact && best->cost - best->bound > tw_solve_gap(k) * best->cost;
}

static double try_share(tw_knapsack *k, double share, tw_solution *best) {
    solve_weighted(k, share);
    return take_choice(k, share, best);
}

/* The one change of a layer in the best choice that makes the larger sum least: a weighting does not see which of two alike is
 * the larger. */
static bool better_once(tw_knapsack *k, tw_solution *best) {
    double least = best->cost;
    uint32_t layer = k->layers, to = 0;
    for (uint32_t i = 0; i < k->layers; i++)
        for (uint32_t c = k->first[i]; c < k->first[i + 1]; c++) {
            const tw_candidate *new = &k->of[c], *old = &k->of[k->found[i]];
            double wire = best->wire - old->wire + new->wire, codec = best->codec - old->codec + new->codec;
            double cost = wire > codec ? wire : codec;
            if (cost < least && best->error - old->error + new->error <= k->budget) {
                least = cost;
                layer = i;
                to = c;
            }
        }
    if (layer == k->layers)
        return false;
    uint32_t was = k->found[layer];
    k->found[layer] = to;
    tw_solution s = sums_of(k, k->found); /* in order; the differences above were rounded */
    if (s.error > k->budget || s.cost >= best->cost) {
        k->found[layer] = was;
        return false;
    }
    s.exact = best->exact;
    s.bound = best->bound;
    *best = s;
    return true;
}

static bool are_few(const tw_knapsack *k) {
    uint64_t choices = 1;
    for (uint32_t i = 0; i < k->layers && choices <= TW_SOLVE_TRIES; i++)
        choices *= k->first[i + 1] - k->first[i];
    return choices <= TW_SOLVE_TRIES;
}

/* Every choice, as a number with a digit for each layer. */
static void try_all(tw_knapsack *k, tw_solution *best) {
    uint32_t i;
    memcpy(k->at, k->first, k->layers * sizeof *k->at);
    do {
        tw_solution s = sums_of(k, k->at);
        if (s.error <= k->budget && s.cost < best->cost) {
            *best = s;
            memcpy(k->found, k->at, k->layers * sizeof *k->found);
        }
        for (i = 0; i < k->layers && ++k->at[i] == k->first[i + 1]; i++)
            k->at[i] = k->first[i];
    } while (i < k->layers);
    best->exact = 1;
    best->bound = best->cost;
}

/* Weighted by any share the costs are at most the larger sum, so each share gives a bound; the best is where both sums are
 * equal, or at an end. */
static void solve_both(tw_knapsack *k, tw_solution *best) {
    double low = 0, high = 1, share = 1;
    if (try_share(k, 1, best) < 0) {
        share = 0;
        if (try_share(k, 0, best) > 0)
            for (int i = 0; i < 12 && is_far(k, best); i++) {
                share = (low + high) / 2;
                *(try_share(k, share, best) > 0 ? &low : &high) = share;
            }
    }
    for (uint32_t i = 0; i < 64 && is_far(k, best) && better_once(k, best);)
        i++;
    if (is_far(k, best)) {
        tw_solve_exact(k);
        take_choice(k, share, best);
    }
    if (is_far(k, best) && are_few(k))
        try_all(k, best);
}

/* ---- the call ---- */

/* Within these no product of a price and an error overflows. */
static bool is_cost(double v) {
    return v >= 0 && v <= 1e30;
}

static bool is_error(double v) {
    return v == 0 || (v >= 1e-100 && v <= 1e90);
}

static tw_status check_layers(const tw_candidate *of, const uint32_t *first, uint32_t layers) {
    for (uint32_t i = 0; i < layers; i++) {
        uint32_t n = first[i + 1] - first[i];
        if (first[i + 1] < first[i] || n < 1 || n > TW_SOLVE_MOST)
            return tw_fail(TW_ERR_ARG, "tw_solve: layer %u has %lld candidates; 1 to %d are allowed", i,
                           (long long)first[i + 1] - first[i], TW_SOLVE_MOST);
        for (uint32_t c = 0; c < n; c++) {
            const tw_candidate *t = &of[first[i] + c];
            if (!is_cost(t->wire) || !is_cost(t->codec) || !is_error(t->error))
                return tw_fail(
                    TW_ERR_ARG,
                    "tw_solve: candidate %u of layer %u: wire %g and codec %g must be 0..1e30, error %g 0 or "
                    "1e-100..1e90",
                    c, i, t->wire, t->codec, t->error);
        }
    }
    return TW_OK;
}

static tw_status check_uniform(const uint32_t *first, uint32_t layers, const uint32_t *uniform) {
    for (uint32_t i = 0; uniform && i < layers; i++)
        if (uniform[i] >= first[i + 1] - first[i])
            return tw_fail(TW_ERR_ARG, "tw_solve: layer %u has no candidate %u for the uniform choice", i, uniform[i]);
    return TW_OK;
}

/* All of it in one piece. */
static void *make_room(tw_ctx *c, tw_knapsack *k) {
    uint64_t total = k->total, layers = k->layers, room = tw_solve_room(k);
    uint64_t bytes[] = {total * sizeof *k->cost,
                        layers * sizeof *k->least,
                        layers * sizeof *k->at,
                        layers * sizeof *k->found,
                        k->most * sizeof *k->order,
                        total * sizeof *k->edge,
                        (room * (layers + 1)) * sizeof *k->state,
                        room * k->most * sizeof *k->next,
                        room * k->most * sizeof *k->spare,
                        (layers + 1) * sizeof *k->level,
                        (layers + 1) * sizeof *k->rest};
    void **to[] = {(void **)&k->cost,  (void **)&k->least, (void **)&k->at,    (void **)&k->found,
                   (void **)&k->order, (void **)&k->edge,  (void **)&k->state, (void **)&k->next,
                   (void **)&k->spare, (void **)&k->level, (void **)&k->rest};
    uint64_t sum = 0;
    for (size_t i = 0; i < TW_ARRAY_LEN(bytes); i++)
        sum += tw_held(bytes[i]);
    char *all = tw_alloc_raw(c, sum);
    for (size_t i = 0; all && i < TW_ARRAY_LEN(bytes); i++) {
        *to[i] = all;
        all += tw_held(bytes[i]);
    }
    return all ? all - sum : NULL;
}

/* The choice to begin with: the uniform one where it is within the budget, else that of least error. */
static tw_status begin(tw_knapsack *k, const uint32_t *uniform, tw_solution *best) {
    for (uint32_t c = 0; c < k->total; c++)
        k->cost[c] = k->of[c].wire;
    find_edges(k);
    memcpy(k->found, k->least, k->layers * sizeof *k->found);
    *best = sums_of(k, k->found);
    if (best->error > k->budget)
        return tw_fail(TW_ERR_ARG, "tw_solve: the least error possible is %g, above the budget of %g", best->error,
                       k->budget);
    for (uint32_t i = 0; i < k->layers; i++)
        k->at[i] = uniform ? k->first[i] + uniform[i] : k->least[i];
    tw_solution u = sums_of(k, k->at);
    if (u.error <= k->budget && u.cost < best->cost) {
        *best = u;
        memcpy(k->found, k->at, k->layers * sizeof *k->found);
    }
    return TW_OK;
}

tw_status tw_solve(tw_ctx *given, const tw_candidate *candidates, const uint32_t *first, uint32_t layers, double budget,
                   const uint32_t *uniform, uint32_t *chosen, tw_solution *out) {
    tw_knapsack k = {.of = candidates, .first = first, .layers = layers, .budget = budget};
    tw_solution best;
    tw_ctx *c;
    if (!first || (layers && (!candidates || !chosen)) || layers == UINT32_MAX || (layers && first[0] != 0))
        return tw_fail(TW_ERR_ARG, "tw_solve: a pointer is NULL, or the first layer's candidates do not begin at 0");
    if (!is_error(budget))
        return tw_fail(TW_ERR_ARG, "tw_solve: the budget %g must be 0 or 1e-100..1e90", budget);
    tw_status s = tw_sized_check(TW_SIZED(tw_solution, bound), "tw_solve", out);
    s = s >= 0 ? check_layers(candidates, first, layers) : s;
    s = s >= 0 ? check_uniform(first, layers, uniform) : s;
    s = s >= 0 ? tw_ctx_resolve(given, &c) : s;
    if (s < 0)
        return s;
    k.total = layers ? first[layers] : 0;
    for (uint32_t i = 0; i < layers; i++)
        k.most = first[i + 1] - first[i] > k.most ? first[i + 1] - first[i] : k.most;
    void *all = make_room(c, &k);
    if (!all)
        return TW_ERR_NOMEM;
    s = begin(&k, uniform, &best);
    if (s >= 0) {
        solve_both(&k, &best);
        for (uint32_t i = 0; i < layers; i++)
            chosen[i] = k.found[i] - first[i];
        tw_sized_fill(TW_SIZED(tw_solution, bound), out, &best);
    }
    tw_free(c, all);
    return s;
}
