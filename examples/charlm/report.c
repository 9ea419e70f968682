/* SPDX-License-Identifier: BSD-3-Clause */
#include "report.h"
#include "bits.h"
#include "model.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static double last_line_s; /* of the line that updates */

static int on_terminal(void) {
    return isatty(STDERR_FILENO);
}

void report_layers(const options *o) {
    model m;
    model_shape(&m, o->context, o->embed, o->hidden);
    for (int l = 0; l < LAYERS; l++) {
        size_t rows = model_rows(&m, l);
        printf("%s{\"name\": \"%s\", \"shape\": [", l ? ",\n " : "[", layer_name[l]);
        if (rows > 1)
            printf("%zu, ", rows);
        printf("%zu], \"dtype\": \"fp32\"}", m.count[l] / rows);
    }
    puts("]");
}

void report_start(const options *o, const text *t, const result *r) {
    printf("text       %s%s%s%s: %u file%s, %zu bytes, xxh64 %016" PRIx64 "\n", t->source,
           *t->python ? " (Python " : "", t->python, *t->python ? ")" : "", t->files, t->files == 1 ? "" : "s", t->size,
           t->hash);
    printf("held out   %zu characters, of which %d are predicted\n", text_heldout_chars(t, o->context), o->eval_chars);
    printf("model      %d characters x %d -> %d -> %d -> 256, %.2f M parameters\n", o->context, o->embed, o->hidden,
           o->hidden, 1e-6 * (double)r->parameters);
    printf("run        %d workers x %d samples, %d steps, %s, lr %g, seed %" PRIu64 ", rules \"%s\"\n", r->ranks,
           o->batch, o->steps, o->optimizer == OPTIMIZER_SGD ? "SGD with momentum" : "Adam", o->lr, o->seed, o->rules);
    fflush(stdout);
}

void report_step(const options *o, int steps_done, double train_bits, const result *r) {
    if (o->quiet || !on_terminal() || now_s() - last_line_s < 0.2)
        return;
    last_line_s = now_s();
    fprintf(stderr, "\r\033[Kstep %d/%d  %.3f bits/char (training)  %.1f ms/step  %.1f MB sent  %.0f s left",
            steps_done, o->steps, train_bits, 1e3 * r->time_s / steps_done, 1e-6 * (double)r->wire_bytes,
            r->time_s / steps_done * (o->steps - steps_done));
}

void report_point(const options *o, const point *p) {
    if (o->quiet)
        return;
    fprintf(stderr, "%sstep %*d/%d  %.4f bits/char held out  %.1f s  %.1f MB sent per worker\n",
            on_terminal() ? "\r\033[K" : "", o->steps > 9999 ? 7 : 4, p->step, o->steps, p->heldout_bits, p->time_s,
            1e-6 * p->wire_bytes);
}

static void line_of_time(const char *name, double s, double of) {
    printf("  %-9s%9.2f s  %5.1f %%\n", name, s, of > 0 ? 100 * s / of : 0.0);
}

void report_summary(const result *r) {
    double other = r->time_s - r->compute_s - r->update_s - r->codec_s - r->wait_s;
    printf("bits per character (held out)  %.4f\n", r->curve[r->points - 1].heldout_bits);
    printf("wire bytes per worker          %.3f MB", 1e-6 * (double)r->wire_bytes);
    if (r->wire_bytes)
        printf("  (plain fp32 sums: %.3f MB, %.1f times as many)", 1e-6 * (double)r->dense_bytes,
               (double)r->dense_bytes / (double)r->wire_bytes);
    printf("\ntime of training               %.2f s (evaluations, not counted: %.2f s)\n", r->time_s, r->eval_s);
    line_of_time("compute", r->compute_s, r->time_s);
    line_of_time("update", r->update_s, r->time_s);
    line_of_time("codec", r->codec_s, r->time_s);
    line_of_time("wait", r->wait_s, r->time_s);
    line_of_time("other", other > 0 ? other : 0, r->time_s);
    if (r->uncertified)
        printf("certificate                    none for %u layers that a native sum carried", r->uncertified);
    else
        printf("certificate                    all averages so far are within %.4g of exact (L2)", r->error_bound);
    if (r->skipped)
        printf("\nskipped steps                  %" PRIu64, r->skipped);
    printf("\nweights                        xxh64 %016" PRIx64 "\nreplicas identical: %s\n", r->weights_hash,
           r->identical ? "yes" : "NO");
}

static void json_text(FILE *f, const char *key, const char *value) {
    fprintf(f, "  \"%s\": \"", key);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            fputc('\\', f);
        if ((unsigned char)*value < 0x20)
            fprintf(f, "\\u%04x", (unsigned)*value);
        else
            fputc(*value, f);
    }
    fputs("\",\n", f);
}

static void json_settings(FILE *f, const options *o, const text *t) {
    json_text(f, "rules", o->rules);
    json_text(f, "optimizer", o->optimizer == OPTIMIZER_SGD ? "sgd" : "adam");
    json_text(f, "text", t->source);
    json_text(f, "python", t->python);
    fprintf(f, "  \"text_files\": %u,\n  \"text_bytes\": %zu,\n  \"text_xxh64\": \"%016" PRIx64 "\",\n", t->files,
            t->size, t->hash);
    fprintf(f, "  \"seed\": %" PRIu64 ",\n  \"steps\": %d,\n  \"batch\": %d,\n  \"warmup\": %d,\n", o->seed, o->steps,
            o->batch, o->warmup);
    fprintf(f, "  \"lr\": %.9g,\n  \"momentum\": %.9g,\n", o->lr, o->momentum);
    fprintf(f, "  \"context\": %d,\n  \"embed\": %d,\n  \"hidden\": %d,\n  \"eval_chars\": %d,\n", o->context, o->embed,
            o->hidden, o->eval_chars);
}

static void json_figures(FILE *f, const result *r) {
    fprintf(f, "  \"ranks\": %d,\n  \"parameters\": %" PRIu64 ",\n", r->ranks, r->parameters);
    fprintf(f, "  \"bits_per_char\": %.6f,\n", r->curve[r->points - 1].heldout_bits);
    fprintf(f, "  \"wire_bytes\": %" PRIu64 ",\n  \"dense_bytes\": %" PRIu64 ",\n", r->wire_bytes, r->dense_bytes);
    fprintf(f, "  \"time_s\": %.6f,\n  \"compute_s\": %.6f,\n  \"update_s\": %.6f,\n", r->time_s, r->compute_s,
            r->update_s);
    fprintf(f, "  \"codec_s\": %.6f,\n  \"wait_s\": %.6f,\n  \"eval_s\": %.6f,\n", r->codec_s, r->wait_s, r->eval_s);
    if (r->uncertified)
        fprintf(f, "  \"error_bound\": null,\n");
    else
        fprintf(f, "  \"error_bound\": %.9g,\n", r->error_bound);
    fprintf(f, "  \"uncertified_layers\": %u,\n  \"skipped_steps\": %" PRIu64 ",\n", r->uncertified, r->skipped);
    fprintf(f, "  \"weights_xxh64\": \"%016" PRIx64 "\",\n  \"replicas_identical\": %s,\n", r->weights_hash,
            r->identical ? "true" : "false");
}

void report_json(const options *o, const text *t, const result *r, const char *transport) {
    FILE *f = fopen(o->json, "w");
    if (!f)
        fail(1, "cannot write %s: %s", o->json, strerror(errno));
    fputs("{\n", f);
    json_text(f, "label", o->label);
    json_text(f, "transport", transport);
    json_text(f, "thinwire", tw_version_string());
    json_settings(f, o, t);
    json_figures(f, r);
    fputs("  \"curve_columns\": [\"step\", \"time_s\", \"wire_bytes\", \"train_bits\", \"heldout_bits\"],\n  "
          "\"curve\": [",
          f);
    for (int i = 0; i < r->points; i++)
        fprintf(f, "%s\n    [%d, %.6f, %.0f, %.6f, %.6f]", i ? "," : "", r->curve[i].step, r->curve[i].time_s,
                r->curve[i].wire_bytes, r->curve[i].train_bits, r->curve[i].heldout_bits);
    fputs("\n  ]\n}\n", f);
    if (fclose(f))
        fail(1, "cannot write %s: %s", o->json, strerror(errno));
}
