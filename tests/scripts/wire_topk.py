# SPDX-License-Identifier: BSD-3-Clause
"""topk's payload of an array, decoded after docs/wire-format.md alone."""
import struct

import index_format

KEPT, SPAN = 4096, 1 << 30


class Topk:
    def __init__(self, values):
        self.values = values  # a codec of fixed rate: bytes(n, dtype), decode(raw, n, dtype)

    def decode(self, raw, n, fp32=1):
        out, at = [], 0
        while len(out) < n:
            if len(raw) - at < 12:
                raise ValueError("ends inside a span's head")
            covered, kept, size = struct.unpack_from("<3I", raw, at)
            at += 12
            if not (0 < covered <= min(n - len(out), SPAN) and kept <= min(KEPT, covered)):
                raise ValueError("impossible span")
            room = self.values.bytes(kept, fp32) if kept else 0
            if len(raw) - at < room + -(-size // 4) * 4:
                raise ValueError("ends inside a span")
            values = self.values.decode(raw[at:at + room], kept, fp32) if kept else []
            at += room
            positions = index_format.decode(raw[at:at + size], covered, kept)
            at += -(-size // 4) * 4
            span = [0.0] * covered
            for p, v in zip(positions, values):
                span[p] = v
            out += span
        if at != len(raw):
            raise ValueError("goes on behind the last span")
        return out
