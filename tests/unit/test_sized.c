/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Programs built for an older or a newer version of the structs that carry their size. */
#include "core/core.h"
#include "unit.h"

#include <stdbool.h>

enum { ROOM = 512, MORE = 16, FILLER = 0xaa };
static tw_comm *comm;
static tw_reducer *red;
static const tw_layer layers[] = {TW_LAYER("net.weight", 5000), TW_LAYER("net.bias", 7)};

typedef union place {
    uint32_t size;
    uint64_t aligned;
    unsigned char byte[ROOM];
} place;

/* ---- outputs ---- */

static tw_status ask_memory(void *out) {
    return tw_reducer_memory(red, out);
}
static tw_status ask_estimate(void *out) {
    return tw_reducer_estimate(0, 3, layers, 2, "*=onebit+ef", NULL, out);
}
static tw_status ask_layer(void *out) {
    return tw_reducer_layer_report(red, 0, out);
}
static tw_status ask_plan(void *out) {
    return tw_plan_compute(0, 3, layers, 2, "*=onebit+ef", NULL, out);
}
static tw_status ask_stats(void *out) {
    return tw_comm_get_stats(comm, out);
}
static void set(place *p, uint32_t size) {
    memset(p, FILLER, sizeof *p);
    p->size = size;
}

static bool all(const place *p, uint32_t from, uint32_t to, unsigned char value) {
    for (uint32_t i = from; i < to; i++)
        if (p->byte[i] != value)
            return false;
    return true;
}

static void try_output(const char *name, tw_status (*ask)(void *out), uint32_t least, uint32_t full) {
    place whole, p;
    printf("%s: %u..%u bytes\n", name, least, full);
    set(&whole, full);
    CU_ASSERT_EQUAL(ask(&whole), TW_OK);
    CU_ASSERT(all(&whole, full, ROOM, FILLER));
    for (uint32_t size = 0; size <= full + MORE; size++) {
        set(&p, size);
        CU_ASSERT_EQUAL(ask(&p), size < least ? TW_ERR_ARG : TW_OK);
        CU_ASSERT_EQUAL(p.size, size);
        if (size < least) {
            CU_ASSERT(all(&p, sizeof p.size, ROOM, FILLER));
            unit_has(tw_last_error(), name);
            continue;
        }
        CU_ASSERT(
            !memcmp(p.byte + sizeof p.size, whole.byte + sizeof p.size, (size < full ? size : full) - sizeof p.size));
        CU_ASSERT(all(&p, full, size, 0) && all(&p, size, ROOM, FILLER));
    }
    set(&p, 4097);
    CU_ASSERT_EQUAL(ask(&p), TW_ERR_ARG);
    unit_has(tw_last_error(), "of size 4097, must be");
    CU_ASSERT_EQUAL(ask(NULL), TW_ERR_ARG);
}

static void outputs_fill_what_fits(void) {
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, 1, &comm), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_reducer_create(comm, layers, 2, "*=onebit+ef", NULL, &red), TW_OK);
    try_output("tw_memory", ask_memory, offsetof(tw_memory, frame_bytes), sizeof(tw_memory));
    try_output("tw_memory", ask_estimate, offsetof(tw_memory, frame_bytes), sizeof(tw_memory));
    try_output("tw_layer_report", ask_layer, offsetof(tw_layer_report, dense_bytes), sizeof(tw_layer_report));
    try_output("tw_plan_info", ask_plan, offsetof(tw_plan_info, payload_bytes), sizeof(tw_plan_info));
    try_output("tw_comm_stats", ask_stats, offsetof(tw_comm_stats, sent_bytes), sizeof(tw_comm_stats));
    CU_ASSERT_EQUAL(tw_reducer_destroy(red), TW_OK);
    CU_ASSERT_EQUAL(tw_comm_destroy(comm), TW_OK);
}

static void a_step_reports_to_any_version(void) {
    static float g[5007];
    place p;
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, 1, &comm), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_reducer_create(comm, layers, 2, "*=onebit+ef", NULL, &red), TW_OK);
    for (uint32_t size = 0; size <= sizeof(tw_report) + MORE; size++) {
        bool good = size >= offsetof(tw_report, step);
        set(&p, size);
        CU_ASSERT_EQUAL(tw_reducer_begin(red, size + 1, NULL), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_push(red, 0, g, g), TW_OK);
        CU_ASSERT_EQUAL(tw_reducer_end(red, (tw_report *)(void *)&p), good ? TW_OK : TW_ERR_ARG);
        if (!good)
            CU_ASSERT_EQUAL(tw_reducer_end(red, NULL), TW_OK); /* the step was still open */
        CU_ASSERT(p.size == size && all(&p, good ? size : sizeof size, ROOM, FILLER));
        CU_ASSERT(all(&p, sizeof(tw_report), size, 0));
        if (size >= offsetof(tw_report, dense_bytes))
            CU_ASSERT(!memcmp(p.byte + offsetof(tw_report, step), &(uint64_t){size + 1}, sizeof(uint64_t)));
    }
    CU_ASSERT_EQUAL(tw_reducer_destroy(red), TW_OK);
    CU_ASSERT_EQUAL(tw_comm_destroy(comm), TW_OK);
}

/* ---- inputs ---- */

static tw_status give_ctx(const void *in) {
    tw_ctx *c = NULL;
    tw_status s = tw_ctx_create(in, &c);
    CU_ASSERT((s == TW_OK) == (c != NULL));
    tw_ctx_destroy(c);
    return s;
}
static tw_status give_reducer(const void *in) {
    tw_memory m = TW_MEMORY_INIT;
    return tw_reducer_estimate(0, 3, layers, 2, NULL, in, &m);
}
static tw_status give_plan(const void *in) {
    tw_plan_info m = TW_PLAN_INFO_INIT;
    return tw_plan_compute(0, 3, layers, 2, NULL, in, &m);
}
static tw_status give_sim(const void *in) {
    tw_sim *sim = NULL;
    tw_status s = tw_sim_create(NULL, in, &sim);
    CU_ASSERT((s == TW_OK) == (sim != NULL));
    tw_sim_destroy(sim);
    return s;
}
static tw_status give_step(const void *in) {
    static uint64_t step;
    tw_status s = tw_reducer_begin(red, ++step, in);
    if (s == TW_OK)
        CU_ASSERT_EQUAL(tw_reducer_end(red, NULL), TW_OK);
    return s;
}

/* good: a whole struct. What is behind `size` is garbage that nobody may read as long as it is within the struct. */
static void try_input(const char *name, tw_status (*give)(const void *in), const void *good, uint32_t least,
                      uint32_t full) {
    place p;
    for (uint32_t size = 0; size <= full + MORE; size++) {
        set(&p, 0);
        memset(p.byte + full, 0, MORE);
        memcpy(p.byte, good, size < full ? size : full);
        p.size = size;
        tw_status s = give(&p);
        CU_ASSERT_EQUAL(s, size < least ? TW_ERR_ARG : TW_OK);
        if (size < least)
            unit_has(tw_last_error(), name);
    }
    p.byte[full + 3] = 1;
    CU_ASSERT_EQUAL(give(&p), TW_ERR_UNSUPPORTED);
    unit_has(tw_last_error(), "has a member set that this library does not know");
    p.size = 4097;
    CU_ASSERT_EQUAL(give(&p), TW_ERR_ARG);
}

static void inputs_take_what_both_know(void) {
    const tw_ctx_config ctx = TW_CTX_CONFIG_INIT;
    const tw_reducer_config reducer = TW_REDUCER_CONFIG_INIT;
    const tw_sim_config sim = TW_SIM_CONFIG_INIT;
    const tw_step_args args = {sizeof args, 0.5f};
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, 1, &comm), TW_OK);
    CU_ASSERT_EQUAL_FATAL(tw_reducer_create(comm, layers, 2, NULL, NULL, &red), TW_OK);
    try_input("tw_ctx_config", give_ctx, &ctx, offsetof(tw_ctx_config, log), sizeof ctx);
    try_input("tw_reducer_config", give_reducer, &reducer, offsetof(tw_reducer_config, bucket_bytes), sizeof reducer);
    try_input("tw_reducer_config", give_plan, &reducer, offsetof(tw_reducer_config, bucket_bytes), sizeof reducer);
    try_input("tw_sim_config", give_sim, &sim, offsetof(tw_sim_config, latency_s), sizeof sim);
    try_input("tw_step_args", give_step, &args, offsetof(tw_step_args, input_scale), sizeof args);
    CU_ASSERT_EQUAL(tw_reducer_destroy(red), TW_OK);
    CU_ASSERT_EQUAL(tw_comm_destroy(comm), TW_OK);
}

/* An array takes its stride from the first element. */
static void newer_layers_have_a_longer_stride(void) {
    struct newer {
        tw_layer layer;
        uint64_t more;
    } list[] = {{TW_LAYER("a", 4096), 0}, {TW_LAYER("b", 9), 0}};
    tw_memory m = TW_MEMORY_INIT;
    list[0].layer.size = list[1].layer.size = sizeof list[0];
    CU_ASSERT_EQUAL(tw_reducer_estimate(0, 2, &list[0].layer, 2, NULL, NULL, &m), TW_OK);
    list[1].more = 1;
    CU_ASSERT_EQUAL(tw_reducer_estimate(0, 2, &list[0].layer, 2, NULL, NULL, &m), TW_ERR_UNSUPPORTED);
    unit_has(tw_last_error(), "layer 'b' has a member set");
}

/* The first version's layers end with their count. */
static void older_layers_are_not_pinned(void) {
    struct older {
        uint32_t size;
        tw_dtype dtype;
        const char *name;
        uint64_t count;
    } list[] = {{sizeof(struct older), TW_F32, "a", 5000}, {sizeof(struct older), TW_BF16, "b", 7}};
    tw_layer now[] = {TW_LAYER("a", 5000), TW_LAYER_DTYPE("b", 7, TW_BF16)};
    tw_plan_info old = TW_PLAN_INFO_INIT, new = TW_PLAN_INFO_INIT;
    CU_ASSERT_EQUAL(sizeof(struct older), offsetof(tw_layer, pinned));
    CU_ASSERT_EQUAL(tw_plan_compute(1, 3, (const tw_layer *)(const void *)list, 2, NULL, NULL, &old), TW_OK);
    CU_ASSERT_EQUAL(tw_plan_compute(1, 3, now, 2, NULL, NULL, &new), TW_OK);
    CU_ASSERT(old.wire_bytes > 0 && memcmp(&old, &new, sizeof old) == 0);
    list[0].size = 16;
    CU_ASSERT_EQUAL(tw_plan_compute(1, 3, (const tw_layer *)(const void *)list, 2, NULL, NULL, &old), TW_ERR_ARG);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(outputs_fill_what_fits),      UNIT_TEST(a_step_reports_to_any_version),
        UNIT_TEST(inputs_take_what_both_know),  UNIT_TEST(newer_layers_have_a_longer_stride),
        UNIT_TEST(older_layers_are_not_pinned),
    };
    return unit_main("sized", tests, UNIT_COUNT(tests));
}
