/* SPDX-License-Identifier: BSD-3-Clause */
#include "record.h"
#include "bits.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { HEADER = 128 }; /* bytes of an .npy header of format 1.0, a multiple of 64 as numpy pads it */

int record_wanted(const options *o, int step) {
    return o->record && (step == 0 || step == o->steps / 2 || step == o->steps - 1);
}

static void npy_header(char header[HEADER], const model *m, int layer) {
    char shape[64];
    size_t rows = model_rows(m, layer);
    if (rows > 1)
        snprintf(shape, sizeof shape, "(%zu, %zu)", rows, m->count[layer] / rows);
    else
        snprintf(shape, sizeof shape, "(%zu,)", m->count[layer]);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = HEADER - 10;
    header[9] = 0;
    int n = snprintf(header + 10, HEADER - 10, "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }", shape);
    memset(header + 10 + n, ' ', (size_t)(HEADER - 11 - n));
    header[HEADER - 1] = '\n';
}

void record_layer(const options *o, const model *m, int step, int rank, int layer) {
    char path[4096], header[HEADER];
    if (mkdir(o->record, 0777) != 0 && errno != EEXIST)
        fail(1, "--record %s: %s", o->record, strerror(errno));
    if (snprintf(path, sizeof path, "%s/step-%d-rank-%d-%s.npy", o->record, step, rank, layer_name[layer]) >=
        (int)sizeof path)
        fail(1, "--record: the name is too long");
    npy_header(header, m, layer);
    FILE *f = fopen(path, "wb");
    int ok = f && fwrite(header, HEADER, 1, f) == 1 &&
             fwrite(m->grad[layer], sizeof(float), m->count[layer], f) == m->count[layer];
    if ((f && fclose(f) != 0) || !ok)
        fail(1, "%s: %s", path, strerror(errno));
}
