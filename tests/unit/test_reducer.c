/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The reducer's manners, over sim and local: bad input, order of calls, every allocation failing in turn, discard and
 * reset, skipping and failing on NaN, memory estimate, requests, the progress thread. (tests/sim checks the values.) */
#include "unit.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <thinwire/experimental.h>

enum { P = 3, N = 3 * 4096 + 17 };
static const tw_layer layers[] = {TW_LAYER("net.weight", N), TW_LAYER("net.bias", 5)};

typedef struct world {
    tw_ctx *ctx;
    tw_sim *sim;
    tw_comm *comm[P];
    tw_reducer *red[P];
    float *in[P], *out[P];
} world;

static tw_status open_list(world *w, tw_ctx *ctx, const tw_layer *list, uint32_t layer_count, const char *rules,
                           const tw_reducer_config *cfg) {
    tw_sim_config sc = TW_SIM_CONFIG_INIT;
    const tw_layer *l[P] = {list, list, list};
    const char *t[P] = {rules, rules, rules};
    const tw_reducer_config *c[P] = {cfg, cfg, cfg};
    uint32_t n[P] = {layer_count, layer_count, layer_count};
    sc.ranks = P;
    memset(w, 0, sizeof *w);
    w->ctx = ctx;
    tw_status s = tw_sim_create(ctx, &sc, &w->sim);
    if (s >= 0)
        s = tw_sim_comms(w->sim, ctx, w->comm);
    if (s >= 0)
        s = tw_sim_reducers(w->sim, w->comm, l, n, t, c, w->red);
    for (int r = 0; r < P; r++) {
        w->in[r] = malloc((N + 5) * sizeof(float));
        w->out[r] = malloc((N + 5) * sizeof(float));
        for (int i = 0; i < N + 5; i++) {
            w->in[r][i] = sinf((float)(i * (r + 1)));
            w->out[r][i] = 777.0f;
        }
    }
    return s;
}

static tw_status open_world(world *w, tw_ctx *ctx, const char *rules, const tw_reducer_config *cfg) {
    return open_list(w, ctx, layers, 2, rules, cfg);
}

static void close_world(world *w) {
    for (int r = 0; r < P; r++)
        if (w->red[r])
            CU_ASSERT_EQUAL(tw_reducer_destroy(w->red[r]), TW_OK);
    for (int r = 0; r < P; r++) {
        if (w->comm[r])
            CU_ASSERT_EQUAL(tw_comm_destroy(w->comm[r]), TW_OK);
        free(w->in[r]);
        free(w->out[r]);
    }
    if (w->sim)
        CU_ASSERT_EQUAL(tw_sim_destroy(w->sim), TW_OK);
}

/* A push that was refused for want of memory left everything as it was: it may be done again. */
static tw_status push(world *w, int r, uint32_t layer) {
    uint32_t at = layer ? N : 0;
    tw_status s = tw_reducer_push(w->red[r], layer, w->in[r] + at, w->out[r] + at);
    if (s != TW_ERR_NOMEM)
        return s;
    CU_ASSERT_EQUAL(tw_reducer_push(w->red[r], layer, w->in[r] + at, w->out[r] + at), TW_OK);
    return s;
}

static void flush(world *w) {
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_flush(w->red[r]), TW_OK);
}

/* One step on all ranks; returns the worst status. */
static tw_status step(world *w, uint64_t number, tw_report *rep) {
    tw_status worst = TW_OK, s;
    for (int r = 0; r < P; r++) {
        s = tw_reducer_begin(w->red[r], number, NULL);
        for (uint32_t l = 0; l < 2; l++)
            if (s >= 0 || s == TW_ERR_NOMEM) {
                tw_status one = push(w, r, l);
                s = one < 0 ? one : s;
            }
        worst = s < worst ? s : worst;
    }
    for (int r = 0; r < P; r++) {
        s = tw_reducer_end(w->red[r], rep ? &rep[r] : NULL);
        worst = s < worst ? s : worst;
    }
    return worst;
}

static int outputs_are(const world *w, float value) {
    for (int r = 0; r < P; r++)
        for (int i = 0; i < N + 5; i++)
            if (w->out[r][i] != value)
                return 0;
    return 1;
}

static int equal_outputs(const world *w) {
    return !memcmp(w->out[0], w->out[1], (N + 5) * 4) && !memcmp(w->out[0], w->out[2], (N + 5) * 4);
}

static void get_residuals(const world *w, float *e) {
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_residual(w->red[r], 0, e + (size_t)r * N), TW_OK);
}

static void test_creation_errors(void) {
    world w;
    tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
    CU_ASSERT_EQUAL(open_world(&w, NULL, "*=onebitt", NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "onebit");
    close_world(&w);
    CU_ASSERT_EQUAL(open_world(&w, NULL, "*=onebit:grup=256", NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "group");
    close_world(&w);
    CU_ASSERT_EQUAL(open_world(&w, NULL, "*=none until x then onebit", NULL), TW_ERR_ARG);
    close_world(&w);
    CU_ASSERT_EQUAL(open_world(&w, NULL, "bias", NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "PATTERN=SPEC");
    close_world(&w);
    cfg.tile = 100;
    CU_ASSERT_EQUAL(open_world(&w, NULL, NULL, &cfg), TW_ERR_ARG);
    close_world(&w);
    cfg.tile = 0;
    cfg.in_flight = 1;
    CU_ASSERT_EQUAL(open_world(&w, NULL, NULL, &cfg), TW_ERR_ARG);
    close_world(&w);
    CU_ASSERT_EQUAL(tw_reducer_create(NULL, layers, 2, NULL, NULL, &w.red[0]), TW_ERR_ARG);
}

static void test_rules_refused(void) {
    static const struct {
        const char *rules, *part;
    } bad[] = {
        {"*=none until 99999999999999999999 then onebit", "99999999999999999999' is too large"},
        {"*=none until 18446744073709551615 then onebit", "too large"},
        {"*=none until 5 then cast until 18446744073709551616 then onebit", "too large"},
        {"*=none until 0 then onebit", "above 0"},
        {"*=none untill 5 then onebit", "rule 1: unknown word 'untill' after 'none'; did you mean 'until'?"},
        {"a=none;*=none until 5 then cast til 9 then none",
         "rule 2: unknown word 'til' after 'cast'; did you mean 'until'?"},
        {"*=none until 5 thn onebit", "rule 1: unknown word 'thn' after 'until 5'; did you mean 'then'?"},
        {"*=none until 5 thn cast until 9 then none", "unknown word 'thn' after 'until 5'; did you mean 'then'?"},
        {"*=none until 5", "'until 5' lacks its 'then SPEC'"},
        {"*=onebitt until 5 then none", "unknown codec 'onebitt'; did you mean 'onebit'?"},
        {"*=none until 5 then cast until 5 then onebit", "above 5"},
        {"[=onebit", "rule 1: the layer pattern '[' has a '[' without its ']'"},
        {"*.bias=none;a|net[!]=onebit", "rule 2: the layer pattern 'net[!]' has a '['"},
        {"net[[:alpha:]=onebit", "without its ']'"},
        {"net[a\\]=onebit", "without its ']'"},
        {"net\\=onebit", "ends with a backslash"},
    };
    static const char *const good[] = {"*=none until 18446744073709551614 then onebit",
                                       "net.[bw]*=onebit",
                                       "net.[!]b]*=onebit",
                                       "net.[[:alpha:]]*=onebit",
                                       "net\\[*=onebit",
                                       "net.[\\]w]*=onebit",
                                       "]=onebit"};
    world w;
    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        CU_ASSERT_EQUAL(open_world(&w, NULL, bad[i].rules, NULL), TW_ERR_ARG);
        unit_has(tw_last_error(), bad[i].part);
        close_world(&w);
    }
    for (size_t i = 0; i < UNIT_COUNT(good); i++) {
        CU_ASSERT_EQUAL(open_world(&w, NULL, good[i], NULL), TW_OK);
        close_world(&w);
    }
}

static void test_call_order(void) {
    world w;
    tw_step_args args = TW_STEP_ARGS_INIT;
    CU_ASSERT_EQUAL(open_world(&w, NULL, "*=onebit+ef", NULL), TW_OK);
    tw_reducer *r = w.red[0];
    CU_ASSERT_EQUAL(tw_reducer_push(r, 0, w.in[0], w.out[0]), TW_ERR_ARG);
    unit_has(tw_last_error(), "tw_reducer_begin");
    CU_ASSERT_EQUAL(tw_reducer_end(r, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_discard(r), TW_ERR_ARG);
    args.input_scale = 0.3f;
    CU_ASSERT_EQUAL(tw_reducer_begin(r, 1, &args), TW_ERR_ARG);
    unit_has(tw_last_error(), "power of two");
    CU_ASSERT_EQUAL(step(&w, 5, NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_begin(r, 5, NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "must grow");
    for (int k = 0; k < P; k++)
        CU_ASSERT_EQUAL(tw_reducer_begin(w.red[k], 6, NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_begin(r, 7, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_reset(r), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_push(r, 2, w.in[0], w.out[0]), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_push(r, 1, w.in[0] + N, w.out[0] + N), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_push(r, 1, w.in[0] + N, w.out[0] + N), TW_ERR_ARG);
    unit_has(tw_last_error(), "net.bias");
    CU_ASSERT_EQUAL(tw_comm_destroy(w.comm[0]), TW_ERR_ARG);
    flush(&w);
    CU_ASSERT_EQUAL(tw_reducer_push(r, 0, w.in[0], w.out[0]), TW_ERR_ARG); /* too late */
    for (int k = 0; k < P; k++)
        CU_ASSERT_EQUAL(tw_reducer_end(w.red[k], NULL), TW_OK);
    close_world(&w);
}

static void test_overlaps(void) {
    world w;
    CU_ASSERT_EQUAL(open_world(&w, NULL, "*=onebit+ef", NULL), TW_OK);
    tw_reducer *r = w.red[0];
    for (int k = 0; k < P; k++)
        CU_ASSERT_EQUAL(tw_reducer_begin(w.red[k], 1, NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_push(r, 0, w.in[0], w.in[0] + 1), TW_ERR_ARG);
    unit_has(tw_last_error(), "net.weight");
    CU_ASSERT_EQUAL(tw_reducer_push(r, 0, w.in[0], w.out[0]), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_push(r, 1, w.in[0] + N, w.out[0] + N - 1), TW_ERR_ARG);
    unit_has(tw_last_error(), "overlap");
    CU_ASSERT_EQUAL(tw_reducer_push(r, 1, w.in[0] + N, w.out[0] + N), TW_OK); /* as before the call */
    flush(&w);
    for (int k = 0; k < P; k++)
        CU_ASSERT_EQUAL(tw_reducer_end(w.red[k], NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_begin(r, 2, NULL), TW_OK);
    tw_piece bad[] = {TW_PIECE(0, 0, N, w.in[0], w.out[0]), TW_PIECE(1, 0, 5, w.in[0] + N, w.out[0] + 3)};
    tw_piece gap[] = {TW_PIECE(0, 0, 100, w.in[0], w.out[0]), TW_PIECE(0, 200, N - 200, w.in[0] + 200, w.out[0] + 200)};
    tw_piece cut[] = {TW_PIECE(0, 0, 100, w.in[0], w.out[0])};
    tw_piece out[] = {TW_PIECE(0, 1, N, w.in[0], w.out[0])};
    tw_piece half[] = {TW_PIECE(0, 0, 100, w.in[0], w.out[0]), TW_PIECE(0, 100, N - 100, NULL, w.out[0] + 100)};
    CU_ASSERT_EQUAL(tw_reducer_post(r, bad, 2, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_post(r, gap, 2, NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "gap");
    CU_ASSERT_EQUAL(tw_reducer_post(r, cut, 1, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_post(r, out, 1, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_post(r, half, 2, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_reducer_post(r, NULL, 2, NULL), TW_ERR_ARG);
    for (int k = 1; k < P; k++)
        CU_ASSERT_EQUAL(tw_reducer_begin(w.red[k], 2, NULL), TW_OK);
    flush(&w);
    for (int k = 0; k < P; k++)
        CU_ASSERT_EQUAL(tw_reducer_end(w.red[k], NULL), TW_OK); /* nothing pushed: all layers absent everywhere */
    close_world(&w);
}

static void test_requests(void) {
    world w;
    tw_req *q[P] = {0}, *whole[P] = {0};
    CU_ASSERT_EQUAL(open_world(&w, NULL, "*=onebit+ef", NULL), TW_OK);
    for (int r = 0; r < P; r++) {
        tw_piece a[] = {TW_PIECE(0, 8192, N - 8192, w.in[r] + 8192, w.out[r] + 8192)};
        tw_piece b[] = {TW_PIECE(0, 0, 8192, w.in[r], w.out[r]), TW_PIECE(1, 0, 5, w.in[r] + N, w.out[r] + N)};
        CU_ASSERT_EQUAL(tw_reducer_begin(w.red[r], 1, NULL), TW_OK);
        tw_piece twice[] = {TW_PIECE(0, 8192, N - 8192, w.in[r] + 8192, NULL)};
        tw_piece shared[] = {TW_PIECE(1, 0, 5, w.in[r] + N, w.out[r] + N - 5)}, over[] = {shared[0]};
        over[0].out = w.in[r] + 8192;
        CU_ASSERT_EQUAL(tw_reducer_post(w.red[r], a, 1, &q[r]), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_post(w.red[r], twice, 1, NULL), TW_ERR_ARG);
        unit_has(tw_last_error(), "net.weight': value 8192 was posted already");
        CU_ASSERT_EQUAL(tw_reducer_post(w.red[r], shared, 1, NULL), TW_ERR_ARG);
        unit_has(tw_last_error(), "overlap");
        CU_ASSERT_EQUAL(tw_reducer_post(w.red[r], over, 1, NULL), TW_ERR_ARG);
        CU_ASSERT_EQUAL(tw_reducer_post(w.red[r], b, 2, &whole[r]), TW_OK);
    }
    CU_ASSERT_EQUAL(tw_req_test(q[0]), TW_IN_PROGRESS);
    CU_ASSERT_EQUAL(tw_req_free(whole[1]), TW_OK); /* its op goes on */
    CU_ASSERT_EQUAL(tw_req_wait(q[0], 0), TW_OK);
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_end(w.red[r], NULL), TW_OK);
    CU_ASSERT(equal_outputs(&w));
    CU_ASSERT_EQUAL(tw_req_test(q[2]), TW_OK); /* outlives its step */
    CU_ASSERT_EQUAL(tw_req_free(NULL), TW_OK);
    for (int r = 0; r < P; r++) {
        CU_ASSERT_EQUAL(tw_req_free(q[r]), TW_OK);
        if (r != 1)
            CU_ASSERT_EQUAL(tw_req_free(whole[r]), TW_OK);
    }
    close_world(&w);
}

static void test_discard_and_reset(void) {
    world w;
    float *before = malloc(P * N * sizeof(float)), *after = malloc(P * N * sizeof(float));
    CU_ASSERT_EQUAL(open_world(&w, NULL, "*=onebit+ef", NULL), TW_OK);
    CU_ASSERT_EQUAL(step(&w, 1, NULL), TW_OK);
    get_residuals(&w, before);
    for (int r = 0; r < P; r++) {
        CU_ASSERT_EQUAL(tw_reducer_begin(w.red[r], 2, NULL), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_push(w.red[r], 0, w.in[r], w.out[r]), TW_OK);
    }
    flush(&w);
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_discard(w.red[r]), TW_OK);
    get_residuals(&w, after);
    CU_ASSERT(!memcmp(before, after, P * N * sizeof(float)));
    CU_ASSERT_EQUAL(step(&w, 3, NULL), TW_OK);
    get_residuals(&w, after);
    CU_ASSERT(memcmp(before, after, P * N * sizeof(float)) != 0);
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_reset(w.red[r]), TW_OK);
    get_residuals(&w, after);
    for (int i = 0; i < P * N; i++)
        if (after[i] != 0) {
            CU_FAIL("reset left a residual");
            break;
        }
    CU_ASSERT_EQUAL(step(&w, 4, NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_reset(w.red[1]), TW_OK); /* alone */
    CU_ASSERT(step(&w, 5, NULL) < 0);
    close_world(&w);
    free(before);
    free(after);
}

static void test_nonfinite(void) {
    for (int policy = TW_NONFINITE_PROPAGATE; policy <= TW_NONFINITE_ERROR; policy++) {
        world w;
        tw_report rep[P] = {TW_REPORT_INIT, TW_REPORT_INIT, TW_REPORT_INIT};
        tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
        float *before = malloc(P * N * sizeof(float)), *after = malloc(P * N * sizeof(float));
        cfg.nonfinite = (tw_nonfinite)policy;
        CU_ASSERT_EQUAL(open_world(&w, NULL, "*=onebit+ef", &cfg), TW_OK);
        CU_ASSERT_EQUAL(step(&w, 1, NULL), TW_OK);
        get_residuals(&w, before);
        for (int r = 0; r < P; r++)
            for (int i = 0; i < N + 5; i++)
                w.out[r][i] = 777.0f;
        w.in[2][5000] = INFINITY;
        tw_status s = step(&w, 2, rep);
        get_residuals(&w, after);
        CU_ASSERT_EQUAL(s, policy == TW_NONFINITE_ERROR ? TW_ERR_NONFINITE : TW_OK);
        for (int r = 0; r < P; r++) {
            CU_ASSERT_EQUAL(rep[r].bad_layer, 0);
            CU_ASSERT_EQUAL(rep[r].bad_rank, 2);
            CU_ASSERT_EQUAL(rep[r].verdict, policy == TW_NONFINITE_PROPAGATE ? TW_VERDICT_OK : TW_VERDICT_SKIPPED);
        }
        if (policy == TW_NONFINITE_PROPAGATE) {
            CU_ASSERT(isnan(w.out[0][5000]) && isnan(w.out[1][4096]) && isfinite(w.out[0][4095]));
            for (int r = 0; r < P; r++)
                CU_ASSERT(!memcmp(before + r * N + 4096, after + r * N + 4096, 4096 * 4));
        } else {
            CU_ASSERT(outputs_are(&w, 777.0f));
            CU_ASSERT(!memcmp(before, after, P * N * sizeof(float)));
        }
        w.in[2][5000] = 1;
        CU_ASSERT_EQUAL(step(&w, 3, NULL), TW_OK);
        CU_ASSERT(equal_outputs(&w) && isfinite(w.out[0][5000]));
        close_world(&w);
        free(before);
        free(after);
    }
}

/* ---- every allocation made to fail in turn ---- */

static atomic_long allocations, live, fail_at; /* local ranks are threads */
static _Atomic int64_t live_bytes;

/* Values of two sizes, so near each other that what rounding may cost is most of the bound: every rank's norm counts in
 * it, the owner's raw part like the others. Workers lose half of the distance in each value, an owner a sixth. */
static void test_bound_of_rounding(void) {
    const double apart = 0x1p-10;
    world w;
    tw_report rep[P];
    CU_ASSERT_EQUAL(open_world(&w, NULL, "*=onebit+ef", NULL), TW_OK);
    for (int r = 0; r < P; r++)
        for (int i = 0; i < N + 5; i++)
            w.in[r][i] = 1000.0f + (i % 2 ? (float)apart : 0.0f);
    for (int r = 0; r < P; r++)
        rep[r] = (tw_report)TW_REPORT_INIT;
    CU_ASSERT_EQUAL(step(&w, 0, rep), TW_OK);
    double norm = 1000.0 * sqrt(N + 5), dropped = ((P - 1.0) / P / 2 + 1.0 / 6) * apart * sqrt(N + 5);
    double due = (P + 4) * 0x1p-24 * (norm + norm) + dropped;
    CU_ASSERT(rep[0].error_bound > 0.99 * due);
    CU_ASSERT(rep[0].error_bound < 1.01 * due);
    close_world(&w);
}

/* The size stands in front of the block. */
static void *counting_alloc(void *arg, size_t bytes, size_t align) {
    (void)arg;
    if (++allocations == fail_at)
        return NULL;
    char *p = aligned_alloc(align, align + (bytes + align - 1) / align * align);
    if (!p)
        return NULL;
    live++;
    live_bytes += (int64_t)bytes;
    memcpy(p, &bytes, sizeof bytes);
    memcpy(p + align - sizeof align, &align, sizeof align);
    return p + align;
}

static void counting_release(void *arg, void *p) {
    size_t bytes, align;
    (void)arg;
    memcpy(&align, (char *)p - sizeof align, sizeof align);
    memcpy(&bytes, (char *)p - align, sizeof bytes);
    live--;
    live_bytes -= (int64_t)bytes;
    free((char *)p - align);
}

static void fail_every_allocation(const char *rules) {
    tw_status s = TW_ERR_NOMEM;
    long failures = 0;
    for (fail_at = 1; s < 0 && fail_at < 5000; fail_at++) {
        tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
        tw_ctx *ctx = NULL;
        world w = {0};
        allocations = live = 0;
        cfg.alloc = counting_alloc;
        cfg.release = counting_release;
        cfg.timeout_s = 0.5;
        s = tw_ctx_create(&cfg, &ctx);
        if (s >= 0) {
            s = open_world(&w, ctx, rules, NULL);
            if (s >= 0) {
                s = step(&w, 1, NULL);
                if (s < 0)
                    CU_ASSERT(outputs_are(&w, 777.0f) || equal_outputs(&w));
            }
            close_world(&w);
            CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
        }
        if (s < 0) {
            CU_ASSERT(strlen(tw_last_error()) > 0);
            failures++;
        }
        CU_ASSERT_EQUAL(live, 0);
    }
    printf("allocations made to fail: %ld under %s\n", failures, rules);
    CU_ASSERT_EQUAL(s, TW_OK);
    CU_ASSERT(failures > 50);
    fail_at = 0;
}

static void test_every_allocation_fails(void) {
    fail_every_allocation("*.bias=none;*=onebit+ef");
    fail_every_allocation("*=topk:density=0.1+ef");
    fail_every_allocation("*=randk:density=0.1+ef"); /* makes two plans and takes the better one */
}

/* Once a signature was used, a step allocates nothing. */
static void test_hot_path_allocates_nothing(void) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx = NULL;
    world w;
    fail_at = 0;
    cfg.alloc = counting_alloc;
    cfg.release = counting_release;
    CU_ASSERT_EQUAL(tw_ctx_create(&cfg, &ctx), TW_OK);
    CU_ASSERT_EQUAL(open_world(&w, ctx, "*=onebit+ef", NULL), TW_OK);
    CU_ASSERT_EQUAL(step(&w, 1, NULL), TW_OK);
    CU_ASSERT_EQUAL(step(&w, 2, NULL), TW_OK);
    long before = allocations;
    for (uint64_t k = 3; k < 10; k++)
        CU_ASSERT_EQUAL(step(&w, k, NULL), TW_OK);
    CU_ASSERT_EQUAL(allocations, before);
    close_world(&w);
    CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
}

/* ---- memory: what was said before, what is said now, what the allocator gave ---- */

static void memory_of(const char *what, const tw_layer *l, uint32_t n, const char *rules, tw_algo algo) {
    world w;
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_reducer_config rc = TW_REDUCER_CONFIG_INIT;
    tw_ctx *ctx = NULL;
    uint64_t sum = 0, at;
    fail_at = 0;
    cfg.alloc = counting_alloc;
    cfg.release = counting_release;
    rc.algo = algo;
    for (uint32_t i = 0; i < n; i++)
        sum += l[i].count;
    float *g = calloc(P * sum + 1, sizeof *g);
    CU_ASSERT_EQUAL(tw_ctx_create(&cfg, &ctx), TW_OK);
    CU_ASSERT_EQUAL(open_list(&w, ctx, l, n, rules, &rc), TW_OK);
    for (uint64_t k = 0; k < 6; k++) {
        for (uint32_t r = 0; r < P; r++) {
            CU_ASSERT_EQUAL(tw_reducer_begin(w.red[r], k, NULL), TW_OK);
            at = r * sum;
            for (uint32_t i = 0; i < n; at += l[i++].count)
                CU_ASSERT_EQUAL(tw_reducer_push(w.red[r], i, g + at, g + at), TW_OK);
        }
        for (int r = 0; r < P; r++)
            CU_ASSERT_EQUAL(tw_reducer_end(w.red[r], NULL), TW_OK);
    }
    for (int r = 0; r < P; r++) {
        tw_memory guess = TW_MEMORY_INIT, now = TW_MEMORY_INIT;
        CU_ASSERT_EQUAL(tw_reducer_estimate(r, P, l, n, rules, &rc, &guess), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_memory(w.red[r], &now), TW_OK);
        CU_ASSERT_EQUAL(guess.state_bytes, now.state_bytes);
        CU_ASSERT(guess.frame_bytes >= now.frame_bytes);
        CU_ASSERT(4 * now.frame_bytes >= 3 * guess.frame_bytes);
        int64_t held = live_bytes;
        CU_ASSERT_EQUAL(tw_reducer_destroy(w.red[r]), TW_OK);
        w.red[r] = NULL;
        held -= live_bytes;
        CU_ASSERT_EQUAL((uint64_t)held, now.state_bytes + now.frame_bytes);
        if (r == 0)
            printf("%s: estimate %llu, held %lld bytes\n", what,
                   (unsigned long long)(guess.state_bytes + guess.frame_bytes), (long long)held);
    }
    close_world(&w);
    CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
    free(g);
}

static void test_memory_estimate(void) {
    static const char phases[] = "*=none until 2 then cast:type=bf16 until 3 then onebit+ef until 5 then none";
    static const tw_layer large[] = {TW_LAYER("a", 50000), TW_LAYER("b", 50000), TW_LAYER("c", 0)};
    tw_layer small[60];
    char name[60][8];
    tw_memory guess = TW_MEMORY_INIT;
    for (int i = 0; i < 60; i++) {
        snprintf(name[i], sizeof name[i], "l%d", i);
        small[i] = (tw_layer)TW_LAYER(name[i], 100);
    }
    memory_of("two layers", large, 3, "*=onebit+ef", TW_ALGO_SRA);
    memory_of("two layers, four phases", large, 3, phases, TW_ALGO_SRA);
    memory_of("the same phase twice", large, 3, "*=cast until 2 then onebit until 4 then cast", TW_ALGO_SRA);
    memory_of("two layers, native", large, 3, NULL, TW_ALGO_NATIVE);
    memory_of("two sparse layers", large, 3, "*=topk+ef", TW_ALGO_SRA);
    memory_of("one sparse layer, without residual at first", large, 3,
              "b=topk:density=0.3,select=threshold until 3 then topk:select=group+ef; *=onebit", TW_ALGO_SRA);
    memory_of("many small layers", small, 60, "*=onebit+ef", TW_ALGO_SRA);
    memory_of("many small layers, four phases", small, 60, phases, TW_ALGO_SRA);
    CU_ASSERT_EQUAL(tw_reducer_estimate(3, 3, layers, 2, NULL, NULL, &guess), TW_ERR_ARG);
}

/* ---- threads: local ranks with the library's progress thread ---- */

static tw_comm *local[P];
static float local_out[P][N];

static void *local_main(void *arg) {
    int r = (int)(intptr_t)arg;
    tw_reducer *red = NULL;
    float *g = malloc(N * sizeof *g);
    long bad = tw_reducer_create(local[r], layers, 1, "*=onebit+ef", NULL, &red) < 0;
    for (uint64_t k = 0; !bad && k < 8; k++) {
        for (int i = 0; i < N; i++)
            g[i] = cosf((float)(i + r * 31) + (float)k);
        bad |= tw_reducer_begin(red, k, NULL) < 0;
        bad |= tw_reducer_push(red, 0, g, local_out[r]) < 0;
        bad |= tw_reducer_end(red, NULL) < 0;
    }
    bad |= tw_reducer_destroy(red) < 0;
    free(g);
    return (void *)(intptr_t)bad;
}

static void test_progress_thread(void) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx = NULL;
    pthread_t t[P];
    cfg.progress = TW_PROGRESS_THREAD;
    CU_ASSERT_EQUAL(tw_ctx_create(&cfg, &ctx), TW_OK);
    CU_ASSERT_EQUAL(tw_comm_create_local(ctx, P, local), TW_OK);
    for (intptr_t r = 0; r < P; r++)
        CU_ASSERT_EQUAL(pthread_create(&t[r], NULL, local_main, (void *)r), 0);
    for (int r = 0; r < P; r++) {
        void *bad;
        pthread_join(t[r], &bad);
        CU_ASSERT_PTR_NULL(bad);
    }
    CU_ASSERT(!memcmp(local_out[0], local_out[1], sizeof local_out[0]));
    CU_ASSERT(!memcmp(local_out[0], local_out[2], sizeof local_out[0]));
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(local[r]), TW_OK);
    CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
}

/* ---- pieces without values ---- */

/* They touch nothing: above all, the copy of the residuals that no op has written does not become the valid one. */
static void test_pieces_without_values(void) {
    static float before[P * N], after[P * N];
    world w;
    CU_ASSERT_EQUAL(open_world(&w, NULL, "*=onebit+ef", NULL), TW_OK);
    CU_ASSERT_EQUAL(step(&w, 0, NULL), TW_OK);
    CU_ASSERT_EQUAL(step(&w, 1, NULL), TW_OK);
    get_residuals(&w, before);
    for (int r = 0; r < P; r++) {
        tw_piece pieces[] = {TW_PIECE(0, 0, 0, w.in[r], w.out[r]), TW_PIECE(1, 0, 5, w.in[r] + N, w.out[r] + N)};
        CU_ASSERT_EQUAL(tw_reducer_begin(w.red[r], 2, NULL), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_post(w.red[r], pieces, 2, NULL), TW_OK);
    }
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_end(w.red[r], NULL), TW_OK);
    get_residuals(&w, after);
    CU_ASSERT(!memcmp(before, after, sizeof before));
    close_world(&w);
}

/* ---- some rank without layers ---- */

static void *without_layers_main(void *arg) {
    int r = (int)(intptr_t)arg;
    tw_reducer *red = NULL;
    long bad = tw_reducer_create(local[r], layers, r == 1 ? 0 : 2, NULL, NULL, &red) != TW_ERR_MISMATCH || red;
    bad |= !strstr(tw_last_error(), r == 1 ? "has 2 layers and rank 1 has 0" : "rank 1 has 0 layers and rank");
    bad |= tw_reducer_create(local[r], layers, r == 1 ? 1 : 2, NULL, NULL, &red) != TW_ERR_MISMATCH || red;
    bad |= !strstr(tw_last_error(), r == 1 ? "has 2 layers and rank 1 has 1" : "rank 1 has 1 layers and rank");
    bad |= tw_reducer_create(local[r], layers, 2, r == 1 ? "*=cast:type=bf16" : "*=onebit", NULL, &red) !=
               TW_ERR_MISMATCH ||
           red;
    bad |= !strstr(tw_last_error(),
                   r == 1 ? "rules of rank 0 differ from those of rank 1: they begin '*=onebit' and '*=cast:type=bf16'"
                          : "rules of rank 1 differ");
    bad |= tw_reducer_create(local[r], layers, 2, NULL, NULL, r == 1 ? NULL : &red) !=
               (r == 1 ? TW_ERR_ARG : TW_ERR_PEER) ||
           red;
    bad |= tw_reducer_create(local[r], layers, 2, NULL, NULL, &red) < 0; /* and it still works */
    bad |= tw_reducer_destroy(red) < 0;
    return (void *)(intptr_t)bad;
}

static void test_a_rank_without_layers(void) {
    pthread_t t[P];
    CU_ASSERT_EQUAL(tw_comm_create_local(NULL, P, local), TW_OK);
    for (intptr_t r = 0; r < P; r++)
        CU_ASSERT_EQUAL(pthread_create(&t[r], NULL, without_layers_main, (void *)r), 0);
    for (int r = 0; r < P; r++) {
        void *bad;
        pthread_join(t[r], &bad);
        CU_ASSERT_PTR_NULL(bad);
    }
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(local[r]), TW_OK);
}

/* ---- ops kept for their next use ---- */

static long kept_at[2];

/* tw_allreduce with 1,000 counts and back to the first: right, and its memory stops growing. */
static void *counts_main(void *arg) {
    int r = (int)(intptr_t)arg;
    long bad = 0;
    float x[1001];
    for (int n = 1; n <= 1001; n++) {
        int count = n > 1000 ? 1 : n;
        for (int i = 0; i < count; i++)
            x[i] = (float)(i + n + r);
        bad |= tw_allreduce(local[r], NULL, x, x, (uint64_t)count, TW_F32, TW_SUM) < 0;
        for (int i = 0; i < count; i++)
            bad |= x[i] != (float)(2 * (i + n) + 1);
        if (r == 0 && (n == 200 || n == 1000)) /* the other rank is at this call too, or at the next to it */
            kept_at[n == 1000] = live;
    }
    return (void *)(intptr_t)bad;
}

static void test_counts_are_forgotten(void) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx = NULL;
    pthread_t t[2];
    fail_at = 0;
    live = live_bytes = 0;
    cfg.alloc = counting_alloc;
    cfg.release = counting_release;
    CU_ASSERT_EQUAL(tw_ctx_create(&cfg, &ctx), TW_OK);
    CU_ASSERT_EQUAL(tw_comm_create_local(ctx, 2, local), TW_OK);
    for (intptr_t r = 0; r < 2; r++)
        CU_ASSERT_EQUAL(pthread_create(&t[r], NULL, counts_main, (void *)r), 0);
    for (int r = 0; r < 2; r++) {
        void *bad;
        pthread_join(t[r], &bad);
        CU_ASSERT_PTR_NULL(bad);
    }
    printf("memory after 1000 counts: %lld bytes\n", (long long)live_bytes);
    CU_ASSERT(kept_at[1] < kept_at[0] + kept_at[0] / 10);
    CU_ASSERT(live_bytes < 2 * 70 * (4 * 4096 * 4 + 20000));
    for (int r = 0; r < 2; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(local[r]), TW_OK);
    CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
    CU_ASSERT(live == 0 && live_bytes == 0);
}

enum { CUT_TILE = 128, CUT_TILES = (N + CUT_TILE - 1) / CUT_TILE };

static void post(world *w, int r, uint64_t first, uint64_t end) {
    tw_piece p = TW_PIECE(0, first, end - first, w->in[r] + first, w->out[r] + first);
    CU_ASSERT_EQUAL(tw_reducer_post(w->red[r], &p, 1, NULL), TW_OK);
}

/* One step of n ops of a tile each, and one over what is left of layer 0; shift: cut differently. */
static void cut_step(world *w, uint64_t number, uint32_t n, uint32_t shift) {
    for (int r = 0; r < P; r++) {
        CU_ASSERT_EQUAL(tw_reducer_begin(w->red[r], number, NULL), TW_OK);
        uint64_t at = shift * CUT_TILE;
        if (shift)
            post(w, r, 0, at);
        for (uint32_t i = 0; i < n; i++, at += CUT_TILE)
            post(w, r, at, at + CUT_TILE);
        post(w, r, at, N);
    }
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_reducer_end(w->red[r], NULL), TW_OK);
    CU_ASSERT(!memcmp(w->out[0], w->out[1], N * 4) && !memcmp(w->out[0], w->out[2], N * 4));
}

static void test_cuts_are_forgotten(void) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_reducer_config rc = TW_REDUCER_CONFIG_INIT;
    tw_memory m[2] = {TW_MEMORY_INIT, TW_MEMORY_INIT};
    tw_ctx *ctx = NULL;
    world w;
    uint64_t k = 0;
    fail_at = 0;
    cfg.alloc = counting_alloc;
    cfg.release = counting_release;
    rc.tile = CUT_TILE;
    CU_ASSERT_EQUAL(tw_ctx_create(&cfg, &ctx), TW_OK);
    CU_ASSERT_EQUAL(open_world(&w, ctx, "*=onebit:group=128+ef", &rc), TW_OK);
    for (uint32_t i = 0; i < CUT_TILES - 1; i++) { /* two or three ops a step, hardly ever the same */
        cut_step(&w, k++, 1, i);
        if (i == 40 || i == CUT_TILES - 2)
            CU_ASSERT_EQUAL(tw_reducer_memory(w.red[0], &m[i != 40]), TW_OK);
    }
    CU_ASSERT(m[1].frame_bytes < m[0].frame_bytes + m[0].frame_bytes / 4);
    for (int i = 0; i < 3; i++) { /* more ops a step than are kept otherwise, in two ways that take turns */
        cut_step(&w, k++, 80, 0);
        cut_step(&w, k++, 80, 7);
    }
    long before = allocations;
    for (int i = 0; i < 3; i++) {
        cut_step(&w, k++, 80, 0);
        cut_step(&w, k++, 80, 7);
    }
    CU_ASSERT_EQUAL(allocations, before);
    close_world(&w);
    CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
}

/* ---- a rank that never creates its reducer ---- */

static void *create_main(void *arg) {
    int r = (int)(intptr_t)arg;
    tw_reducer *red = NULL;
    long bad = tw_reducer_create(local[r], layers, 1, NULL, NULL, &red) != TW_ERR_TIMEOUT || red;
    bad |= !strstr(tw_last_error(), "tw_reducer_create") || !strstr(tw_last_error(), "rank 1 did not come");
    bad |= tw_reducer_create(local[r], layers, 1, NULL, NULL, &red) != TW_ERR_POISONED;
    return (void *)(intptr_t)bad;
}

static void test_a_rank_never_creates(void) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_ctx *ctx = NULL;
    tw_reducer *red = NULL;
    pthread_t t[P];
    cfg.timeout_s = 0.1;
    CU_ASSERT_EQUAL(tw_ctx_create(&cfg, &ctx), TW_OK);
    CU_ASSERT_EQUAL(tw_comm_create_local(ctx, P, local), TW_OK);
    for (intptr_t r = 0; r < P; r += 2)
        CU_ASSERT_EQUAL(pthread_create(&t[r], NULL, create_main, (void *)r), 0);
    for (int r = 0; r < P; r += 2) {
        void *bad;
        pthread_join(t[r], &bad);
        CU_ASSERT_PTR_NULL(bad);
    }
    CU_ASSERT_EQUAL(tw_comm_progress(local[1]), TW_ERR_POISONED); /* it hears of it as soon as it looks */
    unit_has(tw_last_error(), "rank 1 did not come");
    CU_ASSERT_EQUAL(tw_reducer_create(local[1], layers, 1, NULL, NULL, &red), TW_ERR_POISONED);
    for (int r = 0; r < P; r++)
        CU_ASSERT_EQUAL(tw_comm_destroy(local[r]), TW_OK);
    CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(test_creation_errors),
        UNIT_TEST(test_rules_refused),
        UNIT_TEST(test_call_order),
        UNIT_TEST(test_overlaps),
        UNIT_TEST(test_requests),
        UNIT_TEST(test_discard_and_reset),
        UNIT_TEST(test_nonfinite),
        UNIT_TEST(test_bound_of_rounding),
        UNIT_TEST(test_memory_estimate),
        UNIT_TEST(test_every_allocation_fails),
        UNIT_TEST(test_progress_thread),
        UNIT_TEST(test_hot_path_allocates_nothing),
        UNIT_TEST(test_pieces_without_values),
        UNIT_TEST(test_a_rank_without_layers),
        UNIT_TEST(test_counts_are_forgotten),
        UNIT_TEST(test_cuts_are_forgotten),
        UNIT_TEST(test_a_rank_never_creates),
    };
    return unit_main("reducer", tests, UNIT_COUNT(tests));
}
