# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths of ``procfs`` that begin with a process."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from drgn import FaultError, Program

from drgn_sockets.errors import UserError, nearest
from drgn_sockets.kernel.lost import lost_by
from drgn_sockets.kernel.memory import distilled_by
from drgn_sockets.kernel.task import PF_KTHREAD, Process, Task, task_by_tid
from drgn_sockets.query.processes import task_of
from drgn_sockets.records.fd import FdRecord
from drgn_sockets.records.process import ProcessRecord, read_process
from drgn_sockets.text import escape
from drgn_sockets.views.procfs.fdinfo import fdinfo
from drgn_sockets.views.procfs.pid import (
    LINKS,
    NS_LINKS,
    PID_FILES,
    PidLooker,
    fd_lines,
    fds,
    link,
    ns_links,
)

_PATH = re.compile(r"(?:/proc/)?(?P<pid>\d{1,9})/(?:task/(?P<tid>\d{1,9})/)?(?P<what>.+?)/?")
_FD = re.compile(r"(?P<kind>fd|fdinfo)/(?P<fd>\d{1,10})")
# An error names this many of the processes or fds that exist.
_NAMED = 8

#: The files that are provided, as messages list them.
THERE_ARE = (
    f"PID/{{{','.join((*PID_FILES, *LINKS))}}}, PID/ns, PID/ns/{{{','.join(NS_LINKS)}}}, "
    "PID/fd, PID/fd/N, PID/fdinfo/N, and the same in PID/task/TID/"
)


class Source(NamedTuple):
    """A file that was asked for."""

    #: The path, without ``/proc/``; of a file in ``net`` its name there.
    name: str
    #: Inode of its network namespace, if it is in ``net``.
    netns: int | None
    #: Makes its lines. Raises ``FaultError`` if a structure that they are made of cannot be read.
    lines: Callable[[], Iterator[bytes]]


def find(at: PidLooker, path: str) -> Source | None:
    """
    Find the file of a process that a path names.

    :return: ``None`` if the path does not begin with a process
    :raises UserError: if there is no such process, or it has no such file
    """
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    what = match["what"]
    if not _is_provided(what):
        of = path[: match.start("what")]
        names = [*PID_FILES, *LINKS, *(f"ns/{name}" for name in NS_LINKS), "fd", "fdinfo"]
        hint = nearest(path, [f"{of}{name}" for name in names])
        raise UserError(f"{escape(os.fsencode(path))}: not provided; there are {THERE_ARE}{hint}")
    task, whole = _task(at.prog, match), match["tid"] is None
    return Source(path.removeprefix("/proc/"), None, _lines(at, task, whole, path, what))


def _is_provided(what: str) -> bool:
    names = (*PID_FILES, *LINKS, "ns", "fd", *(f"ns/{name}" for name in NS_LINKS))
    return what in names or _FD.fullmatch(what) is not None


def _task(prog: Program, match: re.Match[str]) -> Task:
    pid, tid = int(match["pid"]), match["tid"]
    task = task_of(prog, pid)
    if task.tgid != pid:
        raise UserError(
            f"{pid} is a thread of process {task.tgid}: {task.tgid}/task/{pid}/{match['what']}"
        )
    if tid is None:
        return task
    try:
        thread = task_by_tid(prog, int(tid))
    except FaultError as e:
        raise UserError(f"thread {tid} of process {pid}: {lost_by(e)}") from None
    if thread is None or thread.tgid != pid:
        raise UserError(_no_thread(prog, task, int(tid)))
    return thread


def _no_thread(prog: Program, task: Task, tid: int) -> str:
    try:
        threads = read_process(prog, task.address, whole=True).threads
    except FaultError:
        threads = []
    return f"process {task.tgid} has no thread {tid}; it has {_some([t.pid for t in threads])}"


def _some(numbers: list[int]) -> str:
    more = ", …" if len(numbers) > _NAMED else ""
    return ", ".join(map(str, numbers[:_NAMED])) + more if numbers else "none"


def _lines(
    at: PidLooker, task: Task, whole: bool, path: str, what: str
) -> Callable[[], Iterator[bytes]]:
    """
    Get what makes the lines of a file.

    :raises FaultError: if the structures of the process cannot be read
    """
    if what == "fd":
        return lambda: fd_lines(fds(at, task, whole=whole))
    match = _FD.fullmatch(what)
    if match is not None:
        record = _fd(at, task, whole, int(match["fd"]))
        make = _fd_link if match["kind"] == "fd" else fdinfo
        return functools.partial(make, record)
    process = read_process(at.prog, task.address, whole=whole)
    if what in PID_FILES:
        return functools.partial(file_lines, at, process, what)
    if what == "ns":
        return lambda: (b"%b -> %b\n" % (n.encode(), text) for n, text in ns_links(at, process))
    text = link(at, process, what) if what in LINKS else dict(ns_links(at, process)).get(what[3:])
    if text is None:
        raise UserError(f"{path}: {_why_none(process.task)}, and has none")
    return lambda: iter([text + b"\n"])


def file_lines(at: PidLooker, process: ProcessRecord, name: str) -> Iterator[bytes]:
    """
    The lines of one of :data:`PID_FILES`.

    :raises FaultError: if a structure that they are made of cannot be read
    """
    try:
        yield from PID_FILES[name].text(at, process)
    except FaultError as e:
        if name == "cmdline" and distilled_by(at.prog) is not None:
            raise FaultError("memory of processes is not in a distilled core", e.address) from None
        raise


def _why_none(task: Process) -> str:
    if task.flags & PF_KTHREAD:
        return f"{task.pid} is a thread of the kernel's"
    return f"process {task.tgid} has exited (zombie)" if not task.mm else "it is not there"


def _fd(at: PidLooker, task: Task, whole: bool, fd: int) -> FdRecord:
    open_fds = []
    for record in fds(at, task, whole=whole):
        if record.fd == fd:
            return record
        if record.fd is None:
            raise UserError(f"process {task.tgid}: {record.error}")
        open_fds.append(record.fd)
    who = f"process {task.tgid}" if whole else f"thread {task.pid}"
    raise UserError(f"{who} has no fd {fd}; it has {_some(open_fds)}")


def _fd_link(record: FdRecord) -> Iterator[bytes]:
    name = record.file.name if record.file is not None else None
    if name is None:
        raise FaultError(record.error or "name cannot be read", record.address)
    yield name + b"\n"
