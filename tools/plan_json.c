/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the plan reads as JSON: layers, and speeds that were measured elsewhere. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include <math.h>
#include <stdlib.h>
#ifdef HAVE_JANSSON
#include <jansson.h>
#endif
#include "plan_tool.h"

#ifdef HAVE_JANSSON
#define MOST_JSON ((size_t)64 << 20)

/* All of a source, which may be a stream; NULL on failure. */
static char *read_text(tc_source *from, size_t *len) {
    size_t cap = 1 << 16;
    char *text = malloc(cap);
    tw_status st = text ? TW_OK : tw_fail(TW_ERR_NOMEM, "out of memory");
    *len = 0;
    for (uint64_t got = 1; st >= 0 && got; *len += got) {
        char *more = *len == cap ? realloc(text, cap *= 2) : text;
        if (cap > MOST_JSON)
            st = tw_fail(TC_ERR_REFUSED, "%s: more than 64 MiB of JSON", from->path);
        else if (!more)
            st = tw_fail(TW_ERR_NOMEM, "out of memory");
        text = more ? more : text;
        got = 0;
        if (st >= 0)
            st = tc_read_some(from, text + *len, cap - *len, &got);
    }
    if (st >= 0)
        return text;
    free(text);
    return NULL;
}

static tw_status read_root(tc_source *from, json_t **root) {
    size_t len;
    json_error_t e;
    char *text = read_text(from, &len);
    if (!text)
        return TC_ERR_IO;
    *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
    free(text);
    return *root ? TW_OK : tw_fail(TC_ERR_DAMAGED, "%s: line %d: %s", from->path, e.line, e.text);
}

static tw_status bad(const tc_source *from, const plan_layer *y, size_t at, const char *why) {
    char name[TC_SHOWN + 1];
    tc_shown(name, sizeof name, y->name ? y->name : "");
    return tw_fail(TC_ERR_DAMAGED, "%s: layer %zu%s%s%s: %s", from->path, at + 1, y->name ? " '" : "", name,
                   y->name ? "'" : "", why);
}

static bool whole_number(const json_t *v, uint64_t *out) {
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

static tw_status read_shape(const tc_source *from, size_t at, const json_t *shape, plan_layer *y, uint64_t *dim,
                            uint32_t *dims) {
    size_t n = json_array_size(shape);
    if (!json_is_array(shape) || n > TC_MOST_DIMS)
        return bad(from, y, at, "its shape is no array, or has more than 32 dimensions");
    bool empty = false;
    for (size_t i = 0; i < n; i++) {
        if (!whole_number(json_array_get(shape, i), &dim[i]))
            return bad(from, y, at, "a dimension is no whole number");
        empty |= dim[i] == 0;
    }
    y->count = empty ? 0 : 1;
    for (size_t i = 0; i < n && !empty; i++) {
        if (dim[i] > PLAN_MOST_VALUES / y->count)
            return bad(from, y, at, "its shape has more than 2^33 values");
        y->count *= dim[i];
    }
    *dims = (uint32_t)n;
    return TW_OK;
}

static tw_status read_members(const tc_source *from, size_t at, const json_t *entry, plan_layer *y) {
    const json_t *dtype = json_object_get(entry, "dtype"), *norm = json_object_get(entry, "norm");
    const json_t *columns = json_object_get(entry, "columns"); /* as reports have it, which lack shapes */
    const char *word = json_string_value(dtype);
    uint32_t number = word ? tc_dtype_named(word) : 0;
    y->dtype = TW_F32;
    if (dtype && !tc_is_coded(number))
        return bad(from, y, at, "its dtype is not fp32, fp16 or bf16");
    if (dtype)
        y->dtype = (tw_dtype)number;
    if (columns &&
        (!whole_number(columns, &y->columns) || y->columns > UINT32_MAX || (y->columns && y->count % y->columns)))
        return bad(from, y, at, "its columns are no whole number below 2^32 that divides its values");
    y->norm = norm ? json_number_value(norm) : 0;
    y->has_norm = norm != NULL;
    if (norm && (!json_is_number(norm) || (y->norm != 0 && !(y->norm >= 1e-40 && y->norm <= 1e40))))
        return bad(from, y, at, "its norm is neither 0 nor a number from 1e-40 to 1e40");
    return TW_OK;
}

/* The first key that is neither a layer's nor a report's: a misspelt norm would be missed in silence. */
static void warn_of_keys(const tc_source *from, size_t at, json_t *entry, plan_layers *l) {
    static const char *const known[] = {"name",    "shape",   "count",      "dtype",   "norm",
                                        "columns", "setting", "wire_bytes", "codec_s", "lost"};
    for (void *i = json_object_iter(entry); i && !l->warned; i = json_object_iter_next(entry, i)) {
        char key[TC_SHOWN + 1];
        bool found = false;
        for (size_t k = 0; k < TW_ARRAY_LEN(known); k++)
            found |= !strcmp(json_object_iter_key(i), known[k]);
        if (found)
            continue;
        tc_shown(key, sizeof key, json_object_iter_key(i));
        fprintf(stderr,
                "thinwire-plan: %s: layer %zu: the key '%s' means nothing here (of such keys the first is named)\n",
                from->path, at + 1, key);
        l->warned = true;
    }
}

static tw_status read_layer(const tc_source *from, size_t at, json_t *entry, plan_layers *l) {
    plan_layer y = {0};
    uint64_t dim[TC_MOST_DIMS];
    uint32_t dims = 0;
    const json_t *name = json_object_get(entry, "name"), *shape = json_object_get(entry, "shape"),
                 *count = json_object_get(entry, "count");
    if (!json_is_object(entry) || !json_is_string(name) || !*json_string_value(name))
        return bad(from, &y, at, "it must be an object that has a name");
    y.name = (char *)(uintptr_t)json_string_value(name);
    if (!shape == !count)
        return bad(from, &y, at, "it must have a shape or a count");
    if (count && (!whole_number(count, &y.count) || y.count > PLAN_MOST_VALUES))
        return bad(from, &y, at, "its count is no whole number up to 2^33");
    tw_status st = shape ? read_shape(from, at, shape, &y, dim, &dims) : TW_OK;
    if (st >= 0)
        st = read_members(from, at, entry, &y);
    if (st >= 0)
        warn_of_keys(from, at, entry, l);
    return st >= 0 ? plan_layers_add(l, &y, dim, dims) : st;
}

tw_status plan_json_layers(tc_source *from, plan_layers *l) {
    json_t *root;
    tw_status st = read_root(from, &root);
    if (st < 0)
        return st;
    const json_t *list = json_is_object(root) ? json_object_get(root, "layers") : root;
    if (!json_is_array(list))
        st = tw_fail(TC_ERR_DAMAGED, "%s: no array of layers", from->path);
    for (size_t i = 0; st >= 0 && i < json_array_size(list); i++)
        st = read_layer(from, i, json_array_get(list, i), l);
    json_decref(root);
    return st;
}

static bool speed_of(const json_t *entry, const char *key, double *seconds) {
    double v = json_number_value(json_object_get(entry, key));
    *seconds = v > 0 ? 1 / v : 0;
    return v >= 1e3 && v <= 1e15;
}

tw_status plan_json_speeds(const char *path, plan_candidates *c) {
    tc_source from;
    json_t *root = NULL;
    tw_status st = tc_source_open(&from, path);
    if (st >= 0)
        st = read_root(&from, &root);
    const json_t *speeds = st >= 0 ? json_object_get(root, "speeds") : NULL;
    if (st >= 0 && !json_is_object(speeds))
        st = tw_fail(TC_ERR_DAMAGED, "%s: no object with \"speeds\"", path);
    for (uint32_t i = 0; i < c->n && st >= 0; i++) {
        plan_candidate *k = &c->item[i];
        const json_t *entry = json_object_get(speeds, k->text);
        if (!entry)
            st = tw_fail(TC_ERR_DAMAGED, "%s: no speed of '%s' in it", path, k->text);
        else if (!speed_of(entry, "encode", &k->encode) || !speed_of(entry, "decode", &k->decode))
            st = tw_fail(TC_ERR_DAMAGED, "%s: '%s': encode and decode must be values a second, 1e3 to 1e15", path,
                         k->text);
    }
    json_decref(root);
    tc_source_close(&from);
    return st;
}
#else
static tw_status refuse(const char *path) {
    return tw_fail(TC_ERR_REFUSED, "%s: this build cannot read JSON: it was configured without jansson", path);
}

tw_status plan_json_layers(tc_source *from, plan_layers *l) {
    (void)l;
    return refuse(from->path);
}

tw_status plan_json_speeds(const char *path, plan_candidates *c) {
    (void)c;
    return refuse(path);
}
#endif
