/* SPDX-License-Identifier: BSD-3-Clause
 *
 * tw_decode of untrusted bytes: u8 codec, u8 dtype, u16 values, payload. Every codec; an input is taken or refused, all
 * ISAs agree to the bit, and what is refused writes nothing. */
#include <thinwire/codec.h>
#include "fuzz.h"
#include "exec/array.h"

static const char *const specs[] = {"none",
                                    "cast:type=bf16",
                                    "cast:type=fp16",
                                    "cast:type=fp8e4m3,group=128",
                                    "cast:type=fp8e5m2",
                                    "onebit:group=128",
                                    "onebit:scale=rms",
                                    "onebit:group=256,scale=twosided",
                                    "quant",
                                    "quant:bits=6,group=128",
                                    "quant:bits=4,scale=minmax",
                                    "quant:bits=3,scale=mse",
                                    "quant:bits=2,group=256",
                                    "quant:bits=4,rotate=hadamard,scale=mse",
                                    "ternary:group=128",
                                    "randk:density=0.1",
                                    "randk:density=0.3,scale=unbiased",
                                    "topk:density=0.1",
                                    "topk:density=0.3,select=group,values=(quant:bits=4,group=128)",
                                    "topk:density=0.2,values=(cast:type=fp16)",
                                    "ternary:density=0.2",
                                    "powersgd:rank=2,columns=20",
                                    "powersgd:rank=1,columns=64"};

enum { SPECS = sizeof specs / sizeof *specs, MOST = 9000, UNTOUCHED = 0xa5 };

static tw_status decode(const tw_kernels *k, const tw_spec *s, const uint32_t *payload, uint64_t len, void *out,
                        uint64_t n, tw_dtype t) {
    tw_array a = {.spec = s, .count = n, .t = t, .k = k, .args = {.size = sizeof a.args}};
    return tw_codec_is_sparse(s) ? tw_sparse_decode(&a, payload, len, out) : tw_matrix_decode(&a, payload, len, out);
}

/* Codecs of a whole array by the loops of each ISA; the first result stands. */
static void all_agree(const tw_spec *s, const uint32_t *payload, uint64_t len, const uint8_t *first, uint64_t n,
                      tw_dtype t, tw_status said) {
    uint64_t bytes = n * tw_dtype_size(t);
    for (const char *const *isa = tw_isa_list(); *isa; isa++) {
        uint8_t *out = malloc(bytes + !bytes);
        FUZZ_REQUIRE(out);
        memset(out, UNTOUCHED, bytes);
        tw_fpenv env = tw_fp_enter();
        tw_status st = decode(tw_kernels_named(*isa), s, payload, len, out, n, t);
        tw_fp_leave(env);
        FUZZ_REQUIRE(st == said && memcmp(out, first, bytes) == 0);
        free(out);
    }
}

FUZZ_TARGET(data, size) {
    tw_spec s;
    uint16_t n;
    if (size < 4)
        return 0;
    FUZZ_REQUIRE(tw_spec_parse(specs[data[0] % SPECS], &s) == TW_OK);
    tw_dtype t = (tw_dtype)(1 + data[1] % 3);
    memcpy(&n, data + 2, sizeof n);
    n %= MOST;
    uint64_t len = size - 4, bytes = n * tw_dtype_size(t);
    uint32_t *payload = malloc(len + !len);
    uint8_t *out = malloc(bytes + !bytes);
    FUZZ_REQUIRE(payload && out);
    memcpy(payload, data + 4, len);
    memset(out, UNTOUCHED, bytes);
    tw_status st = tw_decode(&s, NULL, payload, len, out, n, t);
    FUZZ_REQUIRE(st == TW_OK || st == TW_ERR_CORRUPT);
    for (uint64_t i = 0; st < 0 && i < bytes; i++)
        FUZZ_REQUIRE(out[i] == UNTOUCHED);
    if (tw_codec_is_sparse(&s) || tw_codec_is_lowrank(&s))
        all_agree(&s, payload, len, out, n, t, st);
    free(payload);
    free(out);
    return 0;
}

FUZZ_MAIN("decode");
