# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program that reads another's memory, and keeps just what was read of it."""

from __future__ import annotations

import re

from drgn import FaultError, PlatformFlags, Program, Symbol

from drgn_sockets.errors import UserError
from drgn_sockets.target.own_types import OwnTypes
from drgn_sockets.target.symbols import vmcoreinfo, vmcoreinfo_line

# What load_vmlinux_kallsyms() wants to find there. Before f09bddbd8661 ("vmcoreinfo: add
# kallsyms_num_syms symbol", 6.0) and its dependencies VMCOREINFO lacks them.
_KALLSYMS = (
    "kallsyms_names",
    "kallsyms_num_syms",
    "kallsyms_token_table",
    "kallsyms_token_index",
    "kallsyms_offsets",
    "kallsyms_relative_base",
)

# Bytes of an entry of a page table.
_ENTRY = 8

# Far more than a kernel has.
_MAX_KALLSYMS = 1 << 26

_PAGE_SIZE = re.compile(r"^PAGESIZE=([0-9]+)$", re.MULTILINE)


class Recorder:
    """
    Reads the memory of a kernel through its page tables, and keeps what was read.

    A page is taken once, when it is first touched, so that on a live kernel all that
    :attr:`program` reads of it is of one moment. What is kept are the bytes that were asked
    for, and the entries of the page tables that lead there.

    :param source: A Linux kernel. Its types are not used.
    :param mark: A line for VMCOREINFO.
    :raises UserError: if its page tables or its VMCOREINFO are not there
    """

    def __init__(self, source: Program, mark: str) -> None:
        platform = source.platform
        if platform is None or not platform.flags & PlatformFlags.IS_64_BIT:
            raise UserError("only the memory of 64-bit kernels can be distilled")
        self._source = source
        self._vmcoreinfo = _vmcoreinfo(source, mark)
        # Those that were asked for, of a kernel that does not tell where all are.
        self._symbols: dict[tuple[str, int], Symbol] = {}
        self._kallsyms_kept = False
        match = _PAGE_SIZE.search("\n".join(self._vmcoreinfo))
        #: Bytes in a page.
        self.page_size = int(match[1]) if match else 4096
        #: By page frame number, what was read of each page; zeros elsewhere.
        self.kept: dict[int, bytearray] = {}
        # Page frame of each virtual page; the pages as they were when first touched.
        self._frames: dict[int, int] = {}
        self._pages: dict[int, bytes] = {}
        self._translated = 0
        self._walker = self._new_program()
        self._walker.add_memory_segment(0, 1 << 63, self._read_table, physical=True)
        #: The program whose reads are kept.
        self.program = self._new_program()
        self.program.add_memory_segment(0, (1 << 64) - 1, self._read)

    def _new_program(self) -> Program:
        prog = Program(platform=self._source.platform)
        try:
            prog.set_linux_kernel_custom("".join(f"{line}\n" for line in self._vmcoreinfo), False)
        except ValueError as e:
            raise UserError(f"the kernel's page tables cannot be used: {e}") from None
        return prog

    @property
    def vmcoreinfo(self) -> bytes:
        """VMCOREINFO, and lines for what a kernel before 6.0 does not tell there."""
        lines = [*self._vmcoreinfo, *map(vmcoreinfo_line, self._symbols.values())]
        return "".join(f"{line}\n" for line in dict.fromkeys(lines)).encode()

    def load_types(self) -> list[str]:
        """
        Give :attr:`program` the kernel's own types and symbols, or those of the source.

        :return: Files that these were taken from, because the kernel's memory lacks them: who
            reads what was kept needs them as well.
        :raises UserError: if there are none
        """
        own = OwnTypes.of(self.program)
        # Where all are recorded, those of the source do for this; else those that are asked for
        # are told in VMCOREINFO.
        self._kallsyms_kept = self._keep_kallsyms()
        symbols = self._find_symbol
        try:
            own.load(symbols=symbols)
        except UserError:
            given = OwnTypes.of(self._source).btf_file
            if given is not None:
                own.load(btf=given, symbols=symbols)
                return [given.path]
            files = {module.debug_file_path for module in self._source.modules()} - {None}
            if not files:
                raise
            self.program.load_debug_info(sorted(files), main=True)
            return sorted(files)
        return []

    def _find_symbol(
        self, prog: Program, name: str | None, address: int | None, one: bool
    ) -> list[Symbol]:
        try:
            symbol = self._source.symbol(address if name is None else name)
        except LookupError:
            return []
        if not self._kallsyms_kept:
            self._symbols[symbol.name, symbol.address] = symbol
        return [symbol]

    def _keep_kallsyms(self) -> bool:
        """Read the tables of kallsyms, which lie side by side; whether they are there."""
        known = {name: _address(self._vmcoreinfo, name) for name in _KALLSYMS}
        # Not all kernels have all.
        at = {name: address for name, address in known.items() if address}
        if not at.keys() >= set(_KALLSYMS[:4]):
            return False
        try:
            number = self.program.read_u32(at["kallsyms_num_syms"])
            # Of the others others follow, also after 404bad70fcf7 ("scripts/kallsyms: change the
            # output order", 6.4).
            ends = {
                "kallsyms_offsets": 4 * number,
                "kallsyms_token_index": 2 * 256,
                "kallsyms_relative_base": 8,
                "kallsyms_num_syms": 4,
            }
            start = min(at.values())
            end = max(at[name] + size for name, size in ends.items() if name in at)
            if end - start > _MAX_KALLSYMS or end <= max(at.values()):
                return False
            self.program.read(start, end - start)
        except (FaultError, ValueError):
            return False
        return True

    def _page(self, frame: int) -> bytes:
        page = self._pages.get(frame)
        if page is None:
            page = self._source.read(frame * self.page_size, self.page_size, physical=True)
            self._pages[frame] = page
        return page

    def _keep(self, frame: int, start: int, end: int) -> bytes:
        data = self._page(frame)[start:end]
        kept = self.kept.get(frame)
        if kept is None:
            kept = self.kept[frame] = bytearray(self.page_size)
        kept[start:end] = data
        return data

    def _read_table(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        if count == 1:
            # Where the walk has led to: see _frame().
            self._translated = address
            return b"\0"
        # drgn reads the rest of the table as well; one entry is needed.
        frame, start = divmod(address, self.page_size)
        entry = self._keep(frame, start, start + _ENTRY)
        return entry.ljust(count, b"\0")

    def _frame(self, page: int) -> int:
        frame = self._frames.get(page)
        if frame is None:
            self._walker.read(page * self.page_size, 1)
            frame = self._frames[page] = self._translated // self.page_size
        return frame

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        size = self.page_size
        page, start = divmod(address, size)
        if start + count <= size:
            return self._keep(self._frame(page), start, start + count)
        parts = []
        while count:
            end = min(start + count, size)
            parts.append(self._keep(self._frame(page), start, end))
            count -= end - start
            page, start = page + 1, 0
        return b"".join(parts)


def _address(lines: list[str], name: str) -> int:
    """What VMCOREINFO has as the address of a symbol, 0 if nothing."""
    start = f"SYMBOL({name})="
    return next((int(line[len(start) :], 16) for line in lines if line.startswith(start)), 0)


def _vmcoreinfo(source: Program, mark: str) -> list[str]:
    try:
        lines = vmcoreinfo(source).splitlines()
    except (LookupError, FaultError) as e:
        raise UserError(f"the kernel's VMCOREINFO cannot be read: {e}") from None
    for name in _KALLSYMS:
        if not _address(lines, name):
            try:
                lines.append(f"SYMBOL({name})={source.symbol(name).address:x}")
            except LookupError:
                pass
    if mark not in lines:
        lines.append(mark)
    return lines
