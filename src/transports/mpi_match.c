/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which message goes to which receive, where MPI must not be asked. Open MPI 4.1's shared memory (vader with CMA, the
 * default) writes a message past the end of a receive that is too short: ranks that post different ops would corrupt
 * each other's heaps. So where ranks share a node, no receive is handed to Open MPI before the message that it will
 * get, and its length, are known. */
#include "transports/mpi_impl.h"

/* Room for one more; its items are in order. */
static tw_status extend(transport *t, list *l, size_t size) {
    size_t room = l->room == 0 ? FIRST_SLOTS : 2 * l->room;
    if (l->n < l->room)
        return TW_OK;
    void *more = tw_mpi_take(t->ctx, (uint64_t)room * size);
    if (more == NULL)
        return TW_ERR_NOMEM;
    if (l->n > 0)
        memcpy(more, l->item, l->n * size);
    tw_mpi_give(t->ctx, l->item);
    l->item = more;
    l->room = room;
    return TW_OK;
}

static void take_out(list *l, size_t i, size_t size) {
    char *at = (char *)l->item + i * size;
    l->n--;
    memmove(at, at + size, (l->n - i) * size);
}

/* The message goes where w says, or is refused. */
static tw_status start_receive(transport *t, const waiting *w, early *e) {
    if ((size_t)e->bytes > w->room) {
        tw_mpi_swallow(&e->message, e->bytes, CLOSE_QUIET_S);
        if (!t->too_long) /* the first one ends all work: the others need no word */
            t->refused = (tw_done){w->cookie, TW_ERR_CORRUPT, (size_t)e->bytes};
        t->too_long = true;
        tw_mpi_say(t, TW_ERR_CORRUPT, "rank %d received more than the %zu bytes that it had room for", t->rank,
                   w->room);
        return TW_OK;
    }
    int code = MPI_Imrecv(w->buf, (int)w->room, MPI_BYTE, &e->message, &t->request[t->pending]);
    if (code != MPI_SUCCESS)
        return tw_mpi_say_code(t, "MPI_Imrecv", code);
    t->slot[t->pending++] = (slot){w->cookie, w->room, RECEIVE, e->tag == ALARM_TAG, TW_OK, 0};
    return TW_OK;
}

tw_status tw_mpi_match_receive(transport *t, const waiting *w) {
    for (size_t i = 0; i < t->early.n; i++) {
        early e = ((early *)t->early.item)[i];
        if (e.peer == w->peer && e.tag == w->tag) {
            take_out(&t->early, i, sizeof e);
            return start_receive(t, w, &e);
        }
    }
    tw_status s = extend(t, &t->waiting, sizeof *w);
    if (s == TW_OK)
        ((waiting *)t->waiting.item)[t->waiting.n++] = *w;
    return s;
}

static tw_status match_message(transport *t, early *e) {
    for (size_t i = 0; i < t->waiting.n; i++) {
        waiting w = ((waiting *)t->waiting.item)[i];
        if (w.peer == e->peer && w.tag == e->tag) {
            take_out(&t->waiting, i, sizeof w);
            return start_receive(t, &w, e);
        }
    }
    tw_status s = extend(t, &t->early, sizeof *e);
    if (s == TW_OK)
        ((early *)t->early.item)[t->early.n++] = *e;
    return s;
}

tw_status tw_mpi_match_all(transport *t) {
    tw_status s = TW_OK;
    while (s == TW_OK && !t->too_long) {
        early e;
        MPI_Status status;
        int found = 0, code = MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, t->comm, &found, &e.message, &status);
        if (code != MPI_SUCCESS)
            return tw_mpi_say_code(t, "MPI_Improbe", code);
        if (!found)
            return TW_OK;
        MPI_Get_count(&status, MPI_BYTE, &e.bytes);
        e.peer = status.MPI_SOURCE;
        e.tag = status.MPI_TAG;
        s = tw_mpi_reserve(t, 1);
        if (s == TW_OK)
            s = match_message(t, &e);
    }
    return s;
}

bool tw_mpi_must_match(MPI_Comm comm) {
#ifdef OPEN_MPI
    MPI_Comm node;
    int size = 2;
    if (MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node) != MPI_SUCCESS)
        return true;
    MPI_Comm_size(node, &size);
    MPI_Comm_free(&node);
    return size > 1;
#else
    (void)comm;
    return false;
#endif
}
