# SPDX-License-Identifier: BSD-3-Clause
"""Building a lab: hosts, links, shaping, and work done in a host."""
import argparse
import json
import os
import re
import select
import signal
import time

from .common import CONTROLLER, EX_LAB, EX_REFUSED, FD_BASE, NEWNET, NEWUTS, SIGNALS, SUBNET, Fail, libc, put
from .kernel import batch, call, keep_fd, set_hostname, setns

QUEUE_MS = 50


def parse_rate(text):
    if text == "none":
        return 0
    m = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg])bit", text)
    bits = round(float(m[1]) * {"k": 1e3, "m": 1e6, "g": 1e9}[m[2]]) if m else 0
    if not 10**6 <= bits <= 4 * 10**11:
        raise argparse.ArgumentTypeError("a rate is from 1mbit to 400gbit, as in 100mbit or 2.5gbit, or none")
    return bits


def rate_text(bits):
    if bits == 0:
        return "none"
    return "%ggbit" % (bits / 1e9) if bits >= 10**9 else "%gmbit" % (bits / 1e6)


def burst_of(rate):
    """Half a millisecond of the link, at least 32 kB: more would let whole messages pass unshaped."""
    return max(32768, rate // 8 // 2000) if rate else 0


def address(host):
    return "%s.%d" % (SUBNET, host + 1)


def host_name(lab, host):
    return "%s-h%d" % (lab["name"], host)


def spawn_host(lab, host):
    """A child in new network and UTS namespaces; returns its pid and the pipe that lets it go."""
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go_w)
            call("a network namespace for each host", libc.unshare(NEWNET | NEWUTS))
            set_hostname(host_name(lab, host))
            os.write(ready_w, b"+")
            os.read(go_r, 1)
        except Fail as e:
            os.write(ready_w, str(e).encode())
        finally:
            os._exit(0)
    os.close(go_r)
    os.close(ready_w)
    answer = os.read(ready_r, 4096)
    os.close(ready_r)
    if answer != b"+":
        raise Fail(EX_REFUSED, answer.decode() or "a host died while it was made")
    for k, kind in enumerate(("net", "uts")):
        keep_fd(os.open("/proc/%d/ns/%s" % (pid, kind), os.O_RDONLY), FD_BASE + 2 * host + k)
    return pid, go_w


def in_host(host, function, *args):
    """Run a function in a child inside a host's namespaces; returns (pid, pipe that brings its JSON answer)."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if host >= 0:
                setns(FD_BASE + 2 * host, NEWNET)
            answer = {"value": function(*args)}
        except Fail as e:
            answer = {"status": e.status, "error": str(e)}
        except OSError as e:
            answer = {"status": EX_LAB, "error": str(e)}
        os.write(w, json.dumps(answer).encode())
        os._exit(0)
    os.close(w)
    return pid, r


def told_to_end():
    return bool(signal.sigpending() & (SIGNALS - {signal.SIGCHLD}))


def answer_of(child, timeout=30.0):
    """The value of an in_host() child. A signal that asks us to end is obeyed at the next wait."""
    pid, r = child
    text, end = b"", time.monotonic() + timeout
    while True:
        if not select.select([r], [], [], 0.1)[0]:
            if told_to_end() or time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            continue
        part = os.read(r, 65536)
        text += part
        if not part:
            break
    os.close(r)
    os.waitpid(pid, 0)
    answer = json.loads(text) if text else {"status": EX_LAB, "error": "a host did not answer in time"}
    if "error" in answer:
        raise Fail(answer["status"], answer["error"])
    return answer["value"]


def tune_host(idle_restart):
    """Per-namespace TCP settings; returns the congestion control in force.

    BBR stops a flow for 200 ms every ten seconds, which no measurement here wants: cubic, or reno where the machine
    does not let a namespace have cubic. By default Linux also forgets a connection's window once it was silent for
    200 ms or so; a trainer is silent between steps, and clusters set this to 0.
    """
    put("/proc/sys/net/ipv4/tcp_slow_start_after_idle", "1" if idle_restart else "0")
    for knob in ("all", "default"):
        try:
            put("/proc/sys/net/ipv6/conf/%s/disable_ipv6" % knob, "1")
        except OSError:
            pass  # no IPv6 at all
    for name in ("cubic", "reno"):
        try:
            put("/proc/sys/net/ipv4/tcp_congestion_control", name)
            break
        except OSError:
            continue
    with open("/proc/sys/net/ipv4/tcp_congestion_control", encoding="ascii") as f:
        return f.read().strip()


def tune_switch(idle_restart):
    """As a host; and frames that the bridge forwards do not pass through netfilter: no switch does that, and it costs CPU."""
    for family in ("ip", "ip6", "arp"):
        try:
            put("/proc/sys/net/bridge/bridge-nf-call-%stables" % family, "0")
        except OSError:
            pass  # br_netfilter is not loaded, or not ours to change
    return tune_host(idle_restart)


def shape(dev, lab):
    return "qdisc add dev %s root tbf rate %dbit burst %db latency %dms" % (dev, lab["rate"], lab["burst"], QUEUE_MS)


def build(lab):
    """In process 1: this network namespace becomes the switch (and mpirun's host), each host gets one of its own."""
    gso = " gso_max_size 16000" if 0 < lab["burst"] < 131072 else ""
    hosts = range(lab["hosts"])
    children = []
    try:
        for host in hosts:
            children.append(spawn_host(lab, host))
            lab["congestion"] = answer_of(in_host(host, tune_host, lab["idle_restart"]))
        answer_of(in_host(-1, tune_switch, lab["idle_restart"]))
        lines = ["link set lo up", "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
                 "addr add %s.%d/24 dev br0" % (SUBNET, CONTROLLER), "link set br0 up"]
        for host in hosts:
            lines += ["link add p%d type veth peer name eth0 netns %d" % (host, children[host][0]),
                      "link set p%d%s master br0 up" % (host, gso)]
        batch("ip", lines)
        for host in hosts:
            netns = FD_BASE + 2 * host
            batch("ip", ["link set lo up", "addr add %s/24 dev eth0" % address(host), "link set eth0%s up" % gso],
                  netns)
            if lab["rate"]:
                batch("tc", [shape("eth0", lab)], netns)
        if lab["rate"]:
            batch("tc", [shape("p%d" % host, lab) for host in hosts])
    finally:
        for _, go in children:  # all of them first: each child holds the earlier pipes open, too
            os.close(go)
        for pid, _ in children:
            os.waitpid(pid, 0)
