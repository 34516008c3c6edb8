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


def without_countdowns(path: str, text: bytes) -> bytes:
    """The file, of TCP without the time that timers have left."""
    name = path.rpartition("/")[2]
    if not name.startswith("tcp"):
        return text
    assert ("when",) in [m.columns for m in MOMENTS if name in m.files and m.how is How.DOWN]
    return re.sub(rb"( 0[0-4]:)[0-9A-F]{8,} ", rb"\1........ ", text)


def agreement(prog: Program, *paths: str) -> tuple[bytes, bytes]:
    """Files by procfs and from memory, one after the other, at a moment when none moved."""

    def told() -> bytes:
        return b"".join(without_countdowns(p, Path(f"/proc/{p}").read_bytes()) for p in paths)

    theirs = ours = b""
    for _ in range(_TRIES):
        before = told()
        done = truth.cli(prog, "procfs", *paths)
        ours = without_countdowns(paths[0], os.fsencode(done.stdout))
        theirs = told()
        if before == theirs == ours:
            break
    return theirs, ours


@pytest.mark.parametrize("name", FILES)
def test_the_same_bytes(prog: Program, name: str) -> None:
    paths = [f"{pid}/net/{name}" for pid in namespaces().values()]
    if not Path(f"/proc/net/{name}").exists():
        done = truth.cli(prog, "procfs", paths[0], status=2)
        assert "this kernel has none" in done.stderr
        return
    theirs, ours = agreement(prog, *paths)
    assert ours == theirs
    assert len(paths) > 2 and theirs.count(b"\n") > len(paths)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_pointers(level: int, prog: Program, kptr_restrict: Path) -> None:
    """Hashed, real or zeroed: as the kernel shows them to root, to the digit."""
    kptr_restrict.write_text(f"{level}\n")
    pid = os.getpid()
    for names in (("tcp", "tcp6"), ("udp", "raw", "icmp6", "unix", "netlink", "packet")):
        theirs, ours = agreement(prog, *(f"{pid}/net/{name}" for name in names))
        assert ours == theirs
    first = Path("/proc/net/unix").read_bytes().split(b"\n")[1].split(b":")[0]
    real = truth.cli(prog, "procfs", "net/unix", "--real-pointers").stdout.split("\n")[1]
    assert real.split(":")[0].startswith("ff")
    assert (first == b"0" * 16) == (level == 2)
    assert (first == real.split(":")[0].encode()) == (level == 1)
    assert first.startswith(b"0" * 8) == (level in (0, 2))


@pytest.mark.ours
def test_as_a_shell_sees_it() -> None:
    """Of whoever asks; names of sockets are bytes."""
    argv = ["drgn-sockets", "procfs", "net/unix", "/proc/self/net/unix", "self/net/unix"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=120)
    assert done.stdout == Path("/proc/net/unix").read_bytes() * 3
