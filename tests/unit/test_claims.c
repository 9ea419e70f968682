/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A rank that claims NaN in what it sends of sparse layers and names no tile, or of layers that it says it lacks: frames that
 * pass every check. The owner's answer must stay one that all ranks can read. */
#include "collectives/plan.h"
#include "exec/exec.h"
#include "transports/local.h"
#include "unit.h"
#include <pthread.h>

enum { RANKS = 2, LAYERS = 2, TILES = 8, VALUES = TILES * TW_MAX_TILE, MOST = 65536 };
enum { FLAGS = 5, HOP = 6, EPOCH = 7, PLAN = 8, STEP = 16, INDEX = 20 }; /* where they lie in a header */

typedef struct tap {
    const tw_transport_ops *ops;
    void *t;
    int rank;
    uint32_t claim, layers, forged;
    tw_status status;
    float in[LAYERS][VALUES], out[LAYERS][VALUES];
    _Alignas(8) uint8_t frame[MOST];
} tap;

static tap taps[RANKS];

/* Flags 1 (NaN or Inf): bits of the one run's tiles follow its spans, none is set. 3 (and absent): nothing but trailers. */
static size_t forge(tap *p, const tw_xfer *x) {
    const uint8_t *from = x->buf;
    uint32_t behind = p->layers * TW_TRAILER1_BYTES, index;
    size_t payload = p->claim == 1 ? x->len - TW_HEADER_BYTES - behind : 0;
    uint8_t *dst = p->frame + TW_HEADER_BYTES;
    tw_stamp s = {.epoch = from[EPOCH]};
    memcpy(&s.plan, from + PLAN, sizeof s.plan);
    memcpy(&s.step, from + STEP, sizeof s.step);
    memcpy(&index, from + INDEX, sizeof index);
    memcpy(dst, from + TW_HEADER_BYTES, payload);
    dst += payload;
    if (p->claim == 1) {
        memset(dst, 0, tw_tile_bits(TILES / RANKS));
        dst += tw_tile_bits(TILES / RANKS);
    }
    for (uint32_t i = 0; i < p->layers; i++) {
        memset(dst, 0, TW_TRAILER1_BYTES);
        memcpy(dst, &p->claim, sizeof p->claim);
        dst += TW_TRAILER1_BYTES;
    }
    tw_frame_seal(p->frame, (uint32_t)(dst - p->frame), 1, index, s, 0);
    return (size_t)(dst - p->frame);
}

static tw_status tap_allgather(void *t, const void *mine, void *all, size_t bytes) {
    tap *p = t;
    return p->ops->oob_allgather(p->t, mine, all, bytes);
}

static tw_status tap_post(void *t, const tw_xfer *x) {
    tap *p = t;
    tw_xfer other = *x;
    const uint8_t *frame = x->buf;
    if (x->is_send && p->rank == 1 && x->tag && frame[HOP] == 1 && frame[FLAGS] == 0) {
        other.len = forge(p, x);
        other.buf = p->frame;
        p->forged++;
    }
    return p->ops->post(p->t, &other);
}

static int tap_poll(void *t, tw_done *done, int cap) {
    tap *p = t;
    return p->ops->poll(p->t, done, cap);
}

static void tap_close(void *t) {
    tap *p = t;
    p->ops->close(p->t);
}

static void tap_abandon(void *t) {
    tap *p = t;
    p->ops->abandon(p->t);
}

static void *rank_main(void *arg) {
    static const tw_layer layers[LAYERS] = {TW_LAYER("a", VALUES), TW_LAYER("b", VALUES)};
    tap *p = arg;
    tw_transport_ops ops = {.size = sizeof ops,
                            .caps = p->ops->caps,
                            .name = "tap",
                            .oob_allgather = tap_allgather,
                            .post = tap_post,
                            .poll = tap_poll,
                            .close = tap_close,
                            .abandon = tap_abandon};
    tw_comm *comm = NULL;
    tw_reducer *red = NULL;
    p->status = tw_comm_create(NULL, &ops, p, p->rank, RANKS, &comm);
    if (p->status >= 0)
        p->status = tw_reducer_create(comm, layers, p->layers, "*=topk:density=0.01+ef", NULL, &red);
    if (p->status >= 0)
        p->status = tw_reducer_begin(red, 0, NULL);
    for (uint32_t l = 0; l < p->layers && p->status >= 0; l++)
        p->status = tw_reducer_push(red, l, p->in[l], p->out[l]);
    if (p->status >= 0)
        p->status = tw_reducer_end(red, NULL);
    if (p->status < 0)
        printf("rank %d: %s\n", p->rank, tw_last_error());
    tw_reducer_destroy(red);
    tw_comm_destroy(comm);
    return NULL;
}

static void run(uint32_t claim, uint32_t layers) {
    pthread_t thread[RANKS];
    void *end[RANKS];
    const tw_transport_ops *ops;
    unit_rng g = unit_seeded("claims");
    CU_ASSERT_EQUAL_FATAL(tw_local_create(NULL, RANKS, &ops, end), TW_OK);
    for (int r = 0; r < RANKS; r++) {
        memset(&taps[r], 0, sizeof taps[r]);
        taps[r].ops = ops, taps[r].t = end[r], taps[r].rank = r, taps[r].claim = claim, taps[r].layers = layers;
        for (uint32_t i = 0; i < LAYERS * VALUES; i++)
            taps[r].in[i / VALUES][i % VALUES] = unit_float(&g);
    }
    for (int r = 0; r < RANKS; r++)
        CU_ASSERT_EQUAL_FATAL(pthread_create(&thread[r], NULL, rank_main, &taps[r]), 0);
    for (int r = 0; r < RANKS; r++)
        pthread_join(thread[r], NULL);
    CU_ASSERT_EQUAL(taps[1].forged, 1);
    CU_ASSERT(taps[0].status == TW_OK && taps[1].status == TW_OK);
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < layers * VALUES; i++) { /* no tile was named: none becomes NaN */
        float a = taps[0].out[i / VALUES][i % VALUES], b = taps[1].out[i / VALUES][i % VALUES];
        wrong += a != b;
    }
    CU_ASSERT_EQUAL(wrong, 0);
}

static void test_nan_in_no_tile(void) {
    run(1, 1);
}

static void test_nan_in_absent_layers(void) {
    run(3, 1);
    run(3, 2);
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(test_nan_in_no_tile),
        UNIT_TEST(test_nan_in_absent_layers),
    };
    return unit_main("claims", tests, UNIT_COUNT(tests));
}
