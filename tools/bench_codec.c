/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thinwire-bench codec: speed of encode and decode-add on one core, each beside a skeleton with the same reads and
 * writes, alternated in the same process; the results are checked too. Codecs that work on tiles here, those that look at
 * whole layers in bench_codec_whole.c. */
#include "bench_codec_whole.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <thinwire/experimental.h>
#include "bench_common.h"

#define TILE      CODEC_TILE
#define LAYERS    CODEC_LAYERS
#define SLICES    32u /* codec and skeleton take turns slice by slice: a busy machine spoils few of the pairs */
#define MAX_SPECS 32

int tw_bench_codec_main(int argc, char **argv);

typedef struct config {
    uint64_t bytes, iterations, warmup, seed, columns;
    const char *specs[MAX_SPECS];
    unsigned nspecs;
    const char *isa; /* NULL: the chosen one */
    const char *json;
} config;

typedef struct row {
    const char *text;
    tw_spec spec;
    double encode_gbs, add_gbs, encode_of_bound, add_of_bound, bits, nmse;
    double draw_gbs;                  /* of the random numbers alone; 0: none */
    unsigned encode_bound, add_bound; /* variants of the skeleton */
    whole_result whole;               /* instead, of a codec that is no tiled one */
} row;

/* ---- the codec, tile by tile, over values [at, end) ---- */
static uint32_t tile_length(const codec_arrays *m, size_t at) {
    return m->n - at < TILE ? (uint32_t)(m->n - at) : TILE;
}

/* Reads e[from] and writes the other one if the spec has feedback. Sums up stat. */
static bool encode_part(const config *c, const tw_spec *s, codec_arrays *m, size_t at, size_t end, int from,
                        bool feedback, tw_tile_stat *total) {
    size_t step = tw_spec_bound(s, TILE, TW_F32);
    uint8_t *dst = m->payload + at / TILE * step;
    for (; at < end; at += TILE, dst += step) {
        tw_tile_stat stat;
        if (tw_tile_encode(c->isa, s, m->g + at, feedback ? m->e[from] + at : NULL, 1.0f, tile_length(m, at), dst,
                           feedback ? m->e[!from] + at : NULL, &stat) != TW_OK)
            return false;
        total->x_sq += stat.x_sq;
        total->e_sq += stat.e_sq;
        total->nonfinite |= stat.nonfinite;
    }
    return true;
}

static bool decode_part(const config *c, const tw_spec *s, codec_arrays *m, size_t at, size_t end, int add) {
    size_t step = tw_spec_bound(s, TILE, TW_F32);
    const uint8_t *src = m->payload + at / TILE * step;
    for (; at < end; at += TILE, src += step)
        if (tw_tile_decode(c->isa, s, src, m->y + at, tile_length(m, at), add) != TW_OK)
            return false;
    return true;
}

static bool round_trip(const config *c, const tw_spec *s, codec_arrays *m, int from, bool feedback,
                       tw_tile_stat *total) {
    *total = (tw_tile_stat){0.0, 0.0, 0, 0};
    return encode_part(c, s, m, 0, m->n, from, feedback, total) && decode_part(c, s, m, 0, m->n, 0);
}

/* ---- checks ---- */
static bool say(const row *r, const char *what, double got, double want) {
    fprintf(stderr, "thinwire-bench codec: %s: %s is %.9g, expected %.9g\n", r->text, what, got, want);
    return false;
}

/* Of 128 to 4096 normal numbers a group: a step is the reach divided by the levels; turned or not is the same. */
static void quant_nmse(const tw_spec *s, double *low, double *high) {
    static const double table[] = {[2] = 0.1175, [3] = 0.03455, [4] = 0.0095, [6] = 1.07e-3, [8] = 8.83e-5};
    double parts = s->scale == TW_SCALE_MINMAX ? (1 << s->bits) - 1 : s->bits == 2 ? 4 : (1 << s->bits) - 2;
    if (s->scale == TW_SCALE_MSE) {
        *low = table[s->bits] * 0.9;
        *high =
            table[s->bits] * (s->rounding == TW_ROUNDING_STOCHASTIC ? 3.0 : 1.4); /* small groups misjudge the scale */
        return;
    }
    *low = 4.8 * 4.8 / (parts * parts) / 12 * 0.6; /* few levels: zeros and ends cost less than a step's share */
    *high = 7.6 * 7.6 / (parts * parts) / 12 * (s->rounding == TW_ROUNDING_STOCHASTIC ? 2.2 : 1.1);
}

/* The least and greatest relative squared error that a codec may have on normal numbers. */
static void expected_nmse(const tw_spec *s, double *low, double *high) {
    double pi = 3.14159265358979;
    *low = *high = 0.0;
    if (s->type == TW_CAST_FP8E4M3 || s->type == TW_CAST_FP8E5M2) {
        double of_e4m3 = s->type == TW_CAST_FP8E5M2 ? 4.0 : 1.0; /* a digit less */
        *low = 5.5e-4 * of_e4m3;
        *high = 8e-4 * of_e4m3;
    } else if (s->codec == TW_CODEC_CAST) { /* fp16: the smallest layers are subnormal there */
        *low = s->type == TW_F16 ? 1e-8 : 1e-6;
        *high = s->type == TW_F16 ? 2e-7 : 5e-6;
    } else if (s->codec == TW_CODEC_RANDK) { /* what is left out; unbiased: as many times more as values stand for */
        double share = s->density / 1e9, lost = s->scale == TW_SCALE_UNBIASED ? 1.0 / share - 1.0 : 1.0 - share;
        *low = lost * 0.9;
        *high = lost * 1.1;
    } else if (s->codec == TW_CODEC_TERNARY) { /* at random: max |x| E|x| / E x^2 - 1, by the size of groups */
        bool random = s->rounding == TW_ROUNDING_STOCHASTIC;
        *low = random ? 1.0 : 0.187;
        *high = random ? 2.6 : 0.194;
    } else if (s->codec == TW_CODEC_QUANT) {
        quant_nmse(s, low, high);
    } else if (s->codec == TW_CODEC_ONEBIT) {
        double ideal = s->scale == TW_SCALE_RMS ? 2.0 - 2.0 * sqrt(2.0 / pi) : 1.0 - 2.0 / pi;
        *low = ideal - 0.02;
        *high = ideal + 0.02;
    }
}

/* One encode without feedback: decoded values against the input, in double. */
static bool check_plain(const config *c, row *r, codec_arrays *m) {
    tw_tile_stat total;
    double sq = 0.0, lost = 0.0, low, high;
    if (!round_trip(c, &r->spec, m, 0, false, &total))
        return false;
    for (size_t i = 0; i < m->n; i++) {
        double x = (double)m->g[i], e = x - (double)m->y[i];
        sq += x * x;
        lost += e * e;
    }
    r->nmse = lost / sq;
    expected_nmse(&r->spec, &low, &high);
    if (m->n >= TILE * LAYERS && !(r->nmse >= low && r->nmse <= high))
        return say(r, "nmse", r->nmse, (low + high) / 2);
    if (total.nonfinite || fabs(total.x_sq - sq) > sq * 1e-4 || fabs(total.e_sq - lost) > lost * 1e-4)
        return say(r, "the encoder's own nmse", total.e_sq / total.x_sq, r->nmse);
    return true;
}

/* One encode with feedback: what was lost is what is kept, bit for bit. */
static bool check_feedback(const config *c, const row *r, codec_arrays *m) {
    tw_tile_stat total;
    memset(m->e[0], 0, m->n * sizeof(float));
    for (int round = 0; round < 2; round++) {
        if (!round_trip(c, &r->spec, m, round, true, &total))
            return false;
        for (size_t i = 0; i < m->n; i++) {
            float x = m->g[i] + m->e[round][i];
            float want = x - m->y[i];
            if (want != m->e[!round][i])
                return say(r, "a residual", (double)m->e[!round][i], (double)want);
        }
    }
    return true;
}

/* The same bytes as the reference writes, on a few tiles. */
static bool check_reference(const config *c, const row *r, const codec_arrays *m) {
    static uint8_t want[TILE * 4], got[TILE * 4];
    for (size_t at = 0; at < m->n; at += (m->n / 16 / TILE + 1) * TILE) {
        uint32_t n = tile_length(m, at);
        memset(want, 0, sizeof want);
        memset(got, 0, sizeof got);
        if (tw_tile_encode("ref", &r->spec, m->g + at, NULL, 1.0f, n, want, NULL, NULL) != TW_OK ||
            tw_tile_encode(c->isa, &r->spec, m->g + at, NULL, 1.0f, n, got, NULL, NULL) != TW_OK)
            return false;
        if (memcmp(want, got, sizeof want))
            return say(r, "a payload that differs from the reference's, of the tile at value", (double)at, (double)at);
    }
    return true;
}

/* ---- measuring ---- */
typedef struct work {
    const config *c;
    row *r;
    codec_arrays *m;
    bool feedback, add, failed;
    int from; /* residual that is read next */
} work;

static size_t tiles(const codec_arrays *m) {
    return (m->n + TILE - 1) / TILE;
}
static unsigned slices(const codec_arrays *m) {
    return tiles(m) < SLICES ? (unsigned)tiles(m) : SLICES;
}

/* Slice j covers values [slice_at(j), slice_at(j + 1)): whole tiles, at least one. */
static size_t slice_at(const codec_arrays *m, unsigned j) {
    size_t at = tiles(m) * j / slices(m) * TILE;
    return at < m->n ? at : m->n;
}

/* Seconds a value. */
static double time_codec(work *w, unsigned j) {
    tw_tile_stat total = {0.0, 0.0, 0, 0};
    size_t at = slice_at(w->m, j), end = slice_at(w->m, j + 1);
    double t = bc_now();
    bool ok = w->add ? decode_part(w->c, &w->r->spec, w->m, at, end, 1)
                     : encode_part(w->c, &w->r->spec, w->m, at, end, w->from, w->feedback, &total);
    w->failed |= !ok;
    return (bc_now() - t) / (double)(end - at);
}

/* The skeleton works on the slice that the codec has left alone longest, in the same arrays: pages differ in speed.
 * What it leaves in a residual or payload is as good for timing as what was there. */
static double time_bound(work *w, unsigned j, unsigned variant) {
    codec_arrays *m = w->m;
    unsigned mine = (j + slices(m) / 2) % slices(m);
    size_t at = slice_at(m, mine), n = slice_at(m, mine + 1) - at;
    double bits = (double)tw_spec_bound(&w->r->spec, TILE, TW_F32) * 8 / TILE;
    skeleton s = {.kind = w->add ? SKELETON_ADD : SKELETON_ENCODE, .feedback = w->feedback, .n = n, .g = m->g + at};
    if (w->add && w->r->spec.codec == TW_CODEC_RANDK) { /* only lines with a kept value need be written */
        s.kind = SKELETON_TOUCH;
        s.share = 1 - pow(1 - w->r->spec.density * 1e-9, 16);
    }
    s.payload_bits = bits < 2 ? 1 : bits < 4 ? 2 : bits < 7 ? 4 : bits < 12 ? 8 : bits < 17 ? 16 : 32;
    s.payload = m->payload + at * s.payload_bits / 8;
    s.e = m->e[w->from] + at;
    s.out = m->e[!w->from] + at;
    s.y = m->y + at;
    double t = bc_now();
    skeleton_run(&s, variant);
    return (bc_now() - t) / (double)n;
}

static const char *isa_name(const config *c) {
    return c->isa ? c->isa : tw_isa_chosen(NULL);
}

/* The skeleton's fastest variant here, by the median over all slices; of the same ISA or a lesser one. */
static unsigned best_variant(work *w) {
    unsigned best = 0;
    double least = INFINITY, times[SLICES];
    for (unsigned v = 0; v < skeleton_variants(isa_name(w->c)); v++) {
        for (unsigned j = 0; j < slices(w->m); j++)
            times[j] = time_bound(w, j, v);
        double t = bc_median(times, slices(w->m));
        if (t < least) {
            least = t;
            best = v;
        }
    }
    return best;
}

/* One pass over all slices; the order inside a pair changes with every pair. Returns the pairs. */
static unsigned one_pass(work *w, unsigned variant, unsigned parity, double *speed, double *ratio) {
    unsigned pairs = slices(w->m);
    for (unsigned j = 0; j < pairs; j++) {
        bool codec_first = (j + parity) % 2;
        double bound = codec_first ? 0.0 : time_bound(w, j, variant);
        double codec = time_codec(w, j);
        if (codec_first)
            bound = time_bound(w, j, variant);
        speed[j] = sizeof(float) / codec * 1e-9;
        ratio[j] = bound / codec;
    }
    return pairs;
}

/* Median speed and median of the paired ratios. */
static void measure(work *w, double *gbs, double *of_bound, unsigned *variant) {
    uint64_t passes = w->c->iterations, warmup = w->c->warmup;
    double *speed = malloc(2 * (passes + 1) * SLICES * sizeof *speed), *ratio = speed + (passes + 1) * SLICES;
    size_t used = 0;
    if (!speed) {
        w->failed = true;
        return;
    }
    *variant = best_variant(w);
    for (uint64_t i = 0; i < warmup + passes && !w->failed; i++) {
        if (!w->add)
            codec_arrays_fill(w->m, w->c->seed + i, LAYERS);
        unsigned pairs = one_pass(w, *variant, i % 2, speed + used, ratio + used);
        used += i < warmup ? 0 : pairs;
        w->from ^= w->feedback && !w->add;
    }
    *gbs = bc_median(speed, used);
    *of_bound = bc_median(ratio, used);
    free(speed);
}

/* The second bound of rounding at random: the random numbers of as many tiles, and nothing else. */
static void measure_draw(work *w) {
    enum { ROUNDS = 256, AT_ONCE = 16 };
    double speed[ROUNDS];
    static uint32_t words[TILE / 4];
    for (uint32_t i = 0; i < ROUNDS; i++) {
        double t = bc_now();
        for (uint32_t tile = 0; tile < AT_ONCE; tile++)
            w->failed |= tw_tile_draw(w->c->isa, i, TILE, words) != TW_OK;
        speed[i] = (double)AT_ONCE * TILE * sizeof(float) / (bc_now() - t) * 1e-9;
    }
    w->r->draw_gbs = bc_median(speed, ROUNDS);
}

static bool run_whole(const config *c, row *r, codec_arrays *m) {
    whole_args a = {c->isa, c->iterations, c->warmup, c->seed, m};
    const char *why;
    if (whole_run(&a, &r->spec, &r->whole, &why))
        return true;
    fprintf(stderr, "thinwire-bench codec: %s: %s\n", r->text, why);
    return false;
}

static bool run_row(const config *c, row *r, codec_arrays *m) {
    work w = {.c = c, .r = r, .m = m, .feedback = r->spec.feedback == TW_FEEDBACK_EF};
    if (whole_is(&r->spec))
        return run_whole(c, r, m);
    r->bits = (double)tw_spec_bound(&r->spec, m->n, TW_F32) * 8 / (double)m->n;
    codec_arrays_fill(m, c->seed, LAYERS);
    if (!check_plain(c, r, m) || !check_reference(c, r, m) || (w.feedback && !check_feedback(c, r, m)))
        return false;
    measure(&w, &r->encode_gbs, &r->encode_of_bound, &r->encode_bound);
    if (r->spec.rounding == TW_ROUNDING_STOCHASTIC)
        measure_draw(&w);
    tw_tile_stat total;
    w.add = true;
    w.failed |= !round_trip(c, &r->spec, m, 0, false, &total);
    measure(&w, &r->add_gbs, &r->add_of_bound, &r->add_bound);
    return !w.failed;
}

/* ---- text ---- */
static void print_head(const config *c, const codec_arrays *m) {
    char size[32], cpu[128];
    bc_format_size(m->n * sizeof(float), size, sizeof size);
    bc_cpu_model(cpu, sizeof cpu);
    printf("# one core of: %s; ISA %s; %s of fp32 in %u layers; medians over %llu passes\n", cpu, isa_name(c), size,
           LAYERS, (unsigned long long)c->iterations);
    printf("# of bound: against a loop with the same reads and writes, alternated with it\n");
    printf("%-28s %11s %9s %11s %9s %9s %10s\n", "codec", "encode GB/s", "of bound", "+decode GB/s", "of bound",
           "bit/value", "nmse");
}

static void print_whole(const row *r) {
    const whole_result *w = &r->whole;
    char bound[WHOLE_STAGES][96];
    for (int s = 0; s < WHOLE_STAGES; s++)
        skeleton_describe(w->bound[s], bound[s], sizeof bound[s]);
    printf("%-28s %11.1f %9.3f %12.1f %9.3f %9.3f %10.3g\n", r->text, w->gbs[WHOLE_ENCODE], w->of_bound[WHOLE_ENCODE],
           w->gbs[WHOLE_DECODE], w->of_bound[WHOLE_DECODE], w->bits, w->nmse);
    printf("#   %s; decode writes, adds to nothing", r->spec.feedback == TW_FEEDBACK_EF ? "a layer" : "an array");
    if (r->spec.columns)
        printf("; rows of %u", r->spec.columns);
    if (w->gbs[WHOLE_OWNER] > 0)
        printf("; owner (sum, select, answer) %.1f GB/s, %.3f of bound", w->gbs[WHOLE_OWNER], w->of_bound[WHOLE_OWNER]);
    printf("\n#   bounds: encode %s; decode %s\n", bound[WHOLE_ENCODE], bound[WHOLE_DECODE]);
    fflush(stdout);
}

static void print_row(const row *r) {
    char encode[96], add[96];
    if (whole_is(&r->spec)) {
        print_whole(r);
        return;
    }
    skeleton_describe(r->encode_bound, encode, sizeof encode);
    skeleton_describe(r->add_bound, add, sizeof add);
    printf("%-28s %11.1f %9.3f %12.1f %9.3f %9.3f %10.3g\n", r->text, r->encode_gbs, r->encode_of_bound, r->add_gbs,
           r->add_of_bound, r->bits, r->nmse);
    printf("#   bounds: encode %s; decode-add %s\n", encode, add);
    if (r->draw_gbs > 0)
        printf("#   second bound: Philox4x32-7 alone %.1f GB/s; encode reaches %.3f of it\n", r->draw_gbs,
               r->encode_gbs / r->draw_gbs);
    fflush(stdout);
}

static void json_whole(bc_json *j, const row *r) {
    static const char *const gbs[] = {"encode_gbs", "owner_gbs", "decode_gbs"};
    static const char *const of_bound[] = {"encode_of_bound", "owner_of_bound", "decode_of_bound"};
    for (int s = 0; s < WHOLE_STAGES; s++)
        if (r->whole.gbs[s] > 0) {
            bc_json_number(j, gbs[s], r->whole.gbs[s]);
            bc_json_number(j, of_bound[s], r->whole.of_bound[s]);
        }
    if (r->spec.columns)
        bc_json_integer(j, "columns", r->spec.columns);
}

static void json_tiled(bc_json *j, const row *r) {
    bc_json_number(j, "encode_gbs", r->encode_gbs);
    bc_json_number(j, "decode_add_gbs", r->add_gbs);
    bc_json_number(j, "encode_of_bound", r->encode_of_bound);
    bc_json_number(j, "decode_add_of_bound", r->add_of_bound);
    if (r->draw_gbs > 0)
        bc_json_number(j, "philox_gbs", r->draw_gbs);
}

static void write_json(const config *c, const row *r, const codec_arrays *m, FILE *to) {
    bool whole = whole_is(&r->spec);
    bc_json j;
    bc_json_begin(&j, to);
    bc_json_string(&j, "codec", r->text);
    bc_json_string(&j, "of", !whole ? "tiles" : r->spec.feedback == TW_FEEDBACK_EF ? "layer" : "array");
    bc_json_integer(&j, "bytes", m->n * sizeof(float));
    (whole ? json_whole : json_tiled)(&j, r);
    bc_json_number(&j, "bits_per_value", whole ? r->whole.bits : r->bits);
    bc_json_number(&j, "nmse", whole ? r->whole.nmse : r->nmse);
    bc_json_string(&j, "isa", isa_name(c));
    bc_json_end(&j);
}

/* ---- options ---- */
enum { O_BYTES = 1, O_ITERATIONS, O_WARMUP, O_CODEC, O_COLUMNS, O_ISA, O_SEED, O_JSON, O_HELP };

static const bc_opt options[] = {
    {O_BYTES, 'b', "bytes", "SIZE", "fp32 input, 16K to 4G (default 64M: out of cache; K, M, G are powers of 1024)"},
    {O_ITERATIONS, 'n', "iters", "N", "timed pairs of codec and skeleton (default 20)"},
    {O_WARMUP, 'w', "warmup_iters", "N", "pairs before them (default 3)"},
    {O_CODEC, 0, "codec", "SPEC",
     "may be given several times\n(default: onebit+ef, onebit, cast:type=bf16, cast:type=fp16, none)"},
    {O_COLUMNS, 0, "columns", "N",
     "values of a row for powersgd without columns= (default: as nearly square as it can be)"},
    {O_ISA, 0, "isa", "ISA", "ref, avx2, avx512 or neon (default: the best here, or THINWIRE_ISA)"},
    {O_SEED, 0, "seed", "N", "of the data (default 1)"},
    {O_JSON, 0, "json", "FILE", "also write one JSON object a row to FILE (- : standard output instead of the table)"},
    {O_HELP, 'h', "help", NULL, "this text"},
    {0, 0, NULL, NULL, NULL},
};

static void help(void) {
    puts("Usage: thinwire-bench codec [options]\n\n"
         "Speed of encode and of decode-add on one core, in GB/s of fp32 input, and as a part of what a loop with the\n"
         "same reads and writes and next to no arithmetic reaches (the best of several, alternated in the same "
         "process).\n"
         "Where values are rounded at random, the rate of the random numbers alone is a second bound.\n"
         "Inputs are normal numbers of 64 layers with scales 1e-4 to 1e-2, new for every encode.\n\n"
         "topk, sparse ternary and powersgd look at a whole layer: at normal numbers of one scale, timed in this "
         "thread's\n"
         "CPU time. Without feedback they encode an array; with +ef the stages of a collective run one after another: "
         "of a\n"
         "sparse layer also its owner's (sum, select, answer), of a matrix both passes. decode writes there.\n");
    bc_print_options(stdout, options);
    puts("\nExit status: 0 all good; 1 a decoded value, residual or payload was wrong, or output could not be "
         "written;\n2 the command line was wrong.");
}

static int take_option(config *c, const bc_args *a, int id, const char *value) {
    bool ok = true;
    switch (id) {
    case O_BYTES:
        ok = bc_parse_size(value, &c->bytes) && c->bytes >= 16384 && c->bytes <= UINT64_C(4) << 30;
        break;
    case O_ITERATIONS:
        ok = bc_parse_u64(value, &c->iterations) && c->iterations > 0 && c->iterations <= 1000000;
        break;
    case O_WARMUP:
        ok = bc_parse_u64(value, &c->warmup) && c->warmup <= 1000000;
        break;
    case O_SEED:
        ok = bc_parse_u64(value, &c->seed);
        break;
    case O_CODEC:
        if (c->nspecs == MAX_SPECS)
            return bc_usage_error(a, "more than %d codecs", MAX_SPECS);
        c->specs[c->nspecs++] = value;
        break;
    case O_COLUMNS:
        ok = bc_parse_u64(value, &c->columns) && c->columns > 0 && c->columns <= UINT32_MAX;
        break;
    case O_ISA:
        c->isa = value;
        break;
    default:
        c->json = value;
    }
    const bc_opt *o = options;
    while (o->id != id)
        o++;
    return ok ? 0 : bc_usage_error(a, "--%s: \"%s\" is no valid value (--help)", o->name, value);
}

/* 0: go on; else the exit status + 1. */
static int read_options(config *c, int argc, char **argv) {
    static const char *const defaults[] = {"onebit+ef", "onebit", "cast:type=bf16", "cast:type=fp16", "none"};
    bc_args a = {.program = "thinwire-bench codec", .argc = argc, .at = 1, .argv = argv};
    const char *value;
    for (int id; (id = bc_next_option(&a, options, &value)) != 0;) {
        if (id == O_HELP) {
            help();
            return 1 + BC_EXIT_OK;
        }
        if (id < 0 || take_option(c, &a, id, value) < 0)
            return 1 + BC_EXIT_USAGE;
    }
    for (size_t i = 0; c->nspecs == 0 && i < sizeof defaults / sizeof defaults[0]; i++)
        c->specs[i] = defaults[i];
    if (c->nspecs == 0)
        c->nspecs = sizeof defaults / sizeof defaults[0];
    return 0;
}

/* Only contexts say what is wrong with THINWIRE_ISA, and nothing else here makes one. */
static bool environment_is_good(void) {
    tw_ctx *ctx = NULL;
    if (tw_ctx_create(NULL, &ctx) == TW_OK)
        return tw_ctx_destroy(ctx) == TW_OK;
    fprintf(stderr, "thinwire-bench codec: %s\n", tw_last_error());
    return false;
}

/* A codec of whole layers gets its shape, others are tried on one value. */
static tw_status try_spec(const config *c, tw_spec *s) {
    float one = 1.0f;
    uint32_t room[1024];
    if (s->feedback > TW_FEEDBACK_EF)
        return tw_fail(TW_ERR_ARG,
                       "loops exist for feedback none and ef, and others go around them: measure one of these");
    if (!whole_is(s))
        return tw_tile_encode(c->isa, s, &one, NULL, 1.0f, 1, room, NULL, NULL);
    if (!s->columns && tw_codec_is_lowrank(s))
        s->columns = (uint32_t)c->columns;
    if (!whole_shape(s, c->bytes / sizeof(float)))
        return tw_fail(
            TW_ERR_ARG,
            "no factors are made of %llu values in rows of %u at rank %u: --bytes, --columns or rank= must change",
            (unsigned long long)(c->bytes / sizeof(float)), s->columns, s->rank);
    return c->isa && !tw_kernels_named(c->isa) ? TW_ERR_ARG : TW_OK;
}

static bool parse_specs(const config *c, row *rows) {
    for (unsigned i = 0; i < c->nspecs; i++) {
        rows[i].text = c->specs[i];
        if (tw_spec_parse(c->specs[i], &rows[i].spec) != TW_OK || try_spec(c, &rows[i].spec) != TW_OK) {
            fprintf(stderr, "thinwire-bench codec: %s\n", tw_last_error());
            return false;
        }
    }
    return true;
}

static int run_all(const config *c, row *rows, codec_arrays *m, FILE *json) {
    int status = BC_EXIT_OK;
    bool table = json != stdout;
    if (table)
        print_head(c, m);
    for (unsigned i = 0; i < c->nspecs; i++) {
        if (!run_row(c, &rows[i], m)) {
            fprintf(stderr, "thinwire-bench codec: %s: FAILED %s\n", rows[i].text, tw_last_error());
            status = BC_EXIT_FAILED;
            continue;
        }
        if (table)
            print_row(&rows[i]);
        if (json)
            write_json(c, &rows[i], m, json);
    }
    return status;
}

static FILE *open_json(const char *path) {
    FILE *file = strcmp(path, "-") ? fopen(path, "w") : stdout;
    if (!file)
        fprintf(stderr, "thinwire-bench codec: --json %s: %s\n", path, strerror(errno));
    return file;
}

int tw_bench_codec_main(int argc, char **argv) {
    static codec_arrays m;
    config c = {.bytes = UINT64_C(64) << 20, .iterations = 20, .warmup = 3, .seed = 1};
    row rows[MAX_SPECS] = {0};
    FILE *json = NULL;
    int status = read_options(&c, argc, argv);
    if (status)
        return status - 1;
    if (!environment_is_good() || !parse_specs(&c, rows))
        return BC_EXIT_USAGE;
    if (c.json && !(json = open_json(c.json)))
        return BC_EXIT_USAGE;
    if (codec_arrays_make(&m, c.bytes, c.seed)) {
        status = run_all(&c, rows, &m, json);
    } else {
        fprintf(stderr, "thinwire-bench codec: not enough memory for %llu bytes five times\n",
                (unsigned long long)c.bytes);
        status = BC_EXIT_FAILED;
    }
    codec_arrays_free(&m);
    if (!bc_close_json(json, "codec"))
        status = BC_EXIT_FAILED;
    return status;
}
