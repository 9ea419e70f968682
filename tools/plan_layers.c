/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>

#include "plan_tool.h"

void plan_layers_free(plan_layers *l) {
    for (uint32_t i = 0; i < l->n; i++)
        free(l->item[i].name);
    free(l->item);
    if (l->is_file)
        tc_input_close(&l->file);
    *l = (plan_layers){0};
}

/* Rows are the first dimension, as of a convolution's weights; a single row or column has no factors, nor have rows of
 * 2^32 values. */
static uint64_t columns_of(const uint64_t *shape, uint32_t dims, uint64_t count) {
    uint64_t rows = dims ? shape[0] : 0;
    return dims >= 2 && rows > 1 && count / rows > 1 && count / rows <= UINT32_MAX ? count / rows : 0;
}

tw_status plan_layers_add(plan_layers *l, const plan_layer *given, const uint64_t *shape, uint32_t dims) {
    char name[TC_SHOWN + 1];
    tc_shown(name, sizeof name, given->name);
    if (!*given->name)
        return tw_fail(TC_ERR_DAMAGED, "layer %u has an empty name, so no rule can mean it", l->n + 1);
    if (l->n == PLAN_MOST_LAYERS)
        return tw_fail(TC_ERR_REFUSED, "more than %d layers", PLAN_MOST_LAYERS);
    if (given->count > PLAN_MOST_VALUES - l->values)
        return tw_fail(TC_ERR_REFUSED, "layer '%s': with its %llu values there are more than 2^33", name,
                       (unsigned long long)given->count);
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? 2 * l->cap : 64;
        plan_layer *more = realloc(l->item, cap * sizeof *more);
        if (!more)
            return tw_fail(TW_ERR_NOMEM, "out of memory");
        l->item = more;
        l->cap = cap;
    }
    plan_layer *y = &l->item[l->n];
    *y = *given;
    if (!(y->name = strdup(given->name)))
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    if (dims)
        y->columns = columns_of(shape, dims, given->count);
    l->n++;
    l->values += y->count;
    l->bytes += y->count * tw_dtype_size(y->dtype);
    return TW_OK;
}

static tw_status read_safetensors(plan_layers *l, const plan_options *o) {
    tc_raw raw = {0};
    uint32_t left_out = 0;
    l->is_file = true;
    tw_status st = tc_input_open(&l->file, o->layers, TC_KIND_SAFETENSORS, &raw);
    for (uint32_t i = 0; i < l->file.list.n && st >= 0; i++) {
        const tc_tensor *t = &l->file.list.item[i];
        plan_layer y = {.name = t->name, .count = t->count, .dtype = (tw_dtype)t->dtype, .at = t->at};
        if (tc_is_coded(t->dtype))
            st = plan_layers_add(l, &y, t->shape, t->dims);
        else
            left_out++;
    }
    if (st >= 0 && left_out && !o->quiet)
        fprintf(stderr,
                "thinwire-plan: %u tensors are neither fp32, fp16 nor bf16, so no gradients; they are left out\n",
                left_out);
    return st;
}

static tw_status read_json(plan_layers *l, const plan_options *o) {
    tc_source from;
    tw_status st = tc_source_open(&from, o->layers);
    if (st >= 0)
        st = plan_json_layers(&from, l);
    tc_source_close(&from);
    return st;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const plan_layer *const *)a)->name, (*(const plan_layer *const *)b)->name);
}

static tw_status check_names(const plan_layers *l) {
    const plan_layer **sorted = malloc((l->n + 1) * sizeof *sorted);
    tw_status st = TW_OK;
    if (!sorted)
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < l->n; i++)
        sorted[i] = &l->item[i];
    qsort(sorted, l->n, sizeof *sorted, by_name);
    for (uint32_t i = 1; i < l->n && st >= 0; i++) {
        char name[TC_SHOWN + 1];
        tc_shown(name, sizeof name, sorted[i]->name);
        if (!strcmp(sorted[i - 1]->name, sorted[i]->name))
            st = tw_fail(TC_ERR_DAMAGED, "two layers are named '%s'", name);
    }
    free(sorted);
    return st;
}

static void warn_of_norms(const plan_layers *l) {
    uint32_t without = 0, with = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        with += l->item[i].has_norm;
        without += !l->item[i].has_norm && l->item[i].count;
    }
    if (with && without)
        fprintf(stderr,
                "thinwire-plan: %u of %u layers have no norm; each is taken to have the square root of its number of "
                "values, which says nothing beside norms that were measured\n",
                without, l->n);
}

tw_status plan_layers_read(plan_layers *l, const plan_options *o) {
    tw_status st = tc_kind_of(o->layers) == TC_KIND_SAFETENSORS ? read_safetensors(l, o) : read_json(l, o);
    for (uint32_t i = 0; i < l->n; i++)
        l->item[i].is_small = l->item[i].count < o->small;
    if (st >= 0)
        st = check_names(l);
    if (st >= 0)
        warn_of_norms(l);
    if (st >= 0 && l->values == 0)
        st = tw_fail(TC_ERR_DAMAGED, "%s: no layer in it has a value", o->layers);
    return st;
}
