# SPDX-License-Identifier: LGPL-2.1-or-later
"""File handles: fs/exportfs/expfs.c."""

from __future__ import annotations

import struct
from typing import NamedTuple

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.kernel.structs import CString, Int, Struct
from drgn_sockets.kernel.symbols import has_symbol, symbol_name
from drgn_sockets.program import byte_order

# include/linux/exportfs.h: enum fid_type
_FILEID_INO32_GEN = 1
_FILEID_INO64_GEN = 0x81
_FILEID_KERNFS = 0xFE


class WatchedInode(Struct):
    """Members of ``struct inode`` that file handles and fsnotify marks need."""

    C_TYPE = "struct inode"

    ino = Int("i_ino", help="inode number")
    generation = Int("i_generation", help="tells inodes apart that had the same number")
    sb = Int("i_sb", help="struct super_block *")
    private = Int("i_private", help="void *")


class WatchedSuper(Struct):
    """Members of ``struct super_block`` that file handles and fsnotify marks need."""

    C_TYPE = "struct super_block"

    dev = Int("s_dev", help="device number")
    id = CString("s_id", help="name")
    export_op = Int("s_export_op", help="const struct export_operations *")


class _KernfsNode(Struct):
    C_TYPE = "struct kernfs_node"

    id = Int("id")


class FileHandle(NamedTuple):
    """A ``struct file_handle``."""

    #: ``handle_type``.
    type: int
    #: ``f_handle``.
    raw: bytes


def exportfs_encode_fid(prog: Program, inode: WatchedInode, sb: WatchedSuper) -> FileHandle | None:
    """
    The handle of an inode, as ``exportfs_encode_fid()`` (before v6.6
    ``exportfs_encode_inode_fh()``) encodes it.

    :return: ``None`` if it has none
    :raises FaultError: if something cannot be read, or if the encoding of the file system is not
        known
    """
    order = byte_order(prog)
    function = ""
    if sb.export_op:
        try:
            offset = offsetof(prog.type("struct export_operations"), "encode_fh")
            address = prog.read_word(sb.export_op + offset)
        except UNREADABLE:
            raise FaultError("struct export_operations cannot be read", sb.export_op) from None
        if address:
            function = symbol_name(prog, address) or "its module's encode_fh()"
    if not function:
        # Linux kernel commit e21fc2038c1b ("exportfs: make ->encode_fh() a mandatory method for NFS
        # export") (in v6.7) gave the former default the name generic_encode_ino32_fh(). Commit
        # 64343119d7b8 ("exportfs: support encoding non-decodeable file handles by default") of the
        # same version made a default for file systems without export_operations.
        if not has_symbol(prog, "generic_encode_ino32_fh"):
            function = "generic_encode_ino32_fh"
        elif sb.export_op:
            return None
        else:
            raw = struct.pack(f"{order}QI", inode.ino, inode.generation)
            return FileHandle(_FILEID_INO64_GEN, raw)
    if function == "generic_encode_ino32_fh":
        raw = struct.pack(f"{order}II", inode.ino & 0xFFFFFFFF, inode.generation)
        return FileHandle(_FILEID_INO32_GEN, raw)
    if function == "shmem_encode_fh":
        ino = (inode.ino & 0xFFFFFFFF, inode.ino >> 32)
        return FileHandle(_FILEID_INO32_GEN, struct.pack(f"{order}III", inode.generation, *ino))
    if function == "kernfs_encode_fh":
        node = _KernfsNode.layout(prog).read(inode.private)
        return FileHandle(_FILEID_KERNFS, struct.pack(f"{order}Q", node.id))
    name = sb.id.decode("ascii", "backslashreplace")
    raise FaultError(f"file handles of {name} are not known ({function})", inode.address)
