# SPDX-License-Identifier: LGPL-2.1-or-later
"""pidfd: fs/pidfs.c, and kernel/fork.c before that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn_sockets.kernel.dcache import DnameInode
from drgn_sockets.kernel.pid import Pid, upids
from drgn_sockets.kernel.symbols import symbol_name
from drgn_sockets.kernel.task import pid_task
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.text import escape

_PIDFS = "pidfs_file_operations"


class Referred(NamedTuple):
    """The process or thread that a pidfd refers to."""

    #: Its IDs, the one in the initial PID namespace first; ``[-1]`` if it is gone.
    numbers: list[int]
    comm: bytes | None


class Pidfd(Kind):
    """pidfd."""

    name = "pidfd"
    # Linux kernel commit cb12fd8e0dab ("pidfd: add pidfs") (in v6.9) gave pidfds a file system.
    fops = ("pidfd_fops", _PIDFS)
    fields = (
        Field("pid", "process that a pidfd refers to; -1 if it is gone", lambda it: it.numbers[0]),
        Field("comm", "its command name", lambda it: it.comm),
        Field("nspid", "its PIDs, by the PID namespaces that it is in", lambda it: it.numbers),
    )

    def read(self, file: FileRecord) -> Referred:
        prog = file.prog
        if symbol_name(prog, file.op) == _PIDFS:
            address = DnameInode.layout(prog).read(file.file.inode).private
        else:
            address = file.private_data
        pid = Pid.layout(prog).read(address)
        if not pid.first:
            return Referred([-1], None)
        task = pid_task(prog, pid)
        return Referred([upid.nr for upid in upids(prog, address)], task.comm if task else None)

    def fdinfo(self, file: FileRecord, it: Referred) -> Iterator[bytes]:
        """``pidfd_show_fdinfo()``, as a procfs of the initial PID namespace shows it."""
        yield b"Pid:\t%d\n" % it.numbers[0]
        yield b"NSpid:\t%b\n" % b"\t".join(b"%d" % number for number in it.numbers)

    def words(self, it: Referred) -> str:
        numbers = " ".join(map(str, it.numbers))
        return f"pid={it.numbers[0]} comm={escape(it.comm or b'')} nspid={numbers}"
