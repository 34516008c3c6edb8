# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kinds of files in ``/proc/PID`` have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from drgn import Program

from drgn_sockets.kernel.dcache import Namer
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.process import ProcessRecord


class PidLooker:
    """
    Looks at processes of one program as the kernel does when their files are read, by somebody
    with all permissions who lives in the initial namespaces.

    :param losses: Takes what cannot be read and leaves a file whole otherwise.
    """

    def __init__(self, prog: Program, losses: Losses | None = None) -> None:
        self.prog = prog
        self.losses = Losses() if losses is None else losses
        self.namer = Namer(prog)


class PidFile:
    """
    A file of ``/proc/PID``, and of ``/proc/PID/task/TID``.

    To add one is to derive a class from this, and to list it in :data:`pid.PID_FILES`.
    """

    #: What it is called.
    name: ClassVar[str]

    def text(self, at: PidLooker, process: ProcessRecord) -> Iterator[bytes]:
        """
        What the kernel would print, a line at a time.

        :raises FaultError: if something that it needs cannot be read
        """
        raise NotImplementedError
