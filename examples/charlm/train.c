/* SPDX-License-Identifier: BSD-3-Clause */
#include "train.h"
#include "bits.h"
#include "model.h"
#include "record.h"
#include "report.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SPACE " \t\n\v\f\r"
#define LN2   0.69314718055994530942

enum { DATA_STREAM = 1000 }; /* weights draw from streams 0..LAYERS-1 */
enum { EVAL_BATCH = 256 };

typedef struct worker {
    const options *o;
    const text *t;
    tw_comm *comm;
    tw_reducer *reducer;
    int rank, ranks, step;
    model m;
    float *momentum[LAYERS], *square[LAYERS]; /* square: Adam only */
    const unsigned char **sample;
    double push_s, backward_s;
    result *r;
} worker;

static void check(tw_status s, const char *what) {
    if (s < 0)
        fail(1, "%s: %s (%s)", what, tw_last_error(), tw_status_name(s));
}

/* Every rank's n words to every rank, bit for bit, as 16-bit parts in a sum to which each rank adds only its own. */
static void gather(worker *w, const uint64_t *mine, size_t n, uint64_t *all) {
    size_t parts = 4 * n * (size_t)w->ranks;
    float *sum = need(parts * sizeof(float));
    for (size_t i = 0; i < 4 * n; i++)
        sum[4 * n * (size_t)w->rank + i] = (float)(mine[i / 4] >> (16 * (i % 4)) & 0xffff);
    check(tw_allreduce(w->comm, NULL, sum, sum, parts, TW_F32, TW_SUM), "gathering figures");
    memset(all, 0, n * (size_t)w->ranks * sizeof *all);
    for (size_t i = 0; i < parts; i++)
        all[i / 4] |= (uint64_t)sum[i] << (16 * (i % 4));
    free(sum);
}

/* Copies: a compiler may move accesses to doubles past those to the same memory as words. */
static void gather_doubles(worker *w, const double *mine, size_t n, double *all) {
    size_t total = n * (size_t)w->ranks;
    uint64_t *words = need((n + total) * sizeof *words);
    memcpy(words, mine, n * sizeof *mine);
    gather(w, words, n, words + n);
    memcpy(all, words + n, total * sizeof *all);
    free(words);
}

/* ---- optimizers: one pass over weights, gradient and state ---- */

static double learning_rate(const options *o, int step) {
    if (step < o->warmup)
        return o->lr * (step + 1) / o->warmup;
    return o->lr * 0.5 * (1 + cos(3.14159265358979323846 * (step - o->warmup) / (o->steps - o->warmup)));
}

static void sgd(float *restrict w, float *restrict m, const float *restrict g, size_t n, float lr, float momentum) {
    for (size_t i = 0; i < n; i++) {
        m[i] = momentum * m[i] + g[i];
        w[i] -= lr * m[i];
    }
}

static void adam(float *restrict w, float *restrict m, float *restrict v, const float *restrict g, size_t n, float lr,
                 float correct2) {
    for (size_t i = 0; i < n; i++) {
        m[i] = 0.9f * m[i] + 0.1f * g[i];
        v[i] = 0.999f * v[i] + 0.001f * g[i] * g[i];
        w[i] -= lr * m[i] / (sqrtf(v[i] * correct2) + 1e-8f);
    }
}

static void update(worker *w, int step) {
    float lr = (float)learning_rate(w->o, step);
    for (int l = 0; l < LAYERS; l++)
        if (w->o->optimizer == OPTIMIZER_SGD)
            sgd(w->m.w[l], w->momentum[l], w->m.grad[l], w->m.count[l], lr, (float)w->o->momentum);
        else
            adam(w->m.w[l], w->momentum[l], w->square[l], w->m.grad[l], w->m.count[l],
                 lr / (float)(1 - pow(0.9, step + 1)), 1 / (float)(1 - pow(0.999, step + 1)));
}

/* ---- one step ---- */

static void push(void *arg, int layer) {
    worker *w = arg;
    double start = now_s();
    if (record_wanted(w->o, w->step))
        record_layer(w->o, &w->m, w->step, w->rank, layer);
    check(tw_reducer_push(w->reducer, (uint32_t)layer, w->m.grad[layer], w->m.grad[layer]), layer_name[layer]);
    w->push_s += now_s() - start;
}

/* Returns this rank's mean loss in bits; adds to the sums in w->r. */
static double step(worker *w, int s) {
    result *r = w->r;
    tw_report report = TW_REPORT_INIT;
    int n = w->o->batch;
    uint64_t first = ((uint64_t)s * (uint64_t)w->ranks + (uint64_t)w->rank) * (uint64_t)n;
    double start = now_s(), pushed = w->push_s;
    w->step = s;
    for (int i = 0; i < n; i++)
        w->sample[i] = text_train_sample(w->t, w->o->context, rng_u64(w->o->seed, DATA_STREAM, first + (uint64_t)i));
    double loss = model_forward(&w->m, w->sample, n);
    check(tw_reducer_begin(w->reducer, (uint64_t)s, NULL), "begin");
    model_backward(&w->m, w->sample, n, push, w);
    r->compute_s += now_s() - start - (w->push_s - pushed);
    check(tw_reducer_end(w->reducer, &report), "end");
    start = now_s();
    if (report.verdict == TW_VERDICT_OK)
        update(w, s);
    else
        r->skipped++;
    r->update_s += now_s() - start;
    r->codec_s += report.encode_s + report.reduce_s + report.decode_s;
    r->wait_s += report.wait_s;
    r->wire_bytes += report.wire_bytes;
    r->dense_bytes += report.dense_bytes;
    r->error_bound = report.error_bound;
    r->uncertified = report.uncertified;
    return loss / n / LN2;
}

/* Bits per character on held-out text: each rank predicts a share, and all get the same sum. NaN if it diverged.
 * *time_s: mean training time of the ranks so far, as agree() takes it at the end. */
static double evaluate(worker *w, double *time_s) {
    size_t of = (size_t)w->o->eval_chars, from = of * (size_t)w->rank / (size_t)w->ranks;
    size_t to = of * ((size_t)w->rank + 1) / (size_t)w->ranks;
    double mine[2] = {0, w->r->time_s}, *all = need((size_t)w->ranks * sizeof mine), sum = 0;
    for (size_t i = from; i < to;) {
        int n = 0;
        for (; n < w->m.room && i < to; n++, i++)
            w->sample[n] = text_heldout_sample(w->t, w->o->context, i, of);
        mine[0] += model_forward(&w->m, w->sample, n);
    }
    gather_doubles(w, mine, 2, all);
    *time_s = 0;
    for (int i = 0; i < w->ranks; i++) {
        sum += all[2 * i];
        *time_s += all[2 * i + 1] / w->ranks;
    }
    free(all);
    return sum / (double)of / LN2;
}

/* ---- the run ---- */

static void layers_of(const model *m, tw_layer *layers) {
    for (int l = 0; l < LAYERS; l++) {
        size_t rows = model_rows(m, l);
        layers[l] = rows > 1 ? (tw_layer)TW_LAYER_MATRIX(layer_name[l], rows, m->count[l] / rows, TW_F32)
                             : (tw_layer)TW_LAYER(layer_name[l], m->count[l]);
    }
}

static int matches_layer(const char *pattern) {
    for (int l = 0; l < LAYERS; l++)
        if (fnmatch(pattern, layer_name[l], 0) == 0)
            return 1;
    return 0;
}

/* Layers that no rule names go uncompressed; a pattern without a layer is more likely a slip than meant. The rules are
 * known to be right: PATTERN {"|" PATTERN} "=" ..., with ";" between them. */
static void warn_unmatched(const char *rules) {
    char names[512] = "", *copy = need(strlen(rules) + 1), *rule_end, *pattern_end;
    for (int l = 0; l < LAYERS; l++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", l ? ", " : "", layer_name[l]);
    strcpy(copy, rules);
    for (char *rule = strtok_r(copy, ";", &rule_end); rule; rule = strtok_r(NULL, ";", &rule_end)) {
        rule[strcspn(rule, "=")] = 0;
        for (char *p = strtok_r(rule, "|", &pattern_end); p; p = strtok_r(NULL, "|", &pattern_end)) {
            p += strspn(p, SPACE);
            for (size_t n = strlen(p); n && strchr(SPACE, p[n - 1]); n--)
                p[n - 1] = 0;
            if (*p && !matches_layer(p))
                warn("--rules: no layer matches \"%s\"; the layers are %s", p, names);
        }
    }
    free(copy);
}

void train_check(const options *o) {
    tw_memory memory = TW_MEMORY_INIT;
    tw_layer layers[LAYERS];
    model m;
    model_shape(&m, o->context, o->embed, o->hidden);
    layers_of(&m, layers);
    tw_ctx *probe; /* refuses a bad THINWIRE_ variable, which are no fault of the rules */
    if (tw_ctx_create(NULL, &probe) < 0)
        fail(2, "%s", tw_last_error());
    tw_ctx_destroy(probe);
    if (tw_reducer_estimate(0, 1, layers, LAYERS, o->rules, NULL, &memory) < 0)
        fail(2, "--rules \"%s\": %s", o->rules, tw_last_error());
    warn_unmatched(o->rules);
}

static void start(worker *w) {
    static const tw_algo algo[] = {TW_ALGO_SRA, TW_ALGO_NATIVE, TW_ALGO_AUTO};
    tw_reducer_config config = TW_REDUCER_CONFIG_INIT;
    tw_layer layers[LAYERS];
    int room = w->o->batch > EVAL_BATCH ? w->o->batch : EVAL_BATCH;
    model_create(&w->m, w->o->context, w->o->embed, w->o->hidden, room, w->o->seed);
    for (int l = 0; l < LAYERS; l++) {
        w->momentum[l] = need(w->m.count[l] * sizeof(float));
        w->square[l] = w->o->optimizer == OPTIMIZER_ADAM ? need(w->m.count[l] * sizeof(float)) : NULL;
    }
    layers_of(&w->m, layers);
    w->sample = need((size_t)room * sizeof *w->sample);
    config.algo = algo[w->o->algo];
    check(tw_reducer_create(w->comm, layers, LAYERS, w->o->rules, &config, &w->reducer), "the reducer");
}

static void stop(worker *w) {
    check(tw_reducer_destroy(w->reducer), "destroy");
    for (int l = 0; l < LAYERS; l++)
        free(w->momentum[l]), free(w->square[l]);
    free(w->sample);
    model_free(&w->m);
}

/* Figures of all ranks into one result: means of times, the largest wire_bytes, and whether all weights are equal. */
static void agree(worker *w) {
    enum { HASH, WIRE, FIRST_TIME, WORDS = FIRST_TIME + 6 };
    result *r = w->r;
    double *times[] = {&r->time_s, &r->compute_s, &r->update_s, &r->codec_s, &r->wait_s, &r->eval_s};
    uint64_t mine[WORDS] = {0}, *all = need((size_t)w->ranks * sizeof mine);
    for (int l = 0; l < LAYERS; l++)
        mine[HASH] = xxh64(w->m.w[l], w->m.count[l] * sizeof(float), mine[HASH]);
    mine[WIRE] = r->wire_bytes;
    for (int i = 0; i < WORDS - FIRST_TIME; i++)
        memcpy(&mine[FIRST_TIME + i], times[i], sizeof(double)), *times[i] = 0;
    gather(w, mine, WORDS, all);
    r->weights_hash = mine[HASH];
    r->identical = 1;
    for (int k = 0; k < w->ranks; k++) {
        const uint64_t *its = all + (size_t)k * WORDS;
        r->identical &= its[HASH] == all[HASH];
        r->wire_bytes = its[WIRE] > r->wire_bytes ? its[WIRE] : r->wire_bytes;
        for (int i = 0; i < WORDS - FIRST_TIME; i++) {
            double t;
            memcpy(&t, &its[FIRST_TIME + i], sizeof t);
            *times[i] += t / w->ranks;
        }
    }
    free(all);
}

/* False if training diverged; all ranks see the same sum. */
static int measure(worker *w, int steps_done, double train_bits) {
    double begin = now_s(), time_s, bits = evaluate(w, &time_s);
    point *p = &w->r->curve[w->r->points++];
    *p = (point){steps_done, time_s, (double)w->r->wire_bytes, train_bits, bits};
    w->r->eval_s += now_s() - begin;
    if (!isfinite(p->heldout_bits))
        w->r->diverged_at = steps_done;
    else if (w->rank == 0)
        report_point(w->o, p);
    return !w->r->diverged_at;
}

void train(const options *o, const text *t, tw_comm *comm, result *out) {
    worker w = {.o = o, .t = t, .comm = comm, .rank = tw_comm_rank(comm), .ranks = tw_comm_size(comm), .r = out};
    double bits = 8;
    memset(out, 0, sizeof *out);
    out->ranks = w.ranks;
    out->curve = need(((size_t)o->steps / (size_t)o->eval_every + 2) * sizeof(point));
    start(&w);
    out->parameters = model_parameters(&w.m);
    if (w.rank == 0)
        report_start(o, t, out);
    int going = measure(&w, 0, bits);
    for (int s = 0; s < o->steps && going; s++) {
        double begin = now_s(), loss = step(&w, s);
        out->time_s += now_s() - begin;
        bits = s == 0 ? loss : bits + (loss - bits) * 0.05; /* smoothed for the eye */
        if ((s + 1) % o->eval_every == 0 || s + 1 == o->steps)
            going = measure(&w, s + 1, bits);
        else if (w.rank == 0)
            report_step(o, s + 1, bits, out);
    }
    agree(&w);
    stop(&w);
}
