# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finding symbols in more than one place."""

from __future__ import annotations

from drgn import Program, Symbol, SymbolBinding, SymbolIndex, SymbolKind

from drgn_sockets.target import symbols


def test_variables_that_only_vmcoreinfo_tells() -> None:
    # Of a kernel without CONFIG_KALLSYMS_ALL: by its address, a variable is in the last function.
    def symbol(name: str, address: int, size: int) -> Symbol:
        return Symbol(name, address, size, SymbolBinding.GLOBAL, SymbolKind.UNKNOWN)

    function, variable = symbol("function", 0x1000, 0x4000), symbol("variable", 0x2000, 8)
    find = symbols._and_told(SymbolIndex([function]), SymbolIndex([variable]))
    prog = Program()
    assert find(prog, "variable", None, True) == [variable]
    assert find(prog, "function", None, True) == [function]
    assert find(prog, None, 0x2004, True) == [variable]
    assert find(prog, None, 0x2008, True) == [function]
    assert find(prog, "neither", None, True) == []
    assert sorted(s.name for s in find(prog, None, None, False)) == ["function", "variable"]
