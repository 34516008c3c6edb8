# SPDX-License-Identifier: LGPL-2.1-or-later
"""
N TCP pairs and N unix pairs in one process, and a child that shares them all.

For measuring. The default of 20,000 gives 80,000 sockets and 160,000 descriptors;
``bench:5000`` makes fewer. The account has no entry for each descriptor, but ``fd_ranges``:
``first``, ``count`` and ``kind``. Neighbours in a range are the two ends of a connection.
"""

from __future__ import annotations

import gc
import socket
from pathlib import Path
from typing import Any

from .process import Process, WorkloadError

DEFAULT = 20000
PER_ADDRESS = 20000


def _child(_: Process) -> None:
    pass


def _tcp_pairs(count: int) -> list[int]:
    fds = []
    for start in range(0, count, PER_ADDRESS):
        address = f"127.0.{1 + start // PER_ADDRESS}.1"
        listener = socket.create_server((address, 0), backlog=128)
        where = listener.getsockname()
        for _ in range(min(PER_ADDRESS, count - start)):
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.connect(where)
            server, _ = listener.accept()
            fds += [client.detach(), server.detach()]
        listener.close()
    return fds


def _unix_pairs(count: int) -> list[int]:
    fds = []
    for _ in range(count):
        a, b = socket.socketpair()
        fds += [a.detach(), b.detach()]
    return fds


def _ranges(fds: list[int], kind: str) -> list[dict[str, Any]]:
    """Get runs of consecutive numbers. A listener that was closed leaves a gap between two."""
    found: list[dict[str, Any]] = []
    for fd in fds:
        if found and found[-1]["first"] + found[-1]["count"] == fd:
            found[-1]["count"] += 1
        else:
            found.append({"first": fd, "count": 1, "kind": kind})
    return found


def run(me: Process) -> None:
    try:
        pairs = int(me.arg or DEFAULT)
    except ValueError:
        raise WorkloadError(f"bench:{me.arg}: not a number of pairs") from None
    need = 4 * pairs + 1000
    if int(Path("/proc/sys/fs/nr_open").read_text()) < need:
        me.sysctl("fs/nr_open", need)
    if int(Path("/proc/sys/fs/file-max").read_text()) < 2 * need:
        me.sysctl("fs/file-max", 2 * need)
    me.sysctl("net/ipv4/ip_local_port_range", "10000 64999")
    if me.raise_nofile(need) < need:
        raise WorkloadError(f"may not have the {need} open files that {pairs} pairs take")
    gc.disable()
    tcp = _tcp_pairs(pairs)
    unix = _unix_pairs(pairs)
    me.facts["fd_ranges"] = _ranges(tcp, "tcp pairs") + _ranges(unix, "unix pairs")
    gc.freeze()
    child = me.spawn("bench-child", _child)
    ranges = me.facts["fd_ranges"]
    for process in child.finish():
        process["fd_ranges"] = ranges
