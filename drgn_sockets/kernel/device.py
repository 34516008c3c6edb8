# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of the drivers behind device files, as /proc/devices and /proc/misc have them."""

from __future__ import annotations

import stat
from collections.abc import Callable

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.chains import list_nodes
from drgn_sockets.kernel.file import major, minor
from drgn_sockets.kernel.memory import read_string, remembered
from drgn_sockets.kernel.structs import Bytes, Int, Struct

_MAX_ENTRIES = 1 << 16
_NAME_MAX = 64
#: Major number of the misc driver, which has one for each minor.
_MISC_MAJOR = 10


class _CharDevice(Struct):
    C_TYPE = "struct char_device_struct"

    next = Int("next")
    major = Int("major")
    baseminor = Int("baseminor")
    minorct = Int("minorct")
    name = Bytes("name")


class _BlockMajor(Struct):
    C_TYPE = "struct blk_major_name"

    next = Int("next")
    major = Int("major")
    name = Bytes("name")


class _MiscDevice(Struct):
    C_TYPE = "struct miscdevice"

    minor = Int("minor")
    name = Int("name")


def chrdev_name(prog: Program, i_mode: int, dev: int) -> bytes | None:
    """
    The name under which a range of character devices was registered.

    :param i_mode: Of the device file
    :param dev: ``dev_t``
    :return: ``None`` for another file, if there is none, and if it cannot be read
    """
    return _remembered(prog, "chrdev", dev, _chrdev_name) if stat.S_ISCHR(i_mode) else None


def blkdev_name(prog: Program, i_mode: int, dev: int) -> bytes | None:
    """The name under which a major number of block devices was registered, or ``None``."""
    return _remembered(prog, "blkdev", dev, _blkdev_name) if stat.S_ISBLK(i_mode) else None


def miscdev_name(prog: Program, i_mode: int, dev: int) -> bytes | None:
    """The name of a misc device, or ``None``."""
    if not stat.S_ISCHR(i_mode) or major(dev) != _MISC_MAJOR:
        return None
    return _remembered(prog, "miscdev", dev, _miscdev_name)


def driver_name(prog: Program, i_mode: int, dev: int) -> bytes | None:
    """The name of the driver of a character or block device, or ``None``."""
    return chrdev_name(prog, i_mode, dev) or blkdev_name(prog, i_mode, dev)


def _remembered(
    prog: Program, what: str, dev: int, find: Callable[[Program, int], bytes | None]
) -> bytes | None:
    known = remembered(prog, what)
    if dev not in known:
        try:
            known[dev] = find(prog, dev)
        except (FaultError, LookupError):
            known[dev] = None
    return known[dev]  # type: ignore[no-any-return]


def _chrdev_name(prog: Program, dev: int) -> bytes | None:
    buckets = prog["chrdevs"]
    layout = _CharDevice.layout(prog)
    node, count = buckets[major(dev) % len(buckets)].value_(), 0
    found = None
    while node and count < _MAX_ENTRIES:
        device = layout.read(node)
        if device.major == major(dev):
            name = device.name.split(b"\0")[0]
            if 0 <= minor(dev) - device.baseminor < device.minorct:
                return name
            found = found or name
        node, count = device.next, count + 1
    return found


def _blkdev_name(prog: Program, dev: int) -> bytes | None:
    buckets = prog["major_names"]
    layout = _BlockMajor.layout(prog)
    node, count = buckets[major(dev) % len(buckets)].value_(), 0
    while node and count < _MAX_ENTRIES:
        device = layout.read(node)
        if device.major == major(dev):
            return device.name.split(b"\0")[0]
        node, count = device.next, count + 1
    return None


def _miscdev_name(prog: Program, dev: int) -> bytes | None:
    offset = offsetof(prog.type("struct miscdevice"), "list")
    layout = _MiscDevice.layout(prog)
    for node in list_nodes(prog, prog.symbol("misc_list").address, _MAX_ENTRIES):
        device = layout.read(node - offset)
        if device.minor == minor(dev):
            return read_string(prog, device.name, _NAME_MAX)
    return None
