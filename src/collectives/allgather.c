/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Allgather: the second hop of SRA. Every rank encodes its frames once, sends those bytes to everybody and decodes them
 * itself, so all ranks hold the same values. */
#include "collectives/direct.h"

void tw_build_allgather(tw_builder *b) {
    tw_direct s;
    if (tw_direct_begin(&s, b)) {
        b->p->hops = b->in->size > 1 ? 1 : 0;
        b->p->roundings = tw_direct_roundings(b->in, 1);
        tw_direct_place_hop2(&s, false);
        tw_direct_make(&s, TW_K_PUBLISH);
        tw_direct_answers(&s);
        tw_direct_hop2(&s);
    }
    tw_direct_finish(&s, false);
}
