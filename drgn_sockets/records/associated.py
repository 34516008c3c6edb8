# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that a process has besides its fds: directories, its executable, mapped files."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping

from drgn import FaultError

from drgn_sockets.kernel.dcache import FsStruct
from drgn_sockets.kernel.file import file_user_path
from drgn_sockets.kernel.lost import Lost, sift
from drgn_sockets.kernel.memory import page_shift
from drgn_sockets.kernel.mm import Mm
from drgn_sockets.kernel.task import FileTable, TaskFacts
from drgn_sockets.kernel.vma import VM_EXEC, VM_MAYSHARE, VM_READ, VM_WRITE, mappings
from drgn_sockets.kernel.vma import Mapping as Vma
from drgn_sockets.records.fd import FdReader, FdRecord, FileRecord, Found, Mapped, Others
from drgn_sockets.records.losses import in_words

_DELETED = b" (deleted)"
_Files = Mapping[int, "FileRecord | None"]


class Associated(Others):
    """
    Finds the working and root directory, the executable and the mapped files of a process.

    :param each: Make a row for each mapping, as in ``/proc/PID/maps``; by default there is a row
        for each mapped file.
    :param threads: Repeat the executable and the mapped files of the process for each of its
        threads. By default they are shown for the process, or, if its first thread has exited,
        for the thread that stands in for it.
    """

    def __init__(self, *, each: bool = False, threads: bool = False) -> None:
        self._each = each
        self._threads = threads

    def find(self, reader: FdReader, table: FileTable) -> tuple[set[int], Found]:
        process = table.process
        rows = list(_directories(reader, table)) if process is not None else []
        exe, vmas = 0, list[Vma]()
        if process is not None and (self._threads or table.tid is None or table.stands_in):
            try:
                exe, vmas = self._memory(process, table, rows)
            except FaultError as e:
                rows.append(_lost(table, "mem", e.address, f"memory: {in_words(e)}"))
        files = {vma.file for vma in vmas} | {exe}
        return files, functools.partial(self._rows, reader, table, rows, exe, vmas)

    def _memory(
        self, process: TaskFacts, table: FileTable, rows: list[FdRecord]
    ) -> tuple[int, list[Vma]]:
        task = process.task
        if not task.mm or process.is_kthread:
            return 0, []
        unreadable: list[Lost] = []
        vmas = list(sift(mappings(process.prog, task.mm), unreadable.append))
        if unreadable:
            more = f" ({len(unreadable)} such)" if len(unreadable) > 1 else ""
            rows.append(_lost(table, "mem", task.mm, f"memory: {unreadable[0]}{more}"))
        return Mm.layout(process.prog).read(task.mm).exe_file, vmas

    def _rows(
        self,
        reader: FdReader,
        table: FileTable,
        rows: list[FdRecord],
        exe: int,
        vmas: list[Vma],
        files: _Files,
    ) -> list[FdRecord]:
        if exe:
            rows.append(_row(table, "txt", exe, files.get(exe), None))
        shift = page_shift(reader.prog)
        shown = {vma.file: _as_shown(reader, files.get(vma.file)) for vma in vmas}
        if self._each:
            for vma in vmas:
                rows.append(_row(table, "mem", vma.file, shown[vma.file], _mapped([vma], shift)))
            return rows
        by_file: dict[object, list[Vma]] = {}
        for vma in vmas:
            by_file.setdefault(_identity(vma.file, shown[vma.file]), []).append(vma)
        # Like lsof, show the executable once, as txt.
        by_file.pop(_identity(exe, files.get(exe)), None)
        for some in by_file.values():
            address = some[0].file
            rows.append(_row(table, "mem", address, shown[address], _mapped(some, shift)))
        return rows


def _directories(reader: FdReader, table: FileTable) -> Iterator[FdRecord]:
    assert table.process is not None
    try:
        task = table.process.task
        if not task.fs:
            # The process has exited.
            return
        fs = FsStruct.layout(reader.prog).read(task.fs)
    except FaultError as e:
        yield _lost(table, "cwd", e.address, in_words(e))
        return
    for assoc, mnt, dentry in (
        ("cwd", fs.pwd_mnt, fs.pwd_dentry),
        ("rtd", fs.root_mnt, fs.root_dentry),
    ):
        file = reader.at_path(mnt, dentry)
        yield FdRecord(table, None, False, file, 0, file.error, assoc)


def _lost(table: FileTable, assoc: str, address: int, error: str) -> FdRecord:
    return FdRecord(table, None, False, None, address, error, assoc)


def _row(
    table: FileTable, assoc: str, address: int, file: FileRecord | None, mapping: Mapped | None
) -> FdRecord:
    error = file.error if file is not None else str(Lost("struct file", address))
    if assoc == "mem" and file is not None and (file.name or b"").endswith(_DELETED):
        assoc = "DEL"
    return FdRecord(table, None, False, file, address, error, assoc, mapping)


def _identity(address: int, file: FileRecord | None) -> object:
    if file is None or file.inode is None:
        return address
    return file.inode.sb, file.inode.ino


def _mapped(vmas: Iterable[Vma], shift: int) -> Mapped:
    vmas = list(vmas)
    flags = functools.reduce(lambda flags, vma: flags | vma.flags, vmas, 0)
    access = "".join(
        letter if flags & bit else "-"
        for letter, bit in (("r", VM_READ), ("w", VM_WRITE), ("x", VM_EXEC))
    )
    pages = sum(vma.end - vma.start >> shift for vma in vmas)
    first = vmas[0]
    return Mapped(first.start, pages, access, bool(flags & VM_MAYSHARE), first.pgoff << shift)


def _as_shown(reader: FdReader, file: FileRecord | None) -> FileRecord | None:
    """
    The file that procfs shows for a mapped file, as ``file_user_path()`` and
    ``file_user_inode()``. Mapping a file of an overlay maps a file of a lower file system;
    procfs shows the path in the overlay.
    """
    if file is None:
        return None
    try:
        path = file_user_path(reader.prog, file.file)
    except FaultError as e:
        # Show the path in the lower file system instead.
        reader.losses.lose(e, f"path of the struct file at {file.address:#x}")
        return file
    return file if path is None else reader.at_path(*path)
