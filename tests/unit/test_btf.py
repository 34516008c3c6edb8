# SPDX-License-Identifier: LGPL-2.1-or-later
"""BTF written by hand after Documentation/bpf/btf.rst, and BTF that is broken."""

from __future__ import annotations

import struct

import pytest
from drgn import Architecture, Platform, Program, TypeKind
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_sockets.target.btf import Btf, BtfError, Kind
from drgn_sockets.target.btf_types import NAME, BtfTypes


class Writer:
    """Writes BTF; types have IDs from *first* on, in the order of writing."""

    def __init__(self, order: str = "<", first: int = 1, strings: int = 0) -> None:
        self.order = order
        self.types = b""
        self.strings = b"\0" if not strings else b""
        self.string_base = strings
        self.next = first

    def name(self, text: str | None) -> int:
        if text is None:
            return 0
        at = self.string_base + len(self.strings)
        self.strings += text.encode() + b"\0"
        return at

    def add(
        self,
        kind: Kind,
        name: str | None = None,
        size_or_type: int = 0,
        *words: int,
        vlen: int = 0,
        flag: bool = False,
    ) -> int:
        info = flag << 31 | kind << 24 | vlen
        values = (self.name(name), info, size_or_type, *words)
        self.types += struct.pack(f"{self.order}{len(values)}I", *values)
        self.next += 1
        return self.next - 1

    def data(self) -> bytes:
        header = struct.pack(
            f"{self.order}HBBIIIII",
            0xEB9F,
            1,
            0,
            24,
            0,
            len(self.types),
            len(self.types),
            len(self.strings),
        )
        return header + self.types + self.strings


def sample(order: str = "<") -> Writer:
    w = Writer(order)
    signed_int = w.add(Kind.INT, "int", 4, 1 << 24 | 32)
    unsigned = w.add(Kind.INT, "unsigned int", 4, 32)
    const = w.add(Kind.CONST, None, signed_int)
    pointer = w.add(Kind.PTR, None, const)
    array = w.add(Kind.ARRAY, None, 0, unsigned, unsigned, 3)
    union = w.add(
        Kind.UNION, None, 8, w.name("pointer"), pointer, 0, w.name("number"), unsigned, 0, vlen=2
    )
    w.add(
        Kind.STRUCT,
        "thing",
        32,
        w.name("low"),
        unsigned,
        3 << 24 | 0,
        w.name("high"),
        signed_int,
        5 << 24 | 3,
        w.name("words"),
        array,
        32,
        0,
        union,
        128,
        w.name("self"),
        w.next + 1,
        192,
        vlen=5,
        flag=True,
    )
    w.add(Kind.PTR, None, w.next - 1)
    w.add(Kind.TYPEDEF, "thing_t", w.next - 2)
    w.add(Kind.ENUM, "color", 4, w.name("RED"), 0, w.name("BLUE"), 0xFFFFFFFF, vlen=2, flag=True)
    w.add(Kind.ENUM64, "wide", 8, w.name("FAR"), 1, 2, vlen=1)
    w.add(Kind.FWD, "later", 0)
    proto = w.add(Kind.FUNC_PROTO, None, signed_int, w.name("x"), unsigned, 0, 0, vlen=2)
    w.add(Kind.FUNC, "call_it", proto)
    w.add(Kind.FLOAT, "double", 8)
    return w


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
