/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Check words made right again, after docs/file-format.md, so that changed files get past them to the code behind. */
#ifndef REPAIR_H
#define REPAIR_H

#include "core/core.h"

static inline void repair_checks(uint8_t *p, uint64_t n) {
    uint64_t chain = 0;
    for (uint64_t at = 8; n >= 24 && at <= n - 24;) {
        uint32_t bytes;
        memcpy(&bytes, p + at + 4, sizeof bytes);
        bool inside = bytes <= n - at - 24;
        if (inside) {
            uint64_t body = tw_check64(p + at + 24, bytes, 0);
            memcpy(p + at + 8, &body, sizeof body);
        }
        chain = tw_check64(p + at, 16, chain);
        memcpy(p + at + 16, &chain, sizeof chain);
        if (!inside)
            return;
        at += 24 + tw_round_up(bytes, 8);
    }
}

#endif
