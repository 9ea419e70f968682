/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whole arrays as two factors (codec.h): R's vectors, then L row by row, both made in the payload itself. What has no factors
 * goes as fp32 values. */
#include "exec/array.h"

static tw_rows rows_of(const tw_array *a) {
    return (tw_rows){.g = a->in,
                     .scale = 1.0f,
                     .weight = 1.0f,
                     .n = a->count / a->spec->columns,
                     .cols = a->spec->columns,
                     .rank = a->spec->rank,
                     .dtype = a->t};
}

static void encode_values(const tw_array *a, uint8_t *dst, tw_array_stat *sum) {
    _Alignas(64) float wide[TW_MAX_TILE];
    const tw_spec none = TW_SPEC_INIT;
    for (uint64_t at = 0; at < a->count; at += TW_MAX_TILE, dst += TW_MAX_TILE * sizeof *wide) {
        uint32_t n = tw_tile_len(a->count, TW_MAX_TILE, at / TW_MAX_TILE);
        tw_enc e = {.g = tw_array_tile(a, at, wide), .scale = 1.0f, .n = n, .dtype = TW_F32, .dst = dst};
        tw_tile_stat tile;
        a->k->encode[TW_CODEC_NONE][TW_V_PLAIN](&none, &e, &tile);
        sum->x_sq += tile.x_sq;
        sum->bad_tiles += tile.nonfinite;
    }
}

/* False: some value is not finite, or became it. */
static bool encode_factors(const tw_array *a, const tw_rows *m, float *right, float *left, tw_tile_stat *stat) {
    const tw_lowrank_loops *l = a->k->lowrank;
    tw_noise noise = tw_array_noise(a, a->args.first / TW_MAX_TILE);
    bool good = true;
    tw_lowrank_start(left, m->n, m->rank, &noise);
    for (uint32_t i = 0; i < a->spec->iterations && good; i++) {
        if (i)
            tw_lowrank_warm(left, m->n, m->rank, &noise);
        memset(right, 0, m->cols * m->rank * sizeof *right);
        l->right(m, left, right);
        *stat = (tw_tile_stat){0};
        good = tw_lowrank_orthogonalise(l, right, m->cols, m->rank);
        if (good)
            l->left(m, right, left, stat);
        good = good && !stat->nonfinite;
    }
    return good;
}

void tw_matrix_encode(const tw_array *a, void *dst, uint64_t *len, tw_array_stat *sum) {
    uint64_t values = tw_lowrank_values(a->spec->rank, a->count, a->spec->columns);
    tw_tile_stat stat = {0};
    *len = 4 * (values ? values : a->count);
    if (!values) {
        encode_values(a, dst, sum);
        return;
    }
    tw_rows m = rows_of(a);
    float *right = dst;
    if (encode_factors(a, &m, right, right + m.cols * m.rank, &stat)) {
        sum->x_sq = stat.x_sq;
        sum->e_sq = stat.e_sq;
        return;
    }
    for (uint64_t i = 0; i < values; i++)
        memcpy(&right[i], &(uint32_t){0x7fc00000u}, sizeof *right);
    sum->bad_tiles = tw_ceil_div(a->count, TW_MAX_TILE);
}

tw_status tw_matrix_decode(const tw_array *a, const void *src, uint64_t len, void *out) {
    uint64_t values = tw_lowrank_values(a->spec->rank, a->count, a->spec->columns);
    uint64_t due = 4 * (values ? values : a->count);
    if (len != due)
        return tw_fail(TW_ERR_CORRUPT, "tw_decode: %llu bytes cannot be %llu values in rows of %u: %llu would be",
                       (unsigned long long)len, (unsigned long long)a->count, a->spec->columns,
                       (unsigned long long)due);
    tw_rows m = values ? rows_of(a) : (tw_rows){0};
    const float *right = src;
    for (uint64_t at = 0; at < a->count && !values; at += TW_MAX_TILE)
        tw_narrow(a->k, (uint8_t *)out + at * tw_dtype_size(a->t), right + at,
                  tw_tile_len(a->count, TW_MAX_TILE, at / TW_MAX_TILE), a->t);
    if (values)
        a->k->lowrank->out(&m, right + m.cols * m.rank, right, out);
    return TW_OK;
}
