# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a core dump's own headers say of it, read before drgn opens the file."""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

from drgn import Architecture, Platform

from drgn_sockets.target import flattened
from drgn_sockets.target.flattened import Flattened, Plain

KDUMP_SIGNATURE = b"KDUMP   "

# diskdump_mod.h: struct disk_dump_header of a 64-bit machine, up to max_mapnr: signature,
# header_version, struct new_utsname, timestamp, status, block_size, sub_hdr_size, bitmap_blocks.
_HEADER = "8si390s6x16xIiiI"
_MACHINE = slice(4 * 65, 5 * 65)
# struct kdump_sub_header of a 64-bit machine: phys_base, dump_level, split, start_pfn, end_pfn,
# offset and size of VMCOREINFO, of the notes and of eraseinfo, start_pfn_64, end_pfn_64,
# max_mapnr_64.
_SUB_HEADER = "Qii11Q"
_HAS_VMCOREINFO = 3
_HAS_NOTES = 4
# VMCOREINFO is a page, and a note for each processor is below a kilobyte.
_MAX_NOTES = 1 << 24

#: ``uname -m``, as kernels print it.
_MACHINES = {
    "x86_64": Architecture.X86_64,
    "aarch64": Architecture.AARCH64,
    "ppc64le": Architecture.PPC64,
    "riscv64": Architecture.RISCV64,
}
#: What only kernels of one architecture have in VMCOREINFO (arch_crash_save_vmcoreinfo()).
_MARKS = {
    rb"^SYMBOL\((?:init_top_pgt|init_level4_pgt)\)=": Architecture.X86_64,
    rb"^NUMBER\(kimage_voffset\)=": Architecture.AARCH64,
}


class CoreFile(NamedTuple):
    """A core dump."""

    #: The path as it was given.
    path: str
    #: The architecture that a kdump file tells in one way or another. drgn finds out that of an
    #: ELF file.
    architecture: Architecture | None = None

    def platform(self) -> Platform | None:
        """What drgn has to be told; ``None`` if it finds out itself."""
        return Platform(self.architecture) if self.architecture is not None else None


def look_at(path: str) -> CoreFile:
    """
    Read the headers of a file.

    :raises OSError: if it cannot be read
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file = flattened.opened(fd)
        if file.read(0, len(KDUMP_SIGNATURE)) == KDUMP_SIGNATURE:
            return CoreFile(path, _kdump_architecture(file))
        return CoreFile(path)
    finally:
        os.close(fd)


def _kdump_architecture(file: Plain | Flattened) -> Architecture | None:
    """
    Find out the architecture of a kdump-compressed dump.

    libkdumpfile takes it from ``struct new_utsname`` in the header, if that has a sysname, a
    release and a version. QEMU fills in the machine only.
    """
    size = struct.calcsize("<" + _HEADER)
    head = file.read(0, size)
    if len(head) < size:
        return None
    _, version, names, _, block_size, *_ = struct.unpack("<" + _HEADER, head)
    for mark, architecture in _MARKS.items():
        if re.search(mark, _vmcoreinfo(file, version, block_size), re.MULTILINE):
            return architecture
    return _MACHINES.get(names[_MACHINE].split(b"\0")[0].decode("ascii", "replace"))


def _vmcoreinfo(file: Plain | Flattened, version: int, block_size: int) -> bytes:
    """VMCOREINFO of a kdump-compressed dump; empty if it has none."""
    size = struct.calcsize("<" + _SUB_HEADER)
    head = file.read(block_size, size)
    if len(head) < size:
        return b""
    at, size, notes_at, notes_size = struct.unpack("<" + _SUB_HEADER, head)[5:9]
    if version >= _HAS_VMCOREINFO and at and 0 < size <= _MAX_NOTES:
        return file.read(at, size)
    if version >= _HAS_NOTES and notes_at and 0 < notes_size <= _MAX_NOTES:
        return _note(file.read(notes_at, notes_size), b"VMCOREINFO")
    return b""


def _note(notes: bytes, name: bytes) -> bytes:
    """The contents of an ELF note, by the name of its owner; empty if there is none."""
    head = struct.Struct("<3I")
    at = 0
    while at + head.size <= len(notes):
        name_size, size, _ = head.unpack_from(notes, at)
        name_at = at + head.size
        at = name_at + (name_size + 3 & ~3)
        if notes[name_at : name_at + name_size].rstrip(b"\0") == name:
            return notes[at : at + size]
        at += size + 3 & ~3
    return b""
