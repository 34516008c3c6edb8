# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Columns of sockets that only ``--output`` shows: those of rare families, and one for each member.

Importing this module imports all families.
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
from drgn_sockets.records.families import all_records, family_columns
from drgn_sockets.records.socket import SocketRecord

_NAMES = {column.name for column in COMMON}
_OF_FAMILIES = (
    *(column for column in family_columns() if column.name not in _NAMES),
    Column("error", "what of the socket cannot be read", attrgetter("error")),
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
            # All sockets have these but timewait and request sockets.
            functools.partial(_sock_member, name)
            if name in common
            else attrgetter(places.get(name, f"sock.{name}")),
            right=not member.as_bytes,
            of=SocketRecord if name in common else tuple(records[name]),
        )


def _sock_member(name: str, record: SocketRecord) -> Any:
    return getattr(record.sock, name, None)


#: All columns of sockets.
COLUMNS: tuple[Column, ...] = (*COMMON, *_OF_FAMILIES, *_member_columns())
