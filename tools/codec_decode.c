/* SPDX-License-Identifier: BSD-3-Clause
 *
 * decompress, inspect and apply. */
#include "codec_tool.h"

#include <stdlib.h>
#include "exec/exec.h"

/* ---- shared ---- */

tw_status codec_write_header(tc_sink *to, tc_kind kind, const tc_list *l) {
    if (kind == TC_KIND_SAFETENSORS)
        return tc_safetensors_write(to, l);
    if (l->n != 1)
        return tw_fail(TC_ERR_REFUSED, "%u tensors do not fit into a %s file: --to safetensors, or --tensor NAME", l->n,
                       tc_kind_words[kind]);
    return kind == TC_KIND_NPY ? tc_npy_write(to, &l->item[0]) : TW_OK;
}

void codec_add_scaled(void *dst, const void *a, tw_dtype t, const float *d, float scale, uint64_t n) {
    _Alignas(64) float x[TW_MAX_TILE];
    const tw_kernels *k = tw_kernels_best();
    tw_fpenv env = tw_fp_enter();
    for (uint64_t at = 0; at < n; at += TW_MAX_TILE) {
        uint32_t m = (uint32_t)(n - at < TW_MAX_TILE ? n - at : TW_MAX_TILE);
        tw_widen(k, x, (const uint8_t *)a + at * tw_dtype_size(t), m, t);
        for (uint32_t i = 0; i < m; i++)
            x[i] += scale * d[at + i];
        tw_narrow(k, (uint8_t *)dst + at * tw_dtype_size(t), x, m, t);
    }
    tw_fp_leave(env);
}

static tc_kind kind_of_output(const codec_options *o, tc_kind was) {
    tc_kind by_name = tc_kind_of(o->output);
    return o->to ? o->to : by_name ? by_name : was ? was : TC_KIND_SAFETENSORS;
}

/* ---- inspect ---- */

static tw_status inspect_values(const codec_options *o, tc_reader *r, codec_report *report) {
    codec_buffers b = {0};
    bool more = true;
    tw_status st = codec_report_begin(report, o, &r->list);
    report->content = r->content;
    if (st >= 0 && o->decode)
        st = codec_buffers_make(&b, &r->list);
    while (st >= 0) {
        st = tc_read_chunk(r, &more);
        if (st < 0 || !more)
            break;
        if (o->decode)
            st = tc_decode_chunk(r, b.values);
        if (st >= 0)
            codec_report_chunk(report, &r->list.item[r->tensor], r->tensor, r->body, r->bytes, r->count,
                               o->decode ? b.values : NULL, NULL);
    }
    codec_buffers_free(&b);
    return st;
}

static void describe(const codec_options *o, const tc_reader *r) {
    if (o->quiet || (o->json && !strcmp(o->json, "-")))
        return;
    printf("%s: Thinwire file, version %d: %u %s%s", r->from->path, TC_VERSION, r->list.n,
           r->content == TC_CONTENT_DIFFERENCES ? "differences" : "tensors", r->kind ? ", from a file of kind " : "");
    printf("%s\n", r->kind ? tc_kind_words[r->kind] : "");
    for (uint32_t i = 0; i < r->list.pairs; i++) {
        char key[TC_SHOWN + 1], value[TC_SHOWN + 1];
        tc_shown(key, sizeof key, r->list.meta[2 * i]);
        tc_shown(value, sizeof value, r->list.meta[2 * i + 1]);
        printf("  %s: %s\n", key, value);
    }
}

tw_status codec_inspect(const codec_options *o) {
    tc_source from;
    tc_reader r = {0};
    codec_report report = {0};
    tw_status st = tc_source_open(&from, o->file[0]);
    if (st < 0)
        return st;
    st = tc_read_head(&r, &from);
    if (st >= 0)
        st = inspect_values(o, &r, &report);
    if (st >= 0) {
        describe(o, &r);
        st = codec_report_end(&report, from.at);
    }
    codec_report_free(&report);
    tc_reader_close(&r);
    tc_source_close(&from);
    return st;
}

/* ---- decompress ---- */

/* --tensor: the list of that one. Its texts stay the reader's. */
static tw_status select_tensors(const codec_options *o, tc_reader *r, tc_list *l, uint32_t *only) {
    *l = r->list;
    *only = UINT32_MAX;
    if (!o->tensor)
        return TW_OK;
    tc_tensor *t = tc_list_find(&r->list, o->tensor);
    if (!t)
        return tw_fail(TW_ERR_ARG, "%s: has no tensor '%.*s'", r->from->path, TC_SHOWN, o->tensor);
    *only = (uint32_t)(t - r->list.item);
    l->item = t;
    l->n = 1;
    return TW_OK;
}

static tw_status decompress_values(tc_reader *r, tc_sink *to, uint32_t only, codec_report *report) {
    codec_buffers b = {0};
    bool more = true;
    tw_status st = codec_buffers_make(&b, &r->list);
    while (st >= 0) {
        st = tc_read_chunk(r, &more);
        if (st < 0 || !more)
            break;
        const tc_tensor *t = &r->list.item[r->tensor];
        bool wanted = only == UINT32_MAX || only == r->tensor;
        if (wanted)
            st = tc_decode_chunk(r, b.values);
        if (st >= 0)
            codec_report_chunk(report, t, r->tensor, r->body, r->bytes, r->count, wanted ? b.values : NULL, NULL);
        if (st >= 0 && wanted)
            st = tc_write(to, b.values, r->count * tc_dtypes[t->dtype].bytes);
    }
    codec_buffers_free(&b);
    return st;
}

static tw_status decompress_to(const codec_options *o, tc_reader *r, tc_sink *to) {
    codec_report report = {0};
    tc_list l;
    uint32_t only;
    tw_status st = select_tensors(o, r, &l, &only);
    if (st >= 0)
        st = tc_sink_open(to, o->output, o->force, true);
    if (st >= 0)
        st = codec_write_header(to, kind_of_output(o, r->kind), &l);
    if (st >= 0)
        st = codec_report_begin(&report, o, &r->list);
    report.content = r->content;
    if (st >= 0)
        st = decompress_values(r, to, only, &report);
    if (st >= 0)
        st = codec_report_end(&report, r->from->at);
    if (st >= 0)
        st = tc_sink_commit(to);
    codec_report_free(&report);
    return st;
}

tw_status codec_decompress(const codec_options *o) {
    tc_source from;
    tc_reader r = {0};
    tc_sink to = {.fd = -1};
    tw_status st = tc_source_open(&from, o->file[0]);
    if (st < 0)
        return st;
    st = tc_read_head(&r, &from);
    if (st >= 0)
        st = decompress_to(o, &r, &to);
    tc_sink_close(&to);
    tc_reader_close(&r);
    tc_source_close(&from);
    return st;
}

/* ---- apply ---- */

/* Reads all of the differences once, for their checks and to know where each begins; before anything is made of them. */
static tw_status find_marks(tc_reader *r, tc_mark *marks) {
    bool more = true;
    tw_status st = TW_OK;
    while (st >= 0 && more) {
        const tc_mark here = tc_reader_mark(r);
        st = tc_read_chunk(r, &more);
        if (st >= 0 && more && r->first == 0) {
            marks[r->tensor] = here;
            marks[r->tensor].tensor = r->tensor;
        }
    }
    return st;
}

static tw_status fits(const codec_options *o, const tc_reader *r, tc_list *base) {
    char a[64], b[64];
    if (r->content != TC_CONTENT_DIFFERENCES)
        return tw_fail(TC_ERR_REFUSED, "%s: holds tensors, not differences", o->file[1]);
    for (uint32_t i = 0; i < r->list.n; i++) {
        const tc_tensor *d = &r->list.item[i], *t = tc_list_find(base, d->name);
        if (d->dtype != TW_F32 || !t || !tc_is_coded(t->dtype))
            return tw_fail(TC_ERR_REFUSED, "%s: has no tensor of floats '%.*s', of which %s has the difference",
                           o->file[0], TC_SHOWN, d->name, o->file[1]);
        if (!tc_same_shape(t, d))
            return tw_fail(TC_ERR_REFUSED, "tensor '%.*s': shape %s in %s, %s in %s", TC_SHOWN, d->name,
                           tc_shape_text(t, a, sizeof a), o->file[0], tc_shape_text(d, b, sizeof b), o->file[1]);
    }
    return TW_OK;
}

typedef struct apply {
    const codec_options *o;
    tc_input *base;
    tc_reader *r;
    const tc_mark *marks;
    codec_report report;
    codec_buffers diff, out;
} apply;

static tw_status copy_tensor(apply *a, const tc_tensor *t, uint32_t i, tc_sink *to) {
    tw_status st = TW_OK;
    for (uint64_t at = 0; at < t->count && st >= 0; at += tc_chunk_values(t)) {
        uint64_t n = t->count - at < tc_chunk_values(t) ? t->count - at : tc_chunk_values(t);
        uint64_t bytes = n * tc_dtypes[t->dtype].bytes;
        st = tc_read(&a->base->from, a->out.values, bytes);
        if (st < 0)
            break;
        codec_report_chunk(&a->report, t, i, a->out.values, bytes, n, a->out.values, a->out.values);
        st = tc_write(to, a->out.values, bytes);
    }
    return st;
}

/* The report's error is what applying changed: NMSE = ||S d||^2 / ||base||^2. */
static tw_status add_tensor(apply *a, const tc_tensor *t, uint32_t i, uint32_t d, tc_sink *to) {
    bool more;
    tw_status st = t->count ? tc_reader_go(a->r, &a->marks[d]) : TW_OK;
    for (uint64_t at = 0; at < t->count && st >= 0; at += a->r->count) {
        st = tc_read_chunk(a->r, &more);
        if (st >= 0 && (!more || a->r->tensor != d || a->r->first != at))
            st = tw_fail(TC_ERR_DAMAGED, "%s: changed while it was read", a->o->file[1]);
        if (st >= 0)
            st = tc_decode_chunk(a->r, a->diff.values);
        if (st < 0)
            break;
        uint64_t n = a->r->count, bytes = n * tc_dtypes[t->dtype].bytes;
        st = tc_read(&a->base->from, a->out.values, bytes);
        if (st < 0)
            break;
        codec_add_scaled(a->out.other, a->out.values, (tw_dtype)t->dtype, (const float *)(const void *)a->diff.values,
                         a->o->scale, n);
        codec_report_chunk(&a->report, t, i, a->out.other, bytes, n, a->out.values, a->out.other);
        st = tc_write(to, a->out.other, bytes);
    }
    return st;
}

static tw_status apply_values(apply *a, tc_sink *to) {
    tc_list *l = &a->base->list;
    tw_status st = codec_report_begin(&a->report, a->o, l);
    if (st >= 0)
        st = codec_buffers_make(&a->diff, &a->r->list);
    if (st >= 0)
        st = codec_buffers_make(&a->out, l);
    if (st >= 0)
        st = codec_write_header(to, kind_of_output(a->o, a->base->kind), l);
    for (uint32_t i = 0; i < l->n && st >= 0; i++) {
        const tc_tensor *t = &l->item[i], *d = tc_list_find(&a->r->list, t->name);
        st = d ? add_tensor(a, t, i, (uint32_t)(d - a->r->list.item), to) : copy_tensor(a, t, i, to);
    }
    if (st >= 0)
        st = tc_source_end(&a->base->from);
    if (st >= 0)
        st = codec_report_end(&a->report, to->bytes);
    if (st >= 0)
        st = tc_sink_commit(to);
    codec_buffers_free(&a->diff);
    codec_buffers_free(&a->out);
    codec_report_free(&a->report);
    return st;
}

static tw_status apply_to(const codec_options *o, tc_input *base, tc_reader *r, tc_sink *to) {
    tc_mark *marks = calloc(r->list.n + 1, sizeof *marks);
    apply a = {.o = o, .base = base, .r = r, .marks = marks};
    tw_status st = marks ? find_marks(r, marks) : tw_fail(TW_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < base->list.n; i++) { /* a chunk of the base holds one of the differences */
        const tc_tensor *d = tc_list_find(&r->list, base->list.item[i].name);
        base->list.item[i].chunk_tiles = d ? d->chunk_tiles : o->chunk_tiles;
    }
    if (st >= 0)
        st = tc_sink_open(to, o->output, o->force, true);
    if (st >= 0)
        st = apply_values(&a, to);
    free(marks);
    return st;
}

tw_status codec_apply(const codec_options *o) {
    tc_input base = {.from.fd = -1};
    tc_source from = {.fd = -1};
    tc_reader r = {0};
    tc_sink to = {.fd = -1};
    tc_kind kind;
    tw_status st = codec_input_kind(o, o->file[0], &kind);
    if (st >= 0)
        st = tc_input_open(&base, o->file[0], kind, &o->raw);
    if (st >= 0)
        st = tc_source_open(&from, o->file[1]);
    if (st >= 0 && !from.seekable)
        st = tw_fail(TW_ERR_ARG, "%s: a stream; apply reads its differences twice", from.path);
    if (st >= 0)
        st = tc_read_head(&r, &from);
    if (st >= 0)
        st = fits(o, &r, &base.list);
    if (st >= 0)
        st = apply_to(o, &base, &r, &to);
    tc_sink_close(&to);
    tc_reader_close(&r);
    tc_source_close(&from);
    tc_input_close(&base);
    return st;
}
