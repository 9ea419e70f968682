/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thinwire-plan: what compression would do for a model on a network that nobody has yet. */
#ifndef PLAN_TOOL_H
#define PLAN_TOOL_H

#include <stdio.h>
#include "tools/codec/input.h"

enum {
    PLAN_MOST_LAYERS = 10000,
    PLAN_MOST_CANDIDATES = 64,
    PLAN_MOST_RANKS = 4096,
    PLAN_SPEC = 160,           /* room for a spec's text */
    PLAN_RANKS_LOOKED_AT = 64, /* all of so many; of more, PLAN_RANKS_SAMPLED, a quarter of them owners */
    PLAN_RANKS_SAMPLED = 16
};
#define PLAN_MOST_VALUES ((uint64_t)1 << 33) /* of all layers together: plans of more take gigabytes themselves */
#define PLAN_SLOWEST     1e5                 /* bits/s: the ends of the grid of rates */
#define PLAN_FASTEST     1e14
#define PLAN_NEAR        0.1  /* a distance beyond it says nothing */
#define PLAN_GAIN        1.02 /* what is not better by so much is not worth it */

typedef enum plan_errors { PLAN_LAPLACE, PLAN_NORMAL, PLAN_STUDENT, PLAN_DATA } plan_errors;

typedef struct plan_options {
    const char *layers, *budget, *families, *candidates, *speeds, *json;
    uint64_t ranks, small, bucket;
    double link, goodput, latency, message, cores, step, overlap;
    plan_errors errors;
    bool squares, quiet;
} plan_options;

/* TW_OK; TW_IN_PROGRESS: help was asked for and is out; TW_ERR_ARG: the sentence is out. */
tw_status plan_parse(plan_options *o, int argc, char **argv);

/* ---- layers: plan_layers.c, plan_json.c ---- */
typedef struct plan_layer {
    char *name;
    uint64_t count, columns; /* columns 0: a vector */
    tw_dtype dtype;
    uint64_t at;   /* of its values in the file */
    double norm;   /* of its gradient */
    bool has_norm; /* it was told */
    bool is_small; /* goes as it is */
} plan_layer;

typedef struct plan_layers {
    plan_layer *item;
    uint32_t n, cap;
    uint64_t values, bytes;
    tc_input file;        /* .safetensors; else closed */
    bool is_file, warned; /* warned: of a key that is not known */
} plan_layers;

tw_status plan_layers_read(plan_layers *l, const plan_options *o);
void plan_layers_free(plan_layers *l);
/* A layer more; its name is copied. shape: what columns follow from. */
tw_status plan_layers_add(plan_layers *l, const plan_layer *given, const uint64_t *shape, uint32_t dims);
tw_status plan_json_layers(tc_source *from, plan_layers *l);

/* ---- candidates: plan_candidates.c, plan_measure.c ---- */
typedef struct plan_candidate {
    char text[PLAN_SPEC]; /* canonical */
    tw_spec spec;
    bool allowed;          /* false: stands here as the budget only */
    double encode, decode; /* seconds a value, on one core */
    double lost;           /* ||x - decoded|| / ||x|| of drawn values; of low-rank codecs it is asked for by layer */
} plan_candidate;

typedef struct plan_candidates {
    plan_candidate item[PLAN_MOST_CANDIDATES];
    uint32_t n, uniform; /* uniform: whose error is the budget; 0 is `none` */
} plan_candidates;

tw_status plan_candidates_list(plan_candidates *c, const plan_options *o);
bool plan_is_lowrank(const plan_candidate *c);
/* Low-rank codecs: factors of that layer are shorter than its values. Others: true. */
bool plan_fits(const plan_candidate *c, const plan_layer *l);
tw_status plan_measure_speeds(plan_candidates *c, const plan_options *o);
tw_status plan_json_speeds(const char *path, plan_candidates *c);
/* What each candidate loses of each layer: lost[layer * candidates + candidate], and the layers' norms. */
tw_status plan_measure_errors(plan_candidates *c, plan_layers *l, const plan_options *o, double *lost);

/* ---- the model: plan_model.c ---- */
typedef struct plan_cost {
    double wire,
        codec;     /* bytes that a rank sends on average; seconds of one core: encoding, the owner's sum, decoding */
    uint32_t sums; /* of factors, one after another */
} plan_cost;

typedef struct plan_time {
    double wire, codec, exposed, step; /* seconds; codec: on the cores that there are */
} plan_time;

/* Bits a second between which compressing pays. below 0: at no rate tried; Inf: at the fastest, too. from 0: at the slowest. */
typedef struct plan_span {
    double from, below;
} plan_span;

typedef struct plan_result {
    const plan_options *o;
    plan_layers *layers;
    plan_candidates *candidates;
    double *lost;     /* [layers * candidates] */
    plan_cost *cost;  /* likewise */
    uint32_t *chosen; /* [layers]: candidates */
    plan_time dense, half, uniform, best;
    plan_cost sum;        /* of chosen */
    double error, budget; /* sums of chosen, of the uniform setting */
    double distance;      /* of the chosen step from one that is proven to be no longer than any, as a share */
    plan_span pays_dense, pays_half;
    bool compress, by_half;    /* by_half: plain halves are as good as the best choice */
    bool latency_alone;        /* it would not compress if messages took no time */
    char *rules;               /* of the verdict: where it is not to compress, `none` or halves */
    const char *rules_problem; /* why there are none; NULL: they were checked */
    double most_wire,
        least_wire;      /* what ranks send by those rules, as tw_plan_compute has it for `ranks_seen` of them */
    double average_wire; /* of all ranks */
    uint32_t ranks_seen;
    tw_memory memory; /* of rank 0 */
} plan_result;

tw_status plan_solve(plan_result *r);
void plan_result_free(plan_result *r);
/* Of one layer, bytes by tw_plan_compute. */
tw_status plan_layer_cost(const plan_options *o, const plan_layer *l, const plan_candidate *c, plan_cost *cost);

/* ---- rules: plan_rules.c ---- */
tw_status plan_write_rules(plan_result *r);

/* ---- report: plan_report.c ---- */
void plan_print(const plan_result *r, FILE *to);
void plan_print_json(const plan_result *r, FILE *to);

#endif
