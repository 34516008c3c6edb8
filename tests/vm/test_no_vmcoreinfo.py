# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest without QEMU's vmcoreinfo device: live, and in every format that QEMU dumps."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from vm import dump, kernels
from vm.errors import VmError
from vm.guest import Guest

ROOT = Path(__file__).resolve().parents[2]


class Bare(NamedTuple):
    """The guest, stopped, and what was made of it."""

    qmp: Path
    cores: dict[str, Path]
    oracle: Path


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    tmp = tmp_path_factory.mktemp("bare")
    made = Bare(tmp / "qmp", {kind: tmp / kind for kind in dump.FORMATS}, tmp / "oracle")
    try:
        kernel = kernels.get("6.12")
        with Guest(kernel, memory="512M", vmcoreinfo=False, qmp=made.qmp) as guest:
            guest.start_workloads(["tcp_echo", "unix_fork"])
            guest.freeze_workloads()
            guest.capture_oracle(made.oracle)
            dump.save(guest, made.cores)
            yield made
    except VmError as e:
        text = f"NOTHING IS TESTED: no guest can be held here: {e}"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    finally:
        for path in made.cores.values():
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("source", [*dump.FORMATS, "qemu"])
def test_check(bare: Bare, source: str) -> None:
    """VMCOREINFO is found in memory; then everything agrees with the guest's own procfs."""
    target = ["--qemu", str(bare.qmp)] if source == "qemu" else ["-c", str(bare.cores[source])]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "drgn_sockets", *target, "--types", "btf"),
            *("check", "--procfs", str(bare.oracle)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=ROOT,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    first, *rest = done.stderr.splitlines()
    assert "VMCOREINFO" in first and "found in memory, at 0x" in first and len(rest) == 1
    last = done.stdout.splitlines()[-1].split()
    fds = sum(1 for _ in bare.oracle.glob("[0-9]*/fd/*"))
    assert last[-2:] == ["0", "mismatches"] and int(last[0]) > fds > 20
