# SPDX-License-Identifier: BSD-3-Clause
"""mpirun: which one, what it is given, and a run in a lab."""
import math
import os
import re
import shutil
import subprocess
import sys
import time

from .common import CONTROLLER, EX_MISSING, FD_BASE, NEWNET, NEWUTS, SUBNET, Fail, put, say
from .hosts import address
from .supervise import run_child
from .measure import account, all_counters, measure

# Written into the lab's folder and called by mpirun in the place of ssh.
AGENT = """#!{python} -IS
import ctypes, os, sys
args = sys.argv[1:]
while args and args[0].startswith("-"):
    args.pop(0)
host = int(args[0].rsplit(".", 1)[1]) - 1
libc = ctypes.CDLL(None, use_errno=True)
for fd, kind in (({base} + 2 * host, {net}), ({base} + 2 * host + 1, {uts})):
    if libc.setns(os.open("/proc/1/fd/%d" % fd, os.O_RDONLY), kind) != 0:
        sys.exit("thinwire-netlab: cannot enter host %d: %s" % (host, os.strerror(ctypes.get_errno())))
os.execv("/bin/sh", ["sh", "-c", " ".join(args[1:])])
"""


def choose_mpi(args):
    """Which mpirun, and whose it is."""
    if args.mpirun:
        names = [args.mpirun]
    else:
        names = {"openmpi": ["mpirun.openmpi", "mpirun"], "mpich": ["mpirun.mpich", "mpiexec.hydra", "mpirun"],
                 None: ["mpirun", "mpiexec"]}[args.mpi]
    path = next(filter(None, (shutil.which(n) for n in names)), None)
    if path is None:
        raise Fail(EX_MISSING, "no %s found: install Open MPI or MPICH" % " or ".join(names))
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    kind = ("mpich" if "HYDRA" in text else "openmpi" if re.search(r"OpenRTE|Open MPI\) [1-4]\.", text) else None)
    if kind is None or args.mpi not in (None, kind):
        raise Fail(EX_MISSING, "%s is not the mpirun of %s" % (path, args.mpi or "Open MPI 2 to 4 or MPICH"))
    return path, kind


def openmpi_setting(lab, agent):
    """Open MPI over eth0 only; buffers and algorithms (allreduce and allgather by a ring, reduce-scatter by recursive halving,
    broadcast by scatter and ring) are what the best plain MPI uses on such links."""
    forced = {"plm_rsh_agent": agent, "orte_leave_session_attached": "1", "orte_tmpdir_base": lab["folder"] + "/tmp",
              "oob_tcp_if_include": SUBNET + ".0/24", "btl": "tcp,self", "pml": "ob1", "btl_tcp_if_include": "eth0"}
    tuned = {"mpi_yield_when_idle": "1", "btl_tcp_sndbuf": "262144", "btl_tcp_rcvbuf": "1048576",
             "coll_tuned_use_dynamic_rules": "1", "coll_tuned_allreduce_algorithm": "4", "coll_tuned_allgather_algorithm": "4",
             "coll_tuned_reduce_scatter_block_algorithm": "3", "coll_tuned_bcast_algorithm": "9"}
    env = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env.update({"OMPI_MCA_" + k: v for k, v in forced.items()})
    env.update({"OMPI_MCA_" + k: v for k, v in tuned.items() if "OMPI_MCA_" + k not in os.environ})
    return env


def mpirun_line(lab, args, path, kind, agent):
    """The command line and what it adds to the environment."""
    ranks = args.np or lab["hosts"]
    hosts = [address(h) for h in range(lab["hosts"])]
    if kind == "openmpi":
        slots = math.ceil(ranks / len(hosts))
        line = [path, "--host", ",".join("%s:%d" % (h, slots) for h in hosts), "--map-by", "node", "--bind-to", "none"]
        env = openmpi_setting(lab, agent)
    else:
        line = [path, "-launcher", "rsh", "-launcher-exec", agent, "-localhost", "%s.%d" % (SUBNET, CONTROLLER),
                "-hosts", ",".join(hosts)]
        # Left alone MPICH crosses by shared memory, and UCX answers every small frame with a round trip.
        env = {"UCX_TLS": "tcp,self", "UCX_NET_DEVICES": "eth0"}
        if "UCX_RNDV_THRESH" not in os.environ:
            env["UCX_RNDV_THRESH"] = "131072"
    command = args.command
    if kind == "openmpi" and "PATH" in os.environ:
        # Started by absolute path, Open MPI puts its own folder first in the ranks' PATH.
        command = [shutil.which("env") or "/usr/bin/env", "PATH=" + os.environ["PATH"]] + command
    return line + ["-np", str(ranks)] + args.mpirun_arg + command, env


def ranks_here():
    """The ranks of which a process lives in this PID namespace."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                m = re.search(rb"(?:^|\0)(?:OMPI_COMM_WORLD_RANK|PMI_RANK)=(\d+)\0", f.read())
        except OSError:
            continue  # it has ended
        if m:
            found.add(int(m[1]))
    return sorted(found)


def too_long(args, ranks):
    """What is said when --timeout ends a run."""
    still = ranks_here()
    say("not done after %d s: the command still ran on %s" % (
        args.timeout, "no rank, mpirun did" if not still else "all %d ranks" % ranks if len(still) == ranks else
        "rank%s %s of %d" % ("s" * (len(still) > 1), ", ".join(map(str, still)), ranks)))


def do_run(lab, args, path, kind, mask):
    agent = lab["folder"] + "/agent"
    put(agent, AGENT.format(python=sys.executable, base=FD_BASE, net=NEWNET, uts=NEWUTS))
    os.chmod(agent, 0o700)
    os.mkdir(lab["folder"] + "/tmp", 0o700)
    line, added = mpirun_line(lab, args, path, kind, agent)
    env = dict(os.environ, **added)
    env.update({"THINWIRE_NETLAB_HOSTS": str(lab["hosts"])})
    if lab["rate"]:
        env.update({"THINWIRE_NETLAB_RATE": str(lab["rate"]), "THINWIRE_NETLAB_BURST": str(lab["burst"])})
    if args.measure:
        env["THINWIRE_NETLAB_GOODPUT"] = str(round(measure(lab)))
    counted = args.counters or args.expect_bytes is not None or args.expect_bytes_from is not None
    started = time.time()
    before = all_counters(lab) if counted else None
    status = run_child(line, env, mask, args.timeout, lambda: too_long(args, args.np or lab["hosts"]))
    if status == 0 and counted:
        status = account(lab, before, started, args)
    return status
