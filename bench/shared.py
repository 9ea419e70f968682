# SPDX-License-Identifier: BSD-3-Clause
"""What the benchmark scripts share: which programs, which machine, medians, files."""

import os
import platform
import shutil
import statistics
import sys
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# What is looked through without --build: here, then what README.md, ./quickstart and ./check make.
BUILDS = ["."] + [os.path.join(TOP, d) for d in ("build", "build-quickstart/build", "build-check/gcc")]


class Failed(Exception):
    pass


def add_build_options(p, *programs):
    p.add_argument("--build", default=os.environ.get("THINWIRE_BUILD"),
                   help="folder of the build (default: here, then build, build-quickstart/build, build-check/gcc of the source)")
    for name in programs:
        p.add_argument("--" + name.split("-")[-1], help=f"path of {name}")


def find_program(name, given, build):
    """Given path, build folders, source tree, PATH."""
    folders = ([build] if build else BUILDS) + [TOP]
    places = [given] if given else [os.path.join(d, sub, name) for d in folders for sub in ("", "tools")]
    for path in places:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            print(f"{name}: {os.path.abspath(path)}", file=sys.stderr)
            return os.path.abspath(path)
    found = None if given else shutil.which(name)
    if not found:
        raise Failed(f"{name} was not found; looked at {', '.join(places)}. Build first, or give --build FOLDER.")
    return found


def machine(**more):
    model = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            model = next((l.split(":", 1)[1].strip() for l in f if l.startswith("model name")), model)
    except OSError:
        pass
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(), **more,
            "date": time.strftime("%Y-%m-%d")}


def spread(values):
    """None where nothing was measured."""
    values = [v for v in values if v is not None]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)} if values else None


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
