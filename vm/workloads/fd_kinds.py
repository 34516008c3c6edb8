# SPDX-License-Identifier: LGPL-2.1-or-later
# Paths are bytes here; pathlib has none.
# ruff: noqa: PTH102, PTH116, PTH123
"""
Each kind of file in full: locks, watches, queues that are not empty, calls that wait.

Locks of all types, timers of all clocks, epoll in epoll, BPF maps of many types, programs, links
and iterators, an io_uring with registered files and requests that wait, sealed memory, messages, a
supervisor of system calls; in children, files of namespaces of their own. The ``detail`` of an
entry says what was asked for. Kinds that this kernel does not have are listed as skipped.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from . import bpf, syscalls, uring
from .process import Process

CLOEXEC, NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
_AT_FDCWD = -100
_PAGE = 4096

#: Memory whose address the kernel has.
_KEPT: list[object] = []

_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.restype = ctypes.c_void_p


def _file(me: Process, name: bytes, size: int = 1000) -> int:
    path = os.fsencode(me.work) + b"/" + name
    fd = os.open(path, os.O_RDWR | os.O_CREAT | CLOEXEC, 0o640)
    os.ftruncate(fd, size)
    return me.hold(fd, "file", path)


# Locks.


def _range_lock(fd: int, command: int, kind: int, start: int, length: int) -> None:
    # struct flock
    fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


def _lock(kind: str, mode: str, start: int = 0, end: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "mode": mode, "start": start, "end": end}


def _locks(me: Process) -> None:
    f_ofd_setlk, f_setlease = 37, 1024
    fd = _file(me, b"flock-exclusive")
    fcntl.flock(fd, fcntl.LOCK_EX)
    me.note(fd, detail={"locks": [_lock("flock", "write")]})
    fd = _file(me, b"flock-shared")
    fcntl.flock(fd, fcntl.LOCK_SH)
    me.note(fd, detail={"locks": [_lock("flock", "read")]}, same_file="flock")
    me.dup(fd)

    # Locks of the process: closing any descriptor of the file would release them.
    fd = _file(me, b"posix")
    rows = [("write", 0, 9), ("read", 100, 199), ("write", 500, None)]
    for mode, start, end in rows:
        kind = fcntl.F_WRLCK if mode == "write" else fcntl.F_RDLCK
        _range_lock(fd, fcntl.F_SETLK, kind, start, 0 if end is None else end - start + 1)
    me.note(fd, detail={"locks": [_lock("posix", *row) for row in rows]})

    fd = _file(me, b"ofd")
    rows = [("read", 0, 0), ("write", 2**40, 2**40 + 5)]
    for mode, start, end in rows:
        kind = fcntl.F_WRLCK if mode == "write" else fcntl.F_RDLCK
        _range_lock(fd, f_ofd_setlk, kind, start, (end or 0) - start + 1)
    me.note(fd, detail={"locks": [_lock("ofd", *row) for row in rows]})

    # A read lease takes a descriptor that cannot write; a write lease, a file opened only once.
    for mode, flags in (("read", os.O_RDONLY), ("write", os.O_RDWR)):

        def lease(mode: str = mode, flags: int = flags) -> None:
            path = os.fsencode(me.work) + b"/lease-" + mode.encode()
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o640))
            fd = me.hold(os.open(path, flags | CLOEXEC), "file", path)
            fcntl.fcntl(fd, f_setlease, fcntl.F_RDLCK if mode == "read" else fcntl.F_WRLCK)
            me.note(fd, detail={"locks": [_lock("lease", mode)]})

        me.attempt(f"lease to {mode}", lease)


# Files that report events.


def _timers(me: Process) -> None:
    absolute, cancel_on_set = 1, 2

    def timer(clock: int, flags: int, first_ns: int, interval_ns: int, **facts: Any) -> None:
        fd = syscalls.libc("timerfd_create", clock, CLOEXEC)
        me.hold(fd, "timerfd", "anon_inode:[timerfd]")
        value, interval = divmod(first_ns, 10**9), divmod(interval_ns, 10**9)
        spec = struct.pack("4q", *interval, *value)
        syscalls.libc("timerfd_settime", fd, flags, spec, None)
        interval_s = interval_ns / 1e9
        me.note(fd, detail={"clockid": clock, "interval_s": interval_s, "flags": flags, **facts})

    hour, week = 3600 * 10**9, 7 * 86400 * 10**9
    for clock in (0, 1, 7, 8, 9):
        what = f"timer of clock {clock}"
        me.attempt(what, partial(timer, clock, 0, hour, 2 * hour + 5))
    soon = time.clock_gettime_ns(time.CLOCK_REALTIME) + week
    timer(0, absolute | cancel_on_set, soon, 0)
    timer(1, absolute, time.clock_gettime_ns(time.CLOCK_MONOTONIC) + week, hour)
    timer(1, 0, 1, 0, ticks=1)
    timer(7, 0, 1, week, ticks=1)
    timer(0, 0, 0, 0)


def _events(me: Process) -> None:
    eventfds = []
    for count, flags in ((0, 1), (3, 1), (2**32 - 1, 0)):
        fd = syscalls.libc("eventfd", ctypes.c_uint(count), ctypes.c_int(flags | CLOEXEC))
        me.hold(fd, "eventfd", "anon_inode:[eventfd]")
        me.note(fd, detail={"count": count, "semaphore": bool(flags & 1)})
        eventfds.append(fd)
    os.write(eventfds[2], struct.pack("=Q", 2**64 - 2 - (2**32 - 1)))
    me.note(eventfds[2], detail={"count": 2**64 - 2, "semaphore": False})

    def add(epoll: int, fd: int, events: int, data: int) -> dict[str, Any]:
        # struct epoll_event is packed on x86.
        packed = "=IQ" if os.uname().machine == "x86_64" else "=IxxxxQ"
        syscalls.libc("epoll_ctl", epoll, 1, fd, struct.pack(packed, events, data))
        return {"fd": fd, "events": events, "data": data}

    def epoll() -> int:
        fd = syscalls.libc("epoll_create1", CLOEXEC)
        return me.hold(fd, "eventpoll", "anon_inode:[eventpoll]")

    one_shot, edge, exclusive, wakeup = 1 << 30, 1 << 31, 1 << 28, 1 << 29
    first, second, third = epoll(), epoll(), epoll()
    watched = [
        add(first, eventfds[0], select.EPOLLIN | one_shot, 2**64 - 1),
        add(first, eventfds[1], select.EPOLLIN | edge | exclusive, 0),
        add(first, eventfds[2], select.EPOLLPRI | select.EPOLLRDHUP | wakeup, 0x123456789ABCDEF),
    ]
    me.note(first, detail={"watched": watched})
    me.note(second, detail={"watched": [add(second, first, select.EPOLLIN, 1)]})
    me.note(third, detail={"watched": [add(third, second, 0, 2)]})

    # Another file has this number by now.
    fd = syscalls.libc("eventfd", ctypes.c_uint(7), ctypes.c_int(CLOEXEC))
    me.hold(fd, "eventfd", "anon_inode:[eventfd]", detail={"count": 7, "semaphore": False})
    me.dup(fd)
    old = fd
    stale = epoll()
    me.note(stale, detail={"watched": [add(stale, old, select.EPOLLIN, old)]}, note="stale fd")
    me.drop(old)
    path = b"/dev/null"
    null = os.open(path, os.O_RDONLY | CLOEXEC)
    if null != old:
        os.dup2(null, old, False)
        os.close(null)
    me.hold(old, "char", path)

    mask = (1 << 64) - 1
    for number in (signal.SIGKILL, signal.SIGSTOP):
        mask &= ~(1 << (number - 1))
    for wanted in (mask, 1 << 63, 0):
        fd = syscalls.libc("signalfd", -1, struct.pack("16Q", wanted, *[0] * 15), CLOEXEC)
        me.hold(fd, "signalfd", "anon_inode:[signalfd]", detail={"sigmask": f"{wanted:016x}"})


def _inotify(me: Process) -> None:
    one_shot, excl_unlink, onlydir = 0x80000000, 0x04000000, 0x01000000
    fd = me.hold(
        syscalls.libc("inotify_init1", NONBLOCK | CLOEXEC), "inotify", "anon_inode:inotify"
    )
    regular = _file(me, b"watched")
    watches = []
    for path, mask in (
        (os.fsencode(me.work) + b"/watched", 0xFFF | excl_unlink),
        (os.fsencode(me.work), 0x100 | onlydir),
        (b"/", 0x200),
        (b"/proc/self", 0x400),
        (b"/sys/kernel", 0x800),
        (b"/dev", 0x40 | one_shot),
    ):
        wd = syscalls.libc("inotify_add_watch", fd, path, ctypes.c_uint(mask))
        status = os.stat(path)
        watches.append({"wd": wd, "inode": status.st_ino, "dev": status.st_dev, "mask": mask})
    me.note(fd, detail={"watches": watches})
    me.note(regular, note="watched")


def _fanotify(me: Process, mount: bytes) -> None:
    """Marks of a mount and a file system that nobody else sees."""
    add, remove_ignored, at_mount, at_sb = 1, 0x20, 0x10, 0x100
    survive = 0x40

    def group(flags: int, event_flags: int, marks: list[tuple[int, int, bytes]]) -> None:
        fd = syscalls.libc("fanotify_init", ctypes.c_uint(flags), ctypes.c_uint(event_flags))
        me.hold(fd, "fanotify", "anon_inode:[fanotify]")
        rows = []
        for how, mask, path in marks:
            syscalls.libc(
                "fanotify_mark",
                *(fd, ctypes.c_uint(add | how), ctypes.c_uint64(mask), _AT_FDCWD, path),
            )
            rows.append({"how": how, "mask": mask, "inode": os.stat(path).st_ino})
        me.note(fd, detail={"flags": flags, "event_flags": event_flags, "marks": rows})

    path = mount + b"/marked"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o640))
    access, close_write, on_child = 0x1, 0x8, 0x08000000
    create, ondir = 0x100, 0x40000000
    me.attempt(
        "fanotify with ignored events",
        partial(
            group,
            *(1 | 0x10, os.O_RDWR | 0o100000),
            [
                (0, close_write, path),
                (remove_ignored | survive, access, path),
                (0, close_write | on_child, mount),
            ],
        ),
    )
    me.attempt("fanotify of a mount", partial(group, 2 | 4, 0, [(at_mount, close_write, mount)]))
    me.attempt("fanotify of a file system", partial(group, 2, 0, [(at_sb, close_write, mount)]))
    # FAN_REPORT_FID, and FAN_REPORT_DFID_NAME
    me.attempt(
        "fanotify with file handles",
        partial(group, 0x200, 0, [(at_sb, create | ondir, mount), (0, create | ondir, mount)]),
    )
    me.attempt("fanotify with names", partial(group, 0xC00, 0, [(at_sb, create | ondir, mount)]))


# Memory.


def _memory(me: Process) -> None:
    f_add_seals, f_get_seals = 1033, 1034
    seals = {"seal": 1, "shrink": 2, "grow": 4, "write": 8, "future_write": 16, "exec": 32}
    for name, chosen in (
        ("sealed", ("shrink", "grow", "write", "seal")),
        ("future", ("future_write",)),
        ("exec", ("exec",)),
        ("unsealed", ()),
    ):

        def memfd(name: str = name, chosen: tuple[str, ...] = chosen) -> None:
            fd = me.hold(
                os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING),
                *("memfd", f"/memfd:{name} (deleted)"),
            )
            os.write(fd, b"m" * 1234)
            fcntl.fcntl(fd, f_add_seals, sum(seals[seal] for seal in chosen))
            bits = fcntl.fcntl(fd, f_get_seals)
            kept = [seal for seal, bit in seals.items() if bits & bit]
            me.note(fd, detail={"name": name, "size": 1234, "seals": kept})

        me.attempt(f"memfd {name}", memfd)

    def huge() -> None:
        fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_HUGETLB | os.MFD_ALLOW_SEALING)
        me.hold(fd, "memfd", "/memfd:huge (deleted)")
        fcntl.fcntl(fd, f_add_seals, seals["grow"])
        me.note(fd, detail={"name": "huge", "size": 0, "seals": ["grow"]})

    me.attempt("memfd of huge pages", huge)

    def secret() -> None:
        fd = syscalls.syscall("memfd_secret", 0)
        os.ftruncate(fd, 3 * _PAGE)
        me.hold(fd, "secretmem", None, detail={"size": 3 * _PAGE})

    me.attempt("memfd_secret", secret)

    def dma_buf() -> None:
        udmabuf_create, dma_buf_set_name = 0x40187542, 0x40086201
        memory = os.memfd_create("for-udmabuf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        device = -1
        try:
            os.ftruncate(memory, 4 * _PAGE)
            fcntl.fcntl(memory, f_add_seals, seals["shrink"])
            device = os.open("/dev/udmabuf", os.O_RDWR | CLOEXEC)
            wanted = bytearray(struct.pack("=IIQQ", memory, 1, 0, 4 * _PAGE))
            fd = fcntl.ioctl(device, udmabuf_create, wanted)
            me.hold(fd, "dmabuf", None, detail={"size": 4 * _PAGE, "exp_name": "udmabuf"})
            fcntl.ioctl(fd, dma_buf_set_name, b"ds-buffer\0")
            me.note(fd, detail={"size": 4 * _PAGE, "exp_name": "udmabuf", "name": "ds-buffer"})
            me.dup(fd)
        finally:
            os.close(memory)
            if device >= 0:
                os.close(device)

    me.attempt("udmabuf", dma_buf)

    def userfaultfd() -> None:
        api, register = 0xC018AA3F, 0xC020AA00
        fd = syscalls.syscall("userfaultfd", CLOEXEC | NONBLOCK)
        me.hold(fd, "userfaultfd", "anon_inode:[userfaultfd]")
        asked = bytearray(struct.pack("=QQQ", 0xAA, 0, 0))
        fcntl.ioctl(fd, api, asked)
        private_anonymous = 0x22
        address = _mmap(
            None, ctypes.c_size_t(8 * _PAGE), 3, private_anonymous, -1, ctypes.c_long(0)
        )
        missing = 1
        fcntl.ioctl(fd, register, bytearray(struct.pack("=QQQQ", address, 8 * _PAGE, missing, 0)))
        me.note(fd, detail={"pages": 8, "api": 0xAA})

    me.attempt("userfaultfd with memory", userfaultfd)


# Queues.


def _queues(me: Process) -> None:
    f_setpipe_sz = 1031
    read_end, write_end = os.pipe2(CLOEXEC)
    capacity = fcntl.fcntl(write_end, f_setpipe_sz, 1 << 18)
    for size in (5000, 3, 4096):
        os.write(write_end, b"p" * size)
    facts = {"unread": 9099, "capacity": capacity, "readers": 1, "writers": 1}
    me.hold(read_end, "pipe", detail=facts, inq=9099)
    me.hold(write_end, "pipe", detail=facts)
    me.add("pairs", a=me.end(read_end), b=me.end(write_end), how="pipe")

    read_end, write_end = os.pipe2(CLOEXEC | os.O_DIRECT)
    for size in (1, 2, 3):
        os.write(write_end, b"q" * size)
    facts = {"unread": 6, "capacity": 16 * _PAGE, "readers": 1, "writers": 1}
    me.hold(read_end, "pipe", detail=facts)
    me.hold(write_end, "pipe", detail=facts)

    path = os.fsencode(me.work) + b"/fifo"
    os.mkfifo(path)
    readers = [os.open(path, os.O_RDONLY | NONBLOCK | CLOEXEC) for _ in range(2)]
    writer = os.open(path, os.O_WRONLY | CLOEXEC)
    os.write(writer, b"unread in a FIFO")
    facts = {"unread": 16, "capacity": 16 * _PAGE, "readers": 2, "writers": 1}
    for fd in (*readers, writer):
        me.hold(fd, "fifo", path, detail=facts)

    def mqueue() -> None:
        name = b"/ds-messages"
        attributes = struct.pack("8q", 0, 7, 200, 0, 0, 0, 0, 0)
        fd = syscalls.libc(
            *("mq_open", name, os.O_RDWR | os.O_CREAT | NONBLOCK),
            *(ctypes.c_uint(0o600), attributes),
        )
        syscalls.libc("mq_unlink", name)
        sizes = (10, 200, 33)
        for size in sizes:
            syscalls.libc("mq_send", fd, b"m" * size, ctypes.c_size_t(size), ctypes.c_uint(1))
        sigev_none = 1
        syscalls.libc("mq_notify", fd, struct.pack("=QII48x", 0, 0, sigev_none))
        detail = {"messages": 3, "bytes": sum(sizes), "max_messages": 7, "max_size": 200}
        me.hold(fd, "mqueue", name + b" (deleted)", detail={**detail, "notify_pid": me.pid})

    me.attempt("mqueue with messages", mqueue)


def _rings(me: Process) -> None:
    def hold(fd: int, detail: dict[str, Any]) -> int:
        return me.hold(fd, "io_uring", "anon_inode:[io_uring]", detail=detail)

    def overflow() -> None:
        ring = uring.Ring(4)
        detail: dict[str, Any] = {"sq_entries": ring.sq_entries, "cq_entries": ring.cq_entries}
        hold(ring.fd, detail)
        # More completions than there is room for, which nobody takes.
        for first in (0, 4, 8):
            for number in range(first, first + 4):
                ring.queue(uring.OP_NOP, user_data=1000 + number)
            ring.submit(4)
        detail.update(cq_pending=ring.cq_entries, cq_overflow=12 - ring.cq_entries)

    def registered() -> None:
        ring = uring.Ring(8)
        detail: dict[str, Any] = {"sq_entries": ring.sq_entries, "cq_entries": ring.cq_entries}
        hold(ring.fd, detail)
        odd = _file(me, b"odd \n name\\")
        plain = _file(me, b"registered")
        files = array.array("i", [plain, -1, odd, 0])
        ring.register(uring.REGISTER_FILES, (ctypes.c_int * 4)(*files), 4)
        detail["files"] = [plain, None, odd, 0]
        memory = [ctypes.create_string_buffer(size) for size in (5000, 100)]
        addresses = [ctypes.addressof(buffer) for buffer in memory]
        _KEPT.extend(memory)
        vector = struct.pack("=4Q", addresses[0], 5000, addresses[1], 100)
        ring.register(uring.REGISTER_BUFFERS, ctypes.create_string_buffer(vector), 2)
        detail["bufs"] = [[addresses[0], 5000], [addresses[1], 100]]
        ring.register(uring.REGISTER_PERSONALITY, None, 0)

        # Two requests that wait for ever, two that are done, three that were not submitted.
        read_end, write_end = os.pipe2(CLOEXEC)
        me.hold(read_end, "pipe")
        me.hold(write_end, "pipe")
        for fd in (read_end, read_end):
            ring.queue(uring.OP_POLL_ADD, fd, 77, uring.POLLIN)
        ring.submit(2)
        for number in range(2):
            ring.queue(uring.OP_NOP, user_data=number)
        ring.submit(2)
        for number in range(3):
            ring.queue(uring.OP_READV, odd, 2**63 + number, 5)
        detail.update(polls=2, cq_pending=2, sq_pending=3)

    def big() -> None:
        ring = uring.Ring(4, uring.SETUP_SQE128 | uring.SETUP_CQE32)
        hold(ring.fd, {"sq_entries": 4, "cq_entries": 8, "cq_pending": 1, "sq_pending": 1})
        ring.queue(uring.OP_NOP, user_data=5)
        ring.submit(1)
        ring.queue(uring.OP_NOP, user_data=6)

    me.attempt("io_uring with more completions than room", overflow)
    me.attempt("io_uring with registered files", registered)
    me.attempt("io_uring with large entries", big)


# BPF.


def _maps(me: Process) -> dict[str, int]:
    maps: dict[str, int] = {}
    rows = [
        ("hash", bpf.HASH, 4, 12, 100, 0),
        ("hash_alloc", bpf.HASH, 8, 20, 100, bpf.NO_PREALLOC),
        ("array", bpf.ARRAY, 4, 5, 33, 0),
        ("mmapable", bpf.ARRAY, 4, 8, 600, bpf.MMAPABLE),
        ("prog_array", bpf.PROG_ARRAY, 4, 4, 3, 0),
        ("percpu_hash", bpf.PERCPU_HASH, 4, 12, 10, 0),
        ("percpu_array", bpf.PERCPU_ARRAY, 4, 12, 10, 0),
        ("stack_trace", bpf.STACK_TRACE, 4, 80, 16, 0),
        ("lru_hash", bpf.LRU_HASH, 4, 12, 64, 0),
        ("lru_percpu", bpf.LRU_PERCPU_HASH, 4, 12, 64, 0),
        ("lpm_trie", bpf.LPM_TRIE, 8, 4, 20, bpf.NO_PREALLOC),
        ("devmap", bpf.DEVMAP, 4, 4, 9, 0),
        ("sockmap", bpf.SOCKMAP, 4, 4, 9, 0),
        ("cpumap", bpf.CPUMAP, 4, 4, 2, 0),
        ("queue", bpf.QUEUE, 0, 8, 10, 0),
        ("stack", bpf.STACK, 0, 24, 5, 0),
        ("ringbuf", bpf.RINGBUF, 0, 0, 2 * _PAGE, 0),
        ("bloom", bpf.BLOOM_FILTER, 0, 8, 50, 0),
    ]
    for name, kind, key, value, entries, flags in rows:

        def one(
            name: str = name,
            kind: int = kind,
            sizes: tuple[int, int, int, int] = (key, value, entries, flags),
        ) -> None:
            fd = bpf.make_map(kind, *sizes, name=f"ds_{name}".encode())
            me.hold(fd, "bpf-map", "anon_inode:bpf-map")
            key, value, entries, flags = sizes
            me.note(
                fd,
                detail={
                    **{"name": f"ds_{name}", "map_type": kind, "key_size": key},
                    **{"value_size": value, "max_entries": entries, "flags": flags},
                },
            )
            maps[name] = fd

        me.attempt(f"BPF map {name}", one)

    for name, given, stored in (
        ("hash_alloc", b"k" * 8, b"v" * 20),
        ("hash_alloc", b"l" * 8, b"v" * 20),
        ("lpm_trie", struct.pack("=I4s", 8, b"\x0a\0\0\0"), b"data"),
    ):
        if name in maps:
            me.attempt(f"entry of BPF map {name}", partial(bpf.update, maps[name], given, stored))
    if "array" in maps:
        frozen = struct.pack("=I", maps["array"])
        me.attempt("frozen BPF map", partial(bpf.command, bpf.MAP_FREEZE, frozen))
    return maps


def _program(me: Process, kind: int, code: bytes = bpf.RETURN_0, **how: Any) -> int:
    name = f"ds_prog_{kind}"
    fd = bpf.load(kind, code, name.encode(), **how)
    detail = {"prog_type": kind, "name": name, "insns": len(code) // 8}
    return me.hold(fd, "bpf-prog", "anon_inode:bpf-prog", detail=detail)


def _hold_link(me: Process, fd: int, kind: str, **facts: Any) -> int:
    return me.hold(fd, "bpf_link", "anon_inode:bpf_link", detail={"type": kind, **facts})


def _bpf(me: Process) -> None:
    # Kernels before 5.11 count maps as locked memory.
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    maps = _maps(me)

    def tail_call() -> None:
        if "prog_array" not in maps:
            raise OSError(22, "no map of programs")
        prog = _program(me, bpf.SOCKET_FILTER)
        bpf.update(maps["prog_array"], struct.pack("=I", 0), struct.pack("=I", prog))

    def btf() -> None:
        me.hold(bpf.load_btf(), "btf", "anon_inode:btf")

    def raw_tracepoint() -> None:
        prog = _program(me, bpf.RAW_TRACEPOINT)
        fd = bpf.raw_tracepoint(prog, b"module_free")
        _hold_link(me, fd, "raw_tracepoint", prog=prog, tp_name="module_free")

    def tracing() -> None:
        target = bpf.function_id(b"bpf_fentry_test1")
        prog = _program(me, bpf.TRACING, attach_type=bpf.TRACE_FENTRY, btf_id=target)
        fd = bpf.raw_tracepoint(prog, None)
        _hold_link(me, fd, "tracing", prog=prog, attach_type=bpf.TRACE_FENTRY)

    def iterator(target: str, info: bytes = b"") -> None:
        function = bpf.function_id(f"bpf_iter_{target}".encode())
        prog = _program(me, bpf.TRACING, attach_type=bpf.TRACE_ITER, btf_id=function)
        link = bpf.link(prog, 0, bpf.TRACE_ITER, info=info)
        _hold_link(me, link, "iter", prog=prog, target=target)
        fd = bpf.command(bpf.ITER_CREATE, struct.pack("=II", link, 0))
        me.hold(fd, "bpf_iter", "anon_inode:bpf_iter", detail={"target": target, "prog": prog})

    def of_map() -> None:
        iterator("bpf_map_elem", struct.pack("=I", maps.get("hash", -1) & 0xFFFFFFFF))

    def of_task() -> None:
        iterator("task", struct.pack("=III", 0, me.pid, 0))

    def perf() -> None:
        software, dummy = 1, 9
        event = _perf(me, software, dummy)
        prog = _program(me, bpf.PERF_EVENT)
        fd = bpf.link(prog, event, bpf.AT_PERF_EVENT)
        _hold_link(me, fd, "perf", prog=prog, event=event)

    def kprobe() -> None:
        with open("/sys/bus/event_source/devices/kprobe/type") as file:
            kind = int(file.read())
        name = ctypes.create_string_buffer(b"bpf_fentry_test2")
        event = _perf(me, kind, 0, ctypes.addressof(name))
        prog = _program(me, bpf.KPROBE)
        fd = bpf.link(prog, event, bpf.AT_PERF_EVENT)
        _hold_link(me, fd, "perf", prog=prog, event=event, function="bpf_fentry_test2")

    def kprobes() -> None:
        prog = _program(me, bpf.KPROBE, attach_type=bpf.TRACE_KPROBE_MULTI)
        fd = bpf.kprobes(prog, [b"bpf_fentry_test3", b"bpf_fentry_test4"])
        _hold_link(me, fd, "kprobe_multi", prog=prog)

    def uprobes() -> None:
        prog = _program(me, bpf.KPROBE, attach_type=bpf.TRACE_UPROBE_MULTI)
        # In the first pages of the file, which no process executes.
        fd = bpf.uprobes(prog, b"/usr/bin/true", [0x40, 0x50], me.pid)
        _hold_link(me, fd, "uprobe_multi", prog=prog)

    def cgroup() -> None:
        path = f"/sys/fs/cgroup/ds-fd-kinds-{me.pid}"
        os.mkdir(path)
        me.cleanup.setdefault("cgroups", []).append(path)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | CLOEXEC)
        me.hold(directory, "dir", path)
        prog = _program(me, bpf.CGROUP_SKB, bpf.RETURN_1)
        fd = bpf.link(prog, directory, bpf.CGROUP_INET_EGRESS)
        # The ID of a control group is the inode of its directory.
        _hold_link(me, fd, "cgroup", prog=prog, cgroup_id=os.fstat(directory).st_ino)

    for what, action in (
        ("map of BPF programs", tail_call),
        ("BTF", btf),
        ("link to a raw tracepoint", raw_tracepoint),
        ("link to a function", tracing),
        ("iterator over maps", partial(iterator, "bpf_map")),
        ("iterator over a map", of_map),
        ("iterator over tasks", partial(iterator, "task_file")),
        ("iterator over a thread", of_task),
        ("link to a perf event", perf),
        ("link to a kprobe", kprobe),
        ("link to functions", kprobes),
        ("link to places in a file", uprobes),
        ("link to a control group", cgroup),
    ):
        me.attempt(what, action)


def _perf(
    me: Process, kind: int, config: int, config1: int = 0, pid: int = 0, cpu: int = -1
) -> int:
    # struct perf_event_attr: type, size, config, …, config1 at 56.
    attributes = struct.pack("=IIQ40xQ", kind, 128, config, config1)
    buffer = ctypes.create_string_buffer(attributes, 128)
    close_on_exec = 8
    fd = syscalls.syscall("perf_event_open", buffer, pid, cpu, -1, close_on_exec)
    detail = {"type": kind, "config": config, "config1": config1}
    if pid >= 0:
        detail["tid"] = pid or me.pid
    return me.hold(fd, "perf_event", "anon_inode:[perf_event]", detail=detail)


def _events_of_perf(me: Process) -> None:
    for what, arguments in (
        ("software event", (1, 0)),
        ("software event of a processor", (1, 0, 0, -1, 0)),
        ("hardware event", (0, 0)),
        ("raw event", (4, 0x1C2)),
        ("breakpoint", (5, 0)),
    ):
        me.attempt(f"perf: {what}", partial(_perf, me, *arguments))


# Mounts, supervisors, devices.


def _mount_fds(me: Process) -> None:
    """File systems that are not mounted yet, or no longer, in a mount namespace of its own."""
    work = os.fsencode(me.work)

    def context() -> None:
        fd = syscalls.syscall("fsopen", b"tmpfs", 1)
        me.hold(fd, "fscontext", "anon_inode:[fscontext]")
        set_string = 1
        syscalls.syscall("fsconfig", fd, set_string, b"source", b"ds-source", 0)
        me.note(fd, detail={"type": "tmpfs", "source": "ds-source", "purpose": "mount"})

    def mounted() -> None:
        fd = syscalls.syscall("fsopen", b"tmpfs", 1)
        create = 6
        try:
            syscalls.syscall("fsconfig", fd, create, None, None, 0)
            mount = syscalls.syscall("fsmount", fd, 1, 0)
        finally:
            os.close(fd)
        me.hold(mount, "dir", "/", note="fsmount")

    def picked() -> None:
        fd = syscalls.syscall("fspick", _AT_FDCWD, work + b"/tmpfs", 1)
        me.hold(fd, "fscontext", "anon_inode:[fscontext]")
        me.note(fd, detail={"type": "tmpfs", "purpose": "reconfigure"})

    def tree() -> None:
        clone = 1
        fd = syscalls.syscall("open_tree", _AT_FDCWD, work + b"/tmpfs", clone | CLOEXEC)
        me.hold(fd, "dir", "/", note="open_tree")

    for what, action in (
        ("fsopen", context),
        ("fsmount", mounted),
        ("fspick", picked),
        ("open_tree", tree),
    ):
        me.attempt(what, action)


#: What a BPF token is to allow, by the mount options.
_DELEGATED = {"cmds": b"0x3", "maps": b"any", "progs": b"0x2", "attachs": b"0x8"}


def _delegate(context: int) -> None:
    set_string = 1
    for what, mask in _DELEGATED.items():
        option = f"delegate_{what}".encode()
        syscalls.syscall("fsconfig", context, set_string, option, mask, 0)


def _delegated(me: Process) -> None:
    """Child in a user namespace: its parent allows its BPF file system to delegate."""
    me.drop_all_but()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    assert me.up is not None
    context = syscalls.syscall("fsopen", b"bpf", 1)
    me.up.send_fds(context)
    os.close(context)
    (mount,) = me.up.receive_fds(1)
    root = os.open(b".", os.O_RDONLY | CLOEXEC, dir_fd=mount)
    os.close(mount)
    me.hold(root, "dir", "/")
    token = bpf.token(root)
    detail = {f"allowed_{what}": mask.decode() for what, mask in _DELEGATED.items()}
    me.hold(token, "bpf-token", None, detail=detail)


def _token(me: Process) -> None:
    """A BPF token: a privileged process allows delegation, an unprivileged one has the token."""
    try:
        # Asked before there is a child that would wait: older kernels do not know the command.
        bpf.token(-1)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
    child = me.spawn("kinds-token", _delegated)
    (context,) = child.channel.receive_fds(1)
    create = 6
    try:
        _delegate(context)
        syscalls.syscall("fsconfig", context, create, None, None, 0)
        mount = syscalls.syscall("fsmount", context, 1, 0)
    finally:
        os.close(context)
    child.channel.send_fds(mount)
    os.close(mount)
    child.finish()


def _fuse(me: Process) -> None:
    """A FUSE file system that nobody serves: whoever looks at it waits for ever."""
    target = os.fsencode(me.work) + b"/fuse"
    os.mkdir(target)
    fd = os.open(b"/dev/fuse", os.O_RDWR | CLOEXEC)
    me.hold(fd, "char", "/dev/fuse", note="serves a mount")
    options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fd
    syscalls.mount(b"ds-fuse", target, b"fuse", 0, options)
    device = None
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            if line.split()[4] == target:
                device = line.split()[2].decode()
    me.note(fd, detail={"connection": device})


def _mounts(me: Process) -> None:
    """The child that has a mount namespace of its own."""
    me.drop_all_but()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)
    target = os.fsencode(me.work) + b"/tmpfs"
    os.mkdir(target)
    syscalls.mount(b"ds-tmpfs", target, b"tmpfs")
    _mount_fds(me)
    _fanotify(me, target)
    me.attempt("fuse", partial(_fuse, me))


def _network(me: Process) -> None:
    """The child that has a network namespace of its own."""
    me.drop_all_but()
    syscalls.unshare(syscalls.CLONE_NEWNET)
    me.netns = syscalls.netns_inode()
    tunsetiff = 0x400454CA
    for name, flags in (("ds-tun", 0x1001), ("ds-tap", 0x1002)):

        def interface(name: str = name, flags: int = flags) -> None:
            fd = os.open(b"/dev/net/tun", os.O_RDWR | NONBLOCK | CLOEXEC)
            me.hold(fd, "char", "/dev/net/tun", detail={"iface": name})
            fcntl.ioctl(fd, tunsetiff, struct.pack("16sH22x", name.encode(), flags))

        me.attempt(f"interface {name}", interface)

    def xdp() -> None:
        loopback, in_software = 1, 2
        prog = _program(me, bpf.XDP, bpf.RETURN_2)
        fd = bpf.link(prog, loopback, bpf.AT_XDP, in_software)
        _hold_link(me, fd, "xdp", prog=prog, ifindex=loopback)

    def lookup() -> None:
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY | CLOEXEC)
        me.hold(namespace, "ns", f"net:[{me.netns}]")
        prog = _program(me, bpf.SK_LOOKUP, bpf.RETURN_1, attach_type=bpf.AT_SK_LOOKUP)
        fd = bpf.link(prog, namespace, bpf.AT_SK_LOOKUP)
        _hold_link(me, fd, "netns", prog=prog, netns_ino=me.netns)

    me.attempt("link to an interface", xdp)
    me.attempt("link to a network namespace", lookup)


def _stay(before: Callable[[], None]) -> int:
    """Start a process that is in no account: it holds nothing, and is not stopped by a freeze."""
    pid = os.fork()
    if not pid:
        try:
            syscalls.die_with_parent()
            before()
            while True:
                signal.pause()
        finally:
            os._exit(1)
    return pid


def _pids(me: Process) -> None:
    """The child whose children live in a PID namespace."""
    me.drop_all_but()
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = _stay(partial(os.closerange, 0, 1024))
    me.hold(os.pidfd_open(pid), "pidfd", None, detail={"pid": pid, "nspid": [pid, 1]})
    second = os.fork()
    if not second:
        os._exit(7)
    fd = me.hold(os.pidfd_open(second), "pidfd", None)
    os.waitpid(second, 0)
    me.note(fd, detail={"pid": -1})


def _supervise(me: Process) -> None:
    """A process whose getppid() waits for an answer that nobody gives."""
    getppid = {"x86_64": 110, "aarch64": 173}[os.uname().machine]
    new_listener, user_notif, allow = 1 << 3, 0x7FC00000, 0x7FFF0000
    code = struct.pack("=HBBI", 0x20, 0, 0, 0) + struct.pack("=HBBI", 0x15, 0, 1, getppid)
    code += struct.pack("=HBBI", 0x06, 0, 0, user_notif) + struct.pack("=HBBI", 0x06, 0, 0, allow)
    ours, theirs = socket.socketpair()

    def be_supervised() -> None:
        ours.close()
        buffer = ctypes.create_string_buffer(code, len(code))
        program = ctypes.create_string_buffer(struct.pack("=H6xQ", 4, ctypes.addressof(buffer)))
        set_mode_filter = 1
        fd = syscalls.syscall("seccomp", set_mode_filter, new_listener, program)
        socket.send_fds(theirs, [b"F"], [fd])
        os.closerange(0, 1024)
        os.getppid()

    pid = _stay(be_supervised)
    theirs.close()
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    if not fds:
        os.waitpid(pid, 0)
        raise OSError(38, "seccomp gives no listener")
    name = "anon_inode:seccomp notify"
    me.hold(fds[0], "seccomp notify", name, detail={"calls": [pid]})
    fcntl.fcntl(fds[0], fcntl.F_SETFD, fcntl.FD_CLOEXEC)


def _devices(me: Process) -> None:
    def block(path: bytes) -> None:
        fd = os.open(path, os.O_RDONLY | CLOEXEC)
        me.hold(fd, "block", path)

    def char(path: bytes) -> None:
        me.hold(os.open(path, os.O_RDWR | CLOEXEC), "char", path)

    for path in (b"/dev/vda", b"/dev/loop0"):
        me.attempt(os.fsdecode(path), partial(block, path))
    for path in (b"/dev/kvm", b"/dev/vhost-net", b"/dev/userfaultfd"):
        me.attempt(os.fsdecode(path), partial(char, path))

    def kvm() -> None:
        create_vm, create_vcpu = 0xAE01, 0xAE41
        device = os.open("/dev/kvm", os.O_RDWR | CLOEXEC)
        try:
            vm = me.hold(fcntl.ioctl(device, create_vm, 0), "kvm-vm", "anon_inode:kvm-vm")
            me.note(vm, detail={"vcpus": 1, "pid": me.pid})
        finally:
            os.close(device)
        me.hold(
            fcntl.ioctl(vm, create_vcpu, 3), "kvm-vcpu", "anon_inode:kvm-vcpu:3", detail={"id": 3}
        )

    me.attempt("virtual machine", kvm)
    for _ in range(2):
        master, slave = os.openpty()
        name = os.ttyname(slave)
        me.hold(slave, "char", name)
        me.hold(master, "char", None, note="pty master", detail={"slave": name})
        os.write(slave, b"unread\n")


def _landlock(me: Process) -> None:
    def rules() -> None:
        attributes = ctypes.create_string_buffer(struct.pack("=Q", 4), 8)
        fd = syscalls.syscall("landlock_create_ruleset", attributes, 8, 0)
        me.hold(fd, "landlock", "anon_inode:[landlock-ruleset]")
        path_beneath = 1
        for path in ("/", "/proc"):
            parent = os.open(path, os.O_PATH | CLOEXEC)
            try:
                rule = ctypes.create_string_buffer(struct.pack("=Qi", 4, parent), 12)
                syscalls.syscall("landlock_add_rule", fd, path_beneath, rule, 0)
            finally:
                os.close(parent)
        me.note(fd, detail={"rules": 2})

    me.attempt("landlock with rules", rules)


def run(me: Process) -> None:
    me.modprobe("tun", "fuse", "loop", "udmabuf", "kvm_amd", "kvm_intel", "vhost_net")
    # First, while other processes inherit little.
    me.attempt("seccomp", partial(_supervise, me))
    for role, body in (
        ("kinds-pids", _pids),
        ("kinds-mounts", _mounts),
        ("kinds-network", _network),
    ):
        me.spawn(role, body).finish()
    me.attempt("BPF token", partial(_token, me))
    _locks(me)
    _timers(me)
    _events(me)
    _inotify(me)
    _memory(me)
    _queues(me)
    _rings(me)
    _bpf(me)
    _events_of_perf(me)
    _devices(me)
    _landlock(me)
