/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Spec text <-> struct, its sentences, the codec table and payload sizes. */
#include "compressors/codec.h"
#include "unit.h"

static const struct {
    const char *text, *canonical;
    tw_spec spec;
} good[] = {
    {"none", "none", {sizeof(tw_spec), 1, 1, 0, 0, 0}},
    {"none+none", "none", {sizeof(tw_spec), 1, 1, 0, 0, 0}},
    {" none \t+ ef\n", "none+ef", {sizeof(tw_spec), 1, 2, 0, 0, 0}},
    {"cast", "cast", {sizeof(tw_spec), 2, 1, TW_BF16, 0, 0}},
    {"cast:type=bf16", "cast", {sizeof(tw_spec), 2, 1, TW_BF16, 0, 0}},
    {"cast : type = fp16", "cast:type=fp16", {sizeof(tw_spec), 2, 1, TW_F16, 0, 0}},
    {"cast:type=fp16+ef", "cast:type=fp16+ef", {sizeof(tw_spec), 2, 2, TW_F16, 0, 0}},
    {"none+decay", "none+decay", {sizeof(tw_spec), 1, 3, .rate = 950000000}},
    {"none + decay : beta = 0.950", "none+decay", {sizeof(tw_spec), 1, 3, .rate = 950000000}},
    {"topk+dgc:momentum=0.9",
     "topk+dgc",
     {sizeof(tw_spec), 6, 4, 0, 0, 4096, 0, 0, 0, 1, 0, 10000000, {1, 0, 0, 0, 0, 0, 0}, .rate = 900000000}},
    {"topk+dgc:momentum=0.5",
     "topk+dgc:momentum=0.5",
     {sizeof(tw_spec), 6, 4, 0, 0, 4096, 0, 0, 0, 1, 0, 10000000, {1, 0, 0, 0, 0, 0, 0}, .rate = 500000000}},
    {"cast+decay:beta=0.999999999", "cast+decay:beta=0.999999999", {sizeof(tw_spec), 2, 3, TW_BF16, .rate = 999999999}},
    {"cast:type=fp8e4m3+ef", "cast:type=fp8e4m3+ef", {sizeof(tw_spec), 2, 2, TW_CAST_FP8E4M3, 0, 512}},
    {"cast:group=128,type=fp8e5m2", "cast:type=fp8e5m2,group=128", {sizeof(tw_spec), 2, 1, TW_CAST_FP8E5M2, 0, 128}},
    {"onebit", "onebit", {sizeof(tw_spec), 3, 1, 0, TW_SCALE_MEAN, 512}},
    {"onebit+ef", "onebit+ef", {sizeof(tw_spec), 3, 2, 0, TW_SCALE_MEAN, 512}},
    {"onebit:group=512,scale=mean+ef", "onebit+ef", {sizeof(tw_spec), 3, 2, 0, TW_SCALE_MEAN, 512}},
    {"onebit:group=128", "onebit:group=128", {sizeof(tw_spec), 3, 1, 0, TW_SCALE_MEAN, 128}},
    {"onebit:group=0002048", "onebit:group=2048", {sizeof(tw_spec), 3, 1, 0, TW_SCALE_MEAN, 2048}},
    {"onebit:scale=rms", "onebit:scale=rms", {sizeof(tw_spec), 3, 1, 0, TW_SCALE_RMS, 512}},
    {"onebit:scale=twosided+ef", "onebit:scale=twosided+ef", {sizeof(tw_spec), 3, 2, 0, TW_SCALE_TWOSIDED, 512}},
    {"onebit: scale=rms , group=4096 +ef",
     "onebit:group=4096,scale=rms+ef",
     {sizeof(tw_spec), 3, 2, 0, TW_SCALE_RMS, 4096}},
    {"ternary+ef", "ternary+ef", {sizeof(tw_spec), 5, 2, 0, 0, 512, 0, 1, 0, 0, 0}},
    {"ternary:seed=9,group=128,rounding=stochastic",
     "ternary:group=128,rounding=stochastic,seed=9",
     {sizeof(tw_spec), 5, 1, 0, 0, 128, 0, 2, 0, 0, 9}},
    {"ternary:density=0.05+ef",
     "topk:density=0.05,values=(onebit:group=4096)+ef",
     {sizeof(tw_spec), 6, 2, 0, 0, 4096, 0, 0, 0, 1, 0, 50000000, {3, 0, TW_SCALE_MEAN, 0, 0, 0, 4096}}},
    {"ternary:group=512,select=threshold,density=1",
     "topk:density=1,select=threshold,values=(onebit)",
     {sizeof(tw_spec), 6, 1, 0, 0, 4096, 0, 0, 0, 2, 0, 1000000000, {3, 0, TW_SCALE_MEAN, 0, 0, 0, 512}}},
    {"randk", "randk", {sizeof(tw_spec), 7, 1, 0, TW_SCALE_PLAIN, 0, 0, 0, 0, 0, 0, 10000000}},
    {"randk:seed=3,scale=none,density=0.10+ef",
     "randk:density=0.1,seed=3+ef",
     {sizeof(tw_spec), 7, 2, 0, TW_SCALE_PLAIN, 0, 0, 0, 0, 0, 3, 100000000}},
    {"randk:scale=unbiased,density=1",
     "randk:density=1,scale=unbiased",
     {sizeof(tw_spec), 7, 1, 0, TW_SCALE_UNBIASED, 0, 0, 0, 0, 0, 0, 1000000000}},
    {"powersgd", "powersgd", {sizeof(tw_spec), 8, 1, .rank = 4, .iterations = 1, .warm_start = 1}},
    {"powersgd:seed=0,columns=0,warm_start=1,iterations=1,rank=4+ef",
     "powersgd+ef",
     {sizeof(tw_spec), 8, 2, .rank = 4, .iterations = 1, .warm_start = 1}},
    {"powersgd:warm_start=0,rank=3,iterations=16,columns=4294967295,seed=7",
     "powersgd:rank=3,columns=4294967295,iterations=16,warm_start=0,seed=7",
     {sizeof(tw_spec), 8, 1, .rank = 3, .iterations = 16, .columns = UINT32_MAX, .seed = 7}},
    {"quant", "quant", {sizeof(tw_spec), 4, 1, 0, TW_SCALE_ABSMAX, 512, 8, 1, 1, 0, 0}},
    {"quant:bits=4+ef", "quant:bits=4+ef", {sizeof(tw_spec), 4, 2, 0, TW_SCALE_ABSMAX, 512, 4, 1, 1, 0, 0}},
    {"quant:seed=0,rotate=none,scale=absmax,rounding=nearest,group=512,bits=8",
     "quant",
     {sizeof(tw_spec), 4, 1, 0, TW_SCALE_ABSMAX, 512, 8, 1, 1, 0, 0}},
    {"quant:bits=6,scale=minmax",
     "quant:bits=6,scale=minmax",
     {sizeof(tw_spec), 4, 1, 0, TW_SCALE_MINMAX, 512, 6, 1, 1, 0, 0}},
    {"quant:seed=4294967295,rotate=hadamard,scale=mse,rounding=stochastic,group=4096,bits=3+ef",
     "quant:bits=3,group=4096,rounding=stochastic,scale=mse,rotate=hadamard,seed=4294967295+ef",
     {sizeof(tw_spec), 4, 2, 0, TW_SCALE_MSE, 4096, 3, 2, 2, 0, 4294967295u}},
    {"quant:seed=0007,bits=2", "quant:bits=2,seed=7", {sizeof(tw_spec), 4, 1, 0, TW_SCALE_ABSMAX, 512, 2, 1, 1, 0, 7}},
};

static void good_text_is_read_and_written(void) {
    for (size_t i = 0; i < UNIT_COUNT(good); i++) {
        tw_spec s, again;
        char text[128];
        memset(&s, 0xff, sizeof s);
        CU_ASSERT_EQUAL(tw_spec_parse(good[i].text, &s), TW_OK);
        CU_ASSERT_EQUAL(memcmp(&s, &good[i].spec, sizeof s), 0);
        CU_ASSERT_EQUAL(tw_spec_check(&s), TW_OK);
        CU_ASSERT_EQUAL(tw_spec_format(&s, text, sizeof text), (int)strlen(good[i].canonical));
        CU_ASSERT_STRING_EQUAL(text, good[i].canonical);
        CU_ASSERT_EQUAL(tw_spec_parse(text, &again), TW_OK);
        CU_ASSERT(tw_spec_equal(&s, &again));
    }
}

static const struct {
    const char *text, *sentence;
} wrong[] = {
    {"", "codec is missing; did you mean 'none'?"},
    {"  ", "codec is missing"},
    {"+ef", "codec is missing"},
    {":group=128", "codec is missing"},
    {"onebitt", "spec 'onebitt': unknown codec 'onebitt'; did you mean 'onebit'?"},
    {"ONEBIT", "unknown codec 'ONEBIT'; did you mean 'onebit'?"},
    {"onbeit+ef", "unknown codec 'onbeit'; did you mean 'onebit'?"},
    {"nnoe", "did you mean 'none'?"},
    {"casts:type=bf16", "unknown codec 'casts'; did you mean 'cast'?"},
    {"none none", "unknown codec 'none none'"},
    {"onebit+eff", "unknown feedback 'eff'; did you mean 'ef'?"},
    {"onebit+", "feedback is missing"},
    {"onebit+:beta=1", "feedback is missing"},
    {"onebit+decya:beta=0.5", "unknown feedback 'decya'; did you mean 'decay'?"},
    {"onebit+decay:", "option is missing; did you mean 'beta'?"},
    {"onebit+decay:bta=0.5", "unknown option 'bta'; did you mean 'beta'?"},
    {"onebit+decay:beta", "option 'beta' wants a value: beta=..."},
    {"onebit+decay:beta=", "beta= must be above 0 and below 1"},
    {"onebit+decay:beta=0", "beta=0 must be above 0 and below 1"},
    {"onebit+decay:beta=1", "beta=1 must be above 0 and below 1, with up to nine digits"},
    {"onebit+decay:beta=0.1234567891", "must be above 0"},
    {"onebit+decay:beta=0.5,beta=0.5", "beta=0.5,beta=0.5 must be"},
    {"onebit+dgc", "dgc goes with 'topk' (and 'ternary:density=...') only"},
    {"topk+dgc:beta=0.5", "unknown option 'beta'; did you mean 'momentum'?"},
    {"topk+dgc:momentum=1", "momentum=1 must be above 0 and below 1"},
    {"topk+dcg", "unknown feedback 'dcg'; did you mean 'dgc'?"},
    {"onebit+ef:beta=0.5", "'ef' takes no option"},
    {"topk:values=(none+decay)", "must be a codec of fixed rate, without feedback"},
    {"randk:scale=unbiased+decay", "so it goes without feedback"},
    {"onebit+ef+ef", "unknown feedback 'ef+ef'; did you mean 'ef'?"},
    {"onebit:", "option is missing; did you mean 'group'?"},
    {"onebit:group=128,", "option is missing"},
    {"onebit:,group=128", "option is missing"},
    {"onebit:gruop=128", "unknown option 'gruop'; did you mean 'group'?"},
    {"onebit:group", "option 'group' wants a value: group=..."},
    {"onebit:group=", "group= must be a power of two, 128..4096"},
    {"onebit:group=64", "group=64 must be a power of two, 128..4096"},
    {"onebit:group=8192", "group=8192 must be a power of two, 128..4096"},
    {"onebit:group=1000", "group=1000 must be"},
    {"onebit:group=-128", "group=-128 must be"},
    {"onebit:group=128x", "group=128x must be"},
    {"onebit:group=99999999999999999999", "must be a power of two"},
    {"onebit:group=4294967424", "must be a power of two"}, /* 128 modulo 2^32 */
    {"onebit:scale=men", "unknown value of 'scale' 'men'; did you mean 'mean'?"},
    {"onebit:scale=", "value of 'scale' is missing"},
    {"onebit:scale=mean=rms", "unknown value of 'scale' 'mean=rms'"},
    {"onebit:group=128,group=128", "option 'group' is given twice"},
    {"onebit:type=bf16", "'type' is an option of 'cast', not of 'onebit'"},
    {"cast:group=128", "option 'group' goes with type=fp8e4m3 and type=fp8e5m2 only"},
    {"cast:type=fp16,group=512", "option 'group' goes with"},
    {"cast:type=fp8", "unknown value of 'type' 'fp8'; did you mean 'fp16'?"},
    {"cast:type=fp8e4m3,group=0", "group=0 must be a power of two"},
    {"cast:scale=rms", "'scale' is an option of 'onebit', not of 'cast'"},
    {"cast:type=bf61", "unknown value of 'type' 'bf61'; did you mean 'bf16'?"},
    {"none:group=128", "'none' takes no option (this one belongs to 'cast')"},
    {"none:x=1", "'none' takes no option"},
    {"none:", "'none' takes no option"},
    {"ternary:scale=mean", "'scale' is an option of 'onebit', not of 'ternary'"},
    {"ternary:bits=2", "'bits' is an option of 'quant', not of 'ternary'"},
    {"ternary:density=0", "density=0 must be above 0"},
    {"ternary:density=0.1,rounding=nearest", "option 'rounding' goes without density=... only"},
    {"ternary:seed=1,density=0.1", "option 'seed' goes without density=... only"},
    {"ternary:select=exact", "option 'select' goes with density=... only"},
    {"topk:values=(ternary:density=0.1)", "must be a codec of fixed rate"},
    {"tenrary", "unknown codec 'tenrary'; did you mean 'ternary'?"},
    {"randk:scale=mean", "unknown value of 'scale' 'mean'; did you mean 'none'?"},
    {"randk:density=0", "density=0 must be above 0 and at most 1"},
    {"randk:group=128", "'group' is an option of 'cast', not of 'randk'; did you mean"},
    {"randk:scale=unbiased+ef", "scale=unbiased loses more than there is, so it goes without feedback"},
    {"powersgd:rank=0", "rank=0 must be a number, 1..128"},
    {"powersgd:rank=129", "rank=129 must be a number, 1..128"},
    {"powersgd:iterations=17", "iterations=17 must be a number, 1..16"},
    {"powersgd:warm_start=2", "warm_start=2 must be a number, 0..1"},
    {"powersgd:columns=4294967296", "columns=4294967296 must be a number, 0..4294967295"},
    {"powersgd:colums=5", "unknown option 'colums'; did you mean 'columns'?"},
    {"powergsd", "unknown codec 'powergsd'; did you mean 'powersgd'?"},
    {"onebit:rank=4", "'rank' is an option of 'powersgd', not of 'onebit'"},
    {"radnk", "unknown codec 'radnk'; did you mean 'randk'?"},
    {"topk:values=(randk)", "must be a codec of fixed rate, without feedback, seed and density"},
    {"quant:bits=5", "unknown value of 'bits' '5'; did you mean '8'?"},
    {"quant:bits=", "value of 'bits' is missing"},
    {"quant:scale=mean", "unknown value of 'scale' 'mean'; did you mean 'mse'?"},
    {"onebit:scale=mse", "unknown value of 'scale' 'mse'; did you mean 'rms'?"},
    {"quant:rounding=up", "unknown value of 'rounding' 'up'"},
    {"quant:rotate=hadamrad", "did you mean 'hadamard'?"},
    {"quant:seed=4294967296", "seed=4294967296 must be a number, 0..4294967295"},
    {"quant:seed=18446744073709551617", "must be a number, 0..4294967295"}, /* 1 modulo 2^64 */
    {"quant:seed=-1", "seed=-1 must be a number"},
    {"quant:group=100", "group=100 must be a power of two, 128..4096"},
    {"onebit:bits=4", "'bits' is an option of 'quant', not of 'onebit'"},
    {"quan", "unknown codec 'quan'; did you mean 'quant'?"},
    {"onebit\n;x", "unknown codec 'onebit?;x'"}, /* stays one line */
};

static void wrong_text_is_named(void) {
    for (size_t i = 0; i < UNIT_COUNT(wrong); i++) {
        tw_spec s, before;
        memset(&before, 0x5a, sizeof before);
        s = before;
        CU_ASSERT_EQUAL(tw_spec_parse(wrong[i].text, &s), TW_ERR_ARG);
        unit_has(tw_last_error(), wrong[i].sentence);
        CU_ASSERT_EQUAL(memcmp(&s, &before, sizeof s), 0);
    }
}

static void parse_n_uses_its_length_and_name(void) {
    tw_spec s = TW_SPEC_INIT;
    char far[1000];
    CU_ASSERT_EQUAL(tw_spec_parse_n("onebit+efX", 9, "rule 2", &s), TW_OK);
    CU_ASSERT_EQUAL(s.feedback, TW_FEEDBACK_EF);
    CU_ASSERT_EQUAL(tw_spec_parse_n("onebit+efX", 10, "rule 2", &s), TW_ERR_ARG);
    unit_has(tw_last_error(), "rule 2: spec 'onebit+efX': unknown feedback 'efX'");
    CU_ASSERT_EQUAL(tw_spec_parse_n("none", 0, "rule 3", &s), TW_ERR_ARG);
    unit_has(tw_last_error(), "rule 3: spec '': codec is missing");
    CU_ASSERT_EQUAL(tw_spec_parse_n("no\0ne", 5, NULL, &s), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_spec_parse_n(NULL, 5, "rule 4", &s), TW_ERR_ARG);
    unit_has(tw_last_error(), "rule 4: spec text is NULL");
    CU_ASSERT_EQUAL(tw_spec_parse(NULL, &s), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_spec_parse("none", NULL), TW_ERR_ARG);
    memset(far, 'x', sizeof far);
    CU_ASSERT_EQUAL(tw_spec_parse_n(far, sizeof far, NULL, &s), TW_ERR_ARG);
    unit_has(tw_last_error(), "xxx...'");
    unit_has(tw_last_error(), "did you mean '");
}

/* Every struct that the text can make, and every struct one step from it. */
static void structs_are_checked(void) {
    static const uint16_t small[] = {0, 1, 2, 3, 5, 0xffff}; /* the codecs without a field of more */
    static const uint32_t groups[] = {0, 1, 64, 128, 129, 256, 512, 1024, 2048, 4096, 4097, 8192, 0x80000000u};
    unsigned accepted = 0, tried = 0, bad = 0;
    for (size_t k = 0; k < 6 * 6 * 6 * 6 * UNIT_COUNT(groups); k++) {
        tw_spec s = {sizeof s, small[k % 6], small[k / 6 % 6], small[k / 36 % 6], small[k / 216 % 6], groups[k / 1296]};
        char text[64];
        int n = tw_spec_format(&s, text, sizeof text);
        tried++;
        CU_ASSERT_EQUAL(n < 0, tw_spec_check(&s) != TW_OK);
        if (n < 0)
            continue;
        tw_spec again;
        accepted++;
        bad += tw_spec_parse(text, &again) != TW_OK || memcmp(&s, &again, sizeof s) != 0;
    }
    CU_ASSERT_EQUAL(bad, 0);
    CU_ASSERT_EQUAL(accepted, 2 * (1 + 2 + 6 + 6 * 3)); /* feedbacks x (none, halves, 6 groups x (an fp8, 3 scales)) */
    printf("structs: %u of %u accepted\n", accepted, tried);
}

static void hand_made_structs_are_named(void) {
    tw_spec s = TW_SPEC_INIT;
    s.size--;
    CU_ASSERT_EQUAL(tw_spec_check(&s), TW_ERR_ARG);
    unit_has(tw_last_error(), "size is 63, must be 64");
    s = (tw_spec){sizeof s, 9, 1, 0, 0, 0};
    CU_ASSERT_EQUAL(tw_spec_check(&s), TW_ERR_ARG);
    unit_has(tw_last_error(), "unknown codec id 9");
    s = (tw_spec){sizeof s, 1, 7, 0, 0, 0};
    CU_ASSERT_EQUAL(tw_spec_check(&s), TW_ERR_ARG);
    unit_has(tw_last_error(), "unknown feedback id 7");
    s = (tw_spec){sizeof s, 1, 3, .rate = 1000000000};
    CU_ASSERT_EQUAL(tw_spec_check(&s), TW_ERR_ARG);
    unit_has(tw_last_error(), "rate is 1000000000 of 10^9, which 'decay' does not take");
    s = (tw_spec){sizeof s, 1, 4, .rate = 1};
    CU_ASSERT_EQUAL(tw_spec_check(&s), TW_ERR_ARG);
    unit_has(tw_last_error(), "dgc goes with 'topk' only, not with 'none'");
    s = (tw_spec){sizeof s, 1, 2, .rate = 1};
    CU_ASSERT_EQUAL(tw_spec_check(&s), TW_ERR_ARG);
    unit_has(tw_last_error(), "which 'ef' does not take");
    s = (tw_spec){sizeof s, 1, 1, 0, 0, 128};
    CU_ASSERT_EQUAL(tw_spec_check(&s), TW_ERR_ARG);
    unit_has(tw_last_error(), "group is 128, must be 0 for 'none'");
    s = (tw_spec){sizeof s, TW_CODEC_CAST, 1, TW_F32, 0, 0};
    CU_ASSERT_EQUAL(tw_spec_check(&s), TW_ERR_ARG);
    unit_has(tw_last_error(), "type is 1, which 'cast' does not know");
    CU_ASSERT_EQUAL(tw_spec_check(NULL), TW_ERR_ARG);
}

static void format_behaves_as_snprintf(void) {
    tw_spec s;
    char text[9] = "zzzzzzzz";
    CU_ASSERT_EQUAL(tw_spec_parse("onebit:group=2048,scale=rms+ef", &s), TW_OK);
    CU_ASSERT_EQUAL(tw_spec_format(&s, NULL, 0), 30);
    CU_ASSERT_EQUAL(tw_spec_format(&s, text, 8), 30);
    CU_ASSERT_STRING_EQUAL(text, "onebit:");
    CU_ASSERT_EQUAL(tw_spec_format(&s, NULL, 5), TW_ERR_ARG);
    CU_ASSERT_EQUAL(tw_spec_format(NULL, text, 8), TW_ERR_ARG);
    CU_ASSERT_STRING_EQUAL(text, "onebit:");
}

static void equal_looks_at_all_fields(void) {
    const tw_spec a = {sizeof a, TW_CODEC_ONEBIT, TW_FEEDBACK_EF, 0, TW_SCALE_RMS, 512};
    for (int i = 0; i < 11; i++) {
        tw_spec b = a;
        b.codec = (uint16_t)(b.codec + (i == 0));
        b.feedback = (uint16_t)(b.feedback + (i == 1));
        b.type = (uint16_t)(b.type + (i == 2));
        b.scale = (uint16_t)(b.scale + (i == 3));
        b.group += i == 4;
        b.bits = i == 6;
        b.rounding = i == 7;
        b.rotate = i == 8;
        b.seed = i == 9;
        b.rate = i == 10;
        CU_ASSERT_EQUAL(tw_spec_equal(&a, &b), i == 5);
    }
}

/* Those of quant, one field after another off. */
static void quant_structs_are_checked(void) {
    static const uint16_t bits[] = {8, 6, 4, 3, 2}, scales[] = {TW_SCALE_ABSMAX, TW_SCALE_MINMAX, TW_SCALE_MSE};
    unsigned accepted = 0, bad = 0;
    for (uint32_t k = 0; k < 5 * 3 * 2 * 2 * 6; k++) {
        tw_spec s = {sizeof s, TW_CODEC_QUANT, 2, 0, scales[k / 5 % 3], 128u << (k / 60), bits[k % 5], 0, 0, 0, k},
                again;
        char text[128];
        s.rounding = (uint16_t)(1 + k / 15 % 2);
        s.rotate = (uint16_t)(1 + k / 30 % 2);
        accepted += tw_spec_check(&s) == TW_OK;
        bad += tw_spec_format(&s, text, sizeof text) < 0 || tw_spec_parse(text, &again) != TW_OK ||
               memcmp(&s, &again, sizeof s) != 0;
        for (int field = 0; field < 7; field++) {
            tw_spec t = s;
            t.type = field == 0;
            t.scale = field == 1 ? TW_SCALE_RMS : t.scale;
            t.group = field == 2 ? 0 : t.group;
            t.bits = field == 3 ? 7 : t.bits;
            t.rounding = field == 4 ? 3 : t.rounding;
            t.rotate = field == 5 ? 0 : t.rotate;
            t.select = field == 6;
            bad += tw_spec_check(&t) != TW_ERR_ARG;
        }
    }
    CU_ASSERT_EQUAL(accepted, 5 * 3 * 2 * 2 * 6);
    CU_ASSERT_EQUAL(bad, 0);
}

/* Random text: bytes, and pieces of the grammar glued together. Never a crash; what is accepted comes back. */
static void random_text_is_harmless(void) {
    static const char *const pieces[] = {
        "quant", "bits", "8",  "seed", "7",     "rotate", "hadamard", "none",  "cast", "onebit", ":",   "+",    "=",
        ",",     " ",    "ef", "type", "group", "scale",  "mean",     "rms",   "bf16", "fp16",   "128", "4096", "1024",
        "\t",    "x",    "",   "none", ":",     "+",      "=",        "decay", "beta", "0.5",    "dgc", "topk"};
    unit_rng r = unit_seeded("random text");
    unsigned accepted = 0, lost = 0, silent = 0;
    for (int k = 0; k < 200000; k++) {
        char text[256];
        size_t n = 0;
        if (k % 2) {
            n = unit_below(&r, sizeof text);
            for (size_t i = 0; i < n; i++)
                text[i] = (char)unit_below(&r, 256);
        } else {
            for (uint32_t i = unit_below(&r, 12); i; i--) {
                const char *piece = pieces[unit_below(&r, UNIT_COUNT(pieces))];
                memcpy(text + n, piece, strlen(piece));
                n += strlen(piece);
            }
        }
        char *exact = malloc(n ? n : 1); /* on the heap: a sanitizer sees a byte too many */
        memcpy(exact, text, n);
        tw_spec s, again;
        tw_set_error("");
        if (tw_spec_parse_n(exact, n, NULL, &s) == TW_OK) {
            int length = tw_spec_format(&s, text, sizeof text);
            accepted++;
            lost += length < 0 || tw_spec_parse(text, &again) != TW_OK || !tw_spec_equal(&s, &again);
        } else {
            silent += *tw_last_error() == '\0';
        }
        free(exact);
    }
    printf("random text: %u accepted\n", accepted);
    CU_ASSERT(accepted > 100);
    CU_ASSERT_EQUAL(lost, 0);
    CU_ASSERT_EQUAL(silent, 0);
}

static void nearest_words(void) {
    static const char *const words[] = {"none", "cast", "onebit"};
    static const struct {
        const char *word, *nearest;
    } cases[] = {{"nona", "none"}, {"csat", "cast"}, {"1bit", "onebit"},
                 {"CAST", "cast"}, {"", "none"},     {"bits", "onebit"}};
    static char huge[1 << 20];
    for (size_t i = 0; i < UNIT_COUNT(cases); i++)
        CU_ASSERT_STRING_EQUAL(tw_nearest_word(cases[i].word, strlen(cases[i].word), words, 3), cases[i].nearest);
    CU_ASSERT_PTR_NULL(tw_nearest_word("x", 1, words, 0));
    memset(huge, 'o', sizeof huge);
    CU_ASSERT_PTR_NOT_NULL(tw_nearest_word(huge, sizeof huge, words, 3));
    const char *const long_valid[] = {huge};
    huge[sizeof huge - 1] = '\0';
    CU_ASSERT_PTR_EQUAL(tw_nearest_word("none", 4, long_valid, 1), huge);
}

/* Parentheses nest, and each takes some stack. */
static void long_texts_are_refused(void) {
    static char text[300000];
    tw_spec s;
    for (size_t levels = 1; levels < 20000; levels *= 10) {
        text[0] = 0;
        char *end = text;
        for (size_t i = 0; i < levels; i++)
            end += sprintf(end, "topk:values=(");
        sprintf(end, "none");
        CU_ASSERT_EQUAL(tw_spec_parse(text, &s), TW_ERR_ARG);
    }
    unit_has(tw_last_error(), "a spec has 1023 at most");
}

static void codec_rows_are_in_place(void) {
    static const tw_codec *const rows[] = {&tw_codec_none,    &tw_codec_cast, &tw_codec_onebit, &tw_codec_quant,
                                           &tw_codec_ternary, &tw_codec_topk, &tw_codec_randk,  &tw_codec_powersgd};
    CU_ASSERT_PTR_NULL(tw_codec_get(0));
    CU_ASSERT_PTR_NULL(tw_codec_get(TW_CODECS));
    CU_ASSERT_PTR_NULL(tw_codec_get(UINT32_MAX));
    for (uint32_t id = 1; id < TW_CODECS; id++) {
        const tw_codec *c = tw_codec_get(id);
        tw_spec s;
        CU_ASSERT_PTR_NOT_NULL_FATAL(c);
        CU_ASSERT_PTR_EQUAL(c, rows[id - 1]);
        CU_ASSERT_EQUAL(c->wire_id, id);
        CU_ASSERT_EQUAL(c->wire_version, 1);
        CU_ASSERT_EQUAL(tw_spec_parse(c->name, &s), TW_OK); /* the row's name is the word in the text */
        CU_ASSERT_EQUAL(s.codec, id);
        uint32_t tiled = TW_TRAIT_TILED | TW_TRAIT_FIXED_RATE;
        uint32_t kind = id == TW_CODEC_TOPK ? TW_TRAIT_SPARSE : id == TW_CODEC_POWERSGD ? TW_TRAIT_LOWRANK : tiled;
        CU_ASSERT_EQUAL(c->traits(&s) & (tiled | TW_TRAIT_SPARSE | TW_TRAIT_LOWRANK), kind);
        CU_ASSERT_EQUAL(c->bytes == NULL, c->most != NULL);
        for (int t = TW_F32; t <= TW_BF16; t++)
            CU_ASSERT_EQUAL(c->roundings(&s, (tw_dtype)t),
                            id >= TW_CODEC_ONEBIT || (id == TW_CODEC_CAST && t != TW_BF16));
    }
}

/* What payloads of a spec are, not of its codec. */
static void traits_follow_the_spec(void) {
    static const struct {
        const char *text;
        uint32_t linear, exact, rounds; /* rounds: a bit for each dtype */
    } rows[] = {{"none", 1, 1, 0},
                {"cast:type=bf16", 1, 0, 1u << TW_F32 | 1u << TW_F16},
                {"cast:type=fp16", 1, 0, 1u << TW_F32 | 1u << TW_BF16},
                {"cast:type=fp8e4m3", 0, 0, 1u << TW_F32 | 1u << TW_F16 | 1u << TW_BF16},
                {"cast:type=fp8e5m2", 0, 0, 1u << TW_F32 | 1u << TW_F16 | 1u << TW_BF16},
                {"onebit", 0, 0, 1u << TW_F32 | 1u << TW_F16 | 1u << TW_BF16},
                {"ternary", 0, 0, 1u << TW_F32 | 1u << TW_F16 | 1u << TW_BF16},
                {"randk", 1, 0, 1u << TW_F32 | 1u << TW_F16 | 1u << TW_BF16}};
    for (size_t i = 0; i < UNIT_COUNT(rows); i++) {
        tw_spec s;
        CU_ASSERT_EQUAL(tw_spec_parse(rows[i].text, &s), TW_OK);
        const tw_codec *c = tw_codec_get(s.codec);
        CU_ASSERT_EQUAL((c->traits(&s) & TW_TRAIT_LINEAR) != 0, rows[i].linear);
        CU_ASSERT_EQUAL((c->traits(&s) & TW_TRAIT_EXACT) != 0, rows[i].exact);
        for (int t = TW_F32; t <= TW_BF16; t++)
            CU_ASSERT_EQUAL(c->roundings(&s, (tw_dtype)t), rows[i].rounds >> t & 1);
    }
}

static uint32_t expected_bytes(const tw_spec *s, uint32_t n, tw_dtype t) {
    if (s->codec == TW_CODEC_QUANT)
        return (n + s->group - 1) / s->group * (s->scale == TW_SCALE_MINMAX ? 8 : 4) + (n + 31) / 32 * 32 / 8 * s->bits;
    if (s->codec == TW_CODEC_RANDK)
        return 4 *
               (n && 2 * (uint64_t)n * s->density < 1000000000 ? 1 : (uint32_t)((double)n * s->density / 1e9 + 0.5));
    if (s->codec == TW_CODEC_TERNARY)
        return (n + s->group - 1) / s->group * 4 + (n + 31) / 32 * 8;
    if (tw_type_is_fp8(s->type))
        return (n + s->group - 1) / s->group * 4 + (n + 3) / 4 * 4;
    uint32_t raw = s->codec == TW_CODEC_NONE ? n * (t == TW_F32 ? 4 : 2)
                   : s->codec == TW_CODEC_CAST
                       ? n * 2
                       : (n + s->group - 1) / s->group * (s->scale == TW_SCALE_TWOSIDED ? 8 : 4) + (n + 7) / 8;
    return (raw + 3) / 4 * 4;
}

static void tile_bytes(void) {
    unsigned bad = 0;
    for (size_t i = 0; i < UNIT_COUNT(good); i++)
        for (int t = TW_F32; t <= TW_BF16 && tw_codec_get(good[i].spec.codec)->bytes; t++)
            for (uint32_t n = 0; n <= TW_MAX_TILE; n++) {
                const tw_spec *s = &good[i].spec;
                uint32_t b = tw_codec_get(s->codec)->bytes(s, n, (tw_dtype)t);
                bad += b != expected_bytes(s, n, (tw_dtype)t) || b % 4 != 0 || (n == 0 && b != 0) ||
                       tw_spec_bound(s, n, (tw_dtype)t) != b;
            }
    CU_ASSERT_EQUAL(bad, 0);
}

static void layer_bytes_in_64_bits(void) {
    const uint64_t big = UINT64_C(1) << 40;
    tw_spec none = TW_SPEC_INIT, cast, bits;
    CU_ASSERT_EQUAL(tw_spec_parse("cast", &cast), TW_OK);
    CU_ASSERT_EQUAL(tw_spec_parse("onebit:group=1024", &bits), TW_OK);
    CU_ASSERT_EQUAL(tw_spec_bound(&none, big, TW_F32), big * 4);
    CU_ASSERT_EQUAL(tw_spec_bound(&none, big + 1, TW_BF16), big * 2 + 4);
    CU_ASSERT_EQUAL(tw_spec_bound(&cast, big, TW_F32), big * 2);
    CU_ASSERT_EQUAL(tw_spec_bound(&bits, big, TW_F32), big / 4096 * (16 + 512));
    CU_ASSERT_EQUAL(tw_spec_bound(&bits, big + 1025, TW_F32), big / 4096 * (16 + 512) + 8 + 132);
    CU_ASSERT_EQUAL(tw_spec_bound(&none, UINT64_MAX / 4, TW_F32), UINT64_MAX / 4 * 4);
    CU_ASSERT_EQUAL(tw_spec_bound(&none, UINT64_MAX / 4 + 1, TW_F32), UINT64_MAX); /* saturates */
    CU_ASSERT_EQUAL(tw_spec_bound(&none, UINT64_MAX, TW_F32), UINT64_MAX);
    CU_ASSERT_EQUAL(tw_spec_bound(&cast, UINT64_MAX, TW_F32), UINT64_MAX);
    CU_ASSERT_EQUAL(tw_spec_bound(&bits, UINT64_MAX, TW_F32),
                    UINT64_MAX / 4096 * 528 + 528); /* the last tile lacks one */
    for (uint64_t n = 0; n < 20000; n += 7) {       /* tile by tile */
        uint64_t sum = 0;
        for (uint64_t left = n; left; left -= left < 4096 ? left : 4096)
            sum += tw_codec_onebit.bytes(&bits, left < 4096 ? (uint32_t)left : 4096, TW_F32);
        CU_ASSERT_EQUAL(tw_spec_bound(&bits, n, TW_F32), sum);
    }
}

static void bound_refuses_nonsense(void) {
    tw_spec s = TW_SPEC_INIT;
    CU_ASSERT_EQUAL(tw_spec_bound(NULL, 10, TW_F32), 0);
    CU_ASSERT_EQUAL(tw_spec_bound(&s, 10, (tw_dtype)0), 0);
    unit_has(tw_last_error(), "unknown dtype 0");
    s.codec = 77;
    CU_ASSERT_EQUAL(tw_spec_bound(&s, 10, TW_F32), 0);
    unit_has(tw_last_error(), "unknown codec id 77");
}

static void dtypes(void) {
    CU_ASSERT_EQUAL(tw_dtype_size(TW_F32), 4);
    CU_ASSERT_EQUAL(tw_dtype_size(TW_F16), 2);
    CU_ASSERT_EQUAL(tw_dtype_size(TW_BF16), 2);
    CU_ASSERT_EQUAL(tw_dtype_size((tw_dtype)0), 0);
    CU_ASSERT_EQUAL(tw_dtype_size((tw_dtype)-1), 0);
    CU_ASSERT_STRING_EQUAL(tw_dtype_name(TW_F32), "fp32");
    CU_ASSERT_STRING_EQUAL(tw_dtype_name(TW_F16), "fp16");
    CU_ASSERT_STRING_EQUAL(tw_dtype_name(TW_BF16), "bf16");
    CU_ASSERT_STRING_EQUAL(tw_dtype_name((tw_dtype)4), "?");
}

int main(void) {
    static const unit_test tests[] = {
        UNIT_TEST(good_text_is_read_and_written),
        UNIT_TEST(wrong_text_is_named),
        UNIT_TEST(parse_n_uses_its_length_and_name),
        UNIT_TEST(structs_are_checked),
        UNIT_TEST(quant_structs_are_checked),
        UNIT_TEST(hand_made_structs_are_named),
        UNIT_TEST(format_behaves_as_snprintf),
        UNIT_TEST(equal_looks_at_all_fields),
        UNIT_TEST(random_text_is_harmless),
        UNIT_TEST(nearest_words),
        UNIT_TEST(long_texts_are_refused),
        UNIT_TEST(codec_rows_are_in_place),
        UNIT_TEST(traits_follow_the_spec),
        UNIT_TEST(tile_bytes),
        UNIT_TEST(layer_bytes_in_64_bits),
        UNIT_TEST(bound_refuses_nonsense),
        UNIT_TEST(dtypes),
    };
    return unit_main("spec", tests, UNIT_COUNT(tests));
}
