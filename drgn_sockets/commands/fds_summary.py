# SPDX-License-Identifier: LGPL-2.1-or-later
"""``fds --summary``: how many fds processes have, and how near to their limit they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from drgn import FaultError

from drgn_sockets.commands.base import passes
from drgn_sockets.commands.fds_lsfd_columns import user_name
from drgn_sockets.kernel.task import FileTable, Limit
from drgn_sockets.records.columns import Column
from drgn_sockets.records.fd import FdRecord
from drgn_sockets.records.losses import Losses, in_words
from drgn_sockets.text import escaped, plain


class Summary:
    """The fds of a file table; or of all tables, if *table* is ``None``."""

    def __init__(self, table: FileTable | None, limit: Limit | None = None) -> None:
        self.table = table
        #: ``RLIMIT_NOFILE``, ``None`` if it cannot be read.
        self.limit = limit
        self.fds = 0
        #: How many fds have numbers below the soft limit.
        self.below = 0
        self.highest: int | None = None
        self.kinds: Counter[str] = Counter()
        self.error: str | None = None

    @property
    def used(self) -> float | None:
        """
        How much of the soft limit is in use, from 0 to 1.

        A new fd gets the lowest free number, so fds above the limit, which was lowered after they
        were opened, do not count.
        """
        soft = self.limit.soft if self.limit is not None else None
        if soft is None:
            return None
        return self.below / soft if soft else 1.0

    def add(self, record: FdRecord, shown: bool) -> None:
        """
        Count a row.

        :param shown: Whether the row is asked for. All fds count for the limit.
        """
        if record.error is not None:
            self.error = record.error
        if record.fd is None:
            return
        self.highest = max(record.fd, self.highest or 0)
        soft = self.limit.soft if self.limit is not None else None
        if soft is None or record.fd < soft:
            self.below += 1
        if shown:
            self.fds += 1
            self.kinds["unreadable" if record.file is None else record.file.kind] += 1


def summaries(
    tables: Iterable[FileTable],
    records: Iterable[FdRecord],
    tests: Sequence[Callable[[FdRecord], bool]],
    losses: Losses,
) -> list[Summary]:
    """
    Make a summary of each table, those nearest to their limit first, and then one of all.

    A table that several processes (or, with ``--threads``, threads) share counts once in the
    latter.

    :param tests: An fd is counted if it passes all of these. All fds count for the limit.
    """
    rows = {table: _summary(table) for table in tables}
    total = Summary(None)
    first: dict[int, FileTable] = {}
    for record in records:
        if record.error is not None:
            losses.lose(record.error, record.where)
        shown = record.error is not None or passes(tests, record, losses)
        rows[record.table].add(record, shown)
        if first.setdefault(record.table.files, record.table) == record.table:
            total.add(record, shown)
    # The highest fd of all tables says nothing of any process.
    total.highest = total.error = None
    ordered = sorted(rows.values(), key=lambda s: (s.used or 0.0, s.fds), reverse=True)
    return [*ordered, total]


def _summary(table: FileTable) -> Summary:
    try:
        return Summary(table, table.process.nofile if table.process else None)
    except FaultError as e:
        summary = Summary(table)
        summary.error = in_words(e)
        return summary


def _of(name: str) -> Any:
    return lambda s: None if s.table is None else getattr(s.table, name)


def _limit(name: str) -> Any:
    return lambda s: None if s.limit is None else getattr(s.limit, name)


def _limit_text(name: str) -> Any:
    def text(s: Summary) -> str | None:
        if s.limit is None:
            return None
        limit = getattr(s.limit, name)
        return "unlimited" if limit is None else str(limit)

    return text


def _user(s: Summary) -> str | None:
    process = None if s.table is None else s.table.process
    return None if process is None else user_name(process.prog, process.uid)


def _percent(s: Summary) -> str | None:
    return None if s.used is None else f"{100 * s.used:.1f}%"


def _kinds(s: Summary) -> dict[str, int]:
    return dict(sorted(s.kinds.items(), key=lambda item: (-item[1], item[0])))


COLUMNS = (
    Column(
        "command",
        "command name of the process; none in the last row, which is the total",
        _of("comm"),
        True,
        text=lambda s: "(total)" if s.table is None else escaped(s.table.comm),
    ),
    Column("pid", "process ID", _of("pid"), True, right=True),
    Column("tid", "thread ID, if the row is a thread's", _of("tid"), True, right=True),
    Column("user", "user of the process", _user),
    Column("fds", "how many fds", lambda s: s.fds, True, right=True),
    Column("highest", "highest number", lambda s: s.highest, True, right=True),
    Column(
        "soft",
        "soft limit of RLIMIT_NOFILE: a new fd is below it",
        _limit("soft"),
        True,
        text=_limit_text("soft"),
        right=True,
    ),
    Column(
        "hard",
        "hard limit: the process may raise the soft limit to it",
        _limit("hard"),
        True,
        text=_limit_text("hard"),
        right=True,
    ),
    Column(
        "used",
        "share of the soft limit in use (JSON: 0 to 1); at 100% open() fails with EMFILE",
        lambda s: s.used,
        True,
        text=_percent,
        right=True,
    ),
    Column(
        "kinds",
        "how many of each kind",
        _kinds,
        True,
        text=lambda s: plain(_kinds(s)),
    ),
    Column("files", "address of the struct files_struct", lambda s: _hex(_of("files")(s))),
    Column("task", "address of the struct task_struct", lambda s: _hex(_of("task")(s))),
    Column("error", "what cannot be read", lambda s: s.error),
)


def _hex(address: int | None) -> str | None:
    return None if address is None else f"{address:#x}"
