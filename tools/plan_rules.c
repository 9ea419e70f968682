/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The choice as rules for tw_reducer_create, checked by what the library makes of them. */
#include <ctype.h>
#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>

#include "plan_tool.h"
#include "reducer/rules.h"

/* ---- patterns ---- */

typedef enum pattern_kind { BY_END, BY_NUMBER, BY_NAME, PATTERN_KINDS } pattern_kind;

/* What has a meaning in rules or globs, spaces, which rules take off, and what a terminal would obey become '?'; of several
 * bytes '*', since '?' is a byte in some locales and a character in others. Bytes taken. */
static size_t as_glob(const char *p, char *to) {
    size_t hidden = tc_hidden(p);
    *to = hidden > 1 ? '*' : hidden || strchr("*?[]\\|;=", *p) || isspace((unsigned char)*p) ? '?' : *p;
    return hidden > 1 ? hidden : 1;
}

/* "*.bias", "h.*.weight" for "h.3.weight", or the name. False: it has no such pattern. */
static bool make_pattern(pattern_kind kind, const char *name, char *to) {
    const char *dot = strrchr(name, '.');
    bool number = false;
    if (kind == BY_END) {
        if (!dot || !dot[1])
            return false;
        *to++ = '*';
        name = dot;
    }
    while (*name) {
        bool digit = kind == BY_NUMBER && isdigit((unsigned char)*name);
        if (digit && isdigit((unsigned char)name[1])) {
            name++;
            continue;
        }
        name += as_glob(name, to);
        *to = digit ? '*' : *to;
        to++;
        number |= digit;
    }
    *to = 0;
    return kind != BY_NUMBER || number;
}

/* All layers that it matches have the setting `want`. */
static bool holds(const plan_result *r, const char *pattern, uint32_t want) {
    for (uint32_t i = 0; i < r->layers->n; i++)
        if (r->chosen[i] != want && fnmatch(pattern, r->layers->item[i].name, 0) == 0)
            return false;
    return true;
}

static void cover(const plan_result *r, const char *pattern, bool *covered) {
    for (uint32_t i = 0; i < r->layers->n; i++)
        covered[i] = covered[i] || fnmatch(pattern, r->layers->item[i].name, 0) == 0;
}

/* ---- rules ---- */

static uint32_t most_common(const plan_result *r) {
    uint32_t count[PLAN_MOST_CANDIDATES] = {0}, best = 0;
    for (uint32_t i = 0; i < r->layers->n; i++)
        count[r->chosen[i]]++;
    for (uint32_t k = 1; k < r->candidates->n; k++)
        best = count[k] > count[best] ? k : best;
    return best;
}

/* Shortest patterns first; a name always holds unless two become the same with '?'. */
static void write_setting(const plan_result *r, uint32_t k, bool *covered, char *pattern, FILE *to) {
    const char *bar = "";
    for (uint32_t i = 0; i < r->layers->n; i++) {
        bool done = r->chosen[i] != k || covered[i];
        for (int kind = BY_END; kind < PATTERN_KINDS && !done; kind++) {
            if (!make_pattern((pattern_kind)kind, r->layers->item[i].name, pattern) ||
                (kind != BY_NAME && !holds(r, pattern, k)))
                continue;
            fprintf(to, "%s%s", bar, pattern);
            cover(r, pattern, covered);
            bar = "|";
            done = true;
        }
    }
    if (*bar)
        fprintf(to, "=%s; ", r->candidates->item[k].text);
}

static tw_status write_all(plan_result *r) {
    size_t longest = 0, size;
    for (uint32_t i = 0; i < r->layers->n; i++) {
        size_t n = strlen(r->layers->item[i].name);
        longest = n > longest ? n : longest;
    }
    bool *covered = calloc(r->layers->n, sizeof *covered);
    char *pattern = malloc(longest + 2);
    FILE *to = open_memstream(&r->rules, &size);
    uint32_t rest = most_common(r);
    bool good = covered && pattern && to;
    for (uint32_t k = 0; k < r->candidates->n && good; k++)
        if (k != rest)
            write_setting(r, k, covered, pattern, to);
    if (good)
        fprintf(to, "*=%s", r->candidates->item[rest].text);
    if (to && fclose(to) != 0)
        good = false;
    free(covered);
    free(pattern);
    return good ? TW_OK : tw_fail(TW_ERR_NOMEM, "out of memory");
}

/* ---- checks ---- */

/* Every layer must find its own setting in them. */
static bool rules_mean_it(plan_result *r) {
    tw_rules *rules = NULL;
    tw_ctx *ctx;
    bool good = tw_ctx_resolve(NULL, &ctx) >= 0 && tw_rules_parse(ctx, r->rules, &rules) >= 0;
    for (uint32_t i = 0; i < r->layers->n && good; i++) {
        uint32_t n;
        char text[PLAN_SPEC] = "";
        const tw_phase *phase = tw_rules_find(rules, r->layers->item[i].name, &n);
        tw_spec_format(tw_phase_at(phase, n, 0), text, sizeof text);
        good = !strcmp(text, r->candidates->item[r->chosen[i]].text);
    }
    tw_rules_free(rules);
    return good;
}

/* All ranks, or of many of them every so manieth and some that own a layer's first tile. */
static int rank_to_see(const plan_result *r, uint32_t i) {
    uint32_t owners = r->ranks_seen < r->o->ranks ? PLAN_RANKS_SAMPLED / 4 : 0, even = r->ranks_seen - owners;
    if (i < even)
        return (int)(i * r->o->ranks / even);
    return tw_owner(r->layers->item[(uint64_t)(i - even) * r->layers->n / owners].name, 0, 1, (int)r->o->ranks);
}

static tw_status look_at_ranks(plan_result *r, const tw_layer *layers, const tw_reducer_config *cfg) {
    const plan_options *o = r->o;
    double ranks = (double)o->ranks, sum = 0;
    r->ranks_seen = o->ranks <= PLAN_RANKS_LOOKED_AT ? (uint32_t)o->ranks : PLAN_RANKS_SAMPLED;
    r->least_wire = (double)INFINITY;
    for (uint32_t i = 0; i < r->ranks_seen; i++) {
        tw_plan_info info = TW_PLAN_INFO_INIT;
        tw_status st = tw_plan_compute(rank_to_see(r, i), (int)o->ranks, layers, r->layers->n, r->rules, cfg, &info);
        if (st < 0)
            return st;
        double wire = (double)info.wire_bytes + 2 * (ranks - 1) / ranks * (double)info.native_bytes;
        sum += wire;
        r->average_wire = (double)info.all_bytes / ranks;
        r->most_wire = fmax(r->most_wire, wire);
        r->least_wire = fmin(r->least_wire, wire);
    }
    /* What sums of factors agree on is in all_bytes alone: the same on every rank. */
    double each = r->ranks_seen == o->ranks ? fmax(r->average_wire - sum / ranks, 0) : 0;
    r->most_wire = fmax(r->most_wire + each, r->average_wire);
    r->least_wire = fmin(r->least_wire + each, r->average_wire);
    return TW_OK;
}

static tw_status write_advice(plan_result *r) {
    if (r->compress)
        return write_all(r);
    r->rules = strdup(r->by_half ? "*=cast:type=bf16" : "*=none");
    return r->rules ? TW_OK : tw_fail(TW_ERR_NOMEM, "out of memory");
}

tw_status plan_write_rules(plan_result *r) {
    uint32_t n = r->layers->n;
    tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
    tw_layer *layers = calloc(n + 1, sizeof *layers);
    r->memory = (tw_memory)TW_MEMORY_INIT;
    tw_status st = layers ? write_advice(r) : tw_fail(TW_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < n && layers; i++) {
        const plan_layer *y = &r->layers->item[i];
        layers[i] = (tw_layer){sizeof *layers, y->dtype, y->name, y->count, 0, 0, y->columns};
    }
    cfg.bucket_bytes = r->o->bucket;
    if (st >= 0 && r->compress && !rules_mean_it(r)) {
        r->rules_problem = strlen(r->rules) > 65536 ? "they would be longer than the 65,536 bytes that rules may have"
                                                    : "names that differ only in characters which rules cannot hold";
    } else if (st >= 0) {
        st = look_at_ranks(r, layers, &cfg);
        if (st >= 0)
            st = tw_reducer_estimate(0, (int)r->o->ranks, layers, n, r->rules, &cfg, &r->memory);
    }
    free(layers);
    return st;
}
