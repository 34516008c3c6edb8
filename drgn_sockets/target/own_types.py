# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a kernel says of itself: types from its BTF, symbols from its kallsyms."""

from __future__ import annotations

import re
from pathlib import Path

from drgn import (
    FaultError,
    MissingDebugInfoError,
    Program,
    ProgramFlags,
    Symbol,
    SymbolBinding,
    SymbolIndex,
    SymbolKind,
)
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from drgn_sockets.errors import UserError
from drgn_sockets.target.btf import Btf, BtfError
from drgn_sockets.target.btf_types import NAME, BtfTypes

_SYS_BTF = Path("/sys/kernel/btf/vmlinux")
# Debian's largest is 7 MB; with everything built in it is some 20.
_MAX_BTF = 1 << 28


def load_own_types(prog: Program, system_map: str | None = None) -> str:
    """
    Give *prog* types and symbols out of the kernel's own memory.

    They come last in the order of finders: what DWARF says, where there is some, stays.

    :param system_map: A ``System.map``, for a core whose VMCOREINFO does not lead to kallsyms
        (before Linux 6.0).
    :return: What was used, for people.
    :raises UserError: if the kernel lacks what is needed
    """
    symbols, used = _symbols(prog, system_map)
    prog.register_symbol_finder(NAME, symbols, enable_index=-1)
    try:
        types = BtfTypes(prog, Btf(_read_btf(prog)))
    except BtfError as e:
        raise UserError(f"the kernel's BTF cannot be used: {e}; give its vmlinux with -s") from None
    prog.register_type_finder(NAME, types.find_type, enable_index=-1)
    prog.register_object_finder(NAME, types.find_object, enable_index=-1)
    return f"types from the kernel's own BTF, symbols from {used}"


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
