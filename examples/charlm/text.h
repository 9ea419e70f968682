/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The text: found, read, and cut by position into a training part and a held-out part. */
#ifndef CHARLM_TEXT_H
#define CHARLM_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* The text is cut into blocks; every sixteenth is held out. A context never leaves its block, so no training sample
 * sees a held-out character. */
enum { TEXT_BLOCK = 16384, TEXT_HOLD_OUT = 16 };

typedef struct text {
    unsigned char *bytes; /* numbers of characters, the most frequent one is 0 */
    size_t size;
    uint64_t hash; /* XXH64 of the text as it was read */
    unsigned files;
    char source[1024];
    char python[32]; /* version whose library it is; empty where --text named it */
} text;

/* where: a file, a folder (its .py files without tests and site-packages, in order of relative path), or NULL for the
 * standard library of `python3`. Ends the program with a sentence if there is too little text. */
void text_load(text *t, const char *where, int context);
void text_free(text *t);
size_t text_heldout_chars(const text *t, int context);
/* Pointer to the first character of a context; the character to predict follows the context. */
const unsigned char *text_train_sample(const text *t, int context, uint64_t random);
const unsigned char *text_heldout_sample(const text *t, int context, size_t i, size_t of);

#endif
