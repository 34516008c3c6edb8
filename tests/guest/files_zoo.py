# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A process that holds files of the kinds that have lines of their own in fdinfo, in the states
that those lines tell apart, and locks of every kind.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from vm.workloads import syscalls
from vm.workloads.syscalls import libc

# include/uapi/asm-generic/fcntl.h, and linux/fcntl.h
_F_OFD_SETLK = 37
_F_SETLEASE = 1024
# include/uapi/linux/fanotify.h
_FAN_REPORT_FID = 0x200
_FAN_UNLIMITED_QUEUE = 0x10
_FAN_MARK_ADD = 0x1
_FAN_MARK_MOUNT = 0x10
_FAN_MARK_FILESYSTEM = 0x100
_FAN_MARK_IGNORED_MASK = 0x20
_FAN_MARK_IGNORED_SURV_MODIFY = 0x40
_FAN_MARK_EVICTABLE = 0x200
_FAN_OPEN = 0x20
_FAN_CLOSE_WRITE = 0x8
_AT_FDCWD = -100
_CLONE_NEWPID = 0x20000000
_UFFDIO_API = 0xC018AA3F
_TUNSETIFF = 0x400454CA
_EPOLLEXCLUSIVE = 1 << 28


class Zoo:
    """What is held: fds by names, and what the kernel does not have."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.fds: dict[str, int] = {}
        self.lacking: dict[str, str] = {}
        #: Processes to end with it.
        self.children: list[int] = []
        self._kept: list[Any] = []

    def hold(self, name: str, file: Any) -> int:
        self._kept.append(file)
        fd: int = file if isinstance(file, int) else file.fileno()
        self.fds[name] = fd
        return fd

    def attempt(self, name: str, make: Callable[[], object]) -> None:
        try:
            make()
        except OSError as e:
            self.lacking[name] = str(e)

    def fill(self) -> None:
        for part in (
            self._locks,
            self._leases,
            self._epoll,
            self._timers,
            self._signals,
            self._inotify,
            self._fanotify,
            self._pidfds,
            self._userfaultfds,
            self._terminals,
            self._tap,
            self._scm,
        ):
            part()

    def _file(self, name: str, flags: int = os.O_RDWR) -> int:
        path = self.work / name
        path.touch()
        return self.hold(f"{name} {len(self.fds)}", os.open(path, flags))

    def _locks(self) -> None:
        fcntl.flock(self._file("flock"), fcntl.LOCK_EX)
        shared = self._file("flock shared")
        fcntl.flock(shared, fcntl.LOCK_SH)
        # Of the same open file.
        self.hold("flock dup", os.dup(shared))
        other = self._file("flock shared")
        fcntl.flock(other, fcntl.LOCK_SH)
        self._file("flock shared")
        fcntl.flock(self.hold("flock dir", os.open(self.work, os.O_RDONLY)), fcntl.LOCK_SH)

        posix = self._file("posix")
        fcntl.lockf(posix, fcntl.LOCK_EX, 10, 100)
        fcntl.lockf(posix, fcntl.LOCK_SH, 5, 3)
        fcntl.lockf(posix, fcntl.LOCK_SH, 0, 1 << 40)
        # Locks are the process's, but shown with the file that they were taken through.
        self._file("posix")

        def ofd(fd: int, type_: int, start: int, length: int) -> None:
            lock = struct.pack("hhqqi4x", type_, os.SEEK_SET, start, length, 0)
            fcntl.fcntl(fd, _F_OFD_SETLK, lock)

        both = self._file("ofd")
        ofd(both, fcntl.F_WRLCK, 0, 1)
        ofd(both, fcntl.F_RDLCK, 7, 0)
        fcntl.flock(both, fcntl.LOCK_EX)
        fcntl.lockf(both, fcntl.LOCK_EX, 1, 2)
        # A lock that is the child's, who has the same open file.
        child = self._file("child's")
        ready, done = os.pipe()

        def lock() -> None:
            fcntl.lockf(child, fcntl.LOCK_EX, 1, 0)
            os.write(done, b"x")

        self._fork(lock)
        os.read(ready, 1)

    def _fork(self, body: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            syscalls.die_with_parent()
            body()
            while True:
                signal.pause()
        self.children.append(pid)
        return pid

    def _leases(self) -> None:
        # Who breaks one has the holder signalled.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        for name, flags, type_ in (
            ("lease read", os.O_RDONLY, fcntl.F_RDLCK),
            ("lease write", os.O_RDWR, fcntl.F_WRLCK),
            ("lease broken", os.O_RDWR, fcntl.F_WRLCK),
            ("lease downgraded", os.O_RDWR, fcntl.F_WRLCK),
        ):
            fcntl.fcntl(self._file(name, flags), _F_SETLEASE, type_)
        # It takes the kernel 45 s to break it for good.
        for name, flags in (("lease broken", os.O_WRONLY), ("lease downgraded", os.O_RDONLY)):
            with contextlib.suppress(BlockingIOError):
                os.open(self.work / name, flags | os.O_NONBLOCK)

    def _epoll(self) -> None:
        epoll = select.epoll()
        self.hold("epoll", epoll)
        ends = [end for _ in range(40) for end in os.pipe()]
        for i, end in enumerate(ends):
            self.hold(f"pipe {i}", end)
            epoll.register(end, (select.EPOLLIN, select.EPOLLET, _EPOLLEXCLUSIVE)[i % 3])
        # A target whose fd is closed, but not the file.
        os.dup2(ends[0], 500)
        os.close(ends[0])
        del self.fds["pipe 0"]
        self.hold("dup", 500)
        self.hold("empty epoll", select.epoll())

    def _timers(self) -> None:
        for clock in (0, 1, 7, 8, 9):
            for flags, value in ((0, 5000), (1, 2_000_000_000), (0, 0)):
                name = f"timer {clock} {flags} {value}"
                self.attempt(name, partial(self._timer, clock, flags, value))
        # TFD_TIMER_CANCEL_ON_SET
        self.attempt("cancelled", lambda: self._timer(0, 3, 2_000_000_000))
        self._timer(1, 0, 0, nsec=1000)
        time.sleep(0.01)

    def _timer(self, clock: int, flags: int, value: int, nsec: int = 0) -> None:
        fd = libc("timerfd_create", clock, os.O_CLOEXEC)
        self.hold(f"timer {clock} {flags} {value} {nsec}", fd)
        libc("timerfd_settime", fd, flags, struct.pack("4q", 3, 5, value, nsec), None)

    def _signals(self) -> None:
        for name, mask in (("none", 0), ("some", 1 << 9 | 1 << 40), ("all", (1 << 64) - 1)):
            sigset = struct.pack("16Q", mask, *[0] * 15)
            self.hold(f"signalfd {name}", libc("signalfd", -1, sigset, os.O_CLOEXEC))

    def _inotify(self) -> None:
        fd = self.hold("inotify", libc("inotify_init1", os.O_NONBLOCK))
        in_oneshot, in_excl_unlink = 1 << 31, 1 << 26
        for path, mask in (
            ("/", 0xFFF),
            ("/dev", 0x100),
            ("/dev/pts", 0x100),
            ("/proc", 0x100 | in_oneshot),
            ("/proc/self/status", 0x2),
            ("/sys/kernel", 0x100 | in_excl_unlink),
            (str(self.work), 0x200),
        ):
            watch = ctypes.c_uint(mask)
            self.attempt(path, partial(libc, "inotify_add_watch", fd, path.encode(), watch))
        self.hold("empty inotify", libc("inotify_init1", 0))

    def _fanotify(self) -> None:
        def init(name: str, flags: int, event_flags: int) -> int:
            fd = libc("fanotify_init", ctypes.c_uint(flags), ctypes.c_uint(event_flags))
            return self.hold(name, fd)

        def mark(fd: int, flags: int, mask: int, path: str) -> None:
            libc(
                "fanotify_mark",
                fd,
                ctypes.c_uint(_FAN_MARK_ADD | flags),
                ctypes.c_uint64(mask),
                _AT_FDCWD,
                path.encode(),
            )

        def all_marks() -> None:
            work = str(self.work)
            first = init("fanotify", _FAN_UNLIMITED_QUEUE, os.O_RDWR | os.O_CLOEXEC)
            for name, flags, path in (
                ("inode", 0, work),
                ("mount", _FAN_MARK_MOUNT, work),
                ("sb", _FAN_MARK_FILESYSTEM, work),
                ("proc", 0, "/proc/version"),
                ("ignored", _FAN_MARK_IGNORED_MASK, "/dev/null"),
                ("surviving", _FAN_MARK_IGNORED_MASK | _FAN_MARK_IGNORED_SURV_MODIFY, "/dev"),
                ("evictable", _FAN_MARK_EVICTABLE, "/dev/zero"),
            ):
                self.attempt(
                    f"fanotify {name}", partial(mark, first, flags, _FAN_CLOSE_WRITE, path)
                )
            second = init("fanotify fid", _FAN_REPORT_FID, os.O_RDONLY)
            mark(second, 0, _FAN_OPEN, "/")

        self.attempt("fanotify", all_marks)

    def _pidfds(self) -> None:
        self.hold("pidfd self", os.pidfd_open(os.getpid()))
        gone = os.fork()
        if gone == 0:
            os._exit(0)
        pidfd = self.hold("pidfd gone", os.pidfd_open(gone))
        zombie = os.fork()
        if zombie == 0:
            os._exit(0)
        self.hold("pidfd zombie", os.pidfd_open(zombie))
        os.waitpid(gone, 0)
        select.select([pidfd], [], [])
        self._nested()

    def _nested(self) -> None:
        """A process two PID namespaces further in."""
        ready, done = os.pipe()

        def inner() -> None:
            syscalls.unshare(_CLONE_NEWPID)
            self._fork(lambda: os.write(done, b"x"))

        def outer() -> None:
            syscalls.unshare(_CLONE_NEWPID)
            self._fork(inner)

        pid = self._fork(outer)
        os.read(ready, 1)
        for _ in range(3):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if not children:
                break
            pid = int(children[0])
            self.hold(f"pidfd {pid}", os.pidfd_open(pid))

    def _userfaultfds(self) -> None:
        def plain() -> None:
            self.hold("userfaultfd", syscalls.syscall("userfaultfd", os.O_CLOEXEC))

        def with_api() -> None:
            fd = self.hold("userfaultfd api", syscalls.syscall("userfaultfd", os.O_NONBLOCK))
            # UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_SIGBUS
            fcntl.ioctl(fd, _UFFDIO_API, struct.pack("3Q", 0xAA, 1 << 5 | 1 << 7, 0))

        self.attempt("userfaultfd", plain)
        self.attempt("userfaultfd api", with_api)

    def _terminals(self) -> None:
        for i in range(3):
            master, slave = os.openpty()
            self.hold(f"ptmx {i}", master)
            self.hold(f"pts {i}", slave)
        # Who loses its master is hung up.
        master, slave = os.openpty()
        self.hold("pts hung up", slave)
        os.close(master)

        def session() -> None:
            os.setsid()
            fcntl.ioctl(self.fds["pts 1"], termios.TIOCSCTTY, 0)
            os.write(done, b"x")

        ready, done = os.pipe()
        self._fork(session)
        os.read(ready, 1)
        self.attempt("console", lambda: self.hold("console", os.open("/dev/console", os.O_WRONLY)))

    def _tap(self) -> None:
        def tap() -> None:
            subprocess.run(["modprobe", "tun"], check=False, stderr=subprocess.DEVNULL)
            iff_tap, iff_no_pi = 2, 0x1000
            fd = self.hold("tap", os.open("/dev/net/tun", os.O_RDWR))
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH14x", b"zoo%d", iff_tap | iff_no_pi))
            self.hold("tun without", os.open("/dev/net/tun", os.O_RDWR))

        self.attempt("tap", tap)

    def _scm(self) -> None:
        def send(sock: socket.socket, count: int) -> None:
            fds = struct.pack(f"{count}i", *[0] * count)
            sock.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])

        for name, type_ in (("stream", socket.SOCK_STREAM), ("dgram", socket.SOCK_DGRAM)):
            a, b = socket.socketpair(socket.AF_UNIX, type_)
            self.hold(f"{name} a", a)
            self.hold(f"{name} b", b)
            send(a, 3)
            send(a, 2)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.fsencode(self.work / "listener"))
        listener.listen(5)
        self.hold("listener", listener)
        for count in (1, 4):
            client = socket.socket(socket.AF_UNIX)
            client.connect(os.fsencode(self.work / "listener"))
            self.hold(f"client {count}", client)
            send(client, count)
        self.hold("never bound", socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        self.hold("tcp", socket.socket())


def main(work: str) -> None:
    """Hold all of it, say so, and wait."""
    syscalls.die_with_parent()
    zoo = Zoo(Path(work))
    zoo.fill()
    print(json.dumps({"fds": zoo.fds, "lacking": zoo.lacking, "children": zoo.children}))
    sys.stdout.flush()
    signal.pause()


@contextlib.contextmanager
def opened(work: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """
    Such a process, while it lives.

    :return: Its PID, and what it says of itself
    """
    argv = [sys.executable, "-c", f"from {__name__} import main; main({str(work)!r})"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=root) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            yield process.pid, said
        finally:
            process.kill()


if __name__ == "__main__":
    main(sys.argv[1])
