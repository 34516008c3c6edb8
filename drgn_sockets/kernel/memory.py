# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reading many small things of kernel memory with few reads.

A read of a core costs a system call and, on a compressed core, the inflation of a page. So
neighbours are read together, in the order of addresses. An item that cannot be read does not
affect the others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from drgn import Architecture, FaultError, PlatformFlags, Program

from drgn_sockets.kernel.lost import unreadable
from drgn_sockets.program import HOLES, byte_order, once_per_program

# The longest read, and the longest gap between neighbours in it. Slab pages hold objects of a kind
# side by side, so the gaps between two are short.
_MAX_SPAN = 1 << 16
_MAX_GAP = 1 << 11
# The smallest page size. Memory that is missing from a core is a multiple of it.
_PAGE = 1 << 12

_EXACT = "drgn_sockets.exact"
#: Begins a line of VMCOREINFO that only cores written by ``distill`` have; the version of this
#: package follows.
DISTILLED = "DRGN_SOCKETS_DISTILLED="

# drgn raises FaultError for memory it cannot read, OverflowError or ValueError for addresses
# that are none (beyond 64 bits, wrapping around), and OSError when a core's file ends early
# or disappears.
UNREADABLE = (FaultError, OverflowError, ValueError)


@once_per_program
def pointer_size(prog: Program) -> int:
    """Size in bytes of a pointer of *prog*."""
    return 8 if _platform_flags(prog) & PlatformFlags.IS_64_BIT else 4


def word_code(prog: Program) -> str:
    """An ``unsigned long`` or a pointer, as :mod:`struct` wants it: ``"Q"`` or ``"I"``."""
    return "Q" if pointer_size(prog) == 8 else "I"


def unpack_words(prog: Program, data: bytes) -> tuple[int, ...]:
    """
    Decode an array of ``unsigned long`` or of pointers.

    >>> unpack_words(prog, b"\\1" + bytes(7) + b"\\2" + bytes(7))
    (1, 2)
    """
    count = len(data) // pointer_size(prog)
    return struct.unpack(f"{byte_order(prog)}{count}{word_code(prog)}", data)


def page_shift(prog: Program) -> int:
    """``PAGE_SHIFT``, 12 if that is not known."""
    try:
        return prog["PAGE_SHIFT"].value_()  # type: ignore[no-any-return]
    except LookupError:
        return _PAGE.bit_length() - 1


def architecture(prog: Program) -> Architecture:
    """The architecture of *prog*, which need not be that of this machine."""
    assert prog.platform is not None
    return prog.platform.arch


def _platform_flags(prog: Program) -> PlatformFlags:
    assert prog.platform is not None
    return prog.platform.flags


@once_per_program
def distilled_by(prog: Program) -> str | None:
    """The version that distilled the core of *prog*, ``None`` for a whole one."""
    try:
        text = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    except (LookupError, FaultError):
        return None
    lines = [line for line in text.splitlines() if line.startswith(DISTILLED)]
    return lines[0][len(DISTILLED) :] if lines else None


def has_holes(prog: Program) -> bool:
    """Whether pages that read as zeros may be missing from the core."""
    return HOLES in prog.cache


def read_exactly(prog: Program) -> None:
    """
    From now on, read only what is asked for, without the gaps between neighbours.

    This is for a program whose reads are recorded.
    """
    prog.cache[_EXACT] = True


def read_groups(
    prog: Program, addresses: Iterable[int], size: int
) -> Iterator[tuple[list[int], bytes | None]]:
    """
    Read *size* bytes at each of *addresses*, in the order of addresses, each address once.

    :return: Iterator of (addresses, bytes from the first address on). The bytes are ``None`` if
        they cannot be read. Where a read of several addresses fails, each is read on its own.
    """
    groups: list[list[int]] = []
    near = size if prog.cache.get(_EXACT) else size + _MAX_GAP
    group: list[int] = []
    # The greatest address that may join the group: by its gap, and by the length of the read.
    next_to = within = -1 << 65
    for address in sorted(set(addresses)):
        if address <= next_to and address <= within:
            group.append(address)
        else:
            group = [address]
            groups.append(group)
            within = address + _MAX_SPAN - size
        next_to = address + near
    for group in groups:
        try:
            data: bytes = prog.read(group[0], group[-1] + size - group[0])
        except UNREADABLE:
            if len(group) == 1:
                yield group, None
                continue
        else:
            yield group, data
            continue
        for address in group:
            try:
                yield [address], prog.read(address, size)
            except UNREADABLE:
                yield [address], None


def read_pointers(prog: Program, address: int, count: int) -> tuple[int, ...]:
    """
    Read an array of *count* pointers.

    :raises FaultError: if they cannot be read
    """
    try:
        return unpack_words(prog, prog.read(address, count * pointer_size(prog)))
    except UNREADABLE:
        raise unreadable("pointers", address) from None


def read_sparse_pointers(prog: Program, address: int, count: int) -> tuple[Sequence[int], int]:
    """
    Read an array of *count* pointers, of which some pages may be missing.

    :return: The pointers, 0 for those that cannot be read, and how many these are.
    """
    try:
        return read_pointers(prog, address, count), 0
    except FaultError:
        pass
    size = pointer_size(prog)
    pointers: list[int] = []
    missing = 0
    while len(pointers) < count:
        n = min(count - len(pointers), max(1, (_PAGE - address % _PAGE) // size))
        try:
            pointers.extend(read_pointers(prog, address, n))
        except FaultError:
            missing += n
            pointers.extend((0,) * n)
        address += n * size
    return pointers, missing


def read_bytes(prog: Program, address: int, size: int, what: str = "memory") -> bytes | None:
    """
    Read *size* bytes, ``None`` at a null pointer.

    :param what: What they are, for the error.
    :raises FaultError: if they cannot be read
    """
    if not address:
        return None
    try:
        data: bytes = prog.read(address, size)
        return data
    except UNREADABLE:
        raise unreadable(what, address) from None


def read_string(prog: Program, address: int, max_size: int, what: str = "string") -> bytes | None:
    """
    Read a string that ends at its first NUL or after *max_size* bytes, ``None`` at a null pointer.

    :param what: What it is, for the error.
    :raises FaultError: if it cannot be read
    """
    if not address:
        return None
    try:
        data: bytes = prog.read_c_string(address, max_size=max_size)
        return data
    except UNREADABLE:
        raise unreadable(what, address) from None
