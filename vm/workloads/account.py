# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a workload says about itself: the schema of ``DIR/NAME.json``.

An account is ground truth. It is made from what the program opened and from its own
calls (``fstat``, ``fcntl``, ``getsockname``, ``getsockopt``), never from procfs, so
that it can be held against procfs, sock_diag and the debugger alike.

Names that are bytes to the kernel (paths, comms, abstract addresses) are strings made
by :func:`os.fsdecode`: bytes that are not UTF-8 are surrogates U+DC80..U+DCFF, and
:func:`os.fsencode` gives the bytes back. The JSON itself is plain ASCII.
"""

from __future__ import annotations

from typing import Any, TypedDict


class FdEnd(TypedDict):
    """One descriptor of one process. The lists of an account name files this way."""

    pid: int
    fd: int


class _FdBase(TypedDict):
    fd: int
    #: file, dir, symlink, char, fifo, pipe, socket, eventfd, eventpoll, timerfd, ...
    kind: str
    #: What ``readlink /proc/PID/fd/N`` must give from the initial mount namespace;
    #: None where the program cannot know.
    name: str | None
    #: r, w, rw, path (``O_PATH``) or none (access mode 3).
    access: str
    cloexec: bool
    #: Lower-case names of the status flags: append, nonblock, direct, noatime, ...
    flags: list[str]
    #: ``fcntl(F_GETFL)``; with ``O_CLOEXEC`` added, it is fdinfo's ``flags:``.
    raw_flags: int
    #: ``lseek(fd, 0, SEEK_CUR)``; None where seeking is an error.
    pos: int | None
    #: ``st_ino`` and ``st_dev`` from fstat.
    inode: int
    dev: int
    #: ``st_mode`` from fstat.
    mode: int


class FdAccount(_FdBase, total=False):
    """One open descriptor. Sockets have the second half; any may have a ``note``."""

    #: Descriptors with the same word here are one open file (``dup``, ``fork``).
    same_file: str
    note: str
    #: eventfd's counter, epoll's targets, pidfd's pid, timerfd's clock, ...
    detail: dict[str, Any]

    # Sockets.
    family: str  # "AF_INET", or its number when Python has no name for it
    type: str  # "SOCK_STREAM", ...
    protocol: int
    #: ``SO_COOKIE``.
    cookie: int
    #: Inode of the network namespace the socket belongs to.
    netns: int
    #: TCP: the kernel's name (``ESTABLISHED``, ``SYN_SENT``, ...).
    #: unix: ``LISTEN``, ``CONNECTED`` or ``UNCONNECTED``.
    state: str
    #: As ``getsockname``/``getpeername`` give it: [address, port(, flowinfo, scope)].
    local: list[Any] | None
    remote: list[Any] | None
    #: unix: own name ("" if none; abstract ones start with U+0000), the peer's name.
    path: str
    peer_path: str
    #: unix: inode of the socket at the other end, where the program knows it.
    peer_inode: int
    #: unix: ``SO_PEERCRED`` as [pid, uid, gid].
    peercred: list[int]
    #: unix: st_dev/st_ino of the socket's *file*, if it has one.
    file_dev: int
    file_inode: int
    #: ``SIOCINQ`` (bytes unread; for datagrams, of the first one) and ``SIOCOUTQ``
    #: (TCP: bytes not acknowledged; others: memory of data that is sent and not yet freed).
    inq: int
    outq: int
    #: Sizes of datagrams queued and unread.
    datagrams: list[int]
    #: Connections not yet accepted, and the backlog given to ``listen``.
    pending: int
    backlog: int
    #: Options that the workload set, as getsockopt gives them back.
    options: dict[str, Any]

    # TIPC, beside ``state``: the kernel's name without ``TIPC_``.
    #: Names that it is bound to: [service type, lowest and highest instance, scope].
    names: list[list[int]]
    #: Service address that the connection was made by: [type, instance].
    via: list[int]
    #: Messages in the receive queue (``TIPC_SOCK_RECVQ_DEPTH``), and those that found it full.
    messages: int
    drops: int
    #: What it joined: type, instance, scope, flags.
    group: dict[str, int]
    #: Where a connectionless socket sends to, as ``connect`` takes it.
    destination: list[int]


class _ProcessBase(TypedDict):
    pid: int
    #: Differs from pid for threads: those with a file table of their own, and some others.
    tid: int
    comm: str
    role: str
    #: Inode of the network namespace the task is in.
    netns: int
    #: Every descriptor of the task's file table; complete when ``steady``.
    fds: list[FdAccount]


class ProcessAccount(_ProcessBase, total=False):
    """One task, and its file table."""

    #: The task whose file table this one shares; that one's entry has the ``fds``.
    shares_files_with: int
    #: False: the process goes on opening and closing files; ``fds`` has those that stay.
    steady: bool
    zombie: bool
    #: Path of a file. The process goes on while the others are frozen, and renews time-wait
    #: sockets before they expire. It makes this file once it has stopped opening files.
    keeper: str
    cwd: str
    root: str
    #: Properties that the process has set: uid, cmdline, limit, exe, tracer, mapped, ...
    detail: dict[str, Any]
    #: Instead of 160,000 entries in ``fds``: see the ``bench`` workload.
    fd_ranges: list[dict[str, Any]]


class Skipped(TypedDict):
    """Something that this kernel or machine cannot do."""

    what: str
    why: str


class Cleanup(TypedDict, total=False):
    """What ``stop`` undoes after killing the processes."""

    sysctls: dict[str, str]
    remove: list[str]
    #: Control groups, the innermost first.
    cgroups: list[str]


class _AccountBase(TypedDict):
    workload: str
    pid: int
    kernel: str
    started: float
    #: Where the processes' standard output and error go.
    log: str
    processes: list[ProcessAccount]
    skipped: list[Skipped]
    cleanup: Cleanup


class Account(_AccountBase, total=False):
    """A workload's account. The lists depend on the workload; see its docstring."""

    arg: str
    connections: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    #: TIPC connections that nobody has accepted: {client, listener}.
    connecting: list[dict[str, Any]]
    never_bound: list[FdEnd]
    holders: list[dict[str, Any]]
    in_flight: list[dict[str, Any]]
    #: Sockets that no descriptor holds: request, time-wait and orphaned ones.
    orphans: list[dict[str, Any]]
    namespaces: list[dict[str, Any]]
    #: Sockets of the kernel's own: {family, protocol, port, netns, made_by}.
    kernel_sockets: list[dict[str, Any]]
    #: MPTCP connections of several subflows: {client, server, count}.
    subflows: list[dict[str, Any]]
    addresses: dict[str, Any]
    #: Data that a distilled core must not hold: {place, token, queued (in a socket)}.
    secrets: list[dict[str, Any]]


_REQUIRED = ("workload", "pid", "kernel", "started", "log", "processes", "skipped", "cleanup")
_REQUIRED_PROCESS = ("pid", "tid", "comm", "role", "netns", "fds")
_REQUIRED_FD = ("fd", "kind", "name", "access", "cloexec", "flags", "raw_flags", "pos", "inode")
_ENDS = ("client", "server", "listener", "a", "b", "holder")


def problems(account: dict[str, Any]) -> list[str]:
    """List what is wrong with an account: missing members, ends that name no descriptor."""
    found = [f"no member {key}" for key in _REQUIRED if key not in account]
    tables: dict[int, set[int]] = {}
    ranges: set[int] = set()
    for process in account.get("processes", []):
        where = f"process {process.get('pid')}"
        found += [f"{where}: no member {key}" for key in _REQUIRED_PROCESS if key not in process]
        table = tables.setdefault(process["pid"], set())
        if "fd_ranges" in process:
            ranges.add(process["pid"])
        numbers = [entry["fd"] for entry in process["fds"]]
        if len(numbers) != len(set(numbers)):
            found.append(f"{where}: an fd is listed twice")
        table.update(numbers)
        for entry in process["fds"]:
            here = f"{where} fd {entry.get('fd')}"
            found += [f"{here}: no member {key}" for key in _REQUIRED_FD if key not in entry]
            if entry["access"] not in ("r", "w", "rw", "path", "none"):
                found.append(f"{here}: access {entry['access']!r}")
            if entry["kind"] == "socket" and "family" not in entry:
                found.append(f"{here}: a socket without family")
    if not any(process["pid"] == account.get("pid") for process in account.get("processes", [])):
        found.append("the main process is not listed")
    lists = (
        "connections",
        "connecting",
        "pairs",
        "holders",
        "in_flight",
        "never_bound",
        "subflows",
    )
    for key in lists:
        for row in account.get(key, []):
            ends = [row] if "fd" in row else [row[end] for end in _ENDS if row.get(end)]
            for end in ends:
                pid, fd = end["pid"], end["fd"]
                if fd not in tables.get(pid, set()) and pid not in ranges:
                    found.append(f"{key}: no fd {fd} in process {pid}")
    return found
