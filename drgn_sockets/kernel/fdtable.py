# SPDX-License-Identifier: LGPL-2.1-or-later
"""File tables: ``struct files_struct`` and ``struct fdtable``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from drgn import FaultError, Object, Program

from drgn_sockets.kernel.lost import Lost, lost_by, untold
from drgn_sockets.kernel.memory import byte_order, pointer_size, read_bytes, read_sparse_pointers
from drgn_sockets.kernel.structs import Int, Struct

_CHUNK = 4096
# fs/file.c: sysctl_nr_open_max, the bound that the kernel itself puts on max_fds.
_NR_OPEN_MAX = 1 << 31
# include/linux/fdtable.h: BITS_PER_LONG, slots of the table within struct files_struct.
_NR_OPEN_DEFAULT = 64
# Without this limit, a table whose max_fds is overwritten would be read for very long.
_MAX_UNREADABLE_CHUNKS = 4


class FilesStruct(Struct):
    """``struct files_struct``."""

    C_TYPE = "struct files_struct"

    fdt = Int("fdt", help="struct fdtable *")


class Fdtable(Struct):
    """``struct fdtable``."""

    C_TYPE = "struct fdtable"

    max_fds = Int("max_fds", help="number of slots")
    fd = Int("fd", help="struct file **")
    close_on_exec = Int("close_on_exec", help="bitmap of fds closed by execve()")
    open_fds = Int("open_fds", help="bitmap of fds in use")


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


def _slots(fdt: Fdtable) -> int:
    """
    The number of slots that a table really has.

    A table that is larger than the one within ``struct files_struct`` has its bitmaps side by
    side (``alloc_fdtable()``), so the distance between them gives ``max_fds`` once more. If
    ``max_fds`` is overwritten, words far behind the array would be taken for fds.
    """
    by_bitmaps = (fdt.close_on_exec - fdt.open_fds) * 8
    if fdt.max_fds <= _NR_OPEN_DEFAULT or fdt.max_fds == by_bitmaps:
        return fdt.max_fds
    return by_bitmaps if 0 < by_bitmaps <= _NR_OPEN_MAX else _NR_OPEN_DEFAULT


class FdChunk(NamedTuple):
    """A piece of a file table."""

    #: Number of its first slot.
    start: int
    #: ``struct file *`` of each slot, 0 for those that are free or cannot be read.
    slots: Sequence[int]
    fdt: Fdtable

    def used(
        self, prog: Program, lose: Callable[[Lost], object] = untold
    ) -> tuple[list[int], list[int], list[bool]]:
        """
        Its used slots: numbers of the fds, ``struct file *`` of each, whether it has CLOEXEC.

        :param lose: Called if the bitmap of fds with CLOEXEC cannot be read.
        """
        n = (len(self.slots) + 7) // 8
        bitmap = self.fdt.close_on_exec + self.start // 8
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
    fdt = Fdtable.layout(prog).read(FilesStruct.layout(prog).read(files).fdt)
    size = pointer_size(prog)
    unreadable = chunks = 0
    slots = _slots(fdt)
    for start in range(0, slots, _CHUNK):
        n = min(_CHUNK, slots - start)
        pointers, missing = read_sparse_pointers(prog, fdt.fd + start * size, n)
        unreadable += missing
        if missing < n:
            yield FdChunk(start, pointers, fdt)
            continue
        chunks += 1
        if chunks == _MAX_UNREADABLE_CHUNKS:
            break
    if slots != fdt.max_fds:
        raise FaultError(f"max_fds is {fdt.max_fds}, but there is room for {slots}", fdt.address)
    if unreadable:
        raise FaultError("part of the array of files cannot be read", fdt.fd)


def open_fds(prog: Program, files: int) -> Iterator[OpenFd]:
    """
    The used slots of a file table in the order of fds, as ``proc_readfd_common()`` finds
    them: by the pointers, not by the bitmap, which also has fds that are about to be opened.

    :param files: ``struct files_struct *`` as an integer
    :raises FaultError: if the table, or a part of it, cannot be read; what could be read
        has been yielded by then
    """
    for chunk in fd_chunks(prog, files):
        yield from map(OpenFd, *chunk.used(prog))


def task_open_fds(task: Object) -> Iterator[OpenFd]:
    """
    The open fds of a task.

    :param task: ``struct task_struct *``
    :raises FaultError: if its file table cannot be read
    """
    files = task.files.value_()
    if files:
        yield from open_fds(task.prog_, files)
