/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The loops for NEON. Every AArch64 processor and compiler has it, so no target is set here. */
#include "exec/kernels.h"
#include "compressors/kernels/tile.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" /* gcc does not see that pass 1 fills what pass 2 reads */
#endif

#define TW_ISA_TAG neon
#define TW_ISA_ID  TW_ISA_NEON
#include "compressors/kernels/neon/vec.inc"
#include "exec/rows.inc"

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include "exec/table.inc"
#endif
