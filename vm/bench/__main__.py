# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How long whole commands take on a full machine, beside other tools: in seconds on cores with
80,000 sockets and 160,000 file descriptors, and in instructions inside a guest with 40,000 file
descriptors. Commands are run in turn, several times each; each figure is a median, and a ratio
is that of two runs of the same round. Cores are made when first asked for, and cached.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from vm import cache
from vm.bench import live, table, works
from vm.bench.measure import progress
from vm.bench.targets import targets
from vm.bench.work import Work, Works
from vm.crash import Crash
from vm.errors import VmError


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as e:
        raise argparse.ArgumentTypeError(f"not a regular expression: {e}") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"not a number of runs: {text}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    result = argparse.ArgumentParser(prog="python -m vm.bench", description=__doc__)
    result.add_argument(
        "-n", "--runs", type=_positive, default=3, help="of each command (default 3)"
    )
    result.add_argument(
        "--only",
        metavar="PATTERN",
        type=_pattern,
        help="only the works whose names match this regular expression (see --list)",
    )
    result.add_argument("--list", action="store_true", help="print the names, and measure nothing")
    result.add_argument("--no-live", action="store_true", help="nothing inside a guest")
    result.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("bench.txt"),
        help="file for the tables as well (default bench.txt)",
    )
    return result


def measure(found: Sequence[Work], runs: int) -> None:
    """
    Run works on cores, in turn.

    :raises VmError: if a core cannot be had
    """
    tell = sys.stderr.isatty()
    for i in range(1 + runs):
        for work in found:
            if tell:
                print(progress(i, runs, work.name), end="", file=sys.stderr, flush=True)
            work.run() if i else work.warm_up()
    if tell:
        print(progress(0, 0, ""), end="", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print, and write the tables to a file."""
    args = parser().parse_args()

    def wanted(found: Sequence[Work]) -> list[Work]:
        return [work for work in found if args.only is None or args.only.search(work.name)]

    # The names do not depend on the version of crash. It is downloaded only if a work of crash is
    # measured.
    on_cores = wanted(works.all_of_them(Crash((), "")))
    it: Crash | None = None
    remarks: list[str] = []
    if not args.list and any(": crash, " in work.name for work in on_cores):
        it, remarks = works.get_crash()
    if not args.list:
        on_cores = wanted(works.all_of_them(it))
    inside = [] if args.no_live else wanted(live.works())
    found = [*on_cores, *inside]
    if args.list:
        print(*(work.name for work in found), sep="\n")
        return 0
    try:
        if not found:
            raise VmError("nothing to measure has such a name: see --list")
        measure(on_cores, args.runs)
    except VmError as e:
        print(f"vm: {e}", file=sys.stderr)
        return 2
    if inside:
        try:
            live.measure(inside, args.runs)
        except VmError as e:
            # The figures on cores took long to measure, and are still good.
            for work in inside:
                work.trouble = f"NOT MEASURED: {e}"
    by_name = Works(found)
    lines = [
        *table.machine(args.runs, it.version if it else None),
        *remarks,
        "",
        *table.figures(found, by_name),
        "",
        *table.reached(targets(by_name)),
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    args.output.write_text(text)
    failed = [work for work in found if work.trouble]
    for work in failed:
        cache.note(f"{work.name}: {work.trouble}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
