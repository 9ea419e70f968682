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
    .roundings = tw_rounds_once,
};
