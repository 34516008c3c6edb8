# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns of ``fds``: the usual ones, and those that kinds of files have."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from drgn import Program

from drgn_sockets.kernel.device import blkdev_name, chrdev_name, driver_name, miscdev_name
from drgn_sockets.kernel.fcntl import flag_names
from drgn_sockets.kernel.lost import Lost, raise_lost
from drgn_sockets.kernel.task import FileTable
from drgn_sockets.records.columns import Column
from drgn_sockets.records.ends import Ends
from drgn_sockets.records.fd import FdBatch, FdRecord, FileRecord
from drgn_sockets.records.kinds import Field, Kind, kind_with_ends, known_of
from drgn_sockets.records.names import device_text
from drgn_sockets.records.parts import Batch
from drgn_sockets.text import escape, escaped
from drgn_sockets.views.sockets import describe, holders_text

# The column "detail" names this many holders of other ends; "endpoints" names all.
_ENDS = 4


def _mode(r: FdRecord) -> str | None:
    file = r.opened
    return None if file is None else file.access + "c" if r.cloexec else file.access


def _name_text(r: FdRecord) -> str | None:
    return None if r.file is None else _file_name_text(r.file)


def _file_name_text(file: FileRecord) -> str | None:
    name = file.name
    if name is None:
        return None
    # "socket:[N]" has nothing to escape.
    return name.decode() if file.sk else escape(name)


def _detail(r: FdRecord) -> str | None:
    if r.error is not None:
        return f"unreadable: {r.error}"
    if r.file is None:
        return None
    detail = _file_detail(r.file)
    if r.opened is None or r.fd is None:
        return detail
    return _with_ends(detail, r.table, r.fd, r.file)


def _with_ends(detail: str | None, table: FileTable, fd: int, file: FileRecord) -> str | None:
    """
    Add who holds the other ends of a pipe and the like to *detail*.

    Finding them takes a walk of all file tables. On a machine with very many fds, only the column
    "endpoints" has them.
    """
    if file.sk or kind_with_ends(file.prog, file.op) is None:
        return detail
    ends = Ends.of(file)
    found = ends.endpoints(table, fd, file) if ends.are_few else None
    others = [endpoint.holder for endpoint in found or () if endpoint.is_opposite]
    if not others:
        return detail
    more = f",… ({len(others)})" if len(others) > _ENDS else ""
    return f"{detail or ''} ends={holders_text(others[:_ENDS])}{more}".lstrip()


def _endpoints(r: FdRecord) -> list[bytes] | None:
    if r.opened is None or r.fd is None:
        return None
    found = Ends.of(r.opened).endpoints(r.table, r.fd, r.opened)
    return None if found is None else [bytes(endpoint) for endpoint in found]


def _endpoints_text(r: FdRecord) -> str | None:
    return " ".join(map(escape, _endpoints(r) or ())) or None


def _file_detail(file: FileRecord) -> str | None:
    if file.sk:
        # Most have a text.
        socket = file.summary if type(file.summary) is str else file.socket
        return socket if socket is None or isinstance(socket, str) else describe(socket)
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


def kind_column(kind: Kind, field: Field) -> Column:
    """The column of a field that files of a kind have."""

    # There are many sockets, and only the kind "sock" has fields of them.
    of_sockets = kind.name == "sock"

    def get(r: FdRecord) -> Any:
        if r.file is None or bool(r.file.sk) != of_sockets:
            return None
        known = known_of(r.file)
        if known is None or known.kind is not kind or known.unknown:
            return None
        if known.it is None:
            raise_lost(r.file.lost)
        return field.get(known.it)

    return Column(f"{kind.name}.{field.name}", field.help, get)


# The texts of a column for a whole batch of fds.


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
    return [
        "-" if file is None else _with_ends(_file_detail(file), batch.table, fd, file) or "-"
        for fd, file in zip(batch.fds, batch.files)
    ]


def _pos(r: FdRecord) -> int | None:
    if r.mapping is not None:
        return r.mapping.offset
    return None if r.opened is None else r.opened.pos


def _locks(r: FdRecord) -> list[str | Lost]:
    from drgn_sockets.records.locks import lock_words, locks_of

    return [lock if isinstance(lock, Lost) else lock_words(lock) for lock in locks_of(r)]


def _flags(r: FdRecord) -> list[str] | None:
    if r.file is None or r.flags is None:
        return None
    return flag_names(r.file.prog, r.flags)


#: The usual columns, and others whose modules are imported in any case.
FDS = (
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
        "thread ID, if the thread has a file table of its own (unshare(CLONE_FILES))",
        attrgetter("table.tid"),
        True,
        right=True,
        simple=True,
        texts=_tids,
    ),
    Column(
        "fd",
        "file descriptor; cwd, rtd (root), txt (executable), mem (mapped), DEL (mapped, deleted)",
        lambda r: r.assoc or r.fd,
        True,
        right=True,
        simple=True,
        texts=_fds,
    ),
    Column(
        "mode",
        "r opened to read, w to write, u for both, - for neither, p O_PATH; c: closed by execve()",
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
        "name, as readlink /proc/PID/fd/N prints it",
        lambda r: r.file and r.file.name,
        True,
        text=_name_text,
        texts=_names,
    ),
    Column(
        "detail",
        "both ends and state of a socket; facts of other kinds; or what cannot be read",
        _detail,
        True,
        simple=True,
        texts=_details,
    ),
    Column("access", "r, w, u, - or p, as in mode", lambda r: r.opened and r.opened.access),
    Column("cloexec", "closed by execve()", lambda r: r.cloexec if r.assoc is None else None),
    Column("flags", "O_* flags: f_flags of the file, and O_CLOEXEC of the fd", _flags),
    Column(
        "fdinfo_flags",
        "flags in octal, as in fdinfo",
        lambda r: None if r.flags is None else f"0{r.flags:o}",
    ),
    Column("pos", "position in the file (f_pos), or offset of a mapping, bytes", _pos, right=True),
    Column("ino", "inode number", lambda r: r.file and r.file.ino, right=True),
    Column(
        "dev",
        "device of the file system, major:minor",
        lambda r: r.file and device_text(r.file.dev),
    ),
    Column(
        "rdev",
        "device number of a device file, major:minor",
        lambda r: device_text(r.file.rdev) if r.file and r.file.kind in ("chr", "blk") else None,
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
        "symbol or address of the file operations (f_op), which tell the kind",
        lambda r: r.file.fops if r.file and r.file.op else None,
    ),
    Column("lock", "locks held through the fd: flock, posix, ofd, lease; and their bytes", _locks),
    Column(
        "file",
        "address of the struct file",
        lambda r: f"{r.address:#x}" if r.address else None,
    ),
    Column(
        "sk",
        "address of the struct sock",
        lambda r: f"{r.file.sk:#x}" if r.file and r.file.sk else None,
    ),
    Column("files", "address of the struct files_struct", lambda r: f"{r.table.files:#x}"),
    Column("task", "address of the struct task_struct", lambda r: f"{r.table.task:#x}"),
    Column(
        "endpoints",
        "who holds the other ends of a pipe, pty, eventfd, message queue or unix socket: "
        "PID,COMMAND,FD and what it can do there: r, w",
        _endpoints,
        text=_endpoints_text,
    ),
)
