/* SPDX-License-Identifier: BSD-3-Clause
 *
 * SRA: split, reduce at the owner, allgather; direct exchange. Hop 1: every rank encodes each owner's frames and sends
 * them to it. The owner sums the ranks in rank order (its own part raw), encodes the answer once. Hop 2: it sends those
 * same bytes to everybody and decodes them itself, so all ranks hold the same values. Two roundings for any P
 * (Scatter-Reduce-Allgather as in CGX, arXiv 2111.08617; residuals at both hops as in 1-bit SGD, Seide et al. 2014). */
#include "collectives/direct.h"

void tw_build_sra(tw_builder *b) {
    tw_direct s;
    if (tw_direct_begin(&s, b)) {
        b->p->hops = b->in->size > 1 ? 2 : 0;
        b->p->roundings = tw_direct_roundings(b->in, b->in->size > 1 ? 2 : 1);
        tw_direct_place_hop1(&s);
        tw_direct_place_hop2(&s, false);
        tw_direct_hop1(&s);
        tw_direct_answers(&s);
        tw_direct_hop2(&s);
    }
    tw_direct_finish(&s, false);
}
