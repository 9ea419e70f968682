/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A whole Thinwire file from memory, decoded. */
#ifndef READ_ALL_H
#define READ_ALL_H

#include "tools/codec/container.h"

/* Reads all of it and decodes; the first status that is none of success. */
static inline tw_status read_all(const uint8_t *p, uint64_t n, uint64_t *decoded) {
    static uint8_t
        values[(uint64_t)TC_MOST_MATRIX_TILES * 4096 * 4]; /* what codecs give; others: 1024 tiles of 16 bytes */
    tc_source from;
    tc_reader r;
    bool more = true;
    *decoded = 0;
    tc_source_memory(&from, p, n);
    tw_status st = tc_read_head(&r, &from);
    while (st >= 0 && more) {
        st = tc_read_chunk(&r, &more);
        if (st >= 0 && more)
            st = tc_decode_chunk(&r, values);
        *decoded += st >= 0 && more ? r.count : 0;
    }
    tc_reader_close(&r);
    return st;
}

#endif
