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
from drgn_sockets.views.procfs.pid import LINKS, PID_FILES
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


@pytest.mark.ours
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


def stopped() -> list[int]:
    """Processes that the workloads' keeper has stopped."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            text = (path / "stat").read_bytes()
            if text.rpartition(b")")[2].split()[0] == b"T":
                found.append(int(path.name))
    return sorted(found)


@pytest.mark.ours
@pytest.mark.parametrize("name", PID_FILES)
def test_files_of_processes(prog: Program, name: str) -> None:
    """Of those that stand still nothing moves: to the byte."""
    paths = [f"{pid}/{name}" for pid in stopped()]
    paths += [f"{pid}/task/{pid}/{name}" for pid in stopped()]
    assert len(paths) > 50
    theirs, ours = agreement(prog, *paths)
    assert ours == theirs


@pytest.mark.ours
def test_links_of_processes(prog: Program) -> None:
    paths = []
    for pid in stopped():
        names = [*LINKS, *(f"ns/{entry.name}" for entry in Path(f"/proc/{pid}/ns").iterdir())]
        # Some have tens of thousands.
        fds = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))  # noqa: PTH208
        names += [f"fd/{fd}" for fd in fds if fd < 9]
        paths += [f"/proc/{pid}/{name}" for name in names]
    assert len(paths) > 500
    done = truth.cli(prog, "procfs", *paths)
    theirs = b"".join(os.readlink(path.encode()) + b"\n" for path in paths)  # noqa: PTH115
    assert os.fsencode(done.stdout) == theirs


@pytest.mark.ours
def test_ss_reads_a_tree(prog: Program, tmp_path: Path) -> None:
    """What iproute2's ss prints of it is what it prints of /proc."""

    def lines(root: Path) -> list[str]:
        done = subprocess.run(
            ["ss", "-tuxpanO"],
            env={**os.environ, "PROC_ROOT": str(root)},
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
        return [in_order(line) for line in os.fsdecode(done.stdout).split("\n")]

    def in_order(line: str) -> str:
        # Holders come in the order of the directory.
        holders = sorted(re.findall(r'\("[^"]*",pid=\d+,fd=\d+\)', line))
        return re.sub(" +", " ", line.partition("users:(")[0]) + ",".join(holders)

    lasting: set[str] = set()
    ours: set[str] = set()
    for i in range(_TRIES):
        before = lines(Path("/proc"))
        truth.cli(prog, "procfs", "-o", str(tmp_path / f"t{i}"))
        ours = set(lines(tmp_path / f"t{i}"))
        lasting = set(before) & set(lines(Path("/proc")))
        if lasting <= ours:
            break
    assert lasting - ours == set()
    assert len(lasting) > 200
