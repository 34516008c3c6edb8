# SPDX-License-Identifier: LGPL-2.1-or-later
"""``demo``: a tour, or another command, on the core that comes with the package."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from drgn import Program

from drgn_sockets import demo
from drgn_sockets.commands.base import Command
from drgn_sockets.errors import UserError

_TARGET = ("-c", str(demo.CORE), "--types", "btf")


class Demo(Command):
    """``demo [COMMAND …]``."""

    name = "demo"
    description = (
        "It needs no root, no debugging symbols and no network. With a COMMAND, it runs that on "
        "the core instead: 'demo ss -tlp'."
    )
    columns = ()

    def configure(self, parser: argparse.ArgumentParser) -> None:
        # Options of output are among the words of the other command.
        self.add_arguments(parser)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "words",
            nargs=argparse.REMAINDER,
            metavar="COMMAND …",
            help="any other command, with its options",
        )

    def start(
        self,
        args: argparse.Namespace,
        open_target: Callable[[argparse.Namespace], Program],
        parse: Callable[[Sequence[str]], argparse.Namespace],
    ) -> int:
        if args.words:
            return self._run_words(args.words, open_target, parse)
        # All steps are run on one program.
        prog = open_target(parse([*_TARGET, "check"]))
        with demo.unpacked_oracle() as oracle:
            print(demo.introduction(prog, oracle), end="")
            return max(_run_step(prog, oracle, step, parse) for step in demo.tour(oracle))

    def _run_words(
        self,
        words: Sequence[str],
        open_target: Callable[[argparse.Namespace], Program],
        parse: Callable[[Sequence[str]], argparse.Namespace],
    ) -> int:
        args = parse([*_TARGET, *words])
        if args.run is self:
            raise UserError("demo runs a command on its core, and not another demo")
        with contextlib.ExitStack() as stack:
            if args.command == "check" and args.procfs is None:
                args.procfs = str(stack.enter_context(demo.unpacked_oracle()))
            status: int = args.run.start(args, open_target, parse)
            return status


def _run_step(
    prog: Program,
    oracle: Path,
    step: demo.Step,
    parse: Callable[[Sequence[str]], argparse.Namespace],
) -> int:
    print(f"\n# {step.question}\n$ drgn-sockets demo {shlex.join(step.words)}", flush=True)
    args = parse([*_TARGET, *step.words])
    if args.command == "check":
        args.procfs = str(oracle)
    status: int = args.run.execute(prog, args)
    return status
