/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Random rules, their text, and who gets which. */
#include "trial.h"
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

static uint32_t draw_group(trial *t) {
    uint32_t group = 128;
    while (group < t->rc.tile && rng_chance(&t->rng, 50))
        group *= 2;
    return group;
}

static void draw_quant(trial *t, tw_spec *s) {
    static const uint16_t bits[] = {8, 6, 4, 3, 2}, scales[] = {TW_SCALE_ABSMAX, TW_SCALE_MINMAX, TW_SCALE_MSE};
    rng *r = &t->rng;
    s->codec = TW_CODEC_QUANT;
    s->bits = bits[rng_below(r, 5)];
    s->scale = scales[rng_below(r, 3)];
    s->group = draw_group(t);
    s->rounding = rng_chance(r, 70) ? TW_ROUNDING_NEAREST : TW_ROUNDING_STOCHASTIC;
    s->rotate = rng_chance(r, 80) ? TW_ROTATE_NONE : TW_ROTATE_HADAMARD;
    s->seed = rng_chance(r, 50) ? 0 : (uint32_t)rng_below(r, UINT64_C(1) << 32);
}

/* From one value of a tile to all of them. */
static void draw_randk(rng *r, tw_spec *s) {
    static const uint32_t densities[] = {1, 4000000, 10000000, 30000000, 100000000, 500000000, 999999999, 1000000000};
    s->codec = TW_CODEC_RANDK;
    s->scale = rng_chance(r, 75) ? TW_SCALE_PLAIN : TW_SCALE_UNBIASED;
    s->density = densities[rng_below(r, 8)];
    s->seed = rng_chance(r, 50) ? 0 : (uint32_t)rng_below(r, UINT64_C(1) << 32);
}

void trial_draw_feedback(trial *t, tw_spec *s, uint32_t percent) {
    static const uint32_t rates[] = {1, 500000000, 800000000, 950000000, 999999999};
    s->feedback = rng_chance(&t->rng, percent) ? TW_FEEDBACK_EF : TW_FEEDBACK_NONE;
    if (s->feedback == TW_FEEDBACK_EF && rng_chance(&t->rng, 25)) {
        s->feedback = TW_FEEDBACK_DECAY;
        s->rate = rates[rng_below(&t->rng, 5)];
    }
}

tw_spec trial_draw_tiled(trial *t) {
    tw_spec s = TW_SPEC_INIT;
    rng *r = &t->rng;
    uint64_t kind = t->adds ? 11 : rng_below(r, 18);
    if (kind < 2) {
        s.codec = TW_CODEC_NONE;
    } else if (kind < 5) {
        s.codec = TW_CODEC_CAST;
        s.type = (uint16_t)(TW_F16 + rng_below(r, 4));
        s.group = s.type > TW_BF16 ? draw_group(t) : 0;
    } else if (kind < 9) {
        draw_quant(t, &s);
    } else if (kind < 11) {
        s.codec = TW_CODEC_TERNARY;
        s.group = draw_group(t);
        s.rounding = rng_chance(r, 60) ? TW_ROUNDING_NEAREST : TW_ROUNDING_STOCHASTIC;
        s.seed = rng_chance(r, 50) ? 0 : (uint32_t)rng_below(r, UINT64_C(1) << 32);
    } else if (kind < 13) {
        draw_randk(r, &s);
    } else {
        s.codec = TW_CODEC_ONEBIT;
        s.scale = rng_chance(r, 50) ? TW_SCALE_MEAN : rng_chance(r, 50) ? TW_SCALE_RMS : TW_SCALE_TWOSIDED;
        s.group = draw_group(t);
    }
    bool can = s.scale != TW_SCALE_UNBIASED;
    trial_draw_feedback(t, &s, can ? s.codec == TW_CODEC_NONE ? 30 : 70 : 0);
    return s;
}

/* The values through any tiled codec; groups of theirs may be longer than the tile. */
static void draw_topk(trial *t, tw_spec *s) {
    static const uint32_t density[] = {1, 1000, 1000000, 10000000, 50000000, 300000000, 999999999, 1000000000};
    rng *r = &t->rng;
    tw_spec v = rng_chance(r, 40) ? (tw_spec)TW_SPEC_INIT : trial_draw_tiled(t);
    if (v.codec == TW_CODEC_RANDK) /* its share of the values is not theirs */
        v = (tw_spec)TW_SPEC_INIT;
    s->codec = TW_CODEC_TOPK;
    s->density = density[rng_below(r, 8)];
    s->select = (uint16_t)rng_range(r, TW_SELECT_EXACT, TW_SELECT_GROUP);
    s->group = s->select == TW_SELECT_GROUP ? draw_group(t) : 4096;
    s->values = (tw_values){.codec = v.codec,
                            .type = v.type,
                            .scale = v.scale,
                            .bits = v.bits,
                            .rounding = v.rounding,
                            .rotate = v.rotate,
                            .group = v.group};
}

tw_spec trial_draw_spec(trial *t) {
    tw_spec s = TW_SPEC_INIT;
    if (t->adds || rng_chance(&t->rng, 75))
        return trial_draw_tiled(t);
    draw_topk(t, &s);
    trial_draw_feedback(t, &s, 70);
    return s;
}

static void write_quant(char *text, size_t room, const tw_spec *s) {
    static const char *const scales[] = {
        [TW_SCALE_ABSMAX] = "absmax", [TW_SCALE_MINMAX] = "minmax", [TW_SCALE_MSE] = "mse"};
    snprintf(text, room, "quant:bits=%u,group=%u,rounding=%s,scale=%s,rotate=%s,seed=%u", s->bits, s->group,
             s->rounding == TW_ROUNDING_STOCHASTIC ? "stochastic" : "nearest", scales[s->scale],
             s->rotate == TW_ROTATE_HADAMARD ? "hadamard" : "none", s->seed);
}

static void write_spec(char *text, size_t room, const tw_spec *s);

static void write_topk(char *text, size_t room, const tw_spec *s) {
    static const char *const select[] = {"", "exact", "threshold", "group"};
    tw_spec v = model_values_of(s);
    snprintf(text, room, "topk:density=%u.%09u,select=%s", s->density / 1000000000u, s->density % 1000000000u,
             select[s->select]);
    if (s->select == TW_SELECT_GROUP)
        snprintf(text + strlen(text), room - strlen(text), ",group=%u", s->group);
    snprintf(text + strlen(text), room - strlen(text), ",values=(");
    write_spec(text, room, &v);
    snprintf(text + strlen(text), room - strlen(text), ")");
}

static void write_spec(char *text, size_t room, const tw_spec *s) {
    static const char *const type[] = {"", "", "fp16", "bf16", "fp8e4m3", "fp8e5m2"};
    static const char *const form[] = {"", "mean", "rms", "twosided"};
    size_t at = strlen(text);
    if (s->codec == TW_CODEC_TOPK)
        write_topk(text + at, room - at, s);
    else if (s->codec == TW_CODEC_NONE)
        snprintf(text + at, room - at, "none");
    else if (s->codec == TW_CODEC_CAST)
        snprintf(text + at, room - at, s->group ? "cast:type=%s,group=%u" : "cast:type=%s", type[s->type], s->group);
    else if (s->codec == TW_CODEC_QUANT)
        write_quant(text + at, room - at, s);
    else if (s->codec == TW_CODEC_TERNARY)
        snprintf(text + at, room - at, "ternary:group=%u,rounding=%s,seed=%u", s->group,
                 s->rounding == TW_ROUNDING_STOCHASTIC ? "stochastic" : "nearest", s->seed);
    else if (s->codec == TW_CODEC_RANDK)
        snprintf(text + at, room - at, "randk:density=%u.%09u,scale=%s,seed=%u", s->density / 1000000000,
                 s->density % 1000000000, s->scale == TW_SCALE_UNBIASED ? "unbiased" : "none", s->seed);
    else
        snprintf(text + at, room - at, "onebit:group=%u,scale=%s", s->group, form[s->scale]);
    at = strlen(text);
    if (s->feedback == TW_FEEDBACK_EF)
        snprintf(text + at, room - at, "+ef");
    else if (s->feedback == TW_FEEDBACK_DECAY)
        snprintf(text + at, room - at, "+decay:beta=0.%09u", s->rate);
    else if (s->feedback == TW_FEEDBACK_DGC)
        snprintf(text + at, room - at, "+dgc:momentum=0.%09u", s->rate);
}

static void draw_patterns(trial *t, rule *u) {
    static const char *const globs[] = {"*", "*.bias", "*norm*", "blk?.*", "*.w", "l[0-2]*", "*[!w]", "embed"};
    u->npattern = (uint32_t)rng_range(&t->rng, 1, 3);
    for (uint32_t i = 0; i < u->npattern; i++) {
        bool exact = t->nlayer && rng_chance(&t->rng, 25);
        const char *p = exact ? t->layer[rng_below(&t->rng, t->nlayer)].name : globs[rng_below(&t->rng, 8)];
        snprintf(u->pattern[i], sizeof u->pattern[i], "%s", p);
    }
}

static void draw_phases(trial *t, rule *u) {
    uint64_t until = t->next_number;
    u->nphase = rng_chance(&t->rng, 55) ? 1 : (uint32_t)rng_range(&t->rng, 2, MOST_PHASES);
    for (uint32_t i = 0; i < u->nphase; i++) {
        until += rng_range(&t->rng, 1, 4);
        u->phase[i].spec = trial_draw_spec(t);
        if (u->phase[i].spec.codec == TW_CODEC_TOPK && u->phase[i].spec.feedback == TW_FEEDBACK_EF &&
            rng_chance(&t->rng, 35)) {
            u->phase[i].spec.feedback = TW_FEEDBACK_DGC;
            u->phase[i].spec.rate = rng_chance(&t->rng, 50) ? 900000000 : (uint32_t)rng_range(&t->rng, 1, 999999999);
        }
        if (i >= 2 && rng_chance(&t->rng, 40)) /* and back */
            u->phase[i].spec = u->phase[i - 2].spec;
        u->phase[i].until = i + 1 < u->nphase ? until : UINT64_MAX;
    }
}

static void write_rule(trial *t, const rule *u) {
    char *text = t->rules;
    size_t room = sizeof t->rules;
    snprintf(text + strlen(text), room - strlen(text), "%s", *text ? "; " : "");
    for (uint32_t i = 0; i < u->npattern; i++)
        snprintf(text + strlen(text), room - strlen(text), "%s%s", i ? "|" : "", u->pattern[i]);
    snprintf(text + strlen(text), room - strlen(text), "=");
    for (uint32_t i = 0; i < u->nphase; i++) {
        write_spec(text, room, &u->phase[i].spec);
        if (i + 1 < u->nphase)
            snprintf(text + strlen(text), room - strlen(text), " until %llu then ",
                     (unsigned long long)u->phase[i].until);
    }
}

static void assign(trial *t, layer *l) {
    static const phase none = {TW_SPEC_INIT, UINT64_MAX};
    l->phase = &none;
    l->nphase = 1;
    for (uint32_t i = 0; i < t->nrule; i++)
        for (uint32_t k = 0; k < t->rule[i].npattern; k++)
            if (fnmatch(t->rule[i].pattern[k], l->name, 0) == 0) {
                l->phase = t->rule[i].phase;
                l->nphase = t->rule[i].nphase;
                return;
            }
}

void trial_draw_rules(trial *t) {
    t->rules[0] = 0;
    t->nrule = rng_chance(&t->rng, 8) && !t->adds ? 0 : (uint32_t)rng_range(&t->rng, 1, MOST_RULES);
    for (uint32_t i = 0; i < t->nrule; i++) {
        rule *u = &t->rule[i];
        draw_patterns(t, u);
        if (i + 1 == t->nrule && (rng_chance(&t->rng, 85) || t->adds))
            snprintf(u->pattern[0], sizeof u->pattern[0], "*"); /* most layers meet a codec */
        draw_phases(t, u);
        write_rule(t, u);
    }
    for (uint32_t i = 0; i < t->nlayer; i++)
        assign(t, &t->layer[i]);
}
