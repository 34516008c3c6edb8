# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a kernel says of itself: types from its BTF, symbols from its kallsyms."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from itertools import islice

from drgn import (
    FaultError,
    FindObjectFlags,
    Object,
    Program,
    Symbol,
    Type,
    TypeKind,
    TypeKindSet,
)

from drgn_sockets.errors import UserError
from drgn_sockets.program import once_per_program
from drgn_sockets.target.btf import Btf
from drgn_sockets.target.btf_source import BtfFile, module_btf, own_btf
from drgn_sockets.target.btf_types import NAME, BtfTypes, at_symbol
from drgn_sockets.target.declarations import DECLARATIONS, Declarations
from drgn_sockets.target.symbols import OWN_SYMBOLS, SymbolFinder, load_symbols, os_release

_PRIMITIVE = frozenset({"char", "short", "int", "long", "signed", "unsigned", "_Bool", "double"})

logger = logging.getLogger("drgn.drgn_sockets")


class OwnTypes:
    """
    Finders of types, objects and symbols for a program, that read the kernel's own memory.

    They come last in the order of finders, and what they need is loaded when they are first
    asked: where there is DWARF, they stay out of the way.
    """

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        #: The file that types were taken from, for want of BTF in memory.
        self.btf_file: BtfFile | None = None
        self._btf: Btf | None = None
        # The kernel's own, and with the first that it lacks those of its modules.
        self._types: list[BtfTypes] = []
        self._has_modules = False
        # Those of modules alone, where the kernel's are from DWARF.
        self._beside_dwarf: list[BtfTypes] | None = None
        self._symbols: SymbolFinder | None = None
        # Loading looks things up itself, and what failed once is not tried again.
        self._tried = False
        self._aside = False
        self._known = Declarations(prog, DECLARATIONS)
        self._told = Declarations(prog)
        prog.register_symbol_finder(NAME, self._find_symbol, enable_index=-1)
        prog.register_type_finder(NAME, self._find_type, enable_index=-1)
        prog.register_object_finder(NAME, self._find_object, enable_index=-1)

    @classmethod
    def of(cls, prog: Program) -> OwnTypes:
        """The finders of *prog*, registered at the first call."""
        return _own_types(prog)

    def load(
        self,
        system_map: str | None = None,
        btf: BtfFile | None = None,
        symbols: SymbolFinder | None = None,
    ) -> str:
        """
        Load types and symbols now.

        :param system_map: A ``System.map``, for a core whose VMCOREINFO does not lead to
            kallsyms (before Linux 6.0).
        :param btf: A file with the kernel's BTF, for one whose memory lacks it.
        :param symbols: Where symbols come from, instead of all that.
        :return: What was used, for people.
        :raises UserError: if the kernel lacks what is needed
        """
        self._tried = True
        self.btf_file = btf
        prog = self._prog
        if symbols is not None:
            self._symbols, symbols_from = symbols, "elsewhere"
        else:
            self._symbols, symbols_from = load_symbols(prog, system_map, btf.elf if btf else None)
        files = [btf.path] if btf else []
        if symbols is None and symbols_from not in (*OWN_SYMBOLS, *files):
            files.append(symbols_from)
        if btf is not None:
            btf.check_build(prog)
        self._btf = Btf(btf.data if btf else own_btf(prog))
        self._types = [BtfTypes(prog, self._btf)]
        if files:
            self._check_build(files)
        types_from = f"the BTF of {btf.path}" if btf else "the kernel's own BTF"
        return f"types from {types_from}, symbols from {symbols_from}"

    def _check_build(self, files: list[str]) -> None:
        # What is in two places, by symbol and type in one of them.
        prog = self._prog
        try:
            release = prog["init_uts_ns"].name.release.string_().decode("ascii", "replace")
            comm = prog["init_task"].comm.string_()
        except (LookupError, AttributeError, FaultError):
            release, comm = "", b""
        if release != os_release(prog) or not comm.startswith(b"swapper"):
            self._types, self._symbols = [], None
            raise UserError(
                f"{' and '.join(files)}: of another build: init_task and init_uts_ns are not where "
                "they would be"
            )

    def declare(self, text: str) -> None:
        """
        Tell the types of variables.

        :param text: As for :func:`drgn_sockets.target.declarations.parse()`.
        :raises ValueError: if that is no declaration
        """
        self._told.add(text)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """
        Find nothing while this lasts: whoever looks for debugging symbols, and drgn while it
        loads them, would be answered by loading all that may not be needed.
        """
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def _ready(self) -> bool:
        if self._aside:
            return False
        if not self._tried and not _has_dwarf(self._prog):
            try:
                self.load()
            except UserError as e:
                # Once, and not as an error: drgn may do without.
                logger.warning("%s", e)
        return bool(self._types)

    def _each(self) -> Iterator[BtfTypes]:
        yield self._types[0]
        if not self._has_modules and self._btf is not None:
            # Finding them asks for types itself.
            self._has_modules = True
            modules = list(module_btf(self._prog, self._btf))
            self._types += [BtfTypes(self._prog, m, self._types[0]) for m in modules]
        yield from self._types[1:]

    def _find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None
    ) -> Type | None:
        if self._ready():
            # drgn tries all ways to write such a type; modules take theirs from the kernel.
            primitive = _PRIMITIVE.issuperset(name.split())
            for types in self._types[:1] if primitive else self._each():
                found = types.find_type(prog, kinds, name, filename)
                if found is not None:
                    return found
        elif not self._aside and TypeKind.STRUCT in kinds and _has_dwarf(prog):
            # There may be DWARF of the kernel and not of its modules.
            for types in self._modules_beside_dwarf():
                found = types.find_type(prog, kinds, name, filename)
                if found is not None:
                    return found
        return None

    def _modules_beside_dwarf(self) -> list[BtfTypes]:
        if self._beside_dwarf is None:
            # Finding them asks for types itself.
            self._beside_dwarf = []
            try:
                btf = Btf(own_btf(self._prog))
            except UserError as e:
                logger.debug("types of modules: %s", e)
            else:
                kernel = BtfTypes(self._prog, btf)
                modules = module_btf(self._prog, btf)
                self._beside_dwarf = [BtfTypes(self._prog, m, kernel) for m in modules]
        return self._beside_dwarf

    def _find_object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None
    ) -> Object | None:
        if filename:
            return None
        variable = bool(flags & FindObjectFlags.VARIABLE)
        if variable:
            type_ = self._told.type(name)
            if type_ is not None:
                return at_symbol(prog, name, type_)
        if not self._ready():
            return None
        # A declaration comes before modules, or most variables would have them loaded, and before
        # enumerators, of which there is no index before one is asked for.
        own = self._types[0]
        if variable:
            found = own.find_object(prog, name, FindObjectFlags.VARIABLE, filename)
            if found is None:
                type_ = self._known.type(name)
                if type_ is not None:
                    found = at_symbol(prog, name, type_)
            if found is not None:
                return found
        found = own.find_object(prog, name, flags & ~FindObjectFlags.VARIABLE, filename)
        if found is not None:
            return found
        for types in islice(self._each(), 1, None):
            found = types.find_object(prog, name, flags, filename)
            if found is not None:
                return found
        symbol = next(iter(self._find_symbol(prog, name, None, True)), None)
        if flags & FindObjectFlags.FUNCTION and symbol and self._is_code(symbol.address):
            # BTF may have only those that can be traced, and drgn looks for others to see what
            # kernel it is. It is declared the old way: nothing is known of parameters.
            type_ = prog.function_type(prog.void_type(), (), is_variadic=True)
            return Object(prog, type_, address=symbol.address)
        if variable and symbol:
            # drgn makes its own error of a LookupError, and knows it as one of its own.
            raise LookupError(
                f"the type of {name} is not known: BTF has it of few variables; tell it with "
                f"drgn_sockets.declare('struct TYPE {name};')"
            )
        return None

    def _is_code(self, address: int) -> bool:
        # The kind of a symbol does not tell: Linux 7.2 has the data that follow it marked as text.
        for start, end in (("_stext", "_etext"), ("_sinittext", "_einittext")):
            try:
                if self._prog.symbol(start).address <= address < self._prog.symbol(end).address:
                    return True
            except LookupError:
                pass
        return False

    def _find_symbol(
        self, prog: Program, name: str | None, address: int | None, one: bool
    ) -> Sequence[Symbol]:
        # Reading BTF begins with two symbols.
        if self._symbols is None:
            self._ready()
        if self._symbols is None or self._aside:
            return []
        return self._symbols(prog, name, address, one)


@once_per_program
def _own_types(prog: Program) -> OwnTypes:
    return OwnTypes(prog)


def _has_dwarf(prog: Program) -> bool:
    try:
        return not prog.main_module().wants_debug_file()
    except LookupError:
        return False
