# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Faults in memory: how one is chosen, written down, and planted.

A fault is written as what memory has instead, so that it can be planted again, whatever chose it::

    ff4325cc05c44280=00000000deadbeef     these bytes at an address
    ff4325cc05c44280=6b*2280              so many times this byte
    ff4325cc05c44280=@ff4325cc05c40000+2280   a copy of what is elsewhere
    ff4325cc05c44000=missing              its page is not in the core
"""

from __future__ import annotations

import random
import re
from typing import Callable, NamedTuple

from drgn import FaultError, Program

from .commands import Run
from .targets import Part, Targets, Thing, words_of

_PAGE = 4096
_UNMAPPED = 0xFFFF_FEFE_DEAD_0000
_POISON = 0xDEAD_0000_0000_0100

Shift = Callable[[random.Random, int], int]

#: Values for pointers, by the name of the fault.
_POINTERS: dict[str, Shift] = {
    "pointer NULL": lambda rng, value: 0,
    "pointer to no memory": lambda rng, value: rng.choice((_UNMAPPED, _POISON, (1 << 64) - 8)),
    "pointer garbage": lambda rng, value: rng.choice(
        (1, 8, 0x1234_5678_9ABC_DEF0, (1 << 64) - 1, rng.getrandbits(64))
    ),
    "pointer misaligned": lambda rng, value: value + rng.choice((1, 2, 4)),
    "pointer bit flipped": lambda rng, value: value ^ 1 << rng.randrange(48),
}
#: Values for counts.
_COUNTS: dict[str, Shift] = {
    "count 0": lambda rng, value: 0,
    "count absurd": lambda rng, value: rng.choice((-1, (1 << 31) - 1, 1 << 31, 1 << 24)),
    "count off by one": lambda rng, value: value + rng.choice((-1, 1)),
    "count bit flipped": lambda rng, value: value ^ 1 << rng.randrange(16),
}
_OBJECTS = ("object zeroed", "object freed", "object another's")


class Fault(NamedTuple):
    """A fault in memory."""

    kind: str
    #: What is hit: ``sock.sk_socket``
    label: str
    #: As above.
    spec: str


def choose(rng: random.Random, prog: Program, targets: Targets, run: Run) -> Fault:
    """Choose a fault in something that a command reads."""
    things = targets.things[run]
    labels = list(things)
    while True:
        if rng.random() < 0.5:
            label = rng.choice(labels)
        else:
            # As often as there are such things.
            label = rng.choices(labels, [len(things[label]) for label in labels])[0]
        thing = rng.choice(things[label])
        roll = rng.random()
        if roll < 0.2:
            kind = rng.choice(("page missing", "page missing", "page missing", "page zeroed"))
            start = thing.address // _PAGE * _PAGE
            spec = f"{start:x}=missing" if kind == "page missing" else f"{start:x}=00*{_PAGE}"
            return Fault(kind, label, spec)
        try:
            fault = (
                _in_object(rng, things[label], thing)
                if roll < 0.3
                else _in_part(rng, prog, targets, things[label], thing)
            )
        except FaultError:
            # The sound core lacks it.
            continue
        if fault is not None:
            return fault


def _in_object(rng: random.Random, others: list[Thing], thing: Thing) -> Fault | None:
    kind = rng.choice(_OBJECTS)
    at = f"{thing.address:x}"
    if kind == "object zeroed":
        return Fault(kind, thing.label, f"{at}=00*{thing.size}")
    if kind == "object freed":
        return Fault(kind, thing.label, f"{at}=6b*{thing.size}")
    same = [other for other in others if other.size == thing.size and other != thing]
    if not same:
        return None
    return Fault(kind, thing.label, f"{at}=@{rng.choice(same).address:x}+{thing.size}")


def _in_part(
    rng: random.Random, prog: Program, targets: Targets, others: list[Thing], thing: Thing
) -> Fault | None:
    members = targets.members.get(thing.label)
    parts = members if members else words_of(prog, thing)
    # Pointers matter more than counts do, of which there are many more.
    wanted = rng.choice(("pointer", "pointer", "int", "bytes"))
    some = [part for part in parts if part.kind == wanted]
    if not some:
        return None
    part = rng.choice(some)
    address = thing.address + part.offset
    data = prog.read(address, part.size)
    if part.kind == "bytes":
        return _in_bytes(rng, part, address, data)
    value = int.from_bytes(data, "little")
    if part.kind == "int":
        kind, change = rng.choice(list(_COUNTS.items()))
        return _put(kind, part, address, data, change(rng, value))
    kinds = list(_POINTERS)
    kind = rng.choice([*kinds, "link loops", "pointer to another", "pointer to another"])
    if kind == "link loops":
        return _put(kind, part, address, data, address if rng.random() < 0.5 else thing.address)
    if kind == "pointer to another":
        other = rng.choice(others)
        there = prog.read_u64(other.address + part.offset) if members else other.address
        return _put(kind, part, address, data, there) if there else None
    return _put(kind, part, address, data, _POINTERS[kind](rng, value))


def _in_bytes(rng: random.Random, part: Part, address: int, data: bytes) -> Fault | None:
    kind = rng.choice(("bytes flipped", "bytes ones", "bytes zeros"))
    if kind == "bytes flipped":
        at = rng.randrange(len(data))
        new = data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
        return Fault(kind, part.label, f"{address:x}={new.hex()}")
    byte = "ff" if kind == "bytes ones" else "00"
    if data == bytes.fromhex(byte) * len(data):
        return None
    return Fault(kind, part.label, f"{address:x}={byte}*{len(data)}")


def _put(kind: str, part: Part, address: int, data: bytes, value: int) -> Fault | None:
    new = (value & (1 << 8 * len(data)) - 1).to_bytes(len(data), "little")
    return None if new == data else Fault(kind, part.label, f"{address:x}={new.hex()}")


_COPY = re.compile(r"@([0-9a-f]+)\+([0-9]+)")


def plant(prog: Program, spec: str, where: Callable[[int], int]) -> None:
    """
    Plant a fault in a program, for good.

    :param where: Says where an address is in physical memory.
    """
    at, _, what = spec.partition("=")
    address = int(at, 16)
    if what == "missing":
        _cover(prog, where, address // _PAGE * _PAGE, None)
        return
    copy = _COPY.fullmatch(what)
    if copy is not None:
        data = prog.read(int(copy[1], 16), int(copy[2]))
    elif "*" in what:
        byte, _, count = what.partition("*")
        data = bytes.fromhex(byte) * int(count)
    else:
        data = bytes.fromhex(what)
    while data:
        page, start = address // _PAGE * _PAGE, address % _PAGE
        now, data = data[: _PAGE - start], data[_PAGE - start :]
        whole = prog.read(page, _PAGE)
        _cover(prog, where, page, whole[:start] + now + whole[start + len(now) :])
        address += len(now)


def _cover(prog: Program, where: Callable[[int], int], page: int, data: bytes | None) -> None:
    """Have a program read other bytes in a page, or find that it is missing."""

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        if data is None:
            raise FaultError("the page is not in the core", address)
        return data[offset : offset + count]

    # Cores in ELF are read by their physical addresses, and those of kdump by virtual ones too.
    prog.add_memory_segment(page, _PAGE, read)
    prog.add_memory_segment(where(page), _PAGE, read, physical=True)
