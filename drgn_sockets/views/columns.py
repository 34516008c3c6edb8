# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which columns are shown, and the cells of a table that they make."""

from __future__ import annotations

import functools
from collections.abc import Collection, Container, Iterator, Sequence
from typing import Any, Callable, TypeVar

from drgn import FaultError

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.records.columns import Column
from drgn_sockets.records.losses import Loss, Losses, in_words
from drgn_sockets.records.parts import Batch
from drgn_sockets.text import LOST, plain

T = TypeVar("T")

#: Name of the column that says what cannot be read of a row, and attribute of records.
ERROR = "error"


def getters(columns: Sequence[Column], cls: type) -> list[Callable[[Any], Any] | None]:
    """Functions that get the values of *columns* of a record of *cls*, ``None`` for no value."""
    return [column.get if issubclass(cls, column.of) else None for column in columns]


def rows_maker(
    columns: Sequence[Column], losses: Losses | None = None
) -> Callable[[Batch], Iterator[tuple[Any, ...]]]:
    """
    Get a function that makes the cells of *columns*, texts or numbers, for a batch of records,
    in a table or in CSV.

    They are made column by column: a large table has hundreds of thousands of rows, and a column
    decides once for a whole batch what it can.

    :param losses: Takes what cannot be read; the cell of such a value is ``?``.
    """

    told = Losses() if losses is None else losses

    @functools.lru_cache(None)
    def cells_of(cls: type) -> list[Callable[[Any], Any]]:
        return [_cell(column, cls) for column in columns]

    def made(batch: Batch, errors: Errors) -> Sequence[tuple[Any, ...]]:
        cells: list[Sequence[Any]] = []
        at_error: int | None = None
        for i, (column, make) in enumerate(zip(columns, cells_of(batch.cls))):
            if column.name == ERROR:
                # Made last: it tells of the other cells as well.
                at_error = i
                cells.append(())
            elif make is _nothing:
                cells.append(["-"] * len(batch))
            else:
                cells.append(_texts(column, batch) or _made(make, batch, errors))
        if at_error is not None:
            cells[at_error] = [plain(errors.of(i)) for i in range(len(batch))]
        return list(zip(*cells))

    return lambda batch: settled(batch, made, told)


def settled(
    batch: Batch, make: Callable[[Batch, Errors], Sequence[T]], losses: Losses
) -> Iterator[T]:
    """
    Make a row of each record of a batch.

    On a live kernel a record may have become something else before all of it was read. Such
    records, and those that could not be read, are read again, up to ``batch.looks`` times in all.
    What was freed has no row, and what still cannot be read then is lost.

    :param make: Makes the rows.
    :param losses: Takes what cannot be read.
    """
    if not batch.is_live:
        errors = Errors(batch, losses)
        made = make(batch, errors)
        errors.lose()
        return iter(made)
    rows: dict[int, T] = {}
    _settle(batch, range(len(batch)), make, losses, rows, batch.looks)
    return iter([rows[i] for i in sorted(rows)])


def _settle(
    batch: Batch,
    numbers: Sequence[int],
    make: Callable[[Batch, Errors], Sequence[T]],
    losses: Losses,
    rows: dict[int, T],
    looks: int,
) -> None:
    errors = Errors(batch, losses)
    made = make(batch, errors)
    moved = batch.moved() if len(batch) else ()
    again = sorted({*moved, *errors.bad()}) if looks > 1 else sorted(moved)
    if again:
        rest = set(range(len(made))).difference(again)
        rows.update((numbers[i], made[i]) for i in rest)
        errors.lose(rest)
    else:
        rows.update(zip(numbers, made))
        errors.lose()
    if looks > 1 and again:
        for other, at in batch.again(again):
            if batch.passes is not None:
                keep = [i for i, r in enumerate(other.records()) if r.error or batch.passes(r)]
                other, at = other.select(keep), [at[i] for i in keep]
                other.passes = batch.passes
            _settle(other, [numbers[i] for i in at], make, losses, rows, looks - 1)


def _texts(column: Column, batch: Batch) -> Sequence[Any] | None:
    try:
        return column.texts(batch) if column.texts is not None else None
    except FaultError:
        # The caller makes the cells one by one, and finds which cannot be read.
        return None


def _made(make: Callable[[Any], Any], batch: Batch, errors: Errors) -> Sequence[Any]:
    try:
        made = list(map(make, batch.records()))
    except FaultError:
        made = [errors.catch(i, make, record) for i, record in enumerate(batch.records())]
    if list in set(map(type, made)):
        for i, cell in enumerate(made):
            if type(cell) is list:
                errors.look_at(i, cell)
                made[i] = plain(cell)
    return ["-" if cell is None else cell for cell in made]


class Errors:
    """What cannot be read of the records of a batch: their errors, and those of their cells."""

    def __init__(self, batch: Batch, losses: Losses) -> None:
        self._batch = batch
        self._losses = losses
        self._of_cells: dict[int, dict[str, None]] = {}

    def add(self, index: int, loss: Loss) -> None:
        """Note that a cell of the record at *index* cannot be read."""
        self._of_cells.setdefault(index, {})[in_words(loss)] = None

    def catch(self, index: int, make: Callable[[Any], Any], record: Any) -> Any:
        """Make the cell of a record; ``?`` if its value cannot be read."""
        try:
            return make(record)
        except FaultError as e:
            self.add(index, e)
            return LOST

    def look_at(self, index: int, value: Any) -> None:
        """Note the items of a list that cannot be read."""
        for item in value:
            if isinstance(item, Lost):
                self.add(index, item)

    def of(self, index: int) -> str | None:
        """Text of the column ``error`` of the record at *index*."""
        return "; ".join(self._words(index)) or None

    def _words(self, index: int) -> dict[str, None]:
        record = self._batch.records()[index]
        # A record may say in an attribute "lost" what is missing in what it otherwise tells.
        own = [getattr(record, ERROR, None), *map(str, getattr(record, "lost", ()))]
        return dict.fromkeys([*filter(None, own), *self._of_cells.get(index, ())])

    def bad(self) -> Collection[int]:
        """Indices of the records of which something cannot be read."""
        if not self._of_cells and not self._batch.errors():
            return ()
        return [i for i in range(len(self._batch)) if self._words(i)]

    def lose(self, of: Container[int] | None = None) -> None:
        """
        Tell *losses* all that was noted, and the records' own errors.

        :param of: Indices of records, ``None`` for all.
        """
        if not self._of_cells and not self._batch.errors():
            return
        for i, record in enumerate(self._batch.records()):
            if of is not None and i not in of:
                continue
            where = getattr(record, "where", "")
            for words in self._words(i):
                self._losses.lose(words, where)


def _cell(column: Column, cls: type) -> Callable[[Any], Any]:
    if not issubclass(cls, column.of):
        return _nothing
    if column.text is not None:
        return column.text
    get = column.get
    return get if column.simple else _plain_of(get)


def _plain_of(get: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def cell(record: Any) -> Any:
        value = get(record)
        # Errors.look_at() sees a list before it becomes a text.
        return value if type(value) is list else plain(value)

    return cell


def _nothing(record: object) -> None:
    return None
