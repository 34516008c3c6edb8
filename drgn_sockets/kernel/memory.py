# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reading many small things of kernel memory with few reads.

A read of a core is a system call and, on a compressed core, the inflation of a page; so
neighbours are read together and in address order. Memory that cannot be read costs its own
item and no other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from drgn import FaultError, PlatformFlags, Program

# One read takes in neighbours up to here. Slab pages hold their objects side by side, so
# the bytes between two objects of a kind are few.
_MAX_SPAN = 1 << 16
_MAX_GAP = 1 << 10

# drgn raises FaultError for memory it cannot read, OverflowError or ValueError for addresses
# that are none (beyond 64 bits, wrapping around), and OSError when a core's file ends early
# or disappears.
UNREADABLE = (FaultError, OverflowError, ValueError)


def pointer_size(prog: Program) -> int:
    """Size in bytes of a pointer of *prog*."""
    platform = prog.platform
    assert platform is not None
    return 8 if platform.flags & PlatformFlags.IS_64_BIT else 4


def byte_order(prog: Program) -> str:
    """``"<"`` or ``">"``, as :mod:`struct` wants it."""
    platform = prog.platform
    assert platform is not None
    return "<" if platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else ">"


def _read_apart(
    prog: Program, addresses: Sequence[int], size: int
) -> Iterator[tuple[int, bytes | None, int]]:
    for address in addresses:
        try:
            yield address, prog.read(address, size), 0
        except UNREADABLE:
            yield address, None, 0


def read_many(
    prog: Program, addresses: Iterable[int], size: int
) -> Iterator[tuple[int, bytes | None, int]]:
    """
    Read *size* bytes at each of *addresses*, in the order of addresses, each address once.

    :return: Iterator of (address, buffer, offset in buffer), where the buffer is ``None`` if
        the memory cannot be read.
    """
    group: list[int] = []

    def flush() -> Iterator[tuple[int, bytes | None, int]]:
        if len(group) < 2:
            yield from _read_apart(prog, group, size)
            return
        start = group[0]
        try:
            data = prog.read(start, group[-1] + size - start)
        except UNREADABLE:
            yield from _read_apart(prog, group, size)
            return
        for address in group:
            yield address, data, address - start

    for address in sorted(set(addresses)):
        if group and (
            address - group[-1] - size > _MAX_GAP or address + size - group[0] > _MAX_SPAN
        ):
            yield from flush()
            group.clear()
        group.append(address)
    if group:
        yield from flush()


def read_pointers(prog: Program, address: int, count: int) -> tuple[int, ...] | None:
    """
    Read an array of *count* pointers.

    :return: The pointers, or ``None`` if they cannot be read.
    """
    size = pointer_size(prog)
    code = "Q" if size == 8 else "I"
    try:
        data = prog.read(address, count * size)
    except UNREADABLE:
        return None
    return struct.unpack(f"{byte_order(prog)}{count}{code}", data)


def read_bytes(prog: Program, address: int, size: int) -> bytes | None:
    """Read *size* bytes, or ``None`` if they cannot be read."""
    if not address:
        return None
    try:
        data: bytes = prog.read(address, size)
        return data
    except UNREADABLE:
        return None


def read_string(prog: Program, address: int, max_size: int) -> bytes | None:
    """
    Read a string that ends at its first NUL or after *max_size* bytes, or ``None`` if it
    cannot be read.
    """
    if not address:
        return None
    try:
        data: bytes = prog.read_c_string(address, max_size=max_size)
        return data
    except UNREADABLE:
        return None
