# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core alone: types from its own BTF must tell what the compiler's DWARF tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from drgn import Object
from drgn.helpers.linux.pid import for_each_task

from drgn_sockets import cli
from drgn_sockets.kernel import task
from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.target import own_types
from drgn_sockets.target.btf import Btf
from drgn_sockets.target.symbols import load_symbols
from drgn_sockets.views.procfs import FILES

from .conftest import BOTH, ONE, opened
from .machine import ROOT, Core, spawn

# Each column; what is made of columns does not know where types are from.
COMMANDS = (
    ("fds", "--output", "all", "--json"),
    ("ss", "-a", "--output", "all", "--json"),
    ("ss", "-tuxwapemo"),
    ("procfs", *(f"net/{name}" for name in FILES if "udplite" not in name)),
)


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_btf_says_what_dwarf_says(twins: tuple[Core, Core], argv: tuple[str, ...]) -> None:
    dwarf, btf = (core.run(*argv) for core in twins)
    assert btf == dwarf
    assert dwarf.status == 0
    assert dwarf.out.count("\n") > 30


def test_peer_and_tcp_of_sockets(twins: tuple[Core, Core]) -> None:
    rows = [row for row in twins[0].rows("ss", "-a") if not row["error"]][::8]
    tcp = [row["sk"] for row in rows if row["netid"] == "tcp"]
    assert len(tcp) > 20
    few = [row["sk"] for row in rows[::5]]
    for argv in (
        ("peer", *(row["sk"] for row in rows), "--json", "--output=all"),
        ("peer", *few),
        ("tcp", *tcp),
        ("tcp", *tcp, "--json"),
    ):
        dwarf, btf = (core.run(*argv) for core in twins)
        assert btf == dwarf
        assert dwarf.out.count("\n") > len(few)


def test_check_of_both(twins: tuple[Core, Core]) -> None:
    for more in ((), ("--moved", "--json")):
        argv = ("check", "--procfs", str(twins[0].oracle), *more)
        dwarf, btf = (core.run(*argv) for core in twins)
        assert btf == dwarf
        assert dwarf.status == 0


@pytest.mark.parametrize("kernel", [*BOTH, ONE])
def test_a_core_alone_is_enough(kernel: str) -> None:
    core = opened(kernel, "elf", "btf")
    argv = ("check", "--procfs", str(core.oracle))
    done = spawn("-c", str(core.path), "--types", "btf", *core.system_map, *argv)
    assert done.returncode == 0, done.stdout
    assert done.stderr.startswith(b"drgn-sockets: types from the kernel's own BTF, symbols from ")
    assert done.stderr.count(b"\n") == 1
    assert done.stdout.splitlines()[-1].endswith(b" 0 mismatches")
    assert b"PID/fd" in done.stdout


def test_loaded_once(
    one: Core, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where debugging symbols are looked for first, and there are none."""
    loaded = []

    def load(*args: Any) -> Any:
        loaded.append("symbols")
        return load_symbols(*args)

    class Counted(Btf):
        def __init__(self, data: bytes, base: Btf | None = None) -> None:
            loaded.append("types")
            super().__init__(data, base)

    monkeypatch.setattr(own_types, "load_symbols", load)
    monkeypatch.setattr(own_types, "Btf", Counted)
    assert cli.main(["-c", str(one.path), "fds", "1"]) == 0
    assert "types from the kernel's own BTF" in capsys.readouterr().err
    assert loaded == ["symbols", "types"]


def test_what_is_not_imported(one: Core) -> None:
    """One of drgn's helpers brings all, and with them drgn's command line, in 100 ms."""
    code = (
        "import sys; from drgn_sockets.cli import main; main(); "
        "print(*sys.modules, file=sys.stderr)"
    )
    for words in (["fds"], ["ss", "-tuxap"]):
        done = subprocess.run(
            [sys.executable, "-c", code, "-c", str(one.path), "--types", "btf", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(done.stdout.splitlines()) > 100
        modules = set(done.stderr.splitlines()[-1].split())
        assert {"drgn", "drgn_sockets.kernel.task"} <= modules
        for name in ("drgn.helpers", "drgn.commands", "inspect", "dataclasses", "tempfile"):
            assert name not in modules, name


def test_tasks_are_those_of_drgn(elf: Core) -> None:
    found = dict(unbroken(task._tasks_by_pid(elf.prog)))
    assert list(found.values()) == [task.value_() for task in for_each_task(elf.prog)]
    for pid, address in found.items():
        assert Object(elf.prog, "struct task_struct *", address).pid.value_() == pid
    assert len(found) > 50


def test_a_system_map_of_another_build(elf: Core, tmp_path: Path) -> None:
    system_map = tmp_path / "System.map"
    lines = [f"ffffffff81{i:06x} T f{i}\n" for i in range(2000)]
    system_map.write_text("".join(lines) + "ffffffff83000000 D init_uts_ns\n")
    done = spawn("-c", str(elf.path), "--types=btf", "--system-map", str(system_map), "fds")
    assert done.returncode == 2
    assert b"is of another build" in done.stderr
    assert done.stderr.count(b"\n") == 1
