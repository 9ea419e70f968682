/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The skeleton loops in the vectors of one ISA (bench_codec_skeleton.c includes this once for each): V is a vector of W
 * floats, NAME(x) makes names, TARGET the attribute that allows the instructions. */

INLINE void NAME(ask)(const float *p, size_t ahead) {
    if (ahead)
        UNROLL for (size_t line = 0; line < ROW; line += 16) __builtin_prefetch((const char *)(p + line) + ahead, 0, 2);
}

/* A row of x to the payload. */
INLINE void NAME(pack)(uint8_t *payload, size_t i, const V x[ROW / W], unsigned bits, bool stream) {
    if (bits == 1) {
        uint32_t word = 0;
        EACH(v)
        word |= NAME(signs)(x[v]) << (v * W % 32);
        memcpy(payload + i / 8, &word, sizeof word);
    }
    if (bits == 16)
        UNROLL for (unsigned v = 0; v + 1 < ROW / W; v += 2)
            NAME(store_halves)(payload + 2 * (i + v * W), x[v], x[v + 1], stream);
    if (bits == 32)
        EACH(v)
    stream ? NAME(stream)((float *)(void *)payload + i + v * W, x[v])
           : NAME(store)((float *)(void *)payload + i + v * W, x[v]);
}

INLINE void NAME(encode)(const skeleton *s, size_t ahead, unsigned bits, bool feedback, bool stream) {
    for (size_t i = 0; i + ROW <= s->n; i += ROW) {
        V x[ROW / W];
        NAME(ask)(s->g + i, ahead);
        if (feedback)
            NAME(ask)(s->e + i, ahead);
        EACH(v) {
            x[v] = NAME(load)(s->g + i + v * W);
            if (feedback) {
                x[v] = NAME(add)(x[v], NAME(load)(s->e + i + v * W));
                NAME(stream)(s->out + i + v * W, x[v]);
            }
        }
        NAME(pack)(s->payload, i, x, bits, stream);
    }
}

INLINE void NAME(decode)(const skeleton *s, size_t ahead, unsigned bits) {
    for (size_t i = 0; i + ROW <= s->n; i += ROW) {
        uint32_t word = 0;
        NAME(ask)(s->y + i, ahead);
        if (bits == 1)
            memcpy(&word, s->payload + i / 8, sizeof word);
        EACH(v) {
            V d = bits == 1    ? NAME(all)(word)
                  : bits == 16 ? NAME(load_halves)(s->payload + 2 * (i + v * W))
                               : NAME(load)((const float *)(const void *)s->payload + i + v * W);
            NAME(store)(s->y + i + v * W, NAME(add)(NAME(load)(s->y + i + v * W), d));
        }
    }
}

TARGET static void NAME(run)(const skeleton *s, size_t ahead, bool stream) {
    if (s->kind == SKELETON_ADD && s->payload_bits == 1)
        NAME(decode)(s, ahead, 1);
    else if (s->kind == SKELETON_ADD && s->payload_bits == 16)
        NAME(decode)(s, ahead, 16);
    else if (s->kind == SKELETON_ADD)
        NAME(decode)(s, ahead, 32);
    else if (s->payload_bits == 1)
        s->feedback ? NAME(encode)(s, ahead, 1, true, false) : NAME(encode)(s, ahead, 1, false, false);
    else if (s->payload_bits == 16 && stream)
        s->feedback ? NAME(encode)(s, ahead, 16, true, true) : NAME(encode)(s, ahead, 16, false, true);
    else if (s->payload_bits == 16)
        s->feedback ? NAME(encode)(s, ahead, 16, true, false) : NAME(encode)(s, ahead, 16, false, false);
    else if (stream)
        s->feedback ? NAME(encode)(s, ahead, 32, true, true) : NAME(encode)(s, ahead, 32, false, true);
    else
        s->feedback ? NAME(encode)(s, ahead, 32, true, false) : NAME(encode)(s, ahead, 32, false, false);
}

#undef INLINE
#undef TARGET
#undef NAME
#undef V
#undef W
