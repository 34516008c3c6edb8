# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types from a kernel's own BTF, and symbols from its own kallsyms."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from itertools import islice

from drgn import (
    FaultError,
    FindObjectFlags,
    Module,
    ModuleFileStatus,
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
from drgn_sockets.target.btf_types import NAME, BtfTypes
from drgn_sockets.target.declarations import DECLARATIONS, Declarations
from drgn_sockets.target.symbols import (
    OWN_SYMBOLS,
    SymbolFinder,
    WithImage,
    load_symbols,
    os_release,
)

_PRIMITIVE = frozenset({"char", "short", "int", "long", "signed", "unsigned", "_Bool", "double"})

logger = logging.getLogger("drgn.drgn_sockets")


class OwnTypes:
    """
    Finders of types, objects and symbols for a program, which read the kernel's own memory.

    These finders come last in drgn's order, and load BTF and kallsyms when drgn first asks them.
    So nothing is loaded where DWARF has everything.
    """

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        #: The file that types were taken from; ``None`` if they are from memory.
        self.btf_file: BtfFile | None = None
        #: Where types and symbols are from, in words; empty if none were loaded.
        self.types_from = ""
        self.symbols_from = ""
        self._btf: Btf | None = None
        # The kernel's types; those of its modules are added at the first type that it lacks.
        self._types: list[BtfTypes] = []
        self._has_modules = False
        # The types of modules, for a kernel whose own types are from DWARF.
        self._beside_dwarf: list[BtfTypes] | None = None
        self._symbols: SymbolFinder | None = None
        # Set before loading, because loading itself calls the finders. A load that failed is not
        # tried again.
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
        :param btf: A file with the kernel's BTF, for a kernel whose memory lacks it.
        :param symbols: Finds symbols instead; the kernel's kallsyms and *system_map* are not used.
        :return: A sentence that says which types and symbols are used.
        :raises UserError: if there are no types or no symbols, or they are another kernel's
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
        if isinstance(self._symbols, WithImage):
            symbols_from += (
                ", which has functions only (no CONFIG_KALLSYMS_ALL), and its table of exported "
                "symbols; --system-map with its System.map gives all"
            )
        self.types_from, self.symbols_from = types_from, symbols_from
        return f"types from {types_from}, symbols from {symbols_from}"

    def _check_build(self, files: list[str]) -> None:
        # Symbols or types from a file of another build would lead to wrong places. Two strings with
        # known values show that both are right: the release, which VMCOREINFO has too, and the name
        # of init_task.
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

    def missing_symbols(self) -> list[str]:
        """Symbols that were asked for, of a kernel most of whose variables have none."""
        return sorted(self._symbols.missing) if isinstance(self._symbols, WithImage) else []

    def declare(self, text: str) -> None:
        """
        Declare the types of variables.

        :param text: As for :func:`drgn_sockets.target.declarations.parse()`.
        :raises ValueError: if a line is no declaration
        """
        self._told.add(text)

    def stand_in(self) -> None:
        """
        Let drgn do without debugging symbols that it does not find.

        Without this, the REPL begins with an error, and ``prog.load_debug_info()`` raises one,
        though there are types. Symbols that are given later are used instead.
        """
        self._prog.register_debug_info_finder(NAME, self._find_debug_info, enable_index=-1)

    def _find_debug_info(self, modules: Sequence[Module]) -> None:
        # This comes last, so these modules are those that drgn has found no files for. Modules
        # of a kernel that has DWARF are left to drgn, which says that they lack theirs.
        if not self._ready():
            return
        for module in modules:
            if module.wants_debug_file():
                module.debug_file_status = ModuleFileStatus.DONT_WANT
            if module.wants_loaded_file():
                module.loaded_file_status = ModuleFileStatus.DONT_WANT

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """
        Make the finders find nothing inside this context.

        While debugging symbols are loaded, drgn and :mod:`drgn_sockets.target.open` look names up.
        Without this context, such a lookup would load BTF and kallsyms, which may not be needed.
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
                # A warning, once, and no error: drgn may not need these types.
                logger.warning("%s", e)
        return bool(self._types)

    def _each(self) -> Iterator[BtfTypes]:
        yield self._types[0]
        if not self._has_modules and self._btf is not None:
            # Set first, because module_btf() asks for types itself.
            self._has_modules = True
            modules = list(module_btf(self._prog, self._btf))
            self._types += [BtfTypes(self._prog, m, self._types[0]) for m in modules]
        yield from self._types[1:]

    def _find_type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None
    ) -> Type | None:
        if self._ready():
            # drgn tries all spellings of a primitive type. The kernel's BTF has those that modules
            # use, so the BTF of modules need not be read for them.
            primitive = _PRIMITIVE.issuperset(name.split())
            for types in self._types[:1] if primitive else self._each():
                found = types.find_type(prog, kinds, name, filename)
                if found is not None:
                    return found
        elif not self._aside and TypeKind.STRUCT in kinds and _has_dwarf(prog):
            # The kernel may have DWARF while its modules have none.
            for types in self._modules_beside_dwarf():
                found = types.find_type(prog, kinds, name, filename)
                if found is not None:
                    return found
        return None

    def _modules_beside_dwarf(self) -> list[BtfTypes]:
        if self._beside_dwarf is None:
            # Set first, because module_btf() asks for types itself.
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
        variable = bool(flags & FindObjectFlags.VARIABLE)
        if variable:
            found = self._told.object(name, in_a_file=bool(filename))
            if found is not None:
                return found
        if not self._ready():
            return None
        if filename:
            return self._known.object(name, in_a_file=True) if variable else None
        # Declarations are searched before modules, because otherwise most variables would load all
        # modules. They are searched before enumerators too, because an index of enumerators is made
        # only when one is asked for.
        own = self._types[0]
        if variable:
            found = own.find_object(prog, name, FindObjectFlags.VARIABLE, filename)
            if found is None:
                found = self._known.object(name)
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
            # BTF may have only the functions that can be traced, and drgn looks for others to see
            # what kernel this is. The parameters are unknown, so the type is "void f()".
            type_ = prog.function_type(prog.void_type(), (), is_variadic=True)
            return Object(prog, type_, address=symbol.address)
        if variable and symbol:
            # drgn turns a LookupError into an error of its own, and handles it as such.
            raise LookupError(
                f"the type of {name} is not known: BTF has it of few variables; tell it with "
                f"drgn_sockets.declare('struct TYPE {name};')"
            )
        return None

    def _is_code(self, address: int) -> bool:
        # The kind of a symbol does not tell: Linux 7.2 marks the data that follow the text as text.
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
        # Reading BTF looks up two symbols first, before there are any types.
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
        module = prog.main_module()
    except LookupError:
        return False
    # Not wanted: see stand_in().
    return not (module.wants_debug_file() or module.debug_file_status == ModuleFileStatus.DONT_WANT)
