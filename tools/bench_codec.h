/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Skeletons: loops with the reads and writes of an encoder, of decode-add or of a decoder, and next to no arithmetic.
 * They are the bound that codecs are measured against, so the best variant for the machine is chosen.
 */
#ifndef BENCH_CODEC_H
#define BENCH_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* READ: of what an encoder reads, for passes that write next to nothing. TOUCH: an ADD to a share of the lines only. */
typedef enum skeleton_kind {
    SKELETON_ENCODE,
    SKELETON_ADD,
    SKELETON_TOUCH,
    SKELETON_WRITE,
    SKELETON_READ
} skeleton_kind;

typedef struct skeleton {
    skeleton_kind kind;
    unsigned payload_bits; /* of a value: 1, 2, 4, 8, 16 or 32; with feedback 0: none */
    bool feedback;         /* encode: also reads e and writes out; read: reads e */
    size_t n;              /* values; a last part of a row of 32 is left out */
    const float *g, *e;    /* encode, read */
    float *out;            /* encode; 64-byte aligned, like payload */
    float *y;              /* add, touch; write: 64-byte aligned */
    double share;          /* touch: of the lines of 64 bytes, those that are written */
    uint8_t *payload;      /* at least 128 bytes */
} skeleton;

/* Variants differ in ISA (up to the one named) and in how far ahead they prefetch. Residuals are stored past the caches; a
 * payload is not, in the library neither: it is hashed and sent next. */
unsigned skeleton_variants(const char *most);
void skeleton_run(const skeleton *s, unsigned variant);
void skeleton_describe(unsigned variant, char *buf, size_t cap);

#endif
