/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Making ops and finding them again. */
#include "reducer/op.h"
#include "reducer/pieces.h"
#include "exec/span.h"
#include "exec/stages.h"

enum { HEAD_WORDS = 11, LAYER_WORDS = 13, PIECE_WORDS = LAYER_WORDS + TW_SPEC_WORDS };

static void head_words(const tw_op_args *a, uint32_t w[HEAD_WORDS]) {
    const uint32_t v[HEAD_WORDS] = {
        (uint32_t)a->algo, (uint32_t)a->redop, (uint32_t)a->nonfinite, a->tile,           a->frame_bytes, a->in_flight,
        a->no_overlap,     a->npiece,          (uint32_t)a->kind,      (uint32_t)a->root, a->told};
    memcpy(w, v, sizeof v);
}

static void piece_words(const tw_op_args *a, uint32_t i, uint32_t w[PIECE_WORDS]) {
    const tw_piece *p = &a->piece[i];
    const tw_op_layer *l = &a->layer[p->layer];
    const uint32_t v[LAYER_WORDS] = {p->layer,
                                     (uint32_t)p->first,
                                     (uint32_t)(p->first >> 32),
                                     (uint32_t)p->count,
                                     (uint32_t)(p->count >> 32),
                                     (uint32_t)l->count,
                                     (uint32_t)(l->count >> 32),
                                     (uint32_t)l->dtype | (uint32_t)l->no_native << 8,
                                     l->pinned,
                                     (uint32_t)l->shard,
                                     (uint32_t)(l->shard >> 32),
                                     (uint32_t)l->cols,
                                     (uint32_t)(l->cols >> 32)};
    memcpy(w, v, sizeof v);
    tw_spec_words(&l->spec, w + LAYER_WORDS);
}

uint64_t tw_op_hash(const tw_op_args *a) {
    uint32_t h[HEAD_WORDS], w[PIECE_WORDS];
    head_words(a, h);
    uint64_t hash = tw_hash64(h, sizeof h, 0);
    for (uint32_t i = 0; i < a->npiece; i++) {
        piece_words(a, i, w);
        hash = tw_hash64(w, sizeof w, hash);
    }
    return hash;
}

static bool key_equal(const tw_op_args *a, const tw_op *op) {
    uint32_t h[HEAD_WORDS], w[PIECE_WORDS];
    head_words(a, h);
    if (op->nkey != HEAD_WORDS + a->npiece * PIECE_WORDS || memcmp(h, op->key, sizeof h) != 0)
        return false;
    for (uint32_t i = 0; i < a->npiece; i++) {
        piece_words(a, i, w);
        if (memcmp(w, op->key + HEAD_WORDS + i * PIECE_WORDS, sizeof w) != 0)
            return false;
    }
    return true;
}

static tw_status store_key(const tw_op_args *a, tw_ctx *ctx, tw_op *op) {
    op->nkey = HEAD_WORDS + a->npiece * PIECE_WORDS;
    op->key = tw_alloc(ctx, (uint64_t)op->nkey * sizeof(uint32_t));
    if (!op->key)
        return TW_ERR_NOMEM;
    head_words(a, op->key);
    for (uint32_t i = 0; i < a->npiece; i++)
        piece_words(a, i, op->key + HEAD_WORDS + i * PIECE_WORDS);
    return TW_OK;
}

/* ---- algorithm ---- */

/* The first layer that keeps an op from a native sum of plain values or, of payloads that add. */
static const tw_op_layer *odd_one(const tw_op_args *a, bool payloads) {
    for (uint32_t i = 0; i < a->npiece; i++) {
        const tw_op_layer *l = &a->layer[a->piece[i].layer];
        bool adds = tw_codec_get(l->spec.codec)->traits(&l->spec) & TW_TRAIT_ADDS;
        bool plain = l->spec.codec == TW_CODEC_NONE && !l->no_native;
        if (l->dtype != TW_F32 || !(payloads ? adds : plain))
            return l;
    }
    return NULL;
}

/* What a plan asks of the communicator. */
typedef struct place {
    int me, size;
    bool has_native, fast; /* native sum */
    uint64_t link_rate;
} place;

static place place_of(const tw_comm *c) {
    return (place){c->rank, c->size, c->ops.native_sum != NULL, (c->ops.caps & TW_CAP_FAST_SUM) != 0,
                   c->stats.link_rate};
}

/* *either: SRA may be better. A sum of plain values gives no verdict and writes outputs early; one of payloads does not. */
static tw_status choose_algo(const tw_op_args *a, place at, tw_algo *out, bool *either) {
    const tw_op_layer *odd = odd_one(a, false);
    bool payloads = odd && !odd_one(a, true),
         plain = !odd && (a->npiece == 0 || a->nonfinite == TW_NONFINITE_PROPAGATE);
    bool can = at.has_native && (payloads || plain);
    bool wanted = a->algo == TW_ALGO_NATIVE || (a->algo == TW_ALGO_AUTO && at.fast);
    *out = at.size > 1 && can && wanted && a->kind == TW_KIND_ALLREDUCE ? TW_ALGO_NATIVE : TW_ALGO_SRA;
    *either = *out == TW_ALGO_NATIVE && payloads && a->algo == TW_ALGO_AUTO;
    if (a->algo == TW_ALGO_GATHER && at.size > 1 && a->kind == TW_KIND_ALLREDUCE)
        *out = TW_ALGO_GATHER;
    if (a->algo != TW_ALGO_NATIVE || a->kind != TW_KIND_ALLREDUCE || can || at.size == 1 || (odd && tw_op_is_flat(odd)))
        return TW_OK;
    if (!at.has_native)
        return tw_fail(TW_ERR_UNSUPPORTED, "this transport has no native sum; use algo sra");
    if (odd)
        return tw_fail(
            TW_ERR_UNSUPPORTED,
            "layer '%s' is not fp32 under 'none' without residuals, or not all layers of the op are fp32 under "
            "'randk': no native sum",
            odd->name);
    return tw_fail(TW_ERR_UNSUPPORTED, "a native sum cannot %s on NaN; use algo sra",
                   a->nonfinite == TW_NONFINITE_SKIP ? "skip" : "fail");
}

/* Factors are summed natively, with values that add beside them; nothing else goes with them. */
static tw_status check_matrices(const tw_op_args *a, place at, const tw_sorted *s, const tw_plan_layer *matrix) {
    for (uint32_t i = 0; i < s->nlayer; i++) {
        const tw_plan_layer *l = &s->layer[i];
        bool adds = l->dtype == TW_F32 && tw_codec_get(l->spec.codec)->traits(&l->spec) & TW_TRAIT_ADDS;
        if (tw_is_matrix(l) && l->tiles != tw_layer_tiles(l->count, a->tile))
            return tw_fail(
                TW_ERR_UNSUPPORTED,
                "layer '%s' goes as factors of the whole matrix: an op must hold all of it, not %llu of %llu "
                "tiles",
                l->name, (unsigned long long)l->tiles, (unsigned long long)tw_layer_tiles(l->count, a->tile));
        if (!tw_is_matrix(l) && !adds && l->spec.codec != TW_CODEC_NONE)
            return tw_fail(TW_ERR_UNSUPPORTED,
                           "layer '%s' under '%s' and layer '%s' under '%s' cannot share an op: post them apart",
                           matrix->name, tw_codec_get(matrix->spec.codec)->name, l->name,
                           tw_codec_get(l->spec.codec)->name);
    }
    if (at.has_native)
        return TW_OK;
    return tw_fail(TW_ERR_UNSUPPORTED, "layer '%s': '%s' needs a native sum, which this transport has not",
                   matrix->name, tw_codec_get(matrix->spec.codec)->name);
}

/* ---- making ---- */

/* Of a native sum and SRA what takes fewer bytes on the wire. Both move the payloads twice; SRA's headers and trailers grow
 * with the frames, the sum's notes with the layers, and its digest is always there: small ops go by SRA. */
static tw_status build_shorter(tw_ctx *ctx, tw_plan_in in, tw_plan **out) {
    tw_plan *sra;
    tw_status st = tw_plan_build(ctx, &in, out);
    in.algo = TW_ALGO_SRA;
    if (st >= 0)
        st = tw_plan_build(ctx, &in, &sra);
    if (st < 0) {
        tw_plan_free(*out);
        *out = NULL;
        return st;
    }
    bool longer = tw_plan_crossing(*out) >= tw_plan_crossing(sra);
    tw_plan_free(longer ? *out : sra);
    *out = longer ? sra : *out;
    return TW_OK;
}

static const tw_plan_layer *find_matrix(const tw_sorted *s) {
    for (uint32_t i = 0; i < s->nlayer; i++)
        if (tw_is_matrix(&s->layer[i]))
            return &s->layer[i];
    return NULL;
}

static tw_status plan_op(const tw_op_args *a, tw_ctx *ctx, place at, const tw_sorted *s, tw_plan **out) {
    tw_algo algo = TW_ALGO_NATIVE;
    bool either = false;
    for (uint32_t i = 0; i < s->nlayer && at.size == 1; i++) /* nothing crosses a wire: nothing is compressed */
        s->layer[i].spec = (tw_spec)TW_SPEC_INIT;
    const tw_plan_layer *matrix = find_matrix(s);
    tw_status st = matrix ? check_matrices(a, at, s, matrix) : choose_algo(a, at, &algo, &either);
    if (st < 0)
        return st;
    tw_plan_in in = {.me = at.me,
                     .size = at.size,
                     .layer = s->layer,
                     .nlayer = s->nlayer,
                     .piece = s->piece,
                     .npiece = s->npiece,
                     .kind = a->kind,
                     .root = a->root,
                     .told = a->told,
                     .algo = algo,
                     .redop = a->redop,
                     .tile = a->tile,
                     .frame_bytes = a->frame_bytes,
                     .in_flight = a->in_flight,
                     .link_rate = at.link_rate,
                     .no_overlap = a->no_overlap};
    return either ? build_shorter(ctx, in, out) : tw_plan_build(ctx, &in, out);
}

/* Payload and trailers of each layer that this rank sends when all are present; of sparse ones the trailers, the rest is
 * counted as it is made. */
static void count_layer_wire(tw_op *op) {
    const tw_plan *p = op->plan;
    for (uint32_t i = 0; i < p->naction; i++) {
        const tw_action *a = &p->action[i];
        if (a->act != TW_A_SEND)
            continue;
        const tw_frame *f = &p->frame[a->frame];
        for (uint32_t r = f->run0; r < f->run0 + f->nrun; r++)
            op->layer_wire[p->run[r].layer] += (tw_has_spans(p, f, a->hop) ? 0
                                                : a->hop == 1              ? p->run[r].bytes
                                                                           : p->run[r].answer) +
                                               tw_trailer_bytes(p, a->hop);
    }
    for (uint32_t i = 0; p->linear && i < p->nrun; i++)
        op->layer_wire[p->run[i].layer] += p->run[i].bytes;
    for (uint32_t i = 0; i < p->nmatrix; i++) {
        const tw_plan_matrix *m = &p->matrix[i];
        op->layer_wire[m->layer] += (p->nsum / 2 - m->first_round) * m->rank * (m->rows + m->cols) * sizeof(float);
    }
    for (uint32_t i = 0; p->linear && i < op->x.nlayer; i++)
        op->layer_wire[i] = tw_dense_bytes(op->layer_wire[i] + tw_notes_of(p->size) * sizeof(float), (uint64_t)p->size);
    for (uint32_t i = 0; p->native_bytes && !p->linear && p->size > 1 && i < op->x.npiece; i++)
        op->layer_wire[op->x.piece[i].layer] += tw_dense_bytes(op->x.piece[i].count * sizeof(float), (uint64_t)p->size);
}

static uint64_t own_runs(const tw_plan *p) {
    return p->nrun - p->own_run + 1ull;
}

static bool has_sums(const tw_plan *p) {
    return p->part || p->gather;
}

static tw_status allocate_sparse(tw_exec *x, tw_ctx *ctx) {
    const tw_plan *p = x->plan;
    bool ok = true;
    if (has_sums(p)) {
        x->sums = tw_alloc(ctx, own_runs(p) * sizeof *x->sums);
        ok = x->sums != NULL;
    }
    if (!p->part)
        return ok ? TW_OK : TW_ERR_NOMEM;
    x->part_of = tw_alloc(ctx, (p->nlayer + 1) * sizeof *x->part_of);
    x->picks = tw_alloc(ctx, sizeof *x->picks);
    x->reader = tw_alloc_raw(ctx, (unsigned)p->size * sizeof *x->reader);
    x->aside = tw_alloc_raw(ctx, tw_plan_aside(p) * sizeof *x->aside);
    x->aside_place = tw_alloc_raw(ctx, tw_plan_aside(p) * sizeof *x->aside_place);
    x->kept = tw_alloc_raw(ctx, (p->kept_room + 1) * sizeof *x->kept);
    x->kept_place = tw_alloc_raw(ctx, (p->kept_room + 1) * sizeof *x->kept_place);
    x->kept_of = tw_alloc_raw(ctx, p->part_tiles * sizeof *x->kept_of);
    x->flagged = tw_alloc(ctx, p->flag_words * sizeof *x->flagged);
    ok = ok && x->part_of && x->picks && x->reader && x->aside && x->aside_place && x->flagged;
    return ok && x->kept && x->kept_place && x->kept_of ? TW_OK : TW_ERR_NOMEM;
}

static uint64_t sparse_bytes(const tw_exec *x, const tw_plan *p) {
    uint64_t sums = has_sums(p) ? tw_held(own_runs(p) * sizeof *x->sums) : 0;
    if (!p->part)
        return sums;
    return sums + tw_held((p->nlayer + 1) * sizeof *x->part_of) + tw_held(sizeof *x->picks) +
           tw_held((unsigned)p->size * sizeof *x->reader) + tw_held(tw_plan_aside(p) * sizeof *x->aside) +
           tw_held(tw_plan_aside(p) * sizeof *x->aside_place) + tw_held((p->kept_room + 1) * sizeof *x->kept) +
           tw_held((p->kept_room + 1) * sizeof *x->kept_place) + tw_held(p->part_tiles * sizeof *x->kept_of) +
           tw_held(p->flag_words * sizeof *x->flagged);
}

static tw_status allocate_exec(tw_op *op, tw_ctx *ctx, const tw_sorted *s, uint32_t given) {
    tw_exec *x = &op->x;
    x->ctx = ctx;
    x->plan = op->plan;
    x->k = tw_kernels_best();
    x->nlayer = s->nlayer;
    x->npiece = s->npiece;
    x->layer = tw_alloc(ctx, (s->nlayer + 1) * sizeof *x->layer);
    x->piece = tw_alloc(ctx, (s->npiece + 1) * sizeof *x->piece);
    x->scratch = tw_alloc(ctx, (s->npiece + 1) * sizeof *x->scratch);
    x->cursor = tw_alloc(ctx, (uint64_t)op->plan->size * sizeof *x->cursor);
    x->part = tw_alloc(ctx, (uint64_t)op->plan->size * sizeof *x->part);
    x->tile = tw_alloc(ctx, 4 * TW_MAX_TILE * sizeof(float));
    if (op->plan->unit_values)
        x->rows = tw_alloc_raw(ctx, op->plan->unit_values * sizeof(float));
    /* Sparse frames have room for much more than they are likely to carry. */
    if (op->plan->arena_bytes)
        x->arena = (op->plan->part ? tw_alloc_raw : tw_alloc)(ctx, op->plan->arena_bytes);
    tw_status st = allocate_sparse(x, ctx);
    uint32_t *piece0 = tw_alloc(ctx, (s->nlayer + 2) * sizeof *piece0);
    x->piece0 = piece0;
    op->order = tw_alloc(ctx, (given + 1) * sizeof *op->order);
    op->layer_of = tw_alloc(ctx, (s->nlayer + 1) * sizeof *op->layer_of);
    op->layer_wire = tw_alloc(ctx, (s->nlayer + 1) * sizeof *op->layer_wire);
    if (!x->layer || !x->piece || !x->scratch || !x->cursor || !x->part || !x->tile || !piece0 || !op->order ||
        !op->layer_of || !op->layer_wire || (op->plan->arena_bytes && !x->arena) ||
        (op->plan->unit_values && !x->rows) || st < 0)
        return TW_ERR_NOMEM;
    memcpy(op->order, s->order, given * sizeof *op->order);
    memcpy(op->layer_of, s->layer_of, s->nlayer * sizeof *op->layer_of);
    for (uint32_t i = 0; i < s->npiece; i++) {
        x->piece[i] =
            (tw_exec_piece){.layer = s->piece[i].layer, .first = s->piece[i].first, .count = s->piece[i].count};
        piece0[s->piece[i].layer + 1] = i + 1;
    }
    for (uint32_t i = 0; i < s->nlayer; i++) /* layers without values */
        piece0[i + 1] = piece0[i + 1] < piece0[i] ? piece0[i] : piece0[i + 1];
    for (uint32_t i = 0; i < s->nlayer; i++)
        x->layer[i] = (tw_exec_layer){
            .name = s->layer[i].name,
            .name_hash = tw_hash64(s->layer[i].name, strlen(s->layer[i].name), s->layer[i].block),
            .index = s->layer_of[i],
            .count = s->layer[i].count,
            .dtype = s->layer[i].dtype,
            .spec = s->layer[i].spec,
            .result = op->plan->kind == TW_KIND_REDUCE_SCATTER ? (tw_spec)TW_SPEC_INIT : s->layer[i].spec};
    count_layer_wire(op);
    return TW_OK;
}

static tw_status take_slot(tw_comm *c, tw_op *op) {
    for (uint32_t i = 0; i < c->ntable; i++)
        if (!c->table[i]) {
            c->table[i] = op;
            op->slot = i;
            return TW_OK;
        }
    uint32_t room = c->ntable ? c->ntable * 2 : 16;
    tw_op **table = tw_alloc(c->ctx, room * sizeof *table);
    if (!table)
        return TW_ERR_NOMEM;
    if (c->ntable)
        memcpy(table, c->table, c->ntable * sizeof *table);
    tw_free(c->ctx, c->table);
    c->table = table;
    op->slot = c->ntable;
    table[c->ntable] = op;
    c->ntable = room;
    return TW_OK;
}

static void free_op(tw_op *op) {
    tw_ctx *ctx = op->x.ctx;
    for (uint32_t i = 0; op->x.scratch && i < op->x.npiece; i++)
        tw_free(ctx, op->x.scratch[i]);
    if (!op->leaked)
        tw_free(ctx, op->x.arena);
    tw_free(ctx, op->x.layer);
    tw_free(ctx, op->x.piece);
    tw_free(ctx, op->x.scratch);
    tw_free(ctx, op->x.cursor);
    tw_free(ctx, op->x.part);
    tw_free(ctx, op->x.part_of);
    tw_free(ctx, op->x.picks);
    tw_free(ctx, op->x.aside);
    tw_free(ctx, op->x.aside_place);
    tw_free(ctx, op->x.kept);
    tw_free(ctx, op->x.kept_place);
    tw_free(ctx, op->x.kept_of);
    tw_free(ctx, op->x.flagged);
    tw_free(ctx, op->x.sums);
    tw_free(ctx, op->x.reader);
    tw_free(ctx, op->x.tile);
    tw_free(ctx, op->x.rows);
    tw_free(ctx, (void *)(uintptr_t)op->x.piece0);
    tw_free(ctx, op->order);
    tw_free(ctx, op->layer_of);
    tw_free(ctx, op->layer_wire);
    tw_free(ctx, op->key);
    tw_run_free(op->run);
    tw_plan_free(op->plan);
    tw_free(ctx, op);
}

static tw_status make_op(const tw_op_args *a, const tw_sorted *s, tw_op **out) {
    tw_comm *c = a->comm;
    tw_op *op = tw_alloc(c->ctx, sizeof *op);
    if (!op)
        return TW_ERR_NOMEM;
    op->comm = c;
    op->x.ctx = c->ctx;
    tw_status st = store_key(a, c->ctx, op);
    if (st >= 0)
        st = plan_op(a, c->ctx, place_of(c), s, &op->plan);
    if (st >= 0)
        st = tw_run_create(op->plan, &op->run);
    if (st >= 0)
        st = allocate_exec(op, c->ctx, s, a->npiece);
    if (st >= 0)
        st = take_slot(c, op);
    if (st < 0) {
        free_op(op);
        return st;
    }
    *out = op;
    return TW_OK;
}

/* ---- using ---- */

/* Of what is gathered, a rank's own tiles alone say whether it has the layer. */
static tw_status take_own_absence(tw_exec *x) {
    const tw_plan *p = x->plan;
    for (uint32_t f = 0; f < p->nframe; f++)
        for (uint32_t r = p->frame[f].run0; p->frame[f].owner == p->me && r < p->frame[f].run0 + p->frame[f].nrun;
             r++) {
            const tw_tiles *run = &p->run[r];
            tw_exec_layer *l = &x->layer[run->layer];
            uint64_t from = run->first * p->tile, to = (run->first + run->n) * p->tile;
            for (uint32_t k = x->piece0[run->layer]; k < x->piece0[run->layer + 1]; k++) {
                const tw_exec_piece *q = &x->piece[k];
                if (q->first >= to || q->first + q->count <= from)
                    continue;
                if (l->own_seen && l->absent != !q->in)
                    return tw_fail(TW_ERR_ARG, "layer '%s': some pieces have an input and some have none", l->name);
                l->absent = !q->in;
                l->own_seen = true;
            }
        }
    return TW_OK;
}

static tw_status check_absence(const tw_exec *x) {
    for (uint32_t i = 0; i < x->nlayer; i++)
        for (uint32_t k = x->piece0[i] + 1; k < x->piece0[i + 1]; k++)
            if (!x->piece[k].in != !x->piece[k - 1].in)
                return tw_fail(TW_ERR_ARG, "layer '%s': some pieces have an input and some have none",
                               x->layer[i].name);
    return TW_OK;
}

static tw_status fill(const tw_op_args *a, tw_op *op) {
    tw_exec *x = &op->x;
    for (uint32_t i = 0; i < a->npiece; i++)
        if (op->order[i] != UINT32_MAX) {
            x->piece[op->order[i]].in = a->piece[i].in;
            x->piece[op->order[i]].out = a->piece[i].out;
        }
    const char *nan = tw_faults_nan_layer(a->comm->faults);
    x->nan_layer = -1;
    for (uint32_t i = 0; i < x->nlayer; i++) {
        const tw_op_layer *l = &a->layer[op->layer_of[i]];
        tw_exec_layer *e = &x->layer[i];
        bool held = l->drain || (a->comm->size > 1 && l->spec.feedback != TW_FEEDBACK_NONE);
        e->absent = x->piece0[i + 1] > x->piece0[i] && !x->piece[x->piece0[i]].in;
        e->own_seen = false;
        if (op->plan->kind == TW_KIND_ALLGATHER)
            e->absent = true;
        e->drain = held && l->drain;
        e->kept = false;
        e->e = held ? l->e : NULL;
        e->e_new = held ? l->e_new : NULL;
        e->u = l->u;
        e->u_new = l->u_new;
        e->momentum = l->momentum;
        e->formed = false;
        e->x_sq = e->e_sq = e->fold_sq = e->before_sq = e->gained_sq = e->joint = e->out_sq = e->left_sq = 0;
        e->left = l->left;
        e->left_new = l->left_new;
        e->broken = false;
        e->last_sq = l->bound_sq;
        e->values = 0;
        e->overflow = e->code = 0;
        e->flagged = e->stale = false;
        e->cert = l->cert;
        e->cert_new = l->cert_new;
    }
    if (op->plan->part) {
        memset(x->part_of, 0, x->nlayer * sizeof *x->part_of);
        memset(x->flagged, 0, op->plan->flag_words * sizeof *x->flagged);
    }
    tw_status s = op->plan->kind == TW_KIND_ALLGATHER ? take_own_absence(x) : check_absence(x);
    for (uint32_t i = 0; nan && i < x->nlayer; i++)
        if (!x->layer[i].absent && strcmp(nan, x->layer[i].name) == 0)
            x->nan_layer = (int32_t)i;
    x->input_scale = a->input_scale;
    x->draw = (uint32_t)a->step;
    x->redop = a->redop;
    x->nonfinite = a->nonfinite;
    x->stamp = (tw_stamp){.plan = op->plan->hash, .step = (uint32_t)a->step, .epoch = a->epoch};
    return s;
}

static void say_planned(const tw_op *op) {
    static const char *const kinds[] = {"allreduce", "reduce-scatter", "allgather", "broadcast"};
    const tw_plan *p = op->plan;
    uint32_t largest = 0;
    for (uint32_t i = 0; tw_logs(op->x.ctx, TW_LOG_DEBUG) && i < p->naction; i++)
        if ((p->action[i].act == TW_A_SEND || p->action[i].act == TW_A_RECV) && p->action[i].cap > largest)
            largest = p->action[i].cap;
    tw_log(
        op->x.ctx, TW_LOG_DEBUG,
        "rank %d: planned %s of %u layers, first '%.80s': %u frames of at most %u bytes; this rank sends %llu bytes, "
        "and %llu go into native sums",
        p->me, kinds[p->kind], op->x.nlayer, op->x.nlayer ? op->x.layer[0].name : "", p->nframe, largest,
        (unsigned long long)p->wire_bytes, (unsigned long long)p->native_bytes);
}

static void forget(tw_op *op) {
    if (!op->leaked)
        op->comm->table[op->slot] = NULL;
    free_op(op);
}

/* Only when an op was made, so steps that repeat search for nothing. */
static void drop_oldest(tw_op **cache, const tw_op *fresh, uint32_t keep) {
    for (;;) {
        tw_op **oldest = NULL;
        uint32_t n = 0;
        for (tw_op **p = cache; *p; p = &(*p)->next_cached, n++) {
            const tw_op *op = *p;
            if (op == fresh || op->busy || op->leaked || op->req)
                continue;
            if (!oldest || op->comm->seq - op->seq > op->comm->seq - (*oldest)->seq) /* seq may wrap */
                oldest = p;
        }
        if (n <= keep || !oldest)
            return;
        tw_op *op = *oldest;
        *oldest = op->next_cached;
        forget(op);
    }
}

tw_status tw_op_prepare(const tw_op_args *a, tw_op **cache, uint32_t keep, tw_op **out) {
    tw_status s = tw_pieces_check(a);
    if (s < 0)
        return s;
    uint64_t hash = tw_op_hash(a);
    tw_op *op = *cache;
    while (op && (op->busy || op->leaked || op->key_hash != hash || !key_equal(a, op)))
        op = op->next_cached;
    if (!op) {
        tw_sorted sorted;
        s = tw_pieces_sort(a->comm->ctx, a, &sorted);
        if (s >= 0)
            s = make_op(a, &sorted, &op);
        tw_sorted_free(a->comm->ctx, &sorted);
        if (s < 0)
            return s;
        op->key_hash = hash;
        op->next_cached = *cache;
        *cache = op;
        drop_oldest(cache, op, keep);
        say_planned(op);
    }
    s = fill(a, op);
    if (s >= 0)
        *out = op;
    return s;
}

/* As make_op takes it, and as tw_alloc rounds it: an estimate counts a shape that was not made. */
uint64_t tw_op_bytes(const tw_op *op) {
    const tw_exec *x = &op->x;
    const tw_plan *p = op->plan;
    uint64_t layers = x->nlayer, pieces = x->npiece, given = (op->nkey - HEAD_WORDS) / PIECE_WORDS,
             size = (unsigned)p->size;
    uint64_t bytes = tw_plan_bytes(p) + tw_run_bytes(p) + tw_held(sizeof *op) + tw_held(op->nkey * sizeof *op->key) +
                     (p->arena_bytes ? tw_held(p->arena_bytes) : 0);
    bytes += tw_held((layers + 1) * sizeof *x->layer) + tw_held((pieces + 1) * sizeof *x->piece) +
             tw_held((pieces + 1) * sizeof *x->scratch) + tw_held(size * sizeof *x->cursor) +
             tw_held(size * sizeof *x->part) + tw_held(4 * TW_MAX_TILE * sizeof(float)) +
             tw_held((layers + 2) * sizeof *x->piece0) + tw_held((given + 1) * sizeof *op->order) +
             tw_held((layers + 1) * sizeof *op->layer_of) + tw_held((layers + 1) * sizeof *op->layer_wire);
    bytes += sparse_bytes(x, p) + (p->unit_values ? tw_held(p->unit_values * sizeof *x->rows) : 0);
    for (uint32_t i = 0; x->scratch && i < x->npiece; i++)
        bytes += x->scratch[i] ? tw_held(x->piece[i].count * sizeof(float)) : 0;
    return bytes;
}

static tw_status measure_at(tw_ctx *ctx, place at, const tw_op_args *a, uint64_t *bytes, tw_plan_info *info) {
    tw_sorted sorted;
    tw_op shape = {0};
    tw_status s = tw_pieces_sort(ctx, a, &sorted);
    if (s >= 0)
        s = plan_op(a, ctx, at, &sorted, &shape.plan);
    shape.nkey = HEAD_WORDS + a->npiece * PIECE_WORDS;
    shape.x.nlayer = sorted.nlayer;
    shape.x.npiece = sorted.npiece;
    tw_sorted_free(ctx, &sorted);
    if (s < 0)
        return s;
    const tw_plan *p = shape.plan;
    *bytes = tw_op_bytes(&shape);
    if (info) {
        info->hops = p->hops;
        info->roundings = p->roundings;
        info->actions = p->naction;
        info->frames = p->nframe;
        info->sends = p->sends;
        info->payload_bytes = p->payload_bytes;
        info->wire_bytes = p->wire_bytes;
        info->arena_bytes = p->arena_bytes;
        info->native_bytes = p->native_bytes;
        info->all_bytes = tw_plan_crossing(p);
        if (!p->linear)
            info->all_bytes += 2 * p->native_bytes * ((unsigned)p->size - 1);
    }
    tw_plan_free(shape.plan);
    return TW_OK;
}

/* Frames differ with the link, which an estimate cannot know: it counts the larger of both ways to cut. */
tw_status tw_op_measure(tw_ctx *ctx, int me, int size, const tw_op_args *a, uint64_t *bytes, tw_plan_info *info) {
    uint64_t slow = 0;
    tw_status s = measure_at(ctx, (place){me, size, true, false, 0}, a, bytes, info);
    if (s >= 0 && !info && !a->frame_bytes)
        s = measure_at(ctx, (place){me, size, true, false, TW_SLOW_LINK - 1}, a, &slow, NULL);
    if (s >= 0 && slow > *bytes)
        *bytes = slow;
    return s;
}

void tw_op_free_all(tw_op **cache) {
    while (*cache) {
        tw_op *op = *cache;
        *cache = op->next_cached;
        forget(op);
    }
}
