/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The loops for AVX-512 (F, BW, DQ, VL). The target is set here and not by a compiler flag, so that nothing else may
 * use it. With TW_EMULATE_AVX512 (configure --enable-emulated-avx512, for tests) the same loops run where AVX2 does. */
#include "exec/kernels.h"
#include "compressors/kernels/tile.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#if defined(TW_EMULATE_AVX512)
#pragma clang attribute push(__attribute__((target("avx2,f16c"))), apply_to = function)
#else
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c"))), \
                             apply_to = function)
#endif
#else
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" /* gcc does not see that pass 1 fills what pass 2 reads */
#pragma GCC push_options
#if defined(TW_EMULATE_AVX512)
#pragma GCC target("avx2,f16c")
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")
#endif
#endif
#if defined(TW_EMULATE_AVX512)
#include "tests/emulated/avx512.h"
#endif

#define TW_ISA_TAG avx512
#define TW_ISA_ID  TW_ISA_AVX512
#include "compressors/kernels/avx512/vec.inc"
#include "compressors/kernels/avx512/ints.inc"
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
