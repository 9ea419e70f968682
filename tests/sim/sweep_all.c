/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The whole product: every codec, with and without feedback, in every collective and by every algorithm that takes it, with 1,
 * 2, 3, 5 and 8 ranks, in every dtype, on inputs that are known to be hard. Through owners by scatter.c, factors by lowrank.c;
 * gathers and native sums by the trials of property.c, with nothing left to chance but the inputs. */
#include "trial.h"
#include "core/core.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* What codecs are known to trip over. The last but one leaves residuals of its size; the last is told by nothing else. */
static const char *const names[] = {"plain",       "zeros", "one outlier",     "constant", "denormal", "alternating",
                                    "equal sizes", "ties",  "mixed with zero", "largest",  "NaN, Inf", "plain again"};
_Static_assert(sizeof names / sizeof names[0] == TRIAL_ADVERSARIES, "one for each");

const char *trial_adversary_name(uint64_t kind) {
    return names[kind];
}

static float value(rng *r, uint64_t kind, tw_dtype t, uint64_t i) {
    float x = (float)(rng_unit(r) * 2 - 1), small = t == TW_F16 ? 0x1p-24f : 0x1p-133f,
          large = t == TW_F16 ? 6e4f : 1e38f;
    switch (kind) {
    case 1:
        return i % 2 ? -0.0f : 0.0f;
    case 2:
        return i == 333 ? large * 0x1p-12f : x * 0x1p-10f;
    case 3:
        return 0.375f;
    case 4:
        return (float)(int)(x * 40) * small;
    case 5:
        return i % 2 ? -0.7f : 0.7f;
    case 6:
        return copysignf(1.5f, x);
    case 7:
        return (float)(int)(x * 4) * 0.25f;
    case 8:
        return i % 16 ? 0.0f : x;
    case 9:
        return rng_chance(r, 50) ? x * large : x / large;
    case 10:
        return i == 5 ? NAN : i == 900 ? INFINITY : x;
    default:
        return x;
    }
}

float trial_adversary(rng *r, uint64_t kind, tw_dtype t, uint64_t i) {
    return model_to_dtype(value(r, kind, t, i), t);
}

static const char *const swept[] = {
    "none",
    "cast:type=bf16",
    "cast:type=fp16",
    "cast:type=fp8e4m3,group=128",
    "cast:type=fp8e5m2,group=128",
    "onebit:group=128",
    "onebit:group=128+decay:beta=0.9",
    "onebit:group=128,scale=rms",
    "onebit:group=128,scale=twosided",
    "quant:group=128",
    "quant:bits=6,group=128,scale=minmax",
    "quant:bits=4,group=128,scale=mse",
    "quant:bits=3,group=128,rounding=stochastic",
    "quant:bits=2,group=128,scale=mse,rotate=hadamard",
    "ternary:group=128",
    "ternary:group=128,rounding=stochastic",
    "ternary:density=0.2",
    "randk:density=0.1",
    "randk:density=0.1,scale=unbiased",
    "topk:density=0.1",
    "topk:density=0.05,select=threshold,values=(cast:type=fp16)",
    "topk:density=0.1,select=group,group=128,values=(quant:bits=4,group=128)",
};

static const char *const swept_factors[] = {
    "powersgd:rank=2",
    "powersgd:rank=3,iterations=2",
    "powersgd:rank=1,warm_start=0",
};

/* ---- gathers and native sums ---- */

static bool by_trial(trial *t, tw_spec spec, int ranks, tw_dtype dtype, tw_algo algo) {
    char text[160];
    bool verbose = t->verbose;
    memset(t, 0, sizeof *t);
    t->verbose = verbose;
    t->hard = true;
    t->seed = t->rng.state = (uint64_t)ranks << 8 | dtype << 4 | algo;
    t->ranks = ranks;
    t->rc = (tw_reducer_config)TW_REDUCER_CONFIG_INIT;
    t->rc.tile = 128;
    t->rc.redop = ranks % 2 ? TW_SUM : TW_AVG;
    t->rc.nonfinite = TW_NONFINITE_PROPAGATE;
    t->rc.frame_bytes = 600;
    t->rc.algo = algo;
    t->nstep = TRIAL_ADVERSARIES;
    t->nlayer = t->nrule = 1;
    t->deadline = 10;
    t->net = (tw_sim_config)TW_SIM_CONFIG_INIT;
    t->net.ranks = ranks;
    t->net.seed = t->seed;
    t->net.reorder = 0.3;
    t->net.jitter_s = 50e-6;
    t->rule[0].phase[0] = (phase){spec, UINT64_MAX};
    t->layer[0] = (layer){.name = "swept.w", .count = 9 * 128 + 17, .tiles = 10, .dtype = dtype};
    t->layer[0].phase = t->rule[0].phase;
    t->layer[0].nphase = 1;
    tw_spec_format(&spec, text, sizeof text);
    snprintf(t->rules, sizeof t->rules, "swept.w=%s", text);
    return trial_run(t);
}

static bool sums_natively(const tw_spec *s, tw_dtype dtype) {
    return dtype == TW_F32 &&
           (s->codec == TW_CODEC_RANDK || (s->codec == TW_CODEC_NONE && s->feedback == TW_FEEDBACK_NONE));
}

/* ---- all ---- */

enum { HOW_SCATTER = 3, HOW_GATHER = HOW_SCATTER, HOW_NATIVE, HOW_COUNT };
static const char *const how_names[] = {"allreduce", "reduce-scatter", "allgather", "allreduce by gather",
                                        "allreduce by native sums"};

static bool one_way(trial *t, tw_spec spec, int ranks, tw_dtype dtype, uint32_t how) {
    if (spec.codec == TW_CODEC_POWERSGD)
        return lowrank_sweep(t, spec, ranks, dtype);
    if (how < HOW_SCATTER)
        return scatter_sweep(t, spec, ranks, dtype, how);
    return by_trial(t, spec, ranks, dtype, how == HOW_GATHER ? TW_ALGO_GATHER : TW_ALGO_NATIVE);
}

static bool sweep_spec(trial *t, tw_spec spec, uint64_t *done) {
    static const int ranks[] = {1, 2, 3, 5, 8};
    bool factors = spec.codec == TW_CODEC_POWERSGD; /* which go one way whatever is asked for */
    for (uint32_t i = 0; i < 5 * 3 * HOW_COUNT; i++) {
        tw_dtype dtype = (tw_dtype)(TW_F32 + i / HOW_COUNT % 3);
        uint32_t how = i % HOW_COUNT;
        char text[160];
        if ((factors && how > 0) || (how == HOW_NATIVE && !sums_natively(&spec, dtype)))
            continue;
        ++*done;
        if (one_way(t, spec, ranks[i / (3 * HOW_COUNT)], dtype, how))
            continue;
        tw_spec_format(&spec, text, sizeof text);
        printf("FAILED: %s, %d ranks, %s, %s: %s\n", text, ranks[i / (3 * HOW_COUNT)], tw_dtype_name(dtype),
               how_names[how], t->why);
        return false;
    }
    return true;
}

static bool sweep_list(trial *t, const char *const *list, size_t n, bool seen[TW_CODECS], uint64_t *done) {
    tw_spec spec;
    for (size_t i = 0; i < n; i++) {
        if (tw_spec_parse(list[i], &spec) != TW_OK)
            return trial_fail(t, "'%s': %s", list[i], tw_last_error());
        seen[spec.codec] = true;
        if (!sweep_spec(t, spec, done))
            return false;
        spec.feedback = TW_FEEDBACK_EF;
        if (tw_spec_check(&spec) == TW_OK && !sweep_spec(t, spec, done))
            return false;
    }
    return true;
}

bool sweep_all(trial *t, uint64_t *done) {
    bool seen[TW_CODECS] = {true}; /* there is no codec 0 */
    if (!sweep_list(t, swept, sizeof swept / sizeof swept[0], seen, done) ||
        !sweep_list(t, swept_factors, sizeof swept_factors / sizeof swept_factors[0], seen, done))
        return false;
    for (uint32_t c = 0; c < TW_CODECS; c++)
        if (!seen[c])
            return trial_fail(t, "the list of this test has no spec of codec %u", c);
    return true;
}
