/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the files of transport `sim` share: sim.c (creation, pumps, clock), sim_net.c (frames), sim_sum.c (native sums),
 * sim_mem.c (pools, event heap). */
#ifndef TW_SIM_IMPL_H
#define TW_SIM_IMPL_H

#include "transports/sim.h"

typedef struct tw_sim_stream tw_sim_stream;
typedef struct tw_sim_end tw_sim_end;

typedef struct tw_sim_frame {
    struct tw_sim_frame *next;
    tw_sim_stream *stream;
    const void *buf;         /* the sender's, until the frame has left */
    void *payload;           /* the copy that flies */
    size_t len, got;         /* as sent; as it arrives (truncation) */
    uint64_t cookie, number; /* number: counts the source's frames; selects its random numbers */
    double ready, serial;    /* not to start before; time on a port */
    uint32_t epoch;          /* of the sender at posting */
    uint8_t refs;            /* 1 for the sender's port, 1 for the way */
    bool cancelled, corrupt;
} tw_sim_frame;

typedef struct tw_sim_recv {
    struct tw_sim_recv *next;
    void *buf;
    size_t room;
    uint64_t cookie;
} tw_sim_recv;

/* One (source, destination, tag), while anything is under way in it. */
struct tw_sim_stream {
    tw_sim_stream *next;               /* in the hash bucket, or in the pool */
    tw_sim_stream *dst_next, **dst_at; /* in the destination's list */
    uint32_t src, dst, tag;
    uint32_t queued, flying; /* frames: not started; started, not lost, not arrived */
    double last_head;        /* no later frame may overtake */
    tw_sim_recv *recv, **recv_tail;
    tw_sim_frame *msg, **msg_tail; /* arrived before their receive */
};

typedef enum tw_sim_life { TW_SIM_CLOSED, TW_SIM_ALIVE, TW_SIM_DEAD } tw_sim_life;

struct tw_sim_end {
    tw_sim *sim;
    int rank;
    tw_sim_life life;
    bool detected;                             /* the peers know that it is closed or dead */
    bool taken;                                /* tw_sim_endpoint gave it out */
    bool pumping, queued, skipped, wake_armed; /* skipped: its turn came while it was being pumped */
    uint32_t epoch;                            /* grows when all transfers are dropped */
    int (*pump)(void *arg);
    void *pump_arg;
    double busy_until, out_free, in_free;
    tw_sim_frame *queue, **queue_tail, *sending;
    uint64_t posted, sent_frames, sent_bytes, sums;
    tw_sim_stream *streams; /* that end here */
    tw_done *done;          /* ring */
    uint32_t done_cap, done_first, done_count;
    uint32_t open; /* posted and not polled: the ring has room for all of them */
};

typedef enum tw_sim_event_kind {
    TW_SIM_LEAVE,
    TW_SIM_HEAD,
    TW_SIM_ARRIVE,
    TW_SIM_SUM,
    TW_SIM_DETECT,
    TW_SIM_WAKE
} tw_sim_event_kind;

typedef struct tw_sim_event {
    double time;
    uint64_t order; /* of pushing: breaks ties */
    void *what;     /* frame, end or sum, by kind */
    uint32_t kind, epoch;
} tw_sim_event;

typedef struct tw_sim_sum {
    struct tw_sim_sum *next;
    uint64_t index, count;
    int arrived;
    double ready; /* the last call, and its rank's computing, is over */
    bool broken;  /* somebody withdrew */
    tw_status status;
    struct {
        float *buf;
        uint64_t cookie;
        bool in;
    } part[];
} tw_sim_sum;

typedef struct tw_sim_chunk {
    struct tw_sim_chunk *next;
} tw_sim_chunk;

#define TW_SIM_CLASSES 58 /* payload blocks of 2^6 .. 2^63 bytes */

struct tw_sim {
    tw_ctx *ctx;
    tw_sim_config cfg;
    tw_transport_ops ops;
    tw_sim_end *end;
    int open_ends, last_idle;
    double now, step; /* step: of the clock when nothing is left that could happen */
    char error[TW_SENTENCE];

    int32_t *run; /* ring of ranks to be pumped */
    uint32_t run_first, run_count;

    tw_sim_event *heap;
    uint64_t heap_cap, heap_count, pushed;
    uint64_t frames, sums_open, detections; /* alive: each may have an event */

    tw_sim_stream **bucket;
    uint64_t buckets, streams;

    tw_sim_sum *sums, *free_sums;
    bool sums_broken;  /* a rank is known to be gone */
    double sums_until; /* the wire is taken by earlier native sums until then */

    tw_sim_chunk *chunks, *payloads; /* all blocks, to be freed */
    tw_sim_frame *free_frames;
    tw_sim_recv *free_recvs;
    tw_sim_stream *free_streams;
    struct block *free_payloads[TW_SIM_CLASSES];
};

/* sim_mem.c. take_*: NULL and a sentence when the allocator refuses */
tw_sim_frame *tw_sim_take_frame(tw_sim *s);
tw_sim_recv *tw_sim_take_recv(tw_sim *s);
tw_sim_stream *tw_sim_take_stream(tw_sim *s);
void *tw_sim_take_payload(tw_sim *s, size_t bytes);
void tw_sim_give_payload(tw_sim *s, void *p, size_t bytes);
void tw_sim_free_pools(tw_sim *s);
bool tw_sim_reserve_events(tw_sim *s, uint64_t more); /* room for what lives now and `more` frames or sums */
void tw_sim_push(tw_sim *s, double time, tw_sim_event_kind kind, void *what, uint32_t epoch);
tw_sim_event tw_sim_pop(tw_sim *s);
bool tw_sim_reserve_done(tw_sim_end *e); /* room for one more open transfer, and counts it */

/* sim.c */
void tw_sim_complete(tw_sim_end *e, uint64_t cookie, tw_status status, size_t len);
void tw_sim_touch(tw_sim_end *e); /* e was used: it may have something to do when the user's code is done */
tw_status tw_sim_error(tw_sim *s, tw_status status, const char *format, ...) TW_PRINTF(3, 4);
void tw_sim_gone(tw_sim_end *e, tw_sim_life how);

/* sim_net.c */
tw_status tw_sim_post(void *t, const tw_xfer *x);
void tw_sim_net_event(tw_sim *s, const tw_sim_event *ev);
void tw_sim_net_drop(tw_sim_end *e, bool for_good); /* forgets e's transfers; for_good: and what waits for it */
void tw_sim_net_detect(tw_sim_end *e);              /* tells all who wait for e */

/* sim_sum.c */
tw_status tw_sim_native_sum(void *t, float *buf, uint64_t count, uint64_t cookie);
void tw_sim_sum_event(tw_sim *s, tw_sim_sum *op);
void tw_sim_sum_drop(tw_sim_end *e);
void tw_sim_sum_break(tw_sim *s);   /* no sum can complete any more, and this is known */
void tw_sim_sum_restart(tw_sim *s); /* all ends are closed: those taken next count their calls together again */
void tw_sim_sum_free(tw_sim *s);

static inline double tw_sim_later(double a, double b) {
    return a > b ? a : b;
}

#endif
