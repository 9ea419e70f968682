/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The property test: one trial is one random configuration, a pure function of a 64-bit seed. It is drawn (draw*.c),
 * run through the library over sim (drive.c) and, beside that, through a plain model of the two-hop scheme
 * (codec_model.c, model.c); then both are compared bit by bit (check.c). */
#ifndef TRIAL_H
#define TRIAL_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include <thinwire/thinwire.h>
#include <thinwire/experimental.h>

enum {
    MOST_RANKS = 64,
    MOST_LAYERS = 6,
    MOST_RULES = 4,
    MOST_PHASES = 3,
    MOST_STEPS = 4,
    MOST_OPS = 6,     /* of one step */
    MOST_PIECES = 40, /* of one op */
    MOST_TILE = 4096
};

/* ---- random numbers (splitmix64) ---- */
typedef struct rng {
    uint64_t state;
} rng;

static inline uint64_t rng_next(rng *r) {
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
static inline uint64_t rng_below(rng *r, uint64_t n) {
    return n ? rng_next(r) % n : 0;
}
static inline bool rng_chance(rng *r, uint32_t percent) {
    return rng_below(r, 100) < percent;
}
static inline uint64_t rng_range(rng *r, uint64_t lo, uint64_t hi) {
    return lo + rng_below(r, hi - lo + 1);
}
static inline double rng_unit(rng *r) {
    return (double)(rng_next(r) >> 11) * 0x1p-53;
}

/* ---- what is drawn once ---- */
typedef enum trial_kind {
    KIND_CLEAN,      /* nothing goes wrong: everything must be exact */
    KIND_FAULTY,     /* frames are lost, damaged, or a rank dies */
    KIND_ODD_CREATE, /* one rank gives other arguments at creation */
    KIND_ODD_STEP,   /* one rank does something else in one step */
    KIND_COUNT
} trial_kind;

typedef enum fault_kind {
    FAULT_LOSS,
    FAULT_CORRUPTION,
    FAULT_TRUNCATION,
    FAULT_DEAD,
    FAULT_DEAD_SEEN,
    FAULT_COUNT
} fault_kind;
typedef enum odd_kind {
    ODD_DISCARD, /* discards alone; seen in the next step */
    ODD_STEP,    /* is at another step */
    ODD_PIECES,  /* leaves a layer out of an op */
    ODD_MISSING, /* posts one op less */
    ODD_SWAPPED, /* posts two ops in the other order */
    ODD_RESET,   /* resets alone; seen in the next step */
    ODD_COUNT
} odd_kind;

/* Calls that clean trials make beside the right ones: refused, and as if they had not been made. */
typedef enum refusal_kind {
    REFUSAL_AGAIN,       /* values that the step posted before */
    REFUSAL_TWICE,       /* values twice in one op */
    REFUSAL_ONE_LESS,    /* one value is left out */
    REFUSAL_HALF_ABSENT, /* a layer with and without input */
    REFUSAL_SAME_OUTPUT, /* two pieces write the same memory */
    REFUSAL_OUTSIDE,     /* of the layer */
    REFUSAL_PUSH,        /* a layer is pushed once more */
    REFUSAL_COUNT
} refusal_kind;

typedef enum values_kind {
    VALUES_PLAIN,
    VALUES_MIXED,   /* magnitudes of 2^-40 .. 2^40 side by side */
    VALUES_SPARSE,  /* mostly +0 and -0 */
    VALUES_TINY,    /* around the smallest numbers of the dtype */
    VALUES_OUTLIER, /* one value a million times larger */
    VALUES_LARGE,   /* 1e30, or 1e3 in fp16 */
    VALUES_HUGE,    /* near the largest: sums overflow */
    VALUES_SAME,
    VALUES_COUNT
} values_kind;

typedef struct phase {
    tw_spec spec;
    uint64_t until;
} phase;

typedef struct rule {
    char pattern[3][32];
    phase phase[MOST_PHASES];
    uint32_t npattern, nphase;
} rule;

typedef struct layer {
    char name[32];
    uint64_t count, tiles;
    tw_dtype dtype;
    values_kind values;
    int exponent; /* magnitude 2^exponent */
    const phase *phase;
    uint32_t nphase;
} layer;

/* ---- what is drawn for each step ---- */
typedef struct part { /* one rank's memory for one piece: offsets in the trial's user memory */
    bool has_in, has_out;
    size_t in, out, bytes;
} part;

typedef struct op_plan {
    tw_piece piece[MOST_PIECES]; /* no addresses */
    part *part[MOST_PIECES];     /* [rank] */
    uint32_t npiece;
    bool native; /* plain values are summed by the transport */
    bool linear; /* payloads are */
    bool gather; /* all ranks sum what all sent */
    bool absent[MOST_LAYERS][MOST_RANKS];
    uint64_t first_tile[MOST_LAYERS], tiles[MOST_LAYERS];
} op_plan;

typedef struct step_plan {
    uint64_t number;
    uint32_t index;
    float scale[MOST_RANKS];
    bool discard, incomplete;  /* incomplete: a layer is posted in part, which is refused */
    bool covered[MOST_LAYERS]; /* by some op */
    tw_spec spec[MOST_LAYERS];
    float dgc[MOST_LAYERS]; /* its momentum, one rank's too; 0: another feedback */
    op_plan op[MOST_OPS];
    uint32_t nop, nan;
    int first_to_end;
    float *g[MOST_LAYERS]; /* inputs as fp32: [rank * count + i] */
} step_plan;

/* ---- the model ---- */
typedef struct model {
    float *e[MOST_LAYERS], *e_new[MOST_LAYERS]; /* residuals [rank * count + i] */
    float *out[MOST_LAYERS];                    /* this step's result as stored [count] */
    double *applied[MOST_LAYERS], *exact[MOST_LAYERS];
    double *forgot[MOST_LAYERS],
        *forgot_new[MOST_LAYERS]; /* by weight [count]; this step's, by slot [rank * count + i] */
    float *u[MOST_LAYERS], *u_new[MOST_LAYERS], *fed[MOST_LAYERS]; /* dgc: momentum by slot; before anything was sent */
    bool moves[MOST_LAYERS];
    double forgot_norms[MOST_LAYERS]; /* as a certificate adds them up */
    uint8_t *bad[MOST_LAYERS];        /* tiles with NaN or Inf in this step */
    uint8_t *away[MOST_LAYERS];       /* tiles that no rank has, or no op covers */
    uint8_t *own[MOST_LAYERS];        /* owner of each tile */
    bool held[MOST_LAYERS][MOST_RANKS], kept[MOST_LAYERS][MOST_RANKS];
    bool used[MOST_LAYERS], native[MOST_LAYERS], linear[MOST_LAYERS], lossy[MOST_LAYERS];
    bool loose[MOST_LAYERS]; /* no feedback, NaN, absent, or frames cut anew: its bound may be far from what is held */
    double rho[MOST_LAYERS], rho_step[MOST_LAYERS]; /* of the ledger */
    double bound[MOST_LAYERS];                      /* certificate after the last step */
    tw_spec last_spec[MOST_LAYERS];
    bool last_same;                  /* no step since had other frames */
    uint64_t bad_ranks[MOST_LAYERS]; /* this step: who had NaN or Inf */
    bool op_bad[MOST_OPS];
    float *scratch; /* 4 tiles */
} model;

/* What a rank got from one step. */
typedef struct rank_result {
    tw_status begin, post, end;
    tw_status op[MOST_OPS]; /* of requests; TW_IN_PROGRESS: not asked */
    bool posted[MOST_OPS];
    bool unpushed, flushed;
    tw_report report;
    double seconds; /* virtual, of the longest call */
    char why[256];
} rank_result;

typedef struct trial {
    uint64_t seed;
    rng rng;
    trial_kind kind;
    fault_kind fault;
    odd_kind odd;
    int odd_rank;
    uint32_t odd_step, odd_how;
    int ranks;
    uint32_t nlayer, nrule, nstep;
    layer layer[MOST_LAYERS];
    rule rule[MOST_RULES];
    char rules[4096];
    tw_reducer_config rc;
    tw_sim_config net;
    double deadline;
    bool post, verbose, others_committed, adds; /* adds: all layers under codecs whose payloads do */
    bool hard; /* one layer; step i has input i of the list of adversaries, and nothing else is drawn */
    uint64_t next_number;
    /* library */
    uint64_t allocations, sim_allocations; /* not given back yet: of communicators and reducers; of the network */
    tw_ctx *ctx, *sim_ctx;
    tw_sim *sim;
    tw_comm *comm[MOST_RANKS];
    tw_reducer *red[MOST_RANKS];
    uint64_t reported_wire[MOST_RANKS];
    bool discarded; /* some step's report was never made */
    /* user memory, and what it must look like */
    uint8_t *memory, *shadow;
    size_t memory_bytes;
    model m;
    step_plan step;
    rank_result result[MOST_RANKS];
    bool failed;
    char why[1024];
} trial;

/* Notes the first failure of a trial; returns false. */
bool trial_fail(trial *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* draw.c, draw_rules.c, draw_step.c */
void trial_draw(trial *t, uint64_t seed, int most_ranks);
void trial_draw_rules(trial *t);
tw_spec trial_draw_spec(trial *t);
tw_spec trial_draw_tiled(trial *t);                               /* a codec of fixed rate */
void trial_draw_feedback(trial *t, tw_spec *s, uint32_t percent); /* one that holds something, so often */
void trial_describe(const trial *t);
bool trial_draw_step(trial *t, uint32_t index); /* false: out of memory */
void trial_free_step(trial *t);
float trial_value(trial *t, const layer *l, uint64_t i);

/* codec_model.c: written from the public description, sharing nothing with the library */
float model_to_dtype(float x, tw_dtype t);     /* rounded to it, as fp32 */
uint16_t model_half_bits(float x, tw_dtype t); /* x is representable */
/* What random numbers of a tile depend on. */
typedef struct model_draw {
    const char *name;
    uint64_t tile;
    uint32_t seed, step, rank, hop, block;
    bool part; /* of a sum that is encoded once more */
} model_draw;
/* What receivers decode of x; true if anything in it is not finite. d may be NULL where the spec draws nothing. */
bool model_codec(const tw_spec *s, const model_draw *d, tw_dtype t, const float *x, uint32_t n, float *decoded);
float model_group_sum(const float *x, uint32_t m);  /* of |x|, in the common order */
float model_group_mean(const float *x, uint32_t m); /* right where the sum overflows, too */

/* quant_model.c */
float model_dither(const model_draw *d, uint32_t i); /* value i of the tile's */
void model_philox(int rounds, const uint32_t counter[4], uint64_t key, uint32_t out[4]);
bool model_quant(const tw_spec *s, const model_draw *d, const float *x, uint32_t n, float *decoded);

/* randk_model.c */
bool model_randk(const tw_spec *s, const model_draw *d, const float *x, uint32_t n, float *decoded);

/* model.c, model_tile.c */
bool model_create(trial *t);
void model_free(trial *t);
void model_step(trial *t);   /* computes; nothing is committed */
void model_commit(trial *t); /* what all ranks know; and every rank's residuals */
void model_reset(trial *t);
void model_reset_rank(trial *t, int rank); /* its residuals */
/* Copies of all residuals as they are now; e[l] NULL where there is no memory. */
bool model_save(const trial *t, float *e[]);
void model_restore_rank(trial *t, int rank, float *const e[]);
bool model_has_residual(const trial *t, uint32_t l, int rank); /* its residual takes part in this step */
bool model_step_is_bad(const trial *t);
/* Value `at` (rank * count + i) of a slot: what holds of `lost`, times a factor where it is an owner's. Returns what was lost. */
float model_hold(trial *t, uint32_t l, uint64_t at, float lost, float ranks);
void model_keep(trial *t, uint32_t l, int rank, uint64_t first, uint64_t n); /* ... as it was */
float model_input(const trial *t, uint32_t l, uint64_t at);      /* of a slot: g * scale, or under dgc the momentum */
bool model_finite(const trial *t, uint32_t l, uint64_t at);      /* ... before it was scaled */
void model_clear(trial *t, uint32_t l, uint64_t at, float sent); /* momentum where something was sent */
void model_tile(trial *t, const op_plan *op, uint32_t l, uint64_t tile);
/* model_sparse.c: all tiles of the op. */
void model_sparse(trial *t, const op_plan *op, uint32_t l);
/* model_keep.c */
typedef struct model_sparse_part { /* of a layer: what a rank selects from */
    const tw_spec *s;
    const char *name;
    uint32_t block; /* as in model_draw */
    uint64_t n;     /* values of the layer */
    uint32_t tile, step, hop;
    tw_dtype dtype;
    int rank;
    const uint8_t *zone; /* of tiles: 0, not selected from; else equal where one rank owns them: spans end between */
    uint8_t *flag;       /* of tiles: NaN or Inf; in and out */
    const float *x;      /* [n] */
    float *decoded;      /* [n] out: what receivers have, 0 outside */
} model_sparse_part;
bool model_compress(const model_sparse_part *p); /* false: out of memory */
tw_spec model_values_of(const tw_spec *s);       /* how a sparse layer's kept values are sent */
/* gather_model.c: likewise */
void model_gather(trial *t, const op_plan *op, uint32_t l);
/* linear_model.c */
bool model_sums_payloads(const trial *t, const step_plan *s, const op_plan *op);
void model_linear(trial *t, const op_plan *op, uint32_t l, uint64_t tile);
void model_native(trial *t, const op_plan *op, uint32_t l, uint64_t tile);
bool model_op_is_native(const op_plan *op); /* and sums anything */
bool model_crosses(const trial *t);         /* something goes over the wire in this step */

/* drive.c */
bool drive_open(trial *t);
void drive_close(trial *t);
void drive_step(trial *t);

/* refused.c: now and then, on one rank, before op i is posted as piece[n]; after layer l was pushed */
void refused_post(trial *t, int rank, uint32_t op, const tw_piece *piece, uint32_t n);
void refused_push(trial *t, int rank, uint32_t l);

/* check.c, check_numbers.c */
bool check_memory(trial *t, int rank, tw_status how); /* how: what the rank's step returned */
bool check_canaries(trial *t);
bool check_residuals(trial *t, int rank, float *const e[]);
bool check_replicas(trial *t);
bool check_ledger(trial *t);
bool check_reports(trial *t, bool committed);
bool check_wire(trial *t);

/* trial.c */
/* An allocator that counts what is alive in *(uint64_t *)arg. */
void *count_alloc(void *arg, size_t bytes, size_t align);
void count_release(void *arg, void *p);
bool trial_run(trial *t);
bool trial_deviates(const trial *t, int rank); /* in this step */
/* collective.c: another trial of the same seed, of the collectives without a reducer */
bool collective_run(trial *t, uint64_t seed, int most_ranks);
/* scatter.c: likewise, of a reducer's reduce-scatter and allgather */
bool scatter_run(trial *t, uint64_t seed, int most_ranks);
/* One spec on hard inputs. how: 0 allreduce, 1 reduce-scatter, 2 allgather. */
bool scatter_sweep(trial *t, tw_spec spec, int ranks, tw_dtype dtype, uint32_t how);
/* lowrank.c: likewise, of layers that go as factors */
bool lowrank_run(trial *t, uint64_t seed, int most_ranks);
bool lowrank_sweep(trial *t, tw_spec spec, int ranks, tw_dtype dtype);
/* sweep_all.c; *done counts */
bool sweep_all(trial *t, uint64_t *done);
/* Value i of an input that is known to be hard: kind of TRIAL_ADVERSARIES. */
enum { TRIAL_ADVERSARIES = 12, TRIAL_LARGEST = 9 /* and what follows: residuals of its size */ };
float trial_adversary(rng *r, uint64_t kind, tw_dtype t, uint64_t i);
const char *trial_adversary_name(uint64_t kind);
/* tally.c: the distribution of what was tried */
void tally_trial(const trial *t);
void tally_step(const trial *t);
/* A call or a layer-step of another collective than allreduce: 1 to 3 as in tw_kind; of a reducer */
enum { TALLY_POST_SCATTER = 4, TALLY_POST_GATHER, TALLY_KINDS };
void tally_other(uint32_t kind, const tw_spec *s);
void tally_plan(void);
void tally_refusal(refusal_kind kind);
void tally_print(void);

#endif
