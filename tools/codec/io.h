/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Where bytes come from (a file, a stream, memory) and where they go: an output appears under its name when it is whole,
 * or not at all. */
#ifndef TC_IO_H
#define TC_IO_H

#include "tools/codec/tensor.h"

typedef struct tc_source {
    const char *path; /* for sentences */
    const uint8_t *memory;
    int fd; /* -1: memory */
    bool seekable;
    uint64_t size; /* of a seekable one */
    uint64_t at;   /* bytes read */
} tc_source;

tw_status tc_source_open(tc_source *s, const char *path); /* "-": standard input */
void tc_source_memory(tc_source *s, const void *p, uint64_t n);
void tc_source_close(tc_source *s);
tw_status tc_read(tc_source *s, void *to, uint64_t n);                     /* all n, or TC_ERR_DAMAGED */
tw_status tc_read_some(tc_source *s, void *to, uint64_t n, uint64_t *got); /* up to n; *got < n at the end */
tw_status tc_source_end(tc_source *s);                                     /* TC_ERR_DAMAGED where a byte follows */
tw_status tc_source_seek(tc_source *s, uint64_t at);                       /* seekable ones */

typedef struct tc_sink {
    const char *path;
    char *final, *temp; /* temp: what is written; NULL: a stream, or none is left */
    int fd;
    bool force, spool;
    uint64_t bytes;
} tc_sink;

/* "-": standard output; with `spool` its bytes are kept in a file without a name until tc_sink_commit. One at a time: what
 * is not committed is removed also when a signal ends the program. An existing file is TW_ERR_ARG without `force`. */
tw_status tc_sink_open(tc_sink *s, const char *path, bool force, bool spool);
tw_status tc_write(tc_sink *s, const void *from, uint64_t n);
tw_status tc_sink_commit(tc_sink *s);
void tc_sink_close(tc_sink *s); /* after a commit too */

#endif
