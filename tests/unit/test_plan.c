/* SPDX-License-Identifier: BSD-3-Clause
 *
 * tw_plan_compute: what it says of all ranks is what it says of each of them. */
#include "collectives/plan.h"
#include "unit.h"

static tw_plan_info plan_of(int rank, int size, const tw_layer *layers, uint32_t n, const char *rules) {
    tw_plan_info info = TW_PLAN_INFO_INIT;
    CU_ASSERT_EQUAL(tw_plan_compute(rank, size, layers, n, rules, NULL, &info), TW_OK);
    return info;
}

static void ranks_add_up(void) {
    static const char *const rules[] = {"*=none", "*=onebit+ef", "a=quant:bits=3;*=topk:density=0.05+ef", "*=cast"};
    const tw_layer layers[] = {TW_LAYER("a", 100000), TW_LAYER("b", 3), TW_LAYER_DTYPE("c", 5000, TW_BF16),
                               TW_LAYER("d", 0)};
    for (size_t i = 0; i < TW_ARRAY_LEN(rules); i++)
        for (int size = 1; size <= 9; size += 2) {
            uint64_t sum = 0, all = 0;
            for (int rank = 0; rank < size; rank++) {
                tw_plan_info info = plan_of(rank, size, layers, 4, rules[i]);
                CU_ASSERT_EQUAL(info.native_bytes, 0);
                CU_ASSERT(rank == 0 || info.all_bytes == all);
                all = info.all_bytes;
                sum += info.wire_bytes;
            }
            CU_ASSERT_EQUAL(sum, all);
        }
}

/* Their sums are no frames: a ring sends 2(P-1) times what one rank gives, all ranks together; a first one sees that they agree. */
static void factors_are_counted(void) {
    const tw_layer matrix = TW_LAYER_MATRIX("m", 300, 200, TW_F32);
    tw_plan_info info = plan_of(1, 4, &matrix, 1, "*=powersgd:rank=2+ef");
    CU_ASSERT_EQUAL(info.wire_bytes, 0);
    CU_ASSERT(info.native_bytes >= 2 * (300 + 200) * sizeof(float) &&
              info.native_bytes < 1.1 * 2 * (300 + 200) * sizeof(float));
    CU_ASSERT_EQUAL(info.all_bytes, 2 * 3 * (info.native_bytes + TW_AGREE_VALUES * sizeof(float)));
}

static void ops_add_up(void) {
    const tw_layer both[] = {TW_LAYER_MATRIX("m", 300, 200, TW_F32), TW_LAYER("v", 70000)};
    tw_plan_info a = plan_of(0, 3, both, 1, "*=powersgd+ef"), b = plan_of(0, 3, both + 1, 1, "*=onebit+ef"),
                 sum = plan_of(0, 3, both, 2, "m=powersgd+ef;*=onebit+ef");
    CU_ASSERT(a.native_bytes > 0 && b.wire_bytes > 0);
    CU_ASSERT_EQUAL(sum.native_bytes, a.native_bytes + b.native_bytes);
    CU_ASSERT_EQUAL(sum.wire_bytes, a.wire_bytes + b.wire_bytes);
    CU_ASSERT_EQUAL(sum.payload_bytes, a.payload_bytes + b.payload_bytes);
    CU_ASSERT_EQUAL(sum.all_bytes, a.all_bytes + b.all_bytes);
    CU_ASSERT_EQUAL(sum.frames, a.frames + b.frames);
    CU_ASSERT_EQUAL(sum.arena_bytes, a.arena_bytes + b.arena_bytes);
    CU_ASSERT_EQUAL(sum.hops, a.hops > b.hops ? a.hops : b.hops);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(ranks_add_up), UNIT_TEST(factors_are_counted), UNIT_TEST(ops_add_up)};
    return unit_main("plan", tests, UNIT_COUNT(tests));
}
