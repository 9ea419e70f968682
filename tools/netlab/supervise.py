# SPDX-License-Identifier: BSD-3-Clause
"""Supervision: the process that a lab lives below, and commands run in it."""
import os
import select
import shutil
import signal
import subprocess
import time

from .common import EX_LAB, EX_MISSING, EX_TIMEOUT, GRACE, SIGNALS, Fail, libc, say, write_json
from .kernel import PR_SET_PDEATHSIG, become_init, join_spaces, new_spaces
from .hosts import build, burst_of, rate_text
from .folder import Registry


def supervise(pid):
    """Wait for process 1. A signal is passed on to it once; it has GRACE seconds to end in order."""
    caught, end = None, None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return 128 + caught if caught else (code if code >= 0 else 128 - code)
        got = signal.sigtimedwait(SIGNALS, 0.2)
        if got and got.si_signo != signal.SIGCHLD and caught is None:
            caught, end = int(got.si_signo), time.monotonic() + GRACE + 2
            os.kill(pid, signal.SIGTERM)
        if end and time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)


def run_child(argv, env, mask, limit=None, late=None):
    """In process 1: run a program, collect orphans, end early on a signal, or after limit seconds, when late() is called.
    Returns its exit status."""
    def prepare():
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        child = subprocess.Popen(argv, env=env, preexec_fn=prepare)
    except OSError as e:
        raise Fail(EX_MISSING, "cannot run %s: %s" % (argv[0], e.strerror)) from e
    end, told = None, None
    over = time.monotonic() + limit if limit else None
    while True:
        done, status = os.waitpid(-1, os.WNOHANG)
        if done == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return told or (child.returncode if child.returncode >= 0 else 128 - child.returncode)
        if done:
            continue
        got = signal.sigtimedwait(SIGNALS, 0.2)
        if end is None and over and time.monotonic() > over:
            told = EX_TIMEOUT
            late()
        if end is None and (told or got and got.si_signo != signal.SIGCHLD):
            end = time.monotonic() + GRACE
            child.send_signal(signal.SIGTERM)
        if end and time.monotonic() > end:
            return told or 128 + signal.SIGTERM


def below_init(lab, work, mask):
    """Fork process 1, which builds the lab or uses the one we joined, and does the work. Returns an exit status."""
    alive_r, alive_w = os.pipe()
    pid = os.fork()
    if pid:
        os.close(alive_r)
        return supervise(pid)
    status = EX_LAB
    try:
        os.close(alive_w)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if select.select([alive_r], [], [], 0)[0]:
            os._exit(EX_LAB)  # the parent died before it could be watched
        become_init(lab["name"])
        if not lab["up"]:
            build(lab)
        status = work(lab, mask)
    except Fail as e:
        say(str(e))
        status = e.status
    except OSError as e:
        say(str(e))
    finally:
        os._exit(status)


def with_lab(args, work):
    """Run work in process 1 of the lab that is up under this name, or of one that lasts as long as the work."""
    registry = Registry()
    with registry:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        lab = registry.read(args.name)
        if lab is None:
            lab = wanted(args)
        elif any(getattr(args, key) not in (None, lab[key]) for key in ("hosts", "rate", "idle_restart")):
            raise Fail(EX_LAB, "the lab %s is up with %d hosts at %s, %s --idle-restart: take it down first, or use "
                       "another --name" % (lab["name"], lab["hosts"], rate_text(lab["rate"]),
                                           "with" if lab["idle_restart"] else "without"))
        folder = registry.create("%s+%d" % (args.name, os.getpid()))
        write_json(folder + "/lab.json", dict(lab, pid=os.getpid()))
    lab["folder"] = folder
    try:
        if lab["up"]:
            join_spaces(lab)
        else:
            new_spaces()
        return below_init(lab, work, mask)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wanted(args):
    rate = 10**9 if args.rate is None else args.rate
    return {"name": args.name, "hosts": 4 if args.hosts is None else args.hosts, "rate": rate,
            "burst": burst_of(rate), "idle_restart": bool(args.idle_restart), "up": False}
