/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The arrays that codecs are measured on. */
#ifndef BENCH_CODEC_DATA_H
#define BENCH_CODEC_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CODEC_TILE   4096u
#define CODEC_LAYERS 64u
#define CODEC_TABLE  65536u /* normal numbers that the inputs are cut from */

typedef struct codec_arrays {
    size_t n;
    float *g, *y, *e[2]; /* e: read one, write the other, swapped every iteration */
    uint8_t *payload;
    float table[CODEC_TABLE];
} codec_arrays;

bool codec_arrays_make(codec_arrays *m, uint64_t bytes, uint64_t seed);
void codec_arrays_free(codec_arrays *m);
void *codec_pages(size_t bytes); /* touched, so that no page fault is timed */
/* A fresh gradient: normal numbers; of `layers` scales from 1e-4 to 1e-2, or with one layer all of scale 1e-2. */
void codec_arrays_fill(codec_arrays *m, uint64_t seed, unsigned layers);

#endif
