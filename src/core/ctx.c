/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Contexts: allocator, log, deadline and progress mode. The only place that takes memory from the system, and (in the
 * default log, when THINWIRE_LOG asks) the only one that writes to stderr. */
#include "core/core.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define DEFAULT_TIMEOUT_S 120.0

/* Residuals are streamed once a step, a page fault or a TLB miss every 4 KiB would show: ask for huge pages. */
static void *default_alloc(void *arg, size_t bytes, size_t align) {
    const size_t huge = (size_t)2 << 20;
    (void)arg;
    if (bytes < 2 * huge)
        return aligned_alloc(align, bytes);
    void *p = aligned_alloc(huge, tw_round_up(bytes, huge));
#ifdef MADV_HUGEPAGE
    if (p)
        (void)madvise(p, bytes, MADV_HUGEPAGE); /* advice: where it is refused, small pages do */
#endif
    return p;
}

static void default_release(void *arg, void *p) {
    (void)arg;
    free(p);
}

static void default_log(void *arg, int level, const char *line) {
    static const char *const names[] = {"?", "error", "warn", "info", "debug"};
    char text[TW_SENTENCE + 32];
    (void)arg;
    if (level > tw_env_get()->log_level)
        return;
    snprintf(text, sizeof text, "thinwire: %s: %s\n", names[level >= 1 && level <= 4 ? level : 0], line);
    fputs(text, stderr);
}

/* What the user left open. */
static void fill_defaults(tw_ctx_config *c) {
    const tw_env *env = tw_env_get();
    if (!c->alloc) {
        c->alloc = default_alloc;
        c->release = default_release;
    }
    if (!c->log)
        c->log = default_log;
    if (c->timeout_s == 0.0)
        c->timeout_s = env->timeout_s > 0.0 ? env->timeout_s : DEFAULT_TIMEOUT_S;
    if (!c->progress)
        c->progress = TW_PROGRESS_POLL;
    c->size = sizeof *c;
    c->api_version = TW_API_VERSION;
}

static tw_status take_config(const tw_ctx_config *given, tw_ctx_config *c) {
    memset(c, 0, sizeof *c);
    tw_status s = tw_sized_take(TW_SIZED(tw_ctx_config, log), "tw_ctx_create", given, c);
    if (s < 0)
        return s;
    if (c->api_version == 0 || c->api_version > TW_API_VERSION)
        return tw_fail(TW_ERR_ARG, "tw_ctx_create: api_version %u, this library knows 1..%u (use TW_CTX_CONFIG_INIT)",
                       c->api_version, TW_API_VERSION);
    if (!c->alloc != !c->release)
        return tw_fail(TW_ERR_ARG, "tw_ctx_create: %s is given without %s", c->alloc ? "alloc" : "release",
                       c->alloc ? "release" : "alloc");
    if (!(c->timeout_s >= 0.0 && c->timeout_s <= TW_TIMEOUT_MAX)) /* catches NaN too */
        return tw_fail(TW_ERR_ARG, "tw_ctx_create: timeout_s %g, must be 0 (default) or seconds up to 1e9",
                       c->timeout_s);
    if ((uint32_t)c->progress > TW_PROGRESS_THREAD)
        return tw_fail(TW_ERR_ARG, "tw_ctx_create: progress %u, must be 0 (default), 1 (poll) or 2 (thread)",
                       (unsigned)c->progress);
    return TW_OK;
}

static tw_status check_env(void) {
    const tw_env *env = tw_env_get();
    return env->status < 0 ? tw_fail(env->status, "%s", env->problem) : TW_OK;
}

tw_status tw_ctx_create(const tw_ctx_config *cfg, tw_ctx **out) {
    static const tw_ctx_config all_default = TW_CTX_CONFIG_INIT;
    tw_ctx made;
    if (!out)
        return tw_fail(TW_ERR_ARG, "tw_ctx_create: out is NULL");
    memset(&made, 0, sizeof made);
    tw_status s = take_config(cfg ? cfg : &all_default, &made.cfg);
    if (s == TW_OK)
        s = check_env();
    if (s != TW_OK)
        return s;
    fill_defaults(&made.cfg);
    tw_ctx *c = tw_alloc(&made, sizeof *c);
    if (!c)
        return TW_ERR_NOMEM;
    c->cfg = made.cfg;
    *out = c;
    return TW_OK;
}

tw_status tw_ctx_destroy(tw_ctx *c) {
    if (!c)
        return TW_OK;
    if (c->is_default)
        return tw_fail(TW_ERR_ARG, "tw_ctx_destroy: the default context stays");
    uint32_t users = c->users;
    if (users)
        return tw_fail(TW_ERR_ARG, "tw_ctx_destroy: still used by %u communicator(s) or simulator(s)", users);
    c->cfg.release(c->cfg.alloc_arg, c);
    return TW_OK;
}

static tw_ctx default_ctx;

static void make_default(void) {
    fill_defaults(&default_ctx.cfg);
    default_ctx.is_default = true;
}

tw_status tw_ctx_resolve(tw_ctx *given, tw_ctx **out) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (given) {
        *out = given;
        return TW_OK;
    }
    tw_status s = check_env();
    if (s != TW_OK)
        return s;
    pthread_once(&once, make_default);
    *out = &default_ctx;
    return TW_OK;
}

tw_progress tw_ctx_progress(const tw_ctx *c) {
    return c ? c->cfg.progress : TW_PROGRESS_POLL; /* the default context polls */
}

void tw_ctx_retain(tw_ctx *c) {
    c->users++;
}

void tw_ctx_release(tw_ctx *c) {
    c->users--;
}

void *tw_alloc_raw(tw_ctx *c, uint64_t bytes) {
    void *p = NULL;
    if (bytes <= PTRDIFF_MAX - TW_ALIGN) {
        size_t rounded = (size_t)tw_held(bytes); /* aligned_alloc wants a multiple */
        p = c->cfg.alloc(c->cfg.alloc_arg, rounded, TW_ALIGN);
        if (p && (uintptr_t)p % TW_ALIGN != 0) {
            c->cfg.release(c->cfg.alloc_arg, p);
            tw_fail(TW_ERR_NOMEM, "the allocator's memory is not aligned to %u bytes", TW_ALIGN);
            return NULL;
        }
    }
    if (!p)
        tw_fail(TW_ERR_NOMEM, "the allocator refused %llu bytes", (unsigned long long)bytes);
    return p;
}

void *tw_alloc(tw_ctx *c, uint64_t bytes) {
    void *p = tw_alloc_raw(c, bytes);
    if (p)
        memset(p, 0, (size_t)tw_held(bytes));
    return p;
}

void tw_free(tw_ctx *c, void *p) {
    if (p)
        c->cfg.release(c->cfg.alloc_arg, p);
}

/* A program's own function gets all levels and chooses itself. */
bool tw_logs(const tw_ctx *c, int level) {
    return c->cfg.log != default_log || level <= tw_env_get()->log_level;
}

void tw_log(tw_ctx *c, int level, const char *format, ...) {
    char line[TW_SENTENCE];
    va_list args;
    if (!tw_logs(c, level))
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    tw_one_line(line);
    c->cfg.log(c->cfg.log_arg, level, line);
}
