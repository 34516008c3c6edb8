# SPDX-License-Identifier: LGPL-2.1-or-later
"""drgn's types, constants and variables out of BTF and symbols."""

from __future__ import annotations

import re
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
)

from drgn_sockets.target.btf import Btf, BtfError, Kind

NAME = "drgn-sockets-btf"

#: Variables that drgn's helpers and ours use. BTF has types of few variables, so these are
#: declared here, as in the kernel's source; one that is missing is added with a line.
DECLARATIONS = """
struct task_struct init_task;
struct pid_namespace init_pid_ns;
struct net init_net;
struct list_head net_namespace_list;
struct inet_hashinfo tcp_hashinfo;
struct udp_table udp_table;
struct udp_table udplite_table;
struct raw_hashinfo raw_v4_hashinfo;
struct raw_hashinfo raw_v6_hashinfo;
struct hlist_head unix_socket_table[512];
unsigned long volatile jiffies;
unsigned long tick_nsec;
struct clocksource clocksource_jiffies;
struct list_head modules;
struct uts_namespace init_uts_ns;
struct user_namespace init_user_ns;
struct list_head super_blocks;
struct file_operations socket_file_ops;
struct file_operations ns_file_operations;
struct fs_struct init_fs;
struct files_struct init_files;
struct cred init_cred;
struct nsproxy init_nsproxy;
struct list_head slab_caches;
struct timespec64 wall_to_monotonic;
unsigned long page_offset_base;
unsigned long vmalloc_base;
unsigned long vmemmap_base;
unsigned long phys_base;
unsigned int nr_cpu_ids;
int nr_threads;
unsigned int sysctl_nr_open;
struct cpumask __cpu_online_mask;
struct cpumask __cpu_possible_mask;
struct cpumask __cpu_present_mask;
unsigned long __per_cpu_offset[8192];
"""

_DECLARATION = re.compile(r"(?P<type>.*?[ *])(?P<name>\w+)(?:\[(?P<length>\d+)\])?;")

_KINDS: dict[TypeKind, frozenset[Kind]] = {
    TypeKind.INT: frozenset({Kind.INT}),
    TypeKind.BOOL: frozenset({Kind.INT}),
    TypeKind.FLOAT: frozenset({Kind.FLOAT}),
    TypeKind.STRUCT: frozenset({Kind.STRUCT}),
    TypeKind.UNION: frozenset({Kind.UNION}),
    TypeKind.ENUM: frozenset({Kind.ENUM, Kind.ENUM64}),
    TypeKind.TYPEDEF: frozenset({Kind.TYPEDEF}),
}

_INT_SIGNED = 1
_INT_BOOL = 4

# The kernel's own bound is 32 (MAX_RESOLVE_DEPTH).
_MAX_DEPTH = 64


class BtfTypes:
    """Makes drgn's types of BTF, each once, when it is asked for."""

    def __init__(self, prog: Program, btf: Btf) -> None:
        self._prog = prog
        self._btf = btf
        self._types: dict[int, Type] = {}
        self._depth = 0
        self._declared = {
            match["name"]: (match["type"].strip(), match["length"])
            for match in map(_DECLARATION.fullmatch, DECLARATIONS.split("\n"))
            if match
        }
        self._enumerators: dict[str, int] | None = None

    def find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None
    ) -> Type | None:
        """Type finder, see :meth:`drgn.Program.register_type_finder()`."""
        if filename:
            # BTF does not say where a type was defined.
            return None
        for kind in kinds:
            wanted = _KINDS.get(kind)
            type_id = self._btf.find(name, wanted) if wanted else None
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
        if flags & FindObjectFlags.CONSTANT:
            enum = self._enums().get(name)
            if enum is not None:
                type_ = self.type(enum)
                for enumerator in type_.enumerators or ():
                    if enumerator.name == name:
                        return Object(prog, type_, enumerator.value)
        if flags & FindObjectFlags.VARIABLE:
            type_found = self._variable_type(name)
            if type_found is not None:
                return self._at_symbol(name, type_found)
        if flags & FindObjectFlags.FUNCTION:
            function = self._btf.find(name, frozenset({Kind.FUNC}))
            if function is not None:
                return self._at_symbol(name, self.type(self._btf.size_or_type(function)))
        return None

    def _at_symbol(self, name: str, type_: Type) -> Object | None:
        try:
            return Object(self._prog, type_, address=self._prog.symbol(name).address)
        except LookupError:
            return None

    def _variable_type(self, name: str) -> Type | None:
        variable = self._btf.find(name, frozenset({Kind.VAR}))
        if variable is not None:
            return self.type(self._btf.size_or_type(variable))
        if name not in self._declared:
            return None
        declared, length = self._declared[name]
        try:
            type_ = self._prog.type(declared)
        except LookupError:
            return None
        return type_ if length is None else self._prog.array_type(type_, int(length))

    def _enums(self) -> dict[str, int]:
        if self._enumerators is None:
            self._enumerators = {}
            btf: Btf | None = self._btf
            while btf is not None:
                for type_id in btf.enums():
                    for name, _ in btf.enumerators(type_id):
                        self._enumerators.setdefault(name, type_id)
                btf = btf.base
        return self._enumerators

    def type(self, type_id: int) -> Type:
        """
        The type with a BTF ID.

        :raises BtfError: if it is not there, or leads around in a circle
        """
        found = self._types.get(type_id)
        if found is not None:
            return found
        if self._depth >= _MAX_DEPTH:
            raise BtfError(f"BTF type {type_id} leads too deep, or around in a circle")
        self._depth += 1
        try:
            found = self._types[type_id] = self._make(type_id)
        except BtfError:
            raise
        except (ValueError, TypeError, OverflowError) as e:
            # drgn's word on a size or a name that cannot be.
            raise BtfError(f"BTF type {type_id}: {e}") from None
        finally:
            self._depth -= 1
        return found

    def _make(self, type_id: int) -> Type:
        prog, btf = self._prog, self._btf
        kind = btf.kind(type_id)
        if kind == Kind.VOID:
            return prog.void_type()
        if kind == Kind.INT:
            return self._make_int(type_id)
        if kind == Kind.FLOAT:
            return prog.float_type(btf.name(type_id) or "", btf.size_or_type(type_id))
        if kind == Kind.PTR:
            return prog.pointer_type(self.type(btf.size_or_type(type_id)))
        if kind == Kind.ARRAY:
            element, length = btf.array(type_id)
            # BTF does not tell a flexible array from one of no elements.
            return prog.array_type(self._with_size(element), length if length else None)
        if kind in (Kind.STRUCT, Kind.UNION):
            make = prog.struct_type if kind == Kind.STRUCT else prog.union_type
            return make(btf.name(type_id), btf.size_or_type(type_id), self._members(type_id))
        if kind == Kind.FWD:
            return self._make_forward(type_id)
        if kind in (Kind.ENUM, Kind.ENUM64):
            return self._make_enum(type_id)
        if kind == Kind.TYPEDEF:
            return prog.typedef_type(btf.name(type_id) or "", self.type(btf.size_or_type(type_id)))
        if kind in _QUALIFIERS:
            inner = self.type(btf.size_or_type(type_id))
            return inner.qualified(inner.qualifiers | _QUALIFIERS[kind])
        if kind == Kind.TYPE_TAG:
            return self.type(btf.size_or_type(type_id))
        if kind == Kind.FUNC_PROTO:
            return self._make_function(type_id)
        raise BtfError(f"BTF type {type_id} is a {kind.name}, which is no type")

    def _make_int(self, type_id: int) -> Type:
        prog, btf = self._prog, self._btf
        flags, _, _ = btf.int_encoding(type_id)
        name, size = btf.name(type_id) or "", btf.size_or_type(type_id)
        if flags & _INT_BOOL:
            return prog.bool_type(name, size)
        return prog.int_type(name, size, bool(flags & _INT_SIGNED))

    def _make_enum(self, type_id: int) -> Type:
        prog, btf = self._prog, self._btf
        size = btf.size_or_type(type_id)
        if size not in (1, 2, 4, 8):
            raise BtfError(f"BTF enum {type_id} has the size {size}")
        signed = btf.kind_flag(type_id)
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
            btf.find(name, frozenset({Kind.UNION if is_union else Kind.STRUCT})) if name else None
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
                parameters.append(TypeParameter(self._lazily(parameter), name))
        return self._prog.function_type(
            self.type(btf.size_or_type(type_id)), parameters, is_variadic=variadic
        )

    def _with_size(self, type_id: int) -> Type:
        """A type that an element or a member can be of: not ``void``, and no function."""
        found = inner = self.type(type_id)
        while inner.kind == TypeKind.TYPEDEF:
            inner = inner.type
        if inner.kind in (TypeKind.VOID, TypeKind.FUNCTION):
            raise BtfError(f"BTF type {type_id} has no size, but is that of an element or member")
        return found

    def _lazily(self, type_id: int) -> Callable[[], Type]:
        return lambda: self._with_size(type_id)

    def _members(self, type_id: int) -> list[TypeMember]:
        size = self._btf.size_or_type(type_id) * 8
        return list(self._make_members(type_id, size))

    def _make_members(self, type_id: int, size: int) -> Iterator[TypeMember]:
        for member in self._btf.members(type_id):
            if member.bit_offset > size:
                raise BtfError(f"a member of BTF type {type_id} lies outside it")
            if member.bit_size or self._is_narrow(member.type_id):
                yield TypeMember(
                    self._bit_field(member.type_id, member.bit_size),
                    member.name,
                    member.bit_offset,
                )
            else:
                yield TypeMember(self._lazily(member.type_id), member.name, member.bit_offset)

    def _is_narrow(self, type_id: int) -> bool:
        # Before the flag of structures, a bit-field had an integer type of its width.
        btf = self._btf
        if btf.kind(type_id) != Kind.INT:
            return False
        _, _, bits = btf.int_encoding(type_id)
        return bits != btf.size_or_type(type_id) * 8

    def _bit_field(self, type_id: int, bits: int) -> Callable[[], Object]:
        def make() -> Object:
            width = bits or self._btf.int_encoding(type_id)[2]
            try:
                return Object(self._prog, self.type(type_id), bit_field_size=width)
            except (ValueError, TypeError, OverflowError) as e:
                raise BtfError(f"a bit-field of {width} bits of BTF type {type_id}: {e}") from None

        return make


_QUALIFIERS = {
    Kind.CONST: Qualifiers.CONST,
    Kind.VOLATILE: Qualifiers.VOLATILE,
    Kind.RESTRICT: Qualifiers.RESTRICT,
}
