# SPDX-License-Identifier: LGPL-2.1-or-later
"""A core alone: types from its own BTF must tell what the compiler's DWARF tells."""

from __future__ import annotations

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
