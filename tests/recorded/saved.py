# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was saved of procfs of a recorded machine, beside ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from drgn_sockets.kernel.task import Tasks
from drgn_sockets.records.fd import FdReader, FdRecord
from drgn_sockets.records.kinds import known_of
from drgn_sockets.views.procfs.moments import fd_how
from drgn_sockets.views.procfs.pid.moments import (
    KHUGEPAGED,
    ValueChange,
    how,
    stat_fields,
    status_lines,
)

from .machine import Core


def where(core: Core, record: FdRecord) -> Path:
    """Where procfs was saved of the task that holds it."""
    table = record.table
    of_process: Path = core.oracle / str(table.pid)
    return of_process if table.tid is None else of_process / "task" / str(table.tid)


def saved(core: Core, record: FdRecord) -> bytes | None:
    """What procfs said of it."""
    path = where(core, record) / "fdinfo" / str(record.fd)
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


def without_moments(kind: str, text: bytes) -> list[bytes]:
    """Lines; of those that name a moment the name only."""
    return [
        line if fd_how(kind, name_of(line)) is None else name_of(line).encode()
        for line in text.splitlines(keepends=True)
    ]


def name_of(line: bytes) -> str:
    return line.partition(b":")[0].decode("ascii", "replace")


#: Kinds of modules whose types a kernel has not: 5.10 has no BTF of modules.
NO_TYPES = {("5.10", "tun")}


# include/linux/sched.h
PF_KTHREAD = 0x00200000


class Saved(NamedTuple):
    """A saved directory of a process or thread."""

    path: Path
    #: As procfs calls it.
    name: str
    kthread: bool
    stopped: bool


def _saved(path: Path, name: str) -> Saved:
    fields = stat_fields((path / "stat").read_bytes())
    kthread = bool(int(fields["flags"]) & PF_KTHREAD)
    return Saved(path, name, kthread, fields["state"] in b"TtZ")


def processes(core: Core) -> list[Saved]:
    """All that were saved."""
    pids = sorted(int(p.name) for p in core.oracle.iterdir() if p.name.isdecimal())
    found = [_saved(core.oracle / str(pid), str(pid)) for pid in pids if pid not in core.ended]
    assert len(found) > 100
    return found


def threads(core: Core) -> Iterator[Saved]:
    """Those with files of their own that were saved."""
    for path in core.oracle.glob("*/task/*"):
        pid, tid = path.parts[-3], path.name
        if (path / "stat").exists():
            yield _saved(path, f"{pid}/task/{tid}")


def values(file: str, text: bytes) -> dict[str, bytes]:
    if file == "stat":
        return stat_fields(text)
    return status_lines(text) if file == "status" else {file: text}


def worker(name: bytes) -> bytes:
    """The name of a worker of the kernel's without what it does; of others all."""
    match = re.match(rb"kworker/u?\d+:\d+H?(?=[-+\n]|$)", name)
    return match[0] if match else name


def differences(saved: Saved, file: str, theirs: bytes, ours: bytes) -> list[tuple[str, ...]]:
    """What differs and may not."""
    if theirs == ours:
        return []
    before, after = values(file, theirs), values(file, ours)
    if list(before) != list(after):
        return [(saved.name, file, str(theirs), str(ours))]
    wrong: list[tuple[str, ...]] = []
    for name, was in before.items():
        is_, may = after[name], how(file, name)
        if saved.stopped:
            may = ValueChange.GROWS if name in KHUGEPAGED else None
        fine = (
            was == is_
            or may is ValueChange.ANY
            or (may is ValueChange.KTHREAD and saved.kthread and worker(was) == worker(is_))
            or (may is ValueChange.GROWS and int(is_.split()[0]) > int(was.split()[0]))
        )
        if not fine:
            wrong.append((saved.name, file, name, str(was), str(is_)))
    return wrong


def saved_fds(where: Path) -> dict[int, bytes]:
    fds = {int(p.name): p for p in (where / "fd").iterdir()}
    return {fd: os.readlink(os.fsencode(p)) for fd, p in sorted(fds.items())}  # noqa: PTH115


def with_fds(core: Core) -> Iterator[tuple[str, dict[int, bytes]]]:
    for path in (*core.oracle.glob("[0-9]*"), *core.oracle.glob("[0-9]*/task/*")):
        if (path / "fd").is_dir() and int(path.name) not in core.ended:
            yield str(path.relative_to(core.oracle)), saved_fds(path)
