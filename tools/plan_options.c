/* SPDX-License-Identifier: BSD-3-Clause */
#include <math.h>
#include <stdlib.h>

#include "bench_common.h"
#include "plan_tool.h"

enum {
    O_RANKS = 1,
    O_LINK,
    O_GOODPUT,
    O_LATENCY,
    O_MESSAGE,
    O_CORES,
    O_STEP,
    O_OVERLAP,
    O_BUCKET,
    O_BUDGET,
    O_NORM,
    O_FAMILIES,
    O_CANDIDATES,
    O_SMALL,
    O_ERRORS,
    O_SPEEDS,
    O_JSON,
    O_QUIET,
    O_HELP,
    O_VERSION
};

static const bc_opt table[] = {
    {O_RANKS, 'n', "ranks", "P", "how many ranks average their gradients, 2 to 4096"},
    {O_LINK, 'l', "link", "RATE", "of a rank's port, each way: 100mbit, 1gbit, 25gbit"},
    {O_STEP, 't', "step-time", "TIME", "of a step without any communication: 120ms, 0.8s"},
    {O_OVERLAP, 0, "overlap", "SHARE", "of that time, at its end, in which gradients become ready (0.5)"},
    {O_LATENCY, 0, "latency", "TIME", "of a message (50us)"},
    {O_MESSAGE, 0, "message", "TIME", "that a core spends on a message sent and one received, beside its values (5us)"},
    {O_GOODPUT, 0, "goodput", "SHARE",
     "of the rate that frames get: headers of TCP, IP and Ethernet take the rest (0.94)"},
    {O_CORES, 0, "cores", "N", "of the host for each rank; with 2 codecs and frames run beside the computing (2)"},
    {O_BUCKET, 0, "bucket", "SIZE", "values that travel together, in bytes (4M); the last one cannot be hidden"},
    {O_BUDGET, 'b', "budget", "SPEC", "setting of all layers whose error may be spent (quant:bits=4+ef)"},
    {O_NORM, 0, "norm", "l2|l2sq", "errors are added up as norms or as their squares (l2)"},
    {O_FAMILIES, 0, "families", "WORDS", "codecs that may be chosen, such as topk,quant (all); none always may"},
    {O_CANDIDATES, 0, "candidates", "SPECS", "settings that may be chosen: \"onebit+ef;topk:density=0.01+ef\""},
    {O_SMALL, 0, "small", "N", "layers of fewer values go as they are (1024)"},
    {O_ERRORS, 0, "errors", "OF",
     "what candidates lose is measured on drawn values: laplace (default),\nnormal, student; or on data: the tensors "
     "of a "
     ".safetensors file are gradients"},
    {O_SPEEDS, 0, "codec-speeds", "FILE", "speeds are not measured here; FILE is what --json wrote elsewhere"},
    {O_JSON, 0, "json", "FILE", "also write the report as JSON; \"-\": to standard output, without the table"},
    {O_QUIET, 'q', "quiet", NULL, "no table, and no word about measuring"},
    {O_HELP, 'h', "help", NULL, "this text"},
    {O_VERSION, 0, "version", NULL, "version of the library that is loaded"},
    {0, 0, NULL, NULL, NULL},
};

static void help(void) {
    puts(
        "Usage: thinwire-plan --ranks P --link RATE --step-time TIME [options] LAYERS\n\n"
        "What compression would do: a setting for each layer, the step's time dense and compressed, below which rate "
        "it\n"
        "pays, the memory it takes, and \"do not compress\" where that is so. LAYERS is a .safetensors file or a JSON\n"
        "array, [{\"name\": \"h.weight\", \"shape\": [1024, 256], \"dtype\": \"fp32\"}, ...]; \"-\": JSON on standard "
        "input.\n");
    bc_print_options(stdout, table);
    puts("\nExit status: 0; 1 an input could not be read or is wrong; 2 the command line was wrong.");
}

/* "120ms", "50us", "0.5s", "0.5" */
static bool parse_time(const char *text, double *seconds) {
    static const struct {
        const char *unit;
        double scale;
    } units[] = {{"", 1}, {"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}};
    char *end;
    double v = strtod(text, &end);
    if (end == text || !(v >= 0) || v > 1e6)
        return false;
    for (size_t i = 0; i < TW_ARRAY_LEN(units); i++)
        if (!strcmp(end, units[i].unit)) {
            *seconds = v * units[i].scale;
            return true;
        }
    return false;
}

static int word_of(const bc_args *a, const char *option, const char *v, const char *const *words) {
    for (int i = 0; words[i]; i++)
        if (!strcmp(v, words[i]))
            return i;
    return bc_bad_word(a, option, v, words);
}

static int bad_value(const bc_args *a, const char *option, const char *v, const char *want) {
    return bc_usage_error(a, "--%s: \"%s\" is no valid value; it wants %s", option, v, want);
}

static int take_number(plan_options *o, const bc_args *a, int id, const char *v) {
    uint64_t n;
    double d;
    switch (id) {
    case O_RANKS:
        return bc_parse_u64(v, &o->ranks) && o->ranks >= 2 && o->ranks <= PLAN_MOST_RANKS
                   ? 0
                   : bad_value(a, "ranks", v, "a number from 2 to 4096");
    case O_LINK:
        return bc_parse_rate(v, &o->link) && o->link >= 1e4 && o->link <= 1e14
                   ? 0
                   : bad_value(a, "link", v, "bits a second such as 1gbit, from 10kbit to 100tbit");
    case O_STEP:
        return parse_time(v, &o->step) ? 0 : bad_value(a, "step-time", v, "a time such as 120ms");
    case O_LATENCY:
        return parse_time(v, &o->latency) ? 0 : bad_value(a, "latency", v, "a time such as 50us");
    case O_MESSAGE:
        return parse_time(v, &o->message) ? 0 : bad_value(a, "message", v, "a time such as 5us");
    case O_OVERLAP:
        return bc_parse_double(v, &o->overlap) && o->overlap >= 0 && o->overlap <= 1
                   ? 0
                   : bad_value(a, "overlap", v, "a share from 0 to 1");
    case O_GOODPUT:
        return bc_parse_double(v, &o->goodput) && o->goodput >= 0.01 && o->goodput <= 1
                   ? 0
                   : bad_value(a, "goodput", v, "a share from 0.01 to 1");
    case O_CORES:
        return bc_parse_double(v, &o->cores) && o->cores >= 0.01 && o->cores <= 1024
                   ? 0
                   : bad_value(a, "cores", v, "a number from 0.01 to 1024");
    case O_BUCKET:
        return bc_parse_size(v, &o->bucket) && o->bucket >= 4096 ? 0 : bad_value(a, "bucket", v, "a size from 4K on");
    default:
        if (!bc_parse_u64(v, &n) || !bc_parse_double(v, &d))
            return bad_value(a, "small", v, "a number of values");
        o->small = n;
        return 0;
    }
}

static int take_option(plan_options *o, const bc_args *a, int id, const char *v) {
    static const char *const norms[] = {"l2", "l2sq", NULL};
    static const char *const errors[] = {"laplace", "normal", "student", "data", NULL};
    int at;
    switch (id) {
    case O_BUDGET:
        o->budget = v;
        return 0;
    case O_FAMILIES:
        o->families = v;
        return 0;
    case O_CANDIDATES:
        o->candidates = v;
        return 0;
    case O_SPEEDS:
        o->speeds = v;
        return 0;
    case O_JSON:
        o->json = v;
        return 0;
    case O_QUIET:
        o->quiet = true;
        return 0;
    case O_NORM:
        at = word_of(a, "--norm", v, norms);
        o->squares = at == 1;
        return at < 0 ? -1 : 0;
    case O_ERRORS:
        at = word_of(a, "--errors", v, errors);
        o->errors = (plan_errors)(at < 0 ? 0 : at);
        return at < 0 ? -1 : 0;
    default:
        return take_number(o, a, id, v);
    }
}

static int complete(const plan_options *o, const bc_args *a) {
    if (!o->layers)
        return bc_usage_error(a, "which layers? A .safetensors or .json file, or \"-\" (--help shows how to call it)");
    if (!o->ranks)
        return bc_usage_error(a, "--ranks must say how many ranks there will be");
    if (!o->link)
        return bc_usage_error(a, "--link must say how fast a rank's port is, such as 1gbit");
    if (o->step < 0)
        return bc_usage_error(a, "--step-time must say how long a step computes, such as 120ms");
    if (o->errors == PLAN_DATA && tc_kind_of(o->layers) != TC_KIND_SAFETENSORS)
        return bc_usage_error(a, "--errors data: \"%s\" is no .safetensors file", o->layers);
    return 0;
}

tw_status plan_parse(plan_options *o, int argc, char **argv) {
    bc_args a = {.program = "thinwire-plan", .argc = argc, .at = 1, .argv = argv};
    const char *v;
    *o = (plan_options){.budget = "quant:bits=4+ef",
                        .small = 1024,
                        .bucket = 4 << 20,
                        .goodput = 0.94,
                        .latency = 50e-6,
                        .message = 5e-6,
                        .cores = 2,
                        .step = -1,
                        .overlap = 0.5};
    for (int id = 0; a.at < argc;) {
        const char *word = argv[a.at];
        if (word[0] != '-' || !word[1]) {
            if (o->layers)
                return bc_usage_error(&a, "one list of layers, not \"%s\" as well", word), TW_ERR_ARG;
            o->layers = word;
            a.at++;
        } else if ((id = bc_next_option(&a, table, &v)) == O_HELP) {
            help();
            return TW_IN_PROGRESS;
        } else if (id == O_VERSION) {
            printf("thinwire-plan %s\n", tw_version_string());
            return TW_IN_PROGRESS;
        } else if (id < 0 || take_option(o, &a, id, v) < 0) {
            return TW_ERR_ARG;
        }
    }
    return complete(o, &a) < 0 ? TW_ERR_ARG : TW_OK;
}
