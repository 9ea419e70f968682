/* SPDX-License-Identifier: BSD-3-Clause */
#include "codec_tool.h"

#include <stdlib.h>
#include "bench_common.h"

enum {
    O_OUTPUT = 1,
    O_FORCE,
    O_SPEC,
    O_RULES,
    O_STEP,
    O_CHUNK,
    O_FROM,
    O_TO,
    O_DTYPE,
    O_SHAPE,
    O_NAME,
    O_SCALE,
    O_TENSOR,
    O_DECODE,
    O_JSON,
    O_PROGRESS,
    O_QUIET,
    O_HELP
};

#define WRITES (CODEC_COMPRESS | CODEC_DECOMPRESS | CODEC_DIFF | CODEC_APPLY)
#define CODES  (CODEC_COMPRESS | CODEC_DIFF)
#define READS  (CODEC_COMPRESS | CODEC_DIFF | CODEC_APPLY)
#define ALL    (WRITES | CODEC_INSPECT)
static const struct {
    unsigned commands;
    bc_opt opt;
} table[] = {
    {WRITES,
     {O_OUTPUT, 'o', "output", "FILE", "where to; \"-\": standard output. compress F: F.tw; decompress F.tw: F"}},
    {WRITES, {O_FORCE, 'f', "force", NULL, "replace an output that exists"}},
    {CODES, {O_SPEC, 's', "spec", "SPEC", "codec of all tensors, such as onebit:group=1024 (docs/codecs.md)"}},
    {CODES, {O_RULES, 'r', "rules", "RULES", "codecs by tensor name, the first match wins: \"*.bias=none; *=onebit\""}},
    {CODES, {O_STEP, 0, "step", "N", "for rules with \"until\" and for random numbers (0)"}},
    {CODES, {O_CHUNK, 0, "chunk", "TILES", "4096 values times this to a chunk, 1 to 1024 (256)"}},
    {READS, {O_FROM, 0, "from", "KIND", "of inputs: raw, npy, safetensors. Default: by name"}},
    {CODEC_DECOMPRESS | CODEC_APPLY,
     {O_TO, 0, "to", "KIND", "of the output: raw, npy, safetensors. Default: by name, else as it was"}},
    {READS,
     {O_DTYPE, 0, "dtype", "DTYPE",
      "of raw inputs: fp32, fp16, bf16, or one that is carried as it is:\n"
      "fp64, i64, i32, i16, i8, u64, u32, u16, u8, bool, ..."}},
    {READS, {O_SHAPE, 0, "shape", "N,N", "of raw inputs (what the file holds, in one dimension); \"[]\": one value"}},
    {READS, {O_NAME, 0, "name", "NAME", "of the tensor in raw and npy inputs (tensor)"}},
    {CODEC_APPLY, {O_SCALE, 0, "scale", "S", "what the differences are multiplied by (1)"}},
    {CODEC_DECOMPRESS, {O_TENSOR, 0, "tensor", "NAME", "only this one"}},
    {CODEC_INSPECT, {O_DECODE, 0, "decode", NULL, "also decode everything"}},
    {ALL, {O_JSON, 0, "json", "FILE", "also write the report as JSON; \"-\": to standard output, without the table"}},
    {ALL, {O_PROGRESS, 0, "progress", NULL, "show progress although standard error is no terminal"}},
    {ALL, {O_QUIET, 'q', "quiet", NULL, "no table"}},
    {ALL, {O_HELP, 'h', "help", NULL, "this text"}},
};

static const struct command {
    const char *word, *files, *text;
    codec_command id;
    int nfiles;
} commands[] = {
    {"compress", "FILE", "tensors of a raw, .npy or .safetensors file through codecs", CODEC_COMPRESS, 1},
    {"decompress", "FILE", "back into such a file", CODEC_DECOMPRESS, 1},
    {"inspect", "FILE", "what a compressed file holds; verifies all checksums", CODEC_INSPECT, 1},
    {"diff", "BASE TUNED", "the difference of two checkpoints through codecs", CODEC_DIFF, 2},
    {"apply", "BASE FILE", "adds such a difference to a checkpoint", CODEC_APPLY, 2},
};

void codec_help(FILE *to) {
    fputs("Usage: thinwire-codec COMMAND [options] FILE...\n\n", to);
    for (size_t i = 0; i < TW_ARRAY_LEN(commands); i++)
        fprintf(to, "  %-10s %-10s  %s\n", commands[i].word, commands[i].files, commands[i].text);
    fputs("\n  -h, --help       this text; `thinwire-codec COMMAND --help` lists the options of a command\n"
          "      --version    version of the library that is loaded\n\n"
          "\"-\" is standard input or output. Exit status: 0; 1 a file could not be read or written; 2 the command "
          "line was "
          "wrong;\n3 an input is damaged; 4 an input is whole but cannot be handled. Without 0 no output is written.\n",
          to);
}

static const struct command *find_command(const char *word) {
    for (size_t i = 0; i < TW_ARRAY_LEN(commands); i++)
        if (!strcmp(commands[i].word, word))
            return &commands[i];
    return NULL;
}

/* "3,4", "3x4", "[3, 4]", "()" */
static bool parse_shape(const char *text, tc_raw *raw) {
    raw->dims = 0;
    raw->has_shape = true;
    text += strspn(text, "[( ");
    for (bool more = *text && !strchr("])", *text); more;) {
        char *end;
        if (*text < '0' || *text > '9' || raw->dims == TC_MOST_DIMS)
            return false;
        unsigned long long v = strtoull(text, &end, 10);
        if (v > TC_MOST_BYTES)
            return false;
        raw->shape[raw->dims++] = v;
        text = end + strspn(end, " ");
        more = *text == ',' || *text == 'x';
        text += more;
        text += strspn(text, " ");
        more = more && *text && !strchr("])", *text); /* "(3,)" */
    }
    return text[strspn(text, "]) ")] == 0;
}

static int parse_kind(const bc_args *a, const char *option, const char *word, tc_kind *kind) {
    for (int i = TC_KIND_RAW; i < TC_KINDS; i++)
        if (!strcmp(word, tc_kind_words[i])) {
            *kind = (tc_kind)i;
            return 0;
        }
    return bc_bad_word(a, option, word, tc_kind_words + 1);
}

static int parse_dtype(const bc_args *a, const char *word, uint32_t *dtype) {
    const char *words[TC_DTYPES];
    *dtype = tc_dtype_named(word);
    for (int i = 1; i < TC_DTYPES; i++)
        words[i - 1] = tc_dtypes[i].name;
    words[TC_DTYPES - 1] = NULL;
    return *dtype ? 0 : bc_bad_word(a, "--dtype", word, words);
}

static int take_text(codec_options *o, const bc_args *a, int id, const char *v) {
    switch (id) {
    case O_OUTPUT:
        if (!*v || strlen(v) >= sizeof o->output)
            return bc_usage_error(a, "--output: not a name of a file");
        strcpy(o->output, v);
        return 0;
    case O_SPEC:
    case O_RULES:
        if (o->rules_text)
            return bc_usage_error(a, "--spec and --rules: one of them, once");
        o->rules_text = v;
        return 0;
    case O_FROM:
        return parse_kind(a, "--from", v, &o->from);
    case O_TO:
        return parse_kind(a, "--to", v, &o->to);
    case O_DTYPE:
        return parse_dtype(a, v, &o->raw.dtype);
    case O_SHAPE:
        return parse_shape(v, &o->raw) ? 0 : bc_usage_error(a, "--shape: \"%s\" is no list of up to 32 numbers", v);
    case O_NAME:
        o->raw.name = v;
        return tc_is_utf8(v, strlen(v)) ? 0 : bc_usage_error(a, "--name: not UTF-8");
    case O_TENSOR:
        o->tensor = v;
        return 0;
    default:
        o->json = v;
        return 0;
    }
}

static int take_option(codec_options *o, const bc_args *a, int id, const char *v, bool *is_spec) {
    uint64_t n;
    double d;
    switch (id) {
    case O_FORCE:
        o->force = true;
        return 0;
    case O_PROGRESS:
        o->progress = true;
        return 0;
    case O_QUIET:
        o->quiet = true;
        return 0;
    case O_DECODE:
        o->decode = true;
        return 0;
    case O_STEP:
        if (!bc_parse_u64(v, &o->step) || o->step > UINT32_MAX)
            return bc_usage_error(a, "--step: \"%s\" is no number from 0 to 2^32 - 1", v);
        return 0;
    case O_CHUNK:
        if (!bc_parse_u64(v, &n) || n < 1 || n > TC_MOST_CHUNK_TILES)
            return bc_usage_error(a, "--chunk: \"%s\" is no number from 1 to %d", v, TC_MOST_CHUNK_TILES);
        o->chunk_tiles = (uint32_t)n;
        return 0;
    case O_SCALE:
        if (!bc_parse_double(v, &d) || (float)d - (float)d != 0.0f)
            return bc_usage_error(a, "--scale: \"%s\" is no number", v);
        o->scale = (float)d;
        return 0;
    default:
        *is_spec |= id == O_SPEC;
        return take_text(o, a, id, v);
    }
}

/* Output and codecs, once all is read. */
static int complete(codec_options *o, const bc_args *a, bool is_spec) {
    const char *in = o->file[0];
    size_t n = strlen(in);
    if (!*o->output && !strcmp(in, "-") && (o->command & WRITES))
        strcpy(o->output, "-");
    if (!*o->output && o->command == CODEC_COMPRESS && n + 4 < sizeof o->output)
        sprintf(o->output, "%s.tw", in);
    if (!*o->output && o->command == CODEC_DECOMPRESS && n > 3 && n < sizeof o->output && !strcmp(in + n - 3, ".tw"))
        sprintf(o->output, "%.*s", (int)n - 3, in);
    if (!*o->output && (o->command & WRITES))
        return bc_usage_error(a, "--output: where to?");
    if (o->json && !strcmp(o->json, "-") && !strcmp(o->output, "-"))
        return bc_usage_error(a, "--json: the values go to standard output already");
    if (!(o->command & CODES))
        return 0;
    if (!o->rules_text)
        return bc_usage_error(a, "--spec or --rules must say how to encode");
    char text[1024];
    tw_spec s;
    if (is_spec && (tw_spec_parse(o->rules_text, &s) < 0 || strlen(o->rules_text) > 1000))
        return bc_usage_error(a, "--spec: %s", tw_last_error());
    snprintf(text, sizeof text, "*=%s", is_spec ? o->rules_text : "");
    tw_ctx *ctx;
    if (tw_ctx_resolve(NULL, &ctx) < 0 || tw_rules_parse(ctx, is_spec ? text : o->rules_text, &o->rules) < 0)
        return bc_usage_error(a, "%s%s", is_spec ? "" : "--rules: ", tw_last_error());
    return 0;
}

static void command_table(const struct command *c, bc_opt *opts) {
    for (size_t i = 0; i < TW_ARRAY_LEN(table); i++)
        if (table[i].commands & c->id)
            *opts++ = table[i].opt;
    *opts = (bc_opt){0};
}

static void command_help(const struct command *c, const bc_opt *opts) {
    printf("Usage: thinwire-codec %s [options] %s\n%s.\n\n", c->word, c->files, c->text);
    bc_print_options(stdout, opts);
}

tw_status codec_parse(codec_options *o, int argc, char **argv) {
    bc_opt opts[TW_ARRAY_LEN(table) + 1];
    const char *words[TW_ARRAY_LEN(commands) + 1] = {0}, *v;
    const struct command *c = find_command(argv[1]);
    bc_args a = {.program = "thinwire-codec", .argc = argc, .at = 2, .argv = argv};
    bool is_spec = false, only_files = false;
    int files = 0, id = 0;
    *o = (codec_options){.chunk_tiles = 256, .scale = 1.0f};
    for (size_t i = 0; i < TW_ARRAY_LEN(commands); i++)
        words[i] = commands[i].word;
    if (!c)
        return bc_bad_word(&a, "command", argv[1], words), TW_ERR_ARG;
    o->command = c->id;
    command_table(c, opts);
    while (id >= 0 && a.at < argc) {
        const char *word = argv[a.at];
        if (!only_files && !strcmp(word, "--")) {
            only_files = true;
            a.at++;
        } else if (only_files || word[0] != '-' || !word[1]) {
            if (files == c->nfiles)
                return bc_usage_error(&a, "%s takes %s, and nothing more: \"%s\"", c->word, c->files, word), TW_ERR_ARG;
            o->file[files++] = word;
            a.at++;
        } else if ((id = bc_next_option(&a, opts, &v)) == O_HELP) {
            command_help(c, opts);
            return TW_IN_PROGRESS;
        } else if (id > 0 && take_option(o, &a, id, v, &is_spec) < 0) {
            id = -1;
        }
    }
    if (id >= 0 && files < c->nfiles)
        id = bc_usage_error(&a, "%s wants %s (--help lists the options)", c->word, c->files);
    return id < 0 || complete(o, &a, is_spec) < 0 ? TW_ERR_ARG : TW_OK;
}

void codec_options_free(codec_options *o) {
    tw_rules_free(o->rules);
}
