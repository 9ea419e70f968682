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
    double x_sq, e_sq;  /* sums of squares of the values and of what was lost, over tiles without NaN and Inf; exact to
                         * 2^-16 relative. NMSE = e_sq / x_sq. A half-precision array loses its own rounding besides */
    uint64_t bad_tiles; /* that have NaN or Inf: they decode to NaN or Inf at least there */
} tw_array_stat;
#define TW_ARRAY_STAT_INIT {sizeof(tw_array_stat), 0, 0.0, 0.0, 0}

/* Encodes count values of dtype t at `in` (any alignment) to dst, which is aligned to 4 bytes and has room for cap bytes;
 * tw_spec_bound(s, count, t) are enough. *len gets the bytes written, stat (may be NULL) the error. args: NULL for the
 * defaults. The spec's feedback must be none. in and dst do not overlap. Thread-safe; allocates nothing. */
TW_API tw_status tw_encode(const tw_spec *s, const tw_array_args *args, const void *in, uint64_t count, tw_dtype t, void *dst,
                           uint64_t cap, uint64_t *len, tw_array_stat *stat);
/* Decodes such a payload (src aligned to 4 bytes) into count values of dtype t at `out` (any alignment). A length that
 * cannot belong to it is TW_ERR_CORRUPT and nothing is written. src and out do not overlap. Thread-safe; allocates nothing. */
TW_API tw_status tw_decode(const tw_spec *s, const tw_array_args *args, const void *src, uint64_t len, void *out,
                           uint64_t count, tw_dtype t);

#ifdef __cplusplus
}
#endif
#endif
