/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Index coding from untrusted bytes: u32 n, u32 k, code. All ISAs agree; what is taken is a support, and comes back when it
 * is encoded and decoded again. */
#include "fuzz.h"
#include "exec/kernels.h"

enum { MOST = 20000 };

static void again(const uint32_t *pos, uint32_t n, uint32_t k) {
    static uint32_t back[MOST];
    uint64_t bytes, bound = tw_index_bound(n, k);
    uint8_t *code = malloc(bound + 1);
    FUZZ_REQUIRE(code);
    FUZZ_REQUIRE(tw_index_encode(tw_kernels_best()->index, pos, k, n, code, &bytes) == TW_OK && bytes <= bound);
    FUZZ_REQUIRE(tw_index_decode(&tw_index_ref, code, bytes, n, k, back) == TW_OK);
    FUZZ_REQUIRE(!memcmp(pos, back, k * sizeof *pos));
    free(code);
}

static void skip(const uint8_t *code, size_t size, uint32_t n, uint32_t k) {
    static uint32_t pos[TW_INDEX_BLOCK];
    uint32_t count;
    tw_index_reader r;
    tw_index_open(&r, tw_kernels_best()->index, code, size, n, k);
    if (tw_index_skip(&r, n / 2) == TW_OK)
        while (tw_index_read(&r, pos, &count) == TW_OK && count > 0)
            for (uint32_t i = 0; i < count; i++)
                FUZZ_REQUIRE(pos[i] < n && (i == 0 || pos[i] > pos[i - 1]));
}

FUZZ_TARGET(data, size) {
    static uint32_t first[MOST], pos[MOST];
    uint32_t n, k;
    tw_status said = TW_OK;
    if (size < 8)
        return 0;
    memcpy(&n, data, 4);
    memcpy(&k, data + 4, 4);
    k %= MOST;
    for (const char *const *isa = tw_isa_list(); *isa; isa++) {
        uint32_t *to = isa == tw_isa_list() ? first : pos;
        tw_status s = tw_index_decode(tw_kernels_named(*isa)->index, data + 8, size - 8, n, k, to);
        said = to == first ? s : said;
        FUZZ_REQUIRE(s == said && (s == TW_OK || s == TW_ERR_CORRUPT));
        FUZZ_REQUIRE(s < 0 || !memcmp(first, to, k * sizeof *to));
    }
    for (uint32_t i = 0; said == TW_OK && i < k; i++)
        FUZZ_REQUIRE(first[i] < n && (i == 0 || first[i] > first[i - 1]));
    if (said == TW_OK)
        again(first, n, k);
    skip(data + 8, size - 8, n, k);
    return 0;
}

FUZZ_MAIN("index");
