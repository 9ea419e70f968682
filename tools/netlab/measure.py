# SPDX-License-Identifier: BSD-3-Clause
"""Measuring: goodput of a link, and what crossed the interfaces against what was expected."""
import json
import os
import socket
import time

from .common import EX_COUNTERS, EX_FASTER, EX_LAB, EX_USAGE, Fail, say, write_json
from .hosts import address, answer_of, host_name, in_host

HEADERS = 66  # Ethernet 14, IPv4 20, TCP 20, time stamps 12
# What may add to a host's count: starting and ending an MPI job; the measure of the link when a communicator is made
# (four allgathers of 256 KiB), once or twice.
STARTUP = 65536 + 2 * 4 * 262144


def receive(listener):
    """Take one stream; returns the bytes, when they ended, and the bytes and time after the first third."""
    conn = listener.accept()[0]
    buffer, total, marks = bytearray(1 << 20), 0, []
    while True:
        n = conn.recv_into(buffer)
        now = time.monotonic()
        if n == 0:
            break
        total += n
        marks.append((now, total))
    third = marks[0][0] + (marks[-1][0] - marks[0][0]) / 3
    start = next(m for m in marks if m[0] >= third)
    return {"bytes": total, "end": marks[-1][0], "steady": total - start[1], "seconds": marks[-1][0] - start[0]}


def listen():
    s = socket.socket()
    s.bind((address(1), 0))
    s.listen(1)
    return s


def send(port, seconds):
    start = time.monotonic()
    with socket.create_connection((address(1), port), timeout=20) as s:
        data = memoryview(bytes(1 << 18))
        while time.monotonic() - start < seconds:
            s.sendall(data)
    return start


def measure(lab):
    """Goodput of a plain TCP stream from host 0 to host 1 in bytes a second.

    The second best of three, and of some more where even that is below what the link should give: other load on the
    machine slows, but a reader that was held up at the wrong moment seems fast.
    """
    if lab["hosts"] < 2:
        raise Fail(EX_USAGE, "a measurement needs two hosts")
    seen = []
    while len(seen) < 3 or (len(seen) < 8 and sorted(seen)[-2] * 8 < 0.945 * lab["rate"]):
        r, w = os.pipe()

        def receiver(port_w=w):
            s = listen()
            os.write(port_w, b"%d\n" % s.getsockname()[1])
            return receive(s)
        taker = in_host(1, receiver)
        os.close(w)
        port = os.read(r, 32)
        os.close(r)
        giver = in_host(0, send, int(port or b"0"), 0.6)
        start, got = answer_of(giver), answer_of(taker)
        allowed = lab["rate"] / 8 * (got["end"] - start) + lab["burst"]
        if lab["rate"] and got["bytes"] > allowed * 1.005:
            raise Fail(EX_FASTER, "%d bytes passed where rate and burst allow %d: the shaping does not work here"
                       % (got["bytes"], allowed))
        seen.append(got["steady"] / max(got["seconds"], 1e-3))
    return sorted(seen)[-2]


def read_counters():
    with open("/proc/self/net/dev", encoding="ascii") as f:
        for line in f:
            if line.strip().startswith("eth0:"):
                v = [int(x) for x in line.split(":")[1].split()]
                return {"rx_bytes": v[0], "rx_packets": v[1], "tx_bytes": v[8], "tx_packets": v[9]}
    raise Fail(EX_LAB, "a host has no eth0")


def all_counters(lab):
    return [answer_of(in_host(host, read_counters)) for host in range(lab["hosts"])]


def objects(text):
    """JSON objects one after the other: one for a file, or one a line."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at = len(text) - len(text[at:].lstrip())
        row, at = decoder.raw_decode(text, at)
        yield row


def planned(path, started):
    """What the busiest host should have sent, by COMMAND's own account."""
    total, why = 0, "nothing is in it"
    try:
        if os.stat(path).st_mtime < started - 2:  # the clock of a file system may be behind
            raise ValueError("it is older than this run")
        with open(path, encoding="utf-8") as f:
            for row in objects(f.read()):
                if row.get("mpi_ms") is not None:
                    raise ValueError("plain MPI beside the codecs sent bytes that no row counts; use --baseline none")
                times = row["iterations"] + row["warmup"] if "iterations" in row else 1
                total, why = total + times * row["wire_bytes"], None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as e:
        why = "no %s" % e if isinstance(e, KeyError) else str(e)
    if why:
        raise Fail(EX_COUNTERS, "%s does not say how many bytes were to be sent: %s" % (path, why))
    return round(total)


def account(lab, before, started, args):
    """Write what crossed each host's eth0 and compare it with the plan. Returns an exit status."""
    rows = []
    for host, (a, b) in enumerate(zip(before, all_counters(lab))):
        row = {"host": host_name(lab, host)}
        row.update({key: b[key] - a[key] for key in a})
        for way in ("tx", "rx"):
            row[way + "_payload"] = row[way + "_bytes"] - HEADERS * row[way + "_packets"]
        rows.append(row)
    top = max(row["tx_payload"] for row in rows)
    if args.counters:
        write_json(args.counters, {"rate": lab["rate"], "hosts": rows, "max_tx_payload": top})
    want = args.expect_bytes if args.expect_bytes_from is None else planned(args.expect_bytes_from, started)
    if want is not None and not 0.9 * want <= top <= 1.1 * want + STARTUP:
        say("the busiest host sent %d bytes of payload where %d were expected: the traffic does not match the plan"
            % (top, want))
        return EX_COUNTERS
    return 0
