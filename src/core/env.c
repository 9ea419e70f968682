/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The environment: one table, read once per process. A bad value never stops anything here: the default stays, and
 * contexts that are made fail with the sentence. */
#include "core/core.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define LONGEST_LINE 512u

static tw_env env;

static const char *const log_words[] = {"error", "warn", "info", "debug"};
static const char *const isa_words[] = {"ref", "avx2", "avx512", "neon"};

/* What a reader has to say about a bad value. */
typedef struct complaint {
    char text[256];
} complaint;

static tw_status complain(complaint *why, tw_status s, const char *format, ...) TW_PRINTF(3, 4);
static tw_status complain(complaint *why, tw_status s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(why->text, sizeof why->text, format, args);
    va_end(args);
    return s;
}

static tw_status pick(const char *value, const char *const *words, size_t n, size_t *index, complaint *why) {
    for (*index = 0; *index < n; ++*index)
        if (strcmp(value, words[*index]) == 0)
            return TW_OK;
    return complain(why, TW_ERR_ARG, "unknown word; did you mean '%s'?",
                    tw_nearest_word(value, strlen(value), words, n));
}

static tw_status read_log(const char *value, complaint *why) {
    size_t i;
    tw_status s = pick(value, log_words, TW_ARRAY_LEN(log_words), &i, why);
    if (s == TW_OK)
        env.log_level = (int)i + TW_LOG_ERROR;
    return s;
}

/* Forced means forced: what cannot run here is an error, and not the next best. */
static tw_status read_isa(const char *value, complaint *why) {
    char can[64] = "";
    size_t i, used = 0;
    tw_status s = pick(value, isa_words, TW_ARRAY_LEN(isa_words), &i, why);
    if (s != TW_OK)
        return s;
    env.isa = isa_words[i];
    for (int isa = 0; isa < TW_ISA_COUNT; isa++) {
        if (!tw_cpu_has((tw_isa)isa))
            continue;
        if (strcmp(value, tw_isa_names[isa]) == 0)
            return TW_OK;
        used += (size_t)snprintf(can + used, sizeof can - used, " %s", tw_isa_names[isa]);
    }
    return complain(why, TW_ERR_UNSUPPORTED, "this build or this CPU lacks it; there are:%s", can);
}

/* Not strtod, whose decimal point goes by the host program's locale. */
double tw_plain_number(const char *p) {
    double v = 0.0;
    int digits = 0, point = 0, ten = 0, exponent = 0, sign = 1;
    for (; (*p >= '0' && *p <= '9') || (*p == '.' && !point); p++) {
        if (*p == '.') {
            point = 1;
            continue;
        }
        v = v * 10.0 + (*p - '0');
        digits++;
        ten -= point;
    }
    if (digits && (*p == 'e' || *p == 'E')) {
        p++;
        if (*p == '+' || *p == '-')
            sign = *p++ == '-' ? -1 : 1;
        digits = 0;
        for (; *p >= '0' && *p <= '9' && digits < 4; p++, digits++)
            exponent = exponent * 10 + (*p - '0');
    }
    if (!digits || *p)
        return -1.0;
    for (ten += sign * exponent; ten > 0 && v <= TW_TIMEOUT_MAX; ten--)
        v *= 10.0;
    for (; ten < 0 && v > 0.0; ten++)
        v /= 10.0;
    return v;
}

static tw_status read_timeout(const char *value, complaint *why) {
    double v = tw_plain_number(value);
    if (!(v > 0.0 && v <= TW_TIMEOUT_MAX))
        return complain(why, TW_ERR_ARG, "wants seconds, more than 0 and at most 1e9, such as 30 or 0.5");
    env.timeout_s = v;
    return TW_OK;
}

static tw_status read_fault(const char *value, complaint *why) {
    if (tw_fault_plan_parse(value, &env.faults))
        return TW_OK;
    env.faults.n = 0;
    return complain(why, TW_ERR_ARG, "%s", env.faults.problem);
}

static const struct {
    const char *name, *unset, *meaning;
    tw_status (*read)(const char *value, complaint *why);
} table[] = {
    {"THINWIRE_LOG", "silent",
     "error|warn|info|debug: lines on stderr up to this level; info: what is made and destroyed, debug: steps",
     read_log},
    {"THINWIRE_TIMEOUT", "120", "seconds that any wait may take before it fails", read_timeout},
    {"THINWIRE_ISA", "best", "ref|avx2|avx512|neon: forces the instruction set of the codecs", read_isa},
    {"THINWIRE_FAULT", "none", "fault plan for tests, such as drop:3,delay:5ms,nan:layer", read_fault},
};

static char lines[TW_ARRAY_LEN(table)][LONGEST_LINE], problems[TW_ARRAY_LEN(table)][TW_SENTENCE];

static void read_one(size_t i, const char *value) {
    complaint why;
    tw_status s = table[i].read(value, &why);
    if (s == TW_OK)
        return;
    snprintf(problems[i], sizeof problems[i], "%s=%.60s: %s", table[i].name, value, why.text);
    tw_one_line(problems[i]);
    if (env.status == TW_OK) { /* contexts say the first one */
        env.status = s;
        env.problem = problems[i];
    }
}

static void read_all(void) {
    for (size_t i = 0; i < TW_ARRAY_LEN(table); i++) {
        const char *value = getenv(table[i].name);
        if (value && *value)
            read_one(i, value);
        else
            value = "(not set)";
        char shown[160];
        snprintf(shown, sizeof shown, "%s", value);
        tw_one_line(shown);
        snprintf(lines[i], sizeof lines[i], "%s\t%s\t%s\t%s", table[i].name, shown, table[i].unset, table[i].meaning);
    }
}

const tw_env *tw_env_get(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_all);
    return &env;
}

const char *tw_env_line(unsigned i) {
    tw_env_get();
    return i < TW_ARRAY_LEN(table) ? lines[i] : NULL;
}

const char *tw_env_problem(unsigned i) {
    tw_env_get();
    return i < TW_ARRAY_LEN(table) ? problems[i] : NULL;
}
