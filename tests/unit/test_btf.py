# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF written by hand after Documentation/bpf/btf.rst, and BTF that is broken."""

from __future__ import annotations

import pytest
from drgn import Architecture, Platform, Program, TypeKind
from fuzz.writer import Writer, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_sockets.target.btf import Btf, BtfError, Kind
from drgn_sockets.target.btf_types import NAME, BtfTypes


def program(data: bytes, order: str = "<") -> Program:
    arch = Architecture.X86_64 if order == "<" else Architecture.S390X
    prog = Program(Platform(arch))
    types = BtfTypes(prog, Btf(data))
    prog.register_type_finder(NAME, types.find_type, enable_index=0)
    prog.register_object_finder(NAME, types.find_object, enable_index=0)
    return prog


@pytest.mark.parametrize("order", "<>")
def test_types(order: str) -> None:
    prog = program(sample(order).data(), order)
    thing = prog.type("struct thing")
    assert thing.size == 32
    assert [m.name for m in thing.members] == ["low", "high", "words", None, "self"]
    assert [m.bit_offset for m in thing.members] == [0, 3, 32, 128, 192]
    assert [m.bit_field_size for m in thing.members] == [3, 5, None, None, None]
    assert thing.member("words").type.length == 3
    # A member of the anonymous union is one of the structure.
    assert thing.member("number").bit_offset == 128
    assert str(thing.member("pointer").type.type_name()) == "const int *"
    assert thing.member("self").type.type.tag == "thing"
    assert prog.type("thing_t").type.tag == "thing"
    assert prog.type("double").kind == TypeKind.FLOAT


def test_constants_and_enums() -> None:
    prog = program(sample().data())
    assert prog.type("enum color").enumerators is not None
    assert prog["RED"].value_() == 0
    assert prog["BLUE"].value_() == -1
    assert prog["FAR"].value_() == 1 | 2 << 32
    with pytest.raises(LookupError):
        prog["GREEN"]


def test_a_module_on_its_base() -> None:
    base = sample()
    btf = Btf(base.data())
    module = Writer(first=base.next, strings=len(base.strings))
    module.add(Kind.STRUCT, "extra", 4, module.name("n"), 1, 0, vlen=1)
    split = Btf(module.data(), btf)
    extra = split.find("extra", frozenset({Kind.STRUCT}))
    assert extra == base.next
    assert next(split.members(extra)).name == "n"
    assert split.name(1) == "int"
    assert split.find("thing", frozenset({Kind.STRUCT})) == btf.find(
        "thing", frozenset({Kind.STRUCT})
    )


def test_circles_and_strays() -> None:
    w = Writer()
    w.add(Kind.TYPEDEF, "round", 2)
    w.add(Kind.CONST, None, 1)
    w.add(Kind.PTR, "self", 3)
    w.add(Kind.TYPEDEF, "nowhere", 99)
    types = BtfTypes(Program(Platform(Architecture.X86_64)), Btf(w.data()))
    for type_id in (1, 2, 3):
        with pytest.raises(BtfError, match="circle"):
            types.type(type_id)
    with pytest.raises(BtfError, match="no type 99"):
        types.type(4)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it has 0 bytes"),
        (bytes(24), "not BTF"),
        (sample().data()[:-1], "cut short"),
        (sample().data()[:40], "cut short"),
        (b"\x9f\xeb\x02" + sample().data()[3:], "version 2"),
    ],
)
def test_what_is_no_btf(data: bytes, why: str) -> None:
    with pytest.raises(BtfError, match=why):
        Btf(data)


def use(data: bytes) -> None:
    """Everything that can be asked of BTF."""
    btf = Btf(data)
    prog = Program(Platform(Architecture.X86_64))
    types = BtfTypes(prog, btf)
    for type_id in range(min(btf.end_id, 64)):
        try:
            found = types.type(type_id)
            for member in getattr(found, "members", None) or ():
                _ = member.type
        except BtfError:
            pass
    for name in ("thing", "color", "RED", "call_it"):
        btf.find(name, frozenset(Kind))


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_damage_is_an_error_and_no_crash(data: st.DataObject) -> None:
    broken = bytearray(sample().data())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(broken) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(broken)))
    try:
        use(bytes(broken if data.draw(st.booleans()) else broken[:cut]))
    except BtfError:
        pass
