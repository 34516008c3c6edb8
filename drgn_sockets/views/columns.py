# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns: what a command can show of a record, declared once for every form of output."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable

from drgn_sockets.errors import UserError, nearest
from drgn_sockets.named_tuple import NamedTuple
from drgn_sockets.records.parts import Batch
from drgn_sockets.text import plain


class Column(NamedTuple):
    """
    A column of a command's output.

    Its value is ``None`` for nothing, an ``int``, ``float``, ``bool`` or ``str``, ``bytes``
    for what the kernel keeps as bytes, a ``FaultError`` for what cannot be read, or a list or dict
    of these.
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
    #: Its values are ``int``, ``None``, or a ``str`` with nothing in it to escape: a table has
    #: them as they are. Columns that are shown very often say so.
    simple: bool = False
    #: The texts of a batch of records at once, which must be what *text* makes of each; ``None``
    #: for a batch that it does not know. It is for columns that are shown very often.
    texts: Callable[[Any], Sequence[Any] | None] | None = None
    #: Classes of records that have it; others have nothing there.
    of: type | tuple[type, ...] = object

    def value(self, record: Any) -> Any:
        """Its value for *record*."""
        return self.get(record) if isinstance(record, self.of) else None


def getters(columns: Sequence[Column], cls: type) -> list[Callable[[Any], Any] | None]:
    """How to get the values of *columns* of a record of *cls*; ``None`` where it has none."""
    return [column.get if issubclass(cls, column.of) else None for column in columns]


def rows_maker(columns: Sequence[Column]) -> Callable[[Batch], Iterator[tuple[Any, ...]]]:
    """
    Get a function that makes the cells of *columns*, texts or numbers, for a batch of records,
    in a table or in CSV.

    They are made column by column: a large table is hundreds of thousands of rows, and what can
    be decided once for many is.
    """

    @functools.lru_cache(None)
    def cells_of(cls: type) -> list[Callable[[Any], Any]]:
        return [_cell(column, cls) for column in columns]

    def rows(batch: Batch) -> Iterator[tuple[Any, ...]]:
        cells: list[Sequence[Any]] = []
        for column, make in zip(columns, cells_of(batch.cls)):
            found: Sequence[Any] | None = None
            if make is _nothing:
                found = ["-"] * len(batch)
            elif column.texts is not None:
                found = column.texts(batch)
            if found is None:
                made = map(make, batch.records())
                found = ["-" if cell is None else cell for cell in made]
            cells.append(found)
        return zip(*cells)

    return rows


def _cell(column: Column, cls: type) -> Callable[[Any], Any]:
    if not issubclass(cls, column.of):
        return _nothing
    if column.text is not None:
        return column.text
    get = column.get
    return get if column.simple else lambda record: plain(get(record))


def _nothing(record: object) -> None:
    return None


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
            near = nearest(key, by_name)
            raise UserError(f"no such column: {name!r}{near} (--output help lists them)")
        if by_name[key] not in chosen:
            chosen.append(by_name[key])
    return chosen
