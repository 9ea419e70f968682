/* SPDX-License-Identifier: BSD-3-Clause
 * mpirun -n 4 ./first: averages the gradients of three layers at one bit a value; nothing is lost, replicas agree */
#include <stdio.h>
#include <stdlib.h>
#include <thinwire/mpi.h>
#define OK(call) ((call) < 0 ? (fprintf(stderr, "%s\n", tw_last_error()), MPI_Abort(MPI_COMM_WORLD, 1)) : 0)

int main(int argc, char **argv) {
    tw_layer layer[] = {TW_LAYER("embed", 1 << 20), TW_LAYER("hidden", 1 << 18), TW_LAYER("hidden.bias", 512)};
    static float grad[3][1 << 20];
    tw_report rep = TW_REPORT_INIT;
    tw_comm *comm;
    tw_reducer *red;
    MPI_Init(&argc, &argv);
    OK(tw_comm_create_mpi(NULL, MPI_COMM_WORLD, &comm)); /* NULL: the default context */
    OK(tw_reducer_create(comm, layer, 3, "*.bias=none; *=onebit+ef", NULL, &red));
    for (uint64_t step = 0; step < 100; step++) {
        OK(tw_reducer_begin(red, step, NULL));
        for (unsigned l = 3; l-- > 0;) { /* backward: last layer first */
            for (uint64_t i = 0; i < layer[l].count; i++)
                grad[l][i] = (float)rand() / (float)RAND_MAX - 0.5f;
            OK(tw_reducer_push(red, l, grad[l], grad[l])); /* in place, returns at once */
        }
        OK(tw_reducer_end(red, &rep)); /* grad[] now holds the averages */
    }
    if (tw_comm_rank(comm) == 0)
        printf("%.1fx fewer bytes; sum of averages is within %g of exact\n",
               (double)rep.dense_bytes / (double)rep.wire_bytes, rep.error_bound);
    return tw_reducer_destroy(red) || tw_comm_destroy(comm) || MPI_Finalize();
}
