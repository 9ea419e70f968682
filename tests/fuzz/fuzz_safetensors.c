/* SPDX-License-Identifier: BSD-3-Clause
 *
 * libFuzzer: any bytes as the head of a .safetensors file. */
#include "tools/codec/input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tc_source from;
    tc_list l = {0};
    tc_source_memory(&from, data, size);
    (void)tc_safetensors_read(&from, &l);
    tc_list_free(&l);
    return 0;
}
