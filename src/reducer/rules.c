/* SPDX-License-Identifier: BSD-3-Clause */
#include "reducer/rules.h"
#include "compressors/codec.h"
#include <ctype.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct rule {
    uint32_t pattern0, npattern; /* into text: NUL-terminated globs */
    uint32_t phase0, nphase;
} rule;

struct tw_rules {
    tw_ctx *ctx;
    rule *rule;
    tw_phase *phase;
    uint32_t *pattern; /* offsets into text */
    char *text;        /* a copy, cut up */
    char head[TW_RULES_HEAD];
    uint32_t nrule, nphase, npattern;
    uint64_t hash, bytes;
};

static const tw_phase only_none[] = {{.spec = TW_SPEC_INIT, .until = UINT64_MAX}};

static uint32_t count_char(const char *s, char c) {
    uint32_t n = 0;
    for (; *s; s++)
        n += *s == c;
    return n;
}

static char *trim(char *s) {
    while (isspace((unsigned char)*s))
        s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1]))
        *--end = 0;
    return s;
}

/* Cuts at the next word `key` that stands alone; returns what follows it, or NULL. */
static char *cut_word(char *s, const char *key) {
    size_t n = strlen(key);
    for (char *p = s; (p = strstr(p, key)) != NULL; p += n)
        if (p > s && isspace((unsigned char)p[-1]) && isspace((unsigned char)p[n])) {
            p[0] = 0;
            return p + n;
        }
    return NULL;
}

static tw_status parse_until(const char *word, uint32_t nrule, uint64_t before, uint64_t *out) {
    char *end;
    if (!isdigit((unsigned char)*word))
        return tw_fail(TW_ERR_ARG, "rule %u: 'until' wants a step number, not '%s'", nrule + 1, word);
    unsigned long long v = strtoull(word, &end, 10);
    if (*end || v == 0 || v <= before)
        return tw_fail(TW_ERR_ARG, "rule %u: 'until %s' must be a number above %llu", nrule + 1, word,
                       (unsigned long long)before);
    if (v == ULLONG_MAX) /* or beyond */
        return tw_fail(TW_ERR_ARG, "rule %u: 'until %s' is too large: 2^64 - 2 is the last step", nrule + 1, word);
    *out = v;
    return TW_OK;
}

static char *word_end(char *p) {
    while (*p && !isspace((unsigned char)*p))
        p++;
    return p;
}

static char *next_word(char *p) {
    p = word_end(p);
    while (isspace((unsigned char)*p))
        p++;
    return p;
}

/* The spec is no good: is that for a word where 'until' could stand, with a number behind it? */
static tw_status misspelt_until(char *spec, uint32_t nrule, tw_status s) {
    char *word = next_word(spec), *number = next_word(word);
    if (!isalpha((unsigned char)*word) || !isdigit((unsigned char)*number))
        return s;
    return tw_fail(TW_ERR_ARG, "rule %u: unknown word '%.*s' after '%.*s'; did you mean 'until'?", nrule + 1,
                   (int)(word_end(word) - word), word, (int)(word_end(spec) - spec), spec);
}

/* What stands behind a step number. */
static tw_status misspelt_then(char *until, uint32_t nrule) {
    char *word = next_word(until);
    return tw_fail(TW_ERR_ARG, "rule %u: unknown word '%.*s' after 'until %.*s'; did you mean 'then'?", nrule + 1,
                   (int)(word_end(word) - word), word, (int)(word_end(until) - until), until);
}

/* spec ["until" step "then" spec]... */
static tw_status parse_phases(tw_rules *r, rule *u, char *text) {
    char what[32];
    uint64_t before = 0;
    snprintf(what, sizeof what, "rule %u", r->nrule + 1);
    u->phase0 = r->nphase;
    for (char *next = text; next;) {
        tw_phase *ph = &r->phase[r->nphase];
        char *spec = next, *until = cut_word(spec, "until"), *then = until ? cut_word(until, "then") : NULL;
        next = then;
        until = until ? trim(until) : NULL;
        if (until && isdigit((unsigned char)*until) && *next_word(until))
            return misspelt_then(until, r->nrule);
        if (until && !then)
            return tw_fail(TW_ERR_ARG, "rule %u: 'until %s' lacks its 'then SPEC'", r->nrule + 1, until);
        spec = trim(spec);
        tw_status s = tw_spec_parse_n(spec, strlen(spec), what, &ph->spec);
        if (s < 0)
            return misspelt_until(spec, r->nrule, s);
        ph->until = UINT64_MAX;
        if (until)
            s = parse_until(until, r->nrule, before, &ph->until);
        if (s < 0)
            return s;
        before = ph->until;
        r->nphase++;
        u->nphase++;
    }
    return TW_OK;
}

/* p: at a '['. At its ']', or NULL. */
static const char *bracket_end(const char *p) {
    p += p[1] == '!' || p[1] == '^' ? 2 : 1;
    p += *p == ']'; /* as the first it is a member */
    for (; *p && *p != ']'; p++) {
        const char end[] = {p[1], ']', 0}, *close;
        if (*p == '\\' && p[1])
            p++;
        else if (*p == '[' && (p[1] == ':' || p[1] == '.') && (close = strstr(p + 2, end)) != NULL)
            p = close + 1;
    }
    return *p ? p : NULL;
}

/* fnmatch says of a malformed pattern only that it matches nothing. */
static const char *glob_problem(const char *p) {
    for (; *p; p++) {
        if (*p == '\\') {
            if (!*++p)
                return "ends with a backslash";
        } else if (*p == '[') {
            p = bracket_end(p);
            if (!p)
                return "has a '[' without its ']'";
        }
    }
    return NULL;
}

static tw_status parse_patterns(tw_rules *r, rule *u, char *text) {
    u->pattern0 = r->npattern;
    for (char *next = text; next;) {
        char *bar = strchr(next, '|'), *p = next;
        next = bar ? bar + 1 : NULL;
        if (bar)
            *bar = 0;
        p = trim(p);
        if (!*p)
            return tw_fail(TW_ERR_ARG, "rule %u: an empty layer pattern", r->nrule + 1);
        const char *problem = glob_problem(p);
        if (problem)
            return tw_fail(TW_ERR_ARG, "rule %u: the layer pattern '%s' %s", r->nrule + 1, p, problem);
        r->pattern[r->npattern++] = (uint32_t)(p - r->text);
        u->npattern++;
    }
    return TW_OK;
}

static tw_status parse_rule(tw_rules *r, char *text) {
    rule *u = &r->rule[r->nrule];
    text = trim(text);
    if (!*text)
        return TW_OK; /* "a=none;" ends with an empty one */
    char *eq = strchr(text, '=');
    if (!eq)
        return tw_fail(TW_ERR_ARG, "rule %u: '%s' has no '=': a rule is PATTERN=SPEC, like '*=onebit+ef'", r->nrule + 1,
                       text);
    *eq = 0;
    tw_status s = parse_patterns(r, u, text);
    if (s >= 0)
        s = parse_phases(r, u, eq + 1);
    if (s >= 0)
        r->nrule++;
    return s;
}

static void hash_rules(tw_rules *r) {
    for (uint32_t i = 0; i < r->nrule; i++) {
        for (uint32_t k = 0; k < r->rule[i].npattern; k++) {
            const char *p = r->text + r->pattern[r->rule[i].pattern0 + k];
            r->hash = tw_hash64(p, strlen(p) + 1, r->hash);
        }
        for (uint32_t k = 0; k < r->rule[i].nphase; k++) {
            const tw_phase *ph = &r->phase[r->rule[i].phase0 + k];
            uint32_t words[TW_SPEC_WORDS];
            tw_spec_words(&ph->spec, words);
            r->hash = tw_hash64(&ph->until, sizeof ph->until, tw_hash64(words, sizeof words, r->hash));
        }
    }
}

static tw_status allocate(tw_ctx *ctx, const char *text, tw_rules **out) {
    size_t len = strlen(text);
    uint32_t most = count_char(text, ';') + 1, patterns = count_char(text, '|') + most;
    tw_rules *r = tw_alloc(ctx, sizeof *r);
    if (!r)
        return TW_ERR_NOMEM;
    r->ctx = ctx;
    const uint64_t phases = (most + len / 4) * sizeof(tw_phase); /* a phase more needs " then" at least */
    r->rule = tw_alloc(ctx, most * sizeof(rule));
    r->phase = tw_alloc(ctx, phases);
    r->pattern = tw_alloc(ctx, patterns * sizeof(uint32_t));
    r->text = tw_alloc(ctx, len + 1);
    if (!r->rule || !r->phase || !r->pattern || !r->text) {
        tw_rules_free(r);
        return TW_ERR_NOMEM;
    }
    r->bytes = tw_held(sizeof *r) + tw_held(most * sizeof(rule)) + tw_held(phases) +
               tw_held(patterns * sizeof(uint32_t)) + tw_held(len + 1);
    memcpy(r->text, text, len);
    *out = r;
    return TW_OK;
}

tw_status tw_rules_parse(tw_ctx *ctx, const char *text, tw_rules **out) {
    tw_rules *r;
    if (text && strlen(text) > 65536)
        return tw_fail(TW_ERR_ARG, "rules of %zu bytes; 65536 is the limit", strlen(text));
    tw_status s = allocate(ctx, text ? text : "", &r);
    if (s < 0)
        return s;
    for (char *next = r->text; next && s >= 0;) {
        char *semi = strchr(next, ';'), *one = next;
        next = semi ? semi + 1 : NULL;
        if (semi)
            *semi = 0;
        s = parse_rule(r, one);
    }
    if (s < 0) {
        tw_rules_free(r);
        return s;
    }
    hash_rules(r);
    strncpy(r->head, text ? text : "", sizeof r->head - 1);
    *out = r;
    return TW_OK;
}

void tw_rules_free(tw_rules *r) {
    if (!r)
        return;
    tw_ctx *ctx = r->ctx;
    tw_free(ctx, r->rule);
    tw_free(ctx, r->phase);
    tw_free(ctx, r->pattern);
    tw_free(ctx, r->text);
    tw_free(ctx, r);
}

uint64_t tw_rules_bytes(const tw_rules *r) {
    return r->bytes;
}

const tw_phase *tw_rules_find(const tw_rules *r, const char *name, uint32_t *n) {
    for (uint32_t i = 0; i < r->nrule; i++)
        for (uint32_t k = 0; k < r->rule[i].npattern; k++)
            if (fnmatch(r->text + r->pattern[r->rule[i].pattern0 + k], name, 0) == 0) {
                *n = r->rule[i].nphase;
                return &r->phase[r->rule[i].phase0];
            }
    *n = 1;
    return only_none;
}

const tw_spec *tw_phase_at(const tw_phase *phase, uint32_t n, uint64_t step) {
    for (uint32_t i = 0; i + 1 < n; i++)
        if (step < phase[i].until)
            return &phase[i].spec;
    return &phase[n - 1].spec;
}

uint64_t tw_rules_hash(const tw_rules *r) {
    return r->hash;
}

const char *tw_rules_head(const tw_rules *r) {
    return r->head;
}
