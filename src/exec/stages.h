/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The CPU kernels behind the numbers in plan.h, one file each. */
#ifndef TW_STAGES_H
#define TW_STAGES_H

#include "exec/exec.h"

uint32_t tw_exec_encode(tw_exec *x, const tw_frame *f); /* returns the frame's bytes */
uint32_t tw_exec_reduce(tw_exec *x, const tw_frame *f);
tw_status tw_exec_verdict(tw_exec *x);
void tw_exec_decode(tw_exec *x, const tw_frame *f);
tw_status tw_exec_agreed(const tw_exec *x);
tw_status tw_exec_prescale(tw_exec *x, uint32_t piece);
tw_status tw_exec_postscale(tw_exec *x, uint32_t piece);

#endif
