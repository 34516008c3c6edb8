# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A kernel that is made up: types, memory and symbols of a :class:`drgn.Program`.

Types are laid out as a C compiler does, values are put into memory by drgn itself, and what
was not mapped cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, Union

import drgn
from drgn import (
    Architecture,
    FindObjectFlags,
    Object,
    Platform,
    PlatformFlags,
    Program,
    Symbol,
    SymbolBinding,
    SymbolKind,
    Type,
    TypeKind,
    TypeKindSet,
    TypeMember,
    sizeof,
)

from drgn_sockets.kernel.structs import Struct

S = TypeVar("S", bound=Struct)

PAGE = 4096

#: (name, type), (name, type, bits of a bit-field); no name for an anonymous struct or union.
Member = Union[tuple[Union[str, None], Type], tuple[str, Type, int]]

LITTLE = Platform(Architecture.X86_64)
BIG = Platform(Architecture.S390X)
LITTLE_32 = Platform(Architecture.I386)
BIG_32 = Platform(Architecture.UNKNOWN, PlatformFlags(0))


class FakeKernel:
    """A program with types, memory and symbols that a test makes up."""

    def __init__(self, platform: Platform = LITTLE) -> None:
        self.prog = Program(platform)
        self.word = 8 if platform.flags & PlatformFlags.IS_64_BIT else 4
        self._types: dict[tuple[TypeKind, str], Type] = {}
        self._objects: dict[str, Object] = {}
        self._symbols: list[Symbol] = []
        self._memory: list[tuple[int, bytearray]] = []
        #: (address, size) of every read of memory.
        self.reads: list[tuple[int, int]] = []
        self._free = 0xFFFF888000010000 if self.word == 8 else 0xC0010000
        self.prog.register_type_finder("fake", self._find_type, enable_index=0)
        self.prog.register_object_finder("fake", self._find_object, enable_index=0)
        self.prog.register_symbol_finder("fake", self._find_symbol, enable_index=0)
        self.u8 = self._int("unsigned char", 1, False)
        self.u16 = self._int("unsigned short", 2, False)
        self.u32 = self._int("unsigned int", 4, False)
        self.u64 = self._int("unsigned long long", 8, False)
        self.s8 = self._int("signed char", 1, True)
        self.s16 = self._int("short", 2, True)
        self.s32 = self._int("int", 4, True)
        self.s64 = self._int("long long", 8, True)
        self.ulong = self._int("unsigned long", self.word, False)
        self.char = self._int("char", 1, True)
        self.bool = self.prog.bool_type("_Bool", 1)
        self.ptr = self.prog.pointer_type(self.prog.void_type())

    def _int(self, name: str, size: int, signed: bool) -> Type:
        type_ = self._types[TypeKind.INT, name] = self.prog.int_type(name, size, signed)
        return type_

    def _find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None
    ) -> Type | None:
        for kind in kinds:
            if (kind, name) in self._types:
                return self._types[kind, name]
        return None

    def _find_object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None
    ) -> Object | None:
        return self._objects.get(name)

    def _find_symbol(
        self, prog: Program, name: str | None, address: int | None, one: bool
    ) -> list[Symbol]:
        found = [
            symbol
            for symbol in self._symbols
            if (name is None or symbol.name == name)
            and (address is None or symbol.address <= address < symbol.address + symbol.size)
        ]
        return found[:1] if one else found

    # Types.

    def pointer(self, type_: Type) -> Type:
        """``type_ *``."""
        return self.prog.pointer_type(type_)

    def array(self, type_: Type, length: int) -> Type:
        """``type_ [length]``."""
        return self.prog.array_type(type_, length)

    def typedef(self, name: str, type_: Type) -> Type:
        """``typedef type_ name``."""
        made = self._types[TypeKind.TYPEDEF, name] = self.prog.typedef_type(name, type_)
        return made

    def enum(self, tag: str, compatible: Type, **values: int) -> Type:
        """``enum tag``."""
        enumerators = [drgn.TypeEnumerator(name, value) for name, value in values.items()]
        made = self._types[TypeKind.ENUM, tag] = self.prog.enum_type(tag, compatible, enumerators)
        return made

    def struct(
        self, tag: str | None, *members: Member, size: int = 0, packed: bool = False
    ) -> Type:
        """``struct tag``, laid out as C does."""
        bit = align = 0
        placed = []
        for name, type_, *bits in members:
            unit = sizeof(type_) * 8
            natural = 8 if packed else _alignment(type_) * 8
            align = max(align, natural // 8)
            if bits:
                width = bits[0]
                assert isinstance(width, int)
                # A bit-field does not cross a unit of its type, unless it is packed.
                if not packed and bit // unit != (bit + width - 1) // unit:
                    bit = -(-bit // unit) * unit
                field = Object(self.prog, type_, value=0, bit_field_size=width)
                placed.append(TypeMember(field, name, bit))
                bit += width
            else:
                bit = -(-bit // natural) * natural
                placed.append(TypeMember(type_, name, bit))
                bit += unit
        align = align or 1
        size = size or -(-bit // (8 * align)) * align
        made = self.prog.struct_type(tag, size, placed)
        if tag is not None:
            self._types[TypeKind.STRUCT, tag] = made
        return made

    def union(self, tag: str | None, *members: Member) -> Type:
        """``union tag``."""
        placed = [TypeMember(type_, name) for name, type_, *_ in members]
        align = max(_alignment(type_) for _, type_, *_ in members)
        size = -(-max(sizeof(type_) for _, type_, *_ in members) // align) * align
        made = self.prog.union_type(tag, size, placed)
        if tag is not None:
            self._types[TypeKind.UNION, tag] = made
        return made

    # Memory.

    def map(self, address: int, data: bytes | int) -> int:
        """Map memory: zeros, or *data*. What is around it cannot be read."""
        memory = bytearray(data)

        def read(address: int, count: int, offset: int, physical: bool) -> bytes:
            self.reads.append((address, count))
            return bytes(memory[offset : offset + count])

        self.prog.add_memory_segment(address, len(memory), read)
        self._memory.append((address, memory))
        return address

    def write(self, address: int, data: bytes) -> None:
        """Change memory that is mapped."""
        for start, memory in self._memory:
            if start <= address and address + len(data) <= start + len(memory):
                memory[address - start : address - start + len(data)] = data
                return
        raise AssertionError(f"{address:#x} is not mapped")

    def alloc(self, data: bytes | int) -> int:
        """Map memory somewhere, with a hole behind it."""
        size = data if isinstance(data, int) else len(data)
        address = self._free
        self._free += -(-size // PAGE) * PAGE + PAGE
        return self.map(address, data)

    def bytes_of(self, type_: Type, value: Any) -> bytes:
        """*value* (a dict for a structure) as *type_* in memory, made by drgn."""
        data: bytes = Object(self.prog, type_, value=value).to_bytes_()
        return data

    def put(self, address: int, type_: Type, value: Any) -> int:
        """Write *value* to memory that is mapped."""
        self.write(address, self.bytes_of(type_, value))
        return address

    def new(self, type_: Type, value: Any) -> int:
        """Map memory somewhere and write *value* there."""
        return self.alloc(self.bytes_of(type_, value))

    def words(self, values: Sequence[int]) -> bytes:
        """An array of pointers."""
        return self.bytes_of(self.array(self.ulong, len(values)), list(values))

    # Names.

    def variable(self, name: str, type_: Type, value: Any) -> int:
        """A global variable."""
        address = self.new(type_, value)
        self._objects[name] = Object(self.prog, type_, address=address)
        return address

    def symbol(self, name: str, address: int, size: int = 1) -> int:
        """A function, or the symbol of a variable."""
        self._symbols.append(Symbol(name, address, size, SymbolBinding.GLOBAL, SymbolKind.FUNC))
        return address


def decoded(cls: type[S], address: int = 0xFFFF888012345600, **members: Any) -> S:
    """A structure with these members, as if it had been read; others are an error."""
    made = cls(address, ())
    vars(made).update(members)
    return made


def _alignment(type_: Type) -> int:
    while type_.kind == TypeKind.TYPEDEF or type_.kind == TypeKind.ARRAY:
        type_ = type_.type
    if type_.kind in (TypeKind.STRUCT, TypeKind.UNION):
        return max((_alignment(member.type) for member in type_.members), default=1)
    size: int = sizeof(type_)
    return size
