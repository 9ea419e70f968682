/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The nearest valid word by edit distance with swaps of neighbours (optimal string alignment), case ignored. A wrong
 * letter costs as much as one missing and one too many, so that "1bit" is nearer to "onebit" than to "cast". */
#include "core/core.h"

#define LONGEST 48u /* longer words are compared by their beginning: a bounded cost for any input */

static int lower(char c) {
    return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c;
}

static unsigned least(unsigned a, unsigned b) {
    return a < b ? a : b;
}

static unsigned distance(const char *a, unsigned na, const char *b, unsigned nb) {
    unsigned rows[3][LONGEST + 1];
    unsigned *two_up = rows[0], *up = rows[1], *row = rows[2];
    for (unsigned j = 0; j <= nb; j++)
        row[j] = j;
    for (unsigned i = 1; i <= na; i++) {
        unsigned *reused = two_up;
        two_up = up;
        up = row;
        row = reused;
        row[0] = i;
        for (unsigned j = 1; j <= nb; j++) {
            int x = lower(a[i - 1]), y = lower(b[j - 1]);
            unsigned best = least(up[j - 1] + (x != y) * 2u, least(up[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && x == lower(b[j - 2]) && lower(a[i - 2]) == y)
                best = least(best, two_up[j - 2] + 1);
            row[j] = best;
        }
    }
    return row[nb];
}

const char *tw_nearest_word(const char *word, size_t len, const char *const *valid, size_t n) {
    const char *best = NULL;
    unsigned best_distance = UINT32_MAX;
    unsigned na = len < LONGEST ? (unsigned)len : LONGEST;
    for (size_t i = 0; i < n; i++) {
        unsigned nb = (unsigned)strnlen(valid[i], LONGEST);
        unsigned d = distance(word, na, valid[i], nb);
        if (d < best_distance) {
            best = valid[i];
            best_distance = d;
        }
    }
    return best;
}
