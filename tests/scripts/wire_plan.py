# SPDX-License-Identifier: BSD-3-Clause
"""Runs as they were dumped, and their plans, after docs/wire-format.md alone: for wire_format.py."""
import copy
import struct
from collections import defaultdict

from wire_codec import Spec
from wire_numbers import FP32, unpack
from xxh import xxh64

VERSION, AVERAGE = 1, 2
AUTO, NATIVE, SRA, GATHER = 1, 2, 3, 4  # algorithms; AUTO: it is chosen, and there are native sums
ALLREDUCE, SCATTER, ALLGATHER, BROADCAST = range(4)  # kinds of ops
NAMES = [b"tw_allreduce", b"tw_reduce_scatter", b"tw_allgather", b"tw_broadcast"]
FRAME_BYTES = 57344  # where no slow link was measured


# ---- what was dumped ----
class Layer:
    def __init__(self, name, dtype, count, tile, columns=0, pinned=0, shard=0, block=0):
        self.name, self.dtype, self.count, self.tile = name, dtype, count, tile
        self.columns, self.pinned, self.shard = columns, pinned, shard  # pinned: 1 + the rank, or 0; shard: tiles, or 0
        self.tiles = -(-count // tile)
        self.key = xxh64(name, block)  # what random numbers depend on
        self.spec, self.held = None, False  # held: the last step had feedback
        self.rows = 0  # of a matrix that goes as factors

    def use(self, spec):
        """What has no rows goes as values."""
        self.spec = spec
        if spec.lowrank:
            columns = spec.lowrank.columns or self.columns
            self.rows = self.count // columns if spec.lowrank.values(self.count, columns) else 0
            if self.rows:
                self.cols = columns
            else:
                self.spec = Spec("none")
                self.spec.ef = spec.ef
        else:
            self.rows = 0

    @property
    def reads_e(self):
        return self.spec.ef or self.held

    def at(self, t):
        return slice(t * self.tile, min(self.count, (t + 1) * self.tile))

    def span(self, first, n):
        return slice(self.at(first).start, self.at(first + n - 1).stop)

    def length(self, t):
        return min(self.count, (t + 1) * self.tile) - t * self.tile


class Step:
    """number: what random numbers depend on; stamp: what headers carry."""

    def __init__(self, number, scale, stamp=None):
        self.number, self.scale, self.stamp = number, scale, number if stamp is None else stamp
        self.inputs, self.outputs, self.specs = {}, {}, []


class Call:
    """One of the collectives of an array."""

    def __init__(self, kind, root, redop, dtype, count, spec):
        self.kind, self.root, self.redop, self.dtype, self.count, self.spec = kind, root, redop, dtype, count, Spec(spec)
        self.inputs, self.outputs = {}, {}


class Run:
    kind, root, told = ALLREDUCE, 0, False

    def __init__(self, path):
        self.layers, self.steps, self.calls, self.posts = [], [], [], []
        self.streams, self.sums, number = defaultdict(list), defaultdict(list), {}
        for line in open(path):
            w = line.split()
            raw = bytes.fromhex(w[-1]) if w[0] in ("input", "output", "in", "out", "frame", "sum") and w[-1] != "-" else b""
            if w[0] == "layer":
                dtype, *more = map(int, w[2:])
                self.layers.append(Layer(w[1].encode(), dtype, more[0], number["tile"], *more[1:]))
            elif w[0] == "post":
                self.posts.append(list(map(int, w[1:])))
            elif w[0] == "step":
                self.steps.append(Step(int(w[1]), float(w[2])))
            elif w[0] == "uses":
                self.steps[-1].specs.append(Spec(w[2]))
            elif w[0] == "frame":
                self.streams[int(w[1]), int(w[2]), int(w[3])].append(raw)
            elif w[0] == "sum":
                self.sums[int(w[1])].append(raw)
            elif w[0] == "input":
                layer = self.layers[int(w[2])]
                self.steps[-1].inputs[int(w[1]), int(w[2])] = unpack(raw, layer.count, layer.dtype)
            elif w[0] == "output":
                self.steps[-1].outputs[int(w[1]), int(w[2])] = raw
            elif w[0] == "call":
                self.calls.append(Call(*map(int, w[1:6]), w[6]))
            elif w[0] == "in":
                self.calls[-1].inputs[int(w[1])] = raw
            elif w[0] == "out":
                self.calls[-1].outputs[int(w[1])] = raw
            elif w[0] != "absent":
                number[w[0]] = int(w[1])
        self.ranks, self.tile, self.redop = number["ranks"], number["tile"], number["redop"]
        self.frame_bytes, self.bucket_bytes, self.in_flight = number["frame_bytes"], number["bucket_bytes"], number["in_flight"]
        self.algo = number["algo"]

    @property
    def weight(self):
        """Of a rank's part."""
        return 1 / self.ranks if self.redop == AVERAGE and self.kind in (ALLREDUCE, SCATTER) else 1.0

    @property
    def alone(self):
        """One rank has the values: nothing is summed."""
        return self.kind in (ALLGATHER, BROADCAST)

    def source(self, who):
        """Who makes the answers of the frames that belong to a rank."""
        return self.root if self.kind == BROADCAST else who

    def like(self, **changes):
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other


def call_as_run(run, call, number):
    """A call as the op of a run with a step, and its layers: an array, or one for each rank's block."""
    blocks = run.ranks if call.kind in (SCATTER, ALLGATHER) else 1
    pins = [(1 + r, 0, r) if blocks > 1 else (0, 0, 0) for r in range(blocks)]
    layers = [Layer(NAMES[call.kind], call.dtype, call.count, run.tile, 0, *pin) for pin in pins]
    step = Step(number, 1.0, 0)
    size = call.count * (4 if call.dtype == FP32 else 2)
    for layer in layers:
        layer.use(call.spec)
    for r in range(run.ranks):
        for i in range(blocks):
            if call.kind == SCATTER or call.kind == ALLREDUCE or r == (i if call.kind == ALLGATHER else call.root):
                at = i * size if call.kind == SCATTER else 0
                step.inputs[r, i] = unpack(call.inputs[r][at:at + size], call.count, call.dtype)
            at = i * size if call.kind == ALLGATHER else 0
            if call.kind != SCATTER or r == i:
                step.outputs[r, i] = call.outputs[r][at:at + size]
    return run.like(layers=layers, kind=call.kind, root=call.root, redop=call.redop if call.kind < ALLGATHER else 1, algo=SRA), step


# ---- plan ----
def family(run, i):
    """What a layer cannot share a bucket with, from its specs in all steps; 0: it goes with all."""
    layer, specs = run.layers[i], [step.specs[i] for step in run.steps]
    if any(s.lowrank for s in specs):
        return tuple(bool(s.lowrank) for s in specs)
    return 1 if any(s.codec != 1 and not (s.randk and layer.dtype == FP32) for s in specs) else 0


def buckets(run):
    """Layers of each op, from the last to the first."""
    ops, used, kind = [], 0, 0
    for i in reversed(range(len(run.layers))):
        size, its = run.layers[i].count * (4 if run.layers[i].dtype == FP32 else 2), family(run, i)
        if not ops or used + size > run.bucket_bytes or (kind and its and kind != its):
            ops.append([])
            used = kind = 0
        ops[-1].append(i)
        used += size
        kind = kind or its
    return ops


def owner(run, layer, t):
    if run.kind == BROADCAST:
        return (run.root + 1 + t * (run.ranks - 1) // layer.tiles) % run.ranks
    if layer.pinned:
        return (layer.pinned - 1 + min(t // (layer.shard or layer.tiles), run.ranks - 1)) % run.ranks
    return (xxh64(layer.name) + t * run.ranks // layer.tiles) % run.ranks


def plan_hash(run, op):
    h = xxh64(struct.pack("<8I", VERSION, run.ranks, len(op), run.algo, run.redop, run.tile, run.frame_bytes, run.in_flight))
    if run.kind != ALLREDUCE:
        h = xxh64(struct.pack("<3I", run.kind, run.root, run.told), h)
    for i in op:
        layer = run.layers[i]
        h = xxh64(layer.name, h)
        h = xxh64(struct.pack("<4Q", layer.count, 0, layer.tiles, layer.dtype), h)
        h = xxh64(layer.spec.words(), h)
        if layer.pinned:
            h = xxh64(struct.pack("<2Q", layer.pinned, layer.shard), h)
        if layer.rows:
            h = xxh64(struct.pack("<Q", layer.cols), h)
    if run.algo == NATIVE and all(run.layers[i].spec.codec == 1 for i in op):
        for k, i in enumerate(op):
            h = xxh64(struct.pack("<3Q", k, 0, run.layers[i].count), h)
    return h


def run_bytes(run, i, first, n):
    """What a run takes; of sparse layers about."""
    layer = run.layers[i]
    if layer.spec.topk:
        return layer.spec.topk.run_bytes(first, n, run.tile, layer.count)
    return sum(layer.spec.bytes(layer.length(t), layer.dtype) for t in range(first, first + n))


def frames_of(run, op, who):
    """The owner's frames: lists of runs (layer, first tile, tiles). Sparse layers have theirs behind the others'."""
    return cut(run, op, who, False) + cut(run, op, who, True)


def is_sparse(run, parts):
    return bool(run.layers[parts[0][0]].spec.topk)


def cut(run, op, who, sparse):
    own = {i: [t for t in range(run.layers[i].tiles) if owner(run, run.layers[i], t) == who] for i in op
           if bool(run.layers[i].spec.topk) == sparse}
    total = sum(run_bytes(run, i, t[0], len(t)) for i, t in own.items() if t)
    if total == 0:
        return []
    limit = run.frame_bytes or FRAME_BYTES
    target = -(-total // -(-total // limit))
    frames, used, is_open = [], 0, False
    for i in own:
        left, layer = own[i], run.layers[i]
        every = layer.spec.topk.stretch(run.tile) if sparse else 1
        full = layer.spec.topk.stretch_bytes(every * run.tile) if sparse else layer.spec.bytes(run.tile, layer.dtype)
        while left:
            if not is_open:
                frames.append([])
                used, is_open = 0, True
            n = min(-(-(target - used) // full) if used < target else 0, max(limit - used, 0) // full)
            if n == 0 and used == 0:
                n = 1
            if n == 0:
                is_open = False
                continue
            n = min(n * every - left[0] % every, len(left))
            frames[-1].append((i, left[0], n))
            used += run_bytes(run, i, left[0], n)
            left = left[n:]
    return frames
