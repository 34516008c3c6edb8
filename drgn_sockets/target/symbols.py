# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel's symbols: from its kallsyms, a System.map, or the table of a vmlinux."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional

from drgn import (
    BadDataError,
    FaultError,
    MissingDebugInfoError,
    Program,
    ProgramFlags,
    Symbol,
    SymbolBinding,
    SymbolIndex,
    SymbolKind,
)

from drgn_sockets.errors import UserError
from drgn_sockets.target.kallsyms import Kallsyms, OddKallsymsError, read_kallsyms

if TYPE_CHECKING:
    from drgn_sockets.target.elf import Elf, ElfSymbol

#: Finds symbols, see :meth:`drgn.Program.register_symbol_finder()`.
SymbolFinder = Callable[[Program, Optional[str], Optional[int], bool], Sequence[Symbol]]

#: In the environment, a ``System.map`` for kernels that do not tell where kallsyms is: plain drgn
#: has no option for it.
SYSTEM_MAP_VARIABLE = "DRGN_SOCKETS_SYSTEM_MAP"
#: The kernel's own symbols, which need no check.
OWN_SYMBOLS = ("its kallsyms", "/proc/kallsyms")

_MIN_SYMBOLS = 1000
_MAX_SYMBOL = 1 << 24
_MAP_LINE = re.compile(rb"^([0-9a-f]{8,16}) ([A-Za-z]) (\S+)", re.MULTILINE)
_VMCOREINFO_SYMBOL = re.compile(r"^SYMBOL\((\w+)\)=([0-9A-Fa-f]+)$", re.MULTILINE)
_TOLD = re.compile(
    r"^DRGN_SOCKETS_SYMBOL\(([^\s()]+)\)=([0-9a-f]{1,16})\+([0-9a-f]{1,16})$", re.MULTILINE
)
_KERNEL_OFFSET = re.compile(r"^KERNELOFFSET=([0-9A-Fa-f]+)$", re.MULTILINE)
_BUILD_ID = re.compile(r"^BUILD-ID=((?:[0-9A-Fa-f]{2})+)$", re.MULTILINE)
_OS_RELEASE = re.compile(r"^OSRELEASE=(.*)$", re.MULTILINE)
# What drgn says of tables that are not there, or not whole.
_NO_SYMBOLS = (
    *(MissingDebugInfoError, BadDataError),
    *(LookupError, ValueError, FaultError, OSError),
)
# VMCOREINFO gives what these pointers hold, and of everything else the address.
_POINTERS = ("mem_section",)


def is_local(prog: Program) -> bool:
    """Whether it is the kernel that runs this."""
    flags = ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL
    return bool(prog.flags & flags == flags)


def vmcoreinfo(prog: Program) -> str:
    """What the kernel says of itself in its notes."""
    text: str = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    return text


def os_release(prog: Program) -> str:
    """As ``uname -r`` gives it, empty if VMCOREINFO lacks it."""
    match = _OS_RELEASE.search(vmcoreinfo(prog))
    return match[1] if match else ""


def build_id(prog: Program) -> bytes | None:
    """The kernel's build ID, ``None`` if VMCOREINFO lacks it."""
    match = _BUILD_ID.search(vmcoreinfo(prog))
    return bytes.fromhex(match[1]) if match else None


def load_symbols(
    prog: Program, system_map: str | None, vmlinux: Elf | None = None
) -> tuple[SymbolFinder, str]:
    """
    Load the symbols of a kernel.

    :param system_map: if given, they are taken from there
    :param vmlinux: for a kernel that does not tell where its kallsyms is
    :return: Symbols, and where they are from, for people
    :raises UserError: if there are none, or they are another kernel's
    """
    if system_map is not None:
        return _index(prog, read_map(system_map), system_map), system_map
    quick = read_kallsyms(prog, vmcoreinfo(prog))
    if quick is not None:
        return _QuickSymbols(quick), OWN_SYMBOLS[0]
    try:
        index = _all_symbols(prog)
    except _NO_SYMBOLS as e:
        system_map = os.environ.get(SYSTEM_MAP_VARIABLE)
        if system_map:
            return _index(prog, read_map(system_map), system_map), system_map
        found = list(vmlinux.symbols()) if vmlinux else []
        if found and vmlinux:
            return _index(prog, found, vmlinux.path), vmlinux.path
        told = list(_told(prog))
        if told:
            return SymbolIndex(told), "its VMCOREINFO"
        raise UserError(
            "no debugging symbols here, and the kernel's own (kallsyms) cannot be found "
            f"({str(e).rstrip('.')}): give its System.map with --system-map or in "
            f"${SYSTEM_MAP_VARIABLE}, or its vmlinux with -s"
        ) from None
    return index, OWN_SYMBOLS[is_local(prog)]


def _all_symbols(prog: Program) -> SymbolIndex:
    # All helpers of drgn come with the first one that is imported.
    from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

    index: SymbolIndex = load_vmlinux_kallsyms(prog)
    return index


class _QuickSymbols:
    """Finds single symbols itself; drgn's index of all is made when it takes that."""

    def __init__(self, quick: Kallsyms) -> None:
        self._quick: Kallsyms | None = quick
        self._all: SymbolIndex | None = None

    def __call__(
        self, prog: Program, name: str | None, address: int | None, one: bool
    ) -> Sequence[Symbol]:
        if self._quick is not None and one and (name is None) != (address is None):
            try:
                symbol = (
                    self._quick.find(name)
                    if name is not None
                    else self._quick.find_at(address or 0)
                )
                return [symbol] if symbol is not None else []
            except OddKallsymsError:
                pass
        if self._all is None:
            self._all = _all_symbols(prog)
            self._quick = None
        found: Sequence[Symbol] = self._all(prog, name, address, one)
        return found


def vmcoreinfo_line(symbol: Symbol) -> str:
    """
    What a distilled core has in VMCOREINFO of a symbol, where its kernel does not tell where
    its kallsyms is.
    """
    return f"DRGN_SOCKETS_SYMBOL({symbol.name})={symbol.address:x}+{symbol.size:x}"


def _told(prog: Program) -> Iterable[Symbol]:
    for name, address, size in _TOLD.findall(vmcoreinfo(prog)):
        yield Symbol(
            name, int(address, 16), int(size, 16), SymbolBinding.UNKNOWN, SymbolKind.UNKNOWN
        )


def read_map(path: str) -> Sequence[ElfSymbol]:
    """
    Read a System.map.

    :raises UserError: if it is none
    """
    try:
        text = Path(path).read_bytes()
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    from drgn_sockets.target.elf import ElfSymbol

    lines = sorted((int(a, 16), kind, name) for a, kind, name in _MAP_LINE.findall(text))
    if len(lines) < _MIN_SYMBOLS:
        raise UserError(
            f"{path} is not a System.map (Debian's image packages have a note in its place, "
            "and their -dbg packages the map)"
        )
    found = []
    for i, (address, kind, name) in enumerate(lines):
        end = lines[i + 1][0] if i + 1 < len(lines) else address
        if end - address > _MAX_SYMBOL:
            # The last of a section, or a constant among addresses.
            end = address
        text_name = name.decode("ascii", "replace")
        found.append(ElfSymbol(text_name, address, end - address, kind in b"tTwW", kind.islower()))
    return found


def _index(prog: Program, found: Sequence[ElfSymbol], path: str) -> SymbolIndex:
    addresses = {symbol.name: symbol.address for symbol in found}
    match = _KERNEL_OFFSET.search(vmcoreinfo(prog))
    offset = int(match[1], 16) if match else 0
    # KASLR does not move per-CPU variables where their addresses are offsets, as on x86-64 until
    # Linux kernel commit 9d7de2aa8b41 ("x86/percpu/64: Use relative percpu offsets") (in v6.15).
    zero_based = addresses.get("__per_cpu_start") == 0
    fixed_end = addresses.get("__per_cpu_end", 0) + 1 if zero_based else 0
    _check_build(prog, addresses, offset, path)
    return SymbolIndex(_symbols(found, offset, fixed_end))


def _check_build(prog: Program, addresses: dict[str, int], offset: int, path: str) -> None:
    for name, value in _VMCOREINFO_SYMBOL.findall(vmcoreinfo(prog)):
        there = addresses.get(name, 0) + offset
        if name in addresses and name not in _POINTERS and there != int(value, 16):
            raise UserError(
                f"{path} is of another build: {name} is at {there:#x} in it, and at "
                f"{int(value, 16):#x} in the kernel"
            )
    banner = f"Linux version {os_release(prog)}".encode()
    try:
        found: bytes = prog.read(addresses["linux_banner"] + offset, len(banner))
    except (KeyError, OverflowError):
        found = b"?"
    except FaultError:
        found = b""
    # A distilled core may lack it, or have zeros there: then it is no witness.
    if found.strip(b"\0") and found != banner:
        raise UserError(
            f"{path} is of another build: the kernel's version is not where it has linux_banner"
        )


def _symbols(found: Iterable[ElfSymbol], offset: int, fixed_end: int) -> Iterable[Symbol]:
    for name, address, size, is_function, is_local in found:
        if address >= fixed_end:
            address += offset
        if address < 1 << 64:
            yield Symbol(
                name,
                address,
                size,
                SymbolBinding.LOCAL if is_local else SymbolBinding.GLOBAL,
                SymbolKind.FUNC if is_function else SymbolKind.OBJECT,
            )
