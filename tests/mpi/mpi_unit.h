/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the MPI test programs share: agreement on failures, inputs that every rank can compute, an exact average. */
#ifndef MPI_UNIT_H
#define MPI_UNIT_H

#include <mpi.h>
#include <thinwire/mpi.h>

extern int mpi_rank, mpi_size;

/* Counts a failure on any rank as one of all, prints where; use after every step that may differ between ranks. */
#define MPI_CHECK(condition) mpi_check((condition) != 0, #condition, __FILE__, __LINE__)
#define MPI_OK(call)         mpi_check_ok((call), #call, __FILE__, __LINE__)
void mpi_check(int good, const char *what, const char *file, int line);
void mpi_check_ok(tw_status s, const char *what, const char *file, int line);
/* Runs the tests on all ranks, prints "N passed, N failed" on rank 0, returns the exit status. */
typedef struct mpi_test {
    const char *name;
    void (*run)(void);
} mpi_test;
int mpi_run(const mpi_test *tests, int n);

float mpi_input(int rank, uint64_t step, uint64_t i); /* the same on every rank that asks */
double mpi_average(uint64_t step, uint64_t i);
uint64_t mpi_hash(const void *p, size_t bytes);
int mpi_same(uint64_t hash); /* equal on all ranks? Collective */
double mpi_seconds(void);

#endif
