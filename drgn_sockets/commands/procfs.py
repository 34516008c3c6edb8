# SPDX-License-Identifier: LGPL-2.1-or-later
"""``procfs``: files of ``/proc/net`` and ``/proc/PID`` as the kernel writes them."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from drgn import FaultError, Program

from drgn_sockets.commands import procfs_pid
from drgn_sockets.commands.base import OK, Command
from drgn_sockets.commands.procfs_pid import Source
from drgn_sockets.commands.procfs_tree import write_tree
from drgn_sockets.errors import UserError, nearest
from drgn_sockets.kernel.lost import lost_by, present, there
from drgn_sockets.kernel.net import current_net, for_each_net, net_namespaces, task_net
from drgn_sockets.kernel.task import Tasks
from drgn_sockets.messages import printable
from drgn_sockets.program import is_running_kernel
from drgn_sockets.query.netns import find_net
from drgn_sockets.query.processes import task_of
from drgn_sockets.records.columns import Column
from drgn_sockets.records.fd import FdReader
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.process import read_process
from drgn_sockets.text import escape
from drgn_sockets.views.procfs import FILES, Looker
from drgn_sockets.views.procfs.fdinfo import fdinfo
from drgn_sockets.views.procfs.pid import LINKS, PID_FILES, PidLooker, link, ns_links

# PID/task/TID/net/FILE is there as well.
_PATH = re.compile(r"(?:/proc/)?(?:(?P<who>\d+|self)/(?:task/(?P<tid>\d+)/)?)?net/(?P<file>.+)")


class Line(NamedTuple):
    """A line of a file."""

    file: str
    netns: int | None
    text: bytes
    error: None = None


def _without_newline(line: Line) -> bytes:
    # A command line does not end with a newline.
    return line.text.removesuffix(b"\n")


class Procfs(Command):
    """``procfs``."""

    name = "procfs"
    description = (
        "PATH is net/FILE, PID/net/FILE, or the same with /proc before it; FILE is one of "
        f"{', '.join(FILES)}. Or it is a file of a process: {procfs_pid.THERE_ARE}. The text of a "
        "link is printed; fd and ns are lists of links, with names escaped. Times that remain "
        "are those at the moment when memory was read."
    )
    columns = (
        Column("file", "name of the file, without net/ before it", lambda line: line.file),
        Column(
            "netns",
            "inode of the network namespace of a file in net/",
            lambda line: line.netns,
            right=True,
        ),
        Column("line", "a line of the file, without the newline", _without_newline, True),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "path",
            nargs="*",
            metavar="PATH",
            help="the file to print; several are printed one after the other",
        )
        parser.add_argument(
            "--netns",
            help="the network namespace of net/FILE: its name (ip netns), its inode, or the PID of "
            "a process in it (default: our own, or the initial one of a core)",
        )
        parser.add_argument(
            "--real-pointers",
            action="store_true",
            help="print addresses as they are, also if kernel.kptr_restrict has the kernel hash or "
            "hide them",
        )

        parser.add_argument(
            "-o",
            metavar="DIR",
            dest="directory",
            help="write all files into a new directory that is laid out as /proc is, for other "
            "tools to read (PROC_ROOT=DIR ss): net/ of every network namespace, and PID/ of every "
            "process",
        )

    def read_all(self, prog: Program, losses: Losses) -> None:
        at = Looker(prog, losses=losses)
        at.read_pointer_key()
        for net in net_namespaces(prog, losses.lose):
            at.proc_net_names(net)
            for file in FILES.values():
                try:
                    for _ in file.lines(at, net):
                        pass
                except FaultError as e:
                    losses.lose(e, f"net/{file.name}")

        _read_processes(prog, losses)

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        if args.directory is not None:
            return _write_tree(prog, args, losses)
        if not args.path:
            raise UserError(f"which file? There are {_there_are('', list(FILES))}")
        at = _Lookers(prog, args, losses)
        wanted = [_find(at, path, args.netns) for path in args.path]
        # Without an option of output the bytes are those of the kernel. A terminal gets them
        # without those that it would act on.
        if args.json or args.csv or args.output is not None:
            self.emit(_lines(wanted, losses), args, losses)
        else:
            _write(line.text for line in _lines(wanted, losses))
        return OK


def _write_tree(prog: Program, args: argparse.Namespace, losses: Losses) -> int:
    if args.path or args.netns is not None:
        raise UserError("-o writes all files: leave out PATH and --netns")
    write_tree(prog, Path(args.directory), losses, real_pointers=args.real_pointers)
    return OK


class _Lookers:
    """Lookers for net/ and for PID/, each made when it is first needed."""

    def __init__(self, prog: Program, args: argparse.Namespace, losses: Losses) -> None:
        self.prog = prog
        self._losses = losses
        self._real_pointers = args.real_pointers

    @functools.cached_property
    def net(self) -> Looker:
        return Looker(self.prog, real_pointers=self._real_pointers, losses=self._losses)

    @functools.cached_property
    def pid(self) -> PidLooker:
        return PidLooker(self.prog, self._losses)


def _read_processes(prog: Program, losses: Losses) -> None:
    """Read all files of all processes, but for ``cmdline``, which is in their own memory."""
    at, tasks = PidLooker(prog, losses), Tasks(prog, losses.lose)
    for task in tasks.by_tid.values():
        for whole in (True, False) if task.pid == task.tgid else (False,):
            try:
                process = read_process(prog, task.address, whole=whole)
            except FaultError as e:
                losses.lose(e, f"process {task.tgid}")
                continue
            reads: list[Callable[[], object]] = [
                *(functools.partial(link, at, process, name) for name in LINKS),
                functools.partial(ns_links, at, process),
                *(
                    functools.partial(file.text, at, process)
                    for name, file in PID_FILES.items()
                    if name != "cmdline"
                ),
            ]
            for read in reads:
                with _telling(losses, f"process {task.tgid}"):
                    found = read()
                    if isinstance(found, Iterator):
                        list(found)
    for record in FdReader(prog, namer=at.namer, losses=losses).read(tasks.tables()):
        if record.error is None:
            with _telling(losses, record.where):
                list(fdinfo(record))


@contextlib.contextmanager
def _telling(losses: Losses, where: str) -> Iterator[None]:
    try:
        yield
    except FaultError as e:
        losses.lose(e, where)
    except LookupError:
        # This kernel has no such thing.
        pass


def _lines(wanted: list[Source], losses: Losses) -> Iterator[Line]:
    for source in wanted:
        try:
            for text in source.lines():
                yield Line(source.name, source.netns, text)
        except (FaultError, LookupError) as e:
            loss = e if isinstance(e, FaultError) else str(e)
            where = source.name
            if source.netns is not None:
                where = f"net/{source.name} of network namespace {source.netns}"
            losses.lose(loss, where)


def _write(lines: Iterator[bytes]) -> None:
    sys.stdout.flush()
    binary = getattr(sys.stdout, "buffer", None)
    if sys.stdout.isatty():
        texts = (line.decode("utf-8", "surrogateescape") for line in lines)
        sys.stdout.writelines(printable(text, keep="\n\t") for text in texts)
    elif binary is not None:
        binary.writelines(lines)
        binary.flush()
    else:
        # Something without a buffer stands in for standard output, and takes text.
        sys.stdout.writelines(map(os.fsdecode, lines))


def _find(at: _Lookers, path: str, netns: str | None) -> Source:
    """Find the file that a path names."""
    match, shown = _PATH.fullmatch(path), escape(os.fsencode(path))
    if match is None:
        return _find_of_process(at, path, netns)
    net, file = _net(at.prog, match, netns), match["file"]
    names = at.net.proc_net_names(net)
    names_there = [name for name in FILES if not names or name.encode() in names]
    if file not in names_there:
        why = "this kernel has none" if file in FILES else "not provided"
        raise UserError(f"{shown}: {why}; there are {_there_are(path, names_there)}")
    inode = there(at.net.reader.netns(net))
    return Source(file, inode, lambda: FILES[file].lines(at.net, net))


def _find_of_process(at: _Lookers, path: str, netns: str | None) -> Source:
    shown = escape(os.fsencode(path))
    resolved = path
    if re.match("(?:/proc/)?self/", path):
        if not is_running_kernel(at.prog):
            raise UserError(f"{shown}: a core or a guest has no 'self'; give a PID")
        resolved = path.replace("self", str(os.getpid()), 1)
    try:
        source = procfs_pid.find(at.pid, resolved)
    except FaultError as e:
        raise UserError(f"{shown}: {lost_by(e)}") from None
    if source is None:
        there = _there_are(path, list(FILES))
        raise UserError(f"{shown}: not provided; there are {procfs_pid.THERE_ARE}, and {there}")
    if netns is not None:
        raise UserError(f"{shown} is of no network namespace; leave out --netns")
    return source


def _there_are(path: str, files: list[str]) -> str:
    paths = [f"net/{name}" for name in files]
    return ", ".join(paths) + nearest(path, paths)


def _net(prog: Program, match: re.Match[str], netns: str | None) -> int:
    who = match["tid"] or match["who"]
    if netns is not None:
        if who is not None:
            raise UserError(f"{match[0]} is of one network namespace; leave out --netns, or {who}/")
        return find_net(prog, netns)
    if who == "self" and not is_running_kernel(prog):
        raise UserError(f"{match[0]}: a core or a guest has no 'self'; give a PID")
    if who in (None, "self"):
        return current_net(prog)
    task = task_of(prog, int(who))
    if not task.nsproxy:
        raise UserError(f"process {who} has no network namespace: it has ended (zombie)")
    nets = {net.ino: net.address for net in present(for_each_net(prog))}
    try:
        net = nets.get(task_net(prog, task.nsproxy))
    except FaultError as e:
        raise UserError(f"the network namespace of process {who}: {lost_by(e)}") from None
    if net is None:
        raise UserError(f"the network namespace of process {who} is not in the kernel's list")
    return net
