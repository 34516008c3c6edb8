# SPDX-License-Identifier: LGPL-2.1-or-later
"""Control groups of sockets and processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from drgn import FaultError, Program

from drgn_sockets.kernel.lists import list_for_each_entry
from drgn_sockets.kernel.lost import Lost, as_fault, or_lost, unbroken
from drgn_sockets.kernel.memory import read_bytes, read_string
from drgn_sockets.kernel.sock import Sock, SockCommon
from drgn_sockets.kernel.structs import CString, Int, Struct
from drgn_sockets.program import once_per_second

_MAX_DEPTH = 1024
_MAX_ROOTS = 1024
_NAME_MAX = 255


class _Cgroup(Struct):
    C_TYPE = "struct cgroup"
    kn = Int("kn")


class KernfsNode(Struct):
    """``struct kernfs_node``."""

    C_TYPE = "struct kernfs_node"

    # Linux kernel commit 633488947ef6 ("kernfs: Use RCU to access kernfs_node::parent.") (in
    # v6.15) renamed parent.
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
    #: Whether it has been removed. Its sockets and tasks stay in it, but it has no path any more.
    removed: bool


def sock_cgroup_ptr(prog: Program, sk: Sock) -> int:
    """
    The cgroup (version 2) of a socket.

    :return: ``struct cgroup *`` as an integer, 0 where the kernel keeps none
    """
    if sk.cgroup is None:
        return 0
    # Linux kernel commit 8520e224f547 ("bpf, cgroups: Fix cgroup v2 fallback on v1/v2 mixed
    # mode") (in v5.15, and in stable kernels) made this a plain pointer. Before, bit 0 marks data
    # of cgroup v1, and bit 1 a pointer that holds no reference.
    if sk.cgroup and not sk.cgroup & 3:
        return sk.cgroup
    try:
        return prog["cgrp_dfl_root"].cgrp.address_of_().value_()  # type: ignore[no-any-return]
    except LookupError:
        return 0


def sock_cgroup_path(prog: Program, sk: SockCommon) -> CgroupPath | None:
    """
    Path of the cgroup that a socket is in.

    :return: ``None`` for a timewait or request socket, which is in none
    :raises FaultError: if it cannot be read
    """
    cgroup = sock_cgroup_ptr(prog, sk) if isinstance(sk, Sock) else 0
    return cgroup_path(prog, cgroup) if cgroup else None


def cgroup_id(prog: Program, cgroup: int) -> int:
    """
    Get the ID of a ``struct cgroup *``, as ``cgroup_id()``.

    :raises FaultError: if it cannot be read
    """
    return KernfsNode.layout(prog).read(_Cgroup.layout(prog).read(cgroup).kn).id


@once_per_second
def cgroup_path(prog: Program, cgroup: int) -> CgroupPath:
    """
    Path of a ``struct cgroup *``, as ``cgroup_path()``.

    :raises FaultError: if it cannot be read
    """
    nodes = KernfsNode.layout(prog)
    node = first = nodes.read(_Cgroup.layout(prog).read(cgroup).kn)
    names: list[bytes] = []
    for _ in range(_MAX_DEPTH):
        if not node.parent:
            _check_root(prog, node)
            path = CgroupPath(b"/" + b"/".join(reversed(names)))
            path.id = first.id
            path.removed = first.active < 0
            return path
        names.append(read_string(prog, node.name, _NAME_MAX, "name of struct kernfs_node") or b"")
        node = nodes.read(node.parent)
    raise FaultError("struct kernfs_node cannot be read: they form a loop", cgroup)


def _check_root(prog: Program, node: KernfsNode) -> None:
    """
    Ask whether a node without parent can be the root: that one's name is empty.

    :raises FaultError: if not
    """
    name = or_lost(lambda at: read_string(prog, at, _NAME_MAX), node.name)
    # The name of the root may be missing in a distilled core.
    if not isinstance(name, Lost) and name != b"":
        why = "it has no parent, and is not the root"
        raise as_fault(Lost(KernfsNode.C_TYPE, node.address, why))


class Hierarchy(NamedTuple):
    """A hierarchy of cgroups: the beginning of a line of ``/proc/PID/cgroup``."""

    #: ``struct cgroup_root *``
    root: int
    #: ``struct cgroup *`` at the top of the hierarchy.
    cgrp: int
    id: int
    #: The names of its controllers in version 1, and its own name.
    names: bytes
    #: Whether it is the hierarchy of version 2.
    is_default: bool


class _Root(Struct):
    C_TYPE = "struct cgroup_root"
    id = Int("hierarchy_id")
    subsys_mask = Int("subsys_mask", help="a bit for each controller")
    name = CString("name")
    next = Int("root_list.next")


class _CssSet(Struct):
    C_TYPE = "struct css_set"
    dfl_cgrp = Int("dfl_cgrp", help="struct cgroup *, of version 2")


class _Link(Struct):
    C_TYPE = "struct cgrp_cset_link"
    cgrp = Int("cgrp", help="struct cgroup *")
    next = Int("cgrp_link.next")


class _CgroupOfRoot(Struct):
    C_TYPE = "struct cgroup"
    root = Int("root", help="struct cgroup_root *")


@once_per_second
def hierarchies(prog: Program) -> list[Hierarchy]:
    """
    Get all hierarchies, in the order of ``/proc/PID/cgroup``.

    :raises FaultError: if the list of them cannot be read
    """
    layout, default = _Root.layout(prog), prog["cgrp_dfl_root"].address_of_().value_()
    visible = read_bytes(prog, prog.symbol("cgrp_dfl_visible").address, 1)
    cgrp = prog.type("struct cgroup_root").member("cgrp").offset
    head = prog["cgroup_roots"].address_of_().value_()
    found = []
    for root in unbroken(list_for_each_entry(layout, head, "next", _MAX_ROOTS)):
        is_default = root.address == default
        if not is_default or visible != b"\0":
            names = [] if is_default else _subsystems(prog, root.subsys_mask)
            if root.name:
                names.append(b"name=" + root.name)
            found.append(
                Hierarchy(root.address, root.address + cgrp, root.id, b",".join(names), is_default)
            )
    return found


def _subsystems(prog: Program, mask: int) -> list[bytes]:
    """Names of the controllers of a mask."""
    subsystems = prog["cgroup_subsys"]
    return [subsystems[i].legacy_name.string_() for i in range(mask.bit_length()) if mask >> i & 1]


def task_cgroups(prog: Program, css_set: int) -> Iterator[tuple[Hierarchy, int]]:
    """
    The cgroup of a task in each hierarchy, as ``task_cgroup_from_root()``.

    :param css_set: ``struct css_set *``
    :return: Iterator of hierarchies and ``struct cgroup *``
    :raises FaultError: if it cannot be read
    """
    of_root: dict[int, int] = {}
    is_init = css_set == prog["init_css_set"].address_of_().value_()
    found = _CssSet.layout(prog).read(css_set)
    if not is_init:
        of_root = _cgroups_by_root(prog, found)
    for hierarchy in hierarchies(prog):
        if is_init:
            yield hierarchy, hierarchy.cgrp
        elif hierarchy.is_default:
            yield hierarchy, found.dfl_cgrp
        elif hierarchy.root in of_root:
            yield hierarchy, of_root[hierarchy.root]


def _cgroups_by_root(prog: Program, css_set: _CssSet) -> dict[int, int]:
    layout, roots = _Link.layout(prog), _CgroupOfRoot.layout(prog)
    head = css_set.address + prog.type("struct css_set").member("cgrp_links").offset
    by_root: dict[int, int] = {}
    for link in unbroken(list_for_each_entry(layout, head, "next", _MAX_ROOTS)):
        by_root.setdefault(roots.read(link.cgrp).root, link.cgrp)
    return by_root
