/* SPDX-License-Identifier: BSD-3-Clause */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "bench_allreduce.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const ba_collective ba_collectives[] = {
    [BA_ALLREDUCE] = {"allreduce", "thinwire-bench allreduce", {"allreduce", "iallreduce"}, 2, true, false, true, true},
    [BA_REDUCE_SCATTER] = {"reduce_scatter",
                           "thinwire-bench reduce_scatter",
                           {"reduce_scatter_block", "ireduce_scatter_block"},
                           1,
                           true,
                           true,
                           false,
                           true},
    [BA_ALLGATHER] = {"allgather", "thinwire-bench allgather", {"allgather", "iallgather"}, 1, false, true, true, true},
    [BA_BROADCAST] = {"broadcast", "thinwire-bench broadcast", {"bcast", "ibcast"}, 0, false, false, true, false}};

enum {
    O_MIN = 1,
    O_MAX,
    O_STEP,
    O_FACTOR,
    O_ITERATIONS,
    O_WARMUP,
    O_DTYPE,
    O_OP,
    O_CHECK,
    O_CODEC,
    O_DATA,
    O_SEED,
    O_ALGO,
    O_TRANSPORT,
    O_RANKS,
    O_RATE,
    O_BURST,
    O_LATENCY,
    O_JITTER,
    O_COMPUTE,
    O_LAYERS,
    O_IN_PLACE,
    O_BASELINE,
    O_BASELINE_N,
    O_NO_OVERLAP,
    O_FRAME,
    O_IN_FLIGHT,
    O_BUCKET,
    O_TILE,
    O_PROGRESS,
    O_TIMEOUT,
    O_JSON,
    O_HELP
};

static const bc_opt options[] = {
    {O_MIN, 'b', "minbytes", "SIZE",
     "smallest message, bytes of one rank's whole array (default 1M; K, M, G are powers\nof 1024)"},
    {O_MAX, 'e', "maxbytes", "SIZE", "largest message (default: 64M, or that of -b if it is larger)"},
    {O_FACTOR, 'f', "stepfactor", "F", "next size = size x F (default 8)"},
    {O_STEP, 'i', "stepbytes", "SIZE", "next size = size + SIZE instead"},
    {O_ITERATIONS, 'n', "iters", "N", "timed iterations (default 20)"},
    {O_WARMUP, 'w', "warmup_iters", "N", "iterations before them (default 5)"},
    {O_DTYPE, 'd', "datatype", "TYPE", "fp32 (default), fp16 or bf16"},
    {O_OP, 'o', "op", "OP", "avg (default) or sum; allreduce and reduce_scatter"},
    {O_CHECK, 'c', "check", "N",
     "compare the certificate with the true error after every Nth iteration (default 1);\n"
     "0: no comparison with exact sums at all"},
    {O_CODEC, 0, "codec", "SPEC",
     "may be given several times (default: none, cast:type=bf16,\nonebit+ef; broadcast: onebit). For powersgd a layer "
     "is "
     "as square a\nmatrix as it can be"},
    {O_DATA, 0, "data", "SHAPE",
     "gauss (default: sum of four uniforms), student (tail of Student's t with 3 degrees),\n"
     "sparse (1 value in 64, the rest 0), outlier (1 value in 4096 is 1024 times larger)"},
    {O_SEED, 0, "seed", "N", "of the data (default 1)"},
    {O_ALGO, 0, "algo", "ALGO", "auto (default), native, sra or gather; allreduce"},
    {O_TRANSPORT, 0, "transport", "NAME", "mpi (default under mpirun), local (ranks are threads; default else) or sim"},
    {O_RANKS, 0, "ranks", "N", "ranks of local and sim (default 4)"},
    {O_RATE, 0, "rate", "BITS",
     "payload a port carries each way, as 958mbit: prints the wire limit, and a time under\n"
     "it is an error (default: what thinwire-netlab measured); sim: the link's rate"},
    {O_BURST, 0, "burst", "SIZE",
     "bytes that pass a port unshaped (default: thinwire-netlab's, else 0.5 ms of the\n"
     "rate and at least 32 kB; sim: 0)"},
    {O_LATENCY, 0, "latency", "SECONDS", "sim: of a frame (default 20e-6)"},
    {O_JITTER, 0, "jitter", "SECONDS", "sim: added to it, uniform (default 0)"},
    {O_COMPUTE, 0, "compute", "VALUES", "sim: codec speed in values a second (default 0: free)"},
    {O_LAYERS, 0, "layers", "N", "the message is N layers of like size (default 1)"},
    {O_IN_PLACE, 0, "in-place", NULL, "output over input"},
    {O_BASELINE, 0, "baseline", "NAME",
     "mpi (default where there is MPI): the better of the blocking collective of MPI and\n"
     "the other one + wait, interleaved with ours; none: leave it out"},
    {O_BASELINE_N, 0, "baseline-n", "N", "baseline only beside the first N timed iterations (default: all)"},
    {O_NO_OVERLAP, 0, "no-overlap", NULL, "stages of an op one after another"},
    {O_FRAME, 0, "frame", "SIZE", "payload of a frame (default: chosen)"},
    {O_IN_FLIGHT, 0, "in-flight", "N", "frames under way to one peer (default: chosen)"},
    {O_BUCKET, 0, "bucket", "SIZE", "layers are fused up to this size (default: the library's, 4M); allreduce"},
    {O_TILE, 0, "tile", "N", "values a tile (default 4096)"},
    {O_PROGRESS, 0, "progress", "MODE", "poll (default) or thread"},
    {O_TIMEOUT, 0, "timeout", "SECONDS", "deadline of every wait, above 0 (default: the library's)"},
    {O_JSON, 0, "json", "FILE", "also write one JSON object a row to FILE (- : standard output instead of the table)"},
    {O_HELP, 'h', "help", NULL, "this text"},
    {0, 0, NULL, NULL, NULL}};

static const char *const dtypes[] = {"fp32", "fp16", "bf16", NULL}, *const ops[] = {"sum", "avg", NULL},
                         *const shapes[] = {"gauss", "student", "sparse", "outlier", NULL},
                         *const algos[] = {"auto", "native", "sra", "gather", NULL},
                         *const transports[] = {"mpi", "local", "sim", NULL},
                         *const baselines[] = {"mpi", "none", NULL}, *const progresses[] = {"poll", "thread", NULL};

const char *ba_transport_name(ba_transport t) {
    return transports[t - 1];
}
const char *ba_shape_name(ba_shape s) {
    return shapes[s - 1];
}

const char *ba_shape_text(ba_shape s) {
    static const char *const text[] = {
        "sum of four 16-bit uniforms, standard deviation 1, never 0",
        "the same divided by a random length: tail as Student's t with 3 degrees of freedom",
        "1 value in 64 is 8 x the sum of four uniforms, the others are 0",
        "sum of four uniforms, 1 value in 4096 is 1024 times larger"};
    return text[s - 1];
}

static void help(void) {
    puts("Usage: [mpirun -n P] thinwire-bench allreduce|reduce_scatter|allgather|broadcast [options]\n"
         "Times and checks a compressed collective against plain MPI in the same run, over MPI, threads or a simulated "
         "network.\n"
         "Letters as in nccl-tests where they exist.\n");
    bc_print_options(stdout, options);
    puts(
        "\nColumns: time of the slowest rank, min, median and p99 (nearest rank) over the iterations; algbw = bytes / "
        "median;\n"
        "busbw = algbw x 2(P-1)/P (reduce_scatter, allgather: (P-1)/P; broadcast: 1); wire = bytes that the busiest "
        "rank gave to\n"
        "the transport in one iteration, headers and trailers included (~: computed as 2(P-1)/P of the bytes given to "
        "a "
        "native\n"
        "sum, which nobody counts); ratio = size x the factor of busbw / wire; encode, reduce, decode, wait: mean over "
        "ranks and iterations; rel_l2 = ||sum(out - "
        "exact)|| /\n"
        "sqrt(sum ||exact||^2) over all iterations; bound: the certificate over the same denominator (-: native sums "
        "have\n"
        "none); same: outputs hashed equal on all ranks in every iteration (-: each has its own shard); mpi, half: "
        "plain "
        "MPI on\n"
        "fp32 of the same and of half the bytes (half: 16-bit integers); speedup = mpi / median; limit = max(0, wire - "
        "burst) / rate;\n"
        "memory: all ranks at once making the codec's passes over memory and nothing else (fp32, up to 256M).\n\n"
        "reduce_scatter and allgather go through a reducer as allreduce does, each layer in shards, one for each rank; "
        "broadcast\n"
        "is tw_broadcast from rank 0, layer by layer and in place: no feedback, no certificate, not over sim; its "
        "output is\n"
        "compared with what encoding and decoding make of the input.\n\n"
        "Exit status: 0 all rows good; 1 ranks differ, a canary or a foreign shard was touched, the certificate is "
        "below the\n"
        "true error, a time is under the wire limit, the run failed, or output could not be written; 2 the command "
        "line "
        "was wrong.");
}

void ba_say(const ba_config *c, const char *format, ...) {
    va_list ap;
    fprintf(stderr, "%s: ", c->what->program);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static bool word(const bc_args *a, const char *option, const char *value, const char *const *valid, int *index) {
    for (int i = 0; valid[i]; i++)
        if (!strcmp(valid[i], value)) {
            *index = i;
            return true;
        }
    bc_bad_word(a, option, value, valid);
    return false;
}

static bool in_range(const bc_args *a, const char *option, const char *value, uint64_t low, uint64_t high,
                     uint32_t *out) {
    uint64_t v;
    if (!bc_parse_u64(value, &v) || v < low || v > high) {
        bc_usage_error(a, "%s: \"%s\" is not a whole number from %llu to %llu", option, value, (unsigned long long)low,
                       (unsigned long long)high);
        return false;
    }
    *out = (uint32_t)v;
    return true;
}

static bool size(const bc_args *a, const char *option, const char *value, uint64_t high, uint64_t *out) {
    if (bc_parse_size(value, out) && *out <= high)
        return true;
    bc_usage_error(a, "%s: \"%s\" is not a size (as 65536, 64K, 1.5M) up to %llu", option, value,
                   (unsigned long long)high);
    return false;
}

static bool real(const bc_args *a, const char *option, const char *value, double *out) {
    if (bc_parse_double(value, out) && *out >= 0)
        return true;
    bc_usage_error(a, "%s: \"%s\" is not a number of at least 0", option, value);
    return false;
}

static bool rate(const bc_args *a, const char *option, const char *value, double *out) {
    if (bc_parse_rate(value, out))
        return true;
    bc_usage_error(a, "%s: \"%s\" is not a rate (as 1gbit, 958mbit, 2.5G: bits a second)", option, value);
    return false;
}

static bool codec(const bc_args *a, ba_config *c, const char *value) {
    tw_spec spec = TW_SPEC_INIT;
    if (c->n_codecs == BA_MAX_CODECS)
        return bc_usage_error(a, "--codec: at most %d", BA_MAX_CODECS), false;
    if (tw_spec_parse(value, &spec) >= 0 && spec.feedback == TW_FEEDBACK_DGC)
        return bc_usage_error(a, "--codec %s: under dgc results are momenta, not sums of the arrays", value), false;
    if (tw_spec_parse(value, &spec) < 0)
        return bc_usage_error(a, "--codec: %s", tw_last_error()), false;
    c->codecs[c->n_codecs++] = value;
    return true;
}

static void set_baseline(ba_config *c, uint32_t n) {
    c->baseline_n = n;
    c->baseline_asked = n > 0;
}

/* Options whose value is one of a list of words. */
static bool set_word(const bc_args *a, ba_config *c, int id, const char *v, bool *done) {
    int i;
    *done = true;
    switch (id) {
    case O_DTYPE:
        return word(a, "-d", v, dtypes, &i) && (c->dtype = (tw_dtype)(i + 1), true);
    case O_OP:
        return word(a, "-o", v, ops, &i) && (c->redop = (tw_redop)(i + 1), true);
    case O_DATA:
        return word(a, "--data", v, shapes, &i) && (c->shape = (ba_shape)(i + 1), true);
    case O_ALGO:
        return word(a, "--algo", v, algos, &i) && (c->reducer.algo = (tw_algo)(i + 1), true);
    case O_TRANSPORT:
        return word(a, "--transport", v, transports, &i) && (c->transport = (ba_transport)(i + 1), true);
    case O_BASELINE:
        return word(a, "--baseline", v, baselines, &i) && (set_baseline(c, i ? 0 : UINT32_MAX), true);
    case O_PROGRESS:
        return word(a, "--progress", v, progresses, &i) && (c->progress = (tw_progress)(i + 1), true);
    default:
        *done = false;
        return true;
    }
}

static bool set_number(const bc_args *a, ba_config *c, int id, const char *v) {
    uint64_t bytes;
    uint32_t n;
    switch (id) {
    case O_MIN:
        return size(a, "-b", v, UINT64_MAX / 64, &c->min_bytes);
    case O_MAX:
        return size(a, "-e", v, UINT64_MAX / 64, &c->max_bytes);
    case O_STEP:
        return size(a, "-i", v, UINT64_MAX / 64, &c->step_bytes);
    case O_FACTOR:
        return real(a, "-f", v, &c->factor) && (c->factor > 1 || (bc_usage_error(a, "-f: must be above 1"), false));
    case O_ITERATIONS:
        return in_range(a, "-n", v, 1, 10000000, &c->iterations);
    case O_WARMUP:
        return in_range(a, "-w", v, 0, 10000000, &c->warmup);
    case O_CHECK:
        return in_range(a, "-c", v, 0, 10000000, &c->check_every);
    case O_LAYERS:
        return in_range(a, "--layers", v, 1, 1000000, &c->layers);
    case O_BASELINE_N:
        return in_range(a, "--baseline-n", v, 0, 10000000, &n) && (set_baseline(c, n), true);
    case O_RANKS:
        return in_range(a, "--ranks", v, 1, 4096, &n) && (c->ranks = (int)n, true);
    case O_SEED:
        return bc_parse_u64(v, &c->seed) || (bc_usage_error(a, "--seed: \"%s\" is not a whole number", v), false);
    case O_RATE:
        return rate(a, "--rate", v, &c->goodput_bits);
    case O_BURST:
        return size(a, "--burst", v, 1u << 30, &bytes) && (c->burst_bytes = (double)bytes, true);
    case O_LATENCY:
        return real(a, "--latency", v, &c->latency_s);
    case O_JITTER:
        return real(a, "--jitter", v, &c->jitter_s);
    case O_COMPUTE:
        return real(a, "--compute", v, &c->compute);
    case O_TIMEOUT:
        return real(a, "--timeout", v, &c->timeout_s) &&
               (c->timeout_s > 0 || (bc_usage_error(a, "--timeout: must be above 0 seconds"), false));
    case O_FRAME:
        return size(a, "--frame", v, 1u << 20, &bytes) && (c->reducer.frame_bytes = (uint32_t)bytes, true);
    case O_IN_FLIGHT:
        return in_range(a, "--in-flight", v, 2, 1024, &c->reducer.in_flight);
    case O_BUCKET:
        return size(a, "--bucket", v, UINT64_MAX / 64, &c->reducer.bucket_bytes);
    default:
        return in_range(a, "--tile", v, 128, 4096, &c->reducer.tile);
    }
}

static bool set(const bc_args *a, ba_config *c, int id, const char *v) {
    bool done;
    switch (id) {
    case O_CODEC:
        return codec(a, c, v);
    case O_IN_PLACE:
        c->in_place = true;
        return true;
    case O_NO_OVERLAP:
        c->reducer.no_overlap = 1;
        return true;
    case O_JSON:
        c->json_path = v;
        return true;
    default:
        return set_word(a, c, id, v, &done) && (done || set_number(a, c, id, v));
    }
}

/* How many ranks an mpirun started; 0: not said. */
static int launched_ranks(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", NULL};
    for (int i = 0; names[i]; i++)
        if (getenv(names[i]))
            return atoi(getenv(names[i]));
    return 0;
}

/* Ranks of an mpirun: the launchers' variables, since MPI must not be initialised for a usage error or --help. */
static bool launched(int *rank) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", NULL};
    for (int i = 0; names[i]; i++)
        if (getenv(names[i])) {
            *rank = atoi(getenv(names[i]));
            return true;
        }
    return false;
}

/* What thinwire-netlab says about its links: goodput in bytes a second, rate in bits a second, burst in bytes. */
static bool from_environment(const bc_args *a, ba_config *c) {
    const char *goodput = getenv("THINWIRE_NETLAB_GOODPUT"), *nominal = getenv("THINWIRE_NETLAB_RATE");
    const char *burst = getenv("THINWIRE_NETLAB_BURST");
    uint64_t bytes;
    double v;
    if (c->transport != BA_MPI)
        return true;
    if (c->goodput_bits <= 0 && goodput && *goodput) {
        if (!real(a, "THINWIRE_NETLAB_GOODPUT", goodput, &v))
            return false;
        c->goodput_bits = 8 * v;
        if (nominal && *nominal && !real(a, "THINWIRE_NETLAB_RATE", nominal, &c->nominal_bits))
            return false;
    }
    if (c->burst_bytes < 0 && burst && *burst) {
        if (!size(a, "THINWIRE_NETLAB_BURST", burst, 1u << 30, &bytes))
            return false;
        c->burst_bytes = (double)bytes;
    }
    return true;
}

/* Options that this collective has no use for. */
static bool has_meaning(const bc_args *a, const ba_config *c) {
    const tw_reducer_config *r = &c->reducer;
    const char *name = c->what->name;
    if (!c->what->reduces && c->redop)
        return bc_usage_error(a, "-o: %s computes nothing", name), false;
    if (c->kind != BA_ALLREDUCE && (r->algo || r->bucket_bytes))
        return bc_usage_error(a, "--algo and --bucket are for allreduce, not %s", name), false;
    if (!c->what->reducer && (r->frame_bytes || r->in_flight || r->tile || r->no_overlap))
        return bc_usage_error(a, "--frame, --in-flight, --tile and --no-overlap are a reducer's: %s has none", name),
               false;
    if (!c->what->reducer && c->transport == BA_SIM)
        return bc_usage_error(a, "--transport sim: tw_broadcast waits, and all ranks of sim are in one thread"), false;
    return true;
}

/* What depends on several options together. */
static bool settle(const bc_args *a, ba_config *c, bool under_mpirun) {
#ifdef HAVE_MPI
    bool have_mpi = true;
#else
    bool have_mpi = false;
#endif
    if (!c->transport)
        c->transport = under_mpirun && have_mpi ? BA_MPI : BA_LOCAL;
    const char *name = ba_transport_name(c->transport);
    if (c->transport == BA_MPI && !have_mpi)
        return bc_usage_error(a,
                              "--transport mpi: this build has no MPI (configure --with-mpi); local and sim are there"),
               false;
    if (c->transport != BA_MPI && launched_ranks() > 1)
        return bc_usage_error(a, "--transport %s needs no mpirun: each of its %d processes would run all ranks%s", name,
                              launched_ranks(), have_mpi ? "" : "; this build has no MPI (configure --with-mpi)"),
               false;
    if (c->transport == BA_MPI && c->ranks)
        return bc_usage_error(a, "--ranks is for local and sim; mpirun -n says how many ranks mpi has"), false;
    if (c->transport != BA_MPI && c->baseline_asked)
        return bc_usage_error(a, "--baseline: plain MPI runs beside --transport mpi only, not %s", name), false;
    if (!has_meaning(a, c))
        return false;
    if (c->transport == BA_LOCAL && c->goodput_bits > 0)
        return bc_usage_error(a, "--rate has no meaning with --transport local: there is no link"), false;
    if (c->transport != BA_SIM && (c->latency_s >= 0 || c->jitter_s > 0 || c->compute > 0))
        return bc_usage_error(a, "--latency, --jitter and --compute are for --transport sim, not %s", name), false;
    if (c->transport == BA_SIM && c->progress == TW_PROGRESS_THREAD)
        return bc_usage_error(a, "--progress thread is not for --transport sim: all its ranks are in one thread"),
               false;
    if (!from_environment(a, c))
        return false;
    if (c->latency_s < 0)
        c->latency_s = 20e-6;
    if (c->burst_bytes < 0) {
        double half_ms = c->goodput_bits / 8 * 0.5e-3;
        c->burst_bytes = c->transport == BA_SIM ? 0 : half_ms > 32768 ? half_ms : 32768;
    }
    if (!c->ranks)
        c->ranks = c->transport == BA_MPI ? launched_ranks() : 4;
    size_t elem = tw_dtype_size(c->dtype);
    if (c->min_bytes < elem)
        return bc_usage_error(a, "-b: less than one value of %s", tw_dtype_name(c->dtype)), false;
    if (!c->max_bytes)
        c->max_bytes = c->min_bytes > 64u << 20 ? c->min_bytes : 64u << 20;
    if (c->max_bytes < c->min_bytes)
        return bc_usage_error(a, "-e: the largest message is smaller than the smallest (-b)"), false;
    c->redop = c->redop ? c->redop : TW_AVG;
    c->reducer.redop = c->redop;
    c->in_place = c->in_place || c->kind == BA_BROADCAST;
    return true;
}

/* What the library would refuse when the first row is made is a wrong command line: the estimate refuses the same. */
static bool fits_together(const bc_args *a, const ba_config *c) {
    const tw_layer layer = TW_LAYER_DTYPE("bench.0", 1, c->dtype);
    for (unsigned i = 0; i < c->n_codecs; i++) {
        tw_memory m = TW_MEMORY_INIT;
        tw_spec spec = TW_SPEC_INIT;
        char rules[BA_TEXT];
        snprintf(rules, sizeof rules, "*=%s", c->codecs[i]);
        if (tw_reducer_estimate(0, c->ranks > 0 ? c->ranks : 1, &layer, 1, rules, &c->reducer, &m) < 0)
            return bc_usage_error(a, "%s", tw_last_error()), false;
        if (!c->what->reducer && (tw_spec_parse(c->codecs[i], &spec) < 0 || spec.feedback != TW_FEEDBACK_NONE))
            return bc_usage_error(a, "--codec %s: %s keeps no residual", c->codecs[i], c->what->name), false;
    }
    return true;
}

bool ba_parse(int argc, char **argv, ba_config *c, int *status) {
    static const char *const usual[] = {"none", "cast:type=bf16", "onebit+ef"}, *const stateless = "onebit";
    ba_kind kind = BA_ALLREDUCE;
    while (strcmp(ba_collectives[kind].name, argv[0]) != 0)
        kind++;
    const char *value;
    int rank = 0, id;
    bool under_mpirun = launched(&rank);
    bc_args a = {ba_collectives[kind].program, argc, 1, argv, rank != 0};
    *c = (ba_config){.kind = kind,
                     .what = &ba_collectives[kind],
                     .min_bytes = 1u << 20,
                     .factor = 8,
                     .iterations = 20,
                     .warmup = 5,
                     .check_every = 1,
                     .layers = 1,
                     .baseline_n = UINT32_MAX,
                     .dtype = TW_F32,
                     .shape = BA_GAUSS,
                     .seed = 1,
                     .latency_s = -1,
                     .burst_bytes = -1,
                     .reducer = TW_REDUCER_CONFIG_INIT};
    *status = BC_EXIT_USAGE;
    while ((id = bc_next_option(&a, options, &value)) > 0) {
        if (id == O_HELP) {
            if (rank == 0)
                help();
            *status = BC_EXIT_OK;
            return false;
        }
        if (!set(&a, c, id, value))
            return false;
    }
    if (id < 0 || !settle(&a, c, under_mpirun))
        return false;
    unsigned most = c->reducer.algo == TW_ALGO_NATIVE ? 1 : 3; /* a native sum compresses nothing */
    for (unsigned i = 0, given = c->n_codecs; !given && i < most; i++)
        c->codecs[c->n_codecs++] = i == 2 && !c->what->reducer ? stateless : usual[i];
    if (!fits_together(&a, c))
        return false;
    *status = BC_EXIT_OK;
    return true;
}
