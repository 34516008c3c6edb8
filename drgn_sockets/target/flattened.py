# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The flattened format of dumps, which QEMU and ``makedumpfile -F`` write to where they cannot seek.

After a header, the file is a series of records, each of which has an offset in the dump, a size
and as many bytes. The record of offset -1 is the end (makedumpfile's IMPLEMENTATION file).
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right

SIGNATURE = b"makedumpfile\0\0\0\0"

_HEADER_SIZE = 4096
_RECORD = struct.Struct(">qq")
_END = -1


class Plain:
    """A file that is not flattened."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes at an offset; fewer if there are no more."""
        return os.pread(self._fd, size, offset)

    def size(self) -> int:
        """Size of the file."""
        return os.fstat(self._fd).st_size


class Flattened:
    """
    A flattened file, read as if it was put together.

    Records are looked at as far as they are needed: each is a read of its own.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        #: Offset in the file of the next record that was not looked at.
        self._next = _HEADER_SIZE
        #: Whether no more records can be looked at.
        self._done = False
        # Offsets in the dump, in order; and for each its end and the offset in the file.
        self._starts: list[int] = []
        self._places: list[tuple[int, int]] = []

    def _step(self) -> bool:
        """Look at one more record; ``False`` if there is none."""
        head = os.pread(self._fd, _RECORD.size, self._next)
        if self._done or len(head) < _RECORD.size:
            self._done = True
            return False
        offset, size = _RECORD.unpack(head)
        if offset < 0 or size <= 0:
            self._done = True
            return False
        at = bisect_right(self._starts, offset)
        self._starts.insert(at, offset)
        self._places.insert(at, (offset + size, self._next + _RECORD.size))
        self._next += _RECORD.size + size
        return True

    def _piece(self, offset: int, size: int) -> bytes:
        """Bytes from *offset* on that are in one of the records that were looked at."""
        at = bisect_right(self._starts, offset) - 1
        if at < 0:
            return b""
        end, place = self._places[at]
        size = min(size, end - offset)
        return os.pread(self._fd, size, place + offset - self._starts[at]) if size > 0 else b""

    def read(self, offset: int, size: int) -> bytes:
        """Read bytes at an offset; fewer if a record is not there, or has not all of its bytes."""
        found = b""
        while len(found) < size:
            piece = self._piece(offset + len(found), size - len(found))
            if not piece and not self._step():
                break
            found += piece
        return found

    def size(self) -> int:
        """Size of the dump, put together."""
        while self._step():
            pass
        return max((end for end, _ in self._places), default=0)


def opened(fd: int) -> Plain | Flattened:
    """Whichever a file is."""
    return Flattened(fd) if os.pread(fd, len(SIGNATURE), 0) == SIGNATURE else Plain(fd)
