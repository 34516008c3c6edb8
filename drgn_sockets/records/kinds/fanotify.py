# SPDX-License-Identifier: LGPL-2.1-or-later
"""fanotify: fs/notify/fanotify/fanotify_user.c."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from drgn_sockets.kernel import fsnotify
from drgn_sockets.kernel.fsnotify import FsnotifyMark
from drgn_sockets.kernel.lost import Lost, raise_lost, sift
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.records.kinds.notify import Group, file_handle, read_group, where

# include/linux/fanotify.h: FANOTIFY_INTERNAL_GROUP_FLAGS. A user sets all other flags.
_INTERNAL_FLAGS = 0x80000000

# Pairs of FSNOTIFY_MARK_FLAG_* (include/linux/fsnotify_backend.h) and FAN_MARK_* (include/uapi).
_MARK_FLAGS = ((0x100, 0x40), (0x200, 0x200), (0x400, 0x400))


def _user_flags(mark: FsnotifyMark) -> int:
    """``fanotify_mark_user_flags()``"""
    return sum(user for flag, user in _MARK_FLAGS if mark.flags & flag)


def _init_flags(it: Group) -> int:
    return (it.group.fanotify_flags or 0) & ~_INTERNAL_FLAGS


class Fanotify(Kind):
    """fanotify."""

    name = "fanotify"
    fops = ("fanotify_fops",)
    fields = (
        Field("flags", "FAN_* flags of fanotify_init()", lambda it: f"{_init_flags(it):#x}"),
        Field(
            "event_flags",
            "O_* flags of the files that a fanotify gives with events",
            lambda it: f"0{it.group.fanotify_f_flags or 0:o}",
            shown=False,
        ),
        Field(
            "marks",
            "inodes, mounts and file systems that a fanotify watches",
            lambda it: [where(watched) for watched in it.watched],
        ),
        Field(
            "masks",
            "the same with FAN_* events, those ignored, and FAN_MARK_* flags",
            lambda it: [
                watched
                if isinstance(watched, Lost)
                else {
                    "at": where(watched, raw=True),
                    "mask": f"{watched.mark.mask:#x}",
                    "ignored": f"{watched.mark.ignore_mask:#x}",
                    "flags": f"{_user_flags(watched.mark):#x}",
                }
                for watched in it.watched
            ],
            shown=False,
        ),
        Field("events", "events that wait in a fanotify", attrgetter("group.events"), shown=False),
    )

    def read(self, file: FileRecord) -> Group:
        return read_group(file)

    def fdinfo(self, file: FileRecord, it: Group) -> Iterator[bytes]:
        """``fanotify_show_fdinfo()``"""
        yield b"fanotify flags:%x event-flags:%x\n" % (
            _init_flags(it),
            it.group.fanotify_f_flags or 0,
        )
        lost: list[Lost] = []
        for watched in sift(it.watched, lost.append):
            mark = watched.mark
            masks = b"mflags:%x mask:%x ignored_mask:%x" % (
                _user_flags(mark),
                mark.mask,
                mark.ignore_mask,
            )
            if watched.inode is not None and watched.sb is not None:
                yield b"fanotify ino:%x sdev:%x %b %b\n" % (
                    watched.inode.ino,
                    watched.sb.dev,
                    masks,
                    file_handle(file.prog, watched),
                )
            elif watched.type == fsnotify.VFSMOUNT:
                yield b"fanotify mnt_id:%x %b\n" % (watched.id, masks)
            elif watched.sb is not None:
                yield b"fanotify sdev:%x %b\n" % (watched.sb.dev, masks)
            elif watched.type == fsnotify.MNTNS:
                yield b"fanotify mnt_ns:%d %b\n" % (watched.id, masks)
        raise_lost(lost)
