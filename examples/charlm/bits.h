/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Small shared things: time, random numbers by counter, XXH64, and memory that cannot fail quietly. */
#ifndef CHARLM_BITS_H
#define CHARLM_BITS_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

static inline double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline uint64_t rng_mix(uint64_t x) /* the finaliser of splitmix64 */
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Number i of a stream of a seed: no state, so ranks, threads and restarts cannot change what is drawn. */
static inline uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t i) {
    return rng_mix(rng_mix(rng_mix(seed + 0x9e3779b97f4a7c15u) + stream * 0xd1342543de82ef95u) +
                   i * 0x9e3779b97f4a7c15u);
}

static inline float rng_uniform(uint64_t seed, uint64_t stream, uint64_t i, float half_width) {
    return ((float)(rng_u64(seed, stream, i) >> 40) * (1.0f / 8388608.0f) - 1.0f) * half_width;
}

uint64_t xxh64(const void *data, size_t bytes, uint64_t seed);
/* 64-byte aligned and zeroed. Ends the program with a sentence if there is no memory. */
void *need(size_t bytes);
/* Prints "charlm: ..." to stderr and ends the program with `status`; under MPI it takes the other ranks along. */
_Noreturn void fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints "charlm: warning: ..." to stderr, unless fail_silent. */
void warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
extern void (*fail_hook)(int status); /* main sets it once MPI runs */
extern int fail_silent;               /* what every rank would say alike is said by one */

#endif
