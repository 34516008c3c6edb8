# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What tests compared, as tables: ``docs/parity.md``, which ``make docs-parity`` writes.

A test notes what it compared and how much of that was equal. A test run that ends well leaves
that in ``build/parity``, a file for each kernel, beside what other runs have left there of other
tests; it changes no file of the source tree.

    python -m tests.tables      writes docs/parity.md
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "parity.md"
NOTES = ROOT / "build" / "parity"

_TITLE = """# Parity: what was compared, and how much was equal

Written by `make docs-parity`{commit}, from what `make test-recorded` compared: cores of guests that
the workloads of `vm/workloads` had loaded, against what was saved of procfs, sock_diag and ss at
that moment. A number is of what was compared and equal; "98 of 100" would be two that differ; "-"
is what that kernel had not. A number in brackets says what was not compared, or with a tolerance;
it is explained below the table.
"""

# Of one kernel: table -> row -> {"compared": n, "equal": n, "excepted": [reason, ...]}
_Tables = dict[str, dict[str, dict[str, Any]]]
_noted: dict[str, _Tables] = {}


def note(
    table: str, row: str, kernel: str, compared: int, equal: int, *, excepted: str = ""
) -> None:
    """
    Count what was compared; of the same table, row and kernel it adds up.

    :param table: Heading of the table.
    :param row: What is compared: a file, an attribute.
    :param kernel: Series of the kernel, ``6.1``.
    :param excepted: What of it is not compared, or with a tolerance; several with ``; `` between.
    """
    cells = _noted.setdefault(kernel, {}).setdefault(table, {})
    cell = cells.setdefault(row, {"compared": 0, "equal": 0, "excepted": []})
    cell["compared"] += compared
    cell["equal"] += equal
    if excepted:
        known = cell["excepted"]
        known += [reason for reason in excepted.split("; ") if reason not in known]


def save(place: Path = NOTES) -> None:
    """Add what was noted to what is in a directory; a row takes the place of its predecessor."""
    if not _noted:
        return
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        # Kernels are tested side by side.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for kernel, tables in _noted.items():
            file = place / f"{kernel}.json"
            known: _Tables = json.loads(file.read_text()) if file.exists() else {}
            for table, rows in tables.items():
                known.setdefault(table, {}).update(rows)
            file.write_text(json.dumps(known, indent=1))


def load(kernels: Iterable[str], place: Path = NOTES) -> dict[str, _Tables]:
    """
    What test runs have left of some kernels.

    :raises FileNotFoundError: if one was not tested
    """
    return {kernel: json.loads((place / f"{kernel}.json").read_text()) for kernel in kernels}


def _cell(compared: int, equal: int) -> str:
    if not compared:
        return "-"
    return str(equal) if equal == compared else f"{equal} of {compared}"


def _counts(cell: Mapping[str, Any] | None) -> tuple[int, int]:
    return (cell["compared"], cell["equal"]) if cell else (0, 0)


def render(table: str, noted: Mapping[str, _Tables]) -> str:
    """A table in Markdown, of all kernels, and below it what its exceptions are."""
    kernels = list(noted)
    rows = dict.fromkeys(row for tables in noted.values() for row in tables.get(table, ()))
    cells = {row: [noted[kernel].get(table, {}).get(row) for kernel in kernels] for row in rows}
    reasons: dict[str, int] = {}
    numbers: dict[str, list[int]] = {}
    for row, some in cells.items():
        # Of all kernels.
        of_row = [reason for cell in some if cell for reason in cell["excepted"]]
        numbers[row] = sorted({reasons.setdefault(reason, len(reasons) + 1) for reason in of_row})
    heading = [table, *kernels, *(["excepted"] if reasons else [])]
    lines = [heading, ["---", *["---:"] * len(kernels), *(["---"] if reasons else [])]]
    for row, some in cells.items():
        last = [" ".join(f"[{n}]" for n in numbers[row])] if reasons else []
        lines.append([f"`{row}`", *(_cell(*_counts(cell)) for cell in some), *last])
    sums = [[sum(part) for part in zip(*map(_counts, column))] for column in zip(*cells.values())]
    lines.append(["all", *(_cell(*counts) for counts in sums), *([""] if reasons else [])])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if reasons:
        text += "\n" + "".join(f"- [{number}] {reason}\n" for reason, number in reasons.items())
    return text


def write(kernels: Iterable[str], file: Path = FILE, place: Path = NOTES, commit: str = "") -> None:
    """
    Write what test runs have left into *file*: the tables of which all *kernels* have some.

    :raises FileNotFoundError: if a kernel was not tested
    """
    noted = load(kernels, place)
    names = sorted({table for tables in noted.values() for table in tables})
    sections = [f"\n## {name}\n\n{render(name, noted)}" for name in names]
    file.write_text(_TITLE.format(commit=commit) + "".join(sections))


def _commit() -> str:
    done = subprocess.run(
        ["git", "log", "-1", "--format=%h of %cs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return f" at commit {done.stdout.strip()}" if done.returncode == 0 else ""


def main() -> int:
    """Write the file."""
    from tests.recorded.conftest import KERNELS

    try:
        write(KERNELS, commit=_commit())
    except FileNotFoundError as e:
        print(f"{e.filename} is not there: run make test test-all first", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
