/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Reduce-scatter: the first hop of SRA. Every rank encodes each owner's frames and sends them to it; the owner sums the
 * ranks in rank order (its own part raw). The sum stays at home, unquantised in the layer's dtype, until all is known to
 * be good: one rounding for any P. Where residuals or verdicts hang on it (`told`), the owner's answer goes to all as in
 * SRA, but says only which tiles came out as NaN, and the bounds. */
#include "collectives/direct.h"

void tw_build_reduce_scatter(tw_builder *b) {
    tw_direct s;
    bool told = b->in->told;
    if (tw_direct_begin(&s, b)) {
        b->p->hops = b->in->size > 1 ? 1 + told : 0;
        b->p->roundings = tw_direct_roundings(b->in, 1);
        tw_direct_place_hop1(&s);
        tw_direct_place_hop2(&s, !told);
        tw_direct_place_home(&s);
        tw_direct_hop1(&s);
        if (told)
            tw_direct_hop2(&s);
    }
    tw_direct_finish(&s, !told);
}
