/* SPDX-License-Identifier: BSD-3-Clause
 *
 * randk once more, from its description (payloads, version 1). */
#include "trial.h"
#include "core/core.h"
#include <math.h>
#include <string.h>

static uint32_t kept_of(const tw_spec *s, uint32_t n) {
    double k = floor((double)n * s->density / 1e9 + 0.5);
    return k < 1 ? 1 : (uint32_t)k;
}

/* Marks what is kept. The same on all ranks and in both hops. */
static void mark(const tw_spec *s, const model_draw *d, uint32_t n, bool *kept) {
    uint32_t words[4] = {d->seed, d->step, UINT32_MAX, 0}, out[4], m = kept_of(s, n);
    uint64_t key = tw_hash64(words, sizeof words, tw_hash64(d->name, strlen(d->name), d->block));
    uint32_t counter[4] = {0, (uint32_t)d->tile, (uint32_t)(d->tile >> 32), 1};
    model_philox(7, counter, key, out);
    uint64_t turn = (uint64_t)out[0] * n >> 32, stratum = ((uint64_t)n * 65536 + m - 1) / m;
    memset(kept, 0, n);
    counter[3] = 0;
    for (uint64_t i = 0; i < m; i++) {
        uint64_t low = i * stratum / 65536, high = (i + 1) * stratum / 65536;
        counter[0] = (uint32_t)(i / 128 * 32 + i % 32);
        model_philox(7, counter, key, out);
        kept[(low + (out[i / 32 % 4] * (high - low) >> 32) + turn) % n] = true;
    }
}

bool model_randk(const tw_spec *s, const model_draw *d, const float *x, uint32_t n, float *decoded) {
    bool kept[MOST_TILE], bad = false;
    float gain = s->scale == TW_SCALE_UNBIASED && !d->part ? (float)n / (float)kept_of(s, n) : 1.0f;
    mark(s, d, n, kept);
    for (uint32_t i = 0; i < n; i++) {
        decoded[i] = kept[i] ? x[i] * gain : 0.0f;
        bad = bad || !isfinite(x[i]) || !isfinite(decoded[i]);
    }
    for (uint32_t i = 0; bad && i < n; i++)
        decoded[i] = NAN;
    return bad;
}
