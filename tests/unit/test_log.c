/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the log says of a life: each thing once, at its level, in one line. */
#include "unit.h"
#include <math.h>
#include <thinwire/thinwire.h>

enum { N = 5000 };

typedef struct journal {
    char text[1 << 14];
    size_t at;
    uint32_t lines[5];
} journal;

static void keep_line(void *arg, int level, const char *line) {
    journal *j = arg;
    CU_ASSERT_FATAL(level >= 1 && level <= 4);
    CU_ASSERT_PTR_NULL(strchr(line, '\n'));
    j->lines[level]++;
    j->at += (size_t)snprintf(j->text + j->at, sizeof j->text - j->at, "%d %s\n", level, line);
}

static void one_step(tw_reducer *red, uint64_t step, float first) {
    static float x[N];
    x[0] = first;
    CU_ASSERT_EQUAL(tw_reducer_begin(red, step, NULL), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_push(red, 1, x + N - 5, x + N - 5), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_push(red, 0, x, x), TW_OK);
    CU_ASSERT_EQUAL(tw_reducer_end(red, NULL), TW_OK);
}

static void test_a_life(void) {
    static const tw_layer list[] = {TW_LAYER("net.weight", N - 5), TW_LAYER("net\nbias", 5)};
    static journal j;
    tw_ctx_config cfg = TW_CTX_CONFIG_INIT;
    tw_reducer_config rc = TW_REDUCER_CONFIG_INIT;
    tw_ctx *ctx = NULL;
    tw_comm *comm = NULL;
    tw_reducer *red = NULL;
    cfg.log = keep_line;
    cfg.log_arg = &j;
    rc.nonfinite = TW_NONFINITE_SKIP;
    CU_ASSERT_EQUAL_FATAL(tw_ctx_create(&cfg, &ctx), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(ctx, 1, &comm), TW_OK);
    unit_has(j.text, "3 rank 0 of 1: communicator over local, progress poll; codecs run as ");
    CU_ASSERT_EQUAL_FATAL(tw_reducer_create(comm, list, 2, "*=onebit+ef", &rc, &red), TW_OK);
    unit_has(j.text, "3 rank 0: reducer of 2 layers, 5000 values, in 1 buckets; ");
    unit_has(j.text, " bytes of state; rules '*=onebit+ef'\n");
    one_step(red, 0, 1.0f);
    unit_has(j.text, "4 rank 0: planned allreduce of 2 layers, first 'net?bias': ");
    unit_has(j.text, "4 rank 0: step 0 ended well; ");
    CU_ASSERT_EQUAL(j.lines[4], 2);
    one_step(red, 1, NAN);
    unit_has(j.text, "4 rank 0: step 1 was skipped; ");
    CU_ASSERT_EQUAL(j.lines[4], 3); /* a plan is made once */
    CU_ASSERT_EQUAL(tw_reducer_destroy(red), TW_OK);
    unit_has(j.text, "3 rank 0: reducer destroyed after 2 steps, of which 1 skipped and 0 failed; ");
    CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_ERR_ARG);
    unit_has(tw_last_error(), "still used by 1 communicator");
    CU_ASSERT_EQUAL(tw_comm_destroy(comm), TW_OK);
    unit_has(j.text, "3 rank 0 of 1: communicator destroyed; ");
    CU_ASSERT_EQUAL(j.lines[3], 4);
    CU_ASSERT_EQUAL(j.lines[1] + j.lines[2], 0);
    CU_ASSERT_EQUAL(tw_ctx_destroy(ctx), TW_OK);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(test_a_life),
    };
    return unit_main("log", tests, UNIT_COUNT(tests));
}
