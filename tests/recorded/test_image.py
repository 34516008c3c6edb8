# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels whose kallsyms has functions only: what is found in their image, against the full kallsyms.

The cores here have the full kallsyms; its variables are hidden.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drgn import Program, Symbol

from drgn_sockets import cli
from drgn_sockets.target import recorder, symbols
from drgn_sockets.target.image import BY_FUNCTION, find_btf, find_by_function, find_exports
from drgn_sockets.target.kallsyms import Kallsyms, read_kallsyms

from .machine import Core, Row


def is_function(prog: Program, address: int) -> bool:
    """Whether scripts/kallsyms.c keeps a symbol without CONFIG_KALLSYMS_ALL."""
    ranges = (("_stext", "_etext"), ("_sinittext", "_einittext"))
    return any(prog.symbol(a).address <= address < prog.symbol(b).address for a, b in ranges)


def address_of(prog: Program, name: str) -> int | None:
    try:
        return int(prog.symbol(name).address)
    except LookupError:
        return None


def test_btf(elf: Core) -> None:
    prog = elf.prog
    start, stop = (prog.symbol(f"__{end}_BTF").address for end in ("start", "stop"))
    assert find_btf(prog, prog.symbol("_stext").address) == (start, stop)
    # And none where there is none.
    assert find_btf(prog, (stop + 4095) & ~4095) is None


def test_exported_symbols(elf: Core) -> None:
    prog = elf.prog
    found = find_exports(prog, prog.symbol("_stext").address, lambda n: address_of(prog, n))
    assert len(found) > 5000
    assert {"init_task", "init_net", "init_pid_ns", "net_namespace_list"} <= found.keys()
    known = {name: address_of(prog, name) for name in sorted(found)[::30]}
    # One name can be of several symbols. On x86-64 before 6.15, those of processors are offsets.
    wrong = [
        name
        for name, address in known.items()
        if address is not None
        and found[name] not in [s.address for s in prog.symbols(name)]
        and address > 1 << 32
    ]
    assert wrong == []
    assert sum(address is not None for address in known.values()) > 150


def test_a_table_that_disagrees_is_none(one: Core) -> None:
    prog = one.prog
    assert find_exports(prog, prog.symbol("_stext").address, lambda name: 0x1234) == {}


def test_variables_by_function(elf: Core) -> None:
    prog = elf.prog
    found = find_by_function(prog, prog.symbol("_stext").address, lambda n: address_of(prog, n))
    assert {"socket_file_ops", "pipefifo_fops", "clocksource_jiffies"} <= found.keys()
    for name, addresses in found.items():
        known = address_of(prog, name)
        assert known in addresses, name
    assert found["socket_file_ops"] == [address_of(prog, "socket_file_ops")]
    others = {prog.symbol(a).name for places in found.values() for a in places} - found.keys()
    assert others <= {
        *("pipeanon_fops", "ptmx_fops", "refined_jiffies", "bpf_link_fops_poll"),
    }
    assert found.keys() <= BY_FUNCTION.keys()


@pytest.fixture
def functions_only(monkeypatch: pytest.MonkeyPatch, one: Core) -> None:
    """Hide the variables of kallsyms."""
    whole = one.prog

    def shown(symbol: Symbol | None) -> Symbol | None:
        return symbol if symbol is not None and is_function(whole, symbol.address) else None

    class Functions:
        """A table that has no others."""

        def __init__(self, table: Kallsyms) -> None:
            self._table = table

        def find(self, name: str) -> Symbol | None:
            return shown(self._table.find(name))

        def find_at(self, address: int) -> Symbol | None:
            return shown(self._table.find_at(address))

    def hiding(prog: Program, vmcoreinfo: str) -> Functions | None:
        table = read_kallsyms(prog, vmcoreinfo)
        return None if table is None else Functions(table)

    for module in (symbols, recorder):
        monkeypatch.setattr(module, "read_kallsyms", hiding)


def run(path: Path, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[list[Row], str]:
    capsys.readouterr()
    # 1 if it asked for a variable that is missing.
    assert cli.main(["-c", str(path), "--types=btf", *argv, "--json"]) in (0, 1)
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


@pytest.mark.usefixtures("functions_only")
def test_commands(one: Core, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = one.rows("fds")
    small = tmp_path / "small.kdump"
    _, err = run(one.path, capsys, "distill", "-o", str(small))
    assert "not found in kallsyms, which lacks most variables: " in err
    for path in (one.path, small):
        rows, err = run(path, capsys, "fds", "--output=pid,fd,file,kind,name,ino")
        # A distilled core has lines for what was found.
        assert ("functions only" in err and "--system-map" in err) == (path != small)
        assert len(rows) == len(plain)
        for row, other in zip(rows, plain):
            assert row == {name: other[name] for name in row}
        for option in ("-ta", "-xa"):
            argv = "ss", option, "--output", "sk,netid,state,local,peer,ino"
            rows, _ = run(path, capsys, *argv)
            expected = one.rows(*argv)
            assert rows == expected and len(rows) > 20
