# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of what was compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tables


@pytest.fixture(autouse=True)
def nothing_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_noted", {})


def test_counts_add_up(tmp_path: Path) -> None:
    tables.note("procfs", "net/tcp", "6.1", 10, 10, excepted="when; tr")
    tables.note("procfs", "net/tcp", "6.1", 5, 4)
    tables.note("procfs", "net/udp", "6.12", 3, 3, excepted="tr")
    tables.save(tmp_path)
    tables.write(["6.1", "6.12"], tmp_path / "parity.md", tmp_path)
    lines = (tmp_path / "parity.md").read_text().splitlines()
    assert lines[lines.index("## procfs") + 2 :] == [
        "| procfs | 6.1 | 6.12 | excepted |",
        "| --- | ---: | ---: | --- |",
        "| `net/tcp` | 14 of 15 | - | [1] [2] |",
        "| `net/udp` | - | 3 | [2] |",
        "| all | 14 of 15 | 3 |  |",
        "",
        "- [1] when",
        "- [2] tr",
    ]


def test_runs_add_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of some tests leaves the rows of the others alone; one of no tests leaves all."""
    file = tmp_path / "parity.md"
    tables.note("one", "a", "6.1", 1, 1)
    tables.note("two", "b", "6.1", 2, 2)
    tables.save(tmp_path)
    monkeypatch.setattr(tables, "_noted", {})
    tables.save(tmp_path)
    tables.note("one", "a", "6.1", 7, 7)
    tables.note("one", "a", "7.2", 3, 3)
    tables.save(tmp_path)
    tables.write(["6.1", "7.2"], file, tmp_path)
    assert "`a` | 7 | 3 |" in file.read_text() and "`b` | 2 | - |" in file.read_text()


def test_a_kernel_that_was_not_tested(tmp_path: Path) -> None:
    tables.note("one", "a", "6.1", 1, 1)
    tables.save(tmp_path)
    with pytest.raises(FileNotFoundError):
        tables.write(["6.1", "7.2"], tmp_path / "parity.md", tmp_path)
    assert not (tmp_path / "parity.md").exists()
