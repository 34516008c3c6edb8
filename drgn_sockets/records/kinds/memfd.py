# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of memfd_create(2): mm/memfd.c."""

from __future__ import annotations

from typing import NamedTuple

from drgn import offsetof

from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.text import escape

# include/uapi/linux/fcntl.h: F_SEAL_*
_SEALS = ("seal", "shrink", "grow", "write", "future_write", "exec")
_PREFIX, _SUFFIX = b"/memfd:", b" (deleted)"


class InodeSize(Struct):
    """The size of a ``struct inode``."""

    C_TYPE = "struct inode"

    size = Int("i_size", help="bytes")


class _ShmemInode(Struct):
    C_TYPE = "struct shmem_inode_info"

    seals = Int("seals")


class _HugeInode(Struct):
    C_TYPE = "struct hugetlbfs_inode_info"

    seals = Int("seals")


class MemfdRecord(NamedTuple):
    """The name, size and seals of a memfd."""

    name: str
    size: int
    seals: list[str]
    huge: bool


class Memfd(Kind):
    """A file of memfd_create(2)."""

    name = "memfd"
    # All files of tmpfs and hugetlbfs have these operations; is_one() picks the memfds.
    fops = ("shmem_file_operations", "hugetlbfs_file_operations")
    fields = (
        Field("name", "name given to a memfd", lambda it: it.name),
        Field("size", "size of a memfd, bytes", lambda it: it.size),
        Field("seals", "what is forbidden (F_GET_SEALS)", lambda it: ",".join(it.seals) or None),
        Field("huge", "whether it is of huge pages", lambda it: it.huge, False),
    )

    def is_one(self, file: FileRecord) -> bool:
        return (file.name or b"").startswith(_PREFIX)

    def read(self, file: FileRecord) -> MemfdRecord:
        prog = file.prog
        huge = file.fops == "hugetlbfs_file_operations"
        cls = _HugeInode if huge else _ShmemInode
        base = file.file.inode - offsetof(prog.type(cls.C_TYPE), "vfs_inode")
        bits = cls.layout(prog).read(base).seals
        name = (file.name or b"")[len(_PREFIX) :]
        if name.endswith(_SUFFIX):
            name = name[: -len(_SUFFIX)]
        return MemfdRecord(
            escape(name),
            InodeSize.layout(prog).read(file.file.inode).size,
            [seal for i, seal in enumerate(_SEALS) if bits >> i & 1],
            huge,
        )
