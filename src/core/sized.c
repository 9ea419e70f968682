/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Structs that begin with their size: programs and libraries of different versions understand each other. The rule is in
 * docs/design.md, "Versions". */
#include "core/core.h"

#define MOST 4096u /* larger sizes are garbage */

static uint32_t size_of(const void *p) {
    uint32_t size;
    memcpy(&size, p, sizeof size);
    return size;
}

tw_status tw_sized_check(const tw_sized *t, const char *call, const void *given) {
    if (!given)
        return tw_fail(TW_ERR_ARG, "%s: %s is NULL", call, t->name);
    uint32_t size = size_of(given);
    if (size < t->least || size > MOST)
        return tw_fail(TW_ERR_ARG, "%s: %s of size %u, must be %u..%u (start from its INIT macro)", call, t->name, size,
                       t->least, MOST);
    return TW_OK;
}

bool tw_zero_behind(const void *p, uint32_t known, uint32_t size) {
    for (uint32_t i = known; i < size; i++)
        if (((const uint8_t *)p)[i])
            return false;
    return true;
}

tw_status tw_sized_take(const tw_sized *t, const char *call, const void *from, void *to) {
    tw_status s = tw_sized_check(t, call, from);
    if (s < 0)
        return s;
    uint32_t size = size_of(from);
    if (!tw_zero_behind(from, t->full, size))
        return tw_fail(TW_ERR_UNSUPPORTED,
                       "%s: %s of size %u has a member set that this library does not know (%u bytes)", call, t->name,
                       size, t->full);
    size -= size % t->align; /* no member is cut in two */
    memcpy(to, from, size < t->full ? size : t->full);
    memcpy(to, &t->full, sizeof t->full);
    return TW_OK;
}

void tw_sized_fill(const tw_sized *t, void *out, const void *from) {
    uint32_t size = size_of(out), known = size < t->full ? size : t->full;
    memset(out, 0, size);
    memcpy(out, from, known);
    memcpy(out, &size, sizeof size);
}
