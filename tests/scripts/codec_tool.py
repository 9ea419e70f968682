#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""thinwire-codec from outside, as TAP: what it writes is read by file_format.py, which knows the format's page alone.

usage: codec_tool.py PROGRAM"""
import json
import math
import resource
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
import file_format
import wire_format

TOOL = os.path.abspath(sys.argv[1])
FORMAT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "file_format.py")
WIDTH = {"fp32": 4, "fp16": 2, "bf16": 2}
NUMBER = {"fp32": 1, "fp16": 2, "bf16": 3}
SAFE = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
SPECS = ["none", "cast:type=bf16", "cast:type=fp16", "onebit", "onebit:group=128,scale=rms"]
LATER = ["quant:bits=8", "quant:bits=3,scale=minmax", "quant:bits=4,rounding=stochastic,seed=7", "quant:bits=2,rotate=hadamard,seed=7",
         "cast:type=fp8e4m3", "onebit:scale=twosided", "ternary", "topk:density=0.01",
         "randk:density=0.1", "randk:density=0.003,scale=unbiased,seed=5"]
count = failed = 0
rng = random.Random(1)


def ok(good, what, *details):
    global count, failed
    count += 1
    failed += not good
    print("%s %d - %s" % ("ok" if good else "not ok", count, what))
    if not good:
        for d in details:
            print("#", str(d)[:600].replace("\n", "\n# "))


def run(*args, data=None, env=None):
    r = subprocess.run([TOOL, *(a if isinstance(a, bytes) else str(a) for a in args)], input=data if data is not None else b"", stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, env=env, timeout=120)
    return r.returncode, r.stdout, r.stderr.decode("utf-8", "replace")


def gives(status, text, *args, data=None):
    """Ends with this status, says the text, and leaves no file more than there were."""
    before = sorted(os.listdir("."))
    got, out, err = run(*args, data=data)
    ok(got == status and text in err + out.decode("utf-8", "replace") and (status == 0 or sorted(os.listdir(".")) == before),
       "%s: %d" % (" ".join(map(str, args)), status), "exit status %d" % got, err, sorted(os.listdir(".")))


def write(path, raw):
    with open(path, "wb") as f:
        f.write(raw)
    return path


def read(path):
    with open(path, "rb") as f:
        return f.read()


def values(n, dtype="fp32", scale=1.0):
    return wire_format.pack([rng.gauss(0, scale) for _ in range(n)], NUMBER[dtype])


def npy(raw, descr, shape, fortran=False, version=1, header=None):
    text = header or "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }" % (descr, fortran, shape)
    size = 10 if version == 1 else 12
    text += " " * (-(size + len(text) + 1) % 64) + "\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text.encode() + raw


def safetensors(entries, meta=None, text=None, header=None):
    """entries: (name, dtype, shape, bytes)"""
    head, data = {}, b""
    if meta:
        head["__metadata__"] = meta
    for name, dtype, shape, raw in entries:
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head.update(header or {})
    text = text or json.dumps(head, separators=(",", ":"), ensure_ascii=False)
    text = text.encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def python_reads(path, *more):
    """What file_format.py makes of it: list of bytes, or None."""
    with tempfile.TemporaryDirectory() as folder:
        r = subprocess.run([sys.executable, FORMAT, path, folder, *map(str, more)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        names = sorted(os.listdir(folder), key=int)
        if r.returncode == 3 and not names:
            return None
        if r.returncode:
            raise RuntimeError(r.stderr.decode())
        return [read(os.path.join(folder, n)) for n in names]


def python_knows(spec):
    try:
        wire_format.Spec(spec)
        return True
    except Exception:
        return False


# ---- the same values from both readers ----
def round_trips():
    specs = SPECS + [s for s in LATER if run("compress", "--spec", s, "--dtype", "fp32", "--shape", "1", "-", data=bytes(4))[0] == 0]
    print("# codecs:", *specs)
    for spec in specs:
        bad = []
        for dtype in WIDTH:
            for n in (0, 1, 7, 4095, 4096, 4097, 8192, 12289):
                raw = write("in.raw", values(n, dtype))
                a = run("compress", raw, "--dtype", dtype, "--spec", spec, "-o", "f.tw", "--chunk", rng.choice((1, 2, 256)), "-q", "-f")
                b = run("decompress", "f.tw", "-o", "out.raw", "-q", "-f")
                c = run("inspect", "--decode", "f.tw")
                good = a[0] == b[0] == c[0] == 0
                if good and python_knows(spec):
                    good = python_reads("f.tw") == [read("out.raw")]
                if good and spec == "none":
                    good = read("out.raw") == read(raw)
                if not good:
                    bad.append((dtype, n, a, b, c))
        ok(not bad, "%s: sizes around tiles and chunks in three dtypes%s" % (spec, "" if python_knows(spec) else ", by the library alone"),
           *bad[:2])
    for name in ("in.raw", "f.tw", "out.raw"):
        os.remove(name)


def matrices():
    """Factors, both readers; what has none is carried as it is; shapes give the rows."""
    bad = []
    for spec in ("powersgd:rank=2,iterations=2", "powersgd:rank=5,seed=3"):
        for dtype in WIDTH:
            for shape in ((80, 70), (130, 3, 40), (97, 43), (4097,), (9, 2), (64, 64, 1), ()):
                n, rank = math.prod(shape), int(re.search("rank=(.)", spec).group(1))
                cols = shape[-1] if shape else 1
                some = rank < min(n // cols, cols) and rank * (n // cols + cols) < n
                raw = write("m.raw", values(n, dtype))
                a = run("compress", raw, "--dtype", dtype, "--shape", ",".join(map(str, shape)), "--spec", spec, "-o", "m.tw", "--chunk", 1, "-q", "-f", "--json", "m.json")
                b = run("decompress", "m.tw", "-o", "mo.raw", "-q", "-f")
                row = json.loads(read("m.json"))["tensors"][0] if a[0] == 0 else {}
                parts = {"right factor": 4 * rank * cols, "left factor": 4 * rank * n // cols} if some else {"values": n * WIDTH[dtype]}
                good = a[0] == b[0] == 0 and python_reads("m.tw") == [read("mo.raw")] and row["part_bytes"] == parts
                if not good or (not some and read("mo.raw") != read(raw)):
                    bad.append((spec, dtype, shape, a, b, row))
    ok(not bad, "powersgd: factors of matrices in three dtypes, others as they are", *bad[:2])
    x, y = [rng.gauss(0, 1) for _ in range(60)], [rng.gauss(0, 1) for _ in range(50)]
    flat = write("f.raw", wire_format.pack([a * b for a in x for b in y], 1))
    run("compress", flat, "--dtype", "fp32", "--shape", "3000", "--spec", "powersgd:rank=1,columns=50", "-o", "f.tw", "-f", "-q")
    run("decompress", "f.tw", "-o", "fo.raw", "-f", "-q")
    was, now = (wire_format.unpack(read(f), 3000, 1) for f in ("f.raw", "fo.raw"))
    ok(max(abs(a - b) for a, b in zip(was, now)) < 1e-5 and len(read("f.tw")) < 1000, "columns=50 makes a matrix of a vector")


def exact():
    nan = struct.pack("<4I", 0x7FC12345, 0xFFFFFFFF, 0x7F800001, 0x80000000)
    write("nan.raw", nan)
    run("compress", "nan.raw", "--dtype", "fp32", "--spec", "none")
    run("decompress", "nan.raw.tw", "-o", "back.raw")
    ok(read("back.raw") == nan, "none keeps every bit, of NaN too")


def report():
    n, tile = 3 * 4096 + 5, 4096
    x = [rng.gauss(0, 1) for _ in range(n)]
    x[tile + 3], x[3 * tile] = math.nan, math.inf
    write("r.raw", wire_format.pack(x, 1))
    for spec in ("onebit", "cast:type=bf16", "none"):
        status, out, err = run("compress", "r.raw", "--dtype", "fp32", "--spec", spec, "-o", "r.tw", "-f", "--json", "r.json")
        got = json.loads(read("r.json"))
        y = wire_format.unpack(python_reads("r.tw")[0], n, 1)
        pairs = [(wire_format.f32(a), b) for a, b in zip(x, y) if math.isfinite(a) and math.isfinite(b)]
        e = math.fsum((a - b) ** 2 for a, b in pairs) / math.fsum(a * a for a, _ in pairs)
        most = max(abs(a - b) for a, b in pairs)
        row, size = got["tensors"][0], len(read("r.tw"))
        good = status == 0 and abs(row["nmse"] - e) <= 1e-9 * e and abs(row["max_error"] - most) <= 1e-9 * most
        good = good and row["nonfinite_tiles"] == 2 and got["all"]["file_bytes"] == size and row["dense_bytes"] == 4 * n
        good = good and abs(got["all"]["bits_per_value"] - 8 * size / n) < 1e-6 and abs(got["all"]["ratio"] - 4 * n / size) < 1e-6
        payload = {"onebit": {"scales": 4 * -(-n // 512), "signs": 3 * 512 + 4}, "cast:type=bf16": {"codes": 2 * n + 2 * (n % 2)},
                   "none": {"values": 4 * n}}[spec]
        ok(good and row["part_bytes"] == payload, "%s: report against an independent computation" % spec, row, e, most, payload)
    for spec, known in (("topk:density=0.05", {"indices", "values"}), ("ternary:density=0.05", {"indices", "scales", "signs"})):
        run("compress", "r.raw", "--dtype", "fp32", "--spec", spec, "-o", "r.tw", "-f", "--json", "r.json")
        parts = json.loads(read("r.json"))["tensors"][0]["part_bytes"]
        k = round(0.05 * n)
        want = {"values": 4 * k, "scales": 4, "signs": 4 * -(-k // 32)}
        ok(set(parts) == known and all(parts[p] == want[p] for p in known - {"indices"}) and k * 4 < 8 * parts["indices"] < k * 8,
           "%s: bits by part" % spec, parts)
    write("p.raw", wire_format.pack([math.nan] + [1.0] * 8191, 1))
    run("compress", "p.raw", "--dtype", "fp32", "--shape", "64,128", "--spec", "powersgd:rank=2", "-o", "p.tw", "--json", "p.json")
    row = json.loads(read("p.json"))["tensors"][0]
    ok(row["nmse"] is None and row["nonfinite_tiles"] == 2, "a tensor without finite tiles has no NMSE", row)
    write("n.raw", wire_format.pack([math.nan] * 400 + [1.0] * 4096, 1))
    gives(4, "more NaN and Inf than values are kept", "compress", "n.raw", "--dtype", "fp32", "--spec", "topk:density=0.01", "-o", "n.tw")
    run("compress", "r.raw", "--dtype", "fp32", "--spec", "none", "-o", "r.tw", "-f")
    status, out, err = run("inspect", "r.tw", "--json", "-")
    ok(status == 0 and json.loads(out)["tensors"][0]["codec"] == "none", "inspect --json -", out, err)


# ---- .npy ----
def npy_files():
    cases = [("<f4", (), 4), ("<f4", (0,), 4), ("<f4", (3, 0, 2), 4), ("<f4", (5,), 4), ("<f2", (2, 3), 2), ("<f8", (2, 3), 8), ("<i8", (4,), 8),
             ("|u1", (3, 3), 1), ("|b1", (9,), 1), ("<c16", (2,), 16), ("<f4", (70, 60, 1), 4)]
    bad = []
    for descr, shape, width in cases:
        raw = bytes(rng.randrange(60) for _ in range(width * math.prod(shape)))
        write("n.npy", npy(raw, descr, shape))
        a = run("compress", "n.npy", "--spec", "none", "-f")
        b = run("decompress", "n.npy.tw", "-o", "n2.npy", "-f")
        if a[0] or b[0] or read("n2.npy") != read("n.npy"):
            bad.append((descr, shape, a, b))
    ok(not bad, ".npy: %d dtypes and shapes come back byte for byte" % len(cases), *bad)
    raw = values(6)
    for version in (1, 2, 3):
        write("v.npy", npy(raw, "<f4", (2, 3), version=version))
        gives(0, "[2, 3]", "compress", "v.npy", "--spec", "onebit", "-f")
    write("fortran.npy", npy(raw, "<f4", "(6,)", fortran=True))
    gives(0, "[6]", "compress", "fortran.npy", "--spec", "onebit", "-f")
    for what, status, text, content in (
            ("big", 4, "big-endian", npy(raw, ">f4", "(2, 3)")), ("fort", 4, "Fortran order", npy(raw, "<f4", "(2, 3)", fortran=True)),
            ("text", 4, "not one of those taken", npy(raw, "<U2", "(3,)")), ("rec", 4, "no plain one", npy(raw, "", "", header="{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,), }")),
            ("more", 3, "has 153 bytes", npy(raw + b"x", "<f4", "(2, 3)")), ("less", 3, "has 151 bytes", npy(raw[:-1], "<f4", "(2, 3)")),
            ("huge", 3, "2^56", npy(raw, "<f4", "(%d, %d)" % (2 ** 40, 2 ** 40))), ("neg", 3, "no number", npy(raw, "<f4", "(-6,)")),
            ("over", 3, "beyond 2^60", npy(raw, "<f4", "(99999999999999999999999,)")), ("bare", 3, "(N) is no tuple", npy(raw, "<f4", "(6)")),
            ("keys", 3, "a key", npy(raw, "", "", header="{'descr': '<f4', 'shape': (6,), }")), ("magic", 3, "does not begin", b"\x93NUMPX" + npy(raw, "<f4", "(6,)")[6:]),
            ("twice", 3, "twice", npy(raw, "", "", header="{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,)}")),
            ("dims", 3, "32 dimensions", npy(raw, "<f4", "(" + "1, " * 33 + ")")), ("long", 3, "header of", b"\x93NUMPY\2\0" + struct.pack("<I", 2 ** 31)),
            ("short", 3, "ends after", b"\x93NUMPY\1"), ("none", 3, "ends after", b"")):
        gives(status, text, "compress", write(what + ".npy", content), "--spec", "onebit")
    write("bf.raw", values(4, "bf16"))
    run("compress", "bf.raw", "--dtype", "bf16", "--spec", "none")
    gives(4, ".npy has no bf16", "decompress", "bf.raw.tw", "-o", "bf.npy")


# ---- .safetensors ----
def has_safetensors():
    status, out, err = run("compress", write("probe.safetensors", safetensors([])), "--spec", "none", "-o", "-")
    os.remove("probe.safetensors")
    return not (status == 4 and "without jansson" in err)


def checkpoint(seed, extra=b"\1" * 16):
    global rng
    rng = random.Random(seed)
    return [("emb.weight", "F32", [40, 130], values(5200)), ("half", "F16", [4097], values(4097, "fp16")), ("scalar", "F32", [], values(1)),
            ("b.bias", "BF16", [3, 5], values(15, "bf16")), ("empty", "F32", [0, 7], b""), ("steps", "I64", [2], extra), ("ü\"\\\n", "F32", [9], values(9))]


def safetensors_files():
    whole = safetensors(checkpoint(3), {"format": "pt", "who": "ä \"x\""})
    write("m.safetensors", whole)
    gives(0, "as it is", "compress", "m.safetensors", "--spec", "none")
    run("decompress", "m.safetensors.tw", "-o", "m2.safetensors")
    same = read("m2.safetensors")
    ok(json.loads(same[8:8 + struct.unpack("<Q", same[:8])[0]]) == json.loads(whole[8:8 + struct.unpack("<Q", whole[:8])[0]]) and
       same.endswith(whole[-5200:]) and len(same) - struct.unpack("<Q", same[:8])[0] == len(whole) - struct.unpack("<Q", whole[:8])[0],
       ".safetensors come back: header, metadata and values")
    status, out, err = run("compress", "m.safetensors", "--rules", "*.bias=none; emb*=onebit until 10 then cast:type=bf16; *=onebit:group=128",
                           "-o", "rules.tw", "--step", 10, "--json", "-")
    codecs = {t["name"]: t["codec"] for t in json.loads(out)["tensors"]}
    ok(codecs == {"emb.weight": "cast", "half": "onebit:group=128", "scalar": "onebit:group=128", "b.bias": "none", "empty": "onebit:group=128",
                  "steps": "as it is", "ü\"\\\n": "onebit:group=128"}, "rules by name and step", codecs)
    run("decompress", "rules.tw", "-o", "rules.safetensors")
    got = read("rules.safetensors")
    ok(got[8 + struct.unpack("<Q", got[:8])[0]:] == b"".join(python_reads("rules.tw")), "seven tensors of one file, by both readers")
    gives(4, "7 tensors do not fit", "decompress", "rules.tw", "-o", "one.npy")
    gives(0, "", "decompress", "rules.tw", "-o", "one.npy", "--tensor", "half", "-q")
    ok(read("one.npy").endswith(python_reads("rules.tw")[1]), "--tensor takes one")
    gives(2, "has no tensor 'nix'", "decompress", "rules.tw", "-o", "two.npy", "--tensor", "nix")
    six = struct.pack("<6f", *range(6))

    def one(dtype="F32", shape="[6]", offsets="[0,24]", more=""):
        return safetensors([], text='{"w":{"dtype":"%s","shape":%s,"data_offsets":%s%s}}' % (dtype, shape, offsets, more)) + six

    for what, status, text, content in (
            ("hole", 3, "a gap lies", safetensors([], header={"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [3], "data_offsets": [12, 24]}}) + six),
            ("over", 3, "overlap", safetensors([], header={"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "b": {"dtype": "F32", "shape": [3], "data_offsets": [12, 24]}}) + six),
            ("begin", 3, "a gap", one(shape="[5]", offsets="[4,24]")), ("size", 3, "disagree", one(shape="[5]")), ("back", 3, "disagree", one(offsets="[24,0]")),
            ("huge", 3, "2^56", one(shape="[1099511627776,1099511627776]")), ("wrap", 3, "2^56", one(shape="[4294967296,4294967296,6]")),
            ("neg", 3, "whole number", one(shape="[-6]")), ("real", 3, "whole number", one(shape="[6.0]")), ("big", 3, "integer", one(offsets="[0,99999999999999999999]")),
            ("three", 3, "two whole numbers", one(offsets="[0,12,24]")), ("text", 3, "no array", one(shape='"6"')), ("more", 3, "nothing else", one(more=',"x":1')),
            ("twice", 3, "duplicate", safetensors([], text='{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}') + six),
            ("dtype", 4, "not one of those taken", one(dtype="F4")), ("long", 3, "header of", struct.pack("<Q", 2 ** 63) + six), ("cut", 3, "header of", one()[:40]),
            ("tail", 3, "has ", one() + b"x"), ("less", 3, "has ", one()[:-1]), ("array", 3, "does not begin", safetensors([], text="[1]")),
            ("meta", 3, "something else", safetensors([], text='{"__metadata__":{"a":1}}')), ("zero", 3, "", safetensors([], text='{"a\\u0000":1}')), ("none", 3, "ends", b"")):
        gives(status, text, "compress", write(what + ".safetensors", content), "--spec", "onebit")
    gives(3, "ends after", "compress", "--from", "safetensors", "-", "--spec", "onebit", "-o", "x.tw", data=one()[:-1])
    gives(3, "has more", "compress", "--from", "safetensors", "-", "--spec", "onebit", "-o", "x.tw", data=one() + b"x")


def differences():
    base, tuned = checkpoint(5), checkpoint(6)
    tuned.reverse()
    write("base.safetensors", safetensors(base))
    write("tuned.safetensors", safetensors(tuned))
    for spec, scale in (("none", 1), ("cast:type=bf16", 0.3), ("onebit", -1.5)):
        a = run("diff", "base.safetensors", "tuned.safetensors", "-o", "d.tw", "--spec", spec, "-f", "--chunk", 1)
        b = run("apply", "base.safetensors", "d.tw", "-o", "out.safetensors", "--scale", scale, "-f")
        got = read("out.safetensors")
        want = b"".join(python_reads("d.tw", "base.safetensors", scale)) if a[0] == 0 else b""
        ok(a[0] == b[0] == 0 and got[8 + struct.unpack("<Q", got[:8])[0]:] == want and len(got) == len(read("base.safetensors")),
           "apply %s, scale %s: as file_format.py has it" % (spec, scale), a, b)
        ok("differs" not in a[2], "nothing is said of what is equal")
    run("apply", "base.safetensors", "d.tw", "-o", "zero.safetensors", "--scale", "0")
    write("tuned2.safetensors", safetensors(checkpoint(6, b"\2" * 16)))
    gives(0, "tensor 'steps' (i64) differs and is left out", "diff", "base.safetensors", "tuned2.safetensors", "-o", "d2.tw", "--spec", "onebit")
    write("shape.safetensors", safetensors([(n, d, s[::-1], r) for n, d, s, r in base]))
    gives(4, "shape [40, 130] in base", "diff", "base.safetensors", "shape.safetensors", "-o", "d3.tw", "--spec", "onebit")
    write("fewer.safetensors", safetensors(base[1:]))
    gives(4, "lacks tensor", "diff", "base.safetensors", "fewer.safetensors", "-o", "d3.tw", "--spec", "onebit")
    gives(4, "has 7 tensors", "diff", "fewer.safetensors", "base.safetensors", "-o", "d3.tw", "--spec", "onebit")
    gives(4, "has no tensor of floats 'emb.weight'", "apply", "fewer.safetensors", "d.tw", "-o", "d3.safetensors")
    run("compress", "base.safetensors", "--spec", "onebit", "-o", "t.tw")
    gives(4, "holds tensors, not differences", "apply", "base.safetensors", "t.tw", "-o", "d3.safetensors")
    many = [("t%d" % i, "F32", [0], b"") for i in range(20000)]
    write("many.safetensors", safetensors(many))
    run("diff", "many.safetensors", "many.safetensors", "-o", "many.tw", "--spec", "onebit")
    begun = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    a = run("apply", "many.safetensors", "many.tw", "-o", "many.out")
    took = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begun
    ok(a[0] == 0 and took < 20, "20,000 tensors are found in little time", a[2][-200:], took)
    broken = bytearray(read("d.tw"))
    broken[-60] ^= 4
    write("broken.tw", broken)
    gives(3, "damaged", "apply", "base.safetensors", "broken.tw", "-o", "d3.safetensors")


# ---- streams, outputs, damage ----
def streams():
    raw = values(100 * 60)
    status, packed, err = run("compress", "-", "--dtype", "fp32", "--shape", "100x60", "--spec", "onebit", data=raw)
    ok(status == 0 and "onebit" in err, "compress - to standard output; the table goes to standard error", err)
    write("s.tw", packed)
    status, out, err = run("decompress", "-", data=packed)
    ok(status == 0 and out == python_reads("s.tw")[0], "decompress -", err)
    status, out, err = run("decompress", "-", "--to", "npy", data=packed)
    ok(status == 0 and out == npy(python_reads("s.tw")[0], "<f4", (100, 60)), "decompress - --to npy", err)
    for cut in (len(packed) - 1, len(packed) // 2, 9, 0):
        status, out, err = run("decompress", "-", data=packed[:cut])
        ok(status == 3 and out == b"", "a stream that was cut at %d: nothing comes out" % cut, status, err)
    gives(2, "--shape must say how many", "compress", "-", "--dtype", "fp32", "--spec", "onebit", data=raw)
    gives(3, "ends after", "compress", "-", "--dtype", "fp32", "--shape", "6001", "--spec", "onebit", "-o", "x", data=raw)
    if os.path.exists("/dev/full"):
        with open("/dev/full", "wb") as full:
            r = subprocess.run([TOOL, "decompress", "s.tw", "-o", "-"], stdout=full, stderr=subprocess.PIPE)
        ok(r.returncode == 1 and b"cannot be written" in r.stderr, "a full disk: 1", r)


def outputs():
    write("o.raw", values(5000))
    write("keep", b"precious")
    gives(2, "exists; --force replaces it", "compress", "o.raw", "--dtype", "fp32", "--spec", "onebit", "-o", "keep")
    ok(read("keep") == b"precious", "an existing output stays")
    run("compress", "o.raw", "--dtype", "fp32", "--spec", "onebit", "-o", "o.tw")
    broken = bytearray(read("o.tw"))
    broken[-100] ^= 1
    write("broken.tw", broken)
    gives(3, "damaged", "decompress", "broken.tw", "-o", "keep", "--force")
    ok(read("keep") == b"precious", "... also with --force, where the input is damaged")
    os.symlink("keep", "link")
    os.chmod("keep", 0o640)
    status, out, err = run("decompress", "o.tw", "-o", "link", "--force", "-q")
    ok(status == 0 and os.path.islink("link") and read("keep") == python_reads("o.tw")[0] and os.stat("keep").st_mode & 0o777 == 0o640,
       "--force replaces what a link leads to, with its rights", err)
    gives(2, "not a plain file", "decompress", "o.tw", "-o", ".", "--force")
    gives(1, "cannot be made", "decompress", "o.tw", "-o", "no/such/folder")
    gives(1, "cannot be opened", "inspect", "nothing.tw")
    gives(1, "cannot be made", "compress", "o.raw", "--dtype", "fp32", "--spec", "onebit", "-o", "j.tw", "--json", "no/such/folder")
    for number in (signal.SIGINT, signal.SIGTERM):
        before = sorted(os.listdir("."))
        p = subprocess.Popen([TOOL, "compress", "-", "--dtype", "fp32", "--shape", "1000000", "--spec", "onebit", "-o", "stopped.tw", "--chunk", "1"],
                             stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # shells ignore SIGINT in the background
        p.stdin.write(bytes(40000))
        p.stdin.flush()
        limit = time.time() + 20
        while sorted(os.listdir(".")) == before and time.time() < limit:
            time.sleep(0.01)
        began = sorted(os.listdir(".")) != before
        p.send_signal(number)
        p.wait(20)
        p.stdin.close()
        ok(began and p.returncode == -number and sorted(os.listdir(".")) == before, "signal %d leaves nothing behind" % number, p.returncode)


def refused_everywhere(raw):
    """Both readers refuse it, and no output appears."""
    write("d.tw", raw)
    before = sorted(os.listdir("."))
    results = [run("decompress", "d.tw", "-o", "d.out", "-q"), run("inspect", "d.tw")]
    if any(r[0] != 3 or r[1] for r in results) or sorted(os.listdir(".")) != before:
        return False
    try:
        file_format.File(raw)
        return False
    except file_format.Damaged:
        return True


def damage():
    write("d.raw", values(40))
    run("compress", "d.raw", "--dtype", "fp32", "--spec", "onebit", "--name", "w", "-o", "whole.tw")
    raw = read("whole.tw")
    file_format.File(raw)
    write("d.tw", raw)
    bad = [i for i in range(len(raw)) if not refused_everywhere(raw[:i] + bytes([raw[i] ^ 1 << rng.randrange(8)]) + raw[i + 1:])]
    ok(not bad, "each of %d bytes changed: refused by both readers" % len(raw), bad)
    bad = [i for i in range(len(raw)) if not refused_everywhere(raw[:i])]
    ok(not bad, "each of %d truncations: refused by both readers" % len(raw), bad)
    ok(refused_everywhere(raw + b"\0") and refused_everywhere(raw + raw), "bytes behind the end: refused")


def hostile_names():
    write("h.raw", values(4))
    run("compress", "h.raw", "--dtype", "fp32", "--spec", "onebit", "--name", "\x1b[31mred\x07\u009b32m", "-o", "h.tw")
    status, out, err = run("inspect", "h.tw")
    ok(status == 0 and b"\x1b" not in out and b"\x07" not in out and b"\xc2\x9b" not in out, "control characters of a name do not reach the terminal", out)


def usage():
    write("u.raw", values(4))
    for text, args in (("did you mean \"compress\"", ["compres", "u.raw"]), ("--spec or --rules", ["compress", "u.raw", "--dtype", "fp32"]),
                       ("did you mean 'onebit'", ["compress", "u.raw", "--dtype", "fp32", "--spec", "onebitt"]), ("--from", ["compress", "noext", "--spec", "none"]),
                       ("has its own", ["compress", "x.npy", "--dtype", "fp32", "--spec", "none"]), ("not UTF-8", ["compress", "u.raw", "--dtype", "fp32", "--spec", "none", "--name", b"\xff"]),
                       ("no residual", ["compress", "u.raw", "--dtype", "fp32", "--spec", "onebit+ef"]), ("--dtype must say", ["compress", "u.raw", "--spec", "none"]),
                       ("--dtype: unknown value", ["compress", "u.raw", "--dtype", "float", "--spec", "none"]), ("no list", ["compress", "u.raw", "--dtype", "fp32", "--shape", "2,x", "--spec", "none"]),
                       ("one of them", ["compress", "u.raw", "--spec", "none", "--rules", "*=none"]), ("--rules: rule 1", ["compress", "u.raw", "--rules", "x"]),
                       ("unknown option --scale", ["compress", "u.raw", "--scale", "2"]), ("no number", ["apply", "u.raw", "x.tw", "-o", "y", "--scale", "nan"]),
                       ("wants BASE TUNED", ["diff", "u.raw", "-o", "x", "--spec", "none"]), ("nothing more", ["inspect", "a", "b"]), ("where to?", ["decompress", "u.raw"]),
                       ("1 to 1024", ["compress", "u.raw", "--spec", "none", "--chunk", "0"]), ("go to standard output", ["decompress", "-", "--json", "-"])):
        gives(2, text, *args)
    gives(0, "Usage: thinwire-codec diff", "diff", "--help")
    gives(0, "Exit status", "--help")
    gives(3, "takes 12", "compress", "u.raw", "--dtype", "fp32", "--shape", "3", "--spec", "none")
    gives(0, "[]", "compress", write("one.raw", values(1)), "--dtype", "fp32", "--shape", "[]", "--spec", "none")


def readme():
    text = read(os.path.join(os.path.dirname(FORMAT), "../../README.md")).decode()
    block = next(b for b in text.split("```") if b.startswith("sh\n") and "thinwire-codec compress" in b)
    env = dict(os.environ, PATH=os.path.dirname(TOOL) + os.pathsep + os.environ["PATH"])
    r = subprocess.run(["sh", "-e", "-c", block[3:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
    ok(r.returncode == 0 and "ratio" in block and len(read("w.npy")) == 4 * 65536 + 128, "the README's example", r)
    ok(b" 29.7" in r.stdout and b" 0.36" in r.stdout, "... prints what it says", r.stdout)


def main():
    with tempfile.TemporaryDirectory() as folder:
        for part in (round_trips, matrices, exact, report, npy_files, streams, outputs, damage, hostile_names, usage, readme):
            os.mkdir(os.path.join(folder, part.__name__))
            os.chdir(os.path.join(folder, part.__name__))
            part()
        for part in (safetensors_files, differences):
            os.mkdir(os.path.join(folder, part.__name__))
            os.chdir(os.path.join(folder, part.__name__))
            if has_safetensors():
                part()
            else:
                gives(4, "without jansson", "compress", write("x.safetensors", safetensors([])), "--spec", "none")
        os.chdir("/")
    print("1..%d" % count)
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
