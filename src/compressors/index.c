/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Split Golomb coding of gaps. What depends on the ISA is in tw_index_loops; here are the choice of parameters, the
 * packing of streams, and everything that is asked of bytes that somebody else wrote. */
#include "compressors/index.h"

static uint32_t least_of(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}
static uint32_t floor_log2(uint32_t x) {
    return 31 - (uint32_t)__builtin_clz(x);
}

static uint32_t bits_bytes(uint32_t count, uint32_t bits) {
    return (count * bits + 7) / 8;
}
/* Bytes of the remainders of c entries. */
static uint32_t low_bytes(uint32_t c, uint32_t code) {
    return bits_bytes(c, tw_index_shift(code));
}
static uint32_t trit_bytes(uint32_t c, uint32_t code) {
    return tw_index_threefold(code) ? (c + 4) / 5 : 0;
}

/* A part of c entries with gaps of sum s costs c * (2 + log2(1 + s/c)) bits at most with the divisor 2^floor(log2(s/c)),
 * and none more than that is chosen. The sum over parts is largest where all are alike (the logarithm is concave):
 * k * (2 + log2(n/k)). With 2^e <= n/k < 2^(e+1): log2(n/k) <= e + (n/k/2^e - 1) + 1/11. */
uint64_t tw_index_bound(uint32_t n, uint32_t k) {
    if (k == 0 || k > n)
        return 0;
    uint32_t e = floor_log2(n / k);
    uint64_t bits = (uint64_t)k * (e + 1) + (n >> e) + 1 + k / 11 + 1;
    uint64_t parts = tw_ceil_div(k, TW_INDEX_PART), blocks = tw_ceil_div(k, TW_INDEX_BLOCK);
    return bits / 8 + 1 + parts * (1 + 1) + blocks * (4 + 2 + 1); /* + 1: streams end on whole bytes */
}

/* ---- out ---- */

/* Entries whose gaps are much longer than the others' of their part: the first ones of bursts. Their quotients would be
 * long in unary; a list costs 9 bits and the number each. */
enum { FAR_FROM = 24, FAR_MOST = 255, FAR_BITS = 9 };
typedef struct far_list {
    uint32_t count, width; /* width: bits of the largest quotient */
    uint32_t entry[FAR_MOST + 1], quotient[FAR_MOST + 1];
} far_list;

static uint32_t far_bytes(uint32_t count, uint32_t width) {
    return count ? 2 + bits_bytes(count, FAR_BITS) + bits_bytes(count, width) : 0;
}

static uint32_t cost(const tw_index_loops *l, const tw_index_part *p, uint32_t code) {
    return p->count * (tw_index_shift(code) + 1) + 8 * trit_bytes(p->count, code) + l->quotients(p, code);
}

/* The cheapest code of those that are near the best for the mean gap (random supports) or below it (clustered ones: a few
 * long gaps, many short ones). Takes no more than the first one tried, which is what tw_index_bound relies on. clustered:
 * gaps are not like those of a random support, whose remainders by that 2^m are 0.42 to 0.46 of it on average; where most
 * gaps are short, remainders are. */
static uint32_t choose(const tw_index_loops *l, const tw_index_part *p, uint32_t sum, bool *clustered) {
    uint32_t m = sum < p->count ? 0 : floor_log2(sum / p->count), least = cost(l, p, 2 * m);
    uint64_t quotients = least - p->count * (m + 1), rests = sum - (quotients << m);
    *clustered = m >= 3 && 100 * rests < 36 * ((uint64_t)p->count << m);
    for (; m > 0; m--) {
        uint32_t c = cost(l, p, 2 * (m - 1));
        if (c >= least)
            break;
        least = c;
    }
    uint32_t best = 2 * m;
    for (uint32_t down = 1; down <= 2 && down <= m; down++) {
        uint32_t code = 2 * (m - down) + 1, c = cost(l, p, code);
        if (c < least) {
            least = c;
            best = code;
        }
    }
    return best;
}

/* Bits of the part with divisor 2^m and far entries; UINT32_MAX: not to be had. */
static uint32_t far_cost(const tw_index_part *p, uint32_t m, far_list *f) {
    uint32_t sum = 0, most = 0;
    f->count = 0;
    for (uint32_t i = 0; i < TW_INDEX_PART; i++) {
        uint32_t q = p->gap[i] >> m;
        f->count += q >= FAR_FROM;
        sum += q >= FAR_FROM ? 0 : q;
        most = q > most ? q : most;
    }
    if (f->count == 0 || f->count > FAR_MOST || sum > 2 * p->count) /* the last: TW_INDEX_UNARY */
        return UINT32_MAX;
    f->width = floor_log2(most) + 1;
    return p->count * (m + 1) + sum + 8 * far_bytes(f->count, f->width);
}

/* Takes the far quotients out of the gaps. */
static void take_far(tw_index_part *p, uint32_t m, far_list *f) {
    f->count = 0;
    for (uint32_t i = 0; i < p->count; i++) {
        uint32_t q = p->gap[i] >> m;
        f->entry[f->count] = i;
        f->quotient[f->count] = q;
        p->gap[i] -= q >= FAR_FROM ? q << m : 0;
        f->count += q >= FAR_FROM;
    }
}

/* The code of a part, and its list. */
static uint32_t settle(const tw_index_loops *l, tw_index_part *p, uint32_t sum, far_list *f) {
    bool clustered;
    uint32_t code = choose(l, p, sum, &clustered), found = 0, width = 0;
    f->count = 0;
    if (!clustered)
        return code;
    uint32_t least = cost(l, p, code);
    for (uint32_t m = 0; m <= tw_index_shift(code); m++) {
        uint32_t c = far_cost(p, m, f);
        if (c < least) {
            least = c;
            width = f->width;
            found = TW_INDEX_FAR + 2 * m;
        }
    }
    f->count = 0;
    if (!found)
        return code;
    take_far(p, tw_index_shift(found), f);
    f->width = width;
    return found;
}

/* count numbers of m bits, one behind the other. Four or two at once go into a word beside up to 7 bits that are there. */
static uint8_t *pack(uint8_t *dst, const uint32_t *number, uint32_t count, uint32_t m) {
    uint8_t room[4 * TW_INDEX_PART + 16];
    uint64_t word = 0, at = 0;
    uint32_t i = 0;
    for (; m <= 14 && i + 4 <= count; i += 4, at += 4 * m) {
        uint64_t low = number[i] | (uint64_t)number[i + 1] << m, high = number[i + 2] | (uint64_t)number[i + 3] << m;
        word |= (low | high << 2 * m) << at % 8;
        memcpy(room + at / 8, &word, sizeof word);
        word >>= (at % 8 + 4 * m) / 8 * 8;
    }
    for (; m <= 28 && i + 2 <= count; i += 2, at += 2 * m) {
        word |= (number[i] | (uint64_t)number[i + 1] << m) << at % 8;
        memcpy(room + at / 8, &word, sizeof word);
        word >>= (at % 8 + 2 * m) / 8 * 8;
    }
    for (; i < count; i++, at += m) {
        word |= (uint64_t)number[i] << at % 8;
        memcpy(room + at / 8, &word, sizeof word);
        word >>= (at % 8 + m) / 8 * 8;
    }
    memcpy(dst, room, bits_bytes(count, m));
    return dst + bits_bytes(count, m);
}

static uint8_t *pack_far(uint8_t *dst, const far_list *f) {
    if (f->count == 0)
        return dst;
    *dst++ = (uint8_t)f->count;
    *dst++ = (uint8_t)f->width;
    dst = pack(dst, f->entry, f->count, FAR_BITS);
    return pack(dst, f->quotient, f->count, f->width);
}

/* Byte j has the trits j, j + bytes, j + 2 bytes, ... as the digits of v in base 3, the first one on top; it is v * 256 /
 * 243, rounded up, so that the top digit comes out as (byte * 3) / 256. */
static uint8_t *pack_trits(uint8_t *dst, const tw_index_part *p, uint32_t bytes) {
    for (uint32_t j = 0; j < bytes; j++) {
        uint32_t v = 0;
        for (uint32_t plane = 0; plane < 5; plane++)
            v = 3 * v + (plane * bytes + j < p->count ? p->trit[plane * bytes + j] : 0);
        dst[j] = (uint8_t)((v * 256 + 242) / 243);
    }
    return dst + bytes;
}

static void set_bits(uint64_t *bits, const tw_index_part *p) {
    uint64_t word = bits[p->one[0] / 64];
    uint32_t at = p->one[0] / 64;
    for (uint32_t i = 0; i < p->count; i++) {
        uint32_t now = p->one[i] / 64;
        word = now == at ? word : 0; /* no branch: it would be guessed wrong at every new word */
        word |= UINT64_C(1) << p->one[i] % 64;
        bits[now] = word;
        at = now;
    }
}

/* Writes one block of c entries at dst. Returns where it ends, NULL if positions do not increase. */
static uint8_t *encode_block(const tw_index_loops *l, const uint32_t *pos, uint32_t c, uint32_t least, bool begins,
                             bool ends, uint8_t *dst) {
    tw_index_part p;
    far_list far;
    uint64_t unary[TW_INDEX_UNARY / 8] = {0};
    uint32_t parts = (c + TW_INDEX_PART - 1) / TW_INDEX_PART, bit = 0;
    if (!begins) {
        memcpy(dst, &least, sizeof least);
        dst += sizeof least;
    }
    uint8_t *length = dst, *code = ends ? dst : dst + sizeof(uint16_t);
    dst = code + parts;
    for (uint32_t i = 0; i < parts; i++, pos += p.count) {
        p.count = least_of(c - i * TW_INDEX_PART, TW_INDEX_PART);
        if (!l->gaps(&p, pos, least) || pos[p.count - 1] == UINT32_MAX) /* no position: its successor would be 0 */
            return NULL;
        code[i] = (uint8_t)settle(l, &p, pos[p.count - 1] + 1 - least - p.count, &far);
        l->split(&p, code[i], bit);
        dst = pack(dst, p.low, p.count, tw_index_shift(code[i]));
        dst = pack_trits(dst, &p, trit_bytes(p.count, code[i]));
        dst = pack_far(dst, &far);
        set_bits(unary, &p);
        bit = p.one[p.count - 1] + 1;
        least = pos[p.count - 1] + 1;
    }
    uint16_t bytes = (uint16_t)((bit + 7) / 8);
    if (!ends)
        memcpy(length, &bytes, sizeof bytes);
    memcpy(dst, unary, bytes);
    return dst + bytes;
}

tw_status tw_index_encode(const tw_index_loops *l, const uint32_t *pos, uint32_t k, uint32_t n, void *dst,
                          uint64_t *bytes) {
    uint8_t *at = dst;
    uint32_t least = 0;
    *bytes = 0;
    if (k > n || (k > 0 && pos[k - 1] >= n))
        return tw_fail(TW_ERR_ARG, "index: %u positions are not all below %u", k, n);
    for (uint32_t done = 0; done < k;) {
        uint32_t c = least_of(k - done, TW_INDEX_BLOCK);
        at = encode_block(l, pos + done, c, least, done == 0, done + c == k, at);
        if (!at)
            return tw_fail(TW_ERR_ARG, "index: positions %u to %u do not increase strictly", done, done + c - 1);
        least = pos[done + c - 1] + 1;
        done += c;
    }
    *bytes = (uint64_t)(at - (uint8_t *)dst);
    return TW_OK;
}

/* ---- in ---- */

/* Where the streams of a block are; nothing outside of [at, end) belongs to one. */
typedef struct block {
    const uint8_t *code, *low, *unary, *end;
    uint32_t count, parts, unary_bytes, least;
    bool last;
} block;

static tw_status corrupt(const tw_index_reader *r, const char *what) {
    return tw_fail(TW_ERR_CORRUPT, "index: entries from %u of %u: %s", r->done, r->k, what);
}

/* Reads the block's header and finds its streams. */
static tw_status find(const tw_index_reader *r, block *b) {
    const uint8_t *at = r->at;
    uint64_t low = 0;
    b->count = least_of(r->k - r->done, TW_INDEX_BLOCK);
    b->parts = (b->count + TW_INDEX_PART - 1) / TW_INDEX_PART;
    b->last = r->done + b->count == r->k;
    b->least = 0;
    size_t head = (r->done ? 4u : 0u) + (b->last ? 0u : 2u) + b->parts;
    if ((size_t)(r->end - at) < head)
        return corrupt(r, "the bytes end in a header");
    if (r->done) {
        memcpy(&b->least, at, sizeof b->least);
        at += sizeof b->least;
    }
    uint16_t length = 0;
    if (!b->last) {
        memcpy(&length, at, sizeof length);
        at += sizeof length;
    }
    b->code = at;
    b->low = at + b->parts;
    for (uint32_t i = 0; i < b->parts; i++) {
        uint32_t c = least_of(b->count - i * TW_INDEX_PART, TW_INDEX_PART), size;
        if (!tw_index_code_exists(b->code[i]))
            return corrupt(r, "there is no such parameter");
        size = low_bytes(c, b->code[i]) + trit_bytes(c, b->code[i]);
        if ((size_t)(r->end - b->low) < low + size + (b->code[i] & TW_INDEX_FAR ? 2 : 0))
            return corrupt(r, "the bytes end in a block");
        low += size;
        const uint8_t *far = b->low + low;
        if (b->code[i] & TW_INDEX_FAR && (far[0] == 0 || far[1] == 0 || far[1] > 32))
            return corrupt(r, "there is no such list of far entries");
        low += b->code[i] & TW_INDEX_FAR ? far_bytes(far[0], far[1]) : 0;
    }
    size_t left = (size_t)(r->end - b->low);
    if (left < low || (!b->last && left - low < length))
        return corrupt(r, "the bytes end in a block");
    if (b->last && left - low > TW_INDEX_UNARY)
        return corrupt(r, "there are more bytes than entries can need");
    b->unary = b->low + low;
    b->unary_bytes = b->last ? (uint32_t)(left - low) : length;
    b->end = b->unary + b->unary_bytes;
    return b->unary_bytes <= TW_INDEX_UNARY ? TW_OK : corrupt(r, "its unary stream is longer than any can be");
}

/* Where a block begins is told twice: by the header and by the block before. */
static tw_status check_least(const tw_index_reader *r, const block *b) {
    return b->least == r->least ? TW_OK : corrupt(r, "the block does not begin where the one before it ends");
}

/* Digits in base 3 from the top: eight bytes at once, two bytes apart, in words of four. Any byte gives trits. */
static void unpack_trits(uint8_t *trit, const uint8_t *src, uint32_t bytes) {
    const uint64_t lanes = UINT64_C(0x00ff00ff00ff00ff);
    uint64_t even[TW_INDEX_PART / 40 + 1], odd[TW_INDEX_PART / 40 + 1];
    uint32_t words = (bytes + 7) / 8;
    for (uint32_t w = 0; w < words; w++) {
        uint64_t x = 0;
        memcpy(&x, src + 8 * w, least_of(8, bytes - 8 * w));
        even[w] = x & lanes;
        odd[w] = x >> 8 & lanes;
    }
    for (uint32_t plane = 0; plane < 5; plane++)
        for (uint32_t w = 0; w < words; w++) {
            even[w] *= 3;
            odd[w] *= 3;
            uint64_t x = (even[w] >> 8 & lanes) | (odd[w] & ~lanes);
            /* no more than the plane has: gcc 12 changes the order of stores that overlap (-O3 -march=native) */
            memcpy(trit + plane * bytes + 8 * w, &x, least_of(8, bytes - 8 * w));
            even[w] &= lanes;
            odd[w] &= lanes;
        }
}

/* Number i of m bits; 8 bytes at its first one may be read. */
static uint32_t number_at(const uint8_t *packed, uint32_t i, uint32_t m) {
    uint64_t word;
    memcpy(&word, packed + i * m / 8, sizeof word);
    return (uint32_t)(word >> i * m % 8 & ((UINT64_C(1) << m) - 1));
}

/* Adds the part's far quotients to its positions, the last of which was least - 1. Returns the new `least`, something above
 * n where that is not below 2^32, 0 where the list cannot be. */
static uint64_t add_far(const tw_index_coded *c, const uint8_t *far, uint32_t *pos, uint64_t least, uint32_t n) {
    uint8_t entries[FAR_MOST * FAR_BITS / 8 + 9], quotients[FAR_MOST * 4 + 8];
    uint32_t count = far[0], width = far[1], i = 0, size = bits_bytes(count, FAR_BITS);
    uint64_t sum = 0, divisor = (c->trit ? UINT64_C(3) : 1) << tw_index_shift(c->code);
    memcpy(entries, far + 2, size);
    memcpy(quotients, far + 2 + size, bits_bytes(count, width));
    for (uint32_t j = 0; j < count && least <= n; j++) {
        uint32_t entry = number_at(entries, j, FAR_BITS);
        if (entry >= c->count || (j > 0 && entry < i))
            return 0;
        for (; i < entry; i++)
            pos[i] += (uint32_t)sum;
        uint64_t more = number_at(quotients, j, width) * divisor;
        pos[i++] += (uint32_t)(sum += more);
        least += more;
    }
    for (; i < c->count; i++)
        pos[i] += (uint32_t)sum;
    return least;
}

/* Positions of the block's entries; b->least is checked. */
static tw_status decode_block(tw_index_reader *r, const block *b, uint32_t *pos) {
    uint16_t one[TW_INDEX_BLOCK + 80];
    uint8_t trit[sizeof((tw_index_part *)0)->trit], low[4 * TW_INDEX_PART + 64];
    uint64_t least = r->least;
    if (r->loops->ones(b->unary, b->unary_bytes, b->count, one) != b->count ||
        one[b->count - 1] / 8u + 1 != b->unary_bytes)
        return corrupt(r, "the unary stream does not end as many quotients as there are entries");
    memset(one + b->count, 0, TW_INDEX_SLACK * sizeof *one);
    tw_index_coded c = {.low = b->low};
    const uint8_t *at = b->low;
    for (uint32_t i = 0; i < b->parts; i++, pos += c.count) {
        c.code = b->code[i];
        c.count = least_of(b->count - i * TW_INDEX_PART, TW_INDEX_PART);
        c.one = one + i * TW_INDEX_PART;
        c.least = (uint32_t)least;
        uint32_t size = low_bytes(c.count, c.code), trits = trit_bytes(c.count, c.code);
        c.low = at;
        if (r->end - (at + size) < 64) { /* vectors read past the end */
            memcpy(low, at, size);
            memset(low + size, 0, 64);
            c.low = low;
        }
        c.trit = trits ? trit : NULL;
        if (trits)
            unpack_trits(trit, at + size, trits);
        at += size + trits;
        least = (tw_index_small(c.code) ? r->loops : &tw_index_ref)->join(&c, pos);
        if (c.code & TW_INDEX_FAR) {
            least = add_far(&c, at, pos, least, r->n);
            at += far_bytes(at[0], at[1]);
        }
        if (least == 0)
            return corrupt(r, "far entries do not follow one another");
        if (least > r->n)
            return corrupt(r, "a position is not below n");
        c.first = one[i * TW_INDEX_PART + c.count - 1] + 1u;
    }
    r->least = (uint32_t)least;
    return TW_OK;
}

void tw_index_open(tw_index_reader *r, const tw_index_loops *l, const void *src, uint64_t bytes, uint32_t n,
                   uint32_t k) {
    const uint8_t *at = bytes ? src : (const uint8_t *)"";
    *r = (tw_index_reader){.loops = l, .at = at, .end = at + bytes, .n = n, .k = k};
}

tw_status tw_index_read(tw_index_reader *r, uint32_t *pos, uint32_t *count) {
    block b;
    *count = 0;
    if (r->k > r->n)
        return tw_fail(TW_ERR_CORRUPT, "index: %u of %u values cannot have been kept", r->k, r->n);
    if (r->done == r->k)
        return r->at == r->end ? TW_OK : corrupt(r, "there are bytes behind the last entry");
    tw_status s = find(r, &b);
    s = s < 0 ? s : check_least(r, &b);
    s = s < 0 ? s : decode_block(r, &b, pos);
    if (s < 0)
        return s;
    *count = b.count;
    r->done += b.count;
    r->at = b.end;
    return TW_OK;
}

/* The next block's header says where this one ends: believed, as r->least. */
tw_status tw_index_skip(tw_index_reader *r, uint32_t position) {
    while (r->k <= r->n && r->k - r->done > TW_INDEX_BLOCK) {
        block b;
        uint32_t next;
        tw_status s = find(r, &b);
        s = s < 0 ? s : check_least(r, &b);
        if (s < 0)
            return s;
        if (r->end - b.end < (ptrdiff_t)sizeof next)
            return corrupt(r, "the bytes end in a header");
        memcpy(&next, b.end, sizeof next);
        if (next > position)
            return TW_OK;
        if (next >= r->n || next < r->least + (uint64_t)b.count)
            return corrupt(r, "the next block begins where it cannot");
        r->least = next;
        r->done += b.count;
        r->at = b.end;
    }
    return TW_OK;
}

tw_status tw_index_decode(const tw_index_loops *l, const void *src, uint64_t bytes, uint32_t n, uint32_t k,
                          uint32_t *pos) {
    tw_index_reader r;
    uint32_t count;
    tw_index_open(&r, l, src, bytes, n, k);
    for (;;) {
        tw_status s = tw_index_read(&r, pos, &count);
        if (s < 0 || count == 0)
            return s;
        pos += count;
    }
}

/* ---- values ---- */
enum { AHEAD = 32 }; /* entries asked for beforehand: at 1 % density each lies in a line of its own */

void tw_index_gather(float *v, const float *x, const uint32_t *pos, uint32_t k) {
    for (uint32_t i = 0; i < k; i++) {
        if (i + AHEAD < k)
            __builtin_prefetch(x + pos[i + AHEAD], 0, 3);
        v[i] = x[pos[i]];
    }
}

void tw_index_add(float *y, const uint32_t *pos, const float *v, uint32_t k) {
    for (uint32_t i = 0; i < k; i++) {
        if (i + AHEAD < k)
            __builtin_prefetch(y + pos[i + AHEAD], 1, 3);
        y[pos[i]] += v[i];
    }
}
