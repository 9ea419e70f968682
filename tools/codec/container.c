/* SPDX-License-Identifier: BSD-3-Clause */
#include "tools/codec/container.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <thinwire/codec.h>
#include "compressors/codec.h"

static const uint8_t magic[8] = {0x89, 'T', 'W', 'F', '\r', '\n', 0x1a, '\n'}; /* a transfer as text breaks it */
const char *const tc_kind_words[TC_KINDS + 1] = {"none", "raw", "npy", "safetensors", NULL};

#define KIND(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
enum {
    HEAD = KIND('H', 'E', 'A', 'D'),
    TENS = KIND('T', 'E', 'N', 'S'),
    DATA = KIND('D', 'A', 'T', 'A'),
    LAST = KIND('E', 'N', 'D', ' ')
};

/* The first 16 bytes of a record; the check word of these, and of the record before, follows. */
typedef struct record {
    uint32_t kind, bytes;
    uint64_t body_check;
} record;
typedef struct head { /* then pairs of {u32 bytes, text} */
    uint32_t version, content, kind, tensors, pairs;
} head;
typedef struct tens { /* then u64 shape[dims], name, spec */
    uint32_t dtype, dims, chunk_tiles, payload_version, step, name_bytes, spec_bytes, reserved;
} tens;
typedef struct last {
    uint64_t chunks, file_bytes;
} last;

uint64_t tc_payload_bound(const tc_tensor *t, uint64_t count) {
    return *t->spec ? tw_spec_bound(&t->parsed, count, (tw_dtype)t->dtype) : count * tc_dtypes[t->dtype].bytes;
}

uint64_t tc_tensor_record_bytes(const tc_tensor *t) {
    return tc_record_bytes(sizeof(tens) + 8 * (uint64_t)t->dims + strlen(t->name) + strlen(t->spec));
}

/* ---- writing ---- */

static tw_status put(tc_writer *w, uint32_t kind, const void *body, uint64_t bytes) {
    static const uint8_t zeros[8];
    record r = {kind, (uint32_t)bytes, tw_check64(body, bytes, 0)};
    w->check = tw_check64(&r, sizeof r, w->check);
    tw_status st = tc_write(w->to, &r, sizeof r);
    if (st >= 0)
        st = tc_write(w->to, &w->check, sizeof w->check);
    if (st >= 0)
        st = tc_write(w->to, body, bytes);
    return st >= 0 ? tc_write(w->to, zeros, -bytes & 7) : st;
}

static uint8_t *append(uint8_t *to, const void *from, size_t n) {
    if (n)
        memcpy(to, from, n);
    return to + n;
}

static tw_status write_first(tc_writer *w, const tc_list *l, uint32_t content, tc_kind kind) {
    const head h = {TC_VERSION, content, (uint32_t)kind, l->n, l->pairs};
    uint64_t bytes = sizeof h;
    for (uint32_t i = 0; i < 2 * l->pairs; i++)
        bytes += sizeof(uint32_t) + strlen(l->meta[i]);
    if (bytes > TC_MOST_HEAD)
        return tw_fail(TC_ERR_REFUSED, "metadata of %llu bytes; a file takes %d", (unsigned long long)bytes,
                       TC_MOST_HEAD);
    uint8_t *body = malloc(bytes);
    if (!body)
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    uint8_t *p = append(body, &h, sizeof h);
    for (uint32_t i = 0; i < 2 * l->pairs; i++) {
        uint32_t n = (uint32_t)strlen(l->meta[i]);
        p = append(append(p, &n, sizeof n), l->meta[i], n);
    }
    tw_status st = put(w, HEAD, body, bytes);
    free(body);
    return st;
}

static tw_status write_tensor(tc_writer *w, const tc_tensor *t) {
    static uint8_t body[sizeof(tens) + 8 * TC_MOST_DIMS + TC_MOST_NAME + TC_MOST_SPEC];
    const tens head = {
        t->dtype, t->dims, t->chunk_tiles, t->version, t->step, (uint32_t)strlen(t->name), (uint32_t)strlen(t->spec),
        0};
    uint8_t *p = append(append(body, &head, sizeof head), t->shape, 8 * t->dims);
    p = append(append(p, t->name, head.name_bytes), t->spec, head.spec_bytes);
    return put(w, TENS, body, (uint64_t)(p - body));
}

tw_status tc_write_head(tc_writer *w, tc_sink *to, const tc_list *l, uint32_t content, tc_kind kind) {
    *w = (tc_writer){.to = to};
    tw_status st = tc_write(to, magic, sizeof magic);
    if (st >= 0)
        st = write_first(w, l, content, kind);
    for (uint32_t i = 0; i < l->n && st >= 0; i++)
        st = write_tensor(w, &l->item[i]);
    return st;
}

tw_status tc_write_chunk(tc_writer *w, const void *payload, uint64_t bytes) {
    w->chunks++;
    return put(w, DATA, payload, bytes);
}

tw_status tc_write_end(tc_writer *w) {
    const last l = {w->chunks, w->to->bytes + tc_record_bytes(sizeof l)};
    return put(w, LAST, &l, sizeof l);
}

/* ---- reading ---- */

TW_PRINTF(2, 3) static tw_status damaged(const tc_reader *r, const char *format, ...) {
    char why[TW_SENTENCE / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return tw_fail(TC_ERR_DAMAGED, "%s: %s (record that ends at byte %llu)", r->from->path, why,
                   (unsigned long long)r->from->at);
}

static tw_status make_room(tc_reader *r, uint64_t bytes) {
    if (bytes <= r->room)
        return TW_OK;
    uint8_t *p = realloc(r->body, bytes);
    if (!p)
        return tw_fail(TW_ERR_NOMEM, "%s: no memory for a record of %llu bytes", r->from->path,
                       (unsigned long long)bytes);
    r->body = p;
    r->room = bytes;
    return TW_OK;
}

/* A record of this kind with a body of least..most bytes: body and bytes. */
static tw_status get(tc_reader *r, uint32_t kind, uint64_t least, uint64_t most) {
    struct {
        record r;
        uint64_t check;
    } h;
    tw_status st = tc_read(r->from, &h, sizeof h);
    if (st < 0)
        return st;
    r->check = tw_check64(&h.r, sizeof h.r, r->check);
    if (r->check != h.check)
        return damaged(r, "the check word of a record's head is wrong: the file is damaged");
    if (h.r.kind != kind || h.r.bytes < least || h.r.bytes > most)
        return damaged(r, "a record of kind '%.4s' and %u bytes where '%.4s' with %llu to %llu is due",
                       (const char *)&h.r.kind, h.r.bytes, (const char *)&kind, (unsigned long long)least,
                       (unsigned long long)most);
    r->bytes = h.r.bytes;
    uint64_t padded = tw_round_up(r->bytes, 8);
    st = make_room(r, padded);
    if (st >= 0)
        st = tc_read(r->from, r->body, padded);
    if (st < 0)
        return st;
    for (uint64_t i = r->bytes; i < padded; i++)
        if (r->body[i])
            return damaged(r, "padding is not 0: the file is damaged");
    return tw_check64(r->body, r->bytes, 0) == h.r.body_check
               ? TW_OK
               : damaged(r, "the check word of a '%.4s' is wrong: the file is damaged", (const char *)&kind);
}

/* The next text of HEAD; false where it would leave the body. */
static bool text(const tc_reader *r, uint64_t *at, const char **p, uint32_t *n) {
    if (r->bytes - *at < sizeof *n)
        return false;
    memcpy(n, r->body + *at, sizeof *n);
    *at += sizeof *n;
    *p = (const char *)r->body + *at;
    if (r->bytes - *at < *n)
        return false;
    *at += *n;
    return true;
}

static tw_status read_first(tc_reader *r, uint32_t *tensors) {
    head h;
    tw_status st = get(r, HEAD, sizeof h, TC_MOST_HEAD);
    if (st < 0)
        return st;
    memcpy(&h, r->body, sizeof h);
    if (h.version != TC_VERSION)
        return tw_fail(TC_ERR_REFUSED, "%s: version %u of the file format; this program reads version %d",
                       r->from->path, h.version, TC_VERSION);
    if (h.content > TC_CONTENT_DIFFERENCES || h.kind >= TC_KINDS)
        return damaged(r, "content %u, kind %u: there are none such", h.content, h.kind);
    r->content = h.content;
    r->kind = (tc_kind)h.kind;
    *tensors = h.tensors;
    uint64_t at = sizeof h;
    for (uint32_t i = 0; i < h.pairs && st >= 0; i++) {
        const char *key, *value;
        uint32_t key_bytes, value_bytes;
        if (!text(r, &at, &key, &key_bytes) || !text(r, &at, &value, &value_bytes))
            return damaged(r, "the metadata are longer than their record");
        st = tc_list_meta(&r->list, key, key_bytes, value, value_bytes);
    }
    return st >= 0 && at != r->bytes ? damaged(r, "something follows the metadata") : st;
}

/* The codec that a file names must be here, in the version that it was written with. */
static tw_status understand(const tc_reader *r, tc_tensor *t) {
    if (!*t->spec)
        return t->version ? damaged(r, "tensor '%.*s': a payload version without a codec", TC_SHOWN, t->name) : TW_OK;
    if (!tc_is_coded(t->dtype))
        return damaged(r, "tensor '%.*s': codecs do not take %s", TC_SHOWN, t->name, tc_dtypes[t->dtype].name);
    if (tw_spec_parse(t->spec, &t->parsed) < 0) {
        char why[TW_SENTENCE];
        snprintf(why, sizeof why, "%s", tw_last_error());
        return tw_fail(TC_ERR_REFUSED, "%s: tensor '%.*s': %s", r->from->path, TC_SHOWN, t->name, why);
    }
    if (t->parsed.feedback != TW_FEEDBACK_NONE)
        return damaged(r, "tensor '%.*s': '%s' has a feedback", TC_SHOWN, t->name, t->spec);
    uint32_t known = tw_codec_get(t->parsed.codec)->wire_version;
    if (t->version != known)
        return tw_fail(TC_ERR_REFUSED, "%s: tensor '%.*s': payload version %u of '%s'; this program reads version %u",
                       r->from->path, TC_SHOWN, t->name, t->version, t->spec, known);
    return TW_OK;
}

/* A matrix that goes as factors is one chunk, whatever its size; others have chunks of at most TC_MOST_CHUNK_TILES. */
static tw_status check_chunks(const tc_reader *r, tc_tensor *t) {
    bool lowrank = *t->spec && tw_codec_is_lowrank(&t->parsed);
    if (lowrank && !tc_settle_rows(t))
        return damaged(r, "tensor '%.*s': factors would save nothing", TC_SHOWN, t->name);
    if (lowrank && t->count > tc_chunk_values(t))
        return damaged(r, "tensor '%.*s': a matrix in more than one chunk", TC_SHOWN, t->name);
    if (!lowrank && t->chunk_tiles > TC_MOST_CHUNK_TILES)
        return damaged(r, "tensor '%.*s': chunks of %u tiles; 1 to %d are possible", TC_SHOWN, t->name, t->chunk_tiles,
                       TC_MOST_CHUNK_TILES);
    return TW_OK;
}

static tw_status read_tensor(tc_reader *r) {
    tens h;
    tc_tensor t = {0};
    char spec[TC_MOST_SPEC + 1];
    tw_status st = get(r, TENS, sizeof h, sizeof h + 8 * TC_MOST_DIMS + TC_MOST_NAME + TC_MOST_SPEC);
    if (st < 0)
        return st;
    memcpy(&h, r->body, sizeof h);
    uint64_t need = sizeof h + 8 * (uint64_t)h.dims + h.name_bytes + h.spec_bytes;
    if (h.dims > TC_MOST_DIMS || h.spec_bytes > TC_MOST_SPEC || need != r->bytes || h.reserved)
        return damaged(r, "tensor %u: its description contradicts itself", r->list.n);
    if (!h.chunk_tiles || h.chunk_tiles > TC_MOST_MATRIX_TILES)
        return damaged(r, "tensor %u: chunks of %u tiles; 1 to %d are possible", r->list.n, h.chunk_tiles,
                       TC_MOST_CHUNK_TILES);
    memcpy(t.shape, r->body + sizeof h, 8 * h.dims);
    t.name = (char *)r->body + sizeof h + 8 * h.dims;
    memcpy(spec, t.name + h.name_bytes, h.spec_bytes);
    spec[h.spec_bytes] = 0;
    if (strlen(spec) != h.spec_bytes)
        return damaged(r, "tensor %u: a zero byte in its spec", r->list.n);
    t.spec = spec;
    t.dtype = h.dtype;
    t.dims = h.dims;
    t.chunk_tiles = h.chunk_tiles;
    t.version = h.payload_version;
    t.step = h.step;
    st = tc_list_add(&r->list, &t, h.name_bytes);
    if (st >= 0)
        st = understand(r, &r->list.item[r->list.n - 1]);
    return st >= 0 ? check_chunks(r, &r->list.item[r->list.n - 1]) : st;
}

/* To the tensor that the next chunk belongs to: those without values have none. */
static void skip_empty(tc_reader *r) {
    while (r->tensor < r->list.n && r->next_first >= r->list.item[r->tensor].count) {
        r->tensor++;
        r->next_first = 0;
    }
}

tw_status tc_read_head(tc_reader *r, tc_source *from) {
    uint8_t begin[sizeof magic];
    uint32_t tensors = 0;
    *r = (tc_reader){.from = from};
    tw_status st = tc_read(from, begin, sizeof begin);
    if (st >= 0 && memcmp(begin, magic, sizeof magic) != 0)
        st = tw_fail(TC_ERR_DAMAGED, "%s: is not a Thinwire file: it begins with other bytes", from->path);
    if (st >= 0)
        st = read_first(r, &tensors);
    for (uint32_t i = 0; i < tensors && st >= 0; i++)
        st = read_tensor(r);
    return st >= 0 ? tc_list_unique(&r->list) : st;
}

static tw_status read_end(tc_reader *r) {
    last l;
    tw_status st = get(r, LAST, sizeof l, sizeof l);
    if (st < 0)
        return st;
    memcpy(&l, r->body, sizeof l);
    if (l.chunks != r->chunks || l.file_bytes != r->from->at)
        return damaged(r, "the end counts %llu chunks and %llu bytes, there were %llu", (unsigned long long)l.chunks,
                       (unsigned long long)l.file_bytes, (unsigned long long)r->chunks);
    return tc_source_end(r->from);
}

tw_status tc_read_chunk(tc_reader *r, bool *more) {
    skip_empty(r);
    *more = r->tensor < r->list.n;
    if (!*more)
        return read_end(r);
    const tc_tensor *t = &r->list.item[r->tensor];
    uint64_t left = t->count - r->next_first, most = tc_chunk_values(t);
    r->first = r->next_first;
    r->count = left < most ? left : most;
    uint64_t bound = tc_payload_bound(t, r->count);
    tw_status st = get(r, DATA, *t->spec ? 0 : bound, bound);
    r->next_first += r->count;
    r->chunks++;
    return st;
}

tw_status tc_decode_chunk(const tc_reader *r, void *values) {
    const tc_tensor *t = &r->list.item[r->tensor];
    if (!*t->spec) {
        memcpy(values, r->body, r->bytes);
        return TW_OK;
    }
    tw_array_args args = TW_ARRAY_ARGS_INIT;
    args.name = t->name;
    args.step = t->step;
    args.first = r->first;
    tw_status st = tw_decode(&t->parsed, &args, r->body, r->bytes, values, r->count, (tw_dtype)t->dtype);
    if (st == TW_ERR_CORRUPT) {
        char why[TW_SENTENCE];
        snprintf(why, sizeof why, "%s", tw_last_error());
        st = tw_fail(TC_ERR_DAMAGED, "%s: tensor '%.*s', values from %llu: %s", r->from->path, TC_SHOWN, t->name,
                     (unsigned long long)r->first, why);
    }
    return st;
}

tc_mark tc_reader_mark(const tc_reader *r) {
    return (tc_mark){r->from->at, r->check, r->chunks, r->tensor};
}

tw_status tc_reader_go(tc_reader *r, const tc_mark *m) {
    r->check = m->check;
    r->chunks = m->chunks;
    r->tensor = m->tensor;
    r->next_first = 0;
    return tc_source_seek(r->from, m->at);
}

void tc_reader_close(tc_reader *r) {
    tc_list_free(&r->list);
    free(r->body);
    r->body = NULL;
}
