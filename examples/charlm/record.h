/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Gradients on file, for experiments with codecs on real data. */
#ifndef CHARLM_RECORD_H
#define CHARLM_RECORD_H

#include "model.h"
#include "options.h"

/* Whether the gradients of this step are wanted: the first, the middle and the last. */
int record_wanted(const options *o, int step);
/* Writes the layer's gradient, as this rank computed it and before anything is averaged, to
 * FOLDER/step-S-rank-R-LAYER.npy. Ends the program with a sentence if it cannot. */
void record_layer(const options *o, const model *m, int step, int rank, int layer);

#endif
