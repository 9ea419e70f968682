#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Reads a file after docs/file-format.md alone (payloads: docs/wire-format.md, by wire_format.py).

usage: file_format.py FILE FOLDER [BASE.safetensors SCALE]
Writes each tensor's values, as bytes of its dtype, to FOLDER/0, FOLDER/1 ... and prints a line for each: dtype, shape, spec, name.
With BASE it writes instead what applying the differences to it gives, in the order of BASE.
A file that is not whole ends it with status 3, and nothing is written."""
import json
import math
import os
import struct
import sys

sys.dont_write_bytecode = True  # the source folder may be read-only
import wire_format
from xxh import xxh3, xxh64

MAGIC = bytes.fromhex("895457460d0a1a0a")
DTYPES = {1: ("fp32", 4), 2: ("fp16", 2), 3: ("bf16", 2), 4: ("fp64", 8), 5: ("bool", 1), 6: ("i8", 1), 7: ("u8", 1),
          8: ("i16", 2), 9: ("u16", 2), 10: ("i32", 4), 11: ("u32", 4), 12: ("i64", 8), 13: ("u64", 8), 14: ("complex64", 8),
          15: ("complex128", 16), 16: ("fp8e4m3", 1), 17: ("fp8e5m2", 1)}
TILE = 4096


class Damaged(Exception):
    pass


def check(good, what):
    if not good:
        raise Damaged(what)


class Bytes:
    """Takes a body or a file apart from the front."""

    def __init__(self, raw):
        self.raw, self.at = raw, 0

    def take(self, n):
        check(n <= len(self.raw) - self.at, "ends too early")
        self.at += n
        return self.raw[self.at - n:self.at]

    def u32(self, n=1):
        v = struct.unpack("<%dI" % n, self.take(4 * n))
        return v[0] if n == 1 else v

    def text(self, n):
        raw = self.take(n)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Damaged("no UTF-8")
        check("\0" not in text, "a zero byte in a text")
        return text

    def end(self):
        check(self.at == len(self.raw), "too long")


class Tensor:
    def __init__(self, body):
        b = Bytes(body)
        self.dtype, dims, self.tiles, version, self.step, name, spec, zero = b.u32(8)
        check(self.dtype in DTYPES and dims <= 32 and 1 <= self.tiles <= 16384 and name <= 65535 and spec <= 1023 and zero == 0, "TENS")
        self.shape = struct.unpack("<%dQ" % dims, b.take(8 * dims))
        self.name, text = b.text(name), b.text(spec)
        b.end()
        self.count = math.prod(self.shape)
        check(self.count <= 2 ** 56, "shape")
        self.text = text
        check(not text or (self.dtype <= 3 and "+" not in text), "spec")
        check(version == (1 if text else 0), "payload version")
        self.spec = wire_format.Spec(text) if text else None
        self.lowrank = self.spec.lowrank if text else None
        if self.lowrank: # rows are the last dimension, unless the spec says otherwise; one chunk
            self.lowrank.columns = self.lowrank.columns or self.shape[-1]
            check(self.lowrank.values(self.count) and self.tiles * TILE >= self.count, "factors")
        check(self.lowrank or self.tiles <= 1024, "TENS")
        self.values = []

    def bound(self, n):
        return self.spec.bytes(n, self.dtype) if self.spec else n * DTYPES[self.dtype][1]

    def decode(self, payload, n, at):
        """The chunk's values as bytes; it begins with value `at` of the tensor."""
        if not self.spec:
            return payload
        if self.lowrank:
            check(len(payload) == self.lowrank.bytes(n), "length of factors")
            return wire_format.pack(self.lowrank.decode(payload, n), self.dtype)
        if self.spec.topk:
            return wire_format.pack(self.spec.topk.decode(payload, n), self.dtype)
        out, b = b"", Bytes(payload)
        for first in range(0, n, TILE):
            m = min(TILE, n - first)
            draw = (xxh64(self.name.encode()), self.step, 0, 0, (at + first) // TILE, False)
            values = self.spec.decode(b.take(self.bound(m)), m, self.dtype, draw)
            out += wire_format.pack(values, self.dtype)
        b.end()
        return out


class File:
    def __init__(self, raw):
        self.b, self.check = Bytes(raw), 0
        check(self.b.take(8) == MAGIC, "no Thinwire file")
        head = Bytes(self.record(b"HEAD"))
        version, self.content, self.kind, tensors, pairs = head.u32(5)
        check(version == 1 and self.content <= 1 and self.kind <= 3, "HEAD")
        self.meta = {}
        for _ in range(pairs):
            key = head.text(head.u32())
            check(key not in self.meta, "two metadata of one name")
            self.meta[key] = head.text(head.u32())
        head.end()
        self.tensors = [Tensor(self.record(b"TENS")) for _ in range(tensors)]
        check(len({t.name for t in self.tensors}) == tensors, "two tensors of one name")
        chunks = 0
        for t in self.tensors:
            t.raw = b""
            for first in range(0, t.count, t.tiles * TILE):
                n = min(t.tiles * TILE, t.count - first)
                t.raw += t.decode(self.record(b"DATA"), n, first)
                chunks += 1
        end = Bytes(self.record(b"END "))
        check(struct.unpack("<QQ", end.take(16)) == (chunks, len(raw)), "END")
        end.end()
        self.b.end()

    def record(self, kind):
        head, word = self.b.take(16), self.b.take(8)
        self.check = xxh3(head, self.check)
        check(word == struct.pack("<Q", self.check), "check word of a head")
        name, n, body_check = struct.unpack("<4sIQ", head)
        check(name == kind, "%r where %r is due" % (name, kind))
        body = self.b.take(n)
        check(self.b.take(-n % 8) == bytes(-n % 8), "padding")
        check(xxh3(body) == body_check, "check word of a body")
        return body


def applied(differences, path, scale):
    """(name, bytes) of each tensor of a .safetensors file with the differences added to it."""
    raw = open(path, "rb").read()
    n = struct.unpack_from("<Q", raw)[0]
    entries = [(k, v) for k, v in json.loads(raw[8:8 + n]).items() if k != "__metadata__"]
    known = {t.name: t for t in differences.tensors}
    for name, entry in sorted(entries, key=lambda e: e[1]["data_offsets"]):
        values = raw[8 + n + entry["data_offsets"][0]:8 + n + entry["data_offsets"][1]]
        if name in known:
            dtype = {"F32": 1, "F16": 2, "BF16": 3}[entry["dtype"]]
            d = wire_format.unpack(known[name].raw, known[name].count, 1)
            x = wire_format.unpack(values, known[name].count, dtype)
            f32 = wire_format.f32
            values = wire_format.pack([f32(a + f32(f32(scale) * b)) for a, b in zip(x, d)], dtype)
        yield name, values


def main(path, folder, base=None, scale="1"):
    f = File(open(path, "rb").read())
    results = applied(f, base, float(scale)) if base else ((t.name, t.raw) for t in f.tensors)
    for i, (_, raw) in enumerate(results):
        with open(os.path.join(folder, str(i)), "wb") as out:
            out.write(raw)
    for t in f.tensors:
        print(DTYPES[t.dtype][0], ",".join(map(str, t.shape)) or "-", t.text or "-", t.name)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Damaged as damage:
        print("file_format.py:", damage, file=sys.stderr)
        sys.exit(3)
