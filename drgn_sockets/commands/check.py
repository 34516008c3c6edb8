# SPDX-License-Identifier: LGPL-2.1-or-later
"""``check``: kernel memory against procfs, or against sock_diag."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from drgn import Program

from drgn_sockets.check import diag
from drgn_sockets.check.compare import Result, check_live, look_at_memory
from drgn_sockets.check.saved import check_saved
from drgn_sockets.commands.base import OK, TOLD, Command
from drgn_sockets.errors import UserError
from drgn_sockets.kernel.timekeeping import clock
from drgn_sockets.messages import printable
from drgn_sockets.program import is_running_kernel
from drgn_sockets.records.columns import Column
from drgn_sockets.records.losses import Losses
from drgn_sockets.views.procfs import FILES


class Check(Command):
    """``check``."""

    name = "check"
    description = (
        "On a live kernel it compares every fd of every process (name, position, flags, mount, "
        f"inode) and every line of /proc/net/{{{','.join(FILES)}}} in every network namespace. "
        "procfs is read before and after memory, and only what it says both times is judged. "
        "--procfs compares with a directory that is laid out as /proc is, and was saved shortly "
        "before a core was taken. --diag compares every attribute of every socket that sock_diag "
        "sends, which ss asks. It prints a line for each mismatch, and a summary; the exit status "
        "is 1 if there is a mismatch."
    )
    columns = (
        Column("where", "file of procfs", lambda m: m.where, True),
        Column("row", "row of the file", lambda m: m.row, True),
        Column(
            "field",
            "field of the row; none for all of it",
            lambda m: m.field or None,
            True,
        ),
        Column("procfs", "what procfs says", lambda m: m.procfs, True),
        Column("memory", "what kernel memory says", lambda m: m.memory, True),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        against = parser.add_mutually_exclusive_group()
        against.add_argument(
            "--procfs",
            metavar="DIR",
            help="compare with a saved /proc, for a core: DIR/net/tcp, DIR/PID/fd/N, …",
        )
        against.add_argument(
            "--diag",
            nargs="?",
            const="",
            metavar="FILE_OR_DIR",
            help="compare with sock_diag: with that of the live kernel, or, for a core, with saved "
            "replies (DIR/netns/INODE/diag)",
        )
        parser.add_argument(
            "--attributes",
            action="store_true",
            help="with --diag: show how often each attribute was compared, and how often it was "
            "equal, instead of mismatches",
        )
        parser.add_argument(
            "--moved",
            action="store_true",
            help="also list what changed between the two looks at procfs, and is not judged",
        )

    def read_all(self, prog: Program, losses: Losses) -> None:
        look_at_memory(prog, losses)
        clock(prog)
        diag.read_all(prog, losses)

    def columns_for(self, args: argparse.Namespace) -> Sequence[Column]:
        if args.attributes:
            return _ATTRIBUTE_COLUMNS
        return self.columns if args.diag is None else _DIAG_COLUMNS

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        if args.attributes and args.diag is None:
            raise UserError("--attributes goes with --diag")
        if args.diag is not None:
            return self._diag(prog, args, losses)
        if args.procfs is not None:
            root = Path(args.procfs)
            if not root.is_dir():
                raise UserError(f"no such directory: {args.procfs}")
            if not (root / "net").is_dir() and not any(p.name.isdecimal() for p in root.iterdir()):
                raise UserError(
                    f"{args.procfs} is not laid out as /proc is: it has neither net/ nor PID/"
                )
            result = check_saved(prog, args.procfs, losses)
        elif is_running_kernel(prog):
            result = check_live(prog, losses=losses)
        else:
            raise UserError(
                "a core or a guest has no procfs here: give one that was saved with --procfs DIR"
            )
        shown = result.mismatches + (result.moved if args.moved else [])
        if shown:
            self.emit(shown, args, losses)
        summarize(result, losses, to_stderr=args.json or args.csv)
        return TOLD if result.mismatches else OK

    def _diag(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        if args.diag:
            result = diag.check_saved(prog, args.diag, losses)
        elif is_running_kernel(prog):
            result = diag.check_live(prog, losses=losses)
        else:
            raise UserError(
                "a core or a guest has no sock_diag here: give replies that were saved with "
                "--diag FILE_OR_DIR"
            )
        shown = result.mismatches + (result.moved if args.moved else [])
        if args.attributes:
            self.emit(result.attributes.values(), args, losses)
        elif shown:
            self.emit(shown, args, losses)
        out = sys.stderr if args.json or args.csv else sys.stdout
        for name, sockets in sorted(result.rows.items()):
            out.write(f"{name:16} {sockets:7} sockets compared\n")
        for line in result.left_out:
            out.write(f"not compared: {printable(line)}\n")
        out.write(_not_read(losses))
        out.write(
            f"{sum(result.rows.values())} sockets, {result.fields} attributes compared, "
            f"{result.equal} equal; {len(result.moved)} moved between looks; "
            f"{len(result.mismatches)} mismatches\n"
        )
        return TOLD if result.mismatches else OK


_DIAG_COLUMNS = (
    Column("where", "family of the socket, and its network namespace", lambda m: m.where, True),
    Column("row", "which socket", lambda m: m.row, True),
    Column(
        "field",
        "attribute and member; none for the socket as a whole",
        lambda m: m.field or None,
        True,
    ),
    Column("sock_diag", "what sock_diag says", lambda m: m.procfs, True),
    Column("memory", "what kernel memory says", lambda m: m.memory, True),
)
_ATTRIBUTE_COLUMNS = (
    Column(
        "attribute",
        "attribute, or structure at the beginning of a message",
        lambda c: c.name,
        True,
    ),
    Column("compared", "how often it was compared", lambda c: c.compared, True),
    Column("equal", "how often it was equal", lambda c: c.equal, True),
)


def _not_read(losses: Losses) -> str:
    lost = losses.count()
    return f"not compared: what could not be read, {lost} times\n" if lost else ""


def summarize(result: Result, losses: Losses, *, to_stderr: bool = False) -> None:
    """Print what was compared, and what was not."""
    out = sys.stderr if to_stderr else sys.stdout
    for file, rows in sorted(result.rows.items()):
        out.write(f"{printable(file):16} {rows:7} rows compared\n")
    for line in result.left_out:
        out.write(f"not compared: {printable(line)}\n")
    out.write(_not_read(losses))
    total = sum(result.rows.values())
    out.write(
        f"{total} rows, {result.fields} fields compared, {result.addresses} rows by their kernel "
        f"address; {len(result.moved)} moved between looks; {len(result.mismatches)} mismatches\n"
    )
