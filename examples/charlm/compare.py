#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Trains charlm once per codec, same steps and same seed, and prints one table: time, bytes, loss, speed-up.

With --lab the workers are hosts of thinwire-netlab behind a link of the given rate; with --local they are threads of
one process, which shows loss and bytes but nothing about a network. The plot goes to OUT/quickstart.svg.
"""
import argparse
import json
import math
import os
import re
import shlex
import subprocess
import sys


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = p.add_mutually_exclusive_group()
    where.add_argument("--lab", action="store_true", help="hosts behind a shaped link (the default)")
    where.add_argument("--local", action="store_true", help="threads of one process, no network")
    p.add_argument("--steps", type=int, default=80)
    p.add_argument("--codecs", default="none;cast:type=bf16;onebit+ef", help="separated by ';', the first is the base")
    p.add_argument("--hosts", type=int, default=4)
    p.add_argument("--rate", default="100mbit", help="of each host's link")
    p.add_argument("--charlm", default="./charlm", help="the program")
    p.add_argument("--netlab", default="thinwire-netlab", help="the program")
    p.add_argument("--out", default=".", help="folder for the JSON files and the plot")
    p.add_argument("--longer", type=float, default=1.25, metavar="X", help="a codec that ends above the base's last value, and "
                   "is at least twice as fast, runs once more with X times the steps; 0: never (default %(default)s)")
    p.add_argument("--eval-chars", type=int, default=8192, help="held-out characters an evaluation predicts")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--charlm-options", default="", help="more options for charlm, as one word")
    o = p.parse_args()
    if o.steps < 1 or o.hosts < 1 or not [c for c in o.codecs.split(";") if c.strip()]:
        p.error("--steps, --hosts and --codecs need at least one")
    return o


def rules_for(codec):
    return "*=none" if codec == "none" else f"*.bias=none; *={codec}"


class Failed(Exception):
    pass


def train(o, codec, steps):
    """Runs charlm; returns what it wrote to its JSON file, and under "path" where that is."""
    label = codec if steps == o.steps else f"{codec}, {steps} steps"
    path = os.path.join(o.out, "charlm-" + re.sub(r"[^a-z0-9]+", "-", label) + ".json")
    command = [o.charlm, "--rules", rules_for(codec), "--label", label, "--steps", steps, "--seed", o.seed]
    command += ["--eval-every", max(1, o.steps // 16), "--eval-chars", o.eval_chars, "--json", path]
    if o.local:
        command += ["--transport", "local", "--ranks", o.hosts]
    else:
        lab = [o.netlab, "run", "--name", f"charlm{os.getpid()}", "--hosts", o.hosts, "--rate", o.rate]
        lab += ["--expect-bytes-from", path, "--"]  # what charlm says it sent must have crossed the hosts' interfaces
        command = lab + command + ["--transport", "mpi"]
    command = [str(word) for word in command] + shlex.split(o.charlm_options)
    print(f"\n== {label} ==", file=sys.stderr, flush=True)
    try:
        status = subprocess.run(command, stdout=sys.stderr).returncode
    except OSError as e:
        raise Failed(f"cannot start {command[0]}: {e.strerror}") from e
    if status:
        raise Failed(f"status {status} from: {shlex.join(command)}")
    with open(path, encoding="utf-8") as f:
        return {**json.load(f), "path": path}


def train_all(o):
    codecs = [c.strip() for c in o.codecs.split(";") if c.strip()]
    runs = [train(o, codec, o.steps) for codec in codecs]
    base = runs[0]
    for codec, run in list(zip(codecs, runs))[1:]:
        late = run["bits_per_char"] > base["bits_per_char"] and run["time_s"] * 2 <= base["time_s"]
        if o.longer > 1 and late and not o.local:
            runs.append(train(o, codec, math.ceil(o.longer * o.steps)))
    return runs


def time_to(run, bits):
    """Seconds of training until the held-out loss is `bits`, between evaluations by a straight line; None if never."""
    before = None
    for step, seconds, _, _, heldout in run["curve"]:
        if heldout <= bits:
            if before is None:
                return seconds
            return before[0] + (seconds - before[0]) * (before[1] - bits) / (before[1] - heldout)
        before = (seconds, heldout)
    return None


def reaches(run, base):
    """When a run has the loss at which the base ends. The base itself: at its end."""
    if run is base:
        return f"{base['time_s']:.1f} s"
    seconds = time_to(run, base["bits_per_char"])
    if seconds is None:
        return "not in these steps"
    if seconds == 0:  # the base ends no better than it began
        return "0.0 s"
    sooner = base["time_s"] / seconds
    return f"{seconds:.1f} s " + (f"({sooner:.1f}x sooner)" if sooner >= 1 else f"({1 / sooner:.1f}x later)")


def size(n):
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.3g} {unit}"
        n /= 1000


def table(o, runs):
    base = runs[0]
    goal = base["bits_per_char"]
    name = "fp32" if base["label"] == "none" else base["label"]
    rows = [["codec", "bits/char", "sent per worker", "fewer bytes", "time"]]
    rows[0] += [] if o.local else ["a step", "speed-up", f"reaches {goal:.3f} after"]
    for run in runs:
        row = [run["label"], f"{run['bits_per_char']:.3f}", size(run["wire_bytes"])]
        row += [f"{base['wire_bytes'] / run['wire_bytes']:.1f}x", f"{run['time_s']:.1f} s"]
        if not o.local:
            row += [f"{run['time_s'] / run['steps']:.3f} s", f"{base['time_s'] / run['time_s']:.1f}x"]
            row += [reaches(run, base)]
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    if o.local:
        print(f"\ncharlm, {o.hosts} LOCAL threads of one process, NO NETWORK, {o.steps} steps. Loss and bytes are what a network")
        print("would see; the times are this machine's and say nothing about speed over one, so none is claimed.\n")
    else:
        print(f"\ncharlm, {o.hosts} hosts at {o.rate}, {base['parameters'] / 1e6:.2f} M parameters, {o.steps} steps, seed {o.seed}\n")
    for i, row in enumerate(rows):
        print("  " + row[0].ljust(widths[0]) + "".join("   " + row[k].rjust(widths[k]) for k in range(1, len(row))))
        if i == 0:
            print("  " + "-" * (sum(widths) + 3 * (len(widths) - 1)))
    if not o.local:
        print(f"\n  {goal:.3f} is where {name} ends. Time is training only; evaluations are left out.")
        for run in runs:
            if run["steps"] != base["steps"]:
                print(f"  \"{run['label']}\": fewer bytes and speed-up compare all its {run['steps']} steps with the "
                      f"{base['steps']} of {name}.")


def plot(o, runs):
    out = os.path.join(o.out, "quickstart.svg")
    where = f"{o.hosts} local threads, no network" if o.local else f"{o.hosts} hosts at {o.rate}"
    command = [o.charlm, "--plot-from", ",".join(run["path"] for run in runs), "--plot", out]
    command += ["--title", f"Character language model, {o.steps} steps of SGD, {where}"]
    command += ["--panels", "steps,bytes" if o.local else "time,bytes"]
    if subprocess.run(command).returncode:
        raise Failed("the plot could not be drawn")
    return out


def next_steps(o, picture):
    again = [sys.argv[0], "--local" if o.local else "--lab", "--charlm", o.charlm, "--out", o.out]
    again = shlex.join(again + ([] if o.local else ["--netlab", o.netlab]))
    print(f"\nplot: {picture}\n\nTry next:")
    print("  what error feedback is worth:")
    print(f"    {again} --codecs 'none;onebit+ef;onebit'")
    if not o.local:
        print("  how much of the gain a faster link leaves:")
        print(f"    {again} --rate 1gbit --steps 300")
    print("  a long run on this machine, where the losses meet:")
    print(f"    {o.charlm} --steps 3000 --plot long.svg")


def main():
    o = options()
    os.makedirs(o.out, exist_ok=True)
    try:
        runs = train_all(o)
        table(o, runs)
        next_steps(o, plot(o, runs))
    except (Failed, OSError, ValueError) as e:
        print(f"compare.py: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
