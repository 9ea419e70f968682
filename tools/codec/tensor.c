/* SPDX-License-Identifier: BSD-3-Clause */
#include "tools/codec/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include "compressors/codec.h"

const tc_dtype tc_dtypes[TC_DTYPES] = {
    [1] = {"fp32", "f4", "F32", 4},
    [2] = {"fp16", "f2", "F16", 2},
    [3] = {"bf16", NULL, "BF16", 2},
    [4] = {"fp64", "f8", "F64", 8},
    [5] = {"bool", "b1", "BOOL", 1},
    [6] = {"i8", "i1", "I8", 1},
    [7] = {"u8", "u1", "U8", 1},
    [8] = {"i16", "i2", "I16", 2},
    [9] = {"u16", "u2", "U16", 2},
    [10] = {"i32", "i4", "I32", 4},
    [11] = {"u32", "u4", "U32", 4},
    [12] = {"i64", "i8", "I64", 8},
    [13] = {"u64", "u8", "U64", 8},
    [14] = {"complex64", "c8", "C64", 8},
    [15] = {"complex128", "c16", NULL, 16},
    [16] = {"fp8e4m3", NULL, "F8_E4M3", 1},
    [17] = {"fp8e5m2", NULL, "F8_E5M2", 1},
};

uint32_t tc_dtype_named(const char *name) {
    for (uint32_t i = 1; i < TC_DTYPES; i++)
        if (!strcmp(tc_dtypes[i].name, name))
            return i;
    return 0;
}

/* RFC 3629: no surrogates, nothing longer than needed, nothing above 10ffff. */
bool tc_is_utf8(const char *text, size_t n) {
    const unsigned char *p = (const unsigned char *)text;
    for (size_t i = 0; i < n;) {
        static const uint32_t least[] = {1, 0x80, 0x800, 0x10000};
        unsigned more = p[i] < 0x80 ? 0 : p[i] >> 5 == 6 ? 1 : p[i] >> 4 == 14 ? 2 : p[i] >> 3 == 30 ? 3 : 4;
        if (more == 4 || more >= n - i)
            return false;
        uint32_t c = more ? p[i] & (0x3fu >> more) : p[i];
        for (unsigned k = 1; k <= more; k++) {
            if (p[i + k] >> 6 != 2)
                return false;
            c = c << 6 | (p[i + k] & 0x3fu);
        }
        if (c < least[more] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
            return false;
        i += more + 1;
    }
    return true;
}

static char *copy_of(const char *p, size_t n) {
    char *s = malloc(n + 1);
    if (s) {
        memcpy(s, p, n);
        s[n] = 0;
    } else {
        tw_fail(TW_ERR_NOMEM, "out of memory");
    }
    return s;
}

/* Room for one more; grows by doubling. */
static bool has_room(void **array, uint32_t n, uint32_t *cap, size_t each) {
    if (n < *cap)
        return true;
    uint32_t more = *cap ? *cap * 2 : 16;
    void *p = more > *cap ? realloc(*array, more * each) : NULL;
    if (!p) {
        tw_fail(TW_ERR_NOMEM, "out of memory");
        return false;
    }
    *array = p;
    *cap = more;
    return true;
}

static tw_status measure(tc_tensor *t) {
    uint64_t count = 1;
    for (uint32_t i = 0; i < t->dims; i++)
        if (t->shape[i] == 0)
            count = 0;
    for (uint32_t i = 0; i < t->dims && count; i++) {
        if (t->shape[i] > TC_MOST_BYTES / 16 / count)
            return tw_fail(TC_ERR_DAMAGED, "tensor '%.*s': its shape has more than 2^56 values", TC_SHOWN, t->name);
        count *= t->shape[i];
    }
    t->count = count;
    t->bytes = count * tc_dtypes[t->dtype].bytes;
    return TW_OK;
}

tw_status tc_list_add(tc_list *l, const tc_tensor *given, size_t name_bytes) {
    tc_tensor t = *given;
    if (name_bytes > TC_MOST_NAME || !tc_is_utf8(given->name, name_bytes))
        return tw_fail(TC_ERR_DAMAGED, "tensor %u: its name is longer than %d bytes or not UTF-8", l->n, TC_MOST_NAME);
    if (t.dims > TC_MOST_DIMS || !t.dtype || t.dtype >= TC_DTYPES)
        return tw_fail(TC_ERR_DAMAGED, "tensor '%.*s': %u dimensions (at most %d) of dtype %u",
                       (int)(name_bytes < TC_SHOWN ? name_bytes : TC_SHOWN), given->name, t.dims, TC_MOST_DIMS,
                       t.dtype);
    if (!has_room((void **)&l->item, l->n, &l->cap, sizeof t) || !(t.name = copy_of(given->name, name_bytes)))
        return TW_ERR_NOMEM;
    t.spec = copy_of(given->spec ? given->spec : "", given->spec ? strlen(given->spec) : 0);
    l->item[l->n++] = t; /* owns the texts from here on */
    return t.spec ? measure(&l->item[l->n - 1]) : TW_ERR_NOMEM;
}

tw_status tc_list_meta(tc_list *l, const char *key, size_t key_bytes, const char *value, size_t value_bytes) {
    if (!tc_is_utf8(key, key_bytes) || !tc_is_utf8(value, value_bytes))
        return tw_fail(TC_ERR_DAMAGED, "the metadata are not UTF-8");
    for (int i = 0; i < 2; i++) {
        uint32_t at = 2 * l->pairs + (uint32_t)i;
        if (!has_room((void **)&l->meta, at, &l->meta_cap, sizeof *l->meta))
            return TW_ERR_NOMEM;
        l->meta[at] = i ? copy_of(value, value_bytes) : copy_of(key, key_bytes);
        if (!l->meta[at]) {
            if (i)
                free(l->meta[at - 1]);
            return TW_ERR_NOMEM;
        }
    }
    l->pairs++;
    return TW_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* names[k] = the k-th of n strings that lie `step` bytes apart */
static tw_status unique(const char *what, const void *first, uint32_t n, size_t step) {
    const char **names = n ? malloc(n * sizeof *names) : NULL;
    tw_status st = TW_OK;
    if (n && !names)
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++)
        memcpy(&names[i], (const char *)first + i * step, sizeof *names);
    if (n)
        qsort(names, n, sizeof *names, by_name);
    for (uint32_t i = 1; i < n && st >= 0; i++)
        if (!strcmp(names[i - 1], names[i]))
            st = tw_fail(TC_ERR_DAMAGED, "two %s are named '%.*s'", what, TC_SHOWN, names[i]);
    free(names);
    return st;
}

tw_status tc_list_unique(const tc_list *l) {
    tw_status st = l->n ? unique("tensors", &l->item[0].name, l->n, sizeof *l->item) : TW_OK;
    return st >= 0 && l->pairs ? unique("metadata", l->meta, l->pairs, 2 * sizeof *l->meta) : st;
}

void tc_list_free(tc_list *l) {
    for (uint32_t i = 0; i < l->n; i++) {
        free(l->item[i].name);
        free(l->item[i].spec);
    }
    for (uint32_t i = 0; i < 2 * l->pairs; i++)
        free(l->meta[i]);
    free(l->item);
    free(l->meta);
    free(l->sorted);
    *l = (tc_list){0};
}

struct tc_name {
    const char *name; /* first: by_name compares what it finds here */
    uint32_t item;
};

/* Without memory for it, what is found is found slowly. */
static void sort_names(tc_list *l) {
    struct tc_name *sorted = malloc(l->n * sizeof *sorted);
    free(l->sorted);
    l->sorted = sorted;
    l->nsorted = sorted ? l->n : 0;
    for (uint32_t i = 0; i < l->nsorted; i++)
        sorted[i] = (struct tc_name){l->item[i].name, i};
    if (l->nsorted)
        qsort(sorted, l->nsorted, sizeof *sorted, by_name);
}

tc_tensor *tc_list_find(tc_list *l, const char *name) {
    if (l->n && l->nsorted != l->n)
        sort_names(l);
    const struct tc_name key = {name, 0};
    const struct tc_name *hit = l->nsorted ? bsearch(&key, l->sorted, l->nsorted, sizeof key, by_name) : NULL;
    for (uint32_t i = l->nsorted; i < l->n && !hit; i++)
        if (!strcmp(l->item[i].name, name))
            return &l->item[i];
    return hit ? &l->item[hit->item] : NULL;
}

bool tc_settle_rows(tc_tensor *t) {
    uint64_t last = t->dims ? t->shape[t->dims - 1] : 0;
    if (!t->parsed.columns && last <= UINT32_MAX)
        t->parsed.columns = (uint32_t)last;
    return tw_lowrank_values(t->parsed.rank, t->count, t->parsed.columns) > 0;
}

tw_status tc_set_spec(tc_tensor *t, const tw_spec *s) {
    char text[TC_MOST_SPEC + 1] = "";
    bool coded = s && s->codec != TW_CODEC_NONE && tc_is_coded(t->dtype);
    if (s && s->feedback != TW_FEEDBACK_NONE)
        return tw_fail(TW_ERR_ARG, "tensor '%.*s': a file has no residual: leave out the feedback (+...)", TC_SHOWN,
                       t->name);
    if (coded)
        t->parsed = *s;
    if (coded && tw_codec_is_lowrank(s)) {
        coded = tc_settle_rows(t);
        if (coded && t->count > TC_MOST_MATRIX_TILES * (uint64_t)TW_MAX_TILE)
            return tw_fail(TC_ERR_REFUSED, "tensor '%.*s': '%s' takes matrices of up to %u values", TC_SHOWN, t->name,
                           tw_codec_get(s->codec)->name, TC_MOST_MATRIX_TILES * TW_MAX_TILE);
        if (coded)
            t->chunk_tiles = (uint32_t)tw_ceil_div(t->count, TW_MAX_TILE);
    }
    int n = coded ? tw_spec_format(s, text, sizeof text) : 0;
    if (n < 0)
        return (tw_status)n;
    char *copy = copy_of(text, strlen(text));
    if (!copy)
        return TW_ERR_NOMEM;
    free(t->spec);
    t->spec = copy;
    t->version = coded ? tw_codec_get(s->codec)->wire_version : 0;
    return TW_OK;
}

const char *tc_shape_text(const tc_tensor *t, char *buf, size_t cap) {
    size_t at = (size_t)snprintf(buf, cap, "[");
    for (uint32_t i = 0; i < t->dims && at < cap; i++)
        at += (size_t)snprintf(buf + at, cap - at, "%s%llu", i ? ", " : "", (unsigned long long)t->shape[i]);
    if (at < cap)
        snprintf(buf + at, cap - at, "]");
    return buf;
}

/* Of a character that terminals obey: U+0000 to U+001f, U+007f to U+009f, and what turns the direction of text, U+202a to
 * U+202e and U+2066 to U+2069. */
size_t tc_hidden(const char *p) {
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x20 || u[0] == 0x7f)
        return 1;
    if (u[0] == 0xc2 && u[1] >= 0x80 && u[1] < 0xa0)
        return 2;
    if (u[0] == 0xe2 &&
        ((u[1] == 0x80 && u[2] >= 0xaa && u[2] <= 0xae) || (u[1] == 0x81 && u[2] >= 0xa6 && u[2] <= 0xa9)))
        return 3;
    return 0;
}

void tc_shown(char *buf, size_t cap, const char *text) {
    snprintf(buf, cap, "%s", text);
    size_t n = strlen(buf);
    while (n && !tc_is_utf8(buf, n)) /* cut inside a character */
        buf[--n] = 0;
    tw_one_line(buf);
    for (char *p = buf; *p; p++)
        for (n = tc_hidden(p); n; n--)
            p[n - 1] = '?';
}

bool tc_same_shape(const tc_tensor *a, const tc_tensor *b) {
    return a->dims == b->dims && memcmp(a->shape, b->shape, a->dims * sizeof *a->shape) == 0;
}
