# SPDX-License-Identifier: BSD-3-Clause
"""The codec quant after docs/wire-format.md alone: for wire_format.py."""
import math
import struct

from xxh import xxh64

FLT_MAX = (2 - 2.0 ** -23) * 2.0 ** 127
LEAST = 2.0 ** -149
PARTS = {8: 127.0, 6: 31.0, 4: 7.0, 3: 3.0, 2: 2.0}
TABLES = {2: [0.5674756, 1.8930277],
          3: [0.30718, 0.9475121, 1.6843405, 2.697064],
          4: [0.1609193, 0.4863464, 0.8231255, 1.1810486, 1.5744523, 2.0279204, 2.5931285, 3.4247931]}
PLANES = {8: (8,), 6: (4, 2), 4: (4,), 3: (2, 1), 2: (2,)}


def f32(x):
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def up(v):
    """To fp32, not below it, not 0, at most FLT_MAX."""
    f = f32(min(v, FLT_MAX))
    if f < v and f < FLT_MAX or f == 0:
        f = struct.unpack("<f", struct.pack("<I", struct.unpack("<I", struct.pack("<f", f))[0] + 1))[0]
    return f


def philox(rounds, counter, key):
    c, k0, k1 = list(counter), key[0], key[1]
    for _ in range(rounds):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k0, b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k1, a & 0xFFFFFFFF]
        k0, k1 = k0 + 0x9E3779B9 & 0xFFFFFFFF, k1 + 0xBB67AE85 & 0xFFFFFFFF
    return c


def dithers(seed, n, draw):
    """draw: hash of the name, step, rank, hop, tile."""
    name, step, rank, hop, tile = draw[:5]
    key = xxh64(struct.pack("<4I", seed, step, rank, hop), name)
    words = [philox(7, (c, tile & 0xFFFFFFFF, tile >> 32, 0), (key & 0xFFFFFFFF, key >> 32)) for c in range(-(-n // 512) * 32)]
    out = []
    for i in range(n):
        row = i // 32 % 16
        out.append(((words[i // 512 * 32 + i % 32][row // 4] >> 8 * (row % 4) & 255) - 127.5) / 256)
    return out


def butterflies(x):
    h = 1
    while h < len(x):
        x = [f32(x[i] + x[i + h]) if not i & h else f32(x[i - h] - x[i]) for i in range(len(x))]
        h *= 2
    return x


def rotate(x, seed, back):
    """A group."""
    signs = [philox(10, (w // 4, 0, 0, 0), (seed, 1))[w % 4] for w in range(-(-len(x) // 32))]
    out, at = [], 0
    for k in reversed(range(13)):
        if not len(x) >> k & 1:
            continue
        block = x[at:at + 2 ** k]
        norm = 2.0 ** -(k // 2) * (f32(math.sqrt(0.5)) if k % 2 else 1.0)
        if back:
            block = butterflies(block)
        block = [f32(v * norm) * (-1 if signs[(at + i) // 32] >> (at + i) % 32 & 1 else 1) for i, v in enumerate(block)]
        if not back:
            block = butterflies(block)
        out += block
        at += 2 ** k
    return out


class Quant:
    def __init__(self, bits, group, stochastic, scale, hadamard, seed):
        self.bits, self.group, self.stochastic, self.scale, self.hadamard, self.seed = bits, group, stochastic, scale, hadamard, seed
        self.table = [f32(v) for v in TABLES[bits]] if scale == "mse" and bits <= 4 else None
        self.half = 2 ** (bits - 1)
        self.zero = (2 ** bits - 1) / 2 if scale == "minmax" else self.half
        self.reach = self.zero if scale == "minmax" else 1.0 if bits == 2 else PARTS[bits]

    def bytes(self, n):
        return -(-n // self.group) * (8 if self.scale == "minmax" else 4) + -(-n // 32) * 4 * self.bits

    def levels(self, scale):
        return [v if v != v else min(v, FLT_MAX) for v in (f32(k * scale) for k in self.table)]

    def value(self, code, scale, centre):
        if self.table:
            level = self.levels(scale)[code % self.half]
            return -level if code >= self.half else level
        return f32(centre + f32((code - self.zero) * scale)) if self.scale == "minmax" else f32((code - self.zero) * scale)

    def fit(self, x, mean_of):
        """scale, centre, and whether fp32 steps are safe. mean_of: sum and mean of |x| as onebit takes them."""
        least, most, last = min(x), max(x), 2 ** self.bits - 1
        size = max(abs(least), abs(most))
        if self.table:
            size, mean = mean_of(x)
        easy = size == 0 or 2.0 ** -80 <= size <= 2.0 ** 110
        if self.scale == "minmax":
            scale = f32(f32(most - least) / last) if easy else up((most - least) / last) if most > least else 0.0
            centre = f32(f32(least / 2) + f32(most / 2)) if easy else f32((least + most) / 2)
            return scale + 0.0, centre + 0.0, easy
        if self.table:
            return (mean if easy else max(mean, LEAST)), 0.0, easy
        scale = f32(size / PARTS[self.bits]) if easy else up(size / PARTS[self.bits])
        return (self.shorter(x, scale, size, mean_of) if self.scale == "mse" and easy and size else scale), 0.0, easy

    def shorter(self, x, scale, largest, mean_of):
        """That scale, or a shorter one if less is lost."""
        further = f32(self.reach + f32(len(x) / (32 * self.reach)))
        part, other = f32(self.reach / further), f32(largest / further)
        lost = f32(f32(self.misses(x, other, mean_of) * part) * part)
        return other if lost < self.misses(x, scale, mean_of) else scale

    def misses(self, x, scale, mean_of):
        squares = []
        for v in x:
            y = f32(v * f32(1 / scale))
            miss = f32(y - round(min(max(y, -self.reach), self.reach)))
            squares.append(f32(miss * miss))
        return mean_of(squares)[0]

    def code(self, x, scale, centre, easy, dither):
        if self.table:
            levels, chance = self.levels(scale), dither + 0.5
            gaps = [f32(a + f32(f32(b - a) * chance)) for a, b in zip(levels, levels[1:])]
            return sum(abs(x) > g for g in gaps) + (self.half if x < f32(levels[0] * (2 * dither)) else 0)
        if easy:
            y = f32(f32(x - centre) * f32(1 / scale)) if scale > 0 else 0.0
            y = f32(f32(y + (self.zero if self.scale == "minmax" else 0.0)) + dither)
            shift = self.zero if self.scale == "minmax" else 0.0
            return int(round(min(max(y, shift - self.reach), shift + self.reach)) + self.zero - shift)
        y = (x - centre) / scale + dither if scale > 0 else 0.0
        code = round(min(max(y, -self.reach), self.reach) + self.zero)
        while not math.isfinite(self.value(code, scale, centre)):
            code += -1 if code > self.zero else 1
        return code

    def encode(self, x, draw, mean_of):
        n, scales, centres, codes = len(x), [], [], []
        noise = dithers(self.seed, n, draw) if self.stochastic else [0.0] * n
        for at in range(0, n, self.group):
            part = x[at:at + self.group]
            part = rotate(part, self.seed, False) if self.hadamard else part
            if not all(map(math.isfinite, part)):
                scales.append(math.nan)
                centres.append(0.0)
                codes += [0] * len(part)
                continue
            scale, centre, easy = self.fit(part, mean_of)
            scales.append(scale)
            centres.append(centre)
            codes += [self.code(v, scale, centre, easy, d) for v, d in zip(part, noise[at:])]
        head = scales + (centres if self.scale == "minmax" else [])
        raw = struct.pack("<%dI" % len(head), *(0x7FC00000 if v != v else struct.unpack("<I", struct.pack("<f", v))[0] for v in head))
        codes += [0] * (-n % 32)
        shift = 0
        for width in PLANES[self.bits]:
            raw += self.plane([c >> shift & 2 ** width - 1 for c in codes], width)
            shift += width
        return raw

    @staticmethod
    def place(lane, width):
        """Byte and bit of a lane in its row of a plane."""
        return (lane // 8, lane % 8) if width == 1 else (lane % (4 * width), lane // (4 * width) * width)

    def plane(self, codes, width):
        out = bytearray(len(codes) // 32 * 4 * width)
        for i, c in enumerate(codes):
            byte, bit = self.place(i % 32, width)
            out[i // 32 * 4 * width + byte] |= c << bit
        return bytes(out)

    def decode(self, raw, n):
        groups, rows = -(-n // self.group), -(-n // 32)
        scales = struct.unpack_from("<%df" % groups, raw)
        centres = struct.unpack_from("<%df" % groups, raw, 4 * groups) if self.scale == "minmax" else [0.0] * groups
        codes, at, shift = [0] * n, groups * (8 if self.scale == "minmax" else 4), 0
        for width in PLANES[self.bits]:
            for i in range(n):
                byte, bit = self.place(i % 32, width)
                codes[i] |= (raw[at + i // 32 * 4 * width + byte] >> bit & 2 ** width - 1) << shift
            at += rows * 4 * width
            shift += width
        y = [self.value(c, scales[i // self.group], centres[i // self.group]) for i, c in enumerate(codes)]
        if self.hadamard:
            y = [v for g in range(0, n, self.group) for v in rotate(y[g:g + self.group], self.seed, True)]
        return y
