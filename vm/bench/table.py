# SPDX-License-Identifier: LGPL-2.1-or-later
"""The figures as text."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vm.bench.targets import Target, megabytes
from vm.bench.work import Work, Works


def machine(runs: int, crash: str | None) -> list[str]:
    """Get lines that say which machine and which versions were used."""
    import drgn

    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    versions = [
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        f"drgn {drgn.__version__}",
        f"crash {crash}" if crash else "no crash",
    ]
    today = datetime.date.today().isoformat()
    return [
        f"{today}: {os.cpu_count()} CPUs, {model}",
        ", ".join(versions) + f"; medians of {runs} " + ("run" if runs == 1 else "runs"),
    ]


def figures(found: Sequence[Work], works: Works) -> Iterator[str]:
    """Get a line for each work; an empty line separates machines."""
    width = max(len(work.name) for work in found)
    yield _heading(width, found[0])
    before = found[0]
    for work in found:
        if work.name.partition(":")[0] != before.name.partition(":")[0]:
            yield ""
        if work.instructions != before.instructions:
            yield _heading(width, work)
        before = work
        if work.trouble or not work.runs:
            yield f"{work.name:{width}}  {work.trouble or 'not measured'}"
            continue
        seconds, first, cpu, peak = (
            statistics.median(values)
            for values in zip(
                *((r.seconds, r.first, r.cpu, megabytes(r.peak_kib)) for r in work.runs)
            )
        )
        line = f"{work.name:{width}}  "
        if work.instructions:
            counts = (f"{value * 1000:.0f} M" for value in (seconds, first, cpu))
            line += "{:>12}  {:>9}  {:>8}".format(*counts)
        else:
            line += f"{seconds:7.2f}  {first:9.2f}  {cpu:5.2f}"
        line += f"  {peak:7.0f}  {work.runs[-1].lines:6}"
        ratio = None if work.against is None else works.ratio(work.name, work.against)
        if work.against is not None and ratio is not None:
            line += f"  {ratio:.2f} of {work.against}"
        yield line


def _heading(width: int, work: Work) -> str:
    """Get the heading for works in the unit of this one."""
    times = (
        "instructions  first row       CPU" if work.instructions else "seconds  first row    CPU"
    )
    return f"{'work':{width}}  {times}  peak MB   lines  ratio"


def reached(targets: Iterable[Target]) -> Iterator[str]:
    """Get a line for each target."""
    rows = []
    for target in targets:
        known = {name: value for name, value in target.values.items() if value is not None}
        values = "  ".join(f"{_number(value)} {name}" for name, value in known.items())
        met = {True: "met", False: "NOT MET", None: "not measured"}[target.met]
        limit = f"≤ {_number(target.limit)} {target.unit}".rstrip()
        rows.append((target.name, limit, values, met))
    head = ("what it must reach", "limit", "measured", "")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(4)]
    for row in (head, *rows):
        yield "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip()


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
