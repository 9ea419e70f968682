/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Below communicators over threads: writes down what is sent and what is given to native sums, for wire_format.py. */
#ifndef WIRE_TAP_H
#define WIRE_TAP_H

#include "unit.h"
#include "transports/local.h"

#include <pthread.h>
#include <stdbool.h>

enum { WIRE_RANKS = 3, WIRE_RECORDS = 8192 };

typedef struct wire_record {
    int from, to; /* to -1: given to a sum */
    uint32_t tag;
    size_t len;
    uint8_t *bytes;
} wire_record;

typedef struct wire_log {
    pthread_mutex_t lock;
    unsigned n;
    wire_record record[WIRE_RECORDS];
} wire_log;

typedef struct wire_tap {
    const tw_transport_ops *ops;
    void *t;
    wire_log *log;
    int rank;
    bool broken; /* the next send, or sum, fails */
} wire_tap;

/* Taps of all ranks over one `local`, and its log. */
void wire_open(wire_log *log, wire_tap tap[WIRE_RANKS]);
/* The transport of a tap; sums: it has native ones. */
tw_transport_ops wire_ops(const wire_tap *tap, bool sums);
/* "- \n" for none. */
void wire_put_hex(FILE *f, const uint8_t *p, size_t n);
void wire_put_log(FILE *f, const wire_log *log);
/* Lets `dump` write a file, and the independent reader recompute it. TEST_DUMP=FILE keeps the last one. */
void wire_read_again(void (*dump)(FILE *f, const void *what), const void *what);
/* Flips a bit of every record in turn that `stride` says: the reader must see each. */
void wire_must_fail(void (*dump)(FILE *f, const void *what), const void *what, wire_log *log, unsigned stride);

#endif
