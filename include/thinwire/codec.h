/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Codecs by themselves: whole arrays to payloads and back, for files and tests. No communicator, no residual.
 *
 * The payload of an array is the payloads of its tiles (4096 values each, the last one what is left), one after another;
 * docs/wire-format.md has their layout and docs/file-format.md the file around them. It depends on the values, the spec
 * and, with stochastic rounding, on tw_array_args; not on the machine. */
#ifndef THINWIRE_CODEC_H
#define THINWIRE_CODEC_H

#include <thinwire/thinwire.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TW_TILE_VALUES 4096u

/* Where random numbers come from, beside spec->seed: the same name, step and position give the same ones. */
typedef struct tw_array_args {
    uint32_t size;
    uint32_t step;
    const char *name; /* of the layer; NULL: "" */
    uint64_t first;   /* position of the array's first value in the layer: a multiple of TW_TILE_VALUES */
} tw_array_args;
#define TW_ARRAY_ARGS_INIT {sizeof(tw_array_args), 0, 0, 0}

typedef struct tw_array_stat {
    uint32_t size;
    uint32_t reserved;
    double x_sq, e_sq;  /* sums of squares of the values and of what was lost, over tiles that are not bad; exact to
                         * 2^-16 relative. NMSE = e_sq / x_sq. A half-precision array loses its own rounding besides */
    uint64_t bad_tiles; /* that have NaN or Inf, or values that the codec cannot tell: they decode to NaN or Inf at least
                         * there. Under topk values of many tiles may share a scale, which one NaN takes from all of them */
} tw_array_stat;
#define TW_ARRAY_STAT_INIT {sizeof(tw_array_stat), 0, 0.0, 0.0, 0}

/* Encodes count values of dtype t at `in` (any alignment) to dst, which is aligned to 4 bytes and has room for cap bytes;
 * tw_spec_bound(s, count, t) must fit. *len gets the bytes of the payload, stat (may be NULL) the error; the rest of dst may
 * be written, too (it is where topk works), also on failure, when *len and stat are not. args: NULL for the defaults. The
 * spec's feedback must be none; powersgd makes factors where `columns` divides count and they are shorter, of the array as
 * one matrix, else it is carried as fp32. in and dst do not overlap. Thread-safe; allocates nothing.
 * TW_ERR_ARG: a bad spec or pointer, too little room. TW_ERR_NONFINITE: topk, more NaN and Inf than values are kept.
 * What each codec computes, and the paper that it is from: docs/codecs.md. */
TW_API tw_status tw_encode(const tw_spec *s, const tw_array_args *args, const void *in, uint64_t count, tw_dtype t, void *dst,
                           uint64_t cap, uint64_t *len, tw_array_stat *stat);
/* Decodes such a payload (src aligned to 4 bytes) into count values of dtype t at `out` (any alignment). Bytes
 * that cannot be such a payload (of codecs of fixed rate: another length) are TW_ERR_CORRUPT and nothing is written; any
 * others decode to some values, in time and memory that grow with count and len only. src and out do not overlap. Thread-safe; allocates nothing. */
TW_API tw_status tw_decode(const tw_spec *s, const tw_array_args *args, const void *src, uint64_t len, void *out,
                           uint64_t count, tw_dtype t);

#ifdef __cplusplus
}
#endif
#endif
