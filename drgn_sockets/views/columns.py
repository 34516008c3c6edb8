# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which columns are shown, and the cells of a table that they make."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable

from drgn_sockets.errors import UserError, nearest
from drgn_sockets.records.columns import Column
from drgn_sockets.records.parts import Batch
from drgn_sockets.text import plain


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
