# SPDX-License-Identifier: LGPL-2.1-or-later
"""inotify: fs/notify/inotify/inotify_user.c."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from drgn import offsetof

from drgn_sockets.kernel import fsnotify
from drgn_sockets.kernel.fsnotify import FsnotifyMark, Watched
from drgn_sockets.kernel.lost import Lost, or_lost, raise_lost, sift
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.records.kinds.notify import Group, file_handle, read_group, where

# include/uapi/linux/inotify.h
_IN_ALL_EVENTS = 0xFFF
_IN_EXCL_UNLINK = 1 << 26
_IN_ONESHOT = 1 << 31
# include/linux/fsnotify_backend.h
_FLAG_EXCL_UNLINK = 0x10
_FLAG_IN_ONESHOT = 0x20


class _InotifyMark(Struct):
    C_TYPE = "struct inotify_inode_mark"

    wd = Int("wd")


class Watch(NamedTuple):
    """A watch descriptor, and the inode that it watches."""

    wd: int
    watched: Watched


class Inotify_(NamedTuple):
    """The watches of an inotify file."""

    group: Group
    #: A :class:`Lost` stands for a watch that cannot be read.
    watches: list[Watch | Lost]


def _user_mask(mark: FsnotifyMark) -> int:
    """``inotify_mark_user_mask()``"""
    mask = mark.mask & _IN_ALL_EVENTS
    if mark.flags & _FLAG_EXCL_UNLINK:
        mask |= _IN_EXCL_UNLINK
    if mark.flags & _FLAG_IN_ONESHOT:
        mask |= _IN_ONESHOT
    return mask


def _where(watch: Watch | Lost, *, raw: bool = False) -> str:
    return where(watch if isinstance(watch, Lost) else watch.watched, raw=raw)


class Inotify(Kind):
    """inotify."""

    name = "inotify"
    fops = ("inotify_fops",)
    fields = (
        Field(
            "inodes",
            "inodes that an inotify watches, with their file systems",
            lambda it: [_where(watch) for watch in it.watches],
        ),
        Field(
            "inodes.raw",
            "the same with devices, major:minor",
            lambda it: [_where(watch, raw=True) for watch in it.watches],
            shown=False,
        ),
        Field(
            "watches",
            "the same with watch descriptors and IN_* events",
            lambda it: [
                watch
                if isinstance(watch, Lost)
                else {
                    "wd": watch.wd,
                    "inode": where(watch.watched),
                    "mask": f"{_user_mask(watch.watched.mark):#x}",
                }
                for watch in it.watches
            ],
            shown=False,
        ),
        Field(
            "events",
            "events that wait in an inotify",
            attrgetter("group.group.events"),
            shown=False,
        ),
    )

    def read(self, file: FileRecord) -> Inotify_:
        group = read_group(file)
        layout = _InotifyMark.layout(file.prog)
        offset = offsetof(file.prog.type("struct inotify_inode_mark"), "fsn_mark")

        def watch(watched: Watched) -> Watch:
            return Watch(layout.read(watched.mark.address - offset).wd, watched)

        watches = [
            watched if isinstance(watched, Lost) else or_lost(watch, watched)
            for watched in group.watched
            if isinstance(watched, Lost) or watched.type == fsnotify.INODE
        ]
        return Inotify_(group, watches)

    def fdinfo(self, file: FileRecord, it: Inotify_) -> Iterator[bytes]:
        """``inotify_fdinfo()``"""
        lost: list[Lost] = []
        for wd, watched in sift(it.watches, lost.append):
            assert watched.inode is not None and watched.sb is not None
            yield b"inotify wd:%x ino:%x sdev:%x mask:%x ignored_mask:0 %b\n" % (
                wd & 0xFFFFFFFF,
                watched.inode.ino,
                watched.sb.dev,
                _user_mask(watched.mark),
                file_handle(file.prog, watched),
            )
        raise_lost(lost)
