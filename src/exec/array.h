/* SPDX-License-Identifier: BSD-3-Clause
 *
 * An array on its way through a codec: what array.c, sparse.c and matrix.c share. */
#ifndef TW_ARRAY_H
#define TW_ARRAY_H

#include <thinwire/codec.h>
#include "exec/exec.h"

typedef struct tw_array {
    const tw_spec *spec;
    tw_array_args args;
    const void *in; /* out: NULL */
    uint64_t count;
    tw_dtype t;
    const tw_kernels *k;
} tw_array;

/* Values of the tile that begins at `at` as fp32: the array itself where it can be, else in buf. */
const float *tw_array_tile(const tw_array *a, uint64_t at, float *buf);
/* Random numbers of a tile by its number, or of a span by the position where it begins. */
tw_noise tw_array_noise(const tw_array *a, uint64_t index);

tw_status tw_sparse_encode(const tw_array *a, void *dst, uint64_t cap, uint64_t *len, tw_array_stat *stat);
tw_status tw_sparse_decode(const tw_array *a, const void *src, uint64_t len, void *out);
void tw_matrix_encode(const tw_array *a, void *dst, uint64_t *len, tw_array_stat *stat); /* low-rank codecs */
tw_status tw_matrix_decode(const tw_array *a, const void *src, uint64_t len, void *out);

#endif
