/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One row: a reducer, warm-up and timed iterations, every output checked. Per iteration: fresh input, barrier, the
 * timed step, then checks (canaries, equal hashes, exact sums against the certificate), then plain MPI. */
#include "bench_allreduce.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

typedef struct rank_state { /* of one rank that this world drives */
    tw_reducer *reducer;    /* NULL: the collective needs none */
    ba_arena in, out;
    tw_report report;
    uint64_t sent, native;          /* counters before the step */
    uint64_t in_hash, foreign_hash; /* what the step must leave as it is */
} rank_state;

typedef struct run { /* of one row */
    ba_world *w;
    const ba_config *cfg;
    const ba_collective *what;
    tw_spec spec; /* broadcast: of the row's codec */
    ba_row *row;
    ba_source source;
    uint64_t count;
    rank_state *ranks; /* nlocal */
    tw_layer *layers;
    tw_piece *pieces; /* of one rank, all layers */
    char *names;
    double *times, *plain[4]; /* plain: blocking, nonblocking, and both of half the bytes */
    uint32_t timed, plain_done;
    double *error;               /* sum of (out - exact) over all iterations, of its ranks' parts (part_of) */
    double exact_sq;             /* of those parts, all iterations */
    double error_norm, all_norm; /* of the whole message, so far */
    double wire, native;
    float *base_in, *base_out; /* the baseline's own */
    uint32_t *payload;         /* broadcast: what the root's values become, layer by layer */
    void *decoded;
    uint64_t decoded_hash;
} run;

static void cpu_seconds(double *total, double *sys) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    *sys = (double)u.ru_stime.tv_sec + 1e-6 * (double)u.ru_stime.tv_usec;
    *total = *sys + (double)u.ru_utime.tv_sec + 1e-6 * (double)u.ru_utime.tv_usec;
}

static void spoil(ba_row *row, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Notes the first thing that is wrong with the row; the run goes on to the next one. */
static void spoil(ba_row *row, const char *format, ...) {
    va_list ap;
    if (!row->ok)
        return;
    row->ok = false;
    va_start(ap, format);
    vsnprintf(row->problem, sizeof row->problem, format, ap);
    va_end(ap);
}

/* The values of a layer that a rank answers for: its shard, or where all ranks have all of the output, which of them it
 * checks. */
static void part_of(const run *u, uint32_t layer, int rank, uint64_t *begin, uint64_t *end) {
    uint64_t n = u->layers[layer].count, p = (uint64_t)u->w->ranks, r = (uint64_t)rank;
    uint64_t part = u->what->sharded ? u->layers[layer].shard : (n + p - 1) / p;
    *begin = r * part < n ? r * part : n;
    *end = (r + 1) * part < n ? (r + 1) * part : n;
}

/* ---- set-up ---- */

/* A layer is a matrix, as nearly square as its values allow: codecs of low rank go by rows. */
static uint64_t columns_of(uint64_t count) {
    uint64_t rows = (uint64_t)sqrt((double)count);
    while (rows > 1 && count % rows)
        rows--;
    return rows > 1 ? count / rows : 0;
}

static bool make_layers(run *u) {
    uint32_t n = u->cfg->layers;
    uint64_t tile = u->cfg->reducer.tile ? u->cfg->reducer.tile : 4096, p = (uint64_t)u->w->ranks;
    u->layers = calloc(n, sizeof *u->layers);
    u->pieces = calloc(n, sizeof *u->pieces);
    u->names = calloc(n, 24);
    if (!u->layers || !u->pieces || !u->names)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        snprintf(u->names + 24 * (size_t)i, 24, "bench.%u", i);
        uint64_t count = u->count / n + (i < u->count % n);
        u->layers[i] = (tw_layer)TW_LAYER_DTYPE(u->names + 24 * (size_t)i, count, u->cfg->dtype);
        u->layers[i].columns = columns_of(count);
        if (u->what->sharded)
            u->layers[i].pinned = 1, u->layers[i].shard = ((count ? count - 1 : 0) / (p * tile) + 1) * tile;
    }
    return true;
}

/* Where a rank holds no residual, one codec's output is known: that of encoding and decoding at once. Random numbers are the
 * library's own. */
static bool output_is_known(const tw_spec *s) {
    return s->codec <= TW_CODEC_TERNARY && s->rounding != TW_ROUNDING_STOCHASTIC;
}

static bool make_model(run *u) {
    uint64_t largest = u->layers[0].count;
    if (u->what->reducer || u->w->rank || !u->cfg->check_every || !output_is_known(&u->spec))
        return true;
    u->payload = malloc(tw_spec_bound(&u->spec, largest, u->cfg->dtype) + 4);
    u->decoded = malloc(largest * tw_dtype_size(u->cfg->dtype) + 4);
    return u->payload && u->decoded;
}

static bool make_buffers(run *u) {
    const ba_config *c = u->cfg;
    size_t elem = tw_dtype_size(c->dtype);
    uint64_t bytes = u->row->bytes;
    for (int r = 0; r < u->w->nlocal; r++) {
        rank_state *s = &u->ranks[r];
        if (!ba_arena_create(&s->out, u->count, c->layers, elem))
            return false;
        if (!c->in_place && !ba_arena_create(&s->in, u->count, c->layers, elem))
            return false;
    }
    u->times = calloc(c->iterations, sizeof *u->times);
    for (int k = 0; k < 4; k++)
        if (!(u->plain[k] = calloc(c->iterations, sizeof(double))))
            return false;
    uint64_t mine = 0, begin, end;
    for (uint32_t l = 0; l < c->layers; l++)
        for (int r = 0; r < u->w->nlocal; r++) {
            part_of(u, l, u->w->rank + r, &begin, &end);
            mine += end - begin;
        }
    if (c->check_every && !(u->error = calloc(mine + 1, sizeof *u->error)))
        return false;
    if (u->w->ops->plain && c->baseline_n && bytes / 4 > INT32_MAX && u->w->rank == 0)
        fprintf(stderr, "thinwire-bench: no plain MPI beside %llu bytes: its counts end at 2^31 - 1 values\n",
                (unsigned long long)bytes);
    if (u->w->ops->plain && c->baseline_n && bytes / 4 <= INT32_MAX) {
        u->base_in = aligned_alloc(64, (bytes + 63) & ~(uint64_t)63);
        u->base_out = aligned_alloc(64, (bytes + 63) & ~(uint64_t)63);
        if (!u->base_in || !u->base_out)
            return false;
        memset(u->base_out, 1, bytes); /* touched, so that no page fault is timed */
    }
    return u->times != NULL;
}

static void make_reducers(run *u) {
    ba_world *w = u->w;
    size_t n = (size_t)w->nlocal;
    char rules[BA_TEXT];
    snprintf(rules, sizeof rules, "*=%s", u->row->codec);
    if (!w->sim) {
        ba_failed(
            w, w->rank,
            tw_reducer_create(w->comms[0], u->layers, u->cfg->layers, rules, &u->cfg->reducer, &u->ranks[0].reducer),
            "reducer");
        return;
    }
    const tw_layer **layers = calloc(n, sizeof *layers);
    uint32_t *counts = calloc(n, sizeof *counts);
    const char **texts = calloc(n, sizeof *texts);
    const tw_reducer_config **cfgs = calloc(n, sizeof *cfgs);
    tw_reducer **made = calloc(n, sizeof *made);
    if (layers && counts && texts && cfgs && made) {
        for (size_t r = 0; r < n; r++)
            layers[r] = u->layers, counts[r] = u->cfg->layers, texts[r] = rules, cfgs[r] = &u->cfg->reducer;
        ba_failed(w, 0, tw_sim_reducers(w->sim, w->comms, layers, counts, texts, cfgs, made), "reducers");
        for (size_t r = 0; r < n; r++)
            u->ranks[r].reducer = made[r];
    } else {
        ba_problem(w, 0, "out of memory");
    }
    free(made);
    free(cfgs);
    free(texts);
    free(counts);
    free(layers);
}

static bool set_up(run *u) {
    ba_world *w = u->w;
    u->ranks = calloc((size_t)w->nlocal, sizeof *u->ranks);
    if (!u->ranks || !make_layers(u) || !make_buffers(u) || !make_model(u))
        ba_problem(w, w->rank, "out of memory: %.0f MiB a rank are too much here", (double)u->row->bytes * 0x1p-20);
    if (!ba_agree(w))
        return false;
    if (u->what->reducer)
        make_reducers(u);
    if (!ba_agree(w))
        return false;
    tw_memory m = TW_MEMORY_INIT;
    if (u->what->reducer && tw_reducer_memory(u->ranks[0].reducer, &m) >= 0)
        u->row->state_bytes = m.state_bytes, u->row->frame_bytes = m.frame_bytes;
    return true;
}

static void tear_down(run *u) {
    for (int r = 0; u->ranks && r < u->w->nlocal; r++) {
        if (u->ranks[r].reducer)
            ba_failed(u->w, u->w->rank + r, tw_reducer_destroy(u->ranks[r].reducer), "reducer");
        ba_arena_destroy(&u->ranks[r].in);
        ba_arena_destroy(&u->ranks[r].out);
    }
    free(u->ranks);
    free(u->layers);
    free(u->pieces);
    free(u->names);
    free(u->payload);
    free(u->decoded);
    free(u->times);
    for (int k = 0; k < 4; k++)
        free(u->plain[k]);
    free(u->error);
    free(u->base_in);
    free(u->base_out);
}

/* ---- the timed step ---- */

static void counters(run *u, bool after) {
    for (int r = 0; r < u->w->nlocal; r++) {
        rank_state *s = &u->ranks[r];
        tw_comm_stats cs = TW_COMM_STATS_INIT;
        ba_failed(u->w, u->w->rank + r, tw_comm_get_stats(u->w->comms[r], &cs), "counters");
        s->sent = cs.sent_bytes - (after ? s->sent : 0);
        s->native = cs.native_bytes - (after ? s->native : 0);
    }
}

static const ba_arena *input_of(const run *u, const rank_state *s) {
    return u->cfg->in_place ? &s->out : &s->in;
}

static bool push(run *u, int rank, rank_state *s) {
    const ba_arena *in = input_of(u, s);
    for (uint32_t l = u->cfg->layers; l-- > 0;)
        if (ba_failed(u->w, rank, tw_reducer_push(s->reducer, l, ba_layer(in, l), ba_layer(&s->out, l)), "push"))
            return false;
    return true;
}

static bool post(run *u, int rank, rank_state *s) {
    uint32_t n = u->cfg->layers;
    for (uint32_t l = 0; l < n; l++)
        u->pieces[l] = (tw_piece)TW_PIECE(l, 0, u->layers[l].count, ba_layer(input_of(u, s), l), ba_layer(&s->out, l));
    return !ba_failed(u->w, rank,
                      u->cfg->kind == BA_ALLGATHER ? tw_reducer_post_allgather(s->reducer, u->pieces, n, NULL)
                                                   : tw_reducer_post_reduce_scatter(s->reducer, u->pieces, n, NULL),
                      "post");
}

static void broadcast(run *u) {
    for (uint32_t l = u->cfg->layers; l-- > 0;)
        if (ba_failed(u->w, u->w->rank,
                      tw_broadcast(u->w->comms[0], &u->spec, ba_layer(&u->ranks[0].out, l), u->layers[l].count,
                                   u->cfg->dtype, 0),
                      "broadcast"))
            return;
}

static void step(run *u, uint64_t number) {
    ba_world *w = u->w;
    if (!u->what->reducer) {
        broadcast(u);
        return;
    }
    for (int r = 0; r < w->nlocal; r++) {
        rank_state *s = &u->ranks[r];
        if (ba_failed(w, w->rank + r, tw_reducer_begin(s->reducer, number, NULL), "begin"))
            return;
        if (!(u->cfg->kind == BA_ALLREDUCE ? push : post)(u, w->rank + r, s))
            return;
    }
    for (int r = 0; r < w->nlocal; r++) {
        rank_state *s = &u->ranks[r];
        s->report = (tw_report)TW_REPORT_INIT;
        if (ba_failed(w, w->rank + r, tw_reducer_end(s->reducer, &s->report), "end"))
            return;
        if (s->report.verdict != TW_VERDICT_OK)
            ba_problem(w, w->rank + r, "the step was not applied (verdict %d)", (int)s->report.verdict);
    }
}

/* Fills the columns that come from one iteration; false when a rank failed. */
static bool timed_step(run *u, uint64_t number, bool timed) {
    ba_world *w = u->w;
    double cpu0, sys0, cpu1, sys1;
    counters(u, false);
    w->ops->barrier(w);
    cpu_seconds(&cpu0, &sys0);
    double t0 = w->ops->now(w);
    step(u, number);
    double t1 = w->ops->now(w);
    if (w->shares_process)
        w->ops->barrier(w);
    cpu_seconds(&cpu1, &sys1);
    counters(u, true);
    if (!ba_agree(w))
        return false;
    bool counts = !w->shares_process || w->rank == 0;
    double most[3] = {t1 - t0, 0, 0}, sum[6] = {counts ? cpu1 - cpu0 : 0, counts ? sys1 - sys0 : 0, 0, 0, 0, 0};
    for (int r = 0; r < w->nlocal; r++) {
        const rank_state *s = &u->ranks[r];
        most[1] = fmax(most[1], (double)s->sent);
        most[2] = fmax(most[2], (double)s->native);
        sum[2] += s->report.encode_s;
        sum[3] += s->report.reduce_s;
        sum[4] += s->report.decode_s;
        sum[5] += s->report.wait_s;
    }
    w->ops->fold(w, BA_MAX, most, 3);
    w->ops->fold(w, BA_SUM, sum, 6);
    if (!timed)
        return true;
    u->times[u->timed++] = most[0];
    u->wire += most[1];
    u->native += most[2];
    ba_sums *m = &u->row->mean;
    m->cpu += sum[0];
    m->cpu_sys += sum[1];
    m->encode += sum[2] / w->ranks;
    m->reduce += sum[3] / w->ranks;
    m->decode += sum[4] / w->ranks;
    m->wait += sum[5] / w->ranks;
    return true;
}

/* ---- checks ---- */

/* What a rank does not own of the output of a reduce-scatter. */
static uint64_t foreign_hash(const run *u, int r) {
    const ba_arena *out = &u->ranks[r].out;
    uint64_t h = 1, begin, end;
    for (uint32_t l = 0; l < out->layers; l++) {
        const unsigned char *at = ba_layer(out, l);
        part_of(u, l, u->w->rank + r, &begin, &end);
        h = ba_hash(h, at, begin * out->elem);
        h = ba_hash(h, at + end * out->elem, (u->layers[l].count - end) * out->elem);
    }
    return h;
}

/* What every rank must receive, and the root itself. With one rank nothing is encoded. */
static void make_expected(run *u) {
    const ba_arena *in = &u->ranks[0].out;
    uint64_t len;
    u->decoded_hash = 1;
    for (uint32_t l = 0; l < in->layers; l++) {
        uint64_t n = u->layers[l].count, cap = tw_spec_bound(&u->spec, n, u->cfg->dtype);
        const void *out = u->w->ranks > 1 ? u->decoded : ba_layer(in, l);
        if (u->w->ranks > 1 &&
            (ba_failed(u->w, 0,
                       tw_encode(&u->spec, NULL, ba_layer(in, l), n, u->cfg->dtype, u->payload, cap, &len, NULL),
                       "encode") ||
             ba_failed(u->w, 0, tw_decode(&u->spec, NULL, u->payload, len, u->decoded, n, u->cfg->dtype), "decode")))
            return;
        u->decoded_hash = ba_hash(u->decoded_hash, out, n * in->elem);
    }
}

static void check_expected(run *u, uint64_t iteration) {
    if (u->decoded && ba_arena_hash(&u->ranks[0].out) != u->decoded_hash)
        spoil(u->row, "the output of iteration %llu is not what encoding and decoding make of the root's values",
              (unsigned long long)iteration);
}

static void check_canaries(run *u, uint64_t iteration) {
    ba_world *w = u->w;
    for (int r = 0; r < w->nlocal; r++) {
        const rank_state *s = &u->ranks[r];
        bool before = false;
        int64_t out = ba_arena_canary(&s->out, &before);
        int64_t in = u->cfg->in_place || out >= 0 ? -1 : ba_arena_canary(&s->in, &before);
        if (out >= 0 || in >= 0)
            ba_problem(w, w->rank + r,
                       "canary touched: memory %s the %s of layer bench.%lld was written in iteration %llu",
                       before ? "before" : "behind", out >= 0 ? "output" : "input", (long long)(out >= 0 ? out : in),
                       (unsigned long long)iteration);
        if (u->cfg->check_every && !u->cfg->in_place && ba_arena_hash(&s->in) != s->in_hash)
            ba_problem(w, w->rank + r, "the input was changed in iteration %llu", (unsigned long long)iteration);
        if (u->cfg->check_every && !u->what->replicas && foreign_hash(u, r) != s->foreign_hash)
            ba_problem(w, w->rank + r, "output of a shard that is not this rank's was written in iteration %llu",
                       (unsigned long long)iteration);
    }
}

/* Hashes travel as two halves, exact in a double; all are equal where max(h) = -max(-h). So does the certificate. */
static void check_same(run *u, uint64_t iteration) {
    ba_world *w = u->w;
    double v[6] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
    for (int r = 0; r < w->nlocal; r++) {
        uint64_t h = ba_arena_hash(&u->ranks[r].out);
        if (!u->what->replicas) /* each has its own */
            h = 0;
        double part[3] = {(double)(h >> 32), (double)(h & 0xffffffff), u->ranks[r].report.error_bound};
        for (int k = 0; k < 3; k++) {
            v[2 * k] = fmax(v[2 * k], part[k]);
            v[2 * k + 1] = fmax(v[2 * k + 1], -part[k]);
        }
    }
    w->ops->fold(w, BA_MAX, v, 6);
    if (v[0] != -v[1] || v[2] != -v[3]) {
        u->row->same = false;
        spoil(u->row, "ranks differ: outputs of iteration %llu are not the same on all ranks",
              (unsigned long long)iteration);
    }
    if (v[4] != -v[5])
        spoil(u->row, "ranks differ: certificates from %.9g to %.9g in iteration %llu", -v[5], v[4],
              (unsigned long long)iteration);
}

/* Adds (out - exact) of elements [first, first + n) of one layer, which this rank answers for, to the running sums. */
static void add_error(run *u, uint64_t iteration, uint32_t layer, int rank, uint64_t first, uint32_t n, double *error) {
    double exact[BA_BLOCK];
    float block[BA_BLOCK];
    const ba_arena *out = &u->ranks[rank - u->w->rank].out;
    bool sums = u->what->reduces;
    int from = sums ? 0 : u->cfg->kind == BA_ALLGATHER ? rank : 0, to = sums ? u->w->ranks : from + 1;
    memset(exact, 0, n * sizeof *exact);
    for (int r = from; r < to; r++) {
        ba_values(&u->source, r, iteration, out->first[layer] + first, n, block);
        for (uint32_t i = 0; i < n; i++)
            exact[i] += (double)block[i];
    }
    double divisor = sums && u->cfg->redop == TW_AVG ? (double)u->w->ranks : 1.0, sq = 0;
    ba_load(u->cfg->dtype, (const unsigned char *)ba_layer(out, layer) + first * out->elem, n, block);
    for (uint32_t i = 0; i < n; i++) {
        double x = exact[i] / divisor;
        error[i] += (double)block[i] - x;
        sq += x * x;
    }
    u->exact_sq += sq;
}

static void check_error(run *u, uint64_t iteration) {
    ba_world *w = u->w;
    double *error = u->error;
    for (uint32_t l = 0; l < u->cfg->layers; l++)
        for (int r = w->rank; r < w->rank + w->nlocal; r++) {
            uint64_t at, end;
            for (part_of(u, l, r, &at, &end); at < end;) {
                uint32_t n = end - at < BA_BLOCK ? (uint32_t)(end - at) : BA_BLOCK;
                add_error(u, iteration, l, r, at, n, error);
                at += n;
                error += n;
            }
        }
    double v[2] = {0, u->exact_sq};
    for (const double *e = u->error; e < error; e++)
        v[0] += *e * *e;
    w->ops->fold(w, BA_SUM, v, 2);
    u->error_norm = sqrt(v[0]);
    u->all_norm = sqrt(v[1]);
    if (!isfinite(u->error_norm))
        spoil(u->row, "the output of iteration %llu is not finite", (unsigned long long)iteration);
}

/* The exact sums carry fp64 roundings of their own: 1e-13 of the norm is far below any fp32 effect. */
static void check_certificate(run *u, uint64_t iteration) {
    const tw_report *rep = &u->ranks[0].report;
    if (!u->what->reducer || rep->uncertified || (iteration + 1) % u->cfg->check_every)
        return;
    if (!(u->error_norm <= rep->error_bound + 1e-13 * u->all_norm))
        spoil(u->row, "certificate %.6g is below the true error %.6g after iteration %llu", rep->error_bound,
              u->error_norm, (unsigned long long)iteration);
}

/* ---- the baseline ---- */

static void plain_sums(run *u, uint64_t iteration) {
    ba_world *w = u->w;
    ba_source fp32 = {u->source.shape, TW_F32, u->source.seed};
    if (!u->base_in || u->plain_done >= u->cfg->baseline_n)
        return;
    ba_generate(&fp32, w->rank, iteration, 0, u->row->bytes / 4, u->base_in); /* the values that ours had */
    for (int k = 0; k < 4; k++) {
        double cpu0, cpu1, sys, cpu, t;
        uint64_t bytes = k < 2 ? u->row->bytes : u->row->bytes / 2;
        if (u->cfg->in_place)
            memcpy(u->base_out, u->base_in, u->row->bytes);
        cpu_seconds(&cpu0, &sys);
        t = w->ops->plain(w, k >= 2, k & 1, u->base_in, u->base_out, bytes);
        cpu_seconds(&cpu1, &sys);
        cpu = cpu1 - cpu0;
        w->ops->fold(w, BA_MAX, &t, 1);
        w->ops->fold(w, BA_SUM, &cpu, 1);
        u->plain[k][u->plain_done] = t;
        if (k == 0)
            u->row->mean.mpi_cpu += cpu;
    }
    u->plain_done++;
}

/* ---- the row ---- */

static bool iterate(run *u, uint64_t iteration) {
    ba_world *w = u->w;
    bool timed = iteration >= u->cfg->warmup;
    for (int r = 0; r < w->nlocal; r++) {
        rank_state *s = &u->ranks[r];
        ba_arena_generate(u->cfg->in_place ? &s->out : &s->in, &u->source, w->rank + r, iteration);
        if (u->cfg->check_every && !u->cfg->in_place)
            s->in_hash = ba_arena_hash(&s->in);
        if (u->cfg->check_every && !u->what->replicas)
            s->foreign_hash = foreign_hash(u, r);
    }
    if (u->decoded)
        make_expected(u);
    if (!timed_step(u, iteration, timed))
        return false;
    check_canaries(u, iteration);
    if (!ba_agree(w))
        return false;
    check_same(u, iteration);
    check_expected(u, iteration);
    if (u->cfg->check_every) {
        check_error(u, iteration);
        check_certificate(u, iteration);
    }
    if (timed)
        plain_sums(u, iteration);
    return true;
}

static double wire_limit(const run *u, double wire, double bits) {
    return bits > 0 ? fmax(0.0, wire - u->cfg->burst_bytes) * 8.0 / bits : (double)NAN;
}

static double better(double *a, double *b, uint32_t n, int *which) {
    double x = bc_median(a, n), y = bc_median(b, n);
    *which = x > y;
    return x <= y ? x : y;
}

/* What no link can beat. A busy machine measures too low a goodput: then the lab's own rate counts, of which 1448 of
 * 1514 bytes are payload. A measurement is allowed 1 %; the clock of sim is exact. */
static void check_limit(run *u, double dense_wire) {
    ba_row *row = u->row;
    double bits = fmax(u->cfg->goodput_bits, u->cfg->nominal_bits * 1448 / 1514);
    double slack = u->w->sim ? 1.0 - 1e-9 : 0.99;
    double limit = wire_limit(u, row->wire_bytes, bits), plain = wire_limit(u, dense_wire, bits);
    if (row->time_min < slack * limit)
        spoil(row, "impossible: %.3f ms is under the wire limit of %.3f ms; the link is not shaped as --rate says",
              1e3 * row->time_min, 1e3 * limit);
    for (int k = 0; k < 2; k++) /* sorted by now */
        if (u->plain_done && u->plain[k][0] < slack * plain)
            spoil(row,
                  "impossible: plain MPI took %.3f ms, under its wire limit of %.3f ms; the link is not shaped as "
                  "--rate says",
                  1e3 * u->plain[k][0], 1e3 * plain);
}

static void finish(run *u) {
    ba_row *row = u->row;
    const tw_report *rep = &u->ranks[0].report;
    double n = u->timed, share = ba_share(u->w);
    int which;
    bc_sort(u->times, u->timed);
    row->time_min = u->times[0];
    row->time_median = bc_median_sorted(u->times, u->timed);
    row->time_p99 = bc_percentile_sorted(u->times, u->timed, 99);
    row->wire_computed = u->native > 0;
    const char *framed = u->cfg->reducer.algo == TW_ALGO_GATHER && u->w->ranks > 1 ? "gather" : "sra";
    row->algo = u->cfg->kind != BA_ALLREDUCE ? "frames" : u->native <= 0 ? framed : u->wire > 0 ? "mixed" : "native";
    row->wire_bytes = (u->wire + share * u->native) / n;
    row->ratio = row->wire_bytes > 0 ? share * (double)row->bytes / row->wire_bytes : (double)NAN;
    ba_sums *m = &row->mean;
    if (!u->what->reducer) /* nobody reports them */
        m->encode = m->reduce = m->decode = m->wait = (double)NAN;
    m->cpu /= n, m->cpu_sys /= n, m->encode /= n, m->reduce /= n, m->decode /= n, m->wait /= n;
    m->mpi_cpu /= fmax(1, u->plain_done);
    row->rel_l2 = row->bound = (double)NAN;
    if (u->cfg->check_every && u->all_norm > 0) {
        row->rel_l2 = u->error_norm / u->all_norm;
        row->bound = !u->what->reducer || rep->uncertified ? (double)NAN : rep->error_bound / u->all_norm;
    }
    row->mpi = row->mpi_half = (double)NAN;
    if (u->plain_done) {
        row->mpi_half = better(u->plain[2], u->plain[3], u->plain_done, &which);
        row->mpi = better(u->plain[0], u->plain[1], u->plain_done, &which);
        row->mpi_best = u->what->plain[which];
    }
    row->limit = wire_limit(u, row->wire_bytes, u->cfg->goodput_bits);
    check_limit(u, share * (double)row->bytes);
}

bool ba_run_row(ba_world *w, uint64_t bytes, const char *codec, ba_row *row) {
    uint64_t all = (uint64_t)w->cfg->warmup + w->cfg->iterations;
    run u = {.w = w,
             .cfg = w->cfg,
             .what = w->cfg->what,
             .row = row,
             .source = {w->cfg->shape, w->cfg->dtype, w->cfg->seed}};
    u.count = bytes / tw_dtype_size(w->cfg->dtype);
    *row = (ba_row){.bytes = u.count * tw_dtype_size(w->cfg->dtype), .codec = codec, .same = true, .ok = true};
    tw_spec_parse(codec, &u.spec); /* it did when the options were read */
    bool good = set_up(&u);
    for (uint64_t i = 0; good && i < all; i++) {
        ba_print_progress(w, codec, bytes, (uint32_t)i, (uint32_t)all);
        good = iterate(&u, i);
    }
    ba_clear_progress(w);
    if (good)
        finish(&u);
    tear_down(&u);
    row->memory = good ? ba_memory_limit(w, codec, row->bytes) : (ba_memory){(double)NAN, (double)NAN};
    return ba_agree(w) && good;
}
