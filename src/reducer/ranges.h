/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A set of ranges that grows, and the question whether another one meets it: in log^2 n, in whatever order they come. */
#ifndef TW_RANGES_H
#define TW_RANGES_H

#include "core/core.h"

typedef struct tw_range {
    uint64_t from, top; /* top: the furthest end of this one and of those before it in its run */
} tw_range;

/* Sorted runs, one for each bit of n, the longest first; behind `room` ranges is space for a merge. */
typedef struct tw_ranges {
    tw_range *range;
    uint32_t n, room;
} tw_ranges;

uint64_t tw_ranges_bytes(uint32_t room); /* what tw_alloc gives for them */
bool tw_ranges_meet(const tw_ranges *s, uint64_t from, uint64_t len);
void tw_ranges_add(tw_ranges *s, uint64_t from, uint64_t len); /* wants room */

#endif
