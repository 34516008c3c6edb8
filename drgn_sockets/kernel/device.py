# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of the drivers of device files, as in /proc/devices and /proc/misc."""

from __future__ import annotations

import functools
import stat
from typing import Callable, Optional

from drgn import Program

from drgn_sockets.kernel.file import major, minor
from drgn_sockets.kernel.lists import for_each_linked, list_for_each_entry
from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.kernel.memory import read_string
from drgn_sockets.kernel.structs import CString, Int, Struct
from drgn_sockets.program import once_per_second

_MAX_ENTRIES = 1 << 16
_NAME_MAX = 64
#: Major number of misc devices; each minor number has a driver of its own.
_MISC_MAJOR = 10


class _CharDevice(Struct):
    C_TYPE = "struct char_device_struct"

    next = Int("next")
    major = Int("major")
    baseminor = Int("baseminor")
    minorct = Int("minorct")
    name = CString("name")


class _BlockMajor(Struct):
    C_TYPE = "struct blk_major_name"

    next = Int("next")
    major = Int("major")
    name = CString("name")


class Bdev(Struct):
    """``struct bdev_inode``: a block device and the inode that its pages belong to."""

    C_TYPE = "struct bdev_inode"

    node = Int("vfs_inode.i_sb_list.next", help="next inode of its file system")
    dev = Int("vfs_inode.i_rdev")
    size = Int("vfs_inode.i_size", help="bytes")
    disk = Int("bdev.bd_disk", help="struct gendisk *")
    # Linux kernel commit 9acf381f3e8f ("block: turn bdev->bd_openers into an atomic_t")
    # (in v5.19)
    openers = Int("bdev.bd_openers.counter", "bdev.bd_openers", help="how often it is open")
    #: The partition number. Since 1116b9fa15c0 ("bdev: infrastructure for flags", v6.10) it is the
    #: low byte of a word with flags.
    partno = Int("bdev.__bd_flags.counter", "bdev.bd_partno")


class _Gendisk(Struct):
    C_TYPE = "struct gendisk"

    disk_name = CString("disk_name")


class _MiscDevice(Struct):
    C_TYPE = "struct miscdevice"

    node = Int("list.next")
    minor = Int("minor")
    name = Int("name")


def chrdev_name(prog: Program, i_mode: int, dev: int) -> bytes | None:
    """
    The name under which a range of character devices was registered.

    :param i_mode: Of the device file
    :param dev: ``dev_t``
    :return: ``None`` for another file, and if no range has this number
    :raises FaultError: if it cannot be read
    """
    return _chrdev_name(prog, dev) if stat.S_ISCHR(i_mode) else None


def blkdev_name(prog: Program, i_mode: int, dev: int) -> bytes | None:
    """The name under which a major number of block devices was registered, or ``None``."""
    return _blkdev_name(prog, dev) if stat.S_ISBLK(i_mode) else None


def miscdev_name(prog: Program, i_mode: int, dev: int) -> bytes | None:
    """The name of a misc device, or ``None``."""
    if not stat.S_ISCHR(i_mode) or major(dev) != _MISC_MAJOR:
        return None
    return _miscdev_name(prog, dev)


def partition_name(prog: Program, dev: int) -> bytes | None:
    """
    The name of a disk or a partition as in ``/proc/partitions``, where :c:func:`show_partition()`
    leaves out devices without sectors.

    :param dev: ``dev_t``
    :return: ``None`` for another device
    :raises FaultError: if it cannot be read
    """
    return _partition_name(prog, dev)


def disk_name(prog: Program, bdev: Bdev) -> bytes | None:
    """Get the name of a block device, as ``bdev_name()``: nvme0n1p1 (a p after a digit), sda1."""
    disk = _Gendisk.layout(prog).follow(bdev.disk) if bdev.size and bdev.disk else None
    if disk is None:
        return None
    name = disk.disk_name
    partno = bdev.partno & 0xFF
    if not partno:
        return name
    return b"%b%b%d" % (name, b"p" if name[-1:].isdigit() else b"", partno)


def driver_name(prog: Program, i_mode: int, dev: int) -> bytes | None:
    """The name of the driver of a character or block device, or ``None``."""
    return chrdev_name(prog, i_mode, dev) or blkdev_name(prog, i_mode, dev)


_Find = Callable[[Program, int], Optional[bytes]]


def _or_none(find: _Find) -> _Find:
    """Have a function return ``None`` where this kernel has no such device."""

    @functools.wraps(find)
    def found(prog: Program, dev: int) -> bytes | None:
        try:
            return find(prog, dev)
        except LookupError:
            return None

    return found


@once_per_second
@_or_none
def _chrdev_name(prog: Program, dev: int) -> bytes | None:
    buckets = prog["chrdevs"]
    first = buckets[major(dev) % len(buckets)].value_()
    found = None
    for device in unbroken(for_each_linked(_CharDevice.layout(prog), first, limit=_MAX_ENTRIES)):
        if device.major == major(dev):
            if 0 <= minor(dev) - device.baseminor < device.minorct:
                return device.name
            found = found or device.name
    return found


@once_per_second
@_or_none
def _blkdev_name(prog: Program, dev: int) -> bytes | None:
    buckets = prog["major_names"]
    first = buckets[major(dev) % len(buckets)].value_()
    for device in unbroken(for_each_linked(_BlockMajor.layout(prog), first, limit=_MAX_ENTRIES)):
        if device.major == major(dev):
            return device.name
    return None


@once_per_second
@_or_none
def _partition_name(prog: Program, dev: int) -> bytes | None:
    # Each block device is an inode of the file system "bdev".
    head = prog["blockdev_superblock"].s_inodes.address_of_().value_()
    for bdev in unbroken(list_for_each_entry(Bdev.layout(prog), head, "node", _MAX_ENTRIES)):
        if bdev.dev == dev:
            name = disk_name(prog, bdev)
            if name is not None:
                return name
    return None


@once_per_second
@_or_none
def _miscdev_name(prog: Program, dev: int) -> bytes | None:
    head = prog.symbol("misc_list").address
    layout = _MiscDevice.layout(prog)
    for device in unbroken(list_for_each_entry(layout, head, "node", _MAX_ENTRIES)):
        if device.minor == minor(dev):
            return read_string(prog, device.name, _NAME_MAX)
    return None
