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
    ("fds", "--output", "all"),
    ("ss", "-a", "--output", "all"),
    ("ss", "-tuxape"),
    ("peer", "/tmp/drgn-sockets/unix_fork/test.sock"),
)


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_btf_says_what_dwarf_says(core: Core, argv: tuple[str, ...]) -> None:
    dwarf = spawn(*core.target, "--types", "dwarf", *argv)
    btf = spawn("-c", str(core.path), "--types", "btf", *argv)
    assert dwarf.returncode == 0, dwarf.stderr
    assert btf.returncode == 0, btf.stderr
    assert btf.stderr.startswith(b"drgn-sockets: types from the kernel's own BTF")
    assert btf.stdout == dwarf.stdout
    assert btf.stdout.count(b"\n") > 2


def test_a_core_alone_is_enough(core: Core) -> None:
    done = spawn("-c", str(core.path), "check", "--procfs", str(core.oracle))
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith(b" 0 mismatches")
    assert b"PID/fd" in done.stdout


def test_a_system_map_of_another_build(both_kernels: tuple[Core, Core], tmp_path: Path) -> None:
    one, _ = both_kernels
    system_map = tmp_path / "System.map"
    lines = [f"ffffffff81{i:06x} T f{i}\n" for i in range(2000)]
    system_map.write_text("".join(lines) + "ffffffff83000000 D init_uts_ns\n")
    done = spawn("-c", str(one.path), "--types=btf", "--system-map", str(system_map), "fds")
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
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    drgn = Path(sys.executable).with_name("drgn")
    words = []
    for target in (["-c", str(core.path)], core.target):
        argv = [str(drgn), "-q", "--main-symbols", *target, str(script)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        words.append(done.stdout.split())
    assert words[0] == words[1]
    assert words[0][0] == "swapper/0"
    # Threads share tables, and drgn counts them for each.
    assert int(words[0][2]) >= sum(1 for _ in core.oracle.glob("[0-9]*/fd/*"))
    assert words[0][4:] == ["tcp_prot", "10", "True"]
    # What a user turns off is off.
    argv = [str(drgn), "-q", "-c", str(core.path), "-e", "print(prog['init_task'].comm)"]
    off = subprocess.run(argv, capture_output=True, env={**os.environ, "DRGN_DISABLE_PLUGINS": "*"})
    assert off.returncode != 0
