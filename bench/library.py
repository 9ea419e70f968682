# SPDX-License-Identifier: BSD-3-Clause
"""What the benchmark scripts that call the library themselves share: the shared library through ctypes, charlm's recorded
gradients, plots. Wants numpy and matplotlib."""

import ctypes
import glob
import os
import re
import sys

from shared import Failed, find_program

try:
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot
except ImportError as e:
    sys.exit(f"{os.path.basename(sys.argv[0])}: {e}; it needs numpy and matplotlib (python3-numpy, python3-matplotlib, or pip install)")

F32 = 1
AVG = 2
SRA, GATHER = 3, 4


class Stat(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("x_sq", ctypes.c_double), ("e_sq", ctypes.c_double),
                ("bad_tiles", ctypes.c_uint64)]


class ArrayArgs(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("step", ctypes.c_uint32), ("name", ctypes.c_char_p), ("first", ctypes.c_uint64)]


class Layer(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("dtype", ctypes.c_int), ("name", ctypes.c_char_p), ("count", ctypes.c_uint64),
                ("pinned", ctypes.c_uint64), ("shard", ctypes.c_uint64), ("columns", ctypes.c_uint64)]


class ReducerConfig(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("redop", ctypes.c_int), ("nonfinite", ctypes.c_int), ("algo", ctypes.c_int),
                ("bucket_bytes", ctypes.c_uint64), ("frame_bytes", ctypes.c_uint32), ("in_flight", ctypes.c_uint32),
                ("no_overlap", ctypes.c_uint32), ("tile", ctypes.c_uint32)]


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


class Library:
    def __init__(self, build):
        bench = os.path.realpath(find_program("thinwire-bench", None, build))
        folder = os.path.dirname(bench)
        places = [os.path.join(folder, ".libs", "libthinwire.so"), os.path.join(os.path.dirname(folder), "lib", "libthinwire.so"),
                  os.path.join(os.path.dirname(folder), "libthinwire.so")]  # a libtool program may lie in .libs itself
        path = next((p for p in places if os.path.exists(p)), None)
        if not path:
            raise Failed(f"no shared library beside {bench}; looked at {', '.join(places)}")
        self.lib = ctypes.CDLL(path)
        self.lib.tw_last_error.restype = self.lib.tw_version_string.restype = self.lib.tw_isa_chosen.restype = ctypes.c_char_p
        self.lib.tw_spec_bound.restype = ctypes.c_uint64
        self.version = self.lib.tw_version_string().decode()

    def check(self, status):
        if status < 0:
            raise Failed(self.lib.tw_last_error().decode())

    def spec(self, text):
        spec = ctypes.create_string_buffer(256)
        self.check(self.lib.tw_spec_parse(text.encode(), spec))
        return spec

    def room(self, spec, count):
        """An aligned buffer for the payload of so many fp32 values."""
        return np.empty(self.lib.tw_spec_bound(spec, ctypes.c_uint64(count), F32) // 4 + 1, dtype=np.uint32)

    def encode(self, spec, values, payload=None, step=0):
        """Bytes, energy, energy lost of an fp32 array; step: of the random numbers."""
        x = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        payload = self.room(spec, x.size) if payload is None else payload
        length, stat = ctypes.c_uint64(), Stat(ctypes.sizeof(Stat))
        args = ArrayArgs(ctypes.sizeof(ArrayArgs), step, None, 0)
        self.check(self.lib.tw_encode(spec, ctypes.byref(args), pointer(x), ctypes.c_uint64(x.size), F32, pointer(payload),
                                      ctypes.c_uint64(payload.nbytes), ctypes.byref(length), ctypes.byref(stat)))
        if stat.bad_tiles:
            raise Failed("the values hold NaN or Inf")
        return length.value, stat.x_sq, stat.e_sq

    def decode(self, spec, payload, length, out):
        self.check(self.lib.tw_decode(spec, None, pointer(payload), ctypes.c_uint64(length), pointer(out), ctypes.c_uint64(out.size), F32))


def gradients(folder):
    """{step: {rank: {layer: array}}}"""
    steps = {}
    for path in sorted(glob.glob(os.path.join(folder, "step-*-rank-*-*.npy"))):
        step, rank, layer = re.fullmatch(r"step-(\d+)-rank-(\d+)-(.*)\.npy", os.path.basename(path)).groups()
        steps.setdefault(int(step), {}).setdefault(int(rank), {})[layer] = np.load(path)
    if not steps:
        raise Failed(f"{folder} holds no step-S-rank-R-LAYER.npy; charlm --record {folder} writes them")
    return dict(sorted(steps.items()))


def save(figure, path):
    """The same bytes from the same figure."""
    matplotlib.rcParams["svg.hashsalt"] = "thinwire"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
