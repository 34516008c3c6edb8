# SPDX-License-Identifier: LGPL-2.1-or-later
"""``fds``: file tables."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from drgn import FaultError, Program

from drgn_sockets.commands.base import OK, TOLD, Command, look_at
from drgn_sockets.commands.fds_columns import FDS, kind_column
from drgn_sockets.kernel.task import FileTable, Tasks
from drgn_sockets.messages import tell
from drgn_sockets.query.fds import FdQuery
from drgn_sockets.records.columns import Column
from drgn_sockets.records.fd import FdReader, FdRecord
from drgn_sockets.records.kinds import all_kinds
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.parts import Batch
from drgn_sockets.views.sockets import descriptions


class Fds(Command):
    """``fds [PID|COMM|PATH|[ADDR]:PORT|@NAME …]``."""

    name = "fds"
    description = (
        "Without a WORD it shows the fds of all processes. A WORD names processes: a process ID, "
        "a command name, or the address of a task_struct. Or it names what they have opened: one "
        "fd (PID:FD); a path (/…, ./…) of a file, a directory, an executable, a mapped file or a "
        "unix socket; the local or remote end of a socket (:443, :https, 10.0.0.1:443, "
        "[::1]:443); an abstract unix socket (@NAME); a socket by its inode (socket:[21189]); or "
        "the kernel address of a file, inode or socket (0xADDRESS). "
        "Words of one sort are alternatives, and a row must match both sorts: 'fds sshd 4711 :22' "
        "shows the sockets of port 22 in sshd and in process 4711. --pid and --command name "
        "processes as well, --inode names files, and a row must match each of --user, --kind and "
        "--fd too. Threads that share a file table are shown once; a thread with a table of its "
        "own is shown with its TID. If nothing matches, a line on standard error says so, and the "
        "exit status is 1."
    )

    @functools.cached_property
    def columns(self) -> Sequence[Column]:
        from drgn_sockets.commands.fds_lsfd_columns import LSFD

        of_kinds = (kind_column(kind, field) for kind in all_kinds() for field in kind.fields)
        return (*FDS, *LSFD, *of_kinds)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "who",
            nargs="*",
            metavar="WORD",
            help="process ID, command name in full, PID:FD, path, [ADDRESS]:PORT, @NAME, "
            "socket:[INODE], or 0xADDRESS",
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
            from drgn_sockets.commands.fds_lsof_columns import LSOF

            return LSOF
        if args.summary:
            from drgn_sockets.commands.fds_summary import COLUMNS

            return COLUMNS
        return FDS if args.output is None else self.columns

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        query = FdQuery(Tasks(prog, losses.lose), args, tell)
        nobody = query.nobody()
        if nobody is not None:
            tell(nobody)
            return TOLD
        summary = _summary(args.lsof or query.reads_sockets, self.shows(args, "detail"))
        reader = FdReader(prog, summary, others=query.others(), losses=losses)
        if args.summary:
            good = self._summarize(query.tables, reader, args, query.tests, losses)
        else:
            good = self.emit_parts(prog, reader.parts(query.tables), args, losses, query.tests)
        if query.tests and not good:
            tell(query.nothing())
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
        from drgn_sockets.commands.fds_lsof_columns import LSOF
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
    _texts(batch)
    return batch.records()


def _texts(batch: Batch) -> Iterable[Any]:
    """Descriptions of sockets; records where one cannot be made: the row will say so."""
    try:
        return list(descriptions(batch))
    except FaultError:
        return batch.records()


def _summary(records: bool, texts: bool) -> Callable[[Batch], Iterable[Any]] | None:
    """What a reader of fds keeps of a socket: its record, its description, or nothing."""
    if records:
        return lambda batch: batch.records()
    return _texts if texts else None
