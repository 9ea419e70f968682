/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What was tried: counted, so that a test that tries nothing shows it. */
#include "trial.h"
#include <stdio.h>
#include <string.h>

#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

static uint64_t ranks[MOST_RANKS + 1], kinds[KIND_COUNT], faults[FAULT_COUNT], odds[ODD_COUNT], values[VALUES_COUNT];
static uint64_t dtypes[4], codecs[8][3], feedbacks[TW_FEEDBACK_DGC + 1], redops[3], policies[4], algos[5],
    ops[MOST_OPS + 1], steps[MOST_STEPS + 1];
static uint64_t sizes[7], tiles[6], wide_tiles, verdicts[4], failures[16], pieces[8], refusals[REFUSAL_COUNT];
static uint64_t others[TALLY_KINDS][8];
static uint64_t posted, pushed, layers, no_overlap, phases, scaled, nan_steps, absent_somewhere, absent_everywhere,
    in_place, unwanted, parts, odd_bytes, discards, incomplete, native_ops, linear_ops, gather_ops, all_steps,
    layer_steps, ops_sharing, flushes, plans;

static bool is_prime(uint64_t n) {
    for (uint64_t k = 2; k * k <= n; k++)
        if (n % k == 0)
            return false;
    return n > 1;
}

/* Index into the names of the line "sizes". */
static size_t size_class(uint64_t count, uint32_t tile) {
    uint64_t rest = count % tile;
    return count < 2 ? count : rest == 0 ? 2 : rest == 1 ? 3 : rest == tile - 1 ? 4 : is_prime(count) ? 5 : 6;
}

void tally_trial(const trial *t) {
    ranks[t->ranks]++;
    kinds[t->kind]++;
    faults[t->fault] += t->kind == KIND_FAULTY;
    odds[t->odd] += t->kind == KIND_ODD_STEP;
    redops[t->rc.redop]++;
    policies[t->rc.nonfinite]++;
    algos[t->rc.algo]++;
    steps[t->nstep]++;
    no_overlap += t->rc.no_overlap;
    posted += t->post;
    pushed += !t->post;
    for (uint32_t k = 0; k < 6; k++)
        tiles[k] += t->rc.tile == 128u << k;
    wide_tiles += t->rc.tile == 4096 && t->ranks > 6;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        layers++;
        sizes[size_class(t->layer[l].count, t->rc.tile)]++;
        dtypes[t->layer[l].dtype]++;
        values[t->layer[l].values]++;
        phases += t->layer[l].nphase > 1;
    }
}

static void tally_parts(const trial *t, const op_plan *op) {
    for (uint32_t k = 0; k < op->npiece; k++)
        for (int r = 0; r < t->ranks; r++) {
            const part *p = &op->part[k][r];
            parts++;
            in_place += p->has_in && p->has_out && p->in == p->out;
            unwanted += p->has_in && !p->has_out;
            odd_bytes += ((uintptr_t)(t->memory + p->in) & 1) != 0 && p->has_in;
        }
}

static void tally_ops(const trial *t) {
    uint32_t cut[MOST_LAYERS] = {0}, in[MOST_LAYERS] = {0};
    for (uint32_t i = 0; i < t->step.nop; i++) {
        const op_plan *op = &t->step.op[i];
        native_ops += op->native;
        linear_ops += op->linear;
        gather_ops += op->gather;
        tally_parts(t, op);
        for (uint32_t k = 0; k < op->npiece; k++)
            cut[op->piece[k].layer]++;
        for (uint32_t l = 0; l < t->nlayer; l++)
            in[l] += op->tiles[l] > 0;
    }
    for (uint32_t l = 0; l < t->nlayer; l++) {
        if (t->post && t->step.covered[l])
            pieces[cut[l] < 7 ? cut[l] : 7]++;
        ops_sharing += in[l] > 1;
    }
}

void tally_other(uint32_t kind, const tw_spec *s) {
    others[kind][s->codec]++;
}

void tally_plan(void) {
    plans++;
}

void tally_refusal(refusal_kind kind) {
    refusals[kind]++;
}

void tally_step(const trial *t) {
    all_steps++;
    ops[t->step.nop]++;
    discards += t->step.discard;
    incomplete += t->step.incomplete;
    nan_steps += t->step.nan > 0;
    scaled += t->step.scale[0] != 1.0f;
    tally_ops(t);
    for (uint32_t l = 0; l < t->nlayer; l++) {
        bool away = false, there = false;
        layer_steps++;
        uint32_t feedback = t->step.spec[l].feedback;
        codecs[t->step.spec[l].codec][feedback > TW_FEEDBACK_NONE ? 2 : 1]++;
        feedbacks[feedback]++;
        for (uint32_t i = 0; i < t->step.nop; i++)
            for (int r = 0; r < t->ranks && t->step.op[i].tiles[l]; r++) {
                away = away || t->step.op[i].absent[l][r];
                there = there || !t->step.op[i].absent[l][r];
            }
        absent_somewhere += away && there;
        absent_everywhere += away && !there;
    }
    for (int r = 0; r < t->ranks; r++) {
        const rank_result *q = &t->result[r];
        tw_status s = q->begin < 0 ? q->begin : q->end < 0 ? q->end : q->post;
        verdicts[q->report.verdict]++;
        flushes += q->flushed;
        failures[s < 0 ? -s : 0]++;
    }
}

static void line(const char *what, const char *const name[], const uint64_t *n, size_t count) {
    printf("  %-11s", what);
    for (size_t i = 0; i < count; i++)
        if (n[i])
            printf(" %s %llu", name[i], (unsigned long long)n[i]);
    printf("\n");
}

#define LINE(what, array, ...)                            \
    do {                                                  \
        static const char *const names[] = {__VA_ARGS__}; \
        line(what, names, array, COUNT_OF(names));        \
    } while (0)

static void print_ranks(void) {
    printf("  %-11s", "ranks");
    for (int r = 1; r <= MOST_RANKS; r++)
        printf(" %d:%llu", r, (unsigned long long)ranks[r]);
    printf("\n");
}

static void print_failures(void) {
    printf("  %-11s", "statuses");
    for (int s = 0; s < 16; s++)
        if (failures[s])
            printf(" %s %llu", tw_status_name((tw_status)-s), (unsigned long long)failures[s]);
    printf("\n");
}

static void print_others(void) {
    static const char *const what[TALLY_KINDS] = {
        [1] = "reduce_scatter", "allgather", "broadcast", "post_reduce_scatter", "post_allgather"};
    for (uint32_t k = 1; k < TALLY_KINDS; k++) {
        const uint64_t *n = others[k];
        printf("  %-11s none %llu cast %llu onebit %llu quant %llu ternary %llu topk %llu randk %llu\n", what[k],
               (unsigned long long)n[1], (unsigned long long)n[2], (unsigned long long)n[3], (unsigned long long)n[4],
               (unsigned long long)n[5], (unsigned long long)n[6], (unsigned long long)n[7]);
    }
}

void tally_print(void) {
    const uint64_t flat[] = {codecs[1][1], codecs[1][2], codecs[2][1], codecs[2][2], codecs[3][1],
                             codecs[3][2], codecs[4][1], codecs[4][2], codecs[5][1], codecs[5][2],
                             codecs[6][1], codecs[6][2], codecs[7][1], codecs[7][2]};
    printf("What was tried:\n");
    print_ranks();
    LINE("kinds", kinds, "clean", "faulty", "odd-at-creation", "odd-in-a-step");
    LINE("faults", faults, "loss", "corruption", "truncation", "dead", "dead-and-seen");
    LINE("odd ranks", odds, "discard", "step", "pieces", "missing-op", "swapped-ops", "reset");
    LINE("sizes", sizes, "0", "1", "tiles", "tiles+1", "tiles-1", "prime", "other");
    LINE("tile", tiles, "128", "256", "512", "1024", "2048", "4096");
    printf("  tile 4096 on over 6 ranks: %llu\n", (unsigned long long)wide_tiles);
    LINE("steps", steps, "0", "1", "2", "3", "4");
    LINE("redop", redops, "", "sum", "avg");
    LINE("nonfinite", policies, "", "propagate", "skip", "error");
    LINE("algo", algos, "", "auto", "native", "sra", "gather");
    LINE("dtypes", dtypes, "", "fp32", "fp16", "bf16");
    LINE("values", values, "plain", "mixed", "sparse", "tiny", "outlier", "large", "huge", "same");
    LINE("layer-steps", flat, "none", "none+...", "cast", "cast+...", "onebit", "onebit+...", "quant", "quant+...",
         "ternary", "ternary+...", "topk", "topk+...", "randk", "randk+...");
    LINE("feedback", feedbacks, "", "none", "ef", "decay", "dgc");
    print_others();
    LINE("ops a step", ops, "0", "1", "2", "3", "4", "5", "6");
    LINE("pieces", pieces, "0", "1", "2", "3", "4", "5", "6", "7+");
    LINE("refusals", refusals, "again", "twice", "one-less", "half-absent", "same-output", "outside", "push");
    LINE("verdicts", verdicts, "(none)", "ok", "skipped", "failed");
    print_failures();
    printf("  trials: %llu push, %llu post, %llu without overlap; %llu layers, %llu with phases\n",
           (unsigned long long)pushed, (unsigned long long)posted, (unsigned long long)no_overlap,
           (unsigned long long)layers, (unsigned long long)phases);
    printf("  steps: %llu; %llu discarded, %llu with a layer in part, %llu with NaN or Inf, %llu scaled; %llu native "
           "ops, %llu of payloads, %llu gathered\n",
           (unsigned long long)all_steps, (unsigned long long)discards, (unsigned long long)incomplete,
           (unsigned long long)nan_steps, (unsigned long long)scaled, (unsigned long long)native_ops,
           (unsigned long long)linear_ops, (unsigned long long)gather_ops);
    printf("  layer-steps: %llu; absent on some ranks %llu, on all %llu; in several ops %llu\n",
           (unsigned long long)layer_steps, (unsigned long long)absent_somewhere, (unsigned long long)absent_everywhere,
           (unsigned long long)ops_sharing);
    printf("  ranks that flushed what they had not pushed: %llu; plans compared with what was sent: %llu\n",
           (unsigned long long)flushes, (unsigned long long)plans);
    printf("  buffers: %llu; %llu in place, %llu without output, %llu at odd addresses\n", (unsigned long long)parts,
           (unsigned long long)in_place, (unsigned long long)unwanted, (unsigned long long)odd_bytes);
}
