# SPDX-License-Identifier: BSD-3-Clause
"""Factors of a matrix after docs/wire-format.md alone: for wire_sums.py. Matrices are lists, row by row; R is its vectors, one
after another; L its rows."""
import math
import struct

from wire_numbers import f32
from wire_quant import philox
from xxh import xxh64


def start_values(n, seed, step, name):
    key = xxh64(struct.pack("<4I", seed, step, 0xFFFFFFFF, 0), name)
    out = []
    for block in range(-(-n // 4)):
        out += [(sum(w >> s & 255 for s in (0, 8, 16, 24)) - 510) / 128 for w in philox(7, (block, 0, 0, 2), (key & 0xFFFFFFFF, key >> 32))]
    return out[:n]


def to_one(most):
    """The power of two that takes it to [1, 2)."""
    return 2.0 ** (1 - math.frexp(most)[1])


def settle(left, rank, fresh):
    """What a round begins with: each column's largest magnitude in [1, 2); one of zeros is random."""
    most = [max(abs(v) if v == v else math.inf for v in left[k::rank]) for k in range(rank)]
    return [f32(v * to_one(most[i % rank])) if 0 < most[i % rank] < math.inf else fresh[i] for i, v in enumerate(left)]


def right_pass(x, left, rank, cols):
    out = [[0.0] * cols for _ in range(rank)]
    for i in range(len(x) // cols):
        row = x[i * cols:(i + 1) * cols]
        for k in range(rank):
            out[k] = [f32(a + f32(v * left[i * rank + k])) for a, v in zip(out[k], row)]
    return [v for vector in out for v in vector]


def halve(lane):
    while len(lane) > 1:
        n = len(lane) // 2
        lane = [f32(lane[i] + lane[i + n]) for i in range(n)]
    return lane[0]


def left_pass(x, right, rank, cols):
    out = []
    for i in range(len(x) // cols):
        for k in range(rank):
            lane = [0.0] * 16
            for c in range(cols):
                lane[c % 16] = f32(lane[c % 16] + f32(x[i * cols + c] * right[k * cols + c]))
            out.append(halve(lane))
    return out


def product(left, right, rank, cols):
    out = []
    for i in range(len(left) // rank):
        row = [f32(left[i * rank] * v) for v in right[:cols]]
        for k in range(1, rank):
            row = [f32(a + f32(left[i * rank + k] * v)) for a, v in zip(row, right[k * cols:(k + 1) * cols])]
        out += row
    return out


def dot(a, b):
    total = 0.0
    for at in range(0, len(a), 1024):
        lane = [0.0] * 32
        for i, (v, w) in enumerate(zip(a[at:at + 1024], b[at:at + 1024])):
            lane[i % 32] = f32(lane[i % 32] + f32(v * w))
        total += halve(lane)
    return total


def straighten(v, others):
    """A vector orthogonal to others, of length 1; None: it depends on them."""
    most = max(map(abs, v))
    if most == 0:
        return None
    v = [f32(y * to_one(most)) for y in v]
    whole = before = after = dot(v, v)
    for _ in range(4):
        for q in others:
            by = f32(dot(q, v))
            v = [f32(y - f32(p * by)) for y, p in zip(v, q)]
        after = dot(v, v) if others else whole
        if after <= 2.0 ** -40 * whole:
            return None
        if after >= 0.25 * before:
            inverse = f32(1 / math.sqrt(after))
            return [f32(y * inverse) for y in v]
        before = after
    return None


def orthogonalise(right, rank, cols):
    out = []
    for j in range(rank):
        out.append(straighten(right[j * cols:(j + 1) * cols], out) or [0.0] * cols)
    return [v for vector in out for v in vector]
