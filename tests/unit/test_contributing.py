# SPDX-License-Identifier: LGPL-2.1-or-later
"""The steps in CONTRIBUTING.md, followed in a copy of the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from tests.examples import ROOT


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which everything was added that CONTRIBUTING.md has as code."""
    tree = tmp_path_factory.mktemp("tree")
    package = tree / "drgn_sockets"
    shutil.copytree(
        ROOT / "drgn_sockets", package, ignore=shutil.ignore_patterns("__pycache__", "demo")
    )
    shutil.copytree(ROOT / "drgn_sockets/demo", package / "demo", copy_function=_link)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.findall(r"^   ```python\n(.*?)^   ```$", text, re.MULTILINE | re.DOTALL)
    field, family, looks, command, entry = (textwrap.dedent(block) for block in found)
    _insert(package / "records/families/tcp.py", 'C_TYPE = "struct tcp_sock"\n', field)
    (package / "records/families/alg.py").write_text(family)
    line = looks.replace("{", "").replace("}", ",")
    _insert(
        package / "records/families/__init__.py",
        "FAMILY_ENTRIES: Mapping[str, Registered] = {\n",
        line,
    )
    (package / "commands/owners.py").write_text(command)
    _insert(package / "commands/registry.py", "REGISTRY = (\n", entry.rstrip() + ",\n")
    return tree


def _link(source: str, to: str) -> None:
    Path(to).symlink_to(source)


def _insert(file: Path, after: str, lines: str) -> None:
    text = file.read_text()
    assert text.count(after) == 1
    file.write_text(text.replace(after, after + textwrap.indent(lines, "    ")))


def run(tree: Path, *words: str) -> list[str]:
    """The lines that a command on the demo prints."""
    done = subprocess.run(
        [sys.executable, "-m", "drgn_sockets", "demo", *words],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_field(tree: Path) -> None:
    (value,) = (
        line.split()[1] for line in run(tree, "tcp", "180:3") if line.startswith("pushed_seq ")
    )
    column = run(tree, "ss", "-tH", "--output", "pushed_seq")
    assert value in [line.strip() for line in column]
    assert any("tcp_sock.pushed_seq" in line for line in run(tree, "ss", "--output", "help"))


def test_family(tree: Path) -> None:
    held = [line for line in run(tree, "fds", "--kind", "sock") if " algorithm" in line]
    assert len(held) == 2
    columns = ("ss", "-aH", "--output", "family,local,parent")
    of_family = [line.split() for line in run(tree, *columns) if line.startswith("AF_ALG")]
    assert [(local.split(":")[0], parent) for _, local, parent in of_family] == [
        ("algorithm", "0")
    ] * 2
    assert any("alg_sock.parent" in line for line in run(tree, "ss", "--output", "help"))


def test_command(tree: Path) -> None:
    heading, *rows = (line.split(",") for line in run(tree, "owners", "--csv"))
    assert heading == ["uid", "sockets"]
    uids = Counter(line.strip() for line in run(tree, "ss", "-aH", "--output", "uid"))
    assert {uid: int(sockets) for uid, sockets in rows} == uids
