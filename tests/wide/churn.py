# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A machine that does not hold still, and the commands that look at it meanwhile. It runs in a guest::

    python -m vm run --kernel 6.12 --no-debug-info --timeout 900 python3 -m tests.wide.churn -m 5

Some processes connect and close, fork and exit, pass file descriptors around, make and remove
files, sockets and network namespaces, as fast as they can. Others hold *stable* objects still. The
commands look at all that in turn. Each look has to show every stable object as it is, no row that
nobody made, and nothing that could not be read: nothing here is damaged.

The last line of the output has the figures, as JSON.
"""

from __future__ import annotations

import argparse
import array
import collections
import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import re
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple, NoReturn

PLACE = Path("/tmp/churn")
#: A command takes this many times as long as on the quiet guest at most, beyond what :data:`LOOP`
#: does.
SLOWER = 3.0
_SERVERS = 16
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_IP_BIND_ADDRESS_NO_PORT = 24
# TIME-WAIT sockets that the kernel keeps: a minute of all connections would be more than is there
# on a quiet guest by far.
_TIME_WAITS = 200

_libc = ctypes.CDLL(None, use_errno=True)


class Count:
    """Counters that processes share: what was done."""

    NAMES = ("connections", "resets", "processes", "passed", "files", "namespaces")

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, 4096)).cast("Q")
        # One of each for each process, so that none is lost.
        self._mine = 0

    def of_process(self, number: int) -> None:
        """Count as this process, from 0 on."""
        self._mine = number * len(self.NAMES)

    def add(self, name: str) -> None:
        """Count one."""
        self._memory[self._mine + self.NAMES.index(name)] += 1

    def sums(self) -> dict[str, int]:
        """All that was counted so far."""
        n = len(self.NAMES)
        return {name: sum(self._memory[i::n]) for i, name in enumerate(self.NAMES)}


def _called(name: str) -> None:
    Path("/proc/self/comm").write_text(name)


def _own_net() -> None:
    """Enter a network namespace of our own."""
    if _libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")


def _loopback_up() -> None:
    with socket.socket() as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


# What moves.


def connect(count: Count, number: int) -> NoReturn:
    """Connect to servers on several addresses and close; every second connection ends by RST."""
    listeners = {}
    for k in range(1, _SERVERS + 1):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((f"127.0.0.{k}", _port(number, k)))
        sock.listen(16)
        listeners[k] = sock
    kept: collections.deque[tuple[socket.socket, ...]] = collections.deque()
    turn = 0
    while True:
        for k, listener in listeners.items():
            turn += 1
            client = socket.socket()
            client.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            client.bind((f"127.0.1.{k}", 0))
            client.connect(listener.getsockname())
            server = listener.accept()[0]
            client.send(b"x" * (1 + turn % 1000))
            kept.append((client, server))
            count.add("connections")
            if len(kept) > 24:
                client, server = kept.popleft()
                if turn % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    count.add("resets")
                # The end that closes first is the one that waits in TIME-WAIT.
                (client if turn % 3 else server).close()
                client.close()
                server.close()


def _port(number: int, k: int) -> int:
    return 7000 + 100 * number + k


def fork(count: Count, number: int) -> NoReturn:
    """Processes that open a few files and exit."""
    place = PLACE / "fork"
    place.mkdir(exist_ok=True)
    live: collections.deque[int] = collections.deque()
    turn = 0
    while True:
        turn += 1
        if turn % 16 == 0:
            live.append(os.posix_spawn("/bin/true", ["/bin/true"], {}))
        else:
            pid = os.fork()
            if not pid:
                _forked(place, turn)
            live.append(pid)
        count.add("processes")
        while len(live) > 6:
            os.waitpid(live.popleft(), 0)


def _forked(place: Path, turn: int) -> NoReturn:
    try:
        _called(f"churn-{turn % 1000}")
        kept: list[Any] = [(place / f"f.{turn}").open("wb"), *os.pipe(), *socket.socketpair()]
        kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        kept[-1].bind((f"127.0.0.{1 + turn % _SERVERS}", 0))
        if turn % 2:
            (place / f"f.{turn}").unlink()
        if turn % 5 == 0:
            # A table that has to grow.
            for fd in range(64, 64 + turn % 200):
                os.dup2(0, fd)
        time.sleep(turn % 4 * 0.005)
        (place / f"f.{turn}").unlink(missing_ok=True)
    finally:
        os._exit(0)


def hand_over(count: Count, number: int) -> NoReturn:
    """File descriptors, sent from one process to another."""
    place = PLACE / "passed"
    place.mkdir(exist_ok=True)
    ours, theirs = socket.socketpair()
    if not os.fork():
        _called("churn-taker")
        ours.close()
        while True:
            _, fds, _, _ = socket.recv_fds(theirs, 16, 16)
            for fd in fds:
                os.close(fd)
    theirs.close()
    turn = 0
    while True:
        turn += 1
        kept: list[Any] = [(place / f"f.{turn}").open("wb"), *socket.socketpair()]
        kept.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        kept[-1].bind(f"\0churn.{turn}")
        ours.sendmsg(
            [b"fds"],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [f.fileno() for f in kept]))],
        )
        # Some are in flight and nowhere else.
        for item in kept:
            item.close()
        (place / f"f.{turn}").unlink()
        count.add("passed")


def make_files(count: Count, number: int) -> NoReturn:
    """Files, directories and unix sockets with a name, made, renamed and removed."""
    place = PLACE / "files"
    place.mkdir(exist_ok=True)
    kept: collections.deque[Any] = collections.deque()
    turn = 0
    while True:
        turn += 1
        directory = place / f"d.{turn}"
        directory.mkdir()
        path = directory / f"f.{turn}"
        kept.append(path.open("wb"))
        kept[-1].write(b"more")
        kept[-1].flush()
        path.rename(place / f"f.{turn}")
        directory.rmdir()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(place / f"s.{turn}"))
        sock.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(place / f"s.{turn}"))
        kept += [sock, client, sock.accept()[0]]
        (place / f"s.{turn}").unlink()
        (place / f"f.{turn}").unlink()
        while len(kept) > 32:
            kept.popleft().close()
        count.add("files")


def make_namespaces(count: Count, number: int) -> NoReturn:
    """Network namespaces with sockets in them, made and destroyed."""
    while True:
        pid = os.fork()
        if not pid:
            try:
                _called("churn-net")
                _own_net()
                kept = socket.create_server(("127.0.0.1", 7900))
                other = socket.socket(socket.AF_UNIX)
                other.bind("\0churn.0")
                time.sleep(0.01)
                kept.close()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        count.add("namespaces")
        # Destroying one takes all of the kernel's attention.
        time.sleep(0.1)


MOVERS: tuple[Callable[[Count, int], NoReturn], ...] = (
    *(connect, connect),
    *(fork, hand_over, make_files, make_namespaces),
)


@contextlib.contextmanager
def moving(count: Count, nice: int) -> Iterator[None]:
    """Have all that move."""
    pids = []
    for number, mover in enumerate(MOVERS):
        pid = os.fork()
        if not pid:
            try:
                # A group of its own, so that its children are found when it ends.
                os.setpgid(0, 0)
                os.nice(nice)
                _called("churn-" + mover.__name__)
                count.of_process(number)
                mover(count, number)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(1)
        pids.append(pid)
    try:
        yield
        for pid in pids:
            if os.waitpid(pid, os.WNOHANG)[0]:
                raise SystemExit(f"churn: process {pid} of what moves has ended")
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


# What stands still.


class Fd(NamedTuple):
    """A file descriptor that stays."""

    pid: int
    fd: int
    name: str


class Sock(NamedTuple):
    """A socket that stays: by its inode."""

    ino: int
    netid: str
    state: str
    local: str
    peer: str
    pid: int
    fd: int
    #: Inode of the other end, 0 if it has none.
    peer_ino: int


def _ino(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def _text(address: tuple[Any, ...]) -> str:
    return f"{address[0]}:{address[1]}"


def _inet(sock: socket.socket, netid: str, state: str, peer: socket.socket | None = None) -> Sock:
    far = _text(sock.getpeername()) if peer is not None else "0.0.0.0:*"
    return Sock(
        *(_ino(sock), netid, state, _text(sock.getsockname()), far, os.getpid(), sock.fileno()),
        _ino(peer) if peer is not None else 0,
    )


def _unix(sock: socket.socket, netid: str, state: str, peer: socket.socket | None = None) -> Sock:
    def end(of: socket.socket | None) -> str:
        if of is None:
            return "* 0"
        name = of.getsockname()
        shown = "@" + name[1:].decode() if isinstance(name, bytes) and name else name or "*"
        return f"{shown} {_ino(of)}"

    return Sock(
        *(_ino(sock), netid, state, end(sock), end(peer), os.getpid(), sock.fileno()),
        _ino(peer) if peer is not None else 0,
    )


def _stay(own_net: bool, ready: int) -> NoReturn:
    """Be a process that keeps what it has."""
    _called("churn-still")
    if own_net:
        _own_net()
        _loopback_up()
    n = os.getpid()
    socks: list[Sock] = []
    kept: list[Any] = []
    listener = socket.create_server(("127.0.2.1", 0), backlog=5)
    client = socket.create_connection(listener.getsockname(), source_address=("127.0.2.4", 0))
    server = listener.accept()[0]
    socks.append(_inet(listener, "tcp", "LISTEN"))
    socks += [_inet(client, "tcp", "ESTAB", server), _inet(server, "tcp", "ESTAB", client)]
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.2.2", 0))
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind(("127.0.2.3", 0))
    other.connect(bound.getsockname())
    socks.append(_inet(bound, "udp", "UNCONN"))
    socks.append(_inet(other, "udp", "ESTAB", bound))
    left, right = socket.socketpair()
    socks += [_unix(left, "u_str", "ESTAB", right), _unix(right, "u_str", "ESTAB", left)]
    named = socket.socket(socket.AF_UNIX)
    named.bind(str(PLACE / f"still.{n}"))
    named.listen()
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(str(PLACE / f"still.{n}"))
    taken = named.accept()[0]
    socks.append(_unix(named, "u_str", "LISTEN"))
    socks += [_unix(caller, "u_str", "ESTAB", taken), _unix(taken, "u_str", "ESTAB", caller)]
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    abstract.bind(f"\0churn-still.{n}")
    socks.append(_unix(abstract, "u_dgr", "UNCONN"))
    kept += [listener, client, server, bound, other, left, right, named, caller, taken, abstract]
    path = PLACE / f"file.{n}"
    kept += [path.open("w+b"), (PLACE / f"gone.{n}").open("w+b"), *os.pipe()]
    (PLACE / f"gone.{n}").unlink()
    kept += [select.epoll(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)]
    kept.append(os.open("/proc/self/ns/net", os.O_RDONLY))
    fds = [Fd(n, fd, _link(fd)) for fd in map(int, os.listdir("/proc/self/fd"))]  # noqa: PTH208
    # That of listdir() itself is gone.
    fds = [fd for fd in fds if fd.name]
    os.write(ready, json.dumps([fds, socks]).encode() + b"\n")
    while True:
        signal.pause()


def _link(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
    except FileNotFoundError:
        return ""


class Still(NamedTuple):
    """All that stays."""

    fds: list[Fd]
    socks: list[Sock]
    #: Whether no other workload runs beside, so that each TCP and UDP socket is one of ours.
    alone: bool = True


@contextlib.contextmanager
def standing_still(alone: bool) -> Iterator[Still]:
    """Processes that keep what they have: two, the second in a network namespace of its own."""
    fds: list[Fd] = []
    socks: list[Sock] = []
    pids = []
    for own_net in (False, True):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(read)
                _stay(own_net, write)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(1)
        pids.append(pid)
        os.close(write)
        with os.fdopen(read, "rb") as said:
            some, others = json.loads(said.readline())
        fds += [Fd(*fd) for fd in some]
        socks += [Sock(*sock) for sock in others]
    try:
        yield Still(fds, socks, alone)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


# What is looked at.

_NAMES = re.compile(
    r"/dev/(null|ptmx|hvc\d|vport\S+|console)|(pipe|socket|net):\[\d+\]|/proc/\d+/comm"
    r"|anon_inode:(\[(eventpoll|eventfd|timerfd|pidfd)\])"
    r"|/tmp/churn/((fork|passed|files|files/d\.\d+)/f\.\d+)( \(deleted\))?"
    r"|/tmp/churn/((file|gone|still)\.\d+)( \(deleted\))?"
    r"|/dev/shm/#\d+ \(deleted\)|/proc/\S*"
    r"|/usr/\S+|/src/\S+|/lib/\S+|/etc/\S+|/"
)
_KINDS = frozenset(
    {"sock", "pipe", "reg", "dir", "chr", "eventpoll", "ns", "memfd", "pidfd", "proc", "unknown"}
)
_END = re.compile(r"127\.0\.([01])\.(\d+):(\d+|\*)")
_UNIX_END = re.compile(r"(\*|@churn\.\d+|@churn-still\.\d+|/tmp/churn/(still|files/s)\.\d+) \d+")
_STATES = frozenset(
    {"ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "UNCONN"}
    | {"CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING"}
)


class Look(NamedTuple):
    """A command that looked."""

    command: str
    status: int
    seconds: float
    cpu: float
    #: What is wrong with it.
    wrong: list[str]
    #: Objects compared or shown.
    objects: int
    #: What changed meanwhile, and was not judged.
    moved: int
    mismatches: int


def _bad_inet_row(row: dict[str, Any]) -> str:
    """Why no process here made such a TCP or UDP socket; "" if one may have."""
    local, peer = row["local"], row["peer"]
    if row["state"] not in _STATES:
        return "state"
    near, far = _END.fullmatch(local), _END.fullmatch(peer)
    if row["netid"] == "udp" or "127.0.2." in local:
        return ""
    if near is None and local not in ("0.0.0.0:*", "*:*"):
        return "local end"
    if far is None and peer not in ("0.0.0.0:*", "*:*"):
        return "remote end"
    if near is None:
        return "" if row["holders"] and far is None else "no ends"
    if far is None:
        return ""
    if near[2] != far[2] or near[1] == far[1]:
        return "ends that do not belong together"
    server = near if near[1] == "0" else far
    ports = [_port(number, int(server[2])) for number in range(len(MOVERS))]
    return "" if server[3].isdecimal() and int(server[3]) in ports else "port of another server"


def bad_socket(row: dict[str, Any], alone: bool) -> str:
    """Why no process here made such a socket; "" if one may have."""
    ours = "127.0.1." in row["local"] or "127.0.1." in row["peer"]
    comms = [holder["comm"] for holder in row["holders"] or ()]
    if not (alone or ours or any(comm.startswith("churn") for comm in comms)):
        return ""
    if row["netid"] in ("tcp", "udp"):
        if not all(comm.startswith(("churn", "python", "drgn")) for comm in comms):
            return "holders"
        return _bad_inet_row(row)
    if row["netid"].startswith("u_") and any(comm.startswith("churn") for comm in comms):
        return "" if _UNIX_END.fullmatch(row["local"]) else "name"
    return ""


def bad_fd(row: dict[str, Any]) -> str:
    """Why no process here has such a file; "" if one may have."""
    if not row["command"].startswith("churn"):
        return ""
    if row["name"] is None or not _NAMES.fullmatch(row["name"]):
        return "name"
    if row["kind"] not in _KINDS:
        return "kind"
    detail = row["detail"] or ""
    ends = re.findall(r"127\.0\.[01]\.(\d+):", detail)
    if detail.startswith("tcp") and len(set(ends)) > 1:
        return "ends that do not belong together"
    return ""


def _rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def judge_fds(still: Still, out: str) -> tuple[list[str], int]:
    """Judge the output of ``fds --json``."""
    rows = _rows(out)
    shown = {(row["pid"], row["fd"]): row for row in rows if row["tid"] is None}
    wrong = []
    for fd in still.fds:
        row = shown.get((fd.pid, fd.fd))
        if row is None:
            wrong.append(f"missing: {fd}")
        elif row["name"] != fd.name:
            wrong.append(f"{fd} is shown as {row}")
    wrong += [f"nobody made ({why}): {row}" for row in rows if (why := bad_fd(row))]
    return wrong, len(rows)


def judge_ss(still: Still, out: str) -> tuple[list[str], int]:
    """Judge the output of ``ss --json``."""
    rows = _rows(out)
    shown = {row["ino"]: row for row in rows if row["ino"]}
    wrong = []
    for sock in still.socks:
        row = shown.get(sock.ino)
        if row is None:
            wrong.append(f"missing: {sock}")
            continue
        ours = {"netid": sock.netid, "state": sock.state, "local": sock.local, "peer": sock.peer}
        wrong += [f"{sock} is shown as {row}" for key in ours if row[key] != ours[key]]
        if not any((h["pid"], h["fd"]) == (sock.pid, sock.fd) for h in row["holders"]):
            wrong.append(f"{sock} is not held by its process: {row}")
    wrong += [
        f"nobody made ({why}): {row}" for row in rows if (why := bad_socket(row, still.alone))
    ]
    wrong += [f"error: {row}" for row in rows if row["error"] is not None]
    # The memory of a socket that was closed may be another one's by the end of the look.
    shown_as = collections.Counter((row["sk"], row["ino"]) for row in rows)
    twice = {key for key, n in shown_as.items() if n > 1}
    wrong += [f"twice: {row}" for row in rows if (row["sk"], row["ino"]) in twice]
    return wrong, len(rows)


def judge_peer(still: Still, out: str) -> tuple[list[str], int]:
    """Judge the output of ``peer --json``."""
    rows = _rows(out)
    wrong = []
    for sock in still.socks:
        if not sock.peer_ino:
            continue
        mine = [row for row in rows if row["what"] == f"{sock.pid}:{sock.fd}"]
        found = {row["end"]: row["ino"] for row in mine if row["ino"]}
        # UDP has no other end.
        want = {"self": sock.ino, **({"peer": sock.peer_ino} if sock.netid != "udp" else {})}
        if found.get("self") != want["self"] or (
            "peer" in want and found.get("peer") != want["peer"]
        ):
            wrong.append(f"{sock}: {mine}")
    return wrong, len(rows)


def judge_check(still: Still, out: str) -> tuple[list[str], int, int, int]:
    """Judge the output of ``check``."""
    last = out.splitlines()[-1] if out else ""
    found = re.match(r"(\d+) rows, .*?; (\d+) moved[^;]*; (\d+) mismatch", last)
    if found is None:
        return [f"no summary: {last}"], 0, 0, 0
    rows, moved, mismatches = map(int, found.groups())
    wrong = [line for line in out.splitlines() if "not compared: what could not" in line]
    # Each stable descriptor and each stable socket of inet and unix has a row.
    if rows < len(still.fds) + len(still.socks):
        wrong.append(f"{rows} rows")
    if mismatches:
        wrong.append("\n".join(out.splitlines()[:20]))
    return wrong, rows, moved, mismatches


def look(command: str, still: Still) -> Look:
    """Run a command, and judge what it says."""
    argv = {
        "check": ["check"],
        "fds": ["fds", "--json"],
        "ss -tuxap": ["ss", "-tuxap", "--json", "--output", "+ino,sk,error"],
        "ss -tiemop": ["ss", "-tiemop", "--json", "--output", "+error"],
        "peer": [
            *("peer", "--json", "--output", "+what"),
            *(f"{sock.pid}:{sock.fd}" for sock in still.socks if sock.peer_ino),
        ],
        LOOP: [],
    }[command]
    program = ["-c", _LOOP] if command == LOOP else ["-m", "drgn_sockets", *argv]
    start, used = time.monotonic(), os.times()
    with (
        tempfile.TemporaryFile(dir="/dev/shm") as out,
        tempfile.TemporaryFile(dir="/dev/shm") as err,
    ):
        process = subprocess.Popen(
            [sys.executable, *program],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        status = process.wait()
        seconds, after = time.monotonic() - start, os.times()
        cpu = sum(after[2:4]) - sum(used[2:4])
        out.seek(0)
        err.seek(0)
        text = out.read().decode("utf-8", "surrogateescape")
        said = err.read().decode("utf-8", "surrogateescape")
    moved = mismatches = 0
    try:
        if command == LOOP:
            wrong, objects = list[str](), 0
        elif command == "check":
            wrong, objects, moved, mismatches = judge_check(still, text)
        elif command == "ss -tiemop":
            # It shows connections only.
            some = [s for s in still.socks if s.netid == "tcp" and s.state == "ESTAB"]
            wrong, objects = judge_ss(still._replace(socks=some), text)
        else:
            judge = {"fds": judge_fds, "ss -tuxap": judge_ss, "peer": judge_peer}[command]
            wrong, objects = judge(still, text)
    except (ValueError, KeyError, TypeError) as e:
        wrong, objects = [f"{type(e).__name__}: {e}: {text[-500:]}"], 0
    lines = [line for line in said.splitlines() if not line.startswith(_OPENED)]
    if status or lines:
        wrong.insert(0, f"status {status}: " + "\n    ".join((*lines[:4], *lines[4:][-6:])))
    return Look(command, status, seconds, cpu, wrong, objects, moved, mismatches)


_OPENED = "drgn-sockets: types from"
#: Reads nothing of the kernel: by how much the churn slows down whatever runs beside it.
LOOP = "a loop"
_LOOP = "for i in range(2_000_000): i * i"
COMMANDS = (LOOP, "check", "fds", "ss -tuxap", "ss -tiemop", "peer")


def main() -> int:
    """Look for some minutes, and print the figures."""
    parser = argparse.ArgumentParser(prog="tests.wide.churn", description=__doc__)
    parser.add_argument("-m", "--minutes", type=float, default=1.0)
    parser.add_argument("--nice", type=int, default=5, help="of what moves")
    parser.add_argument("--work", action="store_true", help="judge the time of the CPU alone")
    parser.add_argument("--beside", action="store_true", help="other workloads run as well")
    parser.add_argument("--untimed", action="store_true", help="do not look at a quiet guest first")
    parser.add_argument("commands", nargs="*", default=[])
    args = parser.parse_args()
    commands = args.commands or COMMANDS
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text(f"{_TIME_WAITS}\n")
    _called("churn-driver")
    failed = False
    with standing_still(not args.beside) as still:
        quiet: dict[str, float] = {}
        quiet_cpu: dict[str, float] = {}
        for command in () if args.untimed else commands:
            some = [look(command, still) for _ in range(2)]
            quiet[command] = min(one.seconds for one in some)
            quiet_cpu[command] = min(one.cpu for one in some)
            for one in some:
                failed = failed or bool(one.wrong)
                _print("quiet", one)
        count = Count()
        looks: list[Look] = []
        start = time.monotonic()
        with moving(count, args.nice):
            time.sleep(2)
            while time.monotonic() - start < 60 * args.minutes:
                one = look(commands[len(looks) % len(commands)], still)
                _print("moving", one)
                looks.append(one)
            passed = time.monotonic() - start
            done = count.sums()
    figures: dict[str, Any] = {
        "seconds": round(passed),
        "per_second": {name: round(n / passed, 1) for name, n in done.items()},
        "looks": len(looks),
        "wrong": sum(bool(one.wrong) for one in looks),
        "objects": sum(one.objects for one in looks),
        "moved": sum(one.moved for one in looks),
        "mismatches": sum(one.mismatches for one in looks),
        "stable": len(still.fds) + len(still.socks),
        "commands": {},
    }
    for command in commands:
        took = [one.seconds for one in looks if one.command == command]
        cpu = [one.cpu for one in looks if one.command == command]
        if took and command in quiet:
            figures["commands"][command] = {
                "looks": len(took),
                "quiet_s": round(quiet[command], 2),
                "median_s": round(statistics.median(took), 2),
                "most_s": round(max(took), 2),
                "slower": round(statistics.median(took) / quiet[command], 2),
                "slowest": round(max(took) / quiet[command], 2),
                "work": round(statistics.median(cpu) / quiet_cpu[command], 2),
            }
    # A busy guest is slower at anything, and so is a busy host. What is left is the commands' own.
    key = "work" if args.work else "slower"
    beside = max(1.0, figures["commands"].get(LOOP, {}).get(key, 1.0))
    slow = [f[key] / beside for c, f in figures["commands"].items() if c != LOOP]
    figures["slower"] = round(max(slow, default=0), 2)
    print(json.dumps(figures))
    return int(failed or bool(figures["wrong"]) or figures["slower"] > SLOWER)


def _print(when: str, one: Look) -> None:
    print(
        f"{when}: {one.command}: {one.seconds:.2f} s ({one.cpu:.2f} of CPU), {one.objects} objects,"
        f" {one.moved} moved, {one.mismatches} mismatches, {len(one.wrong)} wrong",
        flush=True,
    )
    for line in one.wrong[:4]:
        print("  " + line[:700], flush=True)


if __name__ == "__main__":
    sys.exit(main())
