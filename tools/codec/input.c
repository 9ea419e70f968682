/* SPDX-License-Identifier: BSD-3-Clause */
#include "tools/codec/input.h"

#include <strings.h>

tc_kind tc_kind_of(const char *path) {
    static const struct {
        const char *end;
        tc_kind kind;
    } ends[] = {
        {".npy", TC_KIND_NPY}, {".safetensors", TC_KIND_SAFETENSORS}, {".raw", TC_KIND_RAW}, {".bin", TC_KIND_RAW}};
    size_t n = strlen(path);
    for (size_t i = 0; i < TW_ARRAY_LEN(ends); i++) {
        size_t m = strlen(ends[i].end);
        if (n > m && !strcasecmp(path + n - m, ends[i].end))
            return ends[i].kind;
    }
    return TC_KIND_NONE;
}

static tw_status read_raw(tc_source *from, const tc_raw *raw, const char *name, tc_list *l) {
    tc_tensor t = {.name = (char *)name, .dtype = raw->dtype, .dims = raw->dims};
    if (!raw->dtype)
        return tw_fail(TW_ERR_ARG, "%s: raw values: --dtype must say of what type", from->path);
    uint32_t each = tc_dtypes[t.dtype].bytes;
    memcpy(t.shape, raw->shape, sizeof t.shape);
    if (!raw->has_shape) {
        if (!from->seekable)
            return tw_fail(TW_ERR_ARG, "%s: raw values of a stream: --shape must say how many", from->path);
        if (from->size % each)
            return tw_fail(TC_ERR_DAMAGED, "%s: %llu bytes are no whole number of %s values", from->path,
                           (unsigned long long)from->size, tc_dtypes[t.dtype].name);
        t.dims = 1;
        t.shape[0] = from->size / each;
    }
    return tc_list_add(l, &t, strlen(name));
}

/* Where every tensor begins, and whether the file has just their bytes. */
static tw_status place(tc_input *in) {
    uint64_t at = in->from.at;
    for (uint32_t i = 0; i < in->list.n; i++) {
        in->list.item[i].at = at;
        at += in->list.item[i].bytes;
        if (at > TC_MOST_BYTES)
            return tw_fail(TC_ERR_DAMAGED, "%s: more than 2^60 bytes", in->from.path);
    }
    if (in->from.seekable && in->from.size != at)
        return tw_fail(TC_ERR_DAMAGED, "%s: has %llu bytes; what it is said to hold takes %llu", in->from.path,
                       (unsigned long long)in->from.size, (unsigned long long)at);
    return TW_OK;
}

tw_status tc_input_open(tc_input *in, const char *path, tc_kind kind, const tc_raw *raw) {
    const char *name = raw->name ? raw->name : "tensor";
    *in = (tc_input){.kind = kind};
    tw_status st = tc_source_open(&in->from, path);
    if (st < 0)
        return st;
    if (kind == TC_KIND_RAW)
        st = read_raw(&in->from, raw, name, &in->list);
    else if (kind == TC_KIND_NPY)
        st = tc_npy_read(&in->from, name, &in->list);
    else
        st = tc_safetensors_read(&in->from, &in->list);
    return st >= 0 ? place(in) : st;
}

void tc_input_close(tc_input *in) {
    tc_source_close(&in->from);
    tc_list_free(&in->list);
}
