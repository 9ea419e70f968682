/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Between tiles and the user's memory, which may be cut anywhere, misaligned, or half precision. */
#include "exec/exec.h"

/* The piece of a layer that holds position `at`; pieces of a layer are sorted and gapless over the op's tiles. */
static const tw_exec_piece *piece_at(const tw_exec *x, uint32_t layer, uint64_t at) {
    uint32_t lo = x->piece0[layer], hi = x->piece0[layer + 1];
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (x->piece[mid].first <= at)
            lo = mid;
        else
            hi = mid;
    }
    return &x->piece[lo];
}

static bool aligned(const void *p, size_t to) {
    return (uintptr_t)p % to == 0;
}

/* n values from anywhere, converted. The bounce keeps element accesses aligned. */
void tw_widen(const tw_kernels *k, float *dst, const uint8_t *src, uint32_t n, tw_dtype t) {
    uint16_t bounce[256];
    if (t == TW_F32) {
        memcpy(dst, src, (size_t)n * 4);
        return;
    }
    while (n > 0) {
        uint32_t m = aligned(src, 2) ? n : n < 256 ? n : 256;
        const uint16_t *from = (const uint16_t *)(const void *)src;
        if (!aligned(src, 2)) {
            memcpy(bounce, src, (size_t)m * 2);
            from = bounce;
        }
        (t == TW_F16 ? k->f16_to_f32 : k->bf16_to_f32)(dst, from, m);
        dst += m;
        src += (size_t)m * 2;
        n -= m;
    }
}

void tw_narrow(const tw_kernels *k, uint8_t *dst, const float *src, uint32_t n, tw_dtype t) {
    uint16_t bounce[256];
    if (t == TW_F32) {
        memcpy(dst, src, (size_t)n * 4);
        return;
    }
    while (n > 0) {
        uint32_t m = aligned(dst, 2) ? n : n < 256 ? n : 256;
        uint16_t *to = aligned(dst, 2) ? (uint16_t *)(void *)dst : bounce;
        (t == TW_F16 ? k->f32_to_f16 : k->f32_to_bf16)(to, src, m);
        if (to == bounce)
            memcpy(dst, bounce, (size_t)m * 2);
        dst += (size_t)m * 2;
        src += m;
        n -= m;
    }
}

static const void *input_at(const tw_exec *x, uint32_t layer, uint64_t at, uint32_t n) {
    size_t size = tw_dtype_size(x->layer[layer].dtype);
    const tw_exec_piece *p = piece_at(x, layer, at);
    const uint8_t *in = (const uint8_t *)p->in + (at - p->first) * size;
    bool nan = x->nan_layer == (int32_t)layer && at == 0;
    return p->first + p->count >= at + n && aligned(in, size) && !nan ? in : NULL;
}

static void load_input(const tw_exec *x, uint32_t layer, uint64_t at, uint32_t n, float *to) {
    const tw_exec_layer *l = &x->layer[layer];
    uint64_t end = at + n;
    size_t size = tw_dtype_size(l->dtype);
    const tw_exec_piece *p = piece_at(x, layer, at);
    for (uint64_t pos = at; pos < end; p++) {
        uint64_t stop = p->first + p->count < end ? p->first + p->count : end;
        tw_widen(x->k, to + (pos - at), (const uint8_t *)p->in + (pos - p->first) * size, (uint32_t)(stop - pos),
                 l->dtype);
        pos = stop;
    }
    if (x->nan_layer == (int32_t)layer && at == 0)
        memcpy(to, &(uint32_t){0x7fc00000u}, 4);
}

/* ---- dgc: momentum in the place of inputs ---- */

void tw_keep_momentum(const tw_exec_layer *l, uint64_t at, uint64_t n) {
    if (l->u_new && l->u)
        memcpy(l->u_new + at, l->u + at, n * sizeof(float));
    else if (l->u_new)
        memset(l->u_new + at, 0, n * sizeof(float));
}

/* As tw_feedback_momentum does. */
static void form(tw_exec *x, uint32_t layer, uint64_t at, uint32_t n, float *wide) {
    const tw_exec_layer *l = &x->layer[layer];
    const float *g = l->dtype == TW_F32 ? input_at(x, layer, at, n) : NULL;
    if (!g)
        load_input(x, layer, at, n, wide);
    if (l->u) {
        x->k->set_scaled(l->u_new + at, l->u + at, l->momentum, n);
        x->k->add_scaled(l->u_new + at, g ? g : wide, x->input_scale, n);
    } else {
        x->k->set_scaled(l->u_new + at, g ? g : wide, x->input_scale, n);
    }
}

void tw_form_input(tw_exec *x, uint32_t layer) {
    tw_exec_layer *l = &x->layer[layer];
    uint32_t lo = x->piece0[layer], hi = x->piece0[layer + 1];
    if (!l->u_new || l->formed || lo == hi)
        return;
    float *wide = x->tile + 3 * TW_MAX_TILE;
    for (uint64_t at = x->piece[lo].first, end = x->piece[hi - 1].first + x->piece[hi - 1].count; at < end;) {
        uint32_t n = end - at < TW_MAX_TILE ? (uint32_t)(end - at) : TW_MAX_TILE;
        if (l->absent)
            tw_keep_momentum(l, at, n);
        else
            form(x, layer, at, n, wide);
        at += n;
    }
    l->formed = true;
}

const void *tw_values_at(const tw_exec *x, uint32_t layer, uint64_t at, uint32_t n) {
    const tw_exec_layer *l = &x->layer[layer];
    if (!l->formed)
        return input_at(x, layer, at, n);
    return l->dtype == TW_F32 ? l->u_new + at : NULL;
}

void tw_values_load(const tw_exec *x, uint32_t layer, uint64_t at, uint32_t n, float *to) {
    if (x->layer[layer].formed)
        memcpy(to, x->layer[layer].u_new + at, n * sizeof *to);
    else
        load_input(x, layer, at, n, to);
}

const float *tw_tile_load(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, float *buf) {
    uint64_t at = tile * x->plan->tile;
    if (x->layer[layer].formed)
        return x->layer[layer].u_new + at;
    const void *in = x->layer[layer].dtype == TW_F32 ? tw_values_at(x, layer, at, n) : NULL;
    if (in)
        return in;
    tw_values_load(x, layer, at, n, buf);
    return buf;
}

void *tw_values_target(const tw_exec *x, uint32_t layer, uint64_t at, uint32_t n, bool *wanted) {
    size_t size = tw_dtype_size(x->layer[layer].dtype);
    uint64_t end = at + n;
    *wanted = false;
    for (const tw_exec_piece *p = piece_at(x, layer, at); p < x->piece + x->piece0[layer + 1] && p->first < end; p++) {
        if (p->count == 0 || !p->out)
            continue;
        *wanted = true;
        if (p->first > at || p->first + p->count < end)
            continue;
        uint8_t *out = (uint8_t *)p->out + (at - p->first) * size;
        if (aligned(out, size))
            return out;
    }
    return NULL;
}

float *tw_tile_target(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, bool *wanted) {
    void *out = tw_values_target(x, layer, tile * x->plan->tile, n, wanted);
    return x->layer[layer].dtype == TW_F32 ? out : NULL;
}

void tw_values_store(const tw_exec *x, uint32_t layer, uint64_t at, uint32_t n, const float *y) {
    const tw_exec_layer *l = &x->layer[layer];
    uint64_t end = at + n;
    size_t size = tw_dtype_size(l->dtype);
    const tw_exec_piece *last = x->piece + x->piece0[layer + 1];
    for (const tw_exec_piece *p = piece_at(x, layer, at); p < last && p->first < end; p++) {
        uint64_t from = p->first > at ? p->first : at, stop = p->first + p->count < end ? p->first + p->count : end;
        if (p->out && stop > from)
            tw_narrow(x->k, (uint8_t *)p->out + (from - p->first) * size, y + (from - at), (uint32_t)(stop - from),
                      l->dtype);
    }
}

void tw_tile_store(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, const float *y) {
    tw_values_store(x, layer, tile * x->plan->tile, n, y);
}
