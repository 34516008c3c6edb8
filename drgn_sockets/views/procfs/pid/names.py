# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/PID/{comm,cmdline}``."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_sockets.records.process import ProcessRecord
from drgn_sockets.views.procfs.pid.base import PidFile, PidLooker


class CommFile(PidFile):
    """``comm_show()``"""

    name = "comm"

    def text(self, at: PidLooker, process: ProcessRecord) -> Iterator[bytes]:
        yield process.name + b"\n"


class CmdlineFile(PidFile):
    """``proc_pid_cmdline_read()``; it is in memory of the process, which a core may lack."""

    name = "cmdline"

    def text(self, at: PidLooker, process: ProcessRecord) -> Iterator[bytes]:
        if process.mm is not None:
            yield process.cmdline()
