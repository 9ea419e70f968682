#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""thinwire-plan from outside, as TAP: bytes beside what the simulator sends, times beside the manual's model.

usage: plan_tool.py THINWIRE-PLAN THINWIRE-BENCH"""
import itertools
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

sys.dont_write_bytecode = True
from xxh import xxh64  # noqa: E402

TOOL, BENCH = (os.path.abspath(p) for p in sys.argv[1:3])
LAYERS = [{"name": "embed", "shape": [2000, 64]}, {"name": "h.0.weight", "shape": [512, 512]}, {"name": "h.0.bias", "count": 512},
          {"name": "h.1.weight", "shape": [512, 512], "norm": 40.0}, {"name": "h.1.bias", "count": 512},
          {"name": "out.weight", "shape": [64, 512], "dtype": "bf16"}]
count = failed = 0
rng = random.Random(1)


def ok(good, what, *details):
    global count, failed
    count += 1
    failed += not good
    print("%s %d - %s" % ("ok" if good else "not ok", count, what))
    for d in details if not good else ():
        print("#", str(d)[:800].replace("\n", "\n# "))


def run(*args, data=b"", program=TOOL):
    r = subprocess.run([program, *map(str, args)], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    return r.returncode, r.stdout.decode("utf-8", "replace"), r.stderr.decode("utf-8", "replace")


def write(path, content):
    with open(path, "wb") as f:
        f.write(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def plan(*args, layers="layers.json", speeds="speeds.json", link="100mbit", step="20ms", ranks=4):
    """The report of a run that must be good."""
    speeds = ["--codec-speeds", speeds] if speeds else []
    status, out, err = run("-q", "--json", "-", "--ranks", ranks, "--link", link, "--step-time", step, *speeds, *args, layers)
    if status:
        raise RuntimeError("exit status %d: %s" % (status, err))
    return json.loads(out)


def gives(status, text, *args, data=b""):
    got, out, err = run(*args, data=data)
    ok(got == status and text in err and (status == 0 or not out), "%s: %d, %s" % (" ".join(map(str, args))[:100], status, text),
       "exit status %d" % got, out, err)


def safetensors(entries):
    head, data = {}, b""
    for name, dtype, shape, raw in entries:
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def near(a, b, share=1e-6):
    return abs(a - b) <= share * max(abs(a), abs(b))


# ---- the manual's model, once more ----
def dense_bytes(r, half=False):
    return sum(y["count"] * (4 if y["dtype"] == "fp32" and not half else 2) for y in r["layers"])


def step_of(r, wire, codec, latency):
    rate, last = r["link_bits"] / 8 * r["goodput"], min(1, r["bucket_bytes"] / dense_bytes(r))
    w, k, window = wire / rate, codec * max(1, 1 / r["cores"]), r["overlap"] * r["compute_s"] if r["cores"] >= 2 else 0
    return r["compute_s"] + latency + max(max(w, k) - window, last * (w + k))


def dense_step(r, half=False):
    p, n, depth = r["ranks"], dense_bytes(r, half), math.ceil(math.log2(r["ranks"]))
    return min(step_of(r, 2 * (p - 1) / p * n, 0, 2 * depth * r["latency_s"]), step_of(r, depth * n, 0, depth * r["latency_s"]))


def uneven(r, layers):
    """Bytes and seconds of the busiest owner beyond the average."""
    p = r["ranks"]
    wire, codec = [0.0] * p, [0.0] * p
    for y in layers:
        tiles = -(-y["count"] // 4096)
        if y["setting"].startswith("powersgd") or not 0 < tiles < 4 * p:
            continue
        sent = y["wire_bytes"] * p / (2 * (p - 1)) * (p - 2)
        decoded = y["count"] / r["speeds"][y["setting"]]["decode"] * (p - 1)
        owned = [0] * p
        for t in range(tiles):
            owned[(xxh64(y["name"].encode()) % p + t * p // tiles) % p] += 1
        for i in range(p):
            wire[i] += sent * (owned[i] / tiles - 1 / p)
            codec[i] += decoded * (owned[i] / tiles - 1 / p)
    return max(0, *wire), max(0, *codec)


def compressed_step(r, layers):
    """The step of layers with their settings, which need not be those of the report."""
    of = [y for y in layers if y["count"]]
    if all(y["setting"] == "none" for y in of):
        return dense_step(r)
    factored, peers, hops = [y["setting"].startswith("powersgd") for y in of], r["ranks"] - 1, 0
    wire, codec = sum(y["wire_bytes"] for y in of), sum(y["codec_s"] for y in of)
    if any(y["setting"] != "none" and not f for y, f in zip(of, factored)):
        busy, hops = uneven(r, of), 2
        wire += busy[0]
        codec += busy[1] + math.ceil(dense_bytes(r) / r["bucket_bytes"]) * 2 * peers * r["message_s"]
    if any(factored):
        hops = max(hops, 2 * 2 * math.ceil(math.log2(r["ranks"])))
    return step_of(r, wire, codec, hops * r["latency_s"])


def check_model(r, what):
    p = r["ranks"]
    steps = {"dense": dense_step(r), "half": dense_step(r, True), "chosen": compressed_step(r, r["layers"])}
    for k, v in steps.items():
        ok(near(r[k]["step_s"], v), "%s: the step, %s" % (what, k), r[k], v)
    for y in r["layers"]:
        s, n = r["speeds"][y["setting"]], y["count"]
        decoded = 1 if y["setting"].startswith("powersgd") else (2 * p - 1) / p
        if not near(y["codec_s"], n * (1 / s["encode"] + decoded / s["decode"])):
            ok(False, "%s: codec seconds of %s" % (what, y["name"]), y, s)
    best = r["chosen"]["step_s"] * 1.02
    pays = r["dense"]["step_s"] >= best and r["half"]["step_s"] >= best
    ok(r["rules"] is None or r["compress"] or r["rules"] == ("*=cast:type=bf16" if "bf16" in r["verdict"] else "*=none"), what + ": the rules are those of the verdict", r["rules"])
    ok(r["compress"] == pays and (r["verdict"] == "compress") == pays, what + ": the verdict follows from the steps", r["verdict"])


def check_sums(r, what):
    total = sum(y["wire_bytes"] for y in r["layers"])
    ok(near(total, r["wire_bytes"]), what + ": layers add up", total, r["wire_bytes"])
    ok(r["least_wire_bytes"] <= r["average_wire_bytes"] <= r["most_wire_bytes"], what + ": the least, the average, the most", r["least_wire_bytes"], r["average_wire_bytes"], r["most_wire_bytes"], r["rules"])
    # layers by themselves have frames of their own; by the plan of all ranks they share them
    ok(not r["compress"] or near(total, r["average_wire_bytes"], 0.02), what + ": as tw_plan_compute has it for all of them",
       r["least_wire_bytes"], total, r["most_wire_bytes"])
    error = sum((y["lost"] * y["norm"]) ** (2 if r["norm"] == "l2sq" else 1) for y in r["layers"])
    ok(near(error, r["error"]) and error <= r["budget"] * (1 + 1e-6), what + ": within the budget", error, r["error"], r["budget"])


# ---- what is measured here, and fixed speeds for everything else ----
def measured():
    write("layers.json", LAYERS)
    status, _, err = run("-q", "--json", "-", "-n", "4", "-l", "1gbit", "-t", "1ms", "layers.json")
    if status == 1 and "without jansson" in err:
        gives(1, "without jansson", "-n", 2, "-l", "1gbit", "-t", "1ms", "layers.json")
        gives(1, "without jansson", "-n", 2, "-l", "1gbit", "-t", "1ms", write("x.safetensors", safetensors([])))
        return False
    r = plan(speeds=None)
    check_model(r, "measured speeds")
    ok(all(1e5 < s[k] < 1e12 for s in r["speeds"].values() for k in s), "speeds are speeds", r["speeds"])
    other = plan("--candidates", "onebit+decay;topk+dgc;cast", "--budget", "onebit+decay", speeds=None)
    check_model(other, "other feedbacks, measured")
    ok(set(other["speeds"]) == {"none", "cast", "onebit+decay", "topk+dgc"}, "speeds of what may be chosen alone", other["speeds"])
    fixed = {k: {"encode": 5e8, "decode": 2e9} for k in r["speeds"]}
    for k in fixed:
        if k.startswith(("topk", "powersgd")):
            fixed[k]["encode"] = 1e8
    write("speeds.json", {"speeds": fixed})
    return True


def bytes_as_sent():
    for spec in "onebit+ef", "quant:bits=4+ef", "cast+ef", "none":
        r = plan("--candidates", spec, "--budget", spec, layers=write("one.json", [{"name": "bench.0", "count": 1 << 20}]), link="1mbit")
        status, out, err = run("allreduce", "--transport", "sim", "--ranks", 4, "-b", "4M", "-e", "4M", "-n", 1, "-w", 0, "--algo", "sra", "--codec", spec,
                               "--json", "-", program=BENCH)
        sent = [json.loads(line)["wire_bytes"] for line in out.splitlines() if line.startswith("{")]
        ok(status == 0 and r["layers"][0]["setting"] == spec and sent and near(r["wire_bytes"], sent[0], 1e-3), "bytes of %s as the simulator sends them" % spec,
           r["wire_bytes"], sent, err)


def choices():
    for options in [], ["--norm", "l2sq"], ["--cores", "1"], ["--cores", "0.25"], ["--families", "topk,ternary"], ["--budget", "onebit+ef"], ["--errors", "student"]:
        r = plan(*options)
        check_sums(r, " ".join(options) or "defaults")
        check_model(r, " ".join(options) or "defaults")
        ok(r["chosen"]["step_s"] <= r["all_uniform"]["step_s"] * (1 + 1e-9) or "--families" in options, "not slower than the uniform setting", r["chosen"], r["all_uniform"])
    families = {y["setting"].split(":")[0].split("+")[0] for y in plan("--families", "topk", "--budget", "onebit+ef")["layers"]}
    ok(families <= {"topk", "none"} and len(families) == 2, "families are kept to", families)
    none = plan("--budget", "none")
    ok(none["error"] == 0 and none["budget"] == 0 and not none["compress"], "no budget, no choice", none["verdict"])
    ok(plan("--small", 1 << 20)["verdict"] == "do not compress: average in bf16", "small layers go as they are")
    again = plan(layers=write("report.json", plan()))
    ok(again["rules"] == plan()["rules"], "a report is a list of layers")


def against_all_choices():
    """Three layers, four settings: the step beside that of the best of all choices within the budget."""
    specs = ["none", "quant+ef", "quant:bits=4,scale=mse+ef", "onebit+ef", "topk:density=0.03+ef"]
    layers = [{"name": "a", "count": 300000, "norm": 9.0}, {"name": "b", "count": 80000, "norm": 30.0}, {"name": "c", "count": 900000, "norm": 3.0}]
    write("three.json", layers)
    cells = {}
    for s in specs:
        r = plan("--candidates", s, "--budget", s, layers="three.json", link="10kbit")
        for y in r["layers"]:
            cells[y["name"], s] = y
    for link in "5mbit", "50mbit", "100mbit", "200mbit", "400mbit", "2gbit":
        r = plan("--candidates", ";".join(specs), layers="three.json", link=link)
        best = math.inf
        for c in itertools.product(specs, repeat=3):
            of = [cells[y["name"], s] for y, s in zip(layers, c)]
            if [y["setting"] for y in of] == list(c) and sum(y["lost"] * y["norm"] for y in of) <= r["budget"]:
                best = min(best, compressed_step(r, of))
        ok(best * (1 - 1e-9) <= r["chosen"]["step_s"] <= best * 1.01, "beside all choices, %s" % link, r["chosen"]["step_s"], best)
        ok(r["chosen"]["step_s"] <= best * (1 + r["distance"]) * (1 + 1e-9), "and as near as it says, %s" % link, r["distance"])


def links():
    last = math.inf
    rates = ["%dkbit" % 10 ** k for k in range(2, 10)] + ["3mbit", "30mbit", "99mbit", "100mbit", "101mbit", "300mbit", "3gbit", "8gbit"]
    falls = True
    for rate in sorted(rates, key=lambda t: float(t.replace("kbit", "e3").replace("mbit", "e6").replace("gbit", "e9"))):
        r = plan(link=rate)
        falls = falls and r["chosen"]["step_s"] <= last * (1 + 1e-12)
        last = r["chosen"]["step_s"]
    ok(falls, "a faster link never makes a slower step")
    slow, fast = plan(link="100mbit"), plan(link="400gbit")
    ok(slow["compress"] and slow["verdict"] == "compress", "compress at 100 Mbit/s", slow["verdict"])
    ok(not fast["compress"] and fast["verdict"] == "do not compress", "do not compress at 400 Gbit/s", fast["verdict"])
    for key, dense in ("pays_below_bits", "dense"), ("pays_below_bits_half", "half"):
        gain = [r[dense]["step_s"] / r["chosen"]["step_s"] for r in (plan(link="%.0f" % (slow[key] * f)) for f in (0.99, 1.01))]
        ok(gain[0] >= 1.02 > gain[1], "%s is where it turns" % key, slow[key], gain)
    ok(slow["pays_below_bits"] == fast["pays_below_bits"], "and does not depend on the link")
    ok(plan(step="100s")["verdict"] == "do not compress" and plan(step="100s", link="100kbit")["compress"], "what computing hides need not be compressed")


def verdicts():
    """Layers whose messages are short, many ranks, and choices that compress nothing."""
    plain = plan("--candidates", "onebit+ef", "--budget", "none")
    ok(plain["chosen"] == plain["dense"] and not plain["compress"] and plain["rules"] == "*=cast:type=bf16", "a choice of `none` alone is the dense sum", plain["chosen"], plain["dense"])
    write("tiny.json", [{"name": "a", "count": 2000}])
    for p in 2, 3, 4, 16, 64, 4096:
        r = plan(layers="tiny.json", ranks=p, link="10gbit", step="0")
        check_model(r, "8 kB, %d ranks" % p)
        ok(r["pays_below_bits_half"] != "any" and r["verdict"] != "compress" or r["latency_alone"], "8 kB, %d ranks: latency decides" % p, r["verdict"], r["pays_below_bits_half"])
    r = plan("--message", "0", "--latency", "1ms", layers="tiny.json", ranks=64, link="100gbit", step="0")
    ok(r["compress"] and r["latency_alone"] and r["pays_below_bits"] == "any", "fewer latencies alone", r["verdict"], r["pays_below_bits"])
    status, out, err = run("-n", 64, "-l", "100gbit", "-t", 0, "--message", 0, "--latency", "1ms", "--codec-speeds", "speeds.json", "tiny.json")
    ok("for fewer latencies alone" in out and "up to 100 Tbit/s" in out, "and the table says so", out, err)
    r = plan(layers="tiny.json", ranks=64)
    ok(not r["compress"] and r["pays_below_bits"] == 0 and r["most_wire_bytes"] > 20 * r["average_wire_bytes"], "an owner of all tiles is the busiest by far", r["verdict"], r["most_wire_bytes"])
    ok("at no rate from 100 kbit/s on" in run("-n", 64, "-l", "1gbit", "-t", 0, "--codec-speeds", "speeds.json", "tiny.json")[1], "at no rate that was tried")
    for p in 64, 65, 300:
        r = plan(ranks=p, link="1mbit")
        check_model(r, "%d ranks" % p)
        ok(r["ranks_looked_at"] == (64 if p == 64 else 16) and r["least_wire_bytes"] <= r["average_wire_bytes"] <= r["most_wire_bytes"], "bytes of %d ranks" % p, r["least_wire_bytes"], r["average_wire_bytes"])


def rules():
    names = ["h.%d.w" % i for i in range(12)] + ["h.%d.bias" % i for i in range(12)] + ["a|b", "x;y=z", "[q", "sp ace", "back\\", "tail*"]
    layers = [{"name": n, "count": 50000 if i % 2 else 70000, "norm": 1.0 + i % 5 * 20} for i, n in enumerate(names)]
    r = plan(layers=write("names.json", layers), ranks=3)
    ok(r["rules"] and len({y["setting"] for y in r["layers"]}) > 1, "names that rules cannot hold", r["rules_problem"], r["rules"])
    check_sums(r, "many layers, three ranks")
    status, out, err = run("-n", 3, "-l", "1gbit", "-t", "1ms", "--codec-speeds", "speeds.json", "names.json")
    ok(status == 0 and all(n in out for n in names[:24]) and "verdict" in out, "the table", err)
    r = plan(layers=write("twins.json", [{"name": "a|b", "count": 90000}, {"name": "a;b", "count": 90000, "norm": 1e-9}]), link="1mbit")
    ok(r["rules"] is None and "names" in r["rules_problem"], "names that become one", r["rules"], r["rules_problem"])


def names_and_norms():
    base = ["-q", "-n", 2, "-l", "1mbit", "-t", "1ms", "--codec-speeds", "speeds.json"]
    odd = "a\x1b[2Jb\x7fc\u009bd\u202ee\u2067f"
    other = [{"name": odd, "count": 90000, "norm": 1}, {"name": "plain", "count": 90000, "norm": 1e-6}, {"name": "bias", "count": 90000, "norm": 1e3}]
    r = plan(layers=write("odd.json", other), link="1mbit")
    ok(r["compress"] and r["rules"] and r["layers"][0]["name"] == odd, "control characters in names: rules hold", r["rules_problem"], r["verdict"])
    status, out, err = run(*base[1:], "odd.json")
    hidden = [c for c in out + r["rules"] if c in "\x1b\x7f\u009b\u202e\u2067"]
    ok(status == 0 and not hidden and "rules " in out and len({y["setting"] for y in r["layers"]}) > 1, "and do not reach the terminal", hidden, out, err)
    some = write("some.json", [{"name": "a", "count": 9000, "norm": 1}, {"name": "b", "count": 9000}, {"name": "c", "count": 9000}])
    status, out, err = run(*base, some)
    ok(status == 0 and "2 of 3 layers have no norm" in err and "square root" in err, "layers without a norm beside one with", err)
    write("nil.safetensors", safetensors([("zero", "F32", [5000], bytes(20000)), ("none", "F32", [0], b""), ("w", "F32", [5000], struct.pack("<5000f", *range(5000)))]))
    r = plan("--errors", "data", layers="nil.safetensors")
    again = plan(layers=write("nil.json", r))
    ok([y["norm"] for y in again["layers"]] == [y["norm"] for y in r["layers"]] and r["layers"][0]["norm"] == 0, "norms of 0 are read again", again["layers"])
    status, out, err = run(*base, write("keys.json", [{"name": "a", "count": 9000, "nrom": 3}]))
    ok(status == 0 and "'nrom'" in err, "a key that is not known is named", err)
    ok(run(*base, "report.json")[2] == "", "those of a report are known")
    r = plan(layers=write("wide.json", [{"name": "a", "shape": [2, 1 << 32]}]))
    ok(r["layers"][0]["columns"] == 0 and r["layers"][0]["count"] == 1 << 33, "rows of 2^32 values")
    gives(1, "layer 1 has an empty name", *base, write("nameless.safetensors", safetensors([("", "F32", [4], bytes(16))])))
    for words, why in [(["--families", "randk"], "no candidate by default is of 'randk'"), (["--families", ""], "no codec is named"), (["--candidates", ""], "no setting in it"),
                       (["--families", "topk", "--candidates", "onebit+ef"], "none of --candidates is of 'topk'")]:
        gives(2, why, *base, *words, "layers.json")
    for family in "ternary", "topk":
        r = plan("--families", family, "--budget", "onebit+ef")
        ok(any("values=(onebit" in s for s in r["speeds"]) and ("ternary+ef" in r["speeds"]) == (family == "ternary"), "sparse ternaries are of " + family, list(r["speeds"]))
    ok(plan("--families", "none", "--budget", "none")["chosen"]["codec_s"] == 0, "nothing but `none`")
    ok(run(*base, "--json", "new.json", "nosuch.json")[0] == 1 and not os.path.exists("new.json"), "a failed run leaves no report")
    before = open("report.json", "rb").read()
    ok(run(*base, "--json", "report.json", "nosuch.json")[0] == 1 and open("report.json", "rb").read() == before, "and an old one as it was")
    ok(run(*base, "--json", "report.json", "report.json")[0] == 0, "a report may take the place of what was read")
    if os.access("/dev/full", os.W_OK):
        status, out, err = run(*base[1:], "--json", "/dev/full", "layers.json")
        ok(status == 1 and "could not be written" in err and "verdict" in out, "the table is there where the report could not be written", err)


def data():
    left, right = ([rng.gauss(0, 1) for _ in range(256)] for _ in range(2))
    low = struct.pack("<65536f", *(a * b for a in left for b in right))
    noise = struct.pack("<65536f", *(rng.gauss(0, 1) for _ in range(65536)))
    write("g.safetensors", safetensors([("low", "F32", [256, 256], low), ("noise", "F32", [256, 256], noise), ("ids", "I64", [4], bytes(32))]))
    r = plan("--errors", "data", layers="g.safetensors", link="1mbit")
    setting = {y["name"]: y["setting"] for y in r["layers"]}
    ok(setting["low"].startswith("powersgd") and not setting["noise"].startswith("powersgd") and len(setting) == 2, "a matrix of rank 1 is found", setting)
    check_sums(r, "data")
    check_model(r, "data")
    ok(near(r["layers"][0]["norm"], math.sqrt(sum((a * b) ** 2 for a in left for b in right)), 1e-4), "norms are the data's", r["layers"][0])
    drawn = plan(layers="g.safetensors", link="1mbit")
    ok(len(drawn["layers"]) == 2 and near(drawn["layers"][0]["norm"], 256), "without them, shapes alone")
    base = ["-n", 2, "-l", "1gbit", "-t", "1ms", "--codec-speeds", "speeds.json"]
    write("nan.safetensors", safetensors([("w", "F32", [2048], struct.pack("<2048f", *([math.nan] + [1.0] * 2047)))]))
    gives(1, "layer 'w': ", *base, "--errors", "data", "nan.safetensors")
    gives(1, "cut.safetensors", *base, write("cut.safetensors", open("g.safetensors", "rb").read()[:-8]))
    gives(1, "no layer in it has a value", *base, write("ids.safetensors", safetensors([("ids", "I64", [4], bytes(32))])))


def refused():
    base = ["-q", "-n", 2, "-l", "1gbit", "-t", "1ms", "--codec-speeds", "speeds.json"]
    for text, why in [(b"", "line 1"), (b"[", "line 1"), (b"{}", "no array of layers"), (b"[]", "no layer in it has a value"), (b"[1]", "layer 1: it must be an object"),
                      (b'[{"name":"a"}]', "layer 1 'a': it must have a shape or a count"), (b'[{"name":"a","count":-1}]', "layer 1 'a': its count"),
                      (b'[{"name":"a","count":1.5}]', "its count"), (b'[{"name":"a","shape":[1e3]}]', "a dimension is no whole number"),
                      (b'[{"name":"a","shape":[4294967296,4294967296]}]', "more than 2^33 values"), (b'[{"name":"a","count":9000000000}]', "up to 2^33"),
                      (b'[{"name":"a","count":8000000000},{"name":"b","count":8000000000}]', "layer 'b'"), (b'[{"name":"a","count":4,"dtype":"i64"}]', "its dtype"),
                      (b'[{"name":"a","count":4,"dtype":7}]', "its dtype"), (b'[{"name":"a","count":4,"norm":-1}]', "its norm"), (b'[{"name":"a","count":4,"columns":3}]', "its columns"),
                      (b'[{"name":"a","count":4},{"name":"a","count":4}]', "two layers are named 'a'"), (b'[{"name":"a","name":"b","count":4}]', "duplicate"),
                      (b'[{"name":"\xff","count":4}]', "line 1"), (b'[{"name":"a\\u001b[31m","count":-4}]', "'a?[31m'"), (b"[" * 100000, "line 1"),
                      (b'[{"name":"a","shape":' + b"[1]" + b',"count":1}]', "a shape or a count"), (b'[{"name":"a","shape":[' + b"1," * 40 + b"1]}]", "more than 32 dimensions")]:
        gives(1, why, *base, "-", data=text)
    many = json.dumps([{"name": "l%d" % i, "count": 1} for i in range(10001)]).encode()
    gives(1, "more than 10000 layers", *base, "-", data=many)
    gives(1, "cannot be opened", *base, "nosuch.json")
    gives(1, "is not a file", *base, ".")
    gives(1, "no speed of", *base[:-1], write("few.json", {"speeds": {"none": {"encode": 1e9, "decode": 1e9}}}), "layers.json")
    gives(1, "values a second", *base[:-1], write("zero.json", {"speeds": {"none": {"encode": 0, "decode": 1e9}}}), "layers.json")
    gives(1, "cannot be written", *base, "--json", "no/such/folder", "layers.json")
    gives(1, "cannot be written", *base, "--json", "no/such/folder", "nosuch.json")
    for words, why in [([], "which layers"), (["a", "b"], "one list of layers"), (["a"], "--ranks must"), (["-n", "1", "a"], "from 2 to 4096"), (["-n", "2", "a"], "--link must"),
                       (["-n", "2", "-l", "fast", "a"], "--link: \"fast\""), (["-n", "2", "-l", "1gbit", "a"], "--step-time must"), (["-t", "-3ms"], "--step-time: \"-3ms\""),
                       (["-t", "3m"], "--step-time"), (["--overlap", "2"], "--overlap"), (["--goodput", "0"], "--goodput"), (["--cores", "nan"], "--cores"),
                       (["--norm", "l3"], "did you mean \"l2\""), (["--rank"], "--ranks"), (["--small", "x"], "--small"), (["--bucket", "1"], "--bucket")]:
        gives(2, why, *words)
    gives(2, "no .safetensors file", *base, "--errors", "data", "layers.json")
    gives(2, "'tpk' is no codec", *base, "--families", "topk,tpk", "layers.json")
    gives(2, "quant", *base, "--budget", "qant+ef", "layers.json")
    gives(2, "onebit", *base, "--candidates", "quant+ef;onebt", "layers.json")
    ok(run("--help")[0] == 0 and "--codec-speeds" in run("--help")[1], "--help")
    ok(run("--version")[1].startswith("thinwire-plan "), "--version")
    if os.access("/dev/full", os.W_OK):
        with open("/dev/full", "w") as full:
            r = subprocess.run([TOOL, *map(str, base), "--json", "-", "layers.json"], stdout=full, stderr=subprocess.PIPE)
        ok(r.returncode == 1 and b"could not be written" in r.stderr, "a full disk is noticed", r.stderr)


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    if measured():
        for part in bytes_as_sent, choices, against_all_choices, links, verdicts, rules, names_and_norms, data, refused:
            try:
                part()
            except Exception as e:
                ok(False, part.__name__, repr(e))
    os.chdir("/")
print("1..%d" % count)
sys.exit(failed != 0)
