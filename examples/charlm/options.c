/* SPDX-License-Identifier: BSD-3-Clause */
#include "options.h"
#include "bits.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { INTEGER, REAL, SEED, WORD, TEXT, SWITCH, HEADING } kind;

typedef struct option {
    const char *name, *value; /* for WORD, value lists the words: "a|b" */
    kind kind;
    size_t at; /* offset in struct options */
    double low, high;
    const char *help;
} option;

#define AT(member) offsetof(options, member)
static const option table[] = {
    {"Where it runs", 0, HEADING, 0, 0, 0, 0},
    {"transport", "auto|mpi|local", WORD, AT(transport), 0, 0, "auto: mpi if mpirun started it, else local threads"},
    {"ranks", "P", INTEGER, AT(ranks), 1, 64, "workers of --transport local (4)"},
    {"progress", "poll|thread", WORD, AT(progress), 0, 0,
     "who moves frames: the library's calls, or its own thread (poll)"},
    {"What crosses the wire", 0, HEADING, 0, 0, 0, 0},
    {"rules", "TEXT", TEXT, AT(rules), 0, 0,
     "codec by layer name (\"*.bias=none; *=onebit+ef\"); plain fp32 is \"*=none\""},
    {"algo", "sra|native|auto", WORD, AT(algo), 0, 0,
     "sra: same bits on every transport; native: the transport's own sum (sra)"},
    {"Training", 0, HEADING, 0, 0, 0, 0},
    {"steps", "N", INTEGER, AT(steps), 1, 1e9, "optimizer steps (1000)"},
    {"batch", "N", INTEGER, AT(batch), 1, 65536, "samples per worker and step (32)"},
    {"optimizer", "sgd|adam", WORD, AT(optimizer), 0, 0, "SGD with momentum, or Adam (sgd)"},
    {"lr", "X", REAL, AT(lr), 1e-9, 1e3, "peak learning rate (sgd 0.25, adam 0.001); warm-up, then cosine to 0"},
    {"warmup", "N", INTEGER, AT(warmup), 0, 1e9, "steps of warm-up (a tenth, at most 200)"},
    {"momentum", "X", REAL, AT(momentum), 0, 0.9999, "of SGD (0.5)"},
    {"seed", "N", SEED, AT(seed), 0, 0, "of weights and of data order (1)"},
    {"Model and text", 0, HEADING, 0, 0, 0, 0},
    {"context", "N", INTEGER, AT(context), 1, 1024, "characters that the model sees (16)"},
    {"embed", "N", INTEGER, AT(embed), 1, 4096, "width of a character (64)"},
    {"hidden", "N", INTEGER, AT(hidden), 1, 65536, "width of the two hidden layers (1024)"},
    {"text", "FILE|FOLDER", TEXT, AT(text), 0, 0, "a file, or a folder's .py files (python3's standard library)"},
    {"eval-every", "N", INTEGER, AT(eval_every), 1, 1e9, "steps between evaluations (a tenth of the steps)"},
    {"eval-chars", "N", INTEGER, AT(eval_chars), 1, 1e9, "held-out characters to predict, evenly spread (16384)"},
    {"What is written", 0, HEADING, 0, 0, 0, 0},
    {"json", "FILE", TEXT, AT(json), 0, 0, "figures and curve of this run"},
    {"record", "FOLDER", TEXT, AT(record), 0, 0,
     "gradients of the first, middle and last step, an .npy a layer and rank"},
    {"plot", "FILE.svg", TEXT, AT(plot), 0, 0, "held-out loss against time and against bytes"},
    {"plot-from", "A.json,B.json", TEXT, AT(plot_from), 0, 0,
     "no training: --plot overlays these runs (equal labels share a colour)"},
    {"panels", "LIST", TEXT, AT(panels), 0, 0, "of the plot: any of steps,time,bytes (time,bytes)"},
    {"title", "TEXT", TEXT, AT(title), 0, 0, "of the plot"},
    {"label", "TEXT", TEXT, AT(label), 0, 0, "of this run (the rules)"},
    {"layers", 0, SWITCH, AT(layers), 0, 0, "no training: the model's layers as JSON, for thinwire-plan"},
    {"quiet", 0, SWITCH, AT(quiet), 0, 0, "no progress on stderr"},
    {"help", 0, SWITCH, AT(help), 0, 0, "this text"},
};
enum { TABLE = sizeof table / sizeof *table };

void options_help(void) {
    puts("charlm: trains a character language model on several workers whose gradients Thinwire averages.\n\n"
         "usage: charlm [options]                            4 workers, threads of this process\n"
         "       mpirun -n 4 charlm [options]                MPI ranks\n"
         "       charlm --plot-from A.json,B.json --plot FILE.svg");
    for (const option *o = table; o < table + TABLE; o++) {
        char left[64];
        if (o->kind == HEADING) {
            printf("\n%s:\n", o->name);
            continue;
        }
        snprintf(left, sizeof left, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-29s %s\n", left, o->help);
    }
    puts("\nexit status: 0 done and replicas identical, 1 failed while running or output lost, 2 wrong usage");
}

static size_t edits(const char *a, const char *b) /* Levenshtein; words here are short */
{
    size_t row[64], n = strlen(b);
    if (n > 63)
        return 64;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return row[n];
}

static const option *find(const char *name) {
    const option *nearest = NULL;
    size_t least = 64;
    for (const option *o = table; o < table + TABLE; o++) {
        size_t d = o->kind == HEADING ? 64 : edits(name, o->name);
        if (d == 0)
            return o;
        if (d < least)
            least = d, nearest = o;
    }
    if (least <= 3)
        fail(2, "no option --%s; did you mean --%s?", name, nearest->name);
    fail(2, "no option --%s; see charlm --help", name);
}

static int word_index(const option *o, const char *value) {
    size_t length = strlen(value);
    int i = 0;
    for (const char *w = o->value; *w; i++) {
        size_t n = strcspn(w, "|");
        if (n == length && !strncmp(w, value, n))
            return i;
        w += n + (w[n] == '|');
    }
    fail(2, "--%s is one of %s, not \"%s\"", o->name, o->value, value);
}

static void set(options *all, const option *o, const char *value) {
    char *place = (char *)all + o->at, *end;
    if (o->kind == TEXT)
        *(const char **)place = value;
    else if (o->kind == WORD)
        *(int *)place = word_index(o, value);
    else if (o->kind == SEED) {
        errno = 0;
        *(uint64_t *)place = strtoull(value, &end, 0);
        if (!*value || *end || errno || strchr(value, '-'))
            fail(2, "--%s takes a number from 0 to 2^64-1, not \"%s\"", o->name, value);
    } else {
        double x = strtod(value, &end);
        if (!*value || *end || !(x >= o->low && x <= o->high) || (o->kind == INTEGER && x != floor(x)))
            fail(2, "--%s takes %s from %g to %g, not \"%s\"", o->name,
                 o->kind == INTEGER ? "a whole number" : "a number", o->low, o->high, value);
        if (o->kind == INTEGER)
            *(int *)place = (int)x;
        else
            *(double *)place = x;
    }
}

static void defaults(options *o) {
    if (o->lr == 0)
        o->lr = o->optimizer == OPTIMIZER_ADAM ? 0.001 : 0.25;
    if (o->warmup < 0)
        o->warmup = o->steps < 2000 ? o->steps / 10 : 200;
    if (!o->eval_every)
        o->eval_every = o->steps < 10 ? 1 : o->steps / 10;
    if (!o->label)
        o->label = o->rules;
    if (o->plot_from && !o->plot)
        fail(2, "--plot-from needs --plot FILE.svg, where the plot goes");
}

void options_parse(options *o, int argc, char **argv) {
    *o = (options){.steps = 1000,
                   .batch = 32,
                   .warmup = -1,
                   .context = 16,
                   .embed = 64,
                   .hidden = 1024,
                   .momentum = 0.5,
                   .eval_chars = 16384,
                   .seed = 1,
                   .rules = "*.bias=none; *=onebit+ef",
                   .panels = "time,bytes"};
    for (int i = 1; i < argc; i++) {
        char name[64];
        if (!strcmp(argv[i], "-h"))
            argv[i] = "--help";
        if (strncmp(argv[i], "--", 2))
            fail(2, "\"%s\" is not an option; see charlm --help", argv[i]);
        size_t length = strcspn(argv[i] + 2, "=");
        snprintf(name, sizeof name, "%.*s", length < sizeof name ? (int)length : 63, argv[i] + 2);
        const option *found = find(name);
        const char *value = argv[i][2 + length] ? argv[i] + 3 + length : NULL;
        if (found->kind == SWITCH) {
            if (value)
                fail(2, "--%s takes no value", name);
            *(int *)((char *)o + found->at) = 1;
            continue;
        }
        if (!value && !(value = argv[++i]))
            fail(2, "--%s needs a value: %s", name, found->value);
        set(o, found, value);
    }
    defaults(o);
}
