/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The solver's parts: the multiple-choice knapsack whose items are a layer's candidates. solve.c: bounds, greedy choice and
 * the objective of two sums; solve_exact.c: what the greedy choice left. */
#ifndef TW_SOLVE_H
#define TW_SOLVE_H

#include "core/core.h"

typedef struct tw_edge { /* from one corner of a layer's convex hull to the next: so much less cost for so much error */
    double ratio, error;
    uint32_t to, layer; /* candidate; its layer */
} tw_edge;

typedef struct tw_state { /* of the exact search: layers so far */
    double error, cost;
    uint32_t parent, to;
} tw_state;

typedef struct tw_knapsack {
    const tw_candidate *of;
    const uint32_t *first;        /* [layers + 1] */
    uint32_t layers, total, most; /* candidates of all layers, and of the largest */
    double budget;
    double *cost;    /* [total]: of this weighting of wire and codec */
    uint32_t *least; /* [layers]: least error, and of those least cost */
    uint32_t *at;    /* [layers]: the choice */
    uint32_t *found; /* [layers]: the best choice of all weightings */
    uint32_t *order; /* [most]: scratch */
    tw_edge *edge;   /* [total] */
    uint32_t edges;
    double lambda; /* what an error is worth where the budget ends: cost per unit of error */
    double bound;  /* no choice within the budget costs less */
    bool exact;    /* the choice is the best */
    /* the exact search */
    tw_state *state;        /* [TW_SOLVE_STATES] */
    tw_state *next, *spare; /* [room * most] each */
    uint32_t *level;        /* [layers + 1] */
    double *rest;           /* [layers + 1]: least errors of the layers from here on */
} tw_knapsack;

enum {
    TW_SOLVE_STATES = 1 << 18, /* of the exact search, kept of all layers or looked at for one */
    TW_SOLVE_WIDTH = 4096,     /* and at one layer */
    TW_SOLVE_LEAST = 16,       /* fewer a layer are not worth a search */
    TW_SOLVE_TRIES = 1 << 14,  /* choices that are simply tried, if there are no more */
    TW_SOLVE_MOST = 1024       /* candidates of a layer */
};
/* How far, of its cost, a choice may be from the bound before it is bettered by the exact search: few layers are done at once. */
static inline double tw_solve_gap(const tw_knapsack *k) {
    return k->layers <= 64 ? 0 : 8e-4;
}

/* States that a layer may keep; 0: there are too many layers. */
static inline uint32_t tw_solve_room(const tw_knapsack *k) {
    uint32_t room = TW_SOLVE_STATES / (k->layers < k->most ? k->most : k->layers + 1);
    return room < TW_SOLVE_LEAST ? 0 : room > TW_SOLVE_WIDTH ? TW_SOLVE_WIDTH : room;
}

/* Sums in the order of the layers, as the caller would. */
double tw_solve_error(const tw_knapsack *k, const uint32_t *at);
double tw_solve_cost(const tw_knapsack *k, const uint32_t *at);

/* Betters k->at, k->bound and k->exact: dynamic programming over undominated (error, cost), without those that the
 * Lagrangian bound at lambda shows to be no better than the choice that is known. */
void tw_solve_exact(tw_knapsack *k);

#endif
