# SPDX-License-Identifier: LGPL-2.1-or-later
"""The README and the pages in docs/: examples are what the commands print, nothing is missing."""

from __future__ import annotations

import gc
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import drgn
import pytest

from drgn_sockets import demo
from drgn_sockets.cli import main
from drgn_sockets.commands import command
from drgn_sockets.commands.registry import REGISTRY
from tests.examples import ROOT, Example, blocks, examples, pages
from vm.arch import AMD64
from vm.kernels import SERIES

NAMES = [entry.name for entry in REGISTRY]


@pytest.fixture(autouse=True)
def garbage_collection() -> Iterator[None]:
    """The command line turns it off for its process, which is pytest's here."""
    yield
    gc.enable()


def test_there_are_some() -> None:
    by_page = [example.page.name for example in examples()]
    assert by_page.count("README.md") >= 3
    assert by_page.count("quickstart.md") >= 6


@pytest.mark.parametrize("example", examples(), ids=lambda e: f"{e.page.stem}: {' '.join(e.words)}")
def test_example(example: Example) -> None:
    assert example.differences(example.printed()) == [], "python -m tests.examples rewrites them"


def repl_blocks() -> list[tuple[str, list[str]]]:
    """Sessions of the REPL that begin with an import of the helpers, and on which page."""
    return [
        (page.name, lines)
        for page in pages()
        for _, lines in blocks(page.read_text())
        if ">>> from drgn_sockets import *" in lines
    ]


def test_there_is_a_session() -> None:
    assert repl_blocks()


@pytest.mark.parametrize(("page", "lines"), repl_blocks())
def test_repl(page: str, lines: list[str]) -> None:
    lines = lines[lines.index(">>> from drgn_sockets import *") :]
    code = [line[4:] for line in lines if line.startswith(">>> ")]
    shown = [line for line in lines if not line.startswith(">>> ")]
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


def scripts() -> list[tuple[str, str]]:
    """Python scripts on the pages, and what these say that they print."""
    pattern = r"^```python\n(import .*?)^```\n\nIt prints:\n\n```text\n(.*?)^```$"
    return [
        found
        for page in pages()
        for found in re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
    ]


def test_there_is_a_script() -> None:
    assert scripts()


@pytest.mark.parametrize(("script", "prints"), scripts())
def test_script(script: str, prints: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (prints, "", 0)


def table_of_commands() -> dict[str, str]:
    """The README's: commands, and the example of each."""
    rows = re.findall(
        r"^\| `([\w-]+)[^|]*\|[^|]*\| `(.*)` \|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    return dict(rows)


@pytest.mark.parametrize("page", ["README.md", "docs/testing.md", "tests/README.md"])
def test_every_kernel_is_named(page: str) -> None:
    text = (ROOT / page).read_text()
    # The README names the kernels of the usual machine.
    series = [s for s in SERIES if page != "README.md" or s.architecture is AMD64]
    assert [s.name for s in series if not re.search(rf"\b{re.escape(s.name)}\b", text)] == []


def test_every_command_is_in_the_readme() -> None:
    assert list(table_of_commands()) == NAMES


@pytest.mark.parametrize("name", table_of_commands())
def test_example_in_the_table(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = shlex.split(table_of_commands()[name])
    assert words[0] == name
    if name == "distill" and not hasattr(drgn.Program, "set_linux_kernel_custom"):
        pytest.skip("needs drgn 0.1")
    if words in [example.words for example in examples()]:
        return
    monkeypatch.chdir(tmp_path)
    assert main(words if name == "demo" else ["demo", *words]) == 0
    out, _ = capsys.readouterr()
    assert len(out.splitlines()) > 1


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of the manual that are made from the declarations."""
    directory = tmp_path_factory.mktemp("commands")
    subprocess.run(
        [sys.executable, "docs/reference.py", str(directory)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        check=True,
    )
    return directory


def test_every_command_has_a_page(reference: Path) -> None:
    assert {page.stem for page in reference.glob("*.md")} == {"index", *NAMES}
    index = (reference / "index.md").read_text()
    assert [name for name in NAMES if f"({name}.md)" not in index] == []


@pytest.mark.parametrize("name", NAMES)
def test_page_has_every_option_and_column(reference: Path, name: str) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "drgn_sockets", name, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    options = re.findall(r"(?:^  |(?<=, ))(-[-\w]+)", printed.stdout, re.MULTILINE)
    page = (reference / f"{name}.md").read_text()
    assert "--output" in options or not command(name).columns
    assert "--help" in options
    assert [o for o in options if not re.search(rf"[`, ]{o}[`, ]", page)] == []
    columns = command(name).columns
    for link in re.findall(r"\]\((\w+\.md)#columns\)", page):
        page += (reference / link).read_text()
    assert [column.name for column in columns if f"| `{column.name}` |" not in page] == []
