/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What both modes of thinwire-bench (and thinwire-info) share: options, sizes and rates as text, order statistics, one
 * JSON object a line, the CPU's name. No MPI and no Thinwire here. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { BC_EXIT_OK = 0, BC_EXIT_FAILED = 1, BC_EXIT_USAGE = 2 };

/* ---- text to numbers: true, or false and *out untouched ---- */
bool bc_parse_u64(const char *text, uint64_t *out);
bool bc_parse_double(const char *text, double *out);        /* finite */
bool bc_parse_size(const char *text, uint64_t *bytes);      /* "65536", "64K", "64KiB", "1.5M", "2g": powers of 1024 */
bool bc_parse_rate(const char *text, double *bits_per_s);   /* "1gbit", "2.5Gbit/s", "100m", "1e9": powers of 1000 */
void bc_format_size(uint64_t bytes, char *buf, size_t cap); /* "64 MiB", "1000 B" */
/* The valid word that takes the fewest edits; valid ends with NULL. */
const char *bc_nearest(const char *word, const char *const *valid);

/* ---- options: one table gives the parser and the help text ---- */
typedef struct bc_opt {
    int id;            /* what bc_next_option returns, > 0; 0 ends the table */
    char letter;       /* 0: none */
    const char *name;  /* without "--" */
    const char *value; /* what the help calls its value; NULL: takes none */
    const char *help;  /* may have several lines, cut by \n */
} bc_opt;

typedef struct bc_args {
    const char *program; /* for sentences: "thinwire-bench allreduce" */
    int argc, at;        /* at: next argument to look at */
    char **argv;
    bool quiet; /* say nothing about errors: another rank does */
} bc_args;

/* The next option's id; 0 at the end; -1 after a usage error, whose sentence (with the nearest valid option) is out. */
int bc_next_option(bc_args *a, const bc_opt *table, const char **value);
/* "PROGRAM: sentence" on stderr, unless quiet; returns -1. */
int bc_usage_error(const bc_args *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for a value that is not one of `valid`. */
int bc_bad_word(const bc_args *a, const char *option, const char *word, const char *const *valid);
void bc_print_options(FILE *to, const bc_opt *table);

/* ---- order statistics ---- */
double bc_now(void); /* CLOCK_MONOTONIC, seconds */
void bc_sort(double *v, size_t n);
/* Of sorted values; NaN if n is 0. The median of an even number is the mean of the two in the middle. */
double bc_median_sorted(const double *v, size_t n);
double bc_percentile_sorted(const double *v, size_t n, double p); /* nearest rank, 0 < p <= 100 */
double bc_median(double *v, size_t n);                            /* sorts v */

/* ---- one JSON object a line ---- */
typedef struct bc_json {
    FILE *to;
    bool first;
} bc_json;
void bc_json_begin(bc_json *j, FILE *to);
void bc_json_string(bc_json *j, const char *key, const char *value); /* NULL: null */
void bc_json_number(bc_json *j, const char *key, double value);      /* NaN and infinities: null */
void bc_json_integer(bc_json *j, const char *key, uint64_t value);
void bc_json_bool(bc_json *j, const char *key, bool value);
void bc_json_open(bc_json *j, const char *key, char bracket); /* key NULL inside an array; bracket '{' or '[' */
void bc_json_close(bc_json *j, char bracket);                 /* '}' or ']' */
void bc_json_end(bc_json *j);                                 /* closes the object and the line, and flushes */
/* NULL: none; standard output stays open. False, and a sentence on standard error, if something was not written. */
bool bc_close_json(FILE *to, const char *mode);
/* Flushes standard output at the end of a program. Returns status; if something was not written, says so and turns
 * BC_EXIT_OK and 3 (thinwire-info: bad environment) into BC_EXIT_FAILED. */
int bc_end_output(const char *program, int status);

void bc_cpu_model(char *buf, size_t cap);

#endif
