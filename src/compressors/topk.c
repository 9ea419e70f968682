/* SPDX-License-Identifier: BSD-3-Clause
 *
 * topk: the values of largest magnitude and where they stand; the rest is left out (and, with error feedback, kept for
 * later: Stich et al. 2018, Lin et al. 2018). */
#include "compressors/sparse.h"

/* A chosen threshold may keep everything; groups keep one value more each by rounding. */
static uint64_t most(const tw_spec *s, uint64_t n, tw_dtype t) {
    (void)t;
    if (n == 0)
        return 0;
    uint64_t k = tw_sparse_wanted(s, n);
    if (s->select == TW_SELECT_GROUP)
        k += n / s->group + 1;
    if (s->select == TW_SELECT_THRESHOLD || k > n)
        k = n;
    return tw_spans_most(s, n, k, n / TW_SPAN_VALUES + 2);
}

/* Reads the heads of the spans (sparse.h), each of which says where the next one is. */
static uint64_t sum_spans(const tw_spec *s, const uint8_t *p, uint64_t bytes, uint32_t i, const char **name) {
    tw_spec v = tw_spec_values(s);
    const tw_codec *c = tw_codec_get(v.codec);
    uint64_t sum = 0;
    for (uint64_t at = 0; bytes - at >= TW_SPAN_HEADER;) {
        uint32_t head[3];
        memcpy(head, p + at, sizeof head);
        uint64_t coded = head[1] <= TW_SPAN_KEPT ? c->bytes(&v, head[1], TW_F32) : bytes, one = coded;
        uint64_t next = TW_SPAN_HEADER + coded + tw_round_up(head[2], 4);
        if (next > bytes - at)
            break;
        if (i == 0)
            one = head[2];
        else if (c->part && head[1])
            *name = c->part(&v, head[1], TW_F32, p + at + TW_SPAN_HEADER, coded, i - 1, &one);
        sum += *name && head[1] ? one : 0;
        at += next;
    }
    return sum;
}

static const char *part(const tw_spec *s, uint64_t count, tw_dtype t, const void *payload, uint64_t bytes, uint32_t i,
                        uint64_t *part) {
    const tw_codec *values = tw_codec_get(tw_spec_values(s).codec);
    const char *name = i == 0 ? "indices" : i == 1 ? "values" : NULL;
    (void)count;
    (void)t;
    *part = name || values->part ? sum_spans(s, payload, bytes, i, &name) : 0;
    return name;
}

static uint32_t traits(const tw_spec *s) {
    (void)s;
    return TW_TRAIT_SPARSE;
}

const tw_codec tw_codec_topk = {
    .name = "topk",
    .wire_id = TW_CODEC_TOPK,
    .wire_version = 1,
    .traits = traits,
    .most = most,
    .part = part,
    .roundings = tw_rounds_once,
};
