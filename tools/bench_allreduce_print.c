/* SPDX-License-Identifier: BSD-3-Clause */
#include "bench_allreduce.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static const char *on_or_off(bool b) {
    return b ? "on" : "off";
}

static const char *algo_asked(const ba_config *c) {
    return c->kind != BA_ALLREDUCE             ? "frames"
           : c->reducer.algo == TW_ALGO_NATIVE ? "native"
           : c->reducer.algo == TW_ALGO_SRA    ? "sra"
           : c->reducer.algo == TW_ALGO_GATHER ? "gather"
                                               : "auto";
}

/* NULL: nothing is summed. */
static const char *op_name(const ba_config *c) {
    return !c->what->reduces ? NULL : c->redop == TW_AVG ? "avg" : "sum";
}

void ba_print_header(const ba_world *w) {
    const ba_config *c = w->cfg;
    char cpu[128];
    const char *why = "", *isa = tw_isa_chosen(&why), *clock = w->sim ? ", virtual time" : "";
    bc_cpu_model(cpu, sizeof cpu);
    printf("# %s, Thinwire %s, ISA %s (%s), CPU %s\n", c->what->program, tw_version_string(), isa, why, cpu);
    printf("# %d ranks, transport %s%s, MPI: %s\n", w->ranks, ba_transport_name(c->transport), clock,
           w->mpi_library ? w->mpi_library : "not used");
    printf(
        "# %s of %s, data %s (%s), seed %llu, %u iterations after %u, %u layer%s, in place %s, overlap %s, algo %s\n",
        op_name(c) ? op_name(c) : c->what->name, tw_dtype_name(c->dtype), ba_shape_name(c->shape),
        ba_shape_text(c->shape), (unsigned long long)c->seed, c->iterations, c->warmup, c->layers,
        c->layers == 1 ? "" : "s", on_or_off(c->in_place), on_or_off(!c->reducer.no_overlap), algo_asked(c));
    if (c->goodput_bits > 0)
        printf("# wire limit: %.4g Gbit/s of payload a port and direction, after %.0f bytes of burst\n",
               c->goodput_bits * 1e-9, c->burst_bytes);
    printf("#%11s %-18s %-6s %9s %9s %9s %8s %8s %11s %7s %8s %8s %8s %8s %9s %9s %4s %9s %9s %7s %8s %8s\n", "bytes",
           "codec", "algo", "min ms", "median", "p99", "algbw", "busbw", "wire bytes", "ratio", "encode", "reduce",
           "decode", "wait", "rel_l2", "bound", "same", "mpi ms", "half ms", "speedup", "limit", "memory");
    fflush(stdout);
}

/* Numbers, or "-" where one is not known. */
static void fixed(int width, int digits, double v) {
    if (isfinite(v))
        printf(" %*.*f", width, digits, v);
    else
        printf(" %*s", width, "-");
}

static void power(int width, double v) {
    if (isfinite(v))
        printf(" %*.2e", width, v);
    else
        printf(" %*s", width, "-");
}

static void ms(int width, double seconds) {
    double v = 1e3 * seconds;
    fixed(width, v >= 100 ? 1 : v >= 10 ? 2 : 3, v);
}

void ba_print_row(const ba_world *w, const ba_row *r) {
    double algbw = 1e-9 * (double)r->bytes / r->time_median;
    printf("%12llu %-18s %-6s", (unsigned long long)r->bytes, r->codec, r->algo);
    ms(9, r->time_min);
    ms(9, r->time_median);
    ms(9, r->time_p99);
    fixed(8, 3, algbw);
    fixed(8, 3, algbw * ba_share(w));
    char wire[32];
    snprintf(wire, sizeof wire, "%s%.0f", r->wire_computed ? "~" : "", r->wire_bytes);
    printf(" %11s", wire);
    fixed(7, 2, r->ratio);
    ms(8, r->mean.encode);
    ms(8, r->mean.reduce);
    ms(8, r->mean.decode);
    ms(8, r->mean.wait);
    power(9, r->rel_l2);
    power(9, r->bound);
    printf(" %4s", !r->same ? "NO" : w->cfg->what->replicas ? "yes" : "-");
    ms(9, r->mpi);
    ms(9, r->mpi_half);
    fixed(7, 2, r->mpi / r->time_median);
    ms(8, r->limit);
    ms(8, r->memory.all);
    putchar('\n');
    fflush(stdout);
    if (!r->ok)
        ba_say(w->cfg, "%s, %llu bytes: %s", r->codec, (unsigned long long)r->bytes, r->problem);
}

/* The first block of keys is stable; the rest may grow. */
void ba_json_row(const ba_world *w, const ba_row *r, FILE *to) {
    const ba_config *c = w->cfg;
    double algbw = 1e-9 * (double)r->bytes / r->time_median;
    bc_json j;
    bc_json_begin(&j, to);
    bc_json_string(&j, "collective", c->what->name);
    bc_json_string(&j, "codec", r->codec);
    bc_json_integer(&j, "bytes", r->bytes);
    bc_json_integer(&j, "ranks", (uint64_t)w->ranks);
    bc_json_string(&j, "transport", ba_transport_name(c->transport));
    bc_json_string(&j, "algo", r->algo);
    bc_json_number(&j, "time_ms_min", 1e3 * r->time_min);
    bc_json_number(&j, "time_ms_median", 1e3 * r->time_median);
    bc_json_number(&j, "time_ms_p99", 1e3 * r->time_p99);
    bc_json_number(&j, "wire_bytes", r->wire_bytes);
    bc_json_number(&j, "ratio", r->ratio);
    bc_json_number(&j, "rel_l2", r->rel_l2);
    bc_json_number(&j, "bound", r->bound);
    if (c->what->replicas)
        bc_json_bool(&j, "same", r->same);
    else
        bc_json_string(&j, "same", NULL);
    bc_json_number(&j, "mpi_ms", 1e3 * r->mpi);
    bc_json_number(&j, "mpi_half_ms", 1e3 * r->mpi_half);
    bc_json_number(&j, "limit_ms", 1e3 * r->limit);

    bc_json_bool(&j, "ok", r->ok);
    bc_json_string(&j, "problem", r->ok ? NULL : r->problem);
    bc_json_bool(&j, "wire_computed", r->wire_computed);
    bc_json_number(&j, "memory_ms", 1e3 * r->memory.all);
    bc_json_number(&j, "memory_write_ms", 1e3 * r->memory.write);
    bc_json_number(&j, "algbw_gbs", algbw);
    bc_json_number(&j, "busbw_gbs", algbw * ba_share(w));
    bc_json_number(&j, "speedup", r->mpi / r->time_median);
    bc_json_string(&j, "mpi_best", r->mpi_best);
    bc_json_number(&j, "encode_ms", 1e3 * r->mean.encode);
    bc_json_number(&j, "reduce_ms", 1e3 * r->mean.reduce);
    bc_json_number(&j, "decode_ms", 1e3 * r->mean.decode);
    bc_json_number(&j, "wait_ms", 1e3 * r->mean.wait);
    bc_json_number(&j, "cpu_ms", 1e3 * r->mean.cpu);
    bc_json_number(&j, "cpu_sys_ms", 1e3 * r->mean.cpu_sys);
    bc_json_number(&j, "mpi_cpu_ms", isfinite(r->mpi) ? 1e3 * r->mean.mpi_cpu : (double)NAN);
    bc_json_integer(&j, "state_bytes", r->state_bytes);
    bc_json_integer(&j, "frame_memory_bytes", r->frame_bytes);
    bc_json_string(&j, "algo_asked", algo_asked(c));
    bc_json_string(&j, "dtype", tw_dtype_name(c->dtype));
    bc_json_string(&j, "op", op_name(c));
    bc_json_string(&j, "data", ba_shape_name(c->shape));
    bc_json_integer(&j, "seed", c->seed);
    bc_json_integer(&j, "iterations", c->iterations);
    bc_json_integer(&j, "warmup", c->warmup);
    bc_json_integer(&j, "layers", c->layers);
    bc_json_bool(&j, "in_place", c->in_place);
    bc_json_bool(&j, "overlap", !c->reducer.no_overlap);
    bc_json_number(&j, "goodput_bits", c->goodput_bits > 0 ? c->goodput_bits : (double)NAN);
    bc_json_number(&j, "burst_bytes", c->goodput_bits > 0 ? c->burst_bytes : (double)NAN);
    bc_json_string(&j, "isa", tw_isa_chosen(NULL));
    bc_json_string(&j, "mpi_library", w->mpi_library);
    bc_json_string(&j, "version", tw_version_string());
    bc_json_end(&j);
}

static bool shows_progress(const ba_world *w) {
    return w->rank == 0 && isatty(STDERR_FILENO);
}

void ba_print_progress(const ba_world *w, const char *codec, uint64_t bytes, uint32_t done, uint32_t of) {
    char text[32];
    if (!shows_progress(w))
        return;
    bc_format_size(bytes, text, sizeof text);
    fprintf(stderr, "\r\033[K%s, %s: iteration %u of %u", text, codec, done + 1, of);
}

void ba_clear_progress(const ba_world *w) {
    if (shows_progress(w))
        fputs("\r\033[K", stderr);
}
