# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command is, and the options and forms of output that all of them share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from drgn import Program, ProgramFlags

from drgn_sockets.commands.registry import entry_of
from drgn_sockets.records.columns import Column
from drgn_sockets.records.fan_out import fan_out, processors
from drgn_sockets.records.notes import take_notes
from drgn_sockets.records.parts import Batch, Part
from drgn_sockets.views.columns import choose
from drgn_sockets.views.rows import Csv, Json, Rows, Table

#: Done.
OK = 0
#: Done, with something to tell: a mismatch, rows that could not be read.
TOLD = 1

# It takes a while to start another process.
_FEW_PARTS = 4


class Command:
    """
    A command, the same from a shell, in the REPL and from Python.

    A class derived from it says what it takes and what it can show, and reads records.
    """

    #: The word that calls it, as in :mod:`drgn_sockets.commands.registry`.
    name: ClassVar[str]
    #: What ``--help`` says after the summary.
    description: ClassVar[str] = ""

    @property
    def summary(self) -> str:
        """What it does, in one line."""
        return entry_of(self.name).summary

    @property
    def columns(self) -> Sequence[Column]:
        """All that it can show of a record."""
        raise NotImplementedError

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own arguments."""

    def run(self, prog: Program, args: argparse.Namespace) -> int:
        """
        Run the command, printing to ``sys.stdout``.

        :return: Exit status
        :raises UserError: if the arguments do not fit what is there
        """
        raise NotImplementedError

    def read_all(self, prog: Program) -> None:
        """
        Read all that the command could show, whatever its arguments: what ``distill`` keeps.
        """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add all arguments."""
        self.add_arguments(parser)
        group = parser.add_argument_group("output")
        group.add_argument(
            "--output",
            metavar="COLS",
            help="columns to show: A,B for just these, +A,B for these as well, all; "
            "help lists them",
        )
        form = group.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="one JSON object a line")
        form.add_argument("--csv", action="store_true", help="comma-separated values")
        group.add_argument(
            "-H", "--no-header", action="store_true", help="leave out the line of headings"
        )

    def columns_for(self, args: argparse.Namespace) -> Sequence[Column]:
        """
        All columns that there are with these options; those that nothing but ``--output`` shows
        may be missing without it.
        """
        return self.columns

    def usual(self, args: argparse.Namespace) -> list[str]:
        """Names of the columns shown unless ``--output`` says otherwise."""
        return [column.name for column in self.columns_for(args) if column.default]

    def help_columns(self, columns: Sequence[Column] = ()) -> str:
        """What ``--output help`` prints of some columns, by default of all."""
        columns = columns or self.columns
        width = max(len(column.name) for column in columns)
        usual = {column.name for column in columns if column.default}
        return "".join(
            f"{'*' if c.name in usual else ' '} {c.name:{width}}  {c.help}\n" for c in columns
        )

    def chosen(self, args: argparse.Namespace) -> list[Column]:
        """
        The columns to show.

        :raises UserError: for a name in ``--output`` that is none of them
        """
        return choose(self.columns_for(args), args.output, self.usual(args))

    def shows(self, args: argparse.Namespace, *names: str) -> bool:
        """Whether any of these columns is shown: what nobody sees need not be read."""
        return any(column.name in names for column in self.chosen(args))

    def jobs(self, prog: Program, args: argparse.Namespace) -> int:
        """How many processes may read."""
        asked: int | None = getattr(args, "jobs", None)
        if asked is not None:
            return asked
        # A live machine has other things to do; and in the REPL nobody expects forks.
        alone = prog.flags & ProgramFlags.IS_LIVE or "jobs" not in args
        return 1 if alone else processors()

    def emit(
        self, records: Iterable[Any], args: argparse.Namespace, problems: Problems | None = None
    ) -> None:
        """
        Print records as the options of output say.

        :param problems: Counts those that could not be read.
        """
        rows = self._rows(args)
        for record in records if problems is None else problems.watch(records):
            rows.write(Batch([record]))
        rows.close()

    def _rows(self, args: argparse.Namespace) -> Rows:
        form: type[Rows] = Json if args.json else Csv if args.csv else Table
        return form(self.chosen(args), sys.stdout, header=not args.no_header)

    def emit_parts(
        self,
        prog: Program,
        parts: Iterable[Part],
        args: argparse.Namespace,
        problems: Problems,
        tests: Sequence[Callable[[Any], bool]] = (),
    ) -> None:
        """
        Print the records of the parts of a walk; of many parts, several at a time.

        :param problems: Counts the records that could not be read.
        :param tests: What a record must pass to be printed.
        """
        rows = self._rows(args)

        def read(part: Part) -> Iterator[Batch]:
            for batch in part.batches():
                if tests:
                    records = enumerate(batch.records())
                    keep = [i for i, r in records if r.error or all(test(r) for test in tests)]
                    yield batch.select(keep)
                else:
                    yield batch

        waiting = iter(parts)
        for part in waiting:
            for batch in read(part):
                rows.write(batch)
                problems.found(batch)
            if rows.lines is not None:
                # Somebody waits for the first rows.
                sys.stdout.flush()
                break
        rest = list(waiting)
        lines = rows.lines
        if lines is None:
            # All parts are read, and had but a few records.
            rows.close()
            return

        def make(part: Part) -> tuple[str, int, int, Any]:
            text: list[str] = []
            seen = Problems()
            for batch in read(part):
                if part.alone:
                    # That is done here, and may be long.
                    rows.write(batch)
                else:
                    text += lines(batch)
                seen.found(batch)
            return "".join(text), seen.count, seen.good, part.found()

        jobs = self.jobs(prog, args) if len(rest) >= _FEW_PARTS else 1
        # The key 0 is that of all small tables, which have nothing in common.
        made = fan_out(rest, make, jobs, lambda i, part: 0 if part.alone else part.key or i)
        for part, (text, errors, good, found) in zip(rest, made):
            part.take(found)
            sys.stdout.write(text)
            problems.count += errors
            problems.good += good

    def start(
        self,
        args: argparse.Namespace,
        open_target: Callable[[argparse.Namespace], Program],
        parse: Callable[[Sequence[str]], argparse.Namespace],
    ) -> int:
        """
        Run the command from a shell: open a program, and run the command on it.

        :param open_target: Opens what options such as ``-c`` say.
        :param parse: Parses another command line.
        :return: Exit status
        :raises UserError: if nothing can be opened, or the arguments do not fit what is there
        """
        if args.output == "help":
            sys.stdout.write(self.help_columns(self.columns_for(args)))
            return OK
        return self.execute(open_target(args), args)

    def execute(self, prog: Program, args: argparse.Namespace) -> int:
        """
        Run the command, or answer ``--output help``.

        A mistake in ``--output`` is found before anything is read.
        """
        if args.output == "help":
            sys.stdout.write(self.help_columns(self.columns_for(args)))
            return OK
        self.chosen(args)
        status = self.run(prog, args)
        for text in take_notes(prog):
            print(f"drgn-sockets: {text}", file=sys.stderr)
        return status


class Problems:
    """Counts what could not be read, to say so at the end."""

    def __init__(self) -> None:
        self.count = 0
        #: How many records could be read.
        self.good = 0

    def found(self, batch: Batch) -> None:
        """Count the records of a batch."""
        errors = batch.errors()
        self.count += errors
        self.good += len(batch) - errors

    def watch(self, records: Iterable[Any]) -> Iterator[Any]:
        """Pass *records* on, counting those with an ``error``."""
        for record in records:
            if record.error is not None:
                self.count += 1
            yield record

    def add(self, lines: Sequence[str]) -> None:
        """Tell of problems on standard error, and count them."""
        for line in lines:
            print(f"drgn-sockets: {line}", file=sys.stderr)
        self.count += len(lines)

    def status(self) -> int:
        """Exit status."""
        return TOLD if self.count else OK
