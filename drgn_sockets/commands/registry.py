# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands, a line for each: all that help, completion and the plugin need to know.

>>> from drgn_sockets.commands.registry import REGISTRY
>>> print(*(f"{entry.name}: {entry.summary}" for entry in REGISTRY), sep="\\n")
fds: file descriptors of processes, and the sockets behind them
…
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A command."""

    #: The word that calls it.
    name: str
    #: Its class, as ``MODULE:CLASS``.
    place: str
    #: What it does, in one line.
    summary: str
    #: Whether drgn's REPL has it as ``%name``. The others open a core of their own.
    in_repl: bool = True


REGISTRY = (
    Entry(
        "fds",
        "drgn_sockets.commands.fds:Fds",
        "file descriptors of processes, and the sockets behind them",
    ),
    Entry(
        "ss",
        "drgn_sockets.commands.ss:Ss",
        "sockets of all families, in all network namespaces, and who holds them",
    ),
    Entry(
        "peer",
        "drgn_sockets.commands.peer:Peer",
        "both ends of a socket, and every process and fd that holds them",
    ),
    Entry(
        "tcp",
        "drgn_sockets.commands.tcp:Tcp",
        "all fields of TCP sockets, one to a line, with the kernel's member names",
    ),
    Entry(
        "procfs",
        "drgn_sockets.commands.procfs:Procfs",
        "files of /proc/net and /proc/PID as the kernel writes them, to the byte",
    ),
    Entry(
        "check",
        "drgn_sockets.commands.check:Check",
        "compare what kernel memory says with what procfs or sock_diag says",
    ),
    Entry(
        "distill",
        "drgn_sockets.commands.distill:Distill",
        "write a small core with just the memory that the other commands read",
    ),
    Entry(
        "core-info",
        "drgn_sockets.commands.core_info:CoreInfo",
        "what a core is: kernel, machine, time, panic, format, and what is missing",
    ),
    Entry(
        "demo",
        "drgn_sockets.commands.demo:Demo",
        "a tour, on a core that comes with the package",
        in_repl=False,
    ),
)

_BY_NAME = {entry.name: entry for entry in REGISTRY}


def entry_of(name: str) -> Entry:
    """
    Get the entry of a command.

    :raises KeyError: if there is no command of that name
    """
    return _BY_NAME[name]
