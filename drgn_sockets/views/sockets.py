# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sockets as text: endpoints, holders and one-line descriptions, as ss writes them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from drgn_sockets.kernel.sock import Sock
from drgn_sockets.records.holder import Holder
from drgn_sockets.records.names import state_name
from drgn_sockets.records.parts import Batch
from drgn_sockets.records.reader import SocketBatch
from drgn_sockets.records.socket import (
    AnySocket,
    Endpoint,
    Endpoints,
    SocketRecord,
    UnreadableSocket,
)
from drgn_sockets.text import escape

if TYPE_CHECKING:
    from typing_extensions import TypeGuard


def address_text(address: bytes | None) -> str:
    """
    Get the address of an endpoint as ss writes it.

    >>> address_text(b"\\0name"), address_text(b"127.0.0.1"), address_text(None)
    ('@name', '127.0.0.1', '*')
    """
    if address is None:
        return "*"
    # An abstract name may have further NULs, which are escaped, and a path may begin with
    # "@", which is then escaped to tell the two apart.
    if address[:1] == b"\0":
        return "@" + escape(address[1:]) if len(address) > 1 else "@"
    if address == b"*":
        return "\\x2a"
    return "\\x40" + escape(address[1:]) if address[:1] == b"@" else escape(address)


def _host_text(address: bytes | None, separator: str) -> str:
    text = address_text(address)
    return f"[{text}]" if separator == ":" and ":" in text else text


def endpoint_text(end: Endpoint | None, *, numeric: bool = False) -> str:
    """
    Get an endpoint as ss writes it: ``127.0.0.1:22``, ``/run/x.sock 4711``, ``rtnl:kernel``.

    :param end: ``None`` if there is no other end
    :param numeric: Write numbers for names of protocols and processes, as ``ss -n`` does.
    """
    if end is None:
        return "*"
    address, service = end[:2] if end.numbers is None or not numeric else end.numbers
    host = _host_text(address, end.separator)
    if end.interface is not None:
        host += "%" + escape(end.interface)
    return f"{host}{end.separator}{'*' if service is None else escape(service)}"


def local_text(record: AnySocket, *, numeric: bool = False) -> str | None:
    """Get the local end: address and port, or name and inode of a unix socket."""
    if isinstance(record, UnreadableSocket):
        return None
    return endpoint_text(record.local_end(), numeric=numeric)


def remote_text(record: AnySocket, *, numeric: bool = False) -> str | None:
    """Get the remote end, in the form of :func:`local_text`."""
    if isinstance(record, UnreadableSocket):
        return None
    return endpoint_text(record.remote_end(), numeric=numeric)


def record_netid(record: AnySocket) -> str | None:
    """Get ``tcp``, ``u_str``, …"""
    return None if isinstance(record, UnreadableSocket) else record.netid


def record_state(record: AnySocket) -> str | None:
    """Get ``ESTAB``, ``LISTEN``, …"""
    return "unreadable" if isinstance(record, UnreadableSocket) else record.state_name


def state_text(record: AnySocket) -> str | None:
    """Get the state as a table shows it: a part of the socket in the row above has a mark."""
    is_part = isinstance(record, SocketRecord) and record.is_part
    return ("`- " if is_part else "") + (record_state(record) or "")


def holders_text(holders: Iterable[Holder]) -> str:
    """Get holders as text: ``("nc",pid=105,fd=3),("nc",pid=106,fd=3)``."""
    return ",".join([f"{_owner(h.comm, h.pid, h.tid)},fd={h.fd})" for h in holders]) or "-"


def users_text(holders: Sequence[Holder]) -> str | None:
    """Get holders as ss writes them: ``users:(("nc",pid=105,fd=3))``; ``None`` for none."""
    return f"users:({holders_text(holders)})" if holders else None


@functools.lru_cache(4096)
def _owner(comm: bytes, pid: int, tid: int | None) -> str:
    name = escape(comm).replace('"', '\\"')
    return f'("{name}",pid={pid}' + (f",tid={tid}" if tid else "")


def describe(record: AnySocket) -> str:
    """Describe a socket in one line: ``tcp ESTAB 127.0.0.1:9 -> 127.0.0.1:4711``."""
    if isinstance(record, UnreadableSocket):
        return f"socket {record.error}"
    kind = f"{record.netid} {record.state_name}"
    if record.is_unbound:
        return f"{kind} {record.unbound_words()}"
    end = record.described_end()
    if end is None:
        return kind
    near = endpoint_text(end)
    return f"{kind} {near} -> {remote_text(record)}" if record.is_connected else f"{kind} {near}"


# The functions above for a whole batch of sockets. They return None for a batch whose records have
# to be asked one by one.


def _by_kind(function: Callable[..., str], *columns: Sequence[Any]) -> list[str]:
    """Call *function* once for each combination of values, of which there are few."""
    made = {kind: function(*kind) for kind in set(zip(*columns))}
    return [made[kind] for kind in zip(*columns)]


def _is_full(batch: Batch) -> TypeGuard[SocketBatch]:
    return isinstance(batch, SocketBatch) and issubclass(batch.cls.struct, Sock)


def netids(batch: Batch) -> list[str] | None:
    """:func:`record_netid`."""
    if not _is_full(batch):
        return None
    return _by_kind(batch.cls.netid_of, *map(batch.column, ("family", "type", "protocol")))


def states(batch: Batch) -> list[str] | None:
    """:func:`record_state`."""
    if not _is_full(batch) or batch.cls.state_name is not SocketRecord.state_name:
        return None
    return _by_kind(state_name, batch.column("state"))


def recv_qs(batch: Batch) -> Sequence[int] | None:
    """``record.recv_q``"""
    return batch.cls.recv_qs(batch) if _is_full(batch) else None


def send_qs(batch: Batch) -> Sequence[int] | None:
    """``record.send_q``"""
    return batch.cls.send_qs(batch) if _is_full(batch) else None


def locals_(batch: Batch) -> list[str] | None:
    """:func:`local_text`."""
    return _endpoint_texts(batch.cls.local_ends(batch)) if _is_full(batch) else None


def remotes(batch: Batch) -> list[str] | None:
    """:func:`remote_text`."""
    return _endpoint_texts(batch.cls.remote_ends(batch)) if _is_full(batch) else None


def _endpoint_texts(ends: Endpoints | None) -> list[str] | None:
    """:func:`endpoint_text`"""
    if ends is None:
        return None
    separator, none = ends.separator, ends.no_service
    # Most batches have few addresses.
    texts = {key: _host_text(ends.address(key), separator) + separator for key in set(ends.keys)}
    if none is None:
        return [f"{texts[key]}{service}" for key, service in zip(ends.keys, ends.services)]
    return [
        f"{texts[key]}{'*' if service == none else service}"
        for key, service in zip(ends.keys, ends.services)
    ]


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
        # A socket with an inode and without a holder: another socket may share its inode, which
        # record.holders looks into.
        return None
    return [f"users:({text})" if text else "-" for text in texts]


def descriptions(batch: Batch) -> Iterable[str]:
    """:func:`describe`."""
    said = batch.cls.described(batch) if _is_full(batch) else None
    kinds, its_states, fars = netids(batch), states(batch), remotes(batch)
    nears = _endpoint_texts(said.ends) if said is not None else None
    if said is None or kinds is None or its_states is None or fars is None or nears is None:
        return map(describe, batch.records())
    return [
        f"{kind} {state} never bound"
        if unbound
        else f"{kind} {state} {near} -> {far}"
        if connected
        else f"{kind} {state} {near}"
        for kind, state, near, far, unbound, connected in zip(
            kinds, its_states, nears, fars, said.unbound, said.connected
        )
    ]
