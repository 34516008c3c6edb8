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
    #: How a table shows a record's value, if not as :func:`plain` does: the text, or ``None``
    #: for nothing.
    text: Callable[[Any], str | None] | None = None
    #: Numbers stand at the right edge of a table's column.
    right: bool = False
    #: Classes of records that have it; others have nothing there.
    of: type | tuple[type, ...] = object

    def value(self, record: Any) -> Any:
        """Its value for *record*."""
        return self.get(record) if isinstance(record, self.of) else None


def getters(columns: Sequence[Column], cls: type) -> list[Callable[[Any], Any] | None]:
    """How to get the values of *columns* of a record of *cls*; ``None`` where it has none."""
    return [column.get if issubclass(cls, column.of) else None for column in columns]


def row_maker(columns: Sequence[Column]) -> Callable[[Any], list[str]]:
    """
    Get a function that makes the texts of *columns* for a record, in a table or in CSV.

    A large table is hundreds of thousands of rows: what can be decided once for a kind of
    record is.
    """
    # Commands and paths come again and again.
    escaped = functools.lru_cache(1024)(escape)
    plans: dict[type, list[tuple[Callable[[Any], Any] | None, bool]]] = {}

    def plan(cls: type) -> list[tuple[Callable[[Any], Any] | None, bool]]:
        return [
            (get and (column.text or get), column.text is not None)
            for column, get in zip(columns, getters(columns, cls))
        ]

    def row(record: Any) -> list[str]:
        cls = type(record)
        if cls not in plans:
            plans[cls] = plan(cls)
        cells = []
        for get, is_text in plans[cls]:
            value = get(record) if get is not None else None
            kind = type(value)
            if value is None:
                cells.append("-")
            elif is_text or kind is str:
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
