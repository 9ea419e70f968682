/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `mpi`, inside: what mpi.c and mpi_match.c say to each other. */
#ifndef TW_MPI_IMPL_H
#define TW_MPI_IMPL_H

#include "core/core.h"

#include <pthread.h>
#include <thinwire/mpi.h>

#define ALARM_TAG     0 /* the communicator layer uses it only to tell of failures */
#define FIRST_SLOTS   256u
#define CLOSE_QUIET_S 1e-4 /* close() and MPI_Finalize look so long for what peers sent in vain */
#define WINDOW        256  /* requests that one poll looks at */

typedef enum kind { SEND, RECEIVE, SUM } kind;

typedef struct slot {
    uint64_t cookie;
    size_t room; /* of a receive; bytes of a native sum */
    kind kind;
    bool alarm;
    tw_status status; /* SUM: of the chunks that are done already */
    uint64_t sum;     /* SUM: its number */
} slot;

/* A receive that no message was found for yet, and a message that no receive was posted for yet: see mpi_match.c. */
typedef struct waiting {
    uint64_t cookie;
    size_t room;
    void *buf;
    int peer, tag;
} waiting;

typedef struct early {
    MPI_Message message;
    int peer, tag, bytes;
} early;

typedef struct list { /* of waiting or of early, in order */
    void *item;
    size_t n, room;
} list;

typedef struct transport {
    struct transport *next; /* of those that MPI_Finalize must find */
    pthread_mutex_t lock;   /* the delete callback runs in another thread than THREAD progress */
    tw_ctx *ctx, *own_ctx;
    double timeout_s;
    MPI_Comm comm;
    int rank, size;
    uint32_t tag_most;
    bool finalized, broken;        /* broken: a collective is stuck in comm */
    bool alarm;                    /* something was said under ALARM_TAG */
    uint64_t pending, room, start; /* requests; where the next poll looks */
    MPI_Request *request;
    slot *slot;
    bool matches, too_long; /* too_long: refused is to be reported */
    tw_done refused;
    list waiting, early;
    uint64_t sums;          /* native sums so far */
    int saved, saved_first; /* completions that did not fit into the last poll */
    tw_done done[WINDOW];
    int index[WINDOW];
    MPI_Status status[WINDOW];
    char error[TW_SENTENCE];
} transport;

/* ---- mpi.c ---- */
void *tw_mpi_take(tw_ctx *c, uint64_t bytes); /* zeroed; NULL and a sentence */
void tw_mpi_give(tw_ctx *c, void *p);
tw_status tw_mpi_say(transport *t, tw_status s, const char *format, ...) TW_PRINTF(3, 4);
tw_status tw_mpi_say_code(transport *t, const char *call, int code);
tw_status tw_mpi_reserve(transport *t, uint64_t more); /* room for so many more requests */
/* Receives a message and forgets it; after `limit` seconds it is left to MPI. */
bool tw_mpi_swallow(MPI_Message *message, int bytes, double limit);

/* ---- mpi_match.c ---- */
bool tw_mpi_must_match(MPI_Comm comm); /* whether receives must wait for their messages; collective */
tw_status tw_mpi_match_receive(transport *t, const waiting *w);
tw_status tw_mpi_match_all(transport *t); /* all messages that are there */

#endif
