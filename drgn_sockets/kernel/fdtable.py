# SPDX-License-Identifier: LGPL-2.1-or-later
"""File tables: ``struct files_struct`` and ``struct fdtable``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from drgn import FaultError, Object, Program

from drgn_sockets.kernel.lost import CANNOT_BE_READ, Lost, lost_by, or_lost, raise_lost
from drgn_sockets.kernel.memory import (
    distilled_by,
    pointer_size,
    read_bytes,
    read_pointers,
    read_sparse_pointers,
)
from drgn_sockets.kernel.moving import LOOKS
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.kernel.task import FileTable
from drgn_sockets.program import byte_order, is_live

_CHUNK = 4096
# fs/file.c: sysctl_nr_open_max, the bound that the kernel itself puts on max_fds.
_NR_OPEN_MAX = (1 << 31) - 1
# Without this limit, a table whose max_fds is overwritten would be read for very long.
_MAX_UNREADABLE_CHUNKS = 4


class FilesStruct(Struct):
    """``struct files_struct``."""

    C_TYPE = "struct files_struct"

    count = Int("count.counter", help="tasks that share it")
    fdt = Int("fdt", help="struct fdtable *")
    fdtab = Int("fdtab.max_fds", help="the table that is part of it: its number of slots")


class Fdtable(Struct):
    """``struct fdtable``."""

    C_TYPE = "struct fdtable"

    max_fds = Int("max_fds", help="number of slots")
    fd = Int("fd", help="struct file **")
    close_on_exec = Int("close_on_exec", help="bitmap of fds closed by execve()")
    open_fds = Int("open_fds", help="bitmap of fds in use")
    full_fds_bits = Int("full_fds_bits", help="bitmap of full words of open_fds")


class OpenFd(NamedTuple):
    """A used slot of a file table."""

    fd: int
    #: Address of the ``struct file``.
    file: int
    cloexec: bool


def _bitmap_bytes(prog: Program, data: bytes) -> bytes:
    # Bitmaps are arrays of longs: on a big-endian machine the bytes of each are reversed.
    if byte_order(prog) == "<":
        return data
    size = pointer_size(prog)
    return b"".join(data[i : i + size][::-1] for i in range(0, len(data), size))


class _Table(NamedTuple):
    """A file table, as far as its members agree."""

    slots: int
    #: Addresses of its bitmaps.
    open_fds: int
    close_on_exec: int
    #: Members that are wrong, with what they should be.
    wrong: list[str]


def _table(prog: Program, files: FilesStruct, fdt: Fdtable) -> _Table:
    """
    Find out how many slots a table really has, and where its bitmaps are.

    The table within ``struct files_struct`` has a slot for each bit of a long. A larger one has its
    three bitmaps side by side (``alloc_fdtable()``), so each distance between two of them gives
    ``max_fds`` once more. If one of the four members is overwritten, two of the four numbers still
    agree. If ``max_fds`` alone were believed, words far behind the array would be taken for fds.
    """
    start, middle, end = fdt.open_fds, fdt.close_on_exec, fdt.full_fds_bits
    bits = 8 * pointer_size(prog)
    places = FilesStruct.layout(prog).cls.places
    places_of_table = Fdtable.layout(prog).cls.places
    within = files.address + places["fdtab"].offset - places_of_table["max_fds"].offset
    if fdt.address == within:
        wrong = [] if fdt.max_fds == bits else [f"max_fds is {fdt.max_fds} instead of {bits}"]
        return _Table(bits, start, middle, wrong)
    told = (fdt.max_fds, (middle - start) * 8, (end - middle) * 8, (end - start) * 4)
    possible = [n for n in told if bits <= n <= _NR_OPEN_MAX and n % bits == 0]
    if possible.count(fdt.max_fds) == len(told):
        return _Table(fdt.max_fds, start, middle, [])
    slots, votes = Counter(possible).most_common(1)[0] if possible else (0, 0)
    if votes < 2:
        # Nothing says where the bitmaps are. What is read of the array is what the smallest table
        # would have.
        text = f"max_fds is {fdt.max_fds}, and its bitmaps have room for {told[1]}"
        return _Table(min([*possible, bits]), start, middle, [text])
    wrong = []
    if fdt.max_fds != slots:
        wrong.append(f"max_fds is {fdt.max_fds}, but there is room for {slots}")
    if middle - start != slots // 8:
        # The third bitmap tells which of the two is at its place.
        if end - middle == slots // 8:
            start = middle - slots // 8
            wrong.append(f"open_fds is {fdt.open_fds:#x} instead of {start:#x}")
        else:
            middle = start + slots // 8
            wrong.append(f"close_on_exec is {fdt.close_on_exec:#x} instead of {middle:#x}")
    return _Table(slots, start, middle, wrong)


class FdChunk(NamedTuple):
    """A piece of a file table."""

    #: Number of its first slot.
    start: int
    #: ``struct file *`` of each slot, 0 for those that are free or cannot be read.
    slots: Sequence[int]
    #: Address of the bitmap of fds that are closed by execve().
    close_on_exec: int

    def used(
        self, prog: Program, lose: Callable[[Lost], object]
    ) -> tuple[list[int], list[int], list[bool]]:
        """
        Its used slots: numbers of the fds, ``struct file *`` of each, whether it has CLOEXEC.

        :param lose: Called if the bitmap of fds with CLOEXEC cannot be read.
        """
        n = (len(self.slots) + 7) // 8
        bitmap = self.close_on_exec + self.start // 8
        try:
            bits = read_bytes(prog, bitmap, n, "close_on_exec of struct fdtable")
        except FaultError as e:
            lose(lost_by(e))
            bits = None
        fds = [fd for fd, file in enumerate(self.slots, self.start) if file]
        files = list(filter(None, self.slots))
        if not bits or not any(bits):
            return fds, files, [False] * len(fds)
        bits = _bitmap_bytes(prog, bits)
        cloexec = [bool(bits[i >> 3] >> (i & 7) & 1) for i, file in enumerate(self.slots) if file]
        return fds, files, cloexec


def fd_chunks(prog: Program, files: int) -> Iterator[FdChunk]:
    """
    A file table, some thousand slots at a time.

    :param files: ``struct files_struct *`` as an integer
    :raises FaultError: if the table, or a part of it, cannot be read; what could be read
        has been yielded by then
    """
    owner = FilesStruct.layout(prog).read(files)
    fdt = Fdtable.layout(prog).read(owner.fdt)
    table = _table(prog, owner, fdt)
    wrong = list(table.wrong)
    size = pointer_size(prog)
    unreadable = chunks = absent = strays = 0
    for start in range(0, table.slots, _CHUNK):
        n = min(_CHUNK, table.slots - start)
        pointers, missing = read_sparse_pointers(prog, fdt.fd + start * size, n)
        unreadable += missing
        if missing < n:
            yield FdChunk(start, pointers, table.close_on_exec)
            if not missing and not table.wrong:
                difference = _difference(prog, fdt.fd, table.open_fds, start, pointers)
                absent += max(0, difference)
                strays += max(0, -difference)
            continue
        chunks += 1
        if chunks == _MAX_UNREADABLE_CHUNKS:
            break
    if strays:
        wrong.append(f"open_fds lacks {strays} of the fds that have a file")
    # A task reserves an fd before it has the file, and may wait for the file: in accept(), or in
    # open() of a FIFO. pipe() reserves two.
    if absent > 2 * owner.count:
        wrong.append(f"{absent} of the fds that are in open_fds have no file")
    if wrong:
        raise FaultError(f"struct fdtable{CANNOT_BE_READ}: {'; '.join(wrong)}", fdt.address)
    if unreadable:
        raise FaultError("part of the array of files" + CANNOT_BE_READ, fdt.fd)


def _difference(prog: Program, array: int, open_fds: int, start: int, slots: Sequence[int]) -> int:
    """
    How many fds more the bitmap has than the array, in a piece of a table.

    :param slots: The pointers of the array, from *start* on
    :return: 0 if the bitmap is not known
    """
    # On a live kernel fds are opened and closed between the two reads: what stands for three looks
    # is a difference.
    for _ in range(LOOKS if is_live(prog) else 1):
        try:
            bits = read_bytes(prog, open_fds + start // 8, -(-len(slots) // 8), "open_fds")
            used = bin(int.from_bytes(bits or b"", "little")).count("1")
            difference = used - (len(slots) - slots.count(0))
            if not difference:
                return 0
            if is_live(prog):
                slots = read_pointers(prog, array + start * pointer_size(prog), len(slots))
        except FaultError:
            # What it has is in no row.
            return 0
    # A distilled core may have zeros in the place of the bitmap.
    return difference if distilled_by(prog) is None else max(0, difference)


class _TaskFiles(Struct):
    C_TYPE = "struct task_struct"

    tgid = Int("tgid")
    files = Int("files")


def has_table(prog: Program, table: FileTable) -> bool:
    """Whether the task of a file table still has it: an exiting one gives it up."""
    task = or_lost(_TaskFiles.layout(prog).read, table.task)
    return not isinstance(task, Lost) and task.files == table.files and task.tgid == table.pid


def table_chunks(prog: Program, table: FileTable) -> Iterator[FdChunk]:
    """
    :func:`fd_chunks` of the file table of a process.

    On a live kernel there are none if the process has given up the table by the time it was read,
    and a table that was replaced by a larger one meanwhile is read again.

    :raises FaultError: if the table, or a part of it, cannot be read
    """
    if not is_live(prog):
        yield from fd_chunks(prog, table.files)
        return
    for look in range(1, LOOKS + 1):
        chunks: list[FdChunk] = []
        error: FaultError | None = None
        try:
            fdt = FilesStruct.layout(prog).read(table.files).fdt
            chunks.extend(fd_chunks(prog, table.files))
            replaced = FilesStruct.layout(prog).read(table.files).fdt != fdt
        except FaultError as e:
            error, replaced = e, True
        if not has_table(prog, table):
            return
        if look == LOOKS or not replaced:
            yield from chunks
            if error is not None:
                raise error
            return


def chunk_now(prog: Program, table: FileTable, first: int, end: int) -> FdChunk | None:
    """
    Read some slots of a file table again, from the task that has it.

    :param first: The first slot; the chunk may begin with an earlier one.
    :param end: The slot behind the last one.
    :return: ``None`` if the process has the table no longer, or it cannot be read
    """
    if not has_table(prog, table):
        return None
    # As the bitmap of fds with CLOEXEC is read.
    first &= ~63
    try:
        fdt = Fdtable.layout(prog).read(FilesStruct.layout(prog).read(table.files).fdt)
        n = min(end, fdt.max_fds) - first
        if n <= 0:
            return None
        slots = read_pointers(prog, fdt.fd + first * pointer_size(prog), n)
    except FaultError:
        return None
    return FdChunk(first, slots, fdt.close_on_exec)


def open_fds(prog: Program, files: int) -> Iterator[OpenFd]:
    """
    The used slots of a file table in the order of fds, as ``proc_readfd_common()`` finds
    them: by the pointers, not by the bitmap, which also has fds that are about to be opened.

    :param files: ``struct files_struct *`` as an integer
    :raises FaultError: if the table, or a part of it, cannot be read; what could be read
        has been yielded by then
    """
    lost: list[Lost] = []
    for chunk in fd_chunks(prog, files):
        yield from map(OpenFd, *chunk.used(prog, lost.append))
    raise_lost(lost)


def task_open_fds(task: Object) -> Iterator[OpenFd]:
    """
    The open fds of a task.

    :param task: ``struct task_struct *``
    :raises FaultError: if its file table cannot be read
    """
    files = task.files.value_()
    if files:
        yield from open_fds(task.prog_, files)
