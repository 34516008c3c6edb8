# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``make test-wide``: what does not fit into the hour that a change waits for.

Each part has a table in ``docs/wide.md``, with the commit that was tested and the date. A run of
some parts leaves the other tables alone.

    python -m tests.wide                    all parts; hours
    python -m tests.wide recordings -n 1    one of them, with one recording of each kernel
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, NamedTuple

from tests import faults
from tests.recorded.conftest import FOREIGN, KERNELS
from tests.torture.outcome import BAD, CHANGED, CLASSES, LOST, reason
from tests.wide import drgn_suite, dumps
from vm import cache, pythons
from vm.errors import VmError

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "wide.md"
#: Ten times as many as ``make fuzz`` tries.
FUZZ_COUNT = 1_200_000
RECORDINGS = 5
#: Of churn, on each kernel.
MINUTES = 10.0
TORTURE_COUNT = 20_000

_TITLE = """# Tests that take long

Written by `make test-wide`. Each table has the commit that was tested, and when.
"""


class Row(NamedTuple):
    """A line of a table."""

    what: str
    result: str
    good: bool
    seconds: float


def _run(*argv: str, env: dict[str, str] | None = None) -> tuple[bool, str, float]:
    """Run a program; whether it ended well, its last line, and how long it took, s."""
    start = time.monotonic()
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines() or ["no output"]
    if done.returncode:
        print("\n".join(lines), file=sys.stderr, flush=True)
    return done.returncode == 0, lines[-1], time.monotonic() - start


def fuzz(args: argparse.Namespace) -> Iterator[Row]:
    """Damaged BTF and System.maps."""
    for seed in (1, int(time.time())):
        argv = [sys.executable, "-m", "tests.fuzz", "--seed", str(seed), "-n", str(args.fuzz)]
        good, last, seconds = _run(*argv)
        yield Row(f"seed {seed}", last.removeprefix("fuzz: "), good, seconds)


def recordings(args: argparse.Namespace) -> Iterator[Row]:
    """Fresh recordings of each kernel, and all tests on each: what hangs on chance shows."""
    for kernel in KERNELS:
        for i in range(args.recordings):
            with tempfile.TemporaryDirectory(prefix="drgn-sockets-wide-") as place:
                fresh = Path(place) / "drgn-sockets"
                fresh.mkdir()
                # All but what is made of recordings.
                for entry in cache.root().iterdir():
                    if entry.name not in ("dumps", "distilled", "bench"):
                        (fresh / entry.name).symlink_to(entry)
                good, last, seconds = _run(
                    *(sys.executable, "-m", "pytest", "-q", "tests/recorded"),
                    *("-p", "no:cacheprovider", "--kernel", kernel),
                    env={"XDG_CACHE_HOME": place, "CI": "1"},
                )
            yield Row(f"{kernel}, recording {i + 1}", last.strip("= "), good, seconds)


def planted(args: argparse.Namespace) -> Iterator[Row]:
    """Faults that were planted, and have to be caught."""
    good, last, seconds = _run(sys.executable, "-m", "tests.faults")
    yield Row(
        f"{len(list(Path(faults.__file__).parent.glob('*.patch')))} faults", last, good, seconds
    )


def torture(args: argparse.Namespace) -> Iterator[Row]:
    """Commands on damaged memory and damaged files: pairs of a fault and a command."""
    with tempfile.TemporaryDirectory(prefix="drgn-sockets-wide-") as place:
        log = Path(place) / "log"
        argv = [sys.executable, "-m", "tests.torture", "--seed", "wide", "-n", str(args.torture)]
        if args.torture_minutes is not None:
            argv += ["--minutes", str(args.torture_minutes)]
        good, last, seconds = _run(*argv, "-j", str(os.cpu_count() or 1), "--log", str(log))
        pairs = [line.split("\t") for line in log.read_text().splitlines()] if log.exists() else []
    for title, column in (("fault", 2), ("command", 4)):
        for name in sorted({pair[column] for pair in pairs}):
            counts = Counter(pair[1] for pair in pairs if pair[column] == name)
            bad = BAD & counts.keys()
            what = ", ".join(f"{kind} {counts[kind]}" for kind in CLASSES if counts[kind])
            took = sum(float(pair[5]) for pair in pairs if pair[column] == name)
            yield Row(f"{title}: {name}", what, not bad, took)
    silent = [pair for pair in pairs if pair[1] in (CHANGED, LOST)]
    reasons = Counter(reason(pair[2]) or "no reason" for pair in silent)
    for why, count in reasons.most_common():
        yield Row(f"silent: {why}", f"{count}", why != "no reason", 0)
    for what, count in Counter(pair[3] for pair in silent if pair[1] == LOST).most_common(20):
        yield Row(f"rows lost by a fault in {what}", f"{count}", True, 0)
    yield Row("all", last.removeprefix("torture: "), good, seconds)


def versions(args: argparse.Namespace) -> Iterator[Row]:
    """Pythons of Debian's releases, each with the oldest and the newest drgn (and others)."""
    for python in pythons.RELEASES:
        for oldest in (True, False):
            start = time.monotonic()
            try:
                with pythons.Place(python, oldest=oldest) as place:
                    what = f"Python {python}, drgn {place.drgn}"
                    argv = place.argv("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit")
                    tested, tests, _ = _run(*argv)
                    compared, rows, _ = _run(*place.argv("-m", "drgn_sockets", "demo", "check"))
            except VmError as e:
                what = f"Python {python}, {'oldest' if oldest else 'newest'} drgn"
                yield Row(what, str(e), False, time.monotonic() - start)
                continue
            yield Row(
                what,
                f"{tests.strip('= ')}; demo check: {rows}",
                tested and compared,
                time.monotonic() - start,
            )


def suites(args: argparse.Namespace) -> Iterator[Row]:
    """drgn's own tests in guests without debug info: types and symbols are the kernel's own."""
    for kernel in KERNELS:
        start = time.monotonic()
        for run in drgn_suite.run(kernel):
            failed = ", ".join(sorted({name.rpartition("::")[2] for name in run.failed}))
            wants = "; ".join(run.wants) or "none"
            yield Row(
                f"{kernel}, {run.suite}",
                f"{run.summary.strip('= ')}; for want of a type or a symbol: {wants}"
                + (f"; failed: {failed}" if failed else ""),
                not run.wants,
                time.monotonic() - start,
            )
            start = time.monotonic()


def of_dumps(args: argparse.Namespace) -> Iterator[Row]:
    """Cores as people have them, in ``docs/dumps.md``."""
    for row in dumps.run(args.commit, args.only):
        yield Row(*row)


def moving(args: argparse.Namespace) -> Iterator[Row]:
    """Commands that look in turn at a kernel that does not hold still (`tests/wide/churn.py`)."""
    for kernel in KERNELS:
        with tempfile.TemporaryFile() as out:
            start = time.monotonic()
            status = subprocess.run(
                [
                    *(sys.executable, "-m", "vm", "run", "--kernel", kernel, "--no-debug-info"),
                    *("--timeout", f"{60 * args.minutes + 300}"),
                    *("python3", "-m", "tests.wide.churn", "-m", f"{args.minutes}"),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                check=False,
            ).returncode
            out.seek(0)
            text = out.read().decode("utf-8", "replace")
        if status:
            print(text, file=sys.stderr, flush=True)
        seconds = time.monotonic() - start
        yield Row(kernel, churned(text), status == 0, seconds)


def churned(text: str) -> str:
    """The figures of a run of ``tests.wide.churn``, in words."""
    try:
        found = json.loads(text.splitlines()[-1])
    except (IndexError, ValueError):
        return "no figures"
    commands = ", ".join(
        f"{name} {figures['slower']:.1f} (at most {figures['slowest']:.1f})"
        for name, figures in found["commands"].items()
    )
    rates = ", ".join(f"{rate:.0f} {name}" for name, rate in found["per_second"].items())
    return (
        f"{found['seconds']} s; each second {rates}; {found['looks']} looks, "
        f"{found['stable']} stable objects in each, {found['objects']} objects, "
        f"{found['moved']} moved, "
        f"{found['mismatches']} mismatches, {found['wrong']} looks wrong; times as long as on the "
        f"quiet guest, median: {commands}"
    )


def arm64(args: argparse.Namespace) -> Iterator[Row]:
    """Cores of arm64 guests: commands (the rows of ``docs/dumps.md``), and the recorded tests."""
    for row in dumps.run(args.commit, "^QEMU: arm64-"):
        yield Row(*row)
    for kernel in FOREIGN:
        good, last, seconds = _run(
            *(sys.executable, "-m", "pytest", "-q", "tests/recorded"),
            *("-p", "no:cacheprovider", "--kernel", kernel),
            env={"CI": "1"},
        )
        yield Row(f"{kernel}, recorded tests", last.strip("= "), good, seconds)


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "churn": moving,
    "drgn": suites,
    "arm64": arm64,
    "dumps": of_dumps,
    "faults": planted,
    "fuzz": fuzz,
    "pythons": versions,
    "recordings": recordings,
    "torture": torture,
}


def table(name: str, rows: Sequence[Row], commit: str) -> str:
    """A section of the file."""
    lines = [f"## {name}", "", f"{PARTS[name].__doc__} Commit {commit}.", ""]
    lines += ["| what | result | minutes |", "| --- | --- | ---: |"]
    for row in rows:
        result = row.result if row.good else f"**failed**: {row.result}"
        lines.append(f"| {row.what} | {result} | {row.seconds / 60:.1f} |")
    return "\n".join(lines) + "\n"


def put(text: str, name: str, section: str) -> str:
    """The file with another section of a name."""
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE))
    sections[name] = section.partition("\n")[2]
    parts = [f"## {key}\n{sections[key].rstrip()}\n" for key in sorted(sections)]
    return "\n".join([_TITLE, *parts])


def _commit() -> str:
    def git(*argv: str) -> str:
        return subprocess.run(
            ["git", *argv], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = " and changes" if git("status", "--porcelain", "-uno") else ""
    return f"{git('log', '-1', '--format=%h')}{changed}, {time.strftime('%Y-%m-%d')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run some parts, and write their tables."""
    parser = argparse.ArgumentParser(prog="tests.wide", description="Tests that take hours.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; or all")
    parser.add_argument("-n", "--recordings", type=int, default=RECORDINGS, help="of each kernel")
    parser.add_argument("--only", default="", metavar="REGEX", help="rows of docs/dumps.md")
    parser.add_argument("--fuzz", type=int, default=FUZZ_COUNT, metavar="N", help="inputs")
    parser.add_argument("--torture-minutes", type=float, metavar="M", help="stop it after these")
    parser.add_argument("--torture", type=int, default=TORTURE_COUNT, metavar="N", help="pairs")
    parser.add_argument("-m", "--minutes", type=float, default=MINUTES, help="of churn")
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    commit = _commit()
    failed = False
    for name in args.parts or PARTS:
        rows = []
        args.commit = commit
        for row in PARTS[name](args):
            print(f"{name}: {row.what}: {row.result} ({row.seconds:.0f} s)", flush=True)
            rows.append(row)
        failed = failed or not all(row.good for row in rows)
        if name == "dumps":
            # It has a file of its own.
            continue
        before = FILE.read_text() if FILE.exists() else ""
        FILE.write_text(put(before, name, table(name, rows, commit)))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
