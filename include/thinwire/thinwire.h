/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Thinwire: compressed collectives for distributed training. The stable API.
 *
 * Order of use:   context (optional) -> communicator -> reducer -> per step: begin, push or post, end.
 * Thread-safety is stated per handle. Every function that can fail returns a tw_status; on failure a sentence that
 * names layer, rank and value is in tw_last_error(), outputs are not set, and state is as before the call. A step that
 * fails leaves residuals as before; the user's outputs are written op by op, each whole or not at all: those of an op
 * that was complete when another one failed are written. */
#ifndef THINWIRE_THINWIRE_H
#define THINWIRE_THINWIRE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TW_API __attribute__((visibility("default")))
#else
#define TW_API
#endif

/* Version of this interface. It grows by appending members to structs that carry their size; see docs/design.md for the
 * soname rule. tw_version() gives the version of the library that is loaded: major*10000 + minor*100 + patch. */
#define TW_API_VERSION 1u
TW_API unsigned tw_version(void);
TW_API const char *tw_version_string(void);

/* ---- status: one list makes the enum, the names and the texts ---- */
#define TW_STATUS_MAP(X)                                                                                               \
    X(OK, 0, "success")                                                                                                \
    X(IN_PROGRESS, 1, "not finished yet")                                                                              \
    X(ERR_ARG, -1, "bad argument")                                                                                     \
    X(ERR_NOMEM, -2, "the allocator returned NULL")                                                                    \
    X(ERR_UNSUPPORTED, -3, "not available in this build, transport or codec")                                          \
    X(ERR_MISMATCH, -4, "ranks disagree")                                                                              \
    X(ERR_NONFINITE, -5, "NaN or Inf in the input or in a sum")                                                        \
    X(ERR_CORRUPT, -6, "received bytes are not a valid frame or state")                                                         \
    X(ERR_TIMEOUT, -7, "the deadline passed")                                                                          \
    X(ERR_PEER, -8, "a peer failed or is gone")                                                                        \
    X(ERR_POISONED, -9, "the communicator refuses work after a fault")                                                 \
    X(ERR_TRANSPORT, -10, "MPI, a socket or a transport callback failed")

typedef enum tw_status {
#define TW_X(name, value, text) TW_##name = value,
    TW_STATUS_MAP(TW_X)
#undef TW_X
        TW_STATUS_FORCE_INT = 0x7fffffff
} tw_status;

TW_API const char *tw_status_name(tw_status s); /* "TW_ERR_ARG"; "TW_STATUS_?" for an unknown value */
TW_API const char *tw_status_text(tw_status s); /* "bad argument" */
/* The sentence of this thread's last failed call; "" before any. Valid until the thread's next failing call. */
TW_API const char *tw_last_error(void);

typedef enum tw_dtype { TW_F32 = 1, TW_F16 = 2, TW_BF16 = 3, TW_DTYPE_FORCE_INT = 0x7fffffff } tw_dtype;
typedef enum tw_redop { TW_SUM = 1, TW_AVG = 2, TW_REDOP_FORCE_INT = 0x7fffffff } tw_redop;
TW_API size_t tw_dtype_size(tw_dtype t);        /* bytes of one element; 0 for an unknown type */
TW_API const char *tw_dtype_name(tw_dtype t);   /* "fp32" | "fp16" | "bf16" */

/* ---- codec spec: plain data, canonical, hashed into every plan; text is a second syntax ----
 *
 * text := codec [":" option {"," option}] ["+" feedback [":" option]]
 *   none                                   raw values in the layer's dtype
 *   cast:type=bf16|fp16                    rounded to nearest even
 *   cast:type=fp8e4m3|fp8e5m2,group=N      8 bits and a scale per group of N (512), whose largest value is exact
 *   onebit:group=N,scale=mean|rms|twosided a sign per value and a scale per group of N (128..4096, a power of two;
 *                                          512); mean |x| is least squares (EF-signSGD), rms is 1-bit Adam's;
 *                                          twosided: a mean for each sign (1-bit SGD)
 *   quant:bits=8|6|4|3|2,group=N,          levels of so many bits (8) and a scale per group of N (128..4096; 512);
 *         rounding=nearest|stochastic,     stochastic: up or down at random, right on average;
 *         scale=absmax|minmax|mse,         from max |x|, from least and greatest x, or for the least squared error;
 *         rotate=none|hadamard,seed=N      groups turned by random signs and a Walsh-Hadamard transform; any u32 (0)
 *   ternary:group=N,                       0 or a sign per value and a scale per group of N (128..4096; 512);
 *         rounding=nearest|stochastic,     stochastic: 0 or max |x| at random, right on average (TernGrad);
 *         seed=N                           of its random numbers, any u32 (0)
 *   randk:density=D,                        the share D (0.01) of each tile's values, at random positions that all ranks share;
 *         scale=none|unbiased,             as they are, or divided by the share (for averages without feedback);
 *         seed=N                           of the positions, any u32 (0)
 *   topk:density=D,values=SPEC,             the share D of largest magnitude (0.01) and where they stand; the values through
 *        select=exact|threshold|group,     a codec of fixed rate (none); of the whole array, about, or of each group of N
 *        group=N                           (4096)
 *   powersgd:rank=R,columns=C,              two factors of R (1..128; 4) columns each, of rows of C values (0: as the layer, array
 *            iterations=N,warm_start=0|1,   or file says); N rounds (1..16; 1) from the last step's factor (1) or a random one,
 *            seed=N                         any u32 (0). Allreduces, arrays and files (codec.h); not the other collectives
 *   +none | +ef                            error feedback (EF14): what was dropped is sent later
 *   +decay:beta=B                           the share B (above 0, below 1; 0.95) of it, the rest is forgotten (SparseLoCo)
 *   +dgc:momentum=M                         of topk: ranks send momenta u <- M u + g (M above 0, below 1; 0.9), of which what was
 *                                           sent is cleared (Deep Gradient Compression); what was dropped is sent later */
typedef enum tw_codec_id {
    TW_CODEC_NONE = 1,
    TW_CODEC_CAST = 2,
    TW_CODEC_ONEBIT = 3,
    TW_CODEC_QUANT = 4,
    TW_CODEC_TERNARY = 5,
    TW_CODEC_TOPK = 6,
    TW_CODEC_RANDK = 7,
    TW_CODEC_POWERSGD = 8
} tw_codec_id;
/* Of a cast: TW_F16, TW_BF16 or one of these, which no layer has. */
typedef enum tw_cast_type { TW_CAST_FP8E4M3 = 4, TW_CAST_FP8E5M2 = 5 } tw_cast_type;
typedef enum tw_feedback_id { TW_FEEDBACK_NONE = 1, TW_FEEDBACK_EF = 2, TW_FEEDBACK_DECAY = 3, TW_FEEDBACK_DGC = 4 } tw_feedback_id;
typedef enum tw_scale_id {
    TW_SCALE_MEAN = 1,
    TW_SCALE_RMS = 2,
    TW_SCALE_TWOSIDED = 3,
    TW_SCALE_ABSMAX = 4,
    TW_SCALE_MINMAX = 5,
    TW_SCALE_MSE = 6,
    TW_SCALE_PLAIN = 7,   /* randk: "none" */
    TW_SCALE_UNBIASED = 8
} tw_scale_id;
typedef enum tw_rounding_id { TW_ROUNDING_NEAREST = 1, TW_ROUNDING_STOCHASTIC = 2 } tw_rounding_id;
typedef enum tw_rotate_id { TW_ROTATE_NONE = 1, TW_ROTATE_HADAMARD = 2 } tw_rotate_id;
typedef enum tw_select_id { TW_SELECT_EXACT = 1, TW_SELECT_THRESHOLD = 2, TW_SELECT_GROUP = 3 } tw_select_id;

/* The tiled codec by which a sparse one sends its values; members as in tw_spec. */
typedef struct tw_values {
    uint16_t codec, type, scale, bits, rounding, rotate;
    uint32_t group;
} tw_values;

typedef struct tw_spec {
    uint32_t size;     /* sizeof(tw_spec) */
    uint16_t codec;    /* tw_codec_id: stable wire ids, never reused */
    uint16_t feedback; /* tw_feedback_id */
    uint16_t type;     /* cast: TW_F16, TW_BF16 or a tw_cast_type; else 0 */
    uint16_t scale;    /* onebit, quant, randk: tw_scale_id; else 0 */
    uint32_t group;    /* onebit, quant, ternary, cast to fp8: elements that share one scale; else 0 */
    uint16_t bits;     /* of a value, where a codec has a choice; else 0 */
    uint16_t rounding; /* tw_rounding_id, where a codec has a choice; else 0 */
    uint16_t rotate;   /* tw_rotate_id, where a codec has a choice; else 0 */
    uint16_t select;   /* topk: tw_select_id; else 0 */
    uint32_t seed;     /* of stochastic rounding, rotations, randk's positions, powersgd's first factor; else 0 */
    uint32_t density;  /* topk, randk: values kept of 10^9; else 0 */
    tw_values values;  /* topk: how they are sent; else all 0 */
    uint16_t rank, iterations; /* powersgd; else 0 */
    uint32_t warm_start;       /* powersgd: 0 or 1; else 0 */
    uint32_t columns;          /* powersgd: values of a row, 0: as the layer, array or file says; else 0 */
    uint32_t rate;             /* decay: beta, dgc: momentum, of 10^9; else 0 */
} tw_spec;
#define TW_SPEC_INIT                                                                                                   \
    {sizeof(tw_spec), TW_CODEC_NONE, TW_FEEDBACK_NONE, 0, 0, 0, 0, 0, 0, 0, 0, 0, {0, 0, 0, 0, 0, 0, 0}, 0, 0, 0, 0, 0}

/* Parses text into *out. An unknown word is TW_ERR_ARG and the sentence names the nearest valid one. Thread-safe. */
TW_API tw_status tw_spec_parse(const char *text, tw_spec *out);
/* Canonical text (defaults left out); returns the length without the NUL as snprintf does, or a negative tw_status. */
TW_API int tw_spec_format(const tw_spec *s, char *buf, size_t cap);
/* Payload bytes of `count` elements of a layer of dtype `t`, exact for codecs of fixed rate; of topk the most that it can take. */
TW_API uint64_t tw_spec_bound(const tw_spec *s, uint64_t count, tw_dtype t);

/* ---- context: allocator, log, deadline, progress mode. NULL stands everywhere for a default one ---- */
typedef struct tw_ctx tw_ctx;
typedef struct tw_comm tw_comm;
typedef struct tw_reducer tw_reducer;
typedef struct tw_req tw_req;

typedef enum tw_progress {
    TW_PROGRESS_POLL = 1,  /* test, wait, push and tw_comm_progress do the work */
    TW_PROGRESS_THREAD = 2 /* a thread of the library does; MPI must give MPI_THREAD_MULTIPLE */
} tw_progress;

typedef struct tw_ctx_config {
    uint32_t size, api_version;
    void *(*alloc)(void *arg, size_t bytes, size_t align); /* NULL: aligned_alloc; align is a power of two >= 64 */
    void (*release)(void *arg, void *p);
    void *alloc_arg;
    void (*log)(void *arg, int level, const char *line); /* NULL: stderr when THINWIRE_LOG asks; level 1 error .. 4 debug */
    void *log_arg;
    double timeout_s;     /* deadline of every wait; 0: THINWIRE_TIMEOUT, else 120 s */
    tw_progress progress; /* 0: POLL */
} tw_ctx_config;
#define TW_CTX_CONFIG_INIT {sizeof(tw_ctx_config), TW_API_VERSION, 0, 0, 0, 0, 0, 0.0, (tw_progress)0}

/* The context must outlive what is made from it; destroying it earlier is TW_ERR_ARG. Thread-safe. A bad value in the
 * environment (THINWIRE_LOG, _TIMEOUT, _ISA, _FAULT; see thinwire-info) fails creation, of the default context too. */
TW_API tw_status tw_ctx_create(const tw_ctx_config *cfg, tw_ctx **out);
TW_API tw_status tw_ctx_destroy(tw_ctx *c);
TW_API tw_progress tw_ctx_progress(const tw_ctx *c); /* NULL: the default context's */

/* ---- transport: five functions. MPI, local and sim fill this same table; a caller may fill it too ----
 *
 * Buffers belong to the library and stay in place until the transfer's completion has been polled. Between two ranks,
 * transfers with equal tag match in the order of posting. All calls on one communicator come from one thread at a time. */
#define TW_CAP_ABANDON 1u /* abandon() stops all transfers: no buffer is touched afterwards */
#define TW_CAP_FAST_SUM 4u /* native_sum is no slower than SRA: algo AUTO takes it for plain fp32 */
#define TW_CAP_DETECTS 2u /* reports TW_ERR_PEER when a peer dies; without it only TW_ERR_TIMEOUT is possible */
#define TW_CAP_NETWORK 8u /* frames may cross a network: creation measures its rate with a few allgathers of 256 KiB */

typedef struct tw_xfer {
    int32_t peer;    /* rank */
    uint32_t tag;
    uint32_t is_send;
    uint32_t flags;  /* 0: none are defined yet */
    void *buf;
    size_t len;      /* send: bytes; receive: room */
    uint64_t cookie; /* comes back in tw_done */
} tw_xfer;

typedef struct tw_done {
    uint64_t cookie;
    tw_status status; /* TW_OK, TW_ERR_PEER, TW_ERR_CORRUPT (did not fit) or TW_ERR_TRANSPORT */
    size_t len;       /* bytes received */
} tw_done;

typedef struct tw_transport_ops {
    uint32_t size, caps;
    const char *name;
    tw_status (*oob_allgather)(void *t, const void *mine, void *all, size_t bytes); /* blocking; creation only */
    tw_status (*post)(void *t, const tw_xfer *x);
    int (*poll)(void *t, tw_done *done, int cap); /* completions written, or a negative tw_status. Never blocks */
    void (*close)(void *t);                       /* releases t; never blocks */
    /* the rest may be NULL */
    tw_status (*native_sum)(void *t, float *buf, uint64_t count, uint64_t cookie); /* in place, non-blocking, in order */
    void (*abandon)(void *t);
    double (*clock)(void *t);                                  /* seconds, monotonic; NULL: CLOCK_MONOTONIC */
    void (*charge)(void *t, uint32_t kernel, uint64_t values); /* virtual time of a computation (sim) */
    void (*idle)(void *t);                                     /* nothing to do for now; NULL: sched_yield */
    const char *(*error)(void *t);                             /* sentence of the last failure */
} tw_transport_ops;

/* Takes over t: tw_comm_destroy closes it; when creation fails, t stays the caller's. Collective. */
TW_API tw_status tw_comm_create(tw_ctx *c, const tw_transport_ops *ops, void *t, int rank, int size, tw_comm **out);
TW_API tw_status tw_raise(tw_status s, const char *sentence); /* for transports: sets tw_last_error, returns s */
/* Ranks are threads of this process: fills out[0..size-1], one for each thread. */
TW_API tw_status tw_comm_create_local(tw_ctx *c, int size, tw_comm *out[]);
TW_API int tw_comm_rank(const tw_comm *c);
TW_API int tw_comm_size(const tw_comm *c);
/* A communicator and all made from it may be used by one thread at a time; in THREAD mode the library's own thread is
 * kept apart by a lock. Different communicators are independent. Does ready codec work and moves frames; never blocks. */
TW_API tw_status tw_comm_progress(tw_comm *c);

typedef struct tw_comm_stats {
    uint32_t size;
    uint32_t leaked_frames;               /* frames, and buffers of creation, that an MPI deadline left in flight; never freed */
    uint64_t sent_bytes, received_bytes;  /* frame bytes handed to and taken from the transport, headers included */
    uint64_t sent_frames, received_frames;
    uint64_t native_bytes;                /* dense bytes given to native sums */
    uint64_t link_rate; /* bytes/s into the slowest rank, measured at creation (TW_CAP_NETWORK); 0: not measured. Bursts
                         * that a link lets pass are in it. The same on all ranks; frames are sized by it */
} tw_comm_stats;
#define TW_COMM_STATS_INIT {sizeof(tw_comm_stats), 0, 0, 0, 0, 0, 0, 0}
TW_API tw_status tw_comm_get_stats(const tw_comm *c, tw_comm_stats *out);
/* Never blocks. TW_ERR_ARG while a reducer or request of it exists. NULL is allowed. */
TW_API tw_status tw_comm_destroy(tw_comm *c);

/* ---- reducer: layers by name, residuals by layer, one step at a time ---- */
typedef struct tw_layer {
    uint32_t size;
    tw_dtype dtype;   /* of the user's gradient; 0: TW_F32 */
    const char *name; /* unique; residuals, owners and rules go by it. Copied */
    uint64_t count;   /* elements; 0 is allowed */
    uint64_t pinned;  /* 0: which rank owns which tile follows from the name; else 1 + the rank that owns the first shard */
    uint64_t shard;   /* pinned: values of a shard, a multiple of the tile; the next shard is the next rank's, the last rank
                       * in turn has what is left. 0: that rank owns the whole layer */
    uint64_t columns; /* of a matrix: values of a row, which divide count; rows lie one after another. 0: a vector. Codecs of
                       * low rank go by it, others do not look. Of a convolution's weights [out][in][h][w]: in*h*w */
} tw_layer;
#define TW_LAYER(name, count) {sizeof(tw_layer), TW_F32, name, count, 0, 0, 0}
#define TW_LAYER_DTYPE(name, count, dtype) {sizeof(tw_layer), dtype, name, count, 0, 0, 0}
#define TW_LAYER_SHARDS(name, count, dtype, shard) {sizeof(tw_layer), dtype, name, count, 1, shard, 0}
#define TW_LAYER_MATRIX(name, rows, columns, dtype) \
    {sizeof(tw_layer), dtype, name, (uint64_t)(rows) * (columns), 0, 0, columns}

/* What to do with a tile (4096 values) that has NaN or Inf, on any rank, or whose sum overflows:
 * PROPAGATE  every rank receives NaN there; the tile's residuals stay as they were; the step returns TW_OK
 * SKIP       every rank keeps its outputs of that op untouched and all residuals of the step; the step returns TW_OK with
 *            verdict TW_VERDICT_SKIPPED
 * ERROR      as SKIP, but the step returns TW_ERR_NONFINITE on every rank, naming layer and rank
 * A matrix that goes as factors (powersgd) is one such tile as a whole. */
typedef enum tw_nonfinite { TW_NONFINITE_PROPAGATE = 1, TW_NONFINITE_SKIP = 2, TW_NONFINITE_ERROR = 3 } tw_nonfinite;
/* NATIVE: the transport's own sum. Of fp32 layers under `none`: writes user memory while in flight, says nothing of NaN; the
 * same pieces on all ranks, which a small sum checks first. Of ops whose layers are all fp32 under `randk`: the payloads are
 * summed, with outputs written late, NaN policies, residuals and certificate as by SRA.
 * Layers under powersgd go by such sums whatever is asked for: those of an op share each sum, and may have `none` and fp32
 * randk layers beside them, no others (push sees to that). An op must hold the whole of such a matrix.
 * (All of allreduces: reduce-scatter and allgather go by frames, whatever is asked for.)
 * SRA: split, reduce at the owner, allgather; two roundings for any number of ranks.
 * GATHER: all send to all and sum what all sent; one rounding, (P-1) payloads from each rank instead of 2 (P-1)/P, and no
 * faster with two ranks, where these are equal; so it is taken only where it is asked for.
 * AUTO: NATIVE where all of an op is fp32 `none` and non-finite values propagate, or is fp32 `randk` and fewer bytes cross
 * (for all but small ops; an estimate of memory counts SRA), and the transport says that its sum is fast
 * (local and sim do; MPI's non-blocking sum was 1.6 to 3.3 times slower than its ring where it was measured); else SRA. */
typedef enum tw_algo { TW_ALGO_AUTO = 1, TW_ALGO_NATIVE = 2, TW_ALGO_SRA = 3, TW_ALGO_GATHER = 4 } tw_algo;

typedef struct tw_reducer_config {
    uint32_t size;
    tw_redop redop;         /* 0: TW_AVG */
    tw_nonfinite nonfinite; /* 0: PROPAGATE */
    tw_algo algo;           /* 0: AUTO */
    uint64_t bucket_bytes;  /* push: layers are fused up to this many dense bytes; 0: 4 MiB */
    uint32_t frame_bytes;   /* payload of one frame, 64 B .. 1 MiB; 0: chosen by codec, op size and link rate */
    uint32_t in_flight;     /* frames under way to one peer, 2..1024; 0: chosen */
    uint32_t no_overlap;    /* 1: stages of an op one after another; for measurements */
    uint32_t tile;          /* values a tile; 0: 4096. Other values (powers of two, 128..4096) are for tests */
} tw_reducer_config;
#define TW_REDUCER_CONFIG_INIT                                                                                         \
    {sizeof(tw_reducer_config), (tw_redop)0, (tw_nonfinite)0, (tw_algo)0, 0, 0, 0, 0, 0}

/* Collective; the same arguments on all ranks: a difference is TW_ERR_MISMATCH and names the first differing layer or
 * option; a rank whose arguments are bad fails with TW_ERR_ARG and the others with TW_ERR_PEER, except for a NULL comm,
 * of which the others are not told; a rank that does not call it ends the others' wait at the deadline, and the
 * communicator with TW_ERR_TIMEOUT.
 * While it waits, ops of other reducers on this communicator do not move.
 * rules := rule {";" rule}; rule := pattern {"|" pattern} "=" phase; phase := spec ["until" step "then" phase].
 * Patterns are shell globs on layer names; the first match wins; a layer that no rule matches goes as `none`. NULL: all
 * layers `none`. Example: "*.bias|*norm*=none; *=none until 1000 then onebit+ef". */
TW_API tw_status tw_reducer_create(tw_comm *c, const tw_layer *layers, uint32_t n, const char *rules,
                                   const tw_reducer_config *cfg, tw_reducer **out);
TW_API tw_status tw_reducer_destroy(tw_reducer *r); /* TW_ERR_ARG inside a step with ops under way. NULL is allowed */

typedef struct tw_memory {
    uint32_t size, reserved;
    uint64_t state_bytes; /* residuals and left factors (two copies, for late commit), the ledger, what describes the layers and rules */
    uint64_t frame_bytes; /* frames and plans of the ops, which are kept for their next use */
} tw_memory;
#define TW_MEMORY_INIT {sizeof(tw_memory), 0, 0, 0}
/* Before creation: what a reducer of these arguments that is fed with push will hold at most on rank `rank` of `size`,
 * once it has been through all phases of its rules. Local; touches nothing. Algo AUTO is taken as SRA here, which needs
 * the more. A native sum of a layer pushed without `out` holds a copy of it, which is not in the estimate. */
TW_API tw_status tw_reducer_estimate(int rank, int size, const tw_layer *layers, uint32_t n, const char *rules,
                                     const tw_reducer_config *cfg, tw_memory *out);
/* What it holds now. */
TW_API tw_status tw_reducer_memory(const tw_reducer *r, tw_memory *out);

typedef struct tw_step_args {
    uint32_t size;
    float input_scale; /* inputs are multiplied by it first (1/loss scale): a power of two; 0: 1 */
} tw_step_args;
#define TW_STEP_ARGS_INIT {sizeof(tw_step_args), 0.0f}

typedef enum tw_verdict { TW_VERDICT_OK = 1, TW_VERDICT_SKIPPED = 2, TW_VERDICT_FAILED = 3 } tw_verdict;
typedef struct tw_report { /* the same on every rank, except wire_bytes and the times */
    uint32_t size;
    tw_verdict verdict;
    uint64_t step;
    uint64_t dense_bytes; /* what plain MPI would send from one rank: 2(P-1)/P x the layers' bytes in their dtype; half of it for
                           * what was reduce-scattered or gathered */
    uint64_t wire_bytes;  /* what this rank gave to the transport in this step, headers and trailers included */
    double error_bound;   /* proven: || all outputs so far - all exact results so far ||_2 over all certified layers; Inf
                           * once a norm is beyond fp32. Under dgc exact results are those of the ranks' momenta */
    uint32_t uncertified; /* layers that went through a native sum under `none` in this step or before: not in error_bound */
    int32_t bad_layer;    /* first layer with NaN or Inf, or -1; native sums under `none` are not looked at */
    int32_t bad_rank;     /* the rank it came from, or -1 */
    uint32_t reserved;
    double encode_s, reduce_s, decode_s, wait_s; /* this rank's time by kind, seconds */
} tw_report;
#define TW_REPORT_INIT {sizeof(tw_report), (tw_verdict)0, 0, 0, 0, 0.0, 0, -1, -1, 0, 0.0, 0.0, 0.0, 0.0}

typedef struct tw_layer_report {
    uint32_t size;
    uint32_t certified;   /* 1: error_bound holds */
    tw_spec spec;         /* used in the last step */
    uint64_t dense_bytes; /* per step */
    uint64_t wire_bytes;  /* of the last step, payload and trailers of this layer, this rank */
    double error_bound;   /* as in tw_report, of this layer */
    double residual_norm; /* ||what this rank still holds||_2, computed on request */
} tw_layer_report;
#define TW_LAYER_REPORT_INIT {sizeof(tw_layer_report), 0, TW_SPEC_INIT, 0, 0, 0.0, 0.0}

/* A run of one layer, anywhere in memory. in == out is allowed, other overlaps are not. in == NULL: the layer is absent
 * on this rank (counts as 0, divisor stays P); out == NULL: the result is not wanted here. */
typedef struct tw_piece {
    uint32_t size, layer;
    uint64_t first, count; /* position inside the layer */
    const void *in;
    void *out;
} tw_piece;
#define TW_PIECE(layer, first, count, in, out) {sizeof(tw_piece), layer, first, count, in, out}

/* A step: begin; then either push layers one by one (any order; the library fuses them into buckets, in reverse order
 * of creation, and sends a bucket once it is full; layers not pushed by `end` are absent on this rank), or post ops
 * over pieces (the same ops in the same order on all ranks; ops may cut a layer at multiples of the tile size; all of a
 * layer is posted or none of it); then end or discard. Plan and frames of ops are kept for the next ones with the same
 * cuts: at most 64, or twice the ops of the largest step; beyond that the longest unused go. Inputs must not change and
 * outputs must not be read before `end` (or, with post, before the request completes); residuals change at `end` only.
 * `step` is any number that grows. */
TW_API tw_status tw_reducer_begin(tw_reducer *r, uint64_t step, const tw_step_args *args);
TW_API tw_status tw_reducer_push(tw_reducer *r, uint32_t layer, const void *in, void *out); /* returns at once */
TW_API tw_status tw_reducer_post(tw_reducer *r, const tw_piece *pieces, uint32_t n, tw_req **out); /* likewise */
/* As tw_reducer_post (the same step, requests, options, late commit and report), but
 * reduce_scatter: sums and averages go to the owner of each tile alone, and only there are outputs written; out may be NULL
 * elsewhere. The owner's sum is not encoded again, only rounded to the dtype; error feedback holds what the ranks did not
 * send and what that rounding lost. All ranks know the bound and any NaN, so skip and error hold on all of them.
 * allgather: every owner's tiles go to all ranks (parameters, updates); inputs of tiles that a rank does not own are not
 * looked at. Error feedback is the owner's; the bound is on sums of outputs against sums of inputs. A layer under dgc is
 * refused (TW_ERR_UNSUPPORTED): its momentum is of what is summed.
 * A layer that was summed cannot be gathered, nor the other way round, before tw_reducer_reset: its residual means something
 * else. Pin layers whose owner matters. */
TW_API tw_status tw_reducer_post_reduce_scatter(tw_reducer *r, const tw_piece *pieces, uint32_t n, tw_req **out);
TW_API tw_status tw_reducer_post_allgather(tw_reducer *r, const tw_piece *pieces, uint32_t n, tw_req **out);
TW_API tw_status tw_reducer_flush(tw_reducer *r); /* no push will follow in this step: sends the rest; returns at once */
TW_API tw_status tw_reducer_end(tw_reducer *r, tw_report *out); /* waits for all ops; commits; out may be NULL */
/* Ends the step and forgets it (an AMP overflow, say): residuals as before `begin`. Outputs may have been written. All
 * ranks must do the same; the next step's headers are checked for it. Waits for the ops under way. */
TW_API tw_status tw_reducer_discard(tw_reducer *r);
TW_API tw_status tw_reducer_reset(tw_reducer *r); /* residuals, factors and certificate to zero, between steps; on all ranks */
TW_API tw_status tw_reducer_layer_report(const tw_reducer *r, uint32_t layer, tw_layer_report *out);
/* Copies this rank's residual of a layer, fp32[count]: for element i this rank holds mass weight(i) x dst[i], where weight
 * is 1 in tiles that this rank owns and 1/P elsewhere (AVG), or 1 (SUM). Zeros if the layer has no error feedback. */
TW_API tw_status tw_reducer_residual(const tw_reducer *r, uint32_t layer, float *dst);

/* State: what a reducer keeps between steps, for checkpoints. Call both between steps; a step that is open is TW_ERR_ARG.
 *
 * save writes this rank's residuals, ledger, factors and numbers to a stream (docs/state-format.md), front to back, through
 * `put`; a negative status of it ends the call and is returned. Local: ranks need not save at the same time, but after the
 * same step. It allocates 1 MiB.
 *
 * load replaces the state. Collective: args[0..n) are n streams that saves have written, read front to back by `get`, which
 * gives exactly `bytes` bytes or fails. Together all ranks give the stream of every rank that was, once. Where as many ranks
 * as then are given one stream each, their own (and tile and pins are those of then), steps go on bit for bit as if nothing
 * had happened. Else what the old ranks held is folded: the sum of weight times residual becomes the residual of the tiles'
 * new owners, so nothing is lost but fp32 rounding, which the certificate counts; 4 to 3, 4 to 8 or 8 to 1 ranks alike (one
 * rank alone adds it to its next result). Layers are found by name; names, counts, dtypes and columns must be those of the
 * state, rules may differ as long as a layer that has a residual keeps one; a momentum of layers that have dgc in none of
 * their phases any more is dropped.
 * A damaged stream is TW_ERR_CORRUPT on the rank that was given it and TW_ERR_PEER on the others, streams of different
 * steps or a rank too many or too few are TW_ERR_MISMATCH; after a failure every rank's state is as before the call. */
typedef tw_status (*tw_state_put)(void *arg, const void *data, size_t bytes);
typedef tw_status (*tw_state_get)(void *arg, void *data, size_t bytes);
TW_API tw_status tw_reducer_save(const tw_reducer *r, tw_state_put put, void *arg);
TW_API tw_status tw_reducer_load(tw_reducer *r, uint32_t n, tw_state_get get, void *const args[]);
/* The same with files: rank k saves to PATH.k, by way of PATH.k.tmp and a rename once all of it is on the disk: whatever
 * stops a save, the file that was there stays whole. A stopped save of several ranks can leave files of two steps, which
 * load refuses; so let PATH carry the step's number, and remove older ones when all ranks have saved. load_files reads
 * PATH.0 for how many ranks there were (its own file where PATH.0 is not to be seen, as on a disk of its own), and gives
 * load the files rank, rank + P, ... of them. */
TW_API tw_status tw_reducer_save_file(const tw_reducer *r, const char *path);
TW_API tw_status tw_reducer_load_files(tw_reducer *r, const char *path);

/* Requests of tw_reducer_post. test: TW_IN_PROGRESS, TW_OK, or the op's failure. wait: until done or until timeout_s
 * (<= 0: the context's deadline) has passed, which is TW_ERR_TIMEOUT, ends the op and poisons the communicator.
 * free: any time; an op under way goes on and its step still waits for it. */
TW_API tw_status tw_req_test(tw_req *q);
TW_API tw_status tw_req_wait(tw_req *q, double timeout_s);
TW_API tw_status tw_req_free(tw_req *q);

/* Stateless: one array, no residual (feedback other than none is TW_ERR_ARG). Blocking. in == out is allowed. Collective,
 * in the order of posting; a count of 0 returns at once, so it must be 0 on all ranks. NULL spec: none. The communicator
 * keeps plan and frames of the last 64 different calls (count, dtype, spec, redop): a call like one of these allocates
 * nothing. */
TW_API tw_status tw_allreduce(tw_comm *c, const tw_spec *s, const void *in, void *out, uint64_t count, tw_dtype t,
                              tw_redop op);
/* Likewise; always by frames, so that values are encoded even if no sum is made: with spec none, too, a NaN comes out as
 * the canonical one. All ranks give the same spec, count, dtype, op and root; a difference is found in the first frames.
 *
 * in: size blocks of count_per_rank values; out: this rank's block of the sum or average of all ranks. One rounding: the
 * result itself is not encoded, only rounded to the dtype. out may be in + rank*count_per_rank, or apart from in. */
TW_API tw_status tw_reduce_scatter(tw_comm *c, const tw_spec *s, const void *in, void *out, uint64_t count_per_rank,
                                   tw_dtype t, tw_redop op);
/* in: count values; out: those of all ranks, in their order. One rounding, and every rank has the same bytes: a rank finds
 * its own block as the others received it. in may be out + rank*count, or apart from out. */
TW_API tw_status tw_allgather(tw_comm *c, const tw_spec *s, const void *in, void *out, uint64_t count, tw_dtype t);
/* buf of the root goes to buf of all ranks. One rounding, and every rank has the same bytes: the root's buf, too, is
 * replaced by what the others received. */
TW_API tw_status tw_broadcast(tw_comm *c, const tw_spec *s, void *buf, uint64_t count, tw_dtype t, int root);

#ifdef __cplusplus
}
#endif
#endif
