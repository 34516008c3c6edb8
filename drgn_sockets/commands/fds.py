# SPDX-License-Identifier: LGPL-2.1-or-later
"""``fds``: file tables."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from drgn import FaultError, Program

from drgn_sockets.commands.base import Command, Problems
from drgn_sockets.errors import UserError
from drgn_sockets.kernel.device import blkdev_name, chrdev_name, driver_name, miscdev_name
from drgn_sockets.kernel.file import flag_names, major, minor
from drgn_sockets.kernel.task import FileTable, Tasks
from drgn_sockets.records.fd import FdBatch, FdReader, FdRecord, FileRecord
from drgn_sockets.records.parts import Batch
from drgn_sockets.views.columns import Column, escaped
from drgn_sockets.views.escape import escape
from drgn_sockets.views.kinds import KINDS, Field, Kind, known_of
from drgn_sockets.views.locks import lock_words, locks_of
from drgn_sockets.views.sockets import descriptions


def _mode(r: FdRecord) -> str | None:
    file = r.file
    return None if file is None else file.access + "c" if r.cloexec else file.access


def _name_text(r: FdRecord) -> str | None:
    return None if r.file is None else _file_name_text(r.file)


def _file_name_text(file: FileRecord) -> str | None:
    name = file.name
    if name is None:
        return None
    # There is nothing to escape in what the kernel makes of a number.
    return name.decode() if file.sk else escape(name)


def _detail(r: FdRecord) -> str | None:
    if r.error is not None:
        return f"unreadable: {r.error}"
    return None if r.file is None else _file_detail(r.file)


def _file_detail(file: FileRecord) -> str | None:
    if file.sk:
        return file.socket
    known = known_of(file)
    if known is None:
        return _device_detail(file)
    if known.error is not None:
        return known.error if known.unknown else f"unreadable: {known.error}"
    return known.kind.words(known.it) or _device_detail(file)


def _device_detail(file: FileRecord) -> str | None:
    for name, find in (("misc", miscdev_name), ("driver", driver_name)):
        found = find(file.prog, file.i_mode, file.rdev)
        if found is not None:
            return f"{name}={escape(found)}"
    return None


def _driver(
    r: FdRecord, kind: str, find: Callable[[Program, int, int], bytes | None]
) -> bytes | None:
    if r.file is None or r.file.kind != kind:
        return None
    return find(r.file.prog, r.file.i_mode, r.file.rdev)


def _field(kind: Kind, field: Field) -> Column:
    """The column that has what there is to know of files of a kind."""

    # Sockets are many, and no other kind has anything of them.
    of_sockets = kind.name == "sock"

    def get(r: FdRecord) -> Any:
        if r.file is None or bool(r.file.sk) != of_sockets:
            return None
        known = known_of(r.file)
        if known is None or known.kind is not kind or known.it is None:
            return None
        return field.get(known.it)

    return Column(f"{kind.name}.{field.name}", field.help, get)


# The same of a batch of fds, column by column.


def _is_fds(texts: Callable[[FdBatch], list[Any]]) -> Callable[[Batch], list[Any] | None]:
    return lambda batch: texts(batch) if isinstance(batch, FdBatch) else None


@_is_fds
def _commands(batch: FdBatch) -> list[Any]:
    return [escaped(batch.table.comm)] * len(batch)


@_is_fds
def _pids(batch: FdBatch) -> list[Any]:
    return [batch.table.pid] * len(batch)


@_is_fds
def _tids(batch: FdBatch) -> list[Any]:
    return [batch.table.tid or "-"] * len(batch)


@_is_fds
def _fds(batch: FdBatch) -> list[Any]:
    return list(batch.fds)


@_is_fds
def _modes(batch: FdBatch) -> list[Any]:
    return [
        "-" if file is None else file.access + "c" if cloexec else file.access
        for file, cloexec in zip(batch.files, batch.cloexec)
    ]


@_is_fds
def _kinds(batch: FdBatch) -> list[Any]:
    return ["-" if file is None else file.kind for file in batch.files]


@_is_fds
def _names(batch: FdBatch) -> list[Any]:
    names = (None if file is None else _file_name_text(file) for file in batch.files)
    return ["-" if name is None else name for name in names]


@_is_fds
def _details(batch: FdBatch) -> list[Any]:
    if batch.errors():
        return [_detail(record) or "-" for record in batch.records()]
    return ["-" if file is None else _file_detail(file) or "-" for file in batch.files]


def _locks(r: FdRecord) -> list[str] | str:
    try:
        return [lock_words(lock) for lock in locks_of(r)]
    except FaultError as e:
        return f"unreadable: {e}"


def _device(dev: int | None) -> str | None:
    return None if dev is None else f"{major(dev)}:{minor(dev)}"


def _flags(r: FdRecord) -> list[str] | None:
    return None if r.flags is None else flag_names(r.flags)


_COLUMNS = (
    Column(
        "command",
        "command name of the process (or thread)",
        attrgetter("table.comm"),
        True,
        text=lambda r: escaped(r.table.comm),
        texts=_commands,
    ),
    Column(
        "pid", "process ID", attrgetter("table.pid"), True, right=True, simple=True, texts=_pids
    ),
    Column(
        "tid",
        "thread ID, if the file table is the thread's own (unshare(CLONE_FILES))",
        attrgetter("table.tid"),
        True,
        right=True,
        simple=True,
        texts=_tids,
    ),
    Column("fd", "file descriptor", attrgetter("fd"), True, right=True, simple=True, texts=_fds),
    Column(
        "mode",
        "opened to r read, w write, u both, - neither, p O_PATH; c closed by execve()",
        _mode,
        True,
        simple=True,
        texts=_modes,
    ),
    Column(
        "kind",
        "sock, pipe, fifo, reg, dir, chr, blk, memfd, ns, eventfd, eventpoll, …",
        lambda r: r.file and r.file.kind,
        True,
        simple=True,
        texts=_kinds,
    ),
    Column(
        "name",
        "name, as readlink /proc/PID/fd/N",
        lambda r: r.file and r.file.name,
        True,
        text=_name_text,
        texts=_names,
    ),
    Column(
        "detail",
        "the socket behind it, what else there is to know, or what cannot be read",
        _detail,
        True,
        simple=True,
        texts=_details,
    ),
    Column("access", "r, w, u, -, p as in mode", lambda r: r.file and r.file.access),
    Column("cloexec", "closed by execve()", attrgetter("cloexec")),
    Column("flags", "O_* flags (f_flags, and CLOEXEC of the fd)", _flags),
    Column(
        "fdinfo_flags",
        "the same in octal, as fdinfo has them",
        lambda r: None if r.flags is None else f"0{r.flags:o}",
    ),
    Column("pos", "position, bytes (f_pos)", lambda r: r.file and r.file.pos, right=True),
    Column("ino", "inode number", lambda r: r.file and r.file.ino, right=True),
    Column(
        "dev",
        "device of the file system, major:minor",
        lambda r: r.file and _device(r.file.dev),
    ),
    Column(
        "rdev",
        "device number of a device file, major:minor",
        lambda r: _device(r.file.rdev) if r.file and r.file.kind in ("chr", "blk") else None,
    ),
    Column(
        "chrdrv",
        "name of the driver of a character device, as in /proc/devices",
        lambda r: _driver(r, "chr", chrdev_name),
    ),
    Column(
        "blkdrv",
        "name of the driver of a block device, as in /proc/devices",
        lambda r: _driver(r, "blk", blkdev_name),
    ),
    Column(
        "miscdev",
        "name of a device of the driver misc, as in /proc/misc",
        lambda r: _driver(r, "chr", miscdev_name),
    ),
    Column("mnt_id", "mount ID, as in fdinfo", lambda r: r.file and r.file.mnt_id, right=True),
    Column(
        "fops",
        "symbol of the file operations (f_op), which tell the kind, or their address",
        lambda r: r.file and r.file.fops,
    ),
    Column("lock", "locks held through it: flock, posix, ofd, lease; of which bytes", _locks),
    Column("file", "address of the struct file", lambda r: f"{r.address:#x}"),
    Column(
        "sk",
        "address of the struct sock",
        lambda r: f"{r.file.sk:#x}" if r.file and r.file.sk else None,
    ),
    Column("files", "address of the struct files_struct", lambda r: f"{r.table.files:#x}"),
    Column("task", "address of the struct task_struct", lambda r: f"{r.table.task:#x}"),
    *(_field(kind, field) for kind in KINDS for field in kind.fields),
)


class Fds(Command):
    """``fds [PID|COMM …]``."""

    name = "fds"
    summary = "file descriptors of processes, and the sockets behind them"
    description = (
        "Without arguments, those of all processes. Threads that share a file table count "
        "once; a thread with a table of its own is shown with its TID."
    )
    columns = _COLUMNS

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "who", nargs="*", metavar="PID|COMM", help="process ID, or command name as it stands"
        )
        parser.add_argument("--kind", metavar="KIND,…", help="only these kinds (see --output help)")

    def run(self, prog: Program, args: argparse.Namespace) -> int:
        problems = Problems()
        tasks = Tasks(prog)
        problems.add([f"task_struct at {task:#x} cannot be read" for task in tasks.unreadable])
        tables = tasks.tables()
        if args.who:
            tables = [t for t in tables if t in set(_chosen(tasks, tables, args.who))]
        reader = FdReader(prog, descriptions if self.shows(args, "detail") else None)
        kinds = frozenset(args.kind.split(",") if args.kind else ())
        tests = [lambda r: r.file is not None and r.file.kind in kinds] if kinds else []
        self.emit_parts(prog, reader.parts(tables), args, problems, tests)
        return problems.status()

    def read_all(self, prog: Program) -> None:
        from drgn_sockets.views.procfs.fdinfo import fdinfo

        tables = Tasks(prog).tables()
        # Some columns read more of memory, when they are asked.
        for record in FdReader(prog, descriptions).read(tables):
            for column in self.columns:
                column.value(record)
            try:
                for _ in fdinfo(record):
                    pass
            except (FaultError, LookupError):
                # Others may be there.
                pass


def _chosen(tasks: Tasks, tables: list[FileTable], who: list[str]) -> list[FileTable]:
    chosen: list[FileTable] = []
    for word in who:
        comm = os.fsencode(word)
        if word.isdecimal() and word.isascii():
            found = [t for t in tables if t.pid == int(word)]
            if not found:
                _explain_pid(tasks, int(word))
        else:
            found = [t for t in tables if t.comm == comm]
            if not found:
                raise UserError(
                    f"no process is called {word!r}; fds without arguments lists all "
                    "(the kernel keeps 15 bytes of a name)"
                )
        chosen.extend(found)
    return chosen


def _explain_pid(tasks: Tasks, pid: int) -> None:
    task = tasks.by_tid.get(pid)
    if task is None:
        raise UserError(f"no process {pid}; fds without arguments lists all")
    if task.tgid != pid:
        raise UserError(f"{pid} is a thread of process {task.tgid}: fds {task.tgid}")
    # There, but with nothing to show: that is an answer.
    kind = "has exited (zombie) and" if not task.files else "has a file table but"
    print(f"drgn-sockets: process {pid} {kind} holds no file descriptors", file=sys.stderr)
