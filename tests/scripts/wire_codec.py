# SPDX-License-Identifier: BSD-3-Clause
"""Specs, and the codecs of fixed rate, after docs/wire-format.md alone: for wire_format.py."""
import math
import re
import struct
from fractions import Fraction

from wire_numbers import BF16, FP16, FP32, f32, finite, pack, unpack
from wire_quant import Quant, dithers
from wire_randk import Randk
from wire_topk import Topk


class LowRank:
    """Two factors of an array: rank vectors of a row's length, then what multiplies them, row by row."""

    def __init__(self, rank, columns, iterations=1, warm_start=1):
        self.rank, self.columns, self.iterations, self.warm_start = rank, columns, iterations, warm_start

    def values(self, n, columns=None):
        columns = self.columns if columns is None else columns
        rows = n // columns if columns and n % columns == 0 else 0
        most = self.rank * (rows + columns)
        return most if self.rank < min(rows, columns) and most < n else 0

    def bytes(self, n):
        return 4 * (self.values(n) or n)

    def decode(self, payload, n):
        v = struct.unpack("<%df" % (len(payload) // 4), payload)
        if not self.values(n):
            return v
        r, cols = self.rank, self.columns
        out = []
        for at in range(r * cols, len(v), r):
            left = v[at:at + r]
            for c in range(cols):
                total = f32(left[0] * v[c])
                for k in range(1, r):
                    total = f32(total + f32(left[k] * v[k * cols + c]))
                out.append(total)
        return out


class Feedback:
    """none, ef, decay with its beta (e' is that share of what was lost), or dgc with its momentum."""

    def __init__(self, text):
        name, _, option = text.partition(":")
        self.number = {"": 1, "none": 1, "ef": 2, "decay": 3, "dgc": 4}[name]
        usual = {"decay": "0.95", "dgc": "0.9"}.get(name, "0")
        self.rate = int(Fraction(option.partition("=")[2] or usual) * 10 ** 9)
        self.beta = f32(self.rate / 1e9) if name == "decay" else 1.0
        self.momentum = f32(self.rate / 1e9) if name == "dgc" else None

    def __bool__(self):
        return self.number > 1

    def keeps(self, lost):
        return f32(lost * self.beta) if self else 0.0


class Spec:
    """codec, feedback, type, scale, group, bits, rounding, rotate, seed, density, select, values: the numbers that are
    hashed."""

    def __init__(self, text):
        name, _, options = text.partition(":")
        self.topk = self.randk = self.lowrank = None
        self.density = 0
        if name == "topk":
            self.read_topk(text)
            return
        text, _, feedback = text.partition("+")
        name, _, options = text.partition(":")
        given = dict(o.split("=") for o in options.split(",") if o)
        self.codec = {"none": 1, "cast": 2, "onebit": 3, "quant": 4, "ternary": 5, "randk": 7, "powersgd": 8}[name]
        self.ef = Feedback(feedback)
        self.type = {"fp16": FP16, "bf16": BF16, "fp8e4m3": 4, "fp8e5m2": 5}[given.get("type", "bf16")] if name == "cast" else 0
        self.scale = {"mean": 1, "rms": 2, "twosided": 3}[given.get("scale", "mean")] if name == "onebit" else 0
        self.is_fp8 = self.type > BF16
        self.group = int(given.get("group", 512)) if name in ("onebit", "quant", "ternary") or self.is_fp8 else 0
        self.more, self.quant = [0, 0, 0, 0], None
        if name == "quant":
            scale = given.get("scale", "absmax")
            self.scale = {"absmax": 4, "minmax": 5, "mse": 6}[scale]
            stochastic, hadamard = given.get("rounding") == "stochastic", given.get("rotate") == "hadamard"
            self.more = [int(given.get("bits", 8)), 2 if stochastic else 1, 2 if hadamard else 1, int(given.get("seed", 0))]
            self.quant = Quant(self.more[0], self.group, stochastic, scale, hadamard, self.more[3])
        if name == "ternary":
            self.more = [0, 2 if given.get("rounding") == "stochastic" else 1, 0, int(given.get("seed", 0))]

        if name == "randk":
            unbiased, density = given.get("scale") == "unbiased", given.get("density", "0.01")
            self.scale, self.density, self.more[3] = 8 if unbiased else 7, int(Fraction(density) * 10 ** 9), int(given.get("seed", 0))
            self.randk = Randk(density, unbiased, self.more[3])

        if name == "powersgd":
            numbers = [int(given.get(name, usual)) for name, usual in (("rank", 4), ("columns", 0), ("iterations", 1), ("warm_start", 1))]
            self.lowrank, self.more[3] = LowRank(*numbers), int(given.get("seed", 0))

    def read_topk(self, text):
        values = re.search(r"values=\((.*?)\)|values=([^,+]*)", text)
        text = text.replace(values.group(0), "") if values else text
        given = dict(o.split("=") for o in text.partition(":")[2].partition("+")[0].split(",") if o)
        self.codec, self.ef, self.type, self.scale, self.more, self.quant = 6, Feedback(text.partition("+")[2]), 0, 0, [0, 0, 0, 0], None
        self.group = int(given.get("group", 4096))
        select = {"exact": 1, "threshold": 2, "group": 3}[given.get("select", "exact")]
        inner = Spec(values.group(1) or values.group(2) if values else "none")
        self.topk = Topk(inner, round(float(given.get("density", 0.01)) * 10 ** 9), select, self.group)

    def words(self):
        more = [self.density] + [0] * 8
        if self.topk:
            v = self.topk.values
            more = [self.topk.density, self.topk.select, v.codec, v.type, v.scale, *v.more[:3], v.group]
        low = self.lowrank
        factors = [low.rank, low.iterations, low.warm_start, low.columns] if low else [0, 0, 0, 0]
        return struct.pack("<24I", self.codec, self.ef.number, self.type, self.scale, self.group, *self.more, *more, *factors, self.ef.rate, 1)

    def half(self, dtype):
        return self.type if self.codec == 2 else dtype

    def bytes(self, n, dtype):
        if self.quant:
            return self.quant.bytes(n)
        if self.randk:
            return self.randk.bytes(n)
        if self.lowrank:
            return self.lowrank.bytes(n)
        if self.codec == 3:
            return 4 * self.stored() * -(-n // self.group) + -(-n // 32) * 4
        if self.is_fp8:
            return 4 * -(-n // self.group) + -(-n // 4) * 4
        if self.codec == 5:
            return 4 * -(-n // self.group) + 2 * 4 * -(-n // 32)
        return -(-n * (4 if self.half(dtype) == FP32 else 2) // 4) * 4

    def encode(self, x, dtype, draw):
        if self.quant:
            return self.quant.encode(x, draw, lambda part: (self.sum_of(part, False), self.scale_of(part)))
        if self.randk:
            return self.randk.encode(x, draw)
        raw = (self.onebit(x) if self.codec == 3 else self.ternary(x, draw) if self.codec == 5 else
               self.fp8(x) if self.is_fp8 else pack(x, self.half(dtype)))
        return raw + bytes(-len(raw) % 4)

    def stored(self):
        """Scales of a group."""
        return 2 if self.scale == 3 else 1

    def fp8(self, x):
        scales, codes = [], bytearray()
        largest = 57344.0 if self.type == 5 else 448.0
        for i in range(0, len(x), self.group):
            part = x[i:i + self.group]
            most = max(map(abs, part))
            if not finite(part):
                scales.append(math.nan)
                codes += bytes(len(part))
            elif most == 0 or most >= 2.0 ** -100:
                scales.append(f32(most / largest))
                factor = f32(largest / most) if most else 1.0
                codes += bytes(self.fp8_code(f32(v * factor)) for v in part)
            else:
                k = max(math.frexp(most)[1] - 1 - (14 if self.type == 5 else 7), -133 if self.type == 5 else -140)
                scales.append(2.0 ** k)
                codes += bytes(self.fp8_code(v * 2.0 ** -k) for v in part)
        return pack(scales, FP32) + bytes(codes)

    def fp8_code(self, y):
        digits, bias = (2, 15) if self.type == 5 else (3, 7)
        exponent = max(math.frexp(abs(y))[1] - 1, 1 - bias) if y else 1 - bias
        steps = round(abs(y) / 2.0 ** (exponent - digits))  # to even; 2^digits and more of them: the number is normal
        return (0x80 if math.copysign(1, y) < 0 else 0) | ((exponent + bias - 1 << digits) + steps)

    def fp8_value(self, code):
        digits, bias = (2, 15) if self.type == 5 else (3, 7)
        exponent, m = (code & 0x7F) >> digits, code & (1 << digits) - 1
        size = (m + (1 << digits if exponent else 0)) * 2.0 ** (max(exponent, 1) - bias - digits)
        return -size if code & 0x80 else size

    def ternary(self, x, draw):
        """What is kept, and its mean or, at random, the largest."""
        scales, signs, kept = [], bytearray(-(-len(x) // 32) * 4), bytearray(-(-len(x) // 32) * 4)
        noise = dithers(self.more[3], len(x), draw) if self.more[1] == 2 else None
        for at in range(0, len(x), self.group):
            part = x[at:at + self.group]
            limits = [0.0] * len(part)
            if not finite(part):
                scale, limits = math.nan, [-1.0] * len(part)
            elif noise:
                scale = max(map(abs, part))
                limits = [f32(scale * (0.5 - d)) for d in noise[at:at + len(part)]]
            else:
                mean = self.scale_of(part)
                limits = [f32(f32(0.767) * mean) if f32(f32(0.767) * mean) < mean else 0.0] * len(part)
                large = [abs(v) if abs(v) > limits[0] else 0.0 for v in part]
                scale = self.mean(large, max(1, sum(v > 0 for v in large)))
            scales.append(scale)
            for i, (v, limit) in enumerate(zip(part, limits), at):
                keep = scale != scale or abs(v) > limit
                kept[i // 8] |= keep << i % 8
                signs[i // 8] |= (keep and scale == scale and math.copysign(1, v) < 0) << i % 8
        return pack(scales, FP32) + bytes(signs) + bytes(kept)

    def onebit(self, x):
        signs = bytearray(-(-len(x) // 8))
        for i, v in enumerate(x):
            signs[i // 8] |= (math.copysign(1, v) < 0 and v == v) << i % 8
        groups = [x[i:i + self.group] for i in range(0, len(x), self.group)]
        scales = [s for g in groups for s in (self.sides(g) if self.scale == 3 else [self.scale_of(g)])]
        return pack(scales, FP32) + bytes(signs)

    def scale_of(self, x):
        return self.mean(x, len(x)) if finite(x) else math.nan

    def sides(self, x):
        """What a clear and a set bit decode to."""
        if not finite(x):
            return [math.nan, math.nan]
        negative = [math.copysign(1, v) < 0 for v in x]
        set_ = sum(negative)
        above = self.mean([0.0 if s else v for v, s in zip(x, negative)], max(1, len(x) - set_))
        below = self.mean([v if s else 0.0 for v, s in zip(x, negative)], max(1, set_))
        return [above, 0.0 - below]

    def mean(self, x, members):
        mean = f32(self.sum_of(x, self.scale == 2) / members)
        return f32(math.sqrt(mean)) if self.scale == 2 else mean

    @staticmethod
    def sum_of(x, square):
        lane = [[0.0] * 32 for _ in range(4)]
        for i, v in enumerate(x):
            part = lane[i // 1024]
            part[i % 32] = f32(part[i % 32] + (f32(v * v) if square else abs(v)))
        total = [f32(f32(a + b) + f32(c + d)) for a, b, c, d in zip(*lane)]
        while len(total) > 1:
            n = len(total) // 2
            total = [f32(total[i] + total[i + n]) for i in range(n)]
        return total[0]

    def decode(self, raw, n, dtype, draw=None):
        """draw: for codecs whose random numbers are shared."""
        if self.quant:
            return self.quant.decode(raw, n)
        if self.randk:
            return self.randk.decode(raw, n, draw)
        if self.codec == 5:
            groups, plane = -(-n // self.group), 4 * -(-n // 32)
            scales, signs, kept = unpack(raw, groups, FP32), raw[4 * groups:], raw[4 * groups + plane:]
            return [0.0 if not kept[i // 8] >> i % 8 & 1 else -scales[i // self.group] if signs[i // 8] >> i % 8 & 1
                    else scales[i // self.group] for i in range(n)]
        if self.is_fp8:
            groups = -(-n // self.group)
            scales = unpack(raw, groups, FP32)
            return [f32(self.fp8_value(raw[4 * groups + i]) * scales[i // self.group]) for i in range(n)]
        if self.codec != 3:
            return unpack(raw, n, self.half(dtype))
        stored = self.stored() * -(-n // self.group)
        scales = unpack(raw, stored, FP32)
        signs = raw[4 * stored:]
        if self.stored() == 1:
            scales = [v for s in scales for v in (s, -s)]
        return [scales[i // self.group * 2 + (signs[i // 8] >> i % 8 & 1)] for i in range(n)]
