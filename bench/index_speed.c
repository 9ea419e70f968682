/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Size and speed of index coding on one core: a program of the tree, since the library does not export it (`make
 * bench/index_speed`; bench/index-coding makes a page of it).
 * In GB/s of the dense fp32 values that the positions stand for, beside a loop that writes or reads as many positions and
 * one that reads the dense values. Usage: index_speed [PASSES] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "exec/kernels.h"
#include "timing.h"

enum { VALUES = 16 << 20, MOST_PASSES = 1000 };

typedef struct task {
    const tw_index_loops *loops;
    uint32_t *pos, *out, n, k;
    uint8_t *code;
    uint64_t bytes;
    float *dense;
    volatile float seen;
} task;

static void encode(task *t) {
    tw_index_encode(t->loops, t->pos, t->k, t->n, t->code, &t->bytes);
}
static void decode(task *t) {
    tw_index_decode(t->loops, t->code, t->bytes, t->n, t->k, t->out);
}
/* As a codec would: positions stay in L1. */
static void decode_add(task *t) {
    static float values[TW_INDEX_BLOCK];
    uint32_t pos[TW_INDEX_BLOCK], count;
    tw_index_reader r;
    tw_index_open(&r, t->loops, t->code, t->bytes, t->n, t->k);
    while (tw_index_read(&r, pos, &count) == TW_OK && count)
        tw_index_add(t->dense, pos, values, count);
}
static void add(task *t) {
    static float values[TW_INDEX_BLOCK];
    for (uint32_t at = 0; at < t->k; at += TW_INDEX_BLOCK)
        tw_index_add(t->dense, t->pos + at, values, t->k - at < TW_INDEX_BLOCK ? t->k - at : TW_INDEX_BLOCK);
}
static void copy(task *t) {
    memcpy(t->out, t->pos, t->k * sizeof *t->out);
}
static void read_dense(task *t) {
    t->seen = (float)tw_kernels_best()->sum_sq(t->dense, t->n);
}

static double median_of(task *t, void (*run)(task *), int passes) {
    static double seconds[MOST_PASSES];
    run(t);
    for (int i = 0; i < passes; i++) {
        double begin = now();
        run(t);
        seconds[i] = now() - begin;
    }
    return median(seconds, passes);
}

/* ---- supports ---- */

static uint64_t state;

static double uniform(void) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(state >> 11) * 0x1p-53;
}

/* Every value of [from, end) is kept with this probability; appends to k positions. */
static uint32_t draw(uint32_t *pos, uint32_t k, uint32_t from, uint32_t end, double density) {
    for (uint32_t i = from; i < end; i++) {
        pos[k] = i;
        k += uniform() < density;
    }
    return k;
}

/* Layers of 64 Ki values with densities from 0.01 % to 10 %. */
static uint32_t layers(uint32_t *pos, uint32_t n) {
    uint32_t k = 0;
    for (uint32_t at = 0; at < n; at += 1 << 16)
        k = draw(pos, k, at, at + (1 << 16), pow(10.0, -4.0 + 3.0 * uniform()));
    return k;
}

/* Bursts of `length` neighbours on average, of which a half are kept, `apart` values apart. */
static uint32_t bursts(uint32_t *pos, uint32_t n, uint32_t length, uint32_t apart) {
    uint32_t k = 0;
    for (uint32_t at = (uint32_t)(uniform() * apart); at < n; at += 1 + (uint32_t)(uniform() * 2 * apart)) {
        uint32_t end = at + 1 + (uint32_t)(uniform() * 2 * length);
        end = end < n ? end : n;
        k = draw(pos, k, at, end, 0.5);
        at = end;
    }
    return k;
}

static void row(task *t, const char *isa, const char *support, uint32_t kept, int passes) {
    double dense = t->n * sizeof(float) * 1e-9, n = t->n, k = t->k = kept;
    double limit = (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2.0);
    double encoding = median_of(t, encode, passes), decoding = median_of(t, decode, passes);
    double copying = median_of(t, copy, passes), adding = median_of(t, add, passes),
           both = median_of(t, decode_add, passes);
    printf("%-7s %-22s %8.3g %9.0f %8.3f %7.4f %8.0f %8.0f %8.2f %8.0f %10.0f %10.0f\n", isa, support, k / n * 100, k,
           8 * (double)t->bytes / k, 8 * (double)t->bytes / limit, dense / encoding, dense / decoding,
           decoding / k * 1e9, dense / copying, dense / adding, dense / both);
    fflush(stdout);
}

static void rows(task *t, const char *isa, int passes) {
    static const double densities[] = {0.0001, 0.001, 0.01, 0.05, 0.1};
    static const uint32_t burst[][2] = {{1000, 50000}, {100, 10000}, {10, 2000}};
    char name[64];
    t->loops = tw_kernels_named(isa)->index;
    for (size_t d = 0; d < TW_ARRAY_LEN(densities); d++) {
        state = 1;
        row(t, isa, "random", draw(t->pos, 0, 0, t->n, densities[d]), passes);
    }
    state = 1;
    row(t, isa, "layers", layers(t->pos, t->n), passes);
    for (size_t b = 0; b < TW_ARRAY_LEN(burst); b++) {
        snprintf(name, sizeof name, "bursts:%u:%u", burst[b][0], burst[b][1]);
        row(t, isa, name, bursts(t->pos, t->n, burst[b][0], burst[b][1]), passes);
    }
}

int main(int argc, char **argv) {
    int passes = argc > 1 ? atoi(argv[1]) : 51;
    task t = {.n = VALUES};
    t.pos = malloc((VALUES + 1) * sizeof *t.pos);
    t.out = malloc(VALUES * sizeof *t.out);
    t.code = malloc(VALUES * sizeof *t.code);
    t.dense = malloc(VALUES * sizeof *t.dense);
    if (!t.pos || !t.out || !t.code || !t.dense || passes < 1 || passes > MOST_PASSES)
        return 1;
    memset(t.out, 1, VALUES * sizeof *t.out);
    for (uint32_t i = 0; i < VALUES; i++)
        t.dense[i] = (float)i;
    printf("# GB/s of %u dense fp32 values; reading them once: %.1f; medians of %d\n", t.n,
           t.n * sizeof(float) * 1e-9 / median_of(&t, read_dense, 5), passes);
    printf("%-7s %-22s %8s %9s %8s %7s %8s %8s %8s %8s %10s %10s\n", "isa", "support", "% kept", "kept", "bits",
           "x limit", "encode", "decode", "ns/entry", "copy", "add alone", "decode+add");
    for (const char *const *isa = tw_isa_list(); *isa; isa++)
        rows(&t, *isa, passes);
    free(t.pos);
    free(t.out);
    free(t.code);
    free(t.dense);
    return 0;
}
