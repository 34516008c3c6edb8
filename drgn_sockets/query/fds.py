# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which rows the words and options of ``fds`` choose.

Words of one sort are alternatives, and a row is shown if it fits one of each sort: ``fds sshd 4711
:22`` shows the sockets at port 22 of the processes called sshd and of process 4711.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from drgn_sockets.errors import UserError, nearest
from drgn_sockets.kernel.task import FileTable, Tasks
from drgn_sockets.query.processes import (
    names_process,
    tables_named,
    tables_of,
    tables_of_users,
    task_of_descriptor,
)
from drgn_sockets.query.words import Descriptor, Word, parse_inode, parse_pid, parse_word
from drgn_sockets.records.fd import FdReader, FdRecord, FileRecord, Others
from drgn_sockets.records.kinds import told_apart

#: Tells whether a row is meant.
Test = Callable[[FdRecord], bool]

#: Names that the column ``fd`` has for files that a process has otherwise than by an fd.
ASSOCIATIONS = ("cwd", "rtd", "txt", "mem", "DEL")

#: The kinds that :func:`~drgn_sockets.kernel.file.file_kind` gives on a usual machine.
KINDS = (
    *("sock", "pipe", "fifo", "reg", "dir", "chr", "blk", "lnk", "sockfile", "memfd", "ns"),
    *("eventfd", "eventpoll", "timerfd", "signalfd", "inotify", "fanotify", "pidfd", "io_uring"),
    *("userfaultfd", "perf_event", "bpf-prog", "bpf-map", "bpf_link", "btf", "landlock-ruleset"),
    *("kvm-vm", "kvm-vcpu", "vfio-device", "secretmem", "fscontext", "mount", "seccomp notify"),
    *("sync_file", "dmabuf", "iommufd", "anon_inode", "unknown"),
)


class FdQuery:
    """
    The rows that ``fds`` is asked for.

    :param tasks: All processes
    :param args: The command's arguments
    :param tell: Called with a line about a process that has no fds
    :raises UserError: if an argument makes no sense, or names a process that is not there
    """

    def __init__(self, tasks: Tasks, args: argparse.Namespace, tell: Callable[[str], None]) -> None:
        if args.summary and (args.all or args.maps):
            raise UserError("--summary counts fds alone: leave out --all and --maps")
        self._args = args
        words = [parse_word(word) for word in args.who]
        processes = [word for word in words if names_process(tasks, word)]
        files = [word for word in words if word not in processes]
        inodes = [parse_inode(text) for text in (args.inode or "").split(",") if args.inode]
        self._words = files
        #: A row has to pass all of these.
        self.tests: list[Test] = []
        #: Whether rows of directories, executables and mapped files are wanted besides fds.
        self.wants_others: bool = args.all or args.maps or args.lsof
        #: Whether a test looks at records of sockets.
        self.reads_sockets = False
        if files or inodes:
            self._want_files(tasks, [*files, *inodes])
        if args.fd is not None:
            test, has_others = fd_number_test(args.fd)
            self.tests.append(test)
            self.wants_others = self.wants_others or has_others
        #: The file tables of the processes.
        self.tables = self._tables(tasks, processes, tell)
        descriptors = [word for word in files if isinstance(word, Descriptor)]
        if descriptors and len(descriptors) == len(files) + len(inodes):
            # Other tables need not be read.
            pids = {task_of_descriptor(tasks, word).tgid for word in descriptors}
            self.tables = [table for table in self.tables if table.pid in pids]
        if args.kind is not None:
            self.tests.append(kind_test(args.kind, told_apart(), lambda: _kinds_of(tasks)))

    def _want_files(self, tasks: Tasks, words: Sequence[Word]) -> None:
        # The import takes a while, and most users ask for processes.
        from drgn_sockets.query.find import fd_test, looks_at_others, looks_at_sockets

        tests = [fd_test(tasks, word) for word in words]
        self.tests.append(lambda record: any(test(record) for test in tests))
        self.wants_others = self.wants_others or any(map(looks_at_others, words))
        self.reads_sockets = any(map(looks_at_sockets, words))

    def _tables(
        self, tasks: Tasks, words: Sequence[Word], tell: Callable[[str], None]
    ) -> list[FileTable]:
        args = self._args
        tables = tasks.tables(threads=args.threads, without=self.wants_others)
        ids = [] if args.pid is None else args.pid.split(",")
        pids = [parse_pid(text, "--command takes names") for text in ids]
        names = args.command or ()
        if words or pids or names:
            chosen = tables_of(tasks, tables, [*words, *pids], tell)
            for name in names:
                chosen += tables_named(tables, name)
            wanted = set(chosen)
            tables = [table for table in tables if table in wanted]
        if args.user is not None:
            tables = tables_of_users(tables, args.user)
        return tables

    def others(self) -> Others | None:
        """Get the reader of what processes have besides fds, if that is wanted."""
        if not self.wants_others or self._args.summary:
            return None
        from drgn_sockets.records.associated import Associated

        return Associated(each=self._args.maps, threads=self._args.threads)

    def nobody(self) -> str | None:
        """Say that no process is meant, if that is known before files are read."""
        if self._args.user is None or self.tables:
            return None
        return f"no such process of user {self._args.user}"

    def nothing(self) -> str:
        """Say that no row is what was asked for."""
        args = self._args
        asked = [
            *(word.text for word in self._words),
            *(args.inode, args.fd and f"fd {args.fd}", args.kind),
        ]
        return f"nobody holds {', '.join(filter(None, asked))}"


def _kinds_of(tasks: Tasks) -> set[str]:
    """Find the kinds of files that this machine has."""
    records = FdReader(tasks.prog).read(tasks.tables())
    return {record.file.kind for record in records if record.file is not None}


def fd_number_test(text: str) -> tuple[Test, bool]:
    """
    Make a test of what ``--fd`` takes: numbers, ranges and associations, as ``0-2,9,cwd``.

    :return: The test, and whether it passes rows that are no fds
    :raises UserError: if the text is none of these
    """
    words = set()
    ranges: list[tuple[int, int | None]] = []
    known = {name.lower(): name for name in ASSOCIATIONS}
    for item in text.split(","):
        match = re.fullmatch(r"([0-9]{1,32})(?:(-)([0-9]{0,32}))?", item.strip())
        if item.lower() in known:
            words.add(known[item.lower()])
        elif match is not None:
            first = int(match[1])
            last = first if match[2] is None else int(match[3]) if match[3] else None
            if last is not None and last < first:
                raise UserError(f"no range of fds: {item!r} ends before it begins")
            ranges.append((first, last))
        else:
            near = nearest(item, ASSOCIATIONS)
            raise UserError(
                f"no fd: {item!r}{near}; --fd takes numbers, ranges (0-2, 100-), "
                f"{', '.join(ASSOCIATIONS)}"
            )

    def test(record: FdRecord) -> bool:
        if record.assoc is not None:
            return record.assoc in words
        fd = record.fd
        return fd is not None and any(a <= fd and (b is None or fd <= b) for a, b in ranges)

    return test, bool(words)


def kind_test(
    text: str,
    told_apart: Mapping[str, Callable[[FileRecord], bool]],
    others: Callable[[], Iterable[str]],
) -> Test:
    """
    Make a test of what ``--kind`` takes: kinds of files.

    :param told_apart: Tests of further kinds, by name. Names of :data:`KINDS` come first.
    :param others: Finds the kinds that this machine has besides the usual ones, in a while.
    :raises UserError: if there is no such kind
    """
    kinds = frozenset(kind.strip() for kind in text.split(","))
    unknown = kinds - {*KINDS, *told_apart}
    if unknown:
        # A list needs one name of each kind.
        more = {name for name in told_apart if name.replace("_", "-") not in KINDS}
        here = sorted({*KINDS, *more, *others()})
        for kind in sorted(unknown - set(here)):
            raise UserError(
                f"no such kind: {kind!r}{nearest(kind, here)}; there are {', '.join(here)}"
            )
    tests = [test for name, test in told_apart.items() if name in kinds and name not in KINDS]

    def test(record: FdRecord) -> bool:
        file = record.file
        return file is not None and (file.kind in kinds or any(one(file) for one in tests))

    return test
