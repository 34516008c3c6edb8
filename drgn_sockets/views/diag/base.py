# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the messages of all families have in common."""

from __future__ import annotations

import functools
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, TypeVar

from drgn import Object, Program

from drgn_sockets.kernel.cgroup import cgroup_id
from drgn_sockets.kernel.memory import UNREADABLE, byte_order, distilled_by
from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.named_tuple import NamedTuple
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

    #: What was asked for.
    family: int
    protocol: int
    #: The structure that it begins with, ``struct inet_diag_msg`` and the like.
    header: bytes
    #: Payload of each attribute, by its number.
    attributes: dict[int, bytes]
    #: Numbers of attributes that cannot be told, and why: a type that is not known, memory that
    #: cannot be read.
    unknown: dict[int, str] = {}  # noqa: RUF012


#: Makes the payload of an attribute of a record, ``None`` where the kernel sends none.
#: ``LookupError`` if this kernel's types do not tell, ``FaultError`` if memory cannot be read.
Build = Callable[["Diag", Any], Optional[bytes]]


class Attribute(NamedTuple):
    """An attribute of a message."""

    #: As in linux/*_diag.h
    number: int
    name: str
    build: Build
    #: ``u8``, ``u16``, ``u32``, ``u64``, ``flag``, ``bytes``; a C type; with ``[]`` behind it,
    #: an array of that; or attributes by number.
    form: str | Mapping[int, Attribute]


@dataclass(frozen=True)
class Kind:
    """A kind of sockets that sock_diag tells of, in messages of one form."""

    #: ``AF_*`` that are asked for.
    families: frozenset[int]
    #: What is asked for as protocol, and how its sockets are called.
    protocols: Mapping[int, str]
    #: C type of the header.
    header: str
    #: The attributes, in the order in which the kernel puts them.
    attributes: tuple[Attribute, ...]
    #: Whether a record is of this kind, and then with which protocol it is asked for.
    protocol_of: Callable[[SocketRecord], int | None]
    #: Members of the header.
    fill: Callable[[Diag, Any], Mapping[str, Value]]
    #: A socket in words, made of the header: in a reply, that is all that tells which it is.
    label: Callable[[Mapping[str, Value]], str]
    #: Whether a dump has a socket.
    dumped: Callable[[Diag, Any], bool] = lambda diag, record: True
    #: Structures as declared by linux/*_diag.h, by C type.
    types: Mapping[str, str] = field(default_factory=dict)
    #: What tells messages of one socket apart, if there are several: of the header's members and
    #: the attributes.
    part: Callable[[Mapping[str, Value], Mapping[int, bytes]], bytes] = lambda members, found: b""
    #: Whether this kernel's types tell of its sockets: they may be a module's.
    is_known: Callable[[Program], bool] = lambda prog: True
    #: Numbers of attributes that say nothing, but align the next.
    padding: frozenset[int] = frozenset()
    #: Whether a message, by its header, is of the socket that asks or the one that is asked: what
    #: is queued in these is so for the moment of the answer.
    is_busy: Callable[[Mapping[str, Value]], bool] = lambda header: False

    def name(self, protocol: int) -> str:
        """How sockets asked for with *protocol* are called."""
        return self.protocols.get(protocol, str(protocol))


# include/uapi/linux/sock_diag.h: SK_MEMINFO_*. It is an array there, and these its indices.
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
    Makes messages of one program's sockets, as sock_diag would to who has ``CAP_NET_ADMIN`` and
    asks for all that there is.

    :param secrets: Whether to read keys as well.
    """

    def __init__(self, prog: Program, kinds: tuple[Kind, ...], *, secrets: bool = True) -> None:
        self.prog = prog
        self.secrets = secrets and distilled_by(prog) is None
        self.order = byte_order(prog)
        self.clock = clock(prog)
        self.reader = SocketReader(prog)
        #: All kinds of sockets that it knows.
        self.kinds = tuple(kind for kind in kinds if kind.is_known(prog))
        self._declared = {"SK_MEMINFO": _MEMINFO}
        for kind in kinds:
            self._declared.update(kind.types)
        self._structures: dict[str, Structure] = {}
        self._cgroup_ids: dict[int, int] = {}
        self._facts: dict[str, Any] = {}

    # Messages.

    def kind_of(self, record: SocketRecord) -> tuple[Kind, int] | None:
        """The kind of a socket, and the protocol that it is asked for with."""
        for kind in self.kinds:
            protocol = kind.protocol_of(record)
            if protocol is not None:
                return kind, protocol
        return None

    def kind_of_reply(self, family: int, protocol: int) -> Kind | None:
        """The kind of what is asked for."""
        for kind in self.kinds:
            if family in kind.families and protocol in kind.protocols:
                return kind
        return None

    def message(self, record: SocketRecord) -> Message | None:
        """
        The message of a socket.

        :return: ``None`` if it is of no kind that is known
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
            except (LookupError, *UNREADABLE) as e:
                unknown[attribute.number] = str(e)
                continue
            if payload is not None:
                attributes[attribute.number] = payload
        header = self.structure(kind.header).pack(kind.fill(self, record))
        return Message(record.family, protocol, header, attributes, unknown)

    # Forms.

    def structure(self, c_type: str) -> Structure:
        """How a structure is laid out: as the kernel has it, else as it is declared here."""
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

    # What several families tell.

    def fact(self, name: str, tell: Callable[[], T]) -> T:
        """What *tell* tells of this kernel, which is asked once."""
        if name not in self._facts:
            self._facts[name] = tell()
        return self._facts[name]  # type: ignore[no-any-return]

    def cookie(self, sock: Any) -> bytes:
        """``sock_diag_save_cookie()``; 0 of a socket that nobody has asked about."""
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
        # Many sockets are of few groups.
        if cgroup not in self._cgroup_ids:
            self._cgroup_ids[cgroup] = cgroup_id(self.prog, cgroup)
        return self._cgroup_ids[cgroup]

    def default_cgroup(self) -> int:
        """``struct cgroup *`` at the root of the default hierarchy."""
        root: Object = self.prog["cgrp_dfl_root"]
        return root.cgrp.address_of_().value_()  # type: ignore[no-any-return]


# What several families send, and how their kinds are told.


def meminfo(diag: Diag, record: SocketRecord) -> bytes | None:
    """``sock_diag_put_meminfo()``"""
    values = record.skmem()
    form = diag.structure("SK_MEMINFO")
    return None if values is None else form.pack(dict(zip(form.names, values)))


def uid(diag: Diag, record: SocketRecord) -> bytes | None:
    """Owner of the socket."""
    return diag.u32(record.told_uid)


def asked_for(cls: type[SocketRecord], protocol: int = 0) -> Callable[[SocketRecord], int | None]:
    """:attr:`Kind.protocol_of` of a kind whose records are of one class."""
    return lambda record: protocol if isinstance(record, cls) else None
