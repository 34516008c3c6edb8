# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walks of vsock sockets."""

from __future__ import annotations

from collections.abc import Iterator

from drgn import Program, sizeof

from drgn_sockets.kernel.lists import list_for_each
from drgn_sockets.kernel.lost import Lost
from drgn_sockets.kernel.memory import pointer_size, read_sparse_pointers
from drgn_sockets.kernel.module import module_variable
from drgn_sockets.kernel.sock import AF_VSOCK, SockCommon
from drgn_sockets.kernel.structs import Int, Struct

# include/net/af_vsock.h
_VSOCK_HASH_SIZE = 251
#: The tables: name, number of lists, and the member of ``struct vsock_sock`` that links a socket
#: into a list. The last list of the first table has the sockets that are bound to nothing.
_TABLES = (
    ("vsock_bind_table", _VSOCK_HASH_SIZE + 1, "bound"),
    ("vsock_connected_table", _VSOCK_HASH_SIZE, "connected"),
)


class _Links(Struct):
    C_TYPE = "struct vsock_sock"

    bound = Int("bound_table")
    connected = Int("connected_table")


def for_each_vsock(prog: Program) -> Iterator[SockCommon | Lost]:
    """
    Every vsock socket in all network namespaces, as ``vsock_diag_dump()``. Sockets that are bound
    to nothing, and connections that nobody has accepted yet, are included.

    :return: Iterator of the entries. A ``Lost`` stands for one that cannot be read.
    :raises LookupError: if the kernel has none, or their type is not known
    """
    places = _Links.layout(prog).cls.places
    found: dict[int, None] = {}
    for name, count, member in _TABLES:
        table = module_variable(prog, "vsock", name, f"struct list_head [{count}]")
        address = table.address_of_().value_()
        for head in _heads(prog, name, address, count):
            for node in [head] if isinstance(head, Lost) else list_for_each(prog, head):
                if isinstance(node, Lost):
                    yield node
                else:
                    found[node - places[member].offset] = None
    for one in SockCommon.layout(prog).read_many(found):
        if isinstance(one, Lost) or one.family == AF_VSOCK:
            yield one
        else:
            yield Lost(SockCommon.C_TYPE, one.address, "what is there is no vsock socket")


def _heads(prog: Program, name: str, address: int, count: int) -> Iterator[int | Lost]:
    """The lists of a table that are not empty."""
    size = sizeof(prog.type("struct list_head"))
    words = size // pointer_size(prog)
    pointers, missing = read_sparse_pointers(prog, address, count * words)
    if missing:
        yield Lost(name, address, "some of its lists are missing")
    for i, first in enumerate(pointers[::words]):
        if first and first != address + i * size:
            yield address + i * size
