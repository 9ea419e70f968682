/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The environment: one table, read once per process. A bad value never stops anything here: the default stays, and the
 * sentence is said when a context is made. */
#include "core/core.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define LONGEST_LINE 512u

static tw_env env;

static const char *const log_words[] = {"error", "warn", "info", "debug"};
static const char *const isa_words[] = {"ref", "avx2", "avx512", "neon"};

static void say(const char *name, const char *value, const char *wants) {
    if (env.problem[0] == '\0') /* the first one is enough */
        snprintf(env.problem, sizeof env.problem, "%s=%.60s: %s", name, value, wants);
}

/* Index of value among words; n, and a sentence, if it is none of them. */
static size_t pick(const char *name, const char *value, const char *const *words, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(value, words[i]) == 0)
            return i;
    char wants[96];
    snprintf(wants, sizeof wants, "unknown word; did you mean '%s'?", tw_nearest_word(value, strlen(value), words, n));
    say(name, value, wants);
    return n;
}

static void read_log(const char *name, const char *value) {
    size_t i = pick(name, value, log_words, TW_ARRAY_LEN(log_words));
    if (i < TW_ARRAY_LEN(log_words))
        env.log_level = (int)i + TW_LOG_ERROR;
}

static void read_isa(const char *name, const char *value) {
    size_t i = pick(name, value, isa_words, TW_ARRAY_LEN(isa_words));
    if (i < TW_ARRAY_LEN(isa_words))
        env.isa = isa_words[i];
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

static void read_timeout(const char *name, const char *value) {
    double v = tw_plain_number(value);
    if (v > 0.0 && v <= TW_TIMEOUT_MAX)
        env.timeout_s = v;
    else
        say(name, value, "wants seconds, more than 0 and at most 1e9, such as 30 or 0.5");
}

static void read_fault(const char *name, const char *value) {
    if (tw_fault_plan_parse(value, &env.faults))
        return;
    env.faults.n = 0;
    say(name, value, env.faults.problem);
}

static const struct {
    const char *name, *unset, *meaning;
    void (*read)(const char *name, const char *value);
} table[] = {
    {"THINWIRE_LOG", "silent", "error|warn|info|debug: lines on stderr up to this level", read_log},
    {"THINWIRE_TIMEOUT", "120", "seconds that any wait may take before it fails", read_timeout},
    {"THINWIRE_ISA", "best", "ref|avx2|avx512|neon: forces the instruction set of the codecs", read_isa},
    {"THINWIRE_FAULT", "none", "fault plan for tests, such as drop:3,delay:5ms,nan:layer", read_fault},
};

static char lines[TW_ARRAY_LEN(table)][LONGEST_LINE];

static void read_all(void) {
    for (size_t i = 0; i < TW_ARRAY_LEN(table); i++) {
        const char *value = getenv(table[i].name);
        if (value && *value)
            table[i].read(table[i].name, value);
        else
            value = "(not set)";
        char shown[160];
        snprintf(shown, sizeof shown, "%s", value);
        for (char *p = shown; *p; p++)
            if ((unsigned char)*p < 0x20 || *p == 0x7f)
                *p = '?';
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
