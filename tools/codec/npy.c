/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NumPy's .npy, versions 1 to 3: a Python dictionary of three keys, then the values. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include "tools/codec/input.h"

#define MOST_HEADER 65536u /* NumPy itself wants to be asked beyond 10000 */

typedef struct scan {
    const char *p, *end, *path;
} scan;

static tw_status malformed(const scan *s, const char *what) {
    return tw_fail(TC_ERR_DAMAGED, "%s: its .npy header is malformed: %s", s->path, what);
}

static void blanks(scan *s) {
    while (s->p < s->end && isspace((unsigned char)*s->p))
        s->p++;
}

static bool eat(scan *s, const char *word) {
    size_t n = strlen(word);
    blanks(s);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, word, n) != 0)
        return false;
    s->p += n;
    return true;
}

/* 'text' or "text", without escapes. */
static bool quoted(scan *s, char *to, size_t cap) {
    blanks(s);
    if (s->p == s->end || (*s->p != '\'' && *s->p != '"'))
        return false;
    const char *from = s->p + 1, *close = memchr(from, *s->p, (size_t)(s->end - from));
    if (!close || (size_t)(close - from) >= cap)
        return false;
    memcpy(to, from, (size_t)(close - from));
    to[close - from] = 0;
    s->p = close + 1;
    return true;
}

static tw_status read_shape(scan *s, tc_tensor *t) {
    bool comma = true;
    if (!eat(s, "("))
        return malformed(s, "the shape is no tuple");
    while (!eat(s, ")")) {
        uint64_t v = 0;
        if (!comma || t->dims == TC_MOST_DIMS)
            return malformed(s, comma ? "more than 32 dimensions" : "the shape lacks a comma or its end");
        if (s->p == s->end || !isdigit((unsigned char)*s->p))
            return malformed(s, "a dimension is no number");
        for (; s->p < s->end && isdigit((unsigned char)*s->p); s->p++) {
            if (v > TC_MOST_BYTES)
                return malformed(s, "a dimension beyond 2^60");
            v = v * 10 + (uint64_t)(*s->p - '0');
        }
        eat(s, "L"); /* as Python 2 wrote it */
        t->shape[t->dims++] = v;
        comma = eat(s, ",");
    }
    return t->dims == 1 && !comma ? malformed(s, "(N) is no tuple") : TW_OK;
}

static tw_status read_descr(scan *s, tc_tensor *t) {
    char word[16];
    if (!quoted(s, word, sizeof word))
        return tw_fail(TC_ERR_REFUSED, "%s: its .npy dtype is no plain one (records and long texts are not taken)",
                       s->path);
    if (word[0] == '>')
        return tw_fail(TC_ERR_REFUSED, "%s: dtype '%s' is big-endian; convert it to little-endian first", s->path,
                       word);
    for (uint32_t i = 1; i < TC_DTYPES && strchr("<|=", word[0]); i++)
        if (tc_dtypes[i].npy && !strcmp(word + 1, tc_dtypes[i].npy) && (word[0] != '|' || tc_dtypes[i].bytes == 1))
            t->dtype = i;
    return t->dtype ? TW_OK : tw_fail(TC_ERR_REFUSED, "%s: .npy dtype '%s' is not one of those taken", s->path, word);
}

static tw_status read_dictionary(scan *s, tc_tensor *t) {
    enum { DESCR = 1, ORDER = 2, SHAPE = 4 };
    unsigned seen = 0;
    bool fortran = false;
    tw_status st = TW_OK;
    if (!eat(s, "{"))
        return malformed(s, "it is no dictionary");
    while (st >= 0 && !eat(s, "}")) {
        char key[32] = "";
        if (!quoted(s, key, sizeof key) || !eat(s, ":"))
            return malformed(s, "a key or its colon is missing");
        unsigned which = !strcmp(key, "descr") ? DESCR : !strcmp(key, "fortran_order") ? ORDER : SHAPE;
        if ((which == SHAPE && strcmp(key, "shape") != 0) || (seen & which))
            return malformed(s, "an unknown key, or one that comes twice");
        seen |= which;
        if (which == ORDER) {
            fortran = eat(s, "True");
            st = fortran || eat(s, "False") ? TW_OK : malformed(s, "fortran_order is neither True nor False");
        } else {
            st = which == DESCR ? read_descr(s, t) : read_shape(s, t);
        }
        if (st >= 0 && !eat(s, ",") && (blanks(s), s->p == s->end || *s->p != '}'))
            return malformed(s, "a comma is missing");
    }
    blanks(s);
    if (st >= 0 && (seen != (DESCR | ORDER | SHAPE) || s->p != s->end))
        return malformed(s, "a key is missing, or something follows");
    if (st >= 0 && fortran && t->dims > 1)
        return tw_fail(TC_ERR_REFUSED, "%s: is in Fortran order; save it with numpy.ascontiguousarray first", s->path);
    return st;
}

tw_status tc_npy_read(tc_source *from, const char *name, tc_list *l) {
    uint8_t begin[12];
    tc_tensor t = {.name = (char *)name};
    tw_status st = tc_read(from, begin, 10);
    if (st < 0)
        return st;
    if (memcmp(begin, "\x93NUMPY", 6) != 0 || begin[6] < 1 || begin[6] > 3 || begin[7] != 0)
        return tw_fail(TC_ERR_DAMAGED, "%s: does not begin as a .npy file of version 1.0, 2.0 or 3.0", from->path);
    uint32_t n = begin[8] | (uint32_t)begin[9] << 8;
    if (begin[6] > 1 && (st = tc_read(from, begin + 10, 2)) >= 0)
        n |= (uint32_t)begin[10] << 16 | (uint32_t)begin[11] << 24;
    if (st >= 0 && n > MOST_HEADER)
        st = tw_fail(TC_ERR_DAMAGED, "%s: a .npy header of %u bytes; %u are the most", from->path, n, MOST_HEADER);
    char *text = st >= 0 ? malloc(n + 1) : NULL;
    if (st >= 0 && !text)
        st = tw_fail(TW_ERR_NOMEM, "out of memory");
    if (st >= 0)
        st = tc_read(from, text, n);
    if (st >= 0) {
        scan s = {text, text + n, from->path};
        st = read_dictionary(&s, &t);
    }
    free(text);
    return st >= 0 ? tc_list_add(l, &t, strlen(name)) : st;
}

tw_status tc_npy_write(tc_sink *to, const tc_tensor *t) {
    char text[TC_MOST_DIMS * 22 + 128];
    const tc_dtype *d = &tc_dtypes[t->dtype];
    if (!d->npy)
        return tw_fail(TC_ERR_REFUSED, "tensor '%.*s': .npy has no %s; --to raw or --to safetensors keeps it", TC_SHOWN,
                       t->name, d->name);
    size_t at = 10;
    at += (size_t)sprintf(text + at, "{'descr': '%c%s', 'fortran_order': False, 'shape': (", d->bytes == 1 ? '|' : '<',
                          d->npy);
    for (uint32_t i = 0; i < t->dims; i++)
        at += (size_t)sprintf(text + at,
                              i + 1 < t->dims ? "%llu, "
                              : t->dims == 1  ? "%llu,"
                                              : "%llu",
                              (unsigned long long)t->shape[i]);
    at += (size_t)sprintf(text + at, "), }");
    while ((at + 1) % 64)
        text[at++] = ' ';
    text[at++] = '\n';
    memcpy(text, "\x93NUMPY\1\0", 8);
    text[8] = (char)((at - 10) & 255);
    text[9] = (char)((at - 10) >> 8);
    return tc_write(to, text, at);
}
