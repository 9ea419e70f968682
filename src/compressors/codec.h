/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The tile contract. A codec is one file (bounds and traits) and one row of the table; its loops are in
 * kernels/ref/NAME.inc (the rules, in plain C) and kernels/rows/NAME.inc (for all vector ISAs, in the steps of
 * kernels/ISA/vec.inc), instantiated by exec once per feedback (template inclusion).
 *
 * A tile is up to 4096 consecutive values of one layer, anchored to the layer. Payload bytes depend on the values, the
 * spec and nothing else: every ISA writes the same ones. */
#ifndef TW_CODEC_H
#define TW_CODEC_H

#include "core/core.h"

/* How a payload may be reduced (design §4). */
enum {
    TW_TRAIT_TILED = 1,
    TW_TRAIT_LINEAR = 2,
    TW_TRAIT_FIXED_RATE = 4,
    TW_TRAIT_EXACT = 8,
    TW_TRAIT_SPARSE = 16,
    TW_TRAIT_ADDS = 32, /* the payload is fp32 values, and those of a sum are the sums */
    TW_TRAIT_LOWRANK = 64
};
/* Random numbers: none, of their own for every rank and hop, or the same for all, so that decoders know them, too. */
typedef enum tw_draws { TW_DRAWS_NONE, TW_DRAWS_OWN, TW_DRAWS_SHARED } tw_draws;
tw_draws tw_spec_draws(const tw_spec *s);

typedef struct tw_codec {
    const char *name;
    uint16_t wire_id, wire_version;
    uint32_t (*traits)(const tw_spec *s); /* of payloads of this spec */
    /* Payload bytes of one tile of n values (n <= TW_MAX_TILE) of a layer of dtype t; a multiple of 4; 0 for n = 0. */
    uint32_t (*bytes)(const tw_spec *s, uint32_t n, tw_dtype t);
    /* Others, instead: the most that an array of n values can take. */
    uint64_t (*most)(const tw_spec *s, uint64_t n, tw_dtype t);
    /* Quantisations of one encode: 0 for exact codecs in that dtype, else 1. */
    uint32_t (*roundings)(const tw_spec *s, tw_dtype t);
    /* Optional, for reports: name of part i of the payload of `count` values (tile after tile; `bytes` of it at payload),
     * and in *part its bytes; NULL behind the last. What padding takes may be left out. */
    const char *(*part)(const tw_spec *s, uint64_t count, tw_dtype t, const void *payload, uint64_t bytes, uint32_t i,
                        uint64_t *part);
} tw_codec;

/* What codecs of fixed rate that lose something, and whose payloads do not add, say of themselves. */
uint32_t tw_rounds_once(const tw_spec *s, tw_dtype t);
uint32_t tw_traits_tiled(const tw_spec *s);

#define TW_DECLARE_CODEC(id, word) extern const tw_codec tw_codec_##word;
TW_CODEC_LIST(TW_DECLARE_CODEC)
const tw_codec *tw_codec_get(uint32_t id); /* NULL if unknown */
bool tw_codec_is_sparse(const tw_spec *s);
/* TW_ERR_UNSUPPORTED for a codec that only an allreduce has. what: which collective asks. */
tw_status tw_codec_check_owned(const tw_spec *s, const char *what);

/* ---- sparse layers in plans: sparse.c ---- */
#define TW_SPAN_KEPT  TW_MAX_TILE /* a span's kept values are one tile for their codec */
#define TW_LOOK_SLACK 16u         /* vectors may write past the last value that is set aside */
/* How many of n are wanted: density * n, to nearest, one at least; 0 of 0. */
uint64_t tw_sparse_wanted(const tw_spec *s, uint64_t n);
/* The most that spans of n values can take together, `kept` of them kept, where `ends` of them may have to end early. */
uint64_t tw_spans_most(const tw_spec *s, uint64_t n, uint64_t kept, uint64_t ends);

/* ---- in frames ----
 * A stretch is so many consecutive tiles, counted from the layer's first one, that about TW_STRETCH_KEPT values are kept of
 * them. Frames are cut between stretches and spans end with them, so what is sent does not depend on frames. */
#define TW_STRETCH_KEPT   1024u
#define TW_STRETCH_VALUES (1u << 24) /* at most */
uint64_t tw_stretch_tiles(const tw_spec *s, uint32_t tile);
/* About how many of n values are kept: the number that frames are planned with; of groups, no more than this. */
uint64_t tw_sparse_expected(const tw_spec *s, uint64_t n);
/* About what a stretch of n values takes. */
uint64_t tw_stretch_bytes(const tw_spec *s, uint64_t n);

/* ---- low-rank codecs: powersgd.c; lowrank.h has what they compute ----
 * Values that factors of `count` values take, seen as rows of `cols`: rank * (rows + cols); 0 where that saves nothing (a
 * vector, a short row, cols = 0 or no divisor of count): then the values go as fp32 as they are. */
uint64_t tw_lowrank_values(uint32_t rank, uint64_t count, uint64_t cols);
bool tw_codec_is_lowrank(const tw_spec *s);

/* Where a tile's random numbers come from, for specs that draw any: Philox4x32 with this key and counter {block of the
 * tile, tile low, tile high, 0}. The key stands for seed, step, layer, rank and hop; shared ones leave out the last two. */
typedef struct tw_noise {
    uint32_t key[2], tile[2];
} tw_noise;

/* One tile on its way out: x[i] = g[i] * scale + e[i] (two roundings, never fused). */
typedef struct tw_enc {
    const float *g; /* n values, any 4-byte alignment */
    const float *e; /* residual, 64-byte aligned; NULL where the variant reads none */
    float *out;     /* ef: the new residual x - decoded; recon: the decoded values; 64-byte aligned; none: unused.
                     * Overlaps neither g nor e */
    float scale;
    uint32_t n;     /* 1 .. TW_MAX_TILE */
    tw_dtype dtype; /* of the layer: what `none` packs */
    void *dst;      /* payload, 4-byte aligned; exactly codec->bytes() are written, padding as zeros */
    tw_noise noise; /* where the spec draws; else not looked at */
    bool part;      /* of a sum that is encoded once more: unbiased randk scales then, and not twice */
} tw_enc;

/* Encode. ALWAYS fills stat: x_sq and e_sq are the sums of squares of x and of x - decoded; nonfinite = 1 when any x or
 * any decoded value is NaN or Inf: then x_sq and e_sq are 0, and the payload decodes to NaN or Inf for at least those
 * values (out is then unspecified: the caller restores it). Order of every sum of squares: per 1024 values 32 lanes x
 * 32 rows in fp32 (lane l, row r = value 32r+l; short tail padded with +0), lanes halved 16,8,4,2,1; these segment sums
 * are added up in double, in order. If that total is not within [2^-90, 2^120], it is computed again in double: serial
 * over the values, each squared in double. */
typedef void (*tw_encode_fn)(const tw_spec *s, const tw_enc *a, tw_tile_stat *stat);
/* noise: as the encoder's, for codecs whose random numbers are shared; others may be given any. */
typedef void (*tw_decode_fn)(const tw_spec *s, tw_dtype t, const void *src, float *y, uint32_t n,
                             const tw_noise *noise);

/* What the ranks that have the layer sent of one tile, in rank order. */
typedef struct tw_parts {
    const uint8_t *const *payload; /* [n]; NULL where the owner's own raw values stand */
    uint32_t n;
    const float *own; /* the values of the tile, any 4-byte alignment; NULL: the owner lacks the layer */
    float own_scale;
    float *sum;    /* scratch: TW_MAX_TILE values, 64-byte aligned */
    double own_sq; /* out: sum of squares of own, in the order of stat's */
} tw_parts;

/* Optional: the owner's tile in one go. a->g is p->sum; payload, out and stat as the ef encoder makes them from what
 * decode_set (or g * own_scale), then decode_add (or += g * own_scale) leave there, bit for bit. False: a sum left the
 * range in which fp32 is safe, or was not finite; the caller goes the long way, and dst and out hold nothing. */
typedef bool (*tw_reduce_fn)(const tw_spec *s, const tw_enc *a, tw_parts *p, tw_tile_stat *stat);

/* ---- payloads, version 1 ----
 * none    n values in the layer's dtype, padded with zeros to 4 bytes
 * cast    n halves of spec->type, padded with zeros to 4 bytes; NaN canonical. fp8: ceil(n/group) fp32 scales, then n
 * codes of a byte (OCP E4M3 or E5M2; sign bit highest), padded with zeros to 4. With a = max |x| of the group and M the
 * type's largest value (448, 57344): scale = a / M, code = that of x * (M / a), to nearest even; decoded = value(code) *
 * scale, so a itself is within rounding. 0 < a < 2^-100: scale = 2^k, k = max(floor(log2 a) - 7, -140), E5M2 max(.. -
 * 14, -133), code = that of (x * 2^64) * 2^(-k-64). a = 0: scale 0, codes 0 and, for -0, 0x80. A group with NaN or Inf in
 * x: scale 0x7fc00000, codes 0.
 * onebit  ceil(n/group) fp32 scales, then ceil(n/8) bytes, padded to 4: bit i%8 of byte i/8 is set where x[i]'s sign
 * bit is set (NaN: clear). decoded = -scale where the bit is set, else +scale. mean: scale = (sum |x|) / m over the
 * group's m values; rms: sqrt((sum x*x) / m), IEEE division and sqrt. Sum order: segments of 1024 = 32 lanes x 32 rows
 * (a group under 1024: one segment of 32 lanes x group/32 rows; tail padded with +0); lane l of segment g is serial
 * over its rows; segments are added pairwise (1 segment: s0; 2: s0+s1; 4: (s0+s1)+(s2+s3)) lane by lane; then lanes are
 * halved 16, 8, 4, 2, 1. Where that sum is not finite although all x are, or (rms) is below 2^-90 although some x is
 * not zero, the sum is taken again over x * 2^k, k chosen from the group's largest |x| (see kernels/ref/onebit.inc),
 * and undone after. A group with NaN or Inf in x gets the scale 0x7fc00000 (all of it decodes to NaN).
 * quant   a fp32 scale for each group (minmax: then a fp32 centre for each), then codes in one plane (8, 4, 2 bits) or
 * two (6: the lower 4, the upper 2; 3: the lower 2, the upper 1). A plane has whole rows of 32 values, codes behind the
 * end are 0; a row has 4w bytes for codes of w bits: byte j has the codes of values j, j + 4w, j + 8w, ... from its low
 * bits on; with w = 1 instead bit i of the row is value i. decoded, of code c and b bits:
 *   absmax; mse of 8 and 6 bits   (c - 2^(b-1)) * scale
 *   minmax                        centre + (c - (2^b - 1) / 2) * scale
 *   mse of 4, 3 and 2 bits        table[c mod 2^(b-1)] * scale, held at FLT_MAX; negative where bit b-1 is set
 * scale: absmax max|x| / {127, 31, 7, 3, 2}; minmax (most - least) / (2^b - 1), centre = least / 2 + most / 2; mse mean
 * |x| as in onebit, of 8 and 6 bits absmax's or, where less of the group's energy is lost, max|x| / (L + m / (32 L)), L = 127, 31, of m values. The code is the nearest to y = x * (1 / scale) (minmax:
 * (x - centre) * (1 / scale) + (2^b - 1) / 2) in fp32, ties to even, held to the levels (+-127, 31, 7, 3, 1; minmax 0 ..
 * 2^b - 1). Tables: x is negative where x < 0, and the level is the number of borders that |x| is above: l[k] + (l[k+1]
 * - l[k]) / 2, l = table * scale. Groups whose size (max|x|, of tables the sum of |x|) is not 0 and not in
 * [2^-80, 2^110]: see kernels/ref/quant.inc. NaN or Inf in x: scale 0x7fc00000, centre 0, codes 0.
 * stochastic: d = (r - 127.5) / 256 is added to y before it is held; in tables the border is l[k] + (l[k+1] - l[k]) *
 * (d + 1/2), and x is negative where x < l[0] * 2d. r: byte (i / 32 mod 4) of word (i / 128 mod 4) of Philox4x32-7 with
 * counter {32 (i / 512) + i mod 32, tile, 0}, for value i of the tile.
 * hadamard: all this of z = H(s x / sqrt(m)) instead of a group's x, and x decodes to s H(z) / sqrt(m): ref/quant.inc.
 * twosided: a group has two fp32, what a clear and what a set bit decode to: p = S+ / m+ and 0 - S- / m-. S+ sums x of
 * the m+ values with sign bit clear, S- |x| of the m- others, in the order above with +0 for the values of the other
 * side; a side without values has +0 (so neither is ever -0). A sum that is not finite is taken again as above, with k
 * from the side's largest |x|. NaN or Inf in x: both 0x7fc00000.
 * ternary ceil(n/group) fp32 scales, then the signs as onebit has them, then ceil(n/8) bytes, padded to 4: the bit of a
 * value is set where it is kept. decoded = +0 where it is clear, else -scale or scale by the sign's bit, which is clear
 * where nothing is kept. nearest: kept is what has |x| > t, t = 0.767f * (mean |x|), mean as
 * onebit's, and 0 where that is not below the mean; scale = (sum of the kept
 * |x|) / their number, with +0 for the others, in onebit's order; taken again if not finite as twosided's; 0 if none is
 * kept. stochastic: scale = max |x|; kept is what has |x| > scale * ((255.5 - byte) / 256), bytes of noise as quant's. A
 * group with NaN or Inf in x: scale 0x7fc00000, all kept, signs clear.
 * randk   m fp32 values, m = density * n to nearest, one at least: those at the positions (below), as they are or
 * (unbiased, and not part) times (float)n / (float)m. decoded = 0 elsewhere. NaN or Inf in x or in what was scaled: m times
 * 0x7fc00000; where the first value is NaN all n decode to 0x7fc00000. Position i, 0 <= i < m: with s = ceil(n * 2^16 / m)
 * the stratum [l, h), l = i s >> 16, h = (i + 1) s >> 16; p = l + (u_i (h - l) >> 32) + (t n >> 32), less n if that is n or
 * more. u_i: word i / 32 mod 4 of Philox4x32-7 with counter {32 (i / 128) + i mod 32, tile, 0}; t: word 0 of counter {0,
 * tile, 1}; all of the shared key. */

#endif
