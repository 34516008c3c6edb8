# SPDX-License-Identifier: LGPL-2.1-or-later
"""
VMCOREINFO of a dump without a note of it, found in the dumped memory.

A QEMU guest without the vmcoreinfo device has it in memory all the same: the kernel writes the
text into a page of its own when it boots (crash_save_vmcoreinfo_init()). Memory has copies too: in
cores that files in the page cache are, in notes, in freed pages. So each text is tried: with the
right one, the kernel's own name is where the text says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Callable, NamedTuple

from drgn import FaultError, Program

from drgn_sockets.target.core_file import Chunk

_TEXT = re.compile(
    rb"OSRELEASE=([!-~]{1,64})\n(?:BUILD-ID=[0-9a-f]+\n)?PAGESIZE=(\d{4,7})\n(?:[ -~]+\n)+(?=\0)"
)
_START = b"OSRELEASE="
# VMCOREINFO_BYTES is a page, which may have 64 KiB.
_MAX_SIZE = 1 << 16
_CHUNK = 1 << 20
# Texts that are tried: each opens the dump again.
_MAX_TRIES = 50
# struct uts_namespace has its struct new_utsname near its start.
_UTS_NAMESPACE = 1024

#: Opens the dump with a VMCOREINFO.
Opener = Callable[[bytes], Program]


class Found(NamedTuple):
    """A text."""

    #: Physical address.
    address: int
    text: bytes
    #: Whether it is the kernel's own: at the start of a page that has nothing else.
    is_original: bool


def find(chunks: Iterable[Chunk], opened: Opener) -> Found | None:
    """
    Find the VMCOREINFO of a dump's kernel.

    Of texts that fit, it is the kernel's own, or else the longest.

    :param chunks: Physical memory, from the highest address to the lowest: kernels allocate early
        pages near the end, so that little is read.
    """
    best: Found | None = None
    tried: set[bytes] = set()
    for found in _texts(chunks):
        if best is not None and len(found.text) <= len(best.text) and not found.is_original:
            continue
        if found.text not in tried:
            if len(tried) >= _MAX_TRIES:
                break
            tried.add(found.text)
            if not _fits(found.text, opened):
                continue
        elif best is None or found.text != best.text:
            continue
        best = found
        if found.is_original:
            break
    return best


def find_in_guest(guest: Program, ranges: Sequence[tuple[int, int]]) -> Found | None:
    """
    Find the VMCOREINFO of a running guest's kernel.

    :param guest: Reads its physical memory.
    :param ranges: Addresses and sizes of memory, from the lowest address to the highest.
    """

    def read(address: int, size: int, _offset: int = 0, _physical: bool = True) -> bytes:
        data: bytes = guest.read(address, size, physical=True)
        return data

    def chunks() -> Iterator[Chunk]:
        for start, size in reversed(ranges):
            for at in range((size - 1) // _CHUNK * _CHUNK, -1, -_CHUNK):
                try:
                    yield start + at, read(start + at, min(_CHUNK, size - at))
                except FaultError:
                    pass

    def opened(text: bytes) -> Program:
        prog = Program(platform=guest.platform)
        prog.add_memory_segment(0, (1 << 64) - 1, read, physical=True)
        prog.set_linux_kernel_custom(text, False)
        return prog

    return find(chunks(), opened)


def _texts(chunks: Iterable[Chunk]) -> Iterator[Found]:
    above, tail = -1, b""
    for address, data in chunks:
        size = len(data)
        # A text may go on in the piece before, which is the next one in memory.
        data += tail if above == address + size else b""
        above, tail = address, data[:_MAX_SIZE]
        at = data.find(_START)
        while 0 <= at < size:
            match = _TEXT.match(data, at, at + _MAX_SIZE)
            if match is not None:
                page_size = int(match[2])
                is_aligned = page_size & (page_size - 1) == 0 and (address + at) % page_size == 0
                rest = data[match.end() : at + page_size]
                yield Found(address + at, match[0], is_aligned and not rest.strip(b"\0"))
            at = data.find(_START, at + 1)


def _fits(text: bytes, opened: Opener) -> bool:
    """Whether the kernel's name is where a VMCOREINFO says it is."""
    release = text[len(_START) : text.index(b"\n")]
    match = re.search(rb"^SYMBOL\(init_uts_ns\)=([0-9a-f]+)$", text, re.MULTILINE)
    if match is None:
        return False
    try:
        names = opened(text).read(int(match[1], 16), _UTS_NAMESPACE)
    except (FaultError, ValueError, OverflowError):
        return False
    except Exception as e:
        # drgn raises a plain Exception for libkdumpfile's errors.
        if type(e) is not Exception:
            raise
        return False
    return b"Linux\0" in names and b"\0" + release + b"\0" in names
