# SPDX-License-Identifier: LGPL-2.1-or-later
"""epoll: fs/eventpoll.c."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from drgn import FaultError, offsetof

from drgn_sockets.kernel.file import File, Inode, SuperBlock
from drgn_sockets.kernel.rbtree import rb_in_order
from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.views.kinds.base import Field, Kind

# Column ``detail`` has so many; ``eventpoll.tfds`` has all.
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


class Target(NamedTuple):
    """A file that is waited for."""

    item: Epitem
    pos: int
    ino: int
    #: Device of its file system, as the kernel's ``dev_t``.
    sdev: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "tfd": self.item.fd,
            "events": f"{self.item.events:#x}",
            "data": f"{self.item.data:#x}",
            "file": f"{self.item.file:#x}",
            "ino": self.ino,
        }


class Targets(NamedTuple):
    """Those of an epoll file, in the order in which fdinfo has them."""

    targets: list[Target]

    @property
    def tfds(self) -> list[int]:
        return sorted(target.item.fd for target in self.targets)


class Eventpoll(Kind):
    """epoll."""

    name = "eventpoll"
    fops = ("eventpoll_fops",)
    fields = (
        Field("tfds", "fds that an epoll waits for", attrgetter("tfds")),
        Field(
            "targets",
            "the same with events, data, struct file and inode",
            lambda it: [target.as_dict() for target in it.targets],
            shown=False,
        ),
    )

    def read(self, file: FileRecord) -> Targets:
        prog = file.prog
        root = Eventpoll_.layout(prog).read(file.private_data).root
        offset = offsetof(prog.type("struct epitem"), "rbn")
        order = [node - offset for node in rb_in_order(prog, root)]
        found = dict(Epitem.layout(prog).read_many(order))
        items = [_there(found[address], "epitem", address) for address in order]
        files = dict(File.layout(prog).read_many(item.file for item in items))
        inodes = dict(Inode.layout(prog).read_many(f.inode for f in files.values() if f))
        sbs = dict(SuperBlock.layout(prog).read_many(i.sb for i in inodes.values() if i))
        targets = []
        for item in items:
            target = _there(files[item.file], "file", item.file)
            inode = _there(inodes[target.inode], "inode", target.inode)
            sb = _there(sbs[inode.sb], "super_block", inode.sb)
            targets.append(Target(item, target.pos, inode.ino, sb.dev))
        return Targets(targets)

    def fdinfo(self, file: FileRecord, it: Targets) -> Iterator[bytes]:
        """``ep_show_fdinfo()``"""
        for target in it.targets:
            item = target.item
            yield b"tfd: %8d events: %8x data: %16x  pos:%d ino:%x sdev:%x\n" % (
                item.fd,
                item.events,
                item.data,
                target.pos,
                target.ino,
                target.sdev,
            )

    def words(self, it: Targets) -> str:
        tfds = it.tfds
        more = f",… ({len(tfds)})" if len(tfds) > _SHOWN else ""
        return f"tfds={','.join(map(str, tfds[:_SHOWN]))}{more}"


def _there(struct: Any, name: str, address: int) -> Any:
    if struct is None:
        raise FaultError(f"struct {name} cannot be read", address)
    return struct
