# SPDX-License-Identifier: LGPL-2.1-or-later
# Paths are bytes here; pathlib has none.
# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH112, PTH116, PTH211
"""
A process with some 300 descriptors: every kind of file, with every kind of name.

Regular files at odd positions and with odd flags; deleted ones; names with newlines and broken
UTF-8; paths near the limit; all kinds of anonymous inodes; and, in a child with a mount namespace
of its own, files on mounts that are bound, overlaid, detached or outside its root. Kinds that
this kernel does not have are listed as skipped.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import tempfile
from functools import partial

from . import syscalls
from .process import Process

CLOEXEC, NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK

NAMES = {
    "newline": b"new\nline\n",
    "backslash": b"back\\slash \\012 \\\\",
    "escape": b"\x1b]0;title\x07\x1b[31mred",
    "broken UTF-8": b"\xff\xfe\xc3(",
    "UTF-8": "gr\u00fc\u00dfe \u4e16\u754c \U0001f980".encode(),
    "spaces": b"  a  b  ",
    "not deleted": b"still here (deleted)",
    "hash": b"#quote\"'`$(x);&|",
    "tab": b"a\tb\rc",
    "controls": bytes(range(1, 32)) + b"\x7f",
    "like a socket": b"socket:[12345]",
    "255 bytes": b"n" * 255,
}


def _open(me: Process, path: bytes, flags: int, kind: str = "file", **facts: object) -> int:
    fd = os.open(path, flags, 0o640)
    return me.hold(fd, kind, path, **facts)


def _regular(me: Process, work: bytes) -> None:
    path = work + b"/regular"
    first = _open(me, path, os.O_RDWR | os.O_CREAT | CLOEXEC)
    os.write(first, b"0123456789" * 1000)
    os.lseek(first, 4321, os.SEEK_SET)
    for extra in (
        os.O_APPEND,
        NONBLOCK,
        os.O_SYNC,
        os.O_DSYNC,
        os.O_NOATIME,
        os.O_APPEND | NONBLOCK,
        os.O_NOFOLLOW,
    ):
        for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            me.attempt(f"open flags {extra:#o}", partial(_open, me, path, extra | mode))
    for pos in (1, 9999, 10**6, 2**31, 2**40 + 1):
        os.lseek(_open(me, path, os.O_RDONLY | CLOEXEC), pos, os.SEEK_SET)
    me.attempt("O_DIRECT", partial(_direct, me, work))
    # Access mode 3: neither reading nor writing, only ioctl.
    me.attempt("access mode 3", lambda: _open(me, path, 3))
    fd = _open(me, path, os.O_RDONLY)
    os.set_inheritable(fd, True)
    me.dup(fd, same_file="twice")
    me.note(fd, same_file="twice")
    gone = work + b"/gone"
    fd = os.open(gone, os.O_RDWR | os.O_CREAT)
    me.hold(fd, "file", gone + b" (deleted)", note="deleted")
    os.unlink(gone)
    directory = work + b"/gone-dir"
    os.mkdir(directory)
    fd = os.open(directory, os.O_RDONLY)
    me.hold(fd, "dir", directory + b" (deleted)", note="deleted")
    os.rmdir(directory)
    linked = work + b"/has-a-link"
    fd = os.open(linked, os.O_RDWR | os.O_CREAT)
    os.link(linked, linked + b".2")
    os.unlink(linked)
    me.hold(fd, "file", linked + b" (deleted)", note="this name deleted, another left")
    old, new = work + b"/renamed-from", work + b"/renamed-to"
    fd = os.open(old, os.O_RDWR | os.O_CREAT)
    os.rename(old, new)
    me.hold(fd, "file", new, note="renamed")
    me.attempt(
        "O_TMPFILE",
        lambda: me.hold(os.open(work, os.O_TMPFILE | os.O_RDWR), "file", None, note="O_TMPFILE"),
    )
    anonymous = tempfile.TemporaryFile(dir=os.fsdecode(work))  # noqa: SIM115
    me.hold(anonymous, "file", None, note="TemporaryFile")


def _direct(me: Process, work: bytes) -> None:
    """``O_DIRECT``. tmpfs has it since 6.6; before, the file is on the root file system."""
    path = work + b"/direct"
    try:
        _open(me, path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    except OSError:
        path = b"/var/tmp/drgn-sockets-direct"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        os.unlink(path)
        me.hold(fd, "file", path + b" (deleted)", note="deleted")


def _names(me: Process, work: bytes) -> None:
    for note, name in NAMES.items():
        _open(me, work + b"/" + name, os.O_RDWR | os.O_CREAT, note=note)
    # Step by step: no path over PATH_MAX can be opened at once.
    directory = os.open(work, os.O_RDONLY)
    path = work
    part = b"d" * 250
    while len(path) + 251 < 4080:
        os.mkdir(part, dir_fd=directory)
        deeper = os.open(part, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = deeper
        path += b"/" + part
    last = b"f" * (4095 - len(path) - 1)
    for name, note in ((last, "path of 4095 bytes, the most that readlink gives"),):
        fd = os.open(name, os.O_RDWR | os.O_CREAT, dir_fd=directory)
        me.hold(fd, "file", path + b"/" + name, note=note)
    os.mkdir(part, dir_fd=directory)
    deeper = os.open(part, os.O_RDONLY, dir_fd=directory)
    me.hold(
        deeper,
        "dir",
        None,
        note="path longer than PATH_MAX: readlink says ENAMETOOLONG",
        detail={"length": len(path) + 1 + len(part)},
    )
    os.close(directory)


def _directories(me: Process, work: bytes) -> None:
    _open(me, b"/", os.O_RDONLY, "dir")
    _open(me, work, os.O_RDONLY | os.O_DIRECTORY | CLOEXEC, "dir")
    for path, kind in ((work + b"/regular", "file"), (work, "dir"), (b"/dev/null", "char")):
        _open(me, path, os.O_PATH, kind)
    link = work + b"/symlink"
    os.symlink(b"/nowhere", link)
    _open(me, link, os.O_PATH | os.O_NOFOLLOW | CLOEXEC, "symlink")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(work + b"/socket-file")
    sock.close()
    _open(me, work + b"/socket-file", os.O_PATH, "file", note="O_PATH on a socket's path")


def _pipes(me: Process, work: bytes) -> None:
    for number in range(25):
        read_end, write_end = os.pipe2(
            (CLOEXEC if number % 2 else 0) | (NONBLOCK if number % 3 else 0)
        )
        me.hold(read_end, "pipe")
        me.hold(write_end, "pipe")
        me.add("pairs", a=me.end(read_end), b=me.end(write_end), how="pipe")
        if number == 0:
            os.write(write_end, b"unread")
            me.note(read_end, inq=6)
    me.attempt(
        "O_DIRECT pipe", lambda: [me.hold(fd, "pipe") for fd in os.pipe2(os.O_DIRECT | CLOEXEC)]
    )
    fifo = work + b"/fifo"
    os.mkfifo(fifo)
    _open(me, fifo, os.O_RDWR | NONBLOCK, "fifo")
    _open(me, fifo, os.O_RDONLY | NONBLOCK, "fifo")
    _open(me, fifo, os.O_WRONLY, "fifo")


def _events(me: Process) -> None:
    targets = []
    for number in range(30):
        flags = (CLOEXEC if number % 2 else 0) | (NONBLOCK if number % 3 == 0 else 0)
        flags |= 1 if number % 5 == 0 else 0
        fd = syscalls.libc("eventfd", ctypes.c_uint(number), ctypes.c_int(flags))
        me.hold(
            fd,
            "eventfd",
            "anon_inode:[eventfd]",
            detail={"count": number, "semaphore": bool(flags & 1)},
        )
        targets.append(fd)
    epoll = select.epoll()
    me.hold(epoll, "eventpoll", "anon_inode:[eventpoll]")
    watched = []
    for fd in targets[:6]:
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        watched.append(fd)
    a, b = socket.socketpair()
    epoll.register(me.hold(a), select.EPOLLOUT)
    me.hold(b)
    me.note(epoll, detail={"targets": [*watched, a.fileno()]})
    nested = me.hold(
        select.epoll(), "eventpoll", "anon_inode:[eventpoll]", detail={"targets": [epoll.fileno()]}
    )
    nested.register(epoll.fileno(), select.EPOLLIN)
    me.hold(select.epoll(), "eventpoll", "anon_inode:[eventpoll]", detail={"targets": []})
    for clock in (0, 1, 7):
        fd = syscalls.libc("timerfd_create", clock, NONBLOCK if clock else CLOEXEC)
        # Expires after an hour, and then every two.
        spec = struct.pack("4q", 7200, 0, 3600, 0)
        syscalls.libc("timerfd_settime", fd, 0, spec, None)
        me.hold(
            fd, "timerfd", "anon_inode:[timerfd]", detail={"clockid": clock, "interval_s": 7200}
        )
    mask = (1 << (signal.SIGUSR1 - 1)) | (1 << (signal.SIGWINCH - 1))
    fd = syscalls.libc("signalfd", -1, struct.pack("16Q", mask, *[0] * 15), CLOEXEC)
    me.hold(fd, "signalfd", "anon_inode:[signalfd]", detail={"sigmask": f"{mask:016x}"})


def _watches(me: Process, work: bytes) -> None:
    fd = me.hold(syscalls.libc("inotify_init1", NONBLOCK), "inotify", "anon_inode:inotify")
    in_create = 0x100
    for path in (work, b"/"):
        syscalls.libc("inotify_add_watch", fd, path, ctypes.c_uint(in_create))
    status = os.stat(work)
    me.note(fd, detail={"watches": 2, "inode": status.st_ino, "dev": status.st_dev})

    def fanotify() -> None:
        fd = syscalls.libc("fanotify_init", ctypes.c_uint(0), ctypes.c_uint(os.O_RDONLY))
        me.hold(fd, "fanotify", "anon_inode:[fanotify]")
        fan_mark_add, fan_close_write, at_fdcwd = 1, 8, -100
        syscalls.libc(
            "fanotify_mark",
            fd,
            ctypes.c_uint(fan_mark_add),
            ctypes.c_uint64(fan_close_write),
            at_fdcwd,
            work + b"/regular",
        )

    me.attempt("fanotify", fanotify)


def _memory(me: Process) -> None:
    for name in (b"memfd", b"odd \n name", b""):
        fd = os.memfd_create(os.fsdecode(name), os.MFD_CLOEXEC if name else os.MFD_ALLOW_SEALING)
        os.write(fd, b"m" * 100)
        me.hold(fd, "memfd", b"/memfd:" + name + b" (deleted)")


def _devices(me: Process) -> None:
    for path in (
        b"/dev/null",
        b"/dev/zero",
        b"/dev/full",
        b"/dev/urandom",
        b"/dev/kmsg",
        b"/dev/fuse",
        b"/dev/net/tun",
        b"/dev/loop-control",
        b"/dev/rtc0",
    ):
        me.attempt(os.fsdecode(path), partial(_open, me, path, os.O_RDONLY | NONBLOCK, "char"))
    master, slave = os.openpty()
    name = os.ttyname(slave)
    me.hold(slave, "char", name)
    me.hold(master, "char", None, note="pty master", detail={"slave": name})
    me.hold(os.open(name, os.O_RDWR | os.O_NOCTTY), "char", name)


def _pidfd(me: Process, pid: int) -> None:
    me.hold(os.pidfd_open(pid), "pidfd", None, detail={"pid": pid})


def _processes(me: Process) -> None:
    for pid in (me.pid, 1):
        me.attempt(f"pidfd of {pid}", partial(_pidfd, me, pid))
    for name in ("net", "mnt", "uts", "ipc", "pid", "user", "cgroup", "time", "pid_for_children"):

        def one(name: str = name) -> None:
            fd = os.open(f"/proc/self/ns/{name}", os.O_RDONLY | CLOEXEC)
            kind = name.partition("_")[0]
            me.hold(fd, "ns", f"{kind}:[{os.fstat(fd).st_ino}]")

        me.attempt(f"namespace {name}", one)
    for path in (
        b"/proc/%d/status" % me.pid,
        b"/proc/version",
        b"/proc/sys/kernel/ostype",
        b"/sys/kernel/mm/transparent_hugepage/enabled",
        b"/proc/%d/fd" % me.pid,
        b"/proc/mounts",
        b"/sys/fs/cgroup",
        b"/proc/net/tcp",
    ):

        def other(path: bytes = path) -> None:
            fd = os.open(path, os.O_RDONLY)
            kind = "dir" if os.path.isdir(path) else "file"
            if path == b"/proc/net/tcp":
                # Its dentry never stays hashed: /proc/PID/net/tcp, often " (deleted)".
                me.hold(fd, kind, None, note=os.fsdecode(path))
            else:
                # /proc/mounts is a symbolic link to self/mounts.
                me.hold(fd, kind, path.replace(b"/proc/mounts", b"/proc/%d/mounts" % me.pid))

        me.attempt(os.fsdecode(path), other)


def _special(me: Process) -> None:
    """Kinds that Python has no function for, and that a kernel may lack."""

    def io_uring() -> None:
        parameters = ctypes.create_string_buffer(120)
        fd = syscalls.syscall("io_uring_setup", 4, parameters)
        me.hold(fd, "io_uring", "anon_inode:[io_uring]")

    def userfaultfd() -> None:
        fd = syscalls.syscall("userfaultfd", CLOEXEC | NONBLOCK)
        me.hold(fd, "userfaultfd", "anon_inode:[userfaultfd]")

    def bpf_map() -> None:
        map_type_array = 2
        attributes = ctypes.create_string_buffer(
            struct.pack("5I", map_type_array, 4, 8, 16, 0), 128
        )
        fd = syscalls.syscall("bpf", 0, attributes, 128)
        me.hold(
            fd,
            "bpf-map",
            "anon_inode:bpf-map",
            detail={"map_type": 2, "key_size": 4, "value_size": 8, "max_entries": 16},
        )

    def bpf_prog() -> None:
        # "return 0", as a socket filter.
        code = ctypes.create_string_buffer(
            struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)
        )
        text = ctypes.create_string_buffer(b"GPL")
        attributes = ctypes.create_string_buffer(
            struct.pack("IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(text)), 128
        )
        fd = syscalls.syscall("bpf", 5, attributes, 128)
        me.hold(fd, "bpf-prog", "anon_inode:bpf-prog")
        sock = me.hold(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), note="has a BPF filter")
        so_attach_bpf = 50
        sock.setsockopt(socket.SOL_SOCKET, so_attach_bpf, fd)

    def perf_event() -> None:
        software, dummy = 1, 9
        attributes = ctypes.create_string_buffer(struct.pack("IIQ", software, 128, dummy), 128)
        fd = syscalls.syscall("perf_event_open", attributes, 0, -1, -1, 0)
        me.hold(fd, "perf_event", "anon_inode:[perf_event]")

    def mqueue() -> None:
        name = b"/ds-queue"
        syscalls_open = os.O_RDWR | os.O_CREAT | NONBLOCK
        fd = syscalls.libc("mq_open", name, syscalls_open, ctypes.c_uint(0o600), None)
        syscalls.libc("mq_unlink", name)
        me.hold(fd, "mqueue", name + b" (deleted)")

    def landlock() -> None:
        attributes = ctypes.create_string_buffer(struct.pack("Q", 1), 8)
        fd = syscalls.syscall("landlock_create_ruleset", attributes, 8, 0)
        me.hold(fd, "landlock", "anon_inode:[landlock-ruleset]")

    for make in (io_uring, userfaultfd, bpf_map, bpf_prog, perf_event, mqueue, landlock):
        me.attempt(make.__name__, make)


def _mounts(me: Process) -> None:
    """The child's part: in a mount namespace of its own."""
    me.drop_all_but()
    work = os.fsencode(me.work)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)

    def make(name: bytes) -> bytes:
        os.mkdir(work + b"/" + name)
        return work + b"/" + name

    def tmpfs(name: bytes) -> bytes:
        target = make(name)
        syscalls.mount(b"ds-tmpfs", target, b"tmpfs")
        return target

    target = tmpfs(b"tmpfs")
    _open(me, target + b"/file", os.O_RDWR | os.O_CREAT, note="tmpfs")
    os.mkdir(target + b"/inside")
    bound = make(b"bound")
    syscalls.mount(target + b"/inside", bound, b"", syscalls.MS_BIND)
    _open(me, bound + b"/file", os.O_RDWR | os.O_CREAT, note="bind mount")
    _open(me, target + b"/inside/file", os.O_RDONLY, note="the same, not through the bind mount")

    detached = tmpfs(b"detached")
    os.mkdir(detached + b"/deep")
    fd = os.open(detached + b"/deep/file", os.O_RDWR | os.O_CREAT)
    root = os.open(detached, os.O_RDONLY)
    gone = os.open(detached + b"/gone", os.O_RDWR | os.O_CREAT)
    os.unlink(detached + b"/gone")
    syscalls.umount(detached, syscalls.MNT_DETACH)
    me.hold(fd, "file", "/deep/file", note="on a detached mount")
    me.hold(root, "dir", "/", note="root of a detached mount")
    me.hold(gone, "file", "/gone (deleted)", note="deleted, on a detached mount")

    moved = tmpfs(b"move-from")
    fd = os.open(moved + b"/file", os.O_RDWR | os.O_CREAT)
    destination = make(b"move-to")
    syscalls.mount(moved, destination, b"", syscalls.MS_MOVE)
    me.hold(fd, "file", destination + b"/file", note="its mount was moved")

    covered = make(b"covered")
    _open(me, covered + b"/below", os.O_RDWR | os.O_CREAT, note="another mount covers it")
    syscalls.mount(b"ds-tmpfs", covered, b"tmpfs")
    _open(me, covered + b"/above", os.O_RDWR | os.O_CREAT)

    def overlay() -> None:
        base = tmpfs(b"overlay-base")
        for name in (b"lower", b"upper", b"work"):
            os.mkdir(base + b"/" + name)
        for name in (b"from-lower", b"copied-up"):
            os.close(os.open(base + b"/lower/" + name, os.O_WRONLY | os.O_CREAT))
        merged = make(b"merged")
        options = b"lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work" % (base, base, base)
        syscalls.mount(b"overlay", merged, b"overlay", 0, options)
        _open(me, merged + b"/from-lower", os.O_RDONLY, note="overlay, lower")
        _open(me, merged + b"/copied-up", os.O_RDWR, note="overlay, copied up")
        _open(me, merged + b"/new", os.O_RDWR | os.O_CREAT, note="overlay, upper")
        _open(me, merged, os.O_RDONLY, "dir", note="overlay, root")

    me.attempt("overlayfs", overlay)
    below = _open(me, work + b"/tmpfs", os.O_RDONLY, "dir")
    os.set_inheritable(below, True)
    chrooted = me.spawn("zoo-chroot", _chroot)
    chrooted.finish()


def _chroot(me: Process) -> None:
    """The grandchild's part: files inside and outside its root."""
    root = me.work / "bound"
    os.chroot(root)
    os.chdir("/")
    me.facts["root"] = str(root)
    me.facts["cwd"] = str(root)
    me.hold(os.open("/inside", os.O_RDWR | os.O_CREAT), "file", root / "inside")


def run(me: Process) -> None:
    me.modprobe("overlay", "tun", "fuse", "loop")
    work = os.fsencode(me.work)
    mounts = me.spawn("zoo-mounts", _mounts)
    mounts.finish()
    _regular(me, work)
    _names(me, work)
    _directories(me, work)
    _pipes(me, work)
    _events(me)
    _watches(me, work)
    _memory(me)
    _devices(me)
    _processes(me)
    _special(me)
    for number in range(40):
        kind = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)[number % 3]
        sock = me.hold(socket.socket(kind, (socket.SOCK_STREAM, socket.SOCK_DGRAM)[number % 2]))
        me.add("never_bound", **me.end(sock))
