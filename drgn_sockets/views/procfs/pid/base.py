# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all files of ``/proc/PID`` have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from drgn import Program

from drgn_sockets.kernel.dcache import Namer
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.process import ProcessRecord


class PidLooker:
    """
    Looks at the processes of one program as the kernel does when somebody with all permissions,
    in the initial namespaces, reads their files.

    :param losses: Takes what cannot be read, if the rest of a file can be made without it.
    """

    def __init__(self, prog: Program, losses: Losses | None = None) -> None:
        self.prog = prog
        self.losses = Losses() if losses is None else losses
        self.namer = Namer(prog)


class PidFile:
    """
    A file of ``/proc/PID``, and of ``/proc/PID/task/TID``.

    A new file is a class derived from this one, and an entry in :data:`pid.PID_FILES`.
    """

    #: Name of the file.
    name: ClassVar[str]

    def text(self, at: PidLooker, process: ProcessRecord) -> Iterator[bytes]:
        """
        What the kernel would print, a line at a time.

        :raises FaultError: if something that it needs cannot be read
        """
        raise NotImplementedError
