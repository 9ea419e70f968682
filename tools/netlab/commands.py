# SPDX-License-Identifier: BSD-3-Clause
"""The commands and their options."""
import argparse
import difflib
import json
import os
import re
import select
import shutil
import signal
import sys
import time

from .common import EX_LAB, EX_USAGE, GRACE, MAX_HOSTS, SIGNALS, Fail, say, write_json
from .kernel import become_init, new_spaces
from .hosts import address, build, parse_rate, rate_text, told_to_end
from .folder import alive, Registry
from .supervise import wanted, with_lab
from .measure import measure
from .mpi import choose_mpi, do_run


def keeper(lab, registry, ready):
    """Process 1 of a lab that stays up: holds the namespaces open until it is killed."""
    try:
        become_init(lab["name"])
        build(lab)
        answer = {"congestion": lab["congestion"]}
    except Fail as e:
        answer = {"error": str(e), "status": e.status}
    except OSError as e:
        answer = {"error": str(e), "status": EX_LAB}
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(registry.lock)
    os.chdir("/")
    os.setsid()
    os.write(ready, json.dumps(answer).encode())
    os.close(ready)
    while "error" not in answer:
        signal.sigwait({signal.SIGCHLD, signal.SIGUSR1})
    os._exit(EX_LAB)


def cmd_up(args):
    registry = Registry()
    with registry:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS | {signal.SIGUSR1})
        if registry.read(args.name):
            raise Fail(EX_LAB, "the lab %s is up already" % args.name)
        lab = wanted(args)
        folder = registry.create(args.name)
        try:
            new_spaces()
            r, w = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(r)
                keeper(lab, registry, w)
            os.close(w)
            write_json(folder + "/lab.json", dict(lab, pid=pid, up=True))
            while not (told_to_end() or select.select([r], [], [], 0.1)[0]):
                pass
            text = b'{"error": "interrupted", "status": 130}' if told_to_end() else os.read(r, 65536)
            answer = json.loads(text) if text else {"error": "the lab died while it was made", "status": EX_LAB}
            if "error" in answer:
                os.kill(pid, signal.SIGKILL)
                raise Fail(answer["status"], answer["error"])
        except Fail:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    say("the lab %s is up: %d hosts (%s to %s), rate %s, burst %d bytes, congestion control %s%s"
        % (lab["name"], lab["hosts"], address(0), address(lab["hosts"] - 1), rate_text(lab["rate"]), lab["burst"],
           answer["congestion"], ", slow start after idle" if lab["idle_restart"] else ""))
    return 0


def stop(registry, name):
    """End one entry: in order where it is a run, at once where only namespaces are held."""
    path, lab = registry.base + "/" + name, registry.read(name)
    if lab is None:
        raise Fail(EX_LAB, "%s/lab.json cannot be read" % path)
    for sig, seconds in ((signal.SIGKILL if "+" not in name else signal.SIGTERM, GRACE + 3), (signal.SIGKILL, GRACE)):
        end = time.monotonic() + seconds
        try:
            os.kill(lab["pid"], sig)
        except ProcessLookupError:
            pass
        while alive(path):
            if time.monotonic() > end:
                break
            time.sleep(0.02)
        else:
            shutil.rmtree(path, ignore_errors=True)
            return
    raise Fail(EX_LAB, "process %d of the lab %s does not end" % (lab["pid"], name))


def cmd_down(args):
    registry = Registry()
    with registry:
        names = registry.names(args.name)
        for name in sorted(names, reverse=True):
            stop(registry, name)
    say("the lab %s is down" % args.name if names else "there is no lab %s" % args.name)
    return 0


def cmd_run(args):
    if args.command[:1] == ["--"]:
        args.command = args.command[1:]
    if not args.command:
        raise Fail(EX_USAGE, "run needs a command: thinwire-netlab run [options] -- COMMAND")
    path, kind = choose_mpi(args)
    return with_lab(args, lambda lab, mask: do_run(lab, args, path, kind, mask))


def cmd_limit(args):
    def work(lab, _mask):
        goodput = measure(lab)
        share = goodput * 8 / lab["rate"] if lab["rate"] else None
        print("%s: rate %s, burst %d bytes, goodput %.1f Mbit/s%s" % (
            lab["name"], rate_text(lab["rate"]), lab["burst"], goodput * 8 / 1e6,
            "" if share is None else " (%.1f %% of the rate)" % (100 * share)), flush=True)
        if args.json:
            write_json(args.json, {"hosts": lab["hosts"], "rate": lab["rate"] or None, "burst": lab["burst"],
                                   "goodput": round(goodput), "goodput_mbit": round(goodput * 8 / 1e6, 1),
                                   "efficiency": None if share is None else round(share, 4)})
        return 0
    return with_lab(args, work)


def lab_name(text):
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,15}", text):
        raise argparse.ArgumentTypeError("a name has 1 to 16 small letters, digits and dashes")
    return text


def whole(low, high):
    def check(text):
        if not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError("a whole number from %d to %d is wanted" % (low, high))
        return int(text)
    return check


def version(given):
    """Run from the source tree, the program has no version filled in."""
    if not given.startswith("@"):
        return given
    try:
        with open(os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "VERSION"), encoding="ascii") as f:
            return re.search(r"^version=(\S+)", f.read(), re.M)[1]
    except (OSError, TypeError):
        return "unknown"


class Parser(argparse.ArgumentParser):
    """Names the nearest option, as the other programs do."""

    verbs = {}

    def error(self, message):
        asked = re.search(r"unrecognized arguments:.*?(--[^ =]+)", message)
        of_verb = self.verbs.get(sys.argv[1] if len(sys.argv) > 1 else "", self)
        options = [o for p in (of_verb, self) for o in p._option_string_actions if o.startswith("--")]
        near = difflib.get_close_matches(asked[1], options, n=1) if asked else []
        super().error(message + "".join("; did you mean '%s'?" % o for o in near))


def parser(given):
    top = Parser(
        prog="thinwire-netlab", description="Hosts on one machine, joined by links of a given rate.",
        epilog="Exit status: that of COMMAND; 1 lab failed, 2 usage, 69 program missing, 75 faster than the rate "
               "allows, 76 traffic does not match the bytes expected, 77 refused by the kernel, 124 --timeout is over. "
               "See thinwire-netlab(1).")
    top.add_argument("--version", action="version", version="thinwire-netlab " + version(given))
    subs = top.add_subparsers(dest="verb", metavar="up|run|down|limit", required=True)
    top.verbs = subs.choices
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("--name", type=lab_name, default="tw", help="name of the lab (default: tw)")
    size = argparse.ArgumentParser(add_help=False)
    size.add_argument("--hosts", type=whole(1, MAX_HOSTS), metavar="N", help="number of hosts (default: 4)")
    size.add_argument("--rate", type=parse_rate, metavar="R",
                      help="from 1mbit to 400gbit, as in 100mbit or 2.5gbit, or none (default: 1gbit)")
    size.add_argument("--idle-restart", action="store_true", default=None,
                      help="connections begin with slow start again after 200 ms or so of silence, as Linux has it by "
                           "default; else hosts are tuned not to")
    subs.add_parser("up", parents=[name, size], help="make a lab that stays up").set_defaults(work=cmd_up)
    subs.add_parser("down", parents=[name], help="remove a lab and all that runs in it").set_defaults(work=cmd_down)
    limit = subs.add_parser("limit", parents=[name, size], help="measure the goodput between two hosts")
    limit.add_argument("--json", metavar="FILE", help="write the result as JSON, too")
    limit.set_defaults(work=cmd_limit)
    run = subs.add_parser("run", parents=[name, size], help="start an MPI program across the hosts",
                          usage="thinwire-netlab run [options] -- COMMAND [ARGUMENT ...]")
    run.add_argument("--np", type=whole(1, 4096), metavar="N", help="number of ranks (default: one a host)")
    run.add_argument("--mpi", choices=("openmpi", "mpich"), help="which MPI (default: that of the mpirun in PATH)")
    run.add_argument("--mpirun", metavar="PATH", help="which mpirun")
    run.add_argument("--mpirun-arg", metavar="ARG", action="append", default=[], help="one more argument for mpirun")
    run.add_argument("--timeout", type=whole(1, 10**9), metavar="SECONDS",
                     help="end COMMAND after so long, and say which ranks still ran it")
    run.add_argument("--measure", action="store_true", help="measure the goodput first, for THINWIRE_NETLAB_GOODPUT")
    run.add_argument("--counters", metavar="FILE", help="write what crossed each host's interface, as JSON")
    expect = run.add_mutually_exclusive_group()
    expect.add_argument("--expect-bytes", type=whole(0, 2**62), metavar="N",
                        help="fail if the busiest host's payload is not within 10 %% of N bytes")
    expect.add_argument("--expect-bytes-from", metavar="FILE",
                        help="the same, N being the sum of wire_bytes in the JSON that COMMAND writes to FILE")
    run.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    run.set_defaults(work=cmd_run)
    return top


def main(given_version):
    args = parser(given_version).parse_args()
    try:
        return args.work(args)
    except Fail as e:
        say(str(e))
        return e.status
    except KeyboardInterrupt:
        return 130
    except OSError as e:
        say(str(e))
        return EX_LAB
