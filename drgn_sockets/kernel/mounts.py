# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mounts, and the names that mounts of nsfs give to network namespaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.dcache import Dentry, Namer
from drgn_sockets.kernel.file import Inode
from drgn_sockets.kernel.lists import list_for_each_entry
from drgn_sockets.kernel.lost import Lost, lost_by, or_lost, refuse, sift
from drgn_sockets.kernel.net import net_namespaces
from drgn_sockets.kernel.structs import Int, Struct

_MAX_MOUNTS = 1 << 17
# include/uapi/linux/magic.h
_NSFS_MAGIC = 0x6E736673
# ip-netns(8) keeps names here. The second directory is mostly a symbolic link to the first.
_PLACES = (b"/run/netns/", b"/var/run/netns/")


class _Mount(Struct):
    C_TYPE = "struct mount"

    root = Int("mnt.mnt_root")
    sb = Int("mnt.mnt_sb")
    next_child = Int("mnt_child.next")


class _Magic(Struct):
    C_TYPE = "struct super_block"

    magic = Int("s_magic")


def for_each_mount(prog: Program, root: int) -> Iterator[_Mount | Lost]:
    """
    Iterate over the mounts of a tree.

    :param root: ``struct mount *`` at the top, as an integer
    :return: Iterator of the decoded ``struct mount``. A ``Lost`` stands for one that cannot be
        read, with the mounts below it.
    """
    layout = _Mount.layout(prog)
    children = offsetof(prog.type("struct mount"), "mnt_mounts")
    seen: set[int] = set()
    waiting: list[_Mount | Lost] = [or_lost(layout.read, root)]
    while waiting:
        mount = waiting.pop()
        if isinstance(mount, Lost):
            yield mount
        elif mount.address in seen:
            yield Lost("struct mount", mount.address, "tree of mounts has two ways to it")
        elif len(seen) == _MAX_MOUNTS:
            yield Lost("struct mount", mount.address, f"more than {_MAX_MOUNTS} mounts")
            return
        else:
            seen.add(mount.address)
            yield mount
            head = mount.address + children
            waiting += list_for_each_entry(layout, head, "next_child", _MAX_MOUNTS)


def named_net_namespaces(
    prog: Program, lose: Callable[[Lost], object] = refuse
) -> dict[bytes, int]:
    """
    Network namespaces that ``ip netns`` has given a name, in the mount namespace of process 1.

    :param lose: Called with what cannot be read, which may hide a name.
    :return: Inode numbers by name
    """
    try:
        root = prog["init_pid_ns"].child_reaper.nsproxy.mnt_ns.root.value_()
        namer = Namer(prog)
    except LookupError:
        return {}
    except FaultError as e:
        lose(lost_by(e, "mount namespace of process 1"))
        return {}
    inos = {ns.ino for ns in net_namespaces(prog, lose).values()}
    offset = offsetof(prog.type("struct mount"), "mnt")
    dentries, inodes = Dentry.layout(prog), Inode.layout(prog)
    magics = _Magic.layout(prog)
    is_nsfs: dict[int, bool] = {}
    named: dict[bytes, int] = {}
    for mount in sift(for_each_mount(prog, root), lose):
        try:
            if mount.sb not in is_nsfs:
                is_nsfs[mount.sb] = magics.read(mount.sb).magic == _NSFS_MAGIC
            if not is_nsfs[mount.sb]:
                continue
            inode = inodes.read(dentries.read(mount.root).inode)
            if inode.ino not in inos:
                continue
            path = namer.d_path(mount.address + offset, mount.root)
        except FaultError as e:
            lose(lost_by(e, "struct mount"))
            continue
        for place in _PLACES:
            if path.startswith(place) and b"/" not in path[len(place) :]:
                named[path[len(place) :]] = inode.ino
    return named
