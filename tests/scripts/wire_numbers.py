# SPDX-License-Identifier: BSD-3-Clause
"""Numbers as docs/wire-format.md has them, and how differences are told: for wire_format.py and its parts."""
import math
import struct

FP32, FP16, BF16 = 1, 2, 3
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
