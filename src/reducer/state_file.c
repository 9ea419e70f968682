/* SPDX-License-Identifier: BSD-3-Clause
 *
 * State in files: PATH.RANK, replaced as a whole or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
#include "reducer/restore.h"

enum { MOST_PATH = 4096 };

static tw_status complain(const char *what, const char *path) {
    return tw_fail(TW_ERR_ARG, "%s: %.300s: %s", what, path, strerror(errno));
}

/* ---- save ---- */

typedef struct sink {
    int fd, error;
} sink;

static tw_status put_to(void *arg, const void *data, size_t bytes) {
    sink *s = arg;
    for (const uint8_t *p = data; bytes;) {
        ssize_t n = write(s->fd, p, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            s->error = n < 0 ? errno : ENOSPC;
            return TW_ERR_ARG;
        }
        p += n;
        bytes -= (size_t)n;
    }
    return TW_OK;
}

/* A rename is on the disk once its folder is. */
static void sync_folder(char *path) {
    char *slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = 0;
    int fd = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd); /* some file systems cannot; what matters, the file, has been */
        close(fd);
    }
}

static tw_status write_all(const tw_reducer *r, const char *tmp, int fd) {
    sink s = {.fd = fd};
    tw_status st = tw_reducer_save(r, put_to, &s);
    if (st >= 0 && fsync(fd) < 0)
        st = complain("tw_reducer_save_file", tmp);
    if (s.error) {
        errno = s.error;
        st = complain("tw_reducer_save_file", tmp);
    }
    if (close(fd) < 0 && st >= 0)
        st = complain("tw_reducer_save_file", tmp);
    return st;
}

tw_status tw_reducer_save_file(const tw_reducer *r, const char *path) {
    char name[MOST_PATH], tmp[MOST_PATH + 4];
    if (!r || !path)
        return tw_fail(TW_ERR_ARG, "tw_reducer_save_file: %s is NULL", r ? "path" : "the reducer");
    if ((size_t)snprintf(name, sizeof name, "%s.%d", path, r->comm->rank) >= sizeof name)
        return tw_fail(TW_ERR_ARG, "tw_reducer_save_file: a path of more than %d bytes", MOST_PATH);
    snprintf(tmp, sizeof tmp, "%s.tmp", name);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return complain("tw_reducer_save_file", tmp);
    tw_status s = write_all(r, tmp, fd);
    if (s >= 0 && rename(tmp, name) < 0)
        s = complain("tw_reducer_save_file", name);
    if (s < 0)
        unlink(tmp);
    else
        sync_folder(name);
    return s;
}

/* ---- load ---- */

static tw_status get_from(void *arg, void *data, size_t bytes) {
    return fread(data, 1, bytes, arg) == bytes ? TW_OK : TW_ERR_CORRUPT;
}

static FILE *open_one(const char *path, uint32_t rank) {
    char name[MOST_PATH];
    if ((size_t)snprintf(name, sizeof name, "%s.%u", path, rank) >= sizeof name) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    return fopen(name, "rbe");
}

/* How many ranks saved, by this file's head; 0 where it cannot be told. */
static uint32_t ranks_of(tw_reducer *r, const char *path, uint32_t rank) {
    tw_state_in in = {.get = get_from, .body = tw_alloc(r->ctx, TW_STATE_CHUNK)};
    FILE *f = open_one(path, rank);
    in.arg = f;
    uint32_t size = f && in.body && tw_state_open(&in) >= 0 ? in.head.size : 0;
    if (f)
        fclose(f);
    tw_free(r->ctx, in.body);
    return size;
}

/* The files of ranks `rank`, rank + P, ...; one that is not there ends the list, and load says that it is missing. */
static tw_status load_some(tw_reducer *r, const char *path, uint32_t old) {
    uint32_t P = (uint32_t)r->comm->size, rank = (uint32_t)r->comm->rank, n = 0;
    uint32_t most = rank < old ? (old - rank - 1) / P + 1 : 0;
    void **file = tw_alloc(r->ctx, (most + 1ull) * sizeof *file);
    for (; file && n < most; n++) {
        file[n] = open_one(path, rank + n * P);
        if (!file[n])
            break;
    }
    tw_status s = tw_restore_from(r, n, get_from, file, file ? TW_OK : TW_ERR_NOMEM);
    for (uint32_t i = 0; i < n; i++)
        fclose(file[i]);
    tw_free(r->ctx, file);
    return s;
}

tw_status tw_reducer_load_files(tw_reducer *r, const char *path) {
    if (!r || !path)
        return tw_fail(TW_ERR_ARG, "tw_reducer_load_files: %s is NULL", r ? "path" : "the reducer");
    uint32_t old = ranks_of(r, path, 0);
    if (!old)
        old = ranks_of(r, path, (uint32_t)r->comm->rank);
    return load_some(r, path, old ? old : (uint32_t)r->comm->rank + 1);
}
