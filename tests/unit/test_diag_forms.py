# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages of sock_diag, taken to pieces and made: odd ones, and other machines' byte order."""

from __future__ import annotations

import struct

import pytest
from drgn import Platform

from drgn_sockets.views.diag import KINDS
from drgn_sockets.views.diag.base import Attribute
from drgn_sockets.views.diag.forms import (
    Array,
    Flag,
    Form,
    Nested,
    Number,
    Value,
    declared,
    nla_parse,
    nla_put,
    of_type,
)

from .fake_kernel import BIG, LITTLE, FakeKernel

_ATTRIBUTES = [nla_put("<", 1, b"abc"), nla_put("<", 2, b""), nla_put("<", 0x8003, b"1234")]


def test_attributes_are_padded_and_their_flags_left_out() -> None:
    assert [len(data) for data in _ATTRIBUTES] == [8, 4, 8]
    parsed = list(nla_parse("<", b"".join(_ATTRIBUTES)))
    assert parsed == [(1, b"abc"), (2, b""), (3, b"1234")]
    # The last needs no padding to be whole.
    assert list(nla_parse("<", _ATTRIBUTES[0][:7])) == [(1, b"abc")]
    assert nla_put(">", 1, b"x") == b"\0\5\0\1x\0\0\0"


@pytest.mark.parametrize(
    "data",
    [
        b"\4",
        b"\4\0\1",
        # Shorter than its header, longer than there is.
        struct.pack("<HH", 3, 1),
        struct.pack("<HH", 0, 1),
        struct.pack("<HH", 9, 1) + b"1234",
        _ATTRIBUTES[0] + b"\xff\xff\1\0",
    ],
)
def test_what_is_no_attribute(data: bytes) -> None:
    with pytest.raises(ValueError, match="byte "):
        list(nla_parse("<", data))


_DECLARED = """
u8 family
bytes[2] port
u32 number
u8 a:1
u8 b:3
u8 c:5
u16 last
"""


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_declared_structure(order: str) -> None:
    form = declared(order, _DECLARED)
    # As gcc lays it out: number at 4, a and b in a byte, c in the next, last at 10.
    assert form.size == 12
    values: dict[str, Value] = {
        "family": 2,
        "port": b"\0\x50",
        "number": -1,
        "a": 1,
        "b": 5,
        "c": 0x15,
        "last": 7,
    }
    data = form.pack(values)
    bits = bytes((1 | 5 << 1, 0x15)) if order == "<" else bytes((1 << 7 | 5 << 4, 0x15 << 3))
    assert data == b"\2\0\x50\0\xff\xff\xff\xff" + bits + struct.pack(order + "H", 7)
    assert form.values(data) == {**values, "number": 0xFFFFFFFF}
    # What is not told is 0, what is too long is cut off.
    assert form.pack({"port": b"123", "a": 2, "c": 0x3F}) == form.pack({"port": b"12", "c": 0x1F})


@pytest.mark.parametrize("platform", [LITTLE, BIG])
def test_a_structure_of_the_kernels(platform: Platform) -> None:
    kernel = FakeKernel(platform)
    be16 = kernel.typedef("__be16", kernel.u16)
    inner = kernel.struct("inner", ("port", be16), ("words", kernel.array(kernel.u32, 2)))
    kernel.struct(
        "outer",
        ("one", kernel.u8),
        ("id", inner),
        (None, kernel.union(None, ("x", kernel.u32), ("y", kernel.s32))),
        ("low", kernel.u8, 3),
        ("high", kernel.u8, 5),
    )
    form = of_type(kernel.prog, "struct outer")
    assert form is not None
    assert form.names == ("one", "port", "words", "x", "y", "low", "high")
    data = form.pack({"port": b"\0\x50", "words": bytes(range(8)), "low": 5, "high": 9})
    told = form.values(data)
    assert (told["port"], told["words"]) == (b"\0\x50", bytes(range(8)))
    assert (told["low"], told["high"]) == (5, 9)
    assert of_type(kernel.prog, "struct nothing") is None


def test_values_of_the_other_forms() -> None:
    assert Form().values(b"cubic\0") == {"": b"cubic\0"}
    assert Number("<", 4).values(b"\1\0\0\0") == {"": 1}
    assert Flag().values(b"") == {}
    assert Array(Number("<", 4), 4).values(bytes(8)) == {"[0]": 0, "[1]": 0}
    pair = declared("<", "u8 a\nu8 b")
    assert Array(pair, 2).values(b"\1\2\3\4") == {"[0].a": 1, "[0].b": 2, "[1].a": 3, "[1].b": 4}
    nested = Nested("<", {1: ("NAME", Form()), 2: ("FLAG", Flag()), 3: ("PAIR", pair)})
    data = (
        nla_put("<", 1, b"tls\0"),
        nla_put("<", 2, b""),
        nla_put("<", 3, b"\1\2"),
        nla_put("<", 3, b"\3\4"),
        nla_put("<", 9, b"?"),
    )
    assert nested.values(b"".join(data)) == {
        "NAME": b"tls\0",
        "FLAG": b"",
        "PAIR.a": 1,
        "PAIR.b": 2,
        "PAIR[1].a": 3,
        "PAIR[1].b": 4,
        "attribute 9": b"?",
    }


@pytest.mark.parametrize(
    ("form", "data"),
    [
        (Number("<", 4), b"123"),
        (Flag(), b"1"),
        (declared("<", "u32 a"), b"12345"),
        (Array(Number("<", 4), 4), b"12345"),
        (Nested("<", {}), b"1"),
    ],
)
def test_another_length(form: Form, data: bytes) -> None:
    with pytest.raises(ValueError, match="byte"):
        form.values(data)


def test_each_attribute_is_in_its_table_once() -> None:
    for kind in KINDS:
        numbers = [attribute.number for attribute in kind.attributes]
        names = [attribute.name for attribute in kind.attributes]
        assert len(set(numbers)) == len(numbers) and len(set(names)) == len(names)
        assert not kind.padding & set(numbers)
        for attribute in kind.attributes:
            _check_form(attribute)


def _check_form(attribute: Attribute) -> None:
    if not isinstance(attribute.form, str):
        for number, inner in attribute.form.items():
            assert inner.number == number
            _check_form(inner)
