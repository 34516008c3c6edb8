# SPDX-License-Identifier: LGPL-2.1-or-later
"""System calls that Python 3.9 to 3.11 have no function for."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

CLONE_FILES = 0x400
CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_MOVE = 0x2000
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_GET_NAME = 16

# The numbers from 424 on are the same everywhere.
_NUMBERS = {
    "x86_64": {
        "clone": 56,
        "io_setup": 206,
        "perf_event_open": 298,
        "seccomp": 317,
        "kcmp": 312,
        "bpf": 321,
        "userfaultfd": 323,
        "sched_setattr": 314,
    },
    "aarch64": {
        "clone": 220,
        "io_setup": 0,
        "perf_event_open": 241,
        "seccomp": 277,
        "kcmp": 272,
        "bpf": 280,
        "userfaultfd": 282,
        "sched_setattr": 274,
    },
}
_COMMON = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "memfd_secret": 447,
}

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the GIL during a call, as a raw clone() requires.
_pylibc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_pylibc.syscall.restype = ctypes.c_long


def _check(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def syscall(name: str, *args: object) -> int:
    """Make a system call by name; integers are passed as ``long``."""
    number = _COMMON.get(name) or _NUMBERS.get(platform.machine(), {}).get(name)
    if number is None:
        raise OSError(38, f"{name}: number unknown on {platform.machine()}")
    longs = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    return _check(_libc.syscall(ctypes.c_long(number), *longs), name)


def libc(name: str, *args: object) -> int:
    """Call a function of libc that returns -1 and sets errno on failure."""
    function = getattr(_libc, name, None)
    if function is None:
        raise OSError(38, f"{name}: not in this libc")
    return _check(int(function(*args)), name)


def clone_sharing_files() -> int:
    """Fork, but with one file table for both (``CLONE_FILES`` without ``CLONE_THREAD``)."""
    number = _NUMBERS[platform.machine()]["clone"]
    sigchld = 17
    arguments = [ctypes.c_long(a) for a in (number, CLONE_FILES | sigchld, 0, 0, 0, 0)]
    return _check(_pylibc.syscall(*arguments), "clone")


def unshare(flags: int) -> None:
    libc("unshare", ctypes.c_int(flags))


def setns(fd: int, kind: int = 0) -> None:
    libc("setns", ctypes.c_int(fd), ctypes.c_int(kind))


def mount(source: bytes, target: bytes, fstype: bytes, flags: int = 0, data: bytes = b"") -> None:
    libc("mount", source, target, fstype, ctypes.c_ulong(flags), data)


def umount(target: bytes, flags: int = 0) -> None:
    libc("umount2", target, ctypes.c_int(flags))


def set_comm(comm: bytes) -> None:
    """Name the calling thread; the kernel keeps 15 bytes."""
    libc("prctl", ctypes.c_int(PR_SET_NAME), ctypes.c_char_p(comm), 0, 0, 0)


def get_comm() -> bytes:
    buffer = ctypes.create_string_buffer(16)
    libc("prctl", ctypes.c_int(PR_GET_NAME), buffer, 0, 0, 0)
    return buffer.value


def die_with_parent() -> None:
    libc("prctl", ctypes.c_int(PR_SET_PDEATHSIG), ctypes.c_ulong(9), 0, 0, 0)


def sockaddr_un(name: bytes) -> bytes:
    """Make a ``struct sockaddr_un`` with exactly these bytes of name."""
    return (1).to_bytes(2, sys.byteorder) + name


def bind_raw(fd: int, address: bytes) -> None:
    """``bind`` to an address given in bytes, which Python may have no form for."""
    libc("bind", fd, address, ctypes.c_uint(len(address)))


def connect_raw(fd: int, address: bytes) -> None:
    libc("connect", fd, address, ctypes.c_uint(len(address)))


def _address(function: str, fd: int) -> bytes:
    buffer = ctypes.create_string_buffer(256)
    length = ctypes.c_uint(256)
    libc(function, fd, buffer, ctypes.byref(length))
    return buffer.raw[: length.value]


def unix_name(function: str, fd: int) -> bytes:
    """
    Get the name of a unix socket from ``getsockname`` or ``getpeername``.

    Python gets a path of 108 bytes wrong, whose terminating zero is outside
    ``struct sockaddr_un``.
    """
    name = _address(function, fd)[2:]
    if name.startswith(b"\0"):
        return name
    return name.split(b"\0", 1)[0]


def socket_option(fd: int, option: int) -> int:
    """An integer option of level ``SOL_SOCKET``, without a Python socket."""
    value, length = ctypes.c_int(), ctypes.c_uint(4)
    sol_socket = 1
    libc("getsockopt", fd, sol_socket, option, ctypes.byref(value), ctypes.byref(length))
    return value.value


def ask_option(fd: int, level: int, option: int, question: bytes) -> bytes:
    """Get an option whose getsockopt reads *question* from the buffer that it answers in."""
    buffer, length = ctypes.create_string_buffer(question, len(question)), ctypes.c_uint()
    length.value = len(question)
    libc("getsockopt", fd, level, option, buffer, ctypes.byref(length))
    return buffer.raw[: length.value]


def kcmp_files(pid1: int, pid2: int) -> bool:
    """Whether two tasks have the same file table."""
    kcmp_files_ = 2
    return syscall("kcmp", pid1, pid2, kcmp_files_, 0, 0) == 0


def netns_inode() -> int:
    """The network namespace this thread is in."""
    return Path("/proc/thread-self/ns/net").stat().st_ino
