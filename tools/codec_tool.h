/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thinwire-codec: options, the report, and the commands. */
#ifndef CODEC_TOOL_H
#define CODEC_TOOL_H

#include <stdio.h>
#include "reducer/rules.h"
#include "tools/codec/input.h"

/* Exit statuses beside 0. */
enum { CODEC_FAILED = 1, CODEC_USAGE = 2, CODEC_DAMAGED = 3, CODEC_REFUSED = 4 };

typedef enum codec_command {
    CODEC_COMPRESS = 1,
    CODEC_DECOMPRESS = 2,
    CODEC_INSPECT = 4,
    CODEC_DIFF = 8,
    CODEC_APPLY = 16
} codec_command;

typedef struct codec_options {
    codec_command command;
    const char *file[2];
    char output[4096];
    const char *rules_text, *json, *tensor;
    tw_rules *rules;
    tc_kind from, to; /* NONE: not told */
    tc_raw raw;
    uint64_t step;
    uint32_t chunk_tiles;
    float scale;
    bool force, progress, quiet, decode;
} codec_options;

/* TW_OK; TW_IN_PROGRESS: help was asked for and is out; TW_ERR_ARG: the sentence is out. */
tw_status codec_parse(codec_options *o, int argc, char **argv);
void codec_options_free(codec_options *o);
void codec_help(FILE *to);

/* ---- report ---- */
enum { CODEC_PARTS = 8 };
typedef struct codec_row {
    const char *name, *dtype, *shape, *spec;
    uint64_t values, dense_bytes, file_bytes; /* file_bytes: of its records */
    double x_sq, e_sq, max_error;             /* over values that are finite before and after */
    uint64_t bad_tiles;
    bool has_error; /* x_sq, e_sq and max_error were taken */
    bool has_bad;   /* bad_tiles was */
    struct {
        const char *name;
        uint64_t bytes;
    } part[CODEC_PARTS];
} codec_row;

typedef struct codec_report {
    const codec_options *o;
    codec_row *row;
    char (*shape)[TC_MOST_DIMS * 22];
    uint32_t n;
    uint64_t file_bytes;
    uint64_t done, total; /* dense bytes, for progress */
    double began, shown;
    bool progress, line_open;
    uint32_t content;
} codec_report;

tw_status codec_report_begin(codec_report *r, const codec_options *o, const tc_list *l);
/* A chunk of tensor i: its payload, values before, and after (NULL: not known; the same pointer: nothing is lost). */
void codec_report_chunk(codec_report *r, const tc_tensor *t, uint32_t i, const void *payload, uint64_t bytes,
                        uint64_t count, const void *before, const void *after);
/* Table and JSON. The JSON file is written whole or the status says why not. */
tw_status codec_report_end(codec_report *r, uint64_t file_bytes);
void codec_report_free(codec_report *r);

/* ---- what the commands share ---- */
typedef struct codec_buffers {
    uint8_t *values, *other, *payload; /* a chunk each */
} codec_buffers;
/* Room for the largest chunk of the list. */
tw_status codec_buffers_make(codec_buffers *b, const tc_list *l);
void codec_buffers_free(codec_buffers *b);
tw_status codec_choose(const codec_options *o, tc_list *l);
/* values, n of them from `first`, go into the file, and into the report with what they become. */
tw_status codec_encode_chunk(tc_writer *w, codec_report *r, codec_buffers *b, const tc_tensor *t, uint32_t i,
                             uint64_t first, uint64_t n);
/* The kind of an input: told by --from, by its name, or by --dtype. */
tw_status codec_input_kind(const codec_options *o, const char *path, tc_kind *kind);
tw_status codec_write_header(tc_sink *to, tc_kind kind, const tc_list *l);
/* fp32 arithmetic on values of a dtype: dst = a - b, all fp32 out; dst = a + scale * d, in a's dtype. */
void codec_subtract(float *dst, const void *a, tw_dtype ta, const void *b, tw_dtype tb, uint64_t n);
void codec_add_scaled(void *dst, const void *a, tw_dtype t, const float *d, float scale, uint64_t n);

tw_status codec_compress(const codec_options *o);
tw_status codec_decompress(const codec_options *o);
tw_status codec_inspect(const codec_options *o);
tw_status codec_diff(const codec_options *o);
tw_status codec_apply(const codec_options *o);

#endif
