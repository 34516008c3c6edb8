# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernel structures declared once, decoded fast.

A class derived from :class:`Struct` names a C type and, as class attributes, the members
that are of interest. For each program the members are looked up once; after that a structure
costs one read and one :func:`struct.unpack_from`, and a value is converted when it is asked
for::

    class Task(Struct):
        C_TYPE = "struct task_struct"
        pid = Int("pid", help="thread ID")
        comm = Bytes("comm", help="command name")


    for task in Task.layout(prog).read_many(addresses):
        print("unreadable" if isinstance(task, Lost) else task.pid)

A member that kernels name differently is declared with all its names, newest first; a comment
names the commit that renamed it. The types of a kernel tell whether it has a member; its version
is never asked.
"""

from __future__ import annotations

import functools
import operator
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import (
    Any,
    Callable,
    ClassVar,
    Generic,
    NamedTuple,
    Optional,
    TypeVar,
    overload,
)

from drgn import FaultError, Object, Program, Type, TypeKind, sizeof

from drgn_sockets.kernel.lost import CANNOT_BE_READ, Lost, unreadable
from drgn_sockets.kernel.memory import UNREADABLE, pointer_size, read_groups
from drgn_sockets.program import byte_order, once_per_program

T = TypeVar("T")
S = TypeVar("S", bound="Struct")

# No kernel maps a structure here. QEMU's cores can be read at address 0, though: without this
# limit, the structure at a null pointer would be read from the first physical memory.
_NULL_PAGE = 4096

_INT_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}
_NUMBERS = frozenset("bBhHiIqQ")
_NOT_ALIGNED = "it is not aligned"


@once_per_program
def has_type(prog: Program, name: str) -> bool:
    """Whether the program has a complete type of this name; the type may be a module's."""
    try:
        return bool(prog.type(name).is_complete())
    except LookupError:
        return False


class Place(NamedTuple):
    """Where a member lies in its structure and how its raw value is unpacked."""

    path: str
    offset: int
    size: int
    code: str
    # For a bit-field: how far to shift the containing integer, and the mask after that.
    shift: int = 0
    mask: int = 0
    signed_bits: int = 0
    pointer: bool = False


class Member(Generic[T]):
    """
    A member of a kernel structure, as a record field.

    :param paths: Member designators (``icsk_ack.ato``), newest kernel first.
    :param help: One line for people: what it says, and its unit.
    :param convert: Makes the value of the field from the raw value (``int`` or ``bytes``).
    :param optional: The field is ``None`` where the kernel lacks the member; else it is an error.
    """

    name: str = ""
    c_type: str = ""
    #: Whether the raw value is the bytes of the member, whatever its type.
    as_bytes: ClassVar[bool] = False

    def __init__(
        self,
        *paths: str,
        help: str = "",
        convert: Callable[[Any], T] | None = None,
        optional: bool = False,
    ) -> None:
        self.paths = paths
        self.help = help
        self.optional = optional
        self._convert = convert

    def __set_name__(self, owner: type[Struct], name: str) -> None:
        self.name = name
        self.c_type = owner.C_TYPE

    @overload
    def __get__(self, instance: None, owner: type) -> Member[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object, owner: type) -> Member[T] | T:
        if instance is None:
            return self
        # Layout replaces each member in the class it makes for a program.
        raise AttributeError(f"{self.name}: not decoded with a Layout")

    def converter(self, prog: Program) -> Callable[[Any], T] | None:
        """The function that converts a raw value of *prog*, or ``None``."""
        return self._convert

    def column_converter(self, prog: Program) -> Callable[[Iterable[Any]], Iterable[T]] | None:
        """The function that converts many raw values of *prog* at once, or ``None``."""
        convert = self.converter(prog)
        return None if convert is None else lambda values: map(convert, values)


class Int(Member[int]):
    """An integer, an enumerator, a pointer or a bit-field, without conversion."""


class OptInt(Member[Optional[int]]):
    """An integer; ``None`` on kernels that lack the member."""

    def __init__(self, *paths: str, help: str = "") -> None:
        super().__init__(*paths, help=help, optional=True)


class Bytes(Member[bytes]):
    """A member of any type as its bytes: an array of characters, an address."""

    as_bytes = True


class OptBytes(Member[Optional[bytes]]):
    """Bytes; ``None`` on kernels that lack the member."""

    as_bytes = True

    def __init__(self, *paths: str, help: str = "") -> None:
        super().__init__(*paths, help=help, optional=True)


def c_string(raw: bytes) -> bytes:
    r"""
    Cut an array of characters at its first NUL.

    >>> c_string(b"sshd\0\0\0\0")
    b'sshd'
    """
    return raw.split(b"\0", 1)[0]


class CString(Member[bytes]):
    """An array of characters, up to its first NUL."""

    as_bytes = True

    def __init__(self, *paths: str, help: str = "") -> None:
        super().__init__(*paths, help=help, convert=c_string)


class BigEndian(Member[int]):
    """A ``__be16``, in the host's order."""

    def converter(self, prog: Program) -> Callable[[int], int]:
        if byte_order(prog) == ">":
            return lambda value: value
        return _swap16

    def column_converter(self, prog: Program) -> Callable[[Iterable[int]], Iterable[int]]:
        def swap(values: Iterable[int]) -> Iterable[int]:
            swapped = array("H", values)
            if byte_order(prog) == "<":
                swapped.byteswap()
            return swapped

        return swap


def _swap16(value: int) -> int:
    return (value & 0xFF) << 8 | value >> 8


def find_place(prog: Program, type_: Type, path: str) -> Place | None:
    """Find *path* in *type_*, or ``None`` if the type does not have it."""
    bit_offset = 0
    bit_field_size: int | None = None
    for name in path.split("."):
        while type_.kind == TypeKind.TYPEDEF:
            type_ = type_.type
        index = None
        if name.endswith("]"):
            name, _, subscript = name[:-1].partition("[")
            index = int(subscript)
        try:
            member = type_.member(name)
        except (LookupError, TypeError, AttributeError):
            return None
        bit_offset += member.bit_offset
        bit_field_size = member.bit_field_size
        type_ = member.type
        if index is not None:
            while type_.kind == TypeKind.TYPEDEF:
                type_ = type_.type
            if type_.kind != TypeKind.ARRAY:
                return None
            type_ = type_.type
            bit_offset += index * sizeof(type_) * 8
    while type_.kind == TypeKind.TYPEDEF:
        type_ = type_.type
    if type_.kind == TypeKind.ENUM and type_.type is not None:
        type_ = type_.type

    if bit_field_size is not None:
        # The smallest aligned integer that holds all its bits.
        size = 1
        while bit_offset // (size * 8) != (bit_offset + bit_field_size - 1) // (size * 8):
            size *= 2
        offset = bit_offset // (size * 8) * size
        low = bit_offset - offset * 8
        shift = low if byte_order(prog) == "<" else size * 8 - low - bit_field_size
        signed = type_.kind == TypeKind.INT and type_.is_signed
        return Place(
            path,
            offset,
            size,
            _INT_CODES[size].upper(),
            shift,
            (1 << bit_field_size) - 1,
            bit_field_size if signed else 0,
        )

    offset = bit_offset // 8
    # The elements of a flexible array member are behind the structure.
    flexible = type_.kind == TypeKind.ARRAY and type_.length is None
    size = 0 if flexible else sizeof(type_)
    if type_.kind in (TypeKind.INT, TypeKind.BOOL):
        code = _INT_CODES[size]
        signed = type_.kind == TypeKind.INT and type_.is_signed
        return Place(path, offset, size, code if signed else code.upper())
    if type_.kind == TypeKind.POINTER:
        return Place(path, offset, size, _INT_CODES[size].upper(), pointer=True)
    return Place(path, offset, size, f"{size}s")


def _bits(place: Place) -> Callable[[int], int]:
    shift, mask = place.shift, place.mask
    if place.signed_bits:
        sign = 1 << place.signed_bits - 1
        return lambda value: ((value >> shift & mask) ^ sign) - sign
    return lambda value: value >> shift & mask


@functools.lru_cache(None)
def _bits_of_bytes(shift: int, mask: int) -> bytes:
    """Get the value of some bits of each byte from 0 to 255."""
    return bytes(byte >> shift & mask for byte in range(256))


def _column_bits(place: Place, column: Sequence[int]) -> Sequence[int]:
    if place.signed_bits:
        return list(map(_bits(place), column))
    shift, mask = place.shift, place.mask
    if place.size == 1:
        return bytes(column).translate(_bits_of_bytes(shift, mask))
    return [value >> shift & mask for value in column]


def _getter(
    index: int, bits: Callable[[int], int] | None, convert: Callable[[Any], Any] | None
) -> Callable[[Any], Any]:
    if bits is None and convert is None:
        return lambda self: self.values[index]
    if convert is None:
        assert bits is not None
        return lambda self: bits(self.values[index])
    if bits is None:
        return lambda self: convert(self.values[index])
    return lambda self: convert(bits(self.values[index]))


class Struct:
    """A structure that was read: its address, and its declared members as attributes."""

    __slots__ = ("address", "values")

    #: Tag of the C type whose members the class declares. A derived class may name a
    #: structure that begins with that of its base (``tcp_sock`` with ``sock``).
    C_TYPE: ClassVar[str]

    #: ``Place`` of every member found, by field name (set for each program).
    places: ClassVar[dict[str, Place]]

    def __init__(self, address: int, values: tuple[Any, ...]) -> None:
        self.address = address
        self.values = values

    @classmethod
    def members(cls) -> dict[str, Member[Any]]:
        """The declared members by field name, those of the base classes first."""
        found: dict[str, Member[Any]] = {}
        for klass in reversed(cls.__mro__):
            for name, value in vars(klass).items():
                if isinstance(value, Member):
                    found[name] = value
        return found

    @classmethod
    def layout(cls: type[S], prog: Program) -> Layout[S]:
        """
        The layout of this structure in *prog*, made at the first call.

        :raises LookupError: if *prog* has no such type, or lacks a member that is needed
        """
        return _layout(prog, cls)


@once_per_program
def _layout(prog: Program, cls: type[S]) -> Layout[S]:
    return Layout(prog, cls)


class Unpacking(NamedTuple):
    """How to unpack some members at once."""

    unpack: Callable[[bytes, int], tuple[Any, ...]]
    #: Index of each (offset, code) among the unpacked values.
    at: dict[tuple[int, str], int]
    #: Bytes that hold them all.
    size: int


def _alignment(prog: Program, places: Iterable[Place]) -> int:
    """
    The alignment of a structure, as far as its members tell: that of the widest number.

    drgn's ``alignof()`` has no answer for a structure that ends in a flexible array.
    """
    widest = 1
    for place in places:
        if place.code in _NUMBERS and place.offset % place.size == 0:
            widest = max(widest, place.size)
    return min(widest, pointer_size(prog))


def make_unpacking(order: str, places: Iterable[Place]) -> Unpacking:
    # Members of a union overlap. One struct.Struct unpacks only places that do not overlap; most
    # structures need just one.
    unpackers: list[struct.Struct] = []
    index: dict[tuple[int, str], int] = {}
    rest = sorted({(p.offset, p.code, p.size) for p in places})
    # Make one even without places: a kernel may lack all declared members.
    while rest or not unpackers:
        form, end, left = order, 0, []
        for offset, code, size in rest:
            if offset < end:
                left.append((offset, code, size))
                continue
            form += f"{offset - end}x{code}"
            end = offset + size
            index[offset, code] = len(index)
        unpackers.append(struct.Struct(form))
        rest = left
    size = max(unpacker.size for unpacker in unpackers)
    unpack, *more = (unpacker.unpack_from for unpacker in unpackers)
    if not more:
        return Unpacking(unpack, index, size)

    def unpack_all(data: bytes, offset: int) -> tuple[Any, ...]:
        values = unpack(data, offset)
        for another in more:
            values += another(data, offset)
        return values

    return Unpacking(unpack_all, index, size)


class StructBatch(Generic[S]):
    """
    Structures of one type that were read together, in the order of addresses.

    Their bytes are unpacked when a column or a structure is asked for. The layout remembers which
    columns were asked for; the next batch unpacks these together.
    """

    def __init__(
        self, layout: Layout[S], addresses: list[int], data: list[bytes], offsets: list[int]
    ) -> None:
        self.layout = layout
        self.addresses = addresses
        # Structure i begins at _offsets[i] in _data[i].
        self._data = data
        self._offsets = offsets
        #: Structures that could not be read.
        self.lost: list[Lost] = []
        self._columns: dict[str, Sequence[Any]] = {}

    def __len__(self) -> int:
        return len(self.addresses)

    def __iter__(self) -> Iterator[S]:
        unpack = self.layout.unpacking.unpack
        return map(self.layout.cls, self.addresses, map(unpack, self._data, self._offsets))

    def add(self, addresses: Sequence[int], data: bytes) -> None:
        """Add structures at *addresses*; *data* begins with the first one."""
        start = addresses[0]
        self.addresses += addresses
        self._data += [data] * len(addresses)
        self._offsets += [address - start for address in addresses]

    def column(self, name: str) -> Sequence[Any]:
        """The values of a declared member, ``None`` where the kernel lacks it."""
        column = self._columns.get(name)
        if column is None:
            if name not in self.layout.sources:
                return [None] * len(self)
            asked = self.layout.asked
            asked[name] = None
            self._unpack([other for other in asked if other not in self._columns])
            column = self._columns[name]
        return column

    def _unpack(self, names: Sequence[str]) -> None:
        unpacking = self.layout.unpacking_of(tuple(names))
        rows = map(unpacking.unpack, self._data, self._offsets)
        columns = list(zip(*rows)) if self.addresses else [()] * len(unpacking.at)
        for name in names:
            place = self.layout.sources[name][0]
            column: Sequence[Any] = columns[unpacking.at[place.offset, place.code]]
            if place.mask:
                column = _column_bits(place, column)
            convert = self.layout.column_converters[name]
            self._columns[name] = column if convert is None else list(convert(column))

    def select(self, indices: Sequence[int]) -> StructBatch[S]:
        """The structures with these indices."""
        return StructBatch(
            self.layout,
            [self.addresses[i] for i in indices],
            [self._data[i] for i in indices],
            [self._offsets[i] for i in indices],
        )


class Layout(Generic[S]):
    """How one program lays out a :class:`Struct`."""

    def __init__(self, prog: Program, cls: type[S]) -> None:
        self.prog = prog
        members = cls.members()
        places: dict[str, Place] = {}
        types: dict[str, Type] = {}
        for name, member in members.items():
            if member.c_type not in types:
                types[member.c_type] = prog.type(member.c_type)
            for path in member.paths:
                place = find_place(prog, types[member.c_type], path)
                if place is not None:
                    if member.as_bytes:
                        place = place._replace(code=f"{place.size}s", mask=0)
                    places[name] = place
                    break
            else:
                if not member.optional:
                    raise LookupError(
                        f"{member.c_type} of this kernel has no member {' or '.join(member.paths)}"
                    )

        #: How to unpack all members.
        self.unpacking = make_unpacking(byte_order(prog), places.values())
        #: Bytes from the start of the structure that hold all declared members.
        self.size = self.unpacking.size
        # Bits that no address of the structure has. An address with one is damaged.
        self._odd = _alignment(prog, places.values()) - 1
        #: The place and the conversion of each member, by the name of its field.
        self.sources: dict[str, tuple[Place, Callable[[Any], Any] | None]] = {}
        self.column_converters = {
            name: member.column_converter(prog) for name, member in members.items()
        }
        #: Names of the columns that batches were asked for.
        self.asked: dict[str, None] = {}
        self._unpackings: dict[tuple[str, ...], Unpacking] = {}
        at = self.unpacking.at
        body: dict[str, Any] = {"__slots__": (), "places": places}
        for name, member in members.items():
            if name not in places:
                body[name] = None
                continue
            place = places[name]
            convert = member.converter(prog)
            self.sources[name] = (place, convert)
            bits = _bits(place) if place.mask else None
            body[name] = property(_getter(at[place.offset, place.code], bits, convert))
        #: The class with this program's offsets in it.
        self.cls: type[S] = type(cls.__name__, (cls,), body)

    def decode(self, address: int, data: bytes, offset: int = 0) -> S:
        """Decode the structure at *address* from *data*, where it begins at *offset*."""
        return self.cls(address, self.unpacking.unpack(data, offset))

    def read(self, address: int) -> S:
        """
        Read the structure at *address*.

        :raises FaultError: if it is null or cannot be read
        """
        if 0 <= address < _NULL_PAGE:
            raise unreadable(self.cls.C_TYPE, address)
        if address & self._odd:
            raise FaultError(f"{self.cls.C_TYPE}{CANNOT_BE_READ}: {_NOT_ALIGNED}", address)
        try:
            return self.decode(address, self.prog.read(address, self.size))
        except UNREADABLE:
            raise unreadable(self.cls.C_TYPE, address) from None

    def follow(self, pointer: int) -> S | None:
        """
        Read the structure that *pointer* leads to, ``None`` if it is null.

        :raises FaultError: if it cannot be read
        """
        return self.read(pointer) if pointer else None

    def read_many(self, addresses: Iterable[int]) -> Iterator[S | Lost]:
        """
        Read the structures at *addresses* in the order of addresses, each once. Those that cannot
        be there, by their addresses, come first.

        :return: Iterator of the structures. A ``Lost`` stands for one that cannot be read.
        """
        addresses = set(addresses)
        yield from self._take_bad(addresses)
        cls, unpack = self.cls, self.unpacking.unpack
        for group, data in read_groups(self.prog, addresses, self.size):
            if data is None:
                yield Lost(self.cls.C_TYPE, group[0])
            else:
                start = group[0]
                for address in group:
                    yield cls(address, unpack(data, address - start))

    def _take_bad(self, addresses: set[int]) -> list[Lost]:
        """Take those out of *addresses* that are no addresses of the structure."""
        lost: list[Lost] = []
        if not addresses:
            return lost
        if min(addresses) < _NULL_PAGE:
            lost += [Lost(self.cls.C_TYPE, a) for a in sorted(addresses) if a < _NULL_PAGE]
        if functools.reduce(operator.or_, addresses) & self._odd:
            odd = sorted(a for a in addresses if a & self._odd and a >= _NULL_PAGE)
            lost += [Lost(self.cls.C_TYPE, a, _NOT_ALIGNED) for a in odd]
        addresses.difference_update([one.address for one in lost])
        return lost

    def read_batch(self, addresses: Iterable[int]) -> StructBatch[S]:
        """Read the structures at *addresses* together, each once."""
        wanted = set(addresses)
        batch = StructBatch(self, [], [], [])
        batch.lost += self._take_bad(wanted)
        for group, data in read_groups(self.prog, wanted, self.size):
            if data is None:
                batch.lost += [Lost(self.cls.C_TYPE, address) for address in group]
            else:
                batch.add(group, data)
        return batch

    def unpacking_of(self, names: tuple[str, ...]) -> Unpacking:
        """How to unpack just these members."""
        found = self._unpackings.get(names)
        if found is None:
            places = [self.sources[name][0] for name in names]
            found = self._unpackings[names] = make_unpacking(byte_order(self.prog), places)
        return found

    def fetcher(self, *names: str) -> Callable[[S], tuple[Any, ...]]:
        """
        Make a function that gets many members of a structure at once.

        It gets 172 members of a ``struct tcp_sock`` in 3 us, where attributes take 12 us: with
        80,000 connections that is 0.7 s.

        :param names: Names of the members. The function returns ``None`` for those that this kernel
            lacks.
        """
        converters: dict[str, Any] = {}
        terms = []
        for name in names:
            if name not in self.sources:
                terms.append("None")
                continue
            place, convert = self.sources[name]
            i = self.unpacking.at[place.offset, place.code]
            term = f"v[{i}]"
            if place.mask:
                term = f"({term} >> {place.shift} & {place.mask})"
            if place.signed_bits:
                sign = 1 << place.signed_bits - 1
                term = f"(({term} ^ {sign}) - {sign})"
            if convert is not None:
                term = f"c{len(converters)}({term})"
                converters[f"c{len(converters)}"] = convert
            terms.append(term)
        # The code is generated, as in namedtuple(): a loop over the names would take as long as
        # the attributes do.
        code = f"def fetch(s):\n    v = s.values\n    return ({', '.join(terms)},)\n"
        exec(code, converters)
        return converters["fetch"]  # type: ignore[no-any-return]

    def object(self, address: int) -> Object:
        """``struct … *`` for *address*."""
        return Object(self.prog, self.prog.pointer_type(self.prog.type(self.cls.C_TYPE)), address)
