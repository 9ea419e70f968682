/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The file format of docs/file-format.md: writing, and reading what nobody vouches for. A file is a chain of records: what
 * it holds (HEAD, a TENS for each tensor), the payloads in the same order (DATA), and an end. */
#ifndef TC_CONTAINER_H
#define TC_CONTAINER_H

#include "tools/codec/io.h"

enum { TC_VERSION = 1, TC_RECORD = 24, TC_MOST_CHUNK_TILES = 1024, TC_MOST_HEAD = 1 << 24 };
enum { TC_CONTENT_TENSORS = 0, TC_CONTENT_DIFFERENCES = 1 };
/* The kind of file that the tensors came from, so that they can go back to one. */
typedef enum tc_kind { TC_KIND_NONE = 0, TC_KIND_RAW, TC_KIND_NPY, TC_KIND_SAFETENSORS, TC_KINDS } tc_kind;
extern const char *const tc_kind_words[TC_KINDS + 1]; /* for options; NULL at the end */

typedef struct tc_writer {
    tc_sink *to;
    uint64_t check; /* of the last record */
    uint64_t chunks;
} tc_writer;

tw_status tc_write_head(tc_writer *w, tc_sink *to, const tc_list *l, uint32_t content, tc_kind kind);
tw_status tc_write_chunk(tc_writer *w, const void *payload, uint64_t bytes);
tw_status tc_write_end(tc_writer *w);
/* What a body takes in the file, and what the record that describes a tensor takes. */
static inline uint64_t tc_record_bytes(uint64_t body) {
    return TC_RECORD + tw_round_up(body, 8);
}
uint64_t tc_tensor_record_bytes(const tc_tensor *t);

typedef struct tc_reader {
    tc_source *from;
    tc_list list;
    uint32_t content;
    tc_kind kind;
    uint64_t check, chunks;
    uint32_t tensor;       /* of the chunk that was read */
    uint64_t first, count; /* its values */
    uint8_t *body;         /* its payload, aligned to 8 bytes and padded with zeros to a multiple of 8 */
    uint64_t bytes;
    uint64_t next_first; /* of the tensor that the next chunk belongs to, or of one that is through */
    uint64_t room;
} tc_reader;

/* A place in the chain: where a tensor's first DATA is. */
typedef struct tc_mark {
    uint64_t at, check, chunks;
    uint32_t tensor;
} tc_mark;

/* Reads HEAD and TENS. On failure too the reader is to be closed. */
tw_status tc_read_head(tc_reader *r, tc_source *from);
/* The next chunk, or *more = false once the end was found to be whole and nothing follows it. */
tw_status tc_read_chunk(tc_reader *r, bool *more);
/* The values of the chunk just read, as bytes of the tensor's dtype. */
tw_status tc_decode_chunk(const tc_reader *r, void *values);
tc_mark tc_reader_mark(const tc_reader *r);
tw_status tc_reader_go(tc_reader *r, const tc_mark *m); /* sources that can seek */
void tc_reader_close(tc_reader *r);

/* The most payload bytes of `count` values. */
uint64_t tc_payload_bound(const tc_tensor *t, uint64_t count);

#endif
