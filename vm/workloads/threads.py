# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Threads and processes whose file tables are not what ``/proc/PID/fd`` suggests.

One thread has left the file table of the others with ``unshare(CLONE_FILES)``: its files are only
in ``/proc/PID/task/TID/fd``. Descriptor numbers go up to 70,000. A second process shares the whole
table (``CLONE_FILES`` without ``CLONE_THREAD``), and a third is a zombie, which has no table.
"""

from __future__ import annotations

import os
import socket
import threading

from . import syscalls
from .account import ProcessAccount
from .process import Process, describe

HIGH = (1023, 1024, 1500, 70000)


def _entry(me: Process, comm: str, role: str) -> ProcessAccount:
    return {
        "pid": me.pid,
        "tid": threading.get_native_id(),
        "comm": comm,
        "role": role,
        "netns": me.netns,
        "fds": [],
    }


def _sibling(me: Process, ready: threading.Barrier) -> None:
    syscalls.set_comm(b"sibling")
    entry = _entry(me, "sibling", "thread that shares the table")
    entry["shares_files_with"] = me.pid
    me.others.append(entry)
    ready.wait(30)
    threading.Event().wait()


def _loner(me: Process, report: threading.Barrier, ready: threading.Barrier) -> None:
    """Take a copy of the table, close some of its files, and open others."""
    comm = "loner\n\x1b[31m\\"
    syscalls.set_comm(comm.encode())
    syscalls.unshare(syscalls.CLONE_FILES)
    if me.ready_fd is not None:
        os.close(me.ready_fd)
    path = os.fsencode(me.work / "only-the-loner")
    own = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pair = socket.socketpair()
    os.dup2(pair[0].fileno(), 2000)
    listener = socket.create_server(("127.0.0.1", 0))
    report.wait(30)
    entry = _entry(me, comm, "thread with a table of its own")
    entry["fds"] = me.entries()
    entry["fds"].append(describe(own, "file", os.fsdecode(path)))
    for fd in (pair[0].fileno(), pair[1].fileno(), 2000, listener.fileno()):
        socket_entry = describe(fd, "socket", None)
        socket_entry["netns"] = me.netns
        entry["fds"].append(socket_entry)
    me.others.append(entry)
    ready.wait(30)
    threading.Event().wait()


def _share_table(me: Process) -> None:
    """Start the process with the same table."""
    pid = me.spawn_with_same_table(b"same-table")
    me.others.append(
        {
            "pid": pid,
            "tid": pid,
            "comm": "same-table",
            "role": "same table",
            "netns": me.netns,
            "fds": [],
            "shares_files_with": me.pid,
        }
    )


def _zombie(me: Process) -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        syscalls.set_comm(b"zombie")
        os._exit(3)
    os.close(write_end)
    os.read(read_end, 1)
    os.close(read_end)
    me.others.append(
        {
            "pid": pid,
            "tid": pid,
            "comm": "zombie",
            "role": "zombie",
            "netns": me.netns,
            "fds": [],
            "zombie": True,
        }
    )


def run(me: Process) -> None:
    limit = me.raise_nofile(80000)
    path = os.fsencode(me.work / "high")
    low = me.hold(os.open(path, os.O_RDWR | os.O_CREAT), "file", path, same_file="high")
    for number in HIGH:
        if number < limit:
            me.dup(low, number)
    sock = me.hold(socket.create_server(("127.0.0.1", 0)), same_file="listener")
    me.dup(sock, min(65536, limit - 1))
    _zombie(me)
    _share_table(me)

    # Python objects know nothing of tables, so this thread goes first: numbers that are
    # free in its table may be taken in ours from here on.
    report, ready = threading.Barrier(2), threading.Barrier(4)
    loner = threading.Thread(target=_loner, args=(me, report, ready), daemon=True)
    loner.start()
    report.wait(30)
    for _ in range(2):
        threading.Thread(target=_sibling, args=(me, ready), daemon=True).start()
    ready.wait(30)
    os.set_inheritable(low, True)
    os.lseek(low, 7, os.SEEK_SET)
    for entry in me.others:
        for fd in entry["fds"]:
            if fd.get("same_file") == "high":
                fd["pos"] = 7
