# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command to measure, its runs, and what they have in common."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Callable, Union

from vm.bench import measure
from vm.bench.measure import Run

#: A word of a command line, or a function that gets it: a core is made when it is needed.
Word = Union[str, Callable[[], object]]


@dataclass
class Work:
    """A command to measure."""

    name: str
    argv: Sequence[Word]
    #: Name of the work that its time is divided by.
    against: str | None = None
    cwd: Word | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    #: Its times are numbers of instructions: a second is 10^9 of them.
    instructions: bool = False
    #: Returns what is wrong with the output, or ``None``. Called once.
    judge: Callable[[IO[bytes]], str | None] | None = None
    runs: list[Run] = field(default_factory=list)
    #: Why its figures do not count; empty if they do.
    trouble: str = ""

    def warm_up(self) -> None:
        """Run it once unmeasured, which fills caches, and judge what it prints."""
        with tempfile.TemporaryFile() as output:
            self._run(output)
            output.seek(0)
            if self.judge is not None and not self.trouble:
                self.trouble = self.judge(output) or ""

    def run(self) -> None:
        """Measure it once more, unless it has failed."""
        if not self.trouble:
            self._run(None)

    def _run(self, output: IO[bytes] | None) -> None:
        try:
            run = measure.run(
                [str(resolved(word)) for word in self.argv],
                cwd=None if self.cwd is None else str(resolved(self.cwd)),
                env=self.env,
                output=output,
            )
        except OSError as e:
            self.trouble = f"cannot be started: {e.strerror}"
            return
        if output is None:
            self.runs.append(run)
        self.look_at(run)

    def look_at(self, run: Run) -> None:
        """Note the trouble if a run failed."""
        if run.status:
            self.trouble = f"EXIT STATUS {run.status}" + (f": {run.told}" if run.told else "")

    def median(self, what: Callable[[Run], float]) -> float | None:
        """Get the median of a figure of its runs; ``None`` if none counts."""
        if self.trouble or not self.runs:
            return None
        return statistics.median(map(what, self.runs))


def resolved(word: Word) -> object:
    """Get the value of a word."""
    return word() if callable(word) else word


class Works(dict[str, Work]):
    """All works by name, and figures of several of them."""

    def __init__(self, works: Iterable[Work]) -> None:
        super().__init__((work.name, work) for work in works)

    def each_round(self, *names: str) -> list[tuple[Run, ...]]:
        """Get the runs of several works by round; none if one of the works has failed."""
        works = [self.get(name) for name in names]
        if any(work is None or work.trouble for work in works):
            return []
        return list(zip(*(work.runs for work in works if work is not None)))

    def ratio(self, name: str, against: str) -> float | None:
        """
        Get the median of the ratios of two works' times, each of the same round.

        The speed of a machine changes slowly: runs of the same round can be compared.
        """
        rounds = self.each_round(name, against)
        return statistics.median(a.seconds / b.seconds for a, b in rounds) if rounds else None
