/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reduce-scatter: the first hop of SRA. Every rank encodes each owner's frames and sends them to it; the owner sums the
 * ranks in rank order (its own part raw). The sum stays at home, unquantised in the layer's dtype, until all own frames
 * are there: one rounding for any P. */
#include "collectives/direct.h"

void tw_build_reduce_scatter(tw_builder *b) {
    tw_direct s;
    if (tw_direct_begin(&s, b)) {
        b->p->hops = b->in->size > 1 ? 1 : 0;
        b->p->roundings = tw_direct_roundings(b->in, 1);
        tw_direct_place_hop1(&s);
        tw_direct_place_hop2(&s, true);
        tw_direct_hop1(&s);
    }
    tw_direct_finish(&s, true);
}
