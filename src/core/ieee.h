/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Ranks agree bit for bit only where every one computes as IEEE 754 and C say. Refuses the compiler options that macros
 * tell of; configure turns off those that none tells of, and tests with this file. */
#ifndef TW_IEEE_H
#define TW_IEEE_H

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "Thinwire needs IEEE arithmetic: do not compile it with -ffast-math, -Ofast or -ffinite-math-only"
#endif
#if defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "Thinwire needs IEEE arithmetic: do not compile it with -funsafe-math-optimizations or a part of it"
#endif
/* gcc with -std=c11: 0 also for -ffp-contract=fast and -fsingle-precision-constant */
#if defined(__GCC_IEC_559) && __GCC_IEC_559 < 1
#error "Thinwire needs IEEE arithmetic: an option of this build, such as -ffp-contract=fast, changes values"
#endif
/* 16: only _Float16 is wider */
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16
#error "Thinwire needs float arithmetic in float: this target or -mfpmath=387 computes with more digits"
#endif

#endif
