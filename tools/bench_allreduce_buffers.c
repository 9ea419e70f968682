/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_allreduce.h"

#include <stdlib.h>
#include <string.h>

enum { ZONE = 256 }; /* bytes in front of and behind every layer */

static unsigned char canary_at(size_t i) {
    return (unsigned char)(0xa5 ^ (i * 37) ^ (i >> 8));
}

static size_t layer_bytes(const ba_arena *a, uint32_t i) {
    return (size_t)(a->first[i + 1] - a->first[i]) * a->elem;
}

/* The zone in front of layer i; that of i == layers is the last one. */
static void zone_of(const ba_arena *a, uint32_t i, size_t *begin, size_t *end) {
    *begin = i ? a->offset[i - 1] + layer_bytes(a, i - 1) : 0;
    *end = i < a->layers ? a->offset[i] : a->bytes;
}

bool ba_arena_create(ba_arena *a, uint64_t count, uint32_t layers, size_t elem) {
    memset(a, 0, sizeof *a);
    a->layers = layers;
    a->elem = elem;
    a->first = calloc((size_t)layers + 1, sizeof *a->first);
    a->offset = calloc(layers, sizeof *a->offset);
    if (!a->first || !a->offset)
        return false;
    size_t at = ZONE;
    for (uint32_t i = 0; i < layers; i++) {
        a->first[i + 1] = a->first[i] + count / layers + (i < count % layers);
        a->offset[i] = at;
        at = (at + layer_bytes(a, i) + ZONE + 63) & ~(size_t)63;
    }
    a->bytes = at;
    a->base = aligned_alloc(64, at);
    if (!a->base)
        return false;
    memset(a->base, 0x5a, at);
    for (uint32_t i = 0; i <= layers; i++) {
        size_t begin, end;
        zone_of(a, i, &begin, &end);
        for (; begin < end; begin++)
            a->base[begin] = canary_at(begin);
    }
    return true;
}

void ba_arena_destroy(ba_arena *a) {
    free(a->base);
    free(a->first);
    free(a->offset);
    memset(a, 0, sizeof *a);
}

void ba_arena_generate(const ba_arena *a, const ba_source *s, int rank, uint64_t iteration) {
    for (uint32_t i = 0; i < a->layers; i++)
        ba_generate(s, rank, iteration, a->first[i], a->first[i + 1] - a->first[i], ba_layer(a, i));
}

uint64_t ba_arena_hash(const ba_arena *a) {
    uint64_t h = 1;
    for (uint32_t i = 0; i < a->layers; i++)
        h = ba_hash(h, ba_layer(a, i), layer_bytes(a, i));
    return h;
}

int64_t ba_arena_canary(const ba_arena *a, bool *before) {
    for (uint32_t i = 0; i <= a->layers; i++) {
        size_t begin, end, middle;
        zone_of(a, i, &begin, &end);
        middle = begin + (end - begin) / 2;
        for (; begin < end; begin++)
            if (a->base[begin] != canary_at(begin)) {
                *before = i < a->layers && (i == 0 || begin >= middle);
                return *before ? i : i - 1;
            }
    }
    return -1;
}
