/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Spans (compressors/sparse.h) as bytes: what arrays and frames share. */
#ifndef TW_EXEC_SPAN_H
#define TW_EXEC_SPAN_H

#include "exec/take.h"

typedef struct tw_span {
    uint32_t values, kept, index_bytes;
    const uint8_t *coded; /* the kept values */
    const uint8_t *index;
} tw_span;

/* Work areas of one span. */
struct tw_picks {
    tw_kept kept;
    _Alignas(64) float decoded[TW_SPAN_KEPT];
    uint8_t index[TW_SPAN_INDEX];
    tw_taken taken, of_group; /* of a tile */
    bool bad; /* the kept values of the last span do not all decode to finite ones: e_sq is not theirs */
};

/* Writes a span of `covered` values to dst, where `room` bytes are. decoded: NULL, or what the kept values will be. */
tw_status tw_span_put(const tw_kernels *k, const tw_spec *values, tw_noise noise, tw_picks *p, uint32_t covered,
                      uint8_t *dst, uint64_t room, float *decoded, uint64_t *bytes, double *e_sq);
/* The span at *src, whose lengths fit into what is left; *src is moved behind it. Untrusted bytes. */
tw_status tw_span_get(const tw_spec *s, const uint8_t **src, const uint8_t *end, uint64_t left, tw_span *out);
tw_status tw_span_positions(const tw_kernels *k, const tw_span *s, tw_kept *kept);
/* kept->value of positions that are there. */
void tw_span_values(const tw_kernels *k, const tw_spec *values, const tw_span *s, tw_kept *kept);

#endif
