# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets in words: endpoints, holders and one-line descriptions, written as ss does."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from drgn_sockets.kernel import sock as k
from drgn_sockets.records.holders import Holder
from drgn_sockets.records.socket import (
    AnySocket,
    InetRecord,
    RawRecord,
    SocketRecord,
    UnixRecord,
    UnreadableSocket,
)
from drgn_sockets.views.escape import escape
from drgn_sockets.views.names import netid, state_name


def unix_name_text(name: bytes | None) -> str:
    """Name of a unix socket: ``*`` for none, an abstract one with ``@`` for its NUL."""
    if name is None:
        return "*"
    # An abstract name may have further NULs, which are escaped, and a path may begin with
    # "@", which is then escaped to tell the two apart.
    if name[:1] == b"\0":
        return "@" + escape(name[1:]) if len(name) > 1 else "@"
    if name == b"*":
        return "\\x2a"
    return "\\x40" + escape(name[1:]) if name[:1] == b"@" else escape(name)


def _inet(record: InetRecord, address: str, port: int, *, local: bool) -> str:
    if ":" in address:
        # As ss: "*" accepts IPv4 as well, "[::]" does not.
        address = "*" if address == "::" and not record.sock.ipv6only else f"[{address}]"
    if local and record.ifname is not None:
        address += "%" + escape(record.ifname)
    return f"{address}:{port or '*'}"


def local_text(record: AnySocket) -> str | None:
    """This end: address and port, or name and inode of a unix socket."""
    if isinstance(record, UnreadableSocket):
        return None
    if isinstance(record, UnixRecord):
        return f"{unix_name_text(record.name)} {record.ino}"
    if isinstance(record, InetRecord):
        return _inet(record, record.local_address, record.local_port, local=True)
    return f"* {record.ino}"


def remote_text(record: AnySocket) -> str | None:
    """The other end, in the same form."""
    if isinstance(record, UnreadableSocket):
        return None
    if isinstance(record, UnixRecord):
        return f"{unix_name_text(record.peer_name)} {record.peer_ino}"
    if isinstance(record, InetRecord):
        port = 0 if isinstance(record, RawRecord) else record.remote_port
        return _inet(record, record.remote_address, port, local=False)
    return "*"


def record_netid(record: AnySocket) -> str | None:
    """``tcp``, ``u_str``, …"""
    if isinstance(record, UnreadableSocket):
        return None
    return netid(record.family, record.type, record.protocol)


def record_state(record: AnySocket) -> str | None:
    """``ESTAB``, ``LISTEN``, …"""
    return "unreadable" if isinstance(record, UnreadableSocket) else state_name(record.state)


def holders_text(holders: Iterable[Holder]) -> str:
    """Who holds it: ``("nc",pid=105,fd=3),("nc",pid=106,fd=3)``."""
    return ",".join([f"{_owner(h.comm, h.pid, h.tid)},fd={h.fd})" for h in holders]) or "-"


@functools.lru_cache(4096)
def _owner(comm: bytes, pid: int, tid: int | None) -> str:
    name = escape(comm).replace('"', '\\"')
    return f'("{name}",pid={pid}' + (f",tid={tid}" if tid else "")


def describe(record: AnySocket) -> str:
    """A socket in one line: ``tcp ESTAB 127.0.0.1:9 -> 127.0.0.1:4711``."""
    if isinstance(record, UnreadableSocket):
        return f"socket {record.error}"
    kind = f"{record_netid(record)} {record_state(record)}"
    if isinstance(record, UnixRecord):
        nowhere = record.name is None and not record.peer and record.state == k.TCP_CLOSE
        here = "never bound" if nowhere else unix_name_text(record.name)
        return f"{kind} {here} -> {remote_text(record)}" if record.peer else f"{kind} {here}"
    if isinstance(record, InetRecord):
        if is_unbound(record):
            return f"{kind} never bound"
        here = local_text(record) or ""
        if record.remote_port and not isinstance(record, RawRecord):
            return f"{kind} {here} -> {remote_text(record)}"
        return f"{kind} {here}"
    return kind


def is_unbound(record: SocketRecord) -> bool:
    """Whether an inet socket was created and neither bound nor connected: procfs lacks it."""
    return (
        record.sock.state == k.TCP_CLOSE
        and isinstance(record, InetRecord)
        and not record.local_port
    )
