# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns: what a command can show of a record, declared once for every form of output."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Callable, NamedTuple

from drgn_sockets.errors import UserError
from drgn_sockets.views.escape import escape


class Column(NamedTuple):
    """
    A column of a command's output.

    Its value is ``None`` for nothing, an ``int``, ``float``, ``bool`` or ``str``, ``bytes``
    for what the kernel keeps as bytes, or a list or dict of these.
    """

    #: As ``--output`` and JSON have it; the table's heading is the same in capitals.
    name: str
    #: One line for people, with the unit if there is one.
    help: str
    get: Callable[[Any], Any]
    #: Shown unless ``--output`` says otherwise.
    default: bool = False
    #: How a table shows the value, if not as :func:`plain` does.
    text: Callable[[Any], str] | None = None
    #: Numbers stand at the right edge of a table's column.
    right: bool = False


def row_maker(columns: Sequence[Column]) -> Callable[[Any], list[str]]:
    """
    Get a function that makes the texts of *columns* for a record, in a table or in CSV.

    A large table is hundreds of thousands of rows: what can be decided once is.
    """
    getters = [(column.get, column.text) for column in columns]
    # Commands and paths come again and again.
    escaped = functools.lru_cache(1024)(escape)

    def row(record: Any) -> list[str]:
        cells = []
        for get, text in getters:
            value = get(record)
            kind = type(value)
            if value is None:
                cells.append("-")
            elif text is not None:
                cells.append(text(value))
            elif kind is str:
                cells.append(value)
            elif kind is int:
                cells.append(str(value))
            elif kind is bytes:
                cells.append(escaped(value))
            else:
                cells.append(plain(value))
        return cells

    return row


def plain(value: Any) -> str:
    """A value as text."""
    if value is None:
        return "-"
    if isinstance(value, bytes):
        return escape(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(plain, value)) or "-"
    if isinstance(value, dict):
        return " ".join(f"{k}={plain(v)}" for k, v in value.items()) or "-"
    return str(value)


def choose(columns: Sequence[Column], output: str | None, shown: Iterable[str]) -> list[Column]:
    """
    The columns that ``--output`` asks for.

    :param columns: All that there are.
    :param output: ``A,B`` for just these, ``+A,B`` for these besides the usual ones, ``all``
        for all, or ``None`` for the usual ones.
    :param shown: Names of the usual ones.
    :raises UserError: for a name that is none of them
    """
    by_name = {column.name: column for column in columns}
    usual = [by_name[name] for name in shown]
    if output is None:
        return usual
    if output == "all":
        return list(columns)
    chosen = usual if output.startswith("+") else []
    for name in output.lstrip("+").split(","):
        key = name.strip().lower().replace("-", "_")
        if key not in by_name:
            import difflib

            near = difflib.get_close_matches(key, by_name, 1)
            raise UserError(
                f"no such column: {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else "")
                + " (--output help lists them)"
            )
        if by_name[key] not in chosen:
            chosen.append(by_name[key])
    return chosen
