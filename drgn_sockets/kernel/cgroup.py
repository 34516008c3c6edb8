# SPDX-License-Identifier: LGPL-2.1-or-later
"""Control groups, as far as sockets and processes belong to them."""

from __future__ import annotations

from drgn import Program

from drgn_sockets.kernel.memory import read_string, remembered
from drgn_sockets.kernel.sock import Sock, SockCommon
from drgn_sockets.kernel.structs import Int, Struct

_MAX_DEPTH = 1024
_NAME_MAX = 255


class _Cgroup(Struct):
    C_TYPE = "struct cgroup"
    kn = Int("kn")


class KernfsNode(Struct):
    """``struct kernfs_node``."""

    C_TYPE = "struct kernfs_node"

    # Linux kernel commit 633488947ef6 ("kernfs: Use RCU to access kernfs_node::parent.") (in
    # v6.15) renamed it.
    parent = Int("__parent", "parent", help="struct kernfs_node *; NULL for a root")
    name = Int("name", help="const char *")
    # Linux kernel commit 67c0496e87d1 ("kernfs: convert kernfs_node->id from union
    # kernfs_node_id to u64") (in v5.5)
    id = Int("id", "id.id", help="inode number; of a cgroup, its ID")
    active = Int("active.counter", help="negative once it is removed")


class CgroupPath(bytes):
    """Path of a cgroup from the root of its hierarchy."""

    #: ``cgroup_id()``.
    id: int
    #: Whether it has been removed: it goes on for who is still in it, and has a path no more.
    removed: bool


def sock_cgroup_ptr(prog: Program, sk: Sock) -> int:
    """
    The cgroup (version 2) of a socket.

    :return: ``struct cgroup *`` as an integer, 0 where the kernel keeps none
    """
    if sk.cgroup is None:
        return 0
    # Linux kernel commit 8520e224f547 ("bpf, cgroups: Fix cgroup v2 fallback on v1/v2 mixed
    # mode") (in v5.15, and in stable kernels) made a pointer of what could be data, bit 0, or
    # not counted, bit 1.
    if sk.cgroup and not sk.cgroup & 3:
        return sk.cgroup
    try:
        return prog["cgrp_dfl_root"].cgrp.address_of_().value_()  # type: ignore[no-any-return]
    except LookupError:
        return 0


def sock_cgroup_path(prog: Program, sk: SockCommon) -> CgroupPath | None:
    """
    Path of the cgroup that a socket is in.

    :return: ``None`` for a timewait or request socket, which is in none, and for one that cannot
        be read
    """
    cgroup = sock_cgroup_ptr(prog, sk) if isinstance(sk, Sock) else 0
    if not cgroup:
        return None
    known = remembered(prog, "cgroups")
    if cgroup not in known:
        known[cgroup] = cgroup_path(prog, cgroup)
    return known[cgroup]  # type: ignore[no-any-return]


def cgroup_id(prog: Program, cgroup: int) -> int:
    """
    ID of a ``struct cgroup *``, as ``cgroup_id()``.

    :raises FaultError: if it cannot be read
    """
    return KernfsNode.layout(prog).read(_Cgroup.layout(prog).read(cgroup).kn).id


def cgroup_path(prog: Program, cgroup: int) -> CgroupPath | None:
    """
    Path of a ``struct cgroup *``, as ``cgroup_path()``.

    :return: ``None`` if it cannot be read
    """
    nodes = KernfsNode.layout(prog)
    found = _Cgroup.layout(prog).try_read(cgroup)
    node = first = nodes.try_read(found.kn) if found is not None else None
    if node is None or first is None:
        return None
    names: list[bytes] = []
    for _ in range(_MAX_DEPTH):
        if not node.parent:
            path = CgroupPath(b"/" + b"/".join(reversed(names)))
            path.id = first.id
            path.removed = first.active < 0
            return path
        name = read_string(prog, node.name, _NAME_MAX)
        node = nodes.try_read(node.parent)
        if name is None or node is None:
            return None
        names.append(name)
    return None
