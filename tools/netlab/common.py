# SPDX-License-Identifier: BSD-3-Clause
"""What all parts share: exit statuses, sentences, files."""
import ctypes
import json
import os
import signal
import sys

EX_LAB, EX_USAGE, EX_MISSING, EX_FASTER, EX_COUNTERS, EX_REFUSED, EX_TIMEOUT = 1, 2, 69, 75, 76, 77, 124
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
FD_BASE = 200  # host h: its network namespace is open as FD_BASE + 2h, its UTS namespace as FD_BASE + 2h + 1
SUBNET, CONTROLLER, MAX_HOSTS = "10.77.0", 254, 128
GRACE = 5.0
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}

libc = ctypes.CDLL(None, use_errno=True)


class Fail(Exception):
    """What ends the program: one sentence and an exit status."""

    def __init__(self, status, sentence):
        super().__init__(sentence)
        self.status = status


def say(text):
    print("thinwire-netlab: " + text, file=sys.stderr, flush=True)


def write_json(path, value):
    try:
        with open(path + ".tmp", "w", encoding="utf-8") as f:
            json.dump(value, f, indent=1)
            f.write("\n")
        os.replace(path + ".tmp", path)
    except OSError as e:
        raise Fail(EX_LAB, "cannot write %s: %s" % (path, e.strerror)) from e


def put(path, text):
    with open(path, "w", encoding="ascii") as f:
        f.write(text)
