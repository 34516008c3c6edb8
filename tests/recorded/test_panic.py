# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores of guests that panicked, as their crash kernel's makedumpfile wrote them: kdump and ELF."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from vm import panic
from vm.errors import VmError

from .machine import spawn

#: Other situations: tests/wide/dumps.py.
KERNEL = "6.18"

pytestmark = pytest.mark.kernels(KERNEL)


#: What the core begins with.
MAGIC = {panic.DEFAULT: b"KDUMP   ", panic.ELF: b"\x7fELF"}


@pytest.fixture(scope="module", params=MAGIC)
def crashed(request: pytest.FixtureRequest) -> panic.Crashed:
    """A machine that crashed."""
    try:
        made = panic.cached(KERNEL, request.param)
    except VmError as e:
        if os.environ.get("CI"):
            pytest.fail(str(e))
        pytest.skip(f"no machine that crashed: {e}")
    with made.core.open("rb") as core:
        assert core.read(8).startswith(MAGIC[request.param])
    return made


def test_everything_is_as_procfs_said(crashed: panic.Crashed) -> None:
    done = spawn("-c", str(crashed.core), "check", "--procfs", str(crashed.oracle))
    text = done.stdout.decode()
    assert done.returncode == 0, text
    match = re.search(r"^(\d+) rows, (\d+) fields compared, .* 0 mismatches$", text, re.MULTILINE)
    assert match and int(match[1]) > 3000 and int(match[2]) > 25_000, text


def test_what_it_lacks_is_told_once(crashed: panic.Crashed, tmp_path: Path) -> None:
    """
    Command lines are in memory of the processes, which -d 31 leaves out. In ELF, what was left out
    reads as zeros.
    """
    done = spawn("-c", str(crashed.core), "procfs", "-o", str(tmp_path / "proc"))
    assert done.returncode == 1
    told = [line for line in done.stderr.decode().splitlines() if "types from" not in line]
    assert len(told) == 1, told
    # Of a process whose first thread has exited, other threads have a command line.
    lacking = {
        directory
        for directory in (tmp_path / "proc").glob("[0-9]*")
        for comm in (directory / "comm", *directory.glob("task/*/comm"))
        if not comm.with_name("cmdline").exists()
    }
    told_of = re.search(r": cmdline of (\d+) processes is left out \(makedumpfile -d 8 ", told[0])
    assert told_of, told
    # Threads of the kernel's have an empty one, and some memory is of files.
    here = list((tmp_path / "proc").glob("[0-9]*/cmdline"))
    assert int(told_of[1]) == len(lacking) > 100 and len(here) > 50
    for path in here:
        saved = crashed.oracle and crashed.oracle / path.parent.name / "cmdline"
        # PID 1 and what let it panic are not saved.
        assert saved and (not saved.exists() or saved.read_bytes() == path.read_bytes()), path
