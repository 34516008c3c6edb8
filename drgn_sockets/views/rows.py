# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows of records as a table, as JSON lines and as CSV."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from drgn_sockets.views.columns import Column, row_maker

# Up to here a table is small: it is held back to fit its columns. Beyond, the widths of
# these first rows do for the rest, which is printed as it comes.
_SMALL = 256
# Wider cells than this are not aligned to.
_WIDE = 80


def write_table(
    records: Iterable[Any], columns: Sequence[Column], out: TextIO, *, header: bool = True
) -> None:
    """
    Write a table for people, every record one line.

    A small table is fitted to its widest cells; a large one is streamed.
    """
    iterator = iter(records)
    make = row_maker(columns)
    first = [make(record) for record in itertools.islice(iterator, _SMALL)]
    headings = [column.name.upper().replace("_", "-") for column in columns]
    # One very long cell (a path may have 4,096 bytes) would push all others out of sight.
    fits = all(len(text) <= _WIDE for row in first for text in row[:-1])
    if len(first) < _SMALL and fits:
        if first and all(_is_simple(text) for row in first for text in row):
            _write_fitted(first, headings if header else None, columns, out)
        elif first or header:
            # Its import takes as long as a small table does; large ones go without.
            from tabulate import tabulate

            text = tabulate(
                first,
                headers=headings if header else (),
                tablefmt="plain",
                disable_numparse=True,
                colalign=["right" if c.right else "left" for c in columns] if first else None,
            )
            for line in text.splitlines():
                out.write(line.rstrip() + "\n")
        return
    rows = [headings, *first] if header else first
    # Without headings all cells of a column may be wide.
    widths = [max((n for n in map(len, c) if n <= _WIDE), default=0) for c in zip(*rows)]
    form = "  ".join(f"%{'' if c.right else '-'}{width}s" for c, width in zip(columns, widths))
    for row in rows:
        out.write((form % tuple(row)).rstrip() + "\n")
    for record in iterator:
        out.write((form % tuple(make(record))).rstrip() + "\n")


def _is_simple(text: str) -> bool:
    return text != "" and text.isascii() and text.isprintable() and text == text.strip()


def _write_fitted(
    rows: Sequence[Sequence[str]],
    headings: Sequence[str] | None,
    columns: Sequence[Column],
    out: TextIO,
) -> None:
    """As tabulate does it, of texts that are as wide as they are long."""
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    if headings is not None:
        # It leaves headings this much room.
        widths = [max(width, len(h) + 2) for width, h in zip(widths, headings)]
        rows = [headings, *rows]
    form = "  ".join(f"%{'' if c.right else '-'}{width}s" for c, width in zip(columns, widths))
    for row in rows:
        out.write((form % tuple(row)).rstrip() + "\n")


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        # As os.fsdecode(): what is not UTF-8 becomes surrogates that Python turns back.
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    return value


def write_json(records: Iterable[Any], columns: Sequence[Column], out: TextIO) -> None:
    """
    Write each record as one line of JSON.

    Bytes are UTF-8; those that are not are surrogates U+DC80 to U+DCFF, as
    :func:`os.fsdecode` makes them and :func:`os.fsencode` turns them back.
    """
    import json

    dumps = json.JSONEncoder(separators=(", ", ": ")).encode
    getters = [(column.name, column.get) for column in columns]
    for record in records:
        out.write(dumps({name: _json_value(get(record)) for name, get in getters}) + "\n")


def write_csv(
    records: Iterable[Any], columns: Sequence[Column], out: TextIO, *, header: bool = True
) -> None:
    """Write CSV (RFC 4180), escaped as in a table so that every record is one line."""
    import csv

    writer = csv.writer(out, lineterminator="\n")
    make = row_maker(columns)
    if header:
        writer.writerow([column.name for column in columns])
    for record in records:
        writer.writerow(make(record))
