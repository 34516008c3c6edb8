# SPDX-License-Identifier: LGPL-2.1-or-later
"""Do tables, CSV and JSON say what the records say, and as soon as they can?"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_sockets.errors import UserError
from drgn_sockets.query.columns import choose
from drgn_sockets.records.columns import Column
from drgn_sockets.records.parts import Batch
from drgn_sockets.text import plain, unescape
from drgn_sockets.views import rows
from drgn_sockets.views.columns import rows_maker
from drgn_sockets.views.rows import Csv, Json, Rows, Table

NUMBER = Column("number", "a number", lambda r: r[0], True, right=True)
NAME = Column("name", "a name, as bytes", lambda r: r[1], True)
LAST_ONE = Column("last_one", "anything", lambda r: r[2] if len(r) > 2 else None, True)
COLUMNS = (NUMBER, NAME, LAST_ONE)


def write(form: type[Rows], records: Iterable[Any], columns: Any, out: Any, **options: Any) -> None:
    rows = form(columns, out, **options)
    for record in records:
        rows.write(Batch([record]))
    rows.close()


def table(records: Iterable[Any], columns: Any = COLUMNS, *, header: bool = True) -> list[str]:
    out = io.StringIO()
    write(Table, records, columns, out, header=header)
    text = out.getvalue()
    assert text == "" or text.endswith("\n")
    return text.splitlines()


def test_a_small_table_fits_its_cells() -> None:
    assert table([(1, b"one", "x"), (22222222, b"two and more", None)]) == [
        "  NUMBER  NAME          LAST-ONE",
        "       1  one           x",
        "22222222  two and more  -",
    ]


# Cells as wide as they are long, of two columns a character, and of none for some.
TEXTS = st.text("ab1.%é漢字한🙂\u0301\u0e31", min_size=1, max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5), st.booleans())
def test_tables_of_tabulate_and_ours_look_alike(
    records: list[tuple[str, str, str]], header: bool
) -> None:
    columns = [Column(c.name, c.help, c.get, True, right=c.right) for c in COLUMNS]
    texts = []
    for end in (Table._tabulate, Table._fit):
        out = io.StringIO()
        one = Table(columns, out, header=header)
        one.write(Batch(records))
        end(one)
        texts.append(out.getvalue())
    assert texts[0] == texts[1]


WIDE = [
    (7, "日本語".encode(), "x"),
    (1234567, "e\u0301te\u0301".encode(), "y"),
    (8, b"abcdef", "z"),
]
WIDE_LINES = [
    " NUMBER  NAME    LAST-ONE",
    "      7  日本語  x",
    "1234567  e\u0301te\u0301     y",
    "      8  abcdef  z",
]


def test_wide_characters_are_aligned_as_a_terminal_shows_them() -> None:
    assert table(WIDE) == WIDE_LINES
    assert table(WIDE[:1]) == ["NUMBER  NAME    LAST-ONE", "     7  日本語  x"]
    many = [WIDE[1], WIDE[2], *[WIDE[0], *WIDE] * rows._SMALL]
    shown = [WIDE_LINES[i] for i in (0, 2, 3, *[1, 1, 2, 3] * rows._SMALL)]
    assert table(many) == shown


def test_no_rows() -> None:
    assert [line.split() for line in table([])] == [["NUMBER", "NAME", "LAST-ONE"]]
    assert table([], header=False) == []


def test_no_header() -> None:
    assert table([(1, b"a", None), (10, b"bcd", None)], header=False) == [
        " 1  a    -",
        "10  bcd  -",
    ]


def test_numbers_stay_as_they_are() -> None:
    # Not what a formatter of tables thinks of them.
    assert table([("1e5", b"0x10", "007"), ("1_0", b"nan", "1,000")], header=False) == [
        "1e5  0x10  007",
        "1_0  nan   1,000",
    ]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_wide_cells_do_not_push_others_away(header: bool, count: int) -> None:
    wide = b"w" * 4000
    records: list[Any] = [(1, wide, "end")] + [(i, b"short", "end") for i in range(2, count + 1)]
    lines = table(records, header=header)
    assert len(lines) == count + header
    assert lines[header].split() == ["1", wide.decode(), "end"]
    assert all(len(line) < 100 for line in lines if "w" * 4000 not in line)
    assert [line.split() for line in lines[1 + header :]] == [
        [str(i), "short", "end"] for i in range(2, count + 1)
    ]


@pytest.mark.parametrize("header", [True, False])
def test_a_column_of_wide_cells(header: bool) -> None:
    wide = b"w" * 81
    lines = table([(i, wide, "end") for i in range(3)], header=header)
    assert [line.split() for line in lines[header:]] == [
        [str(i), wide.decode(), "end"] for i in range(3)
    ]


def test_a_wide_last_cell_is_no_matter() -> None:
    lines = table([(1, b"a", "w" * 500), (22, b"bcd", "x")], header=False)
    assert lines == [f" 1  a    {'w' * 500}", "22  bcd  x"]


def test_a_large_table_comes_as_it_is_made() -> None:
    out = io.StringIO()
    written: list[int] = []

    def records() -> Iterator[tuple[int, bytes]]:
        for i in range(5000):
            written.append(len(out.getvalue().splitlines()))
            yield i, b"name %d" % i

    write(Table, records(), COLUMNS, out)
    # While record 1,000 is made, those before are out, all but at most one.
    assert written[rows._SMALL + 1] >= rows._SMALL
    assert all(n >= i for i, n in enumerate(written) if i > rows._SMALL)
    lines = out.getvalue().splitlines()
    assert len(lines) == 5001
    # Aligned to the first rows, and whole where they are wider.
    assert lines[1] == "     0  name 0    -"
    assert lines[256] == "   255  name 255  -"
    assert lines[5000] == "  4999  name 4999  -"


def test_large_and_small_tables_look_alike() -> None:
    for name in ("n", "ñ", "漢"):
        few = [(i + 10_000, name.encode() * (i % 7), None) for i in range(rows._SMALL - 1)]
        many = [*few, *[(0, b"", None)] * 2]
        for header in (True, False):
            assert table(many, header=header)[: len(few)] == table(few, header=header)[: len(few)]


@pytest.mark.parametrize("form", [Csv, Json])
def test_forms_for_programs_come_as_they_are_made(form: type[Rows]) -> None:
    out = io.StringIO()

    def records() -> Iterator[tuple[int, bytes]]:
        for i in range(10):
            assert len(out.getvalue().splitlines()) >= i
            yield i, b"x"

    write(form, records(), COLUMNS, out)


NAMES = st.binary(max_size=24)


@given(st.lists(st.tuples(st.integers(), NAMES)))
def test_csv_gives_everything_back(records: list[tuple[int, bytes]]) -> None:
    out = io.StringIO()
    write(Csv, records, (NUMBER, NAME), out)
    # Every record is one line.
    assert out.getvalue().count("\n") == len(records) + 1
    header, *found = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert header == ["number", "name"]
    assert [(int(number), unescape(name)) for number, name in found] == records


def test_csv_without_header_and_with_quotes() -> None:
    out = io.StringIO()
    write(Csv, [(1, b'a,"b"\n', ["x", 2])], COLUMNS, out, header=False)
    assert out.getvalue() == '1,"a,""b""\\n","x,2"\n'


@given(st.lists(st.tuples(st.integers(), NAMES)))
def test_json_gives_everything_back(records: list[tuple[int, bytes]]) -> None:
    out = io.StringIO()
    write(Json, records, COLUMNS, out)
    lines = out.getvalue().splitlines()
    out.getvalue().encode("ascii")
    assert len(lines) == len(records)
    for line, (number, name) in zip(lines, records):
        found = json.loads(line)
        assert found == {"number": number, "name": found["name"], "last_one": None}
        # What json.loads() made of it is what os.listdir() would give: bytes again.
        assert os.fsencode(found["name"]) == name


def test_json_of_values_in_values() -> None:
    out = io.StringIO()
    value = [{"comm": b"\xff", "pid": 1, "tid": None}, {"list": [True, 1.5, (b"x",)]}]
    write(Json, [(1, b"", value)], COLUMNS, out)
    assert json.loads(out.getvalue())["last_one"] == [
        {"comm": "\udcff", "pid": 1, "tid": None},
        {"list": [True, 1.5, ["x"]]},
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (b"-", "\\x2d"),
        (b"a\n", "a\\n"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (0.0014, "0.001"),
        ([], "-"),
        (["A", b"\xff", 1], "A,\\xff,1"),
        ({"a": 1, "b": None}, "a=1 b=-"),
        ({}, "-"),
    ],
)
def test_values_as_text(value: Any, text: str) -> None:
    assert plain(value) == text
    assert next(rows_maker([LAST_ONE])(Batch([(0, b"", value)]))) == (text,)


def test_a_column_has_its_own_text() -> None:
    column = Column("x", "x", lambda r: r, text=lambda r: None if r is None else f"<{r}>")
    make = rows_maker([column, column])
    assert [*make(Batch([1])), *make(Batch([None]))] == [("<1>", "<1>"), ("-", "-")]


ALL = tuple(Column(name, name, lambda r: r) for name in ("netid", "local", "recv_q", "sk", "peer"))


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (None, "netid local"),
        ("all", "netid local recv_q sk peer"),
        ("sk", "sk"),
        ("sk,netid", "sk netid"),
        ("+sk", "netid local sk"),
        ("+sk,peer", "netid local sk peer"),
        ("+local", "netid local"),
        ("sk,sk,SK", "sk"),
        ("Recv-Q,SK", "recv_q sk"),
        (" sk , peer ", "sk peer"),
    ],
)
def test_choosing_columns(output: str | None, names: str) -> None:
    usual = ["netid", "local"]
    assert [c.name for c in choose(ALL, output, usual)] == names.split()
    assert usual == ["netid", "local"]


@pytest.mark.parametrize(
    ("output", "near"),
    [("locl", "'local'"), ("recvq", "'recv_q'"), ("sk,Pear", "'peer'"), ("qqqq", None), ("", None)],
)
def test_choosing_what_is_not_there(output: str, near: str | None) -> None:
    with pytest.raises(UserError) as raised:
        choose(ALL, output, [])
    message = str(raised.value)
    assert output.split(",")[-1] in message
    assert "--output help" in message
    assert (f"did you mean {near}?" in message) if near else "did you mean" not in message
    assert len(message.splitlines()) == 1
