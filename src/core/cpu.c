/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What this CPU and its system can run, and the floating-point environment of the codecs. */
#include "core/core.h"

const char *const tw_isa_names[TW_ISA_COUNT] = {"ref", "avx2", "avx512", "neon"};

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>

#define XCR0_AVX    0x06u /* the system saves xmm and ymm */
#define XCR0_AVX512 0xe6u /* ... and zmm, the upper sixteen, and the masks */

static uint32_t xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool has_all(uint32_t word, uint32_t mask) {
    return (word & mask) == mask;
}

bool tw_cpu_has(tw_isa isa) {
    uint32_t a, b, c, d;
    if (isa == TW_ISA_REF)
        return true;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has_all(c, bit_OSXSAVE | bit_AVX | bit_F16C))
        return false;
    uint32_t saved = xcr0();
    if (!has_all(saved, XCR0_AVX) || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !has_all(b, bit_AVX2))
        return false;
    if (isa == TW_ISA_AVX2)
        return true;
#if defined(TW_EMULATE_AVX512)
    return isa == TW_ISA_AVX512;
#else
    return isa == TW_ISA_AVX512 && has_all(saved, XCR0_AVX512) &&
           has_all(b, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ);
#endif
}

tw_fpenv tw_fp_enter(void) {
    tw_fpenv e = {_mm_getcsr()};
    _mm_setcsr(0x1f80u); /* nearest even, denormals kept, exceptions masked */
    return e;
}

void tw_fp_leave(tw_fpenv e) {
    _mm_setcsr((uint32_t)e.saved);
}

#else

#if defined(__aarch64__)
bool tw_cpu_has(tw_isa isa) {
    return isa == TW_ISA_REF || isa == TW_ISA_NEON; /* no processor of this architecture that runs programs lacks it */
}

tw_fpenv tw_fp_enter(void) {
    uint64_t control, flags;
    __asm__ volatile("mrs %0, fpcr\n\tmrs %1, fpsr" : "=r"(control), "=r"(flags));
    __asm__ volatile("msr fpcr, %0" : : "r"(UINT64_C(0)) : "memory"); /* nearest even, denormals kept, no traps */
    return (tw_fpenv){control | flags << 32};
}

void tw_fp_leave(tw_fpenv e) {
    __asm__ volatile("msr fpcr, %0\n\tmsr fpsr, %1" : : "r"(e.saved & 0xffffffffu), "r"(e.saved >> 32) : "memory");
}
#else
bool tw_cpu_has(tw_isa isa) {
    return isa == TW_ISA_REF;
}

/* No way to set it is known here: the host program's must be the default one. */
tw_fpenv tw_fp_enter(void) {
    return (tw_fpenv){0};
}

void tw_fp_leave(tw_fpenv e) {
    (void)e;
}
#endif
#endif
