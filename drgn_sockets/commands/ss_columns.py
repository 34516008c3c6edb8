# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns of ``ss``: the usual ones, those that its options show, and others of any socket."""

from __future__ import annotations

import functools
from operator import attrgetter
from typing import Any

from drgn_sockets.records.columns import Column
from drgn_sockets.records.families.inet import COLUMNS as INET_COLUMNS
from drgn_sockets.records.families.unix import Unix
from drgn_sockets.records.names import address_family_name, type_name
from drgn_sockets.records.socket import AnySocket, SocketRecord, cgroup_text
from drgn_sockets.views.extended import (
    extended_text,
    timer_text,
)
from drgn_sockets.views.sockets import (
    local_text,
    locals_,
    netids,
    record_netid,
    record_state,
    recv_qs,
    remote_text,
    remotes,
    send_qs,
    state_text,
    states,
    users_text,
    users_texts,
)

# Columns of any socket that could be read.
_socket = functools.partial(Column, of=SocketRecord)


def _holders(record: AnySocket) -> list[dict[str, object]] | None:
    holders = record.holders
    return None if holders is None else [h._asdict() for h in holders]


def _users_text(record: AnySocket) -> str | None:
    holders = record.holders
    return None if holders is None else users_text(holders)


def _timer(record: SocketRecord) -> dict[str, object] | None:
    timer = record.timer
    if timer is None:
        return None
    return {"name": timer.name, "expires_s": timer.expires_s, "retrans": timer.retrans}


def _cgroup_text(record: SocketRecord) -> str | None:
    return cgroup_text(record.cgroup_path)


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
    # sk_forward_alloc may be negative; ss prints it as an unsigned number.
    return None if values is None else _SKMEM % tuple([value & 0xFFFFFFFF for value in values])


def _info(record: SocketRecord) -> Any:
    if record.family_name != "tcp":
        return record.info()
    # Imported only for the columns of ss -i.
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


#: Columns of the families that are always imported, and of any socket.
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
        "state, as ss writes it; `- before the state of an association of the socket above",
        record_state,
        True,
        text=state_text,
        simple=True,
        texts=states,
    ),
    _socket(
        "recv_q",
        "bytes to be read; for a listener, connections to be accepted",
        attrgetter("recv_q"),
        True,
        right=True,
        simple=True,
        texts=recv_qs,
    ),
    _socket(
        "send_q",
        "bytes not yet acknowledged or read; for a listener, the limit of its accept queue",
        attrgetter("send_q"),
        True,
        right=True,
        simple=True,
        texts=send_qs,
    ),
    Column(
        "local",
        "this end: address and port, or name and inode of a unix socket",
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
        "every process and fd that holds it, as ss -p prints them",
        _holders,
        text=_users_text,
        texts=users_texts,
    ),
    _socket(
        "timer",
        "the timer that fires next: name, seconds, retries, as ss -o prints them",
        _timer,
        text=_timer_text,
    ),
    _socket(
        "ext",
        "owner, inode, cookie, cgroup and the other words of ss -e; then addr:, the address of "
        "the struct sock, and netns:",
        extended_text,
        simple=True,
    ),
    _socket(
        "cgroup",
        "path of its cgroup (version 2)",
        attrgetter("cgroup_path"),
        text=_cgroup_text,
    ),
    _socket("skmem", "socket memory in bytes, with the letters of ss -m", _skmem, text=_skmem_text),
    _socket(
        "info",
        "what TCP, MPTCP or SCTP knows of a connection, as ss -i prints it",
        _info,
        text=_info_text,
    ),
    _socket(
        "extended",
        "words of ss -e that only netlink, packet, XDP or SCTP sockets have",
        lambda r: r.extended_words() or None,
        text=lambda r: r.extended_words() or None,
    ),
    _socket("family", "AF_*", lambda r: address_family_name(r.family)),
    _socket("type", "SOCK_*", lambda r: type_name(r.type)),
    _socket("protocol", "protocol number", attrgetter("protocol"), right=True),
    _socket("refcnt", "references to the struct sock", attrgetter("sock.refcnt"), right=True),
    _socket(
        "cookie", "SO_COOKIE, 0 if no program asked for it", attrgetter("sock.cookie"), right=True
    ),
    _socket("ifname", "interface it is bound to", attrgetter("ifname")),
    # Families that are always imported.
    *INET_COLUMNS,
    *Unix.columns,
)

_BY_NAME = {column.name: column for column in COMMON}


#: Columns that ``ss -n`` shows in place of those of the same name.
NUMERIC: dict[str, Column] = {
    name: _BY_NAME[name]._replace(get=functools.partial(get, numeric=True))
    for name, get in (("local", local_text), ("peer", remote_text))
}
