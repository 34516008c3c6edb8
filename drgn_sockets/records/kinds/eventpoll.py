# SPDX-License-Identifier: LGPL-2.1-or-later
"""epoll: fs/eventpoll.c."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from drgn import offsetof

from drgn_sockets.kernel.file import File, Inode, SuperBlock
from drgn_sockets.kernel.lost import Lost, raise_lost, sift
from drgn_sockets.kernel.rbtree import rb_for_each
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind
from drgn_sockets.text import plain

S = TypeVar("S", bound=Struct)

# The column ``detail`` shows at most this many fds; ``eventpoll.tfds`` shows all.
_SHOWN = 32


class Eventpoll_(Struct):
    """``struct eventpoll``."""

    C_TYPE = "struct eventpoll"

    root = Int("rbr.rb_root.rb_node", help="struct rb_node *")


class Epitem(Struct):
    """``struct epitem``."""

    C_TYPE = "struct epitem"

    fd = Int("ffd.fd", help="fd under which it was added")
    file = Int("ffd.file", help="struct file *")
    events = Int("event.events", help="EPOLL* flags")
    data = Int("event.data", help="what epoll_wait() gives back")


class WatchedFile(NamedTuple):
    """The values that fdinfo shows of a file that an epoll waits for."""

    pos: int
    ino: int
    #: Device of its file system, as the kernel's ``dev_t``.
    sdev: int


class Target(NamedTuple):
    """A file that an epoll waits for, and how it was added."""

    item: Epitem
    file: WatchedFile | Lost

    def as_dict(self) -> dict[str, Any]:
        return {
            "tfd": self.item.fd,
            "events": f"{self.item.events:#x}",
            "data": f"{self.item.data:#x}",
            "file": f"{self.item.file:#x}",
            "ino": self.file if isinstance(self.file, Lost) else self.file.ino,
        }


class Targets(NamedTuple):
    """The targets of an epoll file, in the order of fdinfo."""

    targets: list[Target | Lost]

    @property
    def tfds(self) -> list[int | Lost]:
        fds = sorted(t.item.fd for t in self.targets if isinstance(t, Target))
        return [*fds, *(t for t in self.targets if isinstance(t, Lost))]


class Eventpoll(Kind):
    """epoll."""

    name = "eventpoll"
    fops = ("eventpoll_fops",)
    fields = (
        Field("tfds", "fds that an epoll waits for", attrgetter("tfds")),
        Field(
            "targets",
            "the same with events, data, struct file and inode",
            lambda it: [t.as_dict() if isinstance(t, Target) else t for t in it.targets],
            shown=False,
        ),
    )

    def read(self, file: FileRecord) -> Targets:
        prog = file.prog
        root = Eventpoll_.layout(prog).read(file.private_data).root
        offset = offsetof(prog.type("struct epitem"), "rbn")
        lost: list[Lost] = []
        order = [node - offset for node in sift(rb_for_each(prog, root), lost.append)]
        items = _by_address(Epitem.layout(prog).read_many(order))
        good = [item for item in items.values() if isinstance(item, Epitem)]
        files = _by_address(File.layout(prog).read_many(item.file for item in good))
        inodes = _by_address(
            Inode.layout(prog).read_many(f.inode for f in files.values() if isinstance(f, File))
        )
        sbs = _by_address(
            SuperBlock.layout(prog).read_many(i.sb for i in inodes.values() if isinstance(i, Inode))
        )

        def watched(address: int) -> WatchedFile | Lost:
            target = files[address]
            if isinstance(target, Lost):
                return target
            inode = inodes[target.inode]
            if isinstance(inode, Lost):
                return inode
            sb = sbs[inode.sb]
            return sb if isinstance(sb, Lost) else WatchedFile(target.pos, inode.ino, sb.dev)

        targets = [
            item if isinstance(item, Lost) else Target(item, watched(item.file))
            for item in map(items.__getitem__, order)
        ]
        return Targets([*targets, *lost])

    def fdinfo(self, file: FileRecord, it: Targets) -> Iterator[bytes]:
        """``ep_show_fdinfo()``"""
        lost: list[Lost] = []
        for item, watched in sift(map(_whole, it.targets), lost.append):
            yield b"tfd: %8d events: %8x data: %16x  pos:%d ino:%x sdev:%x\n" % (
                item.fd,
                item.events,
                item.data,
                *watched,
            )
        raise_lost(lost)

    def words(self, it: Targets) -> str:
        tfds = it.tfds
        more = f",… ({len(tfds)})" if len(tfds) > _SHOWN else ""
        return f"tfds={plain(tfds[:_SHOWN])}{more}"


def _whole(target: Target | Lost) -> tuple[Epitem, WatchedFile] | Lost:
    if isinstance(target, Lost):
        return target
    return target.file if isinstance(target.file, Lost) else (target.item, target.file)


def _by_address(structs: Iterable[S | Lost]) -> dict[int, S | Lost]:
    return {one.address: one for one in structs}
