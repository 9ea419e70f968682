/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Making a reducer: layers, rules, buckets, residuals; then all ranks compare what they made. */
#include "reducer/reducer.h"

/* Arrays take their stride from the first element; members that the caller does not have are 0. */
static const void *layer_at(const tw_layer *layers, uint32_t i) {
    return (const char *)layers + (size_t)i * layers[0].size;
}
static tw_layer layer_of(const tw_layer *layers, uint32_t i) {
    tw_layer l = {0};
    memcpy(&l, layer_at(layers, i), layers[0].size < sizeof l ? layers[0].size : sizeof l);
    return l;
}

/* ---- checking ---- */

static tw_status take_config(const tw_reducer_config *given, tw_reducer_config *out) {
    return tw_sized_take(TW_SIZED(tw_reducer_config, bucket_bytes), "tw_reducer_create", given, out);
}

static tw_status check_config(const tw_reducer_config *given, tw_reducer_config *out) {
    *out = (tw_reducer_config)TW_REDUCER_CONFIG_INIT;
    tw_status s = given ? take_config(given, out) : TW_OK;
    if (s < 0)
        return s;
    out->redop = out->redop ? out->redop : TW_AVG;
    out->nonfinite = out->nonfinite ? out->nonfinite : TW_NONFINITE_PROPAGATE;
    out->algo = out->algo ? out->algo : TW_ALGO_AUTO;
    out->bucket_bytes = out->bucket_bytes ? out->bucket_bytes : 4u << 20;
    out->tile = out->tile ? out->tile : TW_MAX_TILE;
    if (out->redop != TW_SUM && out->redop != TW_AVG)
        return tw_fail(TW_ERR_ARG, "redop %d: TW_SUM or TW_AVG", (int)out->redop);
    if (out->nonfinite > TW_NONFINITE_ERROR || out->algo > TW_ALGO_GATHER)
        return tw_fail(TW_ERR_ARG, "nonfinite %d, algo %d: unknown value", (int)out->nonfinite, (int)out->algo);
    if (out->tile < TW_MIN_TILE || out->tile > TW_MAX_TILE || (out->tile & (out->tile - 1)))
        return tw_fail(TW_ERR_ARG, "tile of %u values: a power of two, %u to %u", out->tile, TW_MIN_TILE, TW_MAX_TILE);
    if (out->frame_bytes && (out->frame_bytes < 64 || out->frame_bytes > 1u << 20))
        return tw_fail(TW_ERR_ARG, "frames of %u bytes: 64 to 1048576", out->frame_bytes);
    if (out->in_flight == 1 || out->in_flight > 1024)
        return tw_fail(TW_ERR_ARG, "%u frames in flight: 2 to 1024", out->in_flight);
    return TW_OK;
}

static tw_status check_layers(const tw_layer *layers, uint32_t n, int size, uint32_t tile) {
    if (n && !layers)
        return tw_fail(TW_ERR_ARG, "%u layers, but the array is NULL", n);
    if (n &&
        (layers[0].size < offsetof(tw_layer, pinned) || layers[0].size > 4096 || layers[0].size % sizeof(uint64_t)))
        return tw_fail(TW_ERR_ARG, "a tw_layer of %u bytes: start from TW_LAYER", layers[0].size);
    for (uint32_t i = 0; i < n; i++) {
        tw_layer l = layer_of(layers, i);
        if (!l.name || !*l.name)
            return tw_fail(TW_ERR_ARG, "layer %u has no name", i);
        if (!tw_zero_behind(layer_at(layers, i), sizeof l, layers[0].size))
            return tw_fail(TW_ERR_UNSUPPORTED, "layer '%s' has a member set that this library does not know", l.name);
        if (l.dtype && !tw_dtype_size(l.dtype))
            return tw_fail(TW_ERR_ARG, "layer '%s': dtype %d is unknown", l.name, (int)l.dtype);
        if (l.count > UINT64_MAX / 64)
            return tw_fail(TW_ERR_ARG, "layer '%s': %llu values", l.name, (unsigned long long)l.count);
        if (l.pinned > (unsigned)size || (!l.pinned && l.shard))
            return tw_fail(TW_ERR_ARG, "layer '%s': %s", l.name,
                           l.pinned ? "pinned to a rank that is not there" : "shards, but pinned is 0");
        if (l.columns && (l.count % l.columns || l.columns > UINT32_MAX))
            return tw_fail(TW_ERR_ARG, "layer '%s': %llu values are no rows of %llu (at most 2^32 - 1)", l.name,
                           (unsigned long long)l.count, (unsigned long long)l.columns);
        if (l.shard % tile)
            return tw_fail(TW_ERR_ARG, "layer '%s': shards of %llu values, which is no multiple of the tile, %u",
                           l.name, (unsigned long long)l.shard, tile);
    }
    return TW_OK;
}

/* Names by hash in an open table: unique, in linear time. */
static tw_status check_unique(tw_reducer *r) {
    uint64_t room = 16;
    while (room < 2 * (uint64_t)r->nlayer)
        room *= 2;
    uint32_t *table = tw_alloc(r->ctx, room * sizeof *table);
    if (!table)
        return TW_ERR_NOMEM;
    tw_status s = TW_OK;
    for (uint32_t i = 0; i < r->nlayer && s >= 0; i++) {
        const char *name = r->layer[i].name;
        uint64_t at = tw_hash64(name, strlen(name), 0) & (room - 1);
        for (; table[at]; at = (at + 1) & (room - 1))
            if (strcmp(r->layer[table[at] - 1].name, name) == 0) {
                s = tw_fail(TW_ERR_ARG, "layers %u and %u are both named '%s'", table[at] - 1, i, name);
                break;
            }
        table[at] = i + 1;
    }
    tw_free(r->ctx, table);
    return s;
}

/* ---- making ---- */

static bool wants_slots(const tw_layer_state *l) {
    for (uint32_t i = 0; i < l->nphase; i++)
        if (l->phase[i].spec.feedback != TW_FEEDBACK_NONE)
            return true;
    return false;
}

static bool wants_momentum(const tw_layer_state *l) {
    for (uint32_t i = 0; i < l->nphase; i++)
        if (l->phase[i].spec.feedback == TW_FEEDBACK_DGC)
            return true;
    return false;
}

uint64_t tw_left_values(const tw_layer_state *l, const tw_spec *s) {
    tw_op_layer v = {.count = l->count, .cols = l->cols, .spec = *s};
    bool keeps = tw_codec_is_lowrank(s) && s->warm_start && !tw_op_is_flat(&v);
    return keeps ? l->count / tw_op_columns(&v) * s->rank : 0;
}

/* Of the phase that needs most. */
uint64_t tw_left_room(const tw_layer_state *l) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < l->nphase; i++) {
        uint64_t n = tw_left_values(l, &l->phase[i].spec);
        most = n > most ? n : most;
    }
    return most;
}

static tw_status check_groups(const tw_reducer *r, const tw_layer_state *l) {
    for (uint32_t i = 0; i < l->nphase; i++) {
        const tw_spec *s = &l->phase[i].spec;
        bool used = !tw_codec_is_sparse(s) || s->select == TW_SELECT_GROUP;
        if (used && s->group > r->cfg.tile)
            return tw_fail(TW_ERR_ARG, "layer '%s': groups of %u do not fit tiles of %u", l->name, s->group,
                           r->cfg.tile);
    }
    return TW_OK;
}

static void *take(tw_reducer *r, uint64_t bytes) {
    r->state_bytes += tw_held(bytes);
    return tw_alloc(r->ctx, bytes);
}

static uint64_t layer_state_bytes(const tw_layer_state *l, bool slots, bool momentum, uint64_t left) {
    if (l->tiles == 0)
        return 0;
    uint64_t arrays = (slots ? 2u : 0u) + (momentum ? 2u : 0u);
    return 2 * tw_held(l->tiles * sizeof(tw_cert)) + arrays * tw_held(l->count * sizeof(float)) +
           (left ? 2 * tw_held(left * sizeof(float)) : 0);
}

static tw_status make_state(tw_reducer *r, tw_layer_state *l, bool dry) {
    bool slots = wants_slots(l) && r->comm->size > 1; /* one rank sends nothing, so it drops nothing */
    bool momentum = wants_momentum(l);                /* ... but momentum it has */
    uint64_t left = r->comm->size > 1 ? tw_left_room(l) : 0, bytes = layer_state_bytes(l, slots, momentum, left);
    r->state_bytes += bytes;
    if (dry || bytes == 0)
        return TW_OK;
    for (int i = 0; i < 2; i++) {
        l->cert[i] = tw_alloc(r->ctx, l->tiles * sizeof(tw_cert));
        l->slot[i] = slots ? tw_alloc(r->ctx, l->count * sizeof(float)) : NULL;
        l->left[i] = left ? tw_alloc(r->ctx, left * sizeof(float)) : NULL;
        l->momentum[i] = momentum ? tw_alloc(r->ctx, l->count * sizeof(float)) : NULL;
        if (!l->cert[i] || (slots && !l->slot[i]) || (left && !l->left[i]) || (momentum && !l->momentum[i]))
            return TW_ERR_NOMEM;
    }
    return TW_OK;
}

tw_status tw_reducer_give_slots(tw_reducer *r, tw_layer_state *l) {
    float *slot[2];
    for (int i = 0; i < 2; i++)
        slot[i] = tw_alloc(r->ctx, l->count * sizeof(float));
    if (!slot[0] || !slot[1]) {
        tw_free(r->ctx, slot[0]);
        tw_free(r->ctx, slot[1]);
        return TW_ERR_NOMEM;
    }
    memcpy(l->slot, slot, sizeof slot);
    r->state_bytes += 2 * tw_held(l->count * sizeof(float));
    return TW_OK;
}

static tw_status make_layers(tw_reducer *r, const tw_layer *layers, bool dry) {
    for (uint32_t i = 0; i < r->nlayer; i++) {
        tw_layer from = layer_of(layers, i);
        tw_layer_state *l = &r->layer[i];
        size_t len = strlen(from.name) + 1;
        l->name = take(r, len);
        if (!l->name)
            return TW_ERR_NOMEM;
        memcpy(l->name, from.name, len);
        l->count = from.count;
        l->place = i ? l[-1].place + l[-1].count : 0;
        l->dtype = from.dtype ? from.dtype : TW_F32;
        l->pinned = (uint32_t)from.pinned;
        l->shard = from.shard / r->cfg.tile;
        l->cols = from.columns;
        l->tiles = tw_layer_tiles(l->count, r->cfg.tile);
        l->phase = tw_rules_find(r->rules, l->name, &l->nphase);
        tw_status s = check_groups(r, l);
        if (s >= 0)
            s = make_state(r, l, dry);
        if (s < 0)
            return s;
    }
    return check_unique(r);
}

/* Which layers may share a bucket: factors are summed natively, what has owners is not. 0: it goes with either in every step
 * (plain values, payloads that add); else 1 or, from the steps at which it is under a codec of low rank, something else. */
static uint64_t family_of(const tw_layer_state *l) {
    bool odd = false, lowrank = false;
    uint64_t h = 0;
    for (uint32_t i = 0; i < l->nphase; i++) {
        const tw_spec *s = &l->phase[i].spec;
        bool low = tw_codec_is_lowrank(s), adds = tw_codec_get(s->codec)->traits(s) & TW_TRAIT_ADDS;
        uint64_t until[] = {l->phase[i].until, low};
        lowrank = lowrank || low;
        odd = odd || low || (s->codec != TW_CODEC_NONE && !(adds && l->dtype == TW_F32));
        h = tw_hash64(until, sizeof until, h);
    }
    return lowrank ? h | 2 : odd;
}

/* Backward order: the last layer's gradient is ready first. */
static void make_buckets(tw_reducer *r) {
    uint64_t bytes = 0, family = 0;
    for (uint32_t i = r->nlayer; i-- > 0;) {
        uint64_t size = r->layer[i].count * tw_dtype_size(r->layer[i].dtype), its = family_of(&r->layer[i]);
        if (r->nbucket == 0 || bytes + size > r->cfg.bucket_bytes || (its && family && its != family)) {
            r->bucket[r->nbucket++] = (tw_bucket){.hi = i};
            bytes = family = 0;
        }
        family = family ? family : its;
        r->bucket[r->nbucket - 1].n++;
        r->layer[i].bucket = r->nbucket - 1;
        bytes += size;
    }
}

static bool make_ranges(tw_reducer *r, uint32_t room) {
    tw_ranges *const sets[] = {&r->reads, &r->writes, &r->values, &r->own_reads, &r->own_writes};
    for (size_t i = 0; i < TW_ARRAY_LEN(sets); i++) {
        *sets[i] = (tw_ranges){take(r, tw_ranges_bytes(room)), 0, room};
        if (!sets[i]->range)
            return false;
    }
    return true;
}

static tw_status make_arrays(tw_reducer *r, uint32_t n) {
    r->layer = take(r, (n + 1ull) * sizeof *r->layer);
    r->view = take(r, (n + 1ull) * sizeof *r->view);
    r->bucket = take(r, (n + 1ull) * sizeof *r->bucket);
    r->piece = take(r, (n + 1ull) * sizeof *r->piece);
    r->cap_flying = n + 16;
    r->flying = take(r, r->cap_flying * sizeof(tw_op *));
    if (!r->layer || !r->view || !r->bucket || !r->piece || !r->flying || !make_ranges(r, r->cap_flying))
        return TW_ERR_NOMEM;
    r->nlayer = n;
    return TW_OK;
}

/* A fault that cannot happen is a mistake in the plan. */
static tw_status check_fault(const tw_reducer *r) {
    const char *wanted = tw_faults_nan_layer(r->comm->faults), *nearest = NULL;
    for (uint32_t i = 0; wanted && i < r->nlayer; i++) {
        const char *const two[] = {nearest ? nearest : r->layer[i].name, r->layer[i].name};
        if (!strcmp(wanted, r->layer[i].name))
            return TW_OK;
        nearest = tw_nearest_word(wanted, strlen(wanted), two, 2);
    }
    return wanted ? tw_fail(TW_ERR_ARG, "THINWIRE_FAULT: rank %d has no layer '%s'; did you mean '%s'?", r->comm->rank,
                            wanted, nearest ? nearest : "(none)")
                  : TW_OK;
}

static tw_status make(tw_comm *c, const tw_layer *layers, uint32_t n, const char *rules, const tw_reducer_config *cfg,
                      bool dry, tw_reducer **out) {
    tw_reducer *r = tw_alloc(c->ctx, sizeof *r);
    if (!r)
        return TW_ERR_NOMEM;
    r->comm = c;
    r->ctx = c->ctx;
    r->state_bytes = tw_held(sizeof *r);
    tw_status s = check_config(cfg, &r->cfg);
    if (s >= 0)
        s = check_layers(layers, n, c->size, r->cfg.tile);
    if (s >= 0)
        s = tw_rules_parse(c->ctx, rules, &r->rules);
    if (s >= 0) {
        r->state_bytes += tw_rules_bytes(r->rules);
        s = make_arrays(r, n);
    }
    if (s >= 0)
        s = make_layers(r, layers, dry);
    if (s >= 0)
        s = check_fault(r);
    if (s < 0) {
        tw_reducer_unmake(r);
        return s;
    }
    make_buckets(r);
    tw_reducer_view(r, 0);
    *out = r;
    return TW_OK;
}

tw_status tw_reducer_make(tw_comm *c, const tw_layer *layers, uint32_t n, const char *rules,
                          const tw_reducer_config *cfg, tw_reducer **out) {
    return make(c, layers, n, rules, cfg, false, out);
}

void tw_reducer_unmake(tw_reducer *r) {
    tw_ctx *ctx = r->ctx;
    tw_ranges *const sets[] = {&r->reads, &r->writes, &r->values, &r->own_reads, &r->own_writes};
    tw_op_free_all(&r->cache);
    for (uint32_t i = 0; i < r->nlayer; i++) {
        tw_free(ctx, r->layer[i].name);
        for (int k = 0; k < 2; k++) {
            tw_free(ctx, r->layer[i].slot[k]);
            tw_free(ctx, r->layer[i].cert[k]);
            tw_free(ctx, r->layer[i].left[k]);
            tw_free(ctx, r->layer[i].momentum[k]);
        }
    }
    tw_free(ctx, r->layer);
    tw_free(ctx, r->view);
    tw_free(ctx, r->bucket);
    tw_free(ctx, r->piece);
    tw_free(ctx, r->flying);
    for (size_t i = 0; i < TW_ARRAY_LEN(sets); i++)
        tw_free(ctx, sets[i]->range);
    tw_rules_free(r->rules);
    tw_free(ctx, r);
}

/* ---- agreement ---- */

uint64_t tw_reducer_layer_hash(const tw_layer_state *l) {
    uint64_t v[] = {l->count, (uint64_t)l->dtype, l->pinned, l->shard, l->cols};
    return tw_hash64(v, sizeof v, tw_hash64(l->name, strlen(l->name), 0));
}

void tw_reducer_manifest(const tw_reducer *r, tw_manifest *m) {
    const tw_reducer_config *g = &r->cfg;
    uint32_t option[8] = {(uint32_t)g->redop, (uint32_t)g->nonfinite, (uint32_t)g->algo, g->frame_bytes,
                          g->in_flight,       g->no_overlap,          g->tile,           0};
    *m = (tw_manifest){.nlayer = r->nlayer,
                       .rank = (uint32_t)r->comm->rank,
                       .bucket_bytes = g->bucket_bytes,
                       .rules = tw_rules_hash(r->rules)};
    memcpy(m->option, option, sizeof option);
    memcpy(m->rules_head, tw_rules_head(r->rules), sizeof m->rules_head);
    for (uint32_t i = 0; i < r->nlayer; i++) {
        uint64_t h = tw_reducer_layer_hash(&r->layer[i]);
        m->layers = tw_hash64(&h, sizeof h, m->layers);
    }
}

tw_status tw_manifest_compare(const tw_manifest *mine, const tw_manifest *theirs, int rank) {
    static const char *const option[] = {"redop",     "nonfinite",  "algo", "frame_bytes",
                                         "in_flight", "no_overlap", "tile", "?"};
    if (theirs->status < 0)
        return tw_fail(TW_ERR_PEER, "rank %d could not make its reducer: %s", rank,
                       tw_status_text((tw_status)theirs->status));
    for (uint32_t i = 0; i < TW_ARRAY_LEN(option); i++)
        if (mine->option[i] != theirs->option[i])
            return tw_fail(TW_ERR_MISMATCH, "option %s is %u on rank %d and %u on rank %u", option[i],
                           theirs->option[i], rank, mine->option[i], mine->rank);
    if (mine->bucket_bytes != theirs->bucket_bytes)
        return tw_fail(TW_ERR_MISMATCH, "bucket_bytes is %llu on rank %d and %llu on rank %u",
                       (unsigned long long)theirs->bucket_bytes, rank, (unsigned long long)mine->bucket_bytes,
                       mine->rank);
    if (!mine->nlayer != !theirs->nlayer) /* no layer to name; all ranks see such a pair, so all stop here */
        return tw_fail(TW_ERR_MISMATCH, "rank %d has %u layers and rank %u has %u", rank, theirs->nlayer, mine->rank,
                       mine->nlayer);
    if (mine->rules != theirs->rules)
        return tw_fail(TW_ERR_MISMATCH, "rules of rank %d differ from those of rank %u: they begin '%.*s' and '%.*s'",
                       rank, mine->rank, TW_RULES_HEAD - 1, theirs->rules_head, TW_RULES_HEAD - 1, mine->rules_head);
    return TW_OK;
}

/* ---- before creation ---- */

/* The next step at which some layer of a bucket changes its spec; UINT64_MAX: none. */
static uint64_t next_change(const tw_reducer *r, uint32_t bucket, uint64_t step) {
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < r->nlayer; i++)
        for (uint32_t k = 0; r->layer[i].bucket == bucket && k < r->layer[i].nphase; k++)
            if (r->layer[i].phase[k].until > step && r->layer[i].phase[k].until < next)
                next = r->layer[i].phase[k].until;
    return next;
}

static uint32_t most_phases(const tw_reducer *r, uint32_t bucket) {
    uint32_t n = 1;
    for (uint32_t i = 0; i < r->nlayer; i++)
        n += r->layer[i].bucket == bucket ? r->layer[i].nphase : 0;
    return n;
}

static bool seen_before(const uint64_t *hash, uint32_t n, uint64_t one) {
    for (uint32_t i = 0; i < n; i++)
        if (hash[i] == one)
            return true;
    return false;
}

/* The ops of all phases, since the cache keeps them; two phases of one signature share theirs. */
static tw_status measure_bucket(tw_reducer *r, uint32_t b, uint64_t *seen, uint64_t *frames, tw_plan_info *info) {
    uint32_t n = 0;
    for (uint64_t step = 0; step != UINT64_MAX; step = next_change(r, b, step)) {
        tw_op_args a;
        uint64_t bytes;
        tw_reducer_view(r, step);
        tw_reducer_bucket_args(r, &r->bucket[b], r->piece, &a);
        uint64_t hash = tw_op_hash(&a);
        if (seen_before(seen, n, hash))
            continue;
        tw_status s = tw_op_measure(r->ctx, r->comm->rank, r->comm->size, &a, &bytes, info);
        if (s < 0 || info) /* the plan of step 0 was asked for */
            return s;
        seen[n++] = hash;
        *frames += bytes;
        for (uint32_t i = 0; i < r->nlayer; i++) /* as a step does: part of the signature */
            r->layer[i].used =
                r->layer[i].used || (r->layer[i].bucket == b && r->view[i].spec.feedback != TW_FEEDBACK_NONE);
    }
    return TW_OK;
}

static void add_info(tw_plan_info *sum, const tw_plan_info *one) {
    sum->hops = one->hops > sum->hops ? one->hops : sum->hops;
    sum->roundings = one->roundings > sum->roundings ? one->roundings : sum->roundings;
    sum->actions += one->actions;
    sum->frames += one->frames;
    sum->sends += one->sends;
    sum->payload_bytes += one->payload_bytes;
    sum->wire_bytes += one->wire_bytes;
    sum->arena_bytes += one->arena_bytes;
    sum->native_bytes += one->native_bytes;
    sum->all_bytes += one->all_bytes;
}

static tw_status measure(tw_reducer *r, uint64_t *frames, tw_plan_info *info) {
    tw_status s = TW_OK;
    for (uint32_t b = 0; b < r->nbucket && s >= 0; b++) {
        tw_plan_info one = TW_PLAN_INFO_INIT;
        uint64_t *seen = tw_alloc(r->ctx, most_phases(r, b) * sizeof *seen);
        s = seen ? measure_bucket(r, b, seen, frames, info ? &one : NULL) : TW_ERR_NOMEM;
        tw_free(r->ctx, seen);
        if (s >= 0 && info)
            add_info(info, &one);
    }
    return s;
}

static tw_status dry_run(int rank, int size, const tw_layer *layers, uint32_t n, const char *rules,
                         const tw_reducer_config *cfg, uint64_t *state, uint64_t *frames, tw_plan_info *info) {
    if (size < 1 || rank < 0 || rank >= size)
        return tw_fail(TW_ERR_ARG, "rank %d of %d ranks", rank, size);
    tw_comm c = {.rank = rank, .size = size};
    tw_reducer *r;
    tw_status s = tw_ctx_resolve(NULL, &c.ctx);
    if (s >= 0)
        s = make(&c, layers, n, rules, cfg, true, &r);
    if (s < 0)
        return s;
    *state = r->state_bytes;
    *frames = 0;
    s = measure(r, frames, info);
    tw_reducer_unmake(r);
    return s;
}

tw_status tw_reducer_estimate(int rank, int size, const tw_layer *layers, uint32_t n, const char *rules,
                              const tw_reducer_config *cfg, tw_memory *out) {
    tw_memory m = TW_MEMORY_INIT;
    const tw_sized *memory = TW_SIZED(tw_memory, frame_bytes);
    tw_status s = tw_sized_check(memory, "tw_reducer_estimate", out);
    if (s >= 0)
        s = dry_run(rank, size, layers, n, rules, cfg, &m.state_bytes, &m.frame_bytes, NULL);
    if (s >= 0)
        tw_sized_fill(memory, out, &m);
    return s;
}

tw_status tw_plan_compute(int rank, int size, const tw_layer *layers, uint32_t n, const char *rules,
                          const tw_reducer_config *cfg, tw_plan_info *out) {
    tw_plan_info info = TW_PLAN_INFO_INIT;
    tw_reducer_config one = TW_REDUCER_CONFIG_INIT;
    uint64_t state, frames;
    const tw_sized *plan = TW_SIZED(tw_plan_info, payload_bytes);
    tw_status s = tw_sized_check(plan, "tw_plan_compute", out);
    if (s >= 0 && cfg)
        s = take_config(cfg, &one);
    one.bucket_bytes = UINT64_MAX; /* all in one op */
    if (s >= 0)
        s = dry_run(rank, size, layers, n, rules, &one, &state, &frames, &info);
    if (s >= 0)
        tw_sized_fill(plan, out, &info);
    return s;
}

int tw_owner(const char *layer, uint64_t tile, uint64_t tiles, int size) {
    return layer && size > 0 ? tw_owner_of(tw_hash64(layer, strlen(layer), 0), tile, tiles, size) : -1;
}
