# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which of drgn's plugins the command line has drgn load: those of others."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drgn_sockets.target import plugins

ROOT = Path(__file__).resolve().parents[2]
TEXT = """
[console_scripts]
other = drgn.plugins:no

[drgn.plugins]
first = other_plugin
# comment = no
second=other_plugin:attribute

[drgn.plugins.more]
no = no
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where another's plugin is installed."""
    (tmp_path / "other_plugin.py").write_text(
        "import sys\ndef drgn_prog_set(prog): print('other plugin', file=sys.stderr)\n"
        "attribute = None\n"
    )
    info = tmp_path / "other-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(TEXT)
    return tmp_path


def run(place: Path | None, **env: str) -> list[str]:
    """What is said by the command line, and by drgn's log of plugins."""
    path = os.pathsep.join(map(str, [ROOT, *([place] if place else [])]))
    done = subprocess.run(
        [sys.executable, "-m", "drgn_sockets", "--log-level=debug", "demo", "fds", "1"],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stderr.splitlines()
    return [line for line in lines if "plugin" in line or "entry point" in line]


def test_of_others_are_loaded(place: Path) -> None:
    assert run(None) == []
    said = run(place)
    assert "other plugin" in said
    assert sum("entry point" in line for line in said) == 2
    assert not any("commands" in line or "drgn_sockets" in line for line in said)


def test_what_the_user_says_holds(place: Path) -> None:
    assert run(place, DRGN_DISABLE_PLUGINS="*") == []
    assert "other plugin" not in run(place, DRGN_DISABLE_PLUGINS="fir*")
    assert "other plugin" in run(place, DRGN_DISABLE_PLUGINS="*", DRGN_PLUGINS="first")
    assert any("drgn_sockets" in line for line in run(None, DRGN_PLUGINS="drgn_sockets"))


def test_as_importlib_has_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(place))
    names = {"first", "second"}
    known = importlib.metadata.distributions()
    points = [p for d in known for p in d.entry_points if p.group == "drgn.plugins"]
    assert {p.name for p in points} - set(plugins._REPL_ONLY) == names
    assert set(plugins._others() or ()) == names
    # Of what only importlib can read, nothing is said.
    (place / "package.egg").mkdir()
    assert plugins._others() is None
