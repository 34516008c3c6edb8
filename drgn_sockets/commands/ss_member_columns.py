# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Columns of sockets that only ``--output`` shows: of families that few machines use, and a column for
every member.

It takes all families to make them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from drgn_sockets.commands.ss_columns import COMMON
from drgn_sockets.kernel.sock import Sock
from drgn_sockets.kernel.structs import Member
from drgn_sockets.records.columns import Column
from drgn_sockets.records.families import all_records
from drgn_sockets.records.families.mptcp import MptcpRecord, mptcp_parent
from drgn_sockets.records.families.netlink import NetlinkRecord
from drgn_sockets.records.families.packet import PacketRecord, Ring
from drgn_sockets.records.families.sctp import SctpAssociationRecord, SctpRecord
from drgn_sockets.records.families.tcp import TcpSockRecord, congestion_algorithm, ulp_name
from drgn_sockets.records.socket import SocketRecord

_tcp = functools.partial(Column, of=TcpSockRecord)
_netlink = functools.partial(Column, of=NetlinkRecord)
_packet = functools.partial(Column, of=PacketRecord)
_mptcp = functools.partial(Column, of=MptcpRecord)
_sctp = functools.partial(Column, of=SctpRecord)


def _address(address: int | None) -> str | None:
    return f"{address:#x}" if address else None


def _ring(which: str, record: PacketRecord) -> dict[str, int] | None:
    ring: Ring | None = getattr(record, which)
    return None if ring is None else ring._asdict()


def _fanout(record: PacketRecord) -> dict[str, object] | None:
    fanout = record.fanout
    if fanout is None:
        return None
    return {
        "id": fanout.id,
        "type": fanout.type_name,
        "flags": fanout.flags,
        "members": [f"{sk:#x}" for sk in fanout.members],
    }


def _memberships(record: PacketRecord) -> list[dict[str, object]]:
    return [
        {
            "ifindex": m.ifindex,
            "type": m.type_name,
            "address": m.address[: m.alen].hex(":"),
            "times": m.times,
        }
        for m in record.memberships
    ]


_OF_FAMILIES = (
    _netlink("nl_protocol", "netlink protocol, as ss calls it", attrgetter("protocol_name")),
    _netlink("nl_flag_names", "names of nl_flags (NETLINK_F_*)", attrgetter("flag_names")),
    _netlink("groups", "netlink groups it has joined, by number from 1", attrgetter("groups")),
    _packet(
        "packet_flags",
        "running, auxdata, origdev, vnethdr, loss, tx_has_off, pressure, qdisc_bypass",
        attrgetter("flag_names"),
    ),
    _packet(
        "rx_ring",
        "ring that a packet socket receives into; bytes, ms",
        functools.partial(_ring, "rx_ring"),
    ),
    _packet(
        "tx_ring",
        "ring that a packet socket sends from; bytes, ms",
        functools.partial(_ring, "tx_ring"),
    ),
    _packet("fanout", "sockets that a packet socket shares what comes with", _fanout),
    _packet("memberships", "what a packet socket has interfaces receive", _memberships),
    _packet(
        "filter",
        "classic BPF of a packet socket: code, jt, jf, k of each instruction",
        attrgetter("filter"),
        text=lambda r: r.filter_words() or None,
    ),
    _tcp(
        "congestion",
        "congestion control algorithm",
        lambda r: congestion_algorithm(r.prog, r.sock),
    ),
    _tcp(
        "mptcp_sk",
        "address of the MPTCP socket that it is a subflow of",
        lambda r: _address(mptcp_parent(r)),
    ),
    Column(
        "assoc",
        "address of the struct sctp_association",
        lambda r: _address(r.assoc.address),
        of=SctpAssociationRecord,
    ),
    _sctp("locals", "IP addresses of this end", lambda r: r.local_addresses()),
    _sctp("peers", "IP addresses of the other end", lambda r: r.peer_addresses()),
    _mptcp(
        "subflows",
        "addresses of its subflows, TCP sockets",
        lambda r: [f"{sk:#x}" for sk in r.subflows()],
    ),
    _tcp("ulp", "upper layer protocol (tls, mptcp)", lambda r: ulp_name(r.prog, r.sock)),
    Column(
        "error",
        "what cannot be read",
        attrgetter("error"),
    ),
)


def _member_columns() -> Iterator[Column]:
    """A column for every declared member of every kind of socket."""
    taken = {column.name for column in (*COMMON, *_OF_FAMILIES)}
    members: dict[str, Member[Any]] = {}
    records: dict[str, list[type[SocketRecord]]] = {}
    places: dict[str, str] = {}
    for cls in all_records():
        for name, member in cls.struct.members().items():
            members.setdefault(name, member)
            records.setdefault(name, []).append(cls)
    for cls in all_records():
        for attribute, struct in cls.more.items():
            for name, member in struct.members().items():
                assert name not in members, name
                members[name] = member
                records[name] = [cls]
                places[name] = f"{attribute}.{name}"
    common = Sock.members()
    for name, member in members.items():
        if name in taken:
            continue
        yield Column(
            name,
            f"{member.help} ({member.c_type.split()[-1]}.{member.paths[0]})",
            # Any family has these, but for timewait and request sockets.
            functools.partial(_sock_member, name)
            if name in common
            else attrgetter(places.get(name, f"sock.{name}")),
            right=not member.as_bytes,
            of=SocketRecord if name in common else tuple(records[name]),
        )


def _sock_member(name: str, record: SocketRecord) -> Any:
    return getattr(record.sock, name, None)


#: All that there are.
COLUMNS: tuple[Column, ...] = (*COMMON, *_OF_FAMILIES, *_member_columns())
