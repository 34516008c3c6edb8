# SPDX-License-Identifier: LGPL-2.1-or-later
"""Are the fds of a file table those that were put there?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from drgn import FaultError, Platform, Program
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.kernel import fdtable
from drgn_sockets.kernel.fdtable import OpenFd, open_fds, task_open_fds
from drgn_sockets.kernel.memory import read_sparse_pointers

from .fake_kernel import BIG, BIG_32, LITTLE, LITTLE_32, PAGE, FakeKernel

PLATFORMS = pytest.mark.parametrize(
    "platform", [LITTLE, BIG, LITTLE_32, BIG_32], ids=["le64", "be64", "le32", "be32"]
)


def file_of(fd: int) -> int:
    return 0x80000000 + fd * 64


class Table:
    """A ``struct files_struct``."""

    def __init__(self, max_fds: int, platform: Platform = LITTLE) -> None:
        self.kernel = k = FakeKernel(platform)
        self.fdtable = k.struct(
            "fdtable",
            ("max_fds", k.u32),
            ("fd", k.pointer(k.ptr)),
            ("close_on_exec", k.pointer(k.ulong)),
            ("open_fds", k.pointer(k.ulong)),
            ("full_fds_bits", k.pointer(k.ulong)),
        )
        files = k.struct(
            "files_struct",
            ("count", k.struct(None, ("counter", k.s32))),
            ("fdt", k.pointer(self.fdtable)),
            ("fdtab", self.fdtable),
        )
        k.struct("task_struct", ("pid", k.s32), ("files", k.pointer(files)))
        self.fd = 0xFFFF888300000000 if k.word == 8 else 0xC3000000
        self.used = self.bitmap = 0
        self.fdt = k.alloc(64)
        self.files = k.new(files, {"count": {"counter": 1}, "fdt": self.fdt})
        self.max_fds = max_fds

    def fill(self, fds: Mapping[int, bool], *, hole: range = range(0), bitmap: bool = True) -> None:
        """Open *fds*, each closed by execve() or not; pages of *hole* cannot be read."""
        k = self.kernel
        array = bytearray(self.max_fds * k.word)
        bits = [0] * -(-self.max_fds // (k.word * 8))
        used = bits.copy()
        for fd, cloexec in fds.items():
            array[fd * k.word : (fd + 1) * k.word] = k.words([file_of(fd)])
            # __set_bit(): in the long that it is in, from the lowest bit on.
            bits[fd // (k.word * 8)] |= cloexec << fd % (k.word * 8)
            used[fd // (k.word * 8)] |= 1 << fd % (k.word * 8)
        for page in range(-(-len(array) // PAGE)):
            if page not in hole:
                k.map(self.fd + page * PAGE, bytes(array[page * PAGE : (page + 1) * PAGE]))
        # alloc_fdtable(): the bitmaps lie side by side, and tell the size as well.
        self.used = k.alloc(k.words(used + bits)) if bitmap else 0xDEAD0000
        self.bitmap = self.used + self.max_fds // 8
        self.put(self.max_fds)

    def put(self, max_fds: int, **wrong: int) -> None:
        value = {
            "max_fds": max_fds,
            "fd": self.fd,
            "open_fds": self.used,
            "close_on_exec": self.bitmap,
            "full_fds_bits": self.bitmap + self.max_fds // 8,
            **wrong,
        }
        self.kernel.put(self.fdt, self.fdtable, value)

    def open(self) -> dict[int, bool]:
        found = list(open_fds(self.kernel.prog, self.files))
        return checked(found)

    def open_until_error(self) -> dict[int, bool]:
        found: list[OpenFd] = []
        with pytest.raises(FaultError):
            for fd in open_fds(self.kernel.prog, self.files):
                found.append(fd)
        return checked(found)


def checked(found: list[OpenFd]) -> dict[int, bool]:
    assert [fd.fd for fd in found] == sorted({fd.fd for fd in found})
    assert all(fd.file == file_of(fd.fd) for fd in found)
    return {fd.fd: fd.cloexec for fd in found}


@PLATFORMS
@given(
    fds=st.dictionaries(st.integers(0, 575), st.booleans()),
    size=st.sampled_from([64, 256, 576]),
)
def test_what_was_opened(platform: Platform, fds: dict[int, bool], size: int) -> None:
    fds = {fd: cloexec for fd, cloexec in fds.items() if fd < size}
    t = Table(size, platform)
    t.fill(fds)
    assert t.open() == fds


@PLATFORMS
def test_odd_places(platform: Platform) -> None:
    # Around the borders of bytes, of longs, and of what is read at once.
    borders = (0, 7, 8, 31, 32, 63, 64, 127, 4095, 4096, 4097, 8191, 8192, 12_287)
    for odd in (0, 1):
        t = Table(12_288, platform)
        fds = {fd: i % 2 == odd for i, fd in enumerate(borders)}
        t.fill(fds)
        assert t.open() == fds


def test_many() -> None:
    t = Table(16_384)
    fds = {fd: fd % 7 == 3 for fd in range(0, 16_384, 3)}
    t.fill(fds)
    assert t.open() == fds


def test_no_fds() -> None:
    t = Table(64)
    t.fill({})
    assert t.open() == {}


def test_absurd_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    t = Table(64)
    t.fill({3: True, 60: False})
    for absurd in (0xFFFFFFFF, 0x80000001):
        t.put(absurd)
        with pytest.raises(FaultError, match="max_fds"):
            t.open()
    # One that is possible, but not what the bitmaps have room for.
    t.put(1 << 30)
    t.kernel.reads.clear()
    assert t.open_until_error() == {3: True, 60: False}
    assert len(t.kernel.reads) < 50
    # The bitmaps agree, and the memory is not there.
    t.max_fds = 1 << 26
    t.fd = 0xFFFF8F0000000000
    t.bitmap = t.used + t.max_fds // 8
    t.put(t.max_fds)
    calls = 0
    read = read_sparse_pointers

    def counted(prog: Program, address: int, count: int) -> tuple[Sequence[int], int]:
        nonlocal calls
        calls += 1
        return read(prog, address, count)

    monkeypatch.setattr(fdtable, "read_sparse_pointers", counted)
    assert t.open_until_error() == {}
    assert calls < 10


@pytest.mark.parametrize("max_fds", [0, 63, 100, 128, 1 << 20])
def test_a_wrong_number_of_slots(max_fds: int) -> None:
    t = Table(256)
    t.fill({3: True, 60: False, 255: True})
    t.put(max_fds)
    assert t.open_until_error() == {3: True, 60: False, 255: True}
    # The table that is part of struct files_struct has no bitmaps side by side.
    t = Table(64)
    t.fill({3: True, 60: False})
    k = t.kernel
    files = k.prog.type("struct files_struct")
    t.fdt = t.files + files.member("fdtab").offset
    k.put(t.files, files, {"count": {"counter": 1}, "fdt": t.fdt})
    t.put(max_fds)
    assert t.open_until_error() == {3: True, 60: False}
    t.put(64)
    assert t.open() == {3: True, 60: False}


@pytest.mark.parametrize("member", ["open_fds", "close_on_exec"])
@pytest.mark.parametrize("by", [-(1 << 28), -8, 8, 1 << 28], ids=str)
def test_a_bitmap_that_is_elsewhere(member: str, by: int) -> None:
    t = Table(256)
    fds = {3: True, 60: False, 255: True}
    t.fill(fds)
    t.put(256, **{member: {"open_fds": t.used, "close_on_exec": t.bitmap}[member] + by})
    t.kernel.reads.clear()
    # The other members tell where it is.
    assert t.open_until_error() == fds
    assert len(t.kernel.reads) < 10


def test_two_bitmaps_that_are_elsewhere() -> None:
    t = Table(256)
    t.fill({3: True, 60: False, 255: True})
    # The distance is that of 2^31 slots.
    t.put(256, open_fds=t.used - (1 << 28), full_fds_bits=0)
    t.kernel.reads.clear()
    assert t.open_until_error().keys() == {3, 60}
    assert len(t.kernel.reads) < 10


def test_a_table_that_is_not_where_a_pointer_can_be() -> None:
    t = Table(64)
    t.fill({3: True})
    k = t.kernel
    files = k.prog.type("struct files_struct")
    k.put(t.files, files, {"count": {"counter": 1}, "fdt": t.fdt + 4})
    with pytest.raises(FaultError, match="struct fdtable cannot be read: it is not aligned"):
        t.open()


def test_an_array_that_is_another() -> None:
    t = Table(64)
    t.fill({3: True, 4: False, 5: False, 60: False})
    elsewhere = t.kernel.alloc(64 * 8)
    t.put(64, fd=elsewhere)
    with pytest.raises(FaultError, match="4 of the fds that are in open_fds have no file"):
        t.open()
    # More than the bitmap has.
    t.kernel.write(elsewhere, t.kernel.words([file_of(fd) for fd in range(9)]))
    with pytest.raises(FaultError, match="open_fds lacks 5 of the fds that have a file"):
        t.open()


def test_a_reserved_fd_is_no_damage() -> None:
    t = Table(64)
    t.fill({3: True, 4: False})
    t.kernel.write(t.fd + 3 * 8, bytes(8))
    assert t.open() == {4: False}


def test_a_hole_in_the_array() -> None:
    t = Table(16_384)
    fds = {fd: fd % 5 == 0 for fd in range(16_384)}
    # Page 9 of 32: that costs the 512 fds in it, and what is behind it is still told.
    t.fill(fds, hole=range(9, 10))
    found = t.open_until_error()
    assert found == {fd: fds[fd] for fd in fds if not 9 * 512 <= fd < 10 * 512}


def test_an_unreadable_bitmap() -> None:
    t = Table(64)
    t.fill({1: True, 2: False}, bitmap=False)
    assert t.open_until_error() == {1: False, 2: False}


def test_unreadable_tables() -> None:
    t = Table(64)
    t.fill({1: True})
    for files in (0, 0xDEAD000000000000, 2**64 - 1, -1):
        with pytest.raises(FaultError):
            list(open_fds(t.kernel.prog, files))
    t.fdtable = t.kernel.struct("other", ("max_fds", t.kernel.u32), ("fd", t.kernel.ptr))
    t.kernel.put(t.fdt, t.fdtable, {"max_fds": 64, "fd": 0xDEAD000000000000})
    assert t.open_until_error() == {}


def test_of_a_task() -> None:
    t = Table(64)
    t.fill({1: True})
    k = t.kernel
    task = k.prog.type("struct task_struct")
    k.variable("some_task", task, {"pid": 7, "files": t.files})
    assert checked(list(task_open_fds(k.prog["some_task"].address_of_()))) == {1: True}
    # A zombie.
    k.variable("zombie", task, {"pid": 8, "files": 0})
    assert list(task_open_fds(k.prog["zombie"].address_of_())) == []
