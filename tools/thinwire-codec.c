/* SPDX-License-Identifier: BSD-3-Clause
 *
 * thinwire-codec: files of tensors through the codecs and back. */
#include <stdio.h>

#include "bench_common.h"
#include "codec_tool.h"

static int exit_status(tw_status st) {
    switch ((int)st) {
    case TW_ERR_ARG:
        return CODEC_USAGE;
    case TC_ERR_DAMAGED:
        return CODEC_DAMAGED;
    case TC_ERR_REFUSED:
    case TW_ERR_NONFINITE:
        return CODEC_REFUSED;
    default:
        return st < 0 ? CODEC_FAILED : 0;
    }
}

static tw_status run_command(const codec_options *o) {
    switch (o->command) {
    case CODEC_COMPRESS:
        return codec_compress(o);
    case CODEC_DECOMPRESS:
        return codec_decompress(o);
    case CODEC_DIFF:
        return codec_diff(o);
    case CODEC_APPLY:
        return codec_apply(o);
    default:
        return codec_inspect(o);
    }
}

static int run(int argc, char **argv) {
    codec_options o;
    if (argc < 2) {
        codec_help(stderr);
        return CODEC_USAGE;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        codec_help(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("thinwire-codec %s\n", tw_version_string());
        return 0;
    }
    tw_status st = codec_parse(&o, argc, argv);
    if (st == TW_OK) {
        st = run_command(&o);
        if (st < 0)
            fprintf(stderr, "thinwire-codec: %s\n", tw_last_error());
        codec_options_free(&o);
    }
    return exit_status(st);
}

int main(int argc, char **argv) {
    return bc_end_output("thinwire-codec", run(argc, argv));
}
