/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The whole product of codecs, feedback, collectives, ranks and dtypes on inputs that are known to be hard; see sweep_all.c.
 * What draws at random (property.c) need not have drawn. */
#include "trial.h"
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    trial *t = calloc(1, sizeof *t);
    uint64_t done = 0;
    bool ok = t && sweep_all(t, &done);
    if (!ok)
        printf("FAILED: %s\n", t ? t->why : "out of memory");
    printf("%llu passed, %d failed\n", (unsigned long long)done - (done && !ok), !ok);
    free(t);
    return !ok;
}
