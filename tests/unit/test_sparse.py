# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores with a hole, read by drgn."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from drgn import FaultError, Program

from drgn_sockets.target.kdump import write_kdump
from vm.bench.sparse import sparse_elf, sparse_kdump
from vm.errors import VmError
from vm.kdump_pages import Kdump

PAGE = 4096
GIB = 1 << 30
VMCOREINFO = (
    b"OSRELEASE=6.12.0\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff82000000\n"
    b"KERNELOFFSET=0\nNUMBER(phys_base)=0\nNUMBER(pgtable_l5_enabled)=0\n"
)
# Two segments, as QEMU has them around what is not memory, with pages of zeros among them.
SEGMENTS = {
    0: b"a" * PAGE + bytes(PAGE) + b"b" * PAGE,
    1 << 20: b"c" * PAGE + bytes(300 * PAGE) + b"d" * 2 * PAGE,
}


def qemu_core(path: Path) -> None:
    """Write an ELF core as QEMU does, with a section that it has for itself."""
    note = struct.pack("<III12s", 11, len(VMCOREINFO), 0, b"VMCOREINFO\0") + VMCOREINFO
    note += bytes(-len(note) % 4)
    at = 64 + 56 * (1 + len(SEGMENTS))
    headers = [struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(note), len(note), 0)]
    at += len(note)
    for where, data in SEGMENTS.items():
        headers.append(struct.pack("<IIQQQQQQ", 1, 0, at, 0, where, len(data), len(data), 0))
        at += len(data)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = ident + struct.pack(
        "<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, at, 0, 64, 56, len(headers), 64, 1, 0
    )
    path.write_bytes(head + b"".join(headers) + note + b"".join(SEGMENTS.values()) + bytes(64))


def open_core(path: Path) -> Program:
    prog = Program()
    prog.set_core_dump(path)
    return prog


def test_elf(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    qemu_core(small)
    sparse_elf(small, large, 10 * GIB)
    assert large.stat().st_size > 10 * GIB
    assert large.stat().st_blocks * 512 < 2 * small.stat().st_size
    prog = open_core(large)
    for where, data in SEGMENTS.items():
        assert prog.read(where, len(data), physical=True) == data
    # The memory that is more is there, all of it, and empty.
    for where in (GIB, 6 * GIB - PAGE, 6 * GIB, 11 * GIB - PAGE):
        assert prog.read(where, PAGE, physical=True) == bytes(PAGE)
    with pytest.raises(FaultError):
        prog.read(11 * GIB, 1, physical=True)
    # Real memory lies in the middle of the file.
    data = large.open("rb").read(1 << 12)
    phnum = struct.unpack_from("<H", data, 56)[0]
    offsets = {
        paddr: offset
        for kind, _, offset, _, paddr, *_ in (
            struct.unpack_from("<IIQQQQQQ", data, 64 + 56 * i) for i in range(phnum)
        )
        if kind == 1
    }
    assert offsets[GIB] < 5 * GIB <= offsets[0] < offsets[1 << 20] < offsets[6 * GIB]


def test_kdump(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    pages = {1: b"a" * PAGE, 2: bytes(range(256)) * 16, 70_000: b"b" * PAGE}
    with small.open("w+b") as file:
        write_kdump(
            file,
            pages,
            page_size=PAGE,
            byte_order="<",
            utsname=[b"Linux", b"host", b"6.12.0", b"#1 SMP", b"x86_64", b"(none)"],
            vmcoreinfo=VMCOREINFO,
        )
    sparse_kdump(small, large, 10 * GIB)
    prog = open_core(large)
    for frame, page in pages.items():
        assert prog.read(frame * PAGE, PAGE, physical=True) == page
    for frame in (0, 3, 70_001, 2_000_000):
        with pytest.raises(FaultError):
            prog.read(frame * PAGE, 1, physical=True)
    # Read by someone else, it is the same but for its size.
    was, now = Kdump(small), Kdump(large)
    assert now.max_mapnr == was.max_mapnr + 10 * GIB // PAGE
    assert (now.pages, now.vmcoreinfo, now.utsname) == (was.pages, was.vmcoreinfo, was.utsname)


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(PAGE))
    for make in (sparse_elf, sparse_kdump):
        with pytest.raises(VmError, match="is not a"):
            make(other, tmp_path / "to", GIB)
