# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the headers of a core file say of the file: its format, and what was left out."""

from __future__ import annotations

import os
import stat
import struct
from io import FileIO
from typing import NamedTuple

from drgn_sockets.errors import UserError
from drgn_sockets.target import flattened
from drgn_sockets.target.core_file import CoreFile
from drgn_sockets.target.elf import MAGIC
from drgn_sockets.target.flattened import Flattened, Plain
from drgn_sockets.target.kdump_file import SIGNATURE

# diskdump_mod.h: struct disk_dump_header of a 64-bit machine, up to bitmap_blocks: signature,
# header_version, struct new_utsname, tv_sec and tv_usec of timestamp, status, block_size,
# sub_hdr_size, bitmap_blocks.
_HEADER = struct.Struct("<8si390s6xqqIiiI")
# The beginning of struct kdump_sub_header: phys_base, dump_level.
_SUB_HEADER = struct.Struct("<Qi")
# Status of struct disk_dump_header, by the most specific bit.
_COMPRESSIONS = {0x20: "zstd", 0x4: "snappy", 0x2: "lzo", 0x1: "zlib"}
# Bits of makedumpfile's -d.
_LEVEL = {1: "zero", 2: "cache", 4: "private cache", 8: "user", 16: "free"}
_PT_LOAD = 1
_PN_XNUM = 0xFFFF
_MACHINES = {3: "i386", 21: "ppc64", 22: "s390x", 62: "x86_64", 183: "aarch64", 243: "riscv"}
_CHUNK = 1 << 20


class FileFacts(NamedTuple):
    """A core file."""

    #: ``ELF``, ``kdump``; with more words.
    format: str
    #: Size of the file, bytes.
    size: int
    #: What makedumpfile was told to leave out (``-d``), in words.
    dump_level: str | None = None
    #: When a kdump file was written, by its header: seconds since 1970.
    written: int | None = None
    #: Bytes of memory that the machine has, as far as the headers tell.
    memory: int | None = None
    #: Bytes of memory that are in the file.
    in_file: int | None = None
    #: Machine that an ELF header names.
    machine: str | None = None
    #: What the file lacks, in words; ``None`` if nothing.
    damage: str | None = None


def file_facts(path: str) -> FileFacts | None:
    """
    Read the headers of a core file.

    :return: ``None`` if the file is neither ELF nor kdump
    :raises OSError: if it cannot be read
    """
    status = os.stat(path)  # noqa: PTH116 (pathlib takes 4 ms to import)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        return None
    with FileIO(path) as handle:
        file = flattened.opened(handle)
        magic = file.read(0, 8)
        if magic == SIGNATURE:
            facts = _kdump(file, status.st_size)
        elif magic.startswith(MAGIC):
            facts = _elf(file, status.st_size)
        else:
            return None
    try:
        missing = CoreFile(path).missing
    except UserError:
        # What is wrong was found above.
        return facts
    return facts._replace(damage=f"cut short: {missing}") if missing else facts


def _kdump(file: Plain | Flattened, size: int) -> FileFacts:
    form = "kdump, flattened" if isinstance(file, Flattened) else "kdump"
    head = file.read(0, _HEADER.size)
    if len(head) < _HEADER.size:
        return FileFacts(form, size, damage="cut short within its header")
    _, _, _, written, _, status, block, sub_blocks, bitmap_blocks = _HEADER.unpack(head)
    found = [name for bit, name in _COMPRESSIONS.items() if status & bit]
    facts = FileFacts(f"{form}, {found[0]}" if found else form, size, written=written)
    if not 512 <= block <= 1 << 20 or block & (block - 1):
        return facts._replace(damage=f"its header is damaged: pages of {block} bytes")
    sub = file.read(block, _SUB_HEADER.size)
    level = _SUB_HEADER.unpack(sub)[1] if len(sub) == _SUB_HEADER.size else None
    # The first bitmap has the pages that there are, and the second those that are in the file.
    half = bitmap_blocks * block // 2
    start = (1 + sub_blocks) * block
    there, kept = _ones(file, start, half), _ones(file, start + half, half)
    if there is None or kept is None:
        return facts._replace(dump_level=_level(level), damage="cut short within its bitmaps")
    return facts._replace(dump_level=_level(level), memory=there * block, in_file=kept * block)


def _level(level: int | None) -> str | None:
    if level is None:
        return None
    out = [name for bit, name in _LEVEL.items() if level & bit]
    return f"{level} (without {', '.join(out)} pages)" if out else str(level)


def _ones(file: Plain | Flattened, start: int, size: int) -> int | None:
    """How many bits are set; ``None`` if the file ends before."""
    count = 0
    for at in range(start, start + size, _CHUNK):
        want = min(_CHUNK, start + size - at)
        data = file.read(at, want)
        if len(data) < want:
            return None
        count += bin(int.from_bytes(data, "little")).count("1")
    return count


def _elf(file: Plain | Flattened, size: int) -> FileFacts:
    ident = file.read(0, 64)
    facts = FileFacts("ELF", size)
    if len(ident) < 64:
        return facts._replace(damage="cut short within its header")
    if ident[4] != 2:
        return facts._replace(format="ELF of 32 bits")
    order = ">" if ident[5] == 2 else "<"
    number, machine = struct.unpack_from(f"{order}HH", ident, 16)
    facts = facts._replace(machine=_MACHINES.get(machine, f"ELF machine {machine}"))
    if number != 4:
        facts = facts._replace(format="ELF, but no core")
    at, sections = struct.unpack_from(f"{order}2Q", ident, 32)
    entry, count = struct.unpack_from(f"{order}2H", ident, 54)
    if count == _PN_XNUM:
        # There are more than the header has room for: sh_info of the first section tells.
        section = file.read(sections, 64)
        count = struct.unpack_from(f"{order}I", section, 44)[0] if len(section) == 64 else 0
    form = struct.Struct(f"{order}2I6Q")
    table = file.read(at, count * entry) if entry == form.size and count <= 1 << 20 else b""
    if not table or len(table) < count * entry:
        return facts._replace(damage="cut short within its program headers, or damaged there")
    memory = in_file = 0
    for kind, _, _, _, _, in_file_size, in_memory, _ in form.iter_unpack(table):
        if kind == _PT_LOAD:
            memory += in_memory
            in_file += in_file_size
    return facts._replace(memory=memory, in_file=in_file)
