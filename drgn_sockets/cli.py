# SPDX-License-Identifier: LGPL-2.1-or-later
"""``drgn-sockets``: open a target, run a command."""

from __future__ import annotations

# signal makes enumerations of what this has, which takes as long as to parse all options.
import _signal as signal  # type: ignore[import-not-found]
import argparse
import contextlib
import functools
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from drgn import FaultError, ObjectNotFoundError, Program

from drgn_sockets import package_version, stdout
from drgn_sockets.commands import SUMMARIES, command
from drgn_sockets.errors import UserError
from drgn_sockets.target import add_target_arguments, open_target
from drgn_sockets.target.plugins import leave_out

if TYPE_CHECKING:
    from pathlib import Path

    from drgn_sockets.demo import Step

_USAGE_ERROR = 2


class _HelpFormatter(argparse.HelpFormatter):
    """One is made for each argument that is added, and the usual one imports shutil for that."""

    def __init__(self, prog: str) -> None:
        try:
            # As shutil.get_terminal_size() has it.
            width = int(os.environ.get("COLUMNS", 0))
            if width <= 0 and sys.__stdout__ is not None:
                width = os.get_terminal_size(sys.__stdout__.fileno()).columns
        except (ValueError, OSError):
            width = 0
        super().__init__(prog, width=(width if width > 0 else 80) - 2)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        # One line, not the usage as well, whatever was typed.
        message = " ".join(message.splitlines())
        self.exit(_USAGE_ERROR, f"{self.prog}: {message} (--help tells more)\n")


class _CommandParser:
    """Stands for the parser of a command, which is imported and asked when it is called."""

    def __init__(self, *, configure: Callable[[argparse.ArgumentParser], None], **kwargs: Any):
        self._configure = configure
        self._kwargs = kwargs

    def parse_known_args(self, args: Any, namespace: Any) -> Any:
        parser = _Parser(**self._kwargs)
        self._configure(parser)
        found, rest = parser.parse_known_args(args, namespace)
        if rest:
            # Words may stand on both sides of an option, which takes a while to parse; not of a
            # command that takes all the rest as it is.
            with contextlib.suppress(TypeError):
                found, rest = parser.parse_known_intermixed_args(args)
        return found, rest


def _configure_command(parser: argparse.ArgumentParser, *, name: str) -> None:
    own = command(name)
    parser.description = f"{own.summary[0].upper()}{own.summary[1:]}. {own.description}"
    own.configure(parser)
    parser.set_defaults(run=own)


def _configure_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "A tour, on a core that comes with the package: no root, no debugging symbols and no "
        "network needed. With a command, runs that on the core."
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND …")
    parser.set_defaults(run=None)


class _Version(argparse.Action):
    # The usual one wants to know it whenever a parser is made, which takes a while.
    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        print(f"drgn-sockets {package_version()}")
        parser.exit()


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 64")
    return int(text)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
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
    subparsers = parser.add_subparsers(  # type: ignore[type-var]
        dest="command",
        metavar="COMMAND",
        required=True,
        # Its default is made as a usage is, which takes longer than all the rest.
        prog=parser.prog,
        parser_class=_CommandParser,
    )
    for name, summary in SUMMARIES.items():
        configure = functools.partial(_configure_command, name=name)
        subparsers.add_parser(name, help=summary, configure=configure)
    summary = "a tour, on a core that comes with the package"
    subparsers.add_parser("demo", help=summary, configure=_configure_demo)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    :return: Exit status
    """
    # Records hold no cycles, there are very many of them, and the process ends soon: looking
    # for garbage among them took a quarter of the time of a large table.
    gc.disable()
    if argv is None:
        # In a process that is all ours: drgn decides once, for all programs.
        leave_out()
        # There are no translations of our own; and to look for those of argparse, which has none
        # either, takes as long as to make the parser.
        vars(argparse)["_"] = str
    # There is nothing to undo: die of Ctrl-C at once. As an exception it waits for drgn to load
    # symbols, and in a callback of C code it is printed and lost.
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    stdout.prepare(replace=argv is None)
    try:
        args = make_parser().parse_args(argv)
    except SystemExit:
        stdout.flush()
        raise
    logging.basicConfig(
        format="drgn-sockets: %(levelname)s: %(message)s", level=args.log_level.upper()
    )
    try:
        status = _run(args)
        sys.stdout.flush()
    except UserError as e:
        stdout.flush()
        print(f"drgn-sockets: {e}", file=sys.stderr)
        return _USAGE_ERROR
    except BrokenPipeError:
        # Nobody reads on (| head).
        stdout.drop()
        return 0
    except FaultError as e:
        # What everything else hangs on is not there.
        stdout.flush()
        print(f"drgn-sockets: cannot go on: {e}; the core is damaged or cut short", file=sys.stderr)
        return _USAGE_ERROR
    except (LookupError, AttributeError) as e:
        if not _is_about_types(e):
            raise
        stdout.flush()
        print(
            f"drgn-sockets: cannot go on: {e}; the kernel's types or symbols are damaged, or it is "
            "one that this does not know; its vmlinux with -s may help",
            file=sys.stderr,
        )
        return _USAGE_ERROR
    except OSError as e:
        stdout.flush()
        print(f"drgn-sockets: cannot go on: {e.strerror or e}", file=sys.stderr)
        return _USAGE_ERROR
    except KeyboardInterrupt:
        return 130
    return status


def run() -> NoReturn:
    """Run the command line as a process: to be called by nobody but its entry point."""
    status = main()
    if sys.stderr is not None:
        sys.stderr.flush()
    # Taking apart what was read, piece by piece, would take as long as a good part of the work.
    os._exit(status)


def _is_about_types(e: Exception) -> bool:
    # drgn's errors, and not those of Python's own objects.
    return type(e) in (LookupError, ObjectNotFoundError) or "' has no member '" in str(e)


def _run(args: argparse.Namespace) -> int:
    if args.run is None:
        return _run_demo(args.words)
    if args.output == "help":
        sys.stdout.write(args.run.help_columns(args.run.columns_for(args)))
        return 0
    prog = open_target(args)
    if args.qemu is not None:
        # Processes would speak to it all at once.
        args.jobs = 1
    status: int = args.run.execute(prog, args)
    return status


def _run_demo(words: Sequence[str]) -> int:
    # What it needs takes a while to import.
    from drgn_sockets import demo

    target = ["-c", str(demo.CORE), "--types", "btf"]
    if not words:
        args = make_parser().parse_args([*target, "check"])
        with demo.unpacked_oracle() as oracle:
            prog = open_target(args)
            print(demo.introduction(prog, oracle), end="")
            return max(_run_step(prog, target, oracle, step) for step in demo.tour(oracle))
    args = make_parser().parse_args([*target, *words])
    if args.run is None:
        raise UserError("demo runs a command on its core, and not another demo")
    if words[0] == "check" and args.procfs is None:
        with demo.unpacked_oracle() as oracle:
            args.procfs = str(oracle)
            return _run(args)
    return _run(args)


def _run_step(prog: Program, target: Sequence[str], oracle: Path, step: Step) -> int:
    import shlex

    print(f"\n# {step.question}\n$ drgn-sockets demo {shlex.join(step.words)}", flush=True)
    args = make_parser().parse_args([*target, *step.words])
    if step.words == ["check"]:
        args.procfs = str(oracle)
    status: int = args.run.execute(prog, args)
    return status


if __name__ == "__main__":
    sys.exit(main())
