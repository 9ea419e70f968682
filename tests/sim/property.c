/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Random configurations against the contracts. See trial.h. */
#include "trial.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct options {
    uint64_t configs, seed, only;
    int most_ranks;
    double limit_s;
    bool has_only, verbose, keep_going;
} options;

static void usage(FILE *to) {
    fputs("usage: property [--configs N] [--seed S] [--only SEED] [--ranks-max R] [--time-limit S] [--keep-going]\n"
          "                [--verbose]\n\n"
          "Runs N random configurations (default: THINWIRE_SIM_CONFIGS, else 10000) over the simulated transport and\n"
          "compares every bit with a plain model. Each is a function of one seed; --only repeats the one that failed.\n"
          "--time-limit ends the test as failed after S seconds; --keep-going goes on after a failure.\n",
          to);
}

static bool parse(int argc, char **argv, options *o) {
    const char *env = getenv("THINWIRE_SIM_CONFIGS");
    *o = (options){.configs = env ? strtoull(env, NULL, 0) : 10000, .seed = 1, .most_ranks = MOST_RANKS};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "--verbose")) {
            o->verbose = true;
            continue;
        }
        if (!strcmp(a, "--keep-going")) {
            o->keep_going = true;
            continue;
        }
        if (!v)
            return false;
        if (!strcmp(a, "--configs"))
            o->configs = strtoull(v, NULL, 0);
        else if (!strcmp(a, "--seed"))
            o->seed = strtoull(v, NULL, 0);
        else if (!strcmp(a, "--only"))
            o->only = strtoull(v, NULL, 0), o->has_only = true;
        else if (!strcmp(a, "--ranks-max"))
            o->most_ranks = atoi(v);
        else if (!strcmp(a, "--time-limit"))
            o->limit_s = atof(v);
        else
            return false;
        i++;
    }
    return o->most_ranks >= 1 && o->most_ranks <= MOST_RANKS;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool run_one(trial *t, uint64_t seed, const options *o, const char *program) {
    memset(t, 0, sizeof *t);
    t->verbose = o->verbose;
    trial_draw(t, seed, o->most_ranks);
    if (o->verbose)
        trial_describe(t);
    if (trial_run(t) && (seed % 4 != 0 || collective_run(t, seed, o->most_ranks)) &&
        (seed % 4 != 1 || scatter_run(t, seed, o->most_ranks)) &&
        (seed % 4 != 2 || lowrank_run(t, seed, o->most_ranks)))
        return true;
    printf("FAILED: %s\n", t->why);
    if (!o->verbose)
        trial_describe(t);
    printf("  again: %s --only %llu --verbose", program, (unsigned long long)seed);
    printf(o->most_ranks < MOST_RANKS ? " --ranks-max %d\n" : "\n", o->most_ranks);
    fflush(stdout);
    return false;
}

int main(int argc, char **argv) {
    options o;
    if (argc == 2 && !strcmp(argv[1], "--help")) {
        usage(stdout);
        return 0;
    }
    if (!parse(argc, argv, &o)) {
        usage(stderr);
        return 2;
    }
    trial *t = malloc(sizeof *t);
    uint64_t n = o.has_only ? 1 : o.configs, passed = 0, failed = 0;
    rng seeds = {o.seed};
    double start = seconds(), said = start;
    bool late = false;
    for (uint64_t i = 0; t && i < n && !late && (failed == 0 || o.keep_going); i++) {
        uint64_t seed = o.has_only ? o.only : rng_next(&seeds) >> 16;
        bool ok = run_one(t, seed, &o, argv[0]);
        passed += ok;
        failed += !ok;
        double now = seconds();
        late = o.limit_s > 0 && now - start > o.limit_s && i + 1 < n;
        if (now - said > 10 || i + 1 == n) {
            fprintf(stderr, "%llu of %llu configurations, %.0f s\n", (unsigned long long)(i + 1), (unsigned long long)n,
                    now - start);
            said = now;
        }
    }
    free(t);
    if (!o.has_only)
        tally_print();
    if (late)
        printf("FAILED: %g s are over after %llu of %llu configurations\n", o.limit_s,
               (unsigned long long)(passed + failed), (unsigned long long)n);
    printf("%.1f s, first seed of the sequence: --seed %llu\n%llu passed, %llu failed\n", seconds() - start,
           (unsigned long long)o.seed, (unsigned long long)passed, (unsigned long long)(failed + late + (t == NULL)));
    return failed || late || passed < n;
}
