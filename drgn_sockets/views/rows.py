# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of records as a table, as JSON lines and as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable, TextIO

from drgn import FaultError

from drgn_sockets.records.columns import Column
from drgn_sockets.records.parts import Batch
from drgn_sockets.text import plain
from drgn_sockets.views.columns import getters, rows_maker

#: Makes the lines of a batch of records.
Lines = Callable[[Batch], Iterable[str]]

# Up to here a table is small: it is held back to fit its columns. Beyond, the widths of
# these first rows do for the rest, which is printed as it comes.
_SMALL = 256
# Wider cells than this are not aligned to.
_WIDE = 80


class Rows:
    """Writes records, each as one line."""

    def __init__(self, columns: Sequence[Column], out: TextIO, *, header: bool = True) -> None:
        self._columns = columns
        self._out = out
        self._header = header
        #: What makes lines; ``None`` as long as that is not settled.
        self.lines: Lines | None = None

    def write(self, batch: Batch) -> None:
        """Write these, and more may come."""
        assert self.lines is not None
        self._out.writelines(self.lines(batch))

    def close(self) -> None:
        """That was all."""


class Json(Rows):
    """
    JSON, one object a line.

    Bytes are UTF-8; those that are not are surrogates U+DC80 to U+DCFF, as
    :func:`os.fsdecode` makes them and :func:`os.fsencode` turns them back.
    """

    def __init__(self, columns: Sequence[Column], out: TextIO, *, header: bool = True) -> None:
        super().__init__(columns, out, header=header)
        import json

        dumps = json.JSONEncoder(separators=(", ", ": ")).encode
        plans: dict[type, list[tuple[str, Callable[[Any], Any] | None]]] = {}

        def line(record: Any) -> str:
            cls = type(record)
            if cls not in plans:
                plans[cls] = list(zip((c.name for c in columns), getters(columns, cls)))
            values = {}
            for name, get in plans[cls]:
                value = get(record) if get is not None else None
                values[name] = value if type(value) in _JSON else _json_value(value)
            return dumps(values) + "\n"

        self.lines = lambda batch: map(line, batch.records())


# What is its own JSON.
_JSON = frozenset({int, str, type(None), bool, float})


def _json_value(value: Any) -> Any:
    if isinstance(value, FaultError):
        return plain(value)
    if isinstance(value, bytes):
        # As os.fsdecode(): what is not UTF-8 becomes surrogates that Python turns back.
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        # Of a named tuple, what there is.
        return {k: _json_value(v) for k, v in value._asdict().items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    return value


class Csv(Rows):
    """CSV (RFC 4180), escaped as in a table so that every record is one line."""

    def __init__(self, columns: Sequence[Column], out: TextIO, *, header: bool = True) -> None:
        super().__init__(columns, out, header=header)
        import csv

        written: list[str] = []

        class Out:
            write = written.append

        writer = csv.writer(Out(), lineterminator="\n")
        rows = rows_maker(columns)

        def lines(batch: Batch) -> Iterator[str]:
            for row in rows(batch):
                writer.writerow(row)
                yield written.pop()

        self.lines = lines
        if header:
            writer.writerow([column.name for column in columns])
            out.write(written.pop())


def _is_simple(text: str) -> bool:
    return text != "" and text.isascii() and text.isprintable() and text == text.strip()


class Table(Rows):
    """
    A table for people.

    A small one is fitted to its widest cells; a large one is streamed.
    """

    def __init__(self, columns: Sequence[Column], out: TextIO, *, header: bool = True) -> None:
        super().__init__(columns, out, header=header)
        self._rows = rows_maker(columns)
        self._first: list[list[str]] = []

    def write(self, batch: Batch) -> None:
        if self.lines is None:
            self._first += [list(map(str, row)) for row in self._rows(batch)]
            if len(self._first) >= _SMALL:
                self._fit()
        else:
            super().write(batch)

    def close(self) -> None:
        if self.lines is not None:
            return
        # One very long cell (a path may have 4,096 bytes) would push all others out of sight.
        if any(len(text) > _WIDE for row in self._first for text in row[:-1]):
            self._fit()
        elif self._first and all(_is_simple(text) for row in self._first for text in row):
            self._write_fitted()
        elif self._first or self._header:
            self._write_small()

    def _headings(self) -> list[str]:
        return [column.name.upper().replace("_", "-") for column in self._columns]

    def _write_fitted(self) -> None:
        """As tabulate does it, of texts that are as wide as they are long."""
        rows, widths = self._first, [max(map(len, cells)) for cells in zip(*self._first)]
        if self._header:
            headings = self._headings()
            # It leaves headings this much room.
            widths = [max(width, len(h) + 2) for width, h in zip(widths, headings)]
            rows = [headings, *rows]
        sides = ("" if column.right else "-" for column in self._columns)
        form = "  ".join(f"%{side}{width}s" for side, width in zip(sides, widths))
        for row in rows:
            self._out.write((form % tuple(row)).rstrip() + "\n")

    def _write_small(self) -> None:
        # Its import takes as long as a small table does; large ones go without.
        from tabulate import tabulate

        text = tabulate(
            self._first,
            headers=self._headings() if self._header else (),
            tablefmt="plain",
            disable_numparse=True,
            colalign=["right" if c.right else "left" for c in self._columns]
            if self._first
            else None,
        )
        for line in text.splitlines():
            self._out.write(line.rstrip() + "\n")

    def _fit(self) -> None:
        rows = [self._headings(), *self._first] if self._header else self._first
        # Without headings all cells of a column may be wide.
        first = rows[: _SMALL + 1]
        widths = [max((n for n in map(len, c) if n <= _WIDE), default=0) for c in zip(*first)]
        cells = [f"%{'' if c.right else '-'}{w}s" for c, w in zip(self._columns, widths)]
        if not self._columns[-1].right:
            # Nothing comes after it to be aligned.
            cells[-1] = "%s"
        form, make = "  ".join(cells) + "\n", self._rows
        self._out.writelines(map(form.__mod__, map(tuple, rows)))
        self._first.clear()
        self.lines = lambda batch: map(form.__mod__, make(batch))
