# SPDX-License-Identifier: BSD-3-Clause
"""What ranks send of sparse layers, after docs/wire-format.md alone: for wire_format.py."""
import math
import struct

from wire_numbers import Difference, expect, f32, finite, norm, stored
from wire_plan import BROADCAST, SCATTER, owner
from wire_steps import ABSENT, check_answers, check_norms, peek, prepared, receive, seal, take


class Sparse:
    """What a layer of an op keeps: of what a rank sends to others (hop 1), or of an owner's sums (hop 2)."""

    def __init__(self, op, i, x, tiles, flagged, rank, hop):
        self.op, self.i, self.layer, self.x, self.flagged = op, i, op.run.layers[i], x, set(flagged)
        tiles = {t: (self.layer.at(t).start, self.layer.at(t).stop) for t in tiles}
        self.kept = self.layer.spec.topk.choose(x, tiles, self.flagged)
        self.stored = (lambda v: stored(v, self.layer.dtype)) if hop == 2 else (lambda v: v)
        self.draw = lambda at: op.draw(i, rank, hop, at)

    def read(self, raw, at, first, n):
        """The run at raw[at:]: its end, values by position, flagged tiles, norms of x and of what is left of it; what is left
        of each tile."""
        before = set(self.flagged)
        try:
            end, decoded = self.layer.spec.topk.read_run(raw, at, (first, n, self.op.run.tile, self.layer.count), self.x, self.kept,
                                                         self.flagged, self.stored, self.draw)
        except ValueError as why:
            raise Difference("layer %s: %s" % (self.layer.name, why))
        bad, parts, lost, rest = [t for t in range(first, first + n) if t in self.flagged], [], [], {}
        for t in range(first, first + n):
            at = range(self.layer.at(t).start, self.layer.at(t).stop)
            if t not in before:
                parts += [self.x[k] for k in at]  # a tile that overflowed counts: its norms are at least the true ones
            if t not in bad:
                rest[t] = [f32(self.x[k] - decoded.get(k, 0.0)) for k in at]
                lost += rest[t]
        return end, decoded, bad, norm(parts), norm(lost), rest


def sparse_of_rank(op, rank, i):
    layer, g = op.run.layers[i], op.step.inputs.get((rank, i))
    if g is None:
        return None
    tiles = [t for t in range(layer.tiles) if owner(op.run, layer, t) != rank]
    x = prepared(g, op.step.scale, op.state.e[rank, i], layer.reads_e)
    return Sparse(op, i, x, tiles, [t for t in tiles if not finite(x[layer.at(t)])], rank, 1)


def sparse_of_owner(op, who, i, sums, flagged):
    """Of a reduce-scatter nothing is left out."""
    layer, who = op.run.layers[i], op.run.source(who)
    tiles = [t for t in range(layer.tiles) if op.run.kind == BROADCAST or owner(op.run, layer, t) == who]
    x = prepared(sums, f32(op.run.weight), op.state.e[who, i], layer.reads_e)
    g = op.step.inputs.get((who, i))
    bad = {t for t in tiles if t in flagged or not finite(x[layer.at(t)]) or (g and not finite(g[layer.at(t)]))}
    if op.run.kind == SCATTER:
        return Home(op, i, x, bad)
    for t in bad:
        x[layer.at(t)] = [0.0] * layer.length(t)
    return Sparse(op, i, x, tiles, bad, who, 2)


class Home:
    """Sums that stay at home: rounded, not encoded. As Sparse has it, but that nothing is read."""

    def __init__(self, op, i, x, bad):
        self.layer, self.x, self.bad = op.run.layers[i], x, bad
        self.y = [stored(v, self.layer.dtype) for v in x]

    def read(self, raw, at, first, n):
        bad = [t for t in range(first, first + n) if t in self.bad or not finite(self.y[self.layer.at(t)])]
        rest = {t: [f32(a - b) for a, b in zip(self.x[self.layer.at(t)], self.y[self.layer.at(t)])]
                for t in range(first, first + n) if t not in bad}
        return at, dict(enumerate(self.y)), bad, 0, 0, rest


def add_own(op, who, parts, sums, blame):
    for k, (i, first, n) in enumerate(parts):
        layer = op.run.layers[i]
        for t in range(first, first + n) if (who, i) in op.step.inputs else ():
            g = op.step.inputs[who, i]
            blame[k] |= set() if finite(g[layer.at(t)]) else {who}
            for v in range(layer.at(t).start, layer.at(t).stop):
                sums[i][v] = f32(sums[i][v] + f32(g[v] * op.step.scale))


def sparse_hop1(op, who, index, parts, picks):
    """One frame of each rank; adds to the owner's sums, in the order of ranks."""
    blame, run = [set() for _ in parts], op.run
    for r in [run.source(who)] if run.alone else range(run.ranks):
        if run.alone or r == who:
            add_own(op, r, parts, picks.sums, blame)
            continue
        what, at, trailers = "step %d, hop 1, rank %d to %d, frame %d" % (op.step.number, r, who, index), 32, b""
        got = peek(op, r, who, 1, what)
        for k, (i, first, n) in enumerate(parts):
            layer, one = run.layers[i], picks.ranks[i][r]
            if one is None:
                flags, norms = 2, (0.0, norm(op.state.e[r, i][layer.span(first, n)]))
            else:
                at, decoded, bad, x_norm, e_norm, rest = one.read(got, at, first, n)
                flags, norms = 1 if bad else 0, (x_norm, e_norm)
                for t, e in rest.items():
                    op.fresh[r, i][layer.at(t)] = [layer.spec.ef.keeps(v) for v in e]
                op.state.clear(r, i, decoded)
                for v, y in decoded.items():
                    picks.sums[i][v] = f32(picks.sums[i][v] + y)
                picks.flagged[i] |= set(bad)
                blame[k] |= {r} if bad else set()
            given = struct.unpack_from("<ff", got, len(got) - 12 * (len(parts) - k) + 4)
            check_norms(given, norms, what, "run", k)
            trailers += struct.pack("<Iff", flags, *given)
        take(op, r, who, 1, lambda _: seal(op, 1, index, got[32:at] + trailers), what)
    return blame


def sparse_hop2(op, who, index, parts, picks, blame):
    run, at, codes, bits = op.run, 32, [], b""
    source = run.source(who)
    first_to = who if run.kind == BROADCAST else next((r for r in range(run.ranks) if r != who), who)
    got = b"" if run.kind == SCATTER else peek(op, source, first_to, 2, "hop 2, rank %d, frame %d" % (source, index))
    for (i, first, n), bad_ranks in zip(parts, blame):
        layer = run.layers[i]
        if not [r for r in op.here(i) if not run.alone or r == source]:
            codes.append(ABSENT)
            continue
        at, decoded, bad, _, _, rest = picks.owner[i].read(got, at, first, n)
        codes.append(1 + min(bad_ranks or {source}) if bad else 0)
        bits += sum(1 << t - first for t in bad).to_bytes(4 * -(-n // 32), "little")
        for t, e in rest.items():
            op.fresh[source, i][layer.at(t)] = [layer.spec.ef.keeps(v) for v in e]
        values = {t: [math.nan if t in bad else decoded.get(v, 0.0) for v in range(layer.at(t).start, layer.at(t).stop)]
                  for t in range(first, first + n)}
        receive(op, who, (i, first, n), values.get)
    check_answers(op, who, index, parts, codes, bits if run.kind == SCATTER else got[32:at])


class Picks:
    """What is kept of an op's sparse layers: by ranks, and by an owner of its sums."""

    def __init__(self, op, layers):
        sparse = [i for i in layers if op.run.layers[i].spec.topk]
        ranks = [] if op.run.alone else range(op.run.ranks)
        self.op, self.ranks = op, {i: [sparse_of_rank(op, r, i) for r in ranks] for i in sparse}
        self.sums = {i: [0.0] * op.run.layers[i].count for i in sparse}
        self.flagged, self.owner = {i: set() for i in sparse}, {}

    def choose(self, who):
        self.owner = {i: sparse_of_owner(self.op, who, i, self.sums[i], self.flagged[i]) for i in self.sums}
