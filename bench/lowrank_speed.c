/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Speed of a powersgd step on one core, pass by pass: a program of the tree, since the library does not export them (`make
 * bench/lowrank_speed`). R = M'L, R made orthonormal, L = M R and the residual M - L R', M = gradient + residual, for as many
 * matrices of a shape as lie well out of cache. The step takes turns with two loops that make the same passes over memory
 * and next to no arithmetic (both arrays are read twice, the new residual is written once), and with the same step through
 * OpenBLAS on one thread: the sum to where the residual will be, three sgemm there, our orthonormalising. Before anything is
 * timed the results of both are compared. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "config.h"
#include "../tools/bench_codec.h"
#include "exec/stages.h"
#include "timing.h"
#ifdef HAVE_OPENBLAS
#include <cblas.h>
#else
#define NO_OPENBLAS "none, as configure did not find it"
#endif

enum { VALUES = 16 << 20, UNIT = 1 << 17, MOST_PASSES = 200, WARMUP = 2 };
enum { RIGHT, ORTHO, LEFT, BLAS, READ, ENCODE, TIMES };

static const char usage[] =
    "Usage: lowrank_speed [PASSES [ISA [ROWSxCOLSxRANK[xMATRICES] ...]]]\n"
    "Medians of PASSES turns (15); ISA: best, ref, avx2, avx512, neon; MATRICES: as many as make 64 MiB.\n"
    "Columns: GB/s of gradient by each pass, and the part of its time that a loop with the same reads and writes "
    "needs;\n"
    "microseconds a matrix for making R orthonormal; both for the whole step; GB/s through OpenBLAS, how many times as "
    "fast\n"
    "the library is, and how far apart their results are.\n";

/* ---- matrices ---- */

typedef struct shape {
    uint64_t rows, cols, count;
    uint32_t rank;
} shape;

typedef struct factors {
    float *left, *right; /* one matrix after another */
} factors;

typedef struct work {
    const tw_kernels *k;
    shape s;
    uint64_t n;              /* values of all matrices */
    float *g, *e[2], *spare; /* residuals: read from one, written to the other */
    factors start, ours, blas;
} work;

static void *get(tw_ctx *ctx, uint64_t values) {
    void *p = tw_alloc(ctx, values * sizeof(float));
    if (!p) {
        fprintf(stderr, "lowrank_speed: %s\n", tw_last_error());
        exit(1);
    }
    return p;
}

static factors get_factors(tw_ctx *ctx, const shape *s) {
    return (factors){get(ctx, s->count * s->rows * s->rank), get(ctx, s->count * s->cols * s->rank)};
}

static void fill(float *v, uint64_t n, uint64_t *state) {
    for (uint64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            sum += (float)(*state >> 40) * 0x1p-24f - 0.5f;
        }
        v[i] = sum;
    }
}

static work make_work(tw_ctx *ctx, const tw_kernels *k, shape s) {
    work w = {.k = k, .s = s, .n = s.count * s.rows * s.cols};
    uint64_t state = 1;
    w.g = get(ctx, w.n);
    w.e[0] = get(ctx, w.n);
    w.e[1] = get(ctx, w.n);
    w.spare = get(ctx, 64);
    w.start = get_factors(ctx, &s);
    w.ours = get_factors(ctx, &s);
    w.blas = get_factors(ctx, &s);
    fill(w.g, w.n, &state);
    fill(w.e[0], w.n, &state);
    for (uint64_t i = 0; i < s.count; i++)
        tw_lowrank_start(w.start.left + i * s.rows * s.rank, s.rows, s.rank, &(tw_noise){{(uint32_t)i, 0}, {0, 0}});
    return w;
}

static void free_work(tw_ctx *ctx, work *w) {
    float *all[] = {w->g,           w->e[0],      w->e[1],       w->spare,     w->start.left,
                    w->start.right, w->ours.left, w->ours.right, w->blas.left, w->blas.right};
    for (size_t i = 0; i < TW_ARRAY_LEN(all); i++)
        tw_free(ctx, all[i]);
}

/* ---- the library's step ---- */

static tw_rows rows_of(const work *w, uint64_t matrix, uint64_t first, int turn) {
    const shape *s = &w->s;
    uint64_t each = s->cols < UNIT ? UNIT / s->cols : 1, at = (matrix * s->rows + first) * s->cols;
    return (tw_rows){.g = w->g + at,
                     .e = w->e[turn] + at,
                     .e_new = w->e[!turn] + at,
                     .scale = 1.0f,
                     .weight = 1.0f,
                     .first = first,
                     .n = s->rows - first < each ? s->rows - first : each,
                     .cols = s->cols,
                     .rank = s->rank,
                     .dtype = TW_F32};
}

static void make_orthonormal(const work *w, float *right) {
    for (uint64_t i = 0; i < w->s.count; i++)
        (void)tw_lowrank_orthogonalise(w->k->lowrank, right + i * w->s.rank * w->s.cols, w->s.cols, w->s.rank);
}

/* In units of rows, as a plan cuts them. */
static void library_step(const work *w, int turn, double t[TIMES]) {
    const shape *s = &w->s;
    tw_tile_stat stat = {0};
    double begin = now(), right, ortho;
    memset(w->ours.right, 0, s->count * s->rank * s->cols * sizeof(float));
    for (uint64_t k = 0; k < s->count; k++)
        for (uint64_t i = 0, n; i < s->rows; i += n) {
            tw_rows a = rows_of(w, k, i, turn);
            n = a.n;
            w->k->lowrank->right(&a, w->start.left + (k * s->rows + i) * s->rank,
                                 w->ours.right + k * s->rank * s->cols);
        }
    right = now();
    make_orthonormal(w, w->ours.right);
    ortho = now();
    for (uint64_t k = 0; k < s->count; k++)
        for (uint64_t i = 0, n; i < s->rows; i += n) {
            tw_rows a = rows_of(w, k, i, turn);
            n = a.n;
            w->k->lowrank->left(&a, w->ours.right + k * s->rank * s->cols, w->ours.left + (k * s->rows + i) * s->rank,
                                &stat);
        }
    t[RIGHT] = right - begin;
    t[ORTHO] = ortho - right;
    t[LEFT] = now() - ortho;
}

/* ---- the same through OpenBLAS ---- */

#ifdef HAVE_OPENBLAS
/* The sum is made where the residual will be: no pass more than the products need. */
static void blas_step(const work *w, int turn) {
    const shape *s = &w->s;
    int rows = (int)s->rows, cols = (int)s->cols, rank = (int)s->rank;
    uint64_t each = s->rows * s->cols;
    const float *restrict g = w->g, *restrict e = w->e[turn];
    float *restrict x = w->e[!turn];
    for (uint64_t k = 0; k < s->count; k++) {
        for (uint64_t i = k * each; i < (k + 1) * each; i++)
            x[i] = g[i] + e[i];
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, rank, cols, rows, 1.0f,
                    w->start.left + k * s->rows * s->rank, rank, x + k * each, cols, 0.0f,
                    w->blas.right + k * s->rank * s->cols, cols);
    }
    make_orthonormal(w, w->blas.right);
    for (uint64_t k = 0; k < s->count; k++) {
        float *left = w->blas.left + k * s->rows * s->rank, *right = w->blas.right + k * s->rank * s->cols;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, rank, cols, 1.0f, x + k * each, cols, right, cols,
                    0.0f, left, rank);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, cols, rank, -1.0f, left, rank, right, cols, 1.0f,
                    x + k * each, cols);
    }
}

/* |a - b| / |a|. */
static double apart(const float *a, const float *b, uint64_t n) {
    double off = 0, whole = 0;
    for (uint64_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        whole += (double)a[i] * (double)a[i];
    }
    return sqrt(off / whole);
}

/* Both sum up to thousands of fp32 products in another order each; a wrong factor would be off by about 1. */
static double compare(tw_ctx *ctx, const work *w) {
    const shape *s = &w->s;
    double t[TIMES], off;
    float *kept = get(ctx, w->n);
    library_step(w, 0, t);
    memcpy(kept, w->e[1], w->n * sizeof *kept);
    blas_step(w, 0);
    off = fmax(apart(w->ours.right, w->blas.right, s->count * s->rank * s->cols),
               apart(w->ours.left, w->blas.left, s->count * s->rank * s->rows));
    off = fmax(off, apart(kept, w->e[1], w->n));
    tw_free(ctx, kept);
    if (!(off < 1e-4)) {
        fprintf(stderr, "lowrank_speed: OpenBLAS finds factors that are off by %g of their norm\n", off);
        exit(1);
    }
    return off;
}
#endif

/* ---- measuring ---- */

static double loop(const work *w, int time, int turn, unsigned variant) {
    skeleton s = {.kind = time == READ ? SKELETON_READ : SKELETON_ENCODE, .n = w->n, .g = w->g, .feedback = true};
    s.e = w->e[turn];
    s.out = w->e[!turn];
    s.payload = (uint8_t *)w->spare;
    double begin = now();
    skeleton_run(&s, variant);
    return now() - begin;
}

static unsigned best_variant(const work *w, int time) {
    unsigned best = 0, n = skeleton_variants(w->k->name);
    double least = INFINITY, t[3];
    for (unsigned v = 0; v < n; v++) {
        for (int i = 0; i < 3; i++)
            t[i] = loop(w, time, i % 2, v);
        double mid = median(t, 3);
        best = mid < least ? v : best;
        least = mid < least ? mid : least;
    }
    return best;
}

/* Quotients are taken turn by turn, what stands in a turn is close in time. */
static void take_turns(const work *w, int passes, double t[TIMES][MOST_PASSES]) {
    unsigned read = best_variant(w, READ), encode = best_variant(w, ENCODE);
    for (int i = -WARMUP; i < passes; i++) {
        double one[TIMES] = {0};
        one[READ] = loop(w, READ, i & 1, read);
        one[ENCODE] = loop(w, ENCODE, i & 1, encode);
        library_step(w, i & 1, one);
#ifdef HAVE_OPENBLAS
        double begin = now();
        blas_step(w, i & 1);
        one[BLAS] = now() - begin;
#endif
        for (int k = 0; k < TIMES && i >= 0; k++)
            t[k][i] = one[k];
    }
}

typedef double pick(const double one[TIMES]);

static double whole_step(const double one[TIMES]) {
    return one[RIGHT] + one[ORTHO] + one[LEFT];
}
static double of_read(const double one[TIMES]) {
    return one[READ] / one[RIGHT];
}
static double of_encode(const double one[TIMES]) {
    return one[ENCODE] / one[LEFT];
}
static double of_loops(const double one[TIMES]) {
    return (one[READ] + one[ENCODE]) / whole_step(one);
}
static double right_of(const double one[TIMES]) {
    return one[RIGHT];
}
static double ortho_of(const double one[TIMES]) {
    return one[ORTHO];
}
static double left_of(const double one[TIMES]) {
    return one[LEFT];
}
#ifdef HAVE_OPENBLAS
static double blas_of(const double one[TIMES]) {
    return one[BLAS];
}
static double of_blas(const double one[TIMES]) {
    return one[BLAS] / whole_step(one);
}
#endif

static double middle(double t[TIMES][MOST_PASSES], int passes, pick *of) {
    double v[MOST_PASSES], one[TIMES];
    for (int i = 0; i < passes; i++) {
        for (int k = 0; k < TIMES; k++)
            one[k] = t[k][i];
        v[i] = of(one);
    }
    return median(v, passes);
}

static void run_shape(tw_ctx *ctx, const tw_kernels *k, shape s, int passes) {
    static double t[TIMES][MOST_PASSES];
    work w = make_work(ctx, k, s);
    double gb = (double)w.n * sizeof(float) * 1e-9;
    char text[64];
    snprintf(text, sizeof text, "%llux%llux%ux%llu", (unsigned long long)s.rows, (unsigned long long)s.cols, s.rank,
             (unsigned long long)s.count);
#ifdef HAVE_OPENBLAS
    double off = compare(ctx, &w);
#endif
    take_turns(&w, passes, t);
    printf("%-7s %-22s %7.2f %7.3f %7.2f %7.3f %8.2f %7.2f %7.3f", k->name, text, gb / middle(t, passes, right_of),
           middle(t, passes, of_read), gb / middle(t, passes, left_of), middle(t, passes, of_encode),
           middle(t, passes, ortho_of) / (double)s.count * 1e6, gb / middle(t, passes, whole_step),
           middle(t, passes, of_loops));
#ifdef HAVE_OPENBLAS
    printf(" %8.2f %7.2f %8.1e", gb / middle(t, passes, blas_of), middle(t, passes, of_blas), off);
#endif
    printf("\n");
    fflush(stdout);
    free_work(ctx, &w);
}

static bool read_shape(const char *text, shape *s) {
    unsigned long long v[4] = {0};
    char end;
    int n = sscanf(text, "%llux%llux%llux%llu%c", &v[0], &v[1], &v[2], &v[3], &end);
    if (n < 3 || n > 4 || v[0] < 2 || v[1] < 2 || v[0] > INT32_MAX || v[1] > INT32_MAX || v[2] < 1 ||
        v[2] > TW_LOWRANK_MOST)
        return false;
    *s = (shape){v[0], v[1], v[3], (uint32_t)v[2]};
    if (n == 3)
        s->count = s->rows * s->cols < VALUES ? VALUES / (s->rows * s->cols) : 1;
    return s->count > 0;
}

static void print_head(int passes) {
    printf("# GB/s of gradient, and what part of its time a loop with the same reads and writes needs; medians of %d "
           "turns\n",
           passes);
#ifdef HAVE_OPENBLAS
    printf("# OpenBLAS: %s, 1 thread\n", openblas_get_corename());
#else
    printf("# OpenBLAS: " NO_OPENBLAS "\n");
#endif
    printf("%-7s %-22s %7s %7s %7s %7s %8s %7s %7s", "isa", "rows x cols x rank", "right", "of loop", "left", "of loop",
           "ortho us", "step", "of loop");
#ifdef HAVE_OPENBLAS
    printf(" %8s %7s %8s", "OpenBLAS", "faster", "apart");
#endif
    printf("\n");
}

int main(int argc, char **argv) {
    static const char *const usual[] = {"4096x4096x4", "4096x4096x1", "4096x4096x2", "4096x4096x8",   "4096x4096x16",
                                        "65536x256x4", "256x65536x4", "1024x1024x4", "256x1024x4x48", "1000x4093x4"};
    int passes = argc > 1 ? atoi(argv[1]) : 15;
    const char *isa = argc > 2 && strcmp(argv[2], "best") ? argv[2] : NULL;
    shape s;
    tw_ctx *ctx;
    const tw_kernels *k = isa ? tw_kernels_named(isa) : tw_kernels_best();
    bool good = passes >= 1 && passes <= MOST_PASSES && k;
    for (int i = 3; i < argc; i++)
        good = good && read_shape(argv[i], &s);
    if (!good || tw_ctx_resolve(NULL, &ctx) < 0) {
        fputs(usage, stderr);
        return 2;
    }
#ifdef HAVE_OPENBLAS
    openblas_set_num_threads(1);
#endif
    print_head(passes);
    for (int i = 3; i < argc; i++)
        if (read_shape(argv[i], &s))
            run_shape(ctx, k, s, passes);
    for (size_t i = 0; i < TW_ARRAY_LEN(usual) && argc <= 3; i++)
        if (read_shape(usual[i], &s))
            run_shape(ctx, k, s, passes);
    return 0;
}
