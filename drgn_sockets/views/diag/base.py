# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the messages of all families have in common."""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple, Optional, TypeVar

from drgn import FaultError, Object, Program

from drgn_sockets.kernel.cgroup import cgroup_id
from drgn_sockets.kernel.memory import distilled_by
from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.program import byte_order
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.reader import SocketReader
from drgn_sockets.records.socket import SocketRecord
from drgn_sockets.views.diag.forms import (
    Array,
    Flag,
    Form,
    Nested,
    Number,
    Structure,
    Value,
    declared,
    nla_put,
    of_type,
)

T = TypeVar("T")

_U32 = 0xFFFFFFFF


class Message(NamedTuple):
    """What sock_diag sends of a socket: the payload of a ``SOCK_DIAG_BY_FAMILY`` message."""

    #: ``sdiag_family`` and ``sdiag_protocol`` of the request.
    family: int
    protocol: int
    #: The structure at its beginning, such as ``struct inet_diag_msg``.
    header: bytes
    #: Payload of each attribute, by its number.
    attributes: dict[int, bytes]
    #: Numbers of attributes that cannot be made, and why: a type is not known, or memory cannot be
    #: read.
    unknown: dict[int, str] = {}  # noqa: RUF012


#: Makes the payload of an attribute of a record, ``None`` if the kernel sends none. It raises
#: ``LookupError`` if this kernel's types lack one, ``FaultError`` if memory cannot be read.
Build = Callable[["Diag", Any], Optional[bytes]]


class Attribute(NamedTuple):
    """An attribute of a message."""

    #: As in linux/*_diag.h
    number: int
    name: str
    build: Build
    #: ``u8``, ``u16``, ``u32``, ``u64``, ``flag``, ``bytes``, or a C type; any of these with
    #: ``[]`` for an array; or nested attributes by number.
    form: str | Mapping[int, Attribute]


@dataclass(frozen=True)
class DiagKind:
    """Sockets whose messages have one form."""

    #: ``AF_*`` of requests.
    families: frozenset[int]
    #: Protocols of requests, and the names of their sockets.
    protocols: Mapping[int, str]
    #: C type of the header.
    header: str
    #: The attributes, in the order in which the kernel puts them.
    attributes: tuple[Attribute, ...]
    #: The protocol that a request for a record has; ``None`` if the record is of another kind.
    protocol_of: Callable[[SocketRecord], int | None]
    #: Makes the members of the header.
    fill: Callable[[Diag, Any], Mapping[str, Value]]
    #: Names a socket, by the header of its message: in a reply, nothing else identifies it.
    label: Callable[[Mapping[str, Value]], str]
    #: Whether the kernel's dump has a message of a socket.
    dumped: Callable[[Diag, Any], bool] = lambda diag, record: True
    #: Structures as declared by linux/*_diag.h, by C type.
    types: Mapping[str, str] = field(default_factory=dict)
    #: Tells several messages of one socket apart, by the header's members and the attributes.
    part: Callable[[Mapping[str, Value], Mapping[int, bytes]], bytes] = lambda members, found: b""
    #: Whether this kernel's types have those of its sockets, which may be in a module.
    is_known: Callable[[Program], bool] = lambda prog: True
    #: Numbers of attributes that only align the next one.
    padding: frozenset[int] = frozenset()
    #: Whether a message, by its header, is of a socket of sock_diag itself: its queues are in use
    #: while it answers.
    is_busy: Callable[[Mapping[str, Value]], bool] = lambda header: False

    def name(self, protocol: int) -> str:
        """Name of the sockets of a protocol."""
        return self.protocols.get(protocol, str(protocol))


# include/uapi/linux/sock_diag.h: SK_MEMINFO_*, the indices of an array of u32.
_MEMINFO = """
u32 RMEM_ALLOC
u32 RCVBUF
u32 WMEM_ALLOC
u32 SNDBUF
u32 FWD_ALLOC
u32 WMEM_QUEUED
u32 OPTMEM
u32 BACKLOG
u32 DROPS
"""


class Diag:
    """
    Makes the messages of one program's sockets that sock_diag would send to a process that has
    ``CAP_NET_ADMIN`` and asks for all attributes.

    :param secrets: Whether to read keys as well.
    """

    def __init__(self, prog: Program, kinds: tuple[DiagKind, ...], *, secrets: bool = True) -> None:
        self.prog = prog
        #: Takes what cannot be read.
        self.losses = Losses()
        self.secrets = secrets and distilled_by(prog) is None
        self.order = byte_order(prog)
        self.clock = clock(prog)
        self.reader = SocketReader(prog)
        #: The kinds whose types this kernel has.
        self.kinds = tuple(kind for kind in kinds if kind.is_known(prog))
        self._declared = {"SK_MEMINFO": _MEMINFO}
        for kind in kinds:
            self._declared.update(kind.types)
        self._structures: dict[str, Structure] = {}
        self._cgroup_ids: dict[int, int] = {}
        self._facts: dict[str, Any] = {}

    # Messages.

    def kind_of(self, record: SocketRecord) -> tuple[DiagKind, int] | None:
        """Get the kind of a socket, and the protocol of a request for it."""
        for kind in self.kinds:
            protocol = kind.protocol_of(record)
            if protocol is not None:
                return kind, protocol
        return None

    def kind_of_reply(self, family: int, protocol: int) -> DiagKind | None:
        """Get the kind of the sockets that a request asks for."""
        for kind in self.kinds:
            if family in kind.families and protocol in kind.protocols:
                return kind
        return None

    def message(self, record: SocketRecord) -> Message | None:
        """
        Make the message of a socket.

        :return: ``None`` if the socket is of no known kind
        """
        found = self.kind_of(record)
        if found is None:
            return None
        kind, protocol = found
        attributes: dict[int, bytes] = {}
        unknown: dict[int, str] = {}
        for attribute in kind.attributes:
            try:
                payload = attribute.build(self, record)
            except LookupError as e:
                unknown[attribute.number] = str(e)
                continue
            except FaultError as e:
                words = self.losses.lose(e, f"{attribute.name} of the {record.where}")
                unknown[attribute.number] = words
                continue
            if payload is not None:
                attributes[attribute.number] = payload
        header = self.structure(kind.header).pack(kind.fill(self, record))
        return Message(record.family, protocol, header, attributes, unknown)

    # Forms.

    def structure(self, c_type: str) -> Structure:
        """Get the layout of a structure: of the kernel's type, else as it is declared here."""
        found = self._structures.get(c_type)
        if found is None:
            own = self._declared.get(c_type)
            found = of_type(self.prog, c_type) if c_type.startswith("struct ") else None
            if found is None:
                if own is None:
                    raise LookupError(f"{c_type} is not known")
                found = declared(self.order, own)
            self._structures[c_type] = found
        return found

    @functools.lru_cache(None)  # noqa: B019
    def number(self, size: int) -> Number:
        """An integer of *size* bytes."""
        return Number(self.order, size)

    def form(self, form: str | Mapping[int, Attribute]) -> Form:
        """The form of an attribute, see :class:`Attribute`."""
        if not isinstance(form, str):
            nested = {number: (a.name, self.form(a.form)) for number, a in form.items()}
            return Nested(self.order, nested)
        if form.endswith("[]"):
            element = self.form(form[:-2])
            assert isinstance(element, (Structure, Number))
            return Array(element, element.size)
        if form == "bytes":
            return Form()
        if form == "flag":
            return Flag()
        if form in ("u8", "u16", "u32", "u64"):
            return self.number(int(form[1:]) // 8)
        return self.structure(form)

    # Payloads.

    def u8(self, value: int) -> bytes:
        """``nla_put_u8()``"""
        return bytes((value & 0xFF,))

    def u16(self, value: int) -> bytes:
        """``nla_put_u16()``"""
        return struct.pack(self.order + "H", value & 0xFFFF)

    def u32(self, value: int) -> bytes:
        """``nla_put_u32()``"""
        return struct.pack(self.order + "I", value & _U32)

    def u64(self, value: int) -> bytes:
        """``nla_put_u64_64bit()``"""
        return struct.pack(self.order + "Q", value & 0xFFFFFFFFFFFFFFFF)

    def nest(self, attributes: Mapping[int, bytes]) -> bytes:
        """Attributes in an attribute, in the order of *attributes*."""
        return b"".join(nla_put(self.order, number, data) for number, data in attributes.items())

    # Values that several families have.

    def fact(self, name: str, tell: Callable[[], T]) -> T:
        """Get what *tell* returns for this kernel; it is called once for each *name*."""
        if name not in self._facts:
            self._facts[name] = tell()
        return self._facts[name]  # type: ignore[no-any-return]

    def cookie(self, sock: Any) -> bytes:
        """``sock_diag_save_cookie()``; 0 for a socket whose cookie nobody has asked for."""
        low = struct.pack(self.order + "I", sock.cookie & _U32)
        return low + struct.pack(self.order + "I", sock.cookie >> 32 & _U32)

    def expires_ms(self, expires: int) -> int:
        """Milliseconds until a timer fires, ``jiffies_delta_to_msecs()``."""
        delta = expires - self.clock.jiffies & 0xFFFFFFFFFFFFFFFF
        return 0 if delta >> 63 else self.clock.to_ms(delta) & _U32

    def cgroup_id(self, cgroup: int) -> int:
        """
        ``cgroup_id()`` of a ``struct cgroup *``.

        :raises FaultError: if it cannot be read
        """
        # Many sockets are in few cgroups.
        if cgroup not in self._cgroup_ids:
            self._cgroup_ids[cgroup] = cgroup_id(self.prog, cgroup)
        return self._cgroup_ids[cgroup]

    def default_cgroup(self) -> int:
        """``struct cgroup *`` at the root of the default hierarchy."""
        root: Object = self.prog["cgrp_dfl_root"]
        return root.cgrp.address_of_().value_()  # type: ignore[no-any-return]


# Attributes that several families have.


def meminfo(diag: Diag, record: SocketRecord) -> bytes | None:
    """``sock_diag_put_meminfo()``"""
    values = record.skmem()
    form = diag.structure("SK_MEMINFO")
    return None if values is None else form.pack(dict(zip(form.names, values)))


def uid(diag: Diag, record: SocketRecord) -> bytes | None:
    """Owner of the socket."""
    return diag.u32(record.told_uid)


def asked_for(cls: type[SocketRecord], protocol: int = 0) -> Callable[[SocketRecord], int | None]:
    """:attr:`DiagKind.protocol_of` of a kind whose records are of one class."""
    return lambda record: protocol if isinstance(record, cls) else None
