/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The container of docs/file-format.md: what is written is read again, and nothing else is. */
#include <thinwire/codec.h>
#include <unistd.h>
#include "read_all.h"
#include "repair.h"
#include "tests/unit/unit.h"

enum { ROOM = 1 << 16 };

/* A file of one float tensor in two chunks, one of a value, an empty one and one that is carried as it is. */
static void fill(tc_list *l, const char *spec) {
    static const struct {
        const char *name;
        uint32_t dtype, dims;
        uint64_t shape[2];
    } rows[] = {{"weights", TW_F32, 2, {2, 2050}},
                {"scalar", TW_BF16, 0, {0}},
                {"none", TW_F16, 2, {0, 7}},
                {"steps", 12, 1, {3}}};
    tw_spec s;
    CU_ASSERT_EQUAL_FATAL(tw_spec_parse(spec, &s), TW_OK);
    CU_ASSERT_EQUAL(tc_list_meta(l, "format", 6, "pt", 2), TW_OK);
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        tc_tensor t = {.name = (char *)rows[i].name, .dtype = rows[i].dtype, .dims = rows[i].dims, .chunk_tiles = 1};
        memcpy(t.shape, rows[i].shape, sizeof rows[i].shape);
        CU_ASSERT_EQUAL_FATAL(tc_list_add(l, &t, strlen(rows[i].name)), TW_OK);
        CU_ASSERT_EQUAL(tc_set_spec(&l->item[i], &s), TW_OK);
    }
}

static float value_of(uint64_t i) {
    return (float)(i % 13) - 6.25f;
}

/* Writes it through a file without a name, into p; returns its bytes. */
static uint64_t make_file(uint8_t *p, const char *spec) {
    static _Alignas(8) uint8_t values[4096 * 4], payload[4096 * 4];
    FILE *f = tmpfile();
    tc_sink to = {.path = "test", .fd = fileno(f)};
    tc_list l = {0};
    tc_writer w;
    fill(&l, spec);
    CU_ASSERT_EQUAL(tc_write_head(&w, &to, &l, TC_CONTENT_TENSORS, TC_KIND_SAFETENSORS), TW_OK);
    for (uint32_t i = 0; i < l.n; i++) {
        const tc_tensor *t = &l.item[i];
        for (uint64_t at = 0; at < t->count; at += 4096) {
            uint64_t n = t->count - at < 4096 ? t->count - at : 4096, bytes = n * tc_dtypes[t->dtype].bytes;
            for (uint64_t k = 0; k < n && t->dtype == TW_F32; k++) {
                float x = value_of(at + k);
                memcpy(values + 4 * k, &x, sizeof x);
            }
            memcpy(payload, values, bytes);
            if (*t->spec)
                CU_ASSERT_EQUAL(
                    tw_encode(&t->parsed, NULL, values, n, (tw_dtype)t->dtype, payload, sizeof payload, &bytes, NULL),
                    TW_OK);
            CU_ASSERT_EQUAL(tc_write_chunk(&w, payload, bytes), TW_OK);
        }
    }
    CU_ASSERT_EQUAL(tc_write_end(&w), TW_OK);
    tc_list_free(&l);
    CU_ASSERT_FATAL(to.bytes <= ROOM);
    CU_ASSERT_EQUAL(pread(to.fd, p, ROOM, 0), (ssize_t)to.bytes);
    fclose(f);
    return to.bytes;
}

static void comes_back(void) {
    static uint8_t file[ROOM];
    float y[4096];
    for (int k = 0; k < 2; k++) {
        uint64_t n = make_file(file, k ? "none" : "onebit"), seen = 0;
        tc_source from;
        tc_reader r;
        bool more;
        tc_source_memory(&from, file, n);
        CU_ASSERT_EQUAL_FATAL(tc_read_head(&r, &from), TW_OK);
        CU_ASSERT_EQUAL(r.list.n, 4);
        CU_ASSERT_STRING_EQUAL(r.list.item[0].spec, k ? "" : "onebit");
        CU_ASSERT_STRING_EQUAL(r.list.item[3].spec, "");
        CU_ASSERT_STRING_EQUAL(r.list.meta[1], "pt");
        CU_ASSERT_EQUAL(r.list.item[1].count, 1);
        CU_ASSERT_EQUAL(r.list.item[2].count, 0);
        CU_ASSERT_EQUAL(r.kind, TC_KIND_SAFETENSORS);
        while (tc_read_chunk(&r, &more) == TW_OK && more && r.tensor == 0) {
            CU_ASSERT_EQUAL(r.first, seen);
            CU_ASSERT_EQUAL(tc_decode_chunk(&r, y), TW_OK);
            for (uint64_t i = 0; i < r.count; i++)
                CU_ASSERT(k ? y[i] == value_of(r.first + i) : (y[i] < 0) == (value_of(r.first + i) < 0));
            seen += r.count;
        }
        CU_ASSERT_EQUAL(seen, 4100);
        tc_reader_close(&r);
        CU_ASSERT_EQUAL(read_all(file, n, &seen), TW_OK);
        CU_ASSERT_EQUAL(seen, 4104);
    }
}

static void every_bit_and_length(void) {
    static uint8_t file[ROOM];
    uint64_t n = make_file(file, "onebit"), seen, passed = 0;
    for (uint64_t i = 0; i < 8 * n; i++) {
        file[i / 8] ^= (uint8_t)(1u << i % 8);
        passed += read_all(file, n, &seen) != TC_ERR_DAMAGED;
        file[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    CU_ASSERT_EQUAL(passed, 0);
    for (uint64_t i = 0; i < n; i++)
        passed += read_all(file, i, &seen) != TC_ERR_DAMAGED;
    CU_ASSERT_EQUAL(passed, 0);
    CU_ASSERT_EQUAL(read_all(file, n, &seen), TW_OK);
    CU_ASSERT_EQUAL(read_all(file, n + 1, &seen), TC_ERR_DAMAGED);
    unit_has(tw_last_error(), "has more than");
}

/* With check words that are right, what stands behind them is judged by itself. */
static void right_checks_wrong_words(void) {
    static uint8_t file[ROOM], copy[ROOM];
    static const uint32_t odd[] = {0, 1, 2, 3, 4, 33, 1024, 1025, 4096, 0x7fffffff, 0x80000000, 0xffffffff};
    unit_rng r = unit_seeded("right_checks_wrong_words");
    uint64_t n = make_file(file, "onebit"), seen, good = 0, decoded = 0;
    for (int i = 0; i < 30000; i++) {
        memcpy(copy, file, n);
        for (uint32_t k = unit_below(&r, 3) + 1; k > 0; k--) {
            uint32_t at = unit_below(&r, (uint32_t)(i % 2 ? n : 512) / 4) * 4; /* mostly where the descriptions are */
            uint32_t word = unit_below(&r, 2) ? odd[unit_below(&r, UNIT_COUNT(odd))] : (uint32_t)unit_next(&r);
            memcpy(copy + at, &word, sizeof word);
        }
        repair_checks(copy, n);
        tw_status st = read_all(copy, n, &seen);
        CU_ASSERT(st == TW_OK || st == TC_ERR_DAMAGED || st == TC_ERR_REFUSED || st == TW_ERR_NOMEM);
        good += st == TW_OK;
        decoded += seen;
    }
    CU_ASSERT(good > 100 && decoded > 100000); /* changed payloads are payloads */
}

static void change_word(uint8_t *file, uint64_t n, uint64_t at, uint32_t word, tw_status want, const char *sentence) {
    static uint8_t copy[ROOM];
    uint64_t seen;
    memcpy(copy, file, n);
    memcpy(copy + at, &word, sizeof word);
    repair_checks(copy, n);
    CU_ASSERT_EQUAL(read_all(copy, n, &seen), want);
    unit_has(tw_last_error(), sentence);
}

static void sentences(void) {
    static uint8_t file[ROOM];
    uint64_t n = make_file(file, "onebit");
    /* HEAD's body begins at 32 and has 36 bytes; TENS of "weights" follows at 72, its body at 96 */
    const uint64_t tens = 96;
    change_word(file, n, 0, 0x46575400, TC_ERR_DAMAGED, "is not a Thinwire file");
    change_word(file, n, 32, 2, TC_ERR_REFUSED, "version 2 of the file format");
    change_word(file, n, 36, 2, TC_ERR_DAMAGED, "content 2");
    change_word(file, n, 44, 5, TC_ERR_DAMAGED, "where 'TENS' with");
    change_word(file, n, 44, 3, TC_ERR_DAMAGED, "where 'DATA' with");
    change_word(file, n, 48, 2, TC_ERR_DAMAGED, "metadata are longer");
    change_word(file, n, 48, 0, TC_ERR_DAMAGED, "something follows the metadata");
    change_word(file, n, tens, 77, TC_ERR_DAMAGED, "of dtype 77");
    change_word(file, n, tens, 4, TC_ERR_DAMAGED, "codecs do not take fp64");
    change_word(file, n, tens + 4, 3, TC_ERR_DAMAGED, "contradicts itself");
    change_word(file, n, tens + 8, 0, TC_ERR_DAMAGED, "chunks of 0 tiles");
    change_word(file, n, tens + 8, 2, TC_ERR_DAMAGED, "544 bytes cannot be 4100 values");
    change_word(file, n, tens + 12, 9, TC_ERR_REFUSED, "payload version 9 of 'onebit'");
    change_word(file, n, tens + 28, 1, TC_ERR_DAMAGED, "contradicts itself");
    change_word(file, n, tens + 36, 1, TC_ERR_DAMAGED, "8 bytes cannot be 4096 values");
    change_word(file, n, tens + 36, 1u << 31, TC_ERR_DAMAGED, "2^56");
    change_word(file, n, tens + 55, 0x6b6b6b6b, TC_ERR_REFUSED, "unknown codec 'kkkkit'");
    change_word(file, n, tens + 48, 0xffffffff, TC_ERR_DAMAGED, "not UTF-8");
    change_word(file, n, n - 16, 9, TC_ERR_DAMAGED, "the end counts");
}

static void two_of_one_name(void) {
    tc_list l = {0};
    char name[] = "a", surrogate[] = "\xed\xa0\x80";
    tc_tensor t = {.name = name, .dtype = TW_F32, .dims = 1, .shape = {3}};
    CU_ASSERT_EQUAL(tc_list_add(&l, &t, 1), TW_OK);
    CU_ASSERT_EQUAL(tc_list_unique(&l), TW_OK);
    CU_ASSERT_EQUAL(tc_list_add(&l, &t, 1), TW_OK);
    CU_ASSERT_EQUAL(tc_list_unique(&l), TC_ERR_DAMAGED);
    unit_has(tw_last_error(), "two tensors are named 'a'");
    t.shape[0] = UINT64_MAX;
    CU_ASSERT_EQUAL(tc_list_add(&l, &t, 1), TC_ERR_DAMAGED);
    t.name = surrogate;
    CU_ASSERT_EQUAL(tc_list_add(&l, &t, 3), TC_ERR_DAMAGED);
    tc_list_free(&l);
}

int main(void) {
    static const unit_test tests[] = {UNIT_TEST(comes_back), UNIT_TEST(every_bit_and_length),
                                      UNIT_TEST(right_checks_wrong_words), UNIT_TEST(sentences),
                                      UNIT_TEST(two_of_one_name)};
    return unit_main("container", tests, UNIT_COUNT(tests));
}
