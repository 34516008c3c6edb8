# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core alone: types from its own BTF must tell what the compiler's DWARF tells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .machine import Core, spawn

COMMANDS = (
    ("fds",),
    ("fds", "--output", "all", "--json"),
    ("fds", "--output", "all", "--csv"),
    ("ss", "-a"),
    ("ss", "-a", "--output", "all"),
    ("ss", "-a", "--output", "all", "--json"),
    ("ss", "-tuxwapemo"),
    ("ss", "-tlnp"),
)


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_btf_says_what_dwarf_says(twins: tuple[Core, Core], argv: tuple[str, ...]) -> None:
    dwarf, btf = (core.run(*argv) for core in twins)
    assert btf == dwarf
    assert dwarf.status == 0
    assert dwarf.out.count("\n") > 30


def test_peer_and_tcp_of_every_socket(twins: tuple[Core, Core]) -> None:
    rows = twins[0].rows("ss", "-a")
    tcp = [row["sk"] for row in rows if row["netid"] == "tcp" and not row["error"]]
    assert len(tcp) > 100
    for argv in (("peer", *(row["sk"] for row in rows)), ("tcp", *tcp)):
        for more in ((), ("--json", "--output=all")):
            dwarf, btf = (core.run(*argv, *more) for core in twins)
            assert btf == dwarf
            assert dwarf.out.count("\n") > len(argv)


def test_check_of_both(twins: tuple[Core, Core]) -> None:
    for more in ((), ("--moved", "--json")):
        argv = ("check", "--procfs", str(twins[0].oracle), *more)
        dwarf, btf = (core.run(*argv) for core in twins)
        assert btf == dwarf
        assert dwarf.status == 0


def test_a_core_alone_is_enough(core: Core) -> None:
    argv = ("check", "--procfs", str(core.oracle))
    done = spawn("-c", str(core.path), "--types", "btf", *core.system_map, *argv)
    assert done.returncode == 0, done.stdout
    assert done.stderr.startswith(b"drgn-sockets: types from the kernel's own BTF, symbols from ")
    assert done.stderr.count(b"\n") == 1
    assert done.stdout.splitlines()[-1].endswith(b" 0 mismatches")
    assert b"PID/fd" in done.stdout


def test_a_system_map_of_another_build(elf: Core, tmp_path: Path) -> None:
    system_map = tmp_path / "System.map"
    lines = [f"ffffffff81{i:06x} T f{i}\n" for i in range(2000)]
    system_map.write_text("".join(lines) + "ffffffff83000000 D init_uts_ns\n")
    done = spawn("-c", str(elf.path), "--types=btf", "--system-map", str(system_map), "fds")
    assert done.returncode == 2
    assert b"is of another build" in done.stderr
    assert done.stderr.count(b"\n") == 1


PLAIN = """
from drgn.helpers.linux import *
tasks = list(for_each_task())
files = sum(1 for task in tasks for _ in for_each_file(task))
print(prog["init_task"].comm.string_().decode(), len(tasks), files, len(list(for_each_net())))
print(prog.symbol("tcp_prot").name, int(prog["TCP_LISTEN"]), prog.type("struct sock").size > 500)
"""


def test_plain_drgn_without_debugging_symbols(core: Core, tmp_path: Path) -> None:
    if core.system_map:
        pytest.skip(f"{core.kernel} needs a System.map, for which plain drgn has no option")
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    drgn = Path(sys.executable).with_name("drgn")
    words = []
    dwarf = [["-s", str(core.vmlinux)]] if core.types == "dwarf" else []
    for symbols in ([], *dwarf):
        argv = [str(drgn), "-q", "--main-symbols", "-c", str(core.path), *symbols, str(script)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        words.append(done.stdout.split())
    assert words[0] == words[-1]
    assert words[0][0] == "swapper/0"
    # Threads share tables, and drgn counts them for each.
    assert int(words[0][2]) >= sum(1 for _ in core.oracle.glob("[0-9]*/fd/*"))
    assert words[0][4:] == ["tcp_prot", "10", "True"]
    # What a user turns off is off.
    argv = [str(drgn), "-q", "-c", str(core.path), "-e", "print(prog['init_task'].comm)"]
    off = subprocess.run(argv, capture_output=True, env={**os.environ, "DRGN_DISABLE_PLUGINS": "*"})
    assert off.returncode != 0
