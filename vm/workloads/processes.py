# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Unusual processes: of other users, in namespaces, traced, stopped, zombies.

Changed command lines and odd names; a session with a terminal; limits that are nearly reached, or
were lowered later; one file table in two processes; mapped files that are deleted; programs that
are deleted or on an overlay; and all that ``status`` has of scheduling, signals, capabilities and
seccomp. The ``detail`` of a process says what was set.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import struct
import termios
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from . import syscalls
from .account import ProcessAccount
from .process import Process, WorkloadError

CLOEXEC = os.O_CLOEXEC
CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x02000000, 0x04000000, 0x08000000
CLONE_NEWTIME, CLONE_FS = 0x80, 0x200
_PAGE = mmap.PAGESIZE
_CGROUP = Path("/sys/fs/cgroup")

_libc = ctypes.CDLL(None, use_errno=True)
for _function in (_libc.mmap, _libc.shmat):
    _function.restype = ctypes.c_void_p


def _detail(me: Process, **facts: Any) -> None:
    """Enter properties of the process itself."""
    me.facts.setdefault("detail", {}).update(facts)


def _prctl(option: int, *values: int) -> int:
    longs = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return syscalls.libc("prctl", ctypes.c_int(option), *longs)


def _try(me: Process, what: str, role: str, body: Callable[[Process], None]) -> None:
    """Start a process; if this kernel cannot make it, enter that as skipped."""
    try:
        me.spawn(role, body).finish()
    except WorkloadError as error:
        me.skip(what, error)


def _up_high(me: Process, number: int = 900) -> None:
    """Move the channel to the parent to a high descriptor, out of the way; it will be closed."""
    assert me.up is not None
    old = me.up.sock
    me.up.sock = socket.socket(fileno=fcntl.fcntl(old, fcntl.F_DUPFD_CLOEXEC, number))
    old.close()


def _file(me: Process, name: str, size: int = 100, flags: int = os.O_RDWR) -> int:
    path = os.fsencode(me.work / name)
    fd = os.open(path, flags | os.O_CREAT | CLOEXEC, 0o640)
    os.ftruncate(fd, size)
    return me.hold(fd, "file", path)


def _sockets(me: Process, path: str | None = None) -> None:
    """A listener, a connection to it, a pair of unix sockets, and one with a name."""
    listener = me.hold(socket.create_server(("127.0.0.1", 0)))
    client = me.hold(socket.create_connection(listener.getsockname()))
    server = me.hold(listener.accept()[0])
    me.add("connections", client=me.end(client), server=me.end(server), listener=me.end(listener))
    one, other = socket.socketpair()
    me.add("pairs", a=me.end(me.hold(one)), b=me.end(me.hold(other)), how="socketpair")
    if path is not None:
        named = socket.socket(socket.AF_UNIX)
        named.bind(path)
        named.listen(3)
        me.hold(named, backlog=3)


def _task(comm: str, role: str, pid: int, me: Process, **facts: Any) -> ProcessAccount:
    """Make the entry of a task that cannot make its own."""
    entry = {"pid": pid, "tid": pid, "comm": comm, "role": role, "netns": me.netns, "fds": []}
    return cast(ProcessAccount, {**entry, **facts})


# Users.


def _become(me: Process, uids: tuple[int, ...], gids: tuple[int, ...], groups: list[int]) -> None:
    """Set real, effective, saved and file system IDs; the last ones change with effective IDs."""
    os.setgroups(groups)
    os.setresgid(*gids[:3])
    _libc.setfsgid(gids[3])
    os.setresuid(*uids[:3])
    _libc.setfsuid(uids[3])
    # The setting is lost with the privileges.
    syscalls.die_with_parent()
    _detail(me, uid=list(uids), gid=list(gids), groups=sorted(groups))


def _user(me: Process) -> None:
    """No privileges, and not dumpable: only root may look at it."""
    place = me.work / "user"
    place.mkdir()
    os.chown(place, 4101, 4201)
    me.drop_all_but()
    _file(me, "of-root")
    _become(me, (4101, 4102, 4103, 4101), (4201, 4202, 4203, 4203), [4999, 7, *range(5000, 5040)])
    _file(me, "user/file")
    _sockets(me, str(place / "sock"))
    os.chdir(place)


def _capable(me: Process) -> None:
    """Of another user, with some effective, inheritable and ambient capabilities."""
    keep_caps, capbset_drop, cap_ambient, dumpable = 8, 24, 47, 4
    net_bind, net_raw, sys_module = 10, 13, 16
    me.drop_all_but()
    _prctl(keep_caps, 1)
    _prctl(capbset_drop, sys_module)
    _become(me, (4111,) * 4, (4211,) * 4, [])
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    low = 1 << net_bind | 1 << net_raw
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, low, 0, 0, 0))
    syscalls.libc("capset", header, data)
    syscalls.die_with_parent()
    _prctl(cap_ambient, 2, net_raw)
    _prctl(dumpable, 1)
    _detail(me, caps={"Inh": low, "Prm": low, "Eff": low, "Amb": 1 << net_raw})
    _sockets(me)


# Namespaces.


def _pidfd(me: Process, pid: int, nspid: list[int]) -> int:
    """Enter a process. *nspid* has its PIDs in all namespaces, the initial one first."""
    fd = os.pidfd_open(pid)
    return me.hold(fd, "pidfd", None, detail={"pid": nspid[0], "nspid": nspid})


def _namespaces(me: Process) -> None:
    """
    A process in a user namespace and other namespaces of its own. A child of it is process 1 of a
    PID namespace, and a child of that is process 1 of a further one.
    """
    me.drop_all_but()
    _pidfd(me, me.pid, [me.pid])
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    pid = os.fork()
    if not pid:
        # A process outside writes the maps: one inside may only map its own user.
        os.read(ready_r, 1)
        for name, lines in (("uid_map", "0 4300 10\n10 0 1\n"), ("gid_map", "0 4300 10\n10 0 1\n")):
            Path(f"/proc/{me.pid}/{name}").write_text(lines)
        os.write(go_w, b"g")
        os._exit(0)
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    os.write(ready_w, b"r")
    os.read(go_r, 1)
    os.waitpid(pid, 0)
    for fd in (ready_r, ready_w, go_r, go_w):
        os.close(fd)
    os.setresgid(3, 3, 3)
    os.setresuid(0, 0, 0)
    syscalls.die_with_parent()
    ids = {"uid": [4300] * 4, "gid": [4303] * 4, "groups": []}
    me.attempt("setgroups in a user namespace", lambda: os.setgroups([]))
    _detail(me, **ids)
    syscalls.unshare(CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | syscalls.CLONE_NEWPID)
    # Children are in the new namespace, this process is not.
    me.attempt("time namespace", partial(syscalls.unshare, CLONE_NEWTIME))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def named_outside(me: Process) -> None:
        """Get the PID of this process in the initial namespace, from credentials of a message."""
        theirs.send(b"?")
        me.pid = int(theirs.recv(20))
        _detail(me, **ids)

    def init(me: Process) -> None:
        ours.close()
        named_outside(me)
        outside = me.pid
        _detail(me, nspid=[me.pid, 1])
        _pidfd(me, 1, [me.pid, 1])
        deeper = me.spawn("ns-child", child)
        fd = me.hold(os.pidfd_open(deeper.pid), "pidfd", None)
        pid = deeper.finish()[0]["pid"]
        me.note(fd, detail={"pid": pid, "nspid": [pid, deeper.pid]})
        syscalls.unshare(syscalls.CLONE_NEWPID)
        me.pid = outside
        second = me.spawn("ns-deeper", deepest)
        second.finish()
        gone = os.fork()
        if not gone:
            os._exit(0)
        fd = me.hold(os.pidfd_open(gone), "pidfd", None, detail={"pid": -1})
        os.waitpid(gone, 0)
        me.note(fd, note="its process has gone")
        _sockets(me)
        theirs.close()

    def child(me: Process) -> None:
        inner = me.pid
        named_outside(me)
        os.setsid()
        _detail(me, nspid=[me.pid, inner])
        theirs.close()

    def deepest(me: Process) -> None:
        me.drop_all_but()
        named_outside(me)
        _detail(me, nspid=[me.pid, 3, 1])
        _pidfd(me, 1, [me.pid, 3, 1])
        theirs.close()

    first = me.spawn("ns-init", init)
    theirs.close()
    for _ in range(3):
        _, creds, _, _ = ours.recvmsg(1, 1000)
        ours.send(b"%d" % struct.unpack("3i", creds[0][2])[0])
    ours.close()
    first.finish()


# Sessions, tracers, zombies.


def _stopped_by(me: Process, pid: int) -> None:
    """Wait until a child has stopped, and leave its status for a later wait."""
    me.wait_until(
        f"stop of {pid}",
        lambda: os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None,
    )


def _terminal(me: Process) -> None:
    """The leader of a session with a terminal, a foreground job, and a stopped job."""
    me.drop_all_but()
    os.setsid()
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    name = os.ttyname(slave)
    me.hold(slave, "char", name)
    me.hold(master, "char", None, note="pty master", detail={"slave": name})
    os.write(master, b"typed, and not read\n")
    # Do not stop when this process, in the background, sets the terminal.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)

    def job(me: Process) -> None:
        os.setpgid(0, 0)
        me.drop(master)
        _detail(me, tty=name, session=leader, pgrp=me.pid)

    def stops(me: Process) -> None:
        job(me)
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        _detail(me, state="T")
        me.report()
        # A background job that reads from the terminal is stopped.
        while True:
            os.read(slave, 1)

    leader = me.pid
    foreground = me.spawn("tty-foreground", job)
    foreground.finish()
    os.tcsetpgrp(slave, foreground.pid)
    background = me.spawn("tty-stopped", stops)
    background.finish()
    _stopped_by(me, background.pid)
    _detail(me, tty=name, session=leader, pgrp=leader, foreground=foreground.pid)


def _tracer(me: Process) -> None:
    """A tracee that is stopped, and one that runs until a signal comes (SIGSTOP as well)."""
    seize, interrupt, wall = 0x4206, 0x4207, 0x40000000
    me.drop_all_but()

    def traced(me: Process) -> None:
        _detail(me, tracer=tracer)
        _file(me, f"traced-{me.role}")

    tracer = me.pid
    for role in ("tracee-held", "tracee-runs"):
        child = me.spawn(role, traced)
        child.finish()

        def ptrace(request: int, pid: int = child.pid) -> None:
            longs = [ctypes.c_long(value) for value in (request, pid, 0, 0)]
            syscalls.libc("ptrace", *longs)

        ptrace(seize)
        if role == "tracee-held":
            ptrace(interrupt)
            os.waitpid(child.pid, wall)
            me.others[-1]["detail"]["state"] = "t"


def _zombies(me: Process) -> None:
    """Zombies: one killed, one in a control group that is removed, one whose threads live."""
    me.drop_all_but()
    syscalls.set_comm(b"proc-zombies")

    def die(how: Callable[[], None], comm: bytes) -> int:
        pid = os.fork()
        if not pid:
            try:
                syscalls.set_comm(comm)
                how()
            finally:
                os._exit(1)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    def killed() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    me.others.append(_task("killed", "zombie", die(killed, b"killed"), me, zombie=True))

    def in_cgroup() -> None:
        place = _CGROUP / f"ds gone \x1b {me.pid}"
        if not (_CGROUP / "cgroup.procs").exists():
            raise OSError(2, "no cgroup2 at /sys/fs/cgroup")
        place.mkdir()

        def enter() -> None:
            (place / "cgroup.procs").write_text("0")
            os._exit(7)

        pid = die(enter, b"cgroup-gone")
        place.rmdir()
        detail = {"cgroup": f"/{place.name} (deleted)"}
        me.others.append(_task("cgroup-gone", "zombie", pid, me, zombie=True, detail=detail))

    me.attempt("zombie of a control group that is removed", in_cgroup)


def _headless(me: Process) -> None:
    """A process whose first thread has exited; another one goes on, with the files."""
    me.drop_all_but()
    _file(me, "headless")
    sys_exit = {"x86_64": 60, "aarch64": 93}[platform.machine()]
    started = threading.Event()

    def rest() -> None:
        syscalls.die_with_parent()
        syscalls.set_comm(b"survivor")
        tid = threading.get_native_id()
        entry = _task("survivor", "thread whose leader has exited", me.pid, me)
        entry["tid"] = tid
        entry["fds"] = me.entries()
        me.others.append(entry)
        started.set()
        threading.Event().wait()

    threading.Thread(target=rest, daemon=True).start()
    started.wait(30)
    me.facts.update(zombie=True, fds=[])
    _detail(me, state="Z")
    me.report()
    # The call releases the GIL.
    _libc.syscall(ctypes.c_long(sys_exit), ctypes.c_long(0))


def _own_thread(me: Process) -> None:
    """A thread with the file table of its process, but its own working directory and user."""
    me.drop_all_but()
    _file(me, "own-thread")
    place = me.work / "thread-cwd"
    place.mkdir()
    setresuid = {"x86_64": 117, "aarch64": 147}[platform.machine()]
    started = threading.Event()

    def other() -> None:
        syscalls.set_comm(b"own \xff cwd")
        syscalls.unshare(CLONE_FS)
        os.chdir(place)
        # The function of libc would change all threads.
        _libc.syscall(*map(ctypes.c_long, (setresuid, 4121, 4121, 4121)))
        entry = _task(os.fsdecode(b"own \xff cwd"), "thread of another user", me.pid, me)
        entry["tid"] = threading.get_native_id()
        entry["shares_files_with"] = me.pid
        entry["cwd"] = str(place)
        entry["detail"] = {"uid": [4121] * 4}
        me.others.append(entry)
        started.set()
        threading.Event().wait()

    threading.Thread(target=other, daemon=True).start()
    started.wait(30)


# Names.


def _set_arguments(start: int, end: int) -> None:
    """Move the command line (PR_SET_MM); allowed are the stack and the like."""
    set_mm, arg_start, arg_end = 35, 8, 9
    _prctl(set_mm, arg_start, start)
    _prctl(set_mm, arg_end, end)


def _map(size: int, prot: int = 3, flags: int = 0x22, fd: int = -1, offset: int = 0) -> int:
    """Call ``mmap``, private and anonymous unless *flags* are given."""
    address = _libc.mmap(
        None, ctypes.c_size_t(size), prot, flags, ctypes.c_int(fd), ctypes.c_long(offset)
    )
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return cast(int, address)


def _status(pid: int, name: str) -> str:
    """Get the first word of a line of another process's ``status``, to wait for it."""
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return next((line.split()[1] for line in lines if line.startswith(f"{name}:")), "")


def _stat_field(number: int) -> int:
    """Get a field of this process's ``stat``: no system call tells where the arguments are."""
    text = Path("/proc/self/stat").read_bytes()
    return int(text.rpartition(b")")[2].split()[number - 3])


def _arguments(me: Process, text: bytes, room: int = 0) -> None:
    """A new command line, in memory of its own."""
    me.drop_all_but()
    size = max(len(text), room)
    address = _map(-(-size // _PAGE) * _PAGE)
    ctypes.memmove(address, text, len(text))
    _set_arguments(address, address + size)
    _detail(me, cmdline=os.fsdecode(text.ljust(size, b"\0")))


def _no_arguments(me: Process) -> None:
    me.drop_all_but()
    start = _stat_field(48)
    _set_arguments(start, start)
    _detail(me, cmdline="")


def _titled(me: Process, beyond: int) -> None:
    """Write a title over the arguments as setproctitle(3) does; *beyond*: longer than they are."""
    me.drop_all_but()
    start, end, env_end = (_stat_field(number) for number in (48, 49, 51))
    title = b"title: \x1b[31m of \xff\n worker ".ljust(end - start + beyond, b"t")
    if start + len(title) + 1 > env_end:
        raise OSError(7, "no room for a title")
    ctypes.memmove(start, title + b"\0", len(title) + 1)
    _detail(me, cmdline=os.fsdecode(title + b"\0"))


def _file_arguments(me: Process) -> None:
    """Arguments in mapped memory of a file: procfs does not read them, since that could block."""
    me.drop_all_but()
    fd = os.memfd_create("arguments", os.MFD_CLOEXEC)
    os.write(fd, b"of a file\0".ljust(_PAGE))
    address = _map(_PAGE, 3, 1, fd)
    os.close(fd)
    _set_arguments(address, address + 10)
    _detail(me, cmdline="")


def _torn_arguments(me: Process) -> None:
    """Arguments on two pages, of which the second is not mapped."""
    me.drop_all_but()
    address = _map(2 * _PAGE)
    text = (b"first page " * _PAGE)[:_PAGE]
    ctypes.memmove(address, text, _PAGE)
    _set_arguments(address, address + _PAGE + 100)
    syscalls.libc("munmap", ctypes.c_void_p(address + _PAGE), ctypes.c_size_t(_PAGE))
    _detail(me, cmdline=os.fsdecode(text))


_COMMS = (
    b") R 1 (\n\\\xff",
    b"a\tb\x1b[7m\r\x01",
    b"longer than fifteen bytes",
    b"",
    b" ",
    b"(((a)))) 7 Z",
)


def _named(me: Process, comm: bytes) -> None:
    me.drop_all_but()
    syscalls.set_comm(comm)


def _names(me: Process) -> None:
    for comm in _COMMS:
        me.spawn("proc-comm", partial(_named, comm=comm)).finish()
    many = b"odd\0\x1b]0;title\x07\0new\nline\0\xff\xfe\0" + b"x" * 5000 + b"\0last\0"
    for what, body in (
        ("command line made anew", partial(_arguments, text=many)),
        ("command line with empty end", partial(_arguments, text=b"short\0", room=3 * _PAGE)),
        ("command line in a file", _file_arguments),
        ("command line with a hole", _torn_arguments),
        ("no command line", _no_arguments),
        ("title in place of arguments", partial(_titled, beyond=0)),
        ("title into the environment", partial(_titled, beyond=20)),
    ):
        _try(me, what, "proc-cmdline", body)


# Mapped memory.


def _mapped(me: Process, name: str, size: int, fd: int | None = None, **facts: Any) -> None:
    if fd is not None:
        status = os.fstat(fd)
        facts.update(inode=status.st_ino, dev=status.st_dev)
    rows = me.facts.setdefault("detail", {}).setdefault("mapped", [])
    rows.append({"name": name, "size": size, **facts})


def _memory(me: Process) -> None:
    """Mappings of files that no descriptor holds."""
    shared, private, shared_anonymous = 0x01, 0x02, 0x21
    read_write, read_exec, none = 3, 5, 0
    me.drop_all_but()

    fd = os.memfd_create("mapped \n memfd", os.MFD_CLOEXEC)
    os.ftruncate(fd, 4 * _PAGE)
    ctypes.memset(_map(3 * _PAGE, read_write, shared, fd, _PAGE), 77, 100)
    _mapped(me, "/memfd:mapped \n memfd (deleted)", 3 * _PAGE, fd, shared=True, offset=_PAGE)
    os.close(fd)

    ipc_private, ipc_rmid, ipc_creat = 0, 0, 0o1000
    for key in (ipc_private, 0x0D5C0DE5):
        segment = syscalls.libc("shmget", key, ctypes.c_size_t(2 * _PAGE), ipc_creat | 0o600)
        address = _libc.shmat(segment, None, 0)
        ctypes.memset(address, 1, 10)
        syscalls.libc("shmctl", segment, ipc_rmid, None)
        # The inode of a System V segment is its identifier.
        name = f"/SYSV{key:08x} (deleted)"
        _mapped(me, name, 2 * _PAGE, inode=segment, shared=True, offset=0)

    fd = os.open("/dev/zero", os.O_RDWR | CLOEXEC)
    ctypes.memset(_map(2 * _PAGE, read_write, shared, fd), 1, 10)
    os.close(fd)
    _mapped(me, "/dev/zero (deleted)", 2 * _PAGE, shared=True, offset=0)
    ctypes.memset(_map(5 * _PAGE, read_write, shared_anonymous), 1, 10)
    _mapped(me, "/dev/zero (deleted)", 5 * _PAGE, shared=True, offset=0)

    for name, kind, prot in (
        ("gone", shared, read_write),
        ("gone-private", private, read_exec),
        ("gone-guarded", private, none),
    ):
        path = me.work / name
        fd = os.open(path, os.O_RDWR | os.O_CREAT | CLOEXEC, 0o700)
        os.ftruncate(fd, 8 * _PAGE)
        _map(2 * _PAGE, prot, kind, fd, 3 * _PAGE)
        path.unlink()
        # Another file is at its path by now.
        path.write_text("another\n")
        facts = {"shared": kind == shared, "offset": 3 * _PAGE}
        _mapped(me, f"{path} (deleted)", 2 * _PAGE, fd, **facts)
        os.close(fd)

    path = me.work / "cut"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | CLOEXEC, 0o600)
    os.ftruncate(fd, 2 * _PAGE)
    _map(2 * _PAGE, read_write, shared, fd)
    _map(_PAGE, 1, shared, fd)
    os.ftruncate(fd, 0)
    _mapped(me, str(path), 3 * _PAGE, fd, shared=True, offset=0)
    os.close(fd)


# Programs.


def _exec(
    me: Process,
    role: str,
    program: Path,
    before: Callable[[], None] = lambda: None,
    **facts: Any,
) -> int:
    """
    Start a program that sleeps, and enter the files that it inherits.

    :param facts: members of its entry
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            syscalls.die_with_parent()
            before()
            os.execv(program, [str(program), "infinity"])
        except BaseException as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(1)
    os.close(write_end)
    said = os.read(read_end, 1000)
    os.close(read_end)
    if said:
        os.waitpid(pid, 0)
        raise OSError(8, said.decode())
    me.wait_until(f"{program} asleep", lambda: _status(pid, "State") == "S")
    fds = [entry for entry in me.entries() if entry["fd"] <= 2]
    detail = {"cmdline": f"{program}\0infinity\0", **facts.pop("detail", {})}
    comm = program.name[:15]
    me.others.append(_task(comm, role, pid, me, fds=fds, cwd=str(me.work), detail=detail, **facts))
    return pid


def _sleep(to: Path) -> Path:
    """Copy the program that sleeps."""
    found = shutil.which("sleep", path="/usr/bin:/bin")
    if found is None:
        raise OSError(2, "no sleep(1)")
    shutil.copy(found, to)
    return to


def _programs(me: Process) -> None:
    me.drop_all_but()
    program = _sleep(me.work / "deleted-program-with-a-long-name")
    _exec(me, "program that is deleted", program, detail={"exe": f"{program} (deleted)"})
    program.unlink()
    script = me.work / "program \n odd \x1b"
    _exec(me, "program with an odd name", _sleep(script), detail={"exe": str(script)})

    def gone() -> None:
        place = me.work / "gone-cwd"
        place.mkdir()
        os.chdir(place)
        place.rmdir()

    program = _sleep(me.work / "in-gone-cwd")
    cwd = f"{me.work}/gone-cwd (deleted)"
    found = _exec(me, "directory that is deleted", program, gone, detail={"exe": str(program)})
    assert me.others[-1]["pid"] == found
    me.others[-1]["cwd"] = cwd


def _overlay(me: Process) -> None:
    """In a mount namespace of its own, a program and mapped files of an overlay."""
    me.drop_all_but()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)
    base, merged = me.work / "layers", me.work / "merged"
    base.mkdir()
    merged.mkdir()
    syscalls.mount(b"ds-tmpfs", os.fsencode(base), b"tmpfs")
    for name in ("lower", "upper", "work"):
        (base / name).mkdir()
    for name in ("lower-file", "copied-up", "removed"):
        (base / "lower" / name).write_bytes(name.encode() * 1000)
    for name in ("lower-program", "up-program", "removed-program"):
        _sleep(base / "lower" / name)
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    syscalls.mount(b"overlay", os.fsencode(merged), b"overlay", 0, options.encode())
    with (merged / "up-program").open("r+b"):
        pass
    for name in ("lower-program", "up-program", "removed-program"):
        program = merged / name
        text = f"{program} (deleted)" if name == "removed-program" else str(program)
        status = program.stat()
        detail = {"exe": text, "exe_inode": status.st_ino, "exe_dev": status.st_dev}
        _exec(me, f"{name} of an overlay", program, detail=detail)
    (merged / "removed-program").unlink()
    for name, flags in (
        ("lower-file", os.O_RDONLY),
        ("copied-up", os.O_RDWR),
        ("removed", os.O_RDWR),
        ("new", os.O_RDWR),
    ):
        path = merged / name
        fd = os.open(path, flags | CLOEXEC | (os.O_CREAT if name == "new" else 0), 0o600)
        if name == "new":
            os.ftruncate(fd, 3 * _PAGE)
        read, shared = 1, 1
        _map(2 * _PAGE, read, shared, fd)
        gone = " (deleted)" if name == "removed" else ""
        if gone:
            path.unlink()
        _mapped(me, f"{path}{gone}", 2 * _PAGE, fd, shared=True, offset=0)
        if name == "new":
            me.hold(fd, "file", path)
        else:
            os.close(fd)
    os.chdir(merged)


def _chroot(me: Process) -> None:
    """Root and working directory are deleted, and files outside both are open."""
    place = me.work / "gone-root"
    place.mkdir()
    me.drop_all_but()
    _file(me, "outside-root")
    me.hold(os.open(me.work, os.O_PATH | CLOEXEC), "dir", me.work)
    up = os.open(me.work, os.O_RDONLY | CLOEXEC)
    os.chroot(place)
    os.chdir("/")
    me.hold(os.open("/", os.O_PATH | CLOEXEC), "dir", f"{place} (deleted)")
    os.rmdir("gone-root", dir_fd=up)
    os.close(up)
    me.facts["root"] = me.facts["cwd"] = f"{place} (deleted)"


# Limits, tables.


def _limit(soft: int, hard: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _near(me: Process) -> None:
    """60 of 64 descriptors, the highest possible one included, with holes."""
    me.drop_all_but()
    first = _file(me, "near")
    _up_high(me)
    for number in (63, *range(7, 63)):
        if len(me.entries()) < 60:
            me.dup(first, number)
    _limit(64, 128)
    _detail(me, limit=[64, 128], fds=60)


def _full(me: Process) -> None:
    """All of 16 descriptors, so that nothing can be opened."""
    me.drop_all_but()
    _up_high(me)
    pair = socket.socketpair()
    for end in pair:
        me.hold(end)
    while len(me.entries()) < 16:
        me.dup(pair[0])
    _limit(16, 4096)
    _detail(me, limit=[16, 4096], fds=16)


def _lowered(me: Process) -> None:
    """Most descriptors are above the limit, which was lowered later."""
    me.drop_all_but()
    _up_high(me)
    first = _file(me, "lowered")
    for number in (9, *range(100, 160)):
        me.dup(first, number)
    _limit(10, 10)
    _detail(me, limit=[10, 10])


def _sparse(me: Process) -> None:
    """A table for thousands of descriptors with few in it."""
    me.drop_all_but()
    _up_high(me)
    limit = me.raise_nofile(6000)
    first = _file(me, "sparse")
    for number in (63, 64, 1023, 1024, 2047, 4096, limit - 1):
        me.dup(first, number)
    pipe = os.pipe()
    for fd in pipe:
        me.hold(fd, "pipe")
    me.drop(1)
    _detail(me, limit=[limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]])


def _shared(me: Process) -> None:
    """One file table in two processes; the second one has another user and directory."""
    me.drop_all_but()
    _file(me, "shared-table")
    _sockets(me)
    place = me.work / "shared-cwd"
    place.mkdir()

    def move() -> None:
        os.setpgid(0, 0)
        os.chdir(place)
        os.setresuid(4131, 4131, 4131)

    pid = me.spawn_with_same_table(b"proc-sharer", move)
    me.others.append(
        _task(
            *("proc-sharer", "same table", pid, me),
            shares_files_with=me.pid,
            cwd=str(place),
            detail={"uid": [4131] * 4},
        )
    )


# Properties that status has.


def _scheduled(me: Process, policy: str) -> None:
    me.drop_all_but()
    if policy == "nice":
        os.nice(7)
    elif policy == "deadline":
        sched_deadline = 6
        ms = 10**6
        attributes = struct.pack("=IIQiIQQQ", 48, sched_deadline, 0, 0, 0, ms, 10 * ms, 100 * ms)
        syscalls.syscall("sched_setattr", 0, ctypes.create_string_buffer(attributes), 0)
    else:
        priority = {"fifo": 3, "rr": 99}.get(policy, 0)
        number = {"fifo": os.SCHED_FIFO, "rr": os.SCHED_RR, "batch": os.SCHED_BATCH}
        os.sched_setscheduler(0, number.get(policy, os.SCHED_IDLE), os.sched_param(priority))
        os.sched_setaffinity(0, {0})
        _detail(me, cpus=[0])
        _detail(me, rt_priority=priority)
    _detail(me, policy=os.sched_getscheduler(0), nice=os.getpriority(os.PRIO_PROCESS, 0))


def _filtered(me: Process) -> None:
    """No new privileges, and two seccomp filters."""
    no_new_privs, thp_disable, set_speculation_ctrl = 38, 41, 53
    me.drop_all_but()
    _prctl(no_new_privs, 1)
    _prctl(thp_disable, 1)
    me.attempt("speculation", partial(_prctl, set_speculation_ctrl, 0, 1 << 2))
    allow = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(struct.pack("=H6xQ", 1, ctypes.addressof(allow)))
    for _ in range(2):
        syscalls.syscall("seccomp", 1, 0, program)
    _detail(me, seccomp=2, filters=2, no_new_privs=1)


def _strict(me: Process) -> None:
    """Strict seccomp: it may only read and write, and reads for ever."""
    set_seccomp = 22
    me.drop_all_but()
    pipe = os.pipe()
    for fd in pipe:
        me.hold(fd, "pipe")
    _detail(me, seccomp=1)
    me.report()
    _prctl(set_seccomp, 1)
    os.read(pipe[0], 1)


def _signals(me: Process) -> None:
    """Pending, ignored and caught signals; an odd umask; locked memory."""
    me.drop_all_but()
    blocked = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN, signal.SIGRTMAX}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.kill(me.pid, signal.SIGUSR1)
    for _ in range(3):
        os.kill(me.pid, signal.SIGRTMIN)
    for number in (signal.SIGUSR2, signal.SIGRTMAX):
        signal.pthread_kill(threading.get_ident(), number)
    os.umask(0o137)
    address = _map(3 * _PAGE)
    syscalls.libc("mlock", ctypes.c_void_p(address), ctypes.c_size_t(3 * _PAGE))
    _detail(
        me,
        umask=0o137,
        locked=3 * _PAGE,
        blocked=sorted(map(int, blocked)),
        pending=sorted(map(int, (signal.SIGUSR2, signal.SIGRTMAX))),
        shared_pending=sorted(map(int, (signal.SIGUSR1, signal.SIGRTMIN))),
    )


def run(me: Process) -> None:
    me.modprobe("overlay")
    for role, body in (
        ("proc-user", _user),
        ("proc-capable", _capable),
        ("proc-namespaces", _namespaces),
        ("tty-leader", _terminal),
        ("proc-tracer", _tracer),
        ("proc-zombies", _zombies),
        ("proc-headless", _headless),
        ("proc-threads", _own_thread),
        ("proc-memory", _memory),
        ("proc-programs", _programs),
        ("proc-chroot", _chroot),
        ("proc-near", _near),
        ("proc-full", _full),
        ("proc-lowered", _lowered),
        ("proc-sparse", _sparse),
        ("proc-shared", _shared),
        ("proc-filtered", _filtered),
        ("proc-signals", _signals),
    ):
        me.spawn(role, body).finish()
    _names(me)
    _try(me, "overlayfs", "proc-overlay", _overlay)
    for policy in ("nice", "fifo", "rr", "batch", "idle", "deadline"):
        body = partial(_scheduled, policy=policy)
        _try(me, f"policy {policy}", f"proc-{policy}", body)
    strict = me.spawn("proc-strict", _strict)
    strict.finish()
    me.wait_until("strict seccomp", lambda: _status(strict.pid, "Seccomp") == "1")
