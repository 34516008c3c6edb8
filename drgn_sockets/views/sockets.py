# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets in words: endpoints, holders and one-line descriptions, written as ss does."""

from __future__ import annotations

import functools
from _socket import inet_ntop  # as in records.socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from drgn_sockets.kernel.sock import AF_INET, AF_INET6, TCP_CLOSE, Sock
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.holder import Holder
from drgn_sockets.records.names import netid, state_name
from drgn_sockets.records.parts import Batch
from drgn_sockets.records.reader import SocketBatch, UnixBatch
from drgn_sockets.records.socket import (
    AnySocket,
    Derived,
    Endpoint,
    SocketRecord,
    UnreadableSocket,
)
from drgn_sockets.text import escape

if TYPE_CHECKING:
    from typing_extensions import TypeGuard


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


def _host(address: str, ipv6only: int) -> str:
    if ":" not in address:
        return address
    # As ss: "*" accepts IPv4 as well, "[::]" does not.
    return "*" if address == "::" and not ipv6only else f"[{address}]"


def _inet(record: InetRecord, address: str, port: int, *, local: bool) -> str:
    address = _host(address, record.sock.ipv6only)
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
    return _end_text(record.local_end())


def local_numbers(record: AnySocket) -> str | None:
    """:func:`local_text`, with numbers for names of protocols and processes, as ``ss -n``."""
    end = record.local_end() if _has_numbers(record) else None
    return local_text(record) if end is None else _in_numbers(end)


def remote_numbers(record: AnySocket) -> str | None:
    """:func:`remote_text`, likewise."""
    end = record.remote_end() if _has_numbers(record) else None
    return remote_text(record) if end is None else _in_numbers(end)


def _has_numbers(record: AnySocket) -> TypeGuard[SocketRecord]:
    return isinstance(record, SocketRecord) and not isinstance(record, (UnixRecord, InetRecord))


def _in_numbers(end: Endpoint) -> str:
    address, service = end.numbers or (end.address, end.service)
    return f"{escape(address)}{end.separator}{escape(service)}"


def _end_text(end: Endpoint) -> str:
    return f"{escape(end.address)}{end.separator}{escape(end.service)}"


def remote_text(record: AnySocket) -> str | None:
    """The other end, in the same form."""
    if isinstance(record, UnreadableSocket):
        return None
    if isinstance(record, UnixRecord):
        return f"{unix_name_text(record.peer_name)} {record.peer_ino}"
    if isinstance(record, InetRecord):
        port = 0 if record.family_name == "raw" else record.remote_port
        return _inet(record, record.remote_address, port, local=False)
    end = record.remote_end()
    return "*" if end is None else _end_text(end)


def record_netid(record: AnySocket) -> str | None:
    """``tcp``, ``u_str``, …"""
    if isinstance(record, UnreadableSocket):
        return None
    return netid(record.family, record.type, record.protocol)


def record_state(record: AnySocket) -> str | None:
    """``ESTAB``, ``LISTEN``, …"""
    if isinstance(record, UnreadableSocket):
        return "unreadable"
    return record.state_text or state_name(record.state)


def state_text(record: AnySocket) -> str | None:
    """The same as a table has it: what is a part of the socket above it is marked."""
    is_part = isinstance(record, SocketRecord) and record.is_part
    return ("`- " if is_part else "") + (record_state(record) or "")


def holders_text(holders: Iterable[Holder]) -> str:
    """Who holds it: ``("nc",pid=105,fd=3),("nc",pid=106,fd=3)``."""
    return ",".join([f"{_owner(h.comm, h.pid, h.tid)},fd={h.fd})" for h in holders]) or "-"


def users_text(holders: Sequence[Holder]) -> str | None:
    """The same as ss has it: ``users:(("nc",pid=105,fd=3))``; ``None`` for nobody."""
    return f"users:({holders_text(holders)})" if holders else None


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
        nowhere = record.name is None and not record.peer and record.state == TCP_CLOSE
        here = "never bound" if nowhere else unix_name_text(record.name)
        return f"{kind} {here} -> {remote_text(record)}" if record.peer else f"{kind} {here}"
    if record.is_unbound:
        from drgn_sockets.records.families.netlink import NetlinkRecord

        if isinstance(record, NetlinkRecord):
            return f"{kind} {record.protocol_name} never bound"
        return f"{kind} never bound"
    if not isinstance(record, InetRecord) and not _has_names(type(record)):
        return kind
    near = local_text(record)
    return f"{kind} {near} -> {remote_text(record)}" if record.is_connected else f"{kind} {near}"


def _has_names(cls: type[SocketRecord]) -> bool:
    """Whether the family has names for its ends."""
    return cls.local_end is not SocketRecord.local_end


# The same of a batch of sockets, column by column: what each function above makes of a record.


def _by_kind(function: Callable[..., str], *columns: Sequence[Any]) -> list[str]:
    """Of few values there are, made once each."""
    made = {kind: function(*kind) for kind in set(zip(*columns))}
    return [made[kind] for kind in zip(*columns)]


def _is_full(batch: Batch) -> TypeGuard[SocketBatch]:
    return isinstance(batch, SocketBatch) and issubclass(batch.cls.struct, Sock)


def netids(batch: Batch) -> list[str] | None:
    """:func:`record_netid`."""
    if not _is_full(batch):
        return None
    return _by_kind(netid, *map(batch.column, ("family", "type", "protocol")))


def states(batch: Batch) -> list[str] | None:
    """:func:`record_state`."""
    return _by_kind(state_name, batch.column("state")) if _is_full(batch) else None


def recv_qs(batch: Batch) -> Sequence[int] | None:
    """``record.recv_q``."""
    if not _is_full(batch):
        return None
    if isinstance(batch, UnixBatch) and any(batch.structs.column("receive_queue_len")):
        return None
    if isinstance(batch, UnixBatch):
        return batch.column("receive_queue_len")
    return batch.column("recv_q") if isinstance(batch.cls.recv_q, Derived) else None


def send_qs(batch: Batch) -> Sequence[int] | None:
    """``record.send_q``."""
    if not _is_full(batch) or not isinstance(batch.cls.send_q, Derived):
        return None
    return batch.column("send_q")


def locals_(batch: Batch) -> list[str] | None:
    """:func:`local_text`."""
    if not _is_full(batch):
        return None
    if isinstance(batch, UnixBatch):
        return [f"{unix_name_text(name)} {ino}" for name, ino in zip(batch.names, batch.inos)]
    if not issubclass(batch.cls, InetRecord):
        return None if _has_names(batch.cls) else [f"* {ino}" for ino in batch.inos]
    if any(batch.structs.column("bound_dev_if")):
        return None
    return _endpoints(batch, "rcv_saddr", batch.column("local_port"))


def remotes(batch: Batch) -> list[str] | None:
    """:func:`remote_text`."""
    if not _is_full(batch):
        return None
    if isinstance(batch, UnixBatch):
        return [f"{unix_name_text(name)} {ino}" for ino, name in batch.peers]
    if not issubclass(batch.cls, InetRecord):
        return None if _has_names(batch.cls) else ["*"] * len(batch)
    raw = batch.cls.family_name == "raw"
    return _endpoints(batch, "daddr", [0] * len(batch) if raw else batch.column("remote_port"))


def _endpoints(batch: SocketBatch, address: str, ports: Sequence[int]) -> list[str]:
    families, v4 = batch.column("family"), batch.column(address)
    if set(families) <= {AF_INET}:
        # Of few addresses, mostly.
        texts = {raw: inet_ntop(AF_INET, raw) for raw in set(v4)}
        return [f"{texts[raw]}:{port or '*'}" for raw, port in zip(v4, ports)]
    kinds = zip(families, v4, batch.column(f"v6_{address}"), batch.column("ipv6only"))
    return [f"{_address(*kind)}:{port or '*'}" for kind, port in zip(kinds, ports)]


@functools.lru_cache(4096)
def _address(family: int, v4: bytes, v6: bytes | None, ipv6only: int) -> str:
    if family != AF_INET6 or v6 is None:
        return inet_ntop(AF_INET, v4)
    return _host(inet_ntop(AF_INET6, v6), ipv6only)


def users_texts(batch: Batch) -> list[str] | None:
    """:func:`users_text` of ``record.holders``."""
    if not _is_full(batch) or batch.reader.holders is None:
        return None
    holders = batch.reader.holders
    n = len(holders.tables)
    owners = [f"{_owner(t.comm, t.pid, t.tid)},fd=" for t in holders.tables]
    texts = [
        ",".join([f"{owners[holder % n]}{holder // n})" for holder in packed])
        for packed in holders.packed(batch.addresses)
    ]
    if not all(texts) and any(
        sk in batch.inodes for sk, text in zip(batch.addresses, texts) if not text
    ):
        # One whose inode leads to it by another: record.holders knows.
        return None
    return [f"users:({text})" if text else "-" for text in texts]


def descriptions(batch: Batch) -> Iterable[str]:
    """:func:`describe`."""
    columns = [texts(batch) for texts in (netids, states, locals_, remotes)]
    if not _is_full(batch) or None in columns:
        return map(describe, batch.records())
    closed = [state == TCP_CLOSE for state in batch.column("state")]
    if isinstance(batch, UnixBatch):
        peers = batch.column("peer")
        here: list[str] = [
            "never bound" if close and name is None and not peer else unix_name_text(name)
            for close, name, peer in zip(closed, batch.names, peers)
        ]
        is_connected = peers
    elif batch.cls.is_connected is InetRecord.is_connected:
        ports = batch.column("local_port")
        here = [
            "never bound" if close and not port else local
            for close, port, local in zip(closed, ports, columns[2] or ())
        ]
        is_connected = [
            far and near != "never bound" for far, near in zip(batch.column("remote_port"), here)
        ]
    else:
        return map(describe, batch.records())
    return [
        f"{kind} {state} {near} -> {far}" if connected else f"{kind} {state} {near}"
        for kind, state, near, far, connected in zip(
            columns[0] or (), columns[1] or (), here, columns[3] or (), is_connected
        )
    ]
