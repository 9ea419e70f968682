/* SPDX-License-Identifier: BSD-3-Clause */
#include "reducer/fault.h"
#include <stdlib.h>
#include <time.h>

enum { DROP, CORRUPT, TRUNCATE, STOP, MUTE, DELAY, NAN_LAYER, KINDS };
static const char *const kind_name[KINDS] = {"drop", "corrupt", "truncate", "stop", "mute", "delay", "nan"};
#define MOST_FAULTS 16

struct tw_faults {
    tw_ctx *ctx;
    uint32_t n;
    struct {
        uint32_t kind;
        uint64_t frame;
        double delay_s;
        char layer[128];
        void *copy; /* a damaged frame lives here while it is sent */
    } fault[MOST_FAULTS];
    uint64_t sent;
};

static tw_status bad(const char *item, const char *why) {
    return tw_fail(TW_ERR_ARG, "THINWIRE_FAULT: '%s': %s", item, why);
}

/* "5ms", "0.2s", "100us" */
static bool parse_delay(const char *text, double *out) {
    char *end;
    double v = strtod(text, &end);
    double unit = !strcmp(end, "us") ? 1e-6 : !strcmp(end, "ms") ? 1e-3 : !strcmp(end, "s") ? 1.0 : 0.0;
    *out = v * unit;
    return end != text && unit > 0 && v >= 0 && *out <= 60;
}

static tw_status parse_one(tw_faults *f, char *item, int rank) {
    char *at = strrchr(item, '@'), *colon = strchr(item, ':'), *end;
    if (at) {
        long r = strtol(at + 1, &end, 10);
        if (end == at + 1 || *end)
            return bad(item, "@ wants a rank");
        if (r != rank)
            return TW_OK;
        *at = 0;
    }
    if (!colon || !colon[1])
        return bad(item, "a fault is KIND:VALUE, like drop:3");
    *colon = 0;
    uint32_t kind = 0;
    while (kind < KINDS && strcmp(item, kind_name[kind]) != 0)
        kind++;
    if (kind == KINDS)
        return tw_fail(TW_ERR_ARG, "THINWIRE_FAULT: unknown fault '%s'; did you mean '%s'?", item,
                       tw_nearest_word(item, strlen(item), kind_name, KINDS));
    if (f->n == MOST_FAULTS)
        return bad(item, "too many faults");
    f->fault[f->n].kind = kind;
    if (kind == NAN_LAYER) {
        if (strlen(colon + 1) >= sizeof f->fault[0].layer)
            return bad(colon + 1, "the layer's name is too long");
        memcpy(f->fault[f->n].layer, colon + 1, strlen(colon + 1) + 1);
    } else if (kind == DELAY) {
        if (!parse_delay(colon + 1, &f->fault[f->n].delay_s))
            return bad(colon + 1, "a delay is a number with us, ms or s, at most 60s");
    } else {
        f->fault[f->n].frame = strtoull(colon + 1, &end, 10);
        if (*end || (f->fault[f->n].frame == 0 && kind != STOP))
            return bad(colon + 1, "a frame number counts from 1");
    }
    f->n++;
    return TW_OK;
}

tw_status tw_faults_parse(tw_ctx *ctx, const char *text, int rank, tw_faults **out) {
    char copy[1024];
    *out = NULL;
    if (!text || !*text)
        return TW_OK;
    if (strlen(text) >= sizeof copy)
        return bad("...", "longer than 1023 bytes");
    memcpy(copy, text, strlen(text) + 1);
    tw_faults *f = tw_alloc(ctx, sizeof *f);
    if (!f)
        return TW_ERR_NOMEM;
    f->ctx = ctx;
    tw_status s = TW_OK;
    char *save = NULL;
    for (char *item = strtok_r(copy, ", ", &save); item && s >= 0; item = strtok_r(NULL, ", ", &save))
        s = parse_one(f, item, rank);
    if (s < 0 || f->n == 0) {
        tw_faults_free(f);
        return s;
    }
    *out = f;
    return TW_OK;
}

void tw_faults_free(tw_faults *f) {
    if (!f)
        return;
    tw_ctx *ctx = f->ctx;
    for (uint32_t i = 0; i < f->n; i++)
        tw_free(ctx, f->fault[i].copy);
    tw_free(ctx, f);
}

/* The owner decodes its own answer from the arena, so damage is done to a copy. */
static void damage(tw_faults *f, uint32_t i, void **buf, size_t *len) {
    if (f->fault[i].kind == TRUNCATE) {
        *len /= 2;
        return;
    }
    f->fault[i].copy = tw_alloc(f->ctx, *len);
    if (!f->fault[i].copy)
        return;
    memcpy(f->fault[i].copy, *buf, *len);
    ((uint8_t *)f->fault[i].copy)[*len / 2] ^= 0x10;
    *buf = f->fault[i].copy;
}

tw_fate tw_faults_send(tw_faults *f, uint32_t hop, void **buf, size_t *len) {
    tw_fate fate = TW_FATE_SEND;
    f->sent++;
    for (uint32_t i = 0; i < f->n; i++) {
        uint64_t at = f->fault[i].frame;
        switch (f->fault[i].kind) {
        case DROP:
            fate = f->sent == at ? TW_FATE_DROP : fate;
            break;
        case STOP:
            fate = f->sent > at ? TW_FATE_DROP : fate;
            break;
        case MUTE:
            fate = hop == at ? TW_FATE_DROP : fate;
            break;
        case CORRUPT:
        case TRUNCATE:
            if (f->sent == at)
                damage(f, i, buf, len);
            break;
        case DELAY: {
            struct timespec t = {(time_t)f->fault[i].delay_s, 0};
            t.tv_nsec = (long)((f->fault[i].delay_s - (double)t.tv_sec) * 1e9);
            nanosleep(&t, NULL);
            break;
        }
        default:
            break;
        }
    }
    return fate;
}

const char *tw_faults_nan_layer(const tw_faults *f) {
    for (uint32_t i = 0; f && i < f->n; i++)
        if (f->fault[i].kind == NAN_LAYER)
            return f->fault[i].layer;
    return NULL;
}
