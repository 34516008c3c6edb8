# SPDX-License-Identifier: LGPL-2.1-or-later
"""``procfs``: files of ``/proc/net`` as the kernel writes them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Program, ProgramFlags

from drgn_sockets.commands.base import Command, Problems
from drgn_sockets.errors import UserError, nearest
from drgn_sockets.kernel.net import current_net, net_namespaces, task_net
from drgn_sockets.kernel.procdir import proc_net_names
from drgn_sockets.kernel.task import task_by_tid
from drgn_sockets.records.netns import find_net
from drgn_sockets.views.columns import Column
from drgn_sockets.views.escape import escape
from drgn_sockets.views.procfs import FILES, Looker

# PID/task/TID/net/FILE is there as well.
_PATH = re.compile(r"(?:/proc/)?(?:(?P<who>\d+|self)/(?:task/(?P<tid>\d+)/)?)?net/(?P<file>.+)")


class Line(NamedTuple):
    """A line of a file."""

    file: str
    netns: int
    text: bytes
    error: None = None


class Procfs(Command):
    """``procfs``."""

    name = "procfs"
    summary = "files of /proc/net as the kernel writes them, to the byte"
    description = (
        "PATH is net/FILE, PID/net/FILE, or the same with /proc before it; FILE is one of "
        f"{', '.join(FILES)}. Times that are left are of the moment when memory was read."
    )
    columns = (
        Column("file", "name of the file", lambda line: line.file),
        Column("netns", "inode of its network namespace", lambda line: line.netns, right=True),
        Column("line", "a line of it, without the newline", lambda line: line.text[:-1], True),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("path", nargs="*", metavar="PATH", help="a file; several one by one")
        parser.add_argument(
            "--netns",
            help="of this network namespace: its name (ip netns), its inode, or the PID of a "
            "process in it (default: the initial one of a core, our own here)",
        )
        parser.add_argument(
            "--real-pointers",
            action="store_true",
            help="print addresses also where kernel.kptr_restrict has the kernel hash or hide them",
        )

    def read_all(self, prog: Program) -> None:
        at = Looker(prog)
        at.read_pointer_key()
        for net in net_namespaces(prog):
            proc_net_names(at.net_object(net))
            for file in FILES.values():
                try:
                    for _ in file.lines(at, net):
                        pass
                except FaultError:
                    # Others may be there.
                    pass

    def run(self, prog: Program, args: argparse.Namespace) -> int:
        if not args.path:
            raise UserError(f"which file? There are {_there_are('', list(FILES))}")
        at = Looker(prog, real_pointers=args.real_pointers)
        wanted = [_find(at, path, args.netns) for path in args.path]
        problems = Problems()
        # As text it is the kernel's: bytes, whatever is in them.
        if args.json or args.csv or args.output is not None:
            self.emit(_lines(at, wanted, problems), args)
        else:
            _write(line.text for line in _lines(at, wanted, problems))
        problems.add(at.problems)
        return problems.status()


def _lines(at: Looker, wanted: list[tuple[str, int]], problems: Problems) -> Iterator[Line]:
    for file, net in wanted:
        netns = at.reader.netns(net)
        try:
            for text in FILES[file].lines(at, net):
                yield Line(file, netns, text)
        except FaultError as e:
            problems.add([f"net/{file} of network namespace {netns}: {e}"])


def _write(lines: Iterator[bytes]) -> None:
    sys.stdout.flush()
    binary = getattr(sys.stdout, "buffer", None)
    if binary is not None:
        binary.writelines(lines)
        binary.flush()
    else:
        # Whoever took its place takes text.
        sys.stdout.writelines(map(os.fsdecode, lines))


def _find(at: Looker, path: str, netns: str | None) -> tuple[str, int]:
    """Which file of which ``struct net *`` is meant."""
    match, shown = _PATH.fullmatch(path), escape(os.fsencode(path))
    if match is None:
        raise UserError(f"{shown}: not provided; there are {_there_are(path, list(FILES))}")
    net, file = _net(at.prog, match, netns), match["file"]
    names = proc_net_names(at.net_object(net))
    there = [name for name in FILES if not names or name.encode() in names]
    if file not in there:
        why = "this kernel has none" if file in FILES else "not provided"
        raise UserError(f"{shown}: {why}; there are {_there_are(path, there)}")
    return file, net


def _there_are(path: str, files: list[str]) -> str:
    paths = [f"net/{name}" for name in files]
    return ", ".join(paths) + nearest(path, paths)


def _net(prog: Program, match: re.Match[str], netns: str | None) -> int:
    who = match["tid"] or match["who"]
    if netns is not None:
        if who is not None:
            raise UserError(f"{match[0]} is of one network namespace; leave out --netns, or {who}/")
        return find_net(prog, netns)
    live = prog.flags & ProgramFlags.IS_LIVE and prog.flags & ProgramFlags.IS_LOCAL
    if who == "self" and not live:
        raise UserError(f"{match[0]}: nobody is 'self' here; give a PID")
    if who in (None, "self"):
        return current_net(prog)
    task = task_by_tid(prog, int(who))
    if task is None:
        raise UserError(f"no process {who}; fds lists all")
    nets = {ns.ino: net for net, ns in net_namespaces(prog).items()}
    net = nets.get(task_net(prog, task.nsproxy))
    if net is None:
        raise UserError(f"process {who} has no network namespace: it has ended, or is damaged")
    return net
