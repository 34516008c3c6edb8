# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program that reads the memory of another program, and keeps only the bytes that it read."""

from __future__ import annotations

import re

import drgn
from drgn import FaultError, PlatformFlags, Program, Symbol

from drgn_sockets.errors import UserError
from drgn_sockets.target.kallsyms import Kallsyms, read_kallsyms
from drgn_sockets.target.own_types import OwnTypes
from drgn_sockets.target.symbols import vmcoreinfo, vmcoreinfo_line

# Symbols that load_vmlinux_kallsyms() looks for in VMCOREINFO. VMCOREINFO lacks them before
# f09bddbd8661 ("vmcoreinfo: add kallsyms_num_syms symbol", 6.0) and its dependencies.
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

    Each page is copied once, when it is first touched, so that on a live kernel all reads of a
    page by :attr:`program` show the same moment. Only the bytes that were asked for are kept, and
    the entries of the page tables that lead to them.

    :param source: A Linux kernel. Its types are not used.
    :param mark: A line for VMCOREINFO.
    :raises UserError: if its page tables or its VMCOREINFO cannot be used
    """

    def __init__(self, source: Program, mark: str) -> None:
        platform = source.platform
        if platform is None or not platform.flags & PlatformFlags.IS_64_BIT:
            raise UserError("only the memory of 64-bit kernels can be distilled")
        self._source = source
        self._vmcoreinfo = _vmcoreinfo(source, mark)
        # The symbols that were asked for, and are not in tables of kallsyms that are kept.
        self._symbols: dict[tuple[str, int], Symbol] = {}
        # Whether these tables have all symbols, and the tables if they have not.
        self._kallsyms_kept = False
        self._some_kept: Kallsyms | None = None
        match = _PAGE_SIZE.search("\n".join(self._vmcoreinfo))
        #: Bytes in a page.
        self.page_size = int(match[1]) if match else 4096
        #: Each page by its frame number; bytes that were not read are zeros.
        self.kept: dict[int, bytearray] = {}
        # Page frame of each virtual page.
        self._frames: dict[int, int] = {}
        # Each page as it was when it was first touched, by its frame number.
        self._pages: dict[int, bytes] = {}
        self._translated = 0
        self._walker = self._new_program()
        self._walker.add_memory_segment(0, 1 << 63, self._read_table, physical=True)
        #: The program whose reads are kept.
        self.program = self._new_program()
        self.program.add_memory_segment(0, (1 << 64) - 1, self._read)

    def _new_program(self) -> Program:
        prog = Program(platform=self._source.platform)
        if not hasattr(prog, "set_linux_kernel_custom"):
            raise UserError(f"distill needs drgn 0.1 or newer; this is drgn {drgn.__version__}")
        try:
            prog.set_linux_kernel_custom("".join(f"{line}\n" for line in self._vmcoreinfo), False)
        except ValueError as e:
            raise UserError(f"the kernel's page tables cannot be used: {e}") from None
        return prog

    @property
    def vmcoreinfo(self) -> bytes:
        """VMCOREINFO, with lines added for symbols that a kernel before 6.0 does not tell there."""
        lines = [*self._vmcoreinfo, *map(vmcoreinfo_line, self._symbols.values())]
        return "".join(f"{line}\n" for line in dict.fromkeys(lines)).encode()

    def load_types(self) -> list[str]:
        """
        Give :attr:`program` the kernel's own types and symbols, or those of the source.

        :return: Files that types were taken from, because the kernel's memory lacks them. A reader
            of the recorded memory needs these files too.
        :raises UserError: if there are no types
        """
        own = OwnTypes.of(self.program)
        # The symbols come from the source in any case. Each symbol that is asked for becomes a line
        # of VMCOREINFO, unless it is in tables of kallsyms that are kept.
        self._kallsyms_kept = self._keep_kallsyms()
        if self._kallsyms_kept:
            kept = read_kallsyms(self.program, "\n".join(self._vmcoreinfo))
            # Without CONFIG_KALLSYMS_ALL, kallsyms has functions only.
            if kept is not None and kept.find("init_task") is None:
                self._some_kept, self._kallsyms_kept = kept, False
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
        if not self._kallsyms_kept and not (
            self._some_kept is not None and self._some_kept.find(symbol.name)
        ):
            self._symbols[symbol.name, symbol.address] = symbol
        return [symbol]

    def _keep_kallsyms(self) -> bool:
        """Read, and so keep, the tables of kallsyms; ``False`` if they are not there."""
        known = {name: _address(self._vmcoreinfo, name) for name in _KALLSYMS}
        # Some kernels lack some of these tables.
        at = {name: address for name, address in known.items() if address}
        if not at.keys() >= set(_KALLSYMS[:4]):
            return False
        try:
            number = self.program.read_u32(at["kallsyms_num_syms"])
            # The tables lie side by side. One of these four comes last, also after 404bad70fcf7
            # ("scripts/kallsyms: change the output order", 6.4).
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
            # Not an entry of a page table, but the byte that _frame() reads: the walk is done.
            self._translated = address
            return b"\0"
        # drgn reads from the entry to the end of the table; only the entry is needed.
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
    """The address of a symbol in VMCOREINFO, 0 if VMCOREINFO lacks it."""
    pattern = re.compile(rf"SYMBOL\({name}\)=([0-9A-Fa-f]{{1,16}})")
    return next((int(found[1], 16) for line in lines if (found := pattern.fullmatch(line))), 0)


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
