# SPDX-License-Identifier: LGPL-2.1-or-later
"""The README's examples are what the commands print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from drgn_sockets import demo
from drgn_sockets.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def examples() -> list[tuple[str, list[str]]]:
    """Commands on the demo, and the lines that the README shows of each."""
    found = []
    for block in re.findall(r"(?:^    .*\n)+", README, re.MULTILINE):
        first, *lines = (line[4:] for line in block.splitlines())
        match = re.fullmatch(r"\$ drgn-sockets demo (.+)", first)
        if match and lines:
            found.append((match[1], lines))
    return found


def test_there_are_some() -> None:
    assert len(examples()) >= 5


@pytest.mark.parametrize(("words", "shown"), examples(), ids=lambda v: v if str(v) == v else "")
def test_example(words: str, shown: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drgn_sockets", "demo", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = [line.rstrip() for line in done.stdout.splitlines()]
    if shown[-1] == "…":
        # Some of its lines, in their order.
        rest = iter(printed)
        assert [line for line in shown[:-1] if line not in rest] == []
    else:
        assert shown == printed


def test_repl() -> None:
    block = re.search(r"^    >>> from drgn_sockets import \*\n(?:    .*\n)+", README, re.MULTILINE)
    assert block
    code = [line[8:] for line in block[0].splitlines() if line.startswith("    >>> ")]
    shown = [line[4:] for line in block[0].splitlines() if not line.startswith("    >>> ")]
    script = "\n".join(
        [
            "import sys; from drgn.helpers.linux import *",
            "from drgn import set_default_prog",
            "from drgn_sockets.cli import make_parser",
            "from drgn_sockets.target import open_target",
            f"prog = open_target(make_parser().parse_args(['-c', {str(demo.CORE)!r}, 'ss']))",
            "set_default_prog(prog)",
            *(line if re.match(r"\w+ = |from ", line) else f"print({line})" for line in code),
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == shown


@pytest.mark.parametrize("name", [*(command.name for command in COMMANDS), "demo"])
def test_every_command_is_in_the_table(name: str) -> None:
    assert re.search(rf"^\| `{name}[ `]", README, re.MULTILINE)
