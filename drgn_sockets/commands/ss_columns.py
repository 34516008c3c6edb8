# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns of sockets that options of ``ss`` show, and others that all have."""

from __future__ import annotations

import functools
from operator import attrgetter
from typing import Any

from drgn_sockets.records.columns import Column
from drgn_sockets.records.families.inet import InetRecord
from drgn_sockets.records.families.unix import UnixRecord
from drgn_sockets.records.names import address_family_name, device_text, type_name
from drgn_sockets.records.parts import Batch
from drgn_sockets.records.socket import AnySocket, SocketRecord
from drgn_sockets.views.extended import (
    cgroup_path,
    cgroup_text,
    extended_text,
    inet_options,
    inet_options_text,
    timer_text,
    tos_text,
    tos_values,
)
from drgn_sockets.views.sockets import (
    local_numbers,
    local_text,
    locals_,
    netids,
    record_netid,
    record_state,
    recv_qs,
    remote_numbers,
    remote_text,
    remotes,
    send_qs,
    state_text,
    states,
    users_text,
    users_texts,
)

# Columns of any socket that could be read, and of those of some families.
_socket = functools.partial(Column, of=SocketRecord)
_inet = functools.partial(Column, of=InetRecord)
_unix = functools.partial(Column, of=UnixRecord)


def _holders(record: AnySocket) -> list[dict[str, object]] | None:
    holders = record.holders
    return None if holders is None else [h._asdict() for h in holders]


def _users_text(record: AnySocket) -> str | None:
    holders = record.holders
    return None if holders is None else users_text(holders)


def _file_ino(record: UnixRecord) -> int | None:
    file = record.socket_file()
    return None if file is None else file[0]


def _file_dev(record: UnixRecord) -> str | None:
    file = record.socket_file()
    return None if file is None else device_text(file[1])


def _timer(record: SocketRecord) -> dict[str, object] | None:
    timer = record.timer
    if timer is None:
        return None
    return {"name": timer.name, "expires_s": timer.expires_s, "retrans": timer.retrans}


def _cgroup_text(record: SocketRecord) -> str | None:
    return cgroup_text(cgroup_path(record))


def _timer_text(record: SocketRecord) -> str | None:
    return timer_text(record.timer)


# In the order and with the letters of ss -m.
_SKMEM_LETTERS = ("r", "rb", "t", "tb", "f", "w", "o", "bl", "d")
_SKMEM = "skmem:(" + ",".join(f"{letters}%d" for letters in _SKMEM_LETTERS) + ")"


def _skmem(record: SocketRecord) -> dict[str, int] | None:
    values = record.skmem()
    return None if values is None else dict(zip(_SKMEM_LETTERS, values))


def _skmem_text(record: SocketRecord) -> str | None:
    values = record.skmem()
    # What is allocated ahead may be below 0, and ss does not know that.
    return None if values is None else _SKMEM % tuple([value & 0xFFFFFFFF for value in values])


def _info(record: SocketRecord) -> Any:
    if record.family_name != "tcp":
        return record.info()
    # It takes a while to import, and most ask for less.
    from drgn_sockets.records.tcp_info import tcp_get_info

    return tcp_get_info(record)


def _info_text(record: SocketRecord) -> str | None:
    if record.family_name != "tcp":
        return record.info_words() or None
    info = _info(record)
    if info is None:
        return None
    from drgn_sockets.views.tcp_info import tcp_info_text

    return tcp_info_text(info)


#: Those that options show, and what else takes nothing to import.
COMMON: tuple[Column, ...] = (
    Column(
        "netid",
        "tcp, udp, raw, u_str, u_dgr, u_seq, nl, p_raw, …",
        record_netid,
        True,
        simple=True,
        texts=netids,
    ),
    Column(
        "state",
        "state, as ss writes it; `- before that of an association of the socket above",
        record_state,
        True,
        text=state_text,
        simple=True,
        texts=states,
    ),
    _socket(
        "recv_q",
        "bytes to be read; of a listener, connections to be accepted",
        attrgetter("recv_q"),
        True,
        right=True,
        simple=True,
        texts=recv_qs,
    ),
    _socket(
        "send_q",
        "bytes not yet acknowledged or read; of a listener, the limit of its accept queue",
        attrgetter("send_q"),
        True,
        right=True,
        simple=True,
        texts=send_qs,
    ),
    Column(
        "local",
        "address and port; name and inode of a unix socket",
        local_text,
        True,
        simple=True,
        texts=locals_,
    ),
    Column(
        "peer", "the other end, in the same form", remote_text, True, simple=True, texts=remotes
    ),
    _socket(
        "ino",
        "inode, the N of socket:[N]; 0 if it has none",
        attrgetter("ino"),
        right=True,
        simple=True,
    ),
    _socket(
        "uid", "owner, in the initial user namespace", attrgetter("uid"), right=True, simple=True
    ),
    Column("sk", "address of the struct sock", lambda r: f"{r.sk:#x}", simple=True),
    _socket(
        "netns", "inode of the network namespace", attrgetter("netns"), right=True, simple=True
    ),
    Column(
        "holders",
        "every process and fd that holds it, with the words of ss -p",
        _holders,
        text=_users_text,
        texts=users_texts,
    ),
    _socket(
        "timer",
        "the timer that fires next: name, seconds, retries, with the words of ss -o",
        _timer,
        text=_timer_text,
    ),
    _socket(
        "ext",
        "owner, inode, cookie, cgroup and what else ss -e has, with its words; and addr:, the "
        "address of the struct sock, and netns:",
        extended_text,
        simple=True,
    ),
    _inet("qos", "tos, tclass and class_id, as ss --tos has them", tos_values, text=tos_text),
    _socket(
        "cgroup",
        "path of its cgroup (version 2)",
        cgroup_path,
        text=_cgroup_text,
    ),
    _inet(
        "sockopt",
        "options that are set, as ss --inet-sockopt has them",
        inet_options,
        text=inet_options_text,
    ),
    _socket("skmem", "socket memory, bytes, with the letters of ss -m", _skmem, text=_skmem_text),
    _socket(
        "info",
        "all that TCP, MPTCP or SCTP knows of a connection, with the words of ss -i",
        _info,
        text=_info_text,
    ),
    _socket(
        "extended",
        "what ss -e says besides of netlink, packet, XDP and SCTP sockets, in its words",
        lambda r: r.extended_words() or None,
        text=lambda r: r.extended_words() or None,
    ),
    _socket("family", "AF_*", lambda r: address_family_name(r.family)),
    _socket("type", "SOCK_*", lambda r: type_name(r.type)),
    _socket("protocol", "protocol number", attrgetter("protocol"), right=True),
    _socket("refcnt", "references to the struct sock", attrgetter("sock.refcnt"), right=True),
    _socket("cookie", "SO_COOKIE, 0 if nobody asked for it", attrgetter("sock.cookie"), right=True),
    _socket("ifname", "interface it is bound to", attrgetter("ifname")),
    _inet("laddr", "local IP address", attrgetter("local_address")),
    _inet(
        "lport",
        "local port; of a raw socket, the protocol",
        attrgetter("local_port"),
        right=True,
    ),
    _inet("raddr", "remote IP address", attrgetter("remote_address")),
    _inet(
        "rport",
        "remote port",
        lambda r: None if r.family_name == "raw" else r.remote_port,
        right=True,
    ),
    _unix("path", "name of a unix socket, as bytes; ? if lost", attrgetter("name")),
    _unix(
        "file_ino",
        "inode of a unix socket's file, which stat shows",
        _file_ino,
        right=True,
    ),
    _unix("file_dev", "device of that file, major:minor", _file_dev),
    _unix(
        "peer_ino",
        "inode of a unix socket's other end",
        attrgetter("peer_ino"),
        right=True,
    ),
    _unix(
        "peer_sk",
        "address of a unix socket's other end",
        lambda r: f"{r.peer:#x}" if r.peer else None,
    ),
    _unix(
        "peer_path",
        "name of a unix socket's other end, as bytes",
        attrgetter("peer_name"),
    ),
)

_BY_NAME = {column.name: column for column in COMMON}


def _unless_others(texts: Any, batch: Batch) -> Any:
    # Of other families there are few.
    return texts(batch) if issubclass(batch.cls, (InetRecord, UnixRecord)) else None


#: Columns that are other ones where numbers are wanted (``ss -n``), by name.
NUMERIC: dict[str, Column] = {
    name: _BY_NAME[name]._replace(get=get, texts=functools.partial(_unless_others, texts))
    for name, get, texts in (
        ("local", local_numbers, locals_),
        ("peer", remote_numbers, remotes),
    )
}
