# SPDX-License-Identifier: BSD-3-Clause
"""The kernel: namespaces, and programs that set up what is in them."""
import ctypes
import errno
import os
import re
import shutil
import subprocess

from .common import (
    EX_LAB, EX_MISSING, EX_REFUSED, FD_BASE, NEWIPC, NEWNET, NEWNS, NEWPID, NEWUSER, NEWUTS, Fail, libc, put)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000


def hint():
    """Why an ordinary user may be refused, where the kernel says so."""
    for path, bad, text in (
            ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone is 0"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
             "kernel.apparmor_restrict_unprivileged_userns is 1"),
            ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces is 0")):
        try:
            with open(path, encoding="ascii") as f:
                if f.read().strip() == bad:
                    return "; " + text
        except OSError:
            pass
    return "" if os.geteuid() == 0 else "; root may be allowed"


def refused(what, number):
    return Fail(EX_REFUSED, "the kernel, or the rights of this process, refuse %s: %s%s"
                % (what, os.strerror(number), hint()))


def call(what, result):
    if result != 0:
        raise refused(what, ctypes.get_errno())


def setns(fd, kind):
    call("to enter a namespace", libc.setns(fd, kind))


def set_hostname(name):
    raw = name.encode()
    call("to name a host", libc.sethostname(raw, len(raw)))


def new_spaces():
    """Leave the machine's namespaces; the next child is number 1 of a new PID namespace."""
    kinds = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        if libc.unshare(kinds) == 0:
            return
        if ctypes.get_errno() != errno.EPERM:
            raise refused("new namespaces", ctypes.get_errno())
    call("a new user namespace", libc.unshare(NEWUSER))
    try:
        put("/proc/self/setgroups", "deny")
        put("/proc/self/uid_map", "0 %d 1" % uid)
        put("/proc/self/gid_map", "0 %d 1" % gid)
    except OSError as e:
        raise refused("to map this user into a user namespace", e.errno) from e
    call("new namespaces", libc.unshare(kinds))


def join_spaces(lab):
    """Enter the namespaces of a lab that is up, but for the PID and mount namespaces, which are new."""
    root = "/proc/%d/" % lab["pid"]
    try:
        for k in range(2 * lab["hosts"]):
            keep_fd(os.open(root + "fd/%d" % (FD_BASE + k), os.O_RDONLY), FD_BASE + k)
        user, net = os.open(root + "ns/user", os.O_RDONLY), os.open(root + "ns/net", os.O_RDONLY)
        same = os.stat(root + "ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino
    except OSError as e:
        raise Fail(EX_LAB, "cannot enter the lab %s: %s" % (lab["name"], e.strerror)) from e
    if not same:
        setns(user, NEWUSER)
    setns(net, NEWNET)
    call("new namespaces", libc.unshare(NEWNS | NEWUTS | NEWIPC | NEWPID))


def keep_fd(fd, number):
    os.dup2(fd, number, inheritable=False)
    os.close(fd)


def become_init(name):
    """First steps of process 1: its own view of mounts and processes, and an address book that others may open."""
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    libc.prctl(PR_SET_NAME, ("netlab-" + name).encode()[:15], 0, 0, 0)
    call("private mounts", libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    call("to mount /proc", libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None))
    set_hostname(name + "-ctl")


# ---- programs ----

def find_program(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")
    if path is None:
        package = " (Debian: apt install iproute2)" if name in ("ip", "tc") else ""
        raise Fail(EX_MISSING, "the program %s is missing%s" % (name, package))
    return path


def batch(program, lines, netns=None):
    """Feed commands to ip or tc, inside a host's network namespace if one is given."""
    enter = None if netns is None else (lambda: setns(netns, NEWNET))
    done = subprocess.run([find_program(program), "-batch", "-"], input="\n".join(lines) + "\n", text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=enter, check=False)
    if done.returncode != 0:
        words = " ".join(done.stderr.split()) or "it gave status %d" % done.returncode
        lacks = re.search("not permitted|not supported|Unknown device type|unknown|No such file", words)
        raise Fail(EX_REFUSED if lacks else EX_LAB,
                   "%s failed to set up the lab: %s%s" % (program, words, hint() if lacks else ""))
