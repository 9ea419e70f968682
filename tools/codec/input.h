/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Files of tensors as others write them: raw values, NumPy's .npy, .safetensors. */
#ifndef TC_INPUT_H
#define TC_INPUT_H

#include "tools/codec/container.h"

typedef struct tc_raw { /* what a raw file does not say itself */
    const char *name;   /* of its tensor, and of that in a .npy file; NULL: "tensor" */
    uint32_t dtype;     /* 0: not told */
    bool has_shape;     /* else one dimension of what the file has */
    uint32_t dims;
    uint64_t shape[TC_MOST_DIMS];
} tc_raw;

typedef struct tc_input {
    tc_source from; /* at the first tensor's values; they follow one another without gaps */
    tc_kind kind;
    tc_list list; /* in the order of their values */
} tc_input;

/* On failure too the input is to be closed. */
tw_status tc_input_open(tc_input *in, const char *path, tc_kind kind, const tc_raw *raw);
void tc_input_close(tc_input *in);
/* Of a name: what its end says; NONE: nothing. */
tc_kind tc_kind_of(const char *path);

/* ---- the kinds; each fills the list from the source ---- */
tw_status tc_npy_read(tc_source *from, const char *name, tc_list *l);
tw_status tc_npy_write(tc_sink *to, const tc_tensor *t);
tw_status tc_safetensors_read(tc_source *from, tc_list *l);
tw_status tc_safetensors_write(tc_sink *to, const tc_list *l);

#endif
