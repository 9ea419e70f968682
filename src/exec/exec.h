/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where arithmetic runs: the CPU versions of the kernels that a plan names. Works on the arena that the plan laid out.
 */
#ifndef TW_EXEC_H
#define TW_EXEC_H

#include "collectives/plan.h"
#include "exec/kernels.h"

/* ---- frames on the wire: frame.c ---- */
typedef struct tw_stamp { /* what all frames of one op share */
    uint64_t plan;
    uint32_t step;
    uint8_t epoch; /* commits and resets so far, modulo 256: tells a rank that discarded alone */
} tw_stamp;
enum { TW_FRAME_POISON = 1 }; /* header flags */
#define TW_MAGIC 0x57495754u  /* "TWIW" */

typedef struct tw_trailer1 { /* per run, little endian, 12 bytes, or 16 */
    uint32_t flags;
    float x_norm, e_norm; /* rounded up */
    float before;         /* of a gather: errors so far, from the owner */
} tw_trailer1;
enum { TW_RUN_NONFINITE = 1, TW_RUN_ABSENT = 2 };

typedef struct tw_trailer2 { /* per run, 8 bytes */
    uint32_t code; /* 0, TW_CODE_ABSENT, or 1 + rank of the first NaN or Inf (of the owner, if the sum overflowed) */
    float bound;   /* on ||applied so far - exact so far|| over the run */
} tw_trailer2;
#define TW_CODE_ABSENT 0x80000000u

/* Writes the header in front of len - TW_HEADER_BYTES bytes that are there already. */
void tw_frame_seal(uint8_t *frame, uint32_t len, uint32_t hop, uint32_t index, tw_stamp s, uint32_t flags);

/* Everything that a received frame must satisfy before its bytes are used. who: sender. On failure a sentence. */
tw_status tw_frame_check(const uint8_t *frame, uint64_t len, uint32_t hop, uint32_t index, tw_stamp s, int who);
bool tw_frame_is_poison(const uint8_t *frame, uint64_t len);

/* ---- one op's data ---- */
typedef struct tw_cert { /* ledger of the certificate, per tile; tiles of one run share their values */
    uint32_t back;       /* tiles back to the first of that run */
    float acc;           /* rounding (and, without feedback, quantisation) errors so far */
    float bound;         /* as last sent */
} tw_cert;

typedef struct tw_exec_layer {
    const char *name;
    uint64_t name_hash; /* XXH64 */
    uint32_t index;     /* the caller's number of the layer: of two bad ones the smaller is reported */
    uint64_t count;
    tw_dtype dtype;
    tw_spec spec;
    tw_spec
        result;  /* of what the owner makes: spec, but for a reduce-scatter that of plain values, which stay at home */
    bool absent; /* on this rank, in this step */
    bool own_seen;    /* gathering: absence was looked up */
    bool drain;       /* feedback was switched off: send the residual once more and drop it */
    float *e, *e_new; /* residuals, this step's and the next's; NULL without error feedback */
    const float *u;   /* dgc: momentum, NULL: none yet */
    float momentum;   /* ... its factor */
    float *u_new;     /* ... as it becomes, in the place of inputs once it is formed; NULL: another feedback */
    bool formed;
    tw_cert *cert, *cert_new; /* per tile; NULL: not certified (stateless) */
    double bound_sq;          /* out: of this op's runs */
    double joint;             /* out: what a native sum of payloads adds to the error, over all ranks' tiles together */
    bool stale;               /* out, likewise: some tiles stand as before the step, so does their bound */
    bool all_absent;          /* out: on every rank */
    bool kept; /* out: some residual stayed as it was (absent here, NaN, Inf): there is still something to drain */
    /* linear plans: this rank's squares, flags and earlier errors in own tiles, for the notes; the layer's bound before the
     * step, squared; then the verdict. */
    double x_sq, e_sq, fold_sq, before_sq, last_sq, gained_sq;
    double out_sq, left_sq; /* of the result, where its dtype rounds it; of this rank's left factor */
    uint64_t values;
    uint32_t overflow, code; /* as in tw_trailer2 */
    bool flagged;
    /* Matrices: the left factor of the last step (NULL: begin anew), and where this step's goes (NULL: nobody keeps it). */
    const float *left;
    float *left_new;
    bool broken; /* a sum was not finite: all ranks see it, and leave the rest out */
} tw_exec_layer;

/* Of a tile of a layer whose k largest are kept. */
typedef struct tw_kept_of {
    uint64_t first; /* its entries in the list of the layer and hop */
    uint32_t count;
    double rest; /* sum of squares of what is not kept */
} tw_kept_of;
typedef struct tw_exec_part { /* of a sparse layer */
    tw_cut cut[2];            /* threshold: at each hop, with all ties */
    uint64_t nsum, summed;    /* exact: sums aside so far; tiles that are summed */
    uint32_t floor;           /* ... what is not above it is not set aside */
    bool any;                 /* some rank has it: there are sums */
    uint64_t sent;            /* payload bytes of this rank */
} tw_exec_part;
typedef struct tw_picks tw_picks;
typedef struct tw_run_sum tw_run_sum;
typedef struct tw_reader tw_reader;

typedef struct tw_exec_piece {
    uint32_t layer;
    uint64_t first, count;
    const void *in;
    void *out;
} tw_exec_piece;

typedef struct tw_exec {
    tw_ctx *ctx;
    const tw_plan *plan;
    const tw_kernels *k;
    tw_exec_layer *layer;   /* [nlayer of the op] */
    tw_exec_piece *piece;   /* sorted by layer, then position */
    const uint32_t *piece0; /* first piece of each layer [nlayer + 1] */
    uint32_t nlayer, npiece;
    uint8_t *arena;
    float **scratch;       /* native: per piece, work area where no output was given; made when needed */
    uint32_t *cursor;      /* [size]: position in each peer's payload */
    const uint8_t **part;  /* [size]: scratch, what each rank sent of a tile */
    float *tile;           /* 4 tiles of scratch, 64-byte aligned */
    float *rows;           /* [plan->unit_values], where a unit of rows is not in one place; NULL: no matrix */
    tw_exec_part *part_of; /* sparse layers [nlayer]; from here on NULL where the plan has none */
    tw_picks *picks;
    float *aside;          /* [tw_plan_aside]: a sample, or what may turn out to be kept */
    uint16_t *aside_place; /* [tw_plan_aside]: in its tile */
    float *kept;           /* [plan->kept_room]: what is kept of layers whose k largest are */
    uint16_t *kept_place;  /* [plan->kept_room] */
    tw_kept_of *kept_of;   /* [plan->part_tiles] */
    uint32_t *flagged;     /* bits of tiles: NaN or Inf, in what this rank sends of them or as their owner */
    tw_run_sum
        *sums; /* of own runs, between their sum and the answer, or of all of a gather [plan->nrun - plan->own_run] */
    tw_reader *reader; /* in each rank's spans of a run [size] */
    tw_stamp stamp;
    uint32_t draw; /* of random numbers: the step, or without steps the op's number; the same on all ranks */
    float input_scale;
    tw_redop redop;
    tw_nonfinite nonfinite;
    int32_t nan_layer;           /* fault plan: this layer's first value becomes NaN; -1 */
    int32_t bad_layer, bad_rank; /* out: first NaN or Inf of the op, -1 */
} tw_exec;

/* Runs one COMPUTE action. *len: bytes of the frame that it made (ENCODE, REDUCE), else 0. */
tw_status tw_exec_run(tw_exec *x, const tw_action *a, uint32_t *len);
/* A frame arrived for this RECV action: checks it. Its bytes are untrusted until this says TW_OK. */
tw_status tw_exec_accept(tw_exec *x, const tw_action *a, uint64_t len);
/* Bytes of the frame that a SEND action sends. */
uint32_t tw_exec_frame_bytes(const tw_exec *x, const tw_action *a);
/* The array that a NATIVE action sums in place. */
tw_status tw_exec_native(tw_exec *x, const tw_action *a, float **buf, uint64_t *count);

/* ---- inside exec/ ---- */
/* Makes the momentum of a layer under dgc, all of the op's values, if that was not done yet. */
void tw_form_input(tw_exec *x, uint32_t layer);
void tw_keep_momentum(const tw_exec_layer *l, uint64_t at, uint64_t n); /* as it was, where there is any */
/* By what values from the following are to be multiplied. */
static inline float tw_scale_of(const tw_exec *x, const tw_exec_layer *l) {
    return l->u_new ? 1.0f : x->input_scale;
}
/* Values of a tile, as fp32: the user's memory itself where it can be, else gathered into buf. */
const float *tw_tile_load(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, float *buf);
void tw_tile_store(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, const float *y);
/* The same of any values, in the layer's dtype where they lie together and aligned (else NULL), or as fp32. */
const void *tw_values_at(const tw_exec *x, uint32_t layer, uint64_t at, uint32_t n);
void tw_values_load(const tw_exec *x, uint32_t layer, uint64_t at, uint32_t n, float *to);
void *tw_values_target(const tw_exec *x, uint32_t layer, uint64_t at, uint32_t n, bool *wanted);
void tw_values_store(const tw_exec *x, uint32_t layer, uint64_t at, uint32_t n, const float *y);
/* Where decoded fp32 values may go straight to: the output, if it is one aligned fp32 run; else NULL. wanted: any
 * output. */
float *tw_tile_target(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, bool *wanted);
/* n values of dtype t at any address to fp32 and back. */
void tw_widen(const tw_kernels *k, float *dst, const uint8_t *src, uint32_t n, tw_dtype t);
void tw_narrow(const tw_kernels *k, uint8_t *dst, const float *src, uint32_t n, tw_dtype t);
/* Random numbers of a tile; zeros where the spec wants none. Hops are counted from 1; 0: an array by itself. */
tw_noise tw_noise_of(const tw_spec *s, uint64_t name_hash, uint32_t draw, uint32_t rank, uint32_t hop, uint64_t tile);
/* ... of a tile that this rank encodes in a hop. */
tw_noise tw_tile_noise(const tw_exec *x, const tw_exec_layer *l, uint64_t tile, uint32_t hop);
/* ... for decoders; zeros where they need none. */
tw_noise tw_shared_noise(const tw_exec *x, const tw_exec_layer *l, uint64_t tile);
/* Encodes for hop 2 with the residual taken against what receivers will store. */
void tw_owner_encode(tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n, const float *sum, float scale, void *dst,
                     tw_tile_stat *stat);
float tw_norm_up(double sum_sq); /* sqrt, rounded up to fp32, over the 2^-16 that sums of squares are exact to */
float tw_float_up(double v);     /* v >= 0; unchanged if it is a float */
/* Certificate ledger (cert.c): what the tiles [first, first+n) had before. */
void tw_cert_read(const tw_cert *c, uint64_t first, uint32_t n, double *acc, double *bound);
void tw_cert_write(tw_cert *c, uint64_t first, uint32_t n, float acc, float bound);

#endif
