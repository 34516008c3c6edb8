# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of what was compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tables


@pytest.fixture(autouse=True)
def nothing_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_noted", {})
    monkeypatch.setattr(tables, "_excepted", {})


def test_counts_add_up(tmp_path: Path) -> None:
    tables.note("procfs", "net/tcp", "6.1", 10, 10, excepted="when")
    tables.note("procfs", "net/tcp", "6.1", 5, 4)
    tables.note("procfs", "net/udp", "6.12", 3, 3)
    tables.write(["6.1", "6.12"], tmp_path / "parity.md")
    lines = (tmp_path / "parity.md").read_text().splitlines()
    assert lines[lines.index("## procfs") + 2 :] == [
        "| procfs | 6.1 | 6.12 | excepted |",
        "| --- | ---: | ---: | --- |",
        "| `net/tcp` | 14 of 15 | - | when |",
        "| `net/udp` | - | 3 |  |",
        "| all | 14 of 15 | 3 |  |",
    ]


def test_a_part_of_the_kernels_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "parity.md"
    tables.note("one", "a", "6.1", 1, 1)
    tables.note("two", "b", "6.1", 2, 2)
    tables.write(["6.1"], file)
    before = file.read_text()
    monkeypatch.setattr(tables, "_noted", {})
    tables.note("one", "a", "6.1", 7, 7)
    tables.write(["6.1", "7.2"], file)
    assert file.read_text() == before
    tables.write(["6.1"], file)
    assert "`a` | 7 |" in file.read_text() and "`b` | 2 |" in file.read_text()
