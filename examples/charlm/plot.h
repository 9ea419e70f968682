/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One SVG: held-out loss against steps, time and wire bytes, one panel each, runs overlaid. */
#ifndef CHARLM_PLOT_H
#define CHARLM_PLOT_H

#include "options.h"
#include "train.h"

void plot_check(const options *o);                /* ends the program if --panels is wrong, before hours of training */
void plot_run(const options *o, const result *r); /* this run to o->plot */
void plot_files(const options *o);                /* the JSON files of o->plot_from to o->plot */

#endif
