/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The register that a host program sets for its own floating-point arithmetic: MXCSR or FPCR. */
#ifndef HOST_FP_H
#define HOST_FP_H

#include <stdint.h>

#if defined(__x86_64__)
#include <xmmintrin.h>
enum { HOST_FP_FLUSH = 0x8040, HOST_FP_DOWN = 0x2000, HOST_FP_ZERO = 0x6000 }; /* flush: of results and of operands */

static inline uint32_t host_fp_get(void) {
    return _mm_getcsr();
}
static inline void host_fp_set(uint32_t word) {
    _mm_setcsr(word);
}
#elif defined(__aarch64__)
/* flush: also NaNs replaced, and fp16 without Inf */
enum { HOST_FP_FLUSH = 7 << 24, HOST_FP_DOWN = 2 << 22, HOST_FP_ZERO = 3 << 22 };

static inline uint32_t host_fp_get(void) {
    uint64_t word;
    __asm__ volatile("mrs %0, fpcr" : "=r"(word));
    return (uint32_t)word;
}
static inline void host_fp_set(uint32_t word) {
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)word) : "memory");
}
#else
#define HOST_FP_UNKNOWN
#endif

#endif
