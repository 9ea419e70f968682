/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What every unit test program shares: the runner around CUnit, skips by name, and random numbers from a seed.
 * The last line of a program is "N passed, N failed"; its exit status is 0 only without failures. */
#ifndef UNIT_H
#define UNIT_H

#include <CUnit/CUnit.h>
#include <CUnit/TestDB.h>
#include <CUnit/TestRun.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct unit_test {
    const char *name;
    void (*run)(void);
} unit_test;

#define UNIT_TEST(function) \
    { #function, function }
#define UNIT_COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Random numbers (splitmix64). */
typedef struct unit_rng {
    uint64_t state;
} unit_rng;

static inline uint64_t unit_next(unit_rng *r) {
    uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* 0 .. n-1 */
static inline uint32_t unit_below(unit_rng *r, uint32_t n) {
    return (uint32_t)((unit_next(r) >> 32) * n >> 32);
}

/* [-1, 1) */
static inline float unit_float(unit_rng *r) {
    return (float)((double)(unit_next(r) >> 11) * 0x1p-52 - 1.0);
}

/* A generator for one test; TEST_SEED=N in the environment tries other numbers. The seed is printed. */
static inline unit_rng unit_seeded(const char *test) {
    const char *text = getenv("TEST_SEED");
    unit_rng r = {text ? strtoull(text, NULL, 0) : 1};
    printf("%s: TEST_SEED=%llu\n", test, (unsigned long long)r.state);
    return r;
}

/* TEST_SHARE=N: long loops over cases do every Nth, where a machine is emulated, say; 1 without. */
static inline uint32_t unit_share(void) {
    const char *text = getenv("TEST_SHARE");
    uint32_t share = text ? (uint32_t)strtoul(text, NULL, 10) : 1;
    return share ? share : 1;
}

static inline uint32_t unit_bits(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static inline float unit_from_bits(uint32_t b) {
    float x;
    memcpy(&x, &b, sizeof x);
    return x;
}

/* Says that the running test could not be done here: named, and not counted as passed. Return from it afterwards. */
static unsigned unit_skipped;
static inline void unit_skip(const char *why) {
    unit_skipped++;
    printf("SKIPPED %s: %s\n", CU_get_current_test()->pName, why);
}

/* Asserts that the text has the part, and shows the text if not. */
static inline void unit_has(const char *text, const char *part) {
    int there = strstr(text, part) != NULL;
    if (!there)
        printf("\n\"%s\"\n  lacks \"%s\"\n", text, part);
    CU_ASSERT(there);
}

/* In every log, so that the slow ones are known. */
static clock_t unit_begun;
static inline void unit_begin_clock(const CU_pTest test, const CU_pSuite suite) {
    (void)test;
    (void)suite;
    unit_begun = clock();
}
static inline void unit_print_clock(const CU_pTest test, const CU_pSuite suite, const CU_pFailureRecord failed) {
    double s = (double)(clock() - unit_begun) / CLOCKS_PER_SEC;
    (void)suite;
    (void)failed;
    if (s >= 0.1)
        printf("%s: %.1f s of processor time\n", test->pName, s);
}

static inline int unit_main(const char *suite, const unit_test *tests, size_t n) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite s = CU_add_suite(suite, NULL, NULL);
    for (size_t i = 0; s && i < n; i++)
        if (!CU_add_test(s, tests[i].name, tests[i].run))
            s = NULL;
    if (!s) {
        fprintf(stderr, "%s: %s\n", suite, CU_get_error_msg());
        CU_cleanup_registry();
        return 2;
    }
    CU_set_test_start_handler(unit_begin_clock);
    CU_set_test_complete_handler(unit_print_clock);
    CU_run_all_tests();
    for (CU_pFailureRecord f = CU_get_failure_list(); f; f = f->pNext)
        printf("FAILED %s: %s:%u: %s\n", f->pTest ? f->pTest->pName : suite, f->strFileName, f->uiLineNumber,
               f->strCondition);
    unsigned run = CU_get_number_of_tests_run(), failed = CU_get_number_of_tests_failed();
    unsigned passed = run - failed > unit_skipped ? run - failed - unit_skipped : 0;
    int all_ran = run == n;
    printf("%s: %u asserts\n%u passed, %u failed\n", suite, CU_get_number_of_asserts(), passed,
           failed + (unsigned)(n - run));
    CU_cleanup_registry();
    return all_ran && failed == 0 ? 0 : 1;
}

#endif
