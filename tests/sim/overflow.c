/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Layers of 2^33 and 2^40 values, by arithmetic: no memory for the data is ever taken. Bytes, frames and owners are
 * compared with sums done here in 128 bits; what cannot be planned must be refused with a sentence. */
#include <stdint.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <thinwire/thinwire.h>
#include <thinwire/experimental.h>

__extension__ typedef unsigned __int128 wide;

static int passed, failed;

static void check(bool ok, const char *what, uint64_t got, uint64_t want) {
    passed += ok;
    failed += !ok;
    if (!ok)
        printf("FAILED: %s: %llu, right is %llu\n", what, (unsigned long long)got, (unsigned long long)want);
}

static void equal(const char *what, uint64_t got, uint64_t want) {
    check(got == want, what, got, want);
}

/* ---- owners: every tile has one, in P ranges of nearly equal length, whatever the size of the numbers ---- */

/* First tile of the part-th range: the least t with t * P / T >= part. */
static uint64_t range_start(uint64_t tiles, int size, uint64_t part) {
    return (uint64_t)(((wide)part * tiles + (unsigned)size - 1) / (unsigned)size);
}

static void check_owners(const char *name, uint64_t tiles, int size) {
    int zero = tw_owner(name, 0, tiles, size);
    check(zero >= 0 && zero < size, "owner of tile 0", (uint64_t)zero, 0);
    for (int part = 0; part < size; part++) {
        uint64_t lo = range_start(tiles, size, (unsigned)part), hi = range_start(tiles, size, (unsigned)part + 1);
        int want = (zero + part) % size;
        if (lo == hi)
            continue;
        equal("owner at the start of a range", (uint64_t)tw_owner(name, lo, tiles, size), (uint64_t)want);
        equal("owner at the end of a range", (uint64_t)tw_owner(name, hi - 1, tiles, size), (uint64_t)want);
        equal("owner inside a range", (uint64_t)tw_owner(name, lo + (hi - lo) / 2, tiles, size), (uint64_t)want);
    }
}

static void owners(void) {
    const uint64_t tiles[] = {
        1, 7, UINT64_C(1) << 21, UINT64_C(1) << 32, (UINT64_C(1) << 50) + 12345, UINT64_C(1) << 57};
    const int sizes[] = {1, 2, 3, 7, 64, 1000};
    for (size_t t = 0; t < sizeof tiles / sizeof *tiles; t++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            check_owners("model.embed", tiles[t], sizes[s]);
    equal("owner without ranks", (uint64_t)(tw_owner("x", 0, 1, 0) == -1), 1);
    equal("owner without a name", (uint64_t)(tw_owner(NULL, 0, 1, 2) == -1), 1);
}

/* ---- payloads ---- */

static uint64_t onebit_tile(uint64_t n, uint64_t group) {
    return 4 * ((n + group - 1) / group) + (n + 31) / 32 * 4;
}

static uint64_t onebit_bytes(uint64_t first, uint64_t tiles, uint64_t count, uint64_t group) {
    uint64_t end = (first + tiles) * 4096, last = end > count ? count - (first + tiles - 1) * 4096 : 4096;
    return tiles ? (tiles - 1) * onebit_tile(4096, group) + onebit_tile(last, group) : 0;
}

/* What rank `rank` owns of a layer, as payload and tiles. */
static uint64_t owned(const char *name, uint64_t count, int rank, int size, uint64_t *tiles) {
    uint64_t all = (count + 4095) / 4096;
    int part = (rank - tw_owner(name, 0, all, size) + size) % size;
    uint64_t lo = range_start(all, size, (unsigned)part), hi = range_start(all, size, (unsigned)part + 1);
    *tiles = hi - lo;
    return onebit_bytes(lo, hi - lo, count, 1024);
}

/* One layer under onebit:group=1024: every owner's tiles in equal frames of about frame_bytes. A rank sends all foreign
 * frames to their owners and each of its own frames to all others. */
static void check_plan(uint64_t count, int size, uint32_t frame_bytes) {
    tw_layer big = TW_LAYER("big", count);
    tw_reducer_config c = TW_REDUCER_CONFIG_INIT;
    uint64_t sent = 0, total = 0, frames = 0, all_own = 0;
    c.frame_bytes = frame_bytes;
    for (int r = 0; r < size; r++) {
        uint64_t tiles;
        total += owned("big", count, r, size, &tiles);
    }
    for (int r = 0; r < size; r++) {
        tw_plan_info p = TW_PLAN_INFO_INIT;
        uint64_t tiles, mine = owned("big", count, r, size, &tiles);
        tw_status s = tw_plan_compute(r, size, &big, 1, "*=onebit:group=1024+ef", &c, &p);
        if (s != TW_OK) {
            printf("%s\n", tw_last_error());
            equal("plan", (uint64_t)s, 0);
            return;
        }
        equal("payload", p.payload_bytes, total - mine + mine * (unsigned)(size - 1));
        /* sends = frames - own + own * (size - 1); with two ranks all frames count once */
        uint64_t own = size > 2 ? (p.sends - p.frames) / (unsigned)(size - 2) : p.frames / 2;
        frames = p.frames;
        all_own += own;
        equal("sends", p.sends, p.frames - own + own * (unsigned)(size - 1));
        equal("headers and trailers", p.wire_bytes - p.payload_bytes,
              32 * p.sends + 12 * (p.frames - own) + 8 * own * (unsigned)(size - 1));
        check(p.frames >= total / frame_bytes * 99 / 100 &&
                  p.frames <= total / frame_bytes * 11 / 10 + 2 * (unsigned)size,
              "frames", p.frames, total / frame_bytes);
        check(p.arena_bytes > total, "frame memory", p.arena_bytes, total);
        sent += p.payload_bytes;
    }
    equal("frames of all owners", all_own, frames);
    equal("payload of all ranks", sent, 2 * total * (unsigned)(size - 1));
}

static void estimates(void) {
    uint64_t count = UINT64_C(1) << 33, tiles = count / 4096;
    tw_layer big = TW_LAYER("big", count);
    tw_reducer_config c = TW_REDUCER_CONFIG_INIT;
    tw_memory m = TW_MEMORY_INIT;
    c.frame_bytes = 1 << 20;
    equal("estimate", (uint64_t)tw_reducer_estimate(0, 4, &big, 1, "*=onebit:group=1024+ef", &c, &m), 0);
    check(m.state_bytes >= 8 * count && m.state_bytes <= 8 * count + 64 * tiles, "residuals of 2^33 values",
          m.state_bytes, 8 * count);
    equal("sparse estimate", (uint64_t)tw_reducer_estimate(0, 4, &big, 1, "*=topk:density=0.0001+ef", &c, &m), 0);
    check(m.frame_bytes < 8 * count, "room of sparse frames", m.frame_bytes, 8 * count);
    tw_spec s = TW_SPEC_INIT;
    tw_spec_parse("onebit:group=1024", &s);
    equal("bound of 2^40 values", tw_spec_bound(&s, UINT64_C(1) << 40, TW_F32),
          (UINT64_C(1) << 28) * onebit_tile(4096, 1024));
    s = (tw_spec)TW_SPEC_INIT;
    equal("bound of 2^63 values", tw_spec_bound(&s, UINT64_C(1) << 63, TW_F32), UINT64_MAX);
}

/* Plans that are too long are refused with a sentence: no crash, no endless work. */
static void refusals(void) {
    tw_layer big = TW_LAYER("big", UINT64_MAX / 128), more = TW_LAYER("more", UINT64_MAX / 4);
    tw_reducer_config c = TW_REDUCER_CONFIG_INIT;
    tw_plan_info p = TW_PLAN_INFO_INIT;
    c.frame_bytes = 4096;
    tw_status s = tw_plan_compute(0, 4, &big, 1, "*=onebit:group=128+ef", &c, &p);
    printf("  %s: %s\n", tw_status_name(s), tw_last_error());
    check(s < 0 && strlen(tw_last_error()) > 20, "a plan of 2^57 values in small frames", (uint64_t)s, 0);
    s = tw_plan_compute(0, 4, &more, 1, NULL, &c, &p);
    printf("  %s: %s\n", tw_status_name(s), tw_last_error());
    check(s == TW_ERR_ARG && strstr(tw_last_error(), "more"), "a layer of 2^62 values", (uint64_t)s, 0);
}

int main(void) {
    owners();
    check_plan((UINT64_C(1) << 33) + 17, 4, 1 << 20);
    check_plan(UINT64_C(1) << 33, 3, 1 << 18);
    check_plan(UINT64_C(1) << 40, 2, 1 << 20);
    estimates();
    refusals();
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}
