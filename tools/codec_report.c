/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What became of each tensor: a table, JSON, and a line of progress. */
#include "codec_tool.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>
#include "bench_common.h"
#include "compressors/codec.h"
#include "exec/exec.h"

tw_status codec_report_begin(codec_report *r, const codec_options *o, const tc_list *l) {
    *r = (codec_report){.o = o, .n = l->n};
    r->row = calloc(l->n + 1, sizeof *r->row);
    r->shape = calloc(l->n + 1, sizeof *r->shape);
    if (!r->row || !r->shape)
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < l->n; i++) {
        const tc_tensor *t = &l->item[i];
        r->row[i] = (codec_row){.name = t->name,
                                .dtype = tc_dtypes[t->dtype].name,
                                .shape = tc_shape_text(t, r->shape[i], sizeof r->shape[i]),
                                .spec = *t->spec                ? t->spec
                                        : tc_is_coded(t->dtype) ? "none"
                                                                : "as it is",
                                .values = t->count,
                                .dense_bytes = t->bytes,
                                .file_bytes = tc_tensor_record_bytes(t)};
        r->total += t->bytes;
    }
    r->began = bc_now();
    r->progress = o->progress || (isatty(STDERR_FILENO) && !o->quiet);
    return TW_OK;
}

void codec_report_free(codec_report *r) {
    free(r->row);
    free(r->shape);
}

static void show_progress(codec_report *r, const char *name) {
    double now = bc_now();
    if (!r->progress || (now - r->shown < 0.2 && r->done < r->total))
        return;
    char text[TC_SHOWN + 1];
    tc_shown(text, 31, name);
    r->shown = now;
    r->line_open = true;
    fprintf(stderr, "\r%5.1f %%  %6.0f MB/s  %-30s", r->total ? 100.0 * (double)r->done / (double)r->total : 100.0,
            1e-6 * (double)r->done / (now - r->began + 1e-9), text);
}

/* A tile's part of the sums, in four lanes: one chain of additions would be the limit. */
static void compare_tile(codec_row *row, const float *x, const float *y, uint32_t n) {
    double x_sq[4] = {0}, e_sq[4] = {0}, most = row->max_error;
    bool bad = false;
    for (uint32_t i = 0; i < n; i++) {
        double a = (double)x[i], d = a - (double)y[i];
        if (!(d - d == 0.0)) { /* one of them is NaN or Inf */
            bad = true;
            continue;
        }
        x_sq[i % 4] += a * a;
        e_sq[i % 4] += d * d;
        most = fabs(d) > most ? fabs(d) : most;
    }
    row->x_sq += (x_sq[0] + x_sq[1]) + (x_sq[2] + x_sq[3]);
    row->e_sq += (e_sq[0] + e_sq[1]) + (e_sq[2] + e_sq[3]);
    row->max_error = most;
    row->bad_tiles += bad;
}

static void compare(codec_row *row, const uint8_t *before, const uint8_t *after, tw_dtype t, uint64_t count) {
    _Alignas(64) float x[TW_MAX_TILE], y[TW_MAX_TILE];
    const tw_kernels *k = tw_kernels_best();
    tw_fpenv env = tw_fp_enter();
    for (uint64_t at = 0; at < count; at += TW_MAX_TILE) {
        uint32_t n = (uint32_t)(count - at < TW_MAX_TILE ? count - at : TW_MAX_TILE);
        const bool same = before == after;
        tw_widen(k, x, before + at * tw_dtype_size(t), n, t);
        if (!same)
            tw_widen(k, y, after + at * tw_dtype_size(t), n, t);
        compare_tile(row, x, same ? x : y, n);
    }
    tw_fp_leave(env);
}

static void add_part(codec_row *row, const char *name, uint64_t bytes) {
    for (uint32_t i = 0; i < CODEC_PARTS; i++)
        if (!row->part[i].name || !strcmp(row->part[i].name, name)) {
            row->part[i].name = name;
            row->part[i].bytes += bytes;
            return;
        }
}

void codec_report_chunk(codec_report *r, const tc_tensor *t, uint32_t i, const void *payload, uint64_t bytes,
                        uint64_t count, const void *before, const void *after) {
    codec_row *row = &r->row[i];
    const tw_codec *codec = *t->spec ? tw_codec_get(t->parsed.codec) : NULL;
    uint64_t part;
    const char *name;
    row->file_bytes += tc_record_bytes(bytes);
    if (codec && codec->part)
        for (uint32_t k = 0; (name = codec->part(&t->parsed, count, (tw_dtype)t->dtype, payload, bytes, k, &part)); k++)
            add_part(row, name, part);
    else
        add_part(row, "values", bytes);
    if (before && tc_is_coded(t->dtype)) {
        row->has_bad = true;
        row->has_error |= after != NULL;
        compare(row, before, after ? after : before, (tw_dtype)t->dtype, count);
    }
    r->done += count * tc_dtypes[t->dtype].bytes;
    show_progress(r, row->name);
}

/* ---- the table ---- */

static void add_up(const codec_report *r, codec_row *all) {
    *all = (codec_row){.name = "all", .dtype = "", .shape = "", .spec = "", .file_bytes = r->file_bytes};
    for (uint32_t i = 0; i < r->n; i++) {
        const codec_row *row = &r->row[i];
        all->values += row->values;
        all->dense_bytes += row->dense_bytes;
        all->x_sq += row->x_sq;
        all->e_sq += row->e_sq;
        all->bad_tiles += row->bad_tiles;
        all->has_error |= row->has_error;
        all->has_bad |= row->has_bad;
        if (row->max_error > all->max_error)
            all->max_error = row->max_error;
        for (uint32_t k = 0; k < CODEC_PARTS && row->part[k].name; k++)
            add_part(all, row->part[k].name, row->part[k].bytes);
    }
}

/* "-" where there is none; places: behind the point, -1: four digits in all. */
static const char *number(char *buf, size_t cap, int places, bool there, double v) {
    if (!there || v - v != 0.0)
        snprintf(buf, cap, "-");
    else if (places < 0)
        snprintf(buf, cap, "%.4g", v);
    else
        snprintf(buf, cap, "%.*f", places, v);
    return buf;
}

static double per_value(const codec_row *row, uint64_t bytes) {
    return 8.0 * (double)bytes / (double)row->values; /* NaN or Inf without values */
}

static double nmse(const codec_row *row) {
    bool nothing = row->x_sq == 0.0 && row->bad_tiles; /* no tile is left that it could be of */
    return row->e_sq == 0.0 && !nothing ? 0.0 : row->e_sq / row->x_sq;
}

static void print_row(FILE *to, const codec_row *row, int name_width, int spec_width) {
    char name[TC_SHOWN + 1], bits[32], ratio[32], error[32], most[32], bad[32];
    tc_shown(name, sizeof name, row->name);
    number(bad, sizeof bad, 0, row->has_bad, (double)row->bad_tiles);
    fprintf(to, "%-*s %-5s %-14s %-*s %9s %8s %10s %10s %7s ", name_width, name, row->dtype, row->shape, spec_width,
            row->spec, number(bits, sizeof bits, 4, true, per_value(row, row->file_bytes)),
            number(ratio, sizeof ratio, 2, true, (double)row->dense_bytes / (double)row->file_bytes),
            number(error, sizeof error, -1, row->has_error, nmse(row)),
            number(most, sizeof most, -1, row->has_error, row->max_error), bad);
    uint64_t parts = 0;
    for (uint32_t k = 0; k < CODEC_PARTS && row->part[k].name; k++) {
        fprintf(to, " %s %.4f", row->part[k].name, per_value(row, row->part[k].bytes));
        parts += row->part[k].bytes;
    }
    if (row->values)
        fprintf(to, " rest %.4f", per_value(row, row->file_bytes - parts));
    fputc('\n', to);
}

static void print_table(const codec_report *r, const codec_row *all, FILE *to) {
    int name_width = 6, spec_width = 8;
    bool apply = r->o->command == CODEC_APPLY;
    for (uint32_t i = 0; i < r->n; i++) {
        int n = (int)strnlen(r->row[i].name, 40), m = (int)strnlen(r->row[i].spec, 40);
        name_width = n > name_width ? n : name_width;
        spec_width = m > spec_width ? m : spec_width;
    }
    fprintf(to, "%-*s %-5s %-14s %-*s %9s %8s %10s %10s %7s  %s\n", name_width, "tensor", "dtype", "shape", spec_width,
            "codec", "bits", "ratio", apply ? "change" : "NMSE", apply ? "max change" : "max error", "NaN/Inf",
            "bits by part");
    for (uint32_t i = 0; i < r->n; i++)
        print_row(to, &r->row[i], name_width, spec_width);
    print_row(to, all, name_width, spec_width);
}

/* ---- JSON ---- */

static void json_row(bc_json *j, const codec_row *row, bool is_all) {
    if (!is_all) {
        bc_json_string(j, "name", row->name);
        bc_json_string(j, "dtype", row->dtype);
        bc_json_string(j, "shape", row->shape);
        bc_json_string(j, "codec", row->spec);
    }
    bc_json_integer(j, "values", row->values);
    bc_json_integer(j, "dense_bytes", row->dense_bytes);
    bc_json_integer(j, "file_bytes", row->file_bytes);
    bc_json_number(j, "bits_per_value", per_value(row, row->file_bytes));
    bc_json_number(j, "ratio", (double)row->dense_bytes / (double)row->file_bytes);
    bc_json_number(j, "nmse", row->has_error ? nmse(row) : (double)NAN);
    bc_json_number(j, "max_error", row->has_error ? row->max_error : (double)NAN);
    if (row->has_bad)
        bc_json_integer(j, "nonfinite_tiles", row->bad_tiles);
    else
        bc_json_string(j, "nonfinite_tiles", NULL);
    bc_json_open(j, "part_bytes", '{');
    for (uint32_t k = 0; k < CODEC_PARTS && row->part[k].name; k++)
        bc_json_integer(j, row->part[k].name, row->part[k].bytes);
    bc_json_close(j, '}');
}

static void print_json(const codec_report *r, const codec_row *all, FILE *to) {
    bc_json j;
    bc_json_begin(&j, to);
    bc_json_string(&j, "content", r->content == TC_CONTENT_DIFFERENCES ? "differences" : "tensors");
    bc_json_open(&j, "tensors", '[');
    for (uint32_t i = 0; i < r->n; i++) {
        bc_json_open(&j, NULL, '{');
        json_row(&j, &r->row[i], false);
        bc_json_close(&j, '}');
    }
    bc_json_close(&j, ']');
    bc_json_open(&j, "all", '{');
    json_row(&j, all, true);
    bc_json_close(&j, '}');
    bc_json_end(&j);
}

static tw_status write_json(const codec_report *r, const codec_row *all, const char *path) {
    FILE *to = fopen(path, "w");
    if (!to)
        return tw_fail(TC_ERR_IO, "%s: cannot be made: %s", path, strerror(errno));
    print_json(r, all, to);
    bool good = !ferror(to);
    return fclose(to) == 0 && good ? TW_OK : tw_fail(TC_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
}

tw_status codec_report_end(codec_report *r, uint64_t file_bytes) {
    codec_row all;
    /* values on standard output leave it to them */
    bool taken = !strcmp(r->o->output, "-"), json_out = r->o->json && !strcmp(r->o->json, "-");
    FILE *to = taken ? stderr : stdout;
    r->file_bytes = file_bytes;
    add_up(r, &all);
    if (r->line_open)
        fputc('\n', stderr);
    if (!r->o->quiet && !json_out)
        print_table(r, &all, to);
    if (json_out)
        print_json(r, &all, to);
    return r->o->json && !json_out ? write_json(r, &all, r->o->json) : TW_OK;
}
