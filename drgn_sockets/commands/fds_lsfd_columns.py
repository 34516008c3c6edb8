# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns of ``fds`` that lsfd has; only ``--output`` shows them."""

from __future__ import annotations

import functools
import pwd
from typing import Any

from drgn import Program

from drgn_sockets.kernel.device import blkdev_name, chrdev_name, miscdev_name, partition_name
from drgn_sockets.kernel.file import FMODE_READ, FMODE_WRITE, is_polled, minor
from drgn_sockets.kernel.locks import F_WRLCK
from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.program import is_running_kernel
from drgn_sockets.records.columns import Column
from drgn_sockets.records.fd import FdRecord, FileRecord
from drgn_sockets.records.locks import locks_of
from drgn_sockets.records.names import device_text

# The words of lsfd.
_TYPES = {"reg": "REG", "dir": "DIR", "chr": "CHR", "blk": "BLK", "lnk": "LINK", "sock": "SOCK"}
_TYPES.update({"fifo": "FIFO", "pipe": "FIFO", "memfd": "REG", "ns": "REG", "sockfile": "SOCK"})
_DEVICES = {"chr": "char", "blk": "blk"}


def assoc(r: FdRecord) -> str | None:
    """The association of the process and the file, in the words of lsfd."""
    if r.assoc is None:
        return None if r.fd is None else str(r.fd)
    if r.mapping is not None:
        return "shm" if r.mapping.shared else "mem"
    return {"txt": "exe", "DEL": "mem"}.get(r.assoc, r.assoc)


def _deleted(r: FdRecord) -> bool | None:
    return None if r.file is None or r.file.nlink is None else r.file.nlink == 0


def _kthread(r: FdRecord) -> bool | None:
    return None if r.table.process is None else r.table.process.is_kthread


def _devtype(r: FdRecord) -> str | None:
    return None if r.file is None else _DEVICES.get(r.file.kind, "nodev")


def _maj_min(r: FdRecord) -> str | None:
    if r.file is None or r.file.inode is None:
        return None
    return device_text(r.file.rdev if r.file.kind in _DEVICES else r.file.dev)


def _block_device(file: FileRecord) -> Any:
    """Name of the disk or partition that a device file stands for; else driver and minor."""
    partition = partition_name(file.prog, file.rdev)
    if partition is not None:
        return partition
    return _by_driver(file, blkdev_name(file.prog, file.i_mode, file.rdev))


def _by_driver(file: FileRecord, driver: bytes | None) -> Any:
    return device_text(file.rdev) if driver is None else b"%b:%d" % (driver, minor(file.rdev))


def _partition(r: FdRecord) -> Any:
    file = r.file
    if file is None:
        return None
    if file.kind == "blk":
        return _block_device(file)
    sb = file.sb
    if sb is None:
        return None
    return sb.id if sb.bdev else device_text(file.dev)


def _source(r: FdRecord) -> Any:
    file = r.file
    if file is None:
        return None
    if file.kind == "chr":
        misc = miscdev_name(file.prog, file.i_mode, file.rdev)
        if misc is not None:
            return b"misc:" + misc
        return _by_driver(file, chrdev_name(file.prog, file.i_mode, file.rdev))
    if file.kind == "blk":
        return _block_device(file)
    sb = file.sb
    if sb is None:
        return None
    return sb.id if sb.bdev else file.fs_type or device_text(file.dev)


def _xmode(r: FdRecord) -> str | None:
    file = r.file
    if file is None:
        return None
    access = "---"
    if r.mapping is not None:
        access = r.mapping.access
    elif r.opened is not None:
        r_ = "r" if file.mode & FMODE_READ else "-"
        w_ = "w" if file.mode & FMODE_WRITE else "-"
        access = f"{r_}{w_}-"
    polled = r.opened is not None and is_polled(file.prog, file.file)
    return f"{access}{'D' if _deleted(r) else '-'}{_lock(r)}{'m' if polled else '-'}"


def _lock(r: FdRecord) -> str:
    if r.opened is None or r.opened.sk:
        return "-"
    locks = list(unbroken(locks_of(r)))
    if not locks:
        return "-"
    return "L" if any(lock.type == F_WRLCK for lock in locks) else "l"


def user_name(prog: Program | None, uid: int | None) -> str | None:
    """
    Get the name of a user, or the number of a user that has no name.

    A core is mostly of another machine, whose users are not known here: they are numbers, but for
    root.
    """
    if uid is None:
        return None
    if uid and (prog is None or not is_running_kernel(prog)):
        return str(uid)
    return _name_of(uid)


@functools.lru_cache(1024)
def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _uid(r: FdRecord) -> int | None:
    return None if r.table.process is None else r.table.process.uid


def user(r: FdRecord) -> str | None:
    """Name or number of the user of the process."""
    process = r.table.process
    return None if process is None else user_name(process.prog, process.uid)


def _fuid(r: FdRecord) -> int | None:
    return None if r.file is None else r.file.uid


def _protoname(r: FdRecord) -> bytes | None:
    return r.file.protocol if r.file is not None and r.file.sk else None


#: Columns of lsfd, under its names, but for those that :mod:`drgn_sockets.commands.fds` has.
LSFD = (
    Column(
        "assoc",
        "number of the fd, or cwd, rtd, exe, mem (mapped), shm (mapped and shared)",
        assoc,
    ),
    Column("deleted", "whether the file has no name left", _deleted),
    Column("devtype", "char, blk, or nodev", _devtype),
    Column("fuid", "user ID of the file's owner", _fuid, right=True),
    Column("kthread", "whether the process is a thread of the kernel", _kthread),
    Column("maj_min", "device number of a device file; else of the file system", _maj_min),
    Column(
        "maplen",
        "length of the mapping, pages",
        lambda r: r.mapping and r.mapping.pages,
        right=True,
    ),
    Column("nlink", "how many names the file has", lambda r: r.file and r.file.nlink, right=True),
    Column(
        "owner",
        "name of the file's owner (of a core the number, but for root)",
        lambda r: user_name(r.file and r.file.prog, _fuid(r)),
    ),
    Column(
        "partition",
        "block device: of a device file itself, else of the file system; dev if there is none",
        _partition,
    ),
    Column("protoname", "protocol of a socket", _protoname),
    Column("size", "size of the file, bytes", lambda r: r.file and r.file.size, right=True),
    Column(
        "source", "device of a device file; else block device or type of the file system", _source
    ),
    Column(
        "type",
        "REG, DIR, CHR, BLK, FIFO, LINK, SOCK, or UNKN for files of the kernel's own",
        lambda r: None if r.file is None else _TYPES.get(r.file.kind, "UNKN"),
    ),
    Column("uid", "user ID of the process", _uid, right=True),
    Column("user", "name of the user of the process (of a core the number, but for root)", user),
    Column(
        "xmode",
        "rwx: opened or mapped to read, write, execute; D: deleted; L: locked to write, l: to "
        "read; m: watched by an epoll",
        _xmode,
    ),
)
