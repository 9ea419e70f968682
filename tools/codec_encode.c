/* SPDX-License-Identifier: BSD-3-Clause
 *
 * compress and diff. */
#include "codec_tool.h"

#include <stdlib.h>
#include <thinwire/codec.h>
#include "exec/exec.h"

/* ---- shared ---- */

tw_status codec_buffers_make(codec_buffers *b, const tc_list *l) {
    uint64_t values = 0, payload = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        const tc_tensor *t = &l->item[i];
        uint64_t most = tc_chunk_values(t), n = t->count < most ? t->count : most, bound = tc_payload_bound(t, n);
        values = n * 16 > values ? n * 16 : values; /* the widest dtype, and fp32 for the differences of any */
        payload = bound > payload ? bound : payload;
    }
    *b = (codec_buffers){malloc(values + 64), malloc(values + 64), malloc(payload + 64)};
    return b->values && b->other && b->payload ? TW_OK : tw_fail(TW_ERR_NOMEM, "out of memory");
}

void codec_buffers_free(codec_buffers *b) {
    free(b->values);
    free(b->other);
    free(b->payload);
}

tw_status codec_choose(const codec_options *o, tc_list *l) {
    tw_status st = TW_OK;
    for (uint32_t i = 0; i < l->n && st >= 0; i++) {
        uint32_t n;
        const tw_phase *phase = tw_rules_find(o->rules, l->item[i].name, &n);
        l->item[i].step = (uint32_t)o->step;
        l->item[i].chunk_tiles = o->chunk_tiles;
        st = tc_set_spec(&l->item[i], tw_phase_at(phase, n, o->step));
    }
    return st;
}

tw_status codec_encode_chunk(tc_writer *w, codec_report *r, codec_buffers *b, const tc_tensor *t, uint32_t i,
                             uint64_t first, uint64_t n) {
    if (!*t->spec) {
        uint64_t bytes = n * tc_dtypes[t->dtype].bytes;
        codec_report_chunk(r, t, i, b->values, bytes, n, b->values, b->values);
        return tc_write_chunk(w, b->values, bytes);
    }
    tw_array_args args = TW_ARRAY_ARGS_INIT;
    uint64_t bytes = 0;
    args.name = t->name;
    args.step = t->step;
    args.first = first;
    tw_status st = tw_encode(&t->parsed, &args, b->values, n, (tw_dtype)t->dtype, b->payload, tc_payload_bound(t, n),
                             &bytes, NULL);
    if (st >= 0)
        st = tw_decode(&t->parsed, &args, b->payload, bytes, b->other, n, (tw_dtype)t->dtype);
    if (st < 0)
        return st;
    codec_report_chunk(r, t, i, b->payload, bytes, n, b->values, b->other);
    return tc_write_chunk(w, b->payload, bytes);
}

tw_status codec_input_kind(const codec_options *o, const char *path, tc_kind *kind) {
    bool told = o->raw.dtype || o->raw.has_shape;
    tc_kind by_name = tc_kind_of(path);
    *kind = o->from ? o->from : by_name ? by_name : told ? TC_KIND_RAW : TC_KIND_NONE;
    if (!*kind)
        return tw_fail(TW_ERR_ARG, "%s: --from (raw, npy, safetensors) must say what kind of file it is", path);
    if (told && *kind != TC_KIND_RAW)
        return tw_fail(TW_ERR_ARG,
                       "%s: --dtype and --shape are of raw inputs; a %s file has its own (--from raw: take it as raw)",
                       path, tc_kind_words[*kind]);
    return TW_OK;
}

void codec_subtract(float *dst, const void *a, tw_dtype ta, const void *b, tw_dtype tb, uint64_t n) {
    _Alignas(64) float x[TW_MAX_TILE], y[TW_MAX_TILE];
    const tw_kernels *k = tw_kernels_best();
    tw_fpenv env = tw_fp_enter();
    for (uint64_t at = 0; at < n; at += TW_MAX_TILE) {
        uint32_t m = (uint32_t)(n - at < TW_MAX_TILE ? n - at : TW_MAX_TILE);
        tw_widen(k, x, (const uint8_t *)a + at * tw_dtype_size(ta), m, ta);
        tw_widen(k, y, (const uint8_t *)b + at * tw_dtype_size(tb), m, tb);
        for (uint32_t i = 0; i < m; i++)
            dst[at + i] = x[i] - y[i];
    }
    tw_fp_leave(env);
}

/* ---- compress ---- */

static tw_status compress_values(const codec_options *o, tc_input *in, tc_sink *to) {
    codec_report r = {0};
    codec_buffers b = {0};
    tc_writer w;
    tw_status st = codec_report_begin(&r, o, &in->list);
    if (st >= 0)
        st = codec_buffers_make(&b, &in->list);
    if (st >= 0)
        st = tc_write_head(&w, to, &in->list, TC_CONTENT_TENSORS, in->kind);
    for (uint32_t i = 0; i < in->list.n; i++) {
        const tc_tensor *t = &in->list.item[i];
        for (uint64_t at = 0; at < t->count && st >= 0; at += tc_chunk_values(t)) {
            uint64_t n = t->count - at < tc_chunk_values(t) ? t->count - at : tc_chunk_values(t);
            st = tc_read(&in->from, b.values, n * tc_dtypes[t->dtype].bytes);
            if (st >= 0)
                st = codec_encode_chunk(&w, &r, &b, t, i, at, n);
        }
    }
    if (st >= 0)
        st = tc_source_end(&in->from);
    if (st >= 0)
        st = tc_write_end(&w);
    if (st >= 0)
        st = codec_report_end(&r, to->bytes);
    if (st >= 0)
        st = tc_sink_commit(to);
    codec_buffers_free(&b);
    codec_report_free(&r);
    return st;
}

tw_status codec_compress(const codec_options *o) {
    tc_input in = {.from.fd = -1};
    tc_sink to = {.fd = -1};
    tc_kind kind;
    tw_status st = codec_input_kind(o, o->file[0], &kind);
    if (st >= 0)
        st = tc_input_open(&in, o->file[0], kind, &o->raw);
    if (st >= 0)
        st = codec_choose(o, &in.list);
    if (st >= 0)
        st = tc_sink_open(&to, o->output, o->force, false);
    if (st >= 0)
        st = compress_values(o, &in, &to);
    tc_sink_close(&to);
    tc_input_close(&in);
    return st;
}

/* ---- diff ---- */

typedef struct pair { /* of tensors, by their place in the inputs */
    uint32_t base, tuned;
} pair;

static tw_status read_at(tc_input *in, const tc_tensor *t, uint64_t first, uint64_t n, void *to) {
    uint32_t each = tc_dtypes[t->dtype].bytes;
    tw_status st = tc_source_seek(&in->from, t->at + first * each);
    return st >= 0 ? tc_read(&in->from, to, n * each) : st;
}

/* Those that are not floats have no difference: apply keeps BASE's. */
static tw_status tell_left_out(const codec_options *o, tc_input in[2], const tc_tensor *a, const tc_tensor *b) {
    static uint8_t x[1 << 16], y[1 << 16];
    bool same = a->dtype == b->dtype;
    tw_status st = TW_OK;
    uint64_t most = sizeof x / tc_dtypes[a->dtype].bytes;
    for (uint64_t at = 0; same && at < a->count && st >= 0; at += most) {
        uint64_t n = a->count - at < most ? a->count - at : most;
        st = read_at(&in[0], a, at, n, x);
        if (st >= 0)
            st = read_at(&in[1], b, at, n, y);
        same = st < 0 || !memcmp(x, y, n * tc_dtypes[a->dtype].bytes);
    }
    if (!same)
        fprintf(stderr, "thinwire-codec: %s: tensor '%.*s' (%s) differs and is left out: apply keeps BASE's\n",
                o->file[1], TC_SHOWN, a->name, tc_dtypes[a->dtype].name);
    return st;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(tc_tensor *const *)a)->name, (*(tc_tensor *const *)b)->name);
}

/* partner[i] = where tuned has what base has as its i-th. Names and shapes are the same, or it is refused. */
static tw_status match(const codec_options *o, const tc_list *base, const tc_list *tuned, uint32_t *partner) {
    tc_tensor **sorted = malloc((tuned->n + 1) * sizeof *sorted);
    tw_status st = sorted ? TW_OK : tw_fail(TW_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < tuned->n && sorted; i++)
        sorted[i] = &tuned->item[i];
    if (sorted && tuned->n)
        qsort(sorted, tuned->n, sizeof *sorted, by_name);
    for (uint32_t i = 0; i < base->n && st >= 0; i++) {
        tc_tensor *key = &base->item[i];
        tc_tensor **hit = tuned->n ? bsearch(&key, sorted, tuned->n, sizeof *sorted, by_name) : NULL;
        char a[64], b[64];
        if (!hit)
            st = tw_fail(TC_ERR_REFUSED, "%s: lacks tensor '%.*s' of %s", o->file[1], TC_SHOWN, key->name, o->file[0]);
        else if (!tc_same_shape(key, *hit))
            st = tw_fail(TC_ERR_REFUSED, "tensor '%.*s': shape %s in %s, %s in %s", TC_SHOWN, key->name,
                         tc_shape_text(key, a, sizeof a), o->file[0], tc_shape_text(*hit, b, sizeof b), o->file[1]);
        else
            partner[i] = (uint32_t)(*hit - tuned->item);
    }
    if (st >= 0 && tuned->n != base->n)
        st = tw_fail(TC_ERR_REFUSED, "%s: has %u tensors, %s has %u", o->file[1], tuned->n, o->file[0], base->n);
    free(sorted);
    return st;
}

/* The list of differences, fp32, and which tensors each is of. */
static tw_status plan_diff(const codec_options *o, tc_input in[2], tc_list *l, pair **pairs) {
    uint32_t *partner = malloc((in[0].list.n + 1) * sizeof *partner);
    tw_status st = TW_OK;
    *pairs = malloc((in[0].list.n + 1) * sizeof **pairs);
    if (!partner || !*pairs)
        st = tw_fail(TW_ERR_NOMEM, "out of memory");
    if (st >= 0)
        st = match(o, &in[0].list, &in[1].list, partner);
    for (uint32_t i = 0; i < in[0].list.n && st >= 0; i++) {
        const tc_tensor *a = &in[0].list.item[i], *b = &in[1].list.item[partner[i]];
        tc_tensor t = *a;
        t.dtype = TW_F32;
        t.spec = NULL;
        if (!tc_is_coded(a->dtype) || !tc_is_coded(b->dtype)) {
            st = tell_left_out(o, in, a, b);
            continue;
        }
        (*pairs)[l->n] = (pair){i, partner[i]};
        st = tc_list_add(l, &t, strlen(a->name));
    }
    free(partner);
    return st >= 0 ? codec_choose(o, l) : st;
}

static tw_status diff_values(const codec_options *o, tc_input in[2], const tc_list *l, const pair *pairs, tc_sink *to) {
    codec_report r = {0};
    codec_buffers b = {0};
    tc_writer w;
    tw_status st = codec_report_begin(&r, o, l);
    r.content = TC_CONTENT_DIFFERENCES;
    if (st >= 0)
        st = codec_buffers_make(&b, l);
    if (st >= 0)
        st = tc_write_head(&w, to, l, TC_CONTENT_DIFFERENCES, in[0].kind);
    for (uint32_t i = 0; i < l->n; i++) {
        const tc_tensor *t = &l->item[i], *base = &in[0].list.item[pairs[i].base],
                        *tuned = &in[1].list.item[pairs[i].tuned];
        for (uint64_t at = 0; at < t->count && st >= 0; at += tc_chunk_values(t)) {
            uint64_t n = t->count - at < tc_chunk_values(t) ? t->count - at : tc_chunk_values(t);
            /* a chunk's buffer has 16 bytes a value: the tuned ones lie in the upper half until they are subtracted */
            uint8_t *upper = b.values + 8 * n;
            st = read_at(&in[0], base, at, n, b.other);
            if (st >= 0)
                st = read_at(&in[1], tuned, at, n, upper);
            if (st < 0)
                break;
            codec_subtract((float *)(void *)b.values, upper, (tw_dtype)tuned->dtype, b.other, (tw_dtype)base->dtype, n);
            st = codec_encode_chunk(&w, &r, &b, t, i, at, n);
        }
    }
    if (st >= 0)
        st = tc_write_end(&w);
    if (st >= 0)
        st = codec_report_end(&r, to->bytes);
    if (st >= 0)
        st = tc_sink_commit(to);
    codec_buffers_free(&b);
    codec_report_free(&r);
    return st;
}

tw_status codec_diff(const codec_options *o) {
    tc_input in[2] = {{.from.fd = -1}, {.from.fd = -1}};
    tc_sink to = {.fd = -1};
    tc_list l = {0};
    pair *pairs = NULL;
    tw_status st = TW_OK;
    for (int i = 0; i < 2 && st >= 0; i++) {
        tc_kind kind;
        st = codec_input_kind(o, o->file[i], &kind);
        if (st >= 0)
            st = tc_input_open(&in[i], o->file[i], kind, &o->raw);
        if (st >= 0 && !in[i].from.seekable)
            st = tw_fail(TW_ERR_ARG, "%s: a stream; diff reads files", in[i].from.path);
    }
    if (st >= 0)
        st = plan_diff(o, in, &l, &pairs);
    if (st >= 0)
        st = tc_sink_open(&to, o->output, o->force, false);
    if (st >= 0)
        st = diff_values(o, in, &l, pairs, &to);
    tc_sink_close(&to);
    tc_list_free(&l);
    free(pairs);
    tc_input_close(&in[0]);
    tc_input_close(&in[1]);
    return st;
}
