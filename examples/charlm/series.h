/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a plot is made of, and how it is read back from the JSON files that report.c writes. */
#ifndef CHARLM_SERIES_H
#define CHARLM_SERIES_H

#include "train.h"

typedef struct series {
    char label[128];
    point *points;
    int count;
    int colour; /* equal labels share one */
} series;

/* Reads the files of a list "a.json,b.json"; returns how many. Ends the program with a sentence on a bad one. */
int series_read(const char *list, series **out);
void series_free(series *all, int n);

#endif
