/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The feedback functions: what is sent, what is kept. */
#include "feedback/feedback.h"
#include "unit.h"

#include <math.h>

enum { N = 4099 };
static float g[N], e[N], x[N], decoded[N], kept[N];

static void fill(unit_rng *r) {
    for (int i = 0; i < N; i++) {
        g[i] = ldexpf(unit_float(r), (int)unit_below(r, 60) - 30);
        e[i] = ldexpf(unit_float(r), (int)unit_below(r, 60) - 30);
        decoded[i] = ldexpf(unit_float(r), (int)unit_below(r, 60) - 30);
    }
}

static void rows_are_in_place(void) {
    static const tw_feedback *const rows[] = {&tw_feedback_none, &tw_feedback_ef, &tw_feedback_decay, &tw_feedback_dgc};
    CU_ASSERT_PTR_NULL(tw_feedback_get(0));
    CU_ASSERT_PTR_NULL(tw_feedback_get(TW_FEEDBACKS));
    CU_ASSERT_PTR_NULL(tw_feedback_get(UINT32_MAX));
    for (uint32_t id = 1; id < TW_FEEDBACKS; id++) {
        const tw_feedback *f = tw_feedback_get(id);
        tw_spec s;
        char text[32];
        CU_ASSERT_PTR_NOT_NULL_FATAL(f);
        CU_ASSERT_PTR_EQUAL(f, rows[id - 1]);
        CU_ASSERT_EQUAL(f->wire_id, id);
        CU_ASSERT(f->slots <= 1);
        CU_ASSERT_EQUAL(f->slots == 0, f->commit == NULL);
        snprintf(text, sizeof text, "topk+%s", f->name); /* the name in the row is the word in the text */
        CU_ASSERT_EQUAL(tw_spec_parse(text, &s), TW_OK);
        CU_ASSERT_EQUAL(s.feedback, id);
    }
}

static void none_sends_the_scaled_gradient(void) {
    unit_rng r = unit_seeded("none");
    unsigned wrong = 0;
    fill(&r);
    tw_feedback_none.prepare(x, g, NULL, 0.25f, N);
    for (int i = 0; i < N; i++)
        wrong += unit_bits(x[i]) != unit_bits(g[i] * 0.25f);
    CU_ASSERT_EQUAL(wrong, 0);
}

/* The scale here is no power of two, so that a fused multiply-add would differ in many places. */
static void ef_rounds_twice(void) {
    unit_rng r = unit_seeded("ef");
    unsigned wrong = 0, fused_differs = 0;
    const float scale = 1.1f;
    fill(&r);
    tw_feedback_ef.prepare(x, g, e, scale, N);
    for (int i = 0; i < N; i++) {
        volatile float product = g[i] * scale; /* volatile: rounded here whatever the flags */
        volatile float sum = product + e[i];
        wrong += unit_bits(x[i]) != unit_bits(sum);
        fused_differs += unit_bits(fmaf(g[i], scale, e[i])) != unit_bits(sum);
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT(fused_differs > 50);
}

static void ef_keeps_what_is_dropped(void) {
    unit_rng r = unit_seeded("commit");
    unsigned wrong = 0;
    fill(&r);
    tw_feedback_ef.prepare(x, g, e, 1.0f, N);
    tw_feedback_ef.commit(kept, x, decoded, 0.0f, N);
    for (int i = 0; i < N; i++)
        wrong += unit_bits(kept[i]) != unit_bits(x[i] - decoded[i]);
    CU_ASSERT_EQUAL(wrong, 0);
    tw_feedback_ef.commit(kept, x, x, 0.0f, N); /* an exact codec leaves +0 */
    for (int i = 0; i < N; i++)
        wrong += unit_bits(kept[i]) != 0;
    CU_ASSERT_EQUAL(wrong, 0);
}

/* The invariant: what was sent plus what is held is what came in, up to the roundings. A codec that keeps the sign and
 * one magnitude for all stands in here. */
static void nothing_is_lost_over_steps(void) {
    static double in[N], sent[N];
    unit_rng r = unit_seeded("ledger");
    double lost = 0.0, norm = 0.0;
    memset(e, 0, sizeof e);
    for (int step = 0; step < 200; step++) {
        double sum = 0.0;
        for (int i = 0; i < N; i++)
            in[i] += g[i] = unit_float(&r);
        tw_feedback_ef.prepare(x, g, e, 1.0f, N);
        for (int i = 0; i < N; i++)
            sum += fabs(x[i]);
        for (int i = 0; i < N; i++)
            sent[i] += decoded[i] = copysignf((float)(sum / N), x[i]);
        tw_feedback_ef.commit(e, x, decoded, 0.0f, N);
    }
    for (int i = 0; i < N; i++) {
        lost += pow(in[i] - sent[i] - e[i], 2);
        norm += pow(e[i], 2);
    }
    CU_ASSERT(norm > 0.0);
    CU_ASSERT(sqrt(lost) < 200 * 0x1p-24 * 2 * sqrt(norm));
}

static void decay_keeps_a_share(void) {
    unit_rng r = unit_seeded("decay");
    unsigned wrong = 0;
    tw_spec s;
    CU_ASSERT_EQUAL(tw_spec_parse("onebit+decay:beta=0.9", &s), TW_OK);
    const float beta = tw_feedback_rate(&s);
    CU_ASSERT_EQUAL(beta, 0.9f);
    CU_ASSERT_EQUAL(tw_feedback_keeps(&s), 0.9f);
    fill(&r);
    tw_feedback_decay.prepare(x, g, e, 1.1f, N);
    tw_feedback_decay.commit(kept, x, decoded, beta, N);
    for (int i = 0; i < N; i++) {
        volatile float product = g[i] * 1.1f, sum = product + e[i], lost = sum - decoded[i], share = lost * beta;
        wrong += unit_bits(x[i]) != unit_bits(sum) || unit_bits(kept[i]) != unit_bits(share);
    }
    CU_ASSERT_EQUAL(wrong, 0);
    tw_spec_parse("onebit+ef", &s);
    CU_ASSERT_EQUAL(tw_feedback_keeps(&s), 1.0f);
}

/* The invariant of decay: what was sent, what is held and what was forgotten make up what came in. */
static void decay_forgets_what_it_says(void) {
    static double in[N], sent[N], forgot[N];
    unit_rng r = unit_seeded("forgotten");
    double off = 0.0, norm = 0.0, gone = 0.0;
    const float beta = 0.8f;
    memset(e, 0, sizeof e);
    for (int step = 0; step < 200; step++) {
        double sum = 0.0;
        for (int i = 0; i < N; i++)
            in[i] += g[i] = unit_float(&r);
        tw_feedback_decay.prepare(x, g, e, 1.0f, N);
        for (int i = 0; i < N; i++)
            sum += fabs(x[i]);
        for (int i = 0; i < N; i++)
            sent[i] += decoded[i] = copysignf((float)(sum / N), x[i]);
        tw_feedback_decay.commit(e, x, decoded, beta, N);
        for (int i = 0; i < N; i++)
            forgot[i] += (1 - (double)beta) * ((double)x[i] - (double)decoded[i]);
    }
    for (int i = 0; i < N; i++) {
        off += pow(in[i] - sent[i] - e[i] - forgot[i], 2);
        norm += pow(e[i], 2);
        gone += pow(forgot[i], 2);
    }
    CU_ASSERT(norm > 0.0);
    CU_ASSERT(gone > norm);
    CU_ASSERT(sqrt(off) < 200 * 0x1p-24 * 4 * sqrt(norm));
}

static void dgc_moves_and_clears(void) {
    unit_rng r = unit_seeded("dgc");
    unsigned wrong = 0, cleared = 0;
    static float u[N], moved[N];
    fill(&r);
    for (int i = 0; i < N; i++)
        u[i] = unit_float(&r);
    tw_feedback_momentum(moved, u, g, 1.1f, 0.9f, N);
    for (int i = 0; i < N; i++) {
        volatile float product = g[i] * 1.1f, before = u[i] * 0.9f, sum = before + product;
        wrong += unit_bits(moved[i]) != unit_bits(sum);
        decoded[i] = i % 3 ? 0.0f : decoded[i];
    }
    memcpy(kept, moved, sizeof kept);
    tw_feedback_clear(kept, decoded, N);
    for (int i = 0; i < N; i++) {
        wrong += unit_bits(kept[i]) != (decoded[i] != 0.0f ? 0 : unit_bits(moved[i]));
        cleared += decoded[i] != 0.0f;
    }
    CU_ASSERT(cleared > N / 4);
    tw_feedback_momentum(moved, NULL, g, 0.5f, 0.9f, N); /* none yet */
    for (int i = 0; i < N; i++)
        wrong += unit_bits(moved[i]) != unit_bits(g[i] * 0.5f);
    tw_feedback_dgc.prepare(x, u, e, 1.0f, N);
    tw_feedback_dgc.commit(kept, x, decoded, 0.9f, N);
    for (int i = 0; i < N; i++)
        wrong += unit_bits(x[i]) != unit_bits(u[i] + e[i]) || unit_bits(kept[i]) != unit_bits(x[i] - decoded[i]);
    CU_ASSERT_EQUAL(wrong, 0);
}

static void no_values_touch_nothing(void) {
    x[0] = kept[0] = 7.0f;
    tw_feedback_none.prepare(x, g, NULL, 1.0f, 0);
    tw_feedback_ef.prepare(x, g, e, 1.0f, 0);
    tw_feedback_ef.commit(kept, x, decoded, 0.0f, 0);
    CU_ASSERT_EQUAL(x[0], 7.0f);
    CU_ASSERT_EQUAL(kept[0], 7.0f);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(rows_are_in_place),
        UNIT_TEST(none_sends_the_scaled_gradient),
        UNIT_TEST(ef_rounds_twice),
        UNIT_TEST(ef_keeps_what_is_dropped),
        UNIT_TEST(nothing_is_lost_over_steps),
        UNIT_TEST(decay_keeps_a_share),
        UNIT_TEST(decay_forgets_what_it_says),
        UNIT_TEST(dgc_moves_and_clears),
        UNIT_TEST(no_values_touch_nothing),
    };
    return unit_main("feedback", tests, UNIT_COUNT(tests));
}
