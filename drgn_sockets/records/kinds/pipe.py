# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pipes and FIFOs: fs/pipe.c."""

from __future__ import annotations

from typing import NamedTuple

from drgn import FaultError, Program, sizeof

from drgn_sockets.kernel.file import File
from drgn_sockets.kernel.lost import Lost, sift
from drgn_sockets.kernel.memory import page_shift
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, FileEnd, Kind

# No pipe has more slots.
_MAX_SLOTS = 1 << 20


class PipeInfo(Struct):
    """``struct pipe_inode_info``."""

    C_TYPE = "struct pipe_inode_info"

    head = Int("head", help="slot that is written next")
    tail = Int("tail", help="slot that is read next")
    max_usage = Int("max_usage", help="slots that may be used")
    ring_size = Int("ring_size", help="slots")
    readers = Int("readers", help="open files that read")
    writers = Int("writers", help="open files that write")
    bufs = Int("bufs", help="struct pipe_buffer *")


class _Buffer(Struct):
    C_TYPE = "struct pipe_buffer"

    len = Int("len")


class PipeRecord(NamedTuple):
    """A pipe or a FIFO."""

    pipe: PipeInfo
    #: Bytes that nobody has read, or the first buffer that cannot be read.
    unread: int | Lost
    #: The result of ``fcntl(F_GETPIPE_SZ)``, bytes.
    capacity: int


class Pipe(Kind):
    """A pipe or a FIFO."""

    name = "pipe"
    # Newer kernels have separate operations (pipeanon_fops) for pipes without a name.
    fops = ("pipefifo_fops", "pipeanon_fops")
    fields = (
        Field("unread", "bytes in a pipe", lambda it: it.unread),
        Field("capacity", "how many there may be (F_GETPIPE_SZ), bytes", lambda it: it.capacity),
        Field("readers", "open files that read a pipe", lambda it: it.pipe.readers),
        Field("writers", "open files that write it", lambda it: it.pipe.writers),
    )

    def read(self, file: FileRecord) -> PipeRecord:
        prog = file.prog
        pipe = PipeInfo.layout(prog).read(file.private_data)
        used = (pipe.head - pipe.tail) & 0xFFFFFFFF
        if pipe.ring_size > _MAX_SLOTS or used > pipe.ring_size:
            raise FaultError("more slots of a pipe than there can be", pipe.address)
        size = sizeof(prog.type("struct pipe_buffer"))
        slots = ((pipe.tail + i) & pipe.ring_size - 1 for i in range(used))
        lost: list[Lost] = []
        buffers = _Buffer.layout(prog).read_many(pipe.bufs + s * size for s in slots)
        queued = sum(buffer.len for buffer in sift(buffers, lost.append))
        unread = lost[0] if lost else queued
        return PipeRecord(pipe, unread, pipe.max_usage << page_shift(prog))

    def end(self, prog: Program, file: File) -> FileEnd:
        return FileEnd(file.private_data)
