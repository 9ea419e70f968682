/* SPDX-License-Identifier: BSD-3-Clause */
#include "collectives/run.h"

enum { IDLE, OUT, DONE };

typedef struct fifo {
    uint32_t *item;
    uint32_t head, tail; /* each action enters once, so the array never wraps */
} fifo;

struct tw_run {
    const tw_plan *plan;
    uint32_t *left; /* dependencies not done */
    uint8_t *state;
    fifo ready[TW_LANE_COUNT];
    uint32_t ndone, nout, natives_left;
    bool stopped;
};

static tw_lane lane_of_kernel(const tw_action *a) {
    switch ((tw_kernel)a->kernel) {
    case TW_K_REDUCE:
    case TW_K_ANSWER:
        return TW_LANE_REDUCE;
    case TW_K_SELECT:
        return a->hop == 2 ? TW_LANE_REDUCE : TW_LANE_COMPUTE;
    case TW_K_VERDICT:
    case TW_K_DECODE:
    case TW_K_POSTSCALE:
        return TW_LANE_OUTPUT;
    default:
        return TW_LANE_COMPUTE;
    }
}

static tw_lane lane_of(const tw_action *a) {
    switch ((tw_act)a->act) {
    case TW_A_COMPUTE:
        return lane_of_kernel(a);
    case TW_A_NATIVE:
        return TW_LANE_NATIVE;
    default:
        return TW_LANE_TRANSFER;
    }
}

static uint64_t array_bytes(const tw_plan *p) {
    return (p->naction + 1ull) * ((1 + TW_LANE_COUNT) * sizeof(uint32_t) + sizeof(uint8_t));
}

uint64_t tw_run_bytes(const tw_plan *p) {
    return tw_held(sizeof(tw_run)) + tw_held(array_bytes(p));
}

tw_status tw_run_create(const tw_plan *p, tw_run **out) {
    tw_run *r = tw_alloc(p->ctx, sizeof *r);
    if (!r)
        return TW_ERR_NOMEM;
    uint64_t n = p->naction + 1ull;
    r->plan = p;
    r->left = tw_alloc(p->ctx, array_bytes(p));
    if (!r->left) {
        tw_free(p->ctx, r);
        return TW_ERR_NOMEM;
    }
    for (int l = 0; l < TW_LANE_COUNT; l++)
        r->ready[l].item = r->left + n * (unsigned)(1 + l);
    r->state = (uint8_t *)(r->left + n * (1 + TW_LANE_COUNT));
    *out = r;
    return TW_OK;
}

void tw_run_free(tw_run *r) {
    if (!r)
        return;
    tw_ctx *ctx = r->plan->ctx;
    tw_free(ctx, r->left);
    tw_free(ctx, r);
}

static void push(tw_run *r, uint32_t action) {
    fifo *q = &r->ready[lane_of(&r->plan->action[action])];
    q->item[q->tail++] = action;
}

void tw_run_start(tw_run *r) {
    r->ndone = r->nout = r->natives_left = 0;
    r->stopped = false;
    for (int l = 0; l < TW_LANE_COUNT; l++)
        r->ready[l].head = r->ready[l].tail = 0;
    for (uint32_t i = 0; i < r->plan->naction; i++) {
        const tw_action *a = &r->plan->action[i];
        r->left[i] = a->ndep;
        r->state[i] = IDLE;
        r->natives_left += a->act == TW_A_NATIVE;
        if (a->ndep == 0)
            push(r, i);
    }
}

bool tw_run_next(tw_run *r, tw_lane lane, uint32_t *action) {
    fifo *q = &r->ready[lane];
    if (r->stopped || q->head == q->tail)
        return false;
    *action = q->item[q->head++];
    r->state[*action] = OUT;
    r->nout++;
    r->natives_left -= lane == TW_LANE_NATIVE;
    uint32_t then = r->plan->action[*action].then;
    if (then && --r->left[then] == 0)
        push(r, then);
    return true;
}

void tw_run_done(tw_run *r, uint32_t action) {
    const tw_action *a = &r->plan->action[action];
    r->state[action] = DONE;
    r->nout--;
    r->ndone++;
    for (uint32_t i = 0; i < a->nsucc; i++) {
        uint32_t next = r->plan->succ[a->succ + i];
        if (--r->left[next] == 0)
            push(r, next);
    }
}

void tw_run_stop(tw_run *r) {
    r->stopped = true;
}
bool tw_run_finished(const tw_run *r) {
    return r->ndone == r->plan->naction;
}
uint32_t tw_run_under_way(const tw_run *r) {
    return r->nout;
}
uint32_t tw_run_natives_left(const tw_run *r) {
    return r->natives_left;
}

const tw_action *tw_run_waits_for(const tw_run *r) {
    const tw_action *found = NULL;
    for (uint32_t i = 0; i < r->plan->naction; i++)
        if (r->state[i] == OUT) {
            if (r->plan->action[i].act == TW_A_RECV)
                return &r->plan->action[i];
            found = found ? found : &r->plan->action[i];
        }
    return found;
}
