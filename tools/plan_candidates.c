/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which settings a layer may have. */
#include <stdlib.h>

#include "compressors/codec.h"
#include "plan_tool.h"

static const char by_default[] =
    "cast:type=bf16+ef;quant+ef;quant:bits=6+ef;quant:bits=4+ef;quant:bits=4,scale=mse+ef;quant:bits=3,scale=mse+ef;"
    "quant:bits=2,scale=mse+ef;ternary+ef;onebit+ef;"
    "topk:density=0.1+ef;topk:density=0.03+ef;topk:density=0.01+ef;topk:density=0.003+ef;topk:density=0.001+ef;"
    "ternary:density=0.1+ef;ternary:density=0.03+ef;ternary:density=0.01+ef;"
    "powersgd:rank=1+ef;powersgd:rank=2+ef;powersgd:rank=4+ef;powersgd:rank=8+ef;powersgd:rank=16+ef;powersgd:rank=32+"
    "ef";

bool plan_is_lowrank(const plan_candidate *c) {
    return tw_codec_is_lowrank(&c->spec);
}

bool plan_fits(const plan_candidate *c, const plan_layer *l) {
    uint64_t columns = c->spec.columns ? c->spec.columns : l->columns;
    return !plan_is_lowrank(c) || (columns <= UINT32_MAX && tw_lowrank_values(c->spec.rank, l->count, columns) > 0);
}

static tw_status add(plan_candidates *c, const char *text, bool allowed, uint32_t *at) {
    plan_candidate k = {.allowed = allowed};
    tw_status st = tw_spec_parse(text, &k.spec);
    if (st < 0)
        return st;
    int n = tw_spec_format(&k.spec, k.text, sizeof k.text);
    if (n < 0 || n >= (int)sizeof k.text)
        return tw_fail(TW_ERR_ARG, "'%.80s': its canonical text is longer than %d", text, PLAN_SPEC - 1);
    for (*at = 0; *at < c->n && strcmp(c->item[*at].text, k.text); ++*at)
        ;
    if (*at == c->n && c->n == PLAN_MOST_CANDIDATES)
        return tw_fail(TW_ERR_ARG, "more than %d candidates", PLAN_MOST_CANDIDATES);
    if (*at == c->n)
        c->item[c->n++] = k;
    return TW_OK;
}

/* Its word is one of those asked for, divided by commas. */
static bool in_families(const char *families, const char *word) {
    size_t n = strlen(word);
    for (const char *p = families; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (!strncmp(p, word, n) && (p[n] == ',' || !p[n]))
            return true;
    }
    return !families;
}

/* By its codec, or by the word that it was written with: a ternary with a density is a topk. */
static bool is_wanted(const char *families, const char *text, const tw_spec *s) {
    char word[PLAN_SPEC];
    text += strspn(text, " ");
    snprintf(word, sizeof word, "%.*s", (int)strcspn(text, ":+ "), text);
    return in_families(families, tw_codec_get(s->codec)->name) || in_families(families, word);
}

static tw_status check_families(const char *families) {
    if (families && !*families)
        return tw_fail(TW_ERR_ARG, "--families: no codec is named; \"none\" is that nothing is compressed");
    for (const char *p = families; p && *p;) {
        size_t n = strcspn(p, ",");
        bool known = false;
        for (uint32_t id = 1; id < TW_CODECS; id++) {
            const char *name = tw_codec_get(id)->name;
            known |= strlen(name) == n && !strncmp(p, name, n);
        }
        if (!known)
            return tw_fail(TW_ERR_ARG,
                           "--families: '%.*s' is no codec; there are none, cast, onebit, quant, ternary, "
                           "topk, randk and powersgd",
                           (int)(n < 40 ? n : 40), p);
        p += n + (p[n] == ',');
    }
    return TW_OK;
}

/* SPECS are divided by ';', as rules are. */
static tw_status add_list(plan_candidates *c, const char *specs, const char *families) {
    char *copy = strdup(specs), *rest = copy, *text;
    tw_status st = copy ? TW_OK : tw_fail(TW_ERR_NOMEM, "out of memory");
    while (st >= 0 && (text = strsep(&rest, ";"))) {
        tw_spec s;
        uint32_t at;
        if (!text[strspn(text, " ")])
            continue;
        st = tw_spec_parse(text, &s);
        if (st >= 0 && is_wanted(families, text, &s))
            st = add(c, text, true, &at);
    }
    free(copy);
    return st;
}

/* Candidates that were asked for must be there, unless it was for `none` alone. */
static tw_status check_some(const plan_candidates *c, const plan_options *o) {
    if (c->n > 1 || (o->families ? !strcmp(o->families, "none") : o->candidates && strstr(o->candidates, "none")))
        return TW_OK;
    if (!o->families)
        return tw_fail(TW_ERR_ARG, "--candidates: there is no setting in it");
    return tw_fail(TW_ERR_ARG, "--families: %s is of '%.80s'%s",
                   o->candidates ? "none of --candidates" : "no candidate by default", o->families,
                   o->candidates ? "" : "; name some with --candidates");
}

tw_status plan_candidates_list(plan_candidates *c, const plan_options *o) {
    uint32_t at;
    tw_status st = check_families(o->families);
    if (st >= 0)
        st = add(c, "none", true, &at);
    if (st >= 0)
        st = add_list(c, o->candidates ? o->candidates : by_default, o->families);
    if (st >= 0)
        st = check_some(c, o);
    if (st >= 0)
        st = add(c, o->budget, false, &c->uniform);
    return st;
}
