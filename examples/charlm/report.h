/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What people and programs read: progress, the summary, the JSON file. Called on rank 0 only. */
#ifndef CHARLM_REPORT_H
#define CHARLM_REPORT_H

#include "options.h"
#include "text.h"
#include "train.h"

void report_layers(const options *o);
void report_start(const options *o, const text *t, const result *r);
void report_step(const options *o, int steps_done, double train_bits, const result *r);
void report_point(const options *o, const point *p);
void report_summary(const result *r);
void report_json(const options *o, const text *t, const result *r, const char *transport);

#endif
