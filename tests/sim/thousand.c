/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A thousand ranks in one process, once: onebit+ef, tiles of 128, one layer with a tile for each rank and small ones;
 * then a step of the small ones alone, with the residuals that they have by then. Outputs and residuals are compared
 * with a plain model on every rank. Inputs are made again where they are needed, for they would fill half a gigabyte.
 */
#include "trial.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RANKS = 1000, TILE = 128, LAYERS = 4, STEPS = 2, BIG = RANKS * TILE };

static const struct {
    const char *name;
    uint32_t count;
} shape[LAYERS] = {{"big", BIG}, {"one", 1}, {"odd", 3 * TILE + 5}, {"bias", 127}};

static const tw_spec spec = {sizeof(tw_spec), TW_CODEC_ONEBIT, TW_FEEDBACK_EF, 0, TW_SCALE_MEAN, TILE};

static float *user[LAYERS]; /* in place: [rank * count + i] */
static float *e[LAYERS];    /* the model's residuals, before the step; NULL for the big layer: it is there once */
static float *e_owner;      /* [count], of one layer: the owners' after the step */
static float sum[BIG], row[BIG], held[BIG];
static uint16_t owner[BIG / TILE];
static tw_comm *comm[RANKS];
static tw_reducer *red[RANKS];

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void make_inputs(uint32_t l, uint64_t step, int rank, float *g) {
    rng r = {step << 40 | (uint64_t)l << 32 | (unsigned)rank};
    for (uint32_t i = 0; i < shape[l].count; i++)
        g[i] = (float)(int32_t)rng_next(&r) * 0x1p-31f;
}

static uint32_t tile_length(uint32_t l, uint32_t tile) {
    uint32_t left = shape[l].count - tile * TILE;
    return left < TILE ? left : TILE;
}

/* What is encoded of x, and what is lost of it. */
static void encode(const float *x, uint32_t n, float *dec, float *left) {
    model_codec(&spec, NULL, TW_F32, x, n, dec);
    for (uint32_t i = 0; i < n; i++)
        left[i] = x[i] - dec[i];
}

/* Adds one rank's part of a layer to sum; its residual as the step leaves it goes to row. */
static void model_part(uint32_t l, uint64_t step, int rank) {
    const float *old = e[l] ? e[l] + (size_t)rank * shape[l].count : NULL;
    make_inputs(l, step, rank, row);
    for (uint32_t t = 0; t * TILE < shape[l].count; t++) {
        float x[TILE], dec[TILE];
        uint32_t at = t * TILE, n = tile_length(l, t);
        bool mine = owner[t] == rank;
        for (uint32_t i = 0; i < n; i++)
            x[i] = row[at + i] + (mine || !old ? 0.0f : old[at + i]);
        if (mine)
            memcpy(dec, x, sizeof dec);
        else
            encode(x, n, dec, row + at);
        for (uint32_t i = 0; i < n; i++)
            sum[at + i] = (rank ? sum[at + i] : 0.0f) + dec[i];
    }
}

/* The owners' answers, in place of the sums. */
static void model_answers(uint32_t l) {
    for (uint32_t t = 0; t * TILE < shape[l].count; t++) {
        float x[TILE];
        uint32_t at = t * TILE, n = tile_length(l, t);
        const float *old = e[l] ? e[l] + (size_t)owner[t] * shape[l].count + at : NULL;
        for (uint32_t i = 0; i < n; i++)
            x[i] = sum[at + i] * (1.0f / RANKS) + (old ? old[i] : 0.0f);
        encode(x, n, sum + at, e_owner + at);
    }
}

static bool allocate(void) {
    e_owner = malloc(BIG * sizeof(float));
    for (uint32_t l = 0; l < LAYERS; l++) {
        size_t n = (size_t)RANKS * shape[l].count;
        user[l] = malloc(n * sizeof(float));
        e[l] = shape[l].count == BIG ? NULL : calloc(n, sizeof(float));
        if (!user[l] || !e_owner || (shape[l].count != BIG && !e[l]))
            return false;
    }
    return true;
}

static bool fail(const char *what) {
    printf("FAILED: %s: %s\n", what, tw_last_error());
    return false;
}

static bool make(tw_sim *sim) {
    static tw_layer list[LAYERS];
    static const tw_layer *layers[RANKS];
    static const char *rules[RANKS];
    static tw_reducer_config config = TW_REDUCER_CONFIG_INIT;
    static const tw_reducer_config *configs[RANKS];
    static uint32_t n[RANKS];
    config.tile = TILE;
    for (uint32_t l = 0; l < LAYERS; l++)
        list[l] = (tw_layer)TW_LAYER(shape[l].name, shape[l].count);
    for (int r = 0; r < RANKS; r++) {
        layers[r] = list;
        rules[r] = "*=onebit:group=128+ef";
        configs[r] = &config;
        n[r] = LAYERS;
    }
    if (tw_sim_comms(sim, NULL, comm) != TW_OK)
        return fail("communicators");
    return tw_sim_reducers(sim, comm, layers, n, rules, configs, red) == TW_OK || fail("reducers");
}

/* The first step has all layers, the others the small ones. */
static uint32_t first_layer(uint64_t step) {
    return step == 0 ? 0 : 1;
}

static bool step(tw_sim *sim, uint64_t number) {
    for (int r = 0; r < RANKS; r++) {
        tw_piece piece[LAYERS];
        uint32_t n = 0;
        for (uint32_t l = first_layer(number); l < LAYERS; l++) {
            float *mine = user[l] + (size_t)r * shape[l].count;
            make_inputs(l, number, r, mine);
            piece[n++] = (tw_piece)TW_PIECE(l, 0, shape[l].count, mine, mine);
        }
        if (tw_reducer_begin(red[r], number, NULL) != TW_OK || tw_reducer_post(red[r], piece, n, NULL) != TW_OK)
            return fail("begin or post");
    }
    tw_sim_run(sim);
    for (int r = 0; r < RANKS; r++)
        if (tw_reducer_end(red[r], NULL) != TW_OK)
            return fail("end");
    return true;
}

/* Rank by rank: what it sent is added up, and its residual must be what is left. Owned tiles follow later. */
static bool compare_residuals(uint32_t l, uint64_t number) {
    uint32_t count = shape[l].count;
    for (int r = 0; r < RANKS; r++) {
        model_part(l, number, r);
        if (tw_reducer_residual(red[r], l, held) != TW_OK)
            return fail("residual");
        for (uint32_t t = 0; t * TILE < count; t++)
            if (owner[t] != r && memcmp(held + t * TILE, row + t * TILE, tile_length(l, t) * sizeof(float)) != 0)
                return printf("FAILED: step %llu, layer '%s', tile %u: rank %d holds another residual than the model\n",
                              (unsigned long long)number, shape[l].name, t, r) < 0;
    }
    return true;
}

static bool compare_answers(uint32_t l, uint64_t number) {
    uint32_t count = shape[l].count;
    model_answers(l);
    for (int r = 0; r < RANKS; r++) {
        if (memcmp(user[l] + (size_t)r * count, sum, count * sizeof(float)) != 0)
            return printf("FAILED: step %llu, layer '%s': rank %d has other values than the model\n",
                          (unsigned long long)number, shape[l].name, r) < 0;
        if (tw_reducer_residual(red[r], l, held) != TW_OK)
            return fail("residual");
        for (uint32_t t = 0; t * TILE < count; t++)
            if (owner[t] == r && memcmp(held + t * TILE, e_owner + t * TILE, tile_length(l, t) * sizeof(float)) != 0)
                return printf("FAILED: step %llu, layer '%s', tile %u: its owner %d holds another residual than the "
                              "model\n",
                              (unsigned long long)number, shape[l].name, t, r) < 0;
        if (e[l]) /* equal to the model's: the next step starts from it */
            memcpy(e[l] + (size_t)r * count, held, count * sizeof(float));
    }
    return true;
}

static bool compare(uint64_t number) {
    for (uint32_t l = first_layer(number); l < LAYERS; l++) {
        uint32_t tiles = (shape[l].count + TILE - 1) / TILE;
        for (uint32_t t = 0; t < tiles; t++)
            owner[t] = (uint16_t)tw_owner(shape[l].name, t, tiles, RANKS);
        if (!compare_residuals(l, number) || !compare_answers(l, number))
            return false;
    }
    return true;
}

int main(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    tw_sim *sim = NULL;
    double start = seconds();
    c.ranks = RANKS;
    c.bandwidth = 1e9;
    c.jitter_s = 10e-6;
    c.reorder = 0.1;
    bool ok = allocate() && (tw_sim_create(NULL, &c, &sim) == TW_OK || fail("sim")) && make(sim);
    for (uint64_t i = 0; ok && i < STEPS; i++)
        ok = step(sim, i) && compare(i);
    uint64_t frames = 0, bytes = 0, f, b;
    for (int k = 0; sim && k < RANKS; k++) {
        tw_sim_counters(sim, k, &f, &b);
        frames += f;
        bytes += b;
    }
    printf("%d ranks, %d steps: %llu frames, %llu bytes, %.3f s of virtual time, %.1f s of real time\n", RANKS, STEPS,
           (unsigned long long)frames, (unsigned long long)bytes, tw_sim_now(sim), seconds() - start);
    for (int k = 0; k < RANKS; k++)
        ok = tw_reducer_destroy(red[k]) == TW_OK && tw_comm_destroy(comm[k]) == TW_OK && ok;
    ok = tw_sim_destroy(sim) == TW_OK && ok;
    free(e_owner);
    for (uint32_t l = 0; l < LAYERS; l++) {
        free(user[l]);
        free(e[l]);
    }
    printf("%d passed, %d failed\n", ok, !ok);
    return !ok;
}
