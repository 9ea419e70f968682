/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which table of loops runs: the best that this CPU can, or what THINWIRE_ISA names. */
#include <stdatomic.h>
#include "exec/kernels.h"

/* All tables of this build, best last. */
static const tw_kernels *const tables[] = {
    &tw_kernels_ref,
#if defined(__x86_64__)
    &tw_kernels_avx2,
    &tw_kernels_avx512,
#elif defined(__aarch64__)
    &tw_kernels_neon,
#endif
};

#define TABLES TW_ARRAY_LEN(tables)

/* tw_cpu_has, asked once: cpuid costs microseconds under a hypervisor. Threads that race here store the same answer. */
static bool can_run(const tw_kernels *k) {
    enum { UNKNOWN, YES, NO };
    static _Atomic(int) answers[TW_ISA_COUNT];
    int answer = atomic_load_explicit(&answers[k->isa], memory_order_relaxed);
    if (answer == UNKNOWN) {
        answer = tw_cpu_has(k->isa) ? YES : NO;
        atomic_store_explicit(&answers[k->isa], answer, memory_order_relaxed);
    }
    return answer == YES;
}

static const tw_kernels *find(const char *isa) {
    for (size_t i = 0; i < TABLES; i++)
        if (!strcmp(isa, tables[i]->name))
            return tables[i];
    return NULL;
}

const tw_kernels *tw_kernels_named(const char *isa) {
    const tw_kernels *k = find(isa);
    if (!k) {
        const char *names[TABLES];
        for (size_t i = 0; i < TABLES; i++)
            names[i] = tables[i]->name;
        tw_fail(TW_ERR_UNSUPPORTED, "this build has no ISA \"%.32s\"; did you mean \"%s\"?", isa,
                tw_nearest_word(isa, strlen(isa), names, TABLES));
        return NULL;
    }
    if (!can_run(k)) {
        tw_fail(TW_ERR_UNSUPPORTED, "this CPU cannot run ISA \"%s\"", isa);
        return NULL;
    }
    return k;
}

/* Index of the best table that this CPU can run. */
static size_t best_index(void) {
    size_t best = 0;
    for (size_t i = 1; i < TABLES; i++)
        if (can_run(tables[i]))
            best = i;
    return best;
}

/* What THINWIRE_ISA and the CPU lead to, and the reason in words. */
static const tw_kernels *choose(const char **why) {
    const char *forced = tw_env_get()->isa;
    const tw_kernels *k = forced ? find(forced) : NULL;
    if (k && can_run(k)) {
        *why = "THINWIRE_ISA asks for it";
        return k;
    }
    *why = !forced ? "the best that this CPU can run"
           : k     ? "the best that this CPU can run; it cannot run what THINWIRE_ISA asks for"
                   : "the best that this CPU can run; this build lacks what THINWIRE_ISA asks for";
    return tables[best_index()];
}

/* The choice never changes in a process, so threads that race here store the same pointer. */
const tw_kernels *tw_kernels_best(void) {
    static _Atomic(const tw_kernels *) chosen;
    const tw_kernels *k = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (!k) {
        const char *why;
        k = choose(&why);
        atomic_store_explicit(&chosen, k, memory_order_relaxed);
    }
    return k;
}

/* Each ISA implies those before it, so the lists are constants. */
const char *const *tw_isa_list(void) {
#if defined(__aarch64__)
    static const char *const lists[][3] = {{"ref"}, {"ref", "neon"}};
#else
    static const char *const lists[][4] = {{"ref"}, {"ref", "avx2"}, {"ref", "avx2", "avx512"}};
#endif
    return lists[best_index()];
}

const char *tw_isa_chosen(const char **why) {
    const char *reason;
    const tw_kernels *k = choose(&reason);
    if (why)
        *why = reason;
    return k->name;
}
