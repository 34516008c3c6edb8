# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns of sockets, shared by the commands that show sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from drgn_sockets.kernel import sock as k
from drgn_sockets.kernel.file import major, minor
from drgn_sockets.kernel.structs import Member
from drgn_sockets.records.inet import RawSock, UdpSock
from drgn_sockets.records.socket import (
    AnySocket,
    InetRecord,
    RawRecord,
    SocketRecord,
    UnixRecord,
    UnreadableSocket,
)
from drgn_sockets.records.tcp import (
    InetConnectionSock,
    TcpRequestSock,
    TcpSock,
    TcpTimewaitSock,
    congestion_algorithm,
    ulp_name,
)
from drgn_sockets.records.tcp_info import tcp_get_info
from drgn_sockets.records.unix import UnixSock
from drgn_sockets.views.columns import Column
from drgn_sockets.views.names import family_name, type_name
from drgn_sockets.views.sockets import (
    holders_text,
    local_text,
    record_netid,
    record_state,
    remote_text,
)
from drgn_sockets.views.tcp_info import tcp_info_text


def _of(cls: type[SocketRecord], get: Callable[[Any], Any]) -> Callable[[AnySocket], Any]:
    return lambda record: get(record) if isinstance(record, cls) else None


def _any(get: Callable[[SocketRecord], Any]) -> Callable[[AnySocket], Any]:
    return _of(SocketRecord, get)


def _holders(record: AnySocket) -> list[dict[str, object]] | None:
    return None if record.holders is None else [h._asdict() for h in record.holders]


def _file_ino(record: UnixRecord) -> int | None:
    file = record.socket_file()
    return None if file is None else file[0]


def _file_dev(record: UnixRecord) -> str | None:
    file = record.socket_file()
    return None if file is None else f"{major(file[1])}:{minor(file[1])}"


def _timer(record: SocketRecord) -> dict[str, object] | None:
    timer = record.timer
    if timer is None:
        return None
    return {"name": timer.name, "expires_s": timer.expires_s, "retrans": timer.retrans}


def _timer_text(timer: dict[str, Any]) -> str:
    return f"({timer['name']},{timer['expires_s']:.3f}s,{timer['retrans']})"


def _skmem(record: SocketRecord) -> dict[str, int] | None:
    sock = record.sock
    if not isinstance(sock, k.Sock):
        return None
    # In the order and with the letters of ss -m: skmem:(r…,rb…,t…,tb…,f…,w…,o…,bl…,d…).
    return {
        "r": sock.rmem_alloc,
        "rb": sock.rcvbuf,
        "t": sock.wmem_alloc - 1,
        "tb": sock.sndbuf,
        "f": sock.forward_alloc,
        "w": sock.wmem_queued,
        "o": sock.omem_alloc,
        "bl": sock.backlog_len,
        "d": k.sk_drops_read(record.prog, sock),
    }


def _skmem_text(skmem: dict[str, int]) -> str:
    return "skmem:(" + ",".join(f"{key}{value}" for key, value in skmem.items()) + ")"


def _congestion(record: SocketRecord) -> bytes | None:
    sock = record.sock
    return congestion_algorithm(record.prog, sock) if isinstance(sock, InetConnectionSock) else None


def _ulp(record: SocketRecord) -> bytes | None:
    sock = record.sock
    return ulp_name(record.prog, sock) if isinstance(sock, InetConnectionSock) else None


COLUMNS: tuple[Column, ...] = (
    Column("netid", "tcp, udp, raw, u_str, u_dgr, u_seq, nl, p_raw, …", record_netid, True),
    Column("state", "state, as ss writes it", record_state, True),
    Column(
        "recv_q",
        "bytes to be read; of a listener, connections to be accepted",
        _any(lambda r: r.recv_q),
        True,
        right=True,
    ),
    Column(
        "send_q",
        "bytes not yet acknowledged or read; of a listener, the limit of its accept queue",
        _any(lambda r: r.send_q),
        True,
        right=True,
    ),
    Column("local", "address and port; name and inode of a unix socket", local_text, True),
    Column("peer", "the other end, in the same form", remote_text, True),
    Column(
        "ino", "inode, the N of socket:[N]; 0 if it has none", _any(lambda r: r.ino), right=True
    ),
    Column("uid", "owner, in the initial user namespace", _any(lambda r: r.uid), right=True),
    Column("sk", "address of the struct sock", lambda r: f"{r.sk:#x}"),
    Column("netns", "inode of the network namespace", _any(lambda r: r.netns), right=True),
    Column("holders", "every process and fd that holds it", _holders, text=holders_text),
    Column(
        "timer", "the timer that fires next: name, seconds, retries", _any(_timer), text=_timer_text
    ),
    Column(
        "skmem", "socket memory, bytes, with the letters of ss -m", _any(_skmem), text=_skmem_text
    ),
    Column(
        "info",
        "all that TCP knows of a connection, with the words of ss -i",
        _any(tcp_get_info),
        text=tcp_info_text,
    ),
    Column("family", "AF_*", _any(lambda r: family_name(r.family))),
    Column("type", "SOCK_*", _any(lambda r: type_name(r.type))),
    Column("protocol", "protocol number", _any(lambda r: r.protocol), right=True),
    Column("refcnt", "references to the struct sock", _any(lambda r: r.sock.refcnt), right=True),
    Column(
        "cookie", "SO_COOKIE, 0 if nobody asked for it", _any(lambda r: r.sock.cookie), right=True
    ),
    Column("ifname", "interface it is bound to", _any(lambda r: r.ifname)),
    Column("laddr", "local IP address", _of(InetRecord, lambda r: r.local_address)),
    Column(
        "lport",
        "local port; of a raw socket, the protocol",
        _of(InetRecord, lambda r: r.local_port),
        right=True,
    ),
    Column("raddr", "remote IP address", _of(InetRecord, lambda r: r.remote_address)),
    Column(
        "rport",
        "remote port",
        _of(InetRecord, lambda r: None if isinstance(r, RawRecord) else r.remote_port),
        right=True,
    ),
    Column("path", "name of a unix socket, as bytes", _of(UnixRecord, lambda r: r.name)),
    Column(
        "file_ino",
        "inode of a unix socket's file, which stat shows",
        _of(UnixRecord, _file_ino),
        right=True,
    ),
    Column("file_dev", "device of that file, major:minor", _of(UnixRecord, _file_dev)),
    Column(
        "peer_ino",
        "inode of a unix socket's other end",
        _of(UnixRecord, lambda r: r.peer_ino),
        right=True,
    ),
    Column(
        "peer_sk",
        "address of a unix socket's other end",
        _of(UnixRecord, lambda r: f"{r.peer:#x}" if r.peer else None),
    ),
    Column(
        "peer_path",
        "name of a unix socket's other end, as bytes",
        _of(UnixRecord, lambda r: r.peer_name),
    ),
    Column("congestion", "congestion control algorithm", _any(_congestion)),
    Column("ulp", "upper layer protocol (tls, mptcp)", _any(_ulp)),
    Column(
        "error",
        "what cannot be read",
        lambda r: r.error if isinstance(r, UnreadableSocket) else None,
    ),
)


def _member_columns() -> Iterator[Column]:
    """A column for every declared member of every kind of socket."""
    taken = {column.name for column in COLUMNS}
    members: dict[str, Member[Any]] = {}
    for cls in (TcpSock, TcpTimewaitSock, TcpRequestSock, UdpSock, RawSock, UnixSock):
        for name, member in cls.members().items():
            members.setdefault(name, member)
    for name, member in members.items():
        if name not in taken:
            yield Column(
                name,
                f"{member.help} ({member.c_type.split()[-1]}.{member.paths[0]})",
                _any(lambda r, name=name: getattr(r.sock, name, None)),  # type: ignore[misc]
                right=not member.as_bytes,
            )


COLUMNS += tuple(_member_columns())
