/* SPDX-License-Identifier: BSD-3-Clause */
#include "exec/span.h"

tw_status tw_span_put(const tw_kernels *k, const tw_spec *values, tw_noise noise, tw_picks *p, uint32_t covered,
                      uint8_t *dst, uint64_t room, float *decoded, uint64_t *bytes, double *e_sq) {
    uint32_t head[3] = {covered, p->kept.count, 0};
    uint64_t index;
    tw_tile_stat stat = {0};
    tw_status st = tw_index_encode(k->index, p->kept.pos, p->kept.count, covered, p->index, &index);
    if (st < 0)
        return st;
    head[2] = (uint32_t)index;
    uint64_t coded = tw_codec_get(values->codec)->bytes(values, p->kept.count, TW_F32), padded = tw_round_up(index, 4);
    *bytes = sizeof head + coded + padded;
    if (*bytes > room)
        return tw_fail(TW_ERR_ARG, "a span of %u values, %u of them kept, does not fit", covered, p->kept.count);
    memcpy(dst, head, sizeof head);
    if (p->kept.count) {
        tw_enc e = {.g = p->kept.value,
                    .out = decoded,
                    .scale = 1.0f,
                    .n = p->kept.count,
                    .dtype = TW_F32,
                    .dst = dst + sizeof head,
                    .noise = noise};
        k->encode[values->codec][decoded ? TW_V_RECON : TW_V_PLAIN](values, &e, &stat);
    }
    memset(dst + *bytes - padded, 0, padded);
    memcpy(dst + *bytes - padded, p->index, index);
    *e_sq = stat.e_sq;
    p->bad = stat.nonfinite;
    return TW_OK;
}

tw_status tw_span_get(const tw_spec *s, const uint8_t **src, const uint8_t *end, uint64_t left, tw_span *out) {
    uint32_t head[3];
    if ((uint64_t)(end - *src) < TW_SPAN_HEADER)
        return tw_fail(TW_ERR_CORRUPT, "a sparse payload ends inside a span's head");
    memcpy(head, *src, sizeof head);
    *out = (tw_span){.values = head[0], .kept = head[1], .index_bytes = head[2]};
    if (out->values == 0 || out->values > left || out->values > TW_SPAN_VALUES || out->kept > TW_SPAN_KEPT ||
        out->kept > out->values)
        return tw_fail(TW_ERR_CORRUPT, "a sparse payload has a span of %u values, %u of them kept, where %llu are left",
                       out->values, out->kept, (unsigned long long)left);
    uint64_t bytes = tw_span_bytes(s, out->kept, out->index_bytes);
    if (bytes > (uint64_t)(end - *src))
        return tw_fail(TW_ERR_CORRUPT, "a sparse payload ends inside a span");
    out->coded = *src + TW_SPAN_HEADER;
    out->index = *src + bytes - tw_round_up(out->index_bytes, 4);
    *src += bytes;
    return TW_OK;
}

tw_status tw_span_positions(const tw_kernels *k, const tw_span *s, tw_kept *kept) {
    kept->count = s->kept;
    return tw_index_decode(k->index, s->index, s->index_bytes, s->values, s->kept, kept->pos);
}

void tw_span_values(const tw_kernels *k, const tw_spec *values, const tw_span *s, tw_kept *kept) {
    const tw_noise none = {{0}, {0}}; /* values draw nothing that is shared */
    if (s->kept)
        k->decode_set[values->codec](values, TW_F32, s->coded, kept->value, s->kept, &none);
}
