/* SPDX-License-Identifier: BSD-3-Clause
 *
 * From a seed to a configuration. Small ones are favoured, so that thousands fit into a minute. */
#include "trial.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static int draw_ranks(rng *r, int most) {
    uint64_t x = rng_below(r, 100);
    uint64_t n = x < 4    ? 1
                 : x < 34 ? 2
                 : x < 50 ? 3
                 : x < 85 ? rng_range(r, 4, 8)
                 : x < 95 ? rng_range(r, 9, 16)
                 : x < 99 ? rng_range(r, 17, 63)
                          : 64;
    return n > (uint64_t)most ? (int)rng_range(r, 1, (uint64_t)most) : (int)n;
}

/* Mostly small ones, for many tiles of few values; the default, 4096, where ranks have room for some. */
static uint32_t draw_tile(rng *r, int ranks) {
    uint64_t x = rng_below(r, 100);
    if (x >= 16)
        return 128u << rng_below(r, 3);
    return x < 4 ? 1024 : x < 7 || ranks > 20 ? 2048 : 4096;
}

/* ---- layers ---- */

static uint64_t draw_count(trial *t, uint64_t budget) {
    static const uint64_t primes[] = {3, 131, 257, 509, 1021, 1031, 2053, 4099};
    uint64_t tile = t->rc.tile, n;
    switch (rng_below(&t->rng, 12)) {
    case 0:
        n = 0;
        break;
    case 1:
        n = 1;
        break;
    case 2:
        n = rng_chance(&t->rng, 50) ? 2 : 7;
        break;
    case 3:
        n = tile - 1;
        break;
    case 4:
        n = tile;
        break;
    case 5:
        n = tile + 1;
        break;
    case 6:
        n = 2 * tile;
        break;
    case 7:
        n = primes[rng_below(&t->rng, 8)];
        break;
    default:
        n = rng_range(&t->rng, 1, 20 * tile);
    }
    return n > budget ? (budget ? rng_range(&t->rng, 1, budget) : 1) : n;
}

static void draw_layers(trial *t) {
    static const char *const stem[] = {"blk", "l", "norm", "embed", "head"};
    static const char *const tail[] = {".w", ".bias", "", ".norm"};
    bool halves = rng_chance(&t->rng, 45) && !t->adds, calm = rng_chance(&t->rng, 60);
    uint64_t budget = (t->ranks > 16 ? 200000 : rng_chance(&t->rng, 5) ? 400000 : 60000) / (unsigned)t->ranks;
    t->nlayer = (uint32_t)rng_range(&t->rng, 1, MOST_LAYERS);
    for (uint32_t i = 0; i < t->nlayer; i++) {
        layer *l = &t->layer[i];
        snprintf(l->name, sizeof l->name, "%s%u%s", stem[rng_below(&t->rng, 5)], i, tail[rng_below(&t->rng, 4)]);
        l->count = draw_count(t, budget);
        budget -= l->count < budget ? l->count : budget;
        l->tiles = (l->count + t->rc.tile - 1) / t->rc.tile;
        l->dtype = halves ? (tw_dtype)rng_range(&t->rng, TW_F32, TW_BF16) : TW_F32;
        l->values = calm ? VALUES_PLAIN : (values_kind)rng_below(&t->rng, VALUES_COUNT);
        if (l->values == VALUES_HUGE && rng_chance(&t->rng, 70))
            l->values = VALUES_MIXED;
        if (t->adds && rng_chance(&t->rng, 10))
            l->values = VALUES_HUGE;
        l->exponent = (int)rng_range(&t->rng, 0, 24) - 14;
    }
}

/* ---- options ---- */

static void draw_options(trial *t) {
    static const uint32_t frames[] = {0, 64, 100, 256, 600, 1024, 4096};
    rng *r = &t->rng;
    tw_reducer_config *c = &t->rc;
    c->redop = (tw_redop)(rng_chance(r, 70) ? TW_AVG : TW_SUM);
    c->nonfinite = (tw_nonfinite)(rng_chance(r, 50) ? TW_NONFINITE_PROPAGATE : rng_range(r, 2, 3));
    c->algo = (tw_algo)(rng_chance(r, t->adds ? 20 : 60) ? TW_ALGO_SRA : TW_ALGO_AUTO);
    if (t->adds && rng_chance(r, 40))
        c->algo = TW_ALGO_NATIVE;
    if (rng_chance(r, 25))
        c->algo = TW_ALGO_GATHER;
    c->frame_bytes = frames[rng_below(r, 7)];
    c->in_flight = rng_chance(r, 20) ? 0 : (uint32_t)rng_range(r, 2, 16);
    c->no_overlap = rng_chance(r, 15);
    c->bucket_bytes = rng_chance(r, 30) ? 0 : (uint64_t)1 << rng_range(r, 4, 14);
}

/* NATIVE is refused where it cannot serve, so it is asked for only where it can. */
static void maybe_force_native(trial *t) {
    if (t->adds || !rng_chance(&t->rng, t->kind == KIND_ODD_STEP ? 30 : 6))
        return;
    t->rc.algo = TW_ALGO_NATIVE;
    t->rc.nonfinite = TW_NONFINITE_PROPAGATE;
    for (uint32_t i = 0; i < t->nlayer; i++)
        t->layer[i].dtype = TW_F32;
    for (uint32_t i = 0; i < t->nrule; i++)
        for (uint32_t k = 0; k < MOST_PHASES; k++)
            t->rule[i].phase[k].spec = (tw_spec)TW_SPEC_INIT;
    t->rules[0] = 0;
    t->nrule = 0;
    for (uint32_t i = 0; i < t->nlayer; i++) {
        static const phase none = {TW_SPEC_INIT, UINT64_MAX};
        t->layer[i].phase = &none;
        t->layer[i].nphase = 1;
    }
}

/* ---- the network ---- */

static void draw_fault(trial *t) {
    double p = exp2(-rng_unit(&t->rng) * 9 - 3);
    t->fault = (fault_kind)rng_below(&t->rng, FAULT_COUNT);
    switch (t->fault) {
    case FAULT_LOSS:
        t->net.loss = p;
        break;
    case FAULT_CORRUPTION:
        t->net.corruption = p;
        break;
    case FAULT_TRUNCATION:
        t->net.truncation = p;
        break;
    default:
        t->net.dead_rank = (int32_t)rng_below(&t->rng, (unsigned)t->ranks);
        t->net.dead_after = rng_below(&t->rng, rng_chance(&t->rng, 50) ? 12 : 100);
        t->net.detects = t->fault == FAULT_DEAD_SEEN;
    }
}

static void draw_network(trial *t) {
    static const double latency[] = {0, 1e-6, 20e-6, 500e-6}, bandwidth[] = {0, 1e7, 1e9}, reorder[] = {0, 0.1, 0.6};
    rng *r = &t->rng;
    t->net = (tw_sim_config)TW_SIM_CONFIG_INIT;
    t->net.ranks = t->ranks;
    t->net.seed = rng_next(r);
    t->net.latency_s = latency[rng_below(r, 4)];
    t->net.jitter_s = rng_chance(r, 50) ? 0 : t->net.latency_s * 3 * rng_unit(r);
    t->net.bandwidth = bandwidth[rng_below(r, 3)];
    t->net.reorder = reorder[rng_below(r, 3)];
    t->net.compute_values_per_s = rng_chance(r, 50) ? 0 : 1e8;
    t->net.detects = rng_chance(r, 50);
    t->deadline = rng_chance(r, 50) ? 10 : 100;
    if (t->kind == KIND_FAULTY)
        draw_fault(t);
}

/* ---- all ---- */

static trial_kind draw_kind(trial *t) {
    uint64_t x = rng_below(&t->rng, 100);
    trial_kind k = x < 68 ? KIND_CLEAN : x < 86 ? KIND_FAULTY : x < 90 ? KIND_ODD_CREATE : KIND_ODD_STEP;
    return t->ranks == 1 ? KIND_CLEAN : k;
}

void trial_draw(trial *t, uint64_t seed, int most_ranks) {
    t->seed = seed;
    t->rng.state = seed;
    t->ranks = draw_ranks(&t->rng, most_ranks);
    t->kind = draw_kind(t);
    t->adds = rng_chance(&t->rng, 12);
    t->rc = (tw_reducer_config)TW_REDUCER_CONFIG_INIT;
    t->rc.tile = draw_tile(&t->rng, t->ranks);
    t->next_number = rng_chance(&t->rng, 5) ? UINT64_C(0x1fffffffe) : rng_below(&t->rng, 3) * 5;
    t->nstep = (uint32_t)rng_range(&t->rng, 1, MOST_STEPS);
    t->post = rng_chance(&t->rng, 50);
    draw_layers(t);
    draw_options(t);
    trial_draw_rules(t);
    maybe_force_native(t);
    draw_network(t);
    t->odd = (odd_kind)rng_below(&t->rng, ODD_COUNT);
    t->odd_rank = (int)rng_below(&t->rng, (unsigned)t->ranks);
    t->odd_step = (uint32_t)rng_below(&t->rng, t->nstep);
    t->odd_how = (uint32_t)rng_next(&t->rng);
    if (t->kind == KIND_ODD_STEP && (t->odd == ODD_DISCARD || t->odd == ODD_RESET)) {
        t->odd_step = 0; /* seen in the step after it */
        t->nstep = t->nstep < 2 ? 2 : t->nstep;
    }
    if (t->kind == KIND_ODD_STEP && (t->odd == ODD_PIECES || t->odd == ODD_MISSING || t->odd == ODD_SWAPPED))
        t->post = true;
}

/* ---- values ---- */

static float largest(tw_dtype t) {
    return t == TW_F16 ? 65504.0f : t == TW_BF16 ? 0x1.fep127f : 0x1.fffffep127f;
}
static float smallest(tw_dtype t) {
    return t == TW_F16 ? 0x1p-24f : t == TW_BF16 ? 0x1p-133f : 0x1p-149f;
}

static float plain(trial *t) {
    /* a sum of two uniforms: small values are common, as in gradients */
    uint64_t x = rng_next(&t->rng);
    return ((float)(int32_t)(x >> 32) + (float)(int32_t)x) * 0x1p-32f;
}

float trial_value(trial *t, const layer *l, uint64_t i) {
    float x = plain(t);
    switch (l->values) {
    case VALUES_MIXED:
        x = ldexpf(x, (int)rng_range(&t->rng, 0, 80) - 40);
        break;
    case VALUES_SPARSE:
        x = rng_chance(&t->rng, 90) ? copysignf(0.0f, x) : x;
        break;
    case VALUES_TINY:
        x = (float)(int)(x * 10) * smallest(l->dtype);
        break;
    case VALUES_OUTLIER:
        x = i == l->count / 2 ? 1e6f : x;
        break;
    case VALUES_LARGE:
        x *= l->dtype == TW_F16 ? 1e3f : 1e30f;
        break;
    case VALUES_HUGE:
        x *= largest(l->dtype);
        break;
    case VALUES_SAME:
        x = 0.75f;
        break;
    default:
        x = ldexpf(x, l->exponent);
    }
    x = model_to_dtype(x, l->dtype);
    return isfinite(x) ? x : largest(l->dtype);
}

static const char *const kind_names[] = {"clean", "faulty", "odd at creation", "odd in a step"};

void trial_describe(const trial *t) {
    const tw_reducer_config *c = &t->rc;
    printf("seed %llu: %s, %d ranks, %u steps from %llu, %s, tile %u, redop %d, nonfinite %d, algo %d, frame_bytes %u, "
           "in_flight %u, no_overlap %u, bucket_bytes %llu\n  rules '%s'\n",
           (unsigned long long)t->seed, kind_names[t->kind], t->ranks, t->nstep, (unsigned long long)t->next_number,
           t->post ? "post" : "push", c->tile, (int)c->redop, (int)c->nonfinite, (int)c->algo, c->frame_bytes,
           c->in_flight, c->no_overlap, (unsigned long long)c->bucket_bytes, t->rules);
    for (uint32_t i = 0; i < t->nlayer; i++)
        printf("  layer %u '%s': %llu %s, values %d\n", i, t->layer[i].name, (unsigned long long)t->layer[i].count,
               tw_dtype_name(t->layer[i].dtype), (int)t->layer[i].values);
    printf("  network: latency %g, jitter %g, bandwidth %g, reorder %g, compute %g", t->net.latency_s, t->net.jitter_s,
           t->net.bandwidth, t->net.reorder, t->net.compute_values_per_s);
    if (t->kind == KIND_FAULTY)
        printf(", loss %g, corruption %g, truncation %g, rank %d dies after %llu frames (%s)", t->net.loss,
               t->net.corruption, t->net.truncation, t->net.dead_rank, (unsigned long long)t->net.dead_after,
               t->net.detects ? "seen" : "unseen");
    if (t->kind == KIND_ODD_STEP)
        printf(", odd way %d of rank %d in step %u", (int)t->odd, t->odd_rank, t->odd_step);
    printf("\n");
}
