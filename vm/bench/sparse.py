# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cores of large machines, made from cores of small ones: the same contents and a hole.

The time of a command must depend on what it reads, and not on the size of memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from drgn_sockets.target import flattened
from vm.errors import VmError

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_PT_LOAD = 1
_PT_NOTE = 4

# diskdump_mod.h, as makedumpfile and QEMU write it: struct disk_dump_header up to nr_cpus,
# struct kdump_sub_header up to max_mapnr_64, page_desc_t.
_KDUMP = struct.Struct("<8si390s6xqqIiiIIIIIIi")
_KDUMP_SUB = struct.Struct("<Qii11Q")
_KDUMP_PAGE = struct.Struct("<QIIQ")

_PAGE = 4096
_CHUNK = 1 << 20


def sparse_elf(core: Path, to: Path, size: int) -> None:
    """
    Make an ELF core of a machine with *size* bytes more memory, all of it zeros.

    Half of the zeros are before the real memory in the file, half behind it, so that real memory
    is at large offsets. On disk the zeros are holes.

    :param core: of a little-endian machine of 64 bits, as QEMU writes it
    :raises VmError: if it is another one
    """
    half = size // 2 // _PAGE * _PAGE
    with core.open("rb") as file, to.open("wb") as out:
        source = flattened.Plain(file)
        header = list(_EHDR.unpack(source.read(0, _EHDR.size)))
        if not header[0].startswith(b"\x7fELF\x02\x01") or header[9] != _PHDR.size:
            raise VmError(f"{core} is not an ELF core of a little-endian machine of 64 bits")
        table = source.read(header[5], header[10] * _PHDR.size)
        segments = [list(s) for s in _PHDR.iter_unpack(table)]
        top = max(s[4] + s[6] for s in segments if s[0] == _PT_LOAD)
        # Physical addresses above all memory of the machine are free.
        holes = [-(-top // (1 << 30) << 30) + i * half for i in range(2)]

        table_end = _EHDR.size + (len(segments) + 2) * _PHDR.size
        at = table_end
        placed = []
        for s in segments:
            if s[0] == _PT_NOTE:
                placed.append((at, s))
                at += s[5]
        at = -(-at // _PAGE) * _PAGE
        before, at = at, at + half
        for s in segments:
            if s[0] != _PT_NOTE:
                placed.append((at, s))
                at += -(-s[5] // _PAGE) * _PAGE
        after, at = at, at + half

        # QEMU writes sections as well, which no reader of cores uses.
        header[5], header[6], header[10:] = _EHDR.size, 0, [len(segments) + 2, 0, 0, 0]
        out.write(_EHDR.pack(*header))
        for offset, s in placed:
            out.write(_PHDR.pack(*s[:2], offset, *s[3:]))
        for offset, hole in zip((before, after), holes):
            out.write(_PHDR.pack(_PT_LOAD, 0, offset, 0, hole, half, half, 0))
        for offset, s in placed:
            _copy(source.read, s[2], s[5], out, offset)
        out.truncate(at)


def sparse_kdump(core: Path, to: Path, size: int) -> None:
    """
    Make a kdump-compressed core of a machine with *size* bytes more memory.

    The added pages are left out of the file, as makedumpfile leaves out free pages.

    :param core: in makedumpfile's format, which may be flattened
    :raises VmError: if it is in another one
    """
    with core.open("rb") as file, to.open("wb") as out:
        source = flattened.opened(file)
        header = list(_KDUMP.unpack(source.read(0, _KDUMP.size)))
        block, sub_blocks, bitmap_blocks = header[6], header[7], header[8]
        if header[0] != b"KDUMP   " or header[1] < 6:
            raise VmError(f"{core} is not a kdump-compressed core of version 6")
        sub = list(_KDUMP_SUB.unpack(source.read(block, _KDUMP_SUB.size)))
        frames = sub[13] + size // block
        bitmap_at = (1 + sub_blocks) * block
        old_half = bitmap_blocks * block // 2
        half = -(-frames // (8 * block)) * block
        shift = 2 * (half - old_half)

        there = source.read(bitmap_at, old_half)
        dumped = source.read(bitmap_at + old_half, old_half)
        header[8], header[9] = 2 * half // block, frames & 0xFFFFFFFF
        sub[13] = frames
        _copy(source.read, 0, bitmap_at, out, 0)
        out.seek(0)
        out.write(_KDUMP.pack(*header))
        out.seek(block)
        out.write(_KDUMP_SUB.pack(*sub))
        out.seek(bitmap_at)
        out.write(there)
        out.write(b"\xff" * (frames // 8 - old_half))
        out.seek(bitmap_at + half)
        out.write(dumped)

        # Offsets of pages follow, then the pages.
        pages = bin(int.from_bytes(dumped, "little")).count("1")
        at = bitmap_at + 2 * old_half
        descriptors = source.read(at, pages * _KDUMP_PAGE.size)
        out.seek(bitmap_at + 2 * half)
        for offset, *rest in _KDUMP_PAGE.iter_unpack(descriptors):
            out.write(_KDUMP_PAGE.pack(offset + shift, *rest))
        at += len(descriptors)
        end = source.size()
        _copy(source.read, at, end - at, out, at + shift)
        out.truncate(end + shift)


def _copy(read: Callable[[int, int], bytes], start: int, size: int, out: BinaryIO, to: int) -> None:
    """Copy bytes, leaving holes for pages of zeros."""
    end = start + size
    while start < end:
        data = read(start, min(end - start, _CHUNK))
        if not data:
            raise VmError("the core is cut short")
        start += len(data)
        if data.count(0) != len(data):
            out.seek(to)
            out.write(data)
        to += len(data)
