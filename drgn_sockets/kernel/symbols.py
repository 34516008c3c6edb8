# SPDX-License-Identifier: LGPL-2.1-or-later
"""Symbols of the kernel, by name and by address."""

from __future__ import annotations

from drgn import Program

from drgn_sockets.program import once_per_program


@once_per_program
def symbol_address(prog: Program, name: str) -> int:
    """Address of a symbol, 0 if the kernel has none of that name."""
    try:
        return prog.symbol(name).address  # type: ignore[no-any-return]
    except LookupError:
        return 0


def has_symbol(prog: Program, name: str) -> bool:
    """Whether the kernel has a symbol, which tells kernels apart where no type does."""
    return symbol_address(prog, name) != 0


@once_per_program
def symbol_name(prog: Program, address: int) -> str:
    """
    Name of the function or variable at *address*, or ``""``.

    >>> symbol_name(prog, prog.symbol("socket_file_ops").address)
    'socket_file_ops'
    """
    try:
        symbol = prog.symbol(address)
    except LookupError:
        return ""
    return symbol.name if symbol.address == address else ""
