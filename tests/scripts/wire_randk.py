# SPDX-License-Identifier: BSD-3-Clause
"""The codec randk after docs/wire-format.md alone: for wire_format.py."""
import math
import struct
from fractions import Fraction

from wire_quant import f32, philox
from xxh import xxh64


class Randk:
    def __init__(self, density, unbiased, seed):
        self.density, self.unbiased, self.seed = Fraction(density), unbiased, seed

    def kept(self, n):
        return max(1, math.floor(self.density * n + Fraction(1, 2))) if n else 0

    def bytes(self, n):
        return 4 * self.kept(n)

    def positions(self, n, draw):
        """draw: hash of the name, step, rank, hop, tile, and whether a sum is still to come; the third and the fourth do not matter."""
        name, step, _, _, tile = draw[:5]
        key = xxh64(struct.pack("<4I", self.seed, step, 0xFFFFFFFF, 0), name)
        key = key & 0xFFFFFFFF, key >> 32
        low, high, m = tile & 0xFFFFFFFF, tile >> 32, self.kept(n)
        turn = philox(7, (0, low, high, 1), key)[0] * n >> 32
        stratum, out = -(-n * 65536 // m), []
        for i in range(m):
            first, end = i * stratum >> 16, (i + 1) * stratum >> 16
            word = philox(7, (i // 128 * 32 + i % 32, low, high, 0), key)[i // 32 % 4]
            out.append((first + (word * (end - first) >> 32) + turn) % n)
        return out

    def encode(self, x, draw):
        gain = f32(len(x) / self.kept(len(x))) if self.unbiased and not draw[5] else 1.0
        values = [f32(x[p] * gain) for p in self.positions(len(x), draw)]
        if not all(map(math.isfinite, x + values)):
            return struct.pack("<I", 0x7FC00000) * len(values)
        return struct.pack("<%df" % len(values), *values)

    def decode(self, raw, n, draw):
        values = struct.unpack_from("<%df" % self.kept(n), raw)
        if values[0] != values[0]:
            return [math.nan] * n
        y = [0.0] * n
        for p, v in zip(self.positions(n, draw), values):
            y[p] = v
        return y
