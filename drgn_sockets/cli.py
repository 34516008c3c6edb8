# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-sockets``: open a target, run a command."""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from drgn import FaultError, ObjectNotFoundError, Program

from drgn_sockets import stdout
from drgn_sockets.commands import command as command_of
from drgn_sockets.commands.registry import REGISTRY
from drgn_sockets.errors import UserError
from drgn_sockets.messages import log_to_stderr, printable, tell
from drgn_sockets.target import add_target_arguments, open_target
from drgn_sockets.target.plugins import leave_out
from drgn_sockets.version import package_version

_TOLD = 1
_USAGE_ERROR = 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # One line, without the usage, also if an argument has newlines.
        self.exit(_USAGE_ERROR, f"{self.prog}: {printable(message)} (--help tells more)\n")


class _CommandParser(_Parser):
    """
    The parser of a command.

    The command is imported and adds its arguments when the parser is first used; or, for tools that
    look at parsers, at once (*eager*).
    """

    def __init__(self, *, command: str, eager: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._command: str | None = command
        self._intermixed = False
        if eager:
            self._configure()

    def _configure(self) -> None:
        if self._command is None:
            return
        own = command_of(self._command)
        self._command = None
        self.description = f"{own.summary[0].upper()}{own.summary[1:]}. {own.description}"
        own.configure(self)
        self.set_defaults(run=own)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._configure()
        found, rest = super().parse_known_args(args, namespace)
        if rest and not self._intermixed:
            # Words may stand on both sides of an option. That takes longer to parse, and a command
            # whose words are REMAINDER cannot have it (TypeError).
            self._intermixed = True
            with contextlib.suppress(TypeError):
                found, rest = self.parse_known_intermixed_args(args)
            self._intermixed = False
        return found, rest


class _Version(argparse.Action):
    # argparse's own action needs the version when the parser is made. Finding the version imports
    # importlib.metadata, which takes 12 ms.
    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        print(f"drgn-sockets {package_version()}")
        parser.exit()


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 64")
    return int(text)


def make_parser(*, eager: bool = False) -> argparse.ArgumentParser:
    """
    Make the parser of the whole command line.

    :param eager: Import all commands, and add their options at once. Otherwise a command is
        imported when its parser is used, which saves 75 ms of CPU time.
    """
    parser = _Parser(
        prog="drgn-sockets",
        description="Socket and file-descriptor debugger for Linux kernels: live, from a core "
        "dump, or of a QEMU guest.",
        epilog="Exit status: 0 done; 1 done, but with something to tell (a mismatch, rows that "
        "could not be read); 2 could not start.",
    )
    add_target_arguments(parser)
    parser.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="processes that read a large table of a core at the same time (default: as many as "
        "processors, at most 4; 1 on a live kernel)",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error", "critical"],
        default="error",
        help="drgn's messages of at least this level go to standard error (default: error)",
    )
    subparsers = parser.add_subparsers(
        dest="command",
        metavar="COMMAND",
        required=True,
        parser_class=_CommandParser,
    )
    for entry in REGISTRY:
        subparsers.add_parser(entry.name, help=entry.summary, command=entry.name, eager=eager)
    return parser


def full_parser() -> argparse.ArgumentParser:
    """
    Make a parser with the options of all commands.

    It is for tools that make man pages, completions and manuals of a function's parser::

        argparse-manpage --module drgn_sockets.cli --function full_parser
        shtab --shell bash drgn_sockets.cli.full_parser
    """
    return make_parser(eager=True)


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    :return: Exit status
    """
    # Records form no cycles, and the process ends soon. Looking for cycles among very many records
    # took a quarter of the time of a large table.
    gc.disable()
    if argv is None:
        # Only in a process of our own: drgn loads plugins once, for all programs.
        leave_out()
    # Ctrl-C ends the process at once: there is nothing to undo. KeyboardInterrupt would wait until
    # drgn has loaded symbols, and a callback of C code would print it and go on.
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    stdout.prepare(replace=argv is None)
    try:
        args = make_parser().parse_args(argv)
    except SystemExit:
        stdout.flush()
        raise
    log_to_stderr(args.log_level)
    try:
        status: int = args.run.start(args, _open, _parse)
        if getattr(args, "incomplete", False):
            status = status or _TOLD
        sys.stdout.flush()
    except UserError as e:
        stdout.flush()
        tell(str(e))
        return _USAGE_ERROR
    except BrokenPipeError:
        # The reader of the pipe is gone (| head).
        stdout.drop()
        return 0
    except FaultError as e:
        # Types or symbols cannot be read: there was no command to run yet.
        stdout.flush()
        tell(f"cannot go on: {e}; memory is damaged, or the core is cut short")
        return _USAGE_ERROR
    except (LookupError, AttributeError) as e:
        if not _is_about_types(e):
            raise
        stdout.flush()
        tell(
            f"cannot go on: {e}; the kernel's types or symbols are damaged, or drgn-sockets does "
            "not know this kernel; its vmlinux with -s may help"
        )
        return _USAGE_ERROR
    except OSError as e:
        stdout.flush()
        tell(f"cannot go on: {e.strerror or e}")
        return _USAGE_ERROR
    except KeyboardInterrupt:
        return 130
    except Exception as e:
        # drgn before 0.3 makes a plain Exception of an error that a type finder raised.
        if type(e) is not Exception or not str(e).startswith("BtfError: "):
            raise
        stdout.flush()
        tell(str(e).removeprefix("BtfError: "))
        return _USAGE_ERROR
    return status


def run() -> NoReturn:
    """Run the command line, and end the process: for the entry point of the package alone."""
    status = main()
    if sys.stderr is not None:
        sys.stderr.flush()
    # Python would free all records one by one, which takes as long as a good part of the work.
    os._exit(status)


def _is_about_types(e: Exception) -> bool:
    # Errors of drgn, which tell of types and symbols. Python's own are bugs of ours.
    return type(e) in (LookupError, ObjectNotFoundError) or "' has no member '" in str(e)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    return make_parser().parse_args(words)


def _open(args: argparse.Namespace) -> Program:
    prog = open_target(args)
    if args.qemu is not None:
        # QEMU answers one process on a QMP socket.
        args.jobs = 1
    return prog


if __name__ == "__main__":
    sys.exit(main())
