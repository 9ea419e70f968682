/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What every folder may use: status sentences, allocation, log, environment, floating-point environment, hash, sizes.
 * core sees nothing else of the library. */
#ifndef TW_CORE_H
#define TW_CORE_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include <thinwire/thinwire.h>
#include <thinwire/experimental.h>
#include "core/ieee.h"

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Thinwire writes little-endian frames by copying memory; big-endian hosts are not supported yet"
#endif

#define TW_MAX_TILE 4096u
#define TW_MIN_TILE 128u
/* All codecs: id and word; the ids have no gap. Every table of codecs is made from these lists.
 * Tiled ones have loops that work on a tile; sparse ones send some of the values and where they stand; low-rank ones work on
 * a matrix. */
#define TW_TILED_CODECS(X) \
    X(NONE, none)          \
    X(CAST, cast)          \
    X(ONEBIT, onebit)      \
    X(QUANT, quant)        \
    X(TERNARY, ternary)    \
    X(RANDK, randk)
#define TW_SPARSE_CODECS(X)    X(TOPK, topk)
#define TW_LOWRANK_CODECS(X)   X(POWERSGD, powersgd)
#define TW_CODEC_LIST(X)       TW_TILED_CODECS(X) TW_SPARSE_CODECS(X) TW_LOWRANK_CODECS(X)
#define TW_COUNT_ONE(id, word) +1
#define TW_CODECS              (1 TW_CODEC_LIST(TW_COUNT_ONE)) /* 1 + largest codec id */
#define TW_FEEDBACKS           5                               /* 1 + largest feedback id */
#define TW_ARRAY_LEN(a)        (sizeof(a) / sizeof((a)[0]))

static inline uint64_t tw_ceil_div(uint64_t a, uint64_t b) {
    return a / b + (a % b != 0);
}
static inline uint64_t tw_round_up(uint64_t a, uint64_t b) {
    return tw_ceil_div(a, b) * b;
}

/* What one of `size` ranks sends when `bytes` are summed by a ring or by SRA: 2(P-1)/P of them. */
static inline uint64_t tw_dense_bytes(uint64_t bytes, uint64_t size) {
    return 2 * bytes / size * (size - 1) + 2 * bytes % size * (size - 1) / size;
}

/* ---- status.c: sentences. The function that detects an error says it; the others pass it on ---- */
#if defined(__GNUC__)
#define TW_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define TW_PRINTF(f, a)
#endif
#define TW_SENTENCE 512                                                  /* room for one */
tw_status tw_fail(tw_status s, const char *format, ...) TW_PRINTF(2, 3); /* sets tw_last_error, returns s */
void tw_set_error(const char *sentence);
void tw_one_line(char *s); /* control characters become '?' */

/* ---- sized.c: structs that begin with their size ---- */
typedef struct tw_sized {
    const char *name;
    uint32_t least, full, align; /* bytes of the first version, and of this one */
} tw_sized;
/* behind: the first member that the first version did without. */
#define TW_SIZED(type, behind) (&(const tw_sized){#type, offsetof(type, behind), sizeof(type), _Alignof(type)})
tw_status tw_sized_check(const tw_sized *t, const char *call, const void *given);
/* An input: *to holds the defaults, and gets what both sides know. */
tw_status tw_sized_take(const tw_sized *t, const char *call, const void *from, void *to);
/* An output that was checked: fills what fits, 0 where the caller knows more. */
void tw_sized_fill(const tw_sized *t, void *out, const void *from);
bool tw_zero_behind(const void *p, uint32_t known, uint32_t size);

/* ---- ctx.c ---- */
#define TW_TIMEOUT_MAX 1e9 /* seconds; keeps deadlines within any clock type */
struct tw_ctx {
    tw_ctx_config cfg;      /* no NULLs, no zeros left */
    _Atomic uint32_t users; /* communicators and sims alive */
    bool is_default;
};
tw_status tw_ctx_resolve(tw_ctx *given, tw_ctx **out); /* NULL: the default context, made on first use */
void tw_ctx_retain(tw_ctx *c);
void tw_ctx_release(tw_ctx *c);
/* Zeroed memory, 64-byte aligned; NULL and a sentence when the allocator refuses. free takes NULL. */
void *tw_alloc(tw_ctx *c, uint64_t bytes);
void *tw_alloc_raw(tw_ctx *c, uint64_t bytes); /* not zeroed: pages that nobody writes to take no memory */
#define TW_ALIGN 64u
/* What tw_alloc asks the allocator for. */
static inline uint64_t tw_held(uint64_t bytes) {
    return tw_round_up(bytes ? bytes : 1, TW_ALIGN);
}
void tw_free(tw_ctx *c, void *p);
enum { TW_LOG_ERROR = 1, TW_LOG_WARN, TW_LOG_INFO, TW_LOG_DEBUG };
void tw_log(tw_ctx *c, int level, const char *format, ...) TW_PRINTF(3, 4); /* one line, whatever names are in it */
bool tw_logs(const tw_ctx *c, int level);                                   /* whether somebody reads it */

/* ---- fault_plan.c: THINWIRE_FAULT as data; reducer/fault.c says what each does ---- */
typedef enum tw_fault_kind {
    TW_FAULT_DROP,
    TW_FAULT_CORRUPT,
    TW_FAULT_TRUNCATE,
    TW_FAULT_STOP,
    TW_FAULT_MUTE,
    TW_FAULT_DELAY,
    TW_FAULT_NAN,
    TW_FAULT_KINDS
} tw_fault_kind;
typedef struct tw_fault {
    tw_fault_kind kind;
    int rank;       /* -1: every rank */
    uint64_t frame; /* mute: hop */
    double delay_s;
    char layer[128];
    char text[160]; /* as given, for sentences */
} tw_fault;
#define TW_MOST_FAULTS 16u
typedef struct tw_fault_plan {
    uint32_t n;
    tw_fault fault[TW_MOST_FAULTS];
    char problem[240]; /* why it could not be parsed */
} tw_fault_plan;
bool tw_fault_plan_parse(const char *text, tw_fault_plan *p);

/* ---- env.c: one table of all variables; read once per process ---- */
typedef struct tw_env {
    int log_level;        /* THINWIRE_LOG: error|warn|info|debug; 0: silent */
    double timeout_s;     /* THINWIRE_TIMEOUT: seconds; 0: not given */
    const char *isa;      /* THINWIRE_ISA: ref|avx2|avx512|neon, even if it cannot run here; NULL: best */
    tw_fault_plan faults; /* THINWIRE_FAULT */
    tw_status status;     /* of the first bad value: every context that is made fails with it */
    const char *problem;  /* ... and says this; NULL if none */
} tw_env;
const tw_env *tw_env_get(void);
/* digits [. digits] [e [+-] digits], whatever the locale; -1: not one. Beyond 1e9 it may be too small. */
double tw_plain_number(const char *text);

/* ---- cpu.c ---- */
typedef enum tw_isa { TW_ISA_REF = 0, TW_ISA_AVX2, TW_ISA_AVX512, TW_ISA_NEON, TW_ISA_COUNT } tw_isa;
bool tw_cpu_has(tw_isa isa); /* the build has code for it, and cpuid and xgetbv allow it */
extern const char *const tw_isa_names[TW_ISA_COUNT];
/* Round to nearest, no flush to zero, whatever the host program set; restored by leave. Around every codec entry. */
typedef struct tw_fpenv {
    uint64_t saved;
} tw_fpenv;
tw_fpenv tw_fp_enter(void);
void tw_fp_leave(tw_fpenv e);

/* ---- hash.c (xxHash) ---- */
uint64_t tw_hash64(const void *p, size_t bytes, uint64_t seed);  /* XXH64 */
uint32_t tw_check32(const void *p, size_t bytes, uint32_t seed); /* low half of XXH3-64: frame check */
uint64_t tw_check64(const void *p, size_t bytes, uint64_t seed); /* XXH3-64: files */

/* ---- rng.c: Philox4x32 by counter (Salmon et al., SC'11) ---- */
enum { TW_PHILOX_ROUNDS = 10, TW_PHILOX_FEW = 7 }; /* its authors' default, and the fewest that pass their tests */
void tw_philox(int rounds, const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/* The constants of a round, for the loops that make many at a time. */
#define TW_PHILOX_M0 UINT32_C(0xD2511F53)
#define TW_PHILOX_M1 UINT32_C(0xCD9E8D57)
#define TW_PHILOX_W0 UINT32_C(0x9E3779B9) /* golden ratio */
#define TW_PHILOX_W1 UINT32_C(0xBB67AE85) /* sqrt(3) - 1 */

/* ---- half.c: reference conversions, NaN made canonical (0x7e00, 0x7fc0) ---- */
static inline bool tw_type_is_fp8(uint32_t type) { /* tw_spec.type */
    return type == TW_CAST_FP8E4M3 || type == TW_CAST_FP8E5M2;
}
/* Saturating; NaN is 0x7f. Back: codes above the largest finite one, never written for numbers, read as the numbers that
 * would follow. */
uint8_t tw_f32_to_fp8(float x, bool e5m2);
float tw_fp8_to_f32(uint8_t code, bool e5m2);
uint16_t tw_f32_to_f16(float x);
float tw_f16_to_f32(uint16_t h);
uint16_t tw_f32_to_bf16(float x);
float tw_bf16_to_f32(uint16_t h);

/* ---- word.c: nearest valid word, for sentences ---- */
const char *tw_nearest_word(const char *word, size_t len, const char *const *valid, size_t n);

/* ---- spec.c ---- */
/* Parses [text, text+len). what is put before the sentence ("rule 2"), may be NULL. */
tw_status tw_spec_parse_n(const char *text, size_t len, const char *what, tw_spec *out);
tw_status tw_spec_check(const tw_spec *s);
/* All that tells specs apart, for keys and hashes: part of the plan hash, so the order is wire format. */
#define TW_SPEC_WORDS 23u
void tw_spec_words(const tw_spec *s, uint32_t w[TW_SPEC_WORDS]);
bool tw_spec_equal(const tw_spec *a, const tw_spec *b);
tw_spec tw_spec_values(const tw_spec *s); /* of a sparse one: the codec of its values */

#endif
