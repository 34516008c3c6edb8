# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening dumps in forms that the recorded ones do not have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from drgn import Architecture

from drgn_sockets.demo import CORE
from drgn_sockets.target import core_file

from .dumps import as_qemu_writes, demo_kdump

_USED = b"drgn-sockets: types from the kernel's own BTF, symbols from its kallsyms\n"


def command(core: Path, *argv: str) -> subprocess.CompletedProcess[bytes]:
    argv = ("-c", str(core), "--types", "btf", *argv)
    return subprocess.run(
        [sys.executable, "-m", "drgn_sockets", *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def sockets() -> bytes:
    """What a command prints of the demo's core as it is."""
    return command(CORE, "ss", "-a").stdout


@pytest.mark.parametrize("machine", [b"x86_64", b""])
def test_kdump_as_qemu_writes_it(tmp_path: Path, sockets: bytes, machine: bytes) -> None:
    path = tmp_path / "core"
    path.write_bytes(as_qemu_writes(demo_kdump(machine)))
    done = command(path, "ss", "-a")
    assert (done.returncode, done.stderr, done.stdout) == (0, _USED, sockets)
    assert sockets.count(b"\n") > 100


@pytest.mark.parametrize("flat", [False, True])
def test_architecture_is_the_machines(tmp_path: Path, flat: bool) -> None:
    # VMCOREINFO without what only one architecture has.
    data = demo_kdump(b"aarch64").replace(b"(init_top_pgt)", b"(other_top_pg)")
    path = tmp_path / "core"
    path.write_bytes(as_qemu_writes(data) if flat else data)
    assert core_file.look_at(str(path)).architecture is Architecture.AARCH64


def test_architecture_is_that_of_vmcoreinfo(tmp_path: Path) -> None:
    path = tmp_path / "core"
    path.write_bytes(demo_kdump(b"").replace(b"(init_top_pgt)", b"(kimage_voffset)"))
    assert core_file.look_at(str(path)).architecture is None
    path.write_bytes(demo_kdump(b"").replace(b"SYMBOL(init_top_pgt)", b"NUMBER(kimage_voffset)"))
    assert core_file.look_at(str(path)).architecture is Architecture.AARCH64
