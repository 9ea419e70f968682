/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `sim`: all ranks in one thread, a virtual clock, a modelled network, every fault from one seed. What a
 * caller outside the library needs is in <thinwire/experimental.h>; here is what the communicator layer needs.
 *
 * The model. A rank has one port each way, `bandwidth` wide, first come first served. A frame starts when it was
 * posted, the rank's computing (charge) is over and the port is free; its first byte is at the peer after latency +
 * jitter (+ up to 10 latencies when it is held back); it then takes its place at the peer's port, so an undisturbed
 * frame takes bytes/bandwidth + latency. A send completes, and its buffer is read, when the last byte leaves; a receive
 * when the last byte arrives. Order holds within equal (source, destination, tag) and nowhere else. A lost frame
 * occupies the sender's port and arrives nowhere. A native sum takes 2(P-1)/P bytes/bandwidth + 2 log2 P latencies from
 * the last call, one sum after another, beside the ports. Capabilities: ABANDON, and DETECTS if the config says so (a
 * closed or dead rank is seen a latency later, after all that it had sent). */
#ifndef TW_SIM_H
#define TW_SIM_H

#include "core/core.h"

/* The endpoint of a rank; closed through (*ops)->close, after which it can be taken anew. Allgather is unsupported: one
 * thread cannot block in it for all ranks; the caller exchanges by itself. */
tw_status tw_sim_endpoint(tw_sim *s, int rank, const tw_transport_ops **ops, void **t);
/* pump does what can be done now for this rank and returns > 0 if that was anything. It is called when something
 * completed for the rank, when its endpoint was used from outside a pump, and before the clock moves without an event;
 * never from inside itself. NULL detaches; close does too. */
void tw_sim_attach(tw_sim *s, int rank, int (*pump)(void *arg), void *arg);
int tw_sim_ranks(const tw_sim *s);
tw_ctx *tw_sim_ctx(const tw_sim *s);

#endif
