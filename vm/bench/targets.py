# SPDX-License-Identifier: LGPL-2.1-or-later
"""The limits of figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vm.bench import live
from vm.bench.work import Works
from vm.bench.works import (
    CHECK,
    CRASH_FILES,
    CRASH_NET,
    DECODE,
    FDS,
    FORMS,
    PLAIN,
    SS,
    START,
    TCP,
    TYPES,
    of,
    with_types,
)


@dataclass(frozen=True)
class Target:
    """A figure that must not be above a limit."""

    name: str
    limit: float
    #: The figure under each condition; ``None`` if it was not measured.
    values: dict[str, float | None]
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """Whether all values are within the limit; ``None`` if none was measured."""
        known = [value for value in self.values.values() if value is not None]
        return all(value <= self.limit for value in known) if known else None


def growth(works: Works, command: str, small: str, large: str) -> float | None:
    """Get how many times as long a command takes on a larger machine, without its start."""
    names = [of(m, with_types(w, "BTF")) for m in (large, small) for w in (command, START)]
    rounds = works.each_round(*names)
    if not rounds:
        return None
    return statistics.median(
        (a.seconds - start_a.seconds) / (b.seconds - start_b.seconds)
        for a, start_a, b, start_b in rounds
    )


def _worst(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)


def _ratio(
    works: Works, machine: str, what: str, against: str, types: Iterable[str] = TYPES
) -> dict[str, float | None]:
    other = of(machine, against)
    return {name: works.ratio(of(machine, with_types(what, name)), other) for name in types}


def _decoding(works: Works, form: str) -> float | None:
    work = works.get(of(form, DECODE))
    # The ratio is the last word that the script prints.
    return None if work is None else work.median(lambda run: float(run.last.split()[-1]))


def _peak(works: Works, form: str, types: str, commands: Iterable[str]) -> float | None:
    names = [of(form, with_types(command, types)) for command in commands]
    found = (works[name] for name in names if name in works)
    return _worst(work.median(lambda run: megabytes(run.peak_kib)) for work in found)


def _first(works: Works, form: str, types: str, command: str) -> float | None:
    work = works.get(of(form, with_types(command, types)))
    return None if work is None else work.median(lambda run: run.first)


def megabytes(kib: int) -> float:
    """Convert KiB to MB."""
    return kib * 1024 / 1e6


def targets(works: Works) -> Iterator[Target]:
    """Get all targets with their measured values."""
    for what, against, limit in (
        (FDS, CRASH_FILES, 0.5),
        (SS, CRASH_NET, 0.6),
        (TCP, PLAIN, 1.0),
    ):
        for form in FORMS:
            values = _ratio(works, form, what, against)
            yield Target(f"{form}: {what} / {against}", limit, values)
    for form in FORMS:
        yield Target(f"{form}: {DECODE}", 3, {"DWARF": _decoding(works, form)})
    for what, against, limit in ((SS, live.IPROUTE, 0.5), (FDS, live.LSOF, 0.4)):
        values = _ratio(works, live.MACHINE, what, against, [live.TYPES])
        yield Target(f"{live.MACHINE}: {what} / {against}", limit, values)
    for what in (FDS, SS):
        value = growth(works, what, "ELF", "ELF, twice")
        yield Target(f"ELF: {what}, twice the sockets", 2.1, {"BTF": value})
    tables = [w for command in (FDS, SS, TCP) for w in (command, f"{command} --json")]
    for form in FORMS:
        for what, commands in (("fds and ss", tables), (CHECK, [CHECK])):
            values = {types: _peak(works, form, types, commands) for types in TYPES}
            yield Target(f"{form}: {what}, peak memory", 250, values, "MB")
    for form in FORMS:
        for what in (FDS, SS):
            values = {types: _first(works, form, types, what) for types in TYPES}
            yield Target(f"{form}: {what}, first row", 1.0, values, "s")
    for form in FORMS:
        what = with_types(SS, "BTF")
        value = works.ratio(of(f"{form}, 100 GiB", what), of(f"{form}, tenth", what))
        yield Target(f"{form}: {SS}, 100 GiB / small", 1.3, {"BTF": value})
