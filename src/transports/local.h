/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `local`: ranks are threads of one process. Rendezvous: whoever posts second copies from the sender's buffer
 * to the receiver's, so there is no copy in between and no allocation per transfer.
 * Capabilities: ABANDON and DETECTS (a closed endpoint is a dead peer). */
#ifndef TW_LOCAL_H
#define TW_LOCAL_H

#include "core/core.h"

/* Fills endpoints[0..size-1]; each is used by one thread at a time and closed through (*ops)->close. What they share is
 * freed with the last of them, from a context that the caller keeps until then. */
tw_status tw_local_create(tw_ctx *c, int size, const tw_transport_ops **ops, void *endpoints[]);

#endif
