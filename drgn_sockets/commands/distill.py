# SPDX-License-Identifier: LGPL-2.1-or-later
"""``distill``: a core with just the memory that the commands read."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from drgn import FaultError, Object, Program
from drgn.helpers.linux.fs import d_path, for_each_file
from drgn.helpers.linux.net import for_each_net
from drgn.helpers.linux.pid import for_each_task

from drgn_sockets.commands import command
from drgn_sockets.commands.base import OK, Command
from drgn_sockets.commands.registry import REGISTRY
from drgn_sockets.errors import UserError
from drgn_sockets.kernel.file import socket_file_ops
from drgn_sockets.kernel.memory import DISTILLED, read_exactly
from drgn_sockets.kernel.skb import read_payload
from drgn_sockets.kernel.sock import Sock
from drgn_sockets.messages import tell
from drgn_sockets.program import byte_order
from drgn_sockets.records.columns import Column
from drgn_sockets.records.holders import Holders
from drgn_sockets.records.losses import Losses
from drgn_sockets.records.reader import for_each_socket, readable
from drgn_sockets.target.kdump import write_kdump
from drgn_sockets.target.new_file import check_writable, written_beside
from drgn_sockets.target.recorder import Recorder
from drgn_sockets.version import package_version

_MAX_WALK = 1 << 20


class Distilled(NamedTuple):
    """A core that was written."""

    file: bytes
    size: int
    pages: int
    kept: int
    payload: bool


class Distill(Command):
    """``distill -o FILE``."""

    name = "distill"
    description = (
        "The file is a kdump-compressed core that drgn opens, with the kernel's types and "
        "symbols in it. The other commands print the same on it as on the kernel or core that it "
        "was made from. It has no memory of processes, no page cache, and no payload of sockets; "
        "pages are zeroed outside the structures that the commands read. It does have what the "
        "commands show: names of files, processes and sockets, and addresses. On a running kernel "
        "each page is of the moment when it was first read."
    )
    columns = (
        Column("file", "the file written", lambda d: d.file, True),
        Column("size", "its size, bytes", lambda d: d.size, True, right=True),
        Column("pages", "pages of memory in it", lambda d: d.pages, True, right=True),
        Column("kept", "bytes in these that are not zero", lambda d: d.kept, True, right=True),
        Column("payload", "whether the data queued in sockets is in it", lambda d: d.payload, True),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "-o", metavar="FILE", dest="file", required=True, help="the core file to write"
        )
        parser.add_argument(
            "--with-payload",
            action="store_true",
            help="keep the data queued in sockets, sent and not yet received, which is user data",
        )

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        path = Path(args.file)
        core = getattr(args, "core", None)
        if core is not None and path.exists() and path.samefile(core):
            raise UserError(f"{path} is the core that is read; give another file with -o")
        real = check_writable(path)
        recorder = Recorder(prog, DISTILLED + package_version())
        self._read_all(recorder, losses, payload=args.with_payload)
        with _progress("writing"), written_beside(real) as file:
            size = _write(file, recorder)
            _verify(path, file, recorder)
        kept = sum(len(page) - page.count(0) for page in recorder.kept.values())
        done = Distilled(os.fsencode(path), size, len(recorder.kept), kept, args.with_payload)
        self.emit([done], args, losses)
        return OK

    def _read_all(self, recorder: Recorder, losses: Losses, *, payload: bool) -> None:
        prog = recorder.program
        files = recorder.load_types()
        if files:
            tell(
                "this kernel's memory lacks some of its types or symbols; to open the new core, "
                f"{', '.join(files)} is needed as well"
            )
        read_exactly(prog)
        steps: list[tuple[str, Callable[[Program, Losses], object]]] = [
            (entry.name, command(entry.name).read_all)
            for entry in REGISTRY
            if entry.in_repl and entry.name != self.name
        ]
        steps.append(("drgn", _read_for_drgn))
        if payload:
            steps.append(
                (
                    "payload",
                    lambda prog, losses: read_payload(prog, _sks(prog, losses), losses.lose),
                )
            )
        for name, read in steps:
            try:
                with _progress(f"reading for {name}"):
                    read(prog, losses)
            except (FaultError, LookupError, ValueError) as e:
                # That command will fail on the new core as well; the others may not.
                losses.lose(f"not all that {name} reads is there: {e}")


def _read_for_drgn(prog: Program, losses: Losses) -> None:
    """Read what scripts for drgn walk: modules, network namespaces, and files with their paths."""
    # drgn's walk of a list that loops does not end.
    for _ in islice(prog.loaded_modules(), _MAX_WALK):
        pass
    for _ in islice(for_each_net(prog), _MAX_WALK):
        pass
    sockets = socket_file_ops(prog)
    seen = set()
    for task in for_each_task(prog):
        try:
            task.comm.read_()
            for _, file in for_each_file(task):
                if file.value_() not in seen and file.f_op.value_() != sockets:
                    try:
                        d_path(file.f_path)
                    except (FaultError, ValueError) as e:
                        losses.lose(f"path of the struct file at {file.value_():#x}: {e}")
                seen.add(file.value_())
        except FaultError as e:
            losses.lose(e, f"struct task_struct at {task.value_():#x}")
    prog["init_task"].comm.read_()
    # It says which build the kernel is.
    prog.read_c_string(prog.symbol("linux_banner").address, max_size=512)


def _sks(prog: Program, losses: Losses) -> Iterator[Object]:
    walk = for_each_socket(prog, holders=Holders(prog, losses=losses), losses=losses)
    for record in readable(walk, losses):
        if isinstance(record.sock, Sock):
            yield Object(prog, f"{record.sock.C_TYPE} *", record.sk)


def _write(file: BinaryIO, recorder: Recorder) -> int:
    prog = recorder.program
    name = prog["init_uts_ns"].name
    fields = ("sysname", "nodename", "release", "version", "machine", "domainname")
    utsname = [name.member_(field).string_() for field in fields]
    return write_kdump(
        file,
        cast("dict[int, bytes]", recorder.kept),
        page_size=recorder.page_size,
        byte_order=byte_order(prog),
        utsname=utsname,
        vmcoreinfo=recorder.vmcoreinfo,
    )


def _verify(path: Path, file: BinaryIO, recorder: Recorder) -> None:
    """
    Read back the file through libkdumpfile.

    :param path: Its name, for an error
    :raises UserError: if a page is not the one that was to be written
    """
    file.flush()
    prog = Program()
    try:
        # drgn closes the descriptor that it is given.
        prog.set_core_dump(os.dup(file.fileno()))
        for frame, page in recorder.kept.items():
            if prog.read(frame * recorder.page_size, recorder.page_size, physical=True) != page:
                raise ValueError(f"page frame {frame:#x} is another")
    except (ValueError, FaultError, OSError) as e:
        raise UserError(f"{path} cannot be read back: {e}") from None


@contextlib.contextmanager
def _progress(what: str) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    print(f"\r\x1b[K{what} …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
