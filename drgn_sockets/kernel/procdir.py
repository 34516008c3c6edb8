# SPDX-License-Identifier: LGPL-2.1-or-later
"""What files procfs has."""

from __future__ import annotations

from drgn import Object

from drgn_sockets.kernel.memory import UNREADABLE, read_bytes
from drgn_sockets.kernel.structs import Int, Struct

_MAX_ENTRIES = 1 << 16


class ProcDirEntry(Struct):
    """``struct proc_dir_entry``."""

    C_TYPE = "struct proc_dir_entry"

    name = Int("name", help="char *")
    namelen = Int("namelen", help="its length, bytes")
    subdir = Int("subdir.rb_node", help="struct rb_node * of one that is in it")
    left = Int("subdir_node.rb_left", help="struct rb_node *")
    right = Int("subdir_node.rb_right", help="struct rb_node *")


def proc_net_names(net: Object) -> set[bytes]:
    """
    Names in ``/proc/net`` of a network namespace, as far as they can be read.

    :param net: ``struct net *``
    """
    prog = net.prog_
    layout = ProcDirEntry.layout(prog)
    offset = layout.cls.places["left"].offset
    # A struct rb_node begins with its colour and parent.
    offset -= prog.type("struct rb_node").member("rb_left").offset
    try:
        directory = layout.try_read(net.proc_net.value_())
    except UNREADABLE:
        directory = None
    found: set[bytes] = set()
    seen: set[int] = set()
    waiting = [directory.subdir] if directory else []
    while waiting and len(seen) < _MAX_ENTRIES:
        node = waiting.pop()
        if not node or node in seen:
            continue
        seen.add(node)
        entry = layout.try_read(node - offset)
        if entry is not None:
            name = read_bytes(prog, entry.name, entry.namelen)
            found.update([name] if name else [])
            waiting += [entry.left, entry.right]
    return found
