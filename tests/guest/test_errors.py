# SPDX-License-Identifier: LGPL-2.1-or-later
"""What goes wrong on a live kernel: one line, on standard error, and status 2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from . import truth

pytestmark = pytest.mark.ours


def test_not_root() -> None:
    """Nobody may read /proc/kcore, and is told whom to ask."""

    def be_nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    done = truth.cli(None, "fds", before=be_nobody, status=2)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("drgn-sockets: ")
    assert "no permission to read /proc/kcore" in line and "root" in line


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
