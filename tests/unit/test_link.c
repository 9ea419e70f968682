/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The link's rate as creation measures it, and the frames that follow from it. The transport is local's, with a clock
 * that moves only while something is gathered, by what a link of a given rate would take. */
#include "collectives/plan.h"
#include "transports/local.h"
#include "unit.h"
#include <math.h>
#include <pthread.h>

enum { RANKS = 2, VALUES = 1 << 22 };

typedef struct tap {
    const tw_transport_ops *ops;
    void *t;
    int rank;
    double rate, now; /* bytes/s; virtual seconds */
    unsigned gathers;
    uint32_t caps;
    const char *spec;
    tw_status status;
    tw_comm_stats before, stats;
} tap;

/* The first round finds a rank busy elsewhere: it must not count. */
static tw_status tap_allgather(void *t, const void *mine, void *all, size_t bytes) {
    tap *p = t;
    p->now += (double)bytes * (RANKS - 1) / p->rate + (p->gathers++ == 1 ? 1.0 : 0.0);
    return p->ops->oob_allgather(p->t, mine, all, bytes);
}

static tw_status tap_post(void *t, const tw_xfer *x) {
    tap *p = t;
    return p->ops->post(p->t, x);
}

static int tap_poll(void *t, tw_done *done, int cap) {
    tap *p = t;
    return p->ops->poll(p->t, done, cap);
}

static void tap_close(void *t) {
    tap *p = t;
    p->ops->close(p->t);
}

static double tap_clock(void *t) {
    tap *p = t;
    return p->now;
}

static void *rank_main(void *arg) {
    tap *p = arg;
    tw_transport_ops ops = {.size = sizeof ops,
                            .caps = p->caps,
                            .name = "tap",
                            .oob_allgather = tap_allgather,
                            .post = tap_post,
                            .poll = tap_poll,
                            .close = tap_close,
                            .clock = tap_clock};
    tw_comm *comm = NULL;
    tw_spec s;
    float *x = calloc(VALUES, sizeof *x);
    p->before = p->stats = (tw_comm_stats)TW_COMM_STATS_INIT;
    p->status = x ? tw_spec_parse(p->spec, &s) : TW_ERR_NOMEM;
    if (p->status >= 0)
        p->status = tw_comm_create(NULL, &ops, p, p->rank, RANKS, &comm);
    if (p->status >= 0)
        p->status = tw_comm_get_stats(comm, &p->before);
    if (p->status >= 0)
        p->status = tw_allreduce(comm, &s, x, x, VALUES, TW_F32, TW_AVG);
    if (p->status >= 0)
        p->status = tw_comm_get_stats(comm, &p->stats);
    tw_comm_destroy(comm);
    free(x);
    return NULL;
}

static void run(tap taps[RANKS], const char *spec, double rate0, double rate1, uint32_t caps) {
    pthread_t thread[RANKS];
    void *end[RANKS];
    const tw_transport_ops *ops;
    CU_ASSERT_EQUAL_FATAL(tw_local_create(NULL, RANKS, &ops, end), TW_OK);
    for (int r = 0; r < RANKS; r++) {
        taps[r] = (tap){
            .ops = ops, .t = end[r], .rank = r, .rate = r ? rate1 : rate0, .caps = ops->caps | caps, .spec = spec};
        CU_ASSERT_EQUAL_FATAL(pthread_create(&thread[r], NULL, rank_main, &taps[r]), 0);
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(thread[r], NULL);
    for (int r = 0; r < RANKS; r++)
        CU_ASSERT_EQUAL(taps[r].status, TW_OK);
}

/* Both hops of half the tiles; a tile is never cut. */
static uint64_t frames_of(const char *spec, uint64_t frame_bytes) {
    tw_spec s;
    CU_ASSERT_EQUAL(tw_spec_parse(spec, &s), TW_OK);
    uint64_t tile = tw_spec_bound(&s, TW_MAX_TILE, TW_F32), tiles = VALUES / TW_MAX_TILE / RANKS;
    uint64_t equal = tw_ceil_div(tiles * tile, tw_ceil_div(tiles * tile, frame_bytes)), most = frame_bytes / tile;
    uint64_t each = tw_ceil_div(equal, tile) < most ? tw_ceil_div(equal, tile) : most;
    return 2 * tw_ceil_div(tiles, each);
}

static void check(const char *spec, double rate0, double rate1, uint64_t frame_bytes) {
    tap taps[RANKS];
    double slower = rate0 < rate1 ? rate0 : rate1;
    run(taps, spec, rate0, rate1, TW_CAP_NETWORK);
    for (int r = 0; r < RANKS; r++) {
        CU_ASSERT(fabs((double)taps[r].stats.link_rate / slower - 1) < 1e-3);
        CU_ASSERT_EQUAL(taps[r].stats.sent_frames - taps[r].before.sent_frames, frames_of(spec, frame_bytes));
    }
}

static void frames_follow_the_link(void) {
    check("onebit", 100e6, 100e6, 24576); /* 1 Gbit/s: wire and codec take turns at being the slower one */
    check("onebit", 1000e6, 110e6, 24576);
    check("onebit", 160e6, 1000e6, 57344);
    check("onebit", 1250e6, 1250e6, 57344);
    check("onebit", 4e6, 1250e6, 57344); /* the wire hides the codec whatever the frames */
    check("cast:type=bf16", 100e6, 100e6, 57344);
    check("none", 100e6, 100e6, 57344);
}

static void no_network_is_not_measured(void) {
    tap taps[RANKS];
    run(taps, "onebit", 100e6, 100e6, 0);
    for (int r = 0; r < RANKS; r++) {
        CU_ASSERT_EQUAL(taps[r].stats.link_rate, 0);
        CU_ASSERT_EQUAL(taps[r].stats.sent_frames - taps[r].before.sent_frames, frames_of("onebit", 57344));
    }
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(frames_follow_the_link), UNIT_TEST(no_network_is_not_measured)};
    return unit_main("link", tests, UNIT_COUNT(tests));
}
