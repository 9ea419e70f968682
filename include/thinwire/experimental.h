/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Experimental interface: may change in any release. The simulator, the plan calculator, the solver
 * of the choice of settings, and codecs by hand. */
#ifndef THINWIRE_EXPERIMENTAL_H
#define THINWIRE_EXPERIMENTAL_H

#include <thinwire/thinwire.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- sim: all ranks in one thread, a virtual clock, every fault from one seed ---- */
typedef struct tw_sim tw_sim;
typedef struct tw_sim_config {
    uint32_t size;
    int32_t ranks;
    uint64_t seed;
    double latency_s, jitter_s;  /* a frame's delay: latency + uniform [0, jitter) */
    double bandwidth;            /* bytes/s of each rank's port, each way; 0: unlimited */
    double compute_values_per_s; /* codec speed charged to the virtual clock; 0: free */
    double reorder;              /* probability that a frame is held back for up to 10 latencies (across tags and peers) */
    double loss, corruption, truncation; /* probability per frame. The transport does not repair */
    int32_t dead_rank;           /* this rank stops sending and receiving ... (-1: none) */
    uint64_t dead_after;         /* ... once it has sent so many frames */
    uint32_t detects;            /* 1: peers of a dead rank get TW_ERR_PEER; 0: they run into the deadline */
} tw_sim_config;
#define TW_SIM_CONFIG_INIT {sizeof(tw_sim_config), 2, 1, 20e-6, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1, 0, 0}

TW_API tw_status tw_sim_create(tw_ctx *c, const tw_sim_config *cfg, tw_sim **out);
/* Fills comms[0..ranks-1]; destroy them before the sim. */
TW_API tw_status tw_sim_comms(tw_sim *s, tw_ctx *c, tw_comm *comms[]);
/* What tw_reducer_create is on real ranks, for all ranks of a sim at once: layers[r], n[r], rules[r], cfg[r] may differ
 * (that is an error to be found). statuses[r] may be NULL. Returns the first failure. */
TW_API tw_status tw_sim_reducers(tw_sim *s, tw_comm *const comms[], const tw_layer *const layers[], const uint32_t n[],
                                 const char *const rules[], const tw_reducer_config *const cfg[], tw_reducer *out[]);
/* Pumps all ranks and moves the clock until nothing is left to do. Blocking calls on any rank (end, wait) pump too. */
TW_API tw_status tw_sim_run(tw_sim *s);
TW_API double tw_sim_now(const tw_sim *s);
/* Frames and bytes that left a rank's port so far, as the network counted them. */
TW_API void tw_sim_counters(const tw_sim *s, int rank, uint64_t *frames, uint64_t *bytes);
TW_API tw_status tw_sim_destroy(tw_sim *s);

/* ---- plan: what one op over whole layers would do, computed without memory for the data. Where
 * low-rank layers cannot share it with their neighbours there are several, which are added up (hops and roundings: the largest) ---- */
typedef struct tw_plan_info {
    uint32_t size, hops, roundings, reserved;
    uint64_t actions, frames, sends;
    uint64_t payload_bytes; /* this rank sends, without headers and trailers */
    uint64_t wire_bytes;    /* this rank sends */
    uint64_t arena_bytes;   /* frame memory of this rank */
    uint64_t native_bytes;  /* values that the transport's own sums take from this rank, not in payload_bytes and wire_bytes */
    uint64_t all_bytes;     /* all ranks send together: their wire_bytes, and native sums as a ring would make them */
} tw_plan_info;
#define TW_PLAN_INFO_INIT {sizeof(tw_plan_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
TW_API tw_status tw_plan_compute(int rank, int size, const tw_layer *layers, uint32_t n, const char *rules,
                                 const tw_reducer_config *cfg, tw_plan_info *out);
/* The rank that sums a tile. */
TW_API int tw_owner(const char *layer, uint64_t tile, uint64_t tiles, int size);

/* ---- solver: a candidate for each layer, at the least cost within an error budget ----
 *
 * The problem is a multiple-choice knapsack; L-GreCo (2210.17357) solves it in 10,000 bins of the budget, rounded up. Here a
 * relaxation gives a bound that proves how good the choice is, and dynamic programming without bins betters the choice
 * where it is more than 0.08 % from that bound, or at all with up to 64 layers. Of two sums the bound is that of a weighted
 * one: with few layers it can be far below what is possible (up to 16,384 choices are all tried). */
typedef struct tw_candidate {
    double wire, codec; /* what the setting costs this layer: bytes, or seconds of either; 0 .. 1e30 */
    double error;       /* in the budget's unit: norms as L-GreCo has them, or squares; 0, or 1e-100 .. 1e90 */
} tw_candidate;
typedef struct tw_solution {
    uint32_t size;
    uint32_t exact;              /* 1: nothing better exists; not proven of most choices with two sums */
    double wire, codec, error;   /* sums over the layers, in their order; error <= budget */
    double cost;                 /* the larger of the sums of wire and codec, which is what was made small */
    double bound;                /* proven: no choice within the budget costs less */
} tw_solution;
#define TW_SOLUTION_INIT {sizeof(tw_solution), 0, 0.0, 0.0, 0.0, 0.0, 0.0}
/* candidates[first[i]] .. candidates[first[i+1]-1] are those of layer i, 1 to 1024; first has layers+1 entries. uniform (may
 * be NULL) is a choice to begin with: the result is never worse, if it is within the budget. chosen[i] becomes the number of
 * layer i's candidate among its own, as in uniform. The same input gives the same choice everywhere. TW_ERR_ARG if no choice
 * is within the budget; chosen and out are then untouched. Thread-safe; while it works it holds up to 20 MB and 32 bytes a
 * candidate. */
TW_API tw_status tw_solve(tw_ctx *c, const tw_candidate *candidates, const uint32_t *first, uint32_t layers, double budget,
                          const uint32_t *uniform, uint32_t *chosen, tw_solution *out);

/* ---- codec: one tile by hand, for benchmarks and tests. isa: "ref", "avx2", "avx512", "neon", or NULL for the chosen one ---- */
typedef struct tw_tile_stat {
    double x_sq, e_sq;  /* sum of squares of what was to be sent, and of what was lost; exact to 2^-16 relative */
    uint32_t nonfinite; /* 1: some value was NaN or Inf; the payload then decodes to NaN or Inf there */
    uint32_t reserved;
} tw_tile_stat;
/* x = in*scale + e, e NULL for none; payload to dst (tw_spec_bound bytes); e_out (may be NULL) gets x - decoded. fp32
 * arrays, 64-byte aligned e and e_out; n <= 4096. */
TW_API tw_status tw_tile_encode(const char *isa, const tw_spec *s, const float *in, const float *e, float scale, uint32_t n,
                                void *dst, float *e_out, tw_tile_stat *stat);
/* y = decoded, or y += decoded. */
TW_API tw_status tw_tile_decode(const char *isa, const tw_spec *s, const void *src, float *y, uint32_t n, int add);
/* The random numbers of a tile of n values, as stochastic rounding takes them: a byte a value, words[ceil(n/512) * 128]. */
TW_API tw_status tw_tile_draw(const char *isa, uint32_t seed, uint32_t n, uint32_t *words);
/* NUL-terminated names of the ISAs that this build has and this CPU can run, best last; the one chosen, and why. */
TW_API const char *const *tw_isa_list(void);
TW_API const char *tw_isa_chosen(const char **why);
/* Lines "NAME\tvalue now\tdefault\tmeaning" of the environment table, for thinwire-info. */
TW_API const char *tw_env_line(unsigned i);
/* What is wrong with the value of that line: the sentence with which contexts fail; "": nothing. NULL past the last. */
TW_API const char *tw_env_problem(unsigned i);
/* hwloc's view (or the fall-back's): cores this process may use, L2 bytes; the text says which source spoke. */
TW_API void tw_topology(uint32_t *cores, uint64_t *l2_bytes, const char **source);

#ifdef __cplusplus
}
#endif
#endif
