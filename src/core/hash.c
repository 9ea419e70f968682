/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Hashes by xxHash, compiled in: no run-time dependency, and its allocating functions are left out. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "core/core.h"

#if XXH_VERSION_NUMBER < 800
#error "xxHash 0.8.0 or newer is needed: XXH3 was not final before"
#endif

uint64_t tw_hash64(const void *p, size_t bytes, uint64_t seed) {
    return XXH64(bytes ? p : "", bytes, seed);
}

uint32_t tw_check32(const void *p, size_t bytes, uint32_t seed) {
    return (uint32_t)XXH3_64bits_withSeed(bytes ? p : "", bytes, seed);
}

uint64_t tw_check64(const void *p, size_t bytes, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes ? p : "", bytes, seed);
}
