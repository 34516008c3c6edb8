# SPDX-License-Identifier: LGPL-2.1-or-later
"""Declarations of variables, as C has them."""

from __future__ import annotations

import struct

import pytest
from drgn import (
    Architecture,
    FindObjectFlags,
    Object,
    Platform,
    Program,
    Symbol,
    SymbolBinding,
    SymbolIndex,
    SymbolKind,
    Type,
    TypeKindSet,
    sizeof,
)

from drgn_sockets.target.declarations import DECLARATIONS, Declarations, parse


def test_what_c_has() -> None:
    text = """
    # A comment is none.
    struct net init_net;
    struct mem_section **mem_section;
    unsigned long volatile jiffies
    const char *const names[9];
    long table[2][COUNT];
    struct list_head lists[];
    """
    assert [(d.name, d.type) for d in parse(text.replace("    ", ""))] == [
        ("init_net", "struct net"),
        ("mem_section", "struct mem_section **"),
        ("jiffies", "unsigned long volatile"),
        ("names", "const char *const [9]"),
        ("table", "long [2][COUNT]"),
        ("lists", "struct list_head []"),
    ]


@pytest.mark.parametrize("text", ["init_net", "int f(void);", "int a = 1;", "int;", "struct {} x;"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a declaration of a variable"):
        list(parse(text))


def program() -> Program:
    prog = Program(Platform(Architecture.X86_64))

    def find_type(
        prog: Program, kinds: TypeKindSet, name: str, filename: str | None
    ) -> Type | None:
        return prog.struct_type("there", 8, ()) if name == "there" else None

    def find_object(
        prog: Program, name: str, flags: FindObjectFlags, filename: str | None
    ) -> Object | None:
        return Object(prog, prog.int_type("int", 4, True), 6) if name == "COUNT" else None

    symbols = [
        *(Symbol(name, 0x1000, 8, SymbolBinding.GLOBAL, SymbolKind.OBJECT) for name in "abcde"),
        Symbol("__start_rodata", 0x2000, 0, SymbolBinding.GLOBAL, SymbolKind.UNKNOWN),
        Symbol("constant", 0x2100, 8, SymbolBinding.GLOBAL, SymbolKind.OBJECT),
        Symbol("__end_rodata", 0x3000, 0, SymbolBinding.GLOBAL, SymbolKind.UNKNOWN),
        Symbol("twice", 0x3100, 32, SymbolBinding.LOCAL, SymbolKind.OBJECT),
        Symbol("twice", 0x3200, 8, SymbolBinding.LOCAL, SymbolKind.OBJECT),
        Symbol("alike", 0x3300, 8, SymbolBinding.LOCAL, SymbolKind.OBJECT),
        Symbol("alike", 0x3400, 8, SymbolBinding.LOCAL, SymbolKind.OBJECT),
    ]
    prog.register_symbol_finder("test", SymbolIndex(symbols), enable_index=0)
    prog.register_type_finder("test", find_type, enable_index=0)
    prog.register_object_finder("test", find_object, enable_index=0)
    return prog


def test_types() -> None:
    found = Declarations(
        program(),
        "struct missing a;\nstruct there a;\nint b[COUNT];\nint c[NO_SUCH];\nstruct missing d;",
    )
    assert {name: shown(found, name) for name in "abcde"} == {
        "a": "struct there",
        "b": "int [6]",
        **dict.fromkeys("cde", "none"),
    }
    found.add("long b;\nchar e;")
    assert [shown(found, name) for name in "be"] == ["long", "char"]
    found.add("int no_symbol;")
    assert found.object("no_symbol") is None


def shown(declarations: Declarations, name: str, *, in_a_file: bool = False) -> str:
    found = declarations.object(name, in_a_file=in_a_file)
    return "none" if found is None else found.type_.type_name()


def test_which_of_several_declarations_counts() -> None:
    text = "const struct there a;\nint a;\nconst struct there constant;\nint constant;\n"
    text += "WITH(missing) long b;\nWITH(constant) char b;\nint b;\n"
    found = Declarations(program(), text)
    # Only one is in read-only data.
    assert [shown(found, n) for n in ("a", "constant", "b")] == [
        "int",
        "const struct there",
        "char",
    ]


def test_several_variables_of_a_name() -> None:
    text = "static struct there twice;\nstatic struct there alike;\nstruct there a;"
    found = Declarations(program(), text)
    obj = found.object("twice")
    assert obj is not None and obj.address_ == 0x3200
    assert shown(found, "alike") == "none"
    assert shown(found, "a", in_a_file=True) == "struct there"


def test_a_structure_without_a_name() -> None:
    text = "struct { char c; int i; struct there t; char last[3]; } a;\n"
    text += "long b[2][longs(struct there)];"
    found = Declarations(program(), text)
    obj = found.object("a")
    assert obj is not None and sizeof(obj.type_) == 20
    assert [(m.name, m.offset) for m in obj.type_.members] == [
        *(("c", 0), ("i", 4), ("t", 8), ("last", 16))
    ]
    assert shown(found, "b") == "long [2][1]"


def test_the_table_can_be_read() -> None:
    assert len(list(parse(DECLARATIONS))) == sum(
        1 for line in DECLARATIONS.splitlines() if line.endswith(";")
    )


def test_an_array_up_to_its_last_element() -> None:
    prog = program()
    data = struct.pack("6i", 7, 0, 8, 0, 0, 0)
    prog.add_memory_segment(0x3200, len(data), lambda _, count, at, __: data[at : at + count])
    symbol = Symbol("b", 0x3200, len(data), SymbolBinding.GLOBAL, SymbolKind.OBJECT)
    prog.register_symbol_finder("more", SymbolIndex([symbol]), enable_index=0)
    found = Declarations(prog, "int a[filled];\nint b[filled];")
    obj = found.object("b")
    assert obj is not None and [i.value_() for i in obj] == [7, 0, 8]
    # What cannot be read has an unknown length.
    assert shown(found, "a") == "int []"
