# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a kernel says of itself: types from its BTF, symbols from its kallsyms."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from drgn import (
    FaultError,
    FindObjectFlags,
    MissingDebugInfoError,
    Object,
    Program,
    ProgramFlags,
    Symbol,
    SymbolBinding,
    SymbolIndex,
    SymbolKind,
    Type,
    TypeKindSet,
)
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from drgn_sockets.errors import UserError
from drgn_sockets.target.btf import Btf, BtfError
from drgn_sockets.target.btf_types import NAME, BtfTypes

logger = logging.getLogger("drgn.drgn_sockets")

_SYS_BTF = Path("/sys/kernel/btf/vmlinux")
# Debian's largest is 7 MB; with everything built in it is some 20.
_MAX_BTF = 1 << 28


class OwnTypes:
    """
    Finders of types, objects and symbols for a program, that read the kernel's own memory.

    They come last in the order of finders, and what they need is loaded when they are first
    asked: where there is DWARF, they stay out of the way.
    """

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._types: BtfTypes | None = None
        self._symbols: SymbolIndex | None = None
        # Loading looks things up itself, and what failed once is not tried again.
        self._tried = False
        prog.register_symbol_finder(NAME, self._find_symbol, enable_index=-1)
        prog.register_type_finder(NAME, self._find_type, enable_index=-1)
        prog.register_object_finder(NAME, self._find_object, enable_index=-1)

    @classmethod
    def of(cls, prog: Program) -> OwnTypes:
        """The finders of *prog*, registered at the first call."""
        key = "drgn_sockets.own_types"
        if key not in prog.cache:
            prog.cache[key] = cls(prog)
        return prog.cache[key]  # type: ignore[no-any-return]

    def load(self, system_map: str | None = None) -> str:
        """
        Load types and symbols now.

        :param system_map: A ``System.map``, for a core whose VMCOREINFO does not lead to
            kallsyms (before Linux 6.0).
        :return: What was used, for people.
        :raises UserError: if the kernel lacks what is needed
        """
        self._tried = True
        self._symbols, used = _symbols(self._prog, system_map)
        try:
            self._types = BtfTypes(self._prog, Btf(_read_btf(self._prog)))
        except BtfError as e:
            raise UserError(
                f"the kernel's BTF cannot be used: {e}; give its vmlinux with -s"
            ) from None
        return f"types from the kernel's own BTF, symbols from {used}"

    def _ready(self) -> bool:
        if not self._tried and not _has_dwarf(self._prog):
            try:
                self.load()
            except UserError as e:
                logger.debug("%s", e)
        return self._types is not None

    def _find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None
    ) -> Type | None:
        if self._ready() and self._types is not None:
            return self._types.find_type(prog, kinds, name, filename)
        return None

    def _find_object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None
    ) -> Object | None:
        if self._ready() and self._types is not None:
            return self._types.find_object(prog, name, flags, filename)
        return None

    def _find_symbol(
        self, prog: Program, name: str | None, address: int | None, one: bool
    ) -> Sequence[Symbol]:
        # Reading BTF begins with two symbols.
        if self._symbols is None:
            self._ready()
        return self._symbols(prog, name, address, one) if self._symbols is not None else []


def _has_dwarf(prog: Program) -> bool:
    try:
        return not prog.main_module().wants_debug_file()
    except LookupError:
        return False


def _is_local(prog: Program) -> bool:
    flags = ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL
    return bool(prog.flags & flags == flags)


def _symbols(prog: Program, system_map: str | None) -> tuple[SymbolIndex, str]:
    if system_map is not None:
        return _read_system_map(prog, system_map), system_map
    try:
        index = load_vmlinux_kallsyms(prog)
    except (MissingDebugInfoError, LookupError, ValueError, FaultError, OSError) as e:
        raise UserError(
            "no debugging symbols here, and the kernel's own (kallsyms) cannot be found: "
            f"{e} Give its System.map with --system-map, or its vmlinux with -s"
        ) from None
    return index, "/proc/kallsyms" if _is_local(prog) else "its kallsyms"


_MIN_SYMBOLS = 1000
_MAP_LINE = re.compile(rb"([0-9a-f]{8,16}) ([A-Za-z]) (\S+)")
_VMCOREINFO_SYMBOL = re.compile(r"^SYMBOL\((\w+)\)=([0-9A-Fa-f]+)$", re.MULTILINE)
_KERNEL_OFFSET = re.compile(r"^KERNELOFFSET=([0-9A-Fa-f]+)$", re.MULTILINE)


def _read_system_map(prog: Program, path: str) -> SymbolIndex:
    try:
        text = Path(path).read_bytes()
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from None
    found = [(int(a, 16), kind, name) for a, kind, name in _MAP_LINE.findall(text)]
    if len(found) < _MIN_SYMBOLS:
        raise UserError(
            f"{path} is not a System.map (Debian's image packages have a note in its place, "
            "and their -dbg packages the map)"
        )
    vmcoreinfo = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    offset_match = _KERNEL_OFFSET.search(vmcoreinfo)
    offset = int(offset_match[1], 16) if offset_match else 0
    addresses = {name.decode("ascii", "replace"): address for address, _, name in found}
    for name, value in _VMCOREINFO_SYMBOL.findall(vmcoreinfo):
        # What VMCOREINFO says of a few symbols tells whether the map is of another build.
        # mem_section and the like are pointers there, but these two kinds are addresses.
        if name in ("_stext", "swapper_pg_dir", "init_uts_ns", "node_online_map") and (
            name in addresses and addresses[name] + offset != int(value, 16)
        ):
            raise UserError(
                f"{path} is of another build: {name} is at {addresses[name] + offset:#x} in it, "
                f"and at {int(value, 16):#x} in the kernel"
            )
    found.sort()
    symbols = []
    for i, (address, kind, name) in enumerate(found):
        if kind in b"aA" or address + offset >= 1 << 64:
            # Absolute: offsets of per-CPU variables.
            continue
        end = found[i + 1][0] if i + 1 < len(found) else address + 1
        symbols.append(
            Symbol(
                name.decode("ascii", "replace"),
                address + offset,
                end - address,
                SymbolBinding.GLOBAL if kind.isupper() else SymbolBinding.LOCAL,
                SymbolKind.FUNC if kind in b"tTwW" else SymbolKind.OBJECT,
            )
        )
    return SymbolIndex(symbols)


def _read_btf(prog: Program) -> bytes:
    if _is_local(prog):
        try:
            return _SYS_BTF.read_bytes()
        except OSError:
            pass
    try:
        start = prog.symbol("__start_BTF").address
        size = prog.symbol("__stop_BTF").address - start
    except LookupError:
        raise UserError(
            "this kernel has no BTF (CONFIG_DEBUG_INFO_BTF): give its vmlinux with -s"
        ) from None
    if not 0 < size < _MAX_BTF:
        raise UserError(f"the kernel's BTF cannot be used: it has {size} bytes; give a vmlinux")
    try:
        data: bytes = prog.read(start, size)
    except FaultError as e:
        raise UserError(f"the kernel's BTF cannot be read: {e}; give its vmlinux with -s") from None
    return data
