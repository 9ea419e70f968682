/* SPDX-License-Identifier: BSD-3-Clause */
#include "model.h"
#include "bits.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const layer_name[LAYERS] = {"embed",        "hidden1.weight", "hidden1.bias", "hidden2.weight",
                                        "hidden2.bias", "out.weight",     "out.bias"};

size_t model_rows(const model *m, int layer) {
    const size_t rows[LAYERS] = {[EMBED] = BYTES,
                                 [OUT_WEIGHT] = BYTES,
                                 [H1_WEIGHT] = (size_t)m->hidden,
                                 [H2_WEIGHT] = (size_t)m->hidden,
                                 [H1_BIAS] = 1,
                                 [H2_BIAS] = 1,
                                 [OUT_BIAS] = 1};
    return rows[layer];
}

size_t model_parameters(const model *m) {
    size_t n = 0;
    for (int l = 0; l < LAYERS; l++)
        n += m->count[l];
    return n;
}

static void init_weights(model *m, uint64_t seed) {
    float width[LAYERS] = {0}; /* biases start at 0 */
    width[EMBED] = sqrtf(3.0f);
    width[H1_WEIGHT] = sqrtf(6.0f / (float)(m->context * m->embed));
    width[H2_WEIGHT] = sqrtf(6.0f / (float)m->hidden);
    width[OUT_WEIGHT] = sqrtf(1.0f / (float)m->hidden);
    for (int l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < m->count[l] && width[l] > 0; i++)
            m->w[l][i] = rng_uniform(seed, (uint64_t)l, i, width[l]);
}

void model_shape(model *m, int context, int embed, int hidden) {
    size_t in = (size_t)context * (size_t)embed, h = (size_t)hidden;
    *m = (model){.context = context, .embed = embed, .hidden = hidden};
    m->count[EMBED] = BYTES * (size_t)embed;
    m->count[H1_WEIGHT] = in * h, m->count[H1_BIAS] = h;
    m->count[H2_WEIGHT] = h * h, m->count[H2_BIAS] = h;
    m->count[OUT_WEIGHT] = h * BYTES, m->count[OUT_BIAS] = BYTES;
}

void model_create(model *m, int context, int embed, int hidden, int room, uint64_t seed) {
    size_t in = (size_t)context * (size_t)embed, h = (size_t)hidden, n = (size_t)room;
    model_shape(m, context, embed, hidden);
    m->room = room;
    for (int l = 0; l < LAYERS; l++) {
        m->w[l] = need(m->count[l] * sizeof(float));
        m->grad[l] = need(m->count[l] * sizeof(float));
    }
    m->x = need(n * in * sizeof(float)), m->dx = need(n * in * sizeof(float));
    m->h1 = need(n * h * sizeof(float)), m->dh1 = need(n * h * sizeof(float));
    m->h2 = need(n * h * sizeof(float)), m->dh2 = need(n * h * sizeof(float));
    m->p = need(n * BYTES * sizeof(float));
    init_weights(m, seed);
}

void model_free(model *m) {
    for (int l = 0; l < LAYERS; l++)
        free(m->w[l]), free(m->grad[l]);
    free(m->x), free(m->dx), free(m->h1), free(m->dh1), free(m->h2), free(m->dh2), free(m->p);
}

/* Weights are [to][from]: what one output learns lies together, and so shares a scale where a codec has one per group.
 * out[n][to] = in[n][from] weight^T + bias */
static void linear(float *out, const float *in, const float *weight, const float *bias, int n, int from, int to) {
    for (int i = 0; i < n; i++)
        memcpy(out + (size_t)i * (size_t)to, bias, (size_t)to * sizeof(float));
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, to, from, 1, in, from, weight, from, 1, out, to);
}

/* Softsign, x / (1 + |x|): bounded, so no weight's gradient towers over its neighbours', which is what shared scales
 * ask for; and plain arithmetic, so every machine computes the same bits. */
static void activate(float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] /= 1 + fabsf(x[i]);
}

static double softmax(float *p, unsigned char right) {
    float top = p[0], sum = 0;
    for (int i = 1; i < BYTES; i++)
        top = p[i] > top ? p[i] : top;
    double loss = (double)top - (double)p[right];
    for (int i = 0; i < BYTES; i++)
        sum += p[i] = expf(p[i] - top);
    for (int i = 0; i < BYTES; i++)
        p[i] /= sum;
    return loss + log((double)sum);
}

double model_forward(model *m, const unsigned char *const *sample, int n) {
    int in = m->context * m->embed, h = m->hidden;
    size_t width = (size_t)m->embed;
    double loss = 0;
    for (int i = 0; i < n; i++)
        for (int c = 0; c < m->context; c++)
            memcpy(m->x + (size_t)i * (size_t)in + (size_t)c * width, m->w[EMBED] + sample[i][c] * width,
                   width * sizeof(float));
    linear(m->h1, m->x, m->w[H1_WEIGHT], m->w[H1_BIAS], n, in, h);
    activate(m->h1, (size_t)n * (size_t)h);
    linear(m->h2, m->h1, m->w[H2_WEIGHT], m->w[H2_BIAS], n, h, h);
    activate(m->h2, (size_t)n * (size_t)h);
    linear(m->p, m->h2, m->w[OUT_WEIGHT], m->w[OUT_BIAS], n, h, BYTES);
    for (int i = 0; i < n; i++)
        loss += softmax(m->p + (size_t)i * BYTES, sample[i][m->context]);
    return loss;
}

/* weight gradient = dout^T in; bias gradient = sum of dout */
static void linear_grad(float *gw, float *gb, const float *in, const float *dout, int n, int from, int to) {
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, to, from, n, 1, dout, to, in, from, 0, gw, from);
    memset(gb, 0, (size_t)to * sizeof(float));
    for (int i = 0; i < n; i++)
        for (int j = 0; j < to; j++)
            gb[j] += dout[(size_t)i * (size_t)to + (size_t)j];
}

static void input_grad(float *din, const float *dout, const float *weight, int n, int from, int to) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, from, to, 1, dout, to, weight, from, 0, din, from);
}

static void activate_grad(float *d, const float *activation, size_t n) {
    for (size_t i = 0; i < n; i++)
        d[i] *= (1 - fabsf(activation[i])) * (1 - fabsf(activation[i]));
}

static void embed_grad(model *m, const unsigned char *const *sample, int n) {
    size_t width = (size_t)m->embed;
    const float *d = m->dx;
    memset(m->grad[EMBED], 0, m->count[EMBED] * sizeof(float));
    for (int i = 0; i < n; i++)
        for (int c = 0; c < m->context; c++, d += width)
            for (size_t k = 0; k < width; k++)
                m->grad[EMBED][sample[i][c] * width + k] += d[k];
}

void model_backward(model *m, const unsigned char *const *sample, int n, void (*ready)(void *arg, int layer),
                    void *arg) {
    int in = m->context * m->embed, h = m->hidden;
    float **g = m->grad, mean = 1.0f / (float)n;
    for (int i = 0; i < n; i++)
        m->p[(size_t)i * BYTES + sample[i][m->context]] -= 1.0f;
    for (size_t i = 0; i < (size_t)n * BYTES; i++)
        m->p[i] *= mean;

    linear_grad(g[OUT_WEIGHT], g[OUT_BIAS], m->h2, m->p, n, h, BYTES);
    ready(arg, OUT_BIAS), ready(arg, OUT_WEIGHT);
    input_grad(m->dh2, m->p, m->w[OUT_WEIGHT], n, h, BYTES);
    activate_grad(m->dh2, m->h2, (size_t)n * (size_t)h);

    linear_grad(g[H2_WEIGHT], g[H2_BIAS], m->h1, m->dh2, n, h, h);
    ready(arg, H2_BIAS), ready(arg, H2_WEIGHT);
    input_grad(m->dh1, m->dh2, m->w[H2_WEIGHT], n, h, h);
    activate_grad(m->dh1, m->h1, (size_t)n * (size_t)h);

    linear_grad(g[H1_WEIGHT], g[H1_BIAS], m->x, m->dh1, n, in, h);
    ready(arg, H1_BIAS), ready(arg, H1_WEIGHT);
    input_grad(m->dx, m->dh1, m->w[H1_WEIGHT], n, in, h);
    embed_grad(m, sample, n);
    ready(arg, EMBED);
}
