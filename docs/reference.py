# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Writes a page for each command, out of its declarations: summary, description, options, columns.

``python docs/reference.py DIR`` writes the pages into *DIR*; ``make docs`` does so as well.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from drgn_sockets.cli import make_parser
from drgn_sockets.commands import command
from drgn_sockets.commands.registry import REGISTRY

_WIDTH = 88
_NAMES = [entry.name for entry in REGISTRY]


def text(words: str) -> str:
    """Plain text as Markdown: no character of *words* is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|$~&])", r"\\\1", words)


def code(words: str) -> str:
    """
    Plain text as Markdown code, which may be in a cell of a table.

    >>> code("-k | -c")
    '`-k \\\\| -c`'
    """
    return f"`{words}`".replace("|", "\\|")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; cells are Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _invocation(action: argparse.Action) -> str:
    """An option with its value, as it is typed: ``-f, --family FAMILY``."""
    if action.metavar is not None:
        value = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    elif action.choices is not None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        value = action.dest.upper()
    if not action.option_strings:
        return value
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    return f"{names} [{value}]" if action.nargs == "?" else f"{names} {value}"


def options(parser: argparse.ArgumentParser, *, without: str = "") -> Iterator[str]:
    """
    Tables of a parser's arguments, one for each group.

    :param without: Title of a group that is told of elsewhere.
    """
    for group in parser._action_groups:
        rows = [
            (code(_invocation(action)), text((action.help or "") % vars(action)))
            for action in group._group_actions
            if not isinstance(action, argparse._SubParsersAction)
        ]
        if rows and group.title != without:
            title = (group.title or "options").capitalize()
            yield f"**{text(title)}**\n\n{table(['argument', 'what it does'], rows)}"


def usage(parser: argparse.ArgumentParser) -> str:
    """The usage as a block of code."""
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=_WIDTH)
    return f"```text\n{parser.format_usage().removeprefix('usage: ').rstrip()}\n```\n"


def _columns(own: Any, args: argparse.Namespace) -> str:
    """
    The table of a command's columns.

    Where most of them are those of another command, a link stands for these.
    """
    columns = own.columns_for(args)
    usual = set(own.usual(args))
    here = {(column.name, column.help) for column in columns}
    shared = ""
    for name in _NAMES:
        there = {(column.name, column.help) for column in command(name).columns}
        if name != own.name and there < here and len(there) > len(here) / 2:
            shared = f"\nBesides these, it has [the columns of {code(name)}]({name}.md#columns).\n"
            columns = [c for c in columns if c.name in usual or (c.name, c.help) not in there]
            break
    rows = [(code(c.name), "yes" if c.name in usual else "", text(c.help)) for c in columns]
    return table(["column", "shown", "what it says"], rows) + shared


def _sets_of_columns(own: Any, parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Options, and the table of columns that there are with each; first that without any."""
    actions = [action for action in parser._actions if action.dest is not argparse.SUPPRESS]
    usual = {**{action.dest: action.default for action in actions}, "output": "help"}
    without = argparse.Namespace(**usual)
    yield "", _columns(own, without)
    for action in actions:
        if action.option_strings and action.const is not None:
            args = argparse.Namespace(**{**usual, action.dest: action.const})
            if list(own.columns_for(args)) != list(own.columns_for(without)):
                yield action.option_strings[-1], _columns(own, args)


def command_page(name: str) -> str:
    """The page of a command."""
    own = command(name)
    parser = argparse.ArgumentParser(prog=f"drgn-sockets {name}")
    own.configure(parser)
    parts = [
        f"# {code(name)}\n",
        f"{text(own.summary[0].upper() + own.summary[1:])}.\n",
        f"{text(own.description)}\n",
        usage(parser),
        "## Arguments\n",
        *options(parser),
    ]
    for option, columns in _sets_of_columns(own, parser) if own.columns else ():
        title = f"Columns with {code(option)}" if option else "Columns"
        parts += [f"## {title}\n", columns]
    return "\n".join(parts)


def index_page() -> str:
    """The page that lists the commands, and the options that stand before them."""
    parser = make_parser()
    rows = [(f"[{code(name)}]({name}.md)", text(line)) for name, _, line, _ in REGISTRY]
    return "\n".join(
        [
            "# Commands and columns\n",
            "These pages are made from what the code declares; `drgn-sockets COMMAND --help` and "
            "`--output help` print the same.\n",
            table(["command", "what it shows"], rows),
            f"```{{toctree}}\n:hidden:\n\n{chr(10).join(_NAMES)}\n```\n",
            "## Options before the command\n",
            usage(parser),
            *options(parser),
            f"{text(parser.epilog or '')}\n",
        ]
    )


def pages() -> dict[str, str]:
    """All pages, by file name."""
    found = {f"{name}.md": command_page(name) for name in _NAMES}
    return {"index.md": index_page(), **found}


def write(directory: Path) -> None:
    """
    Write all pages into a directory.

    A page that has not changed is not written, so that Sphinx does not read it again.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = pages()
    for old in directory.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for name, page in made.items():
        file = directory / name
        if not file.exists() or file.read_text() != page:
            file.write_text(page)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
