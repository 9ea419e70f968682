/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The ledger, the certificate, reports and byte counts after a step. */
#include "trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- ledger: || sum of outputs - sum of exact results + sum of weight * residual + what was forgotten || <= rho ---- */

static double ledger_gap(const trial *t, uint32_t l) {
    uint64_t n = t->layer[l].count;
    double gap = 0;
    for (uint64_t i = 0; i < n; i++) {
        double d = t->m.applied[l][i] - t->m.exact[l][i] + t->m.forgot[l][i];
        for (int r = 0; r < t->ranks; r++) {
            bool whole = t->rc.redop == TW_SUM || r == t->m.own[l][i / t->rc.tile];
            d += (double)t->m.e[l][(uint64_t)r * n + i] * (whole ? 1.0 : 1.0 / t->ranks);
        }
        gap += d * d;
    }
    return sqrt(gap);
}

bool check_ledger(trial *t) {
    for (uint32_t l = 0; l < t->nlayer; l++) {
        double gap = ledger_gap(t, l);
        if (!t->m.lossy[l] && !(gap <= t->m.rho[l] * (1 + 1e-9)))
            return trial_fail(t, "layer %u: the ledger is off by %g, allowed are %g", l, gap, t->m.rho[l]);
    }
    return true;
}

/* ---- certificate ---- */

static double true_error(const trial *t, uint32_t l) {
    double sq = 0;
    for (uint64_t i = 0; i < t->layer[l].count; i++) {
        double d = t->m.applied[l][i] - t->m.exact[l][i];
        sq += d * d;
    }
    return sqrt(sq);
}

static bool equal_double(double a, double b) {
    return memcmp(&a, &b, sizeof a) == 0;
}

static double residual_norm(const trial *t, uint32_t l, int r) {
    const float *e = t->m.e[l] + (uint64_t)r * t->layer[l].count;
    double sq = 0;
    for (uint64_t i = 0; i < t->layer[l].count; i++)
        sq += (double)e[i] * e[i];
    return sqrt(sq);
}

/* With feedback a bound is the norms of what is held, added up, and roundings: no more, once the norms of runs that meet
 * at a point are taken over the whole layer. */
static bool check_tight(trial *t, uint32_t l, double bound) {
    uint64_t n = t->layer[l].count;
    double w = t->rc.redop == TW_AVG ? 1.0 / t->ranks : 1.0, own_sq = 0;
    double most = t->m.rho[l] + t->m.forgot_norms[l] * (1 + 1e-6);
    for (int r = 0; r < t->ranks; r++) {
        double sq = 0;
        for (uint64_t i = 0; i < n; i++) {
            double e = t->m.e[l][(uint64_t)r * n + i];
            bool own = t->m.own[l][i / t->rc.tile] == r;
            if (t->m.linear[l] && own) /* there all are workers' */
                sq += e * e / (w * w);
            else
                *(own ? &own_sq : &sq) += e * e;
        }
        most += w * sqrt(sq);
    }
    most = (most + sqrt(own_sq)) * 1.001 +
           (t->nstep > MOST_STEPS ? t->nstep : MOST_STEPS) * (double)(n + MOST_TILE) * (t->ranks + 4) * 0x1p-149;
    bool known = t->ranks > 1 && !t->m.loose[l] && !t->m.native[l] && isfinite(bound); /* squares may overflow */
    if (known && bound > most)
        return trial_fail(t, "layer %u: bound %.9g, but what is held and was rounded is %.9g at most", l, bound, most);
    return true;
}

static bool check_layer_report(trial *t, uint32_t l, int r, double truth, double *bound) {
    tw_layer_report y = TW_LAYER_REPORT_INIT;
    if (tw_reducer_layer_report(t->red[r], l, &y) != TW_OK)
        return trial_fail(t, "rank %d, layer %u: no report: %s", r, l, tw_last_error());
    if (r == 0)
        *bound = y.error_bound;
    if (!equal_double(*bound, y.error_bound))
        return trial_fail(t, "layer %u: bound %.9g on rank 0, %.9g on rank %d", l, *bound, y.error_bound, r);
    if (y.certified != !t->m.native[l])
        return trial_fail(t, "rank %d, layer %u: certified %u", r, l, y.certified);
    if (y.certified && !(y.error_bound >= truth * (1 - 1e-9)))
        return trial_fail(t, "rank %d, layer %u: bound %.12g, true error %.12g", r, l, y.error_bound, truth);
    if (t->ranks > 1 && memcmp(&y.spec, &t->step.spec[l], sizeof y.spec) != 0)
        return trial_fail(t, "rank %d, layer %u: reports another spec than its rule gives", r, l);
    double held = residual_norm(t, l, r);
    if (fabs(held - y.residual_norm) > 1e-9 * held)
        return trial_fail(t, "rank %d, layer %u: residual norm %g, model %g", r, l, y.residual_norm, held);
    return true;
}

/* A layer that no rank has keeps its bound, as long as frames are cut as before. */
static bool check_untouched_bound(trial *t, uint32_t l, double bound) {
    bool away = t->step.covered[l] && t->layer[l].tiles > 0;
    for (uint64_t k = 0; k < t->layer[l].tiles; k++)
        away = away && t->m.away[l][k];
    if (away && t->m.last_same && !t->post && !equal_double(bound, t->m.bound[l]))
        return trial_fail(t, "layer %u is nowhere in this step, and its bound goes from %.9g to %.9g", l, t->m.bound[l],
                          bound);
    return true;
}

static bool check_layers(trial *t, bool committed) {
    double sq = 0;
    if (committed)
        t->m.last_same = memcmp(t->m.last_spec, t->step.spec, sizeof t->m.last_spec) == 0;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        double bound = 0, truth = true_error(t, l);
        for (int r = 0; r < t->ranks; r++)
            if (!check_layer_report(t, l, r, truth, &bound))
                return false;
        if (!check_tight(t, l, bound) || (committed && !check_untouched_bound(t, l, bound)))
            return false;
        t->m.bound[l] = bound;
        sq += t->m.native[l] ? 0 : truth * truth;
    }
    if (committed)
        memcpy(t->m.last_spec, t->step.spec, sizeof t->m.last_spec);
    double given = t->result[0].report.error_bound;
    if (!(given >= sqrt(sq) * (1 - 1e-9)))
        return trial_fail(t, "the report's bound is %.12g, the true error %.12g", given, sqrt(sq));
    return true;
}

/* ---- reports ---- */

static bool check_bad(trial *t, const tw_report *p) {
    uint64_t any = 0;
    uint32_t first = UINT32_MAX;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        any |= t->m.bad_ranks[l];
        first = first == UINT32_MAX && t->m.bad_ranks[l] ? l : first;
    }
    if (!any != (p->bad_layer < 0) || !any != (p->bad_rank < 0))
        return trial_fail(t, "NaN or Inf on ranks %llx, report: layer %d, rank %d", (unsigned long long)any,
                          p->bad_layer, p->bad_rank);
    if (any &&
        ((uint32_t)p->bad_layer != first || p->bad_rank >= t->ranks || !(t->m.bad_ranks[first] >> p->bad_rank & 1)))
        return trial_fail(t, "report: NaN or Inf in layer %d of rank %d; the first with any is layer %u", p->bad_layer,
                          p->bad_rank, first);
    return true;
}

static bool check_dense(trial *t, const tw_report *p) {
    double most = 0;
    for (uint32_t l = 0; l < t->nlayer; l++)
        if (t->step.covered[l])
            most += 2.0 * (t->ranks - 1) / t->ranks * (double)(t->layer[l].count * tw_dtype_size(t->layer[l].dtype));
    if (!t->step.incomplete && fabs((double)p->dense_bytes - most) > t->nlayer + 1.0)
        return trial_fail(t, "report: %llu dense bytes, %g are right", (unsigned long long)p->dense_bytes, most);
    return true;
}

static bool check_same(trial *t, int r) {
    const tw_report *a = &t->result[0].report, *b = &t->result[r].report;
    bool same = a->verdict == b->verdict && a->step == b->step && a->dense_bytes == b->dense_bytes &&
                equal_double(a->error_bound, b->error_bound) && a->uncertified == b->uncertified &&
                a->bad_layer == b->bad_layer && a->bad_rank == b->bad_rank;
    return same || trial_fail(t, "the reports of ranks 0 and %d differ: bounds %.9g, %.9g; layers %d, %d; ranks %d, %d",
                              r, a->error_bound, b->error_bound, a->bad_layer, b->bad_layer, a->bad_rank, b->bad_rank);
}

/* One op over all layers, all there: the plan's bytes are what is sent. */
static bool check_plan(trial *t, int r) {
    char rules[MOST_LAYERS * 320] = "";
    tw_layer given[MOST_LAYERS] = {{0}};
    tw_reducer_config c = t->rc;
    tw_plan_info info = TW_PLAN_INFO_INIT;
    uint64_t payloads = 0;
    bool sparse = false;
    for (uint32_t l = 0; l < t->nlayer; l++) {
        char text[256];
        tw_layer_report y = TW_LAYER_REPORT_INIT;
        tw_spec_format(&t->step.spec[l], text, sizeof text);
        strcat(strcat(strcat(strcat(rules, t->layer[l].name), "="), text), ";");
        given[l] = (tw_layer)TW_LAYER_DTYPE(t->layer[l].name, t->layer[l].count, t->layer[l].dtype);
        tw_reducer_layer_report(t->red[r], l, &y);
        payloads += y.wire_bytes;
        sparse = sparse || t->step.spec[l].codec == TW_CODEC_TOPK;
    }
    c.algo = t->step.op[0].gather ? TW_ALGO_GATHER : TW_ALGO_SRA;
    if (tw_plan_compute(r, t->ranks, given, t->nlayer, rules, &c, &info) != TW_OK)
        return trial_fail(t, "no plan: %s", tw_last_error());
    uint64_t sent = t->result[r].report.wire_bytes;
    tally_plan();
    if ((!sparse && sent != info.wire_bytes) || payloads + 32 * info.sends != sent)
        return trial_fail(t, "rank %d sent %llu bytes, the plan says %llu, the layers' reports and headers %llu", r,
                          (unsigned long long)sent, (unsigned long long)info.wire_bytes,
                          (unsigned long long)(payloads + 32 * info.sends));
    return true;
}

static bool plan_applies(const trial *t) {
    bool all = t->step.nop == 1 && !t->post && !t->step.op[0].native && !t->step.op[0].linear;
    for (uint32_t l = 0; all && l < t->nlayer; l++)
        for (int r = 0; r < t->ranks; r++)
            all = all && !t->step.op[0].absent[l][r];
    return all;
}

bool check_reports(trial *t, bool committed) {
    const tw_report *p = &t->result[0].report;
    uint32_t native = 0;
    bool bad = model_step_is_bad(t);
    tw_verdict want = bad ? TW_VERDICT_SKIPPED : t->step.incomplete ? TW_VERDICT_FAILED : TW_VERDICT_OK;
    for (uint32_t l = 0; l < t->nlayer; l++)
        native += t->m.native[l];
    for (int r = 0; r < t->ranks; r++) {
        if (!check_same(t, r) || (plan_applies(t) && !check_plan(t, r)))
            return false;
        t->reported_wire[r] += t->result[r].report.wire_bytes;
    }
    if (p->verdict != want || p->step != t->step.number || (committed && p->uncertified != native))
        return trial_fail(t, "report: verdict %d (%d is right), step %llu, %u uncertified layers (%u are right)",
                          (int)p->verdict, (int)want, (unsigned long long)p->step, p->uncertified, native);
    return check_bad(t, p) && check_dense(t, p) && (t->step.incomplete || check_layers(t, committed));
}

/* ---- bytes, after the last step ---- */

bool check_wire(trial *t) {
    for (int r = 0; r < t->ranks; r++) {
        uint64_t frames, bytes;
        tw_comm_stats s = TW_COMM_STATS_INIT;
        tw_sim_counters(t->sim, r, &frames, &bytes);
        if (tw_comm_get_stats(t->comm[r], &s) != TW_OK || s.sent_bytes != bytes || s.sent_frames != frames)
            return trial_fail(t, "rank %d: %llu bytes in %llu frames by its own count, %llu in %llu by the network's",
                              r, (unsigned long long)s.sent_bytes, (unsigned long long)s.sent_frames,
                              (unsigned long long)bytes, (unsigned long long)frames);
        uint64_t native = 2 * s.native_bytes * (unsigned)(t->ranks - 1) / (unsigned)t->ranks;
        uint64_t least = bytes + (native > 64u * (unsigned)t->ranks * MOST_PIECES ? 1 : 0);
        if (!t->discarded && (t->reported_wire[r] < least || t->reported_wire[r] > bytes + native))
            return trial_fail(t, "rank %d: reports %llu bytes, the network counted %llu and native sums took %llu", r,
                              (unsigned long long)t->reported_wire[r], (unsigned long long)bytes,
                              (unsigned long long)native);
    }
    return true;
}
