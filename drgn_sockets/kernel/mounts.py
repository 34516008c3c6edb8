# SPDX-License-Identifier: LGPL-2.1-or-later
"""The mount table, as far as it gives names to network namespaces."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import FaultError, Program, offsetof

from drgn_sockets.kernel.dcache import Dentry, Namer
from drgn_sockets.kernel.file import Inode
from drgn_sockets.kernel.memory import UNREADABLE
from drgn_sockets.kernel.net import net_namespaces
from drgn_sockets.kernel.structs import Int, Struct

_MAX_MOUNTS = 1 << 17
# include/uapi/linux/magic.h
_NSFS_MAGIC = 0x6E736673
# Where ip-netns(8) keeps names; the second is a symbolic link to the first, mostly.
_PLACES = (b"/run/netns/", b"/var/run/netns/")


class _Mount(Struct):
    C_TYPE = "struct mount"

    root = Int("mnt.mnt_root")
    sb = Int("mnt.mnt_sb")
    first_child = Int("mnt_mounts.next")
    next_child = Int("mnt_child.next")


class _Magic(Struct):
    C_TYPE = "struct super_block"

    magic = Int("s_magic")


def for_each_mount(prog: Program, root: int) -> Iterator[_Mount]:
    """
    Each mount of a tree.

    :param root: ``struct mount *`` at the top, as an integer
    :return: Iterator over the decoded ``struct mount``; what cannot be read, and what is below
        or behind it, is missing
    """
    layout = _Mount.layout(prog)
    mount = prog.type("struct mount")
    mounts, child = offsetof(mount, "mnt_mounts"), offsetof(mount, "mnt_child")
    seen: set[int] = set()
    waiting = [root]
    while waiting and len(seen) < _MAX_MOUNTS:
        address = waiting.pop()
        found = layout.try_read(address) if address not in seen else None
        if found is None:
            continue
        seen.add(address)
        yield found
        node, head = found.first_child, address + mounts
        siblings: set[int] = set()
        while node and node != head and node not in siblings and len(siblings) < _MAX_MOUNTS:
            siblings.add(node)
            waiting.append(node - child)
            sibling = layout.try_read(node - child)
            node = sibling.next_child if sibling is not None else 0


def named_net_namespaces(prog: Program) -> dict[bytes, int]:
    """
    Network namespaces that ``ip netns`` has given a name, in the mount namespace of process 1.

    :return: Inode numbers by name
    """
    try:
        root = prog["init_pid_ns"].child_reaper.nsproxy.mnt_ns.root.value_()
        namer = Namer(prog)
    except (LookupError, *UNREADABLE):
        return {}
    inos = {ns.ino for ns in net_namespaces(prog).values()}
    offset = offsetof(prog.type("struct mount"), "mnt")
    dentries, inodes = Dentry.layout(prog), Inode.layout(prog)
    magics = _Magic.layout(prog)
    is_nsfs: dict[int, bool] = {}
    named: dict[bytes, int] = {}
    for mount in for_each_mount(prog, root):
        if mount.sb not in is_nsfs:
            sb = magics.try_read(mount.sb)
            is_nsfs[mount.sb] = sb is not None and sb.magic == _NSFS_MAGIC
        dentry = dentries.try_read(mount.root) if is_nsfs[mount.sb] else None
        inode = inodes.try_read(dentry.inode) if dentry is not None else None
        if inode is None or inode.ino not in inos:
            continue
        try:
            path = namer.d_path(mount.address + offset, mount.root)
        except FaultError:
            continue
        for place in _PLACES:
            if path.startswith(place) and b"/" not in path[len(place) :]:
                named[path[len(place) :]] = inode.ino
    return named
