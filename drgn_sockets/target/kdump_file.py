# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kdump-compressed dumps: their header, and a reader of their pages.

libkdumpfile, which drgn reads such files with, takes long to open a flattened one: the square of
the number of records, 60 ms for 200 MB and minutes for 20 GB. The reader here takes 10 ms and
one second, and reads what is left of a file that is cut short.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError

from drgn_sockets.target.flattened import Flattened, Plain

SIGNATURE = b"KDUMP   "

# diskdump_mod.h: struct disk_dump_header, up to bitmap_blocks: signature, header_version, struct
# new_utsname, timestamp, status, block_size, sub_hdr_size, bitmap_blocks.
_HEADER = "8si390s6x16xIiiI"
_HEADER_32 = "8si390s2x8xIiiI"
_UTSNAME_FIELD = 65
# struct kdump_sub_header of a 64-bit machine: phys_base, dump_level, split, start_pfn, end_pfn,
# offset and size of VMCOREINFO, of the notes and of eraseinfo, start_pfn_64, end_pfn_64,
# max_mapnr_64.
_SUB_HEADER = "Qii11Q"
# struct page_desc: offset, size, flags, page_flags.
_DESCRIPTOR = "QIIQ"

# header_version from which on a member is there.
_HAS_SPLIT = 2
_HAS_VMCOREINFO = 3
_HAS_NOTES = 4
_HAS_MAX_MAPNR_64 = 6

# Flags of a descriptor, and of the header's status, which tells how pages are compressed.
_ZLIB = 0x1
_OTHERS = 0x2 | 0x4 | 0x20  # lzo, snappy, zstd
#: Of the header's status: makedumpfile ran out of space.
_INCOMPLETE = 0x8

# Descriptors of pages are counted in so many bytes of the bitmap at a time.
_GROUP = 64
_CACHED_BYTES = 1 << 24
_CACHED_PAGES = 1 << 10
# VMCOREINFO is a page, and a note for each processor is below a kilobyte.
_MAX_NOTES = 1 << 24
_BLOCK_SIZES = tuple(1 << shift for shift in range(12, 17))
# Bytes of descriptors that are read at a time, from the last one on.
_TAIL = 1 << 16


class BadHeaderError(Exception):
    """A header that is damaged, or not whole."""


class KdumpHeader(NamedTuple):
    """What the headers say."""

    #: ``<`` or ``>``.
    order: str
    #: 32 or 64.
    bits: int
    version: int
    #: Fields of ``struct new_utsname``.
    utsname: list[bytes]
    status: int
    block_size: int
    #: Where the first bitmap is, and how large the two are together.
    bitmap_at: int
    bitmap_size: int
    #: Members of the sub-header, 0 where the version has none.
    split: int
    vmcoreinfo_at: int
    vmcoreinfo_size: int
    notes_at: int
    notes_size: int

    @property
    def machine(self) -> str:
        """``uname -m``, if the header has it."""
        return self.utsname[4].decode("ascii", "replace")

    @property
    def is_incomplete(self) -> bool:
        """Whether makedumpfile ran out of space."""
        return bool(self.status & _INCOMPLETE)

    @property
    def needs_libkdumpfile(self) -> bool:
        """Whether pages are compressed with something that Python has no module for."""
        return bool(self.status & _OTHERS)


def read_header(file: Plain | Flattened) -> KdumpHeader:
    """
    Read the headers of a file that begins with :data:`SIGNATURE`.

    :raises BadHeaderError: if they are damaged, or not whole
    """
    head = file.read(0, struct.calcsize("<" + _HEADER))
    for order in "<>":
        for bits, layout in ((64, _HEADER), (32, _HEADER_32)):
            size = struct.calcsize(order + layout)
            if len(head) < size:
                raise BadHeaderError
            values = struct.unpack(order + layout, head[:size])
            machine = values[2][4 * _UTSNAME_FIELD :]
            if bits == 64 and re.match(rb"i[3-6]86|arm", machine):
                continue
            _, version, names, status, block_size, sub_blocks, bitmap_blocks = values
            if 0 < version < 1 << 16 and block_size in _BLOCK_SIZES:
                utsname = [
                    names[i : i + _UTSNAME_FIELD].split(b"\0")[0]
                    for i in range(0, len(names), _UTSNAME_FIELD)
                ]
                sub = _read_sub_header(file, order, bits, version, block_size)
                bitmap_at = (1 + sub_blocks) * block_size
                bitmap_size = bitmap_blocks * block_size
                found = (order, bits, version, utsname, status, block_size, bitmap_at)
                return KdumpHeader(*found, bitmap_size, *sub)
    raise BadHeaderError


def _page_bits(file: Plain | Flattened, header: KdumpHeader) -> bytes:
    """
    The second bitmap, which says what pages are in the file; the first one says what pages exist.

    :raises BadHeaderError: if it is not whole
    """
    half = header.bitmap_size // 2
    if not 0 < half <= file.file_size:
        raise BadHeaderError
    bits = file.read(header.bitmap_at + half, half)
    if len(bits) < half:
        raise BadHeaderError
    return bits


def _read_sub_header(
    file: Plain | Flattened, order: str, bits: int, version: int, at: int
) -> tuple[int, int, int, int, int]:
    if bits != 64:
        return (0, 0, 0, 0, 0)
    size = struct.calcsize(order + _SUB_HEADER)
    head = file.read(at, size)
    if len(head) < size:
        raise BadHeaderError
    values = struct.unpack(order + _SUB_HEADER, head)
    return (
        values[2] if version >= _HAS_SPLIT else 0,
        *(values[5:7] if version >= _HAS_VMCOREINFO else (0, 0)),
        *(values[7:9] if version >= _HAS_NOTES else (0, 0)),
    )


def vmcoreinfo(file: Plain | Flattened, header: KdumpHeader) -> bytes | None:
    """VMCOREINFO of a dump; ``None`` if it has none, neither by its offset nor among the notes."""
    texts = []
    if header.vmcoreinfo_at and 0 < header.vmcoreinfo_size <= _MAX_NOTES:
        texts.append(file.read(header.vmcoreinfo_at, header.vmcoreinfo_size))
    if header.notes_at and 0 < header.notes_size <= _MAX_NOTES:
        notes = file.read(header.notes_at, header.notes_size)
        texts += [text for name, _, text in elf_notes(notes, header.order) if name == b"VMCOREINFO"]
    return next((text.rstrip(b"\0") for text in texts if b"OSRELEASE=" in text), None)


def expected_size(file: Plain | Flattened, header: KdumpHeader) -> tuple[int, bool]:
    """
    The size that a file has to have by its descriptors of pages, and whether it is not more.

    The last pages are behind all others. Descriptors may share a page of zeros, which is an early
    one, so they are looked at from the last one on until one is of another page.

    :raises BadHeaderError: if the file ends before its descriptors
    """
    bits = _page_bits(file, header)
    descriptor = struct.Struct(header.order + _DESCRIPTOR)
    start = header.bitmap_at + header.bitmap_size
    first_page = start + _ones(int.from_bytes(bits, "little")) * descriptor.size
    step = _TAIL // descriptor.size * descriptor.size
    end = first_page
    while end > start:
        at = max(end - step, start)
        data = file.read(at, end - at)
        if len(data) < end - at:
            # The table itself is cut short: of the pages nothing is known.
            return first_page, False
        last: int = max(o + size for o, size, *_ in descriptor.iter_unpack(data))
        if last > first_page + header.block_size:
            return last, True
        end = at
    return first_page, True


def elf_notes(data: bytes, order: str) -> Iterator[tuple[bytes, int, bytes]]:
    """Name, type and contents of each ELF note in *data*."""
    head = struct.Struct(order + "3I")
    at = 0
    while at + head.size <= len(data):
        name_size, size, kind = head.unpack_from(data, at)
        name_at = at + head.size
        at = name_at + (name_size + 3 & ~3)
        yield data[name_at : name_at + name_size].rstrip(b"\0"), kind, data[at : at + size]
        at += size + 3 & ~3


if sys.version_info >= (3, 10):
    _ones = int.bit_count
else:

    def _ones(number: int) -> int:
        return bin(number).count("1")


class KdumpPages:
    """
    Pages of a dump of a 64-bit machine, compressed with zlib or not at all.

    :raises BadHeaderError: if the file ends before the descriptors of its pages
    """

    def __init__(self, file: Plain | Flattened, header: KdumpHeader) -> None:
        self._file = file
        self._size = header.block_size
        self._bits = bits = _page_bits(file, header)
        self._descriptors_at = header.bitmap_at + header.bitmap_size
        self._descriptor = struct.Struct(header.order + _DESCRIPTOR)
        #: How many pages are in the file before each group of the bitmap.
        self._before = before = array("Q")
        count = 0
        for at in range(0, len(bits), _GROUP):
            before.append(count)
            count += _ones(int.from_bytes(bits[at : at + _GROUP], "little"))
        #: How many pages are in the file.
        self.count = count
        #: Page frame numbers are below this.
        self.end = len(bits) * 8
        self._cache: dict[int, bytes] = {}

    def read(self, address: int, size: int, _offset: int = 0, _physical: bool = True) -> bytes:
        """
        Read physical memory; the arguments are those of a function that reads memory for drgn.

        :raises FaultError: if it is not in the file
        """
        page_size = self._size
        frame, inside = divmod(address, page_size)
        cache = self._cache
        if inside + size <= page_size:
            page = cache.get(frame) or self._load(frame)
            return page[inside : inside + size]
        pieces = []
        while size > 0:
            page = cache.get(frame) or self._load(frame)
            piece = page[inside : inside + size]
            pieces.append(piece)
            size -= len(piece)
            frame += 1
            inside = 0
        return b"".join(pieces)

    def runs(self, limit: int) -> Iterator[tuple[int, int]]:
        """
        Address and size of pages in the file, from the last to the first.

        Pages that follow each other are one piece, up to *limit* bytes, a power of two.
        """
        frames = limit // self._size
        for group in range((self.end - 1) // frames, -1, -1):
            first = group * frames
            bits = int.from_bytes(self._bits[first // 8 : (first + frames) // 8], "little")
            while bits:
                # The highest run of ones.
                high = bits.bit_length()
                low = (bits ^ ((1 << high) - 1)).bit_length()
                yield (first + low) * self._size, (high - low) * self._size
                bits &= (1 << low) - 1

    def _load(self, frame: int) -> bytes:
        address = frame * self._size
        byte, bit = divmod(frame, 8)
        if byte >= len(self._bits) or not self._bits[byte] >> bit & 1:
            raise FaultError("page is not in the dump", address)
        group, inside = divmod(frame, 8 * _GROUP)
        bits = int.from_bytes(self._bits[group * _GROUP : (group + 1) * _GROUP], "little")
        index = self._before[group] + _ones(bits & ((1 << inside) - 1))
        at = self._descriptors_at + index * self._descriptor.size
        head = self._file.read(at, self._descriptor.size)
        if len(head) < self._descriptor.size:
            raise FaultError("descriptor of a page is behind the end of the file", address)
        offset, size, flags, _ = self._descriptor.unpack(head)
        if not 0 < size <= self._size:
            raise FaultError("page is not in the dump, or its descriptor is damaged", address)
        data = self._file.read(offset, size)
        if len(data) < size:
            raise FaultError("page is behind the end of the file", address)
        if flags & _ZLIB:
            try:
                data = zlib.decompressobj().decompress(data, self._size)
            except zlib.error:
                data = b""
        if len(data) != self._size or flags & _OTHERS:
            raise FaultError("page cannot be decompressed", address)
        if len(self._cache) >= max(_CACHED_BYTES // self._size, _CACHED_PAGES):
            self._cache.clear()
        self._cache[frame] = data
        return data
