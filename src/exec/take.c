/* SPDX-License-Identifier: BSD-3-Clause */
#include "exec/take.h"

static uint32_t magnitude(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u & 0x7fffffffu;
}

/* Ties beyond the last one that is kept go back to where they came from. */
static void drop_ties(const tw_look *l, tw_cut *cut, tw_taken *to) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < to->count; i++) {
        bool tie = magnitude(to->value[i]) == cut->bits;
        if (tie && cut->ties == 0) {
            to->rest += (double)to->value[i] * (double)to->value[i];
            if (l->out)
                l->out[to->place[i]] = to->value[i];
            continue;
        }
        cut->ties -= tie;
        to->place[n] = to->place[i];
        to->value[n++] = to->value[i];
    }
    to->count = n;
}

void tw_take(const tw_kernels *k, tw_look *l, tw_cut *cut, tw_taken *to) {
    l->floor = cut->bits - (cut->ties > 0);
    to->count = k->look(l, to->place, to->value, &to->rest);
    if (cut->ties > 0 && cut->ties != TW_SELECT_ALL)
        drop_ties(l, cut, to);
}

/* Of large groups a part says first below which magnitude none is kept, with room to err. */
tw_cut tw_group_cut(const tw_kernels *kernels, const float *x, uint32_t n, uint32_t k, tw_taken *work) {
    enum { ROW = 32, EVERY = 16 * ROW };
    uint32_t m = 0, share;
    if (n < 2 * EVERY || k > n / 8)
        return tw_cut_of(kernels->count, x, n, k);
    for (uint32_t at = 0; at + ROW <= n; at += EVERY, m += ROW)
        memcpy(work->value + m, x + at, ROW * sizeof *x);
    share = (uint32_t)tw_ceil_div((uint64_t)k * m, n);
    tw_cut floor = tw_cut_of(kernels->count, work->value, m, 2 * share + 4);
    tw_look l = {.g = x, .scale = 1.0f, .n = n, .floor = floor.bits ? floor.bits - 1 : 0};
    uint32_t found = kernels->look(&l, work->place, work->value, &work->rest);
    return found >= k ? tw_cut_of(kernels->count, work->value, found, k) : tw_cut_of(kernels->count, x, n, k);
}
