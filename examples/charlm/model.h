/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The model: the last N characters -> embedding, concatenated -> two hidden layers (softsign) -> softmax over 256
 * bytes. */
#ifndef CHARLM_MODEL_H
#define CHARLM_MODEL_H

#include <stddef.h>
#include <stdint.h>

enum { BYTES = 256 };
/* In the order of the forward pass; thinwire fuses buckets from the last one, which is the first that backward makes.
 */
enum { EMBED, H1_WEIGHT, H1_BIAS, H2_WEIGHT, H2_BIAS, OUT_WEIGHT, OUT_BIAS, LAYERS };

typedef struct model {
    int context, embed, hidden, room; /* room: samples that fit the activations */
    size_t count[LAYERS];
    float *w[LAYERS], *grad[LAYERS];
    float *x, *h1, *h2, *p; /* activations: room x (context*embed | hidden | hidden | 256) */
    float *dx, *dh1, *dh2;  /* their gradients; p becomes its own */
} model;

extern const char *const layer_name[LAYERS];

void model_shape(model *m, int context, int embed, int hidden); /* counts only */
void model_create(model *m, int context, int embed, int hidden, int room, uint64_t seed);
void model_free(model *m);
size_t model_parameters(const model *m);
size_t model_rows(const model *m, int layer); /* of a weight matrix, [rows][count / rows]; 1 for a bias */
/* Probabilities of `n` samples into m->p; returns the sum of -ln p(right character). A sample points to its context. */
double model_forward(model *m, const unsigned char *const *sample, int n);
/* After forward of the same samples: mean gradients, last layer first; ready(arg, layer) as soon as one is complete. */
void model_backward(model *m, const unsigned char *const *sample, int n, void (*ready)(void *arg, int layer),
                    void *arg);

#endif
