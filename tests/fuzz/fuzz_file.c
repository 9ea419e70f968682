/* SPDX-License-Identifier: BSD-3-Clause
 *
 * libFuzzer: any bytes as a Thinwire file, as they are and with check words that are right. */
#include <stdlib.h>
#include "tests/files/read_all.h"
#include "tests/files/repair.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t decoded;
    uint8_t *copy = malloc(size ? size : 1); /* its own block: reading beyond is found */
    if (!copy)
        return 0;
    if (size)
        memcpy(copy, data, size);
    (void)read_all(copy, size, &decoded);
    repair_checks(copy, size);
    (void)read_all(copy, size, &decoded);
    free(copy);
    return 0;
}
