/* SPDX-License-Identifier: BSD-3-Clause */
#include "text.h"
#include "bits.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct paths {
    char **names; /* relative to the root */
    size_t count, room;
} paths;

static int skipped_folder(const char *name) {
    static const char *const skipped[] = {"test",          "tests",         "idle_test",
                                          "site-packages", "dist-packages", "__pycache__"};
    for (size_t i = 0; i < sizeof skipped / sizeof *skipped; i++)
        if (!strcmp(name, skipped[i]))
            return 1;
    return name[0] == '.';
}

static void keep(paths *p, const char *name) {
    if (p->count == p->room) {
        p->room = p->room ? 2 * p->room : 256;
        p->names = realloc(p->names, p->room * sizeof *p->names);
    }
    char *copy = p->names ? strdup(name) : NULL;
    if (!copy)
        fail(1, "no memory for a list of files");
    p->names[p->count++] = copy;
}

static void walk(paths *found, const char *root, const char *below) {
    char path[4096], name[4096];
    snprintf(path, sizeof path, "%s/%s", root, below);
    DIR *dir = opendir(path);
    if (!dir)
        fail(1, "cannot read folder %s: %s", path, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) {
        struct stat st;
        size_t length = strlen(e->d_name);
        if (snprintf(name, sizeof name, "%s%s%s", below, *below ? "/" : "", e->d_name) >= (int)sizeof name ||
            snprintf(path, sizeof path, "%s/%s", root, name) >= (int)sizeof path || stat(path, &st))
            continue;
        if (S_ISDIR(st.st_mode) && !skipped_folder(e->d_name))
            walk(found, root, name);
        else if (S_ISREG(st.st_mode) && length > 3 && !strcmp(e->d_name + length - 3, ".py"))
            keep(found, name);
    }
    closedir(dir);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void append_file(text *t, const char *path) {
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st))
        fail(1, "cannot read %s: %s", path, strerror(errno));
    size_t size = (size_t)st.st_size;
    t->bytes = realloc(t->bytes, t->size + size + 1);
    if (!t->bytes)
        fail(1, "no memory for the text");
    if (fread(t->bytes + t->size, 1, size, f) != size)
        fail(1, "%s is shorter than it said", path);
    fclose(f);
    t->size += size;
    t->files++;
}

static void append_folder(text *t, const char *root) {
    paths found = {0};
    char path[8192];
    walk(&found, root, "");
    if (!found.count)
        fail(1, "%s has no .py files; name a file or another folder with --text", root);
    qsort(found.names, found.count, sizeof *found.names, by_name);
    for (size_t i = 0; i < found.count; i++) {
        snprintf(path, sizeof path, "%s/%s", root, found.names[i]);
        append_file(t, path);
        free(found.names[i]);
    }
    free(found.names);
}

/* Another version's library is another text: losses are compared only with those of the same one. */
static void find_library(text *t) {
    FILE *f = popen("python3 -c 'import platform, sysconfig; print(sysconfig.get_paths()[\"stdlib\"]); "
                    "print(platform.python_version())' 2>/dev/null",
                    "r");
    if (!f || !fgets(t->source, sizeof t->source, f) || !fgets(t->python, sizeof t->python, f))
        fail(1, "python3 does not say where its standard library is; name a text with --text FILE|FOLDER");
    pclose(f);
    t->source[strcspn(t->source, "\n")] = '\0';
    t->python[strcspn(t->python, "\n")] = '\0';
}

static size_t blocks(const text *t) {
    return t->size / TEXT_BLOCK;
}

static size_t seen[256];

static int by_count(const void *a, const void *b) {
    int x = *(const unsigned char *)a, y = *(const unsigned char *)b;
    return seen[x] != seen[y] ? (seen[x] < seen[y] ? 1 : -1) : x - y;
}

/* Characters are numbered by how often they occur: rows of the embedding and of the output layer that learn at the same
 * pace lie together, which suits codecs that share a scale among neighbours. */
static void number_by_count(text *t) {
    unsigned char byte[256], number[256];
    memset(seen, 0, sizeof seen);
    for (size_t i = 0; i < t->size; i++)
        seen[t->bytes[i]]++;
    for (int i = 0; i < 256; i++)
        byte[i] = (unsigned char)i;
    qsort(byte, 256, 1, by_count);
    for (int i = 0; i < 256; i++)
        number[byte[i]] = (unsigned char)i;
    for (size_t i = 0; i < t->size; i++)
        t->bytes[i] = number[t->bytes[i]];
}

void text_load(text *t, const char *where, int context) {
    struct stat st;
    memset(t, 0, sizeof *t);
    if (where)
        snprintf(t->source, sizeof t->source, "%s", where);
    else
        find_library(t);
    if (stat(t->source, &st))
        fail(1, "cannot read %s: %s", t->source, strerror(errno));
    if (S_ISDIR(st.st_mode))
        append_folder(t, t->source);
    else
        append_file(t, t->source);
    t->hash = xxh64(t->bytes, t->size, 0);
    number_by_count(t);
    if (blocks(t) < TEXT_HOLD_OUT)
        fail(1, "%s has %zu bytes of text; %d are needed (one block of %d in %d is held out)", t->source, t->size,
             TEXT_BLOCK * TEXT_HOLD_OUT, TEXT_BLOCK, TEXT_HOLD_OUT);
    if (context > TEXT_BLOCK / 4)
        fail(2, "a context of %d is too long for blocks of %d", context, TEXT_BLOCK);
}

void text_free(text *t) {
    free(t->bytes);
}

size_t text_heldout_chars(const text *t, int context) {
    return blocks(t) / TEXT_HOLD_OUT * (size_t)(TEXT_BLOCK - context);
}

const unsigned char *text_train_sample(const text *t, int context, uint64_t random) {
    size_t per_block = (size_t)(TEXT_BLOCK - context), training = blocks(t) - blocks(t) / TEXT_HOLD_OUT;
    size_t i = (size_t)(random % (training * per_block)), block = i / per_block;
    block += block / (TEXT_HOLD_OUT - 1); /* the last of every sixteen is held out */
    return t->bytes + block * TEXT_BLOCK + i % per_block;
}

const unsigned char *text_heldout_sample(const text *t, int context, size_t i, size_t of) {
    size_t per_block = (size_t)(TEXT_BLOCK - context), all = text_heldout_chars(t, context);
    size_t at = (size_t)((double)i / (double)of * (double)all), block = at / per_block;
    block = block * TEXT_HOLD_OUT + TEXT_HOLD_OUT - 1;
    return t->bytes + block * TEXT_BLOCK + at % per_block;
}
