# SPDX-License-Identifier: LGPL-2.1-or-later
"""What inotify and fanotify have in common: fs/notify/fdinfo.c."""

from __future__ import annotations

from typing import NamedTuple

from drgn import Program

from drgn_sockets.kernel import fsnotify
from drgn_sockets.kernel.exportfs import exportfs_encode_fid
from drgn_sockets.kernel.file import major, minor
from drgn_sockets.kernel.fsnotify import FsnotifyGroup, Watched, fsnotify_marks
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.text import escape, plain


class Group(NamedTuple):
    """A ``struct fsnotify_group``, and what it watches."""

    group: FsnotifyGroup
    #: A :class:`Lost` stands for a mark that cannot be read.
    watched: list[Watched | Lost]


def read_group(file: FileRecord) -> Group:
    """
    Read the group of an inotify or fanotify file.

    :raises FaultError: if it cannot be read
    """
    group = FsnotifyGroup.layout(file.prog).read(file.private_data)
    marks = fsnotify_marks(file.prog, file.private_data)
    return Group(group, list(marks))


def file_handle(prog: Program, watched: Watched) -> bytes:
    """The file handle of a watched inode, as ``show_mark_fhandle()`` writes it."""
    assert watched.inode is not None and watched.sb is not None
    handle = exportfs_encode_fid(prog, watched.inode, watched.sb)
    if handle is None:
        return b""
    return b"fhandle-bytes:%x fhandle-type:%x f_handle:%b" % (
        len(handle.raw),
        handle.type,
        handle.raw.hex().encode(),
    )


def where(watched: Watched | Lost, *, raw: bool = False) -> str:
    """
    Describe what a mark watches: an inode, a file system, a mount or a mount namespace.

    :param raw: Write the number of the device instead of its name.
    """
    if isinstance(watched, Lost):
        return plain(watched)
    if watched.type == fsnotify.VFSMOUNT:
        return f"mount:{watched.id}"
    if watched.type == fsnotify.MNTNS:
        return f"mnt:[{watched.id}]"
    if watched.sb is None:
        return "detached"
    dev = watched.sb.dev
    name = f"{major(dev)}:{minor(dev)}" if raw else escape(watched.sb.id)
    return f"sb:{name}" if watched.inode is None else f"{watched.inode.ino}@{name}"
