/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One trial from beginning to end: what every kind of it must show. */
#include "trial.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool trial_fail(trial *t, const char *format, ...) {
    va_list args;
    if (!t->failed) {
        va_start(args, format);
        vsnprintf(t->why, sizeof t->why, format, args);
        va_end(args);
    }
    t->failed = true;
    return false;
}

/* The first failure counts: after a refused post, `end` says what follows from it. */
static tw_status outcome(const rank_result *q) {
    return q->begin < 0 ? q->begin : q->post < 0 && q->end == TW_ERR_ARG ? q->post : q->end < 0 ? q->end : q->post;
}

/* ---- a step in which nothing goes wrong ---- */

static tw_status expected_end(const trial *t) {
    bool bad = model_step_is_bad(t);
    if (t->step.discard)
        return TW_OK;
    if (bad)
        return t->rc.nonfinite == TW_NONFINITE_ERROR ? TW_ERR_NONFINITE : TW_OK;
    return t->step.incomplete ? TW_ERR_ARG : TW_OK;
}

static bool check_requests(trial *t, int r) {
    for (uint32_t i = 0; i < t->step.nop; i++) {
        bool bad = t->m.op_bad[i] && t->rc.nonfinite != TW_NONFINITE_PROPAGATE;
        tw_status s = t->result[r].op[i], want = bad ? TW_ERR_NONFINITE : TW_OK;
        if (s != TW_IN_PROGRESS && s != want)
            return trial_fail(t, "rank %d, op %u: its request says %s, not %s", r, i, tw_status_name(s),
                              tw_status_name(want));
    }
    return true;
}

/* A step of pushes under the specs of the last one finds its plans and frames made. */
static bool check_allocations(trial *t, uint64_t before) {
    bool same = !t->post && t->ranks > 1 && memcmp(t->m.last_spec, t->step.spec, sizeof t->m.last_spec) == 0;
    for (uint32_t i = 0; i < t->step.nop; i++)
        same = same && !t->step.op[i].native; /* where no output is given, that takes memory for the sum */
    if (same && t->allocations != before)
        return trial_fail(t, "a step like the last one leaves %llu allocations where there were %llu",
                          (unsigned long long)t->allocations, (unsigned long long)before);
    return true;
}

static bool after_clean_step(trial *t, uint64_t allocations) {
    tw_status want = expected_end(t);
    bool committed = !t->step.discard && !t->step.incomplete && !model_step_is_bad(t);
    for (int r = 0; r < t->ranks; r++) {
        const rank_result *q = &t->result[r];
        if (outcome(q) != want)
            return trial_fail(t, "rank %d: %s (%s), where %s was due", r, tw_status_name(outcome(q)), q->why,
                              tw_status_name(want));
        if (!check_requests(t, r) || !check_memory(t, r, want))
            return false;
    }
    if (!check_allocations(t, allocations))
        return false;
    if (committed)
        model_commit(t);
    t->discarded = t->discarded || t->step.discard;
    for (int r = 0; r < t->ranks; r++)
        if (!check_residuals(t, r, t->m.e))
            return false;
    if (!check_canaries(t) || (committed && !check_replicas(t)))
        return false;
    return check_ledger(t) && (t->step.discard || check_reports(t, committed));
}

/* ---- a step with a fault, or with a rank that does something else ---- */

static bool is_fault(tw_status s) {
    return s == TW_ERR_TIMEOUT || s == TW_ERR_PEER || s == TW_ERR_CORRUPT || s == TW_ERR_MISMATCH ||
           s == TW_ERR_POISONED;
}

bool trial_deviates(const trial *t, int r) {
    return t->kind == KIND_ODD_STEP && r == t->odd_rank && t->step.index == t->odd_step;
}

/* A rank alone: in time, with a sentence, its memory and residuals whole. */
static bool check_rank(trial *t, int r, float *const before[]) {
    const rank_result *q = &t->result[r];
    tw_status s = outcome(q);
    bool deviates = trial_deviates(t, r), discards = deviates && t->odd == ODD_DISCARD;
    bool right =
        s == (discards ? TW_OK : expected_end(t)) || is_fault(s) || (deviates && (s == TW_OK || s == TW_ERR_ARG));
    if (!right)
        return trial_fail(t, "rank %d: %s (%s)", r, tw_status_name(s), q->why);
    if (s < 0 && strlen(q->why) < 10)
        return trial_fail(t, "rank %d: %s without a sentence", r, tw_status_name(s));
    if (q->seconds > 1.5 * t->deadline)
        return trial_fail(t, "rank %d waited %g s, the deadline is %g", r, q->seconds, t->deadline);
    if (!check_memory(t, r, s))
        return false;
    if (deviates && s >= 0 && !discards && t->odd != ODD_RESET)
        return true; /* it committed what it posted */
    if (!check_residuals(t, r, s < 0 || discards ? before : t->m.e))
        return false;
    if (discards)
        model_restore_rank(t, r, before);
    return true;
}

/* Must somebody have noticed? */
static bool is_seen(const trial *t) {
    const step_plan *s = &t->step;
    const op_plan *a = &s->op[t->odd_how % (s->nop ? s->nop : 1)];
    bool tiles = false, first_two = false;
    if (t->kind != KIND_ODD_STEP || t->ranks == 1)
        return false;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        tiles = tiles || a->tiles[l] > 0;
        first_two = first_two || s->op[0].tiles[l] > 0 || (s->nop > 1 && s->op[1].tiles[l] > 0);
    }
    if (s->index == t->odd_step + 1 && (t->odd == ODD_DISCARD || t->odd == ODD_RESET))
        return model_crosses(t) && (t->odd == ODD_RESET || t->others_committed);
    if (s->index != t->odd_step)
        return false;
    switch (t->odd) {
    case ODD_STEP:
        return model_crosses(t);
    case ODD_PIECES:
        return tiles;
    case ODD_MISSING:
        return tiles && s->nop > 1;
    case ODD_SWAPPED:
        return s->nop > 1 && first_two;
    default:
        return false;
    }
}

static bool any_failed(const trial *t) {
    bool any = false;
    for (int r = 0; r < t->ranks; r++)
        any = any || is_fault(outcome(&t->result[r]));
    return any;
}

/* After damage without loss somebody must have seen it; a peer's failure must have a first one; and where all frames
 * arrive, the first rank whose deadline passes tells the others. */
static bool check_blame(trial *t) {
    bool corrupt = false, other = false;
    int late = 0;
    for (int r = 0; r < t->ranks; r++) {
        tw_status s = outcome(&t->result[r]);
        corrupt = corrupt || s == TW_ERR_CORRUPT || s == TW_ERR_POISONED; /* poisoned: by what it saw before */
        late += s == TW_ERR_TIMEOUT;
        other = other || outcome(&t->result[r]) != TW_ERR_PEER;
    }
    if (t->kind == KIND_FAULTY && (t->fault == FAULT_CORRUPTION || t->fault == FAULT_TRUNCATION) && !corrupt)
        return trial_fail(t, "frames were damaged, the step failed, and no rank says so");
    if (t->kind == KIND_FAULTY && t->fault != FAULT_DEAD_SEEN && !other)
        return trial_fail(t, "all ranks blame a peer");
    if (t->kind == KIND_ODD_STEP && late > 1)
        return trial_fail(t, "%d ranks ran into the deadline: the first of them told nobody", late);
    return true;
}

static bool after_rough_step(trial *t) {
    float *before[MOST_LAYERS] = {0};
    bool ok = model_save(t, before), seen = is_seen(t);
    if (!ok)
        trial_fail(t, "out of memory");
    t->others_committed = !model_step_is_bad(t);
    if (ok && t->others_committed)
        model_commit(t);
    for (int r = 0; ok && r < t->ranks; r++)
        ok = check_rank(t, r, before);
    for (uint32_t l = 0; l < t->nlayer; l++)
        free(before[l]);
    ok = ok && check_canaries(t);
    if (ok && any_failed(t))
        return check_blame(t);
    return ok && (!seen || trial_fail(t, "rank %d did something else and nobody noticed", t->odd_rank));
}

/* After a failure: nothing succeeds any more, and nothing hangs. */
static bool after_failure(trial *t) {
    if (!trial_draw_step(t, MOST_STEPS))
        return trial_fail(t, "out of memory");
    drive_step(t);
    for (int r = 0; r < t->ranks; r++) {
        const rank_result *q = &t->result[r];
        if (!is_fault(outcome(q)) && model_crosses(t))
            return trial_fail(t, "rank %d: %s in the step after a failure", r, tw_status_name(outcome(q)));
        if (q->seconds > 1.5 * t->deadline)
            return trial_fail(t, "rank %d waited %g s after a failure, the deadline is %g", r, q->seconds, t->deadline);
    }
    trial_free_step(t);
    return true;
}

/* ---- steps ---- */

static void maybe_reset(trial *t, uint32_t index) {
    bool alone = t->kind == KIND_ODD_STEP && t->odd == ODD_RESET && index == t->odd_step + 1;
    bool all = t->kind == KIND_CLEAN && !t->hard && index > 0 && rng_chance(&t->rng, 8);
    if (!alone && !all)
        return;
    for (int r = 0; r < t->ranks; r++)
        if ((all || r == t->odd_rank) && tw_reducer_reset(t->red[r]) != TW_OK)
            trial_fail(t, "rank %d: reset: %s", r, tw_last_error());
    if (all) {
        model_reset(t);
        memset(t->m.last_spec, 0, sizeof t->m.last_spec);
    } else {
        model_reset_rank(t, t->odd_rank);
    }
}

static void describe_step(const trial *t) {
    const step_plan *s = &t->step;
    char spec[64];
    printf("  step %llu:%s%s %u values are NaN or Inf\n", (unsigned long long)s->number,
           s->discard ? " discarded," : "", s->incomplete ? " in part," : "", s->nan);
    for (uint32_t i = 0; i < s->nop; i++) {
        printf("    op %u%s%s:", i,
               s->op[i].native   ? ", native"
               : s->op[i].linear ? ", payloads summed"
               : s->op[i].gather ? ", gathered"
                                 : "",
               t->m.op_bad[i] ? ", bad" : "");
        for (uint32_t k = 0; k < s->op[i].npiece; k++)
            printf(" %u[%llu,+%llu)", s->op[i].piece[k].layer, (unsigned long long)s->op[i].piece[k].first,
                   (unsigned long long)s->op[i].piece[k].count);
        for (uint32_t l = 0; l < t->nlayer; l++)
            for (int r = 0; r < t->ranks; r++)
                if (s->op[i].tiles[l] && s->op[i].absent[l][r])
                    printf(" %u-is-not-on-%d", l, r);
        printf("\n");
    }
    for (uint32_t l = 0; l < t->nlayer; l++) {
        tw_spec_format(&s->spec[l], spec, sizeof spec);
        printf("    layer %u: %s, bad tiles:", l, spec);
        for (uint64_t k = 0; k < t->layer[l].tiles; k++)
            if (t->m.bad[l][k])
                printf(" %llu", (unsigned long long)k);
        printf("\n");
    }
    for (int r = 0; r < t->ranks; r++)
        printf("    rank %d: %s %s %s; %s\n", r, tw_status_name(t->result[r].begin), tw_status_name(t->result[r].post),
               tw_status_name(t->result[r].end), t->result[r].why);
}

static bool one_step(trial *t, uint32_t index) {
    maybe_reset(t, index);
    if (!trial_draw_step(t, index))
        return trial_fail(t, "out of memory");
    model_step(t);
    uint64_t allocations = t->allocations;
    drive_step(t);
    tally_step(t);
    bool rough = t->kind != KIND_CLEAN;
    bool ok = !t->failed && (rough ? after_rough_step(t) : after_clean_step(t, allocations));
    if (t->verbose)
        describe_step(t);
    trial_free_step(t);
    return ok;
}

bool trial_run(trial *t) {
    bool ok = model_create(t) && drive_open(t), broken = false;
    for (uint32_t i = 0; ok && i < t->nstep && t->red[0] && !broken; i++) {
        ok = one_step(t, i);
        broken = any_failed(t) || (t->kind == KIND_ODD_STEP && i > t->odd_step);
    }
    if (ok && broken && any_failed(t))
        ok = after_failure(t);
    if (ok && t->kind == KIND_CLEAN)
        ok = check_wire(t);
    drive_close(t);
    if (!t->hard)
        tally_trial(t);
    model_free(t);
    return !t->failed;
}
