/* SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>

#include "bench_common.h"
#include "plan_tool.h"

static const char *const error_words[] = {"laplace", "normal", "student", "data"};

static const char *verdict_of(const plan_result *r) {
    return r->compress ? "compress" : r->by_half ? "do not compress: average in bf16" : "do not compress";
}

/* ---- numbers for people ---- */
typedef char word[48];

static const char *rate_text(double bits, word to) {
    static const char *const unit[] = {"bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"};
    int u = 0;
    for (; bits >= 1000 && u < 4; u++)
        bits /= 1000;
    snprintf(to, sizeof(word), "%.3g %s", bits, unit[u]);
    return to;
}

static const char *bytes_text(double bytes, word to) {
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB"};
    int u = 0;
    for (; bytes >= 1000 && u < 4; u++)
        bytes /= 1000;
    snprintf(to, sizeof(word), "%.4g %s", bytes, unit[u]);
    return to;
}

static const char *pays_text(const plan_span *pays, word to) {
    word from, below;
    if (pays->below == 0)
        snprintf(to, sizeof(word), "at no rate from %.12s on", rate_text(PLAN_SLOWEST, from));
    else if (isinf(pays->below))
        snprintf(to, sizeof(word), "up to %.12s, the fastest tried", rate_text(PLAN_FASTEST, below));
    else if (pays->from > 0)
        snprintf(to, sizeof(word), "from %.14s to %.14s", rate_text(pays->from, from), rate_text(pays->below, below));
    else
        snprintf(to, sizeof(word), "below %.14s", rate_text(pays->below, below));
    return to;
}

/* ---- the table ---- */
static void print_layers(const plan_result *r, FILE *to) {
    fprintf(to, "%-36s %12s %5s  %-28s %10s %7s %9s %9s\n", "layer", "values", "dtype", "setting", "sends", "ratio",
            "codec ms", "lost");
    for (uint32_t i = 0; i < r->layers->n; i++) {
        const plan_layer *y = &r->layers->item[i];
        const size_t at = (size_t)i * r->candidates->n + r->chosen[i];
        double ranks = (double)r->o->ranks, wire = r->cost[at].wire;
        double dense = 2 * (ranks - 1) / ranks * (double)y->count * (double)tw_dtype_size(y->dtype);
        char name[TC_SHOWN + 1];
        word sends;
        tc_shown(name, sizeof name, y->name);
        fprintf(to, "%-36s %12llu %5s  %-28s %10s %7.4g %9.3f %9.3g\n", name, (unsigned long long)y->count,
                tw_dtype_name(y->dtype), r->candidates->item[r->chosen[i]].text, bytes_text(wire, sends),
                wire > 0 ? dense / wire : 1, 1e3 * r->cost[at].codec, r->lost[at]);
    }
}

static void print_time(const plan_result *r, FILE *to, const char *what, const plan_time *t) {
    fprintf(to, "%-36s %10.2f %10.2f %10.2f %10.2f %9.3gx\n", what, 1e3 * t->wire, 1e3 * t->codec, 1e3 * t->exposed,
            1e3 * t->step, r->dense.step / t->step);
}

static void print_times(const plan_result *r, FILE *to) {
    char uniform[PLAN_SPEC + 16];
    snprintf(uniform, sizeof uniform, "all layers %s", r->candidates->item[r->candidates->uniform].text);
    fprintf(to, "\n%-36s %10s %10s %10s %10s %10s\n", "milliseconds a step", "wire", "codec", "exposed", "step",
            "faster");
    print_time(r, to, "dense", &r->dense);
    print_time(r, to, "dense halves (bf16)", &r->half);
    print_time(r, to, uniform, &r->uniform);
    print_time(r, to, "a setting for each layer", &r->best);
}

static void print_rules(const plan_result *r, FILE *to) {
    word most, least, state, frames;
    if (r->rules_problem) {
        fprintf(to, "rules           none: %s\n", r->rules_problem);
        return;
    }
    fprintf(to, "a rank sends    %s on average; of %s%u ranks the least %s, the most %s\n",
            bytes_text(r->average_wire, state), r->ranks_seen < r->o->ranks ? "" : "all ", r->ranks_seen,
            bytes_text(r->least_wire, least), bytes_text(r->most_wire, most));
    fprintf(to, "memory          %s of residuals and state, %s of frames, on rank 0\n",
            bytes_text((double)r->memory.state_bytes, state), bytes_text((double)r->memory.frame_bytes, frames));
    fprintf(to, "rules           %s\n", r->rules);
}

void plan_print(const plan_result *r, FILE *to) {
    word dense, half, link;
    print_layers(r, to);
    print_times(r, to);
    fprintf(to, "\nverdict         %s%s (%llu ranks, %s, %u layers, %llu values)\n", verdict_of(r),
            r->latency_alone ? ", for fewer latencies alone: its bytes would not pay" : "",
            (unsigned long long)r->o->ranks, rate_text(r->o->link, link), r->layers->n,
            (unsigned long long)r->layers->values);
    fprintf(to, "compressing     pays %s against dense sums, %s against those of halves\n",
            pays_text(&r->pays_dense, dense), pays_text(&r->pays_half, half));
    fprintf(to, "error           %.4g of a budget of %.4g (%s, %s), with the settings above", r->error, r->budget,
            r->o->squares ? "squares" : "norms", error_words[r->o->errors]);
    if (r->distance < PLAN_NEAR)
        fprintf(to, "; within it no step is shorter by more than %.2g %%", fmax(100 * r->distance, 0.01));
    fprintf(to, "\n");
    print_rules(r, to);
}

/* ---- JSON ---- */
static void json_time(bc_json *j, const char *key, const plan_time *t) {
    bc_json_open(j, key, '{');
    bc_json_number(j, "wire_s", t->wire);
    bc_json_number(j, "codec_s", t->codec);
    bc_json_number(j, "exposed_s", t->exposed);
    bc_json_number(j, "step_s", t->step);
    bc_json_close(j, '}');
}

static void json_question(bc_json *j, const plan_result *r) {
    const plan_options *o = r->o;
    bc_json_string(j, "version", tw_version_string());
    bc_json_integer(j, "ranks", o->ranks);
    bc_json_number(j, "link_bits", o->link);
    bc_json_number(j, "goodput", o->goodput);
    bc_json_number(j, "latency_s", o->latency);
    bc_json_number(j, "message_s", o->message);
    bc_json_number(j, "cores", o->cores);
    bc_json_number(j, "compute_s", o->step);
    bc_json_number(j, "overlap", o->overlap);
    bc_json_integer(j, "bucket_bytes", o->bucket);
    bc_json_string(j, "uniform", r->candidates->item[r->candidates->uniform].text);
    bc_json_string(j, "norm", o->squares ? "l2sq" : "l2");
    bc_json_string(j, "errors", error_words[o->errors]);
}

static void json_layers(bc_json *j, const plan_result *r) {
    bc_json_open(j, "layers", '[');
    for (uint32_t i = 0; i < r->layers->n; i++) {
        const plan_layer *y = &r->layers->item[i];
        const size_t at = (size_t)i * r->candidates->n + r->chosen[i];
        bc_json_open(j, NULL, '{');
        bc_json_string(j, "name", y->name);
        bc_json_integer(j, "count", y->count);
        bc_json_integer(j, "columns", y->columns);
        bc_json_string(j, "dtype", tw_dtype_name(y->dtype));
        bc_json_number(j, "norm", y->norm);
        bc_json_string(j, "setting", r->candidates->item[r->chosen[i]].text);
        bc_json_number(j, "wire_bytes", r->cost[at].wire);
        bc_json_number(j, "codec_s", r->cost[at].codec);
        bc_json_number(j, "lost", r->lost[at]);
        bc_json_close(j, '}');
    }
    bc_json_close(j, ']');
}

/* What --codec-speeds reads. */
static void json_speeds(bc_json *j, const plan_candidates *c) {
    bc_json_open(j, "speeds", '{');
    for (uint32_t k = 0; k < c->n; k++) {
        bc_json_open(j, c->item[k].text, '{');
        bc_json_number(j, "encode", 1 / c->item[k].encode);
        bc_json_number(j, "decode", 1 / c->item[k].decode);
        bc_json_close(j, '}');
    }
    bc_json_close(j, '}');
}

static void json_bits(bc_json *j, const char *key, double bits) {
    if (isinf(bits))
        bc_json_string(j, key, "any");
    else
        bc_json_number(j, key, bits);
}

void plan_print_json(const plan_result *r, FILE *to) {
    bc_json j;
    bc_json_begin(&j, to);
    json_question(&j, r);
    bc_json_string(&j, "verdict", verdict_of(r));
    bc_json_bool(&j, "compress", r->compress);
    bc_json_bool(&j, "latency_alone", r->latency_alone);
    json_time(&j, "dense", &r->dense);
    json_time(&j, "half", &r->half);
    json_time(&j, "all_uniform", &r->uniform);
    json_time(&j, "chosen", &r->best);
    json_bits(&j, "pays_below_bits", r->pays_dense.below);
    json_bits(&j, "pays_from_bits", r->pays_dense.from);
    json_bits(&j, "pays_below_bits_half", r->pays_half.below);
    json_bits(&j, "pays_from_bits_half", r->pays_half.from);
    bc_json_number(&j, "error", r->error);
    bc_json_number(&j, "budget", r->budget);
    bc_json_number(&j, "distance", r->distance);
    bc_json_number(&j, "wire_bytes", r->sum.wire);
    bc_json_string(&j, "rules", r->rules_problem ? NULL : r->rules);
    bc_json_string(&j, "rules_problem", r->rules_problem);
    bc_json_number(&j, "average_wire_bytes", r->average_wire);
    bc_json_number(&j, "most_wire_bytes", r->most_wire);
    bc_json_number(&j, "least_wire_bytes", r->rules_problem ? 0 : r->least_wire);
    bc_json_integer(&j, "ranks_looked_at", r->ranks_seen);
    bc_json_integer(&j, "state_bytes", r->memory.state_bytes);
    bc_json_integer(&j, "frame_bytes", r->memory.frame_bytes);
    json_layers(&j, r);
    json_speeds(&j, r->candidates);
    bc_json_end(&j);
}
