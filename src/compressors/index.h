/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Index coding for sparse codecs: which k of n values were kept, in close to log2 C(n, k) bits. Pure functions; no codec
 * of its own. docs/wire-format.md has the bytes, docs/codecs.md the cost.
 *
 * How a sparse codec is meant to use it:
 * - A span is a run of up to 2^32 - 1 values of one layer (say the run of tiles of a frame); longer ones are cut by the
 *   caller. Positions count from the span's first value. n and k are not in the coded bytes: both ends know n from the
 *   plan, and k from the spec or from a count that the codec sends.
 * - Out: collect the positions in order, tw_index_gather the values that go beside them, tw_index_encode into
 *   tw_index_bound(n, k) bytes (a codec pads to 4 and sends the true length).
 * - In: tw_index_open, then tw_index_read block by block into an array of TW_INDEX_BLOCK positions that stays in L1, each
 *   followed by tw_index_add of that block's values: positions never go through memory. tw_index_skip passes over the
 *   blocks before a position without decoding them, so threads or owners can share a span.
 * - Nothing is allocated. Encoder and reader need about 12 KiB of stack. */
#ifndef TW_INDEX_H
#define TW_INDEX_H

#include "core/core.h"

#define TW_INDEX_BLOCK 4096u /* kept entries that decode together, without those before */
#define TW_INDEX_PART  512u  /* kept entries that share a parameter */
#define TW_INDEX_PARTS (TW_INDEX_BLOCK / TW_INDEX_PART)
#define TW_INDEX_UNARY \
    (TW_INDEX_BLOCK * 7 / 16) /* most bytes of a block's unary stream; the encoder's rule needs 3.4 bits */
#define TW_INDEX_SLACK 16u    /* vectors may write past the last entry of a work array */

/* Parameter code: 2m for gaps divided by 2^m, 2m + 1 by 3 * 2^m; TW_INDEX_FAR is set where some entries have their
 * quotients in a list instead of the unary stream. */
#define TW_INDEX_FAR 64u
static inline bool tw_index_code_exists(uint32_t code) {
    return code < 2 * TW_INDEX_FAR && code % TW_INDEX_FAR != 63;
}
static inline uint32_t tw_index_shift(uint32_t code) {
    return code % TW_INDEX_FAR >> 1;
}
static inline bool tw_index_threefold(uint32_t code) {
    return code & 1;
}
/* A part whose remainders add up in 32 bits: what vectors may work on. */
static inline bool tw_index_small(uint32_t code) {
    return tw_index_shift(code) <= 20;
}

/* A part on its way out or in. */
typedef struct tw_index_part {
    uint32_t gap[TW_INDEX_PART + TW_INDEX_SLACK]; /* values left out before an entry; behind the last one zeros */
    uint32_t low[TW_INDEX_PART + TW_INDEX_SLACK]; /* gap modulo 2^m */
    uint32_t one[TW_INDEX_PART + TW_INDEX_SLACK]; /* bit of the unary stream that ends the entry's quotient */
    uint8_t trit[5 * 8 * (TW_INDEX_PART / 40 + 1) + TW_INDEX_SLACK]; /* threefold: (gap / 2^m) modulo 3 */
    uint32_t count;
} tw_index_part;

/* What a part is decoded from. */
typedef struct tw_index_coded {
    const uint8_t *low;   /* packed; 64 bytes behind them may be read */
    const uint8_t *trit;  /* unpacked; NULL: not threefold */
    const uint16_t *one;  /* bits of the unary stream; TW_INDEX_SLACK entries behind the last one may be read */
    uint32_t first;       /* bit where the part's unary codes begin */
    uint32_t code, count; /* count: 1 .. TW_INDEX_PART */
    uint32_t least;       /* smallest position that the first entry can have */
} tw_index_coded;

/* The loops that each ISA has its own of, with equal results. */
typedef struct tw_index_loops {
    /* p->gap from p->count positions, the first of which is at least `least`. False: they do not increase strictly. */
    bool (*gaps)(tw_index_part *p, const uint32_t *pos, uint32_t least);
    /* Sum of floor(gap / divisor); for threefold codes every gap / 2^m is below 2^16. */
    uint32_t (*quotients)(const tw_index_part *p, uint32_t code);
    /* p->low, p->trit and p->one from p->gap; `first` is the first free bit of the unary stream. */
    void (*split)(tw_index_part *p, uint32_t code, uint32_t first);
    /* Positions of the bits that are set, until there are more than `most`. Returns their number. at: most + 80. */
    uint32_t (*ones)(const uint8_t *bits, uint32_t bytes, uint32_t most, uint16_t *at);
    /* Positions of a part's entries, modulo 2^32. Returns 1 + the last one, not modulo anything. */
    uint64_t (*join)(const tw_index_coded *c, uint32_t *pos);
} tw_index_loops;
extern const tw_index_loops tw_index_ref;

/* Bytes that are enough for any k of n positions: about k * (2 + log2(n / k)) bits. */
uint64_t tw_index_bound(uint32_t n, uint32_t k);
/* pos: k strictly increasing positions below n, else TW_ERR_ARG. dst: tw_index_bound(n, k) bytes; any alignment. */
tw_status tw_index_encode(const tw_index_loops *l, const uint32_t *pos, uint32_t k, uint32_t n, void *dst,
                          uint64_t *bytes);

typedef struct tw_index_reader {
    const tw_index_loops *loops;
    const uint8_t *at, *end;
    uint32_t n, k, done; /* done: entries read or skipped */
    uint32_t least;      /* smallest that the next position can be */
} tw_index_reader;

/* src: untrusted bytes, any alignment. They are looked at by the calls below. */
void tw_index_open(tw_index_reader *r, const tw_index_loops *l, const void *src, uint64_t bytes, uint32_t n,
                   uint32_t k);
/* The next block: up to TW_INDEX_BLOCK positions, strictly increasing, below n, above all before; count 0 at the end.
 * TW_ERR_CORRUPT and a sentence if the bytes are no such thing; pos then holds nothing. Never writes more positions than
 * are left of k. */
tw_status tw_index_read(tw_index_reader *r, uint32_t *pos, uint32_t *count);
/* Passes over blocks whose positions are all below `position`. r->done tells how many entries these were. */
tw_status tw_index_skip(tw_index_reader *r, uint32_t position);
/* All of them. */
tw_status tw_index_decode(const tw_index_loops *l, const void *src, uint64_t bytes, uint32_t n, uint32_t k,
                          uint32_t *pos);

/* v[i] = x[pos[i]]; y[pos[i]] += v[i]. The caller has set the floating-point environment. */
void tw_index_gather(float *v, const float *x, const uint32_t *pos, uint32_t k);
void tw_index_add(float *y, const uint32_t *pos, const float *v, uint32_t k);

#endif
