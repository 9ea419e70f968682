/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thinwire-plan: a dry run for who has no cluster yet. */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench_common.h"
#include "plan_tool.h"

/* A file that cannot be written is noticed before the work. What is in it stays till then: it may be read as well. */
static tw_status try_report(const char *path, bool *is_new) {
    struct stat now;
    *is_new = path && strcmp(path, "-") && stat(path, &now) != 0;
    FILE *f = path && strcmp(path, "-") ? fopen(path, "a") : NULL;
    if (path && strcmp(path, "-") && !f)
        return tw_fail(TC_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    if (f)
        fclose(f);
    return TW_OK;
}

/* The table first: it is there whatever becomes of the file. */
static tw_status write_report(const plan_result *r) {
    const char *path = r->o->json;
    bool to_stdout = path && !strcmp(path, "-");
    if (!to_stdout && !r->o->quiet)
        plan_print(r, stdout);
    FILE *f = !path ? NULL : to_stdout ? stdout : fopen(path, "w");
    if (path && !f)
        return tw_fail(TC_ERR_IO, "%s: cannot be written: %s", path, strerror(errno));
    if (f)
        plan_print_json(r, f);
    if (f && !to_stdout && (ferror(f) | fclose(f)))
        return tw_fail(TC_ERR_IO, "%s: could not be written", path);
    return TW_OK;
}

static tw_status plan(const plan_options *o) {
    plan_layers layers = {0};
    plan_candidates candidates = {0};
    plan_result r = {.o = o, .layers = &layers, .candidates = &candidates};
    tw_status st = plan_candidates_list(&candidates, o);
    bool usage = st == TW_ERR_ARG, is_new = false;
    if (st >= 0)
        st = try_report(o->json, &is_new);
    if (st >= 0)
        st = plan_layers_read(&layers, o);
    size_t cells = (size_t)layers.n * candidates.n;
    if (st >= 0 && !(r.lost = calloc(cells, sizeof *r.lost)))
        st = tw_fail(TW_ERR_NOMEM, "out of memory");
    if (st >= 0)
        st = o->speeds ? plan_json_speeds(o->speeds, &candidates) : plan_measure_speeds(&candidates, o);
    if (st >= 0)
        st = plan_measure_errors(&candidates, &layers, o, r.lost);
    if (st >= 0)
        st = plan_solve(&r);
    if (st >= 0)
        st = plan_write_rules(&r);
    if (st >= 0)
        st = write_report(&r);
    if (st < 0 && is_new)
        unlink(o->json);
    plan_result_free(&r);
    plan_layers_free(&layers);
    return st < 0 && !usage ? TC_ERR_IO : st;
}

int main(int argc, char **argv) {
    plan_options o;
    tw_status st = plan_parse(&o, argc, argv);
    if (st == TW_OK) {
        st = plan(&o);
        if (st < 0)
            fprintf(stderr, "thinwire-plan: %s\n", tw_last_error());
    }
    return bc_end_output("thinwire-plan", st == TW_ERR_ARG ? BC_EXIT_USAGE : st < 0 ? BC_EXIT_FAILED : BC_EXIT_OK);
}
