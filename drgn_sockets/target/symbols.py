# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel's symbols: from its kallsyms, a System.map, or the symbol table of a vmlinux."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Callable, Optional

from drgn import (
    FaultError,
    MissingDebugInfoError,
    Program,
    Symbol,
    SymbolBinding,
    SymbolIndex,
    SymbolKind,
)

from drgn_sockets.errors import BAD_DATA, UserError
from drgn_sockets.program import is_running_kernel
from drgn_sockets.target.kallsyms import OddKallsymsError, kallsyms_symbol, read_kallsyms
from drgn_sockets.target.symbol_text import Line, OddTextError, SymbolText

if TYPE_CHECKING:
    from drgn_sockets.target.elf import Elf, ElfSymbol

#: Finds symbols, see :meth:`drgn.Program.register_symbol_finder()`.
SymbolFinder = Callable[[Program, Optional[str], Optional[int], bool], Sequence[Symbol]]

#: Environment variable with the path of a ``System.map``, for kernels that do not tell where
#: kallsyms is. A variable, because plain drgn has no option for it.
SYSTEM_MAP_VARIABLE = "DRGN_SOCKETS_SYSTEM_MAP"
#: The kernel's own symbols, which need no check.
OWN_SYMBOLS = ("its kallsyms", "/proc/kallsyms")

# A kernel whose kallsyms lacks this variable has none there.
_VARIABLE = "init_task"
_TCP_HASHINFO = "tcp_hashinfo"
_MIN_SYMBOLS = 1000
_MAX_SYMBOL = 1 << 24
# Patterns for re.MULTILINE. They are compiled at their first use; most sessions use few of them.
# In /proc/kallsyms, lines of modules and of BPF end with a module's name; they are left out.
_MAP_LINE = rb"^([0-9a-f]{8,16}) ([A-Za-z]) (\S+)$"
_NO_ADDRESSES = rb"(?:0+ [A-Za-z] \S+(?:\t\[\S+)?\s+)+"
_VMCOREINFO_SYMBOL = r"^SYMBOL\((\w+)\)=([0-9A-Fa-f]+)$"
_TOLD = r"^DRGN_SOCKETS_SYMBOL\(([^\s()]+)\)=([0-9a-f]{1,16})\+([0-9a-f]{1,16})$"
_STEXT = r"^SYMBOL\(_stext\)=([0-9A-Fa-f]+)$"
_KERNEL_OFFSET = r"^KERNELOFFSET=([0-9A-Fa-f]+)$"
_BUILD_ID = r"^BUILD-ID=((?:[0-9A-Fa-f]{2})+)$"
_OS_RELEASE = r"^OSRELEASE=(.*)$"
# Errors that drgn raises if tables are missing or incomplete.
_NO_SYMBOLS = (
    *(MissingDebugInfoError, LookupError, ValueError, FaultError, OSError),
    BAD_DATA,
)
# Single symbols cannot be found; an index of all symbols may still be possible.
_ODD = (OddKallsymsError, OddTextError)
# VMCOREINFO gives the values of these pointers, and the addresses of all other symbols.
_POINTERS = ("mem_section",)


def vmcoreinfo(prog: Program) -> str:
    """The text of the kernel's VMCOREINFO note."""
    text: str = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    return text


def os_release(prog: Program) -> str:
    """The kernel's release, as ``uname -r`` prints it; empty if VMCOREINFO lacks it."""
    match = re.search(_OS_RELEASE, vmcoreinfo(prog), re.MULTILINE)
    return match[1] if match else ""


def build_id(prog: Program) -> bytes | None:
    """The kernel's build ID, ``None`` if VMCOREINFO lacks it."""
    match = re.search(_BUILD_ID, vmcoreinfo(prog), re.MULTILINE)
    return bytes.fromhex(match[1]) if match else None


def load_symbols(
    prog: Program, system_map: str | None, vmlinux: Elf | None = None
) -> tuple[SymbolFinder, str]:
    """
    Load the symbols of a kernel.

    :param system_map: Path of a ``System.map`` to take the symbols from.
    :param vmlinux: Used if the kernel does not tell where its kallsyms is.
    :return: Finder of symbols, and their source in words.
    :raises UserError: if there are no symbols, or they are another kernel's
    """
    find, source = _load_symbols(prog, system_map, vmlinux)
    if find(prog, _VARIABLE, None, True):
        return find, source
    return WithImage(prog, find), source


class WithImage:
    """
    Finds symbols of a kernel without CONFIG_KALLSYMS_ALL, whose kallsyms has functions only.

    Variables are those of VMCOREINFO, and those that the kernel exports to modules.
    """

    def __init__(self, prog: Program, find: SymbolFinder) -> None:
        self._prog = prog
        self._find = find
        self._start = 0
        # Variables that were not looked for yet.
        self._wanted: frozenset[str] = frozenset()
        text = vmcoreinfo(prog)
        #: The variables, by name.
        self.variables: dict[str, Symbol] = {}
        #: Names that were asked for, and are not known here. The kernel may have them.
        self.missing: set[str] = set()
        self._by_address: dict[int, Symbol] = {}
        from drgn_sockets.target.image import BY_FUNCTION, find_btf, find_exports

        self._wanted = frozenset((*BY_FUNCTION, _TCP_HASHINFO))
        for name, value in re.findall(_VMCOREINFO_SYMBOL, text, re.MULTILINE):
            if name not in _POINTERS and len(value) <= 16:
                self._add(name, int(value, 16))
        start = self.variables.get("_stext")
        if start is None:
            return

        self._start = start.address
        for name, address in find_exports(prog, start.address, self._function).items():
            if 0 < address < 1 << 64:
                self._add(name, address)
        btf = find_btf(prog, start.address)
        if btf is not None:
            self._add("__start_BTF", btf[0])
            self._add("__stop_BTF", btf[1])

    def _function(self, name: str) -> int | None:
        found = self._find(self._prog, name, None, True)
        return found[0].address if found else None

    def _find_more(self) -> None:
        # Not before a file is looked at: this needs types, and half a second.
        from drgn_sockets.target.image import find_by_function

        self._wanted = frozenset()
        found = find_by_function(self._prog, self._start, self._function)
        for name, addresses in found.items():
            # The first one is what the name then stands for.
            for address in reversed(addresses):
                self._add(name, address)
        if _TCP_HASHINFO not in self.variables:
            # Since 6.1 each network namespace points to the table, and newer kernels do not export
            # the variable.
            try:
                hashinfo = self._prog["init_net"].ipv4.tcp_death_row.hashinfo.value_()
            except (LookupError, AttributeError, FaultError):
                return
            self._add(_TCP_HASHINFO, hashinfo)

    def _add(self, name: str, address: int) -> None:
        self._by_address[address] = self.variables[name] = Symbol(
            name, address, 0, SymbolBinding.GLOBAL, SymbolKind.OBJECT
        )

    def __call__(
        self, prog: Program, name: str | None, address: int | None, one: bool
    ) -> Sequence[Symbol]:
        found = self._find(prog, name, address, one)
        if name is not None and not found:
            if name in self._wanted and self._start:
                self._find_more()
            symbol = self.variables.get(name)
            if symbol is None:
                self.missing.add(name)
        elif address is not None:
            # Kallsyms has no sizes: its last function would reach into the variables.
            symbol = self._by_address.get(address)
        else:
            symbol = None
        return found if symbol is None else [symbol]


def _load_symbols(
    prog: Program, system_map: str | None, vmlinux: Elf | None
) -> tuple[SymbolFinder, str]:
    if system_map is not None:
        return _map_symbols(prog, system_map), system_map
    quick = read_kallsyms(prog, vmcoreinfo(prog))
    if quick is not None:
        own = _QuickSymbols(quick.find, quick.find_at, _all_symbols)
        more = list(_told(prog))
        return _and_told(own, SymbolIndex(more)) if more else own, OWN_SYMBOLS[0]
    listed = _proc_symbols() if is_running_kernel(prog) else None
    if listed is not None:
        return listed, OWN_SYMBOLS[1]
    try:
        index = _all_symbols(prog)
    except _NO_SYMBOLS as e:
        system_map = os.environ.get(SYSTEM_MAP_VARIABLE)
        if system_map:
            return _map_symbols(prog, system_map), system_map
        found = list(vmlinux.symbols()) if vmlinux else []
        if found and vmlinux:
            return _index(prog, found, vmlinux.path), vmlinux.path
        told = list(_told(prog))
        if told:
            return SymbolIndex(told), "its VMCOREINFO"
        raise UserError(
            "no debugging symbols here, and the kernel's own (kallsyms) cannot be found "
            f"({_why(e)}): give its System.map, or a copy that root made of its "
            f"/proc/kallsyms, with --system-map or in ${SYSTEM_MAP_VARIABLE}; or its vmlinux "
            "with -s"
        ) from None
    return index, OWN_SYMBOLS[is_running_kernel(prog)]


def _why(e: Exception) -> str:
    if isinstance(e, UnicodeDecodeError):
        # drgn reads all of VMCOREINFO as ASCII.
        return "VMCOREINFO is damaged: it has bytes that are not ASCII"
    return str(e).rstrip(".")


def _and_told(own: SymbolFinder, told: SymbolIndex) -> SymbolFinder:
    """Symbols of kallsyms, and those that only VMCOREINFO tells."""

    def find(prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        # By its address, a variable may seem to be in the function before it.
        found = told(prog, name, address, one)
        return found if found and one else [*found, *own(prog, name, address, one)]

    return find


def _all_symbols(prog: Program) -> SymbolFinder:
    # Imported here, because importing one helper of drgn imports all of them.
    from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

    index: SymbolIndex = load_vmlinux_kallsyms(prog)

    def find(prog: Program, name: str | None, address: int | None, one: bool) -> Sequence[Symbol]:
        found: Sequence[Symbol] = index(prog, name, address, one)
        return found if address is None else [symbol for symbol in found if _has_name(symbol)]

    return find


def _has_name(symbol: Symbol) -> bool:
    try:
        return bool(symbol.name)
    except UnicodeDecodeError:
        # drgn decodes a name when it is looked at, and damage makes bytes that are no UTF-8.
        return False


class _QuickSymbols:
    """
    Finds single symbols, and makes an index of all symbols only if that is needed.

    :param find: Finds the first symbol of a name.
    :param find_at: Finds the symbol that an address lies in.
    :param make_all: Makes the index.
    """

    def __init__(
        self,
        find: Callable[[str], Symbol | None],
        find_at: Callable[[int], Symbol | None],
        make_all: Callable[[Program], SymbolFinder],
    ) -> None:
        self._find = find
        self._find_at = find_at
        self._make_all = make_all
        self._all: SymbolFinder | None = None
        # drgn asks again at each prog["init_net"].
        self._known: dict[tuple[str | None, int | None], list[Symbol]] = {}

    def __call__(
        self, prog: Program, name: str | None, address: int | None, one: bool
    ) -> Sequence[Symbol]:
        if self._all is None and one and (name is None) != (address is None):
            key = name, address
            try:
                if key not in self._known:
                    one_found = (
                        self._find(name) if name is not None else self._find_at(address or 0)
                    )
                    self._known[key] = [one_found] if one_found is not None else []
                return self._known[key]
            except _ODD:
                pass
        if self._all is None:
            try:
                self._all = self._make_all(prog)
            except _NO_SYMBOLS as e:
                # Neither way to look into kallsyms works.
                raise UserError(f"the kernel's symbols (kallsyms) are damaged: {e}") from None
        return self._all(prog, name, address, one)


def _proc_symbols() -> SymbolFinder | None:
    """Symbols of the running kernel; ``None`` if ``/proc/kallsyms`` does not show them."""
    if os.geteuid() != 0:
        # The kernel hides addresses from users other than root.
        return None
    try:
        with open("/proc/kallsyms", "rb") as f:
            text = SymbolText(f.read())
        line = text.find("init_task")
    except (OSError, *_ODD):
        return None
    if line is None or not line.address:
        return None

    def symbol(line: Line | None) -> Symbol | None:
        return line and kallsyms_symbol(line.name, line.kind, line.address, line.following)

    def find_at(address: int) -> Symbol | None:
        found = symbol(text.find_at(address))
        return found if found and address < found.address + found.size else None

    return _QuickSymbols(lambda name: symbol(text.find(name)), find_at, _all_symbols)


def _map_symbols(prog: Program, path: str) -> SymbolFinder | SymbolIndex:
    """
    Symbols of a System.map, or of a copy of ``/proc/kallsyms``.

    :raises UserError: if the file is neither, or is another kernel's
    """

    def make_all(prog: Program) -> SymbolIndex:
        return _index(prog, read_map(path), path)

    from drgn_sockets.target.elf import ElfSymbol

    def address_of(name: str, expected: int) -> int | None:
        # Searching by address is faster than searching by name.
        if text.has(name.encode(), expected):
            return expected
        line = text.find(name)
        return line and line.address

    data = _read(path)
    if re.fullmatch(_NO_ADDRESSES, data):
        raise UserError(
            f"{path} has no addresses: it is a copy of /proc/kallsyms that was made without "
            "privilege; make one as root (if root sees zeros too, sysctl kernel.kptr_restrict=1)"
        )
    text = SymbolText(data)
    try:
        if text.count() < _MIN_SYMBOLS:
            return make_all(prog)
        offset = _offset(prog, lambda name: address_of(name, -1))
        start, end = text.find("__per_cpu_start"), text.find("__per_cpu_end")
        fixed_end = end.address + 1 if end and start and not start.address else 0
        _check_build(prog, address_of, offset, path)
    except _ODD:
        return make_all(prog)

    def symbol(line: Line | None) -> Symbol | None:
        if line is None:
            return None
        size = (line.following or line.address) - line.address
        name = line.name.decode("ascii", "replace")
        known = ElfSymbol(
            name,
            line.address,
            size if size <= _MAX_SYMBOL else 0,
            line.kind in "tTwW",
            line.kind.islower(),
        )
        return next(iter(_symbols([known], offset, fixed_end)), None)

    def find_at(address: int) -> Symbol | None:
        there = address if address < fixed_end else address - offset
        found = symbol(text.find_at(there)) if there >= 0 else None
        return found if found and found.address <= address < found.address + found.size else None

    return _QuickSymbols(lambda name: symbol(text.find(name)), find_at, make_all)


def vmcoreinfo_line(symbol: Symbol) -> str:
    """
    The line for a symbol in the VMCOREINFO of a distilled core.

    Such lines are in cores of kernels that do not tell where their kallsyms is, and of those whose
    kallsyms has no variables (without CONFIG_KALLSYMS_ALL).
    """
    return f"DRGN_SOCKETS_SYMBOL({symbol.name})={symbol.address:x}+{symbol.size:x}"


def _told(prog: Program) -> Iterable[Symbol]:
    for name, address, size in re.findall(_TOLD, vmcoreinfo(prog), re.MULTILINE):
        yield Symbol(
            name, int(address, 16), int(size, 16), SymbolBinding.UNKNOWN, SymbolKind.UNKNOWN
        )


def read_map(path: str) -> Sequence[ElfSymbol]:
    """
    Read a System.map, or a copy of ``/proc/kallsyms``.

    :raises UserError: if the file is neither, or cannot be read
    """
    from drgn_sockets.target.elf import ElfSymbol

    found = re.findall(_MAP_LINE, _read(path), re.MULTILINE)
    # The sort is stable: symbols at one address stay in nm's order.
    lines = sorted(((int(a, 16), kind, name) for a, kind, name in found), key=lambda line: line[0])
    if len(lines) < _MIN_SYMBOLS:
        raise UserError(
            f"{path} is neither a System.map nor a copy of /proc/kallsyms (Debian's image packages "
            "have a note in place of the System.map, and their -dbg packages the map)"
        )
    symbols = []
    for i, (address, kind, name) in enumerate(lines):
        end = lines[i + 1][0] if i + 1 < len(lines) else address
        if end - address > _MAX_SYMBOL:
            # The last symbol of a section, or a constant that is no address.
            end = address
        text_name = name.decode("ascii", "replace")
        symbols.append(
            ElfSymbol(text_name, address, end - address, kind in b"tTwW", kind.islower())
        )
    return symbols


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None


def _offset(prog: Program, address_of: Callable[[str], int | None]) -> int:
    """
    How far above the addresses of a file the kernel is.

    That is KERNELOFFSET for a ``System.map``, which has the addresses without KASLR. It is 0 for a
    copy of ``/proc/kallsyms`` of the same boot, and may be negative for one of another boot.
    """
    text = vmcoreinfo(prog)
    told, there = re.search(_STEXT, text, re.MULTILINE), address_of("_stext")
    if told and there is not None:
        return int(told[1], 16) - there
    match = re.search(_KERNEL_OFFSET, text, re.MULTILINE)
    return int(match[1], 16) if match else 0


def _index(prog: Program, found: Sequence[ElfSymbol], path: str) -> SymbolIndex:
    addresses = {symbol.name: symbol.address for symbol in found}
    offset = _offset(prog, addresses.get)
    # KASLR does not move per-CPU variables where their addresses are offsets, as on x86-64 until
    # Linux kernel commit 9d7de2aa8b41 ("x86/percpu/64: Use relative percpu offsets") (in v6.15).
    zero_based = addresses.get("__per_cpu_start") == 0
    fixed_end = addresses.get("__per_cpu_end", 0) + 1 if zero_based else 0
    _check_build(prog, lambda name, expected: addresses.get(name), offset, path)
    return SymbolIndex(_symbols(found, offset, fixed_end))


def _check_build(
    prog: Program, address_of: Callable[[str, int], int | None], offset: int, path: str
) -> None:
    for name, value in re.findall(_VMCOREINFO_SYMBOL, vmcoreinfo(prog), re.MULTILINE):
        expected = int(value, 16)
        there = address_of(name, expected - offset) if name not in _POINTERS else None
        if there is not None and there + offset != expected:
            raise UserError(
                f"{path} is of another build: {name} is at {there + offset:#x} in it, and at "
                f"{expected:#x} in the kernel"
            )
    banner = f"Linux version {os_release(prog)}".encode()
    try:
        at = address_of("linux_banner", -1)
        found: bytes = prog.read(at + offset, len(banner)) if at is not None else b"?"
    except OverflowError:
        found = b"?"
    except FaultError:
        found = b""
    # A distilled core may lack the banner, or have zeros in its place: then this proves nothing.
    if found.strip(b"\0") and found != banner:
        raise UserError(
            f"{path} is of another build: the kernel's version is not where it has linux_banner"
        )


def _symbols(found: Iterable[ElfSymbol], offset: int, fixed_end: int) -> Iterable[Symbol]:
    for name, address, size, is_function, is_local in found:
        if address >= fixed_end:
            address += offset
        if 0 <= address < 1 << 64:
            yield Symbol(
                name,
                address,
                size,
                SymbolBinding.LOCAL if is_local else SymbolBinding.GLOBAL,
                SymbolKind.FUNC if is_function else SymbolKind.OBJECT,
            )
