# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``make torture``: commands on damaged memory.

A core is opened once, and each command is run on it as it is. Then, for each number, a process is
forked, which plants a fault in what the command reads and runs the command. The core stays as it
is. What the command came to is compared with what it said of the sound core.

    python -m tests.torture -n 1000 --seed 2           a thousand pairs of fault and command
    python -m tests.torture --only 2:17                what number 17 of seed 2 came to
    python -m tests.torture --fault ff4325cc05c44000=missing fds --json

The last form plants a fault that is told, whatever chose it; ``faults.py`` says how faults are
written.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import multiprocessing
import os
import pickle
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from drgn_sockets import demo

from .bed import Bed
from .commands import Run, forget, run_here, runs
from .faults import Fault, choose
from .outcome import BAD, CLASSES, Done, Outcome, judge
from .targets import Targets, note

#: In the core of the demo: a connection of TCP, and one of unix sockets.
_SOCKETS = ("180:3", ["180:3", "183:3"])
#: Of the faults so many are in the file of the core.
_OF_FILE = 0.15


class Pair(NamedTuple):
    """A fault, a command, and what became of it."""

    number: int
    run: Run
    fault: Fault
    outcome: Outcome
    seconds: float


class Ward(Bed):
    """A core, what the commands read of it, and what they say while it is sound."""

    def __init__(
        self, core: Path, options: tuple[str, ...], oracle: Path | None, place: Path
    ) -> None:
        all_runs = runs(oracle, *_SOCKETS)
        self.targets: Targets = pickle.loads(
            _elsewhere(lambda: pickle.dumps(note(core, options, all_runs, place)))
        )
        super().__init__(core, options, place)
        self.clean: dict[Run, Done] = {}
        for run in all_runs:
            # Types, once; then as a child finds it.
            if run.name != "distill":
                self._look_up(run)
        forget(self.prog)
        gc.collect()
        gc.freeze()
        for run in all_runs:
            self.clean[run] = self.run(run, None)
            if self.clean[run].status not in (0, 1):
                raise AssertionError((run.argv, self.clean[run]))

    def _look_up(self, run: Run) -> None:
        nowhere = io.StringIO()
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            run_here(self.prog, run.words(self.place))

    def pair(self, seed: str, number: int) -> Pair:
        """Choose a fault and a command, and see what comes of them."""
        rng = random.Random(f"{seed} {number}")
        chosen = list(self.clean)
        run = rng.choices(chosen, [run.weight for run in chosen])[0]
        if rng.random() < _OF_FILE and run.name != "distill":
            fault = rng.choice(list(self.files.values())).choose(rng)
        else:
            fault = choose(rng, self.prog, self.targets, run)
        done = self.run(run, fault.spec)
        return Pair(number, run, fault, judge(run, self.clean[run], done), done.seconds)


def _elsewhere(make: Callable[[], bytes]) -> bytes:
    """Have another process make something, which leaves this one as it is."""
    with tempfile.TemporaryFile() as file:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                file.write(make())
                file.flush()
                status = 0
            finally:
                os._exit(status)
        _, ended = os.waitpid(pid, 0)
        if ended:
            raise ChildProcessError("what commands read could not be noted")
        file.seek(0)
        return file.read()


@contextlib.contextmanager
def demo_ward(*, quick: bool) -> Iterator[Ward]:
    """
    The core of the demo, which is always there.

    :param quick: Leave out the commands that take long.
    """
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-"))
        oracle = None if quick else stack.enter_context(demo.unpacked_oracle())
        yield Ward(demo.CORE, ("--types", "btf"), oracle, Path(place))


def command_line(pair: Pair) -> str:
    """What runs a pair again."""
    return f"python -m tests.torture --fault '{pair.fault.spec}' {' '.join(pair.run.argv)}"


def tables(pairs: list[Pair]) -> str:
    """How often each fault, and each command, came to what."""
    used = [name for name in CLASSES if any(pair.outcome.kind == name for pair in pairs)]

    def line(name: str, some: list[Pair]) -> str:
        counts = Counter(pair.outcome.kind for pair in some)
        return f"| {name} | {' | '.join(str(counts[kind]) for kind in used)} | {len(some)} |"

    def head(name: str) -> list[str]:
        return [f"| {name} | {' | '.join(used)} | all |", f"| --- |{' ---: |' * (len(used) + 1)}"]

    lines = head("fault")
    for kind in sorted({pair.fault.kind for pair in pairs}):
        lines.append(line(kind, [pair for pair in pairs if pair.fault.kind == kind]))
    lines += ["", *head("command")]
    for command in sorted({pair.run.name for pair in pairs}):
        lines.append(line(command, [pair for pair in pairs if pair.run.name == command]))
    return "\n".join([*lines, line("all", pairs)])


def main() -> int:
    """Try as many pairs as asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", default="1", help="what is tried follows from it (1)")
    parser.add_argument("-n", "--count", type=int, default=200, help="pairs (200)")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after these")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--quick", action="store_true", help="leave out commands that take long")
    parser.add_argument("--only", metavar="SEED:NUMBER", help="instead: this one")
    parser.add_argument("--fault", metavar="SPEC", help="instead: this fault, and a command line")
    parser.add_argument("--log", type=Path, help="a line for each pair goes there")
    parser.add_argument("words", nargs=argparse.REMAINDER, help="the command, with --fault")
    args = parser.parse_args()
    started = time.monotonic()
    with demo_ward(quick=args.quick) as ward:
        if args.fault is not None:
            run = Run(args.words[0], tuple(args.words))
            done = ward.run(run, args.fault)
            sys.stdout.write(done.out)
            sys.stderr.write(done.err)
            return done.status
        if args.only is not None:
            seed, _, number = args.only.partition(":")
            pair = ward.pair(seed, int(number))
            print(pair.outcome.kind, pair.outcome.detail, pair.fault, command_line(pair), sep="\n")
            return 0
        ready = time.monotonic() - started
        pairs = []
        with args.log.open("w") if args.log else contextlib.nullcontext() as log:
            for pair in _all(ward, args.seed, args.count, args.jobs):
                pairs.append(pair)
                if args.minutes is not None and time.monotonic() > started + 60 * args.minutes:
                    break
                if log is not None:
                    log.write(_line(pair))
                    log.flush()
    print(tables(pairs))
    bad = [pair for pair in pairs if pair.outcome.kind in BAD]
    for pair in bad:
        print(f"{pair.outcome.kind}: {pair.outcome.detail}\n    {command_line(pair)}")
    print(
        f"torture: {len(pairs)} pairs, seed {args.seed}, {ready:.0f} s to begin, "
        f"{time.monotonic() - started:.0f} s, {sum(p.seconds for p in pairs):.0f} s of processors: "
        f"{len(bad)} bad"
    )
    return int(bool(bad))


def _line(pair: Pair) -> str:
    fields = pair.number, pair.outcome.kind, pair.fault.kind, pair.fault.label, pair.run.name
    more = f"{pair.seconds:.2f}", repr(pair.outcome.detail), command_line(pair)
    return "\t".join(map(str, (*fields, *more))) + "\n"


def _all(ward: Ward, seed: str, count: int, jobs: int) -> Iterator[Pair]:
    if jobs == 1:
        for number in range(count):
            yield ward.pair(seed, number)
        return
    with multiprocessing.get_context("fork").Pool(jobs, _give, (ward,)) as pool:
        yield from pool.imap(_one, ((seed, number) for number in range(count)), chunksize=20)


_wards: list[Ward] = []


def _give(ward: Ward) -> None:
    _wards.append(ward)


def _one(what: tuple[str, int]) -> Pair:
    return _wards[0].pair(*what)


if __name__ == "__main__":
    sys.exit(main())
