# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the commands read: faults are planted in it.

Each command is run once on a program whose reads are noted. What a :class:`Layout` reads is known
by structure and member; of other reads, such as those of links and tables, the functions that
asked are known.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from drgn import FaultError, Program

from drgn_sockets.kernel.structs import Layout
from drgn_sockets.target.recorder import Recorder

from .commands import Run, forget, opened, run_here

_PAGE = 4096
_KERNEL = 0xFF00_0000_0000_0000
#: Files of the readers that serve others, whose names say nothing of what is read.
_SERVE = ("kernel/memory.py", "kernel/structs.py", "kernel/lists.py", "drgn_sockets/program.py")
#: Of a great array so many words may be chosen.
_MAX_WORDS = 64


class Part(NamedTuple):
    """A member of a structure, or a word of something that no structure is known of."""

    #: ``struct sock.sk_socket``, or the functions that read it.
    label: str
    offset: int
    size: int
    #: ``pointer``, ``int`` or ``bytes``
    kind: str


class Thing(NamedTuple):
    """A structure, or bytes that a function read."""

    label: str
    address: int
    size: int


class Targets:
    """What there is to damage."""

    def __init__(self) -> None:
        #: By command, by label, where things are.
        self.things: dict[Run, dict[str, list[Thing]]] = {}
        #: By label of a structure, its members.
        self.members: dict[str, list[Part]] = {}
        #: Where pages are in physical memory.
        self.physical: dict[int, int] = {}


class _Noting:
    """Notes what a program reads."""

    def __init__(self, prog: Program, below: Program) -> None:
        self.raw: dict[str, set[tuple[int, int]]] = defaultdict(set)
        self.structs: dict[str, tuple[int, set[int]]] = {}
        self.members: dict[str, dict[tuple[int, int], Part]] = defaultdict(dict)
        self.on = False
        self._below = below
        # Far less than the limit of addresses: of what a program can read, all.
        prog.add_memory_segment(1 << 32, (1 << 64) - 1 - (1 << 32), self._read)

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        data: bytes = self._below.read(address, count)
        if self.on:
            label = _who()
            if label is not None:
                self.raw[label].add((address, count))
        return data

    def struct(self, layout: Layout[Any], addresses: Iterable[int]) -> None:
        """Note structures."""
        name = layout.cls.C_TYPE
        size, known = self.structs.get(name, (0, set()))
        known.update(addresses)
        self.structs[name] = max(size, layout.size), known
        for place in layout.cls.places.values():
            kind = "pointer" if place.pointer else "bytes" if place.code[-1] == "s" else "int"
            label = f"{name.removeprefix('struct ')}.{place.path}"
            key = place.offset, place.size
            if place.size and self.members[name].get(key, ("", 0, 0, "bytes"))[3] == "bytes":
                self.members[name][key] = Part(label, place.offset, place.size, kind)


def _who() -> str | None:
    """Who reads; ``None`` if a structure is read."""
    frame: FrameType | None = sys._getframe(2)
    names: list[str] = []
    while frame is not None and len(names) < 2:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file.endswith("kernel/structs.py"):
            return None
        if file.endswith("kernel/memory.py"):
            frame = frame.f_back
            continue
        if name[0] != "<":
            names.append(f"{Path(file).stem}.{name}")
            if not file.endswith(_SERVE):
                break
        frame = frame.f_back
    return " of ".join(names)


@contextlib.contextmanager
def _hooked(noting: _Noting) -> Iterator[None]:
    kept = Layout.read, Layout.read_many, Layout.read_batch

    def read(self: Layout[Any], address: int) -> Any:
        if noting.on:
            noting.struct(self, [address])
        return kept[0](self, address)

    def read_many(self: Layout[Any], addresses: Iterable[int]) -> Iterator[Any]:
        addresses = set(addresses)
        if noting.on:
            noting.struct(self, addresses)
        return kept[1](self, addresses)

    def read_batch(self: Layout[Any], addresses: Iterable[int]) -> Any:
        addresses = set(addresses)
        if noting.on:
            noting.struct(self, addresses)
        return kept[2](self, addresses)

    Layout.read, Layout.read_many, Layout.read_batch = read, read_many, read_batch  # type: ignore
    try:
        yield
    finally:
        Layout.read, Layout.read_many, Layout.read_batch = kept  # type: ignore[method-assign]


def note(core: Path, options: tuple[str, ...], runs: list[Run], place: Path) -> Targets:
    """Run each command, and note what it reads."""
    below = opened(core, *options)
    prog = opened(core, *options)
    found = Targets()
    noting = _Noting(prog, below)
    with _hooked(noting):
        for run in runs:
            if run.name == "distill":
                # It reads what the others read.
                continue
            noting.raw.clear()
            noting.structs.clear()
            forget(prog)
            noting.on = True
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                run_here(prog, run.words(place))
            noting.on = False
            found.things[run] = _things(noting)
    for run in runs:
        if run.name == "distill":
            found.things[run] = found.things[runs[0]]
    found.members = {name: list(parts.values()) for name, parts in noting.members.items()}
    pages = {
        page
        for things in found.things.values()
        for some in things.values()
        for thing in some
        for page in range(thing.address // _PAGE, (thing.address + thing.size - 1) // _PAGE + 1)
    }
    recorder = Recorder(below, "TORTURE=1")
    for page in pages:
        with contextlib.suppress(FaultError, ValueError):
            found.physical[page] = recorder._frame(page)
    for things in found.things.values():
        for label, some in list(things.items()):
            things[label] = [
                thing
                for thing in some
                if all((thing.address + n) // _PAGE in found.physical for n in (0, thing.size - 1))
            ]
            if not things[label]:
                del things[label]
    return found


def _things(noting: _Noting) -> dict[str, list[Thing]]:
    found = {
        label: [Thing(label, address, size) for address in sorted(some) if address > _KERNEL]
        for label, (size, some) in noting.structs.items()
    }
    for label, reads in noting.raw.items():
        found[label] = [Thing(label, *read) for read in sorted(reads) if read[0] > _KERNEL]
    return {label: things for label, things in sorted(found.items()) if things}


def words_of(prog: Program, thing: Thing) -> list[Part]:
    """The words of what no structure is known of."""
    found = []
    for offset in range(0, min(thing.size, 8 * _MAX_WORDS) - 7, 8):
        value = prog.read_u64(thing.address + offset)
        kind = "pointer" if value > _KERNEL and value + 4096 < 1 << 64 else "int"
        found.append(Part(thing.label, offset, 8, kind))
    return found or [Part(thing.label, 0, thing.size, "bytes")]
