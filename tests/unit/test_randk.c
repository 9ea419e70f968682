/* SPDX-License-Identifier: BSD-3-Clause
 *
 * randk: which values are kept (distinct, one in each stratum, every one with the same chance), what is lost, and that all
 * ranks and both hops keep the same ones. */
#include <math.h>
#include "unit.h"
#include "exec/exec.h"
#include "transports/local.h"

#include <pthread.h>

enum { N = TW_MAX_TILE };

/* Which values of a tile are kept: those that an encode of ones leaves. Returns how many. */
static uint32_t kept(const tw_spec *s, tw_noise noise, uint32_t n, bool *at) {
    static float ones[N], y[N];
    static uint32_t payload[N];
    tw_tile_stat stat;
    uint32_t count = 0;
    const tw_kernels *k = tw_kernels_best();
    for (uint32_t i = 0; i < n; i++)
        ones[i] = 1.0f;
    tw_enc a = {.g = ones, .scale = 1.0f, .n = n, .dtype = TW_F32, .dst = payload, .noise = noise};
    k->encode[s->codec][TW_V_PLAIN](s, &a, &stat);
    k->decode_set[s->codec](s, TW_F32, payload, y, n, &noise);
    for (uint32_t i = 0; i < n; i++) {
        at[i] = y[i] != 0;
        count += at[i];
    }
    return count;
}

static void as_many_as_told_and_all_distinct(void) {
    static const uint32_t densities[] = {1, 1000000, 10000000, 123456789, 500000000, 999999999, 1000000000};
    static bool at[N];
    unit_rng r = unit_seeded("distinct");
    tw_spec s;
    CU_ASSERT_EQUAL_FATAL(tw_spec_parse("randk", &s), TW_OK);
    for (int round = 0; round < 3000; round++) {
        uint32_t n = round < 200 ? 1 + (uint32_t)round : 1 + unit_below(&r, N);
        s.density = densities[round % 7];
        double share = n * (s.density / 1e9), wanted = floor(share + 0.5);
        tw_noise noise = {{unit_below(&r, UINT32_MAX), unit_below(&r, UINT32_MAX)}, {(uint32_t)round, 0}};
        CU_ASSERT_EQUAL(kept(&s, noise, n, at), wanted < 1 ? 1 : (uint32_t)wanted);
        CU_ASSERT_EQUAL(tw_spec_bound(&s, n, TW_F32), 4 * (wanted < 1 ? 1 : (uint64_t)wanted));
    }
}

/* chi^2 of the counts, for a stratum's length that is no whole number, too: without the turn, values of the shorter strata
 * would be kept more often. */
static void every_value_has_the_same_chance(void) {
    enum { ROUNDS = 6000, VALUES = 1000 };
    static const char *const texts[] = {"randk:density=0.35", "randk:density=0.7", "randk:density=0.013"};
    static bool at[N];
    for (size_t t = 0; t < UNIT_COUNT(texts); t++) {
        static uint32_t count[VALUES], together;
        uint32_t m = 0, stratum = 0;
        tw_spec s;
        memset(count, 0, sizeof count);
        together = 0;
        CU_ASSERT_EQUAL_FATAL(tw_spec_parse(texts[t], &s), TW_OK);
        for (uint32_t round = 0; round < ROUNDS; round++) {
            m = kept(&s, (tw_noise){{round, 99}, {7, 0}}, VALUES, at);
            for (uint32_t i = 0; i < VALUES; i++)
                count[i] += at[i];
            for (uint32_t i = 0; i + 1 < VALUES; i++)
                together += at[i] && at[i + 1];
        }
        double p = (double)m / VALUES, chi = 0;
        for (uint32_t i = 0; i < VALUES; i++)
            chi += pow(count[i] - ROUNDS * p, 2) / (ROUNDS * p * (1 - p));
        stratum = VALUES / m;
        printf("%s: chi^2 %.0f of %d, neighbours kept together %.3g of p^2 (strata of %u)\n", texts[t], chi, VALUES,
               together / (ROUNDS * (VALUES - 1.0) * p * p), stratum);
        CU_ASSERT(chi > VALUES * 0.8 && chi < VALUES * 1.2);
    }
}

static void error_laws(void) {
    static const struct {
        const char *text;
        double nmse;
    } laws[] = {{"randk", 0.99},
                {"randk:density=0.3", 0.7},
                {"randk:density=0.25,scale=unbiased", 3.0},
                {"randk:density=1", 0}};
    static float x[N], y[N];
    static uint32_t payload[N];
    unit_rng r = unit_seeded("laws");
    for (size_t i = 0; i < UNIT_COUNT(laws); i++) {
        double sq = 0, lost = 0, told = 0, sum = 0;
        tw_spec s;
        CU_ASSERT_EQUAL_FATAL(tw_spec_parse(laws[i].text, &s), TW_OK);
        for (uint32_t seed = 0; seed < 300; seed++) {
            tw_tile_stat stat;
            s.seed = seed;
            for (uint32_t k = 0; k < N; k++)
                x[k] = unit_float(&r);
            CU_ASSERT_EQUAL(tw_tile_encode(NULL, &s, x, NULL, 1.0f, N, payload, NULL, &stat), TW_OK);
            CU_ASSERT_EQUAL(tw_tile_decode(NULL, &s, payload, y, N, 0), TW_OK);
            for (uint32_t k = 0; k < N; k++) {
                sq += (double)x[k] * (double)x[k];
                lost += ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
                sum += (double)x[k] * (double)y[k];
            }
            told += stat.e_sq;
        }
        printf("%s: NMSE %.4g, <x, decoded> / <x, x> %.4g\n", laws[i].text, lost / sq, sum / sq);
        CU_ASSERT(fabs(lost / sq - laws[i].nmse) <= 0.02 * laws[i].nmse);
        CU_ASSERT(fabs(told - lost) <= 1e-4 * lost);
        if (s.scale == TW_SCALE_UNBIASED)
            CU_ASSERT(fabs(sum / sq - 1) < 0.02);
    }
}

/* ---- two hops keep the same values, so the second one loses nothing of the peers' ---- */
enum { RANKS = 3, VALUES = 3 * 4096 + 100 };

typedef struct seat {
    tw_comm *comm;
    float in[VALUES], out[VALUES], e[VALUES];
    tw_status status;
} seat;

static void *one_step(void *arg) {
    seat *w = arg;
    tw_layer layer = TW_LAYER("w", VALUES);
    tw_reducer_config cfg = TW_REDUCER_CONFIG_INIT;
    tw_reducer *red;
    cfg.algo = TW_ALGO_SRA;
    w->status = tw_reducer_create(w->comm, &layer, 1, "w=randk:density=0.1+ef", &cfg, &red);
    if (w->status >= 0)
        w->status = tw_reducer_begin(red, 5, NULL);
    if (w->status >= 0)
        w->status = tw_reducer_push(red, 0, w->in, w->out);
    if (w->status >= 0)
        w->status = tw_reducer_end(red, NULL);
    if (w->status >= 0)
        w->status = tw_reducer_residual(red, 0, w->e);
    if (w->status >= 0)
        w->status = tw_reducer_destroy(red);
    return NULL;
}

static void both_hops_keep_the_same(void) {
    static seat seats[RANKS];
    tw_comm *comms[RANKS];
    pthread_t thread[RANKS];
    unit_rng r = unit_seeded("hops");
    CU_ASSERT_EQUAL_FATAL(tw_comm_create_local(NULL, RANKS, comms), TW_OK);
    for (int i = 0; i < RANKS; i++) {
        seats[i].comm = comms[i];
        for (uint32_t k = 0; k < VALUES; k++)
            seats[i].in[k] = 0.5f + (float)unit_below(&r, 1000);
        CU_ASSERT_EQUAL_FATAL(pthread_create(&thread[i], NULL, one_step, &seats[i]), 0);
    }
    for (int i = 0; i < RANKS; i++)
        pthread_join(thread[i], NULL);
    uint32_t through = 0;
    for (uint32_t k = 0; k < VALUES; k++) {
        int owner = tw_owner("w", k / N, tw_layer_tiles(VALUES, N), RANKS);
        bool here = seats[0].out[k] != 0; /* all inputs are positive */
        through += here;
        for (int i = 0; i < RANKS; i++) {
            CU_ASSERT_EQUAL(seats[i].status, TW_OK);
            CU_ASSERT_EQUAL(unit_bits(seats[i].out[k]), unit_bits(seats[0].out[k]));
            /* kept: nothing is held anywhere; else a rank holds its own value, the owner its share of the mean */
            float own = i == owner ? seats[i].in[k] * (1.0f / RANKS) : seats[i].in[k];
            CU_ASSERT_EQUAL(unit_bits(seats[i].e[k]), unit_bits(here ? 0.0f : own));
        }
    }
    CU_ASSERT_EQUAL(through, 3 * 410 + 10);
    for (int i = 0; i < RANKS; i++)
        CU_ASSERT_EQUAL(tw_comm_destroy(comms[i]), TW_OK);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(as_many_as_told_and_all_distinct),
                                      UNIT_TEST(every_value_has_the_same_chance), UNIT_TEST(error_laws),
                                      UNIT_TEST(both_hops_keep_the_same)};
    return unit_main("randk", tests, UNIT_COUNT(tests));
}
