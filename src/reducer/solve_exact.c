/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The exact search: layer after layer, all pairs (error, cost) that no other one beats in both. A pair whose Lagrangian
 * bound is no better than the choice that is known leads nowhere; where the relaxation was good few are left. The list is
 * cut where it gets too long; the best bound of what was cut then bounds the result. */
#include "reducer/solve.h"

#include <math.h>

enum { PRICES = 9 };
/* Of an error, as parts of what it is worth to the relaxation: states that are far from it in error are worth another. */
static const double price_part[PRICES] = {1, 0.85, 1.18, 0.7, 1.4, 0.5, 2, 0.2, 5};

typedef struct search {
    tw_knapsack *k;
    double price[PRICES], bound[PRICES]; /* of each price: what any choice costs at least */
    double base[PRICES];                 /* the part of the layers so far in it */
    double known;                        /* cost of the choice that is known */
    double cut;                          /* least bound of what was cut */
} search;

static double cheapest(const tw_knapsack *k, uint32_t layer, double price) {
    double least = INFINITY;
    for (uint32_t c = k->first[layer]; c < k->first[layer + 1]; c++) {
        double v = k->cost[c] + price * k->of[c].error;
        least = v < least ? v : least;
    }
    return least;
}

/* What any choice that goes on from here costs at least; stops at the first bound that is enough to leave it. */
static double bound_of(const search *s, const tw_state *t) {
    double most = 0;
    for (int i = 0; i < PRICES && most < s->known; i++) {
        double v = s->bound[i] + (t->cost + s->price[i] * t->error - s->base[i]);
        most = v > most ? v : most;
    }
    return most;
}

static void set_prices(search *s) {
    tw_knapsack *k = s->k;
    for (int i = 0; i < PRICES; i++) {
        double sum = 0;
        s->price[i] = k->lambda * price_part[i];
        for (uint32_t l = 0; l < k->layers; l++)
            sum += cheapest(k, l, s->price[i]);
        /* less what the sums may have been rounded by */
        s->bound[i] = sum - s->price[i] * k->budget - 0x1p-51 * k->layers * (sum + s->price[i] * k->budget);
    }
}

/* Appends it unless it is beaten; what it beats of the same error goes. */
static uint32_t append(tw_state *to, uint32_t m, const tw_state *t) {
    if (m > 0 && to[m - 1].cost <= t->cost)
        return m;
    if (m > 0 && to[m - 1].error == t->error)
        m--;
    to[m] = *t;
    return m + 1;
}

/* The layer's candidate c behind all n states of the layer before, merged into the list a of m states; to gets the result. */
static uint32_t merge(const search *s, uint32_t c, const tw_state *from, uint32_t n, double budget, const tw_state *a,
                      uint32_t m, tw_state *to) {
    const tw_knapsack *k = s->k;
    uint32_t count = 0, j = 0;
    for (uint32_t i = 0; i < n; i++) {
        tw_state t = {from[i].error + k->of[c].error, from[i].cost + k->cost[c], i, c};
        if (t.error > budget)
            break; /* they stand by error */
        if (bound_of(s, &t) >= s->known)
            continue;
        for (; j < m && a[j].error <= t.error; j++)
            count = append(to, count, &a[j]);
        count = append(to, count, &t);
    }
    for (; j < m; j++)
        count = append(to, count, &a[j]);
    return count;
}

/* Everything that may follow the states of the layer before and that nothing else beats, into k->next; s->base is up to this
 * layer. */
static uint32_t extend(const search *s, uint32_t layer, const tw_state *from, uint32_t n) {
    tw_knapsack *k = s->k;
    uint32_t m = 0;
    /* the rest was added up in another order; only the last layer's sums are the caller's */
    double budget = layer + 1 < k->layers ? k->budget * (1 + 0x1p-40) - k->rest[layer + 1] : k->budget;
    for (uint32_t c = k->first[layer]; c < k->first[layer + 1]; c++) {
        m = merge(s, c, from, n, budget, k->next, m, k->spare);
        tw_state *t = k->next;
        k->next = k->spare;
        k->spare = t;
    }
    return m;
}

/* One of each of `room` stretches of the list stays, that of the least bound. */
static uint32_t shorten(search *s, tw_state *t, uint32_t n, uint32_t room) {
    for (uint64_t i = 0; i < room; i++) {
        uint32_t low = (uint32_t)(i * n / room), high = (uint32_t)((i + 1) * n / room), best = low;
        for (uint32_t j = low; j < high; j++)
            best = bound_of(s, &t[j]) < bound_of(s, &t[best]) ? j : best;
        for (uint32_t j = low; j < high; j++)
            if (j != best && bound_of(s, &t[j]) < s->cut)
                s->cut = bound_of(s, &t[j]);
        t[i] = t[best];
    }
    return room;
}

static void take_back(tw_knapsack *k) {
    const tw_state *t = &k->state[k->level[k->layers - 1]];
    for (uint32_t i = k->layers; i-- > 0;) {
        k->at[i] = t->to;
        if (i > 0)
            t = &k->state[k->level[i - 1] + t->parent];
    }
}

static void rests(tw_knapsack *k) {
    k->rest[k->layers] = 0;
    for (uint32_t i = k->layers; i-- > 0;)
        k->rest[i] = k->rest[i + 1] + k->of[k->least[i]].error;
}

/* One pass with lists of at most that many. */
static void search_once(tw_knapsack *k, uint32_t room) {
    search s = {.k = k, .known = tw_solve_cost(k, k->at), .cut = INFINITY};
    static const tw_state none = {0, 0, 0, 0};
    const tw_state *from = &none;
    uint32_t n = 1, used = 0;
    set_prices(&s);
    for (uint32_t i = 0; i < k->layers && n > 0; i++) {
        for (int p = 0; p < PRICES; p++)
            s.base[p] += cheapest(k, i, s.price[p]);
        n = extend(&s, i, from, n);
        n = n > room ? shorten(&s, k->next, n, room) : n;
        k->level[i] = used;
        from = memcpy(&k->state[used], k->next, n * sizeof *from);
        used += n;
    }
    if (n > 0) { /* by error, so the last costs least */
        s.known = from[n - 1].cost;
        k->level[k->layers - 1] += n - 1;
        take_back(k);
    }
    double bound = s.cut < s.known ? s.cut : s.known;
    k->exact = s.cut >= s.known;
    k->bound = bound > k->bound ? bound : k->bound;
}

/* Short lists first: the better the choice that is known, the fewer lead on. */
void tw_solve_exact(tw_knapsack *k) {
    uint32_t most = tw_solve_room(k);
    rests(k);
    for (uint32_t room = TW_SOLVE_LEAST; !k->exact && most > 0; room *= 8) {
        search_once(k, room < most ? room : most);
        double cost = tw_solve_cost(k, k->at);
        if (room >= most || cost - k->bound <= tw_solve_gap(k) * cost)
            return;
    }
}
