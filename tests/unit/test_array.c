/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Whole arrays through a codec (codec.h): the same as its tiles one by one, at any alignment and in every dtype. */
#include <math.h>
#include <thinwire/codec.h>
#include "exec/kernels.h"
#include "unit.h"

enum { MOST = 3 * TW_MAX_TILE + 77, ROOM = MOST * 4 + 64 };

static const char *const specs[] = {"none", "cast:type=fp16", "cast:type=bf16", "onebit",
                                    "onebit:group=4096,scale=rms"};
static const uint64_t counts[] = {0, 1, 7, 4095, 4096, 4097, 2 * TW_MAX_TILE, MOST};

static void fill(unit_rng *r, uint8_t *to, uint64_t n, tw_dtype t, float *wide) {
    for (uint64_t i = 0; i < n; i++) {
        float x = unit_float(r) * 4.0f;
        uint16_t h = t == TW_F16 ? tw_f32_to_f16(x) : tw_f32_to_bf16(x);
        wide[i] = t == TW_F32 ? x : t == TW_F16 ? tw_f16_to_f32(h) : tw_bf16_to_f32(h);
        memcpy(to + i * tw_dtype_size(t), t == TW_F32 ? (void *)&x : (void *)&h, tw_dtype_size(t));
    }
}

/* Tile by tile with the plain loops; returns the bytes. */
static uint64_t by_tiles(const tw_spec *s, const float *x, uint64_t n, tw_dtype t, uint8_t *payload, float *y,
                         tw_array_stat *sum) {
    uint64_t done = 0;
    tw_fpenv env = tw_fp_enter();
    for (uint64_t at = 0; at < n; at += TW_MAX_TILE) {
        uint32_t m = n - at < TW_MAX_TILE ? (uint32_t)(n - at) : TW_MAX_TILE;
        tw_tile_stat stat;
        tw_enc a = {.g = x + at, .scale = 1.0f, .n = m, .dtype = t, .dst = payload + done};
        tw_kernels_ref.encode[s->codec][TW_V_PLAIN](s, &a, &stat);
        tw_kernels_ref.decode_set[s->codec](s, t, payload + done, y + at, m, &a.noise);
        sum->x_sq += stat.x_sq;
        sum->e_sq += stat.e_sq;
        done += tw_codec_get(s->codec)->bytes(s, m, t);
    }
    tw_fp_leave(env);
    return done;
}

static void check_case(unit_rng *r, const tw_spec *s, uint64_t n, tw_dtype t) {
    static float x[MOST], y[MOST];
    static uint8_t in[ROOM], out[ROOM];
    static uint32_t want[ROOM / 4], got[ROOM / 4];
    tw_array_stat sum = TW_ARRAY_STAT_INIT, stat = TW_ARRAY_STAT_INIT;
    size_t size = tw_dtype_size(t), from = unit_below(r, 9), to = unit_below(r, 9);
    uint64_t len = 0, bytes;
    fill(r, in + from, n, t, x);
    memset(got, 0x5a, sizeof got);
    memset(out, 0x5a, sizeof out);
    bytes = by_tiles(s, x, n, t, (uint8_t *)want, y, &sum);
    CU_ASSERT_EQUAL(bytes, tw_spec_bound(s, n, t));
    CU_ASSERT_EQUAL(tw_encode(s, NULL, in + from, n, t, got, bytes, &len, &stat), TW_OK);
    CU_ASSERT_EQUAL(len, bytes);
    CU_ASSERT(!memcmp(want, got, bytes) && ((uint8_t *)got)[bytes] == 0x5a);
    CU_ASSERT(stat.x_sq == sum.x_sq && stat.e_sq == sum.e_sq && stat.bad_tiles == 0);
    CU_ASSERT_EQUAL(tw_decode(s, NULL, got, len, out + to, n, t), TW_OK);
    for (uint64_t i = 0; i < n; i++) {
        uint16_t h = t == TW_F16 ? tw_f32_to_f16(y[i]) : tw_f32_to_bf16(y[i]);
        CU_ASSERT(!memcmp(out + to + i * size, t == TW_F32 ? (void *)&y[i] : (void *)&h, size));
    }
    CU_ASSERT(out[to + n * size] == 0x5a && (to == 0 || out[to - 1] == 0x5a));
}

static void arrays_are_their_tiles(void) {
    unit_rng r = unit_seeded("array");
    for (size_t i = 0; i < UNIT_COUNT(specs); i++)
        for (size_t k = 0; k < UNIT_COUNT(counts); k++)
            for (int t = TW_F32; t <= TW_BF16; t++) {
                tw_spec s;
                CU_ASSERT_EQUAL_FATAL(tw_spec_parse(specs[i], &s), TW_OK);
                check_case(&r, &s, counts[k], (tw_dtype)t);
            }
}

static void bad_values_are_counted(void) {
    static float x[MOST], y[MOST];
    static uint32_t payload[MOST];
    tw_array_stat stat = TW_ARRAY_STAT_INIT;
    tw_spec s;
    uint64_t len;
    for (uint32_t i = 0; i < MOST; i++)
        x[i] = 1.0f;
    x[5000] = NAN;
    x[MOST - 1] = INFINITY;
    CU_ASSERT_EQUAL(tw_spec_parse("onebit", &s), TW_OK);
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, MOST, TW_F32, payload, sizeof payload, &len, &stat), TW_OK);
    CU_ASSERT_EQUAL(stat.bad_tiles, 2);
    CU_ASSERT_EQUAL(stat.x_sq, 2.0 * TW_MAX_TILE);
    CU_ASSERT_EQUAL(tw_decode(&s, NULL, payload, len, y, MOST, TW_F32), TW_OK);
    CU_ASSERT(isnan(y[5000]) && isnan(y[MOST - 1]) && y[0] == 1.0f);
}

static void refused(void) {
    static uint32_t x[64], payload[64];
    tw_array_args args = TW_ARRAY_ARGS_INIT;
    tw_array_stat stat = TW_ARRAY_STAT_INIT;
    tw_spec s = TW_SPEC_INIT, ef = TW_SPEC_INIT, wrong = TW_SPEC_INIT;
    uint64_t len = 99;
    ef.feedback = TW_FEEDBACK_EF;
    wrong.codec = 99;
    CU_ASSERT_EQUAL(tw_encode(&ef, NULL, x, 4, TW_F32, payload, 64, &len, NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "feedback");
    CU_ASSERT_EQUAL(tw_encode(&wrong, NULL, x, 4, TW_F32, payload, 64, &len, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_encode(NULL, NULL, x, 4, TW_F32, payload, 64, &len, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, NULL, 4, TW_F32, payload, 64, &len, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, 4, (tw_dtype)9, payload, 64, &len, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, 4, TW_F32, (uint8_t *)payload + 2, 64, &len, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, 4, TW_F32, payload, 15, &len, NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "tw_spec_bound");
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, 4, TW_F32, payload, 64, NULL, NULL), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, UINT64_MAX, TW_F32, payload, 64, &len, NULL), TW_ERR_ARG);
    args.first = 1;
    CU_ASSERT_EQUAL(tw_encode(&s, &args, x, 4, TW_F32, payload, 64, &len, NULL), TW_ERR_ARG);
    unit_has(tw_last_error(), "first");
    args.first = 0;
    args.size = 3;
    CU_ASSERT_EQUAL(tw_encode(&s, &args, x, 4, TW_F32, payload, 64, &len, NULL), TW_ERR_ARG);
    stat.size = 1;
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, 4, TW_F32, payload, 64, &len, &stat), TW_ERR_ARG);
    CU_ASSERT_EQUAL(len, 99);
    CU_ASSERT_EQUAL(tw_decode(&s, NULL, payload, 15, x, 4, TW_F32), TW_ERR_CORRUPT);
    unit_has(tw_last_error(), "15 bytes cannot be 4 values");
    CU_ASSERT_EQUAL(tw_decode(&s, NULL, NULL, 16, x, 4, TW_F32), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_decode(&ef, NULL, payload, 16, x, 4, TW_F32), TW_ERR_ARG);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(arrays_are_their_tiles), UNIT_TEST(bad_values_are_counted),
                                      UNIT_TEST(refused)};
    return unit_main("array", tests, UNIT_COUNT(tests));
}
