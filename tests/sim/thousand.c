/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A thousand ranks in one process, once: onebit+ef, tiles of 128, one layer with a tile for each rank and small ones.
 * The same model as in the property test; outputs are compared on every rank. */
#include "trial.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RANKS = 1000, TILE = 128, LAYERS = 4, STEPS = 2 };

static const struct {
    const char *name;
    uint32_t count;
} shape[LAYERS] = {{"big", RANKS * TILE}, {"one", 1}, {"odd", 3 * TILE + 5}, {"bias", 127}};

static const tw_spec spec = {sizeof(tw_spec), TW_CODEC_ONEBIT, TW_FEEDBACK_EF, 0, TW_SCALE_MEAN, TILE};

static float *g[LAYERS], *e[LAYERS], *want[LAYERS]; /* [rank * count + i], the same, [i] */
static float *out[LAYERS];
static tw_comm *comm[RANKS];
static tw_reducer *red[RANKS];

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void encode(const float *x, uint32_t n, float *dec, float *left) {
    model_codec(&spec, TW_F32, x, n, dec);
    for (uint32_t i = 0; i < n; i++)
        left[i] = x[i] - dec[i];
}

/* One tile through both hops; residuals change in place. */
static void model_one_tile(uint32_t l, uint32_t tile) {
    uint32_t count = shape[l].count, at = tile * TILE, n = count - at < TILE ? count - at : TILE;
    float x[TILE], dec[TILE], sum[TILE];
    int owner = tw_owner(shape[l].name, tile, (count + TILE - 1) / TILE, RANKS);
    for (int r = 0; r < RANKS; r++) {
        const float *mine = g[l] + (size_t)r * count + at;
        float *held = e[l] + (size_t)r * count + at;
        for (uint32_t i = 0; i < n; i++)
            x[i] = r == owner ? mine[i] : mine[i] + held[i];
        if (r != owner)
            encode(x, n, dec, held);
        for (uint32_t i = 0; i < n; i++)
            sum[i] = (r ? sum[i] : 0.0f) + (r == owner ? x[i] : dec[i]);
    }
    float *held = e[l] + (size_t)owner * count + at;
    for (uint32_t i = 0; i < n; i++)
        x[i] = sum[i] * (1.0f / RANKS) + held[i];
    encode(x, n, want[l] + at, held);
}

static bool allocate(void) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        size_t n = (size_t)RANKS * shape[l].count;
        g[l] = malloc(n * sizeof(float));
        e[l] = calloc(n, sizeof(float));
        out[l] = malloc(n * sizeof(float));
        want[l] = malloc(shape[l].count * sizeof(float));
        if (!g[l] || !e[l] || !out[l] || !want[l])
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

static bool step(tw_sim *sim, uint64_t number, rng *r) {
    for (uint32_t l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < (size_t)RANKS * shape[l].count; i++)
            g[l][i] = (float)(int32_t)rng_next(r) * 0x1p-31f;
    for (int k = 0; k < RANKS; k++) {
        if (tw_reducer_begin(red[k], number, NULL) != TW_OK)
            return fail("begin");
        for (uint32_t l = 0; l < LAYERS; l++) {
            size_t at = (size_t)k * shape[l].count;
            if (tw_reducer_push(red[k], l, g[l] + at, out[l] + at) != TW_OK)
                return fail("push");
        }
    }
    tw_sim_run(sim);
    for (int k = 0; k < RANKS; k++)
        if (tw_reducer_end(red[k], NULL) != TW_OK)
            return fail("end");
    return true;
}

static bool compare(uint64_t number) {
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint32_t count = shape[l].count;
        for (uint32_t t = 0; t < (count + TILE - 1) / TILE; t++)
            model_one_tile(l, t);
        float *held = malloc(count * sizeof(float));
        for (int r = 0; held && r < RANKS; r++) {
            if (memcmp(out[l] + (size_t)r * count, want[l], count * sizeof(float)) != 0)
                return printf("FAILED: step %llu, layer '%s': rank %d has other values than the model\n",
                              (unsigned long long)number, shape[l].name, r) < 0;
            if (tw_reducer_residual(red[r], l, held) != TW_OK ||
                memcmp(held, e[l] + (size_t)r * count, count * sizeof(float)) != 0)
                return printf("FAILED: step %llu, layer '%s': rank %d holds another residual than the model\n",
                              (unsigned long long)number, shape[l].name, r) < 0;
        }
        free(held);
    }
    return true;
}

int main(void) {
    tw_sim_config c = TW_SIM_CONFIG_INIT;
    tw_sim *sim = NULL;
    rng r = {1};
    double start = seconds();
    c.ranks = RANKS;
    c.bandwidth = 1e9;
    c.jitter_s = 10e-6;
    c.reorder = 0.1;
    bool ok = allocate() && (tw_sim_create(NULL, &c, &sim) == TW_OK || fail("sim")) && make(sim);
    for (uint64_t i = 0; ok && i < STEPS; i++)
        ok = step(sim, i, &r) && compare(i);
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
    for (uint32_t l = 0; l < LAYERS; l++) {
        free(g[l]);
        free(e[l]);
        free(out[l]);
        free(want[l]);
    }
    printf("%d passed, %d failed\n", ok, !ok);
    return !ok;
}
