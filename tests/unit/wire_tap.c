/* SPDX-License-Identifier: BSD-3-Clause */
#include "wire_tap.h"

static void write_down(wire_tap *p, int to, uint32_t tag, const void *bytes, size_t len) {
    wire_log *log = p->log;
    pthread_mutex_lock(&log->lock);
    uint8_t *copy = malloc(len + 1);
    if (copy && log->n < WIRE_RECORDS) {
        memcpy(copy, bytes, len);
        log->record[log->n++] = (wire_record){p->rank, to, tag, len, copy};
    }
    pthread_mutex_unlock(&log->lock);
}

static tw_status tap_allgather(void *t, const void *mine, void *all, size_t bytes) {
    wire_tap *p = t;
    return p->ops->oob_allgather(p->t, mine, all, bytes);
}

static tw_status tap_post(void *t, const tw_xfer *x) {
    wire_tap *p = t;
    if (x->is_send && p->broken && x->tag != 0)
        return TW_ERR_TRANSPORT;
    if (x->is_send)
        write_down(p, x->peer, x->tag, x->buf, x->len);
    return p->ops->post(p->t, x);
}

static tw_status tap_sum(void *t, float *buf, uint64_t count, uint64_t cookie) {
    wire_tap *p = t;
    if (p->broken)
        return TW_ERR_TRANSPORT;
    write_down(p, -1, 0, buf, count * sizeof *buf);
    return p->ops->native_sum(p->t, buf, count, cookie);
}

static int tap_poll(void *t, tw_done *done, int cap) {
    wire_tap *p = t;
    return p->ops->poll(p->t, done, cap);
}

static void tap_close(void *t) {
    wire_tap *p = t;
    p->ops->close(p->t);
}

static void tap_abandon(void *t) {
    wire_tap *p = t;
    p->ops->abandon(p->t);
}

static const char *tap_error(void *t) {
    wire_tap *p = t;
    return p->broken ? "the test broke it" : p->ops->error ? p->ops->error(p->t) : "";
}

void wire_open(wire_log *log, wire_tap tap[WIRE_RANKS]) {
    void *end[WIRE_RANKS];
    const tw_transport_ops *ops;
    pthread_mutex_init(&log->lock, NULL);
    CU_ASSERT_EQUAL_FATAL(tw_local_create(NULL, WIRE_RANKS, &ops, end), TW_OK);
    for (int k = 0; k < WIRE_RANKS; k++)
        tap[k] = (wire_tap){ops, end[k], log, k, false};
}

tw_transport_ops wire_ops(const wire_tap *tap, bool sums) {
    return (tw_transport_ops){
        sizeof(tw_transport_ops), tap->ops->caps, "tap", tap_allgather, tap_post, tap_poll, tap_close,
        sums ? tap_sum : NULL,    tap_abandon,    NULL,  NULL,          NULL,     tap_error};
}

void wire_put_hex(FILE *f, const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        fprintf(f, "%02x", p[i]);
    fputs(n ? "\n" : "-\n", f);
}

void wire_put_log(FILE *f, const wire_log *log) {
    for (const wire_record *r = log->record; r < log->record + log->n; r++) {
        if (r->to < 0)
            fprintf(f, "sum %d ", r->from);
        else
            fprintf(f, "frame %d %d %u ", r->from, r->to, r->tag);
        wire_put_hex(f, r->bytes, r->len);
    }
}

static int read_again(void (*dump)(FILE *f, const void *what), const void *what, const char *quiet) {
    const char *top = getenv("srcdir"), *keep = getenv("TEST_DUMP");
    char made[] = "/tmp/test_wire_XXXXXX", command[4096];
    const char *path = keep ? keep : made;
    int fd = keep ? -1 : mkstemp(made);
    FILE *f = keep ? fopen(keep, "w") : fd >= 0 ? fdopen(fd, "w") : NULL;
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    dump(f, what);
    fclose(f);
    snprintf(command, sizeof command, "python3 '%s/tests/scripts/wire_format.py' '%s'%s", top ? top : ".", path, quiet);
    int status = system(command);
    if (!keep)
        remove(path);
    return status;
}

void wire_read_again(void (*dump)(FILE *f, const void *what), const void *what) {
    CU_ASSERT_EQUAL(read_again(dump, what, ""), 0);
}

void wire_must_fail(void (*dump)(FILE *f, const void *what), const void *what, wire_log *log, unsigned stride) {
    for (unsigned i = stride / 2; i < log->n; i += stride) {
        wire_record *r = &log->record[i];
        uint8_t *at = r->bytes + (size_t)i * 40503u % (r->len ? r->len : 1);
        *at ^= 8;
        CU_ASSERT_NOT_EQUAL(read_again(dump, what, " >/dev/null"), 0);
        *at ^= 8;
    }
}
