# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Faults in a core's file: it is cut, or its headers, VMCOREINFO, BTF or kallsyms are damaged.

A fault is written as what is done to which form of the file::

    elf:cut=123456           so many bytes are left
    kdump:1c0=ffff0000       these bytes at an offset
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from drgn import Program

from drgn_sockets.target.recorder import Recorder
from drgn_sockets.target.symbols import vmcoreinfo
from tests.unit.dumps import elf, note

from .faults import Fault

_PAGE = 4096
# sizeof(Elf64_Ehdr)
_EHDR_SIZE = 64
#: The kernel's own types and symbols: the first of two symbols, and the last.
_TABLES = {
    "BTF": ("__start_BTF", "__stop_BTF"),
    "kallsyms": ("kallsyms_num_syms", "kallsyms_seqs_of_names"),
}


class Area(NamedTuple):
    """Bytes of a file that mean something."""

    name: str
    offset: int
    size: int


class CoreFile:
    """A form of the core, and what is where in it."""

    def __init__(self, form: str, data: bytes, areas: list[Area]) -> None:
        self.form = form
        self.data = data
        self.areas = areas

    def choose(self, rng: random.Random) -> Fault:
        """Choose a fault."""
        if rng.random() < 0.2:
            size = len(self.data)
            left = rng.choice(
                (rng.randrange(size), rng.randrange(4096), size - rng.randrange(4096))
            )
            return Fault("file cut", "file", f"{self.form}:cut={left}")
        area = rng.choice(self.areas)
        at = area.offset + rng.randrange(area.size)
        if area.name == "VMCOREINFO":
            return self._in_text(rng, area)
        width = rng.choice((1, 1, 2, 4, 8))
        at = min(at // width * width, len(self.data) - width)
        data = self.data[at : at + width]
        new = rng.choice(
            (
                bytes(width),
                b"\xff" * width,
                bytes((data[0] ^ 1 << rng.randrange(8), *data[1:])),
                rng.randbytes(width),
            )
        )
        return Fault("file damaged", area.name, f"{self.form}:{at:x}={new.hex()}")

    def _in_text(self, rng: random.Random, area: Area) -> Fault:
        """Damage a line of VMCOREINFO that is read."""
        text = self.data[area.offset : area.offset + area.size]
        wanted = rb"OSRELEASE|PAGESIZE|SYMBOL\((?:swapper|kallsyms|_stext)|NUMBER\(|KERNELOFFSET"
        lines = [m for m in re.finditer(rb"([^\n=]+)=([^\n]*)\n", text) if re.match(wanted, m[1])]
        line = rng.choice(lines)
        size = len(line[2])
        new = rng.choice(
            (
                b"f" * size,
                b"0" * size,
                b"-" + b"9" * (size - 1),
                b"z" * size,
                b"\xff" * size,
                b"\x1b" * size,
                rng.randbytes(size),
                line[2][:-1] + rng.choice((b"0", b"1", b"9", b"g", b"\n")),
            )
        )
        at = area.offset + line.start(2)
        return Fault("file damaged", "VMCOREINFO", f"{self.form}:{at:x}={new[:size].hex()}")

    def damaged(self, what: str) -> bytes:
        """The file with a fault in it, which is written as above, without the form."""
        at, _, value = what.partition("=")
        if at == "cut":
            return self.data[: int(value)]
        offset, new = int(at, 16), bytes.fromhex(value)
        return self.data[:offset] + new + self.data[offset + len(new) :]


def of_kdump(core: Path) -> CoreFile:
    """The file as it is."""
    data = core.read_bytes()
    start = data.index(b"OSRELEASE=")
    end = data.index(b"\0", start)
    return CoreFile(
        "kdump",
        data,
        [Area("VMCOREINFO", start, end - start), Area("header of kdump", 0, 4096 + 256)],
    )


def of_elf(prog: Program, core: Path) -> CoreFile:
    """The same memory, as an ELF core."""
    pages = dict(_pages(prog, core))
    text = vmcoreinfo(prog).encode()
    notes = note(b"VMCOREINFO", 0, text)
    data = elf(pages, notes)
    # Pages are the end of the file, in the order of their numbers.
    start = len(data) - len(pages) * _PAGE
    headers = start - len(notes)
    places = {frame: start + i * _PAGE for i, frame in enumerate(sorted(pages))}
    areas = [
        Area("ELF header", 0, _EHDR_SIZE),
        Area("program headers", _EHDR_SIZE, headers - _EHDR_SIZE),
        Area("header of a note", headers, 24),
        Area("VMCOREINFO", headers + 24, len(text)),
    ]
    recorder = Recorder(prog, "TORTURE=1")
    for name, (first, last) in _TABLES.items():
        begin, end = prog.symbol(first).address, prog.symbol(last).address
        for page in range(begin // _PAGE, end // _PAGE):
            offset = places.get(recorder._frame(page))
            if offset is not None:
                areas.append(Area(name, offset, _PAGE))
                # The beginning of BTF is its header, which is chosen as often as all the rest.
    return CoreFile("elf", data, _evenly(areas))


def _evenly(areas: list[Area]) -> list[Area]:
    """So many areas of each name that each name is chosen as often; of many, some."""
    names = dict.fromkeys(area.name for area in areas)
    found = []
    for name in names:
        some = [area for area in areas if area.name == name]
        found += [some[i * len(some) // 8] for i in range(8)]
    return found


def _pages(prog: Program, core: Path) -> Iterator[tuple[int, bytes]]:
    """The pages of a core in kdump's format; its second bitmap says which there are."""
    data = core.read_bytes()
    block, sub, bitmaps = struct.unpack_from("<III", data, 428)
    size = bitmaps // 2 * block
    start = block * (1 + sub) + size
    for at, byte in enumerate(data[start : start + size]):
        for bit in range(8) if byte else ():
            if byte >> bit & 1:
                frame = 8 * at + bit
                yield frame, prog.read(frame * _PAGE, _PAGE, physical=True)
