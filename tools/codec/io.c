/* SPDX-License-Identifier: BSD-3-Clause */
#include "tools/codec/io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_IO ((size_t)1 << 30) /* of one call: Linux moves 2 GiB at most */

/* ---- sources ---- */

tw_status tc_source_open(tc_source *s, const char *path) {
    struct stat st;
    bool is_stdin = !strcmp(path, "-");
    *s = (tc_source){.path = is_stdin ? "standard input" : path, .fd = is_stdin ? STDIN_FILENO : -1};
    if (!is_stdin && (s->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        return tw_fail(TC_ERR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(s->fd, &st) != 0 || S_ISDIR(st.st_mode)) {
        tc_source_close(s);
        return tw_fail(TC_ERR_IO, "%s: is not a file", s->path);
    }
    s->seekable = S_ISREG(st.st_mode) && lseek(s->fd, 0, SEEK_CUR) == 0; /* a redirected one may be half read */
    s->size = s->seekable ? (uint64_t)st.st_size : 0;
    return TW_OK;
}

void tc_source_memory(tc_source *s, const void *p, uint64_t n) {
    *s = (tc_source){.path = "memory", .memory = p, .fd = -1, .seekable = true, .size = n};
}

void tc_source_close(tc_source *s) {
    if (s->fd > STDIN_FILENO)
        close(s->fd);
    s->fd = -1;
}

tw_status tc_read_some(tc_source *s, void *buffer, uint64_t n, uint64_t *got) {
    uint8_t *to = buffer;
    *got = 0;
    if (s->fd < 0) {
        uint64_t left = s->size - s->at;
        *got = n < left ? n : left;
        if (*got)
            memcpy(to, s->memory + s->at, *got);
    }
    while (s->fd >= 0 && *got < n) {
        uint64_t left = n - *got;
        ssize_t k = read(s->fd, to + *got, left < MOST_IO ? (size_t)left : MOST_IO);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tw_fail(TC_ERR_IO, "%s: cannot be read: %s", s->path, strerror(errno));
        if (k == 0)
            break;
        *got += (uint64_t)k;
    }
    s->at += *got;
    return TW_OK;
}

tw_status tc_read(tc_source *s, void *to, uint64_t n) {
    uint64_t got, at = s->at;
    tw_status st = tc_read_some(s, to, n, &got);
    if (st >= 0 && got < n)
        st = tw_fail(TC_ERR_DAMAGED, "%s: ends after %llu bytes: at least %llu belong to it", s->path,
                     (unsigned long long)s->at, (unsigned long long)(at + n));
    return st;
}

tw_status tc_source_end(tc_source *s) {
    uint8_t byte;
    uint64_t got;
    tw_status st = tc_read_some(s, &byte, 1, &got);
    if (st >= 0 && got)
        st = tw_fail(TC_ERR_DAMAGED, "%s: has more than the %llu bytes that belong to it", s->path,
                     (unsigned long long)s->at - 1);
    return st;
}

tw_status tc_source_seek(tc_source *s, uint64_t at) {
    if (s->fd >= 0 && (at > INT64_MAX || lseek(s->fd, (off_t)at, SEEK_SET) < 0))
        return tw_fail(TC_ERR_IO, "%s: no place %llu in it", s->path, (unsigned long long)at);
    if (s->fd < 0 && at > s->size)
        return tw_fail(TC_ERR_IO, "%s: no place %llu in it", s->path, (unsigned long long)at);
    s->at = at;
    return TW_OK;
}

/* ---- sinks ---- */

static char *volatile doomed; /* the temporary file that a signal removes */
static const int fatal[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

static void on_signal(int number) {
    if (doomed)
        unlink(doomed);
    signal(number, SIG_DFL);
    raise(number);
}

static void hold_signals(sigset_t *before) {
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, before);
}

static void watch_signals(void) {
    struct sigaction now, how = {.sa_handler = on_signal};
    sigemptyset(&how.sa_mask);
    for (size_t i = 0; i < TW_ARRAY_LEN(fatal); i++)
        if (sigaction(fatal[i], NULL, &now) == 0 && now.sa_handler == SIG_DFL) /* nohup's SIGHUP stays ignored */
            sigaction(fatal[i], &how, NULL);
    signal(SIGPIPE, SIG_IGN); /* becomes an error of write */
}

static tw_status open_stdout(tc_sink *s) {
    const char *folder = getenv("TMPDIR");
    char name[PATH_MAX];
    s->fd = STDOUT_FILENO;
    if (!s->spool)
        return TW_OK;
    snprintf(name, sizeof name, "%s/thinwire-codec-XXXXXX", folder && *folder ? folder : "/tmp");
    sigset_t before;
    hold_signals(&before);
    s->fd = mkstemp(name);
    if (s->fd >= 0)
        unlink(name); /* without a name it goes with the program */
    sigprocmask(SIG_SETMASK, &before, NULL);
    return s->fd >= 0 ? TW_OK : tw_fail(TC_ERR_IO, "%s: cannot be made: %s", name, strerror(errno));
}

/* What the output's name leads to: a link is followed, so that it stays. */
static tw_status choose_names(tc_sink *s, mode_t *mode) {
    struct stat st;
    mode_t mask = umask(0);
    umask(mask);
    *mode = 0666 & ~mask;
    bool there = stat(s->path, &st) == 0;
    if (there && !S_ISREG(st.st_mode))
        return tw_fail(TW_ERR_ARG, "%s: is there and is not a plain file; '-' writes to standard output", s->path);
    if (there && !s->force)
        return tw_fail(TW_ERR_ARG, "%s: exists; --force replaces it", s->path);
    if (there)
        *mode = st.st_mode & 07777;
    s->final = there ? realpath(s->path, NULL) : strdup(s->path);
    s->temp = s->final ? malloc(strlen(s->final) + 32) : NULL;
    if (!s->temp)
        return tw_fail(TW_ERR_NOMEM, "out of memory");
    const char *slash = strrchr(s->final, '/');
    int folder = slash ? (int)(slash + 1 - s->final) : 0;
    sprintf(s->temp, "%.*s.thinwire-codec-XXXXXX", folder, s->final);
    return TW_OK;
}

tw_status tc_sink_open(tc_sink *s, const char *path, bool force, bool spool) {
    mode_t mode;
    sigset_t before;
    *s = (tc_sink){.path = path, .fd = -1, .force = force, .spool = spool};
    watch_signals();
    if (!strcmp(path, "-")) {
        s->path = "standard output";
        return open_stdout(s);
    }
    s->spool = false;
    tw_status st = choose_names(s, &mode);
    if (st < 0) {
        free(s->temp);
        s->temp = NULL;
        tc_sink_close(s);
        return st;
    }
    hold_signals(&before);
    s->fd = mkstemp(s->temp);
    if (s->fd >= 0)
        doomed = s->temp;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (s->fd < 0) {
        st = tw_fail(TC_ERR_IO, "%s: cannot be made: %s", s->final, strerror(errno));
        free(s->temp);
        s->temp = NULL;
    } else if (fchmod(s->fd, mode) != 0) {
        st = tw_fail(TC_ERR_IO, "%s: its rights cannot be set: %s", s->path, strerror(errno));
    }
    if (st < 0)
        tc_sink_close(s);
    return st;
}

static tw_status write_all(tc_sink *s, int fd, const uint8_t *p, uint64_t n) {
    while (n) {
        ssize_t k = write(fd, p, n < MOST_IO ? (size_t)n : MOST_IO);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return tw_fail(TC_ERR_IO, "%s: cannot be written: %s", s->path, strerror(errno));
        p += k;
        n -= (uint64_t)k;
    }
    return TW_OK;
}

tw_status tc_write(tc_sink *s, const void *from, uint64_t n) {
    tw_status st = write_all(s, s->fd, from, n);
    s->bytes += st >= 0 ? n : 0;
    return st;
}

static tw_status copy_spool(tc_sink *s) {
    uint8_t block[1 << 16];
    tw_status st = TW_OK;
    if (lseek(s->fd, 0, SEEK_SET) != 0)
        return tw_fail(TC_ERR_IO, "%s: %s", s->path, strerror(errno));
    for (;;) {
        ssize_t k = read(s->fd, block, sizeof block);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return tw_fail(TC_ERR_IO, "%s: its copy cannot be read: %s", s->path, strerror(errno));
        if (k == 0)
            return st;
        st = write_all(s, STDOUT_FILENO, block, (uint64_t)k);
        if (st < 0)
            return st;
    }
}

/* link does not replace what appeared meanwhile, as rename would. */
static tw_status name_it(tc_sink *s) {
    if (fsync(s->fd) != 0)
        return tw_fail(TC_ERR_IO, "%s: cannot be written: %s", s->path, strerror(errno));
    if (!s->force && link(s->temp, s->final) == 0) {
        unlink(s->temp);
    } else if (!s->force && errno == EEXIST) {
        return tw_fail(TW_ERR_ARG, "%s: exists; --force replaces it", s->path);
    } else if (rename(s->temp, s->final) != 0) { /* also where there are no links */
        return tw_fail(TC_ERR_IO, "%s: cannot be named: %s", s->path, strerror(errno));
    }
    return TW_OK;
}

tw_status tc_sink_commit(tc_sink *s) {
    if (!s->temp)
        return s->spool ? copy_spool(s) : TW_OK;
    sigset_t before;
    hold_signals(&before);
    tw_status st = name_it(s);
    if (st >= 0) {
        doomed = NULL;
        free(s->temp);
        s->temp = NULL;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return st;
}

void tc_sink_close(tc_sink *s) {
    sigset_t before;
    hold_signals(&before);
    if (s->temp) {
        unlink(s->temp);
        doomed = NULL;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (s->fd > STDERR_FILENO)
        close(s->fd);
    free(s->temp);
    free(s->final);
    s->temp = s->final = NULL;
    s->fd = -1;
}
