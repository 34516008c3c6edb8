# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps of the demo's machine in other forms than that of its core."""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Iterable, Mapping

from drgn_sockets.demo import CORE
from drgn_sockets.target.kdump import write_kdump
from vm.kdump_pages import Kdump

PAGE = 4096
_UTSNAME = slice(12, 12 + 6 * 65)
_MACHINE = slice(4 * 65, 5 * 65)


@functools.cache
def demo() -> Kdump:
    """The demo's core."""
    return Kdump(CORE)


def flatten(pieces: Iterable[tuple[int, bytes]], *, end: bool = True) -> bytes:
    """Records of a flattened dump."""
    out = bytearray(struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0"))
    for offset, data in pieces:
        out += struct.pack(">qq", offset, len(data)) + data
    return bytes(out) + (struct.pack(">qq", -1, -1) if end else b"")


def demo_kdump(machine: bytes | None = None) -> bytes:
    """
    The demo's core.

    :param machine: what ``struct new_utsname`` has, and nothing else, as QEMU writes it
    """
    data = bytearray(CORE.read_bytes())
    if machine is not None:
        data[_UTSNAME] = only(machine)
    return bytes(data)


def only(machine: bytes) -> bytes:
    """A ``struct new_utsname`` without anything else."""
    names = bytearray(6 * 65)
    names[_MACHINE] = machine.ljust(65, b"\0")
    return bytes(names)


def as_qemu_writes(data: bytes) -> bytes:
    """Flatten a dump: the header first, then pieces of 16 KiB, descriptors and pages in turn."""
    pieces = [(at, data[at : at + 16384]) for at in range(4096, len(data), 16384)]
    half = len(pieces) // 2
    mixed = [piece for pair in zip(pieces[:half], pieces[half:]) for piece in pair]
    return flatten([(0, data[:464]), *mixed, *pieces[2 * half :]])


def kdump(pages: Mapping[int, bytes]) -> bytes:
    """A kdump-compressed dump of pages of the demo's machine, without VMCOREINFO."""
    file = io.BytesIO()
    names = (b"", b"", b"", b"", b"x86_64", b"")
    write_kdump(file, pages, page_size=PAGE, byte_order="<", utsname=names, vmcoreinfo=b"")
    return without_vmcoreinfo(file.getvalue())


@functools.cache
def with_large_blocks(size: int) -> bytes:
    """The demo's core as a dump whose blocks are larger than its kernel's pages."""
    blocks: dict[int, bytearray] = {}
    for frame, page in demo().pages.items():
        block, at = divmod(frame * PAGE, size)
        blocks.setdefault(block, bytearray(size))[at : at + PAGE] = page
    file = io.BytesIO()
    write_kdump(
        file,
        {number: bytes(block) for number, block in blocks.items()},
        page_size=size,
        byte_order="<",
        utsname=demo().utsname,
        vmcoreinfo=demo().vmcoreinfo,
    )
    return file.getvalue()


def without_vmcoreinfo(data: bytes) -> bytes:
    """A kdump-compressed dump whose sub-header tells of no VMCOREINFO and of no notes."""
    at = PAGE + 32
    return data[:at] + bytes(32) + data[at + 32 :]


def note(name: bytes, kind: int, contents: bytes) -> bytes:
    """An ELF note."""
    pad = (-len(name) - 1) % 4 + 1, -len(contents) % 4
    head = struct.pack("<3I", len(name) + 1, len(contents), kind)
    return head + name + bytes(pad[0]) + contents + bytes(pad[1])


def elf(pages: Mapping[int, bytes], notes: bytes, kind: int = 4, machine: int = 62) -> bytes:
    """An ELF file with a segment for each run of pages, as QEMU writes a core."""
    runs: list[list[int]] = []
    for frame in sorted(pages):
        if runs and runs[-1][-1] == frame - 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    count = len(runs) + 1
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    at = 64 + 56 * count
    table = struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(notes), len(notes), 0)
    at += len(notes)
    body = []
    for run in runs:
        size = len(run) * PAGE
        table += struct.pack("<IIQQQQQQ", 1, 0, at, 0, run[0] * PAGE, size, size, 0)
        at += size
        body += [pages[frame] for frame in run]
    return ident + head + table + notes + b"".join(body)
