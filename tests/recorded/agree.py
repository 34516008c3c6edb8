# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plain way to read a structure (``obj.read_()`` and its members) beside the fast ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from drgn import Object, Program

from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.families.tcp import Age

# On a live kernel a moment passes between two looks.
_MOMENT_MS = 60_000


def plainly(obj: Object, path: str) -> Object:
    """A member the plain way, of a value that was read whole."""
    for name in path.split("."):
        name, _, index = name.partition("[")
        obj = obj.member_(name)
        if index:
            obj = obj[int(index[:-1])]
    return obj


def compare(prog: Program, cls: type[Struct], addresses: Iterable[int]) -> int:
    """
    Read structures the plain way, in a batch, and one by one, and compare every declared member.

    :return: How many values were compared
    """
    layout = cls.layout(prog)
    batch = layout.read_batch(addresses)
    singles = {one.address: one for one in layout.read_many(addresses)}
    assert batch.addresses == sorted(set(addresses)) == sorted(singles)
    assert not batch.lost
    members = cls.members()
    places = layout.cls.places
    assert set(places) <= set(members)
    columns = {name: batch.column(name) for name in members}
    count = 0
    for i, (address, structure) in enumerate(zip(batch.addresses, batch)):
        single = singles[address]
        whole: dict[str, Object] = {}
        for name, member in members.items():
            fast = [columns[name][i], getattr(structure, name), getattr(single, name)]
            if name not in places:
                assert fast == [None] * 3, (cls, name)
                continue
            if member.c_type not in whole:
                pointer = prog.pointer_type(prog.type(member.c_type))
                whole[member.c_type] = Object(prog, pointer, address)[0].read_()
            expected = _plain_value(prog, member, plainly(whole[member.c_type], places[name].path))
            if isinstance(member, Age):
                assert all(abs(value - expected) < _MOMENT_MS for value in fast), (cls, name)
            else:
                assert fast == [expected] * 3, (cls, name, hex(address))
            count += 1
    return count


def _plain_value(prog: Program, member: Any, plain: Object) -> Any:
    if type(member).__name__ == "BigEndian":
        return int.from_bytes(plain.to_bytes_(), "big")
    raw: Any = plain.to_bytes_() if member.as_bytes else plain.value_()
    if isinstance(member, Int):
        return raw
    convert = member.converter(prog)
    return raw if convert is None else convert(raw)
