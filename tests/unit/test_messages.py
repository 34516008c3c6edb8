# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nothing that a terminal would act on reaches it, whatever names and files hold."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import unicodedata
from typing import Any, NamedTuple

import pytest
from drgn import FaultError
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_sockets import cli
from drgn_sockets.commands import procfs
from drgn_sockets.messages import log_to_stderr, printable, tell
from drgn_sockets.records.columns import Column
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.parts import Batch
from drgn_sockets.text import unescape
from drgn_sockets.views.rows import Csv, Json, Rows, SpreadsheetCsv, Table

from .odd_bytes import odd_bytes

#: Bytes of names: controls of terminals (ESC, C1, DEL), newlines, formulas, and whatever else.
HOSTILE = odd_bytes(
    [b"\x1b[2J", b"\x9b31m", b"\xc2\x9b", b"\x7f", b"\n", b"\r", b"=", b"-", b'"', b","], 32
)
TEXT = HOSTILE.map(lambda raw: raw.decode("utf-8", "surrogateescape"))


def raw(text: str) -> list[str]:
    """Characters that a terminal would act on, or that hide."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]


@given(TEXT)
def test_printable(text: str) -> None:
    shown = printable(text)
    assert not raw(shown)
    assert printable(shown) == shown
    assert shown == text or not text.isprintable()


@given(TEXT)
def test_message_is_one_line(text: str) -> None:
    out = io.StringIO()
    tell(text, out)
    assert out.getvalue().startswith("drgn-sockets: ") and out.getvalue().endswith("\n")
    assert not raw(out.getvalue()[:-1])


@given(TEXT, TEXT)
def test_losses(text: str, where: str) -> None:
    losses, out = Losses(), io.StringIO()
    losses.lose(FaultError(text, 0xFFFF888000000000), where)
    losses.remark(text)
    losses.tell(out)
    assert not raw(out.getvalue().replace("\n", "")) and out.getvalue().count("\n") == 2


def test_messages_of_drgn(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        log_to_stderr("warning")
        logging.getLogger("drgn").warning("no \x1b[31m\x9b module\n%s", "x\x7f")
    finally:
        root.handlers[:], root.level = before, level
    err = capsys.readouterr().err
    assert err == "drgn-sockets: WARNING: no \\x1b[31m\\u009b module\\nx\\x7f\n"


# Each makes three parsers.
@settings(max_examples=25)
@given(TEXT.map(lambda text: text.replace("\0", "")))
def test_words_of_the_command_line(word: str) -> None:
    """In words of the user's: a file may be called anything, and come from ``*``."""
    for argv in (["-c", f"/no/such/{word}", "ss"], [f"no {word}"], ["--types", f"x{word}", "ss"]):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            try:
                status: Any = cli.main(argv)
            except SystemExit as e:
                status = e.code
        assert status == 2
        assert err.getvalue().count("\n") == 1 and not raw(err.getvalue()[:-1]), err.getvalue()


class _Row(NamedTuple):
    name: bytes
    text: str
    number: int
    none: None
    items: list[bytes]
    error: str | None


COLUMNS = [
    Column("name", "", lambda row: row.name),
    Column("text", "", lambda row: row.text),
    Column("number", "", lambda row: row.number, right=True),
    Column("none", "", lambda row: row.none),
    Column("items", "", lambda row: row.items),
    Column("error", "", lambda row: row.error),
]
ROWS = st.lists(
    st.builds(_Row, HOSTILE, TEXT, st.integers(-99, 99), st.none(), st.lists(HOSTILE), TEXT),
    max_size=5,
)


def written(form: type[Rows], rows: list[_Row]) -> str:
    out = io.StringIO()
    to = form(COLUMNS, out)
    if rows:
        to.write(Batch(rows))
    to.close()
    return out.getvalue()


@given(ROWS)
def test_forms_of_output(rows: list[_Row]) -> None:
    for form in (Table, Json, Csv, SpreadsheetCsv):
        out = written(form, rows)
        assert not raw(out.replace("\n", "")), form
        assert out.count("\n") == len(rows) + (form is not Json), form


@given(ROWS)
def test_csv_is_lossless(rows: list[_Row]) -> None:
    cells = list(csv.DictReader(io.StringIO(written(Csv, rows))))
    assert [unescape(cell["name"]) for cell in cells] == [row.name for row in rows]
    names = [json.loads(line)["name"] for line in written(Json, rows).splitlines()]
    assert [name.encode("utf-8", "surrogateescape") for name in names] == [r.name for r in rows]


@given(ROWS)
def test_spreadsheet_runs_nothing(rows: list[_Row]) -> None:
    cells = list(csv.DictReader(io.StringIO(written(SpreadsheetCsv, rows))))
    for cell, row in zip(cells, rows):
        assert cell["none"] == "" and cell["number"] == str(row.number)
        for name in ("name", "text", "items", "error"):
            text = cell[name]
            is_number = text.removeprefix("-").replace(".", "", 1).isdecimal()
            assert is_number or not text.startswith(("=", "+", "-", "@")), text


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@given(st.lists(HOSTILE.map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=4))
def test_procfs_on_a_terminal(lines: list[bytes]) -> None:
    """Bytes of the kernel's go to a file as they are; a terminal acts on none of them."""
    for stream in (_Terminal, io.TextIOWrapper):
        raw_bytes = io.BytesIO()
        out = stream(raw_bytes, encoding="utf-8")
        with contextlib.redirect_stdout(out):
            procfs._write(iter(lines))
        out.flush()
        if stream is _Terminal:
            shown = raw_bytes.getvalue().decode()
            assert shown.count("\n") == len(lines)
            assert not raw(shown.replace("\n", "").replace("\t", ""))
        else:
            assert raw_bytes.getvalue() == b"".join(lines)


def test_option_csv_takes_no_word() -> None:
    """What follows ``--csv`` is a word of the command."""
    parser = cli.make_parser()
    for option, form in (("--csv", True), ("--csv=spreadsheet", "spreadsheet")):
        args = parser.parse_args(["fds", option, "180"])
        assert args.csv == form and args.who == ["180"]
