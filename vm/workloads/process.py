# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A process of a workload, which keeps an account of what it opens.

A workload is a function ``run(me: Process) -> None``. It enters each file that it opens with
:meth:`Process.hold`, starts further processes with :meth:`Process.spawn`, and calls
:meth:`Process.report` when all is set up; after that it must open and close nothing. When the
function returns, its account is reported, and the process sleeps for ever.
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar, Union, cast

from . import syscalls
from .account import Account, Cleanup, FdAccount, FdEnd, ProcessAccount, Skipped

SO_TYPE, SO_PROTO, SO_DOMAIN, SO_COOKIE = 3, 38, 39, 57
#: Python has no name for this type.
SOCK_DCCP = 6
SIOCINQ = 0x541B
SIOCOUTQ = 0x5411

TCP_STATES = (
    "?",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
    "BOUND_INACTIVE",
)

_FLAGS = {
    "append": os.O_APPEND,
    "nonblock": os.O_NONBLOCK,
    "async": os.O_ASYNC,
    "direct": os.O_DIRECT,
    "directory": os.O_DIRECTORY,
    "nofollow": os.O_NOFOLLOW,
    "noatime": os.O_NOATIME,
    "dsync": os.O_DSYNC,
    "sync": os.O_SYNC,
    "path": os.O_PATH,
    "tmpfile": os.O_TMPFILE,
}


class HasFileno(Protocol):
    def fileno(self) -> int: ...


AnyFd = Union[int, HasFileno]
AnyPath = Union[str, bytes, "os.PathLike[str]"]
Held = TypeVar("Held")


class WorkloadError(Exception):
    """A workload could not be set up; the text says why."""


def fileno(file: AnyFd) -> int:
    return file if isinstance(file, int) else file.fileno()


def _jsonable(address: Any) -> Any:
    if isinstance(address, bytes):
        return os.fsdecode(address)
    if isinstance(address, tuple):
        return [_jsonable(part) for part in address]
    return address


def _enum_name(enum: Any, value: int) -> str:
    try:
        return str(enum(value).name)
    except ValueError:
        return str(value)


def tcp_state(sock: socket.socket) -> str:
    """The kernel's name of a TCP socket's state."""
    return TCP_STATES[sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]]


def _queue(fd: int, request: int) -> int | None:
    try:
        return cast(int, struct.unpack("i", fcntl.ioctl(fd, request, b"\0" * 4))[0])
    except OSError:
        return None


def describe_socket(fd: int) -> FdAccount:
    """Describe a socket by asking the kernel through its descriptor."""
    # Python would ask getsockname for the family, which AF_ALG does not have.
    family, kind, protocol = (syscalls.socket_option(fd, o) for o in (SO_DOMAIN, SO_TYPE, SO_PROTO))
    sock = socket.socket(family, kind, protocol, fileno=fd)
    facts = cast(FdAccount, {})
    try:
        facts["family"] = _enum_name(socket.AddressFamily, sock.family)
        facts["type"] = "SOCK_DCCP" if kind == SOCK_DCCP else _enum_name(socket.SocketKind, kind)
        facts["protocol"] = sock.proto
        try:
            cookie = sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
            facts["cookie"] = int.from_bytes(cookie, sys.byteorder)
        except OSError:
            pass
        if sock.family == socket.AF_UNIX:
            facts["path"] = os.fsdecode(syscalls.unix_name("getsockname", fd))
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            facts["state"] = "LISTEN" if listening else "UNCONNECTED"
            try:
                facts["peer_path"] = os.fsdecode(syscalls.unix_name("getpeername", fd))
                facts["state"] = "CONNECTED"
            except OSError:
                pass
            if sock.type != socket.SOCK_DGRAM:
                cred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                if facts["state"] != "UNCONNECTED":
                    facts["peercred"] = list(struct.unpack("3i", cred))
        else:
            inet = sock.family in (socket.AF_INET, socket.AF_INET6)
            if inet and sock.type == socket.SOCK_STREAM and sock.proto == socket.IPPROTO_TCP:
                facts["state"] = tcp_state(sock)
            for key, call in (("local", sock.getsockname), ("remote", sock.getpeername)):
                try:
                    facts[key] = _jsonable(call())  # type: ignore[literal-required]
                except (OSError, ValueError):
                    facts[key] = None  # type: ignore[literal-required]
        for key, request in (("inq", SIOCINQ), ("outq", SIOCOUTQ)):
            amount = _queue(fd, request)
            if amount is not None:
                facts[key] = amount  # type: ignore[literal-required]
    finally:
        sock.detach()
    return facts


def describe(fd: int, kind: str, name: str | None) -> FdAccount:
    """Describe a descriptor by asking the kernel through the descriptor itself."""
    status = os.fstat(fd)
    raw = fcntl.fcntl(fd, fcntl.F_GETFL)
    access = "path" if raw & os.O_PATH else ("r", "w", "rw", "none")[raw & os.O_ACCMODE]
    flags = [word for word, bits in _FLAGS.items() if raw & bits == bits]
    if "tmpfile" in flags and "directory" in flags:
        flags.remove("directory")
    if "sync" in flags and "dsync" in flags:
        flags.remove("dsync")
    pos = None
    if kind in ("file", "memfd", "dir", "char"):
        try:
            pos = os.lseek(fd, 0, os.SEEK_CUR)
        except OSError:
            pass
    entry: FdAccount = {
        "fd": fd,
        "kind": kind,
        "name": name,
        "access": access,
        "cloexec": bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC),
        "flags": flags,
        "raw_flags": raw,
        "pos": pos,
        "inode": status.st_ino,
        "dev": status.st_dev,
        "mode": status.st_mode,
    }
    if kind in ("socket", "pipe"):
        entry["name"] = f"{kind}:[{status.st_ino}]"
    if kind == "socket":
        entry.update(describe_socket(fd))
    return entry


class Channel:
    """Messages between a process and its child, until both are set up."""

    def __init__(self, sock: socket.socket, deadline: float, what: str) -> None:
        self.sock = sock
        self.deadline = deadline
        self.what = what

    def _left(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise WorkloadError(f"{self.what}: timed out")
        self.sock.settimeout(left)

    def send(self, message: Any) -> None:
        self._left()
        data = json.dumps(message).encode()
        self.sock.sendall(struct.pack("q", len(data)) + data)

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            self._left()
            try:
                part = self.sock.recv(size)
            except socket.timeout:
                raise WorkloadError(f"{self.what}: timed out") from None
            if not part:
                raise WorkloadError(f"{self.what}: exited before it was ready")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def receive(self) -> Any:
        (size,) = struct.unpack("q", self._exactly(8))
        message = json.loads(self._exactly(size))
        if isinstance(message, dict) and "failed" in message:
            raise WorkloadError(f"{self.what}: {message['failed']}")
        return message

    def send_fds(self, *files: AnyFd) -> None:
        self._left()
        socket.send_fds(self.sock, [b"F"], [fileno(file) for file in files])

    def receive_fds(self, count: int) -> list[int]:
        self._left()
        _, fds, _, _ = socket.recv_fds(self.sock, 1, count)
        return list(fds)

    def close(self) -> None:
        self.sock.close()


class Process:
    """A process, the files it holds, and the accounts of the processes it started."""

    def __init__(self, role: str, work: Path, timeout: float) -> None:
        self.role = role
        self.work = work
        self.deadline = time.monotonic() + timeout
        self.pid = os.getpid()
        self.netns = syscalls.netns_inode()
        self.steady = True
        self.arg = ""
        #: Lists that a workload adds to its account: "connections", "pairs", ...
        self.lists: dict[str, Any] = {}
        self.skipped: list[Skipped] = []
        self.cleanup: Cleanup = {"sysctls": {}, "remove": [str(work)]}
        #: Entries made by hand: threads, zombies.
        self.others: list[ProcessAccount] = []
        self.up: Channel | None = None
        self.ready_fd: int | None = None
        self.facts: dict[str, Any] = {}
        self._table: dict[int, tuple[str, str | None, dict[str, Any]]] = {}
        self._objects: dict[int, Any] = {}
        self._channels: list[Channel] = []

    # What is open.

    def hold(
        self, file: Held, kind: str = "socket", name: AnyPath | None = None, **facts: Any
    ) -> Held:
        """
        Enter an open file in the account, and keep it open.

        :param name: what readlink must give, unless *kind* is socket or pipe
        :param facts: further members of the entry
        """
        fd = fileno(cast(AnyFd, file))
        text = os.fsdecode(name) if name is not None else None
        if kind == "socket":
            facts.setdefault("netns", self.netns)
        self._table[fd] = (kind, text, facts)
        self._objects[fd] = file
        return file

    def note(self, file: AnyFd, **facts: Any) -> None:
        """Add members to the entry of a held file."""
        self._table[fileno(file)][2].update(facts)

    def drop(self, *files: AnyFd) -> None:
        """Close held files."""
        for file in files:
            fd = fileno(file)
            del self._table[fd]
            kept = self._objects.pop(fd)
            if isinstance(kept, int):
                os.close(kept)
            else:
                kept.close()

    def drop_all_but(self, *files: AnyFd) -> None:
        """Close what is held, except standard streams and *files*."""
        keep = {0, 1, 2, *map(fileno, files)}
        self.drop(*(fd for fd in list(self._table) if fd not in keep))

    def dup(self, file: AnyFd, to: int | None = None, **facts: Any) -> int:
        """Duplicate a held file to the number *to*, or to the lowest that is free."""
        kind, name, known = self._table[fileno(file)]
        new = os.dup(fileno(file)) if to is None else os.dup2(fileno(file), to, False)
        return self.hold(new, kind, name, **{**known, **facts})

    def end(self, file: AnyFd) -> FdEnd:
        return {"pid": self.pid, "fd": fileno(file)}

    def skip(self, what: str, why: object) -> None:
        """Enter something that this kernel or machine cannot do."""
        self.skipped.append({"what": what, "why": str(why)})

    def attempt(self, what: str, action: Callable[[], Any]) -> Any:
        """Call *action*; if this kernel cannot do it, enter that as skipped and return None."""
        try:
            return action()
        except (OSError, subprocess.SubprocessError, ValueError, AttributeError) as error:
            self.skip(what, error)
            return None

    def add(self, key: str, **row: Any) -> None:
        """Add a row to one of the account's lists."""
        self.lists.setdefault(key, []).append(row)

    # The machine around.

    def sysctl(self, name: str, value: object) -> None:
        """Set a sysctl (slashes between the parts); ``stop`` puts the old value back."""
        path = Path("/proc/sys") / name
        old = path.read_text().strip()
        path.write_text(f"{value}\n")
        self.cleanup["sysctls"].setdefault(name, old)

    def raise_nofile(self, wanted: int) -> int:
        """Raise the limit of open files, to *wanted* if allowed, and return what it is then."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (OSError, ValueError) as error:
            # Without CAP_SYS_RESOURCE, as in some containers.
            wanted = min(hard, wanted)
            self.skip(f"RLIMIT_NOFILE above {wanted}", error)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted

    def modprobe(self, *modules: str) -> None:
        """Load modules. A module that is missing is no error here: using it will fail."""
        tool = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin")
        for module in modules if tool else ():
            subprocess.run(
                [str(tool), "-q", module],
                timeout=60,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def ip(self, *commands: str) -> None:
        """Run ``ip`` with each of *commands*."""
        tool = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin") or "ip"
        for command in commands:
            done = subprocess.run(
                [tool, *command.split()],
                timeout=60,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            if done.returncode:
                text = done.stdout.decode(errors="replace").strip()
                raise OSError(errno.EINVAL, f"ip {command}: {text}")

    def wait_until(self, what: str, true: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until *true* returns true."""
        end = min(self.deadline, time.monotonic() + seconds)
        while not true():
            if time.monotonic() > end:
                raise WorkloadError(f"{what}: did not happen in time")
            time.sleep(0.005)

    # Further processes.

    def spawn(self, role: str, body: Callable[[Process], None], comm: bytes | None = None) -> Child:
        """
        Fork a process that runs *body* and holds all that this one does.

        Its :class:`Process` is handed to *body*, which drops what it should not hold.
        """
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            self._become(role, ours, theirs, body, comm)
        theirs.close()
        channel = Channel(ours, self.deadline, f"{role} ({pid})")
        self._channels.append(channel)
        return Child(self, pid, channel)

    def spawn_with_same_table(self, comm: bytes, prepare: Callable[[], Any] = int) -> int:
        """
        Fork a process that has the same file table (``CLONE_FILES``), and return its pid.

        :param prepare: called in it before it is ready; must not open or close files, since this
            process has the same ones
        """
        # Shared memory: a pipe would be one more file in the table of both.
        ready = mmap.mmap(-1, mmap.PAGESIZE)
        pid = syscalls.clone_sharing_files()
        if not pid:
            try:
                syscalls.set_comm(comm)
                prepare()
                # After prepare(): a change of user would clear this setting.
                syscalls.die_with_parent()
                ready[0] = 1
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        try:
            self.wait_until("the process with the same table", lambda: ready[0] == 1)
        except WorkloadError:
            os.kill(pid, signal.SIGKILL)
            raise
        return pid

    def _become(
        self,
        role: str,
        ours: socket.socket,
        theirs: socket.socket,
        body: Callable[[Process], None],
        comm: bytes | None,
    ) -> NoReturn:
        try:
            syscalls.die_with_parent()
            ours.close()
            for channel in self._channels:
                channel.close()
            self._channels = []
            if self.up:
                self.up.close()
            if self.ready_fd is not None:
                os.close(self.ready_fd)
                self.ready_fd = None
            self.up = Channel(theirs, self.deadline, f"{self.role} ({self.pid})")
            self.role = role
            self.pid = os.getpid()
            self.others, self.lists, self.skipped, self.facts = [], {}, [], {}
            self.cleanup = {"sysctls": {}, "remove": []}
            syscalls.set_comm(comm or role.encode())
            self._run(body)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(1)

    def _run(self, body: Callable[[Process], None]) -> NoReturn:
        try:
            body(self)
            self.report()
        except BaseException as error:
            traceback.print_exc()
            if self.up:
                self.up.send({"failed": f"{type(error).__name__}: {error}"})
            raise
        while True:
            signal.pause()

    # The account.

    def entries(self) -> list[FdAccount]:
        """Describe everything held, as the calling thread sees it."""
        found = []
        for fd in sorted(self._table):
            kind, name, facts = self._table[fd]
            entry = describe(fd, kind, name)
            entry.update(cast(FdAccount, facts))
            found.append(entry)
        return found

    def myself(self) -> ProcessAccount:
        entry: ProcessAccount = {
            "pid": self.pid,
            "tid": self.pid,
            "comm": os.fsdecode(syscalls.get_comm()),
            "role": self.role,
            "netns": self.netns,
            "fds": self.entries(),
            "steady": self.steady,
            # Path.cwd() fails if the directory has been deleted.
            "cwd": self.facts.get("cwd") or str(Path.cwd()),
        }
        entry.update(cast(ProcessAccount, self.facts))
        return entry

    def report(self) -> None:
        """Send the account to the parent or to ``start``. A second call does nothing."""
        if self.up:
            self.up.send(
                {
                    "processes": [self.myself(), *self.others],
                    "lists": self.lists,
                    "skipped": self.skipped,
                    "cleanup": self.cleanup,
                }
            )
            self.up.close()
            self.up = None
        elif self.ready_fd is not None:
            text = json.dumps(self.account()).encode() + b"\n"
            with os.fdopen(self.ready_fd, "wb") as pipe:
                pipe.write(text)
            self.ready_fd = None

    def account(self) -> Account:
        account: Account = {
            "workload": self.role,
            "pid": self.pid,
            "arg": self.arg,
            "kernel": os.uname().release,
            "started": time.time(),
            "log": "",
            "processes": [self.myself(), *self.others],
            "skipped": self.skipped,
            "cleanup": self.cleanup,
        }
        account.update(cast(Account, self.lists))
        return account


class Child:
    """A process that was started, until its account has arrived."""

    def __init__(self, parent: Process, pid: int, channel: Channel) -> None:
        self.parent = parent
        self.pid = pid
        self.channel = channel

    def send(self, message: Any) -> None:
        self.channel.send(message)

    def receive(self) -> Any:
        return self.channel.receive()

    def finish(self) -> list[ProcessAccount]:
        """Wait for its account, and add that to the parent's."""
        report = self.receive()
        # Until the child has closed its end, it has a descriptor that its account lacks.
        if self.channel.sock.recv(1):
            raise WorkloadError(f"{self.channel.what}: says more than its report")
        self.channel.close()
        self.parent._channels.remove(self.channel)
        self.parent.others += report["processes"]
        for key, rows in report["lists"].items():
            self.parent.lists.setdefault(key, []).extend(rows)
        self.parent.skipped += report["skipped"]
        for name, value in report["cleanup"]["sysctls"].items():
            self.parent.cleanup["sysctls"].setdefault(name, value)
        return cast("list[ProcessAccount]", report["processes"])

    def end(self, file: AnyFd) -> FdEnd:
        """Get the end of the child that has the same number as *file* here."""
        return {"pid": self.pid, "fd": fileno(file)}


def serve_forever(sockets: list[socket.socket], answer: Callable[[bytes], bytes]) -> NoReturn:
    """Answer all that arrives, for ever. Not with epoll, which would be one more descriptor."""
    while True:
        readable, _, _ = select.select(sockets, [], [])
        for sock in readable:
            data = sock.recv(4096)
            if data:
                sock.sendall(answer(data))
            else:
                sockets.remove(sock)


def be_daemon(
    name: str,
    arg: str,
    run: Callable[[Process], None],
    ready_fd: int,
    timeout: float,
    work: Path,
    log: Path,
) -> NoReturn:
    """Be the main process of a workload: set it up, report the account, and stay."""
    os.set_inheritable(ready_fd, False)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    os.chdir(work)
    syscalls.set_comm(f"ds-{name}".encode()[:15])
    me = Process(name, work, timeout)
    me.arg = arg
    me.ready_fd = ready_fd
    me.hold(0, "char", "/dev/null")
    me.hold(1, "file", str(log))
    me.hold(2, "file", str(log))
    try:
        run(me)
        me.report()
    except BaseException as error:
        traceback.print_exc()
        if me.ready_fd is not None:
            failed = json.dumps({"failed": f"{type(error).__name__}: {error}"})
            os.write(me.ready_fd, failed.encode() + b"\n")
        for name_, value in me.cleanup["sysctls"].items():
            (Path("/proc/sys") / name_).write_text(value)
        shutil.rmtree(work, ignore_errors=True)
        sys.stderr.flush()
        os._exit(1)
    while True:
        signal.pause()
