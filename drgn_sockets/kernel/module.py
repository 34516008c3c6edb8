# SPDX-License-Identifier: LGPL-2.1-or-later
"""Loaded modules, and their symbols, which are not in the kernel's own kallsyms."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from drgn import Object, Program

from drgn_sockets.kernel.lists import list_for_each_entry
from drgn_sockets.kernel.lost import Lost, raise_lost, sift, unbroken
from drgn_sockets.kernel.memory import UNREADABLE, pointer_size, read_string
from drgn_sockets.kernel.structs import CString, Int, Struct
from drgn_sockets.program import byte_order, once_per_program

#: Ends an error about an unknown type of a module.
TYPES_OF_MODULES = "(types of modules: in BTF since Linux 5.11; or give debugging symbols)"

_MAX_SYMBOLS = 1 << 18
_MAX_STRINGS = 1 << 24
# include/linux/moduleparam.h: MODULE_NAME_LEN, and the longest name of a symbol (KSYM_NAME_LEN).
_MAX_NAME = 512


class Module(Struct):
    """``struct module``."""

    C_TYPE = "struct module"

    node = Int("list.next", help="next in the list modules")
    name = CString("name", help="name")
    kallsyms = Int("kallsyms", help="struct mod_kallsyms *")


class ModKallsyms(Struct):
    """``struct mod_kallsyms``."""

    C_TYPE = "struct mod_kallsyms"

    symtab = Int("symtab", help="Elf_Sym *")
    num_symtab = Int("num_symtab", help="how many there are")
    strtab = Int("strtab", help="char *, their names")


def for_each_module(prog: Program) -> Iterator[Module | Lost]:
    """
    Iterate over the modules that are loaded, as ``list_for_each_entry(mod, &modules, list)``.

    :return: Iterator of the decoded ``struct module``. A ``Lost`` stands for one that cannot be
        read.
    :raises LookupError: if the kernel has no modules (``CONFIG_MODULES=n``)
    """
    head = prog["modules"].address_of_().value_()
    return list_for_each_entry(Module.layout(prog), head, "node")


@once_per_program
def find_module(prog: Program, name: str) -> Module | None:
    """
    Find a module that is loaded, as ``find_module()``.

    :param name: Its name, with ``_`` where the name of its file may have ``-``
    :return: ``None`` if there is none of that name
    :raises FaultError: if it is not found, and a part of the list of modules cannot be read
    """
    try:
        modules = for_each_module(prog)
    except LookupError:
        return None
    lost: list[Lost] = []
    for module in sift(modules, lost.append):
        if module.name == name.encode():
            return module
    raise_lost(lost)
    return None


def module_symbol(prog: Program, module: Module, name: str) -> int:
    """
    Address of a symbol of a module.

    :raises LookupError: if it has none of that name, or its symbols cannot be read
    """
    kallsyms = ModKallsyms.layout(prog).follow(module.kallsyms)
    if kallsyms is not None and 0 < kallsyms.num_symtab <= _MAX_SYMBOLS:
        try:
            address = _find_symbol(prog, kallsyms, name.encode())
        except UNREADABLE:
            # Cores that an earlier version distilled lack the symbols of some modules. The caller
            # tells what is not shown, as it does for an unknown type.
            address = None
        if address is not None:
            return address
    raise LookupError(f"module {module.name.decode('ascii', 'replace')} has no symbol {name}")


def _symbols(prog: Program, kallsyms: ModKallsyms) -> tuple[dict[int, int], bytes]:
    """The value of each symbol by the offset of its name in the names, and the names."""
    # Elf64_Sym and Elf32_Sym: the offset of the name, and the value.
    form = "I4xQ8x" if pointer_size(prog) == 8 else "II8x"
    entry = struct.Struct(byte_order(prog) + form)
    symtab = prog.read(kallsyms.symtab, kallsyms.num_symtab * entry.size)
    values = dict(entry.iter_unpack(symtab))
    last = max(values)
    if last > _MAX_STRINGS:
        return {}, b""
    names = prog.read(kallsyms.strtab, last) if last else b""
    return values, names + (read_string(prog, kallsyms.strtab + last, _MAX_NAME) or b"") + b"\0"


def _find_symbol(prog: Program, kallsyms: ModKallsyms, name: bytes) -> int | None:
    values, names = _symbols(prog, kallsyms)
    at = names.find(b"\0" + name + b"\0") + 1
    while at:
        if at in values:
            return values[at]
        at = names.find(b"\0" + name + b"\0", at) + 1
    return None


@once_per_program
def module_symbol_name(prog: Program, address: int) -> str:
    """
    Name of the function or variable of a module at *address*, or ``""``.

    :raises FaultError: if the modules or their symbols cannot be read
    """
    try:
        return _symbol_name(prog, address)
    except LookupError:
        return ""


def _symbol_name(prog: Program, address: int) -> str:
    for module in unbroken(for_each_module(prog)):
        if not _has(prog, module, address):
            continue
        kallsyms = ModKallsyms.layout(prog).read(module.kallsyms)
        if not 0 < kallsyms.num_symtab <= _MAX_SYMBOLS:
            break
        values, names = _symbols(prog, kallsyms)
        for at, value in values.items():
            name = names[at : names.find(b"\0", at)] if value == address else b""
            if name:
                return name.decode("ascii", "backslashreplace")
        break
    return ""


def _has(prog: Program, module: Module, address: int) -> bool:
    """Whether *address* is in a module, as ``within_module_core()``."""
    mod = Module.layout(prog).object(module.address)
    # Linux kernel commit ac3b43283923 ("module: replace module_layout with module_memory") (in
    # v6.4).
    parts = mod.mem if mod.type_.type.has_member("mem") else [mod.core_layout]
    return any(0 <= address - part.base.value_() < part.size.value_() for part in parts)


def module_variable(prog: Program, module: str, name: str, type_: str) -> Object:
    """
    A variable of code that is a module or built into the kernel.

    :param module: Name of the module
    :param type_: As C writes it
    :raises LookupError: if neither is there, or the type is not known
    """
    loaded = find_module(prog, module)
    address = module_symbol(prog, loaded, name) if loaded else prog.symbol(name).address
    return Object(prog, type_, address=address)
