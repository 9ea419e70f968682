/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_common.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>
#include <time.h>

/* ---- numbers ---- */

bool bc_parse_u64(const char *text, uint64_t *out) {
    char *end;
    errno = 0;
    if (*text < '0' || *text > '9')
        return false;
    unsigned long long v = strtoull(text, &end, 0);
    if (*end || errno)
        return false;
    *out = v;
    return true;
}

bool bc_parse_double(const char *text, double *out) {
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !isfinite(v))
        return false;
    *out = v;
    return true;
}

/* A non-negative number and a power of `base` by its letter; *rest is what follows the letter. */
static bool parse_scaled(const char *text, double base, double *out, const char **rest) {
    static const char letters[] = "kmgt";
    char *end;
    double v = strtod(text, &end);
    if (end == text || !isfinite(v) || v < 0)
        return false;
    const char *at = *end ? strchr(letters, *end | 0x20) : NULL;
    if (at) {
        v *= pow(base, (double)(at - letters + 1));
        end++;
    }
    *out = v;
    *rest = end;
    return true;
}

bool bc_parse_size(const char *text, uint64_t *bytes) {
    double v;
    const char *rest;
    if (!parse_scaled(text, 1024.0, &v, &rest) || v >= 9e18)
        return false;
    if (*rest && strcasecmp(rest, "b") && strcasecmp(rest, "ib"))
        return false;
    *bytes = (uint64_t)v;
    return true;
}

bool bc_parse_rate(const char *text, double *bits_per_s) {
    double v;
    const char *rest;
    if (!parse_scaled(text, 1000.0, &v, &rest) || v <= 0)
        return false;
    if (*rest && strcasecmp(rest, "bit") && strcasecmp(rest, "bit/s") && strcasecmp(rest, "bps"))
        return false;
    *bits_per_s = v;
    return true;
}

void bc_format_size(uint64_t bytes, char *buf, size_t cap) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    while (u < 4 && bytes >= 1024 && bytes % 1024 == 0)
        bytes /= 1024, u++;
    snprintf(buf, cap, "%llu %s", (unsigned long long)bytes, unit[u]);
}

/* ---- words and options ---- */

static unsigned min3(unsigned a, unsigned b, unsigned c) {
    unsigned m = a < b ? a : b;
    return m < c ? m : c;
}

static unsigned edits(const char *a, const char *b) {
    unsigned row[64];
    size_t n = strlen(b);
    if (n > 63)
        return 1000;
    for (size_t j = 0; j <= n; j++)
        row[j] = (unsigned)j;
    for (size_t i = 0; a[i]; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i + 1;
        for (size_t j = 0; j < n; j++) {
            unsigned above = row[j + 1];
            row[j + 1] = min3(above + 1, row[j] + 1, diagonal + (a[i] != b[j]));
            diagonal = above;
        }
    }
    return row[n];
}

const char *bc_nearest(const char *word, const char *const *valid) {
    const char *best = valid[0];
    unsigned fewest = ~0u;
    for (; *valid; valid++) {
        unsigned d = edits(word, *valid);
        if (d < fewest)
            fewest = d, best = *valid;
    }
    return best;
}

int bc_usage_error(const bc_args *a, const char *format, ...) {
    va_list ap;
    if (a->quiet)
        return -1;
    fprintf(stderr, "%s: ", a->program);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
    return -1;
}

int bc_bad_word(const bc_args *a, const char *option, const char *word, const char *const *valid) {
    char list[512];
    size_t used = 0;
    list[0] = 0;
    for (int i = 0; valid[i] && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", valid[i]);
    return bc_usage_error(a, "%s: unknown value \"%s\"; did you mean \"%s\"? (valid: %s)", option, word,
                          bc_nearest(word, valid), list);
}

static int unknown_option(const bc_args *a, const bc_opt *table, const char *given) {
    const char *names[64];
    char word[64];
    size_t n = 0, len = strcspn(given, "=");
    for (const bc_opt *o = table; o->id && n < 63; o++)
        names[n++] = o->name;
    names[n] = NULL;
    snprintf(word, sizeof word, "%.*s", (int)(len < 60 ? len : 60), given);
    while (word[0] == '-')
        memmove(word, word + 1, strlen(word));
    return bc_usage_error(a, "unknown option %.*s; the nearest valid one is --%s (--help lists all)", (int)len, given,
                          bc_nearest(word, names));
}

static const bc_opt *find_option(const bc_opt *table, const char *arg, const char **inline_value) {
    *inline_value = NULL;
    if (arg[1] == '-') {
        size_t len = strcspn(arg + 2, "=");
        for (const bc_opt *o = table; o->id; o++)
            if (strlen(o->name) == len && !strncmp(o->name, arg + 2, len)) {
                *inline_value = arg[2 + len] ? arg + 3 + len : NULL;
                return o;
            }
        return NULL;
    }
    for (const bc_opt *o = table; o->id; o++)
        if (o->letter && o->letter == arg[1]) {
            *inline_value = arg[2] ? arg + 2 : NULL;
            return o;
        }
    return NULL;
}

int bc_next_option(bc_args *a, const bc_opt *table, const char **value) {
    *value = NULL;
    if (a->at >= a->argc)
        return 0;
    const char *arg = a->argv[a->at++], *given;
    if (arg[0] != '-' || !arg[1])
        return bc_usage_error(a, "unexpected argument \"%s\" (--help shows how to call it)", arg);
    const bc_opt *o = find_option(table, arg, &given);
    if (!o || (given && !o->value && arg[1] != '-'))
        return unknown_option(a, table, arg);
    if (!o->value)
        return given ? bc_usage_error(a, "--%s takes no value", o->name) : o->id;
    if (!given && a->at < a->argc)
        given = a->argv[a->at++];
    if (!given)
        return bc_usage_error(a, "--%s needs a value: %s", o->name, o->value);
    *value = given;
    return o->id;
}

void bc_print_options(FILE *to, const bc_opt *table) {
    for (const bc_opt *o = table; o->id; o++) {
        char left[64], letter[8] = "    ";
        if (o->letter)
            snprintf(letter, sizeof letter, "-%c, ", o->letter);
        snprintf(left, sizeof left, "  %s--%s%s%s", letter, o->name, o->value ? " " : "", o->value ? o->value : "");
        fprintf(to, "%-28s", left);
        if (strlen(left) > 27)
            fprintf(to, "\n%-28s", "");
        for (const char *p = o->help; *p; p++) {
            fputc(*p, to);
            if (*p == '\n')
                fprintf(to, "%-28s", "");
        }
        fputc('\n', to);
    }
}

/* ---- order statistics ---- */

double bc_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bc_sort(double *v, size_t n) {
    if (n)
        qsort(v, n, sizeof *v, by_value);
}

double bc_median_sorted(const double *v, size_t n) {
    if (!n)
        return (double)NAN;
    return n % 2 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

double bc_percentile_sorted(const double *v, size_t n, double p) {
    if (!n)
        return (double)NAN;
    double rank = ceil(p / 100.0 * (double)n);
    size_t i = rank < 1 ? 0 : (size_t)rank - 1;
    return v[i < n ? i : n - 1];
}

double bc_median(double *v, size_t n) {
    bc_sort(v, n);
    return bc_median_sorted(v, n);
}

/* ---- JSON ---- */

static void json_text(FILE *to, const char *s) {
    fputc('"', to);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\')
            fprintf(to, "\\%c", c);
        else if (c < 0x20)
            fprintf(to, "\\u%04x", c);
        else
            fputc(c, to);
    }
    fputc('"', to);
}

static void json_key(bc_json *j, const char *key) {
    if (!j->first)
        fputs(", ", j->to);
    j->first = false;
    if (key) {
        json_text(j->to, key);
        fputs(": ", j->to);
    }
}

void bc_json_begin(bc_json *j, FILE *to) {
    j->to = to;
    j->first = true;
    fputc('{', to);
}

void bc_json_string(bc_json *j, const char *key, const char *value) {
    json_key(j, key);
    if (value)
        json_text(j->to, value);
    else
        fputs("null", j->to);
}

void bc_json_number(bc_json *j, const char *key, double value) {
    json_key(j, key);
    if (isfinite(value))
        fprintf(j->to, "%.10g", value);
    else
        fputs("null", j->to);
}

void bc_json_integer(bc_json *j, const char *key, uint64_t value) {
    json_key(j, key);
    fprintf(j->to, "%llu", (unsigned long long)value);
}

void bc_json_bool(bc_json *j, const char *key, bool value) {
    json_key(j, key);
    fputs(value ? "true" : "false", j->to);
}

void bc_json_open(bc_json *j, const char *key, char bracket) {
    json_key(j, key);
    fputc(bracket, j->to);
    j->first = true;
}

void bc_json_close(bc_json *j, char bracket) {
    fputc(bracket, j->to);
    j->first = false;
}

void bc_json_end(bc_json *j) {
    fputs("}\n", j->to);
    fflush(j->to);
}

void bc_cpu_model(char *buf, size_t cap) {
    char line[512];
    struct utsname u;
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon)
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(buf, cap, "%s", colon + 1 + (colon[1] == ' '));
        fclose(f);
        return;
    }
    if (f)
        fclose(f);
    snprintf(buf, cap, "%s", uname(&u) == 0 ? u.machine : "unknown");
}

bool bc_close_json(FILE *to, const char *mode) {
    if (to == stdout)
        return true; /* bc_end_output looks after it */
    bool good = !to || !ferror(to);
    if (to && fclose(to) != 0)
        good = false;
    if (!good)
        fprintf(stderr, "thinwire-bench %s: the JSON file could not be written\n", mode);
    return good;
}

int bc_end_output(const char *program, int status) {
    errno = 0;
    bool lost = fflush(stdout) != 0;
    if (!lost && !ferror(stdout))
        return status;
    fprintf(stderr, "%s: standard output could not be written%s%s\n", program, lost && errno ? ": " : "",
            lost && errno ? strerror(errno) : "");
    return status == BC_EXIT_USAGE ? status : BC_EXIT_FAILED;
}
