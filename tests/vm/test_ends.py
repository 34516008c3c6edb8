# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How guests end, well and badly: each with the exit status that vm/README.md promises, and
with nothing of it left, no QEMU and no file.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vm import initramfs, kernels, rootfs
from vm.errors import VmError

ROOT = Path(__file__).resolve().parents[2]

_FREEZE = """
mkdir /run/cg && mount -t cgroup2 none /run/cg && mkdir /run/cg/all
echo about to freeze
echo 1 > /run/cg/all/cgroup.procs && echo 1 > /run/cg/all/cgroup.freeze
sleep 1000
"""


@pytest.fixture(scope="module", autouse=True)
def _can_boot() -> None:
    """What a guest needs is fetched, or these tests are about something else."""
    try:
        kernel = kernels.get()
        initramfs.get(kernel)
        rootfs.get()
    except VmError as e:
        text = f"NOTHING IS TESTED: no guest can be booted here: {e}"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)


class Runs:
    """Runs ``python -m vm`` with a mark by which its QEMU is known."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self._mark = f"drgn_sockets_test={secrets.token_hex(8)}"

    def start(self, *argv: str, silence: float = 60) -> subprocess.Popen[str]:
        """Start it; a guest that is silent for *silence* seconds is hung."""
        script = f"from vm import __main__, guest; guest.SILENCE_SECONDS = {silence}"
        script += "; __main__.entry()"
        return subprocess.Popen(
            [sys.executable, "-c", script, "--append", self._mark, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self.tmp)},
        )

    def run(self, *argv: str, status: int, silence: float = 60) -> tuple[str, str]:
        """Run it to its end."""
        with self.start(*argv, silence=silence) as p:
            out, err = p.communicate(timeout=240)
        assert p.returncode == status, (p.returncode, out, err)
        return out, err

    def qemus(self) -> list[int]:
        """PIDs of the QEMU processes of these runs."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdecimal():
                with contextlib.suppress(OSError):
                    line = (path / "cmdline").read_bytes().split(b"\0")
                    if b"qemu" in line[0] and any(self._mark.encode() in w for w in line):
                        found.append(int(path.name))
        return found


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    """Runs that have to leave nothing."""
    (tmp_path / "tmp").mkdir()
    made = Runs(tmp_path / "tmp")
    yield made
    left = made.qemus()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == [], "QEMU is left running"
    assert list(made.tmp.iterdir()) == []


def test_status_is_the_commands(runs: Runs) -> None:
    """Its own, and 128 + N of a signal; streams are its alone."""
    # One boot: the shell kills itself after it has seen the other status.
    script = "sh -c 'exit 3'; echo $?; echo oops >&2; kill -9 $$"
    out, err = runs.run("run", "sh", "-c", script, status=137)
    assert (out, err) == ("3\n", "oops\n")


def test_panic(runs: Runs) -> None:
    """125, why, and the last lines of the console."""
    script = "echo before; sleep 1; echo c > /proc/sysrq-trigger; sleep 60"
    started = time.monotonic()
    out, err = runs.run("run", "sh", "-c", script, status=125)
    assert out == "before\n"
    assert "vm: the guest panicked: " in err
    assert "  | " in err and "sysrq" in err
    assert time.monotonic() - started < 60


def test_hang(runs: Runs) -> None:
    """All of the guest stands still, its first process too: 125."""
    out, err = runs.run("run", "sh", "-c", _FREEZE, status=125, silence=8)
    assert out == "about to freeze\n"
    assert "vm: the guest hangs: no sign of life" in err
    assert len(re.findall(r"^  \| CPU \d: .*RIP=[0-9a-f]{16} ", err, re.MULTILINE)) == 2


def test_qemu_crashes(runs: Runs) -> None:
    """125, and by which signal."""
    with runs.start("run", "sh", "-c", "echo up; sleep 1000") as p:
        assert p.stdout and p.stdout.readline() == "up\n"
        (pid,) = runs.qemus()
        os.kill(pid, signal.SIGSEGV)
        _, err = p.communicate(timeout=60)
    assert p.returncode == 125
    assert err.startswith("vm: signal 11 ended QEMU: ")


def test_timeout(runs: Runs) -> None:
    """124, and which command it was; what it printed before is not lost."""
    out, err = runs.run("run", "--timeout", "3", "sh", "-c", "echo up; sleep 1000", status=124)
    assert out == "up\n"
    assert "vm: `sh -c echo up; sleep 1000` took longer than 3 seconds" in err


def test_no_such_kernel(runs: Runs) -> None:
    """2, without a boot."""
    _, err = runs.run("run", "--kernel", "2.4", "true", status=2)
    assert err.startswith("vm: ") and "6.12" in err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(runs: Runs, number: signal.Signals, status: int) -> None:
    """In the middle of a command, and quietly."""
    with runs.start("run", "sh", "-c", "echo up; sleep 1000") as p:
        assert p.stdout and p.stdout.readline() == "up\n"
        assert len(runs.qemus()) == 1
        p.send_signal(number)
        _, err = p.communicate(timeout=30)
    assert (p.returncode, err) == (status, "")


def test_killed_for_good(runs: Runs) -> None:
    """SIGKILL cannot be caught: QEMU goes with its parent all the same."""
    with runs.start("run", "sh", "-c", "echo up; sleep 1000") as p:
        assert p.stdout and p.stdout.readline() == "up\n"
        assert len(runs.qemus()) == 1
        p.kill()
        p.wait()
    deadline = time.monotonic() + 10
    while runs.qemus() and time.monotonic() < deadline:
        time.sleep(0.1)
