/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thinwire-bench: measures and checks. Collectives need ranks (mpirun, threads or a simulated network), `codec` one
 * core. */
#include <stdio.h>
#include <string.h>
#include <thinwire/thinwire.h>

#include "bench_allreduce.h"
#include "bench_common.h"

int tw_bench_codec_main(int argc, char **argv); /* bench_codec.c */

static void help(FILE *to) {
    fputs("Usage: [mpirun -n P] thinwire-bench allreduce|reduce_scatter|allgather|broadcast [options]\n"
          "       thinwire-bench codec [options]\n\n"
          "allreduce, ...   time, bytes and error of that collective, compressed, beside plain MPI in the same run\n"
          "codec            speed of one core beside a loop with the same reads and writes\n\n"
          "  -h, --help       this text; `thinwire-bench MODE --help` lists the options of a mode\n"
          "      --version    version of the library that it is made of\n\n"
          "Exit status: 0 all good; 1 a check failed or output could not be written; 2 the command line was wrong.\n",
          to);
}

static int run(int argc, char **argv) {
    static const char *const modes[] = {"allreduce", "reduce_scatter", "allgather", "broadcast",
                                        "codec",     "--help",         "--version", NULL};
    const char *mode = argc > 1 ? argv[1] : "";
    for (int k = 0; k <= BA_BROADCAST; k++)
        if (!strcmp(mode, ba_collectives[k].name))
            return tw_bench_collective_main(argc - 1, argv + 1);
    if (!strcmp(mode, "codec"))
        return tw_bench_codec_main(argc - 1, argv + 1);
    if (!strcmp(mode, "--help") || !strcmp(mode, "-h")) {
        help(stdout);
        return BC_EXIT_OK;
    }
    if (!strcmp(mode, "--version")) {
        printf("thinwire-bench %s\n", tw_version_string());
        return BC_EXIT_OK;
    }
    if (argc < 2)
        help(stderr);
    else
        fprintf(stderr, "thinwire-bench: unknown mode \"%s\"; did you mean \"%s\"?\n", mode, bc_nearest(mode, modes));
    return BC_EXIT_USAGE;
}

int main(int argc, char **argv) {
    return bc_end_output("thinwire-bench", run(argc, argv));
}
