/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Status, contexts, memory, log and topology. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include "transports/topo.h"
#include "unit.h"

#include <math.h>
#include <pthread.h>
#include <unistd.h>

/* ---- status ---- */

static void every_status_has_a_name_and_a_text(void) {
    static const struct {
        tw_status s;
        const char *name;
    } all[] = {
#define TW_X(name, value, text) {TW_##name, "TW_" #name},
        TW_STATUS_MAP(TW_X)
#undef TW_X
    };
    for (size_t i = 0; i < UNIT_COUNT(all); i++) {
        CU_ASSERT_STRING_EQUAL(tw_status_name(all[i].s), all[i].name);
        CU_ASSERT(strlen(tw_status_text(all[i].s)) > 3);
        for (size_t j = 0; j < i; j++) {
            CU_ASSERT_NOT_EQUAL(all[i].s, all[j].s);
            CU_ASSERT_STRING_NOT_EQUAL(tw_status_text(all[i].s), tw_status_text(all[j].s));
        }
    }
    CU_ASSERT_STRING_EQUAL(tw_status_name(TW_ERR_ARG), "TW_ERR_ARG");
    CU_ASSERT_STRING_EQUAL(tw_status_text(TW_ERR_ARG), "bad argument");
    CU_ASSERT_STRING_EQUAL(tw_status_name((tw_status)-99), "TW_STATUS_?");
    CU_ASSERT_STRING_EQUAL(tw_status_name((tw_status)2), "TW_STATUS_?");
    CU_ASSERT_STRING_EQUAL(tw_status_text((tw_status)-99), "unknown status");
}

static void sentences_are_one_bounded_line(void) {
    char far[2 * TW_SENTENCE];
    CU_ASSERT_EQUAL(tw_fail(TW_ERR_PEER, "rank %d %s", 3, "is\tgone\n"), TW_ERR_PEER);
    CU_ASSERT_STRING_EQUAL(tw_last_error(), "rank 3 is?gone?");
    CU_ASSERT_EQUAL(tw_fail(TW_ERR_ARG, "rule 2: %s", tw_last_error()), TW_ERR_ARG); /* its own buffer */
    CU_ASSERT_STRING_EQUAL(tw_last_error(), "rule 2: rank 3 is?gone?");
    tw_set_error(tw_last_error() + 8);
    CU_ASSERT_STRING_EQUAL(tw_last_error(), "rank 3 is?gone?");
    memset(far, 'a', sizeof far);
    far[sizeof far - 1] = '\0';
    tw_fail(TW_ERR_ARG, "%s", far);
    CU_ASSERT_EQUAL(strlen(tw_last_error()), TW_SENTENCE - 1);
    tw_set_error(NULL);
    CU_ASSERT_STRING_EQUAL(tw_last_error(), "");
}

enum { THREADS = 8, ROUNDS = 20000 };

static void *own_sentence(void *arg) {
    int me = (int)(intptr_t)arg;
    char mine[32];
    intptr_t wrong = *tw_last_error() != '\0';
    snprintf(mine, sizeof mine, "thread %d", me);
    for (int i = 0; i < ROUNDS; i++) {
        tw_fail(TW_ERR_ARG, "thread %d", me);
        wrong += strcmp(tw_last_error(), mine) != 0;
    }
    return (void *)wrong;
}

static void *same_default(void *arg) {
    tw_ctx *c = NULL;
    intptr_t wrong = 0;
    for (int i = 0; i < ROUNDS; i++) {
        wrong += tw_ctx_resolve(NULL, &c) != TW_OK || !c || !c->is_default;
        tw_ctx_retain(arg);
        if (i % 2)
            tw_ctx_release(arg);
    }
    return (void *)wrong;
}

/* Sum of what the threads return. */
static intptr_t in_threads(void *(*f)(void *), void *const args[THREADS]) {
    pthread_t t[THREADS];
    intptr_t sum = 0;
    for (int i = 0; i < THREADS; i++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&t[i], NULL, f, args[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(t[i], &result);
        sum += (intptr_t)result;
    }
    return sum;
}

static void every_thread_has_its_sentence(void) {
    void *args[THREADS];
    for (int i = 0; i < THREADS; i++)
        args[i] = (void *)(intptr_t)i;
    CU_ASSERT_EQUAL(in_threads(own_sentence, args), 0);
}

static void version_is_told(void) {
    unsigned major = 0, minor = 0, patch = 0;
    CU_ASSERT_EQUAL(sscanf(tw_version_string(), "%u.%u.%u", &major, &minor, &patch), 3);
    CU_ASSERT_EQUAL(tw_version(), major * 10000 + minor * 100 + patch);
}

/* ---- context ---- */

typedef struct counting {
    int fail_at, calls, alive, logged, last_level;
    size_t skew;
    uint64_t bytes;
    char line[TW_SENTENCE];
} counting;

static void *counting_alloc(void *arg, size_t bytes, size_t align) {
    counting *a = arg;
    CU_ASSERT(align >= 64 && (align & (align - 1)) == 0);
    if (a->calls++ == a->fail_at)
        return NULL;
    unsigned char *p = aligned_alloc(align, (bytes + 2 * align) / align * align);
    if (p)
        memset(p, 0xa5, bytes + align); /* dirty on purpose */
    a->bytes = bytes;
    a->alive++;
    return p + a->skew;
}

static void counting_release(void *arg, void *p) {
    counting *a = arg;
    a->alive--;
    free((unsigned char *)p - a->skew);
}

static void counting_log(void *arg, int level, const char *line) {
    counting *a = arg;
    a->logged++;
    a->last_level = level;
    snprintf(a->line, sizeof a->line, "%s", line);
}

static tw_ctx_config counting_config(counting *a) {
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    memset(a, 0, sizeof *a);
    a->fail_at = -1;
    cfg.alloc = counting_alloc;
    cfg.release = counting_release;
    cfg.alloc_arg = a;
    cfg.log = counting_log;
    cfg.log_arg = a;
    return cfg;
}

static void contexts_have_no_holes(void) {
    tw_ctx *c = NULL;
    tw_ctx_config zero = TW_CTX_CONFIG_INIT;
    for (int i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL(tw_ctx_create(i ? &zero : NULL, &c), TW_OK);
        CU_ASSERT(c->cfg.alloc && c->cfg.release && c->cfg.log);
        CU_ASSERT_EQUAL(c->cfg.timeout_s, 120.0);
        CU_ASSERT_EQUAL(c->cfg.progress, TW_PROGRESS_POLL);
        CU_ASSERT_EQUAL(c->users, 0);
        CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_OK);
    }
    CU_ASSERT_EQUAL(tw_ctx_destroy(NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_ctx_create(NULL, NULL), TW_ERR_ARG);
}

static void older_callers_get_defaults_for_the_rest(void) {
    counting a;
    tw_ctx_config cfg = counting_config(&a);
    const uint32_t least = offsetof(tw_ctx_config, log);
    cfg.timeout_s = -3.0; /* wrong, but beyond what the caller has */
    cfg.progress = (tw_progress)99;
    for (uint32_t size = 0; size <= sizeof cfg; size++) {
        tw_ctx *c = NULL;
        cfg.size = size;
        tw_status s = tw_ctx_create(&cfg, &c);
        bool fits = size >= least && size < offsetof(tw_ctx_config, timeout_s) + sizeof(double);
        CU_ASSERT_EQUAL(s, fits ? TW_OK : TW_ERR_ARG);
        if (s != TW_OK) {
            CU_ASSERT_PTR_NULL(c);
            unit_has(tw_last_error(), "tw_ctx_create: ");
            continue;
        }
        CU_ASSERT_EQUAL(c->cfg.size, sizeof cfg);
        CU_ASSERT_EQUAL(c->cfg.timeout_s, 120.0);
        CU_ASSERT_EQUAL(c->cfg.progress, TW_PROGRESS_POLL);
        CU_ASSERT_EQUAL(c->cfg.log == counting_log, size >= offsetof(tw_ctx_config, log_arg));
        CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_OK);
    }
    CU_ASSERT_EQUAL(a.alive, 0);
}

static void wrong_configs_are_named(void) {
    counting a;
    const tw_ctx_config good = counting_config(&a);
    tw_ctx_config bad[10];
    const char *sentences[10] = {"api_version 0",
                                 "api_version 2, this library knows 1..1",
                                 "size 0",
                                 "alloc is given without release",
                                 "release is given without alloc",
                                 "timeout_s -1",
                                 "timeout_s nan",
                                 "timeout_s inf",
                                 "progress 3",
                                 "size 4294967295"};
    for (size_t i = 0; i < UNIT_COUNT(bad); i++)
        bad[i] = good;
    bad[0].api_version = 0;
    bad[1].api_version = TW_API_VERSION + 1;
    bad[2].size = 0;
    bad[3].release = NULL;
    bad[4].alloc = NULL;
    bad[5].timeout_s = -1.0;
    bad[6].timeout_s = (double)NAN;
    bad[7].timeout_s = (double)INFINITY;
    bad[8].progress = (tw_progress)3;
    bad[9].size = UINT32_MAX;
    for (size_t i = 0; i < UNIT_COUNT(bad); i++) {
        tw_ctx *c = (tw_ctx *)&a;
        CU_ASSERT_EQUAL(tw_ctx_create(&bad[i], &c), TW_ERR_ARG);
        CU_ASSERT_PTR_EQUAL(c, &a);
        unit_has(tw_last_error(), sentences[i]);
    }
    CU_ASSERT_EQUAL(a.calls, 0);
}

static void a_used_context_stays(void) {
    tw_ctx *c;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(NULL, &c), TW_OK);
    tw_ctx_retain(c);
    tw_ctx_retain(c);
    CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_ERR_ARG);
    unit_has(tw_last_error(), "still used by 2 ");
    tw_ctx_release(c);
    CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_ERR_ARG);
    tw_ctx_release(c);
    CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_OK);
}

static void the_default_context_is_one_for_all_threads(void) {
    tw_ctx *c, *d = NULL, *e = NULL;
    void *args[THREADS];
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(NULL, &c), TW_OK);
    for (int i = 0; i < THREADS; i++)
        args[i] = c;
    CU_ASSERT_EQUAL(in_threads(same_default, args), 0);
    CU_ASSERT_EQUAL(c->users, THREADS * ROUNDS / 2);
    c->users = 0;
    CU_ASSERT_EQUAL(tw_ctx_resolve(c, &d), TW_OK);
    CU_ASSERT_PTR_EQUAL(c, d);
    CU_ASSERT_EQUAL(tw_ctx_resolve(NULL, &d), TW_OK);
    CU_ASSERT_EQUAL(tw_ctx_resolve(NULL, &e), TW_OK);
    CU_ASSERT_PTR_EQUAL(d, e);
    CU_ASSERT(d->is_default && d->cfg.timeout_s == 120.0);
    CU_ASSERT_EQUAL(tw_ctx_destroy(d), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_OK);
}

static void memory_is_zeroed_and_aligned(void) {
    static const uint64_t sizes[] = {0, 1, 63, 64, 65, 4096, 1 << 20, (1 << 20) + 1, 5 << 20};
    counting a;
    tw_ctx_config cfg = counting_config(&a);
    tw_ctx *mine, *plain;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &mine), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(NULL, &plain), TW_OK);
    for (size_t i = 0; i < 2 * UNIT_COUNT(sizes); i++) {
        tw_ctx *c = i % 2 ? mine : plain;
        uint64_t n = sizes[i / 2], dirty = 0;
        unsigned char *p = tw_alloc(c, n);
        CU_ASSERT_PTR_NOT_NULL_FATAL(p);
        CU_ASSERT_EQUAL((uintptr_t)p % 64, 0);
        for (uint64_t k = 0; k < n; k++)
            dirty += p[k];
        CU_ASSERT_EQUAL(dirty, 0);
        memset(p, 1, n);
        tw_free(c, p);
    }
    tw_free(mine, NULL);
    CU_ASSERT_EQUAL(tw_ctx_destroy(plain), TW_OK);
    CU_ASSERT_EQUAL(tw_ctx_destroy(mine), TW_OK);
    CU_ASSERT_EQUAL(a.alive, 0);
}

static void refused_memory_is_a_status(void) {
    counting a;
    tw_ctx_config cfg = counting_config(&a);
    tw_ctx *c = NULL;
    a.fail_at = 0;
    CU_ASSERT_EQUAL(tw_ctx_create(&cfg, &c), TW_ERR_NOMEM);
    CU_ASSERT_PTR_NULL(c);
    unit_has(tw_last_error(), "refused");
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &c), TW_OK);
    a.fail_at = a.calls;
    CU_ASSERT_PTR_NULL(tw_alloc(c, 12345));
    unit_has(tw_last_error(), "refused 12345 bytes");
    int calls = a.calls;
    CU_ASSERT_PTR_NULL(tw_alloc(c, UINT64_MAX)); /* no size_t wraps on its way to the allocator */
    CU_ASSERT_PTR_NULL(tw_alloc(c, UINT64_MAX - 63));
    CU_ASSERT_PTR_NULL(tw_alloc(c, UINT64_C(1) << 63));
    CU_ASSERT_EQUAL(a.calls, calls);
    CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_OK);
    a.skew = 16;
    CU_ASSERT_EQUAL(tw_ctx_create(&cfg, &c), TW_ERR_NOMEM);
    unit_has(tw_last_error(), "not aligned to 64");
    CU_ASSERT_EQUAL(a.alive, 0);
}

static void logs_go_to_the_callers_function(void) {
    counting a;
    tw_ctx_config cfg = counting_config(&a);
    tw_ctx *c;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &c), TW_OK);
    tw_log(c, TW_LOG_DEBUG, "rank %d", 7);
    CU_ASSERT_EQUAL(a.logged, 1);
    CU_ASSERT_EQUAL(a.last_level, TW_LOG_DEBUG);
    CU_ASSERT_STRING_EQUAL(a.line, "rank 7");
    CU_ASSERT_EQUAL(tw_ctx_destroy(c), TW_OK);
}

/* ---- topology ---- */

static void the_topology_is_plausible(void) {
    uint32_t cores = 0;
    uint64_t l2 = 0;
    const char *source = NULL;
    tw_topology(&cores, &l2, &source);
    tw_topology(NULL, NULL, NULL);
    CU_ASSERT(cores >= 1 && cores <= (uint32_t)sysconf(_SC_NPROCESSORS_CONF));
    CU_ASSERT(l2 < UINT64_C(1) << 32);
    CU_ASSERT_PTR_EQUAL(source, tw_topo_get()->source);
#ifdef HAVE_HWLOC
    unit_has(source, "hwloc ");
#else
    unit_has(source, "without hwloc");
#endif
    printf("topology: %u cores, L2 %llu bytes, by %s\n", cores, (unsigned long long)l2, source);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(every_status_has_a_name_and_a_text),
        UNIT_TEST(sentences_are_one_bounded_line),
        UNIT_TEST(every_thread_has_its_sentence),
        UNIT_TEST(version_is_told),
        UNIT_TEST(contexts_have_no_holes),
        UNIT_TEST(older_callers_get_defaults_for_the_rest),
        UNIT_TEST(wrong_configs_are_named),
        UNIT_TEST(a_used_context_stays),
        UNIT_TEST(the_default_context_is_one_for_all_threads),
        UNIT_TEST(memory_is_zeroed_and_aligned),
        UNIT_TEST(refused_memory_is_a_status),
        UNIT_TEST(logs_go_to_the_callers_function),
        UNIT_TEST(the_topology_is_plausible),
    };
    unsetenv("THINWIRE_TIMEOUT"); /* whoever runs the tests may have set it */
    return unit_main("core", tests, UNIT_COUNT(tests));
}
