/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Transport `sim`: pools and the event heap. Room is made when a transfer is posted, so that events cannot fail. */
#include "transports/sim_impl.h"

#define CHUNK_ITEMS 512u

/* Makes CHUNK_ITEMS items of `bytes` and hands them to give(), linked by their first member. */
static void *grow(tw_sim *s, size_t bytes) {
    uint64_t head = 64;
    tw_sim_chunk *c = tw_alloc(s->ctx, head + (uint64_t)bytes * CHUNK_ITEMS);
    if (c == NULL)
        return NULL;
    c->next = s->chunks;
    s->chunks = c;
    char *first = (char *)c + head;
    for (uint32_t i = 0; i + 1 < CHUNK_ITEMS; i++) {
        void *next = first + (i + 1) * bytes;
        memcpy(first + i * bytes, &next, sizeof next);
    }
    return first;
}

tw_sim_frame *tw_sim_take_frame(tw_sim *s) {
    if (s->free_frames == NULL)
        s->free_frames = grow(s, sizeof(tw_sim_frame));
    tw_sim_frame *f = s->free_frames;
    if (f != NULL)
        s->free_frames = f->next;
    return f;
}

tw_sim_recv *tw_sim_take_recv(tw_sim *s) {
    if (s->free_recvs == NULL)
        s->free_recvs = grow(s, sizeof(tw_sim_recv));
    tw_sim_recv *r = s->free_recvs;
    if (r != NULL)
        s->free_recvs = r->next;
    return r;
}

tw_sim_stream *tw_sim_take_stream(tw_sim *s) {
    if (s->free_streams == NULL)
        s->free_streams = grow(s, sizeof(tw_sim_stream));
    tw_sim_stream *m = s->free_streams;
    if (m != NULL)
        s->free_streams = m->next;
    return m;
}

static uint32_t payload_class(size_t bytes) {
    uint32_t k = 0;
    while (((size_t)64 << k) < bytes)
        k++;
    return k;
}

/* A block: 64 bytes of header, then the payload. All blocks are in one list, so that the sim can free those in flight.
 */
typedef struct block {
    tw_sim_chunk all;
    struct block *next_free;
} block;
#define BLOCK_HEAD 64u
_Static_assert(sizeof(block) <= BLOCK_HEAD, "the header has room");

void *tw_sim_take_payload(tw_sim *s, size_t bytes) {
    uint32_t k = payload_class(bytes);
    block *b = s->free_payloads[k];
    if (b != NULL) {
        s->free_payloads[k] = b->next_free;
    } else {
        b = tw_alloc(s->ctx, BLOCK_HEAD + ((uint64_t)64 << k));
        if (b == NULL)
            return NULL;
        b->all.next = s->payloads;
        s->payloads = &b->all;
    }
    return (char *)b + BLOCK_HEAD;
}

void tw_sim_give_payload(tw_sim *s, void *p, size_t bytes) {
    if (p == NULL)
        return;
    block *b = (block *)((char *)p - BLOCK_HEAD);
    uint32_t k = payload_class(bytes);
    b->next_free = s->free_payloads[k];
    s->free_payloads[k] = b;
}

static void free_list(tw_sim *s, tw_sim_chunk *c) {
    while (c != NULL) {
        tw_sim_chunk *next = c->next;
        tw_free(s->ctx, c);
        c = next;
    }
}

void tw_sim_free_pools(tw_sim *s) {
    free_list(s, s->payloads);
    free_list(s, s->chunks);
    tw_free(s->ctx, s->heap);
    tw_free(s->ctx, s->bucket);
}

/* ---- events: a binary heap by (time, order) ---- */

bool tw_sim_reserve_events(tw_sim *s, uint64_t more) {
    /* a frame is either on its way or at the peer's port; a rank has a departure and a wake-up pending */
    uint64_t need = s->frames + s->sums_open + s->detections + more + 2 * (uint64_t)s->cfg.ranks;
    if (need <= s->heap_cap)
        return true;
    uint64_t cap = s->heap_cap == 0 ? 256 : 2 * s->heap_cap;
    while (cap < need)
        cap *= 2;
    tw_sim_event *heap = tw_alloc(s->ctx, cap * sizeof *heap);
    if (heap == NULL)
        return false;
    if (s->heap_count > 0)
        memcpy(heap, s->heap, s->heap_count * sizeof *heap);
    tw_free(s->ctx, s->heap);
    s->heap = heap;
    s->heap_cap = cap;
    return true;
}

static bool before(const tw_sim_event *a, const tw_sim_event *b) {
    return a->time < b->time || (a->time == b->time && a->order < b->order);
}

void tw_sim_push(tw_sim *s, double time, tw_sim_event_kind kind, void *what, uint32_t epoch) {
    tw_sim_event ev = {time, s->pushed++, what, kind, epoch};
    uint64_t i = s->heap_count++;
    while (i > 0 && before(&ev, &s->heap[(i - 1) / 2])) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = ev;
}

tw_sim_event tw_sim_pop(tw_sim *s) {
    tw_sim_event top = s->heap[0], last = s->heap[--s->heap_count];
    uint64_t i = 0, n = s->heap_count;
    for (;;) {
        uint64_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!before(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

/* ---- completions ---- */

bool tw_sim_reserve_done(tw_sim_end *e) {
    if (e->open + 1 > e->done_cap) {
        uint32_t cap = e->done_cap == 0 ? 64 : 2 * e->done_cap;
        tw_done *ring = tw_alloc(e->sim->ctx, (uint64_t)cap * sizeof *ring);
        if (ring == NULL)
            return false;
        for (uint32_t i = 0; i < e->done_count; i++)
            ring[i] = e->done[(e->done_first + i) % e->done_cap];
        tw_free(e->sim->ctx, e->done);
        e->done = ring;
        e->done_cap = cap;
        e->done_first = 0;
    }
    e->open++;
    return true;
}
