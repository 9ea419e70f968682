/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thinwire-bench allreduce, reduce_scatter, allgather and broadcast: sizes x codecs, a row each. */
#include "bench_allreduce.h"

#include <errno.h>
#include <string.h>

static bool next_size(const ba_config *c, uint64_t *bytes) {
    uint64_t step = c->step_bytes ? c->step_bytes : (uint64_t)((double)*bytes * c->factor) - *bytes;
    *bytes += step ? step : 1;
    return *bytes <= c->max_bytes;
}

static bool to_stdout(const ba_config *c) {
    return c->json_path && !strcmp(c->json_path, "-");
}

/* NULL on other ranks, where no file is wanted, and after a failure, which is noted. */
static FILE *open_json(ba_world *w) {
    const char *path = w->cfg->json_path;
    if (w->rank || !path)
        return NULL;
    FILE *file = to_stdout(w->cfg) ? stdout : fopen(path, "w");
    if (!file)
        ba_problem(w, 0, "--json %s: %s", path, strerror(errno));
    return file;
}

/* Runs on every rank; only rank 0 prints. */
static int all_rows(ba_world *w) {
    const ba_config *c = w->cfg;
    ba_row row;
    int status = BC_EXIT_OK;
    bool table = w->rank == 0 && !to_stdout(c);
    FILE *json = open_json(w);
    bool going = ba_agree(w);
    if (table && going)
        ba_print_header(w);
    uint64_t bytes = c->min_bytes;
    do {
        for (unsigned i = 0; going && i < c->n_codecs; i++) {
            going = ba_run_row(w, bytes, c->codecs[i], &row);
            if (going && table)
                ba_print_row(w, &row);
            if (going && json)
                ba_json_row(w, &row, json);
            if (!going || !row.ok)
                status = BC_EXIT_FAILED;
        }
    } while (going && next_size(c, &bytes));
    if (!going && w->rank == 0)
        ba_say(c, "%s", w->sentence);
    if (!bc_close_json(json, c->what->name))
        status = BC_EXIT_FAILED;
    return going ? status : BC_EXIT_FAILED;
}

int tw_bench_collective_main(int argc, char **argv) {
    ba_config config;
    int status;
    if (!ba_parse(argc, argv, &config, &status))
        return status;
    return ba_worlds(&config, all_rows);
}
