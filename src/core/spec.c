/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Spec text <-> struct, both ways from one table of codecs and options. What a codec does with it is in compressors/.
 */
#include "core/core.h"

#include <stdarg.h>
#include <stdio.h>

#define LONGEST     1023u /* characters of a spec */
#define SHOWN       60    /* characters of the offending text in a sentence */
#define MOST_WORDS  5u
#define DENSITY_ONE 1000000000u

/* Where an option's value lies in the struct. */
enum {
    FIELD_TYPE,
    FIELD_SCALE,
    FIELD_GROUP,
    FIELD_BITS,
    FIELD_ROUNDING,
    FIELD_ROTATE,
    FIELD_SEED,
    FIELD_DENSITY,
    FIELD_SELECT,
    FIELD_VALUES,
    FIELD_RANK,
    FIELD_ITERATIONS,
    FIELD_WARM_START,
    FIELD_COLUMNS,
    FIELDS
};
typedef struct field {
    const char *name;
    size_t at, bytes; /* 2 or 4 */
} field;
#define FIELD(member) \
    { #member, offsetof(tw_spec, member), sizeof(((tw_spec *)0)->member) }
static const field fields[FIELDS] = {[FIELD_TYPE] = FIELD(type),
                                     [FIELD_SCALE] = FIELD(scale),
                                     [FIELD_GROUP] = FIELD(group),
                                     [FIELD_BITS] = FIELD(bits),
                                     [FIELD_ROUNDING] = FIELD(rounding),
                                     [FIELD_ROTATE] = FIELD(rotate),
                                     [FIELD_SEED] = FIELD(seed),
                                     [FIELD_DENSITY] = FIELD(density),
                                     [FIELD_SELECT] = FIELD(select),
                                     [FIELD_VALUES] = {"values", offsetof(tw_spec, values.codec), sizeof(uint16_t)},
                                     [FIELD_RANK] = FIELD(rank),
                                     [FIELD_ITERATIONS] = FIELD(iterations),
                                     [FIELD_WARM_START] = FIELD(warm_start),
                                     [FIELD_COLUMNS] = FIELD(columns)};

/* An option's value is one of `words` (value[i] goes into the struct), or without words a number from..to, which is a
 * power of two where from is not 0, but for what counts something. Two fields have a syntax of their own: a density is a decimal fraction, values are a
 * tiled spec without feedback. */
typedef struct option {
    const char *name;
    uint16_t codec, field;
    uint32_t preset, from, to;
    bool counts;
    const char *words[MOST_WORDS];
    uint32_t value[MOST_WORDS];
    bool (*applies)(const tw_spec *s); /* NULL: always; else the field is 0 where it does not */
    const char *where;                 /* says so */
} option;

static bool is_fp8(const tw_spec *s) {
    return tw_type_is_fp8(s->type);
}

static bool is_sparse(const tw_spec *s) {
    return s->density != 0;
}

static bool is_dense(const tw_spec *s) {
    return !is_sparse(s);
}

#define GROUP_OF(id, by_default)                                                                              \
    .name = "group", .codec = TW_CODEC_##id, .field = FIELD_GROUP, .preset = by_default, .from = TW_MIN_TILE, \
    .to = TW_MAX_TILE
#define DENSITY_OF(id)                                                                                         \
    .name = "density", .codec = TW_CODEC_##id, .field = FIELD_DENSITY, .preset = DENSITY_ONE / 100, .from = 1, \
    .to = DENSITY_ONE
#define SEED_OF(id) .name = "seed", .codec = TW_CODEC_##id, .field = FIELD_SEED, .to = UINT32_MAX
#define ROUNDING_OF(id)                                                                                 \
    .name = "rounding", .codec = TW_CODEC_##id, .field = FIELD_ROUNDING, .preset = TW_ROUNDING_NEAREST, \
    .words = {"nearest", "stochastic"}, .value = {TW_ROUNDING_NEAREST, TW_ROUNDING_STOCHASTIC}
#define SELECT_WORDS                                                     \
    .preset = TW_SELECT_EXACT, .words = {"exact", "threshold", "group"}, \
    .value = {TW_SELECT_EXACT, TW_SELECT_THRESHOLD, TW_SELECT_GROUP}

static const option options[] = {
    {"type", TW_CODEC_CAST, FIELD_TYPE, TW_BF16, .words = {"bf16", "fp16", "fp8e4m3", "fp8e5m2"},
     .value = {TW_BF16, TW_F16, TW_CAST_FP8E4M3, TW_CAST_FP8E5M2}},
    {GROUP_OF(CAST, 512), .applies = is_fp8, .where = "goes with type=fp8e4m3 and type=fp8e5m2 only"},
    {GROUP_OF(ONEBIT, 512)},
    {"scale", TW_CODEC_ONEBIT, FIELD_SCALE, TW_SCALE_MEAN, .words = {"mean", "rms", "twosided"},
     .value = {TW_SCALE_MEAN, TW_SCALE_RMS, TW_SCALE_TWOSIDED}},
    {"bits", TW_CODEC_QUANT, FIELD_BITS, 8, .words = {"8", "6", "4", "3", "2"}, .value = {8, 6, 4, 3, 2}},
    {GROUP_OF(QUANT, 512)},
    {ROUNDING_OF(QUANT)},
    {"scale", TW_CODEC_QUANT, FIELD_SCALE, TW_SCALE_ABSMAX, .words = {"absmax", "minmax", "mse"},
     .value = {TW_SCALE_ABSMAX, TW_SCALE_MINMAX, TW_SCALE_MSE}},
    {"rotate", TW_CODEC_QUANT, FIELD_ROTATE, TW_ROTATE_NONE, .words = {"none", "hadamard"},
     .value = {TW_ROTATE_NONE, TW_ROTATE_HADAMARD}},
    {SEED_OF(QUANT)},
    {GROUP_OF(TERNARY, 512)},
    {ROUNDING_OF(TERNARY), .applies = is_dense, .where = "goes without density=... only"},
    {SEED_OF(TERNARY), .applies = is_dense, .where = "goes without density=... only"},
    {DENSITY_OF(TOPK)},
    {"select", TW_CODEC_TOPK, FIELD_SELECT, SELECT_WORDS},
    {GROUP_OF(TOPK, TW_MAX_TILE)},
    {"values", TW_CODEC_TOPK, FIELD_VALUES, .preset = TW_CODEC_NONE},
    {"density", TW_CODEC_TERNARY, FIELD_DENSITY, 0, .from = 1, .to = DENSITY_ONE, .applies = is_sparse},
    {"select", TW_CODEC_TERNARY, FIELD_SELECT, SELECT_WORDS, .applies = is_sparse,
     .where = "goes with density=... only"},
    {DENSITY_OF(RANDK)},
    {"scale", TW_CODEC_RANDK, FIELD_SCALE, TW_SCALE_PLAIN, .words = {"none", "unbiased"},
     .value = {TW_SCALE_PLAIN, TW_SCALE_UNBIASED}},
    {SEED_OF(RANDK)},
    {"rank", TW_CODEC_POWERSGD, FIELD_RANK, 4, 1, 128, .counts = true},
    {"columns", TW_CODEC_POWERSGD, FIELD_COLUMNS, 0, .to = UINT32_MAX},
    {"iterations", TW_CODEC_POWERSGD, FIELD_ITERATIONS, 1, 1, 16, .counts = true},
    {"warm_start", TW_CODEC_POWERSGD, FIELD_WARM_START, 1, .to = 1},
    {SEED_OF(POWERSGD)},
};
#define OPTIONS TW_ARRAY_LEN(options)

#define WORD_OF(id, word) [TW_CODEC_##id - 1] = #word,
static const char *const codec_words[TW_CODECS - 1] = {TW_CODEC_LIST(WORD_OF)};
static const char *const feedback_words[TW_FEEDBACKS - 1] = {"none", "ef", "decay", "dgc"};

/* The option of a feedback that has one: a share of 1, in tw_spec.rate. */
typedef struct feedback_option {
    const char *name;
    uint32_t preset, most;
} feedback_option;
static const feedback_option feedback_options[TW_FEEDBACKS] = {
    [TW_FEEDBACK_DECAY] = {"beta", DENSITY_ONE / 20 * 19, DENSITY_ONE - 1},
    [TW_FEEDBACK_DGC] = {"momentum", DENSITY_ONE / 10 * 9, DENSITY_ONE - 1},
};

size_t tw_dtype_size(tw_dtype t) {
    return t == TW_F32 ? 4 : t == TW_F16 || t == TW_BF16 ? 2 : 0;
}

const char *tw_dtype_name(tw_dtype t) {
    return t == TW_F32 ? "fp32" : t == TW_F16 ? "fp16" : t == TW_BF16 ? "bf16" : "?";
}

static uint32_t field_get(const tw_spec *s, unsigned i) {
    uint32_t v = 0;
    memcpy(&v, (const char *)s + fields[i].at, fields[i].bytes);
    return v;
}

static void field_set(tw_spec *s, unsigned i, uint32_t v) {
    memcpy((char *)s + fields[i].at, &v, fields[i].bytes);
}

static unsigned word_count(const option *o) {
    unsigned n = 0;
    while (n < MOST_WORDS && o->words[n])
        n++;
    return n;
}

/* ---- reading ---- */

typedef struct text {
    const char *p;
    size_t n;
} text;

typedef struct parser {
    text whole;
    const char *what;
} parser;

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static text trim(text t) {
    while (t.n && is_space(t.p[0])) {
        t.p++;
        t.n--;
    }
    while (t.n && is_space(t.p[t.n - 1]))
        t.n--;
    return t;
}

/* Splits *t at the first c outside of parentheses: returns what is before, leaves what is after; *found tells whether c was there. */
static text cut(text *t, char c, bool *found) {
    const char *at = NULL;
    for (size_t i = 0, depth = 0; i < t->n && !at; i++) {
        depth += t->p[i] == '(';
        depth -= t->p[i] == ')' && depth > 0;
        if (t->p[i] == c && depth == 0)
            at = t->p + i;
    }
    text before = {t->p, at ? (size_t)(at - t->p) : t->n};
    *found = at != NULL;
    t->p = at ? at + 1 : t->p + t->n;
    t->n = at ? t->n - before.n - 1 : 0;
    return trim(before);
}

static bool is_word(text t, const char *word) {
    return strlen(word) == t.n && memcmp(t.p, word, t.n) == 0;
}

TW_PRINTF(2, 3) static tw_status bad(const parser *ps, const char *format, ...) {
    char why[TW_SENTENCE / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    text w = trim(ps->whole);
    return tw_fail(TW_ERR_ARG, "%s%sspec '%.*s%s': %s", ps->what ? ps->what : "", ps->what ? ": " : "",
                   (int)(w.n < SHOWN ? w.n : SHOWN), w.n ? w.p : "", w.n > SHOWN ? "..." : "", why);
}

static tw_status bad_word(const parser *ps, const char *kind, text t, const char *const *words, size_t n) {
    if (!t.n)
        return bad(ps, "%s is missing; did you mean '%s'?", kind, words[0]);
    return bad(ps, "unknown %s '%.*s'; did you mean '%s'?", kind, (int)(t.n < SHOWN ? t.n : SHOWN), t.p,
               tw_nearest_word(t.p, t.n, words, n));
}

/* Index of t among words, or n and a sentence. */
static size_t pick(const parser *ps, const char *kind, text t, const char *const *words, size_t n) {
    size_t i = 0;
    while (i < n && !is_word(t, words[i]))
        i++;
    if (i == n)
        bad_word(ps, kind, t, words, n);
    return i;
}

static bool in_range(const option *o, uint64_t v) {
    return v >= o->from && v <= o->to && (o->from == 0 || o->counts || (v & (v - 1)) == 0);
}

static const char *kind_of(const option *o) {
    return o->from && !o->counts ? "a power of two" : "a number";
}

/* A share in 0 < share <= 1, or < 1 where most says so, up to nine digits behind the point: exact in the struct. */
static tw_status parse_share(const parser *ps, const char *name, text t, uint32_t most, uint32_t *out) {
    uint64_t v = 0, unit = DENSITY_ONE;
    size_t i = 0;
    bool digits = false, exact = true;
    for (; i < t.n && t.p[i] >= '0' && t.p[i] <= '9' && v <= 10; i++, digits = true)
        v = v * 10 + (uint64_t)(t.p[i] - '0');
    v *= DENSITY_ONE;
    if (i < t.n && t.p[i] == '.')
        for (i++; i < t.n && t.p[i] >= '0' && t.p[i] <= '9'; i++, digits = true) {
            unit /= 10;
            v += unit * (uint64_t)(t.p[i] - '0');
            exact = exact && (unit > 0 || t.p[i] == '0');
        }
    if (!digits || i < t.n || !exact || v == 0 || v > most)
        return bad(ps, "%s=%.*s must be above 0 and %s 1, with up to nine digits behind the point", name,
                   (int)(t.n < SHOWN ? t.n : SHOWN), t.n ? t.p : "", most == DENSITY_ONE ? "at most" : "below");
    *out = (uint32_t)v;
    return TW_OK;
}

static bool is_tiled(uint32_t codec) {
#define IS_TILED(id, word) codec == TW_CODEC_##id ||
    return TW_TILED_CODECS(IS_TILED) false;
}

static void set_values(tw_spec *s, const tw_spec *v) {
    s->values = (tw_values){v->codec, v->type, v->scale, v->bits, v->rounding, v->rotate, v->group};
}

tw_spec tw_spec_values(const tw_spec *s) {
    tw_spec v = TW_SPEC_INIT;
    v.codec = s->values.codec;
    v.type = s->values.type;
    v.scale = s->values.scale;
    v.bits = s->values.bits;
    v.rounding = s->values.rounding;
    v.rotate = s->values.rotate;
    v.group = s->values.group;
    return v;
}

static tw_status parse_values(const parser *ps, text t, tw_spec *s) {
    tw_spec v;
    if (t.n >= 2 && t.p[0] == '(' && t.p[t.n - 1] == ')')
        t = trim((text){t.p + 1, t.n - 2});
    tw_status st = tw_spec_parse_n(t.p, t.n, ps->what, &v);
    if (st != TW_OK)
        return st;
    if (!is_tiled(v.codec) || v.feedback != TW_FEEDBACK_NONE || v.seed || v.density)
        return bad(ps, "values=%.*s must be a codec of fixed rate, without feedback, seed and density",
                   (int)(t.n < SHOWN ? t.n : SHOWN), t.p);
    set_values(s, &v);
    return TW_OK;
}

static tw_status parse_value(const parser *ps, const option *o, text t, tw_spec *s) {
    if (o->field == FIELD_DENSITY)
        return parse_share(ps, o->name, t, o->to, &s->density);
    if (o->field == FIELD_VALUES)
        return parse_values(ps, t, s);
    unsigned n = word_count(o);
    if (n) {
        char kind[64];
        snprintf(kind, sizeof kind, "value of '%s'", o->name);
        size_t i = pick(ps, kind, t, o->words, n);
        if (i == n)
            return TW_ERR_ARG;
        field_set(s, o->field, o->value[i]);
        return TW_OK;
    }
    uint64_t v = 0;
    size_t i = 0;
    for (; i < t.n && t.p[i] >= '0' && t.p[i] <= '9' && v <= o->to; i++)
        v = v * 10 + (uint64_t)(t.p[i] - '0');
    if (!t.n || i < t.n || !in_range(o, v))
        return bad(ps, "%s=%.*s must be %s, %u..%u", o->name, (int)(t.n < SHOWN ? t.n : SHOWN), t.n ? t.p : "",
                   kind_of(o), o->from, o->to);
    field_set(s, o->field, (uint32_t)v);
    return TW_OK;
}

/* The option of that name for this codec; NULL and a sentence that tells what it takes. */
static const option *find_option(const parser *ps, text name, uint16_t codec) {
    const char *mine[OPTIONS], *other = NULL;
    size_t n = 0;
    for (size_t i = 0; i < OPTIONS; i++) {
        bool same = is_word(name, options[i].name);
        if (options[i].codec == codec) {
            if (same)
                return &options[i];
            mine[n++] = options[i].name;
        } else if (same && !other) {
            other = codec_words[options[i].codec - 1];
        }
    }
    const char *self = codec_words[codec - 1];
    if (n == 0)
        bad(ps, "'%s' takes no option%s%s%s", self, other ? " (this one belongs to '" : "", other ? other : "",
            other ? "')" : "");
    else if (other)
        bad(ps, "'%.*s' is an option of '%s', not of '%s'; did you mean '%s'?", (int)name.n, name.p, other, self,
            tw_nearest_word(name.p, name.n, mine, n));
    else
        bad_word(ps, "option", name, mine, n);
    return NULL;
}

static bool applies(const option *o, const tw_spec *s) {
    return !o->applies || o->applies(s);
}

/* Options that this spec has no use for: 0, and an error if they were given. */
static tw_status clear_unused(const parser *ps, uint32_t seen, tw_spec *s) {
    for (size_t i = 0; i < OPTIONS; i++) {
        const option *o = &options[i];
        if (o->codec != s->codec || applies(o, s))
            continue;
        if (seen & 1u << o->field)
            return bad(ps, "option '%s' %s", o->name, o->where);
        field_set(s, o->field, 0);
    }
    return TW_OK;
}

static tw_status parse_options(const parser *ps, text list, tw_spec *s, uint32_t *fields_seen) {
    uint32_t seen = 0;
    for (bool more = true; more;) {
        bool has_value;
        text value = cut(&list, ',', &more);
        text name = cut(&value, '=', &has_value);
        value = trim(value);
        const option *o = find_option(ps, name, s->codec);
        if (!o)
            return TW_ERR_ARG;
        if (!has_value)
            return bad(ps, "option '%s' wants a value: %s=...", o->name, o->name);
        if (seen & 1u << o->field)
            return bad(ps, "option '%s' is given twice", o->name);
        seen |= 1u << o->field;
        tw_status st = parse_value(ps, o, value, s);
        if (st != TW_OK)
            return st;
    }
    *fields_seen = seen;
    return TW_OK;
}

/* Ternary with a density is short for the largest magnitudes, sent as signs and their mean (ComPEFT, STC). */
static void settle_ternary(tw_spec *s, uint32_t seen) {
    if (s->codec != TW_CODEC_TERNARY || !is_sparse(s))
        return;
    s->codec = TW_CODEC_TOPK;
    s->values = (tw_values){
        .codec = TW_CODEC_ONEBIT, .scale = TW_SCALE_MEAN, .group = seen & 1u << FIELD_GROUP ? s->group : TW_MAX_TILE};
    s->group = TW_MAX_TILE;
}

/* Scaled up, a codec loses more than there is: what feedback holds would grow without end. */
static bool feeds_back_scaled(const tw_spec *s) {
    return s->scale == TW_SCALE_UNBIASED && s->feedback != TW_FEEDBACK_NONE;
}

/* Momentum is cleared where values were sent: of a codec that sends something of all of them none would be left. */
static bool clears_all(const tw_spec *s) {
    return s->feedback == TW_FEEDBACK_DGC && s->codec != TW_CODEC_TOPK;
}

/* NAME or NAME:OPTION=SHARE. */
static tw_status parse_feedback(const parser *ps, text t, tw_spec *s) {
    bool has_option, has_value;
    text name = cut(&t, ':', &has_option);
    size_t id = pick(ps, "feedback", name, feedback_words, TW_FEEDBACKS - 1);
    if (id == TW_FEEDBACKS - 1)
        return TW_ERR_ARG;
    s->feedback = (uint16_t)(id + 1);
    const feedback_option *o = &feedback_options[s->feedback];
    s->rate = o->preset;
    if (!has_option)
        return TW_OK;
    if (!o->name)
        return bad(ps, "'%s' takes no option", feedback_words[id]);
    text option = cut(&t, '=', &has_value);
    if (!is_word(option, o->name))
        return bad_word(ps, "option", option, &o->name, 1);
    if (!has_value)
        return bad(ps, "option '%s' wants a value: %s=...", o->name, o->name);
    return parse_share(ps, o->name, trim(t), o->most, &s->rate);
}

tw_status tw_spec_parse_n(const char *p, size_t len, const char *what, tw_spec *out) {
    if (!p || !out)
        return tw_fail(TW_ERR_ARG, "%s%s%s is NULL", what ? what : "", what ? ": " : "", p ? "out" : "spec text");
    const parser ps = {{p, len}, what};
    if (len > LONGEST) /* parentheses nest: what they may take of the stack has an end, too */
        return bad(&ps, "%zu characters; a spec has %u at most", len, LONGEST);
    text feedback = ps.whole;
    bool has_options, has_feedback;
    text list = cut(&feedback, '+', &has_feedback);
    text codec = cut(&list, ':', &has_options);
    size_t id = pick(&ps, "codec", codec, codec_words, TW_CODECS - 1);
    if (id == TW_CODECS - 1)
        return TW_ERR_ARG;
    tw_spec s = TW_SPEC_INIT;
    s.codec = (uint16_t)(id + 1);
    for (size_t i = 0; i < OPTIONS; i++)
        if (options[i].codec == s.codec)
            field_set(&s, options[i].field, options[i].preset);
    uint32_t seen = 0;
    tw_status st = has_options ? parse_options(&ps, list, &s, &seen) : TW_OK;
    if (st == TW_OK)
        st = clear_unused(&ps, seen, &s);
    if (st != TW_OK)
        return st;
    settle_ternary(&s, seen);
    if (has_feedback)
        st = parse_feedback(&ps, trim(feedback), &s);
    if (st != TW_OK)
        return st;
    if (feeds_back_scaled(&s))
        return bad(&ps, "scale=unbiased loses more than there is, so it goes without feedback");
    if (clears_all(&s))
        return bad(&ps, "dgc goes with 'topk' (and 'ternary:density=...') only: momentum stays where nothing is sent");
    *out = s;
    return TW_OK;
}

tw_status tw_spec_parse(const char *p, tw_spec *out) {
    return tw_spec_parse_n(p, p ? strlen(p) : 0, NULL, out);
}

/* ---- checking and writing ---- */

static tw_status check_values(const tw_spec *s) {
    tw_spec v = tw_spec_values(s);
    return is_tiled(v.codec) ? tw_spec_check(&v)
                             : tw_fail(TW_ERR_ARG, "spec: codec %u cannot send the values of '%s'", v.codec,
                                       codec_words[s->codec - 1]);
}

static tw_status check_field(const tw_spec *s, unsigned field) {
    uint32_t v = field_get(s, field);
    const option *o = NULL;
    for (size_t i = 0; i < OPTIONS; i++)
        if (options[i].codec == s->codec && options[i].field == field && applies(&options[i], s))
            o = &options[i];
    if (!o)
        return v == 0 ? TW_OK
                      : tw_fail(TW_ERR_ARG, "spec: %s is %u, must be 0 for '%s'", fields[field].name, v,
                                codec_words[s->codec - 1]);
    unsigned n = word_count(o);
    if (field == FIELD_VALUES)
        return check_values(s);
    if (field == FIELD_DENSITY)
        return v >= o->from && v <= o->to ? TW_OK : tw_fail(TW_ERR_ARG, "spec: density is %u of 10^9", v);
    if (n == 0 && !in_range(o, v))
        return tw_fail(TW_ERR_ARG, "spec: %s is %u, must be %s, %u..%u", o->name, v, kind_of(o), o->from, o->to);
    for (unsigned i = 0; i < n; i++)
        if (o->value[i] == v)
            return TW_OK;
    return n == 0
               ? TW_OK
               : tw_fail(TW_ERR_ARG, "spec: %s is %u, which '%s' does not know", o->name, v, codec_words[s->codec - 1]);
}

static tw_status check_rate(const tw_spec *s) {
    const feedback_option *o = &feedback_options[s->feedback];
    if (o->name ? s->rate > 0 && s->rate <= o->most : s->rate == 0)
        return TW_OK;
    return tw_fail(TW_ERR_ARG, "spec: rate is %u of 10^9, which '%s' does not take", s->rate,
                   feedback_words[s->feedback - 1]);
}

tw_status tw_spec_check(const tw_spec *s) {
    if (!s)
        return tw_fail(TW_ERR_ARG, "spec is NULL");
    if (s->size != sizeof *s)
        return tw_fail(TW_ERR_ARG, "spec: size is %u, must be %u (use TW_SPEC_INIT)", s->size, (unsigned)sizeof *s);
    if (s->codec < 1 || s->codec >= TW_CODECS)
        return tw_fail(TW_ERR_ARG, "spec: unknown codec id %u", s->codec);
    if (s->feedback < 1 || s->feedback >= TW_FEEDBACKS)
        return tw_fail(TW_ERR_ARG, "spec: unknown feedback id %u", s->feedback);
    if (s->codec == TW_CODEC_TERNARY && is_sparse(s))
        return tw_fail(TW_ERR_ARG, "spec: density is %u of 10^9; a ternary that has one is topk with values of one bit",
                       s->density);
    for (unsigned field = 0; field < FIELDS; field++) {
        tw_status st = check_field(s, field);
        if (st != TW_OK)
            return st;
    }
    if (clears_all(s))
        return tw_fail(TW_ERR_ARG, "spec: dgc goes with 'topk' only, not with '%s'", codec_words[s->codec - 1]);
    return feeds_back_scaled(s) ? tw_fail(TW_ERR_ARG, "spec: scale=unbiased goes without feedback") : check_rate(s);
}

void tw_spec_words(const tw_spec *s, uint32_t w[TW_SPEC_WORDS]) {
    const tw_values *x = &s->values;
    const uint32_t v[TW_SPEC_WORDS] = {s->codec,    s->feedback,   s->type,       s->scale,    s->group,  s->bits,
                                       s->rounding, s->rotate,     s->seed,       s->density,  s->select, x->codec,
                                       x->type,     x->scale,      x->bits,       x->rounding, x->rotate, x->group,
                                       s->rank,     s->iterations, s->warm_start, s->columns,  s->rate};
    memcpy(w, v, sizeof v);
}

bool tw_spec_equal(const tw_spec *a, const tw_spec *b) {
    uint32_t x[TW_SPEC_WORDS], y[TW_SPEC_WORDS];
    tw_spec_words(a, x);
    tw_spec_words(b, y);
    return memcmp(x, y, sizeof x) == 0;
}

static const char *word_of(const option *o, uint32_t v) {
    for (unsigned i = 0; i < word_count(o); i++)
        if (o->value[i] == v)
            return o->words[i];
    return NULL;
}

/* Without trailing zeros. */
static void format_density(char *text, size_t room, uint32_t density) {
    size_t n = (size_t)snprintf(text, room, "%u.%09u", density / DENSITY_ONE, density % DENSITY_ONE);
    while (text[n - 1] == '0')
        text[--n] = 0;
    if (text[n - 1] == '.')
        text[--n] = 0;
}

/* The value of an option; false if it is the default. */
static bool format_value(const option *o, const tw_spec *s, char *text, size_t room) {
    uint32_t v = field_get(s, o->field);
    const char *word = word_of(o, v);
    tw_spec values = tw_spec_values(s);
    if (o->field == FIELD_VALUES) {
        size_t n = (size_t)snprintf(text, room, "(");
        tw_spec_format(&values, text + n, room - n);
        snprintf(text + strlen(text), room - strlen(text), ")");
        return strcmp(text, "(none)") != 0;
    }
    if (o->field == FIELD_DENSITY)
        format_density(text, room, v);
    else if (word)
        snprintf(text, room, "%s", word);
    else
        snprintf(text, room, "%u", v);
    return v != o->preset;
}

int tw_spec_format(const tw_spec *s, char *buf, size_t cap) {
    char out[320], value[160]; /* the longest spec has under half of it */
    tw_status st = tw_spec_check(s);
    if (st != TW_OK)
        return (int)st;
    if (!buf && cap)
        return (int)tw_fail(TW_ERR_ARG, "tw_spec_format: buf is NULL");
    size_t at = (size_t)snprintf(out, sizeof out, "%s", codec_words[s->codec - 1]);
    char separator = ':';
    for (size_t i = 0; i < OPTIONS; i++)
        if (options[i].codec == s->codec && applies(&options[i], s) &&
            format_value(&options[i], s, value, sizeof value)) {
            at += (size_t)snprintf(out + at, sizeof out - at, "%c%s=%s", separator, options[i].name, value);
            separator = ',';
        }
    if (s->feedback != TW_FEEDBACK_NONE)
        at += (size_t)snprintf(out + at, sizeof out - at, "+%s", feedback_words[s->feedback - 1]);
    const feedback_option *f = &feedback_options[s->feedback];
    format_density(value, sizeof value, s->rate);
    if (f->name && s->rate != f->preset)
        snprintf(out + at, sizeof out - at, ":%s=%s", f->name, value);
    return snprintf(buf, cap, "%s", out);
}
