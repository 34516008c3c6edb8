# SPDX-License-Identifier: LGPL-2.1-or-later
"""A kernel that does not hold still: minutes of it are in ``make test-wide PARTS=churn``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.ours("7.2")
def test_what_moves_is_no_damage(capsys: pytest.CaptureFixture[str]) -> None:
    """Half a minute of ``fds`` and ``ss`` beside processes that fork, connect and close."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.wide.churn", "--beside", "--untimed"),
            *("-m", "0.4", "fds", "ss -tuxap"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    found = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f"\n{found}")
    assert found["looks"] >= 2 and found["per_second"]["connections"] > 1
    assert found["objects"] > found["stable"]
