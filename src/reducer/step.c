/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One step: begin, push or post, end or discard. */
#include "reducer/reducer.h"
#include "feedback/feedback.h"
#include <math.h>
#include <stdio.h>
#include <time.h>

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* This step's error stays in a residual. One rank alone makes none: what it loaded goes out with the next result. */
static bool holds_back(const tw_reducer *r, const tw_op_layer *v) {
    return v->spec.feedback != TW_FEEDBACK_NONE && r->comm->size > 1;
}

void tw_reducer_view(tw_reducer *r, uint64_t step) {
    for (uint32_t i = 0; i < r->nlayer; i++) {
        const tw_layer_state *l = &r->layer[i];
        tw_op_layer *v = &r->view[i];
        v->name = l->name;
        v->count = l->count;
        v->dtype = l->dtype;
        v->pinned = l->pinned;
        v->shard = l->shard;
        v->spec = *tw_phase_at(l->phase, l->nphase, step);
        v->no_native = l->used || v->spec.feedback != TW_FEEDBACK_NONE;
        v->drain = l->held && !holds_back(r, v);
        v->e = l->slot[l->now];
        v->e_new = l->slot[1 - l->now];
        v->cols = l->cols;
        bool goes_on = tw_left_values(l, &v->spec) && l->left_cols == tw_op_columns(v) && l->left_rank == v->spec.rank;
        v->left = goes_on ? l->left[l->left_now] : NULL;
        v->left_new = tw_left_values(l, &v->spec) ? l->left[1 - l->left_now] : NULL;
        bool dgc = v->spec.feedback == TW_FEEDBACK_DGC;
        v->u = dgc && l->moves ? l->momentum[l->momentum_now] : NULL;
        v->u_new = dgc ? l->momentum[1 - l->momentum_now] : NULL;
        v->momentum = tw_feedback_rate(&v->spec);
        v->cert = l->cert[l->cert_now];
        v->cert_new = l->cert[1 - l->cert_now];
        v->bound_sq = l->bound_sq;
    }
}

uint64_t tw_reducer_dense_bytes(const tw_reducer *r, const tw_layer_state *l) {
    uint64_t bytes = tw_dense_bytes(l->count * tw_dtype_size(l->dtype), (uint64_t)r->comm->size);
    return l->one_way ? bytes / 2 : bytes;
}

static tw_op_args args_of(const tw_reducer *r, tw_kind kind, const tw_piece *piece, uint32_t n) {
    return (tw_op_args){.comm = r->comm,
                        .kind = kind,
                        .told = kind == TW_KIND_REDUCE_SCATTER,
                        .layer = r->view,
                        .nlayer = r->nlayer,
                        .piece = piece,
                        .npiece = n,
                        .algo = r->cfg.algo,
                        .redop = kind == TW_KIND_ALLGATHER ? TW_SUM : r->cfg.redop,
                        .nonfinite = r->cfg.nonfinite,
                        .tile = r->cfg.tile,
                        .frame_bytes = r->cfg.frame_bytes,
                        .in_flight = r->cfg.in_flight,
                        .no_overlap = r->cfg.no_overlap != 0,
                        .input_scale = r->input_scale,
                        .step = r->step,
                        .epoch = r->epoch};
}

void tw_reducer_bucket_args(const tw_reducer *r, const tw_bucket *b, tw_piece *piece, tw_op_args *a) {
    for (uint32_t i = 0; i < b->n; i++) {
        const tw_layer_state *l = &r->layer[b->hi - i];
        piece[i] = (tw_piece)TW_PIECE(b->hi - i, 0, l->count, l->in, l->out);
    }
    *a = args_of(r, TW_KIND_ALLREDUCE, piece, b->n);
}

/* ---- begin ---- */

static tw_status check_scale(const tw_step_args *args, float *out) {
    tw_step_args mine = TW_STEP_ARGS_INIT;
    int exponent;
    *out = 1.0f;
    if (!args)
        return TW_OK;
    tw_status s = tw_sized_take(TW_SIZED(tw_step_args, input_scale), "tw_reducer_begin", args, &mine);
    if (s < 0 || mine.input_scale == 0.0f)
        return s;
    if (!(mine.input_scale > 0) || !isfinite(mine.input_scale) || frexpf(mine.input_scale, &exponent) != 0.5f)
        return tw_fail(TW_ERR_ARG, "input_scale %g is not a power of two: scaling would round",
                       (double)mine.input_scale);
    *out = mine.input_scale;
    return TW_OK;
}

tw_status tw_reducer_begin(tw_reducer *r, uint64_t step, const tw_step_args *args) {
    float scale;
    if (!r)
        return tw_fail(TW_ERR_ARG, "tw_reducer_begin: NULL");
    if (r->mode != TW_MODE_IDLE)
        return tw_fail(TW_ERR_ARG, "step %llu begins while step %llu has not ended", (unsigned long long)step,
                       (unsigned long long)r->step);
    if (r->stepped && step <= r->last_step)
        return tw_fail(TW_ERR_ARG, "step %llu after step %llu: steps must grow", (unsigned long long)step,
                       (unsigned long long)r->last_step);
    tw_status s = check_scale(args, &scale);
    if (s >= 0) {
        tw_comm_lock(r->comm);
        s = tw_comm_refuses(r->comm);
        memcpy(r->kernel_s0, r->comm->kernel_s, sizeof r->kernel_s0);
        tw_comm_unlock(r->comm);
    }
    if (s < 0)
        return s;
    r->mode = TW_MODE_OPEN;
    r->step = step;
    r->input_scale = scale;
    r->next_bucket = 0;
    r->nflying = 0;
    r->refused = false;
    r->wait_s = 0;
    tw_buffers_begin(r);
    for (uint32_t i = 0; i < r->nlayer; i++) {
        tw_layer_state *l = &r->layer[i];
        l->pushed = l->sra = l->kept = l->summed = l->one_way = false;
        l->in = l->out = NULL;
        l->posted = l->wire = 0;
        l->bound_sq_new = l->joint_new = 0;
        l->stale = false;
    }
    for (uint32_t b = 0; b < r->nbucket; b++)
        r->bucket[b].missing = r->bucket[b].n;
    tw_reducer_view(r, step);
    return TW_OK;
}

/* ---- posting ---- */

static tw_status room_for_one_more(tw_reducer *r) {
    if (r->nflying < r->cap_flying)
        return TW_OK;
    tw_op **more = tw_alloc(r->ctx, 2ull * r->cap_flying * sizeof *more);
    if (!more)
        return TW_ERR_NOMEM;
    memcpy(more, r->flying, r->nflying * sizeof *more);
    tw_free(r->ctx, r->flying);
    r->flying = more;
    r->state_bytes += tw_held(2ull * r->cap_flying * sizeof *more) - tw_held(r->cap_flying * sizeof *more);
    r->cap_flying *= 2;
    return TW_OK;
}

/* All ops of two steps of the largest kind: neither a step that repeats nor two that take turns make ops again. */
static uint32_t ops_kept(tw_reducer *r) {
    r->most_flying = r->nflying >= r->most_flying ? r->nflying + 1 : r->most_flying;
    return 2 * r->most_flying > TW_OPS_KEPT ? 2 * r->most_flying : TW_OPS_KEPT;
}

static tw_status launch(tw_reducer *r, const tw_op_args *a, tw_op **out) {
    tw_op *op = NULL;
    tw_comm_lock(r->comm);
    tw_status s = tw_comm_refuses(r->comm);
    r->refused = r->refused || s < 0;
    if (s >= 0)
        s = room_for_one_more(r);
    if (s >= 0)
        s = tw_op_prepare(a, &r->cache, ops_kept(r), &op);
    if (s >= 0) {
        r->flying[r->nflying++] = op;
        tw_op_start(op);
        if (!r->comm->threaded)
            tw_comm_pump(r->comm);
    }
    tw_comm_unlock(r->comm);
    if (s >= 0 && out)
        *out = op;
    return s;
}

static tw_status launch_bucket(tw_reducer *r, tw_bucket *b) {
    tw_op_args a;
    tw_reducer_bucket_args(r, b, r->piece, &a);
    a.apart = true; /* pushes have seen to it */
    tw_status s = launch(r, &a, NULL);
    for (uint32_t i = 0; s >= 0 && i < b->n; i++)
        r->layer[b->hi - i].posted = r->layer[b->hi - i].count;
    r->next_bucket += s >= 0;
    return s;
}

static tw_status in_step(const tw_reducer *r, const char *what, tw_mode mode) {
    if (!r)
        return tw_fail(TW_ERR_ARG, "%s: NULL", what);
    if (r->mode == TW_MODE_IDLE)
        return tw_fail(TW_ERR_ARG, "%s outside a step: call tw_reducer_begin first", what);
    if (r->mode != TW_MODE_OPEN && r->mode != mode)
        return tw_fail(TW_ERR_ARG, "%s: a step uses push or post, not both", what);
    return TW_OK;
}

/* A residual of sums is held by all ranks, one of what is gathered by the owner; bounds likewise. */
static tw_status check_use(const tw_layer_state *l, tw_use use) {
    if (l->use == TW_USE_NONE || l->use == use)
        return TW_OK;
    return tw_fail(TW_ERR_ARG, "layer '%s' was %s before: it cannot be %s until tw_reducer_reset", l->name,
                   use == TW_USE_SUMMED ? "gathered" : "summed", use == TW_USE_SUMMED ? "summed" : "gathered");
}

tw_status tw_reducer_push(tw_reducer *r, uint32_t layer, const void *in, void *out) {
    tw_status s = in_step(r, "tw_reducer_push", TW_MODE_PUSH);
    if (s < 0)
        return s;
    if (layer >= r->nlayer)
        return tw_fail(TW_ERR_ARG, "tw_reducer_push: layer %u of %u", layer, r->nlayer);
    tw_layer_state *l = &r->layer[layer];
    if (l->pushed || l->bucket < r->next_bucket)
        return tw_fail(TW_ERR_ARG, "layer '%s' was pushed already in step %llu, or flushed", l->name,
                       (unsigned long long)r->step);
    s = check_use(l, TW_USE_SUMMED);
    if (s >= 0)
        s = tw_buffers_check_push(r, layer, in, out);
    if (s < 0)
        return s;
    r->mode = TW_MODE_PUSH;
    l->in = in;
    l->out = out;
    l->pushed = true;
    r->bucket[l->bucket].missing--;
    /* Buckets go in one order on all ranks, whatever the order of pushes. */
    while (s >= 0 && r->next_bucket < r->nbucket && r->bucket[r->next_bucket].missing == 0)
        s = launch_bucket(r, &r->bucket[r->next_bucket]);
    if (s < 0) { /* as before the call: it may be pushed again */
        l->in = l->out = NULL;
        l->pushed = false;
        r->bucket[l->bucket].missing++;
    } else {
        l->use = TW_USE_SUMMED;
        tw_buffers_add_push(r, layer);
    }
    return s;
}

static tw_status check_owned(const tw_reducer *r, const char *what, tw_kind kind, uint32_t layer) {
    char where[TW_SENTENCE / 2];
    snprintf(where, sizeof where, "%s, layer '%.100s'", what, r->layer[layer].name);
    if (r->view[layer].spec.feedback == TW_FEEDBACK_DGC && kind == TW_KIND_ALLGATHER)
        return tw_fail(TW_ERR_UNSUPPORTED, "%s: momentum under dgc is of what is summed; gather it without", where);
    return tw_codec_check_owned(&r->view[layer].spec, where);
}

static tw_status check_pieces(const tw_reducer *r, const char *what, tw_kind kind, tw_use use, const tw_piece *pieces,
                              uint32_t n) {
    tw_status s = TW_OK;
    if (n && !pieces)
        return tw_fail(TW_ERR_ARG, "%s: %u pieces, but the array is NULL", what, n);
    if (n && pieces[0].size != sizeof(tw_piece))
        return tw_fail(TW_ERR_ARG, "a tw_piece of %u bytes: start from TW_PIECE", pieces[0].size);
    for (uint32_t i = 0; i < n; i++)
        if (pieces[i].layer >= r->nlayer)
            return tw_fail(TW_ERR_ARG, "piece %u: layer %u of %u", i, pieces[i].layer, r->nlayer);
    for (uint32_t i = 0; i < n && s >= 0; i++)
        s = check_use(&r->layer[pieces[i].layer], use);
    for (uint32_t i = 0; i < n && s >= 0 && kind != TW_KIND_ALLREDUCE; i++)
        s = check_owned(r, what, kind, pieces[i].layer);
    return s;
}

static tw_status post(tw_reducer *r, const char *what, tw_kind kind, const tw_piece *pieces, uint32_t n, tw_req **out) {
    tw_op *op;
    tw_req *q = NULL;
    bool apart = false;
    tw_use use = kind == TW_KIND_ALLGATHER ? TW_USE_GATHERED : TW_USE_SUMMED;
    tw_status s = in_step(r, what, TW_MODE_POST);
    if (s >= 0)
        s = check_pieces(r, what, kind, use, pieces, n);
    if (s >= 0)
        s = tw_buffers_check_post(r, pieces, n, &apart);
    if (s >= 0 && out) {
        q = tw_alloc(r->ctx, sizeof *q);
        s = q ? TW_OK : TW_ERR_NOMEM;
    }
    if (s >= 0) {
        tw_op_args a = args_of(r, kind, pieces, n);
        a.apart = apart;
        s = launch(r, &a, &op);
    }
    if (s < 0) {
        tw_free(r ? r->ctx : NULL, q);
        return s;
    }
    r->mode = TW_MODE_POST;
    tw_buffers_add_post(r, pieces, n);
    for (uint32_t i = 0; i < n; i++) {
        tw_layer_state *l = &r->layer[pieces[i].layer];
        l->posted += pieces[i].count;
        l->use = use;
        l->one_way = kind != TW_KIND_ALLREDUCE;
    }
    if (q) {
        tw_comm_lock(r->comm);
        *q = (tw_req){.comm = r->comm, .op = op, .status = TW_IN_PROGRESS};
        op->req = q;
        r->comm->users++;
        tw_comm_unlock(r->comm);
        *out = q;
    }
    return TW_OK;
}

tw_status tw_reducer_post(tw_reducer *r, const tw_piece *pieces, uint32_t n, tw_req **out) {
    return post(r, "tw_reducer_post", TW_KIND_ALLREDUCE, pieces, n, out);
}

tw_status tw_reducer_post_reduce_scatter(tw_reducer *r, const tw_piece *pieces, uint32_t n, tw_req **out) {
    return post(r, "tw_reducer_post_reduce_scatter", TW_KIND_REDUCE_SCATTER, pieces, n, out);
}

tw_status tw_reducer_post_allgather(tw_reducer *r, const tw_piece *pieces, uint32_t n, tw_req **out) {
    return post(r, "tw_reducer_post_allgather", TW_KIND_ALLGATHER, pieces, n, out);
}

/* ---- end ---- */

static tw_status post_what_is_left(tw_reducer *r) {
    tw_status s = TW_OK;
    if (r->mode == TW_MODE_POST)
        return TW_OK;
    while (s >= 0 && r->next_bucket < r->nbucket)
        s = launch_bucket(r, &r->bucket[r->next_bucket]);
    if (s < 0) { /* the peers wait for these ops */
        tw_comm_lock(r->comm);
        tw_comm_poison(r->comm, s, true);
        tw_comm_unlock(r->comm);
    }
    return s;
}

tw_status tw_reducer_flush(tw_reducer *r) {
    tw_status s = in_step(r, "tw_reducer_flush", TW_MODE_PUSH);
    if (s < 0)
        return s;
    r->mode = TW_MODE_PUSH;
    return post_what_is_left(r);
}

static double kernel_seconds(tw_comm *c) {
    double sum = 0;
    tw_comm_lock(c);
    for (int k = 0; k < TW_K_COUNT; k++)
        sum += c->kernel_s[k];
    tw_comm_unlock(c);
    return sum;
}

static tw_status wait_for_all(tw_reducer *r) {
    tw_status worst = TW_OK;
    char sentence[TW_SENTENCE] = "";
    double t0 = seconds(), busy = kernel_seconds(r->comm);
    for (uint32_t i = 0; i < r->nflying; i++) {
        tw_status s = tw_op_wait(r->flying[i], 0);
        if (s < 0 && (worst >= 0 || worst == TW_ERR_NONFINITE)) {
            worst = s;
            snprintf(sentence, sizeof sentence, "%s", tw_last_error());
        }
    }
    r->wait_s = seconds() - t0 - (r->comm->threaded ? 0 : kernel_seconds(r->comm) - busy);
    if (worst < 0)
        tw_set_error(sentence);
    return worst;
}

/* A layer posted in part would leave tiles of the new buffers unwritten. */
static tw_status check_whole_layers(const tw_reducer *r) {
    for (uint32_t i = 0; i < r->nlayer; i++)
        if (r->layer[i].posted && r->layer[i].posted != r->layer[i].count)
            return tw_fail(TW_ERR_ARG,
                           "step %llu: %llu of the %llu values of layer '%s' were posted; all or none must be",
                           (unsigned long long)r->step, (unsigned long long)r->layer[i].posted,
                           (unsigned long long)r->layer[i].count, r->layer[i].name);
    return TW_OK;
}

static void collect(tw_reducer *r, const tw_op *op) {
    bool native = op->plan->native_bytes != 0, plain = native && !op->plan->linear;
    for (uint32_t i = 0; i < op->x.nlayer; i++) {
        const tw_exec_layer *x = &op->x.layer[i];
        tw_layer_state *l = &r->layer[op->layer_of[i]];
        l->wire += x->absent && !native ? 0 : op->layer_wire[i];
        l->wire += op->plan->part ? op->x.part_of[i].sent : 0;
        l->kept = l->kept || x->kept;
        l->summed = l->summed || plain;
        l->sra = l->sra || (!plain && l->posted); /* a piece without values wrote no residual */
        l->bound_sq_new += x->bound_sq;
        l->joint_new += x->joint;
        l->stale = l->stale || x->stale;
    }
    if (op->x.bad_layer >= 0) {
        int32_t layer = (int32_t)op->layer_of[op->x.bad_layer];
        if (r->report.bad_layer < 0 || layer < r->report.bad_layer) {
            r->report.bad_layer = layer;
            r->report.bad_rank = op->x.bad_rank;
        }
    }
    r->report.wire_bytes += op->sent;
}

/* Late commit: the step's copies of the residuals and of the certificate become the valid ones. */
static void commit(tw_reducer *r) {
    for (uint32_t i = 0; i < r->nlayer; i++) {
        tw_layer_state *l = &r->layer[i];
        bool ef = holds_back(r, &r->view[i]);
        l->native = l->native || l->summed;
        if (!l->sra)
            continue;
        if (l->slot[0] && (ef || r->view[i].drain)) {
            l->now = 1 - l->now;
            l->held = ef || l->kept;
        }
        if (r->view[i].left_new) {
            l->left_now = 1 - l->left_now;
            l->left_cols = tw_op_columns(&r->view[i]);
            l->left_rank = r->view[i].spec.rank;
        }
        l->moves = r->view[i].u_new != NULL;
        l->momentum_now ^= l->moves;
        l->used = l->used || r->view[i].spec.feedback != TW_FEEDBACK_NONE;
        l->cert_now = 1 - l->cert_now;
        l->bound_sq = l->bound_sq_new + (l->stale ? l->bound_sq : 0);
        l->joint += l->joint_new;
    }
    r->epoch++;
}

static void begin_report(tw_reducer *r) {
    r->report = (tw_report)TW_REPORT_INIT;
    r->report.step = r->step;
    for (uint32_t i = 0; i < r->nflying; i++)
        collect(r, r->flying[i]);
}

static void finish_report(tw_reducer *r, tw_verdict verdict) {
    static const char *const names[] = {
        [TW_VERDICT_OK] = "ended well", [TW_VERDICT_SKIPPED] = "was skipped", [TW_VERDICT_FAILED] = "failed"};
    tw_report *p = &r->report;
    double sq = 0, k[TW_K_COUNT];
    tw_comm_lock(r->comm);
    for (int i = 0; i < TW_K_COUNT; i++)
        k[i] = r->comm->kernel_s[i] - r->kernel_s0[i];
    tw_comm_unlock(r->comm);
    for (uint32_t i = 0; i < r->nlayer; i++) {
        const tw_layer_state *l = &r->layer[i];
        if (l->posted)
            p->dense_bytes += tw_reducer_dense_bytes(r, l);
        p->uncertified += l->native;
        sq += l->native ? 0 : tw_layer_bound(l) * tw_layer_bound(l);
    }
    p->verdict = verdict;
    p->error_bound = sqrt(sq);
    p->encode_s = k[TW_K_SELECT] + k[TW_K_ENCODE] + k[TW_K_PUBLISH] + k[TW_K_PRESCALE] + k[TW_K_START] + k[TW_K_RIGHT] +
                  k[TW_K_LEFT];
    p->reduce_s = k[TW_K_REDUCE] + k[TW_K_ANSWER] + k[TW_K_ORTHO];
    p->decode_s = k[TW_K_VERDICT] + k[TW_K_DECODE] + k[TW_K_POSTSCALE];
    p->wait_s = r->wait_s > 0 ? r->wait_s : 0;
    r->total.ended++;
    r->total.skipped += verdict == TW_VERDICT_SKIPPED;
    r->total.failed += verdict == TW_VERDICT_FAILED;
    r->total.wire_bytes += p->wire_bytes;
    r->total.dense_bytes += p->dense_bytes;
    tw_log(
        r->ctx, TW_LOG_DEBUG,
        "rank %d: step %llu %s; %llu bytes on the wire instead of %llu; error at most %.3g; encode %.3f, reduce %.3f, "
        "decode %.3f, wait %.3f ms",
        r->comm->rank, (unsigned long long)p->step, names[verdict], (unsigned long long)p->wire_bytes,
        (unsigned long long)p->dense_bytes, p->error_bound, 1e3 * p->encode_s, 1e3 * p->reduce_s, 1e3 * p->decode_s,
        1e3 * p->wait_s);
}

/* Requests outlive their step: they take the outcome with them. */
static void close_step(tw_reducer *r) {
    tw_comm_lock(r->comm);
    for (uint32_t i = 0; i < r->nflying; i++) {
        tw_op *op = r->flying[i];
        if (op->req) {
            op->req->status = op->status;
            memcpy(op->req->sentence, op->sentence, sizeof op->sentence);
            op->req->op = NULL;
        }
        op->req = NULL;
        op->busy = false;
    }
    tw_comm_unlock(r->comm);
    r->nflying = 0;
    r->mode = TW_MODE_IDLE;
    r->last_step = r->step;
    r->stepped = true;
}

static tw_status end_step(tw_reducer *r, bool keep) {
    tw_status s = post_what_is_left(r), w = wait_for_all(r);
    if (s >= 0 || (s == TW_ERR_POISONED && w < 0)) /* the cause, not what followed from it */
        s = w;
    if (s >= 0 && r->refused)
        s = tw_comm_refuses(r->comm);
    if (s >= 0 && keep)
        s = check_whole_layers(r);
    begin_report(r);
    bool skipped = s == TW_ERR_NONFINITE;
    if (s >= 0 && keep)
        commit(r);
    if (skipped && (r->cfg.nonfinite == TW_NONFINITE_SKIP || !keep))
        s = TW_OK;
    finish_report(r, skipped ? TW_VERDICT_SKIPPED : s < 0 ? TW_VERDICT_FAILED : TW_VERDICT_OK);
    close_step(r);
    return s;
}

tw_status tw_reducer_end(tw_reducer *r, tw_report *out) {
    const tw_sized *report = TW_SIZED(tw_report, step);
    if (!r)
        return tw_fail(TW_ERR_ARG, "tw_reducer_end: NULL");
    if (r->mode == TW_MODE_IDLE)
        return tw_fail(TW_ERR_ARG, "tw_reducer_end outside a step: call tw_reducer_begin first");
    tw_status s = out ? tw_sized_check(report, "tw_reducer_end", out) : TW_OK;
    if (s < 0)
        return s;
    s = end_step(r, true);
    if (out) /* set on failure too: which layer and rank is what the caller wants to know then */
        tw_sized_fill(report, out, &r->report);
    return s;
}

tw_status tw_reducer_discard(tw_reducer *r) {
    if (!r || r->mode == TW_MODE_IDLE)
        return tw_fail(TW_ERR_ARG, "tw_reducer_discard: %s", r ? "outside a step" : "NULL");
    return end_step(r, false);
}
