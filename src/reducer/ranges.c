/* SPDX-License-Identifier: BSD-3-Clause */
#include "reducer/ranges.h"

uint64_t tw_ranges_bytes(uint32_t room) {
    return ((uint64_t)room + room / 2 + 1) * sizeof(tw_range);
}

/* Of those that begin before the end of the asked one, the furthest end decides. */
static bool run_meets(const tw_range *run, uint32_t n, uint64_t from, uint64_t end) {
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (run[middle].from < end)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && run[low - 1].top > from;
}

bool tw_ranges_meet(const tw_ranges *s, uint64_t from, uint64_t len) {
    uint32_t at = 0;
    for (uint32_t bit = UINT32_C(1) << 31; len && bit; bit >>= 1)
        if (s->n & bit) {
            if (run_meets(s->range + at, bit, from, from + len))
                return true;
            at += bit;
        }
    return false;
}

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Two runs of n side by side into one, from the back; the second waits in `spare`. */
static void merge(tw_range *a, uint32_t n, tw_range *spare) {
    uint32_t i = n, k = n;
    if (a[n - 1].from <= a[n].from) { /* rising order: nothing moves */
        for (; k < 2 * n && a[k].top < a[n - 1].top; k++)
            a[k].top = a[n - 1].top;
        return;
    }
    memcpy(spare, a + n, n * sizeof *spare);
    while (k > 0) {
        bool first = i > 0 && a[i - 1].from > spare[k - 1].from;
        uint64_t top = larger(i ? a[i - 1].top : 0, spare[k - 1].top);
        a[i + k - 1] = (tw_range){first ? a[i - 1].from : spare[k - 1].from, top};
        i -= first;
        k -= !first;
    }
}

void tw_ranges_add(tw_ranges *s, uint64_t from, uint64_t len) {
    if (len == 0)
        return;
    s->range[s->n] = (tw_range){from, from + len};
    for (uint32_t n = 1; s->n & n; n *= 2)
        merge(s->range + s->n + 1 - 2 * n, n, s->range + s->room);
    s->n++;
}
