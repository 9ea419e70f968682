/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thinwire-info: what this build and this machine offer. Everything but the transports' list is asked of the library.
 */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include <stdio.h>
#include <string.h>
#include <thinwire/experimental.h>
#include <thinwire/thinwire.h>

#include "bench_common.h"

/* ---- one JSON object over several lines ---- */

static void quoted(const char *s) {
    putchar('"');
    for (; *s; s++)
        if (*s == '"' || *s == '\\')
            printf("\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            printf("\\u%04x", (unsigned char)*s);
        else
            putchar(*s);
    putchar('"');
}

static void pair(const char *key, const char *value, const char *after) {
    quoted(key);
    fputs(": ", stdout);
    quoted(value);
    fputs(after, stdout);
}

/* ---- the build ---- */

static const char *compiler(void) {
#if defined(__clang__)
    return __VERSION__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown";
#endif
}

static const char *build_flags(void) {
#ifdef TW_BUILD_CFLAGS
    return TW_BUILD_CFLAGS;
#elif defined(__OPTIMIZE__)
    return "optimised";
#else
    return "not optimised";
#endif
}

static const char *build_mpi(void) {
#if defined(TW_BUILD_MPI)
    return TW_BUILD_MPI;
#elif defined(HAVE_MPI)
    return "yes (libthinwire-mpi)";
#else
    return "no";
#endif
}

static const char *machine(void) {
#if defined(__x86_64__)
    return "x86-64";
#elif defined(__aarch64__)
    return "aarch64";
#else
    return "other";
#endif
}

static void show_build(int json) {
    char api[16];
    snprintf(api, sizeof api, "%u", TW_API_VERSION);
    const struct {
        const char *key, *value;
    } rows[] = {{"version", tw_version_string()}, {"api", api},        {"machine", machine()}, {"compiler", compiler()},
                {"flags", build_flags()},         {"mpi", build_mpi()}};
    if (!json)
        puts("Build");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (json)
            pair(rows[i].key, rows[i].value, ",\n");
        else
            printf("  %-10s %s\n", rows[i].key, rows[i].value);
}

/* ---- the CPU ---- */

/* configure --enable-emulated-avx512 */
#if defined(TW_EMULATE_AVX512)
#define EMULATED "avx512"
#else
#define EMULATED ""
#endif

static void show_cpu(int json) {
    const char *why = "", *chosen = tw_isa_chosen(&why), *source = "";
    const char *const *list = tw_isa_list();
    uint32_t cores = 0;
    uint64_t l2 = 0;
    tw_topology(&cores, &l2, &source);
    if (json) {
        fputs("\"isa\": {\"list\": [", stdout);
        for (int i = 0; list[i]; i++) {
            fputs(i ? ", " : "", stdout);
            quoted(list[i]);
        }
        fputs("], ", stdout);
        pair("chosen", chosen, ", ");
        pair("emulated", EMULATED, ", ");
        pair("why", why, "},\n");
        printf("\"topology\": {\"cores\": %u, \"l2_bytes\": %llu, ", cores, (unsigned long long)l2);
        pair("source", source, "},\n");
        return;
    }
    fputs("\nCPU\n  codecs run as:", stdout);
    for (int i = 0; list[i]; i++)
        printf(" %s%s%s", list[i], strcmp(list[i], chosen) ? "" : "*",
               strcmp(list[i], EMULATED) ? "" : " (emulated: a build for tests)");
    printf("   (*: chosen, %s)\n", why);
    printf("  topology:      %u cores for this process, L2 cache %.0f KiB (%s)\n", cores, (double)l2 / 1024, source);
}

/* ---- codecs ---- */

static void show_codec(const char *text, const char *note, int json, int last) {
    static const uint64_t counts[] = {1, 4096, 1u << 20};
    tw_spec s = TW_SPEC_INIT;
    uint64_t bytes[3];
    if (tw_spec_parse(text, &s) < 0) {
        fprintf(stderr, "thinwire-info: %s\n", tw_last_error());
        return;
    }
    for (int i = 0; i < 3; i++)
        bytes[i] = tw_spec_bound(&s, counts[i], TW_F32);
    double bits = 8.0 * (double)bytes[1] / 4096;
    if (json) {
        fputs("  {", stdout);
        pair("spec", text, ", ");
        printf("\"bits_per_value\": %.6g, \"payload_1\": %llu, \"payload_4096\": %llu, \"payload_1048576\": %llu, ",
               bits, (unsigned long long)bytes[0], (unsigned long long)bytes[1], (unsigned long long)bytes[2]);
        pair("note", note, last ? "}\n" : "},\n");
        return;
    }
    printf("  %-27s %8.4f %7llu %7llu %8llu  %s\n", text, bits, (unsigned long long)bytes[0],
           (unsigned long long)bytes[1], (unsigned long long)bytes[2], note);
}

static void show_codecs(int json) {
    static const struct {
        const char *spec, *note;
    } rows[] = {{"none", "the layer's own dtype; exact"},
                {"cast:type=bf16", "nearest even; relative error up to 2^-8"},
                {"cast:type=fp16", "nearest even; up to 2^-11 for 6.1e-5 .. 65504"},
                {"cast:type=fp8e4m3", "nearest even and a scale per group of 512; up to 2^-4"},
                {"cast:type=fp8e5m2", "the same with more range; up to 2^-3"},
                {"onebit", "sign, and mean |x| per group of 512; meant for +ef"},
                {"onebit:group=128", "the smallest group"},
                {"onebit:scale=rms", "root mean square, as 1-bit Adam"},
                {"onebit:scale=twosided", "a mean for each sign, as 1-bit SGD"},
                {"quant", "8 bits, max |x| / 127 per group of 512"},
                {"quant:bits=4", "15 levels"},
                {"quant:bits=2", "0 and +-max |x| / 2; scale=mse is better for normal numbers"},
                {"ternary", "0 or a sign, and the mean of what is kept; meant for +ef"},
                {"ternary:rounding=stochastic", "as TernGrad: right on average"},
                {"randk", "1 % of the values, at positions that all ranks share; for +ef"},
                {"topk", "the largest 1 %, with their positions; at most so much; for +ef"},
                {"powersgd:columns=64", "two factors of rank 4, of rows of 64 values; matrices only"}};
    const int n = (int)(sizeof rows / sizeof *rows);
    if (json)
        puts("\"codecs\": [");
    else
        puts("\nCodecs                        bits per  payload bytes of fp32 values\n"
             "                                 value       1    4096     1 Mi");
    for (int i = 0; i < n; i++)
        show_codec(rows[i].spec, rows[i].note, json, i == n - 1);
    if (json) {
        puts("],\n\"feedbacks\": [\"none\", \"ef\", \"decay\", \"dgc\"],");
        return;
    }
    puts("\nFeedback\n  none   what is dropped is lost; the certificate adds it up\n"
         "  ef     error feedback: what is dropped is sent later; state is two fp32 copies of every value\n"
         "  decay  the share beta of it is, the rest is forgotten: decay:beta=0.95; the same state\n"
         "  dgc    of topk: momenta are sent, and cleared where they were: dgc:momentum=0.9; two copies more of every "
         "value");
}

/* ---- transports: the capabilities that docs and headers state; the library has no question for them ---- */

static void show_transports(int json) {
    static const struct {
        const char *name, *abandon, *detects, *native, *text;
    } rows[] = {{"local", "yes", "yes", "yes", "ranks are threads of one process"},
                {"sim", "yes", "if asked", "yes", "all ranks in one thread, virtual clock, seeded faults"},
                {"mpi", "no", "no", "yes", "libthinwire-mpi; a lost peer ends in TW_ERR_TIMEOUT"},
                {"mpi", "-", "-", "-", "not in this build (configure --with-mpi)"}};
    bool lacks_mpi = !strcmp(build_mpi(), "no");
    if (json)
        puts("\"transports\": [");
    else
        printf("\nTransports   %-8s %-8s %-10s\n", "abandon", "detects", "native sum");
    for (int k = 0; k < 3; k++) {
        int i = k == 2 && lacks_mpi ? 3 : k;
        if (json) {
            fputs("  {", stdout);
            pair("name", rows[i].name, ", ");
            pair("in_build", i == 3 ? "no" : "yes", ", ");
            pair("abandon", rows[i].abandon, ", ");
            pair("detects", rows[i].detects, ", ");
            pair("native_sum", rows[i].native, ", ");
            pair("note", rows[i].text, k == 2 ? "}\n" : "},\n");
        } else {
            printf("  %-10s %-8s %-8s %-10s  %s\n", rows[i].name, rows[i].abandon, rows[i].detects, rows[i].native,
                   rows[i].text);
        }
    }
    if (json)
        puts("],");
}

/* ---- the network ---- */

/* A trainer is silent between steps; with 1 here its connections begin anew after each silence (docs/design.md). */
static void show_network(int json) {
    FILE *f = fopen("/proc/sys/net/ipv4/tcp_slow_start_after_idle", "r");
    int value = -1;
    if (f) {
        if (fscanf(f, "%d", &value) != 1)
            value = -1;
        fclose(f);
    }
    if (json && value < 0)
        puts("\"network\": {\"tcp_slow_start_after_idle\": null},");
    else if (json)
        printf("\"network\": {\"tcp_slow_start_after_idle\": %d},\n", value);
    else if (value >= 0)
        printf("\nNetwork\n  net.ipv4.tcp_slow_start_after_idle = %d%s\n", value,
               value ? "   (over TCP, steps with 0.2 s or more between them are faster with 0)" : "");
}

/* ---- environment ---- */

static void show_variable(const char *line, const char *problem, int json, int first) {
    static const char *const keys[] = {"name", "value", "default", "meaning"};
    static const int widths[] = {20, 12, 10, 0};
    if (json)
        fputs(first ? "  {" : ",\n  {", stdout);
    else
        fputs("  ", stdout);
    for (int k = 0; k < 4; k++) {
        char field[512];
        size_t len = strcspn(line, "\t");
        snprintf(field, sizeof field, "%.*s", (int)len, line);
        line += len + (line[len] != 0);
        if (json)
            pair(keys[k], field, ", ");
        else
            printf("%-*s ", widths[k], field);
    }
    if (json)
        pair("problem", problem, "}");
    else
        putchar('\n');
}

/* How many values are bad. */
static int show_environment(int json) {
    const char *line;
    int bad = 0;
    if (json)
        puts("\"environment\": [");
    else
        printf("\nEnvironment            %-12s %-10s\n", "now", "default");
    for (unsigned i = 0; (line = tw_env_line(i)) != NULL; i++) {
        show_variable(line, tw_env_problem(i), json, i == 0);
        bad += *tw_env_problem(i) != '\0';
    }
    if (json)
        puts("\n]");
    else if (bad)
        puts("\nBad values: no context can be made");
    for (unsigned i = 0; !json && (line = tw_env_problem(i)) != NULL; i++)
        if (*line)
            printf("  %s\n", line);
    return bad;
}

static void help(FILE *to) {
    fputs("Usage: thinwire-info [--json]\n"
          "Prints version, build, instruction sets, codecs with their payload sizes, transports and the environment "
          "table.\n\n"
          "      --json       one JSON object\n"
          "      --version    version of the library that is loaded\n"
          "  -h, --help       this text\n\n"
          "Exit status: 0; 1 the output could not be written; 2 the command line was wrong; 3 an environment variable "
          "of\nThinwire has a bad value (the report says which and why).\n",
          to);
}

static int run(int argc, char **argv) {
    const char *arg = argc > 1 ? argv[1] : "";
    int json = argc == 2 && !strcmp(arg, "--json");
    if (argc == 2 && (!strcmp(arg, "--help") || !strcmp(arg, "-h"))) {
        help(stdout);
        return 0;
    }
    if (argc == 2 && !strcmp(arg, "--version")) {
        printf("thinwire-info %s\n", tw_version_string());
        return 0;
    }
    if (argc > 1 && !json) {
        fprintf(stderr, "thinwire-info: unexpected argument \"%s\"\n", argv[argc - 1]);
        help(stderr);
        return 2;
    }
    if (json)
        puts("{");
    show_build(json);
    show_cpu(json);
    show_codecs(json);
    show_transports(json);
    show_network(json);
    int bad = show_environment(json);
    if (json)
        puts("}");
    return bad ? 3 : 0;
}

int main(int argc, char **argv) {
    return bc_end_output("thinwire-info", run(argc, argv));
}
