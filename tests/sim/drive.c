/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The library's side of a trial: communicators and reducers over sim, and one step with the ranks' calls interleaved at
 * random. Blocking calls come last: one thread plays all ranks. */
#include "trial.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening and closing ---- */

void *count_alloc(void *arg, size_t bytes, size_t align) {
    ++*(uint64_t *)arg;
    return aligned_alloc(align, bytes);
}

void count_release(void *arg, void *p) {
    --*(uint64_t *)arg;
    free(p);
}

/* Arguments of creation; one rank's may be changed on purpose. */
typedef struct creation {
    tw_layer layer[MOST_RANKS][MOST_LAYERS];
    const tw_layer *layers[MOST_RANKS];
    uint32_t n[MOST_RANKS];
    const char *rules[MOST_RANKS];
    tw_reducer_config config[MOST_RANKS];
    const tw_reducer_config *configs[MOST_RANKS];
    char name[32];
} creation;

static void fill_creation(const trial *t, creation *c) {
    for (int r = 0; r < t->ranks; r++) {
        for (uint32_t l = 0; l < t->nlayer; l++)
            c->layer[r][l] = (tw_layer)TW_LAYER_DTYPE(t->layer[l].name, t->layer[l].count, t->layer[l].dtype);
        c->layers[r] = c->layer[r];
        c->n[r] = t->nlayer;
        c->rules[r] = *t->rules ? t->rules : NULL;
        c->config[r] = t->rc;
        c->configs[r] = &c->config[r];
    }
}

/* Returns a word that the sentence must contain. */
static const char *spoil(const trial *t, creation *c) {
    tw_layer *l = &c->layer[t->odd_rank][t->odd_how / 16 % t->nlayer];
    tw_reducer_config *g = &c->config[t->odd_rank];
    switch (t->odd_how % 9) {
    case 0:
        l->count++;
        return l->name;
    case 1:
        l->dtype = l->dtype == TW_BF16 ? TW_F32 : TW_BF16;
        return l->name;
    case 2:
        snprintf(c->name, sizeof c->name, "%s_", l->name);
        l->name = c->name;
        return c->name;
    case 3:
        c->n[t->odd_rank]--;
        return "layers";
    case 4:
        c->rules[t->odd_rank] = "*=cast:type=bf16 until 77 then none";
        return "rules";
    case 5:
        g->redop = g->redop == TW_SUM ? TW_AVG : TW_SUM;
        return "redop";
    case 6:
        g->frame_bytes = g->frame_bytes == 512 ? 2048 : 512;
        return "frame_bytes";
    case 7:
        g->bucket_bytes = 12345;
        return "bucket_bytes";
    default:
        g->in_flight = g->in_flight == 7 ? 9 : 7;
        return "in_flight";
    }
}

static bool make_reducers(trial *t) {
    creation *c = calloc(1, sizeof *c);
    if (!c)
        return trial_fail(t, "out of memory");
    fill_creation(t, c);
    bool odd = t->kind == KIND_ODD_CREATE;
    const char *word = odd ? spoil(t, c) : "";
    tw_status s = tw_sim_reducers(t->sim, t->comm, c->layers, c->n, c->rules, c->configs, t->red);
    if (odd && s != TW_ERR_MISMATCH)
        trial_fail(t, "ranks disagree (%s) and creation says %s", word, tw_status_name(s));
    else if (odd && !strstr(tw_last_error(), word))
        trial_fail(t, "ranks disagree, and '%s' does not say '%s'", tw_last_error(), word);
    else if (!odd && s != TW_OK)
        trial_fail(t, "creation: %s: %s", tw_status_name(s), tw_last_error());
    if (s < 0)
        memset(t->red, 0, sizeof t->red);
    free(c);
    return !t->failed;
}

bool drive_open(trial *t) {
    tw_ctx_config cc = TW_CTX_CONFIG_INIT;
    cc.alloc = count_alloc;
    cc.release = count_release;
    cc.alloc_arg = &t->allocations;
    cc.timeout_s = t->deadline;
    tw_status s = tw_ctx_create(&cc, &t->ctx);
    cc.alloc_arg = &t->sim_allocations; /* the network's own memory grows as it likes */
    if (s >= 0)
        s = tw_ctx_create(&cc, &t->sim_ctx);
    if (s >= 0)
        s = tw_sim_create(t->sim_ctx, &t->net, &t->sim);
    if (s >= 0)
        s = tw_sim_comms(t->sim, t->ctx, t->comm);
    if (s < 0)
        return trial_fail(t, "opening: %s", tw_last_error());
    return make_reducers(t);
}

void drive_close(trial *t) {
    tw_status worst = TW_OK, s;
    for (int r = 0; r < t->ranks; r++) {
        s = tw_reducer_destroy(t->red[r]);
        worst = s < 0 ? s : worst;
    }
    for (int r = 0; r < t->ranks; r++) {
        s = tw_comm_destroy(t->comm[r]);
        worst = s < 0 ? s : worst;
    }
    s = tw_sim_destroy(t->sim);
    worst = s < 0 ? s : worst;
    s = tw_ctx_destroy(t->ctx);
    worst = s < 0 ? s : worst;
    s = tw_ctx_destroy(t->sim_ctx);
    worst = s < 0 ? s : worst;
    if (worst < 0)
        trial_fail(t, "closing: %s", tw_last_error());
    else if (t->allocations || t->sim_allocations)
        trial_fail(t, "%llu allocations were not given back",
                   (unsigned long long)(t->allocations + t->sim_allocations));
}

/* ---- one step ---- */

typedef struct session {
    uint32_t todo[MOST_RANKS][MOST_LAYERS + MOST_OPS], left[MOST_RANKS], total;
    tw_req *req[MOST_OPS][MOST_RANKS];
} session;

static bool is_odd(const trial *t, int r, odd_kind k) {
    return t->kind == KIND_ODD_STEP && r == t->odd_rank && t->step.index == t->odd_step && t->odd == k;
}

static void note(rank_result *q, tw_status *where, tw_status s) {
    if (s < 0 && *where >= 0) {
        *where = s;
        if (!*q->why)
            snprintf(q->why, sizeof q->why, "%s", tw_last_error());
    }
}

static void begin(trial *t, int r) {
    rank_result *q = &t->result[r];
    tw_step_args a = TW_STEP_ARGS_INIT;
    a.input_scale = t->step.scale[r];
    uint64_t number = t->step.number + is_odd(t, r, ODD_STEP);
    note(q, &q->begin,
         tw_reducer_begin(t->red[r], number, a.input_scale == 1.0f && rng_chance(&t->rng, 50) ? NULL : &a));
}

static void plan_calls(trial *t, session *s, int r) {
    uint32_t n = t->post ? t->step.nop : t->nlayer, *todo = s->todo[r], missing = UINT32_MAX, k = 0;
    if (is_odd(t, r, ODD_MISSING) && n > 1) /* to post nothing is to have no layer: nothing odd */
        missing = t->odd_how % n;
    for (uint32_t i = 0; i < n; i++)
        if (i != missing)
            todo[k++] = i;
    for (uint32_t i = k; !t->post && i > 1; i--) { /* pushes come in any order */
        uint32_t j = (uint32_t)rng_below(&t->rng, i), x = todo[i - 1];
        todo[i - 1] = todo[j];
        todo[j] = x;
    }
    if (is_odd(t, r, ODD_SWAPPED) && k > 1) {
        uint32_t x = todo[0];
        todo[0] = todo[1];
        todo[1] = x;
    }
    s->left[r] = k;
    s->total += k;
}

static void *address(const trial *t, bool there, size_t at) {
    return there ? t->memory + at : NULL;
}

static void post(trial *t, session *s, int r, uint32_t i) {
    const op_plan *op = &t->step.op[i];
    tw_piece piece[MOST_PIECES];
    uint32_t n = 0, without = UINT32_MAX;
    rank_result *q = &t->result[r];
    if (is_odd(t, r, ODD_PIECES) && i == t->odd_how % t->step.nop && op->npiece)
        without = op->piece[t->odd_how / 64 % op->npiece].layer;
    for (uint32_t k = 0; k < op->npiece; k++) {
        const part *p = &op->part[k][r];
        if (op->piece[k].layer == without)
            continue;
        piece[n] = op->piece[k];
        piece[n].in = address(t, p->has_in, p->in);
        piece[n++].out = address(t, p->has_out, p->out);
    }
    refused_post(t, r, i, piece, n);
    tw_status st = tw_reducer_post(t->red[r], piece, n, rng_chance(&t->rng, 70) ? &s->req[i][r] : NULL);
    q->posted[i] = st >= 0;
    note(q, &q->post, st);
}

static void push_part(trial *t, int r, uint32_t l, const part *p) {
    rank_result *q = &t->result[r];
    tw_status st = tw_reducer_push(t->red[r], l, address(t, p->has_in, p->in), address(t, p->has_out, p->out));
    note(q, &q->post, st);
    if (st >= 0)
        refused_push(t, r, l);
}

static void push(trial *t, int r, uint32_t l) {
    rank_result *q = &t->result[r];
    for (uint32_t i = 0; i < t->step.nop; i++)
        for (uint32_t k = 0; k < t->step.op[i].npiece; k++) {
            const part *p = &t->step.op[i].part[k][r];
            if (t->step.op[i].piece[k].layer != l)
                continue;
            q->posted[i] = true;
            if (p->has_in || p->has_out || rng_chance(&t->rng, 40))
                push_part(t, r, l, p);
            else
                q->unpushed = true;
        }
}

/* What was not pushed is posted by flush, or by `end`: the other ranks wait for that, so only the first to end may do
 * so. */
static void flush(trial *t) {
    for (int r = 0; r < t->ranks; r++) {
        rank_result *q = &t->result[r];
        if (q->begin >= 0 && q->unpushed && (r != t->step.first_to_end || rng_chance(&t->rng, 50))) {
            note(q, &q->post, tw_reducer_flush(t->red[r]));
            q->flushed = true;
        }
    }
}

static void one_call(trial *t, session *s) {
    int r = (int)rng_below(&t->rng, (unsigned)t->ranks);
    while (s->left[r] == 0)
        r = (r + 1) % t->ranks;
    uint32_t what = s->todo[r][0];
    memmove(s->todo[r], s->todo[r] + 1, (s->left[r] - 1) * sizeof what);
    s->left[r]--;
    s->total--;
    if (t->result[r].begin < 0)
        return;
    if (t->post)
        post(t, s, r, what);
    else
        push(t, r, what);
    if (rng_chance(&t->rng, 5))
        tw_sim_run(t->sim);
    else if (rng_chance(&t->rng, 10))
        tw_comm_progress(t->comm[rng_below(&t->rng, (unsigned)t->ranks)]);
}

static void timed(trial *t, rank_result *q, double since) {
    double d = tw_sim_now(t->sim) - since;
    q->seconds = d > q->seconds ? d : q->seconds;
}

/* Some requests are tested, some waited for, some freed before the end. */
static void use_requests(trial *t, session *s) {
    for (uint32_t i = 0; i < t->step.nop; i++)
        for (int r = 0; r < t->ranks; r++) {
            rank_result *q = &t->result[r];
            double start = tw_sim_now(t->sim);
            uint64_t x = rng_below(&t->rng, 10);
            if (!s->req[i][r])
                continue;
            if (x < 3)
                q->op[i] = tw_req_test(s->req[i][r]);
            else if (x < 6)
                q->op[i] = tw_req_wait(s->req[i][r], 0);
            timed(t, q, start);
            if (x % 3 == 2) {
                tw_req_free(s->req[i][r]);
                s->req[i][r] = NULL;
            }
        }
}

static void end(trial *t, int r) {
    rank_result *q = &t->result[r];
    double start = tw_sim_now(t->sim);
    if (q->begin < 0)
        return;
    if (t->step.discard || is_odd(t, r, ODD_DISCARD))
        note(q, &q->end, tw_reducer_discard(t->red[r]));
    else
        note(q, &q->end, tw_reducer_end(t->red[r], &q->report));
    timed(t, q, start);
}

static void end_requests(trial *t, session *s) {
    for (uint32_t i = 0; i < t->step.nop; i++)
        for (int r = 0; r < t->ranks; r++) {
            if (!s->req[i][r])
                continue;
            tw_status late = tw_req_test(s->req[i][r]), *early = &t->result[r].op[i];
            if (*early != TW_IN_PROGRESS && *early != late)
                trial_fail(t, "rank %d, op %u: the request said %s and after the step %s", r, i, tw_status_name(*early),
                           tw_status_name(late));
            *early = late;
            if (late == TW_IN_PROGRESS)
                trial_fail(t, "rank %d, op %u: still under way after its step", r, i);
            tw_req_free(s->req[i][r]);
        }
}

void drive_step(trial *t) {
    session s = {0};
    int order[MOST_RANKS];
    for (int r = 0; r < t->ranks; r++) {
        rank_result *q = &t->result[r];
        memset(q, 0, sizeof *q);
        q->report = (tw_report)TW_REPORT_INIT;
        for (uint32_t i = 0; i < MOST_OPS; i++)
            q->op[i] = TW_IN_PROGRESS;
        order[r] = (t->step.first_to_end + r) % t->ranks;
        begin(t, r);
        plan_calls(t, &s, r);
    }
    while (s.total > 0)
        one_call(t, &s);
    flush(t);
    use_requests(t, &s);
    for (int i = 0; i < t->ranks; i++) {
        int k = i ? (int)rng_range(&t->rng, (unsigned)i, (unsigned)t->ranks - 1) : 0, x = order[i];
        order[i] = order[k];
        order[k] = x;
        end(t, order[i]);
    }
    end_requests(t, &s);
}
