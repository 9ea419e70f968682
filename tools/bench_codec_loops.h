/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The skeleton loops in the vectors of one ISA (bench_codec_skeleton.c includes this once for each): V is a vector of W
 * floats, NAME(x) makes names, TARGET the attribute that allows the instructions. */

INLINE void NAME(ask)(const float *p, size_t ahead) {
    if (ahead)
        UNROLL for (size_t line = 0; line < ROW; line += 16) __builtin_prefetch((const char *)(p + line) + ahead, 0, 2);
}

/* A row of x to the payload. */
INLINE void NAME(pack)(uint8_t *payload, size_t i, const V x[ROW / W], unsigned bits) {
    uint32_t word = 0;
    EACH(v) {
        if (bits == 1)
            word |= NAME(signs)(x[v]) << (v * W % 32);
        if (bits == 16 && v % 2)
            NAME(store_halves)(payload + 2 * (i + (v - 1) * W), x[v - 1], x[v]);
        if (bits == 32)
            NAME(store)((float *)(void *)payload + i + v * W, x[v]);
    }
    if (bits == 1)
        memcpy(payload + i / 8, &word, sizeof word);
    if (bits == 2 || bits == 4 || bits == 8)
        NAME(store_bytes)(payload + i / 8 * bits, x, bits);
}

INLINE void NAME(encode)(const skeleton *s, size_t ahead, unsigned bits, bool feedback) {
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
        NAME(pack)(s->payload, i, x, bits);
    }
}

INLINE V NAME(unpack)(const skeleton *s, size_t i, uint32_t word, unsigned bits) {
    return bits == 1 ? NAME(all)(word)
           : bits <= 8
               ? NAME(byte)(s->payload + i / ROW * (ROW / 8 * bits) + i % (ROW / 8 * bits)) /* some bytes twice */
           : bits == 16 ? NAME(load_halves)(s->payload + 2 * i)
                        : NAME(load)((const float *)(const void *)s->payload + i);
}

INLINE void NAME(decode)(const skeleton *s, size_t ahead, unsigned bits) {
    for (size_t i = 0; i + ROW <= s->n; i += ROW) {
        uint32_t word = 0;
        NAME(ask)(s->y + i, ahead);
        if (bits == 1)
            memcpy(&word, s->payload + i / 8, sizeof word);
        EACH(v) {
            V d = NAME(unpack)(s, i + v * W, word, bits);
            NAME(store)(s->y + i + v * W, NAME(add)(NAME(load)(s->y + i + v * W), d));
        }
    }
}

/* All is read, and so many of the lines of 16 values are written. */
INLINE void NAME(touch)(const skeleton *s, size_t ahead, unsigned bits) {
    V sum[ROW / W];
    double due = 0;
    EACH(v) sum[v] = NAME(load)(s->y + v * W);
    for (size_t i = 0; i + ROW <= s->n; i += ROW) {
        NAME(ask)(s->y + i, ahead);
        EACH(v) {
            V x = NAME(load)(s->y + i + v * W);
            sum[v] = NAME(add)(sum[v], x);
            due += v * W % 16 ? 0 : s->share;
            if (due >= 1 && v * W % 16 == 0) {
                NAME(store)(s->y + i + v * W, NAME(add)(x, NAME(unpack)(s, i + v * W, 1, bits)));
                due -= 1;
            }
        }
    }
    EACH(v) NAME(store)((float *)(void *)s->payload + v * W, sum[v]);
}

INLINE void NAME(write)(const skeleton *s, unsigned bits) {
    for (size_t i = 0; i + ROW <= s->n; i += ROW) {
        uint32_t word = 0;
        if (bits == 1)
            memcpy(&word, s->payload + i / 8, sizeof word);
        EACH(v) NAME(stream)(s->y + i + v * W, NAME(unpack)(s, i + v * W, word, bits));
    }
}

/* Added up, so that no compiler leaves the reads out. */
INLINE void NAME(read)(const skeleton *s, size_t ahead) {
    V sum[ROW / W];
    EACH(v) sum[v] = NAME(load)(s->g + v * W);
    for (size_t i = ROW; i + ROW <= s->n; i += ROW) {
        NAME(ask)(s->g + i, ahead);
        if (s->feedback)
            NAME(ask)(s->e + i, ahead);
        EACH(v) {
            V x = NAME(load)(s->g + i + v * W);
            sum[v] = NAME(add)(sum[v], s->feedback ? NAME(add)(x, NAME(load)(s->e + i + v * W)) : x);
        }
    }
    EACH(v) NAME(store)((float *)(void *)s->payload + v * W, sum[v]);
}

INLINE void NAME(run_bits)(const skeleton *s, size_t ahead, unsigned bits) {
    if (s->kind == SKELETON_WRITE)
        NAME(write)(s, bits);
    else if (s->kind == SKELETON_READ)
        ahead ? NAME(read)(s, ahead) : NAME(read)(s, 0);
    else if (s->kind == SKELETON_TOUCH)
        ahead ? NAME(touch)(s, ahead, bits) : NAME(touch)(s, 0, bits);
    else if (s->kind == SKELETON_ADD)
        ahead ? NAME(decode)(s, ahead, bits) : NAME(decode)(s, 0, bits);
    else if (s->feedback)
        ahead ? NAME(encode)(s, ahead, bits, true) : NAME(encode)(s, 0, bits, true);
    else
        ahead ? NAME(encode)(s, ahead, bits, false) : NAME(encode)(s, 0, bits, false);
}

TARGET static void NAME(run)(const skeleton *s, size_t ahead) {
    if (s->payload_bits == 0)
        NAME(run_bits)(s, ahead, 0);
    else if (s->payload_bits == 1)
        NAME(run_bits)(s, ahead, 1);
    else if (s->payload_bits == 2)
        NAME(run_bits)(s, ahead, 2);
    else if (s->payload_bits == 4)
        NAME(run_bits)(s, ahead, 4);
    else if (s->payload_bits == 8)
        NAME(run_bits)(s, ahead, 8);
    else if (s->payload_bits == 16)
        NAME(run_bits)(s, ahead, 16);
    else
        NAME(run_bits)(s, ahead, 32);
}

#undef INLINE
#undef TARGET
#undef NAME
#undef V
#undef W
