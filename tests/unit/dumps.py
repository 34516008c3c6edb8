# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps of the demo's machine in other forms than that of its core."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from drgn_sockets.demo import CORE

_UTSNAME = slice(12, 12 + 6 * 65)
_MACHINE = slice(4 * 65, 5 * 65)


def flatten(pieces: Iterable[tuple[int, bytes]], *, end: bool = True) -> bytes:
    """Records of a flattened dump."""
    out = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(4096, b"\0")
    for offset, data in pieces:
        out += struct.pack(">qq", offset, len(data)) + data
    return out + (struct.pack(">qq", -1, -1) if end else b"")


def demo_kdump(machine: bytes | None = None) -> bytes:
    """
    The demo's core.

    :param machine: what ``struct new_utsname`` has, and nothing else, as QEMU writes it
    """
    data = bytearray(CORE.read_bytes())
    if machine is not None:
        names = bytearray(6 * 65)
        names[_MACHINE] = machine.ljust(65, b"\0")
        data[_UTSNAME] = names
    return bytes(data)


def as_qemu_writes(data: bytes) -> bytes:
    """Flatten a dump: the header first, then pieces of 16 KiB, descriptors and pages in turn."""
    pieces = [(at, data[at : at + 16384]) for at in range(4096, len(data), 16384)]
    half = len(pieces) // 2
    mixed = [piece for pair in zip(pieces[:half], pieces[half:]) for piece in pair]
    return flatten([(0, data[:464]), *mixed, *pieces[2 * half :]])
