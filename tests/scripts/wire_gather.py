# SPDX-License-Identifier: BSD-3-Clause
"""Gathers after docs/wire-format.md alone: for wire_format.py."""
import math
import struct

from wire_numbers import FP32, expect, f32, finite, norm, pack, stored
from wire_plan import AVERAGE, frames_of, is_sparse, owner
from wire_sparse import Sparse
from wire_steps import add_up, check_norms, peek, seal, take


def folds(run):
    """How much larger the owner's residual goes in, and what takes it back."""
    return (float(run.ranks), f32(1 / run.ranks)) if run.redop == AVERAGE else (1.0, 1.0)


def folded(op, rank, i):
    """What a rank sends of a layer, all tiles."""
    layer, e, g = op.run.layers[i], op.state.e[rank, i], op.step.inputs[rank, i]
    more, out = folds(op.run)[0], []
    for t in range(layer.tiles):
        mine = owner(op.run, layer, t) == rank
        for k in range(layer.at(t).start, layer.at(t).stop):
            x = f32(g[k] * op.step.scale)
            out.append(f32(x + (f32(e[k] * more) if mine else e[k])) if layer.reads_e else x)
    return out


def keep_lost(op, rank, i, t, lost):
    """lost: x - decoded. In tiles of one's own it becomes an owner's residual again."""
    layer = op.run.layers[i]
    back = f32(layer.spec.ef.beta / folds(op.run)[0]) if owner(op.run, layer, t) == rank else layer.spec.ef.beta
    op.fresh[rank, i][layer.at(t)] = [f32(v * back) if layer.spec.ef else 0.0 for v in lost]


def ledger(op, i, at):
    """How far outputs so far are from exact ones, but for what is held: a lower bound of the errors so far."""
    run, gaps = op.run, []
    for k in range(at.start, at.stop):
        own = owner(run, run.layers[i], k // run.tile)
        held = math.fsum(op.state.e[r, i][k] * (1 if r == own else run.weight) for r in range(run.ranks))
        gaps.append(op.state.applied[i][k] - op.state.exact[i][k] + held)
    return norm(gaps)


def tiled_run(op, rank, part):
    """Payload, flags, norms of x and of what is lost, and values by tile, of tiles that are finite or not."""
    i, first, n = part
    layer, x, payload, flags, kept, lost, decoded = op.run.layers[i], folded(op, rank, i), b"", 0, [], [], {}
    for t in range(first, first + n):
        draw, values = op.draw(i, rank, 1, t), x[layer.at(t)]
        raw = layer.spec.encode(values, layer.dtype, draw)
        decoded[t] = layer.spec.decode(raw, len(values), layer.dtype, draw)
        payload += raw
        if not finite(values + decoded[t]):
            flags = 1
            continue
        rest = [f32(a - b) for a, b in zip(values, decoded[t])]
        kept += values
        lost += rest
        keep_lost(op, rank, i, t, rest)
    return payload, flags, norm(kept), norm(lost), decoded


def sparse_run(op, rank, part, got, at, pick):
    """The same of spans; where they end; and the flagged tiles. Values by position."""
    i, first, n = part
    end, decoded, bad, kept, lost, rest = pick.read(got, at, first, n)
    for t, e in rest.items():
        keep_lost(op, rank, i, t, e)
    return end, 1 if bad else 0, kept, lost, decoded, bad


class Sum:
    """What has come of a run, in the order of ranks."""

    def __init__(self, layer, part):
        self.layer, self.part, self.total, self.flagged, self.begun = layer, part, {}, set(), False
        self.places = layer.span(part[1], part[2])

    def add_tiles(self, decoded):
        for t, values in decoded.items():
            for k, v in zip(range(self.layer.at(t).start, self.layer.at(t).stop), values):
                self.total[k] = f32(self.total[k] + v) if self.begun else v
        self.begun = True

    def add_spans(self, decoded, bad):
        if not self.begun:
            self.total, self.begun = dict.fromkeys(range(self.places.start, self.places.stop), 0.0), True
        for k, v in decoded.items():
            self.total[k] = f32(self.total[k] + v)
        self.flagged |= set(bad)


def one_frame(op, rank, who, index, parts, picks, sums):
    """A rank's frame to all others, compared; adds to the sums."""
    run, trailers, payload, at = op.run, b"", b"", 32
    what = "step %d, gather, rank %d, frame %d" % (op.step.number, rank, index)
    others = [r for r in range(run.ranks) if r != rank]
    got = peek(op, rank, others[0], 1, what)
    for k, (part, total) in enumerate(zip(parts, sums)):
        i, first, n = part
        layer, place, more = run.layers[i], run.layers[i].span(first, n), folds(run)[0] if who == rank else 1.0
        old, flags, norms = norm(op.state.e[rank, i][place]), 2, (0.0, 0.0)
        if (rank, i) not in op.step.inputs:
            norms = 0.0, old * more
        elif layer.spec.topk:
            at, flags, x, e, decoded, bad = sparse_run(op, rank, part, got, at, picks[i][rank])
            op.state.clear(rank, i, decoded)
            total.add_spans(decoded, bad)
        else:
            raw, flags, x, e, decoded = tiled_run(op, rank, part)
            payload += raw
            total.add_tiles(decoded)
        if flags != 2:
            norms = x + (old * more if more > 1 and layer.reads_e else 0.0), e
        *given, before = struct.unpack_from("<fff", got, len(got) - 16 * (len(parts) - k) + 4)
        check_norms(given, norms, what, "run", k)
        least = ledger(op, i, place) if rank == who else 0.0
        expect(least <= before * (1 + 1e-9) if rank == who else before == 0, what, "run", k, "errors so far", before, least)
        trailers += struct.pack("<Ifff", flags, *given, before)
    body = (got[32:at] if is_sparse(run, parts) else payload) + trailers
    for r in others:
        take(op, rank, r, 1, lambda _: seal(op, 1, index, body), what)


def store(op, i, who, t, values, bad):
    """A tile's results: outputs of all ranks, and what of them the dtype cannot hold, which stays with `who`."""
    run, layer, width = op.run, op.run.layers[i], 4 if op.run.layers[i].dtype == FP32 else 2
    at, kept = layer.at(t), [stored(v, layer.dtype) for v in values]
    for r in range(run.ranks):
        got = op.step.outputs[r, i][width * at.start:width * at.stop]
        expect(got == pack(kept, layer.dtype), "step", op.step.number, "layer", layer.name, "tile", t, "output of rank", r)
        if bad:
            op.fresh[r, i][at] = op.state.e[r, i][at]
            op.state.keep(r, i, at)
    if bad:
        return
    if layer.spec.ef and layer.dtype != FP32:
        op.fresh[who, i][at] = [f32(e + f32(a - b)) for e, a, b in zip(op.fresh[who, i][at], values, kept)]
    add_up(op, i, who, at, kept)


def finish(op, who, total):
    """The results of a run."""
    i, first, n = total.part
    run, layer = op.run, total.layer
    for t in range(first, first + n) if total.begun else ():
        at = layer.at(t)
        values = [f32(total.total[k] * f32(run.weight)) for k in range(at.start, at.stop)]
        bad = t in total.flagged or not finite([stored(v, layer.dtype) for v in values])
        store(op, i, who, t, [math.nan] * len(values) if bad and (layer.spec.ef or layer.spec.topk) else values, bad)


def gather(op, layers):
    """An op of these layers."""
    run, index, picks = op.run, 0, {}
    for i in layers:
        if run.layers[i].spec.topk:
            tiles = list(range(run.layers[i].tiles))
            x = {r: folded(op, r, i) for r in op.here(i)}
            picks[i] = {r: Sparse(op, i, x[r], tiles, [t for t in tiles if not finite(x[r][run.layers[i].at(t)])], r, 1) for r in x}
    for who in range(run.ranks):
        for parts in frames_of(run, layers, who):
            sums = [Sum(run.layers[part[0]], part) for part in parts]
            for r in range(run.ranks):
                one_frame(op, r, who, index, parts, picks, sums)
            for total in sums:
                finish(op, who, total)
            index += 1
