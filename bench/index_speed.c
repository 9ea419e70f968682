/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Speed of index coding on one core: a program of the tree, since the library does not export it (`make bench/index_speed`).
 * In GB/s of the dense fp32 values that the positions stand for, beside a loop that writes or reads as many positions and
 * one that reads the dense values. Usage: index_speed [PASSES] */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "exec/kernels.h"

enum { VALUES = 16 << 20, MOST_PASSES = 1000 };

/* Of this thread: on a busy machine the rest is somebody else's. */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

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
    qsort(seconds, (size_t)passes, sizeof *seconds, by_value);
    return seconds[passes / 2];
}

/* Every value is kept with this probability. */
static uint32_t draw(uint32_t *pos, uint32_t n, double density) {
    uint64_t state = 1;
    uint32_t k = 0;
    for (uint32_t i = 0; i < n; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        pos[k] = i;
        k += (double)(state >> 11) * 0x1p-53 < density;
    }
    return k;
}

static void row(task *t, const char *isa, double density, int passes) {
    double dense = t->n * sizeof(float) * 1e-9, n = t->n, k = t->k = draw(t->pos, t->n, density);
    double limit = (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2.0);
    double encoding = median_of(t, encode, passes), decoding = median_of(t, decode, passes);
    double copying = median_of(t, copy, passes), adding = median_of(t, add, passes),
           both = median_of(t, decode_add, passes);
    printf("%-7s %8.3g %9.4g %8.3f %7.4f %8.0f %8.0f %8.2f %8.0f %10.0f %10.0f\n", isa, density * 100, k,
           8 * (double)t->bytes / k, 8 * (double)t->bytes / limit, dense / encoding, dense / decoding,
           decoding / k * 1e9, dense / copying, dense / adding, dense / both);
}

int main(int argc, char **argv) {
    static const double densities[] = {0.0001, 0.001, 0.01, 0.05, 0.1};
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
    printf("%-7s %8s %9s %8s %7s %8s %8s %8s %8s %10s %10s\n", "isa", "% kept", "kept", "bits", "x limit", "encode",
           "decode", "ns/entry", "copy", "add alone", "decode+add");
    for (const char *const *isa = tw_isa_list(); *isa; isa++)
        for (size_t d = 0; d < TW_ARRAY_LEN(densities); d++) {
            t.loops = tw_kernels_named(*isa)->index;
            row(&t, *isa, densities[d], passes);
        }
    free(t.pos);
    free(t.out);
    free(t.code);
    free(t.dense);
    return 0;
}
