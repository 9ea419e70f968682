/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the machine offers this process. Looked up once; the only user of hwloc. */
#ifndef TW_TOPO_H
#define TW_TOPO_H

#include "core/core.h"

typedef struct tw_topo {
    uint32_t cores; /* physical cores that this process may run on; at least 1. The fall-back counts hardware threads */
    uint64_t l2_bytes; /* of one core; 0: not known */
    char source[96];   /* which source spoke */
} tw_topo;
const tw_topo *tw_topo_get(void);

#endif
