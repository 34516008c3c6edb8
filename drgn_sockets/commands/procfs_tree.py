# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``procfs -o DIR``: a directory laid out as ``/proc`` is, as far as tools that list sockets and
files read that.

* ``netns/INODE/net/``: ``/proc/net`` of each network namespace; ``net`` and ``PID/net`` are
  symbolic links to it.
* ``PID/``: the files and links of a process, ``ns/``, ``fd/`` with symbolic links whose text is
  the name, byte for byte, and ``fdinfo/``. A name that cannot be a symbolic link's is an entry in
  ``PID/fd.json``: ``{"57": {"link": TEXT}}``, made by ``os.fsdecode``, or ``{"57": {"error":
  TEXT}}`` where it cannot be read.
* ``PID/task/TID/``: likewise; ``fd`` and ``fdinfo`` are symbolic links to those of the process
  where the thread shares its table, or to those of the thread that it shares one with.
* ``uptime``, the moment that all of this is of.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from drgn import FaultError, Program

from drgn_sockets.commands.procfs_pid import file_lines
from drgn_sockets.kernel.memory import distilled_by
from drgn_sockets.kernel.net import current_net, net_namespaces, task_net
from drgn_sockets.kernel.task import FileTable, Task, Tasks
from drgn_sockets.records.fd import FdReader, FdRecord
from drgn_sockets.records.losses import Losses, in_words
from drgn_sockets.records.process import read_process
from drgn_sockets.target.new_file import directory_beside
from drgn_sockets.views.procfs import FILES, Looker
from drgn_sockets.views.procfs.fdinfo import fdinfo
from drgn_sockets.views.procfs.pid import LINKS, PID_FILES, PidLooker, link, ns_links

# The longest text of a symbolic link: PATH_MAX without the NUL (include/uapi/linux/limits.h).
_SYMLINK_MAX = 4095
# O_EXCL: no file is written twice.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# How many bytes are written at once, and of how many files the lines are remembered.
_PIECE = 1 << 16


def write_tree(prog: Program, path: Path, losses: Losses, *, real_pointers: bool) -> None:
    """
    Write the tree.

    :param losses: Takes what cannot be read.
    :raises UserError: if it cannot be written; nothing is left of it then
    """
    with directory_beside(path) as root, _directory(root) as top:
        tree = _Tree(prog, losses, real_pointers=real_pointers)
        tree.write_net(root, top)
        tree.write_processes(top)
        tree.tell_of_command_lines()
        uptime = tree.net.clock.uptime_s()
        _write(top, "uptime", [b"%.2f 0.00\n" % uptime])


class _Tree:
    """One run."""

    def __init__(self, prog: Program, losses: Losses, *, real_pointers: bool) -> None:
        self.prog = prog
        self.losses = losses
        self.net = Looker(prog, real_pointers=real_pointers, losses=losses)
        self.pid = PidLooker(prog, losses)
        self.tasks = Tasks(prog, losses.lose)
        self._namespaces = {ns.ino for ns in net_namespaces(prog, losses.lose).values()}
        self._no_cmdline = distilled_by(prog) is not None
        # Processes whose command line cannot be read, and why the first cannot.
        self._silent: dict[int, FaultError] = {}
        # Many processes inherit the same file: its lines are made once.
        self._fdinfo: dict[tuple[int, bool, int], bytes] = {}

    def write_net(self, root: Path, top: int) -> None:
        """``/proc/net`` of each network namespace."""
        for net, namespace in net_namespaces(self.prog, self.losses.lose).items():
            names = self.net.proc_net_names(net)
            directory = root / "netns" / str(namespace.ino) / "net"
            try:
                directory.mkdir(parents=True)
            except FileExistsError:
                # Memory is damaged: an inode belongs to one namespace.
                self.losses.lose(
                    f"net/ of struct net at {net:#x} is left out: its inode {namespace.ino} is "
                    "that of another network namespace"
                )
                continue
            with _directory(directory) as fd:
                for name, file in FILES.items():
                    if not names or name.encode() in names:
                        where = f"net/{name} of network namespace {namespace.ino}"
                        self._file(fd, name, file.lines(self.net, net), where)
        own = self.net.reader.netns(current_net(self.prog))
        os.symlink(f"netns/{own}/net", "net", dir_fd=top)

    def write_processes(self, top: int) -> None:
        """``PID/`` of all processes: first their files, then the fds of all file tables."""
        threads: dict[int, list[Task]] = {}
        for task in self.tasks.by_tid.values():
            threads.setdefault(task.tgid, []).append(task)
        for pid, tasks in threads.items():
            with _directory(str(pid), top, make=True) as fd:
                self._process(fd, pid, tasks)
        tables = self.tasks.tables()
        for table, records in _by_table(
            FdReader(self.prog, namer=self.pid.namer, losses=self.losses), tables
        ):
            where = f"{table.pid}" if table.tid is None else f"{table.pid}/task/{table.tid}"
            with _directory(where, top) as fd:
                self._fds(fd, where, records)

    def tell_of_command_lines(self) -> None:
        """
        Tell once of command lines that cannot be read: they are in memory of the processes, which
        many cores lack.
        """
        if self._silent:
            pid, error = next(iter(self._silent.items()))
            count = "one process" if len(self._silent) == 1 else f"{len(self._silent)} processes"
            self.losses.lose(
                f"cmdline of {count} is left out (makedumpfile -d 8 and more leaves out memory of "
                f"processes); that of {pid}: {in_words(error)}"
            )

    def _process(self, directory: int, pid: int, tasks: list[Task]) -> None:
        leader = self.tasks.by_tid.get(pid)
        if leader is not None:
            self._task(directory, str(pid), leader, whole=True)
            ino = 0
            with self._telling(f"{pid}/net"):
                ino = task_net(self.prog, leader.nsproxy) if leader.nsproxy else 0
            if ino in self._namespaces:
                os.symlink(f"../netns/{ino}/net", "net", dir_fd=directory)
        for kind in ("fd", "fdinfo"):
            os.mkdir(kind, dir_fd=directory)
        # Where fd/ of each file table is, as seen from task/TID/.
        tables = {leader.files: "../.."} if leader is not None else {}
        with _directory("task", directory, make=True) as inside:
            for task in tasks:
                with _directory(str(task.pid), inside, make=True) as fd:
                    self._task(fd, f"{pid}/task/{task.pid}", task, whole=False)
                    where = tables.setdefault(task.files, f"../{task.pid}")
                    for kind in ("fd", "fdinfo"):
                        if where == f"../{task.pid}":
                            os.mkdir(kind, dir_fd=fd)
                        else:
                            os.symlink(f"{where}/{kind}", kind, dir_fd=fd)

    def _task(self, directory: int, where: str, task: Task, *, whole: bool) -> None:
        try:
            process = read_process(self.prog, task.address, whole=whole)
        except FaultError as e:
            self.losses.lose(e, where)
            return
        for name in PID_FILES:
            if name == "cmdline" and self._no_cmdline:
                continue
            lines = file_lines(self.pid, process, name)
            if name == "cmdline":
                try:
                    self._new_file(directory, name, lines)
                except FaultError as e:
                    self._silent.setdefault(task.tgid, e)
                continue
            self._file(directory, name, lines, f"{where}/{name}")
        for name in LINKS:
            with self._telling(f"{where}/{name}"):
                _symlink(directory, name, link(self.pid, process, name))
        with _directory("ns", directory, make=True) as ns, self._telling(f"{where}/ns"):
            for name, text in ns_links(self.pid, process):
                _symlink(ns, name, text)

    def _fds(self, directory: int, where: str, records: Iterable[FdRecord]) -> None:
        rest: dict[str, dict[str, str]] = {}
        with _directory("fd", directory) as fds, _directory("fdinfo", directory) as infos:
            for record in records:
                if record.fd is None:
                    self.losses.lose(record.error or "", f"{where}/fd")
                    continue
                name = record.file.name if record.file is not None else None
                if record.error is not None:
                    self.losses.lose(record.error, f"{where}/fd/{record.fd}")
                if name is None:
                    rest[str(record.fd)] = {"error": record.error or "cannot be read"}
                elif not 0 < len(name) <= _SYMLINK_MAX or b"\0" in name:
                    rest[str(record.fd)] = {"link": os.fsdecode(name)}
                else:
                    os.symlink(name, b"%d" % record.fd, dir_fd=fds)
                self._info(infos, where, record)
        if rest:
            _write(directory, "fd.json", [json.dumps(rest).encode() + b"\n"])

    def _info(self, directory: int, where: str, record: FdRecord) -> None:
        # Locks depend on the file table. Sockets have no locks.
        of = 0 if record.file is None or record.file.sk else record.table.files
        key = (record.address, record.cloexec, of)
        text = self._fdinfo.get(key)
        if text is None:
            lines: list[bytes] = []
            try:
                for line in fdinfo(record):
                    lines.append(line)
            except LookupError as e:
                self.losses.remark(f"fdinfo has no more than what each file has, {e}")
            except FaultError as e:
                if record.error is None:
                    self.losses.lose(e, f"{where}/fdinfo/{record.fd}")
                return
            text = b"".join(lines)
            if len(self._fdinfo) > _PIECE:
                self._fdinfo.clear()
            self._fdinfo[key] = text
        _write(directory, str(record.fd), [text])

    def _file(self, directory: int, name: str, lines: Iterator[bytes], where: str) -> None:
        """Write a file; if it cannot be read, leave none."""
        with self._telling(where):
            self._new_file(directory, name, lines)

    @staticmethod
    def _new_file(directory: int, name: str, lines: Iterator[bytes]) -> None:
        try:
            _write(directory, name, lines)
        except FaultError:
            os.unlink(name, dir_fd=directory)
            raise

    @contextlib.contextmanager
    def _telling(self, where: str) -> Iterator[None]:
        try:
            yield
        except FaultError as e:
            self.losses.lose(e, where)
        except LookupError as e:
            self.losses.lose(str(e), where)


def _by_table(
    reader: FdReader, tables: Iterable[FileTable]
) -> Iterator[tuple[FileTable, Iterator[FdRecord]]]:
    """Read fds, grouped by their file tables."""
    records = reader.read(tables)
    yield from itertools.groupby(records, key=lambda record: record.table)


@contextlib.contextmanager
def _directory(name: Path | str, parent: int | None = None, *, make: bool = False) -> Iterator[int]:
    if make:
        os.mkdir(name, dir_fd=parent)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _write(directory: int, name: str, lines: Iterable[bytes]) -> None:
    fd = os.open(name, _NEW, 0o644, dir_fd=directory)
    try:
        waiting: list[bytes] = []
        size = 0
        for line in lines:
            waiting.append(line)
            size += len(line)
            if size >= _PIECE:
                _write_all(fd, b"".join(waiting))
                waiting, size = [], 0
        _write_all(fd, b"".join(waiting))
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _symlink(directory: int, name: str, text: bytes | None) -> None:
    # fd.json has no place for cwd, root and exe: a text that is too long is left out.
    if text is not None and 0 < len(text) <= _SYMLINK_MAX:
        os.symlink(text, name.encode(), dir_fd=directory)
