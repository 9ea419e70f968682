/* SPDX-License-Identifier: BSD-3-Clause */
#include "reducer/fault.h"
#include <time.h>

struct tw_faults {
    tw_ctx *ctx;
    uint32_t n;
    tw_fault fault[TW_MOST_FAULTS];
    void *copy[TW_MOST_FAULTS]; /* a damaged frame lives here while it is sent */
    uint64_t sent;
};

/* What of the plan this rank has to do. */
static tw_status take_mine(tw_faults *f, const tw_fault_plan *plan, int rank, int size) {
    for (uint32_t i = 0; i < plan->n; i++) {
        const tw_fault *x = &plan->fault[i];
        if (x->rank >= size)
            return tw_fail(TW_ERR_ARG, "THINWIRE_FAULT: '%s': the last of %d ranks is %d", x->text, size, size - 1);
        if (x->rank < 0 || x->rank == rank)
            f->fault[f->n++] = *x;
    }
    return TW_OK;
}

tw_status tw_faults_make(tw_ctx *ctx, const tw_fault_plan *plan, int rank, int size, tw_faults **out) {
    *out = NULL;
    if (plan->n == 0)
        return TW_OK;
    tw_faults *f = tw_alloc(ctx, sizeof *f);
    if (!f)
        return TW_ERR_NOMEM;
    f->ctx = ctx;
    tw_status s = take_mine(f, plan, rank, size);
    if (s < 0 || f->n == 0)
        tw_faults_free(f);
    else
        *out = f;
    return s;
}

void tw_faults_free(tw_faults *f) {
    if (!f)
        return;
    tw_ctx *ctx = f->ctx;
    for (uint32_t i = 0; i < f->n; i++)
        tw_free(ctx, f->copy[i]);
    tw_free(ctx, f);
}

/* The owner decodes its own answer from the arena, so damage is done to a copy. */
static void damage(tw_faults *f, uint32_t i, void **buf, size_t *len) {
    if (f->fault[i].kind == TW_FAULT_TRUNCATE) {
        *len /= 2;
        return;
    }
    f->copy[i] = tw_alloc(f->ctx, *len);
    if (!f->copy[i])
        return;
    memcpy(f->copy[i], *buf, *len);
    ((uint8_t *)f->copy[i])[*len / 2] ^= 0x10;
    *buf = f->copy[i];
}

tw_fate tw_faults_send(tw_faults *f, uint32_t hop, void **buf, size_t *len) {
    tw_fate fate = TW_FATE_SEND;
    f->sent++;
    for (uint32_t i = 0; i < f->n; i++) {
        uint64_t at = f->fault[i].frame;
        switch (f->fault[i].kind) {
        case TW_FAULT_DROP:
            fate = f->sent == at ? TW_FATE_DROP : fate;
            break;
        case TW_FAULT_STOP:
            fate = f->sent > at ? TW_FATE_DROP : fate;
            break;
        case TW_FAULT_MUTE:
            fate = hop == at ? TW_FATE_DROP : fate;
            break;
        case TW_FAULT_CORRUPT:
        case TW_FAULT_TRUNCATE:
            if (f->sent == at)
                damage(f, i, buf, len);
            break;
        case TW_FAULT_DELAY: {
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
        if (f->fault[i].kind == TW_FAULT_NAN)
            return f->fault[i].layer;
    return NULL;
}
