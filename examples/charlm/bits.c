/* SPDX-License-Identifier: BSD-3-Clause */
#include "bits.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void (*fail_hook)(int status);
int fail_silent;

_Noreturn void fail(int status, const char *format, ...) {
    static atomic_flag ending = ATOMIC_FLAG_INIT;
    char line[1024];
    va_list args;
    while (atomic_flag_test_and_set(&ending)) /* another thread speaks and ends the process */
        pause();
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (!fail_silent)
        fprintf(stderr, "charlm: %s\n", line); /* one call, so that lines of several ranks do not mix */
    if (fail_hook)
        fail_hook(status);
    fflush(stdout);
    _Exit(status); /* not exit(): it would tear down what other threads still use */
}

void warn(const char *format, ...) {
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (!fail_silent)
        fprintf(stderr, "charlm: warning: %s\n", line);
}

void *need(size_t bytes) {
    size_t room = (bytes + 63) / 64 * 64;
    void *p = aligned_alloc(64, room ? room : 64);
    if (!p)
        fail(1, "no memory for %zu bytes", bytes);
    memset(p, 0, room);
    return p;
}

#define P1 0x9e3779b185ebca87u
#define P2 0xc2b2ae3d27d4eb4fu
#define P3 0x165667b19e3779f9u
#define P4 0x85ebca77c2b2ae63u
#define P5 0x27d4eb2f165667c5u

static uint64_t rotl(uint64_t x, int by) {
    return x << by | x >> (64 - by);
}
static uint64_t mix(uint64_t acc, uint64_t word) {
    return rotl(acc + word * P2, 31) * P1;
}

static uint64_t word(const unsigned char *p, int bytes) /* little endian on any machine */
{
    uint64_t w = 0;
    for (int i = bytes; i-- > 0;)
        w = w << 8 | p[i];
    return w;
}

uint64_t xxh64(const void *data, size_t bytes, uint64_t seed) {
    const unsigned char *p = data, *end = p + bytes;
    uint64_t h = seed + P5;
    if (bytes >= 32) {
        uint64_t v[4] = {seed + P1 + P2, seed + P2, seed, seed - P1};
        for (; end - p >= 32; p += 32)
            for (int i = 0; i < 4; i++)
                v[i] = mix(v[i], word(p + 8 * i, 8));
        h = rotl(v[0], 1) + rotl(v[1], 7) + rotl(v[2], 12) + rotl(v[3], 18);
        for (int i = 0; i < 4; i++)
            h = (h ^ mix(0, v[i])) * P1 + P4;
    }
    h += bytes;
    for (; end - p >= 8; p += 8)
        h = rotl(h ^ mix(0, word(p, 8)), 27) * P1 + P4;
    if (end - p >= 4) {
        h = rotl(h ^ word(p, 4) * P1, 23) * P2 + P3;
        p += 4;
    }
    for (; p < end; p++)
        h = rotl(h ^ *p * P5, 11) * P1;
    h = (h ^ h >> 33) * P2;
    h = (h ^ h >> 29) * P3;
    return h ^ h >> 32;
}
