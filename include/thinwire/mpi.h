/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Thinwire over MPI (libthinwire-mpi). Open MPI 4.1 and MPICH 4.0 are tested. */
#ifndef THINWIRE_MPI_H
#define THINWIRE_MPI_H

#include <mpi.h>
#include <thinwire/thinwire.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Collective over comm, which is duplicated and stays the caller's. NULL ctx: the default one. MPI must be initialised.
 * POLL works with what MPI_Init gives (SERIALIZED if several threads take turns); THREAD needs MPI_THREAD_MULTIPLE. Destroy
 * it before MPI_Finalize; if MPI is finalised first, later calls fail with a sentence and destroy frees what it can.
 * All ranks of comm must call it: it begins with MPI_Comm_dup, which has no deadline, so a rank that never comes hangs the
 * others, as in any collective of MPI. From its return on, waits have deadlines.
 * A rank that fails, out == NULL included, tells the others, and all fail. */
TW_API tw_status tw_comm_create_mpi(tw_ctx *ctx, MPI_Comm comm, tw_comm **out);

#ifdef __cplusplus
}
#endif
#endif
