# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of records as a table, as JSON lines and as CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable, TextIO

from drgn import FaultError

from drgn_sockets.kernel.lost import Lost
from drgn_sockets.records.columns import Column
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.parts import Batch
from drgn_sockets.views.columns import ERROR, Errors, getters, rows_maker, settled

#: Makes the lines of a batch of records.
Lines = Callable[[Batch], Iterable[str]]

# A table of fewer rows is small: it is printed when all rows are there. A large one has columns
# as wide as these first rows need, and its other rows are printed as they come.
_SMALL = 256
# Columns are not made wider than this for the sake of a cell.
_WIDE = 80


class Rows:
    """
    Writes records, each as one line.

    :param losses: Takes what cannot be read.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        out: TextIO,
        *,
        header: bool = True,
        losses: Losses | None = None,
    ) -> None:
        self._losses = Losses() if losses is None else losses
        self._columns = columns
        self._out = out
        self._header = header
        #: Makes the lines of a batch; ``None`` as long as the columns have no widths yet.
        self.lines: Lines | None = None
        self._begin()

    def _begin(self) -> None:
        """Prepare to write, and write the headings of a form that has them in its first line."""

    def write(self, batch: Batch) -> None:
        """Write the records of a batch."""
        assert self.lines is not None
        self._out.writelines(self.lines(batch))

    def close(self) -> None:
        """Write what was held back: there are no more records."""


class Json(Rows):
    """
    JSON, one object a line.

    Bytes are decoded as UTF-8. A byte that is not UTF-8 becomes a surrogate U+DC80 to U+DCFF, as
    :func:`os.fsdecode` makes it; :func:`os.fsencode` gives the bytes back.
    """

    def _begin(self) -> None:
        import json

        columns = self._columns
        dumps = json.JSONEncoder(separators=(", ", ": ")).encode
        plans: dict[type, list[tuple[str, Callable[[Any], Any] | None]]] = {}

        def made(batch: Batch, errors: Errors) -> list[str]:
            rows = []
            for i, record in enumerate(batch.records()):
                cls = type(record)
                if cls not in plans:
                    plans[cls] = list(zip((c.name for c in columns), getters(columns, cls)))
                values = {}
                for name, get in plans[cls]:
                    try:
                        value = get(record) if get is not None else None
                    except FaultError as e:
                        errors.add(i, e)
                        value = None
                    if type(value) is list:
                        errors.look_at(i, value)
                    values[name] = value if type(value) in _JSON else _json_value(value)
                if ERROR in values:
                    values[ERROR] = errors.of(i)
                rows.append(dumps(values) + "\n")
            return rows

        self.lines = lambda batch: settled(batch, made, self._losses)


# Types of values that JSON has as well.
_JSON = frozenset({int, str, type(None), bool, float})


def _json_value(value: Any) -> Any:
    if isinstance(value, Lost):
        return None
    if isinstance(value, bytes):
        # As os.fsdecode() does it, whatever the encoding of file names is.
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        # Fields that are None are left out.
        return {k: _json_value(v) for k, v in value._asdict().items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    return value


class Csv(Rows):
    """CSV (RFC 4180). Values are escaped as in a table, so that every record is one line."""

    def _begin(self) -> None:
        import csv

        written: list[str] = []

        class Out:
            write = written.append

        writer = csv.writer(Out(), lineterminator="\n")
        rows = rows_maker(self._columns, self._losses)
        cells = self._cells

        def lines(batch: Batch) -> Iterator[str]:
            for row in rows(batch):
                writer.writerow(cells(row))
                yield written.pop()

        self.lines = lines
        if self._header:
            writer.writerow([column.name for column in self._columns])
            self._out.write(written.pop())

    def _cells(self, row: Sequence[Any]) -> Iterable[Any]:
        return row


class SpreadsheetCsv(Csv):
    """
    CSV for a spreadsheet, which would run a cell that begins like a formula.

    Such a text gets an apostrophe before it, so the cells do not always give the text back.
    """

    def _cells(self, row: Sequence[Any]) -> Iterable[Any]:
        return map(_harmless, row)


_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def _harmless(cell: Any) -> Any:
    text = str(cell)
    if text == "-":
        return ""
    if text.startswith(("=", "+", "-", "@")) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return cell


def _width(text: str) -> int:
    """How many columns of a terminal *text* takes."""
    if text.isascii():
        return len(text)
    # Its import takes 16 ms of CPU time, and most tables are ASCII.
    from wcwidth import wcswidth

    return wcswidth(text)


class Table(Rows):
    """
    A table for people.

    A small one is fitted to its widest cells. A large one is fitted to its first rows, and the rest
    is written as it comes. Both look the same: two spaces between columns, each as wide as its
    heading and cells.
    """

    def _begin(self) -> None:
        self._rows = rows_maker(self._columns, self._losses)
        self._first: list[tuple[str, ...]] = []
        if self._header:
            self._first.append(tuple(c.name.upper().replace("_", "-") for c in self._columns))
        # Nothing comes after the last column to be aligned.
        self._padded = len(self._columns) if self._columns[-1].right else len(self._columns) - 1

    def write(self, batch: Batch) -> None:
        if self.lines is None:
            self._first += [tuple(map(str, row)) for row in self._rows(batch)]
            if len(self._first) - self._header >= _SMALL:
                self._fit()
        else:
            super().write(batch)

    def close(self) -> None:
        if self.lines is not None:
            return
        texts = [text for row in self._first for text in row]
        # tabulate would fit a column to a cell of 4,000 characters, which a path may have, and push
        # all other columns out of sight.
        wide = any(len(text) > _WIDE for row in self._first for text in row[: self._padded])
        # The import of tabulate takes 42 ms of CPU time, as long as the commands that print a
        # small table: plain text is aligned without it.
        if wide or all(map(str.isascii, texts)):
            self._fit()
        else:
            self._tabulate()

    def _tabulate(self) -> None:
        from tabulate import tabulate

        text = tabulate(
            # The headings are a row like any other: tabulate pads headers by two.
            self._first,
            tablefmt="plain",
            disable_numparse=True,
            colalign=["right" if c.right else "left" for c in self._columns],
        )
        for line in text.splitlines():
            self._out.write(line.rstrip() + "\n")

    def _fit(self) -> None:
        # Without headings all cells of a column may be wide.
        fitted = zip(*self._first[: _SMALL + self._header])
        widths = [max((n for n in map(_width, c) if n <= _WIDE), default=0) for c in fitted]
        sides = ["" if column.right else "-" for column in self._columns]
        forms = [f"%{side}{width}s" for side, width in zip(sides, widths)]
        forms[self._padded :] = ["%s"] * (len(forms) - self._padded)
        form, make = "  ".join(forms), self._rows

        def line(row: tuple[Any, ...]) -> str:
            text = form % row
            if not text.isascii():
                text = self._wide_line(row, widths)
            return text.rstrip() + "\n"

        def lines(batch: Batch) -> Iterable[str]:
            rows = list(make(batch))
            # Most texts have nothing to be mended: 50 ms less for 160,000 rows.
            text = "\n".join([form % row for row in rows])
            if text.isascii() and " \n" not in text and text[-1:] != " ":
                return (text, "\n") if rows else ()
            return map(line, rows)

        self._out.writelines(map(line, self._first))
        self._first.clear()
        self.lines = lines

    def _wide_line(self, row: Sequence[Any], widths: Sequence[int]) -> str:
        """A line with characters that take no column of a terminal, or two of them."""
        cells = list(map(str, row))
        for i, width in enumerate(widths[: self._padded]):
            padding = " " * (width - _width(cells[i]))
            cells[i] = padding + cells[i] if self._columns[i].right else cells[i] + padding
        return "  ".join(cells)
