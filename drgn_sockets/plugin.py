# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ``drgn.plugins`` entry point: the commands as ``%name`` in drgn's REPL, and types from the
kernel's own BTF where there are no debugging symbols.

drgn imports this in every session, so what the commands need is imported when one is called.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

import drgn.commands
from drgn import Program, ProgramFlags
from drgn.commands import DEFAULT_COMMAND_NAMESPACE, CommandError

from drgn_sockets.commands import command
from drgn_sockets.commands.registry import REGISTRY, entry_of
from drgn_sockets.messages import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drgn.commands import ParsedCommand

    from drgn_sockets.commands.base import Command


class _Parser(argparse.ArgumentParser):
    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise CommandError((message or "").rstrip("\n"))

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{self.prog}: {printable(message)} (%{self.prog} --help tells more)")


class _Plugged:
    """One of our commands as drgn's REPL wants it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _command(self) -> Command:
        return command(self._name)

    def _parser(self) -> argparse.ArgumentParser:
        own = self._command()
        parser = _Parser(prog=self._name, description=own.summary + ". " + own.description)
        own.configure(parser)
        return parser

    def description(self) -> str:
        return entry_of(self._name).summary

    def format_usage(self) -> str:
        return self._parser().format_usage().removeprefix("usage: ").rstrip()

    def format_help(self, *, indent: str = "") -> str:
        import textwrap

        return textwrap.indent(self._parser().format_help(), indent).rstrip()

    def enabled(self, prog: Program) -> bool:
        return bool(prog.flags & ProgramFlags.IS_LINUX_KERNEL)

    def parse(self, source: str, /) -> ParsedCommand[Sequence[str]]:
        return drgn.commands.parse_shell_command(source)

    def run(self, prog: Program, name: str, args: Sequence[str] | str, /, **kwargs: Any) -> None:
        from drgn_sockets.errors import UserError

        if isinstance(args, str):
            # drgn before 0.1 has no parse(), and leaves redirections and pipes to commands.
            with drgn.commands._shell_command(args) as parsed:  # type: ignore[attr-defined]
                self.run(prog, name, parsed.args)
            return
        if "-h" in args or "--help" in args:
            print(self._parser().format_help(), end="")
            return
        try:
            self._command().execute(prog, self._parser().parse_args(args))
        except UserError as e:
            raise CommandError(printable(str(e))) from None


def drgn_prog_set(prog: Program) -> None:
    """Give a kernel without debugging symbols its own types: drgn calls this."""
    if prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        from drgn_sockets.target.own_types import OwnTypes

        OwnTypes.of(prog).stand_in()


for _entry in REGISTRY:
    if _entry.in_repl:
        DEFAULT_COMMAND_NAMESPACE.register(_entry.name, _Plugged(_entry.name))
