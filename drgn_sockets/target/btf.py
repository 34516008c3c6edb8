# SPDX-License-Identifier: LGPL-2.1-or-later
"""
BTF, the types that a kernel carries with it (Documentation/bpf/btf.rst).

Loading makes an index of where each type is; names are looked up in the table of strings, and
a type is decoded when it is asked for. What comes out of a core is untrusted: every offset is
checked, and what does not fit raises :class:`BtfError`.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

_MAGIC = 0xEB9F
_HEADER = 24
# BTF_MAX_TYPE and BTF_MAX_NAME_OFFSET (include/uapi/linux/btf.h) are below this, each in its
# own file; a base and a module's together do not come near it.
_MAX_TYPES = 1 << 24


class BtfError(ValueError):
    """What should be BTF is not, or does not hold together."""


class Kind(IntEnum):
    """``BTF_KIND_*`` (include/uapi/linux/btf.h)."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# 32-bit words that follow the three of a type: a fixed number, and so many for each of vlen.
_FIXED = {Kind.INT: 1, Kind.ARRAY: 3, Kind.VAR: 1, Kind.DECL_TAG: 1}
_EACH = {
    Kind.STRUCT: 3,
    Kind.UNION: 3,
    Kind.ENUM: 2,
    Kind.FUNC_PROTO: 2,
    Kind.DATASEC: 3,
    Kind.ENUM64: 3,
}
_FIXED_WORDS = [_FIXED.get(Kind(kind), 0) if kind < len(Kind) else 0 for kind in range(32)]
_EACH_WORDS = [_EACH.get(Kind(kind), 0) if kind < len(Kind) else 0 for kind in range(32)]

_NAMED = {
    Kind.INT,
    Kind.STRUCT,
    Kind.UNION,
    Kind.ENUM,
    Kind.FWD,
    Kind.TYPEDEF,
    Kind.FLOAT,
    Kind.ENUM64,
    Kind.FUNC,
    Kind.VAR,
}
_IS_NAMED = [kind < len(Kind) and Kind(kind) in _NAMED for kind in range(32)]


class BtfMember(NamedTuple):
    """A member of a structure or union."""

    name: str | None
    type_id: int
    bit_offset: int
    #: Width of a bit-field, 0 for what is none.
    bit_size: int


class Btf:
    """
    The types of a kernel, or of a module on top of those.

    :param data: BTF as it lies in memory or in the section ``.BTF``.
    :param base: For a module (split BTF), the types of its kernel.
    :raises BtfError: if it is none
    """

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        if len(data) < _HEADER:
            raise BtfError(f"too short for BTF: {len(data)} bytes")
        for order in "<>":
            magic, version, _, header = struct.unpack_from(f"{order}HBBI", data)
            if magic == _MAGIC:
                break
        else:
            raise BtfError(f"not BTF: it begins with {data[:2].hex()}")
        if version != 1 or not _HEADER <= header <= len(data):
            raise BtfError(f"BTF of version {version} with a header of {header} bytes")
        #: ``"<"`` or ``">"``.
        self.order = order
        type_off, type_len, str_off, str_len = struct.unpack_from(f"{order}4I", data, 8)
        types = data[header + type_off : header + type_off + type_len]
        self._strings = data[header + str_off : header + str_off + str_len]
        if len(types) != type_len or len(self._strings) != str_len or type_len % 4:
            raise BtfError("BTF is cut short")
        if not str_len or self._strings[-1] or (base is None and self._strings[0]):
            raise BtfError("the strings of BTF do not end, or begin, with NUL")
        self.base = base
        #: ID of the first type that is this one's own.
        self.start_id: int = base.end_id if base else 1
        self._string_base: int = base.string_end if base else 0
        #: Where the strings of one that has this as its base begin.
        self.string_end: int = self._string_base + str_len
        self._words = array("I", types)
        if (order == "<") != (sys.byteorder == "little"):
            self._words.byteswap()
        self._offsets = array("I")
        self._by_name: dict[int, list[int]] = {}
        #: One more than the ID of the last type.
        self.end_id: int = self._index()

    def _index(self) -> int:
        words, offsets, by_name = self._words, self._offsets, self._by_name
        at, end, type_id = 0, len(words), self.start_id
        while at < end:
            if end - at < 3:
                raise BtfError("BTF is cut short within a type")
            info = words[at + 1]
            kind = info >> 24 & 0x1F
            if not kind or kind > Kind.ENUM64:
                raise BtfError(f"BTF type {type_id} has the unknown kind {kind}")
            offsets.append(at)
            if words[at] and _IS_NAMED[kind]:
                name = words[at]
                if name in by_name:
                    by_name[name].append(type_id)
                else:
                    by_name[name] = [type_id]
            at += 3 + _FIXED_WORDS[kind] + _EACH_WORDS[kind] * (info & 0xFFFF)
            type_id += 1
        if at != end:
            raise BtfError("BTF is cut short within a type")
        if type_id > _MAX_TYPES:
            raise BtfError(f"{type_id} types are more than BTF can have")
        return type_id

    def _at(self, type_id: int) -> tuple[Btf, int]:
        btf = self
        while type_id < btf.start_id and btf.base is not None:
            btf = btf.base
        if not btf.start_id <= type_id < btf.end_id:
            raise BtfError(f"there is no BTF type {type_id}")
        return btf, btf._offsets[type_id - btf.start_id]

    def string(self, offset: int) -> str:
        """
        A string of the table.

        :raises BtfError: if there is none at *offset*
        """
        btf = self
        while offset < btf._string_base and btf.base is not None:
            btf = btf.base
        start = offset - btf._string_base
        if not 0 <= start < len(btf._strings):
            raise BtfError(f"there is no BTF string at {offset}")
        end = btf._strings.index(0, start)
        return btf._strings[start:end].decode("ascii", "backslashreplace")

    def kind(self, type_id: int) -> Kind:
        """Kind of a type. ID 0 is ``void``."""
        if not type_id:
            return Kind.VOID
        btf, at = self._at(type_id)
        return Kind(btf._words[at + 1] >> 24 & 0x1F)

    def name(self, type_id: int) -> str | None:
        """Name of a type, ``None`` if it is anonymous."""
        btf, at = self._at(type_id)
        offset = btf._words[at]
        return self.string(offset) if offset else None

    def size_or_type(self, type_id: int) -> int:
        """Size of an ``INT``, ``STRUCT``, …; the type that a ``PTR``, ``TYPEDEF``, … is of."""
        btf, at = self._at(type_id)
        return btf._words[at + 2]

    def kind_flag(self, type_id: int) -> bool:
        """The flag of the kind: bit-fields in a structure, a union's ``FWD``, a signed enum."""
        btf, at = self._at(type_id)
        return bool(btf._words[at + 1] >> 31)

    def int_encoding(self, type_id: int) -> tuple[int, int, int]:
        """(``BTF_INT_*`` flags, bit offset, bits) of an ``INT``."""
        btf, at = self._at(type_id)
        word = btf._words[at + 3]
        return word >> 24 & 0xF, word >> 16 & 0xFF, word & 0xFF

    def array(self, type_id: int) -> tuple[int, int]:
        """(Element type, number of elements) of an ``ARRAY``."""
        btf, at = self._at(type_id)
        return btf._words[at + 3], btf._words[at + 5]

    def _items(self, type_id: int) -> Iterator[tuple[int, ...]]:
        btf, at = self._at(type_id)
        words = btf._words
        info = words[at + 1]
        width = _EACH_WORDS[info >> 24 & 0x1F]
        start = at + 3
        for i in range(start, start + width * (info & 0xFFFF), width):
            yield tuple(words[i : i + width])

    def members(self, type_id: int) -> Iterator[BtfMember]:
        """Members of a ``STRUCT`` or ``UNION``."""
        bit_fields = self.kind_flag(type_id)
        for name, member_type, offset in self._items(type_id):
            text = self.string(name) if name else None
            if bit_fields:
                yield BtfMember(text, member_type, offset & 0xFFFFFF, offset >> 24)
            else:
                yield BtfMember(text, member_type, offset, 0)

    def enumerators(self, type_id: int) -> Iterator[tuple[str, int]]:
        """(Name, value) of the enumerators of an ``ENUM`` or ``ENUM64``."""
        signed = self.kind_flag(type_id)
        wide = self.kind(type_id) == Kind.ENUM64
        for name, low, *high in self._items(type_id):
            value = low | high[0] << 32 if wide else low
            bits = 64 if wide else 32
            if signed and value >> bits - 1:
                value -= 1 << bits
            yield self.string(name), value

    def parameters(self, type_id: int) -> Iterator[tuple[str | None, int]]:
        """(Name, type) of the parameters of a ``FUNC_PROTO``; (``None``, 0) for ``...``."""
        for name, parameter_type in self._items(type_id):
            yield self.string(name) if name else None, parameter_type

    def find(self, name: str, kinds: frozenset[Kind]) -> int | None:
        """
        ID of the first type of one of *kinds* called *name*.

        The types of a base come first.
        """
        found = self.base.find(name, kinds) if self.base else None
        if found is not None:
            return found
        for type_id in self._ids_named(name):
            if self.kind(type_id) in kinds:
                return type_id
        return None

    def _ids_named(self, name: str) -> Iterator[int]:
        # Strings are not repeated, but a module's types may have names of its base's.
        needle = b"\0" + name.encode("ascii", "replace") + b"\0"
        btf: Btf | None = self
        while btf is not None:
            at = btf._strings.find(needle)
            offset = at + 1
            if at < 0 and btf.base is not None and btf._strings.startswith(needle[1:]):
                at = offset = 0
            if at >= 0:
                yield from self._by_name.get(offset + btf._string_base, ())
            btf = btf.base

    def enums(self) -> Iterator[int]:
        """IDs of all ``ENUM`` and ``ENUM64``, those of the base left out."""
        words = self._words
        for i, at in enumerate(self._offsets):
            if words[at + 1] >> 24 & 0x1F in (Kind.ENUM, Kind.ENUM64):
                yield self.start_id + i
