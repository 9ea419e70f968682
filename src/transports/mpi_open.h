/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `mpi`: what tw_comm_create_mpi is made of; for tests that drive the table itself. */
#ifndef TW_MPI_OPEN_H
#define TW_MPI_OPEN_H

#include "core/core.h"

/* comm is the address of an MPI_Comm (this header must do without mpi.h). Collective: fails on all ranks or on none. */
tw_status tw_mpi_open(tw_ctx *ctx, const void *comm, const tw_transport_ops **ops, void **transport, int *rank,
                      int *size);

#endif
