/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Tensors by name, dtype and shape, as every kind of file has them. Sentences as in the library (tw_last_error). */
#ifndef TC_TENSOR_H
#define TC_TENSOR_H

#include "core/core.h"

/* The statuses of tw_* with the meaning that they have here, each of them an exit status of the tool. */
#define TC_ERR_IO      TW_ERR_TRANSPORT   /* the system refused to open, read, write or rename */
#define TC_ERR_DAMAGED TW_ERR_CORRUPT     /* an input that is not what it says */
#define TC_ERR_REFUSED TW_ERR_UNSUPPORTED /* an input that is whole and cannot be handled */

enum {
    TC_MOST_DIMS = 32,            /* what numpy takes */
    TC_MOST_NAME = 65535,         /* bytes */
    TC_MOST_SPEC = 1023,          /* bytes */
    TC_MOST_MATRIX_TILES = 16384, /* of a matrix that goes as factors, which is one chunk */
    TC_SHOWN = 80,                /* bytes of a name in a sentence */
    TC_DTYPES = 18                /* 1 + the largest number */
};
#define TC_MOST_BYTES ((uint64_t)1 << 60) /* of a tensor and of a file: sums of a few never overflow */

/* Numbers of the file format. Those that codecs take are tw_dtype's. */
typedef struct tc_dtype {
    const char *name, *npy, *safetensors; /* NULL: that kind of file lacks it */
    uint32_t bytes;
} tc_dtype;
extern const tc_dtype tc_dtypes[TC_DTYPES];
static inline bool tc_is_coded(uint32_t dtype) { /* by codecs; others are carried as they are */
    return dtype >= TW_F32 && dtype <= TW_BF16;
}

typedef struct tc_tensor {
    char *name; /* UTF-8 without NUL */
    uint32_t dtype, dims;
    uint64_t shape[TC_MOST_DIMS];
    uint64_t count, bytes; /* values, and bytes of them as they are */
    uint64_t at;           /* where they begin in the file they come from */
    char *spec;            /* canonical text; "": the values are carried as they are */
    tw_spec parsed;        /* of spec */
    uint32_t version;      /* of the codec's payload; 0: as they are */
    uint32_t step, chunk_tiles;
} tc_tensor;

typedef struct tc_list {
    tc_tensor *item;
    uint32_t n, cap;
    char **meta; /* key, value, key, value ... */
    uint32_t pairs, meta_cap;
    struct tc_name *sorted; /* made by tc_list_find, of the first nsorted items */
    uint32_t nsorted;
} tc_list;

/* A tensor more: its name is copied, count and bytes are computed. Checks dims, sizes and the name. */
tw_status tc_list_add(tc_list *l, const tc_tensor *t, size_t name_bytes);
tw_status tc_list_meta(tc_list *l, const char *key, size_t key_bytes, const char *value, size_t value_bytes);
tw_status tc_list_unique(const tc_list *l);
void tc_list_free(tc_list *l);
/* NULL if it is not there. The first call sorts the names: names of items do not change behind it. */
tc_tensor *tc_list_find(tc_list *l, const char *name);
/* The codec for a tensor: text is parsed, checked and made canonical. NULL or `none`, or a dtype that codecs do not
 * take, or a low-rank codec where factors save nothing: as it is, bit for bit (the codec `none` would make NaN canonical).
 * Under a low-rank codec the tensor is one chunk. */
tw_status tc_set_spec(tc_tensor *t, const tw_spec *s);

/* Rows are the last dimension unless t->parsed says otherwise. True: it goes as factors; false: that saves nothing. */
bool tc_settle_rows(tc_tensor *t);

static inline uint64_t tc_chunk_values(const tc_tensor *t) {
    return (uint64_t)t->chunk_tiles * TW_MAX_TILE;
}
/* "[3, 4]" */
const char *tc_shape_text(const tc_tensor *t, char *buf, size_t cap);
bool tc_same_shape(const tc_tensor *a, const tc_tensor *b);
/* The beginning of a text from a file, for people: what would control a terminal becomes '?'. */
void tc_shown(char *buf, size_t cap, const char *text);
size_t tc_hidden(const char *p);           /* bytes of the character there, if it is one that tc_shown hides; else 0 */
bool tc_is_utf8(const char *p, size_t n);  /* and holds no NUL */
uint32_t tc_dtype_named(const char *name); /* 0: none of them */

#endif
