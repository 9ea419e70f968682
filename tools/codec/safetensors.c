/* SPDX-License-Identifier: BSD-3-Clause
 *
 * .safetensors: u64 length, a JSON object {name: {dtype, shape, data_offsets}}, the values. */
#ifdef HAVE_CONFIG_H
#include "config.h"
#endif
#include <stdio.h>
#include <stdlib.h>
#ifdef HAVE_JANSSON
#include <jansson.h>
#endif
#include "tools/codec/input.h"

#define MOST_HEADER 100000000u /* as the format's own library */

#ifdef HAVE_JANSSON
typedef struct place {
    uint64_t begin, end;
    uint32_t index;
} place;

static tw_status bad(const tc_source *from, const char *name, const char *why) {
    return tw_fail(TC_ERR_DAMAGED, "%s: tensor '%.*s': %s", from->path, TC_SHOWN, name, why);
}

static bool whole_number(const json_t *v, uint64_t *out) {
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

static tw_status read_shape(const tc_source *from, const char *name, const json_t *shape, tc_tensor *t) {
    if (!json_is_array(shape) || json_array_size(shape) > TC_MOST_DIMS)
        return bad(from, name, "its shape is no array, or has more than 32 dimensions");
    t->dims = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < t->dims; i++)
        if (!whole_number(json_array_get(shape, i), &t->shape[i]))
            return bad(from, name, "a dimension is no whole number");
    return TW_OK;
}

static tw_status read_entry(const tc_source *from, const char *name, size_t name_bytes, const json_t *entry, tc_list *l,
                            place *where) {
    tc_tensor t = {.name = (char *)name};
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    if (!json_is_object(entry) || json_object_size(entry) != 3 || !dtype)
        return bad(from, name, "its entry must have dtype, shape and data_offsets, and nothing else");
    for (uint32_t i = 1; i < TC_DTYPES; i++)
        if (tc_dtypes[i].safetensors && !strcmp(dtype, tc_dtypes[i].safetensors))
            t.dtype = i;
    if (!t.dtype)
        return tw_fail(TC_ERR_REFUSED, "%s: tensor '%.*s': dtype '%.16s' is not one of those taken", from->path,
                       TC_SHOWN, name, dtype);
    tw_status st = read_shape(from, name, json_object_get(entry, "shape"), &t);
    if (st < 0)
        return st;
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 ||
        !whole_number(json_array_get(offsets, 0), &where->begin) ||
        !whole_number(json_array_get(offsets, 1), &where->end))
        return bad(from, name, "its data_offsets are not two whole numbers");
    st = tc_list_add(l, &t, name_bytes);
    if (st >= 0 && (where->end < where->begin || where->end - where->begin != l->item[l->n - 1].bytes))
        st = bad(from, name, "its data_offsets and its shape disagree");
    where->index = l->n - 1;
    return st;
}

static int by_place(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

/* Into the order of the values, which must leave no gap and not overlap. */
static tw_status sort(const tc_source *from, tc_list *l, place *where) {
    tc_tensor *sorted = malloc((l->n + 1) * sizeof *sorted);
    uint64_t at = 0;
    tw_status st = TW_OK;
    if (!sorted)
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    qsort(where, l->n, sizeof *where, by_place);
    for (uint32_t i = 0; i < l->n; i++) {
        sorted[i] = l->item[where[i].index];
        if (st >= 0 && where[i].begin != at)
            st = bad(from, sorted[i].name,
                     where[i].begin < at ? "its values overlap another's" : "a gap lies before its values");
        at = where[i].end;
    }
    free(l->item);
    l->item = sorted;
    l->cap = l->n + 1;
    return st;
}

static tw_status read_metadata(const tc_source *from, json_t *meta, tc_list *l) {
    const char *key;
    json_t *value;
    tw_status st = TW_OK;
    if (!json_is_object(meta))
        return tw_fail(TC_ERR_DAMAGED, "%s: __metadata__ is no object", from->path);
    json_object_foreach(meta, key, value) {
        if (!json_is_string(value))
            return tw_fail(TC_ERR_DAMAGED, "%s: __metadata__ holds something else than texts", from->path);
        st = tc_list_meta(l, key, strlen(key), json_string_value(value), json_string_length(value));
        if (st < 0)
            return st;
    }
    return st;
}

static tw_status read_entries(const tc_source *from, json_t *root, tc_list *l) {
    place *where = calloc(json_object_size(root) + 1, sizeof *where);
    const char *name;
    json_t *entry;
    tw_status st = where ? TW_OK : tw_fail(TW_ERR_NOMEM, "out of memory");
    json_object_foreach(root, name, entry) {
        if (st < 0)
            break;
        if (!strcmp(name, "__metadata__"))
            st = read_metadata(from, entry, l);
        else
            st = read_entry(from, name, strlen(name), entry, l, &where[l->n]);
    }
    if (st >= 0)
        st = sort(from, l, where);
    free(where);
    return st;
}

tw_status tc_safetensors_read(tc_source *from, tc_list *l) {
    uint64_t n;
    tw_status st = tc_read(from, &n, sizeof n);
    if (st < 0)
        return st;
    if (n > MOST_HEADER || (from->seekable && n > from->size - from->at))
        return tw_fail(TC_ERR_DAMAGED, "%s: does not begin as a .safetensors file: a header of %llu bytes", from->path,
                       (unsigned long long)n);
    char *text = malloc(n + 1);
    if (!text)
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    st = tc_read(from, text, n);
    if (st >= 0 && (n == 0 || text[0] != '{'))
        st = tw_fail(TC_ERR_DAMAGED, "%s: does not begin as a .safetensors file", from->path);
    if (st >= 0) {
        json_error_t e;
        json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
        st = json_is_object(root)
                 ? read_entries(from, root, l)
                 : tw_fail(TC_ERR_DAMAGED, "%s: its JSON header, byte %d: %s", from->path, e.position, e.text);
        json_decref(root);
    }
    free(text);
    return st;
}
#else
tw_status tc_safetensors_read(tc_source *from, tc_list *l) {
    (void)l;
    return tw_fail(TC_ERR_REFUSED, "%s: this build cannot read .safetensors files: it was configured without jansson",
                   from->path);
}
#endif

/* ---- writing needs no library ---- */

static void put_text(FILE *to, const char *s) {
    fputc('"', to);
    for (; *s; s++)
        if (*s == '"' || *s == '\\')
            fprintf(to, "\\%c", *s);
        else if ((unsigned char)*s < 0x20)
            fprintf(to, "\\u%04x", (unsigned)*s);
        else
            fputc(*s, to);
    fputc('"', to);
}

static void put_header(FILE *to, const tc_list *l) {
    uint64_t at = 0;
    const char *comma = "";
    fputc('{', to);
    for (uint32_t i = 0; i < l->pairs; i++) {
        fputs(i ? "," : "\"__metadata__\":{", to);
        put_text(to, l->meta[2 * i]);
        fputc(':', to);
        put_text(to, l->meta[2 * i + 1]);
    }
    if (l->pairs) {
        fputc('}', to);
        comma = ",";
    }
    for (uint32_t i = 0; i < l->n; i++, comma = ",") {
        const tc_tensor *t = &l->item[i];
        fputs(comma, to);
        put_text(to, t->name);
        fprintf(to, ":{\"dtype\":\"%s\",\"shape\":[", tc_dtypes[t->dtype].safetensors);
        for (uint32_t k = 0; k < t->dims; k++)
            fprintf(to, "%s%llu", k ? "," : "", (unsigned long long)t->shape[k]);
        fprintf(to, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + t->bytes));
        at += t->bytes;
    }
    fputc('}', to);
}

tw_status tc_safetensors_write(tc_sink *to, const tc_list *l) {
    char *text = NULL;
    size_t size = 0;
    for (uint32_t i = 0; i < l->n; i++)
        if (!tc_dtypes[l->item[i].dtype].safetensors || !strcmp(l->item[i].name, "__metadata__"))
            return tw_fail(TC_ERR_REFUSED, "tensor '%.*s': .safetensors has no %s, or no tensor of that name", TC_SHOWN,
                           l->item[i].name, tc_dtypes[l->item[i].dtype].name);
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    put_header(f, l);
    while (ftell(f) % 8)
        fputc(' ', f);
    if (fclose(f) != 0) {
        free(text);
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    }
    uint64_t n = size;
    tw_status st =
        n > MOST_HEADER ? tw_fail(TC_ERR_REFUSED, "a .safetensors header beyond 100 MB") : tc_write(to, &n, sizeof n);
    if (st >= 0)
        st = tc_write(to, text, size);
    free(text);
    return st;
}
