/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What sparse codecs share: which values of an array are kept, and the spans in which they are sent.
 *
 * A span covers some consecutive values and holds at most TW_SPAN_KEPT kept ones, so that both ends work in L1 and allocate
 * nothing: u32 values covered, u32 kept, u32 bytes of coded positions; the kept values through the tiled codec of the spec
 * (a tile of `kept` values); the positions (index.h), padded with zeros to 4 bytes. Spans of an array follow one another. */
#ifndef TW_SPARSE_H
#define TW_SPARSE_H

#include "compressors/codec.h"
#include "compressors/index.h"

#define TW_SPAN_VALUES (1u << 30)
#define TW_SPAN_HEADER 12u
#define TW_SPAN_INDEX  16384u /* most bytes of its coded positions: 4096 * (2 + 18 + 1) bits and a block's head */
#define TW_SELECT_ALL  UINT64_MAX

/* Kept are values whose magnitude, as the bits of a float without its sign, is above `bits`, and the first `ties` of those
 * where it is `bits`. Zeros never are. */
typedef struct tw_cut {
    uint32_t bits;
    uint64_t ties;
} tw_cut;

typedef struct tw_kept {
    uint32_t count;
    uint32_t pos[TW_SPAN_KEPT + TW_INDEX_SLACK]; /* in the span */
    _Alignas(64) float value[TW_SPAN_KEPT];
} tw_kept;

/* A tile on its one way through the caches: x = g * scale + e (two roundings, never fused). */
typedef struct tw_look {
    const float *g; /* any 4-byte alignment */
    const float *e; /* 64-byte aligned, or NULL */
    float *out;     /* NULL, or where x goes past the caches, with +0 in place of what is set aside; 64-byte aligned */
    float scale;
    uint32_t n;     /* up to TW_MAX_TILE */
    uint32_t floor; /* below the bits of Inf */
} tw_look;

/* Sets aside, in order, every x whose magnitude has bits above `floor` (so NaN and Inf, too): its place in the tile and the
 * value. Room for n and the slack. Returns how many. *rest: the sum of squares of x in the order of codec.h, with +0 in
 * place of those. */
typedef uint32_t (*tw_look_fn)(const tw_look *l, uint16_t *place, float *value, double *rest);
double tw_slow_rest(const tw_look *l); /* the same, where sums left the range in which fp32 is safe */
/* How many of x have magnitude bits above these. */
typedef uint32_t (*tw_count_fn)(const float *x, uint32_t n, uint32_t bits);
/* The cut that keeps the k > 0 largest of x[0..n); of fewer that are not zero all. By halving what it may be. */
tw_cut tw_cut_of(tw_count_fn count, const float *x, uint64_t n, uint64_t k);

/* Bytes of a span of k kept values, with coded positions of `index` bytes. */
uint64_t tw_span_bytes(const tw_spec *s, uint32_t k, uint64_t index);

/* The k largest magnitudes by radix: one pass over the data for each of 3 digits. */
#define TW_RADIX_PASSES 3u
typedef struct tw_radix {
    uint64_t count[2048];
    uint32_t prefix, pass; /* digits found so far, and how many */
    uint64_t want;         /* still to be taken at the present digit and below */
    uint64_t seen;         /* values counted in the first pass */
    uint64_t same;         /* values at the last digit that was found */
} tw_radix;
void tw_radix_begin(tw_radix *r, uint64_t k); /* k > 0 */
/* x[first], x[first + stride], ... */
void tw_radix_add(tw_radix *r, const float *x, uint32_t n, uint32_t first, uint32_t stride);
/* All of x whose magnitude has bits above `floor`: where few have, this takes the time of a look at them. */
typedef void (*tw_radix_fn)(tw_radix *r, const float *x, uint32_t n, uint32_t floor);
/* Counts a value's magnitude, for the present digit. */
static inline void tw_radix_count(tw_radix *r, uint32_t u) {
    static const uint32_t shift[TW_RADIX_PASSES] = {21, 10, 0}, mask[TW_RADIX_PASSES] = {1023, 2047, 1023},
                          above[TW_RADIX_PASSES] = {31, 21, 10};
    bool mine = u >> above[r->pass] == r->prefix;
    r->count[u >> shift[r->pass] & mask[r->pass]] += mine;
    r->seen += r->pass == 0;
}
void tw_radix_next(tw_radix *r); /* all data was added for this pass */
tw_cut tw_radix_cut(const tw_radix *r);

#endif
