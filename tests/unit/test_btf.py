# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF written by hand after Documentation/bpf/btf.rst, and BTF that is broken."""

from __future__ import annotations

import struct

import pytest
from drgn import Architecture, Platform, Program, Type, TypeKind
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_sockets.target.btf import Btf, BtfError, BtfKind
from drgn_sockets.target.btf_types import NAME, BtfTypes
from tests.fuzz.seeds import every_kind, with_layout
from tests.fuzz.writer import Writer, sample
from tests.unit.versions import BEFORE_0_3


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
    module.add(BtfKind.STRUCT, "extra", 4, module.name("n"), 1, 0, vlen=1)
    split = Btf(module.data(), btf)
    extra = split.find("extra", frozenset({BtfKind.STRUCT}))
    assert extra == base.next
    assert next(split.members(extra)).name == "n"
    assert split.name(1) == "int"
    assert split.find("thing", frozenset({BtfKind.STRUCT})) == btf.find(
        "thing", frozenset({BtfKind.STRUCT})
    )


def test_circles_and_strays() -> None:
    w = Writer()
    w.add(BtfKind.TYPEDEF, "round", 2)
    w.add(BtfKind.CONST, None, 1)
    w.add(BtfKind.PTR, "self", 3)
    w.add(BtfKind.TYPEDEF, "nowhere", 99)
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
        btf.find(name, frozenset(BtfKind))


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


def test_every_kind() -> None:
    prog = program(every_kind())
    old = prog.type("struct old")
    # A bit-field by its integer type, from bit 3 on, behind a typedef.
    assert [(m.name, m.bit_offset, m.bit_field_size) for m in old.members] == [
        ("bits", 3, 5),
        ("rest", 64, None),
    ]
    outer = prog.type("struct outer")
    assert outer.member("a").bit_offset == 0
    assert outer.member("matrix").type.length == 4
    # No enum here is told to be signed: it is taken for one of before Linux 6.0.
    assert prog["NONE"].value_() == -1
    # Tags, variables and sections are no types, and a variable without a symbol is none.
    with pytest.raises(LookupError):
        prog["counter"]
    for name in ("kfunc", "counter", "user"):
        with pytest.raises(LookupError):
            prog.type(name)


def test_kinds_of_newer_kernels() -> None:
    """What the layout tells the size of is stepped over, and without it an error."""
    prog = program(with_layout())
    assert prog.type("after").type.type_name() == "int"
    data = bytearray(with_layout())
    struct.pack_into("<I", data, 28, 0)
    with pytest.raises(BtfError, match="unknown kind 21"):
        Btf(bytes(data))


def test_more_members_than_16_bits_count() -> None:
    w = Writer()
    number = w.add(BtfKind.INT, "char", 1, 8)
    count = 0x10001
    words = [word for i in range(count) for word in (0, number, i * 8)]
    w.add(BtfKind.STRUCT, "large", count, *words, vlen=count)
    large = program(w.data()).type("struct large")
    assert (len(large.members), large.members[-1].offset) == (count, count - 1)


def looked_at(type_: Type) -> list[str]:
    parts = type_.parameters if type_.kind == TypeKind.FUNCTION else type_.members
    return [part.type.type_name() for part in parts or ()]


def test_types_that_contain_themselves() -> None:
    """By value, or without a name to stop at: drgn would follow them for ever."""
    w = Writer()
    own = w.add(BtfKind.STRUCT, "own", 8, w.name("x"), 1, 0, vlen=1)
    one = w.add(BtfKind.UNION, "one", 8, 0, own + 2, 0, vlen=1)
    w.add(BtfKind.STRUCT, "other", 8, 0, one, 0, vlen=1)
    nameless = w.add(BtfKind.STRUCT, None, 8, w.name("next"), w.next + 1, 0, vlen=1)
    w.add(BtfKind.PTR, None, nameless)
    calls = w.add(BtfKind.FUNC_PROTO, None, 0, 0, w.next + 1, vlen=1)
    w.add(BtfKind.PTR, None, calls)
    rows = w.add(BtfKind.STRUCT, "rows", 8, w.name("r"), w.next + 1, 0, vlen=1)
    w.add(BtfKind.ARRAY, None, 0, rows, rows, 2)
    fine = w.add(BtfKind.STRUCT, "fine", 8, w.name("next"), w.next + 1, 0, vlen=1)
    w.add(BtfKind.PTR, None, fine)
    types = BtfTypes(Program(Platform(Architecture.X86_64)), Btf(w.data()))
    error = Exception if BEFORE_0_3 else BtfError
    for type_id in (own, one, one + 1, nameless, calls, rows):
        # Where it leads is seen when it is looked at: drgn has to ask for each member.
        with pytest.raises(error, match="circle"):
            looked_at(types.type(type_id))
        # Not every type can be written before 0.3.
        with pytest.raises(error, match="circle|cannot be formatted" if BEFORE_0_3 else "circle"):
            str(types.type(type_id))
    assert types.type(fine).member("next").type.type.tag == "fine"


def test_a_hole_in_the_strings() -> None:
    data = sample().data()
    with pytest.raises(BtfError, match="have a hole"):
        Btf(data[:-8] + bytes(8))
