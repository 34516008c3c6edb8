# SPDX-License-Identifier: LGPL-2.1-or-later
"""
BTF, the types that a kernel carries with it (Documentation/bpf/btf.rst).

Loading only finds where each type begins; a type is decoded when it is asked for. BTF from a core
is untrusted: every offset is checked, and a wrong one raises :class:`BtfError`.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from drgn_sockets.errors import UserError

_MAGIC = 0xEB9F
_HEADER = 24
# Since Linux kernel commit 222edc843c15 ("btf: Add BTF kind layout encoding to UAPI") (in v7.1)
# the header may also have the offset and length of a layout. The layout tells for each kind how
# many bytes follow struct btf_type, and how many each of the vlen elements has.
_HEADER_WITH_LAYOUT = 32
# -4096 in 32 bits.
_NEGATIVE = 0xFFFFF000
# Much above BTF_MAX_TYPE (include/uapi/linux/btf.h).
_MAX_TYPES = 1 << 24


class BtfError(UserError):
    """Data are not BTF, or are inconsistent."""

    def __str__(self) -> str:
        return f"BTF cannot be used: {super().__str__()}; give the kernel's vmlinux with -s"


class BtfKind(IntEnum):
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


# How many 32-bit words follow the three of struct btf_type: a fixed number, and a number for each
# of the vlen elements.
_WORDS = {
    **{kind: (0, 0) for kind in BtfKind if kind},
    BtfKind.INT: (1, 0),
    BtfKind.ARRAY: (3, 0),
    BtfKind.VAR: (1, 0),
    BtfKind.DECL_TAG: (1, 0),
    BtfKind.STRUCT: (0, 3),
    BtfKind.UNION: (0, 3),
    BtfKind.ENUM: (0, 2),
    BtfKind.FUNC_PROTO: (0, 2),
    BtfKind.DATASEC: (0, 3),
    BtfKind.ENUM64: (0, 3),
}
_KIND = list(BtfKind)


def _kind(info: int) -> int:
    # Linux kernel commit f7a6b9eaff3e ("bpf: Extend BTF UAPI vlen, kinds to use unused bits")
    # (in v7.2) widened the kind from 5 to 7 bits, and vlen from 16 to 24. The added bits were
    # always 0 before.
    return info >> 24 & 0x7F


def _vlen(info: int) -> int:
    return info & 0xFFFFFF


def _step(info: int, layout: bytes) -> int:
    """How many words a type has; *info*, its second word, holds kind and vlen."""
    kind = _kind(info)
    if kind in _WORDS:
        fixed, each = _WORDS[_KIND[kind]]
    else:
        # A newer kernel has kinds that are unknown here. A type of such a kind can be skipped if
        # the layout tells its size.
        sizes = layout[4 * kind : 4 * kind + 2]
        if not kind or len(sizes) < 2 or sizes[0] % 4 or sizes[1] % 4:
            raise BtfError(f"it has a type of the unknown kind {kind}")
        fixed, each = sizes[0] // 4, sizes[1] // 4
    return 3 + fixed + each * _vlen(info)


class BtfMember(NamedTuple):
    """A member of a structure or union."""

    name: str | None
    type_id: int
    bit_offset: int
    #: Width of a bit-field; 0 if the member is no bit-field.
    bit_size: int


class Btf:
    """
    The types of a kernel, or the types that a module adds to its kernel's.

    :param data: BTF as it lies in memory or in the section ``.BTF``.
    :param base: For a module (split BTF), the types of its kernel.
    :raises BtfError: if *data* is not BTF, or is damaged
    """

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        if len(data) < _HEADER:
            raise BtfError(f"it has {len(data)} bytes")
        for order in "<>":
            magic, version, _, header = struct.unpack_from(f"{order}HBBI", data)
            if magic == _MAGIC:
                break
        else:
            raise BtfError(f"it begins with {data[:2].hex()}, which is not BTF")
        if version != 1 or not _HEADER <= header <= len(data):
            raise BtfError(f"it is of version {version} and has a header of {header} bytes")
        #: ``"<"`` or ``">"``.
        self.order = order
        type_off, type_len, str_off, str_len = struct.unpack_from(f"{order}4I", data, 8)
        layout = b""
        if header >= _HEADER_WITH_LAYOUT:
            at, length = struct.unpack_from(f"{order}2I", data, 24)
            layout = data[header + at : header + at + length]
        types = data[header + type_off : header + type_off + type_len]
        self._strings = data[header + str_off : header + str_off + str_len]
        if len(types) != type_len or len(self._strings) != str_len or type_len % 4:
            raise BtfError("it is cut short")
        if not str_len or self._strings[-1]:
            raise BtfError("its strings do not end with NUL")
        if b"\0\0" in self._strings:
            # Only the first string is empty, so this is a page that was not dumped.
            raise BtfError("its strings have a hole")
        if base is None and self._strings[0]:
            raise BtfError("it is a module's, which goes with that of its kernel")
        self.base = base
        #: ID of the first type that is not the base's.
        self.start_id: int = base.end_id if base else 1
        #: Offset of the first own string; the offsets before it are those of the base's strings.
        self.string_start: int = base.string_end if base else 0
        #: Offset of the first string of a module whose base this is.
        self.string_end: int = self.string_start + str_len
        self._words = array("I", types)
        if (order == "<") != (sys.byteorder == "little"):
            self._words.byteswap()
        # How many words a type has, by its second word, ``info``.
        self._steps: dict[int, int] = {}
        self._offsets = self._find_types(layout)
        self._tells_signs: bool = (base is not None and base._tells_signs) or any(
            info >> 31 and _kind(info) in (BtfKind.ENUM, BtfKind.ENUM64) for info in self._steps
        )
        #: One more than the ID of the last type.
        self.end_id: int = self.start_id + len(self._offsets)
        if self.end_id > _MAX_TYPES:
            raise BtfError(f"{self.end_id} types are more than there can be")
        # The offsets of the names of all types, four bytes each.
        self._names: bytes | None = None
        self._found: dict[tuple[str, frozenset[BtfKind]], int | None] = {}
        self._places: dict[str, list[int]] = {}

    def _find_types(self, layout: bytes) -> list[int]:
        # The inner loop runs a hundred thousand times: every bytecode in it costs a millisecond,
        # or ten in a slow guest.
        infos, steps = self._words[1:], self._steps
        offsets: list[int] = []
        append = offsets.append
        at = 0
        while True:
            try:
                while True:
                    append(at)
                    at += steps[infos[at]]
            except KeyError:
                steps[infos[at]] = _step(infos[at], layout)
                offsets.pop()
            except IndexError:
                break
        if at != len(self._words):
            raise BtfError("it is cut short within a type")
        # The last offset is the end, where no type begins.
        offsets.pop()
        return offsets

    def _find_name(self, place: int, start: int) -> int:
        """Index of the first type from *start* on whose name is at *place*; -1 if none is."""
        if self._names is None:
            names = array("I", map(self._words.__getitem__, self._offsets))
            self._names = names.tobytes()
        needle = place.to_bytes(4, sys.byteorder)
        at = self._names.find(needle, 4 * start)
        while at % 4 and at >= 0:
            at = self._names.find(needle, at + 1)
        return at // 4

    def _at(self, type_id: int) -> tuple[Btf, int]:
        btf = self
        while type_id < btf.start_id and btf.base is not None:
            btf = btf.base
        if not btf.start_id <= type_id < btf.end_id:
            raise BtfError(f"it has no type {type_id}")
        return btf, btf._offsets[type_id - btf.start_id]

    def string(self, offset: int) -> str:
        """
        A string of the string table.

        :raises BtfError: if there is no string at *offset*
        """
        btf = self
        while offset < btf.string_start and btf.base is not None:
            btf = btf.base
        start = offset - btf.string_start
        if not 0 <= start < len(btf._strings):
            raise BtfError(f"it has no string at {offset}")
        end = btf._strings.index(0, start)
        return btf._strings[start:end].decode("ascii", "backslashreplace")

    def kind(self, type_id: int) -> BtfKind:
        """Kind of a type. ID 0 is ``void``."""
        if not type_id:
            return BtfKind.VOID
        btf, at = self._at(type_id)
        kind = _kind(btf._words[at + 1])
        if kind not in _WORDS:
            raise BtfError(f"its type {type_id} is of the unknown kind {kind}")
        return _KIND[kind]

    def name(self, type_id: int) -> str | None:
        """Name of a type, ``None`` if it is anonymous."""
        btf, at = self._at(type_id)
        offset = btf._words[at]
        return self.string(offset) if offset else None

    def size_or_type(self, type_id: int) -> int:
        """Size of an ``INT``, ``STRUCT``, …; type that a ``PTR``, ``TYPEDEF``, … refers to."""
        btf, at = self._at(type_id)
        return btf._words[at + 2]

    def kind_flag(self, type_id: int) -> bool:
        """``kind_flag``: a structure has bit-fields, a ``FWD`` is a union, an enum is signed."""
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
        fixed, each = _WORDS[_KIND[_kind(info)]]
        start = at + 3 + fixed
        columns = [words[start + i : start + each * _vlen(info) : each] for i in range(each)]
        return zip(*columns)

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
        signed = self.is_signed(type_id)
        wide = self.kind(type_id) == BtfKind.ENUM64
        for name, low, *high in self._items(type_id):
            value = low | high[0] << 32 if wide else low
            bits = 64 if wide else 32
            if signed and value >> bits - 1:
                value -= 1 << bits
            yield self.string(name), value

    def is_signed(self, type_id: int) -> bool:
        """Whether the enumerators of an ``ENUM`` or ``ENUM64`` are signed."""
        # Before Linux kernel commit 6089fb325cf7 ("bpf: Add btf enum64 support") (in v6.0) BTF did
        # not tell signed from unsigned enums. An enum of such BTF is taken for signed if a value of
        # it would be a small negative number.
        if self._tells_signs or self.kind_flag(type_id):
            return self.kind_flag(type_id)
        return any(value >= _NEGATIVE for _, value, *_ in self._items(type_id))

    def parameters(self, type_id: int) -> Iterator[tuple[str | None, int]]:
        """(Name, type) of the parameters of a ``FUNC_PROTO``; (``None``, 0) for ``...``."""
        for name, parameter_type in self._items(type_id):
            yield self.string(name) if name else None, parameter_type

    def inner(self, type_id: int) -> list[int]:
        """Types that an ``ARRAY``, ``STRUCT``, ``FUNC_PROTO``, … is made of."""
        kind = self.kind(type_id)
        if kind == BtfKind.ARRAY:
            return [self.array(type_id)[0]]
        if kind in (BtfKind.STRUCT, BtfKind.UNION):
            return [member for _, member, _ in self._items(type_id)]
        if kind == BtfKind.FUNC_PROTO:
            return [self.size_or_type(type_id), *(p for _, p in self._items(type_id))]
        return []

    def find(self, name: str, kinds: frozenset[BtfKind]) -> int | None:
        """
        ID of the first type called *name* that is of one of *kinds*.

        The types of the base are searched first.
        """
        found = self.base.find(name, kinds) if self.base else None
        return self.find_own(name, kinds) if found is None else found

    def find_own(self, name: str, kinds: frozenset[BtfKind]) -> int | None:
        """As :meth:`find()`, without the types of the base."""
        key = name, kinds
        if key not in self._found:
            self._found[key] = self._find_first(name, kinds)
        return self._found[key]

    def _find_first(self, name: str, kinds: frozenset[BtfKind]) -> int | None:
        for place in self.places(name):
            i = self._find_name(place, 0)
            while i >= 0:
                if self.kind(self.start_id + i) in kinds:
                    return self.start_id + i
                i = self._find_name(place, i + 1)
        return None

    def places(self, name: str) -> list[int]:
        """
        Offsets of a string.

        A table has each string once, but a module and its base may both have it.
        """
        found = self._places.get(name)
        if found is None:
            found = list(self.base.places(name)) if self.base else []
            needle = name.encode("utf-8", "replace") + b"\0"
            at = self._strings.find(b"\0" + needle)
            # No NUL precedes the first string of a module.
            if at >= 0 or self._strings.startswith(needle):
                found.append(self.string_start + at + 1)
            self._places[name] = found
        return found

    def section(self, name: str) -> dict[int, int]:
        """Offsets of the variables in a ``DATASEC``, by the ID of their ``VAR``."""
        type_id = self.find_own(name, frozenset({BtfKind.DATASEC}))
        if type_id is None:
            return {}
        return {variable: offset for variable, offset, _ in self._items(type_id)}

    def constants(self) -> dict[int, int]:
        """The ``ENUM`` or ``ENUM64`` of each own enumerator, by the offset of its name."""
        words, offsets = self._words, self._offsets
        found: dict[int, int] = {}
        # Backwards, so that the first enumerator of a name remains.
        for type_id in reversed(list(self._own({BtfKind.ENUM, BtfKind.ENUM64}))):
            at = offsets[type_id - self.start_id]
            _, each = _WORDS[self.kind(type_id)]
            stop = at + 3 + each * _vlen(words[at + 1])
            found.update(dict.fromkeys(words[at + 3 : stop : each], type_id))
        return found

    def _own(self, kinds: set[BtfKind]) -> Iterator[int]:
        words = self._words
        infos = {info for info in self._steps if _kind(info) in kinds}
        for type_id, at in enumerate(self._offsets, self.start_id):
            if words[at + 1] in infos:
                yield type_id
