/* SPDX-License-Identifier: BSD-3-Clause */
#include "mpi_unit.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

int mpi_rank, mpi_size;
static int failures;

void mpi_check(int good, const char *what, const char *file, int line) {
    if (!good) {
        failures++;
        printf("rank %d: %s:%d: %s (%s)\n", mpi_rank, file, line, what, tw_last_error());
        fflush(stdout);
    }
}

void mpi_check_ok(tw_status s, const char *what, const char *file, int line) {
    if (s < 0)
        printf("rank %d: %s\n", mpi_rank, tw_status_name(s));
    mpi_check(s >= 0, what, file, line);
}

int mpi_run(const mpi_test *tests, int n) {
    int passed = 0, failed = 0;
    for (int i = 0; i < n; i++) {
        int all = 0;
        failures = 0;
        MPI_Barrier(MPI_COMM_WORLD);
        tests[i].run();
        MPI_Allreduce(&failures, &all, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
        passed += all == 0;
        failed += all != 0;
        if (mpi_rank == 0)
            printf("%s %s\n", all ? "FAILED" : "passed", tests[i].name);
        fflush(stdout);
    }
    if (mpi_rank == 0)
        printf("%d passed, %d failed\n", passed, failed);
    fflush(stdout);
    return failed != 0;
}

float mpi_input(int rank, uint64_t step, uint64_t i) {
    uint64_t z = (i + 1) * UINT64_C(0x9e3779b97f4a7c15) + step * 1000003 + (uint64_t)rank * 7919;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    return (float)((double)(z >> 11) * 0x1p-52 - 1.0) * (i % 3 ? 1.0f : 0.01f);
}

double mpi_average(uint64_t step, uint64_t i) {
    double sum = 0;
    for (int r = 0; r < mpi_size; r++)
        sum += mpi_input(r, step, i);
    return sum / mpi_size;
}

uint64_t mpi_hash(const void *p, size_t bytes) {
    const unsigned char *b = p;
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < bytes; i++)
        h = (h ^ b[i]) * UINT64_C(0x100000001b3);
    return h;
}

int mpi_same(uint64_t hash) {
    uint64_t low, high;
    MPI_Allreduce(&hash, &low, 1, MPI_UINT64_T, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(&hash, &high, 1, MPI_UINT64_T, MPI_MAX, MPI_COMM_WORLD);
    return low == high;
}

double mpi_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
