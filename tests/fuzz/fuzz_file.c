/* SPDX-License-Identifier: BSD-3-Clause
 *
 * libFuzzer: any bytes as a Thinwire file, as they are and with check words that are right. */
#include <stdlib.h>
#include "tests/files/repair.h"
#include "tools/codec/container.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const uint8_t *p, uint64_t n) {
    static uint8_t values[(uint64_t)TC_MOST_CHUNK_TILES * 4096 * 16];
    tc_source from;
    tc_reader r;
    bool more = true;
    tc_source_memory(&from, p, n);
    tw_status st = tc_read_head(&r, &from);
    while (st >= 0 && more) {
        st = tc_read_chunk(&r, &more);
        if (st >= 0 && more)
            (void)tc_decode_chunk(&r, values);
    }
    tc_reader_close(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1); /* its own block: reading beyond is found */
    if (!copy)
        return 0;
    if (size)
        memcpy(copy, data, size);
    read_all(copy, size);
    repair_checks(copy, size);
    read_all(copy, size);
    free(copy);
    return 0;
}
