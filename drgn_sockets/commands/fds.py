# SPDX-License-Identifier: LGPL-2.1-or-later
"""``fds``: file tables."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

from drgn import FaultError, Program

from drgn_sockets.commands.base import OK, TOLD, Command, look_at
from drgn_sockets.errors import UserError
from drgn_sockets.kernel.device import blkdev_name, chrdev_name, driver_name, miscdev_name
from drgn_sockets.kernel.file import flag_names
from drgn_sockets.kernel.task import FileTable, Tasks
from drgn_sockets.query import select
from drgn_sockets.records.columns import Column
from drgn_sockets.records.ends import Ends
from drgn_sockets.records.fd import FdBatch, FdReader, FdRecord, FileRecord
from drgn_sockets.records.kinds import Field, Kind, all_kinds, kind_with_ends, known_of, told_apart
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.names import device_text
from drgn_sockets.records.parts import Batch
from drgn_sockets.text import escape, escaped, plain
from drgn_sockets.views.sockets import describe, descriptions, holders_text

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
        socket = file.socket
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


def _field(kind: Kind, field: Field) -> Column:
    """The column of a field that files of a kind have."""

    # There are many sockets, and only the kind "sock" has fields of them.
    of_sockets = kind.name == "sock"

    def get(r: FdRecord) -> Any:
        if r.file is None or bool(r.file.sk) != of_sockets:
            return None
        known = known_of(r.file)
        if known is None or known.kind is not kind or known.it is None:
            return None
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


def _locks(r: FdRecord) -> list[str] | str:
    from drgn_sockets.records.locks import lock_words, locks_of

    lost: list[FaultError] = []
    try:
        words = [lock_words(lock) for lock in locks_of(r, lost)]
    except FaultError as e:
        return plain(e)
    return words + [plain(e) for e in lost]


def _flags(r: FdRecord) -> list[str] | None:
    return None if r.flags is None else flag_names(r.flags)


# The usual columns, and others whose modules are imported in any case.
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


class Fds(Command):
    """``fds [PID|COMM|PATH|[ADDR]:PORT|@NAME …]``."""

    name = "fds"
    description = (
        "Without a WORD it shows the fds of all processes. A WORD names processes: a process ID "
        "or a command name. Or it names what they have opened: a path (/…, ./…) of a file, a "
        "directory, an executable, a mapped file or a unix socket; the local or remote end of a "
        "socket (:443, :https, 10.0.0.1:443, [::1]:443); or an abstract unix socket (@NAME). "
        "Words of one sort are alternatives, and a row must match both sorts: 'fds sshd 4711 :22' "
        "shows the sockets of port 22 in sshd and in process 4711. --pid and --command name "
        "processes as well, --inode names files, and a row must match each of --user, --kind and "
        "--fd too. Threads that share a file table are shown once; a thread with a table of its "
        "own is shown with its TID. If nothing matches, a line on standard error says so, and the "
        "exit status is 1."
    )

    @functools.cached_property
    def columns(self) -> Sequence[Column]:
        from drgn_sockets.commands.fds_columns import LSFD

        of_kinds = (_field(kind, field) for kind in all_kinds() for field in kind.fields)
        return (*_COLUMNS, *LSFD, *of_kinds)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "who",
            nargs="*",
            metavar="WORD",
            help="process ID, command name in full, path, [ADDRESS]:PORT, or @NAME",
        )
        parser.add_argument("--pid", metavar="PID,…", help="processes with these IDs")
        parser.add_argument(
            "--command",
            action="append",
            metavar="COMM",
            help="processes with this command name",
        )
        parser.add_argument(
            "--user", metavar="USER,…", help="processes of these users, by name or ID"
        )
        parser.add_argument(
            "--inode", metavar="INO,…", help="files with these inode numbers, or MAJOR:MINOR:INO"
        )
        parser.add_argument(
            "--kind",
            metavar="KIND,…",
            help="only files of these kinds: words of the column kind, or what stands before the "
            "dot in the name of a column, such as tun",
        )
        parser.add_argument(
            "--fd",
            metavar="RANGE,…",
            help="only these fds and other files: 3, 0-2, 100-, cwd, rtd, txt, mem, DEL",
        )
        parser.add_argument(
            "--all",
            action="store_true",
            help="also the working directory (cwd), the root directory (rtd), the executable "
            "(txt), and mapped files (mem; DEL if deleted), of processes without fds as well",
        )
        parser.add_argument(
            "--maps", action="store_true", help="like --all, with a row for each mapping of a file"
        )
        parser.add_argument(
            "--threads",
            action="store_true",
            help="the fds of each thread, also if it shares its file table",
        )
        form = parser.add_mutually_exclusive_group()
        form.add_argument(
            "--lsof",
            action="store_true",
            help="the columns of lsof, and the rows of --all",
        )
        form.add_argument(
            "--summary",
            action="store_true",
            help="a row for each process: how many fds it has, of which kinds, the highest, and "
            "how much of RLIMIT_NOFILE is in use; those nearest to their limit first, the total "
            "last",
        )

    def columns_for(self, args: argparse.Namespace) -> Sequence[Column]:
        if args.lsof:
            from drgn_sockets.commands.fds_columns import LSOF

            return LSOF
        if args.summary:
            from drgn_sockets.commands.fds_summary import COLUMNS

            return COLUMNS
        return _COLUMNS if args.output is None else self.columns

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        words = [select.word(text) for text in args.who]
        files = [word.text for word in words if word.sort == "file"]
        who = [word.text for word in words if word.sort == "process"]
        wanted = select.wanted_files(prog, files, args.inode)
        tests = [select.any_of(wanted.tests)] if wanted.tests else []
        others = args.all or args.maps or args.lsof or wanted.others
        if args.fd is not None:
            test, has_others = select.of_fds(args.fd)
            tests.append(test)
            others = others or has_others
        if args.summary and (args.all or args.maps):
            raise UserError("--summary counts fds alone: leave out --all and --maps")
        tasks = Tasks(prog, losses.lose)
        tables = _tables(tasks, args, who, without=others)
        if args.user is not None and not tables:
            _tell(f"no such process of user {args.user}")
            return TOLD
        if args.kind is not None:
            tests.append(select.of_kinds(args.kind, told_apart(), lambda: _kinds_of(prog, tasks)))
        associated = None
        if others and not args.summary:
            from drgn_sockets.records.associated import Associated

            associated = Associated(each=args.maps, threads=args.threads)
        summary = _summary(args.lsof or wanted.sockets, self.shows(args, "detail"))
        reader = FdReader(prog, summary, others=associated, losses=losses)
        if args.summary:
            good = self._summarize(tables, reader, args, tests, losses)
        else:
            good = self.emit_parts(prog, reader.parts(tables), args, losses, tests)
        if tests and not good:
            asked = [*files, args.inode, args.fd and f"fd {args.fd}", args.kind]
            _tell(f"nobody holds {', '.join(filter(None, asked))}")
            return TOLD
        return OK

    def _summarize(
        self,
        tables: Sequence[FileTable],
        reader: FdReader,
        args: argparse.Namespace,
        tests: Sequence[Callable[[FdRecord], bool]],
        losses: Losses,
    ) -> int:
        from drgn_sockets.commands.fds_summary import summaries

        rows = summaries(tables, reader.read(tables), tests, losses)
        # The tables of kernel threads are empty.
        shown = [row for row in rows if row.fds or row.error or row.table is None]
        self.emit(shown, args, losses)
        return rows[-1].fds

    def read_all(self, prog: Program, losses: Losses) -> None:
        from drgn_sockets.commands.fds_columns import LSOF
        from drgn_sockets.records.associated import Associated
        from drgn_sockets.views.procfs.fdinfo import fdinfo

        tables = Tasks(prog, losses.lose).tables(threads=True, without=True)
        # Some columns read memory when they are asked for a value.
        reader = FdReader(prog, _described, others=Associated(each=True), losses=losses)
        # Columns of kinds depend on the file alone, and not on the fd.
        of_files = [column for column in self.columns if "." in column.name]
        of_fds = [column for column in (*self.columns, *LSOF) if "." not in column.name]
        seen: set[int] = set()
        for record in reader.read(tables):
            look_at(of_fds, record, losses)
            if record.file is not None and record.file.address not in seen:
                seen.add(record.file.address)
                look_at(of_files, record, losses)
            if record.assoc is not None or record.error is not None:
                continue
            try:
                for _ in fdinfo(record):
                    pass
            except LookupError:
                # The fdinfo of other fds may be readable.
                pass
            except FaultError as e:
                losses.lose(e, record.where)
        for table in tables:
            if table.process is not None:
                try:
                    _ = table.process.nofile
                except FaultError as e:
                    losses.lose(e, f"pid {table.pid}")


def _described(batch: Batch) -> Iterable[Any]:
    """Records of sockets, after reading all that their descriptions say."""
    list(descriptions(batch))
    return batch.records()


def _summary(records: bool, texts: bool) -> Callable[[Batch], Iterable[Any]] | None:
    """What a reader of fds keeps of a socket: its record, its description, or nothing."""
    if records:
        return lambda batch: batch.records()
    return descriptions if texts else None


def _tables(
    tasks: Tasks, args: argparse.Namespace, who: Sequence[str], *, without: bool
) -> list[FileTable]:
    tables = tasks.tables(threads=args.threads, without=without)
    who = [*who, *(args.pid.split(",") if args.pid is not None else ())]
    for pid in args.pid.split(",") if args.pid is not None else ():
        if not (pid.isdecimal() and pid.isascii()):
            raise UserError(f"no process ID: {pid!r}; --command takes names")
    names = args.command or ()
    if who or names:
        chosen = select.chosen_tables(tasks, tables, who, _tell)
        for name in names:
            chosen += select.named(tables, name)
        wanted = set(chosen)
        tables = [table for table in tables if table in wanted]
    if args.user is not None:
        tables = select.of_users(tables, args.user)
    return tables


def _kinds_of(prog: Program, tasks: Tasks) -> set[str]:
    records = FdReader(prog).read(tasks.tables())
    return {record.file.kind for record in records if record.file is not None}


def _tell(text: str) -> None:
    print(f"drgn-sockets: {text}", file=sys.stderr)
