/* SPDX-License-Identifier: BSD-3-Clause */
#include "series.h"
#include "bits.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *slurp(const char *path) {
    FILE *f = fopen(path, "rb");
    long size;
    if (!f || fseek(f, 0, SEEK_END) || (size = ftell(f)) < 0 || fseek(f, 0, SEEK_SET))
        fail(1, "cannot read %s: %s", path, strerror(errno));
    char *all = need((size_t)size + 1); /* zeroed, so it ends in NUL */
    if (fread(all, 1, (size_t)size, f) != (size_t)size)
        fail(1, "cannot read %s", path);
    fclose(f);
    return all;
}

static void read_label(series *s, const char *json, const char *path) {
    const char *p = strstr(json, "\"label\": \"");
    size_t n = 0;
    if (!p)
        fail(1, "%s is not a file of charlm --json: it has no label", path);
    for (p += strlen("\"label\": \""); *p && *p != '"' && n + 1 < sizeof s->label; p++) {
        p += *p == '\\' && p[1];
        s->label[n++] = *p;
    }
}

static void read_curve(series *s, const char *json, const char *path) {
    const char *p = strstr(json, "\"curve\": [");
    if (!p)
        fail(1, "%s is not a file of charlm --json: it has no curve", path);
    p += strlen("\"curve\": [");
    int rows = 0;
    for (const char *q = p; *q; q++)
        rows += *q == '[';
    s->points = need((size_t)(rows + 1) * sizeof(point));
    for (int i = 0; i < rows && (p = strchr(p, '[')); i++, p++) {
        point *to = &s->points[s->count];
        if (sscanf(p, "[%d, %lf, %lf, %lf, %lf]", &to->step, &to->time_s, &to->wire_bytes, &to->train_bits,
                   &to->heldout_bits) != 5)
            fail(1, "%s: row %d of its curve is damaged", path, i + 1);
        s->count++;
    }
    if (!s->count)
        fail(1, "%s: its curve is empty", path);
}

int series_read(const char *list, series **out) {
    int n = 1, i = 0;
    for (const char *p = list; *p; p++)
        n += *p == ',';
    *out = need((size_t)n * sizeof **out);
    for (const char *p = list; i < n; i++) {
        char path[4096];
        size_t length = strcspn(p, ",");
        snprintf(path, sizeof path, "%.*s", (int)length, p);
        char *json = slurp(path);
        read_label(&(*out)[i], json, path);
        read_curve(&(*out)[i], json, path);
        free(json);
        p += length + (p[length] == ',');
    }
    return n;
}

void series_free(series *all, int n) {
    for (int i = 0; i < n; i++)
        free(all[i].points);
    free(all);
}
