# SPDX-License-Identifier: LGPL-2.1-or-later
"""userfaultfd: fs/userfaultfd.c."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from drgn import Program, offsetof

from drgn_sockets.kernel.lists import list_for_each
from drgn_sockets.kernel.lost import Lost, or_lost, there, unbroken
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind

# include/uapi/linux/userfaultfd.h: UFFD_API, and the bits of UFFD_API_IOCTLS |
# UFFD_API_RANGE_IOCTLS that all kernels have: _REGISTER, _UNREGISTER, _WAKE, _COPY, _ZEROPAGE,
# _API.
_UFFD_API = 0xAA
_IOCTLS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 0x3F
# Bits that were added later. A kernel has the bit if it has the type of the ioctl's argument.
_LATER = (
    # 63b2d4174c4a ("userfaultfd: wp: add the writeprotect API to userfaultfd ioctl") (in v5.7)
    (1 << 6, "struct uffdio_writeprotect"),
    # f619147104c8 ("userfaultfd: add UFFDIO_CONTINUE ioctl") (in v5.13)
    (1 << 7, "struct uffdio_continue"),
    # fc71884a5f59 ("mm: userfaultfd: add new UFFDIO_POISON ioctl") (in v6.6)
    (1 << 8, "struct uffdio_poison"),
    # adef440691ba ("userfaultfd: UFFDIO_MOVE uABI") (in v6.8)
    (1 << 5, "struct uffdio_move"),
)


class UserfaultfdCtx(Struct):
    """``struct userfaultfd_ctx``."""

    C_TYPE = "struct userfaultfd_ctx"

    features = Int("features", help="UFFD_FEATURE_* flags")


class Faults(NamedTuple):
    """A userfaultfd, and the numbers of its faults."""

    ctx: UserfaultfdCtx
    #: Faults that nobody has read yet, or why the number is not known.
    pending: int | Lost
    #: Faults that nobody has resolved yet, or why the number is not known.
    total: int | Lost


def _ioctls(prog: Program) -> int:
    ioctls = _IOCTLS
    for bit, type_ in _LATER:
        try:
            prog.type(type_)
        except LookupError:
            continue
        ioctls |= bit
    return ioctls


class Userfaultfd(Kind):
    """userfaultfd."""

    name = "userfaultfd"
    fops = ("userfaultfd_fops",)
    fields = (
        Field("pending", "faults that a userfaultfd has not told yet", attrgetter("pending")),
        Field("total", "those, and the ones that nobody has resolved", attrgetter("total")),
        Field("features", "UFFD_FEATURE_* flags", lambda it: f"{it.ctx.features:#x}"),
    )

    def read(self, file: FileRecord) -> Faults:
        prog, address = file.prog, file.private_data
        ctx = UserfaultfdCtx.layout(prog).read(address)
        type_ = prog.type("struct userfaultfd_ctx")

        def waiting(queue: str) -> int:
            head = address + offsetof(type_, f"{queue}.head")
            return sum(1 for _ in unbroken(list_for_each(prog, head)))

        pending, told = (or_lost(waiting, queue) for queue in ("fault_pending_wqh", "fault_wqh"))
        if isinstance(pending, Lost):
            return Faults(ctx, pending, pending)
        return Faults(ctx, pending, told if isinstance(told, Lost) else pending + told)

    def fdinfo(self, file: FileRecord, it: Faults) -> Iterator[bytes]:
        """``userfaultfd_show_fdinfo()``"""
        for name, count in ((b"pending", it.pending), (b"total", it.total)):
            yield b"%b:\t%d\n" % (name, there(count))
        yield b"API:\t%x:%x:%x\n" % (_UFFD_API, it.ctx.features, _ioctls(file.prog))
