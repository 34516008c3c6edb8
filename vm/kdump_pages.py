# SPDX-License-Identifier: LGPL-2.1-or-later
"""A reader of kdump-compressed cores for tests. It shares no code with what they test."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

_HEADER = struct.Struct("<8si390s6xqqIiiIIIIIIi")
_SUB_HEADER = struct.Struct("<Qii11Q")
_DESCRIPTOR = struct.Struct("<QIIQ")


class Kdump:
    """A core of a little-endian 64-bit machine in makedumpfile's format."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        signature, version, names, *rest = _HEADER.unpack_from(data)
        assert (signature, version) == (b"KDUMP   ", 6)
        self.utsname = [names[i : i + 65].split(b"\0")[0] for i in range(0, 390, 65)]
        block, sub_blocks, bitmap_blocks = rest[3:6]
        sub = _SUB_HEADER.unpack_from(data, block)
        at, size = sub[5:7]
        self.vmcoreinfo = data[at : at + size]
        self.max_mapnr = sub[13]
        at = (1 + sub_blocks) * block
        half = bitmap_blocks * block // 2
        bitmap = int.from_bytes(data[at + half : at + 2 * half], "little")
        at += 2 * half
        #: The pages, by frame number.
        self.pages: dict[int, bytes] = {}
        while bitmap:
            frame = (bitmap & -bitmap).bit_length() - 1
            bitmap &= bitmap - 1
            offset, length, flags, _ = _DESCRIPTOR.unpack_from(data, at)
            at += _DESCRIPTOR.size
            assert at <= len(data) and offset + length <= len(data)
            page = data[offset : offset + length]
            self.pages[frame] = zlib.decompress(page) if flags & 1 else page
            assert len(self.pages[frame]) == block

    def holds(self, text: bytes) -> bool:
        """Tell whether a page contains *text*."""
        return any(text in page for page in self.pages.values())
