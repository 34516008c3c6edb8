# SPDX-License-Identifier: LGPL-2.1-or-later
"""``procfs`` on the running kernel, while its workloads stand still: the same bytes as ``cat``."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from drgn import Program

from drgn_sockets.views.procfs import FILES
from drgn_sockets.views.procfs.moments import MOMENTS, How
from vm.workloads import control

from . import truth
from .conftest import ACCOUNTS

# The files change while they are looked at: the memory of what nobody froze, and timers.
_TRIES = 5


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    control.freeze(ACCOUNTS, settle=1)
    yield
    control.thaw(ACCOUNTS)


def namespaces() -> dict[int, int]:
    """A process of each network namespace, by the namespace."""
    found = {Path("/proc/self/ns/net").stat().st_ino: os.getpid()}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                found.setdefault((path / "ns/net").stat().st_ino, int(path.name))
            except OSError:
                continue
    return found


def without_countdowns(name: str, text: bytes) -> bytes:
    """The file, of TCP without the time that timers have left."""
    if not name.startswith("tcp"):
        return text
    assert ("when",) in [m.columns for m in MOMENTS if name in m.files and m.how is How.DOWN]
    return re.sub(rb"( 0[0-4]:)[0-9A-F]{8,} ", rb"\1........ ", text)


def agreement(prog: Program, pid: int, name: str) -> tuple[bytes, bytes]:
    """The file by procfs and from memory, at a moment when procfs did not move."""
    path = Path(f"/proc/{pid}/net/{name}")
    theirs = ours = b""
    for _ in range(_TRIES):
        before = without_countdowns(name, path.read_bytes())
        done = truth.cli(prog, "procfs", f"{pid}/net/{name}")
        ours = without_countdowns(name, os.fsencode(done.stdout))
        theirs = without_countdowns(name, path.read_bytes())
        if before == theirs == ours:
            break
    return theirs, ours


@pytest.mark.parametrize("name", FILES)
def test_the_same_bytes(prog: Program, name: str) -> None:
    compared = 0
    for pid in namespaces().values():
        if not Path(f"/proc/{pid}/net/{name}").exists():
            done = truth.cli(prog, "procfs", f"{pid}/net/{name}", status=2)
            assert "this kernel has none" in done.stderr
            continue
        theirs, ours = agreement(prog, pid, name)
        assert ours == theirs, (pid, name)
        compared += theirs.count(b"\n")
    there = Path(f"/proc/net/{name}").exists()
    assert (compared > 0) == there


@pytest.mark.parametrize("level", [0, 1, 2])
def test_pointers(level: int, prog: Program, kptr_restrict: Path) -> None:
    """Hashed, real or zeroed: as the kernel shows them to root, to the digit."""
    kptr_restrict.write_text(f"{level}\n")
    for name in ("tcp", "tcp6", "udp", "raw", "icmp6", "unix"):
        theirs, ours = agreement(prog, os.getpid(), name)
        assert ours == theirs, (level, name)
    first = Path("/proc/net/unix").read_bytes().split(b"\n")[1].split(b":")[0]
    real = truth.cli(prog, "procfs", "net/unix", "--real-pointers").stdout.split("\n")[1]
    assert real.split(":")[0].startswith("ff")
    assert (first == b"0" * 16) == (level == 2)
    assert (first == real.split(":")[0].encode()) == (level == 1)
    assert first.startswith(b"0" * 8) == (level in (0, 2))


def test_as_a_shell_sees_it() -> None:
    """Of whoever asks; names of sockets are bytes."""
    for path in ("net/unix", "/proc/self/net/unix", "self/net/unix"):
        done = subprocess.run(
            ["drgn-sockets", "procfs", path], stdout=subprocess.PIPE, check=True, timeout=120
        )
        assert done.stdout == Path("/proc/net/unix").read_bytes()
