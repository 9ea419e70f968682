/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thinwire-bench allreduce, reduce_scatter, allgather and broadcast, inside: what the files of these modes say to each
 * other.
 *
 * A "world" is what one thread drives: one rank (mpi, local) or all of them (sim). Its few collectives carry the
 * benchmark's own bookkeeping between ranks, outside the timed parts. */
#ifndef BENCH_ALLREDUCE_H
#define BENCH_ALLREDUCE_H

#include <thinwire/codec.h>
#include <thinwire/experimental.h>
#include <thinwire/thinwire.h>

#include "bench_common.h"

/* argv[0]: the collective's name. */
int tw_bench_collective_main(int argc, char **argv);

/* ---- options (bench_allreduce_options.c) ---- */
typedef enum ba_kind { BA_ALLREDUCE, BA_REDUCE_SCATTER, BA_ALLGATHER, BA_BROADCAST } ba_kind;
typedef struct ba_collective {
    const char *name, *program; /* "allreduce", and for sentences "thinwire-bench allreduce" */
    const char *plain[2];       /* plain MPI, blocking and not */
    double passes;              /* what of the message a rank must send: passes x (P-1)/P; 0: all of it */
    bool reduces;               /* else outputs are one rank's inputs */
    bool sharded;               /* layers are pinned in shards, one for each rank in turn */
    bool replicas;              /* all ranks have all of the output */
    bool reducer;               /* through a reducer, step by step */
} ba_collective;
extern const ba_collective ba_collectives[]; /* by ba_kind */

enum { BA_MAX_CODECS = 32, BA_TEXT = 640 };
typedef enum ba_transport { BA_MPI = 1, BA_LOCAL, BA_SIM } ba_transport;
typedef enum ba_shape { BA_GAUSS = 1, BA_STUDENT, BA_SPARSE, BA_OUTLIER } ba_shape;

typedef struct ba_config {
    ba_kind kind;
    const ba_collective *what;
    uint64_t min_bytes, max_bytes, step_bytes; /* step_bytes 0: times factor */
    double factor;
    const char *codecs[BA_MAX_CODECS];
    unsigned n_codecs;
    uint32_t iterations, warmup, check_every, layers;
    uint32_t baseline_n; /* baseline runs beside so many timed iterations; 0: no baseline */
    bool baseline_asked;
    tw_dtype dtype;
    tw_redop redop;
    bool in_place;
    ba_shape shape;
    uint64_t seed;
    ba_transport transport;
    int ranks; /* mpi: as many as mpirun says that it started, 0: it does not */
    double latency_s, jitter_s, compute;
    double goodput_bits, burst_bytes; /* 0, and < 0: not given */
    double nominal_bits;              /* of the lab's links, 0: not known */
    double timeout_s;
    tw_progress progress;
    tw_reducer_config reducer;
    const char *json_path;
} ba_config;

/* "thinwire-bench allreduce: sentence" on stderr. */
void ba_say(const ba_config *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* BC_EXIT_OK: go on; otherwise *status is the exit status (help was printed, or a usage error). */
bool ba_parse(int argc, char **argv, ba_config *c, int *status);
const char *ba_transport_name(ba_transport t);
const char *ba_shape_name(ba_shape s);
const char *ba_shape_text(ba_shape s);

/* ---- data (bench_allreduce_data.c): a counter gives every value, so every rank can say what another one sent ---- */
typedef struct ba_source {
    ba_shape shape;
    tw_dtype dtype;
    uint64_t seed;
} ba_source;
enum { BA_BLOCK = 4096 };
/* Elements [first, first + n) of the whole message, n <= BA_BLOCK, as they are after rounding to the dtype. */
void ba_values(const ba_source *s, int rank, uint64_t iteration, uint64_t first, uint32_t n, float *dst);
void ba_generate(const ba_source *s, int rank, uint64_t iteration, uint64_t first, uint64_t count, void *dst);
void ba_load(tw_dtype t, const void *src, uint32_t n, float *dst);
uint64_t ba_hash(uint64_t seed, const void *p, size_t bytes);

/* ---- buffers (bench_allreduce_buffers.c): layers of one rank, each between two canary zones ---- */
typedef struct ba_arena {
    unsigned char *base;
    size_t bytes;
    uint32_t layers;
    uint64_t *first; /* elements before layer i; first[layers] is the total */
    size_t *offset;  /* of layer i's data in base */
    size_t elem;
} ba_arena;
bool ba_arena_create(ba_arena *a, uint64_t count, uint32_t layers, size_t elem);
void ba_arena_destroy(ba_arena *a);
static inline void *ba_layer(const ba_arena *a, uint32_t i) {
    return a->base + a->offset[i];
}
void ba_arena_generate(const ba_arena *a, const ba_source *s, int rank, uint64_t iteration);
uint64_t ba_arena_hash(const ba_arena *a);
/* -1: untouched; else the layer beside the first changed byte, *before: in front of it. */
int64_t ba_arena_canary(const ba_arena *a, bool *before);

/* ---- world (bench_allreduce_world.c, bench_allreduce_mpi.c) ---- */
typedef enum ba_fold { BA_SUM, BA_MAX } ba_fold;
enum { BA_FOLD_CAP = 16 };
typedef struct ba_world ba_world;
typedef struct ba_world_ops {
    void (*barrier)(ba_world *w);
    void (*fold)(ba_world *w, ba_fold how, double *v, int n); /* n <= BA_FOLD_CAP; in place, same result everywhere */
    void (*share)(ba_world *w, int from, char *text);         /* BA_TEXT bytes from rank `from` to all */
    double (*now)(ba_world *w);
    /* The collective by plain MPI on `bytes` bytes, seconds. NULL: this world has none. */
    double (*plain)(ba_world *w, bool half, bool nonblocking, const void *in, void *out, uint64_t bytes);
} ba_world_ops;
struct ba_world {
    const ba_world_ops *ops;
    const ba_config *cfg;
    int rank, nlocal, ranks; /* rank: the first of the nlocal that this world drives */
    bool shares_process;     /* other worlds run in this process: CPU time is counted once, by rank 0 */
    tw_ctx *ctx;
    tw_comm **comms; /* nlocal */
    tw_sim *sim;
    void *impl;
    const char *mpi_library; /* NULL: none */
    tw_status failure;       /* the first failure on this world's ranks */
    int failed_rank;
    char sentence[BA_TEXT];
};
/* Makes the worlds of cfg->transport, runs body in each and returns the exit status that rank 0's gave. */
int ba_worlds(const ba_config *cfg, int (*body)(ba_world *w));
int ba_worlds_mpi(const ba_config *cfg, int (*body)(ba_world *w));
/* Notes the first failure (with tw_last_error); returns whether s is one. */
bool ba_failed(ba_world *w, int rank, tw_status s, const char *what);
bool ba_problem(ba_world *w, int rank, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Collective: whether no rank noted a failure. If one did, every world's sentence is then that rank's. */
bool ba_agree(ba_world *w);

/* Seconds in which all ranks at once can make the codec's passes over memory; NaN: not measured. */
typedef struct ba_memory {
    double all;   /* the encoder's reads and writes of all values, and the writes of all outputs */
    double write; /* the writes of all outputs alone: they follow the last frame */
} ba_memory;

/* ---- one row (bench_allreduce_row.c) ---- */
typedef struct ba_sums {                               /* of the timed iterations */
    double cpu, cpu_sys, encode, reduce, decode, wait; /* seconds: cpu over all ranks, the rest mean over ranks */
    double mpi_cpu;
} ba_sums;
typedef struct ba_row {
    uint64_t bytes; /* of the dense message of one rank */
    const char *codec, *algo;
    double time_min, time_median, time_p99; /* seconds */
    double wire_bytes;                      /* largest rank's, mean over iterations */
    bool wire_computed;                     /* some of it is 2(P-1)/P x the bytes given to a native sum */
    double ratio;
    ba_sums mean;
    double rel_l2, bound; /* NaN: not known */
    double mpi, mpi_half; /* seconds, NaN: not measured */
    const char *mpi_best;
    double limit; /* seconds; NaN: no rate given */
    ba_memory memory;
    uint64_t state_bytes, frame_bytes;
    bool same, ok;
    char problem[BA_TEXT]; /* "" or why not ok */
} ba_row;
/* Collective. false: the run cannot go on (w->sentence says why); else the row, good or bad, is complete. */
bool ba_run_row(ba_world *w, uint64_t bytes, const char *codec, ba_row *row);

/* What of the message's bytes the busiest rank must send if nothing is compressed. */
double ba_share(const ba_world *w);

/* ---- the limit that memory sets (bench_allreduce_memory.c) ----
 * Collective. NaN for sim, half precision, messages below a tile or too large. */
ba_memory ba_memory_limit(ba_world *w, const char *codec, uint64_t bytes);

/* ---- output (bench_allreduce_print.c); rank 0 only ---- */
void ba_print_header(const ba_world *w);
void ba_print_row(const ba_world *w, const ba_row *row);
void ba_json_row(const ba_world *w, const ba_row *row, FILE *to);
void ba_print_progress(const ba_world *w, const char *codec, uint64_t bytes, uint32_t done, uint32_t of);
void ba_clear_progress(const ba_world *w);

#endif
