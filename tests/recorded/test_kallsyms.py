# SPDX-License-Identifier: LGPL-2.1-or-later
"""Symbols that are looked up one by one, against drgn's index of all."""

from __future__ import annotations

import random

import pytest
from drgn import Program, Symbol
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from drgn_sockets.target.core_file import CoreFile
from drgn_sockets.target.declarations import DECLARATIONS, parse
from drgn_sockets.target.kallsyms import Kallsyms
from drgn_sockets.target.symbols import vmcoreinfo

from .conftest import FORMATS, KERNELS, opened

# Of 5.10, VMCOREINFO does not tell where they are.
TELLING = [kernel for kernel in KERNELS if kernel != "5.10"]


@pytest.fixture(params=FORMATS)
def format_(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    return str(request.param)


@pytest.fixture
def prog(kernel: str, format_: str) -> Program:
    """A core with its kallsyms, without symbols."""
    file = CoreFile(str(opened(kernel, format_, "btf").path))
    prog = Program(file.platform())
    prog.set_core_dump(file.path)
    return prog


@pytest.mark.parametrize("kernel", TELLING)
def test_one_by_one(prog: Program) -> None:
    quick = Kallsyms(prog, vmcoreinfo(prog))
    find = load_vmlinux_kallsyms(prog)
    everything: list[Symbol] = find(prog, None, None, False)
    assert quick.count == len(everything) > 80_000
    rnd = random.Random(3)
    by_name: dict[str, int] = {}
    for symbol in everything:
        by_name[symbol.name] = by_name.get(symbol.name, 0) + 1
    twice = sorted(name for name, count in by_name.items() if count > 1)
    assert len(twice) > 500
    wanted = [name for name, *_ in parse(DECLARATIONS)]
    absent = [name[:-1] + "~" for name in wanted[:20]] + ["", "_", "é", "a\nb"]
    for name in (*wanted, *absent, *rnd.sample(sorted(by_name), 300), *rnd.sample(twice, 100)):
        assert quick.find(name) == next(iter(find(prog, name, None, True)), None), name
    for symbol in rnd.sample(everything, 3000):
        for address in (symbol.address - 1, symbol.address, symbol.address + symbol.size):
            if address >= 0:
                expected = next(iter(find(prog, None, address, True)), None)
                assert quick.find_at(address) == expected, hex(address)


@pytest.mark.parametrize("kernel", TELLING)
def test_every_name_is_compressed_as_thought(kernel: str) -> None:
    """So what is not found is not there."""
    prog = opened(kernel, "elf", "btf").prog
    quick = Kallsyms(prog, vmcoreinfo(prog))
    for block in range(len(quick._markers)):
        starts = quick._block(block)
        for start, end in list(zip(starts, starts[1:]))[block % 4 :: 4]:
            coded = quick._coded(start, end)
            assert quick._compress(quick._text(coded)) == coded
