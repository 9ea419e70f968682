/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Creation with agreement, destruction, memory, residuals on request. */
#include "reducer/reducer.h"
#include "transports/sim.h"
#include <math.h>
#include <stdio.h>

static void say_made(const tw_reducer *r, const char *rules) {
    uint64_t values = 0;
    for (uint32_t i = 0; tw_logs(r->ctx, TW_LOG_INFO) && i < r->nlayer; i++)
        values += r->layer[i].count;
    tw_log(r->ctx, TW_LOG_INFO,
           "rank %d: reducer of %u layers, %llu values, in %u buckets; %llu bytes of state; rules '%.200s'",
           r->comm->rank, r->nlayer, (unsigned long long)values, r->nbucket, (unsigned long long)r->state_bytes,
           rules ? rules : "");
}

static void say_totals(const tw_reducer *r) {
    tw_log(r->ctx, TW_LOG_INFO,
           "rank %d: reducer destroyed after %llu steps, of which %llu skipped and %llu failed; %llu bytes on the wire "
           "instead of %llu",
           r->comm->rank, (unsigned long long)r->total.ended, (unsigned long long)r->total.skipped,
           (unsigned long long)r->total.failed, (unsigned long long)r->total.wire_bytes,
           (unsigned long long)r->total.dense_bytes);
}

/* ---- agreement over a real transport ---- */

static const char asks[] = "tw_reducer_create: comparing layers";

typedef struct named {
    uint64_t count, cols;
    uint32_t dtype;
    char name[108];
} named;

/* All ranks know that lists differ: find the first difference and say what stands there. */
static tw_status name_difference(tw_reducer *r, const tw_manifest *all, uint32_t least) {
    tw_comm *c = r->comm;
    uint64_t n = least ? least : 1;
    uint64_t *mine = tw_alloc(c->ctx, n * sizeof *mine), *hash = tw_alloc(c->ctx, n * (unsigned)c->size * sizeof *hash);
    named self = {0}, *who = tw_alloc(c->ctx, (unsigned)c->size * sizeof *who);
    tw_status s = mine && hash && who ? TW_OK : TW_ERR_NOMEM;
    for (uint32_t i = 0; s >= 0 && i < least; i++)
        mine[i] = tw_reducer_layer_hash(&r->layer[i]);
    if (s >= 0)
        s = tw_comm_gather(c, asks, mine, hash, n * sizeof *mine);
    uint32_t at = 0;
    for (bool same = true; s >= 0 && at < least; at += same) {
        for (int k = 1; k < c->size && same; k++)
            same = hash[(uint64_t)k * n + at] == hash[at];
        if (!same)
            break;
    }
    if (s >= 0 && at < r->nlayer) {
        self.count = r->layer[at].count;
        self.cols = r->layer[at].cols;
        self.dtype = (uint32_t)r->layer[at].dtype;
        strncpy(self.name, r->layer[at].name, sizeof self.name - 1);
    }
    if (s >= 0)
        s = tw_comm_gather(c, asks, &self, who, sizeof self);
    for (int k = 0; s >= 0 && k < c->size && at == least; k++) /* as far as they go they are equal */
        if (all[k].nlayer != r->nlayer)
            s = tw_fail(TW_ERR_MISMATCH, "rank %d has %u layers and rank %d has %u; the first %u are the same", k,
                        all[k].nlayer, c->rank, r->nlayer, least);
    for (int k = 0; s >= 0 && k < c->size; k++)
        if (who[k].count != self.count || who[k].cols != self.cols || who[k].dtype != self.dtype ||
            strcmp(who[k].name, self.name) != 0 || all[k].nlayer != r->nlayer) {
            who[k].name[sizeof who[k].name - 1] = 0;
            s = tw_fail(TW_ERR_MISMATCH,
                        "layer %u is '%s' (%llu %s, columns %llu) on rank %d and '%s' (%llu %s, columns %llu) on rank "
                        "%d; they have "
                        "%u and %u layers",
                        at, who[k].name, (unsigned long long)who[k].count, tw_dtype_name((tw_dtype)who[k].dtype),
                        (unsigned long long)who[k].cols, k, self.name, (unsigned long long)self.count,
                        tw_dtype_name((tw_dtype)self.dtype), (unsigned long long)self.cols, c->rank, all[k].nlayer,
                        r->nlayer);
        }
    if (s >= 0) /* this rank's list equals rank k's for all k that were compared, but not all of theirs are equal */
        s = tw_fail(TW_ERR_MISMATCH, "other ranks disagree on layer %u ('%s' on this rank, %d)", at, self.name,
                    c->rank);
    tw_free(c->ctx, mine);
    tw_free(c->ctx, hash);
    tw_free(c->ctx, who);
    return s;
}

static tw_status agree(tw_comm *c, tw_reducer *r, const tw_manifest *mine) {
    tw_manifest *all = tw_alloc(c->ctx, (unsigned)c->size * sizeof *all);
    if (!all)
        return TW_ERR_NOMEM;
    tw_status s = tw_comm_gather(c, asks, mine, all, sizeof *all);
    for (int k = 0; k < c->size && s >= 0 && mine->status >= 0; k++)
        s = tw_manifest_compare(mine, &all[k], k);
    uint32_t least = UINT32_MAX;
    bool differ = false;
    for (int k = 0; k < c->size && s >= 0; k++) {
        least = all[k].nlayer < least ? all[k].nlayer : least;
        differ = differ || all[k].nlayer != all[0].nlayer || all[k].layers != all[0].layers;
    }
    if (s >= 0 && mine->status >= 0 && differ)
        s = name_difference(r, all, least);
    tw_free(c->ctx, all);
    return s;
}

tw_status tw_reducer_create(tw_comm *c, const tw_layer *layers, uint32_t n, const char *rules,
                            const tw_reducer_config *cfg, tw_reducer **out) {
    tw_reducer *r = NULL;
    tw_manifest mine = {0};
    char sentence[TW_SENTENCE];
    if (!c)
        return tw_fail(TW_ERR_ARG, "tw_reducer_create: comm is NULL");
    tw_status s = tw_comm_refuses(c), made;
    if (s < 0)
        return s;
    made = out ? tw_reducer_make(c, layers, n, rules, cfg, &r) : tw_fail(TW_ERR_ARG, "tw_reducer_create: out is NULL");
    if (made >= 0)
        tw_reducer_manifest(r, &mine);
    else
        snprintf(sentence, sizeof sentence, "%s", tw_last_error());
    mine.status = (int32_t)made; /* a rank that failed tells the others, or they would wait for it */
    mine.rank = (uint32_t)c->rank;
    tw_comm_lock(c);
    s = agree(c, r, &mine);
    tw_comm_unlock(c);
    if (made < 0)
        tw_set_error(sentence);
    s = made < 0 ? made : s;
    if (s < 0) {
        if (r)
            tw_reducer_unmake(r);
        return s;
    }
    c->users++;
    say_made(r, rules);
    *out = r;
    return TW_OK;
}

/* ---- agreement in sim: one call makes all ranks' reducers ---- */

static tw_status compare_in_memory(tw_reducer *const r[], const tw_manifest *m, int size, int me) {
    for (int k = 0; k < size; k++) {
        tw_status s = tw_manifest_compare(&m[me], &m[k], k);
        if (s < 0)
            return s;
        uint32_t least = m[k].nlayer < m[me].nlayer ? m[k].nlayer : m[me].nlayer;
        for (uint32_t i = 0; i < least; i++)
            if (tw_reducer_layer_hash(&r[k]->layer[i]) != tw_reducer_layer_hash(&r[me]->layer[i]))
                return tw_fail(
                    TW_ERR_MISMATCH,
                    "layer %u is '%s' (%llu %s, columns %llu) on rank %d and '%s' (%llu %s, columns %llu) on "
                    "rank %d",
                    i, r[k]->layer[i].name, (unsigned long long)r[k]->layer[i].count,
                    tw_dtype_name(r[k]->layer[i].dtype), (unsigned long long)r[k]->layer[i].cols, k,
                    r[me]->layer[i].name, (unsigned long long)r[me]->layer[i].count,
                    tw_dtype_name(r[me]->layer[i].dtype), (unsigned long long)r[me]->layer[i].cols, me);
        if (m[k].nlayer != m[me].nlayer)
            return tw_fail(TW_ERR_MISMATCH, "rank %d has %u layers, rank %d has %u", k, m[k].nlayer, me, m[me].nlayer);
    }
    return TW_OK;
}

tw_status tw_sim_reducers(tw_sim *sim, tw_comm *const comms[], const tw_layer *const layers[], const uint32_t n[],
                          const char *const rules[], const tw_reducer_config *const cfg[], tw_reducer *out[]) {
    if (!sim || !comms || !layers || !n || !rules || !cfg || !out)
        return tw_fail(TW_ERR_ARG, "tw_sim_reducers: NULL");
    int size = tw_sim_ranks(sim), made = 0;
    tw_manifest *m = tw_alloc(comms[0]->ctx, (unsigned)size * sizeof *m);
    tw_status s = m ? TW_OK : TW_ERR_NOMEM;
    for (; made < size && s >= 0; made++) {
        s = tw_reducer_make(comms[made], layers[made], n[made], rules[made], cfg[made], &out[made]);
        if (s < 0)
            break;
        tw_reducer_manifest(out[made], &m[made]);
    }
    for (int r = 0; r < size && s >= 0; r++)
        s = compare_in_memory(out, m, size, r);
    tw_free(comms[0]->ctx, m);
    for (int r = 0; r < made; r++) {
        if (s < 0) {
            tw_reducer_unmake(out[r]);
            out[r] = NULL;
        } else {
            comms[r]->users++;
            say_made(out[r], rules[r]);
        }
    }
    return s;
}

/* ---- the rest of its life ---- */

tw_status tw_reducer_destroy(tw_reducer *r) {
    if (!r)
        return TW_OK;
    tw_comm_lock(r->comm);
    bool flying = false;
    for (uint32_t i = 0; i < r->nflying; i++)
        flying = flying || !r->flying[i]->finished;
    if (flying) {
        tw_comm_unlock(r->comm);
        return tw_fail(TW_ERR_ARG, "rank %d: ops of step %llu are under way: end or discard it first", r->comm->rank,
                       (unsigned long long)r->step);
    }
    for (uint32_t i = 0; i < r->nflying; i++)
        if (r->flying[i]->req)
            tw_req_keep(r->flying[i]->req, r->flying[i]);
    r->comm->users--;
    tw_comm *c = r->comm;
    say_totals(r);
    tw_reducer_unmake(r);
    tw_comm_unlock(c);
    return TW_OK;
}

tw_status tw_reducer_memory(const tw_reducer *r, tw_memory *out) {
    tw_memory m = TW_MEMORY_INIT;
    const tw_sized *memory = TW_SIZED(tw_memory, frame_bytes);
    tw_status s = r ? tw_sized_check(memory, "tw_reducer_memory", out)
                    : tw_fail(TW_ERR_ARG, "tw_reducer_memory: the reducer is NULL");
    if (s < 0)
        return s;
    m.state_bytes = r->state_bytes;
    tw_comm_lock(r->comm);
    for (const tw_op *op = r->cache; op; op = op->next_cached)
        m.frame_bytes += tw_op_bytes(op);
    tw_comm_unlock(r->comm);
    tw_sized_fill(memory, out, &m);
    return TW_OK;
}

tw_status tw_reducer_reset(tw_reducer *r) {
    if (!r || r->mode != TW_MODE_IDLE)
        return tw_fail(TW_ERR_ARG, "tw_reducer_reset: %s", r ? "inside a step" : "NULL");
    for (uint32_t i = 0; i < r->nlayer; i++) {
        tw_layer_state *l = &r->layer[i];
        for (int k = 0; k < 2; k++) {
            if (l->slot[k])
                memset(l->slot[k], 0, l->count * sizeof(float));
            if (l->cert[k])
                memset(l->cert[k], 0, l->tiles * sizeof(tw_cert));
        }
        l->used = l->held = l->native = false;
        l->use = TW_USE_NONE;
        l->bound_sq = l->joint = 0;
        l->left_cols = 0;
        l->moves = false;
    }
    r->epoch++;
    return TW_OK;
}

static tw_status check_layer(const tw_reducer *r, uint32_t layer, const void *out, const char *what) {
    if (!r || !out)
        return tw_fail(TW_ERR_ARG, "%s: NULL", what);
    if (layer >= r->nlayer)
        return tw_fail(TW_ERR_ARG, "%s: layer %u of %u", what, layer, r->nlayer);
    return TW_OK;
}

tw_status tw_reducer_residual(const tw_reducer *r, uint32_t layer, float *dst) {
    tw_status s = check_layer(r, layer, dst, "tw_reducer_residual");
    if (s < 0)
        return s;
    const tw_layer_state *l = &r->layer[layer];
    if (l->slot[l->now])
        memcpy(dst, l->slot[l->now], l->count * sizeof(float));
    else
        memset(dst, 0, l->count * sizeof(float));
    return TW_OK;
}

tw_status tw_reducer_layer_report(const tw_reducer *r, uint32_t layer, tw_layer_report *out) {
    tw_status s = check_layer(r, layer, out, "tw_reducer_layer_report");
    if (s < 0)
        return s;
    const tw_sized *report = TW_SIZED(tw_layer_report, dense_bytes);
    s = tw_sized_check(report, "tw_reducer_layer_report", out);
    if (s < 0)
        return s;
    const tw_layer_state *l = &r->layer[layer];
    double held = 0;
    for (uint64_t i = 0; l->slot[l->now] && i < l->count; i++)
        held += (double)l->slot[l->now][i] * l->slot[l->now][i];
    tw_layer_report mine = {.size = sizeof mine,
                            .certified = !l->native,
                            .spec = r->view[layer].spec,
                            .dense_bytes = tw_reducer_dense_bytes(r, l),
                            .wire_bytes = l->wire,
                            .error_bound = tw_layer_bound(l),
                            .residual_norm = sqrt(held)};
    tw_sized_fill(report, out, &mine);
    return TW_OK;
}
