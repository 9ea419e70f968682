# SPDX-License-Identifier: BSD-3-Clause
"""What ranks send of layers with a fixed rate, and what comes of it, after docs/wire-format.md alone: for wire_format.py."""
import math
import struct
from collections import defaultdict

from wire_numbers import FP32, SLACK, Difference, expect, f32, finite, norm, pack, stored
from wire_plan import ALLREDUCE, BROADCAST, SCATTER, VERSION
from wire_codec import Spec
from xxh import xxh3

MAGIC, ABSENT = 0x57495754, 0x80000000
PLAIN = Spec("none")


class State:
    """Residuals of each rank, and for the certificate what was applied and what would have been exact."""

    def __init__(self, run):
        self.e = {(r, i): [0.0] * l.count for r in range(run.ranks) for i, l in enumerate(run.layers)}
        self.applied = [[0.0] * l.count for l in run.layers]
        self.exact = [[0.0] * l.count for l in run.layers]
        self.left = {}  # of matrices: what the next step begins with
        self.u, self.moved = {}, {}  # dgc: momentum before and after this step
        self.epoch = 0

    def move(self, run, step):
        """Momentum, in the place of inputs."""
        self.moved = {}
        for i, layer in enumerate(run.layers):
            for r in range(run.ranks) if layer.spec.ef.momentum else ():
                u, g = self.u.get((r, i)), step.inputs.get((r, i))
                if g is None:
                    self.moved[r, i] = list(u or [0.0] * layer.count)
                    continue
                g = [f32(v * step.scale) for v in g]
                self.moved[r, i] = [f32(f32(a * layer.spec.ef.momentum) + b) for a, b in zip(u, g)] if u else g
                step.inputs[r, i] = [v / step.scale for v in self.moved[r, i]]

    def clear(self, rank, i, sent):
        """sent: decoded values by position."""
        for k, v in sent.items() if (rank, i) in self.moved else ():
            if v != 0:
                self.moved[rank, i][k] = 0.0

    def keep(self, rank, i, at):
        if (rank, i) in self.moved:
            self.moved[rank, i][at] = self.u[rank, i][at] if (rank, i) in self.u else [0.0] * (at.stop - at.start)


class Op:
    """One op under way: what its frames have in common. fresh: residuals as they become."""

    def __init__(self, run, state, fresh, step, tag, plan):
        self.run, self.state, self.fresh, self.step, self.tag, self.plan = run, state, fresh, step, tag, plan

    def draw(self, i, rank, hop, t):
        part = hop == 1 and self.run.kind == ALLREDUCE and self.run.algo != 4  # a sum that is encoded once more, or by itself
        return self.run.layers[i].key, self.step.number, rank, hop, t, part

    def here(self, i):
        return [r for r in range(self.run.ranks) if (r, i) in self.step.inputs]


def prepared(values, scale, e, ef):
    scaled = [f32(v * scale) for v in values]
    return [f32(a + b) for a, b in zip(scaled, e)] if ef else scaled


def hop1_run(op, rank, part):
    """Payload and trailer values of a run on its way to the owner."""
    i, first, n = part
    state, layer, payload, parts, lost, flags = op.state, op.run.layers[i], b"", [], [], 0
    g = op.step.inputs.get((rank, i))
    for t in range(first, first + n):
        at = layer.at(t)
        if g is None:
            lost += state.e[rank, i][at]
            continue
        x = prepared(g[at], op.step.scale, state.e[rank, i][at], layer.reads_e)
        draw = op.draw(i, rank, 1, t)
        raw = layer.spec.encode(x, layer.dtype, draw)
        decoded = layer.spec.decode(raw, len(x), layer.dtype, draw)
        payload += raw
        if not finite(x + decoded):
            flags |= 1
            continue
        e = [f32(a - b) for a, b in zip(x, decoded)]
        parts += x
        lost += e
        op.fresh[rank, i][at] = [layer.spec.ef.keeps(v) for v in e]
    return payload, flags | (2 if g is None else 0), norm(parts), norm(lost)


def hop2_run(op, who, part, sent):
    """Payload and code of the owner's answer, and its values by tile. sent: rank -> (payload, flags) of hop 1."""
    i, first, n = part
    run, layer, payload, used, values_of = op.run, op.run.layers[i], b"", defaultdict(int), {}
    who = run.source(who)
    here = [who] if run.alone and (who, i) in op.step.inputs else [] if run.alone else op.here(i)
    bad, nan_tiles = [r for r in here if r != who and sent[r][1] & 1], 0
    spec = PLAIN if run.kind == SCATTER else layer.spec
    if not here:
        return b"", ABSENT, {}
    for t in range(first, first + n):
        at, length, total = layer.at(t), layer.length(t), None
        for r in here:
            if r == who:
                values = [f32(v * op.step.scale) for v in op.step.inputs[r, i][at]]
                bad += [] if finite(values) else [r]
            else:
                values = layer.spec.decode(sent[r][0][used[r]:], length, layer.dtype, op.draw(i, r, 1, t))
                used[r] += layer.spec.bytes(length, layer.dtype)
            total = values if total is None else [f32(a + b) for a, b in zip(total, values)]
        x = prepared(total, f32(run.weight), op.state.e[who, i][at], layer.reads_e)
        draw = op.draw(i, who, 2, t)
        raw = spec.encode(x, layer.dtype, draw)
        kept = [stored(v, layer.dtype) for v in spec.decode(raw, length, layer.dtype, draw)]
        if not finite(x + kept):
            bad += [] if bad else [who]
            nan_tiles |= 1 << t - first
            if layer.reads_e:
                raw = spec.encode([math.nan] * length, layer.dtype, draw)
        else:
            op.fresh[who, i][at] = [layer.spec.ef.keeps(f32(a - b)) for a, b in zip(x, kept)]
        payload += raw
        values_of[t] = spec.decode(raw, length, layer.dtype, draw)
    if run.kind == SCATTER:
        payload = nan_tiles.to_bytes(4 * -(-n // 32), "little")
    return payload, 1 + min(bad) if bad else 0, values_of


def receive(op, who, part, decoded_of):
    """All ranks decode the answer; of a reduce-scatter its owner alone."""
    i, first, n = part
    run, step, layer = op.run, op.step, op.run.layers[i]
    width = 4 if layer.dtype == FP32 else 2
    for t in range(first, first + n):
        at, decoded = layer.at(t), decoded_of(t)
        values = [stored(v, layer.dtype) for v in decoded]
        for r in [who] if run.kind == SCATTER else range(run.ranks):
            got = step.outputs[r, i][width * at.start:width * at.stop]
            expect(got == pack(values, layer.dtype), "step", step.number, "layer", layer.name, "tile", t, "output of rank", r)
        for r in range(run.ranks):
            if not finite(decoded):
                op.fresh[r, i][at] = op.state.e[r, i][at]
                op.state.keep(r, i, at)
        if finite(values):  # else the certificate leaves this step out here
            add_up(op, i, who, at, values)


def add_up(op, i, who, at, values):
    here = [op.run.source(who)] if op.run.alone else op.here(i)
    for k, v in zip(range(at.start, at.stop), values):
        op.state.applied[i][k] += v
        op.state.exact[i][k] += op.step.scale * op.run.weight * math.fsum(op.step.inputs[r, i][k] for r in here)


# ---- frames ----
def seal(op, hop, index, body):
    head = struct.pack("<IBBBBQIII", MAGIC, VERSION, 0, hop, op.state.epoch, op.plan, op.step.stamp, index, 32 + len(body))
    return head + struct.pack("<I", xxh3(body, xxh3(head) & 0xFFFFFFFF) & 0xFFFFFFFF) + body


def peek(op, source, to, hop, what):
    stream = op.run.streams[source, to, op.tag + hop - 1]
    expect(stream, "no frame is left:", what)
    return stream[0]


def take(op, source, to, hop, build, what):
    """The next frame of a stream, compared with build(its trailers' bytes)."""
    got = peek(op, source, to, hop, what)
    op.run.streams[source, to, op.tag + hop - 1].pop(0)
    want = build(got)
    if got != want:
        at = next((k for k, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
        raise Difference("%s: %d bytes, expected %d; first difference at byte %d" % (what, len(got), len(want), at))


def check_norms(given, true, *what):
    expect(all(t * (1 - 1e-12) <= v <= t * SLACK + 1e-30 for v, t in zip(given, true)), *what, "norms", given, true)


def check_hop1(op, who, index, parts):
    sent = defaultdict(dict)
    for r in range(op.run.ranks):
        if r == who:
            continue
        made = [hop1_run(op, r, p) for p in parts]
        what = "step %d, hop 1, rank %d to %d, frame %d" % (op.step.number, r, who, index)

        def build(got):
            trailers = b""
            for k, (_, flags, x, e) in enumerate(made):
                given = struct.unpack_from("<ff", got, len(got) - 12 * (len(made) - k) + 4)
                check_norms(given, (x, e), what, "run", k)
                trailers += struct.pack("<Iff", flags, *given)
            return seal(op, 1, index, b"".join(m[0] for m in made) + trailers)

        take(op, r, who, 1, build, what)
        for k, m in enumerate(made):
            sent[k][r] = m[:2]
    return sent


def check_hop2(op, who, index, parts, sent):
    made = [hop2_run(op, who, p, sent[k]) for k, p in enumerate(parts)]
    for part, (_, code, values) in zip(parts, made):
        if code != ABSENT:
            receive(op, who, part, values.get)
    check_answers(op, who, index, parts, [m[1] for m in made], b"".join(m[0] for m in made))


def check_answers(op, who, index, parts, codes, payload):
    """The owner's frame to each rank; of a broadcast the root's to the relay, and the relay's to the others."""
    run, state = op.run, op.state
    if run.kind == SCATTER and not run.told:
        return
    source = run.source(who)
    for r in [who] if run.kind == BROADCAST else [r for r in range(run.ranks) if r != who]:
        what = "step %d, hop 2, rank %d to %d, frame %d" % (op.step.number, source, r, index)

        def build(got):
            trailers = b""
            for k, (i, first, n) in enumerate(parts):
                bound = struct.unpack_from("<f", got, len(got) - 8 * (len(parts) - k) + 4)[0]
                at = run.layers[i].span(first, n)
                error = norm(a - b for a, b in zip(state.applied[i][at], state.exact[i][at]))
                expect(error <= bound, what, "run", k, "is off by", error, "and certified", bound)
                trailers += struct.pack("<If", codes[k], bound)
            return seal(op, 2, index, payload + trailers)

        first_sent = peek(op, source, r, 2, what)
        take(op, source, r, 2, build, what)
    for r in range(run.ranks):
        if run.kind == BROADCAST and r not in (who, source):
            take(op, who, r, 2, lambda _: first_sent, "hop 2, relay %d to %d, frame %d" % (who, r, index))


def check_poison(raw):
    magic, version, flags, hop, epoch, plan, step, index, length, check = struct.unpack_from("<IBBBBQIIII", raw)
    expect((magic, version, flags, hop, epoch, plan, step, index, length) == (MAGIC, VERSION, 1, 0, 0, 0, 0, 0, len(raw)), "poison header")
    expect(check == xxh3(raw[32:], xxh3(raw[:28]) & 0xFFFFFFFF) & 0xFFFFFFFF, "poison check word")
    expect(struct.unpack_from("<i", raw, 32)[0] < 0 and 0 in raw[36:], "poison status and sentence")
