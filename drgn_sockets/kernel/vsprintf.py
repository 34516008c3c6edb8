# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pointers as the kernel prints them: ``lib/vsprintf.c``."""

from __future__ import annotations

import struct
from typing import Callable

from drgn import Program

from drgn_sockets.kernel.memory import pointer_size
from drgn_sockets.program import byte_order

_MASK = (1 << 64) - 1
# "somepseudorandomlygeneratedbytes", with which SipHash begins.
_INITIAL = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
# include/linux/err.h
_MAX_ERRNO = 4095


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def _rounds(v: list[int], count: int) -> None:
    a, b, c, d = v
    for _ in range(count):
        a = (a + b) & _MASK
        b = _rotate(b, 13) ^ a
        c = (c + d) & _MASK
        d = _rotate(d, 16) ^ c
        a = (_rotate(a, 32) + d) & _MASK
        d = _rotate(d, 21) ^ a
        c = (c + b) & _MASK
        b = _rotate(b, 17) ^ c
        c = _rotate(c, 32)
    v[:] = a, b, c, d


def siphash_1u64(first: int, key: tuple[int, int]) -> int:
    """SipHash-2-4 of 64 bits."""
    v = [start ^ key[i % 2] for i, start in enumerate(_INITIAL)]
    # The last block has the length in its highest byte.
    for block in (first, 8 << 56):
        v[3] ^= block
        _rounds(v, 2)
        v[0] ^= block
    v[2] ^= 0xFF
    _rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _read(prog: Program, name: str, code: str) -> tuple[int, ...] | None:
    """Read a variable that has no type in BTF, ``None`` for one that the kernel lacks."""
    try:
        address = prog.symbol(name).address
    except LookupError:
        return None
    form = struct.Struct(byte_order(prog) + code)
    return form.unpack(prog.read(address, form.size))


def _ptr_key(prog: Program) -> tuple[int, int] | None:
    # A bool tells whether ptr_key is filled since v6.1 ("lib/vsprintf: Remove
    # static_branch_likely() from __ptr_to_hashval()."). Before, a static key is on until it is.
    filled = _read(prog, "filled_random_ptr_key", "?")
    not_filled = _read(prog, "not_filled_random_ptr_key", "i") or (0,)
    key = _read(prog, "ptr_key", "QQ")
    if key is None or filled == (False,) or not_filled[0]:
        return None
    return key[0], key[1]


def default_pointer(prog: Program) -> Callable[[int], str]:
    """
    Get a function that formats a pointer as the kernel's ``%p``: hashed with the kernel's key.

    :raises FaultError: if the key cannot be read
    """
    width = 2 * pointer_size(prog)
    # Linux kernel commit 5ead723a20e0 ("lib/vsprintf: no_hash_pointers prints all addresses as
    # unhashed") (in v5.12)
    if (_read(prog, "no_hash_pointers", "?") or (False,))[0]:
        return lambda pointer: f"{pointer:0{width}x}"
    key = _ptr_key(prog)

    def hashed(pointer: int) -> str:
        if not pointer or pointer > _MASK - _MAX_ERRNO:
            return f"{pointer:0{width}x}"
        if key is None:
            return "(____ptrval____)"
        return f"{siphash_1u64(pointer, key) & 0xFFFFFFFF:0{width}x}"

    return hashed


def restricted_pointer(prog: Program) -> Callable[[int], str]:
    """
    Get a function that formats a pointer as ``%pK`` for root, which depends on ``kptr_restrict``.

    :raises FaultError: if the sysctl cannot be read
    """
    width = 2 * pointer_size(prog)
    restrict = (_read(prog, "kptr_restrict", "i") or (0,))[0]
    if restrict == 0:
        return default_pointer(prog)
    if restrict == 1:
        return lambda pointer: f"{pointer:0{width}x}"
    return lambda pointer: "0" * width


def shows_addresses(prog: Program) -> bool:
    """Whether root is shown addresses of symbols, as ``kallsyms_show_value()`` decides."""
    return (_read(prog, "kptr_restrict", "i") or (0,))[0] < 2
