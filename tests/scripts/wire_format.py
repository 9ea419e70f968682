#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Recomputes all frames of a run from its inputs, after docs/wire-format.md alone.

usage: wire_format.py DUMP        (DUMP: what tests/unit/test_wire writes; see write_dump there)
Ends with "N frames agree" and status 0, or names the first difference."""
import math
import re
import struct
import sys
from collections import defaultdict
from fractions import Fraction

sys.dont_write_bytecode = True  # the source folder may be read-only
from wire_quant import Quant, dithers
from wire_randk import Randk
from wire_topk import Topk
from xxh import xxh3, xxh64

FP32, FP16, BF16 = 1, 2, 3
MAGIC, VERSION, SRA, ABSENT = 0x57495754, 1, 3, 0x80000000
FRAME_BYTES = 57344  # where no slow link was measured
SLACK = 1 + 2.0 ** -14  # how far a norm may lie above the true one


class Difference(Exception):
    pass


def expect(good, *what):
    if not good:
        raise Difference(" ".join(str(w) for w in what))


# ---- numbers: fp32 by rounding doubles, which is exact for one operation at a time ----
def f32(x):
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def bits(x):
    return 0x7FC00000 if x != x else struct.unpack("<I", struct.pack("<f", x))[0]


def to_half(x, dtype):
    if dtype == BF16:
        b = bits(x)
        return 0x7FC0 if x != x else (b + 0x7FFF + (b >> 16 & 1)) >> 16
    if x != x:
        return 0x7E00
    try:
        return struct.unpack("<H", struct.pack("<e", x))[0]
    except OverflowError:
        return 0xFC00 if x < 0 else 0x7C00


def from_half(h, dtype):
    raw = struct.pack("<I", h << 16) if dtype == BF16 else struct.pack("<H", h)
    return struct.unpack("<f" if dtype == BF16 else "<e", raw)[0]


def stored(x, dtype):
    return x if dtype == FP32 else from_half(to_half(x, dtype), dtype)


def pack(values, dtype):
    if dtype == FP32:
        return struct.pack("<%dI" % len(values), *map(bits, values))
    return struct.pack("<%dH" % len(values), *(to_half(x, dtype) for x in values))


def unpack(raw, n, dtype):
    if dtype == FP32:
        return list(struct.unpack_from("<%df" % n, raw))
    return [from_half(h, dtype) for h in struct.unpack_from("<%dH" % n, raw)]


def finite(values):
    return all(map(math.isfinite, values))


def norm(values):
    return math.sqrt(math.fsum(x * x for x in values))


# ---- codecs ----
class LowRank:
    """Two factors of an array: rank vectors of a row's length, then what multiplies them, row by row."""

    def __init__(self, rank, columns):
        self.rank, self.columns = rank, columns

    def values(self, n):
        rows = n // self.columns if self.columns and n % self.columns == 0 else 0
        most = self.rank * (rows + self.columns)
        return most if self.rank < min(rows, self.columns) and most < n else 0

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
        self.ef = feedback == "ef"
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
            self.lowrank, self.more[3] = LowRank(int(given.get("rank", 4)), int(given.get("columns", 0))), int(given.get("seed", 0))

    def read_topk(self, text):
        values = re.search(r"values=\((.*?)\)|values=([^,+]*)", text)
        text = text.replace(values.group(0), "") if values else text
        given = dict(o.split("=") for o in text.partition(":")[2].partition("+")[0].split(",") if o)
        self.codec, self.ef, self.type, self.scale, self.more, self.quant = 6, text.endswith("+ef"), 0, 0, [0, 0, 0, 0], None
        self.group = int(given.get("group", 4096))
        select = {"exact": 1, "threshold": 2, "group": 3}[given.get("select", "exact")]
        inner = Spec(values.group(1) or values.group(2) if values else "none")
        self.topk = Topk(inner, round(float(given.get("density", 0.01)) * 10 ** 9), select, self.group)

    def words(self):
        more = [self.density] + [0] * 8
        if self.topk:
            v = self.topk.values
            more = [self.topk.density, self.topk.select, v.codec, v.type, v.scale, *v.more[:3], v.group]
        return struct.pack("<23I", self.codec, 2 if self.ef else 1, self.type, self.scale, self.group, *self.more, *more, 0, 0, 0, 0, 1)

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


# ---- the run, as dumped ----
class Layer:
    def __init__(self, name, dtype, count, tile):
        self.name, self.dtype, self.count, self.tile = name.encode(), int(dtype), int(count), tile
        self.tiles = -(-self.count // tile)
        self.spec, self.held = None, False  # held: the last step had feedback

    @property
    def reads_e(self):
        return self.spec.ef or self.held

    def at(self, t):
        return slice(t * self.tile, min(self.count, (t + 1) * self.tile))

    def length(self, t):
        return min(self.count, (t + 1) * self.tile) - t * self.tile


class Step:
    def __init__(self, number, scale):
        self.number, self.scale, self.inputs, self.outputs, self.specs = int(number), float(scale), {}, {}, []


class Run:
    def __init__(self, path):
        self.layers, self.steps, self.streams, number = [], [], defaultdict(list), {}
        for line in open(path):
            w = line.split()
            raw = bytes.fromhex(w[-1]) if w[0] in ("input", "output", "frame") and w[-1] != "-" else b""
            if w[0] == "layer":
                self.layers.append(Layer(w[1], w[2], w[3], number["tile"]))
            elif w[0] == "step":
                self.steps.append(Step(w[1], w[2]))
            elif w[0] == "uses":
                self.steps[-1].specs.append(Spec(w[2]))
            elif w[0] == "frame":
                self.streams[int(w[1]), int(w[2]), int(w[3])].append(raw)
            elif w[0] == "input":
                layer = self.layers[int(w[2])]
                self.steps[-1].inputs[int(w[1]), int(w[2])] = unpack(raw, layer.count, layer.dtype)
            elif w[0] == "output":
                self.steps[-1].outputs[int(w[1]), int(w[2])] = raw
            elif w[0] != "absent":
                number[w[0]] = int(w[1])
        self.ranks, self.tile, self.redop = number["ranks"], number["tile"], number["redop"]
        self.frame_bytes, self.bucket_bytes, self.in_flight = number["frame_bytes"], number["bucket_bytes"], number["in_flight"]


# ---- plan ----
def buckets(run):
    """Layers of each op, from the last to the first."""
    ops, used = [], 0
    for i in reversed(range(len(run.layers))):
        size = run.layers[i].count * (4 if run.layers[i].dtype == FP32 else 2)
        if not ops or used + size > run.bucket_bytes:
            ops.append([])
            used = 0
        ops[-1].append(i)
        used += size
    return ops


def owner(layer, t, ranks):
    return (xxh64(layer.name) + t * ranks // layer.tiles) % ranks


def plan_hash(run, op):
    h = xxh64(struct.pack("<8I", VERSION, run.ranks, len(op), SRA, run.redop, run.tile, run.frame_bytes, run.in_flight))
    for i in op:
        layer = run.layers[i]
        h = xxh64(layer.name, h)
        h = xxh64(struct.pack("<4Q", layer.count, 0, layer.tiles, layer.dtype), h)
        h = xxh64(layer.spec.words(), h)
    return h


def run_bytes(run, i, first, n):
    """What a run takes; of sparse layers about."""
    layer = run.layers[i]
    if layer.spec.topk:
        return layer.spec.topk.run_bytes(first, n, run.tile, layer.count)
    return sum(layer.spec.bytes(layer.length(t), layer.dtype) for t in range(first, first + n))


def frames_of(run, op, who):
    """The owner's frames: lists of runs (layer, first tile, tiles). Sparse layers have theirs behind the others'."""
    return cut(run, op, who, False) + cut(run, op, who, True)


def cut(run, op, who, sparse):
    own = {i: [t for t in range(run.layers[i].tiles) if owner(run.layers[i], t, run.ranks) == who] for i in op
           if bool(run.layers[i].spec.topk) == sparse}
    total = sum(run_bytes(run, i, t[0], len(t)) for i, t in own.items() if t)
    if total == 0:
        return []
    limit = run.frame_bytes or FRAME_BYTES
    target = -(-total // -(-total // limit))
    frames, used, is_open = [], 0, False
    for i in own:
        left, layer = own[i], run.layers[i]
        every = layer.spec.topk.stretch(run.tile) if sparse else 1
        full = layer.spec.topk.stretch_bytes(every * run.tile) if sparse else layer.spec.bytes(run.tile, layer.dtype)
        while left:
            if not is_open:
                frames.append([])
                used, is_open = 0, True
            n = min(-(-(target - used) // full) if used < target else 0, max(limit - used, 0) // full)
            if n == 0 and used == 0:
                n = 1
            if n == 0:
                is_open = False
                continue
            n = min(n * every - left[0] % every, len(left))
            frames[-1].append((i, left[0], n))
            used += run_bytes(run, i, left[0], n)
            left = left[n:]
    return frames


# ---- what a step computes ----
class State:
    """Residuals of each rank, and for the certificate what was applied and what would have been exact."""

    def __init__(self, run):
        self.e = {(r, i): [0.0] * l.count for r in range(run.ranks) for i, l in enumerate(run.layers)}
        self.applied = [[0.0] * l.count for l in run.layers]
        self.exact = [[0.0] * l.count for l in run.layers]
        self.epoch = 0


def prepared(values, scale, e, ef):
    scaled = [f32(v * scale) for v in values]
    return [f32(a + b) for a, b in zip(scaled, e)] if ef else scaled


def hop1_run(run, state, fresh, step, rank, part):
    """Payload and trailer values of a run on its way to the owner."""
    i, first, n = part
    layer, payload, parts, lost, flags = run.layers[i], b"", [], [], 0
    g = step.inputs.get((rank, i))
    for t in range(first, first + n):
        at = layer.at(t)
        if g is None:
            lost += state.e[rank, i][at]
            continue
        x = prepared(g[at], step.scale, state.e[rank, i][at], layer.reads_e)
        draw = (layer.name, step.number, rank, 1, t)
        raw = layer.spec.encode(x, layer.dtype, draw)
        decoded = layer.spec.decode(raw, len(x), layer.dtype, draw)
        payload += raw
        if not finite(x + decoded):
            flags |= 1
            continue
        e = [f32(a - b) for a, b in zip(x, decoded)]
        parts += x
        lost += e
        fresh[rank, i][at] = e if layer.spec.ef else [0.0] * len(e)
    return payload, flags | (2 if g is None else 0), norm(parts), norm(lost)


def hop2_run(run, state, fresh, step, who, part, sent):
    """Payload and code of the owner's answer. sent: rank -> (payload, flags) of hop 1."""
    i, first, n = part
    layer, payload, used = run.layers[i], b"", defaultdict(int)
    here = [r for r in range(run.ranks) if (r, i) in step.inputs]
    bad = [r for r in here if r != who and sent[r][1] & 1]
    if not here:
        return b"", ABSENT
    for t in range(first, first + n):
        at, length, total = layer.at(t), layer.length(t), None
        for r in here:
            if r == who:
                values = [f32(v * step.scale) for v in step.inputs[r, i][at]]
                bad += [] if finite(values) else [r]
            else:
                values = layer.spec.decode(sent[r][0][used[r]:], length, layer.dtype, (layer.name, step.number, r, 1, t))
                used[r] += layer.spec.bytes(length, layer.dtype)
            total = values if total is None else [f32(a + b) for a, b in zip(total, values)]
        x = prepared(total, f32(1 / run.ranks) if run.redop == 2 else 1.0, state.e[who, i][at], layer.reads_e)
        draw = (layer.name, step.number, who, 2, t)
        raw = layer.spec.encode(x, layer.dtype, draw)
        kept = [stored(v, layer.dtype) for v in layer.spec.decode(raw, length, layer.dtype, draw)]
        if not finite(x + kept):
            bad += [] if bad else [who]
            if layer.reads_e:
                raw = layer.spec.encode([math.nan] * length, layer.dtype, draw)
        else:
            fresh[who, i][at] = [f32(a - b) if layer.spec.ef else 0.0 for a, b in zip(x, kept)]
        payload += raw
    return payload, 1 + min(bad) if bad else 0


def tiles_in(run, step, part, payload):
    """Decoded values by tile."""
    i, first, n = part
    layer, place, found = run.layers[i], 0, {}
    for t in range(first, first + n):
        found[t] = layer.spec.decode(payload[place:], layer.length(t), layer.dtype, (layer.name, step.number, 0, 2, t))
        place += layer.spec.bytes(layer.length(t), layer.dtype)
    return found.get


def receive(run, state, fresh, step, part, decoded_of):
    """All ranks decode the answer."""
    i, first, n = part
    layer = run.layers[i]
    for t in range(first, first + n):
        at, decoded = layer.at(t), decoded_of(t)
        values = [stored(v, layer.dtype) for v in decoded]
        width = 4 if layer.dtype == FP32 else 2
        for r in range(run.ranks):
            got = step.outputs[r, i][width * at.start:width * at.stop]
            expect(got == pack(values, layer.dtype), "step", step.number, "layer", layer.name, "tile", t, "output of rank", r)
            if not finite(decoded):
                fresh[r, i][at] = state.e[r, i][at]
        if not finite(values):
            continue  # the certificate leaves this step out here
        for k, v in zip(range(at.start, at.stop), values):
            weight = step.scale / (run.ranks if run.redop == 2 else 1)
            state.applied[i][k] += v
            state.exact[i][k] += weight * math.fsum(step.inputs[r, i][k] for r in range(run.ranks) if (r, i) in step.inputs)


# ---- sparse layers ----
class Sparse:
    """What a layer of an op keeps: of what a rank sends to others (hop 1), or of an owner's sums (hop 2)."""

    def __init__(self, run, i, x, tiles, flagged, step, rank, hop):
        self.run, self.i, self.layer, self.x, self.flagged = run, i, run.layers[i], x, set(flagged)
        tiles = {t: (self.layer.at(t).start, self.layer.at(t).stop) for t in tiles}
        self.kept = self.layer.spec.topk.choose(x, tiles, self.flagged)
        self.stored = (lambda v: stored(v, self.layer.dtype)) if hop == 2 else (lambda v: v)
        self.draw = lambda at: (self.layer.name, step.number, rank, hop, at)

    def read(self, raw, at, first, n):
        """The run at raw[at:]: its end, values by position, flagged tiles, norms of x and of what is left of it; what is left
        of each tile."""
        before = set(self.flagged)
        try:
            end, decoded = self.layer.spec.topk.read_run(raw, at, (first, n, self.run.tile, self.layer.count), self.x, self.kept,
                                                         self.flagged, self.stored, self.draw)
        except ValueError as why:
            raise Difference("layer %s: %s" % (self.layer.name, why))
        bad, parts, lost, rest = [t for t in range(first, first + n) if t in self.flagged], [], [], {}
        for t in range(first, first + n):
            at = range(self.layer.at(t).start, self.layer.at(t).stop)
            if t not in before:
                parts += [self.x[k] for k in at]  # a tile that overflowed counts: its norms are at least the true ones
            if t not in bad:
                rest[t] = [f32(self.x[k] - decoded.get(k, 0.0)) for k in at]
                lost += rest[t]
        return end, decoded, bad, norm(parts), norm(lost), rest


def sparse_of_rank(run, state, step, rank, i):
    layer, g = run.layers[i], step.inputs.get((rank, i))
    if g is None:
        return None
    tiles = [t for t in range(layer.tiles) if owner(layer, t, run.ranks) != rank]
    x = prepared(g, step.scale, state.e[rank, i], layer.reads_e)
    return Sparse(run, i, x, tiles, [t for t in tiles if not finite(x[layer.at(t)])], step, rank, 1)


def sparse_of_owner(run, state, step, who, i, sums, flagged):
    layer = run.layers[i]
    tiles = [t for t in range(layer.tiles) if owner(layer, t, run.ranks) == who]
    x = prepared(sums, f32(1 / run.ranks) if run.redop == 2 else 1.0, state.e[who, i], layer.reads_e)
    g = step.inputs.get((who, i))
    bad = {t for t in tiles if t in flagged or not finite(x[layer.at(t)]) or (g and not finite(g[layer.at(t)]))}
    for t in bad:
        x[layer.at(t)] = [0.0] * layer.length(t)
    return Sparse(run, i, x, tiles, bad, step, who, 2)


def sparse_hop1(run, state, fresh, step, tag, plan, who, index, parts, op_state):
    """One frame of each rank; adds to the owner's sums, in the order of ranks."""
    blame = [set() for _ in parts]
    for r in range(run.ranks):
        if r == who:
            for k, (i, first, n) in enumerate(parts):
                for t in range(first, first + n) if (r, i) in step.inputs else ():
                    g = step.inputs[r, i]
                    blame[k] |= set() if finite(g[run.layers[i].at(t)]) else {r}
                    for v in range(run.layers[i].at(t).start, run.layers[i].at(t).stop):
                        op_state.sums[i][v] = f32(op_state.sums[i][v] + f32(g[v] * step.scale))
            continue
        what, at, trailers = "step %d, hop 1, rank %d to %d, frame %d" % (step.number, r, who, index), 32, b""
        expect(run.streams[r, who, tag], "no frame is left:", what)
        got = run.streams[r, who, tag][0]
        for k, (i, first, n) in enumerate(parts):
            layer, one = run.layers[i], op_state.ranks[i][r]
            if one is None:
                flags, norms = 2, (0.0, norm(state.e[r, i][layer.at(first).start:layer.at(first + n - 1).stop]))
            else:
                at, decoded, bad, x_norm, e_norm, rest = one.read(got, at, first, n)
                flags, norms = 1 if bad else 0, (x_norm, e_norm)
                for t, e in rest.items():
                    fresh[r, i][layer.at(t)] = e if layer.spec.ef else [0.0] * len(e)
                for v, y in decoded.items():
                    op_state.sums[i][v] = f32(op_state.sums[i][v] + y)
                op_state.flagged[i] |= set(bad)
                blame[k] |= {r} if bad else set()
            given = struct.unpack_from("<ff", got, len(got) - 12 * (len(parts) - k) + 4)
            expect(all(true * (1 - 1e-12) <= v <= true * SLACK + 1e-30 for v, true in zip(given, norms)), what, "norms of run", k, given, norms)
            trailers += struct.pack("<Iff", flags, *given)
        take(run, r, who, tag, lambda _: seal(run, step, state, plan, 1, index, got[32:at] + trailers), what)
    return blame


def sparse_hop2(run, state, fresh, step, tag, plan, who, index, parts, op_state, blame):
    got = next((run.streams[who, r, tag][0] for r in range(run.ranks) if r != who and run.streams[who, r, tag]), b"")
    at, codes = 32, []
    for (i, first, n), bad_ranks in zip(parts, blame):
        layer = run.layers[i]
        if all((r, i) not in step.inputs for r in range(run.ranks)):
            codes.append(ABSENT)
            continue
        at, decoded, bad, _, _, rest = op_state.owner[i].read(got, at, first, n)
        codes.append(1 + min(bad_ranks or {who}) if bad else 0)
        for t, e in rest.items():
            fresh[who, i][layer.at(t)] = e if layer.spec.ef else [0.0] * len(e)
        values = {t: [math.nan if t in bad else decoded.get(v, 0.0) for v in range(layer.at(t).start, layer.at(t).stop)]
                  for t in range(first, first + n)}
        receive(run, state, fresh, step, (i, first, n), values.get)
    check_answers(run, state, step, tag, plan, who, index, parts, codes, got[32:at])


class OpState:
    def __init__(self, run, state, step, op):
        sparse = [i for i in op if run.layers[i].spec.topk]
        self.ranks = {i: [sparse_of_rank(run, state, step, r, i) for r in range(run.ranks)] for i in sparse}
        self.sums = {i: [0.0] * run.layers[i].count for i in sparse}
        self.flagged, self.owner = {i: set() for i in sparse}, {}

    def choose(self, run, state, step, who):
        self.owner = {i: sparse_of_owner(run, state, step, who, i, self.sums[i], self.flagged[i]) for i in self.sums}


# ---- frames ----
def seal(run, step, state, plan, hop, index, body):
    head = struct.pack("<IBBBBQIII", MAGIC, VERSION, 0, hop, state.epoch, plan, step.number, index, 32 + len(body))
    return head + struct.pack("<I", xxh3(body, xxh3(head) & 0xFFFFFFFF) & 0xFFFFFFFF) + body


def take(run, source, to, tag, build, what):
    """The next frame of a stream, compared with build(its trailers' bytes)."""
    stream = run.streams[source, to, tag]
    expect(stream, "no frame is left:", what)
    got = stream.pop(0)
    want = build(got)
    if got != want:
        at = next((k for k, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
        raise Difference("%s: %d bytes, expected %d; first difference at byte %d" % (what, len(got), len(want), at))


def check_hop1(run, state, fresh, step, tag, plan, who, index, parts):
    sent = defaultdict(dict)
    for r in range(run.ranks):
        if r == who:
            continue
        made = [hop1_run(run, state, fresh, step, r, p) for p in parts]

        def build(got):
            trailers = b""
            for k, (_, flags, x, e) in enumerate(made):
                given = struct.unpack_from("<ff", got, len(got) - 12 * (len(made) - k) + 4)
                expect(all(true * (1 - 1e-12) <= v <= true * SLACK + 1e-30 for v, true in zip(given, (x, e))), what, "norms of run", k, given, (x, e))
                trailers += struct.pack("<Iff", flags, *given)
            return seal(run, step, state, plan, 1, index, b"".join(m[0] for m in made) + trailers)

        what = "step %d, hop 1, rank %d to %d, frame %d" % (step.number, r, who, index)
        take(run, r, who, tag, build, what)
        for k, m in enumerate(made):
            sent[k][r] = m[:2]
    return sent


def check_hop2(run, state, fresh, step, tag, plan, who, index, parts, sent):
    made = [hop2_run(run, state, fresh, step, who, p, sent[k]) for k, p in enumerate(parts)]
    for part, (payload, code) in zip(parts, made):
        if code != ABSENT:
            receive(run, state, fresh, step, part, tiles_in(run, step, part, payload))
    check_answers(run, state, step, tag, plan, who, index, parts, [m[1] for m in made], b"".join(m[0] for m in made))


def check_answers(run, state, step, tag, plan, who, index, parts, codes, payload):
    for r in range(run.ranks):
        if r == who:
            continue

        def build(got):
            trailers = b""
            for k, (i, first, n) in enumerate(parts):
                bound = struct.unpack_from("<f", got, len(got) - 8 * (len(parts) - k) + 4)[0]
                at = slice(run.layers[i].at(first).start, run.layers[i].at(first + n - 1).stop)
                error = norm(a - b for a, b in zip(state.applied[i][at], state.exact[i][at]))
                expect(error <= bound, what, "run", k, "is off by", error, "and certified", bound)
                trailers += struct.pack("<If", codes[k], bound)
            return seal(run, step, state, plan, 2, index, payload + trailers)

        what = "step %d, hop 2, rank %d to %d, frame %d" % (step.number, who, r, index)
        take(run, who, r, tag, build, what)


def check_poison(raw):
    magic, version, flags, hop, epoch, plan, step, index, length, check = struct.unpack_from("<IBBBBQIIII", raw)
    expect((magic, version, flags, hop, epoch, plan, step, index, length) == (MAGIC, VERSION, 1, 0, 0, 0, 0, 0, len(raw)), "poison header")
    expect(check == xxh3(raw[32:], xxh3(raw[:28]) & 0xFFFFFFFF) & 0xFFFFFFFF, "poison check word")
    expect(struct.unpack_from("<i", raw, 32)[0] < 0 and 0 in raw[36:], "poison status and sentence")


def main(path):
    run = Run(path)
    total = sum(map(len, run.streams.values()))
    state, ops, begun = State(run), buckets(run), 0
    for step in run.steps:
        fresh = {key: list(e) for key, e in state.e.items()}
        for layer, spec in zip(run.layers, step.specs):
            layer.spec = spec
        for op in ops:
            tag, plan = 1 + 2 * begun % 2 ** 30, plan_hash(run, op)
            begun += 1
            op_state = OpState(run, state, step, op)
            for who in range(run.ranks):
                frames = frames_of(run, op, who)
                sparse = [bool(run.layers[parts[0][0]].spec.topk) for parts in frames]
                sent = [sparse_hop1(run, state, fresh, step, tag, plan, who, index, parts, op_state) if thin
                        else check_hop1(run, state, fresh, step, tag, plan, who, index, parts)
                        for index, (parts, thin) in enumerate(zip(frames, sparse))]
                op_state.choose(run, state, step, who)
                for index, (parts, thin) in enumerate(zip(frames, sparse)):
                    if thin:
                        sparse_hop2(run, state, fresh, step, tag + 1, plan, who, index, parts, op_state, sent[index])
                    else:
                        check_hop2(run, state, fresh, step, tag + 1, plan, who, index, parts, sent[index])
        state.e = fresh
        for layer in run.layers:
            layer.held = layer.spec.ef
        state.epoch = (state.epoch + 1) % 256
    left = 0
    for (source, to, tag), frames in run.streams.items():
        for raw in frames:  # the last step, which a rank breaks off
            left += tag != 0
            expect(tag == 0 or tag > 2 * begun, "a frame too many from", source, "to", to)
            if tag == 0:
                check_poison(raw)
    print("%d frames agree, %d of a broken step were left out" % (total - left, left))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Difference as difference:
        print("wire_format.py:", difference)
        sys.exit(1)
