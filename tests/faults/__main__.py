# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Would the tests notice? Each ``NN-name.patch`` beside this file breaks one line of the package,
and says which tests have to fail then.

    python -m tests.faults             all of them
    python -m tests.faults 07 kallsyms those with one of these in their names

The tests that a patch names are run in a copy of the tree, where they have to pass; then again
with the patch applied, where one has to fail. The status is 1 if tests passed in spite of a fault,
or a patch did not apply.
"""

from __future__ import annotations

import argparse
import queue
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from vm.project import PARTS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TIMEOUT_S = 600
# pytest's exit status when tests were run and some failed.
FAILED = 1

_CAUGHT_BY = ". Caught by: "


class Fault(NamedTuple):
    """A patch."""

    path: Path
    what: str
    #: Arguments of pytest.
    tests: list[str]

    @property
    def name(self) -> str:
        return self.path.stem


class Outcome(NamedTuple):
    """What came of a fault."""

    fault: Fault
    #: Why it was not caught; ``None`` if it was.
    wrong: str | None
    #: The first test that failed.
    caught_by: str
    seconds: float


def read(path: Path) -> Fault:
    """
    Read a patch.

    :raises ValueError: if its first line does not say what it breaks and what tests that
    """
    first = path.read_text().partition("\n")[0]
    what, found, tests = first.partition(_CAUGHT_BY)
    if not found:
        raise ValueError(f"{path.name}: its first line has no {_CAUGHT_BY!r}")
    return Fault(path, what, shlex.split(tests))


def faults() -> list[Fault]:
    """All patches, in their order."""
    return [read(path) for path in sorted(HERE.glob("[0-9]*.patch"))]


def copy_tree(to: Path) -> None:
    """Copy what the tests need of the tree, compiled modules included."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, to / part, symlinks=True)
        elif source.exists():
            shutil.copy2(source, to / part)


def _git_apply(tree: Path, patch: Path, *options: str) -> str | None:
    """Apply a patch; return what git says if that fails."""
    argv = ["git", "apply", "--unidiff-zero", *options, str(patch)]
    done = subprocess.run(argv, cwd=tree, capture_output=True, text=True, check=False)
    return (
        done.stderr.strip().replace("\n", "; ") or "git apply failed" if done.returncode else None
    )


def changed_file(fault: Fault, tree: Path) -> Path:
    """
    The file that a patch changes.

    :raises ValueError: if what it removes is not exactly once in that file: a patch without
        context would change just any of the places
    """
    lines = fault.path.read_text().splitlines()
    file = tree / next(line[6:] for line in lines if line.startswith("+++ b/"))
    if not file.exists():
        raise ValueError(f"there is no {file.relative_to(tree)}")
    removed = [line[1:] for line in lines if re.match(r"-(?!-- )", line)]
    context = [line[1:] for line in lines if line.startswith(" ")]
    there = file.read_text().splitlines()
    count = max((there.count(line) for line in removed), default=0)
    if not removed or not count or (count > 1 and not context):
        raise ValueError(f"the line that it changes is there {count} times")
    return file


def run_tests(tests: Sequence[str], tree: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest in a tree, up to the first failure."""
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-ra"]
    return subprocess.run(
        [*argv, *tests],
        cwd=tree,
        capture_output=True,
        text=True,
        # A table may have any bytes.
        errors="backslashreplace",
        timeout=TIMEOUT_S,
        check=False,
    )


def run(fault: Fault, tree: Path, sound: dict[tuple[str, ...], bool] | None) -> Outcome:
    """
    Break a tree, run the tests, and mend it.

    :param sound: Tests that were run in a sound tree, and whether they passed: those that fail
        there catch nothing. ``None`` to leave that out.
    """
    start = time.monotonic()

    def outcome(wrong: str | None, caught_by: str = "") -> Outcome:
        return Outcome(fault, wrong, caught_by, time.monotonic() - start)

    try:
        file = changed_file(fault, tree)
    except ValueError as e:
        return outcome(f"does not apply: {e}")
    try:
        if sound is not None:
            key = tuple(fault.tests)
            if key not in sound:
                sound[key] = run_tests(fault.tests, tree).returncode == 0
            if not sound[key]:
                return outcome("the tests fail, or there are none, without it")
        before = file.read_bytes()
        try:
            if said := _git_apply(tree, fault.path):
                return outcome(f"does not apply: {said}")
            _forget_compiled(file)
            done = run_tests(fault.tests, tree)
        finally:
            file.write_bytes(before)
            _forget_compiled(file)
    except subprocess.TimeoutExpired:
        return outcome(f"the tests took longer than {TIMEOUT_S} s")
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode == FAILED and failed:
        return outcome(None, failed[0])
    if done.returncode == 0:
        return outcome("the tests passed")
    return outcome(f"pytest ended with status {done.returncode}: {done.stdout.strip()[-300:]}")


def _forget_compiled(file: Path) -> None:
    # Python compares time (in seconds) and size: both may be those of the other version.
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the faults, two at a time."""
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help="only those with one of these in their names")
    parser.add_argument(
        "-j", "--jobs", type=int, default=2, help="how many at a time (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="do not run the tests without the fault first"
    )
    args = parser.parse_args(argv)
    sound: dict[tuple[str, ...], bool] | None = None if args.quick else {}
    chosen = [f for f in faults() if not args.names or any(n in f.name for n in args.names)]
    if not chosen:
        parser.error("no such fault")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="drgn-sockets-faults-") as place:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for i in range(min(args.jobs, len(chosen))):
            copy_tree(Path(place) / str(i))
            trees.put(Path(place) / str(i))

        def one(fault: Fault) -> Outcome:
            tree = trees.get()
            try:
                return run(fault, tree, sound)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(args.jobs) as pool:
            for fault, missed, caught_by, seconds in pool.map(one, chosen):
                wrong += missed is not None
                said = f"NOT CAUGHT: {missed}" if missed else f"caught by {caught_by}"
                print(f"{fault.name}: {fault.what}: {said} ({seconds:.0f} s)", flush=True)
    print(f"{len(chosen)} faults, {wrong} not caught")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
