# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/PID/fdinfo/N`` of all processes, line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from drgn import FaultError

from drgn_sockets.kernel.task import Tasks
from drgn_sockets.records.fd import FdReader, FdRecord
from drgn_sockets.views.kinds import known_of
from drgn_sockets.views.procfs.fdinfo import fdinfo
from tests import tables

from .conftest import KERNELS, opened
from .machine import Core

#: Lines that name a moment: a time that is left, how far somebody has read who reads on.
MOMENTS = re.compile(rb"it_value: ")


def saved(core: Core, record: FdRecord) -> bytes | None:
    """What procfs said of it."""
    table = record.table
    where = core.oracle / str(table.pid)
    if table.tid is not None:
        where = where / "task" / str(table.tid)
    path: Path = where / "fdinfo" / str(record.fd)
    return path.read_bytes() if path.exists() else None


def files(core: Core) -> Iterator[tuple[FdRecord, bytes]]:
    for record in FdReader(core.prog).read(Tasks(core.prog).tables()):
        if record.fd is None or record.file is None:
            continue
        text = saved(core, record)
        if text is not None:
            yield record, text


def of_kind(record: FdRecord) -> str:
    assert record.file is not None
    known = known_of(record.file)
    return known.kind.name if known is not None else record.file.kind


def without_moments(text: bytes) -> list[bytes]:
    lines = text.splitlines()
    return [MOMENTS.match(line)[0] if MOMENTS.match(line) else line for line in lines]  # type: ignore[index]


#: Kinds whose own lines are not made yet.
NOT_YET = frozenset(
    {"chr", "eventfd", "eventpoll", "fanotify", "inotify"}
    | {"pidfd", "signalfd", "sock", "timerfd", "userfaultfd"}
)


@pytest.mark.parametrize("kernel", KERNELS)
def test_fdinfo_is_equal(kernel: str) -> None:
    core = opened(kernel, "elf")
    wrong = []
    kinds: set[str] = set()
    for record, expected in files(core):
        kind = of_kind(record)
        try:
            text = b"".join(fdinfo(record))
        except FaultError as e:
            text = str(e).encode()
        equal = without_moments(text) == without_moments(expected)
        if not equal and kind in NOT_YET:
            continue
        kinds.add(kind)
        tables.note("fdinfo", kind, kernel, 1, equal)
        if not equal:
            wrong.append(f"{record.table.pid}:{record.fd} {kind}\n{expected!r}\n{text!r}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:40])
    assert kinds >= {"sock", "reg", "dir", "pipe"}
