# SPDX-License-Identifier: LGPL-2.1-or-later
"""``/proc/net/protocols``: the protocols of the kernel, with their sockets and operations."""

from __future__ import annotations

from collections.abc import Iterator

from drgn_sockets.kernel import proto as p
from drgn_sockets.kernel.lost import unbroken
from drgn_sockets.views.procfs.base import Looker, NetFile

# Headings of the columns of operations, and the members of struct proto.
_OPERATIONS = {
    "cl": "close",
    "co": "connect",
    "di": "disconnect",
    "ac": "accept",
    "io": "ioctl",
    "in": "init",
    "de": "destroy",
    "sh": "shutdown",
    "ss": "setsockopt",
    "gs": "getsockopt",
    "se": "sendmsg",
    "re": "recvmsg",
    "sp": "sendpage",
    "bi": "bind",
    "br": "backlog_rcv",
    "ha": "hash",
    "uh": "unhash",
    "gp": "get_port",
    "em": "enter_memory_pressure",
}
_PRESSURE = {None: "NI", False: "no", True: "yes"}


class ProtocolsFile(NetFile):
    """``proto_seq_show()``"""

    columns = (
        *("protocol", "size", "sockets", "memory", "press", "maxhdr", "slab", "module"),
        *_OPERATIONS,
    )
    key = ("protocol", "size")

    def lines(self, at: Looker, net: int) -> Iterator[bytes]:
        prog = at.prog
        members = p.Proto.layout(prog).cls.places
        operations = {name: member for name, member in _OPERATIONS.items() if member in members}
        yield (
            f"protocol  size sockets  memory press maxhdr  slab module     {' '.join(operations)}\n"
        ).encode("ascii")
        inuse = p.sockets_in_use(at.net_object(net))
        for proto in unbroken(p.for_each_proto(prog)):
            flags = " ".join(f" {'y' if getattr(proto, op) else 'n'}" for op in operations.values())
            pressure = _PRESSURE[p.proto_memory_pressure(prog, proto)]
            counts = (
                f"{proto.obj_size:4} {inuse.of(proto):6}  "
                f"{p.proto_memory_allocated(prog, proto):6}   {pressure:<3} {proto.max_header:6}   "
                f"{'yes' if proto.slab else 'no':<3}  "
            )
            module = p.module_name(prog, proto.owner)
            yield b"%-9b %b%-10b %b\n" % (
                *(proto.name, counts.encode("ascii")),
                *(module, flags.encode("ascii")),
            )
