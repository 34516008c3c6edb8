# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/PID/fd``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drgn import FaultError

from drgn_sockets.kernel.task import FileTable, Task
from drgn_sockets.records.fd import FdReader, FdRecord
from drgn_sockets.text import escape
from drgn_sockets.views.procfs.pid.base import PidLooker


def fds(at: PidLooker, task: Task, *, whole: bool) -> Iterator[FdRecord]:
    """
    Read the fds of a task, in their order.

    :param whole: Read the file table of the process, and not that of the thread.
    :return: Iterator of records. A record without a number says that other fds cannot be read.
    """
    if task.files:
        tid = None if whole else task.pid
        table = FileTable(task.tgid, tid, task.comm, task.files, task.address)
        yield from FdReader(at.prog, namer=at.namer, losses=at.losses).read([table])


def fd_lines(records: Iterable[FdRecord]) -> Iterator[bytes]:
    """
    Write ``fd/`` as text: lines ``N -> NAME``, with names escaped.

    The line of an fd whose name cannot be read is ``N unreadable: WHY``.

    :raises FaultError: after the last line, if a name could not be read
    """
    lost: FdRecord | None = None
    for record in records:
        name = record.file.name if record.file is not None else None
        if record.fd is None:
            raise FaultError(record.error or "file table", record.address)
        if name is None:
            lost = lost or record
            yield f"{record.fd} unreadable: {record.error}\n".encode()
        else:
            yield f"{record.fd} -> {escape(name)}\n".encode("utf-8", "surrogateescape")
    if lost is not None:
        raise FaultError(f"fd {lost.fd} and maybe others cannot be read", lost.address)
