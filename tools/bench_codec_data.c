/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_codec_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static double uniform(uint64_t *state) {
    return (double)((next_random(state) >> 11) + 1) * 0x1p-53;
}

static void fill_table(codec_arrays *m, uint64_t seed) {
    for (size_t i = 0; i < CODEC_TABLE; i++)
        m->table[i] = (float)(sqrt(-2.0 * log(uniform(&seed))) * cos(6.283185307179586 * uniform(&seed)));
}

void codec_arrays_fill(codec_arrays *m, uint64_t seed, unsigned layers) {
    for (size_t layer = 0; layer < layers; layer++) {
        size_t at = m->n / layers * layer, end = layer + 1 < layers ? m->n / layers * (layer + 1) : m->n;
        float scale = (float)pow(10.0, layers > 1 ? -4.0 + 2.0 * (double)layer / (layers - 1) : -2.0);
        while (at < end) {
            size_t from = next_random(&seed) % (CODEC_TABLE - CODEC_TILE),
                   run = end - at < CODEC_TILE ? end - at : CODEC_TILE;
            for (size_t i = 0; i < run; i++)
                m->g[at + i] = m->table[from + i] * scale;
            at += run;
        }
    }
}

void *codec_pages(size_t bytes) {
    void *p = aligned_alloc(4096, (bytes + 8191) / 4096 * 4096);
    if (p)
        memset(p, 1, (bytes + 8191) / 4096 * 4096);
    return p;
}

void codec_arrays_free(codec_arrays *m) {
    free(m->g);
    free(m->y);
    free(m->e[0]);
    free(m->e[1]);
    free(m->payload);
}

bool codec_arrays_make(codec_arrays *m, uint64_t bytes, uint64_t seed) {
    m->n = bytes / sizeof(float);
    m->g = codec_pages(bytes);
    m->y = codec_pages(bytes);
    m->e[0] = codec_pages(bytes);
    m->e[1] = codec_pages(bytes);
    m->payload = codec_pages(bytes);
    if (!m->g || !m->y || !m->e[0] || !m->e[1] || !m->payload)
        return false;
    fill_table(m, seed);
    return true;
}
