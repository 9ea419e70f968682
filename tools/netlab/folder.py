# SPDX-License-Identifier: BSD-3-Clause
"""The folder of a lab, whose lock tells whether its owner lives."""
import fcntl
import json
import os
import shutil
import stat

from .common import EX_LAB, EX_REFUSED, Fail


def in_user_namespace():
    """Whether this process knows only some of the machine's users."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as f:
            return f.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def base_folder():
    """One folder a user, on a file system that lets programs be run."""
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        try:
            if not os.access(place, os.W_OK) or os.statvfs(place).f_flag & os.ST_NOEXEC:
                continue
        except OSError:
            continue
        path = "%s/thinwire-netlab-%d" % (place, os.geteuid())
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        st = os.lstat(path)
        if st.st_uid != os.geteuid() and in_user_namespace():
            raise Fail(EX_REFUSED, "%s belongs to a user from outside of this user namespace" % path)
        if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.geteuid() or st.st_mode & 0o077:
            raise Fail(EX_LAB, "%s is not a private folder of yours: remove it" % path)
        return path
    raise Fail(EX_LAB, "none of /tmp, /var/tmp and /dev/shm can hold a program")


def alive(path):
    """A folder's owner lives as long as the lock is taken."""
    try:
        fd = os.open(path + "/lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


class Registry:
    """The labs and runs of this user; held locked while entries are made, looked up and swept."""

    def __init__(self):
        self.base = base_folder()
        self.lock = os.open(self.base + "/.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self):
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        for name in os.listdir(self.base):
            if name != ".lock" and not alive(self.base + "/" + name):
                shutil.rmtree(self.base + "/" + name, ignore_errors=True)
        return self

    def __exit__(self, *_):
        fcntl.flock(self.lock, fcntl.LOCK_UN)

    def names(self, lab):
        return [n for n in os.listdir(self.base) if n == lab or n.startswith(lab + "+")]

    def read(self, name):
        try:
            with open("%s/%s/lab.json" % (self.base, name), encoding="utf-8") as f:
                return json.load(f)
        except (OSError, ValueError):
            return None

    def create(self, name):
        """A new entry, locked for as long as this process or a child of it lives."""
        path = self.base + "/" + name
        os.mkdir(path, 0o700)
        fcntl.flock(os.open(path + "/lock", os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)
        return path
