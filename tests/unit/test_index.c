/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Index coding: there and back on every ISA with equal bytes, cost against log2 C(n, k), and bytes that are damaged, cut,
 * or made up, between watched memory. */
#include <math.h>
#include "unit.h"
#include "exec/kernels.h"

enum { SPAN = 1 << 20, MARGIN = 64 };

static const tw_kernels *isas[8];
static size_t nisa;

static void find_isas(void) {
    for (const char *const *name = tw_isa_list(); *name; name++)
        isas[nisa++] = tw_kernels_named(*name);
}

/* ---- supports ---- */
static double uniform(unit_rng *r) {
    return (double)(unit_next(r) >> 11) * 0x1p-53;
}

/* k of n, all equally likely: value i is taken with the odds of those that are still wanted. */
static uint32_t draw(unit_rng *r, uint32_t *pos, uint32_t from, uint32_t n, uint32_t k) {
    uint32_t taken = 0;
    for (uint32_t i = 0; i < n && taken < k; i++)
        if (unit_below(r, n - i) < k - taken)
            pos[taken++] = from + i;
    return taken;
}

/* Layers of 64 Ki values with densities from 0.01 % to 10 %. */
static uint32_t layers(unit_rng *r, uint32_t *pos, uint32_t n) {
    uint32_t k = 0, size = 1 << 16;
    for (uint32_t at = 0; at + size <= n; at += size)
        k += draw(r, pos + k, at, size, (uint32_t)(size * pow(10.0, -4.0 + 3.0 * uniform(r))));
    return k;
}

/* Bursts of up to `length` neighbours of which a half are kept, `apart` values apart on average. */
static uint32_t bursts(unit_rng *r, uint32_t *pos, uint32_t n, uint32_t length, uint32_t apart) {
    uint32_t k = 0;
    for (uint64_t at = unit_below(r, apart); at < n; at += 1 + unit_below(r, 2 * apart))
        for (uint32_t left = 1 + unit_below(r, length); left > 0 && at < n; left--, at++)
            if (unit_next(r) & 1)
                pos[k++] = (uint32_t)at;
    return k;
}

static double limit_bits(double n, double k) {
    return (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2.0);
}

/* ---- memory with watched edges ---- */
typedef struct area {
    uint8_t *all, *bytes;
    size_t size;
} area;

static area watch(size_t size, size_t shift) {
    area a = {malloc(size + 2 * MARGIN + shift), NULL, size};
    CU_ASSERT_PTR_NOT_NULL_FATAL(a.all);
    memset(a.all, 0xa5, size + 2 * MARGIN + shift);
    a.bytes = a.all + MARGIN + shift;
    return a;
}

static void release(area *a) {
    bool good = true;
    for (uint8_t *p = a->all; p < a->bytes; p++)
        good = good && *p == 0xa5;
    for (uint32_t i = 0; i < MARGIN; i++)
        good = good && a->bytes[a->size + i] == 0xa5;
    CU_ASSERT(good);
    free(a->all);
}

/* Every ISA writes the same bytes, within the bound, and reads them back. Returns their number. */
static uint64_t there_and_back(const uint32_t *pos, uint32_t k, uint32_t n) {
    uint64_t bound = tw_index_bound(n, k), bytes = 0;
    area first = watch(bound, 0);
    for (size_t i = 0; i < nisa; i++) {
        uint64_t got;
        area code = watch(bound, 1 + i), out = watch(k * sizeof *pos, 0);
        CU_ASSERT_EQUAL_FATAL(tw_index_encode(isas[i]->index, pos, k, n, code.bytes, &got), TW_OK);
        CU_ASSERT_FATAL(got <= bound);
        if (i == 0)
            memcpy(first.bytes, code.bytes, bytes = got);
        CU_ASSERT(got == bytes && !memcmp(first.bytes, code.bytes, got));
        uint8_t *exact = malloc(got + !got); /* nothing behind it, for AddressSanitizer */
        memcpy(exact, code.bytes, got);
        uint32_t *to = (uint32_t *)(void *)out.bytes;
        CU_ASSERT_EQUAL_FATAL(tw_index_decode(isas[i]->index, exact, got, n, k, to), TW_OK);
        CU_ASSERT(!memcmp(to, pos, k * sizeof *pos));
        free(exact);
        release(&code);
        release(&out);
    }
    release(&first);
    return bytes;
}

/* ---- tests ---- */
static void round_trips(void) {
    static const uint32_t counts[] = {0, 1, 2, 7, 15, 16, 17, 511, 512, 513, 4095, 4096, 4097, 9973};
    static const double densities[] = {1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.0584, 0.1, 0.3, 0.5, 0.9, 1.0};
    unit_rng r = unit_seeded("round_trips");
    uint32_t *pos = malloc(SPAN * sizeof *pos);
    for (size_t c = 0; c < UNIT_COUNT(counts); c++)
        for (size_t d = 0; d < UNIT_COUNT(densities); d++) {
            uint64_t n = (uint64_t)(counts[c] / densities[d]) + counts[c] / 3;
            if (n <= 16 * SPAN)
                there_and_back(pos, draw(&r, pos, 0, (uint32_t)n, counts[c]), (uint32_t)n);
        }
    free(pos);
}

static void edges(void) {
    static uint32_t pos[10000];
    unit_rng r = unit_seeded("edges");
    CU_ASSERT_EQUAL(there_and_back(pos, 0, 0), 0);
    CU_ASSERT_EQUAL(there_and_back(pos, 0, UINT32_MAX), 0);
    pos[0] = 0;
    CU_ASSERT_EQUAL(there_and_back(pos, 1, 1), 2); /* a parameter and a bit */
    there_and_back(pos, 1, UINT32_MAX);
    pos[0] = UINT32_MAX - 1; /* the last position of the longest span */
    there_and_back(pos, 1, UINT32_MAX);
    pos[1] = pos[0], pos[0] = 0;
    there_and_back(pos, 2, UINT32_MAX);
    for (uint32_t i = 0; i < 10000; i++) /* neighbours at the end; all entries */
        pos[i] = UINT32_MAX - 10000 + i;
    there_and_back(pos, 10000, UINT32_MAX);
    for (uint32_t i = 0; i < 10000; i++)
        pos[i] = i;
    CU_ASSERT(there_and_back(pos, 10000, 10000) < 10000 / 8 + 64);
    for (uint32_t k = 1; k <= 10000; k += 1 + k / 3) { /* gaps of about 2^20 and more: beyond what vectors take */
        uint32_t gap = (UINT32_MAX - 1) / k;
        for (uint32_t i = 0; i < k; i++)
            pos[i] = i * gap + unit_below(&r, gap);
        there_and_back(pos, k, UINT32_MAX);
    }
    for (uint32_t m = 0; m < 32; m++) { /* every width; one gap far beyond the others */
        for (uint32_t i = 0; i < 600; i++)
            pos[i] = i * (UINT32_C(1) << (m < 22 ? m : 22)) + (i > 300 ? UINT32_C(1) << m / 2 << (m + 1) / 2 / 2 : 0);
        there_and_back(pos, 600, UINT32_MAX);
    }
}

static void bad_positions_are_refused(void) {
    uint32_t pos[1000];
    uint8_t code[65536];
    uint64_t bytes;
    for (size_t i = 0; i < nisa; i++)
        for (uint32_t at = 1; at < 1000; at += at < 20 ? 1 : 97)
            for (uint32_t kind = 0; kind < 3; kind++) {
                for (uint32_t j = 0; j < 1000; j++)
                    pos[j] = 3 * j;
                pos[at] = kind == 0 ? pos[at - 1] : kind == 1 ? 0 : pos[at - 1] - 1;
                CU_ASSERT_EQUAL(tw_index_encode(isas[i]->index, pos, 1000, 3000, code, &bytes), TW_ERR_ARG);
                CU_ASSERT_EQUAL(bytes, 0);
            }
    pos[0] = 7;
    CU_ASSERT_EQUAL(tw_index_encode(isas[0]->index, pos, 1, 7, code, &bytes), TW_ERR_ARG);
    unit_has(tw_last_error(), "not all below 7");
    CU_ASSERT_EQUAL(tw_index_encode(isas[0]->index, pos, 2, 1, code, &bytes), TW_ERR_ARG);
}

/* Overhead of all kinds is in the bytes; n and k are known to both ends. */
static void random_supports_cost_the_limit(void) {
    unit_rng r = unit_seeded("random_supports_cost_the_limit");
    uint32_t *pos = malloc(SPAN * sizeof *pos);
    double worst = 0, at = 0;
    for (double density = 1e-4; density < 0.1001; density = density < 0.0999 ? fmin(density * 1.05, 0.1) : 1) {
        uint32_t k = draw(&r, pos, 0, SPAN, (uint32_t)(density * SPAN + 0.5));
        double ratio = 8 * (double)there_and_back(pos, k, SPAN) / limit_bits(SPAN, k);
        if (ratio > worst)
            worst = ratio, at = density;
        CU_ASSERT(ratio < 1.02);
    }
    printf("worst of random supports: %.4f of log2 C(n, k), at density %.3g\n", worst, at);
    free(pos);
}

static void clustered_supports_cost_less(void) {
    unit_rng r = unit_seeded("clustered_supports_cost_less");
    uint32_t *pos = malloc(SPAN * sizeof *pos);
    for (int kind = 0; kind < 4; kind++) {
        uint32_t k = kind == 0   ? layers(&r, pos, SPAN)
                     : kind == 1 ? bursts(&r, pos, SPAN, 2000, 50000)
                     : kind == 2 ? bursts(&r, pos, SPAN, 200, 10000)
                                 : bursts(&r, pos, SPAN, 20, 2000);
        double ratio = 8 * (double)there_and_back(pos, k, SPAN) / limit_bits(SPAN, k);
        printf("clustered, kind %d: %.3f of log2 C(n, k), %.3f bits an entry\n", kind, ratio,
               ratio * limit_bits(SPAN, k) / k);
        CU_ASSERT(ratio < 1.0);
    }
    free(pos);
}

/* What a reader gives of any bytes: an error with a sentence, or positions as they must be. */
static void judge(tw_status s, const uint32_t *pos, uint32_t k, uint32_t n) {
    if (s < 0) {
        CU_ASSERT(s == TW_ERR_CORRUPT && strlen(tw_last_error()) > 20);
        return;
    }
    bool good = true;
    for (uint32_t i = 0; i < k; i++)
        good = good && pos[i] < n && (i == 0 || pos[i] > pos[i - 1]);
    CU_ASSERT(good);
}

/* Every ISA says the same of these bytes. Returns whether they are taken. */
static bool same_answer(const uint8_t *bytes, uint64_t size, uint32_t n, uint32_t k) {
    static uint32_t want[20000];
    tw_status first = TW_OK;
    for (size_t i = 0; i < nisa; i++) {
        area out = watch(k * sizeof *want, 0);
        uint32_t *pos = (uint32_t *)(void *)out.bytes;
        tw_status s = tw_index_decode(isas[i]->index, bytes, size, n, k, pos);
        judge(s, pos, k, n);
        if (i == 0) {
            first = s;
            memcpy(want, pos, k * sizeof *pos);
        }
        CU_ASSERT(s == first && (s < 0 || !memcmp(want, pos, k * sizeof *pos)));
        release(&out);
    }
    return first == TW_OK;
}

static void damaged_bytes(void) {
    unit_rng r = unit_seeded("damaged_bytes");
    static uint32_t pos[20000];
    unsigned taken = 0, refused = 0;
    for (uint32_t round = 0; round < 6000; round++) {
        uint32_t k = 1 + unit_below(&r, round % 8 ? 700 : 12000), n = k + unit_below(&r, 1 + k * (round % 50));
        uint64_t size, room = tw_index_bound(n, k);
        uint8_t *good = malloc(room);
        k = draw(&r, pos, 0, n, k);
        if (round % 5 == 0) { /* lists of far entries */
            n = k < 4000 ? k * 500 : 2000000;
            k = bursts(&r, pos, n, 1 + unit_below(&r, 30), 2000);
        }
        if (tw_index_bound(n, k) > room || k == 0)
            good = realloc(good, tw_index_bound(n, k) + 1);
        CU_ASSERT_EQUAL_FATAL(tw_index_encode(isas[0]->index, pos, k, n, good, &size), TW_OK);
        uint32_t cut = round % 3 == 0 ? unit_below(&r, (uint32_t)size + 1) : (uint32_t)size;
        uint32_t extra = round % 7 == 0 ? unit_below(&r, 9) : 0;
        uint8_t *bad = malloc(cut + extra + 1);
        memcpy(bad, good, cut);
        memset(bad + cut, (int)unit_below(&r, 256), extra);
        for (uint32_t hits = round % 3 ? 1 + unit_below(&r, 3) : 0; hits > 0 && cut; hits--)
            bad[unit_below(&r, round % 2 ? cut : cut < 16 ? cut : 16)] ^= (uint8_t)(1u << unit_below(&r, 8));
        bool ok = same_answer(bad, cut + extra, n, k);
        taken += ok;
        refused += !ok;
        free(good);
        free(bad);
    }
    printf("damaged: %u still code some support, %u are refused\n", taken, refused);
    CU_ASSERT(refused > 3000 && taken > 100);
}

static void random_bytes(void) {
    unit_rng r = unit_seeded("random_bytes");
    unsigned taken = 0;
    for (uint32_t round = 0; round < 20000; round++) {
        uint32_t size = unit_below(&r, round % 20 ? 40 : 5000), k = unit_below(&r, round % 20 ? 20 : 12000), m;
        uint8_t *bytes = malloc(size + 1);
        for (uint32_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)unit_next(&r);
        for (m = 0; m < size && m < 6; m++) /* parameters that exist, often */
            bytes[m] &= 0x1f;
        taken += same_answer(bytes, size, unit_below(&r, 2) ? UINT32_MAX : unit_below(&r, 1 << 20), k);
        free(bytes);
    }
    printf("random: %u of 20000 code some support\n", taken);
    CU_ASSERT(taken > 10);
}

/* Block by block, from anywhere. */
static void parts_are_read_alone(void) {
    unit_rng r = unit_seeded("parts_are_read_alone");
    uint32_t n = SPAN, k = 50000, count, *pos = malloc(k * sizeof *pos), out[TW_INDEX_BLOCK];
    uint8_t *code = malloc(tw_index_bound(n, k));
    uint64_t bytes;
    k = draw(&r, pos, 0, n, k);
    CU_ASSERT_EQUAL(tw_index_encode(isas[0]->index, pos, k, n, code, &bytes), TW_OK);
    for (uint32_t round = 0; round < 300; round++) {
        uint32_t from = round == 0 ? 0 : round == 1 ? UINT32_MAX : unit_below(&r, n);
        tw_index_reader reader;
        tw_index_open(&reader, isas[round % nisa]->index, code, bytes, n, k);
        for (uint64_t at = from / 3; at < from && round % 2; at += 1 + unit_below(&r, n)) /* in steps */
            CU_ASSERT_EQUAL(tw_index_skip(&reader, (uint32_t)at), TW_OK);
        CU_ASSERT_EQUAL(tw_index_skip(&reader, from), TW_OK);
        uint32_t done = reader.done;
        CU_ASSERT(done % TW_INDEX_BLOCK == 0 && (done == 0 || pos[done - 1] < from));
        CU_ASSERT(done + TW_INDEX_BLOCK >= k || pos[done + TW_INDEX_BLOCK - 1] + 1 > from ||
                  pos[done + TW_INDEX_BLOCK] > from);
        while (tw_index_read(&reader, out, &count) == TW_OK && count) {
            CU_ASSERT(!memcmp(out, pos + done, count * sizeof *out));
            done += count;
        }
        CU_ASSERT_EQUAL(done, k);
    }
    free(pos);
    free(code);
}

static void values_find_their_places(void) {
    unit_rng r = unit_seeded("values_find_their_places");
    static float x[10000], y[10000], v[1000];
    static uint32_t pos[1000];
    uint32_t k = draw(&r, pos, 0, 10000, 1000), at = 0;
    for (uint32_t i = 0; i < 10000; i++)
        x[i] = unit_float(&r), y[i] = (float)i;
    tw_index_gather(v, x, pos, k);
    tw_index_add(y, pos, v, k);
    for (uint32_t i = 0; i < 10000; i++) {
        bool kept = at < k && pos[at] == i;
        CU_ASSERT(y[i] == (kept ? (float)i + x[i] : (float)i));
        at += kept;
    }
    CU_ASSERT_EQUAL(at, k);
}

static void dump(FILE *f, const uint32_t *pos, uint32_t k, uint32_t n) {
    uint64_t bytes;
    uint8_t *code = malloc(tw_index_bound(n, k) + 1);
    CU_ASSERT_EQUAL_FATAL(tw_index_encode(tw_kernels_best()->index, pos, k, n, code, &bytes), TW_OK);
    fprintf(f, "%u %u x", n, k);
    for (uint64_t i = 0; i < bytes; i++)
        fprintf(f, "%02x", code[i]);
    for (uint32_t i = 0; i < k; i++)
        fprintf(f, " %u", pos[i]);
    fputc('\n', f);
    free(code);
}

/* TEST_DUMP=FILE keeps what the reader is given. */
static void an_independent_reader_agrees(void) {
    static uint32_t pos[60000];
    unit_rng r = unit_seeded("an_independent_reader_agrees");
    const char *top = getenv("srcdir"), *keep = getenv("TEST_DUMP");
    char made[] = "/tmp/test_index_XXXXXX", command[4096];
    if (system("python3 -c 'import sys' >/dev/null 2>&1") != 0) {
        unit_skip("there is no python3 here");
        return;
    }
    int fd = keep ? -1 : mkstemp(made);
    FILE *f = keep ? fopen(keep, "w") : fd >= 0 ? fdopen(fd, "w") : NULL;
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    dump(f, pos, 0, 5);
    for (uint32_t n = 1; n < UINT32_MAX / 3; n += 1 + n / 2 + unit_below(&r, 7)) {
        uint32_t k = n < 10 ? n : n < 4 * SPAN ? draw(&r, pos, 0, n, unit_below(&r, n < 9000 ? n : 9000)) : 9;
        for (uint32_t i = 0; k == 9 && i < k; i++)
            pos[i] = n / 9 * i + unit_below(&r, n / 9);
        dump(f, pos, n < 10 ? draw(&r, pos, 0, n, n) : k, n);
    }
    for (double density = 0.0003; density < 1; density *= 1.5) /* both kinds of divisor */
        dump(f, pos, draw(&r, pos, 0, 30000, (uint32_t)(30000 * density)), 30000);
    dump(f, pos, bursts(&r, pos, SPAN, 30, 2000), SPAN);
    dump(f, pos, layers(&r, pos, SPAN / 4), SPAN / 4);
    fclose(f);
    snprintf(command, sizeof command, "python3 '%s/tests/scripts/index_format.py' '%s'", top ? top : ".",
             keep ? keep : made);
    CU_ASSERT_EQUAL(system(command), 0);
    if (!keep)
        remove(made);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(round_trips),
                                      UNIT_TEST(edges),
                                      UNIT_TEST(bad_positions_are_refused),
                                      UNIT_TEST(random_supports_cost_the_limit),
                                      UNIT_TEST(clustered_supports_cost_less),
                                      UNIT_TEST(damaged_bytes),
                                      UNIT_TEST(random_bytes),
                                      UNIT_TEST(parts_are_read_alone),
                                      UNIT_TEST(values_find_their_places),
                                      UNIT_TEST(an_independent_reader_agrees)};
    find_isas();
    return unit_main("index", tests, UNIT_COUNT(tests));
}
