# SPDX-License-Identifier: BSD-3-Clause
"""topk after docs/wire-format.md alone: an array's payload, decoded; a frame's runs, recomputed but for the coded positions,
which are decoded and compared."""
import math
import struct

import index_format

KEPT, SPAN, BILLION = 4096, 1 << 30, 10 ** 9
EXACT, THRESHOLD, GROUP = 1, 2, 3


def magnitude(x):
    return struct.unpack("<I", struct.pack("<f", x))[0] & 0x7FFFFFFF


class Topk:
    def __init__(self, values, density=10 ** 7, select=EXACT, group=4096):
        self.values = values  # a codec of fixed rate: bytes(n, dtype), encode(x, dtype, draw), decode(raw, n, dtype)
        self.density, self.select, self.group = density, select, group

    # ---- what is kept ----
    def wanted(self, n):
        return max(1, (2 * n * self.density + BILLION) // (2 * BILLION)) if n else 0

    def expected(self, n):
        if self.select != GROUP:
            return self.wanted(n)
        return n // self.group * self.wanted(self.group) + self.wanted(n % self.group)

    def choose(self, x, tiles, flagged):
        """Positions that are kept. tiles: (first, end) of each in the selection's domain; flagged: those with NaN or Inf."""
        domain = [i for t, (a, b) in tiles.items() for i in range(a, b)]
        free = [i for t, (a, b) in tiles.items() if t not in flagged for i in range(a, b)]
        if self.select == THRESHOLD:
            stride = len(domain) >> 17 | 1
            sample = sorted((magnitude(x[i]) if math.isfinite(x[i]) else 0 for i in domain if i // 16 % stride == 0), reverse=True)
            cut = sample[self.wanted(len(sample)) - 1] if sample else 0
            return {i for i in free if magnitude(x[i]) >= max(cut, 1)}
        parts = [(free, self.wanted(len(domain)))]
        if self.select == GROUP:
            parts = [(range(g, min(g + self.group, b)), self.wanted(min(g + self.group, b) - g))
                     for t, (a, b) in tiles.items() if t not in flagged for g in range(a, b, self.group)]
        return {i for part, k in parts for i in sorted((i for i in part if magnitude(x[i])), key=lambda i: (-magnitude(x[i]), i))[:k]}

    # ---- stretches ----
    def stretch(self, tile):
        per = self.expected(tile) * BILLION if self.select == GROUP else self.density * tile
        return min(-(-1024 * BILLION // per), (1 << 24) // tile)

    def stretch_bytes(self, n):
        k = self.expected(n)
        return 12 + self.values.bytes(k, 1) + 4 * -(-k * (2 + (n // k).bit_length() - 1) // 32) if n else 0

    def cuts(self, first, n, tile):
        """Tiles [a, b) of each stretch of a run."""
        every, at = self.stretch(tile), first
        while at < first + n:
            stop = min(first + n, (at // every + 1) * every)
            yield at, stop
            at = stop

    def run_bytes(self, first, n, tile, count):
        return sum(self.stretch_bytes(min(b * tile, count) - a * tile) for a, b in self.cuts(first, n, tile))

    # ---- a run ----
    def read_run(self, raw, at, cut, x, kept, flagged, stored, draw):
        """Compares raw[at:] with what a run must be; returns its end and what receivers decode, {position: value}.
        cut: first tile, tiles, tile, count. Adds tiles with a value that overflows to flagged."""
        first, n, tile, count = cut
        decoded, spans = {}, []
        for a, b in self.cuts(first, n, tile):
            begin, held = a, []
            for t in range(a, b):
                here = [i for i in range(t * tile, min(count, (t + 1) * tile)) if i in kept and t not in flagged]
                if len(held) + len(here) > KEPT:
                    spans.append((begin, t, held))
                    begin, held = t, []
                held = held + here
            spans.append((begin, b, held))
        for a, b, positions in spans:
            at = self.read_span(raw, at, a * tile, min(count, b * tile), positions, x, tile, flagged, stored, draw, decoded)
        if any(first <= t < first + n for t in flagged):
            bits = sum(1 << t - first for t in flagged if first <= t < first + n).to_bytes(4 * -(-n // 32), "little")
            if raw[at:at + len(bits)] != bits:
                raise ValueError("the bits of the run at byte %d differ" % at)
            at += len(bits)
        return at, {i: v for i, v in decoded.items() if i // tile not in flagged}

    def read_span(self, raw, at, begin, end, positions, x, tile, flagged, stored, draw, decoded):
        while True:
            values = self.values.encode([x[i] for i in positions], 1, draw(begin)) if positions else b""
            y = [stored(v) for v in self.values.decode(values, len(positions), 1)] if positions else []
            bad = {i // tile for i, v in zip(positions, y) if not math.isfinite(v)}
            flagged |= bad
            positions = [i for i in positions if i // tile not in bad]
            if not bad:
                break
        v, k, size = struct.unpack_from("<3I", raw, at)
        if (v, k) != (end - begin, len(positions)):
            raise ValueError("a span of %d values, %d kept, where %d, %d are due" % (v, k, end - begin, len(positions)))
        at += 12
        if raw[at:at + len(values)] != values:
            raise ValueError("kept values at byte %d differ" % at)
        at += len(values)
        if [begin + p for p in index_format.decode(raw[at:at + size], v, k)] != positions:
            raise ValueError("positions at byte %d differ" % at)
        if any(raw[at + size:at + -(-size // 4) * 4]):
            raise ValueError("padding at byte %d" % (at + size))
        decoded.update(zip(positions, y))
        return at + -(-size // 4) * 4

    # ---- an array ----
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
