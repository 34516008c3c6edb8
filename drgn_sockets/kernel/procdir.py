# SPDX-License-Identifier: LGPL-2.1-or-later
"""What files procfs has."""

from __future__ import annotations

from drgn import Object

from drgn_sockets.kernel.lost import sift, untold
from drgn_sockets.kernel.memory import UNREADABLE, read_bytes
from drgn_sockets.kernel.rbtree import rb_for_each
from drgn_sockets.kernel.structs import Bytes, Int, Struct

_MAX_ENTRIES = 1 << 16


class ProcDirEntry(Struct):
    """``struct proc_dir_entry``."""

    C_TYPE = "struct proc_dir_entry"

    name = Int("name", help="char *")
    namelen = Int("namelen", help="its length, bytes")
    subdir = Int("subdir.rb_node", help="struct rb_node * of one that is in it")
    node = Bytes("subdir_node", help="struct rb_node in the tree of its directory")


def proc_net_names(net: Object) -> set[bytes]:
    """
    Names in ``/proc/net`` of a network namespace, as far as they can be read.

    :param net: ``struct net *``
    """
    prog = net.prog_
    layout = ProcDirEntry.layout(prog)
    offset = layout.cls.places["node"].offset
    try:
        directory = layout.try_read(net.proc_net.value_())
    except UNREADABLE:
        directory = None
    if directory is None:
        return set()
    nodes = sift(rb_for_each(prog, directory.subdir, _MAX_ENTRIES), untold)
    found: set[bytes] = set()
    for _, entry in layout.read_many(node - offset for node in nodes):
        name = read_bytes(prog, entry.name, entry.namelen) if entry is not None else None
        found.update([name] if name else [])
    return found
