# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Examples in the README and in docs/: commands on the demo's core, and what they print.

An example is a block of code, indented by four spaces or fenced, whose first line is
``$ drgn-sockets demo COMMAND …`` and whose other lines are what that prints. A last line ``…``
says that the block shows some of the lines.

``python -m tests.examples`` runs them all and rewrites what changed. Read the diff: the examples
are what a reader expects of the commands.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from drgn_sockets.cli import main

ROOT = Path(__file__).resolve().parents[1]

_PROMPT = "$ drgn-sockets demo "
_SOME = "…"
_BLOCK = re.compile(r"^(?:    .*\n)+|^```.*\n(?:.*\n)*?```\n", re.MULTILINE)


class Example(NamedTuple):
    """A command on the demo's core, and what a page shows of its output."""

    page: Path
    #: The block as it stands in the page.
    block: str
    words: list[str]
    shown: list[str]

    def printed(self) -> list[str]:
        """
        Run the command.

        :return: The lines that it prints, without spaces at their ends
        :raises RuntimeError: if it fails
        """
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["demo", *self.words])
        if status != 0:
            raise RuntimeError(f"demo {shlex.join(self.words)}: status {status}: {err.getvalue()}")
        return [line.rstrip() for line in out.getvalue().splitlines()]

    def differences(self, printed: list[str]) -> list[str]:
        """Lines of the example that the command did not print, or printed besides."""
        if self.shown[-1] == _SOME:
            rest = iter(printed)
            return [line for line in self.shown[:-1] if line not in rest]
        if self.shown == printed:
            return []
        return [
            line for line in (*self.shown, *printed) if (line in self.shown) != (line in printed)
        ] or ["the same lines in another order"]

    def updated(self, printed: list[str]) -> str:
        """The block as it should be. Of some lines, those that begin with the same word."""
        shown = printed
        if self.shown[-1] == _SOME:
            words = [line.split()[0] for line in self.shown[:-1]]
            shown = [line for line in printed if line.split()[0] in words] + [_SOME]
        old = self.block.splitlines()
        if old[0].startswith("```"):
            return "\n".join([*old[:2], *shown, old[-1], ""])
        return "".join(f"    {line}".rstrip() + "\n" for line in (old[0].strip(), *shown))


def pages() -> list[Path]:
    """The README, and the pages in docs/ that people write."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Blocks of code in a page: as they stand, and the lines in them."""
    for match in _BLOCK.finditer(text):
        lines = match[0].splitlines()
        if lines[0].startswith("```"):
            yield match[0], lines[1:-1]
        else:
            yield match[0], [line[4:] for line in lines]


def examples() -> list[Example]:
    """All examples that show output."""
    return [
        Example(page, block, shlex.split(lines[0][len(_PROMPT) :]), lines[1:])
        for page in pages()
        for block, lines in blocks(page.read_text())
        if len(lines) > 1 and lines[0].startswith(_PROMPT)
    ]


def update() -> None:
    """Rewrite the examples that are not what the commands print."""
    for example in examples():
        printed = example.printed()
        if example.differences(printed):
            print(f"{example.page.relative_to(ROOT)}: demo {shlex.join(example.words)}")
            text = example.page.read_text()
            example.page.write_text(text.replace(example.block, example.updated(printed), 1))


if __name__ == "__main__":
    update()
