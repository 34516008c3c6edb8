# SPDX-License-Identifier: LGPL-2.1-or-later
"""Block devices: block/fops.c, block/bdev.c."""

from __future__ import annotations

from typing import NamedTuple

from drgn import offsetof

from drgn_sockets.kernel.device import Bdev, blkdev_name, disk_name
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.text import escape


class _Opened(Struct):
    C_TYPE = "struct file"

    mapping = Int("f_mapping", help="struct address_space * of the device, not of its file")


class _AddressSpace(Struct):
    C_TYPE = "struct address_space"

    host = Int("host", help="struct inode *")


class BlockRecord(NamedTuple):
    """An open block device."""

    #: The name in ``/proc/partitions``; ``None`` for a device without sectors, which is not listed.
    disk: bytes | None
    driver: bytes | None
    bdev: Bdev


class Block(Kind):
    """A block device: a disk, a partition, a loop device and the like."""

    name = "block"
    fops = ("def_blk_fops",)
    fields = (
        Field("disk", "name of a block device", lambda it: it.disk and escape(it.disk)),
        Field("driver", "driver of a block device", lambda it: it.driver and escape(it.driver)),
        Field("size", "size of a block device, bytes", lambda it: it.bdev.size),
        Field("openers", "how often it is open or mounted", lambda it: it.bdev.openers),
    )

    def read(self, file: FileRecord) -> BlockRecord:
        prog = file.prog
        mapping = _Opened.layout(prog).read(file.address).mapping
        inode = _AddressSpace.layout(prog).read(mapping).host
        address = inode - offsetof(prog.type("struct bdev_inode"), "vfs_inode")
        bdev = Bdev.layout(prog).read(address)
        driver = blkdev_name(prog, file.i_mode, file.rdev)
        return BlockRecord(disk_name(prog, bdev), driver, bdev)
