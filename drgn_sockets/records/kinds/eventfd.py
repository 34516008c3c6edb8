# SPDX-License-Identifier: LGPL-2.1-or-later
"""eventfd: fs/eventfd.c."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from drgn import Program

from drgn_sockets.kernel.file import File
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, FileEnd, Kind

# include/uapi/linux/eventfd.h
_EFD_SEMAPHORE = 1


def _has_semaphore(prog: Program) -> bool:
    """
    Whether the kernel writes the line ``eventfd-semaphore:``.

    Linux kernel commit 33d8b5d7824c ("eventfd: show the EFD_SEMAPHORE flag in fdinfo") (in v6.5)
    changed no type. Commit 0718afd47f70 ("block: introduce holder ops") of the same version added
    ``struct blk_holder_ops``.
    """
    try:
        prog.type("struct blk_holder_ops")
    except LookupError:
        return False
    return True


class EventfdCtx(Struct):
    """``struct eventfd_ctx``."""

    C_TYPE = "struct eventfd_ctx"

    count = Int("count", help="what read() would give")
    flags = Int("flags", help="EFD_* flags")
    id = Int("id", help="the same in all fds of it")


class Eventfd(Kind):
    """eventfd."""

    name = "eventfd"
    fops = ("eventfd_fops",)
    ends_have_modes = False
    fields = (
        Field("id", "ID of an eventfd, the same in all its fds", attrgetter("id")),
        Field("count", "count of an eventfd", attrgetter("count")),
        Field(
            "semaphore",
            "whether read() takes 1 from the count of an eventfd, or all (EFD_SEMAPHORE)",
            lambda it: bool(it.flags & _EFD_SEMAPHORE),
        ),
    )

    def read(self, file: FileRecord) -> EventfdCtx:
        return EventfdCtx.layout(file.prog).read(file.private_data)

    def end(self, prog: Program, file: File) -> FileEnd:
        return FileEnd(file.private_data)

    def fdinfo(self, file: FileRecord, it: EventfdCtx) -> Iterator[bytes]:
        """``eventfd_show_fdinfo()``"""
        yield b"eventfd-count: %16x\n" % it.count
        yield b"eventfd-id: %d\n" % it.id
        if _has_semaphore(file.prog):
            yield b"eventfd-semaphore: %d\n" % bool(it.flags & _EFD_SEMAPHORE)
