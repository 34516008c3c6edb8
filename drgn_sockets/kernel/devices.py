# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of drivers of devices, as in ``/proc/devices`` and ``/proc/misc``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.memory import UNREADABLE, read_pointers, read_string, remembered
from drgn_sockets.kernel.structs import Bytes, Int, Struct

# fs/char_dev.c, block/genhd.c: majors share the chains of their hash tables.
_MAX_CHAIN = 4096
_MAX_MISC = 1 << 20
_MISC_MAJOR = 10


def _name(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


class _CharDriver(Struct):
    C_TYPE = "struct char_device_struct"

    next = Int("next")
    major = Int("major")
    name = Bytes("name", convert=_name)


class _BlockDriver(Struct):
    C_TYPE = "struct blk_major_name"

    next = Int("next")
    major = Int("major")
    name = Bytes("name", convert=_name)


class _Misc(Struct):
    C_TYPE = "struct miscdevice"

    minor = Int("minor")
    name = Int("name")
    next = Int("list.next")


def chr_driver(prog: Program, major: int) -> bytes | None:
    """Name of the driver of a major number of character devices, ``None`` if there is none."""
    return _known(prog, "chrdevs", lambda: _drivers(prog, "chrdevs", _CharDriver)).get(major)


def blk_driver(prog: Program, major: int) -> bytes | None:
    """The same of block devices."""
    return _known(prog, "major_names", lambda: _drivers(prog, "major_names", _BlockDriver)).get(
        major
    )


def misc_device(prog: Program, major: int, minor: int) -> bytes | None:
    """Name of a character device that the misc driver has, ``None`` for others."""
    if major != _MISC_MAJOR:
        return None
    return _known(prog, "misc_list", lambda: _misc(prog)).get(minor)


def _known(
    prog: Program, what: str, read: Callable[[], Iterator[tuple[int, bytes]]]
) -> dict[int, bytes]:
    known: dict[str, dict[int, bytes]] = remembered(prog, "devices")
    if what not in known:
        found: dict[int, bytes] = {}
        try:
            for number, name in read():
                # As /proc/devices has them, the first of a major counts.
                found.setdefault(number, name)
        except (LookupError, *UNREADABLE):
            pass
        known[what] = found
    return known[what]


def _drivers(
    prog: Program, table: str, struct: type[_CharDriver] | type[_BlockDriver]
) -> Iterator[tuple[int, bytes]]:
    layout = struct.layout(prog)
    variable = prog[table]
    heads = read_pointers(prog, variable.address_, len(variable))
    for address in heads or ():
        seen: set[int] = set()
        while address and address not in seen and len(seen) < _MAX_CHAIN:
            seen.add(address)
            driver = layout.try_read(address)
            if driver is None:
                break
            yield driver.major, driver.name
            address = driver.next


def _misc(prog: Program) -> Iterator[tuple[int, bytes]]:
    layout = _Misc.layout(prog)
    offset = offsetof(prog.type("struct miscdevice"), "list")
    head = prog["misc_list"].address_of_().value_()
    node = prog.read_word(head)
    seen = {head}
    while node not in seen:
        if len(seen) > _MAX_MISC:
            raise FaultError("misc devices form a loop", node)
        seen.add(node)
        device = layout.read(node - offset)
        yield device.minor, read_string(prog, device.name, 64) or b""
        node = device.next
