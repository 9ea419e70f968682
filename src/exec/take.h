/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What is kept of a tile, where that is known from the tile alone: by a given cut, or as the largest of a group. */
#ifndef TW_TAKE_H
#define TW_TAKE_H

#include "exec/exec.h"

/* What is kept of a tile: places in it, and values. */
typedef struct tw_taken {
    uint32_t count;
    double rest; /* sum of squares of the others */
    uint16_t place[TW_MAX_TILE + TW_LOOK_SLACK];
    float value[TW_MAX_TILE + TW_LOOK_SLACK];
} tw_taken;

/* What `cut` keeps of a tile; l->floor is set here, and cut->ties counts down. */
void tw_take(const tw_kernels *k, tw_look *l, tw_cut *cut, tw_taken *to);
/* The cut that keeps the k largest of x[0..n), a tile at most. *work is used. */
tw_cut tw_group_cut(const tw_kernels *kernels, const float *x, uint32_t n, uint32_t k, tw_taken *work);

#endif
