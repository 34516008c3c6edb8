# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands: one file each.

They are imported one by one, when they are called: what all of them need takes longer to import
than most take to run.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drgn_sockets.commands.base import Command

    COMMANDS: tuple[Command, ...]

#: Names, and what each does in one line: all that help and completion want to know. A command is
#: in the module of its name, in the class of that name in capitals.
SUMMARIES = {
    "fds": "file descriptors of processes, and the sockets behind them",
    "ss": "sockets of all families, in all network namespaces, and who holds them",
    "peer": "both ends of a socket, and every process and fd that holds them",
    "tcp": "all fields of TCP sockets, one to a line, with the kernel's member names",
    "procfs": "files of /proc/net and /proc/PID as the kernel writes them, to the byte",
    "check": "compare what kernel memory says with what procfs or sock_diag says",
    "distill": "write a small core with just the memory that the other commands read",
}


@functools.lru_cache(None)
def command(name: str) -> Command:
    """The command of a name in :data:`SUMMARIES`."""
    make = getattr(import_module(f"{__name__}.{name}"), name.capitalize())
    if name == "distill":
        return make([command(other) for other in SUMMARIES if other != name])  # type: ignore[no-any-return]
    return make()  # type: ignore[no-any-return]


def __getattr__(name: str) -> Any:
    if name == "COMMANDS":
        return tuple(map(command, SUMMARIES))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
