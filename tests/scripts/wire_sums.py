# SPDX-License-Identifier: BSD-3-Clause
"""Native sums after docs/wire-format.md alone: plain values, payloads that add, factors. For wire_format.py."""
import copy
import math
import struct

from wire_gather import folded, folds, keep_lost, store
from wire_lowrank import left_pass, orthogonalise, product, right_pass, settle, start_values
from wire_numbers import FP32, expect, f32, finite, norm, pack, stored, unpack
from wire_plan import ALLREDUCE, AUTO, NATIVE, frames_of, owner, run_bytes
from wire_steps import check_norms
from xxh import xxh64

BITS = 24  # of a word of notes


def is_shorter(run, layers):
    """Fewer bytes between all ranks by one sum of payloads than through owners."""
    frames = [parts for who in range(run.ranks) for parts in frames_of(run, layers, who)]
    payload, runs, peers = sum(run_bytes(run, *part) for parts in frames for part in parts), sum(map(len, frames)), run.ranks - 1
    notes = len(layers) * (2 * -(-run.ranks // BITS) + 3)
    return 2 * peers * (payload + 4 * notes + 128) < peers * (64 * len(frames) + 2 * payload + 20 * runs)


def sums_of(run, layers):
    """NATIVE if an op goes by native sums: one with factors always, others where it is chosen."""
    of = [run.layers[i] for i in layers]
    if run.kind != ALLREDUCE:
        return None
    if any(l.rows for l in of):
        return NATIVE
    if run.algo != AUTO or any(l.dtype != FP32 for l in of):
        return None
    plain_ones = all(l.spec.codec == 1 and not l.reads_e for l in of)
    return NATIVE if plain_ones or (all(l.spec.randk for l in of) and is_shorter(run, layers)) else None


class Sums:
    """The sums of an op, one after another: what each rank put in, compared with what is due; what came of it."""

    def __init__(self, op):
        self.op, self.count = op, 0

    def add(self, due, open_ends=0):
        """due: of each rank bytes. So many values at the end are not compared. Returns the sum, in the order of ranks, and the
        ends that ranks gave."""
        op, total, ends = self.op, None, []
        for r, want in enumerate(due):
            what = "step %d, sum %d of an op, rank %d" % (op.step.number, self.count, r)
            expect(op.run.sums[r], what, "is missing")
            got = op.run.sums[r].pop(0)
            size = len(got) - 4 * open_ends
            expect(size == len(want), what, "has", len(got) // 4, "values; due are", len(want) // 4 + open_ends)
            at = next((k for k in range(0, size, 4) if got[k:k + 4] != want[k:k + 4]), size)
            expect(at == size, what, "differs at value", at // 4, "of", size // 4, got[at:at + 4].hex(), want[at:at + 4].hex())
            values = unpack(got, len(got) // 4, FP32)
            total = values if total is None else [f32(a + b) for a, b in zip(total, values)]
            ends.append(values[size // 4:])
        self.count += 1
        return total, ends

    def agree(self):
        h = xxh64(struct.pack("<3Q", self.op.plan, self.op.step.stamp, self.op.state.epoch))
        digits = [float(h >> 4 * k & 15) for k in range(16)]
        self.add([pack(digits + [v * v for v in digits], FP32)] * self.op.run.ranks)


def plain(op, layers, sums):
    """Where they lie, one layer after another."""
    run = op.run
    for i in layers:
        layer = run.layers[i]
        due = [pack([f32(v * op.step.scale) for v in op.step.inputs[r, i]], FP32) if (r, i) in op.step.inputs else bytes(4 * layer.count)
               for r in range(run.ranks)]
        total, _ = sums.add(due) if layer.count else ([], [])
        for r in range(run.ranks):
            want = pack([f32(v * f32(run.weight)) for v in total], FP32)
            expect(op.step.outputs[r, i] == want, "step", op.step.number, "layer", layer.name, "output of rank", r)


class Note:
    """What a rank tells of a layer."""

    def __init__(self, op, rank, i):
        layer, e = op.run.layers[i], op.state.e[rank, i]
        own = [k for k in range(layer.count) if owner(op.run, layer, k // layer.tile) == rank]
        self.absent, self.bad, self.x, self.lost, self.left = (rank, i) not in op.step.inputs, False, [], [], 0.0
        more = folds(op.run)[0]
        self.fold = norm(e[k] * more for k in own) if more > 1 and layer.reads_e and not self.absent else 0.0
        if self.absent:
            self.keep(op, rank, i)

    def keep(self, op, rank, i):
        """Nothing is sent of it; what is held stays and counts."""
        more, layer, self.fold = folds(op.run)[0], op.run.layers[i], 0.0
        self.x, self.lost = [], [v * (more if owner(op.run, layer, k // layer.tile) == rank else 1.0) for k, v in enumerate(op.state.e[rank, i])]

    def check(self, op, rank, given, ranks, *what):
        words = -(-ranks // BITS)
        for k, is_set in enumerate((self.bad, self.absent)):
            want = [0.0] * words
            want[rank // BITS] = 2.0 ** (rank % BITS) if is_set else 0.0
            expect(given[k * words:(k + 1) * words] == want, *what, "words of NaN and absence", given)
        held = norm(self.lost)
        check_norms(given[2 * words:2 * words + 2], (held, norm(self.x) + held + self.fold + self.left), *what)
        expect(given[-1] == 0, *what, "errors of ops by owners", given[-1])


def values_of(op, flat, layers, rank, notes):
    """The payloads of layers that do not go as factors."""
    payload = b""
    for who in range(flat.ranks):
        for parts in frames_of(flat, layers, who):
            for i, first, n in parts:
                payload += run_of(op, flat, rank, (i, first, n), notes[rank, i])
    return payload


def run_of(op, flat, rank, part, note):
    i, first, n = part
    layer, payload = flat.layers[i], b""
    x = [] if note.absent else folded(op, rank, i)
    for t in range(first, first + n):
        if note.absent:
            payload += bytes(layer.spec.bytes(layer.length(t), FP32))
            continue
        draw, values = op.draw(i, rank, 1, t), x[layer.at(t)]
        raw = layer.spec.encode(values, FP32, draw)
        decoded = layer.spec.decode(raw, len(values), FP32, draw)
        payload += raw
        if not finite(values + decoded):
            note.bad = True
            continue
        lost = [f32(a - b) for a, b in zip(values, decoded)]
        note.x += values
        note.lost += lost
        keep_lost(op, rank, i, t, lost)
    return payload


def settle_values(op, flat, layers, total):
    place, weight = 0, f32(op.run.weight)
    for who in range(flat.ranks):
        for parts in frames_of(flat, layers, who):
            for i, first, n in parts:
                for t in range(first, first + n):
                    spec, length = flat.layers[i].spec, flat.layers[i].length(t)
                    m = spec.bytes(length, FP32) // 4
                    gain = f32(length / m) if spec.randk and spec.randk.unbiased else 1.0
                    v = [f32(f32(s * weight) * gain) for s in total[place:place + m]]
                    place += m
                    if not op.here(i):
                        continue
                    bad = not finite([stored(y, op.run.layers[i].dtype) for y in v])
                    v = [math.nan] * m if bad and spec.ef else v
                    store(op, i, who, t, spec.decode(pack(v, FP32), length, FP32, op.draw(i, who, 1, t)), bad)


class Matrix:
    """One on its way: L and R, the same on all ranks; x and L of each rank."""

    def __init__(self, op, i):
        self.op, self.i, self.layer = op, i, op.run.layers[i]
        low = self.layer.spec.lowrank
        self.rank, self.iterations, self.rows, self.cols = low.rank, low.iterations, self.layer.rows, self.layer.cols
        self.fresh = start_values(self.rows * self.rank, self.layer.spec.more[3], op.step.number, self.layer.key)
        left = op.state.left.get(i) if low.warm_start else None
        self.left, self.broken = left or self.fresh, False
        self.x = {r: folded(op, r, i) for r in op.here(i)}

    def begin(self):
        """A round."""
        self.broken = self.broken or not finite(self.left)
        self.left = settle(self.left, self.rank, self.fresh)

    def right_of(self, r):
        if self.broken or r not in self.x:
            return [0.0] * (self.rank * self.cols)
        return right_pass(self.x[r], self.left, self.rank, self.cols)

    def take_right(self, values):
        self.broken = self.broken or not finite(values)
        self.right = [0.0] * len(values) if self.broken else orthogonalise(values, self.rank, self.cols)

    def left_of(self, r):
        if self.broken or r not in self.x:
            return [0.0] * (self.rank * self.rows)
        return left_pass(self.x[r], self.right, self.rank, self.cols)

    def lose(self, r, left, note):
        """In the last round: what a rank keeps."""
        if r not in self.x:
            return
        if self.broken:
            note.keep(self.op, r, self.i)
            return
        lost = [f32(a - b) for a, b in zip(self.x[r], product(left, self.right, self.rank, self.cols))]
        ranks = self.op.run.ranks
        note.x, note.lost = self.x[r], lost
        note.left = norm(left) * (1 + 3 * self.rank * math.sqrt(self.rank) / (ranks + 4))
        for t in range(self.layer.tiles):
            keep_lost(self.op, r, self.i, t, lost[self.layer.at(t)])

    def finish(self, any_bad):
        if not self.x:
            return
        mean = [f32(v * f32(self.op.run.weight)) for v in self.left]
        out = product(mean, self.right, self.rank, self.cols)
        bad = any_bad or self.broken or not finite(mean) or not finite([stored(v, self.layer.dtype) for v in out])
        for t in range(self.layer.tiles):
            values = out[self.layer.at(t)]
            store(self.op, self.i, owner(self.op.run, self.layer, t), t, [math.nan] * len(values) if bad else values, bad)
        if not bad:
            self.op.state.left[self.i] = mean


def take_factors(matrices, total, at, sizes):
    for m, size in zip(matrices, sizes):
        yield m, total[at:at + size]
        at += size


def one_round(op, sums, matrices, payloads, notes, flat_layers):
    """Sums 2i and 2i + 1. payloads, notes: of the first and the last one, else None. Returns the summed payloads."""
    ranks = range(op.run.ranks)
    for m in matrices:
        m.begin()
    mine = {r: [m.right_of(r) for m in matrices] for r in ranks}
    for r in ranks:
        for m, right in zip(matrices, mine[r]):
            m.seen = getattr(m, "seen", set()) | ({r} if not finite(right) else set())
    first = payloads or {r: b"" for r in ranks}
    total, _ = sums.add([first[r] + b"".join(pack(v, FP32) for v in mine[r]) for r in ranks])
    flat = total[:len(first[0]) // 4]
    for m, values in take_factors(matrices, total, len(flat), [m.rank * m.cols for m in matrices]):
        m.take_right(values)
    lefts = {r: [m.left_of(r) for m in matrices] for r in ranks}
    open_ends = 0
    if notes:
        for r in ranks:
            for m, left in zip(matrices, lefts[r]):
                m.lose(r, left, notes[r, m.i])
                notes[r, m.i].bad = r in m.seen
        open_ends = len(flat_layers) * (2 * -(-op.run.ranks // BITS) + 3)
    total, ends = sums.add([b"".join(pack(v, FP32) for v in lefts[r]) for r in ranks], open_ends)
    for m, values in take_factors(matrices, total, 0, [m.rank * m.rows for m in matrices]):
        m.left = values
    if notes:
        check_notes(op, flat_layers, notes, ends)
    return flat


def check_notes(op, layers, notes, ends):
    """ends: what ranks gave of all layers, in the op's order."""
    for r, end in enumerate(ends):
        each = len(end) // len(layers)
        for k, i in enumerate(layers):
            notes[r, i].check(op, r, end[k * each:(k + 1) * each], op.run.ranks, "step", op.step.number, "notes of rank", r,
                              "on layer", op.run.layers[i].name)


def by_sums(op, layers):
    """An op."""
    run, sums = op.run, Sums(op)
    sums.agree()
    if all(run.layers[i].spec.codec == 1 for i in layers):
        plain(op, layers, sums)
        return
    flat = run.like(layers=[copy.copy(l) for l in run.layers])
    for layer in flat.layers:
        layer.dtype = FP32  # halves, too, are summed so
    values = [i for i in layers if not run.layers[i].rows]
    notes = {(r, i): Note(op, r, i) for r in range(run.ranks) for i in layers}
    payloads = {r: values_of(op, flat, values, r, notes) for r in range(run.ranks)}
    matrices = sorted((Matrix(op, i) for i in layers if run.layers[i].rows), key=lambda m: -m.iterations)
    if not matrices:
        total, ends = sums.add(list(payloads.values()), len(layers) * (2 * -(-run.ranks // BITS) + 3))
        check_notes(op, layers, notes, ends)
    rounds = max([m.iterations for m in matrices], default=0)
    for i in range(rounds):
        part = [m for m in matrices if m.iterations >= rounds - i]
        flat_sum = one_round(op, sums, part, None if i else payloads, notes if i + 1 == rounds else None, layers)
        total = total if i else flat_sum
    settle_values(op, flat, values, total)
    for m in matrices:
        m.finish(any(notes[r, m.i].bad for r in range(run.ranks)))
