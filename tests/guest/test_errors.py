# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes wrong on a live kernel: one line, on standard error, and status 2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from . import truth

pytestmark = pytest.mark.ours


def be_nobody() -> None:
    """Give up all privileges."""
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def test_not_root() -> None:
    """Nobody may read /proc/kcore, and is told whom to ask."""
    done = truth.cli(None, "fds", before=be_nobody, status=2)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("drgn-sockets: ")
    assert "no permission to read /proc/kcore" in line and "root" in line


@pytest.mark.ours("5.10")
def test_a_copy_of_kallsyms(tmp_path: Path) -> None:
    """With modules and moved by KASLR, as the kernel writes it; and as it hides it from others."""
    copy = tmp_path / "kallsyms"
    copy.write_bytes(Path("/proc/kallsyms").read_bytes())
    assert "\t[virtio_blk]\n" in copy.read_text()
    target = ("--types=btf", "--system-map", str(copy))
    done = truth.cli(None, *target, "fds", "1", "--output=fd,name")
    assert done.stdout == truth.cli(None, "--types=btf", "fds", "1", "--output=fd,name").stdout
    assert done.stderr.endswith(f"symbols from {copy}\n")
    hidden = truth.tool("cat", "/proc/kallsyms", preexec_fn=be_nobody).stdout
    copy.write_text(hidden)
    (line,) = truth.cli(None, *target, "fds", "1", status=2).stderr.splitlines()
    assert "has no addresses" in line and "as root" in line


def test_interrupt() -> None:
    """Ctrl-C: no traceback, and the status that a shell expects."""
    script = "import sys, drgn_sockets.cli as c; sys.argv[1:] = ['check']; sys.exit(c.main())"
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as p:
        while b"/proc/kcore" not in truth.links(p.pid).values():
            time.sleep(0.1)
        time.sleep(1)
        p.send_signal(signal.SIGINT)
        assert p.stderr
        # It may have said by then where types are from.
        lines = p.stderr.read().splitlines()
        assert all(line.startswith(b"drgn-sockets: types from") for line in lines), lines
        assert len(lines) <= 1
    # A shell makes 130 of that.
    assert p.returncode == -signal.SIGINT
