# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does a declared structure say what drgn itself says of the same bytes?"""

from __future__ import annotations

import random
from typing import Any

import pytest
from drgn import FaultError, Object, Platform, Type, sizeof
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_sockets.kernel.lost import Lost, unbroken
from drgn_sockets.kernel.structs import BigEndian, Bytes, Int, Member, OptBytes, OptInt, Struct

from .fake_kernel import BIG, BIG_32, LITTLE, LITTLE_32, FakeKernel

PLATFORMS = pytest.mark.parametrize(
    "platform", [LITTLE, BIG, LITTLE_32, BIG_32], ids=["le64", "be64", "le32", "be32"]
)


def declare(tag: str, **members: Member[Any]) -> type[Struct]:
    return type("Declared", (Struct,), {"C_TYPE": f"struct {tag}", **members})


def junk(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).getrandbits(size * 8).to_bytes(size, "little")


def check(
    kernel: FakeKernel, type_: Type, cls: type[Struct], paths: dict[str, str], data: bytes
) -> None:
    """Each field of *cls* has the value that drgn finds at its path."""
    object_ = Object.from_bytes_(kernel.prog, type_, data)
    layout = cls.layout(kernel.prog)
    # What follows a structure in memory is not its own.
    found = layout.decode(0x1000, b"\xee" * 3 + data + b"\xdd" * 16, 3)
    assert found.address == 0x1000
    for field, path in paths.items():
        expected: Any = object_
        for name in path.replace("]", "").replace("[", ".").split("."):
            expected = expected[int(name)] if name.isdecimal() else expected.member_(name)
        value = expected.value_()
        assert getattr(found, field) == getattr(value, "value", value), (field, path)
    one_by_one = (*(getattr(found, field) for field in paths), None)
    assert layout.fetcher(*paths, "no such member")(found) == one_by_one


@PLATFORMS
@pytest.mark.parametrize("seed", range(4))
def test_every_kind_of_member_as_drgn_has_it(platform: Platform, seed: int) -> None:
    k = FakeKernel(platform)
    inner = k.struct("inner", (("x"), k.s8), ("pair", k.array(k.u16, 2)), ("last", k.s64))
    word = k.typedef("word_t", k.typedef("word_base_t", k.u32))
    members: list[Any] = [
        ("flag", k.u8),
        ("small", k.s16),
        ("number", k.s32),
        ("wide", k.u64),
        ("wide_signed", k.s64),
        ("long_", k.ulong),
        ("pointer", k.ptr),
        ("colour", k.enum("colour", k.u32, RED=0, BLUE=2)),
        ("sign", k.enum("sign", k.s32, MINUS=-1, PLUS=1)),
        ("word", word),
        ("inner", k.typedef("inner_t", inner)),
        ("many", k.array(k.typedef("inner2_t", inner), 3)),
        ("words", k.array(word, 4)),
        (None, k.struct(None, ("in_struct", k.u16), (None, k.union(None, ("deep", k.s32))))),
        (None, k.union(None, ("as_int", k.u32), ("as_short", k.s16), ("as_inner", inner))),
    ]
    type_ = k.struct("outer", *members)
    plain = ("flag", "small", "number", "wide", "wide_signed", "long_", "pointer", "word")
    paths = {name: name for name in (*plain, "colour", "sign")}
    paths.update(
        inner_last="inner.last",
        element="many[2].last",
        nested="many[1].pair[1]",
        first="many[0].x",
        word_2="words[2]",
        in_struct="in_struct",
        deep="deep",
        as_int="as_int",
        as_short="as_short",
        union_last="as_inner.last",
        union_pair="as_inner.pair[0]",
    )
    cls = declare("outer", **{field: Int(path) for field, path in paths.items()})
    check(k, type_, cls, paths, junk(sizeof(type_), seed))


@PLATFORMS
@settings(max_examples=40)
@given(data=st.binary(min_size=24, max_size=24), widths=st.data())
def test_bit_fields_as_drgn_has_them(
    platform: Platform, data: bytes, widths: st.DataObject
) -> None:
    k = FakeKernel(platform)
    packed = widths.draw(st.booleans())
    members: list[Any] = []
    room = 0
    for i in range(6):
        type_ = widths.draw(st.sampled_from([k.u8, k.s8, k.u16, k.s16, k.u32, k.s32]))
        width = widths.draw(st.integers(1, sizeof(type_) * 8))
        # One that does not fit into 64 bits is nowhere in a kernel, packed or not.
        if packed and room // 64 != (room + width - 1) // 64:
            continue
        room += width
        members.append((f"b{i}", type_, width))
    type_ = k.struct("bits", *members, ("end", k.u64), size=24 if packed else 0, packed=packed)
    names = [name for name, *_ in members]
    cls = declare("bits", **{name: Int(name) for name in [*names, "end"]})
    check(k, type_, cls, {name: name for name in [*names, "end"]}, (data * 2)[: sizeof(type_)])


@PLATFORMS
def test_bit_fields_by_hand(platform: Platform) -> None:
    k = FakeKernel(platform)
    # A struct of 3 + 7 + 6 bits: the middle one crosses a byte's border.
    k.struct("bits", ("low", k.u16, 3), ("middle", k.s16, 7), ("high", k.u16, 6))
    cls = declare("bits", low=Int("low"), middle=Int("middle"), high=Int("high"))
    word = 0b101 | (-3 & 0x7F) << 3 | 0b110001 << 10
    data = word.to_bytes(2, "little")
    if platform in (BIG, BIG_32):
        # There the first bit-field has the highest bits.
        data = (0b101 << 13 | (-3 & 0x7F) << 6 | 0b110001).to_bytes(2, "big")
    found: Any = cls.layout(k.prog).decode(0, data)
    assert (found.low, found.middle, found.high) == (0b101, -3, 0b110001)


def test_newest_name_first() -> None:
    k = FakeKernel()
    k.struct("both", ("old", k.u32), ("new", k.u32))
    k.struct("only_old", ("old", k.u32))
    data = (1).to_bytes(4, "little") + (2).to_bytes(4, "little")
    both: Any = declare("both", it=Int("new", "old")).layout(k.prog)
    assert both.decode(0, data).it == 2
    assert both.cls.places["it"].path == "new"
    old: Any = declare("only_old", it=Int("new", "old")).layout(k.prog)
    assert old.decode(0, data).it == 1
    assert old.cls.places["it"].path == "old"


def test_missing_members() -> None:
    k = FakeKernel()
    k.struct("some", ("there", k.u32), ("number", k.array(k.u8, 4)))
    cls = declare(
        "some",
        there=Int("there"),
        gone=OptInt("gone", "gone_too"),
        gone_bytes=OptBytes("elsewhere.gone"),
        not_in_int=OptInt("there.deeper"),
        not_an_array=OptInt("missing[1].x"),
    )
    found: Any = cls.layout(k.prog).decode(0, b"\1\0\0\0")
    assert (found.there, found.gone, found.gone_bytes) == (1, None, None)
    assert (found.not_in_int, found.not_an_array) == (None, None)
    assert "gone" not in type(found).places
    with pytest.raises(LookupError, match=r"struct some .*newest or older"):
        declare("some", it=Int("newest", "older")).layout(k.prog)
    with pytest.raises(LookupError, match="struct nowhere"):
        declare("nowhere", it=Int("it")).layout(k.prog)


def test_all_members_missing() -> None:
    k = FakeKernel()
    k.struct("some", ("there", k.u32))
    layout: Any = declare("some", gone=OptInt("gone")).layout(k.prog)
    address = k.alloc(4)
    assert layout.size == 0
    assert layout.read(address).gone is None
    assert [s.gone for s in unbroken(layout.read_many([address]))] == [None]


def test_members_of_a_union_overlap() -> None:
    k = FakeKernel()
    k.struct(
        "sock",
        ("before", k.u16),
        (None, k.union(None, ("bytes", k.array(k.u8, 8)), ("whole", k.u64), ("half", k.s32))),
        ("after", k.u16),
    )
    cls = declare(
        "sock",
        before=Int("before"),
        whole=Int("whole"),
        half=Int("half"),
        raw=Bytes("bytes"),
        again=Int("whole"),
        after=Int("after"),
    )
    layout: Any = cls.layout(k.prog)
    data = b"\1\0" + bytes(6) + b"\xff\xff\xff\xff\2\0\0\0" + b"\3\0"
    address = k.alloc(data)
    # Both ways of reading have to take all of them.
    for found in (layout.read(address), next(unbroken(layout.read_many([address])))):
        assert (found.before, found.after) == (1, 3)
        assert found.whole == found.again == 0x2FFFFFFFF
        assert found.half == -1
        assert found.raw == data[8:16]


@PLATFORMS
def test_bytes_and_network_order(platform: Platform) -> None:
    k = FakeKernel(platform)
    be16 = k.typedef("__be16", k.u16)
    k.struct("inet", ("port", be16), ("name", k.array(k.char, 6)), ("address", k.u32), ("x", k.u8))
    cls = declare(
        "inet", port=BigEndian("port"), name=Bytes("name"), addr=Bytes("address"), x=Bytes("x")
    )
    data = b"\x12\x34" + b"a\0\xff\ncd" + b"\x7f\0\0\1" + b"\x80"
    found: Any = cls.layout(k.prog).decode(0, data)
    # What is in network order is the same in memory everywhere.
    assert (found.port, found.name, found.addr) == (0x1234, b"a\0\xff\ncd", b"\x7f\0\0\1")
    assert found.x == b"\x80"


def test_conversions() -> None:
    k = FakeKernel()
    k.struct("s", ("plain", k.s32), ("bits", k.u16, 4), ("comm", k.array(k.char, 4)))
    cls = declare(
        "s",
        plain=Member[int]("plain", convert=lambda v: v >> 3),
        raw=Int("plain"),
        bits=Member[str]("bits", convert=lambda v: f"<{v}>"),
        comm=Bytes("comm", convert=lambda raw: raw.split(b"\0")[0]),
    )
    found: Any = cls.layout(k.prog).decode(0, b"\xf8\xff\xff\xff\x35hi\0!")
    assert (found.plain, found.raw, found.bits, found.comm) == (-1, -8, "<5>", b"hi")
    fetch = cls.layout(k.prog).fetcher("comm", "bits", "raw", "plain")
    assert fetch(found) == (b"hi", "<5>", -8, -1)


def test_derived_structures_begin_with_their_base() -> None:
    k = FakeKernel()
    base = k.struct("sock", ("family", k.u16), ("state", k.u8))
    k.struct("tcp_sock", ("sk", base), ("window", k.u32))

    class Sock(Struct):
        C_TYPE = "struct sock"
        family = Int("family", help="the family")
        state = Int("state")

    class TcpSock(Sock):
        C_TYPE = "struct tcp_sock"
        window = Int("window")

    assert list(TcpSock.members()) == ["family", "state", "window"]
    found = TcpSock.layout(k.prog).decode(0, b"\2\0\1\0\4\0\0\0")
    assert (found.family, found.state, found.window) == (2, 1, 4)
    assert isinstance(found, TcpSock)
    assert TcpSock.layout(k.prog) is TcpSock.layout(k.prog)
    # The declaration itself has no values, and says so.
    assert TcpSock.family.help == "the family"
    with pytest.raises(AttributeError, match="window"):
        _ = TcpSock(0, ()).window
    pointer = TcpSock.layout(k.prog).object(0x1230)
    assert pointer.type_.type_name() == "struct tcp_sock *"
    assert pointer.value_() == 0x1230


def test_programs_do_not_share_layouts() -> None:
    one, other = FakeKernel(), FakeKernel()
    one.struct("s", ("it", one.u32))
    other.struct("s", ("pad", other.u32), ("it", other.u32))
    cls = declare("s", it=Int("it"))
    data = b"\1\0\0\0\2\0\0\0"
    found: list[Any] = [cls.layout(k.prog).decode(0, data) for k in (one, other)]
    assert [f.it for f in found] == [1, 2]


def test_reading_one() -> None:
    k = FakeKernel()
    k.struct("s", ("pad", k.u64), ("it", k.u64))
    layout: Any = declare("s", it=Int("it")).layout(k.prog)
    address = k.alloc(bytes(8) + b"\7" + bytes(7))
    assert layout.read(address).it == layout.follow(address).it == 7
    # Nor what a null pointer leads to, not even where that is mapped.
    k.map(0, 4096)
    assert layout.follow(0) is None
    for bad in (8, address + 8, 0xDEAD000000000122, 2**64 - 1, 2**64, 2**70, -1, -4096):
        for read in (layout.read, layout.follow):
            with pytest.raises(FaultError, match="struct s cannot be read"):
                read(bad)


def test_reading_many() -> None:
    k = FakeKernel()
    k.struct("s", ("it", k.u64))
    layout: Any = declare("s", it=Int("it")).layout(k.prog)
    base = k.alloc(b"".join(i.to_bytes(8, "little") for i in range(512)))
    far = k.alloc((4711).to_bytes(8, "little"))
    # The second is where no structure with a number of 64 bits can be.
    unreadable = [base - 8, base + 4096 - 4, 0, 0xDEAD000000000122, 2**64 - 4]
    addresses = [far, *(base + i * 8 for i in (400, 3, 3, 17, 400, 0)), *unreadable, far]
    found = list(layout.read_many(addresses))
    assert sorted(one.address for one in found) == sorted(set(addresses))
    good = [one.address for one in found if not isinstance(one, Lost)]
    assert good == sorted(good)
    values = {one.address: one.it for one in found if not isinstance(one, Lost)}
    assert values == {far: 4711, **{base + i * 8: i for i in (0, 3, 17, 400)}}
    lost = {one.address: one for one in found if isinstance(one, Lost)}
    assert lost == {
        address: Lost("struct s", address, "it is not aligned" if address % 8 else "")
        for address in unreadable
    }
    assert list(layout.read_many([])) == []
