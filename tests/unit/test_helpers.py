# SPDX-License-Identifier: LGPL-2.1-or-later
"""The helpers as users see them: types, help, and examples, which the core of the demo answers."""

from __future__ import annotations

import ast
import doctest
import inspect
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import drgn
import pytest
from drgn.helpers.linux.pid import find_task

import drgn_sockets
from drgn_sockets import demo, helpers
from drgn_sockets.cli import make_parser
from drgn_sockets.target import open_target

ROOT = Path(__file__).resolve().parents[2]
NAMES = drgn_sockets.__all__


def test_both_lists_of_names_are_the_same() -> None:
    assert helpers.__all__ == NAMES
    tree = ast.parse(inspect.getsource(drgn_sockets))
    imported = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "drgn_sockets.helpers"
        for alias in node.names
    ]
    assert imported == list(NAMES)


@pytest.fixture(scope="module")
def prog() -> drgn.Program:
    return open_target(make_parser().parse_args(["-c", str(demo.CORE), "--types", "btf", "ss"]))


@pytest.mark.parametrize("name", ["", *NAMES])
def test_examples(name: str, prog: drgn.Program) -> None:
    shown = getattr(helpers, name) if name else helpers
    assert shown.__doc__
    names = {"prog": prog, "find_task": find_task, **{n: getattr(helpers, n) for n in NAMES}}
    example = doctest.DocTestParser().get_doctest(shown.__doc__, names, name, None, None)
    assert [e for e in example.examples if e.want]
    drgn.set_default_prog(prog)
    try:
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        assert runner.run(example, clear_globs=False).failed == 0
    finally:
        drgn.set_default_prog(None)


@pytest.mark.parametrize("name", NAMES)
def test_docstring(name: str) -> None:
    function = getattr(helpers, name)
    text = function.__doc__
    # drgn passes the program, and documents it.
    parameters = [p for p in inspect.signature(function).parameters if p != "prog"]
    documented = [p for p in re.findall(r":param (\w+):", text) if p != "prog"]
    assert documented == parameters
    assert (":return:" in text) == (name != "declare")
    assert ":raises" in text or name.endswith("_sock")
    if name != "declare":
        assert "struct " in text


def test_dir_and_help_show_the_helpers_alone() -> None:
    assert dir(drgn_sockets) == list(NAMES)
    text = pydoc.render_doc(drgn_sockets, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    sections = re.findall(r"^([A-Z][A-Z ]+)$", text, re.MULTILINE)
    assert sections == ["NAME", "DESCRIPTION", "PACKAGE CONTENTS", "FUNCTIONS", "FILE"]
    functions = text[text.index("FUNCTIONS") :]
    assert re.findall(r"^    (\w+)\(", functions, re.MULTILINE) == list(NAMES)
    assert "annotations" not in text
    assert functions.count(">>> ") >= len(NAMES)


def test_types_of_helpers(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    lines = ["import drgn_sockets as d", *(f"reveal_type(d.{name})" for name in NAMES)]
    lines += ["from drgn_sockets import unix_pear", "d.sock_i_imo"]
    script.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", str(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout.replace(f"{script}:", "").splitlines()
    notes = [line for line in said if "Revealed type" in line]
    assert len(notes) == len(NAMES), done.stdout
    for line, name in zip(notes, NAMES):
        # The types of drgn are Any as long as mypy does not find its _drgn.pyi.
        parameters = inspect.signature(getattr(helpers, name)).parameters
        shown = ", ".join(rf"{p}: [\w.]+" for p in parameters if p != "prog")
        assert re.search(rf'is "(def |drgn[\w.]+TakesProgramOrDefault\[).*[(\[]{shown}[)\]]', line)
    errors = [line for line in said if "error:" in line]
    assert len(errors) == 2, done.stdout
    assert 'no attribute "unix_pear"' in errors[0] and 'no attribute "sock_i_imo"' in errors[1]
