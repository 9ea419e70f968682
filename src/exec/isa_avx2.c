/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The loops for AVX2 with F16C. The target is set here and not by a compiler flag, so that nothing else may use it. */
#include "exec/kernels.h"
#include "compressors/kernels/tile.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" /* gcc does not see that pass 1 fills what pass 2 reads */
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#endif

#define TW_ISA_TAG avx2
#define TW_ISA_ID  TW_ISA_AVX2
#include "compressors/kernels/avx2/vec.inc"
#include "compressors/kernels/avx2/ints.inc"
#include "exec/rows.inc"
#include "compressors/kernels/rows/index.inc"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#pragma GCC diagnostic pop
#endif

#include "exec/table.inc"
#endif
