# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores that we write: read by libkdumpfile (through drgn), and by a reader of the tests."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from drgn import FaultError, Program
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_sockets.target.kdump import write_kdump
from vm.kdump_pages import Kdump

PAGE = 4096
UTSNAME = [b"Linux", b"host", b"6.12.0", b"#1 SMP", b"x86_64", b"(none)"]
VMCOREINFO = (
    b"OSRELEASE=6.12.0\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff82000000\n"
    b"KERNELOFFSET=0\nNUMBER(phys_base)=0\nNUMBER(pgtable_l5_enabled)=0\n"
)


def write(path: Path, pages: dict[int, bytes]) -> int:
    with path.open("w+b") as file:
        return write_kdump(
            file,
            pages,
            page_size=PAGE,
            byte_order="<",
            utsname=UTSNAME,
            vmcoreinfo=VMCOREINFO,
        )


CASES = {
    "one": {0: bytes(PAGE)},
    "last of a block of the bitmap, and the next": {
        8 * PAGE - 1: b"a" * PAGE,
        8 * PAGE: b"b" * PAGE,
    },
    "does not compress": {5: os.urandom(PAGE), 6: b"c" * PAGE},
    "1 TiB up": {1: b"d" * PAGE, 1 << 28: b"e" * PAGE},
}


@pytest.mark.parametrize("pages", CASES.values(), ids=CASES)
def test_what_is_written_is_read(tmp_path: Path, pages: dict[int, bytes]) -> None:
    path = tmp_path / "core"
    size = write(path, pages)
    assert size == path.stat().st_size
    # Bitmaps of a large machine are holes.
    assert path.stat().st_blocks * 512 <= 16 * PAGE + sum(map(len, pages.values()))
    prog = Program()
    prog.set_core_dump(path)
    for frame, page in pages.items():
        assert prog.read(frame * PAGE, PAGE, physical=True) == page
        for near in (frame - 1, frame + 1):
            if near >= 0 and near not in pages:
                with pytest.raises(FaultError):
                    prog.read(near * PAGE, 1, physical=True)
    assert prog["VMCOREINFO"].string_() == VMCOREINFO
    assert prog["UTS_RELEASE"].string_() == b"6.12.0"
    mine = Kdump(path)
    assert mine.pages == pages
    assert (mine.vmcoreinfo, mine.utsname) == (VMCOREINFO, UTSNAME)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 1 << 20), min_size=1, max_size=50))
def test_any_frames(frames: set[int]) -> None:
    pages = {frame: struct.pack("<Q", frame) * (PAGE // 8) for frame in frames}
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"drgn-sockets-kdump-{os.getpid()}"
    try:
        write(path, pages)
        assert Kdump(path).pages == pages
        prog = Program()
        prog.set_core_dump(path)
        for frame in frames:
            assert prog.read_u64(frame * PAGE + 8, physical=True) == frame
    finally:
        path.unlink(missing_ok=True)
