# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands that are run on damaged memory, and how they are run."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

from drgn import Program

from drgn_sockets import cli
from drgn_sockets.cli import make_parser
from drgn_sockets.target import open_target

#: Exit status of a child whose command ended in a traceback.
TRACEBACK = 70
#: What prog.cache remembers of types and symbols alone. All else comes out of memory that a fault
#: may change, so that it is forgotten before a fault.
_OF_TYPES = tuple(
    f"drgn_sockets.{name}"
    for name in (
        "kernel.enums.enum_names",
        "kernel.memory.byte_order",
        "kernel.memory.pointer_size",
        "kernel.structs._layout",
        "kernel.structs.has_type",
        "kernel.symbols.",
        "target.own_types.",
    )
)


class Run(NamedTuple):
    """A command line that is run."""

    #: As the table of results has it.
    name: str
    argv: tuple[str, ...]
    #: How often it is chosen, beside the others.
    weight: float = 1
    #: Members of a row in JSON that say which row it is; none if the output is text.
    key: tuple[str, ...] = ()

    def words(self, place: Path) -> tuple[str, ...]:
        """The words, with a directory for what is written."""
        return tuple(word.replace("@", str(place)) for word in self.argv)


def runs(oracle: Path | None, client: str, peers: list[str]) -> list[Run]:
    """
    All of them.

    :param oracle: What ``check`` compares with; without it, the commands that take long are left
        out.
    :param client: ``PID:FD`` of a TCP connection
    :param peers: ``PID:FD`` of sockets with peers
    """
    fd = ("pid", "tid", "fd")
    found = [
        Run("fds", ("fds", "--json"), 5, fd),
        Run("fds", ("fds",), 1),
        Run("fds --lsof", ("fds", "--lsof", "--json"), 3, fd),
        Run("fds --lsof", ("fds", "--lsof"), 1),
        Run("ss -tuxap", ("ss", "-tuxap", "--json", "--output", "+sk"), 5, ("sk",)),
        Run("ss -tuxap", ("ss", "-tuxap"), 1),
        Run("ss -tiemop", ("ss", "-tiemop", "--json", "--output", "+sk"), 3, ("sk",)),
        Run("ss -tiemop", ("ss", "-tiemop"), 1),
        Run("ss -a", ("ss", "-a", "--json", "--output", "+sk"), 2, ("sk",)),
        Run("tcp", ("tcp", client, "--json"), 1, ("field",)),
        Run("tcp", ("tcp", client), 0.5),
    ]
    if oracle is not None:
        found.append(Run("check --procfs", ("check", "--procfs", str(oracle)), 0.6))
        found.append(Run("distill", ("distill", "-o", "@/core"), 0.1))
    found += [Run("peer", ("peer", peer, "--json"), 1, ("end",)) for peer in peers]
    for file in ("tcp", "tcp6", "udp", "unix", "raw", "netlink", "packet", "sockstat"):
        weight = 0.5 if file in ("tcp", "unix") else 0.25
        found.append(Run("procfs net/*", ("procfs", f"net/{file}", "--real-pointers"), weight))
    return found


def opened(core: Path, *options: str) -> Program:
    """Open a core, with the types of the kernel's BTF."""
    with contextlib.redirect_stderr(io.StringIO()):
        return open_target(make_parser().parse_args(["-c", str(core), *options, "ss"]))


def forget(prog: Program) -> None:
    """Forget what was read of memory, and keep what is known of types and symbols."""
    for key in list(prog.cache):
        if not str(key).startswith(_OF_TYPES):
            del prog.cache[key]


_open = cli._open


def run_here(prog: Program | None, argv: tuple[str, ...]) -> int:
    """
    Run a command line, as :func:`drgn_sockets.cli.main` does.

    :param prog: A program that is open; ``None`` to open what the command line says.
    """
    cli._open = _open if prog is None else lambda args: prog
    try:
        status = cli.main(["--jobs", "1", *argv])
        sys.stdout.flush()
    except SystemExit as e:
        status = int(e.code or 0)
    except MemoryError:
        raise
    except BaseException:
        sys.stdout.flush()
        traceback.print_exc()
        status = TRACEBACK
    return status
