#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Recomputes all frames and native sums of a run from its inputs, after docs/wire-format.md alone.

usage: wire_format.py DUMP        (DUMP: what tests/unit/wire_tap.c writes; see wire_dump there)
Ends with "N frames and M sums agree" and status 0, or names the first difference."""
import sys

sys.dont_write_bytecode = True  # the source folder may be read-only
from wire_codec import Spec  # noqa: F401 (for file_format.py and codec_tool.py, as the next line)
from wire_numbers import Difference, expect, f32, pack, unpack  # noqa: F401
from wire_gather import gather
from wire_plan import ALLGATHER, ALLREDUCE, BROADCAST, GATHER, NATIVE, SCATTER, SRA, Run, buckets, call_as_run, frames_of, is_sparse, plan_hash
from wire_sparse import Picks, sparse_hop1, sparse_hop2
from wire_steps import Op, State, check_hop1, check_hop2, check_poison, seal, take
from wire_sums import by_sums, sums_of


def confirm(op):
    """Of a broadcast: a bare header from each rank to the root."""
    for r in range(op.run.ranks):
        if r != op.run.root:
            take(op, r, op.run.root, 1, lambda _: seal(op, 1, 0, b""), "rank %d to the root" % r)


def by_owners(op, layers):
    """Through the owners of tiles: hop 1, hop 2, or one of them."""
    run, picks, any_frame = op.run, Picks(op, layers), False
    work = [(who, frames_of(run, layers, who)) for who in range(run.ranks)]
    if run.kind == BROADCAST:  # the root selects from all of its tiles at once
        for who, frames in work:
            for index, parts in enumerate(frames):
                if is_sparse(run, parts):
                    sparse_hop1(op, who, index, parts, picks)
        picks.choose(run.root)
    for who, frames in work:
        thin = [is_sparse(run, parts) for parts in frames]
        any_frame = any_frame or bool(frames)
        if run.kind == BROADCAST:
            sent = [[{run.root}] * len(parts) for parts in frames]
        else:
            sent = [sparse_hop1(op, who, index, parts, picks) if one else {k: {} for k in range(len(parts))} if run.alone
                    else check_hop1(op, who, index, parts) for index, (parts, one) in enumerate(zip(frames, thin))]
            picks.choose(who)
        for index, (parts, one) in enumerate(zip(frames, thin)):
            if one:
                sparse_hop2(op, who, index, parts, picks, sent[index])
            else:
                check_hop2(op, who, index, parts, sent[index])
    if run.kind == BROADCAST and any_frame:
        confirm(op)


def do_op(run, state, fresh, step, number, layers):
    """The number-th op on the communicator."""
    run = run.like(algo=sums_of(run, layers) or (GATHER if run.algo == GATHER and run.kind == ALLREDUCE else SRA))
    op = Op(run, state, fresh, step, 1 + 2 * number % 2 ** 30, plan_hash(run, layers))
    (by_sums if run.algo == NATIVE else gather if run.algo == GATHER else by_owners)(op, layers)


def do_step(run, state, step, begun):
    """Its ops: of the buckets, or as they are posted. Returns how many there were."""
    fresh = {key: list(e) for key, e in state.e.items()}
    for layer, spec in zip(run.layers, step.specs):
        layer.use(spec)
    state.move(run, step)
    posts = [(post[0], post[1:]) for post in run.posts] or [(ALLREDUCE, layers) for layers in buckets(run)]
    for kind, layers in posts:
        do_op(run.like(kind=kind, told=kind == SCATTER, redop=1 if kind == ALLGATHER else run.redop), state, fresh, step, begun, layers)
        begun += 1
    state.e, state.u = fresh, state.moved
    for layer in run.layers:
        layer.held = layer.spec.ef
    state.epoch = (state.epoch + 1) % 256
    return len(posts)


def main(path):
    run = Run(path)
    total, sums = sum(map(len, run.streams.values())), sum(map(len, run.sums.values()))
    begun = 0
    for call in run.calls:
        of_call, step = call_as_run(run, call, begun)
        state = State(of_call)
        do_op(of_call, state, {key: list(e) for key, e in state.e.items()}, step, begun, list(range(len(of_call.layers))))
        begun += 1
    state = State(run)
    for step in run.steps:
        begun += do_step(run, state, step, begun)
    left = 0
    for (source, to, tag), frames in run.streams.items():
        for raw in frames:  # the last step, which a rank breaks off
            left += tag != 0
            expect(tag == 0 or (run.steps and tag > 2 * begun), "a frame too many from", source, "to", to)
            if tag == 0:
                check_poison(raw)
    expect(not any(run.sums.values()) or run.steps, "a native sum too many")
    print("%d frames and %d sums agree, %d of a broken step were left out" % (total - left, sums - sum(map(len, run.sums.values())), left))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Difference as difference:
        print("wire_format.py:", difference)
        sys.exit(1)
