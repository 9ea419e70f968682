/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The CPU kernels behind the numbers in plan.h, one file each. */
#ifndef TW_STAGES_H
#define TW_STAGES_H

#include "exec/exec.h"
#include "exec/span.h"
#include "feedback/feedback.h"

/* What the ranks said of a run, and what the owner adds. */
struct tw_run_sum {
    double norms, e_sq, x_sq; /* sum of (||x_r|| + ||e_r||); owner's encode */
    double e_norms, gone;     /* sum of ||e_r||, of ranks that have the layer and of those that lack it */
    double own_sq;            /* own raw input */
    uint32_t code;
    bool any; /* some rank has the layer */
};
/* Where one rank's spans of a run are read. */
struct tw_reader {
    tw_kept kept;
    uint32_t next;      /* entry */
    uint64_t from, end; /* tiles that the span covers */
};
/* reduce.c */
const uint8_t *tw_arrival(const tw_exec *x, const tw_frame *f, int rank);
tw_trailer1 tw_trailer1_of(const tw_exec *x, const tw_frame *f, int rank, uint32_t run);
void tw_read_trailers(const tw_exec *x, const tw_frame *f, uint32_t run, tw_run_sum *s);
bool tw_sums_nothing(const tw_exec *x); /* nobody sends a part */
bool tw_has_run(const tw_exec *x, const tw_frame *f, int rank, uint32_t run);
/* A tile of the owner's raw part. */
void tw_note_own(tw_exec *x, const tw_exec_layer *l, const float *g, uint32_t n, tw_run_sum *s);
tw_trailer2 tw_certify(const tw_exec *x, const tw_tiles *run, const tw_run_sum *s);
void tw_keep_own_residual(const tw_exec *x, tw_exec_layer *l, const tw_tiles *run);
uint32_t tw_seal_answer(tw_exec *x, const tw_frame *f,
                        uint8_t *end); /* trailers are kept aside: as tw_exec_reduce does */
uint8_t *tw_trailers2_aside(const tw_exec *x, const tw_frame *f);
/* decode.c */
void tw_keep_slot(const tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n);

/* Sum of one tile over the ranks, in rank order; a gather's own part is decoded like the others. Advances their cursors. */
void tw_sum_tile(tw_exec *x, const tw_frame *f, uint32_t run, uint64_t tile, uint32_t n, float *sum, tw_run_sum *s);
/* n <= TW_MAX_TILE values as receivers will have them: rounded to the dtype. */
void tw_as_stored(tw_exec *x, tw_dtype t, float *v, uint32_t n);
void tw_fill_nan(float *v, uint32_t n);
bool tw_any_nonfinite(const float *y, uint64_t n);

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
/* Where the tile's x waits, and in the end what is left of it: the new residual; without feedback, or where they stay at
 * home, the owner's sums have a place in the arena, and what goes to an owner has none (NULL). */
static inline float *tw_waiting(const tw_exec *x, uint32_t layer, uint64_t tile, uint32_t hop) {
    const tw_exec_layer *l = &x->layer[layer];
    const tw_plan_part *p = &x->plan->part[layer];
    if (l->e && (hop == 1 || x->plan->kind != TW_KIND_REDUCE_SCATTER))
        return l->e_new + tile * x->plan->tile;
    return hop == 1 ? NULL : (float *)(void *)(x->arena + p->home_at) + (tile - p->first) * x->plan->tile;
}
/* What an own slot is multiplied by where it takes part as a worker's. */
static inline float tw_fold_factor(const tw_exec *x, uint32_t layer, uint64_t tile) {
    const tw_plan_part *p = &x->plan->part[layer];
    bool own = tile >= p->first && tile < p->first + p->tiles;
    return x->plan->gather && own && x->redop == TW_AVG ? (float)x->plan->size : 1.0f;
}
static inline float tw_weight(const tw_exec *x) { /* of a rank's part in the result */
    return x->redop == TW_AVG ? 1.0f / (float)x->plan->size : 1.0f;
}
/* Of lines that are far away one value is read first, of so many lines right after one another: these reads, and the walks
 * to find their pages, wait for memory side by side. */
enum { TW_TOUCHED = 32 };
static inline void tw_touch(const float *p) {
    (void)*(const volatile float *)p;
}
/* A tile's sum goes through *look to where it waits, and what may be kept of it aside; tiles of a layer in order. NaN or
 * Inf flags the tile. look NULL: there is no sum, or none that may be kept. */
void tw_select_sum(tw_exec *x, uint32_t layer, uint64_t tile, tw_look *look);
/* The tile's residual as it takes part in x, times that factor; NULL: none. */
const float *tw_residual_of(tw_exec *x, uint32_t layer, uint64_t tile);
/* The run as spans and, where tiles are flagged, their bits. Adds to s->x_sq and e_sq; *bad: some tile is. Returns the end. */
uint8_t *tw_spans_write(tw_exec *x, const tw_tiles *run, uint32_t hop, uint8_t *dst, tw_run_sum *s, bool *bad);
/* Adds to `sum` what ranks from..to-1 sent of a tile of the frame's run i; tiles of a run in order. */
void tw_spans_add(tw_exec *x, const tw_frame *f, uint32_t i, uint64_t tile, int from, int to, float *sum);
/* The run that arrived at *src: everything is looked at; *src is moved behind it. */
tw_status tw_spans_check(const tw_exec *x, const tw_tiles *run, bool flags, const uint8_t **src, const uint8_t *end);
void tw_spans_decode(tw_exec *x, const tw_tiles *run, bool flags, const uint8_t **src, const uint8_t *end_of_frame);

uint32_t tw_exec_encode(tw_exec *x, const tw_frame *f); /* returns the frame's bytes */
uint32_t tw_exec_reduce(tw_exec *x, const tw_frame *f);
tw_status tw_exec_verdict(tw_exec *x);
void tw_exec_decode(tw_exec *x, const tw_frame *f);
/* Sparse layers and frames: select.c, spans.c, scatter.c. */
void tw_exec_select(tw_exec *x, uint32_t layer, uint32_t hop);
uint32_t tw_exec_sum(tw_exec *x, const tw_frame *f); /* 0, or the bytes of a reduce-scatter's answer */
uint32_t tw_exec_answer(tw_exec *x, const tw_frame *f);
/* gather.c */
bool tw_is_folded(const tw_exec *x, uint32_t layer, int owner); /* the owner's residual counts as a worker's */
tw_status tw_gather_verdict(tw_exec *x);
void tw_gather_decode(tw_exec *x, const tw_frame *f);
/* lowrank.c: the kernels of matrices, by action; flag: before sum i is started; settle: the result of the last one. */
void tw_lowrank_begin(tw_exec *x, const tw_action *a);
void tw_lowrank_right(tw_exec *x, const tw_action *a);
void tw_lowrank_ortho(tw_exec *x, const tw_action *a);
void tw_lowrank_left(tw_exec *x, const tw_action *a);
void tw_lowrank_flag(tw_exec *x, uint32_t i);
void tw_lowrank_settle(tw_exec *x, const tw_plan_matrix *m);
void tw_lowrank_keep(const tw_exec *x, const tw_plan_matrix *m); /* ... the left factor for the next step */
void tw_lowrank_decode(tw_exec *x, const tw_plan_unit *u);
/* linear.c: the same three, where payloads are summed natively; note: right before the sum. */
void tw_linear_encode(tw_exec *x, const tw_frame *f);
void tw_linear_note(tw_exec *x);
tw_status tw_linear_verdict(tw_exec *x);
tw_status tw_exec_agreed(const tw_exec *x);
tw_status tw_exec_prescale(tw_exec *x, uint32_t piece);
tw_status tw_exec_postscale(tw_exec *x, uint32_t piece);

/* ---- feedbacks that keep a share ---- */
/* Of what this step lost; without feedback, or where it was switched off, nothing is held and this is 1. */
static inline float tw_keeps_share(const tw_exec_layer *l) {
    return tw_feedback_keeps(&l->spec);
}
/* Norms may be Inf. */
static inline double tw_part_of(double share, double norm) {
    return share > 0 ? share * norm : 0;
}
/* Encodes with feedback, and a->out gets `factor` times the new residual. Uses the last two tiles of scratch. */
void tw_encode_scaled(tw_exec *x, const tw_spec *s, const tw_enc *a, float factor, tw_tile_stat *st);

/* ---- what several of them do ---- */
/* Whole, with residuals. fold: the slot is an owner's, and takes part as a worker's. */
void tw_encode_tile(tw_exec *x, uint32_t layer, uint64_t tile, uint32_t n, bool fold, uint8_t *dst, tw_tile_stat *st);
void tw_settle_slot(tw_exec *x, tw_exec_layer *l, uint64_t tile, uint32_t n, const tw_tile_stat *st); /* ... after it */
/* What the dtype's rounding loses of y in own tiles, where no owner held it: their slots take it in. */
bool tw_keeps_rounding(const tw_exec_layer *l);
void tw_keep_rounding(const tw_exec *x, const tw_exec_layer *l, uint64_t at, uint64_t n, const float *y);
float tw_stored_limit(tw_dtype t); /* magnitudes below it stay finite */
/* As what the values of an exact codec travel. */
static inline tw_dtype tw_sent_as(const tw_exec *x, const tw_exec_layer *l) {
    return x->plan->linear ? TW_F32 : l->dtype;
}
/* The layer is not here: its residual stays and counts; returns its square. */
double tw_keep_residual(const tw_exec *x, tw_exec_layer *l, uint64_t at, uint32_t n);
/* code: as in tw_trailer2. */
void tw_note_nonfinite(tw_exec *x, uint32_t layer, uint32_t code);
tw_status tw_say_nonfinite(const tw_exec *x); /* TW_OK where there was none or NaN propagates */

#endif
