# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What tests compared, as tables in the docs: ``docs/parity.md`` is written by the test run.

A test notes what it compared and how much of that was equal; when the session ends well, each
table of which all kernels were noted takes the place of its predecessor. A run of some tests
leaves the other tables alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "docs" / "parity.md"

_TITLE = """# Parity: what was compared, and how much was equal

Written by `make test-recorded`, from cores of guests that the workloads of `vm/workloads` had
loaded, against what was saved of procfs, sock_diag and ss at that moment. A number is of what was
compared and equal; "98 of 100" would be two that differ; "-" is what that kernel had not.
"""

# table -> row -> kernel -> (compared, equal); and what of the row was left out.
_noted: dict[str, dict[str, dict[str, tuple[int, int]]]] = {}
_excepted: dict[str, dict[str, list[str]]] = {}


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
    cell = _noted.setdefault(table, {}).setdefault(row, {})
    before = cell.get(kernel, (0, 0))
    cell[kernel] = (before[0] + compared, before[1] + equal)
    if excepted:
        known = _excepted.setdefault(table, {}).setdefault(row, [])
        known += [reason for reason in excepted.split("; ") if reason not in known]


def _cell(counts: tuple[int, int] | None) -> str:
    if counts is None or not counts[0]:
        return "-"
    compared, equal = counts
    return str(equal) if equal == compared else f"{equal} of {compared}"


def render(table: str, kernels: Iterable[str]) -> str:
    """A table in Markdown."""
    kernels = list(kernels)
    excepted = _excepted.get(table, {})
    headings = [table, *kernels, *(["excepted"] if excepted else [])]
    lines = [headings, ["---", *["---:"] * len(kernels), *(["---"] if excepted else [])]]
    rows = _noted[table]
    for row, cells in rows.items():
        last = ["; ".join(excepted.get(row, ()))] if excepted else []
        lines.append([f"`{row}`", *(_cell(cells.get(kernel)) for kernel in kernels), *last])
    sums = []
    for kernel in kernels:
        of_kernel = [cells[kernel] for cells in rows.values() if kernel in cells]
        sums.append((sum(c for c, _ in of_kernel), sum(e for _, e in of_kernel)))
    lines.append(["all", *map(_cell, sums), *([""] if excepted else [])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _sections(text: str) -> dict[str, str]:
    """The tables of the file as it is, by heading."""
    found = {}
    for section in text.split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        found[heading] = body.strip() + "\n"
    return found


def write(kernels: Iterable[str], file: Path = FILE) -> None:
    """Put the tables that all *kernels* were noted for into *file*."""
    kernels = list(kernels)
    sections = _sections(file.read_text()) if file.exists() else {}
    for table, rows in _noted.items():
        if all(any(kernel in cells for cells in rows.values()) for kernel in kernels):
            sections[table] = render(table, kernels)
    if not sections:
        return
    text = _TITLE + "".join(f"\n## {name}\n\n{body}" for name, body in sorted(sections.items()))
    if not file.exists() or file.read_text() != text:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
