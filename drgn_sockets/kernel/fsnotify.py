# SPDX-License-Identifier: LGPL-2.1-or-later
"""Groups of inotify and fanotify, and their marks: ``struct fsnotify_group``, ``fsnotify_mark``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Program, TypeKind, offsetof

from drgn_sockets.kernel.exportfs import WatchedInode, WatchedSuper
from drgn_sockets.kernel.lists import list_for_each_entry
from drgn_sockets.kernel.lost import Lost, lost_by
from drgn_sockets.kernel.structs import Int, OptInt, Struct

# include/linux/fsnotify_backend.h: enum fsnotify_obj_type
INODE = 0
VFSMOUNT = 1
SB = 2
MNTNS = 3


class FsnotifyGroup(Struct):
    """``struct fsnotify_group``."""

    C_TYPE = "struct fsnotify_group"

    events = Int("q_len", help="events that wait to be read")
    max_events = Int("max_events", help="how many may wait")
    # Only with CONFIG_FANOTIFY.
    fanotify_flags = OptInt("fanotify_data.flags", help="FAN_* flags of fanotify_init()")
    fanotify_f_flags = OptInt("fanotify_data.f_flags", help="O_* flags of files in events")


class FsnotifyMark(Struct):
    """``struct fsnotify_mark``."""

    C_TYPE = "struct fsnotify_mark"

    node = Int("g_list.next", help="next mark of its group")
    mask = Int("mask", help="FS_* events")
    # Renamed with Linux kernel commit 31a371e419c8 ("fanotify: prepare for setting event flags in
    # ignore mask") (in v6.0, and in stable kernels).
    ignore_mask = Int("ignore_mask", "ignored_mask", help="FS_* events that are ignored")
    flags = Int("flags", help="FSNOTIFY_MARK_FLAG_* flags")
    connector = Int("connector", help="struct fsnotify_mark_connector *")


class _Connector(Struct):
    C_TYPE = "struct fsnotify_mark_connector"

    type = Int("type")
    obj = Int("obj")


class _MntNamespace(Struct):
    C_TYPE = "struct mnt_namespace"

    inum = Int("ns.inum")


class _MountId(Struct):
    C_TYPE = "struct mount"

    mnt_id = Int("mnt_id")


class Watched(NamedTuple):
    """A mark, and the object that it is attached to."""

    mark: FsnotifyMark
    #: ``FSNOTIFY_OBJ_TYPE_*``: :data:`INODE`, :data:`VFSMOUNT`, :data:`SB`, :data:`MNTNS`.
    type: int
    #: The inode, if the object is an inode.
    inode: WatchedInode | None = None
    #: The file system, if the object is an inode or a file system.
    sb: WatchedSuper | None = None
    #: ID of the mount, or inode number of the mount namespace, if the object is one of these.
    id: int = 0


def fsnotify_marks(prog: Program, group: int) -> Iterator[Watched | Lost]:
    """
    Iterate over the marks of a group in the order in which fdinfo has them.

    :param group: ``struct fsnotify_group *``
    :return: Iterator of the marks, each with the object that it is attached to. A ``Lost`` stands
        for a mark that cannot be read, or whose object cannot be read.
    """
    head = group + offsetof(prog.type("struct fsnotify_group"), "marks_list")
    for mark in list_for_each_entry(FsnotifyMark.layout(prog), head, "node"):
        if isinstance(mark, Lost):
            yield mark
            continue
        try:
            yield _watched(prog, mark)
        except FaultError as e:
            yield lost_by(e, "object of a struct fsnotify_mark")


def _watched(prog: Program, mark: FsnotifyMark) -> Watched:
    connector = _Connector.layout(prog).read(mark.connector)
    type_, obj = connector.type, connector.obj
    if type_ == INODE:
        at = _object(prog, obj, "struct inode", "i_fsnotify_marks")
        inode = WatchedInode.layout(prog).read(at)
        return Watched(mark, type_, inode, WatchedSuper.layout(prog).read(inode.sb))
    if type_ == SB:
        at = _object(prog, obj, "struct super_block", "s_fsnotify_marks")
        return Watched(mark, type_, None, WatchedSuper.layout(prog).read(at))
    if type_ == VFSMOUNT:
        # The connector points to a struct vfsmount, which is inside a struct mount.
        at = _object(prog, obj, "struct mount", "mnt_fsnotify_marks", inside="mnt")
        return Watched(mark, type_, id=_MountId.layout(prog).read(at).mnt_id)
    # Kernels without MNTNS use its value for FSNOTIFY_OBJ_TYPE_DETACHED.
    if type_ == MNTNS and prog.type("struct mnt_namespace").has_member("n_fsnotify_marks"):
        return Watched(mark, type_, id=_MntNamespace.layout(prog).read(obj).inum)
    return Watched(mark, -1)


def _object(prog: Program, obj: int, type_: str, member: str, inside: str | None = None) -> int:
    """
    Get the object that a connector is attached to.

    :param member: Member of the object that points to the connector
    :param inside: Member of the object that a ``void *`` connector points to, if not to its start
    """
    # Linux kernel commit 687c217c6aa2 ("fsnotify: pass object pointer and type to fsnotify mark
    # helpers") (in v6.10). Before, obj pointed to the object's own pointer to the connector.
    pointer = prog.type("struct fsnotify_mark_connector").member("obj").type
    whole = pointer.type.kind == TypeKind.VOID
    name = inside if whole else member
    return obj if name is None else obj - int(offsetof(prog.type(type_), name))
