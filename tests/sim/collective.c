/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Trials of the collectives without a reducer: reduce-scatter, allgather, broadcast. One to three calls on a new world,
 * each compared with a plain model, in one of these surroundings: nothing goes wrong; frames are lost or damaged or a rank
 * dies; one rank means another call. */
#include "trial.h"
#include "reducer/stateless.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CANARY = 64, MOST_VALUES = 1 << 20 };
typedef enum surrounding { CLEAN, FAULTY, ODD } surrounding;

typedef struct world {
    trial *t;
    rng *r;
    int ranks;
    surrounding how;
    int odd_rank;
    uint64_t allocations;
    uint32_t seq; /* of the call: random numbers are drawn by it */
    tw_ctx *ctx;
    tw_sim *sim;
    tw_comm *comm[MOST_RANKS];
    tw_op *op[MOST_RANKS];
    tw_status status[MOST_RANKS];
} world;

typedef struct one_call { /* as all ranks mean it */
    tw_call k;
    uint64_t in_values, out_values; /* of one rank */
    bool in_place;
    float *g, *want;    /* inputs of all ranks as fp32; what a rank must end with, see expected() */
    uint8_t *mem, *was; /* of all ranks, and as it was before the call */
    size_t room;        /* of one rank */
    size_t in_at[MOST_RANKS], out_at[MOST_RANKS];
} one_call;

/* ---- drawing ---- */

static uint64_t draw_count(world *w, const tw_call *k) {
    static const uint64_t small[] = {0, 1, 2, 3, 5, 7, 13, 31, 127, 251, 509};
    uint64_t copies = (uint64_t)w->ranks * (k->kind == TW_KIND_BROADCAST ? 1u : (unsigned)w->ranks);
    uint64_t most = MOST_VALUES / copies, tile = k->tile, n;
    uint64_t kind = rng_below(w->r, 10);
    if (kind < 3)
        n = small[rng_below(w->r, sizeof small / sizeof small[0])];
    else if (kind < 7)
        n = tile * rng_range(w->r, 1, 40) + rng_below(w->r, 3) - 1;
    else
        n = rng_below(w->r, tile * 60);
    while (n > most)
        n = rng_chance(w->r, 50) ? n % (most + 1) : n / 2;
    return n;
}

static void draw_spec(world *w, tw_call *k) {
    w->t->rc.tile = k->tile;
    k->spec = trial_draw_spec(w->t);
    k->spec.feedback = TW_FEEDBACK_NONE;
    k->spec.rate = 0;
}

static void draw_call(world *w, tw_call *k) {
    static const tw_dtype dtypes[] = {TW_F32, TW_F32, TW_F16, TW_BF16};
    static const tw_kind kinds[] = {TW_KIND_REDUCE_SCATTER, TW_KIND_ALLGATHER, TW_KIND_BROADCAST};
    *k = (tw_call){.kind = kinds[rng_below(w->r, 3)], .dtype = dtypes[rng_below(w->r, 4)], .redop = TW_SUM};
    k->tile = rng_chance(w->r, 15) ? 0 : 128u << rng_below(w->r, 4);
    if (k->tile == 0 && w->ranks > 8)
        k->tile = 1024;
    k->frame_bytes = rng_chance(w->r, 70) ? (uint32_t)rng_range(w->r, 64, 6000) & ~3u : 0;
    k->in_flight = rng_chance(w->r, 70) ? (uint32_t)rng_range(w->r, 2, 5) : 0;
    k->tile = k->tile ? k->tile : MOST_TILE;
    draw_spec(w, k);
    k->count = draw_count(w, k);
    if (k->kind == TW_KIND_REDUCE_SCATTER && rng_chance(w->r, 50))
        k->redop = TW_AVG;
    if (k->kind == TW_KIND_BROADCAST)
        k->root = (int)rng_below(w->r, (unsigned)w->ranks);
}

static float draw_value(world *w, uint64_t kind, bool early) {
    float x = (float)(rng_unit(w->r) * 2 - 1);
    if (kind == 1)
        return ldexpf(x, (int)rng_below(w->r, 81) - 40);
    if (kind == 2)
        return rng_chance(w->r, 90) ? copysignf(0.0f, x) : x;
    if (kind == 3)
        return ldexpf(x, -140 + (int)rng_below(w->r, 20));
    if (kind == 4)
        return rng_chance(w->r, 1) ? x * 1e6f : x;
    if (kind == 5)
        return x * 3e38f;
    if (kind == 7) /* what is large lies together */
        return early ? x : x * 1e-3f;
    return kind == 6 ? 0.25f : x;
}

static void draw_values(world *w, one_call *c) {
    uint64_t n = c->in_values * (unsigned)w->ranks, kind = rng_below(w->r, 9);
    for (uint64_t i = 0; i < n; i++)
        c->g[i] = model_to_dtype(draw_value(w, kind, i % c->in_values < c->in_values / 8), c->k.dtype);
    for (uint64_t i = rng_chance(w->r, 15) ? rng_range(w->r, 1, 3) : 0; n && i > 0; i--)
        c->g[rng_below(w->r, n)] = rng_chance(w->r, 50) ? NAN : copysignf(INFINITY, (float)rng_unit(w->r) - 0.5f);
}

/* ---- the user's memory ---- */

static void put(uint8_t *to, float x, tw_dtype t) {
    uint16_t half;
    if (t == TW_F32) {
        memcpy(to, &x, 4);
        return;
    }
    half = isnan(x) ? (t == TW_F16 ? 0x7e00 : 0x7fc0) : model_half_bits(x, t);
    memcpy(to, &half, 2);
}

static bool same(const uint8_t *p, float want, tw_dtype t) {
    uint8_t bytes[4];
    float x;
    put(bytes, want, t);
    if (t == TW_F32 && isnan(want)) { /* its sign says nothing */
        memcpy(&x, p, sizeof x);
        return isnan(x);
    }
    return memcmp(p, bytes, tw_dtype_size(t)) == 0;
}

static bool lay_out(world *w, one_call *c) {
    size_t size = tw_dtype_size(c->k.dtype), n = (size_t)c->in_values * size, m = (size_t)c->out_values * size;
    c->in_place = c->k.kind == TW_KIND_BROADCAST || rng_chance(w->r, 30);
    c->room = 4 * CANARY + n + m + 128;
    c->mem = malloc(c->room * (unsigned)w->ranks);
    c->was = malloc(c->room * (unsigned)w->ranks);
    c->g = malloc((c->in_values * (unsigned)w->ranks + 1) * sizeof(float));
    if (!c->mem || !c->was || !c->g)
        return trial_fail(w->t, "out of memory");
    for (size_t i = 0; i < c->room * (unsigned)w->ranks; i++)
        c->mem[i] = (uint8_t)(i * 7 + 1);
    draw_values(w, c);
    for (int r = 0; r < w->ranks; r++) {
        size_t skew = rng_chance(w->r, 30) ? rng_below(w->r, 64) : 0, mine = (size_t)r * (size_t)c->k.count * size;
        c->in_at[r] = (size_t)r * c->room + CANARY + skew;
        c->out_at[r] = c->in_at[r] + n + CANARY + (rng_chance(w->r, 30) ? rng_below(w->r, 64) : 0);
        if (c->in_place && c->k.kind == TW_KIND_REDUCE_SCATTER)
            c->out_at[r] = c->in_at[r] + mine;
        else if (c->in_place && c->k.kind == TW_KIND_ALLGATHER)
            c->in_at[r] = c->out_at[r] + mine;
        else if (c->in_place)
            c->out_at[r] = c->in_at[r];
        for (uint64_t i = 0; i < c->in_values; i++)
            put(c->mem + c->in_at[r] + i * size, c->g[(uint64_t)r * c->in_values + i], c->k.dtype);
    }
    memcpy(c->was, c->mem, c->room * (unsigned)w->ranks);
    return true;
}

/* ---- the model ---- */

static const char *const names[] = {"tw_allreduce", "tw_reduce_scatter", "tw_allgather", "tw_broadcast"};

static bool is_sparse(const world *w, const tw_call *k) {
    return w->ranks > 1 && k->spec.codec == TW_CODEC_TOPK;
}

/* Spans end between the tiles of ranks that relay them. */
static uint8_t zone_of(const world *w, const tw_call *k, uint64_t tile, uint64_t tiles) {
    return k->kind == TW_KIND_BROADCAST ? (uint8_t)(1 + tile * ((unsigned)w->ranks - 1) / tiles) : 1;
}

/* A block of x as receivers decode it; tiles in which it has NaN or Inf, or in which something became so, are flagged. */
static bool through_sparse(const world *w, const tw_call *k, int rank, int block, const float *x, float *y,
                           uint8_t *flag) {
    uint64_t tiles = (k->count + k->tile - 1) / k->tile;
    uint8_t *zone = malloc(tiles + 1);
    float *sent = malloc((k->count + 1) * sizeof *sent);
    model_sparse_part p = {.s = &k->spec, .name = names[k->kind], .block = (uint32_t)block, .n = k->count};
    p.tile = k->tile;
    p.step = w->seq;
    p.hop = k->kind == TW_KIND_REDUCE_SCATTER ? 1 : 2;
    p.dtype = k->dtype;
    p.rank = rank;
    p.zone = zone;
    p.flag = flag;
    p.x = sent;
    p.decoded = y;
    for (uint64_t t = 0; zone && t < tiles; t++)
        zone[t] = zone_of(w, k, t, tiles);
    memset(flag, 0, tiles);
    for (uint64_t i = 0; i < k->count; i++)
        flag[i / k->tile] |= !isfinite(x[i]);
    for (uint64_t i = 0; sent && i < k->count; i++)
        sent[i] = p.hop == 2 && flag[i / k->tile] ? 0.0f : x[i];
    bool ok = zone && sent && model_compress(&p);
    free(zone);
    free(sent);
    return ok;
}

/* What all ranks, or the one whose block it is, must have of it. Flagged tiles are NaN. */
static bool expected_sparse(const world *w, const one_call *c, uint64_t b, float *want) {
    const tw_call *k = &c->k;
    uint64_t n = k->count, size = (unsigned)w->ranks;
    float *y = malloc((n + 1) * sizeof *y), scale = k->redop == TW_AVG ? 1.0f / (float)w->ranks : 1.0f;
    uint8_t *bad = calloc(n / k->tile + 2, 1), *flag = calloc(n / k->tile + 2, 1);
    bool ok = y && bad && flag;
    if (ok && k->kind != TW_KIND_REDUCE_SCATTER)
        ok = through_sparse(w, k, (int)b, k->kind == TW_KIND_ALLGATHER ? (int)b : 0, c->g + b * n, want, bad);
    for (uint64_t r = 0; r < size && ok && k->kind == TW_KIND_REDUCE_SCATTER; r++) {
        const float *x = c->g + (r * size + b) * n;
        memset(flag, 0, n / k->tile + 1);
        ok = r == b || through_sparse(w, k, (int)r, (int)b, x, y, flag);
        for (uint64_t i = 0; ok && i < n; i++) {
            want[i] += r == b ? x[i] : y[i];
            bad[i / k->tile] |= flag[i / k->tile];
        }
    }
    for (uint64_t i = 0; ok && i < n; i++) {
        want[i] = model_to_dtype(want[i] * scale, k->dtype);
        bad[i / k->tile] |= !isfinite(want[i]);
    }
    for (uint64_t i = 0; ok && i < n; i++)
        want[i] = bad[i / k->tile] ? NAN : want[i];
    free(y);
    free(bad);
    free(flag);
    return ok;
}

/* What a receiver of these values stores: tile by tile through the codec. One rank alone encodes nothing. */
static void through_codec(const world *w, const tw_call *k, int rank, int block, const float *x, float *y) {
    tw_spec none = TW_SPEC_INIT;
    model_draw d = {
        names[k->kind],  0,    k->spec.seed, w->seq, (uint32_t)rank, k->kind == TW_KIND_REDUCE_SCATTER ? 1 : 2,
        (uint32_t)block, false};
    for (uint64_t at = 0; at < k->count; at += k->tile) {
        uint32_t n = k->count - at < k->tile ? (uint32_t)(k->count - at) : k->tile;
        d.tile = at / k->tile;
        model_codec(w->ranks > 1 ? &k->spec : &none, &d, k->dtype, x + at, n, y + at);
    }
}

/* want: reduce-scatter, the sums of all blocks; allgather, all blocks; broadcast, the one array. */
static bool expected(world *w, one_call *c) {
    const tw_call *k = &c->k;
    uint64_t n = k->count, size = (unsigned)w->ranks;
    float *y = malloc((n + 1) * sizeof *y);
    c->want = calloc(n * size + 1, sizeof *c->want);
    if (!y || !c->want) {
        free(y);
        return trial_fail(w->t, "out of memory");
    }
    if (is_sparse(w, k)) {
        uint64_t from = k->kind == TW_KIND_BROADCAST ? (unsigned)k->root : 0,
                 to = k->kind == TW_KIND_BROADCAST ? from + 1 : size;
        bool ok = true;
        for (uint64_t b = from; b < to && ok; b++)
            ok = expected_sparse(w, c, b, c->want + (b - from) * n);
        free(y);
        return ok || trial_fail(w->t, "out of memory");
    }
    if (k->kind == TW_KIND_BROADCAST)
        through_codec(w, k, k->root, 0, c->g + (unsigned)k->root * n, c->want);
    for (uint64_t b = 0; b < size && k->kind == TW_KIND_ALLGATHER; b++)
        through_codec(w, k, (int)b, (int)b, c->g + b * n, c->want + b * n);
    for (uint64_t b = 0; b < size && k->kind == TW_KIND_REDUCE_SCATTER; b++) {
        float *sum = c->want + b * n, scale = k->redop == TW_AVG ? 1.0f / (float)w->ranks : 1.0f;
        for (uint64_t r = 0; r < size; r++) {
            const float *x = c->g + (r * size + b) * n;
            if (r != b)
                through_codec(w, k, (int)r, (int)b, x, y);
            for (uint64_t i = 0; i < n; i++)
                sum[i] = (r ? sum[i] : 0.0f) + (r == b ? x[i] : y[i]);
            for (uint64_t i = 0; i < n && r == 0; i++) /* not 0 + x: -0 stays */
                sum[i] = r == b ? x[i] : y[i];
        }
        for (uint64_t i = 0; i < n; i++)
            sum[i] *= scale;
    }
    for (uint64_t i = 0; i < n * size; i++)
        c->want[i] = model_to_dtype(c->want[i], k->dtype);
    free(y);
    return true;
}

/* ---- running ---- */

static tw_call call_of(world *w, const one_call *c, int r) {
    tw_call k = c->k;
    k.comm = w->comm[r];
    k.in = c->mem + c->in_at[r];
    k.out = c->mem + c->out_at[r];
    return k;
}

/* Another call than all others mean; its buffers are large enough for it. */
static void make_odd(world *w, tw_call *k) {
    uint64_t kind = rng_below(w->r, 5);
    if (k->kind == TW_KIND_BROADCAST && w->ranks > 1 && rng_chance(w->r, 80))
        k->root = (k->root + (int)rng_range(w->r, 1, (unsigned)w->ranks - 1)) % w->ranks;
    else if (kind == 1)
        k->count--;
    else if (kind == 2 && k->kind == TW_KIND_REDUCE_SCATTER)
        k->redop = k->redop == TW_SUM ? TW_AVG : TW_SUM;
    else if (kind == 3 && k->dtype != TW_F32)
        k->dtype = k->dtype == TW_F16 ? TW_BF16 : TW_F16;
    else if (k->spec.codec == TW_CODEC_NONE)
        k->spec = (tw_spec){sizeof(tw_spec), TW_CODEC_CAST, TW_FEEDBACK_NONE, TW_BF16, 0, 0, 0, 0, 0, 0, 0};
    else
        k->spec = (tw_spec)TW_SPEC_INIT;
}

static void run_call(world *w, const one_call *c, bool last) {
    int from = (int)rng_below(w->r, (unsigned)w->ranks);
    bool odd = last && w->how == ODD && c->k.count > 1;
    w->odd_rank = odd ? (int)rng_below(w->r, (unsigned)w->ranks) : -1;
    for (int i = 0; i < w->ranks; i++) {
        int r = (from + i) % w->ranks;
        tw_call k = call_of(w, c, r);
        if (r == w->odd_rank)
            make_odd(w, &k);
        w->op[r] = NULL;
        w->status[r] = tw_call_start(&k, &w->op[r]);
    }
    tw_sim_run(w->sim);
    for (int i = 0; i < w->ranks; i++) {
        int r = (from + i) % w->ranks;
        if (w->op[r])
            w->status[r] = tw_call_wait(w->op[r]);
    }
}

/* ---- checking ---- */

static bool output_is_right(world *w, const one_call *c, int r) {
    size_t size = tw_dtype_size(c->k.dtype);
    const float *want = c->want + (c->k.kind == TW_KIND_REDUCE_SCATTER ? (uint64_t)r * c->k.count : 0);
    for (uint64_t i = 0; i < c->out_values; i++)
        if (!same(c->mem + c->out_at[r] + i * size, want[i], c->k.dtype))
            return false;
    (void)w;
    return true;
}

/* But for the output, nothing of a rank's memory may have changed; *output: nor that. */
static bool rest_is_untouched(const one_call *c, int r, bool *output) {
    size_t from = (size_t)r * c->room, out = c->out_at[r], n = (size_t)c->out_values * tw_dtype_size(c->k.dtype);
    *output = memcmp(c->mem + out, c->was + out, n) == 0;
    return memcmp(c->mem + from, c->was + from, out - from) == 0 &&
           memcmp(c->mem + out + n, c->was + out + n, from + c->room - out - n) == 0;
}

/* For sentences. */
static const char *name_of(const one_call *c) {
    static const char *const names[] = {"allreduce", "reduce-scatter", "allgather", "broadcast"};
    static char text[200];
    char spec[96];
    tw_spec_format(&c->k.spec, spec, sizeof spec);
    snprintf(text, sizeof text, "%s of %llu %s under %s, tile %u, frame_bytes %u, root %d", names[c->k.kind],
             (unsigned long long)c->k.count, tw_dtype_name(c->k.dtype), spec, c->k.tile, c->k.frame_bytes, c->k.root);
    return text;
}

/* Every rank has what the first that went well has, to the bit. */
static bool check_replicas_of(world *w, const one_call *c) {
    size_t n = (size_t)c->out_values * tw_dtype_size(c->k.dtype);
    int first = -1;
    for (int r = 0; r < w->ranks && c->k.kind != TW_KIND_REDUCE_SCATTER; r++) {
        if (w->status[r] < 0 || r == w->odd_rank)
            continue;
        first = first < 0 ? r : first;
        if (memcmp(c->mem + c->out_at[r], c->mem + c->out_at[first], n) != 0)
            return trial_fail(w->t, "%s: ranks %d and %d of %d have other values", name_of(c), first, r, w->ranks);
    }
    return true;
}

static bool check_outputs(world *w, const one_call *c) {
    for (int r = 0; r < w->ranks; r++) {
        bool output, right = output_is_right(w, c, r), rest = rest_is_untouched(c, r, &output);
        if (!rest)
            return trial_fail(w->t, "%s, rank %d of %d: memory beside its output was written", name_of(c), r, w->ranks);
        if (r != w->odd_rank && w->status[r] == TW_OK && !right)
            return trial_fail(w->t, "%s, rank %d of %d: other values than the model's (how %d, in place %d)",
                              name_of(c), r, w->ranks, w->how, c->in_place);
        if (r != w->odd_rank && w->status[r] < 0 && !right && !output)
            return trial_fail(w->t, "%s, rank %d of %d: half of an output was written before it failed", name_of(c), r,
                              w->ranks);
    }
    return true;
}

static uint64_t payload_of(const one_call *c) {
    uint64_t sum = 0;
    for (uint64_t at = 0; at < c->k.count; at += c->k.tile)
        sum += tw_spec_bound(&c->k.spec, c->k.count - at < c->k.tile ? c->k.count - at : c->k.tile, c->k.dtype);
    return sum;
}

/* What the plans say against what the network counted, and against what the collective needs. */
static bool check_bytes(world *w, const one_call *c, const uint64_t *before) {
    uint64_t frames, bytes, all = 0, payload = payload_of(c), others = (unsigned)w->ranks - 1;
    bool blocks = c->k.kind != TW_KIND_BROADCAST;
    for (int r = 0; r < w->ranks; r++) {
        const tw_plan *p = w->op[r]->plan;
        tw_sim_counters(w->sim, r, &frames, &bytes);
        if (bytes - before[r] != w->op[r]->sent || (!is_sparse(w, &c->k) && w->op[r]->sent != p->wire_bytes))
            return trial_fail(w->t, "%s, rank %d: the plan has %llu bytes, the network counted %llu", name_of(c), r,
                              (unsigned long long)p->wire_bytes, (unsigned long long)(bytes - before[r]));
        if (is_sparse(w, &c->k)) /* a plan's bytes are about what is sent then */
            continue;
        if ((blocks || r == c->k.root) && p->payload_bytes != (blocks ? others : others > 0) * payload)
            return trial_fail(w->t, "%s, rank %d: sends %llu bytes of payload", name_of(c), r,
                              (unsigned long long)p->payload_bytes);
        if (p->payload_bytes > payload * others)
            return trial_fail(w->t, "%s, rank %d: sends more than everything to everybody", name_of(c), r);
        all += p->payload_bytes;
    }
    if (!is_sparse(w, &c->k) && all != payload * others * (blocks ? (unsigned)w->ranks : 1))
        return trial_fail(w->t, "%s: %llu bytes of payload cross in all", name_of(c), (unsigned long long)all);
    return true;
}

static bool check_statuses(world *w, const one_call *c) {
    int failed = 0;
    for (int r = 0; r < w->ranks; r++) {
        failed += w->status[r] < 0;
        if (w->how == CLEAN && w->status[r] != TW_OK)
            return trial_fail(w->t, "%s, rank %d: %s: %s", name_of(c), r, tw_status_name(w->status[r]),
                              tw_last_error());
    }
    if (w->odd_rank >= 0 && w->ranks > 1 && failed == 0)
        return trial_fail(w->t, "%s: rank %d means another call, and no rank says so", name_of(c), w->odd_rank);
    return true;
}

/* A call as the last one takes no memory. */
static bool repeat(world *w, one_call *c) {
    uint64_t before = w->allocations;
    memcpy(c->mem, c->was, c->room * (unsigned)w->ranks);
    free(c->want);
    c->want = NULL;
    w->seq++;
    if (!expected(w, c))
        return false;
    run_call(w, c, false);
    if (w->allocations != before)
        return trial_fail(w->t, "%s: the same call again leaves %llu allocations where there were %llu", name_of(c),
                          (unsigned long long)w->allocations, (unsigned long long)before);
    return check_statuses(w, c) && check_outputs(w, c);
}

static bool try_call(world *w, bool last) {
    one_call c = {0};
    uint64_t before[MOST_RANKS], frames;
    draw_call(w, &c.k);
    uint64_t all = c.k.count * (unsigned)w->ranks;
    c.in_values = c.k.kind == TW_KIND_REDUCE_SCATTER ? all : c.k.count;
    c.out_values = c.k.kind == TW_KIND_ALLGATHER ? all : c.k.count;
    bool ok = lay_out(w, &c) && expected(w, &c);
    for (int r = 0; r < w->ranks && ok; r++)
        tw_sim_counters(w->sim, r, &frames, &before[r]);
    tally_other((uint32_t)c.k.kind, &c.k.spec);
    if (ok)
        run_call(w, &c, last);
    ok = ok && check_statuses(w, &c) && check_outputs(w, &c) && check_replicas_of(w, &c);
    if (ok && w->how == CLEAN)
        ok = check_bytes(w, &c, before) && (!rng_chance(w->r, 30) || repeat(w, &c));
    free(c.g);
    free(c.want);
    free(c.mem);
    free(c.was);
    return ok;
}

/* ---- a world ---- */

static void draw_network(world *w, tw_sim_config *c) {
    *c = (tw_sim_config)TW_SIM_CONFIG_INIT;
    c->ranks = w->ranks;
    c->seed = rng_next(w->r);
    c->reorder = rng_chance(w->r, 60) ? 0.3 : 0;
    c->jitter_s = rng_chance(w->r, 60) ? 50e-6 : 0;
    c->bandwidth = rng_chance(w->r, 50) ? 1e8 : 0;
    if (w->how != FAULTY)
        return;
    uint64_t kind = rng_below(w->r, 4);
    *(kind == 0 ? &c->loss : kind == 1 ? &c->corruption : &c->truncation) = kind < 3 ? 0.03 : 0;
    if (kind == 3) {
        c->dead_rank = (int)rng_below(w->r, (unsigned)w->ranks);
        c->dead_after = rng_below(w->r, 12);
        c->detects = rng_chance(w->r, 50);
    }
}

bool collective_run(trial *t, uint64_t seed, int most_ranks) {
    world w = {.t = t, .r = &t->rng};
    tw_ctx_config cc = TW_CTX_CONFIG_INIT;
    tw_sim_config net;
    t->rng = (rng){seed ^ UINT64_C(0xc011ec71fe)};
    uint64_t how = rng_below(w.r, 10);
    w.ranks = rng_chance(w.r, 20) ? (int)rng_range(w.r, 1, (unsigned)most_ranks) : (int)rng_range(w.r, 1, 9);
    w.ranks = w.ranks > most_ranks ? most_ranks : w.ranks;
    w.how = how < 6 ? CLEAN : how < 8 ? FAULTY : ODD;
    draw_network(&w, &net);
    cc.alloc = count_alloc;
    cc.release = count_release;
    cc.alloc_arg = &w.allocations;
    cc.timeout_s = 1;
    if (tw_ctx_create(&cc, &w.ctx) < 0 || tw_sim_create(NULL, &net, &w.sim) < 0 ||
        tw_sim_comms(w.sim, w.ctx, w.comm) < 0)
        return trial_fail(t, "opening: %s", tw_last_error());
    uint64_t calls = rng_range(w.r, 1, 3);
    for (uint64_t i = 0; i < calls && !t->failed; i++)
        try_call(&w, i + 1 == calls), w.seq++;
    for (int r = 0; r < w.ranks; r++)
        tw_comm_destroy(w.comm[r]);
    tw_sim_destroy(w.sim);
    tw_ctx_destroy(w.ctx);
    if (w.allocations)
        trial_fail(t, "%llu allocations were not given back", (unsigned long long)w.allocations);
    return !t->failed;
}
