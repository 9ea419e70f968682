/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The CPU kernels behind the numbers in plan.h, one file each. */
#ifndef TW_STAGES_H
#define TW_STAGES_H

#include "exec/exec.h"
#include "exec/span.h"

/* What the ranks said of a run, and what the owner adds. */
struct tw_run_sum {
    double norms, e_sq, x_sq; /* sum of (||x_r|| + ||e_r||); owner's encode */
    double e_norms;           /* sum of ||e_r|| */
    double own_sq;            /* own raw input */
    uint32_t code;
    bool any; /* some rank has the layer */
};
/* reduce.c */
const uint8_t *tw_arrival(const tw_exec *x, const tw_frame *f, int rank);
tw_trailer1 tw_trailer1_of(const tw_exec *x, const tw_frame *f, int rank, uint32_t run);
void tw_read_trailers(const tw_exec *x, const tw_frame *f, uint32_t run, tw_run_sum *s);
bool tw_has_run(const tw_exec *x, const tw_frame *f, int rank, uint32_t run);
void tw_note_own(tw_exec *x, const float *g, uint32_t n, tw_run_sum *s); /* a tile of the owner's raw part */
tw_trailer2 tw_certify(const tw_exec *x, const tw_tiles *run, const tw_run_sum *s);
void tw_keep_own_residual(const tw_exec *x, tw_exec_layer *l, const tw_tiles *run);
uint32_t tw_seal_answer(tw_exec *x, const tw_frame *f,
                        uint8_t *end); /* trailers are kept aside: as tw_exec_reduce does */
uint8_t *tw_trailers2_aside(const tw_exec *x, const tw_frame *f);
/* decode.c */
void tw_keep_slot(const tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n);

/* ---- sparse layers ---- */
static inline bool tw_flagged(const tw_exec *x, uint32_t layer, uint64_t tile) {
    uint64_t bit = tile - x->plan->part[layer].base;
    return x->flagged[x->plan->part[layer].flags_at + bit / 32] >> bit % 32 & 1;
}
static inline void tw_flag(tw_exec *x, uint32_t layer, uint64_t tile) {
    uint64_t bit = tile - x->plan->part[layer].base;
    x->flagged[x->plan->part[layer].flags_at + bit / 32] |= 1u << bit % 32;
}
static inline uint32_t tw_len_of(const tw_exec *x, uint32_t layer, uint64_t tile) {
    return tw_tile_len(x->layer[layer].count, x->plan->tile, tile);
}
/* Where the tile's x waits, and in the end what is left of it: the new residual; without feedback the owner's sums have a
 * place in the arena, and what goes to an owner has none (NULL). */
static inline float *tw_waiting(const tw_exec *x, uint32_t layer, uint64_t tile, uint32_t hop) {
    const tw_exec_layer *l = &x->layer[layer];
    const tw_plan_part *p = &x->plan->part[layer];
    if (l->e)
        return l->e_new + tile * x->plan->tile;
    return hop == 1 ? NULL : (float *)(void *)(x->arena + p->home_at) + (tile - p->first) * x->plan->tile;
}
/* The run as spans and, where tiles are flagged, their bits. Adds to s->x_sq and e_sq; *bad: some tile is. Returns the end. */
uint8_t *tw_spans_write(tw_exec *x, const tw_tiles *run, uint32_t hop, uint8_t *dst, tw_run_sum *s, bool *bad);
/* The run that arrived at *src: everything is looked at; *src is moved behind it. */
tw_status tw_spans_check(const tw_exec *x, const tw_tiles *run, bool flags, const uint8_t **src, const uint8_t *end);
void tw_spans_decode(tw_exec *x, const tw_tiles *run, bool flags, const uint8_t **src, const uint8_t *end_of_frame);

uint32_t tw_exec_encode(tw_exec *x, const tw_frame *f); /* returns the frame's bytes */
uint32_t tw_exec_reduce(tw_exec *x, const tw_frame *f);
tw_status tw_exec_verdict(tw_exec *x);
void tw_exec_decode(tw_exec *x, const tw_frame *f);
/* Sparse layers and frames: select.c, spans.c, scatter.c. */
void tw_exec_select(tw_exec *x, uint32_t layer, uint32_t hop);
void tw_exec_sum(tw_exec *x, const tw_frame *f);
uint32_t tw_exec_answer(tw_exec *x, const tw_frame *f);
/* linear.c: the same three, where payloads are summed natively; note: right before the sum. */
void tw_linear_encode(tw_exec *x, const tw_frame *f);
void tw_linear_note(tw_exec *x);
tw_status tw_linear_verdict(tw_exec *x);
tw_status tw_exec_agreed(const tw_exec *x);
tw_status tw_exec_prescale(tw_exec *x, uint32_t piece);
tw_status tw_exec_postscale(tw_exec *x, uint32_t piece);

/* ---- what several of them do ---- */
/* One tile of this rank's input, encoded with these residuals (NULL without). */
void tw_encode_part(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, const float *e, float *e_new, uint8_t *dst,
                    tw_tile_stat *st);
void tw_settle_slot(tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n, const tw_tile_stat *st); /* ... after it */
/* The layer is not here: its residual stays and counts; returns its square. */
double tw_keep_residual(const tw_exec *x, tw_exec_layer *l, uint64_t at, uint32_t n);
/* code: as in tw_trailer2. */
void tw_note_nonfinite(tw_exec *x, uint32_t layer, uint32_t code);
tw_status tw_say_nonfinite(const tw_exec *x); /* TW_OK where there was none or NaN propagates */

#endif
