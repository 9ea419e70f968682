/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A collective is data: a plan is a list of actions with dependencies over frames. Builders (a file each) make
 * plans; one runner (run.h) executes every one of them. A plan depends on layers, specs, rank, number of ranks and
 * options only, never on addresses, time or what arrives. */
#ifndef TW_PLAN_H
#define TW_PLAN_H

#include "compressors/codec.h"

__extension__ typedef unsigned __int128 tw_u128; /* products of 64-bit positions and rank counts */

/* ---- on the wire (docs/wire-format.md) ---- */
#define TW_WIRE_VERSION   1u
#define TW_HEADER_BYTES   32u
#define TW_TRAILER1_BYTES 12u /* per run behind a hop-1 payload: flags, ||x||, ||e|| */
#define TW_TRAILERG_BYTES 16u /* ... of a gather: also its owner's errors so far */
#define TW_TRAILER2_BYTES 8u  /* per run behind a hop-2 payload: code, bound */

#define TW_MOST_FRAMES (1u << 24) /* of one op; 1 TiB of payload in frames of 64 KiB */

#define TW_SLOW_LINK 140000000u /* bytes/s as creation measures them: 1 Gbit/s gave 70-113 MB/s, 2.5 Gbit/s 163-240 */

/* Consecutive tiles of one layer inside one frame. */
typedef struct tw_tiles {
    uint32_t layer;  /* index in the op */
    uint32_t n;      /* tiles */
    uint64_t first;  /* tile */
    uint32_t bytes;  /* payload if the layer is there; of a sparse one about */
    uint32_t answer; /* of the owner's answer: the same, but for a reduce-scatter a bit for each tile */
} tw_tiles;

typedef struct tw_frame {
    uint32_t run0, nrun;
    int32_t owner;
    uint32_t payload;                   /* bytes, all runs present; of sparse runs about */
    uint32_t answer;                    /* likewise, of the owner's answer */
    uint32_t payload_room, answer_room; /* at most */
    uint32_t values;                    /* of sparse runs */
    bool sparse;                        /* all its runs are: they have no fixed length */
    uint32_t home;      /* reduce-scatter: bytes of the sums, which stay at home in the layer's dtype; of
                                         * sparse runs they have a place in tw_plan_part */
    uint64_t home_at;   /* arena */
    uint64_t hop1_at;   /* arena: where this rank encodes it; linear: the payload */
    uint64_t arrive_at; /* the first peer's arrival, at the owner; of a gather at all ranks */
    uint64_t hop2_at;   /* arena: the owner's answer */
    uint32_t hop1_cap, hop2_cap;
    uint32_t index;       /* among its owner's frames */
    uint32_t hop1_stride; /* distance between the peers' arrivals */
} tw_frame;

typedef enum tw_act { TW_A_COMPUTE, TW_A_SEND, TW_A_RECV, TW_A_NATIVE } tw_act;
typedef enum tw_kernel {
    TW_K_ENCODE,   /* frame: prepare, encode and residual of a foreign owner's tiles */
    TW_K_REDUCE,   /* frame: sum the ranks in rank order, owner residual, encode the answer */
    TW_K_VERDICT,  /* all frames are here: look for NaN, add up the certificate; nothing is written before it */
    TW_K_DECODE,   /* frame, or behind them a unit of rows: write the output */
    TW_K_PRESCALE, /* piece: output = input * scale, before a native sum */
    TW_K_POSTSCALE,
    TW_K_AGREED,  /* after the first native sum of an op, of TW_AGREEMENT: do all ranks mean the same op? */
    TW_K_BARRIER, /* nothing; orders stages where overlap is off */
    TW_K_PUBLISH, /* frame: encode what this rank alone has, for all */
    TW_K_SELECT,  /* sparse layer: which values are kept, of what it sends (hop 1) or of its own part's sums (hop 2) */
    TW_K_ANSWER,  /* sparse frame, which REDUCE only sums: encode the answer */
    TW_K_START,   /* matrix: the left factor that a round begins with */
    TW_K_RIGHT,   /* unit of rows: what it adds to the right factor; units of a matrix in order */
    TW_K_ORTHO,   /* matrix: its right factor, summed, becomes orthonormal */
    TW_K_LEFT,    /* unit of rows: its left factor and, in the last round, what is lost */
    TW_K_COUNT
} tw_kernel;

/* "Piece" of a native action that sums a digest of the op, at the arena's begin, before any user memory is touched. */
#define TW_AGREEMENT    UINT32_MAX
#define TW_PAYLOADS     (UINT32_MAX - 1)       /* likewise, of a linear plan: its sum number `hop` */
#define TW_AGREE_DIGITS 16u                    /* of 4 bits */
#define TW_AGREE_VALUES (2u * TW_AGREE_DIGITS) /* fp32: the digits, their squares */

/* Notes of a linear plan, for each layer of the op, behind what is summed last: one bit a rank for NaN or Inf, then for absence,
 * 24 bits to a value, whose sum is exact; and norms, rounded up: what is held, all that was rounded, earlier errors. */
#define TW_NOTE_BITS 24u
enum { TW_NOTE_HELD, TW_NOTE_ROUNDED, TW_NOTE_BEFORE, TW_NOTE_NORMS };
static inline uint32_t tw_note_words(int size) {
    return (uint32_t)tw_ceil_div((unsigned)size, TW_NOTE_BITS);
}
static inline uint32_t tw_notes_of(int size) {
    return 2 * tw_note_words(size) + TW_NOTE_NORMS;
}

typedef struct tw_action {
    uint8_t act, kernel, hop;
    int32_t peer;
    uint32_t frame;       /* or piece */
    uint32_t ndep;        /* actions that must be done first */
    uint32_t succ, nsucc; /* into plan.succ */
    uint32_t then;        /* may be handed out once this one was: order of frames between two ranks; 0: none */
    uint32_t cap;         /* transfer: room */
    uint64_t at;          /* transfer: arena offset */
} tw_action;

typedef enum tw_kind { TW_KIND_ALLREDUCE, TW_KIND_REDUCE_SCATTER, TW_KIND_ALLGATHER, TW_KIND_BROADCAST } tw_kind;

typedef struct tw_plan_layer {
    const char *name;
    uint64_t count;        /* of the whole layer */
    uint64_t first, tiles; /* tiles that the op covers */
    tw_dtype dtype;
    tw_spec spec;
    uint32_t pinned; /* 0: owned by name; else 1 + the rank that owns the first shard */
    uint32_t block;  /* blocks share a name, but not their random numbers */
    uint64_t shard;  /* pinned: tiles of a shard, one for each rank from there on; 0: that rank owns all */
    uint64_t cols;   /* of a matrix, whose rows lie one after another; 0: none */
} tw_plan_layer;

typedef struct tw_plan_piece {
    uint32_t layer;
    uint64_t first, count;
} tw_plan_piece;

/* Of a sparse layer of an op. */
typedef struct tw_plan_part {
    uint64_t base, all; /* tiles of the op */
    uint64_t first,
        tiles;         /* whose answer this rank makes; it selects of the others for hop 1 (gather: of all), of these
                            * for hop 2 */
    uint64_t home_at;  /* arena: their sums, where no residual takes them in or they stay at home */
    uint64_t flags_at; /* word of the bits of the op's tiles, in tw_exec.flagged */
    uint64_t tiles_at; /* ... and of what is told of each, in tw_exec.kept_of */
    uint64_t keeps[2], kept_at[2]; /* exact: so many are kept at each hop; their place in tw_exec.kept */
    uint64_t sums_at, sums_room;   /* exact: place in tw_exec.aside for sums, set aside as they are made; 0: none */
} tw_plan_part;

/* A layer that goes as two factors (lowrank.c). */
typedef struct tw_plan_matrix {
    uint32_t layer, rank;
    int32_t owner;        /* of its first tile */
    uint32_t first_round; /* it takes part from there to the last one */
    uint32_t unit, nunit; /* its rows */
    uint64_t rows, cols;
    uint64_t right_at, left_at; /* arena: rank vectors of cols values; rows x rank */
    uint64_t own_first, own_n;  /* values that this rank owns */
} tw_plan_matrix;
typedef struct tw_plan_unit { /* consecutive rows */
    uint32_t matrix;
    uint64_t first, n;
} tw_plan_unit;
typedef struct tw_plan_sum { /* of fp32 values, in the arena */
    uint64_t at, values;
} tw_plan_sum;

typedef struct tw_plan_in {
    int me, size;
    const tw_plan_layer *layer;
    uint32_t nlayer;
    const tw_plan_piece *piece;
    uint32_t npiece;
    tw_kind kind;
    int root;     /* of a broadcast, else 0 */
    bool told;    /* reduce-scatter: all ranks hear what became of all tiles; residuals and verdicts need that */
    tw_algo algo; /* an allreduce has the choice, else SRA */
    tw_redop redop;
    uint32_t tile, frame_bytes, in_flight; /* frame_bytes, in_flight 0: chosen */
    uint64_t link_rate;                    /* bytes/s into a rank, the same on all; 0: not known */
    bool no_overlap;
} tw_plan_in;

typedef struct tw_plan {
    tw_ctx *ctx;
    uint64_t hash; /* of everything that ranks must agree on */
    int me, size;
    tw_kind kind;
    bool told, linear, gather;
    uint32_t tile, nrun, nframe, naction, nsucc, hops, roundings;
    tw_tiles *run;
    tw_frame *frame;
    tw_action *action;
    uint32_t *succ;
    tw_plan_part *part; /* [nlayer]; NULL: no layer is sparse */
    uint32_t nlayer;
    uint32_t own_run;    /* the first of the frames that this rank sums */
    uint64_t aside_room; /* values that a selection looks at closely, and behind them */
    uint64_t sums_room;  /* ... those of sums, by layer */
    uint64_t kept_room;  /* that selections keep */
    uint64_t part_tiles; /* of sparse layers */
    uint64_t flag_words;
    uint64_t arena_bytes;
    uint64_t payload_bytes, wire_bytes, sends; /* of this rank, all layers present; of sparse ones about */
    uint64_t native_bytes;
    tw_plan_sum *sum;  /* [nsum] linear: native sums of payloads, in order */
    uint64_t notes_at; /* linear: arena */
    tw_plan_matrix *matrix;
    tw_plan_unit *unit;
    uint32_t nsum, nmatrix, nunit;
    uint64_t unit_values; /* of the largest unit */
} tw_plan;

tw_status tw_plan_build(tw_ctx *ctx, const tw_plan_in *in, tw_plan **out);
void tw_plan_free(tw_plan *p);
/* Bytes of a run's trailer. */
static inline uint32_t tw_trailer_bytes(const tw_plan *p, uint32_t hop) {
    return hop == 2 ? TW_TRAILER2_BYTES : p->gather ? TW_TRAILERG_BYTES : TW_TRAILER1_BYTES;
}
/* A frame of this hop carries spans. What goes back of a reduce-scatter has a fixed length. */
static inline bool tw_has_spans(const tw_plan *p, const tw_frame *f, uint32_t hop) {
    return f->sparse && (hop == 1 || p->kind != TW_KIND_REDUCE_SCATTER);
}
static inline uint64_t tw_plan_aside(const tw_plan *p) {
    return p->aside_room + p->sums_room;
}
uint64_t tw_plan_bytes(const tw_plan *p);    /* of memory, without the arena */
uint64_t tw_plan_crossing(const tw_plan *p); /* bytes that all ranks send together: SRA and linear plans */

/* (XXH64(name) + floor(tile * size / tiles)) mod size: a function of nothing else (contract 3). */
int tw_owner_of(uint64_t name_hash, uint64_t tile, uint64_t tiles, int size);
uint64_t tw_layer_tiles(uint64_t count, uint32_t tile);
/* Values of a tile: the tile size, or what is left at the layer's end. */
static inline uint32_t tw_tile_len(uint64_t count, uint32_t tile, uint64_t t) {
    uint64_t left = count - t * tile;
    return left < tile ? (uint32_t)left : tile;
}
/* Bytes with a bit for each of n tiles: words of 32. */
static inline uint32_t tw_tile_bits(uint64_t n) {
    return (uint32_t)tw_ceil_div(n, 32) * 4;
}
uint64_t tw_tiles_bytes(const tw_plan_layer *l, uint32_t tile, uint64_t first, uint64_t n);
uint64_t tw_tiles_values(uint64_t count, uint32_t tile, uint64_t first, uint64_t n);

/* ---- inside collectives/ : what builders use ---- */
typedef struct tw_builder {
    tw_plan *p;
    const tw_plan_in *in;
    tw_ctx *ctx;
    uint32_t cap_action, cap_edge, nedge;
    uint32_t (*edge)[2]; /* before, after */
    tw_status status;    /* first failure; later calls do nothing */
} tw_builder;
uint32_t tw_build_action(tw_builder *b, tw_action a);
void tw_build_after(tw_builder *b, uint32_t action, uint32_t earlier);
/* Frames of one hop between two ranks are posted in plan order, so they need no number of their own. */
void tw_build_in_stream(tw_builder *b, uint32_t *last, uint32_t action);
void *tw_build_grow(tw_builder *b, void *old, uint32_t *cap, uint32_t need, size_t item);
void tw_build_sra(tw_builder *b);
void tw_build_gather(tw_builder *b);
void tw_build_reduce_scatter(tw_builder *b);
void tw_build_allgather(tw_builder *b);
void tw_build_broadcast(tw_builder *b);
void tw_build_native(tw_builder *b);
/* sparse.c: what a plan with sparse layers has beside frames; `first`: as tw_build_frames returns it. */
void tw_build_parts(tw_builder *b, const uint32_t *first);
/* The tiles of a layer that this rank answers for: those that it owns; at the root of a broadcast all. */
uint64_t tw_answered_tiles(const tw_plan_in *in, const tw_plan_layer *l, uint64_t *first);
/* frames.c: the tiles of a layer that an owner has of the op, one range. */
uint64_t tw_owned_tiles(const tw_plan_in *in, const tw_plan_layer *l, int owner, uint64_t *first);
void tw_build_linear(tw_builder *b);
/* linear.c: the frames of layers whose payloads add, by themselves; where the payloads lie, from `at` on: returns the end. */
void tw_build_units(tw_builder *b);
uint64_t tw_build_payloads(tw_builder *b, uint64_t at);
void tw_build_sums(tw_builder *b, uint32_t n); /* room for them */
void tw_build_lowrank(tw_builder *b);
static inline bool
tw_is_matrix(const tw_plan_layer *l) { /* those that factors would not make shorter are `none` here */
    return tw_codec_is_lowrank(&l->spec);
}
/* native.c: the digest's sum and its check, for which the first sum of an op waits. */
uint32_t tw_build_agreement(tw_builder *b);
/* frames.c: cuts each owner's tiles into frames of about frame_bytes; returns first frame index per owner [size+1]. */
uint32_t *tw_build_frames(tw_builder *b, uint32_t frame_bytes);
#endif
