# SPDX-License-Identifier: LGPL-2.1-or-later
"""Making drgn's types, constants and variables from BTF and symbols."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from drgn import (
    FindObjectFlags,
    Object,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    TypeParameter,
    sizeof,
)

from drgn_sockets.target.btf import Btf, BtfError, BtfKind

NAME = "drgn-sockets-btf"

_KINDS: dict[TypeKind, frozenset[BtfKind]] = {
    TypeKind.INT: frozenset({BtfKind.INT}),
    TypeKind.BOOL: frozenset({BtfKind.INT}),
    TypeKind.FLOAT: frozenset({BtfKind.FLOAT}),
    TypeKind.STRUCT: frozenset({BtfKind.STRUCT}),
    TypeKind.UNION: frozenset({BtfKind.UNION}),
    TypeKind.ENUM: frozenset({BtfKind.ENUM, BtfKind.ENUM64}),
    TypeKind.TYPEDEF: frozenset({BtfKind.TYPEDEF}),
}

_INT_SIGNED = 1
_INT_BOOL = 4

# The kernel's own bound is 32 (MAX_RESOLVE_DEPTH).
_MAX_DEPTH = 64
# Of an array, in bytes. No kernel has a larger one, and drgn counts sizes in bits.
_MAX_SIZE = 1 << 40
_PER_CPU = ".data..percpu"


class BtfTypes:
    """
    Makes drgn's types from BTF, each once, when it is asked for.

    :param base: For a module's BTF, the types of its kernel
    """

    def __init__(self, prog: Program, btf: Btf, base: BtfTypes | None = None) -> None:
        self._prog = prog
        self._btf = btf
        self._base = base
        self._types: dict[int, Type] = {}
        self._depth = 0
        self._narrowed: dict[int, tuple[int, int]] = {}
        self._heights: tuple[dict[int, int], dict[int, int]] = {}, {}
        self._constants: dict[int, int] | None = None
        self._per_cpu: dict[int, int] | None = None

    def find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None
    ) -> Type | None:
        """Type finder, see :meth:`drgn.Program.register_type_finder()`."""
        if filename:
            # BTF does not say where a type was defined.
            return None
        for kind in kinds:
            wanted = _KINDS.get(kind)
            type_id = self._btf.find_own(name, wanted) if wanted else None
            if type_id is None:
                continue
            found = self.type(type_id)
            if found.kind == kind:
                return found
        return None

    def find_object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None
    ) -> Object | None:
        """Object finder, see :meth:`drgn.Program.register_object_finder()`."""
        if filename:
            return None
        if flags & FindObjectFlags.VARIABLE:
            variable = self._find_variable(name)
            if variable is not None:
                return variable
        if flags & FindObjectFlags.CONSTANT:
            constant = self._find_constant(name)
            if constant is not None:
                return constant
        if flags & FindObjectFlags.FUNCTION:
            function = self._btf.find_own(name, frozenset({BtfKind.FUNC}))
            if function is not None:
                return at_symbol(self._prog, name, self.type(self._btf.size_or_type(function)))
        return None

    def _find_variable(self, name: str) -> Object | None:
        btf, prog = self._btf, self._prog
        variable = btf.find_own(name, frozenset({BtfKind.VAR}))
        if variable is None:
            return None
        type_ = self.type(btf.size_or_type(variable))
        if self._base is None:
            if self._per_cpu is None:
                self._per_cpu = btf.section(_PER_CPU)
            offset = self._per_cpu.get(variable)
            if offset is not None:
                try:
                    start = prog.symbol("__per_cpu_start").address
                except LookupError:
                    return None
                return Object(prog, type_, address=start + offset)
        return at_symbol(prog, name, type_)

    def _find_constant(self, name: str) -> Object | None:
        if self._constants is None:
            self._constants = self._btf.constants()
        for place in self._btf.places(name):
            if place in self._constants:
                type_ = self.type(self._constants[place])
                for enumerator in type_.enumerators or ():
                    if enumerator.name == name:
                        return Object(self._prog, type_, enumerator.value)
        return None

    def type(self, type_id: int) -> Type:
        """
        The type with a BTF ID.

        :raises BtfError: if there is no such type, or it refers to itself in a circle
        """
        if self._base is not None and type_id < self._btf.start_id:
            return self._base.type(type_id)
        found = self._types.get(type_id)
        if found is not None:
            return found
        if self._depth >= _MAX_DEPTH:
            raise BtfError(f"its type {type_id} leads too deep, or around in a circle")
        self._depth += 1
        try:
            found = self._types[type_id] = self._make(type_id)
        except BtfError:
            raise
        except (ValueError, TypeError, OverflowError) as e:
            # drgn raises these for an impossible size or name.
            raise BtfError(f"its type {type_id}: {e}") from None
        finally:
            self._depth -= 1
        return found

    def _make(self, type_id: int) -> Type:
        prog, btf = self._prog, self._btf
        kind = btf.kind(type_id)
        if kind == BtfKind.VOID:
            return prog.void_type()
        if kind == BtfKind.INT:
            return self._make_int(type_id)
        if kind == BtfKind.FLOAT:
            return prog.float_type(btf.name(type_id) or "", self._size_of_number(type_id))
        if kind == BtfKind.PTR:
            return prog.pointer_type(self.type(btf.size_or_type(type_id)))
        if kind == BtfKind.ARRAY:
            element, length = btf.array(type_id)
            return self._make_array(self._with_size(element), length)
        if kind in (BtfKind.STRUCT, BtfKind.UNION):
            make = prog.struct_type if kind == BtfKind.STRUCT else prog.union_type
            return make(btf.name(type_id), btf.size_or_type(type_id), self._members(type_id))
        if kind == BtfKind.FWD:
            return self._make_forward(type_id)
        if kind in (BtfKind.ENUM, BtfKind.ENUM64):
            return self._make_enum(type_id)
        if kind == BtfKind.TYPEDEF:
            return prog.typedef_type(btf.name(type_id) or "", self.type(btf.size_or_type(type_id)))
        if kind in _QUALIFIERS:
            inner = self.type(btf.size_or_type(type_id))
            return inner.qualified(inner.qualifiers | _QUALIFIERS[kind])
        if kind == BtfKind.TYPE_TAG:
            return self.type(btf.size_or_type(type_id))
        if kind == BtfKind.FUNC_PROTO:
            return self._make_function(type_id)
        raise BtfError(f"its type {type_id} is a {kind.name}, which is no type")

    def _check_nesting(self, type_id: int) -> None:
        # drgn follows members by value, and anonymous types to print them, however deep they nest.
        # So both have to be known to end before drgn gets the first of these types.
        self._height(type_id, True, 0)
        self._height(type_id, False, 0)

    def _height(self, type_id: int, by_value: bool, depth: int) -> int:
        """How deep types nest in a type: by value, or else where drgn writes out its name."""
        btf = self._btf
        if self._base is not None and type_id < btf.start_id:
            return self._base._height(type_id, by_value, depth)
        known = self._heights[by_value].get(type_id, 0)
        if depth + known >= _MAX_DEPTH:
            raise BtfError(f"its type {type_id} nests too deep, or around in a circle")
        if not known:
            kind = btf.kind(type_id)
            if kind in _TRANSPARENT or kind == (BtfKind.TYPEDEF if by_value else BtfKind.PTR):
                inner = [btf.size_or_type(type_id)]
            elif kind in (BtfKind.STRUCT, BtfKind.UNION):
                inner = btf.inner(type_id) if by_value or btf.name(type_id) is None else []
            elif kind == BtfKind.ARRAY or not by_value:
                inner = btf.inner(type_id)
            else:
                inner = []
            known = 1 + max((self._height(i, by_value, depth + 1) for i in set(inner)), default=0)
            self._heights[by_value][type_id] = known
        return known

    def _make_array(self, element: Type, length: int) -> Type:
        # BTF does not tell a flexible array member from an array of length 0; it is taken for the
        # former.
        try:
            size = sizeof(element) * length
        except TypeError as e:
            raise BtfError(f"it has an array of what has no size: {e}") from None
        if size > _MAX_SIZE:
            raise BtfError(f"it has an array of {size} bytes")
        return self._prog.array_type(element, length if length else None)

    def _make_int(self, type_id: int) -> Type:
        prog, btf = self._prog, self._btf
        flags, _, _ = btf.int_encoding(type_id)
        name, size = btf.name(type_id) or "", self._size_of_number(type_id)
        if flags & _INT_BOOL:
            return prog.bool_type(name, size)
        return prog.int_type(name, size, bool(flags & _INT_SIGNED))

    def _size_of_number(self, type_id: int) -> int:
        # drgn makes types of other sizes too, and raises an error only when they are used.
        size = self._btf.size_or_type(type_id)
        if size not in (1, 2, 4, 8, 12, 16):
            raise BtfError(f"its type {type_id} has a size of {size} bytes")
        return size

    def _make_enum(self, type_id: int) -> Type:
        prog, btf = self._prog, self._btf
        size = btf.size_or_type(type_id)
        if size not in (1, 2, 4, 8):
            raise BtfError(f"its enum {type_id} has the size {size}")
        signed = btf.is_signed(type_id)
        enumerators = [TypeEnumerator(name, value) for name, value in btf.enumerators(type_id)]
        if not enumerators:
            return prog.enum_type(btf.name(type_id))
        names = {1: "char", 2: "short", 4: "int", 8: "long"}
        compatible = prog.int_type(
            names[size] if signed else f"unsigned {names[size]}", size, signed
        )
        return prog.enum_type(btf.name(type_id), compatible, enumerators)

    def _make_forward(self, type_id: int) -> Type:
        btf = self._btf
        name, is_union = btf.name(type_id), btf.kind_flag(type_id)
        whole = (
            btf.find(name, frozenset({BtfKind.UNION if is_union else BtfKind.STRUCT}))
            if name
            else None
        )
        if whole is not None:
            return self.type(whole)
        return self._prog.union_type(name) if is_union else self._prog.struct_type(name)

    def _make_function(self, type_id: int) -> Type:
        btf = self._btf
        parameters, variadic = [], False
        for name, parameter in btf.parameters(type_id):
            if not parameter and name is None:
                variadic = True
            else:
                parameters.append(TypeParameter(self._parameter(parameter), name))
        result = btf.size_or_type(type_id)
        self._check_nesting(result)
        return self._prog.function_type(self.type(result), parameters, is_variadic=variadic)

    def _parameter(self, type_id: int) -> Callable[[], Type]:
        def make() -> Type:
            self._check_nesting(type_id)
            return self.type(type_id)

        return make

    def _with_size(self, type_id: int) -> Type:
        """A type that an element or a member can have: not ``void``, and no function."""
        self._check_nesting(type_id)
        found = inner = self.type(type_id)
        while inner.kind == TypeKind.TYPEDEF:
            inner = inner.type
        if inner.kind in (TypeKind.VOID, TypeKind.FUNCTION) or (
            inner.kind in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.ENUM)
            and not inner.is_complete()
        ):
            raise BtfError(f"its type {type_id} has no size, but is that of an element or member")
        return found

    def _lazily(self, type_id: int) -> Callable[[], Type]:
        return lambda: self._with_size(type_id)

    def _members(self, type_id: int) -> list[TypeMember]:
        size = self._btf.size_or_type(type_id) * 8
        return list(self._make_members(type_id, size))

    def _make_members(self, type_id: int, size: int) -> Iterator[TypeMember]:
        narrow = not self._btf.kind_flag(type_id)
        for member in self._btf.members(type_id):
            offset, bits = member.bit_offset, member.bit_size
            if narrow and not bits:
                known = self._narrowed.get(member.type_id)
                if known is None:
                    known = self._narrowed[member.type_id] = self._narrow(member.type_id)
                shift, bits = known
                offset += shift
            if offset > size:
                raise BtfError(f"a member of its type {type_id} lies outside it")
            make = self._bit_field(member.type_id, bits) if bits else self._lazily(member.type_id)
            yield TypeMember(make, member.name, offset)

    def _narrow(self, type_id: int) -> tuple[int, int]:
        """(Bit offset, width) of a bit-field, by its integer type; (0, 0) if it is none."""
        # The integer type tells them before Linux kernel commit 9d5f9f701b18 ("bpf: btf: fix
        # struct/union/fwd types with kind_flag") (in v5.0), and wherever a compiler or pahole does
        # not set the flag.
        btf = self._btf
        for _ in range(_MAX_DEPTH):
            kind = btf.kind(type_id)
            if kind == BtfKind.INT:
                _, shift, bits = btf.int_encoding(type_id)
                whole = not shift and bits == btf.size_or_type(type_id) * 8
                return (0, 0) if whole else (shift, bits)
            if kind != BtfKind.TYPEDEF and kind not in _TRANSPARENT:
                return 0, 0
            type_id = btf.size_or_type(type_id)
        return 0, 0

    def _bit_field(self, type_id: int, bits: int) -> Callable[[], Object]:
        def make() -> Object:
            try:
                return Object(self._prog, self.type(type_id), bit_field_size=bits)
            except (ValueError, TypeError, OverflowError) as e:
                raise BtfError(f"its bit-field of {bits} bits of type {type_id}: {e}") from None

        return make


_QUALIFIERS = {
    BtfKind.CONST: Qualifiers.CONST,
    BtfKind.VOLATILE: Qualifiers.VOLATILE,
    BtfKind.RESTRICT: Qualifiers.RESTRICT,
}
_TRANSPARENT = {*_QUALIFIERS, BtfKind.TYPE_TAG}


def at_symbol(prog: Program, name: str, type_: Type) -> Object | None:
    """An object at the address of a symbol, ``None`` if there is no such symbol."""
    try:
        return Object(prog, type_, address=prog.symbol(name).address)
    except LookupError:
        return None
