# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does reading in groups read all that can be read, and with few reads?"""

from __future__ import annotations

import pytest
from drgn import FaultError, Platform
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.kernel import memory
from drgn_sockets.kernel.memory import (
    pointer_size,
    read_bytes,
    read_groups,
    read_pointers,
    read_string,
)
from drgn_sockets.program import byte_order

from .fake_kernel import BIG, BIG_32, LITTLE, LITTLE_32, PAGE, FakeKernel

BASE = 0xFFFF888000000000


def pattern(size: int) -> bytes:
    return b"".join(i.to_bytes(4, "little") for i in range(size // 4))


def each(kernel: FakeKernel, addresses: list[int], size: int) -> dict[int, bytes | None]:
    """What read_groups() found at each address; each is yielded once and in order."""
    found: dict[int, bytes | None] = {}
    for group, data in read_groups(kernel.prog, addresses, size):
        assert data is None or len(data) >= group[-1] - group[0] + size
        for address in group:
            assert address not in found
            start = address - group[0]
            found[address] = None if data is None else data[start : start + size]
    assert list(found) == sorted(set(addresses))
    return found


def test_neighbours_are_read_together() -> None:
    k = FakeKernel()
    content = pattern(32 * PAGE)
    k.map(BASE, content)
    addresses = [BASE + i * 512 for i in range(32)]
    found = each(k, [*reversed(addresses), *addresses], 16)
    assert found == {a: content[a - BASE : a - BASE + 16] for a in addresses}
    assert len(k.reads) == 1
    # As far apart as two may be that are read together, and one byte more.
    for gap, reads in ((memory._MAX_GAP, 1), (memory._MAX_GAP + 1, 2)):
        k.reads.clear()
        each(k, [BASE, BASE + 16 + gap], 16)
        assert len(k.reads) == reads


def test_no_read_is_longer_than_its_limit() -> None:
    k = FakeKernel()
    k.map(BASE, pattern(64 * PAGE))
    each(k, list(range(BASE, BASE + 64 * PAGE - 64, 500)), 64)
    assert 4 <= len(k.reads) <= 6
    assert max(size for _, size in k.reads) <= memory._MAX_SPAN
    # A structure larger than the limit is still read, alone.
    found = each(k, [BASE, BASE + 8], memory._MAX_SPAN + 8)
    assert all(data is not None for data in found.values())


def test_a_hole_costs_its_own() -> None:
    k = FakeKernel()
    content = pattern(PAGE)
    k.map(BASE, content)
    k.map(BASE + 2 * PAGE, content)
    addresses = list(range(BASE, BASE + 3 * PAGE, 256))
    found = each(k, addresses, 64)
    for address, data in found.items():
        offset = address - BASE
        if PAGE <= offset < 2 * PAGE:
            assert data is None
        else:
            assert data == content[offset % PAGE : offset % PAGE + 64]
    # One that reaches into the hole is not half read.
    assert each(k, [BASE + PAGE - 32, BASE], 64) == {BASE: content[:64], BASE + PAGE - 32: None}


@pytest.mark.parametrize(
    "bad",
    [0, 1, 2**64 - 1, 2**64 - 64, 2**64, 2**80, -1, 1 << 63, 0x0000800000000000, 0xDEAD << 48],
)
def test_absurd_addresses_cost_their_own(bad: int) -> None:
    k = FakeKernel()
    content = pattern(PAGE)
    k.map(BASE, content)
    top = 2**64 - PAGE
    k.map(top, content)
    good = {BASE: content[:128], top: content[:128]}
    expected = dict(good)
    if bad != 2**64 - 64:
        assert each(k, [*good, bad], 128) == {**expected, bad: None}
    # Among neighbours that are good.
    assert each(k, [*good, top + PAGE - 128, top + PAGE - 64], 128) == {
        **expected,
        top + PAGE - 128: content[-128:],
        top + PAGE - 64: None,
    }


@given(
    pages=st.sets(st.integers(0, 12), min_size=1),
    offsets=st.lists(st.integers(-PAGE, 14 * PAGE), max_size=60),
    size=st.integers(1, 3 * PAGE),
)
def test_as_reading_one_by_one(pages: set[int], offsets: list[int], size: int) -> None:
    k = FakeKernel()
    content = pattern(13 * PAGE)
    for page in pages:
        k.map(BASE + page * PAGE, content[page * PAGE : (page + 1) * PAGE])
    found = each(k, [BASE + o for o in offsets], size)
    for o in offsets:
        touched = range(o // PAGE, (o + size - 1) // PAGE + 1)
        readable = all(page in pages for page in touched)
        assert found[BASE + o] == (content[o : o + size] if readable else None)


@pytest.mark.parametrize(
    ("platform", "order", "size"),
    [(LITTLE, "<", 8), (BIG, ">", 8), (LITTLE_32, "<", 4), (BIG_32, ">", 4)],
)
def test_pointers(platform: Platform, order: str, size: int) -> None:
    k = FakeKernel(platform)
    assert (byte_order(k.prog), pointer_size(k.prog)) == (order, size)
    values = [0x1020304, 0, 0xFFFFFFFF]
    address = k.alloc(k.words(values))
    assert read_pointers(k.prog, address, 3) == tuple(values)
    with pytest.raises(FaultError):
        read_pointers(k.prog, address, 4)
    assert read_pointers(k.prog, address, 0) == ()


def test_bytes_and_strings() -> None:
    k = FakeKernel()
    k.map(0, b"null\0")
    address = k.alloc(b"name\0rest")
    assert read_bytes(k.prog, address, 4) == b"name"
    assert read_bytes(k.prog, address, 0) == b""
    with pytest.raises(FaultError):
        read_bytes(k.prog, address, 10)
    assert read_bytes(k.prog, 0, 4) is None
    with pytest.raises(FaultError):
        read_bytes(k.prog, -8, 4)
    with pytest.raises(FaultError):
        read_bytes(k.prog, 2**64 - 2, 4)
    assert read_string(k.prog, address, 64) == b"name"
    assert read_string(k.prog, address, 2) == b"na"
    # It ends before the memory does, or it does not.
    assert read_string(k.prog, address + 5, 4) == b"rest"
    with pytest.raises(FaultError):
        read_string(k.prog, address + 5, 64)
    assert read_string(k.prog, 0, 64) is None
