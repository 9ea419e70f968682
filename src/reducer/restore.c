/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Loading state. Everything goes to the copies that the next step would write (late commit), and becomes valid once all
 * ranks have read all of it: a damaged stream anywhere leaves every rank as it was. By the same number of ranks state comes
 * back bit for bit; by another it is folded: the mass that old ranks held, weight times residual, is added up and becomes
 * the residual of the tiles' new owners. */
#include "reducer/restore.h"

static const char what[] = "tw_reducer_load";

/* ---- agreement ---- */

typedef struct offer { /* of a rank */
    int32_t status;
    uint32_t streams;
    tw_state_head head; /* of its first stream; no other differs but for the rank */
} offer;

static bool same_save(const tw_state_head *a, const tw_state_head *b) {
    return a->size == b->size && a->tile == b->tile && a->redop == b->redop && a->stepped == b->stepped &&
           a->epoch == b->epoch && a->step == b->step && a->layers == b->layers && a->nlayer == b->nlayer;
}

static tw_status differ(const tw_state_head *a, const tw_state_head *b) {
    return tw_fail(
        TW_ERR_MISMATCH,
        "%s: states of rank %u (of %u ranks, after step %llu) and of rank %u (of %u, after step %llu) were not "
        "saved together",
        what, a->rank, a->size, (unsigned long long)a->step, b->rank, b->size, (unsigned long long)b->step);
}

static tw_status open_streams(tw_restore *t) {
    tw_status s = TW_OK;
    for (uint32_t i = 0; i < t->n && s >= 0; i++) {
        t->in[i] = (tw_state_in){.get = t->get, .arg = t->arg[i], .body = t->body};
        s = tw_state_open(&t->in[i]);
        if (s >= 0 && !same_save(&t->in[0].head, &t->in[i].head))
            s = differ(&t->in[0].head, &t->in[i].head);
    }
    if (s >= 0 && t->n && t->in[0].head.redop != (uint32_t)t->r->cfg.redop)
        s = tw_fail(TW_ERR_MISMATCH, "%s: the state is of %s, the reducer makes %s", what,
                    t->in[0].head.redop == TW_AVG ? "averages" : "sums",
                    t->r->cfg.redop == TW_AVG ? "averages" : "sums");
    return s;
}

/* A rank that failed says so to the others, which return TW_ERR_PEER; it keeps its own sentence. */
static tw_status agree_on_status(tw_restore *t, tw_status mine) {
    tw_comm *c = t->r->comm;
    char sentence[TW_SENTENCE];
    int32_t status = (int32_t)mine, *all = tw_alloc(c->ctx, (unsigned)c->size * sizeof *all);
    if (mine < 0)
        snprintf(sentence, sizeof sentence, "%s", tw_last_error());
    if (!all)
        return TW_ERR_NOMEM;
    tw_status s = tw_comm_gather(c, what, &status, all, sizeof status);
    for (int k = 0; k < c->size && s >= 0 && mine >= 0; k++)
        if (all[k] < 0)
            s = tw_fail(TW_ERR_PEER, "%s: rank %d could not load: %s", what, k, tw_status_text((tw_status)all[k]));
    tw_free(c->ctx, all);
    if (mine < 0)
        tw_set_error(sentence);
    return mine < 0 ? mine : s;
}

/* Every rank that was must be offered once. */
static tw_status check_coverage(tw_restore *t) {
    tw_comm *c = t->r->comm;
    uint32_t old = t->head.size;
    uint8_t *mine = tw_alloc(c->ctx, old), *all = tw_alloc(c->ctx, (uint64_t)old * (unsigned)c->size);
    tw_status s = mine && all ? TW_OK : TW_ERR_NOMEM;
    for (uint32_t i = 0; i < t->n && s >= 0; i++)
        mine[t->in[i].head.rank] += mine[t->in[i].head.rank] < UINT8_MAX;
    s = agree_on_status(t, s);
    if (s >= 0)
        s = tw_comm_gather(c, what, mine, all, old);
    for (uint32_t k = 0; k < old && s >= 0; k++) {
        uint32_t times = 0;
        for (int r = 0; r < c->size; r++)
            times += all[(uint64_t)r * old + k];
        if (times != 1)
            s = tw_fail(TW_ERR_MISMATCH, "%s: the state of rank %u of %u was given %u times by all ranks together",
                        what, k, old, times);
    }
    tw_free(c->ctx, mine);
    tw_free(c->ctx, all);
    return s;
}

static tw_status agree_on_offers(tw_restore *t, tw_status opened) {
    tw_comm *c = t->r->comm;
    offer mine = {.streams = t->n}, *all = tw_alloc(c->ctx, (unsigned)c->size * sizeof *all);
    if (opened >= 0 && t->n)
        mine.head = t->in[0].head;
    tw_status s = agree_on_status(t, all ? opened : TW_ERR_NOMEM);
    if (s >= 0)
        s = tw_comm_gather(c, what, &mine, all, sizeof mine);
    t->root = -1;
    for (int k = 0; k < c->size && s >= 0; k++) {
        if (!all[k].streams)
            continue;
        t->root = t->root < 0 ? k : t->root;
        if (!same_save(&all[t->root].head, &all[k].head))
            s = differ(&all[t->root].head, &all[k].head);
    }
    if (s >= 0 && t->root < 0)
        s = tw_fail(TW_ERR_ARG, "%s: no rank was given a state", what);
    tw_state_head now;
    tw_state_head_of(t->r, &now);
    if (s >= 0) {
        t->head = all[t->root].head;
        t->exact = t->head.size == now.size && t->head.tile == now.tile && t->head.layers == now.layers;
        for (int k = 0; k < c->size; k++)
            t->exact = t->exact && all[k].streams == 1 && all[k].head.rank == (uint32_t)k;
    }
    tw_free(c->ctx, all);
    return s >= 0 ? check_coverage(t) : s;
}

/* ---- reading ---- */

static tw_layer_state *find_layer(tw_reducer *r, uint32_t guess, const char *name, uint32_t len) {
    for (uint32_t i = 0; i < r->nlayer; i++) {
        tw_layer_state *l = &r->layer[(guess + i) % r->nlayer];
        if (strlen(l->name) == len && memcmp(l->name, name, len) == 0)
            return l;
    }
    return NULL;
}

static tw_status check_layer(const tw_restore *t, const tw_layer_state *l, const tw_state_layer *s, const char *name) {
    if (!l)
        return tw_fail(TW_ERR_MISMATCH, "%s: the state has a layer '%.*s', the reducer has not", what,
                       (int)(s->name < 200 ? s->name : 200), name);
    if (l->count != s->count || (uint32_t)l->dtype != s->dtype || l->cols != s->columns)
        return tw_fail(TW_ERR_MISMATCH,
                       "%s: layer '%s' is %llu %s, columns %llu, in the state and %llu %s, columns %llu, here", what,
                       l->name, (unsigned long long)s->count, tw_dtype_name((tw_dtype)s->dtype),
                       (unsigned long long)s->columns, (unsigned long long)l->count, tw_dtype_name(l->dtype),
                       (unsigned long long)l->cols);
    if (s->values && !l->slot[0])
        return tw_fail(TW_ERR_MISMATCH,
                       "%s: layer '%s' has a residual in the state of rank %u; the rules give it no feedback now", what,
                       l->name, t->head.rank);
    return TW_OK;
}

typedef struct sums { /* of a layer of one stream */
    float *to;        /* NULL: read past */
    tw_cert *cert;
    uint64_t own_first, own_end; /* tiles of that rank; then values */
    float weight;                /* elsewhere; 0: what stands there means nothing */
    double mass_sq, acc_sq;
} sums;

static void copy_values(void *arg, uint64_t first, const void *values, uint64_t n) {
    float *to = ((sums *)arg)->to;
    if (to)
        memcpy(to + first, values, n * sizeof *to);
}

static void copy_ledger(void *arg, uint64_t first, const void *values, uint64_t n) {
    memcpy(((sums *)arg)->cert + first, values, n * sizeof(tw_cert));
}

static void add_values(void *arg, uint64_t first, const void *values, uint64_t n) {
    sums *s = arg;
    for (uint64_t i = 0; i < n; i++) {
        float v;
        memcpy(&v, (const uint8_t *)values + i * sizeof v, sizeof v);
        bool own = first + i >= s->own_first && first + i < s->own_end;
        v = own ? v : s->weight != 0 ? v * s->weight : 0.0f;
        s->mass_sq += (double)v * (double)v;
        s->to[first + i] += v;
    }
}

static void add_momentum(void *arg, uint64_t first, const void *values, uint64_t n) {
    sums *s = arg;
    for (uint64_t i = 0; s->to && i < n; i++) {
        float v;
        memcpy(&v, (const uint8_t *)values + i * sizeof v, sizeof v);
        s->to[first + i] += v * s->weight;
    }
}

/* Each new rank begins with the mean of the old ones' momentum; of sums with its share. */
static tw_status read_momentum(tw_restore *t, tw_state_in *in, tw_layer_state *l) {
    bool averages = in->head.redop == TW_AVG;
    sums u = {.to = l->momentum[1 - l->momentum_now]};
    u.weight = 1.0f / (float)(averages ? in->head.size : (uint32_t)t->r->comm->size);
    return tw_state_values(in, "MOME", l->count, sizeof(float), t->exact ? copy_values : add_momentum, &u);
}

/* Rounding errors so far are in the ledger of each tile's owner. */
static void add_ledger(void *arg, uint64_t first, const void *values, uint64_t n) {
    sums *s = arg;
    for (uint64_t i = 0; i < n; i++) {
        tw_cert c;
        memcpy(&c, (const uint8_t *)values + i * sizeof c, sizeof c);
        uint64_t tile = first + i;
        if (tile >= s->own_first && tile < s->own_end && (tile == s->own_first || c.back == 0))
            s->acc_sq += (double)c.acc * (double)c.acc;
    }
}

static tw_status read_layer(tw_restore *t, tw_state_in *in, uint32_t index) {
    tw_state_layer s;
    const char *name;
    tw_status st = tw_state_layer_next(in, &s, &name);
    if (st < 0)
        return st;
    tw_layer_state *l = find_layer(t->r, index, name, s.name);
    if (l && s.values && !l->slot[0] && t->r->comm->size == 1)
        st = tw_reducer_give_slots(t->r, l);
    if (st >= 0)
        st = check_layer(t, l, &s, name);
    if (st < 0)
        return st;
    tw_restored *w = &t->layer[l - t->r->layer];
    tw_plan_in plan = {.size = (int)in->head.size, .tile = in->head.tile};
    tw_plan_layer owned = {.name = l->name, .count = l->count, .pinned = s.pinned, .shard = s.shard};
    owned.tiles = tw_layer_tiles(l->count, plan.tile);
    sums u = {.to = l->slot[1 - l->now], .cert = l->cert[1 - l->cert_now]};
    uint64_t tiles = tw_owned_tiles(&plan, &owned, (int)in->head.rank, &u.own_first);
    u.own_end = u.own_first + tiles;
    bool averages = in->head.redop == TW_AVG;
    u.weight = s.use == TW_USE_GATHERED ? 0.0f : averages ? 1.0f / (float)in->head.size : 1.0f;
    st = tw_state_values(in, "LEDG", s.tiles, sizeof(tw_cert), t->exact ? copy_ledger : add_ledger, &u);
    u.own_first *= plan.tile;
    u.own_end *= plan.tile;
    if (st >= 0)
        st = tw_state_values(in, "RESI", s.values, sizeof(float), t->exact ? copy_values : add_values, &u);
    u.to = s.left && s.left <= tw_left_room(l) ? l->left[1 - l->left_now] : NULL;
    if (st >= 0)
        st = tw_state_values(in, "LEFT", s.left, sizeof(float), copy_values, &u);
    if (st >= 0 && s.flags & TW_STATE_MOMENTUM)
        st = read_momentum(t, in, l);
    w->seen++;
    w->flags |= s.flags;
    w->use = s.use > w->use ? s.use : w->use;
    w->left_columns = u.to ? s.left_columns : 0;
    w->left_rank = u.to ? s.left_rank : 0;
    w->left = u.to ? s.left : 0;
    w->joint = s.joint;
    w->bound_sq = s.bound_sq;
    w->acc_sq += u.acc_sq;
    w->mass += sqrt(u.mass_sq);
    return st;
}

static tw_status read_stream(tw_restore *t, uint32_t i) {
    tw_status s = TW_OK;
    for (uint32_t k = 0; k < t->head.nlayer && s >= 0; k++)
        s = read_layer(t, &t->in[i], k);
    if (s >= 0)
        s = tw_state_close(&t->in[i]);
    for (uint32_t k = 0; k < t->r->nlayer && s >= 0; k++)
        if (t->layer[k].seen != i + 1)
            s = tw_fail(TW_ERR_MISMATCH, "%s: layer '%s' is %s the state of rank %u", what, t->r->layer[k].name,
                        t->layer[k].seen ? "more than once in" : "not in", t->in[i].head.rank);
    return s;
}

static tw_status read_streams(tw_restore *t) {
    tw_status s = TW_OK;
    for (uint32_t i = 0; i < t->r->nlayer; i++) { /* what no stream has is zero */
        tw_layer_state *l = &t->r->layer[i];
        if (l->slot[0])
            memset(l->slot[1 - l->now], 0, l->count * sizeof(float));
        if (l->cert[0])
            memset(l->cert[1 - l->cert_now], 0, l->tiles * sizeof(tw_cert));
        if (l->momentum[0])
            memset(l->momentum[1 - l->momentum_now], 0, l->count * sizeof(float));
    }
    for (uint32_t i = 0; i < t->n && s >= 0; i++)
        s = read_stream(t, i);
    return s;
}

/* ---- the whole ---- */

static void adopt_layer(tw_layer_state *l, const tw_restored *w) {
    if (l->slot[0])
        l->now = 1 - l->now;
    if (l->cert[0])
        l->cert_now = 1 - l->cert_now;
    if (w->left)
        l->left_now = 1 - l->left_now;
    l->left_cols = w->left ? w->left_columns : 0;
    l->left_rank = w->left ? w->left_rank : 0;
    l->used = w->flags & TW_STATE_USED;
    l->held = w->flags & TW_STATE_HELD;
    l->native = w->flags & TW_STATE_NATIVE;
    l->moves = w->flags & TW_STATE_MOMENTUM && l->momentum[0];
    l->momentum_now ^= l->moves;
    l->use = (tw_use)w->use;
    l->bound_sq = w->bound_sq;
    l->joint = w->joint;
}

static tw_status restore(tw_restore *t, tw_status ready) {
    tw_status s = agree_on_offers(t, ready >= 0 ? open_streams(t) : ready);
    if (s >= 0)
        s = agree_on_status(t, read_streams(t));
    if (s >= 0 && !t->exact)
        s = tw_restore_fold(t);
    if (s < 0)
        return s;
    for (uint32_t i = 0; i < t->r->nlayer; i++)
        adopt_layer(&t->r->layer[i], &t->layer[i]);
    t->r->stepped = t->head.stepped;
    t->r->last_step = t->head.step;
    t->r->epoch = (uint8_t)t->head.epoch;
    return TW_OK;
}

tw_status tw_restore_from(tw_reducer *r, uint32_t n, tw_state_get get, void *const args[], tw_status ready) {
    tw_status s = tw_comm_refuses(r->comm);
    if (s < 0)
        return s;
    tw_restore t = {.r = r, .n = n, .get = get, .arg = args};
    s = ready;
    if (s >= 0 && r->mode != TW_MODE_IDLE)
        s = tw_fail(TW_ERR_ARG, "%s inside step %llu: end it first", what, (unsigned long long)r->step);
    t.body = tw_alloc(r->ctx, TW_STATE_CHUNK);
    t.in = tw_alloc(r->ctx, (n + 1ull) * sizeof *t.in);
    t.layer = tw_alloc(r->ctx, (r->nlayer + 1ull) * sizeof *t.layer);
    if (s >= 0 && (!t.body || !t.in || !t.layer))
        s = TW_ERR_NOMEM;
    if (s >= 0 && n && (!get || !args))
        s = tw_fail(TW_ERR_ARG, "%s: %u states, but %s is NULL", what, n, get ? "args" : "get");
    s = restore(&t, s);
    tw_free(r->ctx, t.body);
    tw_free(r->ctx, t.in);
    tw_free(r->ctx, t.layer);
    return s;
}

tw_status tw_reducer_load(tw_reducer *r, uint32_t n, tw_state_get get, void *const args[]) {
    return r ? tw_restore_from(r, n, get, args, TW_OK) : tw_fail(TW_ERR_ARG, "%s: the reducer is NULL", what);
}
