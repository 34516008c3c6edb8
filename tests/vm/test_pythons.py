# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The oldest Python with the oldest drgn, and the newest with the newest: does the demo run, and do
mistakes end in one line? ``make test-wide PARTS=pythons`` has all unit tests, and those between.
"""

from __future__ import annotations

import subprocess

import pytest

from vm.pythons import RELEASES, Place


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_corners(which: str) -> None:
    python = list(RELEASES)[0 if which == "oldest" else -1]
    with Place(python, oldest=which == "oldest") as place:
        files = [f"tests/unit/test_{name}.py" for name in ("commands", "declarations", "demo")]
        done = subprocess.run(
            place.argv("-m", "pytest", "-q", "-p", "no:cacheprovider", *files),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout
