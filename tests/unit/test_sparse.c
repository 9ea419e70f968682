/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sparse codecs on arrays: what is kept against a sort, every ISA against the reference, sizes against the bound, and
 * bytes that somebody damaged. */
#include "exec/array.h"
#include "exec/take.h"
#include "unit.h"
#include <math.h>

enum { MOST = 40000, ROOM = 6 * MOST + 4096 };

static const uint64_t counts[] = {0, 1, 2, 7, 31, 32, 33, 127, 4095, 4096, 4097, 9973, 12288, MOST};
enum { NORMAL, HEAVY, EQUAL, SOME_EQUAL, ZEROS, NEARLY_ZERO, ONE, DENORMAL, LARGE, ALTERNATING, KINDS };

static float one_value(unit_rng *r, int kind, uint64_t i) {
    float x = unit_float(r) + unit_float(r) + unit_float(r);
    switch (kind) {
    case HEAVY:
        return x * x * x * x * x;
    case EQUAL:
        return x < 0 ? -0.5f : 0.5f;
    case SOME_EQUAL:
        return (float)(int)(x * 3) * 0.25f;
    case ZEROS:
        return x < 0 ? -0.0f : 0.0f;
    case NEARLY_ZERO:
        return i % 100 == 17 ? x : 0.0f;
    case ONE:
        return i == 5 ? 1e6f : x * 1e-3f;
    case DENORMAL:
        return x * 1e-40f;
    case LARGE:
        return x * 1e38f;
    case ALTERNATING:
        return i % 2 ? -fabsf(x) : fabsf(x);
    default:
        return x;
    }
}

/* ---- the model: sort by magnitude, ties by position ---- */
typedef struct entry {
    uint32_t bits, at;
} entry;

static int larger_first(const void *a, const void *b) {
    const entry *x = a, *y = b;
    return x->bits != y->bits ? (x->bits < y->bits) - (x->bits > y->bits) : (x->at > y->at) - (x->at < y->at);
}

/* keep[i] for the k largest of x[0..n) that are not zero. */
static void model_keep(const float *x, uint32_t n, uint64_t k, bool *keep) {
    static entry all[1 << 20];
    for (uint32_t i = 0; i < n; i++) {
        all[i] = (entry){unit_bits(x[i]) & 0x7fffffffu, i};
        keep[i] = false;
    }
    qsort(all, n, sizeof *all, larger_first);
    for (uint32_t i = 0; i < n && i < k && all[i].bits; i++)
        keep[all[i].at] = true;
}

static uint64_t wanted(double density, uint64_t n) {
    uint64_t k = (uint64_t)floor((double)n * density + 0.5);
    return n && !k ? 1 : k;
}

typedef struct drawn {
    char text[128];
    tw_spec spec;
    double density;
} drawn;

static drawn draw(unit_rng *r) {
    static const char *const selects[] = {"exact", "group", "threshold"};
    static const char *const values[] = {"none", "cast:type=bf16", "(onebit:group=128)", "(cast:type=fp16)"};
    static const double densities[] = {0.001, 0.01, 0.05, 0.25, 0.5, 1};
    drawn d;
    d.density = densities[unit_below(r, 6)];
    uint32_t select = unit_below(r, 5);
    snprintf(d.text, sizeof d.text, "topk:density=%g,select=%s,group=%u,values=%s", d.density,
             selects[select > 2 ? 0 : select], 128u << unit_below(r, 6),
             values[unit_below(r, 2) ? 0 : unit_below(r, 4)]);
    CU_ASSERT_EQUAL_FATAL(tw_spec_parse(d.text, &d.spec), TW_OK);
    return d;
}

/* What was kept is what the model keeps; for a sampled threshold, nothing smaller than something that was left out. */
static void check_kept(const drawn *d, const float *x, const float *y, uint32_t n) {
    static bool keep[MOST];
    float least = INFINITY, most = 0;
    uint32_t group = d->spec.select == TW_SELECT_GROUP ? d->spec.group : n, wrong = 0;
    for (uint32_t at = 0; at < n; at += group) {
        uint32_t m = n - at < group ? n - at : group;
        model_keep(x + at, m, wanted(d->density, m), keep + at);
    }
    for (uint32_t i = 0; i < n; i++) {
        least = y[i] != 0 && fabsf(x[i]) < least ? fabsf(x[i]) : least;
        most = y[i] == 0 && fabsf(x[i]) > most ? fabsf(x[i]) : most;
        wrong += keep[i] ? y[i] != x[i] : y[i] != 0;
    }
    CU_ASSERT(d->spec.select == TW_SELECT_THRESHOLD ? most <= least : wrong == 0);
}

/* Sums over the tiles that come out finite. */
static void check_stat(const tw_array_stat *stat, const float *x, const float *y, uint64_t n, double slack) {
    uint64_t bad = 0;
    double x_sq = 0, e_sq = 0;
    for (uint64_t at = 0; at < n; at += 4096) {
        double tx = 0, te = 0;
        for (uint64_t i = at; i < n && i < at + 4096; i++) {
            double d = (double)x[i] - (double)y[i];
            tx += (double)x[i] * (double)x[i];
            te += d * d;
        }
        bad += !isfinite(te);
        x_sq += isfinite(te) ? tx : 0;
        e_sq += isfinite(te) ? te : 0;
    }
    CU_ASSERT_EQUAL(stat->bad_tiles, bad);
    CU_ASSERT(fabs(stat->x_sq - x_sq) <= (1e-4 + slack) * x_sq &&
              fabs(stat->e_sq - e_sq) <= 1e-4 * e_sq + slack * x_sq);
}

static void one_case(unit_rng *r, uint64_t n, int kind) {
    static float x[MOST + 4], y[MOST + 4], z[MOST];
    static uint32_t want[ROOM / 4], got[ROOM / 4];
    drawn d = draw(r);
    tw_array_stat stat = TW_ARRAY_STAT_INIT, other = TW_ARRAY_STAT_INIT;
    uint64_t len = 0, bound = tw_spec_bound(&d.spec, n, TW_F32);
    for (uint64_t i = 0; i < n; i++)
        x[i] = one_value(r, kind, i);
    CU_ASSERT_FATAL(bound <= sizeof want);
    CU_ASSERT_EQUAL(tw_encode(&d.spec, NULL, x, n, TW_F32, want, bound, &len, &stat), TW_OK);
    CU_ASSERT(len <= bound && len % 4 == 0);
    memset(y, 0x77, sizeof y);
    CU_ASSERT_EQUAL(tw_decode(&d.spec, NULL, want, len, y, n, TW_F32), TW_OK);
    CU_ASSERT_EQUAL(unit_bits(y[n]), 0x77777777u);
    if (d.spec.values.codec == TW_CODEC_NONE)
        check_kept(&d, x, y, (uint32_t)n);
    check_stat(&stat, x, y, n, 1e-12);
    for (const char *const *isa = tw_isa_list(); *isa; isa++) {
        tw_array a = {.spec = &d.spec, .in = x, .count = n, .t = TW_F32, .k = tw_kernels_named(*isa)};
        uint64_t length = 0;
        other = (tw_array_stat)TW_ARRAY_STAT_INIT;
        CU_ASSERT_EQUAL(tw_sparse_encode(&a, got, bound, &length, &other), TW_OK);
        CU_ASSERT(length == len && !memcmp(want, got, len) && !memcmp(&stat, &other, sizeof stat));
        CU_ASSERT_EQUAL(tw_sparse_decode(&a, got, length, z), TW_OK);
        CU_ASSERT(!memcmp(y, z, n * sizeof *z));
    }
}

static void kept_is_what_a_sort_keeps(void) {
    unit_rng r = unit_seeded("sparse");
    for (int round = 0; round < 4; round++)
        for (size_t i = 0; i < UNIT_COUNT(counts); i++)
            for (int kind = 0; kind < KINDS; kind++)
                one_case(&r, counts[i], kind);
}

/* Long arrays are sampled first. Where the sample misleads (all large values lie between the samples), the whole array is
 * looked at. */
static void long_arrays_are_sampled(void) {
    enum { LONG = 1 << 20 };
    static float x[LONG], y[LONG];
    static bool keep[LONG];
    static uint32_t payload[LONG];
    static const double densities[] = {0.0001, 0.01, 0.2};
    unit_rng r = unit_seeded("long");
    for (int round = 0; round < 9; round++) {
        double density = densities[round % 3];
        char text[64];
        uint64_t len;
        tw_spec s;
        for (uint32_t i = 0; i < LONG; i++) {
            x[i] = one_value(&r, round % 3 ? HEAVY : SOME_EQUAL, i) * (round < 3 ? 1.0f : i < LONG / 8 ? 100.0f : 0.1f);
            if (round >= 6) /* one in 9 is sampled */
                x[i] = i % 9 == 0 ? 1000.0f + x[i] : i % 9 == 4 ? x[i] : 0.0f;
        }
        snprintf(text, sizeof text, "topk:density=%g", density);
        CU_ASSERT_EQUAL(tw_spec_parse(text, &s), TW_OK);
        CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, LONG, TW_F32, payload, sizeof payload, &len, NULL), TW_OK);
        CU_ASSERT_EQUAL(tw_decode(&s, NULL, payload, len, y, LONG, TW_F32), TW_OK);
        model_keep(x, LONG, wanted(density, LONG), keep);
        uint32_t wrong = 0;
        for (uint32_t i = 0; i < LONG; i++)
            wrong += keep[i] ? y[i] != x[i] : y[i] != 0;
        CU_ASSERT_EQUAL(wrong, 0);
    }
}

/* About the wanted number, on values of a continuous distribution. */
static void a_threshold_is_about_right(void) {
    static float x[1 << 20];
    static uint32_t payload[(1 << 20) * 2];
    static const double densities[] = {0.01, 0.1, 0.3};
    unit_rng r = unit_seeded("threshold");
    for (uint32_t i = 0; i < 1 << 20; i++)
        x[i] = one_value(&r, HEAVY, i) * (i < 1 << 19 ? 1.0f : 0.01f); /* layered: half of it is small */
    for (size_t i = 0; i < UNIT_COUNT(densities); i++) {
        tw_spec s;
        char text[64];
        uint64_t len, kept = 0;
        snprintf(text, sizeof text, "topk:density=%g,select=threshold", densities[i]);
        CU_ASSERT_EQUAL(tw_spec_parse(text, &s), TW_OK);
        CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, 1 << 20, TW_F32, payload, sizeof payload, &len, NULL), TW_OK);
        for (uint64_t at = 0; at < len;) {
            const uint32_t *head = payload + at / 4;
            kept += head[1];
            at += tw_span_bytes(&s, head[1], head[2]);
        }
        CU_ASSERT(fabs((double)kept / (densities[i] * (1 << 20)) - 1) < 0.05);
    }
}

/* ---- one look at a tile: every ISA against the reference, and the reference against the rules ---- */

static void one_look(unit_rng *r, uint32_t n, int kind) {
    static _Alignas(64) float g[TW_MAX_TILE + 1], e[TW_MAX_TILE], want_x[TW_MAX_TILE], x[TW_MAX_TILE + 16];
    static tw_taken want, got;
    tw_look l = {.g = g + unit_below(r, 2), .scale = unit_below(r, 2) ? 1.0f : 0.5f, .n = n};
    uint32_t found = 0;
    double sq = 0;
    for (uint32_t i = 0; i < n; i++) {
        g[i] = one_value(r, kind, i);
        e[i] = one_value(r, unit_below(r, 4) ? ZEROS : kind, i);
    }
    g[n] = unit_from_bits(unit_below(r, 2) ? 0x7fc00000u : 0xff800000u);
    l.e = unit_below(r, 2) ? e : NULL;
    l.out = unit_below(r, 2) ? want_x : NULL;
    l.floor = unit_bits(one_value(r, kind, 0)) & 0x7f7fffffu;
    l.floor = unit_below(r, 4) ? l.floor : unit_below(r, 2) ? 0 : 0x7f7fffffu;
    memset(want_x, 0x44, sizeof want_x);
    want.count = tw_kernels_ref.look(&l, want.place, want.value, &want.rest);
    for (uint32_t i = 0; i < n; i++) {
        float y = l.e ? l.g[i] * l.scale + e[i] : l.g[i] * l.scale;
        bool above = (unit_bits(y) & 0x7fffffffu) > l.floor;
        CU_ASSERT_FATAL(!above || (want.place[found] == i && unit_bits(want.value[found]) == unit_bits(y)));
        CU_ASSERT(!l.out || unit_bits(want_x[i]) == (above ? 0 : unit_bits(y)));
        sq += above ? 0.0 : (double)y * (double)y;
        found += above;
    }
    CU_ASSERT(found == want.count && fabs(want.rest - sq) <= 0x1p-16 * sq);
    for (const char *const *isa = tw_isa_list(); *isa; isa++) {
        const tw_kernels *k = tw_kernels_named(*isa);
        memset(x, 0x44, sizeof x);
        l.out = l.out ? x : NULL;
        got.count = k->look(&l, got.place, got.value, &got.rest);
        CU_ASSERT(got.count == found && !memcmp(got.place, want.place, found * sizeof *got.place));
        CU_ASSERT(!memcmp(got.value, want.value, found * sizeof *got.value));
        CU_ASSERT(!memcmp(&got.rest, &want.rest, sizeof got.rest) && (!l.out || !memcmp(x, want_x, sizeof want_x)));
        CU_ASSERT(unit_bits(x[TW_MAX_TILE]) == 0x44444444u);
        CU_ASSERT_EQUAL(k->count(l.g, n, l.floor), tw_kernels_ref.count(l.g, n, l.floor));
    }
}

static void looks_are_the_same(void) {
    static const uint32_t lengths[] = {1, 7, 31, 32, 33, 127, 1023, 1024, 1025, 2047, 4093, 4095, 4096};
    unit_rng r = unit_seeded("look");
    tw_fpenv env = tw_fp_enter();
    for (int round = 0; round < 8; round++)
        for (size_t i = 0; i < UNIT_COUNT(lengths); i++)
            for (int kind = 0; kind < KINDS; kind++)
                one_look(&r, lengths[i], kind);
    tw_fp_leave(env);
}

/* The cut of a group by its k-th largest: what a sort says, with the part that says first below which none is kept wrong, too. */
static void cuts_are_as_sorted(void) {
    static float x[TW_MAX_TILE];
    static entry all[TW_MAX_TILE];
    static tw_taken work;
    unit_rng r = unit_seeded("cut");
    for (int round = 0; round < 400; round++) {
        uint32_t n = 1 + unit_below(&r, TW_MAX_TILE), k = 1 + unit_below(&r, unit_below(&r, 2) ? n : n / 50 + 1),
                 above = 0;
        int kind = (int)unit_below(&r, KINDS), misled = (int)unit_below(&r, 3);
        for (uint32_t i = 0; i < n; i++) {
            x[i] = one_value(&r, kind, i) * (misled == 1 && i % 512 < 32   ? 1e6f
                                             : misled == 2 && i % 512 < 32 ? 0.0f
                                                                           : 1.0f);
            all[i] = (entry){unit_bits(x[i]) & 0x7fffffffu, i};
        }
        qsort(all, n, sizeof *all, larger_first);
        for (uint32_t i = 0; i < n; i++)
            above += all[i].bits > all[k - 1].bits;
        for (const char *const *isa = tw_isa_list(); *isa; isa++) {
            tw_cut cut = tw_group_cut(tw_kernels_named(*isa), x, n, k, &work);
            CU_ASSERT(cut.bits == all[k - 1].bits && cut.ties == (cut.bits ? k - above : 0));
        }
    }
}

/* ... and of many values, where a part of them says first about where it is, which may mislead. */
static void cuts_of_many_are_as_sorted(void) {
    enum { MOST = 70000 };
    static float x[MOST];
    static entry all[MOST];
    unit_rng r = unit_seeded("cut of many");
    for (int round = 0; round < 60; round++) {
        uint32_t n = 4000 + unit_below(&r, MOST - 4000), k = 1 + unit_below(&r, unit_below(&r, 2) ? n : n / 50),
                 above = 0;
        uint32_t step = n / 2048;
        int kind = (int)unit_below(&r, KINDS), misled = (int)unit_below(&r, 3);
        for (uint32_t i = 0; i < n; i++) {
            x[i] = one_value(&r, kind, i) * (i % step || misled == 0 ? 1.0f : misled == 1 ? 1e6f : 0.0f);
            all[i] = (entry){unit_bits(x[i]) & 0x7fffffffu, i};
        }
        qsort(all, n, sizeof *all, larger_first);
        for (uint32_t i = 0; i < n; i++)
            above += all[i].bits > all[k - 1].bits;
        for (const char *const *isa = tw_isa_list(); *isa; isa++) {
            tw_cut cut = tw_cut_of(tw_kernels_named(*isa)->count, x, n, k);
            CU_ASSERT(cut.bits == all[k - 1].bits && cut.ties == (cut.bits ? k - above : 0));
        }
    }
}

static void halves_and_misaligned(void) {
    static float x[5000];
    static uint16_t h[5000];
    static uint8_t in[20016], out[20016];
    static uint32_t payload[12000];
    unit_rng r = unit_seeded("halves");
    tw_spec s;
    uint64_t len;
    CU_ASSERT_EQUAL(tw_spec_parse("topk:density=0.1", &s), TW_OK);
    for (int t = TW_F32; t <= TW_BF16; t++) {
        size_t size = tw_dtype_size((tw_dtype)t);
        for (uint32_t i = 0; i < 5000; i++) {
            x[i] = one_value(&r, NORMAL, i);
            h[i] = t == TW_F16 ? tw_f32_to_f16(x[i]) : tw_f32_to_bf16(x[i]);
        }
        memcpy(in + 3, t == TW_F32 ? (void *)x : (void *)h, 5000 * size);
        memset(out, 0x55, sizeof out);
        CU_ASSERT_EQUAL(tw_encode(&s, NULL, in + 3, 5000, (tw_dtype)t, payload, sizeof payload, &len, NULL), TW_OK);
        CU_ASSERT_EQUAL(tw_decode(&s, NULL, payload, len, out + 5, 5000, (tw_dtype)t), TW_OK);
        uint32_t same = 0, zero = 0;
        static const uint8_t nothing[4];
        for (uint32_t i = 0; i < 5000; i++) {
            same += !memcmp(out + 5 + i * size, in + 3 + i * size, size);
            zero += !memcmp(out + 5 + i * size, nothing, size);
        }
        CU_ASSERT(same == 500 && zero == 4500 && out[4] == 0x55 && out[5 + 5000 * size] == 0x55);
    }
}

/* What the payload cannot tell counts, whoever spoilt it: against the tiles of what comes out. */
static void tells_bad_tiles(void) {
    static const char *const specs[] = {"topk:density=0.01,values=(cast:type=fp16)", "ternary:density=0.01",
                                        "topk:density=0.02,values=(quant:group=128)"};
    enum { N = 200 * 4096 };
    static float x[N], y[N];
    static uint32_t payload[N];
    unit_rng r = unit_seeded("bad tiles");
    for (uint32_t i = 0; i < N; i++)
        x[i] = unit_float(&r);
    for (int k = 0; k < 6; k++) {
        tw_array_stat stat = TW_ARRAY_STAT_INIT;
        tw_spec s;
        uint64_t len;
        x[100 * 4096 + 5] = k % 2 ? NAN : 7e4f;
        CU_ASSERT_EQUAL_FATAL(tw_spec_parse(specs[k / 2], &s), TW_OK);
        CU_ASSERT_EQUAL_FATAL(tw_encode(&s, NULL, x, N, TW_F32, payload, sizeof payload, &len, &stat), TW_OK);
        CU_ASSERT_EQUAL_FATAL(tw_decode(&s, NULL, payload, len, y, N, TW_F32), TW_OK);
        CU_ASSERT(k == 2 || k == 4 || stat.bad_tiles > 0); /* a large value alone spoils an fp16 only */
        check_stat(&stat, x, y, N, 1e-3);                  /* a tile that two spans share */
    }
}

static void nonfinite(void) {
    static float x[8192], y[8192];
    static uint32_t payload[20000];
    tw_array_stat stat = TW_ARRAY_STAT_INIT;
    tw_spec s;
    uint64_t len = 7;
    for (uint32_t i = 0; i < 8192; i++)
        x[i] = 1.0f + (float)i;
    x[10] = NAN;
    x[11] = -INFINITY;
    CU_ASSERT_EQUAL(tw_spec_parse("topk:density=0.01", &s), TW_OK);
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, 8192, TW_F32, payload, sizeof payload, &len, &stat), TW_OK);
    CU_ASSERT_EQUAL(stat.bad_tiles, 1);
    CU_ASSERT_EQUAL(tw_decode(&s, NULL, payload, len, y, 8192, TW_F32), TW_OK);
    CU_ASSERT(isnan(y[10]) && isinf(y[11]) && y[8191] == 8192.0f);
    for (uint32_t i = 0; i < 200; i++)
        x[i * 8] = NAN;
    len = 7;
    CU_ASSERT_EQUAL(tw_encode(&s, NULL, x, 8192, TW_F32, payload, sizeof payload, &len, &stat), TW_ERR_NONFINITE);
    unit_has(tw_last_error(), "more NaN and Inf than values are kept");
    CU_ASSERT_EQUAL(len, 7);
}

/* Whatever was damaged: an error, or some values; nothing is written beside them, and nothing at all on an error. */
static void damaged_bytes(void) {
    enum { N = 9000 };
    static float x[N];
    static uint8_t out[N * 4 + 16];
    static uint32_t payload[N], bytes[N + 2];
    unit_rng r = unit_seeded("damaged");
    uint32_t refused = 0;
    for (int round = 0; round < 4000; round++) {
        drawn d = draw(&r);
        uint64_t len = 0, cut;
        for (uint32_t i = 0; i < N; i++)
            x[i] = one_value(&r, HEAVY, i);
        if (d.density > 0.5)
            continue;
        CU_ASSERT_EQUAL(tw_encode(&d.spec, NULL, x, N, TW_F32, payload, tw_spec_bound(&d.spec, N, TW_F32), &len, NULL),
                        TW_OK);
        memcpy(bytes, payload, len);
        for (uint32_t k = 0; k <= unit_below(&r, 4); k++)
            ((uint8_t *)bytes)[unit_below(&r, unit_below(&r, 2) ? 64 : (uint32_t)len) % len] ^=
                (uint8_t)(1u << unit_below(&r, 8));
        cut = unit_below(&r, 3) ? len : unit_below(&r, (uint32_t)len / 4 + 2) * 4;
        memset(out, 0x66, sizeof out);
        tw_status st = tw_decode(&d.spec, NULL, bytes, cut, out, N, TW_F32);
        CU_ASSERT(st == TW_OK || st == TW_ERR_CORRUPT);
        refused += st != TW_OK;
        for (size_t i = st == TW_OK ? N * 4 : 0; i < sizeof out; i++)
            CU_ASSERT_FATAL(out[i] == 0x66);
    }
    CU_ASSERT(refused > 1000);
}

static void specs_are_read_and_written(void) {
    static const struct {
        const char *text, *canonical;
    } good[] = {
        {"topk", "topk"},
        {"topk:density=0.01", "topk"},
        {"topk:density=.5", "topk:density=0.5"},
        {"topk:density=1", "topk:density=1"},
        {"topk:density=1.000", "topk:density=1"},
        {"topk:density=0.000000001+ef", "topk:density=0.000000001+ef"},
        {"topk:density=0.0010000000000", "topk:density=0.001"},
        {"topk:select=group,group=256", "topk:select=group,group=256"},
        {"topk:select=threshold,values=none", "topk:select=threshold"},
        {"topk:values=cast", "topk:values=(cast)"},
        {" topk : values = ( onebit : group=128 , scale=rms ) , density = 0.25 + ef ",
         "topk:density=0.25,values=(onebit:group=128,scale=rms)+ef"},
    };
    static const struct {
        const char *text, *sentence;
    } wrong[] = {
        {"topk:density=0", "density=0 must be above 0 and at most 1"},
        {"topk:density=1.1", "density=1.1 must be"},
        {"topk:density=-0.1", "density=-0.1 must be"},
        {"topk:density=1e-3", "density=1e-3 must be"},
        {"topk:density=.", "density=. must be"},
        {"topk:density=", "density= must be"},
        {"topk:density=99999999999999999999", "must be above 0"},
        {"topk:density=0.0000000001", "up to nine digits"},
        {"topk:select=exactly", "did you mean 'exact'?"},
        {"topk:values=(onebit", "unknown codec '(onebit'"},
        {"topk:values=topk", "values=topk must be a codec of fixed rate"},
        {"topk:values=(onebit+ef)", "values=onebit+ef must be a codec of fixed rate, without feedback"},
        {"topk:values=()", "codec is missing"},
        {"topk:values=(onebti)", "did you mean 'onebit'?"},
        {"topk:group=100", "group=100 must be a power of two"},
        {"onebit:density=0.1", "'density' is an option of 'topk', not of 'onebit'"},
    };
    for (size_t i = 0; i < UNIT_COUNT(good); i++) {
        tw_spec s, again;
        char text[160];
        CU_ASSERT_EQUAL(tw_spec_parse(good[i].text, &s), TW_OK);
        CU_ASSERT_EQUAL(tw_spec_format(&s, text, sizeof text), (int)strlen(good[i].canonical));
        CU_ASSERT_STRING_EQUAL(text, good[i].canonical);
        CU_ASSERT_EQUAL(tw_spec_parse(text, &again), TW_OK);
        CU_ASSERT(tw_spec_equal(&s, &again) && !memcmp(&s, &again, sizeof s));
    }
    for (size_t i = 0; i < UNIT_COUNT(wrong); i++) {
        tw_spec s = TW_SPEC_INIT;
        CU_ASSERT_EQUAL(tw_spec_parse(wrong[i].text, &s), TW_ERR_ARG);
        unit_has(tw_last_error(), wrong[i].sentence);
    }
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(kept_is_what_a_sort_keeps),
        UNIT_TEST(long_arrays_are_sampled),
        UNIT_TEST(a_threshold_is_about_right),
        UNIT_TEST(looks_are_the_same),
        UNIT_TEST(cuts_are_as_sorted),
        UNIT_TEST(cuts_of_many_are_as_sorted),
        UNIT_TEST(halves_and_misaligned),
        UNIT_TEST(nonfinite),
        UNIT_TEST(tells_bad_tiles),
        UNIT_TEST(damaged_bytes),
        UNIT_TEST(specs_are_read_and_written),
    };
    return unit_main("sparse", tests, UNIT_COUNT(tests));
}
