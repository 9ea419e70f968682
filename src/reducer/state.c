/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Streams of state: records as in files of tensors (docs/file-format.md), written and read front to back. */
#include "reducer/state.h"

static const uint8_t magic[8] = {0x89, 'T', 'W', 'S', '\r', '\n', 0x1a, '\n'};

typedef struct record {
    char kind[4];
    uint32_t n;
    uint64_t body;
} record; /* behind it the chain: its hash, seeded with that of the record before */

/* ---- writing ---- */

typedef struct writer {
    tw_state_put put;
    void *arg;
    uint64_t chain;
    int rank;
} writer;

static tw_status put_bytes(const writer *w, const void *p, size_t n) {
    tw_status s = n ? w->put(w->arg, p, n) : TW_OK;
    return s < 0 ? tw_fail(s, "tw_reducer_save, rank %d: the stream took none of %zu bytes more", w->rank, n) : TW_OK;
}

static tw_status put_record(writer *w, const char *kind, const void *body, uint32_t n) {
    static const uint8_t zeros[8] = {0};
    record r = {.n = n, .body = tw_check64(body, n, 0)};
    memcpy(r.kind, kind, sizeof r.kind);
    w->chain = tw_check64(&r, sizeof r, w->chain);
    tw_status s = put_bytes(w, &r, sizeof r);
    if (s >= 0)
        s = put_bytes(w, &w->chain, sizeof w->chain);
    if (s >= 0)
        s = put_bytes(w, body, n);
    return s >= 0 ? put_bytes(w, zeros, (8 - n % 8) % 8) : s;
}

static tw_status put_values(writer *w, const char *kind, const void *p, uint64_t n, uint32_t width) {
    uint64_t most = TW_STATE_CHUNK / width;
    tw_status s = TW_OK;
    for (uint64_t at = 0; at < n && s >= 0; at += most)
        s = put_record(w, kind, (const uint8_t *)p + at * width, (uint32_t)(n - at < most ? n - at : most) * width);
    return s;
}

void tw_state_head_of(const tw_reducer *r, tw_state_head *h) {
    *h = (tw_state_head){.version = TW_STATE_VERSION,
                         .rank = (uint32_t)r->comm->rank,
                         .size = (uint32_t)r->comm->size,
                         .tile = r->cfg.tile,
                         .redop = (uint32_t)r->cfg.redop,
                         .nlayer = r->nlayer,
                         .stepped = r->stepped,
                         .epoch = r->epoch,
                         .step = r->last_step};
    for (uint32_t i = 0; i < r->nlayer; i++) {
        uint64_t one = tw_reducer_layer_hash(&r->layer[i]);
        h->layers = tw_hash64(&one, sizeof one, h->layers);
    }
}

static tw_state_layer layer_of(const tw_layer_state *l) {
    bool left = l->left[l->left_now] && l->left_cols;
    return (tw_state_layer){.count = l->count,
                            .columns = l->cols,
                            .shard = l->shard,
                            .left_columns = left ? l->left_cols : 0,
                            .values = l->held && l->slot[l->now] ? l->count : 0,
                            .tiles = l->cert[l->cert_now] ? l->tiles : 0,
                            .left = left ? l->count / l->left_cols * l->left_rank : 0,
                            .bound_sq = l->bound_sq,
                            .joint = l->joint,
                            .dtype = (uint32_t)l->dtype,
                            .pinned = l->pinned,
                            .left_rank = left ? l->left_rank : 0,
                            .flags = (l->used ? TW_STATE_USED : 0u) | (l->held ? TW_STATE_HELD : 0u) |
                                     (l->native ? TW_STATE_NATIVE : 0u) | (l->moves ? TW_STATE_MOMENTUM : 0u),
                            .use = (uint32_t)l->use,
                            .name = (uint32_t)strlen(l->name)};
}

static tw_status put_layer(writer *w, const tw_reducer *r, const tw_layer_state *l, uint8_t *body) {
    tw_state_layer s = layer_of(l);
    if (s.name > TW_STATE_CHUNK - sizeof s)
        return tw_fail(TW_ERR_UNSUPPORTED, "tw_reducer_save: layer %u has a name of %u bytes", (uint32_t)(l - r->layer),
                       s.name);
    memcpy(body, &s, sizeof s);
    memcpy(body + sizeof s, l->name, s.name);
    tw_status st = put_record(w, "LAYR", body, (uint32_t)sizeof s + s.name);
    if (st >= 0)
        st = put_values(w, "LEDG", l->cert[l->cert_now], s.tiles, sizeof(tw_cert));
    if (st >= 0)
        st = put_values(w, "RESI", l->slot[l->now], s.values, sizeof(float));
    if (st >= 0)
        st = put_values(w, "LEFT", l->left[l->left_now], s.left, sizeof(float));
    return st >= 0 ? put_values(w, "MOME", l->momentum[l->momentum_now], l->moves ? l->count : 0, sizeof(float)) : st;
}

tw_status tw_reducer_save(const tw_reducer *r, tw_state_put put, void *arg) {
    if (!r || !put)
        return tw_fail(TW_ERR_ARG, "tw_reducer_save: %s is NULL", r ? "put" : "the reducer");
    if (r->mode != TW_MODE_IDLE)
        return tw_fail(TW_ERR_ARG, "tw_reducer_save inside step %llu: end it first", (unsigned long long)r->step);
    writer w = {.put = put, .arg = arg, .rank = r->comm->rank};
    tw_state_head head;
    uint8_t *body = tw_alloc(r->ctx, TW_STATE_CHUNK);
    if (!body)
        return TW_ERR_NOMEM;
    tw_state_head_of(r, &head);
    tw_status s = put_bytes(&w, magic, sizeof magic);
    if (s >= 0)
        s = put_record(&w, "HEAD", &head, sizeof head);
    for (uint32_t i = 0; i < r->nlayer && s >= 0; i++)
        s = put_layer(&w, r, &r->layer[i], body);
    if (s >= 0)
        s = put_record(&w, "END ", NULL, 0);
    tw_free(r->ctx, body);
    return s;
}

/* ---- reading: nothing is believed before its hash was seen ---- */

static tw_status get_bytes(tw_state_in *in, void *p, size_t n) {
    tw_status s = n ? in->get(in->arg, p, n) : TW_OK;
    return s < 0 ? tw_fail(s, "tw_reducer_load: the stream ends, or gives no more, where %zu bytes must follow", n)
                 : TW_OK;
}

static tw_status damaged(const tw_state_in *in, const char *what) {
    return tw_fail(TW_ERR_CORRUPT, "tw_reducer_load: state of rank %u: %s", in->head.rank, what);
}

tw_status tw_state_next(tw_state_in *in, const char *kind, uint32_t n) {
    record r;
    uint64_t chain;
    uint8_t zeros[8] = {0}, none[8] = {0};
    tw_status s = get_bytes(in, &r, sizeof r);
    if (s >= 0)
        s = get_bytes(in, &chain, sizeof chain);
    if (s < 0)
        return s;
    in->chain = tw_check64(&r, sizeof r, in->chain);
    if (chain != in->chain || r.n > TW_STATE_CHUNK)
        return damaged(in, "damaged: a record's head does not match its hash");
    if (memcmp(r.kind, kind, sizeof r.kind) != 0 || (n != UINT32_MAX && r.n != n))
        return damaged(in, "records are not those that must follow each other");
    s = get_bytes(in, in->body, r.n);
    if (s >= 0)
        s = get_bytes(in, zeros, (8 - r.n % 8) % 8);
    if (s < 0)
        return s;
    in->n = r.n;
    if (r.body != tw_check64(in->body, r.n, 0) || memcmp(zeros, none, (8 - r.n % 8) % 8) != 0)
        return damaged(in, "damaged: a record does not match its hash");
    return TW_OK;
}

tw_status tw_state_open(tw_state_in *in) {
    uint8_t first[sizeof magic];
    tw_status s = get_bytes(in, first, sizeof first);
    if (s >= 0 && memcmp(first, magic, sizeof magic) != 0)
        return tw_fail(TW_ERR_CORRUPT, "tw_reducer_load: this is no state of a reducer");
    if (s >= 0)
        s = tw_state_next(in, "HEAD", UINT32_MAX);
    uint32_t version = 0;
    if (s >= 0 && in->n >= sizeof version)
        memcpy(&version, in->body, sizeof version);
    if (s >= 0 && version != TW_STATE_VERSION)
        return tw_fail(TW_ERR_UNSUPPORTED, "tw_reducer_load: state of version %u; this library reads version %u",
                       version, TW_STATE_VERSION);
    if (s >= 0 && in->n != sizeof in->head)
        return damaged(in, "the head is of another length");
    if (s < 0)
        return s;
    tw_state_head h;
    memcpy(&h, in->body, sizeof h);
    bool sizes = h.size >= 1 && h.size <= INT32_MAX && h.rank < h.size;
    bool tile = h.tile >= TW_MIN_TILE && h.tile <= TW_MAX_TILE && (h.tile & (h.tile - 1)) == 0;
    if (!sizes || !tile || h.stepped > 1 || h.epoch > UINT8_MAX)
        return damaged(in, "the head has values that no reducer writes");
    in->head = h;
    return TW_OK;
}

tw_status tw_state_layer_next(tw_state_in *in, tw_state_layer *l, const char **name) {
    tw_status s = tw_state_next(in, "LAYR", UINT32_MAX);
    if (s < 0)
        return s;
    if (in->n < sizeof *l)
        return damaged(in, "a layer's record is too short");
    memcpy(l, in->body, sizeof *l);
    *name = (const char *)in->body + sizeof *l;
    bool left = l->left == 0 || (l->left_columns > 0 && l->count % l->left_columns == 0 &&
                                 l->left == l->count / l->left_columns * l->left_rank);
    if (l->name != in->n - sizeof *l || (l->values != 0 && l->values != l->count) || l->flags > TW_STATE_FLAGS ||
        !left || (l->tiles != 0 && l->tiles != tw_layer_tiles(l->count, in->head.tile)) || l->use > TW_USE_GATHERED ||
        !(l->bound_sq >= 0) || !(l->joint >= 0))
        return damaged(in, "a layer's record has values that no reducer writes");
    return TW_OK;
}

tw_status tw_state_values(tw_state_in *in, const char *kind, uint64_t n, uint32_t width, tw_state_sink sink,
                          void *arg) {
    uint64_t most = TW_STATE_CHUNK / width;
    for (uint64_t at = 0; at < n; at += most) {
        uint64_t k = n - at < most ? n - at : most;
        tw_status s = tw_state_next(in, kind, (uint32_t)k * width);
        if (s < 0)
            return s;
        sink(arg, at, in->body, k);
    }
    return TW_OK;
}

tw_status tw_state_close(tw_state_in *in) {
    return tw_state_next(in, "END ", 0);
}
