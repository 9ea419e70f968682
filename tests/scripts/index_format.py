#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Decodes index codes after docs/wire-format.md alone.

usage: index_format.py DUMP       (DUMP: what tests/unit/test_index writes: a line "n k code positions" each, code in hex)
Ends with "N codes agree" and status 0, or names the first difference."""
import sys

BLOCK, PART, FAR = 4096, 512, 64


class Bytes:
    def __init__(self, raw):
        self.raw, self.at = raw, 0

    def take(self, n):
        if len(self.raw) - self.at < n:
            raise ValueError("the code ends too early")
        self.at += n
        return self.raw[self.at - n:self.at]

    def number(self, n):
        return int.from_bytes(self.take(n), "little")

    def numbers(self, count, width):
        """count numbers of width bits, from the lowest bit on"""
        all_of_them = self.number(-(-count * width // 8))
        return [all_of_them >> i * width & (1 << width) - 1 for i in range(count)]


def trits(b, count):
    size = -(-count // 5)
    planes = [[] for _ in range(5)]
    for x in b.take(size):
        for plane in planes:
            plane.append(3 * x >> 8)
            x = 3 * x & 255
    return sum(planes, [])[:count]


def part(b, code, count):
    """What is known of the part's gaps without the unary stream, and its divisor"""
    m = code % FAR >> 1
    rest = b.numbers(count, m)
    if code & 1:
        rest = [r + (t << m) for r, t in zip(rest, trits(b, count))]
    divisor = (3 if code & 1 else 1) << m
    if code & FAR:
        far, width = b.number(1), b.number(1)
        where = b.numbers(far, 9)
        for i, quotient in zip(where, b.numbers(far, width)):
            rest[i] += quotient * divisor
    return [(r, divisor) for r in rest]


def unary(raw):
    zeros = 0
    for i in range(8 * len(raw)):
        if raw[i // 8] >> i % 8 & 1:
            yield zeros
            zeros = 0
        else:
            zeros += 1


def decode(raw, n, k):
    b, positions, least = Bytes(raw), [], 0
    while len(positions) < k:
        count = min(BLOCK, k - len(positions))
        if positions and b.number(4) != least:
            raise ValueError("a block begins elsewhere")
        last = len(positions) + count == k
        length = None if last else b.number(2)
        codes = b.take(-(-count // PART))
        rest = []
        for i, code in enumerate(codes):
            rest += part(b, code, min(PART, count - i * PART))
        quotients = list(unary(b.take(len(raw) - b.at if last else length)))
        if len(quotients) != count:
            raise ValueError("%d quotients of %d entries" % (len(quotients), count))
        for (r, divisor), q in zip(rest, quotients):
            positions.append(least + r + q * divisor)
            least = positions[-1] + 1
    if b.at != len(raw) or least > n:
        raise ValueError("bytes are left, or a position is too large")
    return positions


def main():
    done = 0
    with open(sys.argv[1], encoding="ascii") as dump:
        for line in dump:
            n, k, code, *positions = line.split()
            raw = bytes.fromhex(code[1:])  # x...: never empty
            got = decode(raw, int(n), int(k))
            if got != [int(p) for p in positions]:
                print("index_format.py: %s of %s differ" % (k, n))
                return 1
            done += 1
    print("%d codes agree" % done)
    return done == 0


if __name__ == "__main__":
    sys.exit(main())
