# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Layouts of messages of sock_diag and of their attributes: values to bytes, and bytes to values.

The layout of a structure is that of the kernel's type. The types of modules may be missing (before
v5.11), so structures of linux/*_diag.h are declared beside the attributes as well.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Callable, Union

from drgn import Program, Type, TypeKind, sizeof

from drgn_sockets.kernel.structs import Place, find_place, make_unpacking
from drgn_sockets.program import byte_order

Value = Union[int, bytes]

_NLA_HDRLEN = 4
# include/uapi/linux/netlink.h
NLA_F_NESTED = 1 << 15
_NLA_TYPE_MASK = 0x3FFF

_SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_DECLARED = re.compile(r"(u8|u16|u32|u64|bytes)(?:\[(\d+)\])? (\w+)(?::(\d+))?")


def nla_put(order: str, number: int, payload: bytes) -> bytes:
    """An attribute of netlink with its header, padded to four bytes."""
    head = struct.pack(order + "HH", _NLA_HDRLEN + len(payload), number)
    return head + payload + bytes(-len(payload) % 4)


def nla_parse(order: str, data: bytes) -> Iterator[tuple[int, bytes]]:
    """
    Get the number and the payload of each attribute in *data*.

    :raises ValueError: if *data* is not a row of whole attributes
    """
    at = 0
    while at < len(data):
        if at + _NLA_HDRLEN > len(data):
            raise ValueError(f"byte {at}: the header of an attribute is cut off")
        length, kind = struct.unpack_from(order + "HH", data, at)
        if length < _NLA_HDRLEN or at + length > len(data):
            raise ValueError(f"byte {at}: an attribute cannot have {length} bytes")
        yield kind & _NLA_TYPE_MASK, data[at + _NLA_HDRLEN : at + length]
        at += length + 3 & ~3


class Form:
    """The layout of an attribute; of this class, an attribute that is bytes."""

    def values(self, data: bytes) -> dict[str, Value]:
        """
        Get the values in *data* by name. A single value has an empty name.

        :raises ValueError: if *data* does not have this layout
        """
        return {"": data}


class Number(Form):
    """An integer of *size* bytes."""

    def __init__(self, order: str, size: int) -> None:
        self.size = size
        self._struct = struct.Struct(order + _CODES[size])
        self._mask = (1 << 8 * size) - 1

    def pack(self, value: int) -> bytes:
        """Get the bytes of *value*, cut off to *size* bytes, as in C."""
        return self._struct.pack(value & self._mask)

    def values(self, data: bytes) -> dict[str, Value]:
        if len(data) != self.size:
            raise ValueError(f"{len(data)} bytes, not {self.size}")
        return {"": self._struct.unpack(data)[0]}


class Flag(Form):
    """An attribute without payload: its presence is the value."""

    def values(self, data: bytes) -> dict[str, Value]:
        if data:
            raise ValueError(f"{len(data)} bytes, not 0")
        return {}


class Structure(Form):
    """An attribute that is a structure."""

    def __init__(self, order: str, size: int, places: Sequence[Place]) -> None:
        self.size = size
        #: Names of its members.
        self.names = tuple(place.path for place in places)
        #: Offset, size and form of each member.
        self.places = tuple(places)
        self._order = order
        unpacking = make_unpacking(order, places)
        self._unpack = unpacking.unpack
        self._at = [unpacking.at[place.offset, place.code] for place in places]
        self._has_bits = any(place.mask for place in places)
        self._pack, self._zeros, self._units = _packing(order, size, places)

    def pack(self, values: Mapping[str, Value]) -> bytes:
        """Get its bytes. A member that is not in *values* is 0; too large values are cut off."""
        return self.pack_all([values.get(name, 0) for name in self.names])

    def pack_all(self, values: Iterable[Value]) -> bytes:
        """Get its bytes; *values* are those of :attr:`names`, in that order."""
        parts = self._zeros[:]
        for value, (unit, shift, mask) in zip(values, self._units):
            if mask:
                parts[unit] |= (value & mask) << shift  # type: ignore[operator]
            elif value:
                parts[unit] = value
        return self._pack(*parts)

    def unpack(self, data: bytes, offset: int = 0) -> list[Value]:
        """
        Get the values of :attr:`names`, in that order.

        :raises ValueError: if *data* has too few bytes
        """
        if len(data) < offset + self.size:
            raise ValueError(f"{len(data) - offset} bytes, not {self.size}")
        raw = self._unpack(data, offset)
        if not self._has_bits:
            return [raw[i] for i in self._at]
        return [
            raw[i] >> place.shift & place.mask if place.mask else raw[i]
            for i, place in zip(self._at, self.places)
        ]

    def values(self, data: bytes) -> dict[str, Value]:
        if len(data) != self.size:
            raise ValueError(f"{len(data)} bytes, not {self.size}")
        return dict(zip(self.names, self.unpack(data)))


class Array(Form):
    """An array whose length is that of the payload."""

    def __init__(self, element: Form, size: int) -> None:
        self._element = element
        self._size = size

    def values(self, data: bytes) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for i, at in enumerate(range(0, len(data), self._size)):
            for name, value in self._element.values(data[at : at + self._size]).items():
                found[f"[{i}].{name}".rstrip(".")] = value
        return found


class Nested(Form):
    """An attribute that contains attributes."""

    def __init__(self, order: str, forms: Mapping[int, tuple[str, Form]]) -> None:
        self._order = order
        self._forms = forms

    def values(self, data: bytes) -> dict[str, Value]:
        found: dict[str, Value] = {}
        seen: dict[int, int] = {}
        for number, payload in nla_parse(self._order, data):
            name, form = self._forms.get(number, (f"attribute {number}", Form()))
            # An attribute may come several times.
            seen[number] = seen.get(number, 0) + 1
            if seen[number] > 1:
                name += f"[{seen[number] - 1}]"
            inner = form.values(payload)
            if not inner:
                found[name] = b""
            for member, value in inner.items():
                found[f"{name}.{member}" if member else name] = value
        return found


_Packing = tuple[Callable[..., bytes], list[Value], list[tuple[int, int, int]]]


def _packing(order: str, size: int, places: Sequence[Place]) -> _Packing:
    """
    Make what packs values into a structure.

    :return: A function that packs the parts of the structure, which follow each other; the parts
        of a structure of zeros; and for each place its part, shift and mask (0 for bytes)
    """
    parts: dict[tuple[int, str], int] = {}
    zeros: list[Value] = []
    form, end = order, 0
    for offset, width, code in sorted({(p.offset, p.size, p.code) for p in places}):
        # Of the members of a union, only the first is packed.
        if offset >= end:
            parts[offset, code] = len(zeros)
            is_bytes = code.endswith("s")
            form += f"{offset - end}x{code if is_bytes else code.upper()}"
            zeros.append(b"" if is_bytes else 0)
            end = offset + width
    units = []
    for place in places:
        part = parts.get((place.offset, place.code), -1)
        is_bytes = place.code.endswith("s") or part < 0
        units.append(
            (part, place.shift, 0 if is_bytes else place.mask or (1 << 8 * place.size) - 1)
        )
    packer = struct.Struct(form + f"{size - end}x")
    # The last part takes the values of the other members of unions, and is dropped.
    return (lambda *given: packer.pack(*given[:-1])), [*zeros, 0], units


def declared(order: str, text: str) -> Structure:
    """
    Get the layout of a structure that is declared in *text*.

    :param text: A line for each member: ``u32 name``, ``u8 name:3`` or ``bytes[16] name``. They
        are laid out as a C compiler does it.
    """
    places: list[Place] = []
    at = bit = 0
    unit = 0  # Size of the unit that bit-fields are being put into.
    largest = 1
    for line in filter(None, map(str.strip, text.splitlines())):
        match = _DECLARED.fullmatch(line)
        assert match is not None, line
        kind, length, name, bits = match.groups()
        if kind == "bytes":
            size = int(length or 1)
            places.append(Place(name, at, size, f"{size}s"))
            at, unit = at + size, 0
            continue
        size = _SIZES[kind]
        largest = max(largest, size)
        if bits is None or unit != size or bit + int(bits) > 8 * size:
            at += -at % size
            places.append(Place(name, at, size, _CODES[size]))
            at, unit, bit = at + size, 0 if bits is None else size, 0
        else:
            places.append(Place(name, at - size, size, _CODES[size]))
        if bits is not None:
            shift = bit if order == "<" else 8 * size - bit - int(bits)
            places[-1] = places[-1]._replace(shift=shift, mask=(1 << int(bits)) - 1)
            bit += int(bits)
    return Structure(order, at + -at % largest, places)


def _paths(type_: Type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Designators of all members, those of structures in it as well; and whether it is bytes."""
    for member in type_.members or ():
        name = prefix + (member.name or "")
        kind = inner = member.type
        while inner.kind == TypeKind.TYPEDEF:
            inner = inner.type
        if inner.kind in (TypeKind.STRUCT, TypeKind.UNION):
            yield from _paths(inner, f"{name}." if member.name else prefix)
        elif member.name:
            yield name, kind.kind == TypeKind.TYPEDEF and kind.name.startswith("__be")


def of_type(prog: Program, c_type: str) -> Structure | None:
    """Get the layout of a type of the kernel, ``None`` if the kernel's types lack it."""
    try:
        type_ = prog.type(c_type)
    except LookupError:
        return None
    places = []
    for path, is_bytes in _paths(type_):
        place = find_place(prog, type_, path)
        if place is not None and place.size:
            if is_bytes:
                place = place._replace(code=f"{place.size}s")
            # The name of the innermost member, as in declared().
            places.append(place._replace(path=path.rpartition(".")[2]))
    return Structure(byte_order(prog), sizeof(type_), places)
