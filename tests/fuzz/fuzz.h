/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A fuzz target is one file with FUZZ_TARGET and FUZZ_MAIN. Under libFuzzer (TW_LIBFUZZER) it is run by that; else it is a
 * test program that tries the committed corpus and some thousand damaged copies of it, the same ones each time. */
#ifndef FUZZ_H
#define FUZZ_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A finding: both kinds of run end here. */
#define FUZZ_REQUIRE(what)                                                     \
    do {                                                                       \
        if (!(what)) {                                                         \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what); \
            abort();                                                           \
        }                                                                      \
    } while (0)

#define FUZZ_TARGET(data, size)                                   \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size); \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)

#if defined(TW_LIBFUZZER)
#define FUZZ_MAIN(name) int fuzz_target_ends_here(void)
#else
enum { FUZZ_LARGEST = 1 << 16, FUZZ_COPIES = 300 };

/* The bytes exactly as long as they are, so that AddressSanitizer sees what is read behind them. */
static void fuzz_try(int (*target)(const uint8_t *, size_t), const uint8_t *data, size_t size) {
    uint8_t *exact = malloc(size + !size);
    FUZZ_REQUIRE(exact);
    memcpy(exact, data, size);
    target(exact, size);
    free(exact);
}

static uint32_t fuzz_below(uint64_t *state, uint32_t n) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((*state >> 32) * n >> 32);
}

static void fuzz_damaged(int (*target)(const uint8_t *, size_t), const uint8_t *data, size_t size, uint64_t *state) {
    static uint8_t copy[FUZZ_LARGEST];
    for (int i = 0; i < FUZZ_COPIES && size > 0; i++) {
        size_t cut = fuzz_below(state, 4) ? size : fuzz_below(state, (uint32_t)size + 1);
        memcpy(copy, data, size);
        for (uint32_t hits = 1 + fuzz_below(state, 4); hits > 0; hits--)
            copy[fuzz_below(state, (uint32_t)size)] ^= (uint8_t)(1u << fuzz_below(state, 8));
        fuzz_try(target, copy, cut);
    }
}

static int fuzz_replay(const char *name, int (*target)(const uint8_t *, size_t)) {
    static uint8_t data[FUZZ_LARGEST];
    const char *top = getenv("srcdir");
    char path[4096];
    uint64_t state = 1;
    unsigned files = 0;
    snprintf(path, sizeof path, "%s/tests/fuzz/corpus/%s", top ? top : ".", name);
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder)) != NULL;) {
        char file[8192];
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        FILE *f = entry->d_name[0] == '.' ? NULL : fopen(file, "rb");
        if (!f)
            continue;
        size_t size = fread(data, 1, sizeof data, f);
        fclose(f);
        fuzz_try(target, data, size);
        fuzz_damaged(target, data, size, &state);
        files++;
    }
    if (folder)
        closedir(folder);
    printf("%s: %u inputs, each with %d damaged copies\n%d passed, %d failed\n", path, files, FUZZ_COPIES, files > 0,
           files == 0);
    return files == 0;
}
#define FUZZ_MAIN(name)                                   \
    int main(void) {                                      \
        return fuzz_replay(name, LLVMFuzzerTestOneInput); \
    }                                                     \
    int fuzz_target_ends_here(void)
#endif

int fuzz_target_ends_here(void);

#endif
