/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef CHARLM_OPTIONS_H
#define CHARLM_OPTIONS_H

#include <stdint.h>

enum { TRANSPORT_AUTO, TRANSPORT_MPI, TRANSPORT_LOCAL };
enum { OPTIMIZER_SGD, OPTIMIZER_ADAM };
enum { ALGO_SRA, ALGO_NATIVE, ALGO_AUTO };
enum { PROGRESS_POLL, PROGRESS_THREAD };

typedef struct options {
    int transport, ranks /* 0: not given */, optimizer, algo, progress, layers, quiet, help;
    int steps, batch, warmup, context, embed, hidden, eval_every, eval_chars;
    double lr, momentum;
    uint64_t seed;
    const char *rules, *text, *label, *json, *plot, *plot_from, *panels, *title, *record;
} options;

/* Ends the program with status 2 and a sentence if the command line is wrong. */
void options_parse(options *o, int argc, char **argv);
void options_help(void);

#endif
