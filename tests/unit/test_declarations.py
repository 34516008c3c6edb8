# SPDX-License-Identifier: LGPL-2.1-or-later
"""Declarations of variables, as C has them."""

from __future__ import annotations

import pytest
from drgn import Architecture, FindObjectFlags, Object, Platform, Program, Type, TypeKindSet

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
    assert list(parse(text.replace("    ", ""))) == [
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

    prog.register_type_finder("test", find_type, enable_index=0)
    prog.register_object_finder("test", find_object, enable_index=0)
    return prog


def test_types() -> None:
    found = Declarations(
        program(),
        "struct missing a;\nstruct there a;\nint b[COUNT];\nint c[NO_SUCH];\nstruct missing d;",
    )
    names = {name: found.type(name) for name in "abcde"}
    assert {name: type_ and type_.type_name() for name, type_ in names.items()} == {
        "a": "struct there",
        "b": "int [6]",
        "c": None,
        "d": None,
        "e": None,
    }
    found.add("long b;\nchar e;")
    assert [str(found.type(name)) for name in "be"] == ["long", "char"]


def test_the_table_can_be_read() -> None:
    assert len(list(parse(DECLARATIONS))) == sum(
        1 for line in DECLARATIONS.splitlines() if line.endswith(";")
    )
