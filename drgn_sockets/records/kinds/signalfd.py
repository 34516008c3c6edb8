# SPDX-License-Identifier: LGPL-2.1-or-later
"""signalfd: fs/signalfd.c."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind

_BITS = 64
_ALL = (1 << _BITS) - 1


class SignalfdCtx(Struct):
    """``struct signalfd_ctx``."""

    C_TYPE = "struct signalfd_ctx"

    # The first word: there is one, but on MIPS.
    blocked = Int("sigmask.sig[0]", help="signals that it does not take")

    @property
    def mask(self) -> int:
        """Signals that it takes, one a bit."""
        return ~self.blocked & _ALL


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


class Signalfd(Kind):
    """signalfd."""

    name = "signalfd"
    fops = ("signalfd_fops",)
    fields = (
        Field(
            "mask",
            "signals that a signalfd takes",
            lambda it: [_name(bit + 1) for bit in range(_BITS) if it.mask >> bit & 1],
        ),
    )

    def read(self, file: FileRecord) -> SignalfdCtx:
        return SignalfdCtx.layout(file.prog).read(file.private_data)

    def fdinfo(self, file: FileRecord, it: SignalfdCtx) -> Iterator[bytes]:
        """``signalfd_show_fdinfo()``"""
        yield b"sigmask:\t%016x\n" % it.mask
