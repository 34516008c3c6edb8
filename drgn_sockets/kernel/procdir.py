# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries of procfs."""

from __future__ import annotations

from drgn import Object

from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.kernel.memory import read_bytes
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
    Names in ``/proc/net`` of a network namespace.

    :param net: ``struct net *``
    :raises FaultError: if one cannot be read
    """
    prog = net.prog_
    layout = ProcDirEntry.layout(prog)
    offset = layout.cls.places["node"].offset
    directory = layout.read(net.proc_net.value_())
    nodes = unbroken(rb_for_each(prog, directory.subdir, _MAX_ENTRIES))
    found: set[bytes] = set()
    for entry in unbroken(layout.read_many(node - offset for node in nodes)):
        name = read_bytes(prog, entry.name, entry.namelen, "name in struct proc_dir_entry")
        found.update([name] if name else [])
    return found
