/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The certificate's ledger. A bound belongs to a run of tiles; runs may be cut differently next time. A part of a run
 * is no longer than the run, so every part inherits the whole bound; pieces of different runs add as squares. */
#include "exec/exec.h"
#include <math.h>

void tw_cert_read(const tw_cert *c, uint64_t first, uint32_t n, double *acc, double *bound) {
    double a = 0, b = 0;
    for (uint64_t t = first; t < first + n; t++)
        if (t == first || c[t].back == 0) {
            a += (double)c[t].acc * c[t].acc;
            b += (double)c[t].bound * c[t].bound;
        }
    *acc = sqrt(a);
    *bound = sqrt(b);
}

void tw_cert_write(tw_cert *c, uint64_t first, uint32_t n, float acc, float bound) {
    for (uint32_t i = 0; i < n; i++)
        c[first + i] = (tw_cert){.back = i, .acc = acc, .bound = bound};
}

float tw_norm_up(double sum_sq) {
    return tw_float_up(sqrt(sum_sq * (1.0 + 0x1p-15)));
}

float tw_float_up(double v) {
    float f = (float)v;
    uint32_t u;
    if ((double)f < v) { /* next larger: f is positive and finite here */
        memcpy(&u, &f, 4);
        u++;
        memcpy(&f, &u, 4);
    }
    return f;
}
