# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a command is, and the options and forms of output that all of them share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from drgn import FaultError, Program

from drgn_sockets.commands.registry import entry_of
from drgn_sockets.errors import UserError
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.messages import tell
from drgn_sockets.program import is_live
from drgn_sockets.query.columns import choose
from drgn_sockets.records.columns import Column
from drgn_sockets.records.fan_out import fan_out, processors
from drgn_sockets.records.losses import Losses, in_words
from drgn_sockets.records.parts import Batch, Part
from drgn_sockets.target.own_types import OwnTypes
from drgn_sockets.views.rows import Csv, Json, Rows, SpreadsheetCsv, Table

#: Done.
OK = 0
#: Done, with something to tell: a mismatch, rows that could not be read.
TOLD = 1

# So few parts are read in less time than another process takes to start.
_FEW_PARTS = 4


class Command:
    """
    A command, the same from a shell, in the REPL and from Python.

    A derived class declares its arguments and its columns, and reads records.
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
        """All columns that it can show."""
        raise NotImplementedError

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own arguments."""

    def run(self, prog: Program, args: argparse.Namespace, losses: Losses) -> int:
        """
        Run the command, printing to ``sys.stdout``.

        :param losses: Takes what cannot be read, and makes the exit status 1.
        :return: Exit status
        :raises UserError: if the arguments do not fit what is there
        """
        raise NotImplementedError

    def read_all(self, prog: Program, losses: Losses) -> None:
        """
        Read all that the command could show with any arguments: ``distill`` keeps what this reads.
        """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add all arguments."""
        self.add_arguments(parser)
        group = parser.add_argument_group("output")
        group.add_argument(
            "--output",
            metavar="COLS",
            help="columns to show: A,B for these alone, +A,B for these besides the usual ones, "
            "all for all; help lists them",
        )
        form = group.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="one JSON object a line")
        form.add_argument("--csv", action="store_true", help="comma-separated values")
        # An option with an optional argument would take the next word for it.
        form.add_argument(
            "--csv=spreadsheet",
            dest="csv",
            action="store_const",
            const="spreadsheet",
            help="the same for a spreadsheet: nothing is an empty cell, and a text that would be a "
            "formula (= + - @) has ' before it",
        )
        group.add_argument(
            "-H", "--no-header", action="store_true", help="leave out the line of headings"
        )

    def columns_for(self, args: argparse.Namespace) -> Sequence[Column]:
        """
        All columns that can be shown with these options.

        Without ``--output``, those that only ``--output`` shows may be left out.
        """
        return self.columns

    def usual(self, args: argparse.Namespace) -> list[str]:
        """Names of the columns shown unless ``--output`` says otherwise."""
        return [column.name for column in self.columns_for(args) if column.default]

    def help_columns(self, columns: Sequence[Column] = ()) -> str:
        """What ``--output help`` prints: a line for each of *columns*, by default of all."""
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
        """Whether any of these columns is shown; if none is, their values need not be read."""
        return any(column.name in names for column in self.chosen(args))

    def jobs(self, prog: Program, args: argparse.Namespace) -> int:
        """How many processes may read."""
        asked: int | None = getattr(args, "jobs", None)
        if asked is not None:
            return asked
        # On a live machine other programs want the processors, and the REPL should not fork.
        alone = is_live(prog) or "jobs" not in args
        return 1 if alone else processors()

    def emit(self, records: Iterable[Any], args: argparse.Namespace, losses: Losses) -> None:
        """Print records as the options of output say."""
        rows = self._rows(args, losses)
        for record in records:
            rows.write(Batch([record]))
        rows.close()

    def _rows(self, args: argparse.Namespace, losses: Losses) -> Rows:
        form: type[Rows] = Json if args.json else Table
        if args.csv:
            form = SpreadsheetCsv if args.csv == "spreadsheet" else Csv
        return form(self.chosen(args), sys.stdout, header=not args.no_header, losses=losses)

    def emit_parts(
        self,
        prog: Program,
        parts: Iterable[Part],
        args: argparse.Namespace,
        losses: Losses,
        tests: Sequence[Callable[[Any], bool]] = (),
    ) -> int:
        """
        Print the records of the parts of a walk; of many parts, several at a time.

        :param tests: A record is printed if it passes all of these.
        :return: How many were printed that could be read.
        """
        rows = self._rows(args, losses)

        def read(part: Part) -> Iterator[Batch]:
            for batch in part.batches():
                if tests:
                    yield passing(batch, tests, losses)
                else:
                    yield batch

        good = 0
        waiting = iter(parts)
        for part in waiting:
            for batch in read(part):
                rows.write(batch)
                good += len(batch) - batch.errors()
            if rows.lines is not None:
                # Users wait for the first rows.
                sys.stdout.flush()
                break
        rest = list(waiting)
        lines = rows.lines
        if lines is None:
            # All parts have been read, and have too few records for a large table.
            rows.close()
            return good

        def make(part: Part) -> tuple[str, int, dict[str, bool], Any]:
            text: list[str] = []
            good = 0
            for batch in read(part):
                if part.alone:
                    # It is read in this process, so its rows can be written as they come.
                    rows.write(batch)
                else:
                    text += lines(batch)
                good += len(batch) - batch.errors()
            return "".join(text), good, losses.sent(), part.found()

        jobs = self.jobs(prog, args) if len(rest) >= _FEW_PARTS else 1
        # The key 0 is that of all small tables: it does not say that they belong together.
        made = fan_out(rest, make, jobs, lambda i, part: 0 if part.alone else part.key or i)
        for part, (text, some, lost, found) in zip(rest, made):
            part.take(found)
            losses.take(lost)
            sys.stdout.write(text)
            good += some
        return good

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
        losses = Losses()
        try:
            status = self.run(prog, args, losses)
            missing = OwnTypes.of(prog).missing_symbols()
            if missing:
                tell(
                    f"not found in kallsyms, which lacks most variables: {', '.join(missing)}; "
                    "what they lead to is not shown"
                )
                status = max(status, TOLD)
        except FaultError as e:
            # A structure that leads to all others cannot be read.
            raise UserError(
                f"cannot go on: {in_words(e)}; memory is damaged, or the core is cut short"
            ) from None
        finally:
            losses.tell(sys.stderr)
        return TOLD if losses else status


def look_at(columns: Iterable[Column], record: Any, losses: Losses) -> None:
    """Read what *columns* show of a record."""
    where = getattr(record, "where", "")
    for column in columns:
        try:
            value = column.value(record)
        except FaultError as e:
            losses.lose(e, where)
            continue
        for item in value if type(value) is list else ():
            if isinstance(item, Lost):
                losses.lose(item, where)
    if record.error is not None:
        losses.lose(record.error, where)


def passing(batch: Batch, tests: Sequence[Callable[[Any], bool]], losses: Losses) -> Batch:
    """The records of a batch that pass all tests, and those that cannot be read."""
    keep: list[int] = []
    undecided: dict[int, FaultError] = {}
    for i, record in enumerate(batch.records()):
        try:
            if record.error or all(test(record) for test in tests):
                keep.append(i)
        except FaultError as e:
            undecided[i] = e
    if undecided:
        # On a live kernel, what became something else while it was read is no loss.
        moved = batch.moved()
        for i, error in undecided.items():
            if i not in moved:
                losses.lose(error)
    found = batch.select(keep)
    found.passes = lambda record: passes(tests, record, losses)
    return found


def passes(tests: Sequence[Callable[[Any], bool]], record: Any, losses: Losses) -> bool:
    """Whether a record passes all tests; one that cannot be decided is left out, and told."""
    try:
        return all(test(record) for test in tests)
    except FaultError as e:
        losses.lose(e)
        return False
