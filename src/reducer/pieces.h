/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Checking and sorting what a caller posts. */
#ifndef TW_PIECES_H
#define TW_PIECES_H

#include "reducer/op.h"

typedef struct tw_sorted { /* pieces by layer (in order of first mention) and position; empty ones left out */
    tw_plan_layer *layer;
    tw_plan_piece *piece;
    uint32_t *order;    /* given -> sorted, UINT32_MAX if empty */
    uint32_t *layer_of; /* -> caller's layer index */
    uint32_t nlayer, npiece;
} tw_sorted;

/* Every call, before anything else: indices, ranges, NULLs, overlapping memory. Allocates nothing. */
tw_status tw_pieces_check(const tw_op_args *a);
/* First use of a signature: also no gaps, no overlaps in position, cuts at tile borders. Free it even on failure. */
tw_status tw_pieces_sort(tw_ctx *ctx, const tw_op_args *a, tw_sorted *out);
void tw_sorted_free(tw_ctx *ctx, tw_sorted *s);

#endif
